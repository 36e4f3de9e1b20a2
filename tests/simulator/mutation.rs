//! Programs that break the protocol, as the store sees them.
//!
//! A mutation changes the requests of the real program on their way: their order, or what it is told. So the program
//! itself has no switch that could be left on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use bytes::Bytes;
use jiff::Timestamp;
use mlvault::backend::Listed;
use mlvault::error::{Error, Fault, Result};

use crate::simulator::world::{Answer, Operation, Process};

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// Nothing.
    Nothing,
    /// A session lists tombstones before it is announced.
    TombstonesBeforeSession,
    /// A session does not look which packs are there.
    NoPresence,
    /// The commit is not create-only.
    CommitOverwrites,
    /// Segments are written after the snapshot.
    SnapshotBeforeIndex,
    /// Segments are written before the packs that they name.
    IndexBeforePacks,
    /// A sweep ignores sessions that are open.
    NoVoid,
    /// A sweep does not count snapshots that came after the plan.
    NoRelist,
    /// A sweep does not see the tombstones of others.
    OwnTombstoneOnly,
    /// A sweep removes its tombstone first.
    TombstoneFirst,
    /// A prune removes the tombstones of others with its own.
    ForeignTombstones,
    /// A prune deletes packs that no segment names without asking whose they are.
    OrphansBlindly,
    /// A prune deletes packs without a tombstone.
    NoTombstone,
}

impl Break {
    /// Returns whether it concerns prunes, and not sessions.
    fn is_of_prune(self) -> bool {
        !matches!(
            self,
            Self::TombstonesBeforeSession
                | Self::NoPresence
                | Self::CommitOverwrites
                | Self::SnapshotBeforeIndex
                | Self::IndexBeforePacks
        )
    }
}

/// A mutation of one process, with what it must remember.
pub struct Mutation {
    what: Break,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    tombstones: Option<Vec<Listed>>,
    postponed: Vec<Operation>,
    own_tombstone: Option<String>,
    own_tombstone_bytes: Bytes,
    first_snapshots: Option<BTreeSet<String>>,
}

impl Mutation {
    /// Makes the mutation of a process; one that concerns the other kind of process does nothing.
    pub fn new(what: Break, is_prune: bool) -> Self {
        let what = if what.is_of_prune() == is_prune { what } else { Break::Nothing };
        Self { what, memory: Mutex::default() }
    }

    /// Sends what the program meant to ask, or what the broken one would.
    pub fn call(&self, process: &Process, operation: Operation) -> Result<Answer> {
        match (self.what, &operation) {
            (Break::TombstonesBeforeSession, Operation::Create(key, _)) if key.starts_with("sessions/") => {
                let listing = list(process, "tombstones/")?;
                self.memory.lock().unwrap().tombstones = Some(listing);
                process.send(operation)
            }
            (Break::TombstonesBeforeSession, Operation::List(prefix)) if prefix == "tombstones/" => {
                match self.memory.lock().unwrap().tombstones.clone() {
                    Some(listing) => Ok(Answer::Listing(listing)),
                    None => process.send(operation),
                }
            }
            (Break::NoPresence, Operation::List(prefix)) if prefix.starts_with("packs/") => {
                let ever: BTreeMap<String, u64> = process.world().packs_ever.lock().unwrap().clone();
                let mut all: BTreeMap<String, u64> =
                    list(process, prefix)?.into_iter().map(|listed| (listed.key, listed.size)).collect();
                all.extend(ever.into_iter().filter(|(key, _)| key.starts_with(prefix)));
                Ok(Answer::Listing(
                    all.into_iter().map(|(key, size)| Listed { key, size, modified: Timestamp::UNIX_EPOCH }).collect(),
                ))
            }
            (Break::CommitOverwrites, Operation::Create(key, bytes)) if key.starts_with("snapshots/") => {
                process.send(Operation::Overwrite(key.clone(), bytes.clone()))
            }
            (Break::SnapshotBeforeIndex, Operation::Create(key, bytes)) => {
                self.postpone(process, key, bytes, "index/", "snapshots/")
            }
            (Break::IndexBeforePacks, Operation::Create(key, bytes)) => {
                self.postpone(process, key, bytes, "packs/", "index/")
            }
            (Break::NoVoid, Operation::List(prefix)) if prefix == "sessions/" => Ok(Answer::Listing(Vec::new())),
            (Break::NoRelist, _) => self.no_relist(process, operation),
            (what, _) if what.is_of_prune() && what != Break::Nothing => self.prune(process, operation),
            _ => process.send(operation),
        }
    }

