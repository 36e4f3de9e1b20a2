//! Where a repository's objects live: immutable, named byte strings.
//!
//! What must stay true, of every implementation (one contract suite, `tests/backend_contract.rs`, runs against all):
//! - `create` is atomic, durable and create-only: when it returns `Ok` the whole object is there for good, no reader
//!   ever sees a part of it, and of two concurrent calls for one name with different bytes exactly one wins. When it
//!   fails nothing is visible under the name, with one exception: after [`Fault::Unavailable`] from a remote backend
//!   the answer may be what was lost, and the whole object may be there.
//! - `list` shows every object whose `create` returned before the listing began, and no half-written one.
//! - A read returns exactly the bytes asked for or fails; it never returns a short body.
//!
//! Calls block. They may come from many threads at once.

pub mod local;
pub mod location;
pub mod memory;
pub mod s3;

use std::ops::Range;

use bytes::Bytes;
use jiff::Timestamp;

use crate::clock::Clock;
#[cfg(doc)]
use crate::error::Fault;
use crate::error::Result;
use crate::parallel;
use crate::units::GIB;

/// Length in bytes up to which a key is valid.
pub const KEY_BYTES_MAX: usize = 512;

/// Size in bytes up to which an object is read whole; far more than this program ever writes.
///
/// A backend is not trusted: what claims to be longer is refused before any memory is set aside for it.
pub const OBJECT_BYTES_MAX: u64 = GIB;

/// What a listing says of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The object's key.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was written, by the clock of the place; the epoch where that is not known.
    ///
    /// Who may write into a directory can set this to anything. On S3 it is the server's word.
    pub modified: Timestamp,
}

/// Returns whether `text` is a valid key: what [`Backend`] says of keys, and at most [`KEY_BYTES_MAX`] long.
pub fn is_key(text: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
    };
    text.len() <= KEY_BYTES_MAX && text.split('/').all(is_part)
}

/// Returns whether `text` can be the prefix of a listing: empty, or a key followed by `/`.
pub fn is_key_prefix(text: &str) -> bool {
    text.is_empty() || text.strip_suffix('/').is_some_and(is_key)
}

/// Stores immutable objects under keys such as `packs/data/ab/abcd…`.
///
/// Keys are relative, `/`-separated, of `[a-z0-9/_-]`, without empty or dot parts.
pub trait Backend: Send + Sync {
    /// Returns the place in words, for messages: a path or an `s3://` URL, without secrets.
    fn location(&self) -> String;

    /// Writes a new object. Fails with [`Fault::AlreadyExists`] if the key is taken.
    ///
    /// A backend whose requests can be repeated underway cannot tell its own earlier write from another's; it returns
    /// `Ok` where the key already holds these very bytes. Who needs to know that it was the first writes bytes that no
    /// one else would write.
    fn create(&self, key: &str, bytes: Bytes) -> Result<()>;

    /// Reads a whole object if it has at most `bytes_max` bytes. A longer one is refused with [`Fault::BadAnswer`] before
    /// memory is taken for it, also where only its answer shows that it is longer.
    fn read_up_to(&self, key: &str, bytes_max: u64) -> Result<Bytes>;

    /// Reads a whole object, whatever it is: for probes. What a repository consists of is read by
    /// [`crate::repository::objects`], which knows how long it may be.
    fn read(&self, key: &str) -> Result<Bytes> {
        self.read_up_to(key, OBJECT_BYTES_MAX)
    }

    /// Reads `range` of an object. Fails if the object is shorter than the range's end.
    fn read_range(&self, key: &str, range: Range<u64>) -> Result<Bytes>;

    /// Lists all objects whose key begins with `prefix` (which ends in `/`, or is empty), in key order.
    ///
    /// A prefix with nothing under it is an empty list, not an error.
    fn list(&self, prefix: &str) -> Result<Vec<Listed>>;

    /// Removes an object. Removing what is not there is no error.
    fn remove(&self, key: &str) -> Result<()>;

    /// Removes objects, in any order and as few requests as the backend can. If it fails, any of them may be gone.
    fn remove_all(&self, keys: &[String]) -> Result<()> {
        remove_singly(self, keys)
    }

    /// Returns the first of what lies in the place and is in no listing, because no object has such a name: files of others.
    fn stranger(&self) -> Result<Option<String>> {
        Ok(None)
    }

    /// Returns the backend's own idea of the time, where it has one that is not this machine's clock.
    fn server_time(&self) -> Result<Option<Timestamp>>;

    /// Returns how many requests in flight make sense.
    fn concurrency(&self) -> usize;

    /// Returns why a listing may not show what another machine wrote a moment ago, if the backend knows that it is used in a
    /// way in which it cannot keep that promise.
    fn stale_listing(&self) -> Option<&str> {
        None
    }

    /// Removes what crashed writers left behind outside of any object, if there can be such a thing. Returns how much.
    fn remove_stale_temporaries(&self, _clock: &dyn Clock) -> Result<usize> {
        Ok(0)
    }
}

/// Removes objects by a request for each. This way an error names its object.
fn remove_singly<B: Backend + ?Sized>(backend: &B, keys: &[String]) -> Result<()> {
    parallel::map(keys, backend.concurrency(), |key| backend.remove(key)).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_no_empty_part_no_dot_and_no_upper_case() {
        for key in ["config", "packs/data/ab/abcd-0_1", "a/b"] {
            assert!(is_key(key), "{key:?}");
        }
        let long = "a".repeat(KEY_BYTES_MAX + 1);
        for text in
            ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a.b", "A", "a b", "a\\b", "é", "a\0", long.as_str()]
        {
            assert!(!is_key(text), "{text:?}");
        }
    }

    #[test]
    fn a_prefix_is_empty_or_ends_in_a_slash() {
        assert!(is_key_prefix("") && is_key_prefix("packs/") && is_key_prefix("packs/data/"));
        assert!(!is_key_prefix("packs") && !is_key_prefix("/") && !is_key_prefix("../"));
    }
}
