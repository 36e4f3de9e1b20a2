//! Repairs what can be made again from what is left.

pub mod index;
