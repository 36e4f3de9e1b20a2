//! A part of a bucket as the target of a restore.
//!
//! What must stay true:
//! - An object becomes visible whole or not at all, and only when its writer is told that it may.
//! - Nothing outside the prefix is written; what a snapshot names becomes a key byte for byte.
//! - Whether an object is what it should be is decided by the digest of its content, never by what the server says of it.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::error::{Fault, Result};
use crate::id::Digest;
use crate::parallel;
use crate::s3::{
    Bucket, BucketLocation, Extent, Later, ListedObject, ObjectHeaders, Objects, PARTS_MAX, Patience, S3Options,
    Upload, UploadedPart,
};
use crate::units::MIB;

/// Objects up to this size are written by one request, and read by one; larger ones in parts of at least this size.
pub const PART_BYTES: u64 = 8 * MIB;

/// Objects that are removed at once.
const REMOVALS: usize = 16;

/// A part of a bucket that is restored into.
pub struct BucketTarget {
    bucket: Bucket,
    location: BucketLocation,
}

impl BucketTarget {
    /// Prepares a target; fails if the bucket cannot be listed.
    pub fn connect(location: &BucketLocation, options: &S3Options) -> Result<Self> {
        let bucket = Bucket::connect(&location.bucket, options, Patience::default())?;
        bucket.check_listable(&location.key_prefix())?;
        Ok(Self { bucket, location: location.clone() })
    }

    /// Returns the target for the part of this one below a relative path.
    pub fn below(&self, path: &str) -> Self {
        Self { bucket: self.bucket.clone(), location: self.location.below(path) }
    }

    /// Returns the keys of the first objects that are there, at most `limit`.
    pub fn look(&self, limit: usize) -> Result<Vec<String>> {
        let objects = self.bucket.first_objects(&self.location.key_prefix(), limit)?;
        Ok(objects.into_iter().map(|listed| String::from_utf8_lossy(&listed.key).into_owned()).collect())
    }

    /// Removes every object that is there. Only for who made them all.
    pub fn clear(&self) -> Result<()> {
        // Listed whole before anything goes: a listing that changes under its reader may pass over something.
        let listed: Vec<_> = self.bucket.objects(&self.location.key_prefix()).collect::<Result<_>>()?;
        let removed =
            parallel::map(&listed, REMOVALS, |object| self.bucket.remove(&String::from_utf8_lossy(&object.key)));
        removed.into_iter().collect()
    }

    /// Returns whether there is no object.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.look(1)?.is_empty())
    }

    /// Returns the key of what stands behind the prefix: nothing, or something that begins with `/`.
    pub fn key_of(&self, behind: &[u8]) -> Result<String, &'static str> {
        let behind = std::str::from_utf8(behind).map_err(|_| "its path is not UTF-8, as keys must be")?;
        let prefix = &self.location.prefix;
        let behind = if prefix.is_empty() { behind.strip_prefix('/').unwrap_or(behind) } else { behind };
        let key = format!("{prefix}{behind}");
        if key.is_empty() { Err("it has no name in the bucket") } else { Ok(key) }
    }

    /// Returns where a key is, for messages.
    pub fn place(&self, key: &str) -> String {
        self.bucket.place(key)
    }

    /// Lists what is there, to be gone through beside what is to be restored.
    pub fn existing(&self) -> ExistingObjects {
        let objects = self.bucket.objects(&self.location.key_prefix()).peekable();
        ExistingObjects { bucket: self.bucket.clone(), key_prefix: self.location.key_prefix(), objects }
    }

    /// Returns whether an object has a content, by reading it.
    pub fn holds(&self, key: &str, size: u64, digest: &Digest) -> Result<bool> {
        let mut hasher = blake3::Hasher::new();
        let mut etag: Option<String> = None;
        let mut at = 0;
        while at < size || size == 0 {
            let extent = if size <= PART_BYTES { Extent::Whole(PART_BYTES) } else { Extent::UpTo(at..at + PART_BYTES) };
            let fetched = match self.bucket.get(key, &extent, etag.as_deref()) {
                Err(error) if matches!(error.fault(), Some(Fault::NotFound | Fault::AlreadyExists)) => {
                    return Ok(false);
                }
                Err(error) if error.fault() == Some(Fault::BadAnswer) => return Ok(false),
                fetched => fetched?,
            };
            if fetched.facts.size != size {
                return Ok(false);
            }
            hasher.update(&fetched.bytes);
            at += fetched.bytes.len() as u64;
            etag = fetched.facts.etag;
            if size == 0 {
                break;
            }
        }
        Ok(hasher.finalize().as_bytes() == digest.as_bytes())
    }

    /// Writes an object of up to [`PART_BYTES`]. With `create_only`, one that is there already is an error
    /// ([`Fault::AlreadyExists`]), where the server can tell.
    pub fn put(&self, key: &str, bytes: &Bytes, headers: &ObjectHeaders, create_only: bool) -> Result<()> {
        self.bucket.put(key, bytes, headers, create_only)
    }

    /// Begins to write a larger object, with up to `ahead_bytes` of it on their way.
    pub fn begin(&self, key: &str, size: u64, headers: &ObjectHeaders, ahead_bytes: u64) -> Result<ObjectWriter> {
        let part_bytes = PART_BYTES.max(size.div_ceil(PARTS_MAX).next_multiple_of(MIB));
        Ok(ObjectWriter {
            waiting: VecDeque::new(),
            done: Vec::new(),
            buffer: BytesMut::new(),
            part_bytes: part_bytes as usize,
            ahead_max: (ahead_bytes / part_bytes).max(1) as usize,
            upload: Upload::begin(&self.bucket, key, headers)?,
        })
    }
}

