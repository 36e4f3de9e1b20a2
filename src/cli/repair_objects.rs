//! `mlvault repair objects`

use clap::Parser;
use serde_json::json;

use mlvault::error::Result;
use mlvault::procedures::repair_objects::{self, RepairedObjects};
use mlvault::repair::objects::{Junk, RepairObjectsPlan};
use mlvault::units::{count, format_bytes};

use crate::cli::context::Context;
use crate::cli::outcome::Outcome;
use crate::cli::progress::printable;
use crate::cli::{confirm, exit};

/// Objects that are printed one by one.
const NAMED_MAX: usize = 100;

/// Move what is none of the repository's objects into quarantine
///
/// Looks at every object but the content of packs. What cannot be read three times in a row, is too large for its kind,
/// belongs to another repository, or has a name that mlvault does not make, is moved below quarantine/ in the repository.
/// Nothing is deleted: a record there says where each object stood. Needs a maintainer key.
///
/// Exit code 3 if an object could not be moved.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault repair objects --dry-run")]
pub struct Args {
    /// Show what would be done; write nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
}

/// Runs the command.
pub fn run(context: &Context, args: &Args) -> Result<Outcome> {
    let repository = context.repository()?;
    let ask = |plan: &RepairObjectsPlan| confirm::ask(context, &plan_lines(plan));
    let consent = confirm::consent(args.dry_run, args.yes, &ask);
    let repaired = repair_objects::run(&repository, &consent, &context.hears())?;
    let code = if repaired.report.left.is_empty() { exit::COMPLETE } else { exit::INCOMPLETE };
    let RepairedObjects { plan, report } = &repaired;
    let document = json!({ "dry_run": args.dry_run, "plan": plan, "report": report });
    Ok(Outcome::new(code, document, result_lines(args.dry_run, &repaired)))
}

/// Says what will be done.
fn plan_lines(plan: &RepairObjectsPlan) -> Vec<String> {
    let mut lines = vec![format!("{} will be moved into quarantine:", count(plan.junk.len(), "object"))];
    lines.extend(junk_lines(plan));
    lines
}

fn junk_lines(plan: &RepairObjectsPlan) -> Vec<String> {
    let mut lines: Vec<String> = plan.junk.iter().take(NAMED_MAX).flat_map(lines_of).collect();
    if let Some(more) = plan.junk.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
        lines.push(format!("  and {more} more"));
    }
    lines
}

fn lines_of(junk: &Junk) -> [String; 2] {
    let Junk { object, bytes, reason, cost, .. } = junk;
    [format!("  {} ({}): {}", printable(object), format_bytes(*bytes), printable(reason)), format!("    {cost}")]
}

fn result_lines(dry_run: bool, repaired: &RepairedObjects) -> Vec<String> {
    let RepairedObjects { plan, report } = repaired;
    let found = match plan.junk_count {
        0 => "all belong to the repository".to_owned(),
        1 => "1 does not belong to the repository".to_owned(),
        many => format!("{many} do not belong to the repository"),
    };
    let mut lines = vec![format!("Looked at {}: {found}", count(plan.objects, "object"))];
    if dry_run {
        lines.extend(junk_lines(plan));
        lines.push("Dry run: nothing was moved".to_owned());
    }
    lines.extend(report.moved.iter().take(NAMED_MAX).map(|moved| {
        let (object, record) = (printable(&moved.object), &moved.record);
        format!("Moved {object}; {record} says what it was")
    }));
    if let Some(more) = report.moved.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
        lines.push(format!("Moved {more} more"));
    }
    lines.extend(report.left.iter().take(NAMED_MAX).map(|left| {
        let (object, reason) = (printable(&left.object), printable(&left.reason));
        format!("LEFT {object}: {reason}")
    }));
    let rest = plan.junk_count - plan.junk.len() as u64;
    if rest > 0 && !dry_run {
        lines.push(format!("There are {rest} more: run this again"));
    }
    lines
}
