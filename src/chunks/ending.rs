//! Who ends a session: the one who works in it or, if that one is held up when somebody has asked to stop, its watch.
//!
//! What must stay true: one of the two ends it, never both: what was uploaded is indexed once, and only then the session is
//! closed.

use std::sync::atomic::{AtomicU8, Ordering};

/// Who may end a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Ender {
    /// The thread that works in the session.
    Worker = 1,
    /// The thread that waits beside it.
    Watch = 2,
}

/// Which of the two was first.
#[derive(Debug, Default)]
pub struct Ending(AtomicU8);

impl Ending {
    /// Returns whether this one ends the session, now and later.
    pub fn claim(&self, ender: Ender) -> bool {
        let claimed = self.0.compare_exchange(0, ender as u8, Ordering::AcqRel, Ordering::Acquire);
        claimed.is_ok() || claimed == Err(ender as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_one_ends_it_however_often_it_asks() {
        let ending = Ending::default();
        assert!(ending.claim(Ender::Watch) && !ending.claim(Ender::Worker) && ending.claim(Ender::Watch));
    }
}
