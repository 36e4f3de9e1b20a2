//! Objects in an S3 bucket, on AWS or on any server that speaks its protocol.
//!
//! What must stay true:
//! - Every write is one PUT with `If-None-Match: *` and a checksum, so that it is there whole or not at all and never
//!   replaces anything (on servers that honour the condition; `doctor` finds out).
//! - A request may be repeated underway, by the SDK or by a proxy, after the first one worked and its answer was lost.
//!   The repeated one is then refused. `create` therefore looks at what is there before it says that a key is taken.
//! - Every wait is bounded by [`Patience`]; a server that stalls ends in [`Fault::Unavailable`].
//! - A body is returned only when it has exactly the length that was announced and asked for.
//! - Messages are one line and hold no credentials and no query strings.
//!
//! Must not be called from within an async runtime: calls block on this port's own.

mod body;
mod connection;
mod fault;

use std::ops::Range;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::operation::put_object::{PutObjectError, PutObjectOutput};
use aws_sdk_s3::primitives::ByteStream;
use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};

use crate::backend::location::BackendOptions;
use crate::backend::{Backend, Listed, OBJECT_BYTES_MAX, is_key, is_key_prefix};
use crate::error::{Error, Fault, Result};

use connection::DateHeader;

/// Requests in flight that fill a link without overloading a small server.
const CONCURRENCY: usize = 8;

/// How often a create is sent again because another one for the same key is in progress (HTTP 409).
const CONFLICT_ATTEMPTS_MAX: u32 = 6;
/// Wait after the first such answer; it doubles with each one.
const CONFLICT_WAIT: Duration = Duration::from_millis(100);

/// How often a read is begun anew because its body broke off.
const BODY_ATTEMPTS_MAX: u32 = 4;

/// Pages of up to 1,000 keys that one listing may have: 10⁸ objects.
const LIST_PAGES_MAX: usize = 100_000;

/// How long to wait for a server, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How often a request is sent that fails in a way that may pass.
    pub attempts_max: u32,
    /// Upper bound of the first wait between attempts; it doubles with each one, and is drawn at random.
    pub wait_first: Duration,
    /// Upper bound of each wait between attempts.
    pub wait_max: Duration,
    /// How long a connection may take.
    pub connect: Duration,
    /// How long an answer may take to begin, for a request without a body.
    pub answer: Duration,
    /// How long a body may stand still.
    pub stall: Duration,
    /// The slowest pace at which a body is waited for to its end.
    pub bytes_per_second_min: u64,
}

impl Default for Patience {
    /// Outlasts the restart of a server (a minute on average), and lets eight packs share a link of 4 Mbit/s.
    fn default() -> Self {
        Self {
            attempts_max: 10,
            wait_first: Duration::from_secs(1),
            wait_max: Duration::from_secs(20),
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(60),
            stall: Duration::from_secs(30),
            bytes_per_second_min: 60 * 1024,
        }
    }
}

impl Patience {
    /// Returns how long one attempt with a body of `len` bytes may take.
    fn for_body(&self, len: u64) -> Duration {
        self.answer + Duration::from_secs(len / self.bytes_per_second_min.max(1))
    }

    /// Returns how long all attempts together may take: one at the slowest pace, and as long again for the others.
    fn for_all_attempts(&self, len: u64) -> Duration {
        (self.answer + self.wait_max) * self.attempts_max + 2 * self.for_body(len)
    }

    fn timeouts(&self, len: u64) -> TimeoutConfig {
        TimeoutConfig::builder()
            .connect_timeout(self.connect)
            .operation_attempt_timeout(self.for_body(len))
            .operation_timeout(self.for_all_attempts(len))
            .build()
    }
}

/// A backend over the part of a bucket whose keys begin with a prefix.
#[derive(Debug)]
pub struct S3Backend {
    runtime: &'static Runtime,
    client: Client,
    bucket: String,
    /// Empty, or ends in `/`.
    prefix: String,
    patience: Patience,
}

