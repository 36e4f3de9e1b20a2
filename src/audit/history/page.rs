//! A history as a page.
//!
//! What must stay true: it is a [`crate::page`]; content that changed comes first, and what could not be asked is told before
//! what was found.

use maud::{Markup, html};
use serde_json::Value as Json;

use crate::audit::history::timeline::timeline;
use crate::audit::history::{Change, Facts, History, ItemHistory, SnapshotLook};
use crate::id::SessionId;
use crate::page::{self, table, tile};
use crate::repository::session::PROGRAM;
use crate::units::{count, format_bytes};

/// Items that are told one by one; of more there is a table.
const TOLD_MAX: usize = 20;

/// Writes a page about what was found in the repository at `location`.
pub fn html(history: &History, location: &str) -> String {
    let verdict = match (history.is_altered(), history.has_gaps()) {
        (true, _) => "Content has changed that must not",
        (false, true) => "No change of content was found, and something could not be asked",
        (false, false) => "No content has changed that must not",
    };
    let body = html! {
        header {
            h1 { "History of " (history.subject) }
            p.verdict.bad[history.is_altered() || history.has_gaps()] { (verdict) }
            p { (location) }
        }
        main {
            (alterations(history))
            (gaps(history))
            section {
                h2 { "Timeline" }
                (timeline(history))
            }
            (items(history))
            (snapshots(history))
        }
        footer {
            p {
                "Made by " (PROGRAM) ". Times are in UTC; when a snapshot was made is the word of whoever signed it. It is known "
                "of snapshots only: what happened between two of them, nobody saw."
            }
        }
    };
    page::page(&format!("History of {}", history.subject), &body).into_string()
}

fn when(history: &History, id: &SessionId) -> String {
    let made = history.snapshot(id).map(|look| look.made.strftime("%F %R").to_string());
    format!("{} ({})", made.unwrap_or_default(), id.short())
}

fn alterations(history: &History) -> Markup {
    let altered = history
        .items
        .iter()
        .flat_map(|item| item.changes.iter().filter(|change| change.alters).map(move |change| (item, change)));
    html! {
        @if history.is_altered() {
            section.alarms aria-labelledby="altered" {
                h2 #altered { "Content has changed" }
                ul {
                    @for (item, change) in altered {
                        li {
                            strong { (item.id) } " of " (item.source) ", seen on " (when(history, &change.snapshot)) ": "
                            (change.what) br;
                            code { (value(&change.old)) } " → " code { (value(&change.new)) }
                        }
                    }
                }
            }
        }
    }
}

fn gaps(history: &History) -> Markup {
    let unreadable = history.snapshots.iter().filter_map(|look| Some((look, look.unreadable.as_ref()?)));
    html! {
        @if history.has_gaps() || !history.removed.is_empty() {
            section aria-labelledby="gaps" {
                h2 #gaps { "What could not be asked" }
                ul {
                    @for (look, reason) in unreadable { li { (when(history, &look.id)) ": " (reason) } }
                    @for line in &history.unreadable { li { (line) } }
                    @if history.unreadable_nodes > 0 { li { (count(history.unreadable_nodes, "node")) " of trees cannot be read" } }
                    @for gone in &history.vanished { li { (gone.snapshot) " is gone, and nobody has forgotten it" } }
                    @if !history.removed.is_empty() {
                        li { (count(history.removed.len(), "snapshot")) " were forgotten and removed" }
                    }
                }
            }
        }
    }
}

fn items(history: &History) -> Markup {
    html! {
        section {
            h2 { (count(history.items.len(), "item")) }
            (overview(history))
        }
        @if history.items.len() <= TOLD_MAX {
            @for item in &history.items { (item_section(history, item)) }
        }
    }
}

fn overview(history: &History) -> Markup {
    let rows = html! {
        @for item in &history.items {
            tr {
                th scope="row" { (item.kind.name()) " " (item.id) }
                td { (item.source) }
                td { (item.snapshots.first().map_or_else(String::new, |id| when(history, id))) }
                td { (item.snapshots.last().map_or_else(String::new, |id| when(history, id))) }
                td { (item.snapshots.len()) @if !item.absent.is_empty() { ", not in " (item.absent.len()) } }
                td { (item.changes.len()) }
                td { @if item.is_altered() { strong { "CHANGED" } } @else { "as it was" } }
            }
        }
    };
    table("Items", &["What", "Source", "First seen", "Last seen", "Snapshots", "Changes", "Content"], &rows)
}

fn item_section(history: &History, item: &ItemHistory) -> Markup {
    let snapshots = format!("not in {} since", item.absent.len());
    html! {
        section {
            h2 { (item.kind.name()) " " (item.id) " " small { (item.source) } }
            dl.tiles {
                (tile("In snapshots", &item.snapshots.len().to_string(), if item.absent.is_empty() { "" } else { &snapshots }, false))
                (tile("Changes", &item.changes.len().to_string(), "", false))
                (tile("Content", if item.is_altered() { "CHANGED" } else { "as it was" }, "", item.is_altered()))
            }
            @if !item.changes.is_empty() { h3 { "Changes" } (changes(history, &item.changes)) }
            h3 { "At last" }
            (facts(&item.facts))
            @if !item.files.is_empty() { h3 { "Files" } (files(history, item)) }
        }
    }
}

fn changes(history: &History, changes: &[Change]) -> Markup {
    let rows = html! {
        @for change in changes {
            tr {
                th scope="row" { (when(history, &change.snapshot)) }
                td { (change.what) @if change.alters { " " strong { "must not change" } } }
                td { (value(&change.old)) }
                td { (value(&change.new)) }
            }
        }
    };
    table("Changes", &["Seen in", "What", "Before", "Then"], &rows)
}

fn facts(facts: &Facts) -> Markup {
    let rows = html! { @for (what, is) in facts { tr { th scope="row" { (what) } td { (value(is)) } } } };
    table("Facts", &["What", "Is"], &rows)
}

fn files(history: &History, item: &ItemHistory) -> Markup {
    let rows = html! {
        @for file in &item.files {
            @for version in &file.versions {
                tr {
                    th scope="row" { (file.path) }
                    td { (format_bytes(version.bytes)) }
                    td { code { (version.digest.map_or_else(String::new, |digest| digest.to_string())) } }
                    td { (when(history, &version.first)) }
                    td { (when(history, &version.last)) }
                }
            }
        }
    };
    table("Files", &["File", "Size", "BLAKE3", "From", "To"], &rows)
}

fn snapshots(history: &History) -> Markup {
    let state = |look: &SnapshotLook| match (&look.forgotten, look.is_complete) {
        (Some(forgotten), _) => format!("forgotten by {}: {}", forgotten.by, forgotten.reason),
        (None, true) => "complete".to_owned(),
        (None, false) => format!("INCOMPLETE, {}", count(look.problems, "problem")),
    };
    let rows = html! {
        @for look in &history.snapshots {
            tr {
                th scope="row" { (look.made.strftime("%F %R").to_string()) @if look.time_doubtful { "?" } }
                td { code { (look.id) } }
                td { (look.source) }
                td { (state(look)) @if look.unreadable.is_some() { ", cannot be asked" } }
                td { (look.by) " on " (look.host) }
            }
        }
    };
    html! {
        section {
            h2 { "Snapshots that were asked" }
            (table("Snapshots", &["Made", "Snapshot", "Source", "State", "Signed by"], &rows))
        }
    }
}

/// Returns a value as people write it.
fn value(value: &Json) -> String {
    match value {
        Json::Null => "–".to_owned(),
        Json::String(text) => text.clone(),
        Json::Array(values) => values.iter().map(self::value).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}
