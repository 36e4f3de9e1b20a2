//! Reads one file or stream: cuts it, digests it, and has its chunks stored.

use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};

use crate::chunker::{CLASS_SAMPLE_LEN, Chunker, ContentClass};
use crate::error::Result;
use crate::format::BlobKind;
use crate::format::tree::{ChunkRef, FileContent};
use crate::id::{ChunkId, Digest};
use crate::source::Interruption;
use crate::units::MIB;

/// Bytes read ahead of the chunker, beside one maximal chunk.
const READ_AHEAD_BYTES: usize = 3 * MIB as usize;

/// The chunks of a file while they are being stored, in whatever order; of the latest attempt to read it.
#[derive(Default)]
pub struct Slots(Mutex<(u32, Vec<Option<ChunkRef>>)>);

impl Slots {
    /// Forgets what there is: the file is read anew, and chunks of earlier attempts no longer count.
    pub fn begin(&self, attempt: u32) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (attempt, Vec::new());
    }

    /// Notes a chunk of the file.
    pub fn put(&self, attempt: u32, at: usize, id: ChunkId, len: usize) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (current, slots) = &mut *guard;
        if *current != attempt {
            return;
        }
        if slots.len() <= at {
            slots.resize(at + 1, None);
        }
        slots[at] = Some(ChunkRef { id, len: len as u32 });
    }

    /// Returns the chunks in order, or `None` if one is missing.
    pub fn take_chunks(&self) -> Option<Vec<ChunkRef>> {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut guard.1).into_iter().collect()
    }
}

/// What reading told of a file, but for its chunks.
#[derive(Debug, Clone, Copy)]
pub struct ReadFacts {
    /// Bytes read.
    pub size: u64,
    /// BLAKE3 of all bytes.
    pub digest: Digest,
}

impl ReadFacts {
    /// Completes the content of an entry.
    pub fn content(
        self,
        kind: BlobKind,
        chunks: Vec<ChunkRef>,
        sparse: bool,
        racy: bool,
        hard_link: Option<Vec<u8>>,
    ) -> FileContent {
        FileContent { size: self.size, digest: self.digest, chunks, kind, indirect: false, sparse, racy, hard_link }
    }
}

/// A buffer that keeps its allocation from file to file. One per reading thread.
#[derive(Default)]
pub struct Window {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    at_end: bool,
}

impl Window {
    fn begin(&mut self, chunk_len_max: usize) {
        self.buffer.resize(chunk_len_max + READ_AHEAD_BYTES, 0);
        (self.start, self.end, self.at_end) = (0, 0, false);
    }

    /// Reads until at least `wanted` bytes are there or the stream ends.
    fn fill(&mut self, content: &mut dyn Read, wanted: usize) -> io::Result<()> {
        if self.end - self.start >= wanted || self.at_end {
            return Ok(());
        }
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        while self.end < self.buffer.len() && !self.at_end {
            match content.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.at_end = true,
                Ok(len) => self.end += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.end - self.start >= wanted && self.end >= self.buffer.len() / 2 {
                break;
            }
        }
        Ok(())
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }
}

/// What can go wrong while a file is read.
pub enum ReadError {
    /// The source failed: this file is lost to the snapshot.
    Source(io::Error),
    /// The file is to be read anew from its beginning.
    Changed,
    /// The repository failed, the source is out of reach, or the user interrupted: the whole backup ends.
    Fatal(crate::error::Error),
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

/// Reads to the end and calls `emit` with each chunk and its number.
pub fn read_chunks(
    chunker: &Chunker,
    window: &mut Window,
    content: &mut dyn Read,
    mut emit: impl FnMut(usize, &[u8]) -> Result<()>,
) -> Result<ReadFacts, ReadError> {
    let longest = [ContentClass::Text, ContentClass::Binary].map(|class| chunker.sizes(class).max).into_iter().max();
    window.begin(longest.unwrap_or_default() as usize);
    window.fill(content, CLASS_SAMPLE_LEN)?;
    let class = ContentClass::of(window.bytes());
    let wanted = chunker.sizes(class).max as usize;
    let mut digest = blake3::Hasher::new();
    let (mut size, mut number) = (0, 0);
    loop {
        window.fill(content, wanted)?;
        if window.bytes().is_empty() {
            return Ok(ReadFacts { size, digest: Digest::from_bytes(*digest.finalize().as_bytes()) });
        }
        let len = chunker.cut(class, window.bytes());
        let chunk = &window.bytes()[..len];
        digest.update(chunk);
        emit(number, chunk).map_err(ReadError::Fatal)?;
        window.start += len;
        size += len as u64;
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_an_attempt_that_was_given_up_do_not_count() {
        let slots = Slots::default();
        let id = |byte| ChunkId::from_bytes([byte; 32]);
        slots.begin(1);
        slots.put(1, 0, id(1), 10);
        slots.begin(2);
        slots.put(2, 0, id(2), 20);
        slots.put(1, 1, id(3), 30);
        assert_eq!(slots.take_chunks(), Some(vec![ChunkRef { id: id(2), len: 20 }]));
    }
}
