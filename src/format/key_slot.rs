//! A key slot: `keys/<slot id>`. A role's secrets, wrapped by a passphrase or a key file.
//!
//! ```text
//!   0   8  magic "MLVKEY01"
//!   8   1  format version
//!   9   1  wrapped by: 1 passphrase (Argon2id), 2 key file
//!  10   6  zero
//!  16  16  repository id
//!  32   8  slot id
//!  40  16  salt
//!  56   4  Argon2 memory in KiB      (zero for key files, as are the next two)
//!  60   4  Argon2 passes
//!  64   4  Argon2 lanes
//!  68   4  zero
//!  72  32  commitment to the slot key
//! 104 184  AES-256-GCM of the secrets below, then 16 bytes of tag; associated data: bytes 0..104
//! 288   …  object envelope: the slot's description, JSON, readable with the meta secret
//!   …  32  BLAKE3 of everything before
//!
//! secrets: role (1), zero (7), meta secret (32), signing seed (32), data secret (32), root seed (32), root key (32)
//! ```
//!
//! The root key is the public one that `config` and certificates must be signed with: whoever opens the repository
//! learns it from the slot and not from anything that others can replace. The data secret is zero for writers and auditors, the root seed for all but maintainers.
//! The commitment keeps one slot from opening under several passphrases (AES-GCM alone does not commit to its key).
//! The hash at the end proves nothing against an attacker: it lets anyone tell a damaged slot from a wrong passphrase.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::crypto::keys::{MetaKeys, Secret};
use crate::crypto::passphrase::{Argon2Cost, Credential};
use crate::crypto::random;
use crate::crypto::seal::{Cipher, TAG_LEN};
use crate::crypto::sign::{self, Domain, SIGNATURE_LEN};
use crate::format::object::{self, ObjectKind};
use crate::format::{Cursor, FORMAT_VERSION};
use crate::format_error::FormatError;
use crate::id::{RepositoryId, SignerKey, SlotId};

const MAGIC: &[u8; 8] = b"MLVKEY01";
const PREFIX_LEN: usize = 104;
const SECRETS_LEN: usize = 8 + 5 * 32;
const DESCRIPTION_AT: usize = PREFIX_LEN + SECRETS_LEN + TAG_LEN;
const CHECKSUM_LEN: usize = 32;
/// Largest slot object in bytes.
pub const SLOT_LEN_MAX: u64 = 8 << 10;
/// Most slots of a repository that are tried.
pub const SLOTS_MAX: usize = 64;
/// Most Argon2 work that an opening spends on trying slots, in KiB of memory passed over: as if each slot that is tried
/// asked for the default cost.
pub const WORK_MAX: u64 = SLOTS_MAX as u64 * Argon2Cost::DEFAULT_WORK;
/// Longest label in bytes.
pub const LABEL_LEN_MAX: usize = 128;

/// What the holder of a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Backs up and deduplicates; reads no stored content.
    Writer = 1,
    /// Lists and compares, verifies digests and signatures; reads no stored content.
    Auditor = 2,
    /// Restores; makes no keys.
    Reader = 3,
    /// Everything, keys included.
    Maintainer = 4,
}

impl Role {
    /// Returns the role's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Writer => "writer",
            Self::Auditor => "auditor",
            Self::Reader => "reader",
            Self::Maintainer => "maintainer",
        }
    }

    fn from_byte(byte: u8) -> Result<Self, FormatError> {
        [Self::Writer, Self::Auditor, Self::Reader, Self::Maintainer]
            .into_iter()
            .find(|role| *role as u8 == byte)
            .ok_or_else(|| FormatError::new(format!("unknown role {byte}")))
    }

    /// Returns whether snapshots signed by the role count.
    pub fn writes_snapshots(self) -> bool {
        matches!(self, Self::Writer | Self::Maintainer)
    }

    /// Returns whether the role holds the data secret.
    pub fn reads_content(self) -> bool {
        matches!(self, Self::Reader | Self::Maintainer)
    }
}

/// The secrets of a role.
pub struct RoleSecrets {
    /// The role.
    pub role: Role,
    /// The meta secret.
    pub meta: Secret,
    /// Signs snapshots for this slot.
    pub signing_seed: Secret,
    /// Opens content; readers and maintainers only.
    pub data: Option<Secret>,
    /// Certifies slots; maintainers only.
    pub root_seed: Option<Secret>,
    /// Public key that signs `config` and certificates.
    pub root_key: SignerKey,
}

