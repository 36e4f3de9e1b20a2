//! The stages of a backup: walk → read and cut → name, compress, seal → pack, and the tree at the end.
//!
//! ```text
//! walker ──unchanged──────────────────────────────┐
//!    └─files─→ readers ─small files, stored here──┤→ entries, put in order ─→ tree writer
//!                 └─chunks─→ sealers ─────────────┘
//! ```
//!
//! What must stay true:
//! - Bytes between readers and sealers are bounded by the memory plan, entries under way by [`ENTRIES_MAX`].
//! - Every entry that takes a ticket gives it back, and every file yields exactly one [`Done`], whatever happens.
//! - No stage waits for a later one that has stopped: after the first failure every stage drains its input and does
//!   nothing else, so that the threads end and the failure is what the caller gets.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::backup::Problems;
use crate::backup::parent::{Parent, Verdict};
use crate::backup::reader::{ReadError, Slots};
use crate::budget::{Budget, Permit};
use crate::cancel::Cancel;
use crate::chunks::cut::{self, ReadFacts, Window};
use crate::chunks::writer::{ChunkWriter, Fate};
use crate::compress::Encoder;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::attributes::Attributes;
use crate::format::snapshot::Statistics;
use crate::format::tree::{ChunkRef, Entry, EntryKind, FileTime, Metadata};
use crate::monitor::{Counter, Monitor};
use crate::repository::Repository;
use crate::source::{Found, Item, ItemKind, Source};
use crate::sync::{self, lock};
use crate::trees::writer::{TreeSummary, TreeWriter};
use crate::units::KIB;

/// Entries between the walker and the tree writer.
const ENTRIES_MAX: u64 = 8192;
/// Files that wait for a reader.
const FILES_WAITING_MAX: usize = 64;
/// Files up to this size are stored by the thread that reads them; chunks of larger ones go to the sealers.
const SMALL_FILE_BYTES: u64 = 256 * KIB;
/// How often a file is read that turns into another one underway.
const READ_ATTEMPTS_MAX: u32 = 3;
/// A file that changed within this time before it was read may change again without its times showing it: kernels
/// stamp times with a tick of at most ten milliseconds.
const RACY_NANOSECONDS: i128 = 20_000_000;

/// What every stage needs.
pub struct Job<'a> {
    /// Where to.
    pub repository: &'a Arc<Repository>,
    /// Stores chunks.
    pub chunks: &'a ChunkWriter,
    /// Collects what goes wrong with single files.
    pub problems: &'a Problems,
    /// Hears of progress.
    pub monitor: &'a Arc<dyn Monitor>,
    /// Says when to stop.
    pub cancel: &'a Cancel,
    /// Kind of the chunks that files are stored as.
    pub kind: BlobKind,
}

/// What decides on entries on their way into the tree, in path order.
pub trait Review {
    /// Goes on to the next path, or to the end, and returns what has to be written before it.
    fn advance(&mut self, next: Option<&[u8]>) -> Result<Vec<Entry>>;
    /// Takes note of the entry of the path gone on to.
    fn take_note(&mut self, entry: &Entry) -> Result<()>;
    /// Decides on the path gone on to, which was found and could not be read.
    fn replace(&mut self, path: &[u8]) -> Result<Replacement>;
    /// Returns whether a file may change while it is read, because it is still being written.
    fn may_change(&self, path: &[u8]) -> bool;
}

/// What to make of something that could not be read.
#[derive(Debug)]
pub enum Replacement {
    /// It is missing in the snapshot.
    Problem,
    /// It was deleted on purpose; this is what stands in its place, if anything does.
    By(Option<Box<Entry>>),
}

/// Lets everything pass.
pub struct NoReview;

impl Review for NoReview {
    fn advance(&mut self, _: Option<&[u8]>) -> Result<Vec<Entry>> {
        Ok(Vec::new())
    }

    fn take_note(&mut self, _: &Entry) -> Result<()> {
        Ok(())
    }

    fn replace(&mut self, _: &[u8]) -> Result<Replacement> {
        Ok(Replacement::Problem)
    }

    fn may_change(&self, _: &[u8]) -> bool {
        false
    }
}

/// Something that went wrong with one item.
struct Trouble {
    /// Its path in the tree.
    path: Vec<u8>,
    /// Where the source has it.
    location: String,
    message: String,
}

/// An entry, or nothing where a file could not be read, with its place in the order.
struct Done {
    sequence: u64,
    entry: Option<Entry>,
    trouble: Option<Trouble>,
    _ticket: Option<Permit>,
}

