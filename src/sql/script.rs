//! Reads a dump as a stream of statements and rows, whichever dialect it is in.
//!
//! What must stay true: it never panics, and no input makes it keep more than one row or statement of bounded length;
//! the end of the input is an error unless the dump is whole.

use std::io::{BufRead, Read};

use super::scanner::{Line, Scanner, TableHead};
use super::{Dialect, Value, copy, literal};
use crate::error::{Error, Result};

/// Longest row in bytes, unless the caller sets another limit. PostgreSQL's limit for one value is 1 GiB.
pub const ROW_LEN_MAX: usize = 1 << 30;
/// Longest statement in bytes.
const STATEMENT_LEN_MAX: usize = 64 << 20;
/// Bytes of statements of PostgreSQL that are handed out together at most, unless a single one is longer.
const STATEMENTS_LEN: usize = 1 << 20;

/// A part of a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// One or more whole statements, as they stand there.
    Statements(String),
    /// The rows of this table follow.
    Table(TableHead),
    /// A row: a value for each column.
    Row(Vec<Value>),
    /// The rows of the table have ended.
    TableEnd,
}

/// A dump that is being read.
pub struct ScriptReader<R> {
    input: R,
    dialect: Dialect,
    scanner: Scanner,
    row_len_max: usize,
    columns: usize,
    statements: Vec<u8>,
    line: Vec<u8>,
    line_number: u64,
    /// What follows the statements that were just handed out.
    waiting: Option<Piece>,
}

impl<R: BufRead> ScriptReader<R> {
    /// Begins at the start of a dump.
    pub fn new(input: R, dialect: Dialect) -> Self {
        Self {
            input,
            dialect,
            scanner: Scanner::new(dialect),
            row_len_max: ROW_LEN_MAX,
            columns: 0,
            statements: Vec::new(),
            line: Vec::new(),
            line_number: 0,
            waiting: None,
        }
    }

    /// Sets the longest row, in bytes.
    pub fn with_row_len_max(mut self, bytes: usize) -> Self {
        self.row_len_max = bytes;
        self
    }

    /// Returns the number of the line that was read last, from 1.
    pub fn line_number(&self) -> u64 {
        self.line_number
    }

    /// Returns the next piece, or none at the end of a whole dump.
    pub fn next_piece(&mut self) -> Result<Option<Piece>> {
        if let Some(piece) = self.waiting.take() {
            return Ok(Some(piece));
        }
        loop {
            self.line.clear();
            if !self.append_line()? {
                return self.end();
            }
            if let Some(piece) = self.take_line()? {
                return Ok(Some(piece));
            }
        }
    }

    fn end(&mut self) -> Result<Option<Piece>> {
        if !self.scanner.is_complete() {
            return Err(self.damaged("it ends early"));
        }
        self.take_statements()
    }

    fn take_line(&mut self) -> Result<Option<Piece>> {
        let was_between = self.scanner.is_between_statements();
        match self.scan()? {
            Line::Statement if was_between && self.is_trivia() => self.trivia(),
            Line::Statement => {
                self.keep_statement()?;
                if self.is_enough() { self.take_statements() } else { Ok(None) }
            }
            Line::LeftOut => Ok(None),
            Line::TableStart(head) => {
                self.columns = head.columns.len();
                self.after_statements(Piece::Table(head))
            }
            Line::Row | Line::RowPart => self.row().map(Some),
            Line::TableEnd => Ok(Some(Piece::TableEnd)),
        }
    }

    /// Returns whether the line is blank or a comment, between statements.
    fn is_trivia(&self) -> bool {
        let is_blank = self.line.iter().all(u8::is_ascii_whitespace);
        self.scanner.is_between_statements() && (is_blank || self.line.starts_with(b"--"))
    }

    /// PostgreSQL's statements are told apart by the blank lines between them. In SQLite's triggers, what looks like the
    /// space between statements may be inside of one; its statements need not be told apart.
    fn trivia(&mut self) -> Result<Option<Piece>> {
        match self.dialect {
            Dialect::Postgresql => self.take_statements(),
            Dialect::Sqlite => self.keep_statement().map(|()| None),
        }
    }

    /// Large objects come as many statements without a blank line between them.
    fn is_enough(&self) -> bool {
        let is_long = self.statements.len() > STATEMENTS_LEN && self.dialect == Dialect::Postgresql;
        is_long && self.scanner.is_between_statements()
    }

    fn keep_statement(&mut self) -> Result<()> {
        if self.statements.len() + self.line.len() > STATEMENT_LEN_MAX {
            return Err(self.damaged("a statement is too long"));
        }
        self.statements.extend_from_slice(&self.line);
        Ok(())
    }

    fn take_statements(&mut self) -> Result<Option<Piece>> {
        if self.statements.is_empty() {
            return Ok(None);
        }
        match String::from_utf8(std::mem::take(&mut self.statements)) {
            Ok(text) => Ok(Some(Piece::Statements(text))),
            Err(_) => Err(self.damaged("a statement is not UTF-8")),
        }
    }

    fn after_statements(&mut self, piece: Piece) -> Result<Option<Piece>> {
        match self.take_statements()? {
            Some(statements) => {
                self.waiting = Some(piece);
                Ok(Some(statements))
            }
            None => Ok(Some(piece)),
        }
    }

