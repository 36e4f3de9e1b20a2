//! What a policy does to snapshots: a pure function, with a reason for each.
//!
//! What must stay true:
//! - Snapshots of one group, or signed by one key, never count for another.
//! - A snapshot that is held, or is the newest complete one of its group, is kept whatever the policy says.
//! - Of each slot the snapshot that *arrived* first is kept, so that decisions do not change when others follow and
//!   nobody can drive one out by adding more, whatever time he gives them. An incomplete one never takes the place of a
//!   complete one.
//! - A snapshot from the future is kept, and counts for nothing.
//! - A group whose times are in doubt is read in three ways (`Reading`), and what any of them keeps is kept. So what is
//!   doubtful makes nothing go that is not, and goes by age only once it is old by its word and by its arrival.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::id::{SessionId, SlotId};
use crate::retention::policy::{Limit, PRE_UPGRADE, Period, Policy, Rule};

/// What a decision rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The snapshot.
    pub id: SessionId,
    /// When it was made, by its own word.
    pub started: Timestamp,
    /// When it arrived, by the clock of the place where it is stored.
    pub arrived: Timestamp,
    /// Whether the one cannot be reconciled with the other.
    pub is_doubtful: bool,
    /// Counts together with others of the same name and signer.
    pub group: String,
    /// The slot of the key that signed it.
    pub signer: SlotId,
    /// What that key is called.
    pub by: String,
    /// Its tags as they are now.
    pub tags: Vec<String>,
    /// Whether nothing of its source is missing.
    pub is_complete: bool,
    /// Why it is held, if it is.
    pub hold: Option<String>,
    /// Whether an upgrade after a later one went well.
    pub is_released: bool,
}

impl Candidate {
    /// Returns what it shares with those that it counts together with.
    pub fn stream(&self) -> (&str, SlotId) {
        (&self.group, self.signer)
    }

    /// Returns the decision about it.
    pub fn decision(&self, keep: bool, reasons: Vec<String>) -> Decision {
        Decision {
            id: self.id,
            started: self.started,
            arrived: self.arrived,
            time_doubtful: self.is_doubtful,
            group: self.group.clone(),
            signer: self.signer,
            by: self.by.clone(),
            tags: self.tags.clone(),
            is_complete: self.is_complete,
            keep,
            reasons,
        }
    }
}

/// What becomes of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// The snapshot.
    pub id: SessionId,
    /// When it was made, by its own word.
    pub started: Timestamp,
    /// When it arrived, by the clock of the place where it is stored.
    pub arrived: Timestamp,
    /// Whether the one cannot be reconciled with the other.
    pub time_doubtful: bool,
    /// Its group.
    pub group: String,
    /// The slot of the key that signed it.
    pub signer: SlotId,
    /// What that key is called.
    pub by: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Whether nothing of its source is missing.
    pub is_complete: bool,
    /// Whether it stays.
    pub keep: bool,
    /// Why it stays, or goes.
    pub reasons: Vec<String>,
}

/// Why something goes that a policy was asked about.
const NO_RULE: &str = "no rule keeps it";

/// Decides about every candidate; the result is sorted by group and signer, then time.
pub fn decide(candidates: &[Candidate], policy: &Policy, now: Timestamp, zone: &TimeZone) -> Vec<Decision> {
    let mut decisions = Vec::with_capacity(candidates.len());
    for stream in streams(candidates).into_values() {
        let reasons = reasons(&stream, policy, now, zone);
        decisions.extend(stream.iter().zip(reasons).map(|(candidate, reasons)| match reasons.is_empty() {
            true => candidate.decision(false, vec![NO_RULE.to_owned()]),
            false => candidate.decision(true, reasons),
        }));
    }
    decisions
}

/// Sorts candidates into those that count together, by time.
fn streams(candidates: &[Candidate]) -> BTreeMap<(&str, SlotId), Vec<&Candidate>> {
    let mut streams: BTreeMap<(&str, SlotId), Vec<&Candidate>> = BTreeMap::new();
    for candidate in candidates {
        streams.entry(candidate.stream()).or_default().push(candidate);
    }
    streams.values_mut().for_each(|stream| stream.sort_by_key(|candidate| (candidate.started, candidate.id)));
    streams
}

