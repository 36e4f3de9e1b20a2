//! Parts of a deployment, deleted for good and put back while the server runs: rows with their ids, and files.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

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
