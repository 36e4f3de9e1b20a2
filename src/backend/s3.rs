//! Objects in an S3 bucket, on AWS or on any server that speaks its protocol.
//!
//! What must stay true:
//! - Every write is one PUT with `If-None-Match: *` and a checksum, so that it is there whole or not at all and never
//!   replaces anything (on servers that honour the condition; `doctor` finds out).
//! - A request may be repeated underway, by the SDK or by a proxy, after the first one worked and its answer was lost.
//!   The repeated one is then refused. `create` therefore looks at what is there before it says that a key is taken.
//!
//! How servers are reached, and what holds for every request, is in [`crate::s3`].

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_s3::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::operation::put_object::{PutObjectError, PutObjectOutput};
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use bytes::Bytes;
use jiff::Timestamp;
use tokio::time::sleep;

use crate::backend::{Backend, Listed, OBJECT_BYTES_MAX, is_key, is_key_prefix, remove_singly};
use crate::error::{Error, Fault, Result};
use crate::s3::{Bucket, DateHeader, LIST_PAGES_MAX, Patience, Progress, S3Options, Wanted, body, fault};

/// Requests in flight that fill a link without overloading a small server.
const CONCURRENCY: usize = 8;

/// Objects that one request removes, by the protocol at most.
const REMOVALS_MAX: usize = 1000;

