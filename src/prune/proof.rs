//! Proves that what is needed in packs that are to go is in others that stay.
//!
//! What must stay true:
//! - A pack goes only if each needed chunk in it was opened from a pack that stays, and hashed to its name, or was moved by
//!   this very prune. What is in a pack is what any segment says, or, where none names it, what it says itself.
//! - Segments are believed where they ask for more care, never where they ask for less: one that lies can keep packs from
//!   going, and nothing else. Whoever was found to say what is not so is named.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::budget::Budget;
use crate::chunks::pack_reader;
use crate::chunks::read_plan::{self, Destination, Span, Want};
use crate::chunks::reader::ChunkReader;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::hears::Hears;
use crate::id::{ChunkId, PackId, SessionId};
use crate::monitor::Counter;
use crate::parallel;
use crate::prune::needed::Needed;
use crate::prune::view::View;
use crate::repository::index_sync::Place;
use crate::repository::{Repository, layout};

/// Chunks that are proved at once; bounds memory, and lets those of one pack be read together.
const BATCH_CHUNKS: usize = 1 << 15;
/// Sealed and open copies of one chunk that a thread holds beside what it read.
const CHUNK_COPIES: u64 = 3;

/// A pack that is to go, with its kind and length.
pub type Doomed = BTreeMap<PackId, (BlobKind, u64)>;

/// What a proof rests on.
pub struct Grounds<'a> {
    /// What is needed.
    pub needed: &'a Needed,
    /// What was seen.
    pub view: &'a View,
    /// The session in which this prune moved chunks, if it moved any.
    pub own: Option<SessionId>,
}

/// A needed chunk of packs that are to go.
struct Claim {
    kind: BlobKind,
    chunk: ChunkId,
    /// The packs that are to go and are said to hold it.
    doomed: Vec<PackId>,
    /// Where it is said to be beside that.
    staying: Vec<Place>,
}

/// What a proof found wanting.
#[derive(Default)]
pub struct Unproven {
    /// Packs that must stay, because something that is needed in them was proved nowhere else.
    pub packs: HashSet<PackId>,
    /// Packs that do not hold what is said of them.
    pub accused: HashSet<PackId>,
}

/// Looks for proof that packs can go.
pub fn unproven(
    repository: &Arc<Repository>,
    grounds: &Grounds<'_>,
    doomed: &Doomed,
    hears: &Hears,
) -> Result<Unproven> {
    if doomed.is_empty() {
        return Ok(Unproven::default());
    }
    hears.monitor.phase("prove copies", None, None);
    let budget = Budget::new(repository.memory_plan().chunk_bytes);
    let reader = ChunkReader::new(Arc::clone(repository));
    let mut proof =
        Proof { repository, grounds, doomed, hears, reader, budget, pending: Vec::new(), found: Unproven::default() };
    for kind in BlobKind::ALL {
        proof.named(kind)?;
    }
    proof.unnamed()?;
    proof.prove_pending()?;
    Ok(proof.found)
}

struct Proof<'a> {
    repository: &'a Arc<Repository>,
    grounds: &'a Grounds<'a>,
    doomed: &'a Doomed,
    hears: &'a Hears,
    reader: ChunkReader,
    budget: Budget,
    pending: Vec<Claim>,
    found: Unproven,
}

