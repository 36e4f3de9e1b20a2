//! Brings a deployment, or a part of one, back through the REST API of a server, from the catalogue, the dump and the
//! artifacts of a snapshot.
//!
//! What must stay true:
//! - What cannot be brought back this way, although the snapshot has it, is in the report.
//! - Rows and files go through a scratch directory: memory grows only with the number of runs and models, disk with the
//!   rows and with the files of one run or model.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use tempfile::TempDir;

use super::row_spool::RowSpool;
use super::selection::Selected;
use super::{DeploymentRestore, Wanted};
use crate::error::{Error, Result};
use crate::mlflow::catalogue::{
    Alias, Experiment, LoggedModel, ModelVersion, Pair, Reference, ReferenceKind, ReferenceState, RegisteredModel, Run,
    StoredTable, TABLES,
};
use crate::mlflow::roots::Resolved;
use crate::mlflow::schema::{Owner as Key, Store, TABLES as RESTORED_TABLES};
use crate::mlflow::uri::{self, VersionSource};
use crate::repository::browse::Browser;
use crate::repository::catalogue::{for_each, read_all};
use crate::restore::{Options, Overwrite, run_below};
use crate::source::deployment::{ArtifactPlace, Deployment, Layout};
use crate::sql::script::{Piece, ScriptReader};
use crate::sql::{Dialect, Value};
use crate::tracking::TrackingClient;
use crate::tracking::import::{
    self, ImportDataset, ImportExperiment, ImportLoggedModel, ImportPoint, ImportRegisteredModel, ImportReport,
    ImportRun, ImportSource, ImportVersion, Note, Owner,
};

/// How many versions may be copies of one another in a row.
const COPIES_MAX: usize = 16;
/// Tables of which nothing has to be brought back: revisions, what servers work with, and sums of other tables.
const VOLATILE_TABLES: [&str; 9] = [
    "alembic_version",
    "alembic_version_auth",
    "job_locks",
    "jobs",
    "scheduler_leases",
    "sql_assessment_daily_rollups",
    "sql_span_cost_daily_rollups",
    "sql_trace_metric_daily_rollups",
    "sql_trace_rollup_rebuild_queue",
];

/// How much would be brought back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RestPlan {
    /// Experiments.
    pub experiments: u64,
    /// Runs.
    pub runs: u64,
    /// Logged models.
    pub logged_models: u64,
    /// Registered models and prompts.
    pub registered_models: u64,
    /// Their versions.
    pub versions: u64,
    /// Files of runs and logged models.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What the snapshot has and the API cannot bring back.
    pub left_out: Vec<Note>,
}

/// What belongs to a run, as it waits in the spool.
#[derive(Serialize, Deserialize)]
enum RunRow {
    Param(String, String),
    Tag(String, String),
    /// Key, value as a text, timestamp, step.
    Point(String, String, i64, i64),
    /// Key, timestamp, step and logged model of a point.
    PointOf(String, i64, i64, String),
    /// Input and data set.
    Dataset(String, String),
    /// Logged model and step.
    Output(String, i64),
}

/// What belongs to a logged model.
#[derive(Serialize, Deserialize)]
enum ModelRow {
    Param(String, String),
    Tag(String, String),
}

/// A data set, as the dump has it.
#[derive(Default, Serialize, Deserialize)]
struct Dataset {
    name: String,
    digest: String,
    source_type: String,
    source: String,
    schema: String,
    profile: String,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Input {
    input_id: String,
    source_type: String,
    source_id: String,
    destination_type: String,
    destination_id: String,
    step: i64,
}

/// A row of the tags of experiments or the tables that belong to logged models.
#[derive(Default, Deserialize)]
#[serde(default)]
struct OwnedPair {
    experiment_id: String,
    model_id: String,
    run_id: Option<String>,
    key: String,
    value: Json,
    timestamp: i64,
    step: i64,
}

/// A snapshot, made ready to be brought back through a server.
pub struct RestRestore<'a> {
    restore: &'a DeploymentRestore<'a>,
    selected: Option<Selected>,
    spool: RowSpool,
    experiments: Vec<ImportExperiment>,
    registered_models: Vec<ImportRegisteredModel>,
    /// Where files are: component and path.
    files: HashMap<(ReferenceKind, String), (String, String)>,
    /// Where the server's artifact roots are, for those whose files do not go through it.
    layout: Layout,
    plan: RestPlan,
    scratch: TempDir,
}

