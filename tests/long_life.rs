//! The life of a repository: hundreds of days on which several people use it, and much goes wrong.
//!
//! Goal: whatever happens in whatever order, what is listed is what was backed up and not forgotten, all of it comes back
//! byte for byte, and `check` is clean every evening. Method: a seed decides what happens on each day: who backs up what
//! has changed how, which policy forgets, who prunes, copies, repairs, adds a key or takes one away; whose clock is wrong,
//! whose requests are lost on the way, and who crashes in the middle. A model remembers what each snapshot must hold. Every
//! evening it is compared with the repository.
//!
//! The simulator (`simulator`) explores the order of single requests within a day; here it is what remains of one day
//! for all the days after it: stale caches, grown indexes, packs that were repacked again and again, old keys.
//!
//! `MLVAULT_LONG_LIFE_SECONDS` lets it go on for longer, `MLVAULT_SEED` sets the first life, which is how a failure is
//! replayed: it prints its seed, and a diary. The program's own random ids do not follow from the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use mlvault::backend::memory::MemoryBackend;
use mlvault::backend::{Backend, Listed};
use mlvault::check::{self, ReadData};
use mlvault::clock::Clock;
use mlvault::copy::{self, Choice};
use mlvault::crypto::passphrase::Credential;
use mlvault::error::{Error, Fault, Result};
use mlvault::format::key_slot::Role;
use mlvault::hears::Hears;
use mlvault::id::SessionId;
use mlvault::prune::{self, PruneLimits, PruneOptions};
use mlvault::repair;
use mlvault::repository::memory_plan::MEMORY_LIMIT_MIN;
use mlvault::repository::{OpenOptions, Repository, layout};
use mlvault::retention::policy::{Policy, Rule};
use mlvault::retention::{self, ForgetChoice};
use tempfile::TempDir;

use crate::simulator::world::Dice;
use crate::support::repo::{Tree, Vault, backup_with, key_file, noise, prose, restore_with, set_times, tree};

/// How long lives go on where nothing else is said, in seconds.
const SECONDS: u64 = 60;
/// Days after which a life ends and the next one begins.
const DAYS_MAX: u32 = 365;
/// Directories that are backed up, each a group of its own.
const SOURCES: usize = 3;
/// Most keys at a time beside the first one.
const KEYS_MAX: usize = 5;
/// Files of a source, about.
const FILES: usize = 14;
/// 2026-01-01T00:00:00Z.
const FIRST_DAY: i64 = 1_767_225_600;
const DAY_SECONDS: i64 = 86_400;

/// The time, and how wrong one clock is.
struct Watch {
    seconds: Arc<AtomicI64>,
    skew: i64,
}

impl Clock for Watch {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.seconds.load(Ordering::SeqCst) + self.skew).unwrap()
    }

    fn sleep(&self, time: Duration) {
        self.seconds.fetch_add(time.as_secs() as i64 + 1, Ordering::SeqCst);
    }
}

/// The way to a store: requests fail on it, and after some of them nothing goes through any more.
struct Way {
    store: Arc<MemoryBackend>,
    dice: Mutex<Dice>,
    /// In thousandths of all requests.
    failing: u64,
    /// Writes that go through before the process dies.
    writes_left: Mutex<usize>,
    /// Whether reads may come torn. Not for who would take that for damage and act on it.
    tears: bool,
}

impl Way {
    fn request(&self, action: &'static str, key: &str, is_write: bool) -> Result<bool> {
        let mut dice = self.dice.lock().unwrap();
        let mut left = self.writes_left.lock().unwrap();
        let refused = || Err(Error::backend(Fault::Unavailable, action, key, "the way is broken"));
        if *left == 0 {
            return refused();
        }
        *left = left.saturating_sub(usize::from(is_write));
        if !dice.is(self.failing) {
            return Ok(true);
        }
        match dice.below(3) {
            0 if is_write => Ok(false),
            0 if self.tears => Err(Error::backend(Fault::BadAnswer, action, key, "the answer is torn")),
            _ => refused(),
        }
    }

