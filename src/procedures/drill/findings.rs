//! What a drill finds: failures, and exceptions, which are what could not be compared.
//!
//! What must stay true: nothing that goes wrong during a drill is lost. What any part of it tells the monitor as a problem is a
//! failure; an error of one check is a failure, and the other checks go on. Only a wish to stop ends the drill.

use std::sync::{Arc, Mutex};

use crate::error::{Error, Result};
use crate::format::evidence::Lines;
use crate::hears::Hears;
use crate::monitor::{Counter, Monitor};
use crate::sync::lock;

/// Collects what is found. Clones share it.
#[derive(Clone)]
pub struct Findings {
    found: Arc<Mutex<Found>>,
    monitor: Arc<dyn Monitor>,
}

#[derive(Default)]
struct Found {
    failures: Lines,
    exceptions: Lines,
}

impl Findings {
    /// Starts with nothing found.
    pub fn new(monitor: &Arc<dyn Monitor>) -> Self {
        Self { found: Arc::default(), monitor: Arc::clone(monitor) }
    }

    /// Adds something that is not as it should be.
    pub fn failure(&self, subject: &str, message: &str) {
        lock(&self.found).failures.push(&format!("{subject}: {message}"));
        self.monitor.problem(subject, message);
    }

    /// Adds something that could not be compared, or is not in the snapshot.
    pub fn exception(&self, subject: &str, message: &str) {
        let line = format!("{subject}: {message}");
        lock(&self.found).exceptions.push(&line);
        self.monitor.note(&line);
    }

    /// Runs one check. What keeps it from going on is a failure, unless it is a wish to stop.
    pub fn check<T>(&self, subject: &str, check: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        match check() {
            Ok(found) => Ok(Some(found)),
            Err(Error::Interrupted) => Err(Error::Interrupted),
            Err(error) => {
                self.failure(subject, &error.to_string());
                Ok(None)
            }
        }
    }

    /// Returns somebody who hears as `hears` does, and for whom each problem is a failure.
    pub fn heard(&self, hears: &Hears) -> Hears {
        Hears::new(Arc::new(self.clone()), hears.cancel.clone())
    }

    /// Returns failures and exceptions.
    pub fn lines(&self) -> (Lines, Lines) {
        let found = lock(&self.found);
        (found.failures.clone(), found.exceptions.clone())
    }
}

impl Monitor for Findings {
    fn phase(&self, name: &'static str, entries_total: Option<u64>, bytes_total: Option<u64>) {
        self.monitor.phase(name, entries_total, bytes_total);
    }

    fn wants_totals(&self) -> bool {
        self.monitor.wants_totals()
    }

    fn totals(&self, entries: u64, bytes: u64) {
        self.monitor.totals(entries, bytes);
    }

    fn count(&self, counter: Counter, amount: u64) {
        self.monitor.count(counter, amount);
    }

    fn problem(&self, subject: &str, message: &str) {
        self.failure(subject, message);
    }

    /// What whoever uses the restored has to know is what the drill could not show.
    fn warning(&self, message: &str) {
        self.exception("restore", message);
    }

    fn note(&self, message: &str) {
        self.monitor.note(message);
    }

    fn detail(&self, text: &dyn Fn() -> String) {
        self.monitor.detail(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_wrong_is_a_failure_however_it_is_told_and_a_wish_to_stop_ends_all() {
        let hears = Hears::nobody();
        let findings = Findings::new(&hears.monitor);
        findings.heard(&hears).monitor.problem("artifacts/a", "it is lost");
        let failed = || Err::<(), _>(Error::Refused("no".to_owned()));
        assert!(findings.check("tables", failed).unwrap().is_none());
        assert!(matches!(findings.check("tables", || Err::<(), _>(Error::Interrupted)), Err(Error::Interrupted)));
        findings.exception("artifacts/b", "it is not in the snapshot");
        let (failures, exceptions) = findings.lines();
        assert_eq!(failures.first, ["artifacts/a: it is lost", "tables: no"]);
        assert_eq!((failures.count, exceptions.count), (2, 1));
    }
}
