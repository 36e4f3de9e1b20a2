//! What somebody can do who stole a key and writes their own program: nothing that an honest snapshot needs is lost, and
//! nothing foreign enters an honest snapshot.
//!
//! Method: a forging client that holds a key and may create objects, but neither overwrite nor remove them. It forges one
//! thing; then an honest person runs one operation; then every honest snapshot must restore byte for byte, and so must a
//! backup that an honest writer makes afterwards. Each forgery is tried with each role and before each operation: a new idea
//! for an attack is one more [`Forgery`].

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use mlvault::backend::Backend;
use mlvault::backend::memory::MemoryBackend;
use mlvault::check::ReadData;
use mlvault::chunks::reader::ChunkReader;
use mlvault::chunks::writer::ChunkWriter;
use mlvault::compress::Codec;
use mlvault::copy;
use mlvault::crypto::passphrase::Credential;
use mlvault::crypto::random;
use mlvault::error::Error;
use mlvault::format::BlobKind;
use mlvault::format::chunk::{ChunkHeader, OVERHEAD};
use mlvault::format::countersignature::{Countersignature, SoundPack};
use mlvault::format::forgotten::{self, ForgottenRecord};
use mlvault::format::key_slot::Role;
use mlvault::format::object::{self, ObjectKind};
use mlvault::format::pack::{PackBuilder, PackHeader, directory_hash};
use mlvault::format::segment::{IndexedPack, Segment};
use mlvault::format::session_keys::{SessionKeys, SessionName};
use mlvault::format::tombstone::Tombstone;
use mlvault::format::tree::EntryKind;
use mlvault::hears::Hears;
use mlvault::id::{CountersignatureId, PackId, SessionId, TombstoneId};
use mlvault::monitor::Silent;
use mlvault::prune::{self, PruneLimits, PruneOptions};
use mlvault::repair;
use mlvault::repository::{Repository, layout, session};
use mlvault::retention::{self, ForgetChoice};
use mlvault::trees::reader::TreeReader;
use mlvault::trees::writer::TreeWriter;
use tempfile::TempDir;

use crate::support::repo::{Tree, Vault, backup_with, copy_of, key_file, noise, prose, tree};

/// A file that an honest writer will back up later, and whose content the thief knows before.
const KNOWN_LATER: &str = "known-later.bin";

/// What is forged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Forgery {
    /// A pack of garbage under the names of all data chunks, larger than any other, and a segment that names it.
    GarbagePack,
    /// The same for trees.
    GarbageMetaPack,
    /// A segment that says that all chunks are in a pack that is not there.
    SegmentWithoutPack,
    /// A segment that says of honest packs that they hold other chunks.
    SegmentOfHonestPacks,
    /// Garbage under the names of chunks that an honest writer will want to store.
    PoisonedChunks,
    /// The same, and a countersignature of it.
    PoisonedAndCountersigned,
    /// A snapshot of the honest source in which an unchanged file has other content.
    PlantedSnapshot,
    /// A tombstone of long ago for all packs.
    Tombstone,
    /// Records that every snapshot is forgotten.
    Forgotten,
    /// A byte under `forgotten/` for every session.
    ForgottenByte,
    /// Announcements of sessions of 1970 and 2106.
    Sessions,
}

const FORGERIES: [Forgery; 11] = [
    Forgery::GarbagePack,
    Forgery::GarbageMetaPack,
    Forgery::SegmentWithoutPack,
    Forgery::SegmentOfHonestPacks,
    Forgery::PoisonedChunks,
    Forgery::PoisonedAndCountersigned,
    Forgery::PlantedSnapshot,
    Forgery::Tombstone,
    Forgery::Forgotten,
    Forgery::ForgottenByte,
    Forgery::Sessions,
];

/// What an honest person does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Prune,
    ForgetAndPrune,
    Backup,
    Check,
    Copy,
    RepairIndex,
    RepairPacks,
}

