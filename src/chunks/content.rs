//! The one way in: content is cut, its chunks are named and stored, and the whole is digested.
//!
//! What must stay true: backups, copies and repairs cut alike, so that the same content gives the same chunks, whoever
//! brings it; whose fault it was that content did not get in is never lost: reading and storing fail apart.

use std::io::{self, Read};
use std::path::PathBuf;

use crate::chunks::cut::{self, ReadFacts, Window};
use crate::chunks::writer::{ChunkWriter, Fate};
use crate::compress::Encoder;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::tree::{ChunkRef, FileContent};
use crate::hears::Hears;
use crate::id::ChunkId;
use crate::monitor::Counter;

/// What a thread needs to cut and store; kept from file to file.
#[derive(Default)]
pub struct Tools {
    /// Holds what was read ahead.
    pub window: Window,
    /// Compresses.
    pub encoder: Encoder,
}

/// Why content did not get in.
pub enum ContentError {
    /// It could not be read.
    Reading(io::Error),
    /// It could not be stored, or somebody asked to stop.
    Storing(Error),
}

impl From<io::Error> for ContentError {
    fn from(error: io::Error) -> Self {
        Self::Reading(error)
    }
}

impl From<Error> for ContentError {
    fn from(error: Error) -> Self {
        Self::Storing(error)
    }
}

impl ContentError {
    /// Makes the library's error of it, with `path` for what was being read.
    pub fn into_error(self, path: impl Into<PathBuf>) -> Error {
        match self {
            Self::Storing(error) => error,
            Self::Reading(error) => reading_error(error, path),
        }
    }
}

/// Makes the library's error of what reading failed with; what a reader of ours packed into it comes out unchanged.
pub fn reading_error(error: io::Error, path: impl Into<PathBuf>) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::source("read", path, error),
    }
}

/// What becomes of one chunk of content.
type TakeChunk<'t> = dyn FnMut(&mut Encoder, &[u8]) -> Result<(ChunkRef, Fate)> + 't;

/// Content that was read to its end.
#[derive(Debug)]
pub struct StoredContent {
    /// Its size and digest.
    pub facts: ReadFacts,
    /// All its chunks in order, stored or not.
    pub chunks: Vec<ChunkRef>,
    /// How many of them the repository did not have.
    pub new: u64,
}

impl StoredContent {
    /// Returns whether it is what an entry says.
    pub fn is(&self, file: &FileContent) -> bool {
        (self.facts.size, self.facts.digest) == (file.size, file.digest)
    }
}

/// Takes content in for one session. Calls may come from many threads, each with tools of its own.
#[derive(Clone, Copy)]
pub struct Intake<'a> {
    writer: &'a ChunkWriter,
    kind: BlobKind,
    hears: &'a Hears,
}

impl<'a> Intake<'a> {
    /// Prepares to store content as chunks of this kind.
    pub fn new(writer: &'a ChunkWriter, kind: BlobKind, hears: &'a Hears) -> Self {
        Self { writer, kind, hears }
    }

    /// Reads to the end, and hands each chunk with its number to `emit`, which stores it here or elsewhere.
    pub fn cut<E: From<io::Error> + From<Error>>(
        &self,
        window: &mut Window,
        content: &mut dyn Read,
        mut emit: impl FnMut(usize, &[u8]) -> Result<(), E>,
    ) -> Result<ReadFacts, E> {
        cut::read_chunks(self.writer.repository().chunker(), window, content, |number, plain| {
            // Files may be large: somebody who wants to stop does not wait for the end of one.
            self.hears.check()?;
            emit(number, plain)
        })
    }

    /// Stores one chunk unless the repository has it.
    pub fn store(&self, encoder: &mut Encoder, plain: &[u8]) -> Result<(ChunkRef, Fate)> {
        let (id, fate) = self.writer.write(encoder, self.kind, plain)?;
        self.hears.monitor.count(Counter::Bytes, plain.len() as u64);
        if fate == Fate::Known {
            self.hears.monitor.count(Counter::BytesDeduplicated, plain.len() as u64);
        }
        Ok((ChunkRef { id, len: plain.len() as u32 }, fate))
    }

    /// Reads to the end and stores all.
    pub fn take_all(&self, tools: &mut Tools, content: &mut dyn Read) -> Result<StoredContent, ContentError> {
        self.collect(tools, content, &mut |encoder, plain| self.store(encoder, plain))
    }

    /// Reads to the end and stores those chunks that are wanted, by their ids.
    pub fn take_wanted(
        &self,
        tools: &mut Tools,
        content: &mut dyn Read,
        is_wanted: &dyn Fn(&ChunkId) -> bool,
    ) -> Result<StoredContent, ContentError> {
        let keys = self.writer.repository().keys();
        self.collect(tools, content, &mut |encoder, plain| {
            let id = keys.chunk_id(self.kind as u8, plain);
            match is_wanted(&id) {
                true => self.store(encoder, plain),
                false => Ok((ChunkRef { id, len: plain.len() as u32 }, Fate::Known)),
            }
        })
    }

    fn collect(
        &self,
        tools: &mut Tools,
        content: &mut dyn Read,
        take: &mut TakeChunk<'_>,
    ) -> Result<StoredContent, ContentError> {
        let Tools { window, encoder } = tools;
        let (mut chunks, mut new) = (Vec::new(), 0);
        let facts = self.cut::<ContentError>(window, content, |_, plain| {
            let (chunk, fate) = take(encoder, plain)?;
            new += u64::from(fate == Fate::New);
            chunks.push(chunk);
            Ok(())
        })?;
        Ok(StoredContent { facts, chunks, new })
    }
}
