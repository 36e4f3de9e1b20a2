//! What mutation starts from: for each target, what the real encoders make, in small.

use mlvault::compress::{self, Codec, Encoder};
use mlvault::crypto::keys::Secret;
use mlvault::crypto::passphrase::{Argon2Cost, Credential, KeyFile, KeyHint};
use mlvault::crypto::sign;
use mlvault::format::chunk::{ChunkContext, ChunkHeader};
use mlvault::format::config::{ChunkProfiles, RepositoryConfig};
use mlvault::format::countersignature::{Countersignature, SoundPack};
use mlvault::format::key_slot::{self, Role, RoleSecrets};
use mlvault::format::object::{self, ObjectKind};
use mlvault::format::pack::{self, PackBuilder, PackHeader};
use mlvault::format::segment::{IndexedPack, Segment};
use mlvault::format::session::SessionRecord;
use mlvault::format::session_header::SessionHeader;
use mlvault::format::session_keys::SessionKeys;
use mlvault::format::snapshot::{
    self, Completeness, Component, CopiedFrom, Coverage, ProblemRecord, RewrittenFrom, SessionOutcome, Signer,
    SnapshotRecord, SourceRecord, Statistics, VoidRecord,
};
use mlvault::format::tombstone::Tombstone;
use mlvault::format::tree::{
    self, Child, ChunkRef, Entry, EntryKind, FileContent, FileTime, Metadata, NODE_HEADER_LEN,
};
use mlvault::format::{BlobKind, FORMAT_VERSION, attributes, xattrs};
use mlvault::id::{
    ChunkId, Digest, DirectoryHash, EvidenceId, NoteId, PackId, Pin, PlanId, SegmentId, SessionId, SlotId, TombstoneId,
};
use mlvault::repository::layout::Object;

use super::targets::{self, REPOSITORY, SESSION};

