//! What a policy will do in the next weeks, if a backup follows each night.
//!
//! What must stay true: the future is decided by the same function as the present ([`decide`]); only the snapshots that do not
//! exist yet are made up.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::id::SessionId;
use crate::repository::notes::Notes;
use crate::repository::snapshots::SnapshotList;
use crate::retention::candidates_of;
use crate::retention::decide::{Candidate, decide};
use crate::retention::policy::Policy;

/// How far an outlook goes.
pub const NIGHTS: u8 = 35;
/// Time between two backups that are made up.
const NIGHT: SignedDuration = SignedDuration::from_hours(24);

/// What becomes of the snapshots of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outlook {
    /// Snapshots that the policy keeps now.
    pub kept: u64,
    /// Snapshots that it would let go now.
    pub due: Vec<SessionId>,
    /// Those that follow within [`NIGHTS`], in the order in which they go.
    pub next: Vec<Departure>,
}

/// A snapshot that will go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Departure {
    /// The snapshot.
    pub snapshot: SessionId,
    /// When it was made, by its own word.
    pub made: Timestamp,
    /// The first time at which the policy would let it go, to a day.
    pub on: Timestamp,
}

/// What a policy decides about.
#[derive(Clone, Copy)]
pub struct Present<'a> {
    /// Snapshots.
    pub list: &'a SnapshotList,
    /// What was said of them.
    pub notes: &'a Notes,
    /// What time it is.
    pub now: Timestamp,
    /// Where days begin.
    pub zone: &'a TimeZone,
}

/// Works out what a policy does to the snapshots of a group. What may be forgotten already is left out, as everywhere.
pub fn outlook(present: &Present<'_>, group: &str, policy: &Policy) -> Outlook {
    let Present { list, notes, now, zone } = *present;
    let mut candidates = candidates_of(list, notes, now);
    candidates.retain(|candidate| candidate.group == group);
    look_ahead(&candidates, policy, now, zone)
}

fn look_ahead(candidates: &[Candidate], policy: &Policy, now: Timestamp, zone: &TimeZone) -> Outlook {
    let there: BTreeMap<SessionId, Timestamp> =
        candidates.iter().map(|candidate| (candidate.id, candidate.started)).collect();
    let mut gone = BTreeSet::new();
    let mut go = |candidates: &[Candidate], at| {
        let decisions = decide(candidates, policy, at, zone);
        let goes = decisions.into_iter().filter(|decision| !decision.keep && there.contains_key(&decision.id));
        goes.map(|decision| decision.id).filter(|id| gone.insert(*id)).collect::<Vec<_>>()
    };
    let due = go(candidates, now);
    let mut expected = candidates.to_vec();
    let mut next = Vec::new();
    for night in 1..=NIGHTS {
        let Ok(at) = now.checked_add(NIGHT * i32::from(night)) else { break };
        expected.extend(one_of_each_stream(candidates, night, at));
        let made = |snapshot| there.get(&snapshot).copied().unwrap_or_default();
        next.extend(go(&expected, at).into_iter().map(|snapshot| Departure { snapshot, made: made(snapshot), on: at }));
    }
    Outlook { kept: (candidates.len() - due.len()) as u64, due, next }
}

/// Makes up the backups of one night.
fn one_of_each_stream(candidates: &[Candidate], night: u8, at: Timestamp) -> Vec<Candidate> {
    let streams: BTreeMap<_, &Candidate> = candidates.iter().map(|candidate| (candidate.stream(), candidate)).collect();
    let made_up = |(number, like): (usize, &Candidate)| {
        let mut id = [u8::MAX; 16];
        id[14..].copy_from_slice(&[night, u8::try_from(number).unwrap_or(u8::MAX)]);
        Candidate {
            id: SessionId::from_bytes(id),
            started: at,
            arrived: at,
            is_doubtful: false,
            tags: Vec::new(),
            is_complete: true,
            hold: None,
            is_released: false,
            ..like.clone()
        }
    };
    streams.into_values().enumerate().map(made_up).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SlotId;
    use crate::retention::policy::PolicySpec;

    fn nightly(nights: u8, now: Timestamp) -> Vec<Candidate> {
        let candidate = |age: u8| Candidate {
            id: SessionId::from_bytes([nights - age; 16]),
            started: now - NIGHT * i32::from(age),
            arrived: now - NIGHT * i32::from(age),
            is_doubtful: false,
            group: "deployment production".to_owned(),
            signer: SlotId::from_bytes([1; 8]),
            by: "nightly".to_owned(),
            tags: Vec::new(),
            is_complete: true,
            hold: None,
            is_released: false,
        };
        (0..nights).rev().map(candidate).collect()
    }

    fn policy(spec: PolicySpec) -> Policy {
        spec.policy().unwrap()
    }

    #[test]
    fn where_seven_stay_the_oldest_goes_each_night() {
        let now: Timestamp = "2026-11-30T02:00:00Z".parse().unwrap();
        let candidates = nightly(9, now);
        let seven = policy(PolicySpec { keep_last: Some(7), ..PolicySpec::default() });
        let outlook = look_ahead(&candidates, &seven, now, &TimeZone::UTC);
        assert_eq!((outlook.kept, outlook.due), (7, vec![candidates[0].id, candidates[1].id]));
        let order: Vec<SessionId> = outlook.next.iter().map(|departure| departure.snapshot).collect();
        assert_eq!(order, candidates[2..].iter().map(|candidate| candidate.id).collect::<Vec<_>>());
        assert_eq!((outlook.next[0].on, outlook.next[6].on), (now + NIGHT, now + NIGHT * 7));
    }

    #[test]
    fn what_is_held_never_goes() {
        let now: Timestamp = "2026-11-30T02:00:00Z".parse().unwrap();
        let mut candidates = nightly(3, now);
        candidates[0].hold = Some("audit".to_owned());
        let one = policy(PolicySpec { keep_last: Some(1), ..PolicySpec::default() });
        let outlook = look_ahead(&candidates, &one, now, &TimeZone::UTC);
        assert_eq!((outlook.due, outlook.next.len()), (vec![candidates[1].id], 1));
    }
}
