//! What belongs to one experiment, run or model: the ids of the rows that have to be restored with it.
//!
//! What must stay true: what was asked for is *selected*; what it refers to, and what others may share, is only
//! *referenced*: it is put back if it is missing and left alone otherwise.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde::Serialize;

use crate::catalogue::browse::Browser;
use crate::catalogue::reader::for_each;
use crate::chunks::reader::ChunkReader;
use crate::database::Need;
use crate::error::{Error, Result};
use crate::hears::Hears;
use crate::mlflow::catalogue::{LoggedModel, ModelVersion, Reference, Run};
use crate::mlflow::names::file;
use crate::mlflow::schema::{ReferenceKind, RowOwner};
use crate::mlflow::uri::{self, VersionSource};
use crate::repository::snapshots::Snapshot;

/// A part of a deployment, as a user asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeploymentPart {
    /// An experiment by its name or id, with its runs, logged models and traces.
    Experiment(String),
    /// A run by its id, with the models that it logged.
    Run(String),
    /// A registered model with all its versions.
    Model(String),
    /// One version of a registered model, by its number or an alias.
    Version {
        /// The registered model.
        model: String,
        /// The version or alias; none for the newest.
        version: Option<String>,
    },
}

/// The ids that belong to it.
#[derive(Debug, Default)]
pub struct Selected {
    ids: HashMap<RowOwner, HashMap<String, Need>>,
    versions: HashMap<(String, String), Need>,
    /// The files that go with the rows.
    pub files: Vec<Reference>,
    /// What was selected, and whose files the snapshot lacks, or some of them.
    pub lacking: Vec<Reference>,
}

/// How many versions may be copies of one another in a row.
const COPIES_MAX: usize = 16;

/// Returns the version that one is a copy of, or a copy of a copy; itself if it is none.
fn original_of<'v>(version: &'v ModelVersion, versions: &'v [ModelVersion]) -> &'v ModelVersion {
    let mut original = version;
    for _ in 0..COPIES_MAX {
        let Some(VersionSource::Version { name, version }) = original.source.as_deref().map(uri::version_source) else {
            break;
        };
        let is_it = |it: &&ModelVersion| it.name == name && it.version.to_string() == version;
        let Some(found) = versions.iter().find(is_it) else { break };
        original = found;
    }
    original
}

/// Returns the files to restore without a database, each with the directory that they go into.
pub fn files_of<'s>(part: &DeploymentPart, selected: &'s Selected) -> Vec<(&'s Reference, String)> {
    let place = |reference: &Reference| match (part, reference.kind) {
        (DeploymentPart::Run(_), ReferenceKind::Run)
        | (DeploymentPart::Version { .. }, ReferenceKind::ModelVersion) => Some(String::new()),
        (DeploymentPart::Model(_), ReferenceKind::ModelVersion) => {
            reference.id.rsplit_once('/').map(|(_, version)| version.to_owned())
        }
        (DeploymentPart::Experiment(_), ReferenceKind::Run) => Some(format!("runs/{}", reference.id)),
        (DeploymentPart::Experiment(_), ReferenceKind::LoggedModel) => Some(format!("models/{}", reference.id)),
        (DeploymentPart::Experiment(_), ReferenceKind::Trace) => Some(format!("traces/{}", reference.id)),
        _ => None,
    };
    selected.files.iter().filter_map(|reference| Some((reference, place(reference)?))).collect()
}

#[derive(serde::Deserialize)]
struct InputRow {
    input_id: String,
    source_type: String,
    source_id: String,
    destination_id: String,
}

#[derive(serde::Deserialize)]
struct Trace {
    trace_id: String,
    #[serde(default)]
    experiment_id: String,
}

/// What was selected and is not, or not wholly, in the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lack {
    /// The id of a run or logged model; of a version, `name/version`.
    pub id: String,
    /// Why.
    pub why: String,
}

/// Snapshots whose catalogues are read in search of one that has everything.
const SEARCHED_MAX: usize = 100;

