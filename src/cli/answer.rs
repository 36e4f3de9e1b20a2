//! What a command answers from: which snapshot, of what, how old, and how whole it is.
//!
//! What must stay true: whatever was found by a name is said with the answer, on every way out, and what speaks against it is
//! told even to who wants to hear little.

use jiff::Timestamp;
use serde::Serialize;

use mlvault::format::snapshot::SourceRecord;
use mlvault::id::SessionId;
use mlvault::repository::naming::Found;
use mlvault::repository::snapshots::Snapshot;
use mlvault::units::{count, format_age};

use crate::cli::outcome::Text;
use crate::cli::output;
use crate::cli::progress::printable;

/// A snapshot that was asked for.
pub struct Answer {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// What is to be said of it.
    pub about: About,
}

/// What is said of a snapshot that was asked for.
#[derive(Debug, Clone, Serialize)]
pub struct About {
    /// Its id.
    pub snapshot: SessionId,
    /// What it is of, as in the column SOURCE.
    pub source: String,
    /// The MLflow deployment that it is of.
    pub deployment: Option<String>,
    /// When it was made.
    pub made: Timestamp,
    /// How long ago that is, in seconds.
    pub age_seconds: i64,
    /// How long before the moment that was asked for that is, in seconds.
    pub before_asked_seconds: Option<i64>,
    /// Whether everything is in it that was to be.
    pub is_complete: bool,
    /// Problems that its backup had.
    pub problems: u64,
    /// If a rewrite took something out of it: the snapshot that it was made from.
    pub rewritten_from: Option<SessionId>,
    /// If it is incomplete: the complete one of the same source that is the closest, the one before it if there is one.
    pub last_complete: Option<SessionId>,
    /// Losses that were accepted when it was made.
    pub accepted: u64,
    #[serde(skip)]
    warnings: Vec<String>,
}

impl About {
    /// Describes what was found.
    pub fn new(found: &Found, now: Timestamp) -> Self {
        let Found { snapshot, moment, complete, .. } = found;
        let record = &snapshot.record;
        let deployment = match &record.source {
            SourceRecord::Deployment { name } => Some(name.clone()),
            _ => None,
        };
        Self {
            snapshot: snapshot.id,
            source: record.source.group(),
            deployment,
            made: snapshot.made(),
            age_seconds: now.duration_since(snapshot.made()).as_secs(),
            before_asked_seconds: moment.map(|moment| moment.duration_since(snapshot.made()).as_secs().max(0)),
            is_complete: !snapshot.is_incomplete(),
            problems: record.problem_count,
            rewritten_from: record.rewritten_from.as_ref().map(|from| from.snapshot),
            last_complete: complete.as_ref().map(|complete| complete.id),
            accepted: record.accepted.len() as u64,
            warnings: incomplete_warning(snapshot, complete.as_ref())
                .into_iter()
                .chain(accepted_warning(snapshot))
                .chain(rewrite_warning(snapshot))
                .collect(),
        }
    }

    /// Says all of it in a line.
    pub fn line(&self) -> String {
        let state = match (self.is_complete, self.accepted) {
            (true, 0) => "complete",
            (true, _) => "complete but for accepted losses",
            (false, _) => "INCOMPLETE",
        };
        let rewritten = if self.rewritten_from.is_some() { ", rewritten" } else { "" };
        let gap = self.before_asked_seconds.filter(|seconds| *seconds > 0);
        let gap =
            gap.map_or_else(String::new, |seconds| format!(", {} before what was asked for", format_age(seconds)));
        format!(
            "Snapshot {} of {}, made {} ({} ago{gap}), {state}{rewritten}",
            self.snapshot.short(),
            printable(&self.source),
            output::format_time(&self.made),
            format_age(self.age_seconds),
        )
    }

    /// Puts it over an answer.
    pub fn over(&self, answer: impl Into<Text>) -> Text {
        let mut text = Text::from(self.line());
        text.extend(answer.into());
        text
    }

    /// Returns what speaks against it.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

fn accepted_warning(snapshot: &Snapshot) -> Option<String> {
    let first = snapshot.record.accepted.first()?;
    Some(format!(
        "The snapshot {} lacks what was accepted as lost: {}, of which the first is {} ({}), accepted by {}: {}",
        snapshot.id.short(),
        count(snapshot.record.accepted.len() as u64, "problem"),
        first.path,
        first.message,
        first.by,
        first.reason
    ))
}

/// What a rewrite took out is missing on purpose, and missing all the same.
fn rewrite_warning(snapshot: &Snapshot) -> Option<String> {
    let from = snapshot.record.rewritten_from.as_ref()?;
    let patterns: Vec<String> = from.excludes.iter().chain(&from.excludes_any_case).map(|it| printable(it)).collect();
    let before = if from.before.is_some() { ", after others before" } else { "" };
    Some(format!(
        "A rewrite took {} that matched {} out of the snapshot {} on {}{before}; it was {} then",
        count(from.entries, "entry"),
        patterns.join(", "),
        snapshot.id.short(),
        output::format_time(&from.at),
        from.snapshot.short(),
    ))
}

fn incomplete_warning(snapshot: &Snapshot, complete: Option<&Snapshot>) -> Option<String> {
    if !snapshot.is_incomplete() {
        return None;
    }
    let instead = match complete {
        None => "there is no complete one of this source".to_owned(),
        Some(complete) => {
            let order =
                if complete.order() < snapshot.order() { "last complete one before it" } else { "next complete one" };
            format!("the {order} is {} of {}", complete.id.short(), output::format_time(&complete.made()))
        }
    };
    Some(format!(
        "The snapshot {} is incomplete: its backup had {}; {instead}",
        snapshot.id.short(),
        count(snapshot.record.problem_count, "problem")
    ))
}
