//! How a drill is made.

use std::path::PathBuf;

use crate::database::uri::PostgresqlUri;
use crate::objectives::Objectives;
use crate::source::deployment::{ArtifactPlace, Deployment};
use crate::source::filter::OwnPlaces;

/// Files that are compared byte by byte where nothing else is said.
pub const SAMPLES_DEFAULT: usize = 20;
/// Most files that are compared byte by byte: each is named in the evidence.
pub const SAMPLES_MAX: usize = 1000;

/// Where a drill restores to, and how much it compares.
#[derive(Debug, Clone, Default)]
pub struct DrillSettings {
    /// The directory in which the drill makes one of its own; the temporary directory without.
    pub scratch_directory: Option<PathBuf>,
    /// A database beside which it may create others. Without, it starts a server of its own if it needs one.
    pub scratch_database: Option<PostgresqlUri>,
    /// Where artifacts go, if not into the scratch directory.
    pub scratch_artifacts: Option<ArtifactPlace>,
    /// How many files are compared byte by byte.
    pub samples: usize,
    /// The shell command that is MLflow, if it is to be started on what was restored.
    pub mlflow_command: Option<String>,
    /// How long the restore may take.
    pub objectives: Objectives,
}

/// A drill as it is wanted.
#[derive(Debug, Clone)]
pub struct DrillOptions {
    /// Where to, and how much.
    pub settings: DrillSettings,
    /// The deployment where it lives, as far as it is configured: the drill must not touch it, and compares files with it.
    pub source: Deployment,
    /// What mlvault itself writes: the drill must not touch that either.
    pub own_places: OwnPlaces,
    /// What the choice of files follows from.
    pub seed: u64,
    /// Whether what was restored stays for people to look at.
    pub keep: bool,
    /// The retention policy that is configured, in words.
    pub retention: Option<String>,
    /// What speaks against the snapshot that was chosen.
    pub doubts: Vec<String>,
}
