//! Tells what each line of a dump is, in both dialects.
//!
//! pg_dump writes the rows of a table behind `COPY … FROM stdin;`, up to a line `\.`. Our own dumps of SQLite write them
//! as `INSERT` statements between two comment lines; a text may go on over several lines there.
//!
//! What must stay true: rows begin only between statements, so that no text inside of one can pretend to be the
//! beginning of rows; commands to psql (`\!` runs programs) are refused, but for the two that pg_dump writes; so is what
//! would end the transaction that a dump is loaded in.

use super::{Dialect, lexer::Lexer, quoted};

/// Begins the line before the rows of a table in a dump of SQLite; a JSON array of its name and its columns follows.
pub const SQLITE_TABLE: &str = "-- rows ";
/// The line after the rows of a table in a dump of SQLite.
pub const SQLITE_TABLE_END: &str = "-- end of rows";
/// The line after all rows in a dump of SQLite: no more tables follow.
pub const SQLITE_ROWS_END: &str = "-- end of all rows";
/// The last line of a whole dump of SQLite.
pub const SQLITE_COMPLETE: &str = "-- SQLite database dump complete";
/// The last comment of a whole dump of PostgreSQL.
const POSTGRESQL_COMPLETE: &str = "-- PostgreSQL database dump complete";
/// Lines that whoever loads a dump does better: it is loaded in one transaction. The last is unknown to older servers
/// than the pg_dump that wrote it.
const LEFT_OUT: [&[u8]; 3] = [b"BEGIN;", b"COMMIT;", b"SET transaction_timeout = 0;"];

/// The table that rows belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableHead {
    /// Its name, without a schema.
    pub name: String,
    /// Its schema, if the dialect has any.
    pub schema: Option<String>,
    /// The columns that rows have values for.
    pub columns: Vec<String>,
    /// Its name as SQL, with the schema if the dialect has any.
    pub target: String,
}

/// What a line is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// SQL, a comment, or blank.
    Statement,
    /// Something to leave out when a dump is loaded.
    LeftOut,
    /// The beginning of the rows of a table.
    TableStart(TableHead),
    /// A part of a row, which the next line goes on with.
    RowPart,
    /// A row, or the last part of one.
    Row,
    /// The end of the rows of a table.
    TableEnd,
}

/// Follows the lines of a dump.
pub struct Scanner {
    dialect: Dialect,
    lexer: Lexer,
    /// In the rows of a table: what each begins with.
    row_start: Option<Vec<u8>>,
    /// In a row of several lines: an odd number of quotes was seen.
    is_in_text: bool,
    rows_ended: bool,
    is_complete: bool,
}

impl Scanner {
    /// Begins at the first line of a dump.
    pub fn new(dialect: Dialect) -> Self {
        let lexer = Lexer::new(dialect);
        Self { dialect, lexer, row_start: None, is_in_text: false, rows_ended: false, is_complete: false }
    }

    /// Returns whether all statements so far are complete, and no rows are under way.
    pub fn is_between_statements(&self) -> bool {
        self.row_start.is_none() && self.lexer.is_between_statements()
    }

    /// Returns whether the last line was a part of a row that goes on.
    pub fn is_in_row(&self) -> bool {
        self.is_in_text
    }

    /// Returns whether the line was seen that ends a whole dump.
    pub fn is_complete(&self) -> bool {
        // A text can hold the trailer, too; a dump that was cut within that text is not whole.
        self.is_complete && self.is_between_statements()
    }

    /// Takes the next line, with its line break; the reason if a dump has no such line there.
    pub fn line(&mut self, line: &[u8]) -> Result<Line, String> {
        let text = line.strip_suffix(b"\n").ok_or("the last line has no end")?;
        match (&self.row_start, self.dialect) {
            (None, _) if self.lexer.is_between_statements() => self.between_statements(line, text),
            (None, _) => self.statement(line),
            (Some(_), Dialect::Postgresql) if text == br"\." => Ok(self.table_end()),
            (Some(_), Dialect::Postgresql) => Ok(Line::Row),
            (Some(_), Dialect::Sqlite) => self.sqlite_row(text),
        }
    }

