//! A pack: many sealed chunks of one blob kind in one object, named by the BLAKE3 hash of its bytes.
//!
//! ```text
//!   0   8  magic "MLVPACK1"
//!   8   1  blob kind
//!   9   1  format version
//!  10   6  zero
//!  16  16  repository id
//!  32 176  session header
//! 208   …  sealed chunks, back to back
//!   …   …  directory: salt (16), AES-256-GCM of n × 44 bytes, tag (16)
//!   …   …  zeros up to the Padmé length
//! -48  48  footer: salt (16), AES-256-GCM of 16 bytes, tag (16)
//!
//! directory entry: chunk id (32), plain length (4), stored length (4), codec, filter, zero (2)
//! footer:          directory offset (4), directory length (4), chunk count (4), zero (4)
//! ```
//!
//! Directory and footer are sealed under the session's meta key in packs of both kinds, so that the index can be
//! rebuilt without the data secret. Nothing outside the header is in the clear: chunk boundaries stay hidden.
//! Associated data: "directory" or "footer", then the 208 bytes of header; the key is derived from them and the salt.

use crate::compress::Codec;
use crate::crypto::seal::{MessageKey, SALT_LEN, TAG_LEN};
use crate::format::chunk::{CHUNK_LEN_MAX, ChunkHeader, OVERHEAD, STORED_LEN_MAX};
use crate::format::session_header::{SESSION_HEADER_LEN, SessionHeader};
use crate::format::{BlobKind, Cursor, FORMAT_VERSION, padme};
use crate::format_error::FormatError;
use crate::id::{ChunkId, DirectoryHash, PackId, RepositoryId};

const MAGIC: &[u8; 8] = b"MLVPACK1";
/// Length of the header: chunks begin here.
pub const HEADER_LEN: usize = 32 + SESSION_HEADER_LEN;
/// Length of the footer at the very end.
pub const FOOTER_LEN: usize = FRAME_LEN + FOOTER_PLAIN_LEN;
/// Length of an encoded directory entry.
pub const DIRECTORY_ENTRY_LEN: usize = 44;
/// Largest pack in bytes.
pub const PACK_LEN_MAX: u64 = 128 << 20;
/// Most chunks in a pack.
pub const CHUNKS_MAX: usize = 1 << 20;
/// Salt and tag around a sealed directory or footer.
const FRAME_LEN: usize = SALT_LEN + TAG_LEN;
const FOOTER_PLAIN_LEN: usize = 16;

/// The part of a pack that is in the clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackHeader {
    /// What the pack holds.
    pub kind: BlobKind,
    /// The repository it belongs to.
    pub repository: RepositoryId,
    /// Tells the keys.
    pub session: SessionHeader,
}

impl PackHeader {
    /// Returns the stored form.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8] = self.kind as u8;
        bytes[9] = FORMAT_VERSION;
        bytes[16..32].copy_from_slice(self.repository.as_bytes());
        bytes[32..].copy_from_slice(&self.session.encode());
        bytes
    }

    /// Reads the stored form from the first [`HEADER_LEN`] bytes of a pack.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(bytes);
        if &cursor.array::<8>()? != MAGIC {
            return Err(FormatError::new("it does not begin as a pack"));
        }
        let kind = BlobKind::from_byte(cursor.u8()?)?;
        let version = cursor.u8()?;
        if version != FORMAT_VERSION {
            return Err(FormatError::new(format!("it has format {version}, this version reads {FORMAT_VERSION}")));
        }
        cursor.zeros(6)?;
        let repository = RepositoryId::from_bytes(cursor.array()?);
        Ok(Self { kind, repository, session: SessionHeader::decode(&mut cursor)? })
    }

    fn associated(&self, part: &[u8]) -> Vec<u8> {
        [part, &self.encode()].concat()
    }
}

/// A pack under construction.
pub struct PackBuilder {
    header: PackHeader,
    bytes: Vec<u8>,
    chunks: Vec<ChunkHeader>,
}

/// A complete pack.
pub struct FinishedPack {
    /// Its content, in order.
    pub chunks: Vec<ChunkHeader>,
    /// Its stored bytes.
    pub bytes: Vec<u8>,
}

impl FinishedPack {
    /// Returns the pack's name.
    pub fn id(&self) -> PackId {
        PackId::from_bytes(*blake3::hash(&self.bytes).as_bytes())
    }
}

