//! An index segment: "these chunks are in these packs", of one blob kind. Named by the BLAKE3 hash of its stored bytes.
//!
//! The body inside its object envelope is a signed record ([`crate::format::signed`]) whose kind is the blob kind and whose
//! name is empty. Only writers and maintainers sign segments. The record:
//!
//! ```text
//!   0   1  blob kind
//!   1   3  zero
//!   4   4  number of sessions s
//!   8   4  number of packs p
//!  12   …  s session headers of 176 bytes
//!   …   …  p packs: pack id (32), session index (4), chunk count n (4), pack length (8), flags (1), zero (3),
//!          n chunk headers of 44 bytes
//! ```
//!
//! Chunks are listed in the order of the pack, so that offsets follow from lengths. Sessions are listed once each, in
//! the order in which packs first name them: a segment has one stored form only.
//!
//! A pack is *vouched for* if the key slot in its session's header signed the segment, or a maintainer did without the flag
//! 1 (*found*), which says that only the pack itself told. A writer's word on another one's pack is no more than a hint.

use std::collections::HashSet;

use crate::crypto::sign::Domain;
use crate::format::chunk::ChunkHeader;
use crate::format::key_slot::{Certificate, Role};
use crate::format::pack::{self, DIRECTORY_ENTRY_LEN, PACK_LEN_MAX};
use crate::format::session_header::{SESSION_HEADER_LEN, SessionHeader};
use crate::format::signed::{self, Binding, Signer};
use crate::format::{BlobKind, Cursor};
use crate::format_error::FormatError;
use crate::id::{DirectoryHash, PackId, RepositoryId, SignerKey};

/// Most chunks in a segment.
pub const SEGMENT_CHUNKS_MAX: usize = 1 << 20;
/// Most packs in a segment.
pub const SEGMENT_PACKS_MAX: usize = 4096;
const PACK_RECORD_LEN: usize = 52;
const FOUND: u8 = 1;

/// One pack's part of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedPack {
    /// The pack.
    pub id: PackId,
    /// The session that sealed its chunks.
    pub session: SessionHeader,
    /// Its length in bytes.
    pub len: u64,
    /// Whether its writer, or a maintainer who had the writer's word, says that the session wrote it.
    pub is_vouched: bool,
    /// Its chunks, in order.
    pub chunks: Vec<ChunkHeader>,
}

impl IndexedPack {
    /// Returns what tells this word on the pack from any other.
    pub fn directory_hash(&self) -> DirectoryHash {
        pack::directory_hash(&self.chunks)
    }

    /// Iterates over the chunks with their offsets in the pack.
    pub fn located_chunks(&self) -> impl Iterator<Item = (u64, &ChunkHeader)> {
        self.chunks.iter().scan(pack::HEADER_LEN as u64, |offset, chunk| {
            let at = *offset;
            *offset += u64::from(chunk.stored_len);
            Some((at, chunk))
        })
    }
}

/// A part of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// What its packs hold.
    pub kind: BlobKind,
    /// Its packs.
    pub packs: Vec<IndexedPack>,
}

impl Segment {
    /// Returns the record.
    pub fn encode(&self) -> Vec<u8> {
        let mut sessions: Vec<SessionHeader> = Vec::new();
        let mut packs = Vec::new();
        for pack in &self.packs {
            let session = sessions.iter().rposition(|known| *known == pack.session).unwrap_or_else(|| {
                sessions.push(pack.session);
                sessions.len() - 1
            });
            packs.extend_from_slice(pack.id.as_bytes());
            packs.extend_from_slice(&(session as u32).to_le_bytes());
            packs.extend_from_slice(&(pack.chunks.len() as u32).to_le_bytes());
            packs.extend_from_slice(&pack.len.to_le_bytes());
            packs.extend_from_slice(&[if pack.is_vouched { 0 } else { FOUND }, 0, 0, 0]);
            pack.chunks.iter().for_each(|chunk| pack::encode_chunk_header(chunk, &mut packs));
        }
        let mut body = vec![self.kind as u8, 0, 0, 0];
        body.extend_from_slice(&(sessions.len() as u32).to_le_bytes());
        body.extend_from_slice(&(self.packs.len() as u32).to_le_bytes());
        sessions.iter().for_each(|session| body.extend_from_slice(&session.encode()));
        body.extend_from_slice(&packs);
        body
    }

