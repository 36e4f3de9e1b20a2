//! A session: one process writing to a repository, until it commits a snapshot or is declared void.
//!
//! What must stay true (the protocol that lets prune run beside it, `docs/design.md`, section 5):
//! 1. `sessions/<id>` is created, *then* tombstones are listed, *then* index and snapshots are read, *then* packs are
//!    listed. Chunks in packs that are tombstoned or not there count as absent, also those that an unchanged parent
//!    entry refers to: a segment may be written late by a session that was voided, or anew by a prune that did not know
//!    what another one removed meanwhile, and name packs that are gone.
//! 2. Packs are written before the segments that name them, segments before the snapshot.
//! 3. The snapshot is a create-only write under the session's own name. If something else stands there, the session
//!    was declared void and nothing that it wrote may be relied on.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use jiff::Timestamp;

use crate::crypto::random;
use crate::error::{Error, Fault, Result};
use crate::format::object::{self, ObjectKind};
use crate::format::session::SessionRecord;
use crate::format::session_keys::SessionKeys;
use crate::format::snapshot::{SessionOutcome, SnapshotRecord, VoidRecord};
use crate::format::tombstone::Tombstone;
use crate::format::{BlobKind, PerKind};
use crate::id::{PackId, SessionId, TombstoneId};
use crate::repository::index_sync::Place;
use crate::repository::{Repository, layout};
use crate::sync::lock;

/// Name and version, as records and `--version` give it.
pub const PROGRAM: &str = concat!("mlvault ", env!("CARGO_PKG_VERSION"));

/// A session that has begun.
pub struct Session {
    /// Its id; the snapshot will have the same.
    pub id: SessionId,
    /// Its keys.
    pub keys: SessionKeys,
    /// When it began, by our clock.
    pub started: Timestamp,
    /// Packs whose chunks count as absent.
    pub tombstoned: HashSet<PackId>,
    /// Packs of each kind that were there when the index was first asked, with their lengths.
    there: Mutex<PerKind<Option<Arc<StoredPacks>>>>,
}

/// Packs that are there, with their lengths.
pub type StoredPacks = HashMap<PackId, u64>;

impl Session {
    /// Announces a session, then learns which packs it must not rely on.
    pub fn begin(repository: &Repository, purpose: &str) -> Result<Self> {
        if !repository.access().certificate.role.writes_snapshots() {
            return Err(repository.access().refusal("write snapshots"));
        }
        let started = repository.clock().now();
        let id = SessionId::new(started.as_millisecond().max(0) as u64, random());
        let record =
            SessionRecord { started, host: host_name(), program: PROGRAM.to_owned(), purpose: purpose.to_owned() };
        let name = id.to_string();
        let sealed = object::seal(repository.keys(), repository.id(), ObjectKind::Session, &name, &record.encode());
        repository.backend().create(&layout::session(&id), Bytes::from(sealed))?;
        let tombstoned = tombstoned_packs(repository)?;
        // A handle that was open before may know packs that were swept since.
        repository.index().expire();
        let keys = SessionKeys::create(repository.id(), id, repository.keys(), &repository.config().data_public_key);
        Ok(Self { id, keys, started, tombstoned, there: Mutex::default() })
    }

    /// Counts further packs as absent: their chunks are to be stored anew.
    pub fn disregard(&mut self, packs: impl IntoIterator<Item = PackId>) {
        self.tombstoned.extend(packs);
    }

    /// Returns whether a snapshot of this session may rely on a chunk in this place, which the index told.
    pub fn may_rely_on(&self, repository: &Repository, place: &Place) -> Result<bool> {
        let pack = &place.pack;
        if self.tombstoned.contains(&pack.id) {
            return Ok(false);
        }
        let is_own = pack.session == self.keys.header;
        Ok(is_own || self.there(repository, pack.kind)?.get(&pack.id) == Some(&pack.len))
    }

    fn there(&self, repository: &Repository, kind: BlobKind) -> Result<Arc<StoredPacks>> {
        let mut there = lock(&self.there);
        let of_kind = &mut there[kind];
        match of_kind {
            Some(packs) => Ok(Arc::clone(packs)),
            None => Ok(Arc::clone(of_kind.insert(Arc::new(stored_packs(repository, kind)?)))),
        }
    }

