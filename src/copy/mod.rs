//! Copies snapshots into another repository, which has its own keys and its own chunks.
//!
//! What must stay true:
//! - A copy holds what the source's record says, or there is no copy: content is read, verified, and stored anew.
//! - The record keeps what it says of the backup, and names what it was copied from. It is signed by the target's key.
//! - Each snapshot is a session of its own in the target, which obeys the protocol of every session. So a copy that was
//!   stopped leaves whole snapshots, and chunks that the next one finds.
//! - Damage in the source costs the snapshots that need it; whatever else fails ends the copy.

mod parent;
mod tree;

use std::collections::HashSet;
use std::sync::Arc;

use serde::Serialize;

use crate::chunks::reader::ChunkReader;
use crate::chunks::writer::Written;
use crate::chunks::writing_session::WritingSession;
use crate::error::{Error, Result};
use crate::format::snapshot::{CopiedFrom, SnapshotRecord, SourceRecord};
use crate::hears::Hears;
use crate::id::{RepositoryId, SessionId};
use crate::repository::naming::{Named, Scope};
use crate::repository::notes::Notes;
use crate::repository::snapshots::{Snapshot, SnapshotList};
use crate::repository::{Repository, layout};

use crate::copy::parent::EarlierCopy;
use crate::copy::tree::TreeCopy;

/// Which snapshots to copy.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// These, as users name them; if there are none, all that fit the rest.
    pub names: Vec<String>,
    /// Only those of this deployment.
    pub deployment: Option<String>,
    /// Only those that have all of these tags now.
    pub tags: Vec<String>,
}

impl Choice {
    fn scope(&self) -> Scope {
        self.deployment.as_ref().map_or(Scope::Any, |name| Scope::Deployment(name.clone()))
    }

    /// Returns the snapshots that are meant, oldest first, each once.
    pub fn among(&self, snapshots: &[Snapshot], notes: &Notes) -> Result<Vec<Snapshot>> {
        let named: Vec<usize> = match self.names.is_empty() {
            true => (0..snapshots.len()).collect(),
            false => Named { names: self.names.clone(), scope: self.scope() }.among(snapshots)?,
        };
        let fits = |snapshot: &Snapshot| {
            let tags = notes.tags_of(snapshot);
            let is_of = |name: &String| snapshot.record.source == SourceRecord::Deployment { name: name.clone() };
            self.deployment.as_ref().is_none_or(is_of) && self.tags.iter().all(|tag| tags.contains(tag))
        };
        let is_meant = |at: &usize| named.contains(at) && fits(&snapshots[*at]);
        Ok((0..snapshots.len()).filter(is_meant).map(|at| snapshots[at].clone()).collect())
    }
}

/// What there is to copy.
#[derive(Debug, Default)]
pub struct CopyPlan {
    /// Snapshots that the target lacks, oldest first.
    pub missing: Vec<Snapshot>,
    /// Snapshots that the target has already, or has in its trash.
    pub present: Vec<SessionId>,
}

/// Decides what there is to copy.
///
/// A snapshot is known by where its backup was made into, so copies of copies count, and the way back home too.
pub fn plan(chosen: Vec<Snapshot>, source: RepositoryId, target: RepositoryId, there: &SnapshotList) -> CopyPlan {
    let trash = there.trash.iter().map(|trashed| &trashed.snapshot);
    let known: HashSet<_> = there.snapshots.iter().chain(trash).map(|known| origin(known, target)).collect();
    let (present, missing) =
        chosen.into_iter().partition::<Vec<_>, _>(|snapshot| known.contains(&origin(snapshot, source)));
    CopyPlan { missing, present: present.into_iter().map(|snapshot| snapshot.id).collect() }
}

fn origin(snapshot: &Snapshot, repository: RepositoryId) -> (RepositoryId, SessionId) {
    snapshot.record.copied_from.as_ref().map_or((repository, snapshot.id), |from| from.origin())
}

