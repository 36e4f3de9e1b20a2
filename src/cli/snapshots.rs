//! `mlvault snapshots`

use std::collections::BTreeMap;

use clap::{Parser, ValueEnum};
use jiff::Timestamp;
use serde_json::{Value, json};

use mlvault::error::Result;
use mlvault::format::snapshot::SnapshotRecord;
use mlvault::repository::naming::Scope;
use mlvault::repository::notes::Notes;
use mlvault::repository::snapshots::{Snapshot, Trashed};
use mlvault::units::{count, format_bytes, sum_of_claims};

use crate::cli::context::Context;
use crate::cli::outcome::{Outcome, Text};
use crate::cli::progress::printable;
use crate::cli::selection::SourceArgs;
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
  mlvault snapshots --latest --group-by source
  mlvault snapshots --trash")]
pub struct Args {
    /// List forgotten snapshots that can still be brought back
    #[arg(long)]
    trash: bool,
    /// List only snapshots with this tag; if given several times, with all of these tags
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// List only snapshots of this deployment
    #[arg(long, value_name = "NAME", conflicts_with = "group")]
    deployment: Option<String>,
    /// List only snapshots of this source, as listed in the SOURCE column
    #[arg(long, value_name = "SOURCE")]
    group: Option<String>,
    /// List only the newest N snapshots of each source [default without N: 1]
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "1")]
    latest: Option<usize>,
    /// List the snapshots of each source, or of each key, by themselves
    #[arg(long, value_enum, value_name = "WHAT")]
    group_by: Option<GroupBy>,
}

#[derive(Clone, Copy, ValueEnum)]
enum GroupBy {
    /// What was backed up
    Source,
    /// Whose key signed the snapshot
    Key,
}

impl GroupBy {
    fn group_of(self, snapshot: &Snapshot) -> String {
        match self {
            Self::Source => snapshot.record.source.group(),
            Self::Key => format!("{} ({})", snapshot.signer.label, snapshot.signer.slot),
        }
    }
}

impl Args {
    fn scope(&self) -> Scope {
        let source = SourceArgs { deployment: self.deployment.clone(), group: self.group.clone() };
        source.scope()
    }

    /// Chooses from snapshots that are sorted by time.
    fn choose<'a>(&self, listed: &Listed, snapshots: &'a [Snapshot]) -> Vec<&'a Snapshot> {
        let scope = self.scope();
        let is_meant =
            |snapshot: &&Snapshot| scope.has(&snapshot.record.source) && listed.has_tags(snapshot, &self.tags);
        let mut chosen: Vec<&Snapshot> = snapshots.iter().filter(is_meant).collect();
        if let Some(latest) = self.latest {
            let mut seen: BTreeMap<String, usize> = BTreeMap::new();
            let mut is_late = |snapshot: &&Snapshot| {
                let count = seen.entry(snapshot.record.source.group()).or_default();
                *count += 1;
                *count <= latest
            };
            let mut late: Vec<&Snapshot> = chosen.into_iter().rev().filter(&mut is_late).collect();
            late.reverse();
            chosen = late;
        }
        chosen
    }
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
    let shown = args.choose(&listed, &list.snapshots);
    let document = json!({
        "snapshots": shown.iter().map(|snapshot| listed.json(snapshot)).collect::<Vec<_>>(),
        "trash": list.trash.len(),
        "damaged": unreadable.lines(),
        "vanished": gone,
    });
    Ok(Outcome::new(code, document, listed.tables(&shown, args.group_by)))
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
            "id": snapshot.id, "group": snapshot.record.source.group(), "signer": snapshot.signer, "record": record_json(&snapshot.record),
            "tags": self.notes.tags_of(snapshot), "hold": hold,
            "arrived": snapshot.arrived, "time_doubtful": snapshot.is_time_doubtful(),
        })
    }

    fn tables(&self, shown: &[&Snapshot], by: Option<GroupBy>) -> Text {
        let Some(by) = by else { return Text::from(self.rows(shown)) };
        let mut groups: BTreeMap<String, Vec<&Snapshot>> = BTreeMap::new();
        for snapshot in shown {
            groups.entry(by.group_of(snapshot)).or_default().push(snapshot);
        }
        let mut text = Text::default();
        for (group, snapshots) in groups {
            text.line(format!("{}: {}", printable(&group), count(snapshots.len(), "snapshot")));
            text.extend(Text::from(self.rows(&snapshots)));
        }
        text
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
            printable(&record.source.group()),
        ]
    }));
    rows
}

fn row(snapshot: &Snapshot, tags: &[String]) -> Vec<String> {
    let record = &snapshot.record;
    let bytes = sum_of_claims(record.components.iter().map(|component| component.bytes));
    let state = match (snapshot.is_incomplete(), record.accepted.len()) {
        (true, _) => "INCOMPLETE".to_owned(),
        (false, 0) => "complete".to_owned(),
        (false, accepted) => format!("complete, {accepted} accepted"),
    };
    let rewritten = if record.rewritten_from.is_some() { ", rewritten" } else { "" };
    vec![
        snapshot.id.short(),
        output::format_word(&record.started, snapshot.is_time_doubtful()),
        format_bytes(bytes),
        format!("{state}{rewritten}"),
        printable(&snapshot.signer.label),
        printable(&tags.join(",")),
        printable(&record.source.group()),
    ]
}
