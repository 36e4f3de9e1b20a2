//! What a tree holds, roughly and for few requests: its leaves, without reading them.

use crate::chunks::reader::ChunkReader;
use crate::error::Result;
use crate::format::tree::{LEVEL_MAX, Node};
use crate::id::ChunkId;
use crate::trees::reader::{damaged_node, read_node};

/// A run of entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// Path of the first one.
    pub first_path: Vec<u8>,
    /// How many there are.
    pub entries: u64,
    /// Sum of their file sizes in bytes.
    pub bytes: u64,
}

/// Returns what is in each leaf, in the order of paths; of a tree that is one leaf, each entry.
pub fn outline(chunks: &ChunkReader, component: &str, root: &ChunkId) -> Result<Vec<Stretch>> {
    let mut stretches = Vec::new();
    below(chunks, component, (root, LEVEL_MAX), &mut stretches)?;
    Ok(stretches)
}

fn below(
    chunks: &ChunkReader,
    component: &str,
    (node, level_max): (&ChunkId, u8),
    stretches: &mut Vec<Stretch>,
) -> Result<()> {
    match read_node(chunks, component, node)? {
        Node::Leaf(entries) => {
            let stretch = |entry: crate::format::tree::Entry| {
                let bytes = entry.size();
                Stretch { first_path: entry.path, entries: 1, bytes }
            };
            stretches.extend(entries.into_iter().map(stretch));
            Ok(())
        }
        // Levels fall with each step down, so no tree can loop.
        Node::Inner { level, .. } if level == 0 || level > level_max => {
            Err(damaged_node(component, node, "it is not of the level below its parent"))
        }
        Node::Inner { level: 1, children } => {
            stretches.extend(children.into_iter().map(|child| Stretch {
                first_path: child.first_path,
                entries: child.entries,
                bytes: child.bytes,
            }));
            Ok(())
        }
        Node::Inner { level, children } => {
            children.iter().try_for_each(|child| below(chunks, component, (&child.node, level - 1), stretches))
        }
    }
}
