//! What a policy does to snapshots: a pure function, with a reason for each.
//!
//! What must stay true:
//! - Snapshots of one group never count for another.
//! - A snapshot that is held, or is the newest complete one of its group, is kept whatever the policy says.
//! - Of each slot the *first* snapshot is kept, so that decisions do not change when others follow and nobody can drive
//!   one out by adding more. An incomplete one never takes the place of a complete one.
//! - A snapshot from the future is kept, and counts for nothing.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::id::SessionId;
use crate::retention::policy::{Limit, PRE_UPGRADE, Period, Policy, Rule};

/// What a decision rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The snapshot.
    pub id: SessionId,
    /// When it was made.
    pub started: Timestamp,
    /// Counts together with others of the same name.
    pub group: String,
    /// Its tags as they are now.
    pub tags: Vec<String>,
    /// Whether nothing of its source is missing.
    pub is_complete: bool,
    /// Why it is held, if it is.
    pub hold: Option<String>,
    /// Whether an upgrade after a later one went well.
    pub is_released: bool,
}

/// What becomes of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// The snapshot.
    pub id: SessionId,
    /// When it was made.
    pub started: Timestamp,
    /// Its group.
    pub group: String,
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

/// Decides about every candidate; the result is sorted by group, then time.
pub fn decide(candidates: &[Candidate], policy: &Policy, now: Timestamp, zone: &TimeZone) -> Vec<Decision> {
    let mut groups: BTreeMap<&str, Vec<&Candidate>> = BTreeMap::new();
    for candidate in candidates {
        groups.entry(&candidate.group).or_default().push(candidate);
    }
    let mut decisions = Vec::with_capacity(candidates.len());
    for mut group in groups.into_values() {
        group.sort_by_key(|candidate| (candidate.started, candidate.id));
        let reasons = Group { members: &group, now, zone }.reasons(policy);
        decisions.extend(group.iter().zip(reasons).map(|(candidate, reasons)| decision(candidate, reasons)));
    }
    decisions
}

fn decision(candidate: &Candidate, mut reasons: Vec<String>) -> Decision {
    let keep = !reasons.is_empty();
    if !keep {
        reasons.push(NO_RULE.to_owned());
    }
    Decision {
        id: candidate.id,
        started: candidate.started,
        group: candidate.group.clone(),
        tags: candidate.tags.clone(),
        is_complete: candidate.is_complete,
        keep,
        reasons,
    }
}

/// Returns the newest complete snapshot among those sorted by time, leaving out what comes from the future.
pub fn newest_complete(members: &[&Candidate], now: Timestamp) -> Option<usize> {
    members.iter().rposition(|member| member.is_complete && member.started <= now)
}

/// Snapshots of one group, oldest first.
struct Group<'a> {
    members: &'a [&'a Candidate],
    now: Timestamp,
    zone: &'a TimeZone,
}

