//! What went wrong during a backup, and what of it somebody had accepted.
//!
//! What must stay true: an accepted loss is told and recorded each time, with who answers for it; only a problem of the very
//! subject is accepted, and only until the day that was said.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use crate::format::deployment::Verdict;
use crate::format::snapshot::{AcceptedRecord, PROBLEMS_MAX, ProblemRecord, SourceRecord, UNREAD_MAX};
use crate::monitor::Monitor;
use crate::repository::Repository;
use crate::repository::notes::{Acceptance, Notes};
use crate::sync::lock;
use crate::units::MIB;

/// Bytes of paths and messages of problems that a record has room for.
const PROBLEM_BYTES_MAX: u64 = 4 * MIB;

/// Collects what went wrong: named up to a limit, counted beyond.
pub struct Problems {
    repository: Arc<Repository>,
    /// The source, as acceptances name it.
    group: String,
    monitor: Arc<dyn Monitor>,
    /// Losses that were accepted, by their subjects. Read when something is wrong: most nights need no request for it.
    acceptances: OnceLock<BTreeMap<String, Acceptance>>,
    found: Mutex<FoundProblems>,
}

/// What was collected.
#[derive(Default)]
pub struct FoundProblems {
    /// Problems, at most [`PROBLEMS_MAX`].
    pub named: Vec<ProblemRecord>,
    /// How many there are.
    pub count: u64,
    /// Problems that were accepted, at most [`PROBLEMS_MAX`].
    pub accepted: Vec<AcceptedRecord>,
    accepted_count: u64,
    bytes: u64,
    /// Paths of the tree that were not read, at most [`UNREAD_MAX`].
    pub unread: Vec<String>,
    /// How many there are.
    pub unread_count: u64,
    unread_bytes: u64,
}

/// How much a collection had at some moment.
#[derive(Clone, Copy)]
pub struct Mark {
    problems: u64,
    accepted: u64,
}

impl Problems {
    /// Begins a collection for a backup of a source.
    pub fn new(repository: &Arc<Repository>, source: &SourceRecord, monitor: Arc<dyn Monitor>) -> Self {
        Self {
            repository: Arc::clone(repository),
            group: source.group(),
            monitor,
            acceptances: OnceLock::new(),
            found: Mutex::default(),
        }
    }

    /// Returns the acceptance of a loss. What cannot be looked up is not accepted.
    fn acceptance(&self, subject: &str) -> Option<&Acceptance> {
        let read = || {
            let now = self.repository.clock().now();
            let notes = self.repository.list_notes().unwrap_or_else(|error| {
                self.monitor.warning(&format!("Whether losses were accepted is not known: {error}"));
                Notes::default()
            });
            let holds = |accepted: &Acceptance| accepted.group == self.group && !accepted.has_ended(now);
            let accepted = notes.acceptances.into_iter().filter(holds);
            accepted.map(|accepted| (accepted.subject.clone(), accepted)).collect()
        };
        self.acceptances.get_or_init(read).get(subject)
    }

    /// Takes in what is wrong with `path`, and tells it.
    pub fn add(&self, path: &str, message: &str) {
        let bytes = (path.len() + message.len()) as u64;
        let acceptance = self.acceptance(path);
        let mut found = lock(&self.found);
        if let Some(acceptance) = acceptance {
            let accepted = accepted_record(path, message, acceptance);
            let AcceptedRecord { reason, until, by, .. } = &accepted;
            self.monitor.note(&format!("{path}: {message} (accepted by {by} until {until}: {reason})"));
            found.accepted_count += 1;
            if found.accepted.len() < PROBLEMS_MAX && found.bytes + bytes <= PROBLEM_BYTES_MAX {
                found.bytes += bytes;
                found.accepted.push(accepted);
            }
            return;
        }
        self.monitor.problem(path, message);
        if found.named.len() < PROBLEMS_MAX && found.bytes + bytes <= PROBLEM_BYTES_MAX {
            found.bytes += bytes;
            found.named.push(ProblemRecord { path: path.to_owned(), message: message.to_owned() });
        }
        found.count += 1;
    }

    /// Remembers a path of the tree that is not read, and so may be there though the snapshot has nothing of it.
    pub fn leave_unread(&self, item: &[u8]) {
        let mut found = lock(&self.found);
        let bytes = item.len() as u64;
        if found.unread.len() < UNREAD_MAX && found.unread_bytes + bytes <= PROBLEM_BYTES_MAX {
            found.unread_bytes += bytes;
            found.unread.push(String::from_utf8_lossy(item).into_owned());
        }
        found.unread_count += 1;
    }

    /// Counts paths that are not read and have no room to be named.
    pub fn count_unread(&self, count: u64) {
        lock(&self.found).unread_count += count;
    }

    /// Returns how many problems there are that nobody accepted.
    pub fn count(&self) -> u64 {
        lock(&self.found).count
    }

    /// Returns where the collection stands now, to ask later how what came since makes a part look.
    pub fn mark(&self) -> Mark {
        let found = lock(&self.found);
        Mark { problems: found.count, accepted: found.accepted_count }
    }

    /// Returns how a part stands all of whose problems came since.
    pub fn verdict_since(&self, then: Mark) -> Verdict {
        match self.mark() {
            now if now.problems > then.problems => Verdict::NotOk,
            now if now.accepted > then.accepted => Verdict::Accepted,
            _ => Verdict::Ok,
        }
    }

    /// Returns all of it, and begins anew.
    pub fn take(&self) -> FoundProblems {
        std::mem::take(&mut *lock(&self.found))
    }
}

fn accepted_record(path: &str, message: &str, acceptance: &Acceptance) -> AcceptedRecord {
    AcceptedRecord {
        path: path.to_owned(),
        message: message.to_owned(),
        reason: acceptance.reason.clone(),
        until: acceptance.until,
        by: acceptance.by.label.clone(),
    }
}
