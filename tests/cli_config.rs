//! `mlvault config check`: what it says of settings, and what it finds wrong with them.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use super::support::cli::{Runner, finish};

fn with_file(runner: &Runner, text: &str) -> std::process::Command {
    let file = runner.path("mlvault.toml");
    fs::write(&file, text).unwrap();
    fs::set_permissions(runner.path("key"), fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = runner.command(["config", "check", "--config"]);
    command.arg(file);
    command
}

/// Returns where the value of a key comes from, and what is shown of it.
fn setting(document: &Value, key: &str) -> (String, String) {
    let settings = document["settings"].as_array().unwrap();
    let found = settings.iter().find(|setting| setting["key"] == key);
    let found = found.unwrap_or_else(|| panic!("{key} is not in {document}"));
    (found["from"].as_str().unwrap().to_owned(), found["value"].as_str().unwrap().to_owned())
}

#[test]
fn each_setting_is_shown_with_where_it_comes_from_and_no_secret() {
    let runner = Runner::with_repository();
    let secret = runner.path("password");
    fs::write(&secret, "hunter2").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(runner.path("artifacts")).unwrap();
    let text = format!(
        "repository = '/of-file'\nmemory-limit = '300M'\nlimit-upload = '1M'\n[deployment.p]\n\
         backend-store-uri = 'postgresql://u:hunter2@192.0.2.1/mlflow?application_name=hunter2'\n\
         registry-store-uri = 'postgresql://u@192.0.2.1/registry'\nregistry-store-password-file = '{}'\n\
         retention = 'audit'\nexclude = ['*.tmp']\n[deployment.p.artifacts]\n'mlflow-artifacts:/' = '{}'\n\
         [policy.audit]\nkeep-last = 3\n",
        secret.display(),
        runner.path("artifacts").display()
    );
    let mut command = with_file(&runner, &text);
    command.args(["--limit-upload", "2M", "--set", "deployment.p.tracking-uri=http://127.0.0.1:1/"]);
    let document = finish(command.arg("--json")).expect(0).json();
    let from = |key: &str| setting(&document, key).0;
    assert_eq!(from("repository"), "MLVAULT_REPO");
    assert_eq!(from("limit-upload"), "--limit-upload");
    assert_eq!(from("memory-limit"), "file");
    assert_eq!(from("deployment.p.tracking-uri"), "--set");
    assert_eq!(setting(&document, "deployment.p.backend-store-uri").1, "postgresql://u:…@192.0.2.1/mlflow?…");
    let plan = document["deployments"][0]["plan"].to_string();
    for part in ["192.0.2.1", "mlflow-artifacts:/ = ", "policy audit: last 3", "*.tmp", "127.0.0.1:1"] {
        assert!(plan.contains(part), "{part}: {plan}");
    }
    let outcome = finish(&mut with_file(&runner, &text)).expect(0);
    assert!(outcome.text().contains("Nothing is wrong with the settings"), "{}", outcome.text());
    for said in [document.to_string(), outcome.text(), outcome.stderr] {
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn a_default_is_shown_where_nothing_is_set() {
    let runner = Runner::with_repository();
    let mut command = with_file(&runner, "");
    let document = finish(command.env_remove("MLVAULT_CACHE_DIR").arg("--json")).expect(0).json();
    let (from, value) = setting(&document, "cache-dir");
    assert_eq!((from.as_str(), value), ("default", runner.path("home/.cache/mlvault").display().to_string()));
}

#[test]
fn what_cannot_work_is_a_problem_and_each_is_named() {
    let runner = Runner::with_repository();
    let text = format!(
        "[s3]\naccess-key-id = 'a'\n[to]\nrepository = '{}'\nkey-file = '/none/key'\npin = 'x'\n\
         [deployment.a]\nbackend-store-uri = 'oracle://h'\n\
         [deployment.b]\nretention = 'none'\nexclude = ['[']\n[deployment.b.artifacts]\n's3://x' = 's3://x'\n\
         [deployment.b.s3]\nendpoint = 'http://192.0.2.1'\n[deployment.c]\nbackend-store-password-file = '/none/password'\n\
         backend-store-uri = 'postgresql://u@h/d'\n[policy.empty]\n",
        runner.path("repo").display()
    );
    let outcome = finish(&mut with_file(&runner, &text)).expect(2);
    let said = outcome.text();
    for problem in [
        "s3: access-key-id and secret-access-key-file belong together",
        "to.repository: Copies would go to the repository that they are made from",
        "to.key-file: Cannot read \"/none/key\"",
        "to.pin: ",
        "deployment.a: Cannot use the database URI",
        "deployment.b.retention: There is no policy \"none\"",
        "deployment.b: Invalid exclude pattern",
        "deployment.b: The S3 endpoint cannot be used: plain http://",
        "deployment.c: Cannot read the key or password in \"/none/password\"",
        "policy.empty: ",
    ] {
        assert!(said.contains(&format!("Problem: {problem}")), "{problem}\n{said}");
    }
    let mut one = with_file(&runner, &text);
    let said = finish(one.args(["--deployment", "b"])).expect(2).text();
    assert!(said.contains("deployment.b.retention") && !said.contains("oracle"), "{said}");
}

#[test]
fn what_should_be_looked_at_is_a_warning() {
    let runner = Runner::without_repository();
    let text = "[deployment.p]\nbackend-store-uri = 'sqlite:////none/mlflow.db'\n\
                [deployment.p.artifacts]\n'mlflow-artifacts:/' = '/none/artifacts'\n";
    let mut command = with_file(&runner, text);
    fs::set_permissions(runner.path("key"), fs::Permissions::from_mode(0o644)).unwrap();
    command.env("MLVAULT_REPOSITORY", "/srv").env("MLVAULT_PORT_80_TCP", "tcp://10.0.0.1:80");
    let said = finish(&mut command).expect(3).text();
    for warning in [
        "key-file: ",
        "MLVAULT_REPOSITORY: Nothing reads this variable",
        "repository: There is no repository at",
        "deployment.p: There is no database at",
        "deployment.p: There is no directory",
    ] {
        assert!(said.contains(&format!("Warning: {warning}")), "{warning}\n{said}");
    }
    assert!(!said.contains("Warning: MLVAULT_PORT_80_TCP"), "{said}");
}
