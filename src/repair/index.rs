//! Makes the index again from packs alone.
//!
//! What must stay true:
//! - A segment is removed only after every pack that it named and that is still there is named by another one. So a
//!   repair can be stopped anywhere, and backups and restores beside it find every chunk at every moment.
//! - A segment that is sound, whose packs are all there and whose signer's key was not removed is kept as it is.
//! - Packs are named whether or not a tombstone names them: an older snapshot may need them until the sweep. If they go
//!   meanwhile, sessions and prunes that find them named look which packs are there.
//! - A bad answer can be the fault of the way: nothing is taken for damaged that was asked for once only.
//!
//! The meta secret is enough: writers can repair too, if the backend lets them remove segments. But they vouch for their own
//! packs only, so a maintainer's repair is worth more to other writers.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use crate::backend::Listed;
use crate::chunks::pack_reader;
use crate::error::{Error, Fault, Result};
use crate::format::BlobKind;
use crate::format::key_slot::Certificate;
use crate::format::segment::{IndexedPack, SEGMENT_CHUNKS_MAX, SEGMENT_PACKS_MAX, Segment};
use crate::hears::Hears;
use crate::id::{PackId, SegmentId, SlotId};
use crate::monitor::{Counter, Monitor};
use crate::parallel;
use crate::repository::{Repository, layout, session};

/// Chunks of a new segment, but for one pack that has more.
const SEGMENT_CHUNKS: usize = SEGMENT_CHUNKS_MAX / 4;
/// Packs whose directories are read before they are looked at; bounds memory to this many directories.
const PACK_BATCH: usize = 64;
/// Faults that a report names one by one.
const FAULTS_MAX: usize = 1000;

/// How to repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepairIndexOptions {
    /// Only tell what would be done.
    pub dry_run: bool,
}

/// Something that could not be repaired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unrepaired {
    /// The object's key.
    pub object: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What a repair did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RepairIndexReport {
    /// Segments that are right as they are.
    pub segments_kept: u64,
    /// Segments removed, because they are damaged or name packs that are gone.
    pub segments_removed: u64,
    /// Segments written in their place, or for packs that none named.
    pub segments_written: u64,
    /// Packs whose chunks are known again, because their directories were read.
    pub packs_added: u64,
    /// Packs that cannot be made known and packs that are known no more, at most a thousand. What needs them cannot be
    /// restored from them.
    pub unrepaired: Vec<Unrepaired>,
    /// How many there are.
    pub unrepaired_count: u64,
}

impl RepairIndexReport {
    /// Returns whether the index is as it was.
    pub fn is_unchanged(&self) -> bool {
        self.segments_removed == 0 && self.segments_written == 0
    }

    fn give_up(&mut self, monitor: &dyn Monitor, object: &str, reason: &str) {
        monitor.problem(object, reason);
        self.unrepaired_count += 1;
        if self.unrepaired.len() < FAULTS_MAX {
            self.unrepaired.push(Unrepaired { object: object.to_owned(), reason: reason.to_owned() });
        }
    }
}

/// Repairs both halves of the index.
pub fn run(repository: &Repository, options: &RepairIndexOptions, hears: &Hears) -> Result<RepairIndexReport> {
    if !repository.access().certificate.role.writes_snapshots() {
        return Err(repository.access().refusal("sign index segments"));
    }
    let mut report = RepairIndexReport::default();
    for kind in BlobKind::ALL {
        hears.monitor.phase("repair index", None, None);
        let mut repair = Repair::begin(repository, kind, options.dry_run, &mut report, hears)?;
        let replaced = repair.sort_segments()?;
        repair.rewrite(&replaced.partial)?;
        repair.add_packs()?;
        repair.finish(&replaced)?;
        if !options.dry_run {
            repository.index().refresh(kind)?;
        }
    }
    repository.index().take_damage();
    Ok(report)
}

/// Segments that are to go once what is good in them stands elsewhere.
#[derive(Default)]
struct Replaced {
    /// Those that cannot be read.
    damaged: Vec<SegmentId>,
    /// Those that name packs that are gone or of another length.
    partial: Vec<SegmentId>,
}

/// One half of the index under repair.
struct Repair<'a> {
    repository: &'a Repository,
    kind: BlobKind,
    dry_run: bool,
    hears: &'a Hears,
    report: &'a mut RepairIndexReport,
    segments: Vec<Listed>,
    /// Packs that are there, with their lengths.
    stored: HashMap<PackId, u64>,
    /// Key slots that were removed.
    revoked: HashSet<SlotId>,
    /// Packs that a sound segment names, or one that is about to be written.
    covered: HashSet<PackId>,
    /// Packs of the next segment.
    pending: Vec<IndexedPack>,
}

impl<'a> Repair<'a> {
    /// Lists what there is: segments before packs, so that no segment is taken for one that names missing packs.
    fn begin(
        repository: &'a Repository,
        kind: BlobKind,
        dry_run: bool,
        report: &'a mut RepairIndexReport,
        hears: &'a Hears,
    ) -> Result<Self> {
        let backend = repository.backend();
        let segments = backend.list(&layout::segments(kind))?;
        let stored = session::stored_packs(repository, kind)?.into_iter().map(|(id, pack)| (id, pack.len)).collect();
        let revoked = repository.list_notes()?.revoked.into_keys().collect();
        let (covered, pending) = (HashSet::new(), Vec::new());
        Ok(Self { repository, kind, dry_run, hears, report, segments, stored, revoked, covered, pending })
    }

