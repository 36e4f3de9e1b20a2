//! What merging needs of SQLite.

use rusqlite::params_from_iter;

use super::super::merge::{MergeStore, Merger};
use super::super::{Merge, MergeTable};
use super::{File, Parameter};
use crate::error::Result;
use crate::sql::{Value, quoted, quoted_list, text_literal};

const ACTION: &str = "merge into";

/// Begins a merge.
pub fn begin<'a>(file: &'a mut File, order: &[MergeTable]) -> Box<dyn Merge + 'a> {
    Box::new(Merger::new(file, order))
}

/// Returns the table that a name as SQL stands for, as [`MergeStore::target`] makes it.
fn name_of(target: &str) -> String {
    let name = target.trim_start_matches("main.").trim_start_matches('"');
    name.strip_suffix('"').unwrap_or(name).replace("\"\"", "\"")
}

impl MergeStore for File {
    fn location(&self) -> String {
        self.location.clone()
    }

    fn target(&mut self, table: &str) -> Result<Option<String>> {
        let sql =
            format!("SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name = {}", text_literal(table));
        let names = self.texts(ACTION, &sql)?;
        Ok(names.first().map(|name| format!("main.{}", quoted(name))))
    }

    fn columns(&mut self, target: &str) -> Result<Vec<String>> {
        File::columns(self, &name_of(target))
    }

    fn key(&mut self, target: &str) -> Result<Vec<String>> {
        self.primary_key(&name_of(target))
    }

    fn is_same(&self, one: &str, other: &str) -> String {
        format!("{one} COLLATE BINARY IS {other}")
    }

    /// Not `=`: columns of a key can be null in SQLite.
    fn is_same_key(&self, one: &str, other: &str) -> String {
        format!("{one} IS {other}")
    }

    fn row_id(&self) -> &'static str {
        "rowid"
    }

    /// In a transaction of its own, which touches only the temporary database.
    fn insert(&mut self, table: &str, columns: &[String], rows: &[Vec<Value>]) -> Result<()> {
        let places = vec!["?"; columns.len()].join(", ");
        let sql = format!("INSERT INTO temp.{table} ({}) VALUES ({places})", quoted_list(columns));
        let fault = self.fault(ACTION);
        let transaction = self.connection.unchecked_transaction().map_err(&fault)?;
        let mut insert = transaction.prepare(&sql).map_err(&fault)?;
        for row in rows {
            insert.execute(params_from_iter(row.iter().map(Parameter))).map_err(&fault)?;
        }
        drop(insert);
        transaction.commit().map_err(fault)
    }

    fn execute(&mut self, sql: &str) -> Result<u64> {
        let changed = self.connection.execute(sql, []).map_err(self.fault(ACTION))?;
        Ok(changed as u64)
    }

    fn query_texts(&mut self, sql: &str) -> Result<Vec<String>> {
        File::texts(self, ACTION, sql)
    }

    fn begin(&mut self, _targets: &[String]) -> Result<()> {
        self.run(ACTION, "BEGIN IMMEDIATE")
    }

    /// SQLite does so by itself.
    fn advance_sequences(&mut self, _target: &str) -> Result<()> {
        Ok(())
    }
}
