//! Checks that remember what was verified: they read what is due, and a memory that is lost or forged makes them read more.

use std::fs;
use std::path::PathBuf;

use mlvault::check::{Aged, CheckReport, ReadData, ReadReport};
use mlvault::format::key_slot::Role;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::repo::{LocalVault, check_with, fill, key_file};

/// Reads what no check has verified for a month.
const MONTHLY: ReadData = ReadData::Aged(Aged { age_seconds_max: 30 * 86_400, budget_bytes: None });

fn vault() -> LocalVault {
    let vault = LocalVault::create();
    for seed in ["one", "two"] {
        let directory = TempDir::new().unwrap();
        fill(directory.path(), seed);
        vault.vault.backup(directory.path()).unwrap();
    }
    vault
}

fn packs(vault: &LocalVault) -> u64 {
    vault.vault.keys_under("packs/").len() as u64
}

fn memory_file(vault: &LocalVault) -> PathBuf {
    let repository = vault.vault.open().unwrap();
    vault.vault.cache.as_ref().unwrap().join(format!("{}.verified", repository.id()))
}

fn read(report: &CheckReport) -> ReadReport {
    report.read.unwrap()
}

#[test]
fn what_was_verified_is_not_read_again_and_what_is_new_is() {
    let vault = vault();
    let all = packs(&vault);
    let first = vault.vault.check(MONTHLY);
    assert_eq!((first.is_clean(), read(&first).packs), (true, all));
    let second = read(&vault.vault.check(MONTHLY));
    let coverage = second.coverage.unwrap();
    assert_eq!((second.packs, coverage.packs_within, coverage.packs_never), (0, all, 0));
    assert_eq!(coverage.bytes_within, coverage.bytes_total);
    let directory = TempDir::new().unwrap();
    fill(directory.path(), "three");
    vault.vault.backup(directory.path()).unwrap();
    assert_eq!(read(&vault.vault.check(MONTHLY)).packs, packs(&vault) - all);
    // Any check that reads packs adds to what is remembered.
    fs::remove_file(memory_file(&vault)).unwrap();
    vault.vault.assert_clean();
    assert_eq!(read(&vault.vault.check(MONTHLY)).packs, 0);
}

#[test]
fn a_memory_that_is_lost_forged_or_of_a_lesser_key_does_not_count() {
    let vault = vault();
    let all = packs(&vault);
    assert_eq!(read(&vault.vault.check(MONTHLY)).packs, all);
    let sealed = fs::read(memory_file(&vault)).unwrap();
    let mut forged = sealed.clone();
    forged[100] ^= 1;
    for bytes in [&forged[..], b"", &sealed[..80]] {
        fs::write(memory_file(&vault), bytes).unwrap();
        let report = vault.vault.check(MONTHLY);
        assert_eq!(read(&report).packs, all);
        assert!(report.notes.iter().any(|note| note.contains("every pack is due")), "{:?}", report.notes);
    }

    fs::remove_file(memory_file(&vault)).unwrap();
    let (_, credential) = key_file();
    vault.vault.open().unwrap().add_key("auditor", Role::Auditor, &credential).unwrap();
    let as_auditor = || read(&check_with(&vault.vault.open_with(&credential).unwrap(), MONTHLY)).packs;
    assert_eq!((as_auditor(), as_auditor()), (all, 0));
    let opened = read(&vault.vault.check(MONTHLY)).packs;
    assert_eq!(opened, vault.vault.keys_under("packs/data/").len() as u64);
    assert_eq!(as_auditor(), 0);
}

#[test]
fn a_pack_that_was_found_bad_is_read_every_time() {
    let vault = vault();
    let victim = vault.path().join(vault.vault.keys_under("packs/data/").swap_remove(0));
    let mut bytes = fs::read(&victim).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(&victim).unwrap();
    fs::write(&victim, bytes).unwrap();
    for packs_read in [packs(&vault), 1, 1] {
        let report = vault.vault.check(MONTHLY);
        assert_eq!((report.problem_count, read(&report).packs), (1, packs_read));
        assert_eq!(read(&report).coverage.unwrap().packs_never, 1);
    }
}

#[test]
fn a_budget_spreads_a_check_over_many_nights() {
    let vault = vault();
    let run = || -> Value {
        let output = vault.program(&["check", "--max-age", "30d", "--budget", "1", "--json"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        report["report"]["read"].clone()
    };
    let all = packs(&vault);
    for night in 1..=all {
        let read = run();
        assert_eq!((read["packs"].as_u64(), read["coverage"]["packs_never"].as_u64()), (Some(1), Some(all - night)));
    }
    assert_eq!(run()["packs"], 0);
    let (code, told) = vault.run(&["check", "--max-age", "30d"]);
    assert!(code == 0 && told.contains(&format!("Verified within 30.0 days: {all} of {all} packs")), "{told}");
    assert_eq!(vault.run(&["check", "--budget", "1"]).0, 2);
}
