//! Key slots: who may open the repository, and as what.
//!
//! What must stay true: adding or removing a slot touches no other object; a slot counts only if the root key
//! certified it; the last maintainer's slot cannot be removed.

use bytes::Bytes;

use crate::backend::{Backend, Listed};
use crate::crypto::keys::{Secret, new_secret};
use crate::crypto::passphrase::{Argon2Cost, Credential};
use crate::crypto::{random, sign};
use crate::error::{Error, Fault, Result};
use crate::format::key_slot::{self, Certificate, Grant, LABEL_LEN_MAX, Role, RoleSecrets, SLOT_LEN_MAX, SLOTS_MAX};
use crate::format::note::Says;
use crate::format::signed::Signer;
use crate::id::{RepositoryId, SlotId};
use crate::repository::{Repository, layout};

/// What the key in use allows, and who it belongs to.
pub struct Access {
    /// The slot's certificate.
    pub certificate: Certificate,
    /// Signs for the slot.
    pub signing_seed: Secret,
    /// Opens content.
    pub data: Option<Secret>,
    /// Certifies slots.
    pub root_seed: Option<Secret>,
}

impl Access {
    /// Returns what signs for the slot.
    pub fn signer(&self) -> Signer<'_> {
        Signer { certificate: &self.certificate, seed: &self.signing_seed }
    }

    /// Refuses roles that do not read content.
    pub fn data_secret(&self) -> Result<&Secret> {
        self.data.as_ref().ok_or_else(|| self.refusal("read stored content"))
    }

    /// Refuses roles that make no keys.
    pub fn root_seed(&self) -> Result<&Secret> {
        self.root_seed.as_ref().ok_or_else(|| self.refusal("add or remove keys"))
    }

    /// Fails unless the key is a maintainer's; `action` is what that is needed for.
    pub fn require_maintainer(&self, action: &'static str) -> Result<()> {
        if self.certificate.role == Role::Maintainer { Ok(()) } else { Err(self.refusal(action)) }
    }

    /// Returns the error that says that this role cannot do something.
    pub fn refusal(&self, action: &'static str) -> Error {
        Error::Role { label: self.certificate.label.clone(), role: self.certificate.role.name(), action }
    }
}

/// A key slot as listed.
#[derive(Debug)]
pub struct ListedSlot {
    /// Its certificate, or why it does not count.
    pub certificate: Result<Certificate>,
    /// The slot.
    pub slot: SlotId,
    /// Whether it is the one in use.
    pub in_use: bool,
}

