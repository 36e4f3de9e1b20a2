//! `mlvault status`: what it says of several deployments, and when it calls for somebody.
//!
//! What must stay true: it says that all is well only where every deployment that is expected has a good snapshot that is young
//! enough. Each kind of alarm is raised here by what it is about.

use std::collections::BTreeSet;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

use jiff::Timestamp;
use mlvault::format::evidence::{DrillResult, DrillTime, Says};
use serde_json::Value;

use crate::support::cli::{Outcome, Runner, finish};
use crate::support::deployment::Place;
use crate::support::mlflow_rows::{EXPERIMENT, VERSION_AT_M, insert_runs};
use crate::support::repo::{noise, passed_drill};
use crate::support::sqlite_file::create_mlflow;
use crate::support::thief::forge_evidence;

/// Makes a deployment with so many runs and one artifact.
pub fn create(runner: &Runner, name: &str, runs: u32) -> Place {
    let folder = runner.path(name);
    fs::create_dir_all(folder.join("artifacts/1/run")).unwrap();
    fs::write(folder.join("artifacts/1/run/model.bin"), noise(name, 2 << 20)).unwrap();
    let database = create_mlflow(&folder.join("mlflow.db"));
    database.execute_batch(EXPERIMENT).unwrap();
    insert_runs(&database, runs);
    Place::in_folder(&folder)
}

/// Writes a configuration of deployments in folders of these names, each with these objectives.
pub fn configure(runner: &Runner, deployments: &[(&str, &str)]) {
    let table = |(name, objectives): &(&str, &str)| {
        let folder = runner.path(name);
        format!(
            "[deployment.{name}]\nbackend-store-uri = 'sqlite:///{0}/mlflow.db'\nretention = 'production'\n\
             [deployment.{name}.artifacts]\n'mlflow-artifacts:/' = '{0}/artifacts'\n\
             [deployment.{name}.objectives]\n{objectives}\n",
            folder.display()
        )
    };
    fs::write(runner.path("mlvault.toml"), deployments.iter().map(table).collect::<String>()).unwrap();
}

/// Runs a command with the configuration.
pub fn run(runner: &Runner, args: &[&str]) -> Outcome {
    finish(runner.command(args).arg("--config").arg(runner.path("mlvault.toml")))
}

pub fn backup(runner: &Runner, name: &str) -> Outcome {
    run(runner, &["backup", "--deployment", name, "--json"])
}

/// Returns the kinds of alarms with the sources that they are about.
fn alarms(status: &Value) -> BTreeSet<(String, String)> {
    let text = |alarm: &Value, field: &str| alarm[field].as_str().unwrap_or_default().to_owned();
    let alarms = status["status"]["alarms"].as_array().unwrap();
    alarms.iter().map(|alarm| (text(alarm, "kind"), text(alarm, "source"))).collect()
}

/// Expects these alarms and no others, in JSON, in words, and in the exit code.
fn expect(runner: &Runner, more: &[&str], expected: &[(&str, &str)]) -> Value {
    let code = if expected.is_empty() { 0 } else { 1 };
    let args = [&["status"], more].concat();
    let status = run(runner, &[&args[..], &["--json"]].concat()).expect(code).json();
    let wanted = expected.iter().map(|(kind, source)| ((*kind).to_owned(), (*source).to_owned())).collect();
    assert_eq!(alarms(&status), wanted, "{status:#}");
    let text = run(runner, &args).expect(code).text();
    for (kind, source) in expected {
        let line = format!("ALARM {kind} {}", if source.is_empty() { String::new() } else { format!("{source}: ") });
        assert!(text.contains(&line), "{text}");
    }
    assert_eq!(text.contains("All is well"), expected.is_empty(), "{text}");
    status
}

fn source<'a>(status: &'a Value, name: &str) -> &'a Value {
    let sources = status["status"]["sources"].as_array().unwrap();
    sources.iter().find(|source| source["deployment"] == name).unwrap()
}

