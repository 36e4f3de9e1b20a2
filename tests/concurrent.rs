//! Several writers at once, and sessions that a prune interferes with: void markers, tombstones.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use mlvault::backend::Backend;
use mlvault::error::{Error, Result};
use mlvault::format::object::{self, ObjectKind};
use mlvault::format::snapshot::{self, SessionOutcome, Signer, VoidRecord};
use mlvault::id::{PackId, SessionId};
use mlvault::repository::{Repository, layout, session};
use tempfile::TempDir;

use crate::support::repo::{LocalVault, Vault, WatchedBackend, backup_with, fill, id_of, noise, tree};

/// Two directories of which half is the same.
fn overlapping() -> [TempDir; 2] {
    ["one", "two"].map(|seed| {
        let directory = TempDir::new().unwrap();
        fs::create_dir(directory.path().join("shared")).unwrap();
        fs::create_dir(directory.path().join("own")).unwrap();
        fill(&directory.path().join("shared"), "shared");
        fill(&directory.path().join("own"), seed);
        directory
    })
}

#[test]
fn two_backups_at_once_are_both_good() {
    for _ in 0..3 {
        let (vault, _) = Vault::in_memory();
        let directories = overlapping();
        let ids: Vec<SessionId> = std::thread::scope(|scope| {
            let vault = &vault;
            let threads: Vec<_> = directories
                .iter()
                .map(|directory| scope.spawn(move || vault.backup(directory.path()).unwrap()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        vault.assert_clean();
        for (id, directory) in ids.into_iter().zip(&directories) {
            vault.assert_restores(id, directory.path(), &tree(directory.path()));
        }
    }
}

#[test]
fn two_backups_at_once_with_one_handle_are_both_good() {
    let (vault, _) = Vault::in_memory();
    let repository = vault.open().unwrap();
    let directories = overlapping();
    let ids: Vec<SessionId> = std::thread::scope(|scope| {
        let repository = &repository;
        let backup = |directory: &TempDir| {
            let path = directory.path().to_owned();
            scope.spawn(move || backup_with(repository, &path).unwrap().snapshot.unwrap())
        };
        let threads: Vec<_> = directories.iter().map(backup).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    vault.assert_clean();
    for (id, directory) in ids.into_iter().zip(&directories) {
        vault.assert_restores(id, directory.path(), &tree(directory.path()));
    }
}

#[test]
fn programs_that_share_a_cache_directory_back_up_at_once() {
    /// More programs than there are shared caches.
    const PROGRAMS: usize = 6;
    let local = LocalVault::create();
    let directories: Vec<TempDir> = (0..PROGRAMS)
        .map(|number| {
            let directory = TempDir::new().unwrap();
            fill(directory.path(), if number % 2 == 0 { "even" } else { "odd" });
            fs::write(directory.path().join("own"), noise(&format!("own {number}"), 2 << 20)).unwrap();
            directory
        })
        .collect();
    for _ in 0..2 {
        let paths = directories.iter().map(|directory| directory.path().to_str().unwrap());
        let children: Vec<_> = paths.map(|path| local.program(&["backup", path]).spawn().unwrap()).collect();
        for child in children {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    let (code, said) = local.run(&["check", "--read-data"]);
    assert_eq!(code, 0, "{said}");
    let list = local.vault.open().unwrap().list_snapshots().unwrap();
    assert_eq!(list.snapshots.len(), 2 * PROGRAMS);
    for directory in &directories {
        let expected = tree(directory.path());
        let is_of_it = |source: &str| source.contains(directory.path().to_str().unwrap());
        for snapshot in &list.snapshots {
            if is_of_it(&format!("{:?}", snapshot.record.source)) {
                local.vault.assert_restores(snapshot.id, directory.path(), &expected);
            }
        }
    }
}

/// Writes the marker that makes a session void, as a prune would.
fn plant_void_marker(backend: &dyn Backend, repository: &Repository, session: &SessionId) {
    let outcome =
        SessionOutcome::Void(VoidRecord { at: jiff::Timestamp::now(), reason: "the test is a prune".to_owned() });
    let access = repository.access();
    let signer = Signer { certificate: &access.certificate, seed: &access.signing_seed };
    let body = snapshot::encode(repository.id(), *session, &outcome, &signer);
    let sealed = object::seal(repository.keys(), repository.id(), ObjectKind::Snapshot, &session.to_string(), &body);
    backend.create(&layout::snapshot(session), Bytes::from(sealed)).unwrap();
}

/// Backs up through a backend where a prune declares the first `times` sessions void, just before a write under `at`.
fn backup_voided(vault: &Vault, directory: &Path, at: &'static str, times: usize) -> Result<SessionId> {
    let pruner = vault.open()?;
    let left = AtomicUsize::new(times);
    let voiding = WatchedBackend::new(Arc::clone(&vault.backend)).before_create(move |backend, key| {
        let is_left = |left: usize| left.checked_sub(1);
        if key.starts_with(at) && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, is_left).is_ok() {
            plant_void_marker(backend, &pruner, &id_of(key).unwrap());
        }
    });
    vault.through(Arc::new(voiding)).backup(directory)
}

#[test]
fn a_session_that_was_declared_void_commits_nothing_and_is_begun_anew_once() {
    // As soon as the session shows, and at the last moment before it commits.
    for at in ["sessions/", "snapshots/"] {
        for times in [1, 2] {
            let (vault, _) = Vault::in_memory();
            let directory = TempDir::new().unwrap();
            fill(directory.path(), "void");
            let result = backup_voided(&vault, directory.path(), at, times);
            let list = vault.open().unwrap().list_snapshots().unwrap();
            assert_eq!((list.snapshots.len(), list.voids.len(), list.damaged.count()), (2 - times, times, 0), "{at}");
            vault.assert_clean();
            let id = match result {
                Ok(id) => id,
                Err(Error::Busy(message)) if times == 2 && message.contains("declared void") => {
                    vault.backup(directory.path()).unwrap()
                }
                Err(error) => panic!("{at} {times}: {error}"),
            };
            vault.assert_restores(id, directory.path(), &tree(directory.path()));
        }
    }
}

fn plant_tombstone(vault: &Vault, packs: Vec<PackId>) {
    let repository = vault.open().unwrap();
    session::bury(&repository, &packs).unwrap();
}

fn data_packs(vault: &Vault) -> Vec<PackId> {
    vault.keys_under("packs/data/").iter().map(|key| id_of(key).unwrap()).collect()
}

#[test]
fn chunks_in_tombstoned_packs_are_stored_again_also_those_of_unchanged_files() {
    let (vault, _) = Vault::in_memory();
    let directory = TempDir::new().unwrap();
    fill(directory.path(), "marked");
    let expected = tree(directory.path());
    let first = backup_with(&vault.open().unwrap(), directory.path()).unwrap();
    let unmarked = backup_with(&vault.open().unwrap(), directory.path()).unwrap().record.statistics;
    assert_eq!((unmarked.files_changed, unmarked.bytes_read, unmarked.chunks_new), (0, 0, 0));

    let marked = data_packs(&vault);
    let old_segments = vault.keys_under("index/data/");
    plant_tombstone(&vault, marked.clone());
    let third = backup_with(&vault.open().unwrap(), directory.path()).unwrap();
    let statistics = &third.record.statistics;
    let first_read = first.record.statistics.bytes_read;
    assert_eq!(statistics.bytes_read, first_read, "{statistics:?}");
    assert!(statistics.bytes_new >= first.record.statistics.bytes_new * 9 / 10, "{statistics:?}");
    let fresh: Vec<PackId> = data_packs(&vault).into_iter().filter(|pack| !marked.contains(pack)).collect();
    assert!(!fresh.is_empty());

    // What a sweep may do now: segments first, packs next, the tombstone last.
    old_segments.iter().for_each(|segment| vault.backend.remove(segment).unwrap());
    for pack in &marked {
        vault.backend.remove(&layout::pack(mlvault::format::BlobKind::Data, pack)).unwrap();
    }
    vault.backend.remove("tombstones/0001").unwrap();
    vault.assert_clean();
    for id in [first.snapshot, third.snapshot] {
        vault.assert_restores(id.unwrap(), directory.path(), &expected);
    }
}

#[test]
fn a_tombstone_for_some_packs_costs_only_what_is_in_them() {
    let (vault, _) = Vault::in_memory();
    let directory = TempDir::new().unwrap();
    fill(directory.path(), "half");
    vault.backup(directory.path()).unwrap();
    let packs = data_packs(&vault);
    assert!(packs.len() > 1);
    plant_tombstone(&vault, packs[..1].to_vec());
    let statistics = backup_with(&vault.open().unwrap(), directory.path()).unwrap().record.statistics;
    assert!(statistics.files_unchanged > 0 && statistics.files_changed > 0, "{statistics:?}");
    let marked_len = vault.backend.list("packs/data/").unwrap().iter().map(|pack| pack.size).max().unwrap();
    assert!(statistics.bytes_new > 0 && statistics.bytes_new < marked_len * 2, "{statistics:?}");
}

#[test]
fn a_handle_that_was_open_before_a_sweep_does_not_rely_on_what_it_knew() {
    let (vault, _) = Vault::in_memory();
    let directory = TempDir::new().unwrap();
    fill(directory.path(), "swept");
    let before = vault.keys();
    let repository = vault.open().unwrap();
    backup_with(&repository, directory.path()).unwrap();
    // Another process forgets the snapshot and sweeps all that it needed.
    for key in vault.keys() {
        if !before.contains(&key) {
            vault.backend.remove(&key).unwrap();
        }
    }
    let id = backup_with(&repository, directory.path()).unwrap().snapshot.unwrap();
    vault.assert_clean();
    assert_restores_everything(&vault, id, directory.path());
}

fn assert_restores_everything(vault: &Vault, id: SessionId, directory: &Path) {
    vault.assert_restores(id, directory, &tree(directory));
}
