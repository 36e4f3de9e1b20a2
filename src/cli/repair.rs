//! `mlvault repair`

use clap::{Parser, Subcommand};
use serde_json::json;

use mlvault::error::Result;
use mlvault::repair::index::{self, Options, Report};

use crate::cli::context::Context;
use crate::cli::{exit, output, repair_packs, repair_snapshots};

/// Repair what can be made again from what is left
#[derive(Parser)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Index(IndexArgs),
    Packs(repair_packs::Args),
    Snapshots(repair_snapshots::Args),
}

/// Make the index again from the packs alone
///
/// Sound index segments are kept. Damaged ones, and those that name packs that are gone, are replaced; packs that none
/// names are read for what they hold. Backups may run meanwhile. Exit code 3 if a pack cannot be read, or is gone.
#[derive(Parser)]
struct IndexArgs {
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<exit::Code> {
    match args.what {
        What::Index(args) => repair_index(context, &args),
        What::Packs(args) => repair_packs::run(context, args),
        What::Snapshots(args) => repair_snapshots::run(context, &args),
    }
}

fn repair_index(context: &Context, args: &IndexArgs) -> Result<exit::Code> {
    let repository = context.repository()?;
    let options = Options { dry_run: args.dry_run };
    let report = index::run(&repository, &options, context.monitor().as_ref(), context.cancel())?;
    context.finish();
    if context.json() {
        output::print_json(&json!({ "dry_run": args.dry_run, "report": report }))?;
    } else {
        print_report(args.dry_run, &report)?;
    }
    Ok(if report.unrepaired_count == 0 { exit::COMPLETE } else { exit::INCOMPLETE })
}

fn print_report(dry_run: bool, report: &Report) -> Result<()> {
    let lead = if dry_run { "Dry run: segments" } else { "Segments" };
    output::print_line(&format!(
        "{lead}: {} kept, {} written, {} removed; {} packs became known",
        report.segments_kept, report.segments_written, report.segments_removed, report.packs_added
    ))?;
    match (report.unrepaired_count, report.is_unchanged()) {
        (0, true) => output::print_line("The index was right already"),
        (0, false) => output::print_line(if dry_run { "Nothing was written" } else { "The index is whole again" }),
        (count, _) => output::print_line(&format!(
            "INCOMPLETE: {count} packs are missing or cannot be read; `mlvault check` tells what that costs"
        )),
    }
}
