//! Cuts one file or stream into chunks, and digests it.
//!
//! What must stay true: what is cut depends on the content and the repository's chunker alone, so that the same content
//! gives the same chunks, wherever it comes from.

use std::io::{self, Read};

use crate::chunker::{CLASS_SAMPLE_LEN, Chunker, ContentClass};
use crate::format::BlobKind;
use crate::format::tree::{ChunkRef, FileContent};
use crate::id::Digest;
use crate::units::MIB;

/// Bytes read ahead of the chunker, beside one maximal chunk.
const READ_AHEAD_BYTES: usize = 3 * MIB as usize;

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

/// Reads to the end and calls `emit` with each chunk and its number.
///
/// Fails with what `emit` fails with, or with what reading failed with.
pub fn read_chunks<E: From<io::Error>>(
    chunker: &Chunker,
    window: &mut Window,
    content: &mut dyn Read,
    mut emit: impl FnMut(usize, &[u8]) -> Result<(), E>,
) -> Result<ReadFacts, E> {
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
        emit(number, chunk)?;
        window.start += len;
        size += len as u64;
        number += 1;
    }
}
