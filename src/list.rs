//! Lists what is in a snapshot.
//!
//! What must stay true: entries come in path order, component by component; of a tree only what is listed is read, and
//! for one level of a directory not what is below its subdirectories, whether those have entries of their own or, as in
//! a bucket, only something below them.

use std::sync::Arc;

use crate::chunks::reader::ChunkReader;
use crate::error::Result;
use crate::format::tree::Entry;
use crate::hears::Hears;
use crate::repository::Repository;
use crate::repository::snapshots::Snapshot;
use crate::trees::contents::{self, Selection, shown_path};
use crate::trees::reader::TreeReader;

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// A file, or a directory whose content is listed; empty for everything.
    pub path: Vec<u8>,
    /// Whether to list what is below subdirectories too.
    pub recursive: bool,
}

/// Calls `visit` with every entry listed and the path that users know it by.
///
/// Fails with [`crate::error::Error::NotFound`] if the snapshot does not have the path.
pub fn run(
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    options: &ListOptions,
    visit: &mut dyn FnMut(&[u8], &Entry) -> Result<()>,
    hears: &Hears,
) -> Result<()> {
    let reader = ChunkReader::new(Arc::clone(repository));
    let path = contents::normal_path(&options.path);
    let mut found = path.is_empty();
    for selection in contents::select(snapshot, path) {
        found |= list(&reader, &selection, options.recursive, &mut |entry| {
            hears.check()?;
            visit(&shown_path(&selection.component.name, &entry.path), entry)
        })?;
    }
    if found { Ok(()) } else { Err(contents::no_such_path(snapshot, path)) }
}

/// Returns whether the path is there.
fn list(
    reader: &ChunkReader,
    selection: &Selection<'_>,
    recursive: bool,
    visit: &mut dyn FnMut(&Entry) -> Result<()>,
) -> Result<bool> {
    let (component, path) = (selection.component, &selection.path);
    if path.is_empty() {
        list_below(reader, selection, b"", recursive, visit)?;
        return Ok(true);
    }
    let file = contents::entry_at(reader, component, path)?;
    if let Some(entry) = &file {
        visit(entry)?;
    }
    // In a bucket, both may be there: an object `k`, and `k/x`.
    let below = list_below(reader, selection, &[path, &b"/"[..]].concat(), recursive, visit)?;
    Ok(below || file.is_some())
}

/// Lists what is below `directory`, which ends in `/` or is empty. Returns whether it is there.
fn list_below(
    reader: &ChunkReader,
    selection: &Selection<'_>,
    directory: &[u8],
    recursive: bool,
    visit: &mut dyn FnMut(&Entry) -> Result<()>,
) -> Result<bool> {
    let component = selection.component;
    let mut tree = TreeReader::open_prefix(reader, &component.name, &component.root, directory)?;
    let mut found = false;
    while let Some(entry) = tree.next().transpose()? {
        found = true;
        if entry.path == directory {
            continue;
        }
        let rest = &entry.path[directory.len()..];
        match rest.iter().position(|byte| *byte == b'/') {
            Some(at) if !recursive => {
                let path = &entry.path[..directory.len() + at + 1];
                if entry.path == path {
                    visit(&entry)?
                } else {
                    visit(&contents::implied_directory(path))?
                }
                tree.skip_to(&end_of(path));
            }
            _ => visit(&entry)?,
        }
    }
    Ok(found)
}

/// Returns the least path behind everything below a directory, whose path ends in `/`: `0` is the byte after it.
fn end_of(directory: &[u8]) -> Vec<u8> {
    [directory.strip_suffix(b"/").unwrap_or(directory), b"0"].concat()
}
