//! Evidence about the files of a model version, or of a run, for people without a key: what they are, and who says so.
//!
//! A bundle has a statement that is signed with the key in use, and the snapshot's record, which the key of the backup has
//! signed. The record commits to every entry ([`crate::format::commitment`]), so the statement's proofs lead from each file to
//! that record, and from there to the root key of the repository. What only the maker of the statement says — SHA-256 digests,
//! and when the snapshot arrived — is said to be so.
//!
//! What must stay true: nothing of other files is disclosed, not even by guessing; whatever is not proved is said in the report;
//! a bundle that is made passes its own verification.

mod files;
mod page;
mod stamp;
pub mod verify;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::audit::evidence::files::{Found, find_files};
use crate::audit::history::{self, FILES_PATH, Facts, RUN, Subject};
use crate::catalogue::browse::Browser;
use crate::chunks::reader::ChunkReader;
use crate::crypto::file_digests::sha256;
use crate::crypto::model_key::ModelKey;
use crate::error::{Error, Result};
use crate::format::bundle::{self, Parts};
use crate::format::config;
use crate::format::snapshot::SourceRecord;
use crate::format::statement::{
    Asked, Digests, Envelope, ModelSignature, PREDICATE_TYPE, Predicate, STATEMENT_TYPE, Statement, Subject as File,
    signed_text,
};
use crate::hears::Hears;
use crate::id::Sha256Digest;
use crate::repository::Repository;
use crate::repository::session::PROGRAM;
use crate::repository::snapshots::Snapshot;

/// The statement, signed.
pub const ENVELOPE: &str = "statement.dsse.json";
/// The same statement as anybody reads it.
pub const STATEMENT: &str = "statement.json";
/// The snapshot's record with its certificate and signature, as it is stored.
pub const RECORD: &str = "snapshot.record";
/// The signature for OpenSSF Model Signing.
pub const MODEL_SIGNATURE: &str = "model.sig";
/// The public key for it.
pub const MODEL_KEY: &str = "model.pub";
/// The statement for people.
pub const REPORT: &str = "report.html";
/// A time stamp of the envelope (RFC 3161).
pub const TIMESTAMP: &str = "statement.tsr";

/// What OpenSSF Model Signing calls its statements.
const MODEL_PREDICATE_TYPE: &str = "https://model_signing/signature/v1.0";
/// The form of its signatures.
const SIGSTORE_BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// What is to be proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A version of a registered model, by its number or an alias.
    Version {
        /// The registered model.
        model: String,
        /// The version.
        version: String,
    },
    /// A run by its id.
    Run(String),
}

/// A bundle.
pub struct Evidence {
    /// Its parts.
    pub parts: Parts,
    /// What it states.
    pub statement: Statement<Predicate>,
}

impl Evidence {
    /// Returns the bytes of the bundle.
    pub fn encode(&self) -> Result<Vec<u8>> {
        bundle::encode(&self.parts).map_err(|error| Error::Internal(error.to_string()))
    }
}

/// Gathers evidence from a snapshot. `as_of` is what was asked for, in words. With a key that reads content, everything is read.
///
/// Fails with [`Error::Refused`] if files are missing in the snapshot, or it was made before records committed to entries.
pub fn make(
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    (wanted, as_of): (&Wanted, Option<&str>),
    hears: &Hears,
) -> Result<Evidence> {
    let reader = ChunkReader::new(Arc::clone(repository));
    let asked = asked(&reader, snapshot, (wanted, as_of), hears)?;
    let (facts, run_facts) = facts(&reader, snapshot, &asked, hears)?;
    let found = find_files(&reader, snapshot, path_of(&facts)?, hears)?;
    let mut parts = Parts::new();
    let model_signature = sign_model(repository, &found, &asked, &mut parts)?;
    let predicate = Predicate {
        asked,
        repository: repository.id(),
        root_key: repository.config().root_key,
        pin: config::pin(repository.id(), &repository.config().root_key),
        snapshot: snapshot.id,
        arrived: snapshot.arrived,
        component: found.component.clone(),
        files: found.files.iter().map(|file| file.proof.clone()).collect(),
        facts,
        run_facts,
        model_signature,
        signer: repository.access().certificate.clone(),
        made: repository.clock().now(),
        program: PROGRAM.to_owned(),
    };
    let statement = Statement {
        kind: STATEMENT_TYPE.to_owned(),
        subject: found.files.iter().map(subject).collect(),
        predicate_type: PREDICATE_TYPE.to_owned(),
        predicate,
    };
    let payload = text(&statement)?;
    let envelope = Envelope::sign(&payload, repository.access().signer().seed);
    parts.insert(ENVELOPE.to_owned(), text(&envelope)?.into_bytes());
    parts.insert(STATEMENT.to_owned(), payload.into_bytes());
    parts.insert(RECORD.to_owned(), repository.signed_record(&snapshot.id)?);
    // Once over, as whoever gets it will do: what does not prove anything must not be handed out.
    let verified = verify::open_parts(&parts)?;
    parts.insert(REPORT.to_owned(), page::html(&verified).into_bytes());
    Ok(Evidence { parts, statement })
}

