//! Finds files that the parent snapshot already holds, so that they are not read again.
//!
//! What must stay true: a file counts as unchanged only if size, both times and inode are what they were, an object only
//! if size, time and ETag are; it was not racy, and every chunk of it may be relied on. Anything doubtful is read.

use crate::chunks::reader::ChunkReader;
use crate::error::Result;
use crate::format::attributes::{self, Attributes};
use crate::format::tree::{Entry, EntryKind, FileContent};
use crate::monitor::Monitor;
use crate::source::{Item, ItemKind};
use crate::trees::earlier::{EarlierTree, Holds, is_held};
use crate::trees::reader::TreeReader;

/// What notes call the snapshot that is compared with.
pub const PARENT: &str = "the parent snapshot";

/// How a file compares with what the parent has under its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinceParent {
    /// It did not have it.
    New,
    /// It had another one, or there is doubt.
    Changed,
    /// It had this one, with this content and these attributes.
    Unchanged(FileContent, Attributes),
}

/// The parent's tree, read alongside the walk.
pub struct ParentTree<'a> {
    tree: EarlierTree<'a>,
    reader: &'a ChunkReader,
    ignore_inode: bool,
    check_chunks: bool,
}

impl<'a> ParentTree<'a> {
    /// Starts at the beginning of a tree; without one every file is new. `check_chunks` says that there are tombstones,
    /// so that no chunk may be relied on unasked.
    pub fn new(
        tree: Option<TreeReader<'a>>,
        reader: &'a ChunkReader,
        monitor: &'a dyn Monitor,
        ignore_inode: bool,
        check_chunks: bool,
    ) -> Self {
        let tree = EarlierTree::new(tree, PARENT, monitor);
        Self { tree, reader, ignore_inode, check_chunks }
    }

    /// Makes every file new.
    pub fn none(reader: &'a ChunkReader, monitor: &'a dyn Monitor) -> Self {
        Self::new(None, reader, monitor, false, false)
    }

    /// Passes over what is before `path`.
    pub fn skip_to(&mut self, path: &[u8]) {
        self.tree.skip_to(path);
    }

    /// Compares the next file of the walk; `holds` tells whether a chunk may be relied on.
    pub fn compare(&mut self, item: &Item, holds: &Holds<'_>) -> Result<SinceParent> {
        let Some(entry) = self.tree.find(&item.path) else { return Ok(SinceParent::New) };
        let EntryKind::File(content) = &entry.kind else { return Ok(SinceParent::Changed) };
        if !self.looks_same(item, &entry, content) || !self.is_reliable(&entry, content, holds)? {
            return Ok(SinceParent::Changed);
        }
        Ok(SinceParent::Unchanged(content.clone(), entry.attributes.clone()))
    }

    fn looks_same(&self, item: &Item, entry: &Entry, content: &FileContent) -> bool {
        let (now, then) = (&item.metadata, &entry.metadata);
        let same_file = match &item.kind {
            ItemKind::File { .. } => self.ignore_inode || (now.inode == then.inode && now.ctime == then.ctime),
            ItemKind::Object { etag: Some(etag), .. } => {
                attributes::get(&entry.attributes, attributes::ETAG) == Some(etag.as_bytes())
            }
            ItemKind::Object { etag: None, .. } | ItemKind::Directory | ItemKind::Symlink { .. } => false,
        };
        // A racy file may have changed within the tick of its times, after it was read: they prove nothing.
        item.size() == Some(content.size) && now.mtime == then.mtime && same_file && !content.racy
    }

    fn is_reliable(&self, entry: &Entry, content: &FileContent, holds: &Holds<'_>) -> Result<bool> {
        // Beside a tombstone, that the parent names a chunk does not mean that it stays: each is asked for.
        Ok(!self.check_chunks || is_held(self.reader, &entry.path_text(), content, holds)?)
    }
}
