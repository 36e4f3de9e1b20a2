//! PostgreSQL that somebody else administers: extensions, schemas and rights that the owner of a database does not have.

use std::fs;

use serde_json::json;

use crate::support::cli::Runner;
use crate::support::deployment::Place;
use crate::support::mlflow_rows;
use crate::support::postgres_server::{OWNER, PASSWORD, PostgresServer};

/// The role that MLflow uses: it owns its database, and nothing else.
const APP: &str = "app";

/// A server with MLflow's tables in the database `one`, beside what an administrator keeps there.
fn managed_server() -> PostgresServer {
    let server = PostgresServer::start();
    server.create_mlflow("one");
    let mut administrator = server.client("one");
    administrator
        .batch_execute(&format!(
            "CREATE ROLE {APP} LOGIN PASSWORD '{PASSWORD}'; GRANT pg_read_all_data TO {APP}; \
             CREATE EXTENSION pg_stat_statements; CREATE SCHEMA reporting; \
             COMMENT ON SCHEMA reporting IS 'of the administrators'"
        ))
        .unwrap();
    let rows = mlflow_rows::inserts(1, 5).replace("s3://models", "mlflow-artifacts:");
    administrator.batch_execute(&rows).unwrap();
    server
}

fn create(server: &PostgresServer, database: &str, owner: &str) {
    server.client("postgres").batch_execute(&format!("CREATE DATABASE {database} OWNER {owner}")).unwrap();
}

fn place(server: &PostgresServer, role: &str, database: &str, artifacts: String) -> Place {
    let database = format!("postgresql+psycopg2://{role}:{PASSWORD}@127.0.0.1:{}/{database}", server.port());
    Place { database, artifacts, more: Vec::new(), environment: Vec::new() }
}

fn owners(server: &PostgresServer, database: &str) -> Vec<String> {
    let sql = "SELECT DISTINCT tableowner::text FROM pg_tables WHERE schemaname = 'public'";
    server.client(database).query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

#[test]
fn who_owns_a_database_and_nothing_else_can_restore_into_it() {
    let (server, runner) = (managed_server(), Runner::with_repository());
    let path = |name: &str| runner.path(name).display().to_string();
    for run in 0..5 {
        let folder = runner.path(format!("artifacts/1/{:08x}{run:024x}/artifacts", 1));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("a"), "x").unwrap();
    }
    place(&server, APP, "one", path("artifacts")).backup(&runner);

    // What an administrator has put there is there again, and belongs to him.
    create(&server, "two", APP);
    server.client("two").batch_execute("CREATE EXTENSION pg_stat_statements; CREATE SCHEMA reporting").unwrap();
    let two = place(&server, APP, "two", path("two"));
    let restore = ["restore", "--snapshot", "latest", "--yes"];
    let dry = two.run(&runner, &[&restore[..], &["--dry-run"]].concat()).expect(0).json();
    assert_eq!(dry["plan"]["databases"][0]["skipped_extensions"], json!(["pg_stat_statements"]), "{dry:#}");
    two.run(&runner, &restore).expect(0);
    assert_eq!(owners(&server, "two"), [APP]);

    // Where nobody has put anything, the owner makes the schema and does without the extension.
    create(&server, "three", APP);
    place(&server, APP, "three", path("three")).run(&runner, &restore).expect(0);

    // An administrator restores for the role that will use the tables.
    create(&server, "four", APP);
    let four = place(&server, OWNER, &format!("four?options=-c%20role%3D{APP}"), path("four"));
    four.run(&runner, &restore).expect(0);
    assert_eq!(owners(&server, "four"), [APP]);
}

#[test]
fn rights_that_are_missing_are_told_before_anything_is_written() {
    let (server, runner) = (managed_server(), Runner::with_repository());
    let path = |name: &str| runner.path(name).display().to_string();
    server.client("one").batch_execute("UPDATE runs SET artifact_uri = NULL").unwrap();
    fs::create_dir(runner.path("artifacts")).unwrap();
    fs::write(runner.path("artifacts/a"), "x").unwrap();
    place(&server, APP, "one", path("artifacts")).backup(&runner);
    create(&server, "foreign_one", OWNER);
    create(&server, "frozen", APP);
    let freeze = "ALTER DATABASE frozen SET default_transaction_read_only = on";
    server.client("postgres").batch_execute(freeze).unwrap();
    let cases = [("foreign_one", "may not make tables in the schema \\\"public\\\""), ("frozen", "can only be read")];
    for (database, told) in cases {
        let target = place(&server, APP, database, path(database));
        for more in ["--dry-run", "--yes"] {
            let refused = target.run(&runner, &["restore", "--snapshot", "latest", more]).expect(1);
            assert!(refused.stderr.contains(told) && refused.stderr.contains(database), "{}", refused.stderr);
            assert!(!runner.path(database).exists(), "{database}: files were written");
        }
    }
}

#[test]
fn one_database_under_two_names_is_dumped_once() {
    let (server, runner) = (managed_server(), Runner::with_repository());
    server.client("one").batch_execute("UPDATE runs SET artifact_uri = NULL").unwrap();
    fs::create_dir(runner.path("artifacts")).unwrap();
    let again = format!("postgresql://{APP}:{PASSWORD}@localhost:{}/one", server.port());
    let one = place(&server, APP, "one", runner.path("artifacts").display().to_string());
    let mut twice = one.clone();
    twice.environment.push(("MLVAULT_AUTH_DATABASE_URI".to_owned(), again));
    let done = twice.run(&runner, &["backup"]).expect(0);
    assert!(done.stderr.contains("the auth database is the same as another one"), "{}", done.stderr);
    assert_eq!(done.json()["record"]["deployment"]["databases"].as_array().unwrap().len(), 1);
    create(&server, "two", APP);
    let two = place(&server, APP, "two", runner.path("two").display().to_string());
    two.run(&runner, &["restore", "--snapshot", "latest", "--yes"]).expect(0);
}