/// What is known of a file once it was read.
struct ReadFile {
    facts: ReadFacts,
    metadata: Metadata,
    racy: bool,
    attributes: Attributes,
}

/// A file on its way through the stages. When the last stage lets go of it, its entry goes to the tree writer.
struct FileUnderWay {
    sequence: u64,
    item: Item,
    kind: BlobKind,
    hard_link: Option<Vec<u8>>,
    slots: Slots,
    read: Mutex<Option<ReadFile>>,
    trouble: Mutex<Option<Trouble>>,
    ticket: Option<Permit>,
    done: Sender<Done>,
}

impl Drop for FileUnderWay {
    fn drop(&mut self) {
        let read = lock(&self.read).take();
        let chunks = self.slots.take_chunks();
        let whole = read.zip(chunks).filter(|(read, chunks)| read.facts.size == total_len(chunks));
        let entry = whole.map(|(read, chunks)| {
            let sparse = matches!(self.item.kind, ItemKind::File { sparse: true, .. });
            let content = read.facts.content(self.kind, chunks, sparse, read.racy, self.hard_link.take());
            let path = std::mem::take(&mut self.item.path);
            Entry { path, metadata: read.metadata, kind: EntryKind::File(content), attributes: read.attributes }
        });
        let trouble = lock(&self.trouble).take();
        let done = Done { sequence: self.sequence, entry, trouble, _ticket: self.ticket.take() };
        // Nobody listens any more only when the backup has failed already.
        let _ = self.done.send(done);
    }
}

impl FileUnderWay {
    fn has_trouble(&self, message: &str) {
        let path = self.item.path.clone();
        let trouble =
            Trouble { path, location: self.item.location.to_string_lossy().into_owned(), message: message.to_owned() };
        *lock(&self.trouble) = Some(trouble);
    }
}

/// A chunk for the sealers.
struct ChunkJob {
    file: Arc<FileUnderWay>,
    attempt: u32,
    number: usize,
    plain: Vec<u8>,
    _permit: Permit,
}

/// The first failure, and the signal to drain.
#[derive(Default)]
struct Failure {
    first: Mutex<Option<Error>>,
    is_set: AtomicBool,
}

impl Failure {
    fn set(&self, error: Error) {
        lock(&self.first).get_or_insert(error);
        self.is_set.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed)
    }

    fn into_result(self) -> Result<()> {
        sync::into_inner(self.first).map_or(Ok(()), Err)
    }
}

#[derive(Default)]
struct Tally {
    new: AtomicU64,
    changed: AtomicU64,
    unchanged: AtomicU64,
    bytes_read: AtomicU64,
}

impl Tally {
    fn count(&self, verdict: &Verdict) {
        let counter = match verdict {
            Verdict::New => &self.new,
            Verdict::Changed => &self.changed,
            Verdict::Unchanged(..) => &self.unchanged,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn statistics(&self) -> Statistics {
        Statistics {
            files_new: self.new.load(Ordering::Relaxed),
            files_changed: self.changed.load(Ordering::Relaxed),
            files_unchanged: self.unchanged.load(Ordering::Relaxed),
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            ..Statistics::default()
        }
    }
}

struct Stages<'a> {
    job: &'a Job<'a>,
    failure: Failure,
    tally: Tally,
    chunk_budget: Budget,
    tickets: Budget,
}

/// Stores a whole source as a tree.
pub fn store_tree(
    job: &Job<'_>,
    source: &dyn Source,
    parent: Parent<'_>,
    review: &mut dyn Review,
) -> Result<(TreeSummary, Statistics)> {
    let walk = |stages: &Stages<'_>, files: &Sender<Arc<FileUnderWay>>, done: &Sender<Done>| {
        stages.walk(source, parent, files, done);
    };
    let finished = AtomicBool::new(false);
    std::thread::scope(|scope| {
        if job.monitor.wants_totals() && source.is_cheap_to_walk() {
            scope.spawn(|| find_totals(source, job.monitor.as_ref(), &finished));
        }
        let stored = run_stages(job, source, walk, review);
        finished.store(true, Ordering::Relaxed);
        stored
    })
}

/// Walks ahead of the backup, so that a person watching learns how much there is.
fn find_totals(source: &dyn Source, monitor: &dyn Monitor, finished: &AtomicBool) {
    let (mut entries, mut bytes) = (0, 0);
    for found in source.walk() {
        if finished.load(Ordering::Relaxed) {
            return;
        }
        if let Found::Item(item) = found {
            entries += 1;
            bytes += item.size().unwrap_or(0);
        }
    }
    monitor.totals(entries, bytes);
}

