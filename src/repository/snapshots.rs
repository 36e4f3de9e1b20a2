//! Snapshots: listed, verified, committed, forgotten.
//!
//! What must stay true: a snapshot is forgotten by one create-only write beside it, so at every moment it is either
//! listed or not, and what it needs is there as long as no prune has removed it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;

use crate::backend::Listed;
use crate::error::{Error, Fault, Result};
use crate::format::forgotten::{self, ForgottenRecord};
use crate::format::key_slot::Certificate;
use crate::format::log::What;
use crate::format::snapshot::{self, Completeness, SessionOutcome, SnapshotRecord};
use crate::id::SessionId;
use crate::monitor::Monitor;
use crate::parallel;
use crate::repository::history::Sight;
use crate::repository::layout::Object;
use crate::repository::objects::{self, BATCH_OBJECTS, Unreadable};
use crate::repository::session::{self, PROGRAM};
use crate::repository::time;
use crate::repository::{Repository, layout};
use crate::sync::lock;
use crate::units::{KIB, format_bytes};

/// Objects of one kind that are remembered; further ones are read anew for each listing.
const REMEMBERED_MAX: usize = 2048;
/// Bytes of the largest object that is remembered.
const REMEMBERED_BYTES_MAX: u64 = 8 * KIB;
/// Bytes that the name of a snapshot takes among those that a record says were seen.
const SEEN_LEN: u64 = 35;
/// Names of snapshots that others saw, of which a handle takes note.
const SEEN_MAX: usize = 1 << 18;

/// A snapshot with its name and its verified signer.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its name.
    pub id: SessionId,
    /// What it says, but for [`SnapshotRecord::seen`], which is empty: together these grow with the square of their number.
    pub record: SnapshotRecord,
    /// Who wrote it.
    pub signer: Certificate,
    /// When it arrived, by the clock of the place where it is stored.
    pub arrived: Timestamp,
}

impl Snapshot {
    /// Returns whether something of the source is missing in it.
    pub fn is_incomplete(&self) -> bool {
        self.record.completeness == Completeness::Incomplete
    }

    /// Returns whether its word on the time and its arrival are too far apart.
    pub fn is_time_doubtful(&self) -> bool {
        time::is_doubtful(&self.record, self.arrived)
    }

    /// Returns the time at which it counts as made: its own word, or its arrival if the word lies well after that.
    ///
    /// So what a wrong clock has dated in the future does not stay the latest for years.
    pub fn made(&self) -> Timestamp {
        match self.record.started.duration_since(self.arrived) > time::WORD_OFF_MAX {
            true => self.arrived,
            false => self.record.started,
        }
    }

    /// Returns what snapshots are listed by.
    pub fn order(&self) -> (Timestamp, SessionId) {
        (self.made(), self.id)
    }
}

/// A snapshot that was forgotten.
#[derive(Debug, Clone)]
pub struct Trashed {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// When and why.
    pub forgotten: ForgottenRecord,
    /// By whom.
    pub by: Certificate,
    /// When the record of that arrived, by the clock of the place where it is stored.
    pub arrived: Timestamp,
}

impl Trashed {
    /// Returns since when it counts as forgotten: the later of word and arrival, unless the word lies in the future.
    pub fn since(&self, now: Timestamp) -> Timestamp {
        if self.forgotten.at > now { self.arrived } else { self.arrived.max(self.forgotten.at) }
    }
}

/// All snapshots of a repository, oldest first, and what could not be read.
#[derive(Debug, Default)]
pub struct SnapshotList {
    /// Readable snapshots, in the order of [`Snapshot::made`].
    pub snapshots: Vec<Snapshot>,
    /// Snapshots that were forgotten and that no prune has removed yet, oldest first.
    pub trash: Vec<Trashed>,
    /// Sessions that were declared void.
    pub voids: Vec<SessionId>,
    /// All that was ever forgotten, by the names of the records, which are not verified.
    pub forgotten: BTreeSet<SessionId>,
    /// Snapshots that this machine has seen, and that are gone though no maintainer has forgotten them.
    pub gone: BTreeSet<SessionId>,
    /// Objects under the names of sessions that cannot be read: each might be a snapshot.
    pub damaged: Unreadable,
    /// The names of all of those.
    pub damaged_ids: BTreeSet<SessionId>,
    /// Records that cannot be read, which might say that a listed snapshot is forgotten.
    pub doubts: Unreadable,
    /// The snapshots that those are about. They are listed.
    pub doubtful: BTreeSet<SessionId>,
    /// Objects under names that no snapshot can have.
    pub foreign: Unreadable,
}

