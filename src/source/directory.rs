//! Files and directories of this machine as a source.
//!
//! What must stay true: symlinks are stored, never followed, but for a path that the user named, not even if one takes the
//! place of a directory while the walk is in it; a file is read from the very inode that was looked at; paths in the tree
//! are what tar would store: relative, without a leading `/`.

mod open_file;

use std::cmp::Reverse;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};

use crate::error::{Error, Result};
use crate::format::attributes::{self, Attributes};
use crate::format::tree::{FileTime, Metadata};
use crate::format::xattrs;
use crate::held_directory::{self, LastDirectory, split_name};
use crate::path_range::PathRange;
use crate::source::directory::open_file::OpenFile;
use crate::source::filter::Filter;
use crate::source::{Content, Found, Item, ItemKind, Source};
use crate::xattrs::Place;

/// Unit in which `stat` counts what a file takes on the disk.
const STAT_BLOCK_BYTES: i64 = 512;

/// Paths given by the user.
pub struct DirectorySource {
    roots: Vec<Root>,
    filter: Filter,
    /// What of it is walked.
    range: PathRange,
    /// Whether extended attributes are stored.
    xattrs: bool,
    /// Of the files that are opened.
    last_directory: LastDirectory,
    /// Of what only its extended attributes are read of.
    last_asked: LastDirectory,
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

/// A named path that is walked, and which directory it was when it was opened first.
struct Root {
    named: NamedPath,
    identity: OnceLock<(u64, u64)>,
}

impl Root {
    fn new(named: NamedPath) -> Self {
        Self { named, identity: OnceLock::new() }
    }

    /// Opens the directory itself, which may be reached through symlinks. It is not held open all along: there can be more
    /// roots than a process may have open files. So it must be the same directory each time.
    fn open(&self) -> io::Result<Arc<OwnedFd>> {
        let directory = held_directory::open_named(&self.named.location)?;
        let found = rustix::fs::fstat(&directory)?;
        let identity = (found.st_dev, found.st_ino);
        if *self.identity.get_or_init(|| identity) != identity {
            return Err(io::Error::other("it was replaced by something else"));
        }
        Ok(Arc::new(directory))
    }

    /// Opens a directory below the root; none of the steps down follows a symlink.
    fn open_below(&self, below: &[u8]) -> io::Result<Arc<OwnedFd>> {
        let mut directory = self.open()?;
        for name in below.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            directory = Arc::new(held_directory::step_down(&directory, OsStr::from_bytes(name))?);
        }
        Ok(directory)
    }

    /// Returns the device that it is on, once it was opened.
    fn device(&self) -> u64 {
        self.identity.get().map_or(0, |(device, _)| *device)
    }

    fn location(&self, below: &[u8]) -> PathBuf {
        match below {
            b"" => self.named.location.clone(),
            below => self.named.location.join(OsStr::from_bytes(below)),
        }
    }
}

impl DirectorySource {
    /// Prepares a walk of `paths`.
    ///
    /// Fails if a path cannot be looked at: a misspelt path must not look like an empty backup.
    pub fn new(paths: &[PathBuf], filter: Filter) -> Result<Self> {
        let mut roots = paths.iter().map(|path| root(path)).collect::<Result<Vec<_>>>()?;
        roots.sort_by_key(NamedPath::sort_key);
        roots.dedup();
        let all = roots.clone();
        for (at, outer) in all.iter().enumerate() {
            all[at + 1..].iter().try_for_each(|inner| refuse_collision(outer, inner))?;
        }
        roots.retain(|root| !all.iter().any(|other| contains(other, root)));
        Ok(Self::of(roots, filter))
    }

    /// Prepares a walk of what is in a directory, with paths relative to it.
    pub fn content_of(directory: &Path) -> Result<Self> {
        Self::content_at(b"", directory, Filter::default())
    }

    /// Prepares a walk of what is in a directory, as if it stood at this path of the tree, which has no trailing `/`.
    pub fn content_at(tree_path: &[u8], directory: &Path, filter: Filter) -> Result<Self> {
        let fault = |source| Error::source("look at", directory.to_owned(), source);
        let location = std::path::absolute(directory).map_err(fault)?;
        let root = NamedPath { tree_path: tree_path.to_vec(), location, is_directory: true };
        Ok(Self::of(vec![root], filter))
    }

    /// Stores extended attributes, too, if that is wanted.
    pub fn with_xattrs(self, xattrs: bool) -> Self {
        Self { xattrs, ..self }
    }

