//! SQLite: one open file, and what reader, writer and merge share of it.
//!
//! The file's locks must work: on the same machine as MLflow, or on a volume that both have mounted, but not over NFS.
//!
//! What must stay true: a file in use is read through SQLite, never copied as a file.

mod dump;
mod examine;
mod merge;
pub(super) mod reader;
pub(super) mod writer;

use std::path::Path;
use std::time::Duration;

use rusqlite::types::{ToSqlOutput, Value as Bound, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, ToSql};

use super::LiveDatabase;
use crate::error::{Error, Result};
use crate::sql::{Value, literal, text_literal};

/// How long a lock of another process is waited for. MLflow itself waits 20 seconds.
const BUSY_MAX: Duration = Duration::from_secs(60);

/// An open file.
pub struct File {
    connection: Connection,
    location: String,
}

impl File {
    /// Opens a file to read it. It must be there.
    ///
    /// A file in WAL mode that nobody has open can only be read by who may write beside it: that is tried second.
    pub fn open(path: &Path) -> Result<Self> {
        match Self::open_with(path, OpenFlags::SQLITE_OPEN_READ_ONLY) {
            Ok(file) => Ok(file),
            Err(first) => Self::open_with(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(|_| first),
        }
    }

    fn open_with(path: &Path, flags: OpenFlags) -> Result<Self> {
        let location = location(path);
        let fault = |error| Error::database("open", &location, describe(&error));
        let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(fault)?;
        connection.busy_timeout(BUSY_MAX).map_err(fault)?;
        // Nothing is read before this, not even whether it is a database.
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(fault)?;
        Ok(Self { connection, location })
    }

    /// Returns how the file is written: `wal`, `delete`, …
    pub(super) fn journal_mode(&self) -> Result<String> {
        let modes = self.texts("look at", "PRAGMA journal_mode")?;
        Ok(modes.into_iter().next().unwrap_or_default())
    }

    fn error(&self, action: &'static str, reason: impl ToString) -> Error {
        Error::database(action, &self.location, reason)
    }

    fn fault(&self, action: &'static str) -> impl Fn(rusqlite::Error) -> Error + use<> {
        let location = self.location.clone();
        move |error| Error::database(action, &location, describe(&error))
    }

    /// Runs statements without results.
    fn run(&self, action: &'static str, sql: &str) -> Result<()> {
        self.connection.execute_batch(sql).map_err(self.fault(action))
    }

    /// Runs a query; returns the texts of the first column of its result.
    fn texts(&self, action: &'static str, sql: &str) -> Result<Vec<String>> {
        let fault = self.fault(action);
        let mut statement = self.connection.prepare(sql).map_err(&fault)?;
        let rows = statement.query_map([], |row| row.get(0)).map_err(&fault)?;
        rows.collect::<Result<_, _>>().map_err(fault)
    }

    /// Runs a query, and hands on each row.
    fn select(&self, sql: &str, take: &mut dyn FnMut(&[Value]) -> Result<()>) -> Result<()> {
        let fault = self.fault("read from");
        let mut statement = self.connection.prepare(sql).map_err(&fault)?;
        let columns = statement.column_count();
        let mut rows = statement.query([]).map_err(&fault)?;
        let mut values = Vec::with_capacity(columns);
        while let Some(row) = rows.next().map_err(&fault)? {
            values.clear();
            for column in 0..columns {
                values.push(value(row.get_ref(column).map_err(&fault)?));
            }
            take(&values)?;
        }
        Ok(())
    }

    /// Returns the names of the user's tables, in the order in which they were made.
    fn tables(&self) -> Result<Vec<String>> {
        let sql = "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
                   ORDER BY rowid";
        self.texts("read the tables of", sql)
    }

    /// Returns the columns of a table that hold values of their own: generated ones do not.
    fn columns(&self, table: &str) -> Result<Vec<String>> {
        let sql = format!("SELECT name FROM pragma_table_xinfo({}) WHERE hidden = 0 ORDER BY cid", text_literal(table));
        self.texts("read the tables of", &sql)
    }

    /// Returns the columns of a table's primary key.
    fn primary_key(&self, table: &str) -> Result<Vec<String>> {
        let sql = format!("SELECT name FROM pragma_table_xinfo({}) WHERE pk > 0 ORDER BY pk", text_literal(table));
        self.texts("read the tables of", &sql)
    }
}

impl LiveDatabase for File {
    fn query(&mut self, sql: &str, row: &mut dyn FnMut(&[Value]) -> Result<()>) -> Result<()> {
        self.select(sql, row)
    }
}

fn location(path: &Path) -> String {
    format!("sqlite:///{}", path.display())
}

fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Number(number.to_string()),
        ValueRef::Real(number) => Value::Number(literal::real_literal(number)),
        ValueRef::Text(text) => Value::Text(text.to_vec()),
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    }
}

/// A value as a parameter of a statement: bound, never a part of its text.
struct Parameter<'a>(&'a Value);

impl ToSql for Parameter<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self.0 {
            Value::Null => ToSqlOutput::Borrowed(ValueRef::Null),
            Value::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text)),
            Value::Blob(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
            Value::Number(text) => ToSqlOutput::Owned(match text.parse::<i64>() {
                Ok(number) => Bound::Integer(number),
                Err(_) => text.parse().map_or(Bound::Null, Bound::Real),
            }),
        })
    }
}

fn describe(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            format!("another process kept it locked for {} seconds", BUSY_MAX.as_secs())
        }
        _ => error.to_string(),
    }
}
