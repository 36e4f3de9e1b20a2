//! The record that a snapshot is forgotten: `forgotten/<session id>`.
//!
//! The body inside its object envelope (bound to the session's id) is a signed record ([`crate::format::signed`]) of
//! kind 1, whose name is the session's id. Only a maintainer's counts: who can write backups cannot forget them.
//!
//! The snapshot itself stays as it is, in the trash so to speak, until a prune removes it. This record stays for ever:
//! a write of the snapshot that was delayed underway must not bring it back.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::crypto::sign::Domain;
use crate::format::key_slot::{Certificate, Role};
use crate::format::signed::{self, Binding, Signer};
use crate::format_error::FormatError;
use crate::id::{RepositoryId, SessionId, SignerKey};

const KIND: u8 = 1;

/// Why a snapshot is no longer listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgottenRecord {
    /// Since when, by the clock of whoever did it.
    pub at: Timestamp,
    /// The policy that did not keep it, or who asked for it.
    pub reason: String,
    /// Program and version.
    pub program: String,
}

fn binding(repository: RepositoryId, session: &SessionId) -> Binding<'_> {
    Binding { domain: Domain::Forgotten, repository, name: session.as_bytes() }
}

/// Signs and encodes a record into the body of its object.
pub fn encode(repository: RepositoryId, session: SessionId, record: &ForgottenRecord, signer: &Signer<'_>) -> Vec<u8> {
    let record = serde_json::to_vec(record).expect("a record is always representable as JSON");
    signed::seal(&binding(repository, &session), KIND, &record, signer)
}

/// Reads the body of an object, and verifies that a maintainer wrote it.
pub fn decode(
    repository: RepositoryId,
    session: SessionId,
    root: &SignerKey,
    body: &[u8],
) -> Result<(ForgottenRecord, Certificate), FormatError> {
    let verified = signed::open(&binding(repository, &session), root, body)?;
    if verified.certificate.role != Role::Maintainer {
        return Err(signed::not_allowed(&verified.certificate));
    }
    if verified.kind != KIND {
        return Err(FormatError::new(format!("unknown kind {}", verified.kind)));
    }
    Ok((decode_record(verified.record)?, verified.certificate))
}

/// Reads a record without verifying who wrote it. Separate so that it can be fuzzed.
pub fn decode_record(record: &[u8]) -> Result<ForgottenRecord, FormatError> {
    serde_json::from_slice(record).map_err(|error| FormatError::new(format!("its record: {error}")))
}
