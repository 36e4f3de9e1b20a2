//! Loads dumps into an empty PostgreSQL database.
//!
//! psql is not used: it would run programs that a dump names, and go on after errors. Statements go to the server as
//! they are, one at a time, rows through COPY, all in one transaction.
//!
//! What must stay true:
//! - No statement of the dump is run that the guard has not let pass, and no name in it is looked up in a schema that the
//!   role, the database or the URI put on the search path.
//! - Whatever the dump holds, the transaction that began is the one that is committed, after the tables were read back
//!   and compared.

use std::collections::BTreeSet;
use std::io::{BufReader, Read, Write};

use postgres::types::ToSql;

use super::super::rewrite::{RewriteSql, too_long_reason};
use super::super::uri::PostgresqlUri;
use super::super::{DatabaseWriter, LoadPlan, Merge, MergeTable, Rewrite, load};
use super::{NO_EXTENSION, ServerConnection, USER_SCHEMAS, describe, merge};
use crate::error::{Error, Result};
use crate::sql::guard::{Guard, Refusals, Refused};
use crate::sql::scanner::TableHead;
use crate::sql::script::{Piece, ScriptReader, Statement};
use crate::sql::table_digest::TableDigest;
use crate::sql::{Dialect, TableRecord, Value, copy, quoted_list, text_literal};

/// Bytes of rows that go to the server at a time.
const COPY_LEN: usize = 256 << 10;

/// A PostgreSQL database to restore into.
pub struct PostgresqlWriter {
    server: ServerConnection,
}

impl PostgresqlWriter {
    /// Connects.
    pub fn open(uri: &PostgresqlUri) -> Result<Self> {
        let mut server = ServerConnection::open(uri)?;
        server.settle()?;
        Ok(Self { server })
    }

    fn load_in_transaction(&mut self, dump: &mut dyn Read, plan: LoadPlan<'_>) -> Result<Vec<u64>> {
        if let Some(reason) = load::not_empty(&self.contents()?) {
            return Err(self.server.error("load into", reason));
        }
        let transaction = self.server.text("load into", "SELECT txid_current()")?;
        self.server.run("load into", "SET search_path = ''")?;
        let heads = self.run_script(dump, plan.guard)?;
        self.server.run("load into", "RESET ALL")?;
        self.server.settle()?;
        let loaded = heads.iter().map(|head| self.record(head)).collect::<Result<Vec<_>>>()?;
        if let Some(reason) = load::difference(plan.expected, &loaded) {
            return Err(self.server.error("load into", reason));
        }
        let changed = plan.rewrites.iter().map(|rewrite| self.rewrite(rewrite, &heads)).collect::<Result<Vec<_>>>()?;
        if self.server.text("load into", "SELECT txid_current()")? != transaction {
            return Err(self.server.error("load into", "the dump ended the transaction that it was loaded in"));
        }
        // All or nothing: up to here nobody else sees a row, and whatever fails before rolls everything back.
        self.server.run("commit to", "COMMIT")?;
        Ok(changed)
    }

    /// Returns the tables that had rows in the dump, or could have.
    fn run_script(&mut self, dump: &mut dyn Read, guard: &Guard) -> Result<Vec<TableHead>> {
        let mut script = ScriptReader::new(BufReader::with_capacity(COPY_LEN, dump), Dialect::Postgresql);
        let mut heads = Vec::new();
        while let Some(piece) = script.next_piece()? {
            match piece {
                Piece::Statement(statement) if guard.passes_over(&statement).is_some() => {}
                Piece::Statement(statement) if self.is_administrators(guard, &statement)? => {}
                Piece::Statement(statement) => {
                    guard.check(&statement).map_err(|refused| self.refusal(refused))?;
                    self.statement(&statement.text)?;
                }
                Piece::Table(head) => {
                    guard.check_table(&head, script.line_number()).map_err(|refused| self.refusal(refused))?;
                    self.copy_in(&head, &mut script)?;
                    heads.push(head);
                }
                Piece::Row(_) | Piece::TableEnd => {}
            }
        }
        Ok(heads)
    }

    /// Returns whether a statement makes a schema that is there, or describes one of somebody else: that is not this
    /// role's to do, and changes nothing for MLflow.
    fn is_administrators(&mut self, guard: &Guard, statement: &Statement) -> Result<bool> {
        let Some((schema, is_made)) = guard.schema_of(statement) else { return Ok(false) };
        let is_own = if is_made { "false" } else { "pg_has_role(nspowner, 'USAGE')" };
        let sql =
            format!("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = {} AND NOT {is_own}", text_literal(&schema));
        Ok(!self.server.texts("look at the schemas of", &sql)?.is_empty())
    }

    fn refusal(&self, refused: Refused) -> Error {
        Refusals::from(refused).into_error(&self.server.location)
    }

    fn statement(&mut self, sql: &str) -> Result<()> {
        self.server.client.batch_execute(sql).map_err(|error| {
            let reason = format!("{}; in: {}", describe(&error), load::beginning(sql));
            self.server.error("load into", reason)
        })
    }

