//! `mlvault copy`

use clap::Parser;
use serde_json::{Value, json};

use mlvault::copy::{Choice, CopyPlan, CopySummary};
use mlvault::error::Result;
use mlvault::id::SessionId;
use mlvault::procedures::copy_snapshots::{CopiedSnapshots, RepositoryPair};
use mlvault::units::{count, format_bytes};

use crate::cli::context::Context;
use crate::cli::exit;
use crate::cli::outcome::Outcome;
use crate::cli::to::ToArgs;

/// Copy snapshots to another repository
///
/// The other repository has its own keys. Snapshots and content that it already holds are skipped. Copies keep their time,
/// tags and source. You can run an interrupted copy again to finish it. Needs a key that can read content here, and a
/// writer key there.
///
/// Exit code 3 if a snapshot could not be copied because it is damaged; all others are copied.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault copy --all --to s3://offsite/mlflow --to-key-file offsite.key
  mlvault copy latest --to /mnt/disk/backup --to-passphrase-file disk.pass")]
pub struct Args {
    /// Snapshots to copy: ids, latest, latest~2, days (2026-11-21, in UTC) or times (2026-11-21T03:00Z)
    #[arg(required_unless_present_any = ["all", "deployment", "tags"])]
    snapshots: Vec<String>,
    /// Copy all snapshots
    #[arg(long, conflicts_with_all = ["snapshots", "deployment", "tags"])]
    all: bool,
    /// Copy only snapshots of this MLflow deployment
    #[arg(long, value_name = "NAME")]
    deployment: Option<String>,
    /// Copy only snapshots with this tag; if given several times, with all of these tags
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Show what would be copied; write nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    to: ToArgs,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    let pair = RepositoryPair::open(
        context.memory_limit()?,
        |memory_limit| context.open_repository(memory_limit),
        |memory_limit| args.to.open(context, memory_limit),
    )?;
    let choice = Choice { names: args.snapshots, deployment: args.deployment, tags: args.tags };
    let CopiedSnapshots { plan, summary, unreadable } = pair.copy(&choice, args.dry_run, &context.hears())?;
    for line in unreadable.lines() {
        context.monitor().problem("snapshots", &line);
    }
    let is_whole = summary.failed.is_empty() && unreadable.is_empty();
    let code = if is_whole { exit::COMPLETE } else { exit::INCOMPLETE };
    Ok(Outcome::new(code, document(&plan, args.dry_run, &summary), lines(&plan, args.dry_run, &summary)))
}

fn missing(plan: &CopyPlan) -> impl Iterator<Item = SessionId> {
    plan.missing.iter().map(|snapshot| snapshot.id)
}

fn document(plan: &CopyPlan, dry_run: bool, summary: &CopySummary) -> Value {
    json!({
        "dry_run": dry_run, "missing": missing(plan).collect::<Vec<_>>(), "present": plan.present,
        "copied": summary.copied, "failed": summary.failed, "bytes_read": summary.bytes_read,
        "chunks_new": summary.chunks_new, "bytes_stored": summary.bytes_stored,
    })
}

fn lines(plan: &CopyPlan, dry_run: bool, summary: &CopySummary) -> Vec<String> {
    let mut lines = Vec::new();
    if dry_run {
        lines.extend(missing(plan).map(|id| format!("Snapshot {} would be copied", id.short())));
    }
    for copied in &summary.copied {
        lines.push(format!("Snapshot {} copied as {}", copied.snapshot.short(), copied.copy.short()));
    }
    for failed in &summary.failed {
        let problems = count(failed.problems, "problem");
        lines.push(format!("Snapshot {} is not copied: {problems}", failed.snapshot.short()));
    }
    lines.push(format!(
        "{} already there; read {}, stored {}",
        count(plan.present.len(), "snapshot"),
        format_bytes(summary.bytes_read),
        format_bytes(summary.bytes_stored)
    ));
    lines
}
