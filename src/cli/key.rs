//! `mlvault key`

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand, ValueEnum};
use serde_json::{Value, json};

use mlvault::cancel::Cancel;
use mlvault::config::credential::CredentialSource;
use mlvault::crypto::keys::new_secret;
use mlvault::crypto::passphrase::{Credential, KeyFile};
use mlvault::error::{Error, Result};
use mlvault::format::key_slot::{Certificate, Role};
use mlvault::id::SlotId;
use mlvault::repository::Repository;
use mlvault::repository::keys::{ListedSlot, PreparedKey};
use mlvault::repository::notes::{Notes, RemovedKey};

use crate::cli::context::Context;
use crate::cli::outcome::{Outcome, Text};
use crate::cli::{exit, output};

/// Manage the keys of a repository
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault key add --label cron --role writer --new-key-file /etc/mlvault/cron.key
  mlvault key list
  mlvault key trust cron backup-host
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
    /// Change the passphrase or the key file of a key
    ///
    /// The key gets a new slot, with the same label and role; then the old slot goes. An interrupted change leaves both. As
    /// after `key remove`, later backups do not rely on what was written with the old slot until somebody who can read content
    /// has checked it. Needs a maintainer key.
    #[command(after_help = "\
Examples:
  mlvault key passwd
  mlvault key passwd alice --new-passphrase-file /run/secrets/alice
  mlvault key passwd cron --new-key-file /etc/mlvault/cron-2.key")]
    Passwd(PasswdArgs),
    /// List the keys
    #[command(after_help = "\
Examples:
  mlvault key list
  mlvault key list --json")]
    List,
    /// Let writer keys deduplicate against each other's backups
    ///
    /// A writer cannot read stored content, so it cannot tell whether what another writer stored is sound. It therefore
    /// stores again what only other writers have stored, until somebody who can read it has checked it (`mlvault check
    /// --read-data`). Keys that trust each other skip this: use it for keys of machines that you trust equally. Needs a
    /// maintainer key.
    #[command(after_help = "\
Examples:
  mlvault key trust cron backup-host")]
    Trust {
        /// Labels or ids of the keys, two or more
        #[arg(value_name = "KEY", required = true)]
        keys: Vec<String>,
    },
    /// Take back `key trust`
    ///
    /// Later backups with these keys rely on no other writer key, and those with other writer keys not on these. What was
    /// backed up stays. Needs a maintainer key.
    #[command(after_help = "\
Examples:
  mlvault key distrust backup-host")]
    Distrust {
        /// Labels or ids of the keys
        #[arg(value_name = "KEY", required = true)]
        keys: Vec<String>,
    },
    /// Remove a key
    ///
    /// Later backups do not rely on what was written with it, unless somebody who can read content has checked it. Data is
    /// not encrypted again: whoever kept a copy of the key and can read the repository's storage can still open it.
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
    #[command(flatten)]
    new: NewKeyArgs,
}

#[derive(Parser)]
struct PasswdArgs {
    /// Label or id of the key [default: the key in use]
    key: Option<String>,
    #[command(flatten)]
    new: NewKeyArgs,
}

/// What is to open a new slot.
#[derive(clap::Args)]
struct NewKeyArgs {
    /// Generate a new key and write it to this file, which must not exist
    #[arg(long, value_name = "FILE", conflicts_with = "new_passphrase_file")]
    new_key_file: Option<PathBuf>,
    /// File whose first line is the new passphrase [default: ask on the terminal]
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,
}

