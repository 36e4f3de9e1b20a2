//! Backups, forgetting, prunes, repairs and restores that run at once on a store where everything goes wrong.
//!
//! Goal: whatever the order of single requests, and whoever crashes, is late, repeats itself, has a wrong clock or stole a
//! key, no
//! listed snapshot loses anything, in the end nothing is left over, and what each process said of the log stays true.
//!
//! Method: the real operations run on threads of their own, each over a backend that hands every request to a
//! scheduler ([`world`]). A seed decides who is next and what goes wrong. After each change an oracle looks at the
//! store ([`oracle`]). That it can see is shown by programs that break the protocol ([`mutation`]): it finds each.
//!
//! `MLVAULT_HISTORIES=20000` runs more of them; `MLVAULT_SEED=17` runs that one, which is how a failure is replayed.

mod mutation;
mod oracle;
pub mod world;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use jiff::SignedDuration;
use mlvault::backend::Backend;
use mlvault::backend::memory::MemoryBackend;
use mlvault::backup::sharded::{self, PlanName, Shards};
use mlvault::backup::{self, BackupOptions, BackupSource};
use mlvault::cancel::Cancel;
use mlvault::check::ReadData;
use mlvault::clock::Clock;
use mlvault::crypto::passphrase::Credential;
use mlvault::error::{Error, Result};
use mlvault::format::checkpoint::Checkpoint;
use mlvault::format::key_slot::Role;
use mlvault::format::snapshot::SourceRecord;
use mlvault::hears::Hears;
use mlvault::prune::{self, PruneLimits};
use mlvault::repository::index_sync::IndexHome;
use mlvault::repository::memory_plan::MEMORY_LIMIT_MIN;
use mlvault::repository::snapshots::Snapshot;
use mlvault::repository::{OpenOptions, Repository, layout};
use mlvault::restore::RestoreOptions;
use mlvault::source::deployment::{ArtifactPlace, ArtifactRoot, Deployment};
use mlvault::{check, repair, restore, retention};
use tempfile::TempDir;

use crate::simulator::mutation::{Break, Mutation};
use crate::simulator::oracle::Oracle;
use crate::simulator::world::{Dice, Faults, Process, START_MILLISECONDS, SkewedClock, TrueTime, World};
use crate::support::repo::{self, Problems, Tree, Vault, copy_into, key_file, noise, prose, tree};
use crate::support::thief::{FORGERIES, Forgery, Thief};

/// Histories of each of the two tests that look for losses, where nothing else is said.
const HISTORIES: u64 = 1000;
/// Histories in which a mutation must be found: far more than any took, because ids are random.
const MUTATED_HISTORIES: u64 = 20_000;
/// Shards of a sharded backup.
const SHARDS: u32 = 2;
/// Most processes of a history.
const PROCESSES_MAX: usize = 5;
/// Label of the thief's key.
const THIEF: &str = "thief";
/// By how much the clocks of processes are off: up to one that stands at 1970, and one that believes in 2106.
const SKEWS_MILLISECONDS: [i64; 8] =
    [0, 0, 0, -7_200_000, 1000, 90_000_000, -(START_MILLISECONDS as i64), 80 * 365 * DAY_MILLISECONDS as i64];
/// One day.
const DAY_MILLISECONDS: u64 = 86_400_000;

/// What all histories begin with: a repository with snapshots of some directories.
struct Stage {
    directories: Vec<(PathBuf, Tree)>,
    vault: Vault,
    memory: Arc<MemoryBackend>,
    /// The key of a writer whom nobody trusts.
    thief: Credential,
    _home: TempDir,
}

static STAGE: LazyLock<Stage> = LazyLock::new(Stage::build);

impl Stage {
    /// Makes directories that have some files in common, and backs up the first two.
    fn build() -> Self {
        let home = TempDir::new().unwrap();
        let versions = [["a", "b", "c"], ["b", "c", "d"], ["c", "d", "e"], ["a", "e", "f"]];
        let write = |(number, files): (usize, [&str; 3])| {
            let directory = home.path().join(format!("version {number}"));
            fs::create_dir(&directory).unwrap();
            for name in files {
                fs::write(directory.join(name), noise(name, 12_000)).unwrap();
                fs::write(directory.join(format!("{name}.txt")), prose(name, 3000)).unwrap();
            }
            repo::set_times(&directory, 1000);
            directory
        };
        let directories: Vec<PathBuf> = versions.into_iter().enumerate().map(write).collect();
        std::thread::sleep(Duration::from_millis(40));
        let (vault, memory) = Vault::in_memory();
        for directory in &directories[..2] {
            vault.backup(directory).unwrap();
        }
        // So that the next one has something to cut by.
        backup::run(&vault.open().unwrap(), &deployment_at(&directories[0]), &Hears::nobody()).unwrap();
        let (_, thief) = key_file();
        vault.open().unwrap().add_key(THIEF, Role::Writer, &thief).unwrap();
        let with_tree = |directory: PathBuf| {
            let tree = tree(&directory);
            (directory, tree)
        };
        Self { directories: directories.into_iter().map(with_tree).collect(), vault, memory, thief, _home: home }
    }
}

