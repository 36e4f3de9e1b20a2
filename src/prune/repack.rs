//! Moves what is needed out of packs that are to go.
//!
//! What must stay true: this is a session like any other, and ends before anything is marked. Every chunk is opened,
//! compared with its id and sealed anew. A pack counts as moved only if every needed chunk of it is in another pack
//! that is indexed; one with a chunk that cannot be read stays as it is. A pack is in memory whole if most of it is moved, and
//! else a span at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::chunks::fetch::{self, StoredRange, Taker};
use crate::chunks::pack_reader;
use crate::chunks::read_plan::{self, Destination, Want};
use crate::chunks::reader::ChunkReader;
use crate::chunks::writer::{ChunkWriter, Fate};
use crate::chunks::writing_session::WritingSession;
use crate::compress::Encoder;
use crate::error::Result;
use crate::format::BlobKind;
use crate::hears::Hears;
use crate::id::{PackId, SessionId};
use crate::monitor::Counter;
use crate::prune::needed::Needed;
use crate::prune::plan::PackUse;
use crate::prune::view::key_of;
use crate::repository::index_sync::Place;
use crate::repository::layout::Object;
use crate::repository::{Repository, objects};
use crate::units::sum_of_claims;

/// What was moved.
#[derive(Debug, Default)]
pub struct Moved {
    /// Packs that are not needed any more.
    pub packs: Vec<PackId>,
    /// Packs with needed chunks that cannot be read.
    pub unreadable: Vec<PackId>,
    /// Chunks that were written anew.
    pub chunks: u64,
    /// Bytes of new packs and segments.
    pub bytes_written: u64,
    /// The session that wrote them.
    pub session: Option<SessionId>,
}

/// What is to be moved.
pub struct Repack<'a> {
    /// Packs whose needed chunks are moved, in this order.
    pub packs: &'a [PackUse],
    /// Packs that are to go too: what they hold does not count as stored.
    pub doomed: &'a [PackUse],
    /// Chunks that are needed.
    pub needed: &'a Needed,
    /// How long to go on.
    pub duration_max: Option<Duration>,
}

/// Moves what is needed out of packs, as far as time allows.
///
/// Fails with [`crate::error::Error::Busy`] if another prune voided the session: then nothing counts as moved.
pub fn run(repository: &Arc<Repository>, repack: &Repack<'_>, hears: &Hears) -> Result<Moved> {
    let Repack { packs, doomed, needed, duration_max } = *repack;
    if packs.is_empty() {
        return Ok(Moved::default());
    }
    let begun = Instant::now();
    let disregarded = packs.iter().chain(doomed).map(|pack| pack.id);
    let session = WritingSession::begin_without(repository, "prune", disregarded, hears)?;
    let mut mover = Mover {
        reader: ChunkReader::new(Arc::clone(repository)),
        encoder: Encoder::default(),
        writer: session.writer(),
        needed,
        hears,
    };
    hears.monitor.phase("repack", Some(packs.len() as u64), Some(sum_of_claims(packs.iter().map(|pack| pack.len))));
    let moved = mover.all(packs, || duration_max.is_some_and(|max| begun.elapsed() > max))?;
    let id = session.id();
    let (session, written) = session.finish()?;
    // It ends before anything is marked: what was moved counts only if no other prune voided this session.
    session.close("repacked")?;
    let mut moved = Moved { bytes_written: written.stored_bytes, session: Some(id), ..moved };
    moved.packs.sort();
    Ok(moved)
}

struct Mover<'a> {
    reader: ChunkReader,
    encoder: Encoder,
    writer: &'a ChunkWriter,
    needed: &'a Needed,
    hears: &'a Hears,
}

impl Mover<'_> {
    fn all(&mut self, packs: &[PackUse], is_late: impl Fn() -> bool) -> Result<Moved> {
        let mut moved = Moved::default();
        for pack in packs {
            if is_late() {
                self.hears.monitor.note("Time is up: the packs that are left are moved by the next prune");
                break;
            }
            self.hears.check()?;
            match self.pack(pack) {
                Ok(chunks) => {
                    moved.chunks += chunks;
                    moved.packs.push(pack.id);
                }
                Err(error) if error.is_damage() => {
                    moved.unreadable.push(pack.id);
                    self.hears
                        .monitor
                        .problem(&key_of(pack), &format!("it stays, something in it cannot be moved: {error}"));
                }
                Err(error) => return Err(error),
            }
            self.hears.monitor.count(Counter::Entries, 1);
            self.hears.monitor.count(Counter::Bytes, pack.len);
        }
        Ok(moved)
    }

    /// Returns how many chunks were written.
    fn pack(&mut self, pack: &PackUse) -> Result<u64> {
        let repository = Arc::clone(self.reader.repository());
        let is_mostly_used = pack.used > pack.len / 2;
        let whole = is_mostly_used
            .then(|| objects::read(repository.backend(), Object::Pack(pack.kind, pack.id), None))
            .transpose()?;
        let directory = match &whole {
            Some(bytes) => pack_reader::directory_of(&repository, pack.kind, &pack.id, bytes)?,
            None => pack_reader::read_directory(&repository, pack.kind, &pack.id, pack.len)?,
        };
        let mut wants = Vec::new();
        for place in Place::all_in(pack.kind, &directory) {
            if self.needed.contains(pack.kind, &place.header.id) && !self.writer.holds(pack.kind, &place.header.id)? {
                wants.push(Want { place, to: Destination { file: 0, offset: 0 } });
            }
        }
        let mut taker = ChunkRewrite { kind: pack.kind, encoder: &mut self.encoder, writer: self.writer, written: 0 };
        for span in read_plan::spans(wants) {
            let stored = match &whole {
                Some(bytes) => StoredRange { start: 0, bytes: bytes.clone() },
                None => {
                    let (start, bytes) = self.reader.read_span(&span.pack, span.range.clone())?;
                    StoredRange { start, bytes }
                }
            };
            fetch::open_span(&self.reader, &span, Some(&stored), &mut taker)?;
        }
        Ok(taker.written)
    }
}

/// Stores anew what is read. A chunk that cannot be had keeps its pack where it is.
struct ChunkRewrite<'a> {
    kind: BlobKind,
    encoder: &'a mut Encoder,
    writer: &'a ChunkWriter,
    written: u64,
}

impl Taker for ChunkRewrite<'_> {
    fn needed_by(&self, _: &Destination) -> String {
        "a pack that is moved".to_owned()
    }

    fn take(&mut self, _: &[Destination], content: Result<Vec<u8>>) -> Result<()> {
        let (_, fate) = self.writer.write(self.encoder, self.kind, &content?)?;
        self.written += u64::from(fate == Fate::New);
        Ok(())
    }
}
