//! What a snapshot needs: the chunks of its trees, nodes and lists included.
//!
//! What must stay true: nothing that a record refers to is left out here. Whoever lets records refer to something new
//! adds it here first, or a prune would take it for garbage.

use crate::chunks::reader::ChunkReader;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::snapshot::SnapshotRecord;
use crate::format::tree::{self, EntryKind, FileContent, LEVEL_MAX, Node};
use crate::id::ChunkId;
use crate::trees::reader::{damaged_node, read_node};

/// What a chunk is to whatever refers to it.
///
/// Who remembers what was looked at has to remember as what: a writer can make the bytes of somebody's tree node the
/// content of a file, and a node that was met as content has not been looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Use {
    /// A node of a tree.
    Node,
    /// A list of chunks of a kind.
    List(BlobKind),
    /// Content of a file.
    Content(BlobKind),
}

impl Use {
    /// Returns the kind of pack that the chunk is in.
    pub fn kind(self) -> BlobKind {
        match self {
            Self::Node | Self::List(_) => BlobKind::Meta,
            Self::Content(kind) => kind,
        }
    }
}

/// Hears of each chunk. For a node or list it returns whether to look at what that refers to; else the answer means
/// nothing.
pub type Visitor<'a> = dyn FnMut(Use, &ChunkId) -> Result<bool> + 'a;

/// Calls `visit` with every chunk that a snapshot needs, as often as it is referred to. Fails at the first node that
/// cannot be read: what is below it is not known.
pub fn for_each_chunk(chunks: &ChunkReader, record: &SnapshotRecord, visit: &mut Visitor<'_>) -> Result<()> {
    for component in &record.components {
        let mut walk = Walk { chunks, component: &component.name, visit };
        walk.node(&component.root, LEVEL_MAX)?;
    }
    Ok(())
}

struct Walk<'a, 'b> {
    chunks: &'a ChunkReader,
    component: &'a str,
    visit: &'a mut Visitor<'b>,
}

impl Walk<'_, '_> {
    /// Visits a node and what is below it. Levels fall with each step down, so no tree can loop.
    fn node(&mut self, node: &ChunkId, level_max: u8) -> Result<()> {
        if !(self.visit)(Use::Node, node)? {
            return Ok(());
        }
        match read_node(self.chunks, self.component, node)? {
            Node::Leaf(entries) => entries.iter().try_for_each(|entry| match &entry.kind {
                EntryKind::File(content) => self.file(content),
                _ => Ok(()),
            }),
            Node::Inner { level, .. } if level > level_max || level == 0 => {
                Err(damaged_node(self.component, node, "it is not of the level below its parent"))
            }
            Node::Inner { level, children } => children.iter().try_for_each(|child| self.node(&child.node, level - 1)),
        }
    }

    fn file(&mut self, content: &FileContent) -> Result<()> {
        for chunk in &content.chunks {
            if !content.indirect {
                (self.visit)(Use::Content(content.kind), &chunk.id)?;
            } else if (self.visit)(Use::List(content.kind), &chunk.id)? {
                self.list(&chunk.id, content.kind)?;
            }
        }
        Ok(())
    }

    fn list(&mut self, list: &ChunkId, kind: BlobKind) -> Result<()> {
        let bytes = self.chunks.read(BlobKind::Meta, list, &|| format!("a chunk list of {}", self.component))?;
        let refs = tree::decode_chunk_refs(&bytes)
            .map_err(|error| Error::damaged(format!("chunk list {list} of {}", self.component), error))?;
        refs.iter().try_for_each(|chunk| (self.visit)(Use::Content(kind), &chunk.id).map(drop))
    }
}
