//! Whether the log is as it was: against checkpoints of earlier days, against what its entries say of each other, and against
//! the objects that they name.
//!
//! What must stay true:
//! - A checkpoint holds if the log's first entries have its root, and in no other case. No signature and no time makes up
//!   for that.
//! - Whatever does not fit is named with the entry and the key that signed it. Who lied and who was robbed cannot be told
//!   from the log alone, so no message says more than what does not fit.
//! - What mlvault itself removes is not missed: forgotten snapshots and the notes on them, slots of removed keys, tombstones.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use serde::Serialize;

use crate::cancel::Cancel;
use crate::crypto::merkle::Frontier;
use crate::error::{Fault, Result};
use crate::format::checkpoint::{Checkpoint, Note};
use crate::format::history::LogPosition;
use crate::format::key_slot::{Certificate, Role};
use crate::format::log::{LoggedObject, What};
use crate::id::{NoteId, SessionId, TreeHash};
use crate::parallel;
use crate::repository::Repository;
use crate::repository::layout::{self, Object};
use crate::repository::log::{LOGGED, Log, LogEntry, LogSlot, hash_of};
use crate::repository::objects::{self, BATCH_OBJECTS};
use crate::repository::time::WORD_OFF_MAX;

/// What does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogProblemKind {
    /// The log is shorter than a checkpoint says.
    RolledBack,
    /// Its first entries are not those of a checkpoint.
    Rewritten,
    /// An entry cannot be read, or nobody signed it.
    Unreadable,
    /// An entry was appended to another history than the one before it.
    OtherHistory,
    /// An entry names what the role of its key may not write.
    Role,
    /// An entry was appended with a key that was removed before.
    RemovedKey,
    /// An object that an entry names is not there.
    Gone,
    /// An object is not the one that an entry names.
    Differs,
    /// Something is dated after it arrived.
    DatedAhead,
    /// An entry is dated before one that it follows.
    DatedBack,
    /// Something stands beyond the end of the log.
    Beyond,
}

/// Something that does not fit.
#[derive(Debug, Clone, Serialize)]
pub struct LogProblem {
    /// What.
    pub kind: LogProblemKind,
    /// The number of the entry.
    pub entry: Option<u64>,
    /// The key of the object.
    pub object: Option<String>,
    /// The label of the key that signed the entry.
    pub by: Option<String>,
    /// For people.
    pub message: String,
}

/// A checkpoint that the log is compared with.
#[derive(Debug, Clone)]
pub struct Earlier {
    /// Where it comes from, for messages.
    pub source: String,
    /// What it says.
    pub note: Note,
}

/// What came of a comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Compared {
    /// Where the checkpoint comes from.
    pub source: String,
    /// How many entries it is of.
    pub entries: u64,
    /// The label of the key that signed it, if this repository knows one that did.
    pub signed_by: Option<String>,
    /// Whether the log grew from it.
    pub holds: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct LogReport {
    /// How many entries the log has.
    pub entries: u64,
    /// How many objects they name.
    pub objects: u64,
    /// The root of its tree.
    pub root: TreeHash,
    /// The checkpoints that it was compared with.
    pub checkpoints: Vec<Compared>,
    /// What does not fit.
    pub problems: Vec<LogProblem>,
    /// Objects that stand in no entry.
    pub unlogged: Vec<LoggedObject>,
}

impl LogReport {
    /// Returns the checkpoint of the log as it was found.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint { size: self.entries, root: self.root }
    }
}

/// What this machine remembers, as messages call it.
const MEMORY: &str = "this machine's memory";

/// Verifies the log.
pub fn verify_log(repository: &Repository, earlier: &[Earlier], cancel: &Cancel) -> Result<LogReport> {
    // Before the log is listed: another process may make it longer meanwhile.
    let remembered = repository.history().log(repository);
    let log = repository.read_log()?;
    cancel.check()?;
    let mut verifier = Verifier::new(repository, &log);
    verifier.compare_all(earlier, remembered.as_ref())?;
    verifier.verify_entries();
    verifier.verify_times()?;
    verifier.verify_objects(cancel)?;
    let unlogged = repository.unlogged_objects(&log)?;
    let report = LogReport {
        entries: log.size(),
        objects: log.entries().map(|(_, entry)| entry.record.objects.len() as u64).sum(),
        root: log.checkpoint().root,
        checkpoints: verifier.compared,
        problems: verifier.problems,
        unlogged,
    };
    remember(repository, &log, &report);
    Ok(report)
}

