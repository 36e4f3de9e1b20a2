//! Where each object stands: the keys of a repository, written and read here and nowhere else.
//!
//! What must stay true: [`Object::key`] and [`Object::parse`] are inverse to each other. Only the one key of an object
//! names it, so that nothing counts as there under a name by which it would not be found. A new kind of object is a new
//! variant, and the compiler then names every place that must learn of it.

use crate::format::BlobKind;
use crate::format::key_slot::SLOT_LEN_MAX;
use crate::format::object::ObjectKind;
use crate::format::pack::PACK_LEN_MAX;
use crate::id::{
    CountersignatureId, EvidenceId, NoteId, PackId, PlanId, QuarantineId, SegmentId, SessionId, SlotId, TombstoneId,
};
use crate::units::{KIB, MIB};

/// The repository's parameters, and the generation of keys that they belong to.
pub const CONFIG: &str = "config/1";
/// Prefix of key slots.
pub const KEYS: &str = "keys/";
/// Prefix of packs of both kinds.
pub const PACKS: &str = "packs/";
/// Prefix of index segments of both kinds.
pub const INDEX: &str = "index/";
/// Prefix of sessions.
pub const SESSIONS: &str = "sessions/";
/// Prefix of snapshots and void markers.
pub const SNAPSHOTS: &str = "snapshots/";
/// Prefix of the records of what is forgotten.
pub const FORGOTTEN: &str = "forgotten/";
/// Prefix of notes.
pub const NOTES: &str = "notes/";
/// Prefix of tombstones.
pub const TOMBSTONES: &str = "tombstones/";
/// Prefix of countersignatures.
pub const COUNTERSIGNED: &str = "countersigned/";
/// Prefix of evidence.
pub const EVIDENCE: &str = "evidence/";
/// Prefix of the plans of sharded backups, with what came of their shards.
pub const PLANS: &str = "plans/";
/// Last part of the key of a plan.
const PLAN: &str = "plan";
/// Prefix of the entries of the append-only log.
pub const LOG: &str = "log/";
/// Prefix of what was put aside because it is none of the repository's objects. Nothing there is ever read but by people.
pub const QUARANTINE: &str = "quarantine/";

/// Largest part of an object in quarantine, in bytes: larger ones lie there in several.
pub const QUARANTINE_PART_BYTES_MAX: u64 = 8 * MIB;
/// Largest record of what is in quarantine, in bytes.
const QUARANTINE_RECORD_BYTES_MAX: u64 = 64 * KIB;
/// Last part of the key of such a record.
const QUARANTINE_RECORD: &str = "record";

/// Prefix of what is written to try a backend. It belongs to no repository; credentials that cannot delete leave some.
pub const PROBE: &str = "probe/";

/// One of the objects that a repository consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// The repository's parameters.
    Config,
    /// A key slot.
    KeySlot(SlotId),
    /// A pack. Data and meta packs are apart, so that data can go to cold storage.
    Pack(BlobKind, PackId),
    /// An index segment for packs of a kind.
    Segment(BlobKind, SegmentId),
    /// The announcement of a session.
    Session(SessionId),
    /// The outcome of a session: a snapshot, or the marker that it is void.
    Snapshot(SessionId),
    /// The record that a snapshot is forgotten.
    Forgotten(SessionId),
    /// A note.
    Note(NoteId),
    /// A tombstone.
    Tombstone(TombstoneId),
    /// That packs were opened and found sound.
    Countersignature(CountersignatureId),
    /// What a check or a drill found.
    Evidence(EvidenceId),
    /// The plan of a sharded backup.
    Plan(PlanId),
    /// What came of a shard, by its number.
    Shard(PlanId, u32),
    /// An entry of the log, by its number.
    LogEntry(u64),
    /// What is said of an object in quarantine.
    QuarantineRecord(QuarantineId),
    /// A part of an object in quarantine, by its number.
    Quarantined(QuarantineId, u32),
}

impl Object {
    /// Returns the key under which it stands.
    pub fn key(self) -> String {
        match self {
            Self::Config => CONFIG.to_owned(),
            Self::KeySlot(id) => format!("{KEYS}{id}"),
            Self::Pack(kind, id) => {
                let name = id.to_string();
                // The two digits keep directories of a local backend small.
                format!("{}{}/{name}", packs(kind), &name[..2])
            }
            Self::Segment(kind, id) => format!("{}{id}", segments(kind)),
            Self::Session(id) => format!("{SESSIONS}{id}"),
            Self::Snapshot(id) => format!("{SNAPSHOTS}{id}"),
            Self::Forgotten(id) => format!("{FORGOTTEN}{id}"),
            Self::Note(id) => format!("{NOTES}{id}"),
            Self::Tombstone(id) => format!("{TOMBSTONES}{id}"),
            Self::Countersignature(id) => format!("{COUNTERSIGNED}{id}"),
            Self::Evidence(id) => format!("{EVIDENCE}{id}"),
            Self::Plan(id) => format!("{PLANS}{id}/{PLAN}"),
            Self::Shard(id, number) => format!("{PLANS}{id}/{number:08x}"),
            Self::LogEntry(number) => format!("{LOG}{}", log_entry_name(number)),
            Self::QuarantineRecord(id) => format!("{QUARANTINE}{id}/{QUARANTINE_RECORD}"),
            Self::Quarantined(id, part) => format!("{QUARANTINE}{id}/{part:08x}"),
        }
    }

