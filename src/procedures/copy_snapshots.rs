//! Copies snapshots between two repositories that are open at once.
//!
//! What must stay true: both together keep within the memory limit of the process.

use std::sync::Arc;

use crate::copy::{self, Choice, CopyPlan, CopySummary};
use crate::error::Result;
use crate::hears::Hears;
use crate::repository::objects::Unreadable;
use crate::repository::{Repository, memory_plan};

/// A repository to copy from, and one to copy to.
pub struct RepositoryPair {
    source: Arc<Repository>,
    target: Arc<Repository>,
}

/// What was found and done.
#[derive(Debug)]
pub struct CopiedSnapshots {
    /// What the target lacked.
    pub plan: CopyPlan,
    /// What was copied; nothing in a dry run.
    pub summary: CopySummary,
    /// Snapshots and notes that could not be read, of either repository.
    pub unreadable: Unreadable,
}

impl RepositoryPair {
    /// Opens both, each with its share of the memory limit, which is in bytes. Fails if they are the same repository.
    pub fn open(
        memory_limit: u64,
        source: impl FnOnce(u64) -> Result<Arc<Repository>>,
        target: impl FnOnce(u64) -> Result<Arc<Repository>>,
    ) -> Result<Self> {
        let limit_of_each = memory_plan::limit_of_each(memory_limit, 2)?;
        let pair = Self { source: source(limit_of_each)?, target: target(limit_of_each)? };
        copy::check(&pair.source, &pair.target)?;
        Ok(pair)
    }

    /// Copies what is chosen and the target lacks.
    pub fn copy(&self, choice: &Choice, dry_run: bool, hears: &Hears) -> Result<CopiedSnapshots> {
        let (list, notes) = (self.source.list_snapshots()?, self.source.list_notes()?);
        let chosen = choice.among(&list.snapshots, &notes)?;
        let there = self.target.list_snapshots()?;
        let plan = copy::plan(chosen, self.source.id(), self.target.id(), &there);
        let summary = match dry_run {
            true => CopySummary::default(),
            false => copy::run(&self.source, &self.target, &plan.missing, hears)?,
        };
        let mut unreadable = list.unreadable();
        unreadable.extend(notes.damaged);
        unreadable.extend(there.unreadable());
        Ok(CopiedSnapshots { plan, summary, unreadable })
    }
}