/// Returns how to back a directory up as the artifacts of a deployment.
fn deployment_at(directory: &Path) -> BackupOptions {
    let place = ArtifactPlace::Directory(directory.to_owned());
    BackupOptions::new(BackupSource::Deployment(Box::new(Deployment {
        name: "simulated".to_owned(),
        databases: Vec::new(),
        artifacts: vec![ArtifactRoot { uri: "mlflow-artifacts:/".to_owned(), place }],
        excluded: Vec::new(),
        keys: Vec::new(),
        tracking: None,
        metadata_optional: false,
    })))
}

/// What a process does.
#[derive(Debug, Clone)]
enum Job {
    Backup(usize),
    /// All steps of a sharded backup of a version, beginning with this shard. Who has the same version has the same plan.
    Sharded(usize, u32),
    /// The snapshot of this number, counted from the oldest, if there is one.
    Forget(usize),
    Undelete,
    Prune(prune::PruneOptions),
    RepairIndex,
    Restore(usize),
    Check,
    /// Somebody with a stolen key does something.
    Forge(Forgery),
}

impl Job {
    fn roll(dice: &mut Dice) -> Self {
        match dice.below(15) {
            0..=3 => Self::Backup(dice.below(4)),
            4 | 5 => Self::Forget(dice.below(3)),
            6 => Self::Undelete,
            7 => Self::RepairIndex,
            8 => Self::Restore(dice.below(3)),
            9 => Self::Check,
            10 | 11 => Self::Sharded(dice.below(4), dice.below(SHARDS as usize) as u32),
            _ => Self::Prune(Self::options(dice)),
        }
    }

    fn options(dice: &mut Dice) -> prune::PruneOptions {
        prune::PruneOptions {
            limits: PruneLimits { unused_percent_max: [0.0, 0.0, 5.0, 100.0][dice.below(4)], ..PruneLimits::default() },
            session_age_max: Duration::from_secs([0, 60, 86_400][dice.below(3)]),
            wait_max: Duration::from_secs([0, 30][dice.below(2)]),
            keep_trash: SignedDuration::from_hours([0, 0, 24][dice.below(3)]),
            ..prune::PruneOptions::default()
        }
    }

    /// `is_calm` says that no request fails, so that nothing may look like damage.
    fn run(&self, repository: &Arc<Repository>, is_calm: bool) -> Result<()> {
        let hears = Hears::nobody();
        match self {
            Self::Backup(version) => repo::backup_with(repository, &STAGE.directories[*version].0).map(drop),
            Self::Sharded(version, first) => {
                let options = deployment_at(&STAGE.directories[*version].0);
                let named = PlanName { name: format!("version {version}"), wait_max: Duration::ZERO };
                sharded::plan(repository, &options, &named, Shards::here(SHARDS), &hears)?;
                for number in 0..SHARDS {
                    sharded::shard(repository, &options, &named, (first + number) % SHARDS, &hears)?;
                }
                sharded::close(repository, &options, &named, &hears).map(drop)
            }
            Self::Forget(number) => match repository.list_snapshots()?.snapshots.get(*number) {
                Some(snapshot) => repository.forget(&snapshot.id, "simulated"),
                None => Ok(()),
            },
            Self::Undelete => match repository.list_snapshots()?.trash.first() {
                Some(trashed) => retention::undelete(repository, &trashed.snapshot.id.into(), &hears).map(drop),
                None => Ok(()),
            },
            Self::Prune(options) => prune::run(repository, options, &hears).map(drop),
            Self::RepairIndex => {
                let options = repair::index::RepairIndexOptions { dry_run: false };
                repair::index::run(repository, &options, &hears).map(drop)
            }
            Self::Restore(number) => match repository.list_snapshots()?.snapshots.get(*number) {
                Some(snapshot) => restore_beside_others(repository, snapshot, is_calm),
                None => Ok(()),
            },
            Self::Forge(forgery) => {
                // A thief whose request fails is no concern of ours.
                let forge = || Thief::new(Arc::clone(repository)).forge(*forgery, &noise("f", 12_000));
                let _ = catch_unwind(AssertUnwindSafe(forge));
                Ok(())
            }
            Self::Check => {
                let options = check::CheckOptions { read_data: ReadData::All };
                let report = check::run(repository, &options, &hears)?;
                match is_calm && !report.is_clean() {
                    true => Err(Error::Internal(format!("FALSE ALARM: {:#?}", report.problems))),
                    false => Ok(()),
                }
            }
        }
    }
}

