//! `mlvault ls`

use std::ffi::OsString;

use clap::Parser;
use serde_json::{Value, json};

use mlvault::error::Result;
use mlvault::format::tree::Entry;
use mlvault::list::{self, ListOptions};

use crate::cli::answer::Answer;
use crate::cli::context::Context;
use crate::cli::entry::{Shown, path_text, put_bytes};
use crate::cli::exit;
use crate::cli::outcome::Outcome;
use crate::cli::output::Listing;
use crate::cli::selection::{Named, SourceArgs};

/// List the files of a snapshot
///
/// Each line shows type and mode, size, modification time (UTC) and path. Without --recursive, only what is directly in
/// the directory is listed.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault ls latest
  mlvault ls -R --long latest artifacts")]
pub struct Args {
    /// Snapshot: an id, latest, latest~2, a day (2026-11-21, in UTC) or a time (2026-11-21T03:00Z)
    snapshot: String,
    /// Directory or file in the snapshot; SNAPSHOT:PATH names it, too [default: the top level]
    path: Option<OsString>,
    /// List subdirectories too
    #[arg(long, short = 'R')]
    recursive: bool,
    /// Show owner, group and exact size too
    #[arg(long, short)]
    long: bool,
    /// Show the BLAKE3 digest of every file, in the form that `b3sum` prints
    #[arg(long)]
    digest: bool,
    #[command(flatten)]
    source: SourceArgs,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    let named = Named::new(&args.snapshot, args.path)?;
    let repository = context.repository()?;
    let Answer { snapshot, about } = context.find_snapshot(&repository, &named.snapshot, &args.source.scope())?;
    context.monitor().note(&about.line());
    let options = ListOptions { path: named.path.unwrap_or_default(), recursive: args.recursive };
    let mut listing = Listing::begin(context.json(), &json!({ "snapshot": snapshot.id, "about": about }), "entries")?;
    let mut show = |path: &[u8], entry: &Entry| {
        listing.item(|| line(path, entry, args.long, args.digest), || entry_json(path, entry))
    };
    list::run(&repository, &snapshot, &options, &mut show, &context.hears())?;
    let summary = json!({ "snapshot": snapshot.id, "entries": listing.items() });
    listing.finish("", &json!({}))?;
    Ok(Outcome::written(exit::COMPLETE, summary))
}

fn line(path: &[u8], entry: &Entry, is_long: bool, with_digest: bool) -> String {
    let shown = Shown::from(entry);
    let digest = match (with_digest, shown.digest()) {
        (false, _) => String::new(),
        (true, Some(digest)) => format!("{digest}  "),
        (true, None) => format!("{:66}", ""),
    };
    format!("{}  {digest}{}{}", shown.columns(is_long), path_text(path), shown.arrow())
}

fn entry_json(path: &[u8], entry: &Entry) -> Value {
    let mut object = serde_json::Map::new();
    put_bytes(&mut object, "path", path);
    object.extend(Shown::from(entry).json());
    Value::Object(object)
}
