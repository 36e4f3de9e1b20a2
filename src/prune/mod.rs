//! Reclaims what no snapshot needs, while backups, restores and checks run.
//!
//! What must stay true (the protocol is in `docs/design.md`, section 5; a model that goes through every order of steps
//! is in `tests/model/`):
//! - Nothing that a listed snapshot needs is deleted, whatever runs beside this and wherever it stops.
//! - The plan decides what is worth doing, the sweep alone what is safe. It deletes a pack only if all that is needed in it
//!   was proved to be in another one (`prune/proof`). Who is found to lie is believed no more by the next round.
//! - Nothing is pruned while a snapshot, note or segment cannot be read: what it needs is not known.
//! - A prune can be stopped anywhere; the next one goes on with what was marked.

mod cleanup;
mod needed;
mod plan;
mod proof;
mod repack;
mod segments;
mod sweep;
mod view;

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::backend::Listed;
use crate::chunks::writer::META_PACK_BYTES;
use crate::error::{Error, Result};
use crate::format::{BlobKind, PerKind};
use crate::hears::Hears;
use crate::id::{PackId, SessionId};
use crate::prune::needed::Needed;
use crate::prune::plan::PackUse;
pub use crate::prune::plan::{PackSum, PruneLimits, PrunePlan};
use crate::prune::repack::Repack;
use crate::prune::sweep::OpenSession;
use crate::prune::view::{Basis, View};
use crate::repository::notes::Notes;
use crate::repository::snapshots::{Snapshot, SnapshotList};
use crate::repository::trust::Trust;
use crate::repository::{Repository, layout, session, time};

/// How to prune.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// Only tell what would be done.
    pub dry_run: bool,
    /// How far to go.
    pub limits: PruneLimits,
    /// Age up to which forgotten snapshots stay in the trash, with what they need.
    pub keep_trash: SignedDuration,
    /// Age beyond which a session that has not ended is declared void.
    pub session_age_max: Duration,
    /// Longest wait for younger sessions.
    pub wait_max: Duration,
    /// Age of a tombstone before its packs go, where the backend ignores create-only writes.
    pub grace: Duration,
}

impl Default for PruneOptions {
    fn default() -> Self {
        const HOUR: Duration = Duration::from_secs(3600);
        Self {
            dry_run: false,
            limits: PruneLimits::default(),
            keep_trash: SignedDuration::ZERO,
            session_age_max: 24 * HOUR,
            wait_max: Duration::from_secs(600),
            grace: 7 * 24 * HOUR,
        }
    }
}

/// What a prune did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PruneReport {
    /// What was to be done.
    pub plan: PrunePlan,
    /// Chunks that were moved.
    pub chunks_moved: u64,
    /// Bytes that were written for that.
    pub bytes_written: u64,
    /// Packs deleted.
    pub packs_deleted: u64,
    /// Their bytes.
    pub bytes_deleted: u64,
    /// Packs that turned out to be needed after they were marked.
    pub packs_rescued: u64,
    /// Packs that could not be moved because something in them cannot be read.
    pub packs_unreadable: u64,
    /// Packs that stay because something that is needed in them was found in no other pack, though the index says so.
    pub packs_unproven: u64,
    /// Packs that are marked and wait for a later prune.
    pub packs_waiting: u64,
    /// Index segments written.
    pub segments_written: u64,
    /// Index segments that they replaced.
    pub segments_removed: u64,
    /// Forgotten snapshots removed for good.
    pub snapshots_removed: u64,
    /// Sessions that were declared void.
    pub sessions_voided: u64,
    /// Sessions that run, and for whose end a later prune must wait.
    pub sessions_open: u64,
    /// Temporary files of crashed writers removed.
    pub temporaries_removed: u64,
    /// Whether the backend ignores create-only writes, so that time has to stand in.
    pub by_grace: bool,
    /// By how many seconds our clock is ahead of the backend's, less than nothing if it is behind; none if it is right.
    pub clock_off_seconds: Option<i64>,
}

impl PruneReport {
    /// Returns whether all that was planned was done.
    pub fn is_complete(&self) -> bool {
        self.packs_waiting == 0 && self.packs_unreadable == 0 && self.packs_unproven == 0
    }
}

/// A prune under way.
struct Prune<'a> {
    repository: &'a Arc<Repository>,
    options: &'a PruneOptions,
    hears: &'a Hears,
    report: PruneReport,
    /// Snapshots in the trash that were not counted when the needed chunks were last collected.
    unneeded_trash: Vec<SessionId>,
    /// The session in which this prune moved chunks.
    own_session: Option<SessionId>,
    /// Whom this key relies on.
    trust: Trust,
    /// Packs that were found not to hold what is said of them.
    accused: HashSet<PackId>,
}

