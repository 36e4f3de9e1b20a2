//! Compares a snapshot with a directory of this machine.
//!
//! What must stay true: the directory is walked in the order of the trees; files of equal size are read and digested,
//! several at once, and still reported in order; what cannot be read is a problem and not a difference.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat};

use crate::diff::{Change, Comparison, DiffSummary, Restored, Side, SideKind, Types, change_of, nowhere};
use crate::error::{Error, Result};
use crate::format::snapshot::{Component, FILES};
use crate::format::tree::Entry;
use crate::id::Digest;
use crate::monitor::Counter;
use crate::parallel;
use crate::source::directory::{DirectorySource, metadata};
use crate::source::{Found, Item, ItemKind, Source};
use crate::trees::contents::{self, is_selected, shown_path};
use crate::trees::reader::TreeReader;
use crate::xattrs::Place;

/// Differences and possible differences that are looked into at once.
const BATCH_MAX: usize = 512;

/// Something that differs, or may.
enum Difference {
    Change(Change),
    /// Files of equal size: `old` and `new`, which is at the location.
    Content {
        change: Change,
        location: PathBuf,
    },
    Unreadable {
        path: String,
        message: String,
    },
}

/// Compares all components of a snapshot with what a restore would have made of them.
pub(super) fn compare(mut comparison: Comparison<'_>, restored: Restored<'_>) -> Result<DiffSummary> {
    let Restored { snapshot, directory } = restored;
    let looked = fs::metadata(directory);
    let fault = |source| Error::source("look at", directory.to_owned(), source);
    if !looked.map_err(fault)?.is_dir() {
        return Err(fault(io::ErrorKind::NotADirectory.into()));
    }
    let path = contents::normal_path(&comparison.options.path).to_vec();
    let mut found = path.is_empty();
    for selection in contents::select(snapshot, &path) {
        let component = selection.component;
        let others = snapshot.record.components.iter().map(|other| other.name.as_str());
        let place = ComponentDirectory {
            component,
            path: selection.path,
            root: if component.name == FILES { directory.to_owned() } else { directory.join(&component.name) },
            others: if component.name == FILES { others.filter(|name| *name != FILES).collect() } else { Vec::new() },
        };
        found |= comparison.with_directory(&place)?;
    }
    if found { Ok(comparison.summary) } else { Err(nowhere(&path)) }
}

/// A component and the directory to compare it with.
struct ComponentDirectory<'a> {
    component: &'a Component,
    path: Vec<u8>,
    root: PathBuf,
    /// Other components, whose directories are not part of this one.
    others: Vec<&'a str>,
}

impl ComponentDirectory<'_> {
    fn location(&self, path: &[u8]) -> PathBuf {
        self.root.join(std::ffi::OsStr::from_bytes(path))
    }

    /// Returns whether something that only the directory has is, or leads to, another component.
    fn is_of_another(&self, path: &[u8]) -> bool {
        self.others.iter().any(|name| {
            let directory = [name.as_bytes(), b"/"].concat();
            path.starts_with(&directory) || (path.ends_with(b"/") && directory.starts_with(path))
        })
    }

    /// Returns what stands at the path itself, and what is below it.
    fn walk(&self) -> Result<(Option<Found>, Option<DirectorySource>)> {
        let base = self.location(&self.path);
        let item = if self.path.is_empty() { None } else { look(&self.path, &base) };
        let is_directory = match &item {
            Some(Found::Item(item)) => item.kind == ItemKind::Directory,
            Some(_) => false,
            None => self.path.is_empty() && base.is_dir(),
        };
        let source = if is_directory { Some(DirectorySource::content_of(&base)?) } else { None };
        Ok((item, source))
    }
}

