//! `mlvault find`

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use clap::Parser;
use serde_json::{Map, Value, json};

use mlvault::error::{Error, Result};
use mlvault::find::{self, FoundEntry, Query, Version};
use mlvault::id::Digest;
use mlvault::repository::Repository;
use mlvault::repository::objects::Unreadable;
use mlvault::repository::snapshots::Snapshot;

use crate::cli::context::Context;
use crate::cli::entry::{Shown, path_text, put_bytes};
use crate::cli::exit;
use crate::cli::outcome::Outcome;
use crate::cli::output::Listing;
use crate::cli::selection::SourceArgs;

/// Find files in all snapshots, and list their versions
///
/// A pattern without `/` matches file names; a pattern with `/` matches whole paths (`*` does not cross directories, `**`
/// does). Exit code 1 if nothing was found, 3 if a part of the repository could not be searched.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault find '*.pkl'
  mlvault find --path artifacts 'models/**/MLmodel'")]
pub struct Args {
    /// Glob patterns; a file is listed if one of them matches
    #[arg(required_unless_present = "digests", value_name = "PATTERN")]
    patterns: Vec<String>,
    /// Find files with this BLAKE3 digest, in the form that `b3sum` prints; can be given several times
    #[arg(long = "digest", value_name = "HEX")]
    digests: Vec<String>,
    /// Search only this snapshot (an id, latest, latest~2, a day or a time); can be given several times
    #[arg(long = "snapshot", value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    /// Search only this path and what is below it
    #[arg(long)]
    path: Option<OsString>,
    #[command(flatten)]
    source: SourceArgs,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    let parse =
        |text: &String| text.parse::<Digest>().map_err(|error| Error::Invalid(format!("Invalid digest: {error}")));
    let query = Query {
        digests: args.digests.iter().map(parse).collect::<Result<_>>()?,
        patterns: args.patterns,
        path: args.path.map(OsString::into_vec).unwrap_or_default(),
    };
    let repository = context.repository()?;
    let (snapshots, damaged) = choose(context, &repository, &args.snapshots, &args.source)?;
    let monitor = context.monitor();
    for line in damaged.lines() {
        monitor.problem("snapshots", &line);
    }
    let mut listing = Listing::begin(context.json(), &json!({}), "found")?;
    let mut show = |found| listing.item(|| text(&found, &snapshots), || found_json(&found, &snapshots));
    let unreadable = find::run(&repository, &snapshots, &query, &mut show, &context.hears())?;
    let count = listing.items();
    listing.finish("", &json!({ "unreadable_nodes": unreadable }))?;
    let code = match (unreadable + damaged.count(), count) {
        (0, 0) => exit::FAILED,
        (0, _) => exit::COMPLETE,
        _ => exit::INCOMPLETE,
    };
    Ok(Outcome::written(code, json!({ "found": count, "unreadable_nodes": unreadable })))
}

/// Returns the snapshots named, or all, by time, and what could not be read.
fn choose(
    context: &Context,
    repository: &Repository,
    names: &[String],
    source: &SourceArgs,
) -> Result<(Vec<Snapshot>, Unreadable)> {
    if names.is_empty() {
        let list = repository.list_snapshots()?;
        let unreadable = list.unreadable();
        return Ok((list.snapshots, unreadable));
    }
    let mut chosen = names
        .iter()
        .map(|name| Ok(context.find_snapshot(repository, name, &source.scope())?.snapshot))
        .collect::<Result<Vec<_>>>()?;
    chosen.sort_by_key(Snapshot::order);
    chosen.dedup_by_key(|snapshot| snapshot.id);
    Ok((chosen, Unreadable::default()))
}

fn text(found: &FoundEntry, snapshots: &[Snapshot]) -> String {
    let mut text = path_text(&found.path);
    for version in &found.versions {
        let shown = Shown::from(&version.entry);
        let digest = shown.digest().map_or(String::new(), |digest| format!("  {digest}"));
        text.push_str(&format!(
            "\n  {:>10}  {}{digest}{}  {}",
            shown.size_text().unwrap_or_else(|| shown.kind_name().to_owned()),
            shown.time_text(),
            shown.arrow(),
            range_text(version, snapshots)
        ));
    }
    text
}

/// Names the first and last snapshot of a version, and how many there are.
fn range_text(version: &Version, snapshots: &[Snapshot]) -> String {
    let name = |number: Option<&usize>| {
        let snapshot = number.and_then(|number| snapshots.get(*number));
        snapshot.map_or(String::new(), |snapshot| {
            format!("{} ({})", snapshot.id.short(), snapshot.record.started.strftime("%F %R"))
        })
    };
    match version.snapshots.as_slice() {
        [only] => format!("in {}", name(Some(only))),
        all => format!("in {} snapshots, {} … {}", all.len(), name(all.first()), name(all.last())),
    }
}

fn found_json(found: &FoundEntry, snapshots: &[Snapshot]) -> Value {
    let mut object = Map::new();
    put_bytes(&mut object, "path", &found.path);
    let versions = found.versions.iter().map(|version| {
        let mut object = Shown::from(&version.entry).json();
        let ids: Vec<_> =
            version.snapshots.iter().filter_map(|number| snapshots.get(*number)).map(|snapshot| snapshot.id).collect();
        object.insert("first".to_owned(), json!(ids.first()));
        object.insert("last".to_owned(), json!(ids.last()));
        object.insert("snapshots".to_owned(), json!(ids));
        Value::Object(object)
    });
    object.insert("versions".to_owned(), versions.collect());
    Value::Object(object)
}
