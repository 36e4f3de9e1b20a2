//! How one source stands: its last good snapshot, its growth, what its policy will do.
//!
//! What must stay true: a good snapshot is a complete one. Losses that were accepted are told beside it.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::format::deployment::Verdicts;
use crate::format::snapshot::{SnapshotRecord, SourceRecord};
use crate::id::SessionId;
use crate::objectives::Objectives;
use crate::repository::snapshots::Snapshot;
use crate::retention::outlook::{self, Outlook, Present};
use crate::status::alarm::Alarm;
use crate::status::proven::{DrillStatus, Last};
use crate::status::{Expected, Read, StatusOptions};

/// Complete snapshots before the last good one that its size is compared with.
const EARLIER_COMPARED: usize = 7;

/// How a source stands.
#[derive(Debug, Clone, Serialize)]
pub struct SourceStatus {
    /// The source, as in the column SOURCE.
    pub source: String,
    /// The MLflow deployment that it is.
    pub deployment: Option<String>,
    /// Whether the configuration names it.
    pub is_configured: bool,
    /// Snapshots.
    pub snapshots: u64,
    /// Those of them that are incomplete.
    pub snapshots_incomplete: u64,
    /// Forgotten snapshots that can still be brought back.
    pub trash: u64,
    /// The newest snapshot.
    pub latest: Option<SnapshotStatus>,
    /// The newest complete snapshot.
    pub last_good: Option<SnapshotStatus>,
    /// Incomplete snapshots since the last good one.
    pub incomplete_in_a_row: u64,
    /// What is expected.
    pub objectives: ObjectivesStatus,
    /// What it adds to the repository.
    pub growth: Growth,
    /// Name of its policy.
    pub policy: Option<String>,
    /// What that does.
    pub retention: Option<Outlook>,
    /// What its latest snapshot lacks, and somebody answers for.
    pub accepted: AcceptedLosses,
    /// The last drills that are on record.
    pub drills: Last<DrillStatus>,
    /// Why somebody should look.
    pub alarms: Vec<Alarm>,
}

/// One snapshot.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotStatus {
    /// Its name.
    pub id: SessionId,
    /// When it was made.
    pub made: Timestamp,
    /// Since when what is in it is as it was: the earlier of its word and its arrival.
    pub as_of: Timestamp,
    /// How long ago that is.
    pub age_seconds: i64,
    /// Label of the key that signed it.
    pub by: String,
    /// Host or pod that made it.
    pub host: String,
    /// Whether nothing of its source is missing.
    pub is_complete: bool,
    /// What went wrong.
    pub problems: u64,
    /// The first of it, in words.
    pub first_problem: Option<String>,
    /// Whether its word on the time and its arrival are too far apart.
    pub time_doubtful: bool,
    /// Of a deployment: how each of its parts is.
    pub verdicts: Option<Verdicts>,
    /// Its size.
    pub size: Size,
    /// Bytes that it added to the repository.
    pub bytes_stored: u64,
    /// How long the backup took.
    pub seconds: u64,
}

/// How much a snapshot holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Entries of its components.
    pub entries: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Rows of its databases.
    pub rows: u64,
}

/// What is expected, with what holds where nothing was said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ObjectivesStatus {
    /// Age of the last good snapshot.
    pub rpo_seconds: Option<i64>,
    /// Time that a restore of everything takes.
    pub rto_seconds: Option<i64>,
    /// Age of the last check on record.
    pub check_seconds: Option<i64>,
    /// Age of the last drill.
    pub drill_seconds: Option<i64>,
}

/// What the snapshots of the last days have added to the repository, as far as they are still listed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Growth {
    /// In bytes, in 7 days.
    pub bytes_7_days: u64,
    /// In 30 days.
    pub bytes_30_days: u64,
}

/// Losses that were accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AcceptedLosses {
    /// How many the latest snapshot has.
    pub count: u64,
    /// When the first of the acceptances ends that hold now.
    pub first_end: Option<Timestamp>,
}

/// Puts together how a source stands. Alarms are for others to raise.
pub(super) fn status(
    read: &Read<'_>,
    options: &StatusOptions,
    source: &SourceRecord,
    snapshots: &[&Snapshot],
) -> SourceStatus {
    let group = source.group();
    let deployment = match source {
        SourceRecord::Deployment { name } => Some(name.clone()),
        _ => None,
    };
    let expected = options.expected.iter().find(|expected| Some(&expected.deployment) == deployment.as_ref());
    let good = snapshots.iter().rev().find(|snapshot| !snapshot.is_incomplete());
    let policy = expected.and_then(|expected| expected.policy.as_ref());
    let present = Present { list: read.list, notes: read.notes, now: read.now, zone: &options.zone };
    let retention = policy.map(|(_, policy)| outlook::outlook(&present, &group, policy));
    SourceStatus {
        is_configured: expected.is_some(),
        snapshots: snapshots.len() as u64,
        snapshots_incomplete: snapshots.iter().filter(|snapshot| snapshot.is_incomplete()).count() as u64,
        trash: read.list.trash.iter().filter(|trashed| trashed.snapshot.record.source == *source).count() as u64,
        latest: snapshots.last().map(|snapshot| snapshot_status(snapshot, read.now)),
        last_good: good.map(|snapshot| snapshot_status(snapshot, read.now)),
        incomplete_in_a_row: snapshots.iter().rev().take_while(|snapshot| snapshot.is_incomplete()).count() as u64,
        objectives: objectives(expected, options.age_max, deployment.is_some()),
        growth: growth(snapshots, read.now),
        policy: policy.map(|(name, _)| name.clone()),
        retention,
        accepted: accepted(read, &group, snapshots.last().copied()),
        drills: read.proven.last_drill(deployment.as_deref().unwrap_or_default()),
        source: group,
        deployment,
        alarms: Vec::new(),
    }
}