#[test]
fn a_deployment_that_was_never_backed_up_is_said_and_all_is_well_once_each_has_a_young_good_snapshot() {
    let runner = Runner::with_repository();
    create(&runner, "production", 3);
    create(&runner, "staging", 3);
    configure(&runner, &[("production", ""), ("staging", "")]);
    let (production, staging) = ("deployment production", "deployment staging");
    expect(&runner, &[], &[("never_backed_up", production), ("never_backed_up", staging)]);
    let made = backup(&runner, "production").expect(0).json();
    expect(&runner, &[], &[("never_backed_up", staging)]);
    // Who asks for one hears of no other.
    expect(&runner, &["--deployment", "production"], &[]);
    expect(&runner, &["--deployment", "elsewhere"], &[("never_backed_up", "deployment elsewhere")]);
    backup(&runner, "staging").expect(0);
    let status = expect(&runner, &[], &[]);
    let good = &source(&status, "production")["last_good"];
    assert_eq!((&good["id"], &good["by"]), (&made["snapshot"], &Value::from("first")), "{status:#}");
    assert_eq!(good["verdicts"]["database"], "ok");
    // What was backed up once by hand is no nightly job, unless somebody says so.
    runner.write("file", "content");
    runner.backup();
    expect(&runner, &[], &[]);
    sleep(Duration::from_millis(2100));
    let files = runner.path("src").display().to_string();
    expect(&runner, &["--max-age", "1s"], &[("overdue", production), ("overdue", staging), ("overdue", &files)]);
    expect(&runner, &["--group", &files], &[]);
    run(&runner, &["status", "--group", "/nowhere"]).expect(1);
}

#[test]
fn an_old_snapshot_is_overdue_and_a_file_time_in_the_future_makes_none_young() {
    let runner = Runner::with_repository();
    create(&runner, "production", 3);
    configure(&runner, &[("production", "rpo = '2h'")]);
    backup(&runner, "production").expect(0);
    expect(&runner, &[], &[]);
    let object = runner.files("repo/snapshots").pop().unwrap();
    let set = |seconds: i64| {
        let time = Timestamp::now().as_second() + seconds;
        let file = fs::File::options().write(true).open(&object).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(time as u64)).unwrap();
    };
    set(-3 * 3600);
    let status = expect(&runner, &[], &[("overdue", "deployment production")]);
    assert!(source(&status, "production")["last_good"]["age_seconds"].as_i64().unwrap() >= 3 * 3600);
    set(10 * 365 * 86_400);
    expect(&runner, &[], &[("time_doubtful", "deployment production")]);
}

#[test]
fn incomplete_nights_are_counted_and_the_last_good_one_stays_named() {
    let runner = Runner::with_repository();
    create(&runner, "production", 3);
    create(&runner, "staging", 3);
    configure(&runner, &[("production", ""), ("staging", "")]);
    let good = backup(&runner, "production").expect(0).json();
    for name in ["production", "staging"] {
        let database = rusqlite::Connection::open(runner.path(name).join("mlflow.db")).unwrap();
        database.execute_batch(VERSION_AT_M).unwrap();
    }
    backup(&runner, "production").expect(3);
    backup(&runner, "production").expect(3);
    backup(&runner, "staging").expect(3);
    let expected = [("incomplete", "deployment production"), ("no_complete_snapshot", "deployment staging")];
    let status = expect(&runner, &[], &expected);
    let production = source(&status, "production");
    assert_eq!((&production["last_good"]["id"], &production["incomplete_in_a_row"]), (&good["snapshot"], &2.into()));
    assert!(production["latest"]["first_problem"].as_str().unwrap().contains("fraud/1"), "{production:#}");
    // Known losses that somebody answers for are told, and call nobody.
    for name in ["production", "staging"] {
        let accept = ["accept", "add", "--all", "--deployment", name, "--reason", "disk 7", "--until", "2199-12-31"];
        run(&runner, &accept).expect(0);
        backup(&runner, name).expect(0);
    }
    let status = expect(&runner, &[], &[]);
    assert_eq!(source(&status, "staging")["accepted"]["count"], 1);
    assert!(run(&runner, &["status"]).expect(0).text().contains("1 loss; the first acceptance ends 2200-01-01"));
}

#[test]
fn a_deployment_that_was_emptied_is_said_although_its_snapshots_are_complete() {
    let runner = Runner::with_repository();
    create(&runner, "production", 300);
    configure(&runner, &[("production", "")]);
    backup(&runner, "production").expect(0);
    let database = rusqlite::Connection::open(runner.path("production/mlflow.db")).unwrap();
    database.execute_batch("DELETE FROM runs").unwrap();
    backup(&runner, "production").expect(0);
    expect(&runner, &[], &[("shrunk", "deployment production")]);
}

