//! `mlvault models`, `mlvault runs`, `mlvault experiments`: what a snapshot holds of a deployment.

use clap::Parser;
use serde_json::json;

use mlvault::catalogue::browse::{Browser, Files, RunListing, VersionListing};
use mlvault::chunks::reader::ChunkReader;
use mlvault::error::Result;
use mlvault::mlflow::catalogue::ReferenceState;
use mlvault::units::format_bytes;

use crate::cli::context::Context;
use crate::cli::progress::printable;
use crate::cli::selection::SnapshotArgs;
use crate::cli::{exit, output};

/// List the registered models of a snapshot, or the versions of one
///
/// Needs neither PostgreSQL nor MLflow, and any key. With --as-of, what was registered, and what each alias stood for, on
/// a day in the past.
#[derive(Parser)]
pub struct ModelArgs {
    /// Only this model, version by version
    name: Option<String>,
    #[command(flatten)]
    snapshot: SnapshotArgs,
    /// Deployment, where the repository has several
    #[arg(long, env = "MLVAULT_DEPLOYMENT", value_name = "NAME")]
    deployment: Option<String>,
}

/// List the runs of a snapshot
#[derive(Parser)]
pub struct RunArgs {
    /// Only this run, with parameters, metrics and tags
    id: Option<String>,
    /// Only the runs of this experiment, by its name or id
    #[arg(long, value_name = "NAME")]
    experiment: Option<String>,
    #[command(flatten)]
    snapshot: SnapshotArgs,
    /// Deployment, where the repository has several
    #[arg(long, env = "MLVAULT_DEPLOYMENT", value_name = "NAME")]
    deployment: Option<String>,
}

/// List the experiments of a snapshot
#[derive(Parser)]
pub struct ExperimentArgs {
    #[command(flatten)]
    snapshot: SnapshotArgs,
    /// Deployment, where the repository has several
    #[arg(long, env = "MLVAULT_DEPLOYMENT", value_name = "NAME")]
    deployment: Option<String>,
}

/// Runs `mlvault models`.
pub fn models(context: &Context, args: ModelArgs) -> Result<exit::Code> {
    let repository = context.repository()?;
    let snapshot = args.snapshot.find(&repository, args.deployment.as_deref())?;
    let reader = ChunkReader::new(repository);
    let models =
        Browser { reader: &reader, snapshot: &snapshot, cancel: context.cancel() }.models(args.name.as_deref())?;
    context.finish();
    if context.json() {
        output::print_json(&json!({ "snapshot": snapshot.id, "models": models }))?;
        return Ok(exit::COMPLETE);
    }
    let mut rows = Vec::new();
    if args.name.is_some() {
        rows.push(["VERSION", "ALIASES", "STATE", "FILES", "SIZE", "RUN", "DIGEST"].map(str::to_owned).to_vec());
        rows.extend(models.iter().flat_map(|model| &model.versions).map(version_row));
    } else {
        rows.push(["NAME", "KIND", "VERSIONS", "ALIASES"].map(str::to_owned).to_vec());
        for model in &models {
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
    }
    output::print_table(&rows)?;
    Ok(exit::COMPLETE)
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
    }
}

fn size(files: Option<&Files>) -> String {
    files.map_or_else(String::new, |files| format_bytes(files.bytes))
}

/// Runs `mlvault runs`.
pub fn runs(context: &Context, args: RunArgs) -> Result<exit::Code> {
    let repository = context.repository()?;
    let snapshot = args.snapshot.find(&repository, args.deployment.as_deref())?;
    let reader = ChunkReader::new(repository);
    let browser = Browser { reader: &reader, snapshot: &snapshot, cancel: context.cancel() };
    let mut found = Vec::new();
    browser.runs(args.experiment.as_deref(), args.id.as_deref(), &mut |run| {
        found.push(run);
        Ok(())
    })?;
    context.finish();
    if context.json() {
        output::print_json(&json!({ "snapshot": snapshot.id, "runs": found }))?;
    } else if let ([run], Some(_)) = (found.as_slice(), &args.id) {
        print_run(run)?;
    } else {
        let mut rows = vec![["ID", "NAME", "STATUS", "STAGE", "STARTED", "FILES", "SIZE"].map(str::to_owned).to_vec()];
        rows.extend(found.iter().map(run_row));
        output::print_table(&rows)?;
    }
    Ok(exit::COMPLETE)
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

fn print_run(listing: &RunListing) -> Result<()> {
    output::print_table(&[run_row(listing)])?;
    for (title, pairs) in [("Parameters", &listing.params), ("Metrics", &listing.metrics), ("Tags", &listing.tags)] {
        output::print_line(&format!("{title}:"))?;
        for (key, value) in pairs {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            output::print_line(&format!("  {} = {}", printable(key), printable(&value)))?;
        }
    }
    match &listing.files {
        Some(files) => output::print_line(&format!("Files: {}", printable(&files.path))),
        None => Ok(()),
    }
}

/// Runs `mlvault experiments`.
pub fn experiments(context: &Context, args: ExperimentArgs) -> Result<exit::Code> {
    let repository = context.repository()?;
    let snapshot = args.snapshot.find(&repository, args.deployment.as_deref())?;
    let reader = ChunkReader::new(repository);
    let experiments = Browser { reader: &reader, snapshot: &snapshot, cancel: context.cancel() }.experiments()?;
    context.finish();
    if context.json() {
        output::print_json(&json!({ "snapshot": snapshot.id, "experiments": experiments }))?;
        return Ok(exit::COMPLETE);
    }
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
    output::print_table(&rows)?;
    Ok(exit::COMPLETE)
}
