//! Removes small objects that have served their purpose.
//!
//! What must stay true: an announcement of a session goes only after its outcome is there; an outcome of a session that
//! was voided stays for ever, because a process that sleeps must not commit when it wakes; a snapshot in the trash goes
//! only after a sweep that did not count it, and the record that it is forgotten stays; a tombstone of another prune, or a
//! countersignature, goes only if no pack that it names is there any more.

use std::collections::HashSet;

use jiff::SignedDuration;

use crate::error::{Fault, Result};
use crate::format::BlobKind;
use crate::id::{PackId, SessionId};
use crate::prune::Prune;
use crate::repository::layout::Object;
use crate::repository::{layout, session, time};

/// Age up to which plans of sharded backups stay: so long somebody may ask what came of a step.
const PLANS_KEPT: SignedDuration = SignedDuration::from_hours(48);

impl Prune<'_> {
    /// Removes what is not needed whether or not a sweep was possible.
    pub(super) fn clean_up(&mut self) -> Result<()> {
        self.hears.monitor.phase("clean up", None, None);
        self.remove_ended_plans()?;
        self.remove_ended_sessions()?;
        self.remove_what_speaks_of_no_pack()?;
        let backend = self.repository.backend();
        self.report.temporaries_removed = backend.remove_stale_temporaries(self.repository.clock())? as u64;
        Ok(())
    }

    fn remove_ended_sessions(&mut self) -> Result<()> {
        // An announcement goes only after its outcome was seen: a prune must find every session that may still commit.
        let listed = self.repository.backend().list(layout::SESSIONS)?;
        let sessions: Vec<SessionId> = listed.iter().filter_map(|object| layout::session_of(&object.key)).collect();
        let ended = session::ended(self.repository, &sessions)?;
        self.remove_all(ended.iter().map(layout::session))
    }

    /// Removes plans of sharded backups, and what came of their shards, whose session has ended. Not at once: a step that is
    /// run again should learn what came of it. What cannot be read stays, and is in nobody's way.
    fn remove_ended_plans(&mut self) -> Result<()> {
        let now = self.repository.now_there()?;
        let mut old = self.repository.backend().list(layout::PLANS)?;
        old.retain(|object| now.duration_since(time::arrival(object, 0)) > PLANS_KEPT);
        let mut plans = Vec::new();
        for listed in old {
            let Some(object) = Object::parse(&listed.key) else { continue };
            match self.repository.session_of_plan(object, listed.size) {
                Ok(session) => plans.push((session, listed.key)),
                Err(error) if error.is_damage() || error.fault() == Some(Fault::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        let sessions: Vec<SessionId> = plans.iter().map(|(session, _)| *session).collect();
        let ended = session::ended(self.repository, &sessions)?;
        self.remove_all(plans.into_iter().filter(|(session, _)| ended.contains(session)).map(|(_, key)| key))
    }

    fn remove_all(&self, keys: impl Iterator<Item = String>) -> Result<()> {
        self.hears.check()?;
        self.repository.backend().remove_all(&keys.collect::<Vec<_>>())
    }

    /// Removes tombstones and countersignatures of which no pack is there any more.
    fn remove_what_speaks_of_no_pack(&mut self) -> Result<()> {
        // Listed before packs: what speaks of a pack that is written meanwhile is not taken for idle.
        let session::Tombstones { sound: tombstones, forged, .. } =
            session::tombstones(self.repository)?.all_readable()?;
        // They mark nothing.
        self.repository.backend().remove_all(&forged)?;
        // To read all countersignatures each night would cost more than what they take up: only who deletes packs looks.
        let countersigned = match self.report.packs_deleted {
            0 => Vec::new(),
            _ => self.repository.countersignatures()?,
        };
        if tombstones.is_empty() && countersigned.is_empty() {
            return Ok(());
        }
        let mut there: HashSet<PackId> = HashSet::new();
        for kind in BlobKind::ALL {
            there.extend(session::stored_packs(self.repository, kind)?.into_keys());
        }
        // With one pack of a tombstone there, its prune may be about to delete it by what it saw long ago (step 7).
        let tombstones = tombstones
            .into_iter()
            .filter(|(_, packs)| !packs.iter().any(|pack| there.contains(pack)))
            .map(|(key, _)| key);
        let countersigned = countersigned
            .into_iter()
            .filter(|object| !object.packs.iter().any(|sound| there.contains(&sound.pack)))
            .map(|object| layout::countersignature(&object.id));
        self.remove_all(tombstones.chain(countersigned))
    }

    /// Removes snapshots that were forgotten and that the last sweep did not count, and notes on what is gone.
    pub(super) fn empty_trash(&mut self) -> Result<()> {
        let removed = std::mem::take(&mut self.unneeded_trash);
        // The records in `forgotten/` stay: a delayed write of a snapshot must not list it again.
        self.remove_all(removed.iter().map(layout::snapshot))?;
        self.report.snapshots_removed += removed.len() as u64;
        let list = self.repository.list_snapshots()?;
        let trash = list.trash.iter().map(|trashed| trashed.snapshot.id);
        let there: HashSet<SessionId> = list.snapshots.iter().map(|snapshot| snapshot.id).chain(trash).collect();
        let notes = self.repository.list_notes()?.subjects;
        let is_idle = |subject: &SessionId| list.forgotten.contains(subject) && !there.contains(subject);
        self.remove_all(notes.iter().filter(|(_, subject)| is_idle(subject)).map(|(note, _)| layout::note(note)))
    }
}