/// Tries all slots and returns the secrets that the credential opens.
///
/// A damaged slot does not keep the others from opening; if none opens, the damage is what is reported.
pub(super) fn unlock(
    backend: &dyn Backend,
    repository: RepositoryId,
    credential: &Credential,
) -> Result<(RoleSecrets, Bytes)> {
    let slots = backend.list(layout::KEYS)?;
    let mut damage = None;
    for object in slots.iter().take(SLOTS_MAX) {
        let opened = read_slot(backend, object).and_then(|bytes| {
            let damaged = |error| Error::damaged(&object.key, error);
            let header = key_slot::checked(&bytes).and_then(key_slot::SlotHeader::decode).map_err(damaged)?;
            check_name(&object.key, &header.slot)?;
            // A slot of another repository could hand out that one's secrets under this one's name.
            if header.repository != repository {
                return Err(Error::damaged(
                    &object.key,
                    format!("it belongs to another repository than {}", layout::CONFIG),
                ));
            }
            let secrets = key_slot::open(&bytes, credential).map_err(damaged)?;
            Ok(secrets.map(|secrets| (secrets, bytes)))
        });
        match opened {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            // A damaged slot must not lock out the others; it is told only if none of them opens.
            Err(error) if error.is_damage() => damage = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(damage.unwrap_or_else(|| Error::WrongKey { location: backend.location(), slots: slots.len() }))
}

/// Refuses a slot that stands under another one's name.
fn check_name(key: &str, slot: &SlotId) -> Result<()> {
    if key == layout::key_slot(slot) { Ok(()) } else { Err(Error::damaged(key, format!("it is the slot {slot}"))) }
}

fn read_slot(backend: &dyn Backend, object: &Listed) -> Result<Bytes> {
    if object.size > SLOT_LEN_MAX {
        return Err(Error::damaged(&object.key, "it is larger than a key slot can be"));
    }
    backend.read(&object.key)
}

/// A slot that is to be made.
pub(super) struct NewSlot<'a> {
    /// What the user calls it.
    pub label: &'a str,
    /// What opens it.
    pub credential: &'a Credential,
    /// What it holds; the signing seed is drawn anew.
    pub secrets: RoleSecrets,
}

/// Makes the stored form of a new slot.
pub(super) fn new_slot(
    repository: RepositoryId,
    root_seed: &Secret,
    created: jiff::Timestamp,
    slot: NewSlot<'_>,
) -> Result<(Certificate, Bytes)> {
    let NewSlot { label, credential, mut secrets } = slot;
    if label.is_empty() || label.len() > LABEL_LEN_MAX {
        return Err(Error::Invalid(format!("A key label has 1 to {LABEL_LEN_MAX} bytes")));
    }
    secrets.signing_seed = new_secret();
    let signer = sign::signer_key(&secrets.signing_seed);
    let slot = SlotId::from_bytes(random());
    let certificate =
        Certificate::issue(repository, root_seed, Grant { slot, label, role: secrets.role, created, signer });
    let bytes = key_slot::seal(repository, credential, &Argon2Cost::default(), &secrets, &certificate)
        .map_err(|error| Error::Invalid(error.to_string()))?;
    Ok((certificate, Bytes::from(bytes)))
}

impl Repository {
    /// Adds a key slot. Needs a maintainer's key.
    pub fn add_key(&self, label: &str, role: Role, credential: &Credential) -> Result<Certificate> {
        let root_seed = self.access().root_seed()?;
        let slots = self.backend().list(layout::KEYS)?.len();
        if slots >= SLOTS_MAX {
            return Err(Error::Invalid(format!(
                "The repository has {slots} keys; no more than {SLOTS_MAX} are possible"
            )));
        }
        let secrets = RoleSecrets {
            role,
            meta: self.keys().secret().clone(),
            signing_seed: new_secret(),
            data: if role.reads_content() { self.access().data.clone() } else { None },
            root_seed: if role == Role::Maintainer { Some(root_seed.clone()) } else { None },
            root_key: self.config().root_key,
        };
        let (certificate, bytes) =
            new_slot(self.id(), root_seed, self.clock().now(), NewSlot { label, credential, secrets })?;
        self.backend().create(&layout::key_slot(&certificate.slot), bytes)?;
        Ok(certificate)
    }

    /// Lists all key slots, the oldest first, and last those that cannot be read.
    pub fn list_keys(&self) -> Result<Vec<ListedSlot>> {
        let mut slots = Vec::new();
        for object in self.backend().list(layout::KEYS)? {
            let Some(slot) = layout::key_slot_of(&object.key) else { continue };
            slots.push(ListedSlot {
                certificate: self.read_certificate(&object.key),
                slot,
                in_use: slot == self.access().certificate.slot,
            });
        }
        // Ids are random: by them, no two repositories would list the keys of `init` alike.
        slots.sort_by_cached_key(|slot| match &slot.certificate {
            Ok(certificate) => (false, Some(certificate.created), certificate.label.clone()),
            Err(_) => (true, None, slot.slot.to_string()),
        });
        Ok(slots)
    }

    fn read_certificate(&self, key: &str) -> Result<Certificate> {
        let bytes = self.backend().read(key)?;
        let certificate = key_slot::open_description(&bytes, self.keys(), self.id(), &self.config().root_key)
            .map_err(|error| Error::damaged(key, error))?;
        check_name(key, &certificate.slot).map(|()| certificate)
    }

    /// Removes a key slot, named by its id, a prefix of it, or its label. Needs a maintainer's key.
    ///
    /// Whoever kept a copy of the slot object and its key can still open what they can still read.
    pub fn remove_key(&self, name: &str) -> Result<Certificate> {
        self.access().root_seed()?;
        let certificate = self.find_key(name)?;
        let is_maintainer = |slot: &&ListedSlot| {
            slot.certificate.as_ref().is_ok_and(|certificate| certificate.role == Role::Maintainer)
        };
        let maintainers = self.list_keys()?.iter().filter(is_maintainer).count();
        if certificate.role == Role::Maintainer && maintainers <= 1 {
            return Err(Error::Invalid(format!(
                "{:?} is the last maintainer key; without it no key could ever be added",
                certificate.label
            )));
        }
        // First: from the moment the slot is gone nobody relies on what its holder writes, not even if it is put back.
        self.write_note(Says::RevokeKey { slot: certificate.slot })?;
        self.backend().remove(&layout::key_slot(&certificate.slot))?;
        Ok(certificate)
    }

    /// Returns the stored form of a key slot, to be kept elsewhere: it is useless without its passphrase or key file.
    pub fn export_key(&self, name: &str) -> Result<Bytes> {
        let certificate = self.find_key(name)?;
        self.backend().read(&layout::key_slot(&certificate.slot))
    }

    /// Puts an exported key slot back.
    pub fn import_key(&self, bytes: Bytes) -> Result<Certificate> {
        let certificate = key_slot::open_description(&bytes, self.keys(), self.id(), &self.config().root_key)
            .map_err(|error| Error::damaged("the exported key", error))?;
        if self.list_notes()?.revoked.contains_key(&certificate.slot) {
            // Its slot alone would open, and nobody would rely on what it writes.
            self.access().require_maintainer("put back a key that was removed")?;
            self.write_note(Says::ReinstateKey { slot: certificate.slot })?;
        }
        match self.backend().create(&layout::key_slot(&certificate.slot), bytes) {
            Err(error) if error.fault() == Some(Fault::AlreadyExists) => {
                Err(Error::Invalid(format!("The key {:?} is there already", certificate.label)))
            }
            result => result.map(|()| certificate),
        }
    }

    fn find_key(&self, name: &str) -> Result<Certificate> {
        let matches: Vec<Certificate> = self
            .list_keys()?
            .into_iter()
            .filter_map(|slot| slot.certificate.ok())
            .filter(|certificate| certificate.label == name || certificate.slot.to_string().starts_with(name))
            .collect();
        match <[Certificate; 1]>::try_from(matches) {
            Ok([certificate]) => Ok(certificate),
            Err(matches) if matches.is_empty() => Err(Error::NotFound(format!("No key has the label or id {name:?}"))),
            Err(_) => Err(Error::NotFound(format!("Several keys have the label or id {name:?}; use a longer id"))),
        }
    }
}
