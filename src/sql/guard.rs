//! Says which statements of a dump may be run: those that make MLflow's tables and fill them, as dumps write them.
//!
//! A dump is data. Whoever wrote it need not be trusted, and the role that loads it can often do more than that: run
//! programs on the database server, read its files, leave code behind that runs later. So each statement must be one of
//! the few that dumps of MLflow's databases have (`postgresql` and `sqlite` say which), in a form that calls nothing but
//! harmless functions. Any other one is refused, unless the user has allowed this very text.
//!
//! What must stay true:
//! - A statement is allowed by a rule that names every word and sign in it, never because no rule forbids it.
//! - What is looked at is what is run: the same bytes, one statement at a time.
//! - What is not clear is refused: escapes, comments and dollar quotes have no place in an allowed statement.

mod cursor;
mod expression;
mod postgresql;
mod sqlite;
mod types;

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use super::Dialect;
use super::scanner::TableHead;
use super::script::Statement;
use crate::error::Error;
use crate::id::StatementId;
use crate::units::count;

/// Refused statements that are kept; of others only the number is known.
const REFUSALS_MAX: usize = 1000;
/// Refused statements that a message names.
const SHOWN_MAX: usize = 10;
/// Characters of a refused statement that a message repeats.
const BEGINNING_LEN_MAX: usize = 120;

/// Decides what may be run of the dumps of one dialect.
#[derive(Debug, Clone)]
pub struct Guard {
    dialect: Dialect,
    allowed: BTreeSet<StatementId>,
}

/// A statement that may not be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// The line of the dump that it begins in.
    pub line: u64,
    /// By which it can be allowed; none if it cannot.
    pub id: Option<StatementId>,
    /// How it begins.
    pub beginning: String,
    /// Why it may not be run.
    pub reason: String,
}

/// The statements of a dump that may not be run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Refusals {
    /// How many there are.
    pub count: u64,
    /// The first of them.
    pub statements: Vec<Refused>,
}

impl Guard {
    /// Allows what dumps of MLflow's databases hold, and these statements besides.
    pub fn new(dialect: Dialect, allowed: &[StatementId]) -> Self {
        Self { dialect, allowed: allowed.iter().copied().collect() }
    }

    /// Names the extension of PostgreSQL that a statement makes or describes: it is passed over, unless it was allowed. Making
    /// one takes rights that the owner of a database does not have, and MLflow's tables need none.
    pub fn passes_over(&self, statement: &Statement) -> Option<String> {
        if self.dialect != Dialect::Postgresql || self.allowed.contains(&id_of(&statement.text)) {
            return None;
        }
        postgresql::extension_of(&cursor::tokens(self.dialect, &statement.text).ok()?)
    }

    /// Names the schema of PostgreSQL that a statement makes or describes, and says whether it makes it.
    pub fn schema_of(&self, statement: &Statement) -> Option<(String, bool)> {
        if self.dialect != Dialect::Postgresql {
            return None;
        }
        postgresql::schema_of(&cursor::tokens(self.dialect, &statement.text).ok()?)
    }

    /// Fails for a statement that may not be run.
    pub fn check(&self, statement: &Statement) -> Result<(), Refused> {
        let Err(reason) = self.check_text(&statement.text) else { return Ok(()) };
        let id = id_of(&statement.text);
        if self.allowed.contains(&id) {
            return Ok(());
        }
        Err(Refused { line: statement.line, id: Some(id), beginning: beginning(&statement.text), reason })
    }

    /// Fails for a table that no dump may fill: one of the system's.
    pub fn check_table(&self, head: &TableHead, line: u64) -> Result<(), Refused> {
        let is_systems = match self.dialect {
            Dialect::Postgresql => postgresql::is_system_schema(head.schema.as_deref().unwrap_or_default()),
            Dialect::Sqlite => sqlite::is_system_name(&head.name),
        };
        if !is_systems {
            return Ok(());
        }
        let reason = "a dump may not fill a table of the system".to_owned();
        Err(Refused { line, id: None, beginning: beginning(&format!("rows of {}", head.target)), reason })
    }

    fn check_text(&self, text: &str) -> Result<(), String> {
        if self.dialect == Dialect::Sqlite && sqlite::is_known_trigger(text) {
            return Ok(());
        }
        let tokens = cursor::tokens(self.dialect, text)?;
        match self.dialect {
            Dialect::Postgresql => postgresql::check(&tokens),
            Dialect::Sqlite => sqlite::check(&tokens),
        }
    }
}

/// Returns by what a statement can be allowed: a digest of its text, and so of nothing but this text.
pub fn id_of(text: &str) -> StatementId {
    let hash = blake3::hash(text.as_bytes());
    let (short, _) = hash.as_bytes().split_first_chunk().expect("a hash is longer than an id");
    StatementId::from_bytes(*short)
}

/// Returns the beginning of a statement in one line, for a message.
fn beginning(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(BEGINNING_LEN_MAX) {
        line.truncate(end);
        line.push('…');
    }
    line
}

impl Refusals {
    /// Counts one in.
    pub fn add(&mut self, refused: Refused) {
        self.count += 1;
        if self.statements.len() < REFUSALS_MAX {
            self.statements.push(refused);
        }
    }

    /// Returns whether everything may be run.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the error of a dump that is not loaded because of them.
    pub fn into_error(self, dump: &str) -> Error {
        Error::Statements { dump: dump.to_owned(), reason: self.to_string() }
    }
}

impl From<Refused> for Refusals {
    fn from(refused: Refused) -> Self {
        Self { count: 1, statements: vec![refused] }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "line {}: {:?} ({}", self.line, self.beginning, self.reason)?;
        if let Some(id) = self.id {
            write!(out, "; id {id}")?;
        }
        out.write_str(")")
    }
}

impl fmt::Display for Refusals {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = count(self.count, "statement");
        write!(out, "{what} could do more than make MLflow's tables and fill them: ")?;
        for (number, refused) in self.statements.iter().take(SHOWN_MAX).enumerate() {
            write!(out, "{}{refused}", if number > 0 { "; " } else { "" })?;
        }
        match self.count.saturating_sub(SHOWN_MAX as u64) {
            0 => Ok(()),
            more => write!(out, "; and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests;