/// Returns the seeds of a target.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "object" => [ObjectKind::Config, ObjectKind::Segment].map(object_seed).to_vec(),
        "object_payload" => vec![payload(b""), payload(&[7; 300]), payload(&noise(100))],
        "config_signed" => vec![config().sign(&targets::root_seed())],
        "config" => vec![config().encode(), config_with_key_zero(), nested("{\"format\":1,\"created\":", "[")],
        "key_slot" => vec![slot(Role::Writer), slot(Role::Maintainer)],
        "key_slot_secrets" => [Role::Writer, Role::Reader, Role::Maintainer].map(secrets_plain).to_vec(),
        "pack_header" => vec![pack_header().encode().to_vec(), session_header(1).encode().to_vec()],
        "pack_footer" => vec![footer(1, 300), footer(30, 1 << 20)],
        "pack_directory" => vec![directory(0), directory(1), directory(20)],
        "pack" => vec![whole_pack()],
        "segment" => vec![segment(&[], 0), segment(&[1], 3), segment(&[1, 2, 1], 2)],
        "session" => vec![session()],
        "countersignature" => [0, 3].map(|count| countersignature(count).encode()).to_vec(),
        "tombstone" => [0, 3].map(|count| tombstone(count).encode()).to_vec(),
        "snapshot" => vec![body(&record()), body(&void())],
        "snapshot_record" => vec![tagged(1, &record()), tagged(2, &void()), nested("\u{1}{\"more\":", "{\"a\":[")],
        "forgotten" => {
            texts(&[r#"{"at":"2026-01-01T00:00:00Z","reason":"policy production","program":"mlvault 0.1.0"}"#])
        }
        "note" => texts(&NOTES),
        "evidence" => texts(&EVIDENCE),
        "log_entry" => texts(&[LOG_ENTRY]),
        "checkpoint" => texts(&[CHECKPOINT, "1 6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"]),
        "bundle" => targets::bundles::bundles(),
        "statement" => targets::bundles::statements(),
        "plan" => texts(&PLANS),
        "tree_node" => vec![leaf(&entries()), leaf(&[]), leaf(&[file_like_a_directory()]), inner(1, 3), inner(8, 1)],
        "chunk_refs" => vec![chunk_list(0), chunk_list(1), chunk_list(10)],
        "chunk" => vec![sealed_chunk(b""), sealed_chunk(&[7; 500]), sealed_chunk(&noise(64))],
        "compressed" => vec![compressed(b""), compressed(&[7; 5000]), compressed(&noise(64)), frame_of_zeros()],
        "key_file" => {
            let hint = KeyHint { slot: SlotId::from_bytes([3; 8]), pin: Pin::from_bytes([4; 16]) };
            let hinted = KeyFile { secret: Secret::new([9; 32]), hint: Some(hint) };
            texts(&[&KeyFile::new(Secret::new([9; 32])).encode(), &hinted.encode(), "MLVK1-", "MLVK2-"])
        }
        "target_path" => texts(&["a", "runs/0a1b/artifacts/model/data.bin", "a/b\n/\u{FF}/", "..", "/etc/passwd"]),
        "config_file" => {
            [texts(&[CONFIG_FILE, "repository = 's3://b/p'\n"]), vec![nested("repository = ", "[{a=")]].concat()
        }
        "age" => texts(&["90d", "1y 6mo", "36h", "6m", "13w 2d", "-1d"]),
        "location" => texts(&[
            "s3://models/prod/vault/",
            "s3://models/odd //key#?",
            "s3://models//",
            "/srv/backup",
            "https://user:password@host/x",
            "s3:x",
        ]),
        "object_key" => object_keys().into_iter().map(String::into_bytes).collect(),
        "snapshot_name" => texts(&[
            "latest",
            "latest~18446744073709551615",
            "2026-01-03",
            "2026-01-03T03:00Z",
            "019b7710",
            "019b77a5c400",
        ]),
        "byte_size" => texts(&["512M", "1 GiB", "0", "16777215T", "18446744073709551615"]),
        "subset" => texts(&["10%", "3/7", "1G", "0.5%"]),
        "copy_row" => texts(&["\u{3}1\t\\N\ta\\tb\\\\", "\u{0}", "\u{1}\\\\."]),
        "sqlite_row" => texts(&["\u{5}1,-2.5e-8,NULL,'it''s\n',X'00ff'", "\u{1}CAST(X'00' AS TEXT)", "\u{2}9e999,''"]),
        "script_postgresql" => texts(&[POSTGRESQL_DUMP, "COPY public.\"a\"\"b\" (c, \"d\") FROM stdin;\n1\t2\n\\.\n"]),
        "script_sqlite" => texts(&[SQLITE_DUMP]),
        "statement_postgresql" => texts(&[
            "CREATE TABLE public.t (a character varying(9) DEFAULT 'x'::text NOT NULL, CONSTRAINT c CHECK ((a > 'b')))",
            "CREATE INDEX i ON public.t USING btree (a, lower(b) DESC) INCLUDE (c) WHERE (a IS NOT NULL)",
            "ALTER TABLE ONLY public.t ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES public.u(b) ON DELETE CASCADE",
            "SELECT pg_catalog.setval('public.s', 1, false)",
            "COPY (SELECT 1) TO PROGRAM 'x'",
        ]),
        "statement_sqlite" => texts(&[
            "CREATE TABLE \"t\" (a VARCHAR(9) DEFAULT '0' CHECK (a IN (1)), b AS (a) STORED, PRIMARY KEY (a)) WITHOUT ROWID",
            "CREATE UNIQUE INDEX i ON t (a COLLATE NOCASE DESC) WHERE a > 1",
            "INSERT INTO sqlite_sequence VALUES('t',9)",
            "CREATE TRIGGER t UPDATE ON u BEGIN SELECT 1; END",
        ]),
        "database_uri" => texts(&[
            "postgresql+psycopg2://ml%40flow:secret@[::1]:5432/mlflow?sslmode=verify-full&sslrootcert=/ca.pem",
            "postgresql://u@/d?host=/run/postgresql&connect_timeout=5&options=-c%20a%3Db&application_name=x",
            "sqlite:////srv/mlflow.db?timeout=20",
            "mysql://u:p@h/d",
        ]),
        "verified" => vec![vec![7; 48], vec![0; 96], Vec::new()],
        "deployment_record" => texts(&[DEPLOYMENT_RECORD]),
        "catalogue_line" => texts(&CATALOGUE_LINES),
        "row_spool" => texts(&["a row\nanother row\nb \u{0}\n\nb last", "\"\n\\"]),
        "mlflow_uri" => texts(&[
            "mlflow-artifacts://mlflow:5000/1/abc/artifacts",
            "https://host/base/ajax-api/2.0/mlflow-artifacts/artifacts/1/abc",
            "file://localhost/srv/ml%20runs/",
            "s3://bucket/a%41/",
            "models:/fraud/7",
            "runs:/0a1b/model/x",
            "dbfs:/mnt//x",
        ]),
        "tracking_answer" => [
            texts(&[
                r#"{"runs":[{"info":{"run_id":"a"},"data":{"metrics":[{"key":"loss","value":NaN},{"key":"a","value":1.5}]}}]}"#,
                r#"{"next_page_token":"x","tags":[{"key":"b"},{"key":"a\""}],"params":[-Infinity,null,1e999]}"#,
            ]),
            vec![nested("{\"tags\":", "[{\"tags\":")],
        ]
        .concat(),
        "pgpass" => texts(&[r"h:5432:d:u:pass\:word\\", "*:*:*:*:x", "# *:*:*:*:x", r"a\:b:\\:d:u:"]),
        "listing" => texts(&[
            "p/\np/a\t1\t\"e\"\np/b\t2\n--next\np/c\t3\nd\t4\n--",
            "\nb\t1\na\t1\na\t1\n--%2\na%20b+c\t5\n--%2\n--",
            "x\nx\t-1\n--?",
        ]),
        "policy" => texts(&[
            "keep-last = 3\nkeep-daily = 7\nkeep-within-monthly = '1y'\nkeep-tags = ['a']\nkeep-pre-upgrade = true",
            "keep-within = '36h'",
            "keep-yearly = 4294967295",
        ]),
        "setting" => texts(&[
            "repository=s3://b/p",
            "deployment.\"a=b\".tracking-uri=http://h",
            "policy.audit.keep-tags=['a', 'b']",
            "s3.path-style=true",
            "memory-limit = 512M",
        ]),
        _ => panic!("the target {target} has no seeds"),
    }
}

