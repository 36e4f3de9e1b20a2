//! The digests of a file that others compare, computed in one pass.

use sha2::{Digest as _, Sha256};

use crate::id::{Digest, Sha256Digest};

/// Takes in content, piece by piece.
#[derive(Default)]
pub struct FileDigests {
    sha256: Sha256,
    blake3: blake3::Hasher,
}

impl FileDigests {
    /// Takes in the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.blake3.update(bytes);
    }

    /// Returns the digests of all of it.
    pub fn finish(self) -> (Sha256Digest, Digest) {
        let blake3 = Digest::from_bytes(*self.blake3.finalize().as_bytes());
        (Sha256Digest::from_bytes(self.sha256.finalize().into()), blake3)
    }
}

/// Returns the SHA-256 of bytes.
pub fn sha256(bytes: &[u8]) -> Sha256Digest {
    Sha256Digest::from_bytes(Sha256::digest(bytes).into())
}
