//! Finds what the target has and the snapshot has not, and removes what somebody agreed to (`--delete`).
//!
//! What must stay true: nothing is planned of a tree that cannot be read whole; only what was planned is removed, file by
//! file, and a directory only once it is empty.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::path::PathBuf;

use crate::error::Result;
use crate::format::tree::{Entry, EntryKind};
use crate::restore::removals::{Doomed, RemovalCounts, Removals, Scope};
use crate::restore::{DirectoryRestore, add};
use crate::source::directory::DirectorySource;
use crate::source::filter::Filter;
use crate::source::{Found, Item, ItemKind, Source};
use crate::target::directory::{ExistingKind, PathInTarget};

/// The selected entries of a tree, with the paths that the tree has.
type Entries<'a> = Peekable<Box<dyn Iterator<Item = Result<Entry>> + 'a>>;

impl DirectoryRestore<'_> {
    /// Adds what is to be removed below this target.
    pub(super) fn plan_removals(&self, scope: &Scope, removals: &mut Removals) -> Result<()> {
        let found = self.find_extra(scope, &removals.filter).and_then(|extra| self.sort_out(extra));
        let doomed = match found {
            // What is in a part of the tree that is lost would look like something that the snapshot does not have.
            Err(error) if error.is_damage() => {
                let component = &self.component.name;
                removals.reserves.push(format!("nothing is removed beside {component}: a part of its tree is lost"));
                return Ok(());
            }
            found => found?,
        };
        removals.by_root.insert(self.target.path_of(b""), doomed);
        Ok(())
    }

    /// Returns the topmost paths of the target that are not in the tree, below directories that the backup listed.
    fn find_extra(&self, scope: &Scope, filter: &Filter) -> Result<BTreeMap<PathInTarget, RemovalCounts>> {
        let mut tree: Entries<'_> = self.stored_entries()?.peekable();
        let mut extra = BTreeMap::new();
        // Only if there is something: a path that is mistyped must not empty the target.
        if scope.covers_top && tree.peek().is_some() {
            self.find_extra_below(self.prefix, &mut tree, (scope, filter), &mut extra)?;
            return Ok(extra);
        }
        while let Some(entry) = tree.next() {
            let entry = entry?;
            // A directory that the snapshot only implies, by what is below it, was not listed.
            if entry.kind == EntryKind::Directory {
                let directory = entry.path.strip_suffix(b"/").unwrap_or(&entry.path);
                self.find_extra_below(directory, &mut tree, (scope, filter), &mut extra)?;
            }
        }
        Ok(extra)
    }

    /// Walks a directory of the target beside the tree; both are in byte order. Takes what the tree has of it.
    fn find_extra_below(
        &self,
        directory: &[u8],
        tree: &mut Entries<'_>,
        (scope, filter): (&Scope, &Filter),
        extra: &mut BTreeMap<PathInTarget, RemovalCounts>,
    ) -> Result<()> {
        let Some(place) = self.directory_at(self.path_in_target(directory)) else { return Ok(()) };
        let source = DirectorySource::content_at(directory, &place, filter.clone())?;
        let mut spared: Option<Vec<u8>> = None;
        let mut last: Option<(Vec<u8>, PathInTarget)> = None;
        for found in source.walk() {
            self.hears.check()?;
            let Found::Item(item) = found else { continue };
            // The directory itself was taken from the tree before, or has no entry there.
            let is_itself = item.path.strip_suffix(b"/") == Some(directory);
            if is_itself || is_below(&item.path, spared.as_deref()) || self.is_known(&item, tree)? {
                continue;
            }
            let counts = counts_of(&item);
            if let Some((_, top)) = last.as_ref().filter(|(top, _)| is_below(&item.path, Some(top))) {
                extra.entry(top.clone()).or_default().add(&counts);
            } else if scope.spares(&item.path) {
                spared = Some(item.path);
            } else {
                let path = self.path_in_target(&item.path).to_vec();
                extra.insert(path.clone(), counts);
                last = Some((item.path, path));
            }
        }
        Ok(())
    }

    /// Returns where a path of the target leads, if it leads to a directory, and through no symlink.
    fn directory_at(&self, path: &[u8]) -> Option<PathBuf> {
        let place = self.target.path_of(path);
        let is_directory = match path {
            b"" => place.is_dir(),
            path => self.target.look(path).is_ok_and(|it| it.is_some_and(|it| it.kind == ExistingKind::Directory)),
        };
        is_directory.then_some(place)
    }

    /// Goes on to a path in the tree, and returns whether the tree has it.
    fn is_known(&self, item: &Item, tree: &mut Entries<'_>) -> Result<bool> {
        let path = &item.path;
        while tree.next_if(|entry| entry.as_ref().is_ok_and(|entry| entry.path < *path)).is_some() {}
        if let Some(Err(_)) = tree.peek() {
            tree.next().transpose()?;
        }
        let Some(Ok(entry)) = tree.peek() else { return Ok(false) };
        // A directory that the snapshot only implies, by what is below it, belongs to it too.
        Ok(match &item.kind {
            ItemKind::Directory => entry.path.starts_with(path),
            kind => entry.path == *path && is_symlink(kind) == matches!(entry.kind, EntryKind::Symlink { .. }),
        })
    }

    /// Tells what is in the way of the snapshot from what it has nothing of. What the overwrite mode keeps stays.
    fn sort_out(&self, mut extra: BTreeMap<PathInTarget, RemovalCounts>) -> Result<Doomed> {
        let mut doomed = Doomed::default();
        if extra.is_empty() {
            return Ok(doomed);
        }
        for entry in self.entries()? {
            let entry = entry?;
            for path in with_those_above(&entry.path) {
                let directory = [path, b"/"].concat();
                for key in [path, &directory[..]] {
                    let Some(counts) = extra.remove(key) else { continue };
                    let kept = self.target.look(key)?.is_some_and(|existing| self.is_left(&entry, &existing));
                    if !kept {
                        doomed.in_the_way.insert(key.to_vec(), counts);
                    }
                }
            }
        }
        doomed.extra = extra;
        Ok(doomed)
    }

    /// Removes what is in the way, before anything is restored; or what is not in the snapshot, when all of it is there.
    pub(super) fn remove(&self, which: impl Fn(&Doomed) -> &BTreeMap<PathInTarget, RemovalCounts>) -> Result<()> {
        let removals = &self.options.removals;
        let Some(doomed) = removals.by_root.get(&self.target.path_of(b"")) else { return Ok(()) };
        for (path, counts) in which(doomed) {
            self.hears.check()?;
            if self.options.dry_run {
                add(&self.tally.removed, counts.files + counts.directories);
                self.hears.monitor.note(&format!("would remove {}", self.target.path_of(path).display()));
            } else if path.ends_with(b"/") {
                self.remove_directory(path, &removals.filter)?;
            } else {
                self.remove_one(path);
            }
        }
        Ok(())
    }

    /// Removes a directory with all in it that a backup would have stored.
    fn remove_directory(&self, path: &[u8], filter: &Filter) -> Result<()> {
        let mut open: Vec<Vec<u8>> = vec![path.to_vec()];
        let directory = path.strip_suffix(b"/").unwrap_or(path);
        let Some(place) = self.directory_at(directory) else { return Ok(()) };
        for found in DirectorySource::content_at(directory, &place, filter.clone())?.walk() {
            self.hears.check()?;
            let Found::Item(item) = found else { continue };
            // Our own directories can be emptied though nobody may write in them.
            if item.kind == ItemKind::Directory
                && let Err(error) = self.target.make_directory(&item.path)
            {
                self.report(&item.path, &error.to_string());
            }
            if item.path == path {
                continue;
            }
            while let Some(done) = open.pop_if(|above| !item.path.starts_with(above)) {
                self.remove_one(&done);
            }
            match item.kind {
                ItemKind::Directory => open.push(item.path),
                _ => self.remove_one(&item.path),
            }
        }
        open.iter().rev().for_each(|done| self.remove_one(done));
        Ok(())
    }

    fn remove_one(&self, path: &[u8]) {
        match self.target.remove(path) {
            Ok(true) => add(&self.tally.removed, 1),
            Ok(false) => {
                let place = self.target.path_of(path);
                self.hears.monitor.note(&format!("{} stays: not all in it is to be removed", place.display()));
            }
            Err(error) => self.report(path, &error.to_string()),
        }
    }
}

fn is_below(path: &[u8], top: Option<&[u8]>) -> bool {
    top.is_some_and(|top| top.ends_with(b"/") && path.starts_with(top))
}

fn is_symlink(kind: &ItemKind) -> bool {
    matches!(kind, ItemKind::Symlink { .. })
}

fn counts_of(item: &Item) -> RemovalCounts {
    match item.kind {
        ItemKind::Directory => RemovalCounts { directories: 1, ..RemovalCounts::default() },
        _ => RemovalCounts { files: 1, directories: 0, bytes: item.size().unwrap_or(0) },
    }
}

/// Returns a path without its trailing `/`, and the directories that it is in.
fn with_those_above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let above = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at]);
    above.chain([path])
}
