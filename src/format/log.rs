//! An entry of the log: `log/<number>`, which objects somebody wrote, and all that stood in the log before.
//!
//! The body inside its object envelope (bound to the number) is a signed record ([`crate::format::signed`]) of kind 1, whose
//! name is the number (8 bytes, little-endian). The body is also the leaf of the log's tree ([`crate::crypto::merkle`]): what
//! is disclosed of the log needs no key to be verified, and the signature in it keeps anybody from guessing what was not.
//!
//! What must stay true: a number is taken once, by a create-only write; an entry states the tree of all entries before it,
//! so whoever signs one signs the whole history. An entry proves that its signer says so, and no more: whether the objects
//! are there, and whether the role may write them ([`What::is_allowed`]), is for the reader to find out.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::crypto::merkle::Frontier;
use crate::crypto::sign::Domain;
use crate::format::evidence;
use crate::format::key_slot::{Certificate, Role};
use crate::format::note;
use crate::format::signed::{self, Binding, Signer};
use crate::format_error::FormatError;
use crate::id::{ObjectHash, RepositoryId, SignerKey, TreeHash};

const KIND: u8 = 1;
/// Most objects that one entry names.
pub const OBJECTS_MAX: usize = 1024;

/// What an object is that an entry names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A snapshot.
    Snapshot,
    /// The record that a snapshot was forgotten.
    Forgotten,
    /// A note: a hold.
    Hold,
    /// A note: a hold is over.
    Release,
    /// A note: tags.
    AddTags,
    /// A note: tags that are gone.
    RemoveTags,
    /// A note: a key was removed.
    RevokeKey,
    /// A note: a key was put back.
    ReinstateKey,
    /// A note: keys rely on each other.
    TrustKeys,
    /// A note: keys no longer do.
    DistrustKeys,
    /// A note: a loss was accepted.
    AcceptLoss,
    /// A note: it no longer is.
    WithdrawAcceptance,
    /// A note: an upgrade went well.
    UpgradeDone,
    /// Evidence of a check.
    Check,
    /// Evidence of a drill.
    Drill,
    /// A key slot.
    Key,
    /// A tombstone: what a prune or a repair marked to be removed.
    Tombstone,
    /// Something that a later version writes.
    #[serde(other)]
    Unknown,
}

impl What {
    /// Returns whether a role may write such an object, and so enter it.
    pub fn is_allowed(self, role: Role) -> bool {
        match self {
            Self::Snapshot | Self::Hold | Self::AddTags => role.writes_snapshots(),
            Self::Check => role != Role::Writer,
            Self::Drill => role.reads_content(),
            _ => role == Role::Maintainer,
        }
    }

    /// Returns its name, as records have it.
    pub fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

impl From<&note::Says> for What {
    fn from(says: &note::Says) -> Self {
        match says {
            note::Says::Hold { .. } => Self::Hold,
            note::Says::Release { .. } => Self::Release,
            note::Says::AddTags { .. } => Self::AddTags,
            note::Says::RemoveTags { .. } => Self::RemoveTags,
            note::Says::RevokeKey { .. } => Self::RevokeKey,
            note::Says::ReinstateKey { .. } => Self::ReinstateKey,
            note::Says::TrustKeys { .. } => Self::TrustKeys,
            note::Says::DistrustKeys { .. } => Self::DistrustKeys,
            note::Says::AcceptLoss { .. } => Self::AcceptLoss,
            note::Says::WithdrawAcceptance { .. } => Self::WithdrawAcceptance,
            note::Says::UpgradeDone { .. } => Self::UpgradeDone,
        }
    }
}

impl From<&evidence::Says> for What {
    fn from(says: &evidence::Says) -> Self {
        match says {
            evidence::Says::Check(_) => Self::Check,
            evidence::Says::Drill(_) => Self::Drill,
        }
    }
}

/// An object that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedObject {
    /// What it is.
    pub what: What,
    /// The key under which it stands.
    pub key: String,
    /// The hash of its stored bytes.
    pub hash: ObjectHash,
    /// What it speaks about: the id of a snapshot or note, or the label of a key.
    pub about: Option<String>,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// When it was appended, by the clock of whoever did it.
    pub at: Timestamp,
    /// Name and version of the program.
    pub program: String,
    /// The tree of all entries before this one: the roots of its full subtrees, the largest first.
    pub before: Vec<TreeHash>,
    /// Whether somebody else entered these objects, because whoever wrote them did not come to it.
    pub late: bool,
    /// What was written, at most [`OBJECTS_MAX`].
    pub objects: Vec<LoggedObject>,
}

impl LogRecord {
    /// Returns the tree that the entry of this number says it was appended to; nothing if no tree of this size is so.
    pub fn frontier(&self, number: u64) -> Option<Frontier> {
        Frontier::new(number, self.before.clone())
    }
}

fn binding(repository: RepositoryId, number: &[u8; 8]) -> Binding<'_> {
    Binding { domain: Domain::LogEntry, repository, name: number }
}

/// Signs and encodes an entry into the body of its object.
pub fn encode(repository: RepositoryId, number: u64, record: &LogRecord, signer: &Signer<'_>) -> Vec<u8> {
    let record = serde_json::to_vec(record).expect("a record is always representable as JSON");
    signed::seal(&binding(repository, &number.to_le_bytes()), KIND, &record, signer)
}

/// Reads the body of an object, and verifies who signed it. Whether that is to be believed is another question.
pub fn decode(
    repository: RepositoryId,
    number: u64,
    root: &SignerKey,
    body: &[u8],
) -> Result<(LogRecord, Certificate), FormatError> {
    let number = number.to_le_bytes();
    let verified = signed::open(&binding(repository, &number), root, body)?;
    if verified.kind != KIND {
        return Err(FormatError::new(format!("unknown kind {}", verified.kind)));
    }
    Ok((decode_record(verified.record)?, verified.certificate))
}

/// Reads a record without verifying who wrote it. Separate so that it can be fuzzed.
pub fn decode_record(record: &[u8]) -> Result<LogRecord, FormatError> {
    let record: LogRecord =
        serde_json::from_slice(record).map_err(|error| FormatError::new(format!("its record: {error}")))?;
    if record.objects.len() > OBJECTS_MAX {
        return Err(FormatError::new(format!("it names more than {OBJECTS_MAX} objects")));
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_later_version_enters_is_read_and_only_a_maintainers_word() {
        let object = br#"{"what":"moon","key":"moons/1","hash":"0000000000000000000000000000000000000000000000000000000000000000","about":null}"#;
        let read: LoggedObject = serde_json::from_slice(object).unwrap();
        assert_eq!(read.what, What::Unknown);
        let may = |role| What::Unknown.is_allowed(role);
        assert!(may(Role::Maintainer) && ![Role::Writer, Role::Auditor, Role::Reader].into_iter().any(may));
        assert_eq!(What::AddTags.name(), "add-tags");
    }

    #[test]
    fn a_key_enters_what_its_role_may_write() {
        let may = |role: Role| -> Vec<bool> {
            [What::Snapshot, What::Forgotten, What::Hold, What::Release, What::Check, What::Drill, What::Key]
                .into_iter()
                .map(|what| what.is_allowed(role))
                .collect()
        };
        assert_eq!(may(Role::Writer), [true, false, true, false, false, false, false]);
        assert_eq!(may(Role::Auditor), [false, false, false, false, true, false, false]);
        assert_eq!(may(Role::Reader), [false, false, false, false, true, true, false]);
        assert_eq!(may(Role::Maintainer), [true; 7]);
    }
}
