//! Copies to another repository: what comes back from the copy is what was backed up, whatever stopped or damaged it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use mlvault::backend::Backend;
use mlvault::backend::memory::MemoryBackend;
use mlvault::cancel::Cancel;
use mlvault::check::ReadData;
use mlvault::copy::{self, Choice, CopySummary};
use mlvault::error::{Error, Result};
use mlvault::format::BlobKind;
use mlvault::format::key_slot::Role;
use mlvault::format::snapshot::SessionOutcome;
use mlvault::hears::Hears;
use mlvault::id::{PackId, SessionId};
use mlvault::monitor::{Monitor, Silent};
use mlvault::repository::layout::Object;
use mlvault::repository::{Repository, layout, session};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::mlflow_server::{MlflowOptions, MlflowServer};
use crate::support::repo::{
    LocalVault, Problems, Tree, Vault, WatchedBackend, copy_of, fill, id_of, key_file, noise, prose, stored_path, tree,
};
use crate::support::s3_server::{ACCESS_KEY_ID, BUCKET, Program, S3Server, SECRET_ACCESS_KEY};

/// More writes than any copy here makes.
const WRITES_MAX: usize = 100;

/// A directory that changed between two backups of it.
struct Scene {
    vault: Vault,
    memory: Arc<MemoryBackend>,
    directory: TempDir,
    snapshots: [(SessionId, Tree); 2],
}

impl Scene {
    fn new() -> Self {
        let (vault, memory) = Vault::in_memory();
        let directory = TempDir::new().unwrap();
        // Long enough for an indirect list of chunks.
        fs::write(directory.path().join("long.sql"), prose("long", 3_500_000)).unwrap();
        fill(directory.path(), "day");
        let first = (vault.backup(directory.path()).unwrap(), tree(directory.path()));
        fs::write(directory.path().join("models/1/weights.bin"), noise("second day", 200_000)).unwrap();
        fs::rename(directory.path().join("models/2"), directory.path().join("models/renamed")).unwrap();
        let second = (vault.backup(directory.path()).unwrap(), tree(directory.path()));
        Self { vault, memory, directory, snapshots: [first, second] }
    }

    fn ids(&self) -> Vec<SessionId> {
        self.snapshots.iter().map(|(id, _)| *id).collect()
    }

    /// Fails unless the target has a sound copy of each snapshot.
    fn assert_copied(&self, target: &Vault) {
        target.assert_clean();
        let list = target.open().unwrap().list_snapshots().unwrap().snapshots;
        assert_eq!(list.len(), self.snapshots.len());
        for (copy, (id, expected)) in list.iter().zip(&self.snapshots) {
            assert_eq!(copy.record.copied_from.as_ref().unwrap().snapshot, *id);
            target.assert_restores(copy.id, self.directory.path(), expected);
        }
    }
}

/// Copies all snapshots that are missing, as a new process would.
fn copy_all(source: &Vault, target: &Vault) -> Result<CopySummary> {
    copy_between(&source.open()?, &target.open()?, Arc::new(Silent))
}

fn copy_between(source: &Arc<Repository>, target: &Arc<Repository>, monitor: Arc<dyn Monitor>) -> Result<CopySummary> {
    let chosen = Choice::default().among(&source.list_snapshots()?.snapshots, &source.list_notes()?)?;
    let plan = copy::plan(chosen, source.id(), target.id(), &target.list_snapshots()?);
    copy::run(source, target, &plan.missing, &Hears::new(monitor, Cancel::default()))
}

/// Returns how many snapshots a copy of all would have to copy.
fn missing(source: &Vault, target: &Vault) -> usize {
    let (source, target) = (source.open().unwrap(), target.open().unwrap());
    let chosen = source.list_snapshots().unwrap().snapshots;
    copy::plan(chosen, source.id(), target.id(), &target.list_snapshots().unwrap()).missing.len()
}

