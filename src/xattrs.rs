//! Extended attributes of files, POSIX ACLs among them, as the system keeps them.
//!
//! What must stay true: no symlink is followed: attributes are those of an open file, or of what has a name in a directory
//! that is held open; what is of no known kind is neither read nor set.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// Longest name, in bytes (`XATTR_NAME_MAX`).
pub const NAME_LEN_MAX: usize = 255;
/// Longest value, in bytes (`XATTR_SIZE_MAX`); as long as a list of names can be (`XATTR_LIST_MAX`).
pub const VALUE_LEN_MAX: usize = 64 << 10;
/// Bytes that are asked for first: nearly all lists and values are shorter.
const FIRST_READ_BYTES: usize = 1024;

/// Values by name.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// What an attribute means, as its name tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// What owners of files write themselves: `user.…`.
    User,
    /// A POSIX ACL: who else may open the file, or what is made in the directory.
    Acl,
    /// What gives rights, or steers the system: `security.…`, capabilities among them, and `trusted.…`.
    Privileged,
}

/// Returns the class of a name. Others are of one file system, or no more than a view of something else.
pub fn class_of(name: &[u8]) -> Option<Class> {
    match name {
        b"system.posix_acl_access" | b"system.posix_acl_default" => Some(Class::Acl),
        _ if name.starts_with(b"user.") => Some(Class::User),
        _ if name.starts_with(b"security.") || name.starts_with(b"trusted.") => Some(Class::Privileged),
        _ => None,
    }
}

/// Whose attributes are meant.
pub enum Place<'a> {
    /// A file or directory that is open.
    Open(BorrowedFd<'a>),
    /// What has this path; a symlink itself, if it is one.
    Named(PathBuf),
    /// What has this path, which leads through a directory that is held open.
    Held(PathBuf, BorrowedFd<'a>),
}

impl<'a> Place<'a> {
    /// Means what is open.
    pub fn open(file: &'a impl AsFd) -> Self {
        Self::Open(file.as_fd())
    }

    /// Means what has a name in a directory. There are no calls that take a directory and a name, but in new kernels.
    pub fn in_directory(directory: &'a impl AsFd, name: &OsStr) -> Self {
        let directory = directory.as_fd();
        Self::Held(Path::new(&format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name), directory)
    }

    /// Returns all attributes of known kinds; nothing where the file system has none.
    pub fn read(&self) -> io::Result<Option<Xattrs>> {
        let names = match read_whole(|buffer| self.list(buffer)) {
            Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(None),
            names => names?,
        };
        let mut found = Xattrs::new();
        for name in names.split(|byte| *byte == 0).filter(|name| class_of(name).is_some()) {
            match read_whole(|buffer| self.get(name, buffer)) {
                // Removed meanwhile, or listed and not to be had.
                Err(Errno::NODATA | Errno::NOTSUP) => {}
                Ok(value) => drop(found.insert(name.to_vec(), value)),
                Err(error) => return Err(named(name, error.into())),
            }
        }
        Ok(Some(found))
    }

    /// Sets an attribute.
    pub fn set(&self, name: &[u8], value: &[u8]) -> io::Result<()> {
        let flags = XattrFlags::empty();
        Ok(match self {
            Self::Open(file) => rustix::fs::fsetxattr(file, name, value, flags),
            Self::Named(path) | Self::Held(path, _) => rustix::fs::lsetxattr(path, name, value, flags),
        }?)
    }

    /// Removes an attribute.
    pub fn remove(&self, name: &[u8]) -> io::Result<()> {
        Ok(match self {
            Self::Open(file) => rustix::fs::fremovexattr(file, name),
            Self::Named(path) | Self::Held(path, _) => rustix::fs::lremovexattr(path, name),
        }?)
    }

    fn list(&self, buffer: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Self::Open(file) => rustix::fs::flistxattr(file, buffer),
            Self::Named(path) | Self::Held(path, _) => rustix::fs::llistxattr(path, buffer),
        }
    }

    fn get(&self, name: &[u8], buffer: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Self::Open(file) => rustix::fs::fgetxattr(file, name, buffer),
            Self::Named(path) | Self::Held(path, _) => rustix::fs::lgetxattr(path, name, buffer),
        }
    }
}

/// Returns a name for people.
pub fn name_text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

fn named(name: &[u8], error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", name_text(name)))
}

/// Calls with as much room as is needed.
fn read_whole(read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut first = [0; FIRST_READ_BYTES];
    match read(&mut first) {
        Err(Errno::RANGE) => {
            let mut whole = vec![0; VALUE_LEN_MAX];
            let len = read(&mut whole)?;
            whole.truncate(len);
            Ok(whole)
        }
        len => Ok(first[..len?].to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::symlink;

    #[test]
    fn kinds_are_told_by_whole_names() {
        assert_eq!(class_of(b"user.a"), Some(Class::User));
        assert_eq!(class_of(b"system.posix_acl_default"), Some(Class::Acl));
        assert_eq!(class_of(b"security.capability"), Some(Class::Privileged));
        for other in
            [&b""[..], b"user", b"usera", b"system.posix_acl_access2", b"system.nfs4_acl", b"btrfs.compression"]
        {
            assert_eq!(class_of(other), None);
        }
    }

    #[test]
    fn attributes_are_read_as_they_were_set_by_handle_and_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::create(directory.path().join("file")).unwrap();
        symlink("file", directory.path().join("link")).unwrap();
        let held = File::open(directory.path()).unwrap();
        let (open, named) = (Place::open(&file), Place::in_directory(&held, OsStr::new("file")));
        let Some(none) = open.read().unwrap() else { return };
        assert!(none.iter().all(|(name, _)| class_of(name) != Some(Class::User)));
        let (long, odd) = (vec![7; 2 * FIRST_READ_BYTES], b"user.\xFF\n=%".to_vec());
        open.set(b"user.long", &long).unwrap();
        named.set(&odd, b"").unwrap();
        for place in [&open, &named] {
            let found = place.read().unwrap().unwrap();
            assert_eq!((found.get(&b"user.long"[..]), found.get(&odd)), (Some(&long), Some(&Vec::new())));
        }
        // Of the symlink itself.
        let link = Place::in_directory(&held, OsStr::new("link")).read().unwrap();
        assert!(link.is_none_or(|found| !found.contains_key(&b"user.long"[..])));
        named.remove(&odd).unwrap();
        assert!(!open.read().unwrap().unwrap().contains_key(&odd));
        assert!(open.set(b"user.a\0b", b"").is_err());
    }
}