/// Returns why each of a stream stays.
fn reasons(stream: &[&Candidate], policy: &Policy, now: Timestamp, zone: &TimeZone) -> Vec<Vec<String>> {
    let mut reasons = vec![Vec::new(); stream.len()];
    for reading in Reading::of(stream) {
        for (at, reason) in (Group { members: reading.read(stream), now, zone }).reasons(policy) {
            if !reasons[at].contains(&reason) {
                reasons[at].push(reason);
            }
        }
    }
    reasons
}

/// Returns the newest complete snapshot of each group and signer, leaving out what comes from the future. Where times are
/// in doubt there may be several.
pub fn newest_complete(candidates: &[Candidate], now: Timestamp) -> BTreeSet<SessionId> {
    let mut newest = BTreeSet::new();
    for stream in streams(candidates).into_values() {
        for reading in Reading::of(&stream) {
            let members = reading.read(&stream);
            newest.extend(newest_complete_of(&members, now).map(|at| members[at].candidate.id));
        }
    }
    newest
}

fn newest_complete_of(members: &[Member<'_>], now: Timestamp) -> Option<usize> {
    members.iter().rposition(|member| member.candidate.is_complete && member.time <= now)
}

/// A way to read the times of a group.
#[derive(Debug, Clone, Copy)]
enum Reading {
    /// Only those whose word agrees with their arrival: what is doubtful cannot make them go.
    Undisputed,
    /// Everyone's word: copies and moved repositories keep what they would keep at home.
    Word,
    /// The arrival where the word is in doubt: what was dated in the past is not old before its time.
    Arrival,
}

impl Reading {
    /// Returns the ways to read a stream. Where nothing is in doubt they all say the same.
    fn of(stream: &[&Candidate]) -> &'static [Self] {
        let all = &[Self::Undisputed, Self::Word, Self::Arrival];
        if stream.iter().any(|candidate| candidate.is_doubtful) { all } else { &all[..1] }
    }

    fn time(self, candidate: &Candidate) -> Option<Timestamp> {
        match (self, candidate.is_doubtful) {
            (Self::Undisputed, true) => None,
            (Self::Arrival, true) => Some(candidate.arrived),
            _ => Some(candidate.started),
        }
    }

    /// Returns those that count, by time.
    fn read<'a>(self, stream: &[&'a Candidate]) -> Vec<Member<'a>> {
        let member =
            |(at, candidate): (usize, &&'a Candidate)| self.time(candidate).map(|time| Member { at, candidate, time });
        let mut members: Vec<Member<'_>> = stream.iter().enumerate().filter_map(member).collect();
        members.sort_by_key(|member| (member.time, member.candidate.id));
        members
    }
}

/// A snapshot as a reading sees it.
struct Member<'a> {
    /// Its place in the stream.
    at: usize,
    candidate: &'a Candidate,
    time: Timestamp,
}

impl Member<'_> {
    /// Returns who comes first in a slot. Arrival decides: whoever comes later cannot say that he was earlier.
    fn rank(&self) -> (bool, Timestamp, Timestamp, SessionId) {
        (!self.candidate.is_complete, self.candidate.arrived, self.time, self.candidate.id)
    }
}

/// Snapshots that count together, oldest first.
struct Group<'a> {
    members: Vec<Member<'a>>,
    now: Timestamp,
    zone: &'a TimeZone,
}

