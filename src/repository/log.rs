//! The log: one entry for what each command wrote, in an order that nobody can change unseen.
//!
//! What must stay true:
//! - Every object that the log is to tell of is written by `Repository::create_logged`, and entered by
//!   [`Repository::settle_log`] when its command ends. What was written stands, whether or not it comes to be entered:
//!   [`Repository::complete_log`] does that later.
//! - Entries are numbered without gaps: the log ends before the first number that is free. So nobody can end it early or
//!   drive it far ahead, and whatever stands under a number keeps its place, also if it is junk or lies: it is a leaf like
//!   any other, and what it says of itself changes no other leaf.
//! - What is appended rests on what this machine remembers of the log, or, where it remembers nothing, on the last entry by
//!   its own key or a maintainer's, and on what follows that: never on what another writer says.
//!
//! Why no larger parts are stored of many entries: an entry states the tree before it, so that appending takes the last
//! entries alone, and only whoever verifies everything reads everything.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use jiff::Timestamp;

use crate::crypto::merkle::{self, Frontier};
use crate::error::{Error, Fault, Result};
use crate::format::checkpoint::Checkpoint;
use crate::format::history::LogPosition;
use crate::format::key_slot::{Certificate, Role};
use crate::format::log::{self, LogRecord, LoggedObject, OBJECTS_MAX, What};
use crate::id::{ObjectHash, TreeHash};
use crate::parallel;
use crate::repository::layout::Object;
use crate::repository::objects::{self, BATCH_OBJECTS};
use crate::repository::session::PROGRAM;
use crate::repository::{Repository, layout, time};
use crate::sync::lock;

/// Times that an entry that cannot be read is read before it counts as junk: it would change the tree.
const READINGS: usize = 2;
/// Times that somebody else may take the number that was to be ours.
const APPEND_TRIES_MAX: usize = 256;
/// Entries that are read at once where it is not known how many there are.
const STEP_MAX: u64 = 32;
/// Prefixes of the objects of which the log is to tell.
pub const LOGGED: [&str; 6] =
    [layout::SNAPSHOTS, layout::FORGOTTEN, layout::NOTES, layout::EVIDENCE, layout::KEYS, layout::TOMBSTONES];

/// An entry that somebody signed.
#[derive(Debug, Clone)]
pub struct LogEntry {
    /// What it says.
    pub record: LogRecord,
    /// Who signed it.
    pub signer: Certificate,
}

/// What stands under a number.
#[derive(Debug, Clone)]
pub struct LogSlot {
    /// Its leaf in the tree: that of nothing, if it is no object of this repository.
    pub leaf: TreeHash,
    /// The entry, or why it is none.
    pub entry: Result<LogEntry>,
    /// When it arrived, by the clock of the place where it is stored.
    pub arrived: Timestamp,
    /// About how many bytes it takes.
    bytes: u64,
}

/// All of the log.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// What stands under each number, from 0 on.
    pub slots: Vec<LogSlot>,
    /// Numbers beyond the first one that is free: no part of the log.
    pub beyond: Vec<u64>,
}

impl Log {
    /// Returns how many entries it has.
    pub fn size(&self) -> u64 {
        self.slots.len() as u64
    }

    /// Returns the hashes of the leaves.
    pub fn leaves(&self) -> Vec<TreeHash> {
        self.slots.iter().map(|slot| slot.leaf).collect()
    }

    /// Returns the entries that can be read, with their numbers.
    pub fn entries(&self) -> impl Iterator<Item = (u64, &LogEntry)> {
        let entry = |(number, slot)| Some((number as u64, LogSlot::entry(slot)?));
        self.slots.iter().enumerate().filter_map(entry)
    }

    /// Returns the first entry that names an object, with its number.
    pub fn entry_of(&self, key: &str) -> Option<(u64, &LogEntry)> {
        self.entries().find(|(_, entry)| entry.record.objects.iter().any(|object| object.key == key))
    }

    /// Returns the checkpoint after so many entries; nothing if there are fewer.
    pub fn checkpoint_at(&self, size: u64) -> Option<Checkpoint> {
        let leaves = self.leaves();
        let leaves = leaves.get(..usize::try_from(size).ok()?)?;
        Some(Checkpoint { size, root: merkle::root(leaves) })
    }