#[test]
fn a_copy_under_other_keys_says_and_restores_the_same() {
    let (scene, (target, _)) = (Scene::new(), Vault::in_memory());
    let summary = copy_all(&scene.vault, &target).unwrap();
    assert_eq!(summary.copied.iter().map(|copied| copied.snapshot).collect::<Vec<_>>(), scene.ids());
    scene.assert_copied(&target);
    let (source, copied) = (scene.vault.open().unwrap(), target.open().unwrap());
    let originals = source.list_snapshots().unwrap().snapshots;
    let copies = copied.list_snapshots().unwrap().snapshots;
    for (original, copy) in originals.iter().zip(&copies) {
        let from = copy.record.copied_from.as_deref().unwrap();
        assert_eq!((from.repository, from.snapshot), (source.id(), original.id));
        assert_eq!((from.signer, &from.label), (original.signer.signer, &original.signer.label));
        let as_it_was = mlvault::format::snapshot::SnapshotRecord {
            components: original.record.components.clone(),
            parent: original.record.parent,
            seen: original.record.seen.clone(),
            copied_from: None,
            rewritten_from: None,
            ..copy.record.clone()
        };
        assert_eq!(as_it_was, original.record);
        assert_ne!(copy.record.components[0].root, original.record.components[0].root);
        assert_eq!(copy.record.components[0].bytes, original.record.components[0].bytes);
    }
    // Names of other snapshots are those of the target.
    assert_eq!((copies[1].record.parent, seen_by(&copied, copies[1].id)), (Some(copies[0].id), vec![copies[0].id]));
}

/// Returns what a record says was seen, which lists do not keep.
fn seen_by(repository: &Repository, id: SessionId) -> Vec<SessionId> {
    let root = repository.config().root_key;
    let opened = repository
        .objects()
        .open(Object::Snapshot(id), None, |body| mlvault::format::snapshot::decode(repository.id(), id, &root, body));
    match opened.unwrap().0 {
        SessionOutcome::Snapshot(record) => record.seen,
        SessionOutcome::Void(_) => Vec::new(),
    }
}

#[test]
fn what_the_target_has_is_neither_read_nor_stored_again() {
    let (scene, (target, _)) = (Scene::new(), Vault::in_memory());
    let source = scene.vault.open().unwrap();
    let snapshots = source.list_snapshots().unwrap().snapshots;
    let run = |at: usize, target: &Vault| {
        copy::run(&source, &target.open().unwrap(), &snapshots[at..=at], &Hears::nobody()).unwrap()
    };
    let (first, second) = (run(0, &target), run(1, &target));
    assert_eq!(first.bytes_read, snapshots[0].record.components[0].bytes);
    // Beside what changed, a renamed directory is read, and only found to be there when it was cut.
    let renamed = 150_000 + 2 * 7919 + 702;
    assert_eq!(second.bytes_read, 200_000 + renamed);
    assert!(second.bytes_stored < 300_000, "{second:?}");

    assert_eq!(missing(&scene.vault, &target), 0);
    let watched = Arc::new(WatchedBackend::new(Arc::clone(&target.backend)));
    let again = copy_all(&scene.vault, &target.through(Arc::clone(&watched) as Arc<dyn Backend>)).unwrap();
    assert_eq!((again, watched.keys_of("create")), (CopySummary::default(), Vec::new()));
    // Nor when it lies in the trash.
    let copy = target.open().unwrap().list_snapshots().unwrap().snapshots[0].id;
    target.open().unwrap().forget(&copy, "a test").unwrap();
    assert_eq!(missing(&scene.vault, &target), 0);
}

#[test]
fn copies_of_copies_and_the_way_home_are_recognised() {
    let (scene, (near, _), (far, _)) = (Scene::new(), Vault::in_memory(), Vault::in_memory());
    copy_all(&scene.vault, &near).unwrap();
    copy_all(&near, &far).unwrap();
    assert_eq!((missing(&scene.vault, &far), missing(&near, &scene.vault), missing(&far, &scene.vault)), (0, 0, 0));
    let copies = far.open().unwrap().list_snapshots().unwrap().snapshots;
    for (copy, (id, expected)) in copies.iter().zip(&scene.snapshots) {
        let from = copy.record.copied_from.as_deref().unwrap();
        assert_eq!(from.repository, near.open().unwrap().id());
        assert_eq!(from.origin(), (scene.vault.open().unwrap().id(), *id));
        far.assert_restores(copy.id, scene.directory.path(), expected);
    }
}