    /// Walks only a part of it.
    pub fn within(self, range: PathRange) -> Self {
        Self { range, ..self }
    }

    /// Returns the patterns of the filter that can match nothing in this source.
    pub fn idle_patterns(&self) -> Vec<String> {
        let roots: Vec<&[u8]> = self.roots.iter().map(|root| root.named.tree_path.as_slice()).collect();
        self.filter.patterns_not_below(&roots)
    }

    fn of(roots: Vec<NamedPath>, filter: Filter) -> Self {
        let roots = roots.into_iter().map(Root::new).collect();
        let (last_directory, last_asked) = (LastDirectory::default(), LastDirectory::default());
        Self { roots, filter, range: PathRange::default(), xattrs: false, last_directory, last_asked }
    }

    /// Returns the number of the root that a location of the walk is at or below, and its path below it.
    fn below_root(&self, location: &Path) -> io::Result<(usize, Vec<u8>)> {
        let below =
            |root: &Root| Some(location.strip_prefix(&root.named.location).ok()?.as_os_str().as_bytes().to_vec());
        let found = self.roots.iter().enumerate().find_map(|(number, root)| Some((number, below(root)?)));
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Opens a file of the walk for reading. Between walk and open another process may have put a symlink or a named pipe in
    /// its place: the one is not followed, the other does not block.
    fn open_file(&self, location: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let (number, below) = self.below_root(location)?;
        if below.is_empty() {
            // The user's own word, which may be a symlink to a file.
            return Ok(rustix::fs::open(location, flags, Mode::empty())?);
        }
        let (directory, name) = split_name(&below);
        let key = directory_key(number, directory);
        let directory = self.last_directory.get(&key, || self.roots[number].open_below(directory))?;
        Ok(rustix::fs::openat(&directory, name, flags | OFlags::NOFOLLOW, Mode::empty())?)
    }
}

/// Returns extended attributes as an entry has them.
fn xattrs_of(place: &Place<'_>) -> io::Result<Attributes> {
    let mut stored = Attributes::new();
    if let Some(found) = place.read()? {
        attributes::set(&mut stored, attributes::XATTRS, xattrs::encode(&found).map_err(io::Error::other)?);
    }
    Ok(stored)
}

/// Tells directories of several roots apart.
fn directory_key(root: usize, below: &[u8]) -> Vec<u8> {
    [&root.to_le_bytes()[..], below].concat()
}

impl Source for DirectorySource {
    fn walk(&self) -> Box<dyn Iterator<Item = Found> + Send + '_> {
        Box::new(DirectoryWalk {
            source: self,
            next_root: 0,
            pending: Vec::new(),
            further: None,
            last_directory: LastDirectory::default(),
        })
    }

    fn covers_top(&self) -> bool {
        self.roots.iter().any(|root| root.named.tree_path.is_empty())
    }

    fn attributes(&self, item: &Item) -> io::Result<Attributes> {
        if !self.xattrs {
            return Ok(Attributes::new());
        }
        let (number, below) = self.below_root(&item.location)?;
        let root = &self.roots[number];
        if below.is_empty() {
            return match item.kind {
                ItemKind::Directory => xattrs_of(&Place::open(&root.open()?)),
                _ => xattrs_of(&Place::open(&self.open_file(&item.location)?)),
            };
        }
        let (directory, name) = split_name(&below);
        let held = self.last_asked.get(&directory_key(number, directory), || root.open_below(directory))?;
        xattrs_of(&Place::in_directory(&held, name))
    }

    fn open(&self, item: &Item) -> io::Result<Box<dyn Content + '_>> {
        let file = self.open_file(&item.location)?;
        let opened = rustix::fs::fstat(&file)?;
        let is_file = FileType::from_raw_mode(opened.st_mode) == FileType::RegularFile;
        // What took the file's place has not the inode that was looked at.
        if !is_file || opened.st_ino != item.metadata.inode || opened.st_dev != item.metadata.device {
            return Err(io::Error::other("it was replaced by something else"));
        }
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        Ok(Box::new(OpenFile::new(File::from(file), opened)))
    }
}

/// The walk: a stack of directories' names still to be visited, deepest last.
struct DirectoryWalk<'a> {
    source: &'a DirectorySource,
    next_root: usize,
    pending: Vec<PendingPath>,
    /// What is to be said next, of what was just found.
    further: Option<Found>,
    last_directory: LastDirectory,
}

