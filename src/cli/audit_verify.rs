//! `mlvault audit verify`

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Parser;
use serde_json::json;

use mlvault::audit::evidence::verify::{self, Differences, Verified};
use mlvault::error::{Error, Result};
use mlvault::format::bundle::BUNDLE_LEN_MAX;
use mlvault::units::count;

use crate::cli::context::Context;
use crate::cli::exit;
use crate::cli::outcome::{Outcome, Text};
use crate::cli::output::format_time;
use crate::cli::progress::printable;

/// Verify a bundle of evidence, without a repository and without a key
///
/// Give the pin of the repository, as you know it from elsewhere: without it, the bundle only shows that all of it fits together. With
/// --target, also compares the files in a directory.
///
/// Exit code 1 if the bundle proves nothing, 3 if no pin was given, 4 if a file in the directory is not what it was.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault audit verify fraud-7.zip --pin 6f1d2c80a94be35710c6d8fe2b93a745
  mlvault audit verify fraud-7.zip --pin 6f1d2c80a94be35710c6d8fe2b93a745 --target restored")]
pub struct Args {
    /// The bundle
    bundle: PathBuf,
    /// Compare the files in this directory too
    #[arg(long, value_name = "DIR")]
    target: Option<PathBuf>,
}

/// Runs the command, which needs no settings but the pin.
pub fn run(context: &Context, args: &Args) -> Result<Outcome> {
    let pins = context.pins()?;
    let (verified, _) = verify::open(&read(&args.bundle)?)?;
    if let Some(expected) = pins.iter().map(|stated| stated.pin).find(|pin| *pin != verified.pin()) {
        return Err(Error::Refused(format!(
            "It proves nothing: it is of the repository with the pin {}, and not of that with the pin {expected}",
            verified.pin()
        )));
    }
    let differences = args.target.as_deref().map(|target| verify::compare(&verified, target)).transpose()?;
    let is_pinned = !pins.is_empty();
    let code = match &differences {
        Some(differences) if !differences.is_empty() => exit::ALTERED,
        _ if !is_pinned => exit::INCOMPLETE,
        _ => exit::COMPLETE,
    };
    let predicate = &verified.statement.predicate;
    let document = json!({
        "pinned": is_pinned,
        "pin": verified.pin(),
        "asked": predicate.asked,
        "snapshot": predicate.snapshot,
        "started": verified.record.started,
        "arrived": predicate.arrived,
        "signed_by": verified.writer,
        "stated_by": predicate.signer,
        "made": predicate.made,
        "stamped": verified.stamped,
        "files": verified.statement.subject,
        "facts": predicate.facts,
        "differences": differences,
    });
    Ok(Outcome::new(code, document, text(&verified, is_pinned, differences.as_ref())))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let fault = |source| Error::target("read", path.to_owned(), source);
    let mut bytes = Vec::new();
    File::open(path).map_err(fault)?.take(BUNDLE_LEN_MAX + 1).read_to_end(&mut bytes).map_err(fault)?;
    if bytes.len() as u64 > BUNDLE_LEN_MAX {
        return Err(Error::Refused(format!("{:?} is too large for a bundle of evidence", path.display())));
    }
    Ok(bytes)
}

fn text(verified: &Verified, is_pinned: bool, differences: Option<&Differences>) -> Text {
    let predicate = &verified.statement.predicate;
    let asked = &predicate.asked;
    let what = match (&asked.model, asked.version, &asked.run) {
        (Some(model), Some(version), _) => format!("model {}, version {version}", printable(model)),
        (.., run) => format!("run {}", printable(run.as_deref().unwrap_or_default())),
    };
    let key = |label: &str, role: &str| format!("{} ({role})", printable(label));
    let mut text = Text::from(vec![
        format!("Evidence about {what} of deployment {}", printable(&asked.deployment)),
        format!(
            "Proved: the record of snapshot {}, signed by {}, covers {}",
            predicate.snapshot.short(),
            key(&verified.writer.label, verified.writer.role.name()),
            count(predicate.files.len(), "file")
        ),
        format!(
            "Stated by {} on {}: {}",
            key(&predicate.signer.label, predicate.signer.role.name()),
            format_time(&predicate.made),
            if verified.is_content_read() {
                "the content was read, and has the SHA-256 digests"
            } else {
                "the content was not read"
            }
        ),
        format!(
            "Not proved: when. The backup says {}, and its storage {}",
            format_time(&verified.record.started),
            format_time(&predicate.arrived)
        ),
    ]);
    text.extend(verified.stamped.map(|at| {
        format!(
            "Stamped at {}, as the stamp says: `openssl ts -verify` tells whether its authority signed it",
            format_time(&at)
        )
    }));
    text.line(match is_pinned {
        true => format!("The repository is the one with the pin {}", verified.pin()),
        false => {
            format!("NOT COMPARED: the pin {}. Anybody can make a bundle with a root key of his own", verified.pin())
        }
    });
    text.extend(differences.map(told).unwrap_or_default());
    text
}

fn told(differences: &Differences) -> Vec<String> {
    if differences.is_empty() {
        return vec!["All files are there, and are what they were".to_owned()];
    }
    let lines = |word: &'static str, names: &[String]| {
        names.iter().map(|name| format!("{word}: {}", printable(name))).collect::<Vec<_>>()
    };
    [
        lines("ALTERED", &differences.altered),
        lines("MISSING", &differences.missing),
        lines("NOT COVERED", &differences.more),
    ]
    .concat()
}
