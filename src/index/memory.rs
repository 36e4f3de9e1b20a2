//! An index in memory: the obvious implementation, for small repositories and for tests to compare with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::segment::Segment;
use crate::id::{ChunkId, SegmentId};
use crate::index::{ChunkIndex, ChunkLocation, PackNumber, PackRecord};
use crate::sync::lock;

/// An index that grows with the repository.
#[derive(Debug, Default)]
pub struct MemoryIndex {
    held: Mutex<Held>,
    chunks_max: Option<u64>,
}

#[derive(Debug, Default)]
struct Held {
    segments: BTreeMap<SegmentId, (BlobKind, Vec<PackNumber>)>,
    packs: BTreeMap<PackNumber, PackRecord>,
    chunks: BTreeMap<ChunkId, Vec<ChunkLocation>>,
    places: u64,
    next: u32,
}

impl MemoryIndex {
    /// Makes one that refuses to know more than so many chunks, with [`Error::Cache`].
    pub fn up_to(chunks_max: u64) -> Self {
        Self { chunks_max: Some(chunks_max), ..Self::default() }
    }

    fn check_room(&self, places: u64) -> Result<()> {
        match self.chunks_max {
            Some(max) if places > max => Err(Error::Cache {
                path: "in memory".into(),
                reason: format!("there is room for {max} chunks only, and on no disk for more"),
            }),
            _ => Ok(()),
        }
    }

    fn content(&self) -> MutexGuard<'_, Held> {
        lock(&self.held)
    }
}

impl ChunkIndex for MemoryIndex {
    fn locate(&self, id: &ChunkId) -> Result<Vec<ChunkLocation>> {
        Ok(self.content().chunks.get(id).cloned().unwrap_or_default())
    }

    fn pack(&self, number: PackNumber) -> Result<Option<PackRecord>> {
        Ok(self.content().packs.get(&number).copied())
    }

    fn segments(&self, kind: BlobKind) -> Result<BTreeSet<SegmentId>> {
        let content = self.content();
        Ok(content.segments.iter().filter(|(_, (of, _))| *of == kind).map(|(id, _)| *id).collect())
    }

    fn add(&self, id: SegmentId, segment: &Segment) -> Result<()> {
        let mut content = self.content();
        if content.segments.contains_key(&id) {
            return Ok(());
        }
        content.places += segment.packs.iter().map(|pack| pack.chunks.len() as u64).sum::<u64>();
        self.check_room(content.places)?;
        let mut numbers = Vec::new();
        for pack in &segment.packs {
            let number = PackNumber(content.next);
            content.next += 1;
            numbers.push(number);
            content.packs.insert(number, PackRecord::new(segment.kind, pack));
            for (offset, chunk) in pack.located_chunks() {
                content.chunks.entry(chunk.id).or_default().push(ChunkLocation {
                    pack: number,
                    offset: offset as u32,
                    plain_len: chunk.plain_len,
                    stored_len: chunk.stored_len,
                    codec: chunk.codec,
                    filter: chunk.filter,
                });
            }
        }
        content.segments.insert(id, (segment.kind, numbers));
        Ok(())
    }

    fn remove(&self, _: BlobKind, id: SegmentId) -> Result<()> {
        let mut content = self.content();
        let Some((_, numbers)) = content.segments.remove(&id) else { return Ok(()) };
        for places in content.chunks.values_mut() {
            places.retain(|place| !numbers.contains(&place.pack));
        }
        numbers.iter().for_each(|number| {
            content.packs.remove(number);
        });
        Ok(())
    }

    fn packs(&self, kind: BlobKind) -> Result<Vec<(PackNumber, PackRecord)>> {
        let content = self.content();
        Ok(content.packs.iter().filter(|(_, pack)| pack.kind == kind).map(|(number, pack)| (*number, *pack)).collect())
    }

    fn for_each_chunk(
        &self,
        kind: BlobKind,
        visit: &mut dyn FnMut(ChunkId, ChunkLocation) -> Result<()>,
    ) -> Result<()> {
        let content = self.content();
        for (id, places) in &content.chunks {
            for place in places.iter().filter(|place| content.packs.get(&place.pack).is_some_and(|p| p.kind == kind)) {
                visit(*id, *place)?;
            }
        }
        Ok(())
    }
}
