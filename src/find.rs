//! Finds files in all snapshots, by name, path or digest, and tells which snapshots have which version.
//!
//! What must stay true: every tree node is read once, however many snapshots share it; results come in path order while
//! the trees are read, so memory does not grow with their number; a node that cannot be read is reported, and the rest
//! is searched.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::chunks::reader::ChunkReader;
use crate::error::{Error, Result};
use crate::format::tree::{Entry, EntryKind};
use crate::globs::Globs;
use crate::hears::Hears;
use crate::id::{ChunkId, Digest};
use crate::monitor::Counter;
use crate::repository::Repository;
use crate::repository::snapshots::Snapshot;
use crate::trees::contents::{self, is_selected, shown_path};
use crate::trees::merge::{Merged, Shared, TreeMerge, Trees};

/// What to find.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Globs, of which one must match: the name, or where it has a `/`, the whole path. None match everything.
    pub patterns: Vec<String>,
    /// Digests, of which a file must have one. None match everything.
    pub digests: Vec<Digest>,
    /// Only this path and what is below it; empty for everything.
    pub path: Vec<u8>,
}

/// One path that was found.
#[derive(Debug, Clone)]
pub struct FoundEntry {
    /// The path that users know it by.
    pub path: Vec<u8>,
    /// Its versions, in the order of the snapshots.
    pub versions: Vec<Version>,
}

/// The same file, directory or symlink in snapshots that follow each other.
///
/// Snapshots in between that do not have the path at all do not end a version: they may be of another source.
#[derive(Debug, Clone)]
pub struct Version {
    /// The entry in the first of the snapshots.
    pub entry: Entry,
    /// Which snapshots have it: their places in the list given, ascending, at least one.
    pub snapshots: Vec<usize>,
}

/// Searches `snapshots`, which are sorted by time, and calls `visit` with each path found. Returns how many nodes could
/// not be read.
pub fn run(
    repository: &Arc<Repository>,
    snapshots: &[Snapshot],
    query: &Query,
    visit: &mut dyn FnMut(FoundEntry) -> Result<()>,
    hears: &Hears,
) -> Result<u64> {
    let reader = ChunkReader::new(Arc::clone(repository));
    let search = Search { reader: &reader, snapshots, query, matcher: Matcher::new(query)?, hears };
    hears.monitor.phase("find", None, None);
    let components = snapshots.iter().flat_map(|snapshot| &snapshot.record.components);
    let names: BTreeSet<&str> = components.map(|component| component.name.as_str()).collect();
    let mut unreadable = 0;
    for component in names {
        unreadable += search.component(component, visit)?;
    }
    Ok(unreadable)
}

struct Search<'a> {
    reader: &'a ChunkReader,
    snapshots: &'a [Snapshot],
    query: &'a Query,
    matcher: Matcher,
    hears: &'a Hears,
}

impl Search<'_> {
    fn component(&self, component: &str, visit: &mut dyn FnMut(FoundEntry) -> Result<()>) -> Result<u64> {
        let Some(path) = contents::path_in(component, contents::normal_path(&self.query.path)) else { return Ok(0) };
        let (numbers, roots) = self.roots(component);
        let mut unreadable = 0;
        for merged in TreeMerge::open(self.reader, component, &roots, &path, Shared::Read) {
            self.hears.check()?;
            match merged? {
                Merged::Entries(entries) => {
                    self.hears.monitor.count(Counter::Entries, 1);
                    if let Some(found) = self.found(component, &path, &numbers, entries) {
                        visit(found)?;
                    }
                }
                Merged::Unreadable(trees, error) => {
                    unreadable += 1;
                    self.report(&numbers, &trees, &error);
                }
            }
        }
        Ok(unreadable)
    }

    /// Returns the roots of a component and the places of their snapshots.
    fn roots(&self, component: &str) -> (Vec<usize>, Vec<ChunkId>) {
        let with_component = self.snapshots.iter().enumerate().filter_map(|(number, snapshot)| {
            let found = snapshot.record.components.iter().find(|found| found.name == component)?;
            Some((number, found.root))
        });
        with_component.unzip()
    }

    fn found(
        &self,
        component: &str,
        selected: &[u8],
        numbers: &[usize],
        entries: Vec<(Trees, Entry)>,
    ) -> Option<FoundEntry> {
        let (_, first) = entries.first()?;
        let path = shown_path(component, &first.path);
        if !is_selected(&first.path, selected) || !self.matcher.matches_path(&path) {
            return None;
        }
        let mut versions = versions(numbers, entries);
        versions.retain(|version| self.matcher.matches_digest(&version.entry));
        (!versions.is_empty()).then_some(FoundEntry { path, versions })
    }

    fn report(&self, numbers: &[usize], trees: &Trees, error: &Error) {
        let first = trees.first().and_then(|tree| numbers.get(*tree)).and_then(|number| self.snapshots.get(*number));
        let name = first.map_or_else(String::new, |snapshot| snapshot.id.short());
        self.hears.monitor.problem(&format!("{} snapshots, the first is {name}", trees.len()), &error.to_string());
    }
}

