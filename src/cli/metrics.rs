//! `mlvault metrics`

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use jiff::SignedDuration;
use serde_json::{Value, json};

use mlvault::error::{Error, Result};
use mlvault::http::HttpTarget;
use mlvault::http_server::{Answer, HttpServer};
use mlvault::repository::Repository;
use mlvault::status::metrics::{self, Up};
use mlvault::status::{Status, StatusOptions, push};
use mlvault::sync::lock;

use crate::cli::context::Context;
use crate::cli::outcome::Outcome;
use crate::cli::status::{self, JudgeArgs};
use crate::cli::{values, written_file};

/// Shortest time between two looks.
const INTERVAL_MIN: SignedDuration = SignedDuration::from_secs(1);
/// Looks that may fail before the server calls itself unhealthy.
const LOOKS_MISSED_MAX: u32 = 3;
/// How often the wish to stop is looked at.
const STEP: Duration = Duration::from_millis(200);

/// Tell what `mlvault status` says as metrics for Prometheus
///
/// Prints them, writes them to a file for node_exporter's textfile collector, pushes them to a gateway, or serves them over HTTP: /metrics, and /healthz
/// for probes. The server looks at the repository at once and then at each interval; it neither encrypts nor asks for
/// a password, so let it listen where only Prometheus can reach it. A signal ends it with exit code 0.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault metrics
  mlvault metrics --textfile /var/lib/prometheus/node-exporter/mlvault.prom
  mlvault metrics --push http://127.0.0.1:9091/metrics/job/mlvault
  mlvault metrics --listen 127.0.0.1:9464 --interval 10m")]
pub struct Args {
    #[command(flatten)]
    judge: JudgeArgs,
    /// Write the metrics to this file, which is replaced at once
    #[arg(long, value_name = "FILE", conflicts_with = "listen")]
    textfile: Option<PathBuf>,
    /// Push the metrics to this URL of a push gateway, such as http://127.0.0.1:9091/metrics/job/mlvault
    #[arg(long, env = "MLVAULT_METRICS_PUSH", value_name = "URL", conflicts_with_all = ["listen", "textfile"], hide_env_values = true)]
    push: Option<String>,
    /// Allow to push over plain HTTP to another machine
    #[arg(long, requires = "push")]
    push_insecure_http: bool,
    /// Serve the metrics at this address, such as 127.0.0.1:9464
    #[arg(long, env = "MLVAULT_METRICS_LISTEN", value_name = "ADDRESS")]
    listen: Option<String>,
    /// Time between two looks at the repository
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = values::duration)]
    interval: SignedDuration,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    if args.interval < INTERVAL_MIN {
        return Err(Error::Invalid("The interval must be at least 1s".to_owned()));
    }
    let options = args.judge.options(context)?;
    let target = args.push.as_deref().map(|url| HttpTarget::new(url, args.push_insecure_http, None)).transpose()?;
    let server = args.listen.as_deref().map(HttpServer::bind).transpose()?;
    let repository = context.repository()?;
    if let Some(server) = server {
        return serve(context, &repository, &options, (server, args.interval.unsigned_abs()));
    }
    let status = status::look(context, &repository, &options)?;
    let encoded = metrics::encode(Some(&status), Up::Yes)?;
    if let Some(target) = target {
        push::push(&target, &encoded)?;
        return Ok(Outcome::complete(json!({ "pushed": target.shown() }), Vec::<String>::new()));
    }
    match args.textfile {
        Some(file) => {
            written_file::replace(&file, encoded.as_bytes())?;
            Ok(Outcome::complete(json!({ "textfile": file }), Vec::<String>::new()))
        }
        None => Ok(Outcome::complete(json!({ "metrics": encoded }), lines(&encoded))),
    }
}

fn lines(encoded: &str) -> Vec<String> {
    encoded.lines().map(str::to_owned).collect()
}

/// What a server knows.
#[derive(Default)]
struct Known {
    status: Option<Status>,
    is_current: bool,
    succeeded: Option<Instant>,
}

/// Shared by the thread that looks and those that answer.
struct Exporter {
    known: Mutex<Known>,
    interval: Duration,
}

impl Exporter {
    fn answer(&self, path: &str) -> Answer {
        match path {
            "/metrics" => self.metrics(),
            "/healthz" => self.health(),
            "/" => Answer::text(200, "mlvault: /metrics, /healthz"),
            _ => Answer::text(404, "there are /metrics and /healthz"),
        }
    }

    fn metrics(&self) -> Answer {
        let known = lock(&self.known);
        let up = if known.is_current { Up::Yes } else { Up::No };
        match metrics::encode(known.status.as_ref(), up) {
            Ok(body) => Answer { status: 200, content_type: metrics::CONTENT_TYPE, body },
            Err(error) => Answer::text(500, error.to_string()),
        }
    }

    fn health(&self) -> Answer {
        let limit = self.interval * (LOOKS_MISSED_MAX + 1);
        match lock(&self.known).succeeded {
            Some(at) if at.elapsed() <= limit => Answer::text(200, "ok"),
            Some(at) => Answer::text(503, format!("the last look that succeeded is {} s ago", at.elapsed().as_secs())),
            None => Answer::text(503, "no look has succeeded yet"),
        }
    }

    /// Looks again and again until it is to end.
    fn look(&self, context: &Context, repository: &Repository, options: &StatusOptions, ends: &dyn Fn() -> bool) {
        while !ends() {
            match status::look(context, repository, options) {
                Ok(status) => {
                    *lock(&self.known) =
                        Known { status: Some(status), is_current: true, succeeded: Some(Instant::now()) };
                }
                Err(Error::Interrupted) => return,
                Err(error) => {
                    lock(&self.known).is_current = false;
                    context.monitor().warning(&format!("The repository could not be looked at: {error}"));
                }
            }
            wait(self.interval, ends);
        }
    }
}

fn wait(time: Duration, ends: &dyn Fn() -> bool) {
    let begun = Instant::now();
    while begun.elapsed() < time && !ends() {
        thread::sleep(STEP.min(time));
    }
}

fn serve(
    context: &Context,
    repository: &Repository,
    options: &StatusOptions,
    (server, interval): (HttpServer, Duration),
) -> Result<Outcome> {
    let exporter = Arc::new(Exporter { known: Mutex::default(), interval });
    let address = server.address();
    context.monitor().note(&format!("Serving http://{address}/metrics"));
    let answering = Arc::clone(&exporter);
    let cancel = context.cancel().clone();
    let answers = thread::Builder::new()
        .name("metrics".to_owned())
        .spawn(move || server.serve(Arc::new(move |path: &str| answering.answer(path)), &cancel))
        .map_err(|source| Error::target("start", "the thread that serves metrics", source))?;
    exporter.look(context, repository, options, &|| context.cancel().is_raised() || answers.is_finished());
    match answers.join().unwrap_or_else(|_| Err(Error::Internal("the HTTP server ended".to_owned()))) {
        // That is how a server ends.
        Ok(()) | Err(Error::Interrupted) => Ok(Outcome::complete(Value::Null, Vec::<String>::new())),
        Err(error) => Err(error),
    }
}
