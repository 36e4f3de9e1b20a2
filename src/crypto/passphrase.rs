//! From what a person or a Kubernetes Secret holds to a key-encryption key.
//!
//! A passphrase goes through Argon2id (RFC 9106); a key file already holds 32 random bytes and is only salted.

use argon2::{Algorithm, Argon2, Params, Version};
use data_encoding::BASE32_NOPAD;
use zeroize::Zeroizing;

use crate::crypto::keys::{Secret, new_secret};
use crate::format_error::FormatError;
use crate::id::{Pin, SlotId};

/// Shortest passphrase that `init` and `key add` accept, in bytes.
pub const PASSPHRASE_LEN_MIN: usize = 8;

/// Cost of Argon2id. The default is the second recommended option of RFC 9106, section 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argon2Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Default for Argon2Cost {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Argon2Cost {
    const DEFAULT: Self = Self { memory_kib: 64 * 1024, passes: 3, lanes: 4 };
    /// The default cost as work.
    pub const DEFAULT_WORK: u64 = Self::DEFAULT.work();
    /// Least memory that a slot may ask for: less would be too easy to guess.
    pub const MEMORY_KIB_MIN: u32 = 19 * 1024;
    /// Most memory that a slot may ask for: more would let a hostile slot exhaust the machine.
    pub const MEMORY_KIB_MAX: u32 = 2 * 1024 * 1024;
    /// Most passes and lanes that a slot may ask for.
    pub const PASSES_MAX: u32 = 16;

    /// Returns how much memory is passed over, in KiB.
    pub const fn work(&self) -> u64 {
        self.memory_kib as u64 * self.passes as u64
    }

    /// Refuses costs outside the limits. Must be called before any derivation with a stored cost.
    pub fn check(&self) -> Result<(), FormatError> {
        let sound = (Self::MEMORY_KIB_MIN..=Self::MEMORY_KIB_MAX).contains(&self.memory_kib)
            && (1..=Self::PASSES_MAX).contains(&self.passes)
            && (1..=Self::PASSES_MAX).contains(&self.lanes);
        if sound { Ok(()) } else { Err(FormatError::new("the Argon2 cost is outside the accepted limits")) }
    }
}

/// What opens a key slot.
#[derive(Clone)]
pub enum Credential {
    /// Words that a person knows.
    Passphrase(Zeroizing<Vec<u8>>),
    /// 32 random bytes from a key file or a recovery key.
    KeyFile(Secret),
}

impl Credential {
    /// Draws a new key file. Who loses it and every other key loses the repository: see [`KeyFile`].
    pub fn new_key_file() -> Self {
        Self::KeyFile(new_secret())
    }

    /// Returns the key-encryption key of a slot.
    pub fn slot_key(&self, salt: &[u8; 16], cost: &Argon2Cost) -> Result<Secret, FormatError> {
        match self {
            Self::KeyFile(secret) => {
                let mut material = Zeroizing::new(secret.to_vec());
                material.extend_from_slice(salt);
                Ok(Zeroizing::new(blake3::derive_key("mlvault v1 key file slot", &material)))
            }
            Self::Passphrase(words) => {
                cost.check()?;
                let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32))
                    .map_err(|error| FormatError::new(error.to_string()))?;
                let mut key = Zeroizing::new([0; 32]);
                Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                    .hash_password_into(words, salt, &mut *key)
                    .map_err(|error| FormatError::new(error.to_string()))?;
                Ok(key)
            }
        }
    }
}

/// What the text of a key file begins with: without a hint, and with one.
const PREFIXES: [&str; 2] = ["MLVK1", "MLVK2"];
/// Bytes of checksum at the end.
const CHECKSUM_LEN: usize = 4;
/// Digits between two dashes.
const GROUP_LEN: usize = 6;

/// Which repository a key file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyHint {
    /// The slot that it opens.
    pub slot: SlotId,
    /// The repository's pin.
    pub pin: Pin,
}

/// What a key file says.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyFile {
    /// What opens a slot.
    pub secret: Secret,
    /// Which one, and of which repository; unknown if the key was made before there was a repository.
    pub hint: Option<KeyHint>,
}

impl KeyFile {
    /// Makes the key file of a key that is for no repository yet.
    pub fn new(secret: Secret) -> Self {
        Self { secret, hint: None }
    }

