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
//! - Every entry that takes a ticket gives it back, and every place in the order is filled once, whatever happens.
//! - No stage waits for a later one that has stopped: after the first failure every stage drains its input and does
//!   nothing else, so that the threads end and the failure is what the caller gets.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::backup::file_under_way::{ChunkJob, Done, FileUnderWay, ItemProblem, PlaceInOrder, ReadError, ReadFile};
use crate::backup::job::Job;
use crate::backup::parent::{ParentTree, SinceParent};
use crate::backup::review::Review;
use crate::backup::stage::{ReviewedTree, Stage};
use crate::backup::survey::find_totals;
use crate::backup::tally::Tally;
use crate::budget::Budget;
use crate::chunks::content::Intake;
use crate::chunks::cut::Window;
use crate::compress::Encoder;
use crate::error::{Error, Result};
use crate::format::attributes::Attributes;
use crate::format::snapshot::Statistics;
use crate::format::tree::{Entry, EntryKind, FileTime};
use crate::monitor::Counter;
use crate::source::{Found, Item, ItemKind, Source};
use crate::sync::{FirstFailure, into_inner, lock};
use crate::trees::writer::TreeSummary;
use crate::units::KIB;

/// Entries between the walker and the tree writer.
const ENTRIES_MAX: u64 = 8192;
/// Bytes of extended attributes that count as an entry more.
const ENTRY_BYTES: u64 = 4 * KIB;
/// Files that wait for a reader.
const FILES_WAITING_MAX: usize = 64;
/// Files up to this size are stored by the thread that reads them; chunks of larger ones go to the sealers.
const SMALL_FILE_BYTES: u64 = 256 * KIB;
/// How often a file is read that turns into another one underway.
const READ_ATTEMPTS_MAX: u32 = 3;
/// A file that changed within this time before it was read may change again without its times showing it: kernels
/// stamp times with a tick of at most ten milliseconds.
const RACY_NANOSECONDS: i128 = 20_000_000;

struct Stages<'a> {
    job: &'a Job<'a>,
    source: &'a dyn Source,
    failure: FirstFailure,
    tally: Tally,
    chunk_budget: Budget,
    tickets: Budget,
    first_links: Mutex<FirstLinks>,
}

/// The first name that a walk met of each file that may have several, by device and inode.
pub type FirstLinks = HashMap<(u64, u64), Vec<u8>>;

/// Stores a whole source as a tree.
pub fn store_tree(
    job: &Job<'_>,
    source: &dyn Source,
    parent: ParentTree<'_>,
    review: &mut dyn Review,
) -> Result<(TreeSummary, Statistics)> {
    let mut tree = ReviewedTree::new(job, review);
    let (statistics, _) = read_all(job, source, parent, &mut tree)?;
    Ok((tree.finish()?, statistics))
}

/// Reads a whole source, stores what is new of it, and hands over what it comes to, in the order of paths.
pub fn read_all(
    job: &Job<'_>,
    source: &dyn Source,
    parent: ParentTree<'_>,
    stage: &mut dyn Stage,
) -> Result<(Statistics, FirstLinks)> {
    let finished = AtomicBool::new(false);
    std::thread::scope(|scope| {
        if job.hears.monitor.wants_totals() && source.is_cheap_to_walk() {
            scope.spawn(|| find_totals(source, job.hears.monitor.as_ref(), &finished));
        }
        let stored = run_stages(job, source, parent, stage);
        finished.store(true, Ordering::Relaxed);
        stored
    })
}

fn run_stages(
    job: &Job<'_>,
    source: &dyn Source,
    parent: ParentTree<'_>,
    stage: &mut dyn Stage,
) -> Result<(Statistics, FirstLinks)> {
    job.hears.monitor.phase("backup", None, None);
    let threads = job.repository.thread_plan().computing;
    let stages = Stages {
        job,
        source,
        failure: FirstFailure::default(),
        tally: Tally::default(),
        chunk_budget: Budget::new(job.repository.memory_plan().chunk_bytes / 2),
        tickets: Budget::new(ENTRIES_MAX),
        first_links: Mutex::default(),
    };
    let (file_sender, files) = bounded(FILES_WAITING_MAX);
    // What bounds these two are the budgets for chunks and tickets, not the number of messages.
    let (chunk_sender, chunks) = unbounded();
    let (done_sender, done) = unbounded();
    std::thread::scope(|scope| {
        let stages = &stages;
        for _ in 0..threads {
            let (files, chunks) = (files.clone(), chunks.clone());
            let reader = Reader::new(stages, chunk_sender.clone());
            scope.spawn(move || reader.run(&files));
            scope.spawn(move || stages.seal_chunks(&chunks));
        }
        // Every stage ends when nobody can send to it any more, so this thread must hold no sender.
        drop(chunk_sender);
        let walker = Walker::new(stages, parent, file_sender, done_sender);
        scope.spawn(move || walker.run());
        stages.hand_over(&done, stage);
    });
    stages.failure.check()?;
    Ok((stages.tally.statistics(), into_inner(stages.first_links)))
}

