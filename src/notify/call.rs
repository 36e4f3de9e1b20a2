//! Tells by a request to a URL: a webhook with the whole summary, a chat with a text, or a sign of life.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use ureq::Body;
use ureq::http::Response;
use url::Url;
use zeroize::Zeroizing;

use super::Failure;
use crate::error::Result;
use crate::http::{self, HttpTarget, Reply};
use crate::run_summary::{Event, RunSummary};

/// How much of the text a sign of life carries, in bytes: what services keep.
const PING_BYTES_MAX: usize = 10_000;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sends {
    /// The summary.
    Summary,
    /// A text, as Slack and what is compatible takes it.
    Chat,
    /// Signs of life: that a run begins, and how it ended.
    Ping,
}

impl Sends {
    /// Returns the word in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Summary => "webhook",
            Self::Chat => "slack",
            Self::Ping => "ping",
        }
    }
}

/// A URL that wants to be called.
#[derive(Debug, Clone)]
pub struct Call {
    /// What is sent.
    pub sends: Sends,
    /// Where to.
    pub target: HttpTarget,
}

impl Call {
    /// Reads a URL. No message repeats it.
    pub fn new(sends: Sends, url: &str, insecure_http: bool, ca_bundle: Option<PathBuf>) -> Result<Self> {
        Ok(Self { sends, target: HttpTarget::new(url, insecure_http, ca_bundle)? })
    }

    /// Returns scheme and host.
    pub fn shown(&self) -> String {
        self.target.shown()
    }

    /// Sends a request. Returns what was answered.
    pub(super) fn send(&self, summary: &RunSummary, time: Duration) -> Result<String, Failure> {
        let agent = self.target.agent("a notification", time).map_err(Failure::lasting)?;
        let (url, kind, body) = self.request(summary).map_err(Failure::lasting)?;
        // In one piece, with its length: not every server reads chunks.
        let answer = agent.post(url.as_str()).header("Content-Type", kind).send(body);
        match answer {
            Ok(answer) => judge(answer),
            Err(error) if http::is_untrusted(&error) => Err(Failure::lasting(error)),
            Err(error) => Err(Failure::passing(error)),
        }
    }

    fn request(&self, summary: &RunSummary) -> serde_json::Result<(Zeroizing<String>, &'static str, Vec<u8>)> {
        let is_json = "application/json";
        Ok(match self.sends {
            Sends::Summary => (self.target.url().clone(), is_json, serde_json::to_vec(summary)?),
            Sends::Chat => {
                (self.target.url().clone(), is_json, serde_json::to_vec(&json!({ "text": escape(&summary.text()) }))?)
            }
            Sends::Ping => (self.ping_url(summary), "text/plain; charset=utf-8", ping_text(summary)),
        })
    }

    /// Healthchecks' way: the URL for success, and below it what else there is to say.
    fn ping_url(&self, summary: &RunSummary) -> Zeroizing<String> {
        let below = match (summary.event, summary.exit_code) {
            (Event::Start, _) => "start".to_owned(),
            // It is written down and changes no state.
            (Event::Test, _) => "log".to_owned(),
            (Event::Summary, Some(0)) => return self.target.url().clone(),
            (Event::Summary, code) => code.map_or_else(|| "fail".to_owned(), |code| code.to_string()),
        };
        let Ok(mut url) = Url::parse(self.target.url()) else { return self.target.url().clone() };
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push(&below);
        }
        Zeroizing::new(url.to_string())
    }
}

fn ping_text(summary: &RunSummary) -> Vec<u8> {
    let mut text = if summary.event == Event::Start { String::new() } else { summary.text() };
    text.truncate((0..=PING_BYTES_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0));
    text.into_bytes()
}

/// Slack reads these as its own.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn judge(answer: Response<Body>) -> Result<String, Failure> {
    let Reply { status, said } = Reply::read(answer);
    match status {
        200..=299 => Ok(said),
        300..=399 => Err(Failure::lasting(format!("status {status}: it redirects, which is not followed"))),
        408 | 429 | 500..=599 => Err(Failure::passing(said)),
        _ => Err(Failure::lasting(said)),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn call(url: &str) -> Result<Call> {
        Call::new(Sends::Ping, url, false, None)
    }

    #[test]
    fn a_url_is_refused_without_being_repeated_and_shown_without_its_path() {
        for url in ["hunter2", "ftp://h/hunter2", "http://192.0.2.1/hunter2"] {
            let message = call(url).unwrap_err().to_string();
            assert!(message.contains("cannot be used") && !message.contains("hunter2"), "{message}");
        }
        assert!(Call::new(Sends::Ping, "http://192.0.2.1/hunter2", true, None).is_ok());
        let call = call("https://ann:hunter2@hc.example.org:8443/hunter2?hunter2").unwrap();
        assert_eq!(call.shown(), "https://hc.example.org:8443");
        assert!(!format!("{call:?}").contains("hunter2"));
    }

    #[test]
    fn a_ping_says_below_its_url_how_it_went() {
        let call = call("http://127.0.0.1/ping/id?rid=1").unwrap();
        let mut summary = RunSummary::begun(Event::Start, None, Timestamp::UNIX_EPOCH);
        assert_eq!(*call.ping_url(&summary), "http://127.0.0.1/ping/id/start?rid=1");
        summary.end(3, None, Timestamp::UNIX_EPOCH);
        assert_eq!(*call.ping_url(&summary), "http://127.0.0.1/ping/id/3?rid=1");
        summary.end(0, None, Timestamp::UNIX_EPOCH);
        assert_eq!(*call.ping_url(&summary), "http://127.0.0.1/ping/id?rid=1");
    }
}
