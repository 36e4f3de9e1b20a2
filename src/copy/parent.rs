//! Finds files that the target has already, in an earlier snapshot of the same source, so that they are not read again.
//!
//! What must stay true: a file counts as there only if path, size, kind of chunks and the digest of its whole content are
//! the same, and if every chunk may be relied on. Anything doubtful is read.

use std::sync::Arc;

use crate::error::Result;
use crate::format::BlobKind;
use crate::format::tree::{Entry, EntryKind, FileContent};
use crate::id::ChunkId;
use crate::monitor::Monitor;
use crate::repository::chunk_reader::ChunkReader;
use crate::repository::snapshots::Snapshot;
use crate::repository::tree_reader::{TreeReader, chunks_of};

/// The tree of an earlier snapshot in the target, read alongside that of the source.
pub struct Parent<'a> {
    tree: Option<TreeReader<'a>>,
    reader: &'a ChunkReader,
    monitor: &'a dyn Monitor,
}

impl<'a> Parent<'a> {
    /// Opens the component's tree, if there is one that can be read.
    pub fn open(
        reader: &'a ChunkReader,
        parent: &Snapshot,
        component: &str,
        monitor: &'a Arc<dyn Monitor>,
    ) -> Option<Self> {
        let component = parent.record.components.iter().find(|known| known.name == component)?;
        match TreeReader::open(reader, &component.name, &component.root) {
            Ok(tree) => Some(Self { tree: Some(tree), reader, monitor: monitor.as_ref() }),
            Err(error) => {
                monitor.note(&format!("Every file is read: the copy {} is unusable: {error}", parent.id.short()));
                None
            }
        }
    }

    /// Returns the content of the same file in the target.
    pub fn find(&mut self, path: &[u8], content: &FileContent) -> Option<FileContent> {
        let EntryKind::File(known) = self.entry(path)?.kind else { return None };
        let facts = |content: &FileContent| (content.size, content.digest, content.kind);
        (facts(&known) == facts(content)).then_some(known)
    }

    /// Returns whether every chunk of a content may be relied on, as `holds` tells.
    pub fn is_reliable(
        &self,
        path: &str,
        content: &FileContent,
        holds: impl Fn(BlobKind, &ChunkId) -> Result<bool>,
    ) -> Result<bool> {
        if content.indirect && !all(content.chunks.iter().map(|list| holds(BlobKind::Meta, &list.id)))? {
            return Ok(false);
        }
        let Ok(chunks) = chunks_of(self.reader, path, content) else { return Ok(false) };
        all(chunks.iter().map(|chunk| holds(content.kind, &chunk.id)))
    }

    /// Moves forward to `path`. A tree that turns out damaged counts as ended.
    fn entry(&mut self, path: &[u8]) -> Option<Entry> {
        let tree = self.tree.as_mut()?;
        loop {
            match tree.peek()? {
                Ok(entry) if entry.path.as_slice() < path => drop(tree.next()),
                Ok(entry) if entry.path.as_slice() == path => return tree.next()?.ok(),
                Ok(_) => return None,
                Err(error) => {
                    self.monitor.note(&format!("The rest is read: an earlier copy is unusable: {error}"));
                    self.tree = None;
                    return None;
                }
            }
        }
    }
}

fn all(mut answers: impl Iterator<Item = Result<bool>>) -> Result<bool> {
    answers.try_fold(true, |all, answer| Ok(all && answer?))
}
