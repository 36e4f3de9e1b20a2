//! pg_dump as a child process, and its output as a stream.
//!
//! What must stay true: the same database gives the same bytes every day, so the random token of `\restrict` is taken
//! out; a dump counts as whole only if pg_dump exits with 0 *and* its last comment came; no password is among the
//! arguments of the process, and none but the database's is in its environment.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, ExitStatus};
use std::thread::{self, JoinHandle};

use super::super::uri::{PostgresqlUri, SslMode};
use super::super::{DumpStream, Dumped};
use super::{programs, tls};
use crate::cancel::Cancel;
use crate::child::WatchedChild;
use crate::child_environment;
use crate::error::{Error, Result};
use crate::last_lines::last_lines;
use crate::sql::guard::{Guard, Refusals};
use crate::sql::scanner::{Line, Scanner};
use crate::sql::script::{ROW_LEN_MAX, Statements};
use crate::sql::table_digest::TableDigest;
use crate::sql::{Dialect, TableRecord};

/// How long pg_dump waits for a lock on a table, such as a migration holds, in milliseconds.
const LOCK_WAIT_MAX: &str = "--lock-wait-timeout=300000";
/// Bytes of lines that are made ready at a time.
const READY_LEN: usize = 128 << 10;
/// A pg_dump that can dump a server.
#[derive(Debug)]
pub struct PgDump {
    program: PathBuf,
    /// Its version, as it says it.
    pub version: String,
}

impl PgDump {
    /// Finds one that is not older than the server: the one in `PATH`, else one of Debian's.
    pub fn find(uri: &PostgresqlUri, server_major: u32) -> Result<Self> {
        let mut found = None;
        for program in programs::candidates("pg_dump") {
            let Some(version) = programs::version_of(&program) else { continue };
            if programs::major_of(&version).is_some_and(|major| major >= server_major) {
                return Ok(Self { program, version });
            }
            found.get_or_insert((program, version));
        }
        let reason = match found {
            Some((program, version)) => format!(
                "{program:?} is version {version}, and the server is version {server_major}: \
                 install postgresql-client-{server_major} or newer"
            ),
            None => format!("pg_dump is not installed: install postgresql-client-{server_major} or newer"),
        };
        Err(Error::database("dump", uri, reason))
    }

    /// Starts a dump of what a transaction sees that exported this snapshot. `options` are settings of its session.
    pub fn start(
        &self,
        uri: &PostgresqlUri,
        snapshot: &str,
        options: &str,
        scratch: &Path,
        cancel: &Cancel,
    ) -> Result<DumpOutput> {
        let mut command = child_environment::program(&self.program, programs::is_passed_on);
        command.args(["--format=plain", "--no-owner", "--no-privileges", "--encoding=UTF8", "--no-password"]);
        command.args([LOCK_WAIT_MAX, &format!("--snapshot={snapshot}")]);
        set_environment(&mut command, uri, options, tls::root_file(uri, scratch)?);
        let (child, output, errors) = WatchedChild::start(&mut command, cancel)
            .map_err(|error| Error::database("dump", uri, format!("{:?} does not start: {error}", self.program)))?;
        Ok(DumpOutput {
            location: uri.to_string(),
            child,
            cancel: cancel.clone(),
            lines: BufReader::with_capacity(READY_LEN, output),
            errors: Some(thread::spawn(move || last_lines(BufReader::new(errors)))),
            scanner: Scanner::new(Dialect::Postgresql),
            guard: Guard::new(Dialect::Postgresql, &[]),
            statements: Statements::new(Dialect::Postgresql),
            line_number: 0,
            refused: Refusals::default(),
            table: None,
            tables: Vec::new(),
            ready: Vec::new(),
            taken: 0,
            is_at_end: false,
        })
    }
}

