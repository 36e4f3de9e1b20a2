//! `mlvault undelete`

use clap::Parser;
use serde_json::json;

use mlvault::error::Result;
use mlvault::repository::naming::Named;
use mlvault::retention;

use crate::cli::context::Context;
use crate::cli::outcome::Outcome;
use crate::cli::selection::SourceArgs;

/// Bring back a forgotten snapshot
///
/// `mlvault snapshots --trash` lists the snapshots that can be brought back; a prune removes them for good. The snapshot
/// gets a new id and keeps its time. Put a hold on it, or the next `mlvault forget` will forget it again. Needs a
/// maintainer key.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault undelete 01a20e5c2251")]
pub struct Args {
    /// The snapshot
    snapshot: String,
    #[command(flatten)]
    source: SourceArgs,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    let named = Named { names: vec![args.snapshot], scope: args.source.scope() };
    let (was, is) = retention::undelete(&context.repository()?, &named, &context.hears())?;
    let text = format!("Snapshot {} is back as {}", was.short(), is.short());
    Ok(Outcome::complete(json!({ "forgotten": was, "snapshot": is }), text))
}