    /// Keeps objects under one prefix back until one under the other was written.
    fn postpone(&self, process: &Process, key: &str, bytes: &Bytes, first: &str, then: &str) -> Result<Answer> {
        let operation = Operation::Create(key.to_owned(), bytes.clone());
        if key.starts_with(first) {
            self.memory.lock().unwrap().postponed.push(operation);
            return Ok(Answer::Done);
        }
        let answer = process.send(operation)?;
        if key.starts_with(then) {
            let postponed = std::mem::take(&mut self.memory.lock().unwrap().postponed);
            for operation in postponed {
                process.send(operation)?;
            }
        }
        Ok(answer)
    }

    /// Names are seen, so that sessions are known to have ended, but what came later is not read.
    fn no_relist(&self, process: &Process, operation: Operation) -> Result<Answer> {
        let is_new = |memory: &Memory, key: &String| {
            key.starts_with("snapshots/") && memory.first_snapshots.as_ref().is_some_and(|first| !first.contains(key))
        };
        match &operation {
            Operation::Read(key) if is_new(&self.memory.lock().unwrap(), key) => {
                Err(Error::backend(Fault::NotFound, "read", key, "mutated"))
            }
            Operation::List(prefix) if prefix == "snapshots/" => {
                let listing = list(process, prefix)?;
                let names = listing.iter().map(|listed| listed.key.clone()).collect();
                self.memory.lock().unwrap().first_snapshots.get_or_insert(names);
                Ok(Answer::Listing(listing))
            }
            _ => process.send(operation),
        }
    }

    fn prune(&self, process: &Process, operation: Operation) -> Result<Answer> {
        let own = self.memory.lock().unwrap().own_tombstone.clone();
        match (self.what, &operation, own) {
            (what, Operation::Create(key, bytes), _) if key.starts_with("tombstones/") => {
                let mut memory = self.memory.lock().unwrap();
                (memory.own_tombstone, memory.own_tombstone_bytes) = (Some(key.clone()), bytes.clone());
                drop(memory);
                if what == Break::NoTombstone { Ok(Answer::Done) } else { process.send(operation) }
            }
            (Break::OwnTombstoneOnly, Operation::List(prefix), Some(own)) if prefix == "tombstones/" => {
                let mut listing = list(process, prefix)?;
                listing.retain(|listed| listed.key == own);
                Ok(Answer::Listing(listing))
            }
            (Break::TombstoneFirst, Operation::Remove(key), Some(own))
                if key.starts_with("index/") || key.starts_with("packs/") =>
            {
                process.send(Operation::Remove(own))?;
                process.send(operation)
            }
            (Break::ForeignTombstones, Operation::Remove(key), Some(own)) if *key == own => {
                for listed in list(process, "tombstones/")? {
                    process.send(Operation::Remove(listed.key))?;
                }
                Ok(Answer::Done)
            }
            // It does not look either whether its tombstone is there.
            (Break::NoTombstone | Break::ForeignTombstones, Operation::Read(key), Some(own)) if *key == own => {
                Ok(Answer::Bytes(self.memory.lock().unwrap().own_tombstone_bytes.clone()))
            }
            (Break::OrphansBlindly, Operation::Remove(key), Some(own)) if *key == own => {
                self.delete_unnamed_packs(process)?;
                process.send(operation)
            }
            _ => process.send(operation),
        }
    }

    /// Takes every pack for garbage whose segment is not there yet: those younger than any segment.
    fn delete_unnamed_packs(&self, process: &Process) -> Result<()> {
        let named = process.world().packs_named.lock().unwrap().clone();
        for listed in list(process, "packs/")? {
            if !named.contains(&listed.key) {
                process.send(Operation::Remove(listed.key))?;
            }
        }
        Ok(())
    }
}

fn list(process: &Process, prefix: &str) -> Result<Vec<Listed>> {
    match process.send(Operation::List(prefix.to_owned()))? {
        Answer::Listing(listing) => Ok(listing),
        other => panic!("{other:?}"),
    }
}
