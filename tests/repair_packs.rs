//! Damaged packs: what is good in them is saved, what is lost comes back from where it still is, and nothing gets worse.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use mlvault::backend::Backend;
use mlvault::backend::memory::MemoryBackend;
use mlvault::check::{ProblemKind, ReadData};
use mlvault::error::{Error, Result};
use mlvault::format::key_slot::Role;
use mlvault::hears::Hears;
use mlvault::id::SessionId;
use mlvault::prune;
use mlvault::repair::packs::{self, RepairPacksOptions, RepairPacksReport};
use mlvault::repository::Repository;
use tempfile::TempDir;

use crate::support::repo::{
    LocalVault, Tree, Vault, WatchedBackend, copy_of, fill, id_of, key_file, noise, prose, stored_path, tree,
};

/// Two snapshots that share nothing.
struct Scene {
    vault: Vault,
    memory: Arc<MemoryBackend>,
    snapshots: Vec<(SessionId, TempDir, Tree)>,
    /// Packs of the first snapshot.
    packs: Vec<String>,
}

impl Scene {
    fn new() -> Self {
        let (vault, memory) = Vault::in_memory();
        let mut packs = Vec::new();
        let snapshots = ["first", "second"].map(|seed| {
            let directory = TempDir::new().unwrap();
            fill(directory.path(), seed);
            let expected = tree(directory.path());
            let id = vault.backup(directory.path()).unwrap();
            if packs.is_empty() {
                packs = vault.keys_under("packs/");
            }
            (id, directory, expected)
        });
        Self { vault, memory, snapshots: snapshots.into(), packs }
    }

    /// Returns the first snapshot's largest pack of a kind.
    fn victim(&self, prefix: &str) -> String {
        let of_kind = self.packs.iter().filter(|key| key.starts_with(prefix));
        of_kind.max_by_key(|key| self.memory.read(key).unwrap().len()).unwrap().clone()
    }

    fn flip(&self, key: &str, hundredths: usize) {
        flip(&self.memory, key, hundredths);
    }

    fn objects(&self) -> BTreeMap<String, Bytes> {
        self.vault.keys().into_iter().map(|key| (key.clone(), self.memory.read(&key).unwrap())).collect()
    }

    fn repair(&self) -> RepairPacksReport {
        repair(&self.vault, &RepairPacksOptions::default()).unwrap()
    }

    fn assert_restores(&self, which: usize) {
        let (id, directory, expected) = &self.snapshots[which];
        self.vault.assert_restores(*id, directory.path(), expected);
    }

    fn assert_whole(&self) {
        self.assert_restores(0);
        self.assert_restores(1);
    }
}

fn flip(memory: &MemoryBackend, key: &str, hundredths: usize) {
    let mut bytes = memory.read(key).unwrap().to_vec();
    let at = (bytes.len() * hundredths / 100).min(bytes.len() - 1);
    bytes[at] ^= 1;
    memory.overwrite(key, bytes);
}

fn repair(vault: &Vault, options: &RepairPacksOptions) -> Result<RepairPacksReport> {
    repair_open(&vault.open()?, options)
}

fn repair_open(repository: &Arc<Repository>, options: &RepairPacksOptions) -> Result<RepairPacksReport> {
    packs::run(repository, options, &Hears::nobody())
}

fn prune(vault: &Vault) -> prune::PruneReport {
    let options = prune::PruneOptions { wait_max: Duration::ZERO, ..prune::PruneOptions::default() };
    prune::run(&vault.open().unwrap(), &options, &Hears::nobody()).unwrap()
}

/// The paths that a report says a snapshot lost.
fn lost_paths(report: &RepairPacksReport, snapshot: SessionId) -> Vec<String> {
    report.lost.iter().filter(|lost| lost.snapshot == snapshot).filter_map(|lost| lost.path.clone()).collect()
}

#[test]
fn sound_packs_stay_as_they_are() {
    let scene = Scene::new();
    let before = scene.objects();
    let report = scene.repair();
    assert_eq!((report.damaged.len(), report.lost_count), (0, 0));
    assert_eq!(report.packs_read, scene.vault.keys_under("packs/").len() as u64);
    assert_eq!(scene.objects(), before);
}

