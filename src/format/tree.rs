//! A component's tree: its entries sorted by path, cut into nodes, which are meta chunks.
//!
//! Paths are raw bytes, relative; the path of a directory ends in `/`. Everything is in plain byte order of these paths,
//! so that a directory precedes its content and its content is contiguous. Files that were objects in a bucket have
//! whatever path their key was: with a `/` at its beginning or end, or two in a row.
//!
//! ```text
//! node:
//!   0   1  node format: 1
//!   1   1  level: 0 holds entries, level n holds children of level n - 1
//!   2   2  zero
//!   4   4  count
//!   8   …  entries or children
//!
//! child:    path length (2), first path, node id (32), entries (8), bytes of files (8)
//!
//! entry:    kind: 1 directory, 2 file, 3 symlink (1), flags (1), path length (2), path,
//!           mode (4), uid (4), gid (4), mtime s (8) ns (4), ctime s (8) ns (4), inode (8), device (8), then
//!   file:     size (8), BLAKE3 of the content (32), count (4), count × (chunk id (32), plain length (4)),
//!             and, with flag hard link: length (2), path of the first link
//!   symlink:  target length (2), target
//!           then, for all kinds: attribute count (2), count × (key (2), length (4), bytes), keys ascending
//!
//! flags:    1 sparse   2 racy   4 indirect   8 hard link
//! ```
//!
//! A file of more than [`DIRECT_CHUNKS_MAX`] chunks is *indirect*: its list names meta chunks whose contents, one
//! after another, are the list of (chunk id, plain length).

use crate::format::attributes::{self, XATTRS};
use crate::format::{BlobKind, Cursor, xattrs};
use crate::format_error::FormatError;
use crate::id::{ChunkId, Digest};
use crate::xattrs::Xattrs;

const NODE_FORMAT: u8 = 1;
/// Most levels of a tree: far more than 10^12 entries need.
pub const LEVEL_MAX: u8 = 8;
/// Most chunks that an entry lists itself.
pub const DIRECT_CHUNKS_MAX: usize = 1024;
/// Length of one encoded chunk reference.
pub const CHUNK_REF_LEN: usize = 36;
/// Longest path in bytes.
pub const PATH_LEN_MAX: usize = u16::MAX as usize;
/// Mode, owner and group; two times; inode and device.
const METADATA_LEN: usize = 3 * 4 + 2 * (8 + 4) + 2 * 8;
const ENTRY_LEN_MIN: usize = 1 + 1 + 2 + 1 + METADATA_LEN + 2;
const CHILD_LEN_MIN: usize = 2 + 1 + 32 + 16;

const FLAG_SPARSE: u8 = 1;
const FLAG_RACY: u8 = 2;
const FLAG_INDIRECT: u8 = 4;
const FLAG_HARD_LINK: u8 = 8;
const FLAG_META: u8 = 16;

/// A point in time as file systems keep it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileTime {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds, below 10^9.
    pub nanoseconds: u32,
}

/// What the file system tells of an entry beside its content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Permission bits (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change of the content.
    pub mtime: FileTime,
    /// Time of the last change of content or metadata. Only to find changed files; never restored.
    pub ctime: FileTime,
    /// Number of the file. Only to find changed files.
    pub inode: u64,
    /// Number of the file system. Only to find hard links; varies between mounts.
    pub device: u64,
}

/// A chunk of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRef {
    /// Which chunk.
    pub id: ChunkId,
    /// Length of its content in bytes.
    pub len: u32,
}

/// The content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileContent {
    /// Length in bytes.
    pub size: u64,
    /// Plain BLAKE3 of all of it.
    pub digest: Digest,
    /// Its chunks in order, or the meta chunks that list them.
    pub chunks: Vec<ChunkRef>,
    /// Which kind its own chunks are of: data, or meta for what every key holder may read, as the catalogue.
    pub kind: BlobKind,
    /// Whether `chunks` are meta chunks that list the chunks.
    pub indirect: bool,
    /// Whether the file had holes.
    pub sparse: bool,
    /// Whether it changed so shortly before it was read that its times cannot prove it unchanged later.
    pub racy: bool,
    /// The path of the entry that this one is another name of.
    pub hard_link: Option<Vec<u8>>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File(FileContent),
    /// A symbolic link.
    Symlink {
        /// Where it points, as it stands in the link.
        target: Vec<u8>,
    },
}

/// One file, directory or symlink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative path; ends in `/` for directories, and for objects whose keys do.
    pub path: Vec<u8>,
    /// What the file system tells of it.
    pub metadata: Metadata,
    /// What it is.
    pub kind: EntryKind,
    /// Further facts by key, ascending; keys are listed in `docs/format.md`.
    pub attributes: Vec<(u16, Vec<u8>)>,
}

