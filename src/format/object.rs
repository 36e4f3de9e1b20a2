//! The envelope of small standalone objects: `config`, snapshots, what is said of them, sessions, tombstones, index
//! segments, slot descriptions.
//!
//! ```text
//!   0   8  magic "MLVOBJ01"
//!   8   1  object kind
//!   9   1  format version
//!  10   6  zero
//!  16  16  repository id
//!  32  32  salt, half of it random: the object's key is the keyed hash of it
//!  64   …  AES-256-GCM of the payload, then 16 bytes of tag
//!
//! payload:
//!   0   1  codec: 0 raw, 1 zstd
//!   1   3  zero
//!   4   4  stored length
//!   8   4  plain length
//!  12   …  the stored bytes, then zeros up to the Padmé length
//! ```
//!
//! Associated data: the first 64 bytes, then the object's name where the name is not a hash of the bytes, so that
//! one object can never stand in for another.

use crate::compress::{self, Codec};
use crate::crypto::keys::MetaKeys;
use crate::crypto::random;
use crate::crypto::seal::TAG_LEN;
use crate::format::{Cursor, FORMAT_VERSION, padme};
use crate::format_error::FormatError;
use crate::id::RepositoryId;

const MAGIC: &[u8; 8] = b"MLVOBJ01";
/// Length of what precedes the sealed payload.
const HEADER_LEN: usize = 64;
/// Length of what precedes the body in the payload.
const PAYLOAD_HEADER_LEN: usize = 12;
/// Largest plain body of an object in bytes.
pub const BODY_LEN_MAX: usize = 64 << 20;

/// What a standalone object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// The repository's parameters.
    Config = 1,
    /// A snapshot, or the marker of a void session.
    Snapshot = 2,
    /// The announcement of a session.
    Session = 3,
    /// The record of packs to be swept.
    Tombstone = 4,
    /// A part of the index.
    Segment = 5,
    /// The readable part of a key slot.
    SlotDescription = 6,
    /// The record that a snapshot is forgotten.
    Forgotten = 7,
    /// What is said of a snapshot after it was written.
    Note = 8,
    /// What a check remembers. Never in a repository, only beside its cache.
    Verified = 9,
    /// What a machine has seen of a repository. Never in a repository either.
    History = 10,
    /// That packs were opened and found sound.
    Countersignature = 11,
    /// What a check or a drill found.
    Evidence = 12,
    /// The plan of a sharded backup, or what came of a shard.
    Plan = 13,
    /// An entry of the log.
    LogEntry = 14,
}

impl ObjectKind {
    /// Returns the length in bytes beyond which a plain body of this kind is refused, before any memory is taken for it.
    pub const fn body_len_max(self) -> usize {
        match self {
            Self::SlotDescription => 8 << 10,
            Self::Config | Self::Session => 64 << 10,
            Self::Forgotten | Self::Note | Self::Evidence | Self::Plan | Self::LogEntry => 1 << 20,
            Self::Snapshot => 16 << 20,
            Self::Tombstone | Self::Segment | Self::Countersignature | Self::Verified | Self::History => BODY_LEN_MAX,
        }
    }

    /// Returns the length in bytes beyond which a stored object of this kind is refused: that of the largest body, which
    /// is stored raw if it does not compress.
    pub fn stored_len_max(self) -> u64 {
        padme((HEADER_LEN + PAYLOAD_HEADER_LEN + self.body_len_max() + TAG_LEN) as u64)
    }
}

/// Seals a body. `name` is empty for objects that are named by their bytes.
pub fn seal(keys: &MetaKeys, repository: RepositoryId, kind: ObjectKind, name: &str, body: &[u8]) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_LEN);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&[kind as u8, FORMAT_VERSION, 0, 0, 0, 0, 0, 0]);
    header.extend_from_slice(repository.as_bytes());
    // Half of it follows from the content: were the random half ever drawn twice, the key would seal the same message.
    let payload = payload(body);
    let salt = [keys.object_salt(&associated(&header, name), &payload), random()].concat();
    header.extend_from_slice(&salt);
    let sealed = keys.object_cipher(&salt).seal(&associated(&header, name), payload);
    header.extend_from_slice(&sealed);
    header
}

/// Opens an object of the expected kind and name, and returns its body.
pub fn open(
    keys: &MetaKeys,
    repository: RepositoryId,
    kind: ObjectKind,
    name: &str,
    bytes: &[u8],
) -> Result<Vec<u8>, FormatError> {
    unseal(keys, repository, kind, name, bytes.to_vec())?.into_body()
}

/// Opens an object of the expected kind and name as far as to know how long its body is. It is decrypted where it is: the largest
/// object takes most of the least memory, and a second copy of it would not fit.
pub fn unseal(
    keys: &MetaKeys,
    repository: RepositoryId,
    kind: ObjectKind,
    name: &str,
    mut bytes: Vec<u8>,
) -> Result<Payload, FormatError> {
    let mut cursor = Cursor::new(&bytes);
    if peek_repository(&bytes)? != repository {
        return Err(FormatError::new("it belongs to another repository"));
    }
    let header = cursor.bytes(HEADER_LEN)?.to_vec();
    if header[8] != kind as u8 {
        return Err(FormatError::new("it is an object of another kind"));
    }
    let cipher = keys.object_cipher(&header[32..]);
    bytes.drain(..HEADER_LEN);
    cipher.open_vec(&associated(&header, name), &mut bytes)?;
    Payload::parse(bytes, kind.body_len_max())
}

/// An opened payload whose body is still as it was stored.
pub struct Payload {
    bytes: Vec<u8>,
    codec: Codec,
    stored_len: usize,
    plain_len: usize,
}

