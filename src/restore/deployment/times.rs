//! How long the parts of a restore took: what an operator who waits for one wants to know beforehand.

use std::time::Instant;

use serde::Serialize;

/// How long a part took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartTime {
    /// The part: a component of the snapshot, the database of a store, or all of a kind together.
    pub part: String,
    /// How long.
    pub milliseconds: u64,
}

/// The times of all parts, in the order in which they came.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct PartTimes(Vec<PartTime>);

impl PartTimes {
    /// Adds the time since a part was begun. A part may come several times.
    pub fn add(&mut self, part: &str, begun: Instant) {
        let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        match self.0.iter_mut().find(|known| known.part == part) {
            Some(known) => known.milliseconds = known.milliseconds.saturating_add(milliseconds),
            None => self.0.push(PartTime { part: part.to_owned(), milliseconds }),
        }
    }

    /// Iterates over the parts.
    pub fn iter(&self) -> impl Iterator<Item = &PartTime> {
        self.0.iter()
    }
}
