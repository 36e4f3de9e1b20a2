//! The arguments that name one experiment, run or model, shared by the commands that list and restore them.

use clap::Args;

use mlvault::error::{Error, Result};
use mlvault::repository::Repository;
use mlvault::repository::snapshots::Snapshot;
use mlvault::restore::deployment::DeploymentPart;

use crate::cli::context::Context;

/// Which snapshot of a deployment is meant.
#[derive(Args)]
pub struct SnapshotArgs {
    /// Snapshot: an id, latest, latest~2, a day (2026-11-21, in UTC) or a time (2026-11-21T03:00Z) [default: the latest
    /// snapshot of the deployment]
    #[arg(long)]
    pub snapshot: Option<String>,
    /// Use the latest snapshot of the deployment that is not newer than this day (2026-11-21, in UTC) or time
    #[arg(long, value_name = "TIME", conflicts_with = "snapshot")]
    pub as_of: Option<String>,
}

impl SnapshotArgs {
    /// Takes the path out of SNAPSHOT:PATH, if there is one.
    pub fn take_path(&mut self) -> Option<String> {
        let (name, path) = split_path(self.snapshot.as_deref()?)?;
        let (name, path) = (name.to_owned(), path.to_owned());
        self.snapshot = Some(name);
        Some(path)
    }

    /// Finds the snapshot that is meant.
    pub fn find(&self, context: &Context, repository: &Repository, deployment: Option<&str>) -> Result<Snapshot> {
        match &self.snapshot {
            Some(name) => context.find_snapshot(repository, name),
            None => context.find_deployment(repository, deployment, self.as_of.as_deref()),
        }
    }
}

/// One experiment, run or model.
#[derive(Args)]
pub struct WantedArgs {
    /// Restore one experiment (name or id), with its runs, logged models and traces
    #[arg(long, value_name = "NAME", conflicts_with_all = ["run", "model"])]
    pub experiment: Option<String>,
    /// Restore one run (id)
    #[arg(long, value_name = "ID", conflicts_with = "model")]
    pub run: Option<String>,
    /// Restore one registered model, with all its versions
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Restore only this version of the model (number or alias)
    #[arg(long, value_name = "VERSION", requires = "model")]
    pub version: Option<String>,
}

impl WantedArgs {
    /// Returns what is wanted, if anything is.
    pub fn wanted(&self) -> Option<DeploymentPart> {
        let Self { experiment, run, model, version } = self;
        match (experiment, run, model, version) {
            (Some(experiment), ..) => Some(DeploymentPart::Experiment(experiment.clone())),
            (_, Some(run), ..) => Some(DeploymentPart::Run(run.clone())),
            (_, _, Some(model), None) => Some(DeploymentPart::Model(model.clone())),
            (_, _, Some(model), version) => {
                Some(DeploymentPart::Version { model: model.clone(), version: version.clone() })
            }
            _ => None,
        }
    }
}

/// Splits SNAPSHOT:PATH. The colons of a time, as in 2026-11-21T03:00Z, separate nothing.
pub fn split_path(text: &str) -> Option<(&str, &str)> {
    let (name, path) = text.split_once(':')?;
    if !(name.contains('-') && name.contains('T')) {
        return Some((name, path));
    }
    let at = text.find("Z:")?;
    Some((&text[..=at], &text[at + 2..]))
}

/// Splits `OLD=NEW`.
pub fn split_root(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => Ok((old.to_owned(), new.to_owned())),
        _ => Err(Error::Invalid(format!("{text:?} is not of the form OLD=NEW"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_told_from_a_time() {
        for (text, parts) in [
            ("latest", None),
            ("latest:srv/a:b", Some(("latest", "srv/a:b"))),
            ("latest~2:12/x", Some(("latest~2", "12/x"))),
            ("2026-11-21:Text", Some(("2026-11-21", "Text"))),
            ("2026-11-21T03:00Z", None),
            ("2026-11-21T03:00:10Z:srv", Some(("2026-11-21T03:00:10Z", "srv"))),
        ] {
            assert_eq!(split_path(text), parts, "{text}");
        }
    }
}
