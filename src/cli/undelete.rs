//! `mlvault undelete`

use clap::Parser;
use serde_json::json;

use mlvault::error::Result;
use mlvault::retention;

use crate::cli::context::Context;
use crate::cli::{exit, output};

/// Bring a forgotten snapshot back, unless a prune has removed it
///
/// `mlvault snapshots --trash` lists what can come back. It comes back under a new id, with its own time: put a hold on it,
/// or the next `forget` decides as the last one did. Needs a maintainer's key.
#[derive(Parser)]
pub struct Args {
    /// The snapshot
    snapshot: String,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<exit::Code> {
    let (was, is) = retention::undelete(&context.repository()?, &args.snapshot, &context.monitor(), context.cancel())?;
    context.finish();
    if context.json() {
        output::print_json(&json!({ "forgotten": was, "snapshot": is }))?;
    } else {
        output::print_line(&format!("Snapshot {} is back as {}", was.short(), is.short()))?;
    }
    Ok(exit::COMPLETE)
}
