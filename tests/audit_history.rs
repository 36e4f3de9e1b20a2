//! `mlvault audit history`: what snapshots tell of one thing over time.
//!
//! What must stay true: an auditor's key and the catalogues are enough; content of a version that changed is never overlooked, and
//! what changed for a good reason is never taken for that; whatever may hide something is said.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use rusqlite::Connection;
use serde_json::Value;

use crate::report::browse;
use crate::status::{backup, configure, run};
use crate::support::cli::{Outcome, Runner};
use crate::support::deployment::ThreeDays;
use crate::support::sqlite_file::create_mlflow;

/// A run with what it measured, and a model with a version of it.
const MODEL: &str = "
    INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, creation_time)
        VALUES (1, 'cards', 'mlflow-artifacts:/1', 'active', 1700000000000);
    INSERT INTO experiment_tags (key, value, experiment_id) VALUES ('team', 'risk', 1);
    INSERT INTO runs (run_uuid, name, experiment_id, artifact_uri, lifecycle_stage, status)
        VALUES ('abc', 'a', 1, 'mlflow-artifacts:/1/abc/artifacts', 'active', 'FINISHED');
    INSERT INTO params (run_uuid, key, value) VALUES ('abc', 'depth', '7');
    INSERT INTO latest_metrics (run_uuid, key, value, timestamp, step, is_nan) VALUES ('abc', 'auc', 0.5, 1, 0, 0);
    INSERT INTO registered_models (name, creation_time, last_updated_time) VALUES ('fraud', 1700000000000, 1);
    INSERT INTO model_versions (name, version, creation_time, source, run_id, status, current_stage)
        VALUES ('fraud', 1, 1700000000001, 'mlflow-artifacts:/1/abc/artifacts/m', 'abc', 'READY', 'None');
    INSERT INTO registered_model_aliases (name, alias, version) VALUES ('fraud', 'champion', 1);
    INSERT INTO model_version_tags (name, version, key, value) VALUES ('fraud', 1, 'approved', 'no');
";

/// Deployments in folders of a runner, each with [`MODEL`] and its files.
pub struct Registry {
    pub runner: Runner,
}

impl Registry {
    pub fn create(names: &[&str]) -> Self {
        let registry = Self { runner: Runner::with_repository() };
        configure(&registry.runner, &names.iter().map(|name| (*name, "")).collect::<Vec<_>>());
        for name in names {
            fs::create_dir_all(registry.file(name, "x").parent().unwrap()).unwrap();
            registry.write(name, "weights of the first version");
            fs::write(registry.file(name, "MLmodel"), "flavors: {}\n").unwrap();
            create_mlflow(&registry.runner.path(name).join("mlflow.db")).execute_batch(MODEL).unwrap();
        }
        registry
    }

    pub fn file(&self, deployment: &str, file: &str) -> PathBuf {
        self.runner.path(deployment).join("artifacts/1/abc/artifacts/m").join(file)
    }

    pub fn write(&self, deployment: &str, content: &str) {
        fs::write(self.file(deployment, "model.bin"), content).unwrap();
    }

    pub fn sql(&self, deployment: &str, statements: &str) {
        Connection::open(self.runner.path(deployment).join("mlflow.db")).unwrap().execute_batch(statements).unwrap();
    }

    pub fn backup(&self, deployment: &str) -> String {
        self.runner.settle();
        backup(&self.runner, deployment).expect(0).json()["snapshot"].as_str().unwrap().to_owned()
    }

    fn history(&self, more: &[&str]) -> Outcome {
        run(&self.runner, &[&["audit", "history"], more].concat())
    }

    fn history_of_version(&self, code: i32) -> Value {
        self.history(&["--model", "fraud", "--version", "1", "--json"]).expect(code).json()
    }
}

/// Returns the items of one kind.
fn items<'h>(history: &'h Value, kind: &str) -> Vec<&'h Value> {
    history["items"].as_array().unwrap().iter().filter(|item| item["kind"] == kind).collect()
}

/// Returns what changed: the snapshot, what it was and what it became.
fn changes(item: &Value) -> BTreeMap<String, [String; 3]> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let change = |change: &Value| {
        (text(&change["what"]), [text(&change["snapshot"]), text(&change["old"]), text(&change["new"])])
    };
    item["changes"].as_array().unwrap().iter().map(change).collect()
}

