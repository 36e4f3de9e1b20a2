//! A deployment that is damaged already when it is backed up, or that is not what the configuration says.

use std::fs;

use rusqlite::Connection;
use serde_json::Value;

use crate::support::deployment::{ThreeDays, assert_whole, snapshot_of};

/// Returns one version of a model, as `mlvault models` lists it.
fn version(lived: &ThreeDays, model: &str, version: u64) -> Value {
    let listed = lived.runner.run(["models", model, "--json"]).expect(0).json();
    let versions = listed["models"][0]["versions"].as_array().unwrap();
    versions.iter().find(|listed| listed["version"] == version).unwrap().clone()
}

#[test]
fn a_model_whose_files_are_gone_is_named_and_the_snapshot_is_not_called_whole() {
    let lived = ThreeDays::unpack();
    let listed = version(&lived, "fraud-detector", 2);
    let path = listed["files"]["path"].as_str().unwrap();
    let below_root = path.strip_prefix("artifacts/mlflow-artifacts/").unwrap();
    fs::remove_dir_all(lived.folder().join("artifacts").join(below_root)).unwrap();

    let (id, record) = snapshot_of(&lived.place().run(&lived.runner, &["backup"]).expect(3));
    assert_eq!(record["completeness"], "incomplete");
    let verdicts = &record["deployment"]["verdicts"];
    assert_eq!((&verdicts["database"], &verdicts["references"]), (&"ok".into(), &"not_ok".into()), "{record:#}");
    let problems = record["problems"].to_string();
    assert!(problems.contains("model version fraud-detector/2") && problems.contains("logged model m-"), "{problems}");
    // The version, and the logged model that it was made of.
    assert_eq!(record["deployment"]["references"]["missing"], 2, "{record:#}");

    let told = lived.runner.run(["models", "fraud-detector"]).expect(0).text();
    let damaged: Vec<_> = told.lines().filter(|line| line.contains("MISSING")).collect();
    assert!(damaged.len() == 1 && damaged[0].starts_with('2'), "{told}");
    let target = lived.runner.path("files");
    let restore = ["restore", "--model", "fraud-detector", "--version", "2", "--target", target.to_str().unwrap()];
    let refused = lived.runner.run(restore).expect(1);
    assert!(refused.stderr.contains(&id[..8]), "{}", refused.stderr);
    // The day before still has it.
    let earlier = lived.snapshots[3].0.as_str();
    lived.runner.run(restore.into_iter().chain(["--snapshot", earlier])).expect(0);
    assert!(target.join("MLmodel").is_file());
}

#[test]
fn a_model_that_lost_one_of_its_files_is_named_and_gets_it_back() {
    let lived = ThreeDays::unpack();
    let (runner, place) = (&lived.runner, lived.place());
    let folder = |model: &str| {
        let path = version(&lived, model, 2)["files"]["path"].as_str().unwrap().to_owned();
        lived.folder().join("artifacts").join(path.strip_prefix("artifacts/mlflow-artifacts/").unwrap())
    };
    let (kept, deleted) = (folder("fraud-detector"), folder("support-encoder"));
    fs::remove_file(kept.join("MLmodel")).unwrap();
    // Of this one MLflow deletes the versions too; the backup comes in between.
    fs::remove_file(deleted.join("MLmodel")).unwrap();
    let database = Connection::open(lived.folder().join("mlflow.db")).unwrap();

    let (_, record) = snapshot_of(&place.run(runner, &["backup"]).expect(3));
    let references = &record["deployment"]["references"];
    // Two versions, and the logged models that they were made of.
    assert_eq!((&references["partial"], &references["missing"]), (&4.into(), &0.into()), "{record:#}");
    assert_eq!(record["deployment"]["verdicts"]["references"], "not_ok", "{record:#}");
    let problems = record["problems"].to_string();
    assert!(problems.contains("model version fraud-detector/2") && problems.contains("/MLmodel"), "{problems}");
    assert!(runner.run(["models", "fraud-detector"]).expect(0).text().contains("PARTIAL"));

    database
        .execute("UPDATE model_versions SET current_stage = 'Deleted_Internal' WHERE name = 'support-encoder'", [])
        .unwrap();
    let whole = lived.snapshots[3].0.as_str();
    let restore = ["restore", "--model", "fraud-detector", "--version", "2", "--yes", "--snapshot", whole];
    place.run(runner, &restore).expect(0);
    assert!(kept.join("MLmodel").is_file());
    assert_whole(&place.backup(runner).1);
}

#[test]
fn a_file_that_a_backup_cannot_read_is_named() {
    use std::os::unix::fs::PermissionsExt;

    let lived = ThreeDays::unpack();
    let weights =
        lived.runner.files("production/artifacts").into_iter().find(|path| path.ends_with("model.pkl")).unwrap();
    fs::set_permissions(&weights, fs::Permissions::from_mode(0o000)).unwrap();
    let place = lived.place();
    let mut command = lived.runner.command_without_privileges(["backup", "--json", "--deployment", "production"]);
    command.args(["--backend-store-uri", &place.database]);
    command.args(["--artifacts", &format!("mlflow-artifacts:/={}", place.artifacts)]);
    let (_, record) = snapshot_of(&crate::support::cli::finish(&mut command).expect(3));
    assert_eq!(record["deployment"]["verdicts"]["artifacts"], "not_ok", "{record:#}");
    assert!(record["problems"][0]["path"].as_str().unwrap().ends_with("model.pkl"), "{record:#}");
}

