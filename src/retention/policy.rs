//! Retention policies: rules that each keep some snapshots. What no rule keeps is forgotten.
//!
//! What must stay true: a policy keeps something. One without rules, or with a rule that keeps nothing, is refused:
//! it never means "forget all".

use std::fmt;
use std::str::FromStr;

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde::Deserialize;

use crate::error::{Error, Result};

/// The tag of a snapshot that was made before an upgrade.
pub const PRE_UPGRADE: &str = "pre-upgrade";

/// How long slots are, of which each keeps one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// An hour of the clock.
    Hour,
    /// A calendar day.
    Day,
    /// A week from Monday to Sunday (ISO 8601).
    Week,
    /// A calendar month.
    Month,
    /// A calendar year.
    Year,
}

impl Period {
    /// Returns the word in options and reasons.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        }
    }
}

/// A length of time by the calendar: `90d`, `13w`, `6mo`, `1y`, `36h`, or several together.
#[derive(Debug, Clone)]
pub struct Age {
    span: Span,
    text: String,
}

impl Age {
    /// Returns the moment that lies this long before `now`. One before all time keeps everything.
    pub fn before(&self, now: Timestamp, zone: &TimeZone) -> Timestamp {
        now.to_zoned_datetime(zone.clone()).checked_sub(self.span).map_or(Timestamp::MIN, |zoned| zoned.timestamp())
    }
}

impl PartialEq for Age {
    fn eq(&self, other: &Self) -> bool {
        self.span.fieldwise() == other.span.fieldwise()
    }
}

impl fmt::Display for Age {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl FromStr for Age {
    type Err = Error;

    /// Minutes are refused: who writes `6m` means months.
    fn from_str(text: &str) -> Result<Self> {
        let invalid =
            |reason: &str| Error::Invalid(format!("{text:?} is not an age such as 90d, 13w, 6mo or 1y{reason}"));
        let span: Span = text.parse().map_err(|_| invalid(""))?;
        let rest = span.years(0).months(0).weeks(0).days(0).hours(0);
        if !rest.is_zero() {
            return Err(invalid(": its unit is too short (a month is `mo`)"));
        }
        if !span.is_positive() {
            return Err(invalid(": it must be longer than nothing"));
        }
        Ok(Self { span, text: text.to_owned() })
    }
}

/// How far a rule reaches.
#[derive(Debug, Clone, PartialEq)]
pub enum Limit {
    /// So many slots, those that have snapshots.
    Count(u32),
    /// So far back from now.
    Age(Age),
}

/// What keeps snapshots.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    /// The newest ones.
    Last(u32),
    /// All that are no older.
    Within(Age),
    /// The first one of each slot.
    Each(Period, Limit),
    /// All with this tag.
    Tag(String),
    /// Those tagged [`PRE_UPGRADE`], until an upgrade after a later one went well.
    PreUpgrade,
}

impl fmt::Display for Rule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Last(count) => write!(out, "last {count}"),
            Self::Within(age) => write!(out, "within {age}"),
            Self::Each(period, Limit::Count(count)) => write!(out, "{} {count}", period.name()),
            Self::Each(period, Limit::Age(age)) => write!(out, "{} within {age}", period.name()),
            Self::Tag(tag) => write!(out, "tag {tag}"),
            Self::PreUpgrade => write!(out, "{PRE_UPGRADE}"),
        }
    }
}

/// A policy as it is written down: in a table `[policy.NAME]` of the configuration file, or in options.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct PolicySpec {
    /// So many of the newest.
    pub keep_last: Option<u32>,
    /// The first of each of so many hours.
    pub keep_hourly: Option<u32>,
    /// The first of each of so many days.
    pub keep_daily: Option<u32>,
    /// The first of each of so many weeks.
    pub keep_weekly: Option<u32>,
    /// The first of each of so many months.
    pub keep_monthly: Option<u32>,
    /// The first of each of so many years.
    pub keep_yearly: Option<u32>,
    /// All of this age.
    pub keep_within: Option<String>,
    /// The first of each hour of this age.
    pub keep_within_hourly: Option<String>,
    /// The first of each day of this age.
    pub keep_within_daily: Option<String>,
    /// The first of each week of this age.
    pub keep_within_weekly: Option<String>,
    /// The first of each month of this age.
    pub keep_within_monthly: Option<String>,
    /// The first of each year of this age.
    pub keep_within_yearly: Option<String>,
    /// All with one of these tags.
    pub keep_tags: Vec<String>,
    /// What was made before the last upgrade that went well, and later.
    pub keep_pre_upgrade: bool,
}

