//! Compares two snapshots, or a snapshot with a directory.
//!
//! What must stay true:
//! - Changes come in path order while both sides are read, so memory does not grow with them.
//! - Of two snapshots, only nodes in which they differ are read.
//! - No content is read from the repository: a key that cannot is enough. Files of a directory count as equal only if
//!   their content has the digest that the snapshot recorded.
//!
//! A file that became a directory, or the other way round, stands at two places of the path order (`a` and `a/`).
//! It is one change, reported at the first.

mod live;
pub mod mlflow;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::chunks::reader::ChunkReader;
use crate::error::{Error, Result};
use crate::format::snapshot::Component;
use crate::format::tree::{Entry, EntryKind, Metadata};
use crate::hears::Hears;
use crate::id::Digest;
use crate::monitor::Counter;
use crate::repository::Repository;
use crate::repository::snapshots::Snapshot;
use crate::trees::contents::{self, is_selected, shown_path};
use crate::trees::merge::{Merged, Shared, TreeMerge};
use crate::trees::reader::TreeReader;
use crate::xattrs::Xattrs;

/// How to compare.
#[derive(Debug, Clone, Default)]
pub struct DiffOptions {
    /// Only this path and what is below it; empty for everything.
    pub path: Vec<u8>,
    /// Whether a difference in mode, owner, group, time or extended attributes alone is a change.
    pub metadata: bool,
}

/// How something differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// Only the new side has it.
    Added,
    /// Only the old side has it.
    Removed,
    /// The content of a file, or the target of a symlink.
    Modified,
    /// Mode, owner, group, time or extended attributes, and nothing else.
    Metadata,
    /// One is a file, the other a directory, or the like.
    Type,
}

/// One side of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// What it is.
    pub kind: SideKind,
    /// What the file system tells of it.
    pub metadata: Metadata,
    /// Its extended attributes, if they are known.
    pub xattrs: Option<Xattrs>,
}

/// What one side of a change is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SideKind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Its length in bytes.
        size: u64,
        /// BLAKE3 of its content; unknown for a file of a directory that was not read.
        digest: Option<Digest>,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: Vec<u8>,
    },
}

impl From<&Entry> for Side {
    fn from(entry: &Entry) -> Self {
        let kind = match &entry.kind {
            EntryKind::Directory => SideKind::Directory,
            EntryKind::File(file) => SideKind::File { size: file.size, digest: Some(file.digest) },
            EntryKind::Symlink { target } => SideKind::Symlink { target: target.clone() },
        };
        Self { kind, metadata: entry.metadata, xattrs: entry.xattrs() }
    }
}

impl Side {
    /// Returns the size of a file; other kinds have none.
    pub fn size(&self) -> u64 {
        if let SideKind::File { size, .. } = self.kind { size } else { 0 }
    }
}

/// One difference.
#[derive(Debug, Clone)]
pub struct Change {
    /// How it differs.
    pub kind: ChangeKind,
    /// The path that users know it by; ends in `/` for directories that came or went.
    pub path: Vec<u8>,
    /// What it was.
    pub old: Option<Side>,
    /// What it is.
    pub new: Option<Side>,
}

impl Change {
    /// Returns the names of the extended attributes that differ. Where one side does not know its own, none does.
    pub fn xattrs(&self) -> Vec<&[u8]> {
        let [old, new] = [&self.old, &self.new].map(|side| side.as_ref().and_then(|side| side.xattrs.as_ref()));
        let (Some(old), Some(new)) = (old, new) else { return Vec::new() };
        let names: BTreeSet<&Vec<u8>> = old.keys().chain(new.keys()).collect();
        names.into_iter().filter(|name| old.get(*name) != new.get(*name)).map(Vec::as_slice).collect()
    }
}

/// Differences in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DiffSummary {
    /// Files, directories and symlinks that came.
    pub added: u64,
    /// Files, directories and symlinks that went.
    pub removed: u64,
    /// Files and symlinks with another content.
    pub modified: u64,
    /// Things that differ in their metadata alone; zero unless that was asked for.
    pub metadata: u64,
    /// Things that became something of another type.
    pub types: u64,
    /// Bytes of files that came, or of which the new side has another content.
    pub bytes_new: u64,
    /// Bytes of files that went, or of which the old side has another content.
    pub bytes_old: u64,
    /// Things of a directory that could not be compared.
    pub problems: u64,
}

impl DiffSummary {
    /// Returns whether nothing differs.
    pub fn is_equal(&self) -> bool {
        self.added + self.removed + self.modified + self.metadata + self.types == 0
    }

