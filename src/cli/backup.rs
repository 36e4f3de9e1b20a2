//! `mlvault backup`

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Parser, ValueEnum};
use jiff::SignedDuration;
use serde_json::json;

use mlvault::backup::sharded::{self, PlanName, PlanSummary, ShardSummary, Shards};
use mlvault::backup::{self, BackupOptions, BackupSource, BackupSummary};
use mlvault::config::deployment as deployment_config;
use mlvault::error::{Error, Result};
use mlvault::format::deployment::{DeploymentRecord, ReferenceCounts, Verdict, Verdicts};
use mlvault::format::snapshot::{Completeness, SourceRecord};
use mlvault::kubernetes::{Cluster, CopyOptions};
use mlvault::procedures::copied_backup::{self, FromCopy};
use mlvault::repository::Repository;
use mlvault::s3::BucketLocation;
use mlvault::units::{count, format_bytes, format_duration};

use crate::cli::audit_log;
use crate::cli::context::Context;
use crate::cli::deployment::DeploymentArgs;
use crate::cli::exclusions::{self, ExclusionArgs};
use crate::cli::exit;
use crate::cli::outcome::{Outcome, Text};
use crate::cli::sharding::{ShardingArgs, Step};
use crate::cli::values;

/// Create a snapshot of an MLflow deployment, of files, of a part of a bucket, or of a stream
///
/// Name a deployment of the configuration file with --deployment, or describe one with --backend-store-uri and
/// --artifacts. mlvault dumps the databases first, each at one point in time, then reads the artifacts, and then checks
/// that every file that the databases refer to is in the snapshot. With --tracking-uri, it also stores what the REST API
/// reports. MLflow can keep running.
///
/// Files are stored under the paths that tar would use: relative paths as they are, absolute paths without the leading
/// `/`, and the content of `.` at the top level. Files that have not changed since the last snapshot of the same paths are
/// not read again.
///
/// With s3://bucket/prefix, every object below the prefix is stored with its headers, user metadata and tags. The S3
/// settings of the repository apply to this bucket too.
///
/// If a deployment is too large for one process, several can make one snapshot of it, in three steps that share a --plan: with
/// --shards N, one process dumps the databases and divides the artifacts; then N processes read a part each, with --shard 0
/// to N-1; then one writes the snapshot, with --close. All of them need the same key and the same settings. Each step can be
/// run again; what was done is not done twice.
///
/// Exit code 3 if the snapshot is incomplete. A shard that could not read some files ends with 0: whether they matter is known
/// at the end.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault backup --deployment production
  mlvault backup --tag nightly --exclude '*.tmp' /srv/mlflow
  mlvault backup --command 'pg_dump mlflow' --name mlflow.sql
  mlvault backup --deployment production --plan 2026-08-01 --shards 8
  mlvault backup --deployment production --plan 2026-08-01 --shard 0 --wait 1h
  mlvault backup --deployment production --plan 2026-08-01 --close --wait 12h")]
pub struct Args {
    /// Files and directories to back up, or one s3://bucket/prefix
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Store standard input, under the name given with --name
    #[arg(long, requires = "name", conflicts_with_all = ["paths", "command"])]
    stdin: bool,
    /// Store the output of a shell command, under the name given with --name; if the command fails, no snapshot is made. It
    /// gets the environment, but no variable that begins with MLVAULT_
    #[arg(long, requires = "name", conflicts_with = "paths", value_name = "COMMAND")]
    command: Option<String>,
    /// Name of the stream in the snapshot
    #[arg(long)]
    name: Option<String>,
    /// Add a tag to the snapshot; can be given several times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Also back up the paths that this file names, one per line, or separated by NUL bytes; - for standard input; can be
    /// given several times
    #[arg(long = "files-from", value_name = "FILE", conflicts_with_all = ["stdin", "command"])]
    files_from: Vec<PathBuf>,
    #[command(flatten)]
    exclusions: ExclusionArgs,
    /// Read every file, even if it looks unchanged
    #[arg(long)]
    force: bool,
    /// Ignore inode numbers and change times when looking for changes (for network file systems)
    #[arg(long)]
    ignore_inode: bool,
    /// Store extended attributes and POSIX ACLs of files and directories too
    #[arg(long, conflicts_with_all = ["stdin", "command"])]
    xattrs: bool,
    /// Show what would be read; write nothing
    #[arg(long)]
    dry_run: bool,
    /// With --tag pre-upgrade: the MLflow version that you will upgrade to
    #[arg(long, value_name = "VERSION")]
    upgrade_to: Option<String>,
    /// Whether the snapshot is incomplete if the export through --tracking-uri is [default: required]
    #[arg(long, value_enum, env = "MLVAULT_METADATA", value_name = "NEED")]
    metadata: Option<MetadataArg>,
    #[command(flatten)]
    sharding: ShardingArgs,
    #[command(flatten)]
    volume: VolumeArgs,
    #[command(flatten)]
    deployment: DeploymentArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MetadataArg {
    /// It is
    Required,
    /// It is not: all that a restore needs is in the databases
    Optional,
}

impl Args {
    /// Returns whether something else than a deployment is backed up.
    pub fn is_of_other(&self) -> bool {
        self.command.is_some() || self.stdin || !self.paths.is_empty()
    }

