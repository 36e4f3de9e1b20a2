//! Registered models and their versions, as an import takes them.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{RestRestore, text_of};
use crate::catalogue::browse::Browser;
use crate::error::Result;
use crate::mlflow::catalogue::{Alias, ModelVersion, Pair, RegisteredModel};
use crate::mlflow::names::file;
use crate::mlflow::schema::RowOwner as Key;
use crate::mlflow::uri::{self, VersionSource};
use crate::restore::deployment::DeploymentRestore;
use crate::tracking::import::{self, ImportRegisteredModel, ImportVersion};

/// How many versions may be copies of one another in a row.
const COPIES_MAX: usize = 16;

impl RestRestore<'_> {
    pub(super) fn collect_registry(&mut self) -> Result<()> {
        let DeploymentRestore { reader, snapshot, hears, .. } = self.restore;
        let browser = Browser { reader, snapshot, hears };
        let all: Vec<ModelVersion> = browser.all(file::MODEL_VERSIONS)?;
        let by_key: HashMap<(&str, String), &ModelVersion> =
            all.iter().map(|version| ((version.name.as_str(), version.version.to_string()), version)).collect();
        let mut versions: BTreeMap<&str, Vec<ImportVersion>> = BTreeMap::new();
        let mut tags = version_tags(&browser)?;
        for version in all.iter().filter(|version| !version.is_deleted()) {
            if self.is_version_wanted(&version.name, version.version) {
                let mut imported = import_version(version, tags.remove(&(version.name.clone(), version.version)));
                imported.source = self.reachable_source(version, &by_key);
                versions.entry(&version.name).or_default().push(imported);
            }
        }
        let mut model_tags: HashMap<String, Vec<import::Pair>> = HashMap::new();
        for tag in browser.all::<Pair>(file::REGISTERED_MODEL_TAGS)? {
            model_tags.entry(tag.name.unwrap_or_default()).or_default().push((tag.key, text_of(&tag.value)));
        }
        let mut aliases: HashMap<String, Vec<(String, u32)>> = HashMap::new();
        for alias in browser.all::<Alias>(file::ALIASES)? {
            if self.is_version_wanted(&alias.name, alias.version) {
                aliases.entry(alias.name).or_default().push((alias.alias, number(alias.version)));
            }
        }
        let mut models = Vec::new();
        for model in browser.all::<RegisteredModel>(file::REGISTERED_MODELS)? {
            if self.is_wanted(Key::RegisteredModel, &model.name) {
                let name = &model.name;
                models.push(ImportRegisteredModel {
                    tags: model_tags.remove(name).unwrap_or_default(),
                    aliases: aliases.remove(name).unwrap_or_default(),
                    versions: versions.remove(name.as_str()).unwrap_or_default(),
                    description: model.description.unwrap_or_default(),
                    name: model.name,
                });
            }
        }
        self.plan.registered_models = models.len() as u64;
        self.plan.versions = models.iter().map(|model| model.versions.len() as u64).sum();
        self.registered_models = originals_first(models);
        Ok(())
    }

    /// Returns the source of a version; that of the version which it is a copy of, if that one is not brought back.
    fn reachable_source(&self, version: &ModelVersion, versions: &HashMap<(&str, String), &ModelVersion>) -> String {
        let mut source = version.source.as_deref().unwrap_or_default();
        for _ in 0..COPIES_MAX {
            let VersionSource::Version { name, version } = uri::version_source(source) else { break };
            let Some(original) = versions.get(&(name, version.to_owned())) else { break };
            if !original.is_deleted() && self.is_version_wanted(&original.name, original.version) {
                break;
            }
            source = original.source.as_deref().unwrap_or_default();
        }
        source.to_owned()
    }
}

fn number(version: i64) -> u32 {
    u32::try_from(version).unwrap_or_default()
}
fn version_tags(browser: &Browser<'_>) -> Result<HashMap<(String, i64), Vec<import::Pair>>> {
    let mut tags: HashMap<(String, i64), Vec<import::Pair>> = HashMap::new();
    for tag in browser.all::<Pair>(file::MODEL_VERSION_TAGS)? {
        let key = (tag.name.unwrap_or_default(), tag.version.unwrap_or_default());
        tags.entry(key).or_default().push((tag.key, text_of(&tag.value)));
    }
    Ok(tags)
}

fn import_version(version: &ModelVersion, tags: Option<Vec<import::Pair>>) -> ImportVersion {
    ImportVersion {
        number: number(version.version),
        source: String::new(),
        run: version.run_id.clone().filter(|run| !run.is_empty()),
        description: version.description.clone().unwrap_or_default(),
        stage: version.stage.clone().unwrap_or_default(),
        tags: tags.unwrap_or_default(),
    }
}

/// Orders models so that those whose versions others are copies of come first, as far as they do not copy each other.
fn originals_first(models: Vec<ImportRegisteredModel>) -> Vec<ImportRegisteredModel> {
    let mut waiting = models;
    let mut ordered = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let names: HashSet<String> = waiting.iter().map(|model| model.name.clone()).collect();
        let is_original = |model: &ImportRegisteredModel| {
            model.versions.iter().all(|version| match uri::version_source(&version.source) {
                VersionSource::Version { name, .. } => name == model.name || !names.contains(name),
                _ => true,
            })
        };
        let (mut originals, copies): (Vec<_>, Vec<_>) = waiting.into_iter().partition(is_original);
        waiting = copies;
        if originals.is_empty() {
            ordered.append(&mut waiting);
        }
        ordered.append(&mut originals);
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, sources: &[&str]) -> ImportRegisteredModel {
        let version = |source: &&str| ImportVersion { source: (*source).to_owned(), ..ImportVersion::default() };
        let versions = sources.iter().map(version).collect();
        ImportRegisteredModel { name: name.to_owned(), versions, ..ImportRegisteredModel::default() }
    }

    #[test]
    fn originals_come_before_their_copies_and_circles_end() {
        let names = |models| -> Vec<String> { originals_first(models).into_iter().map(|model| model.name).collect() };
        let chain = vec![model("a", &["models:/b/1"]), model("b", &["models:/c/1", "models:/b/1"]), model("c", &["x"])];
        assert_eq!(names(chain), ["c", "b", "a"]);
        assert_eq!(names(vec![model("a", &["models:/b/1"]), model("b", &["models:/a/1"])]), ["a", "b"]);
    }
}
