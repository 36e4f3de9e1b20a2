//! From chunk ids back to plain chunks.
//!
//! What must stay true: nothing leaves here that does not authenticate and hash to its id. If a chunk stands in several
//! packs and one is damaged or gone, another serves. A pack that is gone may have been pruned, and what was needed in it
//! moved: then the index is read again, once for each such pack. Ranges asked of the backend are rounded, so that its access
//! log does not tell chunk boundaries; but for packs that are shorter than they were.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use crate::crypto::seal::MessageKey;
use crate::error::{Error, Fault, Result};
use crate::format::BlobKind;
use crate::format::chunk::ChunkContext;
use crate::format::session_header::SessionHeader;
use crate::id::{ChunkId, PackId};
use crate::index::PackRecord;
use crate::repository::index_sync::Place;
use crate::repository::{Repository, layout};
use crate::sync::lock;
use crate::units::KIB;

/// Ranges begin and end at multiples of this, or at the end of the pack.
pub const READ_ALIGN: u64 = 256 * KIB;
/// Bytes of meta packs read at once: trees are read in the order in which they were written.
const META_BLOCK_BYTES: u64 = 1024 * KIB;
/// Blocks of meta packs that are kept.
const META_BLOCKS_MAX: usize = 16;
/// Session keys that are kept.
const SESSION_KEYS_MAX: usize = 1024;

/// Reads chunks of one repository. Calls may come from many threads.
pub struct ChunkReader {
    repository: Arc<Repository>,
    keys: Mutex<HashMap<(BlobKind, SessionHeader), Arc<MessageKey>>>,
    blocks: Mutex<VecDeque<((PackId, u64), Bytes)>>,
    opened: AtomicU64,
    /// Packs for whose sake the index was read again.
    gone: Mutex<HashSet<PackId>>,
}

impl ChunkReader {
    /// Makes a reader; nothing is read yet.
    pub fn new(repository: Arc<Repository>) -> Self {
        Self {
            repository,
            keys: Mutex::default(),
            blocks: Mutex::default(),
            opened: AtomicU64::new(0),
            gone: Mutex::default(),
        }
    }

    /// Returns the repository that is read.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// Returns how many chunks were opened so far: what an operation cost.
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Reads a chunk, from any of its places. `needed_by` names what refers to it, for messages.
    pub fn read(&self, kind: BlobKind, id: &ChunkId, needed_by: &dyn Fn() -> String) -> Result<Vec<u8>> {
        let mut failure: Option<Error> = None;
        let mut tried = Vec::new();
        loop {
            let mut places = self.repository.index().locate(kind, id)?;
            places.retain(|place| !tried.contains(&place.pack.id));
            if places.is_empty() {
                return Err(failure.unwrap_or_else(|| Error::MissingChunk { chunk: *id, needed_by: needed_by() }));
            }
            let mut gone = Vec::new();
            for place in &places {
                let error = match self.read_at(place) {
                    Ok(plain) => return Ok(plain),
                    Err(error) => error,
                };
                if error.fault() == Some(Fault::NotFound) {
                    gone.push(place.pack.id);
                }
                tried.push(place.pack.id);
                // A place that cannot be reached now is no proof that the chunk is lost.
                failure = Some(failure.filter(|earlier| !earlier.is_damage()).unwrap_or(error));
            }
            self.look_again(kind, gone)?;
        }
    }

    /// Reads the index again if some of these packs, which were not where it says, are so for the first time. Waits while
    /// another thread does so.
    pub fn look_again(&self, kind: BlobKind, gone: impl IntoIterator<Item = PackId>) -> Result<()> {
        let mut known = lock(&self.gone);
        let known_before = known.len();
        known.extend(gone);
        if known.len() > known_before { self.repository.index().refresh(kind) } else { Ok(()) }
    }

    /// Reads a chunk from this place and no other.
    pub fn read_at(&self, place: &Place) -> Result<Vec<u8>> {
        let range = place.offset..place.offset + u64::from(place.header.stored_len);
        let rounded = match place.pack.kind {
            BlobKind::Meta => self.read_through_blocks(&place.pack, range.clone()).map(Bytes::from),
            BlobKind::Data => self
                .read_span(&place.pack, range.clone())
                .map(|(start, bytes)| bytes.slice((range.start - start) as usize..(range.end - start) as usize)),
        };
        let stored = match rounded {
            // A pack that was cut short may still hold the chunk, though not all of the rounded range.
            Err(error) if error.fault() == Some(Fault::BadAnswer) => {
                self.repository.backend().read_range(&layout::pack(place.pack.kind, &place.pack.id), range)?
            }
            rounded => rounded?,
        };
        self.open(place, &stored)
    }