impl PackBuilder {
    /// Begins a pack; `capacity` bytes are reserved.
    pub fn new(header: PackHeader, capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity);
        bytes.extend_from_slice(&header.encode());
        Self { header, bytes, chunks: Vec::new() }
    }

    /// Appends a sealed chunk.
    pub fn push(&mut self, chunk: ChunkHeader, sealed: &[u8]) {
        debug_assert_eq!(chunk.stored_len as usize, sealed.len());
        self.bytes.extend_from_slice(sealed);
        self.chunks.push(chunk);
    }

    /// Returns the length that the pack would have with another chunk of `stored_len`, before padding.
    pub fn len_with(&self, stored_len: usize) -> usize {
        self.bytes.len() + stored_len + FRAME_LEN + (self.chunks.len() + 1) * DIRECTORY_ENTRY_LEN + FOOTER_LEN
    }

    /// Returns the length of the chunks so far.
    pub fn content_len(&self) -> usize {
        self.bytes.len() - HEADER_LEN + self.chunks.len() * DIRECTORY_ENTRY_LEN
    }

    /// Takes over the chunks of another pack of the same kind and session.
    pub fn absorb(&mut self, other: Self) {
        debug_assert_eq!(self.header, other.header);
        self.bytes.extend_from_slice(&other.bytes[HEADER_LEN..]);
        self.chunks.extend_from_slice(&other.chunks);
    }

    /// Returns how many chunks there are.
    pub fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    /// Seals directory and footer.
    pub fn finish(mut self, meta: &MessageKey) -> FinishedPack {
        let directory = seal_frame(meta, &self.header.associated(b"directory"), directory(&self.chunks));
        let offset = self.bytes.len() as u32;
        self.bytes.extend_from_slice(&directory);
        let padded = padme((self.bytes.len() + FOOTER_LEN) as u64) as usize;
        self.bytes.resize(padded - FOOTER_LEN, 0);
        let mut footer = Vec::with_capacity(FOOTER_PLAIN_LEN);
        footer.extend_from_slice(&offset.to_le_bytes());
        footer.extend_from_slice(&(directory.len() as u32).to_le_bytes());
        footer.extend_from_slice(&(self.chunks.len() as u32).to_le_bytes());
        footer.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&seal_frame(meta, &self.header.associated(b"footer"), footer));
        FinishedPack { chunks: self.chunks, bytes: self.bytes }
    }
}

/// Where a pack's directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footer {
    /// Offset of the sealed directory in the pack.
    pub directory_offset: u64,
    /// Its sealed length.
    pub directory_len: u64,
    /// How many chunks it lists.
    pub chunk_count: usize,
}

/// Opens the last [`FOOTER_LEN`] bytes of a pack of `pack_len` bytes.
pub fn open_footer(header: &PackHeader, meta: &MessageKey, pack_len: u64, bytes: &[u8]) -> Result<Footer, FormatError> {
    let plain = open_frame(meta, &header.associated(b"footer"), bytes)?;
    decode_footer(&plain, pack_len)
}

/// Reads an opened footer.
pub fn decode_footer(plain: &[u8], pack_len: u64) -> Result<Footer, FormatError> {
    let mut cursor = Cursor::new(plain);
    let footer = Footer {
        directory_offset: u64::from(cursor.u32()?),
        directory_len: u64::from(cursor.u32()?),
        chunk_count: cursor.u32()? as usize,
    };
    cursor.zeros(4)?;
    cursor.finish()?;
    let expected_len = (FRAME_LEN + footer.chunk_count * DIRECTORY_ENTRY_LEN) as u64;
    let end = footer.directory_offset + footer.directory_len + FOOTER_LEN as u64;
    let fits = footer.directory_offset >= HEADER_LEN as u64 && end <= pack_len && pack_len <= PACK_LEN_MAX;
    if footer.chunk_count > CHUNKS_MAX || footer.directory_len != expected_len || !fits {
        return Err(FormatError::new("its footer does not fit its length"));
    }
    Ok(footer)
}

/// Opens a pack's directory: its chunks, in order from [`HEADER_LEN`] on.
pub fn open_directory(
    header: &PackHeader,
    meta: &MessageKey,
    footer: &Footer,
    bytes: &[u8],
) -> Result<Vec<ChunkHeader>, FormatError> {
    let plain = open_frame(meta, &header.associated(b"directory"), bytes)?;
    decode_directory(&plain, footer)
}

/// Reads an opened directory; the chunks must fill the pack exactly up to the directory.
pub fn decode_directory(plain: &[u8], footer: &Footer) -> Result<Vec<ChunkHeader>, FormatError> {
    let mut cursor = Cursor::new(plain);
    let mut chunks = Vec::with_capacity(plain.len() / DIRECTORY_ENTRY_LEN);
    let mut end = HEADER_LEN as u64;
    for _ in 0..footer.chunk_count {
        let chunk = decode_chunk_header(&mut cursor)?;
        end += u64::from(chunk.stored_len);
        chunks.push(chunk);
    }
    cursor.finish()?;
    if end != footer.directory_offset {
        return Err(FormatError::new("its directory does not match its length"));
    }
    Ok(chunks)
}

/// Appends the stored form of a chunk header, as directories and index segments hold it.
pub fn encode_chunk_header(chunk: &ChunkHeader, out: &mut Vec<u8>) {
    out.extend_from_slice(chunk.id.as_bytes());
    out.extend_from_slice(&chunk.plain_len.to_le_bytes());
    out.extend_from_slice(&chunk.stored_len.to_le_bytes());
    out.extend_from_slice(&[chunk.codec as u8, chunk.filter, 0, 0]);
}

