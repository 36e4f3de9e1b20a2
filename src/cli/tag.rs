//! `mlvault tag`

use clap::{Parser, Subcommand};
use serde_json::json;

use mlvault::error::Result;
use mlvault::retention;

use crate::cli::context::Context;
use crate::cli::{exit, output};

/// Tag snapshots after they were made
#[derive(Parser)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Add tags to a snapshot
    Add(Change),
    /// Remove tags from a snapshot; needs a maintainer's key, because tags can be what keeps it
    Remove(Change),
}

#[derive(Parser)]
struct Change {
    /// The snapshot
    snapshot: String,
    /// The tags
    #[arg(required = true)]
    tags: Vec<String>,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<exit::Code> {
    let (change, add) = match args.command {
        Command::Add(change) => (change, true),
        Command::Remove(change) => (change, false),
    };
    let snapshot = retention::tag(context.repository()?.as_ref(), &change.snapshot, change.tags.clone(), add)?;
    context.finish();
    let done = if add { "added" } else { "removed" };
    if context.json() {
        output::print_json(&json!({ "snapshot": snapshot, done: change.tags }))?;
    } else {
        output::print_line(&format!("Snapshot {}: tags {done}: {}", snapshot.short(), change.tags.join(", ")))?;
    }
    Ok(exit::COMPLETE)
}