impl SnapshotList {
    /// Returns all that a snapshot or what is known of one might be hidden in.
    pub fn unreadable(&self) -> Unreadable {
        let mut all = self.damaged.clone();
        all.extend(self.doubts.clone());
        all
    }

    /// Tells what cannot be read, and what does not belong there.
    pub fn note_to(&self, monitor: &dyn Monitor) {
        self.unreadable().note_to(monitor);
        self.foreign.note_to(monitor);
    }
}

/// What was read and verified under the names of sessions, for operations that list snapshots more than once. Nothing
/// changes under such a name where creates are create-only; elsewhere nothing is remembered.
pub struct Remembered<T>(Mutex<HashMap<(SessionId, u64), T>>);

/// What is kept of an object that ended a session, and about how many bytes that takes.
#[derive(Clone)]
pub struct Outcome {
    outcome: SessionOutcome,
    signer: Certificate,
    bytes: u64,
}

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Remembered<T> {
    /// Returns what is known to be stored under a name with this size.
    fn get(&self, id: &SessionId, size: u64) -> Option<T> {
        lock(&self.0).get(&(*id, size)).cloned()
    }

    /// Remembers what was read, if it takes few `bytes` and there is room.
    fn put(&self, repository: &Repository, (id, size): (&SessionId, u64), read: &T, bytes: u64) {
        let mut known = lock(&self.0);
        if repository.config().create_only && bytes <= REMEMBERED_BYTES_MAX && known.len() < REMEMBERED_MAX {
            known.insert((*id, size), read.clone());
        }
    }
}

impl Repository {
    /// Reads and verifies every snapshot object. A damaged one does not hide the others.
    ///
    /// What is looked up from then on comes from index segments read later than this, so that it has all that the
    /// snapshots need, however long the repository has been open. Fails with [`Error::Invalid`] if the records take more
    /// memory than the limit leaves for them.
    pub fn list_snapshots(&self) -> Result<SnapshotList> {
        self.history().recall(self);
        let objects = self.backend().list(layout::SNAPSHOTS)?;
        self.index().expire();
        let mut list = SnapshotList::default();
        let kept_bytes = AtomicU64::new(0);
        for batch in objects.chunks(BATCH_OBJECTS) {
            let read =
                parallel::map(batch, self.backend().concurrency(), |object| self.read_listed(object, &kept_bytes));
            for (object, read) in batch.iter().zip(read) {
                let Some((id, outcome)) = read else {
                    list.foreign.push_foreign(&object.key);
                    continue;
                };
                list.take_in(id, object.modified, outcome)?;
            }
        }
        // Last: whoever removes a snapshot has forgotten it before, and one that was gone when it was to be read is no riddle.
        let mut records = HashMap::new();
        for object in self.backend().list(layout::FORGOTTEN)? {
            match layout::forgotten_of(&object.key) {
                Some(id) => drop(records.insert(id, object)),
                None => list.foreign.push_foreign(&object.key),
            }
        }
        list.forgotten = records.keys().copied().collect();
        list.snapshots.sort_by_key(Snapshot::order);
        self.sort_out_trash(&mut list, &records)?;
        let names = objects.iter().filter_map(|object| layout::snapshot_of(&object.key));
        self.compare_with_history(&mut list, names.collect())?;
        Ok(list)
    }

    /// Looks whether all is there that this machine has seen, and remembers what it sees.
    fn compare_with_history(&self, list: &mut SnapshotList, names: BTreeSet<SessionId>) -> Result<()> {
        let voids: BTreeSet<SessionId> = list.voids.iter().copied().collect();
        let sight = Sight {
            there: &names - &voids,
            sound: list.snapshots.iter().map(|snapshot| snapshot.id).collect(),
            trash: list.trash.iter().map(|trashed| trashed.snapshot.id).collect(),
        };
        let is_forgotten = |id: &SessionId| Ok(list.forgotten.contains(id) && self.verify_forgotten(id)?);
        list.gone = self.history().review(self, &sight, is_forgotten)?;
        Ok(())
    }

