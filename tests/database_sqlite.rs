//! Databases in files of SQLite: dumped exactly, read at one instant beside a busy writer, and loaded.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use mlvault::cancel::Cancel;
use mlvault::database::uri::DatabaseUri;
use mlvault::database::{Engine, Rewrite, open_live, open_reader, open_writer};
use mlvault::error::Result;
use mlvault::sql::guard::Guard;
use mlvault::sql::{Dialect, TableRecord, Value};
use rusqlite::{Connection, params};
use tempfile::TempDir;

use crate::support::dumps::{allow_all, load};
use crate::support::mlflow_rows::{self, Numbers};
use crate::support::sqlite_file::create_mlflow;

const ODD_SCHEMA: &str = r#"
PRAGMA user_version = 7; PRAGMA application_id = -5;
CREATE TABLE "Odd 'table" ("a""b" ANY, rowid TEXT, -- rows ["x","y"]
    made AS (length(rowid)) STORED, virtual_one AS (1), PRIMARY KEY ("a""b", rowid)) WITHOUT ROWID;
CREATE TABLE loose (x, oid, _rowid_);
CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT COLLATE NOCASE UNIQUE);
CREATE TABLE log (text TEXT);
CREATE INDEX "odd index" ON loose (x) WHERE x > 'a;b';
CREATE VIEW "a view" AS SELECT * FROM loose WHERE x = '
-- end of rows
COMMIT;
';
CREATE TRIGGER made AFTER INSERT ON counted BEGIN
  INSERT INTO log VALUES (new.text);

-- rows ["log","text"]
  INSERT INTO log VALUES ('again');
END;
INSERT INTO counted VALUES (1, 'one'), (9, 'nine');
DELETE FROM counted WHERE id = 9;
"#;

/// Reals that come near to the ends of what there is, or are hard to read back.
const REALS: [f64; 9] =
    [0.1, f64::MIN_POSITIVE, 5e-324, f64::MAX, f64::INFINITY, f64::NEG_INFINITY, 1e22, 9007199254740993.0, -2.5e-8];

fn uri(path: &Path) -> DatabaseUri {
    DatabaseUri::parse(&format!("sqlite:///{}", path.display()), None).unwrap()
}

fn fill_odd(path: &Path) {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch(ODD_SCHEMA).unwrap();
    let mut numbers = Numbers(3);
    let insert = "INSERT INTO loose VALUES (?1, ?2, ?3)";
    for real in REALS {
        connection.execute(insert, params![real, i64::MIN, i64::MAX]).unwrap();
    }
    for _ in 0..3000 {
        let real = f64::from_bits(numbers.next() << 33 ^ numbers.next());
        let text = numbers.odd_text();
        connection.execute(insert, params![real, text, text.as_bytes()]).unwrap();
    }
    connection.execute("INSERT INTO loose VALUES (NULL, CAST(x'610062' AS TEXT), CAST(x'ff27' AS TEXT))", []).unwrap();
    for key in ["", "a\0b", "\r\n", "é'"] {
        connection.execute("INSERT INTO \"Odd 'table\" VALUES (?1, ?2)", params![key.as_bytes(), key]).unwrap();
    }
}

fn dump(path: &Path) -> Result<(Vec<u8>, Vec<TableRecord>)> {
    let scratch = TempDir::new().unwrap();
    let result = open_reader(&uri(path), scratch.path(), &Cancel::default()).and_then(|mut reader| {
        let mut stream = reader.dump()?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text).unwrap();
        Ok((text, stream.finish()?.tables))
    });
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "the copy was left behind");
    result
}

/// Returns every value of every table, as SQLite has it, but for what is done to reals.
fn values(path: &Path, real: impl Fn(f64) -> f64) -> Vec<(String, Vec<Vec<rusqlite::types::Value>>)> {
    let connection = Connection::open(path).unwrap();
    let mut tables = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").unwrap();
    let names = tables.query_map([], |row| row.get::<_, String>(0)).unwrap();
    names
        .map(|name| {
            let name = name.unwrap();
            let mut select = connection.prepare(&format!("SELECT * FROM \"{name}\" NOT INDEXED")).unwrap();
            let columns = select.column_count();
            let rows = select.query_map([], |row| {
                // Not `Value`'s own text, which must be UTF-8.
                (0..columns)
                    .map(|column| {
                        Ok(match row.get_ref(column)? {
                            rusqlite::types::ValueRef::Text(text) => {
                                rusqlite::types::Value::Blob([b"t:", text].concat())
                            }
                            rusqlite::types::ValueRef::Real(number) => rusqlite::types::Value::Real(real(number)),
                            other => other.try_into().unwrap(),
                        })
                    })
                    .collect()
            });
            (name, rows.unwrap().map(|row| row.unwrap()).collect())
        })
        .collect()
}

