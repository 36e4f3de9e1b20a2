//! Counts what a server has: what a restored deployment must have as many of as its catalogue.

use serde::Serialize;
use serde_json::{Value, json};

use super::client::TrackingClient;
use super::json;
use super::list::{IS_PROMPT, List};
use crate::error::Result;

/// How much there is, deleted or not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Experiments.
    pub experiments: u64,
    /// Runs.
    pub runs: u64,
    /// Registered models, prompts among them.
    pub models: u64,
}

/// Asks for the lists of a server, and counts.
pub fn count(client: &TrackingClient) -> Result<Counts> {
    let experiments =
        List::search("experiments", "/api/2.0/mlflow/experiments/search", "experiments", &["experiment_id"])
            .with("view_type", "ALL")
            .paged(10_000);
    let (experiments, _) = experiments.collect(client, None)?;
    let mut counts = Counts { experiments: experiments.len() as u64, ..Counts::default() };
    for experiment in &experiments {
        counts.runs += len(client, &runs_of(experiment))?;
    }
    let path = "/api/2.0/mlflow/registered-models/search";
    let models = List::get("registered models", path, "registered_models", &["name"]).paged(1000);
    let prompts = models.clone().with("filter", format!("tags.`{IS_PROMPT}` = 'true'"));
    counts.models = len(client, &models)? + len(client, &prompts)?;
    Ok(counts)
}

fn runs_of(experiment: &Value) -> List {
    List::search("runs", "/api/2.0/mlflow/runs/search", "runs", &["info", "run_id"])
        .with("experiment_ids", json!([json::text(experiment, "experiment_id")]))
        .with("run_view_type", "ALL")
        .paged(1000)
}

fn len(client: &TrackingClient, list: &List) -> Result<u64> {
    let mut len = 0;
    list.read(client, None, &mut |items| {
        len += items.len() as u64;
        Ok(())
    })?;
    Ok(len)
}
