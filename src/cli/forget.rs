//! `mlvault forget`

use clap::{Args as Group, Parser};
use serde_json::{Value, json};

use mlvault::error::{Error, Result};
use mlvault::format::snapshot::SourceRecord;
use mlvault::procedures::forget_and_prune::{self, ForgetAndPruneOptions, ForgottenAndPruned};
use mlvault::repository::naming::Named;
use mlvault::retention::decide::Decision;
use mlvault::retention::policy::PolicySpec;
use mlvault::retention::{self, ForgetChoice, ForgetPlan};
use mlvault::units::count;

use crate::cli::context::Context;
use crate::cli::outcome::{Outcome, Text};
use crate::cli::progress::printable;
use crate::cli::selection::SourceArgs;
use crate::cli::{exit, output, prune, values};

/// Forget snapshots, by policy or by name
///
/// A policy applies to each source and key separately, and keeps the first snapshot of each hour, day, week, month or year.
/// Snapshots with a hold, and the newest complete snapshot of each source and key, are always kept. Forgotten snapshots go to the
/// trash: `mlvault undelete` brings them back until `mlvault prune` removes them. Needs a maintainer key.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault forget --keep-daily 14 --keep-weekly 8 --dry-run
  mlvault forget --deployment production --policy production --prune
  mlvault forget 01a20e5c2251")]
pub struct Args {
    /// Snapshots to forget, instead of applying a policy
    #[arg(value_name = "SNAPSHOT", conflicts_with_all = ["policy", "keep"])]
    snapshots: Vec<String>,
    /// Apply this policy: one of the configuration file, or production, staging or development
    #[arg(long, value_name = "NAME", conflicts_with = "keep")]
    policy: Option<String>,
    #[command(flatten)]
    keep: KeepArgs,
    /// Only look at snapshots of this deployment; its `retention` setting applies if you give no policy
    #[arg(long, env = "MLVAULT_DEPLOYMENT", value_name = "NAME")]
    deployment: Option<String>,
    /// Only look at snapshots of this source, as listed in the SOURCE column
    #[arg(long, value_name = "SOURCE")]
    group: Option<String>,
    /// Time zone in which days begin, such as Europe/Berlin
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    time_zone: String,
    /// Refuse to forget more than this share of the snapshots that one key made of one source
    #[arg(long, value_name = "PERCENT", default_value = "50%", value_parser = values::share)]
    max_forget: u8,
    /// Forget even more than --max-forget, or the newest complete snapshot if you name it
    #[arg(long)]
    force: bool,
    /// Show what would be forgotten and why; write nothing
    #[arg(long, visible_alias = "explain")]
    dry_run: bool,
    /// Run `mlvault prune` afterwards; forgotten snapshots then cannot be brought back
    #[arg(long, conflicts_with = "dry_run")]
    prune: bool,
}

#[derive(Group)]
#[group(id = "keep", multiple = true)]
struct KeepArgs {
    /// Keep the newest N snapshots
    #[arg(long, value_name = "N")]
    keep_last: Option<u32>,
    /// Keep the first snapshot of each of the last N hours that have one
    #[arg(long, value_name = "N")]
    keep_hourly: Option<u32>,
    /// The same for the last N days
    #[arg(long, value_name = "N")]
    keep_daily: Option<u32>,
    /// The same for the last N weeks
    #[arg(long, value_name = "N")]
    keep_weekly: Option<u32>,
    /// The same for the last N months
    #[arg(long, value_name = "N")]
    keep_monthly: Option<u32>,
    /// The same for the last N years
    #[arg(long, value_name = "N")]
    keep_yearly: Option<u32>,
    /// Keep all snapshots that are not older than AGE, such as 90d, 13w, 6mo or 1y
    #[arg(long, value_name = "AGE")]
    keep_within: Option<String>,
    /// Keep the first snapshot of each hour that is not older than AGE
    #[arg(long, value_name = "AGE")]
    keep_within_hourly: Option<String>,
    /// The same for days
    #[arg(long, value_name = "AGE")]
    keep_within_daily: Option<String>,
    /// The same for weeks
    #[arg(long, value_name = "AGE")]
    keep_within_weekly: Option<String>,
    /// The same for months
    #[arg(long, value_name = "AGE")]
    keep_within_monthly: Option<String>,
    /// The same for years
    #[arg(long, value_name = "AGE")]
    keep_within_yearly: Option<String>,
    /// Keep all snapshots with this tag; can be given several times
    #[arg(long = "keep-tag", value_name = "TAG")]
    keep_tags: Vec<String>,
    /// Keep snapshots tagged pre-upgrade until `mlvault upgrade-done` releases them
    #[arg(long)]
    keep_pre_upgrade: bool,
}