    /// Returns the bytes of a row that hold its values, from all of its lines.
    pub fn row_values<'a>(&self, row: &'a [u8]) -> &'a [u8] {
        let row = row.strip_suffix(b"\n").unwrap_or(row);
        match self.dialect {
            Dialect::Postgresql => row,
            Dialect::Sqlite => {
                let start = self.row_start.as_ref().map_or(0, Vec::len);
                row.get(start..row.len().saturating_sub(2)).unwrap_or_default()
            }
        }
    }

    fn between_statements(&mut self, line: &[u8], text: &[u8]) -> Result<Line, String> {
        if let Some(head) = self.table_head(text)? {
            self.row_start = Some(sqlite_row_start(&head.name));
            return Ok(Line::TableStart(head));
        }
        if text.starts_with(b"\\") {
            let is_harmless = text.starts_with(br"\restrict ") || text.starts_with(br"\unrestrict ");
            return if is_harmless { Ok(Line::LeftOut) } else { Err("it holds a command to psql".into()) };
        }
        if LEFT_OUT.contains(&text) {
            return Ok(Line::LeftOut);
        }
        // The lexer takes a backslash for itself. Otherwise `'\'` would end a text for the one and not for the other, and
        // what is data here would run as SQL there.
        if text == b"SET standard_conforming_strings = off;" {
            return Err("its strings do not follow the standard".into());
        }
        self.rows_ended |= text == SQLITE_ROWS_END.as_bytes();
        let trailer = if self.dialect == Dialect::Sqlite { SQLITE_COMPLETE } else { POSTGRESQL_COMPLETE };
        self.is_complete |= text == trailer.as_bytes();
        self.statement(line)
    }

    /// SQLite's `COMMIT` is left out, and what else its dumps hold cannot end a transaction: the loader looks.
    fn statement(&mut self, line: &[u8]) -> Result<Line, String> {
        self.lexer.line(line);
        if self.dialect == Dialect::Postgresql && self.lexer.ends_transaction() {
            return Err("a statement ends the transaction that the dump is loaded in".into());
        }
        Ok(Line::Statement)
    }

    fn table_head(&self, text: &[u8]) -> Result<Option<TableHead>, String> {
        match self.dialect {
            Dialect::Postgresql => {
                match text.strip_prefix(b"COPY ").and_then(|rest| rest.strip_suffix(b" FROM stdin;")) {
                    Some(head) => Ok(Some(postgresql_head(head).ok_or("a COPY line names no table and columns")?)),
                    None => Ok(None),
                }
            }
            Dialect::Sqlite => match text.strip_prefix(SQLITE_TABLE.as_bytes()) {
                Some(head) if !self.rows_ended => Ok(Some(sqlite_head(head)?)),
                _ => Ok(None),
            },
        }
    }

    fn table_end(&mut self) -> Line {
        self.row_start = None;
        Line::TableEnd
    }

    fn sqlite_row(&mut self, text: &[u8]) -> Result<Line, String> {
        if !self.is_in_text && text == SQLITE_TABLE_END.as_bytes() {
            return Ok(self.table_end());
        }
        let part = match &self.row_start {
            Some(start) if !self.is_in_text => text.strip_prefix(start.as_slice()).ok_or("a line is no row")?,
            _ => text,
        };
        // A doubled quote, which stands for one in a text, counts twice and so changes nothing.
        self.is_in_text ^= part.iter().filter(|byte| **byte == b'\'').count() % 2 == 1;
        match self.is_in_text {
            true => Ok(Line::RowPart),
            false if part.ends_with(b");") => Ok(Line::Row),
            false => Err("a row has no end".into()),
        }
    }
}

/// Returns what every row of a table begins with in a dump of SQLite.
pub fn sqlite_row_start(table: &str) -> Vec<u8> {
    format!("INSERT INTO {} VALUES(", quoted(table)).into_bytes()
}