fn text(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string_pretty(value).map_err(|error| Error::Internal(error.to_string()))
}

fn asked(
    reader: &ChunkReader,
    snapshot: &Snapshot,
    (wanted, as_of): (&Wanted, Option<&str>),
    hears: &Hears,
) -> Result<Asked> {
    let SourceRecord::Deployment { name } = &snapshot.record.source else {
        return Err(Error::NotFound(format!("The snapshot {} is of no deployment", snapshot.id.short())));
    };
    let mut asked =
        Asked { deployment: name.clone(), model: None, version: None, run: None, as_of: as_of.map(str::to_owned) };
    match wanted {
        Wanted::Version { model, version } => {
            let browser = Browser { reader, snapshot, hears };
            asked.version = Some(browser.version(model, Some(version))?.version.version);
            asked.model = Some(model.clone());
        }
        Wanted::Run(id) => asked.run = Some(id.clone()),
    }
    Ok(asked)
}

/// Returns what the catalogue says, of a version of its run too.
fn facts(reader: &ChunkReader, snapshot: &Snapshot, asked: &Asked, hears: &Hears) -> Result<(Facts, Option<Facts>)> {
    let subject = match (&asked.model, &asked.run) {
        (Some(name), _) => Subject::Model { name: name.clone(), version: asked.version },
        (None, run) => Subject::Run(run.clone().unwrap_or_default()),
    };
    let facts = history::facts_in(reader, snapshot, &subject, hears)?
        .ok_or_else(|| Error::NotFound(format!("The snapshot {} has no {subject}", snapshot.id.short())))?;
    let run = facts.get(RUN).and_then(Json::as_str).filter(|run| asked.model.is_some() && !run.is_empty());
    let run_facts = match run {
        Some(run) => history::facts_in(reader, snapshot, &Subject::Run(run.to_owned()), hears)?,
        None => None,
    };
    Ok((facts, run_facts))
}

fn path_of(facts: &Facts) -> Result<&str> {
    let state = facts.get(history::FILES_STATE).and_then(Json::as_str).unwrap_or("absent");
    let path = facts.get(FILES_PATH).and_then(Json::as_str);
    match (path, state) {
        (Some(path), "present" | "carried_over") => Ok(path),
        (_, state) => Err(Error::Refused(format!("The snapshot does not have all of its files: they are {state}"))),
    }
}

fn subject(file: &files::ProvedFile) -> File {
    File { name: file.proof.name.clone(), digest: Digests { sha256: file.sha256, blake3: Some(file.blake3) } }
}

/// Signs the files for OpenSSF Model Signing, if their SHA-256 is known, and returns what the statement says of that.
fn sign_model(
    repository: &Repository,
    found: &Found,
    asked: &Asked,
    parts: &mut Parts,
) -> Result<Option<ModelSignature>> {
    let mut digests = BTreeMap::new();
    for file in &found.files {
        let Some(sha256) = file.sha256 else { return Ok(None) };
        digests.insert(file.proof.name.as_str(), sha256);
    }
    let key = ModelKey::of(repository.access().signer().seed);
    let payload = text(&model_statement(&digests, asked))?;
    let pem = key.public_pem();
    let envelope = Envelope::new(&payload, String::new(), &key.sign(signed_text(&payload).as_bytes()));
    let signature = text(&json!({
        "mediaType": SIGSTORE_BUNDLE,
        "verificationMaterial": { "publicKey": { "hint": sha256(pem.as_bytes()) }, "tlogEntries": [] },
        "dsseEnvelope": envelope,
    }))?;
    let said = ModelSignature { signature: sha256(signature.as_bytes()), key: sha256(pem.as_bytes()) };
    parts.insert(MODEL_SIGNATURE.to_owned(), signature.into_bytes());
    parts.insert(MODEL_KEY.to_owned(), pem.into_bytes());
    Ok(Some(said))
}

fn model_statement(digests: &BTreeMap<&str, Sha256Digest>, asked: &Asked) -> Json {
    let all: Vec<u8> = digests.values().flat_map(|digest| *digest.as_bytes()).collect();
    let resource =
        |(name, digest): (&&str, &Sha256Digest)| json!({ "name": name, "algorithm": "sha256", "digest": digest });
    let name = match (&asked.model, asked.version, &asked.run) {
        (Some(model), Some(version), _) => format!("{model}-{version}"),
        (.., run) => run.clone().unwrap_or_default(),
    };
    json!({
        "_type": STATEMENT_TYPE,
        "subject": [{ "name": name, "digest": { "sha256": sha256(&all) } }],
        "predicateType": MODEL_PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files", "hash_type": "sha256", "allow_symlinks": false, "ignore_paths": [MODEL_SIGNATURE],
            },
            "resources": digests.iter().map(resource).collect::<Vec<_>>(),
        },
    })
}