impl Group<'_> {
    fn reasons(&self, policy: &Policy) -> Vec<Vec<String>> {
        let mut reasons = vec![Vec::new(); self.members.len()];
        for (member, reasons) in self.members.iter().zip(&mut reasons) {
            reasons.extend(member.hold.as_ref().map(|why| format!("hold: {why}")));
            if self.is_future(member) {
                reasons.push("from the future".to_owned());
            }
        }
        if let Some(newest) = newest_complete(self.members, self.now) {
            reasons[newest].push("newest complete".to_owned());
        }
        for rule in policy.rules() {
            for at in self.kept_by(rule) {
                reasons[at].push(rule.to_string());
            }
        }
        reasons
    }

    fn is_future(&self, member: &Candidate) -> bool {
        member.started > self.now
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
                kept.retain(|at| !self.members[*at].is_released);
                kept
            }
        }
    }

    fn present(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|at| !self.is_future(self.members[*at])).collect()
    }

    fn with_tag(&self, tag: &str) -> Vec<usize> {
        (0..self.members.len()).filter(|at| self.members[*at].tags.iter().any(|other| other == tag)).collect()
    }

    fn since(&self, mut chosen: Vec<usize>, oldest: Timestamp) -> Vec<usize> {
        chosen.retain(|at| self.members[*at].started >= oldest);
        chosen
    }

    /// Returns the newest of some, so many that `count` complete ones are among them.
    fn newest(&self, chosen: &[usize], count: u32) -> Vec<usize> {
        let mut left = count;
        let take = |at: &&usize| {
            let is_wanted = left > 0;
            left -= u32::from(is_wanted && self.members[**at].is_complete);
            is_wanted
        };
        chosen.iter().rev().take_while(take).copied().collect()
    }

    /// Returns the first complete member of each slot, or the first one where none is complete.
    fn first_of_each(&self, period: Period) -> Vec<usize> {
        let mut first: BTreeMap<Slot, usize> = BTreeMap::new();
        for at in self.present() {
            let chosen = first.entry(self.slot(period, self.members[at])).or_insert(at);
            if self.members[at].is_complete && !self.members[*chosen].is_complete {
                *chosen = at;
            }
        }
        let mut chosen: Vec<usize> = first.into_values().collect();
        chosen.sort();
        chosen
    }

    fn slot(&self, period: Period, member: &Candidate) -> Slot {
        let time = member.started.to_zoned_datetime(self.zone.clone());
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
            group: "a".to_owned(),
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

    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        let one = (times(), 0..2u8, any::<[bool; 4]>());
        proptest::collection::vec(one, 1..40).prop_map(|all| {
            let make = |(number, (started, group, [complete, tagged, held, released])): (
                usize,
                (Timestamp, u8, [bool; 4]),
            )| Candidate {
                id: SessionId::from_bytes([number as u8; 16]),
                started,
                group: format!("group {group}"),
                tags: if tagged { vec![PRE_UPGRADE.to_owned()] } else { Vec::new() },
                is_complete: complete,
                hold: (held && number % 5 == 0).then(|| "audit".to_owned()),
                is_released: released,
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

    /// The slow, obvious model: looks at one snapshot and asks for each rule, by its definition, whether it keeps it.
    fn is_kept(one: &Candidate, all: &[Candidate], rules: &[Rule], now: Timestamp, zone: &TimeZone) -> bool {
        let order = |candidate: &Candidate| (candidate.started, candidate.id);
        let past: Vec<&Candidate> =
            all.iter().filter(|other| other.group == one.group && other.started <= now).collect();
        let newer_complete = |among: &[&Candidate]| {
            among.iter().filter(|other| order(other) > order(one) && other.is_complete).count() as u32
        };
        if one.hold.is_some() || one.started > now || (one.is_complete && newer_complete(&past) == 0) {
            return true;
        }
        let is_first = |candidate: &Candidate, period: Period| {
            let slot = slot_name(period, candidate.started, zone);
            let rivals = past.iter().filter(|other| slot_name(period, other.started, zone) == slot);
            let best = rivals.min_by_key(|other| (!other.is_complete, order(other))).unwrap();
            best.id == candidate.id
        };
        rules.iter().any(|rule| match rule {
            Rule::Last(count) => newer_complete(&past) < *count,
            Rule::Within(age) => one.started >= age.before(now, zone),
            Rule::Each(period, Limit::Age(age)) => is_first(one, *period) && one.started >= age.before(now, zone),
            Rule::Each(period, Limit::Count(count)) => {
                let firsts: Vec<&Candidate> = past.iter().copied().filter(|other| is_first(other, *period)).collect();
                is_first(one, *period) && newer_complete(&firsts) < *count
            }
            Rule::Tag(tag) => one.tags.contains(tag),
            Rule::PreUpgrade => one.tags.contains(&PRE_UPGRADE.to_owned()) && !one.is_released,
        })
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
