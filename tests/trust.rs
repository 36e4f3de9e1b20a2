//! Whom a writer relies on, and what it costs not to rely on somebody: it cannot open content, so it builds on what it
//! wrote itself, on maintainers, on keys that a maintainer put on one footing with it, and on what somebody who can open
//! content has countersigned.
//!
//! Method: one key stores a directory; then another backs up the same directory, and the chunks that it stores anew are
//! counted: none if it relies on the first, all of them if not.

use std::sync::Arc;

use mlvault::backup::{self, BackupOptions, BackupSummary};
use mlvault::check::ReadData;
use mlvault::crypto::passphrase::Credential;
use mlvault::error::Error;
use mlvault::format::key_slot::Role;
use mlvault::format::note::{self, NoteRecord, Says};
use mlvault::format::object::{self, ObjectKind};
use mlvault::hears::Hears;
use mlvault::id::{NoteId, SlotId};
use mlvault::repository::{Repository, layout};
use tempfile::TempDir;

use crate::support::repo::{Vault, backup_with, check_with, fill, key_file, tree};

struct Scene {
    vault: Vault,
    directory: TempDir,
}

impl Scene {
    fn new() -> Self {
        let (vault, _) = Vault::in_memory();
        let directory = TempDir::new().unwrap();
        fill(directory.path(), "trust");
        Self { vault, directory }
    }

    fn add(&self, label: &str, role: Role) -> Credential {
        let (_, credential) = key_file();
        self.vault.open().unwrap().add_key(label, role, &credential).unwrap();
        credential
    }

    fn open(&self, key: &Credential) -> Arc<Repository> {
        self.vault.open_with(key).unwrap()
    }

    /// Backs up with a key, reading every file; returns how many chunks were stored.
    fn stored_by(&self, key: &Credential) -> u64 {
        let options = BackupOptions { force: true, ..BackupOptions::of_paths([self.directory.path()]) };
        let summary = backup::run(&self.open(key), &options, &Hears::nobody()).unwrap();
        self.assert_restores(&summary);
        summary.record.statistics.chunks_new
    }

    /// As [`Scene::stored_by`], with a key that has stored nothing before.
    fn stored_by_a_newcomer(&self, label: &str) -> u64 {
        self.stored_by(&self.add(label, Role::Writer))
    }

    fn back_up(&self, key: &Credential) -> BackupSummary {
        let summary = backup_with(&self.open(key), self.directory.path()).unwrap();
        self.assert_restores(&summary);
        summary
    }

    fn assert_restores(&self, summary: &BackupSummary) {
        let expected = tree(self.directory.path());
        self.vault.assert_restores(summary.snapshot.unwrap(), self.directory.path(), &expected);
    }
}

fn names(labels: &[&str]) -> Vec<String> {
    labels.iter().map(|label| (*label).to_owned()).collect()
}

#[test]
fn a_writer_relies_on_itself_and_on_maintainers() {
    let scene = Scene::new();
    let all = scene.stored_by(&scene.vault.credential);
    assert!(all > 100);
    let writer = scene.add("writer", Role::Writer);
    assert_eq!(scene.stored_by(&writer), 0);
    let own = Scene::new();
    let writer = own.add("writer", Role::Writer);
    let stored = own.stored_by(&writer);
    assert!(stored > 100);
    assert_eq!(own.stored_by(&writer), 0);
    // A maintainer takes no more on trust: to open all of it first would cost more than to store it again.
    assert_eq!(own.stored_by(&own.vault.credential), stored);
}

#[test]
fn a_writer_relies_on_another_only_once_somebody_opened_what_it_stored() {
    let scene = Scene::new();
    let all = scene.stored_by_a_newcomer("first");
    assert_eq!(scene.stored_by_a_newcomer("second"), all);
    // Neither can an auditor open anything, nor is everything opened by a check that reads no data.
    assert!(check_with(&scene.open(&scene.add("auditor", Role::Auditor)), ReadData::All).is_clean());
    let reader = scene.add("reader", Role::Reader);
    assert!(check_with(&scene.open(&reader), ReadData::Nothing).is_clean());
    assert_eq!(scene.stored_by_a_newcomer("third"), all);
    assert!(check_with(&scene.open(&reader), ReadData::All).is_clean());
    assert_eq!(scene.stored_by_a_newcomer("fourth"), 0);
    scene.vault.assert_clean();
}

#[test]
fn keys_that_trust_each_other_deduplicate_until_that_is_taken_back() {
    let scene = Scene::new();
    let [first, second] = ["first", "second"].map(|label| scene.add(label, Role::Writer));
    let all = scene.stored_by(&first);
    let maintainer = scene.vault.open().unwrap();
    let trusted = maintainer.trust_keys(&names(&["first", "second"])).unwrap();
    assert_eq!(trusted.iter().map(|key| key.label.as_str()).collect::<Vec<_>>(), ["first", "second"]);
    assert_eq!(scene.stored_by(&second), 0);
    assert_eq!(scene.stored_by_a_newcomer("third"), all);
    maintainer.distrust_keys(&names(&["second"])).unwrap();
    assert_eq!(scene.stored_by(&second), all);
    // Trust is not inherited: who trusts two keys has not made them trust each other.
    let other = Scene::new();
    let [first, _, third] = ["first", "second", "third"].map(|label| other.add(label, Role::Writer));
    let all = other.stored_by(&first);
    let maintainer = other.vault.open().unwrap();
    maintainer.trust_keys(&names(&["first", "second"])).unwrap();
    maintainer.trust_keys(&names(&["second", "third"])).unwrap();
    assert_eq!(other.stored_by(&third), all);
    other.vault.assert_clean();
}

