//! The library's one error type.
//!
//! What must stay true:
//! - A kind of error is a decision that a caller takes: to retry, to name one item and go on, to tell the user that the
//!   key is wrong. What leads to no decision of its own is not a kind of its own. Callers branch on kinds and on [`Fault`],
//!   never on text.
//! - A message says what failed, on which object or path, then the cause. It begins with a capital letter and ends without
//!   a period; paths and locations are quoted. It holds no secret and no advice: advice is the program's, in its hints.
//! - An error can be cloned, and the clone is the same kind: one failure may be the answer to many callers.
//! - [`Error::Internal`] means a bug in mlvault. What a disk, a server or a user can cause is never internal.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Result with the library's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What lies beneath an error; shared, because one failure may reach many callers.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// Why a backend refused or failed an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// There is no object of that name.
    NotFound,
    /// A create-only write found an object of that name; or what was to be changed has been changed by somebody else.
    AlreadyExists,
    /// Credentials are missing, wrong, or not allowed to do this.
    Denied,
    /// No space, or over quota.
    Full,
    /// The backend cannot be written to.
    ReadOnly,
    /// The backend did not answer, or answered that it is overloaded, after all retries.
    Unavailable,
    /// The answer makes no sense: a short body, a wrong length.
    BadAnswer,
    /// The server has no such operation: it is too old, or was told not to offer it.
    Unsupported,
    /// Anything else.
    Other,
}

/// What can go wrong, by the decision that a caller takes on it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A backend operation failed.
    #[error("Cannot {action} {object:?}: {source}")]
    Backend {
        /// Why, for callers that branch on it.
        fault: Fault,
        /// The operation, as in "cannot read".
        action: &'static str,
        /// The object's full location.
        object: String,
        /// The cause.
        source: Cause,
    },
    /// A stored object does not decode, does not authenticate, or is not what its name says.
    #[error("Damaged {object}: {reason}")]
    Damaged {
        /// The object's key in the repository.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A chunk that a tree needs is in no readable pack.
    #[error("Missing chunk {chunk}, needed by {needed_by}: it is in no pack that the index knows")]
    MissingChunk {
        /// The chunk.
        chunk: crate::id::ChunkId,
        /// What refers to it.
        needed_by: String,
    },
    /// The location holds no repository.
    #[error("No repository at {location:?}")]
    NoRepository {
        /// Where it was looked for.
        location: String,
    },
    /// `init` found something at the location.
    #[error("Refused to create a repository at {location:?}: {reason}")]
    NotEmpty {
        /// The location.
        location: String,
        /// What was found there.
        reason: String,
    },
    /// The repository has a format that this version cannot read.
    #[error("Repository format {found} of {location:?} is not one that this version reads ({supported})")]
    FormatVersion {
        /// The repository's location.
        location: String,
        /// The version found.
        found: u16,
        /// The version that this program reads.
        supported: u16,
    },
    /// No key slot opens with the key given.
    #[error("Wrong key: none of the {slots} key slots of {location:?} opens with it{others}")]
    WrongKey {
        /// The repository's location.
        location: String,
        /// How many slots were tried.
        slots: usize,
        /// What is to be said of those that could not be tried.
        others: String,
    },
    /// The key opens a repository, but not the one that was pinned: somebody may have put another one in its place.
    #[error("The repository at {location:?} is not the one that was pinned: its pin is {found}, not {pinned}{}",
        .remembered.as_ref().map(|file| format!(", which {file:?} remembers")).unwrap_or_default())]
    NotPinned {
        /// The repository's location.
        location: String,
        /// What was expected.
        pinned: crate::id::Pin,
        /// What is there.
        found: crate::id::Pin,
        /// The file that says what to expect, if it was not stated.
        remembered: Option<PathBuf>,
    },
    /// The key opens the repository, but its role does not allow this.
    #[error("The key {label:?} has the role {role}, which cannot {action}")]
    Role {
        /// Label of the key slot in use.
        label: String,
        /// Its role.
        role: &'static str,
        /// What was asked for.
        action: &'static str,
    },
    /// Something that the user named is not there, or not unique.
    #[error("{0}")]
    NotFound(String),
    /// What was asked for would do harm, cannot end well, or would probably be regretted; nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// A setting or argument is unusable.
    #[error("{0}")]
    Invalid(String),
    /// Reading the source failed as a whole.
    #[error("Cannot {action} {path:?}: {source}")]
    Source {
        /// The operation, as in "cannot open".
        action: &'static str,
        /// The path in the source.
        path: PathBuf,
        /// The cause.
        source: Arc<io::Error>,
    },
    /// Writing the target of a restore failed.
    #[error("Cannot {action} {path:?}: {source}")]
    Target {
        /// The operation, as in "cannot create".
        action: &'static str,
        /// The path in the target.
        path: PathBuf,
        /// The cause.
        source: Arc<io::Error>,
    },
    /// A command whose output was to be stored failed.
    #[error("The command {command:?} failed ({status}); nothing was stored")]
    Command {
        /// The command line.
        command: String,
        /// How it ended, with the last lines of its standard error.
        status: String,
    },
    /// A database refused something, is not what it should be, or cannot be reached.
    #[error("Cannot {action} the database {location}: {reason}")]
    Database {
        /// The operation, as in "cannot dump".
        action: &'static str,
        /// Where the database is, without a password.
        location: String,
        /// The cause.
        reason: String,
    },
    /// A database dump does more than make tables and fill them; nothing of that was run.
    #[error("Refused to load the dump of {dump:?}: {reason}")]
    Statements {
        /// Whose dump it is: a store, or the database that it was to be loaded into.
        dump: String,
        /// Which statements, with their lines and ids.
        reason: String,
    },
    /// A request to an MLflow server failed.
    #[error("Cannot {action} {url:?}: {source}")]
    Tracking {
        /// Why, for callers that branch on it.
        fault: Fault,
        /// The operation, as in "cannot read".
        action: &'static str,
        /// The URL, without credentials and query.
        url: String,
        /// The cause.
        source: Cause,
    },
    /// A request to the API server of a Kubernetes cluster failed.
    #[error("Cannot {action} {object}: {source}")]
    Cluster {
        /// Why, for callers that branch on it.
        fault: Fault,
        /// The operation, as in "cannot scale".
        action: &'static str,
        /// What, with its namespace and cluster.
        object: String,
        /// The cause.
        source: Cause,
    },
    /// The local index cache failed even after it was rebuilt.
    #[error("Cannot use the index cache {path:?}: {reason}")]
    Cache {
        /// The cache directory.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// Another process ended this session, or holds what is needed.
    #[error("{0}")]
    Busy(String),
    /// The user or the system asked to stop.
    #[error("Interrupted")]
    Interrupted,
    /// A worker thread ended by a panic: a bug.
    #[error("Internal error: {0}")]
    Internal(String),
}