    /// Returns whether it is to end with a snapshot. The steps of a sharded backup before its last one are not: who waits for one
    /// is not to be told yet.
    pub fn writes_snapshot(&self) -> bool {
        self.sharding.is_last_step()
    }
}

/// How artifacts on a claim of a Kubernetes cluster are backed up from a copy.
#[derive(clap::Args)]
#[command(next_help_heading = "Kubernetes cluster")]
struct VolumeArgs {
    /// Back up artifacts on a PersistentVolumeClaim from a copy of it as it is at one moment, which a Job reads: the claim, where it is
    /// mounted, and the namespace are in [deployment.NAME.kubernetes]
    #[arg(long, conflicts_with_all = ["plan", "dry_run", "paths", "stdin", "command"])]
    via_volume_snapshot: bool,
    /// The CronJob that backs up this deployment, from which that Job is made [default: that with the labels of the chart]
    #[arg(long, value_name = "NAME", requires = "via_volume_snapshot")]
    cron_job: Option<String>,
    /// How long the snapshot of the claim may take until it can be used
    #[arg(long, value_name = "TIME", value_parser = values::duration, default_value = "30m", requires = "via_volume_snapshot")]
    volume_wait: SignedDuration,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    let is_other = args.is_of_other();
    let step = args.sharding.step()?;
    if step.is_some() && is_other {
        return Err(Error::Invalid("--plan is for the backup of a deployment".to_owned()));
    }
    let name = args.name.unwrap_or_default();
    if is_other && args.deployment.is_typed() {
        return Err(Error::Invalid(
            "A backup is either of a deployment or of something else: give --deployment, --backend-store-uri and --artifacts, \
             or paths, --stdin or --command, and make two backups for both"
                .to_owned(),
        ));
    }
    let is_unnamed = !is_other && args.deployment.deployment.is_none();
    let what = match args.command {
        Some(line) => BackupSource::Command { line, name },
        None if args.stdin => BackupSource::Stdin { name },
        None if args.paths.is_empty() && args.files_from.is_empty() && args.deployment.is_meant() => {
            let mut deployment = args.deployment.resolve(context)?;
            if let Some(metadata) = args.metadata {
                deployment.metadata_optional = metadata == MetadataArg::Optional;
            }
            BackupSource::Deployment(Box::new(deployment))
        }
        None => paths(context, [args.paths, exclusions::paths_from(&args.files_from, context.cancel())?].concat())?,
    };
    if args.xattrs && matches!(what, BackupSource::Bucket { .. }) {
        let reason = "--xattrs works only with files; metadata and tags of objects are always stored";
        return Err(Error::Invalid(reason.to_owned()));
    }
    let options = BackupOptions {
        exclusions: args.exclusions.resolve(&what, excluded_by_file(context, &what))?,
        own_places: context.written_places(),
        what,
        tags: args.tags,
        force: args.force,
        ignore_inode: args.ignore_inode,
        xattrs: args.xattrs,
        dry_run: args.dry_run,
        upgrade_to: args.upgrade_to,
    };
    let repository = context.repository()?;
    if let (true, BackupSource::Deployment(deployment)) = (is_unnamed, &options.what) {
        warn_of_new_group(context, &repository, &deployment.name)?;
    }
    if let Some((plan, step)) = step {
        return sharded(context, &repository, &options, (&plan, step));
    }
    if args.volume.via_volume_snapshot {
        return from_copy(context, &repository, &options, (&args.deployment, &args.volume));
    }
    let summary = backup::run(&repository, &options, &context.hears())?;
    Ok(outcome(context, &repository, &summary))
}

/// Backs up from a copy of the claim that holds the artifacts.
fn from_copy(
    context: &Context,
    repository: &Arc<Repository>,
    options: &BackupOptions,
    (deployment, volume): (&DeploymentArgs, &VolumeArgs),
) -> Result<Outcome> {
    let section = deployment_config::resolve_kubernetes(context.file(), &deployment.flags(context)?);
    let (claim, mount) = section.claim_and_mount("--via-volume-snapshot")?;
    let hears = context.hears();
    let cluster = Cluster::connect(&section.cluster(), &hears)?;
    let cron_job = cluster.cron_job(volume.cron_job.as_deref(), "backup", deployment.deployment.as_deref())?;
    let copy = CopyOptions { class: section.volume_snapshot_class, wait_max: volume.volume_wait.unsigned_abs() };
    let from = FromCopy { cluster: &cluster, cron_job: &cron_job, claim: &claim, mount: &mount, copy };
    let mut hear = |line: &str| {
        context.monitor().note(line);
        Ok(())
    };
    let summary = copied_backup::run(repository, options, &from, &hears, &mut hear)?;
    Ok(outcome(context, repository, &summary))
}

/// Runs one step of a sharded backup.
fn sharded(
    context: &Context,
    repository: &Arc<Repository>,
    options: &BackupOptions,
    (plan, step): (&PlanName, Step),
) -> Result<Outcome> {
    let hears = context.hears();
    match step {
        Step::Plan(shards) => {
            let PlanSummary { record, was_there } =
                sharded::plan(repository, options, plan, Shards::here(shards), &hears)?;
            let document = json!({
                "plan": record.name, "session": record.session, "shards": record.shards, "parent": record.parent,
                "statistics": record.statistics, "was_there": was_there,
            });
            let verb = if was_there { "was made before" } else { "made" };
            let shards = count(u64::from(record.shards), "shard");
            let text =
                Text::from(format!("Plan {:?} {verb}: {shards}, session {}", record.name, record.session.short()));
            Ok(Outcome::new(exit::COMPLETE, document, text))
        }
        Step::First(shards) => {
            sharded::plan(repository, options, plan, Shards::here(shards), &hears)?;
            sharded(context, repository, options, (plan, Step::Shard(0)))
        }
        Step::Shard(number) => {
            let summary = sharded::shard(repository, options, plan, number, &hears)?;
            let document = json!({
                "plan": plan.name, "session": summary.session, "shard": number, "record": summary.record,
                "was_there": summary.was_there,
            });
            Ok(Outcome::new(exit::COMPLETE, document, shard_text(number, &summary)))
        }
        Step::Close => Ok(outcome(context, repository, &sharded::close(repository, options, plan, &hears)?)),
    }
}

fn shard_text(number: u32, summary: &ShardSummary) -> Text {
    let Some(record) = &summary.record else {
        return Text::from(format!(
            "Shard {number} has nothing to do: the snapshot {} is there",
            summary.session.short()
        ));
    };
    let numbers = &record.statistics;
    let mut text = Text::from(format!(
        "Files: {} new, {} changed, {} unchanged",
        numbers.files_new, numbers.files_changed, numbers.files_unchanged
    ));
    text.line(format!(
        "Read {}, new {}, stored {}, in {}",
        format_bytes(numbers.bytes_read),
        format_bytes(numbers.bytes_new),
        format_bytes(numbers.bytes_stored),
        format_duration(numbers.duration_ms as f64 / 1000.0)
    ));
    let verb = if summary.was_there { "was stored before" } else { "stored" };
    text.line(match record.problem_count {
        0 => format!("Shard {number} {verb}"),
        problems => format!(
            "Shard {number} {verb}; of {}, it is known at the end whether it matters",
            count(problems, "problem")
        ),
    });
    text
}

/// Says what came of a backup that wrote a snapshot.
fn outcome(context: &Context, repository: &Repository, summary: &BackupSummary) -> Outcome {
    let appended = context.settle_log(repository);
    // The snapshot is whole then, but somebody must look at those before it.
    let history = repository.history();
    let is_whole = summary.record.completeness == Completeness::Complete && history.is_whole();
    let code = if is_whole { exit::COMPLETE } else { exit::INCOMPLETE };
    let document = json!({
        "snapshot": summary.snapshot, "record": summary.record, "clock_off_seconds": summary.clock_off_seconds,
        "gone": history.gone(), "log": appended.as_ref().map(|appended| audit_log::appended_json(repository, appended)),
    });
    let mut text = text(summary);
    text.extend(appended.map(|appended| audit_log::checkpoint_line(&appended.checkpoint)));
    Outcome::new(code, document, text)
}

/// Returns what the configuration file leaves out of a source.
fn excluded_by_file<'a>(context: &'a Context, what: &BackupSource) -> &'a [String] {
    let BackupSource::Deployment(deployment) = what else { return &[] };
    context.file().deployment.get(&deployment.name).map_or(&[], |section| &section.exclude)
}

