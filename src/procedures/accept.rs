//! Accepting losses: what backups of a source lack and somebody answers for, so that a new loss is not lost among old ones.
//!
//! What must stay true:
//! - Only what the latest snapshot of the source lacks can be accepted, word for word: nobody accepts by a slip, or what has
//!   not happened yet.
//! - Nothing is accepted for ever, or without a reason.

use jiff::Timestamp;

use crate::error::{Error, Result};
use crate::format::note::Says;
use crate::id::NoteId;
use crate::repository::Repository;
use crate::repository::snapshots::Snapshot;

/// Subjects that a message names.
const NAMED_MAX: usize = 20;

/// What is to be accepted.
#[derive(Debug, Clone)]
pub enum Losses {
    /// Everything that the snapshot lacks.
    All,
    /// These subjects.
    Named(Vec<String>),
}

/// Accepts losses of the source of a snapshot, which must lack them. Returns each subject with its note.
pub fn accept(
    repository: &Repository,
    latest: &Snapshot,
    losses: Losses,
    reason: &str,
    until: Timestamp,
) -> Result<Vec<(String, NoteId)>> {
    if reason.trim().is_empty() {
        return Err(Error::Invalid("An acceptance needs a reason".to_owned()));
    }
    if until <= repository.clock().now() {
        return Err(Error::Invalid("The end of the acceptance is in the past".to_owned()));
    }
    let (group, id) = (latest.record.source.group(), latest.id.short());
    let lacking = subjects(latest);
    if latest.record.problem_count > latest.record.problems.len() as u64 {
        return Err(Error::Refused(format!(
            "The snapshot {id} has more problems than it names: mend some of them first"
        )));
    }
    let wanted = match losses {
        Losses::All if lacking.is_empty() => return Err(Error::NotFound(format!("The snapshot {id} lacks nothing"))),
        Losses::All => lacking,
        Losses::Named(named) => {
            if let Some(unknown) = named.iter().find(|subject| !lacking.contains(subject)) {
                return Err(not_lacking(&id, unknown, &lacking));
            }
            named
        }
    };
    wanted
        .into_iter()
        .map(|subject| {
            let says =
                Says::AcceptLoss { group: group.clone(), subject: subject.clone(), reason: reason.to_owned(), until };
            Ok((subject, repository.write_note(says)?))
        })
        .collect()
}

/// Returns what a snapshot lacks, whether that was accepted or not.
fn subjects(snapshot: &Snapshot) -> Vec<String> {
    let problems = snapshot.record.problems.iter().map(|problem| &problem.path);
    let mut subjects: Vec<_> =
        problems.chain(snapshot.record.accepted.iter().map(|accepted| &accepted.path)).cloned().collect();
    subjects.sort();
    subjects.dedup();
    subjects
}

fn not_lacking(id: &str, unknown: &str, lacking: &[String]) -> Error {
    let mut known = lacking.iter().take(NAMED_MAX).map(|subject| format!("{subject:?}")).collect::<Vec<_>>().join(", ");
    if lacking.len() > NAMED_MAX {
        known += " and more";
    }
    let known = if known.is_empty() { "it lacks nothing".to_owned() } else { format!("it lacks {known}") };
    Error::NotFound(format!("The latest snapshot {id} does not lack {unknown:?}: {known}"))
}

/// Withdraws acceptances, named by their ids or prefixes of them that fit one. Returns which.
pub fn withdraw(repository: &Repository, names: &[String]) -> Result<Vec<NoteId>> {
    let notes = repository.list_notes()?;
    let find = |name: &String| {
        let mut found = notes.acceptances.iter().filter(|accepted| accepted.id.to_string().starts_with(name));
        match (name.is_empty(), found.next(), found.next()) {
            (false, Some(accepted), None) => Ok(accepted.id),
            (false, Some(_), Some(_)) => {
                Err(Error::NotFound(format!("Several acceptances begin with {name:?}; give more digits")))
            }
            _ => Err(Error::NotFound(format!("There is no acceptance {name:?}; `accept list` tells which there are"))),
        }
    };
    let found = names.iter().map(find).collect::<Result<Vec<_>>>()?;
    for acceptance in &found {
        repository.write_note(Says::WithdrawAcceptance { acceptance: *acceptance })?;
    }
    Ok(found)
}
