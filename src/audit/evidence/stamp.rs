//! A time stamp of a bundle's envelope, from an authority (RFC 3161).
//!
//! What must stay true: only a hash goes to the authority; what it answers is looked at before it is kept.

use std::time::Duration;

use crate::audit::evidence::{ENVELOPE, Evidence, TIMESTAMP};
use crate::crypto;
use crate::crypto::file_digests::sha256;
use crate::error::{Error, Result};
use crate::format::timestamp::{self, QUERY_TYPE};
use crate::http::{self, HttpTarget};

/// Longest time that an authority may take.
const TIME_MAX: Duration = Duration::from_secs(30);

impl Evidence {
    /// Has the statement stamped by the authority at this URL. Plain http will do: a stamp is signed, and of this statement only.
    pub fn stamp(&mut self, url: &str) -> Result<()> {
        let target = HttpTarget::new(url, true, None)?;
        let refused = |reason: String| {
            Error::Refused(format!("The time stamp authority {} gave no time stamp: {reason}", target.shown()))
        };
        let digest = sha256(self.parts.get(ENVELOPE).map(Vec::as_slice).unwrap_or_default());
        let query = (QUERY_TYPE, timestamp::request(&digest, crypto::random()));
        let answer = http::post(&target, ("the time stamp authority", TIME_MAX), query)?;
        let answer = answer.map_err(refused)?;
        let stamp = timestamp::decode(&answer).map_err(|error| refused(error.to_string()))?;
        if stamp.digest != digest {
            return Err(refused("it is of something else".to_owned()));
        }
        self.parts.insert(TIMESTAMP.to_owned(), answer);
        Ok(())
    }
}