    /// Does a write, and says so unless the answer is lost.
    fn write(&self, action: &'static str, key: &str, write: impl FnOnce() -> Result<()>) -> Result<()> {
        let is_answered = self.request(action, key, true)?;
        let written = write();
        let lost = || Err(Error::backend(Fault::Unavailable, action, key, "the answer is lost"));
        if is_answered { written } else { lost() }
    }
}

impl Backend for Way {
    fn location(&self) -> String {
        "long life".to_owned()
    }

    fn create(&self, key: &str, bytes: Bytes) -> Result<()> {
        self.write("create", key, || self.store.create(key, bytes))
    }

    fn read_up_to(&self, key: &str, bytes_max: u64) -> Result<Bytes> {
        self.request("read", key, false)?;
        self.store.read_up_to(key, bytes_max)
    }

    fn read_range(&self, key: &str, range: std::ops::Range<u64>) -> Result<Bytes> {
        self.request("read", key, false)?;
        self.store.read_range(key, range)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.request("list", prefix, false)?;
        self.store.list(prefix)
    }

    fn remove(&self, key: &str) -> Result<()> {
        self.write("remove", key, || self.store.remove(key))
    }

    fn server_time(&self) -> Result<Option<Timestamp>> {
        Ok(None)
    }

    fn concurrency(&self) -> usize {
        2
    }
}

/// What a snapshot must hold: a directory as it was.
type Memory = Arc<(PathBuf, Tree)>;

/// One of the two repositories, and what it must hold.
struct Home {
    store: Arc<MemoryBackend>,
    first_key: Credential,
    keys: Vec<(String, Role, Credential)>,
    /// What is listed.
    listed: BTreeMap<SessionId, Memory>,
    /// What was forgotten, and may come back until a prune.
    trash: BTreeMap<SessionId, Memory>,
    held: BTreeSet<SessionId>,
}

impl Home {
    fn create(seconds: &Arc<AtomicI64>) -> Self {
        let clock = Arc::new(Watch { seconds: Arc::clone(seconds), skew: 0 });
        let store = Arc::new(MemoryBackend::with_clock(clock));
        let vault = Vault::create(Arc::clone(&store) as Arc<dyn Backend>);
        Self {
            store,
            first_key: vault.credential,
            keys: Vec::new(),
            listed: BTreeMap::new(),
            trash: BTreeMap::new(),
            held: BTreeSet::new(),
        }
    }

    fn vault(&self) -> Vault {
        Vault { backend: Arc::clone(&self.store) as _, credential: self.first_key.clone(), cache: None }
    }
}

/// What happens.
#[derive(Debug, Clone, Copy)]
enum Event {
    BackUp(usize),
    ForgetByPolicy,
    ForgetOne,
    Undelete,
    Hold,
    Release,
    Prune,
    Copy,
    PruneCopies,
    AddKey,
    RemoveKey,
    LoseSegments,
    LoseCache,
}

struct Life {
    seed: u64,
    dice: Dice,
    seconds: Arc<AtomicI64>,
    sources: Vec<PathBuf>,
    main: Home,
    copies: Home,
    caches: Vec<PathBuf>,
    changes: u64,
    happened: BTreeMap<&'static str, u64>,
    _directory: TempDir,
}

/// How a process of a day is off: its clock, its requests, its end.
#[derive(Debug, Clone, Copy)]
struct Weather {
    skew: i64,
    failing: u64,
    writes: usize,
    tears: bool,
}

const FINE: Weather = Weather { skew: 0, failing: 0, writes: usize::MAX, tears: false };

