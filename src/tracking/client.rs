//! Requests to an MLflow server, with patience.
//!
//! What must stay true:
//! - Credentials go to the configured server only: redirects are not followed.
//! - [`TrackingClient::get`] and [`TrackingClient::search`] change nothing on the server, and are tried again where that
//!   may help; what changes something is sent again only if the server surely did not act on it.
//! - No answer takes more memory than a named limit.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use ureq::http::request::Builder;
use ureq::http::{Request, Response};
use ureq::{Agent, Body};
use url::Url;
use zeroize::Zeroizing;

use super::json;
use super::options::{Login, TrackingOptions};
use crate::error::{Error, Fault, Result};
use crate::hears::Hears;
use crate::http::{self, HttpOptions, read_body};
use crate::units::{KIB, MIB};

/// Longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 512 * MIB;
/// How much of an answer that tells of an error is read.
const ERROR_BYTES_MAX: u64 = 64 * KIB;
/// How much of it is repeated, in characters.
const REASON_LEN_MAX: usize = 500;
/// Longest time between two attempts, whatever the server asks for.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How often a wait looks whether it is still wanted.
const WAIT_STEP: Duration = Duration::from_millis(100);
/// How long an unused connection is kept: MLflow's server closes it after five seconds.
const IDLE_MAX: Duration = Duration::from_secs(3);

/// A client of one MLflow server. Clones share its connections.
#[derive(Clone)]
pub struct TrackingClient {
    agent: Agent,
    options: Arc<TrackingOptions>,
    authorization: Option<Arc<Zeroizing<String>>>,
    hears: Hears,
}

