//! What the catalogue of one snapshot says of the items that are asked for.
//!
//! What must stay true: every column of a row is a fact, whatever version of MLflow wrote it, but for those that name the item
//! and those that only say that something has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use crate::audit::history::{Change, Item, ItemKind};
use crate::catalogue::rows::{Catalogues, Row, Wanted};
use crate::error::{Error, Result};
use crate::mlflow::catalogue::REFERENCES;
use crate::mlflow::names::file;
use crate::repository::snapshots::Snapshot;

/// The fact that lists the aliases of a version.
pub const ALIASES: &str = "aliases";
/// The fact that says where files are in the snapshot.
pub const FILES_PATH: &str = "files.path";
/// The fact that is a digest over all files.
pub const FILES_DIGEST: &str = "files.digest";
/// The fact that says whether the files are all there.
pub const FILES_STATE: &str = "files.state";
/// The fact that names the run of a version.
pub const RUN: &str = "run_id";
/// The fact that is the stage of a version.
pub const STAGE: &str = "stage";
/// When an item was made: what tells it from another one of the same name.
const BORN: &str = "creation_time";
/// The column that changes whenever another one does.
const UPDATED: &str = "last_update_time";

/// What is known of an item.
pub type Facts = BTreeMap<String, Json>;

/// What one snapshot says, item by item.
pub(super) type Sight = BTreeMap<Item, Seen>;

/// What a row says of its item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    /// That it is there, and what it is.
    Itself,
    /// A pair, under this word.
    Pair(&'static str),
    /// An alias.
    Alias,
    /// Where its files are.
    Files,
}

/// What one snapshot says of one item. Rows are shared with other snapshots that have them from the same chunk.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    rows: Vec<(Says, Row)>,
}

impl PartialEq for Seen {
    fn eq(&self, other: &Self) -> bool {
        let is_same = |(a, b): (&(Says, Row), &(Says, Row))| a.0 == b.0 && (Arc::ptr_eq(&a.1, &b.1) || a.1 == b.1);
        self.rows.len() == other.rows.len() && self.rows.iter().zip(&other.rows).all(is_same)
    }
}

impl Seen {
    fn own_row(&self) -> Option<&Row> {
        self.rows.iter().find(|(says, _)| *says == Says::Itself).map(|(_, row)| row)
    }

    /// Returns when the item was made, in milliseconds since 1970, as its own row says.
    pub(super) fn born(&self) -> Option<i64> {
        self.own_row()?.get(BORN)?.as_i64()
    }

    /// Returns all that is said.
    pub(super) fn facts(&self) -> Facts {
        let mut facts = Facts::new();
        for (says, row) in &self.rows {
            match says {
                Says::Itself => facts.extend(columns(row)),
                Says::Pair(word) => drop(facts.insert(format!("{word}.{}", text(row, "key")), pair_value(row))),
                Says::Alias => add_alias(&mut facts, text(row, "alias")),
                Says::Files => facts.extend(file_facts(row)),
            }
        }
        facts
    }
}

fn columns(row: &Row) -> impl Iterator<Item = (String, Json)> {
    row.iter().filter(|(key, _)| *key != UPDATED).map(|(key, value)| (key.clone(), value.clone()))
}

fn pair_value(row: &Row) -> Json {
    // MLflow keeps 0 for a metric that is not a number, and says so beside it.
    let is_nan = matches!(text(row, "is_nan"), "1" | "t" | "true");
    if is_nan { Json::from("NaN") } else { row.get("value").cloned().unwrap_or_default() }
}

fn add_alias(facts: &mut Facts, alias: &str) {
    if let Json::Array(aliases) = facts.entry(ALIASES.to_owned()).or_insert_with(|| Json::Array(Vec::new())) {
        aliases.push(Json::from(alias));
    }
}

fn file_facts(row: &Row) -> Facts {
    let names = [("files", "files.count"), ("bytes", "files.bytes"), ("digest", FILES_DIGEST), ("state", FILES_STATE)];
    let names = names.into_iter().chain([("uri", "files.uri")]);
    let mut facts: Facts = names.filter_map(|(key, fact)| Some((fact.to_owned(), row.get(key)?.clone()))).collect();
    if row.contains_key("component") {
        let path = format!("{}/{}", text(row, "component"), text(row, "path"));
        facts.insert(FILES_PATH.to_owned(), Json::from(path.trim_end_matches('/')));
    }
    facts
}

fn text<'r>(row: &'r Map<String, Json>, key: &str) -> &'r str {
    row.get(key).and_then(Json::as_str).unwrap_or_default()
}

/// Returns what differs, fact by fact. The snapshot is for the caller to set.
pub(super) fn changes(old: &Facts, new: &Facts) -> Vec<Change> {
    let value = |facts: &Facts, what: &str| facts.get(what).cloned().unwrap_or_default();
    let mut whats: Vec<&String> = old.keys().chain(new.keys()).collect();
    whats.sort_unstable();
    whats.dedup();
    let change = |what: &&String| Change {
        what: (*what).clone(),
        old: value(old, what),
        new: value(new, what),
        ..Change::default()
    };
    whats.iter().map(change).filter(|change| change.old != change.new).collect()
}

fn experiment_of(row: &Map<String, Json>) -> Option<Item> {
    Some(Item { kind: ItemKind::Experiment, id: text(row, "experiment_id").to_owned(), version: None })
}

fn run_of(row: &Map<String, Json>) -> Option<Item> {
    Some(Item { kind: ItemKind::Run, id: text(row, "run_id").to_owned(), version: None })
}