impl Life {
    fn begin(seed: u64) -> Self {
        let directory = TempDir::new().unwrap();
        let sources: Vec<PathBuf> =
            (0..SOURCES).map(|number| directory.path().join(format!("team-{number}"))).collect();
        sources.iter().for_each(|source| fs::create_dir(source).unwrap());
        let caches = (0..2).map(|number| directory.path().join(format!("cache-{number}"))).collect();
        let seconds = Arc::new(AtomicI64::new(FIRST_DAY));
        let mut life = Self {
            seed,
            dice: Dice::new(seed),
            sources,
            main: Home::create(&seconds),
            copies: Home::create(&seconds),
            caches,
            seconds,
            changes: 0,
            happened: BTreeMap::new(),
            _directory: directory,
        };
        for source in 0..SOURCES {
            (0..FILES).for_each(|_| life.change(source));
        }
        life
    }

    /// Opens a repository as a process of its own.
    fn open(&mut self, of_copies: bool, key: &Credential, weather: Weather) -> Result<Arc<Repository>> {
        let store = Arc::clone(if of_copies { &self.copies.store } else { &self.main.store });
        let way = Way {
            store,
            dice: Mutex::new(Dice::new(self.dice.next())),
            failing: weather.failing,
            writes_left: Mutex::new(weather.writes),
            tears: weather.tears,
        };
        // Some have a cache that they used days ago, some begin without one.
        let cache_root = self.caches.get(self.dice.below(self.caches.len() + 2)).cloned();
        let clock = Arc::new(Watch { seconds: Arc::clone(&self.seconds), skew: weather.skew });
        let options = OpenOptions { cache_root, memory_limit: MEMORY_LIMIT_MIN, clock, ..OpenOptions::default() };
        Repository::open(Arc::new(way), key, &options)
    }

    fn weather(&mut self) -> Weather {
        let skew = [0, 0, 0, -7200, 90, 90_000][self.dice.below(6)];
        let failing = [0, 0, 0, 4, 25][self.dice.below(5)];
        let writes = if self.dice.is(200) { self.dice.below(30) } else { usize::MAX };
        Weather { skew, failing, writes, tears: true }
    }

    /// Returns a key that may write, and whether it is a maintainer's.
    fn key(&mut self, maintainer: bool) -> Credential {
        let fit: Vec<&Credential> = self
            .main
            .keys
            .iter()
            .filter(|(_, role, _)| *role == Role::Maintainer || !maintainer && role.writes_snapshots())
            .map(|(_, _, credential)| credential)
            .chain([&self.main.first_key])
            .collect();
        fit[self.dice.below(fit.len())].clone()
    }

    /// Changes something in a source.
    fn change(&mut self, source: usize) {
        self.changes += 1;
        let seed = format!("{} {}", self.seed, self.changes);
        let root = self.sources[source].clone();
        let name =
            |dice: &mut Dice| format!("runs/{}/{}", dice.below(4), ["weights", "log", "MLmodel", "x"][dice.below(4)]);
        let path = root.join(name(&mut self.dice));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let len = [0, 1, 900, 5000, 40_000, 120_000][self.dice.below(6)];
        let old = fs::read(&path).unwrap_or_default();
        match self.dice.below(9) {
            0 => fs::write(&path, [old, prose(&seed, len / 8)].concat()).unwrap(),
            1 => fs::write(&path, &old[..old.len() / 2]).unwrap(),
            2 if !old.is_empty() => {
                let mut bytes = old;
                let at = self.dice.below(bytes.len());
                bytes.splice(at..at, noise(&seed, 17));
                fs::write(&path, bytes).unwrap();
            }
            3 => drop(fs::remove_file(&path)),
            4 => {
                let to = root.join(name(&mut self.dice));
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                drop(fs::rename(&path, &to));
            }
            5 => {
                let link = root.join(format!("link {}", self.dice.below(3)));
                drop(fs::remove_file(&link));
                symlink(path.strip_prefix(&root).unwrap(), link).unwrap();
            }
            // What another team has too.
            6 => fs::write(&path, noise(&format!("shared {}", self.dice.below(6)), 60_000)).unwrap(),
            7 => fs::create_dir_all(root.join(format!("empty {}", self.dice.below(3)))).unwrap(),
            _ => fs::write(&path, noise(&seed, len)).unwrap(),
        }
        if path.is_file() {
            set_times(&path, self.changes);
        }
    }

