//! Snapshots that have lost something, written anew with all that is left.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use mlvault::backend::Backend;
use mlvault::backend::memory::MemoryBackend;
use mlvault::check::ReadData;
use mlvault::error::{Error, Result};
use mlvault::format::deployment::Verdict;
use mlvault::format::key_slot::Role;
use mlvault::hears::Hears;
use mlvault::id::SessionId;
use mlvault::procedures::Consent;
use mlvault::procedures::repair_snapshots::{self, RepairSnapshotsOptions};
use mlvault::repair::snapshots::{self, RepairPlan, Repaired};
use mlvault::repository::naming::Named;
use mlvault::repository::snapshots::Snapshot;
use mlvault::retention;
use tempfile::TempDir;

use crate::support::repo::{
    LocalVault, Tree, Vault, WatchedBackend, check_with, copy_of, fill, key_file, noise, stored_path, tree,
};
use crate::support::{mlflow_rows, sqlite_file};

struct Scene {
    vault: Vault,
    memory: Arc<MemoryBackend>,
    first: (SessionId, TempDir, Tree),
    second: (SessionId, TempDir, Tree),
    /// Packs of the first snapshot.
    packs: Vec<String>,
}

impl Scene {
    fn new() -> Self {
        let (vault, memory) = Vault::in_memory();
        let make = |seed: &str| {
            let directory = TempDir::new().unwrap();
            fill(directory.path(), seed);
            let expected = tree(directory.path());
            (vault.backup(directory.path()).unwrap(), directory, expected)
        };
        let first = make("first");
        let packs = vault.keys_under("packs/");
        let second = make("second");
        Self { vault, memory, first, second, packs }
    }

    fn flip(&self, prefix: &str, hundredths: usize) {
        let of_kind = self.packs.iter().filter(|key| key.starts_with(prefix));
        flip(&self.memory, of_kind.max_by_key(|key| self.memory.read(key).unwrap().len()).unwrap(), hundredths);
    }

    fn snapshot(&self, id: SessionId) -> Snapshot {
        self.vault.open().unwrap().find_snapshot(&id.to_string()).unwrap()
    }

    fn assert_second_restores(&self) {
        let (id, directory, expected) = &self.second;
        self.vault.assert_restores(*id, directory.path(), expected);
    }
}

fn flip(memory: &MemoryBackend, key: &str, hundredths: usize) {
    let mut bytes = memory.read(key).unwrap().to_vec();
    let at = (bytes.len() * hundredths / 100).min(bytes.len() - 1);
    bytes[at] ^= 1;
    memory.overwrite(key, bytes);
}

fn plan(vault: &Vault) -> Result<RepairPlan> {
    snapshots::plan(&vault.open()?, &Named::default(), &Hears::nobody())
}

fn repair(vault: &Vault, forget: bool) -> Result<(RepairPlan, Vec<Repaired>)> {
    let options = RepairSnapshotsOptions { named: Named::default(), forget };
    let done = repair_snapshots::run(&vault.open()?, &options, &Consent::Given, &Hears::nobody())?;
    Ok((done.plan, done.repaired))
}

/// Returns what a directory held but for some paths, as a snapshot stores them.
fn without(expected: &Tree, directory: &Path, lost: &BTreeSet<String>) -> BTreeSet<std::path::PathBuf> {
    expected.keys().filter(|path| !lost.contains(&stored_path(directory, path))).cloned().collect()
}

#[test]
fn nothing_is_written_where_nothing_is_lost() {
    let scene = Scene::new();
    let before = scene.vault.keys();
    let (plan, repaired) = repair(&scene.vault, true).unwrap();
    assert!(plan.hurt.is_empty() && repaired.is_empty());
    assert_eq!(scene.vault.keys(), before);
}

#[test]
fn a_snapshot_without_lost_files_restores_everything_else_and_says_what_it_lacks() {
    for hundredths in [20, 50, 80] {
        let scene = Scene::new();
        let original = scene.memory.read(&format!("snapshots/{}", scene.first.0)).unwrap();
        scene.flip("packs/data/", hundredths);
        let (plan, repaired) = repair(&scene.vault, false).unwrap();
        let [hurt] = &plan.hurt[..] else { panic!("{plan:?}") };
        assert_eq!((hurt.snapshot, repaired.len()), (scene.first.0, 1));
        let lost: BTreeSet<String> = hurt.lost.iter().filter_map(|lost| lost.path.clone()).collect();
        assert!(!lost.is_empty() && lost.len() as u64 == hurt.lost_count);

        let (restored, problems) = scene.vault.restore(repaired[0].is, scene.first.1.path()).unwrap();
        assert_eq!(problems, Vec::<String>::new());
        let paths: BTreeSet<_> = restored.keys().cloned().collect();
        assert_eq!(paths, without(&scene.first.2, scene.first.1.path(), &lost));
        assert!(restored.iter().all(|(path, node)| scene.first.2.get(path) == Some(node)));

        let (was, is) = (scene.snapshot(scene.first.0), scene.snapshot(repaired[0].is));
        assert!(is.is_incomplete() && !was.is_incomplete());
        assert_eq!(
            (is.record.started, &is.record.source, &is.record.tags),
            (was.record.started, &was.record.source, &was.record.tags)
        );
        assert_eq!(is.record.more["repaired_from"], serde_json::json!(was.id));
        let named: BTreeSet<String> = is.record.problems.iter().map(|problem| problem.path.clone()).collect();
        assert_eq!((named, is.record.problem_count), (lost, hurt.lost_count));
        assert_eq!(scene.memory.read(&format!("snapshots/{}", scene.first.0)).unwrap(), original);
        scene.assert_second_restores();
    }
}

