//! Writes a SQLite database as SQL text, which `sqlite3 new.db < dump.sql` reads, too.
//!
//! Tables come first, then their rows in the order of their keys, so that a small change of a database is a small change
//! of its dump; then indexes, views and triggers, which would slow down or change the inserts.
//!
//! What must stay true: the text gives every value back exactly; what it cannot give back (virtual tables) is an error.
//! What SQLite can make again, the statistics of ANALYZE, is left out.

use std::io::{BufWriter, Write};

use super::super::Dumped;
use super::File;
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::sql::guard::{Guard, Refusals};
use crate::sql::scanner::{SQLITE_COMPLETE, SQLITE_ROWS_END, SQLITE_TABLE, SQLITE_TABLE_END, sqlite_row_start};
use crate::sql::script::{ROW_LEN_MAX, Statement};
use crate::sql::table_digest::TableDigest;
use crate::sql::{Dialect, TableRecord, literal, quoted, quoted_list, text_literal};

const ACTION: &str = "dump";
/// Bytes that are handed on at a time.
const BUFFER_LEN: usize = 256 << 10;
/// The first lines.
const HEADER: &str = "-- SQLite database dump\nPRAGMA foreign_keys = OFF;\nBEGIN;\n\n";

/// Writes the dump; returns what is in it.
pub fn write_dump(file: &File, output: impl Write, cancel: &Cancel) -> Result<Dumped> {
    let output = BufWriter::with_capacity(BUFFER_LEN, output);
    let mut dump = Dump { file, output, cancel, lines: 0, refused: Refusals::default() };
    let tables = dump.tables()?;
    dump.text(HEADER)?;
    dump.schema("type = 'table'")?;
    let records = tables.iter().map(|table| dump.rows(table)).collect::<Result<_>>()?;
    dump.line(SQLITE_ROWS_END)?;
    dump.text("\n")?;
    dump.sequences()?;
    for kind in ["index", "view", "trigger"] {
        dump.schema(&format!("type = '{kind}'"))?;
    }
    for pragma in ["user_version", "application_id"] {
        let sql = format!("SELECT CAST({pragma} AS text) FROM pragma_{pragma}");
        let values = file.texts(ACTION, &sql)?;
        dump.line(&format!("PRAGMA {pragma} = {};", values.concat()))?;
    }
    dump.line("COMMIT;")?;
    dump.line(SQLITE_COMPLETE)?;
    dump.output.flush().map_err(|error| dump.unwritable(error))?;
    Ok(Dumped { tables: records, refused: dump.refused })
}

/// Returns the record of a table as it is, whatever the order of its rows.
pub fn record(file: &File, table: &str, columns: &[String]) -> Result<TableRecord> {
    let mut digest = TableDigest::default();
    let mut list = Vec::new();
    file.select(&format!("SELECT {} FROM main.{}", quoted_list(columns), quoted(table)), &mut |row| {
        list.clear();
        literal::encode_values(row, &mut list);
        digest.add(&list);
        Ok(())
    })?;
    Ok(digest.record(table))
}

struct Dump<'a, W: Write> {
    file: &'a File,
    output: BufWriter<W>,
    cancel: &'a Cancel,
    /// Lines that were written.
    lines: u64,
    /// Statements that a restore will not run by itself.
    refused: Refusals,
}

