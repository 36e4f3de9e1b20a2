//! When things were there, and which version each alias stood for, as lanes along the time.
//!
//! What must stay true: a bar reaches from a snapshot that has a thing to another one that has it, with none in between that
//! does not; so what was not seen is not drawn.

use std::collections::BTreeMap;

use jiff::Timestamp;
use maud::{Markup, html};
use serde_json::Value as Json;

use crate::audit::history::facts::{ALIASES, Facts};
use crate::audit::history::{History, ItemHistory, ItemKind, SnapshotLook};
use crate::id::SessionId;
use crate::units::count;

/// Size of a drawing, and of a lane in it.
const WIDTH: f64 = 900.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 12.0;
const LANE: f64 = 18.0;
const BAR: f64 = 11.0;
/// Shortest bar: a thing that only one snapshot has is to be seen.
const BAR_MIN: f64 = 3.0;
/// Characters of a label that fit.
const LABEL_MAX: usize = 30;
/// Lanes that are drawn; a table has the others.
const LANES_MAX: usize = 200;

/// A stretch of time.
struct Bar {
    from: Timestamp,
    to: Timestamp,
    words: String,
}

struct Lane {
    label: String,
    class: &'static str,
    bars: Vec<Bar>,
    /// When content changed that must not, with what is to be said.
    altered: Vec<(Timestamp, String)>,
}

/// Draws what was found.
pub(super) fn timeline(history: &History) -> Markup {
    let (Some(first), Some(last)) = (history.snapshots.first(), history.snapshots.last()) else { return html! {} };
    let scale = Scale { from: first.made, to: last.made };
    let times: BTreeMap<SessionId, Timestamp> = history.snapshots.iter().map(|look| (look.id, look.made)).collect();
    let mut lanes: Vec<Lane> = history.items.iter().map(|item| lane_of(item, &times)).collect();
    lanes.extend(alias_lanes(history, &times));
    let left_out = lanes.len().saturating_sub(LANES_MAX);
    lanes.truncate(LANES_MAX);
    let height = LANE * (lanes.len() as f64 + 2.5);
    html! {
        div.scroll tabindex="0" role="region" aria-label="Timeline" {
            svg.timeline viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label=(summary(history, &lanes)) {
                text.label x="0" y=(LANE * 0.7) { (count(history.snapshots.len(), "snapshot")) }
                @for look in &history.snapshots { (mark(look, scale.x(look.made))) }
                @for (number, lane) in lanes.iter().enumerate() { (draw(lane, LANE * (number as f64 + 1.3), &scale)) }
                text.label x=(LEFT) y=(height - 4.0) { (day(first.made)) }
                text.label x=(WIDTH - RIGHT) y=(height - 4.0) text-anchor="end" { (day(last.made)) }
            }
        }
        @if left_out > 0 { p { "and " (left_out) " more, which the table has" } }
    }
}

fn mark(look: &SnapshotLook, x: f64) -> Markup {
    let state = match (&look.unreadable, look.is_complete, &look.forgotten) {
        (Some(_), ..) => "unreadable",
        (_, false, _) => "incomplete",
        (.., Some(_)) => "forgotten",
        _ => "complete",
    };
    let class = format!("mark {state}");
    html! {
        line class=(class) x1=(place(x)) x2=(place(x)) y1="2" y2=(LANE * 0.8) {
            title { (look.id.short()) " of " (look.made.strftime("%F %R").to_string()) ", " (state) }
        }
    }
}

fn draw(lane: &Lane, y: f64, scale: &Scale) -> Markup {
    html! {
        text.label x="0" y=(place(y + BAR - 1.0)) { (shortened(&lane.label)) title { (lane.label) } }
        @for bar in &lane.bars {
            rect class=(lane.class) x=(place(scale.x(bar.from))) y=(place(y)) rx="2" height=(BAR)
                width=(place((scale.x(bar.to) - scale.x(bar.from)).max(BAR_MIN))) { title { (bar.words) } }
        }
        @for (at, words) in &lane.altered {
            path.altered d=(format!("M{:.1} {:.1}l9 9m0 -9l-9 9", scale.x(*at) - 4.5, y + 1.0)) { title { (words) } }
        }
    }
}

