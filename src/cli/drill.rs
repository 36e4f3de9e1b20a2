//! `mlvault drill`

use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};

use mlvault::config::deployment;
use mlvault::config::file::DrillSection;
use mlvault::crypto::random;
use mlvault::environment;
use mlvault::error::{Error, Result};
use mlvault::format::evidence::{DrillEvidence, DrillResult, DrillTime, Lines, Says};
use mlvault::id::EvidenceId;
use mlvault::procedures::drill::choose::{self, Choice, Chosen};
use mlvault::procedures::drill::{self, DrillOptions, Drilled};
use mlvault::repository::Repository;
use mlvault::repository::evidence::Evidence;
use mlvault::repository::naming::Scope;
use mlvault::retention::policy::Age;
use mlvault::units::count;

use crate::cli::answer::Answer;
use crate::cli::context::Context;
use crate::cli::deployment::DeploymentArgs;
use crate::cli::outcome::{Outcome, Text};
use crate::cli::progress::printable;
use crate::cli::{exit, output};

/// Drills that are listed where nothing else is said.
const LISTED_DEFAULT: usize = 50;

/// Restore a snapshot of a deployment into a scratch place, compare what came back, and sign the result
///
/// The restore is timed. Then the restored databases are read again and compared with what the snapshot recorded, table by
/// table; the catalogue is made anew; the files of every model version are read; and random files are compared byte by byte with
/// the source. With --mlflow-command, MLflow is started on the result and asked. The scratch place is proved to be another one
/// than the source, and removed at the end. The signed result is stored in the repository, also that of a failed drill.
///
/// Exit code 1 if something is wrong or took longer than its objective, 3 if all is right except that something could not be
/// compared, the snapshot is incomplete, or the result could not be stored.
#[derive(Parser)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  mlvault drill --deployment production
  mlvault drill --deployment production --random --mlflow-command mlflow
  mlvault drill list --deployment production"
)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Subcommand)]
enum Command {
    /// List drills, the newest first, and whether they are to be believed
    #[command(after_help = "\
Examples:
  mlvault drill list --deployment production")]
    List {
        /// Only drills of this deployment
        #[arg(long, env = "MLVAULT_DEPLOYMENT", value_name = "NAME")]
        deployment: Option<String>,
        /// List at most this many
        #[arg(long, value_name = "N", default_value_t = LISTED_DEFAULT)]
        limit: usize,
    },
}

#[derive(clap::Args)]
struct RunArgs {
    /// Snapshot: an id, latest, latest~2, a day (2026-11-21, in UTC) or a time (2026-11-21T03:00Z) [default: the latest complete
    /// snapshot]
    #[arg(long, conflicts_with_all = ["random", "age"])]
    snapshot: Option<String>,
    /// Any complete snapshot
    #[arg(long, conflicts_with = "age")]
    random: bool,
    /// The latest complete snapshot that is at least this old, such as 1y
    #[arg(long)]
    age: Option<Age>,
    /// Make random choices as an earlier drill did: the seed of its result
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Keep what was restored
    #[arg(long)]
    keep: bool,
    /// Do not store the result in the repository
    #[arg(long)]
    no_record: bool,
    #[command(flatten)]
    scratch: ScratchArgs,
    #[command(flatten)]
    deployment: DeploymentArgs,
}

/// Where a drill restores to, and how much it compares.
#[derive(clap::Args)]
#[command(next_help_heading = "Scratch place")]
struct ScratchArgs {
    /// Directory in which the drill makes one of its own [default: the temporary directory]
    #[arg(long, env = "MLVAULT_DRILL_SCRATCH_DIR", value_name = "DIR")]
    scratch_dir: Option<PathBuf>,
    /// PostgreSQL database beside which the drill may create others [default: a private server, where PostgreSQL is installed]
    #[arg(long, env = "MLVAULT_DRILL_SCRATCH_DATABASE", value_name = "URI")]
    scratch_database: Option<String>,
    /// File that holds its password
    #[arg(long, env = "MLVAULT_DRILL_SCRATCH_DATABASE_PASSWORD_FILE", value_name = "FILE")]
    scratch_database_password_file: Option<PathBuf>,
    /// Directory or s3://bucket/prefix for artifacts [default: the scratch directory]
    #[arg(long, env = "MLVAULT_DRILL_SCRATCH_ARTIFACTS", value_name = "PLACE")]
    scratch_artifacts: Option<String>,
    /// How many random files are compared byte by byte [default: 20]
    #[arg(long, env = "MLVAULT_DRILL_SAMPLES", value_name = "N")]
    samples: Option<usize>,
    /// Shell command that is MLflow, such as mlflow; it is started on the result and asked
    #[arg(long, env = "MLVAULT_DRILL_MLFLOW_COMMAND", value_name = "COMMAND")]
    mlflow_command: Option<String>,
}

