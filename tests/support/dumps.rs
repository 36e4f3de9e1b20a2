//! Loads dumps of databases, and says what in them may be run.

use mlvault::database::{DatabaseWriter, LoadPlan, Rewrite};
use mlvault::error::Result;
use mlvault::sql::guard::{Guard, id_of};
use mlvault::sql::script::{Piece, ScriptReader};
use mlvault::sql::{Dialect, TableRecord};

/// Lets every statement pass that a dump holds, up to where it cannot be read.
pub fn allow_all(dialect: Dialect, text: &[u8]) -> Guard {
    let mut script = ScriptReader::new(text, dialect);
    let mut ids = Vec::new();
    while let Ok(Some(piece)) = script.next_piece() {
        if let Piece::Statement(statement) = piece {
            ids.push(id_of(&statement.text));
        }
    }
    Guard::new(dialect, &ids)
}

/// Loads a dump of which the guard lets pass what it lets pass.
pub fn load(
    writer: &mut dyn DatabaseWriter,
    guard: &Guard,
    mut text: &[u8],
    rewrites: &[Rewrite],
    expected: &[TableRecord],
) -> Result<Vec<u64>> {
    writer.load(&mut text, LoadPlan { guard, rewrites, expected })
}
