//! `doctor` on the command line.

use std::fs;

use crate::support::cli::{Runner, finish};
use crate::support::s3_server::{ACCESS_KEY_ID, BUCKET, Program, S3Server, SECRET_ACCESS_KEY};

#[test]
fn a_good_backend_is_found_good_without_a_key_and_left_as_it_was() {
    let runner = Runner::with_repository();
    let before = runner.files("repo");
    let outcome = finish(runner.command(["doctor", "--json"]).env_remove("MLVAULT_KEY_FILE")).expect(0);
    let json = outcome.json();
    assert_eq!(json["status"], "ok");
    assert_eq!(json["report"]["findings"].as_array().unwrap().len(), 10);
    assert_eq!(json["repository_create_only"], serde_json::Value::Null);
    assert_eq!(runner.files("repo"), before);
    let text = runner.run(["doctor"]).expect(0).text();
    assert!(text.contains("create only") && text.contains("throughput") && !text.contains("FAILED"), "{text}");
    assert_eq!(runner.run(["doctor", "--json"]).expect(0).json()["repository_create_only"], true);
}

#[test]
fn a_place_without_a_repository_can_be_probed_and_no_place_cannot() {
    let runner = Runner::without_repository();
    fs::create_dir(runner.path("repo")).unwrap();
    runner.run(["doctor"]).expect(0);
    assert!(runner.files("repo").is_empty());
    finish(runner.command(["doctor"]).env("MLVAULT_REPO", runner.path("nowhere"))).expect(1);
}

#[test]
fn a_backend_that_ignores_create_only_writes_fails_with_what_follows() {
    let server = S3Server::start(Program::Rclone);
    let runner = Runner::without_repository();
    let run = |args: &[&str]| {
        let mut command = runner.command(args);
        command.env("MLVAULT_REPO", format!("s3://{BUCKET}/repo"));
        command.env("MLVAULT_S3_ENDPOINT", server.options().endpoint.unwrap()).env("MLVAULT_S3_REGION", "us-east-1");
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID).env("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY);
        finish(&mut command)
    };
    let made = run(&["init"]).expect(0);
    assert!(made.text().contains("Warning: this backend ignores create-only writes"), "{}", made.text());
    let found = run(&["doctor"]).expect(1);
    assert!(
        found.text().contains("FAILED") && found.text().contains("do not run prune beside backups"),
        "{}",
        found.text()
    );
    assert!(!found.text().contains("Note:"), "it agrees with what the repository says: {}", found.text());
    assert!(!found.stderr.contains(SECRET_ACCESS_KEY));
}
