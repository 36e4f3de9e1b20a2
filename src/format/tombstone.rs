//! A tombstone: `tombstones/<name>`, the packs that a prune found unneeded and that no session may rely on any more.
//!
//! The body inside its object envelope (bound to its name) is JSON. This version only reads tombstones.

use serde::{Deserialize, Serialize};

use crate::format_error::FormatError;
use crate::id::PackId;

/// Packs to be swept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The packs.
    pub packs: Vec<PackId>,
}

impl Tombstone {
    /// Returns the stored form of the body.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a tombstone is always representable as JSON")
    }

    /// Reads the stored form of the body.
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        serde_json::from_slice(body).map_err(|error| FormatError::new(error.to_string()))
    }
}
