//! Secrets that wipe themselves.
//!
//! What must stay true: a secret is neither shown nor written but sealed.

use zeroize::Zeroizing;

use crate::crypto::random;

/// Length of a key in bytes.
pub const KEY_LEN: usize = 32;

/// 32 secret bytes that wipe themselves.
pub type Secret = Zeroizing<[u8; KEY_LEN]>;

/// Draws a new secret.
pub fn new_secret() -> Secret {
    Zeroizing::new(random())
}
