//! Objects in an S3 bucket, on AWS or on any server that speaks its protocol.
//!
//! What must stay true:
//! - Every write is one PUT with `If-None-Match: *` and a checksum, so that it is there whole or not at all and never
//!   replaces anything (on servers that honour the condition; `doctor` finds out).
//! - A request may be repeated underway, by the SDK or by a proxy, after the first one worked and its answer was lost.
//!   The repeated one is then refused. `create` therefore looks at what is there before it says that a key is taken.
//!
//! This file knows keys and what a backend promises. How servers are reached and asked, how often, and what their
//! answers mean is in [`crate::s3`].

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use jiff::Timestamp;

use crate::backend::{Backend, Listed, OBJECT_BYTES_MAX, is_key, is_key_prefix, remove_singly};
use crate::error::{Error, Fault, Result};
use crate::s3::{Bucket, Extent, ListedObject, ObjectHeaders, Patience, REMOVALS_MAX, S3Options};

/// Requests in flight that fill a link without overloading a small server.
const CONCURRENCY: usize = 8;

/// A backend over the part of a bucket whose keys begin with a prefix.
#[derive(Debug)]
pub struct S3Backend {
    bucket: Bucket,
    /// Empty, or ends in `/`.
    prefix: String,
    /// Whether the server was found not to remove many objects by one request.
    removes_singly: AtomicBool,
}

impl S3Backend {
    /// Prepares a client. Sends nothing to the server yet, but may ask AWS for the region.
    pub fn connect(bucket: &str, prefix: &str, options: &S3Options, patience: Patience) -> Result<Self> {
        let prefix = if prefix.is_empty() { String::new() } else { format!("{}/", prefix.trim_matches('/')) };
        let bucket = Bucket::connect(bucket, options, patience)?;
        Ok(Self { bucket, prefix, removes_singly: AtomicBool::new(false) })
    }

    /// Fails if the bucket does not exist, does not answer, or may not be listed with these credentials.
    pub fn check(&self) -> Result<()> {
        self.bucket.check_listable(&self.prefix)
    }

    fn full_key(&self, action: &'static str, key: &str) -> Result<String> {
        if is_key(key) {
            Ok(format!("{}{key}", self.prefix))
        } else {
            Err(self.fault(Fault::Other, action, key, "it is not a valid key"))
        }
    }

    fn fault(&self, fault: Fault, action: &'static str, key: &str, reason: impl Into<String>) -> Error {
        Error::backend(fault, action, self.bucket.place(&format!("{}{key}", self.prefix)), reason.into())
    }

    /// Returns whether an object has exactly these bytes.
    fn holds(&self, full_key: &str, bytes: &Bytes) -> Result<bool> {
        let has_len = self.bucket.len_of(full_key)? == bytes.len() as u64;
        Ok(has_len && self.fetch(full_key, &Extent::Whole(bytes.len() as u64))? == *bytes)
    }

    fn fetch(&self, full_key: &str, extent: &Extent) -> Result<Bytes> {
        self.bucket.get(full_key, extent, None).map(|fetched| fetched.bytes)
    }

    /// Returns what a backend says of an object, or `None` for one that stands for a directory, as consoles make them.
    fn listed(&self, object: ListedObject) -> Option<Listed> {
        let key = object.key.get(self.prefix.len()..)?;
        // A foreign key need not be UTF-8. What it is listed as then is no valid key either.
        let key = String::from_utf8_lossy(key).into_owned();
        let modified = Timestamp::from_second(object.modified.seconds).unwrap_or_default();
        (!key.ends_with('/')).then_some(Listed { key, size: object.size, modified })
    }

    /// Removes up to [`REMOVALS_MAX`] objects by one request. Returns those that are still to be removed.
    fn remove_together(&self, keys: &[String]) -> Result<Vec<String>> {
        let full_keys = keys.iter().map(|key| self.full_key("remove", key)).collect::<Result<Vec<_>>>()?;
        match self.bucket.remove_together(full_keys) {
            Ok(failed) => {
                let failed: HashSet<_> = failed.iter().filter_map(|key| key.strip_prefix(&self.prefix)).collect();
                Ok(keys.iter().filter(|key| failed.contains(key.as_str())).cloned().collect())
            }
            // A server that is gone is not there for single objects either: a thousand waits would end like this one.
            Err(error) if error.fault() == Some(Fault::Unavailable) => Err(error),
            Err(_) => {
                self.removes_singly.store(true, Ordering::Relaxed);
                Ok(keys.to_vec())
            }
        }
    }
}

