//! Deletes what a tombstone names, as far as nothing needs it.
//!
//! What must stay true, in this order: the tombstone is there; every session that was announced then has ended, by
//! itself or by a void marker; snapshots are listed; tombstones are listed; the index is read; packs are listed. What
//! is deleted follows from these alone. Segments go first, packs next, the tombstone last.

use std::collections::HashSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::backend::Listed;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::session::SessionRecord;
use crate::id::{PackId, SessionId};
use crate::monitor::Counter;
use crate::prune::Prune;
use crate::prune::needed::Needed;
use crate::prune::proof::{self, Doomed, Grounds, Unproven};
use crate::prune::segments;
use crate::prune::view::View;
use crate::repository::{layout, session, time};
use crate::units::{format_age, format_duration, sum_of_claims};

/// Packs that are deleted together, between two looks whether to stop.
const DELETE_BATCH: usize = 200;
/// Sessions that are named.
const NAMED_MAX: usize = 5;
/// Time between two looks at sessions that are waited for.
const POLL: Duration = Duration::from_secs(5);

/// A session that is announced and has not ended.
pub(super) struct OpenSession {
    id: SessionId,
    /// When it was announced, by the clock of the place: its own word may come from any clock.
    arrived: Timestamp,
}

impl Prune<'_> {
    /// Waits until every session that is announced now has ended; old ones are declared void. Returns how many have not.
    pub(super) fn end_sessions(&mut self) -> Result<u64> {
        let open = self.open_sessions()?;
        let mut open = self.end_old(open)?;
        self.tell_open(&open)?;
        let mut waited = Duration::ZERO;
        while !open.is_empty() && waited < self.options.wait_max {
            self.hears.check()?;
            self.hears.monitor.phase("wait for sessions", None, None);
            self.repository.clock().sleep(POLL);
            waited += POLL;
            let ended = session::ended(self.repository, &ids_of(&open))?;
            open.retain(|session| !ended.contains(&session.id));
            open = self.end_old(open)?;
        }
        Ok(open.len() as u64)
    }

    /// Says who is in the way, since when, for how long this waits, and what can be done: nobody should have to guess.
    pub(super) fn tell_open(&self, open: &[OpenSession]) -> Result<()> {
        if open.is_empty() {
            return Ok(());
        }
        let now = self.repository.now_there()?;
        let named: Vec<String> = open.iter().take(NAMED_MAX).map(|session| self.describe(session, now)).collect();
        let more = if open.len() > named.len() { ", and others" } else { "" };
        let waits = match (self.options.dry_run, self.options.wait_max) {
            (true, _) | (_, Duration::ZERO) => String::new(),
            (false, time) => format!("; this waits for up to {}", format_duration(time.as_secs_f64())),
        };
        let is_open = if open.len() == 1 { "session has" } else { "sessions have" };
        self.hears.monitor.note(&format!(
            "{} {is_open} not ended: {}{more}{waits}. One that was killed is given up {} after its start; if you know that \
             it is gone, give it up now with --session-age, such as 1m, and --wait 0s does not wait",
            open.len(),
            named.join(", "),
            format_age(self.options.session_age_max.as_secs() as i64),
        ));
        Ok(())
    }

    fn describe(&self, session: &OpenSession, now: Timestamp) -> String {
        let OpenSession { id, arrived } = session;
        let age = format_age(now.duration_since(*arrived).as_secs());
        let who = match session::announcement(self.repository, *id) {
            Ok(SessionRecord { host, program, purpose, .. }) => format!("{purpose} on {host:?} with {program:?}"),
            // It may have ended meanwhile, or be damaged: that nobody knows is no reason to stop.
            Err(_) => "nobody knows whose".to_owned(),
        };
        format!("{} ({who}, since {}, {age} ago)", id.short(), arrived.strftime("%F %T UTC"))
    }

    /// Returns the sessions that are announced and have not ended.
    pub(super) fn open_sessions(&self) -> Result<Vec<OpenSession>> {
        // Announcements before outcomes: a session that ends in between has ended, and none that runs is overlooked.
        let listed = self.repository.backend().list(layout::SESSIONS)?;
        let session = |object: &Listed| {
            let id = layout::session_of(&object.key)?;
            Some(OpenSession { id, arrived: time::arrival(object, id.unix_milliseconds()) })
        };
        let mut open: Vec<OpenSession> = listed.iter().filter_map(session).collect();
        let ended = session::ended(self.repository, &ids_of(&open))?;
        open.retain(|session| !ended.contains(&session.id));
        Ok(open)
    }

    /// Declares sessions void that have run for too long. Returns the others.
    pub(super) fn end_old(&mut self, open: Vec<OpenSession>) -> Result<Vec<OpenSession>> {
        if open.is_empty() {
            return Ok(open);
        }
        let now = self.repository.now_there()?;
        let (old, young): (Vec<OpenSession>, _) = open.into_iter().partition(|session| self.is_old(session, now));
        for OpenSession { id: session, .. } in &old {
            self.hears
                .monitor
                .note(&format!("The session {} has run for too long and is declared void", session.short()));
            // Create-only under the name of its snapshot: either it has committed, or it never can (step 3).
            session::void(self.repository, session, "a prune waited for it in vain")?;
            self.report.sessions_voided += 1;
        }
        Ok(young)
    }

    fn is_old(&self, session: &OpenSession, now: Timestamp) -> bool {
        let age = now.duration_since(session.arrived);
        let age_max = SignedDuration::try_from(self.options.session_age_max).unwrap_or(SignedDuration::MAX);
        // One that arrived in the future did so by a clock that was wrong, and would never get old. A void marker can
        // cost a backup that runs its time, and no data.
        age >= age_max || age < -time::WORD_OFF_MAX
    }

    /// Deletes those of the packs that nothing needs, then the tombstone that names them all.
    pub(super) fn sweep(&mut self, mark: &[PackId], needed: &mut Needed, tombstone: &str) -> Result<()> {
        self.hears.monitor.phase("sweep", None, None);
        // Snapshots after all sessions have ended: what was committed beside the prune is counted.
        self.add_needed(needed)?;
        // Then tombstones, the index and packs, in this order: the chunk that a needed one is left to is in a pack that is
        // named, is there, and that no other prune has marked.
        let view = View::take(self.repository)?;
        let rescued = view.uses(self.repository, &self.basis(needed))?.rescued;
        // What is in a pack that no segment names is not known. It can go if all that is needed stands elsewhere.
        let is_needless = |pack: &&PackId| match view.is_named(pack) {
            true => !rescued.contains(pack),
            false => rescued.is_empty(),
        };
        let (needless, needed_after_all): (Vec<&PackId>, Vec<&PackId>) = mark.iter().partition(is_needless);
        self.report.packs_rescued += needed_after_all.len() as u64;
        let mut doomed: Doomed =
            needless.into_iter().filter_map(|pack| view.find(pack).map(|found| (*pack, found))).collect();
        let grounds = Grounds { needed, view: &view, own: self.own_session };
        let Unproven { packs: unproven, accused } = proof::unproven(self.repository, &grounds, &doomed, self.hears)?;
        self.accused.extend(accused);
        self.report.packs_unproven += unproven.len() as u64;
        doomed.retain(|pack, _| !unproven.contains(pack));
        // Sessions that began meanwhile were to see it. One that somebody moved away warned none of them.
        let id = layout::tombstone_of(tombstone)
            .ok_or_else(|| Error::Internal(format!("{tombstone:?} was taken for a tombstone")))?;
        if session::read_tombstone(self.repository, id, None)?
            .is_none_or(|read| !mark.iter().all(|it| read.packs.contains(it)))
        {
            return Err(Error::Refused(format!("The tombstone {tombstone} was replaced; prune again")));
        }
        // Segments first: while a pack is named it must be there, so that nobody is led to what is gone.
        for kind in BlobKind::ALL {
            let dead = doomed.iter().filter(|(_, (of, _))| *of == kind).map(|(pack, _)| *pack);
            self.rewrite_segments(kind, dead.chain(view.gone(kind).copied()).collect())?;
        }
        self.delete(&doomed)?;
        // The tombstone last: as long as a marked pack is there, sessions must see that it may go at any moment.
        self.repository.backend().remove(tombstone)
    }

    /// Writes segments of a kind anew without some packs, and merges small ones.
    pub(super) fn rewrite_segments(&mut self, kind: BlobKind, drop: HashSet<PackId>) -> Result<()> {
        let rewritten = segments::rewrite(self.repository, kind, &drop, &self.hears.cancel)?;
        self.report.segments_written += rewritten.written;
        self.report.segments_removed += rewritten.removed;
        self.repository.index().refresh(kind)
    }

    fn delete(&mut self, doomed: &Doomed) -> Result<()> {
        let packs: Vec<(&PackId, &(BlobKind, u64))> = doomed.iter().collect();
        let bytes_of = |packs: &[(&PackId, &(BlobKind, u64))]| sum_of_claims(packs.iter().map(|(_, (_, len))| *len));
        let bytes = bytes_of(&packs);
        self.hears.monitor.phase("delete packs", Some(packs.len() as u64), Some(bytes));
        for batch in packs.chunks(DELETE_BATCH) {
            self.hears.check()?;
            let keys: Vec<String> = batch.iter().map(|(pack, (kind, _))| layout::pack(*kind, pack)).collect();
            self.repository.backend().remove_all(&keys)?;
            self.hears.monitor.count(Counter::Entries, batch.len() as u64);
            self.hears.monitor.count(Counter::Bytes, bytes_of(batch));
        }
        self.report.packs_deleted += packs.len() as u64;
        self.report.bytes_deleted = self.report.bytes_deleted.saturating_add(bytes);
        Ok(())
    }
}

fn ids_of(sessions: &[OpenSession]) -> Vec<SessionId> {
    sessions.iter().map(|session| session.id).collect()
}