/// A snapshot that was copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// Its name in the source.
    pub snapshot: SessionId,
    /// Its name in the target.
    pub copy: SessionId,
}

/// A snapshot that could not be copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// Its name in the source.
    pub snapshot: SessionId,
    /// How many things of it could not be read; each was told as a problem.
    pub problems: u64,
}

/// What a copy did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CopySummary {
    /// Snapshots that were copied.
    pub copied: Vec<Copied>,
    /// Snapshots that could not be.
    pub failed: Vec<Failed>,
    /// Bytes of files read from the source.
    pub bytes_read: u64,
    /// Chunks that the target did not have.
    pub chunks_new: u64,
    /// Bytes of packs and index segments written to the target.
    pub bytes_stored: u64,
}

/// Refuses what cannot end well, before anything is written.
///
/// Fails if both are one repository, or if a key's role does not allow its part.
pub fn check(source: &Repository, target: &Repository) -> Result<()> {
    if source.id() == target.id() {
        return Err(Error::Refused(format!(
            "Source and target are the same repository, {}: a copy needs another one",
            source.id()
        )));
    }
    source.access().data_secret()?;
    match target.access().certificate.role.writes_snapshots() {
        true => Ok(()),
        false => Err(target.access().refusal("write snapshots")),
    }
}

/// Copies what a plan says is missing. Damage in the source is told as problems, and goes on with the next snapshot.
pub fn run(
    source: &Arc<Repository>,
    target: &Arc<Repository>,
    missing: &[Snapshot],
    hears: &Hears,
) -> Result<CopySummary> {
    check(source, target)?;
    let components = || missing.iter().flat_map(|snapshot| &snapshot.record.components);
    let (entries, bytes) = components()
        .fold((0, 0), |(entries, bytes): (u64, u64), component| (entries + component.entries, bytes + component.bytes));
    hears.monitor.phase("copy", Some(entries), Some(bytes));
    let there = if missing.is_empty() { Vec::new() } else { target.list_snapshots()?.snapshots };
    let reader = ChunkReader::new(Arc::clone(source));
    let mut copy = Copy { source, target, hears, reader, there, summary: CopySummary::default() };
    missing.iter().try_for_each(|snapshot| copy.snapshot(snapshot))?;
    for error in source.index().take_damage().into_iter().chain(target.index().take_damage()) {
        hears.monitor.note(&format!("A part of the index cannot be read, see `mlvault repair index`: {error}"));
    }
    Ok(copy.summary)
}

/// A copy under way.
struct Copy<'a> {
    source: &'a Arc<Repository>,
    target: &'a Arc<Repository>,
    hears: &'a Hears,
    reader: ChunkReader,
    /// Snapshots of the target, as last read.
    there: Vec<Snapshot>,
    summary: CopySummary,
}

