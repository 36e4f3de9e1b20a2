//! Restores a snapshot, or a part of it, into a directory.
//!
//! What must stay true:
//! - Every chunk is verified against its id, every finished file against the digest of its whole content.
//! - In place, only what differs is written; so a restore that was killed goes on where it stopped when it is run again.
//! - Paths come from the repository and are not trusted: see [`crate::target::directory`].
//! - What cannot be restored is named and the rest goes on; the summary says how much that was.
//! - Nothing is begun for which the target has no room, and what counts as restored survives a crash.
//!
//! The tree is read four times, so that memory does not grow with it: to add up what will be written, for directories and
//! files, for symlinks and hard links (when everything that they could be confused with is there), and for the directories'
//! own metadata.

mod batch;
pub mod bucket;
pub mod deployment;
mod metadata;
pub mod removals;
mod space;
mod sweep;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::chunks::reader::ChunkReader;
use crate::error::{Error, Result};
use crate::file_system;
use crate::format::snapshot::{Component, FILES};
use crate::format::tree::{Entry, EntryKind};
use crate::globs::Patterns;
use crate::hears::Hears;
use crate::repository::Repository;
use crate::repository::snapshots::Snapshot;
use crate::restore::batch::FileBatch;
use crate::restore::removals::{Removals, Scope};
pub use crate::restore::space::refuse_overfull;
use crate::source::filter::OwnPlaces;
use crate::target::directory::{self, DirectoryTarget, ExistingKind};
use crate::trees::contents::{self, Selection, is_selected};
use crate::trees::reader::TreeReader;
use crate::units::sum_of_claims;

/// What to do with files that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// Compare their content and rewrite what differs.
    Always,
    /// Take those of the same size and time as equal; compare the others.
    IfChanged,
    /// Leave those that are newer than the snapshot's.
    IfNewer,
    /// Leave all of them.
    Never,
}

/// What to restore, where to and how.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// The directory to restore into.
    pub target: PathBuf,
    /// Only this path and what is below it.
    pub path: Option<String>,
    /// Put what is below that path right into the target, not below the path.
    pub strips_path: bool,
    /// Of that, only what they select.
    pub patterns: Patterns,
    /// What to do with files that are there.
    pub overwrite: Overwrite,
    /// What to remove from the target, as [`plan_removals`] found it.
    pub removals: Removals,
    /// What mlvault needs itself: never in such a plan.
    pub own_places: OwnPlaces,
    /// Restore owner, group, set-user-id and set-group-id.
    pub ownership: bool,
    /// Restore extended attributes and ACLs, where the snapshot has them.
    pub xattrs: bool,
    /// Only tell what would be done.
    pub dry_run: bool,
    /// Begin even if the target seems to have too little room.
    pub ignore_free_space: bool,
}

impl RestoreOptions {
    /// Restores all of a snapshot into a directory. What is there is compared, and rewritten where it differs; nothing is
    /// removed.
    pub fn into_directory(target: impl Into<PathBuf>) -> Self {
        let target = target.into();
        Self {
            target,
            path: None,
            strips_path: false,
            patterns: Patterns::default(),
            overwrite: Overwrite::Always,
            removals: Removals::default(),
            own_places: OwnPlaces::new(),
            ownership: false,
            xattrs: false,
            dry_run: false,
            ignore_free_space: false,
        }
    }
}

/// What a restore did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RestoreSummary {
    /// Files written, wholly or in part.
    pub files_written: u64,
    /// Files that were right already.
    pub files_unchanged: u64,
    /// Files left alone because of the overwrite mode.
    pub files_kept: u64,
    /// Files, symlinks and directories removed.
    pub removed: u64,
    /// Directories of the snapshot.
    pub directories: u64,
    /// Symlinks and hard links of the snapshot.
    pub links: u64,
    /// Bytes written to files.
    pub bytes_written: u64,
    /// Bytes of files that were right already.
    pub bytes_unchanged: u64,
    /// Things that could not be restored.
    pub problems: u64,
}