const CONFIG_FILE: &str = "repository = \"s3://backups/mlflow\"\ncache-dir = '/var/cache/mlvault'\n\
    memory-limit = \"512M\"\nkey-file = \"/run/secrets/key\" # a comment\n\n[s3]\nendpoint = \"https://minio.example.org\"\n\
    region = \"us-east-1\"\npath-style = true\ninsecure-http = false\n";

const POSTGRESQL_DUMP: &str = "--\n-- PostgreSQL database dump\n--\n\n\\restrict x\n\nSET a = 'b';\n\nCREATE FUNCTION f() \
    AS $x$ ; $x$;\nSELECT E'\\'', \"c\" /* /* */ */;\n\nCOPY public.t (a, b) FROM stdin;\n1\t\\N\n\\.\n\n\
    -- PostgreSQL database dump complete\n";
const SQLITE_DUMP: &str = "-- SQLite database dump\nBEGIN;\nCREATE TABLE t (a, [b], `c`);\n-- rows [\"t\",\"a\",\"b\"]\n\
    INSERT INTO \"t\" VALUES(1,'x\ny''z');\nINSERT INTO \"t\" VALUES(NULL,X'00');\n-- end of rows\n-- end of all rows\n\
    CREATE TRIGGER r BEGIN SELECT 1; END;\nCOMMIT;\n-- SQLite database dump complete\n";

const DEPLOYMENT_RECORD: &str = r#"{"read_at":"2026-01-01T00:00:00Z","databases":[{"store":"backend","engine":"sqlite",
    "server_version":"3.50","dump_version":"0.1","location":"/srv/mlflow.db","revisions":["a"],"tables":3,"rows":9}],
    "mlflow_version":null,"roots":[{"uri":"s3://b","component":"artifacts","path":"","place":"s3://b"}],"excluded":["x"],
    "keys":[{"name":"K","fingerprint":null,"rows":1}],"verdicts":{"database":"ok","artifacts":"not_ok","references":"ok",
    "metadata":"absent"},"references":{"present":1,"empty":0,"carried_over":0,"deleted_meanwhile":0,"excluded":0,
    "missing":0,"orphans":0,"orphan_bytes":0},"lossy":[]}"#;

