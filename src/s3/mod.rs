//! Talks to S3 servers, for the backend of a repository and for artifact buckets: AWS, or whatever speaks its protocol.
//!
//! What must stay true:
//! - Every wait is bounded by [`Patience`]; a server that stalls ends in [`Fault::Unavailable`].
//! - A body is returned only when it has exactly the length that was announced and asked for.
//! - Everything that is written carries a checksum.
//! - Messages are one line and hold no credentials and no query strings.
//!
//! Calls that are not `async` block, and must not come from within an async runtime: they wait on this module's own.

pub mod body;
mod bucket;
mod connection;
pub mod fault;
mod headers;
mod listing;
mod location;
mod unverified;
mod upload;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use aws_sdk_s3::config::timeout::TimeoutConfig;
use zeroize::Zeroizing;

pub use bucket::{Bucket, Fetched, Later, Wanted};
pub use connection::DateHeader;
pub use headers::{ObjectFacts, ObjectHeaders};
pub use listing::{LIST_PAGES_MAX, Listed, Objects, Progress};
pub use location::BucketLocation;
pub use upload::{PART_BYTES_MIN, PARTS_MAX, Part, Upload};

#[cfg(doc)]
use crate::error::Fault;

/// How to reach an S3 server.
#[derive(Debug, Clone, Default)]
pub struct S3Options {
    /// URL of an S3 server other than AWS. Without it, `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL` and the AWS profile
    /// are asked.
    pub endpoint: Option<String>,
    /// Region of the bucket. Without it, the AWS environment and profile are asked; with an endpoint, `us-east-1` is
    /// the last resort.
    pub region: Option<String>,
    /// Whether the bucket is put into the path instead of the host name. By default, where an endpoint is given.
    pub path_style: Option<bool>,
    /// Allows an endpoint without TLS. One on this machine (loopback) is always allowed.
    pub insecure_http: bool,
    /// File of CA certificates to trust instead of the system's. Without it, `AWS_CA_BUNDLE` is asked.
    pub ca_bundle: Option<PathBuf>,
    /// Does not verify the server's certificate: only for what the user asked it for. No proxy is used then.
    pub ignore_tls: bool,
    /// Key pair for the server. Without it, credentials come the AWS way: environment, profile, web identity, process,
    /// container or instance metadata. Two buckets on different servers need one of it here.
    pub credentials: Option<Credentials>,
}

/// A key pair for an S3 server. Its secrets are never printed.
#[derive(Clone)]
pub struct Credentials {
    /// Public half.
    pub access_key_id: String,
    /// Secret half.
    pub secret_access_key: Zeroizing<String>,
    /// What goes with a key pair that is valid for a time only.
    pub session_token: Option<Zeroizing<String>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Credentials").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

/// How long to wait for a server, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How often a request is sent that fails in a way that may pass.
    pub attempts_max: u32,
    /// Upper bound of the first wait between attempts; it doubles with each one, and is drawn at random.
    pub wait_first: Duration,
    /// Upper bound of each wait between attempts.
    pub wait_max: Duration,
    /// How long a connection may take.
    pub connect: Duration,
    /// How long an answer may take to begin, for a request without a body.
    pub answer: Duration,
    /// How long a body may stand still.
    pub stall: Duration,
    /// The slowest pace at which a body is waited for to its end.
    pub bytes_per_second_min: u64,
}

impl Default for Patience {
    /// Outlasts the restart of a server (a minute on average), and lets eight packs share a link of 4 Mbit/s.
    fn default() -> Self {
        Self {
            attempts_max: 10,
            wait_first: Duration::from_secs(1),
            wait_max: Duration::from_secs(20),
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(60),
            stall: Duration::from_secs(30),
            bytes_per_second_min: 60 * 1024,
        }
    }
}

impl Patience {
    /// Returns how long one attempt with a body of `len` bytes may take.
    pub fn for_body(&self, len: u64) -> Duration {
        self.answer + Duration::from_secs(len / self.bytes_per_second_min.max(1))
    }

    /// Returns how long all attempts together may take: one at the slowest pace, and as long again for the others.
    pub fn for_all_attempts(&self, len: u64) -> Duration {
        (self.answer + self.wait_max) * self.attempts_max + 2 * self.for_body(len)
    }

    pub(crate) fn timeouts(&self, len: u64) -> TimeoutConfig {
        TimeoutConfig::builder()
            .connect_timeout(self.connect)
            .operation_attempt_timeout(self.for_body(len))
            .operation_timeout(self.for_all_attempts(len))
            .build()
    }
}
