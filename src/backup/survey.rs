//! Walks that read no content: the one of a dry run, and the one that finds totals for whoever watches a backup.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::backup::parent::{ParentTree, SinceParent};
use crate::backup::problems::Problems;
use crate::backup::tally::Tally;
use crate::error::Result;
use crate::format::snapshot::Statistics;
use crate::hears::Hears;
use crate::monitor::{Counter, Monitor};
use crate::source::{Found, Source};

/// Walks a source beside the parent without reading content. Returns entries, bytes and what a backup would do.
pub fn survey(
    source: &dyn Source,
    mut parent: ParentTree<'_>,
    problems: &Problems,
    hears: &Hears,
) -> Result<(u64, u64, Statistics)> {
    let monitor = &hears.monitor;
    monitor.phase("survey", None, None);
    let tally = Tally::default();
    let (mut entries, mut bytes) = (0, 0_u64);
    for found in source.walk() {
        hears.check()?;
        match found {
            Found::Unreadable { path, message, .. } => problems.add(&path, &message),
            Found::Skipped { path, message: what, .. } | Found::LeftOut { path, reason: what, .. } => {
                monitor.note(&format!("{path} would be left out: it is {what}"));
            }
            Found::Failed(error) => return Err(error),
            Found::Item(item) => {
                entries += 1;
                monitor.count(Counter::Entries, 1);
                if let Some(size) = item.size() {
                    bytes = bytes.saturating_add(size);
                    let comparison = parent.compare(&item, &|_, _| Ok(true))?;
                    tally.count(&comparison);
                    if !matches!(comparison, SinceParent::Unchanged(..)) {
                        tally.count_read(size);
                    }
                }
            }
        }
    }
    Ok((entries, bytes, tally.statistics()))
}

/// Walks ahead of the backup, so that a person watching learns how much there is.
pub fn find_totals(source: &dyn Source, monitor: &dyn Monitor, finished: &AtomicBool) {
    let (mut entries, mut bytes) = (0, 0_u64);
    for found in source.walk() {
        if finished.load(Ordering::Relaxed) {
            return;
        }
        if let Found::Item(item) = found {
            entries += 1;
            bytes = bytes.saturating_add(item.size().unwrap_or(0));
        }
    }
    monitor.totals(entries, bytes);
}