fn lane_of(item: &ItemHistory, times: &BTreeMap<SessionId, Timestamp>) -> Lane {
    let words = |bar: &(Timestamp, Timestamp)| format!("{} from {} to {}", item.id, day(bar.0), day(bar.1));
    let altered = item.changes.iter().filter(|change| change.alters);
    Lane {
        label: format!("{} {}", item.kind.name(), item.id),
        class: "present",
        bars: stretches(item, times)
            .into_iter()
            .map(|bar| Bar { from: bar.0, to: bar.1, words: words(&bar) })
            .collect(),
        altered: altered
            .filter_map(|change| Some((*times.get(&change.snapshot)?, format!("content changed: {}", change.what))))
            .collect(),
    }
}

/// Returns from when to when an item is in every snapshot of its source.
fn stretches(item: &ItemHistory, times: &BTreeMap<SessionId, Timestamp>) -> Vec<(Timestamp, Timestamp)> {
    let mut absent = item.absent.iter().filter_map(|id| times.get(id)).peekable();
    let mut stretches: Vec<(Timestamp, Timestamp)> = Vec::new();
    let mut is_open = false;
    for at in item.snapshots.iter().filter_map(|id| times.get(id)) {
        while absent.next_if(|gap| *gap < at).is_some() {
            is_open = false;
        }
        match stretches.last_mut().filter(|_| is_open) {
            Some(stretch) => stretch.1 = *at,
            None => stretches.push((*at, *at)),
        }
        is_open = true;
    }
    stretches
}

/// Makes a lane for each alias, with a bar for each version that it stood for.
fn alias_lanes(history: &History, times: &BTreeMap<SessionId, Timestamp>) -> Vec<Lane> {
    let mut lanes: BTreeMap<(&str, String), Vec<Bar>> = BTreeMap::new();
    for item in history.items.iter().filter(|item| item.kind == ItemKind::Version) {
        for (alias, from, to) in aliases(item, times) {
            let words = format!("{alias} = {} from {} to {}", item.id, day(from), day(to));
            lanes.entry((&item.source, alias)).or_default().push(Bar { from, to, words });
        }
    }
    let lane = |((_, alias), bars): ((&str, String), Vec<Bar>)| Lane {
        label: format!("alias {alias}"),
        class: "alias",
        bars,
        altered: Vec::new(),
    };
    lanes.into_iter().map(lane).collect()
}

/// Returns from when to when each alias stood for an item.
fn aliases(item: &ItemHistory, times: &BTreeMap<SessionId, Timestamp>) -> Vec<(String, Timestamp, Timestamp)> {
    let mut spans = Vec::new();
    let mut open: BTreeMap<String, Timestamp> = BTreeMap::new();
    let mut now = names(&item.at_first);
    let mut last = None;
    for id in &item.snapshots {
        let Some(at) = times.get(id) else { continue };
        let moved = item.changes.iter().find(|change| change.snapshot == *id && change.what == ALIASES);
        now = moved.map_or(now, |change| texts(Some(&change.new)));
        open.retain(|alias, from| {
            let stays = now.contains(alias);
            if !stays {
                spans.push((alias.clone(), *from, *at));
            }
            stays
        });
        for alias in &now {
            open.entry(alias.clone()).or_insert(*at);
        }
        last = Some(*at);
    }
    spans.extend(open.into_iter().filter_map(|(alias, from)| Some((alias, from, last?))));
    spans
}

fn names(facts: &Facts) -> Vec<String> {
    texts(facts.get(ALIASES))
}

fn texts(value: Option<&Json>) -> Vec<String> {
    let values = value.and_then(Json::as_array).into_iter().flatten();
    values.filter_map(Json::as_str).map(str::to_owned).collect()
}

fn summary(history: &History, lanes: &[Lane]) -> String {
    let altered = lanes.iter().map(|lane| lane.altered.len()).sum::<usize>();
    format!(
        "{} in {}; {}",
        count(history.items.len(), "item"),
        count(history.snapshots.len(), "snapshot"),
        if altered == 0 { "no content changed that must not".to_owned() } else { count(altered, "alteration") }
    )
}

struct Scale {
    from: Timestamp,
    to: Timestamp,
}

impl Scale {
    fn x(&self, at: Timestamp) -> f64 {
        let (from, to, at) = (self.from.as_second(), self.to.as_second(), at.as_second());
        let share = if to > from { (at - from) as f64 / (to - from) as f64 } else { 0.5 };
        LEFT + share.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }
}

fn place(value: f64) -> String {
    format!("{value:.1}")
}

fn day(at: Timestamp) -> String {
    at.strftime("%F").to_string()
}

fn shortened(label: &str) -> String {
    if label.chars().count() <= LABEL_MAX {
        return label.to_owned();
    }
    label.chars().take(LABEL_MAX - 1).chain(['…']).collect()
}
