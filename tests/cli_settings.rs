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

#[test]
fn a_password_among_the_arguments_is_refused_and_in_the_environment_or_a_file_it_is_not() {
    let runner = Runner::with_repository();
    let uri = "postgresql://mlflow:hunter2@192.0.2.1/mlflow?connect_timeout=1";
    let of_set = format!("deployment.p.backend-store-uri={uri}");
    let of_command = format!("pg_dump '{uri}'");
    for arguments in [
        &["doctor", "--backend-store-uri", uri][..],
        &["doctor", &format!("--backend-store-uri={uri}")],
        &["backup", "--registry-store-uri", uri, "--artifacts", "/srv"],
        &["backup", "--auth-database-uri", uri, "--artifacts", "/srv"],
        &["backup", "--artifacts", "/srv", "--tracking-uri", "https://ann:hunter2@mlflow.example.org"],
        &["backup", "--deployment", "p", "--set", &of_set],
        &["--set", &of_set, "snapshots"],
        &["backup", "--command", &of_command, "--name", "x"],
        &["snapshots", "--repo", "s3://key:hunter2@bucket/p"],
        &["snapshots", "--s3-endpoint", "https://key:hunter2@minio.example.org"],
        &["backup", "s3://key:hunter2@bucket/p"],
        &["copy", "--all", "--to", "s3://key:hunter2@bucket/p"],
        &["repair", "packs", "--from", "s3://key:hunter2@bucket/p"],
    ] {
        let refused = runner.run(arguments).expect(2);
        assert!(refused.stderr.contains("list of processes"), "{arguments:?}: {}", refused.stderr);
        assert!(!refused.stderr.contains("hunter2"), "{}", refused.stderr);
    }
    let refused = runner.run(["doctor", "--backend-store-uri", uri, "--json"]).expect(2);
    assert!(refused.stderr.contains("\"type\":\"error\"") && refused.stderr.contains("MLVAULT_BACKEND_STORE_URI"));

    // Nothing answers at the address: that it was tried shows that the password was accepted.
    let file = runner.path("mlvault.toml");
    fs::write(&file, format!("[deployment.p]\nbackend-store-uri = '{uri}'\n")).unwrap();
    let mut of_file = runner.command(["doctor", "--deployment", "p"]);
    of_file.arg("--config").arg(&file);
    let mut of_variable = runner.command(["doctor"]);
    of_variable.env("MLVAULT_BACKEND_STORE_URI", uri);
    let mut of_settings = runner.command(["doctor", "--deployment", "p"]);
    of_settings.env("MLVAULT_SET", &of_set);
    for command in [&mut of_file, &mut of_variable, &mut of_settings] {
        let tried = finish(command).expect(1);
        let said = format!("{}{}", tried.stderr, String::from_utf8_lossy(&tried.stdout));
        assert!(said.contains("192.0.2.1") && !said.contains("hunter2"), "{said}");
    }
}

#[test]
fn commands_of_the_user_get_the_environment_without_what_is_mlvaults_own() {
    let runner = Runner::with_repository();
    let mut backup = runner.command(["backup", "--command", "env", "--name", "environment"]);
    backup.env("MLVAULT_S3_SECRET_ACCESS_KEY", "hunter2").env("MLVAULT_SET", "memory-limit=512M");
    backup.env("AWS_SECRET_ACCESS_KEY", "for-the-command").env("OTHER", "1");
    finish(&mut backup).expect(0);
    let seen = runner.run(["cat", "latest", "environment"]).expect(0).text();
    assert!(!seen.contains("MLVAULT_") && !seen.contains("hunter2"), "{seen}");
    assert!(seen.contains("AWS_SECRET_ACCESS_KEY=for-the-command") && seen.contains("OTHER=1"), "{seen}");

    let line = format!("env > {}; echo correct horse battery", runner.path("seen").display());
    let mut add = runner.command(["key", "add", "--label", "p", "--role", "reader", "--new-passphrase-file"]);
    fs::write(runner.path("passphrase"), "correct horse battery").unwrap();
    finish(add.arg(runner.path("passphrase"))).expect(0);
    let mut list = runner.command(["key", "list", "--passphrase-command", &line]);
    list.env_remove("MLVAULT_KEY_FILE").env("MLVAULT_TO_PASSPHRASE", "hunter2");
    finish(&mut list).expect(0);
    let seen = fs::read_to_string(runner.path("seen")).unwrap();
    assert!(!seen.contains("MLVAULT_") && seen.contains("HOME="), "{seen}");
}

