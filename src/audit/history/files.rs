//! The files of an item over time, as the trees of snapshots have them.
//!
//! What must stay true: a node that snapshots share is read once; what a tree says counts, whatever the catalogue said of it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value as Json;

use crate::audit::history::facts::{FILES_PATH, Facts, changes};
use crate::audit::history::{Change, ItemHistory, ItemKind};
use crate::chunks::reader::ChunkReader;
use crate::error::{Error, Result};
use crate::find::{self, FoundEntry, Query, Version};
use crate::format::tree::{Entry, EntryKind};
use crate::hears::Hears;
use crate::id::{Digest, SessionId};
use crate::repository::snapshots::Snapshot;

/// What a file was in snapshots that follow each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileVersion {
    /// Bytes.
    pub bytes: u64,
    /// BLAKE3 of its content.
    pub digest: Option<Digest>,
    /// The first of the snapshots.
    pub first: SessionId,
    /// The last of them.
    pub last: SessionId,
    /// How many there are.
    pub snapshots: u64,
}

/// A file over time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileHistory {
    /// Its path as users know it.
    pub path: String,
    /// What it was, oldest first. One, if it never changed.
    pub versions: Vec<FileVersion>,
}

/// Paths below one that is asked for. A history keeps all of them.
const PATHS_MAX: usize = 10_000;

/// Adds the files of an item that is in these snapshots, among others, wherever each of them has them.
pub(super) fn add_to(
    item: &mut ItemHistory,
    reader: &ChunkReader,
    snapshots: &[&Snapshot],
    hears: &Hears,
) -> Result<u64> {
    let mut unreadable = 0;
    for (path, with) in places(item, snapshots) {
        let (found, lost) = find_below(reader, &with, path.as_bytes(), hears)?;
        unreadable += lost;
        item.files.extend(found.into_iter().map(|found| file_history(found, &with)));
    }
    if item.kind == ItemKind::Version {
        tell_of_overwritten(item);
    }
    Ok(unreadable)
}

/// Returns where the files of an item are, with the snapshots that have them there.
fn places(item: &ItemHistory, snapshots: &[&Snapshot]) -> BTreeMap<String, Vec<Snapshot>> {
    let mut places: BTreeMap<String, Vec<Snapshot>> = BTreeMap::new();
    let mut path = path_of(&item.at_first);
    for id in &item.snapshots {
        let moved = item.changes.iter().find(|change| change.snapshot == *id && change.what == FILES_PATH);
        path = moved.map_or(path, |change| change.new.as_str().map(str::to_owned));
        let snapshot = snapshots.iter().find(|snapshot| snapshot.id == *id);
        if let (Some(path), Some(snapshot)) = (&path, snapshot) {
            places.entry(path.clone()).or_default().push((*snapshot).clone());
        }
    }
    places
}

fn path_of(facts: &Facts) -> Option<String> {
    facts.get(FILES_PATH)?.as_str().map(str::to_owned)
}

/// Says what the trees show and the catalogue did not: a digest over all files may be missing, or wrong.
fn tell_of_overwritten(item: &mut ItemHistory) {
    if item.is_altered() {
        return;
    }
    let text = |version: &FileVersion| version.digest.map_or(Json::Null, |digest| Json::from(digest.to_string()));
    let overwritten = item.files.iter().flat_map(|file| {
        file.versions.windows(2).map(|pair| Change {
            snapshot: pair[1].first,
            what: file.path.clone(),
            old: text(&pair[0]),
            new: text(&pair[1]),
            alters: true,
        })
    });
    let mut overwritten: Vec<Change> = overwritten.collect();
    item.changes.append(&mut overwritten);
}

/// Follows a path, and what is below it.
pub(super) fn of_path(
    reader: &ChunkReader,
    snapshots: &[&Snapshot],
    path: &[u8],
    hears: &Hears,
) -> Result<(Vec<ItemHistory>, u64)> {
    let snapshots: Vec<Snapshot> = snapshots.iter().map(|snapshot| (*snapshot).clone()).collect();
    let (found, unreadable) = find_below(reader, &snapshots, path, hears)?;
    Ok((found.into_iter().map(|found| path_history(found, &snapshots)).collect(), unreadable))
}

