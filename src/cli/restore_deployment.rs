//! `mlvault restore` into MLflow's own storage: a whole deployment, or one experiment, run or model of it.

use std::time::Instant;

use clap::{Args, ValueEnum};
use serde_json::json;

use mlvault::config::pairs;
use mlvault::database::OnConflict;
use mlvault::error::{Error, Result};
use mlvault::format::evidence::DrillTime;
use mlvault::id::StatementId;
use mlvault::procedures::restore_deployment::{self, RestorePartOptions, RestoredPart, RestoredWhole, judged_times};
use mlvault::procedures::served::Listed;
use mlvault::repository::snapshots::Snapshot;
use mlvault::restore::deployment::{
    DeploymentPart, DeploymentRestoreOptions, DeploymentRestorePlan, DeploymentRestored, ExperimentMove, Lack,
    MergeSummary,
};
use mlvault::units::{count, format_bytes};

use crate::cli::k8s::{InCluster, resumed_line};
use crate::cli::outcome::Outcome;
use crate::cli::restore_request::Request;
use crate::cli::{confirm, exit};

/// How to restore into MLflow's storage.
#[derive(Args)]
#[command(next_help_heading = "Restore of a deployment")]
pub struct DeploymentRestoreArgs {
    /// Restore only this component: database, artifacts, or the full name of one artifact component; can be given several times
    #[arg(long = "component", value_name = "NAME")]
    pub components: Vec<String>,
    /// Artifacts have moved: rewrite locations that begin with OLD to begin with NEW; can be given several times;
    /// write \= for a = in OLD
    #[arg(long = "map-root", value_name = "OLD=NEW")]
    map_roots: Vec<String>,
    /// Continue an interrupted restore: compare artifacts that are already there, and restore the rest
    #[arg(long)]
    resume: bool,
    /// The MLflow version that will run on the restored database; a version that is too old for it is refused
    #[arg(long, value_name = "VERSION")]
    mlflow_version: Option<String>,
    /// Run a statement of a database dump that MLflow's schema does not have, named by the id that the refusal prints; can
    /// be given several times
    #[arg(long = "allow-statement", value_name = "ID")]
    allowed_statements: Vec<StatementId>,
    /// Stop MLflow in its Kubernetes cluster before anything is written, and start it again as it was once all is restored [default
    /// workload: that of the configuration file]
    #[arg(long, value_name = "WORKLOAD", num_args = 0..=1, default_missing_value = "", require_equals = true)]
    quiesce: Option<String>,
    /// With --experiment, --run or --model: what to do with rows that exist and differ
    #[arg(long, value_enum, default_value = "refuse")]
    on_conflict: OnConflictArg,
    /// Do not ask for confirmation
    #[arg(long, short)]
    pub yes: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum OnConflictArg {
    /// Change nothing and fail
    Refuse,
    /// Keep the existing rows, and insert the others
    Keep,
    /// Replace the existing rows with those of the snapshot
    Replace,
}

impl DeploymentRestoreArgs {
    /// Returns whether MLflow is to be stopped meanwhile.
    pub fn quiesces(&self) -> bool {
        self.quiesce.is_some()
    }

