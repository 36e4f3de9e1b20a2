//! Secrets and what is done with them: sealing, key derivation, sealing to a public key, signatures, passphrases.
//!
//! What must stay true: secrets live in types that wipe themselves, have no `Debug` that shows them and are never
//! copied into messages; every derived key has its own context string, listed in `docs/format.md`.

pub mod file_digests;
pub mod keys;
pub mod merkle;
pub mod model_key;
pub mod passphrase;
pub mod seal;
pub mod secret;
pub mod sign;

/// Fills an array from the operating system's random generator.
///
/// # Panics
/// If the operating system has no randomness to give: nothing sensible can be done without it.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}
