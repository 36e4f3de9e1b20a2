//! A deployment on SQLite and a directory, lost and got back: all of it, as it was on any of its days.

use std::fs;

use rusqlite::Connection;

use crate::support::deployment::{Place, ROOT, ThreeDays, assert_whole, bytes_stored, snapshot_of};

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

#[test]
fn what_is_excluded_from_a_deployment_is_neither_stored_nor_lost() {
    let lived = ThreeDays::unpack();
    let (runner, live) = (&lived.runner, lived.place());
    let (id, record) =
        snapshot_of(&live.run(runner, &["backup", "--exclude", "conda.yaml", "--exclude-larger-than", "1M"]));
    assert_whole(&record);
    assert_eq!(record["coverage"]["excludes"][0], "conda.yaml");
    let names = |snapshot: &str| runner.run(["ls", snapshot, "-R", "artifacts"]).expect(0).text();
    assert!(names("latest~1").contains("conda.yaml") && !names(&id).contains("conda.yaml"));
    live.run(runner, &["backup", "--exclude-caches"]).expect(2);
}

#[test]
fn what_the_configuration_file_excludes_from_a_deployment_is_left_out_beside_what_the_command_line_does() {
    let lived = ThreeDays::unpack();
    let (runner, live) = (&lived.runner, lived.place());
    let settings = "[deployment.production]\nexclude = ['conda.yaml']\n[deployment.other]\nexclude = ['MLmodel']\n";
    fs::write(runner.path("src/mlvault.toml"), settings).unwrap();
    let (id, record) = snapshot_of(&live.run(runner, &["backup", "--exclude", "python_env.yaml"]));
    assert_whole(&record);
    assert_eq!(record["coverage"]["excludes"], serde_json::json!(["conda.yaml", "python_env.yaml"]));
    let names = |snapshot: &str| runner.run(["ls", snapshot, "-R", "artifacts"]).expect(0).text();
    for (name, is_there) in [("conda.yaml", false), ("python_env.yaml", false), ("MLmodel", true)] {
        assert!(names("latest~1").contains(name), "{name}");
        assert_eq!(names(&id).contains(name), is_there, "{name}");
    }
}

#[test]
fn artifacts_come_right_into_a_directory_without_the_path_that_they_have_in_the_snapshot() {
    let lived = ThreeDays::unpack();
    let runner = &lived.runner;
    let component = lived.snapshots[3].1["components"].as_array().unwrap().iter();
    let mut names = component.map(|it| it["name"].as_str().unwrap().to_owned());
    let component = names.find(|name| name.starts_with("artifacts/")).unwrap();
    let restored = |path: &str, directory: &str| {
        let (snapshot, target) = (format!("latest:{path}"), runner.path(directory).display().to_string());
        runner.run(["restore", "--snapshot", &snapshot, "--target", &target]).expect(0);
        let top = fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        (top.collect::<Vec<_>>(), runner.files(directory).len())
    };
    let (top, files) = restored("artifacts", "out");
    assert_eq!(top, [component.strip_prefix("artifacts/").unwrap()]);
    assert!(files > 10, "{files}");
    assert_eq!(restored(&component, "right").1, files);
    assert!(!runner.path("right").join(&top[0]).exists() && !runner.path("right/artifacts").exists());
}