impl RestoreSummary {
    /// Adds what a further restore did.
    fn add(&mut self, part: &Self) {
        self.files_written += part.files_written;
        self.files_unchanged += part.files_unchanged;
        self.files_kept += part.files_kept;
        self.removed += part.removed;
        self.directories += part.directories;
        self.links += part.links;
        self.bytes_written += part.bytes_written;
        self.bytes_unchanged += part.bytes_unchanged;
        self.problems += part.problems;
    }
}

#[derive(Default)]
struct RestoreTally {
    files_written: AtomicU64,
    files_unchanged: AtomicU64,
    files_kept: AtomicU64,
    removed: AtomicU64,
    directories: AtomicU64,
    links: AtomicU64,
    bytes_written: AtomicU64,
    bytes_unchanged: AtomicU64,
    problems: AtomicU64,
}

impl RestoreTally {
    fn summary(&self) -> RestoreSummary {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RestoreSummary {
            files_written: get(&self.files_written),
            files_unchanged: get(&self.files_unchanged),
            files_kept: get(&self.files_kept),
            removed: get(&self.removed),
            directories: get(&self.directories),
            links: get(&self.links),
            bytes_written: get(&self.bytes_written),
            bytes_unchanged: get(&self.bytes_unchanged),
            problems: get(&self.problems),
        }
    }
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

/// A part of a snapshot, and the directory that it goes into.
pub struct Part<'a> {
    component: &'a Component,
    prefix: Vec<u8>,
    /// Whether paths in the target begin behind the prefix.
    strips_prefix: bool,
    root: PathBuf,
}

impl<'a> Part<'a> {
    /// What an entry's path has behind the path that was selected comes behind the directory.
    pub fn below(selection: &Selection<'a>, root: impl Into<PathBuf>) -> Self {
        let Selection { component, path } = selection;
        Self { component, prefix: path.clone(), strips_prefix: !path.is_empty(), root: root.into() }
    }

    /// Without the path itself. If that leads to several components, they go into directories of the rest of their names.
    fn stripped(selection: &Selection<'a>, path: &[u8], target: &Path) -> Self {
        let rest = contents::name_below(&selection.component.name, path);
        let root = rest.map_or_else(|| target.to_owned(), |rest| target.join(rest));
        Self::below(selection, root)
    }

    /// Components other than plain files go into a directory of their name.
    fn whole(Selection { component, path }: Selection<'a>, target: &Path) -> Self {
        let root = if component.name == FILES { target.to_owned() } else { target.join(&component.name) };
        Self { component, prefix: path, strips_prefix: false, root }
    }
}

/// What parts that are restored together share.
struct Job<'a> {
    reader: &'a ChunkReader,
    options: &'a RestoreOptions,
    hears: &'a Hears,
    tally: RestoreTally,
}

impl<'a> Job<'a> {
    fn new(reader: &'a ChunkReader, options: &'a RestoreOptions, hears: &'a Hears) -> Self {
        Self { reader, options, hears, tally: RestoreTally::default() }
    }

    fn restore_of<'b>(&'b self, part: &'b Part<'b>, target: &'b DirectoryTarget) -> DirectoryRestore<'b> {
        let Part { component, prefix, strips_prefix, .. } = part;
        let Self { reader, options, hears, tally } = self;
        DirectoryRestore { reader, component, prefix, strips_prefix: *strips_prefix, target, options, hears, tally }
    }

    /// Returns whether the snapshot has anything of the part.
    fn restore(&self, part: &Part<'_>) -> Result<bool> {
        // A dry run must not even make the directory.
        let target =
            if self.options.dry_run { look_at_target(&part.root)? } else { DirectoryTarget::create(&part.root)? };
        self.restore_of(part, &target).restore()
    }
}

/// Opens a directory as it is, to look at what is there.
fn look_at_target(root: &Path) -> Result<DirectoryTarget> {
    if root.exists() { DirectoryTarget::open(root) } else { Ok(DirectoryTarget::nowhere(root)) }
}