    fn event(&mut self) -> Event {
        match self.dice.below(26) {
            0..=8 => Event::BackUp(self.dice.below(SOURCES)),
            9..=11 => Event::ForgetByPolicy,
            12 => Event::ForgetOne,
            13 => Event::Undelete,
            14 => Event::Hold,
            15 => Event::Release,
            16..=18 => Event::Prune,
            19 | 20 => Event::Copy,
            21 => Event::PruneCopies,
            22 => Event::AddKey,
            23 => Event::RemoveKey,
            24 => Event::LoseSegments,
            _ => Event::LoseCache,
        }
    }

    fn day(&mut self, day: u32) {
        self.seconds.store(FIRST_DAY + i64::from(day) * DAY_SECONDS, Ordering::SeqCst);
        for _ in 0..=self.dice.below(4) {
            self.seconds.fetch_add(1 + self.dice.below(10_000) as i64, Ordering::SeqCst);
            let (event, weather) = (self.event(), self.weather());
            println!("seed {}, day {day}: {event:?} {weather:?}", self.seed);
            let ended = self.happen(event, weather);
            let name = match &ended {
                Ok(()) => "ended well",
                Err(Error::Backend { .. }) => "ended by the backend",
                Err(_) => "ended otherwise",
            };
            *self.happened.entry(name).or_default() += 1;
            if let Err(error) = ended {
                println!("  {error}");
                assert!(!matches!(error, Error::Internal(_)), "{error}");
            }
        }
        self.evening(if day % 8 == 7 { ReadData::All } else { ReadData::Nothing });
    }

    fn happen(&mut self, event: Event, weather: Weather) -> Result<()> {
        match event {
            Event::BackUp(source) => self.back_up(source, weather),
            Event::ForgetByPolicy => self.forget_by_policy(weather),
            Event::ForgetOne => self.forget_one(weather),
            Event::Undelete => self.undelete(weather),
            Event::Hold => self.hold(weather),
            Event::Release => self.release(weather),
            Event::Prune => self.prune(false, weather),
            Event::PruneCopies => self.prune(true, weather),
            Event::Copy => self.copy(weather),
            Event::AddKey => self.add_key(weather),
            Event::RemoveKey => self.remove_key(),
            Event::LoseSegments => self.lose_segments(),
            Event::LoseCache => self.lose_cache(),
        }
    }

    fn back_up(&mut self, source: usize, weather: Weather) -> Result<()> {
        for _ in 0..self.dice.below(5) {
            self.change(source);
        }
        let directory = self.sources[source].clone();
        let memory = Arc::new((directory.clone(), tree(&directory)));
        let key = self.key(false);
        let ended = self.open(false, &key, weather).and_then(|repository| backup_with(&repository, &directory));
        match &ended {
            Ok(summary) => drop(self.main.listed.insert(summary.snapshot.unwrap(), memory)),
            // Its last answer may have been lost; then it is there, and whole.
            Err(_) => self.adopt_at_most_one(memory),
        }
        ended.map(drop)
    }

    /// Takes note of a snapshot that came about though nobody was told.
    fn adopt_at_most_one(&mut self, memory: Memory) {
        let listed = listed(&self.main);
        let unknown: Vec<_> = listed.difference(&self.main.listed.keys().copied().collect()).copied().collect();
        assert!(unknown.len() <= 1, "{unknown:?}");
        unknown.into_iter().for_each(|id| drop(self.main.listed.insert(id, Arc::clone(&memory))));
    }

