//! Parts of a deployment, deleted for good and put back while the server runs: rows with their ids, and files.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use rusqlite::Connection;
use serde_json::Value;

use crate::support::cli::Runner;
use crate::support::deployment::{Place, ThreeDays};
use crate::support::mlflow_server::MlflowServer;
use crate::support::tool;

#[test]
fn what_was_deleted_from_sqlite_comes_back_while_the_server_runs() {
    let lived = ThreeDays::unpack();
    let server = lived.place().serve(&lived.folder());
    lose_and_get_back(&lived.runner, &lived.place(), &server);
    server.verify(&lived.record(3), &[]);
}

/// Deletes a model, a version, a run and an experiment for good, and restores each; then lets others change a row.
///
/// Afterwards the deployment is what its last snapshot says.
pub fn lose_and_get_back(runner: &Runner, place: &Place, server: &MlflowServer) {
    let lost = server.run(
        "client.delete_registered_model('fraud-detector')\n\
         client.delete_model_version('support-encoder', '2')\n\
         demand = client.get_experiment_by_name('demand').experiment_id\n\
         run = client.search_runs([demand], \"tags.mlflow.runName = 'day1-0'\")[0].info.run_id\n\
         client.delete_run(run)\n\
         churn = client.get_experiment_by_name('churn').experiment_id\n\
         client.delete_experiment(churn)\n\
         print(run, churn)",
    );
    let (run, churn) = lost.split_once(' ').unwrap();
    place.collect_garbage(server, &["--run-ids", run, "--experiment-ids", churn]);
    server.run(&format!(
        "assert client.get_experiment_by_name('churn') is None\n\
         demand = client.get_experiment_by_name('demand').experiment_id\n\
         every = client.search_runs([demand], run_view_type=mlflow.entities.ViewType.ALL)\n\
         assert every and '{run}' not in [run.info.run_id for run in every]"
    ));

    let parts: [&[&str]; 3] = [&["--model", "fraud-detector"], &["--run", run], &["--experiment", churn]];
    for part in parts {
        let planned = put_back(runner, place, &[part, &["--dry-run"]].concat());
        let done = put_back(runner, place, &[part, &["--yes"]].concat());
        assert_eq!(sums(&done), sums(&planned), "{part:?}");
        assert!(sums(&done).0 > 0, "{part:?}: {done:#}");
        let again = put_back(runner, place, &[part, &["--yes"]].concat());
        assert_eq!((sums(&again).0, &again["artifacts"]["files_written"]), (0, &Value::from(0)), "{part:?}: {again:#}");
    }
    // Of a version, MLflow leaves an emptied row: that does not count as being there.
    let version = ["--model", "support-encoder", "--version", "2", "--yes"];
    let (inserted, conflicts) = sums(&put_back(runner, place, &version));
    assert!(inserted > 0 && conflicts == 0, "{inserted} {conflicts}");
    assert_eq!(sums(&put_back(runner, place, &version)), (0, 0));
    conflict(runner, place, server);
}

/// Returns the summary of a restore of a part.
#[track_caller]
fn put_back(runner: &Runner, place: &Place, part: &[&str]) -> Value {
    place.run(runner, &[&["restore"], part].concat()).expect(0).json()["summary"].take()
}

/// Returns how many rows were inserted, and how many are there and differ.
fn sums(summary: &Value) -> (u64, u64) {
    let tables = summary["tables"].as_array().unwrap();
    let sum = |field: &str| tables.iter().map(|table| table[field].as_u64().unwrap()).sum();
    (sum("inserted"), sum("conflicts"))
}

/// Somebody changes a row of a version that is then restored.
fn conflict(runner: &Runner, place: &Place, server: &MlflowServer) {
    let tag = || server.run("print(client.get_model_version('support-encoder', '4').tags['approved'])");
    let version = ["restore", "--model", "support-encoder", "--version", "4", "--yes"];
    server.run("client.set_model_version_tag('support-encoder', '4', 'approved', 'by somebody else')");

    let refused = place.run(runner, &version).expect(1);
    assert!(refused.stderr.contains("--on-conflict") && refused.text().contains("model_version_tags"), "{refused:?}");
    assert_eq!(tag(), "by somebody else");
    place.run(runner, &[&version[..], &["--on-conflict", "keep"]].concat()).expect(0);
    assert_eq!(tag(), "by somebody else");
    place.run(runner, &[&version[..], &["--on-conflict", "replace"]].concat()).expect(0);
    assert_eq!(tag(), "on day 3");
}

#[test]
fn a_version_as_it_was_in_the_past_is_loaded_without_any_server() {
    let lived = ThreeDays::unpack();
    let runner = &lived.runner;
    fs::remove_dir_all(lived.folder()).unwrap();
    let day1 = lived.snapshots[0].1["finished"].as_str().unwrap();
    // On day 1 the champion was version 1; later it was another.
    let target = runner.path("files");
    let restore = ["restore", "--model", "support-encoder", "--version", "champion", "--target"].map(str::to_owned);
    let past = [target.display().to_string(), "--as-of".to_owned(), day1.to_owned()];
    runner.run(restore.iter().chain(&past)).expect(0);
    assert_predicts(&lived.record(3), "support-encoder/1", &target);

    let now = runner.path("files-now");
    runner.run(restore.iter().chain([&now.display().to_string()])).expect(0);
    assert_predicts(&lived.record(3), "support-encoder/3", &now);
    runner.run(restore.iter().chain(&past)).expect(0);
}

