//! What loading a dump has in common for both engines: it must be one of the engine, whole, and give what it gave.

use crate::sql::TableRecord;

/// Compares what was loaded with what was dumped; says what differs first.
pub fn difference(expected: &[TableRecord], loaded: &[TableRecord]) -> Option<String> {
    for (number, expected) in expected.iter().enumerate() {
        let name = &expected.name;
        let Some(found) = loaded.get(number) else { return Some(format!("the table {name} was not loaded")) };
        if found.name != *name {
            return Some(format!("the table {} was loaded where {name} was expected", found.name));
        }
        if found.rows != expected.rows {
            return Some(format!("the table {name} has {} rows instead of {}", found.rows, expected.rows));
        }
        if found.digest != expected.digest {
            return Some(format!("the rows of the table {name} are not those that were dumped"));
        }
    }
    let extra = loaded.get(expected.len())?;
    Some(format!("the table {} was loaded and not expected", extra.name))
}

/// Says which tables keep a database from being empty.
pub fn not_empty(contents: &[(String, u64)]) -> Option<String> {
    let (first, rows) = contents.first()?;
    Some(format!("it is not empty: it has {} tables, such as {first} with {rows} rows", contents.len()))
}

/// Returns the beginning of a statement, for a message.
pub fn beginning(statement: &str) -> String {
    /// Characters of a statement that a message repeats.
    const SHOWN_MAX: usize = 200;
    let mut text: String = statement.trim().chars().take(SHOWN_MAX).collect();
    if text.len() < statement.trim().len() {
        text.push('…');
    }
    text
}
