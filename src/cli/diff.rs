//! `mlvault diff`

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;
use serde_json::{Map, Value, json};

use mlvault::diff::mlflow::{How, MlflowChange, Subject};
use mlvault::diff::{self, Change, ChangeKind, DiffOptions, DiffSummary, Restored};
use mlvault::error::{Error, Result};
use mlvault::repository::snapshots::Snapshot;
use mlvault::units::format_bytes;

use crate::cli::answer::Answer;
use crate::cli::context::Context;
use crate::cli::entry::{Shown, path_text, put_bytes, xattr_json};
use crate::cli::exit;
use crate::cli::outcome::Outcome;
use crate::cli::output::Listing;
use crate::cli::progress::printable;
use crate::cli::selection::{Named, SourceArgs};

/// Compare two snapshots, or a snapshot with a directory
///
/// Prints one line per difference: + added, - removed, M content changed, U only metadata changed, T type changed.
///
/// With --dir, every file is compared with the digest in the snapshot, which proves that a restore is right. The key need
/// not be able to read content.
///
/// For two snapshots of an MLflow deployment, the command also lists changes of experiments, runs, models, versions and
/// aliases, and artifacts that were overwritten in place.
///
/// Exit code 0 if nothing differs, 1 if something differs, 3 if something could not be compared.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault diff latest~1 latest
  mlvault diff latest~1:models latest
  mlvault diff latest --dir /srv/restored")]
pub struct Args {
    /// The older snapshot: an id, latest, latest~2, a day (2026-11-21, in UTC) or a time (2026-11-21T03:00Z)
    old: String,
    /// The newer snapshot
    #[arg(required_unless_present = "dir")]
    new: Option<String>,
    /// Compare with this directory, as if the snapshot had been restored into it
    #[arg(long, value_name = "DIR", conflicts_with = "new")]
    dir: Option<PathBuf>,
    /// Compare only this path and what is below it; OLD:PATH names it, too
    #[arg(long)]
    path: Option<OsString>,
    /// Also show entries that differ only in mode, owner, group, modification time or, where both sides
    /// know them, extended attributes
    #[arg(long)]
    metadata: bool,
    #[command(flatten)]
    source: SourceArgs,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    let repository = context.repository()?;
    let scope = args.source.scope();
    let old = Named::new(&args.old, args.path.clone())?;
    let new = args.new.as_deref().map(|new| Named::new(new, None)).transpose()?;
    let path = common_path(&old, new.as_ref(), args.dir.is_some())?;
    let find = |name: &str| {
        let Answer { snapshot, about } = context.find_snapshot(&repository, name, &scope)?;
        context.monitor().note(&about.line());
        Ok::<_, Error>(snapshot)
    };
    let old = find(&old.snapshot)?;
    let options = DiffOptions { path, metadata: args.metadata };
    let hears = context.hears();
    let (mut listing, summary);
    let mut mlflow = None;
    match (&new, &args.dir) {
        (None, Some(directory)) => {
            let head = json!({ "old": old.id, "directory": directory.to_string_lossy() });
            listing = Listing::begin(context.json(), &head, "changes")?;
            let mut visit = |change: Change| show(&mut listing, &change);
            summary =
                diff::directory(&repository, Restored { snapshot: &old, directory }, &options, &mut visit, &hears)?;
        }
        (new, _) => {
            let new = find(new.as_ref().map_or("", |new| &new.snapshot))?;
            let head = json!({ "old": old.id, "new": new.id });
            listing = Listing::begin(context.json(), &head, "changes")?;
            let mut visit = |change: Change| show(&mut listing, &change);
            summary = diff::snapshots(&repository, [&old, &new], &options, &mut visit, &hears)?;
            let has_catalogue = |snapshot: &Snapshot| {
                snapshot.record.deployment.as_ref().is_some_and(|deployment| !deployment.databases.is_empty())
            };
            if has_catalogue(&old) && has_catalogue(&new) && options.path.is_empty() {
                mlflow = Some(diff::mlflow::compare(&repository, [&old, &new], &hears)?);
            }
        }
    }
    context.finish();
    let text = mlflow.as_deref().map(mlflow_text).unwrap_or_default() + &summary_text(&summary);
    let tail = match &mlflow {
        Some(changes) => json!({ "mlflow": changes, "summary": summary }),
        None => json!({ "summary": summary }),
    };
    listing.finish(&text, &tail)?;
    let code = match (summary.problems, summary.is_equal()) {
        (1.., _) => exit::INCOMPLETE,
        (0, true) => exit::COMPLETE,
        (0, false) => exit::DIFFERENT,
    };
    Ok(Outcome::written(code, tail))
}

