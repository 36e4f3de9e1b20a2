//! Rows merged into databases in use, of both engines, with MLflow's own schema.

use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use mlvault::cancel::Cancel;
use mlvault::database::uri::DatabaseUri;
use mlvault::database::{DatabaseWriter, Merge, Need, OnConflict, TableMerge, open_reader, open_writer};
use mlvault::sql::script::{Piece, ScriptReader};
use mlvault::sql::{Dialect, Value};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::support::mlflow_rows;
use crate::support::postgres_server::PostgresServer;
use crate::support::sqlite_file::create_mlflow;

/// Rows of the experiments, runs and params of a dump.
type Rows = Vec<(String, Vec<String>, Vec<Value>)>;

fn rows_of(uri: &DatabaseUri, dialect: Dialect) -> Rows {
    let scratch = TempDir::new().unwrap();
    let mut reader = open_reader(uri, scratch.path(), &Cancel::default()).unwrap();
    let mut stream = reader.dump().unwrap();
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    stream.finish().unwrap();
    let mut script = ScriptReader::new(text.as_slice(), dialect);
    let (mut rows, mut table) = (Vec::new(), None);
    while let Some(piece) = script.next_piece().unwrap() {
        match (piece, &table) {
            (Piece::Table(head), _) => table = Some(head),
            (Piece::Row(row), Some(head)) => rows.push((head.name.clone(), head.columns.clone(), row)),
            _ => {}
        }
    }
    let order = ["experiments", "runs", "params", "metrics"];
    rows.retain(|(table, ..)| order.contains(&table.as_str()));
    rows.sort_by_key(|(table, ..)| order.iter().position(|known| known == table));
    rows
}

/// Sets aside everything: experiments as referenced and twice, the others as selected.
fn stage(merge: &mut dyn Merge, rows: &Rows) {
    for (table, columns, row) in rows {
        let need = if table == "experiments" { Need::Referenced } else { Need::Selected };
        merge.stage(table, columns, row, need).unwrap();
        if need == Need::Referenced {
            merge.stage(table, columns, row, need).unwrap();
        }
    }
}

fn summary(report: &[TableMerge]) -> Vec<(&str, u64, u64, u64, u64)> {
    report.iter().map(|it| (it.table.as_str(), it.inserted, it.same, it.kept, it.conflicts)).collect()
}

fn text(writer: &mut dyn DatabaseWriter, sql: &str) -> String {
    let mut text = String::new();
    writer
        .query(sql, &mut |row| {
            row[0].as_text().unwrap().clone_into(&mut text);
            Ok(())
        })
        .unwrap();
    text
}