/// Says that a deployment without a name begins a group of its own, if there are others that it may be meant to continue.
fn warn_of_new_group(context: &Context, repository: &Repository, name: &str) -> Result<()> {
    let names: BTreeSet<String> = repository
        .list_snapshots()?
        .snapshots
        .into_iter()
        .filter_map(|snapshot| match snapshot.record.source {
            SourceRecord::Deployment { name } => Some(name),
            _ => None,
        })
        .collect();
    if !names.is_empty() && !names.contains(name) {
        let others = names.into_iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
        context.monitor().warning(&format!(
            "No deployment is named, so this one is called {name:?} and its snapshots are a group of their own; the \
             repository has snapshots of {others}. If it is one of them, name it with --deployment"
        ));
    }
    Ok(())
}

/// Tells a part of a bucket from paths.
fn paths(context: &Context, paths: Vec<PathBuf>) -> Result<BackupSource> {
    let bucket = |path: &PathBuf| path.to_str().filter(|text| BucketLocation::is_meant(text)).map(str::to_owned);
    match (paths.len(), paths.iter().find_map(bucket)) {
        (_, None) => Ok(BackupSource::Paths { paths }),
        (1, Some(text)) => Ok(BackupSource::Bucket { location: text.parse()?, options: context.backend_options()? }),
        (_, Some(text)) => {
            Err(Error::Invalid(format!("{text} must be the only path; back up the other paths separately")))
        }
    }
}

