//! An index in a local RocksDB: memory stays bounded however large the repository is.
//!
//! What must stay true:
//! - The database can be deleted, or the process killed, at any moment. There is no write-ahead log: a segment's row is
//!   written after its chunks, and RocksDB loses only a suffix of what was written, so a segment that is there is whole.
//!   A pack's row is written before its chunks, so that the numbers of a segment that is not whole are never used again:
//!   its chunks would come back to life under another segment.
//! - A removed segment's chunks stay behind as dead rows, told by their segment number, until the database is dropped
//!   ([`RocksIndex::is_mostly_dead`]).
//!
//! ```text
//! 'c' chunk id (32) pack number (4)  ->  segment number, offset, plain length, stored length (4 each), codec, filter
//! 'p' pack number (4)                ->  segment number (4), kind (1), pack id (32), length (8), session header (176),
//!                                        vouched for (1), directory hash (16)
//! 's' kind (1) segment id (32)       ->  segment number (4), chunk count (4)
//! 'd'                                ->  dead chunk count (8)
//! 'v'                                ->  schema version (1), repository id (16)
//! ```

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use rocksdb::{
    BlockBasedOptions, Cache, DB, Direction, IteratorMode, Options, ReadOptions, SliceTransform, WriteBatch,
    WriteOptions,
};

use crate::compress::Codec;
use crate::error::{Error, Result};
use crate::format::segment::{IndexedPack, Segment};
use crate::format::session_header::SessionHeader;
use crate::format::{BlobKind, Cursor, PerKind};
use crate::format_error::FormatError;
use crate::id::{ChunkId, DirectoryHash, PackId, RepositoryId, SegmentId};
use crate::index::{ChunkIndex, ChunkLocation, PackNumber, PackRecord};
use crate::sync::lock;
use crate::units::MIB;

const SCHEMA: u8 = 2;
/// Cache for blocks, indexes and filters together, in bytes.
const BLOCK_CACHE_BYTES: usize = 24 * MIB as usize;
/// Rows collected in memory before they are sorted into a file, in bytes; two such buffers may exist.
const WRITE_BUFFER_BYTES: usize = 8 * MIB as usize;
/// Rows of one write, so that a large segment does not build one large batch.
const BATCH_ROWS: usize = 10_000;
/// Below this many dead chunks nobody minds them.
const DEAD_CHUNKS_MIN: u64 = 100_000;

/// What the index costs in memory at most, for the memory plan: cache, write buffers, open files.
pub const MEMORY_BYTES: u64 = (BLOCK_CACHE_BYTES + 3 * WRITE_BUFFER_BYTES) as u64 + 8 * MIB;

/// An index on the local disk.
pub struct RocksIndex {
    path: PathBuf,
    db: DB,
    state: RwLock<State>,
    adding: Mutex<()>,
}

/// A key with its value, as the database hands it out.
type Row = Result<(Box<[u8]>, Box<[u8]>), rocksdb::Error>;

#[derive(Default)]
struct State {
    segments: PerKind<BTreeMap<SegmentId, (u32, u32)>>,
    alive: HashSet<u32>,
    next_segment: u32,
    next_pack: u32,
    dead_chunks: u64,
}

impl RocksIndex {
    /// Opens or creates the database in `path` for a repository.
    ///
    /// Fails with [`Error::Busy`] if another process has it open, and with [`Error::Cache`] if it is damaged or of
    /// another schema or repository: then the caller removes the directory and tries again.
    pub fn open(path: &Path, repository: RepositoryId) -> Result<Self> {
        let db = DB::open(&options(), path).map_err(|error| open_error(path, &error))?;
        let mut index = Self { path: path.to_owned(), db, state: RwLock::default(), adding: Mutex::default() };
        index.check_identity(repository)?;
        let state = index.load_state()?;
        index.state = RwLock::new(state);
        Ok(index)
    }

    /// Returns whether most of the database is rows of removed segments, so that rebuilding pays.
    pub fn is_mostly_dead(&self) -> bool {
        let state = self.read_state();
        let alive: u64 =
            state.segments.both().into_iter().flat_map(BTreeMap::values).map(|(_, chunks)| u64::from(*chunks)).sum();
        state.dead_chunks > DEAD_CHUNKS_MIN.max(alive)
    }