/// Reads the stored form of a chunk header, within the limits on lengths.
pub fn decode_chunk_header(cursor: &mut Cursor<'_>) -> Result<ChunkHeader, FormatError> {
    let id = ChunkId::from_bytes(cursor.array()?);
    let plain_len = cursor.u32()?;
    let stored_len = cursor.u32()?;
    let codec = Codec::from_byte(cursor.u8()?)?;
    let filter = cursor.u8()?;
    cursor.zeros(2)?;
    if plain_len as usize > CHUNK_LEN_MAX || !(OVERHEAD..=STORED_LEN_MAX).contains(&(stored_len as usize)) {
        return Err(FormatError::new("a chunk's length is out of bounds"));
    }
    Ok(ChunkHeader { id, plain_len, stored_len, codec, filter })
}

/// Returns what tells these chunks, in this order, from all others.
pub fn directory_hash(chunks: &[ChunkHeader]) -> DirectoryHash {
    let hash = blake3::hash(&directory(chunks));
    DirectoryHash::from_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
}

fn directory(chunks: &[ChunkHeader]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(chunks.len() * DIRECTORY_ENTRY_LEN);
    chunks.iter().for_each(|chunk| encode_chunk_header(chunk, &mut plain));
    plain
}

fn seal_frame(meta: &MessageKey, associated: &[u8], plain: Vec<u8>) -> Vec<u8> {
    let salt = meta.salt(associated, &plain);
    [&salt[..], &meta.cipher(&[associated, &salt].concat()).seal(associated, plain)].concat()
}

fn open_frame(meta: &MessageKey, associated: &[u8], bytes: &[u8]) -> Result<Vec<u8>, FormatError> {
    let (salt, sealed) = bytes.split_first_chunk::<SALT_LEN>().ok_or_else(|| FormatError::new("it ends early"))?;
    Ok(meta.cipher(&[associated, salt].concat()).open(associated, sealed)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> PackHeader {
        let session = SessionHeader {
            session: crate::id::SessionId::from_bytes([2; 16]),
            slot: crate::id::SlotId::from_bytes([7; 8]),
            meta_salt: [3; 32],
            enc: [4; 32],
            sealed_key: [5; 48],
            commitment: [6; 32],
        };
        PackHeader { kind: BlobKind::Data, repository: RepositoryId::from_bytes([1; 16]), session }
    }

    fn chunk(byte: u8, stored_len: u32) -> ChunkHeader {
        ChunkHeader { id: ChunkId::from_bytes([byte; 32]), plain_len: 100, stored_len, codec: Codec::Zstd, filter: 0 }
    }

    fn pack() -> (MessageKey, FinishedPack) {
        let key = MessageKey::new(zeroize::Zeroizing::new([9; 32]));
        let mut builder = PackBuilder::new(header(), 0);
        builder.push(chunk(1, 50), &[0xAA; 50]);
        builder.push(chunk(2, 70), &[0xBB; 70]);
        let finished = builder.finish(&key);
        (key, finished)
    }

    fn read(key: &MessageKey, bytes: &[u8]) -> Result<Vec<ChunkHeader>, FormatError> {
        let header = PackHeader::decode(bytes)?;
        let tail = bytes.len().checked_sub(FOOTER_LEN).ok_or_else(|| FormatError::new("short"))?;
        let footer = open_footer(&header, key, bytes.len() as u64, &bytes[tail..])?;
        let start = footer.directory_offset as usize;
        open_directory(&header, key, &footer, &bytes[start..start + footer.directory_len as usize])
    }

    #[test]
    fn a_pack_tells_its_chunks_in_order() {
        let (key, pack) = pack();
        assert_eq!(read(&key, &pack.bytes).unwrap(), vec![chunk(1, 50), chunk(2, 70)]);
        assert_eq!(padme(pack.bytes.len() as u64), pack.bytes.len() as u64);
        assert_eq!(PackHeader::decode(&pack.bytes).unwrap(), header());
    }

    #[test]
    fn damage_to_header_directory_or_footer_is_noticed_without_the_name() {
        let (key, pack) = pack();
        for at in (0..HEADER_LEN).chain(HEADER_LEN + 120..HEADER_LEN + 120 + FRAME_LEN + 88) {
            let mut damaged = pack.bytes.clone();
            damaged[at] ^= 1;
            assert!(read(&key, &damaged).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_footer_cannot_point_outside_the_pack() {
        let mut plain = Vec::new();
        for value in [u32::MAX - 10, (FRAME_LEN + 44) as u32, 1, 0] {
            plain.extend_from_slice(&value.to_le_bytes());
        }
        assert!(decode_footer(&plain, 1 << 20).is_err());
    }
}
