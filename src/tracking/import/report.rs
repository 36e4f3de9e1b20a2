//! What an import did: the new ids, and how what is there now differs from what was.
//!
//! What must stay true: nothing that was lost or changed goes unsaid.

use std::collections::BTreeMap;

use serde::Serialize;

/// Something that was brought back otherwise, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// What.
    pub what: String,
    /// Why, or how it differs.
    pub why: String,
}

/// What every import changes, whatever the server.
pub const LOSSES: [(&str, &str); 9] = [
    ("ids of experiments, runs and logged models", "the server gives new ones; tags hold those that they had"),
    ("times of creation and change of experiments, models and versions", "the server sets them"),
    ("when runs were deleted", "the server sets it"),
    ("artifact URIs", "the server chooses them"),
    ("ids inside of files such as MLmodel, and in tags of MLflow", "they are left as they are"),
    ("deleted versions", "their numbers stay unused, as they were"),
    ("traces, evaluation data sets, scorers, review queues, issues", "they are not imported"),
    ("webhooks, gateway, users, roles, workspaces", "they are not imported: their secrets are not known"),
    ("names of artifacts with % and two hexadecimal digits", "MLflow decodes them once more"),
];

/// New ids by those that things had.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct IdMap {
    /// Experiments.
    pub experiments: BTreeMap<String, String>,
    /// Runs.
    pub runs: BTreeMap<String, String>,
    /// Logged models.
    pub logged_models: BTreeMap<String, String>,
    /// Versions, as `name/number`.
    pub versions: BTreeMap<String, String>,
}

/// Files that this server does not take; they have to be copied to where they belong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CopyNeeded {
    /// Whose files.
    pub owner: super::Owner,
    /// The URI below which they belong.
    pub to: String,
}

/// The result of an import.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ImportReport {
    /// New ids of everything that is there now, also of what an earlier import made.
    pub ids: IdMap,
    /// How many of each kind this import made.
    pub created: BTreeMap<&'static str, u64>,
    /// How many of each kind were there from an earlier import.
    pub already_there: BTreeMap<&'static str, u64>,
    /// How many files were sent.
    pub files: u64,
    /// What is different from what it was.
    pub changed: Vec<Note>,
    /// What the server refused, or what is missing.
    pub left_out: Vec<Note>,
    /// Files that have to be copied by other means.
    pub copies_needed: Vec<CopyNeeded>,
    /// What every import changes.
    pub losses: Vec<(&'static str, &'static str)>,
}

impl ImportReport {
    pub(super) fn created(&mut self, kind: &'static str) {
        *self.created.entry(kind).or_default() += 1;
    }

    pub(super) fn already_there(&mut self, kind: &'static str) {
        *self.already_there.entry(kind).or_default() += 1;
    }

    pub(super) fn changed(&mut self, what: impl Into<String>, how: impl Into<String>) {
        self.changed.push(Note { what: what.into(), why: how.into() });
    }

    pub(super) fn left_out(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.left_out.push(Note { what: what.into(), why: why.into() });
    }
}
