//! The catalogue: what a snapshot's databases said of experiments, runs and models, as JSON lines.
//!
//! It is what makes a snapshot readable for years without PostgreSQL and MLflow: each [`TableSpec`] becomes one file of
//! the component [`crate::format::snapshot::CATALOGUE`], one line a row, sorted by its keys, so that unchanged rows deduplicate.
//!
//! What must stay true: a column that this version of MLflow does not have is left out, never invented; a value that is
//! not of its expected type is kept as the text that it is.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value as Json};

use crate::error::{Error, Result};
use crate::mlflow::names::{DELETED, STAGE_DELETED, file, table};
use crate::mlflow::schema::{ReferenceKind, Store};
use crate::mlflow::uri;
use crate::sql::Value;

/// File of the component that holds what the references of the databases lead to, as [`Reference`]s.
pub const REFERENCES: &str = "references";
/// File of the component that lists artifacts that no row refers to, as [`Orphan`]s.
pub const ORPHANS: &str = "orphans";
/// File of the component that holds row counts and digests, as [`StoredTable`]s.
pub const TABLES: &str = "tables";

/// Files that a reference names of those that it lacks.
pub const FILES_NAMED_MAX: usize = 100;

/// What a column's text is in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    /// A string.
    Text,
    /// A number without a fraction.
    Integer,
    /// A number; what JSON has no number for (NaN, infinities) is a string.
    Real,
}

/// A column of the catalogue.
#[derive(Debug, Clone, Copy)]
pub struct ColumnSpec {
    /// The column in the database.
    pub column: &'static str,
    /// The field of the JSON object.
    pub field: &'static str,
    /// Its type.
    pub kind: ColumnKind,
}

const fn text(column: &'static str, field: &'static str) -> ColumnSpec {
    ColumnSpec { column, field, kind: ColumnKind::Text }
}

const fn integer(column: &'static str, field: &'static str) -> ColumnSpec {
    ColumnSpec { column, field, kind: ColumnKind::Integer }
}

const fn real(column: &'static str, field: &'static str) -> ColumnSpec {
    ColumnSpec { column, field, kind: ColumnKind::Real }
}

/// A file of the catalogue and the table that it is made from.
#[derive(Debug, Clone, Copy)]
pub struct TableSpec {
    /// Name of the file, without `.jsonl`.
    pub file: &'static str,
    /// The table.
    pub table: &'static str,
    /// Whether it belongs to the model registry, which may have a database of its own.
    pub is_registry: bool,
    /// What is taken from it.
    pub columns: &'static [ColumnSpec],
    /// The columns by which rows are sorted.
    pub order: &'static [&'static str],
}

/// Returns the name of a file of the catalogue.
pub fn file_name(file: &str) -> String {
    format!("{file}.jsonl")
}

/// Makes a line of a file of the catalogue.
pub fn json_line(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value).map_err(|error| Error::Internal(error.to_string()))?;
    line.push(b'\n');
    Ok(line)
}