/// Says who a slot belongs to, under the root key's signature. Snapshots carry it, so that they can be
/// verified after the slot is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The slot.
    pub slot: SlotId,
    /// A name for people.
    pub label: String,
    /// The role.
    pub role: Role,
    /// When the slot was made, by the maker's clock.
    pub created: Timestamp,
    /// Public half of the slot's signing seed.
    pub signer: SignerKey,
    /// The root key's signature over all of the above, hexadecimal.
    pub signature: String,
}

/// What a certificate is to say.
#[derive(Debug, Clone, Copy)]
pub struct Grant<'a> {
    /// The key slot.
    pub slot: SlotId,
    /// What the user calls it.
    pub label: &'a str,
    /// What its holder may do.
    pub role: Role,
    /// When it is issued.
    pub created: Timestamp,
    /// Public half of the slot's signing seed.
    pub signer: SignerKey,
}

impl Certificate {
    /// Issues a certificate.
    pub fn issue(repository: RepositoryId, root_seed: &Secret, grant: Grant<'_>) -> Self {
        let Grant { slot, label, role, created, signer } = grant;
        let mut certificate = Self { slot, label: label.to_owned(), role, created, signer, signature: String::new() };
        let message = certificate.message(repository);
        certificate.signature =
            data_encoding::HEXLOWER.encode(&sign::sign(root_seed, Domain::Certificate, &[&message]));
        certificate
    }

    /// Returns whether the root key issued exactly this certificate for this repository.
    pub fn is_issued_by(&self, root: &SignerKey, repository: RepositoryId) -> bool {
        let signature: Option<[u8; SIGNATURE_LEN]> =
            data_encoding::HEXLOWER.decode(self.signature.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        signature
            .is_some_and(|signature| sign::verify(root, Domain::Certificate, &[&self.message(repository)], &signature))
    }

    /// Repository id (16), slot id (8), role (1), created (8, Unix milliseconds), signer key (32), label.
    fn message(&self, repository: RepositoryId) -> Vec<u8> {
        let mut message = repository.as_bytes().to_vec();
        message.extend_from_slice(self.slot.as_bytes());
        message.push(self.role as u8);
        message.extend_from_slice(&self.created.as_millisecond().to_le_bytes());
        message.extend_from_slice(self.signer.as_bytes());
        message.extend_from_slice(self.label.as_bytes());
        message
    }
}

/// Makes a slot's stored form.
pub fn seal(
    repository: RepositoryId,
    credential: &Credential,
    cost: &Argon2Cost,
    secrets: &RoleSecrets,
    certificate: &Certificate,
) -> Result<Vec<u8>, FormatError> {
    let salt: [u8; 16] = random();
    let slot_key = credential.slot_key(&salt, cost)?;
    let mut bytes = MAGIC.to_vec();
    let (wrapping, cost) = match credential {
        Credential::Passphrase(_) => (1, [cost.memory_kib, cost.passes, cost.lanes]),
        Credential::KeyFile(_) => (2, [0; 3]),
    };
    bytes.extend_from_slice(&[FORMAT_VERSION, wrapping, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(repository.as_bytes());
    bytes.extend_from_slice(certificate.slot.as_bytes());
    bytes.extend_from_slice(&salt);
    cost.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&commitment(&slot_key, &certificate.slot));
    let mut plain = encode_secrets(secrets);
    let tag = Cipher::new(&slot_key).seal_in_place(&bytes, &mut plain);
    bytes.extend_from_slice(&plain);
    bytes.extend_from_slice(&tag);
    let description = serde_json::to_vec(certificate).expect("a certificate is always representable as JSON");
    let keys = MetaKeys::new(secrets.meta.clone());
    let name = certificate.slot.to_string();
    bytes.extend_from_slice(&object::seal(&keys, repository, ObjectKind::SlotDescription, &name, &description));
    let checksum = blake3::hash(&bytes);
    bytes.extend_from_slice(checksum.as_bytes());
    Ok(bytes)
}

/// The part of a slot that is in the clear.
pub struct SlotHeader {
    /// The repository.
    pub repository: RepositoryId,
    /// The slot.
    pub slot: SlotId,
    /// Whether a passphrase opens it; else a key file does.
    pub by_passphrase: bool,
    salt: [u8; 16],
    cost: Argon2Cost,
    commitment: [u8; 32],
}

impl SlotHeader {
    /// Reads the clear part; a cost outside the limits is refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        if bytes.len() as u64 > SLOT_LEN_MAX {
            return Err(FormatError::new("it is larger than a key slot can be"));
        }
        let mut cursor = Cursor::new(bytes);
        if &cursor.array::<8>()? != MAGIC {
            return Err(FormatError::new("it does not begin as a key slot"));
        }
        let version = cursor.u8()?;
        if version != FORMAT_VERSION {
            return Err(FormatError::new(format!("it has format {version}, this version reads {FORMAT_VERSION}")));
        }
        let by_passphrase = match cursor.u8()? {
            1 => true,
            2 => false,
            other => return Err(FormatError::new(format!("unknown wrapping {other}"))),
        };
        cursor.zeros(6)?;
        let repository = RepositoryId::from_bytes(cursor.array()?);
        let slot = SlotId::from_bytes(cursor.array()?);
        let salt = cursor.array()?;
        let cost = Argon2Cost { memory_kib: cursor.u32()?, passes: cursor.u32()?, lanes: cursor.u32()? };
        cursor.zeros(4)?;
        if by_passphrase {
            cost.check()?;
        }
        Ok(Self { repository, slot, by_passphrase, salt, cost, commitment: cursor.array()? })
    }

