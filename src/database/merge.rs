//! Merging rows into a database in use, the same for both engines but for what [`MergeStore`] asks of them.
//!
//! Rows are set aside in temporary tables, which keep the types of their columns, and compared by SQL.
//!
//! What the user of a database deleted may leave a row behind ([`MergeTable::remnant`]): it counts as absent, and is
//! written over.
//!
//! What must stay true: the comparison that decides is made in the transaction that writes, while nobody else writes to
//! these tables; if it does not end well, nothing is changed.

use super::{Merge, MergeTable, Need, OnConflict, TableMerge};
use crate::error::{Error, Result};
use crate::sql::{Value, quoted, quoted_list, text_literal};

/// Bytes of rows that wait before they go to the database.
const WAITING_LEN_MAX: usize = 1 << 20;
/// Conflicting rows that a report names.
const EXAMPLES_MAX: usize = 5;
/// The column of a temporary table that tells selected rows (0) from referenced ones (1).
const NEED: &str = "mlvault_need";

/// What a merge asks of a database.
pub trait MergeStore {
    /// Returns where the database is, without a password.
    fn location(&self) -> String;
    /// Returns a table's name as SQL, or none if there is no such table.
    fn target(&mut self, table: &str) -> Result<Option<String>>;
    /// Returns the columns of a table.
    fn columns(&mut self, target: &str) -> Result<Vec<String>>;
    /// Returns the columns of its primary key; none if it has no key.
    fn key(&mut self, target: &str) -> Result<Vec<String>>;
    /// Returns SQL that compares two expressions exactly, null being equal to null.
    fn is_same(&self, one: &str, other: &str) -> String;
    /// Returns SQL that compares two columns of a key, by an index if there is one.
    fn is_same_key(&self, one: &str, other: &str) -> String;
    /// Returns the name of the column that tells rows of a temporary table apart.
    fn row_id(&self) -> &'static str;
    /// Inserts rows.
    fn insert(&mut self, table: &str, columns: &[String], rows: &[Vec<Value>]) -> Result<()>;
    /// Runs a statement; returns how many rows it changed.
    fn execute(&mut self, sql: &str) -> Result<u64>;
    /// Runs a query; returns the texts of its first column.
    fn query_texts(&mut self, sql: &str) -> Result<Vec<String>>;
    /// Begins a transaction that alone writes to these tables.
    fn begin(&mut self, targets: &[String]) -> Result<()>;
    /// Moves the sequences of a table past its greatest values, never back.
    fn advance_sequences(&mut self, target: &str) -> Result<()>;
}

/// The rows of one table that were set aside.
struct Stage {
    table: String,
    target: String,
    /// Name of the temporary table.
    name: String,
    columns: Vec<String>,
    key: Vec<String>,
    /// SQL that tells whether the row `t` is there for good.
    stays: String,
    waiting: Vec<Vec<Value>>,
    waiting_len: usize,
}

/// A merge under way.
pub struct Merger<'a> {
    store: &'a mut dyn MergeStore,
    /// Tables in the order in which they are merged.
    order: Vec<MergeTable>,
    stages: Vec<Stage>,
}

impl<'a> Merger<'a> {
    /// Begins without any row.
    pub fn new(store: &'a mut dyn MergeStore, order: &[MergeTable]) -> Self {
        Self { store, order: order.to_vec(), stages: Vec::new() }
    }

    fn error(&self, reason: impl ToString) -> Error {
        Error::database("merge into", self.store.location(), reason)
    }

    fn stage_of(&mut self, table: &str, columns: &[String]) -> Result<usize> {
        if let Some(number) = self.stages.iter().position(|stage| stage.table == table) {
            if self.stages[number].columns != columns {
                return Err(self.error(format!("rows of the table {table} come with different columns")));
            }
            return Ok(number);
        }
        let target = self.store.target(table)?.ok_or_else(|| self.error(format!("it has no table {table}")))?;
        let known = self.store.columns(&target)?;
        let missing: Vec<_> = columns.iter().filter(|column| !known.contains(column)).map(String::as_str).collect();
        if !missing.is_empty() {
            return Err(self.error(format!("its table {table} has no column {}", missing.join(", "))));
        }
        let key = self.store.key(&target)?;
        if let Some(column) = key.iter().find(|column| !columns.contains(column)) {
            return Err(self.error(format!("rows of the table {table} come without their key {column}")));
        }
        let name = format!("mlvault_stage_{}", self.stages.len());
        let list = quoted_list(columns);
        self.store.execute(&format!("DROP TABLE IF EXISTS {name}"))?;
        self.store
            .execute(&format!("CREATE TEMP TABLE {name} AS SELECT {list}, 0 AS {NEED} FROM {target} WHERE 1 = 0"))?;
        let remnant = self.order.iter().find(|known| known.name == table).and_then(|known| known.remnant.as_deref());
        let stays = remnant.map_or_else(|| "1 = 1".to_owned(), |condition| format!("NOT ({condition})"));
        let (table, columns) = (table.to_owned(), columns.to_vec());
        self.stages.push(Stage { table, target, name, columns, key, stays, waiting: Vec::new(), waiting_len: 0 });
        Ok(self.stages.len() - 1)
    }

