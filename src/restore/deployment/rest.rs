//! Brings a deployment, or a part of one, back through the REST API of a server, from the catalogue, the dump and the
//! artifacts of a snapshot.
//!
//! What must stay true:
//! - What cannot be brought back this way, although the snapshot has it, is in the report.
//! - Rows and files go through a scratch directory: memory grows only with the number of runs and models, disk with the
//!   rows and with the files of one run or model.

mod registry;
mod rows;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value as Json;
use tempfile::TempDir;

use self::rows::{OwnedPair, models_of, runs_of};
use super::row_spool::RowSpool;
use super::selection::Selected;
use super::{DeploymentPart, DeploymentRestore};
use crate::catalogue::reader::{for_each, read_all};
use crate::error::{Error, Result};
use crate::file_system;
use crate::mlflow::catalogue::{Experiment, REFERENCES, Reference, StoredTable, TABLES};
use crate::mlflow::names;
use crate::mlflow::names::{DELETED, file};
use crate::mlflow::roots::Resolved;
use crate::mlflow::schema::{ReferenceKind, RowOwner as Key, Store, TABLES as RESTORED_TABLES};
use crate::restore::{Overwrite, RestoreOptions, run_below};
use crate::source::deployment::{ArtifactPlace, Deployment, Layout};
use crate::tracking::TrackingClient;
use crate::tracking::import::{
    self, ImportExperiment, ImportLoggedModel, ImportRegisteredModel, ImportReport, ImportRun, ImportSource, Note,
    Owner,
};

/// Tables of which nothing has to be brought back: revisions, what servers work with, and sums of other tables.
const VOLATILE_TABLES: [&str; 9] = [
    "alembic_version",
    "alembic_version_auth",
    "job_locks",
    "jobs",
    "scheduler_leases",
    "sql_assessment_daily_rollups",
    "sql_span_cost_daily_rollups",
    "sql_trace_metric_daily_rollups",
    "sql_trace_rollup_rebuild_queue",
];

/// How much would be brought back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RestPlan {
    /// Experiments.
    pub experiments: u64,
    /// Runs.
    pub runs: u64,
    /// Logged models.
    pub logged_models: u64,
    /// Registered models and prompts.
    pub registered_models: u64,
    /// Their versions.
    pub versions: u64,
    /// Files of runs and logged models.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What the snapshot has and the API cannot bring back.
    pub left_out: Vec<Note>,
}

/// A snapshot, made ready to be brought back through a server.
pub struct RestRestore<'a> {
    restore: &'a DeploymentRestore<'a>,
    selected: Option<Selected>,
    spool: RowSpool,
    experiments: Vec<ImportExperiment>,
    registered_models: Vec<ImportRegisteredModel>,
    /// Where files are: component and path.
    files: HashMap<(ReferenceKind, String), (String, String)>,
    /// Where the server's artifact roots are, for those whose files do not go through it.
    layout: Layout,
    plan: RestPlan,
    scratch: TempDir,
}

impl<'a> RestRestore<'a> {
    /// Collects what is to be brought back: what is wanted, or everything. `target` tells where artifact roots of the
    /// server are whose files do not go through it.
    pub fn prepare(
        restore: &'a DeploymentRestore<'a>,
        part: Option<&DeploymentPart>,
        target: &Deployment,
    ) -> Result<Self> {
        restore.hears.monitor.phase("reading the snapshot", None, None);
        let find = |part| Selected::find(&restore.reader, restore.snapshot, part, &restore.hears);
        let parent = std::env::temp_dir();
        let scratch = file_system::scratch_directory().map_err(|source| scratch_fault(&parent, source))?;
        let mut prepared = Self {
            restore,
            selected: part.map(find).transpose()?,
            spool: RowSpool::create(scratch.path())?,
            experiments: Vec::new(),
            registered_models: Vec::new(),
            files: HashMap::new(),
            layout: target.layout()?,
            plan: RestPlan::default(),
            scratch,
        };
        prepared.collect_experiments()?;
        prepared.collect_runs()?;
        prepared.collect_inputs()?;
        prepared.collect_logged_models()?;
        prepared.collect_dump()?;
        prepared.collect_registry()?;
        prepared.collect_files()?;
        prepared.collect_left_out()?;
        prepared.spool.flush()?;
        Ok(prepared)
    }

    /// Returns how much would be brought back.
    pub fn plan(&self) -> &RestPlan {
        &self.plan
    }

