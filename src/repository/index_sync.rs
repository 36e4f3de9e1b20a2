//! The repository's index: the local cache, kept equal to the segments that the backend holds.
//!
//! What must stay true:
//! - Each half (data, meta) is brought level when it is first needed, additions and removals both; a run that meets
//!   only unchanged data never loads the data half.
//! - A cache that is damaged, foreign or in use by another process is replaced, without a word to the user.
//! - A disk that is full or read-only costs time and a word ([`Index::take_cache_fault`]), not the command: the cache goes to
//!   the temporary directory, and from there to memory, as far as the memory plan has room for it.
//! - What is remembered of packs goes with the cache that numbered them.
//! - A damaged segment is remembered (`Index::damage`) and skipped: what it said counts as absent.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use crate::backend::{Backend, Listed};
use crate::crypto::keys::MetaKeys;
use crate::error::{Error, Fault, Result};
use crate::file_system::CACHE_TAG;
use crate::format::chunk::ChunkHeader;
use crate::format::key_slot::Certificate;
use crate::format::object::{self, ObjectKind};
use crate::format::segment::{IndexedPack, Segment};
use crate::format::{BlobKind, PerKind};
use crate::format_error::FormatError;
use crate::id::{ChunkId, RepositoryId, SegmentId, SignerKey};
use crate::index::memory::MemoryIndex;
use crate::index::rocks::{self, RocksIndex};
use crate::index::{ChunkIndex, ChunkLocation, PackNumber, PackRecord};
use crate::parallel;
use crate::repository::layout::Object;
use crate::repository::{Repository, layout, objects};
use crate::sync::lock;

/// Caches of one repository that processes running at once may use before they fall back to a temporary one.
const SHARED_CACHES_MAX: usize = 4;
/// Pack records kept in memory.
const PACK_RECORDS_MAX: usize = 4096;
/// Chunks that a cache in memory may know, where no disk has room for one: as much memory as the one on disk may take.
const MEMORY_CHUNKS_MAX: u64 = rocks::MEMORY_BYTES / MEMORY_CHUNK_BYTES;
/// What a chunk costs in memory, in bytes, roughly.
const MEMORY_CHUNK_BYTES: u64 = 160;
/// Listings of segments before what another process removes meanwhile is let go.
const LISTINGS_MAX: usize = 4;

/// A chunk's place, complete.
#[derive(Debug, Clone)]
pub struct Place {
    /// The pack.
    pub pack: Arc<PackRecord>,
    /// Offset in the pack, in bytes.
    pub offset: u64,
    /// What opens the chunk.
    pub header: ChunkHeader,
}

impl Place {
    /// Iterates over the places of a pack's chunks, in their order.
    pub fn all_in(kind: BlobKind, pack: &IndexedPack) -> impl Iterator<Item = Self> {
        let record = Arc::new(PackRecord::new(kind, pack));
        let place =
            move |(offset, header): (u64, &ChunkHeader)| Self { pack: Arc::clone(&record), offset, header: *header };
        pack.located_chunks().map(place)
    }
}

/// Is called with a chunk's pack, its offset there, and what opens it.
pub type ChunkVisitor<'a> = dyn FnMut(&Arc<PackRecord>, u64, &ChunkHeader) -> Result<()> + 'a;

/// The index of an open repository. Calls may come from many threads.
pub struct Index {
    backend: Arc<dyn Backend>,
    opener: SegmentOpener,
    home: IndexHome,
    state: Mutex<State>,
    damage: Mutex<Vec<Error>>,
    /// Why the cache is not where it should be.
    cache_fault: Mutex<Option<Error>>,
}

/// Where the cache lives.
#[derive(Debug, Clone)]
pub enum IndexHome {
    /// Below this directory, shared by processes one after the other.
    Directory(PathBuf),
    /// In a directory of its own that goes with it.
    Temporary,
    /// In memory, which grows with the repository: for small ones that are opened often.
    Memory,
}

#[derive(Default)]
struct State {
    cache: Option<Arc<Cache>>,
    level: PerKind<bool>,
    resort: Resort,
}

