//! Further facts of an entry: pairs of a key and bytes, which a reader that does not know a key passes over.
//!
//! What must stay true: keys ascend and each stands once; a key never changes its meaning (`docs/format.md` lists them).

/// The facts of one entry, ascending by key.
pub type Attributes = Vec<(u16, Vec<u8>)>;

/// ETag of an object, without its quotes; never a weak one.
pub const ETAG: u16 = 1;
/// Version of an object in a bucket that keeps versions.
pub const VERSION_ID: u16 = 2;
/// Storage class of an object, where it is not `STANDARD`.
pub const STORAGE_CLASS: u16 = 3;
/// Header `Content-Type` of an object.
pub const CONTENT_TYPE: u16 = 4;
/// Header `Content-Encoding`.
pub const CONTENT_ENCODING: u16 = 5;
/// Header `Cache-Control`.
pub const CACHE_CONTROL: u16 = 6;
/// Header `Content-Disposition`.
pub const CONTENT_DISPOSITION: u16 = 7;
/// Header `Content-Language`.
pub const CONTENT_LANGUAGE: u16 = 8;
/// User metadata of an object: a JSON object of strings.
pub const USER_METADATA: u16 = 9;
/// Tags of an object: a JSON object of strings.
pub const TAGS: u16 = 10;
/// Extended attributes of a file, directory or symlink ([`crate::format::xattrs`]). An entry that has it was asked for them,
/// also if they are none.
pub const XATTRS: u16 = 11;

/// Returns the value of a key.
pub fn get(attributes: &[(u16, Vec<u8>)], key: u16) -> Option<&[u8]> {
    attributes.iter().find(|(known, _)| *known == key).map(|(_, value)| value.as_slice())
}

/// Sets the value of a key, keeping the order.
pub fn set(attributes: &mut Attributes, key: u16, value: Vec<u8>) {
    match attributes.binary_search_by_key(&key, |(known, _)| *known) {
        Ok(at) => attributes[at].1 = value,
        Err(at) => attributes.insert(at, (key, value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_keep_their_order_whatever_the_order_of_setting() {
        let mut attributes = Attributes::new();
        for (key, value) in [(TAGS, "t"), (ETAG, "e"), (CONTENT_TYPE, "c"), (ETAG, "f")] {
            set(&mut attributes, key, value.into());
        }
        assert_eq!(attributes, [(ETAG, b"f".to_vec()), (CONTENT_TYPE, b"c".to_vec()), (TAGS, b"t".to_vec())]);
        assert_eq!(get(&attributes, ETAG), Some(&b"f"[..]));
        assert_eq!(get(&attributes, VERSION_ID), None);
    }
}
