//! `mlvault restore --via-rest`: through the REST API of a server, which gives new ids.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use mlvault::error::{Error, Result};
use mlvault::repository::Repository;
use mlvault::repository::snapshots::Snapshot;
use mlvault::restore::deployment::{DeploymentRestore, RestPlan, RestRestore, Wanted};
use mlvault::source::deployment::Deployment;
use mlvault::tracking::TrackingClient;
use mlvault::tracking::import::{IdMap, ImportReport};
use mlvault::units::format_bytes;

use crate::cli::context::Context;
use crate::cli::restore_deployment::confirm;
use crate::cli::{exit, output};

/// How to restore through a server.
#[derive(Args)]
#[command(next_help_heading = "Restore through the REST API")]
pub struct RestArgs {
    /// Bring it back through the REST API of the server of --tracking-uri: ids will be new, and some things are lost;
    /// nothing that is there is changed, and a second time nothing is made twice
    #[arg(long)]
    pub via_rest: bool,
    /// Write the new ids by the old ones to this file, as JSON
    #[arg(long, value_name = "FILE", requires = "via_rest")]
    id_map: Option<PathBuf>,
}

/// Brings a deployment, or one experiment, run or model, back through a server.
pub fn run(
    context: &Context,
    (args, yes): (&RestArgs, bool),
    target: &Deployment,
    (repository, snapshot): (&Arc<Repository>, &Snapshot),
    wanted: Option<&Wanted>,
    dry_run: bool,
) -> Result<exit::Code> {
    let options = target.tracking.as_ref().ok_or_else(|| {
        Error::Invalid("Say which server: --tracking-uri, http:// or https:// with its address".to_owned())
    })?;
    let client = TrackingClient::connect(options)?.with_cancel(context.cancel());
    client.check_access()?;
    let id_map = args.id_map.as_deref().map(IdMapFile::create).transpose()?;
    let monitor = context.monitor();
    let restore = DeploymentRestore::new(repository, snapshot, (monitor.as_ref(), context.cancel()))?;
    let prepared = RestRestore::prepare(&restore, wanted, target)?;
    context.finish();
    if dry_run {
        return print_plan(context, snapshot, prepared.plan(), client.uri()).map(|()| exit::COMPLETE);
    }
    confirm(context, yes, &plan_lines(snapshot, prepared.plan(), client.uri()))?;
    let report = prepared.execute(&client)?;
    context.finish();
    if let Some(file) = id_map {
        file.finish(&report.ids)?;
    }
    print_report(context, snapshot, &report)?;
    let is_whole = report.left_out.is_empty() && report.copies_needed.is_empty();
    Ok(if is_whole { exit::COMPLETE } else { exit::INCOMPLETE })
}

/// The file for the new ids, which appears when they are all known.
struct IdMapFile {
    path: PathBuf,
    file: tempfile::NamedTempFile,
}

impl IdMapFile {
    /// Fails now if the file could not be written later.
    fn create(path: &Path) -> Result<Self> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = tempfile::NamedTempFile::new_in(parent).map_err(|source| fault(path, source))?;
        Ok(Self { path: path.to_owned(), file })
    }

    fn finish(self, ids: &IdMap) -> Result<()> {
        serde_json::to_writer_pretty(&self.file, ids).map_err(|error| fault(&self.path, error.into()))?;
        self.file.persist(&self.path).map_err(|error| fault(&self.path, error.error))?;
        Ok(())
    }
}

fn fault(path: &Path, source: std::io::Error) -> Error {
    Error::target("write", path.to_owned(), source)
}

fn plan_lines(snapshot: &Snapshot, plan: &RestPlan, server: &str) -> Vec<String> {
    let mut lines = vec![
        format!("Snapshot {} will be brought back through {server}, with new ids:", snapshot.id.short()),
        format!("  {} experiments, {} runs, {} logged models", plan.experiments, plan.runs, plan.logged_models),
        format!("  {} registered models with {} versions", plan.registered_models, plan.versions),
        format!("  {} files ({})", plan.files, format_bytes(plan.bytes)),
    ];
    lines.extend(plan.left_out.iter().map(|note| format!("  NOT brought back: {}: {}", note.what, note.why)));
    lines
}

fn print_plan(context: &Context, snapshot: &Snapshot, plan: &RestPlan, server: &str) -> Result<()> {
    if context.json() {
        return output::print_json(&json!({ "snapshot": snapshot.id, "dry_run": true, "plan": plan }));
    }
    plan_lines(snapshot, plan, server).iter().try_for_each(|line| output::print_line(line))?;
    output::print_line("Dry run: nothing was written")
}

fn print_report(context: &Context, snapshot: &Snapshot, report: &ImportReport) -> Result<()> {
    if context.json() {
        return output::print_json(&json!({ "snapshot": snapshot.id, "summary": report }));
    }
    output::print_line(&format!("Brought back from snapshot {}, with new ids:", snapshot.id.short()))?;
    output::print_line(&format!("  made: {}; {} files", counts(&report.created), report.files))?;
    output::print_line(&format!("  there from an earlier import: {}", counts(&report.already_there)))?;
    output::print_line("Different from what it was, always:")?;
    for (what, why) in &report.losses {
        output::print_line(&format!("  {what}: {why}"))?;
    }
    for note in &report.changed {
        output::print_line(&format!("  {}: {}", note.what, note.why))?;
    }
    for note in &report.left_out {
        output::print_line(&format!("NOT brought back: {}: {}", note.what, note.why))?;
    }
    for copy in &report.copies_needed {
        output::print_line(&format!(
            "NOT brought back: files of {}: the server does not take them, they belong at {}; say where that is by \
             --artifacts, and run this again",
            copy.owner, copy.to
        ))?;
    }
    Ok(())
}

fn counts(counts: &BTreeMap<&'static str, u64>) -> String {
    let parts: Vec<_> = counts.iter().map(|(kind, count)| format!("{count} {}", kind.replace('_', " "))).collect();
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
}