/// Returns the path that is compared. With SNAPSHOT:PATH a restore puts what is below the path right into its target, which no
/// comparison with a directory follows.
fn common_path(old: &Named, new: Option<&Named>, with_directory: bool) -> Result<Vec<u8>> {
    let refused = |reason: &str| Err(Error::Invalid(reason.to_owned()));
    let of_new = new.and_then(|new| new.path.as_ref());
    match (&old.path, of_new) {
        _ if old.is_joined && with_directory => refused("With --dir, give the path with --path"),
        (Some(old), Some(new)) if old != new => refused("Two snapshots are compared at the same path: give it once"),
        (old, new) => Ok(old.as_ref().or(new).cloned().unwrap_or_default()),
    }
}

/// What happened in MLflow, a line each, ending in a line break.
fn mlflow_text(changes: &[MlflowChange]) -> String {
    if changes.is_empty() {
        return "MLflow: nothing changed\n".to_owned();
    }
    let mut text = String::from("MLflow:\n");
    for change in changes {
        let subject = match change.subject {
            Subject::Experiment => "experiment",
            Subject::Run => "run",
            Subject::LoggedModel => "logged model",
            Subject::RegisteredModel => "registered model",
            Subject::ModelVersion => "version",
            Subject::Alias => "alias",
            Subject::Artifact => "file",
        };
        let how = match change.how {
            How::Added => "added",
            How::Removed => "gone",
            How::Deleted => "deleted",
            How::Restored => "restored",
            How::Renamed => "renamed",
            How::Moved => "moved",
            How::Changed => "changed",
            How::Overwritten => "overwritten in place",
        };
        let facts = match (&change.old, &change.new) {
            (Some(old), Some(new)) => format!(": {} to {}", printable(old), printable(new)),
            (Some(one), None) | (None, Some(one)) => format!(" ({})", printable(one)),
            (None, None) => String::new(),
        };
        text.push_str(&format!("  {subject} {} {how}{facts}\n", printable(&change.id)));
    }
    text
}

fn show(listing: &mut Listing, change: &Change) -> Result<()> {
    listing.item(|| line(change), || change_json(change))
}

fn line(change: &Change) -> String {
    let mark = match change.kind {
        ChangeKind::Added => '+',
        ChangeKind::Removed => '-',
        ChangeKind::Modified => 'M',
        ChangeKind::Metadata => 'U',
        ChangeKind::Type => 'T',
    };
    let [old, new] = [&change.old, &change.new].map(|side| side.as_ref().map(Shown::from));
    let describe = |shown: &Shown<'_>| shown.size_text().unwrap_or_else(|| shown.kind_name().to_owned());
    let facts = match (change.kind, old, new) {
        (ChangeKind::Metadata, ..) => {
            let names: Vec<String> = change.xattrs().iter().map(|name| path_text(name)).collect();
            if names.is_empty() { String::new() } else { format!("  ({})", names.join(", ")) }
        }
        (_, Some(old), Some(new)) => format!("  ({} to {})", describe(&old), describe(&new)),
        (_, old, new) => {
            old.or(new).and_then(|one| one.size_text()).map_or(String::new(), |size| format!("  ({size})"))
        }
    };
    format!("{mark} {}{facts}", path_text(&change.path))
}

fn change_json(change: &Change) -> Value {
    let mut object = Map::new();
    object.insert("change".to_owned(), json!(change.kind));
    put_bytes(&mut object, "path", &change.path);
    let xattrs = change.xattrs();
    if !xattrs.is_empty() {
        let list = xattrs.iter().map(|name| xattr_json(name, None));
        object.insert("xattrs".to_owned(), list.collect());
    }
    for (key, side) in [("old", &change.old), ("new", &change.new)] {
        if let Some(side) = side {
            object.insert(key.to_owned(), Shown::from(side).json().into());
        }
    }
    Value::Object(object)
}

fn summary_text(summary: &DiffSummary) -> String {
    let mut text = if summary.is_equal() {
        "No differences".to_owned()
    } else {
        format!(
            "{} added, {} removed, {} modified, {} of another type, {} with other metadata; {} new, {} gone",
            summary.added,
            summary.removed,
            summary.modified,
            summary.types,
            summary.metadata,
            format_bytes(summary.bytes_new),
            format_bytes(summary.bytes_old)
        )
    };
    if summary.problems > 0 {
        text.push_str(&format!("\nINCOMPLETE: {} could not be compared", summary.problems));
    }
    text
}
