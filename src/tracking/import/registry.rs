//! Registered models, prompts and their versions on their way back.
//!
//! A server numbers versions itself, one after the other. A number that was deleted is made and deleted again, so that
//! all others keep theirs.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::report::IdMap;
use super::{Import, ImportRegisteredModel, ImportVersion, SOURCE_NAME, SOURCE_VERSION, borrowed, tag_list, tag_of};
use crate::error::{Fault, Result};
use crate::tracking::json;

/// Most numbers in a row that are made and deleted again.
const GAP_MAX: u32 = 1000;
/// Highest number that a version can have: the column holds 32 bits with a sign.
const FIRST: u32 = 1;

impl Import<'_> {
    /// Brings back a registered model with its versions and aliases, unless the server has another of that name.
    pub(super) fn registered_model(&mut self, model: &ImportRegisteredModel) -> Result<()> {
        let name = &model.name;
        let found = self.client.get("/api/2.0/mlflow/registered-models/get", &[("name", name)]);
        match found {
            Ok(answer) => {
                if tag_of(json::items(&answer["registered_model"], "tags"), SOURCE_NAME) != Some(name) {
                    self.report.left_out(format!("registered model {name:?}"), "the server has one of that name");
                    return Ok(());
                }
                self.report.already_there("registered_models");
            }
            Err(error) if error.fault() == Some(Fault::NotFound) => {
                if !self.create_registered(model)? {
                    return Ok(());
                }
            }
            Err(error) => return Err(error),
        }
        self.versions(model)?;
        self.aliases(model)
    }

    fn create_registered(&mut self, model: &ImportRegisteredModel) -> Result<bool> {
        let tags = tag_list(borrowed(&model.tags).chain([(SOURCE_NAME, model.name.as_str())]));
        let body = json!({ "name": model.name, "description": model.description, "tags": tags });
        let created = self.client.write("POST", "/api/2.0/mlflow/registered-models/create", &body);
        let is_created = self.or_note(|| format!("registered model {:?}", model.name), created)?.is_some();
        if is_created {
            self.report.created("registered_models");
        }
        Ok(is_created)
    }

    fn versions(&mut self, model: &ImportRegisteredModel) -> Result<()> {
        let mut known = self.known_versions(model)?;
        let mut next = known.values().max().map_or(FIRST, |number| number + 1);
        let mut versions: Vec<&ImportVersion> = model.versions.iter().collect();
        versions.sort_by_key(|version| version.number);
        for version in versions {
            let label = format!("{}/{}", model.name, version.number);
            if let Some(number) = known.remove(&version.number) {
                self.report.already_there("versions");
                self.report.ids.versions.insert(label, format!("{}/{number}", model.name));
                continue;
            }
            let Some(source) = new_source(&version.source, &self.report.ids, &self.run_roots) else {
                self.report.left_out(format!("version {label}"), "what it was made of was not imported");
                continue;
            };
            next = self.fill_gap(model, version, &source, next)?;
            if let Some(number) = self.create_version(model, version, &source)? {
                next = number + 1;
                self.report.ids.versions.insert(label.clone(), format!("{}/{number}", model.name));
                if number != version.number {
                    self.report.changed(format!("version {label}"), format!("its number is {number} now"));
                }
            }
        }
        Ok(())
    }

    /// Returns the numbers of versions that an earlier import made, by those that they had.
    fn known_versions(&self, model: &ImportRegisteredModel) -> Result<BTreeMap<u32, u32>> {
        let mut known = BTreeMap::new();
        for version in &model.versions {
            // Numbers are kept, but for a gap that is too long: so the version is at its number, or nowhere.
            let query = [("name", model.name.as_str()), ("version", &version.number.to_string())];
            match self.client.get("/api/2.0/mlflow/model-versions/get", &query) {
                Ok(answer) => {
                    let tag = tag_of(json::items(&answer["model_version"], "tags"), SOURCE_VERSION);
                    if let Some(source) = tag.and_then(|tag| tag.parse().ok()) {
                        known.insert(source, version.number);
                    }
                }
                Err(error) if error.fault() == Some(Fault::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(known)
    }

    /// Makes and deletes the versions between `next` and this one. Returns the number that comes next.
    fn fill_gap(
        &mut self,
        model: &ImportRegisteredModel,
        version: &ImportVersion,
        source: &str,
        next: u32,
    ) -> Result<u32> {
        let gap = version.number.saturating_sub(next);
        if gap > GAP_MAX {
            return Ok(next);
        }
        for _ in 0..gap {
            let body = self.version_body(model, version, source);
            let created = self.client.write("POST", "/api/2.0/mlflow/model-versions/create", &body);
            let Some(answer) = self.or_note(|| format!("a number of {:?}", model.name), created)? else { break };
            let number = json::text(&answer["model_version"], "version");
            let body = json!({ "name": model.name, "version": number });
            self.client.write("DELETE", "/api/2.0/mlflow/model-versions/delete", &body)?;
        }
        Ok(next + gap)
    }

    fn create_version(
        &mut self,
        model: &ImportRegisteredModel,
        version: &ImportVersion,
        source: &str,
    ) -> Result<Option<u32>> {
        let label = format!("version {}/{}", model.name, version.number);
        let mut body = self.version_body(model, version, source);
        let number = version.number.to_string();
        body["tags"] = tag_list(borrowed(&version.tags).chain([(SOURCE_VERSION, number.as_str())]));
        let created = self.client.write("POST", "/api/2.0/mlflow/model-versions/create", &body);
        let Some(answer) = self.or_note(|| label.clone(), created)? else { return Ok(None) };
        self.report.created("versions");
        if source == version.source && source.contains("://") {
            self.report.changed(label.clone(), format!("its files are still at {source:?}"));
        }
        let number = json::text(&answer["model_version"], "version").to_owned();
        if !matches!(version.stage.as_str(), "" | "None") {
            let body = json!({ "name": model.name, "version": number, "stage": version.stage,
                "archive_existing_versions": false });
            let moved = self.client.write("POST", "/api/2.0/mlflow/model-versions/transition-stage", &body);
            self.or_note(|| format!("stage of {label}"), moved)?;
        }
        Ok(number.parse().ok())
    }

    fn version_body(&self, model: &ImportRegisteredModel, version: &ImportVersion, source: &str) -> Value {
        let mut body = json!({ "name": model.name, "source": source, "description": version.description });
        if let Some(run) = version.run.as_ref().and_then(|run| self.report.ids.runs.get(run)) {
            body["run_id"] = json!(run);
        }
        if let Some(id) = source.strip_prefix("models:/").filter(|id| id.starts_with("m-") && !id.contains('/')) {
            body["model_id"] = json!(id);
        }
        body
    }

    fn aliases(&mut self, model: &ImportRegisteredModel) -> Result<()> {
        for (alias, number) in &model.aliases {
            let label = format!("{}/{number}", model.name);
            let Some(new) = self.report.ids.versions.get(&label).and_then(|new| new.rsplit('/').next()) else {
                self.report.left_out(format!("alias {alias:?} of {label}"), "the version was not imported");
                continue;
            };
            let body = json!({ "name": model.name, "alias": alias, "version": new });
            let set = self.client.write("POST", "/api/2.0/mlflow/registered-models/alias", &body);
            self.or_note(|| format!("alias {alias:?} of {label}"), set)?;
        }
        Ok(())
    }
}

/// Returns the source of a version in terms of the new ids; none if what it names was not imported.
fn new_source(source: &str, ids: &IdMap, run_roots: &HashMap<String, (String, String)>) -> Option<String> {
    if let Some(model) = source.strip_prefix("models:/") {
        return match model.starts_with("m-") && !model.contains('/') {
            true => Some(format!("models:/{}", ids.logged_models.get(model)?)),
            false => Some(format!("models:/{}", ids.versions.get(model)?)),
        };
    }
    if let Some(rest) = source.strip_prefix("runs:/") {
        let (run, path) = rest.split_once('/')?;
        return Some(format!("runs:/{}/{path}", ids.runs.get(run)?));
    }
    let below = |root: &str| source.strip_prefix(root).filter(|rest| !root.is_empty() && rest.starts_with('/'));
    let moved = run_roots.values().find_map(|(old, new)| Some(format!("{new}{}", below(old)?)));
    moved.or_else(|| (!source.starts_with("mlflow-artifacts:")).then(|| source.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_of_versions_follow_what_they_name() {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let ids = IdMap {
            runs: map(&[("r1", "r2")]),
            logged_models: map(&[("m-1", "m-2")]),
            versions: map(&[("a/3", "a/1")]),
            ..IdMap::default()
        };
        let root = ("mlflow-artifacts:/1/r1/artifacts".to_owned(), "mlflow-artifacts:/9/r2/artifacts".to_owned());
        let roots = HashMap::from([("r1".to_owned(), root)]);
        for (source, expected) in [
            ("models:/m-1", Some("models:/m-2")),
            ("models:/m-9", None),
            ("models:/a/3", Some("models:/a/1")),
            ("models:/a/4", None),
            ("runs:/r1/some/model", Some("runs:/r2/some/model")),
            ("runs:/r9/model", None),
            ("mlflow-artifacts:/1/r1/artifacts/model", Some("mlflow-artifacts:/9/r2/artifacts/model")),
            ("mlflow-artifacts:/1/r1/artifacts2/model", None),
            ("s3://bucket/model", Some("s3://bucket/model")),
            ("dummy-source", Some("dummy-source")),
        ] {
            assert_eq!(new_source(source, &ids, &roots).as_deref(), expected, "{source}");
        }
    }
}
