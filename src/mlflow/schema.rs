//! MLflow's database schema: which version it is, which columns hold locations, and which rows belong to what.
//!
//! What must stay true: the tables of [`TABLES`] come in the order of their foreign keys, so that rows inserted in this
//! order never refer to rows that are not there yet.

use serde::{Deserialize, Serialize};

use crate::mlflow::names::{STAGE_DELETED, table};
use crate::mlflow::releases::{RELEASES, REVISIONS};
use crate::sql::text_literal;

/// How two revisions of the schema stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The same.
    Same,
    /// The first is older.
    Older,
    /// The first is newer.
    Newer,
    /// One of them is not known to this version of mlvault.
    Unknown,
}

/// What is known of a release of MLflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// Its head revision, and whether a release before it has the same one, so that it need not migrate anything.
    Measured {
        /// The head.
        head: &'static str,
        /// Whether a release before it has the same.
        is_shared: bool,
    },
    /// It is newer than all that were measured.
    Newer,
    /// It is among those that were measured, or before them, and is none of them.
    Missing,
}

/// Returns what is known of a release; `None` if the text is not the number of any.
pub fn release(version: &str) -> Option<Release> {
    let number = release_number(version)?;
    if let Some(at) = RELEASES.iter().position(|(known, _)| *known == version) {
        let head = RELEASES[at].1;
        return Some(Release::Measured { head, is_shared: RELEASES[..at].iter().any(|(_, other)| *other == head) });
    }
    let newest = RELEASES.iter().filter_map(|(known, _)| release_number(known)).max();
    Some(if Some(number) > newest { Release::Newer } else { Release::Missing })
}

/// Reads `3.17.2`, and what pre-releases have behind it.
fn release_number(version: &str) -> Option<[u32; 3]> {
    let mut number = [0; 3];
    let mut parts = version.split('.');
    for (at, place) in number.iter_mut().enumerate() {
        let Some(part) = parts.next() else { return (at == 2).then_some(number) };
        let digits = part.find(|character: char| !character.is_ascii_digit()).unwrap_or(part.len());
        let is_last = at == 2 && (part[digits..].is_empty() || part[digits..].starts_with("rc"));
        *place = part[..digits].parse().ok().filter(|_| digits == part.len() || is_last)?;
    }
    parts.all(|part| part.starts_with("dev")).then_some(number)
}

/// Returns the place of a revision in time, if it is known.
fn age(revision: &str) -> Option<usize> {
    REVISIONS.iter().position(|known| *known == revision)
}

/// Compares two revisions of the tracking schema.
pub fn compare(first: &str, second: &str) -> Order {
    if first == second {
        return Order::Same;
    }
    match (age(first), age(second)) {
        (Some(first), Some(second)) if first < second => Order::Older,
        (Some(_), Some(_)) => Order::Newer,
        _ => Order::Unknown,
    }
}

/// Returns whether a revision is known.
pub fn is_known(revision: &str) -> bool {
    age(revision).is_some()
}

/// Returns the head revision that an MLflow release writes, if it was measured.
pub fn head_of_release(version: &str) -> Option<&'static str> {
    match release(version)? {
        Release::Measured { head, .. } => Some(head),
        Release::Newer | Release::Missing => None,
    }
}

/// Returns the oldest measured release that can open a database of this revision.
pub fn release_for(revision: &str) -> Option<&'static str> {
    let age_wanted = age(revision)?;
    RELEASES.iter().find(|(_, head)| age(head) >= Some(age_wanted)).map(|(release, _)| *release)
}

/// Which of a deployment's databases one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    /// Runs, models and all the rest.
    Backend,
    /// The model registry, where it has a database of its own.
    Registry,
    /// Users and permissions.
    Auth,
}

impl Store {
    /// Returns its name in file names and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Backend => "backend",
            Self::Registry => "registry",
            Self::Auth => "auth",
        }
    }

    /// Returns the name of its dump in the component `database`.
    pub fn file_name(self) -> String {
        format!("{}.sql", self.name())
    }

    /// Returns the table that holds its schema revision.
    pub fn version_table(self) -> &'static str {
        match self {
            Self::Auth => "alembic_version_auth",
            Self::Backend | Self::Registry => "alembic_version",
        }
    }
}

/// What refers to files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReferenceKind {
    /// A run.
    Run,
    /// A logged model.
    LoggedModel,
    /// A version of a registered model.
    ModelVersion,
    /// A trace.
    Trace,
}

impl ReferenceKind {
    /// Returns what users call it.
    pub fn words(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::LoggedModel => "logged model",
            Self::ModelVersion => "model version",
            Self::Trace => "trace",
        }
    }
}