    /// Returns the checkpoint after all entries.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint { size: self.size(), root: merkle::root(&self.leaves()) }
    }

    /// Returns the proof that an entry is in the log as it is now; nothing if there is no such entry.
    pub fn inclusion(&self, number: u64) -> Option<Vec<TreeHash>> {
        merkle::inclusion(&self.leaves(), usize::try_from(number).ok()?)
    }

    /// Returns the proof that the log of so many entries grew to what it is now; nothing if there are fewer.
    pub fn consistency(&self, size: u64) -> Option<Vec<TreeHash>> {
        merkle::consistency(&self.leaves(), usize::try_from(size).ok()?)
    }
}

impl LogSlot {
    fn entry(&self) -> Option<&LogEntry> {
        self.entry.as_ref().ok()
    }
}

/// What was entered, and the checkpoint after it.
#[derive(Debug, Clone)]
pub struct Appended {
    /// The number of the last entry.
    pub number: u64,
    /// The checkpoint after it.
    pub checkpoint: Checkpoint,
}

/// How far the log is known.
#[derive(Debug, Default)]
struct Position {
    frontier: Frontier,
    last: Option<TreeHash>,
}

impl Position {
    fn push(&mut self, leaf: TreeHash) {
        self.frontier.push(leaf);
        self.last = Some(leaf);
    }
}

impl From<LogPosition> for Position {
    fn from(LogPosition { frontier, last }: LogPosition) -> Self {
        Self { frontier, last: Some(last) }
    }
}

impl Repository {
    /// Writes an object of which the log is to tell when the command ends.
    pub(super) fn create_logged(&self, object: Object, bytes: Bytes, what: What, about: Option<String>) -> Result<()> {
        let hash = hash_of(&bytes);
        self.backend().create(&object.key(), bytes)?;
        lock(&self.unlogged).push(LoggedObject { what, key: object.key(), hash, about });
        Ok(())
    }

    /// Enters what was written and is not entered yet. Returns nothing if there is nothing.
    ///
    /// What cannot be entered stands all the same, and is for [`Repository::complete_log`].
    pub fn settle_log(&self) -> Result<Option<Appended>> {
        let objects = std::mem::take(&mut *lock(&self.unlogged));
        if objects.is_empty() {
            return Ok(None);
        }
        self.append(&objects, false).map(Some)
    }

    /// Enters objects that whoever wrote them did not come to enter: a crash, a network, an older version, a thief. Returns
    /// nothing if all are entered. Needs a maintainer's key, and reads the whole log.
    pub fn complete_log(&self) -> Result<Option<(Vec<LoggedObject>, Appended)>> {
        self.access().require_maintainer("enter into the log what others wrote")?;
        let objects = self.unlogged_objects(&self.read_log()?)?;
        if objects.is_empty() {
            return Ok(None);
        }
        let appended = self.append(&objects, true)?;
        Ok(Some((objects, appended)))
    }

