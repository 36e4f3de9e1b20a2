//! Goes through the tree of an earlier snapshot, beside something else in path order, to find what is there already.
//!
//! What must stay true: an earlier tree saves work and is never needed: one that turns out damaged counts as ended, with a
//! note. What is taken over from it may be relied on only as [`is_held`] says.

use crate::chunks::reader::ChunkReader;
use crate::error::Result;
use crate::format::BlobKind;
use crate::format::tree::{Entry, FileContent};
use crate::id::ChunkId;
use crate::monitor::Monitor;
use crate::repository::snapshots::Snapshot;
use crate::trees::reader::{TreeReader, chunks_of};

/// Opens the tree of a component, if the snapshot has it and it can be read. `what` names the snapshot in a note.
pub fn open<'a>(
    reader: &'a ChunkReader,
    snapshot: &Snapshot,
    component: &str,
    what: &str,
    monitor: &dyn Monitor,
) -> Option<TreeReader<'a>> {
    let component = snapshot.record.components.iter().find(|known| known.name == component)?;
    match TreeReader::open(reader, &component.name, &component.root) {
        Ok(tree) => Some(tree),
        Err(error) => {
            monitor.note(&format!("Every file is read: {what} {} is unusable: {error}", snapshot.id.short()));
            None
        }
    }
}

/// A place in an earlier tree, which only moves forward.
pub struct EarlierTree<'a> {
    tree: Option<TreeReader<'a>>,
    what: &'static str,
    monitor: &'a dyn Monitor,
}

impl<'a> EarlierTree<'a> {
    /// Starts at the beginning; without a tree nothing is found.
    pub fn new(tree: Option<TreeReader<'a>>, what: &'static str, monitor: &'a dyn Monitor) -> Self {
        Self { tree, what, monitor }
    }

    /// Passes over what is before `path`, without reading it.
    pub fn skip_to(&mut self, path: &[u8]) {
        if let Some(tree) = &mut self.tree {
            tree.skip_to(path);
        }
    }

    /// Moves forward to `path` and returns its entry.
    pub fn find(&mut self, path: &[u8]) -> Option<Entry> {
        let tree = self.tree.as_mut()?;
        loop {
            match tree.peek()? {
                Ok(entry) if entry.path.as_slice() < path => drop(tree.next()),
                Ok(entry) if entry.path.as_slice() == path => return tree.next()?.ok(),
                Ok(_) => return None,
                Err(error) => {
                    self.monitor.note(&format!("The rest is read anew: {} is unusable: {error}", self.what));
                    self.tree = None;
                    return None;
                }
            }
        }
    }
}

/// Tells whether a chunk of a kind may be relied on.
pub type Holds<'a> = dyn Fn(BlobKind, &ChunkId) -> Result<bool> + 'a;

/// Returns whether everything of a file may be relied on: its content, and the lists of an indirect one, which the new
/// tree refers to as they are.
pub fn is_held(reader: &ChunkReader, path: &str, content: &FileContent, holds: &Holds<'_>) -> Result<bool> {
    for list in content.chunks.iter().filter(|_| content.indirect) {
        if !holds(BlobKind::Meta, &list.id)? {
            return Ok(false);
        }
    }
    let Ok(chunks) = chunks_of(reader, path, content) else { return Ok(false) };
    for chunk in chunks {
        if !holds(content.kind, &chunk.id)? {
            return Ok(false);
        }
    }
    Ok(true)
}
