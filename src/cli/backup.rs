//! `mlvault backup`

use std::path::PathBuf;

use clap::Parser;
use serde_json::json;

use mlvault::backup::{self, Options, Summary, What};
use mlvault::error::{Error, Result};
use mlvault::format::deployment::{DeploymentRecord, Verdict, Verdicts};
use mlvault::format::snapshot::Completeness;
use mlvault::s3::BucketLocation;
use mlvault::units::format_bytes;

use crate::cli::context::Context;
use crate::cli::deployment::DeploymentArgs;
use crate::cli::{exit, output, progress};

/// Back up an MLflow deployment, files and directories, a part of a bucket, or a stream, as one snapshot
///
/// Of a deployment, given by its name in the configuration file or in MLflow's own words (--backend-store-uri,
/// --artifacts), databases come first, each at one instant, and artifacts after them; then every row is compared with
/// the files that it refers to. With a tracking URL, the metadata that the REST API tells is stored too. MLflow may go on
/// working meanwhile.
///
/// Paths are stored as tar would: relative ones as they are, absolute ones without the leading `/`, the content of `.`
/// at the top. Files that look as they did in the last snapshot of the same paths are not read again.
///
/// Of s3://bucket/prefix, every object below the prefix is stored under its key behind it, with content type and other
/// headers, user metadata and tags. The bucket is reached with the same S3 settings as a repository on S3.
#[derive(Parser)]
pub struct Args {
    /// Files and directories, or one s3://bucket/prefix
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Store standard input under the name given by --name
    #[arg(long, requires = "name", conflicts_with_all = ["paths", "command"])]
    stdin: bool,
    /// Store the output of a shell command under the name given by --name; if it fails there is no snapshot
    #[arg(long, requires = "name", conflicts_with = "paths", value_name = "COMMAND")]
    command: Option<String>,
    /// Name of the stream in the snapshot
    #[arg(long)]
    name: Option<String>,
    /// Tag of the snapshot; may be given several times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Leave out what matches this glob: a name, or with `/` a whole path in the snapshot; may be given several times
    #[arg(long = "exclude", value_name = "GLOB")]
    excludes: Vec<String>,
    /// Read every file, also those that look unchanged
    #[arg(long)]
    force: bool,
    /// Do not take another inode or change time for a change (for network file systems)
    #[arg(long)]
    ignore_inode: bool,
    /// Only tell what would be read; write nothing
    #[arg(long)]
    dry_run: bool,
    /// With the tag pre-upgrade: the MLflow release that is to be upgraded to
    #[arg(long, value_name = "VERSION")]
    upgrade_to: Option<String>,
    #[command(flatten)]
    deployment: DeploymentArgs,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<exit::Code> {
    let name = args.name.unwrap_or_default();
    let what = match args.command {
        Some(line) => What::Command { line, name },
        None if args.stdin => What::Stdin { name },
        None if args.paths.is_empty() && args.deployment.is_meant() => {
            if !args.excludes.is_empty() {
                return Err(Error::Invalid(
                    "--exclude is for paths; of a deployment, --exclude-root leaves out roots".to_owned(),
                ));
            }
            What::Deployment(Box::new(args.deployment.resolve(context)?))
        }
        None => paths(context, args.paths, args.excludes)?,
    };
    let options = Options {
        what,
        tags: args.tags,
        force: args.force,
        ignore_inode: args.ignore_inode,
        dry_run: args.dry_run,
        upgrade_to: args.upgrade_to,
    };
    let repository = context.repository()?;
    let summary = backup::run(&repository, &options, &context.monitor(), context.cancel())?;
    context.finish();
    if context.json() {
        output::print_json(&json!({ "snapshot": summary.snapshot, "record": summary.record }))?;
    } else {
        print_summary(&summary)?;
    }
    Ok(match summary.record.completeness {
        Completeness::Complete => exit::COMPLETE,
        Completeness::Incomplete => exit::INCOMPLETE,
    })
}

/// Tells a part of a bucket from paths.
fn paths(context: &Context, paths: Vec<PathBuf>, excludes: Vec<String>) -> Result<What> {
    let bucket = |path: &PathBuf| path.to_str().filter(|text| BucketLocation::is_meant(text)).map(str::to_owned);
    match (paths.len(), paths.iter().find_map(bucket)) {
        (_, None) => Ok(What::Paths { paths, excludes }),
        (1, Some(text)) => Ok(What::Bucket { location: text.parse()?, options: context.backend_options()?, excludes }),
        (_, Some(text)) => {
            Err(Error::Invalid(format!("{text} must be the only path: back up the others by themselves")))
        }
    }
}

/// Says how each part of a deployment stands.
fn print_verdicts(record: &DeploymentRecord) -> Result<()> {
    let verdict = |verdict| match verdict {
        Verdict::Ok => "ok",
        Verdict::NotOk => "NOT OK",
        Verdict::Absent => "not backed up",
    };
    let Verdicts { database, artifacts, references, metadata } = record.verdicts;
    let rows: u64 = record.databases.iter().map(|database| database.rows).sum();
    output::print_line(&format!("Database: {} ({rows} rows)", verdict(database)))?;
    output::print_line(&format!("Artifacts: {}", verdict(artifacts)))?;
    let counts = &record.references;
    let mut text = format!("{} with files, {} without", counts.present, counts.empty);
    for (count, what) in [
        (counts.carried_over, "carried over from the snapshot before"),
        (counts.deleted_meanwhile, "deleted meanwhile"),
        (counts.excluded, "excluded"),
        (counts.partial, "PARTIAL"),
        (counts.missing, "MISSING"),
        (counts.orphans, "files that nothing refers to"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    output::print_line(&format!("References: {} ({text})", verdict(references)))?;
    output::print_line(&format!("Metadata: {}", verdict(metadata)))?;
    if record.lossy.is_empty() {
        return Ok(());
    }
    output::print_line("LOSSY: made through the REST API alone; no restore into MLflow's storage. It lacks:")?;
    record.lossy.iter().try_for_each(|lack| output::print_line(&format!("  {lack}")))
}

fn print_summary(summary: &Summary) -> Result<()> {
    let (record, numbers) = (&summary.record, &summary.record.statistics);
    let bytes: u64 = record.components.iter().map(|component| component.bytes).sum();
    output::print_line(&format!(
        "Files: {} new, {} changed, {} unchanged; {} in all",
        numbers.files_new,
        numbers.files_changed,
        numbers.files_unchanged,
        format_bytes(bytes)
    ))?;
    let Some(id) = summary.snapshot else {
        return output::print_line(&format!(
            "Dry run: {} would be read; nothing was written",
            format_bytes(numbers.bytes_read)
        ));
    };
    output::print_line(&format!(
        "Read {}, new {}, stored {}, in {}",
        format_bytes(numbers.bytes_read),
        format_bytes(numbers.bytes_new),
        format_bytes(numbers.bytes_stored),
        progress::format_duration(numbers.duration_ms as f64 / 1000.0)
    ))?;
    if let Some(deployment) = &record.deployment {
        print_verdicts(deployment)?;
    }
    if record.problem_count > 0 {
        output::print_line(&format!("Snapshot {} saved, INCOMPLETE: {} problems", id.short(), record.problem_count))
    } else {
        output::print_line(&format!("Snapshot {} saved", id.short()))
    }
}
