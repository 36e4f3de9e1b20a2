//! The page: what stands at the top, and in which order the rest follows.
//!
//! What must stay true: what is wrong comes first, and whether something is wrong is the first thing that one sees.

use maud::{Markup, html};

use crate::format::deployment::Verdict;
use crate::format::evidence::{DrillResult, ReadScope};
use crate::page::{self, table, tile};
use crate::repository::session::PROGRAM;
use crate::status::report::Report;
use crate::status::report::calendar::{calendar, days, legend, patterns};
use crate::status::report::chart::{Chart, Form, Point};
use crate::status::{CheckStatus, DrillStatus, SnapshotStatus, SourceStatus};
use crate::units::{count, format_age, format_bytes, format_duration};

/// Rows of a table of drills or checks; all of them are in the repository.
const ROWS_MAX: usize = 20;
/// Departures that are listed.
const DEPARTURES_MAX: usize = 10;

/// Puts the page together.
pub(super) fn page(report: &Report<'_>) -> Markup {
    let status = report.status;
    let verdict = if status.is_well() { "All is well".to_owned() } else { count(status.alarms.len(), "alarm") };
    let body = html! {
        (patterns())
        header {
            h1 { "Backups of MLflow" }
            p.verdict.bad[!status.is_well()] { (verdict) }
            p { (status.location) ", looked at on " (report.time(status.at)) }
        }
        main {
            @if !status.alarms.is_empty() { (alarms(report)) }
            @for source in &status.sources { (source_section(report, source)) }
            @if status.sources.is_empty() { p { "Nothing is backed up here, and nothing is expected." } }
            (repository(report))
        }
        footer {
            p {
                "Made by " (PROGRAM) " from repository " (status.repository)
                ". Times are of the zone " (report.zone.iana_name().unwrap_or("UTC")) "."
            }
        }
    };
    page::page(&format!("Backups: {verdict}"), &body)
}

fn alarms(report: &Report<'_>) -> Markup {
    html! {
        section.alarms aria-labelledby="alarms" {
            h2 #alarms { "Somebody should look" }
            ul {
                @for alarm in &report.status.alarms {
                    li {
                        strong { (alarm.kind.name().replace('_', " ")) }
                        @if let Some(source) = &alarm.source { " · " (source) }
                        br;
                        (alarm.message)
                    }
                }
            }
        }
    }
}

fn source_section(report: &Report<'_>, source: &SourceStatus) -> Markup {
    let snapshots = report.history.snapshots.get(&source.source).map_or(&[][..], Vec::as_slice);
    let drills = source.deployment.as_ref().and_then(|name| report.history.drills.get(name));
    let drills = drills.map_or(&[][..], Vec::as_slice);
    let today = report.zone.to_datetime(report.status.at).date();
    html! {
        section {
            h2 { (source.source) @if !source.is_configured { " " small { "not configured" } } }
            (tiles(report, source))
            @if !snapshots.is_empty() || !drills.is_empty() {
                h3 { "Snapshots that are kept, and drills" }
                div.scroll tabindex="0" role="region" aria-label=(format!("Calendar of {}", source.source)) {
                    (calendar(&days(snapshots, drills, report.zone), today))
                }
                (legend())
                div.charts { (charts(report, source, snapshots, drills)) }
            }
            @if let Some(good) = &source.last_good { (components(good)) }
            @if !drills.is_empty() { (drill_table(report, drills)) }
            (retention(report, source))
        }
    }
}

