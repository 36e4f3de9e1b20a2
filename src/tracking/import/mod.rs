//! A deployment brought back through the REST API, for where nothing else is allowed. Servers give new ids.
//!
//! What must stay true:
//! - Whatever the import makes carries a tag with the id that it had, so that a second import goes on where the first
//!   one stopped and makes nothing twice.
//! - Nothing that is on the server already, and is not from an import, is changed or deleted.
//! - What is different afterwards, or could not be brought back, is in the report.

mod batches;
mod experiments;
mod registry;
mod report;
mod upload;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

pub use self::report::{CopyNeeded, IdMap, ImportReport, LOSSES, Note};
use super::client::TrackingClient;
use crate::error::{Error, Fault, Result};
use crate::hears::Hears;
use crate::monitor::Monitor;

/// Tag of imported experiments: the id that it had.
const SOURCE_EXPERIMENT: &str = "mlvault.source_experiment_id";
/// Tag of imported runs: the id that it had.
const SOURCE_RUN: &str = "mlvault.source_run_id";
/// Tag of imported logged models: the id that it had.
const SOURCE_MODEL: &str = "mlvault.source_model_id";
/// Tag of imported registered models: the name that it had.
const SOURCE_NAME: &str = "mlvault.source_name";
/// Tag of imported versions: the number that it had.
const SOURCE_VERSION: &str = "mlvault.source_version";
/// Tag of runs and logged models that were imported whole.
const WHOLE: &str = "mlvault.import_complete";

/// Key and value.
pub type Pair = (String, String);

/// An experiment to bring back.
#[derive(Debug, Clone, Default)]
pub struct ImportExperiment {
    /// The id that it had.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where the artifacts of the new experiment go; none for the server's choice.
    pub artifact_location: Option<String>,
    /// Whether it was deleted.
    pub is_deleted: bool,
    /// Its tags.
    pub tags: Vec<Pair>,
}

/// A point of a metric.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImportPoint {
    /// Name of the metric.
    pub key: String,
    /// Value; may be infinite or no number.
    pub value: f64,
    /// Milliseconds of the epoch.
    pub timestamp: i64,
    /// Step.
    pub step: i64,
    /// Id of the logged model that it tells of, if of one.
    pub model: Option<String>,
}

/// A data set that a run used.
#[derive(Debug, Clone, Default)]
pub struct ImportDataset {
    /// Its name.
    pub name: String,
    /// MLflow's digest of it.
    pub digest: String,
    /// Kind of source.
    pub source_type: String,
    /// Source, as MLflow stores it.
    pub source: String,
    /// Schema, as MLflow stores it; may be empty.
    pub schema: String,
    /// Profile, as MLflow stores it; may be empty.
    pub profile: String,
    /// Tags of its use, such as `mlflow.data.context`.
    pub tags: Vec<Pair>,
}

/// A run to bring back.
#[derive(Debug, Clone, Default)]
pub struct ImportRun {
    /// The id that it had.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Who ran it.
    pub user: String,
    /// `FINISHED`, `FAILED`, `KILLED`, `RUNNING` or `SCHEDULED`.
    pub status: String,
    /// Milliseconds of the epoch.
    pub start_time: i64,
    /// Milliseconds of the epoch; none if it did not end.
    pub end_time: Option<i64>,
    /// Whether it was deleted.
    pub is_deleted: bool,
    /// Where its artifacts were.
    pub artifact_uri: String,
    /// Its parameters.
    pub params: Vec<Pair>,
    /// Its tags.
    pub tags: Vec<Pair>,
    /// All points of all metrics.
    pub points: Vec<ImportPoint>,
    /// The data sets that it used.
    pub datasets: Vec<ImportDataset>,
    /// Logged models that it made, by the ids that they had, with their steps.
    pub outputs: Vec<(String, i64)>,
}

/// A logged model to bring back.
#[derive(Debug, Clone, Default)]
pub struct ImportLoggedModel {
    /// The id that it had.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its type; may be empty.
    pub model_type: String,
    /// Id of the run that made it, if one did.
    pub source_run: Option<String>,
    /// `READY`, `PENDING` or `UPLOAD_FAILED`.
    pub status: String,
    /// Its parameters.
    pub params: Vec<Pair>,
    /// Its tags.
    pub tags: Vec<Pair>,
}

/// A registered model, or a prompt, to bring back.
#[derive(Debug, Clone, Default)]
pub struct ImportRegisteredModel {
    /// Its name.
    pub name: String,
    /// Its description; may be empty.
    pub description: String,
    /// Its tags; those of MLflow tell a prompt from a model.
    pub tags: Vec<Pair>,
    /// Alias and version.
    pub aliases: Vec<(String, u32)>,
    /// Its versions, but those that were deleted.
    pub versions: Vec<ImportVersion>,
}

