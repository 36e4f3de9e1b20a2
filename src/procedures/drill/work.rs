//! What every check of a drill works with.

use std::path::Path;

use crate::chunks::reader::ChunkReader;
use crate::error::{Error, Result};
use crate::format::deployment::DeploymentRecord;
use crate::format::snapshot::Component;
use crate::hears::Hears;
use crate::mlflow::uri::normalize;
use crate::repository::snapshots::Snapshot;
use crate::source::deployment::{ArtifactPlace, Deployment};

use super::findings::Findings;
use super::settings::DrillOptions;

/// A drill whose restore is done.
pub struct Work<'a> {
    /// Reads the repository.
    pub reader: ChunkReader,
    /// The snapshot that was restored.
    pub snapshot: &'a Snapshot,
    /// What it says of the deployment.
    pub record: &'a DeploymentRecord,
    /// What was restored.
    pub restored: &'a Deployment,
    /// A scratch directory for the checks, which is empty.
    pub directory: &'a Path,
    /// How the drill is wanted.
    pub options: &'a DrillOptions,
    /// Takes what is found.
    pub findings: &'a Findings,
    /// Who follows it. What is told here as a problem is a failure.
    pub hears: &'a Hears,
}

impl Work<'_> {
    /// Returns a component of the snapshot.
    pub fn component(&self, name: &str) -> Result<&Component> {
        let found = self.snapshot.record.components.iter().find(|component| component.name == name);
        found.ok_or_else(|| Error::NotFound(format!("The snapshot has no component {name:?}")))
    }

    /// Returns where an artifact component was restored to.
    pub fn restored_place(&self, component: &str) -> Option<&ArtifactPlace> {
        self.place_in(self.restored, component)
    }

    /// Returns where an artifact component is at its source, if that is configured.
    pub fn source_place(&self, component: &str) -> Option<&ArtifactPlace> {
        self.place_in(&self.options.source, component)
    }

    fn place_in<'d>(&self, deployment: &'d Deployment, component: &str) -> Option<&'d ArtifactPlace> {
        let root = self.record.roots.iter().find(|root| root.component == component && root.path.is_empty())?;
        let found = deployment.artifacts.iter().find(|given| normalize(&given.uri) == normalize(&root.uri))?;
        Some(&found.place)
    }
}