/// Sorts the entries of one path by snapshot, and joins neighbours that are the same.
fn versions(numbers: &[usize], entries: Vec<(Trees, Entry)>) -> Vec<Version> {
    let mut all: Vec<(usize, &Entry)> = entries
        .iter()
        .flat_map(|(trees, entry)| trees.iter().filter_map(|tree| numbers.get(*tree)).map(move |at| (*at, entry)))
        .collect();
    all.sort_by_key(|(number, _)| *number);
    let mut versions: Vec<Version> = Vec::new();
    for (number, entry) in all {
        match versions.last_mut() {
            Some(version) if is_same(&version.entry, entry) => version.snapshots.push(number),
            _ => versions.push(Version { entry: entry.clone(), snapshots: vec![number] }),
        }
    }
    versions
}

/// Compares what makes a version: type, time, and content.
fn is_same(a: &Entry, b: &Entry) -> bool {
    let same_content = match (&a.kind, &b.kind) {
        (EntryKind::File(a), EntryKind::File(b)) => a.size == b.size && a.digest == b.digest,
        (a, b) => a == b,
    };
    same_content && a.metadata.mtime == b.metadata.mtime
}

struct Matcher {
    globs: Globs,
    digests: Vec<Digest>,
}

impl Matcher {
    fn new(query: &Query) -> Result<Self> {
        Ok(Self { globs: Globs::new(&query.patterns, "pattern")?, digests: query.digests.clone() })
    }

    fn matches_path(&self, path: &[u8]) -> bool {
        self.globs.is_empty() || self.globs.matches(path)
    }

    fn matches_digest(&self, entry: &Entry) -> bool {
        self.digests.is_empty() || entry.file().is_some_and(|file| self.digests.contains(&file.digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tree::{FileTime, Metadata};

    fn directory(mtime: i64) -> Entry {
        let metadata = Metadata { mtime: FileTime { seconds: mtime, nanoseconds: 0 }, ..Metadata::default() };
        Entry { path: b"d/".to_vec(), metadata, kind: EntryKind::Directory, attributes: Vec::new() }
    }

    #[test]
    fn neighbours_that_are_the_same_are_one_version_and_gaps_do_not_end_it() {
        let entries = vec![(Trees::from([0, 1, 4]), directory(1)), (Trees::from([2]), directory(2))];
        let found = versions(&[10, 11, 12, 13, 20], entries);
        let runs: Vec<_> = found.iter().map(|version| version.snapshots.clone()).collect();
        assert_eq!(runs, [vec![10, 11], vec![12], vec![20]]);
        let with_gap = versions(&[0, 5, 9], vec![(Trees::from([0, 2]), directory(1))]);
        assert_eq!(with_gap.len(), 1);
    }

    #[test]
    fn a_pattern_with_a_slash_matches_whole_paths_others_match_names() {
        let matcher = |patterns: &[&str]| {
            let patterns = patterns.iter().map(ToString::to_string).collect();
            Matcher::new(&Query { patterns, ..Query::default() }).unwrap()
        };
        assert!(matcher(&["*.pkl"]).matches_path(b"a/b/model.pkl"));
        assert!(!matcher(&["*.pkl"]).matches_path(b"a/model.pkl/x"));
        assert!(matcher(&["a/*/model.pkl"]).matches_path(b"a/b/model.pkl"));
        assert!(!matcher(&["a/*"]).matches_path(b"a/b/model.pkl"));
        assert!(matcher(&["**/model.pkl"]).matches_path(b"a/b/model.pkl"));
        assert!(matcher(&["b"]).matches_path(b"a/b/"));
        assert!(matcher(&[]).matches_path(b"a\xFF"));
        assert!(Matcher::new(&Query { patterns: vec!["[".into()], ..Query::default() }).is_err());
    }
}