impl<'a> RestRestore<'a> {
    /// Collects what is to be brought back: what is wanted, or everything. `target` tells where artifact roots of the
    /// server are whose files do not go through it.
    pub fn prepare(restore: &'a DeploymentRestore<'a>, wanted: Option<&Wanted>, target: &Deployment) -> Result<Self> {
        restore.monitor.phase("reading the snapshot", None, None);
        let find = |wanted| Selected::find(&restore.reader, restore.snapshot, wanted, restore.cancel);
        let parent = std::env::temp_dir();
        let scratch = TempDir::with_prefix("mlvault-").map_err(|source| scratch_fault(&parent, source))?;
        let mut prepared = Self {
            restore,
            selected: wanted.map(find).transpose()?,
            spool: RowSpool::create(scratch.path())?,
            experiments: Vec::new(),
            registered_models: Vec::new(),
            files: HashMap::new(),
            layout: target.layout()?,
            plan: RestPlan::default(),
            scratch,
        };
        prepared.collect_experiments()?;
        prepared.collect_runs()?;
        prepared.collect_inputs()?;
        prepared.collect_logged_models()?;
        prepared.collect_dump()?;
        prepared.collect_registry()?;
        prepared.collect_files()?;
        prepared.collect_left_out()?;
        prepared.spool.flush()?;
        Ok(prepared)
    }

    /// Returns how much would be brought back.
    pub fn plan(&self) -> &RestPlan {
        &self.plan
    }

    /// Brings it back. Doing it again goes on where it stopped, and makes nothing twice.
    pub fn execute(&self, client: &TrackingClient) -> Result<ImportReport> {
        let mut report = import::import(client, self, self.restore.monitor, self.restore.cancel)?;
        report.left_out.extend(self.plan.left_out.iter().cloned());
        Ok(report)
    }

    fn is_wanted(&self, kind: Key, id: &str) -> bool {
        self.selected.as_ref().is_none_or(|selected| selected.need(kind, &[id]).is_some())
    }

    fn is_version_wanted(&self, name: &str, version: i64) -> bool {
        let number = version.to_string();
        self.selected.as_ref().is_none_or(|selected| selected.need(Key::Version, &[name, &number]).is_some())
    }

    fn leave_out(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.plan.left_out.push(Note { what: what.into(), why: why.into() });
    }

    fn each<T: serde::de::DeserializeOwned>(
        &mut self,
        file: &str,
        visit: &mut dyn FnMut(&mut Self, T) -> Result<()>,
    ) -> Result<()> {
        let DeploymentRestore { reader, snapshot, cancel, .. } = self.restore;
        for_each(reader, snapshot, file, cancel, &mut |row| visit(self, row))
    }

    fn collect_experiments(&mut self) -> Result<()> {
        let mut tags: HashMap<String, Vec<import::Pair>> = HashMap::new();
        self.each("experiment_tags", &mut |_, tag: OwnedPair| {
            tags.entry(tag.experiment_id).or_default().push((tag.key, text_of(&tag.value)));
            Ok(())
        })?;
        self.each("experiments", &mut |this, experiment: Experiment| {
            if this.is_wanted(Key::Experiment, &experiment.experiment_id) {
                this.plan.experiments += 1;
                this.experiments.push(ImportExperiment {
                    tags: tags.remove(&experiment.experiment_id).unwrap_or_default(),
                    id: experiment.experiment_id,
                    name: experiment.name,
                    artifact_location: None,
                    is_deleted: experiment.lifecycle_stage == "deleted",
                });
            }
            Ok(())
        })
    }

    fn collect_runs(&mut self) -> Result<()> {
        self.each("runs", &mut |this, run: Run| {
            if this.is_wanted(Key::Run, &run.run_id) {
                this.plan.runs += 1;
                this.spool.put(&runs_of(&run.experiment_id), &run)?;
            }
            Ok(())
        })?;
        self.each("params", &mut |this, pair: Pair| this.put_pair(pair, RunRow::Param))?;
        self.each("run_tags", &mut |this, pair: Pair| this.put_pair(pair, RunRow::Tag))
    }

