//! `mlvault key`

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand, ValueEnum};
use serde_json::json;

use mlvault::config::credential::CredentialSource;
use mlvault::crypto::keys::new_secret;
use mlvault::crypto::passphrase::{Credential, encode_key_file};
use mlvault::error::{Error, Result};
use mlvault::format::key_slot::{Certificate, Role};
use mlvault::repository::keys::ListedSlot;

use crate::cli::context::Context;
use crate::cli::outcome::Outcome;
use crate::cli::{exit, output};

/// Manage the keys of a repository
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault key add --label cron --role writer --new-key-file /etc/mlvault/cron.key
  mlvault key list
  mlvault key remove cron")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Add a key: a passphrase or a new key file
    #[command(after_help = "\
Examples:
  mlvault key add --label cron --role writer --new-key-file /etc/mlvault/cron.key
  mlvault key add --label alice --role reader")]
    Add(AddArgs),
    /// List the keys
    #[command(after_help = "\
Examples:
  mlvault key list
  mlvault key list --json")]
    List,
    /// Remove a key
    ///
    /// Data is not encrypted again: whoever kept a copy of the key and can read the repository's storage can still open it.
    #[command(after_help = "\
Examples:
  mlvault key remove cron")]
    Remove {
        /// Label or id of the key
        key: String,
    },
    /// Write the slot of a key to a file, as a backup of `keys/`
    ///
    /// The file is useless without the passphrase or key file that opens it.
    #[command(after_help = "\
Examples:
  mlvault key export cron --output cron.slot")]
    Export {
        /// Label or id of the key
        key: String,
        /// File to write
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Restore an exported slot
    #[command(after_help = "\
Examples:
  mlvault key import cron.slot")]
    Import {
        /// File that `key export` wrote
        file: PathBuf,
    },
}

#[derive(Parser)]
struct AddArgs {
    /// Name of the key
    #[arg(long)]
    label: String,
    /// What the holder of the key can do
    #[arg(long, value_enum)]
    role: RoleArg,
    /// Generate a new key and write it to this file, which must not exist
    #[arg(long, value_name = "FILE", conflicts_with = "new_passphrase_file")]
    new_key_file: Option<PathBuf>,
    /// File whose first line is the new passphrase [default: ask on the terminal]
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum RoleArg {
    /// Back up; cannot read stored content
    Writer,
    /// List, compare and check; cannot read stored content
    Auditor,
    /// Restore; cannot add keys
    Reader,
    /// Do everything
    Maintainer,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Writer => Self::Writer,
            RoleArg::Auditor => Self::Auditor,
            RoleArg::Reader => Self::Reader,
            RoleArg::Maintainer => Self::Maintainer,
        }
    }
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    match args.command {
        Command::Add(args) => add(context, args),
        Command::List => list(context),
        Command::Remove { key } => {
            let removed = context.repository()?.remove_key(&key)?;
            Ok(changed("removed", &removed))
        }
        Command::Export { key, output } => {
            let bytes = context.repository()?.export_key(&key)?;
            write_new(&output, &bytes)?;
            let text = format!("Wrote the slot of key {key:?} to {}", output.display());
            Ok(Outcome::complete(json!({ "exported": output }), text))
        }
        Command::Import { file } => {
            let bytes = std::fs::read(&file).map_err(|source| Error::source("read", file.clone(), source))?;
            let imported = context.repository()?.import_key(bytes.into())?;
            Ok(changed("imported", &imported))
        }
    }
}

fn add(context: &Context, args: AddArgs) -> Result<Outcome> {
    let repository = context.repository()?;
    let credential = match (&args.new_key_file, args.new_passphrase_file) {
        (Some(path), _) => {
            let secret = new_secret();
            let mut text = encode_key_file(&secret);
            text.push('\n');
            write_new(path, text.as_bytes())?;
            Credential::KeyFile(secret)
        }
        (None, Some(path)) => CredentialSource::PassphraseFile(path).read_new()?,
        (None, None) => CredentialSource::choose(Vec::new())?.read_new()?,
    };
    let added = repository.add_key(&args.label, args.role.into(), &credential).inspect_err(|_| {
        if let Some(path) = &args.new_key_file {
            let _ = std::fs::remove_file(path);
        }
    })?;
    Ok(changed("added", &added))
}

fn list(context: &Context) -> Result<Outcome> {
    let slots = context.repository()?.list_keys()?;
    let mut rows = vec![["", "ID", "LABEL", "ROLE", "CREATED"].map(str::to_owned).to_vec()];
    rows.extend(slots.iter().map(slot_row));
    let is_damaged = slots.iter().any(|slot| slot.certificate.is_err());
    let code = if is_damaged { exit::INCOMPLETE } else { exit::COMPLETE };
    Ok(Outcome::new(code, slots.iter().map(slot_json).collect(), rows))
}

fn slot_json(slot: &ListedSlot) -> serde_json::Value {
    match &slot.certificate {
        Ok(certificate) => json!({
            "id": slot.slot, "label": certificate.label, "role": certificate.role, "created": certificate.created,
            "in_use": slot.in_use,
        }),
        Err(error) => json!({ "id": slot.slot, "error": error.to_string() }),
    }
}

fn slot_row(slot: &ListedSlot) -> Vec<String> {
    let mark = if slot.in_use { "*" } else { "" }.to_owned();
    match &slot.certificate {
        Ok(certificate) => vec![
            mark,
            slot.slot.to_string(),
            certificate.label.clone(),
            certificate.role.name().to_owned(),
            output::format_time(&certificate.created),
        ],
        Err(error) => vec![mark, slot.slot.to_string(), error.to_string()],
    }
}

fn changed(done: &str, certificate: &Certificate) -> Outcome {
    let (label, role) = (&certificate.label, certificate.role.name());
    let text = format!("Key {} {done}: {label:?}, {role}", certificate.slot);
    let key = json!({ "id": certificate.slot, "label": certificate.label, "role": certificate.role });
    Outcome::complete(json!({ done: key }), text)
}

/// Writes a new file that only its owner can read.
fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let fault = |source| Error::target("write", path.to_owned(), source);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(fault)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(fault)
}