#[test]
fn what_was_repaired_is_not_repaired_again_and_the_original_goes_only_when_asked() {
    let scene = Scene::new();
    scene.flip("packs/data/", 50);
    let (_, repaired) = repair(&scene.vault, false).unwrap();
    let (again, nothing) = repair(&scene.vault, false).unwrap();
    assert_eq!((again.hurt[0].repaired_as, nothing), (Some(repaired[0].is), Vec::new()));
    assert_eq!(scene.snapshot(scene.first.0).id, scene.first.0);
    repair(&scene.vault, true).unwrap();
    let list = scene.vault.open().unwrap().list_snapshots().unwrap();
    assert_eq!(list.trash.iter().map(|trashed| trashed.snapshot.id).collect::<Vec<_>>(), [scene.first.0]);
    let report = scene.vault.check(ReadData::All);
    assert_eq!(report.hurt_snapshots, [], "{report:#?}");
    assert!(plan(&scene.vault).unwrap().hurt.is_empty());
}

#[test]
fn a_held_original_is_refused_before_anything_is_written() {
    let scene = Scene::new();
    scene.flip("packs/data/", 50);
    retention::hold(&scene.vault.open().unwrap(), &scene.first.0.to_string(), "audit", None).unwrap();
    let before = scene.vault.keys();
    let refused = repair(&scene.vault, true).unwrap_err();
    assert!(matches!(&refused, Error::Refused(reason) if reason.contains("is held (audit)")), "{refused}");
    assert_eq!(scene.vault.keys(), before);
    repair(&scene.vault, false).unwrap();
}

#[test]
fn a_lost_tree_node_costs_what_is_below_it() {
    let (vault, memory) = Vault::in_memory();
    let directory = TempDir::new().unwrap();
    for number in 0..3000 {
        fs::write(directory.path().join(format!("{number:05}")), number.to_string()).unwrap();
    }
    let expected = tree(directory.path());
    vault.backup(directory.path()).unwrap();
    let victim = vault.keys_under("packs/meta/")[0].clone();
    let sound = copy_of(&memory);
    let mut partly = 0;
    for hundredths in (5..95).step_by(20) {
        let memory = copy_of(&sound);
        let vault = vault.through(Arc::clone(&memory) as Arc<dyn Backend>);
        flip(&memory, &victim, hundredths);
        let (plan, repaired) = repair(&vault, true).unwrap();
        let Some(hurt) = plan.hurt.first() else { continue };
        assert_eq!((hurt.lost_count, &hurt.lost[0].path), (1, &None), "{hurt:?}");
        let (restored, problems) = vault.restore(repaired[0].is, directory.path()).unwrap();
        assert_eq!(problems, Vec::<String>::new());
        assert!(restored.len() < expected.len());
        assert!(restored.iter().all(|(path, node)| expected.get(path) == Some(node)), "{hundredths}");
        partly += usize::from(!restored.is_empty());
        assert_eq!(vault.check(ReadData::All).hurt_snapshots, [], "{hundredths}");
    }
    assert!(partly > 0, "no flipped bit hit a leaf");
}

#[test]
fn a_snapshot_whose_tree_is_gone_becomes_an_empty_one() {
    let scene = Scene::new();
    for pack in scene.packs.iter().filter(|key| key.starts_with("packs/meta/")) {
        scene.memory.remove(pack).unwrap();
    }
    let (plan, repaired) = repair(&scene.vault, true).unwrap();
    assert_eq!((plan.hurt.len(), repaired[0].entries, repaired[0].lost_count), (1, 0, 1));
    let snapshot = scene.snapshot(repaired[0].is);
    assert_eq!(snapshot.record.problems[0].path, "files");
    assert_eq!(scene.vault.check(ReadData::All).hurt_snapshots, []);
    scene.assert_second_restores();
}

#[test]
fn only_a_maintainer_repairs_snapshots() {
    for role in [Role::Writer, Role::Auditor, Role::Reader] {
        let (vault, _) = Vault::in_memory();
        let (_, credential) = key_file();
        vault.open().unwrap().add_key(role.name(), role, &credential).unwrap();
        let refused = snapshots::plan(&vault.open_with(&credential).unwrap(), &Named::default(), &Hears::nobody());
        assert!(matches!(refused, Err(Error::Role { .. })), "{role:?}");
    }
}