/// Prunes. Needs a maintainer's key.
pub fn run(repository: &Arc<Repository>, options: &PruneOptions, hears: &Hears) -> Result<PruneReport> {
    repository.access().require_maintainer("prune")?;
    let report = PruneReport {
        by_grace: !repository.config().create_only,
        clock_off_seconds: repository.tell_clock_off(hears),
        ..PruneReport::default()
    };
    let mut prune = Prune {
        repository,
        options,
        hears,
        report,
        unneeded_trash: Vec::new(),
        own_session: None,
        trust: Trust::read(repository)?,
        accused: HashSet::new(),
    };
    prune.run()?;
    Ok(prune.report)
}

/// What stands under the name of a snapshot or note and cannot be read may need anything, or hold anything.
fn refuse_unknown(list: &SnapshotList, notes: &Notes) -> Result<()> {
    let mut unknown = list.unreadable();
    unknown.extend(notes.damaged.clone());
    let Some(error) = unknown.first() else { return Ok(()) };
    Err(Error::Refused(format!(
        "Nothing is pruned while snapshots or notes cannot be read ({}); `mlvault repair objects` takes them out of the \
         way. {error}",
        unknown.count()
    )))
}

impl Prune<'_> {
    fn run(&mut self) -> Result<()> {
        let mut needed = Needed::new(Arc::clone(self.repository));
        self.round(&mut needed)?;
        if self.options.dry_run {
            return Ok(());
        }
        let is_short_of_plan = self.report.packs_unproven > 0 || self.report.packs_unreadable > 0;
        if is_short_of_plan && !self.accused.is_empty() {
            // Nothing is left to the packs that turned out not to hold what is said of them, if another holds it; so they go
            // themselves.
            self.report.packs_unproven = 0;
            self.round(&mut needed)?;
        }
        self.clean_up()
    }

    fn basis<'a>(&'a self, needed: &'a Needed) -> Basis<'a> {
        Basis { needed, trust: &self.trust, accused: &self.accused }
    }

    /// Makes a plan and carries it out.
    fn round(&mut self, needed: &mut Needed) -> Result<()> {
        self.hears.monitor.phase("look at snapshots", None, None);
        self.add_needed(needed)?;
        let view = View::take(self.repository)?;
        let packs = view.uses(self.repository, &self.basis(needed))?.packs;
        let open = self.sessions_in_the_way()?;
        self.report.sessions_open = open.len() as u64;
        let mut plan = plan::plan(&packs, &self.options.limits, self.full_pack_bytes(), !open.is_empty());
        let (delete, repack) = (std::mem::take(&mut plan.delete), std::mem::take(&mut plan.repack));
        // One that was accused before and still has to provide something holds what no other pack does: it stays.
        let (stuck, repack): (Vec<PackUse>, Vec<PackUse>) =
            repack.into_iter().partition(|pack| self.accused.contains(&pack.id));
        if self.accused.is_empty() {
            self.report.plan = plan;
        }
        if self.options.dry_run {
            return self.tell_open(&open);
        }
        let duration_max = self.options.limits.duration_max;
        let what = Repack { packs: &repack, doomed: &delete, needed, duration_max };
        let moved = repack::run(self.repository, &what, self.hears)?;
        self.report.chunks_moved += moved.chunks;
        self.report.bytes_written += moved.bytes_written;
        self.report.packs_unreadable = (stuck.len() + moved.unreadable.len()) as u64;
        self.accused.extend(moved.unreadable);
        self.own_session = moved.session;
        // Moving was a session, and it has ended: were it open, the sweep would wait for itself (step 4).
        let mut mark: Vec<PackId> = delete.iter().map(|pack| pack.id).collect();
        mark.extend(moved.packs);
        match self.report.by_grace {
            false => self.mark_and_sweep(mark, needed),
            true => self.sweep_by_grace(mark, needed),
        }
    }

    /// Adds what listed, held and freshly forgotten snapshots need. What is damaged might need anything.
    fn add_needed(&mut self, needed: &mut Needed) -> Result<()> {
        let (list, notes) = (self.repository.list_snapshots()?, self.repository.list_notes()?);
        // A snapshot that cannot be read may need any chunk, and a note that cannot be read may hold any snapshot.
        refuse_unknown(&list, &notes)?;
        let now = self.repository.now_there()?;
        let mut counted: Vec<&Snapshot> = list.snapshots.iter().collect();
        self.unneeded_trash.clear();
        for trashed in &list.trash {
            let id = trashed.snapshot.id;
            let is_fresh = now.duration_since(trashed.since(now)) < self.options.keep_trash;
            if is_fresh || notes.hold_on(&id, now).is_some() {
                counted.push(&trashed.snapshot);
            } else {
                self.unneeded_trash.push(id);
            }
        }
        needed.add(counted, self.hears).map_err(|error| match error.is_damage() {
            true => Error::Refused(format!(
                "Nothing is pruned while a snapshot is damaged; `mlvault check` tells which to forget. {error}"
            )),
            false => error,
        })
    }

    /// Returns the sessions that may still name packs. Where the backend can tell, old ones are ended first.
    fn sessions_in_the_way(&mut self) -> Result<Vec<OpenSession>> {
        let open = self.open_sessions()?;
        if self.options.dry_run || self.report.by_grace { Ok(open) } else { self.end_old(open) }
    }

    fn full_pack_bytes(&self) -> PerKind<u64> {
        let data = u64::from(self.repository.config().pack_bytes).min(self.repository.memory_plan().pack_bytes_max);
        PerKind { data, meta: data.min(META_PACK_BYTES as u64) }
    }

    fn mark_and_sweep(&mut self, mark: Vec<PackId>, needed: &mut Needed) -> Result<()> {
        if mark.is_empty() {
            return self.keep_index_tidy();
        }
        session::require_create_only(self.repository)?;
        // Before sessions are listed: one that begins after this sees the tombstone and relies on none of its packs, and
        // one that began before is in the listing. Before tombstones are listed too: of two prunes one sees the other.
        let tombstone = session::bury(self.repository, &mark)?;
        // Whoever may rely on a marked pack has committed, and is counted below, or was voided and cannot commit.
        self.report.sessions_open = self.end_sessions()?;
        if self.report.sessions_open > 0 {
            self.report.packs_waiting = mark.len() as u64;
            return Ok(());
        }
        self.sweep(&mark, needed, &tombstone)?;
        // Only after a sweep that did not count them: as long as what they need is there, an undelete may want them.
        self.empty_trash()
    }

    /// Without create-only writes nothing tells a session that commits from one that is voided at that moment. So what
    /// is marked now waits for longer than any session lasts, and only what was marked so long ago is swept.
    fn sweep_by_grace(&mut self, mut mark: Vec<PackId>, needed: &mut Needed) -> Result<()> {
        let (now, marked_at) = (self.repository.now_there()?, self.tombstone_arrivals()?);
        let tombstones = session::tombstones(self.repository)?.all_readable()?;
        for (key, packs) in &tombstones.sound {
            // One tombstone a pack: a second one would let its time begin anew with every prune.
            mark.retain(|pack| !packs.contains(pack));
            // One whose time is not known counts as marked just now: too late is safe, and too early is not.
            let age = now.duration_since(marked_at.get(key).copied().unwrap_or(now));
            if age > SignedDuration::try_from(self.options.grace).unwrap_or(SignedDuration::MAX) {
                self.sweep(packs, needed, key)?;
            } else {
                self.report.packs_waiting += packs.len() as u64;
            }
        }
        self.report.packs_waiting += mark.len() as u64;
        match (mark.is_empty(), self.report.packs_waiting) {
            (true, 0) => self.empty_trash(),
            (true, _) => Ok(()),
            (false, _) => session::bury(self.repository, &mark).map(drop),
        }
    }

    /// Returns when each tombstone arrived. Its name has the time of whoever wrote it, whose clock may be wrong.
    fn tombstone_arrivals(&self) -> Result<HashMap<String, Timestamp>> {
        let listed = self.repository.backend().list(layout::TOMBSTONES)?;
        let arrived = |object: &Listed| {
            let id = layout::tombstone_of(&object.key)?;
            Some((object.key.clone(), time::arrival(object, id.unix_milliseconds())))
        };
        Ok(listed.iter().filter_map(arrived).collect())
    }

    /// Drops from the index what is gone, and merges small segments, where no sweep does.
    fn keep_index_tidy(&mut self) -> Result<()> {
        let view = View::take(self.repository)?;
        BlobKind::ALL
            .into_iter()
            .try_for_each(|kind| self.rewrite_segments(kind, view.gone(kind).copied().collect()))?;
        self.empty_trash()
    }
}
