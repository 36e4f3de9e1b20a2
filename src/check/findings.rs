//! What a check found: problems with the files that they hurt, notes, and numbers.
//!
//! What must stay true: lists are bounded and what does not fit is counted; what is known of lost chunks is complete.
//! What may only look like damage, because a prune runs or was stopped, is suspected: it becomes a problem once something
//! is lost by it in a snapshot that is listed when the check ends.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use serde::Serialize;

use crate::id::{ChunkId, PackId, SessionId};
use crate::monitor::Monitor;
use crate::sync::{self, lock};

/// Problems that a report names one by one.
const PROBLEMS_MAX: usize = 1000;
/// Notes that a report holds.
const NOTES_MAX: usize = 100;
/// Files that a report names for one problem.
pub const HURTS_MAX: usize = 100;

/// What a problem is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// A key slot cannot be read.
    KeySlot,
    /// A snapshot cannot be read, or is not signed by who may.
    Snapshot,
    /// A snapshot that later ones saw is gone.
    Vanished,
    /// A note cannot be read, or is not signed by who may.
    Note,
    /// The announcement of a session cannot be read.
    Session,
    /// A tombstone cannot be read, or is not signed by who may.
    Tombstone,
    /// A countersignature cannot be read, or is not signed by who may.
    Countersignature,
    /// Evidence cannot be read, or is not signed with a key of the repository.
    Evidence,
    /// The plan of a sharded backup, or what came of a shard, cannot be read.
    Plan,
    /// An index segment cannot be read, or says of a pack what is not so.
    Segment,
    /// A pack is missing or damaged.
    Pack,
    /// Trees refer to chunks that are in no pack of the index.
    MissingChunks,
    /// A tree node says something wrong.
    Tree,
}

/// Damage, and what it costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What it is about.
    pub kind: ProblemKind,
    /// The object's key in the repository, or what else names it.
    pub object: String,
    /// What is wrong with it.
    pub reason: String,
    /// What cannot be restored because of it, at most `HURTS_MAX`.
    pub hurts: Vec<Hurt>,
    /// How many entries of how many snapshots cannot be restored because of it.
    pub hurt_count: u64,
}

/// Something that cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Hurt {
    /// The snapshot.
    pub snapshot: SessionId,
    /// The component.
    pub component: String,
    /// The file; if there are more entries, the first of them.
    pub path: String,
    /// Entries from `path` on that are lost: more than one where a part of the tree is.
    pub entries: u64,
}

/// A snapshot that cannot be restored in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HurtSnapshot {
    /// The snapshot.
    pub id: SessionId,
    /// How many of its entries are lost, wholly or in part.
    pub entries: u64,
}

/// What was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Key slots.
    pub key_slots: u64,
    /// Readable snapshots.
    pub snapshots: u64,
    /// Sessions.
    pub sessions: u64,
    /// Sessions that ended neither as a snapshot nor void: they run, or were interrupted.
    pub open_sessions: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Readable index segments.
    pub segments: u64,
    /// Packs that segments name.
    pub packs: u64,
    /// Stored packs that no segment names.
    pub unreferenced_packs: u64,
    /// Bytes of those.
    pub unreferenced_bytes: u64,
    /// Tree nodes read: each once, but for those above damage, which are read for every snapshot that it hurts.
    pub tree_nodes: u64,
    /// References from those nodes to chunks of files.
    pub chunk_references: u64,
}

/// What was read whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ReadReport {
    /// Packs read.
    pub packs: u64,
    /// Packs that are there.
    pub packs_total: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Whether the chunks of data packs were opened; else these packs were compared with their names only.
    pub content_opened: bool,
    /// Sound packs that writers may rely on from now on, whoever wrote them.
    pub packs_countersigned: u64,
    /// What this check and earlier ones verified together, if an age was given.
    pub coverage: Option<Coverage>,
}

/// How much was verified how long ago, as far as is remembered; after this check.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// The age that was asked for.
    pub age_seconds_max: u64,
    /// Packs that were verified within this age.
    pub packs_within: u64,
    /// Their bytes.
    pub bytes_within: u64,
    /// Bytes of all packs that are there.
    pub bytes_total: u64,
    /// Packs that were never verified, or are bad.
    pub packs_never: u64,
    /// Age of the oldest verification that counts, of all packs that were ever verified.
    pub oldest_seconds: Option<u64>,
}