#[test]
fn only_a_maintainer_says_who_trusts_whom_and_only_of_writers() {
    let scene = Scene::new();
    let first = scene.add("first", Role::Writer);
    scene.add("second", Role::Writer);
    scene.add("reader", Role::Reader);
    let both = names(&["first", "second"]);
    let writer = scene.open(&first);
    assert!(matches!(writer.trust_keys(&both), Err(Error::Role { .. })));
    assert!(matches!(writer.distrust_keys(&both), Err(Error::Role { .. })));
    let maintainer = scene.vault.open().unwrap();
    for wrong in [&["first"][..], &["first", "first"], &["first", "reader"], &["first", "test"]] {
        assert!(matches!(maintainer.trust_keys(&names(wrong)), Err(Error::Invalid(_))), "{wrong:?}");
    }
    assert!(matches!(maintainer.trust_keys(&names(&["first", "nobody"])), Err(Error::NotFound(_))));
    assert!(scene.vault.keys_under("notes/").is_empty());
    // With a program of their own, a writer can sign such a note; it does not count.
    let all = scene.stored_by(&first);
    let slots: Vec<SlotId> =
        maintainer.list_keys().unwrap().into_iter().map(|slot| slot.certificate.unwrap().slot).collect();
    let id = NoteId::new(0, [0; 10]);
    let record = NoteRecord { at: jiff::Timestamp::UNIX_EPOCH, says: Says::TrustKeys { slots } };
    let body = note::encode(writer.id(), id, &record, &writer.access().signer());
    let sealed = object::seal(writer.keys(), writer.id(), ObjectKind::Note, &id.to_string(), &body);
    writer.backend().create(&layout::note(&id), sealed.into()).unwrap();
    assert_eq!(maintainer.list_notes().unwrap().damaged.count(), 1);
    assert_eq!(scene.stored_by_a_newcomer("third"), all);
}

#[test]
fn what_a_removed_key_wrote_counts_only_once_it_is_opened_or_the_key_is_put_back() {
    let scene = Scene::new();
    let gone = scene.add("gone", Role::Maintainer);
    let all = scene.stored_by(&gone);
    assert_eq!(scene.stored_by_a_newcomer("before"), 0);
    let maintainer = scene.vault.open().unwrap();
    let slot = maintainer.export_key("gone").unwrap();
    let removed = maintainer.remove_key("gone").unwrap();
    assert_eq!(scene.stored_by_a_newcomer("after"), all);
    // Who may write into the bucket can put the slot back; that alone changes nothing.
    scene.vault.backend.create(&layout::key_slot(&removed.slot), slot.clone()).unwrap();
    assert_eq!(scene.stored_by_a_newcomer("after all"), all);
    scene.vault.backend.remove(&layout::key_slot(&removed.slot)).unwrap();
    maintainer.import_key(slot).unwrap();
    assert_eq!(scene.stored_by_a_newcomer("again"), 0);
    maintainer.remove_key("gone").unwrap();
    assert_eq!(scene.stored_by_a_newcomer("after again"), all);
    scene.vault.assert_clean();
    assert_eq!(scene.stored_by_a_newcomer("opened"), 0);
}

#[test]
fn a_removed_writer_leaves_those_whom_it_was_trusted_with() {
    let scene = Scene::new();
    let [first, second] = ["first", "second"].map(|label| scene.add(label, Role::Writer));
    let all = scene.stored_by(&first);
    let maintainer = scene.vault.open().unwrap();
    maintainer.trust_keys(&names(&["first", "second"])).unwrap();
    maintainer.remove_key("first").unwrap();
    assert_eq!(scene.stored_by(&second), all);
}

#[test]
fn a_writer_builds_only_on_snapshots_of_those_whom_it_trusts() {
    let scene = Scene::new();
    let [first, second] = ["first", "second"].map(|label| scene.add(label, Role::Writer));
    let parent = |summary: &BackupSummary| summary.record.parent;
    let of_first = scene.back_up(&first);
    assert_eq!(parent(&of_first), None);
    // A stranger's snapshot is no parent, though it is the newest: all files are read again.
    let of_second = scene.back_up(&second);
    assert_eq!((parent(&of_second), of_second.record.statistics.files_unchanged), (None, 0));
    let again = scene.back_up(&first);
    assert_eq!(parent(&again), of_first.snapshot);
    assert!(again.record.statistics.files_unchanged > 0);
    scene.vault.open().unwrap().trust_keys(&names(&["first", "second"])).unwrap();
    let trusting = scene.back_up(&second);
    assert_eq!(parent(&trusting), again.snapshot);
    let of_maintainer = scene.back_up(&scene.vault.credential);
    let third = scene.add("third", Role::Writer);
    let newcomer = scene.back_up(&third);
    assert_eq!((parent(&newcomer), newcomer.record.statistics.chunks_new), (of_maintainer.snapshot, 0));
}
