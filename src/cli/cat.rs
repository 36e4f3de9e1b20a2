//! `mlvault cat`

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use clap::Parser;
use serde_json::json;

use mlvault::dump;
use mlvault::error::Result;
use mlvault::hears::Hears;
use mlvault::monitor::Silent;
use mlvault::repository::Repository;
use mlvault::repository::snapshots::Snapshot;

use crate::cli::answer::Answer;
use crate::cli::context::Context;
use crate::cli::outcome::Outcome;
use crate::cli::selection::SourceArgs;
use crate::cli::{exit, output};

/// Print a file of a snapshot
///
/// The content is verified while it is written to standard output. If the exit code is not 0, do not use what was written.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault cat latest models/fraud/MLmodel
  mlvault cat 2026-11-21 dumps/mlflow.sql > mlflow.sql")]
pub struct Args {
    /// Snapshot: an id, latest, latest~2, a day (2026-11-21, in UTC) or a time (2026-11-21T03:00Z)
    snapshot: String,
    /// File in the snapshot
    path: OsString,
    #[command(flatten)]
    source: SourceArgs,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    let repository = context.repository()?;
    let Answer { snapshot, about } = context.find_snapshot(&repository, &args.snapshot, &args.source.scope())?;
    context.monitor().note(&about.line());
    write(context, &repository, &snapshot, args.path.as_bytes())
}

/// Writes a file to standard output.
pub fn write(context: &Context, repository: &Arc<Repository>, snapshot: &Snapshot, path: &[u8]) -> Result<Outcome> {
    let mut out = output::raw_stdout()?;
    dump::file(repository, snapshot, path, &mut out, &hears(context))?;
    let summary = json!({ "snapshot": snapshot.id, "path": String::from_utf8_lossy(path) });
    Ok(Outcome::written(exit::COMPLETE, summary))
}

/// Progress would get in between on a terminal.
fn hears(context: &Context) -> Hears {
    if output::is_terminal() { Hears::new(Arc::new(Silent), context.cancel().clone()) } else { context.hears() }
}
