//! What a repository must refuse though it is well formed, signed or sealed: forged by somebody who holds a key, or who can
//! write to the store.
//!
//! [docs/testing.md](../docs/testing.md#what-must-be-refused) lists all that must be refused, and where each is tested.
//! Here are those that take several modules: trees that a writer forged, records that nobody certified, slots that are
//! too many, and a store that lies about lengths.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use mlvault::backend::memory::MemoryBackend;
use mlvault::backend::{Backend, Listed};
use mlvault::check::ReadData;
use mlvault::chunks::reader::ChunkReader;
use mlvault::chunks::writer::ChunkWriter;
use mlvault::compress::Encoder;
use mlvault::crypto::keys::new_secret;
use mlvault::crypto::sign;
use mlvault::dump;
use mlvault::error::{Error, Result};
use mlvault::format::BlobKind;
use mlvault::format::key_slot::{Certificate, Grant, Role, SLOT_LEN_MAX, SLOTS_MAX};
use mlvault::format::object::{self, ObjectKind};
use mlvault::format::pack::PACK_LEN_MAX;
use mlvault::format::snapshot::{self, Completeness, Component, SessionOutcome, Signer, SnapshotRecord};
use mlvault::format::tree::{self, Child, ChunkRef, Entry, EntryKind, FileContent, LEVEL_MAX, Metadata};
use mlvault::hears::Hears;
use mlvault::id::{ChunkId, Digest, SessionId, SlotId};
use mlvault::prune::{self, PruneOptions};
use mlvault::repository::layout;
use mlvault::repository::session::Session;
use mlvault::restore::{self, RestoreOptions};
use mlvault::retention::policy::{Policy, Rule};
use mlvault::retention::{self, ForgetChoice};
use mlvault::stats;
use mlvault::trees::reader::TreeReader;
use tempfile::TempDir;

use crate::support::repo::{Vault, WatchedBackend, copy_of, fill, key_file, tree};
use crate::support::thief::forged_record;

/// What stands in every forged file.
const CONTENT: &[u8] = b"evil";
/// Items that a reader of a forged tree of a few nodes may give before it is called endless.
const ITEMS_MAX: usize = 1000;

/// Writes whatever it is told, with a key of the repository.
struct Forger {
    vault: Vault,
    session: Arc<Session>,
    chunks: ChunkWriter,
}

impl Forger {
    fn new(vault: &Vault) -> Self {
        let repository = vault.open().unwrap();
        let session = Arc::new(Session::begin(&repository, "test").unwrap());
        let chunks = ChunkWriter::new(repository, Arc::clone(&session), &Hears::nobody());
        Self { vault: vault.through(Arc::clone(&vault.backend)), session, chunks }
    }

    fn store(&self, kind: BlobKind, bytes: &[u8]) -> ChunkId {
        self.chunks.write(&mut Encoder::default(), kind, bytes).unwrap().0
    }

    fn file(&self, path: &str) -> Entry {
        let id = self.store(BlobKind::Data, CONTENT);
        let content = FileContent {
            size: CONTENT.len() as u64,
            digest: Digest::from_bytes(*blake3::hash(CONTENT).as_bytes()),
            chunks: vec![ChunkRef { id, len: CONTENT.len() as u32 }],
            kind: BlobKind::Data,
            indirect: false,
            sparse: true,
            racy: false,
            hard_link: None,
        };
        let metadata = Metadata { mode: 0o644, ..Metadata::default() };
        Entry { path: path.into(), metadata, kind: EntryKind::File(content), attributes: Vec::new() }
    }

    fn leaf(&self, entries: &[Entry]) -> ChunkId {
        let mut node = tree::node_header(0, entries.len() as u32).to_vec();
        entries.iter().for_each(|entry| tree::encode_entry(entry, &mut node));
        self.store(BlobKind::Meta, &node)
    }

    fn leaf_of(&self, paths: &[&str]) -> ChunkId {
        self.leaf(&paths.iter().map(|path| self.file(path)).collect::<Vec<_>>())
    }

    fn inner(&self, level: u8, children: &[(&str, ChunkId)]) -> ChunkId {
        let mut node = tree::node_header(level, children.len() as u32).to_vec();
        for (first_path, child) in children {
            let child = Child { first_path: (*first_path).into(), node: *child, entries: 1, bytes: 4 };
            tree::encode_child(&child, &mut node);
        }
        self.store(BlobKind::Meta, &node)
    }

    /// Commits a snapshot of a tree.
    fn commit(self, root: ChunkId) -> SessionId {
        let record = record(self.session.started, root);
        self.commit_record(record)
    }

