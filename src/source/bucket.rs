//! A part of a bucket as a source: its objects become files.
//!
//! What must stay true:
//! - The bucket is listed once, and what the listing proves unchanged costs no request of its own.
//! - What is read of an object is one version of it, whole: every part is asked for by the ETag of the first one. If the
//!   object changes meanwhile, [`Interruption::Changed`] says so and it is opened anew.
//! - Bytes that are read ahead are bounded by two budgets: one for the parts of objects that are open, one for small
//!   objects that are expected. Who holds one and waits would otherwise wait for those who wait to be opened.
//! - Nothing but the `/` behind the prefix is taken off a key, and nothing is added.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::sync::Mutex;

use bytes::{Buf, Bytes};

use crate::budget::{Budget, Permit};
use crate::error::{Error, Fault, Result};
use crate::format::attributes::Attributes;
use crate::format::tree::{FileTime, Metadata, PATH_LEN_MAX};
use crate::path_range::PathRange;
use crate::s3::{Bucket, BucketLocation, Extent, Fetched, Later, ListedObject, ObjectFacts, Patience, S3Options};
use crate::source::filter::Filter;
use crate::source::{Content, Found, Interruption, Item, ItemKind, Source};
use crate::sync::lock;
use crate::units::MIB;

/// Objects up to this size are read by one request, larger ones in parts of this size.
const PART_BYTES: u64 = 8 * MIB;
/// Parts of one object that are on their way at once.
const PARTS_AHEAD_MAX: usize = 4;
/// Small objects that are asked for before they are opened: what hides the time that each answer takes.
const EXPECTED_MAX: usize = 32;
/// Part of the memory for reading ahead that expected objects have: one of so many.
const EXPECTED_SHARE: u64 = 4;
/// Permissions of the files that objects become.
const MODE: u32 = 0o644;
/// Storage classes whose objects have to be restored, in hours, before they can be read.
const ARCHIVES: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];

/// Small objects that were asked for ahead, by their keys, each with its share of the memory.
type Expected = HashMap<Vec<u8>, (Later<Fetched>, Permit)>;

/// The objects of a bucket below a prefix.
pub struct BucketSource {
    bucket: Bucket,
    key_prefix: String,
    filter: Filter,
    /// What of it is walked.
    range: PathRange,
    read_ahead: Budget,
    expected_budget: Budget,
    expected: Mutex<Expected>,
}

impl BucketSource {
    /// Connects to a bucket and prepares a source, as [`BucketSource::new`] does.
    pub fn connect(
        location: &BucketLocation,
        options: &S3Options,
        filter: Filter,
        read_ahead_bytes: u64,
    ) -> Result<Self> {
        let bucket = Bucket::connect(&location.bucket, options, Patience::default())?;
        Self::new(bucket, location, filter, read_ahead_bytes)
    }

    /// Prepares a source; fails if the bucket cannot be listed. Exclude patterns with a `/` match whole paths below the
    /// prefix, others match names. At most `read_ahead_bytes` of objects are in memory.
    pub fn new(bucket: Bucket, location: &BucketLocation, filter: Filter, read_ahead_bytes: u64) -> Result<Self> {
        let source = Self {
            bucket,
            key_prefix: location.key_prefix(),
            filter,
            range: PathRange::default(),
            read_ahead: Budget::new(read_ahead_bytes - read_ahead_bytes / EXPECTED_SHARE),
            expected_budget: Budget::new(read_ahead_bytes / EXPECTED_SHARE),
            expected: Mutex::default(),
        };
        source.bucket.check_listable(&source.key_prefix)?;
        Ok(source)
    }

    /// Walks only a part of it, and lists no more than that where the server lists in byte order.
    pub fn within(self, range: PathRange) -> Self {
        Self { range, ..self }
    }

    /// Returns whether a server that lists directory by directory would list the same objects before and after a path as one
    /// that lists in byte order, so that a part can end there.
    pub fn can_be_cut_at(&self, path: &[u8]) -> Result<bool> {
        let Ok(path) = std::str::from_utf8(path) else { return Ok(false) };
        self.bucket.divides(&self.key_prefix, path)
    }

