//! Lists a part of a bucket: page by page, in byte order of the keys, each key once.
//!
//! What must stay true:
//! - There is one loop over pages, in [`Pages`]; it ends, whatever the server says.
//! - Memory does not grow with the bucket: at most `WINDOW_KEYS` and one page of objects are held.
//! - What [`Objects`] gives ascends strictly. A server that lists in another order is put right within the window, and
//!   found out beyond it: the listing ends in an error then, never in a list with gaps.
//! - Keys are what the server has, byte for byte: they are asked for in encoded form, because XML cannot hold all of them.

use std::collections::BTreeMap;

use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::{EncodingType, Object};
use percent_encoding::percent_decode_str;

use crate::error::{Error, Fault, Result};
use crate::format::tree::FileTime;
use crate::page_tokens::PageTokens;
use crate::s3::bucket::Bucket;
use crate::s3::headers::{file_time, strong_etag};
use crate::s3::interruption::Kind;

/// Pages of up to 1,000 keys that one listing may have: 10⁸ objects.
const LIST_PAGES_MAX: usize = 100_000;
/// Most objects that one answer lists.
const LIST_PAGE_KEYS_MAX: usize = 1000;
/// Objects that are held back until it is certain that none comes before them. AWS and MinIO list in byte order, and
/// need none; servers over file systems may list a directory before its neighbours.
const WINDOW_KEYS: usize = 4096;

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    /// Its key, the prefix included.
    pub key: Vec<u8>,
    /// Length in bytes.
    pub size: u64,
    /// ETag without its quotes; none if it is weak, or in doubt.
    pub etag: Option<String>,
    /// When it was written, to the second.
    pub modified: FileTime,
    /// Its storage class.
    pub storage_class: Option<String>,
}

impl Bucket {
    /// Lists what begins with a prefix, in byte order of the keys. Requests are sent as the objects are taken.
    pub fn objects(&self, prefix: &str) -> Objects {
        Objects { pages: self.pages(prefix), window: KeyWindow::default() }
    }

    /// Lists what begins with a prefix page by page, in whatever order the server has. An object may come twice.
    pub fn pages(&self, prefix: &str) -> Pages {
        let (bucket, prefix) = (self.clone(), prefix.to_owned());
        Pages { bucket, progress: Progress::new(prefix) }
    }

    /// Returns what a server lists first of a prefix, at most `limit` objects and a thousand, with one request.
    pub fn first_objects(&self, prefix: &str, limit: usize) -> Result<Vec<ListedObject>> {
        let page = self.list_page(prefix, None, Some(limit.min(LIST_PAGE_KEYS_MAX) as i32))?;
        objects_of(&page, prefix).map_err(|reason| self.bad_listing(prefix, reason))
    }

    /// Returns what a listing says of one object, or `None` if there is none.
    pub fn find(&self, key: &str) -> Result<Option<ListedObject>> {
        let objects = self.first_objects(key, LIST_PAGE_KEYS_MAX)?;
        Ok(objects.into_iter().find(|listed| listed.key == key.as_bytes()))
    }

    fn list_page(&self, prefix: &str, token: Option<String>, max_keys: Option<i32>) -> Result<ListObjectsV2Output> {
        let request = self.client().list_objects_v2().bucket(self.name()).prefix(prefix).set_max_keys(max_keys);
        let request = request.encoding_type(EncodingType::Url).set_continuation_token(token);
        let answer = self.ask(Kind::Read, || request.clone().send())?;
        answer.map_err(|error| self.failed("list", prefix.trim_end_matches('/'), error))
    }

    fn bad_listing(&self, prefix: &str, reason: impl Into<BoxError>) -> Error {
        self.fault(Fault::BadAnswer, "list", prefix.trim_end_matches('/'), reason)
    }
}

/// Goes through the pages of a listing, and refuses one that does not advance. After an error it ends.
pub struct Pages {
    bucket: Bucket,
    progress: Progress,
}