    fn map_roots(&self) -> Result<Vec<(String, String)>> {
        self.map_roots.iter().map(|text| pairs::old_and_new(text)).collect()
    }
}

/// Restores a whole deployment, or some components of it.
pub fn whole(request: &Request<'_>, args: &DeploymentRestoreArgs) -> Result<Outcome> {
    let Request { context, snapshot, about, .. } = request;
    let options = DeploymentRestoreOptions {
        map_roots: args.map_roots()?,
        components: args.components.clone(),
        resume: args.resume,
        mlflow_version: args.mlflow_version.clone(),
        allowed_statements: args.allowed_statements.clone(),
        is_rehearsal: false,
    };
    let ask = |plan: &DeploymentRestorePlan| confirm::ask(context, about.over(plan_lines(plan)).lines());
    let consent = confirm::consent(request.dry_run, request.yes, &ask);
    let begun = Instant::now();
    let in_cluster = args.quiesce.as_ref().map(|named| InCluster::of(request, named)).transpose()?;
    let hears = context.hears();
    let served = in_cluster.as_ref().map(|it| it.served(&hears));
    context.count_down(&request.objectives);
    let whole = restore_deployment::whole(request.restore, request.target, &options, &consent, served.as_ref())?;
    let RestoredWhole { plan, mut done, resumed, listed } = whole;
    done.iter_mut().for_each(|done| done.times.add(DrillTime::WHOLE, begun));
    let warnings: Vec<&String> = about.warnings().iter().chain(&plan.warnings).collect();
    let Some(done) = done else {
        let document = json!({
            "snapshot": snapshot.id, "about": about, "warnings": warnings, "dry_run": true, "plan": plan,
        });
        return Ok(Outcome::complete(document, about.over(dry_run_lines(plan_lines(&plan)))));
    };
    let is_served = resumed.as_ref().is_none_or(|resumed| resumed.healthy != Some(false));
    let is_listed = listed.as_ref().is_none_or(|listed| listed.differences.is_empty());
    let is_whole = done.artifacts.problems == 0 && !plan.is_lacking && is_served && is_listed;
    let code = if is_whole { exit::COMPLETE } else { exit::INCOMPLETE };
    let document = json!({
        "snapshot": snapshot.id, "about": about, "warnings": warnings, "plan": plan, "summary": done, "resumed": resumed,
        "listed": listed, "times": judged_times(&done.times, &request.objectives),
    });
    let mut text = about.over(done_lines(snapshot, &done));
    text.extend(resumed.iter().map(resumed_line));
    text.extend(listed.iter().flat_map(listed_lines));
    text.extend(plan.is_lacking.then(|| "INCOMPLETE: the backup lacks something of what was restored".to_owned()));
    Ok(Outcome::new(code, document, text))
}

fn done_lines(snapshot: &Snapshot, done: &DeploymentRestored) -> Vec<String> {
    let databases: Vec<_> = done.databases.iter().map(|store| store.name()).collect();
    let restored = format!(
        "Restored snapshot {}: {} ({}), {} unchanged; databases: {} with {}",
        snapshot.id.short(),
        count(done.artifacts.files_written, "file"),
        format_bytes(done.artifacts.bytes_written),
        done.artifacts.files_unchanged,
        if databases.is_empty() { "none".to_owned() } else { databases.join(", ") },
        count(done.rows, "row")
    );
    let verdict = match done.artifacts.problems {
        0 => "Every file was verified against its digest, every table against what was recorded".to_owned(),
        problems => format!("INCOMPLETE: {}", count(problems, "problem")),
    };
    vec![restored, verdict]
}

fn listed_lines(listed: &Listed) -> Vec<String> {
    let Listed { counts, differences } = listed;
    let (experiments, runs) = (count(counts.experiments, "experiment"), count(counts.runs, "run"));
    let models = count(counts.models, "registered model");
    let verdict = if differences.is_empty() { ", as many as the snapshot has" } else { "" };
    let mut lines = vec![format!("MLflow lists {experiments}, {runs} and {models}{verdict}")];
    lines.extend(differences.iter().map(|difference| format!("NOT OK: {difference}")));
    lines
}

/// Merges one experiment, run or model into a deployment in use.
pub fn part(request: &Request<'_>, args: &DeploymentRestoreArgs, wanted: &DeploymentPart) -> Result<Outcome> {
    let Request { context, snapshot, about, .. } = request;
    let on_conflict = match args.on_conflict {
        OnConflictArg::Refuse => OnConflict::Refuse,
        OnConflictArg::Keep => OnConflict::Keep,
        OnConflictArg::Replace => OnConflict::Replace,
    };
    let options = RestorePartOptions { on_conflict, map_roots: args.map_roots()? };
    let ask = |summary: &MergeSummary| confirm::ask(context, about.over(merge_lines(summary)).lines());
    let consent = confirm::consent(request.dry_run, request.yes, &ask);
    let RestoredPart { summary, is_refused } =
        restore_deployment::part(request.restore, request.target, wanted, &options, &consent)?;
    let document = json!({ "snapshot": snapshot.id, "about": about, "warnings": about.warnings(), "summary": summary });
    let lines = about.over(merge_lines(&summary));
    if is_refused {
        let conflicts = count(summary.conflicts(), "row");
        let error = Error::Refused(format!(
            "The target already has {conflicts} with the same key and other values, so nothing was changed; \
             choose with --on-conflict keep or --on-conflict replace"
        ));
        return Ok(Outcome::failed(error, document, lines));
    }
    let code = if summary.lacking.is_empty() { exit::COMPLETE } else { exit::INCOMPLETE };
    Ok(Outcome::new(code, document, lines))
}

fn plan_lines(plan: &DeploymentRestorePlan) -> Vec<String> {
    let mut lines = vec!["It will be restored:".to_owned()];
    for artifact in &plan.artifacts {
        lines.push(format!("  artifacts of {} into {}", artifact.root, artifact.to));
    }
    for database in &plan.databases {
        let (name, to) = (database.store.name(), &database.to);
        let (tables, rows) = (count(database.tables, "table"), count(database.rows, "row"));
        lines.push(format!("  {name} database into {to}: {tables}, {rows}"));
        for extension in &database.skipped_extensions {
            lines.push(format!("    the extension {extension} is passed over: MLflow's tables do not need it"));
        }
        for column in database.rewrites.iter().filter(|column| column.count.rows > 0) {
            let locations = count(column.count.rows, "location");
            lines.push(format!("    {}.{}: {locations} will change", column.table, column.column));
        }
        for column in database.rewrites.iter().filter(|column| column.count.stay > 0) {
            let locations = count(column.count.stay, "location");
            lines.push(format!(
                "    {}.{}: {locations} below no root that moves will stay",
                column.table, column.column
            ));
        }
    }
    lines.extend(plan.warnings.iter().map(|warning| format!("  Warning: {warning}")));
    lines
}

/// Returns the lines of a plan that is not carried out.
pub fn dry_run_lines(mut plan: Vec<String>) -> Vec<String> {
    plan.push("Dry run: nothing was written".to_owned());
    plan
}

fn experiment_line(moved: &ExperimentMove) -> String {
    let ExperimentMove { name, id, new_id, id_taken_by, is_there } = moved;
    let taken =
        id_taken_by.as_ref().map(|other| format!(", which the experiment {other:?} has now")).unwrap_or_default();
    let what = if *is_there { "is there with the id" } else { "gets the new id" };
    format!("  experiment {name:?} had the id {id}{taken}: it {what} {new_id}, and rows are put into it")
}

fn merge_lines(summary: &MergeSummary) -> Vec<String> {
    let mut lines: Vec<String> = summary.experiments.iter().map(experiment_line).collect();
    for table in &summary.tables {
        let mut line = format!("  {}: {} new, {} the same", table.table, table.inserted, table.same);
        if table.kept > 0 {
            line.push_str(&format!(", {} differ and are kept", table.kept));
        }
        if table.conflicts > 0 {
            line.push_str(&format!(", {} CONFLICTS: {}", table.conflicts, table.examples.join("; ")));
        }
        lines.push(line);
    }
    for files in &summary.files {
        let note = if files.is_known { " (files that are already there are kept)" } else { "" };
        lines.push(format!(
            "  {}: {} ({}) into {}{note}",
            files.id,
            count(files.files, "file"),
            format_bytes(files.bytes),
            files.to
        ));
    }
    let lack = |lack: &Lack| format!("  INCOMPLETE: files of {} are not all there: {}", lack.id, lack.why);
    lines.extend(summary.lacking.iter().map(lack));
    lines
}