fn sqlite_head(json: &[u8]) -> Result<TableHead, String> {
    let names: Vec<String> = serde_json::from_slice(json).map_err(|error| format!("a line before rows: {error}"))?;
    let mut names = names.into_iter();
    let name = names.next().ok_or("a line before rows names no table")?;
    Ok(TableHead { target: quoted(&name), name, schema: None, columns: names.collect() })
}

/// Reads `schema.table (column, …)`.
fn postgresql_head(text: &[u8]) -> Option<TableHead> {
    let text = std::str::from_utf8(text).ok()?;
    let (schema, rest) = identifier(text)?;
    let (name, rest) = identifier(rest.strip_prefix('.')?)?;
    let target = format!("{}.{}", quoted(&schema), quoted(&name));
    let mut columns = Vec::new();
    let list = rest.trim_start();
    if !list.is_empty() {
        let mut rest = list.strip_prefix('(')?.strip_suffix(')')?;
        loop {
            let (column, after) = identifier(rest)?;
            columns.push(column);
            match after.strip_prefix(", ") {
                Some(more) => rest = more,
                None if after.is_empty() => break,
                None => return None,
            }
        }
    }
    Some(TableHead { name, schema: Some(schema), columns, target })
}

/// Takes a name, quoted or not, from the front of a text.
fn identifier(text: &str) -> Option<(String, &str)> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let len = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(text.len());
        return (len > 0).then(|| (text[..len].to_owned(), &text[len..]));
    };
    let mut name = String::new();
    loop {
        let (part, after) = rest.split_once('"')?;
        name.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return Some((name, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(dialect: Dialect, text: &str) -> Vec<Result<Line, String>> {
        let mut scanner = Scanner::new(dialect);
        text.split_inclusive('\n').map(|line| scanner.line(line.as_bytes())).collect()
    }

    #[test]
    fn the_rows_of_a_copy_are_found_with_odd_names() {
        let text = "COPY public.\"Odd \"\"t\" (a, \"b, c\") FROM stdin;\n1\t2\n\\.\n";
        let head = TableHead {
            name: "Odd \"t".into(),
            schema: Some("public".into()),
            columns: vec!["a".into(), "b, c".into()],
            target: "\"public\".\"Odd \"\"t\"".into(),
        };
        assert_eq!(lines(Dialect::Postgresql, text), [Ok(Line::TableStart(head)), Ok(Line::Row), Ok(Line::TableEnd)]);
    }

    #[test]
    fn text_inside_a_statement_does_not_begin_rows() {
        let text = "SELECT '\nCOPY public.t (a) FROM stdin;\n\\! touch /tmp/x\n';\n";
        assert!(lines(Dialect::Postgresql, text).iter().all(|line| *line == Ok(Line::Statement)));
        let text = "CREATE TABLE t (a,\n-- rows [\"t\",\"a\"]\nb);\n";
        assert!(lines(Dialect::Sqlite, text).iter().all(|line| *line == Ok(Line::Statement)));
        let text = "-- end of all rows\nCREATE TRIGGER x BEGIN SELECT 1;\n-- rows [\"t\",\"a\"]\nSELECT 2; END;\n";
        assert!(lines(Dialect::Sqlite, text).iter().all(|line| *line == Ok(Line::Statement)));
    }

    #[test]
    fn commands_to_psql_are_refused_but_for_those_of_pg_dump() {
        assert_eq!(lines(Dialect::Postgresql, "\\restrict abc\n"), [Ok(Line::LeftOut)]);
        assert!(lines(Dialect::Postgresql, "\\! rm -rf /\n")[0].is_err());
    }

    #[test]
    fn a_row_of_sqlite_goes_on_over_line_breaks_in_its_texts() {
        let text = "-- rows [\"t\",\"a\"]\nINSERT INTO \"t\" VALUES('x\n-- end of rows\n);');\n-- end of rows\n";
        let kinds = lines(Dialect::Sqlite, text);
        assert!(matches!(kinds[0], Ok(Line::TableStart(_))));
        assert_eq!(kinds[1..], [Ok(Line::RowPart), Ok(Line::RowPart), Ok(Line::Row), Ok(Line::TableEnd)]);
    }
}