    fn flush(&mut self, number: usize) -> Result<()> {
        let stage = &mut self.stages[number];
        let rows = std::mem::take(&mut stage.waiting);
        stage.waiting_len = 0;
        let mut columns = stage.columns.clone();
        columns.push(NEED.to_owned());
        self.store.insert(&stage.name, &columns, &rows)
    }

    /// Brings all rows into the temporary tables, each key once: as selected if it is that at all.
    fn settle(&mut self) -> Result<()> {
        let place = |stage: &Stage| self.order.iter().position(|table| table.name == stage.table);
        self.stages.sort_by_key(|stage| place(stage).unwrap_or(usize::MAX));
        for number in 0..self.stages.len() {
            self.flush(number)?;
            let stage = &self.stages[number];
            if stage.key.is_empty() {
                continue;
            }
            let (name, key, id) = (&stage.name, quoted_list(&stage.key), self.store.row_id());
            self.store.execute(&format!(
                "DELETE FROM {name} WHERE {id} IN (SELECT id FROM (SELECT {id} AS id, row_number() \
                 OVER (PARTITION BY {key} ORDER BY {NEED}) AS number FROM {name}) AS numbered WHERE number > 1)"
            ))?;
        }
        Ok(())
    }

    fn compare(&mut self) -> Result<Vec<TableMerge>> {
        (0..self.stages.len()).map(|number| self.compare_table(number)).collect()
    }

    fn compare_table(&mut self, number: usize) -> Result<TableMerge> {
        let stage = &self.stages[number];
        let Stage { table, target, name, stays, .. } = stage;
        let (fits, equal) = (stage.fits(self.store), stage.equal(self.store));
        let there = format!("EXISTS (SELECT 1 FROM {target} AS t WHERE {fits} AND ({stays} OR ({equal})))");
        let differs = format!("EXISTS (SELECT 1 FROM {target} AS t WHERE {fits} AND {stays} AND NOT ({equal}))");
        let is_same = format!("EXISTS (SELECT 1 FROM {target} AS t WHERE {fits} AND {equal})");
        let shown = stage.shown_key();
        let conflicts = format!("{differs} AND s.{NEED} = 0");
        let mut count = |condition: &str| {
            let sql = format!("SELECT CAST(count(*) AS text) FROM {name} AS s WHERE {condition}");
            let texts = self.store.query_texts(&sql)?;
            Ok::<u64, Error>(texts.first().and_then(|text| text.parse().ok()).unwrap_or_default())
        };
        Ok(TableMerge {
            table: table.clone(),
            inserted: count(&format!("NOT {there}"))?,
            same: count(&is_same)?,
            kept: count(&format!("{differs} AND s.{NEED} = 1"))?,
            conflicts: count(&conflicts)?,
            examples: self.store.query_texts(&format!(
                "SELECT {shown} FROM {name} AS s WHERE {conflicts} ORDER BY 1 LIMIT {EXAMPLES_MAX}"
            ))?,
        })
    }

