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

use mlvault::backend::Backend;
use mlvault::backend::memory::MemoryBackend;
use mlvault::check::ReadData;
use mlvault::copy;
use mlvault::crypto::passphrase::Credential;
use mlvault::error::Error;
use mlvault::format::key_slot::Role;
use mlvault::hears::Hears;
use mlvault::id::SessionId;
use mlvault::prune::{self, PruneLimits, PruneOptions};
use mlvault::repair;
use mlvault::repository::Repository;
use mlvault::retention::{self, ForgetChoice};
use tempfile::TempDir;

use crate::support::repo::{Tree, Vault, backup_with, copy_of, key_file, noise, prose, tree};
use crate::support::thief::{FORGERIES, Forgery, Thief};

/// A file that an honest writer will back up later, and whose content the thief knows before.
const KNOWN_LATER: &str = "known-later.bin";

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
            let what = ForgetChoice::Snapshots(scene.snapshots[0].0.into());
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

/// A prune merges small segments once there are many. Which of two words on a pack comes first is chance; so there are many.
#[test]
fn a_lie_about_packs_does_not_survive_the_truth_when_segments_are_merged() {
    let mut scene = Scene::new();
    for number in 0..8 {
        fs::write(scene.directory.path().join("changed"), noise(&format!("changed {number}"), 20_000)).unwrap();
        scene.back_up();
    }
    let (_, key) = key_file();
    scene.vault.open().unwrap().add_key("stolen", Role::Writer, &key).unwrap();
    for _ in 0..3 {
        Thief::new(scene.vault.open_with(&key).unwrap()).forge(Forgery::SegmentOfHonestPacks, &[]);
    }
    let segments = scene.vault.keys_under("index/").len();
    operate(&scene, &scene.vault, Operation::Prune).unwrap();
    assert!(scene.vault.keys_under("index/").len() < segments);
    assert_honest_whole(&scene, &scene.vault, Operation::Prune);
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
                Thief::new(vault.open_with(&key).unwrap()).forge(forgery, &Scene::known_later());
                if let Err(error) = operate(&scene, &vault, operation) {
                    // To refuse is safe, if it says what to do about it.
                    assert!(matches!(error, Error::Refused(_)), "{error}");
                }
                assert_honest_whole(&scene, &vault, operation);
            }
        }
    }
}