const OPERATIONS: [Operation; 7] = [
    Operation::Prune,
    Operation::ForgetAndPrune,
    Operation::Backup,
    Operation::Check,
    Operation::Copy,
    Operation::RepairIndex,
    Operation::RepairPacks,
];

/// Whose key was stolen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stolen {
    /// One of a role that no honest writer uses.
    Another(Role),
    /// That of the honest writer.
    Same,
}

struct Scene {
    vault: Vault,
    memory: Arc<MemoryBackend>,
    writer: Credential,
    directory: TempDir,
    snapshots: Vec<(SessionId, Tree)>,
}

impl Scene {
    /// Two snapshots by an honest writer, the second of a source of which half has changed.
    fn new() -> Self {
        let (vault, memory) = Vault::in_memory();
        let (_, writer) = key_file();
        vault.open().unwrap().add_key("nightly", Role::Writer, &writer).unwrap();
        let directory = TempDir::new().unwrap();
        fill_a_little(directory.path());
        let mut scene = Self { vault, memory, writer, directory, snapshots: Vec::new() };
        scene.back_up();
        fs::write(scene.directory.path().join("changed"), noise("changed", 40_000)).unwrap();
        scene.back_up();
        scene
    }

    /// Returns the same repository as it is now, to be changed by itself.
    fn fork(&self) -> (Vault, Arc<MemoryBackend>) {
        let memory = copy_of(&self.memory);
        let backend = Arc::clone(&memory) as Arc<dyn Backend>;
        (self.vault.through(backend), memory)
    }

    fn back_up(&mut self) {
        let writer = self.vault.open_with(&self.writer).unwrap();
        let id = backup_with(&writer, self.directory.path()).unwrap().snapshot.unwrap();
        self.snapshots.push((id, tree(self.directory.path())));
    }

    fn known_later() -> Vec<u8> {
        noise("known later", 60_000)
    }
}

/// A few files of several chunks each: the scene is set up hundreds of times. Waits until they look unchanged.
fn fill_a_little(directory: &Path) {
    for number in 0..4 {
        fs::write(directory.join(format!("weights-{number}")), noise(&format!("weights {number}"), 40_000)).unwrap();
    }
    fs::write(directory.join("dump.sql"), prose("dump", 20_000)).unwrap();
    std::thread::sleep(Duration::from_millis(40));
}

/// Somebody with a stolen key and a program of their own.
struct Thief {
    repository: Arc<Repository>,
    session: SessionKeys,
}

impl Thief {
    fn new(vault: &Vault, key: &Credential) -> Self {
        let repository = vault.open_with(key).unwrap();
        let id = SessionId::new(Timestamp::now().as_millisecond() as u64, random());
        let name = SessionName { repository: repository.id(), session: id, slot: repository.access().certificate.slot };
        let session = SessionKeys::create(name, repository.keys(), &repository.config().data_public_key);
        Self { repository, session }
    }

    fn create(&self, key: &str, bytes: impl Into<Bytes>) {
        // What is there stays: the thief's credentials may only create.
        let _ = self.repository.backend().create(key, bytes.into());
    }

    fn honest_chunks(&self, kind: BlobKind) -> Vec<ChunkHeader> {
        let mut chunks = Vec::new();
        let visit = &mut |_: &_, _, chunk: &ChunkHeader| {
            chunks.push(*chunk);
            Ok(())
        };
        self.repository.index().for_each_chunk(kind, visit).unwrap();
        chunks
    }

    /// Stores garbage under the names of chunks. Returns the pack.
    fn garbage_pack(&self, kind: BlobKind, chunks: &[ChunkHeader]) -> IndexedPack {
        let header = PackHeader { kind, repository: self.repository.id(), session: self.session.header };
        let mut builder = PackBuilder::new(header, 0);
        // Larger than what is honest, in case somebody prefers that.
        for chunk in chunks {
            let stored_len = chunk.stored_len + 100;
            builder.push(ChunkHeader { stored_len, ..*chunk }, &vec![0xEE; stored_len as usize]);
        }
        let pack = builder.finish(&self.session.meta);
        let id = pack.id();
        let len = pack.bytes.len() as u64;
        self.create(&layout::pack(kind, &id), pack.bytes);
        IndexedPack { id, session: self.session.header, len, is_vouched: true, chunks: pack.chunks }
    }

