//! `mlvault man`
//!
//! What must stay true: there is a page for the program and for every command, made of the same text as its help.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Command, Parser};
use clap_mangen::Man;
use serde_json::json;

use mlvault::error::{Error, Result};

use crate::cli::outcome::{Outcome, Text};
use crate::cli::version;

/// Print the manual page of mlvault or of one of its commands, or write all of them
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault man | man -l -
  mlvault man repair packs | man -l -
  mlvault man --out /usr/local/share/man/man1")]
pub struct Args {
    /// The command [default: mlvault itself]
    #[arg(value_name = "COMMAND", conflicts_with = "out")]
    words: Vec<String>,
    /// Write the pages of mlvault and of all its commands into this directory, which is made if it is not there
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Runs the command.
pub fn run(mut command: Command, args: &Args) -> Result<Outcome> {
    // Options of all commands are handed down, and each gets its full name.
    command.build();
    match &args.out {
        Some(directory) => write_all(&command, directory),
        None => print(&command, &args.words),
    }
}

fn print(program: &Command, words: &[String]) -> Result<Outcome> {
    let mut command = program;
    for word in words {
        let unknown = || Error::Invalid(format!("mlvault has no command {:?}", words.join(" ")));
        command = command.find_subcommand(word).ok_or_else(unknown)?;
    }
    let (name, page) = page(command)?;
    let lines: Vec<String> = page.lines().map(str::to_owned).collect();
    Ok(Outcome::complete(json!({ "name": name, "page": page }), Text::from(lines)))
}

fn write_all(program: &Command, directory: &Path) -> Result<Outcome> {
    fs::create_dir_all(directory).map_err(|source| Error::source("create", directory.to_owned(), source))?;
    let mut written = Vec::new();
    let mut waiting = vec![program];
    while let Some(command) = waiting.pop() {
        let (name, page) = page(command)?;
        let path = directory.join(format!("{name}.1"));
        fs::write(&path, page).map_err(|source| Error::source("write", path.clone(), source))?;
        written.push(path);
        waiting.extend(command.get_subcommands().filter(|below| below.get_name() != "help"));
    }
    written.sort();
    let text = format!("Wrote {} manual pages to {}", written.len(), directory.display());
    Ok(Outcome::complete(json!({ "pages": written }), text))
}

/// Returns the page of a command and its name, such as `mlvault-repair-packs`.
fn page(command: &Command) -> Result<(String, String)> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let mut page = Vec::new();
    // Left to itself, the foot of a page calls a command a program of its own, without a version.
    let man = Man::new(command.clone()).title(name.to_uppercase()).source(format!("mlvault {}", version::SHORT));
    let written = man.render(&mut page);
    written.map_err(|error| Error::Internal(error.to_string()))?;
    String::from_utf8(page).map(|page| (name, page)).map_err(|error| Error::Internal(error.to_string()))
}