/// Something to visit.
struct PendingPath {
    tree_path: Vec<u8>,
    root: usize,
    /// Its path below the root; empty for the root itself, which is followed if it is a symlink.
    below: Vec<u8>,
    /// Whether it was a directory when it was found.
    is_directory: bool,
}

impl PendingPath {
    /// Returns its place in the order of the walk.
    fn key(&self) -> Vec<u8> {
        tree_key(&self.tree_path, self.is_directory)
    }
}

impl Iterator for DirectoryWalk<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        if let Some(further) = self.further.take() {
            return Some(further);
        }
        loop {
            if self.pending.is_empty() {
                let root = self.source.roots.get(self.next_root)?;
                let (tree_path, is_directory) = (root.named.tree_path.clone(), root.named.is_directory);
                self.pending.push(PendingPath { tree_path, root: self.next_root, below: Vec::new(), is_directory });
                self.next_root += 1;
            }
            let next = self.pending.pop()?;
            if let Some(found) = self.visit_within(next) {
                return Some(found);
            }
        }
    }
}

impl DirectoryWalk<'_> {
    /// Visits what is in the range. What is not is passed over, or only gone through: who has its own path tells of it.
    fn visit_within(&mut self, next: PendingPath) -> Option<Found> {
        let (range, key) = (&self.source.range, next.key());
        if range.contains(&key) {
            return self.visit(next);
        }
        if next.is_directory && range.meets_below(&key) {
            self.visit(next);
            self.further = None;
        }
        None
    }

    fn visit(&mut self, next: PendingPath) -> Option<Found> {
        if !next.tree_path.is_empty() && self.source.filter.excludes(&next.tree_path) {
            return None;
        }
        let found = match self.look(&next) {
            Ok(found) => found,
            Err(error) => return Some(self.unreadable(&next, &error)),
        };
        if let Some(own) = self.source.filter.own(&found) {
            return Some(self.left_out(next, own.to_owned()));
        }
        let kind = match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => return self.visit_directory(next, &found),
            FileType::RegularFile => {
                if let Some(reason) = self.source.filter.too_large(len_of(&found)) {
                    return Some(self.left_out(next, reason));
                }
                let sparse = found.st_blocks.saturating_mul(STAT_BLOCK_BYTES) < found.st_size;
                ItemKind::File { size: len_of(&found), sparse, linked: found.st_nlink > 1 }
            }
            FileType::Symlink => match self.read_link(&next) {
                Ok(target) => ItemKind::Symlink { target },
                Err(error) => return Some(self.unreadable(&next, &error)),
            },
            other => {
                let what = if other == FileType::Socket { "a socket" } else { "a device or named pipe" };
                let path = self.location(&next).display().to_string();
                return Some(Found::Skipped { item: next.tree_path, path, message: what.to_owned() });
            }
        };
        let location = self.location(&next);
        Some(Found::Item(Item { path: next.tree_path, metadata: metadata(&found), kind, location }))
    }

    /// Returns what is at a path: of a symlink itself, unless the user named it.
    fn look(&self, path: &PendingPath) -> io::Result<Stat> {
        if path.below.is_empty() {
            return Ok(rustix::fs::stat(&self.source.roots[path.root].named.location)?);
        }
        let (parent, name) = self.parent(path)?;
        Ok(rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn read_link(&self, path: &PendingPath) -> io::Result<Vec<u8>> {
        let (parent, name) = self.parent(path)?;
        Ok(rustix::fs::readlinkat(&parent, name, Vec::new())?.into_bytes())
    }

    /// Opens the directory that a path below a root is in.
    fn parent<'p>(&self, path: &'p PendingPath) -> io::Result<(Arc<OwnedFd>, &'p OsStr)> {
        let (directory, name) = split_name(&path.below);
        Ok((self.directory(path.root, directory)?, name))
    }

    fn directory(&self, root: usize, below: &[u8]) -> io::Result<Arc<OwnedFd>> {
        let key = directory_key(root, below);
        self.last_directory.get(&key, || self.source.roots[root].open_below(below))
    }

    fn visit_directory(&mut self, next: PendingPath, found: &Stat) -> Option<Found> {
        let device = self.source.roots[next.root].device();
        // What the user named is meant, wherever it is.
        if !next.below.is_empty() && self.source.filter.parts(device, found.st_dev) {
            let place = self.directory_item(&next, found);
            // Restored, the place is there again for what was mounted on it, and is empty.
            self.further = Some(self.left_out(next, "on another file system".to_owned()));
            return Some(place);
        }
        match self.enter_directory(&next) {
            Err(error) => Some(self.unreadable(&next, &error)),
            Ok(Some(reason)) => Some(self.left_out(next, reason)),
            Ok(None) if next.tree_path.is_empty() => None,
            Ok(None) => Some(self.directory_item(&next, found)),
        }
    }

    fn directory_item(&self, directory: &PendingPath, found: &Stat) -> Found {
        Found::Item(Item {
            path: tree_key(&directory.tree_path, true),
            metadata: metadata(found),
            kind: ItemKind::Directory,
            location: self.location(directory),
        })
    }

    /// Queues a directory's content so that the smallest path is popped first; or returns why it is left out.
    fn enter_directory(&mut self, directory: &PendingPath) -> io::Result<Option<String>> {
        let opened = self.directory(directory.root, &directory.below)?;
        // What the user named is meant, whatever is in it.
        if !directory.below.is_empty()
            && let Some(reason) = self.source.filter.marked(&opened)
        {
            return Ok(Some(reason));
        }
        let mut children = Vec::new();
        for child in Dir::read_from(&opened)? {
            let child = child?;
            let name = child.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            children.push(PendingPath {
                tree_path: joined(&directory.tree_path, name),
                root: directory.root,
                below: joined(&directory.below, name),
                is_directory: is_directory(&opened, &child)?,
            });
        }
        // By the key that the tree has, with its `/`: `a/` comes after `a-b`, and parent and cross-check go by that order.
        children.sort_by_cached_key(|child| Reverse(child.key()));
        self.pending.extend(children);
        Ok(None)
    }

    fn location(&self, path: &PendingPath) -> PathBuf {
        self.source.roots[path.root].location(&path.below)
    }

    fn left_out(&self, pending: PendingPath, reason: String) -> Found {
        let path = self.location(&pending).display().to_string();
        Found::LeftOut { item: pending.tree_path, path, reason }
    }

    fn unreadable(&self, pending: &PendingPath, error: &io::Error) -> Found {
        let message = match error.kind() {
            io::ErrorKind::NotFound => "it vanished during the backup".to_owned(),
            _ => format!("it cannot be read: {error}"),
        };
        let path = self.location(pending).display().to_string();
        Found::Unreadable { item: pending.tree_path.clone(), path, message }
    }
}

