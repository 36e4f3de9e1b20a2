//! What a listing says of an object.

use crate::format::tree::FileTime;

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