impl<W: Write> Dump<'_, W> {
    fn unwritable(&self, error: std::io::Error) -> Error {
        self.file.error(ACTION, error)
    }

    fn text(&mut self, text: &str) -> Result<()> {
        self.lines += line_breaks(text.as_bytes());
        self.output.write_all(text.as_bytes()).map_err(|error| self.unwritable(error))
    }

    fn line(&mut self, line: &str) -> Result<()> {
        self.text(line)?;
        self.text("\n")
    }

    fn tables(&self) -> Result<Vec<String>> {
        let odd = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('virtual', 'shadow')";
        if let Some(table) = self.file.texts(ACTION, odd)?.first() {
            return Err(self.file.error(ACTION, format!("its virtual table {table:?} cannot be dumped")));
        }
        let tables = self.file.tables()?;
        match tables.iter().find(|table| table.contains(['\n', '\r', '\0'])) {
            Some(table) => Err(self.file.error(ACTION, format!("the name of its table {table:?} has a line break"))),
            None => Ok(tables),
        }
    }

    /// Writes the statements that make what SQLite does not make by itself.
    fn schema(&mut self, condition: &str) -> Result<()> {
        let sql = format!(
            "SELECT sql FROM main.sqlite_schema WHERE {condition} AND sql IS NOT NULL \
             AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY rowid"
        );
        let guard = Guard::new(Dialect::Sqlite, &[]);
        for statement in self.file.texts(ACTION, &sql)? {
            // As a restore will see it: without what stands behind its last word.
            let text = statement.trim_end().to_owned();
            let checked = guard.check(&Statement { text, line: self.lines + 1 });
            checked.unwrap_or_else(|refused| self.refused.add(refused));
            self.text(&statement)?;
            self.text(";\n\n")?;
        }
        Ok(())
    }

    fn rows(&mut self, table: &str) -> Result<TableRecord> {
        let columns = self.file.columns(table)?;
        let names: Vec<&str> = std::iter::once(table).chain(columns.iter().map(String::as_str)).collect();
        self.line(&format!("{SQLITE_TABLE}{}", serde_json::json!(names)))?;
        let order = self.order(table)?;
        let sql = format!("SELECT {} FROM main.{} NOT INDEXED{order}", quoted_list(&columns), quoted(table));
        let start = sqlite_row_start(table);
        let mut digest = TableDigest::default();
        let mut line = start.clone();
        let (file, cancel, output, lines) = (self.file, self.cancel, &mut self.output, &mut self.lines);
        file.select(&sql, &mut |row| {
            cancel.check()?;
            line.truncate(start.len());
            literal::encode_values(row, &mut line);
            if line.len() >= ROW_LEN_MAX {
                return Err(
                    file.error(ACTION, format!("a row of the table {table} is longer than {ROW_LEN_MAX} bytes"))
                );
            }
            digest.add(&line[start.len()..]);
            line.extend_from_slice(b");\n");
            *lines += line_breaks(&line);
            output.write_all(&line).map_err(|error| file.error(ACTION, error))
        })?;
        self.line(SQLITE_TABLE_END)?;
        self.text("\n")?;
        Ok(digest.record(table))
    }

    /// Returns the clause that sorts rows by their key in the file, under a name that no column hides.
    fn order(&self, table: &str) -> Result<String> {
        let all = format!("SELECT lower(name) FROM pragma_table_xinfo({})", text_literal(table));
        let is_without_rowid =
            format!("SELECT '' FROM pragma_table_list({}) WHERE schema = 'main' AND wr = 1", text_literal(table));
        if !self.file.texts(ACTION, &is_without_rowid)?.is_empty() {
            return Ok(format!(" ORDER BY {}", quoted_list(&self.file.primary_key(table)?)));
        }
        let columns = self.file.texts(ACTION, &all)?;
        let name = ["rowid", "_rowid_", "oid"].into_iter().find(|name| !columns.iter().any(|column| column == name));
        Ok(name.map(|name| format!(" ORDER BY {name}")).unwrap_or_default())
    }

    /// Writes the counters of AUTOINCREMENT. Inserting rows has set them, to other values if rows were deleted.
    fn sequences(&mut self) -> Result<()> {
        let is_there = "SELECT name FROM main.sqlite_schema WHERE name = 'sqlite_sequence'";
        if self.file.texts(ACTION, is_there)?.is_empty() {
            return Ok(());
        }
        self.line("DELETE FROM sqlite_sequence;")?;
        let file = self.file;
        let mut line = Vec::new();
        let (output, lines) = (&mut self.output, &mut self.lines);
        file.select("SELECT name, seq FROM main.sqlite_sequence ORDER BY rowid", &mut |row| {
            line.clear();
            line.extend_from_slice(b"INSERT INTO sqlite_sequence VALUES(");
            literal::encode_values(row, &mut line);
            line.extend_from_slice(b");\n");
            *lines += 1;
            output.write_all(&line).map_err(|error| file.error(ACTION, error))
        })?;
        self.text("\n")
    }
}

fn line_breaks(text: &[u8]) -> u64 {
    text.iter().filter(|byte| **byte == b'\n').count() as u64
}
