//! One bucket, and the requests that backend, source and target have in common.
//!
//! What must stay true: a read that names an ETag returns bytes of that version of the object or fails; keys in
//! messages are shown as they are, bounded and without control characters.

use std::collections::BTreeMap;
use std::ops::Range;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::EncodingType;
use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::error::{Error, Fault, Result};
use crate::s3::headers::{ObjectFacts, ObjectHeaders, with_headers};
use crate::s3::listing::{self, Listed, Objects};
use crate::s3::{Patience, S3Options, body, connection, fault};

/// How often a read is begun anew because its body broke off.
const BODY_ATTEMPTS_MAX: u32 = 4;

/// Most objects that one answer lists.
const LIST_PAGE_KEYS_MAX: usize = 1000;

/// A bucket, and how it is reached. Clones share connections.
#[derive(Debug, Clone)]
pub struct Bucket {
    runtime: &'static Runtime,
    client: Client,
    name: String,
    patience: Patience,
}

/// Which part of an object to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// All of it, if it has at most so many bytes.
    Whole(u64),
    /// Exactly this range, which is not empty; an object that is shorter is an error.
    Exactly(Range<u64>),
    /// As much of this range, which is not empty, as the object has.
    UpTo(Range<u64>),
}

/// A part of an object.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The object that it is a part of; its size is that of the whole object, where the server told it.
    pub facts: ObjectFacts,
    /// The part.
    pub bytes: Bytes,
}

