//! Whose word on the time counts.
//!
//! What must stay true:
//! - How old something is follows from when it arrived and what time it is now, both by the clock of the place where the
//!   repository is stored. A writer's clock may be wrong, and whoever has a writer's key can say what he likes.
//! - A time in doubt is shown and never makes anything go: a copied, moved or restored repository has honest ones.
//!
//! A directory has no clock of its own. There the times of files count, as its writers' machines set them.

use jiff::{SignedDuration, Timestamp};

use crate::backend::Listed;
use crate::error::Result;
use crate::format::snapshot::SnapshotRecord;
use crate::hears::Hears;
use crate::repository::Repository;

/// Difference between our clock and that of the place from which on the user should know of it.
pub const CLOCK_OFF_MAX: SignedDuration = SignedDuration::from_mins(5);
/// How far a writer's word may lie from the time at which it arrived.
pub const WORD_OFF_MAX: SignedDuration = SignedDuration::from_hours(24);
/// Longest time that a backup is believed to have taken.
pub const BACKUP_TIME_MAX: SignedDuration = SignedDuration::from_hours(7 * 24);

impl Repository {
    /// Returns what time it is where the repository is stored: what the times of stored objects are compared with. Our own
    /// time where the place has no clock.
    pub fn now_there(&self) -> Result<Timestamp> {
        Ok(self.backend().server_time()?.unwrap_or_else(|| self.clock().now()))
    }

    /// Compares our clock with that of the place, and says so if it is off. Returns by how many seconds it is ahead, less
    /// than nothing if it is behind; nothing if it is right, or nobody knows.
    ///
    /// A warning only: what is stored is as sound as ever, and what rests on times asks the place.
    pub fn tell_clock_off(&self, hears: &Hears) -> Option<i64> {
        let theirs = self.backend().server_time().ok()??;
        let ours = self.clock().now();
        let off = ours.duration_since(theirs);
        if off.abs() <= CLOCK_OFF_MAX {
            return None;
        }
        let how = if off.is_positive() { "ahead of" } else { "behind" };
        hears.monitor.note(&format!(
            "WARNING: the clock of this machine is {} s {how} that of {}: {} against {}. Set it right, or snapshots have \
             wrong times",
            off.as_secs().unsigned_abs(),
            self.backend().location(),
            ours.strftime("%F %T UTC"),
            theirs.strftime("%F %T UTC"),
        ));
        Some(off.as_secs())
    }
}

/// Returns whether what a snapshot says of its times cannot be reconciled with when it arrived.
pub fn is_doubtful(record: &SnapshotRecord, arrived: Timestamp) -> bool {
    let begun = arrived.duration_since(record.started);
    is_far_apart(record.finished, arrived) || begun < -WORD_OFF_MAX || begun > BACKUP_TIME_MAX
}

/// Returns whether somebody's word on when something was written lies too far from when it arrived.
pub fn is_far_apart(word: Timestamp, arrived: Timestamp) -> bool {
    arrived.duration_since(word).abs() > WORD_OFF_MAX
}

/// Returns when an object arrived; where the place cannot tell, the time that its name tells in milliseconds since 1970.
pub fn arrival(object: &Listed, named_milliseconds: u64) -> Timestamp {
    if object.modified != Timestamp::UNIX_EPOCH {
        return object.modified;
    }
    i64::try_from(named_milliseconds)
        .ok()
        .and_then(|named| Timestamp::from_millisecond(named).ok())
        .unwrap_or(Timestamp::MAX)
}
