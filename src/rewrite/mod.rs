//! Writes snapshots anew without what matches a pattern: a file with a password, a customer's data.
//!
//! What must stay true:
//! - The new snapshot is of a session of its own. It has source, time and tags of the original, and everything else that is
//!   in it; its record says what it was made from, and by which patterns. The original stays as it is.
//! - Of a deployment only artifacts are taken out, never databases; the catalogue says which rows lack files now.
//! - What is damaged is not passed over: a snapshot that has lost something is repaired first.

mod taken_out;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use crate::chunks::reader::ChunkReader;
use crate::chunks::writer::ChunkWriter;
use crate::chunks::writing_session::WritingSession;
use crate::error::Result;
use crate::format::snapshot::{
    ARTIFACTS, CATALOGUE, Completeness, Component, Coverage, FILES, PROBLEMS_MAX, RewrittenFrom, SnapshotRecord,
    SourceRecord,
};
use crate::format::tree::{Entry, EntryKind};
use crate::hears::Hears;
use crate::id::SessionId;
use crate::monitor::Counter;
use crate::repository::Repository;
use crate::repository::naming::Named;
use crate::repository::snapshots::Snapshot;
use crate::rewrite::taken_out::TakenOut;
use crate::source::filter::{Exclusions, Filter};
use crate::trees::contents::shown_path;
use crate::trees::keeper::Keeper;
use crate::trees::merge::{Merged, Shared, TreeMerge};
use crate::trees::reader::TreeReader;
use crate::trees::writer::TreeWriter;
use crate::units::sum_of_claims;

/// Paths of a snapshot that a plan names; the rest is counted.
const PATHS_NAMED_MAX: usize = 100;

/// What to take out of which snapshots.
#[derive(Debug, Clone, Default)]
pub struct RewriteOptions {
    /// The snapshots.
    pub named: Named,
    /// Glob patterns, as a backup takes them to leave files out.
    pub excludes: Vec<String>,
    /// Patterns for which upper and lower case are the same.
    pub excludes_any_case: Vec<String>,
}

impl RewriteOptions {
    fn filter(&self) -> Result<Filter> {
        Filter::new(&Exclusions {
            patterns: self.excludes.clone(),
            patterns_any_case: self.excludes_any_case.clone(),
            ..Exclusions::default()
        })
    }
}

/// A snapshot with something that matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MatchingSnapshot {
    /// Its id.
    pub snapshot: SessionId,
    /// Entries that match, or are below a directory that does.
    pub entries: u64,
    /// Bytes of the files among them.
    pub bytes: u64,
    /// Their paths as users know them, at most 100.
    pub paths: Vec<String>,
    /// The snapshot that an earlier rewrite by the same patterns made from it.
    pub rewritten_as: Option<SessionId>,
}

/// What is to be rewritten.
#[derive(Debug, Clone, Serialize)]
pub struct RewritePlan {
    /// Snapshots that were named and have something that matches, oldest first.
    pub matching: Vec<MatchingSnapshot>,
    /// Snapshots that were named and have nothing that matches.
    pub unmatched: Vec<SessionId>,
    /// Snapshots that were not named, and have something that matches all the same.
    pub others: Vec<MatchingSnapshot>,
    /// Tree nodes and records of other snapshots that could not be read: what they name is not known.
    pub unreadable: u64,
    #[serde(skip)]
    options: RewriteOptions,
}

impl RewritePlan {
    /// Returns the snapshots that are to be written anew.
    pub fn to_rewrite(&self) -> impl Iterator<Item = &MatchingSnapshot> {
        self.matching.iter().filter(|found| found.rewritten_as.is_none())
    }
}

/// A snapshot that was written anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rewritten {
    /// What it was.
    pub was: SessionId,
    /// What it is now.
    pub is: SessionId,
    /// Entries that are in it.
    pub entries: u64,
    /// Entries that were taken out.
    pub taken_out: u64,
    /// Whether rows of a deployment lack files now that they must have.
    pub is_lacking: bool,
}

/// Returns whether things in a component can be taken out. A stream is one thing, and a database is whole or worthless.
fn can_match(source: &SourceRecord, component: &str) -> bool {
    !matches!(source, SourceRecord::Stream { .. }) && (component == FILES || component.starts_with(ARTIFACTS))
}