impl Bucket {
    /// Prepares a client. Sends nothing to the server yet, but may ask AWS for the region.
    pub fn connect(name: &str, options: &S3Options, patience: Patience) -> Result<Self> {
        let runtime = connection::runtime()?;
        let client = runtime.block_on(connection::connect(options, &patience))?;
        Ok(Self { runtime, client, name: name.to_owned(), patience })
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns where an object is, for messages; without a key, where the bucket is.
    pub fn place(&self, key: &str) -> String {
        if key.is_empty() { format!("s3://{}", self.name) } else { format!("s3://{}/{key}", self.name) }
    }

    /// Fails if the bucket does not exist, does not answer, or may not be listed with these credentials.
    pub fn check_listable(&self, prefix: &str) -> Result<()> {
        let request = self.client.list_objects_v2().bucket(&self.name).prefix(prefix).max_keys(1);
        self.block_on(request.send()).map_err(|error| self.failed("open", prefix.trim_end_matches('/'), error))?;
        Ok(())
    }

    /// Lists what begins with a prefix, in byte order of the keys. Requests are sent as the objects are taken.
    pub fn objects(&self, prefix: &str) -> Objects {
        Objects::new(self.clone(), prefix)
    }

    /// Returns what a server lists first of a prefix, at most `limit` objects and a thousand, with one request.
    pub fn first_objects(&self, prefix: &str, limit: usize) -> Result<Vec<Listed>> {
        let page = self.list_page(prefix, None, Some(limit.min(LIST_PAGE_KEYS_MAX) as i32))?;
        let listed = listing::objects_of(&page, prefix);
        listed.map_err(|reason| self.fault(Fault::BadAnswer, "list", prefix, reason))
    }

    /// Returns what a listing says of one object, or `None` if there is none.
    pub fn find(&self, key: &str) -> Result<Option<Listed>> {
        let objects = self.first_objects(key, LIST_PAGE_KEYS_MAX)?;
        Ok(objects.into_iter().find(|listed| listed.key == key.as_bytes()))
    }

    /// Reads a part of an object, of the version with this ETag if one is given.
    ///
    /// Fails with [`Fault::AlreadyExists`] where the object has another ETag: the server calls it a failed condition.
    pub fn get(&self, key: &str, wanted: &Wanted, etag: Option<&str>) -> Result<Fetched> {
        self.block_on(self.fetch(key, wanted, etag))
    }

    /// Begins to read a part of an object while the caller does something else.
    pub fn get_later(&self, key: &str, wanted: Wanted, etag: Option<&str>) -> Later<Fetched> {
        let (bucket, key, etag) = (self.clone(), key.to_owned(), etag.map(str::to_owned));
        self.later(async move { bucket.fetch(&key, &wanted, etag.as_deref()).await })
    }

    /// Returns the tags of an object.
    pub fn tags(&self, key: &str) -> Result<BTreeMap<String, String>> {
        let request = self.client.get_object_tagging().bucket(&self.name).key(key);
        let answer = self.block_on(request.send()).map_err(|error| self.failed("read the tags of", key, error))?;
        Ok(answer.tag_set().iter().map(|tag| (tag.key().to_owned(), tag.value().to_owned())).collect())
    }

    /// Writes an object in one request. With `create_only`, fails with [`Fault::AlreadyExists`] if the key is taken, on
    /// servers that honour the condition.
    ///
    /// A request that is repeated underway is refused as well: who gets that fault looks at what is there.
    pub fn put(&self, key: &str, bytes: &Bytes, headers: &ObjectHeaders, create_only: bool) -> Result<()> {
        let timeouts = self.patience.timeouts(bytes.len() as u64);
        let request = with_headers!(self.client.put_object(), headers)
            .bucket(&self.name)
            .key(key)
            .set_if_none_match(create_only.then(|| "*".to_owned()))
            .checksum_crc32(body::checksum(bytes))
            .body(body::in_pieces(bytes))
            .customize()
            .config_override(aws_sdk_s3::config::Builder::new().timeout_config(timeouts));
        self.block_on(request.send()).map_err(|error| self.failed("create", key, error))?;
        Ok(())
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn patience(&self) -> &Patience {
        &self.patience
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    pub(super) fn later<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Later<T> {
        Later { runtime: self.runtime, task: self.runtime.spawn(work) }
    }

    pub(crate) fn fault(&self, fault: Fault, action: &'static str, key: &str, reason: impl Into<BoxError>) -> Error {
        Error::backend(fault, action, self.place(key), reason)
    }

    pub(crate) fn failed<E>(&self, action: &'static str, key: &str, error: SdkError<E>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        Error::backend(fault::of(&error), action, self.place(key), fault::describe(&error))
    }

    pub(super) fn list_page(
        &self,
        prefix: &str,
        token: Option<String>,
        max_keys: Option<i32>,
    ) -> Result<ListObjectsV2Output> {
        let request = self.client.list_objects_v2().bucket(&self.name).prefix(prefix).set_max_keys(max_keys);
        let request = request.encoding_type(EncodingType::Url).set_continuation_token(token);
        self.block_on(request.send()).map_err(|error| self.failed("list", prefix.trim_end_matches('/'), error))
    }

    /// Reads a part of an object, beginning anew where a body breaks off.
    pub(crate) async fn fetch(&self, key: &str, wanted: &Wanted, etag: Option<&str>) -> Result<Fetched> {
        let mut wait = self.patience.wait_first;
        for _ in 1..BODY_ATTEMPTS_MAX {
            match self.fetch_once(key, wanted, etag).await {
                Err(Broken::Body(_)) => sleep(wait).await,
                answer => return answer.map_err(Broken::into_error),
            }
            wait = (wait * 2).min(self.patience.wait_max);
        }
        self.fetch_once(key, wanted, etag).await.map_err(Broken::into_error)
    }

    async fn fetch_once(&self, key: &str, wanted: &Wanted, etag: Option<&str>) -> Result<Fetched, Broken> {
        let request = self.client.get_object().bucket(&self.name).key(key).set_range(wanted.header());
        let answer = request.set_if_match(etag.map(|etag| format!("\"{etag}\""))).send().await;
        let answer = answer.map_err(|error| Broken::Answer(self.failed("read", key, error)))?;
        let (len, size) = announced(&answer, wanted)
            .map_err(|reason| Broken::Answer(self.fault(Fault::BadAnswer, "read", key, reason)))?;
        let facts = ObjectFacts::of(&answer, size);
        if etag.is_some() && facts.etag.as_deref() != etag {
            // Not every server honours the condition.
            let reason = "it has been replaced by another version";
            return Err(Broken::Answer(self.fault(Fault::AlreadyExists, "read", key, reason)));
        }
        match timeout(self.patience.for_body(len), body::collect(answer.body, len)).await {
            Ok(Ok(bytes)) => Ok(Fetched { facts, bytes }),
            Ok(Err(reason)) => Err(Broken::Body(self.fault(Fault::Unavailable, "read", key, reason))),
            Err(_) => Err(Broken::Body(self.fault(Fault::Unavailable, "read", key, "the body came too slowly"))),
        }
    }
}

impl Wanted {
    fn header(&self) -> Option<String> {
        match self {
            Self::Whole(_) => None,
            Self::Exactly(range) | Self::UpTo(range) => Some(format!("bytes={}-{}", range.start, range.end - 1)),
        }
    }
}

/// The result of a request that is under way. Dropping it gives the request up.
pub struct Later<T> {
    runtime: &'static Runtime,
    task: JoinHandle<Result<T>>,
}

impl<T> Later<T> {
    /// Waits for the result.
    pub fn wait(mut self) -> Result<T> {
        let outcome = self.runtime.block_on(&mut self.task);
        outcome.unwrap_or_else(|error| Err(Error::Internal(format!("a request ended early: {error}"))))
    }
}

impl<T> Drop for Later<T> {
    fn drop(&mut self) {
        self.task.abort();
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

/// Returns the length of the body that follows and the size of the object, after checking that it is the part that was
/// asked for.
fn announced(answer: &GetObjectOutput, wanted: &Wanted) -> Result<(u64, u64), String> {
    let len = answer.content_length().and_then(|len| u64::try_from(len).ok());
    let len = len.ok_or("the answer does not tell its length")?;
    let range = match wanted {
        Wanted::Whole(max) if len <= *max => return Ok((len, len)),
        Wanted::Whole(_) => return Err(format!("it has {len} bytes")),
        Wanted::Exactly(range) | Wanted::UpTo(range) => range,
    };
    let size = match answer.content_range() {
        Some(text) => size_in_range(text, range.start, len),
        // Some servers answer a range that is the whole object as if none had been asked for.
        None => (range.start == 0).then_some(len),
    };
    let end = |size: u64| if matches!(wanted, Wanted::UpTo(_)) { range.end.min(size) } else { range.end };
    let size = size.filter(|size| range.start + len == end(*size));
    let size = size.ok_or_else(|| format!("{}..{} were asked for, {len} bytes were given", range.start, range.end))?;
    Ok((len, size))
}

/// Reads `bytes first-last/size`; `None` if it does not begin and end where it should. A size that the server does not
/// tell counts as the end of the range.
fn size_in_range(text: &str, start: u64, len: u64) -> Option<u64> {
    let size = text.strip_prefix(&format!("bytes {start}-{}/", (start + len).checked_sub(1)?))?;
    size.parse().ok().or((size == "*").then_some(start + len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(len: i64, range: Option<&str>) -> GetObjectOutput {
        GetObjectOutput::builder().content_length(len).set_content_range(range.map(str::to_owned)).build()
    }

    #[test]
    fn an_answer_must_be_the_part_that_was_asked_for() {
        let of = |len, range: Option<&str>, wanted| announced(&answer(len, range), &wanted).ok();
        assert_eq!(of(10, None, Wanted::Whole(10)), Some((10, 10)));
        assert_eq!(of(11, None, Wanted::Whole(10)), None);
        assert_eq!(of(10, Some("bytes 5-14/100"), Wanted::Exactly(5..15)), Some((10, 100)));
        assert_eq!(of(10, Some("bytes 5-14/*"), Wanted::Exactly(5..15)), Some((10, 15)));
        assert_eq!(of(9, Some("bytes 5-13/14"), Wanted::Exactly(5..15)), None);
        assert_eq!(of(9, Some("bytes 5-13/14"), Wanted::UpTo(5..15)), Some((9, 14)));
        assert_eq!(of(9, Some("bytes 5-13/100"), Wanted::UpTo(5..15)), None);
        assert_eq!(of(10, Some("bytes 0-9/100"), Wanted::Exactly(5..15)), None);
        assert_eq!(of(10, None, Wanted::Exactly(0..10)), Some((10, 10)));
        assert_eq!(of(7, None, Wanted::UpTo(0..10)), Some((7, 7)));
        assert_eq!(of(10, None, Wanted::Exactly(5..15)), None);
        assert_eq!(of(-1, None, Wanted::Whole(10)), None);
    }
}
