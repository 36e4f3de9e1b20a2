//! A session: one process, or several for one snapshot, writing to a repository, until it is committed or declared void.
//!
//! What must stay true (the protocol that lets prune run beside it, `docs/design.md`, section 5):
//! 1. `sessions/<id>` is created, *then* tombstones are listed, *then* index and snapshots are read, *then* packs are
//!    listed. Chunks in packs that are tombstoned, not there, or of somebody who is not trusted ([`super::trust`]) count
//!    as absent, also those that an unchanged parent
//!    entry refers to: a segment may be written late by a session that was voided, or anew by a prune that did not know
//!    what another one removed meanwhile, and name packs that are gone.
//!    Where several processes share a session, one announces it, and each does the rest for itself afterwards.
//! 2. Packs are written before the segments that name them, segments before the snapshot.
//! 3. The snapshot is a create-only write under the session's own name. If something else stands there, the session
//!    was declared void and nothing that it wrote may be relied on.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use jiff::Timestamp;

use crate::backend::Listed;
use crate::crypto::random;
use crate::error::{Error, Fault, Result};
use crate::format::key_slot::Certificate;
use crate::format::log::What;
use crate::format::session::SessionRecord;
use crate::format::session_keys::{SessionKeys, SessionName};
use crate::format::snapshot::{SessionOutcome, SnapshotRecord, VoidRecord};
use crate::format::tombstone::Tombstone;
use crate::format::{BlobKind, PerKind};
use crate::id::{PackId, SessionId, TombstoneId};
use crate::index::PackRecord;
use crate::repository::index_sync::Place;
use crate::repository::layout::Object;
use crate::repository::objects::{self, Unreadable};
use crate::repository::trust::Trust;
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
    /// Whether a tombstone cannot be read: then any pack might be one that is about to go.
    pub is_blind: bool,
    /// What is wrong with tombstones.
    pub bad_tombstones: Unreadable,
    /// Whether trust was ever taken back: then even what an own snapshot names may not be relied on unasked.
    pub is_wary: bool,
    /// Packs of each kind that were there when the index was first asked, with their lengths.
    there: Mutex<PerKind<Option<Arc<StoredPacks>>>>,
    /// Read once it is asked whether to rely on somebody else: a single writer never asks.
    trust: OnceLock<Trust>,
}

/// A pack that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredPack {
    /// Its length in bytes.
    pub len: u64,
    /// Since when, as the backend says.
    pub since: Timestamp,
}