/// Returns how each part of a deployment stands.
fn verdict_lines(record: &DeploymentRecord) -> Vec<String> {
    let verdict = |verdict| match verdict {
        Verdict::Ok => "ok",
        Verdict::NotOk => "NOT OK",
        Verdict::Accepted => "accepted losses",
        Verdict::Absent => "not backed up",
    };
    let Verdicts { database, artifacts, references, metadata, consistency } = record.verdicts;
    let rows: u64 = record.databases.iter().map(|database| database.rows).sum();
    let mut lines = vec![
        format!("Database: {} ({})", verdict(database), count(rows, "row")),
        format!("Artifacts: {}", verdict(artifacts)),
        format!("References: {} ({})", verdict(references), references_text(&record.references)),
        format!("Metadata: {}", verdict(metadata)),
    ];
    if consistency == Verdict::NotOk {
        let broken = record.databases.iter().flat_map(|database| &database.violations);
        lines.push(format!("Consistency: NOT OK ({} in the databases)", count(broken.count() as u64, "broken rule")));
    }
    if !record.lossy.is_empty() {
        lines.push(
            "LOSSY: made through the REST API alone, so it cannot be restored into MLflow's own storage. It lacks:"
                .to_owned(),
        );
        lines.extend(record.lossy.iter().map(|lack| format!("  {lack}")));
    }
    lines
}

fn references_text(counts: &ReferenceCounts) -> String {
    let mut text = format!("{} with files, {} without", counts.present, counts.empty);
    for (number, what) in [
        (counts.carried_over, "carried over from the previous snapshot"),
        (counts.deleted_meanwhile, "deleted during the backup"),
        (counts.excluded, "excluded"),
        (counts.partial, "PARTIAL"),
        (counts.missing, "MISSING"),
    ] {
        if number > 0 {
            text.push_str(&format!(", {number} {what}"));
        }
    }
    if counts.orphans > 0 {
        text.push_str(&format!(", {} that nothing refers to", count(counts.orphans, "file")));
    }
    text
}

fn text(summary: &BackupSummary) -> Text {
    let (record, numbers) = (&summary.record, &summary.record.statistics);
    let bytes: u64 = record.components.iter().map(|component| component.bytes).sum();
    let mut text = Text::from(format!(
        "Files: {} new, {} changed, {} unchanged; {} in all",
        numbers.files_new,
        numbers.files_changed,
        numbers.files_unchanged,
        format_bytes(bytes)
    ));
    let Some(id) = summary.snapshot else {
        let bytes = format_bytes(numbers.bytes_read);
        text.line(format!("Dry run: {bytes} would be read; nothing was written"));
        return text;
    };
    text.line(format!(
        "Read {}, new {}, stored {}, in {}",
        format_bytes(numbers.bytes_read),
        format_bytes(numbers.bytes_new),
        format_bytes(numbers.bytes_stored),
        format_duration(numbers.duration_ms as f64 / 1000.0)
    ));
    text.extend(record.deployment.iter().flat_map(|record| verdict_lines(record)));
    text.line(match record.problem_count {
        0 if record.accepted.is_empty() => format!("Snapshot {} saved", id.short()),
        0 => format!(
            "Snapshot {} saved, but for {}",
            id.short(),
            count(record.accepted.len() as u64, "accepted problem")
        ),
        problems => format!("Snapshot {} saved, INCOMPLETE: {}", id.short(), count(problems, "problem")),
    });
    text
}