/// What is sent with a request.
enum Payload<'a> {
    Nothing,
    Json(&'a Value),
    File(&'a Path),
}

impl TrackingClient {
    /// Prepares a client; nothing is sent yet.
    pub fn connect(options: &TrackingOptions) -> Result<Self> {
        let http = HttpOptions {
            server: "the MLflow server",
            ca_bundle: options.ca_bundle.clone(),
            client_certificate: options.client_certificate.clone(),
            ignore_tls: options.ignore_tls,
            silence_max: options.timeout,
            total_max: None,
            idle_max: IDLE_MAX,
        };
        Ok(Self {
            agent: http::agent(&http)?,
            options: Arc::new(options.clone()),
            authorization: authorization(&options.login).map(|header| Arc::new(Zeroizing::new(header))),
            hears: Hears::nobody(),
        })
    }

    /// Returns a client that tells of attempts that failed, and gives up with [`Error::Interrupted`] once somebody asks to
    /// stop.
    pub fn heard_by(&self, hears: &Hears) -> Self {
        Self { hears: hears.clone(), ..self.clone() }
    }

    /// Returns a client that asks about one workspace.
    pub fn with_workspace(&self, workspace: &str) -> Self {
        let options = TrackingOptions { workspace: Some(workspace.to_owned()), ..(*self.options).clone() };
        Self { options: Arc::new(options), ..self.clone() }
    }

    /// Returns the server's URI, without credentials.
    pub fn uri(&self) -> &str {
        &self.options.uri
    }

    /// Returns the workspace that is asked about, if one was named.
    pub fn workspace(&self) -> Option<&str> {
        self.options.workspace.as_deref()
    }

    /// Fails unless the server is there and well. Needs no credentials.
    pub fn health(&self) -> Result<()> {
        self.read("/health", &[]).map(drop)
    }

    /// Returns MLflow's version. Only servers with passwords want credentials for it.
    pub fn version(&self) -> Result<String> {
        let text = self.read("/version", &[])?;
        let version = String::from_utf8_lossy(&text).trim().to_owned();
        let is_version = version.starts_with(|c: char| c.is_ascii_digit()) && version.len() < 64;
        if is_version { Ok(version) } else { Err(self.error(Fault::BadAnswer, "/version", "it is not MLflow's")) }
    }

    /// Fails unless the server answers to the name that it is called by, and lets this user read.
    pub fn check_access(&self) -> Result<()> {
        self.search("/api/2.0/mlflow/experiments/search", &serde_json::json!({ "max_results": 1 })).map(drop)
    }

    /// Returns what the server tells of itself; [`Fault::Unsupported`] if it is too old for that.
    pub fn server_info(&self) -> Result<Value> {
        self.get("/api/3.0/mlflow/server-info", &[])
    }

    /// Sends a GET, whose path names an endpoint that changes nothing.
    pub(super) fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value> {
        let bytes = self.read(path, query)?;
        json::parse(&bytes).map_err(|error| self.error(Fault::BadAnswer, path, error))
    }

    /// Sends a POST to an endpoint that only searches.
    pub(super) fn search(&self, path: &str, body: &Value) -> Result<Value> {
        assert!(path.ends_with("/search"), "only searches change nothing");
        let bytes = self.ask("POST", path, &[], &Payload::Json(body), true)?;
        json::parse(&bytes).map_err(|error| self.error(Fault::BadAnswer, path, error))
    }

    /// Sends a request that changes something on the server. It may have been acted on even if this fails.
    pub(super) fn write(&self, method: &'static str, path: &str, body: &Value) -> Result<Value> {
        let bytes = self.ask(method, path, &[], &Payload::Json(body), false)?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        json::parse(&bytes).map_err(|error| self.error(Fault::BadAnswer, path, error))
    }

    /// Stores a file as an artifact, in place of one of that name. `path` is below `mlflow-artifacts:/`.
    pub(super) fn upload(&self, path: &str, file: &Path) -> Result<()> {
        self.ask("PUT", &artifact_path(path), &[], &Payload::File(file), true).map(drop)
    }

    /// Reads an artifact by way of the server. `path` is below `mlflow-artifacts:/`. Returns how many bytes it had.
    pub fn download(&self, path: &str, into: &mut dyn std::io::Write) -> Result<u64> {
        self.hears.check()?;
        let path = artifact_path(path);
        let request = Request::builder().method("GET").uri(format!("{}{path}", self.options.uri));
        let request = match &self.authorization {
            Some(authorization) => request.header("Authorization", authorization.as_str()),
            None => request,
        };
        let mut answer = self.send(request, &path, &Payload::Nothing).map_err(|failure| failure.error)?;
        if !answer.status().is_success() {
            return Err(self.refusal(&path, answer).error);
        }
        let copied = std::io::copy(&mut answer.body_mut().with_config().limit(u64::MAX).reader(), into);
        copied.map_err(|error| self.error(Fault::Unavailable, &path, error))
    }

    fn read(&self, path: &str, query: &[(&str, &str)]) -> Result<Vec<u8>> {
        self.ask("GET", path, query, &Payload::Nothing, true)
    }

    /// Sends a request until it is answered, refused, or there is no patience left.
    fn ask(
        &self,
        method: &'static str,
        path: &str,
        query: &[(&str, &str)],
        payload: &Payload<'_>,
        is_repeatable: bool,
    ) -> Result<Vec<u8>> {
        let mut wait = self.options.wait_first;
        for attempt in 0.. {
            self.hears.check()?;
            let failure = match self.ask_once(method, path, query, payload) {
                Ok(bytes) => return Ok(bytes),
                Err(failure) => failure,
            };
            // A write that may have been acted on is not sent again: there would be a second run, or a version too many.
            let may_help = failure.is_passing && (is_repeatable || failure.is_refusal);
            if !may_help || attempt >= self.options.retries {
                return Err(failure.error);
            }
            let pause = failure.wait.unwrap_or(wait).min(WAIT_MAX);
            self.hears.monitor.note(&format!(
                "{}; it is asked again in {:.1} s: attempt {} of {}",
                failure.error,
                pause.as_secs_f64(),
                attempt + 2,
                u64::from(self.options.retries) + 1,
            ));
            self.pause(pause)?;
            wait = (wait * 2).min(WAIT_MAX);
        }
        unreachable!("attempts are counted without end")
    }

    fn ask_once(
        &self,
        method: &'static str,
        path: &str,
        query: &[(&str, &str)],
        payload: &Payload<'_>,
    ) -> std::result::Result<Vec<u8>, Failure> {
        let url = format!("{}{path}{}", self.options.uri, encode_query(query));
        let mut request = Request::builder().method(method).uri(url);
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization.as_str());
        }
        if let Some(workspace) = &self.options.workspace {
            request = request.header("X-MLFLOW-WORKSPACE", workspace);
        }
        let mut answer = self.send(request, path, payload)?;
        if answer.status().is_success() {
            let bytes = read_body(&mut answer, ANSWER_BYTES_MAX);
            return bytes.map_err(|error| Failure::passing(self.error(Fault::Unavailable, path, error)));
        }
        Err(self.refusal(path, answer))
    }

    fn send(
        &self,
        request: Builder,
        path: &str,
        payload: &Payload<'_>,
    ) -> std::result::Result<Response<Body>, Failure> {
        let answer = match payload {
            Payload::Nothing => request.body(()).map(|request| self.agent.run(request)),
            Payload::Json(body) => request
                .header("Content-Type", "application/json")
                .body(body.to_string())
                .map(|request| self.agent.run(request)),
            Payload::File(path) => {
                let file = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
                let (len, file) =
                    file.map_err(|source| Failure::lasting(Error::source("open", (*path).to_owned(), source)))?;
                request
                    .header("Content-Type", "application/octet-stream")
                    .header("Content-Length", len)
                    .body(file)
                    .map(|request| self.agent.run(request))
            }
        };
        let answer = answer.map_err(|error| Failure::lasting(self.error(Fault::Other, path, error)))?;
        answer.map_err(|error| self.no_answer(path, error))
    }

    /// Explains why there was no answer. A certificate that is not trusted now will not be trusted later.
    fn no_answer(&self, path: &str, error: ureq::Error) -> Failure {
        let is_untrusted = http::is_untrusted(&error);
        let error = self.error(Fault::Unavailable, path, error);
        if is_untrusted { Failure::lasting(error) } else { Failure::passing(error) }
    }

    /// Explains an answer that is not a success.
    fn refusal(&self, path: &str, mut answer: Response<Body>) -> Failure {
        let status = answer.status().as_u16();
        let header = |name: &str| answer.headers().get(name)?.to_str().ok().map(str::to_owned);
        let (wait, location) = (header("retry-after"), header("location"));
        let body = read_body(&mut answer, ERROR_BYTES_MAX).unwrap_or_default();
        let told = Told::read(&body);
        let is_mlflow = !told.code.is_empty();
        let (fault, reason) = match status {
            300..=399 => (
                Fault::Other,
                format!(
                    "it redirects to {:?}, which is not followed; use the address that it redirects to",
                    location.unwrap_or_default().split('?').next().unwrap_or_default()
                ),
            ),
            401 => (Fault::Denied, self.why_not_let_in()),
            403 if told.text.contains("Invalid Host header") => (Fault::Denied, self.why_host_is_refused()),
            403 => (Fault::Denied, format!("it is not allowed to this user ({told})")),
            404 if is_mlflow => (Fault::NotFound, told.to_string()),
            404 | 405 | 501 => (Fault::Unsupported, format!("this server has no such endpoint ({status})")),
            429 | 502..=504 => (Fault::Unavailable, format!("status {status} ({told})")),
            _ => (Fault::Other, format!("status {status} ({told})")),
        };
        let wait = wait.and_then(|seconds| seconds.trim().parse().ok()).map(Duration::from_secs);
        let is_passing = fault == Fault::Unavailable || status == 500;
        // Only these two say that nothing was done; after any other 5xx something may have been.
        let is_refusal = matches!(status, 429 | 503);
        Failure { error: self.error(fault, path, reason), is_passing, is_refusal, wait }
    }

    fn why_not_let_in(&self) -> String {
        match &self.options.login {
            Login::Anonymous => "it wants credentials: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or \
                                 MLFLOW_TRACKING_TOKEN"
                .to_owned(),
            Login::Password(name, _) => format!("it does not accept the user {name:?} with the password given"),
            Login::Token(_) => "it does not accept the token given; MLflow's own basic-auth wants \
                                MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
                .to_owned(),
        }
    }

    fn why_host_is_refused(&self) -> String {
        let host = Url::parse(&self.options.uri).ok();
        let host = host.as_ref().map_or("", |url| &url[url::Position::BeforeHost..url::Position::AfterPort]);
        format!("it does not answer to the name {host:?}; start the MLflow server with it in --allowed-hosts: {host}")
    }

    /// Waits, unless the flag is raised meanwhile.
    fn pause(&self, time: Duration) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.hears.check()?;
            sleep(WAIT_STEP.min(time.saturating_sub(begun.elapsed())));
        }
        Ok(())
    }

    fn error(&self, fault: Fault, path: &str, reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::tracking(fault, "ask MLflow", format!("{}{path}", self.options.uri), reason)
    }
}