/// All of the catalogue that comes from tables.
pub const SPECS: [TableSpec; 21] = [
    TableSpec {
        file: file::EXPERIMENTS,
        table: table::EXPERIMENTS,
        is_registry: false,
        columns: &[
            text("experiment_id", "experiment_id"),
            text("name", "name"),
            text("artifact_location", "artifact_location"),
            text("lifecycle_stage", "lifecycle_stage"),
            integer("creation_time", "creation_time"),
            integer("last_update_time", "last_update_time"),
            text("workspace", "workspace"),
        ],
        order: &["experiment_id"],
    },
    TableSpec {
        file: file::EXPERIMENT_TAGS,
        table: table::EXPERIMENT_TAGS,
        is_registry: false,
        columns: &[text("experiment_id", "experiment_id"), text("key", "key"), text("value", "value")],
        order: &["experiment_id", "key"],
    },
    TableSpec {
        file: file::RUNS,
        table: table::RUNS,
        is_registry: false,
        columns: &[
            text("run_uuid", "run_id"),
            text("experiment_id", "experiment_id"),
            text("name", "name"),
            text("user_id", "user_id"),
            text("status", "status"),
            text("lifecycle_stage", "lifecycle_stage"),
            integer("start_time", "start_time"),
            integer("end_time", "end_time"),
            integer("deleted_time", "deleted_time"),
            text("artifact_uri", "artifact_uri"),
        ],
        order: &["run_uuid"],
    },
    TableSpec {
        file: file::PARAMS,
        table: table::PARAMS,
        is_registry: false,
        columns: &[text("run_uuid", "run_id"), text("key", "key"), text("value", "value")],
        order: &["run_uuid", "key"],
    },
    TableSpec {
        file: file::METRICS,
        table: table::LATEST_METRICS,
        is_registry: false,
        columns: &[
            text("run_uuid", "run_id"),
            text("key", "key"),
            real("value", "value"),
            integer("timestamp", "timestamp"),
            integer("step", "step"),
            text("is_nan", "is_nan"),
        ],
        order: &["run_uuid", "key"],
    },
    TableSpec {
        file: file::RUN_TAGS,
        table: table::TAGS,
        is_registry: false,
        columns: &[text("run_uuid", "run_id"), text("key", "key"), text("value", "value")],
        order: &["run_uuid", "key"],
    },
    TableSpec {
        file: file::DATASETS,
        table: table::DATASETS,
        is_registry: false,
        columns: &[
            text("dataset_uuid", "dataset_id"),
            text("experiment_id", "experiment_id"),
            text("name", "name"),
            text("digest", "digest"),
            text("dataset_source_type", "source_type"),
            text("dataset_source", "source"),
        ],
        order: &["dataset_uuid"],
    },
    TableSpec {
        file: file::INPUTS,
        table: table::INPUTS,
        is_registry: false,
        columns: &[
            text("input_uuid", "input_id"),
            text("source_type", "source_type"),
            text("source_id", "source_id"),
            text("destination_type", "destination_type"),
            text("destination_id", "destination_id"),
            integer("step", "step"),
        ],
        order: &["destination_id", "input_uuid"],
    },
    TableSpec {
        file: file::LOGGED_MODELS,
        table: table::LOGGED_MODELS,
        is_registry: false,
        columns: &[
            text("model_id", "model_id"),
            text("experiment_id", "experiment_id"),
            text("name", "name"),
            text("model_type", "model_type"),
            text("source_run_id", "source_run_id"),
            integer("status", "status"),
            text("lifecycle_stage", "lifecycle_stage"),
            integer("creation_timestamp_ms", "creation_time"),
            integer("last_updated_timestamp_ms", "last_update_time"),
            text("artifact_location", "artifact_location"),
        ],
        order: &["model_id"],
    },
    TableSpec {
        file: file::LOGGED_MODEL_PARAMS,
        table: table::LOGGED_MODEL_PARAMS,
        is_registry: false,
        columns: &[text("model_id", "model_id"), text("param_key", "key"), text("param_value", "value")],
        order: &["model_id", "param_key"],
    },
    TableSpec {
        file: file::LOGGED_MODEL_TAGS,
        table: table::LOGGED_MODEL_TAGS,
        is_registry: false,
        columns: &[text("model_id", "model_id"), text("tag_key", "key"), text("tag_value", "value")],
        order: &["model_id", "tag_key"],
    },
    TableSpec {
        file: file::LOGGED_MODEL_METRICS,
        table: table::LOGGED_MODEL_METRICS,
        is_registry: false,
        columns: &[
            text("model_id", "model_id"),
            text("metric_name", "key"),
            real("metric_value", "value"),
            integer("metric_timestamp_ms", "timestamp"),
            integer("metric_step", "step"),
            text("run_id", "run_id"),
        ],
        order: &["model_id", "metric_name", "metric_timestamp_ms", "metric_step", "run_id"],
    },
    TableSpec {
        file: file::REGISTERED_MODELS,
        table: table::REGISTERED_MODELS,
        is_registry: true,
        columns: &[
            text("name", "name"),
            text("description", "description"),
            integer("creation_time", "creation_time"),
            integer("last_updated_time", "last_update_time"),
            text("workspace", "workspace"),
        ],
        order: &["name"],
    },
    TableSpec {
        file: file::REGISTERED_MODEL_TAGS,
        table: table::REGISTERED_MODEL_TAGS,
        is_registry: true,
        columns: &[text("name", "name"), text("key", "key"), text("value", "value")],
        order: &["name", "key"],
    },
    TableSpec {
        file: file::ALIASES,
        table: table::REGISTERED_MODEL_ALIASES,
        is_registry: true,
        columns: &[text("name", "name"), text("alias", "alias"), integer("version", "version")],
        order: &["name", "alias"],
    },
    TableSpec {
        file: file::MODEL_VERSIONS,
        table: table::MODEL_VERSIONS,
        is_registry: true,
        columns: &[
            text("name", "name"),
            integer("version", "version"),
            text("source", "source"),
            text("storage_location", "storage_location"),
            text("run_id", "run_id"),
            text("current_stage", "stage"),
            text("status", "status"),
            text("description", "description"),
            text("user_id", "user_id"),
            integer("creation_time", "creation_time"),
            integer("last_updated_time", "last_update_time"),
            text("workspace", "workspace"),
        ],
        order: &["name", "version"],
    },
    TableSpec {
        file: file::MODEL_VERSION_TAGS,
        table: table::MODEL_VERSION_TAGS,
        is_registry: true,
        columns: &[text("name", "name"), integer("version", "version"), text("key", "key"), text("value", "value")],
        order: &["name", "version", "key"],
    },
    TableSpec {
        file: file::TRACES,
        table: table::TRACE_INFO,
        is_registry: false,
        columns: &[
            text("request_id", "trace_id"),
            text("experiment_id", "experiment_id"),
            integer("timestamp_ms", "request_time"),
            integer("execution_time_ms", "execution_time"),
            text("status", "status"),
        ],
        order: &["request_id"],
    },
    TableSpec {
        file: file::TRACE_TAGS,
        table: table::TRACE_TAGS,
        is_registry: false,
        columns: &[text("request_id", "trace_id"), text("key", "key"), text("value", "value")],
        order: &["request_id", "key"],
    },
    TableSpec {
        file: file::EVALUATION_DATASETS,
        table: table::EVALUATION_DATASETS,
        is_registry: false,
        columns: &[
            text("dataset_id", "dataset_id"),
            text("name", "name"),
            text("digest", "digest"),
            integer("created_time", "creation_time"),
            integer("last_update_time", "last_update_time"),
        ],
        order: &["dataset_id"],
    },
    TableSpec {
        file: file::WORKSPACES,
        table: table::WORKSPACES,
        is_registry: false,
        columns: &[
            text("name", "name"),
            text("default_artifact_root", "default_artifact_root"),
            text("trace_archival_location", "trace_archival_location"),
        ],
        order: &["name"],
    },
];

