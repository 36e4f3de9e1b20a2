//! Files and directories of this machine as a source.
//!
//! What must stay true: symlinks are stored, never followed, but for a path that the user named; a file is read from
//! the very inode that was looked at; paths in the tree are what tar would store: relative, without a leading `/`.

use std::cmp::Reverse;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::tree::{FileTime, Metadata};
use crate::globs::Globs;
use crate::source::{Content, Found, Item, ItemKind, Source};

/// Paths given by the user.
pub struct DirectorySource {
    roots: Vec<NamedPath>,
    excludes: Globs,
}

/// A path given by the user, and where it goes in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NamedPath {
    /// Path in the tree without a trailing `/`; empty for `.`.
    tree_path: Vec<u8>,
    location: PathBuf,
    is_directory: bool,
}

impl NamedPath {
    fn sort_key(&self) -> Vec<u8> {
        tree_key(&self.tree_path, self.is_directory)
    }
}

impl DirectorySource {
    /// Prepares a walk of `paths`. Exclude patterns with a `/` match whole tree paths, others match names.
    ///
    /// Fails if a path cannot be looked at: a misspelt path must not look like an empty backup.
    pub fn new(paths: &[PathBuf], excludes: &[String]) -> Result<Self> {
        let mut roots = paths.iter().map(|path| root(path)).collect::<Result<Vec<_>>>()?;
        roots.sort_by_key(NamedPath::sort_key);
        roots.dedup();
        let all = roots.clone();
        for (at, outer) in all.iter().enumerate() {
            all[at + 1..].iter().try_for_each(|inner| refuse_collision(outer, inner))?;
        }
        roots.retain(|root| !all.iter().any(|other| contains(other, root)));
        Ok(Self { roots, excludes: Globs::new(excludes, "exclude pattern")? })
    }

    /// Prepares a walk of what is in a directory, with paths relative to it.
    pub fn content_of(directory: &Path) -> Result<Self> {
        let fault = |source| Error::source("look at", directory.to_owned(), source);
        let location = std::path::absolute(directory).map_err(fault)?;
        let roots = vec![NamedPath { tree_path: Vec::new(), location, is_directory: true }];
        Ok(Self { roots, excludes: Globs::default() })
    }
}

impl Source for DirectorySource {
    fn walk(&self) -> Box<dyn Iterator<Item = Found> + Send + '_> {
        Box::new(DirectoryWalk { source: self, roots: self.roots.iter(), pending: Vec::new() })
    }

    fn open(&self, item: &Item) -> io::Result<Box<dyn Content + '_>> {
        // Between walk and open another process may have put a symlink or a named pipe in its place: the one is not
        // followed, the other does not block, and neither has the inode that was looked at.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags((rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits() as i32)
            .open(&item.location)?;
        let opened = file.metadata()?;
        if !opened.is_file() || opened.ino() != item.metadata.inode || opened.dev() != item.metadata.device {
            return Err(io::Error::other("it was replaced by something else"));
        }
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        Ok(Box::new(OpenFile { remaining: opened.len(), opened, file }))
    }
}

struct OpenFile {
    file: File,
    opened: fs::Metadata,
    remaining: u64,
}

impl Read for OpenFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // No further than it was long when it was opened: a log that grows as fast as it is read must end.
        let len = buffer.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        let read = self.file.read(&mut buffer[..len])?;
        self.remaining -= read as u64;
        Ok(read)
    }
}

impl Content for OpenFile {
    fn metadata(&self) -> Metadata {
        metadata(&self.opened)
    }

    fn size(&self) -> Option<u64> {
        Some(self.opened.len())
    }

    fn finish(self: Box<Self>) -> io::Result<Option<String>> {
        let now = self.file.metadata()?;
        // Asked of the open file, not of its path, which may be another file by now.
        let before = (self.opened.len(), self.opened.mtime(), self.opened.mtime_nsec());
        let changed = self.remaining > 0 || before != (now.len(), now.mtime(), now.mtime_nsec());
        Ok(changed.then(|| "it changed while it was read".to_owned()))
    }
}

/// The walk: a stack of directories' names still to be visited, deepest last.
struct DirectoryWalk<'a> {
    source: &'a DirectorySource,
    roots: std::slice::Iter<'a, NamedPath>,
    pending: Vec<PendingPath>,
}

/// Something to visit.
struct PendingPath {
    tree_path: Vec<u8>,
    location: PathBuf,
    /// A path that the user named: followed if it is a symlink.
    named: bool,
}

impl Iterator for DirectoryWalk<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        loop {
            if self.pending.is_empty() {
                let root = self.roots.next()?;
                self.enter_root(root);
            }
            let next = self.pending.pop()?;
            if let Some(found) = self.visit(next) {
                return Some(found);
            }
        }
    }
}

