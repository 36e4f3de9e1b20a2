//! Reads many chunks together: by pack and range, several ranges at once.
//!
//! What must stay true: ranges under way are bounded by the budget; a chunk that cannot be had is that chunk's failure
//! alone, and only a backend that cannot be reached is everyone's.

use std::sync::Arc;

use crate::budget::Budget;
use crate::cancel::Cancel;
use crate::chunks::read_plan::{self, Destination, Span, Want};
use crate::chunks::reader::ChunkReader;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::tree::ChunkRef;
use crate::parallel;

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

/// Reads chunks of one repository.
pub struct ChunkFetcher<'a> {
    reader: &'a ChunkReader,
    budget: Budget,
    cancel: &'a Cancel,
}

impl<'a> ChunkFetcher<'a> {
    /// Makes a fetcher that has at most `range_bytes` of stored ranges in memory, beside what it returns.
    pub fn new(reader: &'a ChunkReader, range_bytes: u64, cancel: &'a Cancel) -> Self {
        Self { reader, budget: Budget::new(range_bytes), cancel }
    }

    /// Returns the reader.
    pub fn reader(&self) -> &'a ChunkReader {
        self.reader
    }

    /// Returns the content of each chunk, in the order given, or what is wrong with it.
    pub fn fetch(&self, wanted: &[WantedChunk]) -> Result<Vec<Result<Vec<u8>>>> {
        let missing = |wanted: &WantedChunk| {
            Err(Error::MissingChunk { chunk: wanted.chunk.id, needed_by: wanted.needed_by.to_string() })
        };
        let mut contents: Vec<Result<Vec<u8>>> = wanted.iter().map(missing).collect();
        let mut wants = Vec::with_capacity(wanted.len());
        for (number, WantedChunk { kind, chunk, .. }) in wanted.iter().enumerate() {
            let places = self.reader.repository().index().locate(*kind, &chunk.id)?;
            let to = Destination { file: number as u32, offset: 0 };
            wants.extend(
                places.into_iter().find(|place| place.header.plain_len == chunk.len).map(|place| Want { place, to }),
            );
        }
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let threads = cores.max(self.reader.repository().backend().concurrency());
        for fetched in parallel::map(&read_plan::spans(wants), threads, |span| self.fetch_span(span, wanted)) {
            for (number, content) in fetched? {
                contents[number] = content;
            }
        }
        Ok(contents)
    }

    fn fetch_span(&self, span: &Span, wanted: &[WantedChunk]) -> Result<Vec<(usize, Result<Vec<u8>>)>> {
        self.cancel.check()?;
        let chunk_len_max = self.reader.repository().config().chunk_len_max();
        let _permit = self.budget.take(span.range.end - span.range.start + 2 * chunk_len_max);
        let read = match self.reader.read_span(&span.pack, span.range.clone()) {
            Ok(read) => Some(read),
            Err(error) if error.is_damage() => None,
            Err(error) => return Err(error),
        };
        let mut fetched = Vec::with_capacity(span.wants.len());
        for wants in span.wants.chunk_by(|a, b| a.place.offset == b.place.offset) {
            let place = &wants[0].place;
            let from_span = read.as_ref().and_then(|(start, bytes)| {
                let at = (place.offset - start) as usize;
                self.reader.open(place, &bytes[at..at + place.header.stored_len as usize]).ok()
            });
            let needed_by = || wanted[wants[0].to.file as usize].needed_by.to_string();
            let plain = match from_span {
                Some(plain) => Ok(plain),
                // Perhaps the chunk stands in another pack too.
                None => self.reader.read(place.pack.kind, &place.header.id, &needed_by),
            };
            let plain = match plain {
                Err(error) if !error.is_damage() => return Err(error),
                plain => plain,
            };
            let again = || plain.as_ref().map(Vec::clone).map_err(Error::clone);
            fetched.extend(wants.iter().map(|want| (want.to.file as usize, again())));
        }
        Ok(fetched)
    }
}