    /// Reads the rounded range of a pack that covers `range`; returns where it begins and its bytes.
    pub fn read_span(&self, pack: &PackRecord, range: Range<u64>) -> Result<(u64, Bytes)> {
        let start = range.start / READ_ALIGN * READ_ALIGN;
        let end = range.end.next_multiple_of(READ_ALIGN).min(pack.len);
        let key = layout::pack(pack.kind, &pack.id);
        if range.end > pack.len {
            return Err(Error::damaged(key, "the index names a chunk behind its end"));
        }
        let bytes = self.repository.backend().read_range(&key, start..end)?;
        Ok((start, bytes))
    }

    /// Opens a stored chunk and compares it with its id.
    pub fn open(&self, place: &Place, stored: &[u8]) -> Result<Vec<u8>> {
        let repository = &self.repository;
        let key = self.session_key(&place.pack)?;
        self.opened.fetch_add(1, Ordering::Relaxed);
        let context = ChunkContext { key: &key, kind: place.pack.kind, repository: repository.id() };
        context.open(&place.header, repository.keys(), stored).map_err(|error| {
            let key = layout::pack(place.pack.kind, &place.pack.id);
            Error::damaged(key, format!("chunk {} at offset {}: {error}", place.header.id, place.offset))
        })
    }

    /// Opens a chunk of a pack that is in memory, perhaps cut short, and compares it with its id.
    pub fn open_in(&self, place: &Place, pack: &[u8]) -> Result<Vec<u8>> {
        let start = place.offset as usize;
        match pack.get(start..start + place.header.stored_len as usize) {
            Some(stored) => self.open(place, stored),
            None => {
                let reason = format!("chunk {} at offset {start} is behind its end", place.header.id);
                Err(Error::damaged(layout::pack(place.pack.kind, &place.pack.id), reason))
            }
        }
    }

    fn read_through_blocks(&self, pack: &PackRecord, range: Range<u64>) -> Result<Vec<u8>> {
        let mut stored = Vec::with_capacity((range.end - range.start) as usize);
        let mut at = range.start;
        while at < range.end {
            let start = at / META_BLOCK_BYTES * META_BLOCK_BYTES;
            let block = self.block(pack, start)?;
            let end = (start + block.len() as u64).min(range.end);
            if end <= at {
                let key = layout::pack(pack.kind, &pack.id);
                return Err(Error::damaged(key, "the index names a chunk behind its end"));
            }
            stored.extend_from_slice(&block[(at - start) as usize..(end - start) as usize]);
            at = end;
        }
        Ok(stored)
    }

    fn block(&self, pack: &PackRecord, start: u64) -> Result<Bytes> {
        let name = (pack.id, start);
        if let Some((_, block)) = self.lock_blocks().iter().find(|(known, _)| *known == name) {
            return Ok(block.clone());
        }
        let end = (start + META_BLOCK_BYTES).min(pack.len);
        let block = self.repository.backend().read_range(&layout::pack(pack.kind, &pack.id), start..end)?;
        let mut blocks = self.lock_blocks();
        blocks.push_front((name, block.clone()));
        blocks.truncate(META_BLOCKS_MAX);
        Ok(block)
    }

    fn session_key(&self, pack: &PackRecord) -> Result<Arc<MessageKey>> {
        // Not by the session's id alone: two packs may claim the same one with different keys.
        let name = (pack.kind, pack.session);
        let mut keys = lock(&self.keys);
        if let Some(key) = keys.get(&name) {
            return Ok(Arc::clone(key));
        }
        let repository = &self.repository;
        let key = match pack.kind {
            BlobKind::Meta => pack.session.meta_key(repository.keys()),
            BlobKind::Data => {
                let secret = repository.access().data_secret()?;
                pack.session
                    .data_key(repository.id(), repository.keys(), secret)
                    .map_err(|_| Error::damaged(layout::pack(pack.kind, &pack.id), "its session key does not open"))?
            }
        };
        if keys.len() >= SESSION_KEYS_MAX {
            keys.clear();
        }
        let key = Arc::new(key);
        keys.insert(name, Arc::clone(&key));
        Ok(key)
    }

    fn lock_blocks(&self) -> MutexGuard<'_, VecDeque<((PackId, u64), Bytes)>> {
        lock(&self.blocks)
    }
}