/// The result of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Damage, at most a thousand problems.
    pub problems: Vec<Problem>,
    /// How many problems there are.
    pub problem_count: u64,
    /// Snapshots that cannot be restored in full.
    pub hurt_snapshots: Vec<HurtSnapshot>,
    /// What is worth knowing and no damage, at most a hundred.
    pub notes: Vec<String>,
    /// How many notes there are.
    pub note_count: u64,
    /// What was looked at.
    pub counts: Counts,
    /// What was read whole, if that was asked for.
    pub read: Option<ReadReport>,
}

impl CheckReport {
    /// Returns whether no damage was found.
    pub fn is_clean(&self) -> bool {
        self.problem_count == 0
    }
}

/// What a lost entry can be laid at the door of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A pack.
    Pack(PackId),
    /// A tree node.
    Node(ChunkId),
    /// Chunks that no segment names.
    MissingChunks,
}

/// Which chunks of a bad pack cannot be had from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// All.
    All,
    /// These.
    Chunks(HashSet<ChunkId>),
}

/// Collects findings. Calls may come from many threads.
pub struct Findings<'a> {
    monitor: &'a dyn Monitor,
    state: Mutex<State>,
    losses: RwLock<HashMap<PackId, Loss>>,
}

#[derive(Default)]
struct State {
    report: CheckReport,
    hurt_snapshots: BTreeMap<SessionId, u64>,
    subjects: HashMap<Subject, Standing>,
}

/// What is held against a subject.
enum Standing {
    /// Only what is lost by it, if anything is, is wrong with it.
    Suspected(Suspicion, Hurts),
    /// It is damaged.
    Damaged(Option<usize>, Hurts),
}

/// A problem that there is if something is lost by it.
struct Suspicion {
    kind: ProblemKind,
    object: String,
    reason: String,
}

/// What is lost by a subject.
#[derive(Default)]
struct Hurts {
    named: Vec<Hurt>,
    entries: BTreeMap<SessionId, u64>,
}

impl Hurts {
    fn add(&mut self, hurt: &Hurt) {
        *self.entries.entry(hurt.snapshot).or_default() += hurt.entries;
        if self.named.len() < HURTS_MAX {
            self.named.push(hurt.clone());
        }
    }

    fn retain(&mut self, is_listed: &dyn Fn(&SessionId) -> bool) {
        self.entries.retain(|snapshot, _| is_listed(snapshot));
        self.named.retain(|hurt| is_listed(&hurt.snapshot));
        self.named.sort();
    }
}

impl<'a> Findings<'a> {
    /// Starts with nothing found.
    pub fn new(monitor: &'a dyn Monitor) -> Self {
        Self { monitor, state: Mutex::default(), losses: RwLock::default() }
    }

    /// Adds a problem with an object of the repository.
    pub fn problem(&self, kind: ProblemKind, object: &str, reason: &str) {
        add_problem(&mut self.state().report, kind, object, reason);
        self.monitor.problem(object, reason);
    }

    /// Adds a problem that lost entries will be laid to. A subject has one problem; the first reason stays.
    pub fn problem_of(&self, subject: Subject, kind: ProblemKind, object: &str, reason: &str) {
        {
            let mut state = self.state();
            let hurts = match state.subjects.remove(&subject) {
                Some(damaged @ Standing::Damaged(..)) => {
                    state.subjects.insert(subject, damaged);
                    return;
                }
                Some(Standing::Suspected(_, hurts)) => hurts,
                None => Hurts::default(),
            };
            let at = add_problem(&mut state.report, kind, object, reason);
            state.subjects.insert(subject, Standing::Damaged(at, hurts));
        }
        self.monitor.problem(object, reason);
    }

    /// Adds what is a problem only if entries are laid to it.
    pub fn suspect(&self, subject: Subject, kind: ProblemKind, object: &str, reason: &str) {
        let suspicion = Suspicion { kind, object: object.to_owned(), reason: reason.to_owned() };
        self.state().subjects.entry(subject).or_insert(Standing::Suspected(suspicion, Hurts::default()));
    }

    /// Adds a bad pack, or more losses of one.
    pub fn bad_pack(&self, id: PackId, key: &str, reason: &str, loss: Loss) {
        self.lose(id, loss);
        self.problem_of(Subject::Pack(id), ProblemKind::Pack, key, reason);
    }

    /// Adds a word on a pack that is not so; `told_by` is whose.
    pub fn false_word(&self, id: PackId, told_by: &str, reason: &str, loss: Loss) {
        self.lose(id, loss);
        self.problem_of(Subject::Pack(id), ProblemKind::Segment, told_by, reason);
    }

    /// Adds a pack that the index names and that is not there.
    pub fn missing_pack(&self, id: PackId, key: &str) {
        self.lose(id, Loss::All);
        self.suspect(Subject::Pack(id), ProblemKind::Pack, key, "it is missing");
    }

