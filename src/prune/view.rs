//! What a prune sees of a repository at one moment, and what each pack is good for.
//!
//! What must stay true: tombstones are listed first, then the index is read, then packs are listed. A pack provides a
//! chunk only if a segment names it, it is there, and no tombstone names it. What segments say makes a plan, and deletes
//! nothing by itself: see [`crate::prune::proof`].

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use crate::error::{Error, Result};
use crate::format::{BlobKind, PerKind};
use crate::id::{ChunkId, PackId};
use crate::index::PackRecord;
use crate::prune::needed::Needed;
use crate::prune::plan::{PackUse, Standing};
use crate::repository::session::{self, StoredPack, StoredPacks};
use crate::repository::trust::Trust;
use crate::repository::{Repository, layout};

/// What was seen.
pub struct View {
    tombstoned: HashSet<PackId>,
    named: PerKind<HashSet<PackId>>,
    there: PerKind<StoredPacks>,
}

/// What decides which pack provides a chunk.
pub struct Basis<'a> {
    /// Chunks that are needed.
    pub needed: &'a Needed,
    /// Whom this key relies on: what it would store anew, because somebody else has it, provides nothing for long.
    pub trust: &'a Trust,
    /// Packs that were found not to hold what is said of them. They provide what no other pack does.
    pub accused: &'a HashSet<PackId>,
}

/// What packs of one kind are good for.
#[derive(Default)]
struct Tally {
    /// Stored bytes of the chunks of each pack.
    content: HashMap<PackId, u64>,
    /// Stored bytes of the needed chunks that each pack is to provide.
    used: HashMap<PackId, u64>,
    /// Packs with a tombstone that hold a needed chunk which no other pack provides.
    rescued: HashSet<PackId>,
    /// Needed chunks that are somewhere.
    found: u64,
}

/// What all packs are good for.
pub struct Uses {
    /// One for each pack that is there.
    pub packs: Vec<PackUse>,
    /// Packs with a tombstone that must not be deleted.
    pub rescued: HashSet<PackId>,
}

impl View {
    /// Looks.
    pub fn take(repository: &Repository) -> Result<Self> {
        // First, after this prune's own is written: of two prunes that would each keep a chunk for the other one to drop, at
        // least one sees the other's mark.
        let tombstoned = session::tombstones(repository)?.all_readable()?.into_packs();
        let index = repository.index();
        let named = |kind| -> Result<HashSet<PackId>> {
            index.refresh(kind)?;
            Ok(index.packs(kind)?.into_iter().map(|pack| pack.id).collect())
        };
        let named = PerKind::try_new(named)?;
        if let Some(error) = index.take_damage().into_iter().next() {
            return Err(Error::Refused(format!(
                "Nothing is pruned while the index is damaged; `mlvault repair index` makes it anew. {error}"
            )));
        }
        // After the index: names may outlive their packs, and only a pack that is there provides a chunk.
        let there = PerKind::try_new(|kind| session::stored_packs(repository, kind))?;
        Ok(Self { tombstoned, named, there })
    }

    /// Returns the kind and length of a pack that is there.
    pub fn find(&self, pack: &PackId) -> Option<(BlobKind, u64)> {
        BlobKind::ALL.into_iter().find_map(|kind| self.there(kind).get(pack).map(|stored| (kind, stored.len)))
    }

    /// Returns whether a segment names a pack.
    pub fn is_named(&self, pack: &PackId) -> bool {
        self.named.both().into_iter().any(|named| named.contains(pack))
    }

    /// Returns packs that segments name and that are gone.
    pub fn gone(&self, kind: BlobKind) -> impl Iterator<Item = &PackId> {
        self.named[kind].iter().filter(move |pack| !self.there(kind).contains_key(pack))
    }

