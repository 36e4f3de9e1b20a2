//! The cluster of the tests itself: what the other tests of `kubernetes` rely on.

mod admission;
mod chart;
mod image;
mod nightly;
mod stand_in;
