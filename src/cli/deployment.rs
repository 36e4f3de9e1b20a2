//! The arguments that describe an MLflow deployment, shared by the commands that read or write one.

use std::path::PathBuf;

use clap::Args;

use mlvault::config::deployment::{self, DeploymentFlags};
use mlvault::error::Result;
use mlvault::source::deployment::Deployment;

use crate::cli::context::Context;

/// An MLflow deployment: by its name in the configuration file, or in MLflow's own words.
#[derive(Args)]
#[command(next_help_heading = "MLflow deployment")]
pub struct DeploymentArgs {
    /// Name of the deployment: its settings in the configuration file, and what its snapshots are grouped by
    #[arg(long, env = "MLVAULT_DEPLOYMENT", value_name = "NAME")]
    pub deployment: Option<String>,
    /// Database of runs and models, as MLflow is given it: postgresql://… or sqlite:///…
    #[arg(long, env = "MLVAULT_BACKEND_STORE_URI", value_name = "URI", hide_env_values = true)]
    pub backend_store_uri: Option<String>,
    /// File that holds its password
    #[arg(long, env = "MLVAULT_BACKEND_STORE_PASSWORD_FILE", value_name = "FILE")]
    pub backend_store_password_file: Option<PathBuf>,
    /// Database of the model registry, if it is another one
    #[arg(long, env = "MLVAULT_REGISTRY_STORE_URI", value_name = "URI", hide_env_values = true)]
    pub registry_store_uri: Option<String>,
    /// File that holds its password
    #[arg(long, env = "MLVAULT_REGISTRY_STORE_PASSWORD_FILE", value_name = "FILE")]
    pub registry_store_password_file: Option<PathBuf>,
    /// Database of users and permissions (basic-auth), if there is one
    #[arg(long, env = "MLVAULT_AUTH_DATABASE_URI", value_name = "URI", hide_env_values = true)]
    pub auth_database_uri: Option<String>,
    /// File that holds its password
    #[arg(long, env = "MLVAULT_AUTH_DATABASE_PASSWORD_FILE", value_name = "FILE")]
    pub auth_database_password_file: Option<PathBuf>,
    /// An artifact root as the database has it, and the directory or s3://bucket/prefix where it really is, as in
    /// mlflow-artifacts:/=s3://mlflow/artifacts; only ROOT where both are the same; may be given several times
    #[arg(long, env = "MLVAULT_ARTIFACTS", value_name = "ROOT=PLACE", value_delimiter = ',')]
    pub artifacts: Vec<String>,
    /// An artifact root that is left out; may be given several times
    #[arg(long = "exclude-root", env = "MLVAULT_EXCLUDE_ROOTS", value_name = "ROOT", value_delimiter = ',')]
    pub exclude_roots: Vec<String>,
    /// URL of the tracking server, for what only its REST API is asked for
    #[arg(long, env = "MLFLOW_TRACKING_URI", value_name = "URL", hide_env_values = true)]
    pub tracking_uri: Option<String>,
}

impl DeploymentArgs {
    /// Returns whether a deployment is meant at all. A tracking server alone, in the environment of every MLflow user,
    /// does not mean one.
    pub fn is_meant(&self) -> bool {
        self.deployment.is_some() || self.backend_store_uri.is_some() || !self.artifacts.is_empty()
    }

    /// Puts together the deployment that is meant.
    pub fn resolve(&self, context: &Context) -> Result<Deployment> {
        let flags = DeploymentFlags {
            name: self.deployment.clone(),
            backend_store_uri: self.backend_store_uri.clone(),
            backend_store_password_file: self.backend_store_password_file.clone(),
            registry_store_uri: self.registry_store_uri.clone(),
            registry_store_password_file: self.registry_store_password_file.clone(),
            auth_database_uri: self.auth_database_uri.clone(),
            auth_database_password_file: self.auth_database_password_file.clone(),
            artifacts: self.artifacts.clone(),
            exclude_roots: self.exclude_roots.clone(),
            tracking_uri: self.tracking_uri.clone(),
            s3: context.artifact_options(),
        };
        deployment::resolve(context.file(), &flags, &|name| std::env::var(name).ok())
    }
}
