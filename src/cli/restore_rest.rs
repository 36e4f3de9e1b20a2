//! `mlvault restore --via-rest`: through the REST API of a server, which gives new ids.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use mlvault::error::{Error, Result};
use mlvault::procedures::restore_deployment::{self, RestoredThroughServer};
use mlvault::repository::snapshots::Snapshot;
use mlvault::restore::deployment::RestPlan;
use mlvault::source::deployment::Deployment;
use mlvault::tracking::TrackingClient;
use mlvault::tracking::import::ImportReport;
use mlvault::units::{count, format_bytes};

use crate::cli::context::Context;
use crate::cli::outcome::Outcome;
use crate::cli::restore_deployment::dry_run_lines;
use crate::cli::restore_request::Request;
use crate::cli::written_file::WrittenFile;
use crate::cli::{confirm, exit};

/// How to restore through a server.
#[derive(Args)]
#[command(next_help_heading = "Restore through the REST API")]
pub struct RestArgs {
    /// Restore through the REST API of the server at --tracking-uri. Ids change, and some things cannot be restored.
    /// Existing data is not changed, and a second run creates nothing twice
    #[arg(long)]
    pub via_rest: bool,
    /// Write a map from old to new ids to this file, as JSON
    #[arg(long, value_name = "FILE", requires = "via_rest")]
    id_map: Option<PathBuf>,
}

/// A server to restore through, and where its new ids go.
pub struct Server {
    client: TrackingClient,
    id_map: Option<WrittenFile>,
}

impl RestArgs {
    /// Connects to the server. Fails now if it refuses us, or if the file for the new ids could not be written later.
    pub fn connect(&self, context: &Context, target: &Deployment) -> Result<Server> {
        let options = target.tracking.as_ref().ok_or_else(|| {
            Error::Invalid(
                "No tracking server was given: set --tracking-uri to its address, as in https://mlflow.example.com"
                    .to_owned(),
            )
        })?;
        let client = TrackingClient::connect(options)?.heard_by(&context.hears());
        client.check_access()?;
        Ok(Server { client, id_map: self.id_map.as_deref().map(WrittenFile::begin).transpose()? })
    }
}

/// Restores a deployment, or one experiment, run or model, through a server.
pub fn run(request: &Request<'_>, server: Server) -> Result<Outcome> {
    let Request { context, snapshot, about, .. } = request;
    let Server { client, id_map } = server;
    let ask = |plan: &RestPlan| confirm::ask(context, about.over(plan_lines(plan, client.uri())).lines());
    let consent = confirm::consent(request.dry_run, request.yes, &ask);
    let wanted = request.wanted.as_ref();
    let RestoredThroughServer { plan, report } =
        restore_deployment::through_server(request.restore, request.target, wanted, &client, &consent)?;
    let Some(report) = report else {
        let document = json!({
            "snapshot": snapshot.id, "about": about, "warnings": about.warnings(), "dry_run": true, "plan": plan,
        });
        return Ok(Outcome::complete(document, about.over(dry_run_lines(plan_lines(&plan, client.uri())))));
    };
    if let Some(file) = id_map {
        let ids = serde_json::to_vec_pretty(&report.ids).map_err(|error| Error::Internal(error.to_string()))?;
        file.finish(&ids)?;
    }
    let is_lacking = wanted.is_none() && snapshot.is_incomplete();
    let is_whole = report.left_out.is_empty() && report.copies_needed.is_empty() && !is_lacking;
    let code = if is_whole { exit::COMPLETE } else { exit::INCOMPLETE };
    let document = json!({ "snapshot": snapshot.id, "about": about, "warnings": about.warnings(), "summary": report });
    Ok(Outcome::new(code, document, about.over(report_lines(snapshot, &report))))
}

fn plan_lines(plan: &RestPlan, server: &str) -> Vec<String> {
    let (experiments, runs) = (count(plan.experiments, "experiment"), count(plan.runs, "run"));
    let (models, versions) = (count(plan.registered_models, "registered model"), count(plan.versions, "version"));
    let mut lines = vec![
        format!("It will be restored through {server}, with new ids:"),
        format!("  {experiments}, {runs}, {}", count(plan.logged_models, "logged model")),
        format!("  {models} with {versions}"),
        format!("  {} ({})", count(plan.files, "file"), format_bytes(plan.bytes)),
    ];
    lines.extend(plan.left_out.iter().map(|note| format!("  NOT restored: {}: {}", note.what, note.why)));
    lines
}

fn report_lines(snapshot: &Snapshot, report: &ImportReport) -> Vec<String> {
    let mut lines = vec![
        format!("Restored snapshot {}, with new ids:", snapshot.id.short()),
        format!("  created: {}; {}", counts(&report.created), count(report.files, "file")),
        format!("  already there from an earlier restore: {}", counts(&report.already_there)),
        "The REST API cannot restore everything as it was:".to_owned(),
    ];
    lines.extend(report.losses.iter().map(|(what, why)| format!("  {what}: {why}")));
    lines.extend(report.changed.iter().map(|note| format!("  {}: {}", note.what, note.why)));
    lines.extend(report.left_out.iter().map(|note| format!("NOT restored: {}: {}", note.what, note.why)));
    lines.extend(report.copies_needed.iter().map(|copy| {
        format!(
            "NOT restored: files of {}: the server does not accept them. They belong at {}; map that root with --artifacts \
             and run this again",
            copy.owner, copy.to
        )
    }));
    lines
}

fn counts(counts: &BTreeMap<&'static str, u64>) -> String {
    let parts: Vec<_> = counts.iter().map(|(kind, count)| format!("{count} {}", kind.replace('_', " "))).collect();
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
}
