//! `mlvault copy`

use clap::Parser;
use serde_json::json;

use mlvault::copy::{self, Choice, Plan, Summary};
use mlvault::error::Result;
use mlvault::id::SessionId;
use mlvault::repository::memory_plan;
use mlvault::units::format_bytes;

use crate::cli::context::Context;
use crate::cli::to::ToArgs;
use crate::cli::{exit, output};

/// Copy snapshots into another repository, with its own keys
///
/// Content is read, verified and stored anew; what the other repository has is not stored again, and snapshots that it has
/// are skipped. Times, tags and sources stay as they were. A copy that was stopped goes on when it is run again. Needs a
/// key that reads content here, and a writer's key there.
///
/// Exit code 3 if a snapshot could not be copied because of damage; the others are.
#[derive(Parser)]
pub struct Args {
    /// The snapshots: ids, latest, latest~2, days (2026-11-21, UTC) or times (2026-11-21T03:00Z)
    #[arg(required_unless_present_any = ["all", "deployment", "tags"])]
    snapshots: Vec<String>,
    /// All snapshots
    #[arg(long, conflicts_with_all = ["snapshots", "deployment", "tags"])]
    all: bool,
    /// Only those of this MLflow deployment
    #[arg(long, value_name = "NAME")]
    deployment: Option<String>,
    /// Only those with this tag; may be given several times, then all of them
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Only say what would be copied
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    to: ToArgs,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<exit::Code> {
    let memory_limit = memory_plan::limit_of_each(context.memory_limit()?, 2)?;
    let source = context.open_repository(memory_limit)?;
    let target = args.to.open(context, memory_limit)?;
    copy::check(&source, &target)?;
    let (list, notes) = (source.list_snapshots()?, source.list_notes()?);
    let choice = Choice { names: args.snapshots, deployment: args.deployment, tags: args.tags };
    let chosen = choice.among(&list.snapshots, &notes)?;
    let there = target.list_snapshots()?;
    let plan = copy::plan(chosen, source.id(), target.id(), &there);
    let summary = match args.dry_run {
        true => Summary::default(),
        false => copy::run(&source, &target, &plan.missing, &context.monitor(), context.cancel())?,
    };
    context.finish();
    let unreadable = list.damaged.iter().chain(&notes.damaged).chain(&there.damaged);
    for error in unreadable.clone() {
        context.monitor().problem("snapshots", &error.to_string());
    }
    print(context, &plan, args.dry_run, &summary)?;
    let is_whole = summary.failed.is_empty() && unreadable.count() == 0;
    Ok(if is_whole { exit::COMPLETE } else { exit::INCOMPLETE })
}

fn print(context: &Context, plan: &Plan, dry_run: bool, summary: &Summary) -> Result<()> {
    let missing: Vec<SessionId> = plan.missing.iter().map(|snapshot| snapshot.id).collect();
    if context.json() {
        return output::print_json(&json!({
            "dry_run": dry_run, "missing": missing, "present": plan.present, "copied": summary.copied,
            "failed": summary.failed, "bytes_read": summary.bytes_read, "chunks_new": summary.chunks_new,
            "bytes_stored": summary.bytes_stored,
        }));
    }
    if dry_run {
        for id in &missing {
            output::print_line(&format!("Snapshot {} would be copied", id.short()))?;
        }
    }
    for copied in &summary.copied {
        output::print_line(&format!("Snapshot {} is copied as {}", copied.snapshot.short(), copied.copy.short()))?;
    }
    for failed in &summary.failed {
        let (id, problems) = (failed.snapshot.short(), failed.problems);
        output::print_line(&format!("Snapshot {id} is not copied: {problems} problems"))?;
    }
    output::print_line(&format!(
        "{} were there already; read {}, stored {}",
        plan.present.len(),
        format_bytes(summary.bytes_read),
        format_bytes(summary.bytes_stored)
    ))
}
