//! The model registry: models with their versions and aliases, and prompts, which are kept in it too.

use serde_json::{Value, json};

use super::Export;
use crate::error::{Error, Fault, Result};
use crate::tracking::client::TrackingClient;
use crate::tracking::json;
use crate::tracking::list::{IS_PROMPT, List, versions_of};

const MODELS: &str = "/api/2.0/mlflow/registered-models/search";

impl Export<'_> {
    /// Writes the registered models, each with its versions and where their files are.
    pub(super) fn models(&mut self) -> Result<()> {
        let list = List::get("registered models", MODELS, "registered_models", &["name"]).paged(1000);
        let (models, versions) = self.registered("models.json", &list, false)?;
        self.count("registered_models", models);
        self.count("model_versions", versions);
        Ok(())
    }

    /// Writes the prompts. A search of the registry leaves them out unless it asks for them.
    pub(super) fn prompts(&mut self) -> Result<()> {
        let list = List::get("prompts", MODELS, "registered_models", &["name"])
            .with("filter", format!("tags.`{IS_PROMPT}` = 'true'"))
            .paged(1000);
        let (prompts, versions) = self.registered("prompts.json", &list, true)?;
        self.count("prompts", prompts);
        self.count("prompt_versions", versions);
        Ok(())
    }

    fn registered(&mut self, file: &str, list: &List, is_prompt: bool) -> Result<(usize, usize)> {
        let mut array = self.files.array(file)?;
        let mut versions = 0;
        self.stream(list, &mut |export, models| {
            for mut model in models {
                let name = json::text(&model, "name").to_owned();
                let found = export.versions(&name, is_prompt)?;
                versions += found.len();
                // All versions say the same, and the order of these depends on the database.
                json::take(&mut model, "latest_versions");
                json::set(&mut model, "versions", json!(found));
                array.push(&model)?;
            }
            Ok(())
        })?;
        Ok((array.finish()? as usize, versions))
    }

    /// Returns the versions of a model, in order of their numbers.
    fn versions(&mut self, name: &str, is_prompt: bool) -> Result<Vec<Value>> {
        let Some(list) = versions_of(name, is_prompt) else {
            let error = Error::tracking(Fault::Other, "search", self.client.uri(), "the name has both kinds of quotes");
            return self.summary.pass_over(&format!("versions of {name:?}"), error).map(|()| Vec::new());
        };
        let mut versions = self.optional(&list)?;
        if !is_prompt {
            let numbers: Vec<String> =
                versions.iter().map(|version| json::text(version, "version").to_owned()).collect();
            let locations = self.details(
                &numbers,
                |number| format!("storage location of {name:?} version {number}"),
                |client, number| storage_location(client, name, number),
            )?;
            for (version, location) in versions.iter_mut().zip(locations) {
                json::set(version, "storage_location", location.unwrap_or_default());
            }
        }
        Ok(versions)
    }
}

fn storage_location(client: &TrackingClient, name: &str, version: &str) -> Result<Value> {
    let query = [("name", name), ("version", version)];
    let mut answer = client.get("/api/2.0/mlflow/model-versions/get-download-uri", &query)?;
    Ok(json::take(&mut answer, "artifact_uri"))
}
