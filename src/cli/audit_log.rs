//! `mlvault audit log`

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use serde_json::{Value, json};

use mlvault::check::{self, Earlier, LogReport};
use mlvault::error::{Error, Result};
use mlvault::format::checkpoint::{self, CHECKPOINT_LEN_MAX, Checkpoint, Note};
use mlvault::format::log::LoggedObject;
use mlvault::repository::Repository;
use mlvault::repository::log::{Appended, Log, LogEntry};
use mlvault::units::count;

use crate::cli::context::Context;
use crate::cli::exit;
use crate::cli::outcome::{Outcome, Text};
use crate::cli::output;
use crate::cli::progress::printable;
use crate::cli::written_file;

/// Read, verify and complete the log of everything that was written
///
/// Every command that writes a snapshot, forgets one, holds or tags one, changes keys, prunes, or records a check or a drill
/// adds an entry to the log. Nobody can remove, reorder or replace entries without an earlier checkpoint showing it: every
/// backup prints one. Keep checkpoints where whoever can write to the bucket cannot.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault audit log show
  mlvault audit log verify --checkpoint checkpoint.txt
  mlvault audit log checkpoint --out checkpoint.txt")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the entries of the log, the oldest first
    #[command(after_help = "\
Examples:
  mlvault audit log show
  mlvault audit log show --json")]
    Show,
    /// Verify the log: against checkpoints, against what this machine remembers, and against what is stored
    ///
    /// Exit code 1 if something does not fit, 3 if the log is right and objects stand in no entry.
    #[command(after_help = "\
Examples:
  mlvault audit log verify
  mlvault audit log verify --checkpoint checkpoint.txt
  kubectl get configmap mlvault -o jsonpath='{.data.checkpoint}' | mlvault audit log verify --checkpoint -")]
    Verify {
        /// File with a checkpoint, as `audit log checkpoint` writes it or a backup prints it; - for standard input; can be
        /// given several times
        #[arg(long = "checkpoint", value_name = "FILE")]
        checkpoints: Vec<PathBuf>,
    },
    /// Write a signed checkpoint of the log as it is now: a note in the form of C2SP's tlog-checkpoint
    #[command(after_help = "\
Examples:
  mlvault audit log checkpoint
  mlvault audit log checkpoint --out checkpoint.txt")]
    Checkpoint {
        /// File to write it to, instead of standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Enter what is stored and stands in no entry; needs a maintainer key
    ///
    /// An object stands in no entry if it is older than the log, if the command that wrote it was killed or could not reach
    /// the log, or if somebody wrote it past mlvault. Look at what `audit log verify` names before you enter it: the entry
    /// says that it was added later, and by whom.
    #[command(after_help = "\
Examples:
  mlvault audit log complete")]
    Complete,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    match args.command {
        Command::Show => show(context),
        Command::Verify { checkpoints } => verify(context, &checkpoints),
        Command::Checkpoint { out } => write_checkpoint(context, out.as_deref()),
        Command::Complete => complete(context),
    }
}

/// Returns the line in which a checkpoint is printed for people: `audit log verify` reads it again.
pub fn checkpoint_line(checkpoint: &Checkpoint) -> String {
    format!("Checkpoint: {}", checkpoint.short())
}

/// Returns what was entered, for programs.
pub fn appended_json(repository: &Repository, appended: &Appended) -> Value {
    json!({ "entry": appended.number, "checkpoint": repository.sign_checkpoint(&appended.checkpoint) })
}

fn show(context: &Context) -> Result<Outcome> {
    let log = context.repository()?.read_log()?;
    let entries: Vec<Value> = (0..log.size()).map(|number| entry_json(&log, number)).collect();
    let unreadable = log.slots.iter().filter(|slot| slot.entry.is_err()).count();
    let code = if unreadable == 0 { exit::COMPLETE } else { exit::INCOMPLETE };
    let mut text = Text::from(table(&log));
    text.line(checkpoint_line(&log.checkpoint()));
    let document = json!({ "entries": entries, "root": log.checkpoint().root });
    Ok(Outcome::new(code, document, text))
}

fn entry_json(log: &Log, number: u64) -> Value {
    let slot = &log.slots[number as usize];
    let (entry, error) = match &slot.entry {
        Ok(entry) => (Some(entry), None),
        Err(error) => (None, Some(error.reason())),
    };
    json!({
        "number": number, "arrived": slot.arrived, "leaf": slot.leaf, "error": error,
        "at": entry.map(|entry| entry.record.at), "by": entry.map(|entry| &entry.signer),
        "late": entry.map(|entry| entry.record.late), "objects": entry.map(|entry| &entry.record.objects),
    })
}

fn table(log: &Log) -> Vec<Vec<String>> {
    let mut rows = vec![["ENTRY", "TIME", "BY", "WHAT", "OBJECT", "ABOUT"].map(str::to_owned).to_vec()];
    for (number, slot) in log.slots.iter().enumerate() {
        match &slot.entry {
            Ok(entry) => rows.extend(entry_rows(number, entry)),
            Err(error) => rows.push(vec![number.to_string(), "?".to_owned(), "?".to_owned(), error.reason()]),
        }
    }
    rows
}

