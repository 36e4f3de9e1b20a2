//! Names what lost chunks cost: files and parts of trees, in which snapshots, and whose they were.
//!
//! What must stay true: every listed snapshot is looked at, and nodes that snapshots share are read once. What a
//! catalogue says is a help for people: one that cannot be read costs names and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::catalogue::reader;
use crate::chunks::reader::ChunkReader;
use crate::error::{Error, Result};
use crate::format::tree::{Entry, FileContent};
use crate::hears::Hears;
use crate::id::SessionId;
use crate::mlflow::catalogue::{Experiment, REFERENCES, Reference, Run};
use crate::mlflow::names::file;
use crate::mlflow::schema::ReferenceKind;
use crate::repair::survey::Chunk;
use crate::repository::snapshots::Snapshot;
use crate::trees::contents::shown_path;
use crate::trees::merge::{Merged, Shared, TreeMerge};
use crate::trees::reader::for_each_chunk_of;

/// Losses of a snapshot that are named one by one; the rest is counted.
pub const LOSSES_NAMED_MAX: usize = 1000;

/// Something that a snapshot has lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// The snapshot.
    pub snapshot: SessionId,
    /// The component that it stood in.
    pub component: String,
    /// The file's path in its component; `None` for an unknown number of entries, because a tree node is lost.
    pub path: Option<String>,
    /// The file's size in bytes.
    pub bytes: u64,
    /// Why.
    pub reason: String,
    /// Whose it was: experiments, runs, models, versions, in words.
    pub of: Vec<String>,
}

impl Lost {
    /// Returns the loss of a file.
    pub fn file(snapshot: SessionId, component: &str, entry: &Entry, reason: String) -> Self {
        let (component, path) = (component.to_owned(), Some(entry.path_text()));
        Self { snapshot, component, path, bytes: entry.size(), reason, of: Vec::new() }
    }

    /// Returns the loss of whatever was below a node.
    pub fn branch(snapshot: SessionId, component: &str, error: &Error) -> Self {
        let component = component.to_owned();
        Self { snapshot, component, path: None, bytes: 0, reason: error.to_string(), of: Vec::new() }
    }

    /// Returns what was lost as users name it.
    pub fn shown(&self) -> String {
        match &self.path {
            Some(path) => String::from_utf8_lossy(&shown_path(&self.component, path.as_bytes())).into_owned(),
            None => self.component.clone(),
        }
    }
}

/// Losses by snapshot.
#[derive(Debug, Default)]
pub struct Losses {
    /// Of each hurt snapshot what it lost, at most [`LOSSES_NAMED_MAX`], and how much that is.
    pub of: BTreeMap<SessionId, (Vec<Lost>, u64)>,
}

impl Losses {
    fn add(&mut self, lost: Lost) {
        let (named, count) = self.of.entry(lost.snapshot).or_default();
        *count += 1;
        if named.len() < LOSSES_NAMED_MAX {
            named.push(lost);
        }
    }

    /// Returns how many losses there are in all snapshots.
    pub fn count(&self) -> u64 {
        self.of.values().map(|(_, count)| count).sum()
    }

    /// Returns all that are named, snapshot by snapshot.
    pub fn into_named(self) -> Vec<Lost> {
        self.of.into_values().flat_map(|(named, _)| named).collect()
    }
}

/// Finds what snapshots have lost. `hurt` is also called with every hurt file once, its component, and its lost chunks;
/// without any it is its list of chunks that is lost.
pub fn find(
    reader: &ChunkReader,
    snapshots: &[Snapshot],
    lost: &BTreeSet<Chunk>,
    hears: &Hears,
    hurt: &mut dyn FnMut(&str, &Entry, &[Chunk]),
) -> Result<Losses> {
    let mut losses = Losses::default();
    let components: BTreeSet<&str> =
        snapshots.iter().flat_map(|snapshot| &snapshot.record.components).map(|it| it.name.as_str()).collect();
    for name in components {
        let trees: Vec<_> = snapshots
            .iter()
            .flat_map(|snapshot| snapshot.record.components.iter().map(|component| (snapshot.id, component)))
            .filter(|(_, component)| component.name == name)
            .collect();
        let roots: Vec<_> = trees.iter().map(|(_, component)| component.root).collect();
        for merged in TreeMerge::open(reader, name, &roots, b"", Shared::Read) {
            hears.check()?;
            match merged? {
                Merged::Unreadable(of, error) => {
                    of.iter().for_each(|tree| losses.add(Lost::branch(trees[*tree].0, name, &error)));
                }
                Merged::Entries(entries) => {
                    for (of, entry) in &entries {
                        let Some(chunks) = lost_chunks(reader, entry, lost)? else { continue };
                        hurt(name, entry, &chunks);
                        let reason = reason(&chunks);
                        of.iter().for_each(|tree| losses.add(Lost::file(trees[*tree].0, name, entry, reason.clone())));
                    }
                }
            }
        }
    }
    for (id, (named, _)) in &mut losses.of {
        if let Some(snapshot) = snapshots.iter().find(|snapshot| snapshot.id == *id) {
            name_owners(reader, snapshot, named, hears)?;
        }
    }
    Ok(losses)
}

