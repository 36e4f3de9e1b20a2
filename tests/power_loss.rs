//! The power fails while a repository in a directory is written to.
//!
//! Goal: whatever POSIX lets a disk lose of what was not synced, the repository opens afterwards, is clean, and holds all
//! that anybody was told is there. Method: real operations run over a disk that notes each step
//! ([`support::recording_disk`](crate::support::recording_disk)). For each moment between two steps the test makes
//! directories that a loss of power could leave, and opens them. That it can see a loss is shown by disks whose syncs of
//! some kind do nothing: each must lose something.
//!
//! `MLVAULT_POWER_ROLLS` sets how many outcomes of each moment are left to dice, `MLVAULT_SEED` what they show.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use mlvault::backend::Backend;
use mlvault::backend::local::LocalBackend;
use mlvault::backend::local::disk::Disk;
use mlvault::check::ReadData;
use mlvault::crypto::passphrase::Credential;
use mlvault::error::Error;
use mlvault::format::key_slot::Role;
use mlvault::hears::Hears;
use mlvault::id::SessionId;
use mlvault::prune::{self, PruneLimits, PruneOptions};
use mlvault::repository::layout;
use tempfile::TempDir;

use crate::simulator::world::Dice;
use crate::support::recording_disk::{Books, Outcome, RecordingDisk, Step};
use crate::support::repo::{Tree, Vault, check_with, create, key_file, noise, prose, restore_with, set_times, tree};

/// Outcomes of each moment that dice decide.
const ROLLS: usize = 6;
/// Of so many outcomes one is gone on with: a backup, and a prune.
const GONE_ON_WITH: usize = 16;

/// What somebody was told, or what somebody began.
#[derive(Debug, Clone)]
enum Told {
    Initialised,
    BackedUp(SessionId),
    KeyAdded,
    KeyRemoval,
    Forgetting(SessionId),
    Forgotten(SessionId),
}

/// What happened to a repository, and what it must hold.
struct History {
    steps: Vec<Step<Told>>,
    credential: Credential,
    second_key: Credential,
    directory: PathBuf,
    /// A directory with all that was ever backed up: its chunks are known, or were.
    everything: PathBuf,
    trees: BTreeMap<SessionId, Tree>,
    _home: TempDir,
}

/// A repository on a disk that is watched, and the directory that is backed up into it.
struct Actor {
    disk: Arc<RecordingDisk<Told>>,
    root: PathBuf,
    credential: Credential,
    source: PathBuf,
    everything: PathBuf,
    trees: BTreeMap<SessionId, Tree>,
}

impl Actor {
    /// Returns the repository as a new process has it, which knows of no directory that it is there.
    fn vault(&self) -> Vault {
        let disk = Arc::clone(&self.disk) as Arc<dyn Disk>;
        let backend = LocalBackend::open_on(disk, self.root.clone()).unwrap();
        Vault { backend: Arc::new(backend), credential: self.credential.clone(), cache: None }
    }

    /// Changes some of three models, and backs all of them up.
    fn back_up(&mut self, seed: &str, changed: usize) -> SessionId {
        fs::create_dir_all(self.source.join("models")).unwrap();
        for number in 0..changed {
            let bytes = noise(&format!("{seed} {number}"), 30_000);
            fs::write(self.source.join(format!("models/{number}")), &bytes).unwrap();
            fs::write(self.everything.join(format!("{seed} {number}")), bytes).unwrap();
        }
        fs::write(self.source.join("log"), prose(seed, 9000)).unwrap();
        set_times(&self.source, 1000);
        std::thread::sleep(Duration::from_millis(40));
        let snapshot = self.vault().backup(&self.source).unwrap();
        self.trees.insert(snapshot, tree(&self.source));
        self.disk.tell(Told::BackedUp(snapshot));
        snapshot
    }

    fn forget(&self, snapshot: SessionId) {
        self.disk.tell(Told::Forgetting(snapshot));
        self.vault().open().unwrap().forget(&snapshot, "a test").unwrap();
        self.disk.tell(Told::Forgotten(snapshot));
    }

    fn prune(&self) -> prune::PruneReport {
        prune(&self.vault())
    }
}

fn prune(vault: &Vault) -> prune::PruneReport {
    let limits = PruneLimits { unused_percent_max: 0.0, ..PruneLimits::default() };
    let options =
        PruneOptions { limits, wait_max: Duration::ZERO, session_age_max: Duration::ZERO, ..PruneOptions::default() };
    prune::run(&vault.open().unwrap(), &options, &Hears::nobody()).unwrap()
}

