//! `mlvault rewrite`

use clap::Parser;
use serde_json::json;

use mlvault::error::{Error, Result};
use mlvault::procedures::Consent;
use mlvault::procedures::rewrite_snapshots::{self, RewrittenSnapshots};
use mlvault::repository::naming::Named;
use mlvault::rewrite::{MatchingSnapshot, RewriteOptions, RewritePlan, Rewritten};
use mlvault::units::{count, format_bytes};

use crate::cli::context::Context;
use crate::cli::exit;
use crate::cli::outcome::Outcome;
use crate::cli::progress::printable;
use crate::cli::selection::SourceArgs;

/// Paths of a snapshot that are shown; `--json` has more of them.
const PATHS_SHOWN_MAX: usize = 10;
/// Other snapshots that are shown by their ids; `--json` has all.
const OTHERS_SHOWN_MAX: usize = 20;

/// Write snapshots again without some files, such as one with a leaked password
///
/// For each snapshot a new one is written without the files that match, with the same time, source and tags. Its record says
/// what it was made from and by which patterns. Of a deployment, only artifacts can be taken out. The original is kept, unless
/// you give --forget, which needs a maintainer key. The bytes leave the repository only when every snapshot that has them is
/// forgotten and `mlvault prune --max-unused 0%` has run; this command says which other snapshots still have files that match.
///
/// Exit code 1 if nothing matches, 3 if a row of a deployment now lacks files that it must have, or if a part of the repository
/// could not be searched.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault rewrite latest --exclude '**/.env' --dry-run
  mlvault rewrite 01a20e5c2251 01a20e5cde01 --exclude 'srv/app/secrets.yaml' --forget")]
pub struct Args {
    /// Snapshots to rewrite: ids, latest, days or times
    #[arg(value_name = "SNAPSHOT", required = true)]
    snapshots: Vec<String>,
    #[command(flatten)]
    source: SourceArgs,
    /// Take out what matches this glob and what is below it: a name, or, if it contains `/`, a whole path in the snapshot (of a
    /// deployment: below an artifact root); can be given several times
    #[arg(long = "exclude", value_name = "GLOB", required_unless_present = "iexcludes")]
    excludes: Vec<String>,
    /// The same, whether letters are upper or lower case
    #[arg(long = "iexclude", value_name = "GLOB")]
    iexcludes: Vec<String>,
    /// Move the originals to the trash
    #[arg(long)]
    forget: bool,
    /// Show what would be taken out; write nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
pub fn run(context: &Context, args: &Args) -> Result<Outcome> {
    let repository = context.repository()?;
    let options = RewriteOptions {
        named: Named { names: args.snapshots.clone(), scope: args.source.scope() },
        excludes: args.excludes.clone(),
        excludes_any_case: args.iexcludes.clone(),
    };
    let consent = if args.dry_run { Consent::DryRun } else { Consent::Given };
    let done = rewrite_snapshots::run(&repository, &options, args.forget, &consent, &context.hears())?;
    let document = json!({
        "dry_run": args.dry_run, "plan": done.plan, "rewritten": done.rewritten, "forgotten": done.forgotten,
    });
    let text = lines(args, &done);
    if done.plan.matching.is_empty() {
        let nothing = Error::NotFound(format!(
            "Nothing matches in {}; of streams and databases nothing can be taken out",
            count(done.plan.unmatched.len(), "snapshot")
        ));
        return Ok(Outcome::failed(nothing, document, text));
    }
    Ok(Outcome::new(code(args, &done), document, text))
}

fn code(args: &Args, done: &RewrittenSnapshots) -> exit::Code {
    let is_lacking = done.rewritten.iter().any(|rewritten| rewritten.is_lacking);
    // A hold may have come since the plan was made.
    let are_left = args.forget && !args.dry_run && done.forgotten < done.plan.matching.len() as u64;
    if is_lacking || are_left || done.plan.unreadable > 0 { exit::INCOMPLETE } else { exit::COMPLETE }
}

fn lines(args: &Args, RewrittenSnapshots { plan, rewritten, forgotten }: &RewrittenSnapshots) -> Vec<String> {
    let mut lines = Vec::new();
    for found in &plan.matching {
        lines.extend(matching_lines(found));
    }
    lines.extend(plan.unmatched.iter().map(|id| format!("Snapshot {}: nothing matches", id.short())));
    lines.extend(rewritten.iter().map(rewritten_line));
    lines.push(others_line(&plan.others));
    if args.dry_run {
        lines.push("Dry run: nothing was written".to_owned());
    } else if !plan.matching.is_empty() {
        lines.push(what_is_left(plan, *forgotten));
    }
    lines
}

fn matching_lines(found: &MatchingSnapshot) -> Vec<String> {
    let (id, entries) = (found.snapshot.short(), count(found.entries, "entry"));
    let before = found.rewritten_as.map(|is| format!("; it was already rewritten as {}", is.short()));
    let bytes = format_bytes(found.bytes);
    let mut lines = vec![format!("Snapshot {id}: {entries} ({bytes}) to take out{}", before.unwrap_or_default())];
    lines.extend(found.paths.iter().take(PATHS_SHOWN_MAX).map(|path| format!("  {}", printable(path))));
    let more = found.entries.saturating_sub(found.paths.len().min(PATHS_SHOWN_MAX) as u64);
    lines.extend((more > 0).then(|| format!("  and {more} more")));
    lines
}

fn rewritten_line(rewritten: &Rewritten) -> String {
    let Rewritten { was, is, entries, taken_out, is_lacking } = rewritten;
    let lacking = if *is_lacking { "; INCOMPLETE: rows of the deployment lack files that they must have" } else { "" };
    format!(
        "Snapshot {} is now {}: {}, without {taken_out}{lacking}",
        was.short(),
        is.short(),
        count(*entries, "entry")
    )
}

fn others_line(others: &[MatchingSnapshot]) -> String {
    if others.is_empty() {
        return "No other snapshot has anything that matches".to_owned();
    }
    let mut ids: Vec<String> = others.iter().take(OTHERS_SHOWN_MAX).map(|found| found.snapshot.short()).collect();
    if others.len() > ids.len() {
        ids.push(format!("and {} more", others.len() - ids.len()));
    }
    let verb = if others.len() == 1 { "has" } else { "have" };
    format!("{} still {verb} what matches: {}", count(others.len(), "other snapshot"), ids.join(" "))
}

/// Says what has to be done before the bytes are gone.
fn what_is_left(plan: &RewritePlan, forgotten: u64) -> String {
    let kept = (plan.matching.len() as u64).saturating_sub(forgotten);
    match kept {
        0 => format!(
            "{} forgotten; `mlvault prune --max-unused 0%` removes what only they need",
            count(forgotten, "original")
        ),
        kept => format!(
            "{} still there: `mlvault forget`, then `mlvault prune --max-unused 0%`, removes what only they need",
            count(kept, "original")
        ),
    }
}
