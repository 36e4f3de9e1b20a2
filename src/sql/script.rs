//! Reads a dump as a stream of statements and rows, whichever dialect it is in.
//!
//! What must stay true: it never panics, and no input makes it keep more than one row or statement of bounded length;
//! the end of the input is an error unless the dump is whole.

use std::collections::VecDeque;
use std::io::{BufRead, Read};

use super::scanner::{Line, Scanner, TableHead};
use super::{Dialect, Value, copy, lexer, literal};
use crate::error::{Error, Result};

/// Longest row in bytes, unless the caller sets another limit. PostgreSQL's limit for one value is 1 GiB.
pub const ROW_LEN_MAX: usize = 1 << 30;
/// Longest statement in bytes.
const STATEMENT_LEN_MAX: usize = 64 << 20;

/// One statement of a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Its text, from its first word to the last one before the semicolon.
    pub text: String,
    /// The line of the dump that it begins in, from 1.
    pub line: u64,
}

/// Puts the lines of statements together, until they are whole.
pub struct Statements {
    dialect: Dialect,
    lines: Vec<u8>,
    /// Where the first of those lines is in the dump.
    first_line: u64,
}

impl Statements {
    /// Begins without any line.
    pub fn new(dialect: Dialect) -> Self {
        Self { dialect, lines: Vec::new(), first_line: 0 }
    }

    /// Takes a line, and returns the statements that are whole with it; the reason if there can be none.
    /// `is_between` says whether the scanner is between two statements behind the line.
    pub fn line(&mut self, line: &[u8], number: u64, is_between: bool) -> Result<Vec<Statement>, String> {
        if self.lines.is_empty() {
            self.first_line = number;
        }
        if self.lines.len() + line.len() > STATEMENT_LEN_MAX {
            return Err("a statement is too long".to_owned());
        }
        self.lines.extend_from_slice(line);
        if !is_between {
            return Ok(Vec::new());
        }
        let lines = std::mem::take(&mut self.lines);
        let statement = |range: std::ops::Range<usize>| {
            let before = lines[..range.start].iter().filter(|byte| **byte == b'\n').count();
            let text = std::str::from_utf8(&lines[range]).map_err(|_| "a statement is not UTF-8".to_owned())?;
            Ok(Statement { text: text.to_owned(), line: self.first_line + before as u64 })
        };
        lexer::statements(self.dialect, &lines).into_iter().map(statement).collect()
    }
}

/// A part of a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A whole statement.
    Statement(Statement),
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
    statements: Statements,
    line: Vec<u8>,
    line_number: u64,
    /// Statements that are to be handed out before another line is read.
    waiting: VecDeque<Statement>,
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
            statements: Statements::new(dialect),
            line: Vec::new(),
            line_number: 0,
            waiting: VecDeque::new(),
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
        loop {
            if let Some(statement) = self.waiting.pop_front() {
                return Ok(Some(Piece::Statement(statement)));
            }
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
        if self.scanner.is_complete() { Ok(None) } else { Err(self.damaged("it ends early")) }
    }

    fn take_line(&mut self) -> Result<Option<Piece>> {
        match self.scan()? {
            Line::Statement => {
                let is_between = self.scanner.is_between_statements();
                let whole = self.statements.line(&self.line, self.line_number, is_between);
                self.waiting.extend(whole.map_err(|reason| self.damaged(reason))?);
                Ok(None)
            }
            Line::LeftOut => Ok(None),
            Line::TableStart(head) => {
                self.columns = head.columns.len();
                Ok(Some(Piece::Table(head)))
            }
            Line::Row | Line::RowPart => self.row().map(Some),
            Line::TableEnd => Ok(Some(Piece::TableEnd)),
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

    fn statement(line: u64, text: &str) -> Piece {
        Piece::Statement(Statement { text: text.to_owned(), line })
    }

    #[test]
    fn a_dump_comes_apart_into_statements_and_rows() {
        let pieces = pieces(POSTGRESQL, Dialect::Postgresql).unwrap();
        assert_eq!(pieces[0], statement(7, "SET a = 1"));
        assert_eq!(pieces[1], statement(8, "SET b = ';\n\n'"));
        assert_eq!(pieces[2], statement(17, "CREATE TABLE public.t (\n    a integer\n)"));
        assert!(matches!(&pieces[3], Piece::Table(head) if head.name == "t" && head.columns == ["a", "b"]));
        assert_eq!(pieces[4], Piece::Row(vec![Value::Text(b"1".to_vec()), Value::Null]));
        assert_eq!(pieces[5..], [Piece::TableEnd]);
    }

    #[test]
    fn statements_of_one_line_are_told_apart() {
        let text = POSTGRESQL.replace("SET a = 1;", "SET a = 1; /* ; */ SET c = 2; -- ;");
        let pieces = pieces(&text, Dialect::Postgresql).unwrap();
        assert_eq!(pieces[..2], [statement(7, "SET a = 1"), statement(7, "SET c = 2")]);
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
        assert_eq!(pieces[5..], [statement(11, "CREATE TRIGGER r BEGIN\nSELECT 1;\n\n-- rows [\"t\",\"a\"]\nEND")]);
    }
}
