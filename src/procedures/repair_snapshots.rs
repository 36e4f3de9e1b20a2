//! Finds out what snapshots have lost, and writes those that somebody agreed to anew without it.
//!
//! What must stay true: an original is forgotten only after the new snapshot is committed, and never while it is held; so this
//! can be stopped anywhere. What may not be forgotten is refused before anything is written.

use std::sync::Arc;

use crate::error::Result;
use crate::hears::Hears;
use crate::procedures::consent::Consent;
use crate::repair::snapshots::{self, RepairPlan, Repaired};
use crate::repository::Repository;
use crate::repository::naming::Named;
use crate::retention::{self, ForgetPlan};

/// How to repair snapshots.
#[derive(Debug, Clone, Default)]
pub struct RepairSnapshotsOptions {
    /// Snapshots; if none is named, all.
    pub named: Named,
    /// Forget the originals.
    pub forget: bool,
}

/// What was found and done.
#[derive(Debug)]
pub struct RepairedSnapshots {
    /// What is lost.
    pub plan: RepairPlan,
    /// What was written anew.
    pub repaired: Vec<Repaired>,
}

/// Repairs snapshots. Nobody is asked where there is nothing to do.
pub fn run(
    repository: &Arc<Repository>,
    options: &RepairSnapshotsOptions,
    consent: &Consent<'_, RepairPlan>,
    hears: &Hears,
) -> Result<RepairedSnapshots> {
    let plan = snapshots::plan(repository, &options.named, hears)?;
    // A snapshot that was repaired before is left, unless its original is still to be forgotten.
    let is_idle = plan.to_repair().count() == 0 && (!options.forget || plan.hurt.is_empty());
    if is_idle {
        return Ok(RepairedSnapshots { plan, repaired: Vec::new() });
    }
    let originals = || plan.hurt.iter().map(|hurt| hurt.snapshot);
    let forget = match options.forget {
        true => Some(ForgetPlan::of_replaced(repository, originals(), "it was repaired")?),
        false => None,
    };
    let repaired = match consent.allows(&plan)? {
        true => snapshots::run(repository, &plan, hears)?,
        false => return Ok(RepairedSnapshots { plan, repaired: Vec::new() }),
    };
    if let Some(forget) = &forget {
        retention::execute(repository, forget, true, hears)?;
    }
    Ok(RepairedSnapshots { plan, repaired })
}
