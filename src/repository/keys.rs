//! Key slots: who may open the repository, and as what.
//!
//! What must stay true: adding or removing a slot touches no other object; a slot counts only if the root key
//! certified it; the last maintainer's slot cannot be removed.

use bytes::Bytes;

use crate::backend::{Backend, Listed};
use crate::crypto::keys::{MetaKeys, Secret, data_public_key, new_secret};
use crate::crypto::passphrase::{Argon2Cost, Credential, KeyHint};
use crate::crypto::{random, sign};
use crate::error::{Error, Fault, Result};
use crate::format::config::{self, RepositoryConfig};
use crate::format::key_slot::{self, Certificate, Grant, LABEL_LEN_MAX, Role, RoleSecrets, SLOTS_MAX, WORK_MAX};
use crate::format::log::What;
use crate::format::note::Says;
use crate::format::object::{self, ObjectKind};
use crate::format::signed::Signer;
use crate::id::{Pin, RepositoryId, SlotId};
use crate::parallel;
use crate::repository::layout::Object;
use crate::repository::objects::{self, Unreadable};
use crate::repository::{Repository, layout};

/// Objects below `keys/` that are read to find slots: each costs a request.
const SLOTS_LOOKED_AT_MAX: usize = 4096;

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

/// A repository that is to be opened.
pub(super) struct Door<'a> {
    /// Where it is.
    pub backend: &'a dyn Backend,
    /// Its `config`, as stored.
    pub config: &'a [u8],
    /// Its name, as `config` tells it.
    pub repository: RepositoryId,
    /// What must open one of its slots.
    pub credential: &'a Credential,
    /// What it must have if it is the right one.
    pub pin: Option<Pin>,
}

/// What a credential opened.
pub(super) struct Unlocked {
    /// The symmetric keys.
    pub keys: MetaKeys,
    /// The parameters.
    pub config: RepositoryConfig,
    /// What the key allows.
    pub access: Access,
}

/// A slot that may be tried.
struct Candidate {
    key: String,
    bytes: Bytes,
    work: u64,
}

/// Why slots did not count.
#[derive(Default)]
struct Refusals {
    /// One opened, but its root key is not the pinned one.
    foreign: Option<Error>,
    /// One opened, but what it leads to is not in order.
    opened: Option<Error>,
    /// One asks for too much work.
    costly: Option<Error>,
    /// What is no slot of this repository.
    unreadable: Unreadable,
    /// How many were tried, and are of other keys.
    tried: usize,
}

impl Refusals {
    /// Says why nothing opened. Where no slot could be tried, that is damage, and the key may be the right one.
    fn into_error(self, backend: &dyn Backend) -> Error {
        let Self { foreign, opened, costly, unreadable, tried } = self;
        let nothing_opens = || match (unreadable.first(), unreadable.count()) {
            (Some(first), _) if tried == 0 => first.clone(),
            (first, count) => {
                let others = first.map_or_else(String::new, |first| format!("; {count} more cannot be read: {first}"));
                Error::WrongKey { location: backend.location(), slots: tried, others }
            }
        };
        foreign.or(opened).or(costly).unwrap_or_else(nothing_opens)
    }
}

