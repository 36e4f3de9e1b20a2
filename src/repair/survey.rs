//! Finds out which packs are damaged, and which chunks are lost by that.
//!
//! What must stay true: a pack is damaged only if two readings say so; a chunk is lost only if it can be had from none of
//! its places. Nothing is written here.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use crate::chunks::reader::ChunkReader;
use crate::chunks::verify::{PackFault, PackVerifier};
use crate::error::{Error, Fault, Result};
use crate::format::BlobKind;
use crate::format::segment::{IndexedPack, Segment};
use crate::hears::Hears;
use crate::id::{ChunkId, PackId};
use crate::monitor::Counter;
use crate::parallel;
use crate::repository::session::{StoredPack, StoredPacks};
use crate::repository::snapshots::Snapshot;
use crate::repository::{Repository, layout, session};

/// Packs that are looked at before the next segment is read.
const BATCH_PACKS: usize = 256;

/// A chunk and the kind of pack that it is in.
pub type Chunk = (BlobKind, ChunkId);

/// A pack that is not what the index says.
#[derive(Debug, Clone)]
pub struct DamagedPack {
    /// What it should hold.
    pub kind: BlobKind,
    /// What the index says of it.
    pub pack: IndexedPack,
    /// What is wrong with it.
    pub reason: String,
    /// Those of its chunks that cannot be read from it.
    pub unreadable: HashSet<ChunkId>,
}

impl DamagedPack {
    /// Returns the pack's key.
    pub fn key(&self) -> String {
        layout::pack(self.kind, &self.pack.id)
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Survey {
    /// Packs that were looked at.
    pub packs: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Those that are damaged, by their ids.
    pub damaged: Vec<DamagedPack>,
    /// Chunks of damaged packs that can be had from nowhere.
    pub lost: BTreeSet<Chunk>,
}

/// Looks at all packs that segments name, or at some of them; each is read whole.
///
/// Fails with [`Error::Refused`] while a segment is damaged, and with [`Error::NotFound`] if no segment names a pack
/// that was asked for. Needs a key that reads content.
pub fn take(repository: &Arc<Repository>, only: &[PackId], hears: &Hears) -> Result<Survey> {
    repository.access().data_secret()?;
    let reader = ChunkReader::new(Arc::clone(repository));
    let look = Look { repository, verifier: PackVerifier::new(&reader), hears };
    hears.monitor.phase("read packs", None, None);
    let mut survey = Survey::default();
    let mut seen = HashSet::new();
    for kind in BlobKind::ALL {
        look.half(kind, only, &mut seen, &mut survey)?;
    }
    if let Some(pack) = only.iter().find(|pack| !seen.contains(*pack)) {
        return Err(Error::NotFound(format!("No index segment names the pack {pack}")));
    }
    survey.damaged.sort_by_key(|damaged| damaged.pack.id);
    repository.index().expire();
    survey.lost = look.lost_of(&survey.damaged)?;
    Ok(survey)
}

/// Returns those of some chunks that can be had from none of their places now.
pub fn still_lost(repository: &Arc<Repository>, chunks: &BTreeSet<Chunk>) -> Result<BTreeSet<Chunk>> {
    let reader = ChunkReader::new(Arc::clone(repository));
    let mut lost = BTreeSet::new();
    for (kind, id) in chunks {
        match reader.read(*kind, id, &String::new) {
            Ok(_) => {}
            Err(error) if error.is_damage() => drop(lost.insert((*kind, *id))),
            Err(error) => return Err(error),
        }
    }
    Ok(lost)
}

/// Returns the listed snapshots. One whose record cannot be read is named: nothing is known of it.
pub fn snapshots(repository: &Repository, hears: &Hears) -> Result<Vec<Snapshot>> {
    let list = repository.list_snapshots()?;
    list.note_to(hears.monitor.as_ref());
    Ok(list.snapshots)
}

/// What is wrong with a pack.
struct PackDamage {
    reason: String,
    /// Those of its chunks that cannot be read from it.
    unreadable: HashSet<ChunkId>,
}

impl PackDamage {
    fn of_all(pack: &IndexedPack, reason: String) -> Self {
        Self { reason, unreadable: pack.chunks.iter().map(|chunk| chunk.id).collect() }
    }
}

struct Look<'a> {
    repository: &'a Arc<Repository>,
    verifier: PackVerifier<'a>,
    hears: &'a Hears,
}

impl Look<'_> {
    /// Segments are listed before packs: a backup that runs beside this never looks like damage.
    fn half(&self, kind: BlobKind, only: &[PackId], seen: &mut HashSet<PackId>, survey: &mut Survey) -> Result<()> {
        let segments = self.repository.backend().list(&layout::segments(kind))?;
        let stored = session::stored_packs(self.repository, kind)?;
        let mut batch = Vec::new();
        for listed in &segments {
            self.hears.check()?;
            let Some(segment) = self.segment(kind, &listed.key)? else { continue };
            let wanted = |pack: &IndexedPack| only.is_empty() || only.contains(&pack.id);
            batch.extend(segment.packs.into_iter().filter(|pack| wanted(pack) && seen.insert(pack.id)));
            if batch.len() >= BATCH_PACKS {
                self.batch(kind, std::mem::take(&mut batch), &stored, survey)?;
            }
        }
        self.batch(kind, batch, &stored, survey)
    }