    fn copy_in<R: std::io::BufRead>(&mut self, head: &TableHead, script: &mut ScriptReader<R>) -> Result<()> {
        let location = self.server.location.clone();
        let first_line = script.line_number() + 1;
        let failed = |reason: String| {
            let reason = format!("{reason}; rows of {} from line {first_line} of the dump", head.target);
            Error::database("load into", &location, reason)
        };
        let sql = format!("COPY {} FROM STDIN", with_columns(head));
        let mut rows = self.server.client.copy_in(&sql).map_err(|error| failed(describe(&error)))?;
        let mut lines = Vec::new();
        while let Some(Piece::Row(row)) = script.next_piece()? {
            copy::encode_row(&row, &mut lines);
            lines.push(b'\n');
            if lines.len() >= COPY_LEN {
                rows.write_all(&lines).map_err(|error| failed(super::describe_io(&error)))?;
                lines.clear();
            }
        }
        rows.write_all(&lines).map_err(|error| failed(super::describe_io(&error)))?;
        // Only this ends the COPY: rows that were sent without it are not in the table.
        rows.finish().map_err(|error| failed(describe(&error)))?;
        Ok(())
    }

    /// Reads a table back.
    fn record(&mut self, head: &TableHead) -> Result<TableRecord> {
        let mut digest = TableDigest::default();
        self.server.copy_out(&format!("COPY {} TO STDOUT", with_columns(head)), &mut |line| {
            digest.add(line);
            Ok(())
        })?;
        Ok(digest.record(&head.name))
    }

    fn rewrite(&mut self, rewrite: &Rewrite, heads: &[TableHead]) -> Result<u64> {
        let Some(head) = heads.iter().find(|head| head.name == rewrite.table) else { return Ok(0) };
        if !head.columns.contains(&rewrite.column) {
            return Ok(0);
        }
        let sql = RewriteSql::new(rewrite, &head.target, '$');
        let parameters: Vec<&(dyn ToSql + Sync)> = sql.parameters.iter().map(|text| text as _).collect();
        let key = merge::primary_key(&mut self.server, &head.target)?;
        if let Some(query) = sql.too_long(&key) {
            let rows = self.server.client.query(&query, &parameters).map_err(self.server.fault("rewrite"))?;
            if !rows.is_empty() {
                let rows: Vec<_> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
                return Err(self.server.error("rewrite", too_long_reason(rewrite, &rows)));
            }
        }
        self.server.client.execute(&sql.update(), &parameters).map_err(self.server.fault("rewrite"))
    }
}

fn with_columns(head: &TableHead) -> String {
    match head.columns.as_slice() {
        [] => head.target.clone(),
        columns => format!("{} ({})", head.target, quoted_list(columns)),
    }
}

impl DatabaseWriter for PostgresqlWriter {
    fn contents(&mut self) -> Result<Vec<(String, u64)>> {
        let sql = format!(
            "SELECT CASE n.nspname WHEN 'public' THEN c.relname ELSE n.nspname || '.' || c.relname END, \
             format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE {USER_SCHEMAS} AND {NO_EXTENSION} AND c.relkind IN ('r', 'p', 'f') ORDER BY 1"
        );
        let mut contents = Vec::new();
        for row in self.server.rows("read the tables of", &sql)? {
            let [Some(name), Some(target)] = row.as_slice() else { continue };
            let count = self.server.text("read the tables of", &format!("SELECT count(*) FROM {target}"))?;
            contents.push((name.clone(), count.parse().unwrap_or_default()));
        }
        Ok(contents)
    }

    fn missing_rights(&mut self, schemas: &BTreeSet<String>) -> Result<Vec<String>> {
        let mut missing = Vec::new();
        if self.server.text("look at", "SHOW transaction_read_only")? != "off" {
            missing.push("it can only be read: it is a standby, or is set to be".to_owned());
        }
        for schema in schemas {
            let name = text_literal(schema);
            let sql = format!(
                "SELECT coalesce((SELECT has_schema_privilege(oid, 'CREATE') AND has_schema_privilege(oid, 'USAGE') \
                 FROM pg_namespace WHERE nspname = {name}), has_database_privilege(current_database(), 'CREATE'))"
            );
            if self.server.text("look at the rights in", &sql)? != "t" {
                missing.push(format!(
                    "the role may not make tables in the schema {schema:?}: make it the owner of the database and of the schema"
                ));
            }
        }
        Ok(missing)
    }

    fn load(&mut self, dump: &mut dyn Read, plan: LoadPlan<'_>) -> Result<Vec<u64>> {
        self.server.run("load into", "BEGIN")?;
        let result = self.load_in_transaction(dump, plan);
        if result.is_err() {
            // What failed first is the message; a server that is gone has rolled back by itself.
            let _ = self.server.run("roll back", "ROLLBACK");
            let _ = self.server.run("roll back", "RESET ALL");
            let _ = self.server.settle();
        }
        result
    }

    fn merge(&mut self, order: &[MergeTable]) -> Result<Box<dyn Merge + '_>> {
        Ok(merge::begin(&mut self.server, order))
    }

    fn query(&mut self, sql: &str, row: &mut dyn FnMut(&[Value]) -> Result<()>) -> Result<()> {
        self.server.select(sql, row)
    }
}