impl Group<'_> {
    /// Returns why members stay, with their places in the stream.
    fn reasons(&self, policy: &Policy) -> Vec<(usize, String)> {
        let mut reasons = Vec::new();
        for member in &self.members {
            reasons.extend(member.candidate.hold.as_ref().map(|why| (member.at, format!("hold: {why}"))));
            if self.is_future(member) {
                reasons.push((member.at, "from the future".to_owned()));
            }
        }
        if let Some(newest) = newest_complete_of(&self.members, self.now) {
            reasons.push((self.members[newest].at, "newest complete".to_owned()));
        }
        for rule in policy.rules() {
            reasons.extend(self.kept_by(rule).into_iter().map(|kept| (self.members[kept].at, rule.to_string())));
        }
        reasons
    }

    fn is_future(&self, member: &Member<'_>) -> bool {
        member.time > self.now
    }

    /// Returns the members that a rule keeps.
    fn kept_by(&self, rule: &Rule) -> Vec<usize> {
        match rule {
            Rule::Last(count) => self.newest(&self.present(), *count),
            Rule::Within(age) => self.since(self.present(), age.before(self.now, self.zone)),
            Rule::Each(period, Limit::Count(count)) => self.newest(&self.first_of_each(*period), *count),
            Rule::Each(period, Limit::Age(age)) => {
                self.since(self.first_of_each(*period), age.before(self.now, self.zone))
            }
            Rule::Tag(tag) => self.with_tag(tag),
            Rule::PreUpgrade => {
                let mut kept = self.with_tag(PRE_UPGRADE);
                kept.retain(|at| !self.members[*at].candidate.is_released);
                kept
            }
        }
    }

    fn present(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|at| !self.is_future(&self.members[*at])).collect()
    }

    fn with_tag(&self, tag: &str) -> Vec<usize> {
        let has_tag = |at: &usize| self.members[*at].candidate.tags.iter().any(|other| other == tag);
        (0..self.members.len()).filter(has_tag).collect()
    }

    fn since(&self, mut chosen: Vec<usize>, oldest: Timestamp) -> Vec<usize> {
        chosen.retain(|at| self.members[*at].time >= oldest);
        chosen
    }

    /// Returns the newest `count` complete ones of some, and of those that are no older than these the newest `count`
    /// incomplete ones: a job that tries again and again makes no pile.
    fn newest(&self, chosen: &[usize], count: u32) -> Vec<usize> {
        let (mut complete, mut incomplete) = (count, count);
        let mut kept = Vec::new();
        for at in chosen.iter().rev() {
            if complete == 0 {
                break;
            }
            let left = if self.members[*at].candidate.is_complete { &mut complete } else { &mut incomplete };
            if *left > 0 {
                *left -= 1;
                kept.push(*at);
            }
        }
        kept
    }

    /// Returns the first complete member of each slot, or the first one where none is complete.
    fn first_of_each(&self, period: Period) -> Vec<usize> {
        let mut first: BTreeMap<Slot, usize> = BTreeMap::new();
        for at in self.present() {
            let chosen = first.entry(self.slot(period, self.members[at].time)).or_insert(at);
            if self.members[at].rank() < self.members[*chosen].rank() {
                *chosen = at;
            }
        }
        let mut chosen: Vec<usize> = first.into_values().collect();
        chosen.sort();
        chosen
    }

    fn slot(&self, period: Period, time: Timestamp) -> Slot {
        let time = time.to_zoned_datetime(self.zone.clone());
        let (year, month) = (i32::from(time.year()), i32::from(time.month()));
        match period {
            // The offset tells the two hours apart that have one name when summer time ends.
            Period::Hour => {
                let day = i32::from(time.day_of_year());
                [year, day, i32::from(time.hour()), -time.offset().seconds()]
            }
            Period::Day => [year, i32::from(time.day_of_year()), 0, 0],
            Period::Week => {
                let week = time.date().iso_week_date();
                [i32::from(week.year()), i32::from(week.week()), 0, 0]
            }
            Period::Month => [year, month, 0, 0],
            Period::Year => [year, 0, 0, 0],
        }
    }
}

