//! The content of one file, while others may write to it.
//!
//! What must stay true: reading ends, also of a log that grows as fast as it is read; what changed meanwhile is said.

use std::fs::File;
use std::io::{self, Read};

use rustix::fs::Stat;

use super::{len_of, metadata};
use crate::format::tree::Metadata;
use crate::source::Content;

/// A file, as long as it was when it was opened.
pub(super) struct OpenFile {
    file: File,
    opened: Stat,
    remaining: u64,
    /// Whether there is content behind the length that it was said to have.
    is_longer_than_it_says: bool,
}

impl Read for OpenFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.remaining == 0 && !self.is_longer_than_it_says {
            return self.read_behind_end(buffer);
        }
        // No further than it was long when it was opened: a log that grows as fast as it is read must end.
        let max = if self.is_longer_than_it_says { u64::MAX } else { self.remaining };
        let len = buffer.len().min(usize::try_from(max).unwrap_or(usize::MAX));
        let read = self.file.read(&mut buffer[..len])?;
        self.remaining = self.remaining.saturating_sub(read as u64);
        Ok(read)
    }
}

impl OpenFile {
    /// Begins to read a file, of which `opened` says what it is.
    pub(super) fn new(file: File, opened: Stat) -> Self {
        Self { remaining: len_of(&opened), opened, file, is_longer_than_it_says: false }
    }

    /// Reads on where a file should end. What has not grown, and goes on all the same, has a length that means nothing: in
    /// `/proc`, and in some file systems of FUSE, lengths are 0.
    fn read_behind_end(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        if read == 0 || rustix::fs::fstat(&self.file)?.st_size != self.opened.st_size {
            return Ok(0);
        }
        self.is_longer_than_it_says = true;
        Ok(read)
    }
}

impl Content for OpenFile {
    fn metadata(&self) -> Metadata {
        metadata(&self.opened)
    }

    fn size(&self) -> Option<u64> {
        Some(len_of(&self.opened))
    }

    fn finish(self: Box<Self>) -> io::Result<Option<String>> {
        // Asked of the open file, not of its path, which may be another file by now.
        let now = rustix::fs::fstat(&self.file)?;
        let version = |found: &Stat| (found.st_size, found.st_mtime, found.st_mtime_nsec);
        let changed = self.remaining > 0 || version(&self.opened) != version(&now);
        Ok(changed.then(|| "it changed while it was read".to_owned()))
    }
}