impl Door<'_> {
    /// Tries slots, and first the one that the key is said to open. A slot counts only if its root key is the pinned one
    /// and signed both `config` and the slot's certificate: one that somebody forged or damaged does not keep the others
    /// from opening. If none counts, the error says what is wrong with the one that came closest.
    pub fn unlock(&self, hint: Option<SlotId>) -> Result<Unlocked> {
        let hinted = hint.map(|slot| layout::key_slot(&slot));
        let slots = self.backend.list(layout::KEYS)?;
        let (first, others): (Vec<&Listed>, Vec<&Listed>) =
            slots.iter().partition(|slot| Some(&slot.key) == hinted.as_ref());
        let mut refusals = Refusals::default();
        for group in [&first[..], &others[..others.len().min(SLOTS_LOOKED_AT_MAX)]] {
            if let Some(unlocked) = self.try_slots(group, &mut refusals)? {
                return Ok(unlocked);
            }
        }
        Err(refusals.into_error(self.backend))
    }

    fn try_slots(&self, slots: &[&Listed], refusals: &mut Refusals) -> Result<Option<Unlocked>> {
        let mut candidates = self.candidates(slots, refusals)?;
        // The cheapest first: slots that somebody made costly use up nothing before those that `key add` makes.
        candidates.sort_by_key(|candidate| candidate.work);
        let mut work_left = WORK_MAX;
        for Candidate { key, bytes, work } in candidates {
            let Some(left) = work_left.checked_sub(work) else {
                refusals.costly = Some(Error::damaged(key, "it asks for more work than key slots may"));
                continue;
            };
            work_left = left;
            match key_slot::open(&bytes, self.credential) {
                Ok(None) => refusals.tried += 1,
                Err(error) => refusals.unreadable.push(Error::damaged(key, error)),
                Ok(Some(secrets)) => match self.enter(&key, &bytes, secrets) {
                    Ok(unlocked) => return Ok(Some(unlocked)),
                    Err(error @ Error::NotPinned { .. }) => refusals.foreign = Some(error),
                    Err(error) => refusals.opened = Some(error),
                },
            }
        }
        Ok(None)
    }

    /// Returns the first slots of a listing, at most [`SLOTS_MAX`]. What is no slot of this repository takes no place.
    fn candidates(&self, slots: &[&Listed], refusals: &mut Refusals) -> Result<Vec<Candidate>> {
        let mut candidates = Vec::new();
        for batch in slots.chunks(SLOTS_MAX) {
            for read in parallel::map(batch, self.backend.concurrency(), |slot| self.candidate(slot)) {
                match read {
                    Ok(candidate) => candidates.push(candidate),
                    Err(error) if error.is_damage() => refusals.unreadable.push(error),
                    Err(error) => return Err(error),
                }
            }
            if candidates.len() >= SLOTS_MAX {
                break;
            }
        }
        candidates.truncate(SLOTS_MAX);
        Ok(candidates)
    }

    fn candidate(&self, slot: &Listed) -> Result<Candidate> {
        let key = slot.key.clone();
        let id =
            layout::key_slot_of(&key).ok_or_else(|| Error::damaged(&key, "its name is not one that mlvault makes"))?;
        let bytes = objects::read(self.backend, Object::KeySlot(id), Some(slot.size))?;
        let header = key_slot::checked(&bytes)
            .and_then(key_slot::SlotHeader::decode)
            .map_err(|error| Error::damaged(&key, error))?;
        check_name(&key, &header.slot)?;
        // A slot of another repository could hand out that one's secrets under this one's name.
        if header.repository != self.repository {
            return Err(Error::damaged(&key, format!("it belongs to another repository than {}", layout::CONFIG)));
        }
        let is_costly = matches!(self.credential, Credential::Passphrase(_));
        Ok(Candidate { key, bytes, work: if is_costly { header.work() } else { 0 } })
    }

    /// Follows what a slot holds to the rest of the repository.
    fn enter(&self, key: &str, slot: &[u8], secrets: RoleSecrets) -> Result<Unlocked> {
        let found = config::pin(self.repository, &secrets.root_key);
        if let Some(pinned) = self.pin.filter(|pinned| *pinned != found) {
            return Err(Error::NotPinned { location: self.backend.location(), pinned, found, remembered: None });
        }
        let RoleSecrets { role, meta, signing_seed, data, root_seed, root_key } = secrets;
        let keys = MetaKeys::new(meta);
        let config = object::open(&keys, self.repository, ObjectKind::Config, layout::CONFIG, self.config)
            .and_then(|body| RepositoryConfig::verify(&body, self.repository, &root_key))
            .map_err(|error| Error::damaged(layout::CONFIG, error))?;
        let certificate = key_slot::open_description(slot, &keys, self.repository, &root_key)
            .map_err(|error| Error::damaged(key, error))?;
        // Who overwrites a slot can keep the certificate that belongs there.
        let fits = certificate.role == role
            && certificate.signer == sign::signer_key(&signing_seed)
            && root_seed.as_ref().is_none_or(|seed| sign::signer_key(seed) == root_key)
            && data.as_ref().is_none_or(|secret| data_public_key(secret) == Some(config.data_public_key));
        match fits {
            true => Ok(Unlocked { keys, config, access: Access { certificate, signing_seed, data, root_seed } }),
            false => Err(Error::damaged(key, "its secrets do not belong to its certificate and the repository")),
        }
    }
}