fn tiles(report: &Report<'_>, source: &SourceStatus) -> Markup {
    let objectives = source.objectives;
    let limit =
        |seconds: Option<i64>| seconds.map_or_else(String::new, |limit| format!("at most {}", format_age(limit)));
    let drill = source.drills.newest.as_ref();
    html! {
        dl.tiles {
            @match &source.last_good {
                Some(good) => {
                    (tile("Last good snapshot (RPO)", &format!("{} ago", format_age(good.age_seconds)), &limit(objectives.rpo_seconds),
                        objectives.rpo_seconds.is_some_and(|limit| good.age_seconds > limit)))
                    (tile("It holds", &format_bytes(good.size.bytes), &holds(good), false))
                }
                None => (tile("Last good snapshot (RPO)", "none", &limit(objectives.rpo_seconds), true)),
            }
            @match drill {
                Some(drill) => {
                    (tile("Last drill", drill_word(drill), &format!("{} ago", format_age(drill.evidence.age_seconds)),
                        drill.result != DrillResult::Passed))
                    @if let Some(seconds) = drill.whole_seconds() {
                        (tile("A restore takes (RTO)", &format_duration(seconds), &limit(objectives.rto_seconds),
                            objectives.rto_seconds.is_some_and(|limit| seconds > limit as f64)))
                    }
                }
                None if source.deployment.is_some() => (tile("Last drill", "none", &limit(objectives.drill_seconds), objectives.drill_seconds.is_some())),
                None => {}
            }
            (tile("Snapshots", &source.snapshots.to_string(), &format!("{} incomplete", source.snapshots_incomplete), source.incomplete_in_a_row > 0))
            (tile("Added in 30 days", &format_bytes(source.growth.bytes_30_days), &format!("{} in 7 days", format_bytes(source.growth.bytes_7_days)), false))
            @if source.accepted.count > 0 {
                (tile("Accepted losses", &source.accepted.count.to_string(),
                    &source.accepted.first_end.map_or_else(String::new, |end| format!("the first ends {}", report.day(end))), false))
            }
        }
    }
}

fn holds(good: &SnapshotStatus) -> String {
    match good.size.rows {
        0 => count(good.size.entries, "entry"),
        rows => format!("{}, {}", count(good.size.entries, "entry"), count(rows, "row")),
    }
}

fn drill_word(drill: &DrillStatus) -> &'static str {
    match drill.result {
        DrillResult::Passed => "passed",
        DrillResult::Failed => "FAILED",
        DrillResult::Late => "passed, late",
    }
}

fn charts(report: &Report<'_>, source: &SourceStatus, snapshots: &[SnapshotStatus], drills: &[DrillStatus]) -> Markup {
    let day = |time| report.day(time);
    let bytes = |value: f64| format_bytes(value as u64);
    let percent = |value: f64| format!("{:.0} %", value * 100.0);
    let seconds = format_duration;
    let of = |value: fn(&SnapshotStatus) -> f64, words: &dyn Fn(f64) -> String| -> Vec<Point> {
        let point = |snapshot: &SnapshotStatus| {
            let value = value(snapshot);
            Point { at: snapshot.made, value, words: words(value) }
        };
        snapshots.iter().filter(|snapshot| snapshot.is_complete).map(point).collect()
    };
    let sizes = of(|snapshot| snapshot.size.bytes as f64, &bytes);
    let added = of(|snapshot| snapshot.bytes_stored as f64, &bytes);
    let shares =
        of(|snapshot| 1.0 - (snapshot.bytes_stored as f64 / snapshot.size.bytes.max(1) as f64).min(1.0), &percent);
    let times: Vec<Point> = drills
        .iter()
        .rev()
        .filter_map(|drill| {
            let value = drill.whole_seconds()?;
            Some(Point { at: drill.evidence.at, value, words: seconds(value) })
        })
        .collect();
    let rto = source.objectives.rto_seconds.map(|limit| (limit as f64, format!("at most {}", format_age(limit))));
    let chart = |title, form, points, limit, write| Chart { title, form, points, limit, write, day: &day }.draw();
    html! {
        (chart("Size of complete snapshots", Form::Line, &sizes, None, &bytes))
        (chart("What each added to the repository", Form::Bars, &added, None, &bytes))
        (chart("Saved by deduplication and compression", Form::Line, &shares, None, &percent))
        @if source.deployment.is_some() { (chart("Time of a restore, in drills", Form::Line, &times, rto, &seconds)) }
    }
}

fn components(good: &SnapshotStatus) -> Markup {
    let Some(verdicts) = &good.verdicts else { return html! {} };
    let word = |verdict| match verdict {
        Verdict::Ok => "as it should be",
        Verdict::NotOk => "NOT as it should be",
        Verdict::Accepted => "as it should be, but for accepted losses",
        Verdict::Absent => "not part of the backup",
    };
    html! {
        h3 { "The last good snapshot, " (good.id.short()) " by " (good.by) " on " (good.host) }
        table {
            thead { tr { th scope="col" { "Part" } th scope="col" { "Verdict" } } }
            tbody {
                @for (part, verdict) in verdicts.parts() {
                    tr { th scope="row" { (part) } td { (word(verdict)) } }
                }
            }
        }
    }
}

