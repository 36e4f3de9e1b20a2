//! Finds files that the target has already, in an earlier snapshot of the same source, so that they are not read again.
//!
//! What must stay true: a file counts as there only if path, size, kind of chunks and the digest of its whole content are
//! the same, and if every chunk may be relied on. Anything doubtful is read.

use std::sync::Arc;

use crate::chunks::reader::ChunkReader;
use crate::format::tree::{EntryKind, FileContent};
use crate::monitor::Monitor;
use crate::repository::snapshots::Snapshot;
use crate::trees::earlier::{self, EarlierTree};

/// What notes call the snapshot that is compared with.
const COPY: &str = "the earlier copy";

/// The tree of an earlier snapshot in the target, read alongside that of the source.
pub struct EarlierCopy<'a> {
    tree: EarlierTree<'a>,
    /// Reads the target.
    pub reader: &'a ChunkReader,
}

impl<'a> EarlierCopy<'a> {
    /// Opens the component's tree, if there is one that can be read.
    pub fn open(
        reader: &'a ChunkReader,
        parent: &Snapshot,
        component: &str,
        monitor: &'a Arc<dyn Monitor>,
    ) -> Option<Self> {
        let tree = earlier::open(reader, parent, component, COPY, monitor.as_ref())?;
        Some(Self { tree: EarlierTree::new(Some(tree), COPY, monitor.as_ref()), reader })
    }

    /// Returns the content of the same file in the target.
    pub fn find(&mut self, path: &[u8], content: &FileContent) -> Option<FileContent> {
        let EntryKind::File(known) = self.tree.find(path)?.kind else { return None };
        let facts = |content: &FileContent| (content.size, content.digest, content.kind);
        (facts(&known) == facts(content)).then_some(known)
    }
}
