//! Looks at the store after every change and says whether anything was lost.
//!
//! What it knows of the format: segments say which chunks are in which packs; a snapshot counts unless it is forgotten.
//! What a snapshot needs is found out when it appears, and must be there, in a pack that is named, from then on.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use mlvault::backend::Backend;
use mlvault::backend::memory::MemoryBackend;
use mlvault::chunks::pack_reader;
use mlvault::chunks::reader::ChunkReader;
use mlvault::format::BlobKind;
use mlvault::format::forgotten;
use mlvault::format::object::{self, ObjectKind};
use mlvault::format::segment::IndexedPack;
use mlvault::format::snapshot::{self, SessionOutcome};
use mlvault::id::{ChunkId, SegmentId, SessionId};
use mlvault::repository::{Repository, layout};
use mlvault::trees::reachable;

use crate::simulator::THIEF;
use crate::support::repo::id_of;

/// The chunks of a kind that something refers to.
type Chunks = BTreeSet<(BlobKind, ChunkId)>;

pub struct Oracle {
    repository: Arc<Repository>,
    store: Arc<MemoryBackend>,
    /// What each segment that is there says: pack and chunks.
    segments: BTreeMap<String, Vec<(String, Chunks)>>,
    /// What each snapshot needs that is there, forgotten or not.
    needs: BTreeMap<SessionId, Chunks>,
    seed: u64,
}

impl Oracle {
    /// `repository` must be open on the very store, without a scheduler in between.
    pub fn new(repository: Arc<Repository>, store: Arc<MemoryBackend>, seed: u64) -> Self {
        let mut oracle = Self { repository, store, segments: BTreeMap::new(), needs: BTreeMap::new(), seed };
        for prefix in [layout::INDEX, layout::SNAPSHOTS] {
            for object in oracle.store.list(prefix).unwrap() {
                oracle.look(&object.key, &[]);
            }
        }
        oracle
    }

    /// Returns the snapshots that are listed.
    pub fn listed(&self) -> Vec<SessionId> {
        let is_listed = |id: &&SessionId| !self.is_forgotten(id);
        self.needs.keys().filter(is_listed).copied().collect()
    }

    /// Returns the keys of the packs that segments name.
    pub fn named_packs(&self) -> BTreeSet<String> {
        self.segments.values().flatten().map(|(pack, _)| pack.clone()).collect()
    }

    /// Looks after a change to one key. Panics if anything is lost.
    pub fn look(&mut self, key: &str, trace: &[String]) {
        if key.starts_with(layout::INDEX) {
            self.look_at_segment(key);
        } else if key.starts_with(layout::SNAPSHOTS) {
            self.look_at_snapshot(key, trace);
        }
        for id in self.listed() {
            let missing = self.needs[&id].iter().find(|(kind, chunk)| !self.is_held(*kind, chunk));
            if let Some((kind, chunk)) = missing {
                self.lost(&format!("{kind:?} chunk {chunk} of snapshot {id}"), trace);
            }
        }
    }

    /// A byte under that name is no record, and neither is one that no maintainer signed.
    fn is_forgotten(&self, id: &SessionId) -> bool {
        let repository = &self.repository;
        self.store.read(&layout::forgotten(id)).is_ok_and(|bytes| {
            object::open(repository.keys(), repository.id(), ObjectKind::Forgotten, &id.to_string(), &bytes)
                .and_then(|body| forgotten::decode(repository.id(), *id, &repository.config().root_key, &body))
                .is_ok()
        })
    }

    fn is_there(&self, key: &str) -> bool {
        self.store.read(key).is_ok()
    }

    fn is_held(&self, kind: BlobKind, chunk: &ChunkId) -> bool {
        let mut packs = self.segments.values().flatten();
        packs.any(|(pack, chunks)| chunks.contains(&(kind, *chunk)) && self.is_there(pack))
    }

    fn look_at_segment(&mut self, key: &str) {
        let Ok(bytes) = self.store.read(key) else {
            self.segments.remove(key);
            return;
        };
        let id: SegmentId = id_of(key).unwrap();
        let kind = if key.starts_with("index/data/") { BlobKind::Data } else { BlobKind::Meta };
        let (segment, _) = self.repository.open_segment(kind, &id, &bytes).unwrap();
        let chunks = |pack: &IndexedPack| {
            let ids = pack.chunks.iter().map(|chunk| (kind, chunk.id)).collect();
            (layout::pack(kind, &pack.id), ids)
        };
        let believed = segment.packs.iter().filter(|pack| self.is_so(kind, pack));
        self.segments.insert(key.to_owned(), believed.map(chunks).collect());
    }

    /// Garbage says of itself what the thief wants. Of other packs, a word that nobody vouches for is compared with them.
    fn is_so(&self, kind: BlobKind, pack: &IndexedPack) -> bool {
        let is_thiefs = || {
            let keys = self.repository.list_keys().unwrap().into_iter().filter_map(|slot| slot.certificate.ok());
            keys.into_iter().any(|key| key.label == THIEF && key.slot == pack.session.slot)
        };
        let own = |bytes: &Bytes| pack_reader::directory_of(&self.repository, kind, &pack.id, bytes);
        match self.store.read(&layout::pack(kind, &pack.id)) {
            _ if is_thiefs() => false,
            Ok(bytes) if !pack.is_vouched => own(&bytes).is_ok_and(|own| own.chunks == pack.chunks),
            _ => true,
        }
    }

    fn look_at_snapshot(&mut self, key: &str, trace: &[String]) {
        let id: SessionId = id_of(key).unwrap();
        let Ok(bytes) = self.store.read(key) else {
            self.needs.remove(&id);
            return;
        };
        let repository = &self.repository;
        let body = object::open(repository.keys(), repository.id(), ObjectKind::Snapshot, &id.to_string(), &bytes);
        let decoded = snapshot::decode(repository.id(), id, &repository.config().root_key, &body.unwrap()).unwrap();
        // What a thief plants may need what it likes.
        if decoded.1.label == THIEF {
            return;
        }
        // One that was forgotten and pruned may come back by a late write; it stays forgotten.
        let (SessionOutcome::Snapshot(record), false) = (decoded.0, self.is_forgotten(&id)) else {
            return;
        };
        repository.index().expire();
        let mut needs = Chunks::new();
        let reader = ChunkReader::new(Arc::clone(repository));
        let mut seen = HashSet::new();
        let read = reachable::for_each_chunk(&reader, &record, &mut |role, chunk| {
            needs.insert((role.kind(), *chunk));
            Ok(seen.insert((role, *chunk)))
        });
        if let Err(error) = read {
            self.lost(&format!("snapshot {id}, as it was committed: {error}"), trace);
        }
        self.needs.insert(id, needs);
    }

    fn lost(&self, what: &str, trace: &[String]) -> ! {
        panic!("LOST with seed {}: {what}\n{}", self.seed, trace.join("\n"));
    }
}