#[test]
fn a_repair_stopped_at_any_write_loses_no_snapshot_and_can_be_repeated() {
    let mut scene = Scene::new();
    scene.flip("packs/data/", 50);
    let wrecked = Arc::clone(&scene.memory);
    let mut writes = 0;
    loop {
        scene.memory = copy_of(&wrecked);
        scene.vault.backend = Arc::clone(&scene.memory) as Arc<dyn Backend>;
        let stopped =
            Arc::new(WatchedBackend::new(Arc::clone(&scene.vault.backend)).stopping_after(writes, writes % 2 == 1));
        let result = repair(&scene.vault.through(stopped), true);
        // Before the new one is there, the old one is.
        let list = scene.vault.open().unwrap().list_snapshots().unwrap();
        assert!(list.snapshots.len() >= 2, "{writes}");
        scene.assert_second_restores();
        if result.is_ok() {
            break;
        }
        repair(&scene.vault, true).unwrap();
        assert_eq!(scene.vault.check(ReadData::All).hurt_snapshots, [], "{writes}");
        writes += 1;
    }
    // Session, pack, segment, snapshot, and the original's record in the trash.
    assert_eq!(writes, 5);
}

#[test]
fn the_program_asks_before_it_writes() {
    let local = LocalVault::create();
    let directory = TempDir::new().unwrap();
    fill(directory.path(), "program");
    local.vault.backup(directory.path()).unwrap();
    assert_eq!(local.run(&["repair", "snapshots"]).0, 0);
    let victim = local.vault.keys_under("packs/data/")[0].clone();
    fs::remove_file(local.path().join(&victim)).unwrap();
    let before = local.vault.keys();

    let (code, said) = local.run(&["repair", "snapshots", "--dry-run"]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("weights.bin") && said.contains("Dry run"), "{said}");
    let (code, said) = local.run(&["repair", "snapshots"]);
    assert!(code == 2 && said.contains("--yes"), "{code} {said}");
    assert_eq!(local.vault.keys(), before);
    let (code, said) = local.run(&["repair", "snapshots", "latest", "--yes", "--forget"]);
    assert!(code == 3 && said.contains("is") && said.contains("now"), "{code} {said}");
    assert_eq!(local.run(&["snapshots", "--json"]).1.matches("repaired_from").count(), 1);
    assert_eq!(local.run(&["repair", "snapshots"]).0, 0);
    let repository = local.vault.open().unwrap();
    assert_eq!(check_with(&repository, ReadData::All).hurt_snapshots, []);
}

#[test]
fn what_a_deployment_lost_is_named_down_to_experiment_run_and_model_version() {
    let local = LocalVault::create();
    let directory = TempDir::new().unwrap();
    let database = directory.path().join("mlflow.db");
    sqlite_file::create_mlflow(&database).execute_batch(mlflow_rows::ONE_MODEL).unwrap();
    let artifacts = directory.path().join("artifacts");
    let model = artifacts.join("7/abc/artifacts/model");
    fs::create_dir_all(&model).unwrap();
    fs::write(model.join("weights.bin"), noise("weights", 4_000_000)).unwrap();
    fs::create_dir_all(artifacts.join("7/def/artifacts")).unwrap();
    fs::write(artifacts.join("7/def/artifacts/log.txt"), "hello").unwrap();
    let (uri, root) =
        (format!("sqlite:///{}", database.display()), format!("mlflow-artifacts:/={}", artifacts.display()));
    let (code, said) = local.run(&["backup", "--backend-store-uri", &uri, "--artifacts", &root]);
    assert_eq!(code, 0, "{said}");

    // The weights are most of all content, so the middle of the largest pack is of them, whatever else it holds.
    let of_size = |key: &String| fs::metadata(local.path().join(key)).unwrap().len();
    let victim = local.vault.keys_under("packs/data/").into_iter().max_by_key(of_size).unwrap();
    let file = local.path().join(victim);
    let mut bytes = fs::read(&file).unwrap();
    let weights = bytes.len() / 2;
    bytes[weights] ^= 1;
    fs::remove_file(&file).unwrap();
    fs::write(&file, bytes).unwrap();

    let (plan, repaired) = repair(&local.vault, false).unwrap();
    let [lost] = &plan.hurt[0].lost[..] else { panic!("{plan:?}") };
    assert_eq!(lost.path.as_deref(), Some("7/abc/artifacts/model/weights.bin"));
    let of: BTreeSet<&str> = lost.of.iter().map(String::as_str).collect();
    let expected = ["run abc", "experiment \"fraud\"", "model version detector/1"];
    assert_eq!(of, BTreeSet::from(expected));
    let repository = local.vault.open().unwrap();
    let record = repository.find_snapshot(&repaired[0].is.to_string()).unwrap().record;
    assert!(expected.iter().all(|words| record.problems[0].message.contains(words)), "{:?}", record.problems);
    let verdicts = record.deployment.unwrap().verdicts;
    assert_eq!((verdicts.artifacts, verdicts.references), (Verdict::NotOk, Verdict::NotOk));
    assert_eq!((verdicts.database, verdicts.metadata), (Verdict::Ok, Verdict::Absent));
}
