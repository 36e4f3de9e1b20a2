//! A countersignature: `countersigned/<name>`, packs whose chunks somebody opened and found to be what their names say.
//!
//! The body inside its object envelope (bound to its name) is a signed record ([`crate::format::signed`]) of kind 1, whose
//! name is the object's. Only those count who can open content: readers and maintainers. A writer cannot open what others
//! stored, so this is what lets it rely on that.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::crypto::sign::Domain;
use crate::format::key_slot::Certificate;
use crate::format::signed::{self, Binding, Signer};
use crate::format_error::FormatError;
use crate::id::{CountersignatureId, DirectoryHash, PackId, RepositoryId, SignerKey};

const KIND: u8 = 1;
/// Most packs of one object.
pub const PACKS_MAX: usize = 1 << 16;

/// Packs that were found sound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Countersignature {
    /// When, by the clock of whoever looked.
    pub at: Timestamp,
    /// The packs.
    pub packs: Vec<SoundPack>,
}

/// A pack that was found sound, and what it was found to hold: a segment may say otherwise of the same pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SoundPack {
    /// The pack.
    pub pack: PackId,
    /// Tells its chunks.
    pub directory: DirectoryHash,
}

fn binding(repository: RepositoryId, id: &CountersignatureId) -> Binding<'_> {
    Binding { domain: Domain::Countersignature, repository, name: id.as_bytes() }
}

impl Countersignature {
    /// Signs and encodes the body of its object.
    pub fn sign(&self, repository: RepositoryId, id: CountersignatureId, signer: &Signer<'_>) -> Vec<u8> {
        signed::seal(&binding(repository, &id), KIND, &self.encode(), signer)
    }

    /// Reads the body of an object, and verifies that somebody signed it who can open content.
    pub fn verify(
        repository: RepositoryId,
        id: CountersignatureId,
        root: &SignerKey,
        body: &[u8],
    ) -> Result<(Self, Certificate), FormatError> {
        let verified = signed::open(&binding(repository, &id), root, body)?;
        if !verified.certificate.role.reads_content() {
            return Err(signed::not_allowed(&verified.certificate));
        }
        if verified.kind != KIND {
            return Err(FormatError::new(format!("unknown kind {}", verified.kind)));
        }
        Ok((Self::decode(verified.record)?, verified.certificate))
    }

    /// Returns the record.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a countersignature is always representable as JSON")
    }

    /// Reads the record without verifying who wrote it. Separate so that it can be fuzzed.
    pub fn decode(record: &[u8]) -> Result<Self, FormatError> {
        let read: Self = serde_json::from_slice(record).map_err(|error| FormatError::new(error.to_string()))?;
        if read.packs.len() > PACKS_MAX {
            return Err(FormatError::new("it names more packs than one object may"));
        }
        Ok(read)
    }
}
