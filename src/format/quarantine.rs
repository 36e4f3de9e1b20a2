//! What is said of an object in quarantine: `quarantine/<quarantine id>/record`. Its bytes are beside it, in parts.
//!
//! JSON in the clear, for people and their tools: mlvault never reads it, and nothing rests on it.

use jiff::Timestamp;
use serde::Serialize;

/// Where an object stood, and why it does not any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QuarantineRecord {
    /// The key under which it stood.
    pub object: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// BLAKE3 of its bytes.
    pub blake3: String,
    /// How many parts it lies in.
    pub parts: u32,
    /// What was wrong with it.
    pub reason: String,
    /// When it was moved.
    pub at: Timestamp,
    /// Program and version.
    pub program: String,
}

impl QuarantineRecord {
    /// Returns the stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("a record is always representable as JSON");
        text.push(b'\n');
        text
    }
}
