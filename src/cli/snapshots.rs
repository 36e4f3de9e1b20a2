//! `mlvault snapshots`

use std::collections::BTreeMap;

use clap::Parser;
use jiff::Timestamp;
use serde_json::json;

use mlvault::error::Result;
use mlvault::format::snapshot::SourceRecord;
use mlvault::id::SessionId;
use mlvault::repository::notes::Notes;
use mlvault::repository::snapshots::{Snapshot, SnapshotList, Trashed};
use mlvault::units::format_bytes;

use crate::cli::context::Context;
use crate::cli::progress::printable;
use crate::cli::{exit, output};

/// List snapshots, oldest first
///
/// Tags are shown as they are now, and `*` marks snapshots that are held. Exit code 3 if a snapshot or note cannot be read,
/// or one that others have seen is gone.
#[derive(Parser)]
pub struct Args {
    /// Those that were forgotten and that no prune has removed yet
    #[arg(long)]
    trash: bool,
    /// Only those with this tag; may be given several times, then all of them
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<exit::Code> {
    let repository = context.repository()?;
    let (list, notes) = (repository.list_snapshots()?, repository.list_notes()?);
    let gone = repository.vanished(&list)?;
    context.finish();
    if args.trash {
        print_trash(context, &list.trash)?;
    } else {
        let has_tags = |snapshot: &&Snapshot| {
            let tags = notes.tags_of(snapshot);
            args.tags.iter().all(|tag| tags.contains(tag))
        };
        let shown: Vec<&Snapshot> = list.snapshots.iter().filter(has_tags).collect();
        print_list(context, &list, &shown, &notes, &gone)?;
    }
    for error in list.damaged.iter().chain(&notes.damaged) {
        context.monitor().problem("snapshots", &error.to_string());
    }
    for (id, seen_by) in &gone {
        let message = format!("it is gone, but {} later snapshots saw it", seen_by.len());
        context.monitor().problem(&format!("snapshot {}", id.short()), &message);
    }
    let is_whole = list.damaged.is_empty() && notes.damaged.is_empty() && gone.is_empty();
    Ok(if is_whole { exit::COMPLETE } else { exit::INCOMPLETE })
}

fn print_list(
    context: &Context,
    list: &SnapshotList,
    shown: &[&Snapshot],
    notes: &Notes,
    gone: &BTreeMap<SessionId, Vec<SessionId>>,
) -> Result<()> {
    let now = Timestamp::now();
    if context.json() {
        let as_now = |snapshot: &&Snapshot| {
            let hold = notes.hold_on(&snapshot.id, now).map(|hold| &hold.reason);
            json!({
                "id": snapshot.id, "signer": snapshot.signer, "record": snapshot.record,
                "tags": notes.tags_of(snapshot), "hold": hold,
            })
        };
        return output::print_json(&json!({
            "snapshots": shown.iter().map(as_now).collect::<Vec<_>>(),
            "trash": list.trash.len(),
            "damaged": list.damaged.iter().chain(&notes.damaged).map(ToString::to_string).collect::<Vec<_>>(),
            "vanished": gone,
        }));
    }
    let mut rows = vec![["ID", "TIME", "SIZE", "STATE", "BY", "TAGS", "SOURCE"].map(str::to_owned).to_vec()];
    for snapshot in shown {
        let mut row = row(snapshot, &notes.tags_of(snapshot));
        if notes.hold_on(&snapshot.id, now).is_some() {
            row[0].push('*');
        }
        rows.push(row);
    }
    output::print_table(&rows)
}

fn print_trash(context: &Context, trash: &[Trashed]) -> Result<()> {
    if context.json() {
        let as_json = |trashed: &Trashed| {
            let Trashed { snapshot, forgotten, by } = trashed;
            json!({ "id": snapshot.id, "record": snapshot.record, "forgotten": forgotten, "by": by })
        };
        return output::print_json(&json!({ "trash": trash.iter().map(as_json).collect::<Vec<_>>() }));
    }
    let mut rows = vec![["ID", "TIME", "FORGOTTEN", "BY", "REASON", "SOURCE"].map(str::to_owned).to_vec()];
    rows.extend(trash.iter().map(|trashed| {
        let record = &trashed.snapshot.record;
        vec![
            trashed.snapshot.id.short(),
            output::format_time(&record.started),
            output::format_time(&trashed.forgotten.at),
            printable(&trashed.by.label),
            printable(&trashed.forgotten.reason),
            printable(&source(&record.source)),
        ]
    }));
    output::print_table(&rows)
}

fn row(snapshot: &Snapshot, tags: &[String]) -> Vec<String> {
    let record = &snapshot.record;
    let bytes: u64 = record.components.iter().map(|component| component.bytes).sum();
    let state = if snapshot.is_incomplete() { "INCOMPLETE" } else { "complete" };
    vec![
        snapshot.id.short(),
        output::format_time(&record.started),
        format_bytes(bytes),
        state.to_owned(),
        printable(&snapshot.signer.label),
        printable(&tags.join(",")),
        printable(&source(&record.source)),
    ]
}

/// Describes a source on one line.
pub fn source(source: &SourceRecord) -> String {
    match source {
        SourceRecord::Deployment { name } => format!("deployment {name}"),
        SourceRecord::Paths { paths } => paths.join(" "),
        SourceRecord::Stream { name, command: None } => format!("{name} (standard input)"),
        SourceRecord::Stream { name, command: Some(command) } => format!("{name} ({command})"),
    }
}
