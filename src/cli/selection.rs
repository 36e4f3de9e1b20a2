//! The arguments that name a snapshot, and one experiment, run or model in it, shared by the commands that list and restore.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use mlvault::error::{Error, Result};
use mlvault::repository::Repository;
use mlvault::repository::naming::Scope;
use mlvault::restore::deployment::DeploymentPart;
use mlvault::retention::policy::Age;

use crate::cli::answer::{About, Answer};
use crate::cli::context::Context;

/// How far before the moment that is asked for an answer may lie.
const MAX_GAP_DEFAULT: &str = "32d";

/// Of which source a snapshot is meant.
#[derive(Args, Default)]
pub struct SourceArgs {
    /// Look for the snapshot among those of this deployment; needed if there are several
    #[arg(long, env = "MLVAULT_DEPLOYMENT", value_name = "NAME")]
    pub deployment: Option<String>,
    /// Look for the snapshot among those of this source, as listed in the SOURCE column
    #[arg(long, value_name = "SOURCE")]
    pub group: Option<String>,
}

impl SourceArgs {
    /// Returns which snapshots come into question. What the command line says of a group counts more than what the
    /// environment says of a deployment.
    pub fn scope(&self) -> Scope {
        scope_of(self.group.as_deref(), self.deployment.as_deref(), Scope::Any)
    }
}

fn scope_of(group: Option<&str>, deployment: Option<&str>, otherwise: Scope) -> Scope {
    match (group, deployment) {
        (Some(group), _) => Scope::Group(group.to_owned()),
        (None, Some(name)) => Scope::Deployment(name.to_owned()),
        (None, None) => otherwise,
    }
}

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
    /// Refuse a snapshot that was made longer than AGE before the day or time given
    #[arg(long, value_name = "AGE", default_value = MAX_GAP_DEFAULT)]
    max_gap: Age,
}

impl SnapshotArgs {
    /// Takes the path out of SNAPSHOT:PATH, if there is one.
    pub fn take_path(&mut self) -> Option<String> {
        let (name, path) = split_path(self.snapshot.as_deref()?)?;
        let (name, path) = (name.to_owned(), path.to_owned());
        self.snapshot = Some(name);
        Some(path)
    }

    /// Returns whether one is named at all.
    pub fn is_given(&self) -> bool {
        self.snapshot.is_some() || self.as_of.is_some()
    }

    /// Finds the snapshot that is meant. Fails with [`Error::Refused`] if it lies too far before the moment asked for.
    pub fn find(&self, context: &Context, repository: &Repository, scope: &Scope) -> Result<Answer> {
        let found = match (&self.snapshot, &self.as_of) {
            (Some(name), _) => repository.find(name, scope)?,
            (None, Some(moment)) => repository.find_as_of(moment, scope)?,
            (None, None) => repository.find("latest", scope)?,
        };
        if let Some(moment) = found.moment
            && found.snapshot.made() < self.max_gap.before(moment, &TimeZone::UTC)
        {
            let answer = About::new(&found, Timestamp::now());
            return Err(Error::Refused(format!(
                "The last snapshot before then is too old to answer for it. {}. More than {} is allowed by --max-gap",
                answer.line(),
                self.max_gap
            )));
        }
        Ok(context.take_found(found))
    }
}

/// One snapshot of a deployment, for commands that say what is in it.
#[derive(Args)]
pub struct DeploymentSnapshotArgs {
    #[command(flatten)]
    snapshot: SnapshotArgs,
    /// Name of the deployment; needed if the repository holds several
    #[arg(long, env = "MLVAULT_DEPLOYMENT", value_name = "NAME")]
    deployment: Option<String>,
}

impl DeploymentSnapshotArgs {
    /// Returns the moment that is asked for, as it was given.
    pub fn as_of(&self) -> Option<&str> {
        self.snapshot.as_of.as_deref()
    }

    /// Finds the snapshot that is meant.
    pub fn find(&self, context: &Context, repository: &Repository) -> Result<Answer> {
        let scope = scope_of(None, self.deployment.as_deref(), Scope::AnyDeployment);
        self.snapshot.find(context, repository, &scope)
    }
}

/// From whose snapshots is restored.
#[derive(Args)]
pub struct RestoreSourceArgs {
    /// Restore a snapshot of this deployment, if it is another one than --deployment describes: a copy of it, or a new place
    #[arg(long, value_name = "NAME")]
    from_deployment: Option<String>,
    /// Restore a snapshot of this source, as listed in the SOURCE column
    #[arg(long, value_name = "SOURCE", conflicts_with = "from_deployment")]
    group: Option<String>,
}

impl RestoreSourceArgs {
    /// Returns which snapshots come into question. `deployment` is the one that the target is described by; `otherwise` counts
    /// where nothing is said.
    pub fn scope(&self, deployment: Option<&str>, otherwise: Scope) -> Scope {
        scope_of(self.group.as_deref(), self.from_deployment.as_deref().or(deployment), otherwise)
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

/// A snapshot by its name, and a path in it: SNAPSHOT PATH, or SNAPSHOT:PATH.
pub struct Named {
    /// The snapshot's name.
    pub snapshot: String,
    /// The path, if one is given.
    pub path: Option<Vec<u8>>,
    /// Whether it was given as SNAPSHOT:PATH.
    pub is_joined: bool,
}

impl Named {
    /// Takes a snapshot and a path as they were typed. Two paths are refused.
    pub fn new(snapshot: &str, path: Option<OsString>) -> Result<Self> {
        let path = path.map(OsString::into_vec);
        match (split_path(snapshot), path) {
            (Some(_), Some(_)) => {
                Err(Error::Invalid("SNAPSHOT:PATH names a path already: give no other one".to_owned()))
            }
            (Some((snapshot, path)), None) => {
                Ok(Self { snapshot: snapshot.to_owned(), path: Some(path.as_bytes().to_vec()), is_joined: true })
            }
            (None, path) => Ok(Self { snapshot: snapshot.to_owned(), path, is_joined: false }),
        }
    }
}

/// Splits SNAPSHOT:PATH. The colons of a time, as in 2026-11-21T03:00Z, separate nothing.
fn split_path(text: &str) -> Option<(&str, &str)> {
    let (name, path) = text.split_once(':')?;
    if !(name.contains('-') && name.contains('T')) {
        return Some((name, path));
    }
    let at = text.find("Z:")?;
    Some((&text[..=at], &text[at + 2..]))
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
