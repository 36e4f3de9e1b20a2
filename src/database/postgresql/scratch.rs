//! Databases that are made for a purpose, and go with it.
//!
//! What must stay true: one that was there before is never used and never dropped; a name is made by us, and is quoted all
//! the same.

use std::process::Command;

use super::super::uri::PostgresqlUri;
use super::{ServerConnection, pg_dump};
use crate::error::Result;
use crate::sql::quoted;

/// Version from which on a database can be dropped although somebody is connected.
const FORCE_MAJOR_MIN: u32 = 13;

/// Creates a database beside the one that a URI names, and returns its URI. Fails if there is one of this name.
pub fn create(beside: &PostgresqlUri, name: &str) -> Result<PostgresqlUri> {
    // Whatever the server's locale: UTF-8 goes with C, and MLflow does not sort by it.
    let sql =
        format!("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'", quoted(name));
    ServerConnection::open(beside)?.run("create a database beside", &sql)?;
    Ok(PostgresqlUri { database: name.to_owned(), ..beside.clone() })
}

/// Drops a database that [`create`] made. That it is gone already is no error.
pub fn remove(beside: &PostgresqlUri, name: &str) -> Result<()> {
    let mut server = ServerConnection::open(beside)?;
    let force = if server.major() >= FORCE_MAJOR_MIN { " WITH (FORCE)" } else { "" };
    server.run("drop a database beside", &format!("DROP DATABASE IF EXISTS {}{force}", quoted(name)))
}

/// Returns what tells the server's cluster from all others, where the role may know it. Copies of a cluster have the same.
pub fn system_identifier(uri: &PostgresqlUri) -> Option<String> {
    ServerConnection::open(uri).ok()?.text("look at", "SELECT system_identifier::text FROM pg_control_system()").ok()
}

/// Tells another program of a database in the variables that libpq reads, so that no password is among its arguments.
pub fn tell(command: &mut Command, uri: &PostgresqlUri) {
    pg_dump::set_environment(command, uri, "", uri.ssl_root_certificate.clone());
}
