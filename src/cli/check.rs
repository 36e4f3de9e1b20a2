//! `mlvault check`

use std::time::Instant;

use clap::Parser;
use jiff::SignedDuration;
use serde_json::json;

use mlvault::check::{self, Aged, CheckOptions, CheckReport, Coverage, Problem, ProblemKind, ReadData, Subset};
use mlvault::error::Result;
use mlvault::format::evidence::{CheckEvidence, Says};
use mlvault::units::{count, format_bytes, plural};

use crate::cli::context::Context;
use crate::cli::outcome::{Outcome, Text};
use crate::cli::progress::printable;
use crate::cli::{exit, values};

/// Check the repository for damage, and list the files that are affected
///
/// Without options, the command checks the structure: keys, snapshots and their signatures, trees, the index, and the
/// length, header and directory of every pack. Add --read-data to find damage inside packs too.
///
/// Exit code 1 if anything is damaged or missing. What an interrupted backup leaves behind is not damage.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault check
  mlvault check --read-data-subset 10%
  mlvault check --max-age 30d --budget 50G --record")]
pub struct Args {
    /// Read all packs and verify every chunk
    #[arg(long, conflicts_with_all = ["read_data_subset", "max_age"])]
    read_data: bool,
    /// Read only some packs: a random share (10%), one part of a rotation (3/7), or random packs up to a total size (1G)
    #[arg(long, value_name = "SUBSET")]
    read_data_subset: Option<Subset>,
    /// Read the packs that no check on this machine has verified within this time, such as 30d
    #[arg(long, value_name = "TIME", value_parser = values::duration, conflicts_with = "read_data_subset")]
    max_age: Option<SignedDuration>,
    /// Read at most this much, beginning with the packs that were verified longest ago
    #[arg(long, value_name = "SIZE", value_parser = values::size, requires = "max_age")]
    budget: Option<u64>,
    /// Leave a signed record of the result in the repository, for `mlvault status`; needs a key of an auditor, reader or
    /// maintainer, and credentials that may write
    #[arg(long)]
    record: bool,
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
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    let options = CheckOptions { read_data: args.read_data() };
    let repository = context.repository()?;
    if args.record {
        repository.require_believed(CheckEvidence::counts_from)?;
    }
    let begun = Instant::now();
    let report = check::run(&repository, &options, &context.hears())?;
    let mut text = text(&report);
    let mut code = if report.is_clean() { exit::COMPLETE } else { exit::FAILED };
    let mut recorded = None;
    if args.record {
        let says = Says::Check(check::evidence(&options, &report, begun.elapsed()));
        match repository.write_evidence(says) {
            Ok(id) => {
                text.line(format!("Recorded as {id}"));
                recorded = Some(id);
            }
            // What was found is as true without.
            Err(error) => {
                context.monitor().problem("evidence", &format!("the result could not be recorded: {error}"));
                code = if report.is_clean() { exit::INCOMPLETE } else { code };
            }
        }
    }
    let document = json!({ "clean": report.is_clean(), "report": report, "recorded": recorded });
    Ok(Outcome::new(code, document, text))
}

fn text(report: &CheckReport) -> Text {
    let counts = &report.counts;
    let mut text = Text::from(format!(
        "Checked {}, {}, {}, {}, {}, {}",
        count(counts.key_slots, "key"),
        count(counts.snapshots, "snapshot"),
        count(counts.segments, "index segment"),
        count(counts.packs, "pack"),
        count(counts.tree_nodes, "tree node"),
        count(counts.chunk_references, "chunk reference"),
    ));
    if let Some(read) = &report.read {
        let how = if read.content_opened { "verified every chunk in them" } else { "compared data packs by name only" };
        let (packs, all, bytes) = (read.packs, count(read.packs_total, "pack"), format_bytes(read.bytes));
        text.line(format!("Read {packs} of {all} ({bytes}), {how}"));
        text.extend(read.coverage.as_ref().map(|coverage| coverage_line(coverage, &all)));
    }
    text.extend(report.notes.iter().map(|note| format!("Note: {}", printable(note))));
    text.extend(report.problems.iter().flat_map(problem_lines));
    text.extend(verdict_lines(report));
    text
}