/// Makes a line of the catalogue from a row: a JSON object without those columns that are null.
pub fn line(columns: &[&ColumnSpec], row: &[Value]) -> Map<String, Json> {
    let fields = columns.iter().zip(row);
    fields.filter_map(|(column, value)| Some((column.field.to_owned(), json(column.kind, value)?))).collect()
}

fn json(kind: ColumnKind, value: &Value) -> Option<Json> {
    let text = match value {
        Value::Null => return None,
        Value::Text(bytes) | Value::Blob(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Number(text) => text.clone(),
    };
    let number = match kind {
        ColumnKind::Text => None,
        ColumnKind::Integer => text.parse::<i64>().ok().map(Json::from),
        ColumnKind::Real => text.parse::<f64>().ok().filter(|number| number.is_finite()).map(Json::from),
    };
    Some(number.unwrap_or(Json::String(text)))
}

/// Reads what should be a number. SQLite keeps anything in any column, and one such row must not hide all others: what is
/// no number counts as absent.
fn number<'de, D: Deserializer<'de>>(json: D) -> Result<Option<i64>, D::Error> {
    Ok(Json::deserialize(json)?.as_i64())
}

fn number_or_zero<'de, D: Deserializer<'de>>(json: D) -> Result<i64, D::Error> {
    Ok(number(json)?.unwrap_or_default())
}

/// A line of `experiments.jsonl`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Experiment {
    /// Its id.
    pub experiment_id: String,
    /// Its name.
    pub name: String,
    /// Where artifacts of new runs go.
    pub artifact_location: Option<String>,
    /// `active` or `deleted`.
    pub lifecycle_stage: String,
    /// Milliseconds since 1970.
    #[serde(deserialize_with = "number")]
    pub creation_time: Option<i64>,
    /// The workspace that it belongs to, where there are several.
    pub workspace: Option<String>,
}

