//! A deployment with a large database on PostgreSQL: what a day costs, and what is left when something ends in the middle.

use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::cli::Runner;
use crate::support::deployment::{Place, bytes_stored};
use crate::support::postgres_server::{OWNER, PASSWORD, PostgresServer};

/// Rows of the table of metrics, unless the environment says how many.
const METRICS: u64 = 500_000;
/// Metrics of one run.
const METRICS_PER_RUN: u64 = 1000;
/// Of so many runs, one is logged to or changed on a day.
const CHANGED_OF: u64 = 33;
/// How long something may take to begin on a loaded machine.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// Logs runs, one after the other, with values as training makes them: steps and times that go up, and losses that nobody
/// can guess.
fn log_runs(postgres: &PostgresServer, runs: u64) {
    let sql = format!(
        "SELECT setseed(0.5);
         INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage)
         VALUES (7, 'large', 'mlflow-artifacts:/7', 'active');
         INSERT INTO runs (run_uuid, name, experiment_id, artifact_uri, lifecycle_stage, status)
         SELECT md5(run::text), 'run ' || run, 7, 'mlflow-artifacts:/7/' || md5(run::text), 'active', 'FINISHED'
         FROM generate_series(1, {runs}) run;
         INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan)
         SELECT 'loss', exp(-step / 300.0) + random() / 100, 1790000000000 + run * 100000 + step, md5(run::text), step, false
         FROM generate_series(1, {runs}) run, generate_series(1, {METRICS_PER_RUN}) step ORDER BY run, step"
    );
    postgres.client("mlflow").batch_execute(&sql).unwrap();
}

/// Changes the metrics of a few runs, here and there, as a day's work does: some are logged anew, some are deleted.
fn live_a_day(postgres: &PostgresServer, runs: u64) {
    let changed = runs / CHANGED_OF;
    let sql = format!(
        "UPDATE metrics SET value = value + random() / 100
         WHERE run_uuid IN (SELECT md5((run * {CHANGED_OF})::text) FROM generate_series(1, {changed}) run)"
    );
    let rows = postgres.client("mlflow").execute(&sql, &[]).unwrap();
    assert_eq!(rows, changed * METRICS_PER_RUN);
}

/// Starts a command and returns when a query has an answer, which it can only have in the command's middle.
fn start_until(mut command: Command, postgres: &PostgresServer, database: &str, query: &str) -> Child {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (begun, mut client) = (Instant::now(), postgres.client(database));
    while client.query(query, &[]).unwrap().is_empty() {
        assert!(child.try_wait().unwrap().is_none(), "It ended before the middle: {:?}", child.wait_with_output());
        assert!(begun.elapsed() < WAIT_MAX, "It never came to the middle");
        sleep(Duration::from_millis(5));
    }
    child
}

#[test]
fn a_large_database_costs_what_changed_and_is_all_or_nothing() {
    let metrics = std::env::var("MLVAULT_TEST_METRICS").map_or(METRICS, |text| text.parse().unwrap());
    let runs = metrics / METRICS_PER_RUN;
    let (mut postgres, runner) = (PostgresServer::start(), Runner::with_repository());
    postgres.create_mlflow("mlflow");
    log_runs(&postgres, runs);
    let uri = |database: &str| format!("postgresql://{OWNER}:{PASSWORD}@127.0.0.1:{}/{database}", postgres.port());
    let source = Place { database: uri("mlflow"), ..Place::in_folder(&runner.path("src")) };
    std::fs::create_dir(&source.artifacts).unwrap();

    let (_, first) = source.backup(&runner);
    let dump = dump_bytes(&first);
    assert!(dump > metrics * 50, "{first:#}");
    let unchanged = bytes_stored(&source.backup(&runner).1);
    assert!(
        unchanged * 100 < bytes_stored(&first),
        "an unchanged database cost {unchanged} of {}",
        bytes_stored(&first)
    );
    live_a_day(&postgres, runs);
    let day = bytes_stored(&source.backup(&runner).1);
    assert!(day * 10 < dump, "a day cost {day} of {dump} bytes");
    eprintln!(
        "{metrics} metrics: dump {dump}, first {}, unchanged {unchanged}, a day {day} bytes",
        bytes_stored(&first)
    );

    postgres.create("killed");
    let target = Place { database: uri("killed"), ..Place::in_folder(&runner.path("killed")) };
    a_restore_is_killed(&runner, &postgres, &target);
    let restored: i64 = postgres.client("killed").query_one("SELECT count(*) FROM metrics", &[]).unwrap().get(0);
    assert_eq!(restored as u64, runs * METRICS_PER_RUN);
    the_server_is_lost(&runner, &mut postgres, &source);
}

fn dump_bytes(record: &Value) -> u64 {
    let components = record["components"].as_array().unwrap();
    components.iter().find(|component| component["name"] == "database").unwrap()["bytes"].as_u64().unwrap()
}

/// Kills a restore while it loads the large table: the database is empty as before, and the next restore fills it.
fn a_restore_is_killed(runner: &Runner, postgres: &PostgresServer, target: &Place) {
    let restore = ["restore", "--yes"];
    let is_loading = "SELECT 1 FROM pg_stat_progress_copy WHERE tuples_processed > 1000 AND datname = 'killed'";
    let mut child = start_until(target.command(runner, &restore), postgres, "killed", is_loading);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().code(), None);
    let is_over = || {
        let sql = "SELECT 1 FROM pg_stat_activity WHERE datname = 'killed' AND pid <> pg_backend_pid()";
        postgres.client("killed").query(sql, &[]).unwrap().is_empty()
    };
    let begun = Instant::now();
    while !is_over() {
        assert!(begun.elapsed() < WAIT_MAX, "The server never noticed");
        sleep(Duration::from_millis(20));
    }
    let tables = "SELECT 1 FROM pg_tables WHERE schemaname = 'public'";
    assert!(postgres.client("killed").query(tables, &[]).unwrap().is_empty());
    target.run(runner, &[&restore[..], &["--resume"]].concat()).expect(0);
}

/// Kills the database server in the middle of a dump: there is no snapshot, and the message says why.
fn the_server_is_lost(runner: &Runner, postgres: &mut PostgresServer, source: &Place) {
    let is_dumping = "SELECT 1 FROM pg_stat_progress_copy WHERE tuples_processed > 1000 AND datname = 'mlflow'";
    let child = start_until(source.command(runner, &["backup"]), postgres, "mlflow", is_dumping);
    postgres.kill();
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("mlflow") && !told.contains(PASSWORD), "{told}");
    let snapshots = runner.run(["snapshots", "--json"]).expect(0).json();
    assert_eq!(snapshots["snapshots"].as_array().unwrap().len(), 3);
    runner.run(["check"]).expect(0);
}
