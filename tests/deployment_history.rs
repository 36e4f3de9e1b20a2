//! What snapshots tell of a deployment without a database: what it held, what changed from day to day, and whether an upgrade
//! has happened since.

use std::collections::BTreeSet;
use std::fs;

use rusqlite::Connection;
use serde_json::Value;

use crate::support::cli::Runner;
use crate::support::deployment::{Place, ThreeDays};

/// Schema revisions that MLflow releases write.
const OF_3_17: &str = "dc11669786a5";
const OF_3_18: &str = "f4a9b2c7d1e6";

fn list(runner: &Runner, command: &[&str]) -> Vec<Value> {
    let mut json = runner.run([command, &["--json"]].concat()).expect(0).json();
    json[command[0]].take().as_array().unwrap().clone()
}

#[test]
fn each_snapshot_lists_what_the_deployment_held_on_its_day() {
    let lived = ThreeDays::unpack();
    let runner = &lived.runner;
    let versions = |snapshot: &str| {
        let models = list(runner, &["models", "fraud-detector", "--snapshot", snapshot]);
        models[0]["versions"].as_array().unwrap().clone()
    };
    let [day1, _, day3, _] = &lived.snapshots[..] else { panic!("{}", lived.snapshots.len()) };
    assert_eq!((versions(&day1.0).len(), versions(&day3.0).len()), (2, 4));
    let champion = |snapshot| {
        let is_champion = |it: &Value| it["aliases"].as_array().unwrap().contains(&"champion".into());
        versions(snapshot).iter().find(|it| is_champion(it)).unwrap()["version"].as_u64()
    };
    assert_eq!((champion(&day1.0), champion(&day3.0)), (Some(1), Some(3)));

    let experiments = list(runner, &["experiments"]);
    let scratch = experiments.iter().find(|it| it["name"] == "scratch").unwrap();
    assert_eq!((&scratch["lifecycle_stage"], &scratch["deleted_runs"]), (&"deleted".into(), &1.into()), "{scratch:#}");
    let runs = list(runner, &["runs", "--experiment", "demand"]);
    let run = runs.iter().find(|run| run["name"] == "day1-0").unwrap();
    assert!(run["params"].as_object().unwrap().len() + run["metrics"].as_object().unwrap().len() > 1, "{run:#}");
    let earlier = list(runner, &["runs", "--experiment", "demand", "--snapshot", &day1.0]);
    assert!(earlier.len() < runs.len(), "{} {}", earlier.len(), runs.len());
    let text = runner.run(["runs", "--experiment", "demand"]).expect(0).text();
    assert!(text.contains(run["run_id"].as_str().unwrap()), "{text}");
    assert!(runner.run(["experiments"]).expect(0).text().contains("scratch"));
    runner.run(["models", "no-such-model"]).expect(1);
}

