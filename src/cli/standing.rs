//! How far a phase has come, in one line that fits where it is shown.
//!
//! What must stay true: a line never has more columns than there are, so that a terminal does not break it and each update
//! replaces the one before; where room is short, what matters least is left out first.

use mlvault::units::{count, format_bytes, format_duration};

/// Columns of the shortest and the longest bar.
const BAR_COLUMNS: std::ops::RangeInclusive<usize> = 10..=40;

/// How far a phase has come.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// What is being done.
    pub phase: &'static str,
    /// Since the phase began.
    pub seconds: f64,
    /// Entries that are done.
    pub entries: u64,
    /// Entries that there are; zero where that is not known.
    pub entries_total: u64,
    /// Bytes that are done.
    pub bytes: u64,
    /// Bytes that there are; zero where that is not known.
    pub bytes_total: u64,
    /// Bytes that were there already.
    pub known: u64,
}

/// What is said after the phase, in the order in which it stands there. What matters most has the lowest rank.
struct Part {
    rank: u8,
    text: String,
}

impl Standing {
    /// Returns the share that is done, where totals are known. Sizes tell more than numbers.
    pub fn share(&self) -> Option<f64> {
        let share = |done: u64, total: u64| (total > 0).then(|| (done as f64 / total as f64).min(1.0));
        share(self.bytes, self.bytes_total).or_else(|| share(self.entries, self.entries_total))
    }

    /// Returns the seconds that are left, if all goes on as it went so far.
    pub fn remaining(&self) -> Option<f64> {
        let share = self.share().filter(|share| *share > 0.0 && *share < 1.0)?;
        Some(self.seconds * (1.0 - share) / share)
    }

    /// Says everything.
    pub fn whole(&self) -> String {
        joined(self.phase, &self.parts())
    }

    /// Says, with a bar before it, what fits into so many columns.
    pub fn line(&self, columns: usize) -> String {
        let mut parts = self.parts();
        while joined(self.phase, &parts).chars().count() > columns {
            let Some(last) = (0..parts.len()).max_by_key(|at| parts[*at].rank) else { break };
            parts.remove(last);
        }
        let text: String = joined(self.phase, &parts).chars().take(columns).collect();
        let room = columns.saturating_sub(text.chars().count() + 1).min(*BAR_COLUMNS.end());
        match self.share().filter(|_| room >= *BAR_COLUMNS.start()) {
            Some(share) => format!("{} {text}", bar(share, room)),
            None => text,
        }
    }

    fn parts(&self) -> Vec<Part> {
        let part = |rank, text| Part { rank, text };
        let has_entries = self.entries > 0 || self.entries_total > 0;
        let has_bytes = self.bytes > 0 || self.bytes_total > 0;
        let mut parts = Vec::new();
        // What is not all done is not called so.
        parts.extend(self.share().map(|share| part(0, format!("{} %", (share * 100.0).floor()))));
        if has_entries {
            parts.push(part(4, entries(self.entries, self.entries_total)));
        }
        if has_bytes {
            parts.push(part(2, bytes(self.bytes, self.bytes_total)));
            parts.push(part(3, format!("{}/s", format_bytes((self.bytes as f64 / self.seconds.max(0.001)) as u64))));
        }
        if self.known > 0 {
            parts.push(part(5, format!("{} already there", format_bytes(self.known))));
        }
        match self.remaining() {
            Some(seconds) => parts.push(part(1, format!("{} left", format_duration(seconds)))),
            None if !has_entries && !has_bytes => parts.push(part(1, format_duration(self.seconds))),
            None => {}
        }
        parts
    }
}

fn joined(phase: &str, parts: &[Part]) -> String {
    let parts: Vec<&str> = parts.iter().map(|part| part.text.as_str()).collect();
    if parts.is_empty() { phase.to_owned() } else { format!("{phase}: {}", parts.join(", ")) }
}

fn entries(done: u64, total: u64) -> String {
    if total > 0 { format!("{done}/{}", count(total, "entry")) } else { count(done, "entry") }
}

