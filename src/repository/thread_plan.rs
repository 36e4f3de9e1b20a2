//! How many threads an operation uses, beside [`crate::repository::memory_plan`], which says what they may hold.

use std::thread;

/// Processors where the system does not tell.
const PROCESSORS_UNKNOWN: usize = 2;

/// The numbers that operations choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThreadPlan {
    /// Threads that only compute: one for each processor.
    pub computing: usize,
    /// Threads that wait for the backend and compute with what it answers.
    pub fetching: usize,
}

impl ThreadPlan {
    /// Makes the plan for a backend that answers so many requests at once.
    pub fn new(requests: usize) -> Self {
        let computing = thread::available_parallelism().map_or(PROCESSORS_UNKNOWN, usize::from);
        Self { computing, fetching: computing.max(requests) }
    }
}
