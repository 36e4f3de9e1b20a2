//! Writes snapshots anew without what matches a pattern, and forgets the originals if that is wanted.
//!
//! What must stay true: an original is forgotten only after the new snapshot is committed, and never while it is held; so this
//! can be stopped anywhere. What may not be forgotten is refused before anything is written.

use std::sync::Arc;

use crate::error::Result;
use crate::hears::Hears;
use crate::procedures::consent::Consent;
use crate::repository::Repository;
use crate::retention::{self, ForgetPlan};
use crate::rewrite::{self, RewriteOptions, RewritePlan, Rewritten};

/// What was found and done.
#[derive(Debug)]
pub struct RewrittenSnapshots {
    /// What matches.
    pub plan: RewritePlan,
    /// What was written anew.
    pub rewritten: Vec<Rewritten>,
    /// Originals that were forgotten.
    pub forgotten: u64,
}

/// Rewrites snapshots; with `forget`, the originals go to the trash, also those that were rewritten earlier.
pub fn run(
    repository: &Arc<Repository>,
    options: &RewriteOptions,
    forget: bool,
    consent: &Consent<'_, RewritePlan>,
    hears: &Hears,
) -> Result<RewrittenSnapshots> {
    if forget {
        repository.access().require_maintainer("forget snapshots")?;
    }
    let plan = rewrite::plan(repository, options, hears)?;
    let originals = || plan.matching.iter().map(|found| found.snapshot);
    let forget = match forget && !plan.matching.is_empty() {
        true => Some(ForgetPlan::of_replaced(repository, originals(), "it was rewritten")?),
        false => None,
    };
    if plan.matching.is_empty() || !consent.allows(&plan)? {
        return Ok(RewrittenSnapshots { plan, rewritten: Vec::new(), forgotten: 0 });
    }
    let rewritten = rewrite::run(repository, &plan, hears)?;
    let forgotten = match &forget {
        Some(forget) => retention::execute(repository, forget, true, hears)?,
        None => 0,
    };
    Ok(RewrittenSnapshots { plan, rewritten, forgotten })
}