/// Remembers the log, unless it is not the one that was known before: that is to be said until a person decides.
fn remember(repository: &Repository, log: &Log, report: &LogReport) {
    let Some(last) = log.slots.last().filter(|_| report.checkpoints.iter().all(|compared| compared.holds)) else {
        return;
    };
    let mut frontier = Frontier::default();
    log.slots.iter().for_each(|slot| frontier.push(slot.leaf));
    repository.history().add_log(repository, LogPosition { frontier, last: last.leaf });
}

struct Verifier<'a> {
    repository: &'a Repository,
    log: &'a Log,
    problems: Vec<LogProblem>,
    compared: Vec<Compared>,
}

impl<'a> Verifier<'a> {
    fn new(repository: &'a Repository, log: &'a Log) -> Self {
        Self { repository, log, problems: Vec::new(), compared: Vec::new() }
    }

    fn problem(&mut self, kind: LogProblemKind, at: Option<(u64, &LogEntry)>, object: Option<&str>, message: String) {
        self.problems.push(LogProblem {
            kind,
            entry: at.map(|(number, _)| number),
            object: object.map(str::to_owned),
            by: at.map(|(_, entry)| entry.signer.label.clone()),
            message,
        });
    }

    fn compare_all(&mut self, earlier: &[Earlier], remembered: Option<&LogPosition>) -> Result<()> {
        let signers = if earlier.iter().any(|earlier| earlier.note.is_signed()) { self.signers()? } else { Vec::new() };
        for Earlier { source, note } in earlier {
            let of = |signer: &&Certificate| note.is_signed_by(self.repository.id(), &signer.signer);
            let signed_by = signers.iter().find(of).map(|signer| signer.label.clone());
            self.compare(source.clone(), &note.checkpoint, signed_by);
        }
        if let Some(LogPosition { frontier, .. }) = remembered {
            self.compare(MEMORY.to_owned(), &Checkpoint { size: frontier.size(), root: frontier.root() }, None);
        }
        Ok(())
    }

    /// Returns the keys that the repository knows, also those that were removed.
    fn signers(&self) -> Result<Vec<Certificate>> {
        let listed = self.repository.list_keys()?.into_iter().filter_map(|slot| slot.certificate.ok());
        Ok(listed.chain(self.log.entries().map(|(_, entry)| entry.signer.clone())).collect())
    }

    fn compare(&mut self, source: String, earlier: &Checkpoint, signed_by: Option<String>) {
        let (now, then) = (self.log.size(), earlier.size);
        let found = self.log.checkpoint_at(then);
        if found.is_none() {
            let message = format!(
                "The log has {now} entries, and {source} knows of {then}: its newest ones were removed, or the repository \
                 was put back to an older state"
            );
            self.problem(LogProblemKind::RolledBack, None, None, message);
        } else if found.is_some_and(|found| found != *earlier) {
            let message = format!(
                "The first {then} entries are not those that {source} knows: they were removed, reordered or replaced, or \
                 there are two histories"
            );
            self.problem(LogProblemKind::Rewritten, None, None, message);
        }
        let holds = found == Some(*earlier);
        self.compared.push(Compared { source, entries: then, signed_by, holds });
    }

    fn verify_entries(&mut self) {
        let (mut frontier, mut removed) = (Frontier::default(), BTreeSet::new());
        for (number, slot) in (0..).zip(&self.log.slots) {
            self.verify_entry(number, slot, &frontier);
            frontier.push(slot.leaf);
            if let Ok(entry) = &slot.entry {
                self.verify_key(number, entry, &mut removed);
            }
        }
        for number in &self.log.beyond {
            let message = format!(
                "Entry {number} stands beyond the end of the log, which is before entry {}: those in between were removed, \
                 or it was never appended",
                self.log.size()
            );
            self.problem(LogProblemKind::Beyond, None, Some(&Object::LogEntry(*number).key()), message);
        }
    }

