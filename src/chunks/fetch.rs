//! Fetches chunks: by pack and range, several ranges at once. The only way from a list of chunks to their content.
//!
//! What must stay true:
//! - Any place that gives the content will do. Segments may lie, and packs rot or go: a chunk is lost only if none of its
//!   places has it.
//! - Stored ranges under way are bounded by the budget.
//! - A chunk that cannot be had is that chunk's failure alone; only a backend that cannot be reached is everyone's.

use std::sync::Arc;

use bytes::Bytes;

use crate::budget::Budget;
use crate::chunks::read_plan::{self, Destination, Span, Want};
use crate::chunks::reader::ChunkReader;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::tree::ChunkRef;
use crate::hears::Hears;
use crate::monitor::Counter;
use crate::parallel;
use crate::repository::index_sync::Place;

/// Sealed and open copies of one chunk that a fetching thread holds beside its range.
const CHUNK_COPIES: u64 = 3;

/// A chunk that is wanted.
#[derive(Debug, Clone)]
pub struct WantedChunk {
    /// Which kind of pack it is in.
    pub kind: BlobKind,
    /// The chunk.
    pub chunk: ChunkRef,
    /// The path of the file that needs it, for messages.
    pub needed_by: Arc<str>,
}

/// A chunk that is wanted somewhere.
#[derive(Debug, Clone, Copy)]
pub struct Destined {
    /// Which kind of pack it is in.
    pub kind: BlobKind,
    /// The chunk.
    pub chunk: ChunkRef,
    /// Where it goes.
    pub to: Destination,
}

/// Who takes what is fetched.
pub trait Taker {
    /// Returns the path of the file that needs a chunk, for messages.
    fn needed_by(&self, to: &Destination) -> String;
    /// Takes one chunk, or what is wrong with it, for all its destinations. What it fails with ends the fetch.
    fn take(&mut self, to: &[Destination], content: Result<Vec<u8>>) -> Result<()>;
}

/// Reads chunks of one repository.
pub struct ChunkFetcher<'a> {
    reader: &'a ChunkReader,
    budget: Budget,
    hears: &'a Hears,
}

impl<'a> ChunkFetcher<'a> {
    /// Makes a fetcher that has at most `range_bytes` of stored ranges in memory, beside what it returns. It tells how
    /// many bytes come from the backend.
    pub fn new(reader: &'a ChunkReader, range_bytes: u64, hears: &'a Hears) -> Self {
        Self { reader, budget: Budget::new(range_bytes), hears }
    }

