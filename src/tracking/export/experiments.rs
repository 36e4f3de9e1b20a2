//! Experiments and what is logged in them: runs, metric histories, logged models, traces.

use serde_json::{Value, json};

use super::{Export, files};
use crate::error::Result;
use crate::tracking::client::TrackingClient;
use crate::tracking::json;
use crate::tracking::list::List;

/// Points of a metric that are asked for at once; more are refused.
const POINTS_MAX: u32 = 25_000;

impl Export<'_> {
    /// Writes and returns all experiments. Nothing can be exported without them.
    pub(super) fn experiments(&mut self) -> Result<Vec<Value>> {
        let list = List::search("experiments", "/api/2.0/mlflow/experiments/search", "experiments", &["experiment_id"])
            .with("view_type", "ALL")
            .with("order_by", json!(["creation_time ASC"]))
            .paged(10_000);
        let experiments = self.required(&list)?;
        self.files.write_all("experiments.json", &experiments)?;
        self.count("experiments", experiments.len());
        Ok(experiments)
    }

    /// Writes the runs of an experiment, deleted ones too, and the histories of their metrics.
    pub(super) fn runs(&mut self, experiment: &Value) -> Result<()> {
        let id = json::text(experiment, "experiment_id");
        let list = List::search(
            format!("runs of experiment {id}"),
            "/api/2.0/mlflow/runs/search",
            "runs",
            &["info", "run_id"],
        )
        .with("experiment_ids", json!([id]))
        .with("run_view_type", "ALL")
        // New runs come last, where they push none to another page.
        .with("order_by", json!(["attributes.start_time ASC"]))
        .paged(1000);
        let mut runs = self.files.lines(&format!("runs/{}.jsonl", files::name(id)))?;
        let mut metrics = self.files.lines(&format!("metrics/{}.jsonl", files::name(id)))?;
        self.stream(&list, &mut |export, found| {
            for run in &found {
                runs.push(run)?;
                export.histories(run, &mut metrics)?;
            }
            Ok(())
        })?;
        let (runs, histories) = (runs.finish()?, metrics.finish()?);
        self.count("runs", runs as usize);
        self.count("metric_histories", histories as usize);
        Ok(())
    }

    /// Writes the histories of the metrics of one run.
    fn histories(&mut self, run: &Value, metrics: &mut files::Lines) -> Result<()> {
        let id = json::text(&run["info"], "run_id");
        let keys: Vec<&str> =
            json::items(&run["data"], "metrics").iter().map(|metric| json::text(metric, "key")).collect();
        let page_items_max = self.options.page_items_max;
        let histories = self.details(
            &keys,
            |key| format!("history of metric {key:?} of run {id}"),
            |client, key| history(client, page_items_max, id, key),
        )?;
        histories.iter().flatten().try_for_each(|history| metrics.push(history))
    }

    /// Writes the logged models of an experiment.
    pub(super) fn logged_models(&mut self, experiment: &Value) -> Result<()> {
        let id = json::text(experiment, "experiment_id");
        let list = List::search(
            format!("logged models of experiment {id}"),
            "/api/2.0/mlflow/logged-models/search",
            "models",
            &["info", "model_id"],
        )
        .with("experiment_ids", json!([id]))
        .with("order_by", json!([{ "field_name": "creation_timestamp", "ascending": true }]))
        .paged(1000);
        let mut models = self.files.lines(&format!("logged_models/{}.jsonl", files::name(id)))?;
        self.stream(&list, &mut |_, found| found.iter().try_for_each(|model| models.push(model)))?;
        let models = models.finish()?;
        self.count("logged_models", models as usize);
        Ok(())
    }

    /// Writes the traces of an experiment, with their spans and assessments.
    pub(super) fn traces(&mut self, experiment: &Value) -> Result<()> {
        let id = json::text(experiment, "experiment_id");
        let location = json!({ "type": "MLFLOW_EXPERIMENT", "mlflow_experiment": { "experiment_id": id } });
        let list = List::search(
            format!("traces of experiment {id}"),
            "/api/3.0/mlflow/traces/search",
            "traces",
            &["trace_id"],
        )
        .with("locations", json!([location]))
        .with("order_by", json!(["timestamp_ms ASC"]))
        .paged(500);
        let mut traces = self.files.lines(&format!("traces/{}.jsonl", files::name(id)))?;
        self.stream(&list, &mut |export, found| {
            let with_spans =
                export.details(&found, |info| format!("spans of trace {}", json::text(info, "trace_id")), trace)?;
            for (info, trace) in found.into_iter().zip(with_spans) {
                traces.push(&trace.unwrap_or_else(|| json!({ "trace_info": info })))?;
            }
            Ok(())
        })?;
        let traces = traces.finish()?;
        self.count("traces", traces as usize);
        Ok(())
    }
}

/// Returns all values of a metric as `[timestamp, step, value]`, which also is what tells them apart.
fn history(client: &TrackingClient, page_items_max: Option<u32>, run: &str, key: &str) -> Result<Value> {
    let list = List::get("history", "/api/2.0/mlflow/metrics/get-history", "metrics", &[])
        .with("run_id", run)
        .with("metric_key", key)
        .paged(POINTS_MAX);
    let mut points = Vec::new();
    list.read(client, page_items_max, &mut |found| {
        points.extend(found.iter().map(|point| json!([point["timestamp"], point["step"], point["value"]])));
        Ok(())
    })?;
    Ok(json!({ "run_id": run, "key": key, "points": points }))
}

fn trace(client: &TrackingClient, info: &Value) -> Result<Value> {
    let mut answer = client.get("/api/3.0/mlflow/traces/get", &[("trace_id", json::text(info, "trace_id"))])?;
    let mut trace = json::take(&mut answer, "trace");
    json::put_in_order(&mut trace);
    Ok(trace)
}
