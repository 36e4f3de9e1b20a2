//! Compares what two snapshots say of an MLflow deployment: models, versions, aliases, runs, experiments.
//!
//! MLflow keeps no history of any of this: which version an alias stood for last month is only in snapshots.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Change, ChangeKind, DiffOptions, snapshots};
use crate::catalogue::reader::read_all;
use crate::chunks::reader::ChunkReader;
use crate::error::Result;
use crate::format::snapshot::ARTIFACTS;
use crate::hears::Hears;
use crate::mlflow::catalogue::{
    Alias, Experiment, LoggedModel, ModelVersion, REFERENCES, Reference, RegisteredModel, Run,
};
use crate::mlflow::names::{DELETED, file};
use crate::mlflow::schema::ReferenceKind;
use crate::repository::Repository;
use crate::repository::snapshots::Snapshot;

/// What kind of thing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// An experiment.
    Experiment,
    /// A run.
    Run,
    /// A logged model.
    LoggedModel,
    /// A registered model or prompt.
    RegisteredModel,
    /// A version of one.
    ModelVersion,
    /// An alias.
    Alias,
    /// A file of one of these.
    Artifact,
}

/// How it changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// It is new.
    Added,
    /// Its row is gone.
    Removed,
    /// It is marked as deleted.
    Deleted,
    /// It is no longer marked as deleted.
    Restored,
    /// It has another name.
    Renamed,
    /// It stands for something else.
    Moved,
    /// It has another status, stage or source.
    Changed,
    /// It was overwritten in place.
    Overwritten,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MlflowChange {
    /// What kind of thing.
    pub subject: Subject,
    /// How it changed.
    pub how: How,
    /// Its id or name; for a version `name/version`, for an artifact its path in the snapshot.
    pub id: String,
    /// What it was, where that says more than the id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    /// What it is, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
}

/// The side of a thing that is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Thing {
    name: String,
    state: String,
    is_deleted: bool,
}

type Things = BTreeMap<String, Thing>;

/// Compares two snapshots of deployments. Memory grows with the number of runs.
pub fn compare(repository: &Arc<Repository>, [old, new]: [&Snapshot; 2], hears: &Hears) -> Result<Vec<MlflowChange>> {
    let reader = ChunkReader::new(Arc::clone(repository));
    let mut changes = Vec::new();
    let of = |snapshot| SnapshotCatalogue { reader: &reader, snapshot, hears };
    let (old_side, new_side) = (of(old), of(new));
    compare_things(Subject::Experiment, &old_side.experiments()?, &new_side.experiments()?, &mut changes);
    compare_things(Subject::RegisteredModel, &old_side.models()?, &new_side.models()?, &mut changes);
    compare_things(Subject::ModelVersion, &old_side.versions()?, &new_side.versions()?, &mut changes);
    compare_things(Subject::Alias, &old_side.aliases()?, &new_side.aliases()?, &mut changes);
    compare_things(Subject::Run, &old_side.runs()?, &new_side.runs()?, &mut changes);
    compare_things(Subject::LoggedModel, &old_side.logged_models()?, &new_side.logged_models()?, &mut changes);
    overwritten(repository, [old, new], &new_side, &mut changes)?;
    Ok(changes)
}

/// One snapshot.
struct SnapshotCatalogue<'a> {
    reader: &'a ChunkReader,
    snapshot: &'a Snapshot,
    hears: &'a Hears,
}

impl SnapshotCatalogue<'_> {
    fn all<T: DeserializeOwned>(&self, file: &str) -> Result<Vec<T>> {
        read_all(self.reader, self.snapshot, file, self.hears)
    }

    fn experiments(&self) -> Result<Things> {
        let thing = |it: Experiment| {
            let is_deleted = it.lifecycle_stage == DELETED;
            (it.experiment_id, Thing { name: it.name, state: String::new(), is_deleted })
        };
        Ok(self.all(file::EXPERIMENTS)?.into_iter().map(thing).collect())
    }

    fn models(&self) -> Result<Things> {
        let thing =
            |it: RegisteredModel| (it.name, Thing { name: String::new(), state: String::new(), is_deleted: false });
        Ok(self.all(file::REGISTERED_MODELS)?.into_iter().map(thing).collect())
    }

    fn versions(&self) -> Result<Things> {
        let thing = |it: ModelVersion| {
            let is_deleted = it.is_deleted();
            let facts = [it.status, it.stage, it.source].map(Option::unwrap_or_default);
            // A deleted version loses its source.
            let state = if is_deleted { String::new() } else { facts.join(" ") };
            (format!("{}/{}", it.name, it.version), Thing { name: String::new(), state, is_deleted })
        };
        Ok(self.all(file::MODEL_VERSIONS)?.into_iter().map(thing).collect())
    }

    fn aliases(&self) -> Result<Things> {
        let thing = |it: Alias| {
            let state = format!("{}/{}", it.name, it.version);
            (format!("{}@{}", it.name, it.alias), Thing { name: String::new(), state, is_deleted: false })
        };
        Ok(self.all(file::ALIASES)?.into_iter().map(thing).collect())
    }

    fn runs(&self) -> Result<Things> {
        let thing = |it: Run| {
            let is_deleted = it.lifecycle_stage == DELETED;
            let (name, state) = (it.name.unwrap_or_default(), it.status.unwrap_or_default());
            (it.run_id, Thing { name, state, is_deleted })
        };
        Ok(self.all(file::RUNS)?.into_iter().map(thing).collect())
    }

    fn logged_models(&self) -> Result<Things> {
        let thing = |it: LoggedModel| {
            let is_deleted = it.lifecycle_stage == DELETED;
            let name = it.name.unwrap_or_default();
            (it.model_id, Thing { name, state: it.status.map(|it| it.to_string()).unwrap_or_default(), is_deleted })
        };
        Ok(self.all(file::LOGGED_MODELS)?.into_iter().map(thing).collect())
    }
}