    /// Returns the line of text that stands in the file: `MLVK1-` or `MLVK2-`, and base32 of the secret, the hint if there
    /// is one, and four bytes of checksum, in groups.
    pub fn encode(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(self.secret.to_vec());
        if let Some(hint) = &self.hint {
            bytes.extend_from_slice(hint.slot.as_bytes());
            bytes.extend_from_slice(hint.pin.as_bytes());
        }
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(&checksum.as_bytes()[..CHECKSUM_LEN]);
        let digits = Zeroizing::new(BASE32_NOPAD.encode(&bytes));
        let mut text = Zeroizing::new(PREFIXES[usize::from(self.hint.is_some())].to_owned());
        for (at, digit) in digits.chars().enumerate() {
            if at % GROUP_LEN == 0 {
                text.push('-');
            }
            text.push(digit);
        }
        text
    }

    /// Reads what [`KeyFile::encode`] wrote; white space, dashes and case do not matter.
    pub fn decode(text: &str) -> Result<Self, FormatError> {
        Self::decode_squeezed(&squeeze(text)).ok_or_else(|| {
            FormatError::new("it is not a mlvault key (MLVK1-… or MLVK2-…), or a digit is wrong or missing")
        })
    }

    fn decode_squeezed(text: &str) -> Option<Self> {
        let [plain, hinted] = PREFIXES.map(|prefix| text.strip_prefix(prefix));
        let bytes = Zeroizing::new(BASE32_NOPAD.decode(plain.or(hinted)?.as_bytes()).ok()?);
        let (content, checksum) = bytes.split_last_chunk::<CHECKSUM_LEN>()?;
        if blake3::hash(content).as_bytes()[..CHECKSUM_LEN] != checksum[..] {
            return None;
        }
        let (secret, rest) = content.split_first_chunk()?;
        let secret = Zeroizing::new(*secret);
        if plain.is_some() {
            return rest.is_empty().then(|| Self::new(secret));
        }
        let (slot, rest) = rest.split_first_chunk()?;
        let hint = KeyHint { slot: SlotId::from_bytes(*slot), pin: Pin::from_bytes(rest.try_into().ok()?) };
        Some(Self { secret, hint: Some(hint) })
    }
}

/// Returns a key without what does not matter.
fn squeeze(text: &str) -> Zeroizing<String> {
    let digits = text.chars().filter(|c| !c.is_whitespace() && *c != '-');
    Zeroizing::new(digits.flat_map(char::to_uppercase).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_files() -> [KeyFile; 2] {
        let secret: Secret = Zeroizing::new(core::array::from_fn(|i| i as u8));
        let hint = KeyHint { slot: SlotId::from_bytes([0xA5; 8]), pin: Pin::from_bytes([0x3C; 16]) };
        [KeyFile::new(secret.clone()), KeyFile { secret, hint: Some(hint) }]
    }

    #[test]
    fn a_key_file_survives_being_typed_in_by_hand() {
        for (key, prefix) in key_files().into_iter().zip(PREFIXES) {
            let text = key.encode();
            let typed = text.to_lowercase().replace('-', " ");
            assert!(text.starts_with(&format!("{prefix}-")));
            assert!(KeyFile::decode(&typed).unwrap() == key);
        }
    }

    #[test]
    fn a_wrong_or_missing_digit_in_a_key_file_is_noticed() {
        for key in key_files() {
            let text = key.encode();
            for (at, digit) in text.char_indices().skip(PREFIXES[0].len()).filter(|(_, digit)| *digit != '-') {
                let other = if digit == 'A' { 'B' } else { 'A' };
                let wrong = format!("{}{other}{}", &text[..at], &text[at + 1..]);
                assert!(KeyFile::decode(&wrong).is_err(), "{wrong}");
                assert!(KeyFile::decode(&text[..at]).is_err(), "{}", &text[..at]);
            }
            assert!(KeyFile::decode(&text.replace("MLVK1", "MLVK3").replace("MLVK2", "MLVK1")).is_err());
        }
        for text in ["", "MLVK1-", "MLVK2-", "MLVK2-ıı"] {
            assert!(KeyFile::decode(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_hostile_slot_cannot_ask_for_all_memory() {
        let greedy = Argon2Cost { memory_kib: u32::MAX, ..Argon2Cost::default() };
        let credential = Credential::Passphrase(Zeroizing::new(b"correct horse".to_vec()));
        assert!(credential.slot_key(&[0; 16], &greedy).is_err());
        let weak = Argon2Cost { memory_kib: 8, ..Argon2Cost::default() };
        assert!(credential.slot_key(&[0; 16], &weak).is_err());
    }
}