    /// Signs and encodes a segment into the body of its object.
    pub fn sign(&self, repository: RepositoryId, signer: &Signer<'_>) -> Vec<u8> {
        signed::seal(&binding(repository), self.kind as u8, &self.encode(), signer)
    }

    /// Reads the body of an object, verifies who signed it, and leaves of what it vouches for only what its signer can.
    pub fn verify(repository: RepositoryId, root: &SignerKey, body: &[u8]) -> Result<(Self, Certificate), FormatError> {
        let signed::Verified { kind, certificate, record } = signed::open(&binding(repository), root, body)?;
        if !certificate.role.writes_snapshots() {
            return Err(signed::not_allowed(&certificate));
        }
        let mut segment = Self::decode(record)?;
        if segment.kind as u8 != kind {
            return Err(FormatError::new("it is signed as a segment of the other kind"));
        }
        if certificate.role != Role::Maintainer {
            // Whatever it says of the packs of others: a thief of this key could say that garbage is theirs.
            segment.packs.iter_mut().for_each(|pack| pack.is_vouched &= pack.session.slot == certificate.slot);
        }
        Ok((segment, certificate))
    }

    /// Reads the record.
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(body);
        let kind = BlobKind::from_byte(cursor.u8()?)?;
        cursor.zeros(3)?;
        let session_count = cursor.u32()? as usize;
        let pack_count = cursor.u32()? as usize;
        if session_count > body.len() / SESSION_HEADER_LEN || pack_count > body.len() / PACK_RECORD_LEN {
            return Err(FormatError::new("a count exceeds what is there"));
        }
        if pack_count > SEGMENT_PACKS_MAX {
            return Err(FormatError::new("it lists more packs than a segment can"));
        }
        let sessions = (0..session_count).map(|_| SessionHeader::decode(&mut cursor)).collect::<Result<Vec<_>, _>>()?;
        if sessions.iter().collect::<HashSet<_>>().len() != session_count {
            return Err(FormatError::new("it lists a session twice"));
        }
        let (mut named, mut chunks, mut packs) = (0, 0, Vec::with_capacity(pack_count));
        for _ in 0..pack_count {
            let pack = decode_pack(&mut cursor, &sessions, &mut named)?;
            chunks += pack.chunks.len();
            if chunks > SEGMENT_CHUNKS_MAX {
                return Err(FormatError::new("it lists more chunks than a segment can"));
            }
            packs.push(pack);
        }
        cursor.finish()?;
        if named != session_count {
            return Err(FormatError::new("it lists a session that no pack names"));
        }
        Ok(Self { kind, packs })
    }
}

fn binding(repository: RepositoryId) -> Binding<'static> {
    Binding { domain: Domain::Segment, repository, name: b"" }
}

