//! What checks and drills found is stored, and nobody is believed who cannot know it.
//!
//! Method: evidence is written with keys of every role, honestly and as a thief would, and read again.

use std::ops::ControlFlow;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use mlvault::backend::Backend;
use mlvault::backend::memory::MemoryBackend;
use mlvault::check::{ProblemKind, ReadData};
use mlvault::error::{Error, Fault};
use mlvault::format::evidence::Says;
use mlvault::format::key_slot::Role;
use mlvault::hears::Hears;
use mlvault::id::EvidenceId;
use mlvault::procedures::{Consent, repair_objects};
use mlvault::prune::{self, PruneOptions};
use mlvault::repository::evidence::{Doubt, Evidence};
use mlvault::repository::{Repository, layout};

use crate::support::repo::{Vault, clean_check, key_file, passed_drill};
use crate::support::thief::forge_evidence;

fn all(repository: &Repository) -> Vec<Evidence> {
    let mut all = Vec::new();
    let read = repository.list_evidence(&repository.list_notes().unwrap(), |evidence| {
        all.push(evidence);
        ControlFlow::Continue(())
    });
    let read = read.unwrap();
    assert!(read.damaged.is_empty() && read.foreign.is_empty() && read.unread == 0, "{read:?}");
    all
}

/// Opens a repository with a further key.
fn with_key(vault: &Vault, label: &str, role: Role) -> Arc<Repository> {
    let (_, credential) = key_file();
    vault.open().unwrap().add_key(label, role, &credential).unwrap();
    vault.open_with(&credential).unwrap()
}

#[test]
fn only_who_can_know_it_is_believed() {
    let (vault, _) = Vault::in_memory();
    for (says, believed) in [
        (clean_check(), [Role::Auditor, Role::Reader, Role::Maintainer].as_slice()),
        (Says::Drill(Box::new(passed_drill("production"))), &[Role::Reader, Role::Maintainer]),
    ] {
        for role in [Role::Writer, Role::Auditor, Role::Reader, Role::Maintainer] {
            let repository = with_key(&vault, &format!("{} {}", role.name(), believed.len()), role);
            let is_believed = believed.contains(&role);
            match repository.write_evidence(says.clone()) {
                Ok(_) => assert!(is_believed, "{role:?}"),
                Err(error) => assert!(!is_believed && matches!(error, Error::Role { .. }), "{role:?}: {error}"),
            }
            // A thief does not ask.
            let forged = forge_evidence(&repository, Timestamp::now(), says.clone());
            let found = all(&repository).into_iter().find(|evidence| evidence.id == forged).unwrap();
            assert_eq!(found.is_believed(), is_believed, "{role:?}");
            assert_eq!(found.doubt(), (!is_believed).then_some(Doubt::Role));
            assert_eq!((found.signer.role, &found.record.says), (role, &says));
        }
    }
    // That somebody writes nonsense is no damage.
    vault.assert_clean();
}

#[test]
fn what_a_removed_key_says_later_proves_nothing() {
    let (vault, _) = Vault::in_memory();
    let auditor = with_key(&vault, "auditor", Role::Auditor);
    auditor.write_evidence(clean_check()).unwrap();
    vault.open().unwrap().remove_key("auditor").unwrap();
    forge_evidence(&auditor, Timestamp::now(), clean_check());
    let doubts: Vec<_> = all(&vault.open().unwrap()).iter().map(Evidence::doubt).collect();
    assert_eq!(doubts, [Some(Doubt::KeyRemoved), None]);
}

