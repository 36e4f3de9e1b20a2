//! Chunks on their way into packs and back: cutting, storing, finding, fetching, verifying.
//!
//! What must stay true: what is stored is in a pack before a segment names it; what is read has authenticated and hashes
//! to its id before anybody sees it.

pub mod content;
pub mod cut;
pub mod ending;
pub mod fetch;
pub mod pack_reader;
pub mod read_plan;
pub mod reader;
pub mod verify;
pub mod writer;
pub mod writing_session;