fn compare_things(subject: Subject, old: &Things, new: &Things, changes: &mut Vec<MlflowChange>) {
    let shown = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mut push = |how, id: &str, before: Option<&str>, after: Option<&str>| {
        let (old, new) = (before.and_then(shown), after.and_then(shown));
        changes.push(MlflowChange { subject, how, id: id.to_owned(), old, new });
    };
    for (id, was) in old {
        let Some(is) = new.get(id) else {
            let before = if was.name.is_empty() { &was.state } else { &was.name };
            push(How::Removed, id, Some(before), None);
            continue;
        };
        match (was.is_deleted, is.is_deleted) {
            (false, true) => push(How::Deleted, id, Some(&was.name), None),
            (true, false) => push(How::Restored, id, None, Some(&is.name)),
            _ => {}
        }
        if was.name != is.name {
            push(How::Renamed, id, Some(&was.name), Some(&is.name));
        }
        if was.state != is.state && was.is_deleted == is.is_deleted {
            let how = if subject == Subject::Alias { How::Moved } else { How::Changed };
            push(how, id, Some(&was.state), Some(&is.state));
        }
    }
    for (id, is) in new.iter().filter(|(id, _)| !old.contains_key(*id)) {
        let after = if is.name.is_empty() { &is.state } else { &is.name };
        push(How::Added, id, None, Some(after));
    }
}

/// Finds files that are at the same place with another content, and whose they are.
fn overwritten(
    repository: &Arc<Repository>,
    [old, new]: [&Snapshot; 2],
    side: &SnapshotCatalogue<'_>,
    changes: &mut Vec<MlflowChange>,
) -> Result<()> {
    let has_artifacts =
        |snapshot: &Snapshot| snapshot.record.components.iter().any(|component| component.name.starts_with(ARTIFACTS));
    if !has_artifacts(old) || !has_artifacts(new) {
        return Ok(());
    }
    let options = DiffOptions { path: ARTIFACTS.as_bytes().to_vec(), metadata: false };
    let mut modified = Vec::new();
    let mut visit = |change: Change| {
        if change.kind == ChangeKind::Modified {
            modified.push(String::from_utf8_lossy(&change.path).into_owned());
        }
        Ok(())
    };
    snapshots(repository, [old, new], &options, &mut visit, side.hears)?;
    if modified.is_empty() {
        return Ok(());
    }
    let owners: BTreeMap<String, String> = side
        .all::<Reference>(REFERENCES)?
        .into_iter()
        .filter_map(|it| {
            let what = match it.kind {
                ReferenceKind::Run => "run",
                ReferenceKind::LoggedModel => "logged model",
                ReferenceKind::ModelVersion => "version",
                ReferenceKind::Trace => "trace",
            };
            Some((format!("{}/{}/", it.component?, it.path?), format!("{what} {}", it.id)))
        })
        .collect();
    changes.extend(modified.into_iter().map(|path| {
        let owner = owner_of(&owners, &path);
        MlflowChange { subject: Subject::Artifact, how: How::Overwritten, old: None, new: owner, id: path }
    }));
    Ok(())
}

/// Returns whose a file is: of the longest place that it lies in.
fn owner_of(owners: &BTreeMap<String, String>, path: &str) -> Option<String> {
    let mut end = path.len();
    while let Some(at) = path[..end].rfind('/') {
        if let Some(owner) = owners.get(&path[..=at]) {
            return Some(owner.clone());
        }
        end = at;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn things(list: &[(&str, &str, &str, bool)]) -> Things {
        list.iter()
            .map(|(id, name, state, is_deleted)| {
                let thing = Thing { name: (*name).into(), state: (*state).into(), is_deleted: *is_deleted };
                ((*id).to_owned(), thing)
            })
            .collect()
    }

    #[test]
    fn each_kind_of_change_is_told_once() {
        let old = things(&[
            ("a", "one", "x", false),
            ("b", "", "m/1", false),
            ("c", "", "", false),
            ("d", "", "", true),
            ("e", "", "", false),
        ]);
        let new = things(&[
            ("a", "uno", "x", false),
            ("b", "", "m/2", false),
            ("c", "", "", true),
            ("d", "", "", false),
            ("f", "", "m/3", false),
        ]);
        let mut changes = Vec::new();
        compare_things(Subject::Alias, &old, &new, &mut changes);
        let hows: Vec<_> = changes.iter().map(|change| (change.id.as_str(), change.how)).collect();
        assert_eq!(
            hows,
            [
                ("a", How::Renamed),
                ("b", How::Moved),
                ("c", How::Deleted),
                ("d", How::Restored),
                ("e", How::Removed),
                ("f", How::Added)
            ]
        );
    }

    #[test]
    fn a_file_belongs_to_the_innermost_place() {
        let owners: BTreeMap<_, _> = [
            ("artifacts/a/1/".to_owned(), "run r".to_owned()),
            ("artifacts/a/1/m/".to_owned(), "version v/1".to_owned()),
        ]
        .into();
        assert_eq!(owner_of(&owners, "artifacts/a/1/m/x.bin").as_deref(), Some("version v/1"));
        assert_eq!(owner_of(&owners, "artifacts/a/1/y").as_deref(), Some("run r"));
        assert_eq!(owner_of(&owners, "artifacts/b/y"), None);
    }
}
