//! Verifies a bundle without a repository and without a key.
//!
//! What must stay true: whatever is in a bundle comes from anybody. What it says counts only as far as it follows from the root
//! key, whose pin the verifier knows from elsewhere; where that was not compared, nothing was proved but that all of it fits
//! together, and that is said.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use crate::audit::evidence::{ENVELOPE, MODEL_KEY, MODEL_SIGNATURE, RECORD, STATEMENT, TIMESTAMP};
use crate::crypto::file_digests::{self, sha256};
use crate::crypto::merkle;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::bundle::{self, Parts};
use crate::format::commitment;
use crate::format::config;
use crate::format::key_slot::Certificate;
use crate::format::snapshot::{self, SessionOutcome, SnapshotRecord, SourceRecord};
use crate::format::statement::{self, FileProof, Predicate, Statement, Subject};
use crate::format::timestamp;
use crate::format::tree::{Entry, EntryKind, FileContent, Metadata};
use crate::format_error::FormatError;
use crate::id::{Digest, Pin, Sha256Digest};

/// Directories above a file; deeper ones are not looked at.
const DEPTH_MAX: usize = 64;

/// What a bundle proves, if its root key is the right one.
pub struct Verified {
    /// The statement.
    pub statement: Statement<Predicate>,
    /// The snapshot's record.
    pub record: SnapshotRecord,
    /// Who signed the record.
    pub writer: Certificate,
    /// When an authority stamped the statement, as the stamp says. Its signature is for other tools to verify.
    pub stamped: Option<Timestamp>,
}

impl Verified {
    /// Returns the pin of the repository that all signatures lead to.
    pub fn pin(&self) -> Pin {
        config::pin(self.statement.predicate.repository, &self.statement.predicate.root_key)
    }

    /// Returns whether whoever made the statement has read the content.
    pub fn is_content_read(&self) -> bool {
        self.statement.subject.iter().all(|subject| subject.digest.sha256.is_some())
    }
}

/// How a directory differs from what a bundle is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Differences {
    /// Files with other content.
    pub altered: Vec<String>,
    /// Files that are not there.
    pub missing: Vec<String>,
    /// Files and links that are there as well.
    pub more: Vec<String>,
}

impl Differences {
    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.altered.is_empty() && self.missing.is_empty() && self.more.is_empty()
    }
}

/// Reads a bundle and verifies all that follows from its root key. Fails with [`Error::Refused`], which says what is wrong where.
pub fn open(bytes: &[u8]) -> Result<(Verified, Parts)> {
    let parts = bundle::decode(bytes).map_err(|error| refused("the bundle", &error))?;
    Ok((open_parts(&parts)?, parts))
}

/// As [`open`], of parts.
pub fn open_parts(parts: &Parts) -> Result<Verified> {
    let statement = signed_statement(parts).map_err(|error| refused(ENVELOPE, &error))?;
    let (record, writer) = signed_record(parts, &statement.predicate).map_err(|error| refused(RECORD, &error))?;
    covers(&record, &statement).map_err(|error| refused(STATEMENT, &error))?;
    has_signature(parts, &statement.predicate).map_err(|error| refused(MODEL_SIGNATURE, &error))?;
    let stamped = stamped(parts).map_err(|error| refused(TIMESTAMP, &error))?;
    Ok(Verified { statement, record, writer, stamped })
}

fn refused(part: &str, error: &FormatError) -> Error {
    Error::Refused(format!("It proves nothing: {part}: {error}"))
}

fn part<'p>(parts: &'p Parts, name: &str) -> std::result::Result<&'p [u8], FormatError> {
    parts.get(name).map(Vec::as_slice).ok_or_else(|| FormatError::new(format!("{name} is missing")))
}

fn ensure(holds: bool, otherwise: &'static str) -> std::result::Result<(), FormatError> {
    if holds { Ok(()) } else { Err(FormatError::new(otherwise)) }
}

/// Returns the statement, whose signer the root key has certified.
fn signed_statement(parts: &Parts) -> std::result::Result<Statement<Predicate>, FormatError> {
    let envelope = statement::decode_envelope(part(parts, ENVELOPE)?)?;
    let statement = statement::decode(&envelope.payload()?)?;
    let Predicate { signer, root_key, repository, pin, .. } = &statement.predicate;
    ensure(signer.is_issued_by(root_key, *repository), "the root key has not certified its signer")?;
    let payload = envelope.open(&signer.signer)?;
    ensure(*pin == config::pin(*repository, root_key), "its pin is not that of its root key")?;
    ensure(part(parts, STATEMENT)? == payload.as_bytes(), "statement.json is another statement")?;
    let has_sha256 = statement.subject.iter().any(|subject| subject.digest.sha256.is_some());
    ensure(!has_sha256 || signer.role.reads_content(), "it has SHA-256 digests from a key that cannot read content")?;
    Ok(statement)
}

/// Returns the snapshot's record, whose signer the root key has certified, too.
fn signed_record(
    parts: &Parts,
    predicate: &Predicate,
) -> std::result::Result<(SnapshotRecord, Certificate), FormatError> {
    let Predicate { repository, snapshot, root_key, .. } = predicate;
    match snapshot::decode(*repository, *snapshot, root_key, part(parts, RECORD)?)? {
        (SessionOutcome::Snapshot(record), writer) => Ok((*record, writer)),
        (SessionOutcome::Void(_), _) => Err(FormatError::new("it is no snapshot")),
    }
}

