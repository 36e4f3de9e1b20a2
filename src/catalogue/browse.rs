//! Lists what a snapshot holds of an MLflow deployment: models, runs, experiments.
//!
//! What must stay true: only the catalogue is read, so that every key holder can ask, and neither PostgreSQL nor MLflow is
//! needed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value as Json;

use crate::catalogue::reader::{for_each, read_all};
use crate::chunks::reader::ChunkReader;
use crate::error::{Error, Result};
use crate::hears::Hears;
use crate::id::Digest;
use crate::mlflow::catalogue::{
    Alias, Experiment, ModelVersion, Pair, REFERENCES, Reference, ReferenceState, RegisteredModel, Run,
};
use crate::mlflow::names::{DELETED, file};
use crate::mlflow::schema::ReferenceKind;
use crate::repository::snapshots::Snapshot;

/// Key of the tag that marks a registered model as a prompt.
const PROMPT_TAG: &str = "mlflow.prompt.is_prompt";

/// Where files of something are in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Files {
    /// The component and the path in it, as users know it.
    pub path: String,
    /// How many files there are.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// A digest over all of them.
    pub digest: Option<Digest>,
    /// Whether they are all there.
    pub state: ReferenceState,
}

impl Files {
    fn of(reference: &Reference) -> Option<Self> {
        let (component, path) = (reference.component.as_ref()?, reference.path.as_ref()?);
        Some(Self {
            path: format!("{component}/{path}").trim_end_matches('/').to_owned(),
            files: reference.files,
            bytes: reference.bytes,
            digest: reference.digest,
            state: reference.state,
        })
    }
}

/// A version of a registered model.
#[derive(Debug, Clone, Serialize)]
pub struct VersionListing {
    /// What the registry says.
    #[serde(flatten)]
    pub version: ModelVersion,
    /// The aliases that stand for it.
    pub aliases: BTreeSet<String>,
    /// Its tags.
    pub tags: BTreeMap<String, Json>,
    /// Its files; prompts have none.
    pub files: Option<Files>,
}

/// A registered model.
#[derive(Debug, Clone, Serialize)]
pub struct ModelListing {
    /// What the registry says.
    #[serde(flatten)]
    pub model: RegisteredModel,
    /// Whether it is a prompt.
    pub is_prompt: bool,
    /// Its tags.
    pub tags: BTreeMap<String, Json>,
    /// Its versions, the newest first.
    pub versions: Vec<VersionListing>,
}

/// A run.
#[derive(Debug, Clone, Serialize)]
pub struct RunListing {
    /// What the tracking store says.
    #[serde(flatten)]
    pub run: Run,
    /// Its parameters.
    pub params: BTreeMap<String, Json>,
    /// The last value of each metric.
    pub metrics: BTreeMap<String, Json>,
    /// Its tags.
    pub tags: BTreeMap<String, Json>,
    /// Its files.
    pub files: Option<Files>,
}

/// An experiment.
#[derive(Debug, Clone, Serialize)]
pub struct ExperimentListing {
    /// What the tracking store says.
    #[serde(flatten)]
    pub experiment: Experiment,
    /// How many runs it has that are not deleted.
    pub active_runs: u64,
    /// How many it has that are.
    pub deleted_runs: u64,
}

/// The catalogue of one snapshot.
pub struct Browser<'a> {
    /// Reads it.
    pub reader: &'a ChunkReader,
    /// The snapshot.
    pub snapshot: &'a Snapshot,
    /// Is told how it goes, and may ask to stop.
    pub hears: &'a Hears,
}

