//! Deployments that are laid out in other ways: with databases of their own for the model registry and for users, and with
//! workspaces; and one of which only the tracking server can be reached.

use std::fs;
use std::path::Path;

use crate::support::cli::Runner;
use crate::support::deployment::{Place, ThreeDays, assert_whole, snapshot_of};
use crate::support::mlflow_server::{MlflowOptions, MlflowServer};
use crate::support::tool;

/// What Python says to reach users and permissions.
const AUTH: &str =
    "from mlflow.server.auth.client import AuthServiceClient\nauth = AuthServiceClient(mlflow.get_tracking_uri())\n";

fn registry(folder: &Path) -> String {
    format!("sqlite:///{}", folder.join("registry.db").display())
}

/// Starts a server. With passwords, MLflow keeps users in `basic_auth.db`, and takes its time for each request.
fn serve(folder: &Path, has_passwords: bool) -> MlflowServer {
    fs::create_dir_all(folder).unwrap();
    MlflowServer::start_with(&MlflowOptions {
        folder: Some(folder.to_owned()),
        has_passwords,
        arguments: vec!["--registry-store-uri".to_owned(), registry(folder)],
        ..MlflowOptions::default()
    })
}

fn place(folder: &Path) -> Place {
    let users = format!("sqlite:///{}", folder.join("basic_auth.db").display());
    Place::in_folder(folder).with(&["--registry-store-uri", &registry(folder), "--auth-database-uri", &users])
}

#[test]
fn registry_and_users_in_databases_of_their_own_come_back() {
    let runner = Runner::with_repository();
    let (old, new, record) = (runner.path("old"), runner.path("new"), runner.path("record.json"));
    let server = serve(&old, false);
    server.log_day(1);
    server.record(&record);
    drop(server);
    let server = serve(&old, true);
    server.run(&format!(
        "{AUTH}auth.create_user('ann', 'not the administrator')\n\
         churn = client.get_experiment_by_name('churn').experiment_id\n\
         auth.grant_user_permission('ann', 'experiment', churn, 'EDIT')"
    ));
    let (id, snapshot) = place(&old).backup(&runner);
    assert_whole(&snapshot);
    let databases = snapshot["deployment"]["databases"].as_array().unwrap();
    let stores: Vec<_> = databases.iter().map(|database| database["store"].as_str().unwrap()).collect();
    assert_eq!(stores, ["backend", "registry", "auth"]);
    // Which of the dumps a restore to standard output means has to be said.
    let to_stdout = ["restore", "--snapshot", "latest", "--component", "database", "--target", "-"];
    assert!(runner.run(to_stdout).expect(2).stderr.contains("registry.sql"));
    assert!(!runner.run(to_stdout.into_iter().chain(["--path", "auth.sql"])).expect(0).stdout.is_empty());
    let models = runner.run(["models", "--json"]).expect(0).json();
    assert!(models["models"].as_array().unwrap().iter().any(|model| model["name"] == "fraud-detector"), "{models:#}");
    // A drill brings back all three, and MLflow reads its runs and its models from what came back.
    let mlflow = tool("mlflow").display().to_string();
    let drill = place(&old).run(&runner, &["drill", "--mlflow-command", &mlflow]).expect(0).json()["drill"].clone();
    assert_eq!(drill["result"], "passed", "{drill:#}");
    for store in ["backend", "registry", "auth"] {
        assert!(drill["tables"].as_array().unwrap().iter().any(|table| table["store"] == store), "{store}: {drill:#}");
        let part = format!("database/{store}");
        assert!(drill["places"].as_array().unwrap().iter().any(|place| place["part"] == part), "{part}: {drill:#}");
    }
    assert!(
        drill["server"]["models"].as_u64().unwrap() > 0 && drill["server"]["runs"].as_u64().unwrap() > 0,
        "{drill:#}"
    );
    drop(server);
    fs::remove_dir_all(&old).unwrap();

    fs::create_dir(&new).unwrap();
    place(&new).run(&runner, &["restore", "--snapshot", &id, "--yes"]).expect(0);
    let server = serve(&new, true);
    server.run(&format!(
        "{AUTH}churn = client.get_experiment_by_name('churn').experiment_id\n\
         assert 'EDIT' in str(vars(auth.get_user_permission('ann', 'experiment', churn)))"
    ));
    drop(server);
    let server = serve(&new, false);
    server.verify(&record, &[]);
    // A model is in one database, and what it was made of in the other.
    server.run("client.delete_registered_model('fraud-detector')");
    place(&new).run(&runner, &["restore", "--model", "fraud-detector", "--yes"]).expect(0);
    server.verify(&record, &[]);
}

