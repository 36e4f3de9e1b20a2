//! `mlvault audit`

use clap::{Parser, Subcommand};

use mlvault::error::Result;

use crate::cli::audit_log;
use crate::cli::context::Context;
use crate::cli::outcome::Outcome;

/// Answer an auditor: what was when, and what proves it
#[derive(Parser)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Log(audit_log::Args),
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    match args.command {
        Command::Log(args) => audit_log::run(context, args),
    }
}
