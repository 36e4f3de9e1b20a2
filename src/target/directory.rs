//! A directory of this machine as the target of a restore.
//!
//! What must stay true: nothing outside the directory is ever created, changed or removed. Paths come from a repository
//! and are not trusted ([`parts`]); every step down is taken with `O_NOFOLLOW` relative to the step before, so that a
//! symlink, planted by a snapshot or already there, is never walked through.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::format::tree::{FileTime, Metadata};
use crate::held_directory::{self, LastDirectory};
use crate::target::xattrs::{self, Refusal};
use crate::xattrs::{Place, Xattrs};

/// Unit in which `stat` counts what a file takes on the disk, whatever the file system's own blocks are.
const STAT_BLOCK_BYTES: u64 = 512;
/// Longest name of one path component in bytes.
const NAME_LEN_MAX: usize = 255;

/// Splits a stored path (without a directory's trailing `/`) into its components.
///
/// Refuses what could leave the target or cannot be a file name: absolute paths, `.`, `..`, empty or overlong
/// components, NUL.
pub fn parts(path: &[u8]) -> Result<Vec<&OsStr>, &'static str> {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    path.split(|byte| *byte == b'/')
        .map(|part| match part {
            b"" => Err("it has an empty component"),
            b"." | b".." => Err("it has a component . or .."),
            _ if part.len() > NAME_LEN_MAX => Err("it has a component of more than 255 bytes"),
            _ if part.contains(&0) => Err("it holds a NUL byte"),
            _ => Ok(OsStr::from_bytes(part)),
        })
        .collect()
}

/// A path below a target, as the tree writes it: that of a directory ends in `/`.
pub type PathInTarget = Vec<u8>;

/// What is at a path.
#[derive(Debug, Clone, Copy)]
pub struct Existing {
    /// Its type.
    pub kind: ExistingKind,
    /// Length in bytes.
    pub size: u64,
    /// Bytes that it takes on the disk.
    pub stored_bytes: u64,
    /// Time of the last change of its content.
    pub mtime: FileTime,
    /// How many names it has.
    pub links: u64,
    /// Which file it is: device and inode.
    pub identity: (u64, u64),
}

/// The type of something that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExistingKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symlink.
    Symlink,
    /// Anything else.
    Other,
}

/// What something restored gets beside its content.
#[derive(Debug, Clone, Copy)]
pub struct Looks<'a> {
    /// Permissions and times, owner and group.
    pub metadata: &'a Metadata,
    /// Whether owner and group are set, and what means something only together with them.
    pub ownership: bool,
    /// The extended attributes that it has in the end, if they are set at all.
    pub xattrs: Option<&'a Xattrs>,
}

/// A directory that is restored into.
pub struct DirectoryTarget {
    root_path: PathBuf,
    root: Option<Arc<OwnedFd>>,
    last_parent: LastDirectory,
}

impl DirectoryTarget {
    /// Opens the directory, creating it (and its parents) if it is not there. The path itself may be a symlink.
    pub fn create(path: &Path) -> Result<Self> {
        let fault = |action| move |source| Error::target(action, path.to_owned(), source);
        std::fs::create_dir_all(path).map_err(fault("create"))?;
        Self::open(path)
    }

    /// Opens a directory that must be there.
    pub fn open(path: &Path) -> Result<Self> {
        // Held open from here on, so that the directory cannot be exchanged under the restore.
        let root = held_directory::open_named(path).map_err(|error| Error::target("open", path.to_owned(), error))?;
        Ok(Self { root: Some(Arc::new(root)), ..Self::nowhere(path) })
    }

    /// Stands for a directory that is not there: everything looks absent. For dry runs, which write nothing.
    pub fn nowhere(path: &Path) -> Self {
        Self { root_path: path.to_owned(), root: None, last_parent: LastDirectory::default() }
    }

    /// Returns where a stored path comes to stand, for messages.
    pub fn path_of(&self, path: &[u8]) -> PathBuf {
        self.root_path.join(OsStr::from_bytes(path))
    }

