//! AES-256-GCM (NIST SP 800-38D) under counter nonces.
//!
//! What must stay true: no (key, counter) pair is ever used for two different messages. Keys are drawn at random for
//! one session or derived for one object, and a session's counter only moves forward ([`NonceCounter`]).

use std::sync::atomic::{AtomicU64, Ordering};

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit, Nonce};

use crate::format_error::FormatError;

/// Length of a key in bytes.
pub const KEY_LEN: usize = 32;
/// Length of the authentication tag in bytes.
pub const TAG_LEN: usize = 16;

/// The bytes are not what was sealed under this key, counter and associated data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it does not authenticate")]
pub struct NotAuthentic;

impl From<NotAuthentic> for FormatError {
    fn from(error: NotAuthentic) -> Self {
        Self::new(error.to_string())
    }
}

/// Seals and opens messages under one key. The key wipes itself when dropped.
pub struct Cipher(Aes256Gcm);

impl Cipher {
    /// Prepares a key.
    pub fn new(key: &[u8; KEY_LEN]) -> Self {
        Self(Aes256Gcm::new(key.into()))
    }

    /// Encrypts `message` in place and returns its tag.
    ///
    /// # Panics
    /// On messages of 64 GiB and more, which nothing here makes.
    pub fn seal_in_place(&self, counter: u64, associated: &[u8], message: &mut [u8]) -> [u8; TAG_LEN] {
        self.0
            .encrypt_inout_detached(&nonce(counter), associated, InOutBuf::from(message))
            .expect("messages are far below the limit of AES-GCM")
            .into()
    }

    /// Decrypts `message` in place. On failure its content is unspecified.
    pub fn open_in_place(
        &self,
        counter: u64,
        associated: &[u8],
        message: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), NotAuthentic> {
        self.0
            .decrypt_inout_detached(&nonce(counter), associated, InOutBuf::from(message), tag.into())
            .map_err(|_| NotAuthentic)
    }

    /// Appends the tag to the encrypted `message`.
    pub fn seal(&self, counter: u64, associated: &[u8], mut message: Vec<u8>) -> Vec<u8> {
        // The tag covers the associated data too: what is sealed for one place does not open in another.
        let tag = self.seal_in_place(counter, associated, &mut message);
        message.extend_from_slice(&tag);
        message
    }

    /// Opens what [`Cipher::seal`] made.
    pub fn open(&self, counter: u64, associated: &[u8], sealed: &[u8]) -> Result<Vec<u8>, NotAuthentic> {
        let (message, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(NotAuthentic)?;
        let mut message = message.to_vec();
        self.open_in_place(counter, associated, &mut message, tag)?;
        Ok(message)
    }
}

/// Four zero bytes, then the counter, big-endian.
fn nonce(counter: u64) -> Nonce<aes_gcm::aead::consts::U12> {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    bytes.into()
}

/// Hands out each number once.
#[derive(Debug, Default)]
pub struct NonceCounter(AtomicU64);

impl NonceCounter {
    /// Returns the next number.
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test case 14 of the GCM specification (McGrew, Viega): zero key, zero nonce, sixteen zero bytes.
    #[test]
    fn sealing_agrees_with_the_published_vector() {
        let sealed = Cipher::new(&[0; 32]).seal(0, b"", vec![0; 16]);
        let expected = "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919";
        assert_eq!(data_encoding::HEXLOWER.encode(&sealed), expected);
    }

    #[test]
    fn what_was_sealed_opens_and_nothing_else_does() {
        let cipher = Cipher::new(&[7; 32]);
        let sealed = cipher.seal(3, b"about", b"message".to_vec());
        assert_eq!(cipher.open(3, b"about", &sealed).unwrap(), b"message");
        assert_eq!(cipher.open(4, b"about", &sealed), Err(NotAuthentic));
        assert_eq!(cipher.open(3, b"other", &sealed), Err(NotAuthentic));
        assert_eq!(cipher.open(3, b"about", &sealed[..15]), Err(NotAuthentic));
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_eq!(cipher.open(3, b"about", &damaged), Err(NotAuthentic));
        }
    }
}