/// What is in a target, in the order of the keys.
pub struct ExistingObjects {
    bucket: Bucket,
    key_prefix: String,
    objects: std::iter::Peekable<Objects>,
}

impl ExistingObjects {
    /// Returns the object with this key, if there is one. Keys must be asked for in ascending order.
    pub fn at(&mut self, key: &str) -> Result<Option<ListedObject>> {
        if !key.starts_with(&self.key_prefix) {
            return self.bucket.find(key);
        }
        while self
            .objects
            .next_if(|listed| listed.as_ref().is_ok_and(|listed| listed.key.as_slice() < key.as_bytes()))
            .is_some()
        {}
        match self.objects.peek() {
            Some(Ok(listed)) if listed.key == key.as_bytes() => Ok(Some(listed.clone())),
            Some(Err(_)) => self.objects.next().transpose(),
            _ => Ok(None),
        }
    }
}

/// An object that is being written in parts. Dropping it gives it up, and leaves nothing behind.
pub struct ObjectWriter {
    // The parts go before the upload when this is dropped: it is aborted when none is on its way any more.
    waiting: VecDeque<Later<UploadedPart>>,
    done: Vec<UploadedPart>,
    buffer: BytesMut,
    part_bytes: usize,
    ahead_max: usize,
    upload: Upload,
}

impl ObjectWriter {
    /// Takes the next bytes.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let len = bytes.len().min(self.part_bytes - self.buffer.len());
            self.buffer.extend_from_slice(&bytes[..len]);
            bytes = &bytes[len..];
            if self.buffer.len() == self.part_bytes {
                self.send()?;
            }
        }
        Ok(())
    }

    /// Makes the object visible; to be called only when all that was written is known to be right.
    pub fn finish(mut self, create_only: bool) -> Result<()> {
        if !self.buffer.is_empty() {
            self.send()?;
        }
        self.wait_for_all_but(0)?;
        self.upload.complete(self.done, create_only)
    }

    fn send(&mut self) -> Result<()> {
        self.wait_for_all_but(self.ahead_max - 1)?;
        let number = (self.done.len() + self.waiting.len() + 1) as u64;
        let bytes = std::mem::replace(&mut self.buffer, BytesMut::with_capacity(self.part_bytes)).freeze();
        self.waiting.push_back(self.upload.put_later(number, bytes));
        Ok(())
    }

    fn wait_for_all_but(&mut self, count: usize) -> Result<()> {
        while self.waiting.len() > count
            && let Some(part) = self.waiting.pop_front()
        {
            self.done.push(part.wait()?);
        }
        Ok(())
    }
}
