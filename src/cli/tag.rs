//! `mlvault tag`

use clap::{Parser, Subcommand};
use serde_json::json;

use mlvault::error::Result;
use mlvault::retention;

use crate::cli::context::Context;
use crate::cli::outcome::Outcome;
use crate::cli::selection::SourceArgs;

/// Add tags to snapshots, or remove them
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault tag add latest release-2.1
  mlvault tag remove 01a20e5c2251 nightly")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Add tags to a snapshot
    #[command(after_help = "\
Examples:
  mlvault tag add latest release-2.1
  mlvault tag add 01a20e5c2251 nightly audited")]
    Add(Change),
    /// Remove tags from a snapshot; needs a maintainer key, because a policy can depend on them
    #[command(after_help = "\
Examples:
  mlvault tag remove 01a20e5c2251 nightly")]
    Remove(Change),
}

#[derive(Parser)]
struct Change {
    /// The snapshot
    snapshot: String,
    #[command(flatten)]
    source: SourceArgs,
    /// The tags
    #[arg(required = true)]
    tags: Vec<String>,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    let (change, add) = match args.command {
        Command::Add(change) => (change, true),
        Command::Remove(change) => (change, false),
    };
    let repository = context.repository()?;
    let id = context.find_snapshot(&repository, &change.snapshot, &change.source.scope())?.snapshot.id.to_string();
    let snapshot = retention::tag(&repository, &id, change.tags.clone(), add)?;
    let done = if add { "added" } else { "removed" };
    let text = format!("Snapshot {}: tags {done}: {}", snapshot.short(), change.tags.join(", "));
    Ok(Outcome::complete(json!({ "snapshot": snapshot, done: change.tags }), text))
}