    /// Returns what is at a path.
    pub fn look(&self, path: &[u8]) -> Result<Option<Existing>> {
        let found = self.parent(path, false).and_then(|(parent, name)| {
            rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from)
        });
        match found {
            Ok(found) => Ok(Some(existing(&found))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.fault("look at", path, source)),
        }
    }

    /// Makes a directory that only its owner can enter until [`DirectoryTarget::set_metadata`] says otherwise, and its
    /// parents. One that is there already is fine; if it is ours, we can write in it afterwards.
    pub fn make_directory(&self, path: &[u8]) -> Result<()> {
        let made = self.parent(path, true).and_then(|(parent, name)| {
            make_directory(&parent, name, Mode::RWXU)?;
            give_access(&parent, name, Mode::RWXU).map(drop)
        });
        made.map_err(|source| self.fault("create", path, source))
    }

    /// Opens a file for reading and writing, creating it if it is not there.
    pub fn open_file(&self, path: &[u8]) -> Result<File> {
        // A symlink of this name would lead the writes elsewhere, and a device could keep the open waiting. A new file is its
        // owner's alone until it is whole and its metadata are set.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened =
            self.parent(path, true).and_then(|(parent, name)| open(&parent, name, flags, Mode::RUSR | Mode::WUSR));
        opened.map_err(|source| self.fault("write", path, source))
    }

    /// Opens a file that is there for reading.
    pub fn read_file(&self, path: &[u8]) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = self.parent(path, false).and_then(|(parent, name)| open(&parent, name, flags, Mode::empty()));
        opened.map_err(|source| self.fault("read", path, source))
    }

    /// Makes a symlink; its target is stored text and is never followed here.
    pub fn make_symlink(&self, path: &[u8], target: &[u8]) -> Result<()> {
        let made = self
            .parent(path, true)
            .and_then(|(parent, name)| Ok(rustix::fs::symlinkat(OsStr::from_bytes(target), &parent, name)?));
        made.map_err(|source| self.fault("create", path, source))
    }

    /// Returns where a symlink points.
    pub fn read_symlink(&self, path: &[u8]) -> Result<Vec<u8>> {
        let read = self
            .parent(path, false)
            .and_then(|(parent, name)| Ok(rustix::fs::readlinkat(&parent, name, Vec::new())?.into_bytes()));
        read.map_err(|source| self.fault("read", path, source))
    }

    /// Gives a file a second name.
    pub fn make_hard_link(&self, first: &[u8], path: &[u8]) -> Result<()> {
        let made = self.parent(first, false).and_then(|(old_parent, old_name)| {
            let (parent, name) = self.parent(path, true)?;
            Ok(rustix::fs::linkat(&old_parent, old_name, &parent, name, AtFlags::empty())?)
        });
        made.map_err(|source| self.fault("link", path, source))
    }

    /// Removes a file or a symlink, or, if the path ends in `/`, a directory; returns whether it is gone. A directory that
    /// is not empty stays.
    pub fn remove(&self, path: &[u8]) -> Result<bool> {
        let flags = if path.ends_with(b"/") { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        let removed = self
            .parent(path, false)
            .and_then(|(parent, name)| rustix::fs::unlinkat(&parent, name, flags).map_err(io::Error::from));
        // It may have been the directory that is remembered: what is made next must not go into one that is gone.
        self.last_parent.forget();
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
            result => result.map(|()| true).map_err(|source| self.fault("remove", path, source)),
        }
    }

    /// Sets permissions and modification time, and owner, group and extended attributes if asked. Symlinks get no permissions.
    /// Returns the extended attributes that could not be set.
    pub fn set_metadata(&self, path: &[u8], looks: &Looks<'_>, is_symlink: bool) -> Result<Vec<Refusal>> {
        let Looks { metadata, ownership, xattrs } = *looks;
        let set = self.parent(path, false).and_then(|(parent, name)| {
            // Before the mode and capabilities, because a change of owner clears them.
            if ownership {
                let (uid, gid) = (rustix::fs::Uid::from_raw(metadata.uid), rustix::fs::Gid::from_raw(metadata.gid));
                rustix::fs::chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            let mut refused = Vec::new();
            if let Some(xattrs) = xattrs {
                // The mode may forbid it. An ACL has the mode's group bits within, so nobody has more rights meanwhile.
                give_access(&parent, name, Mode::RUSR | Mode::WUSR)?;
                refused = xattrs::make_equal(&Place::in_directory(&parent, name), xattrs, ownership);
            }
            if !is_symlink {
                rustix::fs::chmodat(&parent, name, mode_of(metadata, ownership), AtFlags::empty())?;
            }
            rustix::fs::utimensat(&parent, name, &times(metadata), AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(refused)
        });
        set.map_err(|source| self.fault("set the metadata of", path, source))
    }

    /// As [`DirectoryTarget::set_metadata`], of an open file.
    pub fn set_file_metadata(&self, path: &[u8], file: &File, looks: &Looks<'_>) -> Result<Vec<Refusal>> {
        let Looks { metadata, ownership, xattrs } = *looks;
        let set = || -> io::Result<Vec<Refusal>> {
            // In the order of `set_metadata`, but of the open file: whatever its name leads to by now stays as it is.
            if ownership {
                let (uid, gid) = (rustix::fs::Uid::from_raw(metadata.uid), rustix::fs::Gid::from_raw(metadata.gid));
                rustix::fs::fchown(file, Some(uid), Some(gid))?;
            }
            let place = Place::open(file);
            let refused = xattrs.map_or_else(Vec::new, |xattrs| xattrs::make_equal(&place, xattrs, ownership));
            rustix::fs::fchmod(file, mode_of(metadata, ownership))?;
            rustix::fs::futimens(file, &times(metadata))?;
            Ok(refused)
        };
        set().map_err(|source| self.fault("set the metadata of", path, source))
    }

    /// Makes an error that names a path of the target.
    pub fn fault(&self, action: &'static str, path: &[u8], source: io::Error) -> Error {
        Error::target(action, self.path_of(path), source)
    }

    /// Opens the directory that a path is in, and returns it with the last component.
    fn parent<'p>(&self, path: &'p [u8], create: bool) -> io::Result<(Arc<OwnedFd>, &'p OsStr)> {
        // Everything that is created, changed or removed comes through here, so nothing gets past this check.
        let parts = parts(path).map_err(|reason| io::Error::new(io::ErrorKind::InvalidInput, reason))?;
        let Some((name, above)) = parts.split_last() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is empty"));
        };
        let key = &path[..path.strip_suffix(b"/").unwrap_or(path).len() - name.len()];
        let directory = self.last_parent.get(key, || {
            let mut directory = self.root.clone().ok_or(io::ErrorKind::NotFound)?;
            for part in above {
                directory = Arc::new(step_down(&directory, part, create)?);
            }
            Ok(directory)
        })?;
        Ok((directory, name))
    }
}

