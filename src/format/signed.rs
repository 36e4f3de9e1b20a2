//! A signed record: what makes a statement count is who made it, not where it is stored.
//!
//! The body inside an object envelope:
//!
//! ```text
//!   0   1  kind of record; what it means is the object's matter
//!   1   3  zero
//!   4   4  length of the certificate
//!   8   …  certificate of the signer's key slot, JSON
//!   …  64  Ed25519 signature over kind, repository id, name and record
//!   …   …  record, JSON
//! ```
//!
//! The name is the object's own, in bytes: a record cannot be moved to another one. Whether the signer's role allows
//! what the record says is for the object's decoder to decide.

use crate::crypto::keys::Secret;
use crate::crypto::sign::{self, Domain, SIGNATURE_LEN};
use crate::format::Cursor;
use crate::format::key_slot::Certificate;
use crate::format_error::FormatError;
use crate::id::{RepositoryId, SignerKey};

/// Who signs, with what.
pub struct Signer<'a> {
    /// The slot's certificate.
    pub certificate: &'a Certificate,
    /// The slot's signing seed.
    pub seed: &'a Secret,
}

/// What a record is bound to.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a> {
    /// What it speaks about.
    pub domain: Domain,
    /// The repository.
    pub repository: RepositoryId,
    /// The object's name.
    pub name: &'a [u8],
}

/// A record whose certificate and signature are right.
#[derive(Debug)]
pub struct Verified<'a> {
    /// Kind of the record.
    pub kind: u8,
    /// Who signed it.
    pub certificate: Certificate,
    /// Its bytes.
    pub record: &'a [u8],
}

/// Signs a record, and returns the body of its object.
pub fn seal(binding: &Binding<'_>, kind: u8, record: &[u8], signer: &Signer<'_>) -> Vec<u8> {
    let certificate = serde_json::to_vec(signer.certificate).expect("a certificate is always representable as JSON");
    let parts: [&[u8]; 4] = [&[kind], binding.repository.as_bytes(), binding.name, record];
    let signature = sign::sign(signer.seed, binding.domain, &parts);
    let mut body = vec![kind, 0, 0, 0];
    body.extend_from_slice(&(certificate.len() as u32).to_le_bytes());
    body.extend_from_slice(&certificate);
    body.extend_from_slice(&signature);
    body.extend_from_slice(record);
    body
}

/// Takes a body apart, and verifies certificate and signature.
pub fn open<'a>(binding: &Binding<'_>, root: &SignerKey, body: &'a [u8]) -> Result<Verified<'a>, FormatError> {
    let mut cursor = Cursor::new(body);
    let kind = cursor.u8()?;
    cursor.zeros(3)?;
    let certificate_len = cursor.u32()? as usize;
    let certificate: Certificate = serde_json::from_slice(cursor.bytes(certificate_len)?)
        .map_err(|error| FormatError::new(format!("its certificate: {error}")))?;
    let signature: [u8; SIGNATURE_LEN] = cursor.array()?;
    let record = cursor.remainder();
    if !certificate.is_issued_by(root, binding.repository) {
        return Err(FormatError::new("no maintainer certified its signer"));
    }
    let parts: [&[u8]; 4] = [&[kind], binding.repository.as_bytes(), binding.name, record];
    if !sign::verify(&certificate.signer, binding.domain, &parts, &signature) {
        return Err(FormatError::new("its signature is wrong"));
    }
    Ok(Verified { kind, certificate, record })
}

/// Makes the error that says that a signer may not say this.
pub fn not_allowed(certificate: &Certificate) -> FormatError {
    FormatError::new(format!("its signer's role, {}, does not allow it", certificate.role.name()))
}
