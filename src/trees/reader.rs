//! Reads a component's tree: all entries in path order, or those under a prefix, without reading the rest.
//!
//! What must stay true: trees come from outside; paths must ascend across nodes and depth is bounded, so that no tree
//! can loop.

use crate::chunks::reader::ChunkReader;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::tree::{self, Child, ChunkRef, Entry, FileContent, LEVEL_MAX, Node};
use crate::id::ChunkId;

/// Iterates over the entries of a tree in path order. Holds one node per level in memory.
///
/// A node that is damaged or missing yields one error, and the entries behind it follow. Any other error is the last item.
pub struct TreeReader<'a> {
    chunks: &'a ChunkReader,
    component: String,
    /// The inner nodes above, with their levels and what is still to be read of each.
    stack: Vec<(u8, std::vec::IntoIter<Child>)>,
    entries: std::iter::Peekable<std::vec::IntoIter<Entry>>,
    prefix: Vec<u8>,
    from: Vec<u8>,
    last_path: Vec<u8>,
    failed: bool,
}

impl<'a> TreeReader<'a> {
    /// Starts at the first entry of the tree with this root; `component` names it in messages.
    pub fn open(chunks: &'a ChunkReader, component: &str, root: &ChunkId) -> Result<Self> {
        Self::open_prefix(chunks, component, root, b"")
    }

    /// Starts at the first entry whose path begins with `prefix`, and ends after the last.
    pub fn open_prefix(chunks: &'a ChunkReader, component: &str, root: &ChunkId, prefix: &[u8]) -> Result<Self> {
        let mut reader = Self {
            chunks,
            component: component.to_owned(),
            stack: Vec::new(),
            entries: Vec::new().into_iter().peekable(),
            prefix: prefix.to_vec(),
            from: prefix.to_vec(),
            last_path: Vec::new(),
            failed: false,
        };
        reader.descend(root, None)?;
        Ok(reader)
    }

    /// Returns the next entry without taking it. An error is told once: it is not there again for `next`.
    pub fn peek(&mut self) -> Option<Result<&Entry>> {
        match self.advance() {
            Err(error) => Some(Err(error)),
            Ok(()) => self.entries.peek().map(Ok),
        }
    }

    /// Goes on at the first entry whose path is not below `path`, which must not be behind the prefix or an entry already
    /// taken. Nodes that end before it are not read.
    pub fn skip_to(&mut self, path: &[u8]) {
        self.from.clear();
        self.from.extend_from_slice(path);
    }

    /// Makes sure that the next entry, if there is one, is in `entries`.
    fn advance(&mut self) -> Result<()> {
        if self.failed {
            return Ok(());
        }
        let advanced = self.try_advance();
        self.failed = advanced.as_ref().is_err_and(|error| !error.is_damage());
        advanced
    }

    fn try_advance(&mut self) -> Result<()> {
        loop {
            while let Some(entry) = self.entries.peek() {
                if entry.path >= self.from {
                    if !entry.path.starts_with(&self.prefix) {
                        self.entries = Vec::new().into_iter().peekable();
                        self.stack.clear();
                    }
                    break;
                }
                self.entries.next();
            }
            if self.entries.peek().is_some() {
                return Ok(());
            }
            let Some((level, children)) = self.stack.last_mut() else { return Ok(()) };
            // Children whose successor still begins at or before the place to go on from end before it.
            while children.as_slice().get(1).is_some_and(|second| second.first_path <= self.from) {
                children.next();
            }
            match children.next() {
                Some(child) if child.first_path > self.prefix && !child.first_path.starts_with(&self.prefix) => {
                    self.stack.clear();
                }
                Some(child) => {
                    let above = *level;
                    self.descend(&child.node, Some((above, child.first_path)))?;
                }
                None => drop(self.stack.pop()),
            }
        }
    }

    /// Opens a node. `expected` is the level of its parent, and its first path.
    fn descend(&mut self, node: &ChunkId, expected: Option<(u8, Vec<u8>)>) -> Result<()> {
        let decoded = read_node(self.chunks, &self.component, node)?;
        let damaged = |reason: &str| damaged_node(&self.component, node, reason);
        let (level, first) = match &decoded {
            Node::Leaf(entries) => (0, entries.first().map(|entry| &entry.path)),
            Node::Inner { level, children } => (*level, children.first().map(|child| &child.first_path)),
        };
        // Levels fall with each step down, so no tree can loop.
        if level > LEVEL_MAX || expected.as_ref().is_some_and(|(above, _)| level + 1 != *above) {
            return Err(damaged("it is not of the level below its parent"));
        }
        if let Some((_, path)) = &expected
            && first != Some(path)
        {
            return Err(damaged("it does not begin where its parent says"));
        }
        if first.is_some_and(|path| *path <= self.last_path && !self.last_path.is_empty()) {
            return Err(damaged("its paths are not in order"));
        }
        match decoded {
            Node::Leaf(entries) => self.enter_leaf(entries),
            Node::Inner { level, children } => self.stack.push((level, children.into_iter())),
        }
        Ok(())
    }

    fn enter_leaf(&mut self, entries: Vec<Entry>) {
        if let Some(last) = entries.last() {
            self.last_path.clone_from(&last.path);
        }
        self.entries = entries.into_iter().peekable();
    }
}

impl Iterator for TreeReader<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        match self.advance() {
            Err(error) => Some(Err(error)),
            Ok(()) if self.failed => None,
            Ok(()) => self.entries.next().map(Ok),
        }
    }
}

/// Reads one node of the tree of `component`.
pub fn read_node(chunks: &ChunkReader, component: &str, node: &ChunkId) -> Result<Node> {
    let bytes = chunks.read(BlobKind::Meta, node, &|| format!("the tree of {component}"))?;
    tree::decode_node(&bytes).map_err(|error| damaged_node(component, node, error))
}

/// Makes the error that says that a node is not what a tree may hold.
pub(super) fn damaged_node(component: &str, node: &ChunkId, reason: impl ToString) -> Error {
    Error::damaged(format!("tree node {node} of {component}"), reason)
}

/// Returns all chunks of a file in order, reading an indirect list if there is one.
pub fn chunks_of(chunks: &ChunkReader, path: &str, file: &FileContent) -> Result<Vec<ChunkRef>> {
    let mut refs = Vec::with_capacity(if file.indirect { 0 } else { file.chunks.len() });
    for_each_chunk_of(chunks, path, file, &mut |chunk| {
        refs.push(chunk);
        Ok(())
    })?;
    Ok(refs)
}

/// Calls `visit` with every chunk of a file in order. Of an indirect list one part at a time is in memory.
///
/// A list that does not add up to the file's size is an error, though perhaps only after its chunks were visited.
pub fn for_each_chunk_of(
    chunks: &ChunkReader,
    path: &str,
    file: &FileContent,
    visit: &mut dyn FnMut(ChunkRef) -> Result<()>,
) -> Result<()> {
    if !file.indirect {
        return file.chunks.iter().try_for_each(|chunk| visit(*chunk));
    }
    let mut size: u64 = 0;
    for list in &file.chunks {
        let bytes = chunks.read(BlobKind::Meta, &list.id, &|| path.to_owned())?;
        let decoded = tree::decode_chunk_refs(&bytes)
            .map_err(|error| Error::damaged(format!("chunk list {} of {path}", list.id), error))?;
        for chunk in decoded {
            size += u64::from(chunk.len);
            visit(chunk)?;
        }
    }
    if size != file.size {
        return Err(Error::damaged(format!("chunk list of {path}"), "its chunks do not add up to the file's size"));
    }
    Ok(())
}
