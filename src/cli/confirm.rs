//! Asks on the terminal whether a plan is to be carried out.
//!
//! What must stay true: whatever is not a plain yes means no, and where nobody can answer nothing is done.

use std::io::{self, BufRead, BufReader, IsTerminal, Write};

use mlvault::error::{Error, Result};
use mlvault::procedures::{Confirm, Consent};
use mlvault::stdin_reader::StdinReader;

use crate::cli::context::Context;

/// Returns what the options --dry-run and --yes say; with neither, `ask` decides.
pub fn consent<P>(dry_run: bool, yes: bool, ask: &dyn Confirm<P>) -> Consent<'_, P> {
    match (dry_run, yes) {
        (true, _) => Consent::DryRun,
        (false, true) => Consent::Given,
        (false, false) => Consent::Ask(ask),
    }
}

/// Shows what will be done, and asks whether to go on.
pub fn ask(context: &Context, plan: &[String]) -> Result<()> {
    context.finish();
    if context.json() || !io::stdin().is_terminal() {
        return Err(Error::Invalid(
            "This needs confirmation, and there is no terminal to ask on: add --yes".to_owned(),
        ));
    }
    let fault = |source| Error::target("write", "the terminal", source);
    let mut out = io::stderr().lock();
    for line in plan {
        writeln!(out, "{line}").map_err(fault)?;
    }
    write!(out, "Continue? (yes/no): ").and_then(|()| out.flush()).map_err(fault)?;
    let mut answer = String::new();
    let mut stdin = StdinReader::new(context.cancel());
    BufReader::new(&mut stdin)
        .read_line(&mut answer)
        .map_err(|source| Error::source("read", "the terminal", source))?;
    stdin.into_result()?;
    match answer.trim() {
        "yes" => Ok(()),
        _ => Err(Error::Refused("Nothing was changed: the answer was not yes".to_owned())),
    }
}