/// Reads one pack's part; `named` counts the sessions that packs have named so far.
fn decode_pack(
    cursor: &mut Cursor<'_>,
    sessions: &[SessionHeader],
    named: &mut usize,
) -> Result<IndexedPack, FormatError> {
    let id = PackId::from_bytes(cursor.array()?);
    let session = cursor.u32()? as usize;
    let count = cursor.u32()? as usize;
    let len = cursor.u64()?;
    let flags = cursor.u8()?;
    cursor.zeros(3)?;
    if flags & !FOUND != 0 {
        return Err(FormatError::new(format!("a pack has unknown flags {flags}")));
    }
    if session > *named {
        return Err(FormatError::new("its sessions are not in the order in which packs name them"));
    }
    *named = (*named).max(session + 1);
    let session = *sessions.get(session).ok_or_else(|| FormatError::new("a pack names a session that is not there"))?;
    let directory = cursor.bytes(count.saturating_mul(DIRECTORY_ENTRY_LEN))?;
    let mut entries = Cursor::new(directory);
    let chunks = (0..count).map(|_| pack::decode_chunk_header(&mut entries)).collect::<Result<Vec<_>, _>>()?;
    let stored: u64 = chunks.iter().map(|chunk| u64::from(chunk.stored_len)).sum();
    if len > PACK_LEN_MAX || pack::HEADER_LEN as u64 + stored > len {
        return Err(FormatError::new("a pack's chunks do not fit its length"));
    }
    Ok(IndexedPack { id, session, len, is_vouched: flags & FOUND == 0, chunks })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::Codec;
    use crate::crypto::keys::new_secret;
    use crate::crypto::sign;
    use crate::format::key_slot::Grant;
    use crate::id::{ChunkId, SessionId, SlotId};

    fn segment() -> Segment {
        let session = |byte| SessionHeader {
            session: SessionId::from_bytes([byte; 16]),
            slot: SlotId::from_bytes([byte; 8]),
            meta_salt: [3; 32],
            enc: [4; 32],
            sealed_key: [5; 48],
            commitment: [6; 32],
        };
        let chunk = |byte| ChunkHeader {
            id: ChunkId::from_bytes([byte; 32]),
            plain_len: 10,
            stored_len: 34,
            codec: Codec::Raw,
            filter: 0,
        };
        let pack = |byte, session| IndexedPack {
            id: PackId::from_bytes([byte; 32]),
            session,
            len: 1000,
            is_vouched: byte != 3,
            chunks: vec![chunk(1), chunk(2)],
        };
        Segment { kind: BlobKind::Meta, packs: vec![pack(1, session(1)), pack(2, session(2)), pack(3, session(1))] }
    }

    #[test]
    fn a_segment_survives_encoding_and_offsets_follow_from_lengths() {
        let segment = segment();
        assert_eq!(Segment::decode(&segment.encode()).unwrap(), segment);
        let offsets: Vec<u64> = segment.packs[0].located_chunks().map(|(offset, _)| offset).collect();
        assert_eq!(offsets, [208, 242]);
    }

    #[test]
    fn a_writer_vouches_for_its_own_packs_and_a_maintainer_for_all_that_were_not_found() {
        let repository = RepositoryId::from_bytes([9; 16]);
        let (root_seed, seed) = (new_secret(), new_secret());
        let vouched = |role| {
            let (slot, signer) = (SlotId::from_bytes([1; 8]), sign::signer_key(&seed));
            let grant = Grant { slot, label: "key", role, created: jiff::Timestamp::UNIX_EPOCH, signer };
            let certificate = Certificate::issue(repository, &root_seed, grant);
            let body = segment().sign(repository, &Signer { certificate: &certificate, seed: &seed });
            let (segment, by) = Segment::verify(repository, &sign::signer_key(&root_seed), &body)?;
            assert_eq!(by, certificate);
            Ok::<_, FormatError>(segment.packs.iter().map(|pack| pack.is_vouched).collect::<Vec<_>>())
        };
        assert_eq!(vouched(Role::Maintainer).unwrap(), [true, true, false]);
        assert_eq!(vouched(Role::Writer).unwrap(), [true, false, false]);
        for role in [Role::Auditor, Role::Reader] {
            assert!(vouched(role).is_err(), "{role:?}");
        }
    }

    #[test]
    fn a_session_that_is_unused_out_of_order_or_there_twice_is_refused() {
        let body = segment().encode();
        let (first, second) = (12, 12 + SESSION_HEADER_LEN);
        let pack_at = |number| 12 + 2 * SESSION_HEADER_LEN + number * (PACK_RECORD_LEN + 2 * DIRECTORY_ENTRY_LEN);
        let with_sessions = |sessions: [u8; 3]| {
            let mut changed = body.clone();
            (0..3).for_each(|number| changed[pack_at(number) + 32] = sessions[number]);
            Segment::decode(&changed)
        };
        assert!(with_sessions([0, 1, 0]).is_ok());
        assert!(with_sessions([0, 0, 0]).is_err());
        assert!(with_sessions([1, 0, 1]).is_err());
        let mut twice = body.clone();
        twice.copy_within(first..second, second);
        assert!(Segment::decode(&twice).is_err());
    }

    #[test]
    fn more_packs_or_chunks_than_a_segment_can_list_are_refused() {
        let one = segment().packs[0].clone();
        let of = |packs: usize, chunks: usize| {
            let pack = IndexedPack { len: PACK_LEN_MAX, chunks: vec![one.chunks[0]; chunks], ..one.clone() };
            Segment::decode(&Segment { kind: BlobKind::Meta, packs: vec![pack; packs] }.encode()).is_ok()
        };
        assert!(of(SEGMENT_PACKS_MAX, 1) && !of(SEGMENT_PACKS_MAX + 1, 1));
        assert!(of(2, SEGMENT_CHUNKS_MAX / 2) && !of(2, SEGMENT_CHUNKS_MAX / 2 + 1));
    }

    #[test]
    fn huge_counts_are_refused_before_anything_is_allocated() {
        let mut body = segment().encode();
        body[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Segment::decode(&body).is_err());
        let mut body = segment().encode();
        let count_at = 12 + 2 * SESSION_HEADER_LEN + 36;
        body[count_at..count_at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Segment::decode(&body).is_err());
    }
}
