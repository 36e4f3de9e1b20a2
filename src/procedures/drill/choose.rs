//! Which snapshot a drill restores.
//!
//! What must stay true: without a name, only complete snapshots come into question, and what cannot be read and may be a newer one
//! is told.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::error::{Error, Result};
use crate::repository::Repository;
use crate::repository::naming::Scope;
use crate::repository::snapshots::{Snapshot, SnapshotList};
use crate::retention::policy::Age;
use crate::units::count;

/// What is wanted.
#[derive(Debug, Clone)]
pub enum Choice {
    /// The newest.
    Latest,
    /// Any, as the seed has it.
    Random(u64),
    /// The newest that is at least this old.
    Old(Age),
}

/// What was chosen, and what speaks against it.
#[derive(Debug)]
pub struct Chosen {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// What may be wrong with the choice.
    pub doubts: Vec<String>,
}

/// Chooses among the complete snapshots of a deployment.
pub fn choose(repository: &Repository, deployment: &str, choice: &Choice, now: Timestamp) -> Result<Chosen> {
    let list = repository.list_snapshots()?;
    let scope = Scope::Deployment(deployment.to_owned());
    let of_deployment = || list.snapshots.iter().filter(|snapshot| scope.has(&snapshot.record.source));
    let complete: Vec<&Snapshot> = of_deployment().filter(|snapshot| !snapshot.is_incomplete()).collect();
    let chosen = match choice {
        Choice::Latest => complete.last(),
        Choice::Random(seed) => {
            usize::try_from(seed % complete.len().max(1) as u64).ok().and_then(|at| complete.get(at))
        }
        Choice::Old(age) => {
            let until = age.before(now, &TimeZone::UTC);
            complete.iter().rfind(|snapshot| snapshot.made() <= until)
        }
    };
    let Some(snapshot) = chosen.map(|snapshot| (*snapshot).clone()) else {
        return Err(Error::NotFound(match (choice, complete.is_empty()) {
            (Choice::Old(age), false) => {
                format!("The deployment {deployment:?} has no complete snapshot that is {age} old")
            }
            _ => format!("The deployment {deployment:?} has no complete snapshot"),
        }));
    };
    let newest = of_deployment().next_back();
    Ok(Chosen { doubts: doubts(&list, choice, newest, &snapshot), snapshot })
}

fn doubts(list: &SnapshotList, choice: &Choice, newest: Option<&Snapshot>, chosen: &Snapshot) -> Vec<String> {
    let mut doubts = Vec::new();
    if !list.damaged.is_empty() {
        let unreadable = count(list.damaged.count(), "object");
        doubts.push(format!("{unreadable} under the names of snapshots cannot be read, and may be what is meant"));
    }
    if let (Choice::Latest, Some(newest)) = (choice, newest.filter(|newest| newest.id != chosen.id)) {
        let (newest, chosen) = (newest.id.short(), chosen.id.short());
        doubts.push(format!("the latest snapshot {newest} is incomplete, so {chosen} was restored"));
    }
    if chosen.is_time_doubtful() {
        doubts.push("the time of the snapshot is doubtful".to_owned());
    }
    doubts
}
