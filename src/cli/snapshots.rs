//! `mlvault snapshots`

use clap::Parser;
use serde_json::json;

use mlvault::error::Result;
use mlvault::format::snapshot::SourceRecord;
use mlvault::repository::snapshots::{Snapshot, vanished};
use mlvault::units::format_bytes;

use crate::cli::context::Context;
use crate::cli::progress::printable;
use crate::cli::{exit, output};

/// List snapshots, oldest first
///
/// Exit code 3 if a snapshot cannot be read, or one that others have seen is gone.
#[derive(Parser)]
pub struct Args {
    /// Only those with this tag; may be given several times, then all of them
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<exit::Code> {
    let list = context.repository()?.list_snapshots()?;
    let gone = vanished(&list);
    context.finish();
    let shown: Vec<&Snapshot> = list
        .snapshots
        .iter()
        .filter(|snapshot| args.tags.iter().all(|tag| snapshot.record.tags.contains(tag)))
        .collect();
    if context.json() {
        output::print_json(&json!({
            "snapshots": shown.iter().map(|snapshot| snapshot_json(snapshot)).collect::<Vec<_>>(),
            "damaged": list.damaged.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "vanished": gone,
        }))?;
    } else {
        let mut rows = vec![["ID", "TIME", "SIZE", "STATE", "BY", "TAGS", "SOURCE"].map(str::to_owned).to_vec()];
        rows.extend(shown.iter().map(|snapshot| row(snapshot)));
        output::print_table(&rows)?;
    }
    for error in &list.damaged {
        context.monitor().problem("snapshots", &error.to_string());
    }
    for (id, seen_by) in &gone {
        let message = format!("it is gone, but {} later snapshots saw it", seen_by.len());
        context.monitor().problem(&format!("snapshot {}", id.short()), &message);
    }
    Ok(if list.damaged.is_empty() && gone.is_empty() { exit::COMPLETE } else { exit::INCOMPLETE })
}

/// Returns a snapshot as JSON.
pub fn snapshot_json(snapshot: &Snapshot) -> serde_json::Value {
    json!({ "id": snapshot.id, "signer": snapshot.signer, "record": snapshot.record })
}

fn row(snapshot: &Snapshot) -> Vec<String> {
    let record = &snapshot.record;
    let bytes: u64 = record.components.iter().map(|component| component.bytes).sum();
    let state = if snapshot.is_incomplete() { "INCOMPLETE" } else { "complete" };
    vec![
        snapshot.id.short(),
        output::format_time(&record.started),
        format_bytes(bytes),
        state.to_owned(),
        printable(&snapshot.signer.label),
        printable(&record.tags.join(",")),
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