/// What is judged where nothing is configured: deployments by the usual objectives, anything else only on request. A directory
/// that was backed up once by hand is no nightly job.
fn objectives(expected: Option<&Expected>, age_max: Option<SignedDuration>, is_deployment: bool) -> ObjectivesStatus {
    let usual = Objectives::default();
    let said = expected.map_or(&usual, |expected| &expected.objectives);
    let rpo = if is_deployment { said.rpo() } else { None };
    let seconds = |limit: Option<SignedDuration>| limit.map(|limit| limit.as_secs());
    ObjectivesStatus {
        rpo_seconds: seconds(age_max.or(rpo)),
        rto_seconds: seconds(said.rto()),
        check_seconds: seconds(said.check()),
        drill_seconds: seconds(said.drill()),
    }
}

/// Returns since when a snapshot is what it is: the earlier of its word and its arrival.
fn as_of(snapshot: &Snapshot) -> Timestamp {
    snapshot.made().min(snapshot.arrived)
}

/// Puts together what is said of a snapshot.
pub(super) fn snapshot_status(snapshot: &Snapshot, now: Timestamp) -> SnapshotStatus {
    let record = &snapshot.record;
    let first = record.problems.first();
    SnapshotStatus {
        id: snapshot.id,
        made: snapshot.made(),
        as_of: as_of(snapshot),
        age_seconds: now.duration_since(as_of(snapshot)).as_secs(),
        by: snapshot.signer.label.clone(),
        host: record.host.clone(),
        is_complete: !snapshot.is_incomplete(),
        problems: record.problem_count,
        first_problem: first.map(|problem| format!("{}: {}", problem.path, problem.message)),
        time_doubtful: snapshot.is_time_doubtful(),
        verdicts: record.deployment.as_ref().map(|deployment| deployment.verdicts),
        size: size(record),
        bytes_stored: record.statistics.bytes_stored,
        seconds: record.statistics.duration_ms / 1000,
    }
}

fn size(record: &SnapshotRecord) -> Size {
    let databases = record.deployment.iter().flat_map(|deployment| &deployment.databases);
    Size {
        entries: record.components.iter().fold(0, |sum: u64, component| sum.saturating_add(component.entries)),
        bytes: record.components.iter().fold(0, |sum: u64, component| sum.saturating_add(component.bytes)),
        rows: databases.fold(0, |sum: u64, database| sum.saturating_add(database.rows)),
    }
}

/// Returns the median of the sizes of the complete snapshots before the last good one.
pub(super) fn usual_size(snapshots: &[&Snapshot]) -> Option<Size> {
    let complete = snapshots.iter().rev().filter(|snapshot| !snapshot.is_incomplete());
    let earlier: Vec<Size> = complete.skip(1).take(EARLIER_COMPARED).map(|snapshot| size(&snapshot.record)).collect();
    let median = |of: fn(&Size) -> u64| {
        let mut values: Vec<u64> = earlier.iter().map(of).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied()
    };
    Some(Size {
        entries: median(|size| size.entries)?,
        bytes: median(|size| size.bytes)?,
        rows: median(|size| size.rows)?,
    })
}

fn growth(snapshots: &[&Snapshot], now: Timestamp) -> Growth {
    let since = |days: i64| {
        let young = snapshots
            .iter()
            .filter(|snapshot| now.duration_since(snapshot.arrived) <= SignedDuration::from_hours(24 * days));
        young.fold(0, |sum: u64, snapshot| sum.saturating_add(snapshot.record.statistics.bytes_stored))
    };
    Growth { bytes_7_days: since(7), bytes_30_days: since(30) }
}

fn accepted(read: &Read<'_>, group: &str, latest: Option<&Snapshot>) -> AcceptedLosses {
    let Some(latest) = latest else { return AcceptedLosses::default() };
    let holds: BTreeMap<&str, Timestamp> = read
        .notes
        .acceptances
        .iter()
        .filter(|accepted| accepted.group == group && !accepted.has_ended(read.now))
        .map(|accepted| (accepted.subject.as_str(), accepted.until))
        .collect();
    let lacking = latest.record.accepted.iter();
    AcceptedLosses {
        count: latest.record.accepted.len() as u64,
        first_end: lacking.filter_map(|lost| holds.get(lost.path.as_str()).copied()).min(),
    }
}
