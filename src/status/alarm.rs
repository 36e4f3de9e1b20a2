//! Alarms: why somebody should look, with a name that programs know it by.
//!
//! What must stay true: names are stable, as people's alerts rest on them (`deploy/prometheus/`, docs/cli.md).

use serde::Serialize;

/// What an alarm is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AlarmKind {
    /// A deployment of the configuration has no snapshot.
    NeverBackedUp,
    /// A source has snapshots, and no complete one.
    NoCompleteSnapshot,
    /// The last good snapshot is older than it may be.
    Overdue,
    /// The latest snapshot is incomplete.
    Incomplete,
    /// The last good snapshot has far less in it than those before.
    Shrunk,
    /// The time of the last good snapshot is in doubt.
    TimeDoubtful,
    /// The last check on record found damage.
    CheckFailed,
    /// The last clean check on record is longer ago than it may be.
    CheckOverdue,
    /// The last drill failed.
    DrillFailed,
    /// The last drill took longer than a restore may.
    DrillLate,
    /// The last drill that did not fail is longer ago than it may be.
    DrillOverdue,
    /// A check or drill is on record that proves nothing.
    EvidenceDoubted,
    /// Something in the repository cannot be read.
    Unreadable,
    /// Snapshots were deleted past mlvault.
    Vanished,
}

impl AlarmKind {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::NeverBackedUp,
        Self::NoCompleteSnapshot,
        Self::Overdue,
        Self::Incomplete,
        Self::Shrunk,
        Self::TimeDoubtful,
        Self::CheckFailed,
        Self::CheckOverdue,
        Self::DrillFailed,
        Self::DrillLate,
        Self::DrillOverdue,
        Self::EvidenceDoubted,
        Self::Unreadable,
        Self::Vanished,
    ];

    /// Returns the name by which programs know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::NeverBackedUp => "never_backed_up",
            Self::NoCompleteSnapshot => "no_complete_snapshot",
            Self::Overdue => "overdue",
            Self::Incomplete => "incomplete",
            Self::Shrunk => "shrunk",
            Self::TimeDoubtful => "time_doubtful",
            Self::CheckFailed => "check_failed",
            Self::CheckOverdue => "check_overdue",
            Self::DrillFailed => "drill_failed",
            Self::DrillLate => "drill_late",
            Self::DrillOverdue => "drill_overdue",
            Self::EvidenceDoubted => "evidence_doubted",
            Self::Unreadable => "unreadable",
            Self::Vanished => "vanished",
        }
    }
}

/// A reason to look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alarm {
    /// What it is about.
    pub kind: AlarmKind,
    /// The source, unless it is about the repository.
    pub source: Option<String>,
    /// What is wrong.
    pub message: String,
}
