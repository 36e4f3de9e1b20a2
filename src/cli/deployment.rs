//! The arguments that describe an MLflow deployment, shared by the commands that read or write one.

use std::path::PathBuf;

use clap::Args;

use mlvault::config::deployment::{self, DeploymentFlags};
use mlvault::config::file::DeploymentSection;
use mlvault::environment;
use mlvault::error::Result;
use mlvault::source::deployment::Deployment;

use crate::cli::context::Context;

/// An MLflow deployment: by its name in the configuration file, or in MLflow's own words.
#[derive(Args)]
#[command(next_help_heading = "MLflow deployment")]
pub struct DeploymentArgs {
    /// Name of the deployment, as in the configuration file; snapshots are grouped by it
    #[arg(long, env = "MLVAULT_DEPLOYMENT", value_name = "NAME")]
    pub deployment: Option<String>,
    /// Tracking database, in the form that MLflow uses: postgresql://… or sqlite:///…
    #[arg(long, env = "MLVAULT_BACKEND_STORE_URI", value_name = "URI")]
    pub backend_store_uri: Option<String>,
    /// File that holds the password of the tracking database
    #[arg(long, env = "MLVAULT_BACKEND_STORE_PASSWORD_FILE", value_name = "FILE")]
    pub backend_store_password_file: Option<PathBuf>,
    /// Database of the model registry, if it is a separate one
    #[arg(long, env = "MLVAULT_REGISTRY_STORE_URI", value_name = "URI")]
    pub registry_store_uri: Option<String>,
    /// File that holds the password of the registry database
    #[arg(long, env = "MLVAULT_REGISTRY_STORE_PASSWORD_FILE", value_name = "FILE")]
    pub registry_store_password_file: Option<PathBuf>,
    /// Database of users and permissions (basic-auth app), if there is one
    #[arg(long, env = "MLVAULT_AUTH_DATABASE_URI", value_name = "URI")]
    pub auth_database_uri: Option<String>,
    /// File that holds the password of the users database
    #[arg(long, env = "MLVAULT_AUTH_DATABASE_PASSWORD_FILE", value_name = "FILE")]
    pub auth_database_password_file: Option<PathBuf>,
    /// Where an artifact root of the database is stored: a directory or s3://bucket/prefix, as in
    /// mlflow-artifacts:/=s3://mlflow/artifacts; give ROOT alone if both are the same; can be given several times, or with
    /// commas; write \= and \, for what does not separate
    #[arg(long, env = "MLVAULT_ARTIFACTS", value_name = "ROOT=PLACE")]
    pub artifacts: Vec<String>,
    /// Leave out this artifact root; can be given several times
    #[arg(long = "exclude-root", env = "MLVAULT_EXCLUDE_ROOTS", value_name = "ROOT")]
    pub exclude_roots: Vec<String>,
    /// URL of the MLflow tracking server
    #[arg(long, env = "MLFLOW_TRACKING_URI", value_name = "URL")]
    pub tracking_uri: Option<String>,
}

impl DeploymentArgs {
    /// Returns whether a deployment is meant at all. A tracking server alone, in the environment of every MLflow user,
    /// does not mean one.
    pub fn is_meant(&self) -> bool {
        self.deployment.is_some() || self.backend_store_uri.is_some() || !self.artifacts.is_empty()
    }

    /// Returns whether the command line, and not only the environment, means one.
    pub fn is_typed(&self) -> bool {
        let is_typed = |value: &str, variable: &str| environment::variable(variable).is_none_or(|set| set != value);
        self.deployment.as_ref().is_some_and(|name| is_typed(name, "MLVAULT_DEPLOYMENT"))
            || self.backend_store_uri.as_ref().is_some_and(|uri| is_typed(uri, "MLVAULT_BACKEND_STORE_URI"))
            || !self.artifacts.is_empty() && is_typed(&self.artifacts.join(","), "MLVAULT_ARTIFACTS")
    }

    /// Puts together the deployment that is meant.
    pub fn resolve(&self, context: &Context) -> Result<Deployment> {
        self.resolve_named(context, self.deployment.clone())
    }

    /// Puts together what is said of the deployment of this name.
    pub fn resolve_named(&self, context: &Context, name: Option<String>) -> Result<Deployment> {
        let flags = DeploymentFlags { name, ..self.flags(context)? };
        deployment::resolve(context.file(), &flags, &environment::variable)
    }

    /// Returns what the arguments say.
    pub fn flags(&self, context: &Context) -> Result<DeploymentFlags> {
        let section = DeploymentSection {
            backend_store_uri: self.backend_store_uri.clone(),
            backend_store_password_file: self.backend_store_password_file.clone(),
            registry_store_uri: self.registry_store_uri.clone(),
            registry_store_password_file: self.registry_store_password_file.clone(),
            auth_database_uri: self.auth_database_uri.clone(),
            auth_database_password_file: self.auth_database_password_file.clone(),
            artifacts: deployment::artifact_places(&self.artifacts)?,
            exclude_roots: deployment::roots(&self.exclude_roots),
            tracking_uri: self.tracking_uri.clone(),
            ..DeploymentSection::default()
        };
        Ok(DeploymentFlags { name: self.deployment.clone(), section, s3: context.artifact_options() })
    }
}
