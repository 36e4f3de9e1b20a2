//! What an object has beside its content, and how an entry's attributes keep it.
//!
//! What must stay true: what is read from one object and stored is what a restored one is written with; facts that only
//! the server decides (ETag, version, storage class) are stored and never sent.

use std::collections::BTreeMap;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::DateTime;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::format::attributes::{self, Attributes};
use crate::format::tree::FileTime;

/// Gives the headers to a request that begins to write an object: whole or in parts, they are the same, and so are the
/// setters, but the SDK has no trait for them.
macro_rules! with_headers {
    ($request:expr, $headers:expr) => {
        $request
            .set_content_type($headers.content_type.clone())
            .set_content_encoding($headers.content_encoding.clone())
            .set_cache_control($headers.cache_control.clone())
            .set_content_disposition($headers.content_disposition.clone())
            .set_content_language($headers.content_language.clone())
            .set_metadata(Some($headers.user_metadata.clone().into_iter().collect()))
            .set_tagging($headers.tagging())
    };
}
pub(super) use with_headers;

/// Storage class that is not worth a word.
const STANDARD: &str = "STANDARD";

/// What a writer chose for an object, beside its content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectHeaders {
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Content-Encoding`.
    pub content_encoding: Option<String>,
    /// `Cache-Control`.
    pub cache_control: Option<String>,
    /// `Content-Disposition`.
    pub content_disposition: Option<String>,
    /// `Content-Language`.
    pub content_language: Option<String>,
    /// User metadata; names in lower case.
    pub user_metadata: BTreeMap<String, String>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
}

/// What the server says of one version of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectFacts {
    /// Length in bytes.
    pub size: u64,
    /// ETag without its quotes; none if it is weak, which proves nothing.
    pub etag: Option<String>,
    /// When it was written, to the second.
    pub modified: FileTime,
    /// Its version, in a bucket that keeps versions.
    pub version_id: Option<String>,
    /// Its storage class, where it is not `STANDARD`.
    pub storage_class: Option<String>,
    /// How many tags it has.
    pub tag_count: usize,
    /// What its writer chose; without the tags, which take a request of their own.
    pub headers: ObjectHeaders,
}

impl ObjectFacts {
    /// Reads the headers of an answer.
    pub(super) fn of(answer: &GetObjectOutput, size: u64) -> Self {
        Self {
            size,
            etag: answer.e_tag().and_then(strong_etag),
            modified: answer.last_modified().map(file_time).unwrap_or_default(),
            version_id: answer.version_id().filter(|id| *id != "null").map(str::to_owned),
            storage_class: answer
                .storage_class()
                .map(|class| class.as_str().to_owned())
                .filter(|class| class != STANDARD),
            tag_count: answer.tag_count().and_then(|count| usize::try_from(count).ok()).unwrap_or(0),
            headers: ObjectHeaders {
                content_type: answer.content_type().map(str::to_owned),
                content_encoding: answer.content_encoding().map(str::to_owned),
                cache_control: answer.cache_control().map(str::to_owned),
                content_disposition: answer.content_disposition().map(str::to_owned),
                content_language: answer.content_language().map(str::to_owned),
                user_metadata: answer
                    .metadata()
                    .into_iter()
                    .flatten()
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect(),
                tags: BTreeMap::new(),
            },
        }
    }

    /// Returns what an entry keeps.
    pub fn attributes(&self) -> Attributes {
        let headers = &self.headers;
        let texts = [
            (attributes::ETAG, &self.etag),
            (attributes::VERSION_ID, &self.version_id),
            (attributes::STORAGE_CLASS, &self.storage_class),
            (attributes::CONTENT_TYPE, &headers.content_type),
            (attributes::CONTENT_ENCODING, &headers.content_encoding),
            (attributes::CACHE_CONTROL, &headers.cache_control),
            (attributes::CONTENT_DISPOSITION, &headers.content_disposition),
            (attributes::CONTENT_LANGUAGE, &headers.content_language),
        ];
        let texts = texts.into_iter().filter_map(|(key, text)| Some((key, text.clone()?.into_bytes())));
        let maps = [(attributes::USER_METADATA, &headers.user_metadata), (attributes::TAGS, &headers.tags)];
        let maps = maps.into_iter().filter(|(_, map)| !map.is_empty());
        let maps = maps.filter_map(|(key, map)| Some((key, serde_json::to_vec(map).ok()?)));
        texts.chain(maps).collect()
    }
}

impl ObjectHeaders {
    /// Returns what a restored object is written with. Attributes come from a repository and are not trusted: what
    /// cannot be a header is left out, and named.
    pub fn from_attributes(attributes: &[(u16, Vec<u8>)]) -> (Self, Vec<&'static str>) {
        let mut unusable = Vec::new();
        let mut text = |key, name| {
            let value = attributes::get(attributes, key)?;
            let usable = std::str::from_utf8(value).ok().filter(|text| is_header_value(text));
            if usable.is_none() {
                unusable.push(name);
            }
            usable.map(str::to_owned)
        };
        let mut headers = Self {
            content_type: text(attributes::CONTENT_TYPE, "content type"),
            content_encoding: text(attributes::CONTENT_ENCODING, "content encoding"),
            cache_control: text(attributes::CACHE_CONTROL, "cache control"),
            content_disposition: text(attributes::CONTENT_DISPOSITION, "content disposition"),
            content_language: text(attributes::CONTENT_LANGUAGE, "content language"),
            ..Self::default()
        };
        let mut map = |key, name, is_usable: fn(&str, &str) -> bool| {
            let Some(value) = attributes::get(attributes, key) else { return BTreeMap::new() };
            let read = serde_json::from_slice::<BTreeMap<String, String>>(value).ok();
            let usable = read.filter(|map| map.iter().all(|(name, value)| is_usable(name, value)));
            usable.unwrap_or_else(|| {
                unusable.push(name);
                BTreeMap::new()
            })
        };
        headers.user_metadata =
            map(attributes::USER_METADATA, "user metadata", |name, value| is_token(name) && is_header_value(value));
        headers.tags = map(attributes::TAGS, "tags", |_, _| true);
        (headers, unusable)
    }

    /// Returns the tags as the header `x-amz-tagging` has them, if there are any.
    pub(super) fn tagging(&self) -> Option<String> {
        let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
        let pairs = self.tags.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value)));
        (!self.tags.is_empty()).then(|| pairs.collect::<Vec<_>>().join("&"))
    }
}

/// Returns an ETag without its quotes, or `None` if it does not stand for the very bytes.
pub(super) fn strong_etag(text: &str) -> Option<String> {
    let etag = text.trim_matches('"');
    (!etag.is_empty() && !text.starts_with("W/")).then(|| etag.to_owned())
}

/// Returns a server's time, to the second: listings tell more than headers do.
pub(super) fn file_time(time: &DateTime) -> FileTime {
    FileTime { seconds: time.secs(), nanoseconds: 0 }
}

fn is_header_value(text: &str) -> bool {
    text.bytes().all(|byte| byte == b'\t' || (byte >= b' ' && byte != 0x7F))
}

fn is_token(text: &str) -> bool {
    let is_token_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_token_byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn headers_survive_the_way_through_attributes() {
        let headers = ObjectHeaders {
            content_type: Some("text/plain; charset=utf-8".to_owned()),
            cache_control: Some("no-cache".to_owned()),
            user_metadata: map(&[("run", "a b"), ("stage", "=?UTF-8?B?w6k=?=")]),
            tags: map(&[("owner", "Zoë & co"), ("empty", "")]),
            ..ObjectHeaders::default()
        };
        let facts =
            ObjectFacts { size: 1, etag: Some("x".to_owned()), headers: headers.clone(), ..ObjectFacts::default() };
        let attributes = facts.attributes();
        assert!(attributes.is_sorted_by(|left, right| left.0 < right.0));
        assert_eq!(ObjectHeaders::from_attributes(&attributes), (headers.clone(), vec![]));
        assert_eq!(headers.tagging().unwrap(), "empty=&owner=Zo%C3%AB%20%26%20co");
    }

    #[test]
    fn only_an_etag_that_stands_for_the_very_bytes_counts() {
        assert_eq!(strong_etag("\"d41d-2\""), Some("d41d-2".to_owned()));
        assert_eq!(strong_etag("d41d"), Some("d41d".to_owned()));
        assert!(strong_etag("W/\"d41d\"").is_none() && strong_etag("\"\"").is_none());
    }

    #[test]
    fn attributes_that_would_split_a_request_are_left_out_and_named() {
        let attributes = vec![
            (attributes::CONTENT_TYPE, b"text/plain\r\nX-Evil: 1".to_vec()),
            (attributes::CACHE_CONTROL, b"\xFF".to_vec()),
            (attributes::USER_METADATA, br#"{"a b":"x"}"#.to_vec()),
            (attributes::TAGS, b"[]".to_vec()),
        ];
        let (headers, unusable) = ObjectHeaders::from_attributes(&attributes);
        assert_eq!(headers, ObjectHeaders::default());
        assert_eq!(unusable, ["content type", "cache control", "user metadata", "tags"]);
    }
}
