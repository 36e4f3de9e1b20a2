//! Puts the trees of shards together, as if one process had read everything.
//!
//! What must stay true: the last stage hears the same as it would from one process, in the same order: entries, problems, and
//! which name of a file is its first. Entries outside of a shard's range are refused.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::backup::deployment::lines::lines;
use crate::backup::deployment::shard::{Notes, range_of};
use crate::backup::file_under_way::ItemProblem;
use crate::backup::job::Job;
use crate::backup::pipeline::FirstLinks;
use crate::backup::stage::Stage;
use crate::chunks::reader::ChunkReader;
use crate::error::{Error, Result};
use crate::format::plan::{LinkLine, PlanRecord, ProblemLine, ShardRecord, UnreadLine};
use crate::format::tree::{Entry, EntryKind};
use crate::path_range::PathRange;
use crate::trees::reader::TreeReader;

/// A shard's record, and where its notes were put.
pub struct KnownShard {
    /// What it says.
    pub record: ShardRecord,
    /// The directory with its notes.
    pub notes: PathBuf,
}

/// What the shards of a plan stored.
pub struct Shards<'a> {
    /// The plan.
    pub plan: &'a PlanRecord,
    /// All of its shards, by number.
    pub shards: Vec<KnownShard>,
}

/// One shard's part of a component.
struct Part<'a> {
    shard: &'a KnownShard,
    range: PathRange,
    links: FirstLinks,
}

impl Shards<'_> {
    /// Hands over what the shards read of a component, in the order of paths. `number` is that of the component.
    pub fn read_all(
        &self,
        job: &Job<'_>,
        reader: &ChunkReader,
        (component, number): (&str, usize),
        stage: &mut dyn Stage,
    ) -> Result<()> {
        job.hears.monitor.phase("merge shards", None, None);
        let parts = self.parts(component, number)?;
        let mut first_links = FirstLinks::new();
        for (file, path) in parts.iter().flat_map(|part| &part.links) {
            // Parts ascend, and so the first one that has it has its first name.
            first_links.entry(*file).or_insert_with(|| path.clone());
        }
        for part in &parts {
            for line in lines::<UnreadLine>(&part.shard.notes.join(Notes::Unread.file(number)))? {
                match line? {
                    UnreadLine { path: Some(path), .. } => job.problems.leave_unread(path.as_bytes()),
                    UnreadLine { path: None, count } => job.problems.count_unread(count),
                }
            }
            part.read_all(job, reader, ((component, number), &first_links), stage)?;
        }
        Ok(())
    }

    fn parts(&self, component: &str, number: usize) -> Result<Vec<Part<'_>>> {
        let ranges =
            self.shards.iter().zip(0..).filter_map(|(shard, at)| Some((shard, range_of(self.plan, component, at)?)));
        let part = |(shard, range): (_, _)| {
            let shard: &KnownShard = shard;
            let mut links = HashMap::new();
            for line in lines::<LinkLine>(&shard.notes.join(Notes::Links.file(number)))? {
                let LinkLine { device, inode, path } = line?;
                links.insert((device, inode), path.0);
            }
            Ok(Part { shard, range, links })
        };
        ranges.map(part).collect()
    }
}

impl Part<'_> {
    fn read_all(
        &self,
        job: &Job<'_>,
        reader: &ChunkReader,
        ((component, number), first_links): ((&str, usize), &FirstLinks),
        stage: &mut dyn Stage,
    ) -> Result<()> {
        let known = self.shard.record.components.iter().find(|known| known.name == component);
        let root = known.ok_or_else(|| Error::Refused(format!("A shard says nothing of {component}")))?.root;
        let mut problems = lines::<ProblemLine>(&self.shard.notes.join(Notes::Problems.file(number)))?.peekable();
        for (at, entry) in (0..).zip(TreeReader::open(reader, component, &root)?) {
            job.hears.check()?;
            let mut entry = entry?;
            let mut own = None;
            while let Some(line) = problems.next_if(|line| line.as_ref().map_or(true, |line| line.after <= at)) {
                match line? {
                    line if line.is_stored => own = Some(problem_of(line)),
                    line => stage.take_in(None, Some(problem_of(line)))?,
                }
            }
            if !self.range.contains(&entry.path) {
                return Err(Error::Refused(format!(
                    "A shard has {:?}, which is in the range of another one",
                    entry.path_text()
                )));
            }
            self.name_first(&mut entry, first_links);
            stage.take_in(Some(entry), own)?;
        }
        problems.try_for_each(|line| stage.take_in(None, Some(problem_of(line?))))
    }

    /// Says of a file with several names which of all is the first: a shard knows only its own.
    fn name_first(&self, entry: &mut Entry, first_links: &FirstLinks) {
        let key = (entry.metadata.device, entry.metadata.inode);
        let is_first_here = self.links.get(&key).is_some_and(|path| *path == entry.path);
        let EntryKind::File(content) = &mut entry.kind else { return };
        if is_first_here || content.hard_link.is_some() {
            content.hard_link = first_links.get(&key).filter(|first| **first != entry.path).cloned();
        }
    }
}

fn problem_of(line: ProblemLine) -> ItemProblem {
    ItemProblem { path: line.path.0, location: line.location, message: line.message }
}
