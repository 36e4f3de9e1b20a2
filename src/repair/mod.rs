//! Repairs what can be made again from what is left, and names what cannot.

pub mod index;
mod losses;
pub mod objects;
pub mod packs;
mod replace;
pub mod snapshots;
mod survey;

pub use crate::repair::losses::Lost;
pub use crate::repair::survey::DamagedPack;
