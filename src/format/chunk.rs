//! A sealed chunk, as it stands in a pack.
//!
//! ```text
//!   0   …  AES-256-GCM of the encoded content
//!   …  16  tag
//! ```
//!
//! The key is derived from the session's and the associated data, which name the content. Associated data, 56 bytes: format version, blob kind, codec, filter (one byte each), plain length (4),
//! repository id (16), chunk id (32). Not the position: a chunk may stand in any pack of its session's key.

use crate::compress::{self, Codec, Encoder};
use crate::crypto::keys::MetaKeys;
use crate::crypto::seal::{MessageKey, TAG_LEN};
use crate::format::{BlobKind, FORMAT_VERSION};
use crate::format_error::FormatError;
use crate::id::{ChunkId, RepositoryId};

/// Largest plain chunk in bytes.
pub const CHUNK_LEN_MAX: usize = 16 << 20;
/// Bytes that sealing adds to the encoded content.
pub const OVERHEAD: usize = TAG_LEN;
/// Largest stored chunk: a raw one of the largest plain length.
pub const STORED_LEN_MAX: usize = CHUNK_LEN_MAX + OVERHEAD;
/// The filter byte of chunks that no filter was applied to; the only one so far.
pub const FILTER_NONE: u8 = 0;

/// What one must know of a stored chunk to open it, beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkHeader {
    /// The chunk's name.
    pub id: ChunkId,
    /// Length of the content in bytes.
    pub plain_len: u32,
    /// Length of the sealed form in bytes.
    pub stored_len: u32,
    /// How the content was compressed.
    pub codec: Codec,
    /// How the content was rearranged before that.
    pub filter: u8,
}

impl ChunkHeader {
    fn associated(&self, kind: BlobKind, repository: RepositoryId) -> [u8; 56] {
        let mut bytes = [0; 56];
        bytes[0] = FORMAT_VERSION;
        bytes[1] = kind as u8;
        bytes[2] = self.codec as u8;
        bytes[3] = self.filter;
        bytes[4..8].copy_from_slice(&self.plain_len.to_le_bytes());
        bytes[8..24].copy_from_slice(repository.as_bytes());
        bytes[24..].copy_from_slice(self.id.as_bytes());
        bytes
    }
}

/// What the chunks of one session and kind have in common: the key, and what each is bound to beside its name.
#[derive(Clone, Copy)]
pub struct ChunkContext<'a> {
    /// The session's key for this kind.
    pub key: &'a MessageKey,
    /// What the chunks hold.
    pub kind: BlobKind,
    /// The repository that they belong to.
    pub repository: RepositoryId,
}