    /// Reads the rest of a row whose first line was read.
    fn row(&mut self) -> Result<Piece> {
        let mut scanned = self.line.len();
        while self.scanner.is_in_row() {
            if !self.append_line()? {
                return Err(self.damaged("it ends within a row"));
            }
            let part = self.scanner.line(&self.line[scanned..]);
            part.map_err(|reason| self.damaged(reason))?;
            scanned = self.line.len();
        }
        let values = self.scanner.row_values(&self.line);
        let row = match self.dialect {
            Dialect::Postgresql => copy::decode_row(values, self.columns),
            Dialect::Sqlite => literal::decode_values(values, self.columns),
        };
        row.map(Piece::Row).map_err(|reason| self.damaged(reason))
    }

    fn scan(&mut self) -> Result<Line> {
        self.scanner.line(&self.line).map_err(|reason| self.damaged(reason))
    }

    /// Appends the next line to the row or line that is under way. Returns whether there was one.
    fn append_line(&mut self) -> Result<bool> {
        // One byte more is asked for, so that a line that is too long is told from one that just fits. Without a limit, a dump
        // without line breaks would be read into memory as a whole.
        let left = self.row_len_max.saturating_sub(self.line.len()) as u64;
        let read = (&mut self.input).take(left + 1).read_until(b'\n', &mut self.line);
        let len = read.map_err(|source| Error::source("read", "the database dump", source))?;
        if len > 0 {
            self.line_number += 1;
        }
        if len as u64 > left {
            return Err(self.damaged(format!("a line is longer than {} bytes", self.row_len_max)));
        }
        Ok(len > 0)
    }

    fn damaged(&self, reason: impl std::fmt::Display) -> Error {
        Error::damaged("database dump", format!("line {}: {reason}", self.line_number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POSTGRESQL: &str = "--\n-- PostgreSQL database dump\n--\n\n\\restrict x\n\nSET a = 1;\nSET b = ';\n\n';\n\n\
        BEGIN;\n--\n-- Name: t\n--\n\nCREATE TABLE public.t (\n    a integer\n);\n\n\nCOPY public.t (a, b) FROM stdin;\n\
        1\t\\N\n\\.\n\n\n--\n-- PostgreSQL database dump complete\n--\n\n";

    fn pieces(text: &str, dialect: Dialect) -> Result<Vec<Piece>> {
        let mut reader = ScriptReader::new(text.as_bytes(), dialect).with_row_len_max(1000);
        let mut pieces = Vec::new();
        while let Some(piece) = reader.next_piece()? {
            pieces.push(piece);
        }
        Ok(pieces)
    }

    #[test]
    fn a_dump_comes_apart_into_statements_and_rows() {
        let pieces = pieces(POSTGRESQL, Dialect::Postgresql).unwrap();
        assert_eq!(pieces[0], Piece::Statements("SET a = 1;\nSET b = ';\n\n';\n".into()));
        assert_eq!(pieces[1], Piece::Statements("CREATE TABLE public.t (\n    a integer\n);\n".into()));
        assert!(matches!(&pieces[2], Piece::Table(head) if head.name == "t" && head.columns == ["a", "b"]));
        assert_eq!(pieces[3], Piece::Row(vec![Value::Text(b"1".to_vec()), Value::Null]));
        assert_eq!(pieces[4..], [Piece::TableEnd]);
    }

    #[test]
    fn a_dump_cut_anywhere_before_its_last_line_is_an_error() {
        let trailer = POSTGRESQL.find("-- PostgreSQL database dump complete").unwrap();
        for len in 0..=trailer {
            assert!(pieces(&POSTGRESQL[..len], Dialect::Postgresql).is_err(), "{len}");
        }
    }

    #[test]
    fn a_row_that_is_too_long_or_has_too_few_values_is_an_error_that_names_its_line() {
        let long = POSTGRESQL.replace("1\t", &format!("{}\t", "1".repeat(1000)));
        let message = pieces(&long, Dialect::Postgresql).unwrap_err().to_string();
        assert!(message.contains("line 23: a line is longer than 1000 bytes"), "{message}");
        let message = pieces(&POSTGRESQL.replace("1\t", ""), Dialect::Postgresql).unwrap_err().to_string();
        assert!(message.contains("line 23: a row has 1 values, and the table 2 columns"), "{message}");
    }

    #[test]
    fn rows_of_sqlite_keep_their_line_breaks() {
        let text = "BEGIN;\nCREATE TABLE t (a);\n\n-- rows [\"t\",\"a\"]\nINSERT INTO \"t\" VALUES('x\n;''\n');\n\
            INSERT INTO \"t\" VALUES(1);\n-- end of rows\n-- end of all rows\nCREATE TRIGGER r BEGIN\nSELECT 1;\n\n\
            -- rows [\"t\",\"a\"]\nEND;\nCOMMIT;\n-- SQLite database dump complete\n";
        let pieces = pieces(text, Dialect::Sqlite).unwrap();
        assert_eq!(pieces[2], Piece::Row(vec![Value::Text(b"x\n;'\n".to_vec())]));
        assert_eq!(pieces[3], Piece::Row(vec![Value::Number("1".into())]));
        assert!(matches!(&pieces[5], Piece::Statements(text) if text.contains("END;") && !text.contains("COMMIT")));
        assert_eq!(pieces.len(), 6);
    }
}
