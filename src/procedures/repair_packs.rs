//! Repairs packs of a repository with the help of others, which are open at once.
//!
//! What must stay true: all of them together keep within the memory limit of the process.

use std::sync::Arc;

use crate::error::Result;
use crate::hears::Hears;
use crate::repair::packs::{self, RepairPacksOptions, RepairPacksReport};
use crate::repository::{Repository, memory_plan};

/// A repository to repair, and others that may still have what it lost.
pub struct RepositoryWithHelpers {
    repository: Arc<Repository>,
    helpers: Vec<Arc<Repository>>,
}

impl RepositoryWithHelpers {
    /// Opens all, each with its share of the memory limit, which is in bytes. `helpers` are what `open_helper` opens.
    pub fn open<T>(
        memory_limit: u64,
        repository: impl FnOnce(u64) -> Result<Arc<Repository>>,
        helpers: &[T],
        open_helper: impl Fn(&T, u64) -> Result<Arc<Repository>>,
    ) -> Result<Self> {
        let limit_of_each = match helpers.len() {
            0 => memory_limit,
            helpers => memory_plan::limit_of_each(memory_limit, helpers + 1)?,
        };
        let repository = repository(limit_of_each)?;
        let helpers = helpers.iter().map(|helper| open_helper(helper, limit_of_each)).collect::<Result<_>>()?;
        Ok(Self { repository, helpers })
    }

    /// Repairs packs as the options say, and asks the helpers too for what is lost.
    pub fn repair(self, options: RepairPacksOptions, hears: &Hears) -> Result<RepairPacksReport> {
        let from = [options.from, self.helpers].concat();
        packs::run(&self.repository, &RepairPacksOptions { from, ..options }, hears)
    }
}
