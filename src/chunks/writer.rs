//! From plain chunks to packs and index segments in the backend.
//!
//! What must stay true:
//! - A chunk is stored once: what the index has, or what this session has begun to store, is not stored again.
//! - A pack is in the backend before a segment names it, and a segment is there before the local index knows it.
//! - New chunks go to one of two open packs at random, so that nobody who sees packs knows which file's chunk is where.
//! - After the first failed write every further call fails: nothing may be built on a hole. What was uploaded before is
//!   indexed all the same, so that the next session finds it.
//! - Memory: at most three open packs, one waiting and [`crate::repository::memory_plan::MemoryPlan::uploads`] under way.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::cancel::Cancel;
use crate::chunks::ending::{Ender, Ending};
use crate::compress::Encoder;
use crate::error::{Error, Fault, Result};
use crate::format::chunk::{ChunkContext, ChunkHeader};
use crate::format::pack::{CHUNKS_MAX, FinishedPack, PackBuilder, PackHeader};
use crate::format::segment::{IndexedPack, SEGMENT_CHUNKS_MAX, Segment};
use crate::format::{BlobKind, PerKind};
use crate::hears::Hears;
use crate::id::{ChunkId, PackId};
use crate::monitor::{Counter, Monitor};
use crate::repository::session::Session;
use crate::repository::{Repository, layout};
use crate::sync::{FirstFailure, lock};
use crate::units::{MIB, count, format_bytes};

/// Open data packs among which chunks are dealt out.
const OPEN_DATA_PACKS: usize = 2;
/// Size of meta packs in bytes.
pub const META_PACK_BYTES: usize = 8 * MIB as usize;
/// Packs after which the first segment of a session is written; each further one waits for twice as many, so that a
/// crash early loses little and a long session leaves few segments.
const SEGMENT_PACKS_FIRST: usize = 4;
/// Most packs that wait for their segment.
const SEGMENT_PACKS_MAX: usize = 512;
/// Longest time that an uploaded pack waits for its segment.
const SEGMENT_AGE_MAX: Duration = Duration::from_secs(300);
/// Packs of a repository from which on packs are twice as large.
const PACKS_BEFORE_GROWTH: usize = 32 << 10;

/// What became of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is on its way to the backend.
    New,
    /// The repository had it.
    Known,
}

/// What a writer did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// New chunks.
    pub chunks: u64,
    /// Their plain bytes.
    pub plain_bytes: u64,
    /// Bytes of packs and segments written to the backend.
    pub stored_bytes: u64,
}

/// Stores chunks for one session. Calls may come from many threads.
pub struct ChunkWriter {
    shared: Arc<Shared>,
    uploaders: Vec<JoinHandle<()>>,
}

struct Shared {
    repository: Arc<Repository>,
    session: Arc<Session>,
    monitor: Arc<dyn Monitor>,
    cancel: Cancel,
    ending: Ending,
    data_packs: [Mutex<Option<PackBuilder>>; OPEN_DATA_PACKS],
    meta_pack: Mutex<Option<PackBuilder>>,
    data_pack_bytes: OnceLock<usize>,
    uploads: Mutex<Option<Sender<(BlobKind, PackBuilder)>>>,
    claimed: Mutex<HashSet<ChunkId>>,
    unindexed: Mutex<PerKind<Unindexed>>,
    failure: FirstFailure,
    chunks: AtomicU64,
    plain_bytes: AtomicU64,
    stored_bytes: AtomicU64,
    kept: Mutex<Kept>,
}

/// What stays of a session that ends without a snapshot: packs that a segment names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Kept {
    packs: u64,
    chunks: u64,
    bytes: u64,
}

/// Uploaded packs of one kind that no segment names yet.
struct Unindexed {
    packs: Vec<IndexedPack>,
    since: Instant,
    packs_wanted: usize,
}

impl Default for Unindexed {
    fn default() -> Self {
        Self { packs: Vec::new(), since: Instant::now(), packs_wanted: SEGMENT_PACKS_FIRST }
    }
}

impl Unindexed {
    fn is_due(&self) -> bool {
        let chunks: usize = self.packs.iter().map(|pack| pack.chunks.len()).sum();
        self.packs.len() >= self.packs_wanted
            || chunks >= SEGMENT_CHUNKS_MAX / 4
            || (!self.packs.is_empty() && self.since.elapsed() > SEGMENT_AGE_MAX)
    }

    /// Returns whether a pack of so many chunks is too much for the segment that the others will be in.
    fn is_full_for(&self, chunks: usize) -> bool {
        self.packs.iter().map(|pack| pack.chunks.len()).sum::<usize>() + chunks > SEGMENT_CHUNKS_MAX
    }

