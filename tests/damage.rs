//! Every kind of object, damaged in every way: it is noticed and named, and what is not touched still restores.
//!
//! Two snapshots of directories that share nothing lie in one repository. The objects of the first one are damaged, one
//! at a time; then the check must name the object, the second snapshot must restore byte for byte, and of the first
//! one exactly the files that the check named must fail.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use mlvault::backend::Backend;
use mlvault::backend::memory::MemoryBackend;
use mlvault::check::{CheckReport, ProblemKind, ReadData};
use mlvault::error::{Error, Result};
use mlvault::format::key_slot::Role;
use mlvault::format::note::Says;
use mlvault::hears::Hears;
use mlvault::id::{PackId, SessionId};
use mlvault::repository::{layout, session};
use mlvault::restore::RestoreOptions;
use mlvault::retention::undelete;
use tempfile::TempDir;

use crate::support::repo::{
    Tree, Vault, WatchedBackend, clean_check, empty_shard, fill, key_file, prose, stored_path, tree,
};

/// How an object is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Deleted,
    Truncated,
    /// One bit, at so many hundredths of the object's length.
    Flipped(usize),
    /// Another object of its kind stands under its name.
    Replaced,
}

const ALL: [Damage; 9] = [
    Damage::Deleted,
    Damage::Truncated,
    Damage::Flipped(0),
    Damage::Flipped(10),
    Damage::Flipped(33),
    Damage::Flipped(50),
    Damage::Flipped(90),
    Damage::Flipped(100),
    Damage::Replaced,
];

struct Scene {
    vault: Vault,
    memory: Arc<MemoryBackend>,
    first: (SessionId, TempDir, Tree),
    second: (SessionId, TempDir, Tree),
    /// The objects that the first backup wrote.
    objects: Vec<String>,
}

impl Scene {
    fn new() -> Self {
        let (vault, memory) = Vault::in_memory();
        let made = vault.keys();
        let directories = ["first", "second"].map(|seed| {
            let directory = TempDir::new().unwrap();
            fill(directory.path(), seed);
            directory
        });
        let [first, second] = directories;
        let first_id = vault.backup(first.path()).unwrap();
        let objects = vault.keys().into_iter().filter(|key| !made.contains(key)).collect();
        let second_id = vault.backup(second.path()).unwrap();
        let trees = [tree(first.path()), tree(second.path())];
        let [first_tree, second_tree] = trees;
        let (first, second) = ((first_id, first, first_tree), (second_id, second, second_tree));
        Self { vault, memory, first, second, objects }
    }

    /// Returns an object of the first backup under a prefix, and one of the second.
    fn pair(&self, prefix: &str) -> (String, String) {
        let victim = self.objects.iter().find(|key| key.starts_with(prefix)).unwrap().clone();
        let other = self.vault.keys_under(prefix).into_iter().find(|key| !self.objects.contains(key)).unwrap();
        (victim, other)
    }

    fn apply(&self, damage: Damage, victim: &str, other: &str) {
        apply(&self.memory, damage, victim, other);
    }

    /// Puts an object back.
    fn heal(&self, victim: &str, bytes: bytes::Bytes) {
        self.memory.overwrite(victim, bytes);
    }

    fn assert_second_restores(&self) {
        let (id, directory, expected) = &self.second;
        self.vault.assert_restores(*id, directory.path(), expected);
    }

    /// Restores the first snapshot, and fails unless just what the check named is lost and the rest is right.
    fn assert_first_loses_just(&self, report: &CheckReport, what: &str) {
        let (id, directory, expected) = &self.first;
        let named = lost_paths(report, *id);
        let (restored, problems) = self.vault.restore(*id, directory.path()).unwrap();
        assert_eq!(problems.iter().cloned().collect::<BTreeSet<_>>(), named, "{what}: {report:#?}");
        for (path, node) in expected {
            if !named.contains(&stored_path(directory.path(), path)) {
                assert_eq!(restored.get(path), Some(node), "{what}: {}", path.display());
            }
        }
    }
}