    fn name(&self, kind: BlobKind, packs: Vec<IndexedPack>) {
        let (id, bytes) = self.repository.seal_segment(&Segment { kind, packs });
        self.create(&layout::segment(kind, &id), bytes);
    }

    fn poison(&self) -> IndexedPack {
        let content = Scene::known_later();
        let chunker = self.repository.chunker();
        let class = mlvault::chunker::ContentClass::Binary;
        let (mut rest, mut chunks) = (&content[..], Vec::new());
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(chunker.cut(class, rest));
            let id = self.repository.keys().chunk_id(BlobKind::Data as u8, chunk);
            let stored_len = (chunk.len() + OVERHEAD) as u32;
            let plain_len = chunk.len() as u32;
            chunks.push(ChunkHeader { id, plain_len, stored_len, codec: Codec::Raw, filter: 0 });
            rest = after;
        }
        let pack = self.garbage_pack(BlobKind::Data, &chunks);
        self.name(BlobKind::Data, vec![pack.clone()]);
        pack
    }

    fn countersign(&self, packs: &[&IndexedPack]) {
        let packs = packs.iter().map(|pack| SoundPack { pack: pack.id, directory: directory_hash(&pack.chunks) });
        let id = CountersignatureId::new(0, random());
        let record = Countersignature { at: Timestamp::UNIX_EPOCH, packs: packs.collect() };
        let body = record.sign(self.repository.id(), id, &self.repository.access().signer());
        self.seal(ObjectKind::Countersignature, &layout::countersignature(&id), &body);
    }

    fn seal(&self, kind: ObjectKind, key: &str, body: &[u8]) {
        let name = key.rsplit('/').next().unwrap();
        let sealed = object::seal(self.repository.keys(), self.repository.id(), kind, name, body);
        self.create(key, sealed);
    }

    /// Says of honest packs that their chunks are those of others.
    fn lie_about_packs(&self) {
        for kind in BlobKind::ALL {
            let mut chunks = self.honest_chunks(kind);
            chunks.reverse();
            let lies = self.repository.index().packs(kind).unwrap().into_iter().map(|pack| {
                let mut room = pack.len - 2000;
                let fits = |chunk: &&ChunkHeader| {
                    let fits = room >= u64::from(chunk.stored_len);
                    room -= if fits { u64::from(chunk.stored_len) } else { 0 };
                    fits
                };
                let chunks = chunks.iter().filter(fits).copied().collect();
                IndexedPack { id: pack.id, session: pack.session, len: pack.len, is_vouched: true, chunks }
            });
            self.name(kind, lies.collect());
        }
    }

    /// Plants a snapshot of the honest source in which a large file has the content of another one.
    fn plant_snapshot(&self) {
        let list = self.repository.list_snapshots().unwrap();
        let mut record = list.snapshots.last().unwrap().record.clone();
        let reader = ChunkReader::new(Arc::clone(&self.repository));
        let component = &record.components[0];
        let entries: Vec<_> =
            TreeReader::open(&reader, &component.name, &component.root).unwrap().map(Result::unwrap).collect();
        let contents = entries.iter().filter_map(|entry| match &entry.kind {
            EntryKind::File(content) if content.hard_link.is_none() && content.size > 0 => Some(content.clone()),
            _ => None,
        });
        let evil = contents.max_by_key(|content| content.size).unwrap();
        let Ok(begun) = session::Session::begin(&self.repository, "backup") else { return };
        let begun = Arc::new(begun);
        let writer = ChunkWriter::new(Arc::clone(&self.repository), Arc::clone(&begun), Arc::new(Silent));
        let mut planted = TreeWriter::new(&writer);
        for mut entry in entries {
            if let EntryKind::File(content) = &mut entry.kind
                && content.hard_link.is_none()
            {
                // The size stays, so that the file looks unchanged.
                (content.chunks, content.digest, content.indirect) = (evil.chunks.clone(), evil.digest, evil.indirect);
            }
            planted.push(&entry).unwrap();
        }
        let summary = planted.finish().unwrap();
        writer.finish().unwrap();
        record.components[0].root = summary.root;
        (record.started, record.finished) = (Timestamp::now(), Timestamp::now());
        let _ = begun.commit(&self.repository, record);
    }

    fn bury_everything(&self) {
        let packs: Vec<PackId> = BlobKind::ALL
            .into_iter()
            .flat_map(|kind| session::stored_packs(&self.repository, kind).unwrap().into_keys())
            .collect();
        let id = TombstoneId::new(0, random());
        let body = Tombstone { packs }.sign(self.repository.id(), id, &self.repository.access().signer());
        self.seal(ObjectKind::Tombstone, &layout::tombstone(&id), &body);
    }

    fn forget_everything(&self) {
        let record =
            ForgottenRecord { at: Timestamp::UNIX_EPOCH, reason: "a thief".to_owned(), program: String::new() };
        for snapshot in self.repository.list_snapshots().unwrap().snapshots {
            let body =
                forgotten::encode(self.repository.id(), snapshot.id, &record, &self.repository.access().signer());
            self.seal(ObjectKind::Forgotten, &layout::forgotten(&snapshot.id), &body);
        }
    }

    fn forge(&self, forgery: Forgery) {
        match forgery {
            Forgery::GarbagePack | Forgery::GarbageMetaPack => {
                let kind = if forgery == Forgery::GarbagePack { BlobKind::Data } else { BlobKind::Meta };
                let pack = self.garbage_pack(kind, &self.honest_chunks(kind));
                self.name(kind, vec![pack]);
            }
            Forgery::SegmentWithoutPack => {
                for kind in BlobKind::ALL {
                    let (id, chunks) = (PackId::from_bytes(random()), self.honest_chunks(kind));
                    let session = self.session.header;
                    self.name(kind, vec![IndexedPack { id, session, len: 100 << 20, is_vouched: true, chunks }]);
                }
            }
            Forgery::SegmentOfHonestPacks => self.lie_about_packs(),
            Forgery::PoisonedChunks => drop(self.poison()),
            Forgery::PoisonedAndCountersigned => {
                let pack = self.poison();
                self.countersign(&[&pack]);
            }
            Forgery::PlantedSnapshot => self.plant_snapshot(),
            Forgery::Tombstone => self.bury_everything(),
            Forgery::Forgotten => self.forget_everything(),
            Forgery::ForgottenByte => {
                for object in self.repository.backend().list(layout::SNAPSHOTS).unwrap() {
                    let id = layout::snapshot_of(&object.key).unwrap();
                    self.create(&layout::forgotten(&id), &b"x"[..]);
                }
            }
            Forgery::Sessions => {
                for milliseconds in [0, 4_291_747_200_000] {
                    let id = SessionId::new(milliseconds, random());
                    self.create(&layout::session(&id), &b"no record"[..]);
                }
            }
        }
    }
}

