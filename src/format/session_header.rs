//! The key material of a session, as every pack and index segment of that session carries it.
//!
//! ```text
//!   0  16  session id
//!  16  32  meta salt: the session's meta key is derived from it and the meta secret
//!  48  32  HPKE encapsulated key (X25519)
//!  80  48  HPKE ciphertext of the session's data key
//! 128  32  commitment to the data key
//! 160
//! ```

use crate::crypto::keys::SEALED_KEY_LEN;
use crate::format::Cursor;
use crate::format_error::FormatError;
use crate::id::SessionId;

/// Length of an encoded session header in bytes.
pub const SESSION_HEADER_LEN: usize = 16 + 32 + 32 + SEALED_KEY_LEN + 32;

/// What a reader needs to find a session's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionHeader {
    /// The session that wrote the chunks.
    pub session: SessionId,
    /// Tells the session's meta key.
    pub meta_salt: [u8; 32],
    /// Public half of the ephemeral key.
    pub enc: [u8; 32],
    /// The data key, sealed to the repository's public key.
    pub sealed_key: [u8; SEALED_KEY_LEN],
    /// Hash of the data key.
    pub commitment: [u8; 32],
}

impl SessionHeader {
    /// Returns the stored form.
    pub fn encode(&self) -> [u8; SESSION_HEADER_LEN] {
        let mut bytes = [0; SESSION_HEADER_LEN];
        bytes[..16].copy_from_slice(self.session.as_bytes());
        bytes[16..48].copy_from_slice(&self.meta_salt);
        bytes[48..80].copy_from_slice(&self.enc);
        bytes[80..128].copy_from_slice(&self.sealed_key);
        bytes[128..].copy_from_slice(&self.commitment);
        bytes
    }

    /// Reads the stored form.
    pub fn decode(cursor: &mut Cursor<'_>) -> Result<Self, FormatError> {
        Ok(Self {
            session: SessionId::from_bytes(cursor.array()?),
            meta_salt: cursor.array()?,
            enc: cursor.array()?,
            sealed_key: cursor.array()?,
            commitment: cursor.array()?,
        })
    }
}
