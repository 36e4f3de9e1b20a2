//! Files that mlvault itself wrote to be stored, such as the catalogue.
//!
//! What must stay true: nothing of the scratch directory but names and contents is stored, so that equal contents make
//! equal trees.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::error::Result;
use crate::format::tree::Metadata;
use crate::source::directory::DirectorySource;
use crate::source::{Content, Found, Item, Source};

/// Permissions that restored files get.
const NEUTRAL: Metadata = Metadata {
    mode: 0o600,
    uid: 0,
    gid: 0,
    mtime: crate::format::tree::FileTime { seconds: 0, nanoseconds: 0 },
    ctime: crate::format::tree::FileTime { seconds: 0, nanoseconds: 0 },
    inode: 0,
    device: 0,
};

/// The content of a directory, without owners, times and inodes.
pub struct SpoolSource(DirectorySource);

impl SpoolSource {
    /// Prepares a walk of what is in a directory.
    pub fn new(directory: &Path) -> Result<Self> {
        DirectorySource::content_of(directory).map(Self)
    }
}

impl Source for SpoolSource {
    fn walk(&self) -> Box<dyn Iterator<Item = Found> + Send + '_> {
        Box::new(self.0.walk().map(|found| match found {
            Found::Item(item) => {
                let mode = if item.path.ends_with(b"/") { 0o700 } else { NEUTRAL.mode };
                Found::Item(Item { metadata: Metadata { mode, ..NEUTRAL }, ..item })
            }
            other => other,
        }))
    }

    fn open(&self, item: &Item) -> io::Result<Box<dyn Content + '_>> {
        let file = File::open(&item.location)?;
        let size = file.metadata()?.len();
        Ok(Box::new(Spooled { file, size }))
    }
}

struct Spooled {
    file: File,
    size: u64,
}

impl Read for Spooled {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl Content for Spooled {
    fn metadata(&self) -> Metadata {
        NEUTRAL
    }

    fn size(&self) -> Option<u64> {
        Some(self.size)
    }

    fn finish(self: Box<Self>) -> io::Result<Option<String>> {
        Ok(None)
    }
}