/// Restores a snapshot that others may forget and prune meanwhile. While it is listed nothing of it may be missing.
fn restore_beside_others(repository: &Arc<Repository>, snapshot: &Snapshot, is_calm: bool) -> Result<()> {
    let complaints = restore_and_compare(repository, snapshot, false)?;
    let list = repository.list_snapshots()?;
    match complaints.is_empty() || !is_calm || !list.snapshots.iter().any(|listed| listed.id == snapshot.id) {
        true => Ok(()),
        false => Err(Error::Internal(format!("FALSE ALARM: of {} there is no {complaints:?}", snapshot.id))),
    }
}

/// Restores a snapshot, and returns what it complains of. What comes without a complaint must be right; `must` says that
/// there may be none.
fn restore_and_compare(repository: &Arc<Repository>, snapshot: &Snapshot, must: bool) -> Result<Vec<String>> {
    let target = TempDir::new().unwrap();
    let problems = Arc::new(Problems::default());
    let options = RestoreOptions::into_directory(target.path());
    let restored = restore::run(repository, snapshot, &options, &Hears::new(problems.clone(), Cancel::default()));
    let (source, below) = match (&snapshot.record.source, &snapshot.record.deployment) {
        (SourceRecord::Paths { paths }, _) => (paths[0].clone(), paths[0][1..].to_owned()),
        (_, Some(deployment)) => (deployment.roots[0].place.clone(), deployment.roots[0].component.clone()),
        (source, None) => panic!("{source:?}"),
    };
    let (_, expected) = STAGE.directories.iter().find(|(path, _)| path == Path::new(&source)).unwrap();
    if must {
        restored.as_ref().unwrap();
        assert_eq!(problems.subjects(), Vec::<String>::new());
    }
    let complaints = problems.subjects();
    let is_honest = snapshot.signer.label != THIEF;
    if restored.is_ok() && complaints.is_empty() && !snapshot.is_incomplete() && is_honest {
        assert_eq!(tree(&target.path().join(below)), *expected);
    }
    restored.map(|_| complaints)
}

