//! A note: `notes/<note id>`, what is said of snapshots after they were written: holds, tags, upgrades that went well.
//!
//! The body inside its object envelope (bound to the note's id) is a signed record ([`crate::format::signed`]) of kind 1,
//! whose name is the note's id. Notes are never changed: what takes something back is a note of its own. What lets a
//! snapshot be forgotten counts only from a maintainer; what keeps it also counts from a writer.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::crypto::sign::Domain;
use crate::format::key_slot::{Certificate, Role};
use crate::format::signed::{self, Binding, Signer};
use crate::format_error::FormatError;
use crate::id::{NoteId, RepositoryId, SessionId, SignerKey, SlotId};

const KIND: u8 = 1;

/// What is said, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteRecord {
    /// When, by the clock of whoever did it.
    pub at: Timestamp,
    /// What.
    pub says: Says,
}

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum Says {
    /// A snapshot must not be forgotten, and what it needs not be pruned.
    Hold {
        /// The snapshot.
        snapshot: SessionId,
        /// Why, for people.
        reason: String,
        /// Until when; for ever without.
        until: Option<Timestamp>,
    },
    /// A hold is over.
    Release {
        /// The note that began it.
        hold: NoteId,
    },
    /// A snapshot has further tags.
    AddTags {
        /// The snapshot.
        snapshot: SessionId,
        /// The tags.
        tags: Vec<String>,
    },
    /// A snapshot has some tags no more.
    RemoveTags {
        /// The snapshot.
        snapshot: SessionId,
        /// The tags.
        tags: Vec<String>,
    },
    /// A key was removed: what was written with it and nobody has countersigned is not relied on, and what is written with
    /// it from now on does not count.
    RevokeKey {
        /// The key slot.
        slot: SlotId,
        /// What it was called: nothing else tells that once the slot is gone.
        label: String,
    },
    /// A key that was removed is put back.
    ReinstateKey {
        /// The key slot.
        slot: SlotId,
    },
    /// Keys are on one footing: each relies on what the others write.
    TrustKeys {
        /// Their slots.
        slots: Vec<SlotId>,
    },
    /// Keys rely on none of the others any more, and none of the others on them.
    DistrustKeys {
        /// Their slots.
        slots: Vec<SlotId>,
    },
    /// Something that the backups of a source lack is known, and does not make them incomplete.
    AcceptLoss {
        /// The source, as [`crate::format::snapshot::SourceRecord::group`] calls it.
        group: String,
        /// What is lacking: the path of a problem, as records have it.
        subject: String,
        /// Why, for people.
        reason: String,
        /// Until when.
        until: Timestamp,
    },
    /// An acceptance is over.
    WithdrawAcceptance {
        /// The note that began it.
        acceptance: NoteId,
    },
    /// An upgrade went well: snapshots from before an earlier one need not be kept for it.
    UpgradeDone {
        /// Those snapshots.
        released: Vec<SessionId>,
    },
}

impl Says {
    /// Returns the one snapshot, note or key that this is about, if it is about one.
    pub fn about(&self) -> Option<String> {
        match self {
            Self::Hold { snapshot, .. } | Self::AddTags { snapshot, .. } | Self::RemoveTags { snapshot, .. } => {
                Some(snapshot.to_string())
            }
            Self::Release { hold: note } | Self::WithdrawAcceptance { acceptance: note } => Some(note.to_string()),
            Self::RevokeKey { slot, .. } | Self::ReinstateKey { slot } => Some(slot.to_string()),
            Self::TrustKeys { .. } | Self::DistrustKeys { .. } | Self::AcceptLoss { .. } | Self::UpgradeDone { .. } => {
                None
            }
        }
    }

    /// Returns whether this can only keep snapshots, never let them go.
    pub fn only_keeps(&self) -> bool {
        matches!(self, Self::Hold { .. } | Self::AddTags { .. })
    }
}

