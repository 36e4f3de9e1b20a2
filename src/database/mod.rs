//! The databases of an MLflow deployment: PostgreSQL and SQLite, read at one instant, loaded, and merged into.
//!
//! What must stay true:
//! - What is read through one [`DatabaseReader`], dump and queries, is one committed instant of the database; a live
//!   SQLite file is never just copied.
//! - A dump that fails, ends early, or was made by a program that cannot dump this server, ends in an error.
//! - Writing happens in one transaction: after an error the database is what it was.
//! - Nothing of a dump is run that a [`Guard`] has not looked at; [`review`] looks at all of it before any is run.
//! - Passwords never appear in arguments of child processes, in messages, or in what is stored.

pub mod examine;
pub mod load;
mod merge;
pub mod pgpass;
pub mod postgresql;
pub mod review;
pub mod rewrite;
pub mod sqlite;
pub mod uri;

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cancel::Cancel;
use crate::error::Result;
use crate::sql::guard::{Guard, Refusals};
use crate::sql::{Dialect, TableRecord, Value};
pub use uri::DatabaseUri;

/// Which program a database belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// PostgreSQL; dumps are pg_dump's plain format.
    Postgresql,
    /// SQLite; dumps are SQL text.
    Sqlite,
}

impl Engine {
    /// Returns its name, as records and messages have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Postgresql => "postgresql",
            Self::Sqlite => "sqlite",
        }
    }

    /// Returns the dialect of its dumps.
    pub fn dialect(self) -> Dialect {
        match self {
            Self::Postgresql => Dialect::Postgresql,
            Self::Sqlite => Dialect::Sqlite,
        }
    }
}

/// What is known of a database at the instant of its reader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseFacts {
    /// Which program it belongs to.
    pub engine: Engine,
    /// Version of the server or library.
    pub server_version: String,
    /// Version of what made the dump: pg_dump, or SQLite itself.
    pub dump_version: String,
    /// Where it is, without a password.
    pub location: String,
    /// What its rows break of its own schema.
    pub violations: Violations,
}

/// Rows that break rules of their own schema, in words. MLflow serves such a database, so it is backed up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violations {
    /// What a restore brings back as it is.
    pub kept: Vec<String>,
    /// What is in the dump, and what no database with this schema takes: it must be mended before or after the backup.
    pub unloadable: Vec<String>,
}

/// What tells a database from every other one, by whatever URI it was opened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DatabaseIdentity {
    /// What tells its server from others; of files, nothing does.
    pub server: String,
    /// What tells it from others there.
    pub database: String,
}

/// A database at one instant.
pub trait DatabaseReader: Send {
    /// Returns what is known of it.
    fn facts(&self) -> &DatabaseFacts;
    /// Returns the names of its tables.
    fn tables(&mut self) -> Result<Vec<String>>;
    /// Returns what tells it from every other database, by whatever URI it was opened.
    fn identity(&mut self) -> Result<DatabaseIdentity>;
    /// Begins a dump of everything in it. The reader must be kept until the dump is finished.
    fn dump(&mut self) -> Result<Box<dyn DumpStream>>;
    /// Runs a SELECT and hands on each row, every value in the text form of its type.
    fn query(&mut self, sql: &str, row: &mut dyn FnMut(&[Value]) -> Result<()>) -> Result<()>;
}

/// What was in a dump.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dumped {
    /// Its tables.
    pub tables: Vec<TableRecord>,
    /// Statements that a restore will not run unless the user allows them.
    pub refused: Refusals,
}

/// The text of a dump. Reading to the end does not mean that it is whole: [`DumpStream::finish`] tells.
pub trait DumpStream: Read + Send {
    /// Ends the dump: an error unless it is whole. Returns what was in it.
    fn finish(self: Box<Self>) -> Result<Dumped>;
}

/// What a dump that is loaded has to be, and what is changed in it on the way.
#[derive(Debug, Clone, Copy)]
pub struct LoadPlan<'a> {
    /// Says which statements may be run.
    pub guard: &'a Guard,
    /// Changes of artifact locations.
    pub rewrites: &'a [Rewrite],
    /// The tables that it has to give.
    pub expected: &'a [TableRecord],
}

/// What to do with rows that are there already and differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    /// Change nothing at all.
    Refuse,
    /// Leave them, and insert the others.
    Keep,
    /// Put the snapshot's in their place.
    Replace,
}

/// Why a row is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It was asked for.
    Selected,
    /// One that was asked for refers to it: it is inserted if it is missing, and left alone otherwise.
    Referenced,
}

/// A table that rows are merged into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergeTable {
    /// Its name.
    pub name: &'static str,
    /// SQL that holds for a row `t` which is only what is left of a deleted one: it counts as absent.
    pub remnant: Option<String>,
}

