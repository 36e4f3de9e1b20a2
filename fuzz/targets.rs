//! The bodies of all fuzz targets: one for each kind of stored bytes, and one for each text that comes from outside.
//!
//! `fuzz_targets/*.rs` run them under libFuzzer, `tests/fuzz_smoke.rs` with inputs of its own. A body states what must
//! hold for any input, beyond not panicking: what is accepted encodes to the same bytes again, is within its limits,
//! and can be used.
//!
//! What is sealed or signed cannot be forged by mutation: such kinds have a target for the stored form, which must be
//! refused unless it is genuine, and one for what is inside, as a holder of the keys could have written it.

#[path = "bundles.rs"]
pub mod bundles;
#[path = "outside.rs"]
mod outside;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use mlvault::backend::location::RepositoryLocation;
use mlvault::check::Subset;
use mlvault::chunker::{Chunker, ContentClass};
use mlvault::compress::{self, Codec};
use mlvault::config::file::ConfigFile;
use mlvault::crypto::keys::{self, DataPublicKey, MetaKeys, Secret};
use mlvault::crypto::passphrase::{Credential, KeyFile};
use mlvault::crypto::seal::MessageKey;
use mlvault::crypto::sign;
use mlvault::database::uri::DatabaseUri;
use mlvault::format::checkpoint::Note;
use mlvault::format::chunk::{CHUNK_LEN_MAX, ChunkContext, ChunkHeader, OVERHEAD, STORED_LEN_MAX};
use mlvault::format::config::RepositoryConfig;
use mlvault::format::countersignature::Countersignature;
use mlvault::format::evidence;
use mlvault::format::forgotten;
use mlvault::format::key_slot::{self, Certificate, Grant, Role, SlotHeader};
use mlvault::format::log;
use mlvault::format::note;
use mlvault::format::object::{self, BODY_LEN_MAX, ObjectKind};
use mlvault::format::pack::{self, DIRECTORY_ENTRY_LEN, FOOTER_LEN, Footer, HEADER_LEN, PACK_LEN_MAX, PackHeader};
use mlvault::format::plan;
use mlvault::format::segment::Segment;
use mlvault::format::session::SessionRecord;
use mlvault::format::session_header::{SESSION_HEADER_LEN, SessionHeader};
use mlvault::format::session_keys::{SessionKeys, SessionName};
use mlvault::format::snapshot::{self, SessionOutcome, Signer, SnapshotRecord, SourceRecord};
use mlvault::format::tombstone::Tombstone;
use mlvault::format::tree::{self, Entry, EntryKind, Node};
use mlvault::format::{BlobKind, Cursor, FORMAT_VERSION, attributes, xattrs};
use mlvault::id::{EvidenceId, NoteId, PlanId, RepositoryId, SessionId, SignerKey, SlotId};
use mlvault::repository::layout::Object;
use mlvault::repository::naming::Named;
use mlvault::repository::snapshots::Snapshot;
use mlvault::retention::policy::Age;
use mlvault::s3::{BucketLocation, ObjectFacts, ObjectHeaders};
use mlvault::sql::guard::{Guard, id_of};
use mlvault::sql::lexer::statements;
use mlvault::sql::script::{Piece, ScriptReader, Statement};
use mlvault::sql::{Dialect, copy, literal};
use mlvault::target::directory::parts;
use mlvault::units::parse_bytes;

/// What a target does with an input: panics if something does not hold.
pub type Target = fn(&[u8]);