/// How often a create is sent again because another one for the same key is in progress (HTTP 409).
const CONFLICT_ATTEMPTS_MAX: u32 = 6;
/// Wait after the first such answer; it doubles with each one.
const CONFLICT_WAIT: Duration = Duration::from_millis(100);

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

    /// Returns the full location of an object, or of a prefix that ends in `/`.
    fn place(&self, key: &str) -> String {
        let full_key = format!("{}{key}", self.prefix);
        // Without a key, this is the location as the user writes it.
        self.bucket.place(if key.is_empty() { full_key.trim_end_matches('/') } else { &full_key })
    }

    fn full_key(&self, action: &'static str, key: &str) -> Result<String> {
        if is_key(key) {
            Ok(format!("{}{key}", self.prefix))
        } else {
            Err(self.fault(Fault::Other, action, key, "it is not a valid key"))
        }
    }

    fn fault(&self, fault: Fault, action: &'static str, key: &str, reason: impl Into<BoxError>) -> Error {
        Error::backend(fault, action, self.place(key), reason)
    }

    fn failed<E>(&self, action: &'static str, key: &str, error: SdkError<E>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        Error::backend(fault::of(&error), action, self.place(key), fault::describe(&error))
    }

    async fn create_object(&self, key: &str, bytes: &Bytes) -> Result<()> {
        let full_key = self.full_key("create", key)?;
        let mut wait = CONFLICT_WAIT;
        for _ in 1..CONFLICT_ATTEMPTS_MAX {
            match self.put(&full_key, bytes).await {
                Err(error) if fault::is_conflict(&error) => sleep(wait).await,
                answer => return self.created(key, bytes, answer).await,
            }
            wait *= 2;
        }
        let answer = self.put(&full_key, bytes).await;
        self.created(key, bytes, answer).await
    }

    async fn put(&self, full_key: &str, bytes: &Bytes) -> Result<PutObjectOutput, SdkError<PutObjectError>> {
        let timeouts = self.bucket.patience().timeouts(bytes.len() as u64);
        self.bucket
            .client()
            .put_object()
            .bucket(self.bucket.name())
            .key(full_key)
            .if_none_match("*")
            .checksum_crc32(body::checksum(bytes))
            .body(body::in_pieces(bytes))
            .customize()
            .config_override(aws_sdk_s3::config::Builder::new().timeout_config(timeouts))
            .send()
            .await
    }

    /// Judges the answer to a PUT. A refusal is a success if the object that is there is this one.
    async fn created(
        &self,
        key: &str,
        bytes: &Bytes,
        answer: Result<PutObjectOutput, SdkError<PutObjectError>>,
    ) -> Result<()> {
        let Err(error) = answer else { return Ok(()) };
        let error = self.failed("create", key, error);
        if error.fault() != Some(Fault::AlreadyExists) {
            return Err(error);
        }
        match self.holds(key, bytes).await {
            Ok(true) => Ok(()),
            // Nothing is known then, least of all that the key is another's.
            Err(unknown) if unknown.fault() == Some(Fault::Unavailable) => Err(unknown),
            // A writer may lack the right to read; then the refusal stands.
            _ => Err(error),
        }
    }

    /// Returns whether an object has exactly these bytes.
    async fn holds(&self, key: &str, bytes: &Bytes) -> Result<bool> {
        let full_key = self.full_key("read", key)?;
        let head = self.bucket.client().head_object().bucket(self.bucket.name()).key(full_key).send().await;
        let head = head.map_err(|error| self.failed("read", key, error))?;
        let has_len = head.content_length().and_then(|len| u64::try_from(len).ok()) == Some(bytes.len() as u64);
        Ok(has_len && self.fetch(key, &Wanted::Whole(OBJECT_BYTES_MAX)).await? == *bytes)
    }

    /// Reads a whole object, or a part of it that is not empty.
    async fn fetch(&self, key: &str, wanted: &Wanted) -> Result<Bytes> {
        let full_key = self.full_key("read", key)?;
        self.bucket.fetch(&full_key, wanted, None).await.map(|fetched| fetched.bytes)
    }

    async fn fetch_range(&self, key: &str, range: &Range<u64>) -> Result<Bytes> {
        if range.start > range.end || range.end - range.start > OBJECT_BYTES_MAX {
            let reason = format!("{}..{} is not a range that can be read", range.start, range.end);
            return Err(self.fault(Fault::BadAnswer, "read", key, reason));
        }
        if range.start < range.end {
            return self.fetch(key, &Wanted::Exactly(range.clone())).await;
        }
        // The protocol has no empty ranges; what is left is to check that the object reaches that far.
        let request = self.bucket.client().head_object().bucket(self.bucket.name()).key(self.full_key("read", key)?);
        let head = request.send().await.map_err(|error| self.failed("read", key, error))?;
        let len = head.content_length().and_then(|len| u64::try_from(len).ok()).unwrap_or(0);
        if len < range.end {
            let reason = format!("it has {len} bytes, {}..{} were asked for", range.start, range.end);
            return Err(self.fault(Fault::BadAnswer, "read", key, reason));
        }
        Ok(Bytes::new())
    }

    async fn list_objects(&self, prefix: &str) -> Result<Vec<Listed>> {
        let full_prefix = format!("{}{prefix}", self.prefix);
        let bad = |reason| self.fault(Fault::BadAnswer, "list", prefix, reason);
        let mut listed = Vec::new();
        let mut progress = Progress::default();
        for _ in 0..LIST_PAGES_MAX {
            let request = self.bucket.client().list_objects_v2().bucket(self.bucket.name()).prefix(&full_prefix);
            let page = request.set_continuation_token(progress.token()).send().await;
            let page = page.map_err(|error| self.failed("list", prefix, error))?;
            let has_more = progress.advance(&page).map_err(bad)?;
            self.take_page(&page, &full_prefix, &mut listed).map_err(bad)?;
            if !has_more {
                return sorted(listed).map_err(bad);
            }
        }
        Err(self.fault(Fault::BadAnswer, "list", prefix, format!("the listing did not end in {LIST_PAGES_MAX} pages")))
    }

    fn take_page(
        &self,
        page: &ListObjectsV2Output,
        full_prefix: &str,
        listed: &mut Vec<Listed>,
    ) -> Result<(), &'static str> {
        for object in page.contents() {
            let full_key = object.key().ok_or("the listing has an object without a key")?;
            if !full_key.starts_with(full_prefix) {
                return Err("the listing has a key that was not asked for");
            }
            // Consoles make empty objects that stand for directories.
            if full_key.ends_with('/') {
                continue;
            }
            let size = object.size().and_then(|size| u64::try_from(size).ok());
            let size = size.ok_or("the listing has an object without a size")?;
            listed.push(Listed { key: full_key[self.prefix.len()..].to_owned(), size });
        }
        Ok(())
    }

    async fn remove_object(&self, key: &str) -> Result<()> {
        let request =
            self.bucket.client().delete_object().bucket(self.bucket.name()).key(self.full_key("remove", key)?);
        match request.send().await {
            Err(error) if error.code() != Some("NoSuchBucket") && fault::of(&error) == Fault::NotFound => Ok(()),
            Err(error) => Err(self.failed("remove", key, error)),
            Ok(_) => Ok(()),
        }
    }

    /// Removes objects by one request. Returns whether that worked for all of them: some servers know no such request, or
    /// want another checksum with it.
    async fn remove_together(&self, keys: &[String]) -> Result<bool> {
        let identify = |key: &String| {
            let object = ObjectIdentifier::builder().key(self.full_key("remove", key)?).build();
            object.map_err(|error| self.fault(Fault::Other, "remove", key, error))
        };
        let objects = keys.iter().map(identify).collect::<Result<Vec<_>>>()?;
        let delete = Delete::builder().quiet(true).set_objects(Some(objects)).build();
        let delete = delete.map_err(|error| self.fault(Fault::Other, "remove", "", error))?;
        let answer = self.bucket.client().delete_objects().bucket(self.bucket.name()).delete(delete).send().await;
        Ok(answer.is_ok_and(|answer| answer.errors().is_empty()))
    }

    async fn date(&self) -> Result<Option<Timestamp>> {
        let header = DateHeader::default();
        let request =
            self.bucket.client().head_bucket().bucket(self.bucket.name()).customize().interceptor(header.clone());
        let answer = request.send().await;
        match (header.timestamp(), answer) {
            // An answer that refuses tells the time as well.
            (Some(date), _) => Ok(Some(date)),
            (None, Ok(_)) => Ok(None),
            (None, Err(error)) => Err(self.failed("ask for the time at", "", error)),
        }
    }
}