/// A line of each file, behind the byte that tells which.
const CATALOGUE_LINES: [&str; 10] = [
    "\u{0}{\"kind\":\"run\",\"id\":\"a\",\"uri\":\"s3://b\",\"files\":1,\"bytes\":2,\"lost\":[\"x\"],\"state\":\"partial\"}",
    "\u{1}{\"component\":\"artifacts\",\"path\":\"a/b\",\"bytes\":18446744073709551615}",
    "\u{2}{\"store\":\"backend\",\"name\":\"runs\",\"rows\":3,\"digest\":\"0808080808080808080808080808080808080808080808080808080808080808\"}",
    "\u{3}{\"experiment_id\":\"0\",\"name\":\"Default\",\"lifecycle_stage\":\"active\",\"creation_time\":1}",
    "\u{4}{\"run_id\":\"a\",\"experiment_id\":\"0\",\"status\":\"FINISHED\",\"end_time\":-1}",
    "\u{5}{\"model_id\":\"m-0\",\"status\":2,\"artifact_location\":\"s3://b/m\"}",
    "\u{6}{\"name\":\"fraud\",\"description\":\"\\u00e9\"}",
    "\u{7}{\"name\":\"fraud\",\"version\":7,\"stage\":\"None\",\"source\":\"models:/m-0\"}",
    "\u{8}{\"name\":\"fraud\",\"alias\":\"champion\",\"version\":7}",
    "\u{9}{\"run_id\":\"a\",\"key\":\"loss\",\"value\":0.1,\"is_nan\":\"0\"}",
];

