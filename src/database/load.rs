//! What loading a dump has in common for both engines: it must be one of the engine, whole, and give what it gave.

use std::collections::BTreeSet;

use crate::sql::TableRecord;

/// Compares what was loaded with what was dumped, in whatever order; says what differs first.
pub fn difference(expected: &[TableRecord], loaded: &[TableRecord]) -> Option<String> {
    let (expected, loaded) = (sorted(expected), sorted(loaded));
    let (names, loaded_names) = (names(&expected), names(&loaded));
    if let Some(name) = names.difference(&loaded_names).next() {
        return Some(format!("the table {name} was not loaded"));
    }
    if let Some(name) = loaded_names.difference(&names).next() {
        return Some(format!("the table {name} was loaded and not expected"));
    }
    if expected.len() != loaded.len() {
        return Some(format!("{} tables were loaded instead of {}", loaded.len(), expected.len()));
    }
    let (one, other) = expected.iter().zip(&loaded).find(|(one, other)| one != other)?;
    Some(match one.rows == other.rows {
        false => format!("the table {} has {} rows instead of {}", one.name, other.rows, one.rows),
        true => format!("the rows of the table {} are not those that were dumped", one.name),
    })
}

fn sorted(records: &[TableRecord]) -> Vec<&TableRecord> {
    let mut sorted: Vec<_> = records.iter().collect();
    sorted.sort_by_key(|record| (&record.name, record.rows, record.digest));
    sorted
}

fn names<'a>(records: &[&'a TableRecord]) -> BTreeSet<&'a str> {
    records.iter().map(|record| record.name.as_str()).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Digest;

    #[test]
    fn every_difference_of_tables_is_told() {
        let table = |name: &str, rows, byte| {
            let digest = Digest::from_bytes([byte; 32]);
            TableRecord { name: name.to_owned(), rows, digest }
        };
        let expected = [table("a", 1, 1), table("b", 2, 2), table("b", 2, 3)];
        let says = |loaded: &[TableRecord]| difference(&expected, loaded).unwrap_or_default();
        assert_eq!(says(&[table("b", 2, 3), table("a", 1, 1), table("b", 2, 2)]), "");
        assert_eq!(says(&[table("b", 2, 3), table("b", 2, 2)]), "the table a was not loaded");
        assert_eq!(says(&[&expected[..], &[table("c", 0, 0)]].concat()), "the table c was loaded and not expected");
        assert_eq!(says(&expected[..2]), "2 tables were loaded instead of 3");
        assert_eq!(
            says(&[table("a", 3, 1), table("b", 2, 2), table("b", 2, 3)]),
            "the table a has 3 rows instead of 1"
        );
        let other = [table("a", 1, 1), table("b", 2, 2), table("b", 2, 4)];
        assert_eq!(says(&other), "the rows of the table b are not those that were dumped");
    }
}
