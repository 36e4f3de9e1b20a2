//! Loads dumps into an empty SQLite database.
//!
//! What must stay true: no statement of the dump is run that the guard has not let pass; rows are bound as values, never
//! run as text.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{OpenFlags, params_from_iter};

use super::super::rewrite::{RewriteSql, too_long_reason};
use super::super::{DatabaseWriter, LoadPlan, Merge, MergeTable, Rewrite, load};
use super::{File, Parameter, describe, dump, merge};
use crate::error::{Error, Result};
use crate::sql::guard::{Guard, Refusals, Refused};
use crate::sql::scanner::TableHead;
use crate::sql::script::{Piece, ScriptReader};
use crate::sql::{Dialect, Value, quoted, quoted_list};

/// Bytes of a dump that are read at a time.
const READ_LEN: usize = 256 << 10;
/// A SQLite database to restore into.
pub struct SqliteWriter {
    file: File,
}

impl SqliteWriter {
    /// Opens a file; an empty one is created if there is none.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        Ok(Self { file: File::open_with(path, flags)? })
    }

    fn load_in_transaction(&mut self, dump: &mut dyn Read, plan: LoadPlan<'_>) -> Result<Vec<u64>> {
        let file = &self.file;
        file.run("load into", "BEGIN IMMEDIATE")?;
        if let Some(reason) = load::not_empty(&contents(file)?) {
            return Err(file.error("load into", reason));
        }
        let heads = run_script(file, dump, plan.guard)?;
        let loaded: Vec<_> =
            heads.iter().map(|head| dump::record(file, &head.name, &head.columns)).collect::<Result<_>>()?;
        if let Some(reason) = load::difference(plan.expected, &loaded) {
            return Err(file.error("load into", reason));
        }
        let changed = plan.rewrites.iter().map(|rewrite| run_rewrite(file, rewrite, &heads)).collect::<Result<_>>()?;
        if file.connection.is_autocommit() {
            return Err(file.error("load into", "the dump ended the transaction that it was loaded in"));
        }
        file.run("commit to", "COMMIT")?;
        Ok(changed)
    }
}

fn contents(file: &File) -> Result<Vec<(String, u64)>> {
    let count = |table: String| {
        let sql = format!("SELECT count(*) FROM main.{}", quoted(&table));
        let rows: i64 =
            file.connection.query_row(&sql, [], |row| row.get(0)).map_err(file.fault("read the tables of"))?;
        Ok((table, rows.unsigned_abs()))
    };
    file.tables()?.into_iter().map(count).collect()
}

fn run_script(file: &File, dump: &mut dyn Read, guard: &Guard) -> Result<Vec<TableHead>> {
    let mut script = ScriptReader::new(BufReader::with_capacity(READ_LEN, dump), Dialect::Sqlite);
    let mut heads = Vec::new();
    while let Some(piece) = script.next_piece()? {
        match piece {
            Piece::Statement(statement) => {
                guard.check(&statement).map_err(|refused| refusal(file, refused))?;
                run_statement(file, &statement.text)?;
            }
            Piece::Table(head) => {
                guard.check_table(&head, script.line_number()).map_err(|refused| refusal(file, refused))?;
                insert_rows(file, &head, &mut script)?;
                heads.push(head);
            }
            Piece::Row(_) | Piece::TableEnd => {}
        }
    }
    Ok(heads)
}

fn refusal(file: &File, refused: Refused) -> Error {
    Refusals::from(refused).into_error(&file.location)
}

fn run_statement(file: &File, sql: &str) -> Result<()> {
    file.connection.execute_batch(sql).map_err(|error| {
        let reason = format!("{}; in: {}", describe(&error), load::beginning(sql));
        file.error("load into", reason)
    })
}

fn insert_rows<R: BufRead>(file: &File, head: &TableHead, script: &mut ScriptReader<R>) -> Result<()> {
    let places: Vec<_> = (1..=head.columns.len()).map(|number| format!("?{number}")).collect();
    let sql = format!(
        "INSERT INTO main.{} ({}) VALUES ({})",
        quoted(&head.name),
        quoted_list(&head.columns),
        places.join(", ")
    );
    let mut insert = file.connection.prepare(&sql).map_err(file.fault("load into"))?;
    while let Some(Piece::Row(row)) = script.next_piece()? {
        insert.execute(params_from_iter(row.iter().map(Parameter))).map_err(|error| {
            let line = script.line_number();
            let reason = format!("{}; row of {} in line {line} of the dump", describe(&error), head.name);
            file.error("load into", reason)
        })?;
    }
    Ok(())
}

fn run_rewrite(file: &File, rewrite: &Rewrite, heads: &[TableHead]) -> Result<u64> {
    let Some(head) = heads.iter().find(|head| head.name == rewrite.table) else { return Ok(0) };
    if !head.columns.contains(&rewrite.column) {
        return Ok(0);
    }
    let sql = RewriteSql::new(rewrite, &format!("main.{}", head.target), '?');
    let fault = file.fault("rewrite");
    if let Some(query) = sql.too_long(&file.primary_key(&head.name)?) {
        let mut query = file.connection.prepare(&query).map_err(&fault)?;
        let rows = query.query_map(params_from_iter(&sql.parameters), |row| Ok((row.get(0)?, row.get(1)?)));
        let rows: Vec<_> = rows.and_then(Iterator::collect).map_err(&fault)?;
        if !rows.is_empty() {
            return Err(file.error("rewrite", too_long_reason(rewrite, &rows)));
        }
    }
    let changed = file.connection.execute(&sql.update(), params_from_iter(&sql.parameters)).map_err(fault)?;
    Ok(changed as u64)
}

impl DatabaseWriter for SqliteWriter {
    fn contents(&mut self) -> Result<Vec<(String, u64)>> {
        contents(&self.file)
    }

    /// That it could be opened to write says it all.
    fn missing_rights(&mut self, _: &BTreeSet<String>) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn load(&mut self, dump: &mut dyn Read, plan: LoadPlan<'_>) -> Result<Vec<u64>> {
        // Rows come back as they were, whatever they break: the digests of the tables say that they are those of the
        // snapshot. SQLite ignores this within a transaction.
        let settings = "PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON; PRAGMA trusted_schema = OFF";
        self.file.run("load into", settings)?;
        let defends = self.file.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true);
        defends.map_err(self.file.fault("load into"))?;
        let result = self.load_in_transaction(dump, plan);
        if result.is_err() && !self.file.connection.is_autocommit() {
            self.file.run("roll back", "ROLLBACK")?;
        }
        result
    }

    fn merge(&mut self, order: &[MergeTable]) -> Result<Box<dyn Merge + '_>> {
        self.file.run("merge into", "PRAGMA foreign_keys = ON")?;
        Ok(merge::begin(&mut self.file, order))
    }

    fn query(&mut self, sql: &str, row: &mut dyn FnMut(&[Value]) -> Result<()>) -> Result<()> {
        self.file.select(sql, row)
    }
}
