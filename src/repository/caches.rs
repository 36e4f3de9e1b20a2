//! The index caches of this machine: what there is, and what nobody has used for long.
//!
//! What must stay true: only what [`crate::repository::index_sync`] made is listed and removed, told by its name; no cache
//! that a process has open is removed. What the cache directory remembers beside it (pins, histories) stays: it is what
//! notices that somebody put another repository, or an older state of one, in its place.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, fcntl_lock};

use crate::error::{Error, Result};
use crate::id::RepositoryId;

/// The file of a database that a process which has it open holds a lock on.
const LOCK: &str = "LOCK";

/// A cache.
#[derive(Debug, Clone)]
pub struct Cache {
    /// Of which repository.
    pub repository: RepositoryId,
    /// Its directory.
    pub path: PathBuf,
    /// What it takes, in bytes.
    pub bytes: u64,
    /// When it was last opened or written.
    pub used: Timestamp,
    /// Whether a process has it open.
    pub in_use: bool,
}

/// Lists the caches below a cache directory, the last used ones first. Where there is no directory, there are none.
pub fn list(root: &Path) -> Result<Vec<Cache>> {
    let failed = |source| Error::source("list", root.to_owned(), source);
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut caches = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let is_directory = entry.file_type().map_err(failed)?.is_dir();
        let Some(repository) = entry.file_name().to_str().and_then(repository_of).filter(|_| is_directory) else {
            continue;
        };
        caches.extend(look(repository, entry.path())?);
    }
    caches.sort_by(|left, right| (right.used, &left.path).cmp(&(left.used, &right.path)));
    Ok(caches)
}

/// Removes a cache, unless a process has it open. Returns whether it did.
pub fn remove(cache: &Cache) -> Result<bool> {
    let failed = |source| Error::target("remove", cache.path.clone(), source);
    // Held until all is gone: who opens the cache meanwhile finds it busy, and takes another one.
    let lock = match OpenOptions::new().read(true).write(true).open(cache.path.join(LOCK)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        lock => Some(lock.map_err(failed)?),
    };
    if lock.as_ref().is_some_and(is_held) {
        return Ok(false);
    }
    match fs::remove_dir_all(&cache.path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        removed => removed.map(|()| true).map_err(failed),
    }
}

/// Returns the repository that a cache directory's name, `ID-NUMBER`, tells.
fn repository_of(name: &str) -> Option<RepositoryId> {
    let (repository, number) = name.rsplit_once('-')?;
    number.parse::<usize>().ok()?;
    repository.parse().ok()
}

/// Returns what there is of one cache; nothing if it went meanwhile.
fn look(repository: RepositoryId, path: PathBuf) -> Result<Option<Cache>> {
    let failed = |source| Error::source("look at", path.clone(), source);
    let entries = match fs::read_dir(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries.map_err(failed)?,
    };
    let (mut bytes, mut used) = (0, Timestamp::UNIX_EPOCH);
    for entry in entries {
        // A process that has it open removes files at any time.
        let Ok(metadata) = entry.and_then(|entry| entry.metadata()) else { continue };
        bytes += metadata.len();
        let modified = metadata.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
        used = used.max(modified.unwrap_or(used));
    }
    let in_use = OpenOptions::new().read(true).write(true).open(path.join(LOCK)).is_ok_and(|lock| is_held(&lock));
    Ok(Some(Cache { repository, path, bytes, used, in_use }))
}

/// Returns whether another process holds the lock; if not, this one does until the file is closed.
fn is_held(lock: &File) -> bool {
    fcntl_lock(lock, FlockOperation::NonBlockingLockExclusive).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_like_a_cache_is_one() {
        let root = tempfile::tempdir().unwrap();
        let id = "0123456789abcdef0123456789abcdef";
        for name in [format!("{id}-0"), format!("{id}-x"), format!("x{id}-0"), "pins".to_owned(), "0-0".to_owned()] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        fs::write(root.path().join(format!("{id}.history")), "x").unwrap();
        fs::write(root.path().join(format!("{id}-1")), "a file").unwrap();
        fs::write(root.path().join(format!("{id}-0/CURRENT")), "content").unwrap();
        let found = list(root.path()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].repository.to_string().as_str(), found[0].bytes, found[0].in_use), (id, 7, false));
        assert!(remove(&found[0]).unwrap() && list(root.path()).unwrap().is_empty());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 6);
        assert!(list(&root.path().join("nowhere")).unwrap().is_empty());
    }
}