/// All targets by name. Each has a file of its name in `fuzz_targets/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("object", sealed_object),
    ("object_payload", object_payload),
    ("config", config),
    ("config_signed", signed_config),
    ("key_slot", key_slot),
    ("key_slot_secrets", key_slot_secrets),
    ("pack_header", pack_header),
    ("pack_footer", pack_footer),
    ("pack_directory", pack_directory),
    ("pack", sealed_pack),
    ("segment", segment),
    ("session", session),
    ("tombstone", tombstone),
    ("countersignature", countersignature),
    ("snapshot", signed_snapshot),
    ("snapshot_record", snapshot_record),
    ("forgotten", forgotten_record),
    ("note", note_record),
    ("evidence", evidence_record),
    ("log_entry", log_record),
    ("checkpoint", checkpoint),
    ("bundle", bundles::bundle),
    ("statement", bundles::statement),
    ("plan", plan_record),
    ("tree_node", tree_node),
    ("chunk_refs", chunk_refs),
    ("chunk", sealed_chunk),
    ("compressed", compressed),
    ("key_file", key_file),
    ("target_path", target_path),
    ("config_file", config_file),
    ("location", location),
    ("object_key", object_key),
    ("snapshot_name", snapshot_name),
    ("byte_size", byte_size),
    ("age", age),
    ("subset", subset),
    ("copy_row", copy_row),
    ("sqlite_row", sqlite_row),
    ("script_postgresql", script_postgresql),
    ("script_sqlite", script_sqlite),
    ("statement_postgresql", statement_postgresql),
    ("statement_sqlite", statement_sqlite),
    ("database_uri", database_uri),
    ("verified", outside::verified),
    ("deployment_record", outside::deployment_record),
    ("catalogue_line", outside::catalogue_line),
    ("row_spool", outside::row_spool),
    ("mlflow_uri", outside::mlflow_uri),
    ("tracking_answer", outside::tracking_answer),
    ("pgpass", outside::pgpass),
    ("listing", outside::listing),
    ("policy", outside::policy),
    ("setting", outside::setting),
];

/// Runs the target of that name.
pub fn run(name: &str, data: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target of that name");
    target(data);
}

/// The repository that all sealed seeds belong to.
pub const REPOSITORY: RepositoryId = RepositoryId::from_bytes([1; 16]);
/// The session that all sealed seeds belong to.
pub const SESSION: SessionId = SessionId::from_bytes([2; 16]);

/// Returns the whole name of that session.
pub fn session_name() -> SessionName {
    SessionName { repository: REPOSITORY, session: SESSION, slot: SlotId::from_bytes([7; 8]) }
}
/// The key slot that all sealed seeds belong to.
pub const SLOT: SlotId = SlotId::from_bytes([7; 8]);
/// The key of the sealed chunks and packs among the seeds.
const CHUNK_KEY: [u8; 32] = [8; 32];

/// Returns that key.
pub fn chunk_key() -> MessageKey {
    MessageKey::new(zeroize::Zeroizing::new(CHUNK_KEY))
}
/// Longest content that the target `compressed` lets an input declare, in bytes.
pub const DECLARED_LEN_MAX: usize = 1 << 20;

/// The meta keys of the repository of the seeds.
pub fn meta_keys() -> MetaKeys {
    MetaKeys::new(Secret::new([5; 32]))
}

/// The data key pair of the repository of the seeds.
pub fn data_keys() -> (Secret, DataPublicKey) {
    let secret = Secret::new([6; 32]);
    let public = keys::data_public_key(&secret).expect("the secret is sound");
    (secret, public)
}

/// The seed of the root key of the repository of the seeds.
pub fn root_seed() -> Secret {
    Secret::new([3; 32])
}

/// The signing seed of the slot of the seeds.
pub fn signing_seed() -> Secret {
    Secret::new([4; 32])
}

/// The certificate of the slot of the seeds.
pub fn certificate() -> Certificate {
    let signer = sign::signer_key(&signing_seed());
    let created = jiff::Timestamp::UNIX_EPOCH;
    let grant = Grant { slot: SLOT, label: "cron", role: Role::Maintainer, created, signer };
    Certificate::issue(REPOSITORY, &root_seed(), grant)
}

fn root_key() -> SignerKey {
    sign::signer_key(&root_seed())
}