    fn verify_entry(&mut self, number: u64, slot: &LogSlot, before: &Frontier) {
        let entry = match &slot.entry {
            Ok(entry) => entry,
            Err(error) => {
                let message = format!("Entry {number} is none: {}", error.reason());
                return self.problem(LogProblemKind::Unreadable, None, Some(&Object::LogEntry(number).key()), message);
            }
        };
        let at = Some((number, entry));
        let by = &entry.signer.label;
        if entry.record.frontier(number).as_ref() != Some(before) {
            let message = format!(
                "Entry {number}, by {by:?}, was appended to another history than the one before it: that one was changed, \
                 or {by:?} lies"
            );
            self.problem(LogProblemKind::OtherHistory, at, None, message);
        }
        let role = entry.signer.role;
        for object in entry.record.objects.iter().filter(|object| !object.what.is_allowed(role) || !fits(object)) {
            let message = format!(
                "Entry {number}, by {by:?}, says that {} is a {}, which the role {} may not write there",
                object.key,
                object.what.name(),
                role.name()
            );
            self.problem(LogProblemKind::Role, at, Some(&object.key), message);
        }
    }

    /// Looks whether the key of an entry was removed by those before it, and takes in whose this one removes.
    fn verify_key(&mut self, number: u64, entry: &LogEntry, removed: &mut BTreeSet<String>) {
        let by = &entry.signer.label;
        if removed.contains(&entry.signer.slot.to_string()) {
            let message = format!("Entry {number} was appended with the key {by:?}, which was removed before");
            self.problem(LogProblemKind::RemovedKey, Some((number, entry)), None, message);
        }
        for object in entry.record.objects.iter().filter(|_| entry.signer.role == Role::Maintainer) {
            match (object.what, &object.about) {
                (What::RevokeKey, Some(slot)) => drop(removed.insert(slot.clone())),
                (What::ReinstateKey, Some(slot)) => drop(removed.remove(slot)),
                _ => {}
            }
        }
    }

    /// A clock that is ahead shows by when things arrived; one that is behind, by what stands before. Where a repository was
    /// moved, everything arrived late, and is not missed for that.
    fn verify_times(&mut self) -> Result<()> {
        let snapshots = self.repository.list_snapshots()?.snapshots;
        let started: HashMap<String, Timestamp> =
            snapshots.iter().map(|snapshot| (layout::snapshot(&snapshot.id), snapshot.record.started)).collect();
        let mut latest: Option<(u64, Timestamp)> = None;
        let log = self.log;
        for (number, entry) in log.entries() {
            let (at, arrived) = (entry.record.at, log.slots[number as usize].arrived);
            let by = &entry.signer.label;
            let is_ahead = |word: Timestamp| word.duration_since(arrived) > WORD_OFF_MAX;
            if is_ahead(at) {
                let message = format!("Entry {number}, by {by:?}, is dated {at}, and arrived at {arrived}");
                self.problem(LogProblemKind::DatedAhead, Some((number, entry)), None, message);
            } else if let Some((before, time)) = latest.filter(|(_, time)| time.duration_since(at) > WORD_OFF_MAX) {
                let message = format!(
                    "Entry {number}, by {by:?}, is dated {at}, and entry {before}, which was there before, {time}"
                );
                self.problem(LogProblemKind::DatedBack, Some((number, entry)), None, message);
            } else if latest.is_none_or(|(_, time)| time < at) {
                latest = Some((number, at));
            }
            for object in &entry.record.objects {
                let Some(word) = started.get(&object.key).copied().filter(|word| is_ahead(*word)) else { continue };
                let message =
                    format!("{} is dated {word}, and was entered, by {by:?}, into the log at {arrived}", object.key);
                self.problem(LogProblemKind::DatedAhead, Some((number, entry)), Some(&object.key), message);
            }
        }
        Ok(())
    }