/// Finds the last snapshot before this one, of the same source, that has all files of a part.
pub fn last_whole(
    reader: &ChunkReader,
    before: &Snapshot,
    part: &DeploymentPart,
    hears: &Hears,
) -> Result<Option<Snapshot>> {
    let is_meant = |other: &&Snapshot| other.record.source == before.record.source && other.order() < before.order();
    let list = reader.repository().list_snapshots()?.snapshots;
    for snapshot in list.iter().rev().filter(is_meant).take(SEARCHED_MAX) {
        hears.check()?;
        match Selected::find(reader, snapshot, part, hears) {
            Ok(selected) if selected.lacking.is_empty() && !selected.files.is_empty() => {
                return Ok(Some(snapshot.clone()));
            }
            // It did not have it yet, or is damaged itself.
            Ok(_) | Err(Error::NotFound(_)) => {}
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

impl Selected {
    /// Says what the snapshot lacks of it.
    pub fn lacks(&self) -> Vec<Lack> {
        let lack = |reference: &Reference| {
            let why = reference.state.lack()?.to_owned();
            Some(Lack { id: reference.id.clone(), why })
        };
        self.lacking.iter().filter_map(lack).collect()
    }

    /// Finds everything that belongs to what is wanted.
    pub fn find(reader: &ChunkReader, snapshot: &Snapshot, part: &DeploymentPart, hears: &Hears) -> Result<Self> {
        let browser = Browser { reader, snapshot, hears };
        let mut selected = Self::default();
        match part {
            DeploymentPart::Experiment(name) => {
                let experiment = browser.experiment(name)?;
                selected.put(RowOwner::Experiment, &experiment.experiment_id, Need::Selected);
                selected.content_of_experiment(&browser, &experiment.experiment_id)?;
            }
            DeploymentPart::Run(run) => {
                browser.runs(None, Some(run), &mut |listing| {
                    selected.put(RowOwner::Run, &listing.run.run_id, Need::Selected);
                    Ok(())
                })?;
                selected.models_of_runs(&browser, Need::Selected)?;
            }
            DeploymentPart::Model(name) => {
                let models = browser.models(Some(name))?;
                selected.put(RowOwner::RegisteredModel, name, Need::Selected);
                for version in models.into_iter().flat_map(|model| model.versions) {
                    selected.put_version(&version.version, Need::Selected);
                }
                selected.lineage(&browser)?;
            }
            DeploymentPart::Version { model, version } => {
                let version = browser.version(model, version.as_deref())?;
                selected.put(RowOwner::RegisteredModel, model, Need::Referenced);
                selected.put_version(&version.version, Need::Selected);
                selected.lineage(&browser)?;
            }
        }
        selected.experiments_of(&browser)?;
        selected.inputs(&browser)?;
        selected.find_files(&browser)?;
        Ok(selected)
    }

    /// Returns whether a row whose owner has these key values belongs to it, and how.
    pub fn need(&self, owner: RowOwner, keys: &[&str]) -> Option<Need> {
        match (owner, keys) {
            (RowOwner::Version, [name, version]) => {
                self.versions.get(&((*name).to_owned(), (*version).to_owned())).copied()
            }
            (RowOwner::Association, [id]) => {
                let run = self.ids.get(&RowOwner::Run).and_then(|ids| ids.get(*id));
                run.or_else(|| self.ids.get(&RowOwner::Trace).and_then(|ids| ids.get(*id))).copied()
            }
            (owner, [id]) => self.ids.get(&owner)?.get(*id).copied(),
            _ => None,
        }
    }

    /// Returns the ids of one kind that were selected.
    pub fn ids(&self, owner: RowOwner) -> BTreeSet<&str> {
        self.ids.get(&owner).into_iter().flat_map(HashMap::keys).map(String::as_str).collect()
    }

    fn put(&mut self, owner: RowOwner, id: &str, need: Need) {
        let ids = self.ids.entry(owner).or_default();
        // Once selected, always selected.
        match ids.get(id) {
            Some(Need::Selected) => {}
            _ => drop(ids.insert(id.to_owned(), need)),
        }
    }

    fn put_version(&mut self, version: &ModelVersion, need: Need) {
        self.versions.insert((version.name.clone(), version.version.to_string()), need);
    }

    fn has(&self, owner: RowOwner, id: &str) -> Option<Need> {
        self.ids.get(&owner)?.get(id).copied()
    }

    fn content_of_experiment(&mut self, browser: &Browser<'_>, experiment: &str) -> Result<()> {
        let Browser { reader, snapshot, hears } = browser;
        for_each(reader, snapshot, file::RUNS, hears, &mut |run: Run| {
            if run.experiment_id == experiment {
                self.put(RowOwner::Run, &run.run_id, Need::Selected);
            }
            Ok(())
        })?;
        for_each(reader, snapshot, file::LOGGED_MODELS, hears, &mut |model: LoggedModel| {
            if model.experiment_id == experiment {
                self.put(RowOwner::LoggedModel, &model.model_id, Need::Selected);
            }
            Ok(())
        })?;
        for_each(reader, snapshot, file::TRACES, hears, &mut |trace: Trace| {
            if trace.experiment_id == experiment {
                self.put(RowOwner::Trace, &trace.trace_id, Need::Selected);
            }
            Ok(())
        })
    }

    fn models_of_runs(&mut self, browser: &Browser<'_>, need: Need) -> Result<()> {
        let Browser { reader, snapshot, hears } = browser;
        for_each(reader, snapshot, file::LOGGED_MODELS, hears, &mut |model: LoggedModel| {
            if model.source_run_id.is_some_and(|run| self.has(RowOwner::Run, &run).is_some()) {
                self.put(RowOwner::LoggedModel, &model.model_id, need);
            }
            Ok(())
        })
    }

    /// The logged models and runs that the selected versions come from.
    fn lineage(&mut self, browser: &Browser<'_>) -> Result<()> {
        let versions: Vec<ModelVersion> = browser.all(file::MODEL_VERSIONS)?;
        let mut runs_and_names = HashSet::new();
        for version in &versions {
            let key = (version.name.clone(), version.version.to_string());
            if !self.versions.contains_key(&key) {
                continue;
            }
            if let Some(run) = version.run_id.as_deref().filter(|run| !run.is_empty()) {
                self.put(RowOwner::Run, run, Need::Referenced);
            }
            let original = original_of(version, &versions);
            for text in [&version.source, &version.storage_location, &original.source].into_iter().flatten() {
                match uri::version_source(text) {
                    VersionSource::LoggedModel(model) => self.put(RowOwner::LoggedModel, model, Need::Selected),
                    VersionSource::Run { run, path } => {
                        runs_and_names.insert((run.to_owned(), path.to_owned()));
                    }
                    _ => {}
                }
            }
        }
        let Browser { reader, snapshot, hears } = browser;
        for_each(reader, snapshot, file::LOGGED_MODELS, hears, &mut |model: LoggedModel| {
            let by_run = model.source_run_id.clone().zip(model.name.clone());
            let is_source = by_run.is_some_and(|pair| runs_and_names.contains(&pair));
            if is_source {
                self.put(RowOwner::LoggedModel, &model.model_id, Need::Selected);
            }
            if self.has(RowOwner::LoggedModel, &model.model_id).is_some()
                && let Some(run) = &model.source_run_id
            {
                self.put(RowOwner::Run, run, Need::Referenced);
            }
            Ok(())
        })
    }

    /// The experiments that runs, models and traces belong to.
    fn experiments_of(&mut self, browser: &Browser<'_>) -> Result<()> {
        let Browser { reader, snapshot, hears } = browser;
        for_each(reader, snapshot, file::RUNS, hears, &mut |run: Run| {
            if self.has(RowOwner::Run, &run.run_id).is_some() {
                self.put(RowOwner::Experiment, &run.experiment_id, Need::Referenced);
            }
            Ok(())
        })?;
        for_each(reader, snapshot, file::LOGGED_MODELS, hears, &mut |model: LoggedModel| {
            if self.has(RowOwner::LoggedModel, &model.model_id).is_some() {
                self.put(RowOwner::Experiment, &model.experiment_id, Need::Referenced);
            }
            Ok(())
        })
    }

    /// The data sets and models that runs took in or gave out.
    fn inputs(&mut self, browser: &Browser<'_>) -> Result<()> {
        let Browser { reader, snapshot, hears } = browser;
        for_each(reader, snapshot, file::INPUTS, hears, &mut |input: InputRow| {
            let ends = [self.has(RowOwner::Run, &input.destination_id), self.has(RowOwner::Run, &input.source_id)];
            let Some(need) = ends.into_iter().flatten().next() else { return Ok(()) };
            self.put(RowOwner::Input, &input.input_id, need);
            if input.source_type == "DATASET" {
                self.put(RowOwner::Dataset, &input.source_id, Need::Referenced);
            }
            Ok(())
        })
    }

    fn find_files(&mut self, browser: &Browser<'_>) -> Result<()> {
        let (mut files, mut lacking) = (Vec::new(), Vec::new());
        for kind in [ReferenceKind::Run, ReferenceKind::LoggedModel, ReferenceKind::ModelVersion, ReferenceKind::Trace]
        {
            browser.references(kind, &mut |reference| {
                let need = match kind {
                    ReferenceKind::Run => self.has(RowOwner::Run, &reference.id),
                    ReferenceKind::LoggedModel => self.has(RowOwner::LoggedModel, &reference.id),
                    ReferenceKind::Trace => self.has(RowOwner::Trace, &reference.id),
                    ReferenceKind::ModelVersion => reference
                        .id
                        .rsplit_once('/')
                        .and_then(|(name, version)| self.need(RowOwner::Version, &[name, version])),
                };
                if need == Some(Need::Selected) && reference.state.lack().is_some() {
                    lacking.push(reference.clone());
                }
                if need.is_some() && reference.files > 0 {
                    files.push(reference.clone());
                }
            })?;
        }
        (self.files, self.lacking) = (files, lacking);
        Ok(())
    }
}