    fn put_pair(&mut self, pair: Pair, row: fn(String, String) -> RunRow) -> Result<()> {
        match pair.run_id {
            Some(run) if self.is_wanted(Key::Run, &run) => {
                self.spool.put(&run_of(&run), &row(pair.key, text_of(&pair.value)))
            }
            _ => Ok(()),
        }
    }

    /// The data sets that runs used, and the models that they made.
    fn collect_inputs(&mut self) -> Result<()> {
        let mut models_taken = 0;
        self.each("inputs", &mut |this, input: Input| match (
            input.source_type.as_str(),
            input.destination_type.as_str(),
        ) {
            ("DATASET", "RUN") if this.is_wanted(Key::Run, &input.destination_id) => {
                let row = RunRow::Dataset(input.input_id, input.source_id);
                this.spool.put(&run_of(&input.destination_id), &row)
            }
            ("RUN_OUTPUT", "MODEL_OUTPUT") if this.is_wanted(Key::Run, &input.source_id) => {
                this.spool.put(&run_of(&input.source_id), &RunRow::Output(input.destination_id, input.step))
            }
            ("RUN_INPUT", "MODEL_INPUT") if this.is_wanted(Key::Run, &input.source_id) => {
                models_taken += 1;
                Ok(())
            }
            _ => Ok(()),
        })?;
        if models_taken > 0 {
            self.leave_out(format!("{models_taken} models that runs took in"), "the link to them is not imported");
        }
        Ok(())
    }

    fn collect_logged_models(&mut self) -> Result<()> {
        let mut deleted = 0;
        self.each("logged_models", &mut |this, model: LoggedModel| {
            if !this.is_wanted(Key::LoggedModel, &model.model_id) {
                return Ok(());
            }
            if model.lifecycle_stage == "deleted" {
                deleted += 1;
                return Ok(());
            }
            this.plan.logged_models += 1;
            this.spool.put(&models_of(&model.experiment_id), &model)
        })?;
        if deleted > 0 {
            self.leave_out(format!("{deleted} deleted logged models"), "they could only come back as if not deleted");
        }
        self.each("logged_model_params", &mut |this, pair: OwnedPair| {
            this.spool.put(&model_of(&pair.model_id), &ModelRow::Param(pair.key, text_of(&pair.value)))
        })?;
        self.each("logged_model_tags", &mut |this, pair: OwnedPair| {
            this.spool.put(&model_of(&pair.model_id), &ModelRow::Tag(pair.key, text_of(&pair.value)))
        })?;
        self.each("logged_model_metrics", &mut |this, point: OwnedPair| match point.run_id {
            Some(run) if this.is_wanted(Key::Run, &run) => {
                let row = RunRow::PointOf(point.key, point.timestamp, point.step, point.model_id);
                this.spool.put(&run_of(&run), &row)
            }
            _ => Ok(()),
        })
    }

    /// What the catalogue does not have: the history of metrics, schemas and profiles of data sets, tags of inputs.
    fn collect_dump(&mut self) -> Result<()> {
        let restore = self.restore;
        let database = restore.record.database(Store::Backend).ok_or_else(|| {
            Error::Refused(format!(
                "The snapshot {} has no database: it cannot be brought back through a server",
                restore.snapshot.id.short()
            ))
        })?;
        let dialect = if database.engine == "sqlite" { Dialect::Sqlite } else { Dialect::Postgresql };
        let mut script = ScriptReader::new(BufReader::new(restore.open_dump(Store::Backend)?), dialect);
        let mut open = None;
        while let Some(piece) = script.next_piece()? {
            restore.cancel.check()?;
            match piece {
                Piece::Table(head) => open = Some(head),
                Piece::Row(row) => {
                    let Some(head) = &open else { continue };
                    let fields = Fields { columns: &head.columns, row: &row };
                    self.collect_row(&head.name, &fields)?;
                }
                Piece::Statements(_) | Piece::TableEnd => {}
            }
        }
        Ok(())
    }

