//! A drill of a deployment on PostgreSQL: into another server, into the same one, and into a server of its own.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use serde_json::Value;

use crate::support::cli::{Outcome, Runner, finish};
use crate::support::deployment::{NAME, ROOT, snapshot_of};
use crate::support::mlflow_rows::ONE_MODEL;
use crate::support::postgres_server::{OWNER, PASSWORD, PostgresServer, unprivileged};

/// A deployment on a server, backed up.
struct Scene {
    runner: Runner,
    postgres: PostgresServer,
}

impl Scene {
    fn new() -> Self {
        let (runner, postgres) = (Runner::with_repository(), PostgresServer::start());
        postgres.create_mlflow("mlflow");
        postgres.client("mlflow").batch_execute(ONE_MODEL).unwrap();
        let model = runner.path("artifacts/7/abc/artifacts/model");
        fs::create_dir_all(&model).unwrap();
        fs::write(model.join("MLmodel"), "a model").unwrap();
        for file in ["password", "scratch-password"] {
            fs::write(runner.path(file), PASSWORD).unwrap();
            fs::set_permissions(runner.path(file), fs::Permissions::from_mode(0o600)).unwrap();
        }
        let text = format!(
            "[deployment.{NAME}]\nbackend-store-uri = '{}'\nbackend-store-password-file = {:?}\n\
             [deployment.{NAME}.artifacts]\n'{ROOT}' = {:?}\n\
             [deployment.{NAME}.drill]\nscratch-database-password-file = {:?}\n",
            uri(&postgres, "mlflow"),
            runner.path("password"),
            runner.path("artifacts"),
            runner.path("scratch-password"),
        );
        fs::write(runner.path("src/mlvault.toml"), text).unwrap();
        runner.settle();
        snapshot_of(&runner.run(["backup", "--deployment", NAME, "--json"]).expect(0));
        Self { runner, postgres }
    }

    fn drill(&self, more: &[&str]) -> Outcome {
        self.runner.run([&["drill", "--deployment", NAME, "--json"], more].concat())
    }
}

fn uri(postgres: &PostgresServer, database: &str) -> String {
    format!("postgresql://{OWNER}@127.0.0.1:{}/{database}", postgres.port())
}

/// Returns the names of the databases of a server that drills have made.
fn made_by_drills(postgres: &PostgresServer) -> Vec<String> {
    let sql = "SELECT datname FROM pg_database WHERE datname LIKE 'mlvault%'";
    postgres.client("postgres").query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

fn differs(done: &Value) -> String {
    let places = done["drill"]["places"].as_array().unwrap();
    places.iter().find(|place| place["part"] == "database/backend").unwrap()["differs"].as_str().unwrap().to_owned()
}

#[test]
fn a_drill_goes_into_a_database_of_its_own_wherever_that_is() {
    let scene = Scene::new();
    let scratch = PostgresServer::start();
    let other = scene.drill(&["--scratch-database", &uri(&scratch, "postgres")]).expect(0).json();
    assert_eq!(other["drill"]["result"], "passed", "{other:#}");
    assert!(differs(&other).starts_with("another server"), "{other:#}");
    assert!(other["drill"]["places"].to_string().contains("system identifier"), "{other:#}");
    assert!(made_by_drills(&scratch).is_empty());
    // Even where the source itself is named, another database of its server is what is filled.
    let same = scene.drill(&["--scratch-database", &uri(&scene.postgres, "mlflow")]).expect(0).json();
    assert!(differs(&same).starts_with("another database of the same server"), "{same:#}");
    assert!(made_by_drills(&scene.postgres).is_empty());
    let runs: i64 = scene.postgres.client("mlflow").query_one("SELECT count(*) FROM runs", &[]).unwrap().get(0);
    assert_eq!(runs, 2);
    let kept = scene.drill(&["--scratch-database", &uri(&scratch, "postgres"), "--keep"]).expect(0).json();
    assert!(kept["kept"].to_string().contains(&made_by_drills(&scratch)[0]), "{kept:#}");
    drop(scratch);
    let gone = scene.drill(&["--scratch-database", "postgresql://owner@127.0.0.1:9/postgres"]).expect(1);
    assert!(gone.stderr.contains("connect"), "{}", gone.stderr);
}

#[test]
fn a_role_that_may_not_create_databases_is_told_and_a_source_that_cannot_be_asked_is_no_hindrance() {
    let mut scene = Scene::new();
    let scratch = PostgresServer::start();
    scratch.client("postgres").batch_execute(&format!("CREATE ROLE poor LOGIN PASSWORD '{PASSWORD}'")).unwrap();
    let poor = format!("postgresql://poor@127.0.0.1:{}/postgres", scratch.port());
    let refused = scene.drill(&["--scratch-database", &poor]).expect(1);
    assert!(refused.stderr.contains("permission denied to create database"), "{}", refused.stderr);
    // Who runs drills need not have the password of the source.
    fs::remove_file(scene.runner.path("password")).unwrap();
    for is_gone in [false, true] {
        if is_gone {
            scene.postgres.kill();
        }
        let done = scene.drill(&["--scratch-database", &uri(&scratch, "postgres")]).expect(0).json();
        assert!(differs(&done).contains("could not be asked"), "{done:#}");
    }
    assert!(made_by_drills(&scratch).is_empty());
}

/// Gives everything in the runner's directory to the user that servers run as, and prepares a command of that user.
fn as_unprivileged(scene: &Scene, command: &Command) -> Command {
    let Some((uid, gid)) = unprivileged() else {
        let mut same = Command::new(command.get_program());
        same.args(command.get_args()).env_clear().current_dir(command.get_current_dir().unwrap());
        same.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        return same;
    };
    let mut paths = vec![scene.runner.path("")];
    while let Some(path) = paths.pop() {
        chown(&path, Some(uid), Some(gid)).unwrap();
        if path.is_dir() {
            paths.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    let mut other = Command::new("setpriv");
    other.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()]);
    other.arg(command.get_program()).args(command.get_args());
    other.env_clear().current_dir(command.get_current_dir().unwrap());
    other.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    other
}

#[test]
fn without_a_database_the_drill_starts_a_server_of_its_own_and_ends_it() {
    let scene = Scene::new();
    if rustix::process::geteuid().is_root() {
        let refused = scene.drill(&[]).expect(2);
        assert!(refused.stderr.contains("--scratch-database") && refused.stderr.contains("root"), "{}", refused.stderr);
    }
    let command = scene.runner.command(["drill", "--deployment", NAME, "--json"]);
    let done = finish(&mut as_unprivileged(&scene, &command)).expect(0).json();
    assert_eq!(done["drill"]["result"], "passed", "{done:#}");
    assert!(differs(&done).starts_with("another server"), "{done:#}");
    let left: Vec<_> = fs::read_dir(scene.runner.path("tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    let running = Command::new("pgrep").args(["-f", "mlvault-drill-"]).output().unwrap();
    assert!(running.stdout.is_empty(), "{}", String::from_utf8_lossy(&running.stdout));
}
