//! `mlvault prune`

use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use jiff::{SignedDuration, Span, SpanRelativeTo};
use serde_json::json;

use mlvault::error::Result;
use mlvault::prune::{self, Limits, Options, Plan, Report, Sum};
use mlvault::repository::Repository;
use mlvault::units::{format_bytes, parse_bytes};

use crate::cli::context::Context;
use crate::cli::{exit, output};

/// Reclaim what no snapshot needs
///
/// Backups, restores, checks and other prunes may run meanwhile. Every chunk that is moved is verified. A prune that was
/// stopped is gone on with by the next one. Forgotten snapshots are removed for good. Needs a maintainer's key. Exit
/// code 3 if something has to wait for a session that runs, or cannot be read.
#[derive(Parser)]
pub struct Args {
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
    /// Unused bytes that may stay, as a share of the used ones
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = parse_percent)]
    max_unused: f64,
    /// Move no more than this, as 10G
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_repack: Option<u64>,
    /// Begin to move no further pack after this time, as 1h
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    max_duration: Option<SignedDuration>,
    /// Keep what was forgotten no longer ago than this, as 7d
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    keep_trash: SignedDuration,
    /// Declare sessions void that are older and have not ended: they cannot commit any more
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_duration)]
    session_age: SignedDuration,
    /// Wait for younger sessions for so long; if they still run, a later prune deletes what this one marked
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
    wait: SignedDuration,
}

fn parse_percent(text: &str) -> std::result::Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim().parse::<f64>();
    number.ok().filter(|percent| (0.0..=1e6).contains(percent)).ok_or_else(|| "it is not a percentage".to_owned())
}

/// Reads a size.
pub fn parse_size(text: &str) -> std::result::Result<u64, String> {
    parse_bytes(text).ok_or_else(|| "it is not a size such as 10G".to_owned())
}

/// Reads a duration that is not negative.
pub fn parse_duration(text: &str) -> std::result::Result<SignedDuration, String> {
    let duration = text.parse::<Span>().and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()));
    duration
        .ok()
        .filter(|duration| !duration.is_negative())
        .ok_or_else(|| "it is not a time such as 90s, 10m, 1h or 7d".to_owned())
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<exit::Code> {
    let repository = context.repository()?;
    let options = Options {
        dry_run: args.dry_run,
        limits: Limits {
            unused_percent_max: args.max_unused,
            repack_bytes_max: args.max_repack.unwrap_or(u64::MAX),
            duration_max: args.max_duration.map(|duration| duration.unsigned_abs()),
        },
        keep_trash: args.keep_trash,
        session_age_max: args.session_age.unsigned_abs(),
        wait_max: args.wait.unsigned_abs(),
        grace: GRACE.max(args.session_age.unsigned_abs()),
    };
    let report = prune::run(&repository, &options, &context.monitor(), context.cancel())?;
    context.finish();
    if context.json() {
        output::print_json(&json!({ "dry_run": args.dry_run, "report": report }))?;
    } else {
        print(&report, args.dry_run)?;
    }
    Ok(code(&report))
}

/// Prunes as the command does when it is told nothing, for those that have just forgotten something.
pub fn with_defaults(context: &Context, repository: &Arc<Repository>) -> Result<Report> {
    let report = prune::run(repository, &Options::default(), &context.monitor(), context.cancel())?;
    context.finish();
    Ok(report)
}

/// Returns the exit code that goes with a report.
pub fn code(report: &Report) -> exit::Code {
    if report.is_complete() { exit::COMPLETE } else { exit::INCOMPLETE }
}

/// Prints a report for people.
pub fn print(report: &Report, dry_run: bool) -> Result<()> {
    print_plan(&report.plan)?;
    if dry_run {
        output::print_line("Dry run: nothing was written")?;
    } else {
        print_result(report)?;
    }
    print_warnings(report)
}

/// Age of a tombstone before its packs go, where the backend ignores create-only writes.
const GRACE: Duration = Duration::from_secs(7 * 24 * 3600);

fn print_plan(plan: &Plan) -> Result<()> {
    let row = |what: &str, sum: &Sum| vec![what.to_owned(), sum.packs.to_string(), format_bytes(sum.bytes)];
    let mut rows = vec![["", "PACKS", "BYTES"].map(str::to_owned).to_vec()];
    rows.push(row("keep", &plan.kept));
    rows.push(row("delete", &plan.deleted));
    rows.push(row("move", &plan.repacked));
    rows.push(row("leave to sessions", &plan.left));
    output::print_table(&rows)?;
    output::print_line(&format!(
        "{} in packs now, about {} afterwards, of which {} unused; {} to be moved",
        format_bytes(plan.bytes_before),
        format_bytes(plan.bytes_after),
        format_bytes(plan.unused_bytes_after),
        format_bytes(plan.moved_bytes),
    ))
}

fn print_result(report: &Report) -> Result<()> {
    output::print_line(&format!(
        "{} packs deleted ({}), {} chunks moved ({}), {} index segments replaced by {}, {} forgotten snapshots removed",
        report.packs_deleted,
        format_bytes(report.bytes_deleted),
        report.chunks_moved,
        format_bytes(report.bytes_written),
        report.segments_removed,
        report.segments_written,
        report.snapshots_removed,
    ))
}

fn print_warnings(report: &Report) -> Result<()> {
    if report.by_grace {
        output::print_line(&format!(
            "WARNING: this backend ignores create-only writes. What is marked is deleted after {} days; a backup that runs \
             for longer, or two prunes at once, can lose data",
            GRACE.as_secs() / (24 * 3600)
        ))?;
    }
    if report.sessions_open > 0 {
        output::print_line(&format!(
            "{} sessions run or were interrupted; once they are over, or older than --session-age, the next prune goes on",
            report.sessions_open
        ))?;
    }
    if report.packs_waiting > 0 {
        output::print_line(&format!("INCOMPLETE: {} packs are marked and wait", report.packs_waiting))?;
    }
    if report.packs_unreadable > 0 {
        output::print_line(&format!(
            "INCOMPLETE: {} packs stay because something in them cannot be read; see `mlvault check --read-data`",
            report.packs_unreadable
        ))?;
    }
    Ok(())
}
