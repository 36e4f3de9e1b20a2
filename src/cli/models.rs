//! `mlvault models`, `mlvault runs`, `mlvault experiments`: what a snapshot holds of a deployment.

use clap::Parser;
use serde_json::json;

use mlvault::catalogue::browse::{Browser, Files, ModelListing, RunListing, VersionListing};
use mlvault::chunks::reader::ChunkReader;
use mlvault::error::Result;
use mlvault::mlflow::catalogue::ReferenceState;
use mlvault::units::format_bytes;

use crate::cli::answer::Answer;
use crate::cli::context::Context;
use crate::cli::outcome::{Outcome, Text};
use crate::cli::output;
use crate::cli::progress::printable;
use crate::cli::selection::DeploymentSnapshotArgs;

/// List the registered models in a snapshot, or the versions of one, the newest first
///
/// Works with any key, and needs neither PostgreSQL nor MLflow. With --as-of, shows which versions were registered, and
/// which version each alias pointed to, at an earlier time.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault models
  mlvault models fraud --as-of 2026-11-21")]
pub struct ModelArgs {
    /// List the versions of this model
    name: Option<String>,
    #[command(flatten)]
    snapshot: DeploymentSnapshotArgs,
}

/// List the runs in a snapshot, the newest first
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault runs --experiment fraud
  mlvault runs 0b1c2d3e4f5a6b7c8d9e0f1a2b3c4d5e")]
pub struct RunArgs {
    /// Show this run, with its parameters, metrics and tags
    id: Option<String>,
    /// List only the runs of this experiment (name or id)
    #[arg(long, value_name = "NAME")]
    experiment: Option<String>,
    #[command(flatten)]
    snapshot: DeploymentSnapshotArgs,
}

/// List the experiments in a snapshot, the newest first
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault experiments --deployment production")]
pub struct ExperimentArgs {
    #[command(flatten)]
    snapshot: DeploymentSnapshotArgs,
}

/// Runs `mlvault models`.
pub fn models(context: &Context, args: ModelArgs) -> Result<Outcome> {
    let repository = context.repository()?;
    let Answer { snapshot, about } = args.snapshot.find(context, &repository)?;
    let reader = ChunkReader::new(repository);
    let models =
        Browser { reader: &reader, snapshot: &snapshot, hears: &context.hears() }.models(args.name.as_deref())?;
    let rows = match args.name {
        Some(_) => version_rows(&models),
        None => model_rows(&models),
    };
    Ok(Outcome::complete(json!({ "snapshot": snapshot.id, "about": about, "models": models }), about.over(rows)))
}

fn model_rows(models: &[ModelListing]) -> Vec<Vec<String>> {
    let mut rows = vec![["NAME", "KIND", "VERSIONS", "ALIASES"].map(str::to_owned).to_vec()];
    for model in models {
        let aliases = model.versions.iter().flat_map(|version| {
            version.aliases.iter().map(|alias| format!("{}={}", printable(alias), version.version.version))
        });
        let live = model.versions.iter().filter(|version| !version.version.is_deleted()).count();
        rows.push(vec![
            printable(&model.model.name),
            if model.is_prompt { "prompt" } else { "model" }.to_owned(),
            live.to_string(),
            aliases.collect::<Vec<_>>().join(" "),
        ]);
    }
    rows
}

fn version_rows(models: &[ModelListing]) -> Vec<Vec<String>> {
    let mut rows = vec![["VERSION", "ALIASES", "STATE", "FILES", "SIZE", "RUN", "DIGEST"].map(str::to_owned).to_vec()];
    rows.extend(models.iter().flat_map(|model| &model.versions).map(version_row));
    rows
}

fn version_row(version: &VersionListing) -> Vec<String> {
    let aliases: Vec<_> = version.aliases.iter().map(|alias| printable(alias)).collect();
    let state = match (&version.files, version.version.is_deleted()) {
        (_, true) => "deleted",
        (Some(files), _) => state(files.state),
        (None, _) if version.version.is_prompt() => "prompt",
        (None, _) => "no files",
    };
    let digest = version.files.as_ref().and_then(|files| files.digest).map(|digest| digest.to_string());
    vec![
        version.version.version.to_string(),
        aliases.join(" "),
        state.to_owned(),
        version.files.as_ref().map_or_else(String::new, |files| files.files.to_string()),
        size(version.files.as_ref()),
        version.version.run_id.clone().unwrap_or_default(),
        digest.map(|digest| digest.chars().take(16).collect()).unwrap_or_default(),
    ]
}

