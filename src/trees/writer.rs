//! Builds a component's tree from its entries in path order, in bounded memory.
//!
//! What must stay true: the same entries give the same nodes, whatever was built before: where a node ends depends
//! on the paths and sizes in it alone. So snapshots share the nodes of what did not change. What the record commits to is
//! every entry that was pushed, and no other.

use crate::chunks::writer::ChunkWriter;
use crate::compress::Encoder;
use crate::crypto;
use crate::crypto::merkle::Frontier;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::commitment::{self, Commitment};
use crate::format::snapshot::{Completeness, Component};
use crate::format::tree::{self, Child, ChunkRef, DIRECT_CHUNKS_MAX, Entry, EntryKind, LEVEL_MAX, NODE_HEADER_LEN};
use crate::id::{ChunkId, CommitmentNonce};
use crate::units::KIB;

/// No node but the last of its level is smaller than this, in bytes.
const NODE_LEN_MIN: usize = 16 * KIB as usize;
/// A node ends when it has reached this length, in bytes.
const NODE_LEN_MAX: usize = 512 * KIB as usize;
/// Past the minimum a node ends at one path in this many, told by the path's hash.
const CUT_ONE_IN: u16 = 256;
/// Chunk references per meta chunk of an indirect list.
const REFS_PER_CHUNK: usize = 16 << 10;

/// What a finished tree comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeSummary {
    /// The root node.
    pub root: ChunkId,
    /// Number of entries.
    pub entries: u64,
    /// Sum of file sizes in bytes.
    pub bytes: u64,
    /// What proves single entries; nothing of a tree that is not stored.
    pub commitment: Option<Commitment>,
}

impl TreeSummary {
    /// Makes it a part of a snapshot.
    pub fn component(self, name: &str, completeness: Completeness) -> Component {
        let Self { root, entries, bytes, commitment } = self;
        Component { name: name.to_owned(), root, entries, bytes, completeness, commitment }
    }
}

/// A tree under construction.
pub struct TreeWriter<'a> {
    chunks: &'a ChunkWriter,
    encoder: Encoder,
    levels: Vec<Level>,
    last_path: Vec<u8>,
    nonce: CommitmentNonce,
    leaves: Frontier,
}

/// The open node of one level.
#[derive(Default)]
struct Level {
    items: Vec<u8>,
    count: u32,
    first_path: Vec<u8>,
    entries: u64,
    bytes: u64,
}

impl<'a> TreeWriter<'a> {
    /// Begins an empty tree.
    pub fn new(chunks: &'a ChunkWriter) -> Self {
        Self {
            chunks,
            encoder: Encoder::default(),
            levels: vec![Level::default()],
            last_path: Vec::new(),
            nonce: CommitmentNonce::from_bytes(crypto::random()),
            leaves: Frontier::default(),
        }
    }

    /// Appends an entry; paths must ascend.
    pub fn push(&mut self, entry: &Entry) -> Result<()> {
        if entry.path <= self.last_path {
            return Err(Error::Internal(format!("the entry {:?} is out of order", entry.path_text())));
        }
        self.last_path.clone_from(&entry.path);
        let salt = self.chunks.repository().keys().leaf_salt(&self.nonce, self.leaves.size());
        self.leaves.push(commitment::leaf(&salt, &commitment::content(entry)));
        let (size, path) = (entry.size(), entry.path.clone());
        self.append(0, &path, 1, size, |out| tree::encode_entry(entry, out))
    }

    /// Moves a long chunk list out of the entry into meta chunks.
    pub fn make_indirect(&mut self, entry: &mut Entry) -> Result<()> {
        let path = entry.path_text();
        let EntryKind::File(file) = &mut entry.kind else { return Ok(()) };
        if file.indirect || file.chunks.len() <= DIRECT_CHUNKS_MAX {
            return Ok(());
        }
        let mut lists = Vec::new();
        for refs in file.chunks.chunks(REFS_PER_CHUNK) {
            let mut bytes = Vec::with_capacity(refs.len() * tree::CHUNK_REF_LEN);
            refs.iter().for_each(|chunk| tree::encode_chunk_ref(chunk, &mut bytes));
            let (id, _) = self.chunks.write(&mut self.encoder, BlobKind::Meta, &bytes)?;
            lists.push(ChunkRef { id, len: bytes.len() as u32 });
        }
        if lists.len() > DIRECT_CHUNKS_MAX {
            return Err(Error::Invalid(format!("{path:?} is too large: it has {} chunks", file.chunks.len())));
        }
        file.chunks = lists;
        file.indirect = true;
        Ok(())
    }

    /// Writes the open nodes up to the root. The root's chunk may still be on its way to the backend.
    pub fn finish(mut self) -> Result<TreeSummary> {
        let commitment = Some(Commitment { root: self.leaves.root(), nonce: self.nonce });
        let mut level = 0;
        loop {
            let is_top = level + 1 == self.levels.len();
            if is_top && self.levels[level].count == 1 && level > 0 {
                // A single child is the root itself.
                let mut cursor = crate::format::Cursor::new(&self.levels[level].items);
                let child = tree::decode_child(&mut cursor).map_err(|error| Error::Internal(error.to_string()))?;
                return Ok(TreeSummary { root: child.node, entries: child.entries, bytes: child.bytes, commitment });
            }
            if is_top && level == 0 && self.levels[0].count == 0 {
                let (root, _) = self.chunks.write(&mut self.encoder, BlobKind::Meta, &tree::node_header(0, 0))?;
                return Ok(TreeSummary { root, entries: 0, bytes: 0, commitment });
            }
            if self.levels[level].count > 0 {
                self.close(level)?;
            }
            level += 1;
        }
    }

    fn append(
        &mut self,
        level: usize,
        path: &[u8],
        entries: u64,
        bytes: u64,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<()> {
        if self.levels.len() == level {
            self.levels.push(Level::default());
        }
        let open = &mut self.levels[level];
        if open.count == 0 {
            open.first_path = path.to_vec();
        }
        encode(&mut open.items);
        open.count += 1;
        open.entries += entries;
        open.bytes += bytes;
        let len = open.items.len();
        if len >= NODE_LEN_MAX || (len >= NODE_LEN_MIN && is_cut(path)) { self.close(level) } else { Ok(()) }
    }

    /// Stores the open node of a level and refers to it from the level above.
    fn close(&mut self, level: usize) -> Result<()> {
        if level >= usize::from(LEVEL_MAX) {
            return Err(Error::Internal("a tree has too many levels".to_owned()));
        }
        let done = std::mem::take(&mut self.levels[level]);
        let mut node = Vec::with_capacity(NODE_HEADER_LEN + done.items.len());
        node.extend_from_slice(&tree::node_header(level as u8, done.count));
        node.extend_from_slice(&done.items);
        let (id, _) = self.chunks.write(&mut self.encoder, BlobKind::Meta, &node)?;
        let child = Child { first_path: done.first_path, node: id, entries: done.entries, bytes: done.bytes };
        let first_path = child.first_path.clone();
        self.append(level + 1, &first_path, child.entries, child.bytes, |out| tree::encode_child(&child, out))
    }
}

fn is_cut(path: &[u8]) -> bool {
    let hash = blake3::hash(path);
    u16::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1]]).is_multiple_of(CUT_ONE_IN)
}
