//! The deployment that tests and demo use: what `tests/make_deployment.py` writes down is what the server holds.

use std::fs::File;
use std::io::Write;

use tempfile::TempDir;

use crate::support::mlflow_server::{MlflowOptions, MlflowServer};

#[test]
fn a_deployment_is_what_was_written_down_until_something_changes() {
    let directory = TempDir::new().unwrap();
    let record = directory.path().join("record.json");
    let folder = directory.path().join("server");
    std::fs::create_dir(&folder).unwrap();
    let options = MlflowOptions { folder: Some(folder.clone()), ..MlflowOptions::default() };

    let mut server = MlflowServer::start_with(&options);
    (1..=3).for_each(|day| server.log_day(day));
    server.record(&record);
    server.kill();
    let server = MlflowServer::start_with(&options);
    server.verify(&record, &[]);
    server.verify(&record, &["--only", "support-encoder/2", "--new-ids"]);

    server.run("client.set_registered_model_alias('fraud-detector', 'champion', 1)");
    let root = server.run("print(client.get_model_version_download_uri('churn-classifier', 1))");
    let weights = server.artifacts().join(root.trim_start_matches("mlflow-artifacts:/")).join("model.pkl");
    File::options().append(true).open(weights).unwrap().write_all(b".").unwrap();
    let output = server.try_make(&["verify", record.to_str().unwrap()]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && told.contains("2 differences from"), "{told}");
    assert!(told.contains("models: fraud-detector: aliases:") && told.contains("churn-classifier/1: files:"), "{told}");
}

#[test]
fn a_deployment_can_be_made_behind_passwords() {
    let server = MlflowServer::start_with(&MlflowOptions { has_passwords: true, ..MlflowOptions::default() });
    assert_eq!(server.run("print(len(client.search_experiments()))"), "1");
    assert!(server.database().is_file() && server.uri().ends_with(&format!(":{}", server.port())));
}
