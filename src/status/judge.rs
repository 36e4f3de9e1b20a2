//! Judges what was read: raises an alarm for each reason to look, once.
//!
//! What must stay true: an alarm says what is wrong, since when or by how much, and what it is measured by. None is raised by
//! what was accepted, or what nobody expects.

use crate::error::Result;
use crate::format::evidence::{DrillResult, DrillTime};
use crate::format::snapshot::SourceRecord;
use crate::repository::Repository;
use crate::status::alarm::{Alarm, AlarmKind};
use crate::status::proven::DrillStatus;
use crate::status::source::{Size, SnapshotStatus, SourceStatus};
use crate::status::{Read, StatusOptions};
use crate::units::{MIB, count, format_age, format_bytes, format_duration};

/// The share of what is usual, in percent, below which a snapshot is suspiciously small.
const SHRUNK_PERCENT: u64 = 50;
/// Sizes below these vary.
const SHRUNK_BYTES_MIN: u64 = MIB;
const SHRUNK_ROWS_MIN: u64 = 100;

/// What an alarm is about, and what is wrong.
type Raised = (AlarmKind, String);

/// Raises what concerns all of a repository.
pub(super) fn of_repository(repository: &Repository, read: &Read<'_>, options: &StatusOptions) -> Result<Vec<Alarm>> {
    let mut unreadable = read.list.unreadable();
    unreadable.extend(read.notes.damaged.clone());
    unreadable.extend(read.proven.damaged.clone());
    let mut raised: Vec<Raised> = unreadable.lines().into_iter().map(|line| (AlarmKind::Unreadable, line)).collect();
    raised.extend(repository.vanished(read.list)?.into_keys().map(|id| {
        (AlarmKind::Vanished, format!("The snapshot {} is gone, and no maintainer has forgotten it", id.short()))
    }));
    raised.extend(check_failed(read));
    raised.extend(check_overdue(read, options));
    let mut alarms: Vec<Alarm> =
        raised.into_iter().map(|(kind, message)| Alarm { kind, source: None, message }).collect();
    alarms.extend(read.proven.doubted.iter().map(|(deployment, message)| Alarm {
        kind: AlarmKind::EvidenceDoubted,
        source: deployment.clone().map(|name| SourceRecord::Deployment { name }.group()),
        message: message.clone(),
    }));
    Ok(alarms)
}

fn check_failed(read: &Read<'_>) -> Option<Raised> {
    let check = read.proven.checks.first().filter(|check| !check.clean)?;
    let first = check.first_problem.as_deref().unwrap_or("not named");
    let ago = format_age(check.evidence.age_seconds);
    Some((
        AlarmKind::CheckFailed,
        format!("A check {ago} ago found {}, the first: {first}", count(check.problems, "problem")),
    ))
}

/// A check is of a whole repository: the strictest of its deployments counts.
fn check_overdue(read: &Read<'_>, options: &StatusOptions) -> Option<Raised> {
    let limit = options.expected.iter().filter_map(|expected| expected.objectives.check()).min()?.as_secs();
    let message = match &read.proven.last_check().good {
        Some(check) if check.evidence.age_seconds <= limit => return None,
        Some(check) => format!("The last clean check on record is {} ago", format_age(check.evidence.age_seconds)),
        None => "No clean check is on record".to_owned(),
    };
    Some((AlarmKind::CheckOverdue, format!("{message}, and may be {} ago", format_age(limit))))
}

/// Raises what concerns a source.
pub(super) fn of_source(status: &SourceStatus, usual: Option<Size>) -> Vec<Alarm> {
    let mut raised = match (&status.latest, &status.last_good) {
        (None, _) => vec![(AlarmKind::NeverBackedUp, "It has no snapshot in this repository".to_owned())],
        (Some(latest), None) => vec![no_complete(status, latest)],
        (Some(latest), Some(good)) => {
            let all = [
                overdue(status, good),
                incomplete(status, latest, good),
                usual.and_then(|usual| shrunk(good, usual)),
                time_doubtful(good),
            ];
            all.into_iter().flatten().collect()
        }
    };
    raised.extend(drill_result(status));
    raised.extend(drill_overdue(status));
    let alarm = |(kind, message)| Alarm { kind, source: Some(status.source.clone()), message };
    raised.into_iter().map(alarm).collect()
}

