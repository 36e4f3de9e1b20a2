//! The keys of a session: drawn by who writes it, found again from its header by who reads it.
//!
//! What must stay true: the data key leaves the process only sealed to the repository's public key, bound to repository,
//! session and salt; who opens it compares it with the commitment before anything is opened with it.

use crate::crypto::keys::{DataPublicKey, MetaKeys, SealedKey, Secret, new_secret};
use crate::crypto::random;
use crate::crypto::seal::{Cipher, NonceCounter, NotAuthentic};
use crate::format::session_header::SessionHeader;
use crate::id::{RepositoryId, SessionId};

/// The keys of a session that is being written. Each counter serves one key for the life of the process.
pub struct SessionKeys {
    /// What readers need to find the same keys; stored in every pack and index segment.
    pub header: SessionHeader,
    /// Seals content.
    pub data: Cipher,
    /// Counts messages under `data`.
    pub data_counter: NonceCounter,
    /// Seals trees, catalogues and pack directories.
    pub meta: Cipher,
    /// Counts messages under `meta`.
    pub meta_counter: NonceCounter,
}

impl SessionKeys {
    /// Draws the keys of a new session.
    pub fn create(repository: RepositoryId, session: SessionId, keys: &MetaKeys, public: &DataPublicKey) -> Self {
        // Both are drawn anew even if a session id came twice: counters that begin at 0 then still count under new keys.
        let data_key = new_secret();
        let meta_salt = random();
        let SealedKey { enc, sealed } =
            SealedKey::seal(&data_key, public, keys, &info(repository, session, &meta_salt));
        let header = SessionHeader { session, meta_salt, enc, sealed_key: sealed, commitment: commitment(&data_key) };
        Self {
            data: Cipher::new(&data_key),
            data_counter: NonceCounter::default(),
            meta: keys.session_cipher(&session, &meta_salt),
            meta_counter: NonceCounter::default(),
            header,
        }
    }
}

impl SessionHeader {
    /// Returns the cipher that opens the session's meta packs and pack directories.
    pub fn meta_cipher(&self, keys: &MetaKeys) -> Cipher {
        keys.session_cipher(&self.session, &self.meta_salt)
    }

    /// Returns the cipher that opens the session's content; fails where the header is not authentic.
    pub fn data_cipher(
        &self,
        repository: RepositoryId,
        keys: &MetaKeys,
        data_secret: &Secret,
    ) -> Result<Cipher, NotAuthentic> {
        let sealed = SealedKey { enc: self.enc, sealed: self.sealed_key };
        let key = sealed.open(data_secret, keys, &info(repository, self.session, &self.meta_salt))?;
        // AES-GCM does not commit to its key: without this, one pack could be made to open to different contents under
        // two headers.
        if commitment(&key) != self.commitment {
            return Err(NotAuthentic);
        }
        Ok(Cipher::new(&key))
    }
}

fn info(repository: RepositoryId, session: SessionId, meta_salt: &[u8; 32]) -> Vec<u8> {
    let mut info = b"mlvault v1 session".to_vec();
    info.extend_from_slice(repository.as_bytes());
    info.extend_from_slice(session.as_bytes());
    info.extend_from_slice(meta_salt);
    info
}

fn commitment(data_key: &Secret) -> [u8; 32] {
    blake3::derive_key("mlvault v1 session commitment", &**data_key)
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::crypto::keys::new_data_key_pair;

    const REPOSITORY: RepositoryId = RepositoryId::from_bytes([1; 16]);
    const SESSION: SessionId = SessionId::from_bytes([2; 16]);

    fn keys(byte: u8) -> MetaKeys {
        MetaKeys::new(Zeroizing::new([byte; 32]))
    }

    #[test]
    fn content_opens_with_the_data_secret_and_meta_secret_together_only() {
        let (secret, public) = new_data_key_pair();
        let (other_secret, _) = new_data_key_pair();
        let session = SessionKeys::create(REPOSITORY, SESSION, &keys(1), &public);
        let sealed = session.data.seal(0, b"", b"weights".to_vec());

        let cipher = session.header.data_cipher(REPOSITORY, &keys(1), &secret).unwrap();
        assert_eq!(cipher.open(0, b"", &sealed).unwrap(), b"weights");
        assert!(session.header.data_cipher(REPOSITORY, &keys(1), &other_secret).is_err());
        assert!(session.header.data_cipher(REPOSITORY, &keys(2), &secret).is_err());
        let elsewhere = RepositoryId::from_bytes([9; 16]);
        assert!(session.header.data_cipher(elsewhere, &keys(1), &secret).is_err());
        let meta = session.header.meta_cipher(&keys(1));
        assert!(meta.open(0, b"", &sealed).is_err());
    }

    #[test]
    fn a_hostile_public_key_in_a_session_header_is_refused() {
        let (secret, public) = new_data_key_pair();
        let mut header = SessionKeys::create(REPOSITORY, SESSION, &keys(1), &public).header;
        header.enc = [0; 32];
        assert!(header.data_cipher(REPOSITORY, &keys(1), &secret).is_err());
    }
}
