//! `mlvault cat`

use std::ffi::OsString;
use std::sync::Arc;

use clap::Parser;
use serde_json::json;

use mlvault::dump;
use mlvault::error::{Error, Result};
use mlvault::hears::Hears;
use mlvault::monitor::Silent;
use mlvault::repository::Repository;
use mlvault::repository::snapshots::Snapshot;

use crate::cli::answer::Answer;
use crate::cli::context::Context;
use crate::cli::outcome::Outcome;
use crate::cli::selection::{Named, SourceArgs};
use crate::cli::{exit, output};

/// Print a file of a snapshot
///
/// The content is verified while it is written to standard output. If the exit code is not 0, do not use what was written.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault cat latest models/fraud/MLmodel
  mlvault cat latest:models/fraud/MLmodel
  mlvault cat 2026-11-21 dumps/mlflow.sql > mlflow.sql")]
pub struct Args {
    /// Snapshot: an id, latest, latest~2, a day (2026-11-21, in UTC) or a time (2026-11-21T03:00Z)
    snapshot: String,
    /// File in the snapshot; SNAPSHOT:PATH names it, too
    path: Option<OsString>,
    #[command(flatten)]
    source: SourceArgs,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    let mut named = Named::new(&args.snapshot, args.path)?;
    let none = || Error::Invalid("No file was given: name its path in the snapshot".to_owned());
    let path = named.path.take().ok_or_else(none)?;
    let repository = context.repository()?;
    let Answer { snapshot, about } = context.find_snapshot(&repository, &named.snapshot, &args.source.scope())?;
    context.monitor().note(&about.line());
    write(context, &repository, &snapshot, &path)
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
