//! Checks that everything in a repository is there, sound, and fits together, and says what damage costs.
//!
//! What must stay true:
//! - Snapshots are listed before segments and segments before packs, against the order of writing: a backup that runs
//!   beside a check never looks like damage.
//! - Packs are looked at before trees, so that one pass over the trees knows what is lost and names the files. A chunk
//!   that also stands in a sound pack is not lost.
//! - A prune beside a check never looks like damage either: a pack that is missing is suspected only, and what is not
//!   found is looked up again in an index that is read anew; snapshots that are forgotten meanwhile do not count.
//! - Damage goes into the report and the check goes on; a backend that cannot be reached ends it.
//! - Memory: one segment batch, one pack per thread within the memory plan, `trees::NODES_REMEMBERED_MAX` tree nodes.
//!
//! Not damage, because it is what an interrupted backup leaves: packs that no segment names, sessions without an
//! outcome. A session's announcement that is missing is not looked for: once the session has ended nobody needs it.

mod evidence;
mod findings;
mod log;
mod memory;
mod objects;
mod packs;
mod subset;
mod trees;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

pub use crate::check::evidence::evidence;
pub use crate::check::findings::{CheckReport, Counts, Coverage, Hurt, HurtSnapshot, Problem, ProblemKind, ReadReport};
pub use crate::check::log::{Compared, Earlier, LogProblem, LogProblemKind, LogReport, verify_log};
pub use crate::check::subset::Subset;

use crate::check::findings::Findings;
use crate::check::memory::Memory;
use crate::chunks::reader::ChunkReader;
use crate::error::Result;
use crate::format::countersignature::SoundPack;
use crate::hears::Hears;
use crate::id::{PackId, SessionId};
use crate::repository::Repository;

/// Which packs are read whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ReadData {
    /// None: only what packs say of themselves.
    Nothing,
    /// All.
    All,
    /// Some.
    Subset(Subset),
    /// Those that no check has verified for so long, as far as this machine's cache directory remembers.
    Aged(Aged),
}

/// Packs that are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aged {
    /// How long ago a pack must have been verified to be passed over.
    pub age_seconds_max: u64,
    /// Most bytes to read: the packs that were verified longest ago come first. At least one pack is read if one is due.
    pub budget_bytes: Option<u64>,
}

/// How to check.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CheckOptions {
    /// Which packs are read whole.
    pub read_data: ReadData,
}

/// A check under way.
struct Check<'a> {
    repository: &'a Arc<Repository>,
    reader: ChunkReader,
    options: &'a CheckOptions,
    hears: &'a Hears,
    findings: Findings<'a>,
    memory: Memory,
    /// Packs of which every chunk was opened.
    sound: Mutex<Vec<SoundPack>>,
    /// Packs that were looked at.
    packs_seen: Mutex<HashSet<PackId>>,
    stopped: AtomicBool,
}

/// Runs a check. Fails only where the backend does, or the index cache, or on request.
pub fn run(repository: &Arc<Repository>, options: &CheckOptions, hears: &Hears) -> Result<CheckReport> {
    let findings = Findings::new(hears.monitor.as_ref());
    let memory = recall(repository, options, &findings);
    let check = Check {
        repository,
        reader: ChunkReader::new(Arc::clone(repository)),
        options,
        hears,
        findings,
        memory,
        sound: Mutex::default(),
        packs_seen: Mutex::default(),
        stopped: AtomicBool::new(false),
    };
    // Against the order of writing: what a snapshot that was seen needs was written before, so it is listed below.
    let snapshots = check.check_objects()?;
    check.check_packs()?;
    // After packs, whose losses are known by now: one pass tells which files they cost.
    check.check_trees(&snapshots)?;
    // The segments that the index skipped have been reported by name.
    repository.index().take_damage();
    // Last: a snapshot that was forgotten while it was looked at may have lost what it needs to a prune.
    let listed = check.still_listed()?;
    Ok(check.findings.into_report(&|id| listed.as_ref().is_none_or(|listed| listed.contains(id))))
}

/// Reads what earlier checks verified, if packs are to be read at all.
fn recall(repository: &Repository, options: &CheckOptions, findings: &Findings<'_>) -> Memory {
    if options.read_data == ReadData::Nothing {
        return Memory::default();
    }
    let (memory, fault) = Memory::open(repository);
    if let (Some(fault), ReadData::Aged(_)) = (fault, options.read_data) {
        findings.note(&format!("What was verified earlier is not known, so every pack is due: {fault}"));
    }
    memory
}

impl Check<'_> {
    /// Returns which snapshots are listed now, if anything seems to be lost: one that was forgotten meanwhile may lose
    /// what it likes.
    fn still_listed(&self) -> Result<Option<HashSet<SessionId>>> {
        if !self.findings.has_hurt() {
            return Ok(None);
        }
        let list = self.repository.list_snapshots()?;
        Ok(Some(list.snapshots.iter().map(|snapshot| snapshot.id).chain(list.damaged_ids).collect()))
    }

    /// Runs one of many calls that go on in parallel: after the first that fails, and on request, the others do nothing.
    fn guarded<T: Default>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.stopped.load(Ordering::Relaxed) {
            return Ok(T::default());
        }
        let result = self.hears.check().and_then(|()| work());
        if result.is_err() {
            self.stopped.store(true, Ordering::Relaxed);
        }
        result
    }
}
