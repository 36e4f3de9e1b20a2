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
use crate::cli::{exit, output};

/// Add, list, remove or export the keys of a repository
#[derive(Parser)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Add a key: a passphrase, or a new key file
    Add(AddArgs),
    /// List all keys
    List,
    /// Remove a key; data is not encrypted anew, whoever kept the key and can read the bucket can still open it
    Remove {
        /// Label or id of the key
        key: String,
    },
    /// Write a key's slot to a file, as a copy against the loss of `keys/`; it is useless without its passphrase or key file
    Export {
        /// Label or id of the key
        key: String,
        /// File to write
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Put an exported slot back
    Import {
        /// File that `key export` wrote
        file: PathBuf,
    },
}

#[derive(Parser)]
struct AddArgs {
    /// Name of the key, for people
    #[arg(long)]
    label: String,
    /// What its holder may do
    #[arg(long, value_enum)]
    role: RoleArg,
    /// Draw a new key and write it to this file, which must not exist
    #[arg(long, value_name = "FILE", conflicts_with = "new_passphrase_file")]
    new_key_file: Option<PathBuf>,
    /// File whose first line is the new passphrase (default: ask on the terminal)
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum RoleArg {
    /// Backs up and deduplicates; reads no stored content
    Writer,
    /// Lists, compares and verifies; reads no stored content
    Auditor,
    /// Restores; makes no keys
    Reader,
    /// Everything
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
pub fn run(context: &Context, args: Args) -> Result<exit::Code> {
    match args.command {
        Command::Add(args) => add(context, args),
        Command::List => list(context),
        Command::Remove { key } => {
            let removed = context.repository()?.remove_key(&key)?;
            tell(context, "removed", &removed)
        }
        Command::Export { key, output } => {
            let bytes = context.repository()?.export_key(&key)?;
            write_new(&output, &bytes)?;
            if context.json() {
                output::print_json(&json!({ "exported": output }))?;
            } else {
                output::print_line(&format!("Wrote the slot of key {key:?} to {}", output.display()))?;
            }
            Ok(exit::COMPLETE)
        }
        Command::Import { file } => {
            let bytes = std::fs::read(&file).map_err(|source| Error::source("read", file.clone(), source))?;
            let imported = context.repository()?.import_key(bytes.into())?;
            tell(context, "imported", &imported)
        }
    }
}

fn add(context: &Context, args: AddArgs) -> Result<exit::Code> {
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
    tell(context, "added", &added)
}

fn list(context: &Context) -> Result<exit::Code> {
    let slots = context.repository()?.list_keys()?;
    context.finish();
    if context.json() {
        output::print_json(&slots.iter().map(slot_json).collect::<Vec<_>>())?;
    } else {
        let mut rows = vec![["", "ID", "LABEL", "ROLE", "CREATED"].map(str::to_owned).to_vec()];
        rows.extend(slots.iter().map(slot_row));
        output::print_table(&rows)?;
    }
    let damaged = slots.iter().any(|slot| slot.certificate.is_err());
    Ok(if damaged { exit::INCOMPLETE } else { exit::COMPLETE })
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

fn tell(context: &Context, done: &str, certificate: &Certificate) -> Result<exit::Code> {
    context.finish();
    if context.json() {
        output::print_json(&json!({
            done: { "id": certificate.slot, "label": certificate.label, "role": certificate.role },
        }))?;
    } else {
        let (label, role) = (&certificate.label, certificate.role.name());
        output::print_line(&format!("Key {} {done}: {label:?}, {role}", certificate.slot))?;
    }
    Ok(exit::COMPLETE)
}

/// Writes a new file that only its owner can read.
fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let fault = |source| Error::target("write", path.to_owned(), source);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(fault)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(fault)
}