fn coverage_line(coverage: &Coverage, all: &str) -> String {
    let days = |seconds: u64| format!("{:.1} days", seconds as f64 / 86_400.0);
    format!(
        "Verified within {}: {} of {all}, {} of {}; never: {}; the oldest {} ago",
        days(coverage.age_seconds_max),
        coverage.packs_within,
        format_bytes(coverage.bytes_within),
        format_bytes(coverage.bytes_total),
        count(coverage.packs_never, "pack"),
        days(coverage.oldest_seconds.unwrap_or(0))
    )
}

fn problem_lines(problem: &Problem) -> Vec<String> {
    let mut lines = vec![format!("DAMAGED {}: {}", printable(&problem.object), printable(&problem.reason))];
    for hurt in &problem.hurts {
        let place = format!("snapshot {}, {}", hurt.snapshot.short(), printable(&hurt.component));
        let what = match (hurt.path.is_empty(), hurt.entries) {
            (true, _) => "everything".to_owned(),
            (false, 1) => printable(&hurt.path),
            (false, entries) => format!("{} from {} on", count(entries, "entry"), printable(&hurt.path)),
        };
        lines.push(format!("  lost in {place}: {what}"));
    }
    let named: u64 = problem.hurts.iter().map(|hurt| hurt.entries).sum();
    if problem.hurt_count > named {
        let more = problem.hurt_count - named;
        lines.push(format!("  and {more} more {}", plural(more, "entry")));
    }
    lines
}

fn verdict_lines(report: &CheckReport) -> Vec<String> {
    if report.is_clean() {
        return vec!["No damage found".to_owned()];
    }
    let mut lines = Vec::new();
    let unnamed = report.problem_count - report.problems.len() as u64;
    if unnamed > 0 {
        lines.push(format!("and {unnamed} more {}", plural(unnamed, "problem")));
    }
    lines.extend(report.hurt_snapshots.iter().map(|hurt| {
        let lost = count(hurt.entries, "entry");
        format!("Snapshot {}: {lost} lost", hurt.id.short())
    }));
    lines.extend(advice(report).into_iter().map(str::to_owned));
    lines.push(format!("The repository is DAMAGED: {}", count(report.problem_count, "problem")));
    lines
}

/// Returns what to do, in this order: each step makes the next one's loss smaller, and none deletes anything.
fn advice(report: &CheckReport) -> Vec<&'static str> {
    let any = |kinds: &[ProblemKind]| report.problems.iter().any(|problem| kinds.contains(&problem.kind));
    let is_index_wrong =
        any(&[ProblemKind::Segment]) || report.counts.unreferenced_packs > 0 && any(&[ProblemKind::MissingChunks]);
    let is_content_lost = any(&[ProblemKind::MissingChunks, ProblemKind::Pack]);
    let is_record_lost = any(&[
        ProblemKind::KeySlot,
        ProblemKind::Snapshot,
        ProblemKind::Note,
        ProblemKind::Session,
        ProblemKind::Tombstone,
        ProblemKind::Countersignature,
        ProblemKind::Evidence,
        ProblemKind::Plan,
    ]);
    let mut steps = Vec::new();
    if is_index_wrong {
        steps.push("Run `mlvault repair index`: it makes the index again from the packs that are still there");
    }
    if is_content_lost {
        steps.push(
            "Run `mlvault repair packs`: it saves what is good in damaged packs, and takes the rest from a copy (--from) \
             or from the original files (--source)",
        );
        steps.push("Run `mlvault backup --force` while the source still has the files: it stores lost chunks again");
        steps.push(
            "Then run `mlvault repair snapshots`: it writes snapshots that still lack something anew, without what is lost",
        );
    }
    if is_record_lost {
        steps.push(
            "Run `mlvault repair objects`: it says what the records that cannot be read may have been, and moves them into \
             quarantine, out of the way of prunes",
        );
    }
    steps
}