fn binding(repository: RepositoryId, note: &NoteId) -> Binding<'_> {
    Binding { domain: Domain::Note, repository, name: note.as_bytes() }
}

/// Returns whether a role may say this.
pub fn is_allowed(role: Role, says: &Says) -> bool {
    role == Role::Maintainer || (says.only_keeps() && role.writes_snapshots())
}

/// Signs and encodes a note into the body of its object.
pub fn encode(repository: RepositoryId, note: NoteId, record: &NoteRecord, signer: &Signer<'_>) -> Vec<u8> {
    let record = serde_json::to_vec(record).expect("a record is always representable as JSON");
    signed::seal(&binding(repository, &note), KIND, &record, signer)
}

/// Reads the body of an object, and verifies that whoever wrote it may say so.
pub fn decode(
    repository: RepositoryId,
    note: NoteId,
    root: &SignerKey,
    body: &[u8],
) -> Result<(NoteRecord, Certificate), FormatError> {
    let verified = signed::open(&binding(repository, &note), root, body)?;
    if verified.kind != KIND {
        return Err(FormatError::new(format!("unknown kind {}", verified.kind)));
    }
    let record = decode_record(verified.record)?;
    if !is_allowed(verified.certificate.role, &record.says) {
        return Err(signed::not_allowed(&verified.certificate));
    }
    Ok((record, verified.certificate))
}

/// Reads a record without verifying who wrote it. Separate so that it can be fuzzed.
pub fn decode_record(record: &[u8]) -> Result<NoteRecord, FormatError> {
    serde_json::from_slice(record).map_err(|error| FormatError::new(format!("its record: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::keys::new_secret;
    use crate::crypto::sign;
    use crate::format::key_slot::Grant;

    #[test]
    fn a_writer_can_hold_a_snapshot_but_release_none() {
        let repository = RepositoryId::from_bytes([1; 16]);
        let note = NoteId::from_bytes([2; 16]);
        let (root_seed, seed) = (new_secret(), new_secret());
        let root = sign::signer_key(&root_seed);
        let encoded = |role, says| {
            let slot = SlotId::from_bytes([3; 8]);
            let signer = sign::signer_key(&seed);
            let grant = Grant { slot, label: "key", role, created: Timestamp::UNIX_EPOCH, signer };
            let certificate = Certificate::issue(repository, &root_seed, grant);
            let record = NoteRecord { at: Timestamp::UNIX_EPOCH, says };
            encode(repository, note, &record, &Signer { certificate: &certificate, seed: &seed })
        };
        let snapshot = SessionId::from_bytes([4; 16]);
        let hold = Says::Hold { snapshot, reason: "audit".into(), until: None };
        let release = Says::Release { hold: note };
        let removal = Says::RemoveTags { snapshot, tags: vec!["keep".into()] };
        let decoded = |role, says: &Says| decode(repository, note, &root, &encoded(role, says.clone()));
        assert_eq!(decoded(Role::Writer, &hold).unwrap().0.says, hold);
        let slots = vec![SlotId::from_bytes([3; 8])];
        let further = [
            Says::UpgradeDone { released: vec![snapshot] },
            Says::RevokeKey { slot: slots[0], label: "cron".into() },
            Says::AcceptLoss {
                group: "deployment production".into(),
                subject: "model version fraud/3".into(),
                reason: "disk".into(),
                until: Timestamp::UNIX_EPOCH,
            },
            Says::WithdrawAcceptance { acceptance: note },
            Says::TrustKeys { slots: slots.clone() },
            Says::DistrustKeys { slots },
        ];
        for says in [&release, &removal].into_iter().chain(&further) {
            assert!(decoded(Role::Writer, says).is_err(), "{says:?}");
            assert_eq!(decoded(Role::Maintainer, says).unwrap().0.says, *says);
        }
        assert!(decoded(Role::Auditor, &hold).is_err());
        let other = NoteId::from_bytes([9; 16]);
        assert!(decode(repository, other, &root, &encoded(Role::Maintainer, hold)).is_err());
    }
}
