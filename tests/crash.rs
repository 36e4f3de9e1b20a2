//! A backup, and `init`, stopped at any moment: what was there stays good, nothing half-written shows, and the next run
//! goes on from what was uploaded.
//!
//! The first tests let a backend do just N writes and none after, as a killed process would leave it, for every N; each
//! twice, because the N-th answer may be lost though the write was done. The last one kills the program itself.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use mlvault::backend::Backend;
use mlvault::backend::memory::MemoryBackend;
use mlvault::check::ReadData;
use mlvault::error::Error;
use mlvault::format::BlobKind;
use mlvault::id::ChunkId;
use mlvault::repository::Repository;
use tempfile::TempDir;

use crate::support::repo::{LocalVault, Vault, WatchedBackend, copy_of, create, fill, key_file, noise, tree};

/// More writes than anything here makes.
const WRITES_MAX: usize = 100;

/// Fills a directory with so much that segments are written before the end.
fn fill_large(directory: &Path, seed: &str) {
    fill(directory, seed);
    fs::write(directory.join("large"), noise(seed, 7 << 20)).unwrap();
}

/// Fails if a chunk stands in two packs that segments name: it was uploaded again though it was known.
fn assert_nothing_is_stored_twice(repository: &Repository) {
    for kind in BlobKind::ALL {
        let mut places: HashMap<ChunkId, usize> = HashMap::new();
        let count = |places: &mut HashMap<ChunkId, usize>, id| *places.entry(id).or_default() += 1;
        repository
            .index()
            .for_each_chunk(kind, &mut |_, _, chunk| {
                count(&mut places, chunk.id);
                Ok(())
            })
            .unwrap();
        assert!(places.values().all(|count| *count == 1), "{kind:?}");
    }
}

#[test]
fn a_backup_stopped_at_any_write_leaves_all_good_and_is_gone_on_with() {
    let (mut vault, memory) = Vault::in_memory();
    let (old, new) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fill(old.path(), "old");
    fill_large(new.path(), "new");
    let (old_tree, new_tree) = (tree(old.path()), tree(new.path()));
    let first = vault.backup(old.path()).unwrap();
    let mut indexed_early = 0;
    for loses_answer in [false, true] {
        let mut writes = 0;
        loop {
            let what =
                format!("{writes} writes, the next one {}", if loses_answer { "unanswered" } else { "not done" });
            let copy = copy_of(&memory);
            vault.backend = Arc::clone(&copy) as Arc<dyn Backend>;
            let stopped = WatchedBackend::new(Arc::clone(&vault.backend)).stopping_after(writes, loses_answer);
            if vault.through(Arc::new(stopped)).backup(new.path()).is_ok() {
                break;
            }
            let report = vault.check(ReadData::All);
            assert!(report.is_clean(), "{what}: {report:#?}");
            assert!(report.notes.iter().all(|note| !note.contains("Unknown")), "{what}: {:?}", report.notes);
            vault.assert_restores(first, old.path(), &old_tree);
            let snapshots = vault.open().unwrap().list_snapshots().unwrap().snapshots.len();
            assert!(snapshots == 1 || loses_answer && copy.list("sessions/").unwrap().len() == 2, "{what}");
            indexed_early += usize::from(snapshots == 1 && copy.list("index/").unwrap().len() > 2);

            let second = vault.backup(new.path()).unwrap();
            assert_nothing_is_stored_twice(&vault.open().unwrap());
            vault.assert_clean();
            vault.assert_restores(second, new.path(), &new_tree);
            vault.assert_restores(first, old.path(), &old_tree);
            writes += 1;
            assert!(writes < WRITES_MAX);
        }
        assert!(writes > 10, "{writes}");
    }
    assert!(indexed_early > 4, "no run was stopped between a segment and the snapshot");
}

