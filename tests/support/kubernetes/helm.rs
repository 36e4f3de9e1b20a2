//! Helm, and the chart of `deploy/helm`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::cli::{Outcome, finish};
use crate::support::tools;

/// Prepares a run of Helm that knows nothing of the tester's settings.
pub fn helm(arguments: &[&str]) -> Command {
    let mut command = Command::new(tools().join("kubernetes/helm"));
    command
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", "/nonexistent");
    command
}

/// Returns a place below `deploy`.
pub fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

/// Returns the chart's folder.
pub fn chart() -> String {
    deploy("helm/mlvault").display().to_string()
}

/// Returns the file of values that the plain manifests are made with.
pub fn example() -> String {
    deploy("kubernetes/values.yaml").display().to_string()
}

/// Renders the chart as a release of a namespace, with more arguments of `helm template`.
pub fn template(release: &str, namespace: &str, arguments: &[&str]) -> Outcome {
    let chart = chart();
    let all = [&["template", release, &chart, "--namespace", namespace], arguments].concat();
    finish(&mut helm(&all))
}
