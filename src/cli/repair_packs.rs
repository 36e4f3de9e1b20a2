//! `mlvault repair packs`

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use clap::Parser;
use serde_json::json;

use mlvault::backend::location::RepositoryLocation;
use mlvault::config::credential::CredentialSource;
use mlvault::error::{Error, Result};
use mlvault::id::PackId;
use mlvault::repair::Lost;
use mlvault::repair::packs::{self, Options, Report};
use mlvault::repository::layout::Object;
use mlvault::repository::{Repository, memory_plan};
use mlvault::units::format_bytes;

use crate::cli::context::Context;
use crate::cli::{exit, output};

/// Losses that are printed one by one.
const LOSSES_PRINTED_MAX: usize = 20;

/// Save what is good in damaged packs, and get the rest from elsewhere
///
/// All packs are read, or those named. What still opens in a damaged one is stored anew; what does not is taken from other
/// repositories or a directory that have the same files. Backups rely on damaged packs no more, and store again what is
/// lost and still in the source; a prune deletes them once nothing needs them. Nothing is deleted here. Backups and
/// restores may run meanwhile. Needs a maintainer's key. Exit code 3 if something that a snapshot needs stays lost.
#[derive(Parser)]
pub struct Args {
    /// Packs, as `check` names them
    #[arg(value_name = "PACK")]
    packs: Vec<String>,
    /// Repository that may have the same files, also with other keys
    #[arg(long, value_name = "LOCATION")]
    from: Vec<String>,
    /// File that holds the key of the other repositories (default: the key of this one)
    #[arg(long, value_name = "FILE", requires = "from", conflicts_with = "from_passphrase_file")]
    from_key_file: Option<PathBuf>,
    /// File whose first line is the passphrase of the other repositories
    #[arg(long, value_name = "FILE", requires = "from")]
    from_passphrase_file: Option<PathBuf>,
    /// Directory that may have the same files under their paths; / for files where they were
    #[arg(long, value_name = "DIR")]
    source: Option<PathBuf>,
    /// Only tell what is damaged and what that costs
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<exit::Code> {
    let packs: Result<Vec<PackId>> = args.packs.iter().map(|text| parse_pack(text)).collect();
    let packs = packs?;
    let memory_limit = match args.from.len() {
        0 => context.memory_limit()?,
        others => memory_plan::limit_of_each(context.memory_limit()?, others + 1)?,
    };
    let repository = context.open_repository(memory_limit)?;
    let open = |location: &String| open_other(context, &args, location, memory_limit);
    let from = args.from.iter().map(open).collect::<Result<Vec<_>>>()?;
    let options = Options { packs, dry_run: args.dry_run, from, source: args.source };
    let report = packs::run(&repository, &options, &context.monitor(), context.cancel())?;
    context.finish();
    if context.json() {
        output::print_json(&json!({ "dry_run": args.dry_run, "report": report }))?;
    } else {
        print_report(args.dry_run, &report)?;
    }
    Ok(if report.lost_count == 0 { exit::COMPLETE } else { exit::INCOMPLETE })
}

fn parse_pack(text: &str) -> Result<PackId> {
    let named = match Object::at(text) {
        Some(Object::Pack(_, id)) => Some(id),
        _ => text.parse().ok(),
    };
    named.ok_or_else(|| Error::Invalid(format!("{text:?} is not a pack: give it as `check` names it")))
}

fn open_other(context: &Context, args: &Args, location: &str, memory_limit: u64) -> Result<Arc<Repository>> {
    let credential = match (&args.from_key_file, &args.from_passphrase_file) {
        (Some(file), _) => CredentialSource::KeyFile(file.clone()),
        (None, Some(file)) => CredentialSource::PassphraseFile(file.clone()),
        (None, None) => context.credential_source()?,
    };
    let location = RepositoryLocation::from_str(location)?;
    context.open_at(&location, &context.backend_options()?, &credential, memory_limit)
}

fn print_report(dry_run: bool, report: &Report) -> Result<()> {
    output::print_line(&format!(
        "{} packs read ({}), {} damaged",
        report.packs_read,
        format_bytes(report.bytes_read),
        report.damaged.len()
    ))?;
    for damaged in &report.damaged {
        output::print_line(&format!("  {}: {}", damaged.object, damaged.reason))?;
    }
    if dry_run {
        output::print_line("Dry run: nothing was written")?;
    } else if !report.damaged.is_empty() || report.chunks_replaced > 0 {
        output::print_line(&format!(
            "{} packs marked, {} chunks saved, {} replaced ({} written)",
            report.packs_marked,
            report.chunks_saved,
            report.chunks_replaced,
            format_bytes(report.bytes_written)
        ))?;
    }
    print_losses(&report.lost, report.lost_count)?;
    output::print_line(&match (report.lost_count, report.damaged.is_empty()) {
        (0, true) => "No pack is damaged".to_owned(),
        (0, false) => "No snapshot has lost anything; `mlvault prune` deletes damaged packs".to_owned(),
        (count, _) => format!(
            "INCOMPLETE: snapshots lack {count} files or tree nodes; a backup stores again what is still in its source, \
             and `mlvault repair snapshots` writes snapshots anew without what is lost"
        ),
    })
}

/// Prints what is lost, as far as it is not too much to read.
pub fn print_losses(lost: &[Lost], count: u64) -> Result<()> {
    for lost in lost.iter().take(LOSSES_PRINTED_MAX) {
        output::print_line(&line_of(lost))?;
    }
    match count.saturating_sub(LOSSES_PRINTED_MAX as u64) {
        0 => Ok(()),
        rest => output::print_line(&format!("  … and {rest} more, see --json")),
    }
}

/// Returns a line that names a loss.
pub fn line_of(lost: &Lost) -> String {
    let what = match lost.path {
        Some(_) => format!("{:?}", lost.shown()),
        None => format!("a part of {}", lost.shown()),
    };
    let of = if lost.of.is_empty() { String::new() } else { format!(" ({})", lost.of.join(", ")) };
    format!("  lost in {}: {what}{of}: {}", lost.snapshot.short(), lost.reason)
}
