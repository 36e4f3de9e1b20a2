//! `mlvault prune`

use std::time::Duration;

use clap::Parser;
use jiff::SignedDuration;
use serde_json::json;

use mlvault::error::Result;
use mlvault::prune::{self, PackSum, PruneLimits, PruneOptions, PrunePlan, PruneReport};
use mlvault::units::{count, format_bytes};

use crate::cli::context::Context;
use crate::cli::outcome::{Outcome, Text};
use crate::cli::{exit, values};

/// Delete data that no snapshot needs
///
/// Forgotten snapshots are removed for good. Backups, restores, checks and other prunes can run at the same time. If a
/// prune is interrupted, the next one continues its work. Needs a maintainer key.
///
/// Exit code 3 if some data must wait for a running session, or cannot be read.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault prune --dry-run
  mlvault prune --max-repack 10G --keep-trash 7d")]
pub struct Args {
    /// Show what would be done; write nothing
    #[arg(long)]
    dry_run: bool,
    /// How much unused data can stay, as a percentage of the used data
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = values::percent)]
    max_unused: f64,
    /// Move at most this much data, such as 10G
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    max_repack: Option<u64>,
    /// Stop moving data after this time, such as 1h
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    max_duration: Option<SignedDuration>,
    /// Keep snapshots that were forgotten within this time, such as 7d
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = values::duration)]
    keep_trash: SignedDuration,
    /// Give up on unfinished sessions that are older than this; they can no longer commit a snapshot
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = values::duration)]
    session_age: SignedDuration,
    /// Wait this long for newer sessions; if they are still running, a later prune deletes what this one marked
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = values::duration)]
    wait: SignedDuration,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    let repository = context.repository()?;
    let options = PruneOptions {
        dry_run: args.dry_run,
        limits: PruneLimits {
            unused_percent_max: args.max_unused,
            repack_bytes_max: args.max_repack.unwrap_or(u64::MAX),
            duration_max: args.max_duration.map(|duration| duration.unsigned_abs()),
        },
        keep_trash: args.keep_trash,
        session_age_max: args.session_age.unsigned_abs(),
        wait_max: args.wait.unsigned_abs(),
        grace: GRACE.max(args.session_age.unsigned_abs()),
    };
    let report = prune::run(&repository, &options, &context.hears())?;
    Ok(Outcome::new(code(&report), json!({ "dry_run": args.dry_run, "report": report }), text(&report, args.dry_run)))
}

/// Returns the exit code that goes with a report.
pub fn code(report: &PruneReport) -> exit::Code {
    if report.is_complete() { exit::COMPLETE } else { exit::INCOMPLETE }
}

/// Returns a report for people.
pub fn text(report: &PruneReport, dry_run: bool) -> Text {
    let mut text = Text::from(plan_rows(&report.plan));
    text.line(format!(
        "{} in packs now, about {} afterwards, of which {} unused; {} to be moved",
        format_bytes(report.plan.bytes_before),
        format_bytes(report.plan.bytes_after),
        format_bytes(report.plan.unused_bytes_after),
        format_bytes(report.plan.moved_bytes),
    ));
    text.line(if dry_run { "Dry run: nothing was written".to_owned() } else { result_line(report) });
    text.extend(warnings(report));
    text
}

/// Age of a tombstone before its packs go, where the backend ignores create-only writes.
const GRACE: Duration = Duration::from_secs(7 * 24 * 3600);

fn plan_rows(plan: &PrunePlan) -> Vec<Vec<String>> {
    let row = |what: &str, sum: &PackSum| vec![what.to_owned(), sum.packs.to_string(), format_bytes(sum.bytes)];
    vec![
        ["", "PACKS", "BYTES"].map(str::to_owned).to_vec(),
        row("keep", &plan.kept),
        row("delete", &plan.deleted),
        row("move", &plan.repacked),
        row("leave to sessions", &plan.left),
    ]
}

fn result_line(report: &PruneReport) -> String {
    format!(
        "{} deleted ({}), {} moved ({}), {} replaced by {}, {} removed",
        count(report.packs_deleted, "pack"),
        format_bytes(report.bytes_deleted),
        count(report.chunks_moved, "chunk"),
        format_bytes(report.bytes_written),
        count(report.segments_removed, "index segment"),
        report.segments_written,
        count(report.snapshots_removed, "forgotten snapshot"),
    )
}

fn warnings(report: &PruneReport) -> Vec<String> {
    let mut lines = Vec::new();
    if report.by_grace {
        lines.push(format!(
            "WARNING: this backend ignores create-only writes. Marked packs are deleted after {}. A backup that runs \
             longer than that, or two prunes at the same time, can lose data",
            count(GRACE.as_secs() / (24 * 3600), "day")
        ));
    }
    if report.sessions_open > 0 {
        lines.push(format!(
            "{} still running or interrupted. Run prune again once they have ended or are older than --session-age",
            count(report.sessions_open, "session")
        ));
    }
    if report.packs_waiting > 0 {
        lines.push(format!("INCOMPLETE: {} marked; a later prune deletes them", count(report.packs_waiting, "pack")));
    }
    if report.packs_unproven > 0 {
        lines.push(format!(
            "INCOMPLETE: {} kept because what is needed in them was found in no other pack; see the problems above, and `mlvault check --read-data`",
            count(report.packs_unproven, "pack")
        ));
    }
    if report.packs_unreadable > 0 {
        lines.push(format!(
            "INCOMPLETE: {} kept because something in them cannot be read; see `mlvault check --read-data`",
            count(report.packs_unreadable, "pack")
        ));
    }
    lines
}
