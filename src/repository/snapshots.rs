//! Snapshots: listed, found by what users call them, verified, committed, forgotten.
//!
//! What must stay true: a snapshot is forgotten by one create-only write beside it, so at every moment it is either
//! listed or not, and what it needs is there as long as no prune has removed it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;

use bytes::Bytes;
use jiff::Timestamp;
use jiff::civil::Date;

use crate::backend::Listed;
use crate::error::{Error, Fault, Result};
use crate::format::forgotten::{self, ForgottenRecord};
use crate::format::key_slot::Certificate;
use crate::format::object::{self, ObjectKind};
use crate::format::snapshot::{self, Completeness, SessionOutcome, SnapshotRecord, SourceRecord};
use crate::id::SessionId;
use crate::moment::DayOrTime;
use crate::parallel;
use crate::repository::history::Sight;
use crate::repository::session::PROGRAM;
use crate::repository::time;
use crate::repository::{Repository, layout};
use crate::sync::lock;
use crate::units::KIB;

/// Objects of one kind that are remembered; further ones are read anew for each listing.
const REMEMBERED_MAX: usize = 2048;
/// Stored bytes of the largest object that is remembered.
const REMEMBERED_BYTES_MAX: u64 = 8 * KIB;

/// A snapshot with its name and its verified signer.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its name.
    pub id: SessionId,
    /// What it says.
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
    /// One error for each object that could not be read.
    pub damaged: Vec<Error>,
}

/// What was read and verified under the names of sessions, for operations that list snapshots more than once. Nothing
/// changes under such a name where creates are create-only; elsewhere nothing is remembered.
pub struct Remembered<T>(Mutex<HashMap<(SessionId, u64), T>>);

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Remembered<T> {
    /// Returns what is stored under a name with this size, and reads it if that is not known.
    fn get(&self, repository: &Repository, id: &SessionId, size: u64, read: impl FnOnce() -> Result<T>) -> Result<T> {
        let known = || lock(&self.0);
        if let Some(found) = known().get(&(*id, size)) {
            return Ok(found.clone());
        }
        let found = read()?;
        if repository.config().create_only && size <= REMEMBERED_BYTES_MAX && known().len() < REMEMBERED_MAX {
            known().insert((*id, size), found.clone());
        }
        Ok(found)
    }
}

