//! `mlvault audit history`

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use clap::Parser;
use serde_json::{Value, json};

use mlvault::audit::history::{self, Change, History, ItemHistory, Subject};
use mlvault::error::{Error, Result};
use mlvault::id::SessionId;
use mlvault::trees::contents::normal_path;
use mlvault::units::{count, format_bytes};

use crate::cli::context::Context;
use crate::cli::outcome::{Outcome, Text};
use crate::cli::progress::printable;
use crate::cli::{exit, output, written_file};

/// Items that are told one by one; of more there is a table.
const TOLD_MAX: usize = 3;
/// Digits of a digest that are shown where there is little room.
const DIGEST_DIGITS: usize = 16;

/// Show in which snapshots a model, run, experiment or path is, and what of it changed when
///
/// Looks at all snapshots, also incomplete and forgotten ones, of all deployments. Reads catalogues and trees alone: no content, so
/// every key will do. Says loudly if files of a model's version are not what they were, and then ends with exit code 4.
///
/// Exit code 1 if it is in no snapshot, 3 if something could not be asked.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault audit history --model fraud --version 7
  mlvault audit history --run 0b1c2d3e4f5a6b7c8d9e0f1a2b3c4d5e --html run.html")]
pub struct Args {
    /// Follow a registered model, with all its versions
    #[arg(long, value_name = "NAME", required_unless_present_any = ["run", "experiment", "path"])]
    model: Option<String>,
    /// Follow only this version of the model, by its number, with its run and each of its files
    #[arg(long, value_name = "NUMBER", requires = "model")]
    version: Option<i64>,
    /// Follow a run (id), with each of its files
    #[arg(long, value_name = "ID", conflicts_with_all = ["model", "experiment", "path"])]
    run: Option<String>,
    /// Follow an experiment (name or id)
    #[arg(long, value_name = "NAME", conflicts_with_all = ["model", "path"])]
    experiment: Option<String>,
    /// Follow a path, and what is below it
    #[arg(long, conflicts_with = "model")]
    path: Option<OsString>,
    /// Look only at the snapshots of this deployment
    #[arg(long, env = "MLVAULT_DEPLOYMENT", value_name = "NAME")]
    deployment: Option<String>,
    /// Write the answer as a page with a timeline too, which needs nothing from elsewhere
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl Args {
    fn subject(&self) -> Result<Subject> {
        let Self { model, version, run, experiment, path, .. } = self;
        match (model, run, experiment, path) {
            (Some(name), ..) => Ok(Subject::Model { name: name.clone(), version: *version }),
            (_, Some(id), ..) => Ok(Subject::Run(id.clone())),
            (_, _, Some(name), _) => Ok(Subject::Experiment(name.clone())),
            (_, _, _, Some(path)) => Ok(Subject::Path(normal_path(&path.clone().into_vec()).to_vec())),
            _ => Err(Error::Invalid("Name a model, a run, an experiment or a path".to_owned())),
        }
    }
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    let subject = args.subject()?;
    let repository = context.repository()?;
    let history = history::run(&repository, &subject, args.deployment.as_deref(), &context.hears())?;
    if history.items.is_empty() && !history.has_gaps() {
        return Err(Error::NotFound(format!("No snapshot has the {subject}")));
    }
    if let Some(file) = &args.html {
        let page = history::html(&history, &repository.backend().location());
        written_file::replace(file, page.as_bytes())?;
    }
    let code = match (history.is_altered(), history.has_gaps()) {
        (true, _) => exit::ALTERED,
        (false, true) => exit::INCOMPLETE,
        (false, false) => exit::COMPLETE,
    };
    let mut document = json!(history);
    document["is_altered"] = Value::from(history.is_altered());
    document["html"] = json!(args.html);
    Ok(Outcome::new(code, document, text(&history)))
}

fn text(history: &History) -> Text {
    let mut text = Text::default();
    text.extend(loud(history));
    text.extend(gaps(history));
    match history.items.len() <= TOLD_MAX {
        true => history.items.iter().for_each(|item| text.extend(told(history, item))),
        false => {
            text.extend(Text::from(overview(history)));
            text.extend(
                history
                    .items
                    .iter()
                    .flat_map(|item| item.changes.iter().map(|change| change_line(history, item, change))),
            );
        }
    }
    text
}

/// What nobody may overlook.
fn loud(history: &History) -> Vec<String> {
    let altered = |item: &ItemHistory| {
        let changes = item.changes.iter().filter(|change| change.alters);
        changes.map(|change| format!("CONTENT CHANGED: {}", change_line(history, item, change))).collect::<Vec<_>>()
    };
    history.items.iter().flat_map(altered).collect()
}

fn gaps(history: &History) -> Vec<String> {
    let asked = history.snapshots.iter().filter_map(|look| {
        Some(format!("NOT ASKED: {}: {}", when(history, &look.id), printable(look.unreadable.as_ref()?)))
    });
    let mut lines: Vec<String> = asked.collect();
    lines.extend(history.unreadable.iter().map(|line| format!("UNREADABLE: {}", printable(line))));
    if history.unreadable_nodes > 0 {
        lines.push(format!("UNREADABLE: {} of trees", count(history.unreadable_nodes, "node")));
    }
    lines.extend(history.vanished.iter().map(|gone| format!("GONE: {}, which nobody has forgotten", gone.snapshot)));
    if !history.removed.is_empty() {
        let removed = count(history.removed.len(), "snapshot");
        lines.push(format!("Forgotten and removed, so that nobody can tell whether they had it: {removed}"));
    }
    lines
}

fn when(history: &History, id: &SessionId) -> String {
    let look = history.snapshot(id);
    let made = look.map(|look| output::format_word(&look.made, look.time_doubtful)).unwrap_or_default();
    let state = match look {
        Some(look) if look.forgotten.is_some() => ", forgotten",
        Some(look) if !look.is_complete => ", incomplete",
        _ => "",
    };
    format!("{made} ({}{state})", id.short())
}

fn seen(history: &History, item: &ItemHistory) -> [String; 2] {
    [item.snapshots.first(), item.snapshots.last()].map(|id| id.map_or_else(String::new, |id| when(history, id)))
}

fn told(history: &History, item: &ItemHistory) -> Vec<String> {
    let [first, last] = seen(history, item);
    let absent =
        if item.absent.is_empty() { String::new() } else { format!("; not in {} after the first", item.absent.len()) };
    let mut lines = vec![
        format!("{} {} of {}", item.kind.name(), printable(&item.id), printable(&item.source)),
        format!("  First seen: {first}"),
        format!("  Last seen:  {last}, in {} in all{absent}", count(item.snapshots.len(), "snapshot")),
    ];
    lines.extend(item.facts.iter().map(|(what, is)| format!("  {} = {}", printable(what), value(is))));
    for file in &item.files {
        let version = file.versions.last();
        let digest = version.and_then(|version| version.digest).map_or_else(String::new, |digest| digest.to_string());
        let bytes = version.map_or_else(String::new, |version| format_bytes(version.bytes));
        lines.push(format!("  File {}  {bytes}  {digest}", printable(&file.path)));
    }
    match item.changes.is_empty() {
        true => lines.push("  Nothing of it has changed".to_owned()),
        false => lines.push("  Changes:".to_owned()),
    }
    lines.extend(item.changes.iter().map(|change| format!("    {}", change_line(history, item, change))));
    lines
}

fn overview(history: &History) -> Vec<Vec<String>> {
    let mut rows = vec![["KIND", "ID", "SOURCE", "FIRST", "LAST", "SNAPSHOTS", "DIGEST"].map(str::to_owned).to_vec()];
    for item in &history.items {
        let day = |id: Option<&SessionId>| {
            let look = id.and_then(|id| history.snapshot(id));
            look.map_or_else(String::new, |look| look.made.strftime("%F").to_string())
        };
        let digest = item.facts.get(history::FILES_DIGEST).and_then(Value::as_str).unwrap_or_default();
        rows.push(vec![
            item.kind.name().to_owned(),
            printable(&item.id),
            printable(&item.source),
            day(item.snapshots.first()),
            day(item.snapshots.last()),
            item.snapshots.len().to_string(),
            digest.chars().take(DIGEST_DIGITS).collect(),
        ]);
    }
    rows
}

fn change_line(history: &History, item: &ItemHistory, change: &Change) -> String {
    format!(
        "{}  {}  {}: {} -> {}",
        when(history, &change.snapshot),
        printable(&item.id),
        printable(&change.what),
        value(&change.old),
        value(&change.new)
    )
}

fn value(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::String(text) => printable(text),
        Value::Array(values) => values.iter().map(self::value).collect::<Vec<_>>().join(", "),
        other => printable(&other.to_string()),
    }
}
