//! `mlvault forget`

use clap::{Args as Group, Parser};
use jiff::tz::TimeZone;
use serde_json::json;

use mlvault::error::{Error, Result};
use mlvault::format::snapshot::SourceRecord;
use mlvault::retention::decide::Decision;
use mlvault::retention::policy::PolicySpec;
use mlvault::retention::{self, Plan, What};

use crate::cli::context::Context;
use crate::cli::progress::printable;
use crate::cli::{exit, output, prune};

/// Forget snapshots that a policy does not keep, or those named
///
/// Of each hour, day, week, month or year the first snapshot is kept. Policies count within a source. What is held, and
/// the newest complete snapshot of each source, always stays. What is forgotten goes to the trash: `mlvault undelete`
/// brings it back until `mlvault prune` has removed it. Needs a maintainer's key.
#[derive(Parser)]
pub struct Args {
    /// Snapshots to forget, instead of a policy
    #[arg(value_name = "SNAPSHOT", conflicts_with_all = ["policy", "keep", "group"])]
    snapshots: Vec<String>,
    /// A policy of the configuration file, or production, staging or development
    #[arg(long, value_name = "NAME", conflicts_with = "keep")]
    policy: Option<String>,
    #[command(flatten)]
    keep: KeepArgs,
    /// Only look at snapshots of this deployment; without rules, its `retention` of the configuration file counts
    #[arg(long, env = "MLVAULT_DEPLOYMENT", value_name = "NAME")]
    deployment: Option<String>,
    /// Only look at snapshots of this source, as the table names it
    #[arg(long, value_name = "SOURCE", conflicts_with = "deployment")]
    group: Option<String>,
    /// Where days begin, as Europe/Berlin
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    time_zone: String,
    /// Refuse to forget a larger share of the snapshots looked at
    #[arg(long, value_name = "PERCENT", default_value = "50%", value_parser = parse_percent)]
    max_forget: u8,
    /// Forget also more than that, or the newest complete snapshot if it is named
    #[arg(long)]
    force: bool,
    /// Only tell what would be done, and why
    #[arg(long, visible_alias = "explain")]
    dry_run: bool,
    /// Then reclaim what no snapshot needs, as `mlvault prune` does: what was forgotten cannot be brought back
    #[arg(long, conflicts_with = "dry_run")]
    prune: bool,
}

