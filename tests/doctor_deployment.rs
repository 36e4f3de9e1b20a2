//! `mlvault doctor` of a deployment: what a backup would stumble over shows, with real databases and servers.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::support::cli::{Outcome, Runner, finish};
use crate::support::mlflow_server::{ADMIN, ADMIN_PASSWORD, MlflowOptions, MlflowServer};
use crate::support::postgres_server::{PASSWORD, PostgresServer};
use crate::support::s3_server::{ACCESS_KEY_ID, BUCKET, Program, S3Server, SECRET_ACCESS_KEY};
use crate::support::sqlite_file::create_mlflow;

/// Runs the doctor without a repository; variables are added to the environment.
fn doctor(runner: &Runner, args: &[&str], variables: &[(&str, &str)]) -> Outcome {
    let mut command = runner.command(["doctor", "--json"].iter().chain(args));
    command.env_remove("MLVAULT_REPO").envs(variables.iter().copied());
    finish(&mut command)
}

/// Returns status and words of a finding.
fn finding(outcome: &Outcome, check: &str, subject: &str) -> (String, String) {
    let json = outcome.json();
    let findings = json["deployment"]["findings"].as_array().unwrap();
    let found = findings.iter().find(|found| found["check"] == check && found["subject"] == subject);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    found.map(|found| (text(&found["status"]), text(&found["measured"]))).unwrap_or_else(|| panic!("{json:#}"))
}

fn status(outcome: &Outcome, check: &str, subject: &str) -> String {
    finding(outcome, check, subject).0
}

#[test]
fn a_deployment_that_is_well_is_found_well_and_a_wrong_mapping_shows_at_once() {
    let server = MlflowServer::start_with(&MlflowOptions::default());
    server.log_day(1);
    let runner = Runner::without_repository();
    let database = format!("sqlite:///{}", server.database().display());
    let artifacts = format!("mlflow-artifacts:/={}", server.artifacts().display());
    let uri = server.uri();
    let args = [
        "--backend-store-uri",
        &database,
        "--artifacts",
        &artifacts,
        "--tracking-uri",
        &uri,
        "--exclude-root",
        "/none",
    ];
    let well = doctor(&runner, &args, &[]).expect(0);
    assert_eq!(well.json()["deployment_status"], "ok", "{}", well.text());
    for (check, subject) in [
        ("database", "backend"),
        ("file", "backend"),
        ("schema", "backend"),
        ("roots", "all"),
        ("files", "mlflow-artifacts:/"),
        ("key", "MLFLOW_CRYPTO_KEK_PASSPHRASE"),
        ("server", uri.as_str()),
        ("login", uri.as_str()),
    ] {
        assert_eq!(status(&well, check, subject), "ok", "{check}");
    }
    assert!(finding(&well, "files", "mlflow-artifacts:/").1.contains(" of "), "{}", well.text());

    let elsewhere = runner.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let wrong = format!("mlflow-artifacts:/={}", elsewhere.display());
    let found = doctor(&runner, &["--backend-store-uri", &database, "--artifacts", &wrong], &[]).expect(1);
    assert_eq!(status(&found, "place", elsewhere.to_str().unwrap()), "ok");
    let (status_of_files, words) = finding(&found, "files", "mlflow-artifacts:/");
    assert!(status_of_files == "failed" && words.contains("0 of "), "{words}");

    let missing = runner.path("missing");
    let nowhere = format!("mlflow-artifacts:/={}", missing.display());
    let found = doctor(&runner, &["--backend-store-uri", &database, "--artifacts", &nowhere], &[]).expect(1);
    assert_eq!(status(&found, "place", missing.to_str().unwrap()), "failed");

    let found = doctor(&runner, &["--backend-store-uri", &database], &[]).expect(1);
    let (_, words) = finding(&found, "roots", "mlflow-artifacts:/");
    assert!(words.contains("neither mapped nor excluded"), "{words}");
    let found = doctor(&runner, &["--backend-store-uri", &database, "--exclude-root", "mlflow-artifacts:/"], &[]);
    assert_eq!(status(&found.expect(0), "roots", "all"), "ok");
}

#[test]
fn databases_that_no_backup_could_read_are_told_from_those_that_one_can() {
    let server = PostgresServer::start();
    server.create_mlflow("mlflow");
    server.create("other");
    server
        .client("mlflow")
        .batch_execute(&format!(
            "CREATE ROLE weak LOGIN PASSWORD '{PASSWORD}'; GRANT SELECT ON runs TO weak; \
             CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}' IN ROLE pg_read_all_data; \
             INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) \
             VALUES (7, 'x', 's3://somewhere/7', 'active')"
        ))
        .unwrap();
    let runner = Runner::without_repository();
    let run = |role: &str, database: &str, port: u16| {
        let uri = format!("postgresql://{role}@127.0.0.1:{port}/{database}");
        doctor(&runner, &["--backend-store-uri", &uri], &[("PGPASSWORD", PASSWORD)])
    };
    let found = run("weak", "mlflow", server.port()).expect(1);
    let (rights, words) = finding(&found, "rights", "backend");
    assert!(rights == "failed" && words.contains("pg_read_all_data"), "{words}");

    let found = run("reader", "mlflow", server.port()).expect(1);
    for (check, expected) in [("database", "ok"), ("rights", "ok"), ("dump-program", "ok"), ("schema", "ok")] {
        assert_eq!(status(&found, check, "backend"), expected, "{check}");
    }
    assert_eq!(status(&found, "roots", "s3://somewhere"), "failed");
    assert!(!found.text().contains(PASSWORD));

    let found = run("owner", "other", server.port()).expect(1);
    assert_eq!(status(&found, "schema", "backend"), "failed", "it is not MLflow's");
    let found = run("owner", "mlflow", 1).expect(1);
    assert_eq!(status(&found, "database", "backend"), "failed");
}