    fn collect_row(&mut self, table: &str, fields: &Fields<'_>) -> Result<()> {
        match table {
            "metrics" => {
                let run = fields.text("run_uuid");
                if !self.is_wanted(Key::Run, &run) {
                    return Ok(());
                }
                // MLflow keeps 0 for a value that is not a number, and says so beside it.
                let is_nan = matches!(fields.text("is_nan").as_str(), "t" | "true" | "1");
                let value = if is_nan { "NaN".to_owned() } else { fields.text("value") };
                let row = RunRow::Point(fields.text("key"), value, fields.number("timestamp"), fields.number("step"));
                self.spool.put(&run_of(&run), &row)
            }
            "datasets" => {
                let dataset = Dataset {
                    name: fields.text("name"),
                    digest: fields.text("digest"),
                    source_type: fields.text("dataset_source_type"),
                    source: fields.text("dataset_source"),
                    schema: fields.text("dataset_schema"),
                    profile: fields.text("dataset_profile"),
                };
                self.spool.put(&dataset_of(&fields.text("dataset_uuid")), &dataset)
            }
            "input_tags" => {
                self.spool.put(&input_of(&fields.text("input_uuid")), &(fields.text("name"), fields.text("value")))
            }
            _ => Ok(()),
        }
    }

    fn collect_registry(&mut self) -> Result<()> {
        let DeploymentRestore { reader, snapshot, cancel, .. } = self.restore;
        let browser = Browser { reader, snapshot, cancel };
        let all: Vec<ModelVersion> = browser.all("model_versions")?;
        let by_key: HashMap<(&str, String), &ModelVersion> =
            all.iter().map(|version| ((version.name.as_str(), version.version.to_string()), version)).collect();
        let mut versions: BTreeMap<&str, Vec<ImportVersion>> = BTreeMap::new();
        let mut tags = version_tags(&browser)?;
        for version in all.iter().filter(|version| !version.is_deleted()) {
            if self.is_version_wanted(&version.name, version.version) {
                let mut imported = import_version(version, tags.remove(&(version.name.clone(), version.version)));
                imported.source = self.reachable_source(version, &by_key);
                versions.entry(&version.name).or_default().push(imported);
            }
        }
        let mut model_tags: HashMap<String, Vec<import::Pair>> = HashMap::new();
        for tag in browser.all::<Pair>("registered_model_tags")? {
            model_tags.entry(tag.name.unwrap_or_default()).or_default().push((tag.key, text_of(&tag.value)));
        }
        let mut aliases: HashMap<String, Vec<(String, u32)>> = HashMap::new();
        for alias in browser.all::<Alias>("aliases")? {
            if self.is_version_wanted(&alias.name, alias.version) {
                aliases.entry(alias.name).or_default().push((alias.alias, number(alias.version)));
            }
        }
        let mut models = Vec::new();
        for model in browser.all::<RegisteredModel>("registered_models")? {
            if self.is_wanted(Key::RegisteredModel, &model.name) {
                let name = &model.name;
                models.push(ImportRegisteredModel {
                    tags: model_tags.remove(name).unwrap_or_default(),
                    aliases: aliases.remove(name).unwrap_or_default(),
                    versions: versions.remove(name.as_str()).unwrap_or_default(),
                    description: model.description.unwrap_or_default(),
                    name: model.name,
                });
            }
        }
        self.plan.registered_models = models.len() as u64;
        self.plan.versions = models.iter().map(|model| model.versions.len() as u64).sum();
        self.registered_models = originals_first(models);
        Ok(())
    }

    /// Returns the source of a version; that of the version which it is a copy of, if that one is not brought back.
    fn reachable_source(&self, version: &ModelVersion, versions: &HashMap<(&str, String), &ModelVersion>) -> String {
        let mut source = version.source.as_deref().unwrap_or_default();
        for _ in 0..COPIES_MAX {
            let VersionSource::Version { name, version } = uri::version_source(source) else { break };
            let Some(original) = versions.get(&(name, version.to_owned())) else { break };
            if !original.is_deleted() && self.is_version_wanted(&original.name, original.version) {
                break;
            }
            source = original.source.as_deref().unwrap_or_default();
        }
        source.to_owned()
    }

    fn collect_files(&mut self) -> Result<()> {
        self.each(crate::mlflow::catalogue::REFERENCES, &mut |this, reference: Reference| {
            let is_wanted = match reference.kind {
                ReferenceKind::Run => this.is_wanted(Key::Run, &reference.id),
                ReferenceKind::LoggedModel => this.is_wanted(Key::LoggedModel, &reference.id),
                ReferenceKind::ModelVersion | ReferenceKind::Trace => false,
            };
            if !is_wanted {
                return Ok(());
            }
            let why = match reference.state {
                ReferenceState::Missing => "they were missing when the backup was made",
                ReferenceState::DeletedMeanwhile => "they were deleted while the backup was made",
                ReferenceState::Excluded => "the backup left their artifact root out",
                ReferenceState::Present | ReferenceState::Empty | ReferenceState::CarriedOver => "",
            };
            if !why.is_empty() {
                this.leave_out(format!("files at {}", reference.uri), why);
            }
            if let (Some(component), Some(path), 1..) = (reference.component, reference.path, reference.files) {
                this.plan.files += reference.files;
                this.plan.bytes += reference.bytes;
                this.files.insert((reference.kind, reference.id), (component, path));
            }
            Ok(())
        })
    }

