//! A snapshot, or the marker that makes a session void: `snapshots/<session id>`.
//!
//! The body inside its object envelope (bound to the session's id) is a signed record ([`crate::format::signed`]) of
//! kind 1, a snapshot, or 2, a void marker. Its name is the session's id.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::crypto::sign::Domain;
use crate::format::commitment::Commitment;
use crate::format::deployment::DeploymentRecord;
use crate::format::key_slot::Certificate;
pub use crate::format::signed::Signer;
use crate::format::signed::{self, Binding};
use crate::format_error::FormatError;
use crate::id::{ChunkId, RepositoryId, SessionId, SignerKey};

/// Name of the component that holds plain paths and streams.
pub const FILES: &str = "files";
/// What names of artifact components begin with.
pub const ARTIFACTS: &str = "artifacts/";
/// Name of the component that holds the dumps of the databases.
pub const DATABASE: &str = "database";
/// Name of the component that holds the export through the REST API.
pub const METADATA: &str = "metadata";
/// Name of the component that holds the catalogue.
pub const CATALOGUE: &str = "catalogue";
/// Most problems that a record names one by one; the rest is only counted.
pub const PROBLEMS_MAX: usize = 1000;
/// Most paths that a record names of what was not read; the rest is only counted.
pub const UNREAD_MAX: usize = 10_000;

/// How much of the source is in a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Completeness {
    /// All of it.
    Complete,
    /// Something could not be read, vanished, or changed while it was read.
    Incomplete,
}

/// What was backed up: decides which snapshot is the parent of which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "type")]
pub enum SourceRecord {
    /// Files and directories by their absolute paths.
    Paths {
        /// Sorted; bytes that are not UTF-8 are shown as U+FFFD.
        paths: Vec<String>,
    },
    /// One stream under a name.
    Stream {
        /// The name given.
        name: String,
        /// The command that made it, if one did.
        command: Option<String>,
    },
    /// An MLflow deployment.
    Deployment {
        /// Its name.
        name: String,
    },
}

impl SourceRecord {
    /// Returns what its snapshots have in common, in words: policies count within such a group.
    pub fn group(&self) -> String {
        match self {
            Self::Paths { paths } => paths.join(" "),
            Self::Stream { name, .. } => format!("stream {name}"),
            Self::Deployment { name } => format!("deployment {name}"),
        }
    }
}

/// One part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// `files`, `database`, `artifacts/<name>`, …
    pub name: String,
    /// Root node of its tree.
    pub root: ChunkId,
    /// Entries in the tree.
    pub entries: u64,
    /// Sum of the file sizes in bytes.
    pub bytes: u64,
    /// How much of the source is in it.
    pub completeness: Completeness,
    /// What proves single entries to who has no key; older records have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commitment: Option<Commitment>,
}

/// What a backup did, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Files that the parent snapshot did not have.
    pub files_new: u64,
    /// Files read again because they differ from the parent's.
    pub files_changed: u64,
    /// Files taken over from the parent snapshot unread.
    pub files_unchanged: u64,
    /// Bytes read from the source.
    pub bytes_read: u64,
    /// Chunks that the repository did not have.
    pub chunks_new: u64,
    /// Plain bytes of those chunks.
    pub bytes_new: u64,
    /// Bytes of packs and index segments written.
    pub bytes_stored: u64,
    /// Wall-clock duration in milliseconds.
    pub duration_ms: u64,
}

/// One thing that went wrong during a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemRecord {
    /// The path, as text.
    pub path: String,
    /// What happened.
    pub message: String,
}

/// One thing that went wrong during a backup, and that somebody had accepted before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedRecord {
    /// The path, as text.
    pub path: String,
    /// What happened.
    pub message: String,
    /// Why it was accepted.
    pub reason: String,
    /// Until when.
    pub until: Timestamp,
    /// The label of the key that accepted it.
    pub by: String,
}

/// What a backup of files looked at: what a restore may take for gone, because it is not in the snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Whether what stood beside the entries of the top level would be in the snapshot too.
    pub covers_top: bool,
    /// Patterns of what was left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excludes: Vec<String>,
    /// Patterns of what was left out, which match in upper and lower case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excludes_any_case: Vec<String>,
    /// Paths in the tree that were not read for another reason, as text, at most [`UNREAD_MAX`]. What was below them is not
    /// known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<String>,
    /// How many those were.
    #[serde(default)]
    pub unread_count: u64,
}

