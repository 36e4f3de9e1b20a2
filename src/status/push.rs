//! Hands metrics to a push gateway of Prometheus, for jobs that nobody can ask.
//!
//! What must stay true: what was pushed before is replaced whole (PUT), so that a source that is gone leaves no metric behind.

use std::io;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::http::{HttpTarget, Reply};

/// The media type: the gateway reads the text format, of which that of OpenMetrics is one without samples of other kinds.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// How long the gateway may take.
const TIME_MAX: Duration = Duration::from_secs(30);

/// Replaces the metrics of a group, such as `http://gateway:9091/metrics/job/mlvault`.
pub fn push(target: &HttpTarget, encoded: &str) -> Result<()> {
    let fault = |reason: String| Error::target("push metrics to", target.shown(), io::Error::other(reason));
    let agent = target.agent("the push gateway", TIME_MAX)?;
    let answer = agent.put(target.url().as_str()).header("Content-Type", CONTENT_TYPE).send(encoded.as_bytes());
    let Reply { status, said } = Reply::read(answer.map_err(|error| fault(error.to_string()))?);
    match status {
        200..=299 => Ok(()),
        300..=399 => Err(fault(format!("status {status}: it redirects, which is not followed"))),
        _ => Err(fault(said)),
    }
}
