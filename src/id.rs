//! Typed names: every hash, id and random name has a type of its own.
//!
//! What must stay true: an id is compared, printed and parsed only through its type; `Display` and
//! `FromStr` are lower-case hexadecimal and inverse to each other.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER_PERMISSIVE;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A string that is not the hexadecimal form of an id of the expected length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {len} hexadecimal digits")]
pub struct ParseIdError {
    text: String,
    len: usize,
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $len:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Wraps raw bytes.
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// Returns the raw bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&HEXLOWER_PERMISSIVE.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                HEXLOWER_PERMISSIVE
                    .decode(text.as_bytes())
                    .ok()
                    .and_then(|bytes| bytes.try_into().ok())
                    .map(Self)
                    .ok_or_else(|| ParseIdError { text: text.to_owned(), len: $len * 2 })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id_type!(
    /// Name of a chunk: keyed BLAKE3 of its blob kind and plain content.
    ChunkId, 32
);
id_type!(
    /// Name of a pack: BLAKE3 of its stored bytes.
    PackId, 32
);
id_type!(
    /// Name of an index segment: BLAKE3 of its stored bytes.
    SegmentId, 32
);
id_type!(
    /// Plain BLAKE3 of a whole file's content, as `b3sum` prints it.
    Digest, 32
);
id_type!(
    /// Random name of a repository, drawn once by `init`.
    RepositoryId, 16
);
id_type!(
    /// Name of a session and of the snapshot that it becomes: 48 bits of Unix milliseconds, 80 random bits.
    SessionId, 16
);
id_type!(
    /// Tells a repository from one that somebody put in its place: a hash of its id and its root key.
    Pin, 16
);
id_type!(
    /// Random name of a key slot.
    SlotId, 8
);
id_type!(
    /// Name of a note: as that of a session, so that notes sort by their time.
    NoteId, 16
);
id_type!(
    /// Name of a tombstone, made as that of a session.
    TombstoneId, 16
);
id_type!(
    /// Tells what a pack is said to hold: the first half of the BLAKE3 hash of its directory.
    DirectoryHash, 16
);
id_type!(
    /// Name of a countersignature, made as that of a session.
    CountersignatureId, 16
);
id_type!(
    /// Name of evidence, made as that of a session.
    EvidenceId, 16
);
id_type!(
    /// Name of a sharded backup's plan: a keyed hash of who makes it, of what, and of the name that a user gave it.
    PlanId, 16
);
id_type!(
    /// Name of what was put into quarantine, made as that of a session.
    QuarantineId, 16
);
id_type!(
    /// A hash of the log's Merkle tree: of a leaf, of a node, or of its root.
    TreeHash, 32
);
id_type!(
    /// Plain BLAKE3 of an object's stored bytes, as the log states it.
    ObjectHash, 32
);
id_type!(
    /// Plain SHA-256 of a whole file's content, as `sha256sum` prints it.
    Sha256Digest, 32
);
id_type!(
    /// What keeps a leaf of a commitment from being guessed.
    LeafSalt, 32
);
id_type!(
    /// Random part of what salts of a commitment are derived from.
    CommitmentNonce, 16
);
id_type!(
    /// Ed25519 public key of a key slot, which signs the snapshots written with it.
    SignerKey, 32
);
id_type!(
    /// Name of a statement of a database dump: the first bytes of the BLAKE3 of its text.
    StatementId, 20
);

/// Digits of a session id that are shown where a short form will do: all of its timestamp.
const SHORT_SESSION_ID_LEN: usize = 12;

/// Puts 48 bits of Unix milliseconds before 80 bits of `entropy`.
fn with_time(unix_milliseconds: u64, entropy: [u8; 10]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&unix_milliseconds.to_be_bytes()[2..]);
    bytes[6..].copy_from_slice(&entropy);
    bytes
}

macro_rules! id_with_time {
    ($($name:ident),*) => {$(
        impl $name {
            /// Makes the id of what begins or is written at `unix_milliseconds`, with 80 bits of `entropy`.
            ///
            /// The time only makes ids sort well; no decision about safety rests on it.
            pub fn new(unix_milliseconds: u64, entropy: [u8; 10]) -> Self {
                Self(with_time(unix_milliseconds, entropy))
            }

            /// Returns that time, in Unix milliseconds by the clock of whoever made the id.
            pub fn unix_milliseconds(&self) -> u64 {
                self.0[..6].iter().fold(0, |time, byte| time << 8 | u64::from(*byte))
            }
        }
    )*};
}

id_with_time!(SessionId, NoteId, TombstoneId, CountersignatureId, EvidenceId, QuarantineId);

impl SessionId {
    /// Returns the leading digits, enough to tell snapshots apart by eye.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(SHORT_SESSION_ID_LEN);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_prints_and_parses_as_lower_case_hexadecimal() {
        let id = SlotId::from_bytes([0xAB, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(id.to_string(), "ab01020304050607");
        assert_eq!("ab01020304050607".parse(), Ok(id));
        assert!("ab0102030405060".parse::<SlotId>().is_err());
        assert!("zz01020304050607".parse::<SlotId>().is_err());
    }

    #[test]
    fn session_ids_sort_by_time() {
        let early = SessionId::new(1_700_000_000_000, [0xFF; 10]);
        let late = SessionId::new(1_700_000_000_001, [0; 10]);
        assert!(early < late);
        assert_eq!(early.short(), early.to_string()[..12]);
    }
}