/// The columns that hold artifact locations, with the most characters that PostgreSQL lets them hold. No other column is
/// ever rewritten: sources of data sets, texts of spans and the files of models keep what they say.
pub const LOCATION_COLUMNS: [(&str, &str, u32); 8] = [
    (table::EXPERIMENTS, "artifact_location", 256),
    (table::RUNS, "artifact_uri", 200),
    (table::LOGGED_MODELS, "artifact_location", 1000),
    (table::MODEL_VERSIONS, "source", 500),
    (table::MODEL_VERSIONS, "storage_location", 500),
    (table::TRACE_TAGS, "value", 8000),
    (table::WORKSPACES, "default_artifact_root", 500),
    (table::WORKSPACES, "trace_archival_location", 500),
];
/// The variable with the passphrase that secrets of the gateway are encrypted with.
pub const KEK_PASSPHRASE: &str = "MLFLOW_CRYPTO_KEK_PASSPHRASE";
/// What MLflow uses where that variable is not set: everybody knows it.
pub const KEK_PASSPHRASE_DEFAULT: &str = "mlflow-default-kek-passphrase-for-development-only";
/// The variable with the key that secrets of webhooks are encrypted with.
pub const WEBHOOK_KEY: &str = "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY";
/// Keys of trace tags whose value is a location.
pub const LOCATION_TRACE_TAGS: [&str; 2] = ["mlflow.artifactLocation", "mlflow.trace.archiveLocation"];

/// How the row that a reference comes from is found by SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowPlace {
    /// Whether it is in the model registry, which may have a database of its own.
    pub is_registry: bool,
    /// Its table.
    pub table: &'static str,
    /// What tells whether it is deleted.
    pub stage: &'static str,
    /// What it alone fulfils.
    pub condition: String,
}

/// Returns where the row of a reference is; `None` if the id is not one of its kind.
pub fn row_of(kind: ReferenceKind, id: &str) -> Option<RowPlace> {
    let place = |table, stage, condition| RowPlace { is_registry: false, table, stage, condition };
    let literal = text_literal(id);
    Some(match kind {
        ReferenceKind::Run => place(table::RUNS, "lifecycle_stage", format!("run_uuid = {literal}")),
        ReferenceKind::LoggedModel => place(table::LOGGED_MODELS, "lifecycle_stage", format!("model_id = {literal}")),
        ReferenceKind::Trace => place(table::TRACE_INFO, "'active'", format!("request_id = {literal}")),
        ReferenceKind::ModelVersion => {
            let (name, version) = id.rsplit_once('/')?;
            let version: i64 = version.parse().ok()?;
            let condition = format!("name = {} AND version = {version}", text_literal(name));
            RowPlace { is_registry: true, ..place(table::MODEL_VERSIONS, "current_stage", condition) }
        }
    })
}

/// What a row is found by when one experiment, run or model is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowOwner {
    /// An experiment's id.
    Experiment,
    /// A run's id.
    Run,
    /// A logged model's id.
    LoggedModel,
    /// A registered model's name.
    RegisteredModel,
    /// A version of a registered model: name and version.
    Version,
    /// A trace's id.
    Trace,
    /// A data set's id.
    Dataset,
    /// The id of an input: a link between a run and a data set or model.
    Input,
    /// A run's or trace's id, in a link to others.
    Association,
}

/// A table and how its rows are found.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// What owns a row.
    pub owner: RowOwner,
    /// The columns that name the owner.
    pub columns: &'static [&'static str],
}

impl Table {
    /// Returns SQL that holds for a row `t` that MLflow leaves of one that it deleted: nobody sees it, and it lacks what the
    /// row had.
    pub fn remnant(&self) -> Option<String> {
        let condition = || format!("coalesce(t.current_stage, '') = {}", text_literal(STAGE_DELETED));
        (self.name == table::MODEL_VERSIONS).then(condition)
    }
}

