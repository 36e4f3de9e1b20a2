//! Losses that are known: a backup that lacks nothing else is whole, and says all the same what it lacks.
//!
//! What must stay true: only what was accepted, of the source that was named, until the day that was said, by who may.

use std::fs;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::support::cli::{Outcome, Runner, finish};
use crate::support::deployment::Place;
use crate::support::mlflow_rows::VERSION_AT_M;
use crate::support::sqlite_file::create_mlflow;

const LOST: &str = "model version fraud/1";

/// A deployment whose one model version has lost its files.
fn lossy(runner: &Runner, name: &str) -> Place {
    let folder = runner.path(name);
    fs::create_dir_all(folder.join("artifacts")).unwrap();
    create_mlflow(&folder.join("mlflow.db")).execute_batch(VERSION_AT_M).unwrap();
    Place::in_folder(&folder)
}

fn backup(runner: &Runner, place: &Place, name: &str, more: &[&str]) -> Outcome {
    let mut command = runner.command(["backup", "--json", "--deployment", name]);
    command.args(["--backend-store-uri", &place.database, "--artifacts"]);
    command.env("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0");
    finish(command.arg(format!("mlflow-artifacts:/={}", place.artifacts)).args(more))
}

fn lose_another(runner: &Runner, name: &str) {
    let database = rusqlite::Connection::open(runner.path(name).join("mlflow.db")).unwrap();
    database
        .execute_batch(
            "INSERT INTO model_versions (name, version, creation_time, current_stage, source, storage_location, status)
             VALUES ('fraud', 2, 1, 'None', 'mlflow-artifacts:/1/n', 'mlflow-artifacts:/1/n', 'READY');",
        )
        .unwrap();
}

#[test]
fn a_loss_that_was_accepted_hides_no_other_and_is_told_each_time() {
    let runner = Runner::with_repository();
    let (one, other) = (lossy(&runner, "production"), lossy(&runner, "staging"));
    backup(&runner, &one, "production", &[]).expect(3);
    backup(&runner, &other, "staging", &[]).expect(3);
    let add = ["accept", "add", LOST, "--reason", "disk 7", "--until", "2199-12-31"];
    // Of which source must be said where there are several.
    runner.run(add).expect(2);
    runner.run(add.iter().chain(&["--deployment", "production"])).expect(0);

    let done = backup(&runner, &one, "production", &[]).expect(0);
    let record = done.json()["record"].take();
    assert_eq!((&record["completeness"], &record["problem_count"]), (&json!("complete"), &json!(0)), "{record:#}");
    assert_eq!(record["deployment"]["verdicts"]["references"], "accepted", "{record:#}");
    assert_eq!(record["deployment"]["references"]["missing"], 1);
    let accepted = &record["accepted"][0];
    assert_eq!(
        (&accepted["path"], &accepted["reason"], &accepted["by"]),
        (&json!(LOST), &json!("disk 7"), &json!("first"))
    );
    assert!(done.stderr.contains(LOST) && done.stderr.contains("disk 7"), "{}", done.stderr);
    backup(&runner, &other, "staging", &[]).expect(3);

    // Whoever restores hears of it, also a script.
    let target = runner.path("target").display().to_string();
    let restore = ["restore", "-q", "--deployment", "production", "--snapshot", "latest", "--target", &target];
    let restored = runner.run(restore).expect(0);
    assert!(restored.stderr.contains(LOST) && restored.stderr.contains("accepted"), "{}", restored.stderr);
    let listed = runner.run(["ls", "latest", "--deployment", "production", "--json"]).expect(0).json();
    assert_eq!((&listed["about"]["accepted"], &listed["about"]["is_complete"]), (&json!(1), &json!(true)));

    // A new loss counts at once, and is the only one that counts.
    lose_another(&runner, "production");
    let worse = backup(&runner, &one, "production", &[]).expect(3).json();
    assert_eq!(worse["record"]["problem_count"], 1);
    assert_eq!(worse["record"]["problems"][0]["path"], "model version fraud/2");
    assert_eq!(worse["record"]["deployment"]["verdicts"]["references"], "not_ok");

    // The files come back: nothing is accepted any more.
    for folder in ["m", "n"] {
        fs::create_dir_all(runner.path(format!("production/artifacts/1/{folder}"))).unwrap();
        fs::write(runner.path(format!("production/artifacts/1/{folder}/MLmodel")), "x").unwrap();
    }
    let whole = backup(&runner, &one, "production", &[]).expect(0).json();
    assert_eq!(
        (&whole["record"]["accepted"], &whole["record"]["deployment"]["verdicts"]["references"]),
        (&Value::Null, &json!("ok"))
    );
}

