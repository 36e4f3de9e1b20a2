//! Bringing a deployment back through the REST API of a second server.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mlvault::error::{Error, Result};
use mlvault::hears::Hears;
use mlvault::tracking::export::{ExportOptions, export};
use mlvault::tracking::import::{
    ImportDataset, ImportExperiment, ImportLoggedModel, ImportPoint, ImportRegisteredModel, ImportRun, ImportSource,
    ImportVersion, Owner, Pair, import,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::mlflow_server::{MlflowOptions, MlflowServer};
use crate::tracking_client::client;

/// An export and the artifact directory of the server that it was made from.
struct Exported {
    directory: PathBuf,
    artifacts: PathBuf,
    /// After so many runs the source fails.
    runs_max: usize,
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

fn pairs(value: &Value, field: &str) -> Vec<Pair> {
    list(value, field).iter().map(|pair| (text(pair, "key"), text(pair, "value"))).collect()
}

impl Exported {
    fn json(&self, name: &str) -> Vec<Value> {
        serde_json::from_str(&fs::read_to_string(self.directory.join(name)).unwrap()).unwrap()
    }

    fn lines(&self, folder: &str, experiment: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.directory.join(format!("{folder}/{experiment}.jsonl"))).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn points(&self, experiment: &str) -> BTreeMap<String, Vec<ImportPoint>> {
        let mut points: BTreeMap<String, Vec<ImportPoint>> = BTreeMap::new();
        for metric in self.lines("metrics", experiment) {
            points.entry(text(&metric, "run_id")).or_default().extend(list(&metric, "points").iter().map(|point| {
                ImportPoint {
                    key: text(&metric, "key"),
                    timestamp: point[0].as_i64().unwrap(),
                    step: point[1].as_i64().unwrap(),
                    value: point[2].as_f64().unwrap_or(f64::NAN),
                    model: None,
                }
            }));
        }
        points
    }
}

fn run_of(run: &Value, points: Vec<ImportPoint>) -> ImportRun {
    let (info, data) = (&run["info"], &run["data"]);
    ImportRun {
        id: text(info, "run_id"),
        name: text(info, "run_name"),
        user: text(info, "user_id"),
        status: text(info, "status"),
        start_time: info["start_time"].as_i64().unwrap(),
        end_time: info["end_time"].as_i64(),
        is_deleted: info["lifecycle_stage"] == "deleted",
        artifact_uri: text(info, "artifact_uri"),
        params: pairs(data, "params"),
        tags: pairs(data, "tags"),
        points,
        datasets: list(&run["inputs"], "dataset_inputs").iter().map(dataset_of).collect(),
        outputs: list(&run["outputs"], "model_outputs")
            .iter()
            .map(|output| (text(output, "model_id"), output["step"].as_i64().unwrap_or(0)))
            .collect(),
    }
}

fn dataset_of(input: &Value) -> ImportDataset {
    let dataset = &input["dataset"];
    ImportDataset {
        name: text(dataset, "name"),
        digest: text(dataset, "digest"),
        source_type: text(dataset, "source_type"),
        source: text(dataset, "source"),
        schema: text(dataset, "schema"),
        profile: text(dataset, "profile"),
        tags: pairs(input, "tags"),
    }
}

fn version_of(version: &Value) -> ImportVersion {
    ImportVersion {
        number: text(version, "version").parse().unwrap(),
        source: text(version, "source"),
        run: Some(text(version, "run_id")).filter(|run| !run.is_empty()),
        description: text(version, "description"),
        stage: text(version, "current_stage"),
        tags: pairs(version, "tags"),
    }
}

impl ImportSource for Exported {
    fn experiments(&self) -> Result<Vec<ImportExperiment>> {
        let experiments = self.json("experiments.json").into_iter().map(|experiment| ImportExperiment {
            id: text(&experiment, "experiment_id"),
            name: text(&experiment, "name"),
            artifact_location: None,
            is_deleted: experiment["lifecycle_stage"] == "deleted",
            tags: pairs(&experiment, "tags"),
        });
        Ok(experiments.collect())
    }

    fn runs(&self, experiment: &str, each: &mut dyn FnMut(ImportRun) -> Result<()>) -> Result<()> {
        let mut points = self.points(experiment);
        for (number, run) in self.lines("runs", experiment).iter().enumerate() {
            if number == self.runs_max {
                return Err(Error::Interrupted);
            }
            each(run_of(run, points.remove(&text(&run["info"], "run_id")).unwrap_or_default()))?;
        }
        Ok(())
    }

    fn logged_models(&self, experiment: &str, each: &mut dyn FnMut(ImportLoggedModel) -> Result<()>) -> Result<()> {
        self.lines("logged_models", experiment).iter().try_for_each(|model| {
            let (info, data) = (&model["info"], &model["data"]);
            each(ImportLoggedModel {
                id: text(info, "model_id"),
                name: text(info, "name"),
                model_type: text(info, "model_type"),
                source_run: Some(text(info, "source_run_id")),
                status: text(info, "status").trim_start_matches("LOGGED_MODEL_").to_owned(),
                params: pairs(data, "params"),
                tags: pairs(info, "tags"),
            })
        })
    }

    fn registered_models(&self) -> Result<Vec<ImportRegisteredModel>> {
        let models = self.json("models.json").into_iter().chain(self.json("prompts.json"));
        let models = models.map(|model| ImportRegisteredModel {
            name: text(&model, "name"),
            description: text(&model, "description"),
            tags: pairs(&model, "tags"),
            aliases: list(&model, "aliases")
                .iter()
                .map(|alias| (text(alias, "alias"), text(alias, "version").parse().unwrap()))
                .collect(),
            versions: list(&model, "versions").iter().map(version_of).collect(),
        });
        Ok(models.collect())
    }

    fn files(&self, owner: &Owner) -> Result<Option<PathBuf>> {
        // There is no directory before there is a file in it.
        let mut experiments = fs::read_dir(&self.artifacts).into_iter().flatten().map(|entry| entry.unwrap().path());
        let below = match owner {
            Owner::Run(id) => format!("{id}/artifacts"),
            Owner::LoggedModel(id) => format!("models/{id}/artifacts"),
        };
        Ok(experiments.find_map(|experiment| Some(experiment.join(&below)).filter(|path| path.is_dir())))
    }
}

fn export_of(server: &MlflowServer, directory: &Path, runs_max: usize) -> Exported {
    let client = client(&server.uri(), &[]);
    export(&client, directory, ExportOptions::default(), &Hears::nobody()).unwrap();
    Exported { directory: directory.to_owned(), artifacts: server.artifacts(), runs_max }
}

#[test]
fn a_deployment_moves_to_another_server_and_a_second_import_makes_nothing_twice() {
    let (old, directory) = (MlflowServer::start_with(&MlflowOptions::default()), TempDir::new().unwrap());
    (1..=3).for_each(|day| old.log_day(day));
    let record = directory.path().join("record.json");
    old.record(&record);
    let exported = directory.path().join("export");
    fs::create_dir(&exported).unwrap();
    let mut source = export_of(&old, &exported, 5);

    let new = MlflowServer::start_with(&MlflowOptions::default());
    let client = client(&new.uri(), &[]);
    let interrupted = import(&client, &source, &Hears::nobody());
    assert!(matches!(interrupted, Err(Error::Interrupted)), "the source fails in the middle of the first sweep");
    source.runs_max = usize::MAX;
    let report = import(&client, &source, &Hears::nobody()).unwrap();
    assert!(report.left_out.is_empty() && report.copies_needed.is_empty(), "{report:?}");
    assert!(report.already_there["runs"] > 0);
    new.verify(&record, &["--new-ids", "--skip", "traces", "--skip", "evaluation_sets"]);
    let version = "demand-forecaster/2";
    assert_eq!(report.ids.versions[version], version, "version 1 was deleted, and the others keep their numbers");

    let again = import(&client, &source, &Hears::nobody()).unwrap();
    assert!(again.created.is_empty() && again.files == 0, "{again:?}");
    assert_eq!(again.ids, report.ids);
}

#[test]
fn what_the_server_has_already_is_left_alone_and_told_of() {
    let (old, directory) = (MlflowServer::start_with(&MlflowOptions::default()), TempDir::new().unwrap());
    old.run(
        "client.create_experiment('gone'); client.create_experiment('shared', tags={'of': 'old'})\n\
         client.create_registered_model('model', tags={'of': 'old'})\n\
         client.create_model_version('model', 's3://elsewhere/model')\n\
         client.create_registered_model('free'); client.create_model_version('free', 's3://elsewhere/model')\n\
         client.create_run('2', run_name='from old')",
    );
    let source = export_of(&old, directory.path(), usize::MAX);
    let new = MlflowServer::start_with(&MlflowOptions::default());
    new.run(
        "client.delete_experiment(client.create_experiment('gone'))\n\
         client.create_experiment('shared', tags={'of': 'new'})\n\
         client.create_registered_model('model', tags={'of': 'new'})",
    );
    let report = import(&client(&new.uri(), &[]), &source, &Hears::nobody()).unwrap();
    let left_out: Vec<&str> = report.left_out.iter().map(|note| note.what.as_str()).collect();
    assert_eq!(left_out, ["experiment \"gone\"", "registered model \"model\""]);
    let changed = |what: &str| report.changed.iter().any(|note| note.what.contains(what));
    assert!(changed("\"shared\"") && changed("version free/1"), "{report:?}");
    let state = new.run(
        "shared = client.get_experiment_by_name('shared')\n\
         runs = client.search_runs([shared.experiment_id])\n\
         model = client.get_registered_model('model')\n\
         print(shared.tags['of'], model.tags['of'], runs[0].info.run_name, len(model.latest_versions))",
    );
    assert_eq!(state, "new new from old 0");
}