    /// Returns what an object in the listing is, or `None` if it is nothing to store.
    fn found(&self, listed: ListedObject) -> Option<Found> {
        let path = listed.key.get(self.key_prefix.len()..).unwrap_or_default();
        // Consoles make an empty object that stands for the prefix itself.
        if (path.is_empty() && listed.size == 0) || self.filter.excludes_at_or_above(path) {
            return None;
        }
        let unreadable = |message: &str| {
            let path = self.bucket.place(&String::from_utf8_lossy(&listed.key));
            Some(Found::Unreadable {
                item: listed.key.get(self.key_prefix.len()..).unwrap_or_default().to_vec(),
                path,
                message: message.to_owned(),
            })
        };
        if path.is_empty() {
            return unreadable("it has content, but no name below the prefix");
        }
        if path.len() > PATH_LEN_MAX {
            return unreadable("its key is too long");
        }
        let Ok(key) = std::str::from_utf8(&listed.key) else {
            return unreadable("its key is not UTF-8, and so it cannot be asked for");
        };
        if let Some(reason) = self.filter.too_large(listed.size) {
            return Some(Found::LeftOut { item: path.to_vec(), path: self.bucket.place(key), reason });
        }
        let location = OsString::from_vec(self.bucket.place(key).into_bytes()).into();
        let kind = ItemKind::Object { size: listed.size, etag: listed.etag, storage_class: listed.storage_class };
        Some(Found::Item(Item { path: path.to_vec(), metadata: metadata(listed.modified), kind, location }))
    }

    /// Returns the first part of an object, and what it is charged to: as it was expected, or else read now.
    fn begin(&self, key: &str, path: &[u8], listed_size: u64) -> (Result<Fetched>, Permit) {
        let expected = lock(&self.expected).remove(path);
        let Some((later, permit)) = expected else {
            let permit = self.read_ahead.take(listed_size.min(PART_BYTES));
            return (self.first_part(key, listed_size), permit);
        };
        match later.wait() {
            // It has grown.
            Err(error) if error.fault() == Some(Fault::BadAnswer) => (self.first_part(key, listed_size), permit),
            first => (first, permit),
        }
    }

    /// Reads the first part of an object, which is all of a small one. What the listing said of its size may no longer be
    /// true, and only decides how to ask first: an empty object has no range.
    fn first_part(&self, key: &str, listed_size: u64) -> Result<Fetched> {
        let (whole, range) = (Extent::Whole(PART_BYTES), Extent::UpTo(0..PART_BYTES));
        let (first, second) = if listed_size <= PART_BYTES { (whole, range) } else { (range, whole) };
        match self.bucket.get(key, &first, None) {
            Err(error) if error.fault() == Some(Fault::BadAnswer) => self.bucket.get(key, &second, None),
            fetched => fetched,
        }
    }

    /// Tells what is wrong with one object from a server that is gone.
    fn fault(&self, error: Error) -> io::Error {
        match error.fault() {
            Some(Fault::NotFound) => io::ErrorKind::NotFound.into(),
            Some(Fault::AlreadyExists) => Interruption::Changed.into(),
            Some(Fault::Unavailable) if self.bucket.check_listable(&self.key_prefix).is_err() => {
                Interruption::Lost(error).into()
            }
            _ => io::Error::other(error.to_string()),
        }
    }
}

impl Source for BucketSource {
    /// Listing costs money and, for millions of objects, minutes.
    fn is_cheap_to_walk(&self) -> bool {
        false
    }

