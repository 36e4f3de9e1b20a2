//! The key material of a session, as every pack and index segment of that session carries it.
//!
//! ```text
//!   0  16  session id
//!  16   4  key generation: 1
//!  20   4  zero
//!  24   8  key slot of the writer
//!  32  32  meta salt: the session's meta key is derived from all of the above, it, and the meta secret
//!  64  32  HPKE encapsulated key (X25519)
//!  96  48  HPKE ciphertext of the session's data key
//! 144  32  commitment to the data key
//! 176
//! ```
//!
//! The slot tells whose session it claims to be. It proves nothing: whoever holds the meta secret can write any header.

use crate::crypto::keys::SEALED_KEY_LEN;
use crate::format::Cursor;
use crate::format_error::FormatError;
use crate::id::{SessionId, SlotId};

/// Length of an encoded session header in bytes.
pub const SESSION_HEADER_LEN: usize = BOUND_LEN + 32 + SEALED_KEY_LEN + 32;
/// The generation of keys that this program writes and reads.
pub const KEY_GENERATION: u32 = 1;
/// Length of the part that both keys of the session are bound to.
const BOUND_LEN: usize = 64;

/// What a reader needs to find a session's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionHeader {
    /// The session that wrote the chunks.
    pub session: SessionId,
    /// The key slot that it says it was written with.
    pub slot: SlotId,
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
        bytes[..BOUND_LEN].copy_from_slice(&bound(&self.session, &self.slot, &self.meta_salt));
        bytes[64..96].copy_from_slice(&self.enc);
        bytes[96..144].copy_from_slice(&self.sealed_key);
        bytes[144..].copy_from_slice(&self.commitment);
        bytes
    }

    /// Reads the stored form.
    pub fn decode(cursor: &mut Cursor<'_>) -> Result<Self, FormatError> {
        let session = SessionId::from_bytes(cursor.array()?);
        let generation = cursor.u32()?;
        if generation != KEY_GENERATION {
            return Err(FormatError::new(format!("it has keys of generation {generation}, this version reads 1")));
        }
        cursor.zeros(4)?;
        Ok(Self {
            session,
            slot: SlotId::from_bytes(cursor.array()?),
            meta_salt: cursor.array()?,
            enc: cursor.array()?,
            sealed_key: cursor.array()?,
            commitment: cursor.array()?,
        })
    }
}

/// Returns what both keys of a session are bound to: the first bytes of its header.
pub fn bound(session: &SessionId, slot: &SlotId, meta_salt: &[u8; 32]) -> [u8; BOUND_LEN] {
    let mut bytes = [0; BOUND_LEN];
    bytes[..16].copy_from_slice(session.as_bytes());
    bytes[16..20].copy_from_slice(&KEY_GENERATION.to_le_bytes());
    bytes[24..32].copy_from_slice(slot.as_bytes());
    bytes[32..].copy_from_slice(meta_salt);
    bytes
}