#[test]
fn a_dump_loads_into_the_same_database_by_mlvault_and_by_hand() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    fill_odd(&path("one.db"));
    let (text, tables) = dump(&path("one.db")).unwrap();
    assert!(text == dump(&path("one.db")).unwrap().0, "two dumps of an unchanged database differ");

    let mut writer = open_writer(&uri(&path("two.db"))).unwrap();
    assert!(writer.contents().unwrap().is_empty());
    load(writer.as_mut(), &allow_all(Dialect::Sqlite, &text), &text, &[], &tables).unwrap();
    fs::write(path("dump.sql"), &text).unwrap();
    let mut shell = Command::new("sqlite3");
    let input = File::open(path("dump.sql")).unwrap();
    let output = shell.arg("-bail").arg(path("three.db")).stdin(input).stdout(Stdio::piped()).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");

    assert!(values(&path("one.db"), |real| real) == values(&path("two.db"), |real| real), "two.db has other values");
    let (again, again_tables) = dump(&path("two.db")).unwrap();
    assert_eq!(tables, again_tables);
    assert!(text == again, "the dump of two.db differs");
    // Shells before SQLite 3.47 or so misread the last bits of some reals.
    let rounded = |real: f64| f64::from_bits(real.to_bits().wrapping_add(32) & !63);
    assert!(values(&path("one.db"), rounded) == values(&path("three.db"), rounded), "three.db has other values");
}

fn read_count(row: &[Value], count: &mut u64) -> Result<()> {
    *count = row[0].as_text().unwrap().parse().unwrap();
    Ok(())
}

/// Every transaction of the writer adds one experiment with five runs of three metrics each.
fn read_beside_a_writer(journal_mode: &str) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("mlflow.db");
    let connection = create_mlflow(&path);
    connection.pragma_update(None, "journal_mode", journal_mode).unwrap();
    connection.execute_batch(&mlflow_rows::inserts(1, 5)).unwrap();
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let connection = connection;
            for experiment in 2.. {
                if is_done.load(Ordering::Relaxed) {
                    break;
                }
                connection.execute_batch(&format!("BEGIN; {} COMMIT;", mlflow_rows::inserts(experiment, 5))).unwrap();
            }
        });
        let mut live = open_live(&uri(&path)).unwrap();
        let mut last = 0;
        for _ in 0..10 {
            let scratch = TempDir::new().unwrap();
            let mut reader = open_reader(&uri(&path), scratch.path(), &Cancel::default()).unwrap();
            assert_eq!(reader.facts().engine, Engine::Sqlite);
            let mut stream = reader.dump().unwrap();
            std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
            let tables = stream.finish().unwrap().tables;
            let rows = |name: &str| tables.iter().find(|table| table.name == name).unwrap().rows;
            let mut runs = 0;
            reader.query("SELECT count(*) FROM runs", &mut |row| read_count(row, &mut runs)).unwrap();
            assert_eq!((rows("runs"), rows("metrics")), (runs, runs * 3));
            assert_eq!(runs, rows("experiments") * 5);
            while last <= runs {
                live.query("SELECT count(*) FROM runs", &mut |row| read_count(row, &mut last)).unwrap();
            }
        }
        is_done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_reader_sees_one_instant_while_others_write_with_a_rollback_journal() {
    read_beside_a_writer("delete");
}

#[test]
fn a_reader_sees_one_instant_while_others_write_with_a_write_ahead_log() {
    read_beside_a_writer("wal");
}

#[test]
fn a_damaged_file_makes_no_dump() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("mlflow.db");
    let connection = create_mlflow(&path);
    connection.execute_batch(&mlflow_rows::inserts(1, 200)).unwrap();
    drop(connection);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 20_000].fill(0x5A);
    fs::write(&path, bytes).unwrap();
    let message = dump(&path).unwrap_err().to_string();
    assert!(message.contains("mlflow.db") && message.contains("damaged"), "{message}");
    fs::write(&path, "not a database, whatever its name says").unwrap();
    assert!(dump(&path).unwrap_err().to_string().contains("not a database"));
    let missing = dump(&directory.path().join("missing.db")).unwrap_err().to_string();
    assert!(missing.contains("missing.db") && !directory.path().join("missing.db").exists(), "{missing}");
}

