//! Finds what is none of the repository's objects, and moves into quarantine what somebody agreed to.

use crate::error::Result;
use crate::hears::Hears;
use crate::procedures::consent::Consent;
use crate::repair::objects::{self, RepairObjectsPlan, RepairObjectsReport};
use crate::repository::Repository;

/// What was found and done.
#[derive(Debug)]
pub struct RepairedObjects {
    /// What was to be moved.
    pub plan: RepairObjectsPlan,
    /// What was moved; nothing if that was not wanted.
    pub report: RepairObjectsReport,
}

/// Repairs objects. Nobody is asked where there is nothing to do.
pub fn run(
    repository: &Repository,
    consent: &Consent<'_, RepairObjectsPlan>,
    hears: &Hears,
) -> Result<RepairedObjects> {
    let plan = objects::plan(repository, hears)?;
    let report = match !plan.junk.is_empty() && consent.allows(&plan)? {
        true => objects::run(repository, &plan, hears)?,
        false => RepairObjectsReport { left: plan.left.clone(), ..RepairObjectsReport::default() },
    };
    Ok(RepairedObjects { plan, report })
}