    /// Returns whether there is a record by a maintainer that a snapshot is forgotten.
    fn verify_forgotten(&self, id: &SessionId) -> Result<bool> {
        match self.read_forgotten(id) {
            Ok(_) => Ok(true),
            Err(error) if error.is_damage() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Fails with [`Error::Refused`] unless a snapshot is there, or a maintainer has forgotten it.
    pub fn expect_snapshot(&self, id: &SessionId) -> Result<()> {
        let is_there = match self.is_snapshot(id) {
            Err(error) if error.fault() == Some(Fault::NotFound) => false,
            is_there => is_there?,
        };
        if is_there || self.verify_forgotten(id)? {
            return Ok(());
        }
        Err(Error::Refused(format!(
            "The snapshot {id} is expected, and it is neither there nor forgotten by a maintainer: it was deleted, or {} \
             is in an older state",
            self.backend().location()
        )))
    }

    /// Returns nothing for an object under a name that no snapshot can have. `kept_bytes` is what is kept of all so far.
    fn read_listed(&self, object: &Listed, kept_bytes: &AtomicU64) -> Option<(SessionId, Result<Outcome>)> {
        let id = layout::snapshot_of(&object.key)?;
        let read = match self.outcomes.get(&id, object.size) {
            Some(known) => Ok(known),
            None => self.read_outcome(&id, Some(object.size)),
        };
        let kept = read.and_then(|outcome| {
            self.refuse_too_much("the records of its snapshots", kept_bytes, outcome.bytes)?;
            self.outcomes.put(self, (&id, object.size), &outcome, outcome.bytes);
            Ok(outcome)
        });
        Some((id, kept))
    }

    /// Adds to what is kept of many objects. Fails with [`Error::Invalid`] if that is more than the limit leaves for them.
    pub(super) fn refuse_too_much(&self, what: &str, kept_bytes: &AtomicU64, more: u64) -> Result<()> {
        let bytes_max = self.memory_plan().object_bytes;
        if kept_bytes.fetch_add(more, Ordering::Relaxed) + more <= bytes_max {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "The memory limit is too low for this repository: {what} take more than the {} that it leaves for them",
            format_bytes(bytes_max)
        )))
    }

    /// Takes forgotten snapshots out of the list. One whose record of that is damaged stays listed.
    fn sort_out_trash(&self, list: &mut SnapshotList, listed: &HashMap<SessionId, Listed>) -> Result<()> {
        let (marked, others) = std::mem::take(&mut list.snapshots)
            .into_iter()
            .partition::<Vec<_>, _>(|snapshot| list.forgotten.contains(&snapshot.id));
        list.snapshots = others;
        let records = parallel::map(&marked, self.backend().concurrency(), |Snapshot { id, .. }| {
            let size = listed.get(id).map_or(0, |object| object.size);
            self.read_forgotten_listed(id, size)
        });
        for (snapshot, record) in marked.into_iter().zip(records) {
            match record {
                Ok((forgotten, by)) => {
                    let arrived = listed.get(&snapshot.id).map_or(snapshot.arrived, |object| object.modified);
                    list.trash.push(Trashed { snapshot, forgotten, by, arrived });
                }
                Err(error) if error.is_damage() => {
                    list.doubts.push(error);
                    list.doubtful.insert(snapshot.id);
                    list.snapshots.push(snapshot);
                }
                Err(error) => return Err(error),
            }
        }
        list.snapshots.sort_by_key(Snapshot::order);
        Ok(())
    }

    fn read_forgotten_listed(&self, id: &SessionId, size: u64) -> Result<(ForgottenRecord, Certificate)> {
        if let Some(known) = self.forgotten.get(id, size) {
            return Ok(known);
        }
        let read = self.read_forgotten_of(id, Some(size))?;
        self.forgotten.put(self, (id, size), &read, size);
        Ok(read)
    }

