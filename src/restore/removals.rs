//! What a restore is to remove from its target (`--delete`): the plan, and what may never be in it.
//!
//! What must stay true: a path is only in the plan if the backup looked where it stands, and would have stored it. What the
//! backup left out, could not read, or did not reach stays.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::Result;
use crate::format::snapshot::{ARTIFACTS, Coverage, FILES, SnapshotRecord};
use crate::source::filter::{Filter, OwnPlaces};
use crate::target::directory::PathInTarget;
use crate::units::count;

/// How much is to be removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RemovalCounts {
    /// Files and symlinks.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Bytes of the files.
    pub bytes: u64,
}

impl RemovalCounts {
    pub(super) fn add(&mut self, more: &Self) {
        self.files += more.files;
        self.directories += more.directories;
        self.bytes = self.bytes.saturating_add(more.bytes);
    }
}

/// A plan of what to remove. The default removes nothing.
#[derive(Debug, Clone, Default)]
pub struct Removals {
    /// By the directory that a part is restored into.
    pub(super) by_root: BTreeMap<PathBuf, Doomed>,
    pub(super) filter: Filter,
    /// Why nothing, or not everything, is removed that is not in the snapshot.
    pub reserves: Vec<String>,
}

/// What is to be removed below one directory: topmost paths, with what they hold.
#[derive(Debug, Clone, Default)]
pub struct Doomed {
    /// What the snapshot does not have.
    pub(super) extra: BTreeMap<PathInTarget, RemovalCounts>,
    /// What stands where the snapshot has something of another type.
    pub(super) in_the_way: BTreeMap<PathInTarget, RemovalCounts>,
}

impl Doomed {
    fn all(&self) -> impl Iterator<Item = (&PathInTarget, &RemovalCounts)> {
        self.extra.iter().chain(&self.in_the_way)
    }
}

impl Removals {
    /// Returns how much will be removed.
    pub fn counts(&self) -> RemovalCounts {
        let mut sum = RemovalCounts::default();
        self.by_root.values().flat_map(Doomed::all).for_each(|(_, counts)| sum.add(counts));
        sum
    }

    /// Returns whether nothing will be removed.
    pub fn is_empty(&self) -> bool {
        self.by_root.values().all(|doomed| doomed.all().next().is_none())
    }

    /// Returns the topmost paths that will be removed, those of directories with a `/`.
    pub fn paths(&self) -> impl Iterator<Item = PathBuf> {
        use std::os::unix::ffi::OsStrExt;
        let at = |root: &Path, path: &[u8]| root.join(std::ffi::OsStr::from_bytes(path));
        self.by_root.iter().flat_map(move |(root, doomed)| doomed.all().map(move |(path, _)| at(root, path)))
    }
}

/// What of a component the backup looked at.
pub(super) struct Scope {
    /// Whether what stands beside the topmost entries was looked at.
    pub covers_top: bool,
    unread: BTreeSet<String>,
}

impl Scope {
    /// Returns what a backup looked at in a component, or why that is not known.
    pub fn of(record: &SnapshotRecord, component: &str) -> Result<Self, String> {
        let is_walked = component == FILES || component.starts_with(ARTIFACTS);
        let Some(coverage) = record.coverage.as_deref().filter(|_| is_walked) else {
            return Err(format!("nothing is removed beside {component}: the snapshot does not say where it looked"));
        };
        let Coverage { covers_top, unread, unread_count, .. } = coverage;
        if unread.len() as u64 != *unread_count {
            let unread = count(*unread_count, "path");
            return Err(format!("nothing is removed: the backup did not read {unread}, and does not name all of them"));
        }
        let without_slash = |path: &String| path.trim_end_matches('/').to_owned();
        Ok(Self { covers_top: *covers_top, unread: unread.iter().map(without_slash).collect() })
    }

    /// Returns whether something must stay because the backup did not read it, or not all that is in it.
    pub fn spares(&self, tree_path: &[u8]) -> bool {
        // As text, as the record has it: bytes that are not UTF-8 only make it spare more.
        let path = String::from_utf8_lossy(tree_path.strip_suffix(b"/").unwrap_or(tree_path));
        let below = format!("{path}/");
        self.unread.contains(path.as_ref())
            || self.unread.range(below.clone()..).next().is_some_and(|unread| unread.starts_with(&below))
    }
}

/// Returns what must not be looked at in a target: what the backup left out by patterns, and what mlvault needs itself.
pub(super) fn filter_of(record: &SnapshotRecord, own_places: &OwnPlaces) -> Result<Filter> {
    let filter = record.coverage.as_deref().map(Filter::of).transpose()?;
    Ok(filter.unwrap_or_default().without(own_places))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_read_is_spared_with_what_is_above_it() {
        let unread = ["a/secret", "b/x", "a.b"].map(str::to_owned).into();
        let scope = Scope { covers_top: true, unread };
        for (path, is_spared) in [
            ("a/secret", true),
            ("a/secret/", true),
            ("a/", true),
            ("a/secrets", false),
            ("a/s", false),
            ("b/x", true),
            ("b/xx/", false),
            ("c/", false),
        ] {
            assert_eq!(scope.spares(path.as_bytes()), is_spared, "{path}");
        }
    }
}
