//! The command line: one file per command, each with its arguments, its call into the library and its rendering.
//!
//! What must stay true: results go to standard output, everything else to standard error; with `--json`, standard
//! output is one JSON document, and standard error one JSON object per line. A command returns an [`Outcome`], which is
//! printed here and nowhere else.

mod accept;
mod answer;
mod audit;
mod audit_evidence;
mod audit_history;
mod audit_log;
mod audit_verify;
mod backup;
mod cache;
mod cat;
mod check;
mod completions;
mod config;
mod config_check;
mod confirm;
mod context;
mod copy;
mod countdown;
mod deployment;
mod diff;
mod doctor;
mod drill;
mod dump;
mod entry;
mod exclusions;
mod exit;
mod find;
mod forget;
mod given;
mod hold;
mod init;
mod k8s;
mod key;
mod ls;
mod man;
mod metrics;
mod models;
mod notify;
mod outcome;
mod output;
mod passwords;
mod progress;
mod prune;
mod repair;
mod repair_objects;
mod repair_packs;
mod repair_snapshots;
mod report;
mod restore;
mod restore_deployment;
mod restore_request;
mod restore_rest;
mod rewrite;
mod run;
mod selection;
mod sharding;
mod snapshots;
mod standing;
mod stats;
mod status;
mod stderr;
mod tag;
mod to;
mod undelete;
mod upgrade_done;
mod values;
mod version;
mod written_file;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use mlvault::environment;
use mlvault::error::{Error, Result};

use crate::cli::context::{Context, GlobalArgs};
use crate::cli::exit::Code;
use crate::cli::given::Given;
use crate::cli::outcome::Outcome;
use crate::cli::run::Run;

/// Back up a whole MLflow deployment into a deduplicated, encrypted repository, and restore it
///
/// Exit codes: 0 success, 1 failure, 2 wrong usage, 3 finished but incomplete, 10 no repository, 11 busy, 12 wrong key,
/// 130 interrupted.
#[derive(Parser)]
#[command(name = "mlvault", version = version::SHORT, long_version = version::LONG.as_str(), max_term_width = 120)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Init(init::Args),
    Key(key::Args),
    Backup(Box<backup::Args>),
    Snapshots(snapshots::Args),
    Ls(ls::Args),
    Find(find::Args),
    Diff(diff::Args),
    Cat(cat::Args),
    Dump(dump::Args),
    Restore(Box<restore::Args>),
    Rewrite(rewrite::Args),
    Forget(forget::Args),
    Undelete(undelete::Args),
    Hold(hold::Args),
    Accept(accept::Args),
    Tag(tag::Args),
    UpgradeDone(upgrade_done::Args),
    Prune(prune::Args),
    Copy(copy::Args),
    Check(check::Args),
    Repair(repair::Args),
    Stats(stats::Args),
    Status(status::Args),
    Metrics(metrics::Args),
    Report(report::Args),
    Audit(Box<audit::Args>),
    Models(models::ModelArgs),
    Runs(models::RunArgs),
    Experiments(models::ExperimentArgs),
    Doctor(doctor::Args),
    Drill(Box<drill::Args>),
    K8s(Box<k8s::Args>),
    Config(config::Args),
    Notify(notify::Args),
    Cache(cache::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Parses the arguments, runs the command, and returns its exit code.
pub fn run() -> ExitCode {
    let mut command = without_empty_variables(program());
    let parsed = command.try_get_matches_from_mut(std::env::args_os());
    let parsed = parsed.and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            return exit::report_usage(&error);
        }
    };
    cli.global.choose_log_format();
    if let Err(error) = passwords::refuse(&command, &matches) {
        return exit::report(&error).into();
    }
    let json = cli.global.json;
    if let Some(result) = cli.command.run_alone() {
        return end(&result, json, false).0.into();
    }
    let context = match Context::new(cli.global, Given::new(&command, &matches)) {
        Ok(context) => context,
        Err(error) => return exit::report(&error).into(),
    };
    context.begin(matches.subcommand_name().unwrap_or_default());
    run_around(&context, cli.command, &words(&matches)).into()
}

/// Returns the command that was called, and those below it.
fn words(matches: &clap::ArgMatches) -> Vec<&str> {
    let below = matches.subcommand().map(|(name, below)| [vec![name], words(below)].concat());
    below.unwrap_or_default()
}

/// Runs a command, with what goes on around it, and returns its exit code.
fn run_around(context: &Context, command: Command, words: &[&str]) -> Code {
    let deployment = context.given().value("deployment").filter(|_| command.may_be_of_deployment());
    let run = if command.is_heard() { Run::begin(context, words, deployment.map(str::to_owned)) } else { Ok(None) };
    let mut run = match run {
        Ok(run) => run,
        Err(error) => return exit::report(&error),
    };
    let begun = run.as_mut().map_or(Ok(()), Run::before);
    let result = begun.and_then(|()| command.run(context));
    context.settle_logs();
    context.tell_about_opened();
    context.finish();
    let (code, error) = end(&result, context.json(), context.is_in_doubt());
    if let Some(run) = run {
        run.end(result.as_ref().ok(), code, error.as_ref());
    }
    code
}