/// Breaks a rule of MLflow's schema; returns what is said of it.
fn violations_after(path: &Path, sql: &str) -> (Vec<String>, Vec<String>) {
    let connection = create_mlflow(path);
    connection.execute_batch(&mlflow_rows::inserts(1, 20)).unwrap();
    connection.execute_batch(sql).unwrap();
    drop(connection);
    let scratch = TempDir::new().unwrap();
    let reader = open_reader(&uri(path), scratch.path(), &Cancel::default()).unwrap();
    let found = reader.facts().violations.clone();
    (found.kept, found.unloadable)
}

#[test]
fn rows_that_break_rules_are_dumped_told_and_loaded_as_they_are() {
    for (sql, told) in [
        (
            "PRAGMA foreign_keys = OFF; DELETE FROM experiments WHERE experiment_id = 1",
            "20 orphaned rows: runs (row 1) refers to a missing row of experiments",
        ),
        (
            "PRAGMA ignore_check_constraints = ON; UPDATE runs SET lifecycle_stage = 'lost'",
            "CHECK constraint failed in runs",
        ),
        ("UPDATE runs SET start_time = 'yesterday', end_time = x'00ff'", ""),
        (
            "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, 'REFERENCES runs', 'REFERENCES none') \
             WHERE name = 'params'",
            "20 orphaned rows: params (row 1) refers to a missing row of none",
        ),
    ] {
        let directory = TempDir::new().unwrap();
        let path = |name: &str| directory.path().join(name);
        let (kept, unloadable) = violations_after(&path("one.db"), sql);
        assert!(unloadable.is_empty(), "{sql}: {unloadable:?}");
        assert!(if told.is_empty() { kept.is_empty() } else { kept.concat().contains(told) }, "{sql}: {kept:?}");
        let (text, tables) = dump(&path("one.db")).unwrap();
        let mut writer = open_writer(&uri(&path("two.db"))).unwrap();
        load(writer.as_mut(), &Guard::new(Dialect::Sqlite, &[]), &text, &[], &tables).unwrap();
        assert!(values(&path("one.db"), |real| real) == values(&path("two.db"), |real| real), "{sql}: other values");
    }
}

#[test]
fn rows_that_no_insert_may_make_are_dumped_and_told() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("one.db");
    let connection = create_mlflow(&path);
    connection.execute_batch(&mlflow_rows::inserts(1, 2)).unwrap();
    connection.execute_batch("CREATE TABLE late (a TEXT); INSERT INTO late VALUES (NULL), ('x')").unwrap();
    let not_null = "PRAGMA writable_schema = ON; \
                    UPDATE sqlite_schema SET sql = 'CREATE TABLE late (a TEXT NOT NULL)' WHERE name = 'late'";
    connection.execute_batch(not_null).unwrap();
    drop(connection);
    let (text, tables) = dump(&path).unwrap();
    assert_eq!(tables.iter().find(|table| table.name == "late").unwrap().rows, 2);
    let scratch = TempDir::new().unwrap();
    let reader = open_reader(&uri(&path), scratch.path(), &Cancel::default()).unwrap();
    assert_eq!(reader.facts().violations.unloadable, ["NULL value in late.a"]);
    let mut writer = open_writer(&uri(&directory.path().join("two.db"))).unwrap();
    let guard = allow_all(Dialect::Sqlite, &text);
    let message = load(writer.as_mut(), &guard, &text, &[], &tables).unwrap_err().to_string();
    assert!(message.contains("NOT NULL constraint failed: late.a; row of late in line "), "{message}");
}

