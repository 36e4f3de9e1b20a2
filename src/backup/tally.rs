//! Counts how the files of a source compare with those of the parent, from many threads.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::backup::parent::SinceParent;
use crate::format::snapshot::Statistics;

/// The counts. Threads add to them in any order; they are read once all have ended.
#[derive(Default)]
pub struct Tally {
    new: AtomicU64,
    changed: AtomicU64,
    unchanged: AtomicU64,
    bytes_read: AtomicU64,
}

impl Tally {
    /// Counts a file.
    pub fn count(&self, comparison: &SinceParent) {
        let counter = match comparison {
            SinceParent::New => &self.new,
            SinceParent::Changed => &self.changed,
            SinceParent::Unchanged(..) => &self.unchanged,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts bytes that were read, or would be.
    pub fn count_read(&self, bytes: u64) {
        self.bytes_read.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns the counts; the other fields are zero.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            files_new: self.new.load(Ordering::Relaxed),
            files_changed: self.changed.load(Ordering::Relaxed),
            files_unchanged: self.unchanged.load(Ordering::Relaxed),
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            ..Statistics::default()
        }
    }
}