    fn walk(&self) -> Box<dyn Iterator<Item = Found> + Send + '_> {
        let key = |path: &Vec<u8>| [self.key_prefix.as_bytes(), path].concat();
        let within = PathRange { after: self.range.after.as_ref().map(key), up_to: self.range.up_to.as_ref().map(key) };
        Box::new(self.bucket.objects_within(&self.key_prefix, within).filter_map(|listed| match listed {
            Ok(listed) => self.found(listed),
            Err(error) => Some(Found::Failed(error)),
        }))
    }

    fn expect(&self, item: &Item) {
        let ItemKind::Object { size, .. } = item.kind else { return };
        let mut expected = lock(&self.expected);
        if size > PART_BYTES || expected.len() >= EXPECTED_MAX {
            return;
        }
        if let (Ok(path), Some(permit)) = (std::str::from_utf8(&item.path), self.expected_budget.try_take(size)) {
            let key = format!("{}{path}", self.key_prefix);
            let later = self.bucket.get_later(&key, Extent::Whole(PART_BYTES), None);
            expected.insert(item.path.clone(), (later, permit));
        }
    }

    fn open(&self, item: &Item) -> io::Result<Box<dyn Content + '_>> {
        let ItemKind::Object { size, storage_class, .. } = &item.kind else {
            return Err(io::Error::other("it is no object"));
        };
        let path = std::str::from_utf8(&item.path).map_err(io::Error::other)?;
        let key = format!("{}{path}", self.key_prefix);
        let (first, permit) = self.begin(&key, &item.path, *size);
        let first = first.map_err(|error| match storage_class {
            Some(class) if error.fault() == Some(Fault::Denied) && ARCHIVES.contains(&class.as_str()) => {
                io::Error::other(format!("it is in the storage class {class}, and has to be restored there first"))
            }
            _ => self.fault(error),
        })?;
        let mut facts = first.facts;
        let mut lack = None;
        if facts.tag_count > 0 {
            match self.bucket.tags(&key) {
                Ok(tags) => facts.headers.tags = tags,
                Err(error) => lack = Some(format!("it is stored without its tags: {error}")),
            }
        }
        let asked = first.bytes.len() as u64;
        let parts = VecDeque::new();
        let mut object =
            OpenObject { source: self, key, facts, lack, asked, parts, current: first.bytes, permit: Some(permit) };
        object.read_ahead();
        Ok(Box::new(object))
    }
}

/// An object that is being read.
struct OpenObject<'a> {
    source: &'a BucketSource,
    key: String,
    facts: ObjectFacts,
    /// What could not be read, beside the content.
    lack: Option<String>,
    /// Where the next part to ask for begins.
    asked: u64,
    parts: VecDeque<(Later<Fetched>, Permit)>,
    current: Bytes,
    /// For `current`.
    permit: Option<Permit>,
}

impl OpenObject<'_> {
    /// Asks for as many of the next parts as there is room for.
    fn read_ahead(&mut self) {
        while self.parts.len() < PARTS_AHEAD_MAX && self.asked < self.facts.size {
            let Some(permit) = self.source.read_ahead.try_take(self.next_range_len()) else { return };
            self.ask(permit);
        }
    }

    fn next_range_len(&self) -> u64 {
        PART_BYTES.min(self.facts.size - self.asked)
    }

    fn ask(&mut self, permit: Permit) {
        let range = self.asked..self.asked + self.next_range_len();
        self.asked = range.end;
        let etag = self.facts.etag.as_deref();
        self.parts.push_back((self.source.bucket.get_later(&self.key, Extent::Exactly(range), etag), permit));
    }

    /// Makes the next part current; returns whether there was one.
    fn advance(&mut self) -> io::Result<bool> {
        // Nothing may be held while waiting for room: else two objects could wait for each other.
        self.permit = None;
        if self.parts.is_empty() && self.asked < self.facts.size {
            let permit = self.source.read_ahead.take(self.next_range_len());
            self.ask(permit);
        }
        let Some((part, permit)) = self.parts.pop_front() else { return Ok(false) };
        self.read_ahead();
        let part = part.wait().map_err(|error| self.source.fault(error))?;
        // Where there is no ETag, size and time have to do.
        if (part.facts.size, part.facts.modified) != (self.facts.size, self.facts.modified) {
            return Err(Interruption::Changed.into());
        }
        (self.current, self.permit) = (part.bytes, Some(permit));
        Ok(true)
    }
}

impl Read for OpenObject<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() && !self.advance()? {
            return Ok(0);
        }
        let len = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..len]);
        Ok(len)
    }
}

impl Content for OpenObject<'_> {
    fn metadata(&self) -> Metadata {
        metadata(self.facts.modified)
    }

    fn size(&self) -> Option<u64> {
        Some(self.facts.size)
    }

    fn attributes(&self) -> Attributes {
        self.facts.attributes()
    }

    fn finish(self: Box<Self>) -> io::Result<Option<String>> {
        Ok(self.lack)
    }
}

fn metadata(modified: FileTime) -> Metadata {
    Metadata { mode: MODE, mtime: modified, ..Metadata::default() }
}