#[test]
fn a_flipped_bit_costs_a_chunk_and_the_next_backup_heals_it() {
    for kind in ["packs/data/", "packs/meta/"] {
        for hundredths in [0, 5, 33, 50, 77, 100] {
            let what = format!("{kind} {hundredths}");
            let scene = Scene::new();
            let victim = scene.victim(kind);
            let before = scene.objects();
            scene.flip(&victim, hundredths);
            let checked = scene.vault.check(ReadData::All);
            let dry =
                repair(&scene.vault, &RepairPacksOptions { dry_run: true, ..RepairPacksOptions::default() }).unwrap();
            let report = scene.repair();
            assert_eq!(report.damaged.len(), 1, "{what}");
            assert_eq!((&report.damaged, &report.lost), (&dry.damaged, &dry.lost), "{what}");
            let damaged = &report.damaged[0];
            assert_eq!(damaged.object, victim);
            assert!(damaged.unreadable <= 1, "{what}: {report:?}");
            assert_eq!(report.chunks_saved, damaged.chunks - damaged.unreadable, "{what}: {report:?}");
            assert_eq!(report.chunks_lost, damaged.unreadable);
            let hurt: u64 = checked.problems.iter().map(|problem| problem.hurt_count).sum();
            // The check counts what is below a lost node, the repair the node.
            let expected = if kind == "packs/data/" { hurt } else { hurt.min(1) };
            assert_eq!(report.lost_count, expected, "{what}: {report:?} {checked:#?}");
            assert!(lost_paths(&report, scene.snapshots[1].0).is_empty(), "{what}");
            scene.assert_restores(1);
            for (key, bytes) in before.iter().filter(|(key, _)| **key != victim) {
                assert_eq!(&scene.memory.read(key).unwrap(), bytes, "{what}: {key}");
            }

            // Not forced: what is taken over from the parent is looked up while there are tombstones.
            let healed = scene.vault.backup(scene.snapshots[0].1.path()).unwrap();
            scene.vault.assert_restores(healed, scene.snapshots[0].1.path(), &scene.snapshots[0].2);
            scene.assert_whole();
            let pruned = prune(&scene.vault);
            assert!(pruned.packs_deleted >= 1 && pruned.is_complete(), "{what}: {pruned:?}");
            assert!(!scene.vault.keys().contains(&victim), "{what}");
            assert_eq!(scene.vault.keys_under("tombstones/"), Vec::<String>::new());
            scene.vault.assert_clean();
            scene.assert_whole();
        }
    }
}

#[test]
fn a_truncated_pack_gives_what_is_left_and_a_missing_one_nothing() {
    for kind in ["packs/data/", "packs/meta/"] {
        for is_missing in [false, true] {
            let scene = Scene::new();
            let victim = scene.victim(kind);
            let bytes = scene.memory.read(&victim).unwrap();
            match is_missing {
                true => scene.memory.remove(&victim).unwrap(),
                false => scene.memory.overwrite(&victim, bytes.slice(..bytes.len() * 2 / 3)),
            }
            let report = scene.repair();
            let damaged = &report.damaged[0];
            assert_eq!(damaged.object, victim);
            // The meta pack holds one chunk.
            let is_all_lost = is_missing || damaged.chunks == 1;
            assert_eq!(damaged.unreadable == damaged.chunks, is_all_lost, "{report:?}");
            assert_eq!(report.chunks_saved, damaged.chunks - damaged.unreadable, "{report:?}");
            scene.assert_restores(1);
            let (id, directory, expected) = &scene.snapshots[0];
            if kind == "packs/data/" {
                let (restored, problems) = scene.vault.restore(*id, directory.path()).unwrap();
                assert_eq!(problems, lost_paths(&report, *id));
                let is_lost = |path: &Path| problems.contains(&stored_path(directory.path(), path));
                assert!(expected.iter().all(|(path, node)| is_lost(path) || restored.get(path) == Some(node)));
            }
            scene.vault.backup(directory.path()).unwrap();
            scene.assert_whole();
            prune(&scene.vault);
            scene.vault.assert_clean();
        }
    }
}

#[test]
fn a_second_repair_finds_nothing_more_to_do() {
    let scene = Scene::new();
    scene.flip(&scene.victim("packs/data/"), 50);
    let first = scene.repair();
    let objects = scene.vault.keys_under("packs/");
    let second = scene.repair();
    assert_eq!((second.packs_marked, second.chunks_saved, second.chunks_replaced), (0, 0, 0), "{second:?}");
    assert_eq!((second.damaged.len(), &second.lost), (1, &first.lost));
    assert_eq!(scene.vault.keys_under("packs/"), objects);
}

