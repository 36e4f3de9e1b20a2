//! Where a component is read from.
//!
//! What must stay true: items come in byte order of their paths (a directory's path ends in `/`), each path once;
//! what cannot be read is told as [`Found::Unreadable`] and the walk goes on.

pub mod bucket;
pub mod command;
pub mod deployment;
pub mod directory;
pub mod filter;
pub mod inventory;
pub mod spool;
pub mod stream;

use std::io::{self, Read};
use std::path::PathBuf;

use crate::error::Error;
use crate::format::attributes::Attributes;
use crate::format::tree::Metadata;

/// Something that a walk came across.
#[derive(Debug)]
pub enum Found {
    /// Something to store.
    Item(Item),
    /// Something that should be stored and cannot be: the snapshot will be incomplete.
    Unreadable {
        /// Its path in the tree.
        item: Vec<u8>,
        /// Where.
        path: String,
        /// Why.
        message: String,
    },
    /// Something that has no content to store: a socket, a device, a named pipe.
    Skipped {
        /// Its path in the tree.
        item: Vec<u8>,
        /// Where.
        path: String,
        /// What it is.
        message: String,
    },
    /// Something that is not to be stored, and is not looked into.
    LeftOut {
        /// Its path in the tree.
        item: Vec<u8>,
        /// Where.
        path: String,
        /// Why.
        reason: String,
    },
    /// The walk cannot go on, and what is missing is not known: the backup fails.
    Failed(Error),
}

/// A file, directory or symlink of a source.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its path in the tree.
    pub path: Vec<u8>,
    /// What the source tells of it.
    pub metadata: Metadata,
    /// What it is.
    pub kind: ItemKind,
    /// Where the source finds it.
    pub location: PathBuf,
}

/// What an item is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemKind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Its length in bytes when it was found.
        size: u64,
        /// Whether it has holes.
        sparse: bool,
        /// Whether it may have other names.
        linked: bool,
    },
    /// An object in a bucket, which becomes a file.
    Object {
        /// Its length in bytes when it was listed.
        size: u64,
        /// Its ETag: if that, size and time are what they were, it is unchanged. Without one it is read again.
        etag: Option<String>,
        /// Its storage class, where the listing tells it.
        storage_class: Option<String>,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: Vec<u8>,
    },
}

impl Item {
    /// Returns the length of a file or object; other kinds have none.
    pub fn size(&self) -> Option<u64> {
        match self.kind {
            ItemKind::File { size, .. } | ItemKind::Object { size, .. } => Some(size),
            ItemKind::Directory | ItemKind::Symlink { .. } => None,
        }
    }
}

/// What a source says, inside an [`io::Error`], when the cause is more than one file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Interruption {
    /// What was read so far is no version of the file: it is to be opened anew.
    #[error("it changed while it was read")]
    Changed,
    /// The whole source is out of reach: the backup cannot go on.
    #[error(transparent)]
    Lost(Error),
}

impl From<Interruption> for io::Error {
    fn from(interruption: Interruption) -> Self {
        Self::other(interruption)
    }
}

/// An open file of a source.
pub trait Content: Read + Send {
    /// Returns its metadata when it was opened.
    fn metadata(&self) -> Metadata;
    /// Returns its length in bytes when it was opened, as far as the source knows it. `None` for streams.
    fn size(&self) -> Option<u64>;
    /// Returns what is to be stored of it beside content and metadata.
    fn attributes(&self) -> Attributes {
        Attributes::new()
    }
    /// Called at the end: returns what happened while it was read, if it is not what it was.
    fn finish(self: Box<Self>) -> io::Result<Option<String>>;
}

/// Lists and opens what is to be backed up.
pub trait Source: Send + Sync {
    /// Returns whether a walk tells how much there is, and costs so little that it may be taken once more for that.
    fn is_cheap_to_walk(&self) -> bool {
        true
    }
    /// Returns whether everything that stands beside the topmost entries would be walked, too.
    fn covers_top(&self) -> bool {
        true
    }
    /// Walks from the beginning.
    fn walk(&self) -> Box<dyn Iterator<Item = Found> + Send + '_>;
    /// Returns what is to be stored of something beside content and metadata, as far as it need not be opened for that.
    fn attributes(&self, _: &Item) -> io::Result<Attributes> {
        Ok(Attributes::new())
    }
    /// Hears of a file that will be opened soon, so that a slow source can begin with it.
    fn expect(&self, _: &Item) {}
    /// Opens a file that the walk found.
    fn open(&self, item: &Item) -> io::Result<Box<dyn Content + '_>>;
}
