//! The repository's parameters: the object `config`, written once by `init`, read first by everyone.
//!
//! ```text
//!   0  64  Ed25519 signature of the root key over repository id and JSON
//!  64   …  JSON
//! ```
//!
//! Its envelope tells the repository id in the clear. The root key is learnt from the key slot that was opened, so that
//! nobody, not even the holder of a writer key, can change how clients chunk, or whose public key they seal to.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::crypto::keys::{DataPublicKey, Secret};
use crate::crypto::sign::{self, Domain, SIGNATURE_LEN};
use crate::format::FORMAT_VERSION;
use crate::format::chunk::CHUNK_LEN_MAX;
use crate::format::pack::PACK_LEN_MAX;
use crate::format_error::FormatError;
use crate::id::{Pin, RepositoryId, SignerKey};
use crate::units::{KIB, MIB};

/// Sizes between which FastCDC cuts one class of content, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkSizes {
    /// No chunk but the last of a file is smaller.
    pub min: u32,
    /// What chunks come to on average; a power of two.
    pub average: u32,
    /// No chunk is larger.
    pub max: u32,
}

/// Chunk sizes per class of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkProfiles {
    /// Dumps, tables, JSON: small changes all over.
    pub text: ChunkSizes,
    /// Weights, images, archives.
    pub binary: ChunkSizes,
}

impl Default for ChunkProfiles {
    fn default() -> Self {
        let sizes =
            |average: u64| ChunkSizes { min: (average / 4) as u32, average: average as u32, max: (average * 4) as u32 };
        Self { text: sizes(64 * KIB), binary: sizes(256 * KIB) }
    }
}

/// Everything that all clients of a repository must agree on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositoryConfig {
    /// Format version.
    pub format: u8,
    /// The repository's name.
    pub repository: RepositoryId,
    /// When `init` ran, by its clock.
    pub created: Timestamp,
    /// Public half of the data key pair, hexadecimal.
    #[serde(with = "hex_key")]
    pub data_public_key: DataPublicKey,
    /// The key that certifies key slots.
    pub root_key: SignerKey,
    /// Where content is cut.
    pub chunk_profiles: ChunkProfiles,
    /// Least size of a data pack in bytes; packs grow with the repository.
    pub pack_bytes: u32,
    /// Whether create-only writes were honoured when `init` probed the backend.
    pub create_only: bool,
}

/// Returns the pin of the repository that this root key signs for.
pub fn pin(repository: RepositoryId, root_key: &SignerKey) -> Pin {
    let material = [&repository.as_bytes()[..], root_key.as_bytes()].concat();
    let hash = blake3::derive_key("mlvault v2 pin", &material);
    Pin::from_bytes(*hash.first_chunk().expect("a hash is longer than a pin"))
}

impl RepositoryConfig {
    /// Smallest pack size that can be set, in bytes.
    pub const PACK_BYTES_MIN: u32 = MIB as u32;
    /// Default pack size in bytes.
    pub const PACK_BYTES: u32 = 32 * MIB as u32;

    /// Returns what tells the repository from one that somebody put in its place.
    pub fn pin(&self) -> Pin {
        pin(self.repository, &self.root_key)
    }

    /// Returns the length of the longest chunk that this repository's chunker makes, in bytes.
    pub fn chunk_len_max(&self) -> u64 {
        u64::from(self.chunk_profiles.text.max.max(self.chunk_profiles.binary.max))
    }

    /// Returns the stored form of the body, signed with the root key.
    pub fn sign(&self, root_seed: &Secret) -> Vec<u8> {
        let json = self.encode();
        let signature = sign::sign(root_seed, Domain::Config, &[self.repository.as_bytes(), &json]);
        [&signature[..], &json].concat()
    }

    /// Reads the stored form of the body of this repository's `config`, and verifies that the root key signed it.
    pub fn verify(body: &[u8], repository: RepositoryId, root_key: &SignerKey) -> Result<Self, FormatError> {
        let (signature, json) =
            body.split_first_chunk::<SIGNATURE_LEN>().ok_or_else(|| FormatError::new("it ends early"))?;
        if !sign::verify(root_key, Domain::Config, &[repository.as_bytes(), json], signature) {
            return Err(FormatError::new("the root key did not sign it"));
        }
        let config = Self::decode(json)?;
        if config.repository != repository || config.root_key != *root_key {
            return Err(FormatError::new("it names another repository or root key"));
        }
        Ok(config)
    }

