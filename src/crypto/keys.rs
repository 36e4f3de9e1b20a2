//! The repository's secrets and the keys derived from them.
//!
//! Two capabilities: the *meta secret* (symmetric) opens index, trees and snapshots; the *data key pair* (X25519)
//! guards content. A session draws a random data key, seals it to the public half (HPKE, RFC 9180, PSK mode) and
//! forgets it; whoever holds only the meta secret and the public half can add content but never read it back.

use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, PskBundle, Serializable, single_shot_open, single_shot_seal};
use zeroize::Zeroizing;

use crate::crypto::random;
use crate::crypto::seal::{Cipher, Counter, KEY_LEN, NotAuthentic};
use crate::format::session_header::{SEALED_KEY_LEN, SessionHeader};
use crate::id::{ChunkId, RepositoryId, SessionId};

/// 32 secret bytes that wipe themselves.
pub type Secret = Zeroizing<[u8; KEY_LEN]>;

/// Draws a new secret.
pub fn new_secret() -> Secret {
    Zeroizing::new(random())
}

/// Derives an independent key (BLAKE3 key derivation) for one purpose.
fn derive(context: &str, secret: &[u8]) -> Secret {
    Zeroizing::new(blake3::derive_key(context, secret))
}

/// The symmetric secret of a repository with the keys derived from it.
pub struct MetaKeys {
    secret: Secret,
    chunk_id: Secret,
    object: Secret,
    meta_pack: Secret,
    pre_shared: Secret,
}

impl MetaKeys {
    /// Derives all keys from the meta secret.
    pub fn new(secret: Secret) -> Self {
        Self {
            chunk_id: derive("mlvault v1 chunk id", &*secret),
            object: derive("mlvault v1 object", &*secret),
            meta_pack: derive("mlvault v1 meta pack", &*secret),
            pre_shared: derive("mlvault v1 hpke psk", &*secret),
            secret,
        }
    }

    /// Returns the secret itself, to be wrapped into a key slot.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Names a chunk: BLAKE3 keyed hash of the blob kind's byte and the plain content.
    pub fn chunk_id(&self, kind: u8, plain: &[u8]) -> ChunkId {
        let mut hasher = blake3::Hasher::new_keyed(&self.chunk_id);
        hasher.update(&[kind]);
        hasher.update(plain);
        ChunkId::from_bytes(*hasher.finalize().as_bytes())
    }

    /// Returns 16 hexadecimal digits that tell whether a key is the same one, and nothing about it to those who do not
    /// have the meta secret.
    pub fn fingerprint(&self, key: &[u8]) -> String {
        let hash = blake3::keyed_hash(&derive("mlvault v1 fingerprint", &*self.secret), key);
        hash.to_hex()[..16].to_owned()
    }

    /// Returns 2,048 secret bytes for the chunker's gear table.
    pub fn gear_seed(&self) -> Zeroizing<[u8; 2048]> {
        let mut seed = Zeroizing::new([0; 2048]);
        let mut hasher = blake3::Hasher::new_derive_key("mlvault v1 gear table");
        hasher.update(&*self.secret);
        hasher.finalize_xof().fill(&mut *seed);
        seed
    }

    /// Returns the cipher of one standalone object, told by its random salt.
    pub fn object_cipher(&self, salt: &[u8; 32]) -> Cipher {
        Cipher::new(blake3::keyed_hash(&self.object, salt).as_bytes())
    }

    /// Returns the cipher of a session's meta packs.
    fn session_cipher(&self, session: &SessionId, salt: &[u8; 32]) -> Cipher {
        let mut hasher = blake3::Hasher::new_keyed(&self.meta_pack);
        hasher.update(session.as_bytes());
        hasher.update(salt);
        Cipher::new(hasher.finalize().as_bytes())
    }

    fn psk(&self) -> PskBundle<'_> {
        PskBundle::new(&*self.pre_shared, b"mlvault v1").expect("both parts are non-empty")
    }
}

/// The public half of the data key pair (X25519).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataPublicKey(pub [u8; 32]);

impl DataPublicKey {
    /// Returns whether a session can seal to this key. The few points of small order, which would make every session
    /// key guessable, are no keys: HPKE refuses them (RFC 9180, section 7.1.4).
    pub fn is_sound(&self) -> bool {
        let Ok(public) = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&self.0) else { return false };
        single_shot_seal::<AesGcm256, HkdfSha256, X25519HkdfSha256>(&OpModeS::Base, &public, b"", b"", b"").is_ok()
    }
}

/// Draws a data key pair.
pub fn new_data_key_pair() -> (Secret, DataPublicKey) {
    let (secret, public) = X25519HkdfSha256::gen_keypair();
    (Zeroizing::new(secret.to_bytes().into()), DataPublicKey(public.to_bytes().into()))
}

/// Returns the public half that belongs to a data secret key, to tell whether both fit.
pub fn data_public_key(secret: &Secret) -> Option<DataPublicKey> {
    let secret = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(&**secret).ok()?;
    Some(DataPublicKey(X25519HkdfSha256::sk_to_pk(&secret).to_bytes().into()))
}