    fn forget_by_policy(&mut self, weather: Weather) -> Result<()> {
        let rules = match self.dice.below(4) {
            0 => vec![Rule::Last(1 + self.dice.below(6) as u32)],
            1 => vec![Rule::Within("20d".parse().unwrap())],
            2 => {
                vec![Rule::Each(mlvault::retention::policy::Period::Week, mlvault::retention::policy::Limit::Count(5))]
            }
            _ => vec![Rule::Last(2), Rule::Within("9d".parse().unwrap())],
        };
        let choice = ForgetChoice::Policy {
            policy: Policy::new(rules).unwrap(),
            name: "a policy".to_owned(),
            zone: jiff::tz::TimeZone::UTC,
            group: None,
        };
        self.forget(&choice, weather)
    }

    fn forget_one(&mut self, weather: Weather) -> Result<()> {
        let Some(id) = self.pick(|life| life.main.listed.keys().copied().collect()) else { return Ok(()) };
        self.forget(&ForgetChoice::Snapshots(id.into()), weather)
    }

    fn forget(&mut self, choice: &ForgetChoice, weather: Weather) -> Result<()> {
        let key = self.key(true);
        let repository = self.open(false, &key, weather)?;
        let plan = retention::plan(&repository, choice, 100)?;
        let going: Vec<SessionId> = plan.forgotten().map(|decision| decision.id).collect();
        assert!(going.iter().all(|id| self.main.listed.contains_key(id)), "{going:?} are not all listed");
        assert!(going.iter().all(|id| !self.main.held.contains(id)), "one of {going:?} is held");
        let ended = retention::execute(&repository, &plan, true, &Hears::nobody());
        // One after the other: after a crash some are forgotten and some are not.
        let listed = listed(&self.main);
        for id in going {
            assert!(ended.is_err() || !listed.contains(&id), "{id} was forgotten and is listed");
            if !listed.contains(&id) {
                let memory = self.main.listed.remove(&id).unwrap();
                self.main.trash.insert(id, memory);
            }
        }
        ended.map(drop)
    }

    fn undelete(&mut self, weather: Weather) -> Result<()> {
        let Some(id) = self.pick(|life| life.main.trash.keys().copied().collect()) else { return Ok(()) };
        let memory = Arc::clone(&self.main.trash[&id]);
        let key = self.key(true);
        let ended = self
            .open(false, &key, weather)
            .and_then(|repository| retention::undelete(&repository, &id.into(), &Hears::nobody()));
        match &ended {
            Ok((_, back)) => drop(self.main.listed.insert(*back, memory)),
            Err(_) => self.adopt_at_most_one(memory),
        }
        ended.map(drop)
    }

    fn hold(&mut self, weather: Weather) -> Result<()> {
        let Some(id) = self.pick(|life| life.main.listed.keys().copied().collect()) else { return Ok(()) };
        let key = self.key(false);
        let repository = self.open(false, &key, weather)?;
        retention::hold(&repository, &id.to_string(), "a long life", None)?;
        self.main.held.insert(id);
        Ok(())
    }

    fn release(&mut self, weather: Weather) -> Result<()> {
        let Some(id) = self.pick(|life| life.main.held.iter().copied().collect()) else { return Ok(()) };
        let key = self.key(true);
        let repository = self.open(false, &key, weather)?;
        // From here on it may be held or not, however this ends.
        self.main.held.remove(&id);
        retention::release(&repository, &id.to_string()).map(drop)
    }

    fn prune(&mut self, of_copies: bool, weather: Weather) -> Result<()> {
        let options = PruneOptions {
            limits: PruneLimits {
                unused_percent_max: [0.0, 0.0, 5.0, 100.0][self.dice.below(4)],
                ..PruneLimits::default()
            },
            session_age_max: Duration::from_secs([0, 86_400][self.dice.below(2)]),
            wait_max: Duration::ZERO,
            keep_trash: SignedDuration::from_hours([0, 24 * 5][self.dice.below(2)]),
            ..PruneOptions::default()
        };
        let key = if of_copies { self.copies.first_key.clone() } else { self.key(true) };
        let repository = self.open(of_copies, &key, weather)?;
        prune::run(&repository, &options, &Hears::nobody()).map(drop)
    }