    /// Brings it back. Doing it again goes on where it stopped, and makes nothing twice.
    pub fn execute(&self, client: &TrackingClient) -> Result<ImportReport> {
        let mut report = import::import(client, self, &self.restore.hears)?;
        report.left_out.extend(self.plan.left_out.iter().cloned());
        Ok(report)
    }

    fn is_wanted(&self, kind: Key, id: &str) -> bool {
        self.selected.as_ref().is_none_or(|selected| selected.need(kind, &[id]).is_some())
    }

    fn is_version_wanted(&self, name: &str, version: i64) -> bool {
        let number = version.to_string();
        self.selected.as_ref().is_none_or(|selected| selected.need(Key::Version, &[name, &number]).is_some())
    }

    fn leave_out(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.plan.left_out.push(Note { what: what.into(), why: why.into() });
    }

    fn each<T: serde::de::DeserializeOwned>(
        &mut self,
        file: &str,
        visit: &mut dyn FnMut(&mut Self, T) -> Result<()>,
    ) -> Result<()> {
        let DeploymentRestore { reader, snapshot, hears, .. } = self.restore;
        for_each(reader, snapshot, file, hears, &mut |row| visit(self, row))
    }

    fn collect_experiments(&mut self) -> Result<()> {
        let mut tags: HashMap<String, Vec<import::Pair>> = HashMap::new();
        self.each(file::EXPERIMENT_TAGS, &mut |_, tag: OwnedPair| {
            tags.entry(tag.experiment_id).or_default().push((tag.key, text_of(&tag.value)));
            Ok(())
        })?;
        self.each(file::EXPERIMENTS, &mut |this, experiment: Experiment| {
            if this.is_wanted(Key::Experiment, &experiment.experiment_id) {
                this.plan.experiments += 1;
                this.experiments.push(ImportExperiment {
                    tags: tags.remove(&experiment.experiment_id).unwrap_or_default(),
                    id: experiment.experiment_id,
                    name: experiment.name,
                    artifact_location: None,
                    is_deleted: experiment.lifecycle_stage == DELETED,
                });
            }
            Ok(())
        })
    }

    fn collect_files(&mut self) -> Result<()> {
        let mut of_versions = Vec::new();
        self.each(REFERENCES, &mut |this, reference: Reference| {
            let is_wanted = match reference.kind {
                ReferenceKind::Run => this.is_wanted(Key::Run, &reference.id),
                ReferenceKind::LoggedModel => this.is_wanted(Key::LoggedModel, &reference.id),
                ReferenceKind::ModelVersion => {
                    of_versions.push(reference);
                    return Ok(());
                }
                ReferenceKind::Trace => false,
            };
            if !is_wanted {
                return Ok(());
            }
            if let Some(why) = reference.state.lack() {
                this.leave_out(format!("files at {}", reference.uri), why);
            }
            if let (Some(component), Some(path), 1..) = (reference.component, reference.path, reference.files) {
                this.plan.files = this.plan.files.saturating_add(reference.files);
                this.plan.bytes = this.plan.bytes.saturating_add(reference.bytes);
                this.files.insert((reference.kind, reference.id), (component, path));
            }
            Ok(())
        })?;
        self.leave_out_lone_files(of_versions);
        Ok(())
    }

    /// Files of versions that belong to no run and no logged model stay where they were, or were lost.
    fn leave_out_lone_files(&mut self, of_versions: Vec<Reference>) {
        let brought: HashSet<(String, String)> = self.files.values().cloned().collect();
        let is_brought = |component: &str, path: &str| {
            let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
            ends.into_iter().any(|end| brought.contains(&(component.to_owned(), path[..end].to_owned())))
        };
        for reference in of_versions.into_iter().filter(|reference| reference.files > 0) {
            let (Some(component), Some(path)) = (&reference.component, &reference.path) else { continue };
            let is_wanted = reference
                .id
                .rsplit_once('/')
                .is_some_and(|(name, number)| self.is_version_wanted(name, number.parse().unwrap_or_default()));
            if is_wanted && !is_brought(component, path) {
                let why = "they belong to no run and no logged model; restore them as files, with --component";
                self.leave_out(format!("files of version {} at {}", reference.id, reference.uri), why);
            }
        }
    }