    fn check_identity(&self, repository: RepositoryId) -> Result<()> {
        let identity = [&[SCHEMA][..], repository.as_bytes()].concat();
        match self.get(b"v")? {
            Some(found) if found == identity => Ok(()),
            Some(_) => Err(self.fault("it belongs to another repository or version")),
            None if self.rows(b"s").next().is_some() => Err(self.fault("it has no identity")),
            None => self.put(b"v", &identity),
        }
    }

    fn load_state(&self) -> Result<State> {
        let mut state = State::default();
        for row in self.rows(b"s") {
            let (key, value) = row.map_err(|error| self.fault(error))?;
            let (kind, id, entry) = decode_segment_row(&key, &value).map_err(|error| self.fault(error))?;
            state.next_segment = state.next_segment.max(entry.0 + 1);
            state.alive.insert(entry.0);
            state.segments[kind].insert(id, entry);
        }
        let last_pack = self.db.iterator(IteratorMode::From(b"q", Direction::Reverse)).next();
        if let Some(row) = last_pack {
            let (key, value) = row.map_err(|error| self.fault(error))?;
            if let (Some(number), Some(segment)) = (pack_number_of(&key), first_u32(&value)) {
                state.next_pack = number + 1;
                state.next_segment = state.next_segment.max(segment + 1);
            }
        }
        let dead = self.get(b"d")?.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
        state.dead_chunks = dead;
        Ok(state)
    }

    fn add_pack(&self, segment: u32, kind: BlobKind, pack: &IndexedPack, number: u32) -> Result<()> {
        let mut value = segment.to_be_bytes().to_vec();
        value.push(kind as u8);
        value.extend_from_slice(pack.id.as_bytes());
        value.extend_from_slice(&pack.len.to_be_bytes());
        value.extend_from_slice(&pack.session.encode());
        value.push(u8::from(pack.is_vouched));
        value.extend_from_slice(pack.directory_hash().as_bytes());
        let mut batch = WriteBatch::default();
        batch.put(pack_key(number), value);
        for (row, (offset, chunk)) in pack.located_chunks().enumerate() {
            let location = ChunkLocation {
                pack: PackNumber(number),
                offset: offset as u32,
                plain_len: chunk.plain_len,
                stored_len: chunk.stored_len,
                codec: chunk.codec,
                filter: chunk.filter,
            };
            batch.put(chunk_key(&chunk.id, number), encode_location(segment, &location));
            if row % BATCH_ROWS == BATCH_ROWS - 1 {
                self.write(std::mem::take(&mut batch))?;
            }
        }
        self.write(batch)
    }

    fn rows(&self, tag: &'static [u8]) -> impl Iterator<Item = Row> + '_ {
        let mut read = ReadOptions::default();
        read.set_total_order_seek(true);
        self.db
            .iterator_opt(IteratorMode::From(tag, Direction::Forward), read)
            .take_while(move |row| row.as_ref().map_or(true, |(key, _)| key.starts_with(tag)))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.db.get(key).map_err(|error| self.fault(error))
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let mut batch = WriteBatch::default();
        batch.put(key, value);
        self.write(batch)
    }

    fn write(&self, batch: WriteBatch) -> Result<()> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(batch, &options).map_err(|error| self.fault(error))
    }

    fn fault(&self, reason: impl ToString) -> Error {
        Error::Cache { path: self.path.clone(), reason: reason.to_string() }
    }

    fn read_state(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_state(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_adding(&self) -> MutexGuard<'_, ()> {
        lock(&self.adding)
    }
}

impl ChunkIndex for RocksIndex {
    fn locate(&self, id: &ChunkId) -> Result<Vec<ChunkLocation>> {
        let prefix = [b"c", &id.as_bytes()[..]].concat();
        let mut read = ReadOptions::default();
        read.set_prefix_same_as_start(true);
        let mut places = Vec::new();
        for row in self.db.iterator_opt(IteratorMode::From(&prefix, Direction::Forward), read) {
            let (key, value) = row.map_err(|error| self.fault(error))?;
            if !key.starts_with(&prefix) {
                break;
            }
            let (segment, location) = decode_location(&key, &value).map_err(|error| self.fault(error))?;
            if self.read_state().alive.contains(&segment) {
                places.push(location);
            }
        }
        Ok(places)
    }

