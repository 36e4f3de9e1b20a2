//! `mlvault cat`

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use clap::Parser;

use mlvault::dump;
use mlvault::error::Result;
use mlvault::monitor::{Monitor, Silent};
use mlvault::repository::Repository;
use mlvault::repository::snapshots::Snapshot;

use crate::cli::context::Context;
use crate::cli::{exit, output};

/// Write a file of a snapshot to standard output
///
/// Its content is verified; but whether the last part of it is right is known only at the end, so do not use what was
/// written if the exit code is not 0.
#[derive(Parser)]
pub struct Args {
    /// Snapshot: an id, latest, latest~2, a day (2026-11-21, UTC) or a time (2026-11-21T03:00Z)
    snapshot: String,
    /// File in the snapshot
    path: OsString,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<exit::Code> {
    let repository = context.repository()?;
    let snapshot = repository.find_snapshot(&args.snapshot)?;
    write(context, &repository, &snapshot, args.path.as_bytes())
}

/// Writes a file to standard output.
pub fn write(context: &Context, repository: &Arc<Repository>, snapshot: &Snapshot, path: &[u8]) -> Result<exit::Code> {
    let monitor = monitor(context);
    let mut out = output::raw_stdout()?;
    dump::file(repository, snapshot, path, &mut out, (monitor.as_ref(), context.cancel()))?;
    Ok(exit::COMPLETE)
}

/// Progress would get in between on a terminal.
fn monitor(context: &Context) -> Arc<dyn Monitor> {
    if output::is_terminal() { Arc::new(Silent) } else { context.monitor() }
}