/// Returns the variables that the page of commands names as settings.
fn documented_variables() -> Vec<String> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli.md")).unwrap();
    let words = page.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let mut names: Vec<String> = words.filter(|word| word.starts_with("MLVAULT_")).map(str::to_owned).collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn an_empty_variable_counts_as_one_that_is_not_there() {
    let runner = Runner::with_repository();
    runner.write("file", "content");
    let variables = documented_variables();
    assert!(variables.len() > 25, "{variables:?}");
    // What the runner itself needs is given as arguments.
    let (repo, key) = (runner.path("repo").display().to_string(), runner.path("key").display().to_string());
    let run = |command: &[&str], empty: &[&str]| {
        let mut prepared = runner.command(command);
        prepared.args(["--repo", &repo, "--key-file", &key]).envs(empty.iter().map(|name| (*name, "")));
        finish(&mut prepared)
    };
    for variable in &variables {
        run(&["snapshots"], &[variable]).expect(0);
    }
    let all: Vec<&str> = variables.iter().map(String::as_str).chain(["MLFLOW_TRACKING_URI", "AWS_CA_BUNDLE"]).collect();
    let source = runner.path("src").display().to_string();
    run(&["backup", &source], &all).expect(0);
    // An empty home is none: nothing appears where somebody happens to stand.
    let none = ["HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MLVAULT_CACHE_DIR"];
    let stand = runner.path("stand");
    fs::create_dir(&stand).unwrap();
    let mut prepared = runner.command(["backup", &source]);
    finish(prepared.current_dir(&stand).envs(none.map(|name| (name, "")))).expect(0);
    assert_eq!(fs::read_dir(&stand).unwrap().count(), 0);
}

#[test]
fn a_passphrase_in_a_variable_may_end_with_a_line_end() {
    let runner = Runner::without_repository();
    let run = |command: &str, words: &str| {
        let mut prepared = runner.command([command]);
        finish(prepared.env_remove("MLVAULT_KEY_FILE").env("MLVAULT_PASSPHRASE", words))
    };
    run("init", "pass word with end ").expect(0);
    for same in ["pass word with end \n", "pass word with end \r\n"] {
        run("snapshots", same).expect(0);
    }
    run("snapshots", "pass word with end").expect(12);
}

#[test]
fn what_names_the_storage_of_other_programs_is_no_directory() {
    let runner = Runner::without_repository();
    for location in ["sftp:host:/x", "rclone:remote:x", "b2:bucket:x", "rest:http", "azure:x", "gs:bucket:/"] {
        let refused = runner.run(["init", "--repo", location]).expect(2).stderr;
        assert!(refused.contains("./"), "{location}: {refused}");
    }
    let stand = runner.path("stand");
    fs::create_dir(&stand).unwrap();
    finish(runner.command(["init", "--repo", "./b2:x"]).current_dir(&stand)).expect(0);
    assert!(stand.join("b2:x/config").exists());
}

#[test]
fn who_asked_for_json_is_told_in_json_what_is_wrong_with_the_arguments() {
    let runner = Runner::with_repository();
    for arguments in [&["snapshots", "--json", "--nonsense"][..], &["restore", "--json"], &["--json", "nonsense"]] {
        let refused = runner.run(arguments).expect(2);
        assert!(refused.stdout.is_empty());
        let told: serde_json::Value = serde_json::from_str(refused.stderr.trim()).unwrap();
        assert_eq!((&told["type"], &told["exit_code"]), (&"error".into(), &2.into()), "{told:#}");
    }
    // A list that breaks off is a document all the same.
    runner.write("file", "content");
    runner.backup();
    runner.files("repo/packs/meta").iter().for_each(|pack| fs::remove_file(pack).unwrap());
    let broken = runner.run(["ls", "-R", "latest", "--json"]);
    assert!(matches!(broken.code, Some(1 | 3)), "{broken:?}");
    broken.json();
}

#[test]
fn a_label_is_given_to_one_key_only() {
    let runner = Runner::with_repository();
    let add = |label: &str, file: &str| {
        let file = runner.path(file).display().to_string();
        runner.run(["key", "add", "--label", label, "--role", "writer", "--new-key-file", &file])
    };
    add("cron", "one").expect(0);
    let refused = add("cron", "two").expect(2).stderr;
    assert!(refused.contains("\"cron\""), "{refused}");
    assert!(!runner.path("two").exists());
    runner.run(["key", "remove", "cron"]).expect(0);
    add("cron", "two").expect(0);
}
