//! How it stands: whether each deployment has a good snapshot that is young enough, and what else somebody should look at.
//!
//! What must stay true:
//! - Everything is read from the repository itself, at the moment of asking, by the clock of the place: nothing that a job says
//!   of itself counts, and a job that did not run is seen by what is not there.
//! - A deployment of the configuration that has no snapshot at all is the first thing to be said.
//! - The age of a snapshot is that of what is in it: since it was begun, or arrived if that was earlier. Nobody makes one
//!   younger by dating it in the future.
//! - Silence is no good news: what could not be read is an alarm.

mod alarm;
mod history;
mod judge;
pub mod metrics;
mod proven;
pub mod push;
pub mod report;
mod source;

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

pub use crate::status::alarm::{Alarm, AlarmKind};
pub use crate::status::history::History;
pub use crate::status::proven::{CheckStatus, DrillStatus, EvidenceStatus, Last};
pub use crate::status::source::{AcceptedLosses, Growth, ObjectivesStatus, SnapshotStatus, SourceStatus};

use crate::error::Result;
use crate::format::snapshot::SourceRecord;
use crate::hears::Hears;
use crate::id::RepositoryId;
use crate::objectives::Objectives;
use crate::repository::naming::Scope;
use crate::repository::notes::Notes;
use crate::repository::snapshots::{Snapshot, SnapshotList};
use crate::repository::{Repository, layout};
use crate::retention::policy::Policy;
use crate::status::proven::{Depth, Proven};

/// What is known of a deployment from elsewhere.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Its name.
    pub deployment: String,
    /// What is expected of its backups.
    pub objectives: Objectives,
    /// Its policy and what that is called.
    pub policy: Option<(String, Policy)>,
}

/// What to look at, and by what to judge.
#[derive(Debug, Clone)]
pub struct StatusOptions {
    /// Sources.
    pub scope: Scope,
    /// Deployments that are backed up, or should be.
    pub expected: Vec<Expected>,
    /// How old the last good snapshot of any source may be, whatever else is said.
    pub age_max: Option<SignedDuration>,
    /// Where days begin, for policies.
    pub zone: TimeZone,
}

/// How a repository stands.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Its id.
    pub repository: RepositoryId,
    /// Where it is.
    pub location: String,
    /// When this was looked at, by the clock of the place.
    pub at: Timestamp,
    /// How many seconds the clock of this machine is ahead, if it is off.
    pub clock_off_seconds: Option<i64>,
    /// What is stored.
    pub stored: Stored,
    /// The last checks that are on record.
    pub checks: Last<CheckStatus>,
    /// Each source, deployments of the configuration first.
    pub sources: Vec<SourceStatus>,
    /// Why somebody should look, of the repository and of every source.
    pub alarms: Vec<Alarm>,
}

/// What packs take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Stored {
    /// How many there are.
    pub packs: u64,
    /// Their bytes.
    pub pack_bytes: u64,
}

impl Status {
    /// Returns whether nobody needs to look.
    pub fn is_well(&self) -> bool {
        self.alarms.is_empty()
    }
}

/// What everything is derived from, read once.
struct Read<'a> {
    list: &'a SnapshotList,
    notes: &'a Notes,
    proven: &'a Proven,
    now: Timestamp,
}

/// Looks at a repository. Costs a request for each snapshot and note, and a few listings; reads no tree and no content.
///
/// Fails where the backend does. What cannot be read in it is an alarm.
pub fn look(repository: &Repository, options: &StatusOptions, hears: &Hears) -> Result<Status> {
    look_to(repository, options, None, hears).map(|(status, _)| status)
}

/// Looks at a repository as [`look`] does, and so far back. That costs a request for each check and drill since.
pub fn look_back(
    repository: &Repository,
    options: &StatusOptions,
    span: SignedDuration,
    hears: &Hears,
) -> Result<(Status, History)> {
    look_to(repository, options, Some(span), hears)
}

fn look_to(
    repository: &Repository,
    options: &StatusOptions,
    span: Option<SignedDuration>,
    hears: &Hears,
) -> Result<(Status, History)> {
    hears.monitor.phase("status", None, None);
    repository.confirm_there()?;
    let (list, notes) = (repository.list_snapshots()?, repository.list_notes()?);
    hears.check()?;
    let now = repository.now_there()?;
    let since = span.map_or(now, |span| now.saturating_sub(span).unwrap_or(Timestamp::MIN));
    let depth = if span.is_some() { Depth::Since(since) } else { Depth::Last };
    let groups = groups(&list, options);
    let deployments = deployments(&groups);
    let proven = Proven::read((repository, &notes), &deployments, depth, now)?;
    let read = Read { list: &list, notes: &notes, proven: &proven, now };
    let history = History::new(&read, &groups, since);
    let sources = sources(&read, options, &groups);
    let mut alarms = judge::of_repository(repository, &read, options)?;
    alarms.extend(sources.iter().flat_map(|source| source.alarms.iter().cloned()));
    let status = Status {
        repository: repository.id(),
        location: repository.backend().location(),
        at: now,
        clock_off_seconds: repository.tell_clock_off(hears),
        stored: stored(repository)?,
        checks: proven.last_check(),
        sources,
        alarms,
    };
    Ok((status, history))
}

fn stored(repository: &Repository) -> Result<Stored> {
    let packs = repository.backend().list(layout::PACKS)?;
    Ok(Stored { packs: packs.len() as u64, pack_bytes: packs.iter().map(|pack| pack.size).sum() })
}

/// The snapshots of each source that is looked at.
type Groups<'a> = BTreeMap<String, (SourceRecord, Vec<&'a Snapshot>)>;

fn groups<'a>(list: &'a SnapshotList, options: &StatusOptions) -> Groups<'a> {
    let mut groups = Groups::new();
    let empty = |source: &SourceRecord| (source.clone(), Vec::new());
    for expected in &options.expected {
        let source = SourceRecord::Deployment { name: expected.deployment.clone() };
        groups.entry(source.group()).or_insert_with(|| empty(&source));
    }
    for snapshot in &list.snapshots {
        let source = &snapshot.record.source;
        groups.entry(source.group()).or_insert_with(|| empty(source)).1.push(snapshot);
    }
    groups.retain(|_, (source, _)| options.scope.has(source));
    groups
}

fn deployments(groups: &Groups<'_>) -> Vec<String> {
    let name = |(source, _): &(SourceRecord, Vec<&Snapshot>)| match source {
        SourceRecord::Deployment { name } => Some(name.clone()),
        _ => None,
    };
    groups.values().filter_map(name).collect()
}

fn sources(read: &Read<'_>, options: &StatusOptions, groups: &Groups<'_>) -> Vec<SourceStatus> {
    let status = |(source, snapshots): &(SourceRecord, Vec<&Snapshot>)| {
        let mut status = source::status(read, options, source, snapshots);
        status.alarms = judge::of_source(&status, source::usual_size(snapshots));
        status
    };
    let mut sources: Vec<SourceStatus> = groups.values().map(status).collect();
    sources.sort_by_key(|source| !source.is_configured);
    sources
}