    fn take(&mut self) -> Vec<IndexedPack> {
        self.since = Instant::now();
        self.packs_wanted = (self.packs_wanted * 2).min(SEGMENT_PACKS_MAX);
        std::mem::take(&mut self.packs)
    }
}

impl ChunkWriter {
    /// Starts the upload threads.
    pub fn new(repository: Arc<Repository>, session: Arc<Session>, hears: &Hears) -> Self {
        let plan = *repository.memory_plan();
        let threads = plan.uploads.min(repository.backend().concurrency());
        let (sender, receiver) = bounded(1);
        let shared = Arc::new(Shared {
            repository,
            session,
            monitor: Arc::clone(&hears.monitor),
            cancel: hears.cancel.clone(),
            ending: Ending::default(),
            data_packs: Default::default(),
            meta_pack: Mutex::default(),
            data_pack_bytes: OnceLock::new(),
            uploads: Mutex::new(Some(sender)),
            claimed: Mutex::default(),
            unindexed: Mutex::default(),
            failure: FirstFailure::default(),
            chunks: AtomicU64::new(0),
            plain_bytes: AtomicU64::new(0),
            stored_bytes: AtomicU64::new(0),
            kept: Mutex::default(),
        });
        let uploaders = (0..threads)
            .map(|_| {
                let (shared, receiver) = (Arc::clone(&shared), receiver.clone());
                std::thread::spawn(move || shared.upload_all(&receiver))
            })
            .collect();
        Self { shared, uploaders }
    }

    /// Returns the repository that is written to.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.shared.repository
    }

    /// Stores a chunk unless the repository has it. Returns once the chunk is in an open pack.
    pub fn write(&self, encoder: &mut Encoder, kind: BlobKind, plain: &[u8]) -> Result<(ChunkId, Fate)> {
        let shared = &self.shared;
        shared.failure.check()?;
        let id = shared.repository.keys().chunk_id(kind as u8, plain);
        if !shared.claim(kind, &id)? {
            return Ok((id, Fate::Known));
        }
        shared.store(encoder, kind, id, plain).inspect_err(|error| shared.failure.set(error.clone()))?;
        Ok((id, Fate::New))
    }

    /// Returns whether the repository holds a chunk that this session may rely on.
    pub fn holds(&self, kind: BlobKind, id: &ChunkId) -> Result<bool> {
        Ok(lock(&self.shared.claimed).contains(id) || self.shared.is_indexed(kind, id)?)
    }

    /// Writes what is still open: packs, then segments. After this everything stored is in the backend and indexed.
    pub fn finish(mut self) -> Result<Written> {
        self.flush()?;
        Ok(self.shared.written())
    }

    /// Packs are in the backend before a segment names them: the upload threads end first.
    fn flush(&mut self) -> Result<()> {
        // Who wants to stop gets no more packs, which may be large: the time that is left is for saying what is there.
        let flushed = self.shared.cancel.check().and_then(|()| self.shared.flush_open_packs());
        lock(&self.shared.uploads).take();
        for uploader in self.uploaders.drain(..) {
            uploader.join().map_err(|_| Error::Internal("an upload thread panicked".to_owned()))?;
        }
        let indexed = self.shared.index_uploaded();
        self.shared.failure.check()?;
        flushed?;
        indexed
    }

    /// Returns who else can end the session in the middle of its work.
    pub fn watched(&self) -> WatchedWriter {
        WatchedWriter(Arc::clone(&self.shared))
    }

    /// Returns what was done so far.
    pub fn written(&self) -> Written {
        self.shared.written()
    }
}

/// A writer as the one sees it who watches its session.
pub struct WatchedWriter(Arc<Shared>);

impl WatchedWriter {
    /// Returns whether the session is for the watch to end: whoever works in it has not begun to.
    pub fn claim_end(&self) -> bool {
        self.0.ending.claim(Ender::Watch)
    }

    /// Returns whether the session is for whoever works in it to end: the watch has not begun to.
    pub fn claim_end_of_work(&self) -> bool {
        self.0.ending.claim(Ender::Worker)
    }

    /// Says what stays of the session, which ends without a snapshot.
    pub fn tell_kept(&self, purpose: &str) {
        let Kept { packs, chunks, bytes } = *lock(&self.0.kept);
        if packs > 0 {
            self.0.monitor.note(&format!(
                "{} in {} ({}) are kept, and the next {purpose} finds them: give the same command again to go on",
                count(chunks, "chunk"),
                count(packs, "pack"),
                format_bytes(bytes),
            ));
        } else if self.0.cancel.is_raised() {
            self.0.monitor.note(&format!("Nothing is kept of this {purpose}: it had not stored a whole pack yet"));
        }
    }

