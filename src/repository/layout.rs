//! Where each object stands: the keys of a repository.

use std::str::FromStr;

use crate::format::BlobKind;
use crate::id::{NoteId, PackId, SegmentId, SessionId, SlotId, TombstoneId};

/// The repository's parameters.
pub const CONFIG: &str = "config";
/// Prefix of key slots.
pub const KEYS: &str = "keys/";
/// Prefix of packs of both kinds.
pub const PACKS: &str = "packs/";
/// Prefix of index segments of both kinds.
pub const INDEX: &str = "index/";
/// Prefix of snapshots and void markers.
pub const SNAPSHOTS: &str = "snapshots/";
/// Prefix of sessions.
pub const SESSIONS: &str = "sessions/";
/// Prefix of tombstones.
pub const TOMBSTONES: &str = "tombstones/";

/// Prefix of the records of what is forgotten.
pub const FORGOTTEN: &str = "forgotten/";
/// Prefix of notes.
pub const NOTES: &str = "notes/";

/// Returns the key of a key slot.
pub fn key_slot(slot: &SlotId) -> String {
    format!("{KEYS}{slot}")
}

/// Returns the prefix of the packs of one kind. Data and meta packs are apart, so that data can go to cold storage.
pub fn packs(kind: BlobKind) -> String {
    format!("{PACKS}{}/", kind.name())
}

/// Returns the key of a pack; the two digits spread local directories.
pub fn pack(kind: BlobKind, id: &PackId) -> String {
    let name = id.to_string();
    format!("{}{}/{name}", packs(kind), &name[..2])
}

/// Returns the pack of a key, if it stands where packs of this kind stand.
pub fn pack_of(kind: BlobKind, key: &str) -> Option<PackId> {
    id_of(key).filter(|id| pack(kind, id) == key)
}

/// Returns the prefix of the index segments of one kind.
pub fn segments(kind: BlobKind) -> String {
    format!("{INDEX}{}/", kind.name())
}

/// Returns the key of an index segment.
pub fn segment(kind: BlobKind, id: &SegmentId) -> String {
    format!("{}{id}", segments(kind))
}

/// Returns the key under which a session ends.
pub fn snapshot(session: &SessionId) -> String {
    format!("{SNAPSHOTS}{session}")
}

/// Returns the key of a session's announcement.
pub fn session(session: &SessionId) -> String {
    format!("{SESSIONS}{session}")
}

/// Returns the key under which a snapshot is forgotten.
pub fn forgotten(session: &SessionId) -> String {
    format!("{FORGOTTEN}{session}")
}

/// Returns the key of a note.
pub fn note(note: &NoteId) -> String {
    format!("{NOTES}{note}")
}

/// Returns the key of a tombstone.
pub fn tombstone(tombstone: &TombstoneId) -> String {
    format!("{TOMBSTONES}{tombstone}")
}

/// Returns the id that a key ends in, or `None` for keys that mlvault did not make.
pub fn id_of<T: FromStr>(key: &str) -> Option<T> {
    key.rsplit('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lead_back_to_their_ids() {
        let id = PackId::from_bytes([0xAB; 32]);
        let key = pack(BlobKind::Data, &id);
        assert!(key.starts_with("packs/data/ab/abab"));
        assert_eq!(id_of::<PackId>(&key), Some(id));
        assert_eq!(id_of::<SessionId>("snapshots/readme.txt"), None);
    }
}
