//! Evidence as a statement that others can read: in-toto, in a DSSE envelope.
//!
//! What must stay true: what is believed of a statement is what its signer could know; what it says of the snapshot is compared
//! with the snapshot's own record ([`crate::audit`]). Whatever is decoded here comes from anybody.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::crypto::keys::Secret;
use crate::crypto::sign;
use crate::format::key_slot::Certificate;
use crate::format_error::FormatError;
use crate::id::{Digest, LeafSalt, Pin, RepositoryId, SessionId, Sha256Digest, SignerKey, TreeHash};

/// The kind of statement.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// What a statement of mlvault says.
pub const PREDICATE_TYPE: &str = "urn:mlvault:evidence:v1";
/// What is in an envelope.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// A statement about some files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Statement<P> {
    /// [`STATEMENT_TYPE`].
    #[serde(rename = "_type")]
    pub kind: String,
    /// The files.
    pub subject: Vec<Subject>,
    /// Which kind of predicate.
    #[serde(rename = "predicateType")]
    pub predicate_type: String,
    /// What is said of them.
    pub predicate: P,
}

/// A file, or what stands for all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Its path below the model.
    pub name: String,
    /// Its digests.
    pub digest: Digests,
}

/// Digests of content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// SHA-256, from who could read the content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256Digest>,
    /// BLAKE3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<Digest>,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The deployment.
    pub deployment: String,
    /// The registered model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    /// The run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The day or time, as it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<String>,
}

/// That the snapshot's record covers a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileProof {
    /// Its path below the model.
    pub name: String,
    /// Its path in the component.
    pub path: String,
    /// Bytes.
    pub bytes: u64,
    /// Which leaf it is.
    pub index: u64,
    /// The salt of the leaf.
    pub salt: LeafSalt,
    /// From the leaf to the root.
    pub proof: Vec<TreeHash>,
}

/// The parts beside the statement that sign the files for other tools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSignature {
    /// SHA-256 of the part with the signature.
    pub signature: Sha256Digest,
    /// SHA-256 of the part with the public key.
    pub key: Sha256Digest,
}

/// What mlvault says of the files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Predicate {
    /// What was asked for.
    pub asked: Asked,
    /// The repository.
    pub repository: RepositoryId,
    /// The key that certifies all others.
    pub root_key: SignerKey,
    /// What both come to: to be compared with one that somebody kept.
    pub pin: Pin,
    /// The snapshot, whose record is a part of the bundle.
    pub snapshot: SessionId,
    /// When it arrived, by the clock of the place where it is stored.
    pub arrived: Timestamp,
    /// The component of the snapshot that has the files.
    pub component: String,
    /// Proofs, in the order of the subjects.
    pub files: Vec<FileProof>,
    /// What the snapshot's catalogue says.
    pub facts: BTreeMap<String, Json>,
    /// What it says of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_facts: Option<BTreeMap<String, Json>>,
    /// The signature for other tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_signature: Option<ModelSignature>,
    /// Who makes the statement.
    pub signer: Certificate,
    /// When, by the signer's clock.
    pub made: Timestamp,
    /// Program and version.
    pub program: String,
}

/// A payload that somebody signed (DSSE).
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    /// The payload, Base64.
    pub payload: String,
    /// [`PAYLOAD_TYPE`].
    pub payload_type: String,
    /// Who signed it.
    pub signatures: Vec<EnvelopeSignature>,
}

/// A signature of an envelope.
#[derive(Debug, Serialize, Deserialize)]
pub struct EnvelopeSignature {
    /// Tells the key.
    #[serde(default)]
    pub keyid: String,
    /// The signature, Base64.
    pub sig: String,
}

/// Returns what of an envelope is signed (DSSE's pre-authentication encoding). It begins as no signature domain does.
pub fn signed_text(payload: &str) -> String {
    format!("DSSEv1 {} {PAYLOAD_TYPE} {} {payload}", PAYLOAD_TYPE.len(), payload.len())
}

impl Envelope {
    /// Puts a payload and its signature together.
    pub fn new(payload: &str, keyid: String, signature: &[u8]) -> Self {
        let signatures = vec![EnvelopeSignature { keyid, sig: BASE64.encode(signature) }];
        Self { payload: BASE64.encode(payload.as_bytes()), payload_type: PAYLOAD_TYPE.to_owned(), signatures }
    }

    /// Signs a payload with the key of a slot.
    pub fn sign(payload: &str, seed: &Secret) -> Self {
        let signature = sign::sign_text(seed, &signed_text(payload));
        Self::new(payload, sign::signer_key(seed).to_string(), &signature)
    }

    /// Returns the payload if the key has signed it.
    pub fn open(&self, signer: &SignerKey) -> Result<String, FormatError> {
        let payload = self.payload()?;
        let [EnvelopeSignature { sig, .. }] = &self.signatures[..] else {
            return Err(FormatError::new("it has another number of signatures than one"));
        };
        let signature = BASE64.decode(sig.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        let is_right = |signature| sign::verify_text(signer, &signed_text(&payload), &signature);
        if signature.is_some_and(is_right) { Ok(payload) } else { Err(FormatError::new("its signature is wrong")) }
    }

    /// Returns the payload, whoever has signed it.
    pub fn payload(&self) -> Result<String, FormatError> {
        if self.payload_type != PAYLOAD_TYPE {
            return Err(FormatError::new("its payload is no in-toto statement"));
        }
        let payload = BASE64.decode(self.payload.as_bytes()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        payload.ok_or_else(|| FormatError::new("its payload is not text in Base64"))
    }
}

/// Reads an envelope.
pub fn decode_envelope(bytes: &[u8]) -> Result<Envelope, FormatError> {
    serde_json::from_slice(bytes).map_err(|error| FormatError::new(error.to_string()))
}

/// Reads the statement in an envelope, before anybody knows who has signed it.
pub fn decode(payload: &str) -> Result<Statement<Predicate>, FormatError> {
    let statement: Statement<Predicate> =
        serde_json::from_str(payload).map_err(|error| FormatError::new(error.to_string()))?;
    if statement.kind != STATEMENT_TYPE || statement.predicate_type != PREDICATE_TYPE {
        return Err(FormatError::new("it is no statement of mlvault about evidence"));
    }
    Ok(statement)
}