    /// Returns nothing for a segment that was replaced since it was listed.
    fn segment(&self, kind: BlobKind, key: &str) -> Result<Option<Segment>> {
        let Some(id) = layout::segment_of(kind, key) else { return Ok(None) };
        match self.repository.read_segment(kind, &id) {
            Ok((segment, _)) => Ok(Some(segment)),
            Err(error) if error.fault() == Some(Fault::NotFound) => Ok(None),
            Err(error) if error.is_damage() => {
                Err(Error::Refused(format!("The index has to be repaired first. {error}")))
            }
            Err(error) => Err(error),
        }
    }

    fn batch(&self, kind: BlobKind, packs: Vec<IndexedPack>, stored: &StoredPacks, survey: &mut Survey) -> Result<()> {
        let threads = self.repository.thread_plan().fetching;
        let examined = parallel::map(&packs, threads, |pack| self.examine(kind, pack, stored));
        for (pack, fault) in packs.into_iter().zip(examined) {
            survey.packs += 1;
            survey.bytes = survey.bytes.saturating_add(stored.get(&pack.id).map_or(0, |stored| stored.len));
            if let Some(PackDamage { reason, unreadable }) = fault? {
                let damaged = DamagedPack { kind, pack, reason, unreadable };
                self.hears.monitor.problem(&damaged.key(), &damaged.reason);
                survey.damaged.push(damaged);
            }
        }
        Ok(())
    }

    /// Returns what is wrong with a pack, and which of its chunks cannot be read from it.
    fn examine(&self, kind: BlobKind, pack: &IndexedPack, stored: &StoredPacks) -> Result<Option<PackDamage>> {
        self.hears.check()?;
        let Some(StoredPack { len: size, .. }) = stored.get(&pack.id) else {
            return Ok(Some(PackDamage::of_all(pack, "it is missing".to_owned())));
        };
        self.hears.monitor.count(Counter::Entries, 1);
        self.hears.monitor.count(Counter::Bytes, *size);
        // Twice: what is wrong with one reading only is no reason to mark a pack.
        match self.look(kind, pack, *size)? {
            None => Ok(None),
            Some(_) => self.look(kind, pack, *size),
        }
    }

    fn look(&self, kind: BlobKind, pack: &IndexedPack, size: u64) -> Result<Option<PackDamage>> {
        let findings = match self.verifier.read(kind, pack, size) {
            Ok((_, findings)) => findings,
            Err(error) if error.is_damage() => return Ok(Some(PackDamage::of_all(pack, error.to_string()))),
            Err(error) => return Err(error),
        };
        // Where only the index and the pack's directory disagree, the index is to be repaired, not the pack.
        let bytes_are_wrong = findings.fault.as_ref().is_some_and(PackFault::is_of_bytes);
        match findings.reason() {
            Some(reason) if bytes_are_wrong || !findings.unreadable.is_empty() => {
                Ok(Some(PackDamage { reason, unreadable: findings.unreadable }))
            }
            _ => Ok(None),
        }
    }

    fn lost_of(&self, damaged: &[DamagedPack]) -> Result<BTreeSet<Chunk>> {
        let unreadable = damaged.iter().flat_map(|pack| pack.unreadable.iter().map(|id| (pack.kind, *id)));
        still_lost(self.repository, &unreadable.collect())
    }
}
