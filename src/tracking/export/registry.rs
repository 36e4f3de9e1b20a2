//! The model registry: models with their versions and aliases, and prompts, which are kept in it too.

use serde_json::{Value, json};

use super::Export;
use crate::error::{Error, Fault, Result};
use crate::tracking::client::TrackingClient;
use crate::tracking::json;
use crate::tracking::list::List;

const MODELS: &str = "/api/2.0/mlflow/registered-models/search";
const VERSIONS: &str = "/api/2.0/mlflow/model-versions/search";

impl Export<'_> {
    /// Writes the registered models, each with its versions and where their files are.
    pub(super) fn models(&mut self) -> Result<()> {
        let list = List::get("registered models", MODELS, "registered_models", &["name"]).paged(1000);
        let (models, versions) = self.registered("models.json", &list, "", true)?;
        self.count("registered_models", models);
        self.count("model_versions", versions);
        Ok(())
    }

    /// Writes the prompts. A search of the registry leaves them out unless it asks for them.
    pub(super) fn prompts(&mut self) -> Result<()> {
        let list = List::get("prompts", MODELS, "registered_models", &["name"])
            .with("filter", "tags.`mlflow.prompt.is_prompt` = 'true'")
            .paged(1000);
        let condition = " AND tag.`mlflow.prompt.is_prompt` = 'true'";
        let (prompts, versions) = self.registered("prompts.json", &list, condition, false)?;
        self.count("prompts", prompts);
        self.count("prompt_versions", versions);
        Ok(())
    }

    fn registered(&mut self, file: &str, list: &List, condition: &str, has_files: bool) -> Result<(usize, usize)> {
        let mut array = self.files.array(file)?;
        let mut versions = 0;
        self.stream(list, &mut |export, models| {
            for mut model in models {
                let name = json::text(&model, "name").to_owned();
                let found = export.versions(&name, condition, has_files)?;
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
    fn versions(&mut self, name: &str, condition: &str, has_files: bool) -> Result<Vec<Value>> {
        let what = format!("versions of {name:?}");
        let Some(quoted) = quote(name) else {
            let error =
                Error::tracking(Fault::Other, "search for", self.client.uri(), "its name has both kinds of quotes");
            return self.summary.pass_over(&what, error).map(|()| Vec::new());
        };
        let list = List::get(what, VERSIONS, "model_versions", &["version"])
            .with("filter", format!("name = {quoted}{condition}"))
            .paged(10_000);
        let mut versions = self.optional(&list)?;
        if has_files {
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

/// Quotes a name for a filter, which has no way to escape a quote.
fn quote(name: &str) -> Option<String> {
    ['\'', '"'].into_iter().find(|quote| !name.contains(*quote)).map(|quote| format!("{quote}{name}{quote}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_with_the_quote_that_they_do_not_have() {
        assert_eq!(quote("a b").unwrap(), "'a b'");
        assert_eq!(quote("it's").unwrap(), "\"it's\"");
        assert_eq!(quote("'\""), None);
    }
}