/// The snapshot that a copy was made of, in another repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopiedFrom {
    /// That repository.
    pub repository: RepositoryId,
    /// The snapshot's name there.
    pub snapshot: SessionId,
    /// The key that had signed it, which whoever made the copy has verified.
    pub signer: SignerKey,
    /// The label of that key's slot.
    pub label: String,
    /// What that one was a copy of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Box<CopiedFrom>>,
}

impl CopiedFrom {
    /// Returns the repository that the backup was made into, and the snapshot's name there.
    pub fn origin(&self) -> (RepositoryId, SessionId) {
        self.before.as_ref().map_or((self.repository, self.snapshot), |before| before.origin())
    }
}

/// The snapshot that one was made from without some of its paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewrittenFrom {
    /// That snapshot's name, in the repository in which it was rewritten.
    pub snapshot: SessionId,
    /// When, by the writer's clock.
    pub at: Timestamp,
    /// Patterns of what was taken out.
    pub excludes: Vec<String>,
    /// Patterns of what was taken out, which match in upper and lower case.
    pub excludes_any_case: Vec<String>,
    /// Entries that were taken out.
    pub entries: u64,
    /// Bytes of the files among them.
    pub bytes: u64,
    /// What that one was made from itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Box<RewrittenFrom>>,
}

/// The record of one backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// When the session began, by the writer's clock.
    pub started: Timestamp,
    /// When it committed, by the writer's clock.
    pub finished: Timestamp,
    /// Name of the host or pod.
    pub host: String,
    /// Program and version.
    pub program: String,
    /// What was backed up.
    pub source: SourceRecord,
    /// Set by the user.
    pub tags: Vec<String>,
    /// The snapshot that unchanged files were taken over from.
    pub parent: Option<SessionId>,
    /// Snapshots that existed when this session began: deletion and rollback show.
    pub seen: Vec<SessionId>,
    /// Its parts, by name.
    pub components: Vec<Component>,
    /// How much of the source is in it.
    pub completeness: Completeness,
    /// Numbers.
    pub statistics: Statistics,
    /// What went wrong, at most [`PROBLEMS_MAX`].
    pub problems: Vec<ProblemRecord>,
    /// How many things went wrong.
    pub problem_count: u64,
    /// What went wrong as well, and was accepted: it does not make the snapshot incomplete. At most [`PROBLEMS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accepted: Vec<AcceptedRecord>,
    /// What it holds of an MLflow deployment, if that is what was backed up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<Box<DeploymentRecord>>,
    /// The snapshot of another repository that this one is a copy of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied_from: Option<Box<CopiedFrom>>,
    /// The snapshot that this one was made from, without some of its paths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewritten_from: Option<Box<RewrittenFrom>>,
    /// What was looked at; not known of streams, and of snapshots that have lost something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coverage: Option<Box<Coverage>>,
    /// Fields of later versions.
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

/// Values that the JSON of a record may have. A short one takes many times its bytes once it is read; an honest record
/// that is as long as can be has half as many.
const RECORD_VALUES_MAX: usize = 1 << 20;

/// Why a session was ended from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoidRecord {
    /// When, by the clock of whoever did it.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

/// What stands under a session's name once it has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionOutcome {
    /// It committed.
    Snapshot(Box<SnapshotRecord>),
    /// It was declared void and can never commit.
    Void(VoidRecord),
}

fn binding(repository: RepositoryId, session: &SessionId) -> Binding<'_> {
    Binding { domain: Domain::Snapshot, repository, name: session.as_bytes() }
}

/// Signs and encodes an outcome into the body of its object.
pub fn encode(repository: RepositoryId, session: SessionId, outcome: &SessionOutcome, signer: &Signer<'_>) -> Vec<u8> {
    let (kind, record) = match outcome {
        SessionOutcome::Snapshot(record) => (1, serde_json::to_vec(record)),
        SessionOutcome::Void(record) => (2, serde_json::to_vec(record)),
    };
    let record = record.expect("a record is always representable as JSON");
    signed::seal(&binding(repository, &session), kind, &record, signer)
}

