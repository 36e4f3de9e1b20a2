//! `mlvault restore`

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Parser, ValueEnum};
use serde_json::json;

use mlvault::dump;
use mlvault::error::{Error, Result};
use mlvault::repository::Repository;
use mlvault::repository::snapshots::Snapshot;
use mlvault::restore::{self, Options, Overwrite, Summary, deployment};
use mlvault::s3::BucketLocation;
use mlvault::target::bucket::BucketTarget;
use mlvault::units::format_bytes;

use crate::cli::context::Context;
use crate::cli::deployment::DeploymentArgs;
use crate::cli::restore_deployment::{self, DeploymentRestoreArgs};
use crate::cli::restore_rest::{self, RestArgs};
use crate::cli::selection::{SnapshotArgs, WantedArgs};
use crate::cli::{cat, dump as dump_command, exit, output};

/// Restore a snapshot, or a part of it: as files, or into MLflow's own storage
///
/// With --target, files go into a directory or a part of a bucket. What is there already is compared and only rewritten
/// where it differs, so a restore that was interrupted goes on when it is run again. With --model, --run or --experiment
/// it is their files, which need neither MLflow nor a database.
///
/// Without --target, a deployment is restored: all of it into an empty database and empty artifact stores, or, with
/// --model, --run or --experiment, rows with their ids and files into one that is in use.
///
/// With --via-rest, it is brought back through the REST API of a server, for where nothing else is allowed.
///
/// Exit code 3 if something could not be restored.
#[derive(Parser)]
pub struct Args {
    #[command(flatten)]
    snapshot: SnapshotArgs,
    /// Directory to restore into, which is created if it is not there; or s3://bucket/prefix; or - for standard output: a
    /// file as it is, a directory as a tar archive
    #[arg(long, value_name = "DIR")]
    target: Option<PathBuf>,
    #[command(flatten)]
    wanted: WantedArgs,
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
    #[command(flatten)]
    into: DeploymentRestoreArgs,
    #[command(flatten)]
    rest: RestArgs,
    #[command(flatten)]
    deployment: DeploymentArgs,
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
    match &args.target {
        Some(_) if args.rest.via_rest => {
            Err(Error::Invalid("--target and --via-rest contradict each other".to_owned()))
        }
        Some(target) if target == Path::new("-") => to_stdout(context, &args),
        Some(target) => as_files(context, target.clone(), args),
        None if args.rest.via_rest => through_server(context, &args),
        None if args.deployment.is_meant() => into_deployment(context, &args),
        None => Err(Error::Invalid("Say where to: --target, or a deployment".to_owned())),
    }
}

/// Restores into MLflow's own storage.
fn into_deployment(context: &Context, args: &Args) -> Result<exit::Code> {
    let target = args.deployment.resolve(context)?;
    let name = args.deployment.deployment.as_deref();
    let repository = context.repository()?;
    let snapshot = args.snapshot.find(&repository, name)?;
    let from = (&repository, &snapshot);
    match args.wanted.wanted() {
        None => restore_deployment::whole(context, &args.into, &target, from, args.dry_run),
        Some(wanted) => restore_deployment::part(context, &args.into, &target, from, &wanted, args.dry_run),
    }
}

/// Brings it back through the REST API of a server.
fn through_server(context: &Context, args: &Args) -> Result<exit::Code> {
    let target = args.deployment.resolve(context)?;
    let name = args.deployment.deployment.as_deref();
    let repository = context.repository()?;
    let snapshot = args.snapshot.find(&repository, name)?;
    let wanted = args.wanted.wanted();
    let from = (&repository, &snapshot);
    restore_rest::run(context, (&args.rest, args.into.yes), &target, from, wanted.as_ref(), args.dry_run)
}

/// Returns the path in the snapshot that is meant, by components, paths or both.
fn path_of(args: &Args) -> Result<Option<String>> {
    match (args.into.components.as_slice(), &args.path) {
        ([], path) => Ok(path.clone()),
        ([component], Some(path)) => Ok(Some(format!("{component}/{path}"))),
        ([component], None) => Ok(Some(component.clone())),
        _ => Err(Error::Invalid("Files are restored from one component at a time".to_owned())),
    }
}

fn find_snapshot(context: &Context, args: &Args) -> Result<(Arc<Repository>, Snapshot)> {
    let repository = context.repository()?;
    if args.wanted.wanted().is_none() && args.snapshot.snapshot.is_none() && args.snapshot.as_of.is_none() {
        return Err(Error::Invalid("Say which snapshot: --snapshot latest".to_owned()));
    }
    let snapshot = args.snapshot.find(&repository, args.deployment.deployment.as_deref())?;
    Ok((repository, snapshot))
}

/// Writes a file, or an archive of a directory, to standard output.
fn to_stdout(context: &Context, args: &Args) -> Result<exit::Code> {
    if args.overwrite.is_some() || args.delete || args.ownership || args.dry_run || context.json() {
        return Err(Error::Invalid(
            "Standard output takes nothing else: no --overwrite, --delete, --ownership, --dry-run, --json".to_owned(),
        ));
    }
    if args.wanted.wanted().is_some() {
        return Err(Error::Invalid("Files of a model, run or experiment are restored into a directory".to_owned()));
    }
    let path = path_of(args)?.unwrap_or_default();
    let (repository, snapshot) = find_snapshot(context, args)?;
    match dump::sole_file(&repository, &snapshot, path.as_bytes())? {
        Some(file) => cat::write(context, &repository, &snapshot, &file),
        None => dump_command::write(context, &repository, &snapshot, path.as_bytes()),
    }
}

fn as_files(context: &Context, target: PathBuf, args: Args) -> Result<exit::Code> {
    let overwrite = args.overwrite.unwrap_or(OverwriteArg::Always);
    let into_bucket = bucket_target(context, &target, &args)?;
    let (repository, snapshot) = find_snapshot(context, &args)?;
    let (wanted, path) = (args.wanted.wanted(), path_of(&args)?);
    let options = Options {
        target,
        path,
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
        None => match &wanted {
            None => restore::run(&repository, &snapshot, &options, monitor.as_ref(), context.cancel())?,
            Some(wanted) => {
                let hears = (monitor.as_ref(), context.cancel());
                deployment::restore_files(&repository, &snapshot, wanted, &options, hears)?
            }
        },
        Some(_) if wanted.is_some() => {
            return Err(Error::Invalid("Files of a model, run or experiment are restored into a directory".to_owned()));
        }
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
fn bucket_target(
    context: &Context,
    target: &Path,
    args: &Args,
) -> Result<Option<(BucketTarget, restore::bucket::Options)>> {
    let Some(text) = target.to_str().filter(|text| BucketLocation::is_meant(text)) else { return Ok(None) };
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
