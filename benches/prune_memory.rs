//! Shows what a prune of ten million chunks costs in memory: makes a repository whose one snapshot needs that many, with
//! packs that hold nothing but zeros, and lets the program plan a prune of it.
//!
//! Run with `cargo bench --bench prune_memory` (some minutes, 1 GiB of disk). Fewer millions: `-- 2`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mlvault::backend::local::LocalBackend;
use mlvault::chunks::writer::ChunkWriter;
use mlvault::clock::{Clock, SystemClock};
use mlvault::compress::Codec;
use mlvault::crypto::keys::new_secret;
use mlvault::crypto::passphrase::{Credential, KeyFile};
use mlvault::format::BlobKind;
use mlvault::format::chunk::{ChunkHeader, OVERHEAD};
use mlvault::format::config::{ChunkProfiles, RepositoryConfig};
use mlvault::format::pack::HEADER_LEN;
use mlvault::format::segment::{IndexedPack, Segment};
use mlvault::format::snapshot::{Completeness, Component, FILES, SnapshotRecord, SourceRecord, Statistics};
use mlvault::format::tree::{ChunkRef, Entry, EntryKind, FileContent, Metadata};
use mlvault::hears::Hears;
use mlvault::id::{ChunkId, Digest, PackId};
use mlvault::repository::session::Session;
use mlvault::repository::{CreateOptions, OpenOptions, Repository, layout};
use mlvault::trees::writer::TreeWriter;

const MILLIONS: u64 = 10;
/// Chunks of a file, and of a pack.
const CHUNKS_PER_FILE: u64 = 1000;
/// Packs of a segment.
const PACKS_PER_SEGMENT: u64 = 200;
/// Stored length of a chunk that is never read, in bytes.
const STORED_LEN: u32 = OVERHEAD as u32 + 1;

fn hash(domain: &[u8], number: u64) -> [u8; 32] {
    *blake3::hash(&[domain, &number.to_le_bytes()].concat()).as_bytes()
}

/// Returns the ids of one file's chunks.
fn chunks(file: u64) -> impl Iterator<Item = ChunkId> {
    (file * CHUNKS_PER_FILE..(file + 1) * CHUNKS_PER_FILE).map(|number| ChunkId::from_bytes(hash(b"chunk", number)))
}

fn write_packs(repository: &Repository, session: &Session, files: u64) {
    let len = HEADER_LEN as u64 + CHUNKS_PER_FILE * u64::from(STORED_LEN) + 1000;
    let header = |id| ChunkHeader { id, plain_len: 1, stored_len: STORED_LEN, codec: Codec::Raw, filter: 0 };
    for first in (0..files).step_by(PACKS_PER_SEGMENT as usize) {
        let pack = |file| IndexedPack {
            id: PackId::from_bytes(hash(b"pack", file)),
            session: session.keys.header,
            len,
            is_vouched: true,
            chunks: chunks(file).map(header).collect(),
        };
        let packs: Vec<IndexedPack> = (first..files.min(first + PACKS_PER_SEGMENT)).map(pack).collect();
        for pack in &packs {
            let bytes = Bytes::from(vec![0; len as usize]);
            repository.backend().create(&layout::pack(BlobKind::Data, &pack.id), bytes).unwrap();
        }
        let segment = Segment { kind: BlobKind::Data, packs };
        let (id, bytes) = repository.seal_segment(&segment);
        repository.backend().create(&layout::segment(BlobKind::Data, &id), bytes).unwrap();
    }
}

fn write_snapshot(repository: &Arc<Repository>, session: Arc<Session>, files: u64) {
    let writer = ChunkWriter::new(Arc::clone(repository), Arc::clone(&session), &Hears::nobody());
    let mut tree = TreeWriter::new(&writer);
    for file in 0..files {
        let content = FileContent {
            size: CHUNKS_PER_FILE,
            digest: Digest::from_bytes([0; 32]),
            chunks: chunks(file).map(|id| ChunkRef { id, len: 1 }).collect(),
            kind: BlobKind::Data,
            indirect: false,
            sparse: false,
            racy: false,
            hard_link: None,
        };
        let path = format!("{file:08}").into_bytes();
        let kind = EntryKind::File(content);
        tree.push(&Entry { path, metadata: Metadata::default(), kind, attributes: Vec::new() }).unwrap();
    }
    let summary = tree.finish().unwrap();
    writer.finish().unwrap();
    let component = Component {
        name: FILES.to_owned(),
        root: summary.root,
        entries: summary.entries,
        bytes: summary.bytes,
        completeness: Completeness::Complete,
        commitment: None,
    };
    let record = SnapshotRecord {
        started: SystemClock.now(),
        finished: SystemClock.now(),
        host: String::new(),
        program: String::new(),
        source: SourceRecord::Paths { paths: vec!["/bench".to_owned()] },
        tags: Vec::new(),
        parent: None,
        seen: Vec::new(),
        components: vec![component],
        completeness: Completeness::Complete,
        statistics: Statistics::default(),
        problems: Vec::new(),
        problem_count: 0,
        accepted: Vec::new(),
        copied_from: None,
        rewritten_from: None,
        coverage: None,
        deployment: None,
        more: Default::default(),
    };
    session.commit(repository, record).unwrap();
}

/// Runs the program and returns its peak of resident memory in MiB.
fn peak_mib(home: &Path) -> u64 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlvault"));
    command.args(["prune", "--dry-run", "--memory-limit", "512M"]).stdin(Stdio::null());
    command.env("MLVAULT_REPO", home.join("repository")).env("MLVAULT_KEY_FILE", home.join("key"));
    command.env("MLVAULT_CACHE_DIR", home.join("cache"));
    let mut child = command.spawn().unwrap();
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
        peak = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).map_or(peak, |kib| kib / 1024);
        sleep(Duration::from_millis(20));
    }
    peak
}

fn main() {
    let millions = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(MILLIONS);
    let files = millions * 1_000_000 / CHUNKS_PER_FILE;
    let home = tempfile::tempdir().unwrap();
    let backend = Arc::new(LocalBackend::create_root(home.path().join("repository")).unwrap());
    let secret = new_secret();
    std::fs::write(home.path().join("key"), KeyFile::new(secret.clone()).encode().as_bytes()).unwrap();
    let credential = Credential::KeyFile(secret);
    let create = CreateOptions {
        label: "bench".to_owned(),
        chunk_profiles: ChunkProfiles::default(),
        pack_bytes: RepositoryConfig::PACK_BYTES,
        create_only: true,
    };
    Repository::create(backend.as_ref(), &credential, &create, &SystemClock).unwrap();
    let open = OpenOptions::default();
    let repository = Repository::open(backend, &credential, &open).unwrap();
    let session = Session::begin(&repository, "bench").unwrap();
    write_packs(&repository, &session, files);
    write_snapshot(&repository, Arc::new(session), files);
    for cache in ["without a cache", "with a cache"] {
        let begun = Instant::now();
        let peak = peak_mib(home.path());
        println!("{millions} million chunks, {cache}: {peak} MiB at most, {:.1} s", begun.elapsed().as_secs_f64());
    }
}