/// Makes sure that the record covers each file.
fn covers(record: &SnapshotRecord, statement: &Statement<Predicate>) -> std::result::Result<(), FormatError> {
    let Predicate { component, files, asked, .. } = &statement.predicate;
    let of = SourceRecord::Deployment { name: asked.deployment.clone() };
    ensure(record.source == of, "the snapshot is of another deployment")?;
    let found = record.components.iter().find(|found| found.name == *component);
    let found = found.ok_or_else(|| FormatError::new("the snapshot has no such component"))?;
    let commitment = found.commitment.ok_or_else(|| FormatError::new("the snapshot's record commits to no entries"))?;
    ensure(!files.is_empty(), "it is about no files")?;
    ensure(files.len() == statement.subject.len(), "it has another number of files than of proofs")?;
    let names: BTreeSet<&str> = files.iter().map(|file| file.name.as_str()).collect();
    ensure(names.len() == files.len(), "two files have the same name")?;
    for (file, subject) in files.iter().zip(&statement.subject) {
        let wrong = |reason: &str| FormatError::new(format!("{:?}: {reason}", file.name));
        let digest = digest_of(file, subject).map_err(wrong)?;
        let leaf = commitment::leaf(&file.salt, &commitment::content(&entry(file, digest)));
        if !merkle::is_included(&leaf, file.index, found.entries, &file.proof, &commitment.root) {
            return Err(wrong("the snapshot's record does not cover it"));
        }
    }
    Ok(())
}

fn digest_of(file: &FileProof, subject: &Subject) -> std::result::Result<Digest, &'static str> {
    let is_plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    if file.name != subject.name {
        return Err("its proof is of another file");
    }
    if !file.name.split('/').all(is_plain) {
        return Err("it is no path below a directory");
    }
    if file.path != file.name && !file.path.ends_with(&format!("/{}", file.name)) {
        return Err("its path in the snapshot is another one");
    }
    subject.digest.blake3.ok_or("it has no BLAKE3 digest")
}

fn entry(file: &FileProof, digest: Digest) -> Entry {
    let (kind, size) = (BlobKind::Data, file.bytes);
    let (chunks, hard_link) = (Vec::new(), None);
    let content = FileContent { size, digest, chunks, kind, indirect: false, sparse: false, racy: false, hard_link };
    let path = file.path.clone().into_bytes();
    Entry { path, metadata: Metadata::default(), kind: EntryKind::File(content), attributes: Vec::new() }
}

/// Makes sure that the signature for other tools is the one that the statement speaks of.
fn has_signature(parts: &Parts, predicate: &Predicate) -> std::result::Result<(), FormatError> {
    let there = (parts.get(MODEL_SIGNATURE), parts.get(MODEL_KEY));
    match (&predicate.model_signature, there) {
        (None, (None, None)) => Ok(()),
        (Some(said), (Some(signature), Some(key))) => {
            ensure(said.signature == sha256(signature), "it is another one than the statement says")?;
            ensure(said.key == sha256(key), "its key is another one than the statement says")
        }
        _ => Err(FormatError::new("it is there and not in the statement, or the other way round")),
    }
}

/// Returns when the statement was stamped, if there is a stamp, and makes sure that it is of this statement.
fn stamped(parts: &Parts) -> std::result::Result<Option<Timestamp>, FormatError> {
    let Some(answer) = parts.get(TIMESTAMP) else { return Ok(None) };
    let stamp = timestamp::decode(answer)?;
    ensure(stamp.digest == sha256(part(parts, ENVELOPE)?), "it is of something else")?;
    Ok(Some(stamp.at))
}

/// Compares the files in a directory with what a bundle is about. Links are not followed.
pub fn compare(verified: &Verified, directory: &Path) -> Result<Differences> {
    let mut there = BTreeMap::new();
    walk(directory, "", DEPTH_MAX, &mut there)?;
    let mut differences = Differences::default();
    for (file, subject) in verified.statement.predicate.files.iter().zip(&verified.statement.subject) {
        match there.remove(&file.name) {
            None => differences.missing.push(file.name.clone()),
            Some(false) => differences.altered.push(file.name.clone()),
            Some(true) => {
                let (sha256, blake3) = digests(&directory.join(&file.name))?;
                let is_same = subject.digest.sha256.is_none_or(|expected| expected == sha256)
                    && subject.digest.blake3 == Some(blake3);
                if !is_same {
                    differences.altered.push(file.name.clone());
                }
            }
        }
    }
    // Where OpenSSF Model Signing looks for it.
    there.remove(MODEL_SIGNATURE);
    differences.more = there.into_keys().collect();
    Ok(differences)
}

/// Collects what is below a directory, and whether each is a file.
fn walk(directory: &Path, above: &str, depth: usize, there: &mut BTreeMap<String, bool>) -> Result<()> {
    let fault = |source| Error::target("read", directory.to_owned(), source);
    for entry in std::fs::read_dir(directory).map_err(fault)? {
        let entry = entry.map_err(fault)?;
        let name = format!("{above}{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type().map_err(fault)?;
        match kind.is_dir() && depth > 0 {
            true => walk(&entry.path(), &format!("{name}/"), depth - 1, there)?,
            false => drop(there.insert(name, kind.is_file())),
        }
    }
    Ok(())
}

fn digests(path: &Path) -> Result<(Sha256Digest, Digest)> {
    let fault = |source| Error::target("read", path.to_owned(), source);
    file_digests::of(File::open(path).map_err(fault)?).map_err(fault)
}
