//! `mlvault hold`

use clap::{Parser, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};

use mlvault::error::Result;
use mlvault::moment::DayOrTime;
use mlvault::repository::notes::Hold;
use mlvault::retention;
use mlvault::units::count;

use crate::cli::context::Context;
use crate::cli::outcome::Outcome;
use crate::cli::output;
use crate::cli::progress::printable;
use crate::cli::selection::SourceArgs;

/// Protect snapshots from being forgotten
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault hold add latest --reason audit --until 2027-01-31
  mlvault hold list")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Put a hold on a snapshot
    #[command(after_help = "\
Examples:
  mlvault hold add latest --reason audit --until 2027-01-31
  mlvault hold add 01a20e5c2251 --reason 'incident 42'")]
    Add {
        /// The snapshot
        snapshot: String,
        #[command(flatten)]
        source: SourceArgs,
        /// Why the snapshot is held
        #[arg(long)]
        reason: String,
        /// Day (UTC) or time when the hold ends [default: it stays until it is removed]
        #[arg(long, value_name = "TIME")]
        until: Option<DayOrTime>,
    },
    /// End a hold; needs a maintainer key
    #[command(after_help = "\
Examples:
  mlvault hold remove 5d41402a")]
    Remove {
        /// Id of the hold or a prefix of it, or the full id of a snapshot to end all holds on it
        hold: String,
    },
    /// List holds
    #[command(after_help = "\
Examples:
  mlvault hold list")]
    List,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    let repository = context.repository()?;
    match args.command {
        Command::Add { snapshot, source, reason, until } => {
            let until = until.map(|until| until.end()).transpose()?;
            let id = context.find_snapshot(&repository, &snapshot, &source.scope())?.snapshot.id.to_string();
            let (hold, snapshot) = retention::hold(&repository, &id, &reason, until)?;
            let text = format!("Hold {hold} on snapshot {}", snapshot.short());
            Ok(Outcome::complete(json!({ "added": { "id": hold, "snapshot": snapshot } }), text))
        }
        Command::Remove { hold } => {
            let released = retention::release(&repository, &hold)?;
            let text = format!("{} ended", count(released.len(), "hold"));
            Ok(Outcome::complete(json!({ "removed": released }), text))
        }
        Command::List => {
            let notes = context.read_notes(&repository)?;
            let now = Timestamp::now();
            let holds: Value = notes.holds.iter().map(|hold| hold_json(hold, now)).collect();
            Ok(Outcome::complete(json!({ "holds": holds }), table(&notes.holds, now)))
        }
    }
}

fn hold_json(hold: &Hold, now: Timestamp) -> Value {
    json!({
        "id": hold.id, "snapshot": hold.snapshot, "reason": hold.reason, "since": hold.since, "until": hold.until,
        "ended": hold.has_ended(now), "by": hold.by,
    })
}

fn table(holds: &[Hold], now: Timestamp) -> Vec<Vec<String>> {
    let mut rows = vec![["ID", "SNAPSHOT", "SINCE", "UNTIL", "BY", "REASON"].map(str::to_owned).to_vec()];
    rows.extend(holds.iter().map(|hold| {
        let until = match &hold.until {
            None => "removed".to_owned(),
            Some(until) if hold.has_ended(now) => format!("{} (ended)", output::format_time(until)),
            Some(until) => output::format_time(until),
        };
        vec![
            hold.id.to_string(),
            hold.snapshot.short(),
            output::format_time(&hold.since),
            until,
            printable(&hold.by.label),
            printable(&hold.reason),
        ]
    }));
    rows
}
