//! The last stage of a backup: takes in what was read, in the order of paths, and writes the tree.
//!
//! What must stay true: whatever was found has its say here, as an entry or as a problem; a review is asked about each path
//! before its entry is written.

use crate::backup::file_under_way::ItemProblem;
use crate::backup::job::Job;
use crate::backup::review::{Replacement, Review};
use crate::error::Result;
use crate::format::tree::Entry;
use crate::monitor::Counter;
use crate::trees::writer::{TreeSummary, TreeWriter};

/// Takes in what was read of a source.
pub trait Stage {
    /// Takes in the next path: its entry, what went wrong with it, or both.
    fn take_in(&mut self, entry: Option<Entry>, problem: Option<ItemProblem>) -> Result<()>;
}

/// Writes an entry, and counts it.
pub fn write(job: &Job<'_>, tree: &mut TreeWriter<'_>, mut entry: Entry) -> Result<()> {
    tree.make_indirect(&mut entry)?;
    tree.push(&entry)?;
    job.hears.monitor.count(Counter::Entries, 1);
    Ok(())
}

/// Writes the tree of a snapshot, after a review.
pub struct ReviewedTree<'a> {
    job: &'a Job<'a>,
    tree: TreeWriter<'a>,
    review: &'a mut dyn Review,
}

impl<'a> ReviewedTree<'a> {
    /// Begins an empty tree.
    pub fn new(job: &'a Job<'a>, review: &'a mut dyn Review) -> Self {
        Self { job, tree: TreeWriter::new(job.chunks), review }
    }

    /// Ends the tree.
    pub fn finish(mut self) -> Result<TreeSummary> {
        self.advance(None)?;
        self.tree.finish()
    }

    /// Goes on without an entry that could not be read, or with the one that takes its place.
    fn without(&mut self, problem: ItemProblem) -> Result<()> {
        let monitor = &self.job.hears.monitor;
        match self.review.replace(&problem.path)? {
            Replacement::By(Some(entry)) => write(self.job, &mut self.tree, *entry)?,
            Replacement::By(None) => {
                monitor.note(&format!("{}: {}, and so did its row", problem.location, problem.message));
            }
            Replacement::Unfinished => {
                monitor.note(&format!("{}: {}; it was an upload under way", problem.location, problem.message));
            }
            Replacement::Problem => self.job.problems.add(&problem.location, &problem.message),
        }
        Ok(())
    }

    fn report_change(&self, problem: &ItemProblem) {
        if self.review.may_change(&problem.path) {
            self.job.hears.monitor.note(&format!("{}: {}", problem.location, problem.message));
        } else {
            self.job.problems.add(&problem.location, &problem.message);
        }
    }

    fn advance(&mut self, next: Option<&[u8]>) -> Result<()> {
        let carried = self.review.advance(next)?;
        carried.into_iter().try_for_each(|entry| write(self.job, &mut self.tree, entry))
    }
}

impl Stage for ReviewedTree<'_> {
    fn take_in(&mut self, entry: Option<Entry>, problem: Option<ItemProblem>) -> Result<()> {
        let path = entry.as_ref().map(|entry| &entry.path).or(problem.as_ref().map(|problem| &problem.path));
        // A file has neither only after a failure elsewhere.
        let Some(path) = path else { return Ok(()) };
        self.advance(Some(path))?;
        match (entry, problem) {
            (Some(entry), problem) => {
                if let Some(problem) = problem {
                    self.report_change(&problem);
                }
                self.review.take_note(&entry)?;
                write(self.job, &mut self.tree, entry)
            }
            (None, Some(problem)) => {
                self.job.problems.leave_unread(&problem.path);
                self.without(problem)
            }
            (None, None) => Ok(()),
        }
    }
}
