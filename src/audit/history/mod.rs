//! What snapshots tell of one thing over time: since when it is there, what changed, and whether its content did.
//!
//! Catalogues and trees say all of it, which every key opens: no pack of content is read. MLflow itself keeps no history:
//! which version an alias stood for last year is only in snapshots.
//!
//! What must stay true: what cannot be read, was forgotten, or is gone is said, since it may be what somebody wants to hide;
//! nothing that two deployments, or two things of the same name, say is mixed.

mod facts;
mod files;
mod page;
mod timeline;
mod track;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value as Json;

pub use crate::audit::history::facts::{ALIASES, FILES_DIGEST, FILES_PATH, FILES_STATE, Facts, RUN, STAGE};
use crate::audit::history::facts::{Question, Sight, keep_what_is_there, merge};
pub use crate::audit::history::files::{FileHistory, FileVersion};
pub use crate::audit::history::page::html;
use crate::audit::history::track::Tracks;
use crate::catalogue::rows::Catalogues;
use crate::chunks::reader::ChunkReader;
use crate::error::{Error, Result};
use crate::format::snapshot::{CopiedFrom, RewrittenFrom, SourceRecord};
use crate::hears::Hears;
use crate::id::SessionId;
use crate::parallel;
use crate::repository::Repository;
use crate::repository::snapshots::{Snapshot, SnapshotList, Trashed};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A registered model with all its versions, or one of them.
    Model {
        /// Its name.
        name: String,
        /// The version.
        version: Option<i64>,
    },
    /// A run by its id.
    Run(String),
    /// Experiments by their name, or one by its id.
    Experiment(String),
    /// A path as users know it, and what is below it.
    Path(Vec<u8>),
}

impl fmt::Display for Subject {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model { name, version: None } => write!(out, "model {name}"),
            Self::Model { name, version: Some(version) } => write!(out, "model {name}, version {version}"),
            Self::Run(id) => write!(out, "run {id}"),
            Self::Experiment(name) => write!(out, "experiment {name}"),
            Self::Path(path) => write!(out, "path {}", String::from_utf8_lossy(path)),
        }
    }
}

/// What kind of thing has a history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemKind {
    /// An experiment.
    Experiment,
    /// A run.
    Run,
    /// A registered model.
    Model,
    /// A version of one.
    Version,
    /// A path.
    #[default]
    Path,
}

impl ItemKind {
    /// Returns what people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Experiment => "experiment",
            Self::Run => "run",
            Self::Model => "model",
            Self::Version => "version",
            Self::Path => "path",
        }
    }
}

/// One thing of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Item {
    kind: ItemKind,
    id: String,
    version: Option<i64>,
}

impl fmt::Display for Item {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Some(version) => write!(out, "{}/{version}", self.id),
            None => out.write_str(&self.id),
        }
    }
}

/// What changed from one snapshot with an item to the next.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// The snapshot that shows it first.
    pub snapshot: SessionId,
    /// Which fact.
    pub what: String,
    /// What it was; null if there was none.
    pub old: Json,
    /// What it is; null if there is none.
    pub new: Json,
    /// Whether it is content of a version, which must never change.
    pub alters: bool,
}

impl Default for Change {
    fn default() -> Self {
        let snapshot = SessionId::from_bytes([0; 16]);
        Self { snapshot, what: String::new(), old: Json::Null, new: Json::Null, alters: false }
    }
}

/// One thing over time.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ItemHistory {
    /// What it is.
    pub kind: ItemKind,
    /// Its name or id; for a version `name/version`.
    pub id: String,
    /// Whose it is, as in the column SOURCE.
    pub source: String,
    /// When it was made, in milliseconds since 1970, if the databases say so. What was made anew is a thing of its own.
    pub born: Option<i64>,
    /// The snapshots that have it, oldest first; at least one.
    pub snapshots: Vec<SessionId>,
    /// Snapshots after the first of those that do not have it.
    pub absent: Vec<SessionId>,
    /// What was known of it at first.
    pub at_first: Facts,
    /// What was known of it at last.
    pub facts: Facts,
    /// What changed in between, in order.
    pub changes: Vec<Change>,
    /// Its files, if it is a version that was asked for, a run, or a path.
    pub files: Vec<FileHistory>,
}