/// One key of each kind, and one that is spelt otherwise.
fn object_keys() -> Vec<String> {
    let (pack, segment) = (PackId::from_bytes([0xAB; 32]), SegmentId::from_bytes([0xCD; 32]));
    let objects = [
        Object::Config,
        Object::KeySlot(targets::SLOT),
        Object::Pack(BlobKind::Data, pack),
        Object::Pack(BlobKind::Meta, pack),
        Object::Segment(BlobKind::Data, segment),
        Object::Segment(BlobKind::Meta, segment),
        Object::Session(SESSION),
        Object::Snapshot(SESSION),
        Object::Forgotten(SESSION),
        Object::Note(NoteId::from_bytes([3; 16])),
        Object::Tombstone(TombstoneId::from_bytes([4; 16])),
        Object::Evidence(EvidenceId::from_bytes([5; 16])),
        Object::Plan(PlanId::from_bytes([6; 16])),
        Object::Shard(PlanId::from_bytes([6; 16]), 7),
        Object::LogEntry(8),
    ];
    let odd = "snapshots/ABABABABABABABABABABABABABABABAB".to_owned();
    objects.into_iter().map(Object::key).chain([odd]).collect()
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn object_seed(kind: ObjectKind) -> Vec<u8> {
    object::seal(&targets::meta_keys(), REPOSITORY, kind, "name", &[7; 300])
}

fn payload(body: &[u8]) -> Vec<u8> {
    let (codec, stored) = compress::encode_small(body);
    let mut payload = vec![codec as u8, 0, 0, 0];
    payload.extend_from_slice(&(stored.len() as u32).to_le_bytes());
    payload.extend_from_slice(&(body.len() as u32).to_le_bytes());
    payload.extend_from_slice(&stored);
    payload.extend_from_slice(&[0; 9]);
    payload
}

fn config() -> RepositoryConfig {
    RepositoryConfig {
        format: FORMAT_VERSION,
        repository: REPOSITORY,
        created: jiff::Timestamp::UNIX_EPOCH,
        data_public_key: targets::data_keys().1,
        root_key: sign::signer_key(&targets::root_seed()),
        chunk_profiles: ChunkProfiles::default(),
        pack_bytes: RepositoryConfig::PACK_BYTES,
        create_only: true,
    }
}

fn config_with_key_zero() -> Vec<u8> {
    let key = targets::data_keys().1.0;
    let text = String::from_utf8(config().encode()).expect("JSON is text");
    text.replace(&ChunkId::from_bytes(key).to_string(), &"0".repeat(64)).into_bytes()
}

/// As deep as fits into an input.
fn nested(start: &str, open: &str) -> Vec<u8> {
    [start, &open.repeat(4000 / open.len())].concat().into_bytes()
}

fn secrets(role: Role) -> RoleSecrets {
    RoleSecrets {
        role,
        meta: Secret::new([5; 32]),
        signing_seed: targets::signing_seed(),
        data: role.reads_content().then(|| Secret::new([6; 32])),
        root_seed: (role == Role::Maintainer).then(targets::root_seed),
        root_key: sign::signer_key(&targets::root_seed()),
    }
}

/// A slot without its checksum, which the target adds.
fn slot(role: Role) -> Vec<u8> {
    let credential = Credential::KeyFile(Secret::new([9; 32]));
    let cost = Argon2Cost::default();
    let sealed = key_slot::seal(REPOSITORY, &credential, &cost, &secrets(role), &targets::certificate());
    let sealed = sealed.expect("sealing with a key file cannot fail");
    sealed[..sealed.len() - 32].to_vec()
}

fn secrets_plain(role: Role) -> Vec<u8> {
    let secrets = secrets(role);
    let mut plain = vec![role as u8, 0, 0, 0, 0, 0, 0, 0];
    plain.extend_from_slice(&*secrets.meta);
    plain.extend_from_slice(&*secrets.signing_seed);
    for optional in [secrets.data, secrets.root_seed] {
        plain.extend_from_slice(&optional.map_or([0; 32], |secret| *secret));
    }
    plain.extend_from_slice(secrets.root_key.as_bytes());
    plain
}

fn session_header(byte: u8) -> SessionHeader {
    let session = SessionId::from_bytes([byte; 16]);
    let slot = SlotId::from_bytes([7; 8]);
    SessionHeader { session, slot, meta_salt: [3; 32], enc: [4; 32], sealed_key: [5; 48], commitment: [6; 32] }
}

/// With keys that open.
fn pack_header() -> PackHeader {
    let (_, public) = targets::data_keys();
    let session = SessionKeys::create(targets::session_name(), &targets::meta_keys(), &public).header;
    PackHeader { kind: BlobKind::Data, repository: REPOSITORY, session }
}

fn footer(chunks: u32, offset: u32) -> Vec<u8> {
    let mut bytes = (u64::from(offset) + 32 + u64::from(chunks) * 44 + 48 + 5).to_le_bytes().to_vec();
    [offset, 32 + chunks * 44, chunks, 0].iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
    bytes
}

fn chunk_header(byte: u8) -> ChunkHeader {
    let id = ChunkId::from_bytes([byte; 32]);
    ChunkHeader { id, plain_len: 100, stored_len: 30 + u32::from(byte), codec: Codec::Zstd, filter: 0 }
}

fn directory(count: u8) -> Vec<u8> {
    let chunks: Vec<_> = (0..count).map(chunk_header).collect();
    let offset = 208 + chunks.iter().map(|chunk| chunk.stored_len).sum::<u32>();
    let mut bytes = [offset, count.into()].map(u32::to_le_bytes).concat();
    chunks.iter().for_each(|chunk| pack::encode_chunk_header(chunk, &mut bytes));
    bytes
}

fn whole_pack() -> Vec<u8> {
    let mut builder = PackBuilder::new(pack_header(), 0);
    for byte in 0..3 {
        let header = chunk_header(byte);
        builder.push(header, &vec![byte; header.stored_len as usize]);
    }
    builder.finish(&targets::chunk_key()).bytes
}

/// One pack for each session named.
fn segment(sessions: &[u8], chunks: u8) -> Vec<u8> {
    let pack = |(number, session): (usize, &u8)| IndexedPack {
        id: PackId::from_bytes([number as u8; 32]),
        session: session_header(*session),
        len: 1000,
        is_vouched: number % 2 == 0,
        chunks: (0..chunks).map(chunk_header).collect(),
    };
    Segment { kind: BlobKind::Meta, packs: sessions.iter().enumerate().map(pack).collect() }.encode()
}

fn session() -> Vec<u8> {
    let record = SessionRecord {
        started: jiff::Timestamp::UNIX_EPOCH,
        host: "pod-\u{FF}\n".to_owned(),
        program: "mlvault 0".to_owned(),
        purpose: "backup".to_owned(),
    };
    record.encode()
}

/// One note of each kind.
const NOTES: [&str; 5] = [
    r#"{"at":"2026-01-01T00:00:00Z","says":{"type":"hold","snapshot":"02020202020202020202020202020202","reason":"audit","until":null}}"#,
    r#"{"at":"2026-01-01T00:00:00Z","says":{"type":"release","hold":"02020202020202020202020202020202"}}"#,
    r#"{"at":"2026-01-01T00:00:00Z","says":{"type":"add-tags","snapshot":"02020202020202020202020202020202","tags":["a"]}}"#,
    r#"{"at":"2026-01-01T00:00:00Z","says":{"type":"remove-tags","snapshot":"02020202020202020202020202020202","tags":[]}}"#,
    r#"{"at":"2026-01-01T00:00:00Z","says":{"type":"upgrade-done","released":["02020202020202020202020202020202"]}}"#,
];

/// A plan behind a zero, and a shard behind its number.
const PLANS: [&str; 2] = [
    "\0{\"session\":\"02020202020202020202020202020202\",\"started\":\"2026-01-01T00:00:00Z\",\"host\":\"pod\",\"program\":\"mlvault 0\",\"name\":\"p\",\"deployment\":\"production\",\"shards\":2,\"tags\":[\"a\"],\"parent\":null,\"settings\":{\"--force\":\"false\"},\"cuts\":{\"artifacts/main\":[\"312f61\"]},\"database\":null,\"tables\":\"0101010101010101010101010101010101010101010101010101010101010101\",\"read_at\":\"2026-01-01T00:00:00Z\",\"databases\":[],\"keys\":[],\"problems\":[{\"path\":\"a\",\"message\":\"b\"}],\"statistics\":{\"files_new\":1,\"files_changed\":2,\"files_unchanged\":3,\"bytes_read\":4,\"chunks_new\":5,\"bytes_new\":6,\"bytes_stored\":7,\"duration_ms\":8}}",
    "\u{1}{\"session\":\"02020202020202020202020202020202\",\"started\":\"2026-01-01T00:00:00Z\",\"finished\":\"2026-01-01T00:00:00Z\",\"host\":\"pod\",\"components\":[{\"name\":\"artifacts/main\",\"root\":\"0101010101010101010101010101010101010101010101010101010101010101\",\"entries\":1,\"bytes\":2,\"completeness\":\"complete\"}],\"notes\":\"0101010101010101010101010101010101010101010101010101010101010101\",\"problem_count\":0,\"statistics\":{\"files_new\":1,\"files_changed\":2,\"files_unchanged\":3,\"bytes_read\":4,\"chunks_new\":5,\"bytes_new\":6,\"bytes_stored\":7,\"duration_ms\":8}}",
];

/// What a check found, and what a drill found.
const LOG_ENTRY: &str = r#"{"at":"2026-01-01T00:00:00Z","program":"mlvault 0","before":["0101010101010101010101010101010101010101010101010101010101010101"],"late":true,"objects":[{"what":"hold","key":"notes/01010101010101010101010101010101","hash":"0101010101010101010101010101010101010101010101010101010101010101","about":"02020202020202020202020202020202"}]}"#;
const CHECKPOINT: &str = "\
mlvault/log/01010101010101010101010101010101
1
bjQLnP+zepicpUTmu3gKLHiQHT+zNzh2hRGjBhevoB0=

\u{2014} mlvault/log/01010101010101010101010101010101 xAiZztfuMChiY9GnVDufBP3V4EZc3+sN65FpMViBZgOn4S73+NEMdVvqjas5UJtkw6nyajuPpZDANeD7lZzEh2XkYQc=
";
const EVIDENCE: [&str; 2] = [
    r#"{"at":"2026-01-01T00:00:00Z","host":"pod","program":"mlvault 0","says":{"type":"check","seconds":9,"clean":false,"problem_count":1,"problems":["packs/data/x: it is missing"],"read":{"what":"all","packs":1,"packs_total":2,"bytes":3,"content_opened":true}}}"#,
    r#"{"at":"2026-01-01T00:00:00Z","host":"pod","program":"mlvault 0","says":{"type":"drill","deployment":"production","snapshot":{"id":"02020202020202020202020202020202","started":"2026-01-01T00:00:00Z","complete":true},"result":"late","places":[{"part":"database/tracking","source":null,"scratch":"s","differs":"other server"}],"times":[{"part":"database","milliseconds":9,"target_seconds":null}],"tables":[{"store":"tracking","name":"runs","rows":1,"digest":"0101010101010101010101010101010101010101010101010101010101010101"}],"files":{"versions":1,"version_files":2,"seed":18446744073709551615,"samples":[{"component":"artifacts/main","path":"a","bytes":1,"digest":"0101010101010101010101010101010101010101010101010101010101010101","against":"source"}]},"server":{"version":"3.4.0","experiments":1,"runs":2,"models":3,"files":4},"failures":{"count":2,"first":["a"]},"exceptions":{"count":0,"first":[]},"tools":["pg_dump 16"],"retention":"daily 7"}}}"#,
];

fn countersignature(count: u8) -> Countersignature {
    let directory = DirectoryHash::from_bytes([3; 16]);
    let packs = tombstone(count).packs.into_iter().map(|pack| SoundPack { pack, directory }).collect();
    Countersignature { at: jiff::Timestamp::UNIX_EPOCH, packs }
}

fn tombstone(count: u8) -> Tombstone {
    Tombstone { packs: (0..count).map(|byte| PackId::from_bytes([byte; 32])).collect() }
}

fn record() -> SessionOutcome {
    let component = Component {
        name: "files".to_owned(),
        root: ChunkId::from_bytes([8; 32]),
        entries: 3,
        bytes: 1 << 40,
        completeness: Completeness::Incomplete,
        commitment: None,
    };
    SessionOutcome::Snapshot(Box::new(SnapshotRecord {
        started: jiff::Timestamp::UNIX_EPOCH,
        finished: jiff::Timestamp::UNIX_EPOCH,
        host: "pod".to_owned(),
        program: "mlvault 0".to_owned(),
        source: SourceRecord::Stream { name: "dump.sql".to_owned(), command: Some("pg_dump".to_owned()) },
        tags: vec!["nightly".to_owned()],
        parent: Some(SESSION),
        seen: vec![SESSION],
        components: vec![component],
        completeness: Completeness::Incomplete,
        statistics: Statistics { files_new: 1, ..Statistics::default() },
        problems: vec![ProblemRecord { path: "a".to_owned(), message: "it vanished".to_owned() }],
        problem_count: 1,
        accepted: Vec::new(),
        deployment: None,
        copied_from: Some(Box::new(copied_from())),
        rewritten_from: Some(Box::new(RewrittenFrom {
            snapshot: SessionId::from_bytes([8; 16]),
            at: jiff::Timestamp::UNIX_EPOCH,
            excludes: vec!["*.pem".to_owned()],
            excludes_any_case: vec!["*.env".to_owned()],
            entries: 2,
            bytes: 10,
            before: None,
        })),
        coverage: Some(Box::new(Coverage {
            covers_top: true,
            excludes: vec!["*.tmp".to_owned()],
            excludes_any_case: vec!["*.bak".to_owned()],
            unread: vec!["a".to_owned()],
            unread_count: 1,
        })),
        more: [("later".to_owned(), serde_json::json!({ "a": [1, null, true, "x"] }))].into(),
    }))
}

fn copied_from() -> CopiedFrom {
    let signer = targets::certificate().signer;
    let first =
        CopiedFrom { repository: REPOSITORY, snapshot: SESSION, signer, label: "cron".to_owned(), before: None };
    CopiedFrom { before: Some(Box::new(first.clone())), ..first }
}

fn void() -> SessionOutcome {
    SessionOutcome::Void(VoidRecord { at: jiff::Timestamp::UNIX_EPOCH, reason: "too old".to_owned() })
}

fn body(outcome: &SessionOutcome) -> Vec<u8> {
    let (certificate, seed) = (targets::certificate(), targets::signing_seed());
    snapshot::encode(REPOSITORY, SESSION, outcome, &Signer { certificate: &certificate, seed: &seed })
}

/// The record as its body ends, behind the byte that tells its kind.
fn tagged(kind: u8, outcome: &SessionOutcome) -> Vec<u8> {
    let record = match outcome {
        SessionOutcome::Snapshot(record) => serde_json::to_vec(record),
        SessionOutcome::Void(record) => serde_json::to_vec(record),
    };
    [vec![kind], record.expect("a record is always representable as JSON")].concat()
}

fn entries() -> Vec<Entry> {
    let chunks: Vec<_> = (0..3).map(|byte| ChunkRef { id: ChunkId::from_bytes([byte; 32]), len: 10 }).collect();
    let content = FileContent {
        size: 30,
        digest: Digest::from_bytes([8; 32]),
        chunks,
        kind: BlobKind::Data,
        indirect: false,
        sparse: true,
        racy: false,
        hard_link: None,
    };
    let metadata = Metadata { mode: 0o644, mtime: FileTime { seconds: -1, nanoseconds: 5 }, ..Metadata::default() };
    let entry = |path: &[u8], kind| Entry { path: path.to_vec(), metadata, kind, attributes: vec![] };
    let linked = FileContent { hard_link: Some(b"a/x".to_vec()), ..content.clone() };
    let indirect = FileContent { indirect: true, size: 1 << 40, ..content.clone() };
    let attributes = vec![
        (1, b"etag".to_vec()),
        (4, b"text/plain; charset=utf-8".to_vec()),
        (9, br#"{"run-id":"a b"}"#.to_vec()),
        (10, br#"{"owner":"team \u00e9"}"#.to_vec()),
    ];
    let xattrs = [("system.posix_acl_default", "\u{2}\0\0\0"), ("user.a", ""), ("user.b\n", "x")];
    let xattrs = xattrs.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
    let stored = xattrs::encode(&xattrs.into_iter().collect()).expect("they are within the limits");
    vec![
        Entry { attributes: vec![(attributes::XATTRS, stored)], ..entry(b"a/", EntryKind::Directory) },
        Entry { attributes, ..entry(b"a/x", EntryKind::File(content)) },
        entry(b"a/\xFF\n", EntryKind::File(linked)),
        entry(b"b", EntryKind::Symlink { target: b"../x".to_vec() }),
        entry(b"c", EntryKind::File(indirect)),
    ]
}

fn file_like_a_directory() -> Entry {
    let [.., last] = &entries()[..] else { unreachable!("there are entries") };
    Entry { path: b"c/".to_vec(), ..last.clone() }
}

fn leaf(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = tree::node_header(0, entries.len() as u32).to_vec();
    entries.iter().for_each(|entry| tree::encode_entry(entry, &mut bytes));
    assert!(bytes.len() >= NODE_HEADER_LEN);
    bytes
}

fn inner(level: u8, count: u8) -> Vec<u8> {
    let mut bytes = tree::node_header(level, count.into()).to_vec();
    for byte in 0..count {
        let node = ChunkId::from_bytes([byte; 32]);
        tree::encode_child(&Child { first_path: vec![b'a' + byte], node, entries: 5, bytes: 1 << 33 }, &mut bytes);
    }
    bytes
}

fn chunk_list(count: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    for byte in 0..count {
        tree::encode_chunk_ref(&ChunkRef { id: ChunkId::from_bytes([byte; 32]), len: u32::from(byte) }, &mut bytes);
    }
    bytes
}

fn sealed_chunk(plain: &[u8]) -> Vec<u8> {
    let id = targets::meta_keys().chunk_id(BlobKind::Data as u8, plain);
    let (mut encoder, key) = (Encoder::default(), targets::chunk_key());
    let context = ChunkContext { key: &key, kind: BlobKind::Data, repository: REPOSITORY };
    let sealed = context.seal(&mut encoder, id, plain);
    let (header, sealed) = sealed.expect("sealing cannot fail");
    let mut bytes = Vec::new();
    pack::encode_chunk_header(&header, &mut bytes);
    bytes.extend_from_slice(&sealed);
    bytes
}

fn compressed(plain: &[u8]) -> Vec<u8> {
    let (codec, stored) = compress::encode_small(plain);
    [&[codec as u8][..], &(plain.len() as u32).to_le_bytes(), &stored].concat()
}

/// As much content for as few bytes as zstd allows.
fn frame_of_zeros() -> Vec<u8> {
    compressed(&vec![0; targets::DECLARED_LEN_MAX])
}