impl Pages {
    fn next_page(&mut self) -> Result<Vec<ListedObject>> {
        let page = self.bucket.list_page(&self.progress.prefix, self.progress.token.clone(), None)?;
        self.progress.take(&page).map_err(|reason| self.bucket.bad_listing(&self.progress.prefix, reason))
    }
}

/// How far a listing has come.
pub struct Progress {
    prefix: String,
    token: Option<String>,
    tokens: PageTokens,
    first_key: Option<String>,
    has_more: bool,
}

impl Progress {
    /// Begins before the first page of what begins with a prefix.
    pub fn new(prefix: String) -> Self {
        Self { prefix, token: None, tokens: PageTokens::new(LIST_PAGES_MAX), first_key: None, has_more: true }
    }

    /// Returns whether another page follows.
    pub fn has_more(&self) -> bool {
        self.has_more
    }

    /// Takes the next page, and returns what is on it.
    pub fn take(&mut self, page: &ListObjectsV2Output) -> Result<Vec<ListedObject>, String> {
        self.advance(page)?;
        Ok(objects_of(page, &self.prefix)?)
    }

    /// Takes note of where the next page begins, if another one follows.
    fn advance(&mut self, page: &ListObjectsV2Output) -> Result<(), String> {
        let first_key = page.contents().first().and_then(|object| object.key());
        if first_key.is_some() && first_key == self.first_key.as_deref() {
            return Err("the listing does not advance".to_owned());
        }
        self.first_key = first_key.map(str::to_owned);
        // Without this check, an empty or foreign document would pass for an empty listing.
        self.has_more = page.is_truncated().ok_or("the answer is not a listing")?;
        if self.has_more {
            let next = page.next_continuation_token().ok_or("the listing says that there is more, but not where")?;
            self.tokens.follow(next)?;
            self.token = Some(next.to_owned());
        }
        Ok(())
    }
}

impl Iterator for Pages {
    type Item = Result<Vec<ListedObject>>;

    fn next(&mut self) -> Option<Self::Item> {
        let page = self.progress.has_more.then(|| self.next_page())?;
        self.progress.has_more &= page.is_ok();
        Some(page)
    }
}

/// Iterates over the objects whose keys begin with a prefix, in byte order. After an error it ends.
pub struct Objects {
    pages: Pages,
    window: KeyWindow,
}

impl Objects {
    fn fill(&mut self) -> Result<()> {
        while self.window.waiting.len() < WINDOW_KEYS
            && let Some(page) = self.pages.next()
        {
            let taken = page?.into_iter().try_for_each(|listed| self.window.take_in(listed));
            taken.map_err(|reason| self.pages.bucket.bad_listing(&self.pages.progress.prefix, reason))?;
        }
        Ok(())
    }
}

impl Iterator for Objects {
    type Item = Result<ListedObject>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(error) = self.fill() {
            self.pages.progress.has_more = false;
            self.window = KeyWindow::default();
            return Some(Err(error));
        }
        self.window.take_first().map(Ok)
    }
}

/// Objects that are held back, by key.
#[derive(Default)]
pub struct KeyWindow {
    waiting: BTreeMap<Vec<u8>, ListedObject>,
    last: Option<ListedObject>,
}

impl KeyWindow {
    /// Takes an object in. One that is listed twice, as `rclone serve s3` does after two writes of it, counts once; if
    /// the two differ, which of them is right is not known, and so nothing proves it unchanged.
    pub fn take_in(&mut self, listed: ListedObject) -> Result<(), String> {
        if self.last.as_ref() == Some(&listed) {
            return Ok(());
        }
        if self.last.as_ref().is_some_and(|last| listed.key <= last.key) {
            let key = String::from_utf8_lossy(&listed.key);
            return Err(format!("the listing is not in the order of the keys: {key:?} comes too late"));
        }
        match self.waiting.get_mut(&listed.key) {
            Some(known) if *known != listed => {
                if listed.modified > known.modified {
                    *known = listed;
                }
                known.etag = None;
            }
            Some(_) => {}
            None => drop(self.waiting.insert(listed.key.clone(), listed)),
        }
        Ok(())
    }