impl S3Backend {
    /// Prepares a client. Sends nothing to the server yet, but may ask AWS for the region.
    pub fn connect(bucket: &str, prefix: &str, options: &BackendOptions, patience: Patience) -> Result<Self> {
        let runtime = connection::runtime()?;
        let client = runtime.block_on(connection::connect(options, &patience))?;
        let prefix = if prefix.is_empty() { String::new() } else { format!("{}/", prefix.trim_matches('/')) };
        Ok(Self { runtime, client, bucket: bucket.to_owned(), prefix, patience })
    }

    /// Fails if the bucket does not exist, does not answer, or may not be listed with these credentials.
    pub fn check(&self) -> Result<()> {
        let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(&self.prefix).max_keys(1);
        self.runtime.block_on(request.send()).map_err(|error| self.failed("open", "", error))?;
        Ok(())
    }

    /// Returns the full location of an object, or of a prefix that ends in `/`.
    fn place(&self, key: &str) -> String {
        let full_key = format!("{}{key}", self.prefix);
        // Without a key, this is the location as the user writes it.
        let full_key = if key.is_empty() { full_key.trim_end_matches('/') } else { &full_key };
        if full_key.is_empty() { format!("s3://{}", self.bucket) } else { format!("s3://{}/{full_key}", self.bucket) }
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
        let timeouts = self.patience.timeouts(bytes.len() as u64);
        self.client
            .put_object()
            .bucket(&self.bucket)
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
        let head = self.client.head_object().bucket(&self.bucket).key(full_key).send().await;
        let head = head.map_err(|error| self.failed("read", key, error))?;
        let has_len = head.content_length().and_then(|len| u64::try_from(len).ok()) == Some(bytes.len() as u64);
        Ok(has_len && self.fetch(key, None).await? == *bytes)
    }

    /// Reads a whole object or a non-empty range of it, beginning anew where a body breaks off.
    async fn fetch(&self, key: &str, range: Option<&Range<u64>>) -> Result<Bytes> {
        let mut wait = self.patience.wait_first;
        for _ in 1..BODY_ATTEMPTS_MAX {
            match self.fetch_once(key, range).await {
                Err(Broken::Body(_)) => sleep(wait).await,
                answer => return answer.map_err(Broken::into_error),
            }
            wait = (wait * 2).min(self.patience.wait_max);
        }
        self.fetch_once(key, range).await.map_err(Broken::into_error)
    }

    async fn fetch_once(&self, key: &str, range: Option<&Range<u64>>) -> Result<Bytes, Broken> {
        let full_key = self.full_key("read", key).map_err(Broken::Answer)?;
        let header = range.map(|range| format!("bytes={}-{}", range.start, range.end - 1));
        let request = self.client.get_object().bucket(&self.bucket).key(full_key).set_range(header);
        let answer = request.send().await.map_err(|error| Broken::Answer(self.failed("read", key, error)))?;
        let len = announced_len(&answer, range)
            .map_err(|reason| Broken::Answer(self.fault(Fault::BadAnswer, "read", key, reason)))?;
        match timeout(self.patience.for_body(len), collect(answer.body, len)).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(reason)) => Err(Broken::Body(self.fault(Fault::Unavailable, "read", key, reason))),
            Err(_) => Err(Broken::Body(self.fault(Fault::Unavailable, "read", key, "the body came too slowly"))),
        }
    }

    async fn fetch_range(&self, key: &str, range: &Range<u64>) -> Result<Bytes> {
        if range.start > range.end || range.end - range.start > OBJECT_BYTES_MAX {
            let reason = format!("{}..{} is not a range that can be read", range.start, range.end);
            return Err(self.fault(Fault::BadAnswer, "read", key, reason));
        }
        if range.start < range.end {
            return self.fetch(key, Some(range)).await;
        }
        // The protocol has no empty ranges; what is left is to check that the object reaches that far.
        let request = self.client.head_object().bucket(&self.bucket).key(self.full_key("read", key)?);
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
            let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(&full_prefix);
            let page = request.set_continuation_token(progress.token.clone()).send().await;
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
        let request = self.client.delete_object().bucket(&self.bucket).key(self.full_key("remove", key)?);
        match request.send().await {
            Err(error) if error.code() != Some("NoSuchBucket") && fault::of(&error) == Fault::NotFound => Ok(()),
            Err(error) => Err(self.failed("remove", key, error)),
            Ok(_) => Ok(()),
        }
    }

    async fn date(&self) -> Result<Option<Timestamp>> {
        let header = DateHeader::default();
        let request = self.client.head_bucket().bucket(&self.bucket).customize().interceptor(header.clone());
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
        self.runtime.block_on(self.create_object(key, &bytes))
    }

    fn read(&self, key: &str) -> Result<Bytes> {
        self.runtime.block_on(self.fetch(key, None))
    }

    fn read_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.runtime.block_on(self.fetch_range(key, &range))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        if !is_key_prefix(prefix) {
            return Err(self.fault(Fault::Other, "list", prefix, "it is not a valid prefix"));
        }
        self.runtime.block_on(self.list_objects(prefix))
    }

    fn remove(&self, key: &str) -> Result<()> {
        self.runtime.block_on(self.remove_object(key))
    }

    fn server_time(&self) -> Result<Option<Timestamp>> {
        self.runtime.block_on(self.date())
    }

    fn concurrency(&self) -> usize {
        CONCURRENCY
    }
}

