//! The command line: one file per command, each with its arguments, its call into the library and its rendering.
//!
//! What must stay true: results go to standard output, everything else to standard error; with `--json`, standard
//! output is one JSON document, and standard error one JSON object per line.

mod backup;
mod cat;
mod check;
mod context;
mod copy;
mod deployment;
mod diff;
mod doctor;
mod dump;
mod entry;
mod exit;
mod find;
mod forget;
mod hold;
mod init;
mod key;
mod ls;
mod models;
mod output;
mod progress;
mod prune;
mod repair;
mod repair_packs;
mod repair_snapshots;
mod restore;
mod restore_deployment;
mod restore_rest;
mod selection;
mod snapshots;
mod stats;
mod tag;
mod to;
mod undelete;
mod upgrade_done;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cli::context::{Context, GlobalArgs};

/// Backs up a whole MLflow deployment into a deduplicating, encrypted repository, and gets it back
///
/// Exit codes: 0 complete, 1 failed, 2 usage, 3 finished but incomplete, 10 no repository, 11 busy, 12 wrong key,
/// 130 interrupted.
#[derive(Parser)]
#[command(name = "mlvault", version, max_term_width = 120)]
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
    Backup(backup::Args),
    Snapshots(snapshots::Args),
    Ls(ls::Args),
    Find(find::Args),
    Diff(diff::Args),
    Cat(cat::Args),
    Dump(dump::Args),
    Restore(restore::Args),
    Forget(forget::Args),
    Undelete(undelete::Args),
    Hold(hold::Args),
    Tag(tag::Args),
    UpgradeDone(upgrade_done::Args),
    Prune(prune::Args),
    Copy(copy::Args),
    Check(check::Args),
    Repair(repair::Args),
    Stats(stats::Args),
    Models(models::ModelArgs),
    Runs(models::RunArgs),
    Experiments(models::ExperimentArgs),
    Doctor(doctor::Args),
}

/// Parses the arguments, runs the command, and returns its exit code.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { exit::USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    let context = match Context::new(cli.global) {
        Ok(context) => context,
        Err((error, json)) => return exit::report(&error, json),
    };
    let json = context.json();
    let result = match cli.command {
        Command::Init(args) => init::run(&context, args),
        Command::Key(args) => key::run(&context, args),
        Command::Backup(args) => backup::run(&context, args),
        Command::Snapshots(args) => snapshots::run(&context, args),
        Command::Ls(args) => ls::run(&context, args),
        Command::Find(args) => find::run(&context, args),
        Command::Diff(args) => diff::run(&context, args),
        Command::Cat(args) => cat::run(&context, args),
        Command::Dump(args) => dump::run(&context, args),
        Command::Restore(args) => restore::run(&context, args),
        Command::Forget(args) => forget::run(&context, args),
        Command::Undelete(args) => undelete::run(&context, args),
        Command::Hold(args) => hold::run(&context, args),
        Command::Tag(args) => tag::run(&context, args),
        Command::UpgradeDone(args) => upgrade_done::run(&context, args),
        Command::Prune(args) => prune::run(&context, args),
        Command::Copy(args) => copy::run(&context, args),
        Command::Check(args) => check::run(&context, args),
        Command::Repair(args) => repair::run(&context, args),
        Command::Stats(args) => stats::run(&context, args),
        Command::Models(args) => models::models(&context, args),
        Command::Runs(args) => models::runs(&context, args),
        Command::Experiments(args) => models::experiments(&context, args),
        Command::Doctor(args) => doctor::run(&context, args),
    };
    context.finish();
    match result {
        Ok(code) => code.into(),
        Err(error) if output::is_closed(&error) => exit::COMPLETE.into(),
        Err(error) => exit::report(&error, json),
    }
}
