//! What was: the snapshots that are kept, and the checks and drills that are on record, back to a day.
//!
//! What must stay true: it shows what there is evidence for, and nothing is made up for days of which nothing is kept.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::status::proven::{CheckStatus, DrillStatus, Proven};
use crate::status::source::{self, SnapshotStatus};
use crate::status::{Groups, Read};

/// What was.
#[derive(Debug, Clone)]
pub struct History {
    /// How far it goes back.
    pub since: Timestamp,
    /// Snapshots that are kept, by source, oldest first.
    pub snapshots: BTreeMap<String, Vec<SnapshotStatus>>,
    /// Checks that are believed, newest first.
    pub checks: Vec<CheckStatus>,
    /// Drills that are believed, by deployment, newest first.
    pub drills: BTreeMap<String, Vec<DrillStatus>>,
}

impl History {
    /// Takes the part of what was read that is not older than this.
    pub(super) fn new(read: &Read<'_>, groups: &Groups<'_>, since: Timestamp) -> Self {
        let Proven { checks, drills, .. } = read.proven;
        let snapshots = groups.iter().map(|(group, (_, snapshots))| {
            let young = snapshots.iter().filter(|snapshot| snapshot.made() >= since);
            (group.clone(), young.map(|snapshot| source::snapshot_status(snapshot, read.now)).collect())
        });
        let drills = drills.iter().map(|(deployment, drills)| {
            let young = drills.iter().filter(|drill| drill.evidence.at >= since);
            (deployment.clone(), young.cloned().collect())
        });
        Self {
            since,
            snapshots: snapshots.collect(),
            checks: checks.iter().filter(|check| check.evidence.at >= since).cloned().collect(),
            drills: drills.collect(),
        }
    }
}
