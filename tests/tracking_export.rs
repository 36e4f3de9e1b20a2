//! Metadata through the REST API of real MLflow servers: whole, the same from day to day, and honest about the rest.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mlvault::cancel::Cancel;
use mlvault::error::{Error, Fault, Result};
use mlvault::monitor::Silent;
use mlvault::tracking::export::{ExportOptions, ExportSummary, export};
use mlvault::tracking::{TrackingClient, TrackingOptions, options};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::fault_server::{Answer, FaultServer};
use crate::support::mlflow_server::{ADMIN, ADMIN_PASSWORD, MlflowOptions, MlflowServer};

fn client(uri: &str, environment: &[(&str, &str)]) -> TrackingClient {
    let environment: BTreeMap<_, _> = environment.iter().copied().collect();
    let read = options(uri, &|name| environment.get(name).map(|value| (*value).to_owned())).unwrap();
    let quick = TrackingOptions { retries: 2, wait_first: std::time::Duration::from_millis(20), ..read };
    TrackingClient::connect(&quick).unwrap()
}

fn run(client: &TrackingClient, page_items_max: Option<u32>) -> (TempDir, Result<ExportSummary>) {
    let directory = TempDir::new().unwrap();
    let options = ExportOptions { page_items_max, ..ExportOptions::default() };
    let summary = export(client, directory.path(), options, &Silent, &Cancel::default());
    (directory, summary)
}

/// Returns the content of every file, by path.
fn contents(directory: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(directory).unwrap().display().to_string();
                found.insert(name, fs::read_to_string(path).unwrap());
            }
        }
    }
    found
}

fn lines(contents: &BTreeMap<String, String>, folder: &str) -> Vec<Value> {
    let files = contents.iter().filter(|(name, _)| name.starts_with(folder));
    files.flat_map(|(_, text)| text.lines().map(|line| serde_json::from_str(line).unwrap())).collect()
}

#[test]
fn an_unchanged_deployment_exports_the_same_bytes_with_pages_of_any_size() {
    let server = MlflowServer::start_with(&MlflowOptions::default());
    (1..=2).for_each(|day| server.log_day(day));
    let client = client(&server.uri(), &[]);
    let (first, summary) = run(&client, None);
    let summary = summary.unwrap();
    assert!(summary.is_complete() && summary.skewed.is_empty(), "{summary:?}");
    assert_eq!(summary.mlflow_version, "3.17.2");
    let first = contents(first.path());
    for (kind, count) in [
        ("experiments", 6),
        ("runs", 27),
        ("registered_models", 5),
        ("model_versions", 13),
        ("prompt_versions", 2),
        ("traces", 6),
        ("evaluation_sets", 1),
        ("evaluation_records", 6),
    ] {
        assert_eq!(summary.counts.get(kind), Some(&count), "{kind} of {:?}", summary.counts);
    }
    assert_holds_what_is_odd(&first);

    let (second, again) = run(&client, Some(2));
    assert_eq!(again.unwrap().counts, summary.counts);
    let second = contents(second.path());
    assert_eq!(first.keys().collect::<Vec<_>>(), second.keys().collect::<Vec<_>>());
    for (name, text) in &first {
        assert_eq!(text, &second[name], "{name}");
    }
}

fn assert_holds_what_is_odd(contents: &BTreeMap<String, String>) {
    let runs = lines(contents, "runs/");
    let run = |name: &str| runs.iter().find(|run| run["info"]["run_name"] == name).unwrap();
    assert_eq!(run("day1-scratch")["info"]["lifecycle_stage"], "deleted", "deleted with its experiment");
    assert!(run("day1-odd")["data"].to_string().contains("ünï köde/a.b"));
    let metrics = lines(contents, "metrics/");
    let points = |key: &str| metrics.iter().find(|metric| metric["key"] == key).unwrap()["points"].clone();
    assert_eq!(points("not-a-number")[0][2], "NaN");
    assert_eq!(points("infinite")[0][2], f64::MIN);
    let models: Value = serde_json::from_str(&contents["models.json"]).unwrap();
    let odd = models.as_array().unwrap().iter().find(|model| model["name"] == "odd-sources").unwrap();
    assert!(odd["versions"][0]["storage_location"].as_str().unwrap().starts_with("runs:/"));
    let traces = lines(contents, "traces/");
    assert!(traces.iter().all(|trace| trace["spans"].as_array().unwrap().len() == 2));
    assert!(traces.iter().any(|trace| trace["trace_info"]["assessments"].as_array().is_some_and(|a| a.len() == 2)));
    assert!(contents["prompts.json"].contains("revision 2"));
}