/// Finds what matches in the snapshots that are named, and in all others. Nothing is written.
pub fn plan(repository: &Arc<Repository>, options: &RewriteOptions, hears: &Hears) -> Result<RewritePlan> {
    let filter = options.filter()?;
    let list = repository.list_snapshots()?;
    let chosen: BTreeSet<SessionId> =
        options.named.among(&list.snapshots)?.into_iter().map(|at| list.snapshots[at].id).collect();
    let unreadable = list.unreadable();
    unreadable.lines().iter().for_each(|line| hears.monitor.problem("snapshots", line));
    let mut search =
        Search { filter: &filter, chosen: &chosen, found: BTreeMap::new(), unreadable: unreadable.count(), hears };
    search.run(&ChunkReader::new(Arc::clone(repository)), &list.snapshots)?;
    let Search { mut found, unreadable, .. } = search;
    let mut plan = RewritePlan {
        matching: Vec::new(),
        unmatched: Vec::new(),
        others: Vec::new(),
        unreadable,
        options: options.clone(),
    };
    for snapshot in &list.snapshots {
        match (found.remove(&snapshot.id), chosen.contains(&snapshot.id)) {
            (Some(matching), true) => {
                let rewritten_as = list.snapshots.iter().find(|it| is_made_from(it, &snapshot.id, options));
                plan.matching.push(MatchingSnapshot { rewritten_as: rewritten_as.map(|it| it.id), ..matching });
            }
            (Some(matching), false) => plan.others.push(matching),
            (None, true) => plan.unmatched.push(snapshot.id),
            (None, false) => {}
        }
    }
    Ok(plan)
}

fn is_made_from(snapshot: &Snapshot, original: &SessionId, options: &RewriteOptions) -> bool {
    let RewriteOptions { excludes, excludes_any_case, .. } = options;
    snapshot.record.rewritten_from.as_ref().is_some_and(|from| {
        from.snapshot == *original && from.excludes == *excludes && from.excludes_any_case == *excludes_any_case
    })
}

/// A search through the trees of all snapshots, in which nodes that they share are read once.
struct Search<'a> {
    filter: &'a Filter,
    chosen: &'a BTreeSet<SessionId>,
    found: BTreeMap<SessionId, MatchingSnapshot>,
    unreadable: u64,
    hears: &'a Hears,
}