#[test]
fn the_newest_comes_first_and_a_wrong_date_neither_counts_nor_hides_others() {
    let (vault, memory) = Vault::in_memory();
    let repository = vault.open().unwrap();
    let now = Timestamp::now();
    let forged = forge_evidence(&repository, now + SignedDuration::from_hours(24 * 365 * 50), clean_check());
    let old = forge_evidence(&repository, now - SignedDuration::from_hours(24 * 365), clean_check());
    let honest_old = forge_evidence(&repository, now - SignedDuration::from_hours(24 * 9), clean_check());
    memory.set_modified(&layout::evidence(&honest_old), now - SignedDuration::from_hours(24 * 9));
    std::thread::sleep(std::time::Duration::from_millis(5));
    let new = repository.write_evidence(clean_check()).unwrap();
    let found = all(&repository);
    let order: Vec<_> = found.iter().map(|evidence| evidence.id).collect();
    assert_eq!(order, [new, forged, honest_old, old]);
    let doubts: Vec<_> = found.iter().map(Evidence::doubt).collect();
    assert_eq!(doubts, [None, Some(Doubt::Time), None, Some(Doubt::Time)]);
}

#[test]
fn no_more_is_read_than_the_caller_wants() {
    let (vault, _) = Vault::in_memory();
    let repository = vault.open().unwrap();
    let ids: Vec<_> = (0..100).map(|_| repository.write_evidence(clean_check()).unwrap()).collect();
    let mut first = None;
    let read = repository.list_evidence(&repository.list_notes().unwrap(), |evidence| {
        first = Some(evidence.id);
        ControlFlow::Break(())
    });
    // Some of the same millisecond may come in any order.
    assert!(ids[50..].contains(&first.unwrap()));
    assert_eq!(read.unwrap().unread, 68);
    assert_eq!(all(&repository).len(), 100);
}

#[test]
fn a_damaged_one_is_named_moved_away_and_hides_no_other() {
    let (vault, memory) = Vault::in_memory();
    let repository = vault.open().unwrap();
    let bad = layout::evidence(&repository.write_evidence(clean_check()).unwrap());
    let good = repository.write_evidence(clean_check()).unwrap();
    let mut bytes = memory.read(&bad).unwrap().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    memory.overwrite(&bad, bytes);
    let mut found = Vec::new();
    let read = repository.list_evidence(&repository.list_notes().unwrap(), |evidence| {
        found.push(evidence.id);
        ControlFlow::Continue(())
    });
    assert_eq!((read.unwrap().damaged.count(), found), (1, vec![good]));
    let report = vault.check(ReadData::Nothing);
    assert_eq!(report.problem_count, 1);
    assert_eq!((report.problems[0].kind, report.problems[0].object.as_str()), (ProblemKind::Evidence, bad.as_str()));
    let repaired = repair_objects::run(&repository, &Consent::Given, &Hears::nobody()).unwrap();
    assert_eq!(repaired.report.moved.iter().map(|moved| &moved.object).collect::<Vec<_>>(), [&bad]);
    vault.assert_clean();
    assert_eq!(all(&repository).len(), 1);
}

#[test]
fn evidence_is_bound_to_its_name_and_its_repository() {
    let (vault, memory) = Vault::in_memory();
    let repository = vault.open().unwrap();
    let id = repository.write_evidence(clean_check()).unwrap();
    let bytes = memory.read(&layout::evidence(&id)).unwrap();
    let written_twice = memory.create(&layout::evidence(&id), bytes.clone()).unwrap_err();
    assert_eq!(written_twice.fault(), Some(Fault::AlreadyExists));
    let moved = layout::evidence(&EvidenceId::new(0, [7; 10]));
    memory.overwrite(&moved, bytes.clone());
    assert_eq!(vault.check(ReadData::Nothing).problems[0].object, moved);
    let (other, of_other) = Vault::in_memory();
    of_other.overwrite(&layout::evidence(&id), bytes);
    assert_eq!(other.check(ReadData::Nothing).problem_count, 1);
}

#[test]
fn a_prune_removes_no_evidence() {
    let memory: Arc<MemoryBackend> = Arc::default();
    let vault = Vault::create(Arc::clone(&memory) as Arc<dyn Backend>);
    let repository = vault.open().unwrap();
    let id = repository.write_evidence(Says::Drill(Box::new(passed_drill("production")))).unwrap();
    memory.set_modified(&layout::evidence(&id), Timestamp::now() - SignedDuration::from_hours(24 * 4000));
    prune::run(&repository, &PruneOptions::default(), &Hears::nobody()).unwrap();
    assert_eq!(all(&repository).len(), 1);
}
