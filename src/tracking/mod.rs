//! MLflow through its REST API: what is known of a server, its metadata as files, and their way back.
//!
//! What must stay true:
//! - Only [`import`] ever asks a server to change something.
//! - Credentials go to the configured server and nowhere else, and appear in no message.
//! - What could not be read is named; nothing that is incomplete is called whole.

mod client;
pub mod count;
pub mod export;
pub mod import;
pub mod json;
mod list;
mod options;

pub use client::TrackingClient;
pub use options::{Login, TrackingOptions, options};