fn model_of(row: &Map<String, Json>) -> Option<Item> {
    Some(Item { kind: ItemKind::Model, id: text(row, "name").to_owned(), version: None })
}

fn version_of(row: &Map<String, Json>) -> Option<Item> {
    let version = row.get("version").and_then(Json::as_i64);
    Some(Item { kind: ItemKind::Version, id: text(row, "name").to_owned(), version })
}

fn owner_of_files(row: &Map<String, Json>) -> Option<Item> {
    let id = text(row, "id");
    match text(row, "kind") {
        "run" => Some(Item { kind: ItemKind::Run, id: id.to_owned(), version: None }),
        "model_version" => {
            let (name, version) = id.rsplit_once('/')?;
            Some(Item { kind: ItemKind::Version, id: name.to_owned(), version: Some(version.parse().ok()?) })
        }
        _ => None,
    }
}

type ItemOf = fn(&Map<String, Json>) -> Option<Item>;

/// A file of the catalogue, and what is wanted of it.
struct Table<'a> {
    wanted: Wanted<'a>,
    says: Says,
    item: ItemOf,
}

/// What is asked of all catalogues.
pub(super) struct Question<'a> {
    tables: Vec<Table<'a>>,
}

impl<'a> Question<'a> {
    /// Asks these files for items. `texts` are what stands in every row of one.
    fn new(
        files: &[(&'static str, Says, ItemOf)],
        texts: &[&str],
        is_asked_for: impl Fn(&Item) -> bool + Sync + Copy + 'a,
    ) -> Self {
        let table = |(file, says, item): &(&'static str, Says, ItemOf)| {
            let item = *item;
            let is_wanted = move |row: &Map<String, Json>| item(row).is_some_and(|item| is_asked_for(&item));
            Table { wanted: Wanted::new(file, texts, is_wanted), says: *says, item }
        };
        Self { tables: files.iter().map(table).collect() }
    }

    /// Asks for a registered model with all its versions, or for one of these.
    pub(super) fn of_model(name: &'a str, version: Option<i64>) -> Self {
        let files: [(&str, Says, ItemOf); 6] = [
            (file::REGISTERED_MODELS, Says::Itself, model_of),
            (file::REGISTERED_MODEL_TAGS, Says::Pair("tags"), model_of),
            (file::MODEL_VERSIONS, Says::Itself, version_of),
            (file::ALIASES, Says::Alias, version_of),
            (file::MODEL_VERSION_TAGS, Says::Pair("tags"), version_of),
            (REFERENCES, Says::Files, owner_of_files),
        ];
        let of_version = if version.is_some() { &files[2..] } else { &files[..] };
        Self::new(of_version, &[name], move |item| {
            item.id == name && item.kind != ItemKind::Run && (version.is_none() || item.version == version)
        })
    }

    /// Asks for runs by their ids.
    pub(super) fn of_runs(ids: &'a BTreeSet<String>) -> Self {
        let texts: Vec<&str> = ids.iter().map(String::as_str).collect();
        let files: [(&str, Says, ItemOf); 5] = [
            (file::RUNS, Says::Itself, run_of),
            (file::PARAMS, Says::Pair("params"), run_of),
            (file::METRICS, Says::Pair("metrics"), run_of),
            (file::RUN_TAGS, Says::Pair("tags"), run_of),
            (REFERENCES, Says::Files, owner_of_files),
        ];
        Self::new(&files, &texts, move |item| item.kind == ItemKind::Run && ids.contains(&item.id))
    }

    /// Asks for experiments of a name, or for the one with this id.
    pub(super) fn of_experiment(name: &'a str) -> Self {
        let is_wanted = move |row: &Map<String, Json>| text(row, "name") == name || text(row, "experiment_id") == name;
        let wanted = Wanted::new(file::EXPERIMENTS, &[name], is_wanted);
        Self { tables: vec![Table { wanted, says: Says::Itself, item: experiment_of }] }
    }

    /// Asks for the tags of experiments by their ids.
    pub(super) fn of_experiment_tags(ids: &'a BTreeSet<String>) -> Self {
        let texts: Vec<&str> = ids.iter().map(String::as_str).collect();
        let files: [(&str, Says, ItemOf); 1] = [(file::EXPERIMENT_TAGS, Says::Pair("tags"), experiment_of)];
        Self::new(&files, &texts, move |item| ids.contains(&item.id))
    }

    /// Returns what a snapshot says. Fails with [`Error::Refused`] if it has two items of the same name.
    pub(super) fn ask(&self, catalogues: &Catalogues<'_>, snapshot: &Snapshot) -> Result<Sight> {
        let mut sight = Sight::new();
        for table in &self.tables {
            for row in catalogues.rows(snapshot, &table.wanted)?.iter() {
                let Some(item) = (table.item)(row) else { continue };
                let seen = sight.entry(item).or_default();
                if table.says == Says::Itself && seen.own_row().is_some() {
                    return Err(Error::Refused(
                        "it is in several workspaces, which cannot be told apart here".to_owned(),
                    ));
                }
                seen.rows.push((table.says, Arc::clone(row)));
            }
        }
        Ok(sight)
    }
}

/// Adds the answer to a further question. What has no row of its own is not there.
pub(super) fn merge(sight: &mut Sight, further: Sight) {
    for (item, seen) in further {
        sight.entry(item).or_default().rows.extend(seen.rows);
    }
}

/// Leaves out what no row says is there: aliases and files of what was removed.
pub(super) fn keep_what_is_there(sight: &mut Sight) {
    sight.retain(|_, seen| seen.own_row().is_some());
}
