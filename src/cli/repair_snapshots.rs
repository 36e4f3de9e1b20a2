//! `mlvault repair snapshots`

use clap::Parser;
use serde_json::json;

use mlvault::error::Result;
use mlvault::id::SessionId;
use mlvault::procedures::repair_snapshots::{self, RepairSnapshotsOptions, RepairedSnapshots};
use mlvault::repair::snapshots::{LossySnapshot, RepairPlan, Repaired};
use mlvault::repository::naming::Named;
use mlvault::units::count;

use crate::cli::context::Context;
use crate::cli::outcome::Outcome;
use crate::cli::repair_packs::{line_of, loss_lines};
use crate::cli::selection::SourceArgs;
use crate::cli::{confirm, exit};

/// Write damaged snapshots again without what they have lost
///
/// Reads all packs to find out what is lost. For each snapshot that lacks something, a new snapshot is written that holds
/// the rest, with the same time, source and tags. It is marked incomplete and lists what it lacks. The original is kept,
/// unless you give --forget. Run `mlvault repair packs` first: it may recover what is lost. Needs a maintainer key.
///
/// Exit code 3 if a snapshot has lost something.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault repair snapshots --dry-run
  mlvault repair snapshots --forget --yes")]
pub struct Args {
    /// Snapshots to repair: ids, latest, days or times [default: all]
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    #[command(flatten)]
    source: SourceArgs,
    /// Show what would be done; write nothing
    #[arg(long)]
    dry_run: bool,
    /// Move the originals to the trash
    #[arg(long)]
    forget: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
}

/// Runs the command.
pub fn run(context: &Context, args: &Args) -> Result<Outcome> {
    let repository = context.repository()?;
    let named = Named { names: args.snapshots.clone(), scope: args.source.scope() };
    let options = RepairSnapshotsOptions { named, forget: args.forget };
    let ask = |plan: &RepairPlan| confirm::ask(context, &lines(plan, args.forget));
    let consent = confirm::consent(args.dry_run, args.yes, &ask);
    let RepairedSnapshots { plan, repaired } =
        repair_snapshots::run(&repository, &options, &consent, &context.hears())?;
    let code = if plan.hurt.is_empty() { exit::COMPLETE } else { exit::INCOMPLETE };
    let document = json!({ "dry_run": args.dry_run, "plan": plan, "repaired": repaired });
    Ok(Outcome::new(code, document, result_lines(args.dry_run, &plan, &repaired)))
}

/// Says what will be done.
fn lines(plan: &RepairPlan, forget: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for hurt in &plan.hurt {
        lines.push(match &hurt.repaired_as {
            Some(sound) => repaired_before(hurt, sound),
            None => {
                let losses = count(hurt.lost_count, "lost item");
                format!("Snapshot {} will be written anew without {losses}:", hurt.snapshot.short())
            }
        });
        lines.extend(hurt.lost.iter().map(line_of));
    }
    if forget {
        lines.push("The originals will go to the trash".to_owned());
    }
    lines
}

fn result_lines(dry_run: bool, plan: &RepairPlan, repaired: &[Repaired]) -> Vec<String> {
    let mut lines = vec![format!(
        "Checked {} and read {}; {} lost something",
        count(plan.snapshots, "snapshot"),
        count(plan.packs_read, "pack"),
        count(plan.hurt.len(), "snapshot")
    )];
    for hurt in &plan.hurt {
        lines.extend(loss_lines(&hurt.lost, hurt.lost_count));
        lines.extend(hurt.repaired_as.as_ref().map(|sound| repaired_before(hurt, sound)));
    }
    for Repaired { was, is, entries, lost_count } in repaired {
        let (entries, losses) = (count(*entries, "entry"), count(*lost_count, "lost item"));
        lines.push(format!("Snapshot {} is now {}: {entries}, without {losses}", was.short(), is.short()));
    }
    if dry_run {
        lines.push("Dry run: nothing was written".to_owned());
    }
    lines
}

fn repaired_before(hurt: &LossySnapshot, sound: &SessionId) -> String {
    format!("Snapshot {} was already repaired as {}", hurt.snapshot.short(), sound.short())
}