/// Prints what a command came to, and returns its exit code, and the error that was told.
fn end(result: &Result<Outcome>, json: bool, is_in_doubt: bool) -> (Code, Option<Error>) {
    let printed =
        result.as_ref().map_err(Error::clone).and_then(|outcome| output::print(outcome, json).map(|()| outcome));
    match printed {
        Ok(Outcome { error: Some(error), .. }) => (exit::report(error), Some(error.clone())),
        Ok(outcome) if outcome.code == exit::COMPLETE && is_in_doubt => (exit::INCOMPLETE, None),
        Ok(outcome) => (outcome.code, None),
        // Whoever read the output has seen enough of it.
        Err(error) if output::is_closed(&error) => (exit::COMPLETE, None),
        Err(error) => (exit::report(&error), Some(error)),
    }
}

/// An empty variable is how manifests leave one out.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |argument: &clap::Arg| argument.get_env().is_some_and(environment::is_empty);
    command
        .mut_args(|argument| if is_empty(&argument) { argument.env(None) } else { argument })
        .mut_subcommands(without_empty_variables)
}

/// Help names variables, and never shows what is in them: a database's password can be in one.
fn without_values(command: clap::Command) -> clap::Command {
    command.mut_args(|argument| argument.hide_env_values(true)).mut_subcommands(without_values)
}

/// Returns the program's arguments, for what looks at all of them.
fn program() -> clap::Command {
    without_values(Cli::command())
}

impl Command {
    /// Runs a command that needs no settings, which may be broken; returns nothing for any other one.
    fn run_alone(&self) -> Option<Result<Outcome>> {
        match self {
            Self::Completions(args) => Some(completions::run(program(), args)),
            Self::Man(args) => Some(man::run(program(), args)),
            _ => None,
        }
    }

    /// Returns whether a deployment that is named is what the command is about: the variable may be there for other runs.
    fn may_be_of_deployment(&self) -> bool {
        match self {
            Self::Backup(args) => !args.is_of_other(),
            _ => true,
        }
    }

    /// Returns whether somebody may want to hear how it ends, as far as that depends on its arguments.
    fn is_heard(&self) -> bool {
        match self {
            Self::Backup(args) => args.writes_snapshot(),
            _ => true,
        }
    }

    fn run(self, context: &Context) -> Result<Outcome> {
        match self {
            Self::Init(args) => init::run(context, args),
            Self::Key(args) => key::run(context, args),
            Self::Backup(args) => backup::run(context, *args),
            Self::Snapshots(args) => snapshots::run(context, args),
            Self::Ls(args) => ls::run(context, args),
            Self::Find(args) => find::run(context, args),
            Self::Diff(args) => diff::run(context, args),
            Self::Cat(args) => cat::run(context, args),
            Self::Dump(args) => dump::run(context, args),
            Self::Restore(args) => restore::run(context, *args),
            Self::Rewrite(args) => rewrite::run(context, &args),
            Self::Forget(args) => forget::run(context, args),
            Self::Undelete(args) => undelete::run(context, args),
            Self::Hold(args) => hold::run(context, args),
            Self::Accept(args) => accept::run(context, args),
            Self::Tag(args) => tag::run(context, args),
            Self::UpgradeDone(args) => upgrade_done::run(context, args),
            Self::Prune(args) => prune::run(context, args),
            Self::Copy(args) => copy::run(context, args),
            Self::Check(args) => check::run(context, args),
            Self::Repair(args) => repair::run(context, args),
            Self::Stats(args) => stats::run(context, args),
            Self::Status(args) => status::run(context, args),
            Self::Metrics(args) => metrics::run(context, args),
            Self::Report(args) => report::run(context, args),
            Self::Audit(args) => audit::run(context, *args),
            Self::Models(args) => models::models(context, args),
            Self::Runs(args) => models::runs(context, args),
            Self::Experiments(args) => models::experiments(context, args),
            Self::Doctor(args) => doctor::run(context, args),
            Self::Drill(args) => drill::run(context, *args),
            Self::K8s(args) => k8s::run(context, *args),
            Self::Config(args) => config::run(context, args),
            Self::Notify(args) => notify::run(context, args),
            Self::Cache(args) => cache::run(context, args),
            Self::Completions(_) | Self::Man(_) => Err(Error::Internal("The command needs no settings".to_owned())),
        }
    }
}
