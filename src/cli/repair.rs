//! `mlvault repair`

use clap::{Parser, Subcommand};
use serde_json::json;

use mlvault::error::Result;
use mlvault::repair::index::{self, RepairIndexOptions, RepairIndexReport};
use mlvault::units::count;

use crate::cli::context::Context;
use crate::cli::outcome::Outcome;
use crate::cli::{exit, repair_objects, repair_packs, repair_snapshots};

/// Repair a damaged repository
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault repair index
  mlvault repair packs --from s3://offsite/mlflow
  mlvault repair snapshots --dry-run")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Index(IndexArgs),
    Objects(repair_objects::Args),
    Packs(repair_packs::Args),
    Snapshots(repair_snapshots::Args),
}

/// Rebuild the index from the packs
///
/// Intact index segments are kept. Segments that are damaged or list missing packs are replaced, and packs that no segment
/// lists are added. Backups can run at the same time. Exit code 3 if a pack is missing or cannot be read.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault repair index --dry-run")]
struct IndexArgs {
    /// Show what would be done; write nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    match args.what {
        What::Index(args) => repair_index(context, &args),
        What::Objects(args) => repair_objects::run(context, &args),
        What::Packs(args) => repair_packs::run(context, args),
        What::Snapshots(args) => repair_snapshots::run(context, &args),
    }
}

fn repair_index(context: &Context, args: &IndexArgs) -> Result<Outcome> {
    let repository = context.repository()?;
    let options = RepairIndexOptions { dry_run: args.dry_run };
    let report = index::run(&repository, &options, &context.hears())?;
    let code = if report.unrepaired_count == 0 { exit::COMPLETE } else { exit::INCOMPLETE };
    Ok(Outcome::new(code, json!({ "dry_run": args.dry_run, "report": report }), lines(args.dry_run, &report)))
}

fn lines(dry_run: bool, report: &RepairIndexReport) -> Vec<String> {
    let lead = if dry_run { "Dry run: index segments" } else { "Index segments" };
    let first = format!(
        "{lead}: {} kept, {} written, {} removed; {} added",
        report.segments_kept,
        report.segments_written,
        report.segments_removed,
        count(report.packs_added, "pack")
    );
    let last = match (report.unrepaired_count, report.is_unchanged()) {
        (0, true) => "The index needed no repair".to_owned(),
        (0, false) if dry_run => "Nothing was written".to_owned(),
        (0, false) => "The index is repaired".to_owned(),
        (unrepaired, _) => format!(
            "INCOMPLETE: {} missing or unreadable; `mlvault check` shows which files need them",
            count(unrepaired, "pack")
        ),
    };
    vec![first, last]
}