fn apply(memory: &MemoryBackend, damage: Damage, victim: &str, other: &str) {
    let bytes = memory.read(victim).unwrap();
    match damage {
        Damage::Deleted => memory.remove(victim).unwrap(),
        Damage::Truncated => memory.overwrite(victim, bytes.slice(..bytes.len() * 2 / 3)),
        Damage::Flipped(hundredths) => {
            let at = ((bytes.len() - 1) * hundredths) / 100;
            let mut bytes = bytes.to_vec();
            bytes[at] ^= 0x10;
            memory.overwrite(victim, bytes);
        }
        Damage::Replaced => memory.overwrite(victim, memory.read(other).unwrap()),
    }
}

/// Returns the single files that a report says a snapshot has lost.
fn lost_paths(report: &CheckReport, snapshot: SessionId) -> BTreeSet<String> {
    let hurts = report.problems.iter().flat_map(|problem| &problem.hurts);
    hurts.filter(|hurt| hurt.snapshot == snapshot).map(|hurt| hurt.path.clone()).collect()
}

fn named<'a>(report: &'a CheckReport, key: &str) -> Vec<&'a str> {
    report.problems.iter().filter(|problem| problem.object == key).map(|problem| problem.reason.as_str()).collect()
}

#[test]
fn a_sound_repository_is_clean() {
    let scene = Scene::new();
    for read_data in [ReadData::Nothing, ReadData::All, ReadData::Subset("50%".parse().unwrap())] {
        let report = scene.vault.check(read_data);
        assert!(report.is_clean(), "{report:#?}");
        assert_eq!(report.notes, Vec::<String>::new());
        assert_eq!((report.counts.snapshots, report.counts.sessions, report.counts.open_sessions), (2, 2, 0));
        assert_eq!(report.counts.packs, scene.vault.keys_under("packs/").len() as u64);
        assert_eq!(report.counts.segments, scene.vault.keys_under("index/").len() as u64);
        assert_eq!(report.read.is_some(), read_data != ReadData::Nothing);
    }
    let (id, directory, expected) = &scene.first;
    scene.vault.assert_restores(*id, directory.path(), expected);
    scene.assert_second_restores();
}

#[test]
fn every_damage_to_a_data_pack_is_named_with_the_files_that_it_costs() {
    let scene = Scene::new();
    let (victim, other) = scene.pair("packs/data/");
    for damage in ALL {
        let what = format!("{damage:?} {victim}");
        let sound = scene.memory.read(&victim).unwrap();
        scene.apply(damage, &victim, &other);
        let report = scene.vault.check(ReadData::All);
        assert_eq!(named(&report, &victim).len(), 1, "{what}: {report:#?}");
        scene.assert_first_loses_just(&report, &what);
        scene.assert_second_restores();
        let lost = lost_paths(&report, scene.first.0).len();
        match damage {
            // Which chunks share a pack is drawn at random, so how many files it costs varies.
            Damage::Deleted | Damage::Replaced | Damage::Truncated => assert!(lost >= 1, "{what}: {lost}"),
            // A file of two names, or the one chunk that two small ones share, at most.
            Damage::Flipped(_) => assert!(lost <= 2, "{what}: {lost}"),
        }
        let hurt: Vec<_> = report.hurt_snapshots.iter().map(|hurt| (hurt.id, hurt.entries)).collect();
        let expected = if lost == 0 { vec![] } else { vec![(scene.first.0, lost as u64)] };
        assert_eq!(hurt, expected, "{what}");
        scene.heal(&victim, sound);
    }
    scene.vault.assert_clean();
}

#[test]
fn without_reading_data_a_pack_that_is_gone_cut_or_another_is_noticed() {
    let scene = Scene::new();
    let (victim, other) = scene.pair("packs/data/");
    // The header; the directory, which the packs' padding follows; the footer.
    for damage in [Damage::Deleted, Damage::Truncated, Damage::Replaced, Damage::Flipped(0), Damage::Flipped(100)] {
        let sound = scene.memory.read(&victim).unwrap();
        scene.apply(damage, &victim, &other);
        let report = scene.vault.check(ReadData::Nothing);
        assert_eq!(named(&report, &victim).len(), 1, "{damage:?}: {report:#?}");
        scene.assert_first_loses_just(&report, &format!("{damage:?}"));
        scene.heal(&victim, sound);
    }
}