/// A change of a beginning of texts in one column, as `UPDATE` would make it: whole path segments only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// The table.
    pub table: String,
    /// The column.
    pub column: String,
    /// Most characters that the column can hold, where that is limited.
    pub length_max: Option<u32>,
    /// Only rows where this column has one of these values.
    pub only: Option<(String, Vec<String>)>,
    /// Old and new beginnings; the longest old one that fits counts.
    pub roots: Vec<(String, String)>,
}

/// How a merge would go for one table, or went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TableMerge {
    /// The table.
    pub table: String,
    /// Rows that are not there yet.
    pub inserted: u64,
    /// Rows that are there and the same.
    pub same: u64,
    /// Referenced rows that are there and differ; left alone.
    pub kept: u64,
    /// Selected rows that are there and differ.
    pub conflicts: u64,
    /// Keys of some of those, for people to read.
    pub examples: Vec<String>,
}

/// A database to restore into.
pub trait DatabaseWriter: Send {
    /// Returns the tables (of whatever schema) that are there, with the number of their rows.
    fn contents(&mut self) -> Result<Vec<(String, u64)>>;
    /// Returns what keeps the role from making tables in these schemas.
    fn missing_rights(&mut self, schemas: &BTreeSet<String>) -> Result<Vec<String>>;
    /// Loads a dump of the same engine into an empty database, rewrites, and commits, if the tables then are the
    /// expected ones; all in one transaction. Returns how many rows each rewrite changed.
    ///
    /// A statement that may not be run ends it when its turn comes; [`review`] says before anything is run whether there
    /// is one.
    fn load(&mut self, dump: &mut dyn Read, plan: LoadPlan<'_>) -> Result<Vec<u64>>;
    /// Begins to merge rows into a database in use. `order` names the tables so that those that others refer to come
    /// first.
    fn merge(&mut self, order: &[MergeTable]) -> Result<Box<dyn Merge + '_>>;
    /// Runs a SELECT, as [`DatabaseReader::query`] does, on what is there now.
    fn query(&mut self, sql: &str, row: &mut dyn FnMut(&[Value]) -> Result<()>) -> Result<()>;
}

impl TableMerge {
    /// Returns whether nothing of the table is concerned.
    pub fn is_empty(&self) -> bool {
        self.inserted + self.same + self.kept + self.conflicts == 0
    }
}

/// Rows on their way into a database in use; dropped, it changes nothing.
pub trait Merge {
    /// Sets a row aside. Rows come in any order.
    fn stage(&mut self, table: &str, columns: &[String], row: &[Value], need: Need) -> Result<()>;
    /// Compares what was set aside with what is there.
    fn report(&mut self) -> Result<Vec<TableMerge>>;
    /// Inserts, in one transaction, and moves sequences past the new keys, never back.
    fn apply(self: Box<Self>, on_conflict: OnConflict) -> Result<Vec<TableMerge>>;
}

/// A database as it changes.
pub trait LiveDatabase: Send {
    /// Runs a SELECT, as [`DatabaseReader::query`] does, on what is committed at this moment.
    fn query(&mut self, sql: &str, row: &mut dyn FnMut(&[Value]) -> Result<()>) -> Result<()>;
}

/// Opens a database to read it as it is now. A raised flag ends dumps that are under way.
///
/// `scratch` is a directory for private files: of SQLite a whole copy of the database lies there until the reader is
/// dropped.
pub fn open_reader(uri: &DatabaseUri, scratch: &Path, cancel: &Cancel) -> Result<Box<dyn DatabaseReader>> {
    Ok(match uri {
        DatabaseUri::Postgresql(uri) => Box::new(postgresql::reader::PostgresqlReader::open(uri, scratch, cancel)?),
        DatabaseUri::Sqlite(path) => Box::new(sqlite::reader::SqliteReader::open(path, scratch, cancel)?),
    })
}

/// Returns what tells a database from every other one. Needs no right in it but to connect.
pub fn identity(uri: &DatabaseUri) -> Result<DatabaseIdentity> {
    Ok(match uri {
        DatabaseUri::Postgresql(uri) => postgresql::ServerConnection::open(uri)?.identity()?,
        DatabaseUri::Sqlite(path) => sqlite::reader::identity(path),
    })
}

/// Opens a database to write to it. A file of SQLite is created if it is missing.
pub fn open_writer(uri: &DatabaseUri) -> Result<Box<dyn DatabaseWriter>> {
    Ok(match uri {
        DatabaseUri::Postgresql(uri) => Box::new(postgresql::writer::PostgresqlWriter::open(uri)?),
        DatabaseUri::Sqlite(path) => Box::new(sqlite::writer::SqliteWriter::open(path)?),
    })
}

/// Opens a database to ask what is in it from time to time.
pub fn open_live(uri: &DatabaseUri) -> Result<Box<dyn LiveDatabase>> {
    Ok(match uri {
        DatabaseUri::Postgresql(uri) => Box::new(postgresql::ServerConnection::open(uri)?),
        DatabaseUri::Sqlite(path) => Box::new(sqlite::File::open(path)?),
    })
}
