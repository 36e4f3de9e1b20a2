//! Talks to S3 servers, for the backend of a repository and for artifact buckets: AWS, or whatever speaks its protocol.
//!
//! What must stay true:
//! - Every wait is bounded by [`Patience`]; a server that stalls ends in [`Fault::Unavailable`]. Every wait is cut short
//!   once somebody has asked to stop (`interruption`).
//! - A body is returned only when it has exactly the length that was announced and asked for.
//! - Everything that is written carries a checksum.
//! - Messages are one line and hold no credentials and no query strings.
//!
//! Nothing that is public here is `async`: calls block, and must not come from within an async runtime, because they wait
//! on the process's own.
//!
//! The files know each other in one direction: `read`, `mod@write`, `listing` and `upload` are what is done with a
//! `bucket`, which knows the `connection`; what both need (`options`, `patience`, `pace`, `interruption`, `fault`, `conflict`,
//! `headers`) knows neither; `sorted` is what `listing` puts objects into order with.

mod body;
mod bucket;
mod conflict;
mod connection;
mod fault;
mod headers;
mod interruption;
mod listed;
pub mod listing;
mod location;
mod options;
mod pace;
mod patience;
mod read;
pub mod sorted;
mod unverified;
mod upload;
mod write;

pub use bucket::{Bucket, Later};
pub use connection::check_endpoint;
pub use headers::{ObjectFacts, ObjectHeaders};
pub use listed::ListedObject;
pub use listing::{Objects, Pages};
pub use location::BucketLocation;
pub use options::{Credentials, S3Options};
pub use pace::{Lane, Limits};
pub use patience::Patience;
pub use read::{Extent, Fetched};
pub use upload::{PART_BYTES_MIN, PARTS_MAX, Upload, UploadedPart};
pub use write::REMOVALS_MAX;

#[cfg(doc)]
use crate::error::Fault;