/// Ends a process for the scheduler, also if it panics.
struct Ending(Arc<Process>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn open(process: &Arc<Process>, key: &Credential) -> Arc<Repository> {
    let options = OpenOptions {
        memory_limit: MEMORY_LIMIT_MIN,
        clock: Arc::new(SkewedClock(Arc::clone(process))),
        ..OpenOptions::default()
    };
    let backend = Arc::clone(process) as Arc<dyn Backend>;
    Repository::open_with_index(backend, key, &options, IndexHome::Memory).unwrap()
}

/// Opens a repository in memory for one who only looks.
fn observe(store: &Arc<MemoryBackend>) -> Arc<Repository> {
    let options = OpenOptions { memory_limit: MEMORY_LIMIT_MIN, ..OpenOptions::default() };
    let backend = Arc::clone(store) as Arc<dyn Backend>;
    Repository::open_with_index(backend, &STAGE.vault.credential, &options, IndexHome::Memory).unwrap()
}

/// A history under way.
struct History {
    world: Arc<World>,
    dice: Dice,
    oracle: Oracle,
    /// What commands said of the log when they ended.
    checkpoints: Arc<Mutex<Vec<Checkpoint>>>,
    seed: u64,
}

impl History {
    fn new(seed: u64) -> Self {
        let time = Arc::new(TrueTime::default());
        let store = copy_into(&STAGE.memory, MemoryBackend::with_clock(Arc::clone(&time) as Arc<dyn Clock>));
        let oracle = Oracle::new(observe(&store), Arc::clone(&store), seed);
        let mut dice = Dice::new(seed);
        let world = World::new(store, time, dice.is(500));
        Self { world, dice, oracle, checkpoints: Arc::default(), seed }
    }

    /// Lets processes run at once. Returns what happened; fails with what was lost.
    fn play(&mut self, jobs: Vec<Vec<Job>>, faults: Faults, what: Break) -> std::result::Result<Vec<String>, String> {
        let count = jobs.len();
        let is_calm = faults.failing == 0 && forgery_in(&jobs).is_none();
        let mut heads: Vec<String> = vec![format!("seed {}, {faults:?}", self.seed)];
        let mut threads = Vec::new();
        for (number, jobs) in jobs.into_iter().enumerate() {
            heads.push(format!("  process {number}: {jobs:?}"));
            let is_prune = jobs.iter().any(|job| matches!(job, Job::Prune(_)));
            let key = if matches!(jobs[..], [Job::Forge(_)]) { &STAGE.thief } else { &STAGE.vault.credential };
            let skew = SKEWS_MILLISECONDS[self.dice.below(SKEWS_MILLISECONDS.len())];
            let mutation = Mutation::new(what, is_prune);
            let process = Process::new(number, Arc::clone(&self.world), skew, mutation);
            let checkpoints = Arc::clone(&self.checkpoints);
            threads.push(std::thread::spawn(move || {
                let _ending = Ending(Arc::clone(&process));
                let repository = open(&process, key);
                process.arm();
                // A process ends with its first failure, as a real one does, and enters what it wrote until then.
                let ended = jobs.iter().try_for_each(|job| job.run(&repository, is_calm));
                let appended = repository.settle_log().ok().flatten();
                checkpoints.lock().unwrap().extend(appended.map(|appended| appended.checkpoint));
                ended
            }));
        }
        let (world, dice, oracle) = (Arc::clone(&self.world), &mut self.dice, &mut self.oracle);
        let played = catch_unwind(AssertUnwindSafe(|| world.run(count, dice, faults, oracle)));
        if played.is_err() {
            self.world.break_off(count);
        }
        let mut is_well = played.is_ok();
        let mut lines = heads;
        lines.extend(played.unwrap_or_else(|panic| vec![text_of(&*panic)]));
        for (number, thread) in threads.into_iter().enumerate() {
            let end = thread.join();
            is_well &= !matches!(end, Ok(Err(Error::Internal(_))) | Err(_));
            let end = end.map_err(|panic| text_of(&*panic));
            lines.push(format!("  process {number} ended: {end:?}"));
        }
        let log = observe(&self.world.store).read_log().unwrap();
        for checkpoint in self.checkpoints.lock().unwrap().iter() {
            if log.checkpoint_at(checkpoint.size) != Some(*checkpoint) {
                is_well = false;
                lines.push(format!("LOST: the log of {} entries did not grow from {checkpoint:?}", log.size()));
            }
        }
        if is_well { Ok(lines) } else { Err(lines.join("\n")) }
    }

    /// Prunes when nobody else runs any more, and fails unless only what is needed is left.
    fn assert_tidy_in_the_end(&mut self, restores: bool) {
        self.world.advance(3 * DAY_MILLISECONDS);
        let limits = PruneLimits { unused_percent_max: 0.0, ..PruneLimits::default() };
        let options = prune::PruneOptions {
            limits,
            session_age_max: Duration::ZERO,
            wait_max: Duration::ZERO,
            ..prune::PruneOptions::default()
        };
        // The first ends sessions, the second removes what they left, and the third what that left marked.
        let process = Process::new(0, Arc::clone(&self.world), 2 * 90_000_000, Mutation::new(Break::Nothing, true));
        let repository = open(&process, &STAGE.vault.credential);
        for _ in 0..3 {
            Job::Prune(options.clone()).run(&repository, true).unwrap();
        }
        let store = &self.world.store;
        let afterwards = Oracle::new(observe(store), Arc::clone(store), self.seed);
        assert_eq!(afterwards.listed(), self.oracle.listed(), "seed {}", self.seed);
        for prefix in [layout::SESSIONS, layout::TOMBSTONES, layout::PLANS] {
            assert_eq!(self.world.store.list(prefix).unwrap(), [], "seed {}", self.seed);
        }
        let dry = prune::PruneOptions { dry_run: true, ..options };
        let plan = prune::run(&repository, &dry, &Hears::nobody()).unwrap().plan;
        let left = (plan.deleted.packs, plan.left.packs, plan.unused_bytes_after + plan.moved_bytes);
        assert_eq!(left, (0, 0, 0), "seed {}: {plan:?}", self.seed);
        let list = repository.list_snapshots().unwrap();
        assert_eq!((list.trash.len(), list.damaged.count()), (0, 0), "seed {}", self.seed);
        if restores {
            list.snapshots.iter().for_each(|snapshot| drop(restore_and_compare(&repository, snapshot, true).unwrap()));
        }
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Draws what the processes of a history do: at least one backup and one prune.
fn jobs(dice: &mut Dice) -> Vec<Vec<Job>> {
    let mut all = vec![vec![Job::Backup(dice.below(4))], vec![Job::Forget(0), Job::Prune(Job::options(dice))]];
    for _ in 0..dice.below(PROCESSES_MAX - 1) {
        all.push((0..=dice.below(2)).map(|_| Job::roll(dice)).collect());
    }
    if dice.below(4) == 0 {
        let version = dice.below(4);
        all.extend((0..2).map(|first| vec![Job::Sharded(version, first)]));
    }
    if dice.below(3) == 0 {
        all.push(vec![Job::Forge(FORGERIES[dice.below(FORGERIES.len())])]);
    }
    all
}

fn forgery_in(jobs: &[Vec<Job>]) -> Option<Forgery> {
    jobs.iter().flatten().find_map(|job| if let Job::Forge(forgery) = job { Some(*forgery) } else { None })
}

/// Returns whether a prune may leave something when there was a thief: it refuses to work where it cannot read what may
/// concern it, and leaves what is said of honest packs, until somebody repairs that.
fn may_leave_something(forgery: Option<Forgery>) -> bool {
    matches!(forgery, Some(Forgery::Forgotten | Forgery::ForgottenByte | Forgery::SegmentOfHonestPacks))
}

fn faults(dice: &mut Dice) -> Faults {
    Faults {
        failing: [0, 0, 5, 30][dice.below(4)],
        crashing: [0, 2, 10][dice.below(3)],
        repeated: [0, 30, 200][dice.below(3)],
    }
}

/// Plays one history to its end. Returns what went wrong.
fn history(seed: u64, what: Break) -> std::result::Result<(), String> {
    let mut history = History::new(seed);
    let (jobs, faults) = (jobs(&mut history.dice), faults(&mut history.dice));
    let forgery = forgery_in(&jobs);
    let trace = history.play(jobs, faults, what)?;
    if may_leave_something(forgery) {
        return Ok(());
    }
    let tidied = catch_unwind(AssertUnwindSafe(|| history.assert_tidy_in_the_end(seed.is_multiple_of(8))));
    tidied.map_err(|panic| format!("{}\n{}", trace.join("\n"), text_of(&*panic)))
}

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

/// Plays histories with every second seed from `first` on.
fn play_histories(first: u64) {
    if let Some(seed) = number_of("MLVAULT_SEED") {
        history(seed, Break::Nothing).unwrap_or_else(|trace| panic!("{trace}"));
        return;
    }
    let count = number_of("MLVAULT_HISTORIES").unwrap_or(2 * HISTORIES) / 2;
    for seed in (first..).step_by(2).take(count as usize) {
        history(seed, Break::Nothing).unwrap_or_else(|trace| panic!("MLVAULT_SEED={seed} replays this:\n{trace}"));
    }
}

#[test]
fn nothing_is_lost_and_nothing_is_left_over() {
    play_histories(0);
}

#[test]
fn nothing_is_lost_and_nothing_is_left_over_either() {
    play_histories(1);
}

/// Looks for a history in which a broken program loses something. Returns how many it took.
fn histories_until_found(what: Break) -> Option<u64> {
    let is_lost = |number: &u64| history(1_000_000 + number, what).is_err_and(|trace| trace.contains("LOST"));
    (0..MUTATED_HISTORIES).find(is_lost)
}

macro_rules! mutations {
    ($($test:ident: $what:ident,)*) => {
        $(
            #[test]
            fn $test() {
                let found = histories_until_found(Break::$what);
                println!("{:?} was found in history {found:?}", Break::$what);
                assert!(found.is_some(), "{MUTATED_HISTORIES} histories saw nothing wrong with {:?}", Break::$what);
            }
        )*
    };
}

mutations! {
    a_session_that_lists_tombstones_too_early_is_found: TombstonesBeforeSession,
    a_session_that_does_not_look_which_packs_are_there_is_found: NoPresence,
    a_commit_that_overwrites_is_found: CommitOverwrites,
    a_snapshot_that_is_written_before_its_index_is_found: SnapshotBeforeIndex,
    a_segment_that_is_written_before_its_packs_is_found: IndexBeforePacks,
    a_sweep_that_ignores_open_sessions_is_found: NoVoid,
    a_sweep_that_does_not_list_snapshots_again_is_found: NoRelist,
    a_sweep_that_sees_only_its_own_tombstone_is_found: OwnTombstoneOnly,
    a_sweep_that_removes_its_tombstone_first_is_found: TombstoneFirst,
    a_prune_that_removes_the_tombstones_of_others_is_found: ForeignTombstones,
    a_prune_that_takes_unnamed_packs_for_garbage_is_found: OrphansBlindly,
    a_prune_without_a_tombstone_is_found: NoTombstone,
}
