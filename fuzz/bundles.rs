//! Bundles of evidence: the file as anybody may hand it over, and the statement in one as a holder of a key could have signed it.

use mlvault::audit::evidence::verify;
use mlvault::audit::evidence::{ENVELOPE, RECORD, STATEMENT};
use mlvault::crypto::merkle;
use mlvault::format::BlobKind;
use mlvault::format::bundle::{self, Parts};
use mlvault::format::commitment::{self, Commitment};
use mlvault::format::config;
use mlvault::format::snapshot::{self, SessionOutcome, Signer, SnapshotRecord};
use mlvault::format::statement::{
    Asked, Digests, Envelope, FileProof, PREDICATE_TYPE, Predicate, STATEMENT_TYPE, Statement, Subject,
};
use mlvault::format::tree::{Entry, EntryKind, FileContent, Metadata};
use mlvault::id::{CommitmentNonce, Digest, LeafSalt, TreeHash};

use super::{REPOSITORY, SESSION, certificate, root_key, signing_seed};

const SALT: LeafSalt = LeafSalt::from_bytes([9; 32]);
const DIGEST: Digest = Digest::from_bytes([8; 32]);

pub fn bundle(data: &[u8]) {
    if let Ok(parts) = bundle::decode(data) {
        assert_eq!(bundle::encode(&parts).expect("what was read can be written"), data);
    }
    let _ = verify::open(data);
}

pub fn statement(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(verified) = verify::open_parts(&parts_with(text)) {
        assert!(!verified.statement.predicate.files.is_empty());
    }
}

fn parts_with(statement: &str) -> Parts {
    let envelope = Envelope::sign(statement, &signing_seed());
    let envelope = serde_json::to_vec(&envelope).expect("an envelope is always representable as JSON");
    let parts = [(ENVELOPE, envelope), (STATEMENT, statement.as_bytes().to_vec()), (RECORD, record())];
    parts.map(|(name, content)| (name.to_owned(), content)).into()
}

/// Returns bundles.
pub fn bundles() -> Vec<Vec<u8>> {
    // Without the envelope, which has the statement once more: inputs are short.
    let mut parts = parts_with(&text());
    parts.remove(ENVELOPE);
    let bundles = [Parts::new(), parts];
    bundles.iter().map(|parts| bundle::encode(parts).expect("the parts have plain names")).collect()
}

/// Returns statements.
pub fn statements() -> Vec<Vec<u8>> {
    vec![text().into_bytes()]
}

/// The leaves of the component: a file, and something beside it.
fn leaves() -> [TreeHash; 2] {
    let content = FileContent {
        size: 3,
        digest: DIGEST,
        chunks: Vec::new(),
        kind: BlobKind::Data,
        indirect: false,
        sparse: false,
        racy: false,
        hard_link: None,
    };
    let (metadata, attributes) = (Metadata::default(), Vec::new());
    let entry = Entry { path: b"1/m/model.bin".to_vec(), metadata, kind: EntryKind::File(content), attributes };
    [commitment::leaf(&SALT, &commitment::content(&entry)), merkle::leaf(b"other")]
}

fn record() -> Vec<u8> {
    let commitment = Commitment { root: merkle::root(&leaves()), nonce: CommitmentNonce::from_bytes([1; 16]) };
    let record = serde_json::json!({
        "started": "2026-01-01T00:00:00Z", "finished": "2026-01-01T00:00:00Z", "host": "pod", "program": "mlvault",
        "source": { "type": "deployment", "name": "p" }, "tags": [], "parent": null, "seen": [],
        "components": [{ "name": "artifacts/a", "root": "08".repeat(32), "entries": 2, "bytes": 3,
                         "completeness": "complete", "commitment": commitment }],
        "completeness": "complete", "problems": [], "problem_count": 0,
        "statistics": { "files_new": 0, "files_changed": 0, "files_unchanged": 0, "bytes_read": 0, "chunks_new": 0,
                        "bytes_new": 0, "bytes_stored": 0, "duration_ms": 0 },
    });
    let record: SnapshotRecord = serde_json::from_value(record).expect("the record is as the format says");
    let (certificate, seed) = (certificate(), signing_seed());
    let signer = Signer { certificate: &certificate, seed: &seed };
    snapshot::encode(REPOSITORY, SESSION, &SessionOutcome::Snapshot(Box::new(record)), &signer)
}

fn text() -> String {
    let (name, path) = ("model.bin".to_owned(), "1/m/model.bin".to_owned());
    let proof = merkle::inclusion(&leaves(), 0).expect("there is such a leaf");
    let asked =
        Asked { deployment: "p".to_owned(), model: Some("m".to_owned()), version: Some(1), run: None, as_of: None };
    let statement = Statement {
        kind: STATEMENT_TYPE.to_owned(),
        subject: vec![Subject { name: name.clone(), digest: Digests { sha256: None, blake3: Some(DIGEST) } }],
        predicate_type: PREDICATE_TYPE.to_owned(),
        predicate: Predicate {
            asked,
            repository: REPOSITORY,
            root_key: root_key(),
            pin: config::pin(REPOSITORY, &root_key()),
            snapshot: SESSION,
            arrived: jiff::Timestamp::UNIX_EPOCH,
            component: "artifacts/a".to_owned(),
            files: vec![FileProof { name, path, bytes: 3, index: 0, salt: SALT, proof }],
            facts: [("stage".to_owned(), "None".into())].into(),
            run_facts: None,
            model_signature: None,
            signer: certificate(),
            made: jiff::Timestamp::UNIX_EPOCH,
            program: "mlvault".to_owned(),
        },
    };
    let text = serde_json::to_string(&statement).expect("a statement is always representable as JSON");
    assert!(verify::open_parts(&parts_with(&text)).is_ok(), "the seed is genuine");
    text
}
