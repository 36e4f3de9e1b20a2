//! The small objects: key slots, snapshots, notes, sessions, tombstones.

use std::collections::HashSet;

use bytes::Bytes;

use crate::backend::Listed;
use crate::check::Check;
use crate::check::findings::ProblemKind;
use crate::error::{Error, Result};
use crate::format::object::{self, ObjectKind};
use crate::format::session::SessionRecord;
use crate::format_error::FormatError;
use crate::id::SessionId;
use crate::parallel;
use crate::repository::layout::{self, Object};
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
        for error in &list.damaged {
            let object = match error {
                Error::Damaged { object, .. } | Error::Backend { object, .. } => object,
                _ => layout::SNAPSHOTS,
            };
            self.findings.problem(ProblemKind::Snapshot, object, &error.reason());
        }
        let damaged: HashSet<SessionId> = list.damaged.iter().filter_map(snapshot_of).collect();
        for (id, seen_by) in self.repository.vanished(&list)? {
            if !damaged.contains(&id) {
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
        self.check_sealed(sessions, ProblemKind::Session, ObjectKind::Session, |body| {
            SessionRecord::decode(body).map(drop)
        })
    }

    fn check_tombstones(&self) -> Result<()> {
        let tombstones = session::tombstones(self.repository)?;
        let bad = tombstones.faults();
        self.findings.count(|counts| counts.tombstones = (tombstones.sound.len() + bad.len()) as u64);
        self.report(ProblemKind::Tombstone, layout::TOMBSTONES, &bad);
        Ok(())
    }

    fn check_countersignatures(&self) -> Result<()> {
        let damaged = self.repository.countersigned_packs()?.damaged;
        self.report(ProblemKind::Countersignature, layout::COUNTERSIGNED, &damaged);
        Ok(())
    }

    fn check_notes(&self) -> Result<()> {
        self.report(ProblemKind::Note, layout::NOTES, &self.repository.list_notes()?.damaged);
        Ok(())
    }

    /// Reports objects that do not count; `prefix` is where they are if an error does not say more.
    fn report(&self, problem: ProblemKind, prefix: &str, errors: &[Error]) {
        for error in errors {
            let object = match error {
                Error::Damaged { object, .. } | Error::Backend { object, .. } => object,
                _ => prefix,
            };
            self.findings.problem(problem, object, &error.reason());
        }
    }

    /// Opens objects that are bound to their names, and decodes them. One that is gone by now was removed by a prune.
    fn check_sealed(
        &self,
        objects: &[Listed],
        problem: ProblemKind,
        kind: ObjectKind,
        decode: impl Fn(&[u8]) -> Result<(), FormatError> + Sync,
    ) -> Result<()> {
        let repository = self.repository;
        let threads = repository.backend().concurrency();
        let checked = parallel::map(objects, threads, |listed| {
            self.guarded(|| {
                let name = listed.key.rsplit('/').next().unwrap_or_default();
                let open = |bytes: Bytes| {
                    object::open(repository.keys(), repository.id(), kind, name, &bytes)
                        .and_then(|body| decode(&body))
                        .map_err(|error| Error::damaged(&listed.key, error))
                };
                match repository.backend().read(&listed.key).and_then(open) {
                    Err(error) if error.fault() == Some(crate::error::Fault::NotFound) => Ok(()),
                    Err(error) if error.is_damage() => {
                        self.findings.problem(problem, &listed.key, &error.reason());
                        Ok(())
                    }
                    result => result,
                }
            })
        });
        checked.into_iter().collect()
    }
}

/// Returns the snapshot that an error is about.
pub(super) fn snapshot_of(error: &Error) -> Option<SessionId> {
    let (Error::Damaged { object, .. } | Error::Backend { object, .. }) = error else { return None };
    match Object::at(object)? {
        Object::Snapshot(id) | Object::Forgotten(id) => Some(id),
        Object::Config
        | Object::KeySlot(_)
        | Object::Pack(..)
        | Object::Segment(..)
        | Object::Session(_)
        | Object::Note(_)
        | Object::Tombstone(_)
        | Object::Countersignature(_) => None,
    }
}