#[test]
fn lost_chunks_come_back_from_a_repository_with_other_keys() {
    let scene = Scene::new();
    let (other, _) = Vault::in_memory();
    let directory = &scene.snapshots[0].1;
    // Under other paths.
    let elsewhere = TempDir::new().unwrap();
    for (number, path) in scene.snapshots[0].2.keys().enumerate() {
        let path = directory.path().join(path);
        if fs::symlink_metadata(&path).unwrap().is_file() {
            fs::copy(&path, elsewhere.path().join(number.to_string())).unwrap();
        }
    }
    other.backup(elsewhere.path()).unwrap();
    for hundredths in [20, 50, 80] {
        scene.flip(&scene.victim("packs/data/"), hundredths);
    }
    let options = RepairPacksOptions { from: vec![other.open().unwrap()], ..RepairPacksOptions::default() };
    let report = repair(&scene.vault, &options).unwrap();
    assert!(report.damaged[0].unreadable > 1, "{report:?}");
    assert_eq!((report.chunks_replaced, report.lost_count), (report.damaged[0].unreadable, 0), "{report:?}");
    scene.assert_whole();
    prune(&scene.vault);
    scene.vault.assert_clean();
}

#[test]
fn lost_chunks_come_back_from_the_source_unless_it_has_changed() {
    for has_changed in [false, true] {
        let scene = Scene::new();
        let (id, directory, _) = &scene.snapshots[0];
        scene.memory.remove(&scene.victim("packs/data/")).unwrap();
        let weights = directory.path().join("models/0/weights.bin");
        if has_changed {
            fs::write(&weights, noise("changed", 150_000)).unwrap();
        }
        let options = RepairPacksOptions { source: Some("/".into()), ..RepairPacksOptions::default() };
        let report = repair(&scene.vault, &options).unwrap();
        assert!(report.chunks_replaced > 0, "{report:?}");
        let expected =
            if has_changed { vec![stored_path(directory.path(), "models/0/weights.bin".as_ref())] } else { vec![] };
        assert_eq!(lost_paths(&report, *id), expected, "{report:?}");
        scene.assert_restores(1);
        if !has_changed {
            scene.assert_whole();
        }
    }
}

#[test]
fn a_lost_list_of_chunks_is_made_again_from_the_file() {
    let (vault, memory) = Vault::in_memory();
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("dump.sql"), prose("a long dump", 4 << 20)).unwrap();
    let expected = tree(directory.path());
    let id = vault.backup(directory.path()).unwrap();
    let victim = vault.keys_under("packs/meta/")[0].clone();
    flip(&memory, &victim, 30);
    let dry = repair(&vault, &RepairPacksOptions { dry_run: true, ..RepairPacksOptions::default() }).unwrap();
    assert_eq!(dry.lost[0].reason, "its list of chunks is lost");
    let report =
        repair(&vault, &RepairPacksOptions { source: Some("/".into()), ..RepairPacksOptions::default() }).unwrap();
    assert_eq!((report.lost_count, report.chunks_replaced), (0, 1), "{report:?}");
    vault.assert_restores(id, directory.path(), &expected);
}

#[test]
fn only_named_packs_are_read() {
    let scene = Scene::new();
    let victim = scene.victim("packs/data/");
    scene.flip(&victim, 50);
    let id = id_of(&victim).unwrap();
    let watched = Arc::new(WatchedBackend::new(Arc::clone(&scene.vault.backend)));
    let vault = scene.vault.through(Arc::clone(&watched) as Arc<dyn Backend>);
    let report = repair(&vault, &RepairPacksOptions { packs: vec![id], ..RepairPacksOptions::default() }).unwrap();
    assert_eq!((report.packs_read, report.damaged.len()), (1, 1));
    let read: Vec<_> = watched.keys_of("read").into_iter().filter(|key| key.starts_with("packs/")).collect();
    assert!(!read.is_empty() && read.iter().all(|key| *key == victim), "{read:?}");
    let unknown = mlvault::id::PackId::from_bytes([7; 32]);
    let refused = repair(&vault, &RepairPacksOptions { packs: vec![unknown], ..RepairPacksOptions::default() });
    assert!(matches!(refused, Err(Error::NotFound(_))));
}

#[test]
fn only_a_maintainer_repairs_packs() {
    for role in [Role::Writer, Role::Auditor, Role::Reader] {
        let (vault, _) = Vault::in_memory();
        let (_, credential) = key_file();
        vault.open().unwrap().add_key("other", role, &credential).unwrap();
        let refused = repair_open(&vault.open_with(&credential).unwrap(), &RepairPacksOptions::default());
        assert!(matches!(refused, Err(Error::Role { .. })), "{role:?}");
    }
}

