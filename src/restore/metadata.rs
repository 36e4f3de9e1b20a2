//! What restored files, directories and symlinks get beside their content.
//!
//! What must stay true: a directory gets it once everything below is done, so that nothing touches it afterwards; an
//! extended attribute that cannot be set is named, and costs nothing else.

use std::fs::File;

use crate::error::Result;
use crate::format::tree::{Entry, EntryKind};
use crate::restore::DirectoryRestore;
use crate::target::directory::Looks;
use crate::target::xattrs::Refusal;

impl DirectoryRestore<'_> {
    /// Sets the metadata of what is at the entry's path.
    pub(super) fn set_metadata(&self, entry: &Entry) -> Result<()> {
        let is_symlink = matches!(entry.kind, EntryKind::Symlink { .. });
        self.set(entry, |looks| self.target.set_metadata(&entry.path, looks, is_symlink))
    }

    /// Sets the metadata of an open file.
    pub(super) fn set_file_metadata(&self, entry: &Entry, file: &File) -> Result<()> {
        self.set(entry, |looks| self.target.set_file_metadata(&entry.path, file, looks))
    }

    fn set(&self, entry: &Entry, set: impl FnOnce(&Looks<'_>) -> Result<Vec<Refusal>>) -> Result<()> {
        let xattrs = if self.options.xattrs { entry.xattrs() } else { None };
        let looks = Looks { metadata: &entry.metadata, ownership: self.options.ownership, xattrs: xattrs.as_ref() };
        set(&looks)?.iter().for_each(|refusal| self.problem(entry, &refusal.to_string()));
        Ok(())
    }

    /// Sets each directory's metadata once everything below it is done.
    pub(super) fn restore_directory_metadata(&self) -> Result<()> {
        let mut open: Vec<Entry> = Vec::new();
        for entry in self.restorable_entries()? {
            let entry = entry?;
            while let Some(directory) = open.pop_if(|directory| !entry.path.starts_with(&directory.path)) {
                self.close_directory(&directory);
            }
            if entry.kind == EntryKind::Directory {
                open.push(entry);
            }
        }
        open.iter().rev().for_each(|directory| self.close_directory(directory));
        Ok(())
    }

    fn close_directory(&self, directory: &Entry) {
        if let Err(error) = self.set_metadata(directory) {
            self.problem(directory, &error.to_string());
        }
    }
}
