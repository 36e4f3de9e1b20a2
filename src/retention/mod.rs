//! Retention: which snapshots stay, and forgetting the others.
//!
//! What must stay true:
//! - A plan is made first, can be shown, and is what is carried out; each snapshot has a reason.
//! - Nothing is forgotten while a snapshot or note cannot be read, or while the clock is in doubt.
//! - A plan that takes away too much of what one key made of one source, or a group's newest complete snapshot, needs to be forced. A hold cannot be forced.
//! - Each snapshot is forgotten by one write, oldest first: a stop in between leaves the rest listed.

pub mod decide;
pub mod outlook;
pub mod policy;
mod undelete;

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::format::note::Says;
use crate::hears::Hears;
use crate::id::{NoteId, SessionId, SlotId};
use crate::repository::naming::{Named, Scope};
use crate::repository::notes::Notes;
use crate::repository::snapshots::{Snapshot, SnapshotList};
use crate::repository::{Repository, layout};
pub use crate::retention::undelete::undelete;
use decide::{Candidate, Decision, decide, newest_complete};
use policy::{PRE_UPGRADE, Policy};

/// Difference between our clock and the backend's beyond which ages mean nothing.
const CLOCK_SKEW_MAX: SignedDuration = SignedDuration::from_hours(1);

/// The share of all snapshots, in percent.
const SHARE_ALL: u8 = 100;

/// What decides.
#[derive(Debug, Clone)]
pub enum ForgetChoice {
    /// A policy, for all snapshots or those of one group.
    Policy {
        /// The rules.
        policy: Policy,
        /// Its name, for the records.
        name: String,
        /// Where days begin.
        zone: TimeZone,
        /// The group; all of them without.
        group: Option<String>,
    },
    /// Someone who names snapshots.
    Snapshots(Named),
}

/// What is to be done.
#[derive(Debug, Clone, Serialize)]
pub struct ForgetPlan {
    /// One for each snapshot looked at, by group, then time.
    pub decisions: Vec<Decision>,
    /// Why this must be forced, if it must.
    pub objections: Vec<String>,
    /// What could not be read, and is neither kept nor forgotten.
    pub unreadable: Vec<String>,
    /// What the records will give as the reason.
    #[serde(skip)]
    reason: String,
}

impl ForgetPlan {
    /// Makes a plan to forget snapshots that others take the place of. Only a hold, or what cannot be read, speaks against it:
    /// execute it with `force`.
    pub fn of_replaced(
        repository: &Repository,
        snapshots: impl Iterator<Item = SessionId>,
        reason: &str,
    ) -> Result<Self> {
        repository.access().require_maintainer("forget snapshots")?;
        let names = snapshots.map(|id| id.to_string()).collect();
        let plan = plan(repository, &ForgetChoice::Snapshots(Named { names, scope: Scope::Any }), SHARE_ALL)?;
        Ok(Self { reason: reason.to_owned(), ..plan })
    }

    /// Returns what is to be forgotten.
    pub fn forgotten(&self) -> impl Iterator<Item = &Decision> {
        self.decisions.iter().filter(|decision| !decision.keep)
    }
}

/// Makes a plan. `share_max` is the share of the snapshots of each source and signer that may go unforced, in percent.
pub fn plan(repository: &Repository, what: &ForgetChoice, share_max: u8) -> Result<ForgetPlan> {
    let now = trusted_time(repository)?;
    let (list, notes) = (repository.list_snapshots()?, repository.list_notes()?);
    refuse_unknown_holds(&notes)?;
    let unreadable = list.unreadable().lines();
    let candidates = candidates_of(&list, &notes, now);
    match what {
        ForgetChoice::Policy { policy, name, zone, group } => {
            let in_group = |candidate: &Candidate| group.as_ref().is_none_or(|group| *group == candidate.group);
            let candidates: Vec<Candidate> = candidates.into_iter().filter(in_group).collect();
            if let (Some(group), true) = (group, candidates.is_empty()) {
                return Err(Error::NotFound(format!("No snapshot belongs to {group:?}")));
            }
            let decisions = decide(&candidates, policy, now, zone);
            let objections = objections_to_share(&decisions, share_max);
            Ok(ForgetPlan { decisions, objections, unreadable, reason: format!("policy {name}: {policy}") })
        }
        ForgetChoice::Snapshots(named) => {
            plan_named(&list, &candidates, named, now).map(|plan| ForgetPlan { unreadable, ..plan })
        }
    }
}