/// Returns `data` with one bit changed, at a place that depends on it.
fn damaged(data: &[u8]) -> Vec<u8> {
    let mut damaged = data.to_vec();
    let at = data.iter().fold(data.len(), |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    let len = damaged.len();
    damaged[at % len] ^= 1 << (at % 8);
    damaged
}

fn sealed_object(data: &[u8]) {
    let keys = meta_keys();
    let kinds =
        [ObjectKind::Config, ObjectKind::Snapshot, ObjectKind::Session, ObjectKind::Tombstone, ObjectKind::Segment];
    let openings = kinds.map(|kind| object::open(&keys, REPOSITORY, kind, "name", data));
    let opened = openings.iter().filter(|opening| opening.is_ok()).count();
    assert!(opened <= 1, "one object opens as two kinds");
    if opened == 1 {
        assert_eq!(object::peek_repository(data), Ok(REPOSITORY));
        assert_eq!(object::peek_version(data), Ok(FORMAT_VERSION));
        assert!(kinds.iter().all(|kind| object::open(&keys, REPOSITORY, *kind, "name", &damaged(data)).is_err()));
        assert!(kinds.iter().all(|kind| object::open(&keys, REPOSITORY, *kind, "another", data).is_err()));
    }
}

fn object_payload(data: &[u8]) {
    let Ok(body) = object::open_payload(data) else { return };
    let declared = u32::from_le_bytes(data[8..12].try_into().expect("four bytes"));
    assert_eq!(body.len(), declared as usize);
    assert!(body.len() <= BODY_LEN_MAX);
    let mut padded = data.to_vec();
    padded.push(1);
    assert!(object::open_payload(&padded).is_err(), "padding hides something");
}

fn config(data: &[u8]) {
    let Ok(config) = RepositoryConfig::decode(data) else { return };
    assert_eq!(RepositoryConfig::decode(&config.encode()).as_ref(), Ok(&config));
    assert!(config.chunk_len_max() <= CHUNK_LEN_MAX as u64);
    assert!(u64::from(config.pack_bytes) <= PACK_LEN_MAX);
    let chunker = Chunker::new(&[9; 2048], config.chunk_profiles);
    for class in [ContentClass::Text, ContentClass::Binary] {
        for len in [1, 63, 64, 65, 4096] {
            assert!((1..=len).contains(&chunker.cut(class, &vec![0x55; len])));
        }
    }
    // Whatever is accepted as a public key, a session can seal to it.
    SessionKeys::create(session_name(), &meta_keys(), &config.data_public_key);
}

fn signed_config(data: &[u8]) {
    let Ok(config) = RepositoryConfig::verify(data, REPOSITORY, &root_key()) else { return };
    assert_eq!((config.repository, config.root_key), (REPOSITORY, root_key()));
    assert!(RepositoryConfig::verify(&damaged(data), REPOSITORY, &root_key()).is_err());
}

/// The checksum is put right, so that what is behind it is reached. Only a key file is tried: Argon2 is slow by design,
/// and its costs are checked before it runs.
fn key_slot(data: &[u8]) {
    let credential = Credential::KeyFile(Secret::new([9; 32]));
    let checksum = blake3::hash(data);
    let bytes = [data, checksum.as_bytes()].concat();
    assert!(key_slot::checked(&damaged(&bytes)).is_err());
    let header = SlotHeader::decode(data);
    let opened = key_slot::open(&bytes, &credential);
    let described = key_slot::open_description(&bytes, &meta_keys(), REPOSITORY, &root_key());
    let Ok(header) = header else {
        return assert!(opened.is_err() && described.is_err());
    };
    if header.by_passphrase {
        assert!(matches!(opened, Ok(None)), "a key file opens a passphrase's slot");
    }
    if let Ok(Some(secrets)) = opened {
        assert_eq!(secrets.role.reads_content(), secrets.data.is_some());
    }
    if let Ok(certificate) = described {
        assert_eq!(certificate.slot, header.slot);
        assert!(certificate.is_issued_by(&root_key(), REPOSITORY));
    }
}

fn key_slot_secrets(data: &[u8]) {
    let Ok(secrets) = key_slot::decode_secrets(data) else { return };
    let optional = |secret: &Option<Secret>| secret.as_ref().map_or([0; 32], |secret| **secret);
    let mut plain = vec![secrets.role as u8, 0, 0, 0, 0, 0, 0, 0];
    plain.extend_from_slice(&*secrets.meta);
    plain.extend_from_slice(&*secrets.signing_seed);
    plain.extend_from_slice(&optional(&secrets.data));
    plain.extend_from_slice(&optional(&secrets.root_seed));
    plain.extend_from_slice(secrets.root_key.as_bytes());
    assert_eq!(plain, data);
}

fn pack_header(data: &[u8]) {
    if let Ok(session) = SessionHeader::decode(&mut Cursor::new(data)) {
        assert_eq!(session.encode(), data[..SESSION_HEADER_LEN]);
    }
    let Ok(header) = PackHeader::decode(data) else { return };
    assert_eq!(header.encode(), data[..HEADER_LEN]);
    // Costs a curve multiplication, so only for some.
    if data[HEADER_LEN - 1].is_multiple_of(16) {
        let (secret, _) = data_keys();
        let elsewhere = RepositoryId::from_bytes([0xEE; 16]);
        assert!(header.session.data_key(elsewhere, &meta_keys(), &secret).is_err());
        let _ = header.session.data_key(header.repository, &meta_keys(), &secret);
    }
}

/// The first eight bytes are the length of the pack.
fn pack_footer(data: &[u8]) {
    let Some((pack_len, plain)) = data.split_first_chunk() else { return };
    let pack_len = u64::from_le_bytes(*pack_len);
    let Ok(footer) = pack::decode_footer(plain, pack_len) else { return };
    assert!(pack_len <= PACK_LEN_MAX);
    assert!(footer.directory_offset >= HEADER_LEN as u64);
    assert!(footer.directory_offset + footer.directory_len + FOOTER_LEN as u64 <= pack_len);
    assert!(footer.chunk_count * DIRECTORY_ENTRY_LEN < footer.directory_len as usize);
    let values = [footer.directory_offset as u32, footer.directory_len as u32, footer.chunk_count as u32, 0];
    assert_eq!(values.map(u32::to_le_bytes).concat(), plain);
}

/// The first eight bytes are what the footer says: offset of the directory and count.
fn pack_directory(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    let (Ok(offset), Ok(count)) = (cursor.u32(), cursor.u32()) else { return };
    let plain = cursor.remainder();
    let footer = Footer { directory_offset: offset.into(), directory_len: 0, chunk_count: count as usize };
    let Ok(chunks) = pack::decode_directory(plain, &footer) else { return };
    assert_eq!(chunks.len(), count as usize);
    assert_eq!(
        chunks.iter().map(|chunk| u64::from(chunk.stored_len)).sum::<u64>() + HEADER_LEN as u64,
        u64::from(offset)
    );
    chunks.iter().for_each(assert_chunk_header);
    let mut again = Vec::new();
    chunks.iter().for_each(|chunk| pack::encode_chunk_header(chunk, &mut again));
    assert_eq!(again, plain);
}

fn assert_chunk_header(header: &ChunkHeader) {
    assert!(header.plain_len as usize <= CHUNK_LEN_MAX);
    assert!((OVERHEAD..=STORED_LEN_MAX).contains(&(header.stored_len as usize)));
}

/// A whole pack, read as a check reads it: header, footer from the end, directory.
fn sealed_pack(data: &[u8]) {
    let key = chunk_key();
    let Some(tail) = data.len().checked_sub(FOOTER_LEN) else { return };
    let Ok(header) = PackHeader::decode(data) else { return };
    let Ok(footer) = pack::open_footer(&header, &key, data.len() as u64, &data[tail..]) else { return };
    let (start, len) = (footer.directory_offset as usize, footer.directory_len as usize);
    let Ok(chunks) = pack::open_directory(&header, &key, &footer, &data[start..start + len]) else { return };
    let end = chunks.iter().fold(HEADER_LEN, |end, chunk| end + chunk.stored_len as usize);
    assert_eq!(end, start);
}

fn segment(data: &[u8]) {
    let Ok(segment) = Segment::decode(data) else { return };
    assert_eq!(segment.encode(), data);
    for pack in &segment.packs {
        assert!(pack.len <= PACK_LEN_MAX);
        for (offset, chunk) in pack.located_chunks() {
            assert_chunk_header(chunk);
            assert!(offset + u64::from(chunk.stored_len) <= pack.len);
        }
    }
}

fn session(data: &[u8]) {
    let Ok(record) = SessionRecord::decode(data) else { return };
    assert_eq!(SessionRecord::decode(&record.encode()), Ok(record));
}

fn tombstone(data: &[u8]) {
    let Ok(tombstone) = Tombstone::decode(data) else { return };
    assert!(tombstone.packs.len() * 64 <= data.len());
    assert_eq!(Tombstone::decode(&tombstone.encode()), Ok(tombstone));
}

fn countersignature(data: &[u8]) {
    let Ok(read) = Countersignature::decode(data) else { return };
    assert!(read.packs.len() * 64 <= data.len());
    assert_eq!(Countersignature::decode(&read.encode()), Ok(read));
}

fn signed_snapshot(data: &[u8]) {
    let Ok((_, certificate)) = snapshot::decode(REPOSITORY, SESSION, &root_key(), data) else { return };
    assert!(certificate.is_issued_by(&root_key(), REPOSITORY));
    let other = SessionId::from_bytes([0xEE; 16]);
    assert!(snapshot::decode(REPOSITORY, other, &root_key(), data).is_err());
}

/// The first byte is the kind of the outcome.
fn snapshot_record(data: &[u8]) {
    let Some((kind, record)) = data.split_first() else { return };
    let Ok(outcome) = snapshot::decode_record(*kind, record) else { return };
    if let SessionOutcome::Snapshot(record) = &outcome
        && record.more.values().any(has_float)
    {
        return; // Floats may change in their last digit; nothing that mlvault writes is one.
    }
    let seed = signing_seed();
    let body = snapshot::encode(REPOSITORY, SESSION, &outcome, &Signer { certificate: &certificate(), seed: &seed });
    let (again, _) = snapshot::decode(REPOSITORY, SESSION, &root_key(), &body).expect("what was signed is authentic");
    assert_eq!(again, outcome);
}

fn forgotten_record(data: &[u8]) {
    let Ok(record) = forgotten::decode_record(data) else { return };
    let seed = signing_seed();
    let body = forgotten::encode(REPOSITORY, SESSION, &record, &Signer { certificate: &certificate(), seed: &seed });
    let (again, _) = forgotten::decode(REPOSITORY, SESSION, &root_key(), &body).expect("what was signed is authentic");
    assert_eq!(again, record);
}

fn note_record(data: &[u8]) {
    let Ok(record) = note::decode_record(data) else { return };
    let (id, seed) = (NoteId::from_bytes([2; 16]), signing_seed());
    let body = note::encode(REPOSITORY, id, &record, &Signer { certificate: &certificate(), seed: &seed });
    let (again, _) = note::decode(REPOSITORY, id, &root_key(), &body).expect("what was signed is authentic");
    assert_eq!(again, record);
}

fn evidence_record(data: &[u8]) {
    let Ok(record) = evidence::decode_record(data) else { return };
    let (id, seed) = (EvidenceId::from_bytes([2; 16]), signing_seed());
    let body = evidence::encode(REPOSITORY, id, &record, &Signer { certificate: &certificate(), seed: &seed });
    let (again, _) = evidence::decode(REPOSITORY, id, &root_key(), &body).expect("what was signed is authentic");
    assert_eq!(again, record);
}

fn log_record(data: &[u8]) {
    let Ok(record) = log::decode_record(data) else { return };
    let seed = signing_seed();
    let body = log::encode(REPOSITORY, 7, &record, &Signer { certificate: &certificate(), seed: &seed });
    let (again, _) = log::decode(REPOSITORY, 7, &root_key(), &body).expect("what was signed is authentic");
    assert_eq!(again, record);
}

fn checkpoint(data: &[u8]) {
    let Ok(note) = Note::parse(REPOSITORY, data) else { return };
    let signed = note.checkpoint.sign(REPOSITORY, &signing_seed());
    for text in [note.checkpoint.short(), signed] {
        assert_eq!(Note::parse(REPOSITORY, text.as_bytes()).expect("it was just made").checkpoint, note.checkpoint);
    }
}

fn plan_record(data: &[u8]) {
    let Some((shard, data)) = data.split_first() else { return };
    let shard = (*shard != 0).then(|| u32::from(*shard));
    let Ok(object) = plan::decode_record(shard, data) else { return };
    let (id, seed) = (PlanId::from_bytes([2; 16]), signing_seed());
    let body = plan::encode(REPOSITORY, id, &object, &Signer { certificate: &certificate(), seed: &seed });
    let (again, _) = plan::decode(REPOSITORY, (id, shard), &root_key(), &body).expect("what was signed is authentic");
    assert_eq!(again, object);
}

/// An age lies in the past, and can be subtracted from any time.
fn age(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(age) = text.parse::<Age>() else { return };
    for now in [jiff::Timestamp::UNIX_EPOCH, jiff::Timestamp::MIN, jiff::Timestamp::MAX] {
        assert!(age.before(now, &jiff::tz::TimeZone::UTC) <= now);
    }
}

fn has_float(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Number(number) => number.is_f64(),
        serde_json::Value::Array(values) => values.iter().any(has_float),
        serde_json::Value::Object(values) => values.values().any(has_float),
        _ => false,
    }
}