/// Names a slot among those of one period.
type Slot = [i32; 4];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::retention::policy::PolicySpec;

    fn candidate(number: u8, started: &str) -> Candidate {
        Candidate {
            id: SessionId::from_bytes([number; 16]),
            started: started.parse().unwrap(),
            arrived: started.parse().unwrap(),
            is_doubtful: false,
            group: "a".to_owned(),
            signer: SlotId::from_bytes([1; 8]),
            by: "writer".to_owned(),
            tags: Vec::new(),
            is_complete: true,
            hold: None,
            is_released: false,
        }
    }

    fn kept(candidates: &[Candidate], spec: &PolicySpec, now: &str, zone: &str) -> Vec<u8> {
        let zone = TimeZone::get(zone).unwrap();
        let decisions = decide(candidates, &spec.policy().unwrap(), now.parse().unwrap(), &zone);
        decisions.iter().filter(|decision| decision.keep).map(|decision| decision.id.as_bytes()[0]).collect()
    }

    #[test]
    fn the_first_of_a_slot_stays_whatever_follows() {
        let mut all = vec![
            candidate(1, "2026-11-20T01:00:00Z"),
            candidate(2, "2026-11-20T23:00:00Z"),
            candidate(3, "2026-11-21T02:00:00Z"),
        ];
        let daily = PolicySpec { keep_daily: Some(2), ..PolicySpec::default() };
        assert_eq!(kept(&all, &daily, "2026-11-21T12:00:00Z", "UTC"), [1, 3]);
        all.push(candidate(4, "2026-11-21T09:00:00Z"));
        assert_eq!(kept(&all, &daily, "2026-11-21T12:00:00Z", "UTC"), [1, 3, 4]);
    }

    #[test]
    fn an_incomplete_snapshot_takes_no_place() {
        let mut all = vec![
            candidate(1, "2026-11-19T01:00:00Z"),
            candidate(2, "2026-11-20T01:00:00Z"),
            candidate(3, "2026-11-20T02:00:00Z"),
            candidate(4, "2026-11-21T01:00:00Z"),
        ];
        for incomplete in [1, 3] {
            all[incomplete].is_complete = false;
        }
        let last = PolicySpec { keep_last: Some(2), ..PolicySpec::default() };
        assert_eq!(kept(&all, &last, "2026-11-22T00:00:00Z", "UTC"), [1, 2, 3, 4]);
        let daily = PolicySpec { keep_daily: Some(1), ..PolicySpec::default() };
        assert_eq!(kept(&all, &daily, "2026-11-22T00:00:00Z", "UTC"), [3, 4]);
    }

    #[test]
    fn a_job_that_tries_again_makes_no_pile_of_incomplete_snapshots() {
        let mut all: Vec<Candidate> = (1..=9).map(|n| candidate(n, &format!("2026-11-20T0{n}:00:00Z"))).collect();
        all[1..].iter_mut().for_each(|one| one.is_complete = false);
        let last = PolicySpec { keep_last: Some(3), ..PolicySpec::default() };
        assert_eq!(kept(&all, &last, "2026-11-22T00:00:00Z", "UTC"), [1, 7, 8, 9]);
        let daily = PolicySpec { keep_daily: Some(3), ..PolicySpec::default() };
        assert_eq!(kept(&all, &daily, "2026-11-22T00:00:00Z", "UTC"), [1]);
    }

    #[test]
    fn what_is_held_newest_or_from_the_future_stays() {
        let mut all = vec![
            candidate(1, "2020-01-01T00:00:00Z"),
            candidate(2, "2020-01-02T00:00:00Z"),
            candidate(3, "2020-01-03T00:00:00Z"),
            candidate(4, "2031-01-01T00:00:00Z"),
        ];
        all[0].hold = Some("audit".to_owned());
        let within = PolicySpec { keep_within: Some("7d".into()), ..PolicySpec::default() };
        assert_eq!(kept(&all, &within, "2026-11-22T00:00:00Z", "UTC"), [1, 3, 4]);
    }

    #[test]
    fn groups_and_tags_count_apart() {
        let mut all: Vec<Candidate> = (1..=4).map(|n| candidate(n, &format!("2026-11-0{n}T00:00:00Z"))).collect();
        all[3].group = "b".to_owned();
        all[0].tags = vec![PRE_UPGRADE.to_owned()];
        all[1].tags = vec!["release".to_owned()];
        let mut spec = PolicySpec { keep_last: Some(1), keep_pre_upgrade: true, ..PolicySpec::default() };
        assert_eq!(kept(&all, &spec, "2026-11-22T00:00:00Z", "UTC"), [1, 3, 4]);
        spec.keep_tags = vec!["release".to_owned()];
        all[0].is_released = true;
        assert_eq!(kept(&all, &spec, "2026-11-22T00:00:00Z", "UTC"), [2, 3, 4]);
    }

    /// Times around the edges of the calendar: leap days, the ends of years with 52 and 53 weeks, and the hours at which
    /// summer time begins and ends in Berlin and Lord Howe Island.
    const EDGES: [&str; 12] = [
        "2024-02-29T00:00:00Z",
        "2025-02-28T23:59:59Z",
        "2020-12-31T23:30:00Z",
        "2021-01-03T23:59:59Z",
        "2026-12-31T12:00:00Z",
        "2027-01-01T00:00:00Z",
        "2026-03-29T01:00:00Z",
        "2026-10-25T00:30:00Z",
        "2026-10-25T01:30:00Z",
        "2026-10-03T15:30:00Z",
        "2026-04-04T15:00:00Z",
        "2026-11-30T22:59:59Z",
    ];
    const ZONES: [&str; 4] = ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns"];

    fn times() -> impl Strategy<Value = Timestamp> {
        let near = (0..EDGES.len(), -200_000i64..200_000).prop_map(|(edge, seconds)| {
            EDGES[edge].parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_secs(seconds)
        });
        let anywhere = (1_577_836_800i64..1_830_297_600).prop_map(|second| Timestamp::from_second(second).unwrap());
        prop_oneof![3 => near, 1 => anywhere]
    }

    /// When it began and arrived, whose it is, and whether it is complete, tagged, held and released.
    type Drawn = ((Timestamp, Option<Timestamp>), u8, [bool; 4]);
    /// Tells the time by which a candidate is judged, if it is judged at all.
    type Reading<'a> = dyn Fn(&Candidate) -> Option<Timestamp> + 'a;

    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        let arrival = prop_oneof![2 => Just(None), 1 => times().prop_map(Some)];
        let one = ((times(), arrival), 0..4u8, any::<[bool; 4]>());
        proptest::collection::vec(one, 1..40).prop_map(|all| {
            let make = |(number, drawn): (usize, Drawn)| {
                let ((started, arrived), stream, [complete, tagged, held, released]) = drawn;
                Candidate {
                    id: SessionId::from_bytes([number as u8; 16]),
                    started,
                    arrived: arrived.unwrap_or(started),
                    is_doubtful: arrived.is_some(),
                    group: format!("group {}", stream % 2),
                    signer: SlotId::from_bytes([stream / 2; 8]),
                    by: String::new(),
                    tags: if tagged { vec![PRE_UPGRADE.to_owned()] } else { Vec::new() },
                    is_complete: complete,
                    hold: (held && number % 5 == 0).then(|| "audit".to_owned()),
                    is_released: released,
                }
            };
            all.into_iter().enumerate().map(make).collect()
        })
    }

    fn rules() -> impl Strategy<Value = Rule> {
        let period = prop_oneof![
            Just(Period::Hour),
            Just(Period::Day),
            Just(Period::Week),
            Just(Period::Month),
            Just(Period::Year)
        ];
        let age = prop_oneof![Just("36h"), Just("5d"), Just("2w"), Just("1mo"), Just("13mo"), Just("2y")];
        let age = age.prop_map(|text| text.parse().unwrap()).boxed();
        let limit = prop_oneof![(1u32..6).prop_map(Limit::Count), age.clone().prop_map(Limit::Age)];
        prop_oneof![
            1 => (1u32..6).prop_map(Rule::Last),
            1 => age.prop_map(Rule::Within),
            4 => (period, limit).prop_map(|(period, limit)| Rule::Each(period, limit)),
            1 => Just(Rule::PreUpgrade),
            1 => Just(Rule::Tag(PRE_UPGRADE.to_owned())),
        ]
    }

    /// Names the slot of a time as a person would write it down.
    fn slot_name(period: Period, time: Timestamp, zone: &TimeZone) -> String {
        let format = match period {
            Period::Hour => "%F %H %z",
            Period::Day => "%F",
            Period::Week => "%G week %V",
            Period::Month => "%Y-%m",
            Period::Year => "%Y",
        };
        time.to_zoned_datetime(zone.clone()).strftime(format).to_string()
    }

    /// The slow, obvious model: looks at one snapshot and asks for each reading and rule, by their definitions, whether
    /// they keep it.
    fn is_kept(one: &Candidate, all: &[Candidate], rules: &[Rule], now: Timestamp, zone: &TimeZone) -> bool {
        let undisputed = |candidate: &Candidate| (!candidate.is_doubtful).then_some(candidate.started);
        let word = |candidate: &Candidate| Some(candidate.started);
        let arrival =
            |candidate: &Candidate| Some(if candidate.is_doubtful { candidate.arrived } else { candidate.started });
        let readings: [&Reading<'_>; 3] = [&undisputed, &word, &arrival];
        let same = |other: &&Candidate| other.group == one.group && other.signer == one.signer;
        readings.into_iter().any(|time| {
            let counted = all.iter().filter(same).filter_map(|other| Some((time(other)?, other))).collect::<Vec<_>>();
            time(one).is_some_and(|at| is_kept_by_reading((at, one), &counted, rules, now, zone))
        })
    }

    type Timed<'a> = (Timestamp, &'a Candidate);

    fn is_kept_by_reading(
        (at, one): Timed<'_>,
        all: &[Timed<'_>],
        rules: &[Rule],
        now: Timestamp,
        zone: &TimeZone,
    ) -> bool {
        let past: Vec<Timed<'_>> = all.iter().filter(|(time, _)| *time <= now).copied().collect();
        let newer = |among: &[Timed<'_>], is_complete: bool| {
            let is_newer =
                |(time, other): &&Timed<'_>| (*time, other.id) > (at, one.id) && other.is_complete == is_complete;
            among.iter().filter(is_newer).count() as u32
        };
        let newer_complete = |among: &[Timed<'_>]| newer(among, true);
        let is_among_newest = |among: &[Timed<'_>], count: u32| {
            newer_complete(among) < count && (one.is_complete || newer(among, false) < count)
        };
        if one.hold.is_some() || at > now || (one.is_complete && newer_complete(&past) == 0) {
            return true;
        }
        let is_first = |(time, candidate): Timed<'_>, period: Period| {
            let slot = slot_name(period, time, zone);
            let rivals = past.iter().filter(|(time, _)| slot_name(period, *time, zone) == slot);
            let rank = |(time, other): &&Timed<'_>| (!other.is_complete, other.arrived, *time, other.id);
            rivals.min_by_key(rank).unwrap().1.id == candidate.id
        };
        rules.iter().any(|rule| match rule {
            Rule::Last(count) => is_among_newest(&past, *count),
            Rule::Within(age) => at >= age.before(now, zone),
            Rule::Each(period, Limit::Age(age)) => is_first((at, one), *period) && at >= age.before(now, zone),
            Rule::Each(period, Limit::Count(count)) => {
                let firsts: Vec<Timed<'_>> = past.iter().copied().filter(|other| is_first(*other, *period)).collect();
                is_first((at, one), *period) && is_among_newest(&firsts, *count)
            }
            Rule::Tag(tag) => one.tags.contains(tag),
            Rule::PreUpgrade => one.tags.contains(&PRE_UPGRADE.to_owned()) && !one.is_released,
        })
    }

    /// A moment in 2026 at which all policies of the attacks are applied.
    const NOW_SECONDS: i64 = 1_795_000_000;
    /// The times that an attacker may give: 1970 to 2106.
    const ANY_SECONDS: std::ops::Range<i64> = 0..1 << 32;
    const DAY_SECONDS: i64 = 86_400;

    fn at_second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// A snapshot of the one group: its id, whose, and its word and arrival.
    fn snapshot_of(number: usize, signer: u8, started: i64, arrived: i64) -> Candidate {
        Candidate {
            id: SessionId::from_bytes([number as u8; 16]),
            started: at_second(started),
            arrived: at_second(arrived),
            is_doubtful: (started - arrived).abs() > DAY_SECONDS,
            signer: SlotId::from_bytes([signer; 8]),
            ..candidate(0, "2026-01-01T00:00:00Z")
        }
    }

    /// Honest snapshots of the last two years, each of which took up to three hours.
    fn honest() -> impl Strategy<Value = Vec<Candidate>> {
        let one = (0..730 * DAY_SECONDS, 0..3 * 3600i64, prop_oneof![3 => Just(true), 1 => Just(false)]);
        proptest::collection::vec(one, 1..30).prop_map(|all| {
            let make = |(number, (age, duration, is_complete)): (usize, (i64, i64, bool))| {
                let arrived = NOW_SECONDS - age;
                Candidate { is_complete, ..snapshot_of(number, 1, arrived - duration, arrived) }
            };
            all.into_iter().enumerate().map(make).collect()
        })
    }

    /// Snapshots of a signer with any word, that arrived within so many seconds before now.
    fn forged(signer: u8, seconds: i64) -> impl Strategy<Value = Vec<Candidate>> {
        let near = (-3 * DAY_SECONDS..3 * DAY_SECONDS).prop_map(Err::<i64, i64>);
        let word = prop_oneof![ANY_SECONDS.prop_map(Ok), near];
        proptest::collection::vec((word, 0..seconds, any::<bool>()), 1..40).prop_map(move |all| {
            let make = |(number, (word, age, is_complete)): (usize, (std::result::Result<i64, i64>, i64, bool))| {
                let arrived = NOW_SECONDS - age;
                let started = word.unwrap_or_else(|off| arrived + off);
                Candidate { is_complete, ..snapshot_of(100 + number, signer, started, arrived) }
            };
            all.into_iter().enumerate().map(make).collect()
        })
    }

    /// Returns what becomes of the honest ones among all.
    fn fate(all: &[&[Candidate]], rules: &[Rule]) -> BTreeMap<SessionId, Decision> {
        let policy = Policy::new(rules.to_vec()).unwrap();
        let decisions = decide(&all.concat(), &policy, at_second(NOW_SECONDS), &TimeZone::UTC);
        decisions.into_iter().filter(|decision| decision.id.as_bytes()[0] < 100).map(|one| (one.id, one)).collect()
    }

    proptest! {
        /// Whoever has another key changes nothing at all, whatever the rules.
        #[test]
        fn snapshots_of_another_signer_change_no_decision(
            honest in honest(),
            forged in forged(2, 730 * DAY_SECONDS),
            rules in proptest::collection::vec(rules(), 1..4),
        ) {
            prop_assert_eq!(fate(&[&honest, &forged], &rules), fate(&[&honest], &rules));
        }

        /// Whoever has the same key makes nothing go by a time that cannot be true, whatever the rules, and even if he
        /// was there before.
        #[test]
        fn a_doubtful_snapshot_makes_no_honest_one_go(
            honest in honest(),
            forged in forged(1, 730 * DAY_SECONDS),
            rules in proptest::collection::vec(rules(), 1..4),
        ) {
            let forged: Vec<Candidate> = forged.into_iter().filter(|one| one.is_doubtful).collect();
            let with = fate(&[&honest, &forged], &rules);
            for (id, decision) in fate(&[&honest], &rules) {
                prop_assert!(with[&id].keep || !decision.keep, "{:?} {:?}", decision, with[&id]);
            }
        }

        /// Whoever has the same key and comes later makes nothing complete go that a rule by age keeps. (By rules that
        /// count he can: he really has made the newest ones.)
        #[test]
        fn who_comes_later_makes_nothing_go_that_an_age_keeps(
            honest in honest(),
            forged in forged(1, DAY_SECONDS),
            rules in proptest::collection::vec(rules(), 1..4),
            copied in any::<bool>(),
        ) {
            let mut honest = honest;
            for one in &mut honest {
                // Also in a repository of copies, where every time is in doubt.
                let arrived = one.arrived.as_second() - 2 * DAY_SECONDS;
                one.arrived = if copied { at_second(NOW_SECONDS - 2 * DAY_SECONDS) } else { at_second(arrived) };
                one.started = at_second(arrived);
                one.is_doubtful = copied && arrived < NOW_SECONDS - 3 * DAY_SECONDS;
            }
            let is_by_age = |rule: &Rule| !matches!(rule, Rule::Last(_) | Rule::Each(_, Limit::Count(_)));
            let rules: Vec<Rule> = rules.into_iter().filter(is_by_age).collect();
            prop_assume!(!rules.is_empty());
            let with = fate(&[&honest, &forged], &rules);
            for (id, decision) in fate(&[&honest], &rules) {
                let by_rule = decision.keep && decision.reasons.iter().any(|reason| reason != "newest complete");
                prop_assert!(with[&id].keep || !by_rule || !decision.is_complete, "{:?} {:?}", decision, with[&id]);
            }
        }
    }

    proptest! {
        #[test]
        fn decisions_are_those_of_the_slow_model(
            all in candidates(),
            rules in proptest::collection::vec(rules(), 1..4),
            now in times(),
            zone in 0..ZONES.len(),
        ) {
            let zone = TimeZone::get(ZONES[zone]).unwrap();
            let decisions = decide(&all, &Policy::new(rules.clone()).unwrap(), now, &zone);
            prop_assert_eq!(decisions.len(), all.len());
            prop_assert_eq!(decisions.iter().map(|d| d.id).collect::<BTreeSet<_>>().len(), all.len());
            for decision in decisions {
                let one = all.iter().find(|candidate| candidate.id == decision.id).unwrap();
                prop_assert_eq!(decision.keep, is_kept(one, &all, &rules, now, &zone), "{:?} {:?}", one, decision);
                prop_assert!(!decision.reasons.is_empty());
            }
        }
    }
}
