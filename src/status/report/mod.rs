//! A status and what was, as one page that one can look at, print, and send: HTML with everything in it.
//!
//! What must stay true: it is a [`crate::page`], and says what the status says.

mod calendar;
mod chart;
mod page;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::status::{History, Status};

/// Weeks that a calendar shows.
const WEEKS: i64 = 53;
/// How far a report goes back.
pub const SPAN: SignedDuration = SignedDuration::from_hours(WEEKS * 7 * 24);

/// Writes a page. Days begin where the zone says.
pub fn html(status: &Status, history: &History, zone: &TimeZone) -> String {
    page::page(&Report { status, history, zone }).into_string()
}

/// What a page tells.
struct Report<'a> {
    status: &'a Status,
    history: &'a History,
    zone: &'a TimeZone,
}

impl Report<'_> {
    fn time(&self, time: Timestamp) -> String {
        self.zone.to_datetime(time).strftime("%F %H:%M").to_string()
    }

    fn day(&self, time: Timestamp) -> String {
        self.zone.to_datetime(time).strftime("%F").to_string()
    }
}