/// Says what became of a file.
pub fn reason(chunks: &[Chunk]) -> String {
    match chunks.len() {
        0 => "its list of chunks is lost".to_owned(),
        1 => "a chunk of it is lost".to_owned(),
        count => format!("{count} chunks of it are lost"),
    }
}

/// Returns the chunks that an entry lacks; `None` for one that lacks nothing, an empty list for one whose own list cannot
/// be read.
fn lost_chunks(reader: &ChunkReader, entry: &Entry, lost: &BTreeSet<Chunk>) -> Result<Option<Vec<Chunk>>> {
    let Some(file) = entry.file() else { return Ok(None) };
    let mut lacking = Vec::new();
    let visited = for_each_chunk_of(reader, &entry.path_text(), file, &mut |chunk| {
        if is_lost(reader, file, &(file.kind, chunk.id), lost)? {
            lacking.push((file.kind, chunk.id));
        }
        Ok(())
    });
    match visited {
        Ok(()) => Ok(Some(lacking).filter(|lacking| !lacking.is_empty())),
        Err(error) if error.is_damage() => Ok(Some(Vec::new())),
        Err(error) => Err(error),
    }
}

fn is_lost(reader: &ChunkReader, file: &FileContent, chunk: &Chunk, lost: &BTreeSet<Chunk>) -> Result<bool> {
    Ok(lost.contains(chunk) || reader.repository().index().locate(file.kind, &chunk.1)?.is_empty())
}

/// Writes to losses of a deployment's snapshot whose they are.
fn name_owners(reader: &ChunkReader, snapshot: &Snapshot, losses: &mut [Lost], hears: &Hears) -> Result<()> {
    if snapshot.record.deployment.is_none() {
        return Ok(());
    }
    match find_owners(reader, snapshot, losses, hears) {
        Err(error) if !error.is_damage() => Err(error),
        _ => Ok(()),
    }
}

/// References are read before runs, and runs before experiments, of which only those that matter are kept.
fn find_owners(reader: &ChunkReader, snapshot: &Snapshot, losses: &mut [Lost], hears: &Hears) -> Result<()> {
    let mut by_place: BTreeMap<(String, String), Vec<usize>> = BTreeMap::new();
    for (number, lost) in losses.iter().enumerate() {
        if let Some(path) = &lost.path {
            by_place.entry((lost.component.clone(), path.clone())).or_default().push(number);
        }
    }
    let mut runs: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    reader::for_each(reader, snapshot, REFERENCES, hears, &mut |reference: Reference| {
        let (Some(component), Some(path)) = (&reference.component, &reference.path) else { return Ok(()) };
        let below = by_place
            .range((component.clone(), path.clone())..)
            .take_while(|((of, at), _)| of == component && at.starts_with(path.as_str()))
            .filter(|((_, at), _)| is_below(at, path));
        for number in below.flat_map(|(_, numbers)| numbers) {
            if reference.kind == ReferenceKind::Run {
                runs.entry(reference.id.clone()).or_default().push(*number);
            }
            losses[*number].of.push(format!("{} {}", reference.kind.words(), reference.id));
        }
        Ok(())
    })?;
    let mut experiments: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    reader::for_each(reader, snapshot, file::RUNS, hears, &mut |run: Run| {
        if let Some(numbers) = runs.get(&run.run_id) {
            experiments.entry(run.experiment_id).or_default().extend(numbers);
        }
        Ok(())
    })?;
    reader::for_each(reader, snapshot, file::EXPERIMENTS, hears, &mut |experiment: Experiment| {
        let text = format!("experiment {:?}", experiment.name);
        for number in experiments.get(&experiment.experiment_id).into_iter().flatten() {
            losses[*number].of.push(text.clone());
        }
        Ok(())
    })
}

fn is_below(path: &str, place: &str) -> bool {
    path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || place.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_below_its_place_and_not_below_one_that_only_begins_alike() {
        for (path, place, expected) in
            [("1/a/b", "1/a", true), ("1/a", "1/a", true), ("1/ab", "1/a", false), ("x", "", true), ("1", "1/a", false)]
        {
            assert_eq!(is_below(path, place), expected, "{path} {place}");
        }
    }
}
