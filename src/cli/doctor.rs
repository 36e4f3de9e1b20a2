//! `mlvault doctor`

use std::fmt::Display;
use std::sync::Arc;

use clap::Parser;
use serde_json::{Value, json};

use mlvault::clock::SystemClock;
use mlvault::config::credential::CredentialSource;
use mlvault::doctor::{self, DoctorCheck, DoctorReport, Finding, Status, deployment};
use mlvault::error::{Error, Result};
use mlvault::id::Pin;
use mlvault::repository::Repository;

use crate::cli::context::Context;
use crate::cli::deployment::DeploymentArgs;
use crate::cli::exit;
use crate::cli::outcome::{Outcome, Text};

/// Test the storage of the repository, and whether a deployment can be backed up
///
/// To test the storage, the command writes about 20 MB below `probe/` and deletes them again. It needs no key. With a key,
/// it also compares what it finds with what was recorded when the repository was created.
///
/// To test a deployment, it reads the databases as a backup does, checks that every artifact root is mapped and its files
/// are there, and asks the tracking server. It changes nothing, and needs no repository.
///
/// Exit code 1 if a test failed; warnings do not count.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault doctor --repo s3://backups/mlflow
  mlvault doctor --deployment production")]
pub struct Args {
    #[command(flatten)]
    deployment: DeploymentArgs,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    let deployment = match args.deployment.is_meant() {
        true => {
            let deployment = args.deployment.resolve(context)?;
            Some(doctor::deployment::examine(&deployment, &context.hears())?)
        }
        false => None,
    };
    // Who asks about a deployment may have no repository yet.
    let backend = match &deployment {
        Some(_) if !context.has_location() => None,
        _ => Some(look_at_backend(context)),
    };
    let backend = match backend {
        Some(Err(error)) if deployment.is_none() => return Err(error),
        backend => backend,
    };
    let worst = [
        deployment.as_ref().map(|report| report.status()),
        backend.as_ref().map(|look| look.as_ref().map_or(Status::Failed, |look| look.report.status())),
    ];
    let is_failed = worst.into_iter().flatten().any(|status| status == Status::Failed);
    let code = if is_failed { exit::FAILED } else { exit::COMPLETE };
    let (deployment, backend) = (deployment.as_ref(), backend.as_ref());
    Ok(Outcome::new(code, document(deployment, backend), text(deployment, backend)))
}

/// What was found of the repository's backend.
struct BackendLook {
    report: DoctorReport,
    promised: Option<bool>,
    pin: Option<Pin>,
    disagreement: Option<&'static str>,
}

fn look_at_backend(context: &Context) -> Result<BackendLook> {
    let backend = context.backend()?;
    // First: nothing is written where another repository has taken the place of ours.
    let repository = match repository(context) {
        Some(Err(error @ Error::NotPinned { .. })) => return Err(error),
        Some(Err(error)) => {
            context.monitor().note(&format!("The repository itself was not looked at: {error}"));
            None
        }
        repository => repository.and_then(Result::ok),
    };
    let report = doctor::probe(backend.as_ref(), &SystemClock, &context.hears())?;
    let promised = repository.as_ref().map(|repository| repository.config().create_only);
    let disagreement = promised.and_then(|promised| disagreement(&report, promised));
    Ok(BackendLook { report, promised, pin: repository.map(|repository| repository.pin()), disagreement })
}

fn document(deployment: Option<&deployment::DeploymentReport>, backend: Option<&Result<BackendLook>>) -> Value {
    let look = backend.and_then(|look| look.as_ref().ok());
    let error = backend.and_then(|look| look.as_ref().err()).map(ToString::to_string);
    json!({
        "report": look.map(|look| &look.report), "status": look.map(|look| look.report.status()),
        "repository_pin": look.and_then(|look| look.pin),
        "repository_create_only": look.and_then(|look| look.promised),
        "repository_disagreement": look.and_then(|look| look.disagreement),
        "repository_error": error,
        "deployment": deployment, "deployment_status": deployment.map(deployment::DeploymentReport::status),
    })
}

fn text(deployment: Option<&deployment::DeploymentReport>, backend: Option<&Result<BackendLook>>) -> Text {
    let mut text = Text::default();
    if let Some(report) = deployment {
        text.line(format!("Deployment {}", report.deployment));
        for found in &report.findings {
            let measured = found.measured.as_deref().unwrap_or_default();
            let measured = if measured.is_empty() { String::new() } else { format!(": {measured}") };
            text.extend(row(found.status, &found.check, &format!("{}{measured}", found.subject), found.consequence));
        }
    }
    match backend {
        None => {}
        Some(Err(error)) => {
            text.extend(row(Status::Failed, &"repository", &error.to_string(), Some("No backup can be stored.")));
        }
        Some(Ok(look)) => {
            text.line(format!("Backend {}", look.report.location));
            text.extend(look.report.findings.iter().flat_map(finding_lines));
            text.extend(look.pin.map(|pin| format!("Pin of the repository: {pin}")));
            text.extend(look.disagreement.map(|note| format!("Note: {note}")));
        }
    }
    text
}

/// Returns the repository, if there is one and a key is at hand without asking.
fn repository(context: &Context) -> Option<Result<Arc<Repository>>> {
    match context.credential_source() {
        Err(_) | Ok(CredentialSource::Prompt) => return None,
        Ok(_) => {}
    }
    match context.repository() {
        Err(Error::NoRepository { .. }) => None,
        opened => Some(opened),
    }
}

fn disagreement(report: &DoctorReport, promised: bool) -> Option<&'static str> {
    let honoured = [DoctorCheck::CreateOnly, DoctorCheck::ConcurrentCreates]
        .into_iter()
        .all(|check| report.finding(check).is_some_and(|finding| finding.status == Status::Ok));
    match (promised, honoured) {
        (true, false) => Some(
            "this repository was made on a backend that honours create-only writes, and relies on it; this one does not",
        ),
        (false, true) => {
            Some("this repository was made on a backend that ignores create-only writes; this one honours them")
        }
        _ => None,
    }
}

fn finding_lines(finding: &Finding) -> Vec<String> {
    let measured = finding.measured.as_deref().unwrap_or_default();
    row(finding.status, &finding.check, measured, finding.consequence.as_deref())
}

fn row(status: Status, check: &dyn Display, measured: &str, consequence: Option<&str>) -> Vec<String> {
    let status = match status {
        Status::Ok => "ok",
        Status::Warning => "WARNING",
        Status::Failed => "FAILED",
    };
    let mut lines = vec![format!("  {status:8}  {:18}  {measured}", check.to_string()).trim_end().to_owned()];
    lines.extend(consequence.map(|consequence| format!("            {consequence}")));
    lines
}