#[test]
fn runs_experiments_and_versions_are_listed_newest_first() {
    let lived = ThreeDays::unpack();
    let runner = &lived.runner;
    let assert_falls = |what: &str, listed: &[Value], key: &str| {
        let found: Vec<_> = listed.iter().map(|it| it[key].as_i64().unwrap()).collect();
        let mut sorted = found.clone();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(found, sorted, "{what}");
        assert!(found.len() > 3 && found[0] > found[found.len() - 1], "{what}: {found:?}");
    };
    assert_falls("runs", &list(runner, &["runs"]), "start_time");
    assert_falls("runs of one experiment", &list(runner, &["runs", "--experiment", "demand"]), "start_time");
    assert_falls("experiments", &list(runner, &["experiments"]), "creation_time");
    let versions = list(runner, &["models", "fraud-detector"])[0]["versions"].as_array().unwrap().clone();
    assert_falls("versions", &versions, "version");
    let text = runner.run(["runs", "--experiment", "demand"]).expect(0).text();
    let listed: Vec<_> = text.lines().skip(2).map(|line| line.split("  ").next().unwrap().to_owned()).collect();
    let ids = list(runner, &["runs", "--experiment", "demand"]);
    assert_eq!(listed, ids.iter().map(|run| run["run_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>());
}

#[test]
fn a_difference_of_two_snapshots_speaks_mlflow() {
    let lived = ThreeDays::unpack();
    let (day2, day3) = (&lived.snapshots[1].0, &lived.snapshots[2].0);
    let told = lived.runner.run(["diff", day2, day3, "--json"]).expect(1).json();
    let changes = told["mlflow"].as_array().unwrap();
    let found: BTreeSet<_> =
        changes.iter().map(|it| (it["subject"].as_str().unwrap(), it["how"].as_str().unwrap())).collect();
    let expected = [
        ("model_version", "added"),
        ("model_version", "deleted"),
        ("alias", "moved"),
        ("run", "added"),
        ("run", "deleted"),
        ("artifact", "overwritten"),
    ];
    expected.iter().for_each(|change| assert!(found.contains(change), "{change:?} is not in {changes:#?}"));
    let moved = changes.iter().find(|it| it["id"] == "fraud-detector@champion").unwrap();
    assert_eq!((&moved["old"], &moved["new"]), (&"fraud-detector/2".into(), &"fraud-detector/3".into()));
    assert!(lived.runner.run(["diff", day2, day3]).expect(1).text().contains("fraud-detector@champion"));
    let same = lived.runner.run(["diff", day3, "latest", "--json"]).expect(0).json();
    assert_eq!(same["mlflow"], serde_json::json!([]), "{same:#}");
}

fn migrate(lived: &ThreeDays, to: &str) {
    let database = Connection::open(lived.folder().join("mlflow.db")).unwrap();
    assert_eq!(database.execute("UPDATE alembic_version SET version_num = ?", [to]).unwrap(), 1);
}

#[test]
fn what_was_backed_up_after_an_upgrade_does_not_pass_for_a_way_back() {
    let lived = ThreeDays::unpack();
    let (runner, place) = (&lived.runner, lived.place());
    let before = ["backup", "--tag", "pre-upgrade"];
    let too_late = place.run(runner, &[&before[..], &["--upgrade-to", "3.17.0"]].concat()).expect(1);
    assert!(too_late.stderr.contains("already that of MLflow 3.17.0"), "{}", too_late.stderr);
    let nonsense = place.run(runner, &[&before[..], &["--upgrade-to", "soon"]].concat()).expect(2);
    assert!(nonsense.stderr.contains("\\\"soon\\\" is not the number of a release"), "{}", nonsense.stderr);
    place.run(runner, &[&before[..], &["--upgrade-to", "3.18.0"]].concat()).expect(0);

    // 3.17.1 may be what runs, and has the same schema.
    place.run(runner, &[&before[..], &["--upgrade-to", "3.17.2"]].concat()).expect(0);
    let unknown = place.run(runner, &[&before[..], &["--upgrade-to", "99.0.0"]].concat()).expect(0);
    assert!(unknown.stderr.contains("does not know MLflow 99.0.0"), "{}", unknown.stderr);

    migrate(&lived, OF_3_18);
    let refused = place.run(runner, &before).expect(1);
    assert!(refused.stderr.contains(&format!("migrated from {OF_3_17} to {OF_3_18}")), "{}", refused.stderr);
    let count = runner.run(["snapshots", "--json"]).expect(0).json()["snapshots"].as_array().unwrap().len();
    assert_eq!(count, 7);
    place.run(runner, &["backup"]).expect(0);
}

#[test]
fn a_restore_knows_which_mlflow_can_open_it() {
    let lived = ThreeDays::unpack();
    let new = Place::in_folder(&lived.runner.path("new"));
    let plan = |version: &str| new.run(&lived.runner, &["restore", "--dry-run", "--mlflow-version", version]);
    let refused = plan("2.22.5").expect(1);
    assert!(refused.stderr.contains("2.22.5") && refused.stderr.contains("3.17.0"), "{}", refused.stderr);
    plan("nonsense").expect(2);
    let warnings = |version| plan(version).expect(0).json()["plan"]["warnings"].to_string();
    assert!(!warnings("3.17.2").contains("MLflow 3.17.2"), "{}", warnings("3.17.2"));
    assert!(warnings("3.18.0").contains("will migrate the database"), "{}", warnings("3.18.0"));
}

#[test]
fn a_root_moves_in_every_spelling_and_what_stays_is_counted() {
    let lived = ThreeDays::unpack();
    let (runner, database) = (&lived.runner, lived.folder().join("mlflow.db"));
    let old = runner.path("old");
    for name in ["1", "2", "a b"] {
        fs::create_dir_all(old.join(name)).unwrap();
    }
    let old = old.display();
    let live = Connection::open(&database).unwrap();
    let location = "UPDATE experiments SET artifact_location = ?1 WHERE experiment_id = (SELECT experiment_id FROM \
                    experiments ORDER BY experiment_id LIMIT 1 OFFSET ?2)";
    for (at, spelled) in
        [format!("{old}/1"), format!("file://{old}/2"), format!("file://{old}/a%20b")].iter().enumerate()
    {
        live.execute(location, rusqlite::params![spelled, at as i64]).unwrap();
    }
    let root = format!("{old}={old}");
    let place = lived.place().with(&["--artifacts", &root]);
    place.backup(runner);

    let (new, moved) = (runner.path("new"), runner.path("moved"));
    let map = format!("{old}={}", moved.display());
    let target = format!("{0}={0}", moved.display());
    let into = Place::in_folder(&new).with(&["--map-root", &map, "--artifacts", &target]);
    let plan = into.run(runner, &["restore", "--dry-run"]).expect(0).json();
    let column = &plan["plan"]["databases"][0]["rewrites"][0];
    assert_eq!((&column["rows"], &column["column"]), (&3.into(), &"artifact_location".into()), "{plan:#}");
    assert!(column["stay"].as_u64().unwrap() > 0, "{plan:#}");
    into.run(runner, &["restore", "--yes"]).expect(0);
    let restored = Connection::open(new.join("mlflow.db")).unwrap();
    let mut read =
        restored.prepare("SELECT artifact_location FROM experiments ORDER BY experiment_id LIMIT 3").unwrap();
    let found: Vec<String> = read.query_map([], |row| row.get(0)).unwrap().map(|row| row.unwrap()).collect();
    let moved = moved.display();
    assert_eq!(found, [format!("{moved}/1"), format!("file://{moved}/2"), format!("file://{moved}/a%20b")]);

    // What stands behind the percent sign would mean another key in a bucket.
    let map = format!("{old}=s3://bucket");
    let into = Place::in_folder(&runner.path("other")).with(&["--map-root", &map, "--artifacts", "s3://bucket=/x"]);
    let refused = into.run(runner, &["restore", "--dry-run"]).expect(1);
    assert!(refused.stderr.contains("percent signs") && refused.stderr.contains("a%20b"), "{}", refused.stderr);
}