/// Lets a repository live: init, backups, keys, forgetting, a prune that moves chunks, and a backup afterwards.
fn history(renames: bool) -> History {
    let home = TempDir::new().unwrap();
    let [base, source, everything] = ["disk", "source", "everything"].map(|name| home.path().join(name));
    fs::create_dir(&base).unwrap();
    fs::create_dir(&everything).unwrap();
    let disk = RecordingDisk::new(&base, renames);
    let root = base.join("repository");
    // As an init leaves it that was killed in between; what it began must be made safe by the next one.
    disk.make_directory(&root).unwrap();
    let backend = LocalBackend::create_root_on(Arc::clone(&disk) as Arc<dyn Disk>, root.clone()).unwrap();
    let (_, credential) = key_file();
    create(&backend, &credential).unwrap();
    disk.tell(Told::Initialised);
    let mut actor = Actor { disk, root, credential, source, everything, trees: BTreeMap::new() };
    let first = actor.back_up("one", 3);
    let (_, second_key) = key_file();
    actor.vault().open().unwrap().add_key("second", Role::Reader, &second_key).unwrap();
    actor.disk.tell(Told::KeyAdded);
    fs::write(actor.source.join("stays"), noise("stays", 50_000)).unwrap();
    let second = actor.back_up("two", 3);
    actor.forget(first);
    // Of the second snapshot's pack a part is needed still, so that a prune moves it.
    fs::remove_file(actor.source.join("stays")).unwrap();
    actor.back_up("three", 1);
    actor.forget(second);
    let pruned = actor.prune();
    assert!(pruned.packs_deleted > 0 && pruned.chunks_moved > 0, "{pruned:?}");
    actor.disk.tell(Told::KeyRemoval);
    actor.vault().open().unwrap().remove_key("second").unwrap();
    actor.back_up("four", 2);
    let (steps, credential) = (actor.disk.steps(), actor.credential.clone());
    let (directory, everything) = (actor.source, actor.everything);
    History { steps, credential, second_key, directory, everything, trees: actor.trees, _home: home }
}

/// What must hold at some moment.
#[derive(Default)]
struct Promises {
    is_initialised: bool,
    has_second_key: bool,
    listed: BTreeSet<SessionId>,
    forgotten: BTreeSet<SessionId>,
}

impl Promises {
    fn hear(&mut self, told: &Told) {
        match told {
            Told::Initialised => self.is_initialised = true,
            Told::BackedUp(snapshot) => drop(self.listed.insert(*snapshot)),
            Told::KeyAdded => self.has_second_key = true,
            Told::KeyRemoval => self.has_second_key = false,
            Told::Forgetting(snapshot) => drop(self.listed.remove(snapshot)),
            Told::Forgotten(snapshot) => drop(self.forgotten.insert(*snapshot)),
        }
    }
}

/// A kind of sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sync {
    None,
    OfFiles,
    /// Of the directory that an object was put into.
    AfterObjects,
    /// Of the directory that a directory was made in.
    AfterDirectories,
    /// Of the directory that an object was removed from.
    AfterRemovals,
}

/// Leaves out the syncs of a kind.
fn without<P: Clone>(steps: &[Step<P>], kind: Sync) -> Vec<Step<P>> {
    let mut last = Sync::None;
    let mut left = Vec::new();
    for step in steps {
        let (is_of, next) = match step {
            Step::SyncFile(_) => (Sync::OfFiles, last),
            Step::SyncDirectory(_) => (last, last),
            Step::MakeDirectory(_) => (Sync::None, Sync::AfterDirectories),
            Step::Rename(..) | Step::Link(..) => (Sync::None, Sync::AfterObjects),
            Step::RemoveFile(path) if !path.starts_with("repository/tmp") => (Sync::None, Sync::AfterRemovals),
            _ => (Sync::None, last),
        };
        last = next;
        if kind == Sync::None || is_of != kind {
            left.push(step.clone());
        }
    }
    left
}

/// How closely to look.
#[derive(Clone, Copy)]
struct Care {
    /// Outcomes of each moment that dice decide.
    rolls: usize,
    /// Of so many outcomes one is gone on with.
    gone_on_with: usize,
}