fn entry_rows(number: usize, entry: &LogEntry) -> impl Iterator<Item = Vec<String>> {
    let (by, at) = (printable(&entry.signer.label), output::format_time(&entry.record.at));
    let by = if entry.record.late { format!("{by} (added later)") } else { by };
    entry.record.objects.iter().map(move |LoggedObject { what, key, about, .. }| {
        let about = about.as_deref().map(printable).unwrap_or_default();
        vec![number.to_string(), at.clone(), by.clone(), what.name(), printable(key), about]
    })
}

fn verify(context: &Context, checkpoints: &[PathBuf]) -> Result<Outcome> {
    let repository = context.repository()?;
    let earlier: Vec<Earlier> =
        checkpoints.iter().map(|path| read_checkpoint(&repository, path)).collect::<Result<_>>()?;
    let report = check::verify_log(&repository, &earlier, context.cancel())?;
    for problem in &report.problems {
        context.monitor().problem("log", &problem.message);
    }
    let code = match (report.problems.is_empty(), report.unlogged.is_empty()) {
        (false, _) => exit::FAILED,
        (true, false) => exit::INCOMPLETE,
        (true, true) => exit::COMPLETE,
    };
    let document = json!({
        "intact": report.problems.is_empty(), "report": report,
        "checkpoint": repository.sign_checkpoint(&report.checkpoint()),
    });
    Ok(Outcome::new(code, document, verify_text(&repository, &report)))
}

/// Objects that are named one by one.
const UNLOGGED_NAMED_MAX: usize = 20;

fn verify_text(repository: &Repository, report: &LogReport) -> Text {
    let mut text = Text::default();
    text.line(match report.entries {
        0 => "The repository has no log yet: it begins with the next entry".to_owned(),
        entries => format!("Verified {} of {}", count(entries, "log entry"), count(report.objects, "object")),
    });
    for compared in &report.checkpoints {
        let by =
            compared.signed_by.as_ref().map(|label| format!(", signed by {}", printable(label))).unwrap_or_default();
        let verdict = if compared.holds { "holds" } else { "DOES NOT HOLD" };
        text.line(format!("{} ({}{by}): {verdict}", compared.source, count(compared.entries, "log entry")));
    }
    if !report.unlogged.is_empty() {
        text.line(format!(
            "{} in no entry: older than the log, not entered by whoever wrote them, or written past mlvault",
            count(report.unlogged.len() as u64, "object")
        ));
        let named = report.unlogged.iter().take(UNLOGGED_NAMED_MAX);
        text.extend(named.map(|object| format!("  {} ({})", object.key, object.what.name())));
        let more = report.unlogged.len().saturating_sub(UNLOGGED_NAMED_MAX);
        text.extend((more > 0).then(|| format!("  {more} more")));
        text.line("`mlvault audit log complete` enters them, with a maintainer key");
    }
    if !repository.config().create_only {
        text.line(
            "This backend ignores create-only writes: an entry can be lost when two commands end at the same moment",
        );
    }
    text.line(match report.problems.len() {
        0 => "The log is intact".to_owned(),
        problems => format!("THE LOG IS NOT INTACT: {}", count(problems as u64, "problem")),
    });
    text.line(checkpoint_line(&report.checkpoint()));
    text
}

fn read_checkpoint(repository: &Repository, path: &Path) -> Result<Earlier> {
    let source = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
    let failed = |error| Error::source("read", path.to_owned(), error);
    let mut bytes = Vec::new();
    let mut take = |input: &mut dyn Read| input.take(CHECKPOINT_LEN_MAX).read_to_end(&mut bytes).map_err(failed);
    match path == Path::new("-") {
        true => take(&mut io::stdin().lock())?,
        false => take(&mut File::open(path).map_err(failed)?)?,
    };
    let note = Note::parse(repository.id(), &bytes)
        .map_err(|error| Error::Invalid(format!("The checkpoint in {source} is none to compare with: {error}")))?;
    Ok(Earlier { source, note })
}

fn write_checkpoint(context: &Context, out: Option<&Path>) -> Result<Outcome> {
    let repository = context.repository()?;
    let checkpoint = repository.read_log()?.checkpoint();
    let note = repository.sign_checkpoint(&checkpoint);
    let verifier = checkpoint::verifier_key(repository.id(), &repository.access().certificate.signer);
    let document = json!({
        "entries": checkpoint.size, "root": checkpoint.root, "checkpoint": note, "verifier_key": verifier, "out": out,
    });
    let text = match out {
        None => Text::from(note.lines().map(str::to_owned).collect::<Vec<_>>()),
        Some(path) => {
            written_file::replace(path, note.as_bytes())?;
            Text::from(format!("Checkpoint of {} in {}", count(checkpoint.size, "log entry"), path.display()))
        }
    };
    Ok(Outcome::complete(document, text))
}

fn complete(context: &Context) -> Result<Outcome> {
    let repository = context.repository()?;
    let Some((objects, appended)) = repository.complete_log()? else {
        let document = json!({ "entered": [], "log": null });
        return Ok(Outcome::complete(document, "Everything is in the log".to_owned()));
    };
    let document = json!({ "entered": objects, "log": appended_json(&repository, &appended) });
    let mut text = Text::from(format!("{} entered into the log", count(objects.len() as u64, "object")));
    text.line(checkpoint_line(&appended.checkpoint));
    Ok(Outcome::complete(document, text))
}