#[derive(Group)]
#[group(id = "keep", multiple = true)]
struct KeepArgs {
    /// Keep the newest N
    #[arg(long, value_name = "N")]
    keep_last: Option<u32>,
    /// Keep the first of each of the last N hours that have any
    #[arg(long, value_name = "N")]
    keep_hourly: Option<u32>,
    /// … of each of the last N days
    #[arg(long, value_name = "N")]
    keep_daily: Option<u32>,
    /// … of each of the last N weeks
    #[arg(long, value_name = "N")]
    keep_weekly: Option<u32>,
    /// … of each of the last N months
    #[arg(long, value_name = "N")]
    keep_monthly: Option<u32>,
    /// … of each of the last N years
    #[arg(long, value_name = "N")]
    keep_yearly: Option<u32>,
    /// Keep all that are no older than AGE, as 90d, 13w, 6mo, 1y
    #[arg(long, value_name = "AGE")]
    keep_within: Option<String>,
    /// Keep the first of each hour within AGE
    #[arg(long, value_name = "AGE")]
    keep_within_hourly: Option<String>,
    /// … of each day within AGE
    #[arg(long, value_name = "AGE")]
    keep_within_daily: Option<String>,
    /// … of each week within AGE
    #[arg(long, value_name = "AGE")]
    keep_within_weekly: Option<String>,
    /// … of each month within AGE
    #[arg(long, value_name = "AGE")]
    keep_within_monthly: Option<String>,
    /// … of each year within AGE
    #[arg(long, value_name = "AGE")]
    keep_within_yearly: Option<String>,
    /// Keep all with this tag; may be given several times
    #[arg(long = "keep-tag", value_name = "TAG")]
    keep_tags: Vec<String>,
    /// Keep those tagged pre-upgrade until an upgrade after a later one went well
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

fn parse_percent(text: &str) -> std::result::Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim().parse::<u8>();
    number.ok().filter(|percent| *percent <= 100).ok_or_else(|| "it is not a percentage from 0% to 100%".to_owned())
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<exit::Code> {
    let (dry_run, force, max_forget, prunes) = (args.dry_run, args.force, args.max_forget, args.prune);
    let what = what(context, args)?;
    let repository = context.repository()?;
    let plan = retention::plan(&repository, &what, max_forget)?;
    context.finish();
    if !context.json() {
        print_plan(&plan)?;
    }
    if !dry_run && !force && !plan.objections.is_empty() {
        context.monitor().note("Look at it with --dry-run; --force forgets them all the same");
    }
    let forgotten = if dry_run { 0 } else { retention::execute(&repository, &plan, force, context.cancel())? };
    let pruned = if prunes { Some(prune::with_defaults(context, &repository)?) } else { None };
    if context.json() {
        output::print_json(&json!({ "dry_run": dry_run, "forgotten": forgotten, "plan": plan, "prune": pruned }))?;
    } else {
        print_result(&plan, dry_run, forgotten)?;
        pruned.iter().try_for_each(|report| prune::print(report, false))?;
    }
    Ok(pruned.as_ref().map_or(exit::COMPLETE, prune::code))
}

fn what(context: &Context, args: Args) -> Result<What> {
    if !args.snapshots.is_empty() {
        return Ok(What::Snapshots(args.snapshots));
    }
    let zone = TimeZone::get(&args.time_zone)
        .map_err(|error| Error::Invalid(format!("{:?} is not a known time zone: {error}", args.time_zone)))?;
    let given = PolicySpec::from(args.keep);
    let name = match args.policy {
        None if given == PolicySpec::default() => args.deployment.as_ref().and_then(|name| retention_of(context, name)),
        name => name,
    };
    let (spec, name) = match name {
        Some(name) => (context.file().policy(&name)?, name),
        None => (given, "of the command line".to_owned()),
    };
    let group = args.deployment.map(|name| SourceRecord::Deployment { name }.group()).or(args.group);
    Ok(What::Policy { policy: spec.policy()?, name, zone, group })
}

/// Returns the name of a deployment's policy.
fn retention_of(context: &Context, deployment: &str) -> Option<String> {
    context.file().deployment.get(deployment).and_then(|section| section.retention.clone())
}

fn print_plan(plan: &Plan) -> Result<()> {
    let mut rows = vec![["", "ID", "TIME", "STATE", "TAGS", "REASON", "SOURCE"].map(str::to_owned).to_vec()];
    rows.extend(plan.decisions.iter().map(row));
    output::print_table(&rows)
}

fn row(decision: &Decision) -> Vec<String> {
    vec![
        if decision.keep { "keep" } else { "FORGET" }.to_owned(),
        decision.id.short(),
        output::format_time(&decision.started),
        if decision.is_complete { "complete" } else { "INCOMPLETE" }.to_owned(),
        printable(&decision.tags.join(",")),
        printable(&decision.reasons.join(", ")),
        printable(&decision.group),
    ]
}

fn print_result(plan: &Plan, dry_run: bool, forgotten: u64) -> Result<()> {
    if !dry_run {
        return output::print_line(&format!(
            "{forgotten} of {} snapshots forgotten; `mlvault prune` frees what only they need",
            plan.decisions.len()
        ));
    }
    for objection in &plan.objections {
        output::print_line(&format!("It would be refused without --force: {objection}"))?;
    }
    let count = plan.forgotten().count();
    output::print_line(&format!("Dry run: {count} of {} snapshots would be forgotten", plan.decisions.len()))
}
