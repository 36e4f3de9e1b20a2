//! `mlvault stats`

use clap::Parser;
use serde_json::json;

use mlvault::error::Result;
use mlvault::repository::snapshots::Snapshot;
use mlvault::stats::{self, RepositoryStats, SnapshotComponentStats};
use mlvault::units::format_bytes;

use crate::cli::context::Context;
use crate::cli::progress::printable;
use crate::cli::{exit, output};

/// Show how much the repository or a snapshot holds, and what deduplication and compression save
///
/// Numbers of the repository need its index only. Those of a snapshot need its trees; with --exclusive, the trees of all
/// other snapshots too, though what they share is read once. Content is never read. Chunks that no snapshot needs (of
/// interrupted backups and forgotten snapshots, until they are pruned) count as stored.
#[derive(Parser)]
pub struct Args {
    /// Snapshot: an id, latest, latest~2, a day (2026-11-21, UTC) or a time (default: the whole repository)
    snapshot: Option<String>,
    /// Also show what no other snapshot has
    #[arg(long, requires = "snapshot")]
    exclusive: bool,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<exit::Code> {
    match &args.snapshot {
        None => repository(context),
        Some(name) => snapshot(context, name, args.exclusive),
    }
}

fn repository(context: &Context) -> Result<exit::Code> {
    let repository = context.repository()?;
    let list = repository.list_snapshots()?;
    let monitor = context.monitor();
    let stats = stats::repository(&repository, &list, monitor.as_ref())?;
    let mut problems = list.damaged;
    problems.extend(repository.index().take_damage());
    context.finish();
    for error in &problems {
        monitor.problem("repository", &error.to_string());
    }
    if context.json() {
        let ratios = json!({
            "deduplication": stats.deduplication(), "compression": stats.compression(), "total": stats.total(),
        });
        output::print_json(&json!({ "repository": stats, "ratios": ratios }))?;
    } else {
        output::print_table(&repository_rows(&stats))?;
    }
    Ok(if problems.is_empty() { exit::COMPLETE } else { exit::INCOMPLETE })
}

fn repository_rows(stats: &RepositoryStats) -> Vec<Vec<String>> {
    let row = |name: &str, value: String, note: String| vec![name.to_owned(), value, note];
    let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
    let mut rows = vec![
        row("Snapshots", stats.snapshots.to_string(), format!("{} entries", stats.entries)),
        row("Logical", format_bytes(stats.logical_bytes), "files of all snapshots".to_owned()),
    ];
    rows.extend(stats.components.iter().map(|(name, totals)| {
        let note = format!("{} snapshots, {} entries", totals.snapshots, totals.entries);
        row(&format!("  {}", printable(name)), format_bytes(totals.logical_bytes), note)
    }));
    let packs = |kind: &stats::KindStats| format!("{} packs, {} index segments", kind.packs, kind.segments);
    rows.extend([
        row("Unique", format_bytes(stats.data.unique_bytes), format!("{} different chunks", stats.data.chunks)),
        row("Compressed", format_bytes(stats.data.chunk_bytes), String::new()),
        row("Data packs", format_bytes(stats.data.pack_bytes), packs(&stats.data)),
        row("Meta packs", format_bytes(stats.meta.pack_bytes), packs(&stats.meta)),
        row("Stored", format_bytes(stats.stored_bytes), format!("{} objects", stats.objects)),
        row("Deduplication", ratio(stats.deduplication()), "logical to unique".to_owned()),
        row("Compression", ratio(stats.compression()), "unique to compressed".to_owned()),
        row("Total", ratio(stats.total()), "logical to stored".to_owned()),
    ]);
    rows
}

fn snapshot(context: &Context, name: &str, exclusive: bool) -> Result<exit::Code> {
    let repository = context.repository()?;
    let snapshot = repository.find_snapshot(name)?;
    let others: Option<Vec<Snapshot>> = if exclusive {
        let mut list = repository.list_snapshots()?;
        if !list.damaged.is_empty() {
            // What a damaged snapshot refers to is unknown: no chunk can be called exclusive.
            return Err(list.damaged.swap_remove(0));
        }
        list.snapshots.retain(|other| other.id != snapshot.id);
        Some(list.snapshots)
    } else {
        None
    };
    let monitor = context.monitor();
    let components = stats::snapshot(&repository, &snapshot, others.as_deref(), monitor.as_ref(), context.cancel())?;
    context.finish();
    let missing: u64 = components.iter().map(|component| component.chunks_missing).sum();
    if context.json() {
        output::print_json(&json!({ "snapshot": snapshot.id, "components": components }))?;
    } else {
        output::print_table(&snapshot_rows(&components, exclusive))?;
    }
    if missing > 0 {
        let message = format!("{missing} of its chunks are in no pack that the index knows");
        monitor.problem(&format!("snapshot {}", snapshot.id.short()), &message);
    }
    Ok(if missing > 0 { exit::INCOMPLETE } else { exit::COMPLETE })
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
