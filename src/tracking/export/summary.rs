//! What an export holds, and what it does not.
//!
//! What must stay true: everything that is known to be missing is named, with a reason.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::error::{Error, Fault, Result};
use crate::tracking::list::Difference;

/// Something that the REST API never gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// What.
    pub what: &'static str,
    /// Why.
    pub reason: &'static str,
}

/// What no export holds, whatever the server.
pub const LIMITS: [Limit; 9] = [
    Limit { what: "artifacts", reason: "they are files, and a component of their own in a snapshot" },
    Limit {
        what: "deleted logged models, model versions and webhooks; scorers and reviews of deleted experiments",
        reason: "searches leave them out, though the database keeps them",
    },
    Limit { what: "when a run was deleted", reason: "no answer has it" },
    Limit { what: "secrets of gateway and webhooks", reason: "they are masked" },
    Limit { what: "password hashes", reason: "users are listed without them" },
    Limit { what: "label schemas", reason: "listing them creates one" },
    Limit { what: "versions of MCP servers, gateway bindings, jobs, rollups", reason: "they are not asked for" },
    Limit { what: "where mlflow-artifacts:/ is", reason: "it is an argument of the server" },
    Limit { what: "what the user may not read", reason: "searches leave it out without a word" },
];

/// Something that was asked for and not given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotExported {
    /// What.
    pub what: String,
    /// Why.
    pub reason: String,
}

/// A list that changed while it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skew {
    /// Which list.
    pub list: String,
    /// Items that only a later pass found; they are in the export.
    pub found_later: u64,
    /// Items that were gone in the last pass; they are in the export, as they were.
    pub vanished: u64,
    /// Whether it was read until nothing more went away. If not, items may be missing.
    pub is_settled: bool,
}

/// The result of an export.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ExportSummary {
    /// Version of the server.
    pub mlflow_version: String,
    /// How many of each kind are in the files.
    pub counts: BTreeMap<&'static str, u64>,
    /// What this server, or this user's rights, do not offer.
    pub not_exported: Vec<NotExported>,
    /// What the server failed to tell.
    pub failed: Vec<NotExported>,
    /// Lists that changed while they were read.
    pub skewed: Vec<Skew>,
    /// What no export holds.
    pub limits: Vec<Limit>,
}

impl ExportSummary {
    /// Begins a summary.
    pub(super) fn new(mlflow_version: String) -> Self {
        Self { mlflow_version, limits: LIMITS.to_vec(), ..Self::default() }
    }

    /// Returns whether all that the server offers is in the files.
    pub fn is_complete(&self) -> bool {
        self.failed.is_empty() && self.skewed.iter().all(|skew| skew.is_settled)
    }

    pub(super) fn count(&mut self, kind: &'static str, amount: u64) {
        *self.counts.entry(kind).or_default() += amount;
    }

    pub(super) fn note_difference(&mut self, list: &str, difference: Difference) {
        let Difference { found_later, vanished, is_settled } = difference;
        if found_later > 0 || vanished > 0 || !is_settled {
            self.skewed.push(Skew { list: list.to_owned(), found_later, vanished, is_settled });
        }
    }

    /// Notes that something could not be read; an error if that ends the export.
    pub(super) fn pass_over(&mut self, what: &str, error: Error) -> Result<()> {
        let list = match error.fault() {
            Some(Fault::Unsupported | Fault::Denied) => &mut self.not_exported,
            Some(Fault::NotFound | Fault::Other) => &mut self.failed,
            _ => return Err(error),
        };
        list.push(NotExported { what: what.to_owned(), reason: error.to_string() });
        Ok(())
    }
}