    fn write(&mut self, on_conflict: OnConflict) -> Result<Vec<TableMerge>> {
        let targets: Vec<String> = self.stages.iter().map(|stage| stage.target.clone()).collect();
        self.store.begin(&targets)?;
        let report = self.compare()?;
        if on_conflict == OnConflict::Refuse && report.iter().any(|table| table.conflicts > 0) {
            return Err(self.error(refusal(&report)));
        }
        for stage in &self.stages {
            let (Stage { target, name, .. }, list) = (stage, quoted_list(&stage.columns));
            let fits = stage.fits(self.store);
            self.store.execute(&format!(
                "INSERT INTO {target} ({list}) SELECT {list} FROM {name} AS s \
                 WHERE NOT EXISTS (SELECT 1 FROM {target} AS t WHERE {fits})"
            ))?;
        }
        for stage in &self.stages {
            let remnants = format!("NOT ({})", stage.stays);
            let selected = format!("s.{NEED} = 0");
            let over =
                if on_conflict == OnConflict::Replace { format!("({remnants} OR {selected})") } else { remnants };
            if let Some(sql) = stage.replacement(self.store, &over) {
                self.store.execute(&sql)?;
            }
        }
        for target in &targets {
            self.store.advance_sequences(target)?;
        }
        self.store.execute("COMMIT")?;
        Ok(report)
    }
}

impl Stage {
    /// SQL that tells whether the rows `t` and `s` have one key; without a key, whether they are the same.
    fn fits(&self, store: &dyn MergeStore) -> String {
        if self.key.is_empty() {
            return self.equal(store);
        }
        let pairs = self.key.iter().map(|column| {
            let column = quoted(column);
            store.is_same_key(&format!("t.{column}"), &format!("s.{column}"))
        });
        pairs.collect::<Vec<_>>().join(" AND ")
    }

    fn equal(&self, store: &dyn MergeStore) -> String {
        let pairs = self.columns.iter().map(|column| {
            let column = quoted(column);
            store.is_same(&format!("t.{column}"), &format!("s.{column}"))
        });
        pairs.collect::<Vec<_>>().join(" AND ")
    }

    fn shown_key(&self) -> String {
        let shown = self.key.iter().map(|column| {
            format!("{} || coalesce(CAST(s.{} AS text), 'NULL')", text_literal(&format!("{column}=")), quoted(column))
        });
        let shown = shown.collect::<Vec<_>>().join(" || ', ' || ");
        if shown.is_empty() { "'?'".to_owned() } else { shown }
    }

    /// SQL that writes over the rows `t` that differ from `s` and are to be written over.
    fn replacement(&self, store: &dyn MergeStore, over: &str) -> Option<String> {
        let changed = self.columns.iter().filter(|column| !self.key.contains(column));
        let changed: Vec<_> = changed.map(|column| format!("{0} = s.{0}", quoted(column))).collect();
        let (fits, equal) = (self.fits(store), self.equal(store));
        (!changed.is_empty()).then(|| {
            format!(
                "UPDATE {} AS t SET {} FROM {} AS s WHERE {fits} AND {over} AND NOT ({equal})",
                self.target,
                changed.join(", "),
                self.name
            )
        })
    }
}

fn refusal(report: &[TableMerge]) -> String {
    let tables = report
        .iter()
        .filter(|table| table.conflicts > 0)
        .map(|table| format!("{} of the table {} ({})", table.conflicts, table.table, table.examples.join("; ")));
    format!("rows are there and differ: {}", tables.collect::<Vec<_>>().join(", "))
}

impl Merge for Merger<'_> {
    fn stage(&mut self, table: &str, columns: &[String], row: &[Value], need: Need) -> Result<()> {
        if row.len() != columns.len() {
            return Err(self.error(format!("a row of the table {table} has {} values", row.len())));
        }
        let number = self.stage_of(table, columns)?;
        let stage = &mut self.stages[number];
        let mut row = row.to_vec();
        row.push(Value::Number(if need == Need::Selected { "0" } else { "1" }.to_owned()));
        stage.waiting_len += row.iter().map(Value::len).sum::<usize>();
        stage.waiting.push(row);
        if stage.waiting_len > WAITING_LEN_MAX { self.flush(number) } else { Ok(()) }
    }

    fn report(&mut self) -> Result<Vec<TableMerge>> {
        self.settle()?;
        self.compare()
    }

    fn apply(mut self: Box<Self>, on_conflict: OnConflict) -> Result<Vec<TableMerge>> {
        self.settle()?;
        let result = self.write(on_conflict);
        if result.is_err() {
            // What failed first is the message; a server that is gone has rolled back by itself.
            let _ = self.store.execute("ROLLBACK");
        }
        result
    }
}

impl Drop for Merger<'_> {
    fn drop(&mut self) {
        for stage in &self.stages {
            let _ = self.store.execute(&format!("DROP TABLE IF EXISTS {}", stage.name));
        }
    }
}
