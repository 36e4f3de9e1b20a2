//! The `mlvault` command.

// Either would end the program where the stream is closed or full: `cli/output.rs` and `cli/stderr.rs` do not.
#![deny(clippy::print_stdout, clippy::print_stderr, clippy::dbg_macro)]

mod cli;

fn main() -> std::process::ExitCode {
    cli::run()
}