fn step_down(directory: &OwnedFd, name: &OsStr, create: bool) -> io::Result<OwnedFd> {
    match held_directory::step_down(directory, name) {
        Err(error) if create && error.kind() == io::ErrorKind::NotFound => {
            make_directory(directory, name, Mode::from_raw_mode(0o755))?;
            // Opened anew without following: somebody may have exchanged what was just made.
            held_directory::step_down(directory, name)
        }
        opened => opened,
    }
}

/// Opens a file. One of ours that nobody may open is no obstacle: its permissions are the snapshot's in the end.
fn open(parent: &OwnedFd, name: &OsStr, flags: OFlags, mode: Mode) -> io::Result<File> {
    let open = || Ok(File::from(rustix::fs::openat(parent, name, flags, mode)?));
    match open() {
        Err(error) if is_denied(&error) && give_access(parent, name, Mode::RUSR | Mode::WUSR)? => open(),
        opened => opened,
    }
}

fn is_denied(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// Adds permissions of the owner to a file or directory that is ours; returns whether it lacked any.
fn give_access(parent: &OwnedFd, name: &OsStr, wanted: Mode) -> io::Result<bool> {
    let held = rustix::fs::openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let found = rustix::fs::fstat(&held)?;
    let mode = Mode::from_raw_mode(found.st_mode);
    let is_link = FileType::from_raw_mode(found.st_mode) == FileType::Symlink;
    if is_link || found.st_uid != rustix::process::geteuid().as_raw() || mode.contains(wanted) {
        return Ok(false);
    }
    // By the handle: whatever takes the name's place meanwhile keeps its permissions.
    rustix::fs::chmod(format!("/proc/self/fd/{}", held.as_raw_fd()), mode | wanted)?;
    Ok(true)
}

fn make_directory(parent: &OwnedFd, name: &OsStr, mode: Mode) -> io::Result<()> {
    match rustix::fs::mkdirat(parent, name, mode) {
        Err(Errno::EXIST) => {
            let found = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            match FileType::from_raw_mode(found.st_mode) {
                FileType::Directory => Ok(()),
                _ => Err(io::Error::new(io::ErrorKind::AlreadyExists, "something else is in the way")),
            }
        }
        result => Ok(result?),
    }
}

/// Set-user-id and set-group-id bits only mean something together with the owner.
fn mode_of(metadata: &Metadata, ownership: bool) -> Mode {
    Mode::from_raw_mode(metadata.mode & if ownership { 0o7777 } else { 0o1777 })
}

fn times(metadata: &Metadata) -> Timestamps {
    let time = Timespec { tv_sec: metadata.mtime.seconds, tv_nsec: i64::from(metadata.mtime.nanoseconds) };
    Timestamps { last_access: time, last_modification: time }
}

fn existing(found: &Stat) -> Existing {
    let kind = match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => ExistingKind::Directory,
        FileType::RegularFile => ExistingKind::File,
        FileType::Symlink => ExistingKind::Symlink,
        _ => ExistingKind::Other,
    };
    let mtime = FileTime { seconds: found.st_mtime, nanoseconds: found.st_mtime_nsec as u32 };
    Existing {
        kind,
        size: found.st_size.max(0) as u64,
        stored_bytes: (found.st_blocks.max(0) as u64).saturating_mul(STAT_BLOCK_BYTES),
        mtime,
        links: found.st_nlink,
        identity: (found.st_dev, found.st_ino),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_could_leave_the_target_are_refused() {
        for path in ["", "/", "/etc/passwd", "a//b", "..", "a/../b", "./a", "a/.", "a\0b"] {
            assert!(parts(path.as_bytes()).is_err(), "{path:?}");
        }
        assert!(parts(&[b'x'; 256]).is_err());
        assert_eq!(parts(b"a/b\n/\xFF/").unwrap().len(), 3);
    }

    #[test]
    fn nothing_is_written_or_removed_through_a_symlink() {
        let outside = tempfile::tempdir().unwrap();
        let inside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("precious"), b"x").unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.path().join("link")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("precious"), inside.path().join("file")).unwrap();
        let target = DirectoryTarget::create(inside.path()).unwrap();
        assert!(target.open_file(b"link/new").is_err());
        assert!(target.open_file(b"file").is_err());
        assert!(target.make_directory(b"link/sub").is_err());
        assert!(target.remove(b"link/precious").is_err());
        assert!(target.remove(b"link").unwrap());
        assert!(outside.path().join("precious").exists());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    }

    #[test]
    fn set_user_id_comes_back_only_together_with_the_owner() {
        let metadata = Metadata { mode: 0o6755, ..Metadata::default() };
        assert_eq!(mode_of(&metadata, false), Mode::from_raw_mode(0o755));
        assert_eq!(mode_of(&metadata, true), Mode::from_raw_mode(0o6755));
        // Bits that say what kind of file it is do not get through either way.
        assert_eq!(mode_of(&Metadata { mode: 0o140_777, ..metadata }, true), Mode::from_raw_mode(0o777));
    }

    #[test]
    fn a_directory_is_removed_only_when_it_is_empty() {
        let directory = tempfile::tempdir().unwrap();
        let target = DirectoryTarget::create(directory.path()).unwrap();
        target.make_directory(b"a/b/").unwrap();
        target.open_file(b"a/b/file").unwrap();
        assert!(!target.remove(b"a/b/").unwrap());
        assert!(target.remove(b"a/b").is_err());
        assert!(target.remove(b"a/b/file").unwrap() && target.remove(b"a/b/").unwrap());
        assert!(target.look(b"a/b").unwrap().is_none());
        assert!(target.remove(b"a/b/").unwrap());
    }
}
