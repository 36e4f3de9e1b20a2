//! Real PostgreSQL servers: a private cluster for one test, on a free port, stopped with it.
//!
//! PostgreSQL refuses to run as root: then it runs as the user `postgres`, whom Debian's package makes.

use std::env;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use mlvault::database::uri::DatabaseUri;
use postgres::{Client, NoTls};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

/// Password of every role of every server, which no message may hold.
pub const PASSWORD: &str = "never-in-any-message";
/// Role that owns the servers.
pub const OWNER: &str = "owner";

/// How long a server may take to start on a loaded machine.
const START_MAX: Duration = Duration::from_secs(120);
/// Ports that are tried, because another process can take one between choosing and using it.
const START_ATTEMPTS_MAX: usize = 3;

/// A running server with a database `postgres`; roles log in with [`PASSWORD`], checked by SCRAM.
pub struct PostgresServer {
    child: Child,
    port: u16,
    directory: TempDir,
}

impl PostgresServer {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with settings such as `-cssl=on`.
    pub fn start_with(settings: &[&str]) -> Self {
        let directory = TempDir::new().unwrap();
        let user = unprivileged();
        if let Some((uid, gid)) = user {
            chown(directory.path(), Some(uid), Some(gid)).unwrap();
        }
        make_cluster(directory.path(), user);
        for attempt in 1..=START_ATTEMPTS_MAX {
            match try_start(directory.path(), user, settings) {
                Ok((child, port)) => return Self { child, port, directory },
                Err(log) if attempt == START_ATTEMPTS_MAX => panic!("PostgreSQL does not start:\n{log}"),
                Err(_) => {}
            }
        }
        unreachable!("the last attempt ends one way or the other")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the URI of a database for a role, with more parameters behind it.
    pub fn uri_as(&self, role: &str, database: &str, more: &str) -> DatabaseUri {
        let text = format!("postgresql://{role}:{PASSWORD}@127.0.0.1:{}/{database}{more}", self.port);
        DatabaseUri::parse(&text, None).unwrap()
    }

    pub fn uri(&self, database: &str) -> DatabaseUri {
        self.uri_as(OWNER, database, "")
    }

    /// Returns the URI of a database by its Unix socket.
    pub fn socket_uri(&self, database: &str) -> DatabaseUri {
        let (port, directory) = (self.port, self.directory.path().display());
        let text = format!("postgresql://{OWNER}:{PASSWORD}@/{database}?host={directory}&port={port}");
        DatabaseUri::parse(&text, None).unwrap()
    }

    pub fn client(&self, database: &str) -> Client {
        let options = format!("host=127.0.0.1 port={} user={OWNER} password={PASSWORD}", self.port);
        Client::connect(&format!("{options} dbname={database}"), NoTls).unwrap()
    }

    pub fn create(&self, database: &str) {
        self.client("postgres").batch_execute(&format!("CREATE DATABASE {database} TEMPLATE template0")).unwrap();
    }

    /// Creates a database with MLflow's schema, as `mlflow db upgrade` makes it.
    pub fn create_mlflow(&self, database: &str) {
        self.create(database);
        let schema = MLFLOW_SCHEMA.get_or_init(|| self.mlflow_schema());
        self.client(database).batch_execute(schema).unwrap();
    }

    /// Returns MLflow's schema as SQL.
    fn mlflow_schema(&self) -> String {
        self.create("mlflow_schema");
        let place = format!("{OWNER}:{PASSWORD}@127.0.0.1:{}/mlflow_schema", self.port);
        super::mlflow_db_upgrade(&format!("postgresql+psycopg2://{place}"));
        let uri = format!("postgresql://{place}");
        let output = Command::new(program("pg_dump")).args(["--no-owner", "--no-password"]).arg(uri).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let (rows, statements): (Vec<_>, Vec<_>) = split_copies(&text);
        statements.concat() + &rows.concat()
    }

    /// Ends all processes of the server at once, as a lost machine would.
    pub fn kill(&mut self) {
        self.signal(Signal::QUIT);
        let _ = self.child.wait();
    }

    fn signal(&self, signal: Signal) {
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }
}

static MLFLOW_SCHEMA: OnceLock<String> = OnceLock::new();

/// Turns the one row of `alembic_version`, which the schema needs, into an INSERT; the client cannot run COPY so.
fn split_copies(dump: &str) -> (Vec<String>, Vec<String>) {
    let (mut rows, mut statements) = (Vec::new(), Vec::new());
    let mut table = None;
    for line in dump.lines() {
        if let Some(rest) = line.strip_prefix("COPY ") {
            table = Some(rest.trim_end_matches(" FROM stdin;").to_owned());
        } else if line == "\\." {
            table = None;
        } else if let Some(table) = &table {
            let values: Vec<_> = line.split('\t').map(literal).collect();
            rows.push(format!("INSERT INTO {table} VALUES ({});\n", values.join(", ")));
        } else if !line.starts_with('\\') {
            statements.push(format!("{line}\n"));
        }
    }
    (rows, statements)
}

fn literal(field: &str) -> String {
    if field == "\\N" { "NULL".to_owned() } else { format!("'{}'", field.replace('\'', "''")) }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.signal(Signal::QUIT);
        let _ = self.child.wait();
    }
}

/// Returns the user to run as, if we are root.
pub fn unprivileged() -> Option<(u32, u32)> {
    if !geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let line = line.expect("a user postgres: run scripts/setup.sh test first");
    let ids: Vec<u32> = line.split(':').skip(2).take(2).map(|id| id.parse().unwrap()).collect();
    Some((ids[0], ids[1]))
}

/// Returns the path of a program of the newest installed server.
pub fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut programs: Vec<_> = versions.map(|version| version.path().join("bin").join(name)).collect();
    programs.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()).map(|folder| folder.join(name)));
    programs.retain(|program| program.is_file());
    programs.sort();
    programs.pop().unwrap_or_else(|| panic!("{name} is missing: run scripts/setup.sh test first"))
}

fn command(name: &str, directory: &Path, user: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(program(name));
    command.current_dir(directory).stdin(Stdio::null());
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command
}

fn make_cluster(directory: &Path, user: Option<(u32, u32)>) {
    let password = directory.join("password");
    fs::write(&password, PASSWORD).unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o644)).unwrap();
    let mut initdb = command("initdb", directory, user);
    initdb.args(["--no-sync", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--username", OWNER]);
    initdb.arg("--pwfile").arg(&password).arg("--pgdata").arg(directory.join("data"));
    let output = initdb.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn try_start(directory: &Path, user: Option<(u32, u32)>, settings: &[&str]) -> Result<(Child, u16), String> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let log_path = directory.join("log");
    let log = File::create(&log_path).unwrap();
    let mut postgres = command("postgres", directory, user);
    postgres.arg("-D").arg(directory.join("data")).args(["-h", "127.0.0.1", "-p", &port.to_string(), "-F"]);
    postgres.arg("-k").arg(directory).args(settings).stdout(log.try_clone().unwrap()).stderr(log);
    let mut child = postgres.spawn().unwrap();
    let begun = Instant::now();
    let options = format!("host=127.0.0.1 port={port} user={OWNER} password={PASSWORD} dbname=postgres");
    while Client::connect(&options, NoTls).is_err() {
        if child.try_wait().unwrap().is_some() || begun.elapsed() > START_MAX {
            let _ = child.kill();
            let _ = child.wait();
            return Err(fs::read_to_string(&log_path).unwrap_or_default());
        }
        sleep(Duration::from_millis(50));
    }
    Ok((child, port))
}
