//! How much a repository and a snapshot hold, and what deduplication and compression save.
//!
//! What must stay true: memory does not grow with the repository. Numbers of the repository come from its index in one
//! pass, in the order of chunk ids. Those of a snapshot need the set of its chunks: it is made in as many passes over
//! the snapshot's trees as `IDS_MAX` asks for, each for a part of all ids.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde::Serialize;

use crate::chunks::reader::ChunkReader;
use crate::error::Result;
use crate::format::BlobKind;
use crate::format::snapshot::Component;
use crate::format::tree::{Entry, EntryKind, FileContent};
use crate::hears::Hears;
use crate::id::ChunkId;
use crate::monitor::Counter;
use crate::repository::snapshots::{Snapshot, SnapshotList};
use crate::repository::{Repository, layout};
use crate::trees::merge::{Merged, Shared, TreeMerge};
use crate::trees::reader::{TreeReader, for_each_chunk_of};

/// Chunk ids in memory at once; each costs about a hundred bytes while the set grows.
const IDS_MAX: usize = 512 << 10;

/// Numbers of a repository.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RepositoryStats {
    /// Readable snapshots.
    pub snapshots: u64,
    /// Snapshots that cannot be read; the other numbers leave them out.
    pub snapshots_damaged: u64,
    /// Entries of all snapshots together.
    pub entries: u64,
    /// Bytes of the files of all snapshots together: what as many plain copies would take.
    pub logical_bytes: u64,
    /// The same by component, over all snapshots.
    pub components: BTreeMap<String, ComponentTotals>,
    /// Content.
    pub data: KindStats,
    /// Trees and long chunk lists.
    pub meta: KindStats,
    /// Objects in the backend.
    pub objects: u64,
    /// Bytes of all objects in the backend.
    pub stored_bytes: u64,
}

/// Numbers of one component over all snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ComponentTotals {
    /// Snapshots that have it.
    pub snapshots: u64,
    /// Entries in all of them together.
    pub entries: u64,
    /// Bytes of files in all of them together.
    pub logical_bytes: u64,
}

/// Numbers of what is stored of one blob kind, whether a snapshot needs it or not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct KindStats {
    /// Packs that the index names.
    pub packs: u64,
    /// Their bytes.
    pub pack_bytes: u64,
    /// Index segments.
    pub segments: u64,
    /// Different chunks.
    pub chunks: u64,
    /// Bytes of the different chunks before compression.
    pub unique_bytes: u64,
    /// Bytes of the different chunks, compressed and sealed.
    pub chunk_bytes: u64,
    /// Second and further copies of a chunk: several writers stored it at once, or a prune moved it.
    pub copies: u64,
}

impl RepositoryStats {
    /// Returns how many bytes of files one different byte stands for.
    pub fn deduplication(&self) -> Option<f64> {
        ratio(self.logical_bytes, self.data.unique_bytes)
    }

    /// Returns how many different bytes one stored byte stands for.
    pub fn compression(&self) -> Option<f64> {
        ratio(self.data.unique_bytes, self.data.chunk_bytes)
    }

    /// Returns how many bytes of files one byte in the backend stands for, all told.
    pub fn total(&self) -> Option<f64> {
        ratio(self.logical_bytes, self.stored_bytes)
    }
}

fn ratio(a: u64, b: u64) -> Option<f64> {
    (b > 0).then(|| a as f64 / b as f64)
}

/// Counts a repository. Reads the whole index and a listing of the backend, but no tree and no content.
pub fn repository(repository: &Arc<Repository>, list: &SnapshotList, hears: &Hears) -> Result<RepositoryStats> {
    hears.monitor.phase("stats", None, None);
    let mut stats = RepositoryStats {
        snapshots: list.snapshots.len() as u64,
        snapshots_damaged: list.damaged.count(),
        data: kind_stats(repository, BlobKind::Data)?,
        meta: kind_stats(repository, BlobKind::Meta)?,
        ..RepositoryStats::default()
    };
    for component in list.snapshots.iter().flat_map(|snapshot| &snapshot.record.components) {
        let totals = stats.components.entry(component.name.clone()).or_default();
        totals.snapshots += 1;
        totals.entries = totals.entries.saturating_add(component.entries);
        totals.logical_bytes = totals.logical_bytes.saturating_add(component.bytes);
        stats.entries = stats.entries.saturating_add(component.entries);
        stats.logical_bytes = stats.logical_bytes.saturating_add(component.bytes);
    }
    for object in repository.backend().list("")? {
        stats.objects += 1;
        stats.stored_bytes = stats.stored_bytes.saturating_add(object.size);
    }
    Ok(stats)
}

