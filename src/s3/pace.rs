//! How fast bodies go over the network: a limit for all that the process sends, and one for all that it receives.
//!
//! What must stay true:
//! - A limit is shared: whatever the process does at the same time, with however many servers, goes no faster together.
//! - No limit makes a request fail. Only so many bodies go at once as each can have twice the slowest pace that is waited
//!   for, and that pace is lowered where the limit itself is slower. Who waits for its turn has not begun its request.
//! - Once somebody has asked to stop, nothing waits here any more: what ends a session has little time, and is small.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::sleep;

use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::s3::patience::Patience;
use crate::sync::lock;
use crate::units::{KIB, parse_bytes};

/// The slowest limit, in bytes per second: what is slower looks like a server that stands still.
const RATE_MIN: u64 = 16 * KIB;
/// Most bodies that go at once in one direction.
const TURNS_MAX: u64 = 1024;

/// The limits of a process. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// Of what is sent.
    pub upload: Lane,
    /// Of what is received.
    pub download: Lane,
}

impl Limits {
    /// Returns the patience for a server that is reached under these limits.
    pub(super) fn patience(&self, patience: Patience) -> Patience {
        let slowest = [&self.upload, &self.download].into_iter().filter_map(Lane::bytes_per_second).min();
        let bytes_per_second_min = patience.bytes_per_second_min.min(slowest.unwrap_or(u64::MAX) / 2);
        Patience { bytes_per_second_min, ..patience }
    }
}

/// One direction, with or without a limit.
#[derive(Debug, Clone, Default)]
pub struct Lane(Option<Arc<Limited>>);

#[derive(Debug)]
struct Limited {
    bytes_per_second: u64,
    /// When all that was let through has had its time.
    free_at: Mutex<Option<Instant>>,
    turns: Semaphore,
    cancel: Cancel,
}

impl Lane {
    /// Reads a limit such as `10M`, in bytes per second. `by` names the setting.
    pub fn parse(text: &str, by: &str, cancel: &Cancel) -> Result<Self> {
        let invalid = |reason: &str| Error::Invalid(format!("{text:?} ({by}) is not a rate: {reason}"));
        let rate = parse_bytes(text).ok_or_else(|| invalid("write bytes per second, such as 10M"))?;
        if rate < RATE_MIN {
            return Err(invalid("16K per second is the slowest"));
        }
        Ok(Self::limited(rate, cancel))
    }

    /// Returns a direction with a limit in bytes per second, which holds until `cancel` is raised.
    pub fn limited(bytes_per_second: u64, cancel: &Cancel) -> Self {
        let turns = bytes_per_second / (2 * Patience::default().bytes_per_second_min);
        Self(Some(Arc::new(Limited {
            bytes_per_second: bytes_per_second.max(1),
            free_at: Mutex::default(),
            turns: Semaphore::new(turns.clamp(1, TURNS_MAX) as usize),
            cancel: cancel.clone(),
        })))
    }

    fn bytes_per_second(&self) -> Option<u64> {
        self.0.as_ref().map(|limited| limited.bytes_per_second)
    }

    fn limited_now(&self) -> Option<&Limited> {
        self.0.as_deref().filter(|limited| !limited.cancel.is_raised())
    }

    /// Waits until a body may begin. It may go on for as long as what is returned is held.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.limited_now()?.turns.acquire().await.ok()
    }

    /// Waits until these bytes have had their time.
    pub(super) async fn pass(&self, bytes: usize) {
        if let Some(wait) = self.reserve(bytes, Instant::now()) {
            sleep(wait).await;
        }
    }

    /// Takes the time that these bytes need after all before them. Returns how long it is until then, if it is not over yet.
    pub(super) fn reserve(&self, bytes: usize, now: Instant) -> Option<Duration> {
        let limited = self.limited_now()?;
        let mut free_at = lock(&limited.free_at);
        let begins = free_at.map_or(now, |free_at| free_at.max(now));
        let ends = begins + Duration::from_secs_f64(bytes as f64 / limited.bytes_per_second as f64);
        *free_at = Some(ends);
        Some(ends - now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_reserved_together_keeps_to_the_rate() {
        let lane = Lane::limited(100_000, &Cancel::default());
        let other = lane.clone();
        let now = Instant::now();
        assert_eq!(lane.reserve(50_000, now), Some(Duration::from_millis(500)));
        assert_eq!(other.reserve(100_000, now), Some(Duration::from_millis(1500)));
        // Time that nobody used is not saved up.
        let later = now + Duration::from_secs(60);
        assert_eq!(lane.reserve(100_000, later), Some(Duration::from_secs(1)));
        assert_eq!(Lane::default().reserve(100_000, now), None);
    }

    #[test]
    fn nothing_waits_once_somebody_asked_to_stop() {
        let cancel = Cancel::default();
        let lane = Lane::limited(1000, &cancel);
        cancel.flag().store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(lane.reserve(1 << 20, Instant::now()), None);
    }

    #[test]
    fn patience_goes_as_slow_as_the_limit_and_no_slower() {
        let slow = Lane::limited(20_000, &Cancel::default());
        let usual = Patience::default();
        let limits = |upload: &Lane| Limits { upload: upload.clone(), download: Lane::default() };
        assert_eq!(limits(&slow).patience(usual).bytes_per_second_min, 10_000);
        assert_eq!(limits(&Lane::default()).patience(usual).bytes_per_second_min, usual.bytes_per_second_min);
        let fast = Lane::limited(100 << 20, &Cancel::default());
        assert_eq!(limits(&fast).patience(usual).bytes_per_second_min, usual.bytes_per_second_min);
    }

    #[test]
    fn a_limit_is_a_rate_that_is_not_too_slow() {
        for text in ["", "fast", "10", "15K", "-1M"] {
            let message = Lane::parse(text, "--limit-upload", &Cancel::default()).unwrap_err().to_string();
            assert!(message.contains("--limit-upload"), "{message}");
        }
        assert_eq!(Lane::parse("10M", "x", &Cancel::default()).unwrap().bytes_per_second(), Some(10 << 20));
    }
}
