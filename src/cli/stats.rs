//! `mlvault stats`

use clap::Parser;
use serde_json::json;

use mlvault::error::Result;
use mlvault::repository::snapshots::Snapshot;
use mlvault::stats::{self, RepositoryStats, SnapshotComponentStats};
use mlvault::units::{count, format_bytes};

use crate::cli::answer::Answer;
use crate::cli::context::Context;
use crate::cli::exit;
use crate::cli::outcome::Outcome;
use crate::cli::progress::printable;
use crate::cli::selection::SourceArgs;

/// Show the size of the repository or of a snapshot, and what deduplication and compression save
///
/// For the repository, the command reads only the index. For a snapshot it reads the trees, and with --exclusive those of
/// all other snapshots too. It never reads content. Data that no snapshot needs counts as stored until it is pruned.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault stats
  mlvault stats latest --exclusive")]
pub struct Args {
    /// Snapshot: an id, latest, latest~2, a day (2026-11-21, in UTC) or a time [default: the whole repository]
    snapshot: Option<String>,
    /// Also show how much only this snapshot needs
    #[arg(long, requires = "snapshot")]
    exclusive: bool,
    #[command(flatten)]
    source: SourceArgs,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    match &args.snapshot {
        None => repository(context),
        Some(name) => snapshot(context, name, &args.source, args.exclusive),
    }
}

fn repository(context: &Context) -> Result<Outcome> {
    let repository = context.repository()?;
    let list = repository.list_snapshots()?;
    let monitor = context.monitor();
    let stats = stats::repository(&repository, &list, &context.hears())?;
    let mut problems = list.unreadable();
    repository.index().take_damage().into_iter().for_each(|error| problems.push(error));
    for line in problems.lines() {
        monitor.problem("repository", &line);
    }
    let ratios = json!({
        "deduplication": stats.deduplication(), "compression": stats.compression(), "total": stats.total(),
    });
    let code = if problems.is_empty() { exit::COMPLETE } else { exit::INCOMPLETE };
    Ok(Outcome::new(code, json!({ "repository": stats, "ratios": ratios }), repository_rows(&stats)))
}

fn repository_rows(stats: &RepositoryStats) -> Vec<Vec<String>> {
    let row = |name: &str, value: String, note: String| vec![name.to_owned(), value, note];
    let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
    let mut rows = vec![
        row("Snapshots", stats.snapshots.to_string(), count(stats.entries, "entry")),
        row("Logical", format_bytes(stats.logical_bytes), "files of all snapshots".to_owned()),
    ];
    rows.extend(stats.components.iter().map(|(name, totals)| {
        let note = format!("{}, {}", count(totals.snapshots, "snapshot"), count(totals.entries, "entry"));
        row(&format!("  {}", printable(name)), format_bytes(totals.logical_bytes), note)
    }));
    let packs =
        |kind: &stats::KindStats| format!("{}, {}", count(kind.packs, "pack"), count(kind.segments, "index segment"));
    rows.extend([
        row("Unique", format_bytes(stats.data.unique_bytes), count(stats.data.chunks, "different chunk")),
        row("Compressed", format_bytes(stats.data.chunk_bytes), String::new()),
        row("Data packs", format_bytes(stats.data.pack_bytes), packs(&stats.data)),
        row("Meta packs", format_bytes(stats.meta.pack_bytes), packs(&stats.meta)),
        row("Stored", format_bytes(stats.stored_bytes), count(stats.objects, "object")),
        row("Deduplication", ratio(stats.deduplication()), "logical to unique".to_owned()),
        row("Compression", ratio(stats.compression()), "unique to compressed".to_owned()),
        row("Total", ratio(stats.total()), "logical to stored".to_owned()),
    ]);
    rows
}

fn snapshot(context: &Context, name: &str, source: &SourceArgs, exclusive: bool) -> Result<Outcome> {
    let repository = context.repository()?;
    let Answer { snapshot, about } = context.find_snapshot(&repository, name, &source.scope())?;
    let others: Option<Vec<Snapshot>> = if exclusive {
        let mut list = repository.list_snapshots()?;
        if let Some(damage) = list.damaged.first() {
            // What a damaged snapshot refers to is unknown: no chunk can be called exclusive.
            return Err(damage.clone());
        }
        list.snapshots.retain(|other| other.id != snapshot.id);
        Some(list.snapshots)
    } else {
        None
    };
    let monitor = context.monitor();
    let components = stats::snapshot(&repository, &snapshot, others.as_deref(), &context.hears())?;
    let missing: u64 = components.iter().map(|component| component.chunks_missing).sum();
    if missing > 0 {
        let message = format!("it lacks {}: no pack that the index knows has them", count(missing, "chunk"));
        monitor.problem(&format!("snapshot {}", snapshot.id.short()), &message);
    }
    let code = if missing > 0 { exit::INCOMPLETE } else { exit::COMPLETE };
    let document = json!({ "snapshot": snapshot.id, "about": about, "components": components });
    Ok(Outcome::new(code, document, about.over(snapshot_rows(&components, exclusive))))
}

fn snapshot_rows(components: &[SnapshotComponentStats], exclusive: bool) -> Vec<Vec<String>> {
    let mut heading = vec!["COMPONENT", "FILES", "DIRECTORIES", "SYMLINKS", "LOGICAL", "UNIQUE", "COMPRESSED"];
    if exclusive {
        heading.extend(["EXCLUSIVE", "COMPRESSED"]);
    }
    let mut rows = vec![heading.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for component in components {
        let mut row = vec![
            printable(&component.name),
            component.files.to_string(),
            component.directories.to_string(),
            component.symlinks.to_string(),
            format_bytes(component.logical_bytes),
            format_bytes(component.unique.bytes),
            format_bytes(component.unique.stored_bytes),
        ];
        if let Some(own) = &component.exclusive {
            row.extend([format_bytes(own.bytes), format_bytes(own.stored_bytes)]);
        }
        rows.push(row);
    }
    rows
}
