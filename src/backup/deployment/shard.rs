//! Stores one shard of a planned backup: a range of each artifact store, as trees of their own.
//!
//! What must stay true: what a shard finds is stored as one process would store it, and what it cannot judge alone — whether
//! a missing file is harmless, which name of a file is its first — is written down for the process that closes, in the order
//! in which it was met.

use std::path::Path;
use std::sync::Arc;

use super::{DeploymentBackup, open_artifacts, scratch_fault};
use crate::backup::add_statistics;
use crate::backup::deployment::lines::Lines;
use crate::backup::file_under_way::ItemProblem;
use crate::backup::job::Job;
use crate::backup::pipeline::{self, FirstLinks};
use crate::backup::problems::FoundProblems;
use crate::backup::stage::{self, Stage};
use crate::chunks::reader::ChunkReader;
use crate::error::Result;
use crate::format::plan::{LinkLine, PathBytes, PlanRecord, ProblemLine, UnreadLine};
use crate::format::snapshot::{Component, Statistics};
use crate::format::tree::Entry;
use crate::id::ChunkId;
use crate::mlflow::catalogue::file_name;
use crate::path_range::PathRange;
use crate::source::deployment::ArtifactComponent;
use crate::trees::writer::{TreeSummary, TreeWriter};

/// Name of the directory with what is written down beside the entries.
const NOTES: &str = "notes";

/// What a shard stored.
pub struct StoredShard {
    /// The entries of its ranges.
    pub components: Vec<Component>,
    /// What else is to be known of them.
    pub notes: ChunkId,
    /// How many files had problems.
    pub problem_count: u64,
    /// Numbers.
    pub statistics: Statistics,
}

/// What a shard writes down beside its entries, by the number of the component.
#[derive(Clone, Copy)]
pub enum Notes {
    /// Files with problems.
    Problems,
    /// First names of files that may have several.
    Links,
    /// What was not to be read.
    Unread,
}

impl Notes {
    /// Returns the name of their file.
    pub fn file(self, component: usize) -> String {
        let name = match self {
            Self::Problems => "problems",
            Self::Links => "links",
            Self::Unread => "unread",
        };
        file_name(&format!("{name}-{component}"))
    }
}

/// Returns the range that a shard has of a component, if it has one.
pub fn range_of(plan: &PlanRecord, component: &str, shard: u32) -> Option<PathRange> {
    let cuts: Vec<Vec<u8>> = plan.cuts.get(component).into_iter().flatten().map(|cut| cut.0.clone()).collect();
    PathRange::between(&cuts).into_iter().nth(shard as usize)
}

impl DeploymentBackup<'_> {
    /// Stores a shard.
    pub(super) fn store_shard(&mut self, plan: &PlanRecord, shard: u32) -> Result<StoredShard> {
        let notes = self.scratch.path().join(NOTES);
        std::fs::create_dir(&notes).map_err(|source| scratch_fault(&notes, source))?;
        let mut problem_count = 0;
        for (number, component) in self.layout.components.clone().iter().enumerate() {
            if let Some(range) = range_of(plan, &component.name, shard) {
                problem_count += self.store_range(component, range, (&notes, number))?;
            }
        }
        let notes = self.store_scratch_files(&notes)?.root;
        let (components, statistics) = (std::mem::take(&mut self.components), std::mem::take(&mut self.statistics));
        Ok(StoredShard { components, notes, problem_count, statistics })
    }

    /// Stores what is in a range of a component. Returns how many files had problems.
    fn store_range(
        &mut self,
        component: &ArtifactComponent,
        range: PathRange,
        (notes, number): (&Path, usize),
    ) -> Result<u64> {
        let source = open_artifacts(component, self.reading.clone(), range.clone())?;
        let reader = ChunkReader::new(Arc::clone(self.job.repository));
        let mut parent = self.compared(&reader, &component.name);
        if let Some(after) = &range.after {
            parent.skip_to(after);
        }
        let problems = Lines::create(&notes.join(Notes::Problems.file(number)))?;
        let mut tree = ShardTree { job: self.job, tree: TreeWriter::new(self.job.chunks), written: 0, problems };
        let (statistics, links) = pipeline::read_all(self.job, source.as_ref(), parent, &mut tree)?;
        let (summary, problem_count) = tree.finish()?;
        write_links(&notes.join(Notes::Links.file(number)), links)?;
        write_unread(&notes.join(Notes::Unread.file(number)), self.job.problems.take())?;
        add_statistics(&mut self.statistics, &statistics);
        self.add_component(&component.name, (summary, Statistics::default()), true);
        Ok(problem_count)
    }
}

/// The entries of a range, and what went wrong among them.
struct ShardTree<'a> {
    job: &'a Job<'a>,
    tree: TreeWriter<'a>,
    written: u64,
    problems: Lines,
}

impl ShardTree<'_> {
    fn finish(self) -> Result<(TreeSummary, u64)> {
        Ok((self.tree.finish()?, self.problems.finish()?))
    }
}

impl Stage for ShardTree<'_> {
    fn take_in(&mut self, entry: Option<Entry>, problem: Option<ItemProblem>) -> Result<()> {
        if let Some(ItemProblem { path, location, message }) = problem {
            self.job.hears.monitor.note(&format!("{location}: {message}; whether that matters is known at the end"));
            let (after, path, is_stored) = (self.written, PathBytes(path), entry.is_some());
            self.problems.push(&ProblemLine { after, path, location, message, is_stored })?;
        }
        let Some(entry) = entry else { return Ok(()) };
        self.written += 1;
        stage::write(self.job, &mut self.tree, entry)
    }
}

fn write_links(path: &Path, links: FirstLinks) -> Result<()> {
    let mut lines = Lines::create(path)?;
    let mut links: Vec<_> = links.into_iter().collect();
    links.sort();
    for ((device, inode), path) in links {
        lines.push(&LinkLine { device, inode, path: PathBytes(path) })?;
    }
    lines.finish().map(drop)
}

/// Writes down what was left out: named as far as a record would name it, and counted beyond.
fn write_unread(path: &Path, found: FoundProblems) -> Result<()> {
    let mut lines = Lines::create(path)?;
    let named = found.unread.len() as u64;
    found.unread.into_iter().try_for_each(|path| lines.push(&UnreadLine { path: Some(path), count: 1 }))?;
    if found.unread_count > named {
        lines.push(&UnreadLine { path: None, count: found.unread_count - named })?;
    }
    lines.finish().map(drop)
}
