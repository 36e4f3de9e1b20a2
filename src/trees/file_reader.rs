//! Reads one file of a tree from its beginning to its end.
//!
//! What must stay true: every chunk is verified against its id; the end of the file is told only if the whole content has
//! the digest that the tree says, so who has read to the end without an error has the file.

use std::io::{self, Read};
use std::sync::Arc;

use crate::chunks::fetch::{ChunkFetcher, WantedChunk};
use crate::chunks::reader::ChunkReader;
use crate::error::{Error, Result};
use crate::format::tree::{ChunkRef, Entry, FileContent};
use crate::hears::Hears;
use crate::trees::reader::chunks_of;
use crate::units::MIB;

/// Bytes of content that are fetched together.
const WINDOW_BYTES: u64 = 16 * MIB;

/// A file that is being read.
pub struct FileReader<'a> {
    fetcher: ChunkFetcher<'a>,
    path: Arc<str>,
    content: FileContent,
    chunks: std::vec::IntoIter<ChunkRef>,
    window: std::vec::IntoIter<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    digest: blake3::Hasher,
    is_finished: bool,
}

impl<'a> FileReader<'a> {
    /// Prepares to read the file of an entry; reads its list of chunks.
    pub fn open(reader: &'a ChunkReader, entry: &Entry, hears: &'a Hears) -> Result<Self> {
        let content =
            entry.file().cloned().ok_or_else(|| Error::Invalid(format!("{:?} is not a file", entry.path_text())))?;
        let chunks = chunks_of(reader, &entry.path_text(), &content)?;
        Ok(Self {
            fetcher: ChunkFetcher::new(reader, WINDOW_BYTES, hears),
            path: entry.path_text().into(),
            content,
            chunks: chunks.into_iter(),
            window: Vec::new().into_iter(),
            current: Vec::new(),
            at: 0,
            digest: blake3::Hasher::new(),
            is_finished: false,
        })
    }

    /// Makes the next chunk current. Returns whether there is one.
    fn next_chunk(&mut self) -> Result<bool> {
        if self.window.len() == 0 {
            self.fill_window()?;
        }
        let Some(next) = self.window.next() else {
            self.is_finished = true;
            let digest = self.digest.finalize();
            if digest.as_bytes() != self.content.digest.as_bytes() {
                return Err(Error::damaged(format!("the file {:?}", self.path), "its content has another digest"));
            }
            return Ok(false);
        };
        self.digest.update(&next);
        (self.current, self.at) = (next, 0);
        Ok(true)
    }

    fn fill_window(&mut self) -> Result<()> {
        let mut wanted = Vec::new();
        let mut bytes = 0;
        while bytes < WINDOW_BYTES {
            let Some(chunk) = self.chunks.next() else { break };
            bytes += u64::from(chunk.len);
            wanted.push(WantedChunk { kind: self.content.kind, chunk, needed_by: Arc::clone(&self.path) });
        }
        let fetched: Result<Vec<_>> = self.fetcher.fetch(&wanted)?.into_iter().collect();
        self.window = fetched?.into_iter();
        Ok(())
    }
}

impl Read for FileReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.current.len() {
            if self.is_finished || !self.next_chunk().map_err(io::Error::other)? {
                return Ok(0);
            }
        }
        let len = buffer.len().min(self.current.len() - self.at);
        buffer[..len].copy_from_slice(&self.current[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}
