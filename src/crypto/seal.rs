//! AES-256-GCM (NIST SP 800-38D), with a key for each message.
//!
//! What must stay true: no key ever seals two different messages, so the nonce is always zero. The key of a message is
//! derived from a session's or an object's key and from what the message *is*: a chunk's name is the keyed hash of its
//! content, and other messages have a salt that is one ([`MessageKey::salt`]). So even a machine that is cloned while it
//! writes, and goes on twice with the same secrets, only ever seals the same message twice: nothing counts.

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};

use crate::crypto::secret::{KEY_LEN, Secret};
use crate::format_error::FormatError;

/// Each key has one message.
const NONCE: [u8; 12] = [0; 12];
/// Length of the authentication tag in bytes.
pub const TAG_LEN: usize = 16;

/// Length of a synthetic salt in bytes.
pub const SALT_LEN: usize = 16;

/// The bytes are not what was sealed under this key and associated data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it does not authenticate")]
pub struct NotAuthentic;

impl From<NotAuthentic> for FormatError {
    fn from(error: NotAuthentic) -> Self {
        Self::new(error.to_string())
    }
}

/// The key of a session's messages of one kind: each message gets a key of its own from it.
pub struct MessageKey(Secret);

impl MessageKey {
    /// Takes a secret that serves nothing else.
    pub fn new(secret: Secret) -> Self {
        Self(secret)
    }

    /// Returns the cipher of the one message that these bytes tell: two messages must never have the same.
    pub fn cipher(&self, message: &[u8]) -> Cipher {
        Cipher::new(blake3::keyed_hash(&self.0, message).as_bytes())
    }

    /// Returns a salt that only this content in this place has; it says nothing of either without the key.
    pub fn salt(&self, place: &[u8], content: &[u8]) -> [u8; SALT_LEN] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(b"salt");
        hasher.update(&(place.len() as u64).to_le_bytes());
        hasher.update(place);
        hasher.update(content);
        *hasher.finalize().as_bytes().first_chunk().expect("a hash has 32 bytes")
    }
}

/// Seals and opens the one message of a key. The key wipes itself when dropped.
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
    pub fn seal_in_place(&self, associated: &[u8], message: &mut [u8]) -> [u8; TAG_LEN] {
        self.0
            .encrypt_inout_detached(&NONCE.into(), associated, InOutBuf::from(message))
            .expect("messages are far below the limit of AES-GCM")
            .into()
    }

    /// Decrypts `message` in place. On failure its content is unspecified.
    pub fn open_in_place(
        &self,
        associated: &[u8],
        message: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), NotAuthentic> {
        self.0
            .decrypt_inout_detached(&NONCE.into(), associated, InOutBuf::from(message), tag.into())
            .map_err(|_| NotAuthentic)
    }

    /// Appends the tag to the encrypted `message`.
    pub fn seal(&self, associated: &[u8], mut message: Vec<u8>) -> Vec<u8> {
        // The tag covers the associated data too: what is sealed for one place does not open in another.
        let tag = self.seal_in_place(associated, &mut message);
        message.extend_from_slice(&tag);
        message
    }

    /// Opens what [`Cipher::seal`] made.
    pub fn open(&self, associated: &[u8], sealed: &[u8]) -> Result<Vec<u8>, NotAuthentic> {
        let mut message = sealed.to_vec();
        self.open_vec(associated, &mut message)?;
        Ok(message)
    }

    /// Decrypts in place what [`Cipher::seal`] made, and takes the tag off. On failure its content is unspecified.
    pub fn open_vec(&self, associated: &[u8], sealed: &mut Vec<u8>) -> Result<(), NotAuthentic> {
        let (message, tag) = sealed.split_last_chunk_mut::<TAG_LEN>().ok_or(NotAuthentic)?;
        self.open_in_place(associated, message, tag)?;
        sealed.truncate(sealed.len() - TAG_LEN);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test case 14 of the GCM specification (McGrew, Viega): zero key, zero nonce, sixteen zero bytes.
    #[test]
    fn sealing_agrees_with_the_published_vector() {
        let sealed = Cipher::new(&[0; 32]).seal(b"", vec![0; 16]);
        let expected = "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919";
        assert_eq!(data_encoding::HEXLOWER.encode(&sealed), expected);
    }

    #[test]
    fn what_was_sealed_opens_and_nothing_else_does() {
        let cipher = Cipher::new(&[7; 32]);
        let sealed = cipher.seal(b"about", b"message".to_vec());
        assert_eq!(cipher.open(b"about", &sealed).unwrap(), b"message");
        assert_eq!(cipher.open(b"other", &sealed), Err(NotAuthentic));
        assert_eq!(cipher.open(b"about", &sealed[..15]), Err(NotAuthentic));
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_eq!(cipher.open(b"about", &damaged), Err(NotAuthentic));
        }
    }

    #[test]
    fn each_message_has_a_key_and_a_salt_of_its_own() {
        let key = MessageKey::new(zeroize::Zeroizing::new([7; 32]));
        let sealed = key.cipher(b"one").seal(b"", b"message".to_vec());
        assert_eq!(key.cipher(b"one").open(b"", &sealed).unwrap(), b"message");
        assert_eq!(key.cipher(b"two").open(b"", &sealed), Err(NotAuthentic));
        assert_eq!(key.salt(b"a", b"bc"), key.salt(b"a", b"bc"));
        assert_ne!(key.salt(b"a", b"bc"), key.salt(b"ab", b"c"));
    }
}
