//! `mlvault restore`

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use serde_json::json;

use mlvault::error::{Error, Result};
use mlvault::restore::{self, Options, Overwrite, Summary};
use mlvault::s3::BucketLocation;
use mlvault::target::bucket::BucketTarget;
use mlvault::units::format_bytes;

use crate::cli::context::Context;
use crate::cli::{exit, output};

/// Restore a snapshot, or a part of it, into a directory or a part of a bucket
///
/// What is there already is compared and only rewritten where it differs, so a restore that was interrupted goes on when
/// it is run again. Exit code 3 if something could not be restored.
#[derive(Parser)]
pub struct Args {
    /// Snapshot: an id, latest, latest~2, a day (2026-11-21, UTC) or a time (2026-11-21T03:00Z)
    #[arg(long)]
    snapshot: String,
    /// Directory to restore into, which is created if it is not there, or s3://bucket/prefix
    #[arg(long, value_name = "DIR")]
    target: PathBuf,
    /// Only this path of the snapshot and what is below it
    #[arg(long)]
    path: Option<String>,
    /// What to do with files that are there [default: always; objects in a bucket are replaced only if it is given]
    #[arg(long, value_enum)]
    overwrite: Option<OverwriteArg>,
    /// Remove what the snapshot does not have
    #[arg(long)]
    delete: bool,
    /// Restore owner, group, set-user-id and set-group-id
    #[arg(long)]
    ownership: bool,
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum OverwriteArg {
    /// Compare their content and rewrite what differs
    Always,
    /// Take those of the same size and time as equal
    IfChanged,
    /// Keep those that are newer
    IfNewer,
    /// Keep all
    Never,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<exit::Code> {
    let overwrite = args.overwrite.unwrap_or(OverwriteArg::Always);
    let into_bucket = bucket_target(context, &args)?;
    let repository = context.repository()?;
    let snapshot = repository.find_snapshot(&args.snapshot)?;
    let options = Options {
        target: args.target,
        path: args.path,
        overwrite: match overwrite {
            OverwriteArg::Always => Overwrite::Always,
            OverwriteArg::IfChanged => Overwrite::IfChanged,
            OverwriteArg::IfNewer => Overwrite::IfNewer,
            OverwriteArg::Never => Overwrite::Never,
        },
        delete: args.delete,
        ownership: args.ownership,
        dry_run: args.dry_run,
    };
    let monitor = context.monitor();
    let summary = match into_bucket {
        None => restore::run(&repository, &snapshot, &options, monitor.as_ref(), context.cancel())?,
        Some((target, into)) => {
            let path = options.path.unwrap_or_default();
            let hears = (monitor.as_ref(), context.cancel());
            restore::bucket::run_snapshot(&repository, &snapshot, path.as_bytes(), &target, into, hears)?
        }
    };
    context.finish();
    if context.json() {
        output::print_json(&json!({ "snapshot": snapshot.id, "dry_run": args.dry_run, "summary": summary }))?;
    } else {
        print_summary(&snapshot.id.short(), overwrite, args.dry_run, &summary)?;
    }
    if snapshot.is_incomplete() {
        let message = format!("the backup itself was incomplete: {} problems", snapshot.record.problem_count);
        monitor.note(&format!("Snapshot {}: {message}", snapshot.id.short()));
    }
    Ok(if summary.problems > 0 { exit::INCOMPLETE } else { exit::COMPLETE })
}

/// Opens the bucket, if the target is a part of one.
fn bucket_target(context: &Context, args: &Args) -> Result<Option<(BucketTarget, restore::bucket::Options)>> {
    let Some(text) = args.target.to_str().filter(|text| BucketLocation::is_meant(text)) else { return Ok(None) };
    let replace = match args.overwrite {
        None => false,
        Some(OverwriteArg::Always) => true,
        Some(_) => return Err(Error::Invalid("A bucket takes no --overwrite but `always`".to_owned())),
    };
    if args.delete || args.ownership {
        return Err(Error::Invalid("--delete and --ownership are for directories".to_owned()));
    }
    let target = BucketTarget::connect(&text.parse()?, &context.backend_options()?)?;
    Ok(Some((target, restore::bucket::Options { replace, dry_run: args.dry_run })))
}

fn print_summary(snapshot: &str, overwrite: OverwriteArg, dry_run: bool, summary: &Summary) -> Result<()> {
    let (verb, lead) = if dry_run { ("would be written", "Dry run of") } else { ("written", "Restored") };
    output::print_line(&format!(
        "{lead} snapshot {snapshot}: {} files {verb} ({}), {} unchanged, {} kept, {} removed, {} directories, {} links",
        summary.files_written,
        format_bytes(summary.bytes_written),
        summary.files_unchanged,
        summary.files_kept,
        summary.removed,
        summary.directories,
        summary.links
    ))?;
    if summary.problems > 0 {
        output::print_line(&format!("INCOMPLETE: {} problems", summary.problems))?;
    } else if !dry_run {
        output::print_line(match overwrite {
            OverwriteArg::Always => "Every file was verified against its digest",
            _ => "Every file written was verified against its digest; those left as they were, were not read",
        })?;
    }
    Ok(())
}