/// Loses power at each moment. Returns how many outcomes there were, or the first one that lost something.
fn lose_power(history: &History, steps: &[Step<Told>], care: Care) -> Result<usize, String> {
    let seed = std::env::var("MLVAULT_SEED").map_or(1, |seed| seed.parse().unwrap());
    let mut dice = Dice::new(seed);
    let (mut books, mut promises, mut seen) = (Books::default(), Promises::default(), BTreeSet::new());
    for (number, step) in steps.iter().enumerate() {
        books.enter(step);
        if let Step::Told(told) = step {
            promises.hear(told);
            // What was true before may not be enough any more.
            seen.clear();
        }
        for outcome in books.outcomes(&mut dice, care.rolls) {
            if seen.insert(outcome.without("tmp")) {
                let goes_on = seen.len().is_multiple_of(care.gone_on_with);
                let lost = look(history, &promises, &books, &outcome, goes_on).err();
                if let Some(lost) = lost {
                    let last: Vec<_> = steps[number.saturating_sub(5)..=number].iter().map(brief).collect();
                    return Err(format!("seed {seed}, step {number}: {lost}\nafter {last:#?}\n{outcome:#?}"));
                }
            }
        }
    }
    Ok(seen.len())
}

/// Returns a step in words, without its bytes.
fn brief(step: &Step<Told>) -> String {
    match step {
        Step::Write(path, bytes) => format!("write {} bytes to {path:?}", bytes.len()),
        other => format!("{other:?}"),
    }
}

/// Makes a directory where a sync costs nothing, if there is such a place: what is safe is known from the books.
fn fast_directory() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