#[test]
fn a_copy_stopped_at_any_write_leaves_the_target_good_and_is_gone_on_with() {
    let (scene, (mut target, memory)) = (Scene::new(), Vault::in_memory());
    let (mut stopped_with_one, mut writes) = (0, 0);
    loop {
        target.backend = copy_of(&memory);
        let stopping = WatchedBackend::new(Arc::clone(&target.backend)).stopping_after(writes, writes % 2 == 0);
        if copy_all(&scene.vault, &target.through(Arc::new(stopping))).is_ok() {
            break;
        }
        target.assert_clean();
        let there = target.open().unwrap().list_snapshots().unwrap().snapshots.len();
        stopped_with_one += usize::from(there == 1);
        let rest = copy_all(&scene.vault, &target).unwrap();
        assert_eq!(rest.copied.len(), 2 - there);
        scene.assert_copied(&target);
        writes += 1;
        assert!(writes < WRITES_MAX);
    }
    assert!(writes > 6 && stopped_with_one > 1, "{writes} {stopped_with_one}");
    scene.assert_copied(&target);
}

#[test]
fn damage_costs_the_snapshots_that_need_it_and_is_named() {
    let (vault, memory) = Vault::in_memory();
    let (first, second) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fill(first.path(), "first");
    let lost = vault.backup(first.path()).unwrap();
    let victims = vault.keys_under("packs/data/");
    fill(second.path(), "second");
    vault.backup(second.path()).unwrap();
    let sound = copy_of(&memory);
    let bytes = memory.read(&victims[0]).unwrap();
    let mut flipped = bytes.to_vec();
    flipped[bytes.len() / 2] ^= 1;
    memory.overwrite(&victims[0], flipped);

    let (target, _) = Vault::in_memory();
    let problems = Arc::new(Problems::default());
    let monitor = Arc::clone(&problems) as Arc<dyn Monitor>;
    let summary = copy_between(&vault.open().unwrap(), &target.open().unwrap(), monitor).unwrap();
    assert_eq!(summary.failed.iter().map(|failed| failed.snapshot).collect::<Vec<_>>(), [lost]);
    let report = vault.check(ReadData::All);
    let hurts = report.problems.iter().flat_map(|problem| &problem.hurts);
    let expected: BTreeSet<String> = hurts.map(|hurt| hurt.path.clone()).collect();
    assert!((1..=2).contains(&expected.len()), "{expected:?}");
    assert_eq!(problems.subjects().into_iter().collect::<BTreeSet<_>>(), expected);
    assert_eq!(summary.failed[0].problems, expected.len() as u64);
    target.assert_clean();
    let copies = target.open().unwrap().list_snapshots().unwrap().snapshots;
    assert_eq!(copies.len(), 1);
    target.assert_restores(copies[0].id, second.path(), &tree(second.path()));

    // Once it is mended, only what was lost has to be moved.
    let mended = vault.through(sound);
    let rest = copy_all(&mended, &target).unwrap();
    assert!(rest.copied.len() == 1 && rest.bytes_stored < 500_000, "{rest:?}");
    let copy = rest.copied[0].copy;
    target.assert_restores(copy, first.path(), &tree(first.path()));
}

#[test]
fn a_lost_tree_costs_its_snapshot() {
    let (scene, (target, _)) = (Scene::new(), Vault::in_memory());
    for key in scene.vault.keys_under("packs/meta/") {
        scene.memory.remove(&key).unwrap();
    }
    let summary = copy_all(&scene.vault, &target).unwrap();
    assert_eq!((summary.failed.len(), summary.copied.len()), (2, 0));
    assert!(target.open().unwrap().list_snapshots().unwrap().snapshots.is_empty());
    target.assert_clean();
}

#[test]
fn chunks_in_tombstoned_packs_of_the_target_are_stored_again() {
    let (scene, (target, memory)) = (Scene::new(), Vault::in_memory());
    let (source, repository) = (scene.vault.open().unwrap(), target.open().unwrap());
    let snapshots = source.list_snapshots().unwrap().snapshots;
    let run = |at: usize| copy::run(&source, &target.open().unwrap(), &snapshots[at..=at], &Hears::nobody()).unwrap();
    let first = run(0).copied[0].copy;
    let marked: Vec<(BlobKind, String)> = BlobKind::ALL
        .into_iter()
        .flat_map(|kind| target.keys_under(&layout::packs(kind)).into_iter().map(move |key| (kind, key)))
        .collect();
    let segments = target.keys_under("index/");
    let packs: Vec<PackId> = marked.iter().map(|(_, key)| id_of(key).unwrap()).collect();
    let tombstone = session::bury(&repository, &packs).unwrap();
    let second = run(1);
    assert_eq!(second.bytes_read, snapshots[1].record.components[0].bytes);

    // What a sweep may do once the first copy is forgotten.
    target.open().unwrap().forget(&first, "a test").unwrap();
    marked.iter().map(|(_, key)| key).chain(&segments).for_each(|key| memory.remove(key).unwrap());
    memory.remove(&tombstone).unwrap();
    target.assert_clean();
    target.assert_restores(second.copied[0].copy, scene.directory.path(), &scene.snapshots[1].1);
}

