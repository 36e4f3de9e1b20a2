//! The index made again from packs, the local cache made again from the index.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use mlvault::backend::Backend;
use mlvault::backend::memory::MemoryBackend;
use mlvault::check::{ProblemKind, ReadData};
use mlvault::error::{Error, Result};
use mlvault::format::BlobKind;
use mlvault::format::key_slot::Role;
use mlvault::hears::Hears;
use mlvault::id::{PackId, SessionId};
use mlvault::prune;
use mlvault::repair::index::{self, RepairIndexOptions, RepairIndexReport};
use mlvault::repository::session;
use tempfile::TempDir;

use crate::support::repo::{
    self, Tree, Vault, WatchedBackend, backup_with, check_with, copy_of, fill, id_of, key_file, noise, tree,
};

struct Scene {
    vault: Vault,
    memory: Arc<MemoryBackend>,
    snapshots: Vec<(SessionId, TempDir, Tree)>,
}

impl Scene {
    /// Two snapshots that share nothing.
    fn new() -> Self {
        let (vault, memory) = Vault::in_memory();
        let snapshots = ["first", "second"].map(|seed| {
            let directory = TempDir::new().unwrap();
            fill(directory.path(), seed);
            let expected = tree(directory.path());
            (vault.backup(directory.path()).unwrap(), directory, expected)
        });
        Self { vault, memory, snapshots: snapshots.into() }
    }

    fn repair(&self) -> RepairIndexReport {
        repair(&self.vault, false).unwrap()
    }

    fn assert_whole(&self) {
        self.vault.assert_clean();
        for (id, directory, expected) in &self.snapshots {
            self.vault.assert_restores(*id, directory.path(), expected);
        }
    }

    fn flip(&self, key: &str) {
        let mut bytes = self.memory.read(key).unwrap().to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        self.memory.overwrite(key, bytes);
    }
}

fn repair(vault: &Vault, dry_run: bool) -> Result<RepairIndexReport> {
    index::run(vault.open()?.as_ref(), &RepairIndexOptions { dry_run }, &Hears::nobody())
}

#[test]
fn an_index_that_is_right_stays_as_it_is() {
    let scene = Scene::new();
    let before = scene.vault.keys();
    let report = scene.repair();
    assert!(report.is_unchanged() && report.unrepaired_count == 0, "{report:?}");
    assert_eq!(report.segments_kept, scene.vault.keys_under("index/").len() as u64);
    assert_eq!(scene.vault.keys(), before);
}

#[test]
fn without_any_segment_the_packs_alone_make_the_index() {
    let scene = Scene::new();
    let packs = scene.vault.keys_under("packs/").len() as u64;
    for segment in scene.vault.keys_under("index/") {
        scene.memory.remove(&segment).unwrap();
    }
    let repository = scene.vault.open().unwrap();
    assert!(!check_with(&repository, ReadData::Nothing).is_clean());
    let report = index::run(&repository, &RepairIndexOptions { dry_run: false }, &Hears::nobody()).unwrap();
    assert_eq!((report.packs_added, report.segments_written), (packs, 2), "{report:?}");
    // The handle that was open has what the repair found.
    assert!(check_with(&repository, ReadData::Nothing).is_clean());
    scene.assert_whole();
    assert!(scene.repair().is_unchanged());
}

#[test]
fn a_damaged_segment_is_replaced_and_others_are_kept() {
    for victim in 0..4 {
        let scene = Scene::new();
        let segments = scene.vault.keys_under("index/");
        assert_eq!(segments.len(), 4);
        scene.flip(&segments[victim]);
        let dry = repair(&scene.vault, true).unwrap();
        assert_eq!(scene.vault.keys_under("index/"), segments);
        let report = scene.repair();
        assert_eq!(report, dry);
        assert_eq!((report.segments_kept, report.segments_removed, report.segments_written), (3, 1, 1), "{report:?}");
        assert!(!scene.vault.keys_under("index/").contains(&segments[victim]));
        scene.assert_whole();
    }
}

#[test]
fn a_pack_that_is_gone_or_cut_is_named_no_more_and_a_backup_that_reads_everything_heals() {
    for truncate in [false, true] {
        let scene = Scene::new();
        let victim = scene.vault.keys_under("packs/data/")[0].clone();
        let bytes = scene.memory.read(&victim).unwrap();
        match truncate {
            true => scene.memory.overwrite(&victim, bytes.slice(..bytes.len() / 2)),
            false => scene.memory.remove(&victim).unwrap(),
        }
        let before = scene.vault.check(ReadData::Nothing);
        let report = scene.repair();
        assert_eq!((report.segments_removed, report.segments_written), (1, 1), "{report:?}");
        let objects: Vec<_> = report.unrepaired.iter().map(|unrepaired| unrepaired.object.as_str()).collect();
        assert_eq!(objects, [&victim]);
        let after = scene.vault.check(ReadData::Nothing);
        assert!(after.problems.iter().all(|problem| problem.kind == ProblemKind::MissingChunks), "{after:#?}");
        let lost = |report: &mlvault::check::CheckReport| report.hurt_snapshots.clone();
        assert!(!lost(&after).is_empty() && (truncate || lost(&after) == lost(&before)), "{after:#?}");

        let repository = scene.vault.open().unwrap();
        for (_, directory, _) in &scene.snapshots {
            backup_forced(&repository, directory.path());
        }
        if truncate {
            scene.memory.remove(&victim).unwrap();
        }
        scene.assert_whole();
    }
}

