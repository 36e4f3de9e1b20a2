//! Forgets what a plan names, and then deletes what only that needed.
//!
//! What must stay true: nothing is pruned unless everything that the plan names was forgotten first.

use std::sync::Arc;

use crate::error::Result;
use crate::hears::Hears;
use crate::prune;
use crate::repository::Repository;
use crate::retention::{self, ForgetPlan};

/// How to forget and prune.
#[derive(Debug, Clone, Default)]
pub struct ForgetAndPruneOptions {
    /// Forget even if the plan has objections.
    pub force: bool,
    /// How to prune afterwards; not at all without.
    pub prune: Option<prune::PruneOptions>,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ForgottenAndPruned {
    /// Snapshots that were forgotten.
    pub forgotten: u64,
    /// What the prune did, if there was one.
    pub pruned: Option<prune::PruneReport>,
}

/// Carries a plan out. Fails with [`crate::error::Error::Refused`], and changes nothing, if it has objections and is not
/// forced.
pub fn run(
    repository: &Arc<Repository>,
    plan: &ForgetPlan,
    options: &ForgetAndPruneOptions,
    hears: &Hears,
) -> Result<ForgottenAndPruned> {
    let forgotten = retention::execute(repository, plan, options.force, hears)?;
    let prune = |options| prune::run(repository, options, hears);
    let pruned = options.prune.as_ref().map(prune).transpose()?;
    Ok(ForgottenAndPruned { forgotten, pruned })
}