#[test]
fn keys_and_revisions_that_a_restore_would_miss_are_warned_of() {
    let runner = Runner::without_repository();
    let path = runner.path("mlflow.db");
    let connection = create_mlflow(&path);
    connection
        .execute_batch(
            "INSERT INTO webhooks (webhook_id, name, url, status, secret, creation_timestamp, last_updated_timestamp) \
             VALUES ('w', 'w', 'http://localhost', 'ACTIVE', 'sealed', 1, 1)",
        )
        .unwrap();
    let uri = format!("sqlite:///{}", path.display());
    let args = ["--backend-store-uri", uri.as_str()];
    let found = doctor(&runner, &args, &[]).expect(0);
    assert_eq!(status(&found, "key", "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"), "warning");
    let given = [("MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY", "hunter2")];
    let found = doctor(&runner, &args, &given).expect(0);
    assert_eq!(status(&found, "key", "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"), "ok");
    assert!(!found.text().contains("hunter2"));

    connection.execute_batch("UPDATE alembic_version SET version_num = 'ffffffffffff'").unwrap();
    assert_eq!(status(&doctor(&runner, &args, &[]).expect(0), "schema", "backend"), "warning");
    connection.execute_batch("PRAGMA journal_mode = wal").unwrap();
    let (_, words) = finding(&doctor(&runner, &args, &[]).expect(0), "file", "backend");
    assert!(words.contains("wal"), "{words}");

    let not_there = doctor(&runner, &args, &[("TMPDIR", "/nonexistent/scratch")]).expect(1);
    assert_eq!(status(&not_there, "scratch", "/nonexistent/scratch"), "failed");
}

#[test]
fn a_server_that_does_not_let_us_in_is_told_with_what_to_do() {
    let server = MlflowServer::start_with(&MlflowOptions { has_passwords: true, ..MlflowOptions::default() });
    let runner = Runner::without_repository();
    let uri = server.uri();
    let args = ["--deployment", "production", "--tracking-uri", uri.as_str()];
    let found = doctor(&runner, &args, &[]).expect(1);
    assert_eq!(status(&found, "server", &uri), "ok");
    assert!(finding(&found, "login", &uri).1.contains("MLFLOW_TRACKING_USERNAME"));
    let login = [("MLFLOW_TRACKING_USERNAME", ADMIN), ("MLFLOW_TRACKING_PASSWORD", ADMIN_PASSWORD)];
    assert_eq!(status(&doctor(&runner, &args, &login).expect(0), "login", &uri), "ok");
    drop(server);

    let options = MlflowOptions { allowed_hosts: Some("mlflow.example".to_owned()), ..MlflowOptions::default() };
    let server = MlflowServer::start_with(&options);
    let uri = server.uri();
    let found = doctor(&runner, &["--deployment", "production", "--tracking-uri", &uri], &[]).expect(1);
    assert!(finding(&found, "login", &uri).1.contains("--allowed-hosts"), "{}", found.text());
}

#[test]
fn a_bucket_is_listed_with_the_key_that_was_given() {
    let server = S3Server::start(Program::Rclone);
    let runner = Runner::without_repository();
    let path = runner.path("mlflow.db");
    create_mlflow(&path)
        .execute_batch(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) \
             VALUES (7, 'x', 'mlflow-artifacts:/7', 'active'); \
             INSERT INTO runs (run_uuid, name, experiment_id, artifact_uri, lifecycle_stage, status) \
             VALUES ('r', 'r', 7, 'mlflow-artifacts:/7/r/artifacts', 'active', 'FINISHED')",
        )
        .unwrap();
    let files = server.bucket_directory().join("ml/7/r/artifacts");
    fs::create_dir_all(&files).unwrap();
    fs::write(files.join("plot.png"), "x").unwrap();
    fs::set_permissions(&files, fs::Permissions::from_mode(0o755)).unwrap();
    let (uri, root) = (format!("sqlite:///{}", path.display()), format!("mlflow-artifacts:/=s3://{BUCKET}/ml"));
    let endpoint = server.options().endpoint.unwrap();
    let run = |secret: &str| {
        let variables = [
            ("MLFLOW_S3_ENDPOINT_URL", endpoint.as_str()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID),
            ("AWS_SECRET_ACCESS_KEY", secret),
            ("AWS_REGION", "us-east-1"),
        ];
        doctor(&runner, &["--backend-store-uri", &uri, "--artifacts", &root], &variables)
    };
    let found = run(SECRET_ACCESS_KEY).expect(0);
    assert_eq!(status(&found, "place", &format!("s3://{BUCKET}/ml")), "ok");
    assert!(finding(&found, "files", "mlflow-artifacts:/").1.starts_with("1 of 1"), "{}", found.text());
    let found = run("a-wrong-secret").expect(1);
    assert_eq!(status(&found, "place", &format!("s3://{BUCKET}/ml")), "failed");
    assert!(!found.text().contains("a-wrong-secret"));
}

#[test]
fn a_repository_that_is_configured_is_looked_at_as_well() {
    let runner = Runner::with_repository();
    let path = runner.path("mlflow.db");
    drop(create_mlflow(&path));
    let uri = format!("sqlite:///{}", path.display());
    let json = runner.run(["doctor", "--json", "--backend-store-uri", &uri]).expect(0).json();
    assert!(json["status"] == "ok" && json["deployment_status"] == "ok", "{json:#}");
    let text = runner.run(["doctor", "--backend-store-uri", &uri]).expect(0).text();
    assert!(text.contains("Deployment sqlite:///") && text.contains("Backend "), "{text}");
}