    /// Returns the size in bytes beyond which an object of this kind is refused unread.
    pub fn bytes_max(self) -> u64 {
        match self {
            Self::KeySlot(_) => SLOT_LEN_MAX,
            Self::Pack(..) => PACK_LEN_MAX,
            Self::QuarantineRecord(_) => QUARANTINE_RECORD_BYTES_MAX,
            Self::Quarantined(..) => QUARANTINE_PART_BYTES_MAX,
            Self::Config
            | Self::Segment(..)
            | Self::Session(_)
            | Self::Snapshot(_)
            | Self::Forgotten(_)
            | Self::Note(_)
            | Self::Tombstone(_)
            | Self::Countersignature(_)
            | Self::Evidence(_)
            | Self::Plan(_)
            | Self::Shard(..)
            | Self::LogEntry(_) => self.envelope().map_or(0, |(kind, _)| kind.stored_len_max()),
        }
    }

    /// Returns the kind and name that the object's envelope is bound to, if it has one.
    pub fn envelope(self) -> Option<(ObjectKind, String)> {
        match self {
            Self::Config => Some((ObjectKind::Config, CONFIG.to_owned())),
            Self::Segment(..) => Some((ObjectKind::Segment, String::new())),
            Self::Session(id) => Some((ObjectKind::Session, id.to_string())),
            Self::Snapshot(id) => Some((ObjectKind::Snapshot, id.to_string())),
            Self::Forgotten(id) => Some((ObjectKind::Forgotten, id.to_string())),
            Self::Note(id) => Some((ObjectKind::Note, id.to_string())),
            Self::Tombstone(id) => Some((ObjectKind::Tombstone, id.to_string())),
            Self::Countersignature(id) => Some((ObjectKind::Countersignature, id.to_string())),
            Self::Evidence(id) => Some((ObjectKind::Evidence, id.to_string())),
            Self::Plan(id) => Some((ObjectKind::Plan, format!("{id}/{PLAN}"))),
            Self::Shard(id, number) => Some((ObjectKind::Plan, format!("{id}/{number:08x}"))),
            Self::LogEntry(number) => Some((ObjectKind::LogEntry, log_entry_name(number))),
            Self::KeySlot(_) | Self::Pack(..) | Self::QuarantineRecord(_) | Self::Quarantined(..) => None,
        }
    }

    /// Returns the object of a key, or `None` for keys that mlvault does not make.
    pub fn parse(key: &str) -> Option<Self> {
        let (folder, name) = key.split_at(key.find('/').map_or(key.len(), |slash| slash + 1));
        let object = match folder {
            "config/" => Self::Config,
            KEYS => Self::KeySlot(name.parse().ok()?),
            PACKS => {
                let (kind, name) = split_kind(name)?;
                Self::Pack(kind, name.split_once('/')?.1.parse().ok()?)
            }
            INDEX => {
                let (kind, name) = split_kind(name)?;
                Self::Segment(kind, name.parse().ok()?)
            }
            SESSIONS => Self::Session(name.parse().ok()?),
            SNAPSHOTS => Self::Snapshot(name.parse().ok()?),
            FORGOTTEN => Self::Forgotten(name.parse().ok()?),
            NOTES => Self::Note(name.parse().ok()?),
            TOMBSTONES => Self::Tombstone(name.parse().ok()?),
            COUNTERSIGNED => Self::Countersignature(name.parse().ok()?),
            EVIDENCE => Self::Evidence(name.parse().ok()?),
            PLANS => match name.split_once('/')? {
                (id, PLAN) => Self::Plan(id.parse().ok()?),
                (id, number) => Self::Shard(id.parse().ok()?, u32::from_str_radix(number, 16).ok()?),
            },
            LOG => Self::LogEntry(u64::from_str_radix(name, 16).ok()?),
            QUARANTINE => match name.split_once('/')? {
                (id, QUARANTINE_RECORD) => Self::QuarantineRecord(id.parse().ok()?),
                (id, part) => Self::Quarantined(id.parse().ok()?, u32::from_str_radix(part, 16).ok()?),
            },
            _ => return None,
        };
        // Digits are read in either case, and a pack might stand among those of two other digits.
        (object.key() == key).then_some(object)
    }