#[test]
fn roles_decide_on_both_sides_and_the_same_repository_is_refused() {
    let (scene, (target, _)) = (Scene::new(), Vault::in_memory());
    let add = |vault: &Vault, role: Role| {
        let (_, credential) = key_file();
        vault.open().unwrap().add_key(role.name(), role, &credential).unwrap();
        vault.open_with(&credential).unwrap()
    };
    let (maintainer, monitor) = (scene.vault.open().unwrap(), || Arc::new(Silent) as Arc<dyn Monitor>);
    let refused = |result: Result<CopySummary>| assert!(matches!(result, Err(Error::Role { .. })), "{result:?}");
    refused(copy_between(&add(&scene.vault, Role::Writer), &target.open().unwrap(), monitor()));
    refused(copy_between(&maintainer, &add(&target, Role::Reader), monitor()));
    assert!(matches!(copy_between(&maintainer, &maintainer, monitor()), Err(Error::Refused(_))));
    assert!(target.keys_under("sessions/").is_empty());
    copy_between(&add(&scene.vault, Role::Reader), &add(&target, Role::Writer), monitor()).unwrap();
    scene.assert_copied(&target);
}

fn stdout_json(vault: &LocalVault, arguments: &[&str], environment: &[(&str, String)]) -> (i32, Value, String) {
    let mut command = vault.program(arguments);
    let output = command.envs(environment.iter().map(|(name, value)| (name, value))).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap_or_default(), told)
}

fn key_of(vault: &LocalVault) -> String {
    vault.path().parent().unwrap().join("key").display().to_string()
}