impl Repository {
    /// Reads and verifies every snapshot object. A damaged one does not hide the others.
    ///
    /// What is looked up from then on comes from index segments read later than this, so that it has all that the
    /// snapshots need, however long the repository has been open.
    pub fn list_snapshots(&self) -> Result<SnapshotList> {
        self.history().recall(self);
        let objects = self.backend().list(layout::SNAPSHOTS)?;
        self.index().expire();
        let read = parallel::map(&objects, self.backend().concurrency(), |object| {
            let id = layout::snapshot_of(&object.key)
                .ok_or_else(|| Error::damaged(&object.key, "its name is not that of a session"))?;
            self.outcomes
                .get(self, &id, object.size, || self.read_outcome(&id))
                .map(|(outcome, signer)| (id, outcome, signer, object.modified))
        });
        // Last: whoever removes a snapshot has forgotten it before, and one that was gone when it was to be read is no riddle.
        let records = self.backend().list(layout::FORGOTTEN)?;
        let records: HashMap<SessionId, Listed> =
            records.into_iter().filter_map(|object| Some((layout::forgotten_of(&object.key)?, object))).collect();
        let mut list = SnapshotList { forgotten: records.keys().copied().collect(), ..SnapshotList::default() };
        for outcome in read {
            match outcome {
                Ok((id, SessionOutcome::Snapshot(record), signer, arrived)) => {
                    list.snapshots.push(Snapshot { id, record: *record, signer, arrived });
                }
                Ok((id, SessionOutcome::Void(_), ..)) => list.voids.push(id),
                Err(error) if error.fault() == Some(Fault::NotFound) => {}
                Err(error) if error.is_damage() => list.damaged.push(error),
                Err(error) => return Err(error),
            }
        }
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
        let is_there = match self.read_outcome(id) {
            Ok((outcome, _)) => matches!(outcome, SessionOutcome::Snapshot(_)),
            Err(error) if error.fault() == Some(Fault::NotFound) => false,
            Err(error) => return Err(error),
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

    /// Takes forgotten snapshots out of the list. One whose record of that is damaged stays listed.
    fn sort_out_trash(&self, list: &mut SnapshotList, listed: &HashMap<SessionId, Listed>) -> Result<()> {
        let (marked, others) = std::mem::take(&mut list.snapshots)
            .into_iter()
            .partition::<Vec<_>, _>(|snapshot| list.forgotten.contains(&snapshot.id));
        list.snapshots = others;
        let records = parallel::map(&marked, self.backend().concurrency(), |Snapshot { id, .. }| {
            let size = listed.get(id).map_or(0, |object| object.size);
            self.forgotten.get(self, id, size, || self.read_forgotten(id))
        });
        for (snapshot, record) in marked.into_iter().zip(records) {
            match record {
                Ok((forgotten, by)) => {
                    let arrived = listed.get(&snapshot.id).map_or(snapshot.arrived, |object| object.modified);
                    list.trash.push(Trashed { snapshot, forgotten, by, arrived });
                }
                Err(error) if error.is_damage() => {
                    list.damaged.push(error);
                    list.snapshots.push(snapshot);
                }
                Err(error) => return Err(error),
            }
        }
        list.snapshots.sort_by_key(Snapshot::order);
        Ok(())
    }

    pub(super) fn read_forgotten(&self, id: &SessionId) -> Result<(ForgottenRecord, Certificate)> {
        let key = layout::forgotten(id);
        let bytes = self.backend().read(&key)?;
        object::open(self.keys(), self.id(), ObjectKind::Forgotten, &id.to_string(), &bytes)
            .and_then(|body| forgotten::decode(self.id(), *id, &self.config().root_key, &body))
            .map_err(|error| Error::damaged(&key, error))
    }

    /// Forgets a snapshot: it is listed no more. Atomic, and idempotent. Needs a maintainer's key.
    pub fn forget(&self, id: &SessionId, reason: &str) -> Result<()> {
        self.access().require_maintainer("forget snapshots")?;
        let record = ForgottenRecord { at: self.clock().now(), reason: reason.to_owned(), program: PROGRAM.to_owned() };
        let body = forgotten::encode(self.id(), *id, &record, &self.access().signer());
        let bytes = Bytes::from(object::seal(self.keys(), self.id(), ObjectKind::Forgotten, &id.to_string(), &body));
        match self.backend().create(&layout::forgotten(id), bytes) {
            Err(error) if error.fault() == Some(Fault::AlreadyExists) => self.read_forgotten(id).map(drop),
            result => result,
        }
    }

    /// Returns what is gone though nobody may have forgotten it: who sees deletions and rollbacks.
    ///
    /// For each such snapshot, those in the list that saw it; none if only this machine did.
    pub fn vanished(&self, list: &SnapshotList) -> Result<BTreeMap<SessionId, Vec<SessionId>>> {
        let mut missing = missing_of(list);
        let claimed: Vec<SessionId> = missing.keys().filter(|id| list.forgotten.contains(id)).copied().collect();
        let verified = parallel::map(&claimed, self.backend().concurrency(), |id| self.verify_forgotten(id));
        for (id, is_forgotten) in claimed.iter().zip(verified) {
            if is_forgotten? {
                missing.remove(id);
            }
        }
        for id in &list.gone {
            missing.entry(*id).or_default();
        }
        Ok(missing)
    }

    fn read_outcome(&self, id: &SessionId) -> Result<(SessionOutcome, Certificate)> {
        let key = layout::snapshot(id);
        let bytes = self.backend().read(&key)?;
        let damaged = |error| Error::damaged(&key, error);
        let body =
            object::open(self.keys(), self.id(), ObjectKind::Snapshot, &id.to_string(), &bytes).map_err(damaged)?;
        snapshot::decode(self.id(), *id, &self.config().root_key, &body).map_err(damaged)
    }

    /// Finds the snapshot that `name` means: an id or a prefix of it, `latest`, `latest~2`, a day (`2026-11-21`, UTC:
    /// the last one of that day) or a time (`2026-11-21T03:00Z`: the last one not after it).
    ///
    /// If damage hides what `latest` would be, that is an error, not an older snapshot.
    pub fn find_snapshot(&self, name: &str) -> Result<Snapshot> {
        let mut list = self.list_snapshots()?;
        let result = select(&list.snapshots, name);
        match result {
            Ok(at) if is_id(name) || list.damaged.is_empty() => Ok(list.snapshots.swap_remove(at)),
            Err(error) if list.damaged.is_empty() => Err(error),
            _ => Err(list.damaged.swap_remove(0)),
        }
    }

    /// Finds the last snapshot of an MLflow deployment (of this name, if one is given) that began on this day (UTC) or at
    /// this time, or before; without either the last one.
    pub fn find_deployment(&self, deployment: Option<&str>, as_of: Option<&str>) -> Result<Snapshot> {
        let until = as_of.map(|text| text.parse::<DayOrTime>()?.after()).transpose()?;
        let mut list = self.list_snapshots()?;
        if !list.damaged.is_empty() {
            return Err(list.damaged.swap_remove(0));
        }
        let is_meant = |snapshot: &Snapshot| {
            let name = match &snapshot.record.source {
                SourceRecord::Deployment { name } => name,
                _ => return false,
            };
            deployment.is_none_or(|wanted| wanted == name) && until.is_none_or(|until| snapshot.made() < until)
        };
        let found = list.snapshots.iter().rposition(is_meant);
        found.map(|at| list.snapshots.swap_remove(at)).ok_or_else(|| {
            let of =
                deployment.map_or_else(|| "an MLflow deployment".to_owned(), |name| format!("the deployment {name:?}"));
            let when = as_of.map_or_else(String::new, |time| format!(" from {time} or earlier"));
            Error::NotFound(format!("There is no snapshot of {of}{when}"))
        })
    }

    /// Seals, signs and writes an outcome under a session's name. Whatever stands there already stays.
    ///
    /// Fails with [`Fault::AlreadyExists`] if another outcome is there: the session was voided.
    pub(super) fn write_outcome(&self, id: &SessionId, outcome: &SessionOutcome) -> Result<()> {
        let body = snapshot::encode(self.id(), *id, outcome, &self.access().signer());
        let bytes = object::seal(self.keys(), self.id(), ObjectKind::Snapshot, &id.to_string(), &body);
        self.backend().create(&layout::snapshot(id), Bytes::from(bytes))?;
        if matches!(outcome, SessionOutcome::Snapshot(_)) {
            // At once: who deletes it before anybody has listed it is noticed too.
            self.history().add(self, *id);
        }
        Ok(())
    }
}

/// Returns what snapshots in the list saw that is neither there nor in the trash, and who saw it.
fn missing_of(list: &SnapshotList) -> BTreeMap<SessionId, Vec<SessionId>> {
    let trash = list.trash.iter().map(|trashed| trashed.snapshot.id);
    let there: BTreeSet<SessionId> = list.snapshots.iter().map(|snapshot| snapshot.id).chain(trash).collect();
    let mut missing: BTreeMap<SessionId, Vec<SessionId>> = BTreeMap::new();
    for snapshot in &list.snapshots {
        for seen in snapshot.record.seen.iter().filter(|seen| !there.contains(seen)) {
            missing.entry(*seen).or_default().push(snapshot.id);
        }
    }
    missing
}

/// Least digits of an id prefix.
const ID_PREFIX_LEN_MIN: usize = 4;

fn is_id(name: &str) -> bool {
    name.len() >= ID_PREFIX_LEN_MIN && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Returns the index of the snapshot meant by `name`, see [`Repository::find_snapshot`]; `snapshots` are sorted by time.
pub fn select(snapshots: &[Snapshot], name: &str) -> Result<usize> {
    if let Some(back) = latest_offset(name)? {
        return snapshots.len().checked_sub(1).and_then(|last| last.checked_sub(back)).ok_or_else(|| {
            Error::NotFound(format!("There is no snapshot {name:?}: the repository has {}", snapshots.len()))
        });
    }
    // Eight digits are a day too, but more likely the beginning of an id.
    match name.parse() {
        Ok(DayOrTime::Day(day)) if !is_id(name) => select_day(snapshots, day),
        Ok(DayOrTime::Time(time)) => snapshots
            .iter()
            .rposition(|snapshot| snapshot.made() <= time)
            .ok_or_else(|| Error::NotFound(format!("There is no snapshot from {name} or earlier"))),
        _ => select_id(snapshots, name),
    }
}

fn latest_offset(name: &str) -> Result<Option<usize>> {
    match name.strip_prefix("latest") {
        None => Ok(None),
        Some("") => Ok(Some(0)),
        Some(rest) => rest
            .strip_prefix('~')
            .and_then(|count| count.parse().ok())
            .map(Some)
            .ok_or_else(|| Error::Invalid(format!("{name:?} is not latest or latest~N"))),
    }
}

fn select_day(snapshots: &[Snapshot], day: Date) -> Result<usize> {
    let day_of = |snapshot: &Snapshot| jiff::tz::TimeZone::UTC.to_datetime(snapshot.made()).date();
    if let Some(at) = snapshots.iter().rposition(|snapshot| day_of(snapshot) == day) {
        return Ok(at);
    }
    let before = snapshots.iter().rfind(|snapshot| day_of(snapshot) < day);
    let hint = before.map_or(String::new(), |snapshot| {
        format!("; the last one before is {} of {}", snapshot.id.short(), snapshot.made().strftime("%F %R UTC"))
    });
    Err(Error::NotFound(format!("There is no snapshot of {day} (UTC){hint}")))
}

fn select_id(snapshots: &[Snapshot], name: &str) -> Result<usize> {
    let prefix = name.to_ascii_lowercase();
    if !is_id(name) {
        return Err(Error::Invalid(format!(
            "{name:?} is not a snapshot: give an id, latest, latest~N, a day (2026-11-21) or a time (2026-11-21T03:00Z)"
        )));
    }
    let mut matches = snapshots.iter().enumerate().filter(|(_, snapshot)| snapshot.id.to_string().starts_with(&prefix));
    match (matches.next(), matches.next()) {
        (Some((at, _)), None) => Ok(at),
        (None, _) => Err(Error::NotFound(format!("There is no snapshot {name}"))),
        (Some(_), Some(_)) => Err(Error::NotFound(format!("Several snapshots begin with {name}; give more digits"))),
    }
}
