//! A file of this machine that remembers something of a repository.
//!
//! What must stay true: it is sealed with the repository's secret and bound to its kind, so that nobody without a key can
//! forge one; it is replaced in one step; and it can be lost at any time, so nothing may rest on its being there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::object::{self, BODY_LEN_MAX, ObjectKind};
use crate::repository::Repository;

/// Where a memory lies, and what it is.
#[derive(Debug, Clone)]
pub struct MemoryFile {
    path: PathBuf,
    kind: ObjectKind,
    /// Name that the envelope is bound to.
    name: &'static str,
}

impl MemoryFile {
    /// Returns the file of a repository in its cache directory; none if the cache does not stay.
    pub fn in_cache(repository: &Repository, kind: ObjectKind, name: &'static str) -> Option<Self> {
        let root = repository.index().directory()?;
        Some(Self::at(root.join(format!("{}.{name}", repository.id())), kind, name))
    }

    /// Returns a file anywhere.
    pub fn at(path: PathBuf, kind: ObjectKind, name: &'static str) -> Self {
        Self { path, kind, name }
    }

    /// Returns where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether there is a file, and nothing in it.
    pub fn is_empty(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0)
    }

    /// Reads the body; nothing if there is no file.
    pub fn read(&self, repository: &Repository) -> Result<Option<Vec<u8>>> {
        let failed = |source| Error::source("read", self.path.clone(), source);
        match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // A file that a user names can be anything.
            Ok(metadata) if metadata.len() > 2 * BODY_LEN_MAX as u64 => {
                return Err(Error::damaged(self.path.display().to_string(), "it is too large"));
            }
            other => other.map_err(failed)?,
        };
        let bytes = fs::read(&self.path).map_err(failed)?;
        object::open(repository.keys(), repository.id(), self.kind, self.name, &bytes)
            .map(Some)
            .map_err(|error| Error::damaged(self.path.display().to_string(), error))
    }

    /// Writes a body in one step.
    pub fn write(&self, repository: &Repository, body: &[u8]) -> Result<()> {
        let bytes = object::seal(repository.keys(), repository.id(), self.kind, self.name, body);
        // Two processes may write at the same time: the last one counts, and neither sees half of the other's.
        let fresh = self.path.with_extension(format!("{}.{}", self.name, std::process::id()));
        let directory = self.path.parent().map_or(Ok(()), fs::create_dir_all);
        let written = directory.and_then(|()| fs::write(&fresh, bytes)).and_then(|()| fs::rename(&fresh, &self.path));
        written.map_err(|source| {
            let _ = fs::remove_file(&fresh);
            Error::target("write", self.path.clone(), source)
        })
    }
}
