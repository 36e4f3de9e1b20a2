//! What an operation tells while it runs. The library never prints; it talks to a [`Monitor`].

use std::sync::atomic::{AtomicU64, Ordering};

/// A running total that an operation adds to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// Entries handled so far: files, directories, symlinks.
    Entries,
    /// Bytes handled so far, of those that the phase has to handle.
    Bytes,
    /// Bytes that were already in the repository, or already right in the target.
    BytesDeduplicated,
    /// Bytes sent to or fetched from the backend.
    BytesTransferred,
}

/// How many counters there are.
const COUNTERS: usize = 4;

/// Receives progress and problems. Called from many threads; must be cheap.
pub trait Monitor: Send + Sync {
    /// What the run is about, for logs. The text is only made where one is kept.
    fn begun(&self, _text: &dyn Fn() -> String) {}
    /// A phase begins; totals are given where they are known.
    fn phase(&self, name: &'static str, entries_total: Option<u64>, bytes_total: Option<u64>);
    /// Returns whether totals are worth finding out where they are not known from the start.
    fn wants_totals(&self) -> bool {
        false
    }
    /// The totals of the current phase have become known.
    fn totals(&self, _entries: u64, _bytes: u64) {}
    /// Adds to a counter of the current phase.
    fn count(&self, counter: Counter, amount: u64);
    /// Something went wrong with one item and the operation goes on.
    fn problem(&self, subject: &str, message: &str);
    /// Something that whoever uses the result has to know, also who wants to hear little.
    fn warning(&self, message: &str) {
        self.note(message);
    }
    /// Something worth saying that is not a problem.
    fn note(&self, message: &str);
    /// Something was done to one item. The text is only made for those who want to see it.
    fn detail(&self, _text: &dyn Fn() -> String) {}
}

/// Running totals, for implementations of [`Monitor`].
#[derive(Debug, Default)]
pub struct Totals([AtomicU64; COUNTERS]);

impl Totals {
    /// Adds to one total.
    pub fn add(&self, counter: Counter, amount: u64) {
        self.0[counter as usize].fetch_add(amount, Ordering::Relaxed);
    }

    /// Returns one total.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize].load(Ordering::Relaxed)
    }

    /// Sets all totals to zero.
    pub fn reset(&self) {
        self.0.iter().for_each(|total| total.store(0, Ordering::Relaxed));
    }
}

/// A monitor that keeps silent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Monitor for Silent {
    fn phase(&self, _: &'static str, _: Option<u64>, _: Option<u64>) {}
    fn count(&self, _: Counter, _: u64) {}
    fn problem(&self, _: &str, _: &str) {}
    fn note(&self, _: &str) {}
}