#[test]
fn every_damage_to_a_meta_pack_is_named() {
    let scene = Scene::new();
    let (victim, other) = scene.pair("packs/meta/");
    for damage in ALL {
        let what = format!("{damage:?} {victim}");
        let sound = scene.memory.read(&victim).unwrap();
        scene.apply(damage, &victim, &other);
        let report = scene.vault.check(ReadData::All);
        assert_eq!(named(&report, &victim).len(), 1, "{what}: {report:#?}");
        scene.assert_second_restores();
        let (id, directory, expected) = &scene.first;
        let (restored, problems) = scene.vault.restore(*id, directory.path()).unwrap();
        let lost: u64 = report.hurt_snapshots.iter().map(|hurt| hurt.entries).sum();
        assert_eq!(lost == 0, problems.is_empty(), "{what}: {problems:?}");
        if lost == 0 {
            assert_eq!(restored, *expected, "{what}");
        } else {
            assert_eq!(report.hurt_snapshots.iter().map(|hurt| hurt.id).collect::<Vec<_>>(), [*id]);
        }
        scene.heal(&victim, sound);
    }
}

#[test]
fn every_damage_to_an_index_segment_is_noticed() {
    for prefix in ["index/data/", "index/meta/"] {
        let scene = Scene::new();
        let (victim, other) = scene.pair(prefix);
        for damage in ALL {
            let what = format!("{damage:?} {victim}");
            let sound = scene.memory.read(&victim).unwrap();
            scene.apply(damage, &victim, &other);
            let report = scene.vault.check(ReadData::Nothing);
            // Nothing else says the name of a segment: if it is gone, what it said is missed.
            assert_eq!(named(&report, &victim).len(), usize::from(damage != Damage::Deleted), "{what}: {report:#?}");
            assert!(report.problems.iter().any(|problem| problem.kind == ProblemKind::MissingChunks), "{what}");
            assert!(report.counts.unreferenced_packs > 0 && report.notes[0].contains("repair index"), "{what}");
            assert_eq!(report.hurt_snapshots.iter().map(|hurt| hurt.id).collect::<Vec<_>>(), [scene.first.0], "{what}");
            scene.assert_second_restores();
            if prefix == "index/data/" {
                scene.assert_first_loses_just(&report, &what);
            }
            scene.heal(&victim, sound);
        }
        scene.vault.assert_clean();
    }
}

#[test]
fn every_damage_to_a_snapshot_is_named() {
    let scene = Scene::new();
    let (victim, other) = scene.pair("snapshots/");
    for damage in ALL {
        let sound = scene.memory.read(&victim).unwrap();
        scene.apply(damage, &victim, &other);
        let report = scene.vault.check(ReadData::Nothing);
        assert_eq!(named(&report, &victim).len(), 1, "{damage:?}: {report:#?}");
        assert_eq!(report.problem_count, 1, "{damage:?}: {report:#?}");
        let kind = if damage == Damage::Deleted { ProblemKind::Vanished } else { ProblemKind::Snapshot };
        assert_eq!(report.problems[0].kind, kind);
        assert!(scene.vault.restore(scene.first.0, scene.first.1.path()).is_err(), "{damage:?}");
        scene.assert_second_restores();
        scene.heal(&victim, sound);
    }
}

#[test]
fn the_newest_snapshot_that_nobody_saw_leaves_an_open_session_when_it_goes() {
    let scene = Scene::new();
    scene.memory.remove(&format!("snapshots/{}", scene.second.0)).unwrap();
    let report = scene.vault.check(ReadData::Nothing);
    assert!(report.is_clean());
    assert_eq!(report.counts.open_sessions, 1);
    assert!(report.notes[0].contains("1 sessions ended neither"), "{:?}", report.notes);
}