/// The target has another experiment, and an MLflow that writes between the steps by `run`.
fn merge_everything(mut writer: Box<dyn DatabaseWriter>, rows: &Rows, run: &mut dyn FnMut(&str)) {
    let runs = 3;
    let mut merge = writer.merge(&[]).unwrap();
    stage(&mut *merge, rows);
    let report = merge.report().unwrap();
    let all_new =
        [("experiments", 1, 0, 0, 0), ("runs", runs, 0, 0, 0), ("params", runs, 0, 0, 0), ("metrics", 9, 0, 0, 0)];
    assert_eq!(summary(&report), all_new);
    drop(merge);
    assert_eq!(text(&mut *writer, "SELECT count(*) FROM runs"), "2", "a report changed something");

    let mut merge = writer.merge(&[]).unwrap();
    stage(&mut *merge, rows);
    assert_eq!(summary(&merge.apply(OnConflict::Refuse).unwrap()), all_new);
    let mut merge = writer.merge(&[]).unwrap();
    stage(&mut *merge, rows);
    let again = merge.apply(OnConflict::Refuse).unwrap();
    assert!(again.iter().all(|table| table.inserted == 0 && table.conflicts == 0 && table.kept == 0), "{again:?}");

    run("UPDATE params SET value = 'theirs' WHERE run_uuid LIKE '%1'");
    run("UPDATE experiments SET name = 'theirs' WHERE experiment_id = 70");
    run("DELETE FROM metrics WHERE run_uuid LIKE '00000046%'");
    let mut merge = writer.merge(&[]).unwrap();
    stage(&mut *merge, rows);
    let report = merge.report().unwrap();
    assert_eq!((report[0].kept, report[2].conflicts, report[3].inserted), (1, 1, 9), "{report:?}");
    assert!(report[2].examples[0].contains("run_uuid=00000046"), "{report:?}");
    let message = merge.apply(OnConflict::Refuse).unwrap_err().to_string();
    assert!(message.contains("1 of the table params") && message.contains("run_uuid="), "{message}");
    let mine = "SELECT count(*) FROM metrics WHERE run_uuid LIKE '00000046%'";
    assert_eq!(text(&mut *writer, mine), "0", "a refused merge inserted something");

    let param = "SELECT value FROM params WHERE run_uuid = '00000046000000000000000000000001'";
    let mut merge = writer.merge(&[]).unwrap();
    stage(&mut *merge, rows);
    merge.apply(OnConflict::Keep).unwrap();
    assert_eq!((text(&mut *writer, param).as_str(), text(&mut *writer, mine).as_str()), ("theirs", "9"));
    let mut merge = writer.merge(&[]).unwrap();
    stage(&mut *merge, rows);
    merge.apply(OnConflict::Replace).unwrap();
    assert_ne!(text(&mut *writer, param), "theirs");
    assert_eq!(text(&mut *writer, "SELECT name FROM experiments WHERE experiment_id = 70"), "theirs");

    let mut merge = writer.merge(&[]).unwrap();
    let columns = ["run_uuid".to_owned(), "colour".to_owned()];
    let message = merge.stage("runs", &columns, &[Value::Null, Value::Null], Need::Selected).unwrap_err().to_string();
    assert!(message.contains("its table runs has no column colour"), "{message}");
    let message = merge.stage("walks", &columns, &[Value::Null, Value::Null], Need::Selected).unwrap_err().to_string();
    assert!(message.contains("it has no table walks"), "{message}");
    drop(merge);

    // Without the experiment, the rows refer to nothing.
    run("DELETE FROM metrics; DELETE FROM params; DELETE FROM tags; DELETE FROM runs; DELETE FROM experiments");
    let mut merge = writer.merge(&[]).unwrap();
    let selected: Rows = rows.iter().filter(|(table, ..)| table != "experiments").cloned().collect();
    stage(&mut *merge, &selected);
    assert!(merge.apply(OnConflict::Replace).is_err());
    assert_eq!(text(&mut *writer, "SELECT count(*) FROM runs"), "0");
}

#[test]
fn merging_into_postgresql_is_idempotent_and_all_or_nothing() {
    let server = PostgresServer::start();
    server.create_mlflow("one");
    server.client("one").batch_execute(&mlflow_rows::inserts(70, 3)).unwrap();
    server.create_mlflow("two");
    let mut client = server.client("two");
    client.batch_execute(&mlflow_rows::inserts(71, 2)).unwrap();
    let rows = rows_of(&server.uri("one"), Dialect::Postgresql);
    let writer = open_writer(&server.uri("two")).unwrap();
    merge_everything(writer, &rows, &mut |sql| client.batch_execute(sql).unwrap());
    let next = "SELECT nextval('experiments_experiment_id_seq')";
    let next: i64 = client.query_one(next, &[]).unwrap().get(0);
    assert!(next > 70, "the sequence was not moved: {next}");
}

#[test]
fn merging_into_sqlite_is_idempotent_and_all_or_nothing() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    let uri = |name| DatabaseUri::parse(&format!("sqlite:///{}", path(name).display()), None).unwrap();
    create_mlflow(&path("one.db")).execute_batch(&mlflow_rows::inserts(70, 3)).unwrap();
    let other: Connection = create_mlflow(&path("two.db"));
    other.execute_batch(&mlflow_rows::inserts(71, 2)).unwrap();
    let rows = rows_of(&uri("one.db"), Dialect::Sqlite);
    let writer = open_writer(&uri("two.db")).unwrap();
    merge_everything(writer, &rows, &mut |sql| other.execute_batch(sql).unwrap());
}