    /// Reads and verifies the record that a snapshot was forgotten.
    pub(super) fn read_forgotten(&self, id: &SessionId) -> Result<(ForgottenRecord, Certificate)> {
        self.read_forgotten_of(id, None)
    }

    pub(super) fn read_forgotten_of(
        &self,
        id: &SessionId,
        size: Option<u64>,
    ) -> Result<(ForgottenRecord, Certificate)> {
        let decode = |body: &[u8]| forgotten::decode(self.id(), *id, &self.config().root_key, body);
        self.objects().open(Object::Forgotten(*id), size, decode)
    }

    /// Forgets a snapshot: it is listed no more. Atomic, and idempotent. Needs a maintainer's key.
    pub fn forget(&self, id: &SessionId, reason: &str) -> Result<()> {
        self.access().require_maintainer("forget snapshots")?;
        let record = ForgottenRecord { at: self.clock().now(), reason: reason.to_owned(), program: PROGRAM.to_owned() };
        let body = forgotten::encode(self.id(), *id, &record, &self.access().signer());
        let bytes = objects::seal(self.keys(), self.id(), Object::Forgotten(*id), &body)?;
        match self.create_logged(Object::Forgotten(*id), bytes, What::Forgotten, None) {
            Err(error) if error.fault() == Some(Fault::AlreadyExists) => self.read_forgotten(id).map(drop),
            result => result,
        }
    }

    /// Returns what is gone though nobody may have forgotten it: who sees deletions and rollbacks.
    ///
    /// For each such snapshot, those in the list that saw it; none if only this machine did.
    pub fn vanished(&self, list: &SnapshotList) -> Result<BTreeMap<SessionId, Vec<SessionId>>> {
        let mut missing = self.missing_of(list);
        let claimed: Vec<SessionId> = missing.intersection(&list.forgotten).copied().collect();
        let verified = parallel::map(&claimed, self.backend().concurrency(), |id| self.verify_forgotten(id));
        for (id, is_forgotten) in claimed.iter().zip(verified) {
            if is_forgotten? {
                missing.remove(id);
            }
        }
        let mut seen_by = self.seen_by(list, &missing)?;
        for id in &list.gone {
            seen_by.entry(*id).or_default();
        }
        Ok(seen_by)
    }

    /// Returns what is neither there nor in the trash, though others saw it.
    fn missing_of(&self, list: &SnapshotList) -> BTreeSet<SessionId> {
        let trash = list.trash.iter().map(|trashed| trashed.snapshot.id);
        let there: BTreeSet<SessionId> = list.snapshots.iter().map(|snapshot| snapshot.id).chain(trash).collect();
        lock(&self.seen).difference(&there).copied().collect()
    }

