//! Where a component is read from.
//!
//! What must stay true: items come in byte order of their paths (a directory's path ends in `/`), each path once;
//! what cannot be read is told as [`Found::Unreadable`] and the walk goes on.

pub mod command;
pub mod directory;
pub mod stream;

use std::io::{self, Read};
use std::path::PathBuf;

use crate::format::tree::Metadata;

/// Something that a walk came across.
#[derive(Debug)]
pub enum Found {
    /// Something to store.
    Item(Item),
    /// Something that should be stored and cannot be: the snapshot will be incomplete.
    Unreadable {
        /// Where.
        path: String,
        /// Why.
        message: String,
    },
    /// Something that has no content to store: a socket, a device, a named pipe.
    Skipped {
        /// Where.
        path: String,
        /// What it is.
        message: String,
    },
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
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: Vec<u8>,
    },
}

/// An open file of a source.
pub trait Content: Read + Send {
    /// Returns its metadata when it was opened.
    fn metadata(&self) -> Metadata;
    /// Returns its length in bytes when it was opened; not more than this is read. `None` for streams.
    fn size(&self) -> Option<u64>;
    /// Called at the end: returns what happened while it was read, if it is not what it was.
    fn finish(self: Box<Self>) -> io::Result<Option<String>>;
}

/// Lists and opens what is to be backed up.
pub trait Source: Send + Sync {
    /// Walks from the beginning.
    fn walk(&self) -> Box<dyn Iterator<Item = Found> + Send + '_>;
    /// Opens a file that the walk found.
    fn open(&self, item: &Item) -> io::Result<Box<dyn Content + '_>>;
    /// Returns whether a walk tells how much there is to read.
    fn has_sizes(&self) -> bool {
        true
    }
}