/// The keys of a session that is being written. Each counter serves one key for the life of the process.
pub struct SessionKeys {
    /// What readers need to find the same keys; stored in every pack and index segment.
    pub header: SessionHeader,
    /// Seals content.
    pub data: Cipher,
    /// Counts messages under `data`.
    pub data_counter: Counter,
    /// Seals trees, catalogues and pack directories.
    pub meta: Cipher,
    /// Counts messages under `meta`.
    pub meta_counter: Counter,
}

impl SessionKeys {
    /// Draws the keys of a new session.
    pub fn create(repository: RepositoryId, session: SessionId, keys: &MetaKeys, public: &DataPublicKey) -> Self {
        let data_key = new_secret();
        let meta_salt = random();
        let (enc, sealed_key) = seal_to(public, keys, &info(repository, session, &meta_salt), &data_key);
        let header = SessionHeader { session, meta_salt, enc, sealed_key, commitment: commitment(&data_key) };
        Self {
            data: Cipher::new(&data_key),
            data_counter: Counter::default(),
            meta: keys.session_cipher(&session, &meta_salt),
            meta_counter: Counter::default(),
            header,
        }
    }
}

/// Returns the cipher that opens a session's meta packs and pack directories.
pub fn open_meta_cipher(header: &SessionHeader, keys: &MetaKeys) -> Cipher {
    keys.session_cipher(&header.session, &header.meta_salt)
}

/// Returns the cipher that opens a session's content; fails where the header is not authentic.
pub fn open_data_cipher(
    repository: RepositoryId,
    header: &SessionHeader,
    keys: &MetaKeys,
    data_secret: &Secret,
) -> Result<Cipher, NotAuthentic> {
    let info = info(repository, header.session, &header.meta_salt);
    let secret = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(&**data_secret).map_err(|_| NotAuthentic)?;
    let enc = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&header.enc).map_err(|_| NotAuthentic)?;
    let opened = single_shot_open::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Psk(keys.psk()),
        &secret,
        &enc,
        &info,
        &header.sealed_key,
        b"",
    );
    let opened = Zeroizing::new(opened.map_err(|_| NotAuthentic)?);
    let key: Secret = Zeroizing::new(opened.as_slice().try_into().map_err(|_| NotAuthentic)?);
    if commitment(&key) != header.commitment {
        return Err(NotAuthentic);
    }
    Ok(Cipher::new(&key))
}

fn seal_to(public: &DataPublicKey, keys: &MetaKeys, info: &[u8], key: &Secret) -> ([u8; 32], [u8; SEALED_KEY_LEN]) {
    let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&public.0).expect("any 32 bytes are an X25519 key");
    let (enc, sealed) = single_shot_seal::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Psk(keys.psk()),
        &public,
        info,
        &**key,
        b"",
    )
    .expect("the public key was checked when the repository was opened");
    (enc.to_bytes().into(), sealed.try_into().expect("a 32-byte key seals to 48 bytes"))
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
    use super::*;

    const REPOSITORY: RepositoryId = RepositoryId::from_bytes([1; 16]);
    const SESSION: SessionId = SessionId::from_bytes([2; 16]);

    fn keys(byte: u8) -> MetaKeys {
        MetaKeys::new(Zeroizing::new([byte; 32]))
    }

    /// Computed independently, with the Python binding of BLAKE3.
    #[test]
    fn chunk_ids_agree_with_the_golden_vectors() {
        let keys = keys(0x42);
        assert_eq!(
            keys.chunk_id(1, b"mlvault").to_string(),
            "8dc0dae99908075e372c27aa1320ad45624c575148926153efa6de6c8f106e57"
        );
        assert_eq!(
            keys.chunk_id(2, b"mlvault").to_string(),
            "72c760a4d2ce9eeb187a9afbf091123ac33ee28672501a893224645dcec06257"
        );
    }

    #[test]
    fn content_opens_with_the_data_secret_and_meta_secret_together_only() {
        let (secret, public) = new_data_key_pair();
        let (other_secret, _) = new_data_key_pair();
        let session = SessionKeys::create(REPOSITORY, SESSION, &keys(1), &public);
        let sealed = session.data.seal(0, b"", b"weights".to_vec());

        let cipher = open_data_cipher(REPOSITORY, &session.header, &keys(1), &secret).unwrap();
        assert_eq!(cipher.open(0, b"", &sealed).unwrap(), b"weights");
        assert!(open_data_cipher(REPOSITORY, &session.header, &keys(1), &other_secret).is_err());
        assert!(open_data_cipher(REPOSITORY, &session.header, &keys(2), &secret).is_err());
        let elsewhere = RepositoryId::from_bytes([9; 16]);
        assert!(open_data_cipher(elsewhere, &session.header, &keys(1), &secret).is_err());
        let meta = open_meta_cipher(&session.header, &keys(1));
        assert!(meta.open(0, b"", &sealed).is_err());
    }

    #[test]
    fn points_of_small_order_are_no_public_keys() {
        assert!(new_data_key_pair().1.is_sound());
        let mut one = [0; 32];
        assert!(!DataPublicKey(one).is_sound());
        one[0] = 1;
        assert!(!DataPublicKey(one).is_sound());
    }

    #[test]
    fn a_hostile_public_key_in_a_session_header_is_refused() {
        let (secret, public) = new_data_key_pair();
        let mut header = SessionKeys::create(REPOSITORY, SESSION, &keys(1), &public).header;
        header.enc = [0; 32];
        assert!(open_data_cipher(REPOSITORY, &header, &keys(1), &secret).is_err());
    }
}