impl DirectoryWalk<'_> {
    fn enter_root(&mut self, root: &NamedPath) {
        let (tree_path, location) = (root.tree_path.clone(), root.location.clone());
        self.pending.push(PendingPath { tree_path, location, named: true });
    }

    fn visit(&mut self, next: PendingPath) -> Option<Found> {
        if !next.tree_path.is_empty() && self.source.excludes.matches(&next.tree_path) {
            return None;
        }
        let looked = if next.named { fs::metadata(&next.location) } else { fs::symlink_metadata(&next.location) };
        let found = match looked {
            Ok(found) => found,
            Err(error) => return Some(unreadable(&next, &error)),
        };
        let file_type = found.file_type();
        if file_type.is_dir() {
            return self.visit_directory(next, &found);
        }
        let kind = if file_type.is_file() {
            let sparse = found.blocks() * 512 < found.len();
            ItemKind::File { size: found.len(), sparse, linked: found.nlink() > 1 }
        } else if file_type.is_symlink() {
            match fs::read_link(&next.location) {
                Ok(target) => ItemKind::Symlink { target: target.into_os_string().into_vec() },
                Err(error) => return Some(unreadable(&next, &error)),
            }
        } else {
            let what = if file_type.is_socket() { "a socket" } else { "a device or named pipe" };
            return Some(Found::Skipped { path: next.location.display().to_string(), message: what.to_owned() });
        };
        Some(Found::Item(Item { path: next.tree_path, metadata: metadata(&found), kind, location: next.location }))
    }

    fn visit_directory(&mut self, next: PendingPath, found: &fs::Metadata) -> Option<Found> {
        match self.enter_directory(&next) {
            Err(error) => Some(unreadable(&next, &error)),
            Ok(()) if next.tree_path.is_empty() => None,
            Ok(()) => Some(Found::Item(Item {
                path: tree_key(&next.tree_path, true),
                metadata: metadata(found),
                kind: ItemKind::Directory,
                location: next.location,
            })),
        }
    }

    /// Queues a directory's content so that the smallest path is popped first.
    fn enter_directory(&mut self, directory: &PendingPath) -> io::Result<()> {
        let mut children = Vec::new();
        for child in fs::read_dir(&directory.location)? {
            let child = child?;
            let mut tree_path = directory.tree_path.clone();
            if !tree_path.is_empty() {
                tree_path.push(b'/');
            }
            tree_path.extend_from_slice(child.file_name().as_bytes());
            let is_directory = child.file_type()?.is_dir();
            let pending = PendingPath { tree_path, location: child.path(), named: false };
            children.push((is_directory, pending));
        }
        // By the key that the tree has, with its `/`: `a/` comes after `a-b`, and parent and cross-check go by that order.
        children.sort_by_cached_key(|(is_directory, child)| Reverse(tree_key(&child.tree_path, *is_directory)));
        self.pending.extend(children.into_iter().map(|(_, pending)| pending));
        Ok(())
    }
}

fn unreadable(pending: &PendingPath, error: &io::Error) -> Found {
    let message = match error.kind() {
        io::ErrorKind::NotFound => "it vanished during the backup".to_owned(),
        _ => format!("it cannot be read: {error}"),
    };
    Found::Unreadable { item: pending.tree_path.clone(), path: pending.location.display().to_string(), message }
}

/// Converts what the operating system tells.
pub fn metadata(found: &fs::Metadata) -> Metadata {
    let time = |seconds, nanoseconds: i64| FileTime { seconds, nanoseconds: nanoseconds as u32 };
    Metadata {
        mode: found.mode() & 0o7777,
        uid: found.uid(),
        gid: found.gid(),
        mtime: time(found.mtime(), found.mtime_nsec()),
        ctime: time(found.ctime(), found.ctime_nsec()),
        inode: found.ino(),
        device: found.dev(),
    }
}

fn tree_key(tree_path: &[u8], is_directory: bool) -> Vec<u8> {
    let mut key = tree_path.to_vec();
    if is_directory && !key.is_empty() {
        key.push(b'/');
    }
    key
}

fn contains(outer: &NamedPath, inner: &NamedPath) -> bool {
    outer.is_directory && outer != inner && inner.tree_path.starts_with(&outer.sort_key())
}

/// Two paths may share a place in the tree only if they are, or contain, the same thing.
fn refuse_collision(outer: &NamedPath, inner: &NamedPath) -> Result<()> {
    let overlap = outer.tree_path == inner.tree_path || contains(outer, inner);
    if overlap && !inner.location.starts_with(&outer.location) {
        return Err(Error::Invalid(format!(
            "{:?} and {:?} would have the same place in the snapshot; back them up one by one",
            outer.location, inner.location
        )));
    }
    Ok(())
}