    /// What the snapshot has and no import brings back.
    fn collect_left_out(&mut self) -> Result<()> {
        let why = "the import through the REST API does not bring them back";
        if let Some(selected) = &self.selected {
            let traces = selected.ids(Key::Trace).len();
            if traces > 0 {
                self.leave_out(format!("{traces} traces"), why);
            }
            return Ok(());
        }
        let DeploymentRestore { reader, snapshot, cancel, .. } = self.restore;
        let tables: Vec<StoredTable> = read_all(reader, snapshot, TABLES, cancel)?;
        let is_trace = |name: &str| {
            let owner = RESTORED_TABLES.iter().find(|table| table.name == name).map(|table| table.owner);
            matches!(owner, Some(Key::Trace | Key::Association))
        };
        let is_brought_back = |name: &str| RESTORED_TABLES.iter().any(|table| table.name == name) && !is_trace(name);
        for StoredTable { store, table } in tables {
            let is_lost = store == Store::Auth || !is_brought_back(&table.name);
            if is_lost && table.rows > 0 && !VOLATILE_TABLES.contains(&table.name.as_str()) {
                self.leave_out(format!("{} rows of the table {}", table.rows, table.name), why);
            }
        }
        Ok(())
    }

    fn location(&self, owner: &Owner) -> Option<&(String, String)> {
        let key = match owner {
            Owner::Run(id) => (ReferenceKind::Run, id.clone()),
            Owner::LoggedModel(id) => (ReferenceKind::LoggedModel, id.clone()),
        };
        self.files.get(&key)
    }

    /// Puts together what belongs to a run.
    fn run(&self, run: Run) -> Result<ImportRun> {
        let mut imported = ImportRun {
            name: run.name.unwrap_or_default(),
            user: run.user_id.unwrap_or_default(),
            status: run.status.unwrap_or_default(),
            start_time: run.start_time.unwrap_or_default(),
            end_time: run.end_time,
            is_deleted: run.lifecycle_stage == "deleted",
            artifact_uri: run.artifact_uri.unwrap_or_default(),
            ..ImportRun::default()
        };
        let mut models: HashMap<(String, i64, i64), Vec<String>> = HashMap::new();
        self.spool.read(&run_of(&run.run_id), &mut |row| {
            match row {
                RunRow::Param(key, value) => imported.params.push((key, value)),
                RunRow::Tag(key, value) => imported.tags.push((key, value)),
                RunRow::Output(model, step) => imported.outputs.push((model, step)),
                RunRow::PointOf(key, timestamp, step, model) => {
                    models.entry((key, timestamp, step)).or_default().push(model);
                }
                RunRow::Dataset(input, dataset) => imported.datasets.extend(self.dataset(&input, &dataset)?),
                RunRow::Point(key, value, timestamp, step) => {
                    let value = value.parse().unwrap_or(f64::NAN);
                    imported.points.push(ImportPoint { key, value, timestamp, step, model: None });
                }
            }
            Ok(())
        })?;
        imported.points = with_models(imported.points, &models);
        imported.id = run.run_id;
        Ok(imported)
    }

    fn dataset(&self, input: &str, id: &str) -> Result<Option<ImportDataset>> {
        let mut tags = Vec::new();
        self.spool.read(&input_of(input), &mut |tag| {
            tags.push(tag);
            Ok(())
        })?;
        let mut found = None;
        self.spool.read(&dataset_of(id), &mut |dataset: Dataset| {
            found = Some(dataset);
            Ok(())
        })?;
        Ok(found.map(|Dataset { name, digest, source_type, source, schema, profile }| ImportDataset {
            name,
            digest,
            source_type,
            source,
            schema,
            profile,
            tags,
        }))
    }
}

