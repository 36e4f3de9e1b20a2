//! `mlvault restore` into MLflow's own storage: a whole deployment, or one experiment, run or model of it.

use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde_json::json;

use mlvault::database::OnConflict;
use mlvault::error::{Error, Result};
use mlvault::repository::Repository;
use mlvault::repository::snapshots::Snapshot;
use mlvault::restore::deployment::{self, DeploymentRestore, MergeOptions, MergeSummary, Options, Plan, Wanted};
use mlvault::source::deployment::Deployment;
use mlvault::units::format_bytes;

use crate::cli::context::Context;
use crate::cli::selection::split_root;
use crate::cli::{exit, output};

/// How to restore into MLflow's storage.
#[derive(Args)]
#[command(next_help_heading = "Restore of a deployment")]
pub struct DeploymentRestoreArgs {
    /// Only this component: database, or artifacts or one of them by its whole name; may be given several times
    #[arg(long = "component", value_name = "NAME")]
    pub components: Vec<String>,
    /// Artifacts have moved: what begins with OLD in the database will begin with NEW; may be given several times
    #[arg(long = "map-root", value_name = "OLD=NEW")]
    map_roots: Vec<String>,
    /// Go on with a restore that broke off: artifacts that are there are compared and completed
    #[arg(long)]
    resume: bool,
    /// The MLflow release that will be started on the result: one that is too old is refused
    #[arg(long, value_name = "VERSION")]
    mlflow_version: Option<String>,
    /// With --experiment, --run or --model: what to do with rows that are there and differ
    #[arg(long, value_enum, default_value = "refuse")]
    on_conflict: OnConflictArg,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum OnConflictArg {
    /// Change nothing at all
    Refuse,
    /// Leave them, and insert the others
    Keep,
    /// Put the snapshot's in their place
    Replace,
}

impl DeploymentRestoreArgs {
    fn map_roots(&self) -> Result<Vec<(String, String)>> {
        self.map_roots.iter().map(|text| split_root(text)).collect()
    }
}

/// Restores a whole deployment, or some components of it.
pub fn whole(
    context: &Context,
    args: &DeploymentRestoreArgs,
    target: &Deployment,
    (repository, snapshot): (&Arc<Repository>, &Snapshot),
    dry_run: bool,
) -> Result<exit::Code> {
    let monitor = context.monitor();
    let restore = DeploymentRestore::new(repository, snapshot, (monitor.as_ref(), context.cancel()))?;
    let options = Options {
        map_roots: args.map_roots()?,
        components: args.components.clone(),
        resume: args.resume,
        mlflow_version: args.mlflow_version.clone(),
    };
    let plan = restore.plan(target, &options)?;
    context.finish();
    if dry_run {
        return print_plan(context, snapshot, &plan).map(|()| exit::COMPLETE);
    }
    confirm(context, args.yes, &plan_lines(snapshot, &plan))?;
    let done = restore.execute(&plan, &options)?;
    context.finish();
    if context.json() {
        output::print_json(&json!({ "snapshot": snapshot.id, "plan": plan, "summary": done }))?;
    } else {
        let databases: Vec<_> = done.databases.iter().map(|store| store.name()).collect();
        output::print_line(&format!(
            "Restored snapshot {}: {} files ({}), {} unchanged; databases: {} with {} rows",
            snapshot.id.short(),
            done.artifacts.files_written,
            format_bytes(done.artifacts.bytes_written),
            done.artifacts.files_unchanged,
            if databases.is_empty() { "none".to_owned() } else { databases.join(", ") },
            done.rows
        ))?;
        if done.artifacts.problems > 0 {
            output::print_line(&format!("INCOMPLETE: {} problems", done.artifacts.problems))?;
        } else {
            output::print_line("Every file was verified against its digest, every table against what was recorded")?;
        }
    }
    Ok(if done.artifacts.problems > 0 { exit::INCOMPLETE } else { exit::COMPLETE })
}

/// Merges one experiment, run or model into a deployment in use.
pub fn part(
    context: &Context,
    args: &DeploymentRestoreArgs,
    target: &Deployment,
    (repository, snapshot): (&Arc<Repository>, &Snapshot),
    wanted: &Wanted,
    dry_run: bool,
) -> Result<exit::Code> {
    let monitor = context.monitor();
    let restore = DeploymentRestore::new(repository, snapshot, (monitor.as_ref(), context.cancel()))?;
    let on_conflict = match args.on_conflict {
        OnConflictArg::Refuse => OnConflict::Refuse,
        OnConflictArg::Keep => OnConflict::Keep,
        OnConflictArg::Replace => OnConflict::Replace,
    };
    // Only who is asked has to see first what would be done: looking reads the whole dump.
    let looks_first = dry_run || !args.yes;
    let options = MergeOptions { on_conflict, map_roots: args.map_roots()?, dry_run: looks_first };
    let mut summary = deployment::merge(&restore, target, wanted, &options)?;
    context.finish();
    let is_refused = on_conflict == OnConflict::Refuse && summary.conflicts() > 0;
    if looks_first && !dry_run && !is_refused {
        confirm(context, args.yes, &merge_lines(snapshot, &summary))?;
        summary = deployment::merge(&restore, target, wanted, &MergeOptions { dry_run: false, ..options })?;
        context.finish();
    }
    print_merge(context, snapshot, &summary)?;
    // Rows may have come in between looking and doing.
    if on_conflict == OnConflict::Refuse && summary.conflicts() > 0 {
        return Err(Error::Refused(format!(
            "{} rows are there and differ, so nothing was changed; --on-conflict keep or replace says what to do with them",
            summary.conflicts()
        )));
    }
    Ok(exit::COMPLETE)
}

fn plan_lines(snapshot: &Snapshot, plan: &Plan) -> Vec<String> {
    let mut lines = vec![format!("Snapshot {} will be restored:", snapshot.id.short())];
    for artifact in &plan.artifacts {
        lines.push(format!("  artifacts of {} into {}", artifact.root, artifact.to));
    }
    for database in &plan.databases {
        let (name, to) = (database.store.name(), &database.to);
        lines.push(format!("  {name} database into {to}: {} tables, {} rows", database.tables, database.rows));
        for column in database.rewrites.iter().filter(|column| column.count.rows > 0) {
            lines.push(format!("    {}.{}: {} locations move", column.table, column.column, column.count.rows));
        }
    }
    lines.extend(plan.warnings.iter().map(|warning| format!("  Warning: {warning}")));
    lines
}

fn print_plan(context: &Context, snapshot: &Snapshot, plan: &Plan) -> Result<()> {
    if context.json() {
        return output::print_json(&json!({ "snapshot": snapshot.id, "dry_run": true, "plan": plan }));
    }
    plan_lines(snapshot, plan).iter().try_for_each(|line| output::print_line(line))?;
    output::print_line("Dry run: nothing was written")
}

fn merge_lines(snapshot: &Snapshot, summary: &MergeSummary) -> Vec<String> {
    let mut lines = vec![format!("From snapshot {}:", snapshot.id.short())];
    for table in &summary.tables {
        let mut line = format!("  {}: {} new, {} the same", table.table, table.inserted, table.same);
        if table.kept > 0 {
            line.push_str(&format!(", {} differ and stay", table.kept));
        }
        if table.conflicts > 0 {
            line.push_str(&format!(", {} CONFLICTS: {}", table.conflicts, table.examples.join("; ")));
        }
        lines.push(line);
    }
    for files in &summary.files {
        let note = if files.is_known { " (those that are there stay)" } else { "" };
        lines.push(format!(
            "  files of {}: {} ({}) into {}{note}",
            files.id,
            files.files,
            format_bytes(files.bytes),
            files.to
        ));
    }
    lines
}

fn print_merge(context: &Context, snapshot: &Snapshot, summary: &MergeSummary) -> Result<()> {
    if context.json() {
        return output::print_json(&json!({ "snapshot": snapshot.id, "summary": summary }));
    }
    merge_lines(snapshot, summary).iter().try_for_each(|line| output::print_line(line))
}

/// Shows what will be done, and asks whether it is meant.
pub fn confirm(context: &Context, yes: bool, lines: &[String]) -> Result<()> {
    if yes {
        return Ok(());
    }
    if context.json() || !io::stdin().is_terminal() {
        return Err(Error::Invalid("Nobody can be asked whether this is meant: say --yes".to_owned()));
    }
    let fault = |source| Error::target("write", "the terminal", source);
    let mut out = io::stderr().lock();
    for line in lines {
        writeln!(out, "{line}").map_err(fault)?;
    }
    write!(out, "Continue? (yes/no): ").and_then(|()| out.flush()).map_err(fault)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(fault)?;
    if answer.trim() == "yes" {
        Ok(())
    } else {
        Err(Error::Refused("Nothing was changed: the answer was not yes".to_owned()))
    }
}
