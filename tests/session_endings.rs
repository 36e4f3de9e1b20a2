//! Every way in which a session can end, and that none of them leaves a prune waiting.
//!
//! Method: sessions are begun and ended as operations do it; what stands under the session's name afterwards, and how many
//! sessions a prune that does not wait finds open, is compared with what that ending promises.

use std::sync::Arc;
use std::time::Duration;

use mlvault::backend::Backend;
use mlvault::backup::{self, BackupOptions};
use mlvault::cancel::Cancel;
use mlvault::chunks::writing_session::WritingSession;
use mlvault::compress::Encoder;
use mlvault::error::Error;
use mlvault::format::BlobKind;
use mlvault::format::key_slot::Role;
use mlvault::hears::Hears;
use mlvault::id::{ChunkId, SessionId};
use mlvault::prune;
use mlvault::repository::{Repository, layout, session};
use tempfile::TempDir;

use crate::support::cli::Runner;
use crate::support::repo::{Vault, fill, key_file};

/// Prunes without waiting, and ends sessions of this age.
fn prune(vault: &Vault, session_age_max: Duration) -> prune::PruneReport {
    let options = prune::PruneOptions { wait_max: Duration::ZERO, session_age_max, ..prune::PruneOptions::default() };
    prune::run(&vault.open().unwrap(), &options, &Hears::nobody()).unwrap()
}

/// How many sessions a prune that waits for nobody still finds open.
fn open_sessions(vault: &Vault) -> u64 {
    prune(vault, Duration::from_secs(3600)).sessions_open
}

/// Begins a session and stores a chunk in it.
fn begin(repository: &Arc<Repository>) -> (WritingSession, ChunkId) {
    let session = WritingSession::begin(repository, "test", &Hears::nobody()).unwrap();
    let (chunk, _) = session.writer().write(&mut Encoder::default(), BlobKind::Data, b"written in a session").unwrap();
    (session, chunk)
}

fn is_indexed(vault: &Vault, chunk: &ChunkId) -> bool {
    !vault.open().unwrap().index().locate(BlobKind::Data, chunk).unwrap().is_empty()
}

fn is_void(vault: &Vault, id: SessionId) -> bool {
    let list = vault.open().unwrap().list_snapshots().unwrap();
    assert!(list.damaged.is_empty(), "{:?}", list.damaged);
    list.voids.contains(&id)
}

#[test]
fn a_session_that_commits_is_a_snapshot() {
    let (vault, _) = Vault::in_memory();
    let directory = TempDir::new().unwrap();
    fill(directory.path(), "one");
    let first = vault.backup(directory.path()).unwrap();
    let repository = vault.open().unwrap();
    let record = repository.find_snapshot(&first.to_string()).unwrap().record;
    let (session, _) = begin(&repository);
    let (session, written) = session.finish().unwrap();
    assert_eq!(written.chunks, 1);
    let second = session.commit(record).unwrap();
    let ids: Vec<_> = vault.open().unwrap().list_snapshots().unwrap().snapshots.iter().map(|it| it.id).collect();
    assert_eq!(ids, [first, second]);
    assert_eq!(open_sessions(&vault), 0);
}

#[test]
fn a_session_that_is_closed_is_void_and_what_it_wrote_is_indexed() {
    let (vault, _) = Vault::in_memory();
    let (session, chunk) = begin(&vault.open().unwrap());
    let id = session.id();
    session.finish().unwrap().0.close("done").unwrap();
    assert!(is_void(&vault, id) && is_indexed(&vault, &chunk));
    assert_eq!(open_sessions(&vault), 0);
}

#[test]
fn a_session_that_is_dropped_is_closed_before_and_after_it_is_finished() {
    for is_finished in [false, true] {
        let (vault, _) = Vault::in_memory();
        let (session, chunk) = begin(&vault.open().unwrap());
        let id = session.id();
        match is_finished {
            true => drop(session.finish().unwrap()),
            false => drop(session),
        }
        assert!(is_void(&vault, id) && is_indexed(&vault, &chunk), "finished: {is_finished}");
        assert_eq!(open_sessions(&vault), 0);
    }
}

#[test]
fn a_writers_key_closes_its_own_session() {
    let (vault, _) = Vault::in_memory();
    let (_, credential) = key_file();
    vault.open().unwrap().add_key("cron", Role::Writer, &credential).unwrap();
    let (session, _) = begin(&vault.open_with(&credential).unwrap());
    let id = session.id();
    drop(session);
    assert!(is_void(&vault, id));
    assert_eq!(open_sessions(&vault), 0);
}

