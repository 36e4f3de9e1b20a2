//! Which setting counts where several are given: the flag before the variable, the variable before the file.

use std::fs;
use std::process::Command;

use super::support::cli::{Runner, finish};

/// An address that is reserved for documentation: nothing answers there.
const ELSEWHERE: &str = "http://192.0.2.1:9000";
/// What is said where a plain endpoint is not allowed.
const REFUSAL: &str = "plain http:// to another machine";

/// Prepares a command on a repository behind a plain endpoint elsewhere, which the file allows or not.
fn with_file(runner: &Runner, s3: &str, args: &[&str]) -> Command {
    let file = runner.path("mlvault.toml");
    fs::write(&file, format!("[s3]\nendpoint = '{ELSEWHERE}'\n{s3}\n[to.s3]\nendpoint = '{ELSEWHERE}'\n{s3}\n"))
        .unwrap();
    let mut command = runner.command(args);
    command.arg("--config").arg(file);
    command
}

/// Fails unless a plain endpoint is refused before anything is sent.
#[track_caller]
fn expect_refusal(command: &mut Command) {
    let outcome = finish(command).expect(2);
    assert!(outcome.stderr.contains(REFUSAL), "{}", outcome.stderr);
}

#[test]
fn a_variable_that_says_no_wins_over_a_file_that_says_yes() {
    let runner = Runner::with_repository();
    let of_s3 = ["snapshots", "--repo", "s3://bucket/mlvault"];
    let allowed = "insecure-http = true";
    expect_refusal(with_file(&runner, allowed, &of_s3).env("MLVAULT_S3_INSECURE_HTTP", "false"));
    expect_refusal(with_file(&runner, allowed, &of_s3).arg("--s3-insecure-http=false"));
    expect_refusal(
        with_file(&runner, allowed, &of_s3).arg("--s3-insecure-http=false").env("MLVAULT_S3_INSECURE_HTTP", "true"),
    );
    expect_refusal(&mut with_file(&runner, "insecure-http = false", &of_s3));
    let copy = ["copy", "--all", "--to", "s3://bucket/mlvault"];
    let key = runner.path("key");
    let mut command = with_file(&runner, allowed, &copy);
    expect_refusal(command.env("MLVAULT_TO_KEY_FILE", key).env("MLVAULT_TO_S3_INSECURE_HTTP", "false"));
}

#[test]
fn the_variable_of_a_ca_bundle_wins_over_the_file() {
    let runner = Runner::with_repository();
    let of_s3 = ["snapshots", "--repo", "s3://bucket/mlvault", "--s3-insecure-http"];
    for name in ["of-file.pem", "of-variable.pem"] {
        fs::write(runner.path(name), "no certificate").unwrap();
    }
    let of_file = format!("ca-bundle = '{}'", runner.path("of-file.pem").display());
    let named = |command: &mut Command| finish(command).expect(2).stderr;
    let message = named(&mut with_file(&runner, &of_file, &of_s3));
    assert!(message.contains("of-file.pem"), "{message}");
    let variable = runner.path("of-variable.pem");
    let message = named(with_file(&runner, &of_file, &of_s3).env("AWS_CA_BUNDLE", &variable));
    assert!(message.contains("of-variable.pem"), "{message}");
}
