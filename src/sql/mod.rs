//! The text of database dumps, as plain functions on bytes: values, rows, and the scripts that hold them.
//!
//! What must stay true: bytes come from a repository or a server and are not trusted: no input panics, and no value is
//! changed on its way from a script into a database and back.

pub mod copy;
pub mod guard;
pub mod lexer;
pub mod literal;
pub mod scanner;
pub mod script;
pub mod table_digest;

/// Whose SQL a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// PostgreSQL, as pg_dump writes it.
    Postgresql,
    /// SQLite, as this program dumps it.
    Sqlite,
}

/// A value of a column, as a dump holds it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Value {
    /// No value.
    Null,
    /// The text form of a value, in the database's own notation for the column's type (PostgreSQL writes every type so).
    Text(Vec<u8>),
    /// A number, as a SQL literal (SQLite only).
    Number(String),
    /// Bytes (SQLite only).
    Blob(Vec<u8>),
}

impl Value {
    /// Returns the number of bytes that it takes.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Null => 0,
            Self::Text(bytes) | Self::Blob(bytes) => bytes.len(),
            Self::Number(text) => text.len(),
        }
    }

    /// Returns the value as text; `None` if it is null or not text.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(bytes) => std::str::from_utf8(bytes).ok(),
            Self::Number(text) => Some(text),
            Self::Null | Self::Blob(_) => None,
        }
    }
}

/// Rows and content of one table at the instant of a dump.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TableRecord {
    /// Its name, without a schema.
    pub name: String,
    /// How many rows it has.
    pub rows: u64,
    /// A digest over its rows that does not depend on their order.
    pub digest: crate::id::Digest,
}

/// Returns a text as a literal, as both dialects read it.
pub fn text_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Returns a name between double quotes, as both dialects read it.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Returns names between double quotes, with commas between them.
pub fn quoted_list(names: &[String]) -> String {
    names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
}