impl Copy<'_> {
    fn snapshot(&mut self, snapshot: &Snapshot) -> Result<()> {
        match self.in_a_session(snapshot) {
            // A second time is no coincidence: then the operator should know.
            Err(Error::Busy(reason)) => {
                self.hears.monitor.note(&format!("{reason}; the copy of {} is begun anew", snapshot.id.short()));
                self.in_a_session(snapshot)
            }
            result => result,
        }
    }

    fn in_a_session(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.hears.check()?;
        let session = WritingSession::begin(self.target, "copy", self.hears)?;
        self.forget_what_is_gone()?;
        // A prune of the source may have moved chunks since.
        self.source.index().expire();
        let stored = self.store(&session, snapshot)?;
        let (session, written) = session.finish()?;
        self.count_written(written, stored.bytes_read);
        if stored.problems > 0 {
            self.summary.failed.push(Failed { snapshot: snapshot.id, problems: stored.problems });
            return session.close("what is to be copied is damaged");
        }
        self.hears.check()?;
        let copy = session.commit(stored.record.clone())?;
        self.hears.monitor.detail(&|| format!("copied {} to {}", snapshot.id.short(), copy.short()));
        self.summary.copied.push(Copied { snapshot: snapshot.id, copy });
        let signer = self.target.access().certificate.clone();
        let arrived = self.target.clock().now();
        self.there.push(Snapshot { id: copy, record: stored.record, signer, arrived });
        Ok(())
    }

    /// Takes out of the known snapshots what was forgotten or removed since. They never change, so none is read again.
    fn forget_what_is_gone(&mut self) -> Result<()> {
        let ids = |prefix, of: fn(&str) -> Option<SessionId>| -> Result<HashSet<SessionId>> {
            Ok(self.target.backend().list(prefix)?.iter().filter_map(|object| of(&object.key)).collect())
        };
        let listed = ids(layout::SNAPSHOTS, layout::snapshot_of)?;
        let forgotten = ids(layout::FORGOTTEN, layout::forgotten_of)?;
        self.there.retain(|known| listed.contains(&known.id) && !forgotten.contains(&known.id));
        Ok(())
    }

    fn store(&self, session: &WritingSession, snapshot: &Snapshot) -> Result<StoredCopy> {
        let parent_reader = ChunkReader::new(Arc::clone(self.target));
        let parent = self.parent_of(session, snapshot)?;
        let mut record = snapshot.record.clone();
        let (mut bytes_read, mut problems) = (0, 0);
        for component in &mut record.components {
            let known = parent
                .and_then(|parent| EarlierCopy::open(&parent_reader, parent, &component.name, &self.hears.monitor));
            let mut copy = TreeCopy::new(&self.reader, session.writer(), known, self.hears);
            copy.must_look_up = session.must_look_up();
            if let Some(tree) = copy.component(snapshot, component)? {
                (component.root, component.commitment) = (tree.root, tree.commitment);
            }
            bytes_read += copy.bytes_read();
            problems += copy.problems();
        }
        self.complete(&mut record, snapshot);
        Ok(StoredCopy { record, bytes_read, problems })
    }

    /// Returns the snapshot of the same source in the target that is most like this one.
    fn parent_of(&self, session: &WritingSession, snapshot: &Snapshot) -> Result<Option<&Snapshot>> {
        let record = &snapshot.record;
        let same = self.there.iter().filter(|known| known.record.source == record.source);
        let mut earlier: Vec<&Snapshot> = same.filter(|known| known.record.started <= record.started).collect();
        earlier.sort_by_key(|known| (known.record.started, known.id));
        session.last_reliable(earlier.into_iter())
    }

    /// Says in a record what is true of it in the target.
    fn complete(&self, record: &mut SnapshotRecord, snapshot: &Snapshot) {
        let source = self.source.id();
        let copy_of = |id: SessionId| self.there.iter().find(|known| origin(known, self.target.id()) == (source, id));
        record.parent = record.parent.and_then(copy_of).map(|copy| copy.id);
        record.seen = self.there.iter().map(|known| known.id).collect();
        record.copied_from = Some(Box::new(CopiedFrom {
            repository: source,
            snapshot: snapshot.id,
            signer: snapshot.signer.signer,
            label: snapshot.signer.label.clone(),
            before: record.copied_from.take(),
        }));
        // They are keyed with the source's secret: here they would tell that every key is another one.
        for key in record.deployment.iter_mut().flat_map(|deployment| &mut deployment.keys) {
            key.fingerprint = None;
        }
    }

    fn count_written(&mut self, written: Written, bytes_read: u64) {
        self.summary.bytes_read += bytes_read;
        self.summary.chunks_new += written.chunks;
        self.summary.bytes_stored += written.stored_bytes;
    }
}

/// What was stored of a snapshot, before it is committed.
struct StoredCopy {
    record: SnapshotRecord,
    bytes_read: u64,
    problems: u64,
}