impl ItemHistory {
    /// Returns whether content changed that must not.
    pub fn is_altered(&self) -> bool {
        self.changes.iter().any(|change| change.alters)
    }
}

/// That a snapshot was forgotten.
#[derive(Debug, Clone, Serialize)]
pub struct ForgottenLook {
    /// When, as whoever did it says.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
    /// The label of the key that did it.
    pub by: String,
}

/// A snapshot that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotLook {
    /// Its name.
    pub id: SessionId,
    /// What it is of, as in the column SOURCE.
    pub source: String,
    /// When it was made.
    pub made: Timestamp,
    /// When it arrived, by the clock of the place where it is stored.
    pub arrived: Timestamp,
    /// Whether these are too far apart.
    pub time_doubtful: bool,
    /// Whether everything is in it that was to be.
    pub is_complete: bool,
    /// Problems that its backup had.
    pub problems: u64,
    /// The label of the key that signed it.
    pub by: String,
    /// The host or pod that made it.
    pub host: String,
    /// That it was forgotten.
    pub forgotten: Option<ForgottenLook>,
    /// What it is a copy of.
    pub copied_from: Option<Box<CopiedFrom>>,
    /// What a rewrite made it from.
    pub rewritten_from: Option<Box<RewrittenFrom>>,
    /// Why it could not be asked.
    pub unreadable: Option<String>,
}

/// A snapshot that is gone, though nobody may have forgotten it.
#[derive(Debug, Clone, Serialize)]
pub struct Vanished {
    /// Its name.
    pub snapshot: SessionId,
    /// Snapshots that saw it; none if only this machine did.
    pub seen_by: Vec<SessionId>,
}

/// The answer.
#[derive(Debug, Clone, Default, Serialize)]
pub struct History {
    /// What was asked for, in words.
    pub subject: String,
    /// Those that were looked at, oldest first, with those that could not be asked.
    pub snapshots: Vec<SnapshotLook>,
    /// What was found.
    pub items: Vec<ItemHistory>,
    /// Objects that might be snapshots and cannot be read, and what else hides something.
    pub unreadable: Vec<String>,
    /// Nodes of trees that cannot be read.
    pub unreadable_nodes: u64,
    /// Snapshots that are gone, though nobody may have forgotten them.
    pub vanished: Vec<Vanished>,
    /// Snapshots that were forgotten and are removed: whether they had it, nobody can tell.
    pub removed: Vec<SessionId>,
}

impl History {
    /// Returns whether content changed that must not.
    pub fn is_altered(&self) -> bool {
        self.items.iter().any(ItemHistory::is_altered)
    }

    /// Returns whether something could not be asked.
    pub fn has_gaps(&self) -> bool {
        let is_unreadable = |snapshot: &SnapshotLook| snapshot.unreadable.is_some();
        !self.unreadable.is_empty()
            || self.unreadable_nodes > 0
            || !self.vanished.is_empty()
            || self.snapshots.iter().any(is_unreadable)
    }

    /// Returns a snapshot that was looked at.
    pub fn snapshot(&self, id: &SessionId) -> Option<&SnapshotLook> {
        self.snapshots.iter().find(|snapshot| snapshot.id == *id)
    }
}

/// Returns what one snapshot says of a version or run, if it has it.
pub fn facts_in(reader: &ChunkReader, snapshot: &Snapshot, subject: &Subject, hears: &Hears) -> Result<Option<Facts>> {
    let catalogues = Catalogues::new(reader, hears);
    let mut sight = match subject {
        Subject::Model { name, version } => Question::of_model(name, *version).ask(&catalogues, snapshot)?,
        Subject::Run(id) => Question::of_runs(&BTreeSet::from([id.clone()])).ask(&catalogues, snapshot)?,
        Subject::Experiment(_) | Subject::Path(_) => Sight::new(),
    };
    keep_what_is_there(&mut sight);
    Ok(sight.into_values().next().map(|seen| seen.facts()))
}

