//! `mlvault dump`

use std::ffi::OsString;
use std::sync::Arc;

use clap::Parser;
use serde_json::json;

use mlvault::dump::{self, ArchiveOptions};
use mlvault::error::{Error, Result};
use mlvault::repository::Repository;
use mlvault::repository::snapshots::Snapshot;

use crate::cli::answer::Answer;
use crate::cli::context::Context;
use crate::cli::exclusions::PatternArgs;
use crate::cli::outcome::Outcome;
use crate::cli::selection::{Named, SourceArgs};
use crate::cli::{exit, output};

/// Write a snapshot, or a part of it, to standard output as a tar archive
///
/// Paths in the archive are those of the snapshot; with SNAPSHOT:PATH they begin below the path. If the exit code is not 0, the archive is truncated: do not use it.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault dump latest > snapshot.tar
  mlvault dump latest models/fraud | tar -x -C /tmp
  mlvault dump latest:models/fraud --exclude '*.ckpt' | tar -x -C /tmp/fraud")]
pub struct Args {
    /// Snapshot: an id, latest, latest~2, a day (2026-11-21, in UTC) or a time (2026-11-21T03:00Z)
    snapshot: String,
    /// Directory or file in the snapshot [default: everything]
    path: Option<OsString>,
    #[command(flatten)]
    patterns: PatternArgs,
    #[command(flatten)]
    source: SourceArgs,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    let named = Named::new(&args.snapshot, args.path)?;
    let options = ArchiveOptions {
        path: named.path.unwrap_or_default(),
        strips_path: named.is_joined,
        patterns: args.patterns.resolve()?,
    };
    let repository = context.repository()?;
    let Answer { snapshot, about } = context.find_snapshot(&repository, &named.snapshot, &args.source.scope())?;
    context.monitor().note(&about.line());
    write(context, &repository, &snapshot, &options)
}

/// Writes an archive to standard output.
pub fn write(
    context: &Context,
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    options: &ArchiveOptions,
) -> Result<Outcome> {
    if output::is_terminal() {
        return Err(Error::Invalid(
            "Refused to write an archive to a terminal; redirect it to a file, or pipe it to tar".to_owned(),
        ));
    }
    let mut out = output::raw_stdout()?;
    dump::archive(repository, snapshot, options, &mut out, &context.hears())?;
    let summary = json!({ "snapshot": snapshot.id, "path": String::from_utf8_lossy(&options.path) });
    Ok(Outcome::written(exit::COMPLETE, summary))
}