    fn copy(&mut self, weather: Weather) -> Result<()> {
        let (key, copies_key) = (self.main.first_key.clone(), self.copies.first_key.clone());
        let source = self.open(false, &key, Weather { writes: usize::MAX, ..weather })?;
        let target = self.open(true, &copies_key, weather)?;
        let chosen = Choice::default().among(&source.list_snapshots()?.snapshots, &source.list_notes()?)?;
        let plan = copy::plan(chosen, source.id(), target.id(), &target.list_snapshots()?);
        let ended = copy::run(&source, &target, &plan.missing, &Hears::nobody());
        let vault = self.copies.vault();
        for snapshot in vault.open_in_memory().unwrap().list_snapshots().unwrap().snapshots {
            if !self.copies.listed.contains_key(&snapshot.id) {
                let origin = snapshot.record.copied_from.as_ref().unwrap().snapshot;
                assert!(plan.missing.iter().any(|missing| missing.id == origin), "{origin} was not to be copied");
                let memory = Arc::clone(&self.main.listed[&origin]);
                self.copies.listed.insert(snapshot.id, memory);
            }
        }
        // A few are enough, so that the next copy has something to do.
        let oldest: Vec<SessionId> = self.copies.listed.keys().copied().collect();
        for id in &oldest[..oldest.len().saturating_sub(4)] {
            vault.open().unwrap().forget(id, "old")?;
            self.copies.listed.remove(id);
        }
        ended.map(drop)
    }

    fn add_key(&mut self, weather: Weather) -> Result<()> {
        if self.main.keys.len() >= KEYS_MAX {
            return Ok(());
        }
        let role = [Role::Writer, Role::Writer, Role::Maintainer, Role::Reader][self.dice.below(4)];
        let (_, credential) = key_file();
        let label = format!("key {}", self.dice.next());
        let first = self.main.first_key.clone();
        // If only the answer is lost, it is a key that nobody uses.
        self.open(false, &first, weather)?.add_key(&label, role, &credential)?;
        self.main.keys.push((label, role, credential));
        Ok(())
    }

    fn remove_key(&mut self) -> Result<()> {
        if self.main.keys.is_empty() {
            return Ok(());
        }
        let at = self.dice.below(self.main.keys.len());
        let (label, _, credential) = self.main.keys.remove(at);
        let repository = self.main.vault().open()?;
        repository.remove_key(&label)?;
        let opened = self.main.vault().open_with(&credential);
        assert!(matches!(opened, Err(Error::WrongKey { .. })), "the key {label:?} opens still");
        Ok(())
    }

    /// Takes segments of the index away, and has the index repaired: packs know what is in them.
    fn lose_segments(&mut self) -> Result<()> {
        let mut segments = self.main.vault().keys_under(layout::INDEX);
        for _ in 0..=self.dice.below(2) {
            if !segments.is_empty() {
                self.main.store.remove(&segments.swap_remove(self.dice.below(segments.len())))?;
            }
        }
        let weather = Weather { tears: false, failing: 0, ..self.weather() };
        let key = self.key(true);
        let repair = |life: &mut Self, weather| {
            let repository = life.open(false, &key, weather)?;
            repair::index::run(&repository, &repair::index::RepairIndexOptions { dry_run: false }, &Hears::nobody())
        };
        // Perhaps it is stopped in the middle; another one ends what it began.
        let ended = repair(self, weather);
        repair(self, FINE).unwrap();
        ended.map(drop)
    }

    /// Throws a cache away, or spoils it.
    fn lose_cache(&mut self) -> Result<()> {
        let cache = self.caches[self.dice.below(self.caches.len())].clone();
        if self.dice.is(500) {
            drop(fs::remove_dir_all(cache));
            return Ok(());
        }
        for file in files_below(&cache) {
            if self.dice.is(300) {
                fs::write(&file, noise(&self.seed.to_string(), 100)).unwrap();
            }
        }
        Ok(())
    }