#[test]
fn what_cannot_be_read_and_what_is_gone_is_no_silence() {
    let runner = Runner::with_repository();
    create(&runner, "production", 3);
    configure(&runner, &[("production", "")]);
    (0..3).for_each(|_| drop(backup(&runner, "production").expect(0)));
    let mut objects = runner.files("repo/snapshots");
    objects.sort();
    fs::remove_file(&objects[0]).unwrap();
    fs::write(&objects[1], "garbage").unwrap();
    expect(&runner, &[], &[("unreadable", ""), ("vanished", "")]);
}

/// Adds a key of a role, and returns the arguments that use it.
fn key(runner: &Runner, role: &str) -> [String; 2] {
    let file = runner.path(format!("{role}.key")).display().to_string();
    runner.run(["key", "add", "--role", role, "--label", role, "--new-key-file", &file]).expect(0);
    ["--key-file".to_owned(), file]
}

#[test]
fn a_check_is_on_record_only_by_who_can_know_and_its_objective_counts() {
    let runner = Runner::with_repository();
    create(&runner, "production", 3);
    configure(&runner, &[("production", "check = '1h'")]);
    backup(&runner, "production").expect(0);
    expect(&runner, &[], &[("check_overdue", "")]);
    let writer = key(&runner, "writer");
    let mut refused = runner.command(["check", "--record"]);
    let refused = finish(refused.args(&writer)).expect(12);
    assert!(refused.stderr.contains("writer"), "{}", refused.stderr);
    expect(&runner, &[], &[("check_overdue", "")]);
    let auditor = key(&runner, "auditor");
    finish(runner.command(["check", "--record"]).args(&auditor)).expect(0);
    let status = expect(&runner, &[], &[]);
    let check = &status["status"]["checks"]["newest"];
    assert_eq!((&check["clean"], &check["evidence"]["by"]), (&true.into(), &"auditor".into()), "{status:#}");
    // Damage is on record too, and does not count as a clean check.
    runner.damage_data();
    run(&runner, &["check", "--read-data", "--record"]).expect(1);
    let status = expect(&runner, &[], &[("check_failed", "")]);
    assert_eq!(status["status"]["checks"]["good"]["evidence"]["by"], "auditor");
}

/// Evidence of a drill with a snapshot, which took so long.
fn drill(deployment: &str, result: DrillResult) -> Says {
    let mut drill = passed_drill(deployment);
    drill.result = result;
    if result == DrillResult::Failed {
        drill.failures.push("the table runs has 2 rows, and 3 are recorded");
    }
    drill.times = vec![DrillTime { part: DrillTime::WHOLE.to_owned(), milliseconds: 65_000, target_seconds: Some(60) }];
    Says::Drill(Box::new(drill))
}

#[test]
fn drills_count_for_their_deployment_and_a_failed_one_proves_nothing() {
    let runner = Runner::with_repository();
    create(&runner, "production", 3);
    create(&runner, "staging", 3);
    configure(&runner, &[("production", "drill = '35d'\nrto = '60s'"), ("staging", "")]);
    backup(&runner, "production").expect(0);
    backup(&runner, "staging").expect(0);
    let production = "deployment production";
    let repository = runner.open();
    let record = |says| {
        repository.write_evidence(says).unwrap();
    };
    expect(&runner, &[], &[("drill_overdue", production)]);
    record(drill("staging", DrillResult::Passed));
    expect(&runner, &[], &[("drill_overdue", production)]);
    record(drill("production", DrillResult::Failed));
    let status = expect(&runner, &[], &[("drill_failed", production), ("drill_overdue", production)]);
    assert_eq!(source(&status, "production")["drills"]["newest"]["failures"], 1);
    record(drill("production", DrillResult::Late));
    expect(&runner, &[], &[("drill_late", production)]);
    let text = run(&runner, &["status"]).expect(1).text();
    assert!(text.contains("everything took 65 s, and may take 60 s"), "{text}");
    record(drill("production", DrillResult::Passed));
    expect(&runner, &[], &[]);
}

#[test]
fn evidence_that_a_thief_leaves_proves_nothing_and_is_said() {
    let runner = Runner::with_repository();
    create(&runner, "production", 3);
    configure(&runner, &[("production", "drill = '35d'\ncheck = '8d'")]);
    backup(&runner, "production").expect(0);
    let [_, file] = key(&runner, "writer");
    forge_evidence(&runner.open_with(file), Timestamp::now(), drill("production", DrillResult::Passed));
    let production = "deployment production";
    let expected = [("drill_overdue", production), ("check_overdue", ""), ("evidence_doubted", production)];
    expect(&runner, &[], &expected);
}
