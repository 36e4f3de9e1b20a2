//! The key that signs models for tools of OpenSSF Model Signing, which take keys on the curve P-256 and not on Ed25519.
//!
//! What must stay true: it follows from the signing seed of a key slot, so that a slot has one, and nobody else has it; it is no
//! key of the repository: what makes it count is the statement, signed with the slot's own key, that names it.

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use data_encoding::BASE64;
use zeroize::Zeroizing;

use crate::crypto::keys::Secret;

/// What stands before the point in the DER of a public key on P-256 (RFC 5480).
const PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Length of a line in PEM (RFC 7468).
const PEM_LINE: usize = 64;
/// Numbers that are drawn until one is a key; all but one of 2^32 are.
const DRAWS_MAX: usize = 16;

/// A key pair.
pub struct ModelKey {
    pair: EcdsaKeyPair,
    public: Vec<u8>,
}

impl ModelKey {
    /// Derives the key pair of a slot.
    ///
    /// # Panics
    /// Never in practice: sixteen hashes in a row would all have to be above the order of the curve.
    pub fn of(seed: &Secret) -> Self {
        let mut scalar = Zeroizing::new(blake3::derive_key("mlvault v2 model signing", &**seed));
        for _ in 0..DRAWS_MAX {
            if let Some(key) = Self::from_scalar(&scalar) {
                return key;
            }
            scalar = Zeroizing::new(blake3::derive_key("mlvault v2 model signing", &*scalar));
        }
        unreachable!("a hash is a key of P-256 but once in 2^32 times")
    }

    fn from_scalar(scalar: &[u8; 32]) -> Option<Self> {
        let private = PrivateKey::from_private_key(&ECDH_P256, scalar).ok()?;
        let public = private.compute_public_key().ok()?.as_ref().to_vec();
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let pair = EcdsaKeyPair::from_private_key_and_public_key(algorithm, scalar, &public).ok()?;
        Some(Self { pair, public })
    }

    /// Returns the public key as PEM, in the form that OpenSSL writes.
    pub fn public_pem(&self) -> String {
        let text = BASE64.encode(&[&PREFIX[..], &self.public].concat());
        let lines: Vec<&str> =
            text.as_bytes().chunks(PEM_LINE).filter_map(|line| std::str::from_utf8(line).ok()).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    /// Signs a message: ECDSA with SHA-256, in DER.
    ///
    /// # Panics
    /// If the operating system has no randomness to give.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature = self.pair.sign(&SystemRandom::new(), message);
        signature.expect("the operating system gives random bytes").as_ref().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

    use super::*;

    #[test]
    fn a_seed_has_one_key_and_its_signatures_hold() {
        let key = ModelKey::of(&Zeroizing::new([7; 32]));
        assert_eq!(key.public_pem(), ModelKey::of(&Zeroizing::new([7; 32])).public_pem());
        assert_ne!(key.public_pem(), ModelKey::of(&Zeroizing::new([8; 32])).public_pem());
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &key.public);
        public.verify(b"message", &key.sign(b"message")).unwrap();
        assert!(public.verify(b"other", &key.sign(b"message")).is_err());
    }
}
