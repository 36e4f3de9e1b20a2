//! Writes the index anew without packs that go, and merges small segments.
//!
//! What must stay true: a segment is removed only after everything in it that stays stands in another one: every word on a
//! pack, because one that says something else of a good pack may be a lie. What is written anew may be old by then, and
//! name packs that another prune has removed meanwhile: sessions and prunes look which packs are there.

use std::collections::HashSet;

use crate::cancel::Cancel;
use crate::error::{Fault, Result};
use crate::format::BlobKind;
use crate::format::segment::{IndexedPack, SEGMENT_CHUNKS_MAX, SEGMENT_PACKS_MAX, Segment};
use crate::format::session_header::SessionHeader;
use crate::id::{DirectoryHash, PackId, SegmentId};
use crate::repository::{Repository, layout};

/// Chunks of a new segment, but for one pack that has more.
const SEGMENT_CHUNKS: usize = SEGMENT_CHUNKS_MAX / 4;
/// Segments below this length in bytes are small.
const SMALL_SEGMENT_BYTES: u64 = 2 << 20;
/// So many small segments of a kind may stay.
const SMALL_SEGMENTS_MAX: usize = 8;

/// What was written anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// New segments.
    pub written: u64,
    /// Segments that they replace.
    pub removed: u64,
}

/// Takes packs out of the segments of one kind.
pub fn rewrite(repository: &Repository, kind: BlobKind, drop: &HashSet<PackId>, cancel: &Cancel) -> Result<Rewritten> {
    let listed = repository.backend().list(&layout::segments(kind))?;
    let small = listed.iter().filter(|object| object.size < SMALL_SEGMENT_BYTES).count();
    let merges = small > SMALL_SEGMENTS_MAX;
    if drop.is_empty() && !merges {
        return Ok(Rewritten::default());
    }
    let mut writer = Writer { repository, kind, named: HashSet::new(), pending: Vec::new(), chunks: 0, written: 0 };
    let mut replaced = Vec::new();
    for object in &listed {
        cancel.check()?;
        let Some(id) = layout::segment_of(kind, &object.key) else { continue };
        let Some(segment) = read(repository, kind, &id)? else { continue };
        let is_small = merges && object.size < SMALL_SEGMENT_BYTES;
        if is_small || segment.packs.iter().any(|pack| drop.contains(&pack.id)) {
            segment.packs.into_iter().filter(|pack| !drop.contains(&pack.id)).try_for_each(|pack| writer.name(pack))?;
            replaced.push(id);
        }
    }
    // Written before the old ones go: what stays is named at every moment, and after a stop twice rather than never.
    writer.flush()?;
    let keys: Vec<String> = replaced.iter().map(|id| layout::segment(kind, id)).collect();
    repository.backend().remove_all(&keys)?;
    Ok(Rewritten { written: writer.written, removed: replaced.len() as u64 })
}

/// Reads a segment; one that is gone was replaced by another prune.
fn read(repository: &Repository, kind: BlobKind, id: &SegmentId) -> Result<Option<Segment>> {
    match repository.read_segment(kind, id) {
        Err(error) if error.fault() == Some(Fault::NotFound) => Ok(None),
        segment => segment.map(|(segment, _)| Some(segment)),
    }
}

/// What tells a word on a pack from every other one, on this pack or another.
type Word = (PackId, SessionHeader, u64, bool, DirectoryHash);

fn word(pack: &IndexedPack) -> Word {
    (pack.id, pack.session, pack.len, pack.is_vouched, pack.directory_hash())
}

/// Collects packs into new segments.
struct Writer<'a> {
    repository: &'a Repository,
    kind: BlobKind,
    /// Words on packs that were taken in.
    named: HashSet<Word>,
    pending: Vec<IndexedPack>,
    chunks: usize,
    written: u64,
}

impl Writer<'_> {
    fn name(&mut self, pack: IndexedPack) -> Result<()> {
        if !self.named.insert(word(&pack)) {
            return Ok(());
        }
        if self.pending.len() >= SEGMENT_PACKS_MAX || self.chunks + pack.chunks.len() > SEGMENT_CHUNKS {
            self.flush()?;
        }
        self.chunks += pack.chunks.len();
        self.pending.push(pack);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let packs = std::mem::take(&mut self.pending);
        self.chunks = 0;
        if packs.is_empty() {
            return Ok(());
        }
        let segment = Segment { kind: self.kind, packs };
        let (id, bytes) = self.repository.seal_segment(&segment);
        self.repository.backend().create(&layout::segment(self.kind, &id), bytes)?;
        self.written += 1;
        Ok(())
    }
}
