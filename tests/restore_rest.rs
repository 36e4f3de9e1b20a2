//! A snapshot of a real deployment, brought back through the REST API of another server.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::support::cli::{Outcome, Runner, finish, noise};
use crate::support::mlflow_server::{MlflowOptions, MlflowServer};

/// Logs three days on a server, writes down what it holds, and backs it up. Returns the runner with the repository.
fn backed_up(server: &MlflowServer) -> Runner {
    let runner = Runner::with_repository();
    (1..=3).for_each(|day| server.log_day(day));
    server.record(&runner.path("record.json"));
    back_up(&runner, server);
    runner
}

fn back_up(runner: &Runner, server: &MlflowServer) {
    let database = format!("sqlite:///{}", server.database().display());
    let artifacts = format!("mlflow-artifacts:/={}", server.artifacts().display());
    let name = ["backup", "--deployment", "production", "--backend-store-uri", &database, "--artifacts", &artifacts];
    runner.run(name).expect(0);
}

/// Brings a part of the last snapshot back through a server; everything without arguments.
fn bring_back(runner: &Runner, server: &MlflowServer, arguments: &[&str]) -> Outcome {
    let uri = server.uri();
    let fixed = ["restore", "--via-rest", "--deployment", "production", "--tracking-uri", &uri, "--yes", "--json"];
    finish(&mut runner.command(fixed.iter().chain(arguments)))
}

fn left_out(json: &Value) -> Vec<&str> {
    json["summary"]["left_out"].as_array().unwrap().iter().map(|note| note["what"].as_str().unwrap()).collect()
}

#[test]
fn a_deployment_comes_back_through_another_server_and_what_does_not_is_told() {
    let old = MlflowServer::start_with(&MlflowOptions::default());
    let runner = backed_up(&old);
    let record = runner.path("record.json");
    drop(old);
    let new = MlflowServer::start_with(&MlflowOptions::default());
    let map = runner.path("ids.json");

    let planned = bring_back(&runner, &new, &["--dry-run"]).expect(0).json();
    assert!(planned["plan"]["runs"].as_u64() > Some(10), "{planned:#}");
    assert_eq!(new.run("print(len(client.search_experiments()))"), "1", "a dry run makes nothing");

    // The maker logs traces and an evaluation data set, which no import brings back.
    let json = bring_back(&runner, &new, &["--id-map", map.to_str().unwrap()]).expect(3).json();
    crate::docs::json_fields::assert_documented("restore", &planned);
    crate::docs::json_fields::assert_documented("restore", &json);
    let lost = left_out(&json);
    assert!(lost.iter().any(|what| what.ends_with("table spans")), "{lost:?}");
    assert!(lost.iter().all(|what| what.contains("rows of the table")), "{lost:?}");
    new.verify(&record, &["--new-ids", "--skip", "traces", "--skip", "evaluation_sets"]);
    let ids: Value = serde_json::from_slice(&fs::read(&map).unwrap()).unwrap();
    assert_eq!(ids, json["summary"]["ids"]);
    assert_eq!(ids["runs"].as_object().unwrap().len() as u64, planned["plan"]["runs"].as_u64().unwrap());

    let again = bring_back(&runner, &new, &[]).expect(3).json();
    assert!(again["summary"]["created"].as_object().unwrap().is_empty(), "{again:#}");
    assert_eq!(left_out(&again), lost, "and nothing more is left out");
    assert_eq!(again["summary"]["ids"], ids);
    assert_eq!(again["summary"]["files"], 0);
}

#[test]
fn one_version_comes_back_with_its_run_and_predicts_the_same() {
    let old = MlflowServer::start_with(&MlflowOptions::default());
    let runner = backed_up(&old);
    let record = runner.path("record.json");
    let new = MlflowServer::start_with(&MlflowOptions::default());
    let part = ["--model", "support-encoder", "--version", "2"];
    let json = bring_back(&runner, &new, &part).expect(0).json();
    assert_eq!(json["summary"]["ids"]["versions"]["support-encoder/2"], "support-encoder/2");
    new.verify(&record, &["--only", "support-encoder/2", "--new-ids"]);
    assert_eq!(new.run("print(len(client.search_registered_models()))"), "1");

    let nobody = bring_back(&runner, &new, &["--model", "unheard-of"]);
    assert!(nobody.expect(1).stderr.contains("unheard-of"));
}

#[test]
fn files_that_a_server_does_not_take_are_put_where_they_belong_or_told_of() {
    let old = MlflowServer::start_with(&MlflowOptions::default());
    let runner = Runner::with_repository();
    old.run(
        "mlflow.set_experiment('direct')\n\
         with mlflow.start_run() as run: mlflow.log_text('hello', 'notes/hello.txt'); mlflow.log_metric('m', 1)\n\
         with mlflow.start_run() as run: mlflow.log_metric('m', float('nan'))",
    );
    back_up(&runner, &old);
    let direct = runner.path("direct");
    let arguments = vec!["--default-artifact-root".to_owned(), direct.display().to_string()];
    let new = MlflowServer::start_with(&MlflowOptions { arguments, ..MlflowOptions::default() });
    let json = bring_back(&runner, &new, &[]).expect(3).json();
    assert_eq!(json["summary"]["copies_needed"].as_array().unwrap().len(), 1, "{json:#}");

    let json = bring_back(&runner, &new, &["--artifacts", direct.to_str().unwrap()]).expect(0).json();
    assert!(json["summary"]["created"].as_object().unwrap().is_empty(), "{json:#}");
    let told = new.run(
        "runs = client.search_runs([client.get_experiment_by_name('direct').experiment_id])\n\
         files = [f.path for r in runs for f in client.list_artifacts(r.info.run_id, 'notes')]\n\
         points = [p.value for r in runs for p in client.get_metric_history(r.info.run_id, 'm')]\n\
         print(files, sorted(map(str, points)))",
    );
    assert_eq!(told, "['notes/hello.txt'] ['1.0', 'nan']");
}

#[test]
fn damaged_files_are_named_and_the_rest_comes_back() {
    let old = MlflowServer::start_with(&MlflowOptions::default());
    let runner = Runner::with_repository();
    let file = runner.write("weights.bin", noise(1, 1 << 20)).display().to_string();
    old.run(&format!(
        "mlflow.set_experiment('some')\n\
         with mlflow.start_run(run_name='with'): mlflow.log_artifact({file:?})\n\
         with mlflow.start_run(run_name='without'): mlflow.log_metric('m', 1)"
    ));
    // What is stored first is in packs of its own, so that damage to it leaves the dump whole.
    runner.backup();
    let packs: Vec<_> =
        runner.files("repo/packs/data").into_iter().map(|pack| (fs::read(&pack).unwrap(), pack)).collect();
    back_up(&runner, &old);
    for (bytes, pack) in &packs {
        let mut damaged = bytes.clone();
        damaged[bytes.len() / 2] ^= 1;
        fs::set_permissions(pack, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(pack, damaged).unwrap();
    }
    let new = MlflowServer::start_with(&MlflowOptions::default());
    let json = bring_back(&runner, &new, &[]).expect(3).json();
    let lost = left_out(&json);
    assert!(lost.len() == 1 && lost[0].starts_with("files of run"), "{json:#}");
    let count = "print(len(client.search_runs([client.get_experiment_by_name('some').experiment_id])))";
    assert_eq!(new.run(count), "2");

    for (bytes, pack) in &packs {
        fs::write(pack, bytes).unwrap();
    }
    let json = bring_back(&runner, &new, &[]).expect(0).json();
    assert_eq!(json["summary"]["files"], 1, "what was left out comes with the next try: {json:#}");
}