fn state(state: ReferenceState) -> &'static str {
    match state {
        ReferenceState::Present => "present",
        ReferenceState::Empty => "no files",
        ReferenceState::CarriedOver => "carried over",
        ReferenceState::DeletedMeanwhile => "deleted meanwhile",
        ReferenceState::Excluded => "excluded",
        ReferenceState::Partial => "PARTIAL",
        ReferenceState::Missing => "MISSING",
        ReferenceState::TakenOut => "TAKEN OUT",
    }
}

fn size(files: Option<&Files>) -> String {
    files.map_or_else(String::new, |files| format_bytes(files.bytes))
}

/// Runs `mlvault runs`.
pub fn runs(context: &Context, args: RunArgs) -> Result<Outcome> {
    let repository = context.repository()?;
    let Answer { snapshot, about } = args.snapshot.find(context, &repository)?;
    let reader = ChunkReader::new(repository);
    let browser = Browser { reader: &reader, snapshot: &snapshot, hears: &context.hears() };
    let mut found = Vec::new();
    browser.runs(args.experiment.as_deref(), args.id.as_deref(), &mut |run| {
        found.push(run);
        Ok(())
    })?;
    let text = match (found.as_slice(), &args.id) {
        ([run], Some(_)) => run_text(run),
        (runs, _) => Text::from(run_rows(runs)),
    };
    Ok(Outcome::complete(json!({ "snapshot": snapshot.id, "about": about, "runs": found }), about.over(text)))
}

fn run_rows(runs: &[RunListing]) -> Vec<Vec<String>> {
    let mut rows = vec![["ID", "NAME", "STATUS", "STAGE", "STARTED", "FILES", "SIZE"].map(str::to_owned).to_vec()];
    rows.extend(runs.iter().map(run_row));
    rows
}

fn run_row(listing: &RunListing) -> Vec<String> {
    let run = &listing.run;
    vec![
        run.run_id.clone(),
        printable(run.name.as_deref().unwrap_or_default()),
        run.status.clone().unwrap_or_default(),
        run.lifecycle_stage.clone(),
        run.start_time.map(time).unwrap_or_default(),
        listing.files.as_ref().map_or_else(String::new, |files| files.files.to_string()),
        size(listing.files.as_ref()),
    ]
}

fn time(milliseconds: i64) -> String {
    jiff::Timestamp::from_millisecond(milliseconds).map(|time| output::format_time(&time)).unwrap_or_default()
}

fn run_text(listing: &RunListing) -> Text {
    let mut text = Text::from(vec![run_row(listing)]);
    for (title, pairs) in [("Parameters", &listing.params), ("Metrics", &listing.metrics), ("Tags", &listing.tags)] {
        text.line(format!("{title}:"));
        for (key, value) in pairs {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            text.line(format!("  {} = {}", printable(key), printable(&value)));
        }
    }
    text.extend(listing.files.as_ref().map(|files| format!("Files: {}", printable(&files.path))));
    text
}

/// Runs `mlvault experiments`.
pub fn experiments(context: &Context, args: ExperimentArgs) -> Result<Outcome> {
    let repository = context.repository()?;
    let Answer { snapshot, about } = args.snapshot.find(context, &repository)?;
    let reader = ChunkReader::new(repository);
    let experiments = Browser { reader: &reader, snapshot: &snapshot, hears: &context.hears() }.experiments()?;
    let mut rows = vec![["ID", "NAME", "STAGE", "RUNS", "DELETED", "ARTIFACTS"].map(str::to_owned).to_vec()];
    rows.extend(experiments.iter().map(|listing| {
        vec![
            listing.experiment.experiment_id.clone(),
            printable(&listing.experiment.name),
            listing.experiment.lifecycle_stage.clone(),
            listing.active_runs.to_string(),
            listing.deleted_runs.to_string(),
            printable(listing.experiment.artifact_location.as_deref().unwrap_or_default()),
        ]
    }));
    let document = json!({ "snapshot": snapshot.id, "about": about, "experiments": experiments });
    Ok(Outcome::complete(document, about.over(rows)))
}
