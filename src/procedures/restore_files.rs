//! Restores files into a directory; what is to be removed there is a plan that somebody agrees to first.

use std::sync::Arc;

use crate::error::Result;
use crate::hears::Hears;
use crate::procedures::consent::Consent;
use crate::repository::Repository;
use crate::repository::snapshots::Snapshot;
use crate::restore::removals::Removals;
use crate::restore::{self, RestoreOptions, RestoreSummary};

/// What was done.
#[derive(Debug)]
pub struct RestoredFiles {
    /// What was to be removed.
    pub removals: Removals,
    /// What was restored and removed, or would be.
    pub summary: RestoreSummary,
}

/// Restores, and removes what the snapshot does not have. Nobody is asked where nothing would be removed.
pub fn run_removing(
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    options: &RestoreOptions,
    consent: &Consent<'_, Removals>,
    hears: &Hears,
) -> Result<RestoredFiles> {
    let removals = restore::plan_removals(repository, snapshot, options, hears)?;
    removals.reserves.iter().for_each(|reserve| hears.monitor.note(reserve));
    let is_agreed = removals.is_empty() || consent.allows(&removals)?;
    let options =
        RestoreOptions { removals: removals.clone(), dry_run: options.dry_run || !is_agreed, ..options.clone() };
    let summary = restore::run(repository, snapshot, &options, hears)?;
    Ok(RestoredFiles { removals, summary })
}
