//! Lists a part of a bucket: page by page, in byte order of the keys, each key once.
//!
//! What must stay true:
//! - Memory does not grow with the bucket: at most [`WINDOW_KEYS`] and one page of objects are held.
//! - What comes out ascends strictly. A server that lists in another order is put right within the window, and found out
//!   beyond it: the listing ends in an error then, never in a list with gaps.
//! - Keys are what the server has, byte for byte: they are asked for in encoded form, because XML cannot hold all of them.

use std::collections::BTreeMap;

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::{EncodingType, Object};
use percent_encoding::percent_decode_str;

use crate::error::{Fault, Result};
use crate::format::tree::FileTime;
use crate::s3::bucket::Bucket;
use crate::s3::headers::{file_time, strong_etag};

/// Pages of up to 1,000 keys that one listing may have: 10⁸ objects.
pub const LIST_PAGES_MAX: usize = 100_000;
/// Objects that are held back until it is certain that none comes before them. AWS and MinIO list in byte order, and
/// need none; servers over file systems may list a directory before its neighbours.
const WINDOW_KEYS: usize = 4096;

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
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

/// Iterates over the objects whose keys begin with a prefix. After an error it ends.
pub struct Objects {
    bucket: Bucket,
    prefix: String,
    progress: Progress,
    pages: usize,
    has_more: bool,
    window: Window,
}

impl Objects {
    pub(super) fn new(bucket: Bucket, prefix: &str) -> Self {
        let prefix = prefix.to_owned();
        Self { bucket, prefix, progress: Progress::default(), pages: 0, has_more: true, window: Window::default() }
    }

    fn fill(&mut self) -> Result<()> {
        while self.has_more && self.window.waiting.len() < WINDOW_KEYS {
            self.pages += 1;
            let bucket = self.bucket.clone();
            let bad = |reason: String| bucket.fault(Fault::BadAnswer, "list", &self.prefix, reason);
            if self.pages > LIST_PAGES_MAX {
                return Err(bad(format!("the listing did not end in {LIST_PAGES_MAX} pages")));
            }
            let page = bucket.list_page(&self.prefix, self.progress.token(), None)?;
            self.has_more = self.progress.advance(&page).map_err(|reason| bad(reason.to_owned()))?;
            for listed in objects_of(&page, &self.prefix).map_err(|reason| bad(reason.to_owned()))? {
                self.window.take_in(listed).map_err(bad)?;
            }
        }
        Ok(())
    }
}

impl Iterator for Objects {
    type Item = Result<Listed>;

    fn next(&mut self) -> Option<Result<Listed>> {
        if let Err(error) = self.fill() {
            self.has_more = false;
            self.window = Window::default();
            return Some(Err(error));
        }
        self.window.next().map(Ok)
    }
}

/// Objects that are held back, by key.
#[derive(Default)]
struct Window {
    waiting: BTreeMap<Vec<u8>, Listed>,
    last: Option<Listed>,
}

impl Window {
    /// Takes an object in. One that is listed twice, as `rclone serve s3` does after two writes of it, counts once; if
    /// the two differ, which of them is right is not known, and so nothing proves it unchanged.
    fn take_in(&mut self, listed: Listed) -> Result<(), String> {
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

    fn next(&mut self) -> Option<Listed> {
        let (_, next) = self.waiting.pop_first()?;
        self.last = Some(next.clone());
        Some(next)
    }
}

/// Reads the objects of a page.
pub(super) fn objects_of(page: &ListObjectsV2Output, prefix: &str) -> Result<Vec<Listed>, &'static str> {
    let is_encoded = page.encoding_type() == Some(&EncodingType::Url);
    page.contents().iter().map(|object| listed(object, is_encoded, prefix)).collect()
}

fn listed(object: &Object, is_encoded: bool, prefix: &str) -> Result<Listed, &'static str> {
    let key = object.key().ok_or("the listing has an object without a key")?;
    let key = if is_encoded { decoded(key) } else { key.as_bytes().to_vec() };
    if !key.starts_with(prefix.as_bytes()) {
        return Err("the listing has a key that was not asked for");
    }
    let size = object.size().and_then(|size| u64::try_from(size).ok());
    Ok(Listed {
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

/// How far a listing has come; refuses one that does not advance.
#[derive(Default)]
pub struct Progress {
    token: Option<String>,
    first_key: Option<String>,
}

impl Progress {
    /// Returns where the next page begins.
    pub fn token(&self) -> Option<String> {
        self.token.clone()
    }

    /// Takes note of a page. Returns whether another one follows.
    pub fn advance(&mut self, page: &ListObjectsV2Output) -> Result<bool, &'static str> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn listed(key: &[u8], seconds: i64) -> Listed {
        let modified = FileTime { seconds, nanoseconds: 0 };
        Listed { key: key.to_vec(), size: 1, etag: Some(seconds.to_string()), modified, storage_class: None }
    }

    fn drain(window: &mut Window) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| window.next()).map(|listed| listed.key).collect()
    }

    #[test]
    fn keys_are_decoded_whatever_way_a_space_is_written() {
        assert_eq!(decoded("a%20b+c%2Bd"), b"a b c+d");
        assert_eq!(decoded("%2541/%C3%A9/%01//"), "%41/é/\u{1}//".as_bytes());
        assert_eq!(decoded("100%"), b"100%");
    }

    #[test]
    fn an_order_that_is_wrong_within_the_window_is_put_right_and_beyond_it_is_an_error() {
        let mut window = Window::default();
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
        let mut window = Window::default();
        for listed in [listed(b"k", 5), listed(b"k", 5), listed(b"m", 7), listed(b"m", 6)] {
            window.take_in(listed).unwrap();
        }
        assert_eq!(window.next().unwrap(), listed(b"k", 5));
        let doubtful = window.next().unwrap();
        assert_eq!((doubtful.modified.seconds, doubtful.etag), (7, None));
        assert!(window.next().is_none());
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