    /// Returns the object whose key a place ends in: errors name the path or address of what they are about.
    pub fn at(place: &str) -> Option<Self> {
        let below = place.match_indices('/').filter_map(|(slash, _)| Self::parse(&place[slash + 1..]));
        Self::parse(place).or_else(|| below.into_iter().next())
    }
}

fn split_kind(name: &str) -> Option<(BlobKind, &str)> {
    let (word, rest) = name.split_once('/')?;
    Some((BlobKind::ALL.into_iter().find(|kind| kind.name() == word)?, rest))
}

fn log_entry_name(number: u64) -> String {
    format!("{number:016x}")
}

/// Returns the number of a key, if it is that of an entry of the log.
pub fn log_entry_of(key: &str) -> Option<u64> {
    if let Some(Object::LogEntry(number)) = Object::parse(key) { Some(number) } else { None }
}

/// Returns the key of a key slot.
pub fn key_slot(slot: &SlotId) -> String {
    Object::KeySlot(*slot).key()
}

/// Returns the slot of a key, if it is that of a key slot.
pub fn key_slot_of(key: &str) -> Option<SlotId> {
    if let Some(Object::KeySlot(id)) = Object::parse(key) { Some(id) } else { None }
}

/// Returns the prefix of the packs of one kind.
pub fn packs(kind: BlobKind) -> String {
    format!("{PACKS}{}/", kind.name())
}

/// Returns the key of a pack.
pub fn pack(kind: BlobKind, id: &PackId) -> String {
    Object::Pack(kind, *id).key()
}

/// Returns the pack of a key, if it is that of a pack of this kind.
pub fn pack_of(kind: BlobKind, key: &str) -> Option<PackId> {
    if let Some(Object::Pack(of, id)) = Object::parse(key) { (of == kind).then_some(id) } else { None }
}

/// Returns the prefix of the index segments of one kind.
pub fn segments(kind: BlobKind) -> String {
    format!("{INDEX}{}/", kind.name())
}

/// Returns the key of an index segment.
pub fn segment(kind: BlobKind, id: &SegmentId) -> String {
    Object::Segment(kind, *id).key()
}

/// Returns the segment of a key, if it is that of a segment of this kind.
pub fn segment_of(kind: BlobKind, key: &str) -> Option<SegmentId> {
    if let Some(Object::Segment(of, id)) = Object::parse(key) { (of == kind).then_some(id) } else { None }
}

/// Returns the key of a session's announcement.
pub fn session(session: &SessionId) -> String {
    Object::Session(*session).key()
}

/// Returns the session that a key announces.
pub fn session_of(key: &str) -> Option<SessionId> {
    if let Some(Object::Session(id)) = Object::parse(key) { Some(id) } else { None }
}

/// Returns the key under which a session ends.
pub fn snapshot(session: &SessionId) -> String {
    Object::Snapshot(*session).key()
}

/// Returns the session that ends under a key.
pub fn snapshot_of(key: &str) -> Option<SessionId> {
    if let Some(Object::Snapshot(id)) = Object::parse(key) { Some(id) } else { None }
}

/// Returns the key under which a snapshot is forgotten.
pub fn forgotten(session: &SessionId) -> String {
    Object::Forgotten(*session).key()
}

/// Returns the snapshot that is forgotten under a key.
pub fn forgotten_of(key: &str) -> Option<SessionId> {
    if let Some(Object::Forgotten(id)) = Object::parse(key) { Some(id) } else { None }
}

/// Returns the key of a note.
pub fn note(note: &NoteId) -> String {
    Object::Note(*note).key()
}

/// Returns the note of a key.
pub fn note_of(key: &str) -> Option<NoteId> {
    if let Some(Object::Note(id)) = Object::parse(key) { Some(id) } else { None }
}

/// Returns the key of a tombstone.
pub fn tombstone(tombstone: &TombstoneId) -> String {
    Object::Tombstone(*tombstone).key()
}

/// Returns the tombstone of a key.
pub fn tombstone_of(key: &str) -> Option<TombstoneId> {
    if let Some(Object::Tombstone(id)) = Object::parse(key) { Some(id) } else { None }
}

/// Returns the key of a countersignature.
pub fn countersignature(id: &CountersignatureId) -> String {
    Object::Countersignature(*id).key()
}

/// Returns the countersignature of a key.
pub fn countersignature_of(key: &str) -> Option<CountersignatureId> {
    if let Some(Object::Countersignature(id)) = Object::parse(key) { Some(id) } else { None }
}

/// Returns the key of evidence.
pub fn evidence(id: &EvidenceId) -> String {
    Object::Evidence(*id).key()
}

