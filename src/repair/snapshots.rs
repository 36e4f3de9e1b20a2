//! Writes snapshots anew without what they have lost, so that the rest can be restored, checked and relied on.
//!
//! What must stay true:
//! - The new snapshot is of a session of its own. It names each thing that it lacks, is incomplete, and keeps time, source
//!   and tags; everything in it can be read. The original stays as it is.
//! - What cannot be read is left out: a file without one of its chunks, and whatever was below a lost tree node.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use crate::chunks::reader::ChunkReader;
use crate::chunks::writer::ChunkWriter;
use crate::chunks::writing_session::WritingSession;
use crate::error::Result;
use crate::format::deployment::{DeploymentRecord, Verdict};
use crate::format::snapshot::{
    CATALOGUE, Completeness, Component, DATABASE, METADATA, PROBLEMS_MAX, ProblemRecord, SnapshotRecord,
};
use crate::format::tree::{Entry, EntryKind};
use crate::hears::Hears;
use crate::id::SessionId;
use crate::monitor::Counter;
use crate::repair::losses::{self, Lost};
use crate::repair::survey::{self, Chunk};
use crate::repository::Repository;
use crate::repository::naming::Named;
use crate::repository::snapshots::Snapshot;
use crate::trees::contents::entry_at;
use crate::trees::keeper::Keeper;
use crate::trees::reader::TreeReader;
use crate::trees::writer::TreeWriter;
use crate::units::sum_of_claims;

/// The field of the new record that names the snapshot that it was made from.
const REPAIRED_FROM: &str = "repaired_from";

/// A snapshot that has lost something.
#[derive(Debug, Clone, Serialize)]
pub struct LossySnapshot {
    /// Its id.
    pub snapshot: SessionId,
    /// What it lost, at most `losses::LOSSES_NAMED_MAX`.
    pub lost: Vec<Lost>,
    /// How much that is.
    pub lost_count: u64,
    /// The sound snapshot that an earlier repair made from it.
    pub repaired_as: Option<SessionId>,
}

/// What is to be repaired.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RepairPlan {
    /// LossySnapshot snapshots, oldest first.
    pub hurt: Vec<LossySnapshot>,
    /// Snapshots that were looked at.
    pub snapshots: u64,
    /// Packs that were read for that.
    pub packs_read: u64,
    /// Chunks that cannot be had.
    #[serde(skip)]
    lost: BTreeSet<Chunk>,
}

impl RepairPlan {
    /// Returns the snapshots that are to be written anew.
    pub fn to_repair(&self) -> impl Iterator<Item = &LossySnapshot> {
        self.hurt.iter().filter(|hurt| hurt.repaired_as.is_none())
    }
}

/// A snapshot that was written anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// What it was.
    pub was: SessionId,
    /// What it is now.
    pub is: SessionId,
    /// Entries that are in it.
    pub entries: u64,
    /// Files and tree nodes that it lacks.
    pub lost_count: u64,
}

/// Finds out which snapshots have lost something: all packs are read. `names` are snapshots as users call them; without
/// any, all are looked at. Nothing is written. Needs a maintainer's key.
pub fn plan(repository: &Arc<Repository>, named: &Named, hears: &Hears) -> Result<RepairPlan> {
    repository.access().require_maintainer("repair snapshots")?;
    let all = survey::snapshots(repository, hears)?;
    let mut chosen = Vec::new();
    for at in named.among(&all)? {
        let found = &all[at];
        if !chosen.iter().any(|snapshot: &Snapshot| snapshot.id == found.id) {
            chosen.push(found.clone());
        }
    }
    let survey = survey::take(repository, &[], hears)?;
    hears.monitor.phase("look at snapshots", None, None);
    let reader = ChunkReader::new(Arc::clone(repository));
    let mut losses = losses::find(&reader, &all, &survey.lost, hears, &mut |_, _, _| {})?;
    let is_hurt: BTreeSet<SessionId> = losses.of.keys().copied().collect();
    let looked_at = if named.names.is_empty() { &all } else { &chosen };
    let mut hurt = Vec::new();
    for snapshot in looked_at {
        if let Some((lost, lost_count)) = losses.of.remove(&snapshot.id) {
            let repaired_as = all.iter().find(|it| !is_hurt.contains(&it.id) && is_made_from(it, &snapshot.id));
            hurt.push(LossySnapshot {
                snapshot: snapshot.id,
                lost,
                lost_count,
                repaired_as: repaired_as.map(|it| it.id),
            });
        }
    }
    Ok(RepairPlan { hurt, snapshots: looked_at.len() as u64, packs_read: survey.packs, lost: survey.lost })
}

fn is_made_from(snapshot: &Snapshot, original: &SessionId) -> bool {
    snapshot.record.more.get(REPAIRED_FROM) == Some(&serde_json::json!(original))
}

/// Writes the planned snapshots anew, each in one step; a repair that was stopped can be run again.
pub fn run(repository: &Arc<Repository>, plan: &RepairPlan, hears: &Hears) -> Result<Vec<Repaired>> {
    let mut repaired = Vec::new();
    hears.monitor.phase("write snapshots", Some(plan.to_repair().count() as u64), None);
    for hurt in plan.to_repair() {
        hears.check()?;
        repaired.push(write_anew(repository, plan, hurt, hears)?);
        hears.monitor.count(Counter::Entries, 1);
    }
    Ok(repaired)
}