#[test]
fn the_program_copies_to_a_bucket_with_settings_of_its_own() {
    let source = LocalVault::create();
    let directory = TempDir::new().unwrap();
    fill(directory.path(), "off-site");
    source.vault.backup(directory.path()).unwrap();
    let server = S3Server::start(Program::Moto);
    let (secret, credential) = key_file();
    let backend: Arc<dyn Backend> = Arc::new(server.backend("off-site"));
    crate::support::repo::create(backend.as_ref(), &credential).unwrap();
    let target = Vault { backend, credential, cache: None };
    let key = TempDir::new().unwrap();
    let key_path = key.path().join("key");
    fs::write(&key_path, mlvault::crypto::passphrase::KeyFile::new(secret).encode().as_bytes()).unwrap();

    let environment = [
        ("MLVAULT_TO", format!("s3://{BUCKET}/off-site")),
        ("MLVAULT_TO_KEY_FILE", key_path.display().to_string()),
        ("MLVAULT_TO_S3_ENDPOINT", format!("http://127.0.0.1:{}", server.port())),
        ("MLVAULT_TO_S3_ACCESS_KEY_ID", ACCESS_KEY_ID.to_owned()),
        ("MLVAULT_TO_S3_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY.to_owned()),
    ];
    let (code, dry, told) = stdout_json(&source, &["copy", "--all", "--dry-run", "--json"], &environment);
    assert_eq!(
        (code, dry["missing"].as_array().unwrap().len(), target.keys_under("packs/").len()),
        (0, 1, 0),
        "{told}"
    );
    let (code, done, told) = stdout_json(&source, &["copy", "latest", "--json"], &environment);
    assert_eq!((code, done["copied"].as_array().unwrap().len()), (0, 1), "{told}");
    target.assert_clean();
    let copy = target.open().unwrap().list_snapshots().unwrap().snapshots[0].id;
    target.assert_restores(copy, directory.path(), &tree(directory.path()));
    let (code, again, told) = stdout_json(&source, &["copy", "--all", "--json"], &environment);
    assert_eq!((code, &again["bytes_stored"], &again["present"]), (0, &0.into(), &dry["missing"]), "{told}");
}

#[test]
fn the_program_tells_wrong_keys_missing_settings_and_damage_by_its_exit_code() {
    let (source, target) = (LocalVault::create(), LocalVault::create());
    let directory = TempDir::new().unwrap();
    fill(directory.path(), "damaged");
    source.vault.backup(directory.path()).unwrap();
    let (to, key) = (target.path().display().to_string(), key_of(&target));
    let code = |arguments: &[&str]| source.run(arguments);
    assert_eq!(code(&["copy", "--to", &to, "--to-key-file", &key]).0, 2);
    assert_eq!(code(&["copy", "--all", "--to-key-file", &key]).0, 2);
    let (failed, told) = code(&["copy", "--all", "--to", &to]);
    assert!(failed == 2 && told.contains("MLVAULT_TO_KEY_FILE"), "{told}");
    assert_eq!(code(&["copy", "--all", "--to", &to, "--to-key-file", &key_of(&source)]).0, 12);
    let own = source.path().display().to_string();
    let (failed, told) = code(&["copy", "--all", "--to", &own, "--to-key-file", &key_of(&source)]);
    assert!(failed == 1 && told.contains("the same repository"), "{told}");

    // All of them: which chunk is in which pack is left to chance.
    let packs = source.vault.keys_under("packs/data/").into_iter().map(|pack| {
        let bytes = source.vault.backend.read(&pack).unwrap();
        source.vault.backend.remove(&pack).unwrap();
        (pack, bytes)
    });
    let packs: Vec<_> = packs.collect();
    let (failed, told) = code(&["copy", "--all", "--to", &to, "--to-key-file", &key]);
    let path = stored_path(directory.path(), Path::new("models/0/weights.bin"));
    assert!(failed == 3 && told.contains(&path) && told.contains("is not copied"), "{told}");
    packs.into_iter().for_each(|(pack, bytes)| source.vault.backend.create(&pack, bytes).unwrap());
    assert_eq!(code(&["copy", "--all", "--to", &to, "--to-key-file", &key]).0, 0);
    target.vault.assert_clean();
}

#[test]
fn a_copied_deployment_keeps_its_catalogue() {
    let server = MlflowServer::start_with(&MlflowOptions::default());
    server.log_day(1);
    let (source, target) = (LocalVault::create(), LocalVault::create());
    let database = format!("sqlite:///{}", server.database().display());
    let artifacts = format!("mlflow-artifacts:/={}", server.artifacts().display());
    let deployment = ["--deployment", "production"];
    let backup = [&["backup", "--backend-store-uri", &database, "--artifacts", &artifacts][..], &deployment].concat();
    let (code, told) = source.run(&backup);
    assert_eq!(code, 0, "{told}");
    let (to, key) = (target.path().display().to_string(), key_of(&target));
    let (code, told) = source.run(&[&["copy", "--to", &to, "--to-key-file", &key][..], &deployment].concat());
    assert_eq!(code, 0, "{told}");
    for command in ["models", "runs", "experiments"] {
        let [original, copied] = [&source, &target].map(|vault| {
            let (code, mut json, told) = stdout_json(vault, &[command, "--json"], &[]);
            assert_eq!(code, 0, "{told}");
            for of_the_snapshot in ["snapshot", "about"] {
                json.as_object_mut().unwrap().remove(of_the_snapshot).unwrap();
            }
            json
        });
        assert_eq!(original, copied);
        assert!(original.to_string().len() > 100, "{original}");
    }
    let report = target.vault.check(ReadData::All);
    assert!(report.is_clean(), "{report:#?}");
    // The catalogue's chunks are for every key that can list.
    let (_, credential) = key_file();
    target.vault.open().unwrap().add_key("cron", Role::Writer, &credential).unwrap();
    let writer = target.vault.open_with(&credential).unwrap();
    let snapshot = writer.find_snapshot("latest").unwrap();
    let reader = mlvault::chunks::reader::ChunkReader::new(Arc::clone(&writer));
    let component = snapshot.record.components.iter().find(|component| component.name == "catalogue").unwrap();
    for entry in mlvault::trees::reader::TreeReader::open(&reader, "catalogue", &component.root).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.file().unwrap().kind, BlobKind::Meta, "{}", entry.path_text());
    }
}