const fn owned(name: &'static str, owner: RowOwner, columns: &'static [&'static str]) -> Table {
    Table { name, owner, columns }
}

/// The tables from which single experiments, runs and models are restored, in the order of their foreign keys.
pub const TABLES: [Table; 27] = [
    owned(table::EXPERIMENTS, RowOwner::Experiment, &["experiment_id"]),
    owned(table::EXPERIMENT_TAGS, RowOwner::Experiment, &["experiment_id"]),
    owned(table::RUNS, RowOwner::Run, &["run_uuid"]),
    owned(table::PARAMS, RowOwner::Run, &["run_uuid"]),
    owned(table::TAGS, RowOwner::Run, &["run_uuid"]),
    owned(table::METRICS, RowOwner::Run, &["run_uuid"]),
    owned(table::LATEST_METRICS, RowOwner::Run, &["run_uuid"]),
    owned(table::DATASETS, RowOwner::Dataset, &["dataset_uuid"]),
    owned(table::INPUTS, RowOwner::Input, &["input_uuid"]),
    owned(table::INPUT_TAGS, RowOwner::Input, &["input_uuid"]),
    owned(table::LOGGED_MODELS, RowOwner::LoggedModel, &["model_id"]),
    owned(table::LOGGED_MODEL_PARAMS, RowOwner::LoggedModel, &["model_id"]),
    owned(table::LOGGED_MODEL_TAGS, RowOwner::LoggedModel, &["model_id"]),
    owned(table::LOGGED_MODEL_METRICS, RowOwner::LoggedModel, &["model_id"]),
    owned(table::REGISTERED_MODELS, RowOwner::RegisteredModel, &["name"]),
    owned(table::REGISTERED_MODEL_TAGS, RowOwner::RegisteredModel, &["name"]),
    owned(table::MODEL_VERSIONS, RowOwner::Version, &["name", "version"]),
    owned(table::MODEL_VERSION_TAGS, RowOwner::Version, &["name", "version"]),
    owned(table::REGISTERED_MODEL_ALIASES, RowOwner::Version, &["name", "version"]),
    owned(table::TRACE_INFO, RowOwner::Trace, &["request_id"]),
    owned(table::TRACE_TAGS, RowOwner::Trace, &["request_id"]),
    owned(table::TRACE_REQUEST_METADATA, RowOwner::Trace, &["request_id"]),
    owned(table::TRACE_METRICS, RowOwner::Trace, &["request_id"]),
    owned(table::SPANS, RowOwner::Trace, &["trace_id"]),
    owned(table::SPAN_METRICS, RowOwner::Trace, &["trace_id"]),
    owned(table::ASSESSMENTS, RowOwner::Trace, &["trace_id"]),
    owned(table::ENTITY_ASSOCIATIONS, RowOwner::Association, &["source_id"]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_are_ordered_and_unknown_ones_are_not_guessed() {
        assert_eq!(compare("97727af70f4d", "dc11669786a5"), Order::Older);
        assert_eq!(compare("f4a9b2c7d1e6", "dc11669786a5"), Order::Newer);
        assert_eq!(compare("dc11669786a5", "dc11669786a5"), Order::Same);
        assert_eq!(compare("ffffffffffff", "dc11669786a5"), Order::Unknown);
        assert_eq!(release_for("cbc13b556ace"), Some("3.2.0"));
        assert_eq!(release_for("f4a9b2c7d1e6"), Some("3.18.0"));
    }

    #[test]
    fn rows_are_found_whatever_their_ids_are_made_of() {
        let version = row_of(ReferenceKind::ModelVersion, "o'brien/x/7").unwrap();
        assert!(version.is_registry);
        assert_eq!(version.condition, "name = 'o''brien/x' AND version = 7");
        assert_eq!(row_of(ReferenceKind::Run, "a'b").unwrap().condition, "run_uuid = 'a''b'");
        assert_eq!(row_of(ReferenceKind::ModelVersion, "x/latest"), None);
    }

    #[test]
    fn every_release_has_a_known_revision_and_newer_ones_come_later() {
        assert!(RELEASES.iter().all(|(_, head)| is_known(head)));
        assert!(RELEASES.len() > 90);
        assert!(RELEASES.is_sorted_by_key(|(release, _)| release_number(release).unwrap()));
        // Not always with a newer schema: 3.0.1 came after 3.1.0, and has a revision that 3.1.0 lacks.
        assert_eq!(compare(head_of_release("3.1.0").unwrap(), head_of_release("3.0.1").unwrap()), Order::Older);
    }

    #[test]
    fn releases_are_told_from_nonsense() {
        let measured = |head, is_shared| Some(Release::Measured { head, is_shared });
        assert_eq!(release("3.17.0"), measured("dc11669786a5", false));
        assert_eq!(release("3.17.2"), measured("dc11669786a5", true));
        assert_eq!(release("99.0.0"), Some(Release::Newer));
        assert_eq!(release("99.1"), Some(Release::Newer));
        assert_eq!(release("3.17.99"), Some(Release::Missing));
        assert_eq!(release("2.0.0rc0"), Some(Release::Missing));
        for nonsense in ["", "3", "latest", "3.17.x", "v3.17.2", "3.17.2.1", "3.17.2-1", "3,17", "4294967296.0.0"] {
            assert_eq!(release(nonsense), None, "{nonsense}");
        }
    }
}