fn tree_node(data: &[u8]) {
    let Ok(node) = tree::decode_node(data) else { return };
    let mut again = Vec::new();
    match &node {
        Node::Leaf(entries) => {
            again.extend_from_slice(&tree::node_header(0, entries.len() as u32));
            entries.iter().for_each(|entry| tree::encode_entry(entry, &mut again));
            assert!(entries.is_sorted_by(|a, b| a.path < b.path));
            for entry in entries {
                assert!(!entry.path.is_empty());
                extended_attributes(entry);
                let ends_in_slash = entry.path.ends_with(b"/");
                match &entry.kind {
                    EntryKind::Directory => assert!(ends_in_slash, "{entry:?}"),
                    EntryKind::Symlink { .. } => assert!(!ends_in_slash, "{entry:?}"),
                    EntryKind::File(_) => object_attributes(&entry.attributes),
                }
                assert!(entry.file().is_none_or(|file| file.chunks.len() <= tree::DIRECT_CHUNKS_MAX));
            }
        }
        Node::Inner { level, children } => {
            assert!((1..=tree::LEVEL_MAX).contains(level));
            again.extend_from_slice(&tree::node_header(*level, children.len() as u32));
            children.iter().for_each(|child| tree::encode_child(child, &mut again));
            assert!(children.is_sorted_by(|a, b| a.first_path < b.first_path));
            assert!(children.iter().all(|child| !child.first_path.is_empty()));
        }
    }
    assert_eq!(again, data);
}