    /// Tells segments that stay from those that go.
    fn sort_segments(&mut self) -> Result<Replaced> {
        let mut replaced = Replaced::default();
        for listed in std::mem::take(&mut self.segments) {
            self.hears.check()?;
            let Some(id) = layout::segment_of(self.kind, &listed.key) else { continue };
            match self.read_segment(&id) {
                // What a stolen key signed may be lies. Packs tell themselves what they hold.
                Ok((_, signer)) if self.revoked.contains(&signer.slot) => {
                    self.hears
                        .monitor
                        .note(&format!("{} is replaced: the key {} was removed", listed.key, signer.label));
                    replaced.damaged.push(id);
                }
                Ok((segment, _)) if segment.packs.iter().all(|pack| self.is_there(pack)) => {
                    self.report.segments_kept += 1;
                    self.covered.extend(segment.packs.iter().map(|pack| pack.id));
                }
                Ok(_) => replaced.partial.push(id),
                Err(error) if error.fault() == Some(Fault::NotFound) => {}
                Err(error) if error.is_damage() => {
                    self.hears.monitor.note(&format!("It is replaced: {error}"));
                    replaced.damaged.push(id);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(replaced)
    }

    fn read_segment(&self, id: &SegmentId) -> Result<(Segment, Certificate)> {
        asked_twice(|| self.repository.read_segment(self.kind, id))
    }

    fn is_there(&self, pack: &IndexedPack) -> bool {
        self.stored.get(&pack.id) == Some(&pack.len)
    }

    /// Takes over what is good in segments of which not all is.
    fn rewrite(&mut self, partial: &[SegmentId]) -> Result<()> {
        for id in partial {
            self.hears.check()?;
            let segment = match self.read_segment(id) {
                // Another repair was faster. What it named is found in the packs themselves.
                Err(error) if error.fault() == Some(Fault::NotFound) => continue,
                segment => segment?.0,
            };
            for pack in segment.packs {
                if !self.covered.contains(&pack.id) {
                    self.take_over(pack)?;
                }
            }
        }
        Ok(())
    }

    /// Names a pack again if it is there; else says that it is named no more. Its directory is not tried: it stands at the
    /// end of a pack, which is not where it was.
    fn take_over(&mut self, pack: IndexedPack) -> Result<()> {
        let reason = match self.stored.get(&pack.id) {
            Some(len) if *len == pack.len => return self.name(pack),
            Some(len) => format!("it has {len} bytes, not {}", pack.len),
            None => "it is missing".to_owned(),
        };
        let reason = format!("{reason}; the index names it no more");
        self.report.give_up(self.hears.monitor.as_ref(), &layout::pack(self.kind, &pack.id), &reason);
        self.covered.insert(pack.id);
        Ok(())
    }

    /// Reads the directories of packs that no segment names.
    fn add_packs(&mut self) -> Result<()> {
        let mut unnamed: Vec<(PackId, u64)> =
            self.stored.iter().map(|(id, len)| (*id, *len)).filter(|(id, _)| !self.covered.contains(id)).collect();
        unnamed.sort();
        for batch in unnamed.chunks(PACK_BATCH) {
            let (repository, kind, hears) = (self.repository, self.kind, self.hears);
            let read = parallel::map(batch, repository.backend().concurrency(), |(id, len)| {
                hears.check()?;
                asked_twice(|| pack_reader::read_directory(repository, kind, id, *len))
            });
            for ((id, _), directory) in batch.iter().zip(read) {
                self.hears.monitor.count(Counter::Entries, 1);
                self.add_pack(id, directory)?;
            }
        }
        Ok(())
    }

    fn add_pack(&mut self, id: &PackId, directory: Result<IndexedPack>) -> Result<()> {
        match directory {
            Ok(pack) => {
                self.report.packs_added += 1;
                self.name(pack)
            }
            Err(error) if error.is_damage() => {
                let reason = match error {
                    Error::Damaged { reason, .. } => format!("its directory cannot be read: {reason}"),
                    other => format!("its directory cannot be read: {other}"),
                };
                self.report.give_up(self.hears.monitor.as_ref(), &layout::pack(self.kind, id), &reason);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Puts a pack into the next segment, and writes that when it is full.
    fn name(&mut self, pack: IndexedPack) -> Result<()> {
        let chunks: usize = self.pending.iter().map(|pack| pack.chunks.len()).sum();
        if self.pending.len() >= SEGMENT_PACKS_MAX || chunks + pack.chunks.len() > SEGMENT_CHUNKS {
            self.write()?;
        }
        self.covered.insert(pack.id);
        self.pending.push(pack);
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        let packs = std::mem::take(&mut self.pending);
        if packs.is_empty() {
            return Ok(());
        }
        self.report.segments_written += 1;
        if self.dry_run {
            return Ok(());
        }
        let segment = Segment { kind: self.kind, packs };
        let (id, bytes) = self.repository.seal_segment(&segment);
        self.repository.backend().create(&layout::segment(self.kind, &id), bytes)
    }

    /// Writes what is left, then removes what stands elsewhere now.
    fn finish(mut self, replaced: &Replaced) -> Result<()> {
        self.write()?;
        for id in replaced.damaged.iter().chain(&replaced.partial) {
            self.report.segments_removed += 1;
            if !self.dry_run {
                self.hears.check()?;
                self.repository.backend().remove(&layout::segment(self.kind, id))?;
            }
        }
        Ok(())
    }
}

/// Reads something again if it looks damaged. What is not there is not asked for again.
fn asked_twice<T>(read: impl Fn() -> Result<T>) -> Result<T> {
    match read() {
        Err(error) if error.is_damage() && error.fault() != Some(Fault::NotFound) => read(),
        result => result,
    }
}
