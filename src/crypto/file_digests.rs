//! The digests of a file that others compare, computed in one pass.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use crate::id::{Digest, Sha256Digest};
use crate::units::KIB;

const BUFFER_BYTES: usize = 256 * KIB as usize;

/// Returns the digests of all that can be read.
pub fn of(mut content: impl Read) -> io::Result<(Sha256Digest, Digest)> {
    let (mut sha256, mut blake3, mut buffer) = (Sha256::new(), blake3::Hasher::new(), vec![0; BUFFER_BYTES]);
    loop {
        let len = content.read(&mut buffer)?;
        if len == 0 {
            return Ok((
                Sha256Digest::from_bytes(sha256.finalize().into()),
                Digest::from_bytes(*blake3.finalize().as_bytes()),
            ));
        }
        let piece = buffer.get(..len).unwrap_or_default();
        sha256.update(piece);
        blake3.update(piece);
    }
}

/// Returns the SHA-256 of bytes.
pub fn sha256(bytes: &[u8]) -> Sha256Digest {
    Sha256Digest::from_bytes(Sha256::digest(bytes).into())
}