    /// Returns what an entry would say of the objects that are there and stand in none. What is damaged, or goes meanwhile, is for
    /// `check` to tell.
    pub fn unlogged_objects(&self, log: &Log) -> Result<Vec<LoggedObject>> {
        let missing = self.unlogged_keys(log)?;
        let described = parallel::map(&missing, self.backend().concurrency(), |object| self.describe(*object));
        let mut unlogged = Vec::new();
        for object in described {
            match object {
                Ok(object) => unlogged.extend(object),
                Err(error) if error.is_damage() || error.fault() == Some(Fault::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(unlogged)
    }

    /// Returns the objects that are there and stand in no entry. Void markers are among them.
    fn unlogged_keys(&self, log: &Log) -> Result<Vec<Object>> {
        let objects = log.entries().flat_map(|(_, entry)| &entry.record.objects);
        let entered: BTreeSet<&str> = objects.map(|object| object.key.as_str()).collect();
        let mut missing = Vec::new();
        for prefix in LOGGED {
            let listed = self.backend().list(prefix)?;
            let keys = listed.iter().map(|object| object.key.as_str()).filter(|key| !entered.contains(key));
            missing.extend(keys.filter_map(Object::parse));
        }
        Ok(missing)
    }

    /// Reads an object and returns what an entry says of it; nothing for those that need none.
    pub fn describe(&self, object: Object) -> Result<Option<LoggedObject>> {
        let bytes = objects::read(self.backend(), object, None)?;
        let size = bytes.len() as u64;
        let (what, about) = match object {
            Object::Snapshot(id) if self.is_snapshot(&id)? => (What::Snapshot, None),
            Object::Forgotten(id) => {
                self.read_forgotten(&id)?;
                (What::Forgotten, None)
            }
            Object::Note(id) => {
                let (record, _) = self.read_note(&id, size)?;
                (What::from(&record.says), record.says.about())
            }
            Object::Evidence(id) => (What::from(&self.read_evidence(&id, size)?.0.says), None),
            // Those of `init` are as old as the repository, and older than any log.
            Object::KeySlot(slot) => match self.read_certificate(slot, Some(size))? {
                certificate if certificate.created == self.config().created => return Ok(None),
                certificate => (What::Key, Some(certificate.label)),
            },
            Object::Tombstone(id) => match super::session::read_tombstone(self, id, Some(size))? {
                Some(_) => (What::Tombstone, None),
                None => return Ok(None),
            },
            _ => return Ok(None),
        };
        Ok(Some(LoggedObject { what, key: object.key(), hash: hash_of(&bytes), about }))
    }

    /// Reads all of the log. What is no entry does not hide the others.
    ///
    /// Fails with [`Error::Invalid`] if the entries take more memory than the limit leaves for them.
    pub fn read_log(&self) -> Result<Log> {
        let mut listed = self.backend().list(layout::LOG)?;
        listed.retain(|object| layout::log_entry_of(&object.key).is_some());
        let is_next = |(at, object): &(usize, &_)| number_of(object) == *at as u64;
        let end = listed.iter().enumerate().take_while(is_next).count();
        let (there, beyond) = listed.split_at(end);
        let mut log = Log { slots: Vec::with_capacity(end), beyond: beyond.iter().map(number_of).collect() };
        let kept_bytes = AtomicU64::new(0);
        for batch in there.chunks(BATCH_OBJECTS) {
            let read = parallel::map(batch, self.backend().concurrency(), |object| {
                let slot = self.read_slot(number_of(object), Some(object.size))?;
                self.refuse_too_much("the entries of its log", &kept_bytes, slot.bytes).map(|()| slot)
            });
            for (object, slot) in batch.iter().zip(read) {
                log.slots.push(LogSlot { arrived: time::arrival(object, 0), ..slot? });
            }
        }
        Ok(log)
    }

    /// Returns the body of an entry: what the hash of its leaf is of, and all that anybody needs to verify its signature.
    pub fn log_body(&self, number: u64) -> Result<Vec<u8>> {
        self.objects().open(Object::LogEntry(number), None, |body| Ok(body.to_vec()))
    }

    /// Signs a checkpoint with the key in use.
    pub fn sign_checkpoint(&self, checkpoint: &Checkpoint) -> String {
        checkpoint.sign(self.id(), self.access().signer().seed)
    }

    /// Reads what stands under a number. Fails with [`Fault::NotFound`] if that is free.
    pub(super) fn read_slot(&self, number: u64, size: Option<u64>) -> Result<LogSlot> {
        let object = Object::LogEntry(number);
        let read = || {
            self.objects().open(object, size, |body| {
                let entry = log::decode(self.id(), number, &self.config().root_key, body);
                let entry = entry.map(|(record, signer)| LogEntry { record, signer });
                let entry = entry.map_err(|error| Error::damaged(object.key(), error));
                Ok(LogSlot { leaf: merkle::leaf(body), entry, arrived: Timestamp::MAX, bytes: body.len() as u64 })
            })
        };
        // A number that is free is no junk.
        let is_junk = |error: &Error| error.is_damage() && error.fault() != Some(Fault::NotFound);
        let mut slot = read();
        for _ in 1..READINGS {
            if slot.as_ref().is_err_and(is_junk) {
                slot = read();
            }
        }
        match slot {
            Err(error) if is_junk(&error) => {
                Ok(LogSlot { leaf: merkle::leaf(&[]), entry: Err(error), arrived: Timestamp::MAX, bytes: 0 })
            }
            slot => slot,
        }
    }

    fn append(&self, objects: &[LoggedObject], late: bool) -> Result<Appended> {
        let mut position = self.position()?;
        for objects in objects.chunks(OBJECTS_MAX) {
            self.append_entry(&mut position, objects, late)?;
        }
        let checkpoint = Checkpoint { size: position.frontier.size(), root: position.frontier.root() };
        if let Position { frontier, last: Some(last) } = position {
            self.history().add_log(self, LogPosition { frontier, last });
        }
        Ok(Appended { number: checkpoint.size - 1, checkpoint })
    }

    fn append_entry(&self, position: &mut Position, objects: &[LoggedObject], late: bool) -> Result<()> {
        for _ in 0..APPEND_TRIES_MAX {
            let number = position.frontier.size();
            let record = LogRecord {
                at: self.clock().now(),
                program: PROGRAM.to_owned(),
                before: position.frontier.peaks().to_vec(),
                late,
                objects: objects.to_vec(),
            };
            let body = log::encode(self.id(), number, &record, &self.access().signer());
            match self.take_number(number, &body) {
                Err(error) if error.fault() == Some(Fault::AlreadyExists) => self.catch_up(position)?,
                taken => {
                    taken?;
                    position.push(merkle::leaf(&body));
                    return Ok(());
                }
            }
        }
        Err(Error::Busy(format!(
            "The log took {APPEND_TRIES_MAX} entries of others at the moment that one was to be added"
        )))
    }

    fn take_number(&self, number: u64, body: &[u8]) -> Result<()> {
        let object = Object::LogEntry(number);
        let bytes = objects::seal(self.keys(), self.id(), object, body)?;
        if self.config().create_only {
            return self.backend().create(&object.key(), bytes);
        }
        // Nothing better can be had: what another one wrote in between is overwritten.
        match self.read_slot(number, None) {
            Ok(_) => Err(Error::backend(Fault::AlreadyExists, "create", object.key(), "it exists")),
            Err(error) if error.fault() == Some(Fault::NotFound) => self.backend().create(&object.key(), bytes),
            Err(error) => Err(error),
        }
    }

    /// Takes in what others have appended.
    fn catch_up(&self, position: &mut Position) -> Result<()> {
        let mut step = 1;
        loop {
            let next = position.frontier.size();
            let numbers: Vec<u64> = (next..next.saturating_add(step)).collect();
            for slot in parallel::map(&numbers, self.backend().concurrency(), |number| self.read_slot(*number, None)) {
                match slot {
                    Ok(slot) => position.push(slot.leaf),
                    Err(error) if error.fault() == Some(Fault::NotFound) => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
            step = (step * 2).min(STEP_MAX);
        }
    }

    /// Returns how far the log reaches. Others may append more at any moment.
    fn position(&self) -> Result<Position> {
        let Some(remembered) = self.history().log(self) else { return self.find_end() };
        self.confirm(&remembered)?;
        // Somebody has nearly always appended something since, and a number that is taken costs more than a look.
        let mut position = remembered.into();
        self.catch_up(&mut position)?;
        Ok(position)
    }

    /// Looks whether the last entry that this machine remembers is still there as it was.
    fn confirm(&self, remembered: &LogPosition) -> Result<()> {
        let number = remembered.frontier.size() - 1;
        match self.read_slot(number, None) {
            Ok(slot) if slot.leaf == remembered.last => {}
            // It goes on after what it remembers: what is gone is missed by everybody who verifies that.
            Ok(_) => self.history().miss_log_entry(number),
            Err(error) if error.fault() == Some(Fault::NotFound) => self.history().miss_log_entry(number),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Finds the end of a log of which nothing is remembered.
    fn find_end(&self) -> Result<Position> {
        let listed = self.backend().list(layout::LOG)?;
        let numbers = listed.iter().filter_map(|object| layout::log_entry_of(&object.key));
        let end = numbers.zip(0..).take_while(|(number, at)| number == at).count() as u64;
        let (mut after, mut step) = (Vec::new(), 1);
        while (after.len() as u64) < end {
            let from = (end - after.len() as u64).saturating_sub(step);
            step = (step * 2).min(STEP_MAX);
            let numbers: Vec<u64> = (from..end - after.len() as u64).rev().collect();
            for slot in parallel::map(&numbers, self.backend().concurrency(), |number| self.read_slot(*number, None)) {
                let slot = slot?;
                let number = end - after.len() as u64 - 1;
                after.push(slot.leaf);
                if let Some(frontier) = self.trusted_frontier(number, &slot) {
                    return Ok(folded(frontier, &after));
                }
            }
        }
        Ok(folded(Frontier::default(), &after))
    }

    /// Returns the tree that an entry was appended to, if its signer is to be believed.
    fn trusted_frontier(&self, number: u64, slot: &LogSlot) -> Option<Frontier> {
        let entry = slot.entry()?;
        let is_own = entry.signer.slot == self.access().certificate.slot;
        (is_own || entry.signer.role == Role::Maintainer).then(|| entry.record.frontier(number))?
    }
}

/// Appends leaves, the last one first in the list.
fn folded(frontier: Frontier, after: &[TreeHash]) -> Position {
    let mut position = Position { frontier, last: None };
    after.iter().rev().for_each(|leaf| position.push(*leaf));
    position
}

fn number_of(object: &crate::backend::Listed) -> u64 {
    layout::log_entry_of(&object.key).unwrap_or(u64::MAX)
}

/// Returns the hash by which the log names an object's bytes.
pub fn hash_of(bytes: &[u8]) -> ObjectHash {
    ObjectHash::from_bytes(*blake3::hash(bytes).as_bytes())
}
