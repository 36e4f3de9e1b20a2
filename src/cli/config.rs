//! `mlvault config`

use clap::{Parser, Subcommand};

use mlvault::error::Result;

use crate::cli::config_check;
use crate::cli::context::Context;
use crate::cli::outcome::Outcome;

/// Look at the settings
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault config check")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Say what the settings come to, where each comes from, and what is wrong with them
    ///
    /// Reads the configuration file, the environment and the arguments as every other command does, and the files that they
    /// name, and asks no server. Secrets are not shown.
    ///
    /// Exit code 2 if something cannot be used; 3 if something should be looked at.
    #[command(after_help = "\
Examples:
  mlvault config check
  mlvault config check --deployment production --config /etc/mlvault/mlvault.toml
  mlvault config check --json")]
    Check(config_check::Args),
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    match args.command {
        Command::Check(args) => config_check::run(context, &args),
    }
}
