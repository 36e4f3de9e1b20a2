//! A year as a calendar: a square for each day, with the best snapshot of that day that is kept, and its drills.
//!
//! What must stay true: a day without a square's colour is one of which no snapshot is kept, whether there was none or a policy
//! let it go: the page says so.

use std::collections::BTreeMap;

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use maud::{Markup, html};

use crate::format::evidence::DrillResult;
use crate::status::report::WEEKS;
use crate::status::{DrillStatus, SnapshotStatus};
use crate::units::count;

/// Distance between two squares, and what of it is a square.
const STEP: i64 = 15;
const SQUARE: i64 = 12;
/// Room for names of months above, and of days at the left.
const ABOVE: i64 = 18;
const LEFT: i64 = 30;

/// What is known of a day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Day {
    pub complete: u64,
    pub incomplete: u64,
    pub passed: u64,
    pub failed: u64,
}

impl Day {
    fn class(self) -> &'static str {
        match (self.complete, self.incomplete) {
            (0, 0) => "none",
            (0, _) => "incomplete",
            _ => "complete",
        }
    }

    fn words(self) -> String {
        let parts = [
            (self.complete, "complete snapshot"),
            (self.incomplete, "incomplete snapshot"),
            (self.passed, "passed drill"),
            (self.failed, "failed drill"),
        ];
        let said: Vec<String> =
            parts.into_iter().filter(|(number, _)| *number > 0).map(|(number, what)| count(number, what)).collect();
        if said.is_empty() { "no snapshot kept".to_owned() } else { said.join(", ") }
    }
}

/// Sorts snapshots and drills into days.
pub(super) fn days(snapshots: &[SnapshotStatus], drills: &[DrillStatus], zone: &TimeZone) -> BTreeMap<Date, Day> {
    let mut days: BTreeMap<Date, Day> = BTreeMap::new();
    let date = |time: Timestamp| zone.to_datetime(time).date();
    for snapshot in snapshots {
        let day = days.entry(date(snapshot.made)).or_default();
        *(if snapshot.is_complete { &mut day.complete } else { &mut day.incomplete }) += 1;
    }
    for drill in drills {
        let day = days.entry(date(drill.evidence.at)).or_default();
        *(if drill.result == DrillResult::Failed { &mut day.failed } else { &mut day.passed }) += 1;
    }
    days
}

/// Returns what all calendars of a page draw with.
pub(super) fn patterns() -> Markup {
    html! {
        svg.patterns width="0" height="0" aria-hidden="true" {
            defs {
                pattern #stripes width="4" height="4" patternUnits="userSpaceOnUse" patternTransform="rotate(45)" {
                    rect.incomplete-ground width="4" height="4" {}
                    rect.incomplete-stripe width="2" height="4" {}
                }
            }
        }
    }
}

/// Draws a calendar that ends today.
pub(super) fn calendar(days: &BTreeMap<Date, Day>, today: Date) -> Markup {
    let first = first_day(today);
    let cells: Vec<(i64, i64, Date, Day)> = (0..WEEKS * 7)
        .filter_map(|number| {
            let date = first.checked_add(number.days()).ok().filter(|date| *date <= today)?;
            Some((number / 7, number % 7, date, days.get(&date).copied().unwrap_or_default()))
        })
        .collect();
    let (width, height) = (LEFT + WEEKS * STEP, ABOVE + 7 * STEP);
    html! {
        svg.calendar viewBox=(format!("0 0 {width} {height}")) role="img" aria-label=(summary(&cells)) {
            @for (week, name) in months(&cells) { text.label x=(LEFT + week * STEP) y="11" { (name) } }
            @for (day, name) in [(0, "Mon"), (2, "Wed"), (4, "Fri")] {
                text.label x="0" y=(ABOVE + day * STEP + 10) { (name) }
            }
            @for (week, weekday, date, day) in &cells { (square((LEFT + week * STEP, ABOVE + weekday * STEP), *date, *day)) }
        }
    }
}

/// Returns the Monday on which the first week begins.
fn first_day(today: Date) -> Date {
    let since_monday = i64::from(today.weekday().since(Weekday::Monday));
    today.saturating_sub((since_monday + (WEEKS - 1) * 7).days())
}

fn square((x, y): (i64, i64), date: Date, day: Day) -> Markup {
    let middle = (x + SQUARE / 2, y + SQUARE / 2);
    html! {
        g {
            title { (date.strftime("%F")) ": " (day.words()) }
            rect class=(day.class()) x=(x) y=(y) width=(SQUARE) height=(SQUARE) rx="2" {}
            @if day.failed > 0 {
                path.failed d=(format!("M{} {}l6 6m0 -6l-6 6", middle.0 - 3, middle.1 - 3)) {}
            } @else if day.passed > 0 {
                circle.passed cx=(middle.0) cy=(middle.1) r="2.5" {}
            }
        }
    }
}

/// Returns the weeks in which a month begins, with its name.
fn months(cells: &[(i64, i64, Date, Day)]) -> Vec<(i64, String)> {
    let begins = cells.iter().filter(|(_, _, date, _)| date.day() == 1);
    begins.map(|(week, _, date, _)| (*week, date.strftime("%b").to_string())).collect()
}

fn summary(cells: &[(i64, i64, Date, Day)]) -> String {
    let with = |is: fn(&Day) -> bool| cells.iter().filter(|(.., day)| is(day)).count();
    format!(
        "Calendar of {}: {} with a complete snapshot that is kept, {} with incomplete ones only; {} with a drill that \
         passed, {} with one that failed",
        count(cells.len(), "day"),
        count(with(|day| day.complete > 0), "day"),
        with(|day| day.complete == 0 && day.incomplete > 0),
        count(with(|day| day.passed > 0), "day"),
        with(|day| day.failed > 0)
    )
}

/// Explains the squares.
pub(super) fn legend() -> Markup {
    let sample = |day: Day, words: &str| {
        html! {
            li {
                svg.key viewBox="0 0 12 12" aria-hidden="true" { (square((0, 0), Date::ZERO, day)) }
                (words)
            }
        }
    };
    let complete = Day { complete: 1, ..Day::default() };
    html! {
        ul.legend {
            (sample(complete, "complete"))
            (sample(Day { incomplete: 1, ..Day::default() }, "incomplete only"))
            (sample(Day::default(), "no snapshot kept of this day: none was made, or a policy let it go"))
            (sample(Day { passed: 1, ..complete }, "a drill passed"))
            (sample(Day { failed: 1, ..complete }, "a drill failed"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calendar_ends_today_and_begins_on_a_monday() {
        for today in ["2026-11-30", "2026-12-06", "2027-01-01", "2028-02-29"] {
            let today: Date = today.parse().unwrap();
            let first = first_day(today);
            assert_eq!(first.weekday(), Weekday::Monday);
            let days = (today - first).get_days();
            assert!((52 * 7..53 * 7).contains(&i64::from(days)), "{today}: {days}");
        }
    }

    #[test]
    fn the_best_snapshot_of_a_day_gives_its_colour() {
        let day = Day { complete: 1, incomplete: 3, failed: 1, ..Day::default() };
        assert_eq!(day.class(), "complete");
        assert_eq!(day.words(), "1 complete snapshot, 3 incomplete snapshots, 1 failed drill");
        assert_eq!((Day::default().class(), Day::default().words().as_str()), ("none", "no snapshot kept"));
    }
}
