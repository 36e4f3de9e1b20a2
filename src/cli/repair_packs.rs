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
use mlvault::procedures::repair_packs::RepositoryWithHelpers;
use mlvault::repair::Lost;
use mlvault::repair::packs::{RepairPacksOptions, RepairPacksReport};
use mlvault::repository::Repository;
use mlvault::repository::layout::Object;
use mlvault::units::{count, format_bytes};

use crate::cli::context::{Context, Place, stated_pins};
use crate::cli::exit;
use crate::cli::outcome::Outcome;

/// Losses that are printed one by one.
const LOSSES_PRINTED_MAX: usize = 20;

/// Recover the content of damaged packs
///
/// Reads all packs, or those that you name. Chunks of a damaged pack that can still be read are stored again. The others
/// are taken from a copy of the repository (--from) or from the original files (--source), if you give one. Later backups
/// store lost chunks again if the source still has the files. Nothing is deleted: `mlvault prune` deletes damaged packs
/// once no snapshot needs them. Backups and restores can run at the same time. Needs a maintainer key.
///
/// Exit code 3 if something that a snapshot needs is still lost.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault repair packs --dry-run
  mlvault repair packs --from s3://offsite/mlflow --source /")]
pub struct Args {
    /// Packs to repair, as `mlvault check` names them [default: all]
    #[arg(value_name = "PACK")]
    packs: Vec<String>,
    /// Another repository that may hold the same files; its keys can be different; can be given several times
    #[arg(long, value_name = "LOCATION")]
    from: Vec<String>,
    /// File that holds the key of the other repositories [default: the key of this one]
    #[arg(long, value_name = "FILE", requires = "from", conflicts_with = "from_passphrase_file")]
    from_key_file: Option<PathBuf>,
    /// File whose first line is the passphrase of the other repositories
    #[arg(long, value_name = "FILE", requires = "from")]
    from_passphrase_file: Option<PathBuf>,
    /// Pins of the other repositories, one for each --from and in the same order: refuse any others
    #[arg(long, value_name = "PIN", requires = "from")]
    from_pin: Vec<String>,
    /// Directory that may hold the same files under the same paths; use / for the original location
    #[arg(long, value_name = "DIR")]
    source: Option<PathBuf>,
    /// Show what is damaged and lost; write nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    let packs: Result<Vec<PackId>> = args.packs.iter().map(|text| parse_pack(text)).collect();
    let packs = packs?;
    let helpers = helpers(&args)?;
    let repository = RepositoryWithHelpers::open(
        context.memory_limit()?,
        |memory_limit| context.open_repository(memory_limit),
        &helpers,
        |helper, memory_limit| open_other(context, &args, helper, memory_limit),
    )?;
    let dry_run = args.dry_run;
    let options = RepairPacksOptions { packs, dry_run, source: args.source, ..RepairPacksOptions::default() };
    let report = repository.repair(options, &context.hears())?;
    let code = if report.lost_count == 0 { exit::COMPLETE } else { exit::INCOMPLETE };
    Ok(Outcome::new(code, json!({ "dry_run": dry_run, "report": report }), lines(dry_run, &report)))
}

fn parse_pack(text: &str) -> Result<PackId> {
    let named = match Object::at(text) {
        Some(Object::Pack(_, id)) => Some(id),
        _ => text.parse().ok(),
    };
    named.ok_or_else(|| Error::Invalid(format!("{text:?} is not the name of a pack as `mlvault check` prints it")))
}

/// Another repository that may still have what is lost.
struct Helper<'a> {
    location: &'a str,
    pin: Option<String>,
}

fn helpers(args: &Args) -> Result<Vec<Helper<'_>>> {
    if !args.from_pin.is_empty() && args.from_pin.len() != args.from.len() {
        return Err(Error::Invalid("Give one --from-pin for each --from, or none".to_owned()));
    }
    let pins = args.from_pin.iter().cloned().map(Some).chain(std::iter::repeat(None));
    Ok(args.from.iter().zip(pins).map(|(location, pin)| Helper { location, pin }).collect())
}

fn open_other(context: &Context, args: &Args, helper: &Helper<'_>, memory_limit: u64) -> Result<Arc<Repository>> {
    let credential = match (&args.from_key_file, &args.from_passphrase_file) {
        (Some(file), _) => CredentialSource::KeyFile(file.clone()),
        (None, Some(file)) => CredentialSource::PassphraseFile(file.clone()),
        (None, None) => context.credential_source()?,
    };
    let place = Place {
        location: RepositoryLocation::from_str(helper.location)?,
        s3: context.backend_options()?,
        credential,
        pins: stated_pins(&helper.pin, "--from-pin", &None, "")?,
    };
    context.open_at(&place, memory_limit)
}

fn lines(dry_run: bool, report: &RepairPacksReport) -> Vec<String> {
    let (packs, bytes) = (count(report.packs_read, "pack"), format_bytes(report.bytes_read));
    let mut lines = vec![format!("{packs} read ({bytes}), {} damaged", report.damaged.len())];
    lines.extend(report.damaged.iter().map(|damaged| format!("  {}: {}", damaged.object, damaged.reason)));
    if dry_run {
        lines.push("Dry run: nothing was written".to_owned());
    } else if !report.damaged.is_empty() || report.chunks_replaced > 0 {
        lines.push(format!(
            "{} marked, {} saved, {} replaced ({} written)",
            count(report.packs_marked, "pack"),
            count(report.chunks_saved, "chunk"),
            report.chunks_replaced,
            format_bytes(report.bytes_written)
        ));
    }
    lines.extend(loss_lines(&report.lost, report.lost_count));
    lines.push(match (report.lost_count, report.damaged.is_empty()) {
        (0, true) => "No pack is damaged".to_owned(),
        (0, false) => "No snapshot has lost anything; `mlvault prune` deletes the damaged packs".to_owned(),
        (lost, _) => format!(
            "INCOMPLETE: snapshots lack {}. Back up again what the source still has, then run `mlvault repair snapshots`",
            count(lost, "item")
        ),
    });
    lines
}

/// Returns what is lost, as far as it is not too much to read.
pub fn loss_lines(lost: &[Lost], all: u64) -> Vec<String> {
    let mut lines: Vec<String> = lost.iter().take(LOSSES_PRINTED_MAX).map(line_of).collect();
    let rest = all.saturating_sub(LOSSES_PRINTED_MAX as u64);
    if rest > 0 {
        lines.push(format!("  … and {rest} more, see --json"));
    }
    lines
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