/// Returns what is at a location, or `None` if nothing is.
fn look(path: &[u8], location: &Path) -> Option<Found> {
    let unreadable = |error: io::Error| {
        let path = location.display().to_string();
        Some(Found::Unreadable { item: Vec::new(), path, message: format!("it cannot be read: {error}") })
    };
    let found = match rustix::fs::lstat(location).map_err(io::Error::from) {
        Ok(found) => found,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return None,
        Err(error) => return unreadable(error),
    };
    let (path, kind) = match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => ([path, b"/"].concat(), ItemKind::Directory),
        FileType::RegularFile => {
            let size = found.st_size.max(0) as u64;
            (path.to_vec(), ItemKind::File { size, sparse: false, linked: false })
        }
        FileType::Symlink => match fs::read_link(location) {
            Ok(target) => (path.to_vec(), ItemKind::Symlink { target: target.into_os_string().into_vec() }),
            Err(error) => return unreadable(error),
        },
        _ => return None,
    };
    Some(Found::Item(Item { path, metadata: metadata(&found), kind, location: location.to_owned() }))
}

impl Comparison<'_> {
    /// Walks the directory beside the tree; both are in byte order. Returns whether either has the path.
    fn with_directory(&mut self, place: &ComponentDirectory<'_>) -> Result<bool> {
        let component = place.component;
        let reader = self.reader;
        let mut tree = TreeReader::open_prefix(reader, &component.name, &component.root, &place.path)?;
        let (first, source) = place.walk()?;
        let below = source.iter().flat_map(|source| source.walk()).map(|found| below_path(found, &place.path));
        let mut types = Types::new(reader, &[Some(component.clone()), None]);
        let mut batch = Vec::new();
        let mut any = false;
        for found in first.into_iter().chain(below) {
            self.hears.check()?;
            let item = match found {
                Found::Item(item) => item,
                Found::Unreadable { path, message, .. } => {
                    self.push(&mut batch, Difference::Unreadable { path, message })?;
                    continue;
                }
                Found::Skipped { .. } | Found::LeftOut { .. } => continue,
                Found::Failed(error) => return Err(error),
            };
            any = true;
            any |= self.removed_before(place, &mut tree, Some(&item.path), &mut types, &mut batch)?;
            let same = tree.peek().transpose()?.is_some_and(|entry| entry.path == item.path);
            let entry = if same { tree.next().transpose()? } else { None };
            if let Some(candidate) = self.candidate(place, entry, item, &mut types)? {
                self.push(&mut batch, candidate)?;
            }
        }
        any |= self.removed_before(place, &mut tree, None, &mut types, &mut batch)?;
        self.settle(batch)?;
        Ok(any)
    }

    /// Takes entries of the tree that come before `end`: the directory does not have them.
    fn removed_before(
        &mut self,
        place: &ComponentDirectory<'_>,
        tree: &mut TreeReader<'_>,
        end: Option<&[u8]>,
        types: &mut Types<'_>,
        batch: &mut Vec<Difference>,
    ) -> Result<bool> {
        let mut any = false;
        while tree.peek().transpose()?.is_some_and(|entry| end.is_none_or(|end| entry.path.as_slice() < end)) {
            self.hears.check()?;
            let Some(entry) = tree.next().transpose()? else { break };
            if !is_selected(&entry.path, &place.path) {
                continue;
            }
            any = true;
            if types.is_reported(&entry.path) {
                continue;
            }
            let new = live_directory(place, &entry);
            if new.is_some() {
                types.note([&entry.path[..], b"/"].concat());
            }
            let path = shown_path(&place.component.name, &entry.path);
            if let Some(change) = change_of(path, Some(Side::from(&entry)), new, false) {
                self.push(batch, Difference::Change(change))?;
            }
        }
        Ok(any)
    }

    /// Compares an item of the directory with the entry of the same path.
    fn candidate(
        &mut self,
        place: &ComponentDirectory<'_>,
        entry: Option<Entry>,
        item: Item,
        types: &mut Types<'_>,
    ) -> Result<Option<Difference>> {
        self.hears.monitor.count(Counter::Entries, 1);
        let mut old = entry.as_ref().map(Side::from);
        if old.is_none() {
            if types.is_reported(&item.path) || place.is_of_another(&item.path) {
                return Ok(None);
            }
            old = types.directory(0, &item.path)?;
        }
        let mut new = side_of(&item);
        // What the backup was not asked for is not compared.
        if self.options.metadata && old.as_ref().is_some_and(|old| old.xattrs.is_some()) {
            match Place::Named(item.location.clone()).read() {
                Ok(found) => new.xattrs = found,
                Err(error) => self.problem(
                    &item.location.display().to_string(),
                    &format!("its extended attributes cannot be read: {error}"),
                ),
            }
        }
        let path = shown_path(&place.component.name, &item.path);
        let same_size = matches!((&old, &new.kind),
            (Some(Side { kind: SideKind::File { size: old, .. }, .. }), SideKind::File { size: new, .. }) if old == new);
        if same_size {
            let change = Change { kind: super::ChangeKind::Modified, path, old, new: Some(new) };
            return Ok(Some(Difference::Content { change, location: item.location }));
        }
        Ok(change_of(path, old, Some(new), self.options.metadata).map(Difference::Change))
    }

    fn push(&mut self, batch: &mut Vec<Difference>, candidate: Difference) -> Result<()> {
        batch.push(candidate);
        if batch.len() >= BATCH_MAX { self.settle(std::mem::take(batch)) } else { Ok(()) }
    }

    /// Reads what must be read, and reports a batch in order.
    fn settle(&mut self, batch: Vec<Difference>) -> Result<()> {
        let threads = self.reader.repository().thread_plan().computing;
        let digests = parallel::map(&batch, threads, |candidate| {
            self.hears.check()?;
            match candidate {
                Difference::Content { location, .. } => Ok(Some(digest_of(location))),
                _ => Ok(None),
            }
        });
        for (candidate, digest) in batch.into_iter().zip(digests) {
            match (candidate, digest?) {
                (Difference::Change(change), _) => self.report(change)?,
                (Difference::Unreadable { path, message }, _) => self.problem(&path, &message),
                (Difference::Content { change, .. }, Some(Ok(digest))) => self.with_digest(change, digest)?,
                (Difference::Content { location, .. }, Some(Err(error))) => {
                    self.problem(&location.display().to_string(), &format!("it cannot be read: {error}"));
                }
                (Difference::Content { .. }, None) => {}
            }
        }
        Ok(())
    }

    fn with_digest(&mut self, mut change: Change, found: Digest) -> Result<()> {
        if let Some(Side { kind: SideKind::File { size, digest }, .. }) = &mut change.new {
            *digest = Some(found);
            self.hears.monitor.count(Counter::Bytes, *size);
        }
        match change_of(change.path, change.old, change.new, self.options.metadata) {
            Some(change) => self.report(change),
            None => Ok(()),
        }
    }

    fn problem(&mut self, path: &str, message: &str) {
        self.summary.problems += 1;
        self.hears.monitor.problem(path, message);
    }
}