    /// Compares every object that an entry names with what is there.
    fn verify_objects(&mut self, cancel: &Cancel) -> Result<()> {
        let mut there = BTreeSet::new();
        for prefix in LOGGED {
            there.extend(self.repository.backend().list(prefix)?.into_iter().map(|object| object.key));
        }
        let excuses = Excuses::new(self.log);
        let log = self.log;
        let named: Vec<(u64, &LogEntry, &LoggedObject)> = log
            .entries()
            .flat_map(|(number, entry)| entry.record.objects.iter().map(move |object| (number, entry, object)))
            .filter(|(_, entry, object)| object.what.is_allowed(entry.signer.role) && fits(object))
            .collect();
        for batch in named.chunks(BATCH_OBJECTS) {
            cancel.check()?;
            let found = parallel::map(batch, self.repository.backend().concurrency(), |(_, _, object)| {
                if there.contains(&object.key) { self.is_same(object).map(Some) } else { Ok(None) }
            });
            for ((number, entry, object), found) in batch.iter().zip(found) {
                let (by, key) = (&entry.signer.label, &object.key);
                match found? {
                    Some(true) => {}
                    Some(false) => {
                        let message = format!(
                            "{key} is not what entry {number}, by {by:?}, says: it was replaced or damaged, or {by:?} lies"
                        );
                        self.problem(LogProblemKind::Differs, Some((*number, entry)), Some(key), message);
                    }
                    None if excuses.cover(self.repository, object)? => {}
                    None => {
                        let message = format!(
                            "{key}, a {} of entry {number}, by {by:?}, is not there: it was removed, or {by:?} lies",
                            object.what.name()
                        );
                        self.problem(LogProblemKind::Gone, Some((*number, entry)), Some(key), message);
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns whether the bytes of an object are those that an entry names. What goes away meanwhile is for the next time.
    fn is_same(&self, logged: &LoggedObject) -> Result<bool> {
        let Some(object) = Object::parse(&logged.key) else { return Ok(false) };
        match objects::read(self.repository.backend(), object, None) {
            Ok(bytes) => Ok(hash_of(&bytes) == logged.hash),
            Err(error) if error.fault() == Some(Fault::NotFound) => Ok(true),
            Err(error) if error.is_damage() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Returns whether an object's key is one of what it is said to be.
fn fits(object: &LoggedObject) -> bool {
    match (Object::parse(&object.key), object.what) {
        (_, What::Unknown) => true,
        (Some(Object::Snapshot(_)), what) => what == What::Snapshot,
        (Some(Object::Forgotten(_)), what) => what == What::Forgotten,
        (Some(Object::Evidence(_)), what) => matches!(what, What::Check | What::Drill),
        (Some(Object::KeySlot(_)), what) => what == What::Key,
        (Some(Object::Tombstone(_)), what) => what == What::Tombstone,
        (Some(Object::Note(_)), what) => {
            !matches!(what, What::Snapshot | What::Forgotten | What::Check | What::Drill | What::Key | What::Tombstone)
        }
        _ => false,
    }
}

/// What mlvault may have removed itself, as far as the log tells.
struct Excuses {
    /// The snapshot that each hold is on.
    holds: BTreeMap<String, String>,
    /// Key slots that a maintainer removed.
    revoked: BTreeSet<String>,
}

impl Excuses {
    fn new(log: &Log) -> Self {
        let (mut holds, mut revoked) = (BTreeMap::new(), BTreeSet::new());
        for (_, entry) in log.entries() {
            for object in &entry.record.objects {
                let Some(about) = object.about.clone() else { continue };
                match (object.what, Object::parse(&object.key)) {
                    (What::Hold, Some(Object::Note(id))) => drop(holds.insert(id.to_string(), about)),
                    (What::RevokeKey, _) if entry.signer.role == Role::Maintainer => drop(revoked.insert(about)),
                    _ => {}
                }
            }
        }
        Self { holds, revoked }
    }

    fn cover(&self, repository: &Repository, object: &LoggedObject) -> Result<bool> {
        let about = object.about.as_deref();
        match (object.what, Object::parse(&object.key)) {
            (What::Tombstone | What::Unknown, _) => Ok(true),
            (What::Snapshot, Some(Object::Snapshot(id))) => is_forgotten(repository, &id),
            (What::Key, Some(Object::KeySlot(slot))) => Ok(self.revoked.contains(&slot.to_string())),
            (What::Hold | What::AddTags | What::RemoveTags, _) => of_forgotten(repository, about),
            // It is removed with the hold that it ended.
            (What::Release, _) => match about.and_then(|hold| self.holds.get(hold)) {
                Some(snapshot) => of_forgotten(repository, Some(snapshot)),
                None => Ok(about.is_some_and(|hold| hold.parse::<NoteId>().is_ok())),
            },
            _ => Ok(false),
        }
    }
}

fn of_forgotten(repository: &Repository, snapshot: Option<&str>) -> Result<bool> {
    match snapshot.and_then(|id| id.parse::<SessionId>().ok()) {
        Some(id) => is_forgotten(repository, &id),
        None => Ok(false),
    }
}

/// Returns whether a maintainer has forgotten a snapshot.
fn is_forgotten(repository: &Repository, id: &SessionId) -> Result<bool> {
    match repository.describe(Object::Forgotten(*id)) {
        Ok(described) => Ok(described.is_some()),
        Err(error) if error.is_damage() || error.fault() == Some(Fault::NotFound) => Ok(false),
        Err(error) => Err(error),
    }
}
