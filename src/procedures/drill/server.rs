//! Starts MLflow itself on what was restored, and asks it: what no comparison of rows and files can show.
//!
//! What must stay true: the server has nothing in its environment but what it needs, and nothing that leads it to another
//! database or store; it listens on this machine alone; it ends with all that it has started, however the drill ends. A server
//! whose schema is another one is a failure, whether it refuses the database or migrates it.

use std::collections::VecDeque;
use std::io::BufReader;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::samples::Chosen;
use super::work::Work;
use crate::child::WatchedChild;
use crate::child_environment;
use crate::database::postgresql::scratch;
use crate::database::{self, DatabaseUri};
use crate::error::{Error, Fault, Result};
use crate::format::evidence::DrilledServer;
use crate::last_lines::last_lines;
use crate::mlflow::schema::{self, Store};
use crate::mlflow::uri::normalize;
use crate::procedures::served::{self, Listed};
use crate::s3::S3Options;
use crate::source::deployment::ArtifactPlace;
use crate::tracking::{self, TrackingClient, TrackingOptions};

/// The root that servers keep artifacts below, for clients that have no credentials of the store.
const PROXIED_ROOT: &str = "mlflow-artifacts:/";
/// How long a server may take until it answers.
const START_MAX: Duration = Duration::from_secs(180);
/// How long it may take to end.
const STOP_MAX: Duration = Duration::from_secs(15);
/// Ports that are tried, because another process can take one between choosing and using it.
const ATTEMPTS_MAX: usize = 3;
/// Variables with which buckets are reached where no key pair is configured.
const OF_AWS: &str = "AWS_";

/// A running server.
struct Server {
    child: WatchedChild,
    client: TrackingClient,
    told: Option<JoinHandle<VecDeque<String>>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.end(STOP_MAX);
    }
}

/// Starts MLflow on what was restored, and compares what it says with the snapshot.
pub fn ask(work: &Work<'_>, command: &str, chosen: &[Chosen], directory: &Path) -> Result<Option<DrilledServer>> {
    work.hears.monitor.phase("start MLflow", None, None);
    let Some(uri) = work.restored.database(Store::Backend) else {
        work.findings.exception("MLflow", "it was not started: the snapshot has no tracking database");
        return Ok(None);
    };
    let version = version_of(work, command, directory)?;
    if !fits(work, &version) {
        return Ok(None);
    }
    let mut server = start(work, command, directory, uri)?;
    let mut drilled = DrilledServer { version, ..DrilledServer::default() };
    let asked = work.findings.check("MLflow", || {
        compare_counts(work, &server.client, &mut drilled)?;
        compare_files(work, &server.client, chosen, &mut drilled)
    });
    server.child.end(STOP_MAX).map_err(|error| failed(command, &error.to_string()))?;
    asked?;
    compare_schema(work, uri)?;
    Ok(Some(drilled))
}

/// Prepares the command with a clean environment.
fn prepare(line: &str, directory: &Path, passes: impl Fn(&str) -> bool) -> Command {
    let is_passed_on = |name: &str| child_environment::is_basic(name) || passes(name);
    let mut command = child_environment::program(Path::new("sh"), is_passed_on);
    command.args(["-c", &format!("exec {line}")]).current_dir(directory).stdin(Stdio::null());
    // It is not to call home, nor to begin jobs.
    command.env("MLFLOW_DISABLE_TELEMETRY", "true").env("DO_NOT_TRACK", "true");
    command.env("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false");
    command
}

fn version_of(work: &Work<'_>, line: &str, directory: &Path) -> Result<String> {
    let command = prepare(&format!("{line} --version"), directory, |_| false);
    let fault = |error: std::io::Error| failed(line, &error.to_string());
    let (mut child, output, errors) = WatchedChild::start_server(&command, &work.hears.cancel).map_err(fault)?;
    let told = thread::spawn(move || last_lines(BufReader::new(errors)));
    let lines = last_lines(BufReader::new(output));
    let status = child.end(STOP_MAX).map_err(fault)?;
    work.hears.check()?;
    if !status.success() {
        return Err(failed(line, &format!("{status}; {}", joined(told.join().unwrap_or_default()))));
    }
    let version = lines.iter().find_map(|line| line.split_whitespace().last()).unwrap_or_default();
    Ok(version.to_owned())
}

