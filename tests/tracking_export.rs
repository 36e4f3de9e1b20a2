//! Metadata through the REST API of real MLflow servers: whole, the same from day to day, and honest about the rest.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use mlvault::error::{Fault, Result};
use mlvault::hears::Hears;
use mlvault::tracking::TrackingClient;
use mlvault::tracking::export::{ExportOptions, ExportSummary, export};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::fault_server::{Answer, FaultServer, pass_on};
use crate::support::mlflow_server::{ADMIN, ADMIN_PASSWORD, MlflowOptions, MlflowServer};
use crate::tracking_client::client;

fn run(client: &TrackingClient, page_items_max: Option<u32>) -> (TempDir, Result<ExportSummary>) {
    let directory = TempDir::new().unwrap();
    let options = ExportOptions { page_items_max, ..ExportOptions::default() };
    let summary = export(client, directory.path(), options, &Hears::nobody());
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

/// Logs runs `r0`, `r1`, … one second apart, the first with 5,000 points of a metric.
const FIVE_RUNS: &str = "
from mlflow.entities import Metric
for number in range(5):
    run = client.create_run('0', start_time=1790000000000 + number * 1000, run_name=f'r{number}')
    if number == 0:
        for step in range(0, 5000, 1000):
            points = [Metric('loss', 1 / (1 + s), 1790000000000 + s, s) for s in range(step, step + 1000)]
            client.log_batch(run.info.run_id, points)
";

#[test]
fn a_run_that_is_purged_between_two_pages_hides_no_other() {
    let server = MlflowServer::start_with(&MlflowOptions::default());
    server.run(FIVE_RUNS);
    let (port, database) = (server.port(), server.database());
    // As `mlflow gc` does it; the first run is on the first page of two.
    let purge = format!(
        "import sqlite3; database = sqlite3.connect('{}')\n\
         database.execute(\"delete from runs where name = 'r0'\"); database.commit()",
        database.display()
    );
    let mut is_purged = false;
    let (direct, _) = run(&client(&server.uri(), &[]), None);
    let proxy = FaultServer::start(move |_, request| {
        let answer = pass_on(request, port);
        if request.target.ends_with("/runs/search") && !std::mem::replace(&mut is_purged, true) {
            server.run(&purge);
        }
        answer
    });
    let (export, summary) = run(&client(&format!("http://127.0.0.1:{}", proxy.port()), &[]), Some(2));
    let summary = summary.unwrap();
    let names = |directory: &TempDir| {
        let runs = lines(&contents(directory.path()), "runs/");
        let mut names: Vec<String> = runs.iter().map(|run| run["info"]["run_name"].as_str().unwrap().into()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&direct), ["r0", "r1", "r2", "r3", "r4"]);
    assert_eq!(names(&export), ["r0", "r1", "r2", "r3", "r4"], "what was seen is kept, and r2 is not passed over");
    let [skew] = &summary.skewed[..] else { panic!("{summary:?}") };
    assert!(skew.found_later == 1 && skew.vanished == 1 && skew.is_settled, "{skew:?}");
    let metrics = lines(&contents(direct.path()), "metrics/");
    let points = metrics[0]["points"].as_array().unwrap();
    assert_eq!(points.len(), 5000);
    assert_eq!(points[2][2].as_f64(), Some(1.0 / 3.0), "to the last bit");
}

#[test]
fn a_server_that_dies_meanwhile_leaves_no_summary() {
    let server = MlflowServer::start_with(&MlflowOptions::default());
    let port = server.port();
    for requests in [0, 1, 4, 9] {
        let answered = AtomicUsize::new(0);
        let proxy = FaultServer::start(move |_, request| {
            let is_alive = answered.fetch_add(1, Ordering::Relaxed) < requests;
            if is_alive { pass_on(request, port) } else { Answer::Dropped }
        });
        let (directory, result) = run(&client(&format!("http://127.0.0.1:{}", proxy.port()), &[]), None);
        let error = result.unwrap_err();
        assert_eq!(error.fault(), Some(Fault::Unavailable), "after {requests} requests: {error}");
        assert!(error.to_string().contains(&format!("http://127.0.0.1:{}/", proxy.port())), "{error}");
        assert!(!directory.path().join("summary.json").exists());
    }
}

#[test]
fn what_an_older_server_lacks_or_fails_to_tell_is_in_the_summary() {
    let server = MlflowServer::start_with(&MlflowOptions::default());
    let port = server.port();
    let proxy = FaultServer::start(move |_, request| match request.target.as_str() {
        target if target.starts_with("/api/3.0") => Answer::with(404, "<html>Not Found</html>"),
        target if target.contains("/webhooks") => Answer::with(500, "{\"error_code\": \"INTERNAL_ERROR\"}"),
        _ => pass_on(request, port),
    });
    let (directory, summary) = run(&client(&format!("http://127.0.0.1:{}", proxy.port()), &[]), None);
    let summary = summary.unwrap();
    let not_exported: Vec<&str> = summary.not_exported.iter().map(|missing| missing.what.as_str()).collect();
    assert!(["traces of experiment 0", "users", "gateway secrets"].iter().all(|what| not_exported.contains(what)));
    assert_eq!(summary.failed.iter().map(|failed| failed.what.as_str()).collect::<Vec<_>>(), ["webhooks"]);
    assert!(!summary.is_complete());
    let written: Value = serde_json::from_str(&contents(directory.path())["summary.json"]).unwrap();
    assert_eq!(written["failed"][0]["what"], "webhooks");
}

/// Makes one of each thing that belongs to a server or an evaluation, in a workspace of its own.
const ONE_OF_EACH: &str = "
import requests
def post(path, body, workspace='team-a'):
    url = mlflow.get_tracking_uri() + '/api/' + path
    answer = requests.post(url, json=body, headers={'X-MLFLOW-WORKSPACE': workspace})
    assert answer.ok, answer.text
    return answer.json()
post('3.0/mlflow/workspaces', {'name': 'team-a'}, 'default')
experiment = post('2.0/mlflow/experiments/create', {'name': 'of team-a'})['experiment_id']
secret = {'secret_name': 's', 'secret_value': {'api_key': 'sk-not-to-be-exported'}, 'provider': 'openai'}
secret = post('3.0/mlflow/gateway/secrets/create', secret)['secret']['secret_id']
model = {'name': 'm', 'secret_id': secret, 'provider': 'openai', 'model_name': 'gpt'}
post('3.0/mlflow/gateway/model-definitions/create', model)
post('3.0/mlflow/scorers/register', {'experiment_id': experiment, 'name': 'short', 'serialized_scorer': '{}'})
post('3.0/mlflow/scorers/register', {'experiment_id': experiment, 'name': 'short', 'serialized_scorer': '{}'})
post('3.0/mlflow/review-queues/create', {'experiment_id': experiment, 'name': 'q', 'queue_type': 'CUSTOM'})
post('3.0/mlflow/issues', {'experiment_id': experiment, 'name': 'i', 'description': 'd'})
post('3.0/mlflow/mcp-servers', {'name': 'com.example/server'})
";

#[test]
fn each_workspace_is_exported_with_what_belongs_to_the_server() {
    let arguments = vec!["--enable-workspaces".to_owned()];
    let server = MlflowServer::start_with(&MlflowOptions { arguments, ..MlflowOptions::default() });
    server.run(ONE_OF_EACH);
    let (directory, summary) = run(&client(&server.uri(), &[]), None);
    let summary = summary.unwrap();
    assert!(summary.is_complete(), "{summary:?}");
    for (kind, count) in [
        ("workspaces", 2),
        ("gateway_secrets", 1),
        ("gateway_models", 1),
        ("scorer_versions", 2),
        ("review_queues", 1),
        ("issues", 1),
        ("mcp_servers", 1),
    ] {
        assert_eq!(summary.counts.get(kind), Some(&count), "{kind} of {:?}", summary.counts);
    }
    let contents = contents(directory.path());
    assert!(contents["workspaces/team-a/experiments.json"].contains("of team-a"));
    assert!(!contents["workspaces/default/experiments.json"].contains("of team-a"));
    assert!(contents.values().all(|text| !text.contains("not-to-be-exported")));
    let (directory, _) = run(&client(&server.uri(), &[("MLFLOW_WORKSPACE", "team-a")]), None);
    let experiments = fs::read_to_string(directory.path().join("experiments.json")).unwrap();
    assert!(experiments.contains("of team-a"), "one that was chosen");
}

#[test]
fn a_server_whose_pages_go_in_circles_is_found_out() {
    let of_experiments = |number: usize| {
        let token = ["a", "b"][number % 2];
        format!("{{\"experiments\": [{{\"experiment_id\": \"{number}\"}}], \"next_page_token\": \"{token}\"}}")
    };
    let server = FaultServer::start(move |number, request| match request.target.as_str() {
        "/version" => Answer::with(200, "3.17.2"),
        path if path.ends_with("/experiments/search") => Answer::with(200, of_experiments(number)),
        _ => Answer::with(404, "{}"),
    });
    let (_, result) = run(&client(&format!("http://127.0.0.1:{}", server.port()), &[]), None);
    let error = result.unwrap_err();
    assert_eq!(error.fault(), Some(Fault::BadAnswer));
    assert!(error.to_string().contains("goes in circles"), "{error}");
    assert!(server.requests() < 10, "{}", server.requests());
}

#[test]
fn users_are_exported_by_those_who_may_list_them_and_a_wrong_password_exports_nothing() {
    let server = MlflowServer::start_with(&MlflowOptions { has_passwords: true, ..MlflowOptions::default() });
    let wrong = [("MLFLOW_TRACKING_USERNAME", ADMIN), ("MLFLOW_TRACKING_PASSWORD", "wrong-password")];
    for environment in [&wrong[..], &[], &[("MLFLOW_TRACKING_TOKEN", "some-token")]] {
        let (directory, result) = run(&client(&server.uri(), environment), None);
        let error = result.unwrap_err();
        assert_eq!(error.fault(), Some(Fault::Denied));
        assert!(!error.to_string().contains("wrong-password") && !error.to_string().contains("some-token"), "{error}");
        assert!(!directory.path().join("experiments.json").exists());
    }
    let right = [("MLFLOW_TRACKING_USERNAME", ADMIN), ("MLFLOW_TRACKING_PASSWORD", ADMIN_PASSWORD)];
    let (directory, summary) = run(&client(&server.uri(), &right), None);
    assert_eq!(summary.unwrap().counts["users"], 1);
    assert!(contents(directory.path())["users.json"].contains("\"admin\""));
}
