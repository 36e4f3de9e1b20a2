//! A deployment on PostgreSQL and S3, lost and got back on another server, under other names.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::deployment_surgery::lose_and_get_back;
use crate::support::cli::{Runner, finish};
use crate::support::deployment::{NAME, Place, ROOT, assert_whole, bytes_stored, s3_environment, snapshot_of};
use crate::support::mlflow_server::{MlflowServer, SCALE};
use crate::support::postgres_server::{OWNER, PASSWORD, PostgresServer};
use crate::support::s3_server::{ACCESS_KEY_ID, Program, S3Server, SECRET_ACCESS_KEY, unsigned_request};

/// The role that backups use: it may read, and nothing else.
const READER: &str = "backup";
/// Locations that the database has beside MLflow's own root.
const DIRECT: [&str; 2] = ["s3://vault/direct", "s3://team-b/runs"];
/// Where they are after the restore.
const MOVED: [&str; 2] = ["s3://restored/direct", "s3://restored/of-team-b"];

#[test]
fn a_lost_deployment_comes_back_on_other_servers_under_other_names() {
    let (postgres, moto) = (PostgresServer::start(), S3Server::start(Program::Moto));
    postgres.create("mlflow");
    postgres
        .client("mlflow")
        .batch_execute(&format!("CREATE ROLE {READER} LOGIN PASSWORD '{PASSWORD}'; GRANT pg_read_all_data TO {READER}"))
        .unwrap();
    unsigned_request(moto.port(), "PUT", "/team-b");
    let runner = Runner::with_repository();
    let record = runner.path("record.json");

    configure(&runner, &postgres, &moto);
    let place = place(&postgres, "mlflow", &moto, "s3://vault/artifacts");
    let server = place.serve(&runner.path("server"));
    let snapshots = live(&runner, &server);
    let unchanged = backup_without_file(&runner, &postgres, &moto);
    assert!(
        bytes_stored(&unchanged) * 100 < bytes_stored(&snapshots[0]),
        "an unchanged deployment cost {} bytes",
        bytes_stored(&unchanged)
    );
    server.record(&record);
    let everywhere = place.clone().with(&["--artifacts", DIRECT[0], "--artifacts", DIRECT[1]]);
    lose_and_get_back(&runner, &everywhere, &server);
    server.verify(&record, &[]);
    drop((server, moto));
    postgres.client("postgres").batch_execute("DROP DATABASE mlflow WITH (FORCE)").unwrap();

    runner.run(["check", "--read-data"]).expect(0);
    restore_elsewhere(&runner, &postgres);
}

/// Logs three days with a snapshot of each, and an experiment whose artifacts are in a bucket that clients reach directly.
fn live(runner: &Runner, server: &MlflowServer) -> Vec<Value> {
    let direct = format!(
        "team_b = client.create_experiment('team-b', artifact_location='{}')\n\
         run = client.create_run(team_b, run_name='direct').info.run_id\n\
         client.log_text(run, 'not by way of the server', 'notes/direct.txt')\nclient.set_terminated(run)",
        DIRECT[1]
    );
    let log = |day: u32| {
        let day = day.to_string();
        server.make(&["log", "--day", &day, "--scale", SCALE, "--direct", &format!("{}/model", DIRECT[0])]);
        server.run(if day == "1" { &direct } else { "" });
        let record = backup(runner);
        assert_whole(&record);
        record
    };
    (1..=3).map(log).collect()
}

/// Backs up as the configuration file says, and returns the snapshot's record.
#[track_caller]
fn backup(runner: &Runner) -> Value {
    snapshot_of(&runner.run(["backup", "--deployment", NAME, "--json"]).expect(0)).1
}

/// Backs up as flags and variables say, which reach all that the file does.
#[track_caller]
fn backup_without_file(runner: &Runner, postgres: &PostgresServer, moto: &S3Server) -> Value {
    let bucket = |name: &str| {
        let key = format!("deployment.{NAME}.buckets.{name}");
        format!(
            "{key}.endpoint=http://127.0.0.1:{}\n{key}.access-key-id={ACCESS_KEY_ID}\n{key}.secret-access-key-file={}\n",
            moto.port(),
            runner.path("s3-secret").display()
        )
    };
    let mut command = runner.command(["backup", "--config", "/dev/null", "--json", "--deployment", NAME]);
    let uri = format!("postgresql://{READER}@127.0.0.1:{}/mlflow", postgres.port());
    command
        .args(["--backend-store-uri", &uri])
        .arg("--backend-store-password-file")
        .arg(runner.path("database-password"));
    command.args(["--artifacts", &format!("{ROOT}=s3://vault/artifacts")]);
    command.args(DIRECT.iter().flat_map(|root| ["--artifacts", root]));
    let settings = format!("deployment.{NAME}.s3.endpoint=http://127.0.0.1:9\n{}{}", bucket("vault"), bucket("team-b"));
    command.env("MLVAULT_SET", settings);
    snapshot_of(&finish(&mut command).expect(0)).1
}

