//! Real MLflow servers, started on a free loopback port for one test and killed with it, and deployments made in them.
//!
//! A server and its workers form a process group of their own, so that nothing outlives the test. What the server wrote
//! is shown if it does not start.

use std::env;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use super::tool;

/// Name of the administrator of servers with passwords.
pub const ADMIN: &str = "admin";
/// Password of the administrator, which no message may hold.
pub const ADMIN_PASSWORD: &str = "not-to-be-seen-in-any-message";
/// Size of the weights and tables of deployments in tests; 1 is the demo's.
pub const SCALE: &str = "0.05";

/// How long a server may take to start on a loaded machine.
const START_MAX: Duration = Duration::from_secs(180);
/// How long a server may take to end before it is killed.
const STOP_MAX: Duration = Duration::from_secs(10);
/// Ports that are tried, because another process can take one between choosing and using it.
const START_ATTEMPTS_MAX: usize = 3;

/// How a server is to be started.
#[derive(Debug, Clone, Default)]
pub struct MlflowOptions {
    /// URI of the database; none for an SQLite file in the server's folder.
    pub backend_store_uri: Option<String>,
    /// Where artifacts go; none for a directory in the server's folder.
    pub artifacts_destination: Option<String>,
    /// Folder that outlives the server; none for one that goes away with it.
    pub folder: Option<PathBuf>,
    /// Whether clients need a name and a password.
    pub has_passwords: bool,
    /// Value of `--allowed-hosts`.
    pub allowed_hosts: Option<String>,
    /// More arguments.
    pub arguments: Vec<String>,
    /// More environment variables of the server, and of the clients that [`MlflowServer::run`] starts.
    pub environment: Vec<(String, String)>,
}

/// A running server.
pub struct MlflowServer {
    child: Child,
    port: u16,
    folder: PathBuf,
    options: MlflowOptions,
    /// Removes the folder, unless it was given.
    _folder: Option<TempDir>,
}