    fn lose(&self, id: PackId, loss: Loss) {
        let mut losses = self.losses.write().unwrap_or_else(PoisonError::into_inner);
        let known = losses.entry(id).or_insert_with(|| Loss::Chunks(HashSet::new()));
        match (known, loss) {
            (Loss::Chunks(known), Loss::Chunks(more)) => known.extend(more),
            (known, Loss::All) => *known = Loss::All,
            (Loss::All, _) => {}
        }
    }

    /// Returns whether a chunk cannot be had from a pack.
    pub fn is_lost(&self, pack: &PackId, chunk: &ChunkId) -> bool {
        match self.losses.read().unwrap_or_else(PoisonError::into_inner).get(pack) {
            None => false,
            Some(Loss::All) => true,
            Some(Loss::Chunks(chunks)) => chunks.contains(chunk),
        }
    }

    /// Lays a lost entry to all that it is lost by. Each subject must be suspected already, or have a problem.
    pub fn hurt(&self, subjects: &HashSet<Subject>, hurt: &Hurt) {
        let mut state = self.state();
        *state.hurt_snapshots.entry(hurt.snapshot).or_default() += hurt.entries;
        for subject in subjects {
            if let Some(Standing::Suspected(_, hurts) | Standing::Damaged(_, hurts)) = state.subjects.get_mut(subject) {
                hurts.add(hurt);
            }
        }
    }

    /// Returns whether anything is lost, as far as is known.
    pub fn has_hurt(&self) -> bool {
        !self.state().hurt_snapshots.is_empty()
    }

    /// Adds a note.
    pub fn note(&self, message: &str) {
        add_note(&mut self.state().report, message);
    }

    /// Changes the numbers.
    pub fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.state().report.counts);
    }

    /// Changes what is said of reading.
    pub fn count_read(&self, change: impl FnOnce(&mut ReadReport)) {
        change(self.state().report.read.get_or_insert_default());
    }

    /// Returns everything, in an order that does not depend on threads. What is lost in snapshots that are no longer
    /// listed is not counted.
    pub fn into_report(self, is_listed: &dyn Fn(&SessionId) -> bool) -> CheckReport {
        let State { mut report, hurt_snapshots, subjects } = sync::into_inner(self.state);
        let mut gone = 0;
        for standing in subjects.into_values() {
            let (at, mut hurts) = match standing {
                Standing::Damaged(at, hurts) => (at, hurts),
                Standing::Suspected(Suspicion { kind, object, reason }, hurts) => {
                    if !hurts.entries.keys().any(is_listed) {
                        gone += u64::from(kind == ProblemKind::Pack);
                        continue;
                    }
                    self.monitor.problem(&object, &reason);
                    (add_problem(&mut report, kind, &object, &reason), hurts)
                }
            };
            hurts.retain(is_listed);
            let Some(problem) = at.and_then(|at| report.problems.get_mut(at)) else { continue };
            problem.hurt_count = hurts.entries.values().sum();
            problem.hurts = hurts.named;
        }
        if gone > 0 {
            let message = format!(
                "{gone} packs that the index names are gone, as a prune that was stopped leaves it, and no snapshot lacks \
                 anything of them; `mlvault repair index` takes their names out"
            );
            add_note(&mut report, &message);
        }
        let forgotten = hurt_snapshots.keys().filter(|id| !is_listed(id)).count();
        if forgotten > 0 {
            add_note(&mut report, &format!("{forgotten} snapshots were forgotten while they were being checked"));
        }
        report.problems.sort_by_key(|problem| (problem.kind as u8, problem.object.clone()));
        let hurt = hurt_snapshots.into_iter().filter(|(id, _)| is_listed(id));
        report.hurt_snapshots = hurt.map(|(id, entries)| HurtSnapshot { id, entries }).collect();
        report
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Returns the problem's place in the report, if there was one left.
fn add_problem(report: &mut CheckReport, kind: ProblemKind, object: &str, reason: &str) -> Option<usize> {
    let problems = &mut report.problems;
    report.problem_count += 1;
    (problems.len() < PROBLEMS_MAX).then(|| {
        let (object, reason) = (object.to_owned(), reason.to_owned());
        problems.push(Problem { kind, object, reason, hurts: Vec::new(), hurt_count: 0 });
        problems.len() - 1
    })
}

fn add_note(report: &mut CheckReport, message: &str) {
    report.note_count += 1;
    if report.notes.len() < NOTES_MAX {
        report.notes.push(message.to_owned());
    }
}