    /// Returns the reader.
    pub fn reader(&self) -> &'a ChunkReader {
        self.reader
    }

    /// Returns the content of each chunk, in the order given, or what is wrong with it.
    pub fn fetch(&self, wanted: &[WantedChunk]) -> Result<Vec<Result<Vec<u8>>>> {
        let destined = |(number, wanted): (usize, &WantedChunk)| {
            let to = Destination { file: number as u32, offset: 0 };
            Destined { kind: wanted.kind, chunk: wanted.chunk, to }
        };
        let chunks: Vec<Destined> = wanted.iter().enumerate().map(destined).collect();
        let mut contents: Vec<Option<Result<Vec<u8>>>> = Vec::new();
        contents.resize_with(wanted.len(), || None);
        for collected in self.each(&chunks, &|| Collector { wanted, contents: Vec::new() })? {
            for (number, content) in collected.contents {
                contents[number as usize] = Some(content);
            }
        }
        let of = |(content, wanted): (Option<Result<Vec<u8>>>, &WantedChunk)| {
            content.unwrap_or_else(|| Err(missing(&wanted.chunk, wanted.needed_by.to_string())))
        };
        Ok(contents.into_iter().zip(wanted).map(of).collect())
    }

    /// Fetches chunks in the order of packs and hands them over as they come, on several threads. Each range that is
    /// read has a taker of its own, made by `taker`; all of them are returned.
    pub fn each<T: Taker + Send>(&self, chunks: &[Destined], taker: &(dyn Fn() -> T + Sync)) -> Result<Vec<T>> {
        let (wants, unplaced) = self.place(chunks)?;
        let spans = read_plan::spans(wants);
        let threads = self.reader.repository().thread_plan().fetching;
        let mut takers = parallel::map(&spans, threads, |span| self.fetch_span(span, taker()))
            .into_iter()
            .collect::<Result<Vec<T>>>()?;
        let elsewhere = parallel::map(&unplaced, threads, |chunk| self.fetch_elsewhere(chunk, taker()));
        for taker in elsewhere {
            takers.push(taker?);
        }
        Ok(takers)
    }

    /// Chooses a place for each chunk. A chunk has the length that its tree says, or the place is not the chunk's; those
    /// without such a place are returned beside.
    fn place(&self, chunks: &[Destined]) -> Result<(Vec<Want>, Vec<Destined>)> {
        let (mut wants, mut unplaced) = (Vec::with_capacity(chunks.len()), Vec::new());
        for chunk in chunks {
            let places = self.reader.repository().index().locate(chunk.kind, &chunk.chunk.id)?;
            match places.into_iter().find(|place| place.header.plain_len == chunk.chunk.len) {
                Some(place) => wants.push(Want { place, to: chunk.to }),
                None => unplaced.push(*chunk),
            }
        }
        Ok((wants, unplaced))
    }

    fn fetch_span<T: Taker>(&self, span: &Span, mut taker: T) -> Result<T> {
        self.hears.check()?;
        let chunk_len_max = self.reader.repository().config().chunk_len_max();
        let _permit = self.budget.take(span.range.end - span.range.start + CHUNK_COPIES * chunk_len_max);
        let stored = match self.reader.read_span(&span.pack, span.range.clone()) {
            Ok((start, bytes)) => {
                self.hears.monitor.count(Counter::BytesTransferred, bytes.len() as u64);
                Some(StoredRange { start, bytes })
            }
            Err(error) if error.is_damage() => None,
            Err(error) => return Err(error),
        };
        open_span(self.reader, span, stored.as_ref(), &mut taker)?;
        Ok(taker)
    }

    /// Reads a chunk that no place seems to fit from wherever it opens all the same.
    fn fetch_elsewhere<T: Taker>(&self, wanted: &Destined, mut taker: T) -> Result<T> {
        self.hears.check()?;
        let Destined { kind, chunk, to } = wanted;
        let needed_by = || taker.needed_by(to);
        let content = match self.reader.read(*kind, &chunk.id, &needed_by) {
            Ok(plain) if plain.len() as u64 != u64::from(chunk.len) => Err(missing(chunk, needed_by())),
            Err(error) if !error.is_damage() => return Err(error),
            content => content,
        };
        taker.take(&[*to], content)?;
        Ok(taker)
    }
}

/// A part of a pack that was read.
pub struct StoredRange {
    /// Where it begins in the pack, in bytes.
    pub start: u64,
    /// Its bytes.
    pub bytes: Bytes,
}

impl StoredRange {
    fn of(&self, place: &Place) -> Option<&[u8]> {
        let at = place.offset.checked_sub(self.start)? as usize;
        self.bytes.get(at..at + place.header.stored_len as usize)
    }
}

/// Opens the chunks of a span, each once, and hands them over. What the range does not give is read from the chunk's other
/// places.
pub fn open_span(reader: &ChunkReader, span: &Span, stored: Option<&StoredRange>, taker: &mut dyn Taker) -> Result<()> {
    let is_same = |a: &Want, b: &Want| (a.place.offset, a.place.header) == (b.place.offset, b.place.header);
    for wants in span.wants.chunk_by(is_same) {
        let place = &wants[0].place;
        let from_range = stored.and_then(|stored| stored.of(place)).and_then(|bytes| reader.open(place, bytes).ok());
        let needed_by = || taker.needed_by(&wants[0].to);
        let content = match from_range {
            Some(plain) => Ok(plain),
            // The place lies, or is damaged: another pack may hold the chunk.
            None => match reader.read(place.pack.kind, &place.header.id, &needed_by) {
                Err(error) if !error.is_damage() => return Err(error),
                content => content,
            },
        };
        let to: Vec<Destination> = wants.iter().map(|want| want.to).collect();
        taker.take(&to, content)?;
    }
    Ok(())
}

fn missing(chunk: &ChunkRef, needed_by: String) -> Error {
    Error::MissingChunk { chunk: chunk.id, needed_by }
}

/// Keeps what is fetched, by the number of the wanted chunk.
struct Collector<'a> {
    wanted: &'a [WantedChunk],
    contents: Vec<(u32, Result<Vec<u8>>)>,
}

impl Taker for Collector<'_> {
    fn needed_by(&self, to: &Destination) -> String {
        self.wanted[to.file as usize].needed_by.to_string()
    }

    fn take(&mut self, to: &[Destination], content: Result<Vec<u8>>) -> Result<()> {
        let Some((last, others)) = to.split_last() else { return Ok(()) };
        self.contents.extend(others.iter().map(|other| (other.file, content.clone())));
        self.contents.push((last.file, content));
        Ok(())
    }
}
