//! Forgetting, bringing back and pruning on real repositories: what goes, what stays, and what a stop in between costs.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use mlvault::backend::Backend;
use mlvault::backend::memory::MemoryBackend;
use mlvault::check::ReadData;
use mlvault::clock::Clock;
use mlvault::crypto::keys::new_secret;
use mlvault::crypto::passphrase::Credential;
use mlvault::error::{Error, Result};
use mlvault::format::BlobKind;
use mlvault::format::key_slot::Role;
use mlvault::hears::Hears;
use mlvault::id::{PackId, SessionId};
use mlvault::prune::{self, PruneLimits, PruneOptions, PruneReport};
use mlvault::repository::memory_plan::MEMORY_LIMIT_MIN;
use mlvault::repository::naming::{Named, Scope};
use mlvault::repository::session::Session;
use mlvault::repository::{OpenOptions, Repository, layout, session};
use mlvault::retention::{self, ForgetChoice};
use tempfile::TempDir;

use crate::support::repo::{self, Vault, WatchedBackend, fill, id_of, key_file, noise, tree};

/// A prune that moves everything that is not wholly used, and waits for nobody.
fn thorough() -> PruneOptions {
    let limits = PruneLimits { unused_percent_max: 0.0, ..PruneLimits::default() };
    PruneOptions { limits, wait_max: Duration::ZERO, ..PruneOptions::default() }
}

fn prune_with(vault: &Vault, options: &PruneOptions) -> Result<PruneReport> {
    prune::run(&vault.open()?, options, &Hears::nobody())
}

fn prune(vault: &Vault) -> PruneReport {
    prune_with(vault, &thorough()).unwrap()
}

fn forget(vault: &Vault, ids: &[SessionId]) {
    let repository = vault.open().unwrap();
    let what =
        ForgetChoice::Snapshots(Named { names: ids.iter().map(ToString::to_string).collect(), scope: Scope::Any });
    let plan = retention::plan(&repository, &what, 100).unwrap();
    assert_eq!(retention::execute(&repository, &plan, true, &Hears::nobody()).unwrap(), ids.len() as u64);
}

fn undelete(repository: &Arc<Repository>, id: &SessionId) -> Result<SessionId> {
    retention::undelete(repository, &(*id).into(), &Hears::nobody()).map(|(_, is)| is)
}

fn snapshots(vault: &Vault) -> Vec<SessionId> {
    vault.open().unwrap().list_snapshots().unwrap().snapshots.iter().map(|snapshot| snapshot.id).collect()
}

/// Writes a directory anew, so that half of it is as before.
fn change_half(directory: &Path, seed: &str) {
    for number in 0..6 {
        let path = directory.join(format!("models/{number}/weights.bin"));
        fs::write(path, noise(&format!("{seed} {number}"), 160_000)).unwrap();
    }
}

/// A vault with two snapshots of a directory of which half changed in between; returns both states.
fn two_snapshots() -> (Vault, Arc<MemoryBackend>, TempDir, [(SessionId, repo::Tree); 2]) {
    let (vault, memory) = Vault::in_memory();
    let directory = TempDir::new().unwrap();
    fill(directory.path(), "one");
    let first = (vault.backup(directory.path()).unwrap(), tree(directory.path()));
    change_half(directory.path(), "two");
    // Files that had just been written would be read again by the next backup, and noted anew.
    std::thread::sleep(Duration::from_millis(40));
    let second = (vault.backup(directory.path()).unwrap(), tree(directory.path()));
    (vault, memory, directory, [first, second])
}

/// Fails unless nothing is left but what the listed snapshots need, and what must stay for ever.
fn assert_tidy(vault: &Vault) {
    for prefix in ["sessions/", "tombstones/"] {
        assert_eq!(vault.keys_under(prefix), Vec::<String>::new());
    }
    let repository = vault.open().unwrap();
    for kind in BlobKind::ALL {
        let named: Vec<String> =
            repository.index().packs(kind).unwrap().iter().map(|pack| layout::pack(kind, &pack.id)).collect();
        let mut there = vault.keys_under(&layout::packs(kind));
        there.sort_by_key(|key| id_of::<PackId>(key).unwrap());
        assert_eq!(named, there, "{kind:?}");
    }
    let report = prune_with(vault, &PruneOptions { dry_run: true, ..thorough() }).unwrap();
    assert_eq!((report.plan.deleted.packs, report.plan.left.packs), (0, 0), "{report:?}");
    vault.assert_clean();
}