    fn commit_record(self, record: SnapshotRecord) -> SessionId {
        self.chunks.finish().unwrap();
        let repository = self.vault.open().unwrap();
        self.session.commit(&repository, record).unwrap();
        self.session.id
    }
}

fn record(started: Timestamp, root: ChunkId) -> SnapshotRecord {
    let (name, completeness) = ("files".to_owned(), Completeness::Complete);
    forged_record(started, Component { name, root, entries: 2, bytes: 8, completeness, commitment: None })
}

/// Fails unless whoever meets the snapshot says that it is damaged, and ends.
fn assert_refused(vault: &Vault, id: SessionId, what: &str) {
    let repository = vault.open().unwrap();
    let found = repository.find_snapshot(&id.to_string()).unwrap();
    let reader = ChunkReader::new(Arc::clone(&repository));
    let items: Vec<Result<Entry>> = match TreeReader::open(&reader, "files", &found.record.components[0].root) {
        Ok(entries) => entries.take(ITEMS_MAX).collect(),
        Err(error) => vec![Err(error)],
    };
    assert!(items.len() < ITEMS_MAX, "{what}: the tree has no end");
    let paths: Vec<_> = items.iter().filter_map(|item| item.as_ref().ok()).map(|entry| &entry.path).collect();
    assert!(paths.is_sorted_by(|a, b| a < b), "{what}: {paths:?}");
    assert!(items.iter().any(|item| item.as_ref().is_err_and(Error::is_damage)), "{what}: {items:?}");

    let report = vault.check(ReadData::Nothing);
    assert!(!report.is_clean() && report.hurt_snapshots.iter().any(|hurt| hurt.id == id), "{what}: {report:#?}");
    let target = TempDir::new().unwrap();
    let restored = restore::run(&repository, &found, &RestoreOptions::into_directory(target.path()), &Hears::nobody());
    assert!(restored.is_ok_and(|summary| summary.problems > 0), "{what}");
    assert!(
        dump::archive(&repository, &found, &dump::ArchiveOptions::default(), &mut std::io::sink(), &Hears::nobody())
            .is_err(),
        "{what}"
    );
}