/// Runs an operation with the maintainer's key or the honest writer's. What it says is its own matter: it may refuse.
fn operate(scene: &Scene, vault: &Vault, operation: Operation) -> Result<(), Error> {
    let repository = vault.open().unwrap();
    let hears = Hears::nobody();
    let options = PruneOptions {
        limits: PruneLimits { unused_percent_max: 0.0, ..PruneLimits::default() },
        wait_max: Duration::ZERO,
        ..PruneOptions::default()
    };
    match operation {
        Operation::Prune => prune::run(&repository, &options, &hears).map(drop),
        Operation::ForgetAndPrune => {
            let what = ForgetChoice::Snapshots(vec![scene.snapshots[0].0.to_string()]);
            let plan = retention::plan(&repository, &what, 100)?;
            retention::execute(&repository, &plan, true, &hears)?;
            prune::run(&repository, &options, &hears).map(drop)
        }
        Operation::Backup => backup_with(&vault.open_with(&scene.writer).unwrap(), scene.directory.path()).map(drop),
        Operation::Check => {
            vault.check(ReadData::All);
            Ok(())
        }
        Operation::Copy => {
            let (target, _) = Vault::in_memory();
            let honest: BTreeSet<SessionId> = scene.snapshots.iter().map(|(id, _)| *id).collect();
            let list = repository.list_snapshots()?.snapshots;
            let list: Vec<_> = list.into_iter().filter(|snapshot| honest.contains(&snapshot.id)).collect();
            let copied = copy::run(&repository, &target.open().unwrap(), &list, &hears)?;
            assert!(copied.failed.is_empty(), "{copied:?}");
            for (snapshot, copied) in list.iter().zip(&copied.copied) {
                let (_, expected) = scene.snapshots.iter().find(|(id, _)| *id == snapshot.id).unwrap();
                target.assert_restores(copied.copy, scene.directory.path(), expected);
            }
            Ok(())
        }
        Operation::RepairIndex => {
            repair::index::run(&repository, &repair::index::RepairIndexOptions { dry_run: false }, &hears).map(drop)
        }
        Operation::RepairPacks => repair_packs(&repository, &hears),
    }
}