impl Search<'_> {
    fn run(&mut self, reader: &ChunkReader, snapshots: &[Snapshot]) -> Result<()> {
        self.hears.monitor.phase("find", None, None);
        let mut trees: BTreeMap<&str, Vec<(SessionId, &Component)>> = BTreeMap::new();
        for snapshot in snapshots {
            let SnapshotRecord { components, source, .. } = &snapshot.record;
            for component in components.iter().filter(|component| can_match(source, &component.name)) {
                trees.entry(&component.name).or_default().push((snapshot.id, component));
            }
        }
        trees.iter().try_for_each(|(component, of)| self.component(reader, component, of))
    }

    fn component(&mut self, reader: &ChunkReader, name: &str, trees: &[(SessionId, &Component)]) -> Result<()> {
        let roots: Vec<_> = trees.iter().map(|(_, component)| component.root).collect();
        for merged in TreeMerge::open(reader, name, &roots, b"", Shared::Read) {
            self.hears.check()?;
            match merged? {
                Merged::Entries(entries) => {
                    self.hears.monitor.count(Counter::Entries, 1);
                    for (of, entry) in entries.iter().filter(|(_, entry)| self.filter.leaves_out(entry)) {
                        of.iter().for_each(|tree| self.add(trees[*tree].0, name, entry));
                    }
                }
                Merged::Unreadable(of, error) => {
                    let ids: Vec<_> = of.iter().map(|tree| trees[*tree].0).collect();
                    if ids.iter().any(|id| self.chosen.contains(id)) {
                        return Err(error);
                    }
                    self.unreadable += 1;
                    let first = ids.first().map_or_else(String::new, SessionId::short);
                    self.hears
                        .monitor
                        .problem(&format!("{} snapshots, the first is {first}", ids.len()), &error.to_string());
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, snapshot: SessionId, component: &str, entry: &Entry) {
        let none = MatchingSnapshot { snapshot, entries: 0, bytes: 0, paths: Vec::new(), rewritten_as: None };
        let found = self.found.entry(snapshot).or_insert(none);
        found.entries += 1;
        found.bytes = found.bytes.saturating_add(entry.size());
        if found.paths.len() < PATHS_NAMED_MAX {
            found.paths.push(String::from_utf8_lossy(&shown_path(component, &entry.path)).into_owned());
        }
    }
}

/// Writes the planned snapshots anew, each in one step; a rewrite that was stopped can be run again.
pub fn run(repository: &Arc<Repository>, plan: &RewritePlan, hears: &Hears) -> Result<Vec<Rewritten>> {
    let filter = plan.options.filter()?;
    plan.to_rewrite().map(|found| write_anew(repository, plan, (found, &filter), hears)).collect()
}

fn write_anew(
    repository: &Arc<Repository>,
    plan: &RewritePlan,
    (found, filter): (&MatchingSnapshot, &Filter),
    hears: &Hears,
) -> Result<Rewritten> {
    let session = WritingSession::begin(repository, "rewrite", hears)?;
    let list = repository.list_snapshots()?.snapshots;
    let original = repository.find_snapshot(&found.snapshot.to_string())?;
    let components = &original.record.components;
    let entries = sum_of_claims(components.iter().map(|component| component.entries));
    let bytes = sum_of_claims(components.iter().map(|component| component.bytes));
    hears.monitor.phase("rewrite", Some(entries), Some(bytes));
    let mut rewriting = Rewriting {
        keeper: Keeper::new(session.writer()),
        writer: session.writer(),
        original: &original,
        filter,
        entries: 0,
        bytes: 0,
        taken_out: TakenOut::default(),
        hears,
    };
    let components = rewriting.components()?;
    let Rewriting { entries: taken_out, bytes, taken_out: mut files, .. } = rewriting;
    let (session, _) = session.finish()?;
    let mut record = SnapshotRecord { components, ..original.record.clone() };
    record.seen = list.iter().map(|snapshot| snapshot.id).collect();
    let RewriteOptions { excludes, excludes_any_case, .. } = plan.options.clone();
    let at = repository.clock().now();
    let before = record.rewritten_from.take();
    record.rewritten_from = Some(Box::new(RewrittenFrom {
        snapshot: original.id,
        at,
        excludes,
        excludes_any_case,
        entries: taken_out,
        bytes,
        before,
    }));
    let is_lacking = tell(&mut record, &mut files);
    let entries = sum_of_claims(record.components.iter().map(|component| component.entries));
    let is = session.commit(record)?;
    Ok(Rewritten { was: original.id, is, entries, taken_out, is_lacking })
}

/// Says in a record what it is no longer. Returns whether rows of a deployment lack files that they must have.
fn tell(record: &mut SnapshotRecord, files: &mut TakenOut) -> bool {
    if let (Some(coverage), Some(from)) = (&mut record.coverage, &record.rewritten_from) {
        // What was taken out of the snapshot was not deleted where it was read.
        let Coverage { excludes, excludes_any_case, .. } = coverage.as_mut();
        add_missing(excludes, &from.excludes);
        add_missing(excludes_any_case, &from.excludes_any_case);
    }
    let Some(deployment) = &mut record.deployment else { return false };
    let problems = files.tell(deployment);
    if problems.is_empty() {
        return false;
    }
    record.completeness = Completeness::Incomplete;
    for component in record.components.iter_mut().filter(|component| files.hurts(&component.name)) {
        component.completeness = Completeness::Incomplete;
    }
    record.problem_count += problems.len() as u64;
    let free = PROBLEMS_MAX.saturating_sub(record.problems.len());
    record.problems.extend(problems.into_iter().take(free));
    true
}

fn add_missing(patterns: &mut Vec<String>, more: &[String]) {
    let new: Vec<String> = more.iter().filter(|pattern| !patterns.contains(pattern)).cloned().collect();
    patterns.extend(new);
}

/// One snapshot being written anew.
struct Rewriting<'a> {
    keeper: Keeper<'a>,
    writer: &'a ChunkWriter,
    original: &'a Snapshot,
    filter: &'a Filter,
    /// Entries that were taken out.
    entries: u64,
    bytes: u64,
    taken_out: TakenOut,
    hears: &'a Hears,
}

impl Rewriting<'_> {
    /// Writes all components anew, the catalogue last: it tells of the others.
    fn components(&mut self) -> Result<Vec<Component>> {
        let (catalogue, others): (Vec<_>, Vec<_>) =
            self.original.record.components.iter().partition(|component| component.name == CATALOGUE);
        let mut components = Vec::new();
        for component in others {
            components.push(self.component(component, false)?);
        }
        let has_lines = self.original.record.deployment.as_ref().is_some_and(|it| !it.databases.is_empty());
        let changes = self.taken_out.complete() && has_lines;
        for component in catalogue {
            components.push(self.component(component, changes)?);
        }
        components.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(components)
    }

    fn component(&mut self, component: &Component, changes: bool) -> Result<Component> {
        let reader = ChunkReader::new(Arc::clone(self.writer.repository()));
        let mut tree = TreeWriter::new(self.writer);
        let can_match = can_match(&self.original.record.source, &component.name);
        for entry in TreeReader::open(&reader, &component.name, &component.root)? {
            self.hears.check()?;
            let mut entry = entry?;
            self.hears.monitor.count(Counter::Entries, 1);
            self.hears.monitor.count(Counter::Bytes, entry.size());
            if can_match && self.filter.leaves_out(&entry) {
                self.take_out(component, &entry)?;
                continue;
            }
            if changes {
                let at = (self.original, entry);
                entry = self.taken_out.catalogue_entry(at, &reader, self.writer, self.hears)?;
                tree.make_indirect(&mut entry)?;
            }
            if can_match {
                self.free_from_link(&mut entry);
            }
            self.keeper.keep_entry(&entry)?;
            tree.push(&entry)?;
        }
        Ok(tree.finish()?.component(&component.name, component.completeness))
    }

    fn take_out(&mut self, component: &Component, entry: &Entry) -> Result<()> {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(entry.size());
        match self.original.record.deployment {
            Some(_) => self.taken_out.add(&component.name, entry),
            None => Ok(()),
        }
    }

    /// Makes a further name of a file a file of its own, if the first name is taken out.
    fn free_from_link(&self, entry: &mut Entry) {
        let EntryKind::File(file) = &mut entry.kind else { return };
        if file.hard_link.as_ref().is_some_and(|first| self.filter.excludes_at_or_above(first)) {
            file.hard_link = None;
        }
    }
}