fn find_below(
    reader: &ChunkReader,
    snapshots: &[Snapshot],
    path: &[u8],
    hears: &Hears,
) -> Result<(Vec<FoundEntry>, u64)> {
    let query = Query { path: path.to_vec(), ..Query::default() };
    let mut all = Vec::new();
    let mut take = |found: FoundEntry| {
        let is_directory = |version: &Version| version.entry.kind == EntryKind::Directory;
        if !found.versions.iter().all(is_directory) {
            all.push(found);
        }
        if all.len() > PATHS_MAX {
            let path = String::from_utf8_lossy(path);
            return Err(Error::Refused(format!("More than {PATHS_MAX} paths are below {path:?}: ask for less")));
        }
        Ok(())
    };
    let unreadable = find::run(reader.repository(), snapshots, &query, &mut take, hears)?;
    Ok((all, unreadable))
}

fn ids<'a>(version: &'a Version, snapshots: &'a [Snapshot]) -> impl Iterator<Item = SessionId> + 'a {
    version.snapshots.iter().filter_map(|number| snapshots.get(*number)).map(|snapshot| snapshot.id)
}

/// Joins versions that differ in nothing but their times.
fn file_history(found: FoundEntry, snapshots: &[Snapshot]) -> FileHistory {
    let mut versions: Vec<FileVersion> = Vec::new();
    for version in &found.versions {
        let (bytes, digest) = (version.entry.size(), digest_of(&version.entry));
        let (first, last) = (ids(version, snapshots).next(), ids(version, snapshots).last());
        let (Some(first), Some(last)) = (first, last) else { continue };
        let count = version.snapshots.len() as u64;
        match versions.last_mut().filter(|before| (before.bytes, before.digest) == (bytes, digest)) {
            Some(before) => (before.last, before.snapshots) = (last, before.snapshots + count),
            None => versions.push(FileVersion { bytes, digest, first, last, snapshots: count }),
        }
    }
    FileHistory { path: String::from_utf8_lossy(&found.path).into_owned(), versions }
}

fn path_history(found: FoundEntry, snapshots: &[Snapshot]) -> ItemHistory {
    let mut with: Vec<(usize, Facts)> = Vec::new();
    for version in &found.versions {
        with.extend(version.snapshots.iter().map(|number| (*number, facts_of(&version.entry))));
    }
    with.sort_by_key(|(number, _)| *number);
    let id = |number: &usize| snapshots.get(*number).map(|snapshot| snapshot.id);
    let first = with.first().map(|(number, _)| *number).unwrap_or_default();
    let has = |number: &usize| with.binary_search_by_key(number, |(number, _)| *number).is_ok();
    let changes = with.windows(2).flat_map(|pair| {
        let mut changes = changes(&pair[0].1, &pair[1].1);
        changes.iter_mut().for_each(|change| change.snapshot = id(&pair[1].0).unwrap_or(change.snapshot));
        changes
    });
    ItemHistory {
        kind: ItemKind::Path,
        id: String::from_utf8_lossy(&found.path).into_owned(),
        snapshots: with.iter().filter_map(|(number, _)| id(number)).collect(),
        absent: (first..snapshots.len()).filter(|number| !has(number)).filter_map(|number| id(&number)).collect(),
        at_first: with.first().map(|(_, facts)| facts.clone()).unwrap_or_default(),
        facts: with.last().map(|(_, facts)| facts.clone()).unwrap_or_default(),
        changes: changes.collect(),
        files: vec![file_history(found, snapshots)],
        ..ItemHistory::default()
    }
}

fn digest_of(entry: &Entry) -> Option<Digest> {
    entry.file().map(|file| file.digest)
}

fn facts_of(entry: &Entry) -> Facts {
    let mut facts = Facts::from([("bytes".to_owned(), Json::from(entry.size()))]);
    match &entry.kind {
        EntryKind::File(file) => drop(facts.insert("digest".to_owned(), Json::from(file.digest.to_string()))),
        EntryKind::Symlink { target } => {
            facts.insert("target".to_owned(), Json::from(String::from_utf8_lossy(target)));
        }
        EntryKind::Directory => {}
    }
    let time = Timestamp::new(entry.metadata.mtime.seconds, entry.metadata.mtime.nanoseconds.cast_signed());
    facts.extend(time.ok().map(|time| ("modified".to_owned(), Json::from(time.to_string()))));
    facts
}