/// Writes the configuration file, which lies where mlvault runs, and the secrets that it names.
fn configure(runner: &Runner, postgres: &PostgresServer, moto: &S3Server) {
    for (name, secret) in [("database-password", PASSWORD), ("s3-secret", SECRET_ACCESS_KEY)] {
        fs::write(runner.path(name), secret).unwrap();
        fs::set_permissions(runner.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let password_file = runner.path("database-password");
    let access = |port: u16| {
        let secret_file = runner.path("s3-secret");
        format!(
            "endpoint = 'http://127.0.0.1:{port}'\naccess-key-id = '{ACCESS_KEY_ID}'\nsecret-access-key-file = {secret_file:?}\n"
        )
    };
    let text = format!(
        "[deployment.{NAME}]\n\
         backend-store-uri = 'postgresql://{READER}@127.0.0.1:{}/mlflow'\n\
         backend-store-password-file = {password_file:?}\n\
         [deployment.{NAME}.artifacts]\n'{ROOT}' = 's3://vault/artifacts'\n'{}' = '{}'\n'{}' = '{}'\n\
         [deployment.{NAME}.s3]\nendpoint = 'http://127.0.0.1:9'\n\
         [deployment.{NAME}.buckets.vault]\n{}[deployment.{NAME}.buckets.team-b]\n{}",
        postgres.port(),
        DIRECT[0],
        DIRECT[0],
        DIRECT[1],
        DIRECT[1],
        access(moto.port()),
        access(moto.port()),
    );
    fs::write(runner.path("src/mlvault.toml"), text).unwrap();
}

/// A deployment on the two servers, as its owner and as MLflow reach it.
fn place(postgres: &PostgresServer, database: &str, s3: &S3Server, artifacts: &str) -> Place {
    Place {
        database: format!("postgresql+psycopg2://{OWNER}:{PASSWORD}@127.0.0.1:{}/{database}", postgres.port()),
        artifacts: artifacts.to_owned(),
        more: Vec::new(),
        environment: s3_environment(&format!("http://127.0.0.1:{}", s3.port())),
    }
}

/// Restores the last snapshot into another database and another server's bucket, starts MLflow on it, and there loses and
/// restores a run whose artifacts have moved.
fn restore_elsewhere(runner: &Runner, postgres: &PostgresServer) {
    fs::remove_file(runner.path("src/mlvault.toml")).unwrap();
    let rclone = S3Server::start(Program::Rclone);
    fs::create_dir(rclone.bucket_directory().with_file_name("restored")).unwrap();
    postgres.create("restored");
    let plain = place(postgres, "restored", &rclone, "s3://restored/artifacts");
    let moves = DIRECT.iter().zip(MOVED).map(|(from, to)| format!("{from}={to}")).collect::<Vec<_>>();
    let target = plain.clone().with(&["--artifacts", MOVED[0], "--artifacts", MOVED[1]]);
    let restore = ["restore", "--map-root", &moves[0], "--map-root", &moves[1]];

    let plan = target.run(runner, &[&restore[..], &["--dry-run"]].concat()).expect(0).json();
    let database = &plan["plan"]["databases"][0];
    let rewrites: BTreeMap<String, u64> = database["rewrites"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| {
            let name = format!("{}.{}", column["table"].as_str().unwrap(), column["column"].as_str().unwrap());
            (name, column["rows"].as_u64().unwrap())
        })
        .collect();
    assert_eq!(rewrites.len(), 8, "{plan:#}");
    assert_eq!((rewrites["experiments.artifact_location"], rewrites["runs.artifact_uri"]), (1, 1), "{plan:#}");
    assert!(rewrites["model_versions.source"] >= 1, "{plan:#}");
    assert!(
        postgres
            .client("restored")
            .query("SELECT 1 FROM pg_tables WHERE schemaname = 'public'", &[])
            .unwrap()
            .is_empty()
    );

    let done = target.run(runner, &[&restore[..], &["--yes"]].concat()).expect(0).json();
    assert_eq!(done["summary"]["rewritten"], rewrites.values().sum::<u64>(), "{done:#}");
    let mut client = postgres.client("restored");
    for (column, rows) in &rewrites {
        let (table, column) = column.split_once('.').unwrap();
        let mut count = |pattern: &str| -> i64 {
            let sql = format!("SELECT count(*) FROM {table} WHERE {column} LIKE '{pattern}'");
            client.query_one(&sql, &[]).unwrap().get(0)
        };
        let (moved, left) = (count("s3://restored/%"), count("s3://vault/%") + count("s3://team-b/%"));
        assert_eq!((moved, left), (*rows as i64, 0), "{table}.{column}");
    }

    let record = runner.path("record.json");
    let mut told = fs::read_to_string(&record).unwrap();
    DIRECT.iter().zip(MOVED).for_each(|(from, to)| told = told.replace(from, to));
    fs::write(&record, told).unwrap();
    let server = plain.serve(&runner.path("restored-server"));
    server.verify(&record, &[]);
    let team_b = server.run(
        "run = client.search_runs([client.get_experiment_by_name('team-b').experiment_id])[0].info.run_id\n\
         client.delete_run(run)\nprint(run)",
    );
    target.collect_garbage(&server, &["--run-ids", &team_b]);
    target.run(runner, &[&restore[..], &["--run", &team_b, "--yes"]].concat()).expect(0);
    server.run(&format!(
        "assert client.get_run('{team_b}').info.artifact_uri.startswith('{}/')\n\
         assert [file.path for file in client.list_artifacts('{team_b}', 'notes')] == ['notes/direct.txt']",
        MOVED[1]
    ));
    // The sequences go on behind the restored ids.
    server.run(
        "made = client.create_experiment('made after the restore')\n\
         assert int(made) > max(int(e.experiment_id) for e in client.search_experiments() if e.experiment_id != made)\n\
         run = client.create_run(made).info.run_id\nclient.log_metric(run, 'm', 1.0)\n\
         client.log_text(run, 'new', 'new.txt')\nassert len(client.list_artifacts(run)) == 1\n\
         client.create_registered_model('made after the restore')",
    );
}