impl PolicySpec {
    /// Returns the policy of that name that needs no configuration.
    pub fn preset(name: &str) -> Option<Self> {
        let age = |text: &str| Some(text.to_owned());
        match name {
            "production" => Some(Self {
                keep_within_daily: age("30d"),
                keep_within_weekly: age("90d"),
                keep_within_monthly: age("1y"),
                keep_pre_upgrade: true,
                ..Self::default()
            }),
            "staging" => Some(Self { keep_within_weekly: age("14d"), ..Self::default() }),
            "development" => Some(Self { keep_within: age("7d"), ..Self::default() }),
            _ => None,
        }
    }

    /// Returns the policy. Fails for one that keeps nothing.
    pub fn policy(&self) -> Result<Policy> {
        let mut rules = Vec::new();
        let counts = [
            (Period::Hour, self.keep_hourly),
            (Period::Day, self.keep_daily),
            (Period::Week, self.keep_weekly),
            (Period::Month, self.keep_monthly),
            (Period::Year, self.keep_yearly),
        ];
        let ages = [
            (Period::Hour, &self.keep_within_hourly),
            (Period::Day, &self.keep_within_daily),
            (Period::Week, &self.keep_within_weekly),
            (Period::Month, &self.keep_within_monthly),
            (Period::Year, &self.keep_within_yearly),
        ];
        rules.extend(self.keep_last.map(Rule::Last));
        rules.extend(self.keep_within.as_deref().map(|age| age.parse().map(Rule::Within)).transpose()?);
        for (period, count) in counts {
            rules.extend(count.map(|count| Rule::Each(period, Limit::Count(count))));
        }
        for (period, age) in ages {
            let age = age.as_deref().map(str::parse).transpose()?;
            rules.extend(age.map(|age| Rule::Each(period, Limit::Age(age))));
        }
        rules.extend(self.keep_tags.iter().cloned().map(Rule::Tag));
        rules.extend(self.keep_pre_upgrade.then_some(Rule::PreUpgrade));
        Policy::new(rules)
    }
}

/// Rules that were found to keep something.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy(Vec<Rule>);

impl Policy {
    /// Takes rules. Fails without any, and for one that would keep nothing.
    pub fn new(rules: Vec<Rule>) -> Result<Self> {
        if rules.is_empty() {
            return Err(Error::Invalid("A policy without rules would keep nothing: give what to keep".to_owned()));
        }
        for rule in &rules {
            match rule {
                Rule::Last(0) | Rule::Each(_, Limit::Count(0)) => {
                    return Err(Error::Invalid(format!("The rule {:?} keeps nothing", rule.to_string())));
                }
                Rule::Tag(tag) if tag.is_empty() => {
                    return Err(Error::Invalid("A rule names an empty tag, which no snapshot has".to_owned()));
                }
                _ => {}
            }
        }
        Ok(Self(rules))
    }

    /// Returns its rules.
    pub fn rules(&self) -> &[Rule] {
        &self.0
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        out.write_str(&rules.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_go_by_the_calendar_and_refuse_minutes() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let now: Timestamp = "2026-03-31T10:00:00Z".parse().unwrap();
        let before = |text: &str| text.parse::<Age>().unwrap().before(now, &zone).to_string();
        assert_eq!(before("1mo"), "2026-02-28T11:00:00Z");
        assert_eq!(before("7d"), "2026-03-24T11:00:00Z");
        assert_eq!(before("36h"), "2026-03-29T22:00:00Z");
        assert_eq!(before("1y 2w"), "2025-03-17T11:00:00Z");
        for text in ["6m", "90", "", "-3d", "0d", "3d 5s", "d", "1e9y"] {
            assert!(text.parse::<Age>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_policy_that_keeps_nothing_is_refused() {
        assert!(PolicySpec::default().policy().is_err());
        assert!(PolicySpec { keep_last: Some(0), ..PolicySpec::default() }.policy().is_err());
        assert!(PolicySpec { keep_daily: Some(0), keep_last: Some(3), ..PolicySpec::default() }.policy().is_err());
        assert!(PolicySpec { keep_tags: vec![String::new()], ..PolicySpec::default() }.policy().is_err());
        assert!(PolicySpec { keep_within: Some("soon".into()), ..PolicySpec::default() }.policy().is_err());
    }

    #[test]
    fn presets_are_policies() {
        let production = PolicySpec::preset("production").unwrap().policy().unwrap();
        assert_eq!(production.to_string(), "daily within 30d, weekly within 90d, monthly within 1y, pre-upgrade");
        assert!(PolicySpec::preset("staging").unwrap().policy().is_ok());
        assert!(PolicySpec::preset("development").unwrap().policy().is_ok());
        assert_eq!(PolicySpec::preset("other"), None);
    }
}