/// Puts what a walk of the content of `path` found back below it.
fn below_path(found: Found, path: &[u8]) -> Found {
    match found {
        Found::Item(mut item) if !path.is_empty() => {
            item.path = [path, b"/", &item.path].concat();
            Found::Item(item)
        }
        other => other,
    }
}

/// Returns the directory that is there instead of an entry that is none.
fn live_directory(place: &ComponentDirectory<'_>, entry: &Entry) -> Option<Side> {
    if entry.path.ends_with(b"/") {
        return None;
    }
    let is_directory = |found: &Stat| FileType::from_raw_mode(found.st_mode) == FileType::Directory;
    let found = rustix::fs::lstat(place.location(&entry.path)).ok().filter(is_directory)?;
    Some(Side { kind: SideKind::Directory, metadata: metadata(&found), xattrs: None })
}

fn side_of(item: &Item) -> Side {
    let kind = match &item.kind {
        ItemKind::Directory => SideKind::Directory,
        ItemKind::File { size, .. } | ItemKind::Object { size, .. } => SideKind::File { size: *size, digest: None },
        ItemKind::Symlink { target } => SideKind::Symlink { target: target.clone() },
    };
    Side { kind, metadata: item.metadata, xattrs: None }
}

fn digest_of(location: &Path) -> io::Result<Digest> {
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(location)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
}