/// Why one attempt came to nothing.
struct Failure {
    error: Error,
    /// Whether the same request may succeed later.
    is_passing: bool,
    /// Whether the server said that it did nothing.
    is_refusal: bool,
    /// How long it asks to wait.
    wait: Option<Duration>,
}

impl Failure {
    fn lasting(error: Error) -> Self {
        Self { error, is_passing: false, is_refusal: false, wait: None }
    }

    fn passing(error: Error) -> Self {
        Self { is_passing: true, ..Self::lasting(error) }
    }
}

/// What an answer says of an error: MLflow's code, and the text.
struct Told {
    code: String,
    text: String,
}

impl Told {
    fn read(body: &[u8]) -> Self {
        let answer = json::parse(body).unwrap_or_default();
        let code = json::text(&answer, "error_code").to_owned();
        let text = match json::text(&answer, "message") {
            "" => String::from_utf8_lossy(body).trim().to_owned(),
            message => message.to_owned(),
        };
        Self { code, text: text.chars().take(REASON_LEN_MAX).collect() }
    }
}

impl std::fmt::Display for Told {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let separator = if self.code.is_empty() { "" } else { ": " };
        write!(out, "{}{separator}{}", self.code, self.text)
    }
}

fn authorization(login: &Login) -> Option<String> {
    match login {
        Login::Anonymous => None,
        Login::Password(name, password) => {
            let pair = Zeroizing::new(format!("{name}:{}", password.as_str()));
            Some(format!("Basic {}", BASE64.encode(pair.as_bytes())))
        }
        Login::Token(token) => Some(format!("Bearer {}", token.as_str())),
    }
}

/// Returns where the server's proxy has an artifact.
fn artifact_path(path: &str) -> String {
    let parts: Vec<String> = path.split('/').map(encode).collect();
    format!("/api/2.0/mlflow-artifacts/artifacts/{}", parts.join("/"))
}

/// Encodes text for a path or a query.
pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn encode_query(query: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = query.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}