impl Browser<'_> {
    /// Returns the registered models by name, or the one of this name, with their versions.
    pub fn models(&self, name: Option<&str>) -> Result<Vec<ModelListing>> {
        let wanted = |candidate: &str| name.is_none_or(|name| name == candidate);
        let mut models: BTreeMap<String, ModelListing> = BTreeMap::new();
        for model in self.all::<RegisteredModel>(file::REGISTERED_MODELS)?.into_iter().filter(|it| wanted(&it.name)) {
            let listing = ModelListing { is_prompt: false, tags: BTreeMap::new(), versions: Vec::new(), model };
            if let Some(twin) = models.insert(listing.model.name.clone(), listing) {
                return Err(Error::Refused(format!(
                    "The registered model {} is in several workspaces, which cannot be told apart here",
                    twin.model.name
                )));
            }
        }
        for tag in self.all::<Pair>(file::REGISTERED_MODEL_TAGS)? {
            if let Some(model) = tag.name.as_ref().and_then(|name| models.get_mut(name)) {
                model.is_prompt |= tag.key == PROMPT_TAG;
                model.tags.insert(tag.key, tag.value);
            }
        }
        for version in self.versions(&wanted)? {
            if let Some(model) = models.get_mut(&version.version.name) {
                model.versions.push(version);
            }
        }
        match name {
            Some(name) if models.is_empty() => Err(self.missing("registered model", name)),
            _ => Ok(models.into_values().collect()),
        }
    }

    /// Returns one version of a registered model, by its number or by an alias; without either the newest one.
    pub fn version(&self, name: &str, version: Option<&str>) -> Result<VersionListing> {
        let model =
            self.models(Some(name))?.into_iter().next().ok_or_else(|| self.missing("registered model", name))?;
        let mut versions = model.versions.into_iter().filter(|version| !version.version.is_deleted());
        let found = match version {
            None => versions.next(),
            Some(wanted) => versions.find(|it| it.version.version.to_string() == wanted || it.aliases.contains(wanted)),
        };
        found.ok_or_else(|| match version {
            Some(version) => self.missing("version or alias", &format!("{name}/{version}")),
            None => self.missing("version of", name),
        })
    }

    fn versions(&self, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<VersionListing>> {
        let mut versions: BTreeMap<(String, i64), VersionListing> = BTreeMap::new();
        for version in self.all::<ModelVersion>(file::MODEL_VERSIONS)?.into_iter().filter(|it| wanted(&it.name)) {
            let key = (version.name.clone(), version.version);
            let (aliases, tags) = Default::default();
            versions.insert(key, VersionListing { version, aliases, tags, files: None });
        }
        for alias in self.all::<Alias>(file::ALIASES)? {
            if let Some(version) = versions.get_mut(&(alias.name, alias.version)) {
                version.aliases.insert(alias.alias);
            }
        }
        for tag in self.all::<Pair>(file::MODEL_VERSION_TAGS)? {
            let key = (tag.name.unwrap_or_default(), tag.version.unwrap_or_default());
            if let Some(version) = versions.get_mut(&key) {
                version.tags.insert(tag.key, tag.value);
            }
        }
        self.references(ReferenceKind::ModelVersion, &mut |reference| {
            let Some((name, number)) = reference.id.rsplit_once('/') else { return };
            let key = (name.to_owned(), number.parse().unwrap_or_default());
            if let Some(version) = versions.get_mut(&key) {
                version.files = Files::of(reference);
            }
        })?;
        Ok(versions.into_values().rev().collect())
    }

    /// Calls `visit` with each run, or each of one experiment (by id or name), those that started last first. Runs
    /// without a start are last.
    pub fn runs(
        &self,
        experiment: Option<&str>,
        run: Option<&str>,
        visit: &mut dyn FnMut(RunListing) -> Result<()>,
    ) -> Result<()> {
        let experiment = experiment.map(|name| self.experiment(name)).transpose()?;
        let is_wanted = |candidate: &Run| {
            experiment.as_ref().is_none_or(|wanted| wanted.experiment_id == candidate.experiment_id)
                && run.is_none_or(|wanted| wanted == candidate.run_id)
        };
        let mut runs: BTreeMap<String, RunListing> = BTreeMap::new();
        for_each(self.reader, self.snapshot, file::RUNS, self.hears, &mut |run: Run| {
            if is_wanted(&run) {
                let (params, metrics, tags) = Default::default();
                runs.insert(run.run_id.clone(), RunListing { run, params, metrics, tags, files: None });
            }
            Ok(())
        })?;
        if let Some(run) = run.filter(|_| runs.is_empty()) {
            return Err(self.missing("run", run));
        }
        self.pairs(file::PARAMS, &mut |run, key, value| {
            runs.get_mut(run).map(|run| run.params.insert(key, value));
        })?;
        self.pairs(file::METRICS, &mut |run, key, value| {
            runs.get_mut(run).map(|run| run.metrics.insert(key, value));
        })?;
        self.pairs(file::RUN_TAGS, &mut |run, key, value| {
            runs.get_mut(run).map(|run| run.tags.insert(key, value));
        })?;
        self.references(ReferenceKind::Run, &mut |reference| {
            if let Some(run) = runs.get_mut(&reference.id) {
                run.files = Files::of(reference);
            }
        })?;
        let mut runs: Vec<RunListing> = runs.into_values().collect();
        // The sort keeps the order of ids where the time is the same, so that two lists can be compared.
        runs.sort_by_key(|listing| Reverse(listing.run.start_time));
        runs.into_iter().try_for_each(visit)
    }

    /// Returns all experiments, the newest first.
    pub fn experiments(&self) -> Result<Vec<ExperimentListing>> {
        let mut counts: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for_each(self.reader, self.snapshot, file::RUNS, self.hears, &mut |run: Run| {
            let count = counts.entry(run.experiment_id).or_default();
            *(if run.lifecycle_stage == DELETED { &mut count.1 } else { &mut count.0 }) += 1;
            Ok(())
        })?;
        let listing = |experiment: Experiment| {
            let (active_runs, deleted_runs) = counts.get(&experiment.experiment_id).copied().unwrap_or_default();
            ExperimentListing { experiment, active_runs, deleted_runs }
        };
        let mut experiments: Vec<_> = self.all::<Experiment>(file::EXPERIMENTS)?.into_iter().map(listing).collect();
        experiments.sort_by_key(|listing| Reverse(listing.experiment.creation_time));
        Ok(experiments)
    }

    /// Finds an experiment by its id or name.
    pub fn experiment(&self, name: &str) -> Result<Experiment> {
        let experiments = self.all::<Experiment>(file::EXPERIMENTS)?;
        let mut by_name = experiments.iter().filter(|it| it.name == name);
        let found = by_name.next().or_else(|| experiments.iter().find(|it| it.experiment_id == name));
        if by_name.next().is_some() {
            return Err(Error::Refused(format!("The experiment {name} is in several workspaces: give its id")));
        }
        found.cloned().ok_or_else(|| self.missing("experiment", name))
    }

    /// Calls `visit` with what every reference of one kind leads to.
    pub fn references(&self, kind: ReferenceKind, visit: &mut dyn FnMut(&Reference)) -> Result<()> {
        for_each(self.reader, self.snapshot, REFERENCES, self.hears, &mut |reference: Reference| {
            if reference.kind == kind {
                visit(&reference);
            }
            Ok(())
        })
    }

    fn pairs(&self, file: &str, visit: &mut dyn FnMut(&str, String, Json)) -> Result<()> {
        for_each(self.reader, self.snapshot, file, self.hears, &mut |pair: Pair| {
            // MLflow keeps 0 for a metric that is not a number, and says so beside it.
            let is_nan = pair.is_nan.as_deref().is_some_and(|text| matches!(text, "1" | "t" | "true"));
            let value = if is_nan { Json::from("NaN") } else { pair.value };
            visit(pair.run_id.as_deref().unwrap_or_default(), pair.key, value);
            Ok(())
        })
    }

    /// Reads a whole file of the catalogue.
    pub fn all<T: serde::de::DeserializeOwned>(&self, file: &str) -> Result<Vec<T>> {
        read_all(self.reader, self.snapshot, file, self.hears)
    }

    fn missing(&self, what: &str, name: &str) -> Error {
        Error::NotFound(format!("The snapshot {} has no {what} {name:?}", self.snapshot.id.short()))
    }
}
