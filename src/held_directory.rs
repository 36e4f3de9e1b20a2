//! Directories that are held open, and the way down from them.
//!
//! What must stay true: below the first directory no symlink is ever followed, not even one that takes a directory's place
//! while somebody is on the way. Each step is taken relative to the handle of the step before: one call with a whole path
//! would follow symlinks in its middle, whatever its flags say of its end.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::sync::lock;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Opens the directory that a user named. The one step that follows symlinks: this path is the user's word.
pub fn open_named(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, DIRECTORY, Mode::empty())?)
}

/// Opens a directory in another one.
pub fn step_down(directory: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    match rustix::fs::openat(directory, name, DIRECTORY.union(OFlags::NOFOLLOW), Mode::empty()) {
        Err(Errno::LOOP | Errno::NOTDIR) => {
            let what = format!("{name:?} is not a directory; a symlink is not followed");
            Err(io::Error::new(io::ErrorKind::NotADirectory, what))
        }
        opened => Ok(opened?),
    }
}

/// Splits a relative path into the directory that it is in and its last part.
pub fn split_name(path: &[u8]) -> (&[u8], &OsStr) {
    let at = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    (&path[..at.saturating_sub(1)], OsStr::from_bytes(&path[at..]))
}

/// Remembers the directory that was gone down to last: what is done next is mostly done beside it.
#[derive(Debug, Default)]
pub struct LastDirectory(Mutex<Option<(Vec<u8>, Arc<OwnedFd>)>>);

impl LastDirectory {
    /// Returns the directory of a key, which `open` opens unless it is the last one.
    pub fn get(&self, key: &[u8], open: impl FnOnce() -> io::Result<Arc<OwnedFd>>) -> io::Result<Arc<OwnedFd>> {
        if let Some((_, directory)) = lock(&self.0).as_ref().filter(|(known, _)| known == key) {
            return Ok(Arc::clone(directory));
        }
        // Without the lock: opening takes time, and others have their own directories to open.
        let directory = open()?;
        *lock(&self.0) = Some((key.to_vec(), Arc::clone(&directory)));
        Ok(directory)
    }

    /// Forgets it, because it may be gone.
    pub fn forget(&self) {
        *lock(&self.0) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symlink_is_no_step_down() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", directory.path().join("link")).unwrap();
        let held = open_named(directory.path()).unwrap();
        step_down(&held, OsStr::new("real")).unwrap();
        let refused = step_down(&held, OsStr::new("link")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::NotADirectory);
    }

    #[test]
    fn names_are_split_from_the_directories_that_they_are_in() {
        let split = |path: &'static str| {
            let (directory, name) = split_name(path.as_bytes());
            (std::str::from_utf8(directory).unwrap(), name.to_str().unwrap())
        };
        assert_eq!(split("a"), ("", "a"));
        assert_eq!(split("a/b"), ("a", "b"));
        assert_eq!(split("a/b/c"), ("a/b", "c"));
    }
}
