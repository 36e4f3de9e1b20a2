//! The small objects: key slots, snapshots, notes, sessions, tombstones, countersignatures, evidence, plans.

use crate::backend::Listed;
use crate::check::Check;
use crate::check::findings::ProblemKind;
use crate::error::{Error, Fault, Result};
use crate::id::SessionId;
use crate::parallel;
use crate::repository::layout::{self, Object};
use crate::repository::objects::{BATCH_OBJECTS, Unreadable};
use crate::repository::session;
use crate::repository::snapshots::Snapshot;

impl Check<'_> {
    /// Reads every small object. Returns the snapshots that can be read.
    pub(super) fn check_objects(&self) -> Result<Vec<Snapshot>> {
        self.hears.monitor.phase("check objects", None, None);
        self.check_keys()?;
        // Sessions first: one that commits meanwhile does not look open.
        let sessions = self.repository.backend().list(layout::SESSIONS)?;
        let snapshots = self.check_snapshots()?;
        self.check_sessions(&sessions)?;
        self.check_tombstones()?;
        self.check_countersignatures()?;
        self.check_notes()?;
        self.check_each(&self.repository.backend().list(layout::EVIDENCE)?, ProblemKind::Evidence)?;
        self.check_each(&self.repository.backend().list(layout::PLANS)?, ProblemKind::Plan)?;
        Ok(snapshots)
    }

    fn check_keys(&self) -> Result<()> {
        for slot in self.repository.list_keys()? {
            self.findings.count(|counts| counts.key_slots += 1);
            match slot.certificate {
                Ok(_) => {}
                Err(error) if error.is_damage() => {
                    self.findings.problem(ProblemKind::KeySlot, &layout::key_slot(&slot.slot), &error.reason());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn check_snapshots(&self) -> Result<Vec<Snapshot>> {
        let list = self.repository.list_snapshots()?;
        self.problems(ProblemKind::Snapshot, &list.damaged, layout::SNAPSHOTS);
        self.problems(ProblemKind::Snapshot, &list.doubts, layout::FORGOTTEN);
        for (id, seen_by) in self.repository.vanished(&list)? {
            if !list.damaged_ids.contains(&id) {
                let reason = match seen_by.len() {
                    0 => "it is gone, but this machine has seen it".to_owned(),
                    count => format!("it is gone, but {count} later snapshots saw it"),
                };
                self.findings.problem(ProblemKind::Vanished, &layout::snapshot(&id), &reason);
            }
        }
        self.findings.count(|counts| counts.snapshots = list.snapshots.len() as u64);
        Ok(list.snapshots)
    }

    fn check_sessions(&self, sessions: &[Listed]) -> Result<()> {
        let announced: Vec<SessionId> = sessions.iter().filter_map(|object| layout::session_of(&object.key)).collect();
        let open = (announced.len() - session::ended(self.repository, &announced)?.len()) as u64;
        self.findings.count(|counts| (counts.sessions, counts.open_sessions) = (sessions.len() as u64, open));
        if open > 0 {
            self.findings.note(&format!(
                "{open} sessions ended neither as a snapshot nor void: they are running, or were interrupted"
            ));
        }
        self.check_each(sessions, ProblemKind::Session)
    }

    fn check_tombstones(&self) -> Result<()> {
        let tombstones = session::tombstones(self.repository)?;
        let bad = tombstones.faults();
        self.findings.count(|counts| counts.tombstones = tombstones.sound.len() as u64 + bad.count());
        self.problems(ProblemKind::Tombstone, &bad, layout::TOMBSTONES);
        Ok(())
    }

    fn check_countersignatures(&self) -> Result<()> {
        let damaged = self.repository.countersigned_packs()?.damaged;
        self.problems(ProblemKind::Countersignature, &damaged, layout::COUNTERSIGNED);
        Ok(())
    }

    fn check_notes(&self) -> Result<()> {
        self.problems(ProblemKind::Note, &self.repository.list_notes()?.damaged, layout::NOTES);
        Ok(())
    }

    /// Adds what could not be read under a prefix.
    fn problems(&self, kind: ProblemKind, unreadable: &Unreadable, prefix: &str) {
        for error in unreadable.iter() {
            let object = match error {
                Error::Damaged { object, .. } | Error::Backend { object, .. } => object,
                _ => prefix,
            };
            self.findings.problem(kind, object, &error.reason());
        }
        let more = unreadable.count() - unreadable.iter().count() as u64;
        if more > 0 {
            self.findings.problem(kind, prefix, &format!("{more} more objects there cannot be read"));
        }
    }

    /// Looks at objects of one kind. One that is gone by now was removed by a prune; what
    /// stands under a name that no such object has is noted with all that is unknown.
    fn check_each(&self, listed: &[Listed], problem: ProblemKind) -> Result<()> {
        let (repository, mut unreadable) = (self.repository, Unreadable::default());
        for batch in listed.chunks(BATCH_OBJECTS) {
            let checked = parallel::map(batch, repository.backend().concurrency(), |listed| {
                let Some(object) = Object::parse(&listed.key) else { return Ok(()) };
                self.guarded(|| repository.examine(object, listed.size))
            });
            for result in checked {
                match result {
                    Err(error) if error.fault() == Some(Fault::NotFound) => {}
                    Err(error) if error.is_damage() => unreadable.push(error),
                    result => result?,
                }
            }
        }
        let prefix = listed.first().map_or("", |listed| listed.key.split_inclusive('/').next().unwrap_or_default());
        self.problems(problem, &unreadable, prefix);
        Ok(())
    }
}