#[test]
fn a_version_is_followed_with_its_aliases_stages_tags_run_and_files() {
    let registry = Registry::create(&["production"]);
    let first = registry.backup("production");
    registry.sql(
        "production",
        "UPDATE registered_model_aliases SET alias = 'old-champion';
         UPDATE model_versions SET current_stage = 'Production';
         UPDATE model_version_tags SET value = 'yes';",
    );
    let second = registry.backup("production");
    let history = registry.history_of_version(0);
    let [version] = items(&history, "version")[..] else { panic!("{history:#}") };
    assert_eq!(version["snapshots"], serde_json::json!([first, second]), "{version:#}");
    assert_eq!((&version["id"], &version["source"]), (&"fraud/1".into(), &"deployment production".into()));
    let found = changes(version);
    for (what, old, new) in [
        ("aliases", "[\"champion\"]", "[\"old-champion\"]"),
        ("stage", "None", "Production"),
        ("tags.approved", "no", "yes"),
    ] {
        assert_eq!(found[what], [second.clone(), old.to_owned(), new.to_owned()], "{found:#?}");
    }
    assert_eq!((found.len(), history["is_altered"].as_bool()), (3, Some(false)), "{found:#?}");
    assert_eq!(version["facts"]["source"], "mlflow-artifacts:/1/abc/artifacts/m", "{version:#}");
    let files: Vec<_> =
        version["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert_eq!(files.len(), 2, "{version:#}");
    assert!(files[1].ends_with("/m/model.bin"), "{files:?}");
    let digest = blake3::hash(b"weights of the first version").to_string();
    assert_eq!(version["files"][1]["versions"][0]["digest"], digest.as_str(), "{version:#}");
    let [run] = items(&history, "run")[..] else { panic!("{history:#}") };
    assert_eq!((&run["facts"]["params.depth"], &run["facts"]["metrics.auc"]), (&"7".into(), &0.5.into()), "{run:#}");

    let experiment = registry.history(&["--experiment", "cards", "--json"]).expect(0).json();
    assert_eq!(items(&experiment, "experiment")[0]["facts"]["tags.team"], "risk", "{experiment:#}");
    let text = registry.history(&["--run", "abc"]).expect(0).text();
    assert!(text.contains("params.depth = 7") && text.contains("Nothing of it has changed"), "{text}");
    registry.history(&["--run", "none"]).expect(1);
    registry.history(&[]).expect(2);
}

#[test]
fn files_of_a_version_that_are_not_what_they_were_are_said_loudly() {
    let registry = Registry::create(&["production"]);
    registry.backup("production");
    registry.write("production", "weights that somebody put in their place");
    let second = registry.backup("production");
    let history = registry.history_of_version(4);
    assert_eq!(history["is_altered"], true);
    let [version] = items(&history, "version")[..] else { panic!("{history:#}") };
    let altering: Vec<_> =
        version["changes"].as_array().unwrap().iter().filter(|change| change["alters"] == true).collect();
    assert_eq!((altering.len(), &altering[0]["snapshot"]), (1, &second.as_str().into()), "{version:#}");
    assert_eq!(version["files"][1]["versions"].as_array().unwrap().len(), 2, "{version:#}");
    let page = registry.runner.path("history.html");
    let whole = registry.history(&["--model", "fraud", "--html", page.to_str().unwrap()]).expect(4).text();
    assert!(whole.contains("CONTENT CHANGED: "), "{whole}");
    let dom = browse(&page, &["--dump-dom"]);
    assert!(dom.contains("<title>History of model fraud</title>") && dom.contains("class=\"altered\""), "{dom}");
    assert!(dom.contains("alias champion") && !dom.contains("http:"), "{dom}");

    // What is lost was changed as well.
    fs::remove_file(registry.file("production", "MLmodel")).unwrap();
    registry.runner.settle();
    backup(&registry.runner, "production").expect(3);
    let history = registry.history_of_version(4);
    let lost = items(&history, "version")[0]["changes"].as_array().unwrap().clone();
    assert_eq!(lost.iter().filter(|change| change["alters"] == true).count(), 2, "{lost:#?}");
}

#[test]
fn a_model_that_was_made_anew_under_its_name_is_another_one_and_deployments_are_not_mixed() {
    let registry = Registry::create(&["production", "staging"]);
    let first = registry.backup("production");
    let other = registry.backup("staging");
    registry.write("production", "another model");
    registry.sql(
        "production",
        "UPDATE registered_models SET creation_time = 1800000000000; UPDATE model_versions SET creation_time = 1800000000001;",
    );
    let second = registry.backup("production");
    registry.write("staging", "forged");
    registry.sql(
        "staging",
        "DELETE FROM registered_model_aliases; DELETE FROM model_version_tags; DELETE FROM model_versions;",
    );
    let without = registry.backup("staging");
    let history = registry.history_of_version(0);
    let versions = items(&history, "version");
    assert_eq!(
        versions.iter().map(|it| &it["snapshots"][0]).collect::<Vec<_>>(),
        [&first, &second, &other],
        "{history:#}"
    );
    assert_eq!(versions[0]["absent"], serde_json::json!([second]));
    assert_eq!(versions[2]["absent"], serde_json::json!([without]));
    let one = registry.history(&["--model", "fraud", "--deployment", "staging", "--json"]).expect(0).json();
    assert!(one["items"].as_array().unwrap().iter().all(|item| item["source"] == "deployment staging"), "{one:#}");
}

#[test]
fn an_auditor_needs_no_content_and_is_told_what_may_hide_something() {
    let registry = Registry::create(&["production"]);
    let runner = &registry.runner;
    let (first, second) = (registry.backup("production"), registry.backup("production"));
    let (third, fourth) = (registry.backup("production"), registry.backup("production"));
    run(runner, &["forget", &first]).expect(0);
    let key = runner.path("auditor");
    let add = ["key", "add", "--label", "auditor", "--role", "auditor", "--new-key-file", key.to_str().unwrap()];
    run(runner, &add).expect(0);
    fs::remove_dir_all(runner.path("repo/packs/data")).unwrap();
    let args = ["--model", "fraud", "--version", "1", "--json", "--key-file", key.to_str().unwrap()];
    let history = registry.history(&args).expect(0).json();
    let [version] = items(&history, "version")[..] else { panic!("{history:#}") };
    assert_eq!(version["snapshots"], serde_json::json!([first, second, third, fourth]), "{version:#}");
    assert_eq!(
        (&history["snapshots"][0]["id"], history["snapshots"][0]["forgotten"]["by"].is_string()),
        (&first.as_str().into(), true)
    );

    // A record that cannot be read, and one that somebody has deleted.
    fs::write(runner.path("repo/snapshots").join(&second), "junk").unwrap();
    fs::remove_file(runner.path("repo/snapshots").join(&third)).unwrap();
    let history = registry.history(&args).expect(3).json();
    assert_eq!(items(&history, "version")[0]["snapshots"], serde_json::json!([first, fourth]), "{history:#}");
    assert_eq!(
        (history["vanished"][0]["snapshot"].as_str(), history["unreadable"].as_array().unwrap().len()),
        (Some(third.as_str()), 1)
    );
    let text = registry.history(&args[..4]).expect(3).text();
    assert!(text.contains("GONE: ") && text.contains("UNREADABLE: "), "{text}");
}

#[test]
fn a_path_is_followed_in_whatever_it_was_backed_up() {
    let runner = Runner::with_repository();
    runner.write("a/file", "one");
    let first = runner.backup();
    runner.write("a/file", "two");
    let second = runner.backup();
    let history = runner.run(["audit", "history", "--path", "./a/", "--json"]).expect(0).json();
    let [file] = items(&history, "path")[..] else { panic!("{history:#}") };
    assert_eq!((&file["id"], &file["snapshots"]), (&"a/file".into(), &serde_json::json!([first, second])), "{file:#}");
    assert_eq!(changes(file)["digest"], [second, blake3::hash(b"one").to_string(), blake3::hash(b"two").to_string()]);
    runner.run(["audit", "history", "--path", "a/other"]).expect(1);
}

#[test]
fn what_mlflow_itself_logged_is_followed() {
    let lived = ThreeDays::unpack();
    let history = lived.runner.run(["audit", "history", "--model", "fraud-detector", "--json"]).expect(0).json();
    assert_eq!((items(&history, "version").len(), items(&history, "model").len()), (4, 1), "{history:#}");
    let one = ["audit", "history", "--model", "fraud-detector", "--version", "1", "--json"];
    let history = lived.runner.run(one).expect(0).json();
    let version = items(&history, "version")[0];
    assert_eq!(version["snapshots"].as_array().unwrap().len(), 4);
    assert!(version["files"].as_array().unwrap().len() > 2, "{version:#}");
    assert!(changes(version).contains_key("aliases"), "{version:#}");
}
