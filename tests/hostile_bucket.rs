//! Somebody without a key writes into the bucket: every command works beside it or says the way out, and
//! `repair objects` takes it away without a loss.
//!
//! Method: a repository with an object of every kind. Junk of one sort is put under one prefix at a time, and every command
//! runs on a copy of that. The tables say which junk there is ([`SORTS`]), where ([`PLACES`]), which commands there are
//! ([`COMMANDS`]), and which of these may refuse ([`refusal`]). The next idea is one more line there.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mlvault::backend::memory::MemoryBackend;
use mlvault::backend::{Backend, Listed};
use mlvault::backup::{self, BackupOptions};
use mlvault::check::ReadData;
use mlvault::copy::{self, Choice};
use mlvault::diff::{self, DiffOptions};
use mlvault::error::{Error, Result};
use mlvault::find::{self, Query};
use mlvault::format::BlobKind;
use mlvault::format::countersignature::SoundPack;
use mlvault::format::key_slot::Role;
use mlvault::format::snapshot::{PROBLEMS_MAX, ProblemRecord};
use mlvault::hears::Hears;
use mlvault::id::{PackId, SessionId};
use mlvault::list::{self, ListOptions};
use mlvault::procedures::Consent;
use mlvault::procedures::repair_objects;
use mlvault::prune::{self, PruneLimits, PruneOptions};
use mlvault::repair::index::{self, RepairIndexOptions};
use mlvault::repair::packs::{self, RepairPacksOptions};
use mlvault::repair::snapshots;
use mlvault::repository::layout::Object;
use mlvault::repository::naming::Named;
use mlvault::repository::{OpenOptions, Repository, session};
use mlvault::restore::RestoreOptions;
use mlvault::retention::{self, ForgetChoice, undelete};
use mlvault::stats;
use mlvault::units::GIB;
use tempfile::TempDir;

use crate::support::repo::{
    LocalVault, Tree, Vault, WatchedBackend, clean_check, copy_of, empty_shard, key_file, noise, tree,
};

/// What stands in the bucket that should not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    RandomBytes,
    Empty,
    /// One byte more than such an object can have.
    Oversize,
    /// A good object, cut in two, under a name of its own.
    Truncated,
    /// A good object under another name.
    Replayed,
    /// A good object of another repository.
    Foreign,
    /// A name that is no id.
    Misnamed,
}

const SORTS: [Sort; 7] =
    [Sort::RandomBytes, Sort::Empty, Sort::Oversize, Sort::Truncated, Sort::Replayed, Sort::Foreign, Sort::Misnamed];

/// Prefixes, and a name there that nothing has. The first two digits of a pack's name are a folder.
const PLACES: [(&str, &str); 13] = [
    ("keys/", "0101010101010101"),
    ("snapshots/", "01010101010101010101010101010101"),
    // Under the name of a snapshot that is there: else nobody would read it.
    ("forgotten/", "FIRST"),
    ("notes/", "01010101010101010101010101010101"),
    ("sessions/", "01010101010101010101010101010101"),
    ("tombstones/", "01010101010101010101010101010101"),
    ("countersigned/", "01010101010101010101010101010101"),
    ("evidence/", "01010101010101010101010101010101"),
    ("plans/", "01010101010101010101010101010101/plan"),
    ("index/data/", "0101010101010101010101010101010101010101010101010101010101010101"),
    ("index/meta/", "0101010101010101010101010101010101010101010101010101010101010101"),
    ("packs/data/01/", "0101010101010101010101010101010101010101010101010101010101010101"),
    ("packs/meta/01/", "0101010101010101010101010101010101010101010101010101010101010101"),
];

type Command = fn(&Scene, &Vault) -> Result<()>;

