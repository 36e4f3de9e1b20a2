//! `mlvault snapshots`

use clap::Parser;
use jiff::Timestamp;
use serde_json::{Value, json};

use mlvault::error::Result;
use mlvault::format::snapshot::{SnapshotRecord, SourceRecord};
use mlvault::repository::notes::Notes;
use mlvault::repository::snapshots::{Snapshot, Trashed};
use mlvault::units::{count, format_bytes, sum_of_claims};

use crate::cli::context::Context;
use crate::cli::outcome::Outcome;
use crate::cli::progress::printable;
use crate::cli::{exit, output};

/// List snapshots, oldest first
///
/// `*` marks snapshots with a hold, and `?` times that are far from when the snapshot arrived. Tags are shown as they are now, also if they were changed after the backup.
///
/// Exit code 3 if a snapshot or note cannot be read, or if a snapshot was deleted without `mlvault forget`.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault snapshots --tag nightly
  mlvault snapshots --trash")]
pub struct Args {
    /// List forgotten snapshots that can still be brought back
    #[arg(long)]
    trash: bool,
    /// List only snapshots with this tag; if given several times, with all of these tags
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    let repository = context.repository()?;
    let (list, notes) = (repository.list_snapshots()?, repository.list_notes()?);
    let gone = repository.vanished(&list)?;
    let mut unreadable = list.unreadable();
    unreadable.extend(notes.damaged.clone());
    for line in unreadable.lines() {
        context.monitor().problem("snapshots", &line);
    }
    list.foreign.note_to(context.monitor().as_ref());
    notes.foreign.note_to(context.monitor().as_ref());
    for (id, seen_by) in &gone {
        let message = match seen_by.len() {
            0 => "it is gone, but this machine has seen it".to_owned(),
            saw => format!("it is gone, but {} saw it", count(saw, "later snapshot")),
        };
        context.monitor().problem(&format!("snapshot {}", id.short()), &message);
    }
    let is_whole = unreadable.is_empty() && gone.is_empty();
    let code = if is_whole { exit::COMPLETE } else { exit::INCOMPLETE };
    if args.trash {
        let trash: Value = list.trash.iter().map(trashed_json).collect();
        return Ok(Outcome::new(code, json!({ "trash": trash }), trash_rows(&list.trash)));
    }
    let listed = Listed { notes, now: Timestamp::now() };
    let shown: Vec<&Snapshot> =
        list.snapshots.iter().filter(|snapshot| listed.has_tags(snapshot, &args.tags)).collect();
    let document = json!({
        "snapshots": shown.iter().map(|snapshot| listed.json(snapshot)).collect::<Vec<_>>(),
        "trash": list.trash.len(),
        "damaged": unreadable.lines(),
        "vanished": gone,
    });
    Ok(Outcome::new(code, document, listed.rows(&shown)))
}

/// What notes say of snapshots at one moment.
struct Listed {
    notes: Notes,
    now: Timestamp,
}

impl Listed {
    fn has_tags(&self, snapshot: &Snapshot, wanted: &[String]) -> bool {
        let tags = self.notes.tags_of(snapshot);
        wanted.iter().all(|tag| tags.contains(tag))
    }

    fn json(&self, snapshot: &Snapshot) -> Value {
        let hold = self.notes.hold_on(&snapshot.id, self.now).map(|hold| &hold.reason);
        json!({
            "id": snapshot.id, "signer": snapshot.signer, "record": record_json(&snapshot.record),
            "tags": self.notes.tags_of(snapshot), "hold": hold,
            "arrived": snapshot.arrived, "time_doubtful": snapshot.is_time_doubtful(),
        })
    }

    fn rows(&self, shown: &[&Snapshot]) -> Vec<Vec<String>> {
        let mut rows = vec![["ID", "TIME", "SIZE", "STATE", "BY", "TAGS", "SOURCE"].map(str::to_owned).to_vec()];
        for snapshot in shown {
            let mut row = row(snapshot, &self.notes.tags_of(snapshot));
            if self.notes.hold_on(&snapshot.id, self.now).is_some() {
                row[0].push('*');
            }
            rows.push(row);
        }
        rows
    }
}

/// Returns a record without what lists of snapshots do not keep of it.
fn record_json(record: &SnapshotRecord) -> Value {
    let mut document = json!(record);
    if let Some(fields) = document.as_object_mut() {
        fields.remove("seen");
    }
    document
}

fn trashed_json(trashed: &Trashed) -> Value {
    let Trashed { snapshot, forgotten, by, .. } = trashed;
    json!({ "id": snapshot.id, "record": record_json(&snapshot.record), "forgotten": forgotten, "by": by })
}

fn trash_rows(trash: &[Trashed]) -> Vec<Vec<String>> {
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
    rows
}

fn row(snapshot: &Snapshot, tags: &[String]) -> Vec<String> {
    let record = &snapshot.record;
    let bytes = sum_of_claims(record.components.iter().map(|component| component.bytes));
    let state = if snapshot.is_incomplete() { "INCOMPLETE" } else { "complete" };
    vec![
        snapshot.id.short(),
        output::format_word(&record.started, snapshot.is_time_doubtful()),
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