/// Refuses a slot that stands under another one's name.
fn check_name(key: &str, slot: &SlotId) -> Result<()> {
    if key == layout::key_slot(slot) { Ok(()) } else { Err(Error::damaged(key, format!("it is the slot {slot}"))) }
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

/// A key slot that was made and is not in the repository yet.
pub struct PreparedKey {
    /// The slot that it takes the place of, if it does.
    replaced: Option<Certificate>,
    certificate: Certificate,
    bytes: Bytes,
    hint: KeyHint,
}

impl PreparedKey {
    /// Returns what its key file is to say of slot and repository.
    pub fn hint(&self) -> KeyHint {
        self.hint
    }

    /// Returns the slot that it takes the place of, if it does.
    pub fn replaced(&self) -> Option<&Certificate> {
        self.replaced.as_ref()
    }
}

impl Repository {
    /// Adds a key slot. Needs a maintainer's key.
    pub fn add_key(&self, label: &str, role: Role, credential: &Credential) -> Result<Certificate> {
        self.store_key(self.prepare_key(label, role, credential)?)
    }

    /// Makes a key slot without adding it, so that its key file can be made safe first. Needs a maintainer's key.
    pub fn prepare_key(&self, label: &str, role: Role, credential: &Credential) -> Result<PreparedKey> {
        let root_seed = self.access().root_seed()?;
        self.refuse_label(label, None)?;
        self.seal_key(label, role, credential, root_seed)
    }

    /// Makes a slot that is to take the place of another one, with its label and role: the one named, or else the one in use.
    /// Needs a maintainer's key.
    pub fn prepare_successor(&self, name: Option<&str>, credential: &Credential) -> Result<PreparedKey> {
        let root_seed = self.access().root_seed()?;
        let old = name.map_or_else(|| Ok(self.access().certificate.clone()), |name| self.find_key(name))?;
        self.refuse_label(&old.label, Some(&old.slot))?;
        let prepared = self.seal_key(&old.label, old.role, credential, root_seed)?;
        Ok(PreparedKey { replaced: Some(old), ..prepared })
    }

    /// Refuses a label that another slot has, and a slot too many.
    fn refuse_label(&self, label: &str, but_of: Option<&SlotId>) -> Result<()> {
        // What is no slot takes no place: see `unlock`.
        let listed = self.list_keys()?;
        let certificates: Vec<&Certificate> = listed.iter().filter_map(|slot| slot.certificate.as_ref().ok()).collect();
        let is_taken = |other: &&Certificate| other.label == label && Some(&other.slot) != but_of;
        if certificates.iter().copied().any(|other| is_taken(&other)) {
            return Err(Error::Invalid(format!("There is a key with the label {label:?}: choose another one")));
        }
        let slots = certificates.len();
        if slots >= SLOTS_MAX {
            return Err(Error::Invalid(format!(
                "The repository has {slots} keys; no more than {SLOTS_MAX} are possible"
            )));
        }
        Ok(())
    }

    fn seal_key(&self, label: &str, role: Role, credential: &Credential, root_seed: &Secret) -> Result<PreparedKey> {
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
        let hint = KeyHint { slot: certificate.slot, pin: self.pin() };
        Ok(PreparedKey { replaced: None, certificate, bytes, hint })
    }

    /// Adds a key slot that was made before. One that takes the place of another is there before that one is removed: who is
    /// interrupted in between has both, and none is ever missing. Keys that relied on the old one rely on the new one.
    pub fn store_key(&self, key: PreparedKey) -> Result<Certificate> {
        let name = layout::key_slot(&key.certificate.slot);
        let (object, label) = (Object::KeySlot(key.certificate.slot), key.certificate.label.clone());
        self.create_logged(object, key.bytes, What::Key, Some(label)).inspect_err(|error| {
            // The answer may be all that was lost, and the key file will go too: a slot whose key nobody has is litter.
            if error.fault() != Some(Fault::AlreadyExists) {
                let _ = self.backend().remove(&name);
            }
        })?;
        if let Some(old) = key.replaced {
            self.hand_trust_on(&old, &key.certificate)?;
            self.remove_key(&old.slot.to_string())?;
        }
        Ok(key.certificate)
    }

    fn hand_trust_on(&self, old: &Certificate, new: &Certificate) -> Result<()> {
        let notes = self.list_notes()?;
        let others = notes.trusted_with(&old.slot);
        let others = others.into_iter().filter(|slot| *slot != old.slot && !notes.revoked.contains_key(slot));
        // Pair by pair: two keys that rely on the old one need not rely on each other.
        for other in others {
            match self.trust_keys(&[other, new.slot].map(|slot| slot.to_string())) {
                // Its slot is gone.
                Err(Error::NotFound(_)) | Ok(_) => (),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Lists all key slots, the oldest first, and last those that cannot be read.
    pub fn list_keys(&self) -> Result<Vec<ListedSlot>> {
        let mut slots = Vec::new();
        for object in self.backend().list(layout::KEYS)?.iter().take(SLOTS_LOOKED_AT_MAX) {
            let Some(slot) = layout::key_slot_of(&object.key) else { continue };
            slots.push(ListedSlot {
                certificate: self.read_certificate(slot, Some(object.size)),
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

    /// Reads a slot's certificate, and makes sure that a maintainer gave it to this slot.
    pub fn read_certificate(&self, slot: SlotId, size: Option<u64>) -> Result<Certificate> {
        let key = layout::key_slot(&slot);
        let bytes = objects::read(self.backend(), Object::KeySlot(slot), size)?;
        let certificate = key_slot::open_description(&bytes, self.keys(), self.id(), &self.config().root_key)
            .map_err(|error| Error::damaged(&key, error))?;
        check_name(&key, &certificate.slot).map(|()| certificate)
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
        self.write_note(Says::RevokeKey { slot: certificate.slot, label: certificate.label.clone() })?;
        self.backend().remove(&layout::key_slot(&certificate.slot))?;
        Ok(certificate)
    }

    /// Returns the stored form of a key slot, to be kept elsewhere: it is useless without its passphrase or key file.
    pub fn export_key(&self, name: &str) -> Result<Bytes> {
        let certificate = self.find_key(name)?;
        objects::read(self.backend(), Object::KeySlot(certificate.slot), None)
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
        let (object, label) = (Object::KeySlot(certificate.slot), certificate.label.clone());
        match self.create_logged(object, bytes, What::Key, Some(label)) {
            Err(error) if error.fault() == Some(Fault::AlreadyExists) => {
                Err(Error::Invalid(format!("The key {:?} is there already", certificate.label)))
            }
            result => result.map(|()| certificate),
        }
    }

    pub(super) fn find_key(&self, name: &str) -> Result<Certificate> {
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