impl Entry {
    /// Returns the size of a file; other kinds have none.
    pub fn size(&self) -> u64 {
        self.file().map_or(0, |file| file.size)
    }

    /// Returns the content, if this is a file.
    pub fn file(&self) -> Option<&FileContent> {
        match &self.kind {
            EntryKind::File(content) => Some(content),
            _ => None,
        }
    }

    /// Returns the extended attributes; nothing if the backup was not asked for them, or the file system has none.
    pub fn xattrs(&self) -> Option<Xattrs> {
        // What does not decode was refused with the node.
        attributes::get(&self.attributes, XATTRS).and_then(|bytes| xattrs::decode(bytes).ok())
    }

    /// Returns the path as text, with bytes that are not UTF-8 replaced.
    pub fn path_text(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
}

/// A reference from a node to one below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// Path of the first entry below.
    pub first_path: Vec<u8>,
    /// The node.
    pub node: ChunkId,
    /// Entries below.
    pub entries: u64,
    /// Sum of file sizes below.
    pub bytes: u64,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// Level 0.
    Leaf(Vec<Entry>),
    /// A higher level.
    Inner {
        /// Its level, at least 1.
        level: u8,
        /// Its children, all of the level below.
        children: Vec<Child>,
    },
}

/// Length of what precedes a node's items.
pub const NODE_HEADER_LEN: usize = 8;

/// Returns a node's first bytes.
pub fn node_header(level: u8, count: u32) -> [u8; NODE_HEADER_LEN] {
    let count = count.to_le_bytes();
    [NODE_FORMAT, level, 0, 0, count[0], count[1], count[2], count[3]]
}

/// Appends the stored form of an entry.
pub fn encode_entry(entry: &Entry, out: &mut Vec<u8>) {
    let (kind, flags) = match &entry.kind {
        EntryKind::Directory => (1, 0),
        EntryKind::File(file) => (2, file_flags(file)),
        EntryKind::Symlink { .. } => (3, 0),
    };
    out.extend_from_slice(&[kind, flags]);
    encode_short(&entry.path, out);
    encode_metadata(&entry.metadata, out);
    match &entry.kind {
        EntryKind::Directory => {}
        EntryKind::File(file) => encode_file(file, out),
        EntryKind::Symlink { target } => encode_short(target, out),
    }
    out.extend_from_slice(&(entry.attributes.len() as u16).to_le_bytes());
    for (key, value) in &entry.attributes {
        out.extend_from_slice(&key.to_le_bytes());
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(value);
    }
}

/// Appends the stored form of a child.
pub fn encode_child(child: &Child, out: &mut Vec<u8>) {
    encode_short(&child.first_path, out);
    out.extend_from_slice(child.node.as_bytes());
    out.extend_from_slice(&child.entries.to_le_bytes());
    out.extend_from_slice(&child.bytes.to_le_bytes());
}

/// Appends the stored form of a chunk reference.
pub fn encode_chunk_ref(chunk: &ChunkRef, out: &mut Vec<u8>) {
    out.extend_from_slice(chunk.id.as_bytes());
    out.extend_from_slice(&chunk.len.to_le_bytes());
}

/// Reads a list of chunk references, as the meta chunks of an indirect file hold it.
pub fn decode_chunk_refs(bytes: &[u8]) -> Result<Vec<ChunkRef>, FormatError> {
    if !bytes.len().is_multiple_of(CHUNK_REF_LEN) {
        return Err(FormatError::new("its chunk list ends early"));
    }
    let mut cursor = Cursor::new(bytes);
    (0..bytes.len() / CHUNK_REF_LEN).map(|_| decode_chunk_ref(&mut cursor)).collect()
}

/// Reads a node; paths must ascend.
pub fn decode_node(bytes: &[u8]) -> Result<Node, FormatError> {
    let mut cursor = Cursor::new(bytes);
    if cursor.u8()? != NODE_FORMAT {
        return Err(FormatError::new("unknown node format"));
    }
    let level = cursor.u8()?;
    cursor.zeros(2)?;
    let node = match level {
        0 => {
            let count = cursor.count(ENTRY_LEN_MIN)?;
            let entries = (0..count).map(|_| decode_entry(&mut cursor)).collect::<Result<Vec<_>, _>>()?;
            ascending(entries.iter().map(|entry| &entry.path))?;
            Node::Leaf(entries)
        }
        1..=LEVEL_MAX => {
            let count = cursor.count(CHILD_LEN_MIN)?;
            let children = (0..count).map(|_| decode_child(&mut cursor)).collect::<Result<Vec<_>, _>>()?;
            ascending(children.iter().map(|child| &child.first_path))?;
            Node::Inner { level, children }
        }
        _ => return Err(FormatError::new("a tree has too many levels")),
    };
    cursor.finish()?;
    Ok(node)
}