    /// Returns the JSON part of the body.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a configuration is always representable as JSON")
    }

    /// Reads the JSON part of the body; values outside the limits are refused.
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let config: Self = serde_json::from_slice(body).map_err(|error| FormatError::new(error.to_string()))?;
        if config.format != FORMAT_VERSION {
            return Err(FormatError::new(format!("it has format {}", config.format)));
        }
        check_sizes(&config.chunk_profiles.text)?;
        check_sizes(&config.chunk_profiles.binary)?;
        if !(Self::PACK_BYTES_MIN..=(PACK_LEN_MAX / 2) as u32).contains(&config.pack_bytes) {
            return Err(FormatError::new("its pack size is out of bounds"));
        }
        if !config.data_public_key.is_sound() {
            return Err(FormatError::new("its public key is unusable"));
        }
        Ok(config)
    }
}

/// FastCDC's own limits, and ours: `cut_gear` checks nothing in release builds.
fn check_sizes(sizes: &ChunkSizes) -> Result<(), FormatError> {
    let sound = sizes.average.is_power_of_two()
        && (KIB as u32..=4 * MIB as u32).contains(&sizes.average)
        && sizes.min.is_multiple_of(2)
        && sizes.max.is_multiple_of(2)
        && sizes.min >= 64
        && sizes.min < sizes.average
        && sizes.average < sizes.max
        && sizes.max as usize <= CHUNK_LEN_MAX;
    if sound { Ok(()) } else { Err(FormatError::new("its chunk sizes are out of bounds")) }
}

mod hex_key {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::crypto::keys::DataPublicKey;
    use crate::id::SignerKey;

    pub fn serialize<S: Serializer>(key: &DataPublicKey, serializer: S) -> Result<S::Ok, S::Error> {
        SignerKey::from_bytes(key.0).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DataPublicKey, D::Error> {
        SignerKey::deserialize(deserializer).map(|key| DataPublicKey(*key.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::keys::new_secret;

    fn config() -> RepositoryConfig {
        RepositoryConfig {
            format: FORMAT_VERSION,
            repository: RepositoryId::from_bytes([1; 16]),
            created: Timestamp::UNIX_EPOCH,
            data_public_key: DataPublicKey([2; 32]),
            root_key: SignerKey::from_bytes([3; 32]),
            chunk_profiles: ChunkProfiles::default(),
            pack_bytes: RepositoryConfig::PACK_BYTES,
            create_only: true,
        }
    }

    #[test]
    fn a_configuration_survives_encoding() {
        assert_eq!(RepositoryConfig::decode(&config().encode()), Ok(config()));
    }

    #[test]
    fn only_the_root_key_of_the_slot_vouches_for_a_configuration() {
        let (root_seed, other_seed) = (new_secret(), new_secret());
        let config = RepositoryConfig { root_key: sign::signer_key(&root_seed), ..config() };
        let verify = |body: &[u8]| RepositoryConfig::verify(body, config.repository, &config.root_key);
        assert_eq!(verify(&config.sign(&root_seed)), Ok(config.clone()));
        assert!(verify(&config.sign(&other_seed)).is_err());
        let mut changed = config.sign(&root_seed);
        *changed.last_mut().unwrap() ^= 1;
        assert!(verify(&changed).is_err());
        let forged = RepositoryConfig { root_key: sign::signer_key(&other_seed), ..config.clone() };
        assert!(verify(&forged.sign(&root_seed)).is_err());
    }

    #[test]
    fn sizes_that_would_break_the_chunker_are_refused() {
        for sizes in [
            ChunkSizes { min: 1 << 18, average: (1 << 20) + 2, max: 1 << 22 },
            ChunkSizes { min: 3, average: 1 << 20, max: 1 << 22 },
            ChunkSizes { min: 1 << 20, average: 1 << 20, max: 1 << 20 },
            ChunkSizes { min: 1 << 18, average: 1 << 20, max: 1 << 30 },
        ] {
            let mut config = config();
            config.chunk_profiles.binary = sizes;
            assert!(RepositoryConfig::decode(&config.encode()).is_err(), "{sizes:?}");
        }
    }
}
