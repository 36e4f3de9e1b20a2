//! `mlvault init`

use clap::Parser;
use serde_json::json;

use mlvault::backend::location;
use mlvault::clock::SystemClock;
use mlvault::doctor;
use mlvault::error::Result;
use mlvault::format::config::{ChunkProfiles, RepositoryConfig};
use mlvault::repository::{CreateOptions, Repository};

use crate::cli::context::Context;
use crate::cli::{exit, output};

/// Make a repository in an empty place
///
/// The key given (MLVAULT_PASSPHRASE_FILE, MLVAULT_KEY_FILE, …) becomes the first maintainer key. A recovery key, which
/// opens the repository if all else is lost, is printed once.
#[derive(Parser)]
pub struct Args {
    /// Label of the first key
    #[arg(long, default_value = "first")]
    label: String,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<exit::Code> {
    let credential = context.credential_source()?.read_new()?;
    let backend = location::create(&context.location()?, &context.backend_options()?)?;
    Repository::refuse_used_place(backend.as_ref())?;
    let create_only = doctor::honours_create_only(backend.as_ref())?;
    let options = CreateOptions {
        label: args.label,
        chunk_profiles: ChunkProfiles::default(),
        pack_bytes: RepositoryConfig::PACK_BYTES,
        create_only,
    };
    let created = Repository::create(backend.as_ref(), &credential, &options, &SystemClock)?;
    context.finish();
    if context.json() {
        output::print_json(&json!({
            "repository": created.repository,
            "location": backend.location(),
            "create_only": create_only,
            "recovery_key": created.recovery_key.as_str(),
        }))?;
        return Ok(exit::COMPLETE);
    }
    output::print_line(&format!("Created repository {} at {}", created.repository, backend.location()))?;
    if !create_only {
        output::print_line(
            "Warning: this backend ignores create-only writes (If-None-Match). Backups are safe; see `mlvault doctor` for \
             what must not run beside each other.",
        )?;
    }
    output::print_line(
        "\nRecovery key, shown only now. Keep it apart from the repository and from your passphrase:\n",
    )?;
    output::print_line(&format!("  {}\n", created.recovery_key.as_str()))?;
    output::print_line("In a file named by MLVAULT_KEY_FILE it opens the repository as a maintainer.")?;
    Ok(exit::COMPLETE)
}