#[test]
fn a_prune_of_what_is_needed_changes_nothing() {
    let (vault, _, directory, all) = two_snapshots();
    let packs = vault.keys_under("packs/");
    let report = prune_with(&vault, &PruneOptions { limits: PruneLimits::default(), ..thorough() }).unwrap();
    assert_eq!((report.packs_deleted, report.chunks_moved, report.snapshots_removed), (0, 0, 0));
    assert_eq!(vault.keys_under("packs/"), packs);
    assert_tidy(&vault);
    for (id, expected) in &all {
        vault.assert_restores(*id, directory.path(), expected);
    }
}

#[test]
fn a_countersignature_goes_with_the_last_pack_that_it_speaks_of() {
    let (vault, _, _directory, [(first, _), (second, _)]) = two_snapshots();
    let check = || assert!(repo::check_with(&vault.open().unwrap(), ReadData::All).is_clean());
    let countersigned = || vault.keys_under("countersigned/").len();
    check();
    let all = countersigned();
    forget(&vault, &[first]);
    prune(&vault);
    // What it speaks of was moved in part; the rest is there.
    assert_eq!(countersigned(), all);
    check();
    let all = countersigned();
    let other = TempDir::new().unwrap();
    fill(other.path(), "another");
    let third = vault.backup(other.path()).unwrap();
    forget(&vault, &[second]);
    prune(&vault);
    assert!(countersigned() < all);
    let packs = vault.keys_under("packs/");
    let is_there = |pack: &PackId| packs.iter().any(|key| id_of::<PackId>(key).is_ok_and(|id| id == *pack));
    for object in vault.open().unwrap().countersignatures().unwrap() {
        assert!(object.packs.iter().any(|sound| is_there(&sound.pack)), "{object:?}");
    }
    assert_tidy(&vault);
    assert_eq!(snapshots(&vault), [third]);
}

#[test]
fn what_only_a_forgotten_snapshot_needs_goes_and_the_rest_stays() {
    let (vault, _, directory, [(first, _), (second, expected)]) = two_snapshots();
    forget(&vault, &[first]);
    assert_eq!(snapshots(&vault), [second]);
    vault.assert_clean();
    let before: u64 = vault.backend.list("packs/").unwrap().iter().map(|pack| pack.size).sum();
    let report = prune(&vault);
    let after: u64 = vault.backend.list("packs/").unwrap().iter().map(|pack| pack.size).sum();
    assert!(report.packs_deleted > 0 && report.chunks_moved > 0 && report.snapshots_removed == 1, "{report:?}");
    assert!(after < before * 8 / 10 && after <= report.plan.bytes_after * 11 / 10, "{before} {after} {report:?}");
    assert_eq!(report.plan.bytes_before, before);
    assert_tidy(&vault);
    vault.assert_restores(second, directory.path(), &expected);
    // The next backup of the same finds what was moved.
    let third = repo::backup_with(&vault.open().unwrap(), directory.path()).unwrap();
    assert_eq!(third.record.statistics.bytes_new, 0, "{:?}", third.record.statistics);
}

#[test]
fn nothing_is_left_of_a_repository_whose_snapshots_are_all_forgotten() {
    let (vault, _, directory, [(first, _), (second, _)]) = two_snapshots();
    forget(&vault, &[first, second]);
    prune(&vault);
    assert_tidy(&vault);
    assert_eq!(vault.keys_under("packs/").len() + vault.keys_under("index/").len(), 0);
    let third = vault.backup(directory.path()).unwrap();
    vault.assert_restores(third, directory.path(), &tree(directory.path()));
    // Later snapshots do not miss what was forgotten.
    let repository = vault.open().unwrap();
    assert!(repository.vanished(&repository.list_snapshots().unwrap()).unwrap().is_empty());
}

#[test]
fn a_forgotten_snapshot_comes_back_until_it_was_pruned() {
    let (vault, _, directory, [(first, expected), (second, _)]) = two_snapshots();
    forget(&vault, &[first]);
    let back = undelete(&vault.open().unwrap(), &first).unwrap();
    assert_eq!(snapshots(&vault), [back, second]);
    vault.assert_restores(back, directory.path(), &expected);
    forget(&vault, &[back]);
    let keep = PruneOptions { keep_trash: SignedDuration::from_hours(1), ..thorough() };
    assert_eq!(prune_with(&vault, &keep).unwrap().snapshots_removed, 0);
    let again = undelete(&vault.open().unwrap(), &back).unwrap();
    vault.assert_restores(again, directory.path(), &expected);
    forget(&vault, &[again]);
    prune(&vault);
    assert!(matches!(undelete(&vault.open().unwrap(), &again), Err(Error::NotFound(_))));
    assert_tidy(&vault);
}