    /// Returns what it costs to try a passphrase on the slot, in KiB of memory passed over; nothing for a key file's.
    pub fn work(&self) -> u64 {
        if self.by_passphrase { self.cost.work() } else { 0 }
    }
}

/// Returns a slot without its checksum, after comparing it.
pub fn checked(bytes: &[u8]) -> Result<&[u8], FormatError> {
    let (content, checksum) =
        bytes.split_last_chunk::<CHECKSUM_LEN>().ok_or_else(|| FormatError::new("it ends early"))?;
    if blake3::hash(content).as_bytes() != checksum {
        return Err(FormatError::new("its checksum is wrong"));
    }
    Ok(content)
}

/// Opens a slot; `None` if the credential is not the slot's.
pub fn open(bytes: &[u8], credential: &Credential) -> Result<Option<RoleSecrets>, FormatError> {
    let bytes = checked(bytes)?;
    let header = SlotHeader::decode(bytes)?;
    if header.by_passphrase != matches!(credential, Credential::Passphrase(_)) {
        return Ok(None);
    }
    let slot_key = credential.slot_key(&header.salt, &header.cost)?;
    if commitment(&slot_key, &header.slot) != header.commitment {
        return Ok(None);
    }
    let (prefix, rest) = bytes.split_at(PREFIX_LEN);
    let sealed = rest.get(..SECRETS_LEN + TAG_LEN).ok_or_else(|| FormatError::new("it ends early"))?;
    let plain = Zeroizing::new(Cipher::new(&slot_key).open(prefix, sealed)?);
    decode_secrets(&plain).map(Some)
}

/// Opens a slot's description with the meta secret and checks that the root key certified it.
pub fn open_description(
    bytes: &[u8],
    keys: &MetaKeys,
    repository: RepositoryId,
    root: &SignerKey,
) -> Result<Certificate, FormatError> {
    let bytes = checked(bytes)?;
    let header = SlotHeader::decode(bytes)?;
    let envelope = bytes.get(DESCRIPTION_AT..).ok_or_else(|| FormatError::new("it ends early"))?;
    let name = header.slot.to_string();
    let body = object::open(keys, repository, ObjectKind::SlotDescription, &name, envelope)?;
    let certificate: Certificate =
        serde_json::from_slice(&body).map_err(|error| FormatError::new(error.to_string()))?;
    if certificate.slot != header.slot || !certificate.is_issued_by(root, repository) {
        return Err(FormatError::new("no maintainer certified it"));
    }
    Ok(certificate)
}

fn commitment(slot_key: &Secret, slot: &SlotId) -> [u8; 32] {
    let mut material = Zeroizing::new(slot_key.to_vec());
    material.extend_from_slice(slot.as_bytes());
    blake3::derive_key("mlvault v1 slot commitment", &material)
}

fn encode_secrets(secrets: &RoleSecrets) -> Vec<u8> {
    let mut plain = Vec::with_capacity(SECRETS_LEN);
    plain.extend_from_slice(&[secrets.role as u8, 0, 0, 0, 0, 0, 0, 0]);
    plain.extend_from_slice(&*secrets.meta);
    plain.extend_from_slice(&*secrets.signing_seed);
    for optional in [&secrets.data, &secrets.root_seed] {
        plain.extend_from_slice(optional.as_deref().unwrap_or(&[0; 32]));
    }
    plain.extend_from_slice(secrets.root_key.as_bytes());
    plain
}

