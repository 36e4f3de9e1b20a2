//! PostgreSQL: one session with a server, and what reader, writer and merge share of it.
//!
//! What must stay true: every session writes values in the same text form, whatever the server, the role or the
//! environment set; it is the form that pg_dump writes.

pub(super) mod merge;
pub(super) mod pg_dump;
mod private_server;
mod programs;
pub(super) mod reader;
pub mod scratch;
mod tls;
pub(super) mod writer;

pub use private_server::PrivateServer;

use std::io::BufRead;
use std::time::Duration;

use postgres::config::{ChannelBinding as Binding, SslMode as Tls};
use postgres::error::SqlState;
use postgres::{Client, Config, SimpleQueryMessage};

use super::DatabaseIdentity;
use super::LiveDatabase;
use super::uri::{ChannelBinding, PostgresqlUri, SessionKind, SslMode};
use crate::error::{Error, Result, with_causes};
use crate::sql::{Value, copy};

/// Oldest version that writes numbers in their shortest exact form.
const SERVER_MAJOR_MIN: u32 = 12;
/// Seconds to wait for a connection unless the URI says otherwise.
const CONNECT_SECONDS_MAX: u64 = 30;
/// Settings that decide how values look, and limits that would end a long backup.
const SETTINGS: &str = "SET bytea_output = 'hex'; SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; \
    SET extra_float_digits = 3; SET timezone = 'UTC'; SET standard_conforming_strings = on; SET row_security = off; \
    SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET lock_timeout = '5min'";
/// Picks the namespaces of `pg_class c JOIN pg_namespace n` that are users'.
const USER_SCHEMAS: &str = "n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'";

/// Picks what belongs to no extension, of `pg_class c`: an extension's tables are not MLflow's, and no dump has them.
const NO_EXTENSION: &str = "NOT EXISTS (SELECT 1 FROM pg_depend x WHERE x.classid = 'pg_class'::regclass \
    AND x.objid = c.oid AND x.deptype = 'e')";

/// What a role must be given if it may not read something.
const NEEDED_RIGHT: &str = "the role must be able to read everything, as a member of pg_read_all_data can";

/// A session with a server.
pub struct ServerConnection {
    client: Client,
    location: String,
    version: String,
    major: u32,
}

impl ServerConnection {
    /// Connects.
    pub fn open(uri: &PostgresqlUri) -> Result<Self> {
        let client = connect(uri)?;
        let mut server = Self { client, location: uri.to_string(), version: String::new(), major: 0 };
        let number = server.text("read the version of", "SHOW server_version_num")?;
        server.major = number.parse::<u32>().unwrap_or_default() / 10_000;
        server.version = server.text("read the version of", "SHOW server_version")?;
        if server.major < SERVER_MAJOR_MIN {
            let reason = format!("PostgreSQL {} is too old; {SERVER_MAJOR_MIN} or newer is needed", server.version);
            return Err(server.error("use", reason));
        }
        uri.session_kind.map_or(Ok(()), |wanted| server.require(wanted))?;
        Ok(server)
    }

    /// Fails if the server is not what `target_session_attrs` wants.
    fn require(&mut self, wanted: SessionKind) -> Result<()> {
        let (question, fitting, reason) = match wanted {
            SessionKind::ReadWrite => ("SHOW transaction_read_only", "off", "sessions may only read there"),
            SessionKind::ReadOnly => ("SHOW transaction_read_only", "on", "sessions may write there"),
            SessionKind::Primary => ("SELECT pg_is_in_recovery()", "f", "it is a standby"),
            SessionKind::Standby => ("SELECT pg_is_in_recovery()", "t", "it is no standby"),
        };
        if self.text("look at", question)? == fitting {
            return Ok(());
        }
        Err(self.error("use", format!("{reason}, and the URI has target_session_attrs")))
    }

    /// Returns the server's version, as it says it.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Returns the leading number of the server's version.
    pub(super) fn major(&self) -> u32 {
        self.major
    }

    /// One server started at one moment, to the microsecond; one database in it has one id.
    pub(super) fn identity(&mut self) -> Result<DatabaseIdentity> {
        let sql =
            "SELECT pg_postmaster_start_time()::text, oid::text FROM pg_database WHERE datname = current_database()";
        let row = self.rows("look at", sql)?.into_iter().next().unwrap_or_default();
        let mut values = row.into_iter().flatten();
        match (values.next(), values.next()) {
            (Some(server), Some(database)) => Ok(DatabaseIdentity { server, database }),
            _ => Err(self.error("look at", "it does not say which one it is")),
        }
    }

    /// Makes the session write values as pg_dump does.
    fn settle(&mut self) -> Result<()> {
        self.run("set up a session with", SETTINGS)
    }

    fn error(&self, action: &'static str, reason: impl ToString) -> Error {
        Error::database(action, &self.location, reason)
    }

    fn fault(&self, action: &'static str) -> impl Fn(postgres::Error) -> Error + use<> {
        let location = self.location.clone();
        move |error| Error::database(action, &location, describe(&error))
    }