fn chunk_refs(data: &[u8]) {
    let Ok(refs) = tree::decode_chunk_refs(data) else { return };
    let mut again = Vec::new();
    refs.iter().for_each(|chunk| tree::encode_chunk_ref(chunk, &mut again));
    assert_eq!(again, data);
}

/// A chunk header as a directory has it, then the sealed chunk.
fn sealed_chunk(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    let Ok(header) = pack::decode_chunk_header(&mut cursor) else { return };
    let (keys, key, stored) = (meta_keys(), chunk_key(), cursor.remainder());
    let context = ChunkContext { key: &key, kind: BlobKind::Data, repository: REPOSITORY };
    let Ok(plain) = context.open(&header, &keys, stored) else { return };
    assert_eq!(plain.len(), header.plain_len as usize);
    assert_eq!(keys.chunk_id(BlobKind::Data as u8, &plain), header.id);
    assert!(context.open(&header, &keys, &damaged(stored)).is_err());
}

/// The first byte is the codec, the next four are the declared length.
fn compressed(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    let (Ok(codec), Ok(len)) = (cursor.u8(), cursor.u32()) else { return };
    let (Ok(codec), len) = (Codec::from_byte(codec), len as usize) else { return };
    if len > DECLARED_LEN_MAX {
        return;
    }
    let stored = cursor.remainder();
    let Ok(plain) = compress::decode(codec, stored, len) else { return };
    assert_eq!(plain.len(), len);
    assert!(codec == Codec::Zstd || plain == stored);
    let (codec, stored) = compress::encode_small(&plain);
    assert!(stored.len() <= plain.len());
    assert_eq!(compress::decode(codec, &stored, len), Ok(plain));
}

