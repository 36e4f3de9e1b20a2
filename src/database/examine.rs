//! Looks at a database without reading what is in it: whether a backup could.
//!
//! What must stay true: nothing is written; what is found wrong is a part of the result.

use std::fs;
use std::path::Path;

use super::postgresql::{ServerConnection, pg_dump::PgDump, reader};
use super::sqlite::File;
use super::uri::{DatabaseUri, PostgresqlUri};
use crate::error::{Error, Result};
use crate::file_system;

/// What a look at a database found.
pub enum Examination {
    /// A database of PostgreSQL.
    Postgresql {
        /// The server's version.
        version: String,
        /// Whether the role may read every table and sequence.
        rights: Result<()>,
        /// The version of a pg_dump that can dump this server.
        pg_dump: Result<String>,
    },
    /// A file of SQLite.
    Sqlite {
        /// How it writes: `wal`, `delete`, …
        journal_mode: String,
        /// Its bytes, with those of its write-ahead log.
        bytes: u64,
        /// What the file system is called, if it is one over a network.
        network_file_system: Option<&'static str>,
    },
}

/// Looks at a database. Fails if it cannot be reached, or, of SQLite, if it cannot be locked for reading.
pub fn examine(uri: &DatabaseUri) -> Result<Examination> {
    match uri {
        DatabaseUri::Postgresql(uri) => examine_server(uri),
        DatabaseUri::Sqlite(path) => examine_file(path),
    }
}

fn examine_server(uri: &PostgresqlUri) -> Result<Examination> {
    let mut server = ServerConnection::open(uri)?;
    let pg_dump = PgDump::find(uri, server.major()).map(|found| found.version);
    let rights = reader::may_read_all(&mut server);
    Ok(Examination::Postgresql { version: server.version().to_owned(), rights, pg_dump })
}

fn examine_file(path: &Path) -> Result<Examination> {
    let journal_mode = File::open(path)?.journal_mode()?;
    let remote = file_system::remote(path).map_err(fault(path))?;
    // SQLite's locks keep writers apart only where the file system has locks that do.
    let network_file_system = remote.filter(|remote| !remote.has_locks).map(|remote| remote.name);
    Ok(Examination::Sqlite { journal_mode, bytes: bytes(path)?, network_file_system })
}

/// Returns the length of a file of SQLite with its write-ahead log: what a copy of it takes.
pub fn bytes(path: &Path) -> Result<u64> {
    let len = fs::metadata(path).map_err(fault(path))?.len();
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    Ok(len + fs::metadata(log).map_or(0, |log| log.len()))
}

fn fault(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::source("look at", path, source)
}
