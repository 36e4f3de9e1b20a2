//! Reads one file or stream: cuts it, digests it, and has its chunks stored.

use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};

use crate::chunker::{CLASS_SAMPLE_LEN, Chunker, ContentClass};
use crate::error::Result;
use crate::format::BlobKind;
use crate::format::tree::{ChunkRef, FileContent};
use crate::id::{ChunkId, Digest};
use crate::units::MIB;

/// Bytes read ahead of the chunker, beside one maximal chunk.
const READ_AHEAD_BYTES: usize = 3 * MIB as usize;

/// The chunks of a file while they are being stored, in whatever order.
#[derive(Default)]
pub struct Slots(Mutex<Vec<Option<ChunkRef>>>);

impl Slots {
    /// Notes a chunk of the file.
    pub fn put(&self, at: usize, id: ChunkId, len: usize) {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() <= at {
            slots.resize(at + 1, None);
        }
        slots[at] = Some(ChunkRef { id, len: len as u32 });
    }

    /// Returns the chunks in order, or `None` if one is missing.
    pub fn take_chunks(&self) -> Option<Vec<ChunkRef>> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_iter().collect()
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
    /// The repository failed, or the user interrupted: the whole backup ends.
    Fatal(crate::error::Error),
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
    window.fill(content, CLASS_SAMPLE_LEN).map_err(ReadError::Source)?;
    let class = ContentClass::of(window.bytes());
    let wanted = chunker.sizes(class).max as usize;
    let mut digest = blake3::Hasher::new();
    let (mut size, mut number) = (0, 0);
    loop {
        window.fill(content, wanted).map_err(ReadError::Source)?;
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