#[test]
fn workspaces_come_back_and_a_name_that_two_of_them_have_is_not_guessed() {
    let runner = Runner::with_repository();
    let (old, new) = (runner.path("old"), runner.path("new"));
    let serve = |folder: &Path| {
        fs::create_dir_all(folder).unwrap();
        MlflowServer::start_with(&MlflowOptions {
            folder: Some(folder.to_owned()),
            arguments: vec!["--enable-workspaces".to_owned()],
            ..MlflowOptions::default()
        })
    };
    let server = serve(&old);
    server.run(
        "mlflow.create_workspace('team-a')\n\
         for workspace in ['default', 'team-a']:\n\
         \x20   mlflow.set_workspace(workspace)\n\
         \x20   run = client.create_run(client.create_experiment('twin')).info.run_id\n\
         \x20   client.log_text(run, 'of ' + workspace, 'file.txt')\n\
         \x20   client.create_registered_model('twin')\n\
         \x20   client.create_model_version('twin', client.get_run(run).info.artifact_uri, run)\n\
         client.create_registered_model('alone')",
    );
    let (id, record) = Place::in_folder(&old).backup(&runner);
    assert_whole(&record);
    drop(server);
    fs::remove_dir_all(&old).unwrap();
    for command in [&["models", "twin"][..], &["restore", "--model", "twin", "--target", "files"]] {
        assert!(runner.run(command).expect(1).stderr.contains("several workspaces"), "{command:?}");
    }
    assert!(runner.run(["runs", "--experiment", "twin"]).expect(1).stderr.contains("give its id"));
    runner.run(["models", "alone"]).expect(0);

    fs::create_dir(&new).unwrap();
    Place::in_folder(&new).run(&runner, &["restore", "--snapshot", &id, "--yes"]).expect(0);
    serve(&new).run(
        "for workspace in ['default', 'team-a']:\n\
         \x20   mlflow.set_workspace(workspace)\n\
         \x20   version = client.get_model_version('twin', '1')\n\
         \x20   file = mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path='file.txt')\n\
         \x20   assert open(file).read() == 'of ' + workspace, workspace",
    );
}

#[test]
fn where_only_the_server_can_be_asked_the_snapshot_says_what_it_lacks() {
    let lived = ThreeDays::unpack();
    let (runner, server) = (&lived.runner, lived.place().serve(&lived.folder()));
    let uri = server.uri();
    let backup = ["backup", "--json", "--deployment", "remote", "--tracking-uri", &uri];
    let (id, record) = snapshot_of(&runner.run(backup).expect(0));
    let told = &record["deployment"];
    let verdicts = ["database", "artifacts", "metadata"].map(|part| told["verdicts"][part].as_str().unwrap());
    assert_eq!(verdicts, ["absent", "absent", "ok"], "{record:#}");
    let lacks = told["lossy"].to_string();
    assert!(lacks.contains("artifact") && told["lossy"].as_array().unwrap().len() > 1, "{record:#}");
    assert!(runner.run(["cat", &id, "metadata/experiments.json"]).expect(0).text().contains("demand"));
    assert!(runner.run(["snapshots"]).expect(0).text().contains("remote"));

    let new = Place::in_folder(&runner.path("new"));
    let refused = new.run(runner, &["restore", "--snapshot", &id, "--yes"]).expect(1);
    assert!(refused.stderr.contains("database"), "{}", refused.stderr);
    assert!(!runner.path("new").exists());
}
