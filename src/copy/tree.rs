//! Copies the tree of one component: what the target has is taken over, everything else is read and cut anew.
//!
//! What must stay true: content enters the tree only if its digest is the one that the source's entry says; entries are
//! written in the order in which they are read. After something could not be read the tree is of no use, and the rest is
//! stored all the same: all damage is told at once, and a later copy finds the chunks.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::chunks::content::{self, ContentError, Intake, Tools};
use crate::chunks::fetch::{ChunkFetcher, WantedChunk};
use crate::chunks::reader::ChunkReader;
use crate::chunks::writer::ChunkWriter;
use crate::copy::parent::EarlierCopy;
use crate::error::{Error, Result};
use crate::format::snapshot::Component;
use crate::format::tree::{ChunkRef, Entry, EntryKind, FileContent};
use crate::hears::Hears;
use crate::id::ChunkId;
use crate::monitor::Counter;
use crate::parallel;
use crate::repository::snapshots::Snapshot;
use crate::sync::lock;
use crate::trees::earlier::is_held;
use crate::trees::file_reader::FileReader;
use crate::trees::reader::TreeReader;
use crate::trees::writer::{TreeSummary, TreeWriter};
use crate::units::MIB;

/// Files up to this size are fetched together with others.
const SMALL_FILE_BYTES: u64 = MIB;
/// Bytes of small files in a batch, and of stored ranges that are fetched for them at once.
const BATCH_BYTES: u64 = 16 * MIB;
/// Entries in a batch.
const BATCH_ENTRIES_MAX: usize = 4096;
/// Larger files in a batch.
const BATCH_LARGE_FILES_MAX: usize = 32;
/// What a thread has in memory for a larger file: content read ahead, stored ranges, what is being cut.
const LARGE_FILE_MEMORY: u64 = 40 * MIB;

/// Copies one component.
pub struct TreeCopy<'a> {
    from: &'a ChunkReader,
    to: &'a ChunkWriter,
    known: Option<EarlierCopy<'a>>,
    /// Whether there are tombstones in the target, so that no chunk may be relied on unasked.
    pub must_look_up: bool,
    hears: &'a Hears,
    tools: Mutex<Vec<Tools>>,
    bytes_read: AtomicU64,
    problems: AtomicU64,
}

/// The chunks of a small file, or why it cannot be read.
type SmallContent = Result<Vec<Vec<u8>>>;

/// What is to be done for an entry.
enum Step {
    /// It goes into the tree as it is.
    Keep(Entry),
    /// Its content is read first.
    Read(Entry),
}

/// Entries that are worked on together.
#[derive(Default)]
struct EntryBatch {
    steps: Vec<Step>,
    small_bytes: u64,
    large_files: usize,
}

impl EntryBatch {
    fn push(&mut self, step: Step) {
        if let Step::Read(entry) = &step {
            match is_small(entry) {
                true => self.small_bytes += entry.size(),
                false => self.large_files += 1,
            }
        }
        self.steps.push(step);
    }

    fn is_full(&self) -> bool {
        self.steps.len() >= BATCH_ENTRIES_MAX
            || self.small_bytes + SMALL_FILE_BYTES > BATCH_BYTES
            || self.large_files >= BATCH_LARGE_FILES_MAX
    }
}

fn is_small(entry: &Entry) -> bool {
    entry.file().is_some_and(|file| file.size <= SMALL_FILE_BYTES && !file.indirect)
}

impl<'a> TreeCopy<'a> {
    /// Prepares a copy; `known` has what the target has of the component already.
    pub fn new(from: &'a ChunkReader, to: &'a ChunkWriter, known: Option<EarlierCopy<'a>>, hears: &'a Hears) -> Self {
        let (tools, bytes_read, problems) = (Mutex::default(), AtomicU64::new(0), AtomicU64::new(0));
        Self { from, to, known, must_look_up: false, hears, tools, bytes_read, problems }
    }

