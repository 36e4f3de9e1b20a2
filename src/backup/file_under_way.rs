//! A file on its way through the stages of a backup: its place in the order, its chunks, and what went wrong with it.
//!
//! What must stay true:
//! - Every [`PlaceInOrder`] yields exactly one [`Done`], whatever becomes of what stands there: the tree writer waits for
//!   each.
//! - A file has an entry only if every chunk of the last attempt to read it is stored, and they are as long as what was
//!   read.

use std::io;
use std::sync::{Arc, Mutex};

use crossbeam_channel::Sender;

use crate::budget::Permit;
use crate::chunks::cut::ReadFacts;
use crate::error::Error;
use crate::format::BlobKind;
use crate::format::attributes::{self, Attributes};
use crate::format::tree::{ChunkRef, Entry, EntryKind, Metadata};
use crate::source::{Interruption, Item, ItemKind};
use crate::sync::lock;

/// Something that went wrong with one item.
pub struct ItemProblem {
    /// Its path in the tree.
    pub path: Vec<u8>,
    /// Where the source has it.
    pub location: String,
    /// What went wrong.
    pub message: String,
}

impl ItemProblem {
    /// Says what went wrong with an item.
    pub fn of(item: &Item, message: String) -> Self {
        Self { path: item.path.clone(), location: item.location.to_string_lossy().into_owned(), message }
    }
}

/// An entry, or nothing where a file could not be read, with its place in the order.
pub struct Done {
    /// Its number in the order of paths.
    pub sequence: u64,
    /// What goes into the tree.
    pub entry: Option<Entry>,
    /// What went wrong. Beside an entry, what is to be said of it.
    pub problem: Option<ItemProblem>,
    /// Limits how many are under way; given back when the tree writer is done with this.
    _ticket: Permit,
}

/// A place in the order of entries, to be filled once.
pub struct PlaceInOrder {
    sequence: u64,
    ticket: Permit,
    done: Sender<Done>,
}

impl PlaceInOrder {
    /// Reserves a place. `done` leads to the tree writer.
    pub fn new(sequence: u64, ticket: Permit, done: Sender<Done>) -> Self {
        Self { sequence, ticket, done }
    }

    /// Sends on what belongs here.
    pub fn fill(self, entry: Option<Entry>, problem: Option<ItemProblem>) {
        let done = Done { sequence: self.sequence, entry, problem, _ticket: self.ticket };
        // Nobody listens any more only when the backup has failed already.
        let _ = self.done.send(done);
    }
}

/// What is known of a file once it was read.
pub struct ReadFile {
    /// Its length and digest.
    pub facts: ReadFacts,
    /// Its metadata, as the open file had it.
    pub metadata: Metadata,
    /// It may have changed after it was read without its times showing it.
    pub racy: bool,
    /// What else the open file told.
    pub attributes: Attributes,
}

/// A file on its way through the stages. When the last stage lets go of it, its entry goes to the tree writer.
pub struct FileUnderWay {
    /// What the walk found.
    pub item: Item,
    kind: BlobKind,
    hard_link: Option<Vec<u8>>,
    /// What the source told beside content and metadata before the file was opened.
    attributes: Attributes,
    slots: Slots,
    read: Mutex<Option<ReadFile>>,
    problem: Mutex<Option<ItemProblem>>,
    place: Option<PlaceInOrder>,
}

impl Drop for FileUnderWay {
    // In `drop`, so that no way out of a stage, not even a panic, leaves the tree writer waiting for this file.
    fn drop(&mut self) {
        let read = lock(&self.read).take();
        let chunks = self.slots.take_chunks();
        // A chunk whose storing failed is missing here, and the lengths do not add up.
        let whole = read.zip(chunks).filter(|(read, chunks)| read.facts.size == total_len(chunks));
        let entry = whole.map(|(read, chunks)| {
            let sparse = matches!(self.item.kind, ItemKind::File { sparse: true, .. });
            let content = read.facts.content(self.kind, chunks, sparse, read.racy, self.hard_link.take());
            let path = std::mem::take(&mut self.item.path);
            let mut attributes = std::mem::take(&mut self.attributes);
            read.attributes.into_iter().for_each(|(key, value)| attributes::set(&mut attributes, key, value));
            Entry { path, metadata: read.metadata, kind: EntryKind::File(content), attributes }
        });
        let problem = lock(&self.problem).take();
        if let Some(place) = self.place.take() {
            place.fill(entry, problem);
        }
    }
}