impl Proof<'_> {
    /// Goes through the index, in which all places of a chunk follow each other.
    fn named(&mut self, kind: BlobKind) -> Result<()> {
        let repository = Arc::clone(self.repository);
        let mut current: Vec<Place> = Vec::new();
        repository.index().for_each_chunk(kind, &mut |pack, offset, header| {
            if !self.grounds.needed.contains(kind, &header.id) {
                return Ok(());
            }
            if current.first().is_some_and(|place| place.header.id != header.id) {
                self.claim_all(kind, &std::mem::take(&mut current))?;
            }
            current.push(Place { pack: Arc::clone(pack), offset, header: *header });
            Ok(())
        })?;
        self.claim_all(kind, &current)
    }

    fn claim_all(&mut self, kind: BlobKind, places: &[Place]) -> Result<()> {
        places.first().map_or(Ok(()), |first| self.claim(kind, first.header.id, Vec::new(), places))
    }

    /// Asks packs that no segment names what they hold. One that cannot say so is of no use to anybody.
    fn unnamed(&mut self) -> Result<()> {
        let unnamed: Vec<(PackId, BlobKind, u64)> = self
            .doomed
            .iter()
            .filter(|(pack, _)| !self.grounds.view.is_named(pack))
            .map(|(pack, (kind, len))| (*pack, *kind, *len))
            .collect();
        for (pack, kind, len) in unnamed {
            self.hears.check()?;
            let directory = match pack_reader::read_directory(self.repository, kind, &pack, len) {
                Err(error) if error.is_damage() => continue,
                directory => directory?,
            };
            for chunk in directory.chunks.iter().filter(|chunk| self.grounds.needed.contains(kind, &chunk.id)) {
                let places = self.repository.index().locate(kind, &chunk.id)?;
                self.claim(kind, chunk.id, vec![pack], &places)?;
            }
        }
        Ok(())
    }

    fn claim(&mut self, kind: BlobKind, chunk: ChunkId, mut doomed: Vec<PackId>, places: &[Place]) -> Result<()> {
        let (going, staying): (Vec<&Place>, Vec<&Place>) =
            places.iter().partition(|place| self.doomed.contains_key(&place.pack.id));
        doomed.extend(going.iter().map(|place| place.pack.id));
        if doomed.is_empty() || staying.iter().any(|place| self.is_own(place)) {
            return Ok(());
        }
        // What another prune has marked may be gone at any moment, and proves nothing.
        let staying = staying.into_iter().filter(|place| self.grounds.view.provides(&place.pack)).cloned().collect();
        self.pending.push(Claim { kind, chunk, doomed, staying });
        if self.pending.len() < BATCH_CHUNKS { Ok(()) } else { self.prove_pending() }
    }

    /// Returns whether this prune sealed the chunk itself, and opened it again before it was stored.
    fn is_own(&self, place: &Place) -> bool {
        place.pack.is_vouched
            && Some(place.pack.session.session) == self.grounds.own
            && self.grounds.view.provides(&place.pack)
    }

    fn prove_pending(&mut self) -> Result<()> {
        let claims = std::mem::take(&mut self.pending);
        let first = |(number, claim): (usize, &Claim)| {
            let to = Destination { file: number as u32, offset: 0 };
            claim.staying.first().map(|place| Want { place: place.clone(), to })
        };
        let spans = read_plan::spans(claims.iter().enumerate().filter_map(first).collect());
        let threads = self.repository.thread_plan().fetching;
        let mut proved: HashSet<u32> = HashSet::new();
        for numbers in parallel::map(&spans, threads, |span| self.open_span(span)) {
            proved.extend(numbers?);
        }
        for (number, claim) in claims.iter().enumerate() {
            if !proved.contains(&(number as u32)) && !self.opens_elsewhere(claim)? {
                self.keep(claim);
            }
        }
        Ok(())
    }

    /// Returns the numbers of the claims whose chunks opened.
    fn open_span(&self, span: &Span) -> Result<Vec<u32>> {
        self.hears.check()?;
        let chunk_len_max = self.repository.config().chunk_len_max();
        let _permit = self.budget.take(span.range.end - span.range.start + CHUNK_COPIES * chunk_len_max);
        let (start, bytes) = match self.reader.read_span(&span.pack, span.range.clone()) {
            Err(error) if error.is_damage() => return Ok(Vec::new()),
            read => read?,
        };
        self.hears.monitor.count(Counter::BytesTransferred, bytes.len() as u64);
        let opens = |want: &&Want| {
            let at = (want.place.offset - start) as usize;
            let stored = bytes.get(at..at + want.place.header.stored_len as usize);
            stored.is_some_and(|stored| self.reader.open(&want.place, stored).is_ok())
        };
        Ok(span.wants.iter().filter(opens).map(|want| want.to.file).collect())
    }

    /// Tries every place by itself, and says of each that fails who stands for it.
    fn opens_elsewhere(&mut self, claim: &Claim) -> Result<bool> {
        let doubted = &self.found.accused;
        let places: Vec<&Place> = claim.staying.iter().filter(|place| !doubted.contains(&place.pack.id)).collect();
        for place in places {
            let key = layout::pack(claim.kind, &place.pack.id);
            match self.reader.read_at(place) {
                Ok(_) => return Ok(true),
                Err(error) if error.is_damage() => {
                    // Once for each pack: a liar may speak of a million chunks.
                    if self.found.accused.insert(place.pack.id) {
                        self.hears.monitor.problem(&key, &accusation(place, &error));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    fn keep(&mut self, claim: &Claim) {
        for pack in &claim.doomed {
            if self.found.packs.insert(*pack) {
                let reason = format!("it stays: no other pack was found to hold its chunk {}", claim.chunk);
                self.hears.monitor.problem(&layout::pack(claim.kind, pack), &reason);
            }
        }
    }
}

/// Says what is wrong with a place, and whose word it was.
fn accusation(place: &Place, error: &Error) -> String {
    let whose = match place.pack.is_vouched {
        true => format!("the key {} vouches for it", place.pack.session.slot),
        false => "nobody vouches for it".to_owned(),
    };
    format!("the index says that chunk {} is in it, and it is not ({whose}): {}", place.header.id, error.reason())
}