    /// Returns how many bytes of files were read.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// Returns how many things could not be read.
    pub fn problems(&self) -> u64 {
        self.problems.load(Ordering::Relaxed)
    }

    /// Copies the component's tree. Returns its root in the target, or nothing if something could not be read.
    pub fn component(&mut self, snapshot: &Snapshot, component: &Component) -> Result<Option<TreeSummary>> {
        let name = format!("{} of snapshot {}", component.name, snapshot.id.short());
        let entries = match TreeReader::open(self.from, &component.name, &component.root) {
            Ok(entries) => entries,
            Err(error) => return self.problem(&name, error).map(|()| None),
        };
        let mut tree = TreeWriter::new(self.to);
        let mut batch = EntryBatch::default();
        for entry in entries {
            self.hears.check()?;
            match entry {
                Ok(entry) => batch.push(self.step(entry)?),
                Err(error) => self.problem(&name, error)?,
            }
            if batch.is_full() {
                self.work_off(std::mem::take(&mut batch), &mut tree)?;
            }
        }
        self.work_off(batch, &mut tree)?;
        if self.problems() > 0 {
            return Ok(None);
        }
        let copied = tree.finish()?;
        if (copied.entries, copied.bytes) == (component.entries, component.bytes) {
            return Ok(Some(copied));
        }
        let reason = "it has not the entries and bytes that the snapshot says";
        self.problem(&name, Error::damaged(format!("the tree of {}", component.name), reason)).map(|()| None)
    }

    /// Tells of damage in the source; anything else is passed on.
    fn problem(&self, subject: &str, error: Error) -> Result<()> {
        if !error.is_damage() {
            return Err(error);
        }
        self.problems.fetch_add(1, Ordering::Relaxed);
        self.hears.monitor.problem(subject, &error.to_string());
        Ok(())
    }

    /// Decides what is to be done for the next entry.
    fn step(&mut self, mut entry: Entry) -> Result<Step> {
        let path = entry.path_text();
        let EntryKind::File(content) = &mut entry.kind else { return Ok(Step::Keep(entry)) };
        let Some(known) = &mut self.known else { return Ok(Step::Read(entry)) };
        let Some(there) = known.find(&entry.path, content) else { return Ok(Step::Read(entry)) };
        let holds = |kind, chunk: &ChunkId| self.to.holds(kind, chunk);
        if self.must_look_up && !is_held(known.reader, &path, &there, &holds)? {
            return Ok(Step::Read(entry));
        }
        self.hears.monitor.count(Counter::Bytes, content.size);
        self.hears.monitor.count(Counter::BytesDeduplicated, content.size);
        (content.chunks, content.indirect) = (there.chunks, there.indirect);
        Ok(Step::Keep(entry))
    }

    /// Reads and stores what a batch needs, and appends its entries to the tree.
    fn work_off(&self, batch: EntryBatch, tree: &mut TreeWriter<'_>) -> Result<()> {
        let contents = self.small_contents(&batch)?;
        let jobs: Vec<(&Step, Mutex<Option<SmallContent>>)> =
            batch.steps.iter().zip(contents).map(|(step, content)| (step, Mutex::new(content))).collect();
        let chunks = parallel::map(&jobs, self.threads(), |(step, content)| {
            let content = lock(content).take();
            match step {
                Step::Keep(_) => Ok(None),
                Step::Read(entry) => self.copy_file(entry, content),
            }
        });
        drop(jobs);
        for (step, chunks) in batch.steps.into_iter().zip(chunks) {
            self.append(step, chunks?, tree)?;
        }
        Ok(())
    }

    /// Bounded by memory, which larger files need.
    fn threads(&self) -> usize {
        let cores = self.from.repository().thread_plan().computing;
        let memory = self.from.repository().memory_plan().chunk_bytes.saturating_sub(BATCH_BYTES);
        ((memory / LARGE_FILE_MEMORY) as usize).clamp(1, cores)
    }

