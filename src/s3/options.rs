//! How a user says which S3 server is meant, and with whose credentials.
//!
//! What must stay true: secrets are wiped from memory when they are dropped, and never printed.

use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

use crate::hears::Hears;
use crate::s3::pace::Limits;

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
    /// Is told of attempts that failed and of long waits, and says when to stop: requests do not wait for the server any
    /// longer then.
    pub hears: Hears,
    /// How fast bodies may go, together with all others under the same limits.
    pub limits: Limits,
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
