//! What becomes of requests once somebody has asked to stop.
//!
//! A server that stalls is waited for with patience, which would outlast the time that Kubernetes leaves a pod by far. So
//! what is under way is given up early, but for small writes. Those, and what is begun after that, end a session: they say
//! which packs are there, and whether a snapshot will come. They are tried in short attempts, because the server may
//! answer again.
//!
//! What must stay true: once the flag is raised, every request ends within [`CLOSING_MAX`]. Until then, whoever waits for
//! long is told so.

use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::hears::Hears;
use crate::runtime::LOOK;
use crate::units::MIB;

/// How long a write may go on that is under way when somebody asks to stop: it may be almost done.
const SETTLE_MAX: Duration = Duration::from_secs(3);
/// How long requests are tried that end a session.
const CLOSING_MAX: Duration = Duration::from_secs(12);
/// How long the first attempt of such a request may take; each further one may take twice as long.
const ATTEMPT_FIRST: Duration = Duration::from_secs(2);
/// Longest body of a write that is sent again after a wish to stop. What is longer is content, of no use to anybody unless
/// a segment names it.
const SMALL_BYTES_MAX: u64 = 4 * MIB;
/// How long a server may take for an answer until somebody is told.
const LONG: Duration = Duration::from_secs(15);
/// The same where content is on its way: on a slow link that takes minutes.
const LONG_WITH_CONTENT: Duration = Duration::from_secs(120);

/// What a request does, which decides how long it may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It asks for something, which nobody wants any more.
    Read,
    /// It changes something, and is small.
    Write,
    /// It brings content.
    Content,
    /// It fetches content.
    Body,
}

impl Kind {
    /// Returns what a write with a body of `len` bytes is.
    pub fn of_write(len: usize) -> Self {
        if len as u64 > SMALL_BYTES_MAX { Self::Content } else { Self::Write }
    }

    /// Returns how long it may go on if it was begun before the wish to stop.
    fn grace(self) -> Duration {
        if matches!(self, Self::Read | Self::Body) { Duration::ZERO } else { SETTLE_MAX }
    }

    /// Returns after which time, and then how often, is said that it is still waited for.
    fn long(self) -> Duration {
        match self {
            Self::Read | Self::Write => LONG,
            Self::Content | Self::Body => LONG_WITH_CONTENT,
        }
    }
}

/// Waits for an answer. `request` may be sent again.
pub async fn answer<T, F: Future<Output = T>>(hears: &Hears, kind: Kind, request: impl Fn() -> F) -> Result<T> {
    if !hears.cancel.is_raised() {
        let answer = unless_stopped(hears, kind, request()).await;
        if answer.is_ok() || kind != Kind::Write {
            return answer;
        }
    }
    closing(&hears.cancel, request).await
}

/// Waits for an answer, until somebody asks to stop.
pub async fn unless_stopped<T>(hears: &Hears, kind: Kind, request: impl Future<Output = T>) -> Result<T> {
    let mut request = pin!(request);
    let (begun, mut told) = (Instant::now(), Duration::ZERO);
    loop {
        if let Ok(answer) = timeout(LOOK, &mut request).await {
            return Ok(answer);
        }
        if hears.cancel.raised_for().is_some_and(|time| time >= kind.grace()) {
            return Err(Error::Interrupted);
        }
        if begun.elapsed() >= told + kind.long() {
            told += kind.long();
            hears
                .monitor
                .note(&format!("The S3 server has not finished an answer for {} s; still waiting", told.as_secs()));
        }
    }
}

async fn closing<T, F: Future<Output = T>>(cancel: &Cancel, request: impl Fn() -> F) -> Result<T> {
    let mut attempt = ATTEMPT_FIRST;
    loop {
        let left = CLOSING_MAX.saturating_sub(cancel.raised_for().unwrap_or_default());
        if left.is_zero() {
            return Err(Error::Interrupted);
        }
        if let Ok(answer) = timeout(attempt.min(left), request()).await {
            return Ok(answer);
        }
        attempt *= 2;
    }
}