fn file_flags(file: &FileContent) -> u8 {
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    flag(file.sparse, FLAG_SPARSE)
        | flag(file.racy, FLAG_RACY)
        | flag(file.indirect, FLAG_INDIRECT)
        | flag(file.hard_link.is_some(), FLAG_HARD_LINK)
        | flag(file.kind == BlobKind::Meta, FLAG_META)
}

fn encode_short(bytes: &[u8], out: &mut Vec<u8>) {
    debug_assert!(bytes.len() <= PATH_LEN_MAX);
    out.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn encode_metadata(metadata: &Metadata, out: &mut Vec<u8>) {
    for value in [metadata.mode, metadata.uid, metadata.gid] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    for time in [metadata.mtime, metadata.ctime] {
        out.extend_from_slice(&time.seconds.to_le_bytes());
        out.extend_from_slice(&time.nanoseconds.to_le_bytes());
    }
    out.extend_from_slice(&metadata.inode.to_le_bytes());
    out.extend_from_slice(&metadata.device.to_le_bytes());
}

fn encode_file(file: &FileContent, out: &mut Vec<u8>) {
    out.extend_from_slice(&file.size.to_le_bytes());
    out.extend_from_slice(file.digest.as_bytes());
    out.extend_from_slice(&(file.chunks.len() as u32).to_le_bytes());
    file.chunks.iter().for_each(|chunk| encode_chunk_ref(chunk, out));
    if let Some(path) = &file.hard_link {
        encode_short(path, out);
    }
}

fn decode_short(cursor: &mut Cursor<'_>) -> Result<Vec<u8>, FormatError> {
    let len = cursor.u16()? as usize;
    Ok(cursor.bytes(len)?.to_vec())
}

fn decode_chunk_ref(cursor: &mut Cursor<'_>) -> Result<ChunkRef, FormatError> {
    Ok(ChunkRef { id: ChunkId::from_bytes(cursor.array()?), len: cursor.u32()? })
}

fn decode_time(cursor: &mut Cursor<'_>) -> Result<FileTime, FormatError> {
    let time = FileTime { seconds: cursor.i64()?, nanoseconds: cursor.u32()? };
    if time.nanoseconds >= 1_000_000_000 {
        return Err(FormatError::new("a time has too many nanoseconds"));
    }
    Ok(time)
}

fn decode_metadata(cursor: &mut Cursor<'_>) -> Result<Metadata, FormatError> {
    Ok(Metadata {
        mode: cursor.u32()?,
        uid: cursor.u32()?,
        gid: cursor.u32()?,
        mtime: decode_time(cursor)?,
        ctime: decode_time(cursor)?,
        inode: cursor.u64()?,
        device: cursor.u64()?,
    })
}

fn decode_entry(cursor: &mut Cursor<'_>) -> Result<Entry, FormatError> {
    let kind = cursor.u8()?;
    let flags = cursor.u8()?;
    let path = decode_short(cursor)?;
    if path.is_empty() {
        return Err(FormatError::new("an entry has no path"));
    }
    let metadata = decode_metadata(cursor)?;
    if kind != 2 && flags != 0 {
        return Err(FormatError::new("an entry has unknown flags"));
    }
    let kind = match kind {
        1 if path.ends_with(b"/") => EntryKind::Directory,
        2 => EntryKind::File(decode_file(cursor, flags)?),
        3 if !path.ends_with(b"/") => EntryKind::Symlink { target: decode_short(cursor)? },
        _ => return Err(FormatError::new("an entry is of an unknown kind, or its path does not fit its kind")),
    };
    Ok(Entry { path, metadata, kind, attributes: decode_attributes(cursor)? })
}

fn decode_file(cursor: &mut Cursor<'_>, flags: u8) -> Result<FileContent, FormatError> {
    if flags & !(FLAG_SPARSE | FLAG_RACY | FLAG_INDIRECT | FLAG_HARD_LINK | FLAG_META) != 0 {
        return Err(FormatError::new("an entry has unknown flags"));
    }
    let size = cursor.u64()?;
    let digest = Digest::from_bytes(cursor.array()?);
    let count = cursor.count(CHUNK_REF_LEN)?;
    if count > DIRECT_CHUNKS_MAX {
        return Err(FormatError::new("an entry lists too many chunks"));
    }
    let chunks = (0..count).map(|_| decode_chunk_ref(cursor)).collect::<Result<Vec<_>, _>>()?;
    let indirect = flags & FLAG_INDIRECT != 0;
    if !indirect && chunks.iter().map(|chunk| u64::from(chunk.len)).sum::<u64>() != size {
        return Err(FormatError::new("a file's chunks do not add up to its size"));
    }
    let hard_link = if flags & FLAG_HARD_LINK != 0 { Some(decode_short(cursor)?) } else { None };
    let (sparse, racy) = (flags & FLAG_SPARSE != 0, flags & FLAG_RACY != 0);
    let kind = if flags & FLAG_META != 0 { BlobKind::Meta } else { BlobKind::Data };
    Ok(FileContent { size, digest, chunks, kind, indirect, sparse, racy, hard_link })
}

fn decode_attributes(cursor: &mut Cursor<'_>) -> Result<Vec<(u16, Vec<u8>)>, FormatError> {
    let count = cursor.u16()?;
    let mut attributes: Vec<(u16, Vec<u8>)> = Vec::new();
    for _ in 0..count {
        let key = cursor.u16()?;
        let len = cursor.u32()? as usize;
        if attributes.last().is_some_and(|(last, _)| *last >= key) {
            return Err(FormatError::new("an entry's attributes are not in order"));
        }
        let value = cursor.bytes(len)?;
        if key == XATTRS {
            xattrs::decode(value)?;
        }
        attributes.push((key, value.to_vec()));
    }
    Ok(attributes)
}

/// Reads the stored form of a child.
pub fn decode_child(cursor: &mut Cursor<'_>) -> Result<Child, FormatError> {
    let first_path = decode_short(cursor)?;
    if first_path.is_empty() {
        return Err(FormatError::new("a child has no path"));
    }
    let node = ChunkId::from_bytes(cursor.array()?);
    Ok(Child { first_path, node, entries: cursor.u64()?, bytes: cursor.u64()? })
}

fn ascending<'a>(mut paths: impl Iterator<Item = &'a Vec<u8>>) -> Result<(), FormatError> {
    let Some(mut last) = paths.next() else { return Ok(()) };
    for path in paths {
        if path <= last {
            return Err(FormatError::new("its paths are not in order"));
        }
        last = path;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, chunks: &[u32]) -> Entry {
        let chunks: Vec<_> =
            chunks.iter().map(|len| ChunkRef { id: ChunkId::from_bytes([7; 32]), len: *len }).collect();
        Entry {
            path: path.into(),
            metadata: Metadata { mode: 0o644, mtime: FileTime { seconds: -1, nanoseconds: 5 }, ..Metadata::default() },
            kind: EntryKind::File(FileContent {
                size: chunks.iter().map(|chunk| u64::from(chunk.len)).sum(),
                digest: Digest::from_bytes([8; 32]),
                chunks,
                kind: BlobKind::Data,
                indirect: false,
                sparse: true,
                racy: false,
                hard_link: Some(b"a/first".to_vec()),
            }),
            attributes: vec![(1, b"etag".to_vec()), (9, vec![])],
        }
    }

    fn leaf(entries: &[Entry]) -> Vec<u8> {
        let mut bytes = node_header(0, entries.len() as u32).to_vec();
        entries.iter().for_each(|entry| encode_entry(entry, &mut bytes));
        bytes
    }

    #[test]
    fn a_tree_of_one_directory_with_a_short_name_can_be_read() {
        let kind = EntryKind::Directory;
        let entry = Entry { path: b"a/".to_vec(), metadata: Metadata::default(), kind, attributes: vec![] };
        let mut metadata = Vec::new();
        encode_metadata(&entry.metadata, &mut metadata);
        assert_eq!(metadata.len(), METADATA_LEN);
        assert_eq!(decode_node(&leaf(std::slice::from_ref(&entry))).unwrap(), Node::Leaf(vec![entry]));
    }

    #[test]
    fn entries_of_every_kind_survive_encoding() {
        let directory = Entry {
            path: b"a/".to_vec(),
            metadata: Metadata::default(),
            kind: EntryKind::Directory,
            attributes: vec![],
        };
        let object = file("a/b/", &[3]);
        let odd_name = Entry { path: b"a/\xFF\n".to_vec(), ..file("", &[1]) };
        let link =
            Entry { path: b"b".to_vec(), kind: EntryKind::Symlink { target: b"../x".to_vec() }, ..directory.clone() };
        let entries = vec![directory, object, file("a/x", &[10, 20]), odd_name, link];
        assert_eq!(decode_node(&leaf(&entries)), Ok(Node::Leaf(entries)));
    }

    #[test]
    fn nodes_that_lie_are_refused() {
        assert!(decode_node(&leaf(&[file("b", &[]), file("a", &[])])).is_err());
        assert!(decode_node(&leaf(&[file("a", &[]), file("a", &[])])).is_err());
        let mut wrong_size = file("a", &[10]);
        if let EntryKind::File(content) = &mut wrong_size.kind {
            content.size = 11;
        }
        assert!(decode_node(&leaf(&[wrong_size])).is_err());
        let mut huge = leaf(&[file("a", &[])]);
        huge[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(decode_node(&huge).is_err());
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = leaf(&[file("a/x", &[10, 20])]);
        (0..bytes.len()).for_each(|len| assert!(decode_node(&bytes[..len]).is_err()));
    }
}