/// A line of `runs.jsonl`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Run {
    /// Its id.
    pub run_id: String,
    /// The experiment that it belongs to.
    pub experiment_id: String,
    /// Its name.
    pub name: Option<String>,
    /// Who ran it.
    pub user_id: Option<String>,
    /// `RUNNING`, `FINISHED`, `FAILED`, `KILLED` or `SCHEDULED`.
    pub status: Option<String>,
    /// `active` or `deleted`.
    pub lifecycle_stage: String,
    /// Milliseconds since 1970.
    #[serde(deserialize_with = "number")]
    pub start_time: Option<i64>,
    /// Milliseconds since 1970.
    #[serde(deserialize_with = "number")]
    pub end_time: Option<i64>,
    /// Where its artifacts are.
    pub artifact_uri: Option<String>,
}

/// A line of `logged_models.jsonl`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoggedModel {
    /// Its id, `m-…`.
    pub model_id: String,
    /// The experiment that it belongs to.
    pub experiment_id: String,
    /// Its name.
    pub name: Option<String>,
    /// What it is, as whoever logged it says.
    pub model_type: Option<String>,
    /// The run that logged it.
    pub source_run_id: Option<String>,
    /// 1 pending, 2 ready, 3 failed.
    #[serde(deserialize_with = "number")]
    pub status: Option<i64>,
    /// `active` or `deleted`.
    pub lifecycle_stage: String,
    /// Milliseconds since 1970.
    #[serde(deserialize_with = "number")]
    pub creation_time: Option<i64>,
    /// Where its files are.
    pub artifact_location: Option<String>,
}

impl LoggedModel {
    /// Returns whether its files must be there.
    pub fn is_ready(&self) -> bool {
        self.status == Some(2) && self.lifecycle_stage != DELETED
    }
}

/// A line of `registered_models.jsonl`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RegisteredModel {
    /// Its name.
    pub name: String,
    /// What it is.
    pub description: Option<String>,
    /// Milliseconds since 1970.
    #[serde(deserialize_with = "number")]
    pub creation_time: Option<i64>,
    /// Milliseconds since 1970.
    #[serde(deserialize_with = "number")]
    pub last_update_time: Option<i64>,
}

/// A line of `model_versions.jsonl`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelVersion {
    /// The registered model.
    pub name: String,
    /// Its number.
    #[serde(deserialize_with = "number_or_zero")]
    pub version: i64,
    /// What it was registered from.
    pub source: Option<String>,
    /// Where its files are, as far as MLflow has resolved that.
    pub storage_location: Option<String>,
    /// The run that it comes from.
    pub run_id: Option<String>,
    /// Its stage; `Deleted_Internal` for a deleted version.
    pub stage: Option<String>,
    /// `READY`, `PENDING_REGISTRATION` or `FAILED_REGISTRATION`.
    pub status: Option<String>,
    /// What it is.
    pub description: Option<String>,
    /// Milliseconds since 1970.
    #[serde(deserialize_with = "number")]
    pub creation_time: Option<i64>,
}

impl ModelVersion {
    /// Returns whether it was deleted.
    pub fn is_deleted(&self) -> bool {
        self.stage.as_deref() == Some(STAGE_DELETED)
    }

    /// Returns whether it is a version of a prompt, which has no files.
    pub fn is_prompt(&self) -> bool {
        self.source.as_deref() == Some(uri::PROMPT_SOURCE)
    }
}

