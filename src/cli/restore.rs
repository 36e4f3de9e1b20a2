//! `mlvault restore`

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Parser, ValueEnum};
use serde_json::{Value, json};

use mlvault::chunks::reader::ChunkReader;
use mlvault::config::deployment as deployment_config;
use mlvault::dump::{self, ArchiveOptions};
use mlvault::error::{Error, Result};
use mlvault::objectives::Objectives;
use mlvault::procedures::restore_files;
use mlvault::repository::Repository;
use mlvault::repository::naming::Scope;
use mlvault::repository::snapshots::Snapshot;
use mlvault::restore::bucket::{BucketRestoreOptions, IntoBucket};
use mlvault::restore::deployment::{self, DeploymentPart, DeploymentRestore};
use mlvault::restore::removals::{RemovalCounts, Removals};
use mlvault::restore::{self, Overwrite, RestoreOptions, RestoreSummary};
use mlvault::s3::BucketLocation;
use mlvault::source::deployment::Deployment;
use mlvault::target::bucket::BucketTarget;
use mlvault::units::{count, format_bytes};

use crate::cli::answer::{About, Answer};
use crate::cli::context::Context;
use crate::cli::deployment::DeploymentArgs;
use crate::cli::exclusions::PatternArgs;
use crate::cli::outcome::Outcome;
use crate::cli::progress::printable;
use crate::cli::restore_deployment::{self, DeploymentRestoreArgs};
use crate::cli::restore_request::Request;
use crate::cli::restore_rest::{self, RestArgs};
use crate::cli::selection::{RestoreSourceArgs, SnapshotArgs, WantedArgs};
use crate::cli::{cat, confirm, dump as dump_command, exit, output};

/// Paths that a plan of removals names.
const REMOVALS_NAMED_MAX: usize = 20;

/// Restore a snapshot, or a part of it, as files or into an MLflow deployment
///
/// With --target, files are restored into a directory or a part of a bucket. Files that are already there are compared and
/// rewritten only if they differ, so you can run an interrupted restore again to finish it. Add --model, --run or
/// --experiment to restore only the files of one of them; this needs neither MLflow nor a database.
///
/// Without --target, a deployment is restored: the whole of it into an empty database and empty artifact stores, or, with
/// --model, --run or --experiment, that part into a deployment in use. Ids stay the same.
///
/// With --via-rest, the restore goes through the REST API of a tracking server. Ids change. Use it where you have no access
/// to the database.
///
/// Exit code 3 if something could not be restored.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault restore --snapshot latest --target /srv/restored
  mlvault restore --deployment production --as-of 2026-11-21
  mlvault restore --deployment production --model fraud --version 3 --target ./fraud")]