impl ScratchArgs {
    fn section(&self) -> DrillSection {
        DrillSection {
            scratch_dir: self.scratch_dir.clone(),
            scratch_database: self.scratch_database.clone(),
            scratch_database_password_file: self.scratch_database_password_file.clone(),
            scratch_artifacts: self.scratch_artifacts.clone(),
            samples: self.samples,
            mlflow_command: self.mlflow_command.clone(),
        }
    }
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    match args.command {
        Some(Command::List { deployment, limit }) => list(context, deployment.as_deref(), limit),
        None => make(context, &args.run),
    }
}

fn make(context: &Context, args: &RunArgs) -> Result<Outcome> {
    let mut flags = args.deployment.flags(context)?;
    flags.section.drill = args.scratch.section();
    let Some(name) = flags.name.clone() else {
        return Err(Error::Invalid("No deployment was given: name one with --deployment".to_owned()));
    };
    let source = deployment::resolve_for_drill(context.file(), &flags, &environment::variable)?;
    let settings = deployment::resolve_drill(context.file(), &flags, &environment::variable)?;
    let seed = args.seed.unwrap_or_else(|| u64::from_le_bytes(random()));
    let retention = context.file().retention(&name)?.map(|(name, policy)| format!("{name}: {policy}"));
    let repository = context.repository()?;
    let Chosen { snapshot, doubts } = choose(context, &repository, (args, &name, seed))?;
    context.monitor().note(&format!("Drill of snapshot {} of {name:?}", snapshot.id.short()));
    let own_places = context.written_places();
    let options = DrillOptions { settings, source, own_places, seed, keep: args.keep, retention, doubts };
    let Drilled { evidence, left, kept } = drill::run(&repository, &snapshot, &options, &context.hears())?;
    let recorded =
        if args.no_record { None } else { Some(repository.write_evidence(Says::Drill(Box::new(evidence.clone())))) };
    let (id, fault) = match recorded.transpose() {
        Ok(id) => (id, None),
        Err(error) => (None, Some(error.to_string())),
    };
    let code = code(&evidence, fault.is_some() || !left.is_empty());
    let document = json!({ "evidence": id, "drill": evidence, "not_recorded": fault, "left": left, "kept": kept });
    Ok(Outcome::new(code, document, text(&evidence, (id, fault.as_deref()), &kept)))
}

fn choose(context: &Context, repository: &Repository, (args, name, seed): (&RunArgs, &str, u64)) -> Result<Chosen> {
    let choice = match (&args.snapshot, args.random, &args.age) {
        (Some(snapshot), ..) => {
            let scope = Scope::Deployment(name.to_owned());
            let Answer { snapshot, .. } = context.find_snapshot(repository, snapshot, &scope)?;
            return Ok(Chosen { snapshot, doubts: Vec::new() });
        }
        (None, true, _) => Choice::Random(seed),
        (None, false, Some(age)) => Choice::Old(age.clone()),
        (None, false, None) => Choice::Latest,
    };
    choose::choose(repository, name, &choice, Timestamp::now())
}

fn code(evidence: &DrillEvidence, is_lacking: bool) -> exit::Code {
    match evidence.result {
        DrillResult::Failed | DrillResult::Late => exit::FAILED,
        DrillResult::Passed if is_lacking || evidence.exceptions.count > 0 || !evidence.snapshot.complete => {
            exit::INCOMPLETE
        }
        DrillResult::Passed => exit::COMPLETE,
    }
}

fn text(evidence: &DrillEvidence, (id, fault): (Option<EvidenceId>, Option<&str>), kept: &[String]) -> Text {
    let mut text = Text::default();
    for place in &evidence.places {
        let (part, scratch) = (printable(&place.part), printable(&place.scratch));
        text.line(format!("Restored {part} into {scratch}: {}", printable(&place.differs)));
    }
    text.extend(evidence.times.iter().map(time_line));
    text.extend(compared_lines(evidence));
    text.extend(named_lines("FAILED", &evidence.failures));
    text.extend(named_lines("Not compared", &evidence.exceptions));
    text.extend(kept.iter().map(|kept| format!("Kept: {}", printable(kept))));
    let verdict = match evidence.result {
        DrillResult::Passed if evidence.exceptions.count > 0 => "PASSED, with exceptions",
        DrillResult::Passed => "PASSED",
        DrillResult::Failed => "FAILED",
        DrillResult::Late => "TOO LATE: everything came back, but not in time",
    };
    text.line(format!("Drill of snapshot {}: {verdict}", evidence.snapshot.id.short()));
    match (id, fault) {
        (Some(id), _) => text.line(format!("Recorded as {id}")),
        (None, Some(fault)) => text.line(format!("NOT RECORDED: {fault}")),
        (None, None) => text.line("Not recorded"),
    }
    text
}

