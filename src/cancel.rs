//! Cancellation: one flag that every long loop looks at, and every wait for a server; and the time by which something must have
//! ended.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// A flag shared by all threads of an operation; once raised it stays raised.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    flag: Arc<AtomicBool>,
    /// When it was first seen raised: a signal handler can raise it, and do no more.
    seen: OnceLock<Instant>,
    /// When it counts as raised at the latest.
    end: Option<Instant>,
}

impl Cancel {
    /// Returns the same flag for something that must have ended at a time: from then on it counts as raised.
    pub fn until(&self, end: Instant) -> Self {
        let end = Some(self.0.end.map_or(end, |own| own.min(end)));
        Self(Arc::new(Shared { flag: self.flag(), seen: self.0.seen.clone(), end }))
    }

    /// Returns whether the flag is raised.
    pub fn is_raised(&self) -> bool {
        self.raised_for().is_some()
    }

    /// Returns for how long the flag is known to be raised, if it is.
    pub fn raised_for(&self) -> Option<Duration> {
        let is_raised = self.0.flag.load(Ordering::Relaxed);
        let raised = is_raised.then(|| self.0.seen.get_or_init(Instant::now).elapsed());
        let over = self.0.end.and_then(|end| Instant::now().checked_duration_since(end));
        raised.max(over)
    }

    /// Returns [`Error::Interrupted`] once the flag is raised.
    pub fn check(&self) -> Result<()> {
        if self.is_raised() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Returns the flag itself, for signal handlers.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0.flag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_that_is_raised_is_known_to_all_and_grows_old() {
        let cancel = Cancel::default();
        let other = cancel.clone();
        assert!(cancel.raised_for().is_none() && other.check().is_ok());
        cancel.flag().store(true, Ordering::Relaxed);
        assert!(cancel.is_raised() && matches!(other.check(), Err(Error::Interrupted)));
        std::thread::sleep(Duration::from_millis(20));
        assert!(other.raised_for().unwrap() >= Duration::from_millis(20));
    }

    #[test]
    fn what_must_have_ended_counts_as_cancelled_from_then_on_and_nothing_else_does() {
        let cancel = Cancel::default();
        let (past, future) = (Instant::now(), Instant::now() + Duration::from_secs(3600));
        assert!(cancel.until(past).is_raised() && cancel.until(future).until(past).is_raised());
        assert!(!cancel.until(future).is_raised() && !cancel.is_raised());
        cancel.flag().store(true, Ordering::Relaxed);
        assert!(cancel.until(future).is_raised());
    }
}