#[test]
fn an_index_that_is_not_as_its_table_is_told_and_hides_no_row() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("one.db");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1), (2), (3); CREATE INDEX i ON t (a)")
        .unwrap();
    let hide = "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = 'CREATE INDEX i ON t (a) WHERE a > 1' \
                WHERE name = 'i'; PRAGMA writable_schema = RESET; DELETE FROM t WHERE a = 1; \
                INSERT INTO t VALUES (0); PRAGMA writable_schema = ON; \
                UPDATE sqlite_schema SET sql = 'CREATE INDEX i ON t (a)' WHERE name = 'i'";
    connection.execute_batch(hide).unwrap();
    drop(connection);
    let scratch = TempDir::new().unwrap();
    let mut reader = open_reader(&uri(&path), scratch.path(), &Cancel::default()).unwrap();
    assert!(reader.facts().violations.kept.concat().contains("missing from index i"), "{:?}", reader.facts());
    let mut values = Vec::new();
    let sql = "SELECT a FROM t INDEXED BY i WHERE a < 9 ORDER BY a";
    let take = &mut |row: &[Value]| {
        values.push(row[0].as_text().unwrap().to_owned());
        Ok(())
    };
    reader.query(sql, take).unwrap();
    assert_eq!(values, ["0", "2", "3"]);
    assert_eq!(dump(&path).unwrap().1[0].rows, 3);
}

#[test]
fn what_a_dump_cannot_give_back_is_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("text.db");
    Connection::open(&path).unwrap().execute_batch("CREATE VIRTUAL TABLE words USING fts5(text)").unwrap();
    assert!(dump(&path).unwrap_err().to_string().contains("virtual table"));
}

#[test]
fn a_load_that_fails_anywhere_leaves_the_file_as_it_was() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    create_mlflow(&path("one.db")).execute_batch(&mlflow_rows::inserts(1, 3)).unwrap();
    let (text, tables) = dump(&path("one.db")).unwrap();
    let text = String::from_utf8(text).unwrap();
    let mut writer = open_writer(&uri(&path("two.db"))).unwrap();
    let guard = Guard::new(Dialect::Sqlite, &[]);
    let mut fail = |text: &str, tables: &[TableRecord]| {
        let message = load(writer.as_mut(), &guard, text.as_bytes(), &[], tables).unwrap_err().to_string();
        assert!(writer.contents().unwrap().is_empty());
        message
    };
    assert!(fail(&text[..text.len() / 2], &tables).contains("database dump"));
    assert!(fail(&text, &tables[1..]).contains("expected"));
    let attach = format!("ATTACH DATABASE '{}' AS other;\n", path("three.db").display());
    let message = fail(&text.replacen("CREATE TABLE", &format!("{attach}CREATE TABLE"), 1), &tables);
    assert!(message.contains("have no such statement") && !path("three.db").exists(), "{message}");
    let start = text.find("INSERT INTO \"experiments\" VALUES(1,").unwrap();
    let end = start + text[start..].find(");\n").unwrap() + 3;
    let message = fail(&format!("{}{}", &text[..start], &text[end..]), &[]);
    assert!(message.contains("not expected") || message.contains("missing row"), "{message}");
    let mut writer = open_writer(&uri(&path("one.db"))).unwrap();
    let message = load(writer.as_mut(), &guard, text.as_bytes(), &[], &tables).unwrap_err();
    assert!(message.to_string().contains("it is not empty"), "{message}");
}

#[test]
fn locations_are_rewritten_in_a_file_that_others_have_open() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    create_mlflow(&path("one.db")).execute_batch(&mlflow_rows::inserts(1, 4)).unwrap();
    let (text, tables) = dump(&path("one.db")).unwrap();
    let other = Connection::open(path("two.db")).unwrap();
    other.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).unwrap();
    let rewrite = |length_max| Rewrite {
        table: "runs".into(),
        column: "artifact_uri".into(),
        length_max: Some(length_max),
        only: Some(("status".into(), vec!["FINISHED".into()])),
        roots: vec![("s3://models/".into(), "s3://other".into())],
    };
    let mut writer = open_writer(&uri(&path("two.db"))).unwrap();
    let guard = Guard::new(Dialect::Sqlite, &[]);
    let message = load(writer.as_mut(), &guard, &text, &[rewrite(20)], &tables).unwrap_err().to_string();
    assert!(
        message.contains("runs.artifact_uri holds at most 20 characters") && message.contains("run_uuid="),
        "{message}"
    );
    assert_eq!(load(writer.as_mut(), &guard, &text, &[rewrite(200)], &tables).unwrap(), [4]);
    let first: String = other.query_row("SELECT min(artifact_uri) FROM runs", [], |row| row.get(0)).unwrap();
    assert!(first.starts_with("s3://other/1/0000000100"), "{first}");
}
