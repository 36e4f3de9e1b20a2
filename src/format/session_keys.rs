//! The keys of a session: drawn by who writes it, found again from its header by who reads it.
//!
//! What must stay true: the data key leaves the process only sealed to the repository's public key, bound to repository,
//! session and salt; who opens it compares it with the commitment before anything is opened with it.

use crate::crypto::keys::{DataPublicKey, MetaKeys, SealedKey, Secret, new_secret};
use crate::crypto::random;
use crate::crypto::seal::{MessageKey, NotAuthentic};
use crate::format::session_header::{SessionHeader, bound};
use crate::id::{RepositoryId, SessionId, SlotId};

/// The keys of a session that is being written.
pub struct SessionKeys {
    /// What readers need to find the same keys; stored in every pack and index segment.
    pub header: SessionHeader,
    /// Seals content.
    pub data: MessageKey,
    /// Seals trees, catalogues and pack directories.
    pub meta: MessageKey,
}

/// Who writes a session, and where.
#[derive(Debug, Clone, Copy)]
pub struct SessionName {
    /// The repository.
    pub repository: RepositoryId,
    /// The session.
    pub session: SessionId,
    /// The key slot in use.
    pub slot: SlotId,
}

impl SessionKeys {
    /// Draws the keys of a new session.
    pub fn create(name: SessionName, keys: &MetaKeys, public: &DataPublicKey) -> Self {
        let SessionName { repository, session, slot } = name;
        // Both are drawn anew even if a session id came twice.
        let data_key = new_secret();
        let meta_salt = random();
        let bound = bound(&session, &slot, &meta_salt);
        let SealedKey { enc, sealed } = SealedKey::seal(&data_key, public, keys, &info(repository, &bound));
        let commitment = commitment(&data_key);
        let header = SessionHeader { session, slot, meta_salt, enc, sealed_key: sealed, commitment };
        Self { data: MessageKey::new(data_key), meta: keys.session_key(&bound), header }
    }
}

impl SessionHeader {
    /// Returns the key that opens the session's meta packs and pack directories.
    pub fn meta_key(&self, keys: &MetaKeys) -> MessageKey {
        keys.session_key(&bound(&self.session, &self.slot, &self.meta_salt))
    }

    /// Returns the key that opens the session's content; fails where the header is not authentic.
    pub fn data_key(
        &self,
        repository: RepositoryId,
        keys: &MetaKeys,
        data_secret: &Secret,
    ) -> Result<MessageKey, NotAuthentic> {
        let sealed = SealedKey { enc: self.enc, sealed: self.sealed_key };
        let info = info(repository, &bound(&self.session, &self.slot, &self.meta_salt));
        let key = sealed.open(data_secret, keys, &info)?;
        // AES-GCM does not commit to its key: without this, one pack could be made to open to different contents under
        // two headers.
        if commitment(&key) != self.commitment {
            return Err(NotAuthentic);
        }
        Ok(MessageKey::new(key))
    }
}

fn info(repository: RepositoryId, bound: &[u8]) -> Vec<u8> {
    [b"mlvault v2 session", &repository.as_bytes()[..], bound].concat()
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

    fn name() -> SessionName {
        SessionName { repository: REPOSITORY, session: SESSION, slot: SlotId::from_bytes([3; 8]) }
    }

    #[test]
    fn content_opens_with_the_data_secret_and_meta_secret_together_only() {
        let (secret, public) = new_data_key_pair();
        let (other_secret, _) = new_data_key_pair();
        let session = SessionKeys::create(name(), &keys(1), &public);
        let sealed = session.data.cipher(b"chunk").seal(b"", b"weights".to_vec());

        let opened = session.header.data_key(REPOSITORY, &keys(1), &secret).unwrap();
        assert_eq!(opened.cipher(b"chunk").open(b"", &sealed).unwrap(), b"weights");
        assert!(session.header.data_key(REPOSITORY, &keys(1), &other_secret).is_err());
        assert!(session.header.data_key(REPOSITORY, &keys(2), &secret).is_err());
        let elsewhere = RepositoryId::from_bytes([9; 16]);
        assert!(session.header.data_key(elsewhere, &keys(1), &secret).is_err());
        let of_another = SessionHeader { slot: SlotId::from_bytes([4; 8]), ..session.header };
        assert!(of_another.data_key(REPOSITORY, &keys(1), &secret).is_err());
        let meta = session.header.meta_key(&keys(1));
        assert!(meta.cipher(b"chunk").open(b"", &sealed).is_err());
    }

    #[test]
    fn a_hostile_public_key_in_a_session_header_is_refused() {
        let (secret, public) = new_data_key_pair();
        let mut header = SessionKeys::create(name(), &keys(1), &public).header;
        header.enc = [0; 32];
        assert!(header.data_key(REPOSITORY, &keys(1), &secret).is_err());
    }
}