/// One component on its way into one directory.
struct DirectoryRestore<'a> {
    reader: &'a ChunkReader,
    component: &'a Component,
    prefix: &'a [u8],
    strips_prefix: bool,
    target: &'a DirectoryTarget,
    options: &'a RestoreOptions,
    hears: &'a Hears,
    tally: &'a RestoreTally,
}

/// Finds what a restore with these options would remove from the target, because the snapshot does not have it. Nothing is
/// that the backup did not look at, and none of mlvault's own places.
pub fn plan_removals(
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    options: &RestoreOptions,
    hears: &Hears,
) -> Result<Removals> {
    hears.monitor.phase("look at the target", None, None);
    let reader = ChunkReader::new(Arc::clone(repository));
    let filter = removals::filter_of(&snapshot.record, &options.own_places)?;
    let mut removals = Removals { filter, ..Removals::default() };
    let job = Job::new(&reader, options, hears);
    for part in parts(snapshot, options) {
        match Scope::of(&snapshot.record, &part.component.name) {
            Ok(scope) => {
                let target = look_at_target(&part.root)?;
                job.restore_of(&part, &target).plan_removals(&scope, &mut removals)?;
            }
            Err(reserve) => removals.reserves.push(reserve),
        }
    }
    Ok(removals)
}

/// Returns what is restored, and where to.
fn parts<'a>(snapshot: &'a Snapshot, options: &RestoreOptions) -> Vec<Part<'a>> {
    let path = options.path.as_deref().map(|path| contents::normal_path(path.as_bytes())).unwrap_or_default();
    let part = |selection| match options.strips_path && !path.is_empty() {
        true => Part::stripped(&selection, path, &options.target),
        false => Part::whole(selection, &options.target),
    };
    contents::select(snapshot, path).into_iter().map(part).collect()
}

/// Runs a restore. Components other than plain files go into a directory of their name. When it returns, what was restored
/// survives a crash.
pub fn run(
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    options: &RestoreOptions,
    hears: &Hears,
) -> Result<RestoreSummary> {
    repository.access().data_secret()?;
    let reader = ChunkReader::new(Arc::clone(repository));
    let path = options.path.as_deref().map(|path| contents::normal_path(path.as_bytes())).unwrap_or_default();
    let parts = parts(snapshot, options);
    refuse_overfull(&reader, &parts, options, hears)?;
    let total = if options.path.is_none() { Some(&snapshot.record.components) } else { None };
    hears.monitor.phase(
        "restore",
        total.map(|components| sum_of_claims(components.iter().map(|component| component.entries))),
        total.map(|components| sum_of_claims(components.iter().map(|component| component.bytes))),
    );
    let job = Job::new(&reader, options, hears);
    let mut found = path.is_empty();
    for part in &parts {
        found |= job.restore(part)?;
    }
    if !options.dry_run {
        sync(parts.iter().map(|part| part.root.as_path()), hears)?;
    }
    if found { Ok(job.tally.summary()) } else { Err(contents::no_such_path(snapshot, path)) }
}

/// Restores what is at a path of a component's tree and below it, so that what an entry's path has behind the path that
/// was selected comes behind the target. Returns what was done; nothing if there is nothing at the path.
///
/// Who restores into a place that is to stay asks [`refuse_overfull`] before, and [`sync`] afterwards: once for all parts.
pub fn run_below(
    reader: &ChunkReader,
    selection: &Selection<'_>,
    options: &RestoreOptions,
    hears: &Hears,
) -> Result<RestoreSummary> {
    reader.repository().access().data_secret()?;
    let job = Job::new(reader, options, hears);
    job.restore(&Part::below(selection, &options.target))?;
    Ok(job.tally.summary())
}

/// Makes everything that was restored into directories survive a crash: content, names and metadata. Only then may a restore
/// say that it is done, because whoever hears that may delete the original.
pub fn sync<'p>(directories: impl IntoIterator<Item = &'p Path>, hears: &Hears) -> Result<()> {
    hears.monitor.phase("write to disk", None, None);
    for directory in directories.into_iter().collect::<BTreeSet<_>>() {
        match file_system::sync_below(directory) {
            // One that was not made has nothing to lose.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            synced => synced.map_err(|source| Error::target("sync", directory.to_owned(), source))?,
        }
    }
    Ok(())
}

