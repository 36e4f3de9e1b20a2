//! A tombstone: `tombstones/<tombstone id>`, the packs that a prune found unneeded and that no session may rely on any more.
//!
//! The body inside its object envelope (bound to the tombstone's id) is a signed record ([`crate::format::signed`]) of kind
//! 1, whose name is the tombstone's id. Only a maintainer's counts: where time stands in for create-only writes, a forged
//! one of long ago would have packs deleted that a session relies on right now.

use serde::{Deserialize, Serialize};

use crate::crypto::sign::Domain;
use crate::format::key_slot::{Certificate, Role};
use crate::format::signed::{self, Binding, Signer};
use crate::format_error::FormatError;
use crate::id::{PackId, RepositoryId, SignerKey, TombstoneId};

const KIND: u8 = 1;

/// Packs to be swept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The packs.
    pub packs: Vec<PackId>,
}

fn binding(repository: RepositoryId, tombstone: &TombstoneId) -> Binding<'_> {
    Binding { domain: Domain::Tombstone, repository, name: tombstone.as_bytes() }
}

impl Tombstone {
    /// Signs and encodes a tombstone into the body of its object.
    pub fn sign(&self, repository: RepositoryId, id: TombstoneId, signer: &Signer<'_>) -> Vec<u8> {
        signed::seal(&binding(repository, &id), KIND, &self.encode(), signer)
    }

    /// Reads the body of an object, and verifies its signature. Returns nothing if it is sound but not a maintainer's: then
    /// no prune wrote it.
    pub fn verify(
        repository: RepositoryId,
        id: TombstoneId,
        root: &SignerKey,
        body: &[u8],
    ) -> Result<(Option<Self>, Certificate), FormatError> {
        let verified = signed::open(&binding(repository, &id), root, body)?;
        if verified.certificate.role != Role::Maintainer {
            return Ok((None, verified.certificate));
        }
        if verified.kind != KIND {
            return Err(FormatError::new(format!("unknown kind {}", verified.kind)));
        }
        Ok((Some(Self::decode(verified.record)?), verified.certificate))
    }

    /// Returns the record.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a tombstone is always representable as JSON")
    }

    /// Reads the record without verifying who wrote it. Separate so that it can be fuzzed.
    pub fn decode(record: &[u8]) -> Result<Self, FormatError> {
        serde_json::from_slice(record).map_err(|error| FormatError::new(error.to_string()))
    }
}