#[test]
fn a_hold_keeps_what_it_is_on_from_forget_and_prune() {
    let (vault, _, directory, [(first, expected), (second, _)]) = two_snapshots();
    let repository = vault.open().unwrap();
    let (hold, _) = retention::hold(&repository, &first.to_string(), "audit", None).unwrap();
    let what = ForgetChoice::Snapshots(first.into());
    assert!(matches!(retention::plan(&repository, &what, 100), Err(Error::Refused(_))));
    // As if the hold and the forgetting had crossed.
    repository.forget(&first, "a race").unwrap();
    prune(&vault);
    let back = undelete(&vault.open().unwrap(), &first).unwrap();
    vault.assert_restores(back, directory.path(), &expected);
    assert_eq!(retention::release(&repository, &hold.to_string()).unwrap(), [hold]);
    forget(&vault, &[back]);
    prune(&vault);
    assert_eq!(snapshots(&vault), [second]);
    assert_eq!(vault.keys_under("notes/"), Vec::<String>::new());
    assert_tidy(&vault);
}

#[test]
fn a_writers_key_forgets_and_prunes_nothing() {
    let (vault, _, _directory, [(first, _), _]) = two_snapshots();
    let (_, writer) = key_file();
    vault.open().unwrap().add_key("cron", Role::Writer, &writer).unwrap();
    let repository = vault.open_with(&writer).unwrap();
    assert!(matches!(repository.forget(&first, "no"), Err(Error::Role { .. })));
    let pruned = prune::run(&repository, &thorough(), &Hears::nobody());
    assert!(matches!(pruned, Err(Error::Role { .. })));
    let (hold, _) = retention::hold(&repository, &first.to_string(), "mine", None).unwrap();
    assert!(matches!(retention::release(&repository, &hold.to_string()), Err(Error::Role { .. })));
    assert!(matches!(
        retention::tag(&repository, &first.to_string(), vec!["a".into()], false),
        Err(Error::Role { .. })
    ));
    assert_eq!(snapshots(&vault).len(), 2);
}

#[test]
fn a_record_of_forgetting_that_no_maintainer_signed_hides_nothing() {
    let (vault, memory, _directory, [(first, _), (second, _)]) = two_snapshots();
    forget(&vault, &[first]);
    let record = memory.read(&layout::forgotten(&first)).unwrap();
    memory.overwrite(&layout::forgotten(&second), record);
    let list = vault.open().unwrap().list_snapshots().unwrap();
    assert_eq!((list.snapshots.len(), list.trash.len(), list.doubts.count()), (1, 1, 1));
    // And nothing is pruned while that is not explained.
    assert!(matches!(prune_with(&vault, &thorough()), Err(Error::Refused(_))));
}

#[test]
fn a_session_that_runs_is_waited_for_and_an_old_one_is_ended() {
    let (vault, _, directory, [(first, _), (second, expected)]) = two_snapshots();
    let open = Session::begin(&vault.open().unwrap(), "test").unwrap();
    forget(&vault, &[first]);
    let waiting = prune(&vault);
    assert!(waiting.sessions_open == 1 && waiting.packs_waiting > 0 && waiting.packs_deleted == 0, "{waiting:?}");
    assert!(!vault.keys_under("tombstones/").is_empty());
    vault.assert_clean();
    let ending = prune_with(&vault, &PruneOptions { session_age_max: Duration::ZERO, ..thorough() }).unwrap();
    assert!(ending.sessions_voided == 1 && ending.packs_deleted > 0, "{ending:?}");
    assert!(matches!(open.close(&vault.open().unwrap(), "late"), Err(Error::Busy(_))));
    assert_tidy(&vault);
    vault.assert_restores(second, directory.path(), &expected);
}

/// A clock that is ahead of this machine's.
struct Ahead(SignedDuration);

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        Timestamp::now() + self.0
    }
}

/// Prunes some days from now.
fn prune_after(vault: &Vault, days: i64) -> PruneReport {
    let clock = Arc::new(Ahead(SignedDuration::from_hours(24 * days)));
    let options = OpenOptions { memory_limit: MEMORY_LIMIT_MIN, clock, ..OpenOptions::default() };
    let repository = Repository::open(Arc::clone(&vault.backend), &vault.credential, &options).unwrap();
    prune::run(&repository, &thorough(), &Hears::nobody()).unwrap()
}