#[test]
fn a_damaged_index_is_to_be_repaired_first() {
    let scene = Scene::new();
    scene.flip(&scene.vault.keys_under("index/data/")[0], 50);
    let before = scene.objects();
    assert!(matches!(repair(&scene.vault, &RepairPacksOptions::default()), Err(Error::Refused(_))));
    assert_eq!(scene.objects(), before);
}

#[test]
fn a_repair_stopped_at_any_write_makes_nothing_worse_and_can_be_repeated() {
    let mut scene = Scene::new();
    scene.flip(&scene.victim("packs/data/"), 50);
    scene.flip(&scene.victim("packs/meta/"), 100);
    let wrecked = Arc::clone(&scene.memory);
    let lost = |scene: &Scene| {
        repair(&scene.vault, &RepairPacksOptions { dry_run: true, ..RepairPacksOptions::default() }).unwrap().lost
    };
    let expected = lost(&scene);
    let mut writes = 0;
    loop {
        scene.memory = copy_of(&wrecked);
        scene.vault.backend = Arc::clone(&scene.memory) as Arc<dyn Backend>;
        let stopped =
            Arc::new(WatchedBackend::new(Arc::clone(&scene.vault.backend)).stopping_after(writes, writes % 2 == 1));
        let repaired = repair(&scene.vault.through(stopped), &RepairPacksOptions::default());
        assert_eq!(lost(&scene), expected, "{writes}");
        scene.assert_restores(1);
        if repaired.is_ok() {
            break;
        }
        // A prune in between deletes nothing that is needed.
        prune(&scene.vault);
        assert_eq!(lost(&scene), expected, "{writes}");
        assert_eq!(scene.repair().lost, expected, "{writes}");
        writes += 1;
    }
    // Tombstone, session, packs, segments, and the session's end.
    assert!(writes >= 7, "{writes}");
}

#[test]
fn backups_and_prunes_beside_a_repair_harm_nobody() {
    let scene = Scene::new();
    scene.flip(&scene.victim("packs/data/"), 50);
    let (id, directory, expected) = &scene.snapshots[0];
    let other = scene.vault.through(Arc::clone(&scene.vault.backend));
    let path = directory.path().to_owned();
    let (made, is_inside) = (Arc::new(Mutex::new(Vec::new())), AtomicBool::new(false));
    let seen = Arc::clone(&made);
    // Before each of the repair's writes, a whole backup and a prune, which does not wait for the repair.
    let beside = WatchedBackend::new(Arc::clone(&scene.vault.backend)).before_create(move |_, _| {
        if !is_inside.swap(true, Ordering::SeqCst) {
            seen.lock().unwrap().push(other.backup(&path).unwrap());
            prune(&other);
            is_inside.store(false, Ordering::SeqCst);
        }
    });
    let report = repair(&scene.vault.through(Arc::new(beside)), &RepairPacksOptions::default()).unwrap();
    assert_eq!(report.lost_count, 0, "{report:?}");
    let last = *made.lock().unwrap().last().unwrap();
    scene.vault.assert_restores(last, directory.path(), expected);
    scene.vault.assert_restores(*id, directory.path(), expected);
    prune(&scene.vault);
    scene.vault.assert_clean();
    scene.assert_whole();
}

#[test]
fn the_program_tells_what_is_damaged_and_what_it_did() {
    let local = LocalVault::create();
    let directory = TempDir::new().unwrap();
    fill(directory.path(), "program");
    let id = local.vault.backup(directory.path()).unwrap();
    let victim = local.vault.keys_under("packs/data/")[0].clone();
    let file = local.path().join(&victim);
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let mut permissions = fs::metadata(&file).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    fs::set_permissions(&file, permissions).unwrap();
    fs::write(&file, bytes).unwrap();

    let (code, said) = local.run(&["repair", "packs", "--dry-run"]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains(&victim) && said.contains("Dry run") && said.contains(&id.short().to_string()), "{said}");
    let (code, said) = local.run(&["repair", "packs", &victim]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("1 pack marked") && said.contains("INCOMPLETE"), "{said}");
    let (code, said) = local.run(&["repair", "packs", "--source", "/"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("1 replaced") && said.contains("mlvault prune"), "{said}");
    assert_eq!(local.run(&["prune"]).0, 0);
    assert_eq!(local.run(&["check", "--read-data"]).0, 0);
    let (code, said) = local.run(&["repair", "packs", "nonsense"]);
    assert_eq!(code, 2, "{said}");
    let report = local.vault.check(ReadData::All);
    assert!(report.problems.iter().all(|problem| problem.kind != ProblemKind::Pack), "{report:?}");
}