fn key_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(key) = KeyFile::decode(text) else { return };
    let squeeze = |text: &str| text.to_uppercase().replace(|c: char| c.is_whitespace() || c == '-', "");
    assert_eq!(squeeze(&key.encode()), squeeze(text));
}

fn target_path(data: &[u8]) {
    let Ok(parts) = parts(data) else { return };
    assert!(!parts.is_empty());
    let joined: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
    assert_eq!(joined.join(&b"/"[..]), data.strip_suffix(b"/").unwrap_or(data));
    let components: Vec<_> = Path::new(OsStr::from_bytes(data)).components().collect();
    assert_eq!(components, parts.iter().map(|part| Component::Normal(part)).collect::<Vec<_>>());
    assert!(parts.iter().all(|part| part.len() <= 255 && !part.as_bytes().contains(&0)));
}

fn config_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(file) = ConfigFile::parse(text) else { return };
    assert_eq!(ConfigFile::parse(text).as_ref(), Ok(&file));
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    assert_eq!(ConfigFile::parse(&format!("# a comment\n{text}")), Ok(file));
    assert!(ConfigFile::parse(&format!("no-such-key = 1\n{text}")).is_err());
}

/// They were looked at with the node, and are stored in one way only.
fn extended_attributes(entry: &Entry) {
    let stored = attributes::get(&entry.attributes, attributes::XATTRS);
    let found = entry.xattrs();
    assert_eq!(found.is_some(), stored.is_some());
    if let (Some(found), Some(stored)) = (found, stored) {
        assert!(stored.len() <= xattrs::XATTRS_LEN_MAX);
        assert_eq!(xattrs::encode(&found).as_deref(), Ok(stored));
    }
}