fn repair_packs(repository: &Arc<Repository>, hears: &Hears) -> Result<(), Error> {
    let options = repair::packs::RepairPacksOptions::default();
    repair::packs::run(repository, &options, hears).map(drop)
}

/// Fails unless every honest snapshot that is listed restores, those are listed that must be, and a new one restores.
fn assert_honest_whole(scene: &Scene, vault: &Vault, operation: Operation) {
    let kept = if operation == Operation::ForgetAndPrune { 1 } else { 0 };
    for (id, expected) in &scene.snapshots[kept..] {
        vault.assert_restores(*id, scene.directory.path(), expected);
    }
    let later = scene.directory.path().join(KNOWN_LATER);
    fs::write(&later, Scene::known_later()).unwrap();
    let writer = vault.open_with(&scene.writer).unwrap();
    let id = backup_with(&writer, scene.directory.path()).unwrap().snapshot.unwrap();
    let expected = tree(scene.directory.path());
    fs::remove_file(&later).unwrap();
    vault.assert_restores(id, scene.directory.path(), &expected);
}

/// What a thief of the honest writer's own key can do: it *is* that writer. What it makes from then on cannot be told from
/// what the writer makes (`docs/threat-model.md`).
fn is_beyond_defence(stolen: Stolen, forgery: Forgery) -> bool {
    let poisons =
        matches!(forgery, Forgery::PoisonedChunks | Forgery::PoisonedAndCountersigned | Forgery::PlantedSnapshot);
    let countersigns = stolen == Stolen::Another(Role::Reader) && forgery == Forgery::PoisonedAndCountersigned;
    (stolen == Stolen::Same && poisons) || countersigns
}

#[test]
fn whoever_stole_a_key_neither_destroys_nor_plants_anything() {
    let scene = Scene::new();
    let stolen = [Role::Writer, Role::Auditor, Role::Reader].map(Stolen::Another);
    for stolen in stolen.into_iter().chain([Stolen::Same]) {
        for forgery in FORGERIES.into_iter().filter(|forgery| !is_beyond_defence(stolen, *forgery)) {
            for operation in OPERATIONS {
                println!("{stolen:?} {forgery:?} {operation:?}");
                let (vault, _) = scene.fork();
                let key = match stolen {
                    Stolen::Same => scene.writer.clone(),
                    Stolen::Another(role) => {
                        let (_, key) = key_file();
                        vault.open().unwrap().add_key("stolen", role, &key).unwrap();
                        key
                    }
                };
                Thief::new(&vault, &key).forge(forgery);
                if let Err(error) = operate(&scene, &vault, operation) {
                    // To refuse is safe, if it says what to do about it.
                    assert!(matches!(error, Error::Refused(_)), "{error}");
                }
                assert_honest_whole(&scene, &vault, operation);
            }
        }
    }
}
