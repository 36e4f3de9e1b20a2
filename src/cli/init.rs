//! `mlvault init`

use clap::Parser;
use serde_json::json;

use mlvault::backend::{Backend, location};
use mlvault::clock::SystemClock;
use mlvault::doctor;
use mlvault::error::Result;
use mlvault::repository::{CreateOptions, Created, Repository};

use crate::cli::context::Context;
use crate::cli::outcome::{Outcome, Text};

/// Create a new repository
///
/// The location must be empty. The passphrase or key file that you give becomes the first maintainer key. The command
/// prints a recovery key, once: it opens the repository if every other key is lost.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault init --repo /srv/backup --passphrase-file ~/.mlvault-passphrase
  mlvault init --repo s3://backups/mlflow --s3-region eu-central-1")]
pub struct Args {
    /// Label of the first key
    #[arg(long, default_value = "first")]
    label: String,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    let credential = context.credential_source()?.read_new(context.cancel())?;
    let (location, s3) = (context.location()?, context.backend_options()?);
    let backend = location::create(&location, &s3)?;
    Repository::refuse_used_place(backend.as_ref())?;
    let create_only = doctor::honours_create_only(backend.as_ref())?;
    let options = CreateOptions { label: args.label, create_only, ..CreateOptions::default() };
    let created = Repository::create(backend.as_ref(), &credential, &options, &SystemClock)?;
    context.remember_pin(&location, &s3, created.pin);
    let document = json!({
        "repository": created.repository,
        "pin": created.pin,
        "location": backend.location(),
        "create_only": create_only,
        "stale_listing": backend.stale_listing(),
        "recovery_key": created.recovery_key.as_str(),
    });
    Ok(Outcome::complete(document, text(&created, backend.as_ref(), create_only)))
}

fn text(created: &Created, backend: &dyn Backend, create_only: bool) -> Text {
    let mut text = Text::from(format!("Created repository {} at {}", created.repository, backend.location()));
    text.line(format!("Pin: {}", created.pin));
    if let Some(reason) = backend.stale_listing() {
        text.line(format!("Warning: {reason}. Otherwise a prune can overlook what a backup elsewhere needs."));
    }
    if !create_only {
        text.line(
            "Warning: this backend ignores create-only writes (If-None-Match), or refuses them. Backups are safe, and \
             a prune waits for a grace time instead; run `mlvault doctor` to learn which commands must not run at the same time.",
        );
    }
    text.line("\nRecovery key, shown only now. Keep it apart from the repository and from your passphrase:\n");
    text.line(format!("  {}\n", created.recovery_key.as_str()));
    text.line("Put it into a file and set MLVAULT_KEY_FILE to that file: it opens the repository as a maintainer.");
    text.line(
        "Wherever you use a passphrase, set MLVAULT_PIN to the pin: mlvault then refuses a repository that somebody else put \
         in this place.",
    );
    text
}
