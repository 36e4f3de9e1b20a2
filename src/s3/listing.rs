//! Lists a part of a bucket: page by page, as the server has it, or in byte order of the keys, each key once.
//!
//! What must stay true:
//! - There is one loop over pages, in [`Pages`]; it ends, whatever the server says.
//! - Memory does not grow with the bucket: what does not fit into it is put into order in a scratch file.
//! - What [`Objects`] gives ascends strictly, in whatever order the server lists.
//! - What is listed of a range is all of it, also where the server lists in another order than that of the bytes.
//! - Keys are what the server has, byte for byte: they are asked for in encoded form, because XML cannot hold all of them.

use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::{EncodingType, Object};
use percent_encoding::percent_decode_str;

use crate::error::{Error, Fault, Result};
use crate::page_tokens::PageTokens;
use crate::path_range::PathRange;
use crate::s3::bucket::Bucket;
use crate::s3::headers::{file_time, strong_etag};
use crate::s3::interruption::Kind;
use crate::s3::listed::ListedObject;
use crate::s3::sorted::SortedObjects;

/// Pages of up to 1,000 keys that one listing may have: 10⁸ objects.
const LIST_PAGES_MAX: usize = 100_000;
/// Most objects that one answer lists.
const LIST_PAGE_KEYS_MAX: usize = 1000;

/// What one page of a listing is asked for by.
#[derive(Default)]
struct Asked<'a> {
    prefix: &'a str,
    token: Option<String>,
    keys_max: Option<i32>,
    /// Where the server is to begin.
    after: Option<String>,
    /// What ends the names that are listed together.
    delimiter: Option<&'static str>,
}

impl Bucket {
    /// Lists what begins with a prefix, in byte order of the keys. Only the end of a listing tells what is first: so all of
    /// it is taken in when the first object is asked for.
    pub fn objects(&self, prefix: &str) -> Objects {
        self.objects_within(prefix, PathRange::default())
    }

    /// Lists what begins with a prefix and is in a range, in byte order of the keys. Asks for no more than that, as long as
    /// the server lists in byte order; if it does not, all is listed, and what is outside is passed over.
    pub fn objects_within(&self, prefix: &str, range: PathRange) -> Objects {
        // A key that is not UTF-8 cannot be asked for.
        let after = range.after.as_ref().and_then(|after| String::from_utf8(after.clone()).ok());
        let pages = Pages { after, ..self.pages(prefix) };
        Objects { pages, range, sorted: SortedObjects::default(), has_ended: false }
    }

    /// Lists what begins with a prefix page by page, in whatever order the server has. An object may come twice.
    pub fn pages(&self, prefix: &str) -> Pages {
        let (bucket, prefix) = (self.clone(), prefix.to_owned());
        Pages { bucket, progress: Progress::new(prefix), after: None }
    }

    /// Returns whether the keys up to this one, which begins with a prefix, are the same in byte order and directory by
    /// directory. They are not if beside a directory `m` of the key there is `m-old`, or beside its `m-old` a directory `m`.
    pub fn divides(&self, prefix: &str, path: &str) -> Result<bool> {
        let mut directory = prefix.to_owned();
        let mut names = path.split('/').peekable();
        while let Some(name) = names.next() {
            for (at, _) in name.char_indices().filter(|(at, character)| *at > 0 && *character < '/') {
                if !self.first_objects(&format!("{directory}{}/", &name[..at]), 1)?.is_empty() {
                    return Ok(false);
                }
            }
            let place = format!("{directory}{name}");
            if names.peek().is_some() && !name.is_empty() && self.has_name_before_directory(&place)? {
                return Ok(false);
            }
            directory = place + "/";
        }
        Ok(true)
    }