impl Backend for S3Backend {
    fn location(&self) -> String {
        // Without the `/` at its end, this is the location as the user writes it.
        self.bucket.place(self.prefix.trim_end_matches('/'))
    }

    fn create(&self, key: &str, bytes: Bytes) -> Result<()> {
        let full_key = self.full_key("create", key)?;
        let Err(error) = self.bucket.put(&full_key, &bytes, &ObjectHeaders::default(), true) else { return Ok(()) };
        if error.fault() != Some(Fault::AlreadyExists) {
            return Err(error);
        }
        // The refusal may be the answer to a repeated request; it is a success if the object that is there is this one.
        match self.holds(&full_key, &bytes) {
            Ok(true) => Ok(()),
            // Nothing is known then, least of all that the key is another's.
            Err(unknown) if unknown.fault() == Some(Fault::Unavailable) => Err(unknown),
            // A writer may lack the right to read; then the refusal stands.
            _ => Err(error),
        }
    }

    fn read_up_to(&self, key: &str, bytes_max: u64) -> Result<Bytes> {
        self.fetch(&self.full_key("read", key)?, &Extent::Whole(bytes_max))
    }

    fn read_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let full_key = self.full_key("read", key)?;
        let bad = |reason| Err(self.fault(Fault::BadAnswer, "read", key, reason));
        if range.start > range.end || range.end - range.start > OBJECT_BYTES_MAX {
            return bad(format!("{}..{} is not a range that can be read", range.start, range.end));
        }
        if range.start < range.end {
            return self.fetch(&full_key, &Extent::Exactly(range));
        }
        // The protocol has no empty ranges; what is left is to check that the object reaches that far.
        let len = self.bucket.len_of(&full_key)?;
        if len < range.end {
            return bad(format!("it has {len} bytes, {}..{} were asked for", range.start, range.end));
        }
        Ok(Bytes::new())
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        if !is_key_prefix(prefix) {
            return Err(self.fault(Fault::Other, "list", prefix, "it is not a valid prefix"));
        }
        let mut listed = Vec::new();
        for page in self.bucket.pages(&format!("{}{prefix}", self.prefix)) {
            listed.extend(page?.into_iter().filter_map(|object| self.listed(object)));
        }
        sorted(listed).map_err(|reason| self.fault(Fault::BadAnswer, "list", prefix, reason))
    }

    fn remove(&self, key: &str) -> Result<()> {
        self.bucket.remove(&self.full_key("remove", key)?)
    }

    fn remove_all(&self, keys: &[String]) -> Result<()> {
        for batch in keys.chunks(REMOVALS_MAX) {
            if batch.len() == 1 || self.removes_singly.load(Ordering::Relaxed) {
                remove_singly(self, batch)?;
            } else {
                // A request of its own for each that is left either removes it or says what is wrong with it.
                remove_singly(self, &self.remove_together(batch)?)?;
            }
        }
        Ok(())
    }

    fn server_time(&self) -> Result<Option<Timestamp>> {
        self.bucket.date()
    }

    fn concurrency(&self) -> usize {
        CONCURRENCY
    }
}

/// Sorts a listing. An object that is listed twice, as `rclone serve s3` does after two writes of it, counts once.
fn sorted(mut listed: Vec<Listed>) -> Result<Vec<Listed>, &'static str> {
    // Of two times the earlier one counts: it is the first of the two writes.
    let order = |object: &Listed| (object.size, object.modified);
    listed.sort_unstable_by(|left, right| left.key.cmp(&right.key).then(order(left).cmp(&order(right))));
    listed.dedup_by(|later, first| later.key == first.key && later.size == first.size);
    if listed.windows(2).any(|pair| pair[0].key == pair[1].key) {
        return Err("the listing has a key with different sizes");
    }
    Ok(listed)
}