fn kind_stats(repository: &Repository, kind: BlobKind) -> Result<KindStats> {
    let mut stats = KindStats::default();
    for pack in repository.index().packs(kind)? {
        stats.packs += 1;
        stats.pack_bytes += pack.len;
    }
    let mut last = None;
    repository.index().for_each_chunk(kind, &mut |_, _, header| {
        if last == Some(header.id) {
            stats.copies += 1;
            return Ok(());
        }
        last = Some(header.id);
        stats.chunks += 1;
        stats.unique_bytes += u64::from(header.plain_len);
        stats.chunk_bytes += u64::from(header.stored_len);
        Ok(())
    })?;
    stats.segments = repository.backend().list(&layout::segments(kind))?.len() as u64;
    Ok(stats)
}

/// Numbers of one component of one snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SnapshotComponentStats {
    /// The component.
    pub name: String,
    /// Its files, further names of hard links included.
    pub files: u64,
    /// Its directories.
    pub directories: u64,
    /// Its symlinks.
    pub symlinks: u64,
    /// Bytes of its files.
    pub logical_bytes: u64,
    /// Its different chunks.
    pub unique: ChunkTotals,
    /// Those of them that no other snapshot refers to: what forgetting it would free, once pruned. Only if asked for.
    pub exclusive: Option<ChunkTotals>,
    /// Chunks that no pack known to the index holds: see `mlvault check`.
    pub chunks_missing: u64,
}

/// Numbers of some chunks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ChunkTotals {
    /// How many.
    pub chunks: u64,
    /// Their bytes before compression.
    pub bytes: u64,
    /// Their bytes, compressed and sealed.
    pub stored_bytes: u64,
}

impl ChunkTotals {
    fn add(&mut self, chunks: &HashMap<ChunkId, Lengths>) {
        self.chunks += chunks.len() as u64;
        for lengths in chunks.values() {
            self.bytes += u64::from(lengths.plain);
            self.stored_bytes += u64::from(lengths.stored);
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Lengths {
    plain: u32,
    stored: u32,
}

/// Counts a snapshot, component by component. Reads its trees.
///
/// With `others`, which are all other snapshots, also what it has for itself alone; that reads every tree of the
/// repository, though a node that snapshots share only once.
pub fn snapshot(
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    others: Option<&[Snapshot]>,
    hears: &Hears,
) -> Result<Vec<SnapshotComponentStats>> {
    hears.monitor.phase("stats", None, None);
    let reader = ChunkReader::new(Arc::clone(repository));
    let census = Census { reader: &reader, others, hears, ids_max: IDS_MAX };
    snapshot.record.components.iter().map(|component| census.component(component)).collect()
}

struct Census<'a> {
    reader: &'a ChunkReader,
    others: Option<&'a [Snapshot]>,
    hears: &'a Hears,
    ids_max: usize,
}

impl Census<'_> {
    fn component(&self, component: &Component) -> Result<SnapshotComponentStats> {
        let mut stats = SnapshotComponentStats { name: component.name.clone(), ..Default::default() };
        stats.exclusive = self.others.map(|_| ChunkTotals::default());
        let mut parts = vec![Part::default()];
        let mut is_first = true;
        while let Some(part) = parts.pop() {
            let mut chunks = self.chunks_of(component, part, &mut parts, &mut stats, is_first)?;
            stats.unique.add(&chunks.known);
            if let (Some(others), Some(exclusive)) = (self.others, &mut stats.exclusive) {
                self.remove_shared(others, &mut chunks)?;
                exclusive.add(&chunks.known);
            }
            is_first = false;
        }
        Ok(stats)
    }

    /// Collects the chunks of a part. If they are too many the part is halved and the other half put aside.
    fn chunks_of(
        &self,
        component: &Component,
        part: Part,
        parts: &mut Vec<Part>,
        stats: &mut SnapshotComponentStats,
        is_first: bool,
    ) -> Result<PartOfChunks> {
        let mut found = PartOfChunks { part, known: HashMap::new(), missing: HashSet::new() };
        for entry in TreeReader::open(self.reader, &component.name, &component.root)? {
            self.hears.check()?;
            let entry = entry?;
            if is_first {
                self.hears.monitor.count(Counter::Entries, 1);
                stats.count(&entry);
            }
            let Some(content) = entry.file() else { continue };
            self.for_each_chunk(&entry, content, &mut |id| {
                found.add(self.reader, content.kind, id)?;
                if found.known.len() + found.missing.len() > self.ids_max {
                    parts.push(found.halve());
                }
                Ok(())
            })?;
        }
        stats.chunks_missing += found.missing.len() as u64;
        Ok(found)
    }

    fn remove_shared(&self, others: &[Snapshot], chunks: &mut PartOfChunks) -> Result<()> {
        let mut roots: BTreeMap<&str, Vec<ChunkId>> = BTreeMap::new();
        for component in others.iter().flat_map(|other| &other.record.components) {
            roots.entry(&component.name).or_default().push(component.root);
        }
        for (name, roots) in roots {
            for merged in TreeMerge::open(self.reader, name, &roots, b"", Shared::Read) {
                self.hears.check()?;
                let entries = match merged? {
                    Merged::Entries(entries) => entries,
                    Merged::Unreadable(_, error) => return Err(error),
                };
                for (_, entry) in &entries {
                    let Some(content) = entry.file() else { continue };
                    self.for_each_chunk(entry, content, &mut |id| {
                        chunks.known.remove(&id);
                        Ok(())
                    })?;
                }
            }
        }
        Ok(())
    }

    fn for_each_chunk(
        &self,
        entry: &Entry,
        content: &FileContent,
        visit: &mut dyn FnMut(ChunkId) -> Result<()>,
    ) -> Result<()> {
        for_each_chunk_of(self.reader, &entry.path_text(), content, &mut |chunk| visit(chunk.id))
    }
}

impl SnapshotComponentStats {
    fn count(&mut self, entry: &Entry) {
        let counter = match entry.kind {
            EntryKind::Directory => &mut self.directories,
            EntryKind::File(_) => &mut self.files,
            EntryKind::Symlink { .. } => &mut self.symlinks,
        };
        *counter += 1;
        self.logical_bytes = self.logical_bytes.saturating_add(entry.size());
    }
}

/// A part of all chunk ids: those whose leading `bits` are `value`. Ids are hashes, so halves are equal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Part {
    bits: u32,
    value: u64,
}