    /// Ends the session without a snapshot. What it wrote stays in the index.
    ///
    /// Fails with [`Error::Busy`] if it was voided: then nothing that it wrote may be relied on.
    pub fn close(&self, repository: &Repository, reason: &str) -> Result<()> {
        let record = VoidRecord { at: repository.clock().now(), reason: reason.to_owned() };
        match repository.write_outcome(&self.id, &SessionOutcome::Void(record)) {
            Err(error) if error.fault() == Some(Fault::AlreadyExists) => Err(self.was_voided()),
            result => result,
        }
    }

    fn was_voided(&self) -> Error {
        Error::Busy(format!(
            "The session {} was declared void by a prune while it ran, so there is no snapshot of it",
            self.id.short()
        ))
    }

    /// Commits the snapshot under the session's name: after this it is listed, before this it is not.
    pub fn commit(&self, repository: &Repository, record: SnapshotRecord) -> Result<()> {
        match repository.write_outcome(&self.id, &SessionOutcome::Snapshot(Box::new(record))) {
            Err(error) if error.fault() == Some(Fault::AlreadyExists) => Err(self.was_voided()),
            result => result,
        }
    }
}

/// Declares a session void, so that it can never commit. One that has ended meanwhile stays what it is.
pub fn void(repository: &Repository, id: &SessionId, reason: &str) -> Result<()> {
    let record = VoidRecord { at: repository.clock().now(), reason: reason.to_owned() };
    match repository.write_outcome(id, &SessionOutcome::Void(record)) {
        Err(error) if error.fault() == Some(Fault::AlreadyExists) => Ok(()),
        result => result,
    }
}

/// Lists the packs of a kind.
pub fn stored_packs(repository: &Repository, kind: BlobKind) -> Result<StoredPacks> {
    let listed = repository.backend().list(&layout::packs(kind))?;
    Ok(listed.iter().filter_map(|object| Some((layout::pack_of(kind, &object.key)?, object.size))).collect())
}

/// Returns the sessions that have ended, as a snapshot, forgotten or not, or void.
pub fn ended(repository: &Repository) -> Result<HashSet<SessionId>> {
    // A snapshot is removed only after it was forgotten: in this order none is missed.
    let outcomes = repository.backend().list(layout::SNAPSHOTS)?;
    let forgotten = repository.backend().list(layout::FORGOTTEN)?;
    let ended = outcomes.iter().filter_map(|object| layout::snapshot_of(&object.key));
    Ok(ended.chain(forgotten.iter().filter_map(|object| layout::forgotten_of(&object.key))).collect())
}

/// Creates a tombstone, and returns its key: sessions that begin from now on rely on none of these packs.
pub fn bury(repository: &Repository, packs: &[PackId]) -> Result<String> {
    let time = repository.clock().now().as_millisecond().max(0) as u64;
    let id = TombstoneId::new(time, random());
    let body = Tombstone { packs: packs.to_vec() }.encode();
    let (keys, name) = (repository.keys(), id.to_string());
    let sealed = object::seal(keys, repository.id(), ObjectKind::Tombstone, &name, &body);
    let key = layout::tombstone(&id);
    repository.backend().create(&key, Bytes::from(sealed))?;
    Ok(key)
}

/// Returns the packs that tombstones name. A tombstone that cannot be read is an error: its packs must not be relied on.
pub fn tombstoned_packs(repository: &Repository) -> Result<HashSet<PackId>> {
    Ok(tombstones(repository)?.into_iter().flat_map(|(_, packs)| packs).collect())
}

/// Returns every tombstone's key and packs.
pub fn tombstones(repository: &Repository) -> Result<Vec<(String, Vec<PackId>)>> {
    let mut tombstones = Vec::new();
    for object in repository.backend().list(layout::TOMBSTONES)? {
        let bytes = match repository.backend().read(&object.key) {
            Ok(bytes) => bytes,
            Err(error) if error.fault() == Some(Fault::NotFound) => continue,
            Err(error) => return Err(error),
        };
        let name = object.key.rsplit('/').next().unwrap_or_default();
        let tombstone = object::open(repository.keys(), repository.id(), ObjectKind::Tombstone, name, &bytes)
            .and_then(|body| Tombstone::decode(&body))
            .map_err(|error| Error::damaged(&object.key, error))?;
        tombstones.push((object.key, tombstone.packs));
    }
    Ok(tombstones)
}

/// Returns this machine's or pod's name, for people to read.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
