//! `mlvault doctor`

use std::fmt::Display;

use clap::Parser;
use serde_json::json;

use mlvault::clock::SystemClock;
use mlvault::config::credential::CredentialSource;
use mlvault::doctor::{self, Check, Finding, Report, Status, deployment};
use mlvault::error::{Error, Result};

use crate::cli::context::Context;
use crate::cli::deployment::DeploymentArgs;
use crate::cli::{exit, output};

/// Find out what a backend really does, and whether a deployment can be backed up
///
/// Of the repository: writes some 20 MB below `probe/` and removes them again. Needs no key; with one, also compares what
/// was found with what the repository was told when it was made.
///
/// Of a deployment, if one is named: reads its databases as a backup does, looks whether every artifact root is mapped and
/// files are there, and asks the tracking server. Changes nothing, and needs no repository.
///
/// Exit code 1 if something failed; warnings do not count.
#[derive(Parser)]
pub struct Args {
    #[command(flatten)]
    deployment: DeploymentArgs,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<exit::Code> {
    let monitor = context.monitor();
    let deployment = match args.deployment.is_meant() {
        true => {
            let deployment = args.deployment.resolve(context)?;
            Some(doctor::deployment::examine(&deployment, monitor.as_ref(), context.cancel())?)
        }
        false => None,
    };
    // Who asks about a deployment may have no repository yet.
    let backend = match &deployment {
        Some(_) if !context.has_location() => None,
        _ => Some(look_at_backend(context)),
    };
    context.finish();
    let backend = match backend {
        Some(Err(error)) if deployment.is_none() => return Err(error),
        backend => backend,
    };
    print(context, deployment.as_ref(), backend.as_ref())?;
    let worst = [
        deployment.as_ref().map(|report| report.status()),
        backend.as_ref().map(|look| look.as_ref().map_or(Status::Failed, |look| look.report.status())),
    ];
    let is_failed = worst.into_iter().flatten().any(|status| status == Status::Failed);
    Ok(if is_failed { exit::FAILED } else { exit::COMPLETE })
}

/// What was found of the repository's backend.
struct BackendLook {
    report: Report,
    promised: Option<bool>,
    disagreement: Option<&'static str>,
}

fn look_at_backend(context: &Context) -> Result<BackendLook> {
    let backend = context.backend()?;
    let monitor = context.monitor();
    let report = doctor::probe(backend.as_ref(), &SystemClock, monitor.as_ref())?;
    let promised = match promised_create_only(context) {
        Some(Err(error)) => {
            monitor.note(&format!("The repository itself was not looked at: {error}"));
            None
        }
        promised => promised.and_then(Result::ok),
    };
    let disagreement = promised.and_then(|promised| disagreement(&report, promised));
    Ok(BackendLook { report, promised, disagreement })
}

fn print(
    context: &Context,
    deployment: Option<&deployment::Report>,
    backend: Option<&Result<BackendLook>>,
) -> Result<()> {
    if context.json() {
        let look = backend.and_then(|look| look.as_ref().ok());
        let error = backend.and_then(|look| look.as_ref().err()).map(ToString::to_string);
        return output::print_json(&json!({
            "report": look.map(|look| &look.report), "status": look.map(|look| look.report.status()),
            "repository_create_only": look.and_then(|look| look.promised),
            "repository_disagreement": look.and_then(|look| look.disagreement),
            "repository_error": error,
            "deployment": deployment, "deployment_status": deployment.map(deployment::Report::status),
        }));
    }
    if let Some(report) = deployment {
        output::print_line(&format!("Deployment {}", report.deployment))?;
        for found in &report.findings {
            let measured = found.measured.as_deref().unwrap_or_default();
            let measured = if measured.is_empty() { String::new() } else { format!(": {measured}") };
            print_row(found.status, &found.check, &format!("{}{measured}", found.subject), found.consequence)?;
        }
    }
    match backend {
        None => Ok(()),
        Some(Err(error)) => {
            print_row(Status::Failed, &"repository", &error.to_string(), Some("No backup can be stored."))
        }
        Some(Ok(look)) => {
            output::print_line(&format!("Backend {}", look.report.location))?;
            look.report.findings.iter().try_for_each(print_finding)?;
            look.disagreement.map_or(Ok(()), |text| output::print_line(&format!("Note: {text}")))
        }
    }
}

/// Returns what the repository says about create-only writes, if there is one and a key is at hand without asking.
fn promised_create_only(context: &Context) -> Option<Result<bool>> {
    match context.credential_source() {
        Err(_) | Ok(CredentialSource::Prompt) => return None,
        Ok(_) => {}
    }
    match context.repository() {
        Err(Error::NoRepository { .. }) => None,
        opened => Some(opened.map(|repository| repository.config().create_only)),
    }
}

fn disagreement(report: &Report, promised: bool) -> Option<&'static str> {
    let honoured = [Check::CreateOnly, Check::ConcurrentCreates]
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

fn print_finding(finding: &Finding) -> Result<()> {
    let measured = finding.measured.as_deref().unwrap_or_default();
    print_row(finding.status, &finding.check, measured, finding.consequence.as_deref())
}

fn print_row(status: Status, check: &dyn Display, measured: &str, consequence: Option<&str>) -> Result<()> {
    let status = match status {
        Status::Ok => "ok",
        Status::Warning => "WARNING",
        Status::Failed => "FAILED",
    };
    output::print_line(format!("  {status:8}  {:18}  {measured}", check.to_string()).trim_end())?;
    match consequence {
        Some(consequence) => output::print_line(&format!("            {consequence}")),
        None => Ok(()),
    }
}