fn backup_forced(repository: &Arc<mlvault::repository::Repository>, directory: &Path) {
    let options =
        mlvault::backup::BackupOptions { force: true, ..mlvault::backup::BackupOptions::of_paths([directory]) };
    mlvault::backup::run(repository, &options, &Hears::nobody()).unwrap();
}

#[test]
fn a_pack_without_a_readable_directory_is_reported_and_the_rest_repaired() {
    let scene = Scene::new();
    let victim = scene.vault.keys_under("packs/data/")[0].clone();
    for segment in scene.vault.keys_under("index/") {
        scene.memory.remove(&segment).unwrap();
    }
    let mut bytes = scene.memory.read(&victim).unwrap().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    scene.memory.overwrite(&victim, bytes);
    let report = scene.repair();
    assert_eq!(report.unrepaired_count, 1);
    assert_eq!(report.unrepaired[0].object, victim);
    assert!(report.unrepaired[0].reason.contains("its directory cannot be read"), "{report:?}");
    let whole = scene.vault.check(ReadData::Nothing);
    assert_eq!(whole.hurt_snapshots.len(), 1, "{whole:#?}");
}

#[test]
fn whoever_may_write_can_repair_the_index_and_nobody_else() {
    for role in [Role::Writer, Role::Auditor, Role::Reader] {
        let scene = Scene::new();
        let (_, credential) = key_file();
        scene.vault.open().unwrap().add_key(role.name(), role, &credential).unwrap();
        for segment in scene.vault.keys_under("index/") {
            scene.memory.remove(&segment).unwrap();
        }
        let repository = scene.vault.open_with(&credential).unwrap();
        let repaired = index::run(&repository, &RepairIndexOptions { dry_run: false }, &Hears::nobody());
        match role {
            Role::Writer => scene.assert_whole(),
            // A segment that they signed would count for nothing.
            _ => assert!(matches!(repaired, Err(Error::Role { .. })), "{repaired:?}"),
        }
    }
}

#[test]
fn a_repair_stopped_at_any_write_makes_nothing_worse_and_can_be_repeated() {
    let mut scene = Scene::new();
    let victim = scene.vault.keys_under("packs/data/")[0].clone();
    scene.memory.remove(&victim).unwrap();
    scene.flip(&scene.vault.keys_under("index/meta/")[0]);
    let wrecked = Arc::clone(&scene.memory);
    let lost_before: u64 = scene.vault.check(ReadData::Nothing).hurt_snapshots.iter().map(|hurt| hurt.entries).sum();
    let mut writes = 0;
    loop {
        scene.memory = copy_of(&wrecked);
        scene.vault.backend = Arc::clone(&scene.memory) as Arc<dyn Backend>;
        let stopped = Arc::new(WatchedBackend::new(Arc::clone(&scene.vault.backend)).stopping_after(writes, false));
        let repaired = repair(&scene.vault.through(stopped), false);
        let report = scene.vault.check(ReadData::Nothing);
        let lost: u64 = report.hurt_snapshots.iter().map(|hurt| hurt.entries).sum();
        assert!(lost <= lost_before, "{writes}: {report:#?}");
        if repaired.is_ok() {
            break;
        }
        scene.repair();
        let report = scene.vault.check(ReadData::All);
        assert!(report.problems.iter().all(|problem| problem.kind == ProblemKind::MissingChunks), "{report:#?}");
        writes += 1;
    }
    // Two segments in the place of two.
    assert_eq!(writes, 4);
}

#[test]
fn a_repair_beside_a_backup_harms_neither() {
    let scene = Scene::new();
    let directory = TempDir::new().unwrap();
    fill(directory.path(), "third");
    fs::write(directory.path().join("large"), noise("third", 7 << 20)).unwrap();
    let expected = tree(directory.path());
    let other = scene.vault.through(Arc::clone(&scene.vault.backend));
    let repairs = Mutex::new(0);
    // Before each of the backup's writes, a whole repair of whatever the index is then.
    let beside = WatchedBackend::new(Arc::clone(&scene.vault.backend)).before_create(move |backend, _| {
        let mut repairs = repairs.lock().unwrap();
        if let (0, Some(segment)) = (*repairs % 3, backend.list("index/").unwrap().first()) {
            backend.remove(&segment.key).unwrap();
        }
        *repairs += 1;
        repair(&other, false).unwrap();
    });
    let id = scene.vault.through(Arc::new(beside)).backup(directory.path()).unwrap();
    scene.assert_whole();
    scene.vault.assert_restores(id, directory.path(), &expected);
}