    /// Returns whether there is `m-old` or the like beside a directory `m`.
    fn has_name_before_directory(&self, directory: &str) -> Result<bool> {
        let mut progress = Progress::new(directory.to_owned());
        while progress.has_more {
            let (prefix, token) = (directory, progress.token.clone());
            let page = self.list_page(Asked { prefix, token, delimiter: Some("/"), ..Asked::default() })?;
            progress.advance(&page).map_err(|reason| self.bad_listing(directory, reason))?;
            let is_encoded = page.encoding_type() == Some(&EncodingType::Url);
            let folders = page.common_prefixes().iter().filter_map(|folder| folder.prefix());
            let mut names = page.contents().iter().filter_map(|object| object.key()).chain(folders);
            let comes_before = |name: &str| {
                let name = if is_encoded { decoded(name) } else { name.as_bytes().to_vec() };
                name.get(directory.len()).is_some_and(|next| *next < b'/')
            };
            if names.any(comes_before) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns what a server lists first of a prefix, at most `limit` objects and a thousand, with one request.
    pub fn first_objects(&self, prefix: &str, limit: usize) -> Result<Vec<ListedObject>> {
        let keys_max = Some(limit.min(LIST_PAGE_KEYS_MAX) as i32);
        let page = self.list_page(Asked { prefix, keys_max, ..Asked::default() })?;
        objects_of(&page, prefix).map_err(|reason| self.bad_listing(prefix, reason))
    }

    /// Returns what a listing says of one object, or `None` if there is none.
    pub fn find(&self, key: &str) -> Result<Option<ListedObject>> {
        let objects = self.first_objects(key, LIST_PAGE_KEYS_MAX)?;
        Ok(objects.into_iter().find(|listed| listed.key == key.as_bytes()))
    }

    fn list_page(&self, asked: Asked<'_>) -> Result<ListObjectsV2Output> {
        let Asked { prefix, token, keys_max, after, delimiter } = asked;
        let request = self.client().list_objects_v2().bucket(self.name()).prefix(prefix).set_max_keys(keys_max);
        let request = request.encoding_type(EncodingType::Url).set_continuation_token(token);
        let request = request.set_start_after(after).set_delimiter(delimiter.map(str::to_owned));
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
    /// Where the first page begins.
    after: Option<String>,
}

impl Pages {
    fn next_page(&mut self) -> Result<Vec<ListedObject>> {
        let (prefix, token, after) = (&self.progress.prefix, self.progress.token.clone(), self.after.clone());
        let page = self.bucket.list_page(Asked { prefix, token, after, ..Asked::default() })?;
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
    range: PathRange,
    sorted: SortedObjects,
    has_ended: bool,
}

impl Objects {
    fn take_first(&mut self) -> Result<Option<ListedObject>> {
        if self.pages.progress.has_more {
            if !self.list(self.range != PathRange::default())? {
                self.pages = self.pages.bucket.pages(&self.pages.progress.prefix);
                self.sorted = SortedObjects::default();
                self.list(false)?;
            }
            self.pages.progress.has_more = false;
            self.sorted.sort()?;
        }
        self.sorted.take_first()
    }

    /// Takes in what is in the range. If the server is trusted to list in byte order, this ends where the range ends.
    /// Returns whether it did list in byte order, where that matters.
    fn list(&mut self, is_trusted: bool) -> Result<bool> {
        let mut last = Vec::new();
        for page in self.pages.by_ref() {
            for listed in page? {
                if is_trusted && listed.key < last {
                    return Ok(false);
                }
                if is_trusted && self.range.is_beyond(&listed.key) {
                    return Ok(true);
                }
                if is_trusted {
                    last.clone_from(&listed.key);
                }
                if self.range.contains(&listed.key) {
                    self.sorted.take_in(listed)?;
                }
            }
        }
        Ok(true)
    }
}

impl Iterator for Objects {
    type Item = Result<ListedObject>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_ended {
            return None;
        }
        let next = self.take_first().transpose();
        self.has_ended = !matches!(next, Some(Ok(_)));
        next
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

    #[test]
    fn keys_are_decoded_whatever_way_a_space_is_written() {
        assert_eq!(decoded("a%20b+c%2Bd"), b"a b c+d");
        assert_eq!(decoded("%2541/%C3%A9/%01//"), "%41/é/\u{1}//".as_bytes());
        assert_eq!(decoded("100%"), b"100%");
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
