//! `mlvault audit evidence`

use std::path::PathBuf;

use clap::Parser;
use serde_json::json;

use mlvault::audit::evidence::{self, Wanted};
use mlvault::error::{Error, Result};
use mlvault::units::count;

use crate::cli::answer::Answer;
use crate::cli::context::Context;
use crate::cli::outcome::Outcome;
use crate::cli::selection::DeploymentSnapshotArgs;
use crate::cli::written_file;

/// Write evidence about the files of a model version or a run, which anybody can verify without the repository and without a key
///
/// The bundle proves that the signed record of a snapshot covers each file, and says nothing of other files. With a key that reads
/// content, every file is read, and the bundle has SHA-256 digests too, and a signature for OpenSSF Model Signing; with an
/// auditor's key it has BLAKE3 digests alone.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault audit evidence --model fraud --version 7 --as-of 2026-11-21 --out fraud-7.zip
  mlvault audit verify fraud-7.zip --target restored")]
pub struct Args {
    /// The registered model
    #[arg(long, value_name = "NAME", requires = "version", required_unless_present = "run")]
    model: Option<String>,
    /// The version of the model (number or alias)
    #[arg(long, value_name = "VERSION", requires = "model")]
    version: Option<String>,
    /// The run (id)
    #[arg(long, value_name = "ID", conflicts_with = "model")]
    run: Option<String>,
    /// File to write, which is replaced at once
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Have it stamped by the time stamp authority (RFC 3161) at this URL, which only gets a hash
    #[arg(long, value_name = "URL")]
    timestamp_url: Option<String>,
    #[command(flatten)]
    snapshot: DeploymentSnapshotArgs,
}

impl Args {
    fn wanted(&self) -> Result<Wanted> {
        match (&self.model, &self.version, &self.run) {
            (Some(model), Some(version), _) => Ok(Wanted::Version { model: model.clone(), version: version.clone() }),
            (.., Some(run)) => Ok(Wanted::Run(run.clone())),
            _ => Err(Error::Invalid("Name a model and its version, or a run".to_owned())),
        }
    }
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    let wanted = args.wanted()?;
    let repository = context.repository()?;
    let Answer { snapshot, about } = args.snapshot.find(context, &repository)?;
    let asked = (&wanted, args.snapshot.as_of());
    let mut evidence = evidence::make(&repository, &snapshot, asked, &context.hears())?;
    if let Some(url) = &args.timestamp_url {
        evidence.stamp(url)?;
    }
    let bytes = evidence.encode()?;
    written_file::replace(&args.out, &bytes)?;
    let predicate = &evidence.statement.predicate;
    let has_sha256 = predicate.model_signature.is_some();
    let document = json!({
        "out": args.out,
        "snapshot": snapshot.id,
        "about": about,
        "pin": predicate.pin,
        "bytes": bytes.len(),
        "files": evidence.statement.subject,
        "has_sha256": has_sha256,
    });
    let digests = if has_sha256 { "SHA-256 and BLAKE3" } else { "BLAKE3 alone: this key reads no content" };
    let lines = vec![
        format!("Wrote {}: {} with {digests}", args.out.display(), count(evidence.statement.subject.len(), "file")),
        format!("Whoever verifies it needs the pin of the repository: {}", predicate.pin),
    ];
    Ok(Outcome::complete(document, about.over(lines)))
}