/// Returns the evidence of a key.
pub fn evidence_of(key: &str) -> Option<EvidenceId> {
    if let Some(Object::Evidence(id)) = Object::parse(key) { Some(id) } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn objects() -> impl Strategy<Value = Object> {
        let kinds = prop_oneof![Just(BlobKind::Data), Just(BlobKind::Meta)];
        prop_oneof![
            Just(Object::Config),
            any::<[u8; 8]>().prop_map(|id| Object::KeySlot(SlotId::from_bytes(id))),
            (kinds.clone(), any::<[u8; 32]>()).prop_map(|(kind, id)| Object::Pack(kind, PackId::from_bytes(id))),
            (kinds, any::<[u8; 32]>()).prop_map(|(kind, id)| Object::Segment(kind, SegmentId::from_bytes(id))),
            any::<[u8; 16]>().prop_map(|id| Object::Session(SessionId::from_bytes(id))),
            any::<[u8; 16]>().prop_map(|id| Object::Snapshot(SessionId::from_bytes(id))),
            any::<[u8; 16]>().prop_map(|id| Object::Forgotten(SessionId::from_bytes(id))),
            any::<[u8; 16]>().prop_map(|id| Object::Note(NoteId::from_bytes(id))),
            any::<[u8; 16]>().prop_map(|id| Object::Tombstone(TombstoneId::from_bytes(id))),
            any::<[u8; 16]>().prop_map(|id| Object::Countersignature(CountersignatureId::from_bytes(id))),
            any::<[u8; 16]>().prop_map(|id| Object::Evidence(EvidenceId::from_bytes(id))),
            any::<[u8; 16]>().prop_map(|id| Object::Plan(PlanId::from_bytes(id))),
            any::<([u8; 16], u32)>().prop_map(|(id, number)| Object::Shard(PlanId::from_bytes(id), number)),
            any::<u64>().prop_map(Object::LogEntry),
            any::<[u8; 16]>().prop_map(|id| Object::QuarantineRecord(QuarantineId::from_bytes(id))),
            any::<([u8; 16], u32)>().prop_map(|(id, part)| Object::Quarantined(QuarantineId::from_bytes(id), part)),
        ]
    }

    proptest! {
        #[test]
        fn keys_lead_back_to_their_objects_and_no_other_key_does(
            object in objects(), other in objects(), at in any::<prop::sample::Index>(), byte in 32u8..127,
        ) {
            let key = object.key();
            prop_assert!(crate::backend::is_key(&key), "{}", key);
            prop_assert_eq!(Object::parse(&key), Some(object));
            prop_assert_eq!(object == other, key == other.key());
            // One character is replaced, added, or taken away.
            let at = at.index(key.len());
            let c = char::from(byte);
            let changed = [
                format!("{}{c}{}", &key[..at], &key[at + 1..]),
                format!("{}{c}{}", &key[..at], &key[at..]),
                format!("{}{}", &key[..at], &key[at + 1..]),
                format!("{key}{c}"),
            ];
            for changed in changed {
                prop_assert!(Object::parse(&changed).is_none_or(|found| found.key() == changed), "{}", changed);
            }
            prop_assert_eq!(Object::at(&format!("/srv/a b/keys/{key}")), Some(object));
        }
    }

    #[test]
    fn keys_are_those_of_the_format() {
        let id = PackId::from_bytes([0xAB; 32]);
        let key = pack(BlobKind::Data, &id);
        assert!(key.starts_with("packs/data/ab/abab"));
        assert_eq!(Object::parse(&key), Some(Object::Pack(BlobKind::Data, id)));
        assert_eq!(pack_of(BlobKind::Data, &key), Some(id));
        assert_eq!(pack_of(BlobKind::Meta, &key), None);
        assert_eq!(Object::parse("config/1"), Some(Object::Config));
    }

    #[test]
    fn what_stands_elsewhere_is_no_object() {
        let key = pack(BlobKind::Data, &PackId::from_bytes([0xAB; 32]));
        let session = snapshot(&SessionId::from_bytes([0xAB; 16]));
        let odd = [
            key.replace("/ab/", "/cd/"),
            key.replace("/ab/", "/"),
            key.to_uppercase().replace("PACKS/DATA", "packs/data"),
            key.replace("/data/", "/other/"),
            session.replace("abab", "ABAB"),
            session.replace('/', "/more/"),
            format!("/{session}"),
        ];
        for key in odd {
            assert_eq!(Object::parse(&key), None, "{key}");
        }
        let strange =
            ["", "/", "readme", "config", "config/", "config/2", "snapshots/", "snapshots/readme", "index/data/1"];
        for key in strange.into_iter().chain(["keys/x", "keys/a/0000000000000000", "packs/data/", "probe/1", "tmp/x"]) {
            assert_eq!(Object::parse(key), None, "{key}");
        }
    }
}