    /// Finds out what each pack is good for. Fails with [`Error::Refused`] if something needed is nowhere.
    pub fn uses(&self, repository: &Repository, basis: &Basis<'_>) -> Result<Uses> {
        let mut uses = Uses { packs: Vec::new(), rescued: HashSet::new() };
        for kind in BlobKind::ALL {
            let tally = self.tally(repository, basis, kind)?;
            let missing = basis.needed.count(kind).saturating_sub(tally.found);
            if missing > 0 {
                return Err(Error::Refused(format!(
                    "Nothing is pruned while {missing} {} chunks that snapshots need are in no pack; `mlvault check` \
                     names them, and `mlvault repair index` may find them",
                    kind.name()
                )));
            }
            for (id, StoredPack { len, .. }) in self.there(kind) {
                let bytes_of = |map: &HashMap<PackId, u64>| map.get(id).copied().unwrap_or(0);
                let (content, used) = (bytes_of(&tally.content), bytes_of(&tally.used));
                uses.packs.push(PackUse { id: *id, kind, len: *len, content, used, standing: self.standing(id) });
            }
            uses.rescued.extend(tally.rescued);
        }
        uses.packs.sort_by_key(|pack| pack.id);
        Ok(uses)
    }

    fn there(&self, kind: BlobKind) -> &StoredPacks {
        &self.there[kind]
    }

    fn standing(&self, pack: &PackId) -> Standing {
        match (self.tombstoned.contains(pack), self.is_named(pack)) {
            (true, _) => Standing::Tombstoned,
            (false, true) => Standing::Live,
            (false, false) => Standing::Unnamed,
        }
    }

    /// Goes through the index, in which all places of a chunk follow each other.
    fn tally(&self, repository: &Repository, basis: &Basis<'_>, kind: BlobKind) -> Result<Tally> {
        let Basis { needed, trust, accused } = basis;
        let (mut tally, mut current, mut last_found) = (Tally::default(), Places::default(), None);
        let mut settle = |places: &mut Places, tally: &mut Tally| {
            let Some(id) = places.chunk else { return };
            if self.settle(places, tally)
                && last_found.replace(Needed::name(kind, &id)) != Some(Needed::name(kind, &id))
            {
                tally.found += 1;
            }
        };
        repository.index().for_each_chunk(kind, &mut |pack, _, header| {
            *tally.content.entry(pack.id).or_default() += u64::from(header.stored_len);
            if !needed.contains(kind, &header.id) {
                return Ok(());
            }
            if current.chunk != Some(header.id) {
                settle(&mut current, &mut tally);
                current = Places { chunk: Some(header.id), at: Vec::new() };
            }
            if let Some(since) = self.since(pack) {
                let doubts = (accused.contains(&pack.id), !trust.in_pack(pack), !pack.is_vouched);
                let rank = (doubts, since, pack.id);
                current.at.push(Candidate { rank, stored: u64::from(header.stored_len) });
            }
            Ok(())
        })?;
        settle(&mut current, &mut tally);
        Ok(tally)
    }

    fn since(&self, pack: &PackRecord) -> Option<Timestamp> {
        let stored = self.there(pack.kind).get(&pack.id)?;
        (stored.len == pack.len).then_some(stored.since)
    }

    /// Returns whether a pack is there and no tombstone names it.
    pub fn provides(&self, pack: &PackRecord) -> bool {
        self.since(pack).is_some() && !self.tombstoned.contains(&pack.id)
    }

    /// Decides which pack is to provide a needed chunk: of those without a tombstone one that this key relies on,
    /// else one that somebody vouches for, and the oldest of them, so that whoever comes later displaces nothing. Returns whether any can.
    fn settle(&self, places: &Places, tally: &mut Tally) -> bool {
        let live = places.at.iter().filter(|place| !self.tombstoned.contains(place.pack())).min();
        if live.is_none() {
            tally.rescued.extend(places.at.iter().map(|place| *place.pack()));
        }
        let Some(place) = live.or(places.at.iter().min()) else { return false };
        *tally.used.entry(*place.pack()).or_default() += place.stored;
        true
    }
}

/// Where one chunk stands.
#[derive(Default)]
struct Places {
    chunk: Option<ChunkId>,
    at: Vec<Candidate>,
}

/// A pack that may provide a chunk.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    /// The least is preferred: whether the pack is accused, whether this key does not rely on it, whether nobody vouches for it;
    /// since when it is there; the pack.
    rank: ((bool, bool, bool), Timestamp, PackId),
    /// Stored length of the chunk.
    stored: u64,
}

impl Candidate {
    fn pack(&self) -> &PackId {
        &self.rank.2
    }
}

/// Returns the key of a pack.
pub fn key_of(pack: &PackUse) -> String {
    layout::pack(pack.kind, &pack.id)
}
