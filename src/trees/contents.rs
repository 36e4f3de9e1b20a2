//! What users call things in a snapshot: one name space over all its components.
//!
//! What must stay true: the entries of the component [`FILES`] have their own paths; those of another one stand below its
//! name, as a restore lays them out. [`shown_path`] and [`select`] are inverse to each other.

use crate::chunks::reader::ChunkReader;
use crate::error::{Error, Result};
use crate::format::snapshot::{Component, FILES};
use crate::format::tree::{Entry, EntryKind, Metadata};
use crate::repository::snapshots::Snapshot;
use crate::trees::reader::TreeReader;

/// Permissions of a directory that was an object, or has no entry of its own.
const DIRECTORY_MODE: u32 = 0o755;

/// Returns the name under which users know an entry of a component.
pub fn shown_path(component: &str, path: &[u8]) -> Vec<u8> {
    if component == FILES { path.to_vec() } else { [component.as_bytes(), b"/", path].concat() }
}

/// Returns a path as users may write it without `./` before and `/` around it.
pub fn normal_path(path: &[u8]) -> &[u8] {
    let mut path = path.strip_prefix(b"./").unwrap_or(path);
    while let Some(rest) = path.strip_prefix(b"/").or_else(|| path.strip_suffix(b"/")) {
        path = rest;
    }
    if path == b"." { b"" } else { path }
}

/// A component, and the path in it that was asked for; empty for all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection<'a> {
    /// The component.
    pub component: &'a Component,
    /// The path in its tree, without a trailing `/`.
    pub path: Vec<u8>,
}

/// Returns where in a snapshot a path, as users know it, may lead; the empty path leads everywhere.
pub fn select<'a>(snapshot: &'a Snapshot, path: &[u8]) -> Vec<Selection<'a>> {
    let components = snapshot.record.components.iter();
    components
        .filter_map(|component| path_in(&component.name, path).map(|path| Selection { component, path }))
        .collect()
}

/// Returns what a path, as users know it, is in a component, or `None` if it cannot be in it.
pub fn path_in(component: &str, path: &[u8]) -> Option<Vec<u8>> {
    let name = component.as_bytes();
    if path.is_empty() || path == name || name.strip_prefix(path).is_some_and(|rest| rest.starts_with(b"/")) {
        return Some(if component == FILES { path.to_vec() } else { Vec::new() });
    }
    if component == FILES {
        return Some(path.to_vec());
    }
    path.strip_prefix(name)?.strip_prefix(b"/").map(<[u8]>::to_vec)
}

/// Returns what of a component's name is below a path, if the path is a directory of components.
pub fn name_below<'a>(component: &'a str, path: &[u8]) -> Option<&'a str> {
    let begins = component != FILES && component.as_bytes().strip_prefix(path)?.starts_with(b"/");
    begins.then(|| &component[path.len() + 1..])
}

/// Returns whether `path` is `selected`, a directory of that name, or below it.
pub fn is_selected(path: &[u8], selected: &[u8]) -> bool {
    match path.strip_prefix(selected) {
        Some(rest) => selected.is_empty() || rest.is_empty() || rest.starts_with(b"/"),
        None => false,
    }
}

/// Reads the entry of exactly this path; that of a directory ends in `/`. Reads one node per level.
pub fn entry_at(chunks: &ChunkReader, component: &Component, path: &[u8]) -> Result<Option<Entry>> {
    match TreeReader::open_prefix(chunks, &component.name, &component.root, path)?.next().transpose()? {
        Some(entry) if entry.path == path => Ok(Some(entry)),
        _ => Ok(None),
    }
}

/// Iterates over what is selected: what is at the path, and all below it; or a whole component.
pub fn entries<'a>(
    chunks: &'a ChunkReader,
    selection: &Selection<'_>,
) -> Result<Box<dyn Iterator<Item = Result<Entry>> + 'a>> {
    let (component, path) = (selection.component, &selection.path);
    if path.is_empty() {
        return Ok(Box::new(TreeReader::open(chunks, &component.name, &component.root)?));
    }
    // In a bucket, both may be there: an object `k`, and `k/x`.
    let itself = entry_at(chunks, component, path)?;
    let below = TreeReader::open_prefix(chunks, &component.name, &component.root, &[path, &b"/"[..]].concat())?;
    Ok(Box::new(itself.map(Ok).into_iter().chain(below)))
}

/// Returns an entry for a directory that has none of its own, but something below it. Its path ends in `/`.
pub fn implied_directory(path: &[u8]) -> Entry {
    let metadata = Metadata { mode: DIRECTORY_MODE, ..Metadata::default() };
    Entry { path: path.to_vec(), metadata, kind: EntryKind::Directory, attributes: Vec::new() }
}

/// Returns an entry as a file system has it: an empty object whose key ends in `/` stands for a directory.
pub fn as_directory(entry: Entry) -> Entry {
    match &entry.kind {
        EntryKind::File(file) if file.size == 0 && entry.path.ends_with(b"/") => {
            let metadata = Metadata { mode: DIRECTORY_MODE, ..entry.metadata };
            Entry { metadata, kind: EntryKind::Directory, ..entry }
        }
        _ => entry,
    }
}

/// Makes the error that says that a snapshot has no such path.
pub fn no_such_path(snapshot: &Snapshot, path: &[u8]) -> Error {
    Error::NotFound(format!("The snapshot {} has no {:?}", snapshot.id.short(), String::from_utf8_lossy(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_path_leads_back_into_its_component() {
        for (component, path) in [(FILES, &b"a/b"[..]), ("artifacts/models", b"a/b"), ("database", b"dump.sql")] {
            let shown = shown_path(component, path);
            assert_eq!(path_in(component, &shown), Some(path.to_vec()), "{component}");
        }
        assert_eq!(path_in("artifacts/models", b"artifacts"), Some(Vec::new()));
        assert_eq!(path_in("artifacts/models", b"artifacts/models"), Some(Vec::new()));
        assert_eq!(path_in("artifacts/models", b"artifacts/model"), None);
        assert_eq!(path_in("database", b"data"), None);
        assert_eq!(name_below("artifacts/models", b"artifacts"), Some("models"));
        assert_eq!(name_below("artifacts/models", b"artifacts/models"), None);
        assert_eq!(path_in(FILES, b""), Some(Vec::new()));
        assert_eq!(path_in(FILES, b"files"), Some(b"files".to_vec()));
    }

    #[test]
    fn a_path_selects_itself_and_what_is_below_it() {
        assert!(is_selected(b"a/b", b"a") && is_selected(b"a/", b"a") && is_selected(b"a", b"a"));
        assert!(is_selected(b"x", b"") && !is_selected(b"ab", b"a"));
    }

    #[test]
    fn paths_are_taken_as_users_write_them() {
        for text in ["a/b", "/a/b", "./a/b/", "//a/b//"] {
            assert_eq!(normal_path(text.as_bytes()), b"a/b", "{text}");
        }
        assert!(normal_path(b".").is_empty() && normal_path(b"/").is_empty() && normal_path(b"./").is_empty());
    }
}