#[test]
fn what_is_accepted_ends_on_its_day_and_can_be_withdrawn() {
    let runner = Runner::with_repository();
    let place = lossy(&runner, "production");
    backup(&runner, &place, "production", &[]).expect(3);
    let add = ["accept", "add", "--deployment", "production", "--all", "--reason", "disk 7", "--until"];
    let soon = (Timestamp::now() + SignedDuration::from_secs(6)).to_string();
    runner.run(add.iter().chain(&[soon.as_str()])).expect(0);
    backup(&runner, &place, "production", &[]).expect(0);
    while Timestamp::now() < soon.parse().unwrap() {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    backup(&runner, &place, "production", &[]).expect(3);
    runner.run(add.iter().chain(&["2199-12-31"])).expect(0);
    backup(&runner, &place, "production", &[]).expect(0);

    let listed = runner.run(["accept", "list", "--json"]).expect(0).json();
    let ended: Vec<_> = listed["acceptances"].as_array().unwrap().iter().map(|one| one["ended"].clone()).collect();
    assert_eq!(ended, [json!(true), json!(false)], "{listed:#}");
    let id = listed["acceptances"][1]["id"].as_str().unwrap();
    runner.run(["accept", "remove", id]).expect(0);
    backup(&runner, &place, "production", &[]).expect(3);
}

#[test]
fn slips_and_keys_that_may_not_accept_are_refused() {
    let runner = Runner::with_repository();
    let place = lossy(&runner, "production");
    backup(&runner, &place, "production", &[]).expect(3);
    let add = |subject: &str, until: &str, reason: &str| {
        let what = ["accept", "add", subject, "--deployment", "production", "--until", until, "--reason", reason];
        runner.run(what)
    };
    let unknown = add("model version fraud/7", "2199-12-31", "x").expect(1);
    assert!(unknown.stderr.contains(LOST), "{}", unknown.stderr);
    add(LOST, "2001-01-01", "x").expect(2);
    add(LOST, "2199-12-31", " ").expect(2);
    runner.run(["accept", "add", LOST, "--deployment", "production", "--reason", "x"]).expect(2);
    runner.run(["accept", "remove", "77"]).expect(1);
    for role in ["writer", "reader", "auditor"] {
        let key = runner.path(role).display().to_string();
        runner.run(["key", "add", "--label", role, "--role", role, "--new-key-file", &key]).expect(0);
        let mut command = runner.command(["accept", "add", LOST, "--deployment", "production", "--reason", "x"]);
        let refused = finish(command.args(["--until", "2199-12-31", "--key-file", &key])).expect(12);
        assert!(refused.stderr.contains(&format!("role {role}")), "{}", refused.stderr);
    }
    assert_eq!(runner.run(["accept", "list", "--json"]).expect(0).json()["acceptances"], json!([]));
    backup(&runner, &place, "production", &[]).expect(3);
}

#[test]
fn without_its_tracking_server_a_backup_is_whole_where_metadata_are_optional() {
    let runner = Runner::with_repository();
    let place = lossy(&runner, "production");
    fs::create_dir_all(runner.path("production/artifacts/1/m")).unwrap();
    fs::write(runner.path("production/artifacts/1/m/MLmodel"), "x").unwrap();
    let away = ["--tracking-uri", "http://127.0.0.1:1"];
    let required = backup(&runner, &place, "production", &away).expect(3).json();
    assert_eq!(required["record"]["problems"][0]["path"], "metadata");
    let done = backup(&runner, &place, "production", &[&away[..], &["--metadata", "optional"]].concat()).expect(0);
    assert!(done.stderr.contains("they are optional") && done.stderr.contains("127.0.0.1:1"), "{}", done.stderr);
    let verdicts = done.json()["record"]["deployment"]["verdicts"].take();
    assert_eq!((&verdicts["metadata"], &verdicts["database"]), (&json!("not_ok"), &json!("ok")));
}