#[test]
fn a_session_that_was_voided_from_outside_neither_commits_nor_closes() {
    let (vault, _) = Vault::in_memory();
    let directory = TempDir::new().unwrap();
    fill(directory.path(), "one");
    let snapshot = vault.backup(directory.path()).unwrap();
    let repository = vault.open().unwrap();
    let record = repository.find_snapshot(&snapshot.to_string()).unwrap().record;
    for commits in [true, false] {
        let (session, _) = begin(&repository);
        let id = session.id();
        session::void(&vault.open().unwrap(), &id, "too old").unwrap();
        let finished = session.finish().unwrap().0;
        let refused = if commits { finished.commit(record.clone()).map(drop) } else { finished.close("done") };
        assert!(matches!(refused, Err(Error::Busy(_))), "{refused:?}");
        assert!(is_void(&vault, id));
    }
}

#[test]
fn a_session_whose_backend_is_gone_stays_open_until_a_prune_ends_it() {
    let (vault, memory) = Vault::in_memory();
    let (session, _) = begin(&vault.open().unwrap());
    let id = session.id();
    // As if the process had been killed: it is forgotten without being dropped.
    std::mem::forget(session);
    assert_eq!(open_sessions(&vault), 1);
    let report = prune(&vault, Duration::ZERO);
    assert_eq!((report.sessions_open, report.sessions_voided), (0, 1));
    assert!(memory.read(&layout::snapshot(&id)).is_ok() && is_void(&vault, id));
}

#[test]
fn a_session_that_is_interrupted_is_closed() {
    let (vault, _) = Vault::in_memory();
    let directory = TempDir::new().unwrap();
    fill(directory.path(), "one");
    let cancel = Cancel::default();
    cancel.flag().store(true, std::sync::atomic::Ordering::Relaxed);
    let options = BackupOptions::of_paths([directory.path()]);
    let interrupted = backup::run(&vault.open().unwrap(), &options, &Hears { cancel, ..Hears::nobody() });
    assert!(matches!(interrupted, Err(Error::Interrupted)), "{interrupted:?}");
    assert_eq!(open_sessions(&vault), 0);
}

#[test]
fn a_backup_whose_command_fails_keeps_no_prune_waiting() {
    let runner = Runner::with_repository();
    runner.backup();
    let second = runner.backup();
    runner.run(["backup", "--command", "exit 3", "--name", "x"]).expect(1);
    runner.run(["forget", &second, "--force"]).expect(0);
    let pruned = runner.run(["--json", "prune", "--wait", "1s"]).expect(0).json();
    assert_eq!((&pruned["report"]["sessions_open"], &pruned["report"]["packs_waiting"]), (&0.into(), &0.into()));
}

#[test]
fn a_backup_of_what_cannot_be_found_opens_no_session() {
    let runner = Runner::with_repository();
    runner.run(["backup", "no-such-path"]).expect(1);
    runner.run(["backup", "--exclude", "[", "."]).expect(2);
    let announced = std::fs::read_dir(runner.path("repo").join("sessions")).map_or(0, Iterator::count);
    assert_eq!(announced, 0);
}

#[test]
fn a_prune_says_at_once_for_whom_it_waits_and_what_can_be_done() {
    let runner = Runner::with_repository();
    let extra = runner.write("extra", "needed by nobody soon");
    let forgotten = runner.backup();
    std::fs::remove_file(extra).unwrap();
    runner.backup();
    runner.run(["forget", &forgotten, "--force"]).expect(0);
    let session = session::Session::begin(&runner.open(), "backup").unwrap();
    for arguments in [["prune", "--wait", "0s"], ["prune", "--wait", "1s"], ["prune", "--wait=1h", "--dry-run"]] {
        let said = runner.run(arguments).stderr;
        for part in [&session.id.short(), "backup on", &session::host_name(), "since 2", "--session-age", "--wait 0s"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert_eq!(said.contains("waits for up to 1 s"), arguments[2] == "1s", "{said}");
    }
}

#[test]
fn a_backup_that_fails_says_what_is_kept_of_it() {
    let runner = Runner::with_repository();
    let line = "head -c 3000000 /dev/urandom; exit 3";
    let said = runner.run(["backup", "--command", line, "--name", "x"]).expect(1).stderr;
    assert!(said.contains("are kept, and the next backup finds them"), "{said}");
    let said = runner.run(["backup", "--command", "exit 3", "--name", "x"]).expect(1).stderr;
    assert!(!said.contains("kept"), "{said}");
}
