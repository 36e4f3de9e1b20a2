//! Streams as a source: each is one file of the tree, read once, of a length that nobody knows before.
//!
//! What must stay true: a stream that fails, in whatever way and however late, makes the whole source fail:
//! [`StreamSource::into_result`] tells, and what was stored of it must not be used.

use std::io::{self, Read};
use std::sync::Mutex;

use jiff::Timestamp;

use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::format::tree::{FileTime, Metadata};
use crate::source::{Content, Found, Item, ItemKind, Source};
use crate::stdin_reader::StdinReader;
use crate::sync::{FirstFailure, lock};

/// Something to read to its end, which only then tells whether it is whole.
pub trait Stream: Read + Send {
    /// Ends the stream; fails unless it was whole.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Standard input, until somebody asks to stop.
pub struct Stdin(StdinReader);

impl Stdin {
    /// Begins to read it.
    pub fn new(cancel: &Cancel) -> Self {
        Self(StdinReader::new(cancel))
    }
}

impl Read for Stdin {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Stream for Stdin {
    /// Fails if it ended only because somebody asked to stop.
    fn finish(self: Box<Self>) -> Result<()> {
        self.0.into_result()
    }
}

/// Begins a stream when it is its turn.
pub type Opener<'a> = Box<dyn FnOnce() -> Result<Box<dyn Stream + 'a>> + Send + 'a>;

/// One or more streams by name.
pub struct StreamSource<'a> {
    streams: Vec<(String, Mutex<Option<Opener<'a>>>)>,
    time: Timestamp,
    failure: FirstFailure,
}

impl<'a> StreamSource<'a> {
    /// Makes a source of streams, whose files get the time given. Names must ascend.
    pub fn new(streams: Vec<(String, Opener<'a>)>, time: Timestamp) -> Self {
        let streams = streams.into_iter().map(|(name, opener)| (name, Mutex::new(Some(opener)))).collect();
        Self { streams, time, failure: FirstFailure::default() }
    }

    /// Returns the first failure of a stream.
    pub fn into_result(self) -> Result<()> {
        self.failure.check()
    }

    fn metadata(&self) -> Metadata {
        let nanoseconds = self.time.subsec_nanosecond().max(0) as u32;
        let time = FileTime { seconds: self.time.as_second(), nanoseconds };
        Metadata { mode: 0o600, mtime: time, ctime: time, ..Metadata::default() }
    }

    fn fail(&self, error: Error) -> io::Error {
        let told = io::Error::other(error.to_string());
        self.failure.set(error);
        told
    }
}

impl Source for StreamSource<'_> {
    fn walk(&self) -> Box<dyn Iterator<Item = Found> + Send + '_> {
        let kind = ItemKind::File { size: u64::MAX, sparse: false, linked: false };
        let metadata = self.metadata();
        Box::new(self.streams.iter().map(move |(name, _)| {
            let (path, location) = (name.clone().into_bytes(), name.into());
            Found::Item(Item { path, metadata, kind: kind.clone(), location })
        }))
    }

    fn open(&self, item: &Item) -> io::Result<Box<dyn Content + '_>> {
        let opener = self
            .streams
            .iter()
            .find(|(name, _)| name.as_bytes() == item.path)
            .and_then(|(_, opener)| lock(opener).take())
            .ok_or_else(|| io::Error::other("a stream can be read only once"))?;
        let stream = opener().map_err(|error| self.fail(error))?;
        Ok(Box::new(OpenStream { stream: Some(stream), source: self }))
    }

    fn is_cheap_to_walk(&self) -> bool {
        false
    }
}

struct OpenStream<'s, 'a> {
    stream: Option<Box<dyn Stream + 'a>>,
    source: &'s StreamSource<'a>,
}

impl Read for OpenStream<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(stream) = &mut self.stream else { return Ok(0) };
        stream.read(buffer).map_err(|source| self.source.fail(Error::source("read", "the stream", source)))
    }
}

impl Content for OpenStream<'_, '_> {
    fn metadata(&self) -> Metadata {
        self.source.metadata()
    }

    fn size(&self) -> Option<u64> {
        None
    }

    fn finish(mut self: Box<Self>) -> io::Result<Option<String>> {
        // The end of the bytes is not the end of the stream: its exit status, or the dump's last check, comes after it.
        let finished = self.stream.take().map_or(Ok(()), Stream::finish);
        finished.map(|()| None).map_err(|error| self.source.fail(error))
    }
}
