//! `mlvault hold`

use clap::{Parser, Subcommand};
use jiff::civil::Date;
use jiff::{Timestamp, tz::TimeZone};
use serde_json::json;

use mlvault::error::{Error, Result};
use mlvault::repository::notes::Hold;
use mlvault::retention;

use crate::cli::context::Context;
use crate::cli::progress::printable;
use crate::cli::{exit, output};

/// Hold snapshots: nothing forgets them or removes what they need
#[derive(Parser)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Put a hold on a snapshot
    Add {
        /// The snapshot
        snapshot: String,
        /// Why, for those who find it later
        #[arg(long)]
        reason: String,
        /// Day (UTC) or time until which it holds (default: until it is removed)
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
    },
    /// End a hold; needs a maintainer's key
    Remove {
        /// Id of the hold or a prefix of it, or the whole id of a snapshot for all holds on it
        hold: String,
    },
    /// List holds
    List,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<exit::Code> {
    let repository = context.repository()?;
    match args.command {
        Command::Add { snapshot, reason, until } => {
            let until = until.as_deref().map(parse_time).transpose()?;
            let (hold, snapshot) = retention::hold(&repository, &snapshot, &reason, until)?;
            context.finish();
            if context.json() {
                output::print_json(&json!({ "added": { "id": hold, "snapshot": snapshot } }))?;
            } else {
                output::print_line(&format!("Hold {hold} on snapshot {}", snapshot.short()))?;
            }
        }
        Command::Remove { hold } => {
            let released = retention::release(&repository, &hold)?;
            context.finish();
            if context.json() {
                output::print_json(&json!({ "removed": released }))?;
            } else {
                output::print_line(&format!("{} holds ended", released.len()))?;
            }
        }
        Command::List => {
            let notes = repository.list_notes()?;
            context.finish();
            print_holds(context, &notes.holds)?;
            for error in &notes.damaged {
                context.monitor().problem("notes", &error.to_string());
            }
            if !notes.damaged.is_empty() {
                return Ok(exit::INCOMPLETE);
            }
        }
    }
    Ok(exit::COMPLETE)
}

/// Reads a time, or a day, whose end is meant.
fn parse_time(text: &str) -> Result<Timestamp> {
    let end_of = |day: Date| {
        day.tomorrow().ok()?.to_datetime(jiff::civil::Time::midnight()).to_zoned_datetime(TimeZone::UTC).ok()
    };
    text.parse::<Timestamp>()
        .ok()
        .or_else(|| text.parse::<Date>().ok().and_then(end_of).map(|zoned| zoned.timestamp()))
        .ok_or_else(|| Error::Invalid(format!("{text:?} is neither a day (2027-01-31) nor a time (2027-01-31T12:00Z)")))
}

fn print_holds(context: &Context, holds: &[Hold]) -> Result<()> {
    let now = Timestamp::now();
    if context.json() {
        let as_json = |hold: &Hold| {
            json!({
                "id": hold.id, "snapshot": hold.snapshot, "reason": hold.reason, "since": hold.since, "until": hold.until,
                "ended": hold.has_ended(now), "by": hold.by,
            })
        };
        return output::print_json(&json!({ "holds": holds.iter().map(as_json).collect::<Vec<_>>() }));
    }
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
    output::print_table(&rows)
}
