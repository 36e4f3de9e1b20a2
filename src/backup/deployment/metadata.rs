//! The export through the REST API, as a component of the snapshot.

use std::sync::Arc;

use super::{DeploymentBackup, scratch_fault, verdict};
use crate::backup::parent::ParentTree;
use crate::backup::pipeline;
use crate::backup::review::NoReview;
use crate::chunks::reader::ChunkReader;
use crate::error::{Error, Result};
use crate::format::deployment::Verdict;
use crate::format::snapshot::{METADATA, Statistics};
use crate::source::spool::SpoolSource;
use crate::tracking::TrackingClient;
use crate::tracking::export::{ExportOptions, export};

/// What became of the export through the REST API.
pub(super) struct MetadataExport {
    /// How it stands.
    pub verdict: Verdict,
    /// Version of the server.
    pub mlflow_version: Option<String>,
    /// What no export holds.
    pub lacks: Vec<String>,
}

impl MetadataExport {
    fn absent() -> Self {
        Self { verdict: Verdict::Absent, mlflow_version: None, lacks: Vec::new() }
    }
}

impl DeploymentBackup<'_> {
    /// Stores what the REST API tells. It is never needed for a restore, so a failure is a problem and no end; but where
    /// there is no database to read it is all there is.
    pub(super) fn store_metadata(&mut self) -> Result<MetadataExport> {
        let Some(options) = &self.deployment.tracking else { return Ok(MetadataExport::absent()) };
        let directory = self.scratch.path().join(METADATA);
        std::fs::create_dir(&directory).map_err(|source| scratch_fault(&directory, source))?;
        let exported = TrackingClient::connect(options)
            .and_then(|client| export(&client, &directory, ExportOptions::default(), self.job.hears));
        let summary = match exported {
            Ok(summary) => summary,
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) if self.deployment.databases.is_empty() => return Err(error),
            Err(error) => {
                self.tell(&format!("it could not be exported through the REST API: {error}"));
                return Ok(MetadataExport { verdict: Verdict::NotOk, ..MetadataExport::absent() });
            }
        };
        for failed in &summary.failed {
            self.tell(&format!("{}: {}", failed.what, failed.reason));
        }
        for skew in summary.skewed.iter().filter(|skew| !skew.is_settled) {
            self.tell(&format!("{}: the list changed while it was read, and items may be missing", skew.list));
        }
        let source = SpoolSource::new(&directory)?;
        let reader = ChunkReader::new(Arc::clone(self.job.repository));
        let parent = ParentTree::none(&reader, self.job.hears.monitor.as_ref());
        let (tree, _) = pipeline::store_tree(self.job, &source, parent, &mut NoReview)?;
        self.add_component(METADATA, (tree, Statistics::default()), summary.is_complete());
        Ok(MetadataExport {
            verdict: verdict(summary.is_complete()),
            mlflow_version: Some(summary.mlflow_version),
            lacks: summary.limits.iter().map(|limit| format!("{}: {}", limit.what, limit.reason)).collect(),
        })
    }

    fn tell(&self, problem: &str) {
        match self.deployment.metadata_optional {
            true => self.job.hears.monitor.warning(&format!("{METADATA}: {problem}; they are optional")),
            false => self.job.problems.add(METADATA, problem),
        }
    }
}
