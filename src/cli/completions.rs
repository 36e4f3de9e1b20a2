//! `mlvault completions`

use clap::Parser;
use clap_complete::Shell;
use serde_json::json;

use mlvault::error::{Error, Result};

use crate::cli::outcome::{Outcome, Text};

/// Print what makes a shell complete the commands and options of mlvault
///
/// `make install` puts them where bash, zsh and fish look by themselves.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault completions bash > ~/.local/share/bash-completion/completions/mlvault
  mlvault completions zsh > ~/.zfunc/_mlvault
  mlvault completions fish > ~/.config/fish/completions/mlvault.fish")]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Runs the command.
pub fn run(mut command: clap::Command, args: &Args) -> Result<Outcome> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    let script = String::from_utf8(script).map_err(|error| Error::Internal(error.to_string()))?;
    let lines: Vec<String> = script.lines().map(str::to_owned).collect();
    Ok(Outcome::complete(json!({ "shell": args.shell.to_string(), "script": script }), Text::from(lines)))
}
