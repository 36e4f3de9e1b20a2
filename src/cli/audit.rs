//! `mlvault audit`

use clap::{Parser, Subcommand};

use mlvault::error::Result;

use crate::cli::context::Context;
use crate::cli::outcome::Outcome;
use crate::cli::{audit_evidence, audit_history, audit_log, audit_verify};

/// Answer an auditor: what was when, and what proves it
#[derive(Parser)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    History(audit_history::Args),
    Evidence(audit_evidence::Args),
    Verify(audit_verify::Args),
    Log(audit_log::Args),
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    match args.command {
        Command::History(args) => audit_history::run(context, args),
        Command::Evidence(args) => audit_evidence::run(context, args),
        Command::Verify(args) => audit_verify::run(context, &args),
        Command::Log(args) => audit_log::run(context, args),
    }
}