/// Where the cache is opened: each one after the one before has failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Resort {
    /// Where it should be.
    #[default]
    Home,
    /// There, after what was there has been removed.
    HomeAnew,
    /// In a temporary directory.
    Temporary,
    /// In memory.
    Memory,
}

impl Resort {
    fn next(self) -> Option<Self> {
        match self {
            Self::Home => Some(Self::HomeAnew),
            Self::HomeAnew => Some(Self::Temporary),
            Self::Temporary => Some(Self::Memory),
            Self::Memory => None,
        }
    }
}

/// An open database, and the directory to remove with it if it is a temporary one.
struct Cache {
    index: Option<Box<dyn ChunkIndex>>,
    path: PathBuf,
    temporary: bool,
    records: Mutex<HashMap<PackNumber, Arc<PackRecord>>>,
}

impl Cache {
    fn new(index: impl ChunkIndex + 'static, path: PathBuf, temporary: bool) -> Self {
        Self { index: Some(Box::new(index)), path, temporary, records: Mutex::default() }
    }

    fn in_memory(index: MemoryIndex) -> Self {
        Self::new(index, PathBuf::new(), false)
    }

    fn index(&self) -> &dyn ChunkIndex {
        self.index.as_deref().expect("only dropping takes the database out")
    }

    fn place(&self, id: ChunkId, location: ChunkLocation) -> Result<Option<Place>> {
        let known = lock(&self.records).get(&location.pack).cloned();
        let pack = match known {
            Some(pack) => pack,
            None => {
                let Some(record) = self.index().pack(location.pack)? else { return Ok(None) };
                let record = Arc::new(record);
                let mut records = lock(&self.records);
                if records.len() >= PACK_RECORDS_MAX {
                    records.clear();
                }
                records.insert(location.pack, Arc::clone(&record));
                record
            }
        };
        Ok(Some(Place { pack, offset: u64::from(location.offset), header: location.header(id) }))
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        drop(self.index.take());
        if self.temporary {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

impl Index {
    /// Prepares the index; nothing is opened or fetched yet.
    pub fn new(backend: Arc<dyn Backend>, opener: SegmentOpener, home: IndexHome) -> Self {
        let (state, damage, cache_fault) = Default::default();
        Self { backend, opener, home, state, damage, cache_fault }
    }

    /// Returns the directory that the cache lives in, if it stays there.
    pub fn directory(&self) -> Option<&Path> {
        match &self.home {
            IndexHome::Directory(directory) => Some(directory),
            IndexHome::Temporary | IndexHome::Memory => None,
        }
    }

    /// Returns every place of a chunk.
    pub fn locate(&self, kind: BlobKind, id: &ChunkId) -> Result<Vec<Place>> {
        self.with_cache(kind, |cache| {
            let locations = cache.index().locate(id)?;
            locations.into_iter().filter_map(|location| cache.place(*id, location).transpose()).collect()
        })
    }

    /// Returns all packs of a kind that segments name, each once.
    pub fn packs(&self, kind: BlobKind) -> Result<Vec<PackRecord>> {
        self.with_cache(kind, |cache| {
            let mut packs: Vec<_> = cache.index().packs(kind)?.into_iter().map(|(_, pack)| pack).collect();
            packs.sort_by_key(|pack| pack.id);
            packs.dedup_by_key(|pack| pack.id);
            Ok(packs)
        })
    }

    /// Calls `visit` with every chunk of a kind and the pack that it stands in, in the order of the chunks' ids. A chunk
    /// that stands in several packs comes as often.
    pub fn for_each_chunk(&self, kind: BlobKind, visit: &mut ChunkVisitor<'_>) -> Result<()> {
        let cache = self.cache(kind)?;
        let packs: HashMap<_, _> =
            cache.index().packs(kind)?.into_iter().map(|(number, pack)| (number, Arc::new(pack))).collect();
        cache.index().for_each_chunk(kind, &mut |id, location| match packs.get(&location.pack) {
            Some(pack) => visit(pack, u64::from(location.offset), &location.header(id)),
            None => Ok(()),
        })
    }

    /// Takes in a segment that this process has just written.
    pub fn add(&self, id: SegmentId, segment: &Segment) -> Result<()> {
        self.with_cache(segment.kind, |cache| cache.index().add(id, segment))
    }

    /// Brings a half level with the backend again, whatever it was before.
    pub fn refresh(&self, kind: BlobKind) -> Result<()> {
        self.state().level[kind] = false;
        self.with_cache(kind, |_| Ok(()))
    }

    /// Forgets that the cache is level: what is asked next is answered from the segments present then.
    pub fn expire(&self) {
        self.state().level = PerKind::default();
    }

    /// Returns, and forgets, what was found damaged while segments were read.
    pub fn take_damage(&self) -> Vec<Error> {
        std::mem::take(&mut *lock(&self.damage))
    }

    /// Returns, and forgets, why the cache is not where it should be.
    pub fn take_cache_fault(&self) -> Option<Error> {
        lock(&self.cache_fault).take()
    }

    /// Runs `work` on a cache that is level, and again on another one if that fails.
    fn with_cache<T>(&self, kind: BlobKind, work: impl Fn(&Cache) -> Result<T>) -> Result<T> {
        loop {
            let cache = self.cache(kind)?;
            match work(&cache) {
                Err(error @ Error::Cache { .. }) => {
                    let mut state = self.state();
                    // Another thread may have replaced it meanwhile.
                    if state.cache.as_ref().is_none_or(|current| Arc::ptr_eq(current, &cache)) {
                        drop(cache);
                        self.replace_cache(&mut state, error)?;
                    }
                }
                result => return result,
            }
        }
    }

    fn cache(&self, kind: BlobKind) -> Result<Arc<Cache>> {
        let mut state = self.state();
        loop {
            match self.level_cache(&mut state, kind) {
                Err(error @ Error::Cache { .. }) => self.replace_cache(&mut state, error)?,
                result => return result,
            }
        }
    }

    fn level_cache(&self, state: &mut State, kind: BlobKind) -> Result<Arc<Cache>> {
        let cache = match &state.cache {
            Some(cache) => Arc::clone(cache),
            None => Arc::clone(state.cache.insert(Arc::new(self.open_cache(state.resort)?))),
        };
        if !state.level[kind] {
            self.bring_level(cache.index(), kind)?;
            state.level[kind] = true;
        }
        Ok(cache)
    }

    /// Removes a cache that fails; what is asked next opens one elsewhere. Fails if nothing is left to try.
    fn replace_cache(&self, state: &mut State, error: Error) -> Result<()> {
        if let Some(cache) = state.cache.take() {
            let path = cache.path.clone();
            drop(cache);
            let _ = std::fs::remove_dir_all(path);
        }
        let Some(resort) = state.resort.next() else { return Err(error) };
        if resort != Resort::HomeAnew {
            self.note_fault(error);
        }
        *state = State { resort, ..State::default() };
        Ok(())
    }

    /// The first reason is the one that matters: the others follow from it.
    fn note_fault(&self, error: Error) {
        lock(&self.cache_fault).get_or_insert(error);
    }

    fn open_cache(&self, resort: Resort) -> Result<Cache> {
        match (resort, &self.home) {
            (Resort::Memory, _) => Ok(Cache::in_memory(MemoryIndex::up_to(MEMORY_CHUNKS_MAX))),
            (Resort::Temporary, _) | (_, IndexHome::Temporary) => self.open_temporary(),
            (_, IndexHome::Memory) => Ok(Cache::in_memory(MemoryIndex::default())),
            (_, IndexHome::Directory(root)) => self.open_shared(root),
        }
    }

    fn open_shared(&self, root: &Path) -> Result<Cache> {
        for number in 0..SHARED_CACHES_MAX {
            let path = root.join(format!("{}-{number}", self.opener.repository));
            match self.open_or_replace(&path) {
                Ok(index) => return Ok(Cache::new(index, path, false)),
                Err(Error::Busy(_)) => {}
                Err(error) => {
                    self.note_fault(error);
                    break;
                }
            }
        }
        self.open_temporary()
    }

    fn open_or_replace(&self, path: &Path) -> Result<RocksIndex> {
        create_private_directory(path)?;
        tag_as_cache(path);
        match RocksIndex::open(path, self.opener.repository) {
            Ok(index) if !index.is_mostly_dead() => return Ok(index),
            Err(Error::Busy(reason)) => return Err(Error::Busy(reason)),
            Ok(_) | Err(_) => {}
        }
        let _ = std::fs::remove_dir_all(path);
        create_private_directory(path)?;
        tag_as_cache(path);
        RocksIndex::open(path, self.opener.repository)
    }

    fn open_temporary(&self) -> Result<Cache> {
        let unique = data_encoding::HEXLOWER.encode(&crate::crypto::random::<8>());
        let path = std::env::temp_dir().join(format!("mlvault-{}-{unique}", std::process::id()));
        create_private_directory(&path)?;
        let index = RocksIndex::open(&path, self.opener.repository)?;
        Ok(Cache::new(index, path, true))
    }

    /// Repeats a listing that another process overtook by replacing segments, so that nothing they said is missed.
    fn bring_level(&self, cache: &dyn ChunkIndex, kind: BlobKind) -> Result<()> {
        for _ in 0..LISTINGS_MAX {
            if self.take_in(cache, kind)? {
                break;
            }
        }
        Ok(())
    }

    /// Additions are taken in first, so that a failure leaves more than is right rather than less. Returns whether every
    /// segment listed was still there.
    fn take_in(&self, cache: &dyn ChunkIndex, kind: BlobKind) -> Result<bool> {
        let listed = self.backend.list(&layout::segments(kind))?;
        let id_of = |object: &Listed| layout::segment_of(kind, &object.key);
        let present: BTreeSet<SegmentId> = listed.iter().filter_map(id_of).collect();
        let known = cache.segments(kind)?;
        let is_missing = |object: &Listed| id_of(object).is_some_and(|id| !known.contains(&id));
        let missing: Vec<Listed> = listed.into_iter().filter(is_missing).collect();
        let mut all_there = true;
        for batch in objects::batches(&missing) {
            let fetched = parallel::map(batch, self.backend.concurrency(), |object| self.fetch(kind, object));
            for fetched in fetched {
                // Opened one after the other: what a segment unfolds to is not known before.
                match fetched.and_then(|(id, bytes)| self.open(kind, id, bytes)) {
                    Ok((id, segment)) => cache.add(id, &segment)?,
                    Err(error) if error.fault() == Some(Fault::NotFound) => all_there = false,
                    Err(error) if error.is_damage() => {
                        lock(&self.damage).push(error);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        known.difference(&present).try_for_each(|id| cache.remove(kind, *id))?;
        Ok(all_there)
    }

    fn fetch(&self, kind: BlobKind, object: &Listed) -> Result<(SegmentId, Bytes)> {
        let id = layout::segment_of(kind, &object.key)
            .ok_or_else(|| Error::Internal(format!("{:?} was taken for a segment", object.key)))?;
        Ok((id, objects::read(self.backend.as_ref(), Object::Segment(kind, id), Some(object.size))?))
    }

    fn open(&self, kind: BlobKind, id: SegmentId, bytes: Bytes) -> Result<(SegmentId, Segment)> {
        self.opener
            .open(kind, &id, &bytes)
            .map(|(segment, _)| (id, segment))
            .map_err(|error| Error::damaged(layout::segment(kind, &id), error))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// What it takes to open segments.
#[derive(Clone)]
pub struct SegmentOpener {
    /// The repository's symmetric keys.
    pub keys: Arc<MetaKeys>,
    /// The repository.
    pub repository: RepositoryId,
    /// Certifies who signs.
    pub root_key: SignerKey,
}

impl SegmentOpener {
    /// Opens a stored segment, and compares it with its name and kind. Returns who signed it, too.
    pub fn open(&self, kind: BlobKind, id: &SegmentId, bytes: &[u8]) -> Result<(Segment, Certificate), FormatError> {
        if blake3::hash(bytes).as_bytes() != id.as_bytes() {
            return Err(FormatError::new("its bytes do not hash to its name"));
        }
        let body = object::open(&self.keys, self.repository, ObjectKind::Segment, "", bytes)?;
        let (segment, signer) = Segment::verify(self.repository, &self.root_key, &body)?;
        if segment.kind != kind {
            return Err(FormatError::new("it is a segment of the other kind"));
        }
        Ok((segment, signer))
    }
}

impl Repository {
    /// Reads a segment and verifies it. Returns who signed it, too.
    ///
    /// Fails with [`Fault::NotFound`] if it is gone, perhaps replaced, and with [`Error::Damaged`].
    pub fn read_segment(&self, kind: BlobKind, id: &SegmentId) -> Result<(Segment, Certificate)> {
        let key = layout::segment(kind, id);
        let bytes = objects::read(self.backend(), Object::Segment(kind, *id), None)?;
        self.open_segment(kind, id, &bytes).map_err(|error| Error::damaged(key, error))
    }

    /// Opens a segment that was read, compares it with its name and verifies who signed it.
    pub fn open_segment(
        &self,
        kind: BlobKind,
        id: &SegmentId,
        bytes: &[u8],
    ) -> Result<(Segment, Certificate), FormatError> {
        self.index().opener.open(kind, id, bytes)
    }

    /// Signs, seals and names a segment. Only a writer's or maintainer's counts.
    pub fn seal_segment(&self, segment: &Segment) -> (SegmentId, Bytes) {
        let body = segment.sign(self.id(), &self.access().signer());
        let sealed = object::seal(self.keys(), self.id(), ObjectKind::Segment, "", &body);
        (SegmentId::from_bytes(*blake3::hash(&sealed).as_bytes()), Bytes::from(sealed))
    }
}

/// Tells other backups that there is nothing to keep here. Only the directory that is made for the database says so: the one
/// that it is in may be anything that the user named.
fn tag_as_cache(path: &Path) {
    let (name, signature) = CACHE_TAG;
    let tag = path.join(name);
    if !tag.exists() {
        let text = [signature, b"\n# mlvault's index of a repository, which it can make anew.\n"].concat();
        let _ = std::fs::write(tag, text);
    }
}

fn create_private_directory(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| Error::Cache { path: path.to_owned(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use crate::backend::memory::MemoryBackend;
    use crate::clock::SystemClock;
    use crate::crypto::passphrase::Credential;
    use crate::repository::{CreateOptions, OpenOptions};

    use super::*;

    fn index(home: IndexHome) -> Arc<Repository> {
        let backend = Arc::new(MemoryBackend::default());
        let key = Credential::new_key_file();
        Repository::create(backend.as_ref(), &key, &CreateOptions::default(), &SystemClock).unwrap();
        Repository::open_with_index(backend, &key, &OpenOptions::default(), home).unwrap()
    }

    /// Method: whatever is on a disk fails, as on one that is full.
    #[test]
    fn a_cache_that_fails_wherever_it_is_on_disk_ends_in_memory_and_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let repository = index(IndexHome::Directory(directory.path().to_owned()));
        let tried = Mutex::new(Vec::new());
        let work = |cache: &Cache| {
            lock(&tried).push(cache.path.clone());
            match cache.path.as_os_str().is_empty() {
                true => Ok(()),
                false => Err(Error::Cache { path: cache.path.clone(), reason: "no space left".to_owned() }),
            }
        };
        repository.index().with_cache(BlobKind::Data, work).unwrap();
        let tried = tried.into_inner().unwrap();
        assert_eq!(tried.len(), 4);
        assert!(tried[0] == tried[1] && tried[0].starts_with(directory.path()) && !tried[2].starts_with(&tried[0]));
        assert!(tried.iter().all(|path| !path.exists()), "{tried:?}");
        assert!(repository.index().take_cache_fault().unwrap().to_string().contains("no space left"));
        assert!(repository.index().take_cache_fault().is_none());
    }

    #[test]
    fn a_place_that_cannot_be_used_costs_a_word() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let repository = index(IndexHome::Directory(file.path().join("cache")));
        assert!(repository.index().packs(BlobKind::Data).unwrap().is_empty());
        assert!(repository.index().take_cache_fault().is_some());
    }
}