/// A bucket may be moved to a server that answers otherwise than the one where the repository was made.
#[test]
fn a_backend_that_no_longer_keeps_what_is_there_loses_nothing_to_a_prune() {
    let (vault, _, directory, [(first, _), (second, expected)]) = two_snapshots();
    forget(&vault, &[first]);
    let careless = WatchedBackend::new(Arc::clone(&vault.backend)).before_create(|backend, key| {
        let _ = backend.remove(key);
    });
    let before = vault.keys_under("packs/");
    let refused = prune_with(&vault.through(Arc::new(careless)), &thorough());
    assert!(matches!(&refused, Err(Error::Refused(reason)) if reason.contains("create-only")), "{refused:?}");
    assert!(before.iter().all(|key| vault.keys_under("packs/").contains(key)));
    vault.assert_restores(second, directory.path(), &expected);
}

#[test]
fn where_creates_may_overwrite_what_is_marked_waits_for_longer_than_any_session() {
    let credential = Credential::KeyFile(new_secret());
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::default());
    repo::create_on(backend.as_ref(), &credential, false).unwrap();
    let vault = Vault { backend, credential, cache: None };
    let directory = TempDir::new().unwrap();
    fill(directory.path(), "one");
    let first = vault.backup(directory.path()).unwrap();
    let lost = fs::read(directory.path().join("models/0/weights.bin")).unwrap();
    change_half(directory.path(), "two");
    let second = vault.backup(directory.path()).unwrap();
    // A session that nobody may end, because nobody could tell whether it commits at that moment.
    let open = Session::begin(&vault.open().unwrap(), "test").unwrap();
    forget(&vault, &[first]);

    let packs = vault.keys_under("packs/").len();
    let marking = prune_after(&vault, 0);
    assert!(marking.by_grace && marking.packs_waiting > 0, "{marking:?}");
    assert_eq!((marking.packs_deleted, marking.snapshots_removed, marking.sessions_voided), (0, 0, 0), "{marking:?}");
    assert!(vault.keys_under("packs/").len() >= packs);
    // What a later backup finds in marked packs only is stored anew, so it may commit whenever it likes.
    fs::write(directory.path().join("models/0/weights.bin"), &lost).unwrap();
    let (third, expected) = (vault.backup(directory.path()).unwrap(), tree(directory.path()));
    let waiting = prune_after(&vault, 6);
    assert_eq!((waiting.packs_deleted, waiting.packs_waiting), (0, marking.packs_waiting), "{waiting:?}");
    open.close(&vault.open().unwrap(), "late").unwrap();

    let sweeping = prune_after(&vault, 8);
    assert_eq!((sweeping.packs_deleted, sweeping.packs_waiting), (marking.packs_waiting, 0), "{sweeping:?}");
    assert_eq!((sweeping.snapshots_removed, snapshots(&vault)), (1, vec![second, third]), "{sweeping:?}");
    assert_tidy(&vault);
    vault.assert_restores(third, directory.path(), &expected);
}

#[test]
fn what_a_marked_pack_is_needed_for_rescues_it() {
    let (vault, _, directory, [(first, expected), (second, _)]) = two_snapshots();
    // A clumsy mark that names everything, by a prune that died: nothing of it may go without being moved.
    let packs: Vec<PackId> = vault.keys_under("packs/").iter().map(|key| id_of(key).unwrap()).collect();
    let repository = vault.open().unwrap();
    session::bury(&repository, &packs).unwrap();
    prune(&vault);
    assert_tidy(&vault);
    vault.assert_restores(first, directory.path(), &expected);
    assert_eq!(snapshots(&vault), [first, second]);
}

#[test]
fn packs_that_a_dead_session_left_go_and_segments_are_merged() {
    let (vault, memory, directory, _) = two_snapshots();
    for number in 0..10 {
        fs::write(directory.path().join("log"), noise(&format!("log {number}"), 5000)).unwrap();
        vault.backup(directory.path()).unwrap();
    }
    for key in vault.keys_under("packs/data/").into_iter().take(1) {
        // A pack that nobody knows, of bytes that nobody can read.
        let orphan = PackId::from_bytes([7; 32]);
        memory.overwrite(&layout::pack(BlobKind::Data, &orphan), memory.read(&key).unwrap().slice(..100));
    }
    assert!(vault.keys_under("index/").len() > 20);
    prune(&vault);
    assert!(vault.keys_under("index/").len() <= 4, "{:?}", vault.keys_under("index/"));
    assert_tidy(&vault);
    assert_eq!(snapshots(&vault).len(), 12);
}