    /// Runs statements without results.
    fn run(&mut self, action: &'static str, sql: &str) -> Result<()> {
        self.client.batch_execute(sql).map_err(|error| Error::database(action, &self.location, describe(&error)))
    }

    /// Runs a statement; returns the rows of its result as texts.
    fn rows(&mut self, action: &'static str, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let messages = self.client.simple_query(sql).map_err(self.fault(action))?;
        let mut rows = Vec::new();
        for message in messages {
            if let SimpleQueryMessage::Row(row) = message {
                rows.push((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect());
            }
        }
        Ok(rows)
    }

    /// Runs a statement; returns the texts of the first column of its result.
    fn texts(&mut self, action: &'static str, sql: &str) -> Result<Vec<String>> {
        let rows = self.rows(action, sql)?;
        Ok(rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
    }

    /// Runs a statement whose result is one value.
    fn text(&mut self, action: &'static str, sql: &str) -> Result<String> {
        let texts = self.texts(action, sql)?;
        texts.into_iter().next().ok_or_else(|| self.error(action, format!("no answer to {sql:?}")))
    }

    /// Runs `COPY … TO STDOUT`, and hands on each line without its line break.
    fn copy_out(&mut self, sql: &str, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let location = self.location.clone();
        let mut lines =
            self.client.copy_out(sql).map_err(|error| Error::database("read from", &location, describe(&error)))?;
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = lines.read_until(b'\n', &mut line);
            match read.map_err(|error| Error::database("read from", &location, describe_io(&error)))? {
                0 => return Ok(()),
                _ => take(line.strip_suffix(b"\n").unwrap_or(&line))?,
            }
        }
    }

    fn select(&mut self, sql: &str, row: &mut dyn FnMut(&[Value]) -> Result<()>) -> Result<()> {
        let copy = format!("COPY ({}) TO STDOUT", sql.trim_end().trim_end_matches(';'));
        let location = self.location.clone();
        self.copy_out(&copy, &mut |line| {
            let columns = line.iter().filter(|byte| **byte == b'\t').count() + 1;
            let values = copy::decode_row(line, columns);
            row(&values.map_err(|reason| Error::database("read from", &location, reason))?)
        })
    }
}

impl LiveDatabase for ServerConnection {
    fn query(&mut self, sql: &str, row: &mut dyn FnMut(&[Value]) -> Result<()>) -> Result<()> {
        self.select(sql, row)
    }
}

/// Tries in turn what the mode allows, and tells of the first failure.
fn connect(uri: &PostgresqlUri) -> Result<Client> {
    let attempts: &[Tls] = match uri.ssl_mode {
        _ if uri.is_socket() => &[Tls::Disable],
        SslMode::Disable => &[Tls::Disable],
        SslMode::Allow => &[Tls::Disable, Tls::Require],
        SslMode::Prefer => &[Tls::Prefer, Tls::Disable],
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Tls::Require],
    };
    let mut failure = None;
    for tls in attempts {
        match configuration(uri, *tls).connect(tls::connector(uri)?) {
            Ok(client) => return Ok(client),
            Err(error) => {
                let may_retry = is_about_tls(&error);
                let first = failure.get_or_insert(error);
                if !may_retry {
                    return Err(Error::database("connect to", uri, describe(first)));
                }
            }
        }
    }
    let reason = failure.map(|error| describe(&error)).unwrap_or_default();
    Err(Error::database("connect to", uri, reason))
}

/// Returns whether a connection may succeed with more or with less TLS.
fn is_about_tls(error: &postgres::Error) -> bool {
    match error.as_db_error() {
        Some(answer) => *answer.code() == SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        None => true,
    }
}

fn configuration(uri: &PostgresqlUri, tls: Tls) -> Config {
    let mut config = Config::new();
    config.user(&uri.user).dbname(&uri.database).port(uri.port).ssl_mode(tls);
    if uri.is_socket() {
        config.host_path(&uri.host)
    } else {
        config.host(&uri.host)
    };
    if let Some(password) = &uri.password {
        config.password(password.as_bytes());
    }
    if let Some(options) = &uri.options {
        config.options(options);
    }
    config.channel_binding(match uri.channel_binding {
        ChannelBinding::Disable => Binding::Disable,
        ChannelBinding::Prefer => Binding::Prefer,
        ChannelBinding::Require => Binding::Require,
    });
    config.application_name(uri.application_name.as_deref().unwrap_or("mlvault"));
    match uri.connect_timeout_seconds {
        Some(0) => {}
        seconds => drop(config.connect_timeout(Duration::from_secs(seconds.unwrap_or(CONNECT_SECONDS_MAX)))),
    }
    config
}

/// Says what the server answered, or why there is no answer.
fn describe(error: &postgres::Error) -> String {
    if let Some(answer) = error.as_db_error() {
        let mut text = format!("{} (SQLSTATE {})", answer.message(), answer.code().code());
        for more in [answer.detail(), answer.where_()].into_iter().flatten() {
            text.push_str("; ");
            text.push_str(more);
        }
        return text;
    }
    with_causes(error)
}

fn describe_io(error: &std::io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<postgres::Error>()) {
        Some(inner) => describe(inner),
        None => error.to_string(),
    }
}
