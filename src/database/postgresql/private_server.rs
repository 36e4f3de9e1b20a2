//! A server of our own, on a Unix socket in a private directory: for whoever needs a PostgreSQL database and has none.
//!
//! What must stay true: nobody but this user can reach it, because the directory lets nobody else in and there is no TCP;
//! it ends with this process; as root it does not start at all, as PostgreSQL wants it.

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::process::geteuid;

use super::super::uri::{DatabaseUri, PostgresqlUri};
use super::{ServerConnection, programs};
use crate::cancel::Cancel;
use crate::child::WatchedChild;
use crate::child_environment;
use crate::error::{Error, Result};
use crate::last_lines::last_lines;

/// Name of the server's role, which owns everything.
const ROLE: &str = "mlvault";
/// How long the server may take until it answers.
const START_MAX: Duration = Duration::from_secs(60);
/// How long it may take to end.
const STOP_MAX: Duration = Duration::from_secs(10);
/// How often it is asked whether it is there.
const LOOK: Duration = Duration::from_millis(100);
/// Longest path of a Unix socket, in bytes.
const SOCKET_PATH_LEN_MAX: usize = 107;
/// Name of the socket in its directory.
const SOCKET: &str = ".s.PGSQL.5432";

/// A running server.
pub struct PrivateServer {
    child: WatchedChild,
    uri: PostgresqlUri,
}

impl PrivateServer {
    /// Makes a cluster in a directory, which must be private and empty, and starts a server of at least this version on it.
    pub fn start(directory: &Path, major_min: u32, cancel: &Cancel) -> Result<Self> {
        if geteuid().is_root() {
            return Err(unavailable("PostgreSQL does not run as root"));
        }
        if directory.join(SOCKET).as_os_str().len() > SOCKET_PATH_LEN_MAX {
            return Err(unavailable(&format!("the path {directory:?} is too long for a Unix socket")));
        }
        let programs = Programs::find(major_min)?;
        make_cluster(&programs.initdb, directory, cancel)?;
        let mut server = start(&programs.postgres, directory)?;
        server.wait_until_up(cancel)?;
        Ok(server)
    }

    /// Returns the URI of the database `postgres` in it.
    pub fn uri(&self) -> &PostgresqlUri {
        &self.uri
    }

    fn wait_until_up(&mut self, cancel: &Cancel) -> Result<()> {
        let begun = Instant::now();
        loop {
            cancel.check()?;
            let Err(error) = ServerConnection::open(&self.uri) else { return Ok(()) };
            if self.child.has_exited() || begun.elapsed() > START_MAX {
                return Err(error);
            }
            thread::sleep(LOOK);
        }
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        let _ = self.child.end(STOP_MAX);
    }
}

/// What it takes, of one version.
struct Programs {
    initdb: PathBuf,
    postgres: PathBuf,
}

impl Programs {
    /// Finds the oldest that is new enough: a dump of an older server can be loaded, and one of a newer may not.
    fn find(major_min: u32) -> Result<Self> {
        let beside = |initdb: PathBuf| Some((initdb.parent()?.join("postgres"), initdb));
        let found = programs::candidates("initdb").filter_map(beside).filter_map(|(postgres, initdb)| {
            let major = programs::major_of(&programs::version_of(&postgres)?)?;
            (major >= major_min).then_some((major, Self { initdb, postgres }))
        });
        let oldest = found.min_by_key(|(major, _)| *major).map(|(_, programs)| programs);
        oldest.ok_or_else(|| {
            unavailable(&format!("no server of PostgreSQL {major_min} or newer is installed (initdb, postgres)"))
        })
    }
}

fn unavailable(reason: &str) -> Error {
    Error::Invalid(format!("A private PostgreSQL server cannot be started: {reason}"))
}

fn command(program: &Path, directory: &Path) -> Command {
    let mut command =
        child_environment::program(program, |name| programs::is_passed_on(name) && !name.starts_with("PG"));
    command.current_dir(directory).stdin(Stdio::null());
    command
}

fn data(directory: &Path) -> PathBuf {
    directory.join("data")
}

fn make_cluster(initdb: &Path, directory: &Path, cancel: &Cancel) -> Result<()> {
    let mut command = command(initdb, directory);
    command.args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username", ROLE, "--pgdata"]);
    command.arg(data(directory));
    let fault = |reason: String| Error::database("make a private server for", directory.display(), reason);
    let (mut child, output, errors) = WatchedChild::start(&mut command, cancel)
        .map_err(|error| fault(format!("{initdb:?} does not start: {error}")))?;
    let told = thread::spawn(move || last_lines(BufReader::new(output)));
    let mut lines = last_lines(BufReader::new(errors));
    lines.extend(told.join().unwrap_or_default());
    let status = child.wait().map_err(|error| fault(error.to_string()))?;
    cancel.check()?;
    if status.success() {
        return Ok(());
    }
    Err(fault(format!("{initdb:?} failed ({status}); {}", lines.into_iter().collect::<Vec<_>>().join("; "))))
}

fn start(postgres: &Path, directory: &Path) -> Result<PrivateServer> {
    let mut command = command(postgres, directory);
    command.arg("-D").arg(data(directory)).arg("-k").arg(directory).args(["-p", "5432", "-c", "listen_addresses="]);
    let fault = |error| Error::database("start a private server for", directory.display(), error);
    // It goes on after a wish to stop: what uses it ends first.
    let (child, output, errors) = WatchedChild::start_server(&command, &Cancel::default()).map_err(fault)?;
    // What it says must not fill the pipes.
    thread::spawn(move || last_lines(BufReader::new(output)));
    thread::spawn(move || last_lines(BufReader::new(errors)));
    let host = utf8_percent_encode(&directory.to_string_lossy(), NON_ALPHANUMERIC).to_string();
    let text = format!("postgresql://{ROLE}@/postgres?host={host}&port=5432");
    match DatabaseUri::parse(&text, Some(String::new().into()))? {
        DatabaseUri::Postgresql(uri) => Ok(PrivateServer { child, uri: *uri }),
        DatabaseUri::Sqlite(_) => Err(Error::Internal("a URI of PostgreSQL is one of SQLite".to_owned())),
    }
}
