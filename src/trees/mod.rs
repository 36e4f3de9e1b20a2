//! The trees of snapshots: the sorted entries of a component, cut into nodes that snapshots share.
//!
//! What must stay true: paths ascend, so that a tree is read in order and written in order; what a tree refers to is a
//! chunk, and [`reachable`] knows every one.

pub mod contents;
pub mod earlier;
pub mod file_reader;
pub mod keeper;
pub mod merge;
pub mod outline;
pub mod reachable;
pub mod reader;
pub mod writer;