/// Not every file system says in a listing what its entries are.
fn is_directory(directory: &OwnedFd, child: &rustix::fs::DirEntry) -> io::Result<bool> {
    let file_type = match child.file_type() {
        FileType::Unknown => {
            let found = rustix::fs::statat(directory, child.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
            FileType::from_raw_mode(found.st_mode)
        }
        known => known,
    };
    Ok(file_type == FileType::Directory)
}

fn joined(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

fn len_of(found: &Stat) -> u64 {
    found.st_size.max(0) as u64
}

/// Converts what the operating system tells.
pub fn metadata(found: &Stat) -> Metadata {
    let time = |seconds, nanoseconds: u64| FileTime { seconds, nanoseconds: nanoseconds as u32 };
    Metadata {
        mode: found.st_mode & 0o7777,
        uid: found.st_uid,
        gid: found.st_gid,
        mtime: time(found.st_mtime, found.st_mtime_nsec),
        ctime: time(found.st_ctime, found.st_ctime_nsec),
        inode: found.st_ino,
        device: found.st_dev,
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
    use crate::source::filter::Exclusions;

    fn paths(source: &DirectorySource) -> Vec<String> {
        source
            .walk()
            .map(|found| match found {
                Found::Item(item) => String::from_utf8_lossy(&item.path).into_owned(),
                Found::Unreadable { path, .. } => format!("unreadable {path}"),
                Found::Skipped { path, .. } | Found::LeftOut { path, .. } => format!("skipped {path}"),
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
        let source = DirectorySource::new(&[directory.path().join(".")], Filter::default()).unwrap();
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
        let source = DirectorySource::new(&roots, Filter::default()).unwrap();
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
        let source = DirectorySource::new(
            &[directory.path().to_owned()],
            Filter::new(&Exclusions { patterns: excludes.to_vec(), ..Exclusions::default() }).unwrap(),
        )
        .unwrap();
        let found = paths(&source).join("\n");
        assert!(found.contains("keep/a") && found.contains("keep/drop/d"));
        assert!(!found.contains("b.tmp") && !found.contains(&format!("{prefix}/drop")));
    }

    #[test]
    fn a_symlink_that_takes_the_place_of_a_directory_during_the_walk_is_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        make(outside.path(), &["d/x", "e/x", "z"]);
        let directory = tempfile::tempdir().unwrap();
        make(directory.path(), &["a/d/x", "a/e/x", "a/z", "c"]);
        let source = DirectorySource::content_of(directory.path()).unwrap();
        let mut names = Vec::new();
        for found in source.walk() {
            names.push(match found {
                Found::Item(item) => {
                    if item.path == b"a/d/" {
                        fs::rename(directory.path().join("a"), directory.path().join("was")).unwrap();
                        std::os::unix::fs::symlink(outside.path(), directory.path().join("a")).unwrap();
                    }
                    String::from_utf8_lossy(&item.path).into_owned()
                }
                Found::Unreadable { item, message, .. } => {
                    assert!(message.contains("a symlink is not followed"), "{message}");
                    format!("unreadable {}", String::from_utf8_lossy(&item))
                }
                other => panic!("{other:?}"),
            });
        }
        // `a/d` was held open when `a` was swapped, and is what it was.
        assert_eq!(names, ["a/", "a/d/", "a/d/x", "unreadable a/e", "unreadable a/z", "c"]);
    }

    #[test]
    fn a_file_whose_directory_was_swapped_for_a_symlink_is_not_opened() {
        let directory = tempfile::tempdir().unwrap();
        make(directory.path(), &["a/x", "b/y"]);
        // The same inode: what the symlink leads to looks like what was found.
        fs::create_dir(directory.path().join("twin")).unwrap();
        fs::hard_link(directory.path().join("a/x"), directory.path().join("twin/x")).unwrap();
        let source = DirectorySource::content_of(directory.path()).unwrap();
        let items: Vec<Item> =
            source.walk().filter_map(|found| if let Found::Item(item) = found { Some(item) } else { None }).collect();
        let of = |path: &str| items.iter().find(|item| item.path == path.as_bytes()).unwrap();
        source.open(of("a/x")).unwrap();
        source.open(of("b/y")).unwrap();
        fs::remove_dir_all(directory.path().join("a")).unwrap();
        std::os::unix::fs::symlink("twin", directory.path().join("a")).unwrap();
        let error = source.open(of("a/x")).err().unwrap();
        assert!(error.to_string().contains("a symlink is not followed"), "{error}");
    }

    #[test]
    fn a_path_that_the_user_named_may_be_a_symlink() {
        let directory = tempfile::tempdir().unwrap();
        make(directory.path(), &["real/x", "file"]);
        for (link, to) in [("to-directory", "real"), ("to-file", "file")] {
            std::os::unix::fs::symlink(to, directory.path().join(link)).unwrap();
        }
        let roots = ["to-directory", "to-file"].map(|name| directory.path().join(name));
        let source = DirectorySource::new(&roots, Filter::default()).unwrap();
        let mut read = Vec::new();
        for found in source.walk() {
            let Found::Item(item) = found else { panic!("{found:?}") };
            if item.size().is_some() {
                let mut text = String::new();
                source.open(&item).unwrap().read_to_string(&mut text).unwrap();
                read.push((item.location.file_name().unwrap().to_owned(), text));
            }
        }
        assert_eq!(read, [("x".into(), "x".to_owned()), ("to-file".into(), "x".to_owned())]);
    }

    #[test]
    fn a_root_that_was_replaced_is_not_gone_on_with() {
        let directory = tempfile::tempdir().unwrap();
        make(directory.path(), &["root/a", "root/d/x", "other/a", "other/d/x"]);
        let source = DirectorySource::content_of(&directory.path().join("root")).unwrap();
        let mut walk = source.walk();
        walk.next().unwrap();
        fs::rename(directory.path().join("root"), directory.path().join("old")).unwrap();
        fs::rename(directory.path().join("other"), directory.path().join("root")).unwrap();
        let rest: Vec<_> = walk.collect();
        assert!(
            rest.iter().any(|found| matches!(found, Found::Unreadable { message, .. } if message.contains("replaced"))),
            "{rest:?}"
        );
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
        assert!(DirectorySource::new(&[PathBuf::from("/no/such/path")], Filter::default()).is_err());
    }
}