impl NewKeyArgs {
    /// Makes a slot and adds it. A key file is safe before the slot is there, so that there is no slot whose key nobody has; and
    /// it goes if the slot cannot be made.
    fn make(
        self,
        repository: &Repository,
        cancel: &Cancel,
        prepare: impl Fn(&Credential) -> Result<PreparedKey>,
    ) -> Result<(Certificate, Option<Certificate>)> {
        let Self { new_key_file, new_passphrase_file } = self;
        let store = |prepared: PreparedKey| {
            let replaced = prepared.replaced().cloned();
            repository.store_key(prepared).map(|added| (added, replaced))
        };
        let Some(path) = new_key_file else {
            let given = new_passphrase_file.map(CredentialSource::PassphraseFile).into_iter().collect();
            return store(prepare(&CredentialSource::choose(given)?.read_new(cancel)?)?);
        };
        let secret = new_secret();
        let prepared = prepare(&Credential::KeyFile(secret.clone()))?;
        let slot = prepared.hint().slot;
        let mut text = KeyFile { secret, hint: Some(prepared.hint()) }.encode();
        text.push('\n');
        write_new(&path, text.as_bytes())?;
        store(prepared).inspect_err(|_| {
            // What fails after the slot was added must not take its key away.
            if repository.read_certificate(slot, None).is_err() {
                drop(std::fs::remove_file(&path));
            }
        })
    }
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
        Command::Passwd(args) => passwd(context, args),
        Command::List => list(context),
        Command::Trust { keys } => {
            let trusted = context.repository()?.trust_keys(&keys)?;
            let text = format!("{} now rely on each other's backups", labels(&trusted));
            Ok(Outcome::complete(json!({ "trusted": keys_json(&trusted) }), text))
        }
        Command::Distrust { keys } => {
            let distrusted = context.repository()?.distrust_keys(&keys)?;
            let text = format!("No writer key relies on {} any more, nor the other way round", labels(&distrusted));
            Ok(Outcome::complete(json!({ "distrusted": keys_json(&distrusted) }), text))
        }
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
    let role = args.role.into();
    let prepare = |credential: &Credential| repository.prepare_key(&args.label, role, credential);
    let (added, _) = args.new.make(&repository, context.cancel(), prepare)?;
    Ok(changed("added", &added))
}

fn passwd(context: &Context, args: PasswdArgs) -> Result<Outcome> {
    let repository = context.repository()?;
    let prepare = |credential: &Credential| repository.prepare_successor(args.key.as_deref(), credential);
    let (new, old) = args.new.make(&repository, context.cancel(), prepare)?;
    let mut text = Text::from(format!(
        "Key {} is {} now: {:?}, {}. What opened it before does not open it any more",
        old.as_ref().map_or_else(String::new, |old| old.slot.to_string()),
        new.slot,
        new.label,
        new.role.name()
    ));
    text.line("Run `mlvault check --read-data`, so that later backups rely on what was backed up with it before");
    let document = json!({ "changed": key_json(&new), "removed": old.map(|old| old.slot) });
    Ok(Outcome::complete(document, text))
}

fn list(context: &Context) -> Result<Outcome> {
    let repository = context.repository()?;
    let (slots, notes) = (repository.list_keys()?, repository.list_notes()?);
    for error in notes.damaged.iter() {
        context.monitor().problem("notes", &error.to_string());
    }
    let overview = Overview { repository: &repository, slots: &slots, notes: &notes };
    let is_damaged = slots.iter().any(|slot| slot.certificate.is_err()) || !notes.damaged.is_empty();
    let code = if is_damaged { exit::INCOMPLETE } else { exit::COMPLETE };
    Ok(Outcome::new(code, overview.document(), overview.text()))
}

/// The keys of a repository, those that were removed, and who relies on whom.
struct Overview<'a> {
    repository: &'a Repository,
    slots: &'a [ListedSlot],
    notes: &'a Notes,
}