/// How one attempt to read failed.
enum Broken {
    /// The answer is final; whatever could be retried has been.
    Answer(Error),
    /// The body broke off, which may pass.
    Body(Error),
}

impl Broken {
    fn into_error(self) -> Error {
        match self {
            Self::Answer(error) | Self::Body(error) => error,
        }
    }
}

/// Returns the length of the body that follows, after checking that it is the part that was asked for.
fn announced_len(answer: &GetObjectOutput, range: Option<&Range<u64>>) -> Result<u64, String> {
    let len = answer.content_length().and_then(|len| u64::try_from(len).ok());
    let len = len.ok_or("the answer does not tell its length")?;
    let Some(range) = range else {
        return if len <= OBJECT_BYTES_MAX { Ok(len) } else { Err(format!("it has {len} bytes")) };
    };
    let asked = range.end - range.start;
    let expected = format!("bytes {}-{}/", range.start, range.end - 1);
    // Some servers answer a range that is the whole object as if none had been asked for.
    let is_right = answer.content_range().map_or(range.start == 0, |given| given.starts_with(&expected));
    if len != asked || !is_right {
        return Err(format!("{}..{} were asked for, {len} bytes were given", range.start, range.end));
    }
    Ok(len)
}

/// Collects a body that must have exactly `len` bytes.
async fn collect(mut body: ByteStream, len: u64) -> Result<Bytes, String> {
    let mut bytes = BytesMut::with_capacity(len as usize);
    while let Some(part) = body.next().await {
        let part = part.map_err(|error| fault::one_line(&error))?;
        if part.len() as u64 > len - bytes.len() as u64 {
            return Err(format!("the body is longer than the {len} bytes announced"));
        }
        bytes.extend_from_slice(&part);
    }
    if bytes.len() as u64 != len {
        return Err(format!("the body ended after {} of {len} bytes", bytes.len()));
    }
    Ok(bytes.freeze())
}

/// How far a listing has come; refuses one that does not advance.
#[derive(Default)]
struct Progress {
    token: Option<String>,
    first_key: Option<String>,
}

impl Progress {
    /// Takes note of a page. Returns whether another one follows.
    fn advance(&mut self, page: &ListObjectsV2Output) -> Result<bool, &'static str> {
        let first_key = page.contents().first().and_then(|object| object.key());
        if first_key.is_some() && first_key == self.first_key.as_deref() {
            return Err("the listing does not advance");
        }
        self.first_key = first_key.map(str::to_owned);
        // Without this check, an empty or foreign document would pass for an empty listing.
        let has_more = page.is_truncated().ok_or("the answer is not a listing")?;
        if has_more {
            let next = page.next_continuation_token().ok_or("the listing says that there is more, but not where")?;
            if self.token.as_deref() == Some(next) {
                return Err("the listing does not advance");
            }
            self.token = Some(next.to_owned());
        }
        Ok(has_more)
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