/// Opens a directory that a loss of power left. Returns what it lacks.
fn look(history: &History, promises: &Promises, books: &Books, outcome: &Outcome, goes_on: bool) -> Result<(), String> {
    let base = fast_directory();
    books.make(outcome, base.path());
    let Ok(backend) = LocalBackend::open(base.path().join("repository")) else {
        return if promises.is_initialised { Err("the directory is gone".to_owned()) } else { Ok(()) };
    };
    let vault = Vault { backend: Arc::new(backend), credential: history.credential.clone(), cache: None };
    let repository = match vault.open_in_memory() {
        Ok(repository) => repository,
        Err(Error::NoRepository { .. }) if !promises.is_initialised => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    let report = check_with(&repository, ReadData::All);
    if !report.is_clean() {
        return Err(format!("the check finds {:#?}", report.problems));
    }
    if promises.has_second_key {
        vault.open_with(&history.second_key).map_err(|error| error.to_string())?;
    }
    let list = repository.list_snapshots().map_err(|error| error.to_string())?;
    let listed: BTreeSet<SessionId> = list.snapshots.iter().map(|snapshot| snapshot.id).collect();
    if !listed.is_superset(&promises.listed) || !listed.is_disjoint(&promises.forgotten) {
        return Err(format!("{listed:?} are listed, {:?} should be", promises.listed));
    }
    for snapshot in &listed {
        let (restored, problems) =
            restore_with(&repository, *snapshot, &history.directory).map_err(|error| error.to_string())?;
        // One that is listed though nobody was told is whole too; what it held is known if it was ever told.
        if !problems.is_empty() || history.trees.get(snapshot).is_some_and(|tree| *tree != restored) {
            return Err(format!("{snapshot} is not what was backed up: {problems:?}"));
        }
    }
    if goes_on { go_on(&vault, history) } else { Ok(()) }
}

/// Fails unless the repository can be used on: what it says it has, the next backup relies on.
fn go_on(vault: &Vault, history: &History) -> Result<(), String> {
    let snapshot = vault.backup(&history.everything).map_err(|error| error.to_string())?;
    let repository = vault.open_in_memory().map_err(|error| error.to_string())?;
    let (restored, problems) =
        restore_with(&repository, snapshot, &history.everything).map_err(|error| error.to_string())?;
    if !problems.is_empty() || restored != tree(&history.everything) {
        return Err(format!("of the next backup there is no {problems:?}"));
    }
    // The first ends sessions, the second removes what they left, and the third what that left marked.
    (0..3).for_each(|_| drop(prune(vault)));
    vault.assert_restores(snapshot, &history.everything, &tree(&history.everything));
    let left = vault.keys_under(layout::SESSIONS).len() + vault.keys_under(layout::TOMBSTONES).len();
    if left == 0 { Ok(()) } else { Err(format!("{left} sessions and tombstones are left over")) }
}

fn care() -> Care {
    let rolls = std::env::var("MLVAULT_POWER_ROLLS").map_or(ROLLS, |rolls| rolls.parse().unwrap());
    Care { rolls, gone_on_with: GONE_ON_WITH }
}

#[test]
fn whatever_a_loss_of_power_leaves_opens_and_is_clean_and_holds_what_was_promised() {
    let history = history(true);
    let outcomes = lose_power(&history, &history.steps, care()).unwrap_or_else(|lost| panic!("{lost}"));
    assert!(outcomes > 0 && history.steps.len() > 200, "{} steps", history.steps.len());
}

#[test]
fn nothing_is_lost_either_where_a_rename_would_replace_and_links_are_made() {
    let history = history(false);
    assert!(history.steps.iter().any(|step| matches!(step, Step::Link(..))));
    lose_power(&history, &history.steps, Care { rolls: 1, ..care() }).unwrap_or_else(|lost| panic!("{lost}"));
}

#[test]
fn a_disk_that_leaves_out_any_sync_of_what_is_written_loses_something() {
    let history = history(true);
    for kind in [Sync::OfFiles, Sync::AfterObjects, Sync::AfterDirectories] {
        let steps = without(&history.steps, kind);
        assert!(steps.len() < history.steps.len(), "{kind:?}");
        let lost = lose_power(&history, &steps, care());
        println!("{kind:?}: {}", lost.as_ref().err().and_then(|lost| lost.lines().next()).unwrap_or("nothing"));
        assert!(lost.is_err(), "without syncs {kind:?} nothing is lost");
    }
}

/// A backend that remembers which of its writes and removals were answered.
struct Answered {
    inner: LocalBackend,
    disk: Arc<RecordingDisk<Answer>>,
}

/// An object that is there from now on, or is not; of one behind a question mark nothing is promised for now.
type Answer = (String, Option<Bytes>);

/// Goal: the promise that the backend itself gives, object by object: once a create has returned its object is there whole,
/// before that it is whole or not there, and what a removal has returned for stays away. Nothing is opened here, so far
/// more outcomes can be looked at.
#[test]
fn each_object_is_whole_or_absent_and_stays_as_it_was_answered() {
    let home = TempDir::new().unwrap();
    let base = home.path().join("disk");
    fs::create_dir(&base).unwrap();
    let disk = RecordingDisk::new(&base, true);
    let inner = LocalBackend::create_root_on(Arc::clone(&disk) as Arc<dyn Disk>, base.join("repository")).unwrap();
    let answered = Answered { inner, disk };
    let attempted = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (answered, attempted) = (&answered, &attempted);
            scope.spawn(move || {
                for number in 0..8 {
                    let key = format!("packs/{:02x}/{thread}{number}", number / 3);
                    let bytes = Bytes::from(noise(&key, 500));
                    attempted.lock().unwrap().insert(key.clone(), bytes.clone());
                    answered.inner.create(&key, bytes.clone()).unwrap();
                    answered.disk.tell((key.clone(), Some(bytes)));
                    if number % 4 == 3 {
                        // Nothing is promised of an object while it is being removed.
                        answered.disk.tell((format!("?{key}"), None));
                        answered.inner.remove(&key).unwrap();
                        answered.disk.tell((key, None));
                    }
                }
            });
        }
    });
    let attempted = attempted.into_inner().unwrap();
    let steps = answered.disk.steps();
    assert_eq!(broken_promise(&steps, &attempted), None);
    // That this test can see a loss, too: each kind of sync is needed for what is promised here.
    for kind in [Sync::OfFiles, Sync::AfterObjects, Sync::AfterDirectories, Sync::AfterRemovals] {
        let broken = broken_promise(&without(&steps, kind), &attempted);
        println!("{kind:?}: {broken:?}");
        assert!(broken.is_some(), "without syncs {kind:?} every promise is kept");
    }
}

/// Returns the first object that an outcome has otherwise than it was answered.
fn broken_promise(steps: &[Step<Answer>], attempted: &BTreeMap<String, Bytes>) -> Option<String> {
    let (mut books, mut promised, mut dice) = (Books::default(), BTreeMap::new(), Dice::new(1));
    for step in steps {
        books.enter(step);
        if let Step::Told((key, bytes)) = step {
            match key.strip_prefix('?') {
                Some(key) => drop(promised.remove(key)),
                None => drop(promised.insert(key.as_str(), bytes)),
            }
        }
        for outcome in books.outcomes(&mut dice, 30) {
            for (key, whole) in attempted {
                let found = books.read(&outcome, &Path::new("repository").join(key));
                let is_whole = found.as_ref().is_none_or(|found| found == whole);
                let is_promised = promised.get(key.as_str()).is_none_or(|bytes| bytes.is_some() == found.is_some());
                if !is_whole || !is_promised {
                    return Some(format!("{key}: whole {is_whole}, as it was answered {is_promised}"));
                }
            }
        }
    }
    None
}