    /// Reads the records again, because lists do not keep what they saw: for each that is missing, those that saw it.
    fn seen_by(
        &self,
        list: &SnapshotList,
        missing: &BTreeSet<SessionId>,
    ) -> Result<BTreeMap<SessionId, Vec<SessionId>>> {
        let mut seen_by: BTreeMap<SessionId, Vec<SessionId>> = BTreeMap::new();
        if missing.is_empty() {
            return Ok(seen_by);
        }
        for batch in list.snapshots.chunks(BATCH_OBJECTS) {
            let read =
                parallel::map(batch, self.backend().concurrency(), |snapshot| self.seen_of(&snapshot.id, missing));
            for (snapshot, seen) in batch.iter().zip(read) {
                match seen {
                    Ok(seen) => seen.into_iter().for_each(|seen| seen_by.entry(seen).or_default().push(snapshot.id)),
                    Err(error) if error.is_damage() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(seen_by)
    }

    fn seen_of(&self, id: &SessionId, among: &BTreeSet<SessionId>) -> Result<Vec<SessionId>> {
        self.open_outcome(id, None, |outcome, _, _| match outcome {
            SessionOutcome::Snapshot(record) => record.seen.into_iter().filter(|seen| among.contains(seen)).collect(),
            SessionOutcome::Void(_) => Vec::new(),
        })
    }

    /// Returns whether a snapshot, and not a void marker, stands under a session's name. Fails if nothing readable does.
    pub fn is_snapshot(&self, id: &SessionId) -> Result<bool> {
        self.open_outcome(id, None, |outcome, _, _| matches!(outcome, SessionOutcome::Snapshot(_)))
    }

    /// Returns the snapshot that a session has become, listed or not; nothing while the session is open. Its own word stands
    /// for its arrival.
    ///
    /// Fails with [`Error::Busy`] if the session was declared void.
    pub fn snapshot_of(&self, id: &SessionId) -> Result<Option<Snapshot>> {
        let Outcome { outcome, signer, .. } = match self.read_outcome(id, None) {
            Err(error) if error.fault() == Some(Fault::NotFound) => return Ok(None),
            read => read?,
        };
        match outcome {
            SessionOutcome::Snapshot(record) => {
                let arrived = record.finished;
                Ok(Some(Snapshot { id: *id, record: *record, signer, arrived }))
            }
            SessionOutcome::Void(_) => Err(session::was_voided(id)),
        }
    }

    pub(super) fn read_outcome(&self, id: &SessionId, size: Option<u64>) -> Result<Outcome> {
        self.open_outcome(id, size, |mut outcome, signer, len| {
            let mut seen = Vec::new();
            if let SessionOutcome::Snapshot(record) = &mut outcome {
                seen = std::mem::take(&mut record.seen);
            }
            let bytes = len.saturating_sub(seen.len() as u64 * SEEN_LEN);
            self.note_seen(seen);
            Outcome { outcome, signer, bytes }
        })
    }

    /// Opens an object that ended a session, and hands over what it says and how many bytes that had.
    fn open_outcome<T>(
        &self,
        id: &SessionId,
        size: Option<u64>,
        take: impl FnOnce(SessionOutcome, Certificate, u64) -> T,
    ) -> Result<T> {
        self.objects().open(Object::Snapshot(*id), size, |body| {
            let (outcome, signer) = snapshot::decode(self.id(), *id, &self.config().root_key, body)?;
            Ok(take(outcome, signer, body.len() as u64))
        })
    }

    /// Returns the signed record of a snapshot, which proves to everybody who knows the root key what it says.
    pub fn signed_record(&self, id: &SessionId) -> Result<Vec<u8>> {
        self.objects().open(Object::Snapshot(*id), None, |body| {
            snapshot::decode(self.id(), *id, &self.config().root_key, body)?;
            Ok(body.to_vec())
        })
    }

    fn note_seen(&self, seen: Vec<SessionId>) {
        let mut known = lock(&self.seen);
        for id in seen {
            if known.len() < SEEN_MAX {
                known.insert(id);
            }
        }
    }

    /// Seals, signs and writes an outcome under a session's name. Whatever stands there already stays.
    ///
    /// Fails with [`Fault::AlreadyExists`] if another outcome is there: the session was voided.
    pub(super) fn write_outcome(&self, id: &SessionId, outcome: &SessionOutcome) -> Result<()> {
        let body = snapshot::encode(self.id(), *id, outcome, &self.access().signer());
        let bytes = objects::seal(self.keys(), self.id(), Object::Snapshot(*id), &body)?;
        match outcome {
            SessionOutcome::Void(_) => self.backend().create(&layout::snapshot(id), bytes),
            SessionOutcome::Snapshot(_) => {
                self.create_logged(Object::Snapshot(*id), bytes, What::Snapshot, None)?;
                // At once: who deletes it before anybody has listed it is noticed too.
                self.history().add(self, *id);
                Ok(())
            }
        }
    }
}

impl SnapshotList {
    /// Takes in what was read under the name of a session.
    fn take_in(&mut self, id: SessionId, arrived: Timestamp, read: Result<Outcome>) -> Result<()> {
        match read {
            Ok(Outcome { outcome: SessionOutcome::Snapshot(record), signer, .. }) => {
                self.snapshots.push(Snapshot { id, record: *record, signer, arrived });
            }
            Ok(Outcome { outcome: SessionOutcome::Void(_), .. }) => self.voids.push(id),
            Err(error) if error.fault() == Some(Fault::NotFound) => {}
            Err(error) if error.is_damage() => {
                self.damaged.push(error);
                self.damaged_ids.insert(id);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