/// Carries a plan out. Returns how many snapshots were forgotten.
///
/// Fails with [`Error::Refused`] for a plan with objections that is not forced.
pub fn execute(repository: &Repository, plan: &ForgetPlan, force: bool, hears: &Hears) -> Result<u64> {
    if let (Some(objection), false) = (plan.objections.first(), force) {
        return Err(Error::Refused(objection.clone()));
    }
    let (notes, now) = (repository.list_notes()?, repository.now_there()?);
    let mut forgotten = 0;
    for decision in plan.forgotten() {
        hears.check()?;
        // One write each, oldest first: a stop here leaves the rest listed, and a second run goes on with it.
        // Someone may have put a hold on it since the plan was made.
        if notes.hold_on(&decision.id, now).is_none() {
            repository.forget(&decision.id, &plan.reason)?;
            forgotten += 1;
        }
    }
    Ok(forgotten)
}

/// Puts a hold on a snapshot.
pub fn hold(
    repository: &Repository,
    name: &str,
    reason: &str,
    until: Option<Timestamp>,
) -> Result<(NoteId, SessionId)> {
    if reason.trim().is_empty() {
        return Err(Error::Invalid("A hold needs a reason".to_owned()));
    }
    if until.is_some_and(|until| until <= repository.clock().now()) {
        return Err(Error::Invalid("The end of the hold is in the past".to_owned()));
    }
    let snapshot = repository.find_snapshot(name)?.id;
    let note = repository.write_note(Says::Hold { snapshot, reason: reason.to_owned(), until })?;
    // What was forgotten at the same moment is not held: a prune may have begun to remove what it needs.
    if !repository.list_snapshots()?.snapshots.iter().any(|listed| listed.id == snapshot) {
        return Err(Error::Busy(format!("The snapshot {} was forgotten meanwhile", snapshot.short())));
    }
    Ok((note, snapshot))
}

/// Ends a hold, named by its id or a prefix of it, or all holds on a snapshot. Returns which.
pub fn release(repository: &Repository, name: &str) -> Result<Vec<NoteId>> {
    let notes = repository.list_notes()?;
    let matches: Vec<NoteId> = notes
        .holds
        .iter()
        .filter(|hold| hold.id.to_string().starts_with(name) || hold.snapshot.to_string() == name)
        .map(|hold| hold.id)
        .collect();
    let snapshots: BTreeSet<SessionId> =
        notes.holds.iter().filter(|hold| matches.contains(&hold.id)).map(|hold| hold.snapshot).collect();
    if matches.is_empty() || name.is_empty() {
        return Err(Error::NotFound(format!("There is no hold {name:?}; `hold list` tells which there are")));
    }
    if snapshots.len() > 1 {
        return Err(Error::NotFound(format!("Several holds begin with {name:?}; give more digits")));
    }
    for hold in &matches {
        repository.write_note(Says::Release { hold: *hold })?;
    }
    Ok(matches)
}

/// Adds tags to a snapshot, or removes some.
pub fn tag(repository: &Repository, name: &str, tags: Vec<String>, add: bool) -> Result<SessionId> {
    if tags.is_empty() || tags.iter().any(|tag| tag.is_empty()) {
        return Err(Error::Invalid("Give tags that are not empty".to_owned()));
    }
    let snapshot = repository.find_snapshot(name)?.id;
    repository.write_note(if add { Says::AddTags { snapshot, tags } } else { Says::RemoveTags { snapshot, tags } })?;
    Ok(snapshot)
}

/// Says that an upgrade went well: of the snapshots tagged [`PRE_UPGRADE`], the newest complete one of each group is
/// still kept for the way back, and earlier ones are not. Returns which were released.
pub fn upgrade_done(repository: &Repository, group: Option<&str>) -> Result<Vec<SessionId>> {
    let now = trusted_time(repository)?;
    let (list, notes) = (repository.list_snapshots()?, repository.list_notes()?);
    refuse_unknown_holds(&notes)?;
    let candidates: Vec<Candidate> = candidates_of(&list, &notes, now)
        .into_iter()
        .filter(|candidate| candidate.tags.iter().any(|tag| tag == PRE_UPGRADE) && candidate.started <= now)
        .filter(|candidate| group.is_none_or(|group| candidate.group == group))
        .collect();
    if candidates.is_empty() {
        return Err(Error::NotFound(format!("No snapshot is tagged {PRE_UPGRADE:?}")));
    }
    let newest = newest_complete(&candidates, now);
    let is_before_newest = |candidate: &&Candidate| {
        // By both times: one that only says that it is newer releases nothing.
        let followed_by = |other: &Candidate| {
            let is_later = other.started > candidate.started && other.arrived >= candidate.arrived;
            other.stream() == candidate.stream() && is_later
        };
        let is_followed = candidates.iter().any(|other| newest.contains(&other.id) && followed_by(other));
        is_followed && !newest.contains(&candidate.id)
    };
    let released: Vec<SessionId> = candidates
        .iter()
        .filter(|candidate| !candidate.is_released)
        .filter(is_before_newest)
        .map(|candidate| candidate.id)
        .collect();
    if !released.is_empty() {
        repository.write_note(Says::UpgradeDone { released: released.clone() })?;
    }
    Ok(released)
}