/// Returns whether a version can serve the database as it is, as far as is known. If not, that is a failure.
fn fits(work: &Work<'_>, version: &str) -> bool {
    let revision = work.record.database(Store::Backend).and_then(|record| record.revisions.first());
    match (schema::head_of_release(version), revision) {
        (Some(head), Some(revision)) if head != revision => {
            let reason = format!("its version {version} has the schema {head}, and the snapshot has {revision}");
            work.findings.failure("MLflow", &reason);
            false
        }
        _ => true,
    }
}

fn start(work: &Work<'_>, line: &str, directory: &Path, uri: &DatabaseUri) -> Result<Server> {
    let mut attempt = 1;
    loop {
        let mut server = start_once(work, line, directory, uri)?;
        if wait_until_up(work, &server)? {
            return Ok(server);
        }
        let _ = server.child.end(STOP_MAX);
        if attempt == ATTEMPTS_MAX {
            let told = server.told.take().and_then(|told| told.join().ok()).unwrap_or_default();
            return Err(failed(line, &format!("it does not answer; {}", joined(told))));
        }
        attempt += 1;
    }
}

fn start_once(work: &Work<'_>, line: &str, directory: &Path, uri: &DatabaseUri) -> Result<Server> {
    let fault = |error: std::io::Error| failed(line, &error.to_string());
    // Only looked for: the server takes it a moment later.
    let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).map_err(fault)?.port();
    let line = format!("{line} server --host 127.0.0.1 --port {port} --workers 1");
    let command = server_command(work, &line, directory, uri);
    let (child, output, errors) = WatchedChild::start_server(&command, &work.hears.cancel).map_err(fault)?;
    // What it says must not fill the pipes.
    thread::spawn(move || last_lines(BufReader::new(output)));
    let told = Some(thread::spawn(move || last_lines(BufReader::new(errors))));
    let options = TrackingOptions { retries: 0, ..tracking::options(&format!("http://127.0.0.1:{port}"), &|_| None)? };
    Ok(Server { child, client: TrackingClient::connect(&options)?.heard_by(work.hears), told })
}

fn server_command(work: &Work<'_>, line: &str, directory: &Path, uri: &DatabaseUri) -> Command {
    let place = proxied_root(work).map(|(place, _, _)| place);
    let uses_ambient_keys = matches!(place, Some(ArtifactPlace::Bucket(_, options)) if options.credentials.is_none());
    let mut command = prepare(line, directory, |name| uses_ambient_keys && name.starts_with(OF_AWS));
    match uri {
        DatabaseUri::Sqlite(path) => {
            command.env("MLFLOW_BACKEND_STORE_URI", format!("sqlite:///{}", path.display()));
        }
        DatabaseUri::Postgresql(uri) => {
            scratch::tell(&mut command, uri);
            command.env("MLFLOW_BACKEND_STORE_URI", format!("postgresql:///{}", uri.database));
        }
    }
    if let Some(registry) = work.restored.database(Store::Registry) {
        // It is beside the other, and so has the same password, which libpq has been told.
        command.env("MLFLOW_REGISTRY_STORE_URI", registry.to_string());
    }
    let destination = match place {
        Some(place) => place.to_string(),
        None => directory.join("artifacts").display().to_string(),
    };
    command.env("MLFLOW_ARTIFACTS_DESTINATION", destination);
    if let Some(ArtifactPlace::Bucket(_, options)) = place {
        tell_bucket(&mut command, options);
    }
    command
}

fn tell_bucket(command: &mut Command, options: &S3Options) {
    if let Some(endpoint) = &options.endpoint {
        command.env("MLFLOW_S3_ENDPOINT_URL", endpoint);
    }
    if let Some(region) = &options.region {
        command.env("AWS_DEFAULT_REGION", region);
    }
    if let Some(bundle) = &options.ca_bundle {
        command.env("AWS_CA_BUNDLE", bundle);
    }
    if options.ignore_tls {
        command.env("MLFLOW_S3_IGNORE_TLS", "true");
    }
    if let Some(keys) = &options.credentials {
        command.env("AWS_ACCESS_KEY_ID", &keys.access_key_id);
        command.env("AWS_SECRET_ACCESS_KEY", keys.secret_access_key.as_str());
    }
}

