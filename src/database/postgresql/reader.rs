//! Reads a PostgreSQL database at one instant: one transaction whose snapshot pg_dump uses, too.

use std::path::{Path, PathBuf};

use super::super::uri::PostgresqlUri;
use super::super::{DatabaseFacts, DatabaseIdentity, DatabaseReader, DumpStream, Engine, Violations};
use super::pg_dump::PgDump;
use super::{NEEDED_RIGHT, NO_EXTENSION, ServerConnection, USER_SCHEMAS};
use crate::cancel::Cancel;
use crate::error::Result;
use crate::sql::Value;

/// Tables that an error message names.
const EXAMPLES_MAX: usize = 5;

/// A PostgreSQL database at one instant.
pub struct PostgresqlReader {
    server: ServerConnection,
    uri: PostgresqlUri,
    pg_dump: PgDump,
    snapshot: String,
    /// Settings that pg_dump's session needs, because the server's are others.
    options: String,
    facts: DatabaseFacts,
    scratch: PathBuf,
    cancel: Cancel,
}

impl PostgresqlReader {
    /// Begins the transaction, after looking whether pg_dump is there and the role may read everything.
    pub fn open(uri: &PostgresqlUri, scratch: &Path, cancel: &Cancel) -> Result<Self> {
        let mut server = ServerConnection::open(uri)?;
        let pg_dump = PgDump::find(uri, server.major)?;
        let options = needed_options(&mut server)?;
        server.settle()?;
        // One instant for everything that is read of this database: the rows, the catalogue, and what pg_dump writes. The
        // transaction stays open until the dump has begun, because the exported snapshot lives no longer than it.
        server.run("begin to read", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
        let snapshot = server.text("begin to read", "SELECT pg_export_snapshot()")?;
        // Asked within the transaction, before anything is stored: a dump without some tables would look whole.
        may_read_all(&mut server)?;
        let facts = DatabaseFacts {
            engine: Engine::Postgresql,
            server_version: server.version.clone(),
            dump_version: pg_dump.version.clone(),
            location: uri.to_string(),
            violations: Violations::default(),
        };
        let (uri, scratch, cancel) = (uri.clone(), scratch.to_owned(), cancel.clone());
        Ok(Self { server, uri, pg_dump, snapshot, options, facts, scratch, cancel })
    }
}

/// pg_dump sets what decides on the form of values, but for these. They are passed on only where they differ, because
/// connection poolers refuse options.
fn needed_options(server: &mut ServerConnection) -> Result<String> {
    let mut options = String::new();
    for (name, value) in [("bytea_output", "hex"), ("standard_conforming_strings", "on")] {
        if server.text("read the settings of", &format!("SHOW {name}"))? != value {
            options.push_str(&format!(" -c {name}={value}"));
        }
    }
    Ok(options)
}

/// Fails unless the role may read every table and sequence.
pub(in crate::database) fn may_read_all(server: &mut ServerConnection) -> Result<()> {
    let sql = format!(
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE {USER_SCHEMAS} AND {NO_EXTENSION} AND (c.relkind IN ('r', 'p') AND NOT has_table_privilege(c.oid, 'SELECT') \
         OR c.relkind = 'S' AND NOT has_sequence_privilege(c.oid, 'SELECT') \
         OR c.relkind IN ('r', 'p', 'S') AND NOT has_schema_privilege(n.oid, 'USAGE')) ORDER BY 1"
    );
    let unreadable = server.texts("read the tables of", &sql)?;
    if unreadable.is_empty() {
        return Ok(());
    }
    let named = unreadable[..unreadable.len().min(EXAMPLES_MAX)].join(", ");
    let reason = format!("{} tables or sequences may not be read ({named}, …); {NEEDED_RIGHT}", unreadable.len());
    Err(server.error("read", reason))
}

impl DatabaseReader for PostgresqlReader {
    fn facts(&self) -> &DatabaseFacts {
        &self.facts
    }

    fn tables(&mut self) -> Result<Vec<String>> {
        let sql = format!(
            "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE {USER_SCHEMAS} AND {NO_EXTENSION} AND c.relkind IN ('r', 'p') ORDER BY 1"
        );
        self.server.texts("read the tables of", &sql)
    }

    fn identity(&mut self) -> Result<DatabaseIdentity> {
        self.server.identity()
    }

    fn dump(&mut self) -> Result<Box<dyn DumpStream>> {
        let dump = self.pg_dump.start(&self.uri, &self.snapshot, &self.options, &self.scratch, &self.cancel)?;
        Ok(Box::new(dump))
    }

    fn query(&mut self, sql: &str, row: &mut dyn FnMut(&[Value]) -> Result<()>) -> Result<()> {
        self.server.select(sql, row)
    }
}