/// Reads the body of a snapshot object, and verifies certificate and signature.
pub fn decode(
    repository: RepositoryId,
    session: SessionId,
    root: &SignerKey,
    body: &[u8],
) -> Result<(SessionOutcome, Certificate), FormatError> {
    let verified = signed::open(&binding(repository, &session), root, body)?;
    let outcome = decode_record(verified.kind, verified.record)?;
    // A void marker too: a session may end itself. It gives away nothing: whatever stands under a session's name keeps that
    // session from committing, signed or not.
    if verified.certificate.role.writes_snapshots() {
        Ok((outcome, verified.certificate))
    } else {
        Err(signed::not_allowed(&verified.certificate))
    }
}

/// Returns how many values a JSON text has at most: one for each that begins a list or object, or follows another one.
fn count_values(json: &[u8]) -> usize {
    let (mut count, mut in_text, mut is_escaped) = (1, false, false);
    for byte in json {
        match (in_text, byte) {
            (true, _) if is_escaped => is_escaped = false,
            (true, b'\\') => is_escaped = true,
            (_, b'"') => in_text = !in_text,
            (false, b',' | b'[' | b'{') => count += 1,
            _ => {}
        }
    }
    count
}

/// Reads a record without verifying who wrote it. Separate so that it can be fuzzed.
pub fn decode_record(kind: u8, record: &[u8]) -> Result<SessionOutcome, FormatError> {
    if count_values(record) > RECORD_VALUES_MAX {
        return Err(FormatError::new("its record has too many values"));
    }
    let fault = |error: serde_json::Error| FormatError::new(format!("its record: {error}"));
    match kind {
        1 => Ok(SessionOutcome::Snapshot(serde_json::from_slice(record).map_err(fault)?)),
        2 => Ok(SessionOutcome::Void(serde_json::from_slice(record).map_err(fault)?)),
        _ => Err(FormatError::new(format!("unknown outcome {kind}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::keys::new_secret;
    use crate::crypto::sign;
    use crate::format::key_slot::Grant;
    use crate::format::key_slot::Role;
    use crate::id::SlotId;

    #[test]
    fn a_record_of_more_values_than_it_may_have_is_refused_before_it_is_read() {
        assert_eq!(count_values(br#"{"a": [1, 2, "x,[{\",,"], "b": {}}"#), 7);
        let many =
            format!(r#"{{"at": "2026-01-01T00:00:00Z", "reason": "", "more": [{}0]}}"#, "0,".repeat(RECORD_VALUES_MAX));
        let error = decode_record(2, many.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("too many values"), "{error}");
    }

    #[test]
    fn an_outcome_is_bound_to_its_session_and_signer() {
        let repository = RepositoryId::from_bytes([1; 16]);
        let session = SessionId::from_bytes([2; 16]);
        let (root_seed, seed) = (new_secret(), new_secret());
        let root = sign::signer_key(&root_seed);
        let grant = Grant {
            slot: SlotId::from_bytes([3; 8]),
            label: "cron",
            role: Role::Maintainer,
            created: Timestamp::UNIX_EPOCH,
            signer: sign::signer_key(&seed),
        };
        let certificate = Certificate::issue(repository, &root_seed, grant);
        let outcome = SessionOutcome::Void(VoidRecord { at: Timestamp::UNIX_EPOCH, reason: "too old".into() });
        let body = encode(repository, session, &outcome, &Signer { certificate: &certificate, seed: &seed });
        assert_eq!(decode(repository, session, &root, &body).unwrap(), (outcome.clone(), certificate.clone()));
        let other = SessionId::from_bytes([9; 16]);
        assert!(decode(repository, other, &root, &body).is_err());
        assert!(decode(repository, session, &sign::signer_key(&new_secret()), &body).is_err());
        let forger = Signer { certificate: &certificate, seed: &new_secret() };
        assert!(decode(repository, session, &root, &encode(repository, session, &outcome, &forger)).is_err());
    }
}