    /// Stops all further writes, and indexes what was uploaded.
    pub fn stop(&self) -> Result<()> {
        self.0.failure.set(Error::Interrupted);
        self.0.index_uploaded()
    }
}

impl Drop for ChunkWriter {
    fn drop(&mut self) {
        if self.uploaders.is_empty() {
            return;
        }
        match self.shared.ending.claim(Ender::Worker) {
            // Whoever drops a writer has failed already; what was uploaded is indexed all the same where that can be.
            true => drop(self.flush()),
            // The watch sees to that. The upload threads end when they find that nothing more can come.
            false => drop(lock(&self.shared.uploads).take()),
        }
    }
}

impl Shared {
    /// Returns whether the caller is the one to store the chunk.
    fn claim(&self, kind: BlobKind, id: &ChunkId) -> Result<bool> {
        if lock(&self.claimed).contains(id) || self.is_indexed(kind, id)? {
            return Ok(false);
        }
        Ok(lock(&self.claimed).insert(*id))
    }

    fn is_indexed(&self, kind: BlobKind, id: &ChunkId) -> Result<bool> {
        for place in self.repository.index().locate(kind, id)? {
            if self.session.may_rely_on(&self.repository, &place)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn store(&self, encoder: &mut Encoder, kind: BlobKind, id: ChunkId, plain: &[u8]) -> Result<()> {
        let keys = &self.session.keys;
        let key = match kind {
            BlobKind::Data => &keys.data,
            BlobKind::Meta => &keys.meta,
        };
        let context = ChunkContext { key, kind, repository: self.repository.id() };
        let (header, sealed) = context.seal(encoder, id, plain).map_err(|error| Error::Internal(error.to_string()))?;
        self.chunks.fetch_add(1, Ordering::Relaxed);
        self.plain_bytes.fetch_add(plain.len() as u64, Ordering::Relaxed);
        let full = {
            let mut open = lock(self.open_pack(kind));
            let limit = self.pack_bytes(kind);
            let full = open.take_if(|pack| pack.len_with(sealed.len()) > limit || pack.chunk_count() >= CHUNKS_MAX);
            open.get_or_insert_with(|| self.new_pack(kind)).push(header, &sealed);
            full
        };
        full.map_or(Ok(()), |pack| self.hand_over(kind, pack))
    }

    fn open_pack(&self, kind: BlobKind) -> &Mutex<Option<PackBuilder>> {
        match kind {
            BlobKind::Meta => &self.meta_pack,
            BlobKind::Data => &self.data_packs[usize::from(crate::crypto::random::<1>()[0]) % OPEN_DATA_PACKS],
        }
    }

    fn pack_bytes(&self, kind: BlobKind) -> usize {
        match kind {
            BlobKind::Data => *self.data_pack_bytes.get_or_init(|| self.choose_data_pack_bytes()),
            BlobKind::Meta => META_PACK_BYTES.min(self.repository.config().pack_bytes as usize),
        }
    }

    /// Data packs grow once a repository is large, and never beyond what the memory plan allows.
    fn choose_data_pack_bytes(&self) -> usize {
        let configured = self.repository.config().pack_bytes as usize;
        let packs = self.repository.index().packs(BlobKind::Data).map_or(0, |packs| packs.len());
        let wanted = if packs > PACKS_BEFORE_GROWTH { configured * 2 } else { configured };
        wanted.min(self.repository.memory_plan().pack_bytes_max as usize)
    }

    fn new_pack(&self, kind: BlobKind) -> PackBuilder {
        let header = PackHeader { kind, repository: self.repository.id(), session: self.session.keys.header };
        PackBuilder::new(header, self.pack_bytes(kind))
    }

    fn hand_over(&self, kind: BlobKind, pack: PackBuilder) -> Result<()> {
        let sender = lock(&self.uploads).clone();
        let sent = sender.is_some_and(|sender| sender.send((kind, pack)).is_ok());
        if sent { Ok(()) } else { Err(Error::Internal("the upload threads are gone".to_owned())) }
    }

    /// The two half-filled data packs become one where that fits.
    fn flush_open_packs(&self) -> Result<()> {
        let mut left: Vec<PackBuilder> = self.data_packs.iter().filter_map(|pack| lock(pack).take()).collect();
        if let [first, second] = &left[..]
            && first.len_with(second.content_len()) <= self.pack_bytes(BlobKind::Data)
        {
            let second = left.remove(1);
            left[0].absorb(second);
        }
        left.into_iter().try_for_each(|pack| self.hand_over(BlobKind::Data, pack))?;
        let meta = lock(&self.meta_pack).take();
        meta.map_or(Ok(()), |pack| self.hand_over(BlobKind::Meta, pack))
    }

    /// Body of an upload thread. After a failure it drains its channel, so that nobody waits for it for ever.
    fn upload_all(&self, packs: &Receiver<(BlobKind, PackBuilder)>) {
        for (kind, pack) in packs {
            if let Err(error) = self.cancel.check() {
                // A pack that is begun now would come too late for a segment to name it.
                self.failure.set(error);
            }
            if !self.failure.is_set()
                && let Err(error) = self.upload(kind, pack)
            {
                self.failure.set(error);
            }
        }
    }

    fn upload(&self, kind: BlobKind, pack: PackBuilder) -> Result<()> {
        let finished = pack.finish(&self.session.keys.meta);
        let id = finished.id();
        let FinishedPack { chunks, bytes } = finished;
        let len = bytes.len() as u64;
        self.create(&layout::pack(kind, &id), Bytes::from(bytes))?;
        self.remember(kind, id, len, chunks)
    }

    fn remember(&self, kind: BlobKind, id: PackId, len: u64, chunks: Vec<ChunkHeader>) -> Result<()> {
        let (before, due) = {
            let mut unindexed = lock(&self.unindexed);
            let of_kind = &mut unindexed[kind];
            let before = if of_kind.is_full_for(chunks.len()) { of_kind.take() } else { Vec::new() };
            of_kind.packs.push(IndexedPack { id, session: self.session.keys.header, len, is_vouched: true, chunks });
            // Once somebody wants to stop, nobody may be there later to do it.
            (before, of_kind.is_due() || self.cancel.is_raised())
        };
        self.write_segment_of(kind, before)?;
        if due { self.write_segment(kind) } else { Ok(()) }
    }

    /// Writes segments for what is uploaded, also after a failure. A backend that was waited for in vain is not waited for
    /// again, unless the wait is short because somebody wants to stop.
    fn index_uploaded(&self) -> Result<()> {
        if let Err(error) = self.failure.check()
            && error.fault() == Some(Fault::Unavailable)
            && !self.cancel.is_raised()
        {
            return Err(error);
        }
        let written = BlobKind::ALL.map(|kind| self.write_segment(kind));
        written.into_iter().collect()
    }

    fn write_segment(&self, kind: BlobKind) -> Result<()> {
        let packs = lock(&self.unindexed)[kind].take();
        self.write_segment_of(kind, packs)
    }

    fn write_segment_of(&self, kind: BlobKind, packs: Vec<IndexedPack>) -> Result<()> {
        if packs.is_empty() {
            return Ok(());
        }
        let segment = Segment { kind, packs };
        let (id, bytes) = self.repository.seal_segment(&segment);
        if let Err(error) = self.create(&layout::segment(kind, &id), bytes) {
            // So that the end of the session tries again.
            lock(&self.unindexed)[kind].packs.extend(segment.packs);
            return Err(error);
        }
        self.keep(&segment);
        self.repository.index().add(id, &segment)?;
        let mut claimed = lock(&self.claimed);
        for chunk in segment.packs.iter().flat_map(|pack| &pack.chunks) {
            claimed.remove(&chunk.id);
        }
        Ok(())
    }

    fn keep(&self, segment: &Segment) {
        let mut kept = lock(&self.kept);
        kept.packs += segment.packs.len() as u64;
        kept.chunks += segment.packs.iter().map(|pack| pack.chunks.len() as u64).sum::<u64>();
        kept.bytes += segment.packs.iter().map(|pack| pack.len).sum::<u64>();
    }

    fn create(&self, key: &str, bytes: Bytes) -> Result<()> {
        let len = bytes.len() as u64;
        self.repository.backend().create(key, bytes)?;
        self.stored_bytes.fetch_add(len, Ordering::Relaxed);
        self.monitor.count(Counter::BytesTransferred, len);
        Ok(())
    }

    fn written(&self) -> Written {
        Written {
            chunks: self.chunks.load(Ordering::Relaxed),
            plain_bytes: self.plain_bytes.load(Ordering::Relaxed),
            stored_bytes: self.stored_bytes.load(Ordering::Relaxed),
        }
    }
}