/// A version of a registered model.
#[derive(Debug, Clone, Default)]
pub struct ImportVersion {
    /// Its number.
    pub number: u32,
    /// Where it came from, as MLflow stores it.
    pub source: String,
    /// Id of its run, if it has one.
    pub run: Option<String>,
    /// Its description; may be empty.
    pub description: String,
    /// `None`, `Staging`, `Production` or `Archived`.
    pub stage: String,
    /// Its tags.
    pub tags: Vec<Pair>,
}

/// Whose files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// A run, by the id that it had.
    Run(String),
    /// A logged model, by the id that it had.
    LoggedModel(String),
}

impl fmt::Display for Owner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(id) => write!(out, "run {id}"),
            Self::LoggedModel(id) => write!(out, "logged model {id}"),
        }
    }
}

/// What is to be brought back.
///
/// Lists that may be long are handed on item by item; they are asked for up to twice.
pub trait ImportSource {
    /// Returns the experiments.
    fn experiments(&self) -> Result<Vec<ImportExperiment>>;
    /// Hands on the runs of an experiment.
    fn runs(&self, experiment: &str, each: &mut dyn FnMut(ImportRun) -> Result<()>) -> Result<()>;
    /// Hands on the logged models of an experiment.
    fn logged_models(&self, experiment: &str, each: &mut dyn FnMut(ImportLoggedModel) -> Result<()>) -> Result<()>;
    /// Returns the registered models and prompts.
    fn registered_models(&self) -> Result<Vec<ImportRegisteredModel>>;
    /// Returns a directory with the files of a run or logged model as they lay below its artifact URI; none if it has
    /// none.
    fn files(&self, owner: &Owner) -> Result<Option<PathBuf>>;
    /// Puts the files of a run or logged model to where its new artifact URI leads, for servers that do not take them.
    /// Returns whether they are there, which is so, too, if there are none.
    fn place(&self, owner: &Owner, uri: &str) -> Result<bool> {
        let _ = uri;
        Ok(self.files(owner)?.is_none())
    }
}

/// Brings back what the source has. The report has the new ids, also when this is not the first import.
///
/// An error ends the import where it is; running it again goes on from there. What the server refuses is in the report.
pub fn import(client: &TrackingClient, source: &dyn ImportSource, hears: &Hears) -> Result<ImportReport> {
    let client = client.heard_by(hears);
    let monitor = hears.monitor.as_ref();
    client.version()?;
    monitor.phase("import", None, None);
    let report = ImportReport { losses: LOSSES.to_vec(), ..ImportReport::default() };
    let mut import = Import { client, source, monitor, report, run_roots: HashMap::new() };
    let experiments = source.experiments()?;
    let mut to_delete = Vec::new();
    for experiment in &experiments {
        if let Some(id) = import.experiment(experiment)?
            && experiment.is_deleted
        {
            to_delete.push(id);
        }
    }
    for model in source.registered_models()? {
        import.registered_model(&model)?;
    }
    // Last, because nothing can be added to a deleted experiment.
    to_delete.iter().try_for_each(|id| import.delete_experiment(id))?;
    Ok(import.report)
}

/// An import under way.
struct Import<'a> {
    client: TrackingClient,
    source: &'a dyn ImportSource,
    monitor: &'a dyn Monitor,
    report: ImportReport,
    /// Where the artifacts of runs were, and where they are now; by the ids that the runs had.
    run_roots: HashMap<String, (String, String)>,
}

impl Import<'_> {
    /// Returns how much could not be done so far.
    fn failures(&self) -> usize {
        self.report.left_out.len() + self.report.copies_needed.len()
    }

    /// Passes a result on; what the server refuses is noted instead. Whoever cannot be reached ends the import.
    fn or_note<T>(&mut self, what: impl FnOnce() -> String, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if is_refusal(&error) => {
                self.report.left_out.push(Note { what: what(), why: error.to_string() });
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Returns whether an error is about one item only: the server refuses it, or it is damaged where it comes from.
fn is_refusal(error: &Error) -> bool {
    error.is_damage()
        || matches!(error, Error::Tracking { fault: Fault::NotFound | Fault::Other | Fault::Unsupported, .. })
}

/// Returns tags as MLflow writes them.
fn tag_list<'a>(tags: impl IntoIterator<Item = (&'a str, &'a str)>) -> serde_json::Value {
    tags.into_iter().map(|(key, value)| serde_json::json!({ "key": key, "value": value })).collect()
}

fn borrowed(pairs: &[Pair]) -> impl Iterator<Item = (&str, &str)> {
    pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()))
}

/// Returns the value of a tag in an answer of the server.
fn tag_of<'a>(tags: &'a [serde_json::Value], key: &str) -> Option<&'a str> {
    let found = tags.iter().find(|tag| super::json::text(tag, "key") == key)?;
    Some(super::json::text(found, "value"))
}

/// Ids of things on the server, by the ids that they had.
type Known = BTreeMap<String, Found>;

/// Something that an earlier import made.
#[derive(Debug, Clone)]
struct Found {
    id: String,
    is_whole: bool,
    is_deleted: bool,
    artifact_uri: String,
}