fn run_stages(
    job: &Job<'_>,
    source: &dyn Source,
    walk: impl FnOnce(&Stages<'_>, &Sender<Arc<FileUnderWay>>, &Sender<Done>) + Send,
    review: &mut dyn Review,
) -> Result<(TreeSummary, Statistics)> {
    job.monitor.phase("backup", None, None);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let stages = Stages {
        job,
        failure: Failure::default(),
        tally: Tally::default(),
        chunk_budget: Budget::new(job.repository.memory_plan().chunk_bytes / 2),
        tickets: Budget::new(ENTRIES_MAX),
    };
    let (file_sender, files) = bounded(FILES_WAITING_MAX);
    let (chunk_sender, chunks) = unbounded();
    let (done_sender, done) = unbounded();
    let tree = std::thread::scope(|scope| {
        let stages = &stages;
        for _ in 0..threads {
            let (files, chunk_sender, chunks) = (files.clone(), chunk_sender.clone(), chunks.clone());
            scope.spawn(move || stages.read_files(source, &files, &chunk_sender));
            scope.spawn(move || stages.seal_chunks(&chunks));
        }
        drop(chunk_sender);
        scope.spawn(move || walk(stages, &file_sender, &done_sender));
        stages.write_tree(&done, review)
    });
    let statistics = stages.tally.statistics();
    stages.failure.into_result()?;
    Ok((tree?, statistics))
}

impl Stages<'_> {
    /// Walks the source beside the parent's tree and sends on what it finds, in order.
    fn walk(
        &self,
        source: &dyn Source,
        mut parent: Parent<'_>,
        files: &Sender<Arc<FileUnderWay>>,
        done: &Sender<Done>,
    ) {
        let mut first_links = HashMap::new();
        let mut sequence = 0;
        for found in source.walk() {
            if let Err(error) = self.job.cancel.check() {
                self.failure.set(error);
            }
            if self.failure.is_set() {
                return;
            }
            let item = match found {
                Found::Item(item) => item,
                Found::Unreadable { item, path, message } => {
                    let trouble = Some(Trouble { path: item, location: path, message });
                    let _ticket = Some(self.tickets.take(1));
                    let _ = done.send(Done { sequence, entry: None, trouble, _ticket });
                    sequence += 1;
                    continue;
                }
                Found::Skipped { path, message } => {
                    self.job.monitor.note(&format!("{path} was left out: it is {message}"));
                    continue;
                }
                Found::Failed(error) => return self.failure.set(error),
            };
            match self.dispatch(sequence, item, (source, &mut parent), &mut first_links, files, done) {
                Ok(()) => sequence += 1,
                Err(error) => return self.failure.set(error),
            }
        }
    }

    fn dispatch(
        &self,
        sequence: u64,
        item: Item,
        (source, parent): (&dyn Source, &mut Parent<'_>),
        first_links: &mut HashMap<(u64, u64), Vec<u8>>,
        files: &Sender<Arc<FileUnderWay>>,
        done: &Sender<Done>,
    ) -> Result<()> {
        let hard_link = hard_link_of(&item, first_links);
        let mut attributes = Attributes::new();
        let kind = match &item.kind {
            ItemKind::Directory => EntryKind::Directory,
            ItemKind::Symlink { target } => EntryKind::Symlink { target: target.clone() },
            ItemKind::File { size, .. } | ItemKind::Object { size, .. } => {
                let verdict = parent.compare(&item, &|kind, chunk| self.job.chunks.holds(kind, chunk))?;
                self.tally.count(&verdict);
                match verdict {
                    Verdict::Unchanged(mut content, known) => {
                        self.job.monitor.count(Counter::Bytes, *size);
                        self.job.monitor.count(Counter::BytesDeduplicated, *size);
                        content.hard_link = hard_link;
                        attributes = known;
                        EntryKind::File(content)
                    }
                    verdict => {
                        let word = if verdict == Verdict::New { "new" } else { "changed" };
                        self.job.monitor.detail(&|| format!("{word} {}", item.location.display()));
                        source.expect(&item);
                        let _ = files.send(self.begin_file(sequence, item, hard_link, done));
                        return Ok(());
                    }
                }
            }
        };
        let entry = Entry { path: item.path, metadata: item.metadata, kind, attributes };
        let _ = done.send(Done { sequence, entry: Some(entry), trouble: None, _ticket: Some(self.tickets.take(1)) });
        Ok(())
    }

    fn begin_file(
        &self,
        sequence: u64,
        item: Item,
        hard_link: Option<Vec<u8>>,
        done: &Sender<Done>,
    ) -> Arc<FileUnderWay> {
        Arc::new(FileUnderWay {
            sequence,
            item,
            kind: self.job.kind,
            hard_link,
            slots: Slots::default(),
            read: Mutex::default(),
            trouble: Mutex::default(),
            ticket: Some(self.tickets.take(1)),
            done: done.clone(),
        })
    }

    fn read_files(&self, source: &dyn Source, files: &Receiver<Arc<FileUnderWay>>, chunks: &Sender<ChunkJob>) {
        let (mut window, mut encoder) = (Window::default(), Encoder::default());
        for file in files {
            if self.failure.is_set() {
                continue;
            }
            match self.read_file(source, &file, &mut window, &mut encoder, chunks) {
                Ok(()) => {}
                Err(ReadError::Fatal(error)) => self.failure.set(error),
                Err(ReadError::Changed) => {
                    let message = format!("it changed each of the {READ_ATTEMPTS_MAX} times that it was read");
                    file.has_trouble(&message);
                }
                Err(ReadError::Source(error)) => {
                    let message = match error.kind() {
                        std::io::ErrorKind::NotFound => "it vanished during the backup".to_owned(),
                        _ => format!("it cannot be read: {error}"),
                    };
                    file.has_trouble(&message);
                }
            }
        }
    }

    fn read_file(
        &self,
        source: &dyn Source,
        file: &Arc<FileUnderWay>,
        window: &mut Window,
        encoder: &mut Encoder,
        chunks: &Sender<ChunkJob>,
    ) -> Result<(), ReadError> {
        for attempt in 1..READ_ATTEMPTS_MAX {
            match self.read_file_once(source, (file, attempt), window, encoder, chunks) {
                Err(ReadError::Changed) => {}
                result => return result,
            }
        }
        self.read_file_once(source, (file, READ_ATTEMPTS_MAX), window, encoder, chunks)
    }

    fn read_file_once(
        &self,
        source: &dyn Source,
        (file, attempt): (&Arc<FileUnderWay>, u32),
        window: &mut Window,
        encoder: &mut Encoder,
        chunks: &Sender<ChunkJob>,
    ) -> Result<(), ReadError> {
        file.slots.begin(attempt);
        let mut content = source.open(&file.item)?;
        let metadata = content.metadata();
        let racy = is_racy(&metadata.ctime, self.job.repository.clock().now());
        let small = content.size().is_some_and(|size| size <= SMALL_FILE_BYTES);
        let mut take_chunk = |number, plain: &[u8]| {
            self.job.cancel.check()?;
            self.tally.bytes_read.fetch_add(plain.len() as u64, Ordering::Relaxed);
            if small {
                return self.store_chunk(encoder, (file, attempt), number, plain);
            }
            let permit = self.chunk_budget.take(plain.len() as u64);
            let job = ChunkJob { file: Arc::clone(file), attempt, number, plain: plain.to_vec(), _permit: permit };
            if self.failure.is_set() {
                return Err(Error::Interrupted);
            }
            chunks.send(job).map_err(|_| Error::Internal("the sealing threads are gone".to_owned()))
        };
        let facts = cut::read_chunks(self.job.repository.chunker(), window, &mut content, |number, plain| {
            take_chunk(number, plain).map_err(ReadError::Fatal)
        })?;
        let attributes = content.attributes();
        if let Some(change) = content.finish()? {
            file.has_trouble(&change);
        }
        let read = ReadFile { facts, metadata, racy, attributes };
        *lock(&file.read) = Some(read);
        Ok(())
    }

    fn seal_chunks(&self, chunks: &Receiver<ChunkJob>) {
        let mut encoder = Encoder::default();
        for job in chunks {
            if !self.failure.is_set()
                && let Err(error) = self.store_chunk(&mut encoder, (&job.file, job.attempt), job.number, &job.plain)
            {
                self.failure.set(error);
            }
        }
    }

    fn store_chunk(
        &self,
        encoder: &mut Encoder,
        (file, attempt): (&FileUnderWay, u32),
        number: usize,
        plain: &[u8],
    ) -> Result<()> {
        let (id, fate) = self.job.chunks.write(encoder, self.job.kind, plain)?;
        file.slots.put(attempt, number, id, plain.len());
        self.job.monitor.count(Counter::Bytes, plain.len() as u64);
        if fate == Fate::Known {
            self.job.monitor.count(Counter::BytesDeduplicated, plain.len() as u64);
        }
        Ok(())
    }

    /// Puts entries in order and writes the tree.
    fn write_tree(&self, done: &Receiver<Done>, review: &mut dyn Review) -> Result<TreeSummary> {
        let mut tree = TreeWriter::new(self.job.chunks);
        let mut waiting = BTreeMap::new();
        let mut next = 0;
        for item in done {
            waiting.insert(item.sequence, item);
            while let Some(item) = waiting.remove(&next) {
                next += 1;
                if !self.failure.is_set() {
                    let written = self.take_in(&mut tree, item, review);
                    written.unwrap_or_else(|error| self.failure.set(error));
                }
            }
        }
        if self.failure.is_set() {
            return Err(Error::Interrupted);
        }
        self.advance(&mut tree, None, review)?;
        tree.finish()
    }

    fn take_in(&self, tree: &mut TreeWriter<'_>, item: Done, review: &mut dyn Review) -> Result<()> {
        let Done { entry, trouble, .. } = item;
        let path = entry.as_ref().map(|entry| &entry.path).or(trouble.as_ref().map(|trouble| &trouble.path));
        // A file has neither only after a failure elsewhere.
        let Some(path) = path else { return Ok(()) };
        self.advance(tree, Some(path), review)?;
        match (entry, trouble) {
            (Some(entry), trouble) => {
                if let Some(trouble) = trouble {
                    self.report_change(&trouble, review);
                }
                review.take_note(&entry)?;
                self.write(tree, entry)
            }
            (None, Some(trouble)) => match review.replace(&trouble.path)? {
                Replacement::By(Some(entry)) => self.write(tree, *entry),
                Replacement::By(None) => {
                    self.job.monitor.note(&format!("{}: {}, and so did its row", trouble.location, trouble.message));
                    Ok(())
                }
                Replacement::Problem => {
                    self.job.problems.add(&trouble.location, &trouble.message);
                    Ok(())
                }
            },
            (None, None) => Ok(()),
        }
    }

    fn report_change(&self, trouble: &Trouble, review: &dyn Review) {
        if review.may_change(&trouble.path) {
            self.job.monitor.note(&format!("{}: {}", trouble.location, trouble.message));
        } else {
            self.job.problems.add(&trouble.location, &trouble.message);
        }
    }

    fn advance(&self, tree: &mut TreeWriter<'_>, next: Option<&[u8]>, review: &mut dyn Review) -> Result<()> {
        review.advance(next)?.into_iter().try_for_each(|entry| self.write(tree, entry))
    }

    fn write(&self, tree: &mut TreeWriter<'_>, mut entry: Entry) -> Result<()> {
        tree.make_indirect(&mut entry)?;
        tree.push(&entry)?;
        self.job.monitor.count(Counter::Entries, 1);
        Ok(())
    }
}

/// Walks a source beside the parent without reading content. Returns entries, bytes and what a backup would do.
pub fn survey(
    source: &dyn Source,
    mut parent: Parent<'_>,
    problems: &Problems,
    monitor: &Arc<dyn Monitor>,
    cancel: &Cancel,
) -> Result<(u64, u64, Statistics)> {
    monitor.phase("survey", None, None);
    let tally = Tally::default();
    let (mut entries, mut bytes) = (0, 0);
    for found in source.walk() {
        cancel.check()?;
        match found {
            Found::Unreadable { path, message, .. } => problems.add(&path, &message),
            Found::Skipped { path, message } => monitor.note(&format!("{path} would be left out: it is {message}")),
            Found::Failed(error) => return Err(error),
            Found::Item(item) => {
                entries += 1;
                monitor.count(Counter::Entries, 1);
                if let Some(size) = item.size() {
                    bytes += size;
                    let verdict = parent.compare(&item, &|_, _| Ok(true))?;
                    tally.count(&verdict);
                    if !matches!(verdict, Verdict::Unchanged(..)) {
                        tally.bytes_read.fetch_add(size, Ordering::Relaxed);
                    }
                }
            }
        }
    }
    Ok((entries, bytes, tally.statistics()))
}

/// Returns the path of the first name of this file that was met, if this is a further one.
fn hard_link_of(item: &Item, first_links: &mut HashMap<(u64, u64), Vec<u8>>) -> Option<Vec<u8>> {
    let ItemKind::File { linked: true, .. } = item.kind else { return None };
    let file = (item.metadata.device, item.metadata.inode);
    if let Some(first) = first_links.get(&file) {
        return Some(first.clone());
    }
    first_links.insert(file, item.path.clone());
    None
}

fn total_len(chunks: &[ChunkRef]) -> u64 {
    chunks.iter().map(|chunk| u64::from(chunk.len)).sum()
}

fn is_racy(ctime: &FileTime, now: jiff::Timestamp) -> bool {
    let changed = i128::from(ctime.seconds) * 1_000_000_000 + i128::from(ctime.nanoseconds);
    now.as_nanosecond() - changed < RACY_NANOSECONDS
}
