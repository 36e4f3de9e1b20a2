//! Reads objects, whole or in part.
//!
//! What must stay true: a body is returned only when it is exactly what was announced and asked for; a read that names
//! an ETag returns bytes of that version of the object or fails.

use std::ops::Range;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use bytes::Bytes;
use tokio::time::timeout;

use crate::error::{Error, Fault, Result};
use crate::s3::body;
use crate::s3::bucket::{Bucket, Later};
use crate::s3::headers::ObjectFacts;
use crate::s3::interruption::Kind;
use crate::s3::patience::{Attempts, BODY_ATTEMPTS_MAX};

/// Which part of an object to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extent {
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
    /// Reads a part of an object, of the version with this ETag if one is given.
    ///
    /// Fails with [`Fault::AlreadyExists`] where the object has another ETag: the server calls it a failed condition.
    pub fn get(&self, key: &str, extent: &Extent, etag: Option<&str>) -> Result<Fetched> {
        self.ask(Kind::Read, || self.fetch(key, extent, etag))?
    }

    /// Begins to read a part of an object while the caller does something else.
    pub fn get_later(&self, key: &str, extent: Extent, etag: Option<&str>) -> Later<Fetched> {
        let (bucket, key, etag) = (self.clone(), key.to_owned(), etag.map(str::to_owned));
        self.later(async move { bucket.fetch(&key, &extent, etag.as_deref()).await })
    }

    /// Returns the length of an object.
    pub fn len_of(&self, key: &str) -> Result<u64> {
        let request = self.client().head_object().bucket(self.name()).key(key);
        let head = self.ask(Kind::Read, || request.clone().send())?;
        let head = head.map_err(|error| self.failed("read", key, error))?;
        let len = head.content_length().and_then(|len| u64::try_from(len).ok());
        len.ok_or_else(|| self.fault(Fault::BadAnswer, "read", key, "the answer does not tell its length"))
    }

    /// Reads a part of an object, beginning anew where a body breaks off.
    async fn fetch(&self, key: &str, extent: &Extent, etag: Option<&str>) -> Result<Fetched> {
        let mut attempts = Attempts::new(BODY_ATTEMPTS_MAX, self.patience());
        loop {
            let fetched = self.fetch_once(key, extent, etag).await;
            let may_pass = matches!(fetched, Err(Broken::Body(_)));
            if !may_pass || !attempts.another().await {
                return fetched.map_err(Broken::into_error);
            }
        }
    }

    async fn fetch_once(&self, key: &str, extent: &Extent, etag: Option<&str>) -> Result<Fetched, Broken> {
        let request = self.client().get_object().bucket(self.name()).key(key).set_range(extent.header());
        let lane = &self.limits().download;
        let _turn = lane.turn().await;
        let answer = request.set_if_match(etag.map(|etag| format!("\"{etag}\""))).send().await;
        let answer = answer.map_err(|error| Broken::Answer(self.failed("read", key, error)))?;
        let (len, size) = announced(&answer, extent)
            .map_err(|reason| Broken::Answer(self.fault(Fault::BadAnswer, "read", key, reason)))?;
        let facts = ObjectFacts::of(&answer, size);
        if etag.is_some() && facts.etag.as_deref() != etag {
            // Not every server honours the condition.
            let reason = "it has been replaced by another version";
            return Err(Broken::Answer(self.fault(Fault::AlreadyExists, "read", key, reason)));
        }
        match timeout(self.patience().for_body(len), body::collect(answer.body, len, lane)).await {
            Ok(Ok(bytes)) => Ok(Fetched { facts, bytes }),
            Ok(Err(reason)) => Err(Broken::Body(self.fault(Fault::Unavailable, "read", key, reason))),
            Err(_) => Err(Broken::Body(self.fault(Fault::Unavailable, "read", key, "the body came too slowly"))),
        }
    }
}

impl Extent {
    fn header(&self) -> Option<String> {
        match self {
            Self::Whole(_) => None,
            Self::Exactly(range) | Self::UpTo(range) => Some(format!("bytes={}-{}", range.start, range.end - 1)),
        }
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
fn announced(answer: &GetObjectOutput, extent: &Extent) -> Result<(u64, u64), String> {
    let len = answer.content_length().and_then(|len| u64::try_from(len).ok());
    let len = len.ok_or("the answer does not tell its length")?;
    let range = match extent {
        Extent::Whole(max) if len <= *max => return Ok((len, len)),
        Extent::Whole(max) => return Err(format!("it has {len} bytes, more than {max}")),
        Extent::Exactly(range) | Extent::UpTo(range) => range,
    };
    let size = match answer.content_range() {
        Some(text) => size_in_range(text, range.start, len),
        // Some servers answer a range that is the whole object as if none had been asked for.
        None => (range.start == 0).then_some(len),
    };
    let end = |size: u64| if matches!(extent, Extent::UpTo(_)) { range.end.min(size) } else { range.end };
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
        let of = |len, range: Option<&str>, extent| announced(&answer(len, range), &extent).ok();
        assert_eq!(of(10, None, Extent::Whole(10)), Some((10, 10)));
        assert_eq!(of(11, None, Extent::Whole(10)), None);
        assert_eq!(of(10, Some("bytes 5-14/100"), Extent::Exactly(5..15)), Some((10, 100)));
        assert_eq!(of(10, Some("bytes 5-14/*"), Extent::Exactly(5..15)), Some((10, 15)));
        assert_eq!(of(9, Some("bytes 5-13/14"), Extent::Exactly(5..15)), None);
        assert_eq!(of(9, Some("bytes 5-13/14"), Extent::UpTo(5..15)), Some((9, 14)));
        assert_eq!(of(9, Some("bytes 5-13/100"), Extent::UpTo(5..15)), None);
        assert_eq!(of(10, Some("bytes 0-9/100"), Extent::Exactly(5..15)), None);
        assert_eq!(of(10, None, Extent::Exactly(0..10)), Some((10, 10)));
        assert_eq!(of(7, None, Extent::UpTo(0..10)), Some((7, 7)));
        assert_eq!(of(10, None, Extent::Exactly(5..15)), None);
        assert_eq!(of(-1, None, Extent::Whole(10)), None);
    }
}