#[test]
fn every_damage_to_a_session_is_named_but_its_absence_which_harms_nobody() {
    let scene = Scene::new();
    let (victim, other) = scene.pair("sessions/");
    for damage in ALL {
        let sound = scene.memory.read(&victim).unwrap();
        scene.apply(damage, &victim, &other);
        let report = scene.vault.check(ReadData::Nothing);
        assert_eq!(named(&report, &victim).len(), usize::from(damage != Damage::Deleted), "{damage:?}: {report:#?}");
        let (id, directory, expected) = &scene.first;
        scene.vault.assert_restores(*id, directory.path(), expected);
        scene.assert_second_restores();
        scene.heal(&victim, sound);
    }
}

#[test]
fn every_damage_to_a_key_slot_is_named_also_to_one_whose_key_is_not_at_hand() {
    let scene = Scene::new();
    let (_, writer) = key_file();
    let certificate = scene.vault.open().unwrap().add_key("cron", Role::Writer, &writer).unwrap();
    let victim = format!("keys/{}", certificate.slot);
    let other = scene.vault.keys_under("keys/").into_iter().find(|key| *key != victim).unwrap();
    for damage in ALL.into_iter().filter(|damage| *damage != Damage::Deleted) {
        let sound = scene.memory.read(&victim).unwrap();
        scene.apply(damage, &victim, &other);
        let report = scene.vault.check(ReadData::Nothing);
        assert_eq!(named(&report, &victim).len(), 1, "{damage:?}: {report:#?}");
        assert_eq!(report.problem_count, 1, "{damage:?}: {report:#?}");
        assert!(error_of(scene.vault.open_with(&writer)).contains(&victim), "{damage:?}");
        scene.assert_second_restores();
        scene.heal(&victim, sound);
    }
    // A slot that is gone was removed, as far as anyone can tell: whoever held it has the wrong key now.
    scene.memory.remove(&victim).unwrap();
    assert!(scene.vault.check(ReadData::Nothing).is_clean());
    assert!(matches!(scene.vault.open_with(&writer), Err(Error::WrongKey { .. })));
}

#[test]
fn damage_to_the_only_slot_is_told_when_the_repository_is_opened() {
    let scene = Scene::new();
    let repository = scene.vault.open().unwrap();
    let victim = format!("keys/{}", repository.access().certificate.slot);
    for slot in scene.vault.keys_under("keys/") {
        if slot != victim {
            scene.memory.remove(&slot).unwrap();
        }
    }
    let (elsewhere, foreign) = Vault::in_memory();
    let foreign_slot = foreign.read(&elsewhere.keys_under("keys/")[0]).unwrap();
    for damage in ALL {
        let sound = scene.memory.read(&victim).unwrap();
        scene.memory.overwrite("keys/ffffffffffffffff", foreign_slot.clone());
        scene.apply(damage, &victim, "keys/ffffffffffffffff");
        scene.memory.remove("keys/ffffffffffffffff").unwrap();
        let error = error_of(scene.vault.open());
        let expected = if damage == Damage::Deleted { "none of the 0 key slots" } else { &victim };
        assert!(error.contains(expected), "{damage:?}: {error}");
        scene.heal(&victim, sound);
    }
}

#[test]
fn damage_to_the_configuration_is_told_when_the_repository_is_opened() {
    let scene = Scene::new();
    let (_, foreign) = Vault::in_memory();
    scene.memory.overwrite("foreign", foreign.read(layout::CONFIG).unwrap());
    for damage in ALL.into_iter().chain([8, 9, 12, 20, 40, 70].map(Damage::Flipped)) {
        let sound = scene.memory.read(layout::CONFIG).unwrap();
        scene.apply(damage, layout::CONFIG, "foreign");
        let error = error_of(scene.vault.open());
        assert!(error.contains(layout::CONFIG), "{damage:?}: {error}");
        scene.heal(layout::CONFIG, sound);
    }
    let mut newer = scene.memory.read(layout::CONFIG).unwrap().to_vec();
    newer[9] += 1;
    scene.memory.overwrite(layout::CONFIG, newer);
    assert!(matches!(scene.vault.open(), Err(Error::FormatVersion { found: 3, .. })));
}