impl ChunkContext<'_> {
    /// Compresses and seals a chunk, then opens it again and compares: what is returned can be read back.
    ///
    /// Fails only where the machine or a library does not do what it promises.
    pub fn seal(
        &self,
        encoder: &mut Encoder,
        id: ChunkId,
        plain: &[u8],
    ) -> Result<(ChunkHeader, Vec<u8>), FormatError> {
        let mut sealed = Vec::with_capacity(plain.len() + plain.len() / 128 + 512 + OVERHEAD);
        let codec = encoder.encode(plain, &mut sealed);
        let header = ChunkHeader {
            id,
            plain_len: plain.len() as u32,
            stored_len: (sealed.len() + TAG_LEN) as u32,
            codec,
            filter: FILTER_NONE,
        };
        let associated = header.associated(self.kind, self.repository);
        // The associated data name the content, so this key seals nothing else, however often the chunk is written.
        let tag = self.key.cipher(&associated).seal_in_place(&associated, &mut sealed);
        sealed.extend_from_slice(&tag);
        // A fault of memory or of a library is noticed here, while the plain content is still there to be stored again.
        if encoder.scratch(|scratch| self.open_into(&header, &sealed, scratch).map(|()| scratch == plain))? {
            Ok((header, sealed))
        } else {
            Err(FormatError::new("a sealed chunk did not open to what was sealed"))
        }
    }

    /// Opens a stored chunk and compares it with its name.
    pub fn open(&self, header: &ChunkHeader, keys: &MetaKeys, stored: &[u8]) -> Result<Vec<u8>, FormatError> {
        let mut plain = Vec::new();
        self.open_into(header, stored, &mut plain)?;
        // That it authenticates says that a writer sealed it, not that the writer sealed what the name says.
        if keys.chunk_id(self.kind as u8, &plain) != header.id {
            return Err(FormatError::new("its content does not hash to its name"));
        }
        Ok(plain)
    }

    fn open_into(&self, header: &ChunkHeader, stored: &[u8], plain: &mut Vec<u8>) -> Result<(), FormatError> {
        // Before memory is set aside: the length comes from an index that any writer may have written.
        if header.plain_len as usize > CHUNK_LEN_MAX {
            return Err(FormatError::new("its declared length is above the limit"));
        }
        if header.filter != FILTER_NONE {
            return Err(FormatError::new(format!("unknown filter {}", header.filter)));
        }
        let early = || FormatError::new("it ends early");
        let (message, tag) = stored.split_last_chunk::<TAG_LEN>().ok_or_else(early)?;
        let mut message = message.to_vec();
        let associated = header.associated(self.kind, self.repository);
        // All of the header is authenticated before a decoder sees a byte.
        self.key.cipher(&associated).open_in_place(&associated, &mut message, tag)?;
        compress::decode_into(header.codec, message, header.plain_len as usize, plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::Zeroizing;

    const REPOSITORY: RepositoryId = RepositoryId::from_bytes([1; 16]);

    fn context(key: &MessageKey, kind: BlobKind) -> ChunkContext<'_> {
        ChunkContext { key, kind, repository: REPOSITORY }
    }

    fn sealed(plain: &[u8]) -> (MetaKeys, MessageKey, ChunkHeader, Vec<u8>) {
        let keys = MetaKeys::new(Zeroizing::new([5; 32]));
        let key = MessageKey::new(Zeroizing::new([8; 32]));
        let id = keys.chunk_id(BlobKind::Data as u8, plain);
        let (header, bytes) = context(&key, BlobKind::Data).seal(&mut Encoder::default(), id, plain).unwrap();
        (keys, key, header, bytes)
    }

    #[test]
    fn a_chunk_opens_as_what_it_was_sealed_as_only() {
        let plain = b"weights ".repeat(1000);
        let (keys, key, header, bytes) = sealed(&plain);
        assert!(bytes.len() < plain.len() / 10);
        assert_eq!(bytes.len(), header.stored_len as usize);
        assert_eq!(context(&key, BlobKind::Data).open(&header, &keys, &bytes).unwrap(), plain);
        assert!(context(&key, BlobKind::Meta).open(&header, &keys, &bytes).is_err());
        for change in [
            ChunkHeader { codec: Codec::Raw, ..header },
            ChunkHeader { filter: 1, ..header },
            ChunkHeader { plain_len: header.plain_len + 1, ..header },
            ChunkHeader { plain_len: u32::MAX, ..header },
            ChunkHeader { id: ChunkId::from_bytes([0; 32]), ..header },
        ] {
            assert!(context(&key, BlobKind::Data).open(&change, &keys, &bytes).is_err());
        }
    }

    /// Computed independently, with another AES-GCM and another BLAKE3, from the description in this file's header.
    #[test]
    fn a_sealed_chunk_agrees_with_the_golden_vector() {
        let (.., bytes) = sealed(b"mlvault");
        assert_eq!(data_encoding::HEXLOWER.encode(&bytes), "ad2d8a8eeb816e07c8fdb85ce9af733ef499185626af39");
    }

    #[test]
    fn garbage_under_a_good_name_is_noticed_though_it_authenticates() {
        let (keys, key, _, _) = sealed(b"x");
        let id = keys.chunk_id(BlobKind::Data as u8, b"honest");
        let (header, bytes) = context(&key, BlobKind::Data).seal(&mut Encoder::default(), id, b"forged").unwrap();
        let error = context(&key, BlobKind::Data).open(&header, &keys, &bytes).unwrap_err();
        assert_eq!(error.to_string(), "its content does not hash to its name");
    }

    #[test]
    fn an_empty_chunk_survives() {
        let (keys, key, header, bytes) = sealed(b"");
        assert_eq!(context(&key, BlobKind::Data).open(&header, &keys, &bytes).unwrap(), b"");
    }
}
