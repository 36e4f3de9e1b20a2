//! `mlvault accept`

use clap::{Parser, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};

use mlvault::error::Result;
use mlvault::moment::DayOrTime;
use mlvault::procedures::accept::{self, Losses};
use mlvault::repository::notes::Acceptance;

use crate::cli::context::Context;
use crate::cli::outcome::Outcome;
use crate::cli::output;
use crate::cli::progress::printable;
use crate::cli::selection::SourceArgs;

/// Accept losses that are known, so that backups count as complete until a new one comes
///
/// A file that nobody can bring back makes every night's snapshot incomplete, and a new loss goes unnoticed among the old.
/// What is accepted is still told and recorded by every backup, with who accepted it, but does not make it incomplete.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault accept add --deployment production 'model version fraud-detector/3' --until 2027-01-31 \\
      --reason 'lost with disk 7, ticket 4711'
  mlvault accept list")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Accept what the latest snapshot of a source lacks; needs a maintainer key
    #[command(after_help = "\
Examples:
  mlvault accept add --deployment production 'run 4f0c' --reason 'ticket 4711' --until 2027-01-31
  mlvault accept add --deployment production --all --reason 'disk 7' --until 2027-01-31")]
    Add {
        /// What is lacking, as backups name it before the colon
        #[arg(required_unless_present = "all")]
        subjects: Vec<String>,
        /// Accept everything that the latest snapshot lacks
        #[arg(long, conflicts_with = "subjects")]
        all: bool,
        #[command(flatten)]
        source: SourceArgs,
        /// Why the loss is accepted
        #[arg(long)]
        reason: String,
        /// Day (UTC) or time when the loss counts again
        #[arg(long, value_name = "TIME")]
        until: DayOrTime,
    },
    /// Withdraw acceptances; needs a maintainer key
    #[command(after_help = "\
Examples:
  mlvault accept remove 5d41402a")]
    Remove {
        /// Ids of acceptances, or prefixes of them
        #[arg(required = true)]
        acceptances: Vec<String>,
    },
    /// List what was accepted
    #[command(after_help = "\
Examples:
  mlvault accept list")]
    List,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    let repository = context.repository()?;
    match args.command {
        Command::Add { subjects, all, source, reason, until } => {
            let latest = context.find_snapshot(&repository, "latest", &source.scope())?.snapshot;
            let losses = if all { Losses::All } else { Losses::Named(subjects) };
            let accepted = accept::accept(&repository, &latest, losses, &reason, until.end()?)?;
            let group = latest.record.source.group();
            let lines: Vec<_> = accepted
                .iter()
                .map(|(subject, id)| format!("Accepted for {}: {} ({id})", printable(&group), printable(subject)))
                .collect();
            let added: Value =
                accepted.iter().map(|(subject, id)| json!({ "id": id, "source": group, "subject": subject })).collect();
            Ok(Outcome::complete(json!({ "added": added }), lines))
        }
        Command::Remove { acceptances } => {
            let removed = accept::withdraw(&repository, &acceptances)?;
            let lines: Vec<_> = removed.iter().map(|id| format!("Acceptance {id} withdrawn")).collect();
            Ok(Outcome::complete(json!({ "removed": removed }), lines))
        }
        Command::List => {
            let notes = context.read_notes(&repository)?;
            let now = Timestamp::now();
            let listed: Value = notes.acceptances.iter().map(|accepted| document(accepted, now)).collect();
            Ok(Outcome::complete(json!({ "acceptances": listed }), table(&notes.acceptances, now)))
        }
    }
}

fn document(accepted: &Acceptance, now: Timestamp) -> Value {
    json!({
        "id": accepted.id, "source": accepted.group, "subject": accepted.subject, "reason": accepted.reason,
        "since": accepted.since, "until": accepted.until, "ended": accepted.has_ended(now), "by": accepted.by,
    })
}

fn table(acceptances: &[Acceptance], now: Timestamp) -> Vec<Vec<String>> {
    let mut rows = vec![["ID", "SOURCE", "SUBJECT", "UNTIL", "BY", "REASON"].map(str::to_owned).to_vec()];
    rows.extend(acceptances.iter().map(|accepted| {
        let until = output::format_time(&accepted.until);
        vec![
            accepted.id.to_string(),
            printable(&accepted.group),
            printable(&accepted.subject),
            if accepted.has_ended(now) { format!("{until} (ended)") } else { until },
            printable(&accepted.by.label),
            printable(&accepted.reason),
        ]
    }));
    rows
}