impl Backend for S3Backend {
    fn location(&self) -> String {
        self.place("")
    }

    fn create(&self, key: &str, bytes: Bytes) -> Result<()> {
        self.bucket.block_on(self.create_object(key, &bytes))
    }

    fn read(&self, key: &str) -> Result<Bytes> {
        self.bucket.block_on(self.fetch(key, &Wanted::Whole(OBJECT_BYTES_MAX)))
    }

    fn read_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.bucket.block_on(self.fetch_range(key, &range))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        if !is_key_prefix(prefix) {
            return Err(self.fault(Fault::Other, "list", prefix, "it is not a valid prefix"));
        }
        self.bucket.block_on(self.list_objects(prefix))
    }

    fn remove(&self, key: &str) -> Result<()> {
        self.bucket.block_on(self.remove_object(key))
    }

    fn remove_all(&self, keys: &[String]) -> Result<()> {
        for batch in keys.chunks(REMOVALS_MAX) {
            let together = batch.len() > 1 && !self.removes_singly.load(Ordering::Relaxed);
            if together && self.bucket.block_on(self.remove_together(batch))? {
                continue;
            }
            self.removes_singly.fetch_or(together, Ordering::Relaxed);
            remove_singly(self, batch)?;
        }
        Ok(())
    }

    fn server_time(&self) -> Result<Option<Timestamp>> {
        self.bucket.block_on(self.date())
    }

    fn concurrency(&self) -> usize {
        CONCURRENCY
    }
}

/// Sorts a listing. An object that is listed twice, as `rclone serve s3` does after two writes of it, counts once.
fn sorted(mut listed: Vec<Listed>) -> Result<Vec<Listed>, &'static str> {
    listed.sort_unstable_by(|left, right| left.key.cmp(&right.key).then(left.size.cmp(&right.size)));
    listed.dedup();
    if listed.windows(2).any(|pair| pair[0].key == pair[1].key) {
        return Err("the listing has a key with different sizes");
    }
    Ok(listed)
}