#[test]
fn a_root_that_nobody_mapped_fails_the_backup_until_it_is_excluded_by_name() {
    let lived = ThreeDays::unpack();
    let database = Connection::open(lived.folder().join("mlflow.db")).unwrap();
    let moved = "UPDATE experiments SET artifact_location = 's3://elsewhere/42' WHERE name = 'scratch'";
    assert_eq!(database.execute(moved, []).unwrap(), 1);
    let mut place = lived.place();

    let refused = place.run(&lived.runner, &["backup"]).expect(1);
    assert!(refused.stderr.contains("s3://elsewhere"), "{}", refused.stderr);
    assert_eq!(lived.runner.run(["snapshots", "--json"]).expect(0).json()["snapshots"].as_array().unwrap().len(), 4);

    place.more = ["--exclude-root", "s3://elsewhere"].map(str::to_owned).to_vec();
    let (_, record) = place.backup(&lived.runner);
    assert_whole(&record);
    assert_eq!(record["deployment"]["excluded"], serde_json::json!(["s3://elsewhere"]), "{record:#}");
}

#[test]
fn a_database_that_is_not_whole_gives_no_snapshot() {
    let lived = ThreeDays::unpack();
    let database = lived.folder().join("mlflow.db");
    let whole = fs::read(&database).unwrap();
    fs::write(&database, &whole[..whole.len() / 2]).unwrap();
    let failed = lived.place().run(&lived.runner, &["backup"]).expect(1);
    assert!(failed.stderr.contains("mlflow.db"), "{}", failed.stderr);
    assert_eq!(lived.runner.run(["snapshots", "--json"]).expect(0).json()["snapshots"].as_array().unwrap().len(), 4);
}

#[test]
fn rows_that_break_rules_cost_no_backup_and_come_back_as_they_are() {
    let lived = ThreeDays::unpack();
    let database = Connection::open(lived.folder().join("mlflow.db")).unwrap();
    database
        .execute_batch(
            "PRAGMA foreign_keys = OFF; INSERT INTO tags (key, value, run_uuid) VALUES ('k', 'v', 'nobody');
             UPDATE runs SET start_time = 'yesterday' WHERE rowid = (SELECT min(rowid) FROM runs);
             UPDATE model_versions SET creation_time = 'late' WHERE version = 1;",
        )
        .unwrap();
    let outcome = lived.place().run(&lived.runner, &["backup"]).expect(0);
    assert!(outcome.stderr.contains("1 orphaned rows: tags"), "{}", outcome.stderr);
    let (_, record) = snapshot_of(&outcome);
    let verdicts = &record["deployment"]["verdicts"];
    assert_eq!((&verdicts["database"], &verdicts["consistency"]), (&"ok".into(), &"not_ok".into()), "{record:#}");
    let told = record["deployment"]["databases"][0]["violations"].to_string();
    assert!(told.contains("1 rows of runs have something else than a number in start_time"), "{told}");
    assert!(told.contains("model_versions"), "{told}");
    // What is listed from the catalogue is all there is, the odd rows among it.
    assert!(
        !lived.runner.run(["models", "fraud-detector", "--json"]).expect(0).json()["models"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    lived.runner.run(["runs"]).expect(0);
    let report = lived.place().run(&lived.runner, &["doctor"]);
    assert!(report.text().contains("orphaned"), "{}", report.text());

    let new = crate::support::deployment::Place::in_folder(&lived.runner.path("new"));
    new.run(&lived.runner, &["restore", "--yes"]).expect(0);
    let restored = Connection::open(lived.runner.path("new/mlflow.db")).unwrap();
    let texts = |sql: &str| {
        let read = |database: &Connection| database.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
        assert_eq!(read(&restored), read(&database), "{sql}");
    };
    texts("SELECT group_concat(quote(run_uuid) || quote(start_time)) FROM runs");
    texts("SELECT group_concat(quote(run_uuid) || quote(key) || quote(value)) FROM tags");
}

#[test]
fn files_behind_a_symlink_that_leads_out_of_the_store_are_told_unless_they_have_a_root_of_their_own() {
    let lived = ThreeDays::unpack();
    let artifacts = lived.folder().join("artifacts");
    let moved = lived.runner.path("disk2");
    fs::create_dir(&moved).unwrap();
    let path = version(&lived, "fraud-detector", 2)["files"]["path"].as_str().unwrap().to_owned();
    let experiment = std::ffi::OsString::from(path.split('/').nth(2).unwrap());
    fs::rename(artifacts.join(&experiment), moved.join(&experiment)).unwrap();
    std::os::unix::fs::symlink(moved.join(&experiment), artifacts.join(&experiment)).unwrap();

    let (_, record) = snapshot_of(&lived.place().run(&lived.runner, &["backup"]).expect(3));
    let verdicts = &record["deployment"]["verdicts"];
    assert_eq!((&verdicts["artifacts"], &verdicts["references"]), (&"not_ok".into(), &"not_ok".into()), "{record:#}");
    let problems = record["problems"].to_string();
    assert!(problems.contains("it is a symlink to") && problems.contains("disk2"), "{problems}");

    let name = experiment.to_str().unwrap();
    let root = format!("mlflow-artifacts:/{name}={}", moved.join(name).display());
    let (_, record) =
        snapshot_of(&lived.place().with(&["--artifacts", &root]).run(&lived.runner, &["backup"]).expect(0));
    assert_whole(&record);
}