#[test]
fn damage_stops_a_prune_before_it_deletes() {
    for prefix in ["snapshots/", "index/data/", "packs/meta/", "packs/data/", "index/meta/"] {
        let (vault, memory, _directory, [(first, _), _]) = two_snapshots();
        forget(&vault, &[first]);
        let second = layout::snapshot(&snapshots(&vault)[0]);
        let keys = vault.keys_under(prefix).into_iter().filter(|key| prefix != "snapshots/" || *key == second);
        for key in keys {
            memory.overwrite(&key, Bytes::from_static(b"damaged"));
        }
        let before = vault.keys();
        let result = prune_with(&vault, &thorough());
        assert!(matches!(result, Err(Error::Refused(_))), "{prefix}: {result:?}");
        assert_eq!(vault.keys(), before, "{prefix}");
    }
}

#[test]
fn a_chunk_that_cannot_be_read_keeps_its_pack() {
    let (vault, memory, _directory, [(first, _), _]) = two_snapshots();
    for key in vault.keys_under("packs/data/") {
        let mut bytes = memory.read(&key).unwrap().to_vec();
        // All chunks, but not the directory at the end.
        let end = bytes.len() * 9 / 10;
        (200..end).step_by(64).for_each(|at| bytes[at] ^= 1);
        memory.overwrite(&key, bytes);
    }
    forget(&vault, &[first]);
    let before = vault.check(ReadData::Nothing).problems.len();
    let report = prune(&vault);
    assert!(report.packs_unreadable > 0 && !report.is_complete(), "{report:?}");
    assert_eq!(vault.check(ReadData::Nothing).problems.len(), before);
}

/// Returns the vault as one sees it for whom a prune runs from beginning to end just before the first read under a prefix.
fn pruned_before_reading(vault: &Vault, prefix: &'static str) -> Vault {
    let (other, is_done) = (vault.through(Arc::clone(&vault.backend)), AtomicBool::new(false));
    let watched = WatchedBackend::new(Arc::clone(&vault.backend)).before_read(move |_, key| {
        if key.starts_with(prefix) && !is_done.swap(true, Ordering::SeqCst) {
            let report = prune(&other);
            assert!(report.chunks_moved > 0 && report.packs_deleted > 0, "{report:?}");
        }
    });
    vault.through(Arc::new(watched))
}

#[test]
fn a_restore_and_a_check_beside_a_prune_find_what_it_has_moved() {
    for prefix in ["packs/data/", "packs/meta/"] {
        let (vault, _, directory, [(first, _), (second, expected)]) = two_snapshots();
        forget(&vault, &[first]);
        pruned_before_reading(&vault, prefix).assert_restores(second, directory.path(), &expected);

        let (vault, _, _, [(first, _), _]) = two_snapshots();
        forget(&vault, &[first]);
        let report = pruned_before_reading(&vault, prefix).check(ReadData::All);
        assert!(report.is_clean(), "{prefix}: {report:#?}");
    }
}

#[test]
fn what_is_forgotten_and_pruned_during_a_check_is_not_called_damage() {
    let (vault, _, _, [(first, _), _]) = two_snapshots();
    let (other, is_done) = (vault.through(Arc::clone(&vault.backend)), AtomicBool::new(false));
    let watched = WatchedBackend::new(Arc::clone(&vault.backend)).before_read(move |_, key| {
        if key.starts_with("packs/") && !is_done.swap(true, Ordering::SeqCst) {
            forget(&other, &[first]);
            prune(&other);
        }
    });
    let report = vault.through(Arc::new(watched)).check(ReadData::All);
    assert!(report.is_clean() && report.notes.iter().any(|note| note.contains("forgotten")), "{report:#?}");
    assert_eq!(report.hurt_snapshots, [], "{report:#?}");
}

#[test]
fn a_prune_that_is_stopped_at_any_write_is_finished_by_the_next() {
    let mut writes = 0;
    loop {
        let (vault, _, directory, [(first, _), (second, expected)]) = two_snapshots();
        forget(&vault, &[first]);
        let stopping = WatchedBackend::new(Arc::clone(&vault.backend)).stopping_after(writes, writes % 2 == 0);
        let stopped = prune_with(&vault.through(Arc::new(stopping)), &thorough());
        vault.assert_restores(second, directory.path(), &expected);
        vault.assert_clean();
        let ending = PruneOptions { session_age_max: Duration::ZERO, ..thorough() };
        prune_with(&vault, &ending).unwrap();
        prune_with(&vault, &ending).unwrap();
        assert_tidy(&vault);
        vault.assert_restores(second, directory.path(), &expected);
        if stopped.is_ok() {
            break;
        }
        writes += 1;
    }
    assert!(writes > 10, "{writes}");
}