#[test]
fn packs_that_a_prune_has_marked_are_named_as_others_are() {
    let scene = Scene::new();
    let packs: Vec<PackId> = scene.vault.keys_under("packs/data/").iter().map(|key| id_of(key).unwrap()).collect();
    let repository = scene.vault.open().unwrap();
    session::bury(&repository, &packs).unwrap();
    assert!(scene.repair().is_unchanged());
    let segment = scene.vault.keys_under("index/data/")[0].clone();
    scene.memory.remove(&segment).unwrap();
    let report = scene.repair();
    assert!(report.packs_added > 0 && report.unrepaired_count == 0, "{report:?}");
    scene.assert_whole();
}

#[test]
fn a_lost_or_ruined_cache_is_made_again_without_a_word() {
    let cache = TempDir::new().unwrap();
    let mut scene = Scene::new();
    scene.vault.cache = Some(cache.path().to_owned());
    scene.assert_whole();
    assert!(!files_under(cache.path()).is_empty());
    fs::remove_dir_all(cache.path()).unwrap();
    scene.assert_whole();
    for file in files_under(cache.path()) {
        fs::write(file, b"garbage").unwrap();
    }
    scene.assert_whole();
    for file in files_under(cache.path()) {
        fs::write(file, b"").unwrap();
    }
    scene.assert_whole();
}

#[test]
fn a_cache_that_is_ruined_while_it_is_open_is_made_again() {
    let cache = TempDir::new().unwrap();
    let mut scene = Scene::new();
    scene.vault.cache = Some(cache.path().to_owned());
    scene.vault.assert_clean();
    let repository = scene.vault.open().unwrap();
    // The database is opened, but has read none of its rows.
    repository.index().refresh(BlobKind::Data).unwrap();
    for file in files_under(cache.path()) {
        if file.extension().is_some_and(|extension| extension == "sst") {
            let len = fs::metadata(&file).unwrap().len() as usize;
            fs::write(&file, vec![0x5A; len]).unwrap();
        }
    }
    let report = check_with(&repository, ReadData::All);
    assert!(report.is_clean(), "{report:#?}");
    let changed = &scene.snapshots[0].1;
    fs::write(changed.path().join("models/0/weights.bin"), noise("changed", 300_000)).unwrap();
    let summary = backup_with(&repository, changed.path()).unwrap();
    assert!(summary.record.statistics.bytes_new < 1_000_000, "{:?}", summary.record.statistics);
    scene.vault.assert_restores(summary.snapshot.unwrap(), changed.path(), &tree(changed.path()));
}

#[test]
fn a_cache_that_knows_less_or_more_than_the_repository_follows_it() {
    let cache = TempDir::new().unwrap();
    let mut scene = Scene::new();
    scene.vault.cache = Some(cache.path().to_owned());
    scene.vault.assert_clean();
    let segment = scene.vault.keys_under("index/data/")[0].clone();
    let bytes = scene.memory.read(&segment).unwrap();
    scene.memory.remove(&segment).unwrap();
    assert!(!scene.vault.check(ReadData::Nothing).is_clean());
    scene.memory.overwrite(&segment, bytes);
    scene.assert_whole();
}

#[test]
fn a_damaged_tombstone_costs_deduplication_and_stops_prunes() {
    let scene = Scene::new();
    let directory = scene.snapshots[0].1.path();
    let again = |vault: &Vault| repo::backup_with(&vault.open().unwrap(), directory).unwrap();
    assert_eq!(again(&scene.vault).record.statistics.chunks_new, 0);
    // Nobody writes a tombstone under such a name: it is junk, and marks nothing.
    scene.memory.overwrite("tombstones/1", "garbage");
    assert_eq!(again(&scene.vault).record.statistics.chunks_new, 0);
    for key in [0, 1].map(|number: u128| format!("tombstones/{number:032x}")) {
        scene.memory.overwrite(&key, "garbage");
        let report = scene.vault.check(ReadData::Nothing);
        assert_eq!(report.problems[0].object, key);
        // It might name any pack: so none is relied on, not even for files that did not change.
        let stored = again(&scene.vault);
        assert!(stored.record.statistics.chunks_new > 100, "{:?}", stored.record.statistics);
        scene.vault.assert_restores(stored.snapshot.unwrap(), directory, &repo::tree(directory));
        let refused = prune::run(&scene.vault.open().unwrap(), &prune::PruneOptions::default(), &Hears::nobody());
        assert!(
            matches!(&refused, Err(Error::Refused(reason)) if reason.contains("mlvault repair objects")),
            "{refused:?}"
        );
        scene.memory.remove(&key).unwrap();
        assert_eq!(again(&scene.vault).record.statistics.chunks_new, 0);
    }
}

fn files_under(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_under(&path)) } else { files.push(path) }
    }
    files
}