    /// What the snapshot has and no import brings back.
    fn collect_left_out(&mut self) -> Result<()> {
        let why = "the import does not bring them back";
        if let Some(selected) = &self.selected {
            let traces = selected.ids(Key::Trace).len();
            if traces > 0 {
                self.leave_out(format!("{traces} traces"), why);
            }
            return Ok(());
        }
        let DeploymentRestore { reader, snapshot, hears, .. } = self.restore;
        let tables: Vec<StoredTable> = read_all(reader, snapshot, TABLES, hears)?;
        let is_trace = |name: &str| {
            let owner = RESTORED_TABLES.iter().find(|table| table.name == name).map(|table| table.owner);
            matches!(owner, Some(Key::Trace | Key::Association))
        };
        let is_brought_back = |name: &str| RESTORED_TABLES.iter().any(|table| table.name == name) && !is_trace(name);
        for StoredTable { store, table } in tables {
            let is_lost = store == Store::Auth || !is_brought_back(&table.name);
            // Every database has the one workspace that is there without workspaces.
            let expected = u64::from(table.name == names::table::WORKSPACES);
            if is_lost && table.rows > expected && !VOLATILE_TABLES.contains(&table.name.as_str()) {
                self.leave_out(format!("{} rows of the table {}", table.rows, table.name), why);
            }
        }
        Ok(())
    }

    fn location(&self, owner: &Owner) -> Option<&(String, String)> {
        let key = match owner {
            Owner::Run(id) => (ReferenceKind::Run, id.clone()),
            Owner::LoggedModel(id) => (ReferenceKind::LoggedModel, id.clone()),
        };
        self.files.get(&key)
    }
}

impl ImportSource for RestRestore<'_> {
    fn experiments(&self) -> Result<Vec<ImportExperiment>> {
        Ok(self.experiments.clone())
    }

    fn runs(&self, experiment: &str, each: &mut dyn FnMut(ImportRun) -> Result<()>) -> Result<()> {
        self.spool.read(&runs_of(experiment), &mut |run| each(self.run(run)?))
    }

    fn logged_models(&self, experiment: &str, each: &mut dyn FnMut(ImportLoggedModel) -> Result<()>) -> Result<()> {
        self.spool.read(&models_of(experiment), &mut |model| each(self.logged_model(model)?))
    }

    fn registered_models(&self) -> Result<Vec<ImportRegisteredModel>> {
        Ok(self.registered_models.clone())
    }

    /// Restores them into the scratch directory, in place of those that were asked for before.
    fn files(&self, owner: &Owner) -> Result<Option<PathBuf>> {
        let Some((component, path)) = self.location(owner) else { return Ok(None) };
        let target = self.scratch.path().join("files");
        match std::fs::remove_dir_all(&target) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(scratch_fault(&target, error)),
            _ => {}
        }
        let DeploymentRestore { reader, hears, .. } = self.restore;
        let options = RestoreOptions::into_directory(&target);
        let selection = self.restore.selection(component, path)?;
        let done = run_below(reader, &selection, &options, hears)?;
        match done.problems {
            0 => Ok(Some(target)),
            problems => Err(Error::damaged(format!("files of {owner}"), format!("{problems} cannot be restored"))),
        }
    }

    fn place(&self, owner: &Owner, uri: &str) -> Result<bool> {
        let Some((component, path)) = self.location(owner) else { return Ok(true) };
        let Resolved::At { component: number, path: below } = self.layout.map.resolve(uri) else { return Ok(false) };
        let place = match &self.layout.components[number].place {
            ArtifactPlace::Directory(directory) => ArtifactPlace::Directory(directory.join(below)),
            ArtifactPlace::Bucket(bucket, options) => ArtifactPlace::Bucket(bucket.below(&below), options.clone()),
        };
        let selection = self.restore.selection(component, path)?;
        let done = self.restore.restore_artifacts(&selection, &place, Overwrite::Always)?;
        self.restore.sync(std::iter::once(&place))?;
        match done.problems {
            0 => Ok(true),
            problems => Err(Error::damaged(format!("files of {owner}"), format!("{problems} cannot be restored"))),
        }
    }
}

fn scratch_fault(path: &Path, source: std::io::Error) -> Error {
    Error::target("write to the scratch directory", path.to_owned(), source)
}

fn text_of(value: &Json) -> String {
    value.as_str().map_or_else(|| if value.is_null() { String::new() } else { value.to_string() }, str::to_owned)
}
