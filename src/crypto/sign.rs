//! Ed25519 signatures (RFC 8032), each under a domain so that one can never pass for another.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use crate::crypto::keys::Secret;
use crate::id::SignerKey;

/// Length of a signature in bytes.
pub const SIGNATURE_LEN: usize = 64;

/// What a signature speaks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// A snapshot record, by the key of the slot that wrote it.
    Snapshot,
    /// A key slot's certificate, by the repository's root key.
    Certificate,
    /// The repository's configuration, by its root key.
    Config,
    /// That a snapshot is forgotten, by the key of a maintainer's slot.
    Forgotten,
    /// A hold, a tag or what else is said of a snapshot later, by the key of a slot.
    Note,
    /// An index segment, by the key of the slot that vouches for it.
    Segment,
    /// A tombstone, by the key of a maintainer's slot.
    Tombstone,
    /// That packs were opened and found sound, by the key of a reader's or maintainer's slot.
    Countersignature,
    /// What a check or a drill found, by the key of the slot that ran it.
    Evidence,
    /// The plan of a sharded backup, or what came of a shard, by the key of the slot that makes the backup.
    Plan,
    /// An entry of the log, by the key of the slot that appends it.
    LogEntry,
}

impl Domain {
    fn prefix(self) -> &'static [u8] {
        match self {
            Self::Snapshot => b"mlvault v1 snapshot signature\0",
            Self::Certificate => b"mlvault v1 certificate signature\0",
            Self::Config => b"mlvault v1 config signature\0",
            Self::Forgotten => b"mlvault v1 forgotten signature\0",
            Self::Note => b"mlvault v1 note signature\0",
            Self::Segment => b"mlvault v2 segment signature\0",
            Self::Tombstone => b"mlvault v2 tombstone signature\0",
            Self::Countersignature => b"mlvault v2 countersignature\0",
            Self::Evidence => b"mlvault v2 evidence\0",
            Self::Plan => b"mlvault v2 plan signature\0",
            Self::LogEntry => b"mlvault v2 log entry\0",
        }
    }

    fn message(self, parts: &[&[u8]]) -> Vec<u8> {
        let mut message = self.prefix().to_vec();
        for part in parts {
            message.extend_from_slice(&(part.len() as u64).to_le_bytes());
            message.extend_from_slice(part);
        }
        message
    }
}

/// Returns the public key of a signing seed.
pub fn signer_key(seed: &Secret) -> SignerKey {
    SignerKey::from_bytes(SigningKey::from_bytes(seed).verifying_key().to_bytes())
}

/// Signs `parts`, each preceded by its length.
pub fn sign(seed: &Secret, domain: Domain, parts: &[&[u8]]) -> [u8; SIGNATURE_LEN] {
    SigningKey::from_bytes(seed).sign(&domain.message(parts)).to_bytes()
}

/// Returns whether `signature` is the signer's over exactly these parts. Weak keys are refused.
pub fn verify(signer: &SignerKey, domain: Domain, parts: &[&[u8]], signature: &[u8; SIGNATURE_LEN]) -> bool {
    VerifyingKey::from_bytes(signer.as_bytes())
        .is_ok_and(|key| key.verify_strict(&domain.message(parts), &Signature::from_bytes(signature)).is_ok())
}

/// Signs a text as it is, for readers that know nothing of domains. It must begin as no domain does.
pub fn sign_text(seed: &Secret, text: &str) -> [u8; SIGNATURE_LEN] {
    SigningKey::from_bytes(seed).sign(text.as_bytes()).to_bytes()
}

/// Returns whether `signature` is the signer's over this text.
pub fn verify_text(signer: &SignerKey, text: &str, signature: &[u8; SIGNATURE_LEN]) -> bool {
    VerifyingKey::from_bytes(signer.as_bytes())
        .is_ok_and(|key| key.verify_strict(text.as_bytes(), &Signature::from_bytes(signature)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::Zeroizing;

    #[test]
    fn a_signature_holds_for_its_domain_parts_and_signer_only() {
        let seed = Zeroizing::new([3; 32]);
        let signature = sign(&seed, Domain::Snapshot, &[b"ab", b"c"]);
        let signer = signer_key(&seed);
        assert!(verify(&signer, Domain::Snapshot, &[b"ab", b"c"], &signature));
        assert!(!verify(&signer, Domain::Snapshot, &[b"a", b"bc"], &signature));
        assert!(!verify(&signer, Domain::Certificate, &[b"ab", b"c"], &signature));
        assert!(!verify(&signer_key(&Zeroizing::new([4; 32])), Domain::Snapshot, &[b"ab", b"c"], &signature));
    }
}
