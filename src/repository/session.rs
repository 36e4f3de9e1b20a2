//! A session: one process writing to a repository, until it commits a snapshot or is declared void.
//!
//! What must stay true (the protocol that lets prune run beside it, `docs/design.md`, section 5):
//! 1. `sessions/<id>` is created, *then* tombstones are listed, *then* index and snapshots are read. Chunks in
//!    tombstoned packs count as absent, also those that an unchanged parent entry refers to.
//! 2. Packs are written before the segments that name them, segments before the snapshot.
//! 3. The snapshot is a create-only write under the session's own name. If something else stands there, the session
//!    was declared void and nothing that it wrote may be relied on.

use std::collections::HashSet;

use bytes::Bytes;
use jiff::Timestamp;

use crate::crypto::keys::SessionKeys;
use crate::crypto::random;
use crate::error::{Error, Fault, Result};
use crate::format::object::{self, ObjectKind};
use crate::format::session::SessionRecord;
use crate::format::snapshot::{Outcome, SnapshotRecord};
use crate::format::tombstone::Tombstone;
use crate::id::{PackId, SessionId};
use crate::repository::{Repository, layout};

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
}

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
        Ok(Self { id, keys, started, tombstoned })
    }

    /// Commits the snapshot under the session's name: after this it is listed, before this it is not.
    pub fn commit(&self, repository: &Repository, record: SnapshotRecord) -> Result<()> {
        match repository.write_outcome(&self.id, &Outcome::Snapshot(Box::new(record))) {
            Err(error) if error.fault() == Some(Fault::AlreadyExists) => Err(Error::Busy(format!(
                "The session {} was declared void by a prune while it ran, so there is no snapshot of it",
                self.id.short()
            ))),
            result => result,
        }
    }
}

/// Returns the packs that tombstones name. A tombstone that cannot be read is an error: its packs must not be relied on.
pub fn tombstoned_packs(repository: &Repository) -> Result<HashSet<PackId>> {
    let mut packs = HashSet::new();
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
        packs.extend(tombstone.packs);
    }
    Ok(packs)
}

/// Returns this machine's or pod's name, for people to read.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
