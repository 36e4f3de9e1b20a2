//! `mlvault doctor`

use clap::Parser;
use serde_json::json;

use mlvault::clock::SystemClock;
use mlvault::config::credential::CredentialSource;
use mlvault::doctor::{self, Check, Finding, Report, Status};
use mlvault::error::{Error, Result};

use crate::cli::context::Context;
use crate::cli::{exit, output};

/// Find out what a backend really does, and what follows from it
///
/// Writes some 20 MB below `probe/` and removes them again. Needs no key; with one, also compares what was found with what
/// the repository was told when it was made. Exit code 1 if a promise is not kept; warnings do not count.
#[derive(Parser)]
pub struct Args {}

/// Runs the command.
pub fn run(context: &Context, _: Args) -> Result<exit::Code> {
    let backend = context.backend()?;
    let monitor = context.monitor();
    let report = doctor::probe(backend.as_ref(), &SystemClock, monitor.as_ref())?;
    let promised = promised_create_only(context);
    context.finish();
    let disagreement = match &promised {
        Some(Ok(promised)) => disagreement(&report, *promised),
        _ => None,
    };
    if context.json() {
        let promised = promised.as_ref().and_then(|promised| promised.as_ref().ok());
        output::print_json(&json!({
            "report": report, "status": report.status(),
            "repository_create_only": promised, "repository_disagreement": disagreement,
        }))?;
    } else {
        output::print_line(&format!("Backend {}", report.location))?;
        report.findings.iter().try_for_each(print_finding)?;
        disagreement.map_or(Ok(()), |text| output::print_line(&format!("Note: {text}")))?;
    }
    if let Some(Err(error)) = promised {
        monitor.note(&format!("The repository itself was not looked at: {error}"));
    }
    Ok(if report.status() == Status::Failed { exit::FAILED } else { exit::COMPLETE })
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
    let status = match finding.status {
        Status::Ok => "ok",
        Status::Warning => "WARNING",
        Status::Failed => "FAILED",
    };
    let measured = finding.measured.as_deref().unwrap_or_default();
    output::print_line(format!("  {status:8}  {:18}  {measured}", finding.check.to_string()).trim_end())?;
    match &finding.consequence {
        Some(consequence) => output::print_line(&format!("            {consequence}")),
        None => Ok(()),
    }
}