    /// Fetches the chunks of a batch's small files together. Returns those of each step that has such a file.
    fn small_contents(&self, batch: &EntryBatch) -> Result<Vec<Option<SmallContent>>> {
        let small = |step: &Step| match step {
            Step::Read(entry) if is_small(entry) => entry.file().cloned().map(|file| (entry.path_text(), file)),
            _ => None,
        };
        let mut wanted = Vec::new();
        let counts: Vec<Option<usize>> = batch
            .steps
            .iter()
            .map(|step| {
                let (path, FileContent { chunks, kind, .. }) = small(step)?;
                let needed_by: Arc<str> = path.into();
                let want = |chunk: &ChunkRef| WantedChunk { kind, chunk: *chunk, needed_by: Arc::clone(&needed_by) };
                wanted.extend(chunks.iter().map(want));
                Some(chunks.len())
            })
            .collect();
        let mut fetched = ChunkFetcher::new(self.from, BATCH_BYTES, self.hears).fetch(&wanted)?.into_iter();
        let contents = counts.into_iter().map(|count| {
            // All are taken, also those behind one that failed.
            let of_file: Vec<Result<Vec<u8>>> = fetched.by_ref().take(count?).collect();
            Some(of_file.into_iter().collect())
        });
        Ok(contents.collect())
    }

    /// Stores a file's content and returns its chunks, or nothing if it could not be read. A small one is in `content`.
    fn copy_file(&self, entry: &Entry, content: Option<SmallContent>) -> Result<Option<Vec<ChunkRef>>> {
        let stored = match content {
            Some(Ok(chunks)) => self.store(entry, &mut chunks.concat().as_slice()),
            Some(Err(error)) => Err(unread(error)),
            None => match FileReader::open(self.from, entry, self.hears) {
                Ok(mut reader) => self.store(entry, &mut reader),
                Err(error) => Err(unread(error)),
            },
        };
        match stored {
            Ok(chunks) => Ok(Some(chunks)),
            // The target's fault, or nobody's.
            Err(ContentError::Storing(error)) => Err(error),
            Err(ContentError::Reading(error)) => {
                let path = entry.path_text();
                self.problem(&path, content::reading_error(error, path.clone())).map(|()| None)
            }
        }
    }

    /// Cuts and stores a content, and compares its digest.
    fn store(&self, entry: &Entry, content: &mut dyn Read) -> Result<Vec<ChunkRef>, ContentError> {
        let EntryKind::File(file) = &entry.kind else { return Ok(Vec::new()) };
        let mut tools = lock(&self.tools).pop().unwrap_or_default();
        let taken = Intake::new(self.to, file.kind, self.hears).take_all(&mut tools, content);
        lock(&self.tools).push(tools);
        let taken = taken?;
        self.bytes_read.fetch_add(taken.facts.size, Ordering::Relaxed);
        if taken.is(file) {
            return Ok(taken.chunks);
        }
        let object = format!("the file {:?}", entry.path_text());
        Err(unread(Error::damaged(object, "its content has another digest")))
    }

    /// Appends an entry to the tree, with the chunks that its content has now, if it was read.
    fn append(&self, step: Step, chunks: Option<Vec<ChunkRef>>, tree: &mut TreeWriter<'_>) -> Result<()> {
        self.hears.monitor.count(Counter::Entries, 1);
        // Without all entries the tree is not finished.
        if self.problems() > 0 {
            return Ok(());
        }
        let entry = match (step, chunks) {
            (Step::Read(mut entry), Some(chunks)) => {
                if let EntryKind::File(content) = &mut entry.kind {
                    (content.chunks, content.indirect) = (chunks, false);
                }
                tree.make_indirect(&mut entry)?;
                entry
            }
            (Step::Keep(entry) | Step::Read(entry), _) => entry,
        };
        tree.push(&entry)
    }
}

/// Packs an error of the source into what reading fails with.
fn unread(error: Error) -> ContentError {
    ContentError::Reading(io::Error::other(error))
}
