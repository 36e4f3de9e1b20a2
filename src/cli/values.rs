//! How values of options are read, and what is said of those that cannot be.

use jiff::SignedDuration;
use jiff::tz::TimeZone;

use mlvault::error::{Error, Result};
use mlvault::units::{parse_bytes, parse_duration};

/// Largest percentage that makes sense where more than everything is allowed.
const PERCENT_MAX: f64 = 1e6;

/// Reads a size.
pub fn size(text: &str) -> std::result::Result<u64, String> {
    parse_bytes(text).ok_or_else(|| "it is not a size such as 10G".to_owned())
}

/// Reads a duration that is not negative.
pub fn duration(text: &str) -> std::result::Result<SignedDuration, String> {
    parse_duration(text).ok_or_else(|| "it is not a time such as 90s, 10m, 1h or 7d".to_owned())
}

/// Reads a percentage, which may exceed 100.
pub fn percent(text: &str) -> std::result::Result<f64, String> {
    let number = without_sign(text).parse::<f64>().ok().filter(|percent| (0.0..=PERCENT_MAX).contains(percent));
    number.ok_or_else(|| "it is not a percentage such as 5%".to_owned())
}

/// Reads a share of a whole, in percent.
pub fn share(text: &str) -> std::result::Result<u8, String> {
    let number = without_sign(text).parse::<u8>().ok().filter(|percent| *percent <= 100);
    number.ok_or_else(|| "it is not a percentage from 0% to 100%".to_owned())
}

/// Finds a time zone by its name.
pub fn time_zone(name: &str) -> Result<TimeZone> {
    TimeZone::get(name).map_err(|error| Error::Invalid(format!("{name:?} is not a known time zone: {error}")))
}

fn without_sign(text: &str) -> &str {
    text.strip_suffix('%').unwrap_or(text).trim()
}