/// The first stage: walks the source beside the parent's tree and sends on what it finds, in order.
struct Walker<'a> {
    stages: &'a Stages<'a>,
    parent: ParentTree<'a>,
    first_links: HashMap<(u64, u64), Vec<u8>>,
    next: u64,
    files: Sender<Arc<FileUnderWay>>,
    done: Sender<Done>,
}

impl<'a> Walker<'a> {
    fn new(
        stages: &'a Stages<'a>,
        parent: ParentTree<'a>,
        files: Sender<Arc<FileUnderWay>>,
        done: Sender<Done>,
    ) -> Self {
        Self { stages, parent, first_links: HashMap::new(), next: 0, files, done }
    }

    fn run(mut self) {
        let Stages { job, source, failure, .. } = self.stages;
        for found in source.walk() {
            let taken = job.hears.check().and_then(|()| self.take(found));
            if let Err(error) = taken {
                failure.set(error);
            }
            if failure.is_set() {
                return;
            }
        }
        *lock(&self.stages.first_links) = self.first_links;
    }

    fn take(&mut self, found: Found) -> Result<()> {
        match found {
            Found::Item(item) => self.dispatch(item),
            Found::Unreadable { item: path, path: location, message } => {
                self.place(&[]).fill(None, Some(ItemProblem { path, location, message }));
                Ok(())
            }
            Found::Skipped { path, message, .. } => {
                self.stages.job.hears.monitor.note(&format!("{path} was left out: it is {message}"));
                Ok(())
            }
            Found::LeftOut { item, path, reason } => {
                self.stages.job.problems.leave_unread(&item);
                self.stages.job.hears.monitor.note(&format!("{path} was left out: it is {reason}"));
                Ok(())
            }
            Found::Failed(error) => Err(error),
        }
    }

    /// Takes the next place in the order, for an entry with these attributes. Waits while too much is under way.
    fn place(&mut self, attributes: &[(u16, Vec<u8>)]) -> PlaceInOrder {
        let bytes: u64 = attributes.iter().map(|(_, value)| value.len() as u64).sum();
        let place = PlaceInOrder::new(self.next, self.stages.tickets.take(1 + bytes / ENTRY_BYTES), self.done.clone());
        self.next += 1;
        place
    }

    fn dispatch(&mut self, item: Item) -> Result<()> {
        let hard_link = self.hard_link_of(&item);
        let (mut attributes, problem) = self.attributes_of(&item);
        let kind = match &item.kind {
            ItemKind::Directory => EntryKind::Directory,
            ItemKind::Symlink { target } => EntryKind::Symlink { target: target.clone() },
            ItemKind::File { size, .. } | ItemKind::Object { size, .. } => {
                let Stages { job, tally, .. } = self.stages;
                let comparison = self.parent.compare(&item, &|kind, chunk| job.chunks.holds(kind, chunk))?;
                tally.count(&comparison);
                match comparison {
                    SinceParent::Unchanged(mut content, known) => {
                        job.hears.monitor.count(Counter::Bytes, *size);
                        job.hears.monitor.count(Counter::BytesDeduplicated, *size);
                        content.hard_link = hard_link;
                        if matches!(item.kind, ItemKind::Object { .. }) {
                            attributes = known;
                        }
                        EntryKind::File(content)
                    }
                    SinceParent::New => return self.send("new", item, hard_link, (attributes, problem)),
                    SinceParent::Changed => return self.send("changed", item, hard_link, (attributes, problem)),
                }
            }
        };
        let entry = Entry { path: item.path, metadata: item.metadata, kind, attributes };
        self.place(&entry.attributes).fill(Some(entry), problem);
        Ok(())
    }

    /// Asks the source anew, also of what is unchanged: the parent may be of a backup that was to store other things.
    fn attributes_of(&self, item: &Item) -> (Attributes, Option<ItemProblem>) {
        self.stages.source.attributes(item).map_or_else(
            |error| {
                let message = format!("its extended attributes cannot be stored: {error}");
                (Attributes::new(), Some(ItemProblem::of(item, message)))
            },
            |attributes| (attributes, None),
        )
    }

    /// Sends a file to the readers.
    fn send(
        &mut self,
        word: &str,
        item: Item,
        hard_link: Option<Vec<u8>>,
        (attributes, problem): (Attributes, Option<ItemProblem>),
    ) -> Result<()> {
        let Stages { job, source, .. } = self.stages;
        job.hears.monitor.detail(&|| format!("{word} {}", item.location.display()));
        source.expect(&item);
        let place = self.place(&attributes);
        let file = FileUnderWay::new(item, job.kind, hard_link, place).with(attributes, problem);
        // The readers take until this stage ends, so sending cannot fail; a file that is let go of fills its place.
        let _ = self.files.send(Arc::new(file));
        Ok(())
    }

