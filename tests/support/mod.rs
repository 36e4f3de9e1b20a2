//! What several test files share.

pub mod allocations;
pub mod buckets;
pub mod cli;
pub mod fault_server;
pub mod mlflow_server;
pub mod recording_proxy;
pub mod repo;
pub mod s3_server;

use std::process::{Command, Stdio};

/// Returns a command that runs one ignored test of this binary, such as `module::name`, as a process of its own.
///
/// `shell` is what the process's shell does first, such as setting a limit; it may be empty.
pub fn child(test: &str, shell: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{shell} exec \"$0\" \"$@\"")]).arg(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", test]).stdin(Stdio::null());
    command
}
