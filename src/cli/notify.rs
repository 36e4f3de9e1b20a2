//! `mlvault notify`

use clap::{Parser, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};

use mlvault::error::{Error, Result};
use mlvault::notify;
use mlvault::run_summary::{Event, RunSummary};

use crate::cli::context::Context;
use crate::cli::exit;
use crate::cli::outcome::{Outcome, Text};
use crate::cli::progress::printable;

/// Try who is told how commands end
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault notify test")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send a test message to everybody in the configuration file who wants to be told, and say what each answers
    ///
    /// Services that wait for a sign of life get a line for their log, which is none.
    ///
    /// Exit code 1 if somebody could not be told.
    #[command(after_help = "\
Examples:
  mlvault notify test
  mlvault notify test ops-mail --json")]
    Test {
        /// Tell only this one: NAME of [notify.NAME]
        #[arg(value_name = "NAME")]
        name: Option<String>,
    },
}

/// What came of a test message.
struct Row {
    name: String,
    kind: &'static str,
    to: String,
    answer: Option<String>,
    error: Option<String>,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    let Command::Test { name } = args.command;
    let is_meant = |one: &str| name.as_ref().is_none_or(|name| name == one);
    let (places, faults) = context.file().places();
    let places: Vec<_> = places.iter().filter(|place| is_meant(&place.name)).collect();
    let faults: Vec<_> = faults.into_iter().filter(|(name, _)| is_meant(name)).collect();
    if places.is_empty() && faults.is_empty() {
        return Err(Error::Invalid(match name {
            Some(name) => format!("The configuration file has no table [notify.{name}]"),
            None => "The configuration file has no table [notify.NAME]: nobody is told".to_owned(),
        }));
    }
    let summary = RunSummary::begun(Event::Test, None, Timestamp::now());
    let outcomes = notify::tell(&places, &summary, context.cancel());
    let told = outcomes.into_iter().zip(&places).map(|(outcome, place)| Row {
        name: outcome.name,
        kind: place.kind(),
        to: place.shown(),
        answer: outcome.answer,
        error: outcome.error,
    });
    let unusable = faults.into_iter().map(|(name, error)| Row {
        name,
        kind: "",
        to: String::new(),
        answer: None,
        error: Some(error.to_string()),
    });
    let rows: Vec<Row> = told.chain(unusable).collect();
    let code = if rows.iter().any(|row| row.error.is_some()) { exit::FAILED } else { exit::COMPLETE };
    Ok(Outcome::new(code, json!({ "told": rows.iter().map(Row::document).collect::<Vec<_>>() }), text(&rows)))
}

impl Row {
    fn document(&self) -> Value {
        let Self { name, kind, to, answer, error } = self;
        json!({ "name": name, "kind": kind, "to": to, "ok": error.is_none(), "answer": answer, "error": error })
    }
}

fn text(rows: &[Row]) -> Text {
    let mut cells = vec![["NAME", "KIND", "TO", "ANSWER"].map(str::to_owned).to_vec()];
    cells.extend(rows.iter().map(|row| {
        let error = row.error.as_ref().map(|error| format!("FAILED: {error}"));
        let answer = error.or_else(|| row.answer.clone()).unwrap_or_default();
        vec![printable(&row.name), row.kind.to_owned(), row.to.clone(), printable(&answer)]
    }));
    Text::from(cells)
}
