//! `mlvault repair snapshots`

use clap::Parser;
use serde_json::json;

use mlvault::error::Result;
use mlvault::repair::snapshots::{self, Plan, Repaired};

use crate::cli::context::Context;
use crate::cli::repair_packs::{line_of, print_losses};
use crate::cli::restore_deployment::confirm;
use crate::cli::{exit, output};

/// Write snapshots anew without what they have lost
///
/// All packs are read to find out what is lost. For each snapshot that lacks something a new one is written that has all
/// the rest, with the same time, source and tags; it is incomplete and names what it lacks. The original stays, unless
/// --forget is given. Run `repair packs` first: it may bring back what is lost. Needs a maintainer's key. Exit code 3 if
/// a snapshot has lost something.
#[derive(Parser)]
pub struct Args {
    /// Snapshots: ids, latest, days or times (default: all)
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
    /// Put the originals into the trash
    #[arg(long)]
    forget: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Runs the command.
pub fn run(context: &Context, args: &Args) -> Result<exit::Code> {
    let repository = context.repository()?;
    let plan = snapshots::plan(&repository, &args.snapshots, context.monitor().as_ref(), context.cancel())?;
    let is_idle = plan.to_repair().count() == 0 && (!args.forget || plan.hurt.is_empty());
    let repaired = if args.dry_run || is_idle {
        Vec::new()
    } else {
        context.finish();
        confirm(context, args.yes, &lines(&plan, args.forget))?;
        snapshots::run(&repository, &plan, args.forget, &context.monitor(), context.cancel())?
    };
    context.finish();
    if context.json() {
        output::print_json(&json!({ "dry_run": args.dry_run, "plan": plan, "repaired": repaired }))?;
    } else {
        print_result(args, &plan, &repaired)?;
    }
    Ok(if plan.hurt.is_empty() { exit::COMPLETE } else { exit::INCOMPLETE })
}

/// Says what will be done.
fn lines(plan: &Plan, forget: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for hurt in &plan.hurt {
        lines.push(match &hurt.repaired_as {
            Some(sound) => format!("Snapshot {} was repaired already as {}", hurt.snapshot.short(), sound.short()),
            None => format!("Snapshot {} is written anew without {} losses", hurt.snapshot.short(), hurt.lost_count),
        });
        lines.extend(hurt.lost.iter().map(line_of));
    }
    if forget {
        lines.push("The originals go into the trash".to_owned());
    }
    lines
}

fn print_result(args: &Args, plan: &Plan, repaired: &[Repaired]) -> Result<()> {
    output::print_line(&format!(
        "{} snapshots looked at, {} packs read; {} snapshots have lost something",
        plan.snapshots,
        plan.packs_read,
        plan.hurt.len()
    ))?;
    for hurt in &plan.hurt {
        print_losses(&hurt.lost, hurt.lost_count)?;
        if let Some(sound) = &hurt.repaired_as {
            output::print_line(&format!(
                "Snapshot {} was repaired already as {}",
                hurt.snapshot.short(),
                sound.short()
            ))?;
        }
    }
    for Repaired { was, is, entries, lost_count } in repaired {
        let text = format!("Snapshot {} is {} now: {entries} entries, {lost_count} losses", was.short(), is.short());
        output::print_line(&text)?;
    }
    if args.dry_run {
        output::print_line("Dry run: nothing was written")?;
    }
    Ok(())
}