/// Names a unit that both have once.
fn bytes(done: u64, total: u64) -> String {
    let done = format_bytes(done);
    if total == 0 {
        return done;
    }
    let total = format_bytes(total);
    match (done.split_once(' '), total.split_once(' ')) {
        (Some((number, unit)), Some((_, of))) if unit == of => format!("{number}/{total}"),
        _ => format!("{done}/{total}"),
    }
}

fn bar(share: f64, columns: usize) -> String {
    let inner = columns.saturating_sub(2);
    let done = ((inner as f64 * share) as usize).min(inner);
    let head = if done < inner { ">" } else { "" };
    let rest = " ".repeat(inner.saturating_sub(done + head.len()));
    format!("[{}{head}{rest}]", "=".repeat(done))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn backup() -> Standing {
        Standing {
            phase: "backup",
            seconds: 120.0,
            entries: 1204,
            entries_total: 5000,
            bytes: 3 * GIB / 2,
            bytes_total: 4 * GIB,
            known: 600 << 20,
        }
    }

    #[test]
    fn what_matters_least_is_left_out_first() {
        for (columns, expected) in [
            (20, "backup: 37 %"),
            (30, "backup: 37 %, 4 min left"),
            (40, "backup: 37 %, 1.5/4.0 GiB, 4 min left"),
            (60, "[===>    ] backup: 37 %, 1.5/4.0 GiB, 12.8 MiB/s, 4 min left"),
            (80, "[===>     ] backup: 37 %, 1204/5000 entries, 1.5/4.0 GiB, 12.8 MiB/s, 4 min left"),
            (100, "backup: 37 %, 1204/5000 entries, 1.5/4.0 GiB, 12.8 MiB/s, 600.0 MiB already there, 4 min left"),
            (
                140,
                "[==============>                       ] backup: 37 %, 1204/5000 entries, 1.5/4.0 GiB, 12.8 MiB/s, \
                 600.0 MiB already there, 4 min left",
            ),
        ] {
            assert_eq!(backup().line(columns), expected, "{columns}");
        }
    }

    #[test]
    fn no_line_is_longer_than_there_is_room_and_from_40_columns_on_each_has_percent_total_and_time() {
        let large = Standing {
            phase: "look in the other repository",
            seconds: 400_000.0,
            entries: u64::MAX / 4,
            entries_total: u64::MAX / 2,
            bytes: 1023 << 30,
            bytes_total: 1023 << 40,
            known: 1023 << 20,
        };
        let unknown = Standing { entries_total: 0, bytes_total: 0, ..backup() };
        for standing in [backup(), large, unknown, Standing { phase: "databases", ..Standing::default() }] {
            for columns in 0..=250 {
                let line = standing.line(columns);
                assert!(line.chars().count() <= columns, "{columns}: {line}");
            }
        }
        for columns in 40..=200 {
            let line = backup().line(columns);
            for part in ["37 %", "1.5/4.0 GiB", "4 min left"] {
                assert!(line.contains(part), "{columns}: {line}");
            }
        }
    }

    #[test]
    fn without_totals_there_is_neither_bar_nor_percent_and_without_counts_the_time_so_far() {
        let unknown = Standing { entries_total: 0, bytes_total: 0, ..backup() };
        assert_eq!(unknown.whole(), "backup: 1204 entries, 1.5 GiB, 12.8 MiB/s, 600.0 MiB already there");
        assert_eq!(unknown.line(60), "backup: 1204 entries, 1.5 GiB, 12.8 MiB/s");
        let waiting = Standing { phase: "databases", seconds: 42.0, ..Standing::default() };
        assert_eq!(waiting.line(80), "databases: 42 s");
    }

    #[test]
    fn numbers_of_entries_do_where_sizes_are_not_known() {
        let standing =
            Standing { phase: "move objects", seconds: 10.0, entries: 1, entries_total: 4, ..Standing::default() };
        assert_eq!(standing.whole(), "move objects: 25 %, 1/4 entries, 30 s left");
        let done = Standing { entries: 4, ..standing };
        assert_eq!(done.line(47), "[============] move objects: 100 %, 4/4 entries");
    }
}