impl Part {
    fn contains(self, id: &ChunkId) -> bool {
        let leading = id.as_bytes().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte));
        self.bits == 0 || leading >> (u64::BITS - self.bits) == self.value
    }

    fn halves(self) -> [Self; 2] {
        [0, 1].map(|last| Self { bits: self.bits + 1, value: self.value << 1 | last })
    }
}

/// The chunks of a component whose ids are in a part.
struct PartOfChunks {
    part: Part,
    known: HashMap<ChunkId, Lengths>,
    missing: HashSet<ChunkId>,
}

impl PartOfChunks {
    fn add(&mut self, reader: &ChunkReader, kind: BlobKind, id: ChunkId) -> Result<()> {
        if !self.part.contains(&id) || self.known.contains_key(&id) || self.missing.contains(&id) {
            return Ok(());
        }
        match reader.repository().index().locate(kind, &id)?.first() {
            Some(place) => {
                let lengths = Lengths { plain: place.header.plain_len, stored: place.header.stored_len };
                self.known.insert(id, lengths);
            }
            None => drop(self.missing.insert(id)),
        }
        Ok(())
    }

    /// Keeps one half of the part and returns the other.
    fn halve(&mut self) -> Part {
        let [kept, other] = self.part.halves();
        self.part = kept;
        self.known.retain(|id, _| kept.contains(id));
        self.missing.retain(|id| kept.contains(id));
        other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_share_nothing_and_leave_nothing_out() {
        let ids: Vec<_> = (0..=255u8).map(|byte| ChunkId::from_bytes([byte; 32])).collect();
        let mut parts = vec![Part::default()];
        for _ in 0..3 {
            parts = parts.into_iter().flat_map(Part::halves).collect();
        }
        for id in &ids {
            assert_eq!(parts.iter().filter(|part| part.contains(id)).count(), 1, "{id}");
        }
        assert!(parts.iter().all(|part| ids.iter().filter(|id| part.contains(id)).count() == 32));
    }
}
