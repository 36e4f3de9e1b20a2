//! SQLite files with the schema of the MLflow that is installed.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use rusqlite::Connection;
use tempfile::TempDir;

static MLFLOW_FILE: OnceLock<Vec<u8>> = OnceLock::new();

/// Makes a file with MLflow's schema, as `mlflow db upgrade` makes it, and opens it.
pub fn create_mlflow(path: &Path) -> Connection {
    let bytes = MLFLOW_FILE.get_or_init(|| {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("mlflow.db");
        super::mlflow_db_upgrade(&format!("sqlite:///{}", path.display()));
        fs::read(path).unwrap()
    });
    fs::write(path, bytes).unwrap();
    let connection = Connection::open(path).unwrap();
    connection.execute_batch("PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 20000").unwrap();
    connection
}
