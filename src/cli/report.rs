//! `mlvault report`

use std::path::PathBuf;

use clap::Parser;
use serde_json::json;

use mlvault::error::Result;
use mlvault::status::{self, report};

use crate::cli::context::Context;
use crate::cli::outcome::Outcome;
use crate::cli::status::JudgeArgs;
use crate::cli::{exit, written_file};

/// Write what `mlvault status` says, and the year before, as one HTML page to look at, print or send
///
/// The page shows alarms, a calendar of snapshots and drills, growth, restore times against their targets, what retention
/// does next, and checks. It needs no server, no script and nothing from elsewhere.
///
/// Exit code 1 if there is an alarm; the page is written all the same.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault report --out report.html
  mlvault report --deployment production --time-zone Europe/Berlin --out production.html")]
pub struct Args {
    #[command(flatten)]
    judge: JudgeArgs,
    /// File to write, which is replaced at once
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    let options = args.judge.options(context)?;
    let repository = context.repository()?;
    let (status, history) = status::look_back(&repository, &options, report::SPAN, &context.hears())?;
    written_file::replace(&args.out, report::html(&status, &history, &options.zone).as_bytes())?;
    let code = if status.is_well() { exit::COMPLETE } else { exit::FAILED };
    let document = json!({ "out": args.out, "is_well": status.is_well(), "alarms": status.alarms });
    Ok(Outcome::new(code, document, format!("Wrote {}", args.out.display())))
}
