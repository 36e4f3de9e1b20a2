//! The metadata of a deployment as files of JSON, read through the REST API. `docs/metadata.md` lists the files.
//!
//! What must stay true:
//! - An unchanged deployment gives the same bytes, whatever order its database finds rows in.
//! - `summary.json` is written last: without it an export is not whole. What is missing is named in it.
//! - Memory holds some items and the ids of one list, never a whole list of runs or traces.
//! - Nothing that is asked for changes the server; so label schemas are not asked for: listing them creates one.

mod experiments;
mod files;
mod genai;
mod registry;
mod server;
mod summary;

use std::path::Path;

use serde_json::{Value, json};

use self::files::Files;
pub use self::summary::{ExportSummary, LIMITS, Limit, NotExported, Skew};
use super::client::TrackingClient;
use super::json;
use super::list::List;
use crate::error::{Error, Result};
use crate::hears::Hears;
use crate::monitor::{Counter, Monitor};
use crate::parallel;

/// Items whose details are in memory at once, for each request that is under way.
const DETAILS_FOR_A_REQUEST: usize = 4;

/// How an export is made.
#[derive(Debug, Clone, Copy)]
pub struct ExportOptions {
    /// Most items of a page; none for what suits each list.
    pub page_items_max: Option<u32>,
    /// Requests that are under way at once.
    pub requests: usize,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self { page_items_max: None, requests: 4 }
    }
}

/// Writes the metadata of a deployment into an empty directory, one folder for each workspace if there are several.
///
/// Fails if the server cannot be reached or does not let us in, and then leaves no `summary.json`. What the server does
/// not offer, or fails to tell, does not stop the export and is in the summary.
pub fn export(
    client: &TrackingClient,
    directory: &Path,
    options: ExportOptions,
    hears: &Hears,
) -> Result<ExportSummary> {
    let client = client.heard_by(hears);
    let monitor = hears.monitor.as_ref();
    let files = Files::open(directory)?;
    monitor.phase("metadata", None, None);
    let mut summary = ExportSummary::new(client.version()?);
    let info = match client.server_info() {
        Ok(info) => info,
        Err(error) => summary.pass_over("server information", error).map(|()| Value::Null)?,
    };
    let has_workspaces = info["workspaces_enabled"] == json!(true) && client.workspace().is_none();
    files.write("server.json", &json!({ "version": summary.mlflow_version, "info": info }))?;
    let mut export = Export { client, files, options, monitor, summary: &mut summary };
    export.users()?;
    if has_workspaces {
        export.workspaces()?
    } else {
        export.workspace()?
    }
    // A server that died at the end must not look like one that has nothing to tell.
    export.client.health()?;
    let Export { files, .. } = export;
    let record = serde_json::to_value(&summary).map_err(|error| Error::Internal(error.to_string()))?;
    files.write("summary.json", &record)?;
    files.finish()?;
    Ok(summary)
}

/// An export under way, in one workspace.
struct Export<'a> {
    client: TrackingClient,
    files: Files,
    options: ExportOptions,
    monitor: &'a dyn Monitor,
    summary: &'a mut ExportSummary,
}

impl Export<'_> {
    fn workspaces(&mut self) -> Result<()> {
        let list = List::get("workspaces", "/api/3.0/mlflow/workspaces", "workspaces", &["name"]);
        let workspaces = self.required(&list)?;
        self.files.write_all("workspaces.json", &workspaces)?;
        self.count("workspaces", workspaces.len());
        for workspace in &workspaces {
            let name = json::text(workspace, "name");
            Export {
                client: self.client.with_workspace(name),
                files: self.files.below("workspaces").below(&files::name(name)),
                options: self.options,
                monitor: self.monitor,
                summary: &mut *self.summary,
            }
            .workspace()?;
        }
        Ok(())
    }

    fn workspace(&mut self) -> Result<()> {
        let experiments = self.experiments()?;
        for experiment in &experiments {
            self.runs(experiment)?;
            self.logged_models(experiment)?;
            self.traces(experiment)?;
        }
        self.models()?;
        self.prompts()?;
        self.evaluation_sets()?;
        self.reviews(&experiments)?;
        self.settings()
    }

    /// Reads a list without which there is no export.
    fn required(&mut self, list: &List) -> Result<Vec<Value>> {
        let (items, difference) = list.collect(&self.client, self.options.page_items_max)?;
        self.summary.note_difference(&list.what, difference);
        Ok(items)
    }

    /// Reads a list that may be missing: none of its items then, and a note in the summary.
    fn optional(&mut self, list: &List) -> Result<Vec<Value>> {
        match self.required(list) {
            Ok(items) => Ok(items),
            Err(error) => self.summary.pass_over(&list.what, error).map(|()| Vec::new()),
        }
    }

    /// Reads a long list, some items at a time.
    fn stream(&mut self, list: &List, each: &mut dyn FnMut(&mut Self, Vec<Value>) -> Result<()>) -> Result<()> {
        let (client, options) = (self.client.clone(), self.options);
        let step = options.requests.max(1) * DETAILS_FOR_A_REQUEST;
        let read = list.read(&client, options.page_items_max, &mut |mut items| {
            while !items.is_empty() {
                let rest = items.split_off(step.min(items.len()));
                each(self, std::mem::replace(&mut items, rest))?;
            }
            Ok(())
        });
        match read {
            Ok(difference) => self.summary.note_difference(&list.what, difference),
            Err(error) => self.summary.pass_over(&list.what, error)?,
        }
        Ok(())
    }

    /// Asks for the details of several items at once. What has gone away meanwhile has none, and is noted.
    fn details<T: Sync, R: Send>(
        &mut self,
        items: &[T],
        what: impl Fn(&T) -> String,
        ask: impl Fn(&TrackingClient, &T) -> Result<R> + Sync,
    ) -> Result<Vec<Option<R>>> {
        let client = &self.client;
        let answers = parallel::map(items, self.options.requests, |item| ask(client, item));
        let pairs = items.iter().zip(answers);
        pairs
            .map(|(item, answer)| match answer {
                Ok(answer) => Ok(Some(answer)),
                Err(error) => self.summary.pass_over(&what(item), error).map(|()| None),
            })
            .collect()
    }

    fn count(&mut self, kind: &'static str, amount: usize) {
        self.summary.count(kind, amount as u64);
        self.monitor.count(Counter::Entries, amount as u64);
    }
}