impl From<KeepArgs> for PolicySpec {
    fn from(args: KeepArgs) -> Self {
        Self {
            keep_last: args.keep_last,
            keep_hourly: args.keep_hourly,
            keep_daily: args.keep_daily,
            keep_weekly: args.keep_weekly,
            keep_monthly: args.keep_monthly,
            keep_yearly: args.keep_yearly,
            keep_within: args.keep_within,
            keep_within_hourly: args.keep_within_hourly,
            keep_within_daily: args.keep_within_daily,
            keep_within_weekly: args.keep_within_weekly,
            keep_within_monthly: args.keep_within_monthly,
            keep_within_yearly: args.keep_within_yearly,
            keep_tags: args.keep_tags,
            keep_pre_upgrade: args.keep_pre_upgrade,
        }
    }
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    let (dry_run, force, max_forget, prunes) = (args.dry_run, args.force, args.max_forget, args.prune);
    let what = what(context, args)?;
    let repository = context.repository()?;
    // A prune says it too.
    let clock_off = if prunes { None } else { repository.tell_clock_off(&context.hears()) };
    let plan = retention::plan(&repository, &what, max_forget)?;
    plan.unreadable.iter().for_each(|line| context.monitor().problem("snapshots", line));
    let mut text = Text::from(plan_rows(&plan));
    let options = ForgetAndPruneOptions { force, prune: prunes.then(mlvault::prune::PruneOptions::default) };
    let done = match dry_run {
        true => Ok(ForgottenAndPruned::default()),
        false => forget_and_prune::run(&repository, &plan, &options, &context.hears()),
    };
    let done = match done {
        Err(refused @ Error::Refused(_)) => {
            context.monitor().note("Look at the plan with --dry-run, or forget all of them with --force");
            return Ok(Outcome::failed(
                refused,
                document(&plan, false, &ForgottenAndPruned::default(), clock_off),
                text,
            ));
        }
        done => done?,
    };
    text.extend(result_lines(&plan, dry_run, done.forgotten));
    text.extend(done.pruned.iter().flat_map(|report| prune::text(report, false)));
    let code = done.pruned.as_ref().map_or(exit::COMPLETE, prune::code);
    let clock_off = clock_off.or(done.pruned.as_ref().and_then(|report| report.clock_off_seconds));
    Ok(Outcome::new(code, document(&plan, dry_run, &done, clock_off), text))
}

/// Returns the result for programs. A refused command has one too: what was planned, and the objections to it.
fn document(plan: &ForgetPlan, dry_run: bool, done: &ForgottenAndPruned, clock_off_seconds: Option<i64>) -> Value {
    json!({
        "dry_run": dry_run, "forgotten": done.forgotten, "plan": plan, "prune": done.pruned,
        "clock_off_seconds": clock_off_seconds,
    })
}

fn what(context: &Context, args: Args) -> Result<ForgetChoice> {
    if !args.snapshots.is_empty() {
        let source = SourceArgs { deployment: args.deployment, group: args.group };
        return Ok(ForgetChoice::Snapshots(Named { names: args.snapshots, scope: source.scope() }));
    }
    let zone = values::time_zone(&args.time_zone)?;
    let given = PolicySpec::from(args.keep);
    let name = match args.policy {
        None if given == PolicySpec::default() => args.deployment.as_ref().and_then(|name| retention_of(context, name)),
        name => name,
    };
    let (spec, name) = match name {
        Some(name) => (context.file().policy(&name)?, name),
        None => (given, "of the command line".to_owned()),
    };
    let group = args.group.or(args.deployment.map(|name| SourceRecord::Deployment { name }.group()));
    Ok(ForgetChoice::Policy { policy: spec.policy()?, name, zone, group })
}

/// Returns the name of a deployment's policy.
fn retention_of(context: &Context, deployment: &str) -> Option<String> {
    context.file().deployment.get(deployment).and_then(|section| section.retention.clone())
}

fn plan_rows(plan: &ForgetPlan) -> Vec<Vec<String>> {
    let mut rows = vec![["", "ID", "TIME", "STATE", "BY", "TAGS", "REASON", "SOURCE"].map(str::to_owned).to_vec()];
    rows.extend(plan.decisions.iter().map(row));
    rows
}

fn row(decision: &Decision) -> Vec<String> {
    vec![
        if decision.keep { "keep" } else { "FORGET" }.to_owned(),
        decision.id.short(),
        output::format_word(&decision.started, decision.time_doubtful),
        if decision.is_complete { "complete" } else { "INCOMPLETE" }.to_owned(),
        printable(&decision.by),
        printable(&decision.tags.join(",")),
        printable(&decision.reasons.join(", ")),
        printable(&decision.group),
    ]
}

fn result_lines(plan: &ForgetPlan, dry_run: bool, forgotten: u64) -> Vec<String> {
    let all = count(plan.decisions.len(), "snapshot");
    if !dry_run {
        return vec![format!("{forgotten} of {all} forgotten; `mlvault prune` frees what only they need")];
    }
    let refusal = |objection: &String| format!("Without --force this would be refused: {objection}");
    let mut lines: Vec<String> = plan.objections.iter().map(refusal).collect();
    lines.push(format!("Dry run: {} of {all} would be forgotten", plan.forgotten().count()));
    lines
}