fn drill_table(report: &Report<'_>, drills: &[DrillStatus]) -> Markup {
    let rows = html! {
            @for drill in drills.iter().take(ROWS_MAX) {
                tr {
                    th scope="row" { (report.time(drill.evidence.at)) }
                    td { (drill_word(drill)) }
                    td { (drill.snapshot.short()) }
                    td { (drill.whole_seconds().map_or_else(String::new, format_duration)) }
                    td { (drill.failures) @if let Some(first) = &drill.first_failure { ": " (first) } }
                    td { (drill.exceptions) }
                    td { (drill.evidence.by) }
                    td { code { (drill.evidence.id) } }
                }
            }
    };
    html! {
        h3 { "Drills" }
        (table("Drills", &["When", "Result", "Snapshot", "Took", "Failures", "Exceptions", "By", "Evidence"], &rows))
        @if drills.len() > ROWS_MAX { p { "and " (drills.len() - ROWS_MAX) " earlier ones" } }
    }
}

fn retention(report: &Report<'_>, source: &SourceStatus) -> Markup {
    let Some(outlook) = &source.retention else { return html! {} };
    html! {
        h3 { "Retention" }
        p {
            "The policy " (source.policy.as_deref().unwrap_or_default()) " keeps " (count(outlook.kept, "snapshot"))
            @if !outlook.due.is_empty() { " and would let " (outlook.due.len()) " go now" }
            "."
            @if outlook.next.is_empty() { " If a backup follows each night, none goes in the next five weeks." }
        }
        @if !outlook.next.is_empty() {
            p { "If a backup follows each night, the next to go are:" }
            table {
                thead { tr { th scope="col" { "Snapshot" } th scope="col" { "Made" } th scope="col" { "Goes" } } }
                tbody {
                    @for next in outlook.next.iter().take(DEPARTURES_MAX) {
                        tr {
                            th scope="row" { (next.snapshot.short()) }
                            td { (report.day(next.made)) }
                            td { (report.day(next.on)) }
                        }
                    }
                }
            }
        }
    }
}

fn repository(report: &Report<'_>) -> Markup {
    let status = report.status;
    let checks = &report.history.checks;
    html! {
        section {
            h2 { "The repository" }
            dl.tiles {
                (tile("Stored", &format_bytes(status.stored.pack_bytes), &count(status.stored.packs, "pack"), false))
                @match checks.first() {
                    Some(check) => (tile("Last check", if check.clean { "no damage" } else { "DAMAGE" },
                        &format!("{} ago", format_age(check.evidence.age_seconds)), !check.clean)),
                    None => (tile("Last check", "none", "on record within a year", false)),
                }
            }
            @if !checks.is_empty() { (check_table(report, checks)) }
        }
    }
}

fn check_table(report: &Report<'_>, checks: &[CheckStatus]) -> Markup {
    let read = |check: &CheckStatus| match check.read.what {
        ReadScope::Nothing => "structure only".to_owned(),
        _ => format!("{} of {}", check.read.packs, count(check.read.packs_total, "pack")),
    };
    let rows = html! {
            @for check in checks.iter().take(ROWS_MAX) {
                tr {
                    th scope="row" { (report.time(check.evidence.at)) }
                    td {
                        @if check.clean { "no damage" } @else {
                            (count(check.problems, "problem")) ": " (check.first_problem.as_deref().unwrap_or_default())
                        }
                    }
                    td { (read(check)) }
                    td { (format_duration(check.seconds as f64)) }
                    td { (check.evidence.by) }
                    td { code { (check.evidence.id) } }
                }
            }
    };
    html! {
        h3 { "Checks" }
        (table("Checks", &["When", "Result", "Read", "Took", "By", "Evidence"], &rows))
        @if checks.len() > ROWS_MAX { p { "and " (checks.len() - ROWS_MAX) " earlier ones" } }
    }
}