fn error_of<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("it opened"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_chunk_that_also_stands_in_a_sound_pack_is_not_lost() {
    let (vault, memory) = Vault::in_memory();
    let directory = TempDir::new().unwrap();
    fill(directory.path(), "twice");
    let expected = tree(directory.path());
    let made = vault.keys();
    let first = vault.backup(directory.path()).unwrap();
    let of_first: Vec<_> = vault.keys().into_iter().filter(|key| !made.contains(key)).collect();
    // Without an index the second backup stores everything again.
    let segments: Vec<_> =
        vault.keys_under("index/").into_iter().map(|key| (memory.read(&key).unwrap(), key)).collect();
    segments.iter().for_each(|(_, key)| memory.remove(key).unwrap());
    let snapshot = memory.read(&format!("snapshots/{first}")).unwrap();
    memory.remove(&format!("snapshots/{first}")).unwrap();
    vault.backup(directory.path()).unwrap();
    segments.into_iter().for_each(|(bytes, key)| memory.overwrite(&key, bytes));
    memory.overwrite(&format!("snapshots/{first}"), snapshot);
    vault.assert_clean();
    let mut packs: Vec<_> = of_first.iter().filter(|key| key.starts_with("packs/")).collect();
    let cut = packs.pop().unwrap();
    packs.iter().for_each(|pack| memory.remove(pack).unwrap());
    memory.overwrite(cut, memory.read(cut).unwrap().slice(..100));
    let report = vault.check(ReadData::All);
    assert_eq!(report.hurt_snapshots, [], "{report:#?}");
    // Names of packs may outlive them; a pack that is cut is damage all the same.
    assert!(report.notes.iter().any(|note| note.contains("are gone")), "{report:#?}");
    let [problem] = &report.problems[..] else { panic!("{report:#?}") };
    assert_eq!((problem.kind, &problem.object, problem.hurt_count), (ProblemKind::Pack, cut, 0));
    vault.assert_restores(first, directory.path(), &expected);
}

#[test]
fn parts_of_a_repository_together_find_what_is_damaged_in_it() {
    let scene = Scene::new();
    let (victim, other) = scene.pair("packs/data/");
    scene.apply(Damage::Flipped(33), &victim, &other);
    assert!(scene.vault.check(ReadData::Nothing).is_clean());
    let reports: Vec<_> =
        (1..=3).map(|part| scene.vault.check(ReadData::Subset(format!("{part}/3").parse().unwrap()))).collect();
    assert_eq!(reports.iter().filter(|report| !report.is_clean()).count(), 1);
    let read: u64 = reports.iter().map(|report| report.read.unwrap().packs).sum();
    assert_eq!(read, scene.vault.keys_under("packs/").len() as u64);
}

#[test]
fn a_key_that_reads_no_content_verifies_data_packs_by_their_names() {
    let scene = Scene::new();
    let (_, auditor) = key_file();
    scene.vault.open().unwrap().add_key("audit", Role::Auditor, &auditor).unwrap();
    let check = |read_data| crate::support::repo::check_with(&scene.vault.open_with(&auditor).unwrap(), read_data);
    let report = check(ReadData::All);
    assert!(report.is_clean(), "{report:#?}");
    assert!(!report.read.unwrap().content_opened);
    assert!(report.notes[0].contains("auditor"), "{:?}", report.notes);
    let (victim, other) = scene.pair("packs/data/");
    scene.apply(Damage::Flipped(33), &victim, &other);
    let report = check(ReadData::All);
    assert_eq!(named(&report, &victim), ["its bytes do not hash to its name"]);
    // Which of its chunks are lost cannot be told without the secret; so all may be.
    assert!(report.problems[0].hurt_count > 1);
}

#[test]
fn objects_that_mlvault_did_not_make_are_noted() {
    let scene = Scene::new();
    scene.memory.overwrite("packs/data/readme", "hello");
    scene.memory.overwrite("backup-of-config", "hello");
    let report = scene.vault.check(ReadData::All);
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!(report.notes, ["Unknown object backup-of-config", "Unknown object packs/data/readme"]);
}

#[test]
fn no_record_that_mlvault_makes_is_taken_for_an_unknown_object() {
    let scene = Scene::new();
    let repository = scene.vault.open().unwrap();
    let (first, second) = (scene.first.0, scene.second.0);
    let more: Vec<SessionId> = (0..3).map(|_| scene.vault.backup(scene.second.1.path()).unwrap()).collect();
    more.iter().for_each(|id| repository.forget(id, "test").unwrap());
    let reason = "audit".to_owned();
    let hold = repository.write_note(Says::Hold { snapshot: second, reason, until: None }).unwrap();
    repository.write_note(Says::Hold { snapshot: second, reason: "court".to_owned(), until: None }).unwrap();
    repository.write_note(Says::Release { hold }).unwrap();
    repository.write_note(Says::UpgradeDone { released: vec![second] }).unwrap();
    for number in 0..300 {
        let tags = vec![format!("tag-{number}")];
        repository.write_note(Says::AddTags { snapshot: second, tags: tags.clone() }).unwrap();
        if number % 3 == 0 {
            repository.write_note(Says::RemoveTags { snapshot: second, tags }).unwrap();
        }
    }
    repository.forget(&first, "test").unwrap();
    undelete(&repository, &first.into(), &Hears::nobody()).unwrap();
    session::bury(&repository, &[PackId::from_bytes([7; 32])]).unwrap();
    repository.write_evidence(clean_check()).unwrap();
    repository.write_plan_object(&repository.plan_id("production", "p"), &empty_shard()).unwrap();
    let small = ["sessions/", "snapshots/", "forgotten/", "notes/", "tombstones/", "evidence/", "plans/"];
    for folder in ["keys/", "packs/", "index/"].into_iter().chain(small) {
        assert!(!scene.vault.keys_under(folder).is_empty(), "{folder}");
    }
    assert!(scene.vault.keys_under("notes/").len() > 400);
    // Behind all the others in a listing.
    scene.memory.overwrite("zzz-readme", "hello");
    let report = scene.vault.check(ReadData::Nothing);
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!((report.notes, report.note_count), (vec!["Unknown object zzz-readme".to_owned()], 1));
}

#[test]
fn a_restore_with_a_lost_tree_removes_nothing() {
    let scene = Scene::new();
    let (victim, _) = scene.pair("packs/meta/");
    scene.memory.remove(&victim).unwrap();
    let target = TempDir::new().unwrap();
    let kept = target.path().join("kept");
    std::fs::write(&kept, "x").unwrap();
    let repository = scene.vault.open().unwrap();
    let snapshot = repository.find_snapshot(&scene.first.0.to_string()).unwrap();
    let mut options = RestoreOptions::into_directory(target.path());
    let nobody = mlvault::hears::Hears::nobody();
    options.removals = mlvault::restore::plan_removals(&repository, &snapshot, &options, &nobody).unwrap();
    assert!(options.removals.is_empty() && options.removals.reserves.len() == 1, "{:?}", options.removals);
    let summary = mlvault::restore::run(&repository, &snapshot, &options, &nobody).unwrap();
    assert!(summary.problems > 0 && summary.removed == 0);
    assert!(Path::new(&kept).exists());
}

/// Files of [`a_lost_tree_node_costs_what_is_below_it_and_nothing_else`]: enough for a tree of several nodes.
const MANY_FILES: usize = 3000;

#[test]
fn a_lost_tree_node_costs_what_is_below_it_and_nothing_else() {
    let (vault, memory) = Vault::in_memory();
    let directory = TempDir::new().unwrap();
    for number in 0..MANY_FILES {
        std::fs::write(directory.path().join(format!("{number:05}")), number.to_string()).unwrap();
    }
    let expected = tree(directory.path());
    let id = vault.backup(directory.path()).unwrap();
    let sound = vault.check(ReadData::Nothing);
    assert!(sound.counts.tree_nodes > 3, "{:?}", sound.counts);
    let victim = vault.keys_under("packs/meta/")[0].clone();
    let bytes = memory.read(&victim).unwrap();
    let mut lost_nodes = 0;
    for hundredths in (5..95).step_by(15) {
        apply(&memory, Damage::Flipped(hundredths), &victim, &victim);
        let report = vault.check(ReadData::Nothing);
        let (restored, problems) = vault.restore(id, directory.path()).unwrap();
        let hurts: Vec<_> = report.problems.iter().flat_map(|problem| &problem.hurts).collect();
        let lost: u64 = hurts.iter().map(|hurt| hurt.entries).sum();
        assert_eq!(problems.len(), hurts.len(), "{hundredths}: {report:#?}");
        assert!(hurts.len() <= 1, "one flipped bit cannot cost two nodes: {report:#?}");
        if let [hurt] = hurts[..] {
            assert_eq!(report.problems[0].object, victim);
            lost_nodes += usize::from(hurt.entries < MANY_FILES as u64);
        }
        // The directory itself counts as an entry too.
        let missing = expected.len() - restored.len();
        assert!(missing as u64 == lost || missing as u64 + 1 == lost, "{hundredths}: {missing} {lost}");
        assert!(restored.iter().all(|(path, node)| expected.get(path) == Some(node)), "{hundredths}");
        memory.overwrite(&victim, bytes.clone());
    }
    assert!(lost_nodes > 0, "no flipped bit hit a leaf");
}

#[test]
fn a_lost_list_of_chunks_costs_its_file_and_nothing_else() {
    let (vault, memory) = Vault::in_memory();
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("dump.sql"), prose("a long dump", 4 << 20)).unwrap();
    std::fs::write(directory.path().join("other"), b"other").unwrap();
    let expected = tree(directory.path());
    let id = vault.backup(directory.path()).unwrap();
    vault.assert_clean();
    let victim = vault.keys_under("packs/meta/")[0].clone();
    apply(&memory, Damage::Flipped(30), &victim, &victim);
    let report = vault.check(ReadData::Nothing);
    assert_eq!(report.problems[0].object, victim, "{report:#?}");
    assert_eq!(lost_paths(&report, id), BTreeSet::from([stored_path(directory.path(), Path::new("dump.sql"))]));
    let (restored, problems) = vault.restore(id, directory.path()).unwrap();
    assert_eq!(problems, [stored_path(directory.path(), Path::new("dump.sql"))]);
    assert_eq!(restored.get(Path::new("other")), expected.get(Path::new("other")));
}

#[test]
fn an_unread_pack_costs_three_small_requests_at_most_and_shared_nodes_are_read_once() {
    let (vault, _) = Vault::in_memory();
    let directory = TempDir::new().unwrap();
    fill(directory.path(), "cost");
    vault.backup(directory.path()).unwrap();
    let nodes = vault.check(ReadData::Nothing).counts.tree_nodes;
    for _ in 0..4 {
        vault.backup(directory.path()).unwrap();
    }
    let watched = Arc::new(WatchedBackend::new(Arc::clone(&vault.backend)));
    let report = vault.through(Arc::clone(&watched) as Arc<dyn Backend>).check(ReadData::Nothing);
    assert_eq!((report.counts.snapshots, report.counts.tree_nodes), (5, nodes));
    let whole = watched.keys_of("read");
    assert!(whole.iter().all(|key| !key.starts_with("packs/")), "{whole:?}");
    let ranges = watched.keys_of("read_range");
    for pack in vault.keys_under("packs/data/") {
        let requests = ranges.iter().filter(|key| **key == pack).count();
        assert!((1..=3).contains(&requests), "{requests} for {pack}");
    }
    assert_eq!(watched.keys_of("create").len() + watched.keys_of("remove").len(), 0);
}