#[test]
fn writes_come_in_the_order_session_packs_segments_snapshot() {
    let (vault, _) = Vault::in_memory();
    let directory = TempDir::new().unwrap();
    fill_large(directory.path(), "order");
    let watched = Arc::new(WatchedBackend::new(Arc::clone(&vault.backend)));
    let snapshot = vault.through(Arc::clone(&watched) as Arc<dyn Backend>).backup(directory.path()).unwrap();
    let writes = watched.keys_of("create");
    assert_eq!(writes.first(), Some(&format!("sessions/{snapshot}")));
    assert_eq!(writes.last(), Some(&format!("snapshots/{snapshot}")));
    let last_pack = writes.iter().rposition(|key| key.starts_with("packs/")).unwrap();
    let segments: Vec<_> = (0..writes.len()).filter(|at| writes[*at].starts_with("index/")).collect();
    assert!(segments.len() >= 3 && *segments.last().unwrap() > last_pack, "{writes:?}");
    assert_eq!(watched.keys_of("remove"), Vec::<String>::new());
    let reads = watched.calls();
    let tombstones = reads.iter().position(|call| call.key == "tombstones/").unwrap();
    let index = reads.iter().position(|call| call.action == "list" && call.key.starts_with("index/")).unwrap();
    let announced = reads.iter().position(|call| call.key == writes[0]).unwrap();
    assert!(announced < tombstones && tombstones < index);
}

#[test]
fn a_second_backup_of_the_same_reads_no_pack_of_content_and_writes_no_pack() {
    let (vault, _) = Vault::in_memory();
    let directory = TempDir::new().unwrap();
    fill(directory.path(), "same");
    vault.backup(directory.path()).unwrap();
    let watched = Arc::new(WatchedBackend::new(Arc::clone(&vault.backend)));
    vault.through(Arc::clone(&watched) as Arc<dyn Backend>).backup(directory.path()).unwrap();
    let writes = watched.keys_of("create");
    assert_eq!(writes.len(), 2, "{writes:?}");
    assert!(watched.calls().iter().all(|call| !call.key.starts_with("packs/data/") && call.key != "index/data/"));
}

#[test]
fn init_stopped_at_any_write_leaves_no_repository_and_says_what_to_do() {
    for loses_answer in [false, true] {
        let mut writes = 0;
        loop {
            let memory: Arc<dyn Backend> = Arc::new(MemoryBackend::default());
            let (_, credential) = key_file();
            let stopped = WatchedBackend::new(Arc::clone(&memory)).stopping_after(writes, loses_answer);
            if create(&stopped, &credential).is_ok() {
                break;
            }
            let vault = Vault { backend: Arc::clone(&memory), credential, cache: None };
            let objects = vault.keys();
            match vault.open() {
                Ok(_) => assert_eq!(objects.len(), 3, "only the answer to the last write was lost"),
                Err(Error::NoRepository { location }) => assert_eq!(location, "memory:"),
                Err(error) => panic!("{writes}: {error}"),
            }
            match Repository::refuse_used_place(memory.as_ref()) {
                Ok(()) => assert_eq!(objects, Vec::<String>::new()),
                Err(error) if objects.len() == 3 => assert!(error.to_string().contains("a repository already")),
                Err(error) => assert!(error.to_string().contains("an earlier init was interrupted there"), "{error}"),
            }
            writes += 1;
            assert!(writes < WRITES_MAX);
        }
        assert_eq!(writes, 3);
    }
}

#[test]
fn a_program_killed_at_any_moment_leaves_a_clean_repository() {
    /// Times that the program is killed.
    const ROUNDS: u64 = 12;
    let local = LocalVault::create();
    let directory = TempDir::new().unwrap();
    fill(directory.path(), "killed");
    let path = directory.path().to_str().unwrap().to_owned();
    let begun = std::time::Instant::now();
    assert_eq!(local.run(&["backup", &path]).0, 0);
    let whole_run = begun.elapsed();
    let mut killed = 0;
    for round in 0..ROUNDS {
        fs::write(directory.path().join("growing"), noise(&format!("round {round}"), 6 << 20)).unwrap();
        let mut child = local.program(&["backup", &path]).spawn().unwrap();
        // From the first moment to well behind the end of a run.
        std::thread::sleep(whole_run * round as u32 / 6);
        child.kill().unwrap();
        let status = child.wait().unwrap();
        killed += usize::from(status.code().is_none());
        let (code, said) = local.run(&["check", "--read-data"]);
        assert_eq!(code, 0, "round {round}: {said}");
        assert!(!said.contains("Unknown"), "round {round}: {said}");
    }
    assert!(killed >= 3, "only {killed} of {ROUNDS} runs were still going when they were killed");
    let (code, said) = local.run(&["backup", &path]);
    assert_eq!(code, 0, "{said}");
    let list = local.vault.open().unwrap().list_snapshots().unwrap();
    let latest = list.snapshots.last().unwrap().id;
    local.vault.assert_restores(latest, directory.path(), &tree(directory.path()));
    assert_nothing_is_stored_twice(&local.vault.open().unwrap());
}
