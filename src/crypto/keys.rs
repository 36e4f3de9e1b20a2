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

use crate::crypto::seal::{Cipher, MessageKey, NotAuthentic, SALT_LEN, TAG_LEN};
pub use crate::crypto::secret::{KEY_LEN, Secret, new_secret};
use crate::id::{ChunkId, CommitmentNonce, LeafSalt, PlanId, SlotId};

/// Derives an independent key (BLAKE3 key derivation) for one purpose.
fn derive(context: &str, secret: &[u8]) -> Secret {
    Zeroizing::new(blake3::derive_key(context, secret))
}

/// The symmetric secret of a repository with the keys derived from it.
pub struct MetaKeys {
    secret: Secret,
    chunk_id: Secret,
    object: MessageKey,
    meta_pack: Secret,
    pre_shared: Secret,
    leaf_salt: Secret,
}

impl MetaKeys {
    /// Derives all keys from the meta secret.
    pub fn new(secret: Secret) -> Self {
        Self {
            chunk_id: derive("mlvault v1 chunk id", &*secret),
            object: MessageKey::new(derive("mlvault v1 object", &*secret)),
            meta_pack: derive("mlvault v1 meta pack", &*secret),
            pre_shared: derive("mlvault v1 hpke psk", &*secret),
            leaf_salt: derive("mlvault v2 leaf salt", &*secret),
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

    /// Names the plan that a key slot makes for a deployment, so that nobody without the meta secret learns more than that
    /// two plans differ.
    pub fn plan_id(&self, slot: &SlotId, deployment: &str, name: &str) -> PlanId {
        let mut hasher = blake3::Hasher::new_keyed(&derive("mlvault v2 plan", &*self.secret));
        hasher.update(slot.as_bytes());
        hasher.update(&(deployment.len() as u64).to_le_bytes());
        hasher.update(deployment.as_bytes());
        hasher.update(name.as_bytes());
        let mut id = [0; 16];
        hasher.finalize_xof().fill(&mut id);
        PlanId::from_bytes(id)
    }

    /// Returns the salt of a leaf of a commitment: it tells nothing of any other salt.
    pub fn leaf_salt(&self, nonce: &CommitmentNonce, index: u64) -> LeafSalt {
        let mut hasher = blake3::Hasher::new_keyed(&self.leaf_salt);
        hasher.update(nonce.as_bytes());
        hasher.update(&index.to_le_bytes());
        LeafSalt::from_bytes(*hasher.finalize().as_bytes())
    }

    /// Returns 2,048 secret bytes for the chunker's gear table.
    pub fn gear_seed(&self) -> Zeroizing<[u8; 2048]> {
        let mut seed = Zeroizing::new([0; 2048]);
        let mut hasher = blake3::Hasher::new_derive_key("mlvault v1 gear table");
        hasher.update(&*self.secret);
        hasher.finalize_xof().fill(&mut *seed);
        seed
    }

    /// Returns the cipher of one standalone object, told by its salt.
    pub fn object_cipher(&self, salt: &[u8]) -> Cipher {
        self.object.cipher(salt)
    }

    /// Returns a part of a salt that only this content of this object has.
    pub fn object_salt(&self, place: &[u8], content: &[u8]) -> [u8; SALT_LEN] {
        self.object.salt(place, content)
    }

    /// Returns the key of a session's meta packs and pack directories; `session` are the bytes that tell it.
    pub fn session_key(&self, session: &[u8]) -> MessageKey {
        MessageKey::new(Zeroizing::new(*blake3::keyed_hash(&self.meta_pack, session).as_bytes()))
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

/// Length of a sealed session key in bytes.
pub const SEALED_KEY_LEN: usize = KEY_LEN + TAG_LEN;

/// A key that was sealed to a data public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedKey {
    /// Public half of the ephemeral key.
    pub enc: [u8; 32],
    /// The key, encrypted.
    pub sealed: [u8; SEALED_KEY_LEN],
}

impl SealedKey {
    /// Seals a key, so that it opens with the data secret key, the meta secret and the same `info` together only.
    pub fn seal(key: &Secret, public: &DataPublicKey, keys: &MetaKeys, info: &[u8]) -> Self {
        let public =
            <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&public.0).expect("any 32 bytes are an X25519 key");
        // The pre-shared key keeps out who knows the public half alone: it could otherwise plant sessions.
        let (enc, sealed) = single_shot_seal::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Psk(keys.psk()),
            &public,
            info,
            &**key,
            b"",
        )
        .expect("the public key was checked when the repository was opened");
        Self { enc: enc.to_bytes().into(), sealed: sealed.try_into().expect("a 32-byte key seals to 48 bytes") }
    }

    /// Opens what [`SealedKey::seal`] made.
    pub fn open(&self, data_secret: &Secret, keys: &MetaKeys, info: &[u8]) -> Result<Secret, NotAuthentic> {
        let secret = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(&**data_secret).map_err(|_| NotAuthentic)?;
        let enc = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&self.enc).map_err(|_| NotAuthentic)?;
        let opened = single_shot_open::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Psk(keys.psk()),
            &secret,
            &enc,
            info,
            &self.sealed,
            b"",
        );
        let opened = Zeroizing::new(opened.map_err(|_| NotAuthentic)?);
        Ok(Zeroizing::new(opened.as_slice().try_into().map_err(|_| NotAuthentic)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn points_of_small_order_are_no_public_keys() {
        assert!(new_data_key_pair().1.is_sound());
        let mut one = [0; 32];
        assert!(!DataPublicKey(one).is_sound());
        one[0] = 1;
        assert!(!DataPublicKey(one).is_sound());
    }
}