const COMMANDS: [(&str, Command); 23] = [
    ("restore", restore_latest),
    ("restore by id", restore_all),
    ("backup", backup_and_restore),
    ("snapshots", list_snapshots),
    ("forget", forget),
    ("undelete", bring_back),
    ("prune", |_, vault| prune(vault)),
    ("check", |_, vault| drop_result(Ok(vault.check(ReadData::All)))),
    ("copy", copy_all),
    ("key list", |_, vault| vault.open()?.list_keys().map(drop)),
    ("key add", add_key),
    ("hold", |scene, vault| retention::hold(vault.open()?.as_ref(), &scene.first.to_string(), "audit", None).map(drop)),
    ("tag", |scene, vault| {
        retention::tag(vault.open()?.as_ref(), &scene.first.to_string(), vec!["a".to_owned()], true).map(drop)
    }),
    ("repair index", |_, vault| {
        index::run(vault.open()?.as_ref(), &RepairIndexOptions { dry_run: false }, &Hears::nobody()).map(drop)
    }),
    ("repair packs", |_, vault| packs::run(&vault.open()?, &RepairPacksOptions::default(), &Hears::nobody()).map(drop)),
    ("repair snapshots", |_, vault| snapshots::plan(&vault.open()?, &Named::default(), &Hears::nobody()).map(drop)),
    ("stats", repository_stats),
    ("find", find_files),
    ("ls", list_files),
    ("diff", compare),
    ("drill list", |_, vault| {
        let repository = vault.open()?;
        repository.list_evidence(&repository.list_notes()?, |_| ControlFlow::Continue(())).map(drop)
    }),
    ("dry backup", dry_backup),
    ("doctor", |_, vault| {
        mlvault::doctor::probe(vault.backend.as_ref(), &mlvault::clock::SystemClock, &Hears::nobody()).map(drop)
    }),
];

/// Returns what a command has to say if it does not work beside junk: only where what cannot be read might matter.
fn refusal(command: &str, prefix: &str, sort: Sort) -> Option<&'static str> {
    match (command, prefix) {
        // Nothing is read under a name that mlvault does not make.
        _ if sort == Sort::Misnamed => None,
        ("prune", "snapshots/" | "forgotten/" | "notes/" | "tombstones/") => Some("repair objects"),
        ("forget", "notes/") => Some("repair objects"),
        ("prune", "index/data/" | "index/meta/") => Some("repair index"),
        ("repair packs" | "repair snapshots", "index/data/" | "index/meta/") => {
            Some("The index has to be repaired first")
        }
        _ => None,
    }
}

/// A repository with an object of every kind, and one of another.
struct Scene {
    vault: Vault,
    memory: Arc<MemoryBackend>,
    other: Arc<MemoryBackend>,
    directory: TempDir,
    first: SessionId,
    second: SessionId,
    forgotten: SessionId,
    expected: [(SessionId, Tree); 2],
}