fn write_anew(
    repository: &Arc<Repository>,
    plan: &RepairPlan,
    hurt: &LossySnapshot,
    hears: &Hears,
) -> Result<Repaired> {
    let session = WritingSession::begin(repository, "repair", hears)?;
    let list = repository.list_snapshots()?.snapshots;
    let original = repository.find_snapshot(&hurt.snapshot.to_string())?;
    let mut copy = Rewriting {
        keeper: Keeper::new(session.writer()),
        writer: session.writer(),
        lost: &plan.lost,
        snapshot: hurt.snapshot,
        losses: Vec::new(),
        hears,
    };
    let components = original.record.components.iter().map(|it| copy.component(it)).collect::<Result<Vec<_>>>()?;
    let losses = std::mem::take(&mut copy.losses);
    let (session, _) = session.finish()?;
    let mut record = original.record.clone();
    record.components = components;
    record.seen = list.iter().map(|snapshot| snapshot.id).collect();
    record.more.insert(REPAIRED_FROM.to_owned(), serde_json::json!(hurt.snapshot));
    confess(&mut record, &losses, &hurt.lost);
    let entries = sum_of_claims(record.components.iter().map(|component| component.entries));
    let is = session.commit(record)?;
    Ok(Repaired { was: hurt.snapshot, is, entries, lost_count: losses.len() as u64 })
}

/// Writes into a record what is lost. Whose it was stands in `named`.
fn confess(record: &mut SnapshotRecord, losses: &[Lost], named: &[Lost]) {
    record.completeness = Completeness::Incomplete;
    // What is lost would look like something that was never there.
    record.coverage = None;
    record.problem_count += losses.len() as u64;
    let free = PROBLEMS_MAX.saturating_sub(record.problems.len());
    for lost in losses.iter().take(free) {
        let owners = named.iter().find(|it| it.component == lost.component && it.path == lost.path);
        let of = owners.map(|it| it.of.join(", ")).filter(|of| !of.is_empty());
        let message = match of {
            Some(of) => format!("lost from the repository: {}; it belonged to {of}", lost.reason),
            None => format!("lost from the repository: {}", lost.reason),
        };
        record.problems.push(ProblemRecord { path: lost.shown(), message });
    }
    let hurt: BTreeSet<&str> = losses.iter().map(|lost| lost.component.as_str()).collect();
    if let Some(deployment) = &mut record.deployment {
        confess_verdicts(deployment, &hurt);
    }
}

fn confess_verdicts(deployment: &mut DeploymentRecord, hurt: &BTreeSet<&str>) {
    let verdicts = &mut deployment.verdicts;
    for component in hurt {
        match *component {
            DATABASE => verdicts.database = Verdict::NotOk,
            METADATA => verdicts.metadata = Verdict::NotOk,
            CATALOGUE => verdicts.references = Verdict::NotOk,
            _ => (verdicts.artifacts, verdicts.references) = (Verdict::NotOk, Verdict::NotOk),
        }
    }
}

/// One snapshot being written anew.
struct Rewriting<'a> {
    keeper: Keeper<'a>,
    writer: &'a ChunkWriter,
    lost: &'a BTreeSet<Chunk>,
    snapshot: SessionId,
    losses: Vec<Lost>,
    hears: &'a Hears,
}

impl Rewriting<'_> {
    fn component(&mut self, component: &Component) -> Result<Component> {
        let losses_before = self.losses.len();
        let mut tree = TreeWriter::new(self.writer);
        // Another reader for the walk, which lives as long as `self` is changed.
        let walked = ChunkReader::new(Arc::clone(self.writer.repository()));
        match TreeReader::open(&walked, &component.name, &component.root) {
            Ok(entries) => {
                for entry in entries {
                    self.hears.check()?;
                    match entry {
                        Ok(entry) => self.entry(component, entry, &mut tree)?,
                        Err(error) if error.is_damage() => self.lose_branch(component, &error),
                        Err(error) => return Err(error),
                    }
                }
            }
            Err(error) if error.is_damage() => self.lose_branch(component, &error),
            Err(error) => return Err(error),
        }
        let summary = tree.finish()?;
        let is_whole = self.losses.len() == losses_before;
        let completeness = if is_whole { component.completeness } else { Completeness::Incomplete };
        Ok(summary.component(&component.name, completeness))
    }

    fn lose_branch(&mut self, component: &Component, error: &crate::error::Error) {
        self.losses.push(Lost::branch(self.snapshot, &component.name, error));
    }

    /// Takes over an entry if all of it can be had.
    fn entry(&mut self, component: &Component, mut entry: Entry, tree: &mut TreeWriter<'_>) -> Result<()> {
        let lost = self.lost;
        let lacking = match self.keeper.keep_unless_lost(&entry, &|chunk| lost.contains(chunk)) {
            Ok(lacking) if lacking.is_empty() => {
                self.free_from_lost_link(component, &mut entry)?;
                return tree.push(&entry);
            }
            Ok(lacking) => lacking,
            Err(error) if error.is_damage() => Vec::new(),
            Err(error) => return Err(error),
        };
        self.losses.push(Lost::file(self.snapshot, &component.name, &entry, losses::reason(&lacking)));
        Ok(())
    }

    /// Makes a further name of a file a file of its own, if the first name went with a lost node. The content is the
    /// same, so the first name is there unless its entry cannot be read.
    fn free_from_lost_link(&self, component: &Component, entry: &mut Entry) -> Result<()> {
        let EntryKind::File(file) = &mut entry.kind else { return Ok(()) };
        let Some(first) = &file.hard_link else { return Ok(()) };
        match entry_at(self.keeper.reader(), component, first) {
            Ok(Some(_)) => {}
            Ok(None) => file.hard_link = None,
            Err(error) if error.is_damage() => file.hard_link = None,
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