/// Returns where the proxied root was restored to, its component, and its path there.
fn proxied_root<'w>(work: &'w Work<'_>) -> Option<(&'w ArtifactPlace, &'w str, &'w str)> {
    let root = work.record.roots.iter().find(|root| normalize(&root.uri) == normalize(PROXIED_ROOT))?;
    let place = work.restored.artifacts.iter().find(|given| given.uri == root.uri)?;
    Some((&place.place, &root.component, &root.path))
}

/// Waits until a server answers. Returns whether it does.
fn wait_until_up(work: &Work<'_>, server: &Server) -> Result<bool> {
    let begun = Instant::now();
    // Once it has ended, whatever else answers at its port is not asked.
    let is_over = || begun.elapsed() >= START_MAX || server.child.has_exited();
    Ok(served::wait_until_well(&server.client, work.hears, is_over)?.is_ok())
}

/// Compares how much the server lists with how much the catalogue has.
fn compare_counts(work: &Work<'_>, client: &TrackingClient, drilled: &mut DrilledServer) -> Result<()> {
    let Some(Listed { counts, differences }) = served::compare(&work.reader, work.snapshot, client, work.hears)? else {
        work.findings.exception("MLflow", "it lists one workspace only, and the deployment has several");
        return Ok(());
    };
    (drilled.experiments, drilled.runs, drilled.models) = (counts.experiments, counts.runs, counts.models);
    differences.iter().for_each(|difference| work.findings.failure("MLflow", difference));
    Ok(())
}

/// Downloads the chosen files that are below the proxied root, and compares their digests.
fn compare_files(
    work: &Work<'_>,
    client: &TrackingClient,
    chosen: &[Chosen],
    drilled: &mut DrilledServer,
) -> Result<()> {
    let Some((_, component, root)) = proxied_root(work) else {
        work.findings
            .exception("MLflow", "no file was downloaded: the snapshot has no artifacts behind the server's proxy");
        return Ok(());
    };
    for Chosen { component: of, entry } in chosen {
        work.hears.check()?;
        let path = entry.path_text();
        let below = if root.is_empty() {
            Some(path.as_str())
        } else {
            path.strip_prefix(root).map(|it| it.trim_start_matches('/'))
        };
        let (Some(below), Some(expected)) = (below.filter(|_| of == component), entry.file()) else { continue };
        let mut hasher = blake3::Hasher::new();
        match client.download(below, &mut hasher) {
            Err(error) if error.fault() == Some(Fault::Unavailable) => return Err(error),
            Err(error) => {
                work.findings.failure(&format!("{component}/{path}"), &format!("MLflow does not give it: {error}"))
            }
            Ok(_) if hasher.finalize().as_bytes() != expected.digest.as_bytes() => {
                work.findings.failure(&format!("{component}/{path}"), "MLflow gives something else");
            }
            Ok(_) => drilled.files += 1,
        }
    }
    Ok(())
}

/// Fails the drill if the server has migrated the database.
fn compare_schema(work: &Work<'_>, uri: &DatabaseUri) -> Result<()> {
    let mut now = Vec::new();
    let sql = format!("SELECT version_num FROM {}", Store::Backend.version_table());
    database::open_live(uri)?.query(&sql, &mut |row| {
        now.extend(row.first().and_then(crate::sql::Value::as_text).map(str::to_owned));
        Ok(())
    })?;
    let recorded = work.record.database(Store::Backend).map(|record| record.revisions.clone()).unwrap_or_default();
    if now != recorded {
        let (now, recorded) = (now.join(", "), recorded.join(", "));
        work.findings.failure("MLflow", &format!("it has migrated the database from the schema {recorded} to {now}"));
    }
    Ok(())
}

fn joined(lines: VecDeque<String>) -> String {
    lines.into_iter().collect::<Vec<_>>().join("; ")
}

fn failed(line: &str, status: &str) -> Error {
    Error::Refused(format!("The command {line:?} cannot be used as MLflow: {status}"))
}