/// Packs that are there.
pub type StoredPacks = HashMap<PackId, StoredPack>;

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
        let sealed = objects::seal(repository.keys(), repository.id(), Object::Session(id), &record.encode())?;
        repository.backend().create(&layout::session(&id), sealed)?;
        Self::look(repository, id, started)
    }

    /// Takes part in a session that another process has announced. What this one sees it sees after the announcement, as that
    /// one does, so that a prune that this one has not seen waits for the session.
    ///
    /// Fails with [`Error::Busy`] if the session has ended.
    pub fn join(repository: &Repository, id: SessionId, started: Timestamp) -> Result<Self> {
        if !repository.access().certificate.role.writes_snapshots() {
            return Err(repository.access().refusal("write snapshots"));
        }
        // Whatever stands under the name of its snapshot keeps it from committing.
        match repository.snapshot_of(&id) {
            Ok(None) => {}
            Err(error) if !error.is_damage() => return Err(error),
            _ => return Err(was_voided(&id)),
        }
        Self::look(repository, id, started)
    }

    /// Learns which packs must not be relied on. Only after the announcement.
    fn look(repository: &Repository, id: SessionId, started: Timestamp) -> Result<Self> {
        let tombstones = tombstones(repository)?;
        let is_blind = !tombstones.unreadable.is_empty();
        let bad_tombstones = tombstones.faults();
        let tombstoned = tombstones.into_packs();
        // A handle that was open before may know packs that were swept since.
        repository.index().expire();
        let name = SessionName { repository: repository.id(), session: id, slot: repository.access().certificate.slot };
        let keys = SessionKeys::create(name, repository.keys(), &repository.config().data_public_key);
        let is_wary = repository.list_notes()?.may_have_withdrawn_trust();
        Ok(Self {
            id,
            keys,
            started,
            tombstoned,
            is_blind,
            bad_tombstones,
            is_wary,
            there: Mutex::default(),
            trust: OnceLock::new(),
        })
    }

    /// Counts further packs as absent: their chunks are to be stored anew.
    pub fn disregard(&mut self, packs: impl IntoIterator<Item = PackId>) {
        self.tombstoned.extend(packs);
    }

    /// Returns whether a snapshot of this session may rely on a chunk in this place, which the index told.
    pub fn may_rely_on(&self, repository: &Repository, place: &Place) -> Result<bool> {
        let pack = &place.pack;
        // Written in this session, by this process or by another one that takes part in it.
        let is_own = pack.session.session == self.id && pack.session.slot == repository.access().certificate.slot;
        if is_own && pack.is_vouched {
            return Ok(true);
        }
        let is_usable = !self.is_blind && !self.tombstoned.contains(&pack.id);
        Ok(is_usable
            && self.there(repository, pack.kind)?.get(&pack.id).is_some_and(|stored| stored.len == pack.len)
            && self.trusts(repository, pack)?)
    }

    /// Returns whether what somebody wrote may be built on, as far as its signer goes.
    pub fn relies_on(&self, repository: &Repository, signer: &Certificate) -> Result<bool> {
        let is_own = signer.slot == repository.access().certificate.slot;
        Ok(is_own || self.trust(repository)?.in_signer(signer))
    }

    fn trust(&self, repository: &Repository) -> Result<&Trust> {
        match self.trust.get() {
            Some(trust) => Ok(trust),
            None => {
                let read = Trust::read(repository)?;
                Ok(self.trust.get_or_init(|| read))
            }
        }
    }

    /// What a writer cannot open, it relies on only if it comes from whom it trusts.
    fn trusts(&self, repository: &Repository, pack: &PackRecord) -> Result<bool> {
        if pack.is_vouched && pack.session.slot == repository.access().certificate.slot {
            return Ok(true);
        }
        Ok(self.trust(repository)?.in_pack(pack))
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
            Err(error) if error.fault() == Some(Fault::AlreadyExists) => Err(was_voided(&self.id)),
            result => result,
        }
    }

    /// Commits the snapshot under the session's name: after this it is listed, before this it is not.
    pub fn commit(&self, repository: &Repository, record: SnapshotRecord) -> Result<()> {
        match repository.write_outcome(&self.id, &SessionOutcome::Snapshot(Box::new(record))) {
            Err(error) if error.fault() == Some(Fault::AlreadyExists) => Err(was_voided(&self.id)),
            result => result,
        }
    }
}

/// Makes the error that says that a session has ended before it could commit.
pub fn was_voided(id: &SessionId) -> Error {
    Error::Busy(format!(
        "The session {} was declared void by a prune while it ran, so there is no snapshot of it",
        id.short()
    ))
}

/// Declares a session void, so that it can never commit. One that has ended meanwhile stays what it is.
pub fn void(repository: &Repository, id: &SessionId, reason: &str) -> Result<()> {
    let record = VoidRecord { at: repository.clock().now(), reason: reason.to_owned() };
    match repository.write_outcome(id, &SessionOutcome::Void(record)) {
        Err(error) if error.fault() == Some(Fault::AlreadyExists) => Ok(()),
        result => result,
    }
}

/// Reads who announced a session, and what for.
pub fn announcement(repository: &Repository, id: SessionId) -> Result<SessionRecord> {
    repository.objects().open(Object::Session(id), None, SessionRecord::decode)
}

/// Lists the packs of a kind.
pub fn stored_packs(repository: &Repository, kind: BlobKind) -> Result<StoredPacks> {
    let listed = repository.backend().list(&layout::packs(kind))?;
    let stored = |object: &Listed| {
        let found = StoredPack { len: object.size, since: object.modified };
        Some((layout::pack_of(kind, &object.key)?, found))
    };
    Ok(listed.iter().filter_map(stored).collect())
}