/// Follows a subject through all snapshots, or those of one deployment.
pub fn run(
    repository: &Arc<Repository>,
    subject: &Subject,
    deployment: Option<&str>,
    hears: &Hears,
) -> Result<History> {
    let list = repository.list_snapshots()?;
    let mut history = History { subject: subject.to_string(), ..History::default() };
    look_for_gaps(repository, &list, &mut history)?;
    let reader = ChunkReader::new(Arc::clone(repository));
    let look = Look { reader: &reader, subject, hears };
    for (source, snapshots) in sources(list, subject, deployment) {
        look.at_source(&source, &snapshots, &mut history)?;
    }
    history.snapshots.sort_by_key(|snapshot| (snapshot.made, snapshot.id));
    Ok(history)
}

/// Says what may hide something.
fn look_for_gaps(repository: &Repository, list: &SnapshotList, history: &mut History) -> Result<()> {
    history.unreadable = list.unreadable().lines();
    let vanished = repository.vanished(list)?;
    let gone = vanished.into_iter().filter(|(id, _)| !list.damaged_ids.contains(id));
    history.vanished = gone.map(|(snapshot, seen_by)| Vanished { snapshot, seen_by }).collect();
    let there = list.snapshots.iter().map(|snapshot| snapshot.id);
    let there: BTreeSet<SessionId> = there.chain(list.trash.iter().map(|trashed| trashed.snapshot.id)).collect();
    history.removed = list.forgotten.difference(&there).copied().collect();
    Ok(())
}

/// A snapshot, and the record that it was forgotten.
type MaybeForgotten = (Snapshot, Option<ForgottenLook>);

/// Sorts the snapshots that come into question by source, oldest first.
fn sources(list: SnapshotList, subject: &Subject, deployment: Option<&str>) -> BTreeMap<String, Vec<MaybeForgotten>> {
    let is_meant = |snapshot: &Snapshot| match (&snapshot.record.source, deployment) {
        (SourceRecord::Deployment { name }, Some(wanted)) => name == wanted,
        (SourceRecord::Deployment { .. }, None) => true,
        (_, Some(_)) => false,
        (_, None) => matches!(subject, Subject::Path(_)),
    };
    let forgotten = |trashed: Trashed| {
        let look = ForgottenLook { at: trashed.forgotten.at, reason: trashed.forgotten.reason, by: trashed.by.label };
        (trashed.snapshot, Some(look))
    };
    let all = list.snapshots.into_iter().map(|snapshot| (snapshot, None)).chain(list.trash.into_iter().map(forgotten));
    let mut sources: BTreeMap<String, Vec<MaybeForgotten>> = BTreeMap::new();
    for (snapshot, forgotten) in all.filter(|(snapshot, _)| is_meant(snapshot)) {
        sources.entry(snapshot.record.source.group()).or_default().push((snapshot, forgotten));
    }
    sources.values_mut().for_each(|snapshots| snapshots.sort_by_key(|(snapshot, _)| snapshot.order()));
    sources
}

fn look_of(snapshot: &Snapshot, forgotten: Option<&ForgottenLook>) -> SnapshotLook {
    let record = &snapshot.record;
    SnapshotLook {
        id: snapshot.id,
        source: record.source.group(),
        made: snapshot.made(),
        arrived: snapshot.arrived,
        time_doubtful: snapshot.is_time_doubtful(),
        is_complete: !snapshot.is_incomplete(),
        problems: record.problem_count,
        by: snapshot.signer.label.clone(),
        host: record.host.clone(),
        forgotten: forgotten.cloned(),
        copied_from: record.copied_from.clone(),
        rewritten_from: record.rewritten_from.clone(),
        unreadable: None,
    }
}

struct Look<'a> {
    reader: &'a ChunkReader,
    subject: &'a Subject,
    hears: &'a Hears,
}