impl FileUnderWay {
    /// Sends a file on its way. Its chunks are of the kind given.
    pub fn new(item: Item, kind: BlobKind, hard_link: Option<Vec<u8>>, place: PlaceInOrder) -> Self {
        Self {
            item,
            kind,
            hard_link,
            attributes: Attributes::new(),
            slots: Slots::default(),
            read: Mutex::default(),
            problem: Mutex::default(),
            place: Some(place),
        }
    }

    /// Adds what is known before it is opened.
    pub fn with(mut self, attributes: Attributes, problem: Option<ItemProblem>) -> Self {
        self.attributes = attributes;
        self.problem = Mutex::new(problem);
        self
    }

    /// Begins to read it, or begins anew.
    pub fn begin(&self, attempt: u32) {
        self.slots.begin(attempt);
    }

    /// Notes a chunk that was stored for the attempt.
    pub fn put_chunk(&self, attempt: u32, number: usize, chunk: ChunkRef) {
        self.slots.put(attempt, number, chunk);
    }

    /// Notes what reading it to its end told.
    pub fn was_read(&self, read: ReadFile) {
        *lock(&self.read) = Some(read);
    }

    /// Notes what went wrong.
    pub fn has_problem(&self, message: &str) {
        *lock(&self.problem) = Some(ItemProblem::of(&self.item, message.to_owned()));
    }
}

/// A chunk for the sealers.
pub struct ChunkJob {
    /// The file that it is of.
    pub file: Arc<FileUnderWay>,
    /// Which attempt to read the file it comes from.
    pub attempt: u32,
    /// Its number in the file.
    pub number: usize,
    /// Its bytes.
    pub plain: Vec<u8>,
    /// What it takes of the memory for chunks; given back when it is stored.
    pub _permit: Permit,
}

fn total_len(chunks: &[ChunkRef]) -> u64 {
    chunks.iter().map(|chunk| u64::from(chunk.len)).sum()
}

/// The chunks of a file while they are being stored, in whatever order; of the latest attempt to read it.
#[derive(Default)]
struct Slots(Mutex<(u32, Vec<Option<ChunkRef>>)>);

impl Slots {
    /// Forgets what there is: the file is read anew, and chunks of earlier attempts no longer count.
    fn begin(&self, attempt: u32) {
        *lock(&self.0) = (attempt, Vec::new());
    }

    /// Notes a chunk of the file.
    fn put(&self, attempt: u32, at: usize, chunk: ChunkRef) {
        let mut guard = lock(&self.0);
        let (current, slots) = &mut *guard;
        // A sealer may still hold chunks of an attempt that was given up: they are of another content.
        if *current != attempt {
            return;
        }
        if slots.len() <= at {
            slots.resize(at + 1, None);
        }
        slots[at] = Some(chunk);
    }

    /// Returns the chunks in order, or `None` if one is missing.
    fn take_chunks(&self) -> Option<Vec<ChunkRef>> {
        let mut guard = lock(&self.0);
        std::mem::take(&mut guard.1).into_iter().collect()
    }
}

/// What can go wrong while a file is read.
pub enum ReadError {
    /// The source failed: this file is lost to the snapshot.
    Source(io::Error),
    /// The file is to be read anew from its beginning.
    Changed,
    /// The repository failed, the source is out of reach, or the user interrupted: the whole backup ends.
    Fatal(Error),
}

impl From<Error> for ReadError {
    fn from(error: Error) -> Self {
        Self::Fatal(error)
    }
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match error.downcast::<Interruption>() {
            Ok(Interruption::Changed) => Self::Changed,
            Ok(Interruption::Lost(error)) => Self::Fatal(error),
            Err(error) => Self::Source(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ChunkId;

    #[test]
    fn chunks_of_an_attempt_that_was_given_up_do_not_count() {
        let slots = Slots::default();
        let chunk = |byte, len| ChunkRef { id: ChunkId::from_bytes([byte; 32]), len };
        slots.begin(1);
        slots.put(1, 0, chunk(1, 10));
        slots.begin(2);
        slots.put(2, 0, chunk(2, 20));
        slots.put(1, 1, chunk(3, 30));
        assert_eq!(slots.take_chunks(), Some(vec![chunk(2, 20)]));
    }
}