/// Returns which of these sessions have ended, as a snapshot, forgotten or not, or void.
///
/// Whatever stands under the name of its snapshot keeps a session from committing, and so ends it. A record that it was
/// forgotten must be a maintainer's: anyone who may write to the bucket can put a byte there.
pub fn ended(repository: &Repository, among: &[SessionId]) -> Result<HashSet<SessionId>> {
    let mut ended = HashSet::new();
    if among.is_empty() {
        return Ok(ended);
    }
    // A snapshot is removed only after it was forgotten: in this order none is missed.
    let outcomes = repository.backend().list(layout::SNAPSHOTS)?;
    let forgotten = repository.backend().list(layout::FORGOTTEN)?;
    ended.extend(outcomes.iter().filter_map(|object| layout::snapshot_of(&object.key)));
    let claimed: HashSet<SessionId> = forgotten.iter().filter_map(|object| layout::forgotten_of(&object.key)).collect();
    for session in among.iter().copied().filter(|session| claimed.contains(session)) {
        match repository.read_forgotten(&session) {
            Ok(_) => drop(ended.insert(session)),
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
    }
    ended.retain(|session| among.contains(session));
    Ok(ended)
}

/// Creates a tombstone, and returns its key: sessions that begin from now on rely on none of these packs.
pub fn bury(repository: &Repository, packs: &[PackId]) -> Result<String> {
    let time = repository.clock().now().as_millisecond().max(0) as u64;
    let id = TombstoneId::new(time, random());
    let body = Tombstone { packs: packs.to_vec() }.sign(repository.id(), id, &repository.access().signer());
    let sealed = objects::seal(repository.keys(), repository.id(), Object::Tombstone(id), &body)?;
    repository.create_logged(Object::Tombstone(id), sealed, What::Tombstone, None)?;
    Ok(layout::tombstone(&id))
}

/// Fails with [`Error::Refused`] if the backend overwrites what is there, though it honoured create-only writes when the
/// repository was made: then nothing keeps a session that is voided from committing. Buckets move to other servers.
pub fn require_create_only(repository: &Repository) -> Result<()> {
    let key = format!("{}{}/create-only", layout::PROBE, data_encoding::HEXLOWER.encode(&random::<8>()));
    let backend = repository.backend();
    backend.create(&key, Bytes::from_static(b"first"))?;
    let second = backend.create(&key, Bytes::from_static(b"second"));
    backend.remove(&key)?;
    match second {
        Err(error) if error.fault() == Some(Fault::AlreadyExists) => Ok(()),
        Err(error) => Err(error),
        Ok(()) => Err(Error::Refused(format!(
            "{} has ignored a create-only write (If-None-Match), which it honoured when the repository was made. Nothing is \
             deleted; `mlvault doctor` tells what does not work there",
            backend.location()
        ))),
    }
}

/// All tombstones.
#[derive(Debug, Default)]
pub struct Tombstones {
    /// The key of each, and the packs that it names.
    pub sound: Vec<(String, Vec<PackId>)>,
    /// The key of each sound object that no maintainer signed: no prune wrote it, so it marks nothing.
    pub forged: Vec<String>,
    /// Those that cannot be read. Any pack might be marked by them.
    pub unreadable: Unreadable,
}

impl Tombstones {
    /// Returns what is wrong with those that do not count.
    pub fn faults(&self) -> Unreadable {
        let mut faults = Unreadable::default();
        for key in &self.forged {
            faults.push(Error::damaged(key, "no maintainer signed it, so it marks nothing"));
        }
        faults.extend(self.unreadable.clone());
        faults
    }

    /// Returns the packs that are marked, as far as that can be read.
    pub fn into_packs(self) -> HashSet<PackId> {
        self.sound.into_iter().flat_map(|(_, packs)| packs).collect()
    }

    /// Fails with [`Error::Refused`] if one cannot be read: two prunes that do not see each other's marks could each delete
    /// what the other one leaves it.
    pub fn all_readable(self) -> Result<Self> {
        match self.unreadable.first() {
            None => Ok(self),
            Some(error) => Err(Error::Refused(format!(
                "Nothing is pruned while a tombstone cannot be read. If no prune runs, `mlvault repair objects` moves it away. \
                 {error}"
            ))),
        }
    }
}

/// Reads every tombstone, one after the other. What stands there under a name that no tombstone has marks nothing.
pub fn tombstones(repository: &Repository) -> Result<Tombstones> {
    let mut tombstones = Tombstones::default();
    for object in repository.backend().list(layout::TOMBSTONES)? {
        let Some(id) = layout::tombstone_of(&object.key) else { continue };
        match read_tombstone(repository, id, Some(object.size)) {
            Ok(Some(tombstone)) => tombstones.sound.push((object.key, tombstone.packs)),
            Ok(None) => tombstones.forged.push(object.key),
            Err(error) if error.fault() == Some(Fault::NotFound) => {}
            Err(error) if error.is_damage() => tombstones.unreadable.push(error),
            Err(error) => return Err(error),
        }
    }
    Ok(tombstones)
}

/// Reads a tombstone; returns nothing if no maintainer signed it. `size` is what a listing said of it, if it was listed.
pub fn read_tombstone(repository: &Repository, id: TombstoneId, size: Option<u64>) -> Result<Option<Tombstone>> {
    repository.objects().open(Object::Tombstone(id), size, |body| {
        Tombstone::verify(repository.id(), id, &repository.config().root_key, body).map(|(tombstone, _)| tombstone)
    })
}

/// Returns this machine's or pod's name, for people to read.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