impl ImportSource for RestRestore<'_> {
    fn experiments(&self) -> Result<Vec<ImportExperiment>> {
        Ok(self.experiments.clone())
    }

    fn runs(&self, experiment: &str, each: &mut dyn FnMut(ImportRun) -> Result<()>) -> Result<()> {
        self.spool.read(&runs_of(experiment), &mut |run| each(self.run(run)?))
    }

    fn logged_models(&self, experiment: &str, each: &mut dyn FnMut(ImportLoggedModel) -> Result<()>) -> Result<()> {
        self.spool.read(&models_of(experiment), &mut |model: LoggedModel| {
            let (mut params, mut tags) = (Vec::new(), Vec::new());
            self.spool.read(&model_of(&model.model_id), &mut |row| {
                match row {
                    ModelRow::Param(key, value) => params.push((key, value)),
                    ModelRow::Tag(key, value) => tags.push((key, value)),
                }
                Ok(())
            })?;
            let status = match model.status {
                Some(2) => "READY",
                Some(3) => "UPLOAD_FAILED",
                _ => "PENDING",
            };
            each(ImportLoggedModel {
                id: model.model_id,
                name: model.name.unwrap_or_default(),
                model_type: model.model_type.unwrap_or_default(),
                source_run: model.source_run_id.filter(|run| !run.is_empty()),
                status: status.to_owned(),
                params,
                tags,
            })
        })
    }

    fn registered_models(&self) -> Result<Vec<ImportRegisteredModel>> {
        Ok(self.registered_models.clone())
    }

    /// Restores them into the scratch directory, in place of those that were asked for before.
    fn files(&self, owner: &Owner) -> Result<Option<PathBuf>> {
        let Some((component, path)) = self.location(owner) else { return Ok(None) };
        let target = self.scratch.path().join("files");
        match std::fs::remove_dir_all(&target) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(scratch_fault(&target, error)),
            _ => {}
        }
        let DeploymentRestore { reader, monitor, cancel, .. } = self.restore;
        let options = Options {
            target: target.clone(),
            path: None,
            overwrite: Overwrite::Always,
            delete: false,
            ownership: false,
            dry_run: false,
        };
        let component = self.restore.component(component)?;
        let done = run_below(reader, component, path.as_bytes(), &options, (*monitor, cancel))?;
        match done.problems {
            0 => Ok(Some(target)),
            problems => Err(Error::damaged(format!("files of {owner}"), format!("{problems} cannot be restored"))),
        }
    }

    fn place(&self, owner: &Owner, uri: &str) -> Result<bool> {
        let Some((component, path)) = self.location(owner) else { return Ok(true) };
        let Resolved::At { component: number, path: below } = self.layout.map.resolve(uri) else { return Ok(false) };
        let place = match &self.layout.components[number].place {
            ArtifactPlace::Directory(directory) => ArtifactPlace::Directory(directory.join(below)),
            ArtifactPlace::Bucket(bucket, options) => ArtifactPlace::Bucket(bucket.below(&below), options.clone()),
        };
        let component = self.restore.component(component)?;
        let done = self.restore.restore_artifacts(component, path.as_bytes(), &place, Overwrite::Always)?;
        match done.problems {
            0 => Ok(true),
            problems => Err(Error::damaged(format!("files of {owner}"), format!("{problems} cannot be restored"))),
        }
    }
}

/// A row of a dump, by the names of its columns.
struct Fields<'r> {
    columns: &'r [String],
    row: &'r [Value],
}