impl Overview<'_> {
    fn document(&self) -> Value {
        let there = self.slots.iter().map(|slot| self.slot_json(slot));
        let gone = self.gone().map(|(slot, removed)| {
            json!({
                "id": slot, "label": removed.label, "role": null, "created": null, "in_use": false, "trusts": [],
                "removed": removed.at, "error": null,
            })
        });
        json!({
            "repository": self.repository.id(), "pin": self.repository.pin(),
            "keys": there.chain(gone).collect::<Vec<_>>(),
        })
    }

    fn text(&self) -> Text {
        let mut rows = vec![["", "ID", "LABEL", "ROLE", "SINCE", "TRUSTS"].map(str::to_owned).to_vec()];
        rows.extend(self.slots.iter().map(|slot| self.slot_row(slot)));
        rows.extend(self.gone().map(|(slot, removed)| {
            let (id, since) = (slot.to_string(), output::format_time(&removed.at));
            vec![String::new(), id, removed.label.clone(), "removed".to_owned(), since]
        }));
        let mut text = Text::from(rows);
        text.line(format!("\nRepository {}, pin {}", self.repository.id(), self.repository.pin()));
        text
    }

    /// Keys that were removed and whose slots are gone.
    fn gone(&self) -> impl Iterator<Item = (&SlotId, &RemovedKey)> {
        self.notes.revoked.iter().filter(|(id, _)| self.slots.iter().all(|slot| slot.slot != **id))
    }

    /// The other keys whose backups those with this one rely on because somebody said so.
    fn trusted(&self, slot: &ListedSlot) -> Vec<&Certificate> {
        let trusted = self.notes.trusted_with(&slot.slot);
        let counts = |id: &SlotId| !self.notes.revoked.contains_key(id) && trusted.contains(id);
        let others =
            self.slots.iter().filter(|other| other.slot != slot.slot && counts(&slot.slot) && counts(&other.slot));
        others.filter_map(|other| other.certificate.as_ref().ok()).collect()
    }

    fn slot_json(&self, slot: &ListedSlot) -> Value {
        let (known, error) = match &slot.certificate {
            Ok(certificate) => (Some(certificate), None),
            Err(error) => (None, Some(error.to_string())),
        };
        json!({
            "id": slot.slot, "label": known.map(|key| &key.label), "role": known.map(|key| key.role),
            "created": known.map(|key| key.created), "in_use": slot.in_use,
            "trusts": self.trusted(slot).iter().map(|key| key.slot).collect::<Vec<_>>(),
            "removed": self.notes.revoked.get(&slot.slot).map(|removed| removed.at), "error": error,
        })
    }

    fn slot_row(&self, slot: &ListedSlot) -> Vec<String> {
        let mark = if slot.in_use { "*" } else { "" }.to_owned();
        match &slot.certificate {
            Ok(certificate) => {
                let removed = if self.notes.revoked.contains_key(&slot.slot) { ", removed" } else { "" };
                let trusted: Vec<&str> = self.trusted(slot).iter().map(|key| key.label.as_str()).collect();
                vec![
                    mark,
                    slot.slot.to_string(),
                    certificate.label.clone(),
                    format!("{}{removed}", certificate.role.name()),
                    output::format_time(&certificate.created),
                    trusted.join(", "),
                ]
            }
            Err(error) => vec![mark, slot.slot.to_string(), error.to_string()],
        }
    }
}

fn keys_json(keys: &[Certificate]) -> Vec<Value> {
    keys.iter().map(key_json).collect()
}

fn key_json(key: &Certificate) -> Value {
    json!({ "id": key.slot, "label": key.label, "role": key.role })
}

fn labels(keys: &[Certificate]) -> String {
    keys.iter().map(|key| format!("{:?}", key.label)).collect::<Vec<_>>().join(", ")
}

fn changed(done: &str, certificate: &Certificate) -> Outcome {
    let (label, role) = (&certificate.label, certificate.role.name());
    let text = format!("Key {} {done}: {label:?}, {role}", certificate.slot);
    Outcome::complete(json!({ done: key_json(certificate) }), text)
}

/// Writes a new file that only its owner can read. It is there after a crash too; a failure leaves none.
fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let fault = |source| Error::target("write", path.to_owned(), source);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(fault)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.and_then(|()| File::open(parent)?.sync_all()).map_err(|source| {
        let _ = std::fs::remove_file(path);
        fault(source)
    })
}
