//! The cluster of the tests itself: what the other tests of `kubernetes` rely on.

mod admission;
mod chart;
mod discover;
mod image;
mod journey;
mod nightly;
mod restore;
mod run_now;
mod stand_in;
mod switch_claim;
mod volume_snapshot;
