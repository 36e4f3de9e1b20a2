//! Takes what a tree refers to over into a session that writes the tree anew.
//!
//! What must stay true: a chunk that the session may not rely on where it is (its pack is marked, gone, or of somebody who is
//! not trusted) is stored anew before anything new refers to it.

use std::sync::Arc;

use crate::chunks::reader::ChunkReader;
use crate::chunks::writer::ChunkWriter;
use crate::compress::Encoder;
use crate::error::Result;
use crate::format::BlobKind;
use crate::format::tree::Entry;
use crate::id::ChunkId;
use crate::trees::reader::for_each_chunk_of;

/// A chunk, and what kind of pack it is in.
pub type KindAndId = (BlobKind, ChunkId);

/// Takes chunks over into a session.
pub struct Keeper<'a> {
    reader: ChunkReader,
    writer: &'a ChunkWriter,
    encoder: Encoder,
}

impl<'a> Keeper<'a> {
    /// Prepares for the session of a writer.
    pub fn new(writer: &'a ChunkWriter) -> Self {
        Self { reader: ChunkReader::new(Arc::clone(writer.repository())), writer, encoder: Encoder::default() }
    }

    /// Returns what reads the repository for it.
    pub fn reader(&self) -> &ChunkReader {
        &self.reader
    }

    /// Makes sure that a chunk can be relied on. Fails with damage if it cannot be had.
    pub fn keep(&mut self, kind: BlobKind, id: &ChunkId, needed_by: &dyn Fn() -> String) -> Result<()> {
        if self.writer.holds(kind, id)? {
            return Ok(());
        }
        let plain = self.reader.read(kind, id, needed_by)?;
        self.writer.write(&mut self.encoder, kind, &plain).map(drop)
    }

    /// Makes sure that every chunk of an entry can be relied on. Fails with damage at the first that cannot be had.
    pub fn keep_entry(&mut self, entry: &Entry) -> Result<()> {
        let needed_by = || entry.path_text();
        for (kind, id) in self.chunks_of(entry)? {
            self.keep(kind, &id, &needed_by)?;
        }
        Ok(())
    }

    /// Makes sure of the chunks of an entry unless one of them is known to be lost. Returns those that cannot be had. Fails
    /// with damage if the list of chunks is.
    pub fn keep_unless_lost(&mut self, entry: &Entry, is_lost: &dyn Fn(&KindAndId) -> bool) -> Result<Vec<KindAndId>> {
        let chunks = self.chunks_of(entry)?;
        let mut lacking: Vec<_> = chunks.iter().filter(|chunk| is_lost(chunk)).copied().collect();
        if !lacking.is_empty() {
            return Ok(lacking);
        }
        for (kind, id) in chunks {
            match self.keep(kind, &id, &String::new) {
                Err(error) if error.is_damage() => lacking.push((kind, id)),
                result => result?,
            }
        }
        Ok(lacking)
    }

    /// Returns all chunks of an entry, those of its list after what they list.
    fn chunks_of(&self, entry: &Entry) -> Result<Vec<KindAndId>> {
        let Some(file) = entry.file() else { return Ok(Vec::new()) };
        let mut chunks = Vec::new();
        for_each_chunk_of(&self.reader, &entry.path_text(), file, &mut |chunk| {
            chunks.push((file.kind, chunk.id));
            Ok(())
        })?;
        chunks.extend(file.chunks.iter().filter(|_| file.indirect).map(|list| (BlobKind::Meta, list.id)));
        Ok(chunks)
    }
}