    /// Returns the first object by its key.
    pub fn take_first(&mut self) -> Option<ListedObject> {
        let (_, next) = self.waiting.pop_first()?;
        self.last = Some(next.clone());
        Some(next)
    }
}

/// Reads the objects of a page.
fn objects_of(page: &ListObjectsV2Output, prefix: &str) -> Result<Vec<ListedObject>, &'static str> {
    let is_encoded = page.encoding_type() == Some(&EncodingType::Url);
    page.contents().iter().map(|object| listed(object, is_encoded, prefix)).collect()
}

fn listed(object: &Object, is_encoded: bool, prefix: &str) -> Result<ListedObject, &'static str> {
    let key = object.key().ok_or("the listing has an object without a key")?;
    let key = if is_encoded { decoded(key) } else { key.as_bytes().to_vec() };
    if !key.starts_with(prefix.as_bytes()) {
        return Err("the listing has a key that was not asked for");
    }
    let size = object.size().and_then(|size| u64::try_from(size).ok());
    Ok(ListedObject {
        key,
        size: size.ok_or("the listing has an object without a size")?,
        etag: object.e_tag().and_then(strong_etag),
        modified: object.last_modified().map(file_time).unwrap_or_default(),
        storage_class: object.storage_class().map(|class| class.as_str().to_owned()),
    })
}

/// Decodes a key. AWS writes a space as `+`, others as `%20`; a plus is `%2B` in both.
fn decoded(key: &str) -> Vec<u8> {
    percent_decode_str(&key.replace('+', " ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn listed(key: &[u8], seconds: i64) -> ListedObject {
        let modified = FileTime { seconds, nanoseconds: 0 };
        ListedObject { key: key.to_vec(), size: 1, etag: Some(seconds.to_string()), modified, storage_class: None }
    }

    fn drain(window: &mut KeyWindow) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| window.take_first()).map(|listed| listed.key).collect()
    }

    #[test]
    fn keys_are_decoded_whatever_way_a_space_is_written() {
        assert_eq!(decoded("a%20b+c%2Bd"), b"a b c+d");
        assert_eq!(decoded("%2541/%C3%A9/%01//"), "%41/é/\u{1}//".as_bytes());
        assert_eq!(decoded("100%"), b"100%");
    }

    #[test]
    fn an_order_that_is_wrong_within_the_window_is_put_right_and_beyond_it_is_an_error() {
        let mut window = KeyWindow::default();
        for key in ["a/x", "a.b", "b", "a/y"] {
            window.take_in(listed(key.as_bytes(), 1)).unwrap();
        }
        assert_eq!(drain(&mut window), [&b"a.b"[..], b"a/x", b"a/y", b"b"]);
        window.take_in(listed(b"b", 1)).unwrap();
        let message = window.take_in(listed(b"a.c", 1)).unwrap_err();
        assert!(message.contains("a.c"), "{message}");
    }

    #[test]
    fn an_object_listed_twice_counts_once_and_without_a_proof_if_the_two_differ() {
        let mut window = KeyWindow::default();
        for listed in [listed(b"k", 5), listed(b"k", 5), listed(b"m", 7), listed(b"m", 6)] {
            window.take_in(listed).unwrap();
        }
        assert_eq!(window.take_first().unwrap(), listed(b"k", 5));
        let doubtful = window.take_first().unwrap();
        assert_eq!((doubtful.modified.seconds, doubtful.etag), (7, None));
        assert!(window.take_first().is_none());
    }

    proptest! {
        #[test]
        fn any_key_survives_being_encoded_by_a_server(key in "\\PC{0,40}", space_is_plus in any::<bool>()) {
            let encoded = percent_encoding::utf8_percent_encode(&key, percent_encoding::NON_ALPHANUMERIC).to_string();
            let encoded = if space_is_plus { encoded.replace("%20", "+") } else { encoded };
            prop_assert_eq!(decoded(&encoded), key.as_bytes());
        }
    }
}