impl Fields<'_> {
    /// Returns a value as text; empty if it is null or there is no such column.
    fn text(&self, column: &str) -> String {
        let at = self.columns.iter().position(|name| name == column);
        match at.and_then(|at| self.row.get(at)) {
            Some(Value::Text(bytes) | Value::Blob(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
            Some(Value::Number(text)) => text.clone(),
            Some(Value::Null) | None => String::new(),
        }
    }

    fn number(&self, column: &str) -> i64 {
        self.text(column).parse().unwrap_or_default()
    }
}

fn scratch_fault(path: &Path, source: std::io::Error) -> Error {
    Error::Target { action: "write to the scratch directory", path: path.to_owned(), source }
}

fn runs_of(experiment: &str) -> String {
    format!("runs of {experiment}")
}

fn models_of(experiment: &str) -> String {
    format!("models of {experiment}")
}

fn run_of(run: &str) -> String {
    format!("run {run}")
}

fn model_of(model: &str) -> String {
    format!("model {model}")
}

fn dataset_of(dataset: &str) -> String {
    format!("data set {dataset}")
}

fn input_of(input: &str) -> String {
    format!("input {input}")
}

fn text_of(value: &Json) -> String {
    value.as_str().map_or_else(|| if value.is_null() { String::new() } else { value.to_string() }, str::to_owned)
}

fn number(version: i64) -> u32 {
    u32::try_from(version).unwrap_or_default()
}

/// Gives points the logged models that they tell of; one that tells of several becomes several.
fn with_models(points: Vec<ImportPoint>, models: &HashMap<(String, i64, i64), Vec<String>>) -> Vec<ImportPoint> {
    let mut all = Vec::with_capacity(points.len());
    for point in points {
        match models.get(&(point.key.clone(), point.timestamp, point.step)) {
            None => all.push(point),
            Some(models) => {
                all.extend(models.iter().map(|model| ImportPoint { model: Some(model.clone()), ..point.clone() }));
            }
        }
    }
    all
}

fn version_tags(browser: &Browser<'_>) -> Result<HashMap<(String, i64), Vec<import::Pair>>> {
    let mut tags: HashMap<(String, i64), Vec<import::Pair>> = HashMap::new();
    for tag in browser.all::<Pair>("model_version_tags")? {
        let key = (tag.name.unwrap_or_default(), tag.version.unwrap_or_default());
        tags.entry(key).or_default().push((tag.key, text_of(&tag.value)));
    }
    Ok(tags)
}

fn import_version(version: &ModelVersion, tags: Option<Vec<import::Pair>>) -> ImportVersion {
    ImportVersion {
        number: number(version.version),
        source: String::new(),
        run: version.run_id.clone().filter(|run| !run.is_empty()),
        description: version.description.clone().unwrap_or_default(),
        stage: version.stage.clone().unwrap_or_default(),
        tags: tags.unwrap_or_default(),
    }
}

/// Orders models so that those whose versions others are copies of come first, as far as they do not copy each other.
fn originals_first(models: Vec<ImportRegisteredModel>) -> Vec<ImportRegisteredModel> {
    let mut waiting = models;
    let mut ordered = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let names: HashSet<String> = waiting.iter().map(|model| model.name.clone()).collect();
        let is_original = |model: &ImportRegisteredModel| {
            model.versions.iter().all(|version| match uri::version_source(&version.source) {
                VersionSource::Version { name, .. } => name == model.name || !names.contains(name),
                _ => true,
            })
        };
        let (mut originals, copies): (Vec<_>, Vec<_>) = waiting.into_iter().partition(is_original);
        waiting = copies;
        if originals.is_empty() {
            ordered.append(&mut waiting);
        }
        ordered.append(&mut originals);
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, sources: &[&str]) -> ImportRegisteredModel {
        let version = |source: &&str| ImportVersion { source: (*source).to_owned(), ..ImportVersion::default() };
        let versions = sources.iter().map(version).collect();
        ImportRegisteredModel { name: name.to_owned(), versions, ..ImportRegisteredModel::default() }
    }

    #[test]
    fn originals_come_before_their_copies_and_circles_end() {
        let names = |models| -> Vec<String> { originals_first(models).into_iter().map(|model| model.name).collect() };
        let chain = vec![model("a", &["models:/b/1"]), model("b", &["models:/c/1", "models:/b/1"]), model("c", &["x"])];
        assert_eq!(names(chain), ["c", "b", "a"]);
        assert_eq!(names(vec![model("a", &["models:/b/1"]), model("b", &["models:/a/1"])]), ["a", "b"]);
    }

    #[test]
    fn a_point_is_given_each_model_that_it_tells_of() {
        let point = ImportPoint { key: "auc".into(), value: 1.0, timestamp: 5, step: 0, model: None };
        let models = HashMap::from([(("auc".to_owned(), 5, 0), vec!["m-1".to_owned(), "m-2".to_owned()])]);
        let other = ImportPoint { step: 1, ..point.clone() };
        let all = with_models(vec![point, other], &models);
        let models: Vec<_> = all.iter().map(|point| point.model.as_deref()).collect();
        assert_eq!(models, [Some("m-1"), Some("m-2"), None]);
    }
}
