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
use crate::tracking::list::{IS_PROMPT, versions_of};

/// Most numbers in a row that are made and deleted again.
const GAP_MAX: u32 = 1000;

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
        // In the same request: an import that breaks off right after it still knows its own when it is run again.
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
        let known = self.known_versions(model)?;
        let mut versions: Vec<&ImportVersion> = model.versions.iter().collect();
        // In their order, because the server counts up: a number that was passed cannot be had any more.
        versions.sort_by_key(|version| version.number);
        for version in versions {
            let label = format!("{}/{}", model.name, version.number);
            let number = match known.get(&version.number) {
                Some(number) => {
                    self.report.already_there("versions");
                    Some(*number)
                }
                None => self.create_version(model, version)?,
            };
            let Some(number) = number else { continue };
            if number != version.number {
                self.report.changed(format!("version {label}"), format!("its number is {number} now"));
            }
            self.report.ids.versions.insert(label, format!("{}/{number}", model.name));
        }
        Ok(())
    }

    /// Returns the numbers of versions that an earlier import made, by those that they had.
    fn known_versions(&self, model: &ImportRegisteredModel) -> Result<BTreeMap<u32, u32>> {
        let is_prompt = model.tags.iter().any(|(key, _)| key == IS_PROMPT);
        let mut known = BTreeMap::new();
        let Some(list) = versions_of(&model.name, is_prompt) else { return Ok(known) };
        list.read(&self.client, None, &mut |versions| {
            for version in &versions {
                let source = tag_of(json::items(version, "tags"), SOURCE_VERSION).and_then(|tag| tag.parse().ok());
                if let (Some(source), Ok(number)) = (source, json::text(version, "version").parse()) {
                    known.insert(source, number);
                }
            }
            Ok(())
        })?;
        Ok(known)
    }

    /// Makes a version, and deletes it again as long as its number is too low. Returns its number.
    fn create_version(&mut self, model: &ImportRegisteredModel, version: &ImportVersion) -> Result<Option<u32>> {
        let label = format!("version {}/{}", model.name, version.number);
        let Some(source) = new_source(&version.source, &self.report.ids, &self.run_roots) else {
            self.report.left_out(label, "what it was made of was not imported");
            return Ok(None);
        };
        let body = self.version_body(model, version, &source);
        let mut gap = 0;
        let number = loop {
            let created = self.client.write("POST", "/api/2.0/mlflow/model-versions/create", &body);
            let Some(answer) = self.or_note(|| label.clone(), created)? else { return Ok(None) };
            let number: u32 = json::text(&answer["model_version"], "version").parse().unwrap_or_default();
            if number >= version.number || gap == GAP_MAX {
                break number;
            }
            gap += 1;
            // It bears the mark of the wanted version, and must not be taken for it by an import that comes later.
            let unwanted = json!({ "name": model.name, "version": number.to_string() });
            self.client.write("DELETE", "/api/2.0/mlflow/model-versions/delete", &unwanted)?;
        };
        self.report.created("versions");
        if source == version.source && source.contains("://") {
            self.report.changed(label.clone(), format!("its files are still at {source:?}"));
        }
        if !matches!(version.stage.as_str(), "" | "None") {
            let body = json!({ "name": model.name, "version": number.to_string(), "stage": version.stage,
                "archive_existing_versions": false });
            let moved = self.client.write("POST", "/api/2.0/mlflow/model-versions/transition-stage", &body);
            self.or_note(|| format!("stage of {label}"), moved)?;
        }
        Ok(Some(number))
    }

    fn version_body(&self, model: &ImportRegisteredModel, version: &ImportVersion, source: &str) -> Value {
        let number = version.number.to_string();
        let tags = tag_list(borrowed(&version.tags).chain([(SOURCE_VERSION, number.as_str())]));
        let mut body =
            json!({ "name": model.name, "source": source, "description": version.description, "tags": tags });
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
        let (run, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        return Some(format!("runs:/{}{path}", ids.runs.get(run)?));
    }
    // All that a run has may be what a version was made of, with a slash behind it or without.
    let is_rest = |rest: &&str| rest.is_empty() || rest.starts_with('/');
    let below = |root: &str| source.strip_prefix(root).filter(|_| !root.is_empty()).filter(is_rest);
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
            ("runs:/r1", Some("runs:/r2")),
            ("runs:/r1/", Some("runs:/r2/")),
            ("runs:/r9/model", None),
            ("runs:/r9", None),
            ("mlflow-artifacts:/1/r1/artifacts", Some("mlflow-artifacts:/9/r2/artifacts")),
            ("mlflow-artifacts:/1/r1/artifacts/", Some("mlflow-artifacts:/9/r2/artifacts/")),
            ("mlflow-artifacts:/1/r1/artifacts/model", Some("mlflow-artifacts:/9/r2/artifacts/model")),
            ("mlflow-artifacts:/1/r1/artifacts2/model", None),
            ("s3://bucket/model", Some("s3://bucket/model")),
            ("dummy-source", Some("dummy-source")),
        ] {
            assert_eq!(new_source(source, &ids, &roots).as_deref(), expected, "{source}");
        }
    }
}
