//! One repository with several deployments and other things in it: what a name means, and what is said of the answer.
//!
//! What must stay true: `latest`, a day or a time never means a snapshot of something else than what was asked for, and each
//! answer says what it is from.

use std::fs;

use serde_json::Value;

use crate::support::cli::{Outcome, Runner, finish};
use crate::support::deployment::ROOT;
use crate::support::sqlite_file::create_mlflow;

/// Makes a deployment with one model version, whose files are there or not.
fn create(runner: &Runner, name: &str) {
    let folder = runner.path(name);
    fs::create_dir_all(folder.join("artifacts/1/m")).unwrap();
    fs::write(folder.join("artifacts/1/m/MLmodel"), format!("model of {name}")).unwrap();
    create_mlflow(&folder.join("mlflow.db"))
        .execute_batch(&format!(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage)
             VALUES (1, 'of {name}', 'mlflow-artifacts:/1', 'active');
             INSERT INTO registered_models (name, creation_time, last_updated_time) VALUES ('of {name}', 1, 1);
             INSERT INTO model_versions (name, version, creation_time, current_stage, source, storage_location, status)
             VALUES ('of {name}', 1, 1, 'None', 'mlflow-artifacts:/1/m', 'mlflow-artifacts:/1/m', 'READY');"
        ))
        .unwrap();
}

/// The arguments that describe a deployment in a folder.
fn place(runner: &Runner, folder: &str) -> [String; 4] {
    let path = runner.path(folder);
    [
        "--backend-store-uri".to_owned(),
        format!("sqlite:///{}", path.join("mlflow.db").display()),
        "--artifacts".to_owned(),
        format!("{ROOT}={}", path.join("artifacts").display()),
    ]
}

fn run(runner: &Runner, command: &[&str], folder: &str) -> Outcome {
    finish(runner.command(command).args(place(runner, folder)))
}

fn backup(runner: &Runner, name: &str, code: i32) -> String {
    let done = run(runner, &["--json", "backup", "--deployment", name], name).expect(code).json();
    done["snapshot"].as_str().unwrap().to_owned()
}

/// Returns the one experiment of a restored database that is not MLflow's own.
fn restored(runner: &Runner, folder: &str) -> String {
    let database = rusqlite::Connection::open(runner.path(folder).join("mlflow.db")).unwrap();
    database.query_row("SELECT name FROM experiments WHERE experiment_id = 1", [], |row| row.get(0)).unwrap()
}

/// A repository with `production`, then `staging`, then files.
fn scene() -> (Runner, [String; 3]) {
    let runner = Runner::with_repository();
    ["production", "staging"].iter().for_each(|name| create(&runner, name));
    let deployments = ["production", "staging"].map(|name| backup(&runner, name, 0));
    runner.write("file", "content");
    let [production, staging] = deployments;
    let files = runner.backup();
    (runner, [production, staging, files])
}

#[test]
fn words_mean_a_snapshot_of_the_deployment_that_is_named_and_of_no_other() {
    let (runner, [production, staging, files]) = scene();
    for name in ["production", "staging"] {
        let to = format!("new-{name}");
        run(&runner, &["restore", "--snapshot", "latest", "--deployment", name, "--yes"], &to).expect(0);
        assert_eq!(restored(&runner, &to), format!("of {name}"));
    }
    let found = |command: &[&str], more: &[&str]| -> Value {
        let all: Vec<&str> = command.iter().chain(more).copied().chain(["--json"]).collect();
        runner.run(all).expect(0).json()
    };
    let today = jiff::Timestamp::now().strftime("%F").to_string();
    for command in [&["models"][..], &["experiments"], &["runs"], &["models", "--as-of", &today], &["ls", "latest"]] {
        for (name, id) in [("production", &production), ("staging", &staging)] {
            let about = &found(command, &["--deployment", name])["about"];
            assert_eq!((about["snapshot"].as_str(), about["deployment"].as_str()), (Some(id.as_str()), Some(name)));
            assert_eq!(about["is_complete"], true);
        }
        let several = runner.run(command).expect(2).stderr;
        assert!(several.contains("production") && several.contains("staging"), "{command:?}: {several}");
    }
    let group = &found(&["snapshots"], &["--latest"])["snapshots"];
    assert_eq!(group.as_array().unwrap().len(), 3, "{group:#}");
    let source = group[2]["group"].as_str().unwrap();
    assert_eq!(found(&["ls", "latest"], &["--group", source])["snapshot"], files.as_str());
    assert_eq!(found(&["snapshots"], &["--deployment", "staging"])["snapshots"][0]["id"], staging.as_str());
}