fn time_line(time: &DrillTime) -> String {
    let seconds = time.milliseconds as f64 / 1000.0;
    let target = match time.target_seconds {
        Some(target) if time.is_late() => format!(", LATER than the {target} s of its objective"),
        Some(target) => format!(" of the {target} s of its objective"),
        None => String::new(),
    };
    format!("Time of {}: {seconds:.1} s{target}", printable(&time.part))
}

fn compared_lines(evidence: &DrillEvidence) -> Vec<String> {
    let rows: u64 = evidence.tables.iter().map(|table| table.rows).sum();
    let files = &evidence.files;
    let mut lines = vec![
        format!("Read again {} with {}", count(evidence.tables.len(), "table"), count(rows, "row")),
        format!(
            "Read {} of {}, and {} byte by byte (seed {})",
            count(files.version_files, "file"),
            count(files.versions, "model version"),
            count(files.samples.len(), "file"),
            files.seed
        ),
    ];
    lines.extend(evidence.server.as_ref().map(|server| {
        format!(
            "MLflow {} lists {}, {} and {}, and gave {}",
            printable(&server.version),
            count(server.experiments, "experiment"),
            count(server.runs, "run"),
            count(server.models, "registered model"),
            count(server.files, "file")
        )
    }));
    lines
}

fn named_lines(head: &str, lines: &Lines) -> Vec<String> {
    let mut named: Vec<String> = lines.first.iter().map(|line| format!("{head}: {}", printable(line))).collect();
    let more = lines.count - lines.first.len() as u64;
    if more > 0 {
        named.push(format!("{head}: {more} more"));
    }
    named
}

/// Lists drills. What nobody should believe is listed, too, and says why.
fn list(context: &Context, deployment: Option<&str>, limit: usize) -> Result<Outcome> {
    let repository = context.repository()?;
    let notes = repository.list_notes()?;
    let mut drills = Vec::new();
    let read = repository.list_evidence(&notes, |evidence| {
        if drills.len() >= limit {
            return ControlFlow::Break(());
        }
        if matches!(&evidence.record.says, Says::Drill(drill) if deployment.is_none_or(|name| drill.deployment == name))
        {
            drills.push(evidence);
        }
        ControlFlow::Continue(())
    })?;
    // Any of the notes might say that a key was removed.
    let mut damaged = notes.damaged;
    damaged.extend(read.damaged);
    for line in damaged.lines() {
        context.monitor().problem("evidence", &line);
    }
    read.foreign.note_to(context.monitor().as_ref());
    let code = if damaged.is_empty() { exit::COMPLETE } else { exit::INCOMPLETE };
    let documents: Vec<Value> = drills.iter().map(document).collect();
    Ok(Outcome::new(code, json!({ "drills": documents, "damaged": damaged.lines() }), table(&drills)))
}

fn document(evidence: &Evidence) -> Value {
    let drill = match &evidence.record.says {
        Says::Drill(drill) => Some(drill),
        Says::Check(_) => None,
    };
    json!({
        "id": evidence.id, "at": evidence.record.at, "arrived": evidence.arrived, "host": evidence.record.host,
        "program": evidence.record.program, "by": evidence.signer, "believed": evidence.is_believed(),
        "doubt": evidence.doubt(), "drill": drill,
    })
}

fn table(drills: &[Evidence]) -> Vec<Vec<String>> {
    let head = ["ID", "TIME", "DEPLOYMENT", "SNAPSHOT", "OF", "RESULT", "BY", "BELIEVED"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for evidence in drills {
        let Says::Drill(drill) = &evidence.record.says else { continue };
        let result = match drill.result {
            DrillResult::Passed => "passed".to_owned(),
            DrillResult::Failed => format!("failed ({})", drill.failures.count),
            DrillResult::Late => "late".to_owned(),
        };
        rows.push(vec![
            evidence.id.to_string(),
            output::format_time(&evidence.record.at),
            printable(&drill.deployment),
            drill.snapshot.id.short(),
            output::format_time(&drill.snapshot.started),
            result,
            printable(&evidence.signer.label),
            evidence.doubt().map_or_else(|| "yes".to_owned(), |doubt| format!("NO: {}", doubt.text())),
        ]);
    }
    rows
}