impl DirectoryRestore<'_> {
    /// Returns whether anything was selected.
    fn restore(&self) -> Result<bool> {
        self.remove(|doomed| &doomed.in_the_way)?;
        // All files before any link: no file of the snapshot is ever written through a symlink of the snapshot.
        let found = self.restore_files()?;
        self.restore_links()?;
        self.remove(|doomed| &doomed.extra)?;
        // Last, because whatever is written or removed below a directory changes its time, and a mode may forbid writing.
        if !self.options.dry_run {
            self.restore_directory_metadata()?;
        }
        Ok(found)
    }

    /// Returns the selected entries as they are stored: all, or the path and what is below it; and an error for each part of
    /// the tree that cannot be read.
    fn stored_entries(&self) -> Result<Box<dyn Iterator<Item = Result<Entry>> + '_>> {
        let tree = match TreeReader::open_prefix(self.reader, &self.component.name, &self.component.root, self.prefix) {
            Err(error) if error.is_damage() => return Ok(Box::new(std::iter::once(Err(error)))),
            tree => tree?,
        };
        let is_wanted = |path: &[u8]| is_selected(path, self.prefix) && self.options.patterns.select(path);
        let selected = tree.filter(move |entry| entry.as_ref().map_or(true, |entry| is_wanted(&entry.path)));
        Ok(Box::new(selected.map(|entry| entry.map(contents::as_directory))))
    }

    /// Returns the selected entries with the paths that they have in the target.
    fn entries(&self) -> Result<Box<dyn Iterator<Item = Result<Entry>> + '_>> {
        let stored = self.stored_entries()?;
        if !self.strips_prefix {
            return Ok(stored);
        }
        Ok(Box::new(stored.filter_map(|entry| match entry {
            Ok(entry) => self.without_prefix(entry).map(Ok),
            Err(error) => Some(Err(error)),
        })))
    }

    /// Returns where a path of the tree stands in the target, where that is below the selected path.
    fn path_in_target<'p>(&self, tree_path: &'p [u8]) -> &'p [u8] {
        let rest = tree_path.strip_prefix(self.prefix).filter(|_| self.strips_prefix);
        rest.map_or(tree_path, |rest| rest.strip_prefix(b"/").unwrap_or(rest))
    }

    /// Takes the prefix away from an entry's path; the entry of the prefix itself, if it is a directory, is the target.
    fn without_prefix(&self, mut entry: Entry) -> Option<Entry> {
        let behind = |path: &[u8]| {
            let rest = path.strip_prefix(self.prefix)?;
            Some(rest.strip_prefix(b"/").unwrap_or(rest).to_vec())
        };
        entry.path = match behind(&entry.path)? {
            path if !path.is_empty() => path,
            _ if entry.kind == EntryKind::Directory => return None,
            _ => self.prefix.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec(),
        };
        if let EntryKind::File(file) = &mut entry.kind {
            // A first name outside of what is restored is of no use: the content stands here too.
            file.hard_link = file.hard_link.take().and_then(|first| behind(&first)).filter(|path| !path.is_empty());
        }
        Some(entry)
    }

    /// Returns the selected entries that can be read, and that a directory can hold. What is none of these was reported
    /// when files were restored.
    fn restorable_entries(&self) -> Result<impl Iterator<Item = Result<Entry>>> {
        let mut names = FileNames::default();
        Ok(self.entries()?.filter(move |entry| match entry {
            Ok(entry) => names.admit(entry).is_ok(),
            Err(error) => !error.is_damage(),
        }))
    }

    fn restore_files(&self) -> Result<bool> {
        let mut batch = FileBatch::default();
        let mut found = false;
        let mut names = FileNames::default();
        for entry in self.entries()? {
            self.hears.check()?;
            found = true;
            let entry = match entry {
                Err(error) if error.is_damage() => {
                    self.report(self.component.name.as_bytes(), &format!("a part of its tree is lost: {error}"));
                    continue;
                }
                entry => entry?,
            };
            if let Err(reason) = names.admit(&entry) {
                self.problem(&entry, &format!("it is not restored: {reason}"));
                continue;
            }
            match &entry.kind {
                EntryKind::Directory => self.restore_directory(&entry),
                EntryKind::File(file) if file.hard_link.is_none() => {
                    batch.push(entry);
                    if batch.is_full() {
                        self.restore_batch(std::mem::take(&mut batch))?;
                    }
                }
                EntryKind::File(_) | EntryKind::Symlink { .. } => {}
            }
        }
        self.restore_batch(batch)?;
        Ok(found)
    }

    fn restore_directory(&self, entry: &Entry) {
        add(&self.tally.directories, 1);
        if self.options.dry_run {
            return;
        }
        let made =
            self.refuse_other(entry, ExistingKind::Directory).and_then(|()| self.target.make_directory(&entry.path));
        if let Err(error) = made {
            self.problem(entry, &error.to_string());
        }
    }

    /// Symlinks and hard links come after all files: no file is ever written through one.
    fn restore_links(&self) -> Result<()> {
        let mut batch = FileBatch::default();
        for entry in self.restorable_entries()? {
            self.hears.check()?;
            let entry = entry?;
            match &entry.kind {
                EntryKind::Symlink { target } => {
                    let target = target.clone();
                    self.restore_link(&entry, || self.restore_symlink(&entry, &target));
                }
                EntryKind::File(file) => {
                    let Some(first) = file.hard_link.clone() else { continue };
                    if self.is_linkable(&first, &entry) {
                        self.restore_link(&entry, || self.restore_hard_link(&entry, &first));
                    } else {
                        batch.push(entry);
                    }
                }
                EntryKind::Directory => {}
            }
            if batch.is_full() {
                self.restore_batch(std::mem::take(&mut batch))?;
            }
        }
        self.restore_batch(batch)
    }

    fn restore_link(&self, entry: &Entry, restore: impl FnOnce() -> Result<()>) {
        match self.keeps_existing(entry) {
            Ok(true) => return,
            Ok(false) => add(&self.tally.links, 1),
            Err(error) => return self.problem(entry, &error.to_string()),
        }
        if self.options.dry_run {
            return;
        }
        if let Err(error) = restore() {
            self.problem(entry, &error.to_string());
        }
    }

    /// Returns whether the user wants something left that stands where a link would; counts it.
    fn keeps_existing(&self, entry: &Entry) -> Result<bool> {
        let kept = self.target.look(&entry.path)?.is_some_and(|existing| self.is_left(entry, &existing));
        add(&self.tally.files_kept, u64::from(kept));
        Ok(kept)
    }

    fn restore_symlink(&self, entry: &Entry, link_target: &[u8]) -> Result<()> {
        let existing = self.target.look(&entry.path)?;
        if existing.is_some_and(|existing| existing.kind == ExistingKind::Symlink) {
            if self.target.read_symlink(&entry.path)? == link_target {
                return self.set_metadata(entry);
            }
            self.target.remove(&entry.path)?;
        }
        self.refuse_other(entry, ExistingKind::Symlink)?;
        self.target.make_symlink(&entry.path, link_target)?;
        self.set_metadata(entry)
    }

    fn is_first_selected(&self, first: &[u8]) -> bool {
        let is_wanted = match self.strips_prefix {
            true => self.options.patterns.select(&[self.prefix, b"/", first].concat()),
            false => is_selected(first, self.prefix) && self.options.patterns.select(first),
        };
        is_wanted && directory::parts(first).is_ok()
    }

    /// The first name must have been restored too, or else be what the snapshot says.
    fn is_linkable(&self, first: &[u8], entry: &Entry) -> bool {
        let selected = self.is_first_selected(first);
        if self.options.dry_run || !selected {
            return selected;
        }
        let same_size = |existing: directory::Existing| {
            existing.kind == ExistingKind::File
                && existing.size == entry.size()
                && existing.mtime == entry.metadata.mtime
        };
        self.target.look(first).is_ok_and(|existing| existing.is_some_and(same_size))
    }

    fn restore_hard_link(&self, entry: &Entry, first: &[u8]) -> Result<()> {
        let old = self.target.look(first)?;
        if let Some(existing) = self.target.look(&entry.path)? {
            if old.is_some_and(|old| old.identity == existing.identity) {
                return Ok(());
            }
            if existing.kind == ExistingKind::File {
                self.target.remove(&entry.path)?;
            }
        }
        self.refuse_other(entry, ExistingKind::File)?;
        self.target.make_hard_link(first, &entry.path)
    }

    /// Fails if something of another type is in the way: what may be removed of that was removed before.
    fn refuse_other(&self, entry: &Entry, wanted: ExistingKind) -> Result<()> {
        match self.target.look(&entry.path)? {
            Some(existing) if existing.kind != wanted => {
                let what = describe(existing.kind);
                let reason = match self.options.removals.is_empty() {
                    true => format!("{what} is in the way; --delete would remove it"),
                    false => format!("{what} is in the way"),
                };
                let fault = std::io::Error::new(std::io::ErrorKind::AlreadyExists, reason);
                Err(self.target.fault("restore", &entry.path, fault))
            }
            _ => Ok(()),
        }
    }

    fn problem(&self, entry: &Entry, message: &str) {
        self.report(&entry.path, message);
    }

    fn report(&self, path: &[u8], message: &str) {
        add(&self.tally.problems, 1);
        self.hears.monitor.problem(&String::from_utf8_lossy(path), message);
    }
}