    fn pack(&self, number: PackNumber) -> Result<Option<PackRecord>> {
        let Some(value) = self.get(&pack_key(number.0))? else { return Ok(None) };
        let (segment, record) = decode_pack_row(&value).map_err(|error| self.fault(error))?;
        Ok(self.read_state().alive.contains(&segment).then_some(record))
    }

    fn segments(&self, kind: BlobKind) -> Result<BTreeSet<SegmentId>> {
        Ok(self.read_state().segments[kind].keys().copied().collect())
    }

    fn add(&self, id: SegmentId, segment: &Segment) -> Result<()> {
        let _one_at_a_time = self.lock_adding();
        let (number, first_pack) = {
            let mut state = self.write_state();
            if state.segments[segment.kind].contains_key(&id) {
                return Ok(());
            }
            let numbers = (state.next_segment, state.next_pack);
            state.next_segment += 1;
            state.next_pack += segment.packs.len() as u32;
            numbers
        };
        for (pack, pack_number) in segment.packs.iter().zip(first_pack..) {
            self.add_pack(number, segment.kind, pack, pack_number)?;
        }
        let chunks: usize = segment.packs.iter().map(|pack| pack.chunks.len()).sum();
        // Last: without a write-ahead log a crash loses the end of what was written, so a segment whose row is there is whole.
        let row = [number.to_be_bytes(), (chunks as u32).to_be_bytes()].concat();
        self.put(&segment_key(segment.kind, &id), &row)?;
        let mut state = self.write_state();
        state.alive.insert(number);
        state.segments[segment.kind].insert(id, (number, chunks as u32));
        Ok(())
    }

    fn remove(&self, kind: BlobKind, id: SegmentId) -> Result<()> {
        let mut state = self.write_state();
        let Some((number, chunks)) = state.segments[kind].remove(&id) else { return Ok(()) };
        // Its rows stay and count for nothing: who looks up a chunk asks whether its segment is alive.
        state.alive.remove(&number);
        state.dead_chunks += u64::from(chunks);
        let mut batch = WriteBatch::default();
        batch.delete(segment_key(kind, &id));
        batch.put(b"d", state.dead_chunks.to_be_bytes());
        self.write(batch)
    }

    fn packs(&self, kind: BlobKind) -> Result<Vec<(PackNumber, PackRecord)>> {
        let mut packs = Vec::new();
        for row in self.rows(b"p") {
            let (key, value) = row.map_err(|error| self.fault(error))?;
            let (segment, record) = decode_pack_row(&value).map_err(|error| self.fault(error))?;
            let number = pack_number_of(&key).ok_or_else(|| self.fault("a pack row has no number"))?;
            if record.kind == kind && self.read_state().alive.contains(&segment) {
                packs.push((PackNumber(number), record));
            }
        }
        Ok(packs)
    }

    fn for_each_chunk(
        &self,
        kind: BlobKind,
        visit: &mut dyn FnMut(ChunkId, ChunkLocation) -> Result<()>,
    ) -> Result<()> {
        let of_kind: HashSet<PackNumber> = self.packs(kind)?.into_iter().map(|(number, _)| number).collect();
        for row in self.rows(b"c") {
            let (key, value) = row.map_err(|error| self.fault(error))?;
            let (segment, location) = decode_location(&key, &value).map_err(|error| self.fault(error))?;
            if of_kind.contains(&location.pack) && self.read_state().alive.contains(&segment) {
                let id = key[1..33].try_into().map_err(|_| self.fault("a chunk row has no id"))?;
                visit(ChunkId::from_bytes(id), location)?;
            }
        }
        Ok(())
    }
}

fn options() -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(BLOCK_CACHE_BYTES));
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_bloom_filter(10.0, false);
    table.set_whole_key_filtering(false);
    table.set_format_version(5);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_prefix_extractor(SliceTransform::create_fixed_prefix(33));
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_max_write_buffer_number(2);
    options.set_target_file_size_base(32 * MIB);
    options.set_max_open_files(64);
    options.set_max_background_jobs(2);
    options.set_keep_log_file_num(1);
    options.set_max_log_file_size(MIB as usize);
    options.set_compression_type(rocksdb::DBCompressionType::None);
    options
}