/// Loads a model from a folder, and fails unless it is the version that was written down: same files, same predictions.
fn assert_predicts(record: &Path, version: &str, folder: &Path) {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let program = format!(
        "import json, sys\nsys.path.insert(0, {tests:?})\nimport make_deployment as made\n\
         expected = json.load(open({record:?}))['versions']['{version}']\n\
         assert made.file_digests({folder:?}) == expected['files']\n\
         model = made.mlflow.pyfunc.load_model({folder:?})\n\
         found = made.np.asarray(model.predict(made.fixed_input('{version}'.split('/')[0]))).tolist()\n\
         assert found == expected['predictions']"
    );
    let mut python = Command::new(tool("python"));
    python.args(["-B", "-c", &program]).env_remove("MLFLOW_TRACKING_URI").stdin(Stdio::null());
    python.current_dir(folder.parent().unwrap());
    let output = python.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Makes an experiment with a run as MLflow's tables have them. Returns its id.
#[track_caller]
fn make_experiment(database: &Connection, name: &str, run: &str) -> i64 {
    let insert = "INSERT INTO experiments (name, artifact_location, lifecycle_stage, creation_time, workspace) \
                  VALUES (?1, '', 'active', 1, 'default')";
    database.execute(insert, [name]).unwrap();
    let id = database.last_insert_rowid();
    let location = format!("mlflow-artifacts:/{id}");
    let place = "UPDATE experiments SET artifact_location = ?1 WHERE experiment_id = ?2";
    database.execute(place, rusqlite::params![location, id]).unwrap();
    let insert = "INSERT INTO runs (run_uuid, name, status, lifecycle_stage, artifact_uri, experiment_id, user_id, \
                  start_time, end_time, source_type) VALUES (?1, ?1, 'FINISHED', 'active', ?2, ?3, 'u', 1, 2, 'LOCAL')";
    database.execute(insert, rusqlite::params![run, format!("{location}/{run}/artifacts"), id]).unwrap();
    id
}

#[test]
fn a_run_goes_into_its_own_experiment_whoever_has_the_id_or_the_name_now() {
    let lived = ThreeDays::unpack();
    let (runner, place) = (&lived.runner, lived.place());
    let database = Connection::open(lived.folder().join("mlflow.db")).unwrap();
    let id = make_experiment(&database, "leasing", "r1");
    place.backup(runner);
    let purge = |name: &str| {
        let of = "(SELECT experiment_id FROM experiments WHERE name = ?1)";
        database.execute(&format!("DELETE FROM runs WHERE experiment_id = {of}"), [name]).unwrap();
        database.execute("DELETE FROM experiments WHERE name = ?1", [name]).unwrap();
    };
    let of_run = |run: &str| {
        let sql = "SELECT e.name, e.experiment_id, e.artifact_location FROM runs r JOIN experiments e USING (experiment_id) \
                   WHERE run_uuid = ?1";
        let read =
            |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?));
        database.query_row(sql, [run], read).unwrap()
    };

    // The id is another's now: the experiment comes back under a new one.
    purge("leasing");
    assert_eq!(make_experiment(&database, "payroll", "r2"), id);
    let done = put_back(runner, &place, &["--run", "r1", "--yes"]);
    let told = &done["experiments"][0];
    assert_eq!((&told["name"], &told["id_taken_by"]), (&"leasing".into(), &"payroll".into()), "{done:#}");
    let (name, new_id, location) = of_run("r1");
    assert!(name == "leasing" && new_id > id && location == format!("mlflow-artifacts:/{new_id}"), "{name} {location}");
    assert_eq!(of_run("r2").0, "payroll");
    assert_eq!(sums(&put_back(runner, &place, &["--run", "r1", "--yes"])), (0, 0));
    let replaced =
        place.run(runner, &["restore", "--experiment", "leasing", "--on-conflict", "replace", "--yes"]).expect(0);
    assert_eq!(of_run("r2").0, "payroll", "{}", replaced.text());

    // It was made again, under another id, and nobody has the old one.
    purge("leasing");
    purge("payroll");
    let spare = make_experiment(&database, "spare", "r3");
    let again = make_experiment(&database, "leasing", "r4");
    purge("spare");
    assert!(spare == id && again != id);
    put_back(runner, &place, &["--run", "r1", "--yes"]);
    assert_eq!((of_run("r1").0.as_str(), of_run("r1").1), ("leasing", again));

    // It was renamed, and has a run that the snapshot has: that is the one.
    purge("leasing");
    assert_eq!(make_experiment(&database, "leasing", "r1"), id);
    database.execute("UPDATE experiments SET name = 'leasing-2025' WHERE experiment_id = ?1", [id]).unwrap();
    let done = put_back(runner, &place, &["--run", "r1", "--yes"]);
    assert_eq!((&done["experiments"], of_run("r1").0.as_str()), (&serde_json::json!([]), "leasing-2025"), "{done:#}");
}