#[test]
fn a_tree_that_has_too_many_levels_or_does_not_descend_or_goes_back_is_refused_by_all_who_read_it() {
    type Forgery = (&'static str, fn(&Forger) -> ChunkId);
    let forgeries: [Forgery; 5] = [
        ("too many levels", |forger| {
            (0..=LEVEL_MAX).fold(forger.leaf_of(&["a"]), |below, _| forger.inner(LEVEL_MAX, &[("a", below)]))
        }),
        ("a level twice", |forger| {
            let below = forger.inner(1, &[("a", forger.leaf_of(&["a"]))]);
            forger.inner(1, &[("a", below), ("b", forger.leaf_of(&["b"]))])
        }),
        ("paths that overlap", |forger| {
            forger.inner(1, &[("a", forger.leaf_of(&["a", "x"])), ("b", forger.leaf_of(&["b", "c"]))])
        }),
        ("a node twice", |forger| {
            let leaf = forger.leaf_of(&["a", "b"]);
            forger.inner(1, &[("a", leaf), ("b", leaf)])
        }),
        ("an empty node", |forger| forger.inner(1, &[("a", forger.leaf_of(&["a"])), ("b", forger.leaf(&[]))])),
    ];
    for (what, forgery) in forgeries {
        let (vault, _) = Vault::in_memory();
        let forger = Forger::new(&vault);
        let root = forgery(&forger);
        let id = forger.commit(root);
        assert_refused(&vault, id, what);
    }
}

#[test]
fn a_prune_ends_at_a_tree_that_does_not_descend_and_removes_nothing() {
    let (vault, _) = Vault::in_memory();
    let forger = Forger::new(&vault);
    let root = (0..=LEVEL_MAX).fold(forger.leaf_of(&["a"]), |below, _| forger.inner(LEVEL_MAX, &[("a", below)]));
    forger.commit(root);
    let before = vault.keys();
    let pruned = prune::run(&vault.open().unwrap(), &PruneOptions::default(), &Hears::nobody());
    assert!(matches!(pruned, Err(Error::Refused(_))), "{pruned:?}");
    assert_eq!(vault.keys(), before);
}

#[test]
fn a_file_that_says_it_is_longer_than_its_chunks_is_not_made_that_long() {
    let (vault, _) = Vault::in_memory();
    let forger = Forger::new(&vault);
    let mut huge = forger.file("huge");
    if let EntryKind::File(content) = &mut huge.kind {
        // Where chunks stand in the entry itself the decoder adds them up; a list is met only when it is read.
        let mut list = Vec::new();
        tree::encode_chunk_ref(&content.chunks[0], &mut list);
        let id = forger.store(BlobKind::Meta, &list);
        *content = FileContent {
            size: 1 << 50,
            indirect: true,
            chunks: vec![ChunkRef { id, len: list.len() as u32 }],
            ..content.clone()
        };
    }
    let root = forger.leaf(&[forger.file("good"), huge]);
    let id = forger.commit(root);
    let target = TempDir::new().unwrap();
    let repository = vault.open().unwrap();
    let found = repository.find_snapshot(&id.to_string()).unwrap();
    let summary =
        restore::run(&repository, &found, &RestoreOptions::into_directory(target.path()), &Hears::nobody()).unwrap();
    assert_eq!((summary.problems, summary.files_written), (1, 1), "{summary:?}");
    assert_eq!(std::fs::read(target.path().join("good")).unwrap(), CONTENT);
    let len = std::fs::metadata(target.path().join("huge")).map_or(0, |metadata| metadata.len());
    assert!(len <= CONTENT.len() as u64, "{len}");
    assert!(!vault.check(ReadData::Nothing).is_clean());
}

#[test]
fn lengths_that_no_sum_can_hold_end_no_command() {
    let (vault, memory) = Vault::in_memory();
    let forger = Forger::new(&vault);
    let root = forger.leaf_of(&["a", "b"]);
    let mut lying = record(forger.session.started, root);
    let component = Component { entries: u64::MAX, bytes: u64::MAX, ..lying.components[0].clone() };
    lying.components = vec![component.clone(), Component { name: "more".to_owned(), ..component }];
    let id = forger.commit_record(lying);
    let repository = vault.open().unwrap();
    let found = repository.find_snapshot(&id.to_string()).unwrap();
    let target = TempDir::new().unwrap();
    restore::run(&repository, &found, &RestoreOptions::into_directory(target.path()), &Hears::nobody()).unwrap();
    let lying = Exaggerating { inner: memory, prefix: "packs/", len: u64::MAX };
    let vault = vault.through(Arc::new(lying));
    let list = repository.list_snapshots().unwrap();
    let numbers = stats::repository(&vault.open().unwrap(), &list, &Hears::nobody()).unwrap();
    assert_eq!((numbers.stored_bytes, numbers.logical_bytes, numbers.entries), (u64::MAX, u64::MAX, u64::MAX));
    assert!(!vault.check(ReadData::All).is_clean());
}

#[test]
fn a_snapshot_whose_signer_no_maintainer_certified_is_not_listed_and_counts_for_nothing() {
    let (vault, memory) = Vault::in_memory();
    let directory = TempDir::new().unwrap();
    fill(directory.path(), "good");
    let good = vault.backup(directory.path()).unwrap();
    let repository = vault.open().unwrap();
    let found = repository.find_snapshot(&good.to_string()).unwrap();
    // With the meta secret, which every writer has, but with a root key of its own.
    let (root_seed, signing_seed, forged) = (new_secret(), new_secret(), SessionId::from_bytes([0xFE; 16]));
    let grant = Grant {
        slot: SlotId::from_bytes([7; 8]),
        label: "evil",
        role: Role::Maintainer,
        created: found.record.started,
        signer: sign::signer_key(&signing_seed),
    };
    let certificate = Certificate::issue(repository.id(), &root_seed, grant);
    let outcome = SessionOutcome::Snapshot(Box::new(found.record));
    let signer = Signer { certificate: &certificate, seed: &signing_seed };
    let body = snapshot::encode(repository.id(), forged, &outcome, &signer);
    let sealed = object::seal(repository.keys(), repository.id(), ObjectKind::Snapshot, &forged.to_string(), &body);
    memory.overwrite(&layout::snapshot(&forged), Bytes::from(sealed));

    let repository = vault.open().unwrap();
    let list = repository.list_snapshots().unwrap();
    assert_eq!(list.snapshots.iter().map(|snapshot| snapshot.id).collect::<Vec<_>>(), [good]);
    let report = vault.check(ReadData::Nothing);
    assert!(!report.is_clean() || !report.notes.is_empty(), "nobody is told");
    // It takes nobody's place: either nothing is decided until it is explained, or as if it were not there.
    let latest = repository.find_snapshot("latest");
    assert!(latest.is_ok_and(|latest| latest.id == good) || !list.damaged.is_empty());
    let policy = Policy::new(vec![Rule::Last(1)]).unwrap();
    let choice = ForgetChoice::Policy { policy, name: "one".to_owned(), zone: TimeZone::UTC, group: None };
    let goes = retention::plan(&repository, &choice, 100).map(|plan| plan.forgotten().count());
    assert!(matches!(goes, Ok(0) | Err(_)), "{goes:?}");
    vault.assert_restores(good, directory.path(), &tree(directory.path()));
}

#[test]
fn the_configuration_of_another_repository_is_refused_even_by_who_has_never_seen_this_one() {
    let ((vault, memory), (_, other)) = (Vault::in_memory(), Vault::in_memory());
    memory.overwrite(layout::CONFIG, other.read(layout::CONFIG).unwrap());
    assert!(vault.open().is_err_and(|error| error.is_damage()));
    // With its key slots too it is the other repository, which this key does not open.
    for listed in other.list(layout::KEYS).unwrap() {
        memory.overwrite(&listed.key, other.read(&listed.key).unwrap());
    }
    assert!(vault.open().is_err());
}

#[test]
fn a_slot_that_is_too_long_is_not_read_and_no_more_than_64_are_tried() {
    let (vault, memory) = Vault::in_memory();
    let long = format!("{}{}", layout::KEYS, "f".repeat(16));
    memory.overwrite(&long, vec![0; SLOT_LEN_MAX as usize + 1]);
    let watched = Arc::new(WatchedBackend::new(Arc::clone(&vault.backend)));
    vault.through(Arc::clone(&watched) as Arc<dyn Backend>).open().unwrap();
    let slots_read = |watched: &WatchedBackend| {
        watched.keys_of("read").into_iter().filter(|key| key.starts_with(layout::KEYS)).collect::<Vec<_>>()
    };
    assert!(!slots_read(&watched).contains(&long));

    // More slots than there may be, from somebody who kept some of the repository's own elsewhere.
    let other = copy_of(&memory);
    for memory in [&memory, &other] {
        let repository = vault.through(Arc::clone(memory) as Arc<dyn Backend>).open().unwrap();
        (0..SLOTS_MAX - 1)
            .for_each(|number| drop(repository.add_key(&number.to_string(), Role::Writer, &key_file().1)));
    }
    for listed in other.list(layout::KEYS).unwrap() {
        memory.overwrite(&listed.key, other.read(&listed.key).unwrap());
    }
    assert!(memory.list(layout::KEYS).unwrap().len() > SLOTS_MAX);
    let watched = Arc::new(WatchedBackend::new(Arc::clone(&vault.backend)));
    let opened = vault.through(Arc::clone(&watched) as Arc<dyn Backend>).open_with(&key_file().1);
    assert!(matches!(opened, Err(Error::WrongKey { slots: SLOTS_MAX, .. })));
    assert!(slots_read(&watched).len() <= 2 * SLOTS_MAX, "{}", slots_read(&watched).len());
}

/// A store that says of each object below a prefix that it is longer than it is.
struct Exaggerating {
    inner: Arc<MemoryBackend>,
    prefix: &'static str,
    len: u64,
}

impl Backend for Exaggerating {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn create(&self, key: &str, bytes: Bytes) -> Result<()> {
        self.inner.create(key, bytes)
    }

    fn read_up_to(&self, key: &str, bytes_max: u64) -> Result<Bytes> {
        self.inner.read_up_to(key, bytes_max)
    }

    fn read_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.inner.read_range(key, range)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let mut listed = self.inner.list(prefix)?;
        listed
            .iter_mut()
            .filter(|object| object.key.starts_with(self.prefix))
            .for_each(|object| object.size = self.len);
        Ok(listed)
    }

    fn remove(&self, key: &str) -> Result<()> {
        self.inner.remove(key)
    }

    fn server_time(&self) -> Result<Option<Timestamp>> {
        self.inner.server_time()
    }

    fn concurrency(&self) -> usize {
        1
    }
}

#[test]
fn a_pack_that_is_longer_than_any_can_be_is_bad() {
    let (vault, memory) = Vault::in_memory();
    let directory = TempDir::new().unwrap();
    fill(directory.path(), "one");
    vault.backup(directory.path()).unwrap();
    let lying = Exaggerating { inner: memory, prefix: "packs/data/", len: PACK_LEN_MAX + 1 };
    let report = vault.through(Arc::new(lying)).check(ReadData::All);
    for pack in &vault.keys_under("packs/data/") {
        assert!(report.problems.iter().any(|problem| problem.object == *pack), "{pack}: {report:#?}");
    }
}
