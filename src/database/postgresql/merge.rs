//! What merging needs of PostgreSQL.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use postgres::error::SqlState;

use super::super::merge::{MergeStore, Merger};
use super::super::{Merge, MergeTable};
use super::{ServerConnection, describe_io};
use crate::error::Result;
use crate::sql::{Value, copy, quoted, quoted_list, text_literal};

const ACTION: &str = "merge into";
/// How long to try to lock the tables, between the transactions of others.
const LOCK_MAX: Duration = Duration::from_secs(60);
/// How long to leave them alone between two tries.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// Begins a merge.
pub fn begin<'a>(server: &'a mut ServerConnection, order: &[MergeTable]) -> Box<dyn Merge + 'a> {
    Box::new(Merger::new(server, order))
}

/// Returns the columns of a table's primary key, in their order there.
pub fn primary_key(server: &mut ServerConnection, target: &str) -> Result<Vec<String>> {
    let sql = format!(
        "SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) \
         WHERE i.indrelid = {}::regclass AND i.indisprimary ORDER BY array_position(i.indkey::int2[], a.attnum)",
        text_literal(target)
    );
    server.texts("read the keys of", &sql)
}

impl MergeStore for ServerConnection {
    fn location(&self) -> String {
        self.location.clone()
    }

    fn target(&mut self, table: &str) -> Result<Option<String>> {
        let sql = format!(
            "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.oid = to_regclass({}) AND c.relkind IN ('r', 'p')",
            text_literal(&quoted(table))
        );
        Ok(self.texts(ACTION, &sql)?.into_iter().next())
    }

    fn columns(&mut self, target: &str) -> Result<Vec<String>> {
        let sql = format!(
            "SELECT attname FROM pg_attribute WHERE attrelid = {}::regclass AND attnum > 0 AND NOT attisdropped \
             AND attgenerated = '' ORDER BY attnum",
            text_literal(target)
        );
        self.texts(ACTION, &sql)
    }

    fn key(&mut self, target: &str) -> Result<Vec<String>> {
        primary_key(self, target)
    }

    /// By text: some types, such as `json`, cannot be compared otherwise.
    fn is_same(&self, one: &str, other: &str) -> String {
        format!("{one}::text IS NOT DISTINCT FROM {other}::text")
    }

    fn is_same_key(&self, one: &str, other: &str) -> String {
        format!("{one} = {other}")
    }

    fn row_id(&self) -> &'static str {
        "ctid"
    }

    fn insert(&mut self, table: &str, columns: &[String], rows: &[Vec<Value>]) -> Result<()> {
        let mut lines = Vec::new();
        for row in rows {
            copy::encode_row(row, &mut lines);
            lines.push(b'\n');
        }
        let sql = format!("COPY {table} ({}) FROM STDIN", quoted_list(columns));
        let fault = self.fault(ACTION);
        let location = self.location.clone();
        let mut writer = self.client.copy_in(&sql).map_err(&fault)?;
        writer
            .write_all(&lines)
            .map_err(|error| crate::error::Error::database(ACTION, &location, describe_io(&error)))?;
        writer.finish().map_err(fault)?;
        Ok(())
    }

    fn execute(&mut self, sql: &str) -> Result<u64> {
        self.client.execute(sql, &[]).map_err(self.fault(ACTION))
    }

    fn query_texts(&mut self, sql: &str) -> Result<Vec<String>> {
        ServerConnection::texts(self, ACTION, sql)
    }

    /// The locks let others read. The first is waited for, in turn with other writers; the others must be free then, or
    /// all is let go and tried again: who waits for one while it holds another can make MLflow's own transactions fail
    /// as deadlocks.
    fn begin(&mut self, targets: &[String]) -> Result<()> {
        let mut sql = "BEGIN".to_owned();
        for (number, target) in targets.iter().enumerate() {
            let wait = if number == 0 { "" } else { " NOWAIT" };
            sql.push_str(&format!("; LOCK TABLE {target} IN SHARE ROW EXCLUSIVE MODE{wait}"));
        }
        let begun = Instant::now();
        loop {
            match self.client.batch_execute(&sql) {
                Ok(()) => return Ok(()),
                Err(error) if error.code() != Some(&SqlState::LOCK_NOT_AVAILABLE) || begun.elapsed() > LOCK_MAX => {
                    return Err(self.fault(ACTION)(error));
                }
                Err(_) => self.run(ACTION, "ROLLBACK")?,
            }
            thread::sleep(RETRY_AFTER);
        }
    }

    fn advance_sequences(&mut self, target: &str) -> Result<()> {
        let sql = format!(
            "SELECT attname, pg_get_serial_sequence({0}, attname) FROM pg_attribute \
             WHERE attrelid = {0}::regclass AND attnum > 0 AND NOT attisdropped",
            text_literal(target)
        );
        for row in self.rows(ACTION, &sql)? {
            let [Some(column), Some(sequence)] = row.as_slice() else { continue };
            self.rows(
                ACTION,
                &format!(
                    "SELECT setval({}, greatest) FROM (SELECT max({}) AS greatest FROM {target}) AS keys \
                     WHERE greatest > (SELECT last_value FROM {sequence})",
                    text_literal(sequence),
                    quoted(column),
                ),
            )?;
        }
        Ok(())
    }
}