/// Tells where a path goes in the tree: `a/./b` as it is, absolute ones without the `/`, those with `..` made absolute.
fn root(path: &Path) -> Result<NamedPath> {
    let fault = |source| Error::source("look at", path.to_owned(), source);
    let is_directory = fs::metadata(path).map_err(fault)?.is_dir();
    let resolved = if path.components().any(|part| part == Component::ParentDir) {
        path.canonicalize().map_err(fault)?
    } else {
        path.to_owned()
    };
    let parts: Vec<&[u8]> = resolved
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.as_bytes()),
            _ => None,
        })
        .collect();
    let location = std::path::absolute(&resolved).map_err(fault)?;
    Ok(NamedPath { tree_path: parts.join(&b'/'), location, is_directory })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(source: &DirectorySource) -> Vec<String> {
        source
            .walk()
            .map(|found| match found {
                Found::Item(item) => String::from_utf8_lossy(&item.path).into_owned(),
                Found::Unreadable { path, .. } => format!("unreadable {path}"),
                Found::Skipped { path, .. } => format!("skipped {path}"),
                Found::Failed(error) => panic!("{error}"),
            })
            .collect()
    }

    fn make(root: &Path, files: &[&str]) {
        for file in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        }
    }

    #[test]
    fn items_come_in_byte_order_with_directories_before_their_content() {
        let directory = tempfile::tempdir().unwrap();
        make(directory.path(), &["a/b", "a-b", "a.txt", "a/a/z", "B", "a/a.z"]);
        let source = DirectorySource::new(&[directory.path().join(".")], &[]).unwrap();
        let prefix = directory.path().strip_prefix("/").unwrap().display().to_string();
        let found: Vec<String> = paths(&source)
            .iter()
            .filter_map(|path| path.strip_prefix(&format!("{prefix}/")).map(str::to_owned))
            .collect();
        assert_eq!(found, ["", "B", "a-b", "a.txt", "a/", "a/a.z", "a/a/", "a/a/z", "a/b"]);
        let mut sorted = paths(&source);
        sorted.sort();
        assert_eq!(sorted, paths(&source));
    }

    #[test]
    fn several_roots_keep_the_order_and_nested_ones_are_visited_once() {
        let directory = tempfile::tempdir().unwrap();
        make(directory.path(), &["s/one/x", "s/one/y", "s/two/z", "s/one-more", "t"]);
        let of = |name: &str| directory.path().join(name);
        let roots = [of("s/two"), of("s/one"), of("s/one/x"), of("s/one-more")];
        let source = DirectorySource::new(&roots, &[]).unwrap();
        let found = paths(&source);
        let mut sorted = found.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted, found);
        assert_eq!(found.iter().filter(|path| path.ends_with("s/one/x")).count(), 1);
        assert!(found.iter().any(|path| path.ends_with("s/two/z")));
        assert!(!found.iter().any(|path| path.ends_with("/t")));
    }

    #[test]
    fn excluded_names_and_paths_are_left_out_with_all_below() {
        let directory = tempfile::tempdir().unwrap();
        make(directory.path(), &["keep/a", "keep/b.tmp", "drop/c", "keep/drop/d"]);
        let prefix = directory.path().strip_prefix("/").unwrap().display().to_string();
        let excludes = ["*.tmp".to_owned(), format!("{prefix}/drop")];
        let source = DirectorySource::new(&[directory.path().to_owned()], &excludes).unwrap();
        let found = paths(&source).join("\n");
        assert!(found.contains("keep/a") && found.contains("keep/drop/d"));
        assert!(!found.contains("b.tmp") && !found.contains(&format!("{prefix}/drop")));
    }

    #[test]
    fn paths_that_would_hide_each_other_are_refused() {
        let relative = NamedPath { tree_path: b"data".to_vec(), location: "/home/data".into(), is_directory: true };
        let absolute = NamedPath { tree_path: b"data/x".to_vec(), location: "/data/x".into(), is_directory: false };
        let inside = NamedPath { location: "/home/data/x".into(), ..absolute.clone() };
        assert!(refuse_collision(&relative, &absolute).is_err());
        assert!(refuse_collision(&relative, &inside).is_ok());
        let here = NamedPath { tree_path: vec![], location: "/home".into(), is_directory: true };
        assert!(refuse_collision(&here, &absolute).is_err());
    }

    #[test]
    fn a_path_that_is_not_there_is_an_error() {
        assert!(DirectorySource::new(&[PathBuf::from("/no/such/path")], &[]).is_err());
    }
}
