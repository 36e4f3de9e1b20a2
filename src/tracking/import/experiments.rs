//! Experiments, runs and logged models on their way back.
//!
//! Runs come first and empty, because logged models need the runs that made them; then logged models; then what was
//! logged in the runs, which may tell of logged models.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::batches::{PAIRS_MAX, POINTS_MAX, cut};
use super::{
    Found, Import, ImportExperiment, ImportLoggedModel, ImportRun, Known, Owner, Pair, SOURCE_EXPERIMENT, SOURCE_MODEL,
    SOURCE_RUN, WHOLE, borrowed, tag_list, tag_of,
};
use crate::error::{Fault, Result};
use crate::mlflow::names::DELETED;
use crate::tracking::client::encode;
use crate::tracking::json;
use crate::tracking::list::List;

/// Tag of MLflow that holds the id of the run above.
const PARENT: &str = "mlflow.parentRunId";
/// Tag of MLflow that the server itself writes when a logged model is registered.
const REGISTRATIONS: &str = "mlflow.modelVersions";

impl Import<'_> {
    /// Brings back an experiment and all in it. Returns its new id; none if its name is taken by a deleted one.
    pub(super) fn experiment(&mut self, experiment: &ImportExperiment) -> Result<Option<String>> {
        let Some(id) = self.find_or_create(experiment)? else { return Ok(None) };
        self.report.ids.experiments.insert(experiment.id.clone(), id.clone());
        let unfinished = self.begin_runs(experiment, &id)?;
        self.logged_models(experiment, &id)?;
        let source = self.source;
        source.runs(&experiment.id, &mut |run| {
            if unfinished.contains(&run.id) { self.fill_run(&run) } else { Ok(()) }
        })?;
        Ok(Some(id))
    }

    /// Deletes an experiment that was deleted, unless an earlier import did: then there is none of that id to delete.
    pub(super) fn delete_experiment(&mut self, id: &str) -> Result<()> {
        let deleted = self.client.write("POST", "/api/2.0/mlflow/experiments/delete", &json!({ "experiment_id": id }));
        match deleted {
            Err(error) if error.fault() == Some(Fault::NotFound) => Ok(()),
            deleted => self.or_note(|| format!("deletion of experiment {id}"), deleted).map(drop),
        }
    }

    fn find_or_create(&mut self, experiment: &ImportExperiment) -> Result<Option<String>> {
        let ImportExperiment { id, name, .. } = experiment;
        let found = self.client.get("/api/2.0/mlflow/experiments/get-by-name", &[("experiment_name", name)]);
        let found = match found {
            Ok(answer) => answer["experiment"].clone(),
            Err(error) if error.fault() == Some(Fault::NotFound) => return self.create(experiment).map(Some),
            Err(error) => return Err(error),
        };
        let new = json::text(&found, "experiment_id").to_owned();
        if tag_of(json::items(&found, "tags"), SOURCE_EXPERIMENT) == Some(id) {
            self.report.already_there("experiments");
        } else if json::text(&found, "lifecycle_stage") == DELETED {
            self.report.left_out(format!("experiment {name:?}"), "the server has a deleted one of that name");
            return Ok(None);
        } else {
            let how = "the server had one of that name: runs were added to it, its tags are its own";
            self.report.changed(format!("experiment {name:?}"), how);
        }
        Ok(Some(new))
    }

    fn create(&mut self, experiment: &ImportExperiment) -> Result<String> {
        let ImportExperiment { id, name, artifact_location, tags, .. } = experiment;
        // In the same request: an import that breaks off right after it still knows its own when it is run again.
        let tags = tag_list(borrowed(tags).chain([(SOURCE_EXPERIMENT, id.as_str())]));
        let mut body = json!({ "name": name, "tags": tags });
        if let Some(location) = artifact_location {
            body["artifact_location"] = json!(location);
        }
        let answer = self.client.write("POST", "/api/2.0/mlflow/experiments/create", &body)?;
        self.report.created("experiments");
        Ok(json::text(&answer, "experiment_id").to_owned())
    }

    /// Creates the runs that are missing. Returns those that are not whole yet, by the ids that they had.
    fn begin_runs(&mut self, experiment: &ImportExperiment, id: &str) -> Result<HashSet<String>> {
        let known = self.known_runs(id)?;
        let mut unfinished = HashSet::new();
        let source = self.source;
        source.runs(&experiment.id, &mut |run| {
            let found = match known.get(&run.id) {
                Some(found) => {
                    self.report.already_there("runs");
                    found.clone()
                }
                None => match self.create_run(id, &run)? {
                    Some(found) => found,
                    None => return Ok(()),
                },
            };
            if !found.is_whole {
                unfinished.insert(run.id.clone());
            } else if run.is_deleted && !found.is_deleted {
                self.delete_run(&found.id)?;
            }
            self.report.ids.runs.insert(run.id.clone(), found.id);
            self.run_roots.insert(run.id, (run.artifact_uri, found.artifact_uri));
            Ok(())
        })?;
        Ok(unfinished)
    }

    fn known_runs(&self, experiment: &str) -> Result<Known> {
        let list = List::search("imported runs", "/api/2.0/mlflow/runs/search", "runs", &["info", "run_id"])
            .with("experiment_ids", json!([experiment]))
            .with("run_view_type", "ALL")
            .with("filter", format!("tags.`{SOURCE_RUN}` LIKE '%'"))
            .paged(1000);
        let mut known = Known::new();
        list.read(&self.client, None, &mut |runs| {
            for run in &runs {
                let (info, tags) = (&run["info"], json::items(&run["data"], "tags"));
                if let Some(id) = tag_of(tags, SOURCE_RUN) {
                    known.insert(
                        id.to_owned(),
                        Found {
                            id: json::text(info, "run_id").to_owned(),
                            is_whole: tag_of(tags, WHOLE).is_some(),
                            is_deleted: json::text(info, "lifecycle_stage") == DELETED,
                            artifact_uri: json::text(info, "artifact_uri").to_owned(),
                        },
                    );
                }
            }
            Ok(())
        })?;
        Ok(known)
    }

    fn create_run(&mut self, experiment: &str, run: &ImportRun) -> Result<Option<Found>> {
        let body = json!({
            "experiment_id": experiment,
            "user_id": run.user,
            "run_name": run.name,
            "start_time": run.start_time,
            // In the same request, as with experiments.
            "tags": tag_list([(SOURCE_RUN, run.id.as_str())]),
        });
        let answer = self.client.write("POST", "/api/2.0/mlflow/runs/create", &body);
        let Some(answer) = self.or_note(|| format!("run {}", run.id), answer)? else { return Ok(None) };
        self.report.created("runs");
        let info = &answer["run"]["info"];
        Ok(Some(Found {
            id: json::text(info, "run_id").to_owned(),
            is_whole: false,
            is_deleted: false,
            artifact_uri: json::text(info, "artifact_uri").to_owned(),
        }))
    }

    /// Logs in a run what was logged in it, and closes it.
    fn fill_run(&mut self, run: &ImportRun) -> Result<()> {
        let Some(id) = self.report.ids.runs.get(&run.id).cloned() else { return Ok(()) };
        let failures = self.failures();
        let points = run.points.iter().map(|point| self.point(point)).collect();
        let tags = self.tags_of_run(run);
        self.log(&id, "metrics", cut(points, POINTS_MAX))?;
        self.log(&id, "params", cut(pairs(&run.params), PAIRS_MAX))?;
        self.log(&id, "tags", cut(tags, PAIRS_MAX))?;
        self.inputs_and_outputs(&id, run)?;
        let uri = self.run_roots.get(&run.id).map(|(_, uri)| uri.clone()).unwrap_or_default();
        self.files(&Owner::Run(run.id.clone()), &uri)?;
        let mut end = json!({ "run_id": id, "status": run.status });
        if let Some(time) = run.end_time {
            end["end_time"] = json!(time);
        }
        let ended = self.client.write("POST", "/api/2.0/mlflow/runs/update", &end);
        self.or_note(|| format!("end of run {}", run.id), ended)?;
        // After everything else: a run without this tag is filled again, one with it is never touched again.
        if self.failures() == failures {
            self.log(&id, "tags", vec![pairs(&[(WHOLE.to_owned(), "true".to_owned())])])?;
        }
        if run.is_deleted { self.delete_run(&id) } else { Ok(()) }
    }

    fn log(&mut self, run: &str, field: &'static str, batches: Vec<Vec<Value>>) -> Result<()> {
        for batch in batches {
            let logged =
                self.client.write("POST", "/api/2.0/mlflow/runs/log-batch", &json!({ "run_id": run, field: batch }));
            self.or_note(|| format!("some {field} of the new run {run}"), logged)?;
        }
        Ok(())
    }

    fn point(&self, point: &super::ImportPoint) -> Value {
        let value = match point.value {
            value if value.is_finite() => json!(value),
            value if value.is_nan() => json!("NaN"),
            value => json!(if value > 0.0 { "Infinity" } else { "-Infinity" }),
        };
        let mut body = json!({ "key": point.key, "value": value, "timestamp": point.timestamp, "step": point.step });
        if let Some(model) = point.model.as_ref().and_then(|model| self.report.ids.logged_models.get(model)) {
            body["model_id"] = json!(model);
        }
        body
    }

    /// Returns the tags of a run, with the new id of the run above it.
    fn tags_of_run(&mut self, run: &ImportRun) -> Vec<Value> {
        let mut tags = run.tags.clone();
        for (key, value) in &mut tags {
            if key != PARENT {
                continue;
            }
            match self.report.ids.runs.get(value) {
                Some(new) => value.clone_from(new),
                None => self.report.changed(format!("run {}", run.id), "its parent was not imported"),
            }
        }
        pairs(&tags)
    }

    fn inputs_and_outputs(&mut self, id: &str, run: &ImportRun) -> Result<()> {
        let datasets: Vec<Value> = run.datasets.iter().map(dataset).collect();
        if !datasets.is_empty() {
            let body = json!({ "run_id": id, "datasets": datasets });
            let logged = self.client.write("POST", "/api/2.0/mlflow/runs/log-inputs", &body);
            self.or_note(|| format!("data sets of run {}", run.id), logged)?;
        }
        let known = &self.report.ids.logged_models;
        let outputs: Vec<Value> = run
            .outputs
            .iter()
            .filter_map(|(model, step)| Some(json!({ "model_id": known.get(model)?, "step": step })))
            .collect();
        if !outputs.is_empty() {
            let body = json!({ "run_id": id, "models": outputs });
            let logged = self.client.write("POST", "/api/2.0/mlflow/runs/outputs", &body);
            self.or_note(|| format!("models of run {}", run.id), logged)?;
        }
        Ok(())
    }

    fn delete_run(&mut self, id: &str) -> Result<()> {
        let deleted = self.client.write("POST", "/api/2.0/mlflow/runs/delete", &json!({ "run_id": id }));
        self.or_note(|| format!("deletion of run {id}"), deleted).map(drop)
    }

    fn logged_models(&mut self, experiment: &ImportExperiment, id: &str) -> Result<()> {
        let mut known = None;
        let source = self.source;
        source.logged_models(&experiment.id, &mut |model| {
            // Asked for only if there are some, because servers before MLflow 3 have no logged models.
            if known.is_none() {
                let found = self.known_models(id);
                known = self.or_note(|| format!("logged models of {:?}", experiment.name), found)?;
            }
            match &known {
                Some(known) => self.logged_model(known, &model, id),
                None => Ok(()),
            }
        })
    }

    fn known_models(&self, experiment: &str) -> Result<Known> {
        let path = "/api/2.0/mlflow/logged-models/search";
        let list = List::search("imported models", path, "models", &["info", "model_id"])
            .with("experiment_ids", json!([experiment]))
            .paged(1000);
        let mut known = Known::new();
        list.read(&self.client, None, &mut |models| {
            for model in &models {
                let (info, tags) = (&model["info"], json::items(&model["info"], "tags"));
                if let Some(id) = tag_of(tags, SOURCE_MODEL) {
                    known.insert(
                        id.to_owned(),
                        Found {
                            id: json::text(info, "model_id").to_owned(),
                            is_whole: tag_of(tags, WHOLE).is_some(),
                            is_deleted: false,
                            artifact_uri: json::text(info, "artifact_uri").to_owned(),
                        },
                    );
                }
            }
            Ok(())
        })?;
        Ok(known)
    }

    fn logged_model(&mut self, known: &Known, model: &ImportLoggedModel, experiment: &str) -> Result<()> {
        let found = match known.get(&model.id) {
            Some(found) => {
                self.report.already_there("logged_models");
                found.clone()
            }
            None => match self.create_model(model, experiment)? {
                Some(found) => found,
                None => return Ok(()),
            },
        };
        self.report.ids.logged_models.insert(model.id.clone(), found.id.clone());
        if found.is_whole {
            return Ok(());
        }
        let failures = self.failures();
        self.files(&Owner::LoggedModel(model.id.clone()), &found.artifact_uri)?;
        let path = format!("/api/2.0/mlflow/logged-models/{}", encode(&found.id));
        let status = format!("LOGGED_MODEL_{}", model.status);
        let ended = self.client.write("PATCH", &path, &json!({ "model_id": found.id, "status": status }));
        self.or_note(|| format!("status of logged model {}", model.id), ended)?;
        if self.failures() > failures {
            return Ok(());
        }
        let body = json!({ "model_id": found.id, "tags": tag_list([(WHOLE, "true")]) });
        let tagged = self.client.write("PATCH", &format!("{path}/tags"), &body);
        self.or_note(|| format!("tags of logged model {}", model.id), tagged).map(drop)
    }

    fn create_model(&mut self, model: &ImportLoggedModel, experiment: &str) -> Result<Option<Found>> {
        let tags = borrowed(&model.tags).filter(|(key, _)| *key != REGISTRATIONS);
        let mut body = json!({
            "experiment_id": experiment,
            "name": model.name,
            "model_type": model.model_type,
            "params": pairs(&model.params),
            "tags": tag_list(tags.chain([(SOURCE_MODEL, model.id.as_str())])),
        });
        if let Some(run) = model.source_run.as_ref().and_then(|run| self.report.ids.runs.get(run)) {
            body["source_run_id"] = json!(run);
        } else if model.source_run.is_some() {
            self.report.changed(format!("logged model {}", model.id), "the run that made it was not imported");
        }
        let answer = self.client.write("POST", "/api/2.0/mlflow/logged-models", &body);
        let Some(answer) = self.or_note(|| format!("logged model {}", model.id), answer)? else { return Ok(None) };
        self.report.created("logged_models");
        let info = &answer["model"]["info"];
        Ok(Some(Found {
            id: json::text(info, "model_id").to_owned(),
            is_whole: false,
            is_deleted: false,
            artifact_uri: json::text(info, "artifact_uri").to_owned(),
        }))
    }
}

fn pairs(pairs: &[Pair]) -> Vec<Value> {
    pairs.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect()
}

fn dataset(dataset: &super::ImportDataset) -> Value {
    json!({
        "tags": pairs(&dataset.tags),
        "dataset": {
            "name": dataset.name,
            "digest": dataset.digest,
            "source_type": dataset.source_type,
            "source": dataset.source,
            "schema": dataset.schema,
            "profile": dataset.profile,
        },
    })
}