/// What can be sent with a restored object comes back the same when that object is backed up.
fn object_attributes(attributes: &[(u16, Vec<u8>)]) {
    let (headers, _) = ObjectHeaders::from_attributes(attributes);
    let facts = ObjectFacts { headers: headers.clone(), ..ObjectFacts::default() };
    assert_eq!(ObjectHeaders::from_attributes(&facts.attributes()), (headers, vec![]));
}

fn location(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(location) = text.parse::<BucketLocation>() {
        let printed = location.to_string();
        assert_eq!(printed, text.strip_suffix('/').unwrap_or(text));
        assert_eq!(printed.parse::<BucketLocation>().expect("what is printed is a location"), location);
    }
    if let Ok(location) = text.parse::<RepositoryLocation>() {
        let printed = location.to_string();
        assert_eq!(printed.parse::<RepositoryLocation>().expect("what is printed is a location"), location);
        match location {
            RepositoryLocation::Local(path) => assert_eq!(path.as_os_str().as_bytes(), data),
            RepositoryLocation::S3(BucketLocation { bucket, prefix }) => {
                assert!(!bucket.is_empty() && !bucket.contains('/'));
                let plain = |part: &str| !matches!(part, "" | "." | "..");
                assert!(prefix.is_empty() || prefix.split('/').all(plain));
            }
        }
    }
    let secret = "hunter2-correct-horse";
    if let Err(error) = format!("{text}{secret}").parse::<RepositoryLocation>() {
        assert!(!error.to_string().contains(secret), "a message repeats a location: {error}");
    }
}

fn snapshot_name(data: &[u8]) {
    let Ok(name) = std::str::from_utf8(data) else { return };
    let snapshots: Vec<Snapshot> = (0..4).map(snapshot_of_day).collect();
    let named = Named { names: vec![name.to_owned()], ..Named::default() };
    if let Ok(found) = named.among(&snapshots) {
        assert!(found.iter().all(|at| *at < snapshots.len()));
    }
    assert!(named.among(&[]).is_err());
}

/// The snapshots of four days in January 2026.
fn snapshot_of_day(day: u8) -> Snapshot {
    let started = jiff::Timestamp::from_second(1_767_225_600 + 86_400 * i64::from(day)).expect("a valid time");
    let record = SnapshotRecord {
        started,
        finished: started,
        host: String::new(),
        program: String::new(),
        source: SourceRecord::Paths { paths: Vec::new() },
        tags: Vec::new(),
        parent: None,
        seen: Vec::new(),
        components: Vec::new(),
        completeness: snapshot::Completeness::Complete,
        statistics: snapshot::Statistics::default(),
        problems: Vec::new(),
        problem_count: 0,
        accepted: Vec::new(),
        deployment: None,
        copied_from: None,
        rewritten_from: None,
        coverage: None,
        more: Default::default(),
    };
    let id = SessionId::new(started.as_millisecond().unsigned_abs(), [day; 10]);
    Snapshot { id, record, signer: certificate(), arrived: started }
}