impl Payload {
    /// Reads what stands before the body. A body that is to be longer than `plain_len_max` is refused.
    fn parse(bytes: Vec<u8>, plain_len_max: usize) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(&bytes);
        let codec = Codec::from_byte(cursor.u8()?)?;
        cursor.zeros(3)?;
        let stored_len = cursor.u32()? as usize;
        let plain_len = cursor.u32()? as usize;
        if plain_len > plain_len_max {
            return Err(FormatError::new("its declared length is above the limit"));
        }
        cursor.bytes(stored_len)?;
        if cursor.remainder().iter().any(|byte| *byte != 0) {
            return Err(FormatError::new("its padding is not zero"));
        }
        Ok(Self { bytes, codec, stored_len, plain_len })
    }

    /// Returns how many bytes it takes.
    pub fn stored_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Returns how many bytes the body will have.
    pub fn plain_len(&self) -> usize {
        self.plain_len
    }

    /// Decodes the body.
    pub fn into_body(self) -> Result<Vec<u8>, FormatError> {
        let stored = &self.bytes[PAYLOAD_HEADER_LEN..PAYLOAD_HEADER_LEN + self.stored_len];
        compress::decode(self.codec, stored, self.plain_len)
    }
}

/// Returns the repository id of an object without opening it, after checking what is in the clear.
pub fn peek_repository(bytes: &[u8]) -> Result<RepositoryId, FormatError> {
    let mut cursor = Cursor::new(bytes);
    if &cursor.array::<8>()? != MAGIC {
        return Err(FormatError::new("it does not begin as a mlvault object"));
    }
    cursor.u8()?;
    let version = cursor.u8()?;
    if version != FORMAT_VERSION {
        return Err(FormatError::new(format!("it has format {version}, this version reads {FORMAT_VERSION}")));
    }
    cursor.zeros(6)?;
    Ok(RepositoryId::from_bytes(cursor.array()?))
}

/// Returns the format version of an object, whatever it is.
pub fn peek_version(bytes: &[u8]) -> Result<u8, FormatError> {
    let mut cursor = Cursor::new(bytes);
    if &cursor.array::<8>()? != MAGIC {
        return Err(FormatError::new("it does not begin as a mlvault object"));
    }
    cursor.u8()?;
    cursor.u8()
}

fn associated(header: &[u8], name: &str) -> Vec<u8> {
    [header, name.as_bytes()].concat()
}

fn payload(body: &[u8]) -> Vec<u8> {
    let (codec, stored) = compress::encode_small(body);
    let len = PAYLOAD_HEADER_LEN + stored.len();
    let padded = padme((HEADER_LEN + len + TAG_LEN) as u64) as usize - HEADER_LEN - TAG_LEN;
    let mut payload = Vec::with_capacity(padded);
    payload.extend_from_slice(&[codec as u8, 0, 0, 0]);
    payload.extend_from_slice(&(stored.len() as u32).to_le_bytes());
    payload.extend_from_slice(&(body.len() as u32).to_le_bytes());
    payload.extend_from_slice(&stored);
    payload.resize(padded, 0);
    payload
}

/// Reads an opened payload. Separate from [`open`] so that it can be fuzzed.
pub fn open_payload(payload: &[u8]) -> Result<Vec<u8>, FormatError> {
    Payload::parse(payload.to_vec(), BODY_LEN_MAX)?.into_body()
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::Zeroizing;

    const REPOSITORY: RepositoryId = RepositoryId::from_bytes([1; 16]);

    fn keys() -> MetaKeys {
        MetaKeys::new(Zeroizing::new([5; 32]))
    }

    #[test]
    fn an_object_opens_under_its_own_kind_and_name_only() {
        let sealed = seal(&keys(), REPOSITORY, ObjectKind::Snapshot, "a", b"body");
        let open = |kind, name| open(&keys(), REPOSITORY, kind, name, &sealed);
        assert_eq!(open(ObjectKind::Snapshot, "a").unwrap(), b"body");
        assert!(open(ObjectKind::Snapshot, "b").is_err());
        assert!(open(ObjectKind::Session, "a").is_err());
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_noticed() {
        let sealed = seal(&keys(), REPOSITORY, ObjectKind::Config, "", &[7; 300]);
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 0x10;
            assert!(open(&keys(), REPOSITORY, ObjectKind::Config, "", &damaged).is_err(), "byte {at}");
            assert!(open(&keys(), REPOSITORY, ObjectKind::Config, "", &sealed[..at]).is_err());
        }
    }

    #[test]
    fn lengths_are_padded() {
        let sealed = seal(&keys(), REPOSITORY, ObjectKind::Config, "", &random::<1000>());
        assert_eq!(padme(sealed.len() as u64), sealed.len() as u64);
    }

    #[test]
    fn a_declared_length_above_the_limit_allocates_nothing() {
        let mut payload = vec![1, 0, 0, 0, 4, 0, 0, 0];
        payload.extend_from_slice(&u32::MAX.to_le_bytes());
        payload.extend_from_slice(&[0; 4]);
        assert!(open_payload(&payload).is_err());
    }

    #[test]
    fn a_body_above_the_limit_of_its_kind_is_refused_however_well_it_compresses() {
        let zeros = vec![0; ObjectKind::Session.body_len_max() + 1];
        for (len, is_right) in [(zeros.len() - 1, true), (zeros.len(), false)] {
            let sealed = seal(&keys(), REPOSITORY, ObjectKind::Session, "", &zeros[..len]);
            assert!(sealed.len() < 1000);
            assert_eq!(open(&keys(), REPOSITORY, ObjectKind::Session, "", &sealed).is_ok(), is_right);
        }
    }
}
