//! A deployment on SQLite and a directory, lost and got back: all of it, as it was on any of its days.

use std::fs;

use rusqlite::Connection;

use crate::support::deployment::{Place, ROOT, ThreeDays, assert_whole, bytes_stored};

#[test]
fn a_lost_deployment_comes_back_as_it_was_on_any_day() {
    let lived = ThreeDays::unpack();
    let runner = &lived.runner;
    lived.snapshots.iter().for_each(|(_, record)| assert_whole(record));
    let unchanged = bytes_stored(&lived.snapshots[3].1);
    assert!(unchanged * 100 < bytes_stored(&lived.snapshots[0].1), "an unchanged deployment cost {unchanged} bytes");
    fs::remove_dir_all(lived.folder()).unwrap();
    runner.run(["check", "--read-data"]).expect(0);

    for (day, snapshot) in [(3, "latest"), (1, lived.snapshots[0].0.as_str())] {
        let folder = runner.path(format!("restored-{day}"));
        let place = Place::in_folder(&folder);
        let done = place.run(runner, &["restore", "--snapshot", snapshot, "--yes"]).expect(0).json();
        assert_eq!(done["summary"]["databases"].as_array().unwrap().len(), 1, "{done:#}");
        place.serve(&folder).verify(&lived.record(day), &[]);
    }
}

#[test]
fn a_restore_touches_nothing_that_is_there_and_nothing_unasked() {
    let lived = ThreeDays::unpack();
    let (runner, live) = (&lived.runner, lived.place());
    let before = fs::read(lived.folder().join("mlflow.db")).unwrap();
    let new = Place::in_folder(&runner.path("new"));

    let refused = live.run(runner, &["restore", "--yes"]).expect(1);
    assert!(refused.stderr.contains("is not empty") && refused.stderr.contains("rows"), "{}", refused.stderr);
    let half = Place { database: new.database.clone(), ..live.clone() };
    let refused = half.run(runner, &["restore", "--yes"]).expect(1);
    assert!(refused.stderr.contains(&live.artifacts) && refused.stderr.contains("--resume"), "{}", refused.stderr);
    let unasked = new.run(runner, &["restore"]).expect(2);
    assert!(unasked.stderr.contains("--yes"), "{}", unasked.stderr);
    let plan = new.run(runner, &["restore", "--dry-run"]).expect(0).json();
    assert_eq!(plan["plan"]["artifacts"][0]["root"], ROOT, "{plan:#}");
    assert!(plan["plan"]["databases"][0]["rows"].as_u64().unwrap() > 100, "{plan:#}");
    assert!(!runner.path("new").exists());
    assert_eq!(fs::read(lived.folder().join("mlflow.db")).unwrap(), before);

    let other = Place { artifacts: new.artifacts.clone(), ..live.clone() };
    other.run(runner, &["restore", "--component", "artifacts", "--yes"]).expect(0);
    new.run(runner, &["restore", "--yes"]).expect(1);
    let done = new.run(runner, &["restore", "--yes", "--resume"]).expect(0).json();
    assert_eq!(done["summary"]["artifacts"]["files_written"], 0, "{done:#}");
    assert_eq!(fs::read(lived.folder().join("mlflow.db")).unwrap(), before);
}

#[test]
fn a_single_component_goes_to_standard_output() {
    let lived = ThreeDays::unpack();
    let restore = |component: &str| {
        lived
            .runner
            .run(["restore", "--snapshot", "latest", "--component", component, "--target", "-"])
            .expect(0)
            .stdout
    };
    let dump = restore("database");
    assert!(dump == lived.runner.run(["cat", "latest", "database/backend.sql"]).expect(0).stdout);
    let loaded = Connection::open_in_memory().unwrap();
    loaded.execute_batch(std::str::from_utf8(&dump).unwrap()).unwrap();
    let runs: i64 = loaded.query_row("SELECT count(*) FROM runs", [], |row| row.get(0)).unwrap();
    assert!(runs > 5, "{runs}");
    assert!(restore("catalogue") == lived.runner.run(["dump", "latest", "catalogue"]).expect(0).stdout);
}