    /// Returns the path of the first name of this file that was met, if this is a further one.
    fn hard_link_of(&mut self, item: &Item) -> Option<Vec<u8>> {
        let ItemKind::File { linked: true, .. } = item.kind else { return None };
        let file = (item.metadata.device, item.metadata.inode);
        if let Some(first) = self.first_links.get(&file) {
            return Some(first.clone());
        }
        self.first_links.insert(file, item.path.clone());
        None
    }
}

/// One of the threads that read files. Chunks of small ones it stores itself, the others go to the sealers.
struct Reader<'a> {
    stages: &'a Stages<'a>,
    window: Window,
    encoder: Encoder,
    chunks: Sender<ChunkJob>,
}

impl<'a> Reader<'a> {
    fn new(stages: &'a Stages<'a>, chunks: Sender<ChunkJob>) -> Self {
        Self { stages, window: Window::default(), encoder: Encoder::default(), chunks }
    }

    fn run(mut self, files: &Receiver<Arc<FileUnderWay>>) {
        for file in files {
            // Drained even after a failure: the walker may wait for room in the queue, and must end.
            if self.stages.failure.is_set() {
                continue;
            }
            match self.read(&file) {
                Ok(()) => {}
                Err(ReadError::Fatal(error)) => self.stages.failure.set(error),
                Err(ReadError::Changed) => {
                    file.has_problem(&format!("it changed each of the {READ_ATTEMPTS_MAX} times that it was read"));
                }
                // What is given up because somebody wants to stop is nothing that is wrong with the file.
                Err(ReadError::Source(_)) if self.stages.job.hears.cancel.is_raised() => {
                    self.stages.failure.set(Error::Interrupted);
                }
                Err(ReadError::Source(error)) => {
                    let message = match error.kind() {
                        std::io::ErrorKind::NotFound => "it vanished during the backup".to_owned(),
                        _ => format!("it cannot be read: {error}"),
                    };
                    file.has_problem(&message);
                }
            }
        }
    }

    fn read(&mut self, file: &Arc<FileUnderWay>) -> Result<(), ReadError> {
        for attempt in 1..READ_ATTEMPTS_MAX {
            match self.read_once(file, attempt) {
                Err(ReadError::Changed) => {}
                result => return result,
            }
        }
        self.read_once(file, READ_ATTEMPTS_MAX)
    }

    fn read_once(&mut self, file: &Arc<FileUnderWay>, attempt: u32) -> Result<(), ReadError> {
        let Self { stages, window, encoder, chunks } = self;
        let repository = stages.job.repository;
        file.begin(attempt);
        let mut content = stages.source.open(&file.item)?;
        // Both before the first byte is read: a change after this moment shows in the file's times, or the file is racy.
        let metadata = content.metadata();
        let racy = is_racy(&metadata.ctime, repository.clock().now());
        let small = content.size().is_some_and(|size| size <= SMALL_FILE_BYTES);
        let facts = stages.intake().cut::<ReadError>(window, &mut content, |number, plain| {
            stages.tally.count_read(plain.len() as u64);
            if small {
                return Ok(stages.store_chunk(encoder, (file, attempt), number, plain)?);
            }
            let _permit = stages.chunk_budget.take(plain.len() as u64);
            let job = ChunkJob { file: Arc::clone(file), attempt, number, plain: plain.to_vec(), _permit };
            if stages.failure.is_set() {
                return Err(Error::Interrupted.into());
            }
            chunks.send(job).map_err(|_| Error::Internal("the sealing threads are gone".to_owned()).into())
        })?;
        let attributes = content.attributes();
        if let Some(change) = content.finish()? {
            file.has_problem(&change);
        }
        file.was_read(ReadFile { facts, metadata, racy, attributes });
        Ok(())
    }
}

impl Stages<'_> {
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
        let (chunk, _) = self.intake().store(encoder, plain)?;
        file.put_chunk(attempt, number, chunk);
        Ok(())
    }

    fn intake(&self) -> Intake<'_> {
        Intake::new(self.job.chunks, self.job.kind, self.job.hears)
    }

    /// Puts what was read in order, and hands it to the last stage.
    fn hand_over(&self, done: &Receiver<Done>, stage: &mut dyn Stage) {
        let mut waiting = BTreeMap::new();
        let mut next = 0;
        // To the end, even after a failure: each that is taken gives its ticket back, without which the walker would wait.
        for item in done {
            waiting.insert(item.sequence, item);
            while let Some(Done { entry, problem, .. }) = waiting.remove(&next) {
                next += 1;
                if !self.failure.is_set() {
                    stage.take_in(entry, problem).unwrap_or_else(|error| self.failure.set(error));
                }
            }
        }
    }
}

fn is_racy(ctime: &FileTime, now: jiff::Timestamp) -> bool {
    let changed = i128::from(ctime.seconds) * 1_000_000_000 + i128::from(ctime.nanoseconds);
    now.as_nanosecond() - changed < RACY_NANOSECONDS
}