    fn count(&mut self, change: &Change) {
        let (counter, has_bytes) = match change.kind {
            ChangeKind::Added => (&mut self.added, true),
            ChangeKind::Removed => (&mut self.removed, true),
            ChangeKind::Modified => (&mut self.modified, true),
            ChangeKind::Metadata => (&mut self.metadata, false),
            ChangeKind::Type => (&mut self.types, true),
        };
        *counter += 1;
        if has_bytes {
            self.bytes_new += change.new.as_ref().map_or(0, Side::size);
            self.bytes_old += change.old.as_ref().map_or(0, Side::size);
        }
    }
}

/// What every comparison needs.
struct Comparison<'a> {
    reader: &'a ChunkReader,
    options: &'a DiffOptions,
    hears: &'a Hears,
    summary: DiffSummary,
    visit: &'a mut dyn FnMut(Change) -> Result<()>,
}

/// Compares two snapshots and calls `visit` with each change.
pub fn snapshots(
    repository: &Arc<Repository>,
    [old, new]: [&Snapshot; 2],
    options: &DiffOptions,
    visit: &mut dyn FnMut(Change) -> Result<()>,
    hears: &Hears,
) -> Result<DiffSummary> {
    let reader = ChunkReader::new(Arc::clone(repository));
    let mut comparison = Comparison { reader: &reader, options, hears, summary: DiffSummary::default(), visit };
    hears.monitor.phase("diff", None, None);
    let mut found = contents::normal_path(&options.path).is_empty();
    let components = |snapshot: &Snapshot| snapshot.record.components.clone();
    let (old_components, new_components) = (components(old), components(new));
    let names: BTreeSet<&str> =
        old_components.iter().chain(&new_components).map(|component| component.name.as_str()).collect();
    for name in names {
        let find = |components: &'_ [Component]| components.iter().find(|component| component.name == name).cloned();
        found |= comparison.component(name, [find(&old_components), find(&new_components)])?;
    }
    if found { Ok(comparison.summary) } else { Err(contents::no_such_path(new, &options.path)) }
}

/// A snapshot, and the directory that a restore of it would write.
#[derive(Clone, Copy)]
pub struct Restored<'a> {
    /// The snapshot.
    pub snapshot: &'a Snapshot,
    /// The directory.
    pub directory: &'a Path,
}

/// Compares a snapshot with a directory, and calls `visit` with each change.
pub fn directory(
    repository: &Arc<Repository>,
    restored: Restored<'_>,
    options: &DiffOptions,
    visit: &mut dyn FnMut(Change) -> Result<()>,
    hears: &Hears,
) -> Result<DiffSummary> {
    let reader = ChunkReader::new(Arc::clone(repository));
    let comparison = Comparison { reader: &reader, options, hears, summary: DiffSummary::default(), visit };
    hears.monitor.phase("diff", None, None);
    live::compare(comparison, restored)
}

impl Comparison<'_> {
    /// Compares one component; returns whether the path was found in it.
    fn component(&mut self, name: &str, sides: [Option<Component>; 2]) -> Result<bool> {
        let Some(path) = contents::path_in(name, contents::normal_path(&self.options.path)) else { return Ok(false) };
        let present: Vec<(usize, &Component)> =
            sides.iter().enumerate().filter_map(|(side, component)| Some((side, component.as_ref()?))).collect();
        let roots: Vec<_> = present.iter().map(|(_, component)| component.root).collect();
        let shared = if roots.len() == sides.len() { Shared::Skip } else { Shared::Read };
        let mut found = false;
        let reader = self.reader;
        let mut types = Types::new(reader, &sides);
        for merged in TreeMerge::open(reader, name, &roots, &path, shared) {
            self.hears.check()?;
            let entries = match merged? {
                Merged::Entries(entries) => entries,
                Merged::Unreadable(_, error) => return Err(error),
            };
            let mut pair = [None, None];
            for (trees, entry) in entries.iter().filter(|(_, entry)| is_selected(&entry.path, &path)) {
                found = true;
                trees.iter().for_each(|tree| pair[present[*tree].0] = Some(entry));
            }
            self.pair(name, pair, &mut types)?;
        }
        // Where all is shared nothing was read.
        let exists = |component: &Component| path_exists(reader, component, &path);
        Ok(found || present.iter().map(|(_, component)| exists(component)).collect::<Result<Vec<_>>>()?.contains(&true))
    }

    fn pair(&mut self, component: &str, pair: [Option<&Entry>; 2], types: &mut Types<'_>) -> Result<()> {
        self.hears.monitor.count(Counter::Entries, 1);
        let Some(path) = pair[0].or(pair[1]).map(|entry| &entry.path) else { return Ok(()) };
        let [mut old, mut new] = pair.map(|entry| entry.map(Side::from));
        if old.is_none() || new.is_none() {
            if types.is_reported(path) {
                return Ok(());
            }
            if old.is_none() {
                old = types.directory(0, path)?;
            } else {
                new = types.directory(1, path)?;
            }
        }
        let path = shown_path(component, path);
        match change_of(path, old, new, self.options.metadata) {
            Some(change) => self.report(change),
            None => Ok(()),
        }
    }

    fn report(&mut self, change: Change) -> Result<()> {
        self.summary.count(&change);
        (self.visit)(change)
    }
}

