//! Where each chunk is: the sum of the repository's index segments, in a form that answers quickly.
//!
//! What must stay true: an index says exactly what the segments given to it say. It is a cache: losing it costs time
//! and nothing else, and no decision about deletion may rest on it alone.

pub mod memory;
pub mod rocks;

use std::collections::BTreeSet;

use crate::compress::Codec;
use crate::error::Result;
use crate::format::BlobKind;
use crate::format::chunk::ChunkHeader;
use crate::format::segment::IndexedPack;
use crate::format::segment::Segment;
use crate::format::session_header::SessionHeader;
use crate::id::{ChunkId, DirectoryHash, PackId, SegmentId};

/// Names a pack inside one index; meaningless outside of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackNumber(pub u32);

/// Where a chunk stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkLocation {
    /// In which pack.
    pub pack: PackNumber,
    /// At which offset, in bytes.
    pub offset: u32,
    /// Length of the content.
    pub plain_len: u32,
    /// Length of the sealed form.
    pub stored_len: u32,
    /// How it is compressed.
    pub codec: Codec,
    /// How it is filtered.
    pub filter: u8,
}

impl ChunkLocation {
    /// Returns what one must know to open the chunk.
    pub fn header(&self, id: ChunkId) -> ChunkHeader {
        let Self { plain_len, stored_len, codec, filter, .. } = *self;
        ChunkHeader { id, plain_len, stored_len, codec, filter }
    }
}

/// What the index knows of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackRecord {
    /// The pack.
    pub id: PackId,
    /// What it holds.
    pub kind: BlobKind,
    /// Its length in bytes.
    pub len: u64,
    /// Tells its keys.
    pub session: SessionHeader,
    /// Whether the key slot in its session's header stands by it.
    pub is_vouched: bool,
    /// What it is said to hold.
    pub directory: DirectoryHash,
}

impl PackRecord {
    /// Makes the record of what a segment says.
    pub fn new(kind: BlobKind, pack: &IndexedPack) -> Self {
        let IndexedPack { id, session, len, is_vouched, .. } = *pack;
        Self { id, kind, len, session, is_vouched, directory: pack.directory_hash() }
    }
}

/// Answers where chunks are. Calls may come from many threads.
pub trait ChunkIndex: Send + Sync {
    /// Returns every place where a chunk stands.
    fn locate(&self, id: &ChunkId) -> Result<Vec<ChunkLocation>>;

    /// Returns what is known of a pack, or `None` if its segment is gone.
    fn pack(&self, number: PackNumber) -> Result<Option<PackRecord>>;

    /// Returns the segments that the answers come from.
    fn segments(&self, kind: BlobKind) -> Result<BTreeSet<SegmentId>>;

    /// Takes in a segment. Atomic, and idempotent.
    fn add(&self, id: SegmentId, segment: &Segment) -> Result<()>;

    /// Forgets a segment and all that it said.
    fn remove(&self, kind: BlobKind, id: SegmentId) -> Result<()>;

    /// Returns all packs of a kind. A pack that stands in several segments appears as often.
    fn packs(&self, kind: BlobKind) -> Result<Vec<(PackNumber, PackRecord)>>;

    /// Calls `visit` with every chunk of every pack of a kind, in the order of their ids.
    fn for_each_chunk(&self, kind: BlobKind, visit: &mut dyn FnMut(ChunkId, ChunkLocation) -> Result<()>)
    -> Result<()>;
}
