//! `mlvault check`

use clap::Parser;
use jiff::SignedDuration;
use serde_json::json;

use mlvault::check::{self, Aged, Coverage, Options, Problem, ProblemKind, ReadData, Report, Subset};
use mlvault::error::Result;
use mlvault::units::format_bytes;

use crate::cli::context::Context;
use crate::cli::progress::printable;
use crate::cli::prune::{parse_duration, parse_size};
use crate::cli::{exit, output};

/// Check that everything in the repository is there and sound, and say which files damage costs
///
/// Without options the structure is checked: keys, snapshots and their signatures, trees, index, and of each pack its
/// length, header and directory. Damage inside the content of packs shows only when they are read: --read-data.
///
/// Exit code 1 if anything is damaged or missing. What an interrupted backup leaves behind is no damage.
#[derive(Parser)]
pub struct Args {
    /// Read every pack whole, and verify every chunk
    #[arg(long, conflicts_with_all = ["read_data_subset", "max_age"])]
    read_data: bool,
    /// Read a random share of the packs (10%), one of several parts that together are all (3/7), or random packs up to
    /// a size (1G)
    #[arg(long, value_name = "SUBSET")]
    read_data_subset: Option<Subset>,
    /// Read the packs that no check on this machine has verified for so long, as 30d
    #[arg(long, value_name = "TIME", value_parser = parse_duration, conflicts_with = "read_data_subset")]
    max_age: Option<SignedDuration>,
    /// Read no more bytes than this, those first that were verified longest ago
    #[arg(long, value_name = "SIZE", value_parser = parse_size, requires = "max_age")]
    budget: Option<u64>,
}

impl Args {
    fn read_data(&self) -> ReadData {
        match (self.read_data, self.read_data_subset, self.max_age) {
            (true, ..) => ReadData::All,
            (_, Some(subset), _) => ReadData::Subset(subset),
            (.., Some(age)) => {
                let age_seconds_max = age.unsigned_abs().as_secs();
                ReadData::Aged(Aged { age_seconds_max, budget_bytes: self.budget })
            }
            _ => ReadData::Nothing,
        }
    }
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<exit::Code> {
    let options = Options { read_data: args.read_data() };
    let repository = context.repository()?;
    let report = check::run(&repository, &options, context.monitor().as_ref(), context.cancel())?;
    context.finish();
    if context.json() {
        output::print_json(&json!({ "clean": report.is_clean(), "report": report }))?;
    } else {
        print_report(&report)?;
    }
    Ok(if report.is_clean() { exit::COMPLETE } else { exit::FAILED })
}

fn print_report(report: &Report) -> Result<()> {
    let counts = &report.counts;
    output::print_line(&format!(
        "Checked {} keys, {} snapshots, {} index segments, {} packs, {} tree nodes, {} chunk references",
        counts.key_slots, counts.snapshots, counts.segments, counts.packs, counts.tree_nodes, counts.chunk_references
    ))?;
    if let Some(read) = &report.read {
        let how = if read.content_opened { "verified every chunk in them" } else { "compared data packs by name only" };
        let (packs, all, bytes) = (read.packs, read.packs_total, format_bytes(read.bytes));
        output::print_line(&format!("Read {packs} of {all} packs ({bytes}), {how}"))?;
        read.coverage.as_ref().map_or(Ok(()), |coverage| print_coverage(coverage, all))?;
    }
    for note in &report.notes {
        output::print_line(&format!("Note: {}", printable(note)))?;
    }
    report.problems.iter().try_for_each(print_problem)?;
    print_verdict(report)
}

fn print_coverage(coverage: &Coverage, packs_total: u64) -> Result<()> {
    let days = |seconds: u64| format!("{:.1} days", seconds as f64 / 86_400.0);
    output::print_line(&format!(
        "Verified within {}: {} of {packs_total} packs, {} of {}; never: {} packs; the oldest {} ago",
        days(coverage.age_seconds_max),
        coverage.packs_within,
        format_bytes(coverage.bytes_within),
        format_bytes(coverage.bytes_total),
        coverage.packs_never,
        days(coverage.oldest_seconds.unwrap_or(0))
    ))
}

fn print_problem(problem: &Problem) -> Result<()> {
    output::print_line(&format!("DAMAGED {}: {}", printable(&problem.object), printable(&problem.reason)))?;
    for hurt in &problem.hurts {
        let place = format!("snapshot {}, {}", hurt.snapshot.short(), printable(&hurt.component));
        let what = match (hurt.path.is_empty(), hurt.entries) {
            (true, _) => "everything".to_owned(),
            (false, 1) => printable(&hurt.path),
            (false, entries) => format!("{entries} entries from {} on", printable(&hurt.path)),
        };
        output::print_line(&format!("  lost in {place}: {what}"))?;
    }
    let named: u64 = problem.hurts.iter().map(|hurt| hurt.entries).sum();
    if problem.hurt_count > named {
        output::print_line(&format!("  and {} more entries", problem.hurt_count - named))?;
    }
    Ok(())
}

fn print_verdict(report: &Report) -> Result<()> {
    if report.is_clean() {
        return output::print_line("No damage found");
    }
    let unnamed = report.problem_count - report.problems.len() as u64;
    if unnamed > 0 {
        output::print_line(&format!("and {unnamed} more problems"))?;
    }
    for snapshot in &report.hurt_snapshots {
        output::print_line(&format!("Snapshot {}: {} entries are lost", snapshot.id.short(), snapshot.entries))?;
    }
    if let Some(advice) = advice(report) {
        output::print_line(advice)?;
    }
    output::print_line(&format!("The repository is DAMAGED: {} problems", report.problem_count))
}

fn advice(report: &Report) -> Option<&'static str> {
    let any = |kinds: &[ProblemKind]| report.problems.iter().any(|problem| kinds.contains(&problem.kind));
    if any(&[ProblemKind::Segment]) || report.counts.unreferenced_packs > 0 && any(&[ProblemKind::MissingChunks]) {
        Some("Run `mlvault repair index`: what packs still hold becomes known again")
    } else if any(&[ProblemKind::MissingChunks]) {
        Some("Run `mlvault backup --force` while the source still has the files: chunks that are lost are stored again")
    } else if any(&[ProblemKind::Pack]) {
        Some("Restore first what must be kept; `mlvault repair index` drops packs that are missing or cut short")
    } else {
        None
    }
}