fn open_error(path: &Path, error: &rocksdb::Error) -> Error {
    let text = error.to_string();
    if error.kind() == rocksdb::ErrorKind::IOError && text.contains("lock") {
        return Error::Busy(format!("The index cache {path:?} is in use"));
    }
    Error::Cache { path: path.to_owned(), reason: text }
}

fn chunk_key(id: &ChunkId, pack: u32) -> [u8; 37] {
    let mut key = [b'c'; 37];
    key[1..33].copy_from_slice(id.as_bytes());
    key[33..].copy_from_slice(&pack.to_be_bytes());
    key
}

fn pack_key(number: u32) -> [u8; 5] {
    let mut key = [b'p'; 5];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

fn segment_key(kind: BlobKind, id: &SegmentId) -> [u8; 34] {
    let mut key = [b's'; 34];
    key[1] = kind as u8;
    key[2..].copy_from_slice(id.as_bytes());
    key
}

fn pack_number_of(key: &[u8]) -> Option<u32> {
    key.strip_prefix(b"p").and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes)
}

fn first_u32(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn encode_location(segment: u32, location: &ChunkLocation) -> [u8; 18] {
    let mut value = [0; 18];
    let numbers = [segment, location.offset, location.plain_len, location.stored_len];
    for (bytes, number) in value.chunks_exact_mut(4).zip(numbers) {
        bytes.copy_from_slice(&number.to_be_bytes());
    }
    value[16] = location.codec as u8;
    value[17] = location.filter;
    value
}

fn decode_location(key: &[u8], value: &[u8]) -> Result<(u32, ChunkLocation), FormatError> {
    let pack = Cursor::new(key.get(33..).unwrap_or_default()).array()?;
    let mut cursor = Cursor::new(value);
    let mut number = || cursor.array().map(u32::from_be_bytes);
    let (segment, offset, plain_len, stored_len) = (number()?, number()?, number()?, number()?);
    let (codec, filter) = (Codec::from_byte(cursor.u8()?)?, cursor.u8()?);
    let pack = PackNumber(u32::from_be_bytes(pack));
    Ok((segment, ChunkLocation { pack, offset, plain_len, stored_len, codec, filter }))
}

fn decode_pack_row(value: &[u8]) -> Result<(u32, PackRecord), FormatError> {
    let mut cursor = Cursor::new(value);
    let segment = u32::from_be_bytes(cursor.array()?);
    let kind = BlobKind::from_byte(cursor.u8()?)?;
    let id = PackId::from_bytes(cursor.array()?);
    let len = u64::from_be_bytes(cursor.array()?);
    let session = SessionHeader::decode(&mut cursor)?;
    let (is_vouched, directory) = (cursor.u8()? == 1, DirectoryHash::from_bytes(cursor.array()?));
    Ok((segment, PackRecord { id, kind, len, session, is_vouched, directory }))
}

fn decode_segment_row(key: &[u8], value: &[u8]) -> Result<(BlobKind, SegmentId, (u32, u32)), FormatError> {
    let mut key = Cursor::new(key.get(1..).unwrap_or_default());
    let kind = BlobKind::from_byte(key.u8()?)?;
    let id = SegmentId::from_bytes(key.array()?);
    let mut value = Cursor::new(value);
    let mut number = || value.array().map(u32::from_be_bytes);
    Ok((kind, id, (number()?, number()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::chunk::ChunkHeader;
    use crate::id::{SessionId, SlotId};
    use crate::index::memory::MemoryIndex;

    fn segment(kind: BlobKind, first: u8) -> Segment {
        let session = SessionHeader {
            session: SessionId::from_bytes([first; 16]),
            slot: SlotId::from_bytes([first; 8]),
            meta_salt: [3; 32],
            enc: [4; 32],
            sealed_key: [5; 48],
            commitment: [6; 32],
        };
        let chunk = |byte: u8| ChunkHeader {
            id: ChunkId::from_bytes([byte; 32]),
            plain_len: 10 + u32::from(byte),
            stored_len: 100,
            codec: Codec::Zstd,
            filter: 0,
        };
        let pack = |byte| IndexedPack {
            id: PackId::from_bytes([byte; 32]),
            session,
            len: 1 << 20,
            is_vouched: byte % 2 == 0,
            chunks: (byte..byte + 3).map(chunk).collect(),
        };
        Segment { kind, packs: vec![pack(first), pack(first + 2)] }
    }

    fn answers(index: &dyn ChunkIndex) -> Vec<(u8, Vec<(PackRecord, u32)>)> {
        (0..20)
            .map(|byte| {
                let places = index.locate(&ChunkId::from_bytes([byte; 32])).unwrap();
                let mut known: Vec<_> =
                    places.iter().map(|at| (index.pack(at.pack).unwrap().unwrap(), at.offset)).collect();
                known.sort_by_key(|(pack, offset)| (pack.id, *offset));
                (byte, known)
            })
            .collect()
    }

    #[test]
    fn it_answers_as_the_obvious_index_does_also_after_removal_and_reopening() {
        let directory = tempfile::tempdir().unwrap();
        let repository = RepositoryId::from_bytes([1; 16]);
        let obvious = MemoryIndex::default();
        let ids: Vec<_> = (0..3).map(|byte| SegmentId::from_bytes([byte; 32])).collect();
        let segments = [segment(BlobKind::Data, 0), segment(BlobKind::Data, 3), segment(BlobKind::Meta, 10)];
        {
            let rocks = RocksIndex::open(directory.path(), repository).unwrap();
            for (id, segment) in ids.iter().zip(&segments) {
                for index in [&rocks as &dyn ChunkIndex, &obvious] {
                    index.add(*id, segment).unwrap();
                    index.add(*id, segment).unwrap();
                }
            }
            assert_eq!(answers(&rocks), answers(&obvious));
            rocks.remove(BlobKind::Data, ids[0]).unwrap();
            obvious.remove(BlobKind::Data, ids[0]).unwrap();
            assert_eq!(answers(&rocks), answers(&obvious));
        }
        let rocks = RocksIndex::open(directory.path(), repository).unwrap();
        assert_eq!(answers(&rocks), answers(&obvious));
        assert_eq!(rocks.segments(BlobKind::Data).unwrap(), obvious.segments(BlobKind::Data).unwrap());
        assert_eq!(rocks.packs(BlobKind::Meta).unwrap().len(), 2);
        rocks.add(ids[0], &segments[0]).unwrap();
        obvious.add(ids[0], &segments[0]).unwrap();
        assert_eq!(answers(&rocks), answers(&obvious));
    }

    /// Method: what a killed process leaves of a segment is rows of its chunks without its own row.
    #[test]
    fn chunks_of_a_segment_that_was_not_finished_never_show() {
        let directory = tempfile::tempdir().unwrap();
        let repository = RepositoryId::from_bytes([1; 16]);
        {
            let index = RocksIndex::open(directory.path(), repository).unwrap();
            let unfinished = segment(BlobKind::Data, 0);
            index.add_pack(0, BlobKind::Data, &unfinished.packs[0], 0).unwrap();
            assert!(index.locate(&ChunkId::from_bytes([0; 32])).unwrap().is_empty());
        }
        let index = RocksIndex::open(directory.path(), repository).unwrap();
        index.add(SegmentId::from_bytes([9; 32]), &segment(BlobKind::Data, 10)).unwrap();
        assert!(index.locate(&ChunkId::from_bytes([0; 32])).unwrap().is_empty());
        let places = index.locate(&ChunkId::from_bytes([10; 32])).unwrap();
        assert_eq!(index.pack(places[0].pack).unwrap().unwrap().id, PackId::from_bytes([10; 32]));
    }

    #[test]
    fn a_database_of_another_repository_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        drop(RocksIndex::open(directory.path(), RepositoryId::from_bytes([1; 16])).unwrap());
        let other = RocksIndex::open(directory.path(), RepositoryId::from_bytes([2; 16]));
        assert!(matches!(other, Err(Error::Cache { .. })));
    }

    #[test]
    fn a_second_opener_is_told_that_it_is_busy() {
        let directory = tempfile::tempdir().unwrap();
        let repository = RepositoryId::from_bytes([1; 16]);
        let _first = RocksIndex::open(directory.path(), repository).unwrap();
        assert!(matches!(RocksIndex::open(directory.path(), repository), Err(Error::Busy(_))));
    }
}