/// Reads opened secrets; which of them are there must fit the role.
pub fn decode_secrets(plain: &[u8]) -> Result<RoleSecrets, FormatError> {
    let mut cursor = Cursor::new(plain);
    let role = Role::from_byte(cursor.u8()?)?;
    cursor.zeros(7)?;
    let mut secret = || Ok::<Secret, FormatError>(Zeroizing::new(cursor.array()?));
    let (meta, signing_seed, data, root_seed) = (secret()?, secret()?, secret()?, secret()?);
    let root_key = SignerKey::from_bytes(cursor.array()?);
    cursor.finish()?;
    let present = |mut secret: Secret| {
        if *secret == [0; 32] {
            secret.zeroize();
            None
        } else {
            Some(secret)
        }
    };
    let (data, root_seed) = (present(data), present(root_seed));
    let secrets = RoleSecrets { role, meta, signing_seed, data, root_seed, root_key };
    if secrets.data.is_some() != role.reads_content() || secrets.root_seed.is_some() != (role == Role::Maintainer) {
        return Err(FormatError::new("its secrets do not fit its role"));
    }
    Ok(secrets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::keys::new_secret;

    const REPOSITORY: RepositoryId = RepositoryId::from_bytes([1; 16]);

    fn writer_slot(credential: &Credential) -> (Vec<u8>, RoleSecrets, SignerKey) {
        let root_seed = new_secret();
        let secrets = RoleSecrets {
            role: Role::Writer,
            meta: new_secret(),
            signing_seed: new_secret(),
            data: None,
            root_seed: None,
            root_key: sign::signer_key(&root_seed),
        };
        let signer = sign::signer_key(&secrets.signing_seed);
        let slot = SlotId::from_bytes([7; 8]);
        let grant = Grant { slot, label: "cron", role: Role::Writer, created: Timestamp::UNIX_EPOCH, signer };
        let certificate = Certificate::issue(REPOSITORY, &root_seed, grant);
        let cost = Argon2Cost { memory_kib: Argon2Cost::MEMORY_KIB_MIN, passes: 1, lanes: 1 };
        let bytes = seal(REPOSITORY, credential, &cost, &secrets, &certificate).unwrap();
        (bytes, secrets, sign::signer_key(&root_seed))
    }

    #[test]
    fn a_slot_opens_with_its_own_passphrase_only() {
        let right = Credential::Passphrase(Zeroizing::new(b"correct horse".to_vec()));
        let wrong = Credential::Passphrase(Zeroizing::new(b"wrong horse".to_vec()));
        let (bytes, secrets, root) = writer_slot(&right);
        let opened = open(&bytes, &right).unwrap().unwrap();
        assert_eq!(opened.meta, secrets.meta);
        assert!(opened.data.is_none());
        assert!(open(&bytes, &wrong).unwrap().is_none());
        assert!(open(&bytes, &Credential::KeyFile(new_secret())).unwrap().is_none());
        let certificate = open_description(&bytes, &MetaKeys::new(opened.meta), REPOSITORY, &root).unwrap();
        assert_eq!((certificate.label.as_str(), certificate.role), ("cron", Role::Writer));
    }

    #[test]
    fn a_slot_that_no_maintainer_certified_is_refused() {
        let credential = Credential::KeyFile(new_secret());
        let (bytes, secrets, _) = writer_slot(&credential);
        let stranger = sign::signer_key(&new_secret());
        assert!(open_description(&bytes, &MetaKeys::new(secrets.meta), REPOSITORY, &stranger).is_err());
    }

    #[test]
    fn every_flipped_bit_of_a_slot_is_noticed() {
        let credential = Credential::KeyFile(new_secret());
        let (bytes, secrets, root) = writer_slot(&credential);
        let keys = MetaKeys::new(secrets.meta);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            let opened = open(&damaged, &credential).is_ok_and(|secrets| secrets.is_some());
            let described = open_description(&damaged, &keys, REPOSITORY, &root).is_ok();
            assert!(!opened && !described, "byte {at}");
            assert!(open(&bytes[..at], &credential).is_err(), "{at} bytes of it");
        }
    }
}
