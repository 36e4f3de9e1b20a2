//! What a command comes to: an exit code, a document for programs, and text for people.
//!
//! What must stay true: a command returns an outcome and prints nothing. [`crate::cli::run`] prints it, once and in one
//! place, so that whatever else wants to know how a command ended can have the same outcome. Commands whose result has no
//! bound write it while it is found (see [`crate::cli::output`]) and return an outcome that has nothing left to print.

use serde_json::Value;

use mlvault::error::Error;

use crate::cli::exit::{self, Code};

/// How a command ended, and what it has to say.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub code: Code,
    /// The result for programs; null if there is none.
    pub document: Value,
    /// The result for people.
    pub text: Text,
    /// Why the command failed although it has a result to show.
    pub error: Option<Error>,
    /// Whether the result was written already, while it was found.
    pub is_written: bool,
}

impl Outcome {
    /// Puts a result together.
    pub fn new(code: Code, document: Value, text: impl Into<Text>) -> Self {
        Self { code, document, text: text.into(), error: None, is_written: false }
    }

    /// Of a command that did all it was to do.
    pub fn complete(document: Value, text: impl Into<Text>) -> Self {
        Self::new(exit::COMPLETE, document, text)
    }

    /// Of a command that wrote its result itself. The document is a summary, which is not printed.
    pub fn written(code: Code, summary: Value) -> Self {
        Self { is_written: true, ..Self::new(code, summary, Text::default()) }
    }

    /// Of a command that failed and shows first what it found out before.
    pub fn failed(error: Error, document: Value, text: impl Into<Text>) -> Self {
        Self { error: Some(error.clone()), ..Self::new(exit::code_of(&error), document, text) }
    }
}

/// Text for people, line by line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Text(Vec<String>);

impl Text {
    /// Adds a line.
    pub fn line(&mut self, line: impl Into<String>) {
        self.0.push(line.into());
    }

    /// Returns the lines.
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

impl IntoIterator for Text {
    type Item = String;
    type IntoIter = std::vec::IntoIter<String>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl Extend<String> for Text {
    fn extend<I: IntoIterator<Item = String>>(&mut self, lines: I) {
        self.0.extend(lines);
    }
}

impl From<Vec<String>> for Text {
    fn from(lines: Vec<String>) -> Self {
        Self(lines)
    }
}

impl From<String> for Text {
    fn from(line: String) -> Self {
        Self(vec![line])
    }
}

/// A table.
impl From<Vec<Vec<String>>> for Text {
    fn from(rows: Vec<Vec<String>>) -> Self {
        Self(align(&rows))
    }
}

/// Returns rows as lines in columns. Numbers are for the caller to align.
fn align(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_has_the_code_of_its_error_and_keeps_what_was_found_before() {
        let outcome = Outcome::failed(Error::Busy("in use".to_owned()), Value::Null, "found".to_owned());
        assert_eq!((outcome.code, outcome.text.lines()), (exit::BUSY, ["found".to_owned()].as_slice()));
    }

    #[test]
    fn rows_become_aligned_lines() {
        let rows = [["ID", "NAME"], ["123", "a"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(Text::from(rows.to_vec()).lines(), ["ID   NAME", "123  a"]);
    }
}
