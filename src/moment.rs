//! Moments as people name them: a day, or a time.
//!
//! What must stay true: a day is a day in UTC and means all of it; a time names its offset. Whoever reads one from an
//! argument reads it here, so that the same words mean the same everywhere.

use std::str::FromStr;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::error::{Error, Result};

/// A day or a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DayOrTime {
    /// A day in UTC.
    Day(Date),
    /// A time.
    Time(Timestamp),
}

impl DayOrTime {
    /// Returns when it begins: the start of the day, or the time itself.
    pub fn begin(&self) -> Result<Timestamp> {
        match self {
            Self::Day(day) => TimeZone::UTC
                .to_timestamp(day.at(0, 0, 0, 0))
                .map_err(|_| Error::Invalid(format!("The day {day} is out of range"))),
            Self::Time(time) => Ok(*time),
        }
    }

    /// Returns when it is over: the end of the day, or the time itself.
    pub fn end(&self) -> Result<Timestamp> {
        match self {
            Self::Day(day) => {
                let next = day.tomorrow().and_then(|next| TimeZone::UTC.to_timestamp(next.at(0, 0, 0, 0)));
                next.map_err(|_| Error::Invalid(format!("The day {day} is out of range")))
            }
            Self::Time(time) => Ok(*time),
        }
    }

    /// Returns the first moment that is later than it.
    pub fn after(&self) -> Result<Timestamp> {
        match self {
            Self::Day(_) => self.end(),
            Self::Time(time) => time
                .checked_add(SignedDuration::from_nanos(1))
                .map_err(|_| Error::Invalid(format!("The time {time} is out of range"))),
        }
    }
}

impl FromStr for DayOrTime {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // A date also parses from a time without an offset, which would silently mean the whole day.
        let day = || text.parse().ok().filter(|_| !text.contains(['T', 't', ' '])).map(Self::Day);
        text.parse().ok().map(Self::Time).or_else(day).ok_or_else(|| {
            Error::Invalid(format!("{text:?} is neither a day such as 2026-11-21 nor a time such as 2026-11-21T03:00Z"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_day_ends_when_the_next_begins() {
        let day: DayOrTime = "2026-11-30".parse().unwrap();
        assert_eq!(day.end().unwrap(), time("2026-12-01T00:00Z"));
        assert_eq!(day.after().unwrap(), time("2026-12-01T00:00Z"));
    }

    #[test]
    fn a_time_names_its_offset_and_is_followed_by_the_next_nanosecond() {
        let parsed: DayOrTime = "2026-11-21T03:00+01:00".parse().unwrap();
        assert_eq!(parsed, DayOrTime::Time(time("2026-11-21T02:00Z")));
        assert_eq!(parsed.after().unwrap(), time("2026-11-21T02:00:00.000000001Z"));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "latest", "2026-13-01", "2026-11-21T03:00", "2026-11-21 03:00"] {
            assert!(text.parse::<DayOrTime>().is_err(), "{text:?}");
        }
    }
}