/// Tells how two sides differ, if they do.
fn change_of(path: Vec<u8>, old: Option<Side>, new: Option<Side>, metadata: bool) -> Option<Change> {
    let kind = match (&old, &new) {
        (None, None) => return None,
        (None, Some(_)) => ChangeKind::Added,
        (Some(_), None) => ChangeKind::Removed,
        (Some(old), Some(new)) => kind_of_change(old, new, metadata)?,
    };
    Some(Change { kind, path, old, new })
}

fn kind_of_change(old: &Side, new: &Side, metadata: bool) -> Option<ChangeKind> {
    if std::mem::discriminant(&old.kind) != std::mem::discriminant(&new.kind) {
        return Some(ChangeKind::Type);
    }
    if old.kind != new.kind {
        return Some(ChangeKind::Modified);
    }
    let facts = |side: &Side| (side.metadata.mode, side.metadata.uid, side.metadata.gid, side.metadata.mtime);
    let have_other_xattrs = old.xattrs.as_ref().zip(new.xattrs.as_ref()).is_some_and(|(old, new)| old != new);
    (metadata && (facts(old) != facts(new) || have_other_xattrs)).then_some(ChangeKind::Metadata)
}

fn path_exists(reader: &ChunkReader, component: &Component, path: &[u8]) -> Result<bool> {
    if path.is_empty() {
        return Ok(true);
    }
    if contents::entry_at(reader, component, path)?.is_some() {
        return Ok(true);
    }
    Ok(contents::entry_at(reader, component, &[path, b"/"].concat())?.is_some())
}

/// Finds out whether what one side has as a file or symlink is a directory on the other, by looking ahead there.
struct Types<'a> {
    sides: [Option<Ahead<'a>>; 2],
    /// Directories that were reported already, each below the one before.
    reported: Vec<Vec<u8>>,
}

impl<'a> Types<'a> {
    fn new(reader: &'a ChunkReader, sides: &[Option<Component>; 2]) -> Self {
        let ahead = |component: &Option<Component>| component.as_ref().map(|component| Ahead::new(reader, component));
        Self { sides: [ahead(&sides[0]), ahead(&sides[1])], reported: Vec::new() }
    }

    /// Returns the directory that a side has where the other has a file or symlink at `path`.
    fn directory(&mut self, side: usize, path: &[u8]) -> Result<Option<Side>> {
        if path.ends_with(b"/") {
            return Ok(None);
        }
        let directory = [path, b"/"].concat();
        let Some(ahead) = &mut self.sides[side] else { return Ok(None) };
        let found = ahead.entry_at(&directory)?.map(|entry| Side::from(&entry));
        if found.is_some() {
            self.note(directory);
        }
        Ok(found)
    }

    fn note(&mut self, directory: Vec<u8>) {
        self.forget(&directory);
        self.reported.push(directory);
    }

    /// Returns whether `path` is a directory that was reported as a change of type.
    fn is_reported(&mut self, path: &[u8]) -> bool {
        self.forget(path);
        self.reported.iter().any(|directory| directory == path)
    }

    /// Forgets those that the path order has passed: nothing that begins with their name comes any more.
    fn forget(&mut self, path: &[u8]) {
        while self.reported.last().is_some_and(|directory| !path.starts_with(&directory[..directory.len() - 1])) {
            self.reported.pop();
        }
    }
}

/// A second reader of a tree, which looks up paths that mostly ascend.
struct Ahead<'a> {
    reader: &'a ChunkReader,
    component: Component,
    tree: Option<TreeReader<'a>>,
    last: Vec<u8>,
}

impl<'a> Ahead<'a> {
    fn new(reader: &'a ChunkReader, component: &Component) -> Self {
        Self { reader, component: component.clone(), tree: None, last: Vec::new() }
    }

    fn entry_at(&mut self, path: &[u8]) -> Result<Option<Entry>> {
        let mut tree = match self.tree.take() {
            Some(tree) if path > self.last.as_slice() => tree,
            _ => TreeReader::open(self.reader, &self.component.name, &self.component.root)?,
        };
        tree.skip_to(path);
        let found = match tree.peek().transpose()? {
            Some(entry) if entry.path == path => Some(entry.clone()),
            _ => None,
        };
        self.tree = Some(tree);
        self.last = path.to_vec();
        Ok(found)
    }
}

/// Makes the error that says that a snapshot and a directory both lack a path.
fn nowhere(path: &[u8]) -> Error {
    Error::NotFound(format!("Neither the snapshot nor the directory has {:?}", String::from_utf8_lossy(path)))
}
