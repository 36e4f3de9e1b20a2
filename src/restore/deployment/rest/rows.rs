//! Rows of runs and logged models: set aside by what they belong to, and put together again.

use std::collections::HashMap;
use std::io::BufReader;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{RestRestore, text_of};
use crate::error::{Error, Result};
use crate::mlflow::catalogue::{LoggedModel, Pair, Run};
use crate::mlflow::names::{DELETED, file, table};
use crate::mlflow::schema::{RowOwner as Key, Store};
use crate::sql::script::{Piece, ScriptReader};
use crate::sql::{Dialect, Value};
use crate::tracking::import::{ImportDataset, ImportLoggedModel, ImportPoint, ImportRun};

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
pub(super) struct OwnedPair {
    pub(super) experiment_id: String,
    model_id: String,
    run_id: Option<String>,
    pub(super) key: String,
    pub(super) value: Json,
    timestamp: i64,
    step: i64,
}

impl RestRestore<'_> {
    pub(super) fn collect_runs(&mut self) -> Result<()> {
        self.each(file::RUNS, &mut |this, run: Run| {
            if this.is_wanted(Key::Run, &run.run_id) {
                this.plan.runs += 1;
                this.spool.put(&runs_of(&run.experiment_id), &run)?;
            }
            Ok(())
        })?;
        self.each(file::PARAMS, &mut |this, pair: Pair| this.put_pair(pair, RunRow::Param))?;
        self.each(file::RUN_TAGS, &mut |this, pair: Pair| this.put_pair(pair, RunRow::Tag))
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
    pub(super) fn collect_inputs(&mut self) -> Result<()> {
        let mut models_taken = 0;
        self.each(file::INPUTS, &mut |this, input: Input| match (
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

    pub(super) fn collect_logged_models(&mut self) -> Result<()> {
        let mut deleted = 0;
        self.each(file::LOGGED_MODELS, &mut |this, model: LoggedModel| {
            if !this.is_wanted(Key::LoggedModel, &model.model_id) {
                return Ok(());
            }
            if model.lifecycle_stage == DELETED {
                deleted += 1;
                return Ok(());
            }
            this.plan.logged_models += 1;
            this.spool.put(&models_of(&model.experiment_id), &model)
        })?;
        if deleted > 0 {
            self.leave_out(format!("{deleted} deleted logged models"), "they could only come back as if not deleted");
        }
        self.each(file::LOGGED_MODEL_PARAMS, &mut |this, pair: OwnedPair| {
            this.spool.put(&model_of(&pair.model_id), &ModelRow::Param(pair.key, text_of(&pair.value)))
        })?;
        self.each(file::LOGGED_MODEL_TAGS, &mut |this, pair: OwnedPair| {
            this.spool.put(&model_of(&pair.model_id), &ModelRow::Tag(pair.key, text_of(&pair.value)))
        })?;
        self.each(file::LOGGED_MODEL_METRICS, &mut |this, point: OwnedPair| match point.run_id {
            Some(run) if this.is_wanted(Key::Run, &run) => {
                let row = RunRow::PointOf(point.key, point.timestamp, point.step, point.model_id);
                this.spool.put(&run_of(&run), &row)
            }
            _ => Ok(()),
        })
    }

    /// What the catalogue does not have: the history of metrics, schemas and profiles of data sets, tags of inputs.
    pub(super) fn collect_dump(&mut self) -> Result<()> {
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
            restore.hears.check()?;
            match piece {
                Piece::Table(head) => open = Some(head),
                Piece::Row(row) => {
                    let Some(head) = &open else { continue };
                    let fields = Fields { columns: &head.columns, row: &row };
                    self.collect_row(&head.name, &fields)?;
                }
                Piece::Statement(_) | Piece::TableEnd => {}
            }
        }
        Ok(())
    }

    fn collect_row(&mut self, table: &str, fields: &Fields<'_>) -> Result<()> {
        match table {
            table::METRICS => {
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
            table::DATASETS => {
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
            table::INPUT_TAGS => {
                self.spool.put(&input_of(&fields.text("input_uuid")), &(fields.text("name"), fields.text("value")))
            }
            _ => Ok(()),
        }
    }
    /// Puts together what belongs to a run.
    pub(super) fn run(&self, run: Run) -> Result<ImportRun> {
        let mut imported = ImportRun {
            name: run.name.unwrap_or_default(),
            user: run.user_id.unwrap_or_default(),
            status: run.status.unwrap_or_default(),
            start_time: run.start_time.unwrap_or_default(),
            end_time: run.end_time,
            is_deleted: run.lifecycle_stage == DELETED,
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

    /// Puts together what belongs to a logged model.
    pub(super) fn logged_model(&self, model: LoggedModel) -> Result<ImportLoggedModel> {
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
        Ok(ImportLoggedModel {
            id: model.model_id,
            name: model.name.unwrap_or_default(),
            model_type: model.model_type.unwrap_or_default(),
            source_run: model.source_run_id.filter(|run| !run.is_empty()),
            status: status.to_owned(),
            params,
            tags,
        })
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
pub(super) fn runs_of(experiment: &str) -> String {
    format!("runs of {experiment}")
}

pub(super) fn models_of(experiment: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

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