/// Keys come from listings, which anybody who can write to the place can add to.
fn object_key(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(object) = Object::at(text) {
        let key = object.key();
        assert!(text.ends_with(&key));
        assert_eq!(Object::parse(&key), Some(object));
    }
    let Some(object) = Object::parse(text) else { return };
    assert_eq!(object.key(), text);
    assert_eq!(Object::at(text), Some(object));
    assert_eq!(Object::parse(&format!("{text}/")), None);
    assert_eq!(Object::parse(&format!("/{text}")), None);
}

fn byte_size(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some(bytes) = parse_bytes(text) else { return };
    assert_eq!(parse_bytes(&bytes.to_string()), Some(bytes));
    assert_eq!(parse_bytes(&format!(" {text}\n")), Some(bytes));
    assert!(text.trim_start().starts_with(|c: char| c.is_ascii_digit()));
}

fn subset(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.parse() {
        Ok(Subset::Percent(percent)) => assert!(percent > 0.0 && percent <= 100.0),
        Ok(Subset::Part { part, of }) => assert!((1..=of).contains(&part)),
        Ok(Subset::Bytes(bytes)) => assert!(bytes > 0),
        Err(_) => {}
    }
}

/// The first byte tells how many columns there are.
fn copy_row(data: &[u8]) {
    let Some((columns, line)) = data.split_first() else { return };
    let Ok(row) = copy::decode_row(line, usize::from(*columns)) else { return };
    let mut again = Vec::new();
    copy::encode_row(&row, &mut again);
    assert_eq!((row.len(), again.as_slice()), (usize::from(*columns), line));
}

/// The first byte tells how many columns there are.
fn sqlite_row(data: &[u8]) {
    let Some((columns, list)) = data.split_first() else { return };
    let Ok(row) = literal::decode_values(list, usize::from(*columns)) else { return };
    let mut again = Vec::new();
    literal::encode_values(&row, &mut again);
    assert_eq!((row.len(), again.as_slice()), (usize::from(*columns), list));
}

fn script_postgresql(data: &[u8]) {
    script(data, Dialect::Postgresql);
}

fn script_sqlite(data: &[u8]) {
    script(data, Dialect::Sqlite);
}

/// Rows come between the beginning and the end of a table only, with a value for each column.
fn script(data: &[u8], dialect: Dialect) {
    let mut reader = ScriptReader::new(data, dialect);
    let mut columns = None;
    while let Ok(Some(piece)) = reader.next_piece() {
        match piece {
            Piece::Statement(statement) => assert!(columns.is_none() && !statement.text.is_empty()),
            Piece::Table(head) => assert!(columns.replace(head.columns.len()).is_none()),
            Piece::Row(row) => assert_eq!(Some(row.len()), columns),
            Piece::TableEnd => assert!(columns.take().is_some()),
        }
    }
}

fn statement_postgresql(data: &[u8]) {
    statement(data, Dialect::Postgresql);
}

fn statement_sqlite(data: &[u8]) {
    statement(data, Dialect::Sqlite);
}

/// What may be run is one statement and begins as one that makes or fills tables; what may not can be allowed by its id.
fn statement(data: &[u8], dialect: Dialect) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let statement = Statement { text: text.to_owned(), line: 1 };
    let Err(refused) = Guard::new(dialect, &[]).check(&statement) else {
        let found = statements(dialect, data);
        assert_eq!(found.len(), 1);
        let begins = ["ALTER", "COMMENT", "CREATE", "DELETE", "INSERT", "PRAGMA", "SELECT", "SET"];
        let first = text.split_whitespace().next().unwrap_or_default();
        assert!(begins.iter().any(|word| first.eq_ignore_ascii_case(word)), "{first}");
        return;
    };
    assert_eq!(refused.id, Some(id_of(text)));
    assert!(Guard::new(dialect, &[id_of(text)]).check(&statement).is_ok());
}

/// A URI shows no password, and what it shows is read as the same place.
fn database_uri(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(uri) = DatabaseUri::parse(text, None) else { return };
    let shown = uri.to_string();
    assert_eq!(format!("{uri:?}"), format!("DatabaseUri({shown})"));
}
