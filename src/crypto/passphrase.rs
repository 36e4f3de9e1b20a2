//! From what a person or a Kubernetes Secret holds to a key-encryption key.
//!
//! A passphrase goes through Argon2id (RFC 9106); a key file already holds 32 random bytes and is only salted.

use argon2::{Algorithm, Argon2, Params, Version};
use data_encoding::BASE32_NOPAD;
use zeroize::Zeroizing;

use crate::crypto::keys::{Secret, new_secret};
use crate::format_error::FormatError;

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
        Self { memory_kib: 64 * 1024, passes: 3, lanes: 4 }
    }
}

impl Argon2Cost {
    /// Least memory that a slot may ask for: less would be too easy to guess.
    pub const MEMORY_KIB_MIN: u32 = 19 * 1024;
    /// Most memory that a slot may ask for: more would let a hostile slot exhaust the machine.
    pub const MEMORY_KIB_MAX: u32 = 2 * 1024 * 1024;
    /// Most passes and lanes that a slot may ask for.
    pub const PASSES_MAX: u32 = 16;

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
    /// Draws a new key file. Who loses it and every other key loses the repository: see [`encode_key_file`].
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

/// What every key file begins with.
const KEY_FILE_PREFIX: &str = "MLVK1-";
/// Bytes of checksum after the secret.
const CHECKSUM_LEN: usize = 4;

/// Writes a secret as a line of text: `MLVK1-` and base32 of the secret and four bytes of checksum, in groups.
pub fn encode_key_file(secret: &Secret) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new(secret.to_vec());
    bytes.extend_from_slice(&blake3::hash(&**secret).as_bytes()[..CHECKSUM_LEN]);
    let digits = Zeroizing::new(BASE32_NOPAD.encode(&bytes));
    let mut text = Zeroizing::new(KEY_FILE_PREFIX.to_owned());
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && at % 6 == 0 {
            text.push('-');
        }
        text.push(digit);
    }
    text
}

/// Reads what [`encode_key_file`] wrote; white space, dashes and case do not matter.
pub fn decode_key_file(text: &str) -> Result<Secret, FormatError> {
    let fault = || FormatError::new("it is not a mlvault key (MLVK1-…), or a digit is wrong or missing");
    let squeezed: Zeroizing<String> =
        Zeroizing::new(text.chars().filter(|c| !c.is_whitespace() && *c != '-').collect::<String>().to_uppercase());
    let digits = squeezed.strip_prefix("MLVK1").ok_or_else(fault)?;
    let bytes = Zeroizing::new(BASE32_NOPAD.decode(digits.as_bytes()).map_err(|_| fault())?);
    let (secret, checksum) = bytes.split_first_chunk::<32>().ok_or_else(fault)?;
    if checksum != &blake3::hash(secret).as_bytes()[..CHECKSUM_LEN] {
        return Err(fault());
    }
    Ok(Zeroizing::new(*secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_survives_being_typed_in_by_hand() {
        let secret: Secret = Zeroizing::new(core::array::from_fn(|i| i as u8));
        let text = encode_key_file(&secret);
        let typed = text.to_lowercase().replace('-', " ").replace("mlvk1 ", "MLVK1-");
        assert_eq!(decode_key_file(&typed).unwrap(), secret);
    }

    #[test]
    fn a_wrong_digit_in_a_key_file_is_noticed() {
        let text = encode_key_file(&Zeroizing::new([9; 32]));
        let wrong = text.replacen('E', "F", 1);
        assert_ne!(*text, wrong);
        assert!(decode_key_file(&wrong).is_err());
        assert!(decode_key_file("").is_err());
        assert!(decode_key_file("MLVK1-").is_err());
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
