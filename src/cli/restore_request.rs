//! What every restore into MLflow is asked: the same for one into its storage and one through the REST API of a server.

use mlvault::config::file::KubernetesSection;
use mlvault::objectives::Objectives;
use mlvault::repository::snapshots::Snapshot;
use mlvault::restore::deployment::{DeploymentPart, DeploymentRestore};
use mlvault::source::deployment::Deployment;

use crate::cli::answer::About;
use crate::cli::context::Context;

/// A restore into MLflow.
pub struct Request<'a> {
    /// The program around it.
    pub context: &'a Context,
    /// Where it goes.
    pub target: &'a Deployment,
    /// The snapshot.
    pub snapshot: &'a Snapshot,
    /// What is to be said of it.
    pub about: &'a About,
    /// Where it comes from.
    pub restore: &'a DeploymentRestore<'a>,
    /// What of it; everything without.
    pub wanted: Option<DeploymentPart>,
    /// What runs the target in a cluster.
    pub kubernetes: KubernetesSection,
    /// How long it may take.
    pub objectives: Objectives,
    /// Whether only the plan is wanted.
    pub dry_run: bool,
    /// Whether the user agreed beforehand.
    pub yes: bool,
}