impl Error {
    /// Makes a backend error.
    pub fn backend(
        fault: Fault,
        action: &'static str,
        object: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Backend { fault, action, object: object.into(), source: Arc::from(source.into()) }
    }

    /// Makes an error of a Kubernetes cluster.
    pub fn cluster(
        fault: Fault,
        action: &'static str,
        object: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Cluster { fault, action, object: object.into(), source: Arc::from(source.into()) }
    }

    /// Makes an error of a source.
    pub fn source(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Source { action, path: path.into(), source: Arc::new(source) }
    }

    /// Makes an error of a restore's target, or of a scratch file.
    pub fn target(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Target { action, path: path.into(), source: Arc::new(source) }
    }

    /// Makes an error of a database.
    pub fn database(action: &'static str, location: impl ToString, reason: impl ToString) -> Self {
        Self::Database { action, location: location.to_string(), reason: reason.to_string() }
    }

    /// Makes an error of a request to an MLflow server.
    pub fn tracking(
        fault: Fault,
        action: &'static str,
        url: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Tracking { fault, action, url: url.into(), source: Arc::from(source.into()) }
    }

    /// Makes a damage report for a stored object.
    pub fn damaged(object: impl Into<String>, reason: impl ToString) -> Self {
        Self::Damaged { object: object.into(), reason: reason.to_string() }
    }

    /// Returns the fault of a backend, or of an MLflow server.
    pub fn fault(&self) -> Option<Fault> {
        match self {
            Self::Backend { fault, .. } | Self::Tracking { fault, .. } | Self::Cluster { fault, .. } => Some(*fault),
            _ => None,
        }
    }

    /// Returns what is wrong without naming the object, for reports that have named it already.
    pub fn reason(&self) -> String {
        match self {
            Self::Damaged { reason, .. } => reason.clone(),
            Self::Backend { fault: Fault::NotFound, .. } => "it is missing".to_owned(),
            Self::Backend { source, .. } => source.to_string(),
            other => other.to_string(),
        }
    }

    /// Returns whether this tells of damage to stored objects, as opposed to a backend that cannot be reached.
    ///
    /// An object that is shorter than what was asked of it makes the backend answer badly.
    pub fn is_damage(&self) -> bool {
        let lost = matches!(self, Self::Backend { fault: Fault::NotFound | Fault::BadAnswer, .. });
        lost || matches!(self, Self::Damaged { .. } | Self::MissingChunk { .. })
    }
}

/// Returns an error with what lies beneath it, on one line: many libraries keep the reason there.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text.push_str(&format!(": {more}"));
        }
        cause = inner.source();
    }
    text.replace('\n', " ")
}