pub struct Args {
    #[command(flatten)]
    snapshot: SnapshotArgs,
    #[command(flatten)]
    source: RestoreSourceArgs,
    /// Directory to restore into (created if missing), s3://bucket/prefix, or - for standard output: a file as it is, a
    /// directory as a tar archive
    #[arg(long, value_name = "DIR")]
    target: Option<PathBuf>,
    #[command(flatten)]
    wanted: WantedArgs,
    /// Restore only this path and what is below it. With --snapshot SNAPSHOT:PATH, as in latest:srv/data, what is below the
    /// path comes right into the target
    #[arg(long)]
    path: Option<String>,
    /// The path of SNAPSHOT:PATH.
    #[arg(skip)]
    below: Option<String>,
    #[command(flatten)]
    patterns: PatternArgs,
    /// What to do with files that already exist [default: always; for a bucket, existing objects are kept]
    #[arg(long, value_enum)]
    overwrite: Option<OverwriteArg>,
    /// Delete what the snapshot does not have, where the backup looked: nothing beside the paths that it was given, and
    /// nothing that it left out or could not read. Asks for confirmation, unless --yes is given
    #[arg(long)]
    delete: bool,
    /// Restore owner, group and the set-user-ID and set-group-ID bits
    #[arg(long)]
    ownership: bool,
    /// Restore extended attributes and POSIX ACLs, where the backup stored them; those that have to do with rights, such as
    /// capabilities, only with --ownership
    #[arg(long)]
    xattrs: bool,
    /// Show what would be done; write nothing
    #[arg(long)]
    dry_run: bool,
    /// Restore even if the target seems to have too little free space (for file systems that compress)
    #[arg(long)]
    ignore_free_space: bool,
    #[command(flatten)]
    into: DeploymentRestoreArgs,
    #[command(flatten)]
    rest: RestArgs,
    #[command(flatten)]
    deployment: DeploymentArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum OverwriteArg {
    /// Rewrite files whose content differs
    Always,
    /// Rewrite files whose size or modification time differs
    IfChanged,
    /// Rewrite files unless they are newer
    IfNewer,
    /// Keep all existing files
    Never,
}

impl Args {
    fn refuse_patterns(&self, when: &str) -> Result<()> {
        match self.patterns.is_given() {
            true => Err(Error::Invalid(format!("--include and --exclude cannot be used {when}"))),
            false => Ok(()),
        }
    }
}

/// Runs the command.
pub fn run(context: &Context, mut args: Args) -> Result<Outcome> {
    args.below = args.snapshot.take_path();
    if args.below.is_some() && (args.target.is_none() || args.path.is_some() || !args.into.components.is_empty()) {
        return Err(Error::Invalid(
            "SNAPSHOT:PATH needs --target, and cannot be combined with --path or --component".to_owned(),
        ));
    }
    match &args.target {
        Some(_) if args.rest.via_rest => {
            Err(Error::Invalid("--target and --via-rest cannot be used together".to_owned()))
        }
        Some(target) if target == Path::new("-") => to_stdout(context, &args),
        Some(target) => as_files(context, target.clone(), args),
        None if args.rest.via_rest || args.deployment.is_meant() => {
            args.refuse_patterns("without --target")?;
            if args.delete || args.overwrite.is_some() {
                return Err(Error::Invalid("--delete and --overwrite can be used only with --target".to_owned()));
            }
            into_deployment(context, &args)
        }
        None => Err(Error::Invalid(
            "No target was given: set --target to restore files, or --deployment to restore into MLflow".to_owned(),
        )),
    }
}

/// Restores into MLflow's own storage, or through the REST API of a server.
fn into_deployment(context: &Context, args: &Args) -> Result<Outcome> {
    let target = args.deployment.resolve(context)?;
    let repository = context.repository()?;
    let scope = args.source.scope(args.deployment.deployment.as_deref(), Scope::AnyDeployment);
    let Answer { snapshot, about } = args.snapshot.find(context, &repository, &scope)?;
    warn_of_other(context, &about, &scope);
    let server = args.rest.via_rest.then(|| args.rest.connect(context, &target)).transpose()?;
    let restore = DeploymentRestore::new(&repository, &snapshot, &context.hears())?;
    let restore =
        restore.ignoring_free_space(args.ignore_free_space).with_ownership(args.ownership).with_xattrs(args.xattrs);
    let request = Request {
        context,
        target: &target,
        snapshot: &snapshot,
        about: &about,
        restore: &restore,
        wanted: args.wanted.wanted(),
        kubernetes: deployment_config::resolve_kubernetes(context.file(), &args.deployment.flags(context)?),
        objectives: objectives(context, &target, &about),
        dry_run: args.dry_run,
        yes: args.into.yes,
    };
    if args.into.quiesces() && (server.is_some() || request.wanted.is_some()) {
        return Err(Error::Invalid(
            "--quiesce is for the restore of a whole deployment: to put back one experiment, run or model, MLflow goes on running"
                .to_owned(),
        ));
    }
    match (server, &request.wanted) {
        (Some(server), _) => restore_rest::run(&request, server),
        (None, None) => restore_deployment::whole(&request, &args.into),
        (None, Some(wanted)) => {
            let done = restore_deployment::part(&request, &args.into, wanted);
            if matches!(&done, Ok(Outcome { code: exit::INCOMPLETE, .. }) | Err(Error::NotFound(_))) {
                offer_whole(context, &repository, &snapshot, wanted);
            }
            done
        }
    }
}

/// Returns how long the restore may take: as it is said of where it goes to, or else of where it comes from.
fn objectives(context: &Context, target: &Deployment, about: &About) -> Objectives {
    let of = |name: &String| context.file().deployment.get(name).map(|section| section.objectives.clone());
    let own = of(&target.name).filter(Objectives::limit_a_restore);
    own.or_else(|| about.deployment.as_ref().and_then(of)).unwrap_or_default()
}

/// Returns the path in the snapshot that is meant, by components, paths or both.
fn path_of(args: &Args) -> Result<Option<String>> {
    match (args.into.components.as_slice(), &args.path) {
        ([], path) => Ok(args.below.as_ref().or(path.as_ref()).cloned()),
        ([component], Some(path)) => Ok(Some(format!("{component}/{path}"))),
        ([component], None) => Ok(Some(component.clone())),
        _ => Err(Error::Invalid("Files can be restored from only one component at a time".to_owned())),
    }
}

fn find_snapshot(context: &Context, args: &Args) -> Result<(Arc<Repository>, Answer)> {
    let repository = context.repository()?;
    let is_part = args.wanted.wanted().is_some();
    if !is_part && !args.snapshot.is_given() {
        return Err(Error::Invalid("No snapshot was given: set --snapshot, for example to latest".to_owned()));
    }
    let otherwise = if is_part { Scope::AnyDeployment } else { Scope::Any };
    let scope = args.source.scope(args.deployment.deployment.as_deref(), otherwise);
    let answer = args.snapshot.find(context, &repository, &scope)?;
    warn_of_other(context, &answer.about, &scope);
    Ok((repository, answer))
}

/// An id means what it means, also if that is of another source than the one named.
fn warn_of_other(context: &Context, about: &About, scope: &Scope) {
    let wanted = match scope {
        Scope::Deployment(name) if about.deployment.as_ref() != Some(name) => format!("the deployment {name:?}"),
        Scope::Group(group) if about.source != *group => format!("{group:?}"),
        _ => return,
    };
    let (id, source) = (about.snapshot.short(), &about.source);
    context.monitor().warning(&format!("The snapshot {id} is not one of {wanted}: it is of {source:?}"));
}

/// Writes a file, or an archive of a directory, to standard output.
fn to_stdout(context: &Context, args: &Args) -> Result<Outcome> {
    let is_refused = args.overwrite.is_some() || args.delete || args.ownership || args.xattrs || args.dry_run;
    if is_refused || context.json() {
        return Err(Error::Invalid(
            "--target - cannot be combined with --overwrite, --delete, --ownership, --xattrs, --dry-run or --json"
                .to_owned(),
        ));
    }
    if args.wanted.wanted().is_some() {
        return Err(Error::Invalid(
            "--model, --run and --experiment can be restored only into a directory, or into MLflow".to_owned(),
        ));
    }
    let path = path_of(args)?.unwrap_or_default();
    let (repository, Answer { snapshot, about }) = find_snapshot(context, args)?;
    context.monitor().note(&about.line());
    let options = ArchiveOptions {
        path: path.into_bytes(),
        strips_path: args.below.is_some(),
        patterns: args.patterns.resolve()?,
    };
    // What patterns select is an archive, however much it is.
    let file = if args.patterns.is_given() { None } else { dump::sole_file(&repository, &snapshot, &options.path)? };
    match file {
        Some(file) => cat::write(context, &repository, &snapshot, &file),
        None => dump_command::write(context, &repository, &snapshot, &options),
    }
}

fn as_files(context: &Context, target: PathBuf, args: Args) -> Result<Outcome> {
    let overwrite = args.overwrite.unwrap_or(OverwriteArg::Always);
    if args.delete {
        args.refuse_patterns("with --delete: what they leave out would look deleted")?;
    }
    let into_bucket = bucket_target(context, &target, &args)?;
    let (repository, Answer { snapshot, about }) = find_snapshot(context, &args)?;
    let (wanted, path) = (args.wanted.wanted(), path_of(&args)?);
    let options = RestoreOptions {
        target,
        path,
        strips_path: args.below.is_some(),
        patterns: args.patterns.resolve()?,
        overwrite: match overwrite {
            OverwriteArg::Always => Overwrite::Always,
            OverwriteArg::IfChanged => Overwrite::IfChanged,
            OverwriteArg::IfNewer => Overwrite::IfNewer,
            OverwriteArg::Never => Overwrite::Never,
        },
        removals: Removals::default(),
        own_places: context.own_places(),
        ownership: args.ownership,
        xattrs: args.xattrs,
        dry_run: args.dry_run,
        ignore_free_space: args.ignore_free_space,
    };
    let hears = context.hears();
    let mut removals = None;
    let summary = match into_bucket {
        None => match &wanted {
            None if args.delete => {
                let ask = |plan: &Removals| confirm::ask(context, about.over(removal_lines(plan)).lines());
                let consent = confirm::consent(args.dry_run, args.into.yes, &ask);
                let done = restore_files::run_removing(&repository, &snapshot, &options, &consent, &hears)?;
                removals = Some(removal_document(&done.removals));
                done.summary
            }
            None => restore::run(&repository, &snapshot, &options, &hears)?,
            Some(_) if args.delete => {
                return Err(Error::Invalid(
                    "--delete cannot be combined with --model, --run or --experiment".to_owned(),
                ));
            }
            Some(wanted) => {
                let done = deployment::restore_files(&repository, &snapshot, wanted, &options, &hears);
                if matches!(&done, Ok(RestoreSummary { problems: 1.., .. }) | Err(Error::NotFound(_))) {
                    offer_whole(context, &repository, &snapshot, wanted);
                }
                done?
            }
        },
        Some(_) if wanted.is_some() => {
            return Err(Error::Invalid(
                "--model, --run and --experiment can be restored only into a directory, or into MLflow".to_owned(),
            ));
        }
        Some((target, how)) => {
            let path = options.path.clone().unwrap_or_default();
            let how = BucketRestoreOptions { patterns: Some(&options.patterns), ..how };
            let into = IntoBucket { target: &target, options: how };
            restore::bucket::run_snapshot(&repository, &snapshot, path.as_bytes(), into, &hears)?
        }
    };
    // Of one model or run the catalogue knows whether its files are all there, however much else the backup lacks.
    let is_lacking = wanted.is_none() && snapshot.is_incomplete();
    let code = if summary.problems > 0 || is_lacking { exit::INCOMPLETE } else { exit::COMPLETE };
    let document = json!({
        "snapshot": snapshot.id, "about": about, "warnings": about.warnings(), "dry_run": args.dry_run,
        "removals": removals, "summary": summary,
    });
    let mut text = about.over(lines(&snapshot.id.short(), overwrite, args.dry_run, &summary));
    text.extend(is_lacking.then(|| "INCOMPLETE: what the backup could not read is not in the snapshot".to_owned()));
    Ok(Outcome::new(code, document, text))
}

/// Names the last snapshot that has all of what another one lacks. What keeps us from finding it is no news: the restore has
/// its own error then, or its own problems.
fn offer_whole(context: &Context, repository: &Arc<Repository>, snapshot: &Snapshot, wanted: &DeploymentPart) {
    let reader = ChunkReader::new(Arc::clone(repository));
    if let Ok(Some(whole)) = deployment::last_whole(&reader, snapshot, wanted, &context.hears()) {
        let (id, made) = (whole.id.short(), output::format_time(&whole.made()));
        context.monitor().warning(&format!("The last snapshot before it that has all of it is {id} of {made}"));
    }
}

/// Opens the bucket, if the target is a part of one.
fn bucket_target(
    context: &Context,
    target: &Path,
    args: &Args,
) -> Result<Option<(BucketTarget, BucketRestoreOptions<'static>)>> {
    let Some(text) = target.to_str().filter(|text| BucketLocation::is_meant(text)) else { return Ok(None) };
    let replace = match args.overwrite {
        None => false,
        Some(OverwriteArg::Always) => true,
        Some(_) => return Err(Error::Invalid("With a bucket as target, --overwrite can only be `always`".to_owned())),
    };
    if args.delete || args.ownership || args.xattrs {
        let reason = "--delete, --ownership and --xattrs work only with a directory as target";
        return Err(Error::Invalid(reason.to_owned()));
    }
    let target = BucketTarget::connect(&text.parse()?, &context.backend_options()?)?;
    let strips_path = args.below.is_some();
    Ok(Some((target, BucketRestoreOptions { replace, dry_run: args.dry_run, strips_path, patterns: None })))
}

/// Says what will be removed.
fn removal_lines(plan: &Removals) -> Vec<String> {
    let RemovalCounts { files, directories, bytes } = plan.counts();
    let (files, directories) = (count(files, "file"), count(directories, "directory"));
    let bytes = format_bytes(bytes);
    let mut lines =
        vec![format!("{files} ({bytes}) and {directories} that the snapshot does not have will be deleted:")];
    lines.extend(plan.paths().take(REMOVALS_NAMED_MAX).map(|path| format!("  {}", printable(&path.to_string_lossy()))));
    if plan.paths().nth(REMOVALS_NAMED_MAX).is_some() {
        lines.push("  and more: --dry-run names all".to_owned());
    }
    lines
}

fn removal_document(plan: &Removals) -> Value {
    let RemovalCounts { files, directories, bytes } = plan.counts();
    json!({ "files": files, "directories": directories, "bytes": bytes, "reserves": plan.reserves })
}

fn lines(snapshot: &str, overwrite: OverwriteArg, dry_run: bool, summary: &RestoreSummary) -> Vec<String> {
    let (verb, lead) = if dry_run { ("would be written", "Dry run of") } else { ("written", "Restored") };
    let mut lines = vec![format!(
        "{lead} snapshot {snapshot}: {} {verb} ({}), {} unchanged, {} kept, {} removed, {}, {}",
        count(summary.files_written, "file"),
        format_bytes(summary.bytes_written),
        summary.files_unchanged,
        summary.files_kept,
        summary.removed,
        count(summary.directories, "directory"),
        count(summary.links, "link")
    )];
    match (summary.problems, overwrite) {
        (1.., _) => lines.push(format!("INCOMPLETE: {}", count(summary.problems, "problem"))),
        _ if dry_run => {}
        (0, OverwriteArg::Always) => lines.push("Every file was verified against its digest".to_owned()),
        (0, _) => lines.push(
            "Every file that was written was verified against its digest; files that were left alone were not read"
                .to_owned(),
        ),
    }
    lines
}