/// Types that are hard to compare, and a table without a key.
const ODD_TABLES: &str = "CREATE TABLE experiments (id int PRIMARY KEY, doc json, bytes bytea, real float8, list text[], \
    made int GENERATED ALWAYS AS (id + 1) STORED); CREATE TABLE params (a text, doc json)";
const ODD_ROWS: &str = "INSERT INTO experiments VALUES (1, '{\"b\":1,  \"a\":2}', '\\x00ff', 'NaN', ARRAY['a,b', NULL]), \
    (2, NULL, NULL, '-Infinity', NULL); INSERT INTO params VALUES (NULL, '[1]'), (NULL, '[1]'), ('x', NULL)";

#[test]
fn rows_of_types_without_equality_and_of_tables_without_a_key_are_merged_once() {
    let server = PostgresServer::start();
    for database in ["one", "two"] {
        server.create(database);
        server.client(database).batch_execute(ODD_TABLES).unwrap();
    }
    server.client("one").batch_execute(ODD_ROWS).unwrap();
    let rows = rows_of(&server.uri("one"), Dialect::Postgresql);
    let mut writer = open_writer(&server.uri("two")).unwrap();
    for (inserted, same) in [(2, 0), (0, 2)] {
        let mut merge = writer.merge(&[]).unwrap();
        stage(&mut *merge, &rows);
        let report = merge.apply(OnConflict::Refuse).unwrap();
        assert_eq!(summary(&report)[0], ("experiments", inserted, same, 0, 0));
        assert_eq!((report[1].inserted == 0, report[1].conflicts), (inserted == 0, 0));
    }
    assert_eq!(rows, rows_of(&server.uri("two"), Dialect::Postgresql));
}

/// Lets the other thread end also where this one fails.
struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Every transaction of the other writer goes through the tables in the other order, as if to meet the merge half-way.
fn merge_beside(mut writer: Box<dyn DatabaseWriter>, rows: &Rows, write: impl Fn(&str) + Send) {
    let (is_done, transactions) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let (is_done, transactions) = (&is_done, &transactions);
        let others = scope.spawn(move || {
            for experiment in 1000.. {
                if is_done.load(Ordering::Relaxed) {
                    break;
                }
                let touch = "UPDATE params SET value = value WHERE key = 'p'; UPDATE runs SET name = name WHERE true;";
                write(&format!("BEGIN; {touch} {} COMMIT;", mlflow_rows::inserts(experiment, 2)));
                transactions.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(2));
            }
        });
        let _done = SetWhenDropped(is_done);
        // On, until the other one has really written in between.
        let mut round = 0;
        while round < 10 || (transactions.load(Ordering::Relaxed) < 3 && !others.is_finished()) {
            let mut merge = writer.merge(&[]).unwrap();
            stage(&mut *merge, rows);
            let report = merge.apply(OnConflict::Refuse).unwrap();
            assert_eq!((report[1].inserted, report[1].same), if round == 0 { (3, 0) } else { (0, 3) });
            round += 1;
        }
    });
}

#[test]
fn merging_goes_on_beside_another_writer_and_lets_it_go_on() {
    let server = PostgresServer::start();
    server.create_mlflow("one");
    server.client("one").batch_execute(&mlflow_rows::inserts(70, 3)).unwrap();
    server.create_mlflow("two");
    let rows = rows_of(&server.uri("one"), Dialect::Postgresql);
    let client = Mutex::new(server.client("two"));
    merge_beside(open_writer(&server.uri("two")).unwrap(), &rows, move |sql| {
        client.lock().unwrap().batch_execute(sql).unwrap();
    });

    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    let uri = |name| DatabaseUri::parse(&format!("sqlite:///{}", path(name).display()), None).unwrap();
    create_mlflow(&path("one.db")).execute_batch(&mlflow_rows::inserts(70, 3)).unwrap();
    let other = create_mlflow(&path("two.db"));
    let rows = rows_of(&uri("one.db"), Dialect::Sqlite);
    let other = Mutex::new(other);
    let begin = |sql: &str| sql.replacen("BEGIN", "BEGIN IMMEDIATE", 1);
    merge_beside(open_writer(&uri("two.db")).unwrap(), &rows, move |sql| {
        other.lock().unwrap().execute_batch(&begin(sql)).unwrap();
    });
}