impl Scene {
    fn new() -> Self {
        let (vault, memory) = Vault::in_memory();
        let (elsewhere, other) = Vault::in_memory();
        let directory = TempDir::new().unwrap();
        let write = |name: &str, seed: &str| fs::write(directory.path().join(name), noise(seed, 30_000)).unwrap();
        write("weights", "1");
        // First, so that what is of this one is not newer than what is of the other.
        let foreign = elsewhere.backup(directory.path()).unwrap();
        add_records(&elsewhere, foreign, foreign);
        let first = vault.backup(directory.path()).unwrap();
        let first_tree = tree(directory.path());
        write("more", "2");
        let forgotten = vault.backup(directory.path()).unwrap();
        write("more", "3");
        let second = vault.backup(directory.path()).unwrap();
        add_records(&vault, first, forgotten);
        let expected = [(first, first_tree), (second, tree(directory.path()))];
        Self { vault, memory, other, directory, first, second, forgotten, expected }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Returns the repository with junk in it, and where that stands.
    fn with_junk(&self, (prefix, name): (&str, &str), sort: Sort) -> (Vault, Arc<MemoryBackend>, String) {
        let memory = copy_of(&self.memory);
        let name = name.replace("FIRST", &self.first.to_string());
        let key = match sort {
            Sort::Misnamed => format!("{prefix}readme"),
            Sort::Foreign if prefix.starts_with("packs/") => good(&self.other, &prefix[..11]).0,
            Sort::Foreign if prefix != "forgotten/" => good(&self.other, prefix).0,
            _ => format!("{prefix}{name}"),
        };
        memory.overwrite(&key, self.bytes(&key, prefix, sort));
        (self.vault.through(Arc::clone(&memory) as Arc<dyn Backend>), memory, key)
    }

    fn bytes(&self, key: &str, prefix: &str, sort: Sort) -> bytes::Bytes {
        // Packs of all folders are packs.
        let prefix = if prefix.starts_with("packs/") { &prefix[..11] } else { prefix };
        match sort {
            Sort::RandomBytes | Sort::Misnamed => noise("junk", 1000).into(),
            Sort::Empty => bytes::Bytes::new(),
            Sort::Oversize => vec![0; Object::parse(key).unwrap().bytes_max() as usize + 1].into(),
            Sort::Truncated => {
                let bytes = good(&self.memory, prefix).1;
                bytes.slice(..bytes.len() / 2)
            }
            Sort::Replayed => good(&self.memory, prefix).1,
            Sort::Foreign => good(&self.other, prefix).1,
        }
    }
}

/// Adds what a repository has beside backups.
fn add_records(vault: &Vault, held: SessionId, forgotten: SessionId) {
    let repository = vault.open().unwrap();
    retention::hold(&repository, &held.to_string(), "audit", None).unwrap();
    repository.forget(&forgotten, "test").unwrap();
    session::bury(&repository, &[PackId::from_bytes([7; 32])]).unwrap();
    let sound = repository.index().packs(BlobKind::Meta).unwrap();
    let sound: Vec<_> = sound.iter().map(|pack| SoundPack { pack: pack.id, directory: pack.directory }).collect();
    repository.countersign(&sound).unwrap();
    repository.write_evidence(clean_check()).unwrap();
    repository.write_plan_object(&repository.plan_id("production", "p"), &empty_shard()).unwrap();
}

/// Returns an object under a prefix, and its key.
fn good(memory: &MemoryBackend, prefix: &str) -> (String, bytes::Bytes) {
    let listed = memory.list(prefix).unwrap();
    let Listed { key, .. } = listed.last().unwrap_or_else(|| panic!("nothing is under {prefix}"));
    (key.clone(), memory.read(key).unwrap())
}

fn drop_result<T>(result: Result<T>) -> Result<()> {
    result.map(drop)
}

fn restores(scene: &Scene, vault: &Vault, id: SessionId, expected: &Tree) -> Result<()> {
    let (restored, problems) = vault.restore(id, scene.path())?;
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(restored, *expected);
    Ok(())
}

fn restore_all(scene: &Scene, vault: &Vault) -> Result<()> {
    scene.expected.iter().try_for_each(|(id, expected)| restores(scene, vault, *id, expected))
}

fn restore_latest(scene: &Scene, vault: &Vault) -> Result<()> {
    let latest = vault.open()?.find_snapshot("latest")?.id;
    assert_eq!(latest, scene.second);
    let target = TempDir::new().unwrap();
    let repository = vault.open()?;
    let snapshot = repository.find_snapshot("latest")?;
    let restored = mlvault::restore::run(
        &repository,
        &snapshot,
        &RestoreOptions::into_directory(target.path()),
        &Hears::nobody(),
    )?;
    assert_eq!(restored.problems, 0);
    Ok(())
}

fn backup_and_restore(scene: &Scene, vault: &Vault) -> Result<()> {
    let id = vault.backup(scene.path())?;
    restores(scene, vault, id, &scene.expected[1].1)
}

fn dry_backup(scene: &Scene, vault: &Vault) -> Result<()> {
    let options = BackupOptions { dry_run: true, ..BackupOptions::of_paths([scene.path()]) };
    backup::run(&vault.open()?, &options, &Hears::nobody()).map(drop)
}

fn list_snapshots(scene: &Scene, vault: &Vault) -> Result<()> {
    let repository = vault.open()?;
    let list = repository.list_snapshots()?;
    let ids: Vec<_> = list.snapshots.iter().map(|snapshot| snapshot.id).collect();
    assert_eq!(ids, [scene.first, scene.second]);
    assert!(repository.vanished(&list)?.is_empty());
    repository.list_notes().map(drop)
}

fn forget(scene: &Scene, vault: &Vault) -> Result<()> {
    let repository = vault.open()?;
    let plan = retention::plan(&repository, &ForgetChoice::Snapshots(scene.second.into()), 100)?;
    assert_eq!(retention::execute(&repository, &plan, true, &Hears::nobody())?, 1);
    Ok(())
}

fn bring_back(scene: &Scene, vault: &Vault) -> Result<()> {
    undelete(&vault.open()?, &scene.forgotten.into(), &Hears::nobody()).map(drop)
}

fn prune(vault: &Vault) -> Result<()> {
    let limits = PruneLimits { unused_percent_max: 0.0, ..PruneLimits::default() };
    let (session_age_max, wait_max) = (Duration::ZERO, Duration::ZERO);
    let options = PruneOptions { limits, session_age_max, wait_max, ..PruneOptions::default() };
    let report = prune::run(&vault.open()?, &options, &Hears::nobody())?;
    assert!(report.is_complete(), "{report:?}");
    Ok(())
}

fn copy_all(_: &Scene, vault: &Vault) -> Result<()> {
    let (target, _) = Vault::in_memory();
    let (from, to) = (vault.open()?, target.open()?);
    let (list, notes) = (from.list_snapshots()?, from.list_notes()?);
    let choice = Choice { names: Vec::new(), deployment: None, tags: Vec::new() };
    let chosen = choice.among(&list.snapshots, &notes)?;
    let plan = copy::plan(chosen, from.id(), to.id(), &to.list_snapshots()?);
    let copied = copy::run(&from, &to, &plan.missing, &Hears::nobody())?;
    assert_eq!((copied.copied.len(), copied.failed.len()), (2, 0));
    Ok(())
}

fn add_key(_: &Scene, vault: &Vault) -> Result<()> {
    let (_, writer) = key_file();
    let repository = vault.open()?;
    let certificate = repository.add_key("cron", Role::Writer, &writer)?;
    vault.open_with(&writer)?;
    repository.remove_key(&certificate.slot.to_string()).map(drop)
}

fn repository_stats(_: &Scene, vault: &Vault) -> Result<()> {
    let repository = vault.open()?;
    stats::repository(&repository, &repository.list_snapshots()?, &Hears::nobody()).map(drop)
}

fn find_files(_: &Scene, vault: &Vault) -> Result<()> {
    let repository = vault.open()?;
    let query = Query { patterns: vec!["weights".to_owned()], digests: Vec::new(), path: Vec::new() };
    let (mut count, snapshots) = (0, repository.list_snapshots()?.snapshots);
    let mut visit = |_| {
        count += 1;
        Ok(())
    };
    find::run(&repository, &snapshots, &query, &mut visit, &Hears::nobody())?;
    assert_eq!(count, 1);
    Ok(())
}

fn list_files(scene: &Scene, vault: &Vault) -> Result<()> {
    let repository = vault.open()?;
    let snapshot = repository.find_snapshot(&scene.second.to_string())?;
    let options = ListOptions { path: Vec::new(), recursive: true };
    list::run(&repository, &snapshot, &options, &mut |_, _| Ok(()), &Hears::nobody())
}

fn compare(scene: &Scene, vault: &Vault) -> Result<()> {
    let repository = vault.open()?;
    let [old, new] = [scene.first, scene.second].map(|id| repository.find_snapshot(&id.to_string()).unwrap());
    let options = DiffOptions { path: Vec::new(), metadata: false };
    diff::snapshots(&repository, [&old, &new], &options, &mut |_| Ok(()), &Hears::nobody()).map(drop)
}

/// Returns the keys that `repair objects` moves.
fn repair(repository: &Repository) -> Result<Vec<String>> {
    let repaired = repair_objects::run(repository, &Consent::Given, &Hears::nobody())?;
    assert!(repaired.report.left.is_empty(), "{:?}", repaired.report.left);
    Ok(repaired.report.moved.into_iter().map(|moved| moved.object).collect())
}

fn assert_named_by_check(vault: &Vault, key: &str, what: &str) {
    let report = vault.check(ReadData::Nothing);
    let in_problems = report.problems.iter().any(|problem| problem.object == key);
    let in_notes = report.notes.iter().any(|note| note.contains(key) || note.contains("no index segment"));
    assert!(in_problems || in_notes, "{what}: {report:#?}");
}

#[test]
fn every_command_works_beside_junk_or_says_the_way_out_and_nothing_is_lost() {
    let scene = Scene::new();
    for place in PLACES {
        for sort in SORTS {
            let what = format!("{sort:?} under {}", place.0);
            for (name, command) in COMMANDS {
                let (vault, ..) = scene.with_junk(place, sort);
                match (command(&scene, &vault), refusal(name, place.0, sort)) {
                    (Ok(()), None) => {}
                    (Err(error), Some(way_out)) => {
                        assert!(error.to_string().contains(way_out), "{what}, {name}: {error}")
                    }
                    (result, expected) => panic!("{what}, {name}: {result:?}, not {expected:?}"),
                }
            }
            let (vault, memory, key) = scene.with_junk(place, sort);
            assert_named_by_check(&vault, &key, &what);
            let junk = memory.read(&key).unwrap();
            assert_eq!(repair(&vault.open().unwrap()).unwrap(), std::slice::from_ref(&key), "{what}");
            assert!(memory.read(&key).is_err() || place.0 == "snapshots/", "{what}");
            assert_eq!(bytes_in_quarantine(&memory), junk, "{what}");
            vault.assert_clean();
            for (name, command) in COMMANDS {
                let vault = vault.through(copy_of(&memory));
                command(&scene, &vault).unwrap_or_else(|error| panic!("{what}, {name}, after the repair: {error}"));
            }
            assert_eq!(repair(&vault.open().unwrap()).unwrap(), [""; 0], "{what}");
        }
    }
}

/// Returns the bytes of the one object that is in quarantine, and makes sure that its record fits them.
fn bytes_in_quarantine(memory: &MemoryBackend) -> Vec<u8> {
    let listed = memory.list("quarantine/").unwrap();
    let (records, parts): (Vec<_>, Vec<_>) =
        listed.iter().partition(|object| matches!(Object::parse(&object.key), Some(Object::QuarantineRecord(_))));
    let [record] = &records[..] else { panic!("{records:?}") };
    let record: serde_json::Value = serde_json::from_slice(&memory.read(&record.key).unwrap()).unwrap();
    let bytes = parts.iter().map(|part| memory.read(&part.key).unwrap()).collect::<Vec<_>>().concat();
    assert_eq!(record["parts"], parts.len());
    assert_eq!(record["bytes"], bytes.len());
    assert_eq!(record["blake3"], blake3::hash(&bytes).to_string());
    bytes
}

#[test]
fn a_repair_of_objects_that_is_stopped_anywhere_loses_nothing_and_can_be_run_again() {
    let scene = Scene::new();
    let places = [PLACES[1], PLACES[2], PLACES[4], PLACES[5]];
    for place in places {
        let (_, memory, key) = scene.with_junk(place, Sort::RandomBytes);
        let junk = memory.read(&key).unwrap();
        for writes in 0..8 {
            for loses_answer in [false, true] {
                let stopped = copy_of(&memory);
                let watched =
                    WatchedBackend::new(Arc::clone(&stopped) as Arc<dyn Backend>).stopping_after(writes, loses_answer);
                let is_done = repair(&scene.vault.through(Arc::new(watched)).open().unwrap()).is_ok();
                let what = format!("{key} after {writes} writes");
                let copies = stopped.list("quarantine/").unwrap();
                let is_copied = copies.iter().any(|part| stopped.read(&part.key).unwrap() == junk);
                let is_there = stopped.read(&key).is_ok_and(|bytes| bytes == junk);
                assert!(is_there || is_copied, "{what}");
                let vault = scene.vault.through(Arc::clone(&stopped) as Arc<dyn Backend>);
                repair(&vault.open().unwrap()).unwrap();
                vault.assert_clean();
                restore_all(&scene, &vault).unwrap();
                assert!(is_done || writes < 7, "{what}");
            }
        }
    }
}

#[test]
fn a_session_under_whose_name_junk_was_cannot_commit_after_the_repair() {
    let scene = Scene::new();
    let memory = copy_of(&scene.memory);
    let vault = scene.vault.through(Arc::clone(&memory) as Arc<dyn Backend>);
    let repository = vault.open().unwrap();
    let running = session::Session::begin(&repository, "test").unwrap();
    memory.overwrite(&Object::Snapshot(running.id).key(), "junk");
    assert_eq!(repair(&repository).unwrap(), [Object::Snapshot(running.id).key()]);
    assert!(matches!(running.close(&repository, "done"), Err(Error::Busy(_))));
    // The same for one whose announcement was junk.
    let other = session::Session::begin(&repository, "test").unwrap();
    memory.overwrite(&Object::Session(other.id).key(), "junk");
    assert_eq!(repair(&repository).unwrap(), [Object::Session(other.id).key()]);
    assert!(matches!(other.close(&repository, "done"), Err(Error::Busy(_))));
    vault.assert_clean();
}

#[test]
fn junk_that_is_no_slot_locks_no_key_out_however_much_of_it_there_is() {
    let scene = Scene::new();
    let memory = copy_of(&scene.memory);
    for number in 0..1000 {
        memory.overwrite(&format!("keys/{number:016x}"), noise(&number.to_string(), 100));
    }
    let vault = scene.vault.through(memory);
    let repository = vault.open().unwrap();
    let (_, writer) = key_file();
    assert!(matches!(vault.open_with(&writer), Err(Error::WrongKey { slots: 2, .. })));
    repository.add_key("cron", Role::Writer, &writer).unwrap();
    vault.open_with(&writer).unwrap();
    assert_eq!(repair(&repository).unwrap().len(), 1000);
    vault.assert_clean();
}

#[test]
fn junk_that_may_be_a_newer_snapshot_is_told_by_who_asks_for_the_latest() {
    let local = LocalVault::create();
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("file"), "x").unwrap();
    let id = local.vault.backup(directory.path()).unwrap();
    let junk = local.path().join("snapshots/ffffffffffff00000000000000000000");
    fs::write(&junk, "junk").unwrap();
    let latest = |local: &LocalVault| local.run(&["ls", "-R", "latest"]);
    let (code, said) = latest(&local);
    assert!(code == 3 && said.contains("file") && said.contains("snapshots/ffffffffffff"), "{code}: {said}");
    assert_eq!(local.run(&["ls", &id.to_string()]).0, 0);
    let (code, said) = local.run(&["prune"]);
    assert!(code == 1 && said.contains("mlvault repair objects"), "{code}: {said}");
    let (code, said) = local.run(&["repair", "objects", "--dry-run"]);
    assert!(code == 0 && junk.exists() && said.contains("If it was a snapshot, that is lost"), "{code}: {said}");
    let (code, said) = local.run(&["repair", "objects"]);
    assert!(code == 2 && junk.exists() && said.contains("--yes"), "{code}: {said}");
    let (code, said) = local.run(&["repair", "objects", "--yes"]);
    assert!(code == 0 && said.contains("Moved snapshots/ffffffffffff"), "{code}: {said}");
    assert_eq!(latest(&local).0, 0);
    assert_eq!(local.run(&["prune"]).0, 0);
    let (code, said) = local.run(&["check"]);
    assert!(code == 0 && said.contains("1 object in quarantine"), "{code}: {said}");
}

#[test]
fn records_that_take_more_memory_than_the_limit_leaves_for_them_are_refused_clearly() {
    let (vault, _) = Vault::in_memory();
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("file"), "x").unwrap();
    let repository = vault.open().unwrap();
    let options = BackupOptions::of_paths([directory.path()]);
    let mut record = backup::run(&repository, &options, &Hears::nobody()).unwrap().record;
    // As of somebody who holds a writer's key: a MiB each, which compresses to nothing.
    let problem = |_| ProblemRecord { path: "x".repeat(1000), message: String::new() };
    record.problems = (0..PROBLEMS_MAX).map(problem).collect();
    for _ in 0..30 {
        session::Session::begin(&repository, "test").unwrap().commit(&repository, record.clone()).unwrap();
    }
    let refused = vault.open().unwrap().list_snapshots();
    assert!(matches!(&refused, Err(Error::Invalid(reason)) if reason.contains("memory limit")), "{refused:?}");
    let options = OpenOptions { memory_limit: 2 * GIB, ..OpenOptions::default() };
    let repository = Repository::open(Arc::clone(&vault.backend), &vault.credential, &options).unwrap();
    assert_eq!(repository.list_snapshots().unwrap().snapshots.len(), 31);
}
