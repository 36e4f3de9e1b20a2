//! How long a server is waited for, and how often it is asked again.
//!
//! What must stay true: every wait and every loop has an end. Requests are repeated by the SDK, within the bounds of
//! [`Patience`]. What the SDK does not repeat is repeated by loops of this module, and each of them counts with
//! [`Attempts`].

use std::time::Duration;

use aws_sdk_s3::config::timeout::TimeoutConfig;
use tokio::time::sleep;

/// How often a read is begun, if its body breaks off each time. The SDK repeats no request whose answer has begun.
pub const BODY_ATTEMPTS_MAX: u32 = 4;
/// How often a write is sent, if each time another one for the same key is in progress (HTTP 409). The SDK takes such an
/// answer for final.
pub const CONFLICT_ATTEMPTS_MAX: u32 = 6;

/// How long to wait for a server, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How often a request is sent that fails in a way that may pass.
    pub attempts_max: u32,
    /// Upper bound of the first wait between attempts; it doubles with each one, and is drawn at random.
    pub wait_first: Duration,
    /// Upper bound of each wait between attempts.
    pub wait_max: Duration,
    /// How long a connection may take.
    pub connect: Duration,
    /// How long an answer may take to begin, for a request without a body.
    pub answer: Duration,
    /// How long a body may stand still.
    pub stall: Duration,
    /// The slowest pace at which a body is waited for to its end.
    pub bytes_per_second_min: u64,
}

impl Default for Patience {
    /// Outlasts the restart of a server (a minute on average), and lets eight packs share a link of 4 Mbit/s.
    fn default() -> Self {
        Self {
            attempts_max: 10,
            wait_first: Duration::from_secs(1),
            wait_max: Duration::from_secs(20),
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(60),
            stall: Duration::from_secs(30),
            bytes_per_second_min: 60 * 1024,
        }
    }
}

impl Patience {
    /// Returns how long one attempt with a body of `len` bytes may take.
    pub fn for_body(&self, len: u64) -> Duration {
        self.answer + Duration::from_secs(len / self.bytes_per_second_min.max(1))
    }

    /// Returns how long all attempts together may take: one at the slowest pace, and as long again for the others.
    pub fn for_all_attempts(&self, len: u64) -> Duration {
        (self.answer + self.wait_max) * self.attempts_max + 2 * self.for_body(len)
    }

    pub(super) fn timeouts(&self, len: u64) -> TimeoutConfig {
        TimeoutConfig::builder()
            .connect_timeout(self.connect)
            .operation_attempt_timeout(self.for_body(len))
            .operation_timeout(self.for_all_attempts(len))
            .build()
    }
}

/// Counts the attempts of a loop, and waits between them.
pub struct Attempts {
    left: u32,
    wait: Duration,
    wait_max: Duration,
}

impl Attempts {
    /// Begins with the first of at most `max` attempts.
    pub fn new(max: u32, patience: &Patience) -> Self {
        Self { left: max, wait: patience.wait_first, wait_max: patience.wait_max }
    }

    /// Waits before another attempt; the wait doubles with each one. Returns `false` at once if none is left.
    pub async fn another(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            return false;
        }
        sleep(self.wait).await;
        self.wait = (self.wait * 2).min(self.wait_max);
        true
    }
}
