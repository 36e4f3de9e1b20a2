//! The announcement of a session: `sessions/<session id>`, written before anything else that the session writes.
//!
//! The body inside its object envelope (bound to the session's id) is JSON. A session has ended when
//! `snapshots/<session id>` exists, whatever it says.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::format_error::FormatError;

/// Who began a session, when, and what for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// When, by the writer's clock.
    pub started: Timestamp,
    /// Name of the host or pod.
    pub host: String,
    /// Program and version.
    pub program: String,
    /// `backup`, …
    pub purpose: String,
}

impl SessionRecord {
    /// Returns the stored form of the body.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a session record is always representable as JSON")
    }

    /// Reads the stored form of the body.
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        serde_json::from_slice(body).map_err(|error| FormatError::new(error.to_string()))
    }
}