fn no_complete(status: &SourceStatus, latest: &SnapshotStatus) -> Raised {
    let snapshots = count(status.snapshots, "snapshot");
    (AlarmKind::NoCompleteSnapshot, format!("It has {snapshots}, and no complete one; {}", what_was_wrong(latest)))
}

fn overdue(status: &SourceStatus, good: &SnapshotStatus) -> Option<Raised> {
    let limit = status.objectives.rpo_seconds.filter(|limit| good.age_seconds > *limit)?;
    let message = format!(
        "Its last good snapshot {} is {} old, and may be {} old",
        good.id.short(),
        format_age(good.age_seconds),
        format_age(limit)
    );
    Some((AlarmKind::Overdue, message))
}

fn incomplete(status: &SourceStatus, latest: &SnapshotStatus, good: &SnapshotStatus) -> Option<Raised> {
    let message = || {
        format!(
            "{} since the last good one {} ({} ago); {}",
            count(status.incomplete_in_a_row, "incomplete snapshot"),
            good.id.short(),
            format_age(good.age_seconds),
            what_was_wrong(latest)
        )
    };
    (!latest.is_complete).then(|| (AlarmKind::Incomplete, message()))
}

fn what_was_wrong(latest: &SnapshotStatus) -> String {
    let first = latest.first_problem.as_deref().unwrap_or("not named");
    format!("the latest, {}, had {}, the first: {first}", latest.id.short(), count(latest.problems, "problem"))
}

/// A deployment that was emptied by mistake has complete snapshots.
fn shrunk(good: &SnapshotStatus, usual: Size) -> Option<Raised> {
    let is_less = |now: u64, usual: u64| u128::from(now) * 100 < u128::from(usual) * u128::from(SHRUNK_PERCENT);
    let Size { bytes, rows, .. } = good.size;
    let (fewer_bytes, fewer_rows) = (
        usual.bytes >= SHRUNK_BYTES_MIN && is_less(bytes, usual.bytes),
        usual.rows >= SHRUNK_ROWS_MIN && is_less(rows, usual.rows),
    );
    let what = match (fewer_bytes, fewer_rows) {
        (false, false) => return None,
        (true, _) => format!("{}, and {} is usual", format_bytes(bytes), format_bytes(usual.bytes)),
        (false, true) => format!("{}, and {} is usual", count(rows, "row"), usual.rows),
    };
    Some((AlarmKind::Shrunk, format!("Its last good snapshot {} has {what}", good.id.short())))
}

fn time_doubtful(good: &SnapshotStatus) -> Option<Raised> {
    let message =
        || format!("The last good snapshot {} arrived long before or after the time that it tells", good.id.short());
    good.time_doubtful.then(|| (AlarmKind::TimeDoubtful, message()))
}

fn drill_result(status: &SourceStatus) -> Option<Raised> {
    let drill = status.drills.newest.as_ref()?;
    let ago = format_age(drill.evidence.age_seconds);
    match drill.result {
        DrillResult::Passed => None,
        DrillResult::Failed => {
            let first = drill.first_failure.as_deref().unwrap_or("not named");
            let message = format!("A drill {ago} ago failed with the snapshot {}: {first}", drill.snapshot.short());
            Some((AlarmKind::DrillFailed, message))
        }
        DrillResult::Late => Some((AlarmKind::DrillLate, format!("A drill {ago} ago took too long: {}", late(drill)))),
    }
}

fn late(drill: &DrillStatus) -> String {
    let said = |time: &DrillTime| {
        let (took, target) = (time.milliseconds as f64 / 1000.0, time.target_seconds.unwrap_or_default() as f64);
        format!("{} took {}, and may take {}", time.part, format_duration(took), format_duration(target))
    };
    drill.times.iter().filter(|time| time.is_late()).map(said).collect::<Vec<_>>().join("; ")
}

fn drill_overdue(status: &SourceStatus) -> Option<Raised> {
    let limit = status.objectives.drill_seconds?;
    let message = match &status.drills.good {
        Some(drill) if drill.evidence.age_seconds <= limit => return None,
        Some(drill) => format!("The last drill that did not fail is {} ago", format_age(drill.evidence.age_seconds)),
        None => "No drill that did not fail is on record".to_owned(),
    };
    Some((AlarmKind::DrillOverdue, format!("{message}, and may be {} ago", format_age(limit))))
}
