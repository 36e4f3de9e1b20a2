//! Where a repository's objects live: immutable, named byte strings.
//!
//! What must stay true, of every implementation (one contract suite, `tests/backend_contract.rs`, runs against all):
//! - `create` is atomic, durable and create-only: when it returns `Ok` the whole object is there for good; when it
//!   fails nothing is visible under the name, and of two concurrent calls for one name exactly one wins.
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

use crate::error::Result;

/// What a listing says of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The object's key.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
}

/// Stores immutable objects under keys such as `packs/data/ab/abcd…`.
///
/// Keys are relative, `/`-separated, of `[a-z0-9/_-]`, without empty or dot parts.
pub trait Backend: Send + Sync {
    /// Returns the place in words, for messages: a path or an `s3://` URL, without secrets.
    fn location(&self) -> String;

    /// Writes a new object. Fails with [`crate::error::Fault::AlreadyExists`] if the key is taken.
    fn create(&self, key: &str, bytes: Bytes) -> Result<()>;

    /// Reads a whole object.
    fn read(&self, key: &str) -> Result<Bytes>;

    /// Reads `range` of an object. Fails if the object is shorter than the range's end.
    fn read_range(&self, key: &str, range: Range<u64>) -> Result<Bytes>;

    /// Lists all objects whose key begins with `prefix` (which ends in `/`, or is empty), in key order.
    ///
    /// A prefix with nothing under it is an empty list, not an error.
    fn list(&self, prefix: &str) -> Result<Vec<Listed>>;

    /// Removes an object. Removing what is not there is no error.
    fn remove(&self, key: &str) -> Result<()>;

    /// Returns the backend's own idea of the time, where it has one that is not this machine's clock.
    fn server_time(&self) -> Result<Option<Timestamp>>;

    /// Returns how many requests in flight make sense.
    fn concurrency(&self) -> usize;
}