impl Look<'_> {
    fn at_source(&self, source: &str, snapshots: &[MaybeForgotten], history: &mut History) -> Result<()> {
        let mut looks: Vec<_> =
            snapshots.iter().map(|(snapshot, forgotten)| look_of(snapshot, forgotten.as_ref())).collect();
        let snapshots: Vec<&Snapshot> = snapshots.iter().map(|(snapshot, _)| snapshot).collect();
        let mut items = match self.subject {
            Subject::Path(path) => {
                let (items, unreadable) = files::of_path(self.reader, &snapshots, path, self.hears)?;
                history.unreadable_nodes += unreadable;
                items
            }
            _ => {
                let sights = self.sights(&snapshots)?;
                let mut tracks = Tracks::default();
                for ((snapshot, sight), look) in snapshots.iter().zip(sights).zip(&mut looks) {
                    match sight {
                        Ok(sight) => tracks.see(snapshot.id, sight),
                        Err(reason) => look.unreadable = Some(reason),
                    }
                }
                tracks.finish()
            }
        };
        for item in &mut items {
            source.clone_into(&mut item.source);
            if self.tells_files(item) {
                history.unreadable_nodes += files::add_to(item, self.reader, &snapshots, self.hears)?;
            }
        }
        history.snapshots.append(&mut looks);
        history.items.append(&mut items);
        Ok(())
    }

    /// Of a model that has many versions, a digest over all files of each has to do.
    fn tells_files(&self, item: &ItemHistory) -> bool {
        match self.subject {
            Subject::Model { version, .. } => version.is_some() && item.kind == ItemKind::Version,
            Subject::Run(_) => true,
            Subject::Experiment(_) | Subject::Path(_) => false,
        }
    }

    /// Asks every snapshot; what cannot be read is a reason in words.
    fn sights(&self, snapshots: &[&Snapshot]) -> Result<Vec<std::result::Result<Sight, String>>> {
        let catalogues = Catalogues::new(self.reader, self.hears);
        let ask = |question: &Question<'_>| self.ask(&catalogues, question, snapshots);
        let (mut sights, further) = match self.subject {
            Subject::Model { name, version } => {
                let sights = ask(&Question::of_model(name, *version))?;
                let runs = version.map_or_else(BTreeSet::new, |_| runs_of(&sights));
                let further = if runs.is_empty() { Vec::new() } else { ask(&Question::of_runs(&runs))? };
                (sights, further)
            }
            Subject::Run(id) => (ask(&Question::of_runs(&BTreeSet::from([id.clone()])))?, Vec::new()),
            Subject::Experiment(name) => {
                let sights = ask(&Question::of_experiment(name))?;
                let ids = sights.iter().flatten().flat_map(Sight::keys).map(|item| item.id.clone()).collect();
                let further = ask(&Question::of_experiment_tags(&ids))?;
                (sights, further)
            }
            Subject::Path(_) => (Vec::new(), Vec::new()),
        };
        for (sight, further) in sights.iter_mut().zip(further) {
            match (sight.as_mut(), further) {
                (Ok(sight), Ok(further)) => merge(sight, further),
                (Ok(_), Err(reason)) => *sight = Err(reason),
                (Err(_), _) => {}
            }
        }
        sights.iter_mut().flatten().for_each(keep_what_is_there);
        Ok(sights)
    }

    fn ask(
        &self,
        catalogues: &Catalogues<'_>,
        question: &Question<'_>,
        snapshots: &[&Snapshot],
    ) -> Result<Vec<std::result::Result<Sight, String>>> {
        self.hears.monitor.phase("history", Some(snapshots.len() as u64), None);
        let ask = |snapshot: &&Snapshot| match question.ask(catalogues, snapshot) {
            Ok(sight) => Ok(Ok(sight)),
            Err(error) if error.is_damage() || matches!(error, Error::NotFound(_) | Error::Refused(_)) => {
                Ok(Err(error.to_string()))
            }
            Err(error) => Err(error),
        };
        // The first one finds what the others share, which they would all read at the same time.
        let (first, others) = snapshots.split_at(snapshots.len().min(1));
        let threads = self.reader.repository().backend().concurrency();
        let asked = first.iter().map(ask).collect::<Result<Vec<_>>>()?;
        let others: Result<Vec<_>> = parallel::map(others, threads, ask).into_iter().collect();
        Ok(asked.into_iter().chain(others?).collect())
    }
}

/// Returns the runs that versions come from.
fn runs_of(sights: &[std::result::Result<Sight, String>]) -> BTreeSet<String> {
    let facts = sights.iter().flatten().flat_map(Sight::values).map(facts::Seen::facts);
    facts.filter_map(|facts| Some(facts.get(RUN)?.as_str()?.to_owned())).filter(|run| !run.is_empty()).collect()
}