    fn pick<T: Copy>(&mut self, among: impl Fn(&Self) -> Vec<T>) -> Option<T> {
        let all = among(self);
        (!all.is_empty()).then(|| all[self.dice.below(all.len())])
    }

    /// Compares the repositories with what they must hold.
    fn evening(&mut self, read_data: ReadData) {
        for of_copies in [false, true] {
            let first_key = if of_copies { self.copies.first_key.clone() } else { self.main.first_key.clone() };
            let repository = self.open(of_copies, &first_key, FINE).unwrap();
            let report = check::run(&repository, &check::CheckOptions { read_data }, &Hears::nobody());
            let report = report.unwrap();
            assert!(report.is_clean(), "{:#?} {:#?}", report.counts, report.problems);
            let home = if of_copies { &self.copies } else { &self.main };
            assert_eq!(listed(home), home.listed.keys().copied().collect(), "the copies: {of_copies}");
            for _ in 0..2 {
                if let Some(id) = self.pick(|life| life.home(of_copies).listed.keys().copied().collect()) {
                    self.home(of_copies).restore(id);
                }
            }
            let home = self.home(of_copies);
            home.keys.iter().for_each(|(_, _, key)| drop(home.vault().open_with(key).unwrap()));
        }
    }

    fn home(&self, of_copies: bool) -> &Home {
        if of_copies { &self.copies } else { &self.main }
    }

    /// Restores everything, prunes to the end, and fails if anything is left that nothing needs.
    fn end(&mut self) {
        for of_copies in [false, true] {
            let key = self.home(of_copies).first_key.clone();
            for _ in 0..3 {
                let limits = PruneLimits { unused_percent_max: 0.0, ..PruneLimits::default() };
                let (session_age_max, wait_max) = (Duration::ZERO, Duration::ZERO);
                let options = PruneOptions { limits, session_age_max, wait_max, ..PruneOptions::default() };
                // Later than any clock that was wrong.
                let repository = self.open(of_copies, &key, Weather { skew: 400_000, ..FINE }).unwrap();
                prune::run(&repository, &options, &Hears::nobody()).unwrap();
            }
            let home = self.home(of_copies);
            for prefix in [layout::SESSIONS, layout::TOMBSTONES] {
                assert_eq!(home.vault().keys_under(prefix), Vec::<String>::new());
            }
            home.listed.keys().for_each(|id| home.restore(*id));
        }
        self.evening(ReadData::All);
    }
}

impl Home {
    fn restore(&self, id: SessionId) {
        let (directory, expected) = &*self.listed[&id];
        let repository = self.vault().open_in_memory().unwrap();
        let (restored, problems) = restore_with(&repository, id, directory).unwrap();
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(restored, *expected, "{id}");
    }
}

fn listed(home: &Home) -> BTreeSet<SessionId> {
    let list = home.vault().open_in_memory().unwrap().list_snapshots().unwrap();
    assert!(list.damaged.is_empty(), "{:?}", list.damaged);
    list.snapshots.iter().map(|snapshot| snapshot.id).collect()
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

#[test]
fn a_repository_that_lives_for_long_holds_what_it_was_given_and_nothing_else() {
    let until = Instant::now() + Duration::from_secs(number_of("MLVAULT_LONG_LIFE_SECONDS").unwrap_or(SECONDS));
    let (mut days, mut happened) = (0, BTreeMap::new());
    for seed in number_of("MLVAULT_SEED").unwrap_or(1).. {
        let mut life = Life::begin(seed);
        for day in 0..DAYS_MAX {
            life.day(day);
            days += 1;
            if Instant::now() > until {
                break;
            }
        }
        life.end();
        life.happened.iter().for_each(|(name, count)| *happened.entry(*name).or_insert(0) += count);
        if Instant::now() > until {
            break;
        }
    }
    println!("{days} days, {happened:?}");
    assert!(days > 10 && happened["ended well"] > 10 && happened["ended by the backend"] > 0, "{days}, {happened:?}");
}
