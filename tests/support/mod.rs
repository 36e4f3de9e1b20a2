//! What several test files share.

pub mod allocations;
pub mod buckets;
pub mod cli;
pub mod deployment;
pub mod dumps;
pub mod fault_server;
pub mod kubernetes;
pub mod mlflow_rows;
pub mod mlflow_server;
pub mod postgres_server;
pub mod recording_disk;
pub mod recording_proxy;
pub mod repo;
pub mod s3_server;
pub mod smtp_server;
pub mod sqlite_file;
pub mod thief;

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Returns the folder of the tools.
pub fn tools() -> PathBuf {
    match env::var_os("MLVAULT_TEST_TOOLS") {
        Some(directory) => PathBuf::from(directory),
        None => PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache/mlvault-tools"),
    }
}

/// Returns the path of an installed tool. A missing one fails the test: a skipped test would look like a passed one.
pub fn tool(name: &str) -> PathBuf {
    let path = tools().join("bin").join(name);
    assert!(path.is_file(), "{path:?} is missing: run scripts/setup.sh test first");
    path
}

/// Brings a database to the schema of the MLflow that is installed.
pub fn mlflow_db_upgrade(uri: &str) {
    let mut command = Command::new(tool("mlflow"));
    command.args(["db", "upgrade", uri]).env("MLFLOW_DISABLE_TELEMETRY", "true").stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Returns a command that runs one ignored test of this binary, such as `module::name`, as a process of its own.
///
/// `shell` is what the process's shell does first, such as setting a limit; it may be empty.
pub fn child(test: &str, shell: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{shell} exec \"$0\" \"$@\"")]).arg(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", test]).stdin(Stdio::null());
    command
}