/// Tells libpq, in the environment of a child, where a database is and how to connect.
pub fn set_environment(command: &mut Command, uri: &PostgresqlUri, options: &str, roots: Option<PathBuf>) {
    command.env("PGHOST", &uri.host).env("PGPORT", uri.port.to_string()).env("PGUSER", &uri.user);
    command.env("PGDATABASE", &uri.database).env("PGTZ", "UTC").env("LC_MESSAGES", "C");
    command.env("PGAPPNAME", uri.application_name.as_deref().unwrap_or("mlvault"));
    command.env("PGSSLMODE", if uri.is_socket() { SslMode::Disable } else { uri.ssl_mode }.name());
    command.env("PGCHANNELBINDING", uri.channel_binding.name());
    command.env("PGSSLMINPROTOCOLVERSION", uri.ssl_version_min.name());
    command.env("PGSSLMAXPROTOCOLVERSION", uri.ssl_version_max.name());
    let seconds = uri.connect_timeout_seconds.unwrap_or(super::CONNECT_SECONDS_MAX).to_string();
    command.env("PGCONNECT_TIMEOUT", seconds);
    let options = format!("{} {options}", uri.options.as_deref().unwrap_or_default());
    let settings = [
        ("PGPASSWORD", uri.password.as_ref().map(|password| password.as_str().into())),
        ("PGSSLROOTCERT", roots.map(PathBuf::into_os_string)),
        ("PGSSLCERT", uri.ssl_certificate.as_ref().map(|path| path.clone().into_os_string())),
        ("PGSSLKEY", uri.ssl_key.as_ref().map(|path| path.clone().into_os_string())),
        ("PGSSLCRL", uri.ssl_revoked.as_ref().map(|path| path.clone().into_os_string())),
        ("PGOPTIONS", Some(options.trim().into()).filter(|options: &std::ffi::OsString| !options.is_empty())),
    ];
    for (name, value) in settings {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
}

/// The output of a running pg_dump.
pub struct DumpOutput {
    location: String,
    child: WatchedChild,
    cancel: Cancel,
    lines: BufReader<ChildStdout>,
    errors: Option<JoinHandle<VecDeque<String>>>,
    scanner: Scanner,
    guard: Guard,
    statements: Statements,
    /// The last line that is handed on, from 1.
    line_number: u64,
    refused: Refusals,
    /// The table whose rows are passing.
    table: Option<(String, TableDigest)>,
    tables: Vec<TableRecord>,
    /// Lines that wait to be read, and how many of their bytes were.
    ready: Vec<u8>,
    taken: usize,
    is_at_end: bool,
}

impl DumpOutput {
    fn make_ready(&mut self) -> io::Result<()> {
        self.ready.clear();
        self.taken = 0;
        while self.ready.len() < READY_LEN && !self.is_at_end {
            let start = self.ready.len();
            let len = (&mut self.lines).take(ROW_LEN_MAX as u64).read_until(b'\n', &mut self.ready)?;
            if len == ROW_LEN_MAX && !self.ready.ends_with(b"\n") {
                return Err(io::Error::other(format!("a row is longer than {ROW_LEN_MAX} bytes")));
            }
            self.is_at_end = len == 0;
            if len > 0 {
                self.look_at_line(start)?;
            }
        }
        Ok(())
    }

    /// Counts rows, and takes out what is random. A line without an end is the last one, of a dump that is not whole.
    fn look_at_line(&mut self, start: usize) -> io::Result<()> {
        let line = &self.ready[start..];
        if !line.ends_with(b"\n") {
            return Ok(());
        }
        self.line_number += 1;
        match self.scanner.line(line).map_err(io::Error::other)? {
            Line::Row => {
                if let Some((_, digest)) = &mut self.table {
                    digest.add(&line[..line.len() - 1]);
                }
            }
            Line::TableStart(head) => self.table = Some((head.name, TableDigest::default())),
            Line::TableEnd => self.tables.extend(self.table.take().map(|(name, digest)| digest.record(&name))),
            Line::LeftOut if line.starts_with(b"\\") => {
                self.line_number -= 1;
                self.ready.truncate(start);
            }
            Line::Statement => {
                let is_between = self.scanner.is_between_statements();
                let whole = self.statements.line(line, self.line_number, is_between).map_err(io::Error::other)?;
                let refused = whole.iter().filter(|statement| self.guard.passes_over(statement).is_none());
                let refused = refused.filter_map(|statement| self.guard.check(statement).err());
                refused.for_each(|refused| self.refused.add(refused));
            }
            Line::LeftOut | Line::RowPart => {}
        }
        Ok(())
    }

    fn failure(&mut self, status: ExitStatus) -> Error {
        let mut reason = format!("pg_dump failed ({status})");
        let lines = self.errors.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        for line in &lines {
            reason.push_str("; ");
            reason.push_str(line);
        }
        if lines.iter().any(|line| line.contains("permission denied")) {
            reason.push_str("; ");
            reason.push_str(super::NEEDED_RIGHT);
        }
        Error::database("dump", &self.location, reason)
    }
}

impl Read for DumpOutput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.ready.len() {
            self.make_ready()?;
        }
        let len = buffer.len().min(self.ready.len() - self.taken);
        buffer[..len].copy_from_slice(&self.ready[self.taken..self.taken + len]);
        self.taken += len;
        Ok(len)
    }
}

impl DumpStream for DumpOutput {
    fn finish(mut self: Box<Self>) -> Result<Dumped> {
        self.cancel.check()?;
        if !self.is_at_end || self.taken < self.ready.len() {
            return Err(Error::database("dump", &self.location, "the dump was not read to its end"));
        }
        let status = self.child.wait().map_err(|error| Error::database("dump", &self.location, error))?;
        if self.cancel.is_raised() {
            return Err(Error::Interrupted);
        }
        if !status.success() {
            return Err(self.failure(status));
        }
        if !self.scanner.is_complete() {
            return Err(Error::database("dump", &self.location, "pg_dump ended early, without an error"));
        }
        Ok(Dumped { tables: std::mem::take(&mut self.tables), refused: std::mem::take(&mut self.refused) })
    }
}