impl MlflowServer {
    pub fn start_with(options: &MlflowOptions) -> Self {
        for _ in 1..START_ATTEMPTS_MAX {
            if let Ok(server) = Self::try_start(options) {
                return server;
            }
        }
        Self::try_start(options).unwrap_or_else(|log| panic!("MLflow does not start:\n{log}"))
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns what clients call MLFLOW_TRACKING_URI.
    pub fn uri(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns the SQLite file, unless the options place the database elsewhere.
    pub fn database(&self) -> PathBuf {
        self.folder.join("mlflow.db")
    }

    /// Returns the artifact directory, unless the options place artifacts elsewhere.
    pub fn artifacts(&self) -> PathBuf {
        self.folder.join("artifacts")
    }

    /// Logs the work of one day; see `tests/make_deployment.py`.
    pub fn log_day(&self, day: u32) {
        self.make(&["log", "--day", &day.to_string(), "--scale", SCALE]);
    }

    /// Writes down what the server holds.
    pub fn record(&self, file: &Path) {
        self.make(&["record", file.to_str().unwrap()]);
    }

    /// Fails unless the server holds what was written down. `options` are such as `--new-ids`.
    pub fn verify(&self, file: &Path, options: &[&str]) {
        self.make(&[&["verify", file.to_str().unwrap()], options].concat());
    }

    /// Runs one command of `tests/make_deployment.py`; its failure fails the test.
    pub fn make(&self, arguments: &[&str]) {
        let output = self.try_make(arguments);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "make_deployment.py {arguments:?}:\n{told}\nserver:\n{}", self.log());
    }

    /// Runs one command of `tests/make_deployment.py`.
    pub fn try_make(&self, arguments: &[&str]) -> Output {
        self.python().arg(script()).args(arguments).output().unwrap()
    }

    /// Runs lines of Python against the server, with `mlflow` imported and `client` made. Returns what they print.
    pub fn run(&self, lines: &str) -> String {
        let program = format!("import mlflow\nclient = mlflow.MlflowClient()\n{lines}");
        let output = self.python().args(["-c", &program]).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{lines}\n{told}\nserver:\n{}", self.log());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Ends the server without a farewell, as a node that fails does.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    /// Returns what the server wrote.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn python(&self) -> Command {
        let mut command = python_for(&self.uri());
        command.envs(self.options.environment.iter().cloned());
        if self.options.has_passwords {
            command.env("MLFLOW_TRACKING_USERNAME", ADMIN).env("MLFLOW_TRACKING_PASSWORD", ADMIN_PASSWORD);
        }
        command
    }

    fn try_start(options: &MlflowOptions) -> Result<Self, String> {
        let own = options.folder.is_none().then(|| TempDir::new().unwrap());
        let folder = options.folder.clone().unwrap_or_else(|| own.as_ref().unwrap().path().to_owned());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = command(options, &folder, port);
        let child = command.spawn().unwrap_or_else(|error| panic!("Cannot start {command:?}: {error}"));
        let mut server = Self { child, port, folder, options: options.clone(), _folder: own };
        let begun = Instant::now();
        while !is_healthy(port) {
            if server.child.try_wait().unwrap().is_some() || begun.elapsed() > START_MAX {
                return Err(server.log());
            }
            sleep(Duration::from_millis(100));
        }
        Ok(server)
    }

    fn signal(&self, signal: Signal) {
        let _ = kill_process_group(Pid::from_child(&self.child), signal);
    }
}

/// Runs one command of `tests/make_deployment.py` against a server that somebody else has started; its failure fails the test.
pub fn make_at(uri: &str, arguments: &[&str]) {
    let output = python_for(uri).arg(script()).args(arguments).output().unwrap();
    assert!(output.status.success(), "make_deployment.py {arguments:?}:\n{}", String::from_utf8_lossy(&output.stderr));
}

/// Prepares a run of Python as a client of a server.
fn python_for(uri: &str) -> Command {
    let mut command = Command::new(tool("python"));
    quiet(&mut command).args(["-W", "ignore"]).stdin(Stdio::null()).env("MLFLOW_TRACKING_URI", uri);
    command
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/make_deployment.py")
}

impl Drop for MlflowServer {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        let begun = Instant::now();
        while begun.elapsed() < STOP_MAX && matches!(self.child.try_wait(), Ok(None)) {
            sleep(Duration::from_millis(20));
        }
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

fn command(options: &MlflowOptions, folder: &Path, port: u16) -> Command {
    let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
    let database = format!("sqlite:///{}", folder.join("mlflow.db").display());
    let artifacts = folder.join("artifacts").display().to_string();
    let mut command = Command::new(tool("mlflow"));
    quiet(&mut command).args(["server", "--host", "127.0.0.1", "--port", &port.to_string(), "--workers", "1"]);
    command.args(["--backend-store-uri", options.backend_store_uri.as_deref().unwrap_or(&database)]);
    command.args(["--artifacts-destination", options.artifacts_destination.as_deref().unwrap_or(&artifacts)]);
    if options.has_passwords {
        command.args(["--app-name", "basic-auth"]).env("MLFLOW_AUTH_ADMIN_PASSWORD", ADMIN_PASSWORD);
        command.env("MLFLOW_FLASK_SERVER_SECRET_KEY", "for tests only");
    }
    if let Some(hosts) = &options.allowed_hosts {
        command.args(["--allowed-hosts", hosts]);
    }
    command.args(&options.arguments).envs(options.environment.iter().cloned());
    command.current_dir(folder).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
    command
}

/// Keeps MLflow from calling home, from starting background jobs, and from what the tester's environment says.
fn quiet(command: &mut Command) -> &mut Command {
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MLFLOW_")) {
        command.env_remove(name);
    }
    let path = tool("mlflow").parent().unwrap().display().to_string();
    command.env("PATH", format!("{path}:{}", env::var("PATH").unwrap_or_default()));
    command.env("MLFLOW_DISABLE_TELEMETRY", "true").env("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false");
    command.env("GIT_PYTHON_REFRESH", "quiet").env("PYTHONWARNINGS", "ignore")
}

fn is_healthy(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let request = format!("GET /health HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    let is_answered = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_end(&mut answer)).is_ok();
    is_answered && answer.starts_with(b"HTTP/1.1 200")
}