/// Returns the time of the place, unless ours differs so much that one of them must be wrong, and nobody knows which.
fn trusted_time(repository: &Repository) -> Result<Timestamp> {
    let (ours, theirs) = (repository.clock().now(), repository.now_there()?);
    if ours.duration_since(theirs).abs() > CLOCK_SKEW_MAX {
        return Err(Error::Refused(format!(
            "The clock of this machine says {ours}, the backend's {theirs}; ages cannot be told"
        )));
    }
    Ok(theirs)
}

/// Snapshots that cannot be read are not forgotten, and keep no other one from that. A note that cannot be read may hold
/// any snapshot.
fn refuse_unknown_holds(notes: &Notes) -> Result<()> {
    match notes.damaged.first() {
        None => Ok(()),
        Some(error) => Err(Error::Refused(format!(
            "Nothing is forgotten while notes cannot be read ({}), which may be holds; `mlvault repair objects` takes them \
             out of the way. {error}",
            notes.damaged.count()
        ))),
    }
}

/// Returns what may be forgotten. Of a snapshot that may be forgotten already nothing is decided, and it takes no other
/// one's place.
fn candidates_of(list: &SnapshotList, notes: &Notes, now: Timestamp) -> Vec<Candidate> {
    let sure = list.snapshots.iter().filter(|snapshot| !list.doubtful.contains(&snapshot.id));
    sure.map(|snapshot| candidate(snapshot, notes, now)).collect()
}

fn candidate(snapshot: &Snapshot, notes: &Notes, now: Timestamp) -> Candidate {
    Candidate {
        id: snapshot.id,
        started: snapshot.record.started,
        arrived: snapshot.arrived,
        is_doubtful: snapshot.is_time_doubtful(),
        group: snapshot.record.source.group(),
        signer: snapshot.signer.slot,
        by: snapshot.signer.label.clone(),
        tags: notes.tags_of(snapshot),
        is_complete: !snapshot.is_incomplete(),
        hold: notes.hold_on(&snapshot.id, now).map(|hold| hold.reason.clone()),
        is_released: notes.released.contains(&snapshot.id),
    }
}

/// Each source and signer by itself: a stream of decoys cannot hide that another one is emptied.
fn objections_to_share(decisions: &[Decision], share_max: u8) -> Vec<String> {
    let mut streams: BTreeMap<(&str, SlotId), Vec<&Decision>> = BTreeMap::new();
    for decision in decisions {
        streams.entry((&decision.group, decision.signer)).or_default().push(decision);
    }
    let objection = |stream: &Vec<&Decision>| {
        let (all, gone) = (stream.len(), stream.iter().filter(|decision| !decision.keep).count());
        let (group, by) = (&stream[0].group, &stream[0].by);
        (gone * 100 > all * usize::from(share_max)).then(|| {
            format!(
                "{gone} of {all} snapshots of {group:?} by the key {by:?} would be forgotten, more than {share_max} %"
            )
        })
    };
    streams.values().filter_map(objection).collect()
}

fn plan_named(list: &SnapshotList, candidates: &[Candidate], named: &Named, now: Timestamp) -> Result<ForgetPlan> {
    let chosen: BTreeSet<SessionId> =
        named.among(&list.snapshots)?.into_iter().map(|at| list.snapshots[at].id).collect();
    let newest = newest_complete(candidates, now);
    let (mut decisions, mut objections) = (Vec::new(), Vec::new());
    for candidate in candidates.iter().filter(|candidate| chosen.contains(&candidate.id)) {
        let short = candidate.id.short();
        if let Some(reason) = &candidate.hold {
            return Err(Error::Refused(format!("The snapshot {short} is held ({reason}); release the hold first")));
        }
        if newest.contains(&candidate.id) {
            objections.push(format!("The snapshot {short} is the newest complete one of {:?}", candidate.group));
        }
        decisions.push(candidate.decision(false, vec!["named".to_owned()]));
    }
    if let Some(id) = chosen.iter().find(|id| list.doubtful.contains(id)) {
        return Err(Error::Refused(format!(
            "The snapshot {} may be forgotten already: {:?} cannot be read; `mlvault repair objects` takes it out of the way",
            id.short(),
            layout::forgotten(id)
        )));
    }
    Ok(ForgetPlan { decisions, objections, unreadable: Vec::new(), reason: "named by its id".to_owned() })
}