#[test]
fn commands_that_remove_or_mark_refuse_a_word_that_could_be_of_several() {
    let (runner, [production, staging, _]) = scene();
    for command in [
        &["forget", "latest", "--force"][..],
        &["hold", "add", "latest", "--reason", "audit"],
        &["tag", "add", "latest", "good"],
        &["cat", "latest", "file"],
        &["dump", "latest"],
        &["stats", "latest"],
        &["diff", "latest", "latest"],
        &["find", "--snapshot", "latest", "file"],
        &["repair", "snapshots", "latest"],
        &["restore", "--snapshot", "latest", "--target", "target"],
    ] {
        let refused = runner.run(command).expect(2).stderr;
        assert!(refused.contains("staging") && refused.contains("--deployment"), "{command:?}: {refused}");
    }
    assert!(!runner.path("target").exists());
    runner.run(["forget", "latest", "--force", "--deployment", "staging"]).expect(0);
    let left = runner.run(["snapshots", "--json"]).expect(0).json();
    let ids: Vec<&str> = left["snapshots"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
    assert!(ids.contains(&production.as_str()) && !ids.contains(&staging.as_str()), "{ids:?}");
    // What was forgotten is of one source only.
    runner.run(["undelete", "latest"]).expect(0);
}

#[test]
fn a_place_of_another_name_gets_the_deployment_that_is_said_and_nothing_unsaid() {
    let (runner, [_, staging, _]) = scene();
    let refused = run(&runner, &["restore", "--deployment", "recovery", "--yes"], "recovery").expect(1).stderr;
    assert!(refused.contains("\"recovery\"") && refused.contains("production"), "{refused}");
    let restore = ["restore", "--deployment", "recovery", "--from-deployment", "production", "--yes"];
    let said = run(&runner, &restore, "recovery").expect(0).text();
    assert!(said.contains("of deployment production, made ") && said.contains("complete"), "{said}");
    assert_eq!(restored(&runner, "recovery"), "of production");
    // An id is what it is, and it is said that it is of another one.
    let by_id = ["restore", "--deployment", "production", "--snapshot", &staging, "--yes", "-q"];
    let said = run(&runner, &by_id, "by-id").expect(0).stderr;
    assert!(said.contains("Warning: ") && said.contains("staging"), "{said}");
}

#[test]
fn what_lies_too_far_before_the_moment_asked_for_is_no_answer() {
    let (runner, _) = scene();
    let as_of = |moment: &str, more: &[&str]| {
        let command =
            ["models", "--deployment", "production", "--as-of", moment].into_iter().chain(more.iter().copied());
        runner.run(command.collect::<Vec<_>>())
    };
    let refused = as_of("2099-01-01", &[]).expect(1).stderr;
    assert!(refused.contains("--max-gap") && refused.contains("before what was asked for"), "{refused}");
    let allowed = as_of("2099-01-01", &["--max-gap", "99y"]).expect(0).text();
    assert!(allowed.contains("days before what was asked for"), "{allowed}");
    as_of("2001-01-01", &[]).expect(1);
}

#[test]
fn what_a_backup_lacked_is_said_on_every_way_and_what_has_it_is_named() {
    let (runner, [production, ..]) = scene();
    fs::remove_dir_all(runner.path("production/artifacts/1/m")).unwrap();
    let lacking = backup(&runner, "production", 3);
    let short = &production[..12];
    let assert_warned = |outcome: Outcome| {
        let said = outcome.expect(3).stderr;
        assert!(said.to_lowercase().contains("incomplete") && said.contains(short), "{said}");
    };
    for (number, more) in [&["--yes"][..], &["--yes", "-q"], &["--yes", "--json"]].iter().enumerate() {
        let command: Vec<&str> = ["restore", "--deployment", "production"].iter().chain(*more).copied().collect();
        assert_warned(run(&runner, &command, &format!("new-{number}")));
    }
    let target = runner.path("files").display().to_string();
    assert_warned(runner.run(["restore", "-q", "--snapshot", &lacking, "--target", &target]));
    let json = runner.run(["restore", "--json", "--snapshot", &lacking, "--target", &target]).expect(3).json();
    assert_eq!(json["about"]["is_complete"], false);
    assert_eq!(json["about"]["last_complete"], production.as_str());
    assert_eq!(json["warnings"].as_array().unwrap().len(), 1, "{json:#}");
    // Of a version that is lost, the snapshot that has it is named.
    let model = ["restore", "--deployment", "production", "--model", "of production", "--version", "1", "--target"];
    let lost = runner.path("lost").display().to_string();
    let refused = runner.run(model.iter().copied().chain([lost.as_str()]).collect::<Vec<_>>()).expect(1).stderr;
    assert!(refused.contains("that has all of it is") && refused.contains(short), "{refused}");
}

#[test]
fn a_backup_drops_nothing_that_it_was_told_to_back_up() {
    let (runner, _) = scene();
    let source = runner.path("src").display().to_string();
    for command in [
        &["backup", "--deployment", "production", &source][..],
        &["backup", "--deployment", "production", "--command", "echo hello", "--name", "hello"],
        &["backup", "--artifacts", "mlflow-artifacts:/=src", &source],
    ] {
        let refused = runner.run(command).expect(2).stderr;
        assert!(refused.contains("two backups"), "{command:?}: {refused}");
    }
    // What the environment says for every command is no wish of this one.
    finish(runner.command(["backup", &source]).env("MLVAULT_DEPLOYMENT", "production")).expect(0);
    let unnamed = run(&runner, &["backup"], "production").expect(0).stderr;
    assert!(unnamed.contains("Warning: No deployment is named") && unnamed.contains("staging"), "{unnamed}");
    assert!(!run(&runner, &["backup"], "production").expect(0).stderr.contains("No deployment is named"));
}
