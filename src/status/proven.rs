//! What checks and drills have found last, as evidence in the repository says.
//!
//! What must stay true:
//! - Only evidence that is believed counts ([`Evidence::is_believed`]). What is not, and is newer than what is, is told.
//! - How long ago something was proven is judged by what came out well: a failure proves nothing.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use jiff::Timestamp;
use serde::Serialize;

use crate::error::Result;
use crate::format::evidence::{CheckEvidence, DrillEvidence, DrillResult, DrillTime, ReadEvidence, Says};
use crate::id::{EvidenceId, SessionId};
use crate::repository::Repository;
use crate::repository::evidence::Evidence;
use crate::repository::notes::Notes;
use crate::repository::objects::Unreadable;

/// Evidence that is read to find the last check and drills.
const READ_MAX: usize = 200;
/// Evidence that is read to tell what was: two a day for ten years.
const HISTORY_MAX: usize = 7300;

/// Where evidence comes from.
#[derive(Debug, Clone, Serialize)]
pub struct EvidenceStatus {
    /// Names it.
    pub id: EvidenceId,
    /// When it was found.
    pub at: Timestamp,
    /// How long ago that is: the earlier of its word and its arrival.
    pub age_seconds: i64,
    /// Label of the key that signed it.
    pub by: String,
}

/// A check.
#[derive(Debug, Clone, Serialize)]
pub struct CheckStatus {
    /// Where this is said.
    pub evidence: EvidenceStatus,
    /// Whether no damage was found.
    pub clean: bool,
    /// Problems.
    pub problems: u64,
    /// The first of them.
    pub first_problem: Option<String>,
    /// Which packs it read.
    pub read: ReadEvidence,
    /// How long it took.
    pub seconds: u64,
}

/// A drill.
#[derive(Debug, Clone, Serialize)]
pub struct DrillStatus {
    /// Where this is said.
    pub evidence: EvidenceStatus,
    /// What came of it.
    pub result: DrillResult,
    /// The snapshot that was restored.
    pub snapshot: SessionId,
    /// How long each part took.
    pub times: Vec<DrillTime>,
    /// What was not as the snapshot says.
    pub failures: u64,
    /// The first of that.
    pub first_failure: Option<String>,
    /// What could not be compared.
    pub exceptions: u64,
}

impl DrillStatus {
    /// Returns whether everything was as it should be, in time or not.
    pub fn is_good(&self) -> bool {
        self.result != DrillResult::Failed
    }

    /// Returns how long a restore of everything took, in seconds.
    pub fn whole_seconds(&self) -> Option<f64> {
        let whole = self.times.iter().find(|time| time.part == DrillTime::WHOLE)?;
        Some(whole.milliseconds as f64 / 1000.0)
    }
}

/// The last of a kind, and the last that came out well.
#[derive(Debug, Clone, Serialize)]
pub struct Last<T> {
    /// The newest.
    pub newest: Option<T>,
    /// The newest that found everything as it should be.
    pub good: Option<T>,
}

impl<T: Clone> Last<T> {
    /// Takes the last ones of what is sorted, newest first.
    fn of(found: &[T], is_good: fn(&T) -> bool) -> Self {
        Self { newest: found.first().cloned(), good: found.iter().find(|found| is_good(found)).cloned() }
    }
}

/// How much evidence is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Until the last good check is known, and the last good drill of each deployment.
    Last,
    /// Back to this time.
    Since(Timestamp),
}

/// What evidence says that is believed, newest first.
#[derive(Debug, Default)]
pub(super) struct Proven {
    /// Checks.
    pub checks: Vec<CheckStatus>,
    /// Drills of each deployment that is asked for.
    pub drills: BTreeMap<String, Vec<DrillStatus>>,
    /// What is not believed, and is newer than what is: the deployment of a drill, and what is to be said.
    pub doubted: Vec<(Option<String>, String)>,
    /// What could not be read.
    pub damaged: Unreadable,
}

impl Proven {
    /// Reads evidence of a repository and of these deployments.
    pub(super) fn read(
        (repository, notes): (&Repository, &Notes),
        deployments: &[String],
        depth: Depth,
        now: Timestamp,
    ) -> Result<Self> {
        let mut proven = Self::default();
        for deployment in deployments {
            proven.drills.insert(deployment.clone(), Vec::new());
        }
        let mut seen = 0;
        let read = repository.list_evidence(notes, |evidence| {
            let at = evidence.record.at;
            proven.take(evidence, now);
            seen += 1;
            let is_enough = match depth {
                Depth::Last => seen >= READ_MAX || proven.is_complete(),
                Depth::Since(since) => seen >= HISTORY_MAX || at < since && proven.is_complete(),
            };
            if is_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        proven.damaged = read.damaged;
        Ok(proven)
    }

    /// Returns the last checks.
    pub(super) fn last_check(&self) -> Last<CheckStatus> {
        Last::of(&self.checks, |check| check.clean)
    }

    /// Returns the last drills of a deployment.
    pub(super) fn last_drill(&self, deployment: &str) -> Last<DrillStatus> {
        Last::of(self.drills.get(deployment).map_or(&[], Vec::as_slice), DrillStatus::is_good)
    }

    fn is_complete(&self) -> bool {
        let is_known = |drills: &Vec<DrillStatus>| drills.iter().any(DrillStatus::is_good);
        self.checks.iter().any(|check| check.clean) && self.drills.values().all(is_known)
    }

    fn take(&mut self, evidence: Evidence, now: Timestamp) {
        if let Some(doubt) = evidence.doubt() {
            self.take_doubted(&evidence, doubt.text());
            return;
        }
        let Evidence { id, record, signer, arrived, .. } = evidence;
        let age_seconds = now.duration_since(record.at.min(arrived)).as_secs();
        let status = EvidenceStatus { id, at: record.at, age_seconds, by: signer.label };
        match record.says {
            Says::Check(check) => self.checks.push(check_status(status, &check)),
            Says::Drill(drill) => {
                // A deployment that nobody asks for has no entry.
                if let Some(drills) = self.drills.get_mut(&drill.deployment) {
                    drills.push(drill_status(status, *drill));
                }
            }
        }
    }

    fn take_doubted(&mut self, evidence: &Evidence, why: &str) {
        let (by, at) = (&evidence.signer.label, evidence.record.at.strftime("%F %T UTC"));
        match &evidence.record.says {
            Says::Check(_) if self.checks.is_empty() => {
                self.doubted.push((None, format!("A check of {at} by the key {by:?} proves nothing: {why}")));
            }
            Says::Drill(drill) if self.drills.get(&drill.deployment).is_some_and(Vec::is_empty) => {
                let message = format!("A drill of {at} by the key {by:?} proves nothing: {why}");
                self.doubted.push((Some(drill.deployment.clone()), message));
            }
            _ => {}
        }
    }
}

fn check_status(evidence: EvidenceStatus, check: &CheckEvidence) -> CheckStatus {
    CheckStatus {
        evidence,
        clean: check.clean,
        problems: check.problem_count,
        first_problem: check.problems.first().cloned(),
        read: check.read,
        seconds: check.seconds,
    }
}

fn drill_status(evidence: EvidenceStatus, drill: DrillEvidence) -> DrillStatus {
    DrillStatus {
        evidence,
        result: drill.result,
        snapshot: drill.snapshot.id,
        times: drill.times,
        failures: drill.failures.count,
        first_failure: drill.failures.first.into_iter().next(),
        exceptions: drill.exceptions.count,
    }
}