/// Files that would have to be directories for what may follow: in a bucket, `k` and `k/x` can both be objects.
#[derive(Default)]
struct FileNames(Vec<Vec<u8>>);

impl FileNames {
    /// Fails for what a directory cannot hold, by itself or beside the entries before it. Entries come in byte order.
    fn admit(&mut self, entry: &Entry) -> Result<(), &'static str> {
        directory::parts(&entry.path)?;
        // Between `k` and `k/x` there may be `k-y`; what does not begin with `k` comes after both.
        while self.0.last().is_some_and(|name| !entry.path.starts_with(name)) {
            self.0.pop();
        }
        if self.0.iter().any(|name| entry.path[name.len()..].starts_with(b"/")) {
            return Err("a file stands where it needs a directory");
        }
        if entry.kind != EntryKind::Directory {
            if entry.path.ends_with(b"/") {
                return Err("it has content, and only a directory can have a name that ends in /");
            }
            self.0.push(entry.path.clone());
        }
        Ok(())
    }
}

fn describe(kind: ExistingKind) -> &'static str {
    match kind {
        ExistingKind::Directory => "a directory",
        ExistingKind::File => "a file",
        ExistingKind::Symlink => "a symlink",
        ExistingKind::Other => "a special file",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::BlobKind;
    use crate::format::tree::{FileContent, Metadata};
    use crate::id::Digest;

    fn file(path: &str) -> Entry {
        let digest = Digest::from_bytes([0; 32]);
        let content = FileContent {
            kind: BlobKind::Data,
            size: 1,
            digest,
            chunks: vec![],
            indirect: false,
            sparse: false,
            racy: false,
            hard_link: None,
        };
        Entry { path: path.into(), metadata: Metadata::default(), kind: EntryKind::File(content), attributes: vec![] }
    }

    #[test]
    fn of_keys_that_no_directory_can_hold_together_the_first_is_restored() {
        let mut names = FileNames::default();
        let cases = [
            ("/a", false),
            ("a//b", false),
            ("k", true),
            ("k-y", true),
            ("k-y/z", false),
            ("k/", false),
            ("k/x", false),
            ("k/x/y", false),
            ("kk", true),
            ("l/", false),
            ("l/x", true),
        ];
        for (path, is_admitted) in cases {
            assert_eq!(names.admit(&file(path)).is_ok(), is_admitted, "{path}");
        }
    }
}