/// A line of `aliases.jsonl`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Alias {
    /// The registered model.
    pub name: String,
    /// The alias.
    pub alias: String,
    /// The version that it stands for.
    #[serde(deserialize_with = "number_or_zero")]
    pub version: i64,
}

/// A line of one of the files of tags, params and metrics; the owner is whatever it belongs to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pair {
    /// Its run, if it belongs to one.
    pub run_id: Option<String>,
    /// The name of its registered model, if it belongs to one.
    pub name: Option<String>,
    /// The version, if it belongs to one.
    #[serde(deserialize_with = "number")]
    pub version: Option<i64>,
    /// Its trace, if it belongs to one.
    pub trace_id: Option<String>,
    /// Its key.
    pub key: String,
    /// Its value: a string, or a number for metrics.
    pub value: Json,
    /// Whether a metric's value is not a number: MLflow keeps 0 then.
    pub is_nan: Option<String>,
}

/// What became of a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReferenceState {
    /// Its files are in the snapshot.
    Present,
    /// It has no files, and need not have any.
    Empty,
    /// Its files, or their row, were deleted while the backup ran; what the parent snapshot had was carried over.
    CarriedOver,
    /// It was deleted while the backup ran, and no earlier snapshot has its files.
    DeletedMeanwhile,
    /// Its root is excluded.
    Excluded,
    /// Files of a model that the parent snapshot had are gone, others are there: the deployment is damaged.
    Partial,
    /// Its files are missing: the deployment is damaged.
    Missing,
    /// Files of it were taken out of the snapshot by a rewrite.
    TakenOut,
}

impl ReferenceState {
    /// Returns why the snapshot lacks files of it, if it does.
    pub fn lack(self) -> Option<&'static str> {
        match self {
            Self::Missing => Some("they were missing when the backup was made"),
            Self::DeletedMeanwhile => Some("they were deleted while the backup was made"),
            Self::Excluded => Some("the backup left their artifact root out"),
            Self::Partial => Some("some of them were gone when the backup was made"),
            Self::TakenOut => Some("a rewrite took some or all of them out of the snapshot"),
            Self::Present | Self::Empty | Self::CarriedOver => None,
        }
    }
}

/// A line of `references.jsonl`: a row of the databases, and what it leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// What refers.
    pub kind: ReferenceKind,
    /// Its id; for a version `name/version`.
    pub id: String,
    /// The location as the row has it.
    pub uri: String,
    /// The component that holds its files.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub component: Option<String>,
    /// The path in that component.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub path: Option<String>,
    /// How many files there are.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// BLAKE3 over path (relative), size and digest of every file, for models.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub digest: Option<crate::id::Digest>,
    /// Paths in the component that are gone: that the parent snapshot had, of a model, or that a rewrite took out; at most
    /// [`FILES_NAMED_MAX`].
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub lost: Vec<String>,
    /// What became of it.
    pub state: ReferenceState,
}

/// A line of `orphans.jsonl`: a file that no row refers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphan {
    /// The component that holds it.
    pub component: String,
    /// Its path there.
    pub path: String,
    /// Its bytes.
    pub bytes: u64,
}

/// A line of `tables.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredTable {
    /// The database.
    pub store: Store,
    /// The table.
    #[serde(flatten)]
    pub table: crate::sql::TableRecord,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_becomes_an_object_without_nulls() {
        let columns = [&integer("a", "a"), &real("b", "b"), &text("c", "c"), &text("d", "d"), &real("e", "e")];
        let row = [
            Value::Text(b"7".to_vec()),
            Value::Number("0.5".into()),
            Value::Text(vec![b'x', 0xFF]),
            Value::Null,
            Value::Text(b"NaN".to_vec()),
        ];
        let object = Json::Object(line(&columns, &row));
        assert_eq!(object.to_string(), "{\"a\":7,\"b\":0.5,\"c\":\"x\u{FFFD}\",\"e\":\"NaN\"}");
    }

    #[test]
    fn every_file_has_one_name() {
        let mut names: Vec<_> = SPECS.iter().map(|spec| spec.file).chain([REFERENCES, ORPHANS, TABLES]).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
