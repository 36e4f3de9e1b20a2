//! What may have a say on each entry on its way into the tree: the cross-check of a deployment, or nothing.
//!
//! What must stay true: a review is asked in the order of paths, about each of them once, and [`Review::advance`] to a path
//! comes before anything else that is said of it.

use crate::error::Result;
use crate::format::tree::Entry;

/// What decides on entries on their way into the tree, in path order.
pub trait Review {
    /// Goes on to the next path, or to the end, and returns what has to be written before it.
    fn advance(&mut self, next: Option<&[u8]>) -> Result<Vec<Entry>>;
    /// Takes note of the entry of the path gone on to.
    fn take_note(&mut self, entry: &Entry) -> Result<()>;
    /// Decides on the path gone on to, which was found and could not be read.
    fn replace(&mut self, path: &[u8]) -> Result<Replacement>;
    /// Returns whether a file may change while it is read, because it is still being written.
    fn may_change(&self, path: &[u8]) -> bool;
}

/// What to make of something that could not be read.
#[derive(Debug)]
pub enum Replacement {
    /// It is missing in the snapshot.
    Problem,
    /// It was an upload that had not come to its end.
    Unfinished,
    /// It was deleted on purpose; this is what stands in its place, if anything does.
    By(Option<Box<Entry>>),
}

/// Lets everything pass.
pub struct NoReview;

impl Review for NoReview {
    fn advance(&mut self, _: Option<&[u8]>) -> Result<Vec<Entry>> {
        Ok(Vec::new())
    }

    fn take_note(&mut self, _: &Entry) -> Result<()> {
        Ok(())
    }

    fn replace(&mut self, _: &[u8]) -> Result<Replacement> {
        Ok(Replacement::Problem)
    }

    fn may_change(&self, _: &[u8]) -> bool {
        false
    }
}
