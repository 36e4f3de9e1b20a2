//! Times that lie: snapshots, sessions and clocks dated anywhere from 1970 to 2106.
//!
//! Goal: whoever has a writer's key, or a wrong clock, makes no honest snapshot go, does not stay `latest` for years, and
//! does not stop a prune for ever; and a prune whose own clock is wrong does no harm.
//!
//! Method: the forger is the library's own writer under another clock. The backend has a clock of its own, as a server
//! has, which the test sets.

use std::collections::BTreeSet;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use mlvault::backend::Backend;
use mlvault::backend::memory::MemoryBackend;
use mlvault::backup::{self, BackupOptions};
use mlvault::cancel::Cancel;
use mlvault::clock::Clock;
use mlvault::crypto::passphrase::Credential;
use mlvault::error::Error;
use mlvault::format::key_slot::Role;
use mlvault::hears::Hears;
use mlvault::id::SessionId;
use mlvault::monitor::Monitor;
use mlvault::prune::{self, PruneOptions, PruneReport};
use mlvault::repository::memory_plan::MEMORY_LIMIT_MIN;
use mlvault::repository::session::Session;
use mlvault::repository::{OpenOptions, Repository, layout};
use mlvault::retention::policy::PolicySpec;
use mlvault::retention::{self, ForgetChoice, ForgetPlan};
use tempfile::TempDir;

use crate::support::repo::{self, Notes, Vault, key_file};

const HOUR: SignedDuration = SignedDuration::from_hours(1);
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// A clock that a test sets.
struct SetClock(Mutex<Timestamp>);

impl SetClock {
    fn at(time: &str) -> Arc<Self> {
        Arc::new(Self(Mutex::new(time.parse().unwrap())))
    }

    fn advance(&self, by: SignedDuration) {
        let mut now = self.0.lock().unwrap();
        *now += by;
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }

    fn sleep(&self, _: Duration) {}
}

/// A repository on a server with a clock, and a directory to back up.
struct Scene {
    vault: Vault,
    server: Arc<SetClock>,
    source: TempDir,
}

impl Scene {
    fn new() -> Self {
        let server = SetClock::at("2026-06-01T00:00:00Z");
        let backend = Arc::new(MemoryBackend::with_clock(Arc::clone(&server) as Arc<dyn Clock>));
        let source = TempDir::new().unwrap();
        fs::write(source.path().join("model"), repo::noise("model", 20_000)).unwrap();
        Self { vault: Vault::create(backend), server, source }
    }

    /// Opens the repository on a machine whose clock says this.
    fn open(&self, credential: &Credential, time: Timestamp) -> Arc<Repository> {
        let clock = Arc::new(SetClock(Mutex::new(time)));
        let options = OpenOptions { memory_limit: MEMORY_LIMIT_MIN, clock, ..OpenOptions::default() };
        Repository::open(Arc::clone(&self.vault.backend), credential, &options).unwrap()
    }

    fn open_honestly(&self) -> Arc<Repository> {
        self.open(&self.vault.credential, self.server.now())
    }

    /// Backs up with a key, under a clock that says this.
    fn backup_at(&self, credential: &Credential, time: Timestamp) -> SessionId {
        let repository = self.open(credential, time);
        repo::backup_with(&repository, self.source.path()).unwrap().snapshot.unwrap()
    }

    fn backup(&self) -> SessionId {
        self.backup_at(&self.vault.credential, self.server.now())
    }

    fn writer(&self, label: &str) -> Credential {
        let (_, credential) = key_file();
        self.open_honestly().add_key(label, Role::Writer, &credential).unwrap();
        credential
    }

    fn plan(&self, spec: &PolicySpec) -> ForgetPlan {
        let what = ForgetChoice::Policy {
            policy: spec.policy().unwrap(),
            name: "test".to_owned(),
            zone: TimeZone::UTC,
            group: None,
        };
        retention::plan(&self.open_honestly(), &what, 50).unwrap()
    }

    /// Returns what a rule keeps: not what is only the newest, for that ends with the next snapshot.
    fn kept(&self, spec: &PolicySpec) -> BTreeSet<SessionId> {
        let plan = self.plan(spec);
        let by_rule = |reason: &String| reason != "newest complete";
        let kept = plan.decisions.iter().filter(|one| one.keep && one.reasons.iter().any(by_rule));
        kept.map(|decision| decision.id).collect()
    }

    fn prune(&self, repository: &Arc<Repository>) -> PruneReport {
        let options = PruneOptions { wait_max: Duration::ZERO, ..PruneOptions::default() };
        prune::run(repository, &options, &Hears::nobody()).unwrap()
    }
}

fn at(time: &str) -> Timestamp {
    time.parse().unwrap()
}

fn policies() -> [PolicySpec; 3] {
    [
        PolicySpec { keep_within_daily: Some("30d".into()), ..PolicySpec::default() },
        PolicySpec { keep_within: Some("4d".into()), ..PolicySpec::default() },
        PolicySpec {
            keep_within_daily: Some("5d".into()),
            keep_within_weekly: Some("60d".into()),
            ..PolicySpec::default()
        },
    ]
}

#[test]
fn a_stolen_key_displaces_nothing_that_an_age_keeps_whatever_times_it_gives() {
    let scene = Scene::new();
    for _ in 0..8 {
        scene.backup();
        scene.server.advance(HOUR * 6);
        scene.backup();
        scene.server.advance(HOUR * 18);
    }
    scene.server.advance(SignedDuration::from_mins(1));
    let before: Vec<BTreeSet<SessionId>> = policies().iter().map(|spec| scene.kept(spec)).collect();
    assert!(before.iter().all(|kept| (4..16).contains(&kept.len())), "{before:?}");
    // The first of each slot, and of slots to come, and from long ago and far away.
    for day in 0..9 {
        scene.backup_at(&scene.vault.credential, at("2026-06-01T00:00:00Z") + DAY * day);
    }
    for time in ["1970-01-01T00:00:01Z", "2026-06-09T11:00:00Z", "2026-07-01T00:00:00Z", "2106-02-07T06:00:00Z"] {
        scene.backup_at(&scene.vault.credential, at(time));
    }
    for (spec, before) in policies().iter().zip(before) {
        let after = scene.kept(spec);
        let gone: Vec<_> = before.difference(&after).collect();
        assert_eq!(gone, Vec::<&SessionId>::new(), "{spec:?}");
    }
}

#[test]
fn what_is_planted_for_a_day_to_come_does_not_take_its_place() {
    let scene = Scene::new();
    scene.backup();
    for day in 2..20 {
        scene.backup_at(&scene.vault.credential, at("2026-06-01T00:00:00Z") + DAY * day);
    }
    let mut honest = BTreeSet::new();
    for _ in 0..10 {
        scene.server.advance(DAY);
        honest.insert(scene.backup());
    }
    let daily = PolicySpec { keep_daily: Some(9), ..PolicySpec::default() };
    let kept = scene.kept(&daily);
    // The planted ones took none of the nine days.
    assert!(honest.intersection(&kept).count() >= 9, "{:?}", honest.difference(&kept));
}

#[test]
fn decoys_of_another_key_neither_push_snapshots_out_nor_dilute_the_guard() {
    let scene = Scene::new();
    for _ in 0..4 {
        scene.backup();
        scene.server.advance(DAY);
    }
    let last = PolicySpec { keep_last: Some(3), ..PolicySpec::default() };
    let kept = scene.kept(&last);
    let stolen = scene.writer("stolen");
    for number in 0..12 {
        scene.backup_at(&stolen, scene.server.now() + HOUR * number);
    }
    assert_eq!(scene.kept(&last).intersection(&kept).count(), kept.len());
    // Three of four honest ones would go: the decoys are many, and do not count.
    let one = PolicySpec { keep_last: Some(1), keep_within: Some("1h".into()), ..PolicySpec::default() };
    let plan = scene.plan(&one);
    let objections = plan.objections.iter().filter(|objection| objection.contains("3 of 4")).count();
    assert_eq!(objections, 1, "{:?}", plan.objections);
    let refused = retention::execute(&scene.open_honestly(), &plan, false, &Hears::nobody());
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
}

#[test]
fn a_snapshot_of_2030_does_not_stay_the_latest_and_is_marked() {
    let scene = Scene::new();
    let future = scene.backup_at(&scene.vault.credential, at("2030-01-01T00:00:00Z"));
    let latest = || scene.open_honestly().find_snapshot("latest").unwrap();
    assert_eq!((latest().id, latest().is_time_doubtful()), (future, true));
    scene.server.advance(HOUR);
    let honest = scene.backup();
    assert_eq!((latest().id, latest().is_time_doubtful()), (honest, false));
    let repository = scene.open_honestly();
    assert_eq!(repository.find_snapshot("latest~1").unwrap().id, future);
    assert_eq!(repository.find_snapshot("2026-06-01T00:30Z").unwrap().id, future);
    // One of long ago is older than all, and found under its own time.
    let past = scene.backup_at(&scene.vault.credential, at("1999-12-31T23:00:00Z"));
    assert_eq!((latest().id, scene.open_honestly().find_snapshot("1999-12-31").unwrap().id), (honest, past));
}

#[test]
fn a_session_dated_in_the_future_is_void_once_it_has_been_there_for_long_enough() {
    let scene = Scene::new();
    scene.backup();
    let dead = Session::begin(&scene.open(&scene.vault.credential, at("2040-01-01T00:00:00Z")), "test").unwrap();
    // Dated long ago, and running all the same.
    let slow = Session::begin(&scene.open(&scene.vault.credential, at("1970-01-02T00:00:00Z")), "test").unwrap();
    scene.server.advance(HOUR * 23);
    let early = scene.prune(&scene.open_honestly());
    assert_eq!((early.sessions_voided, early.sessions_open), (0, 2), "{early:?}");
    slow.close(&scene.open_honestly(), "it has ended").unwrap();
    scene.server.advance(HOUR * 2);
    let late = scene.prune(&scene.open_honestly());
    assert_eq!((late.sessions_voided, late.sessions_open), (1, 0), "{late:?}");
    assert!(matches!(dead.close(&scene.open_honestly(), "late"), Err(Error::Busy(_))));
}

#[test]
fn a_prune_whose_clock_is_wrong_ends_no_session_that_runs() {
    let scene = Scene::new();
    scene.backup();
    let running = Session::begin(&scene.open_honestly(), "test").unwrap();
    scene.server.advance(HOUR);
    for wrong in ["1970-01-01T00:00:01Z", "2106-02-07T06:00:00Z"] {
        let notes = Arc::new(Notes::default());
        let hears = Hears::new(Arc::clone(&notes) as Arc<dyn Monitor>, Cancel::default());
        let options = PruneOptions { wait_max: Duration::ZERO, ..PruneOptions::default() };
        let report = prune::run(&scene.open(&scene.vault.credential, at(wrong)), &options, &hears).unwrap();
        assert_eq!((report.sessions_voided, report.sessions_open), (0, 1), "{wrong}: {report:?}");
        assert!(report.clock_off_seconds.is_some_and(|off| off.abs() > 1_000_000_000), "{report:?}");
        assert!(notes.0.lock().unwrap().iter().any(|note| note.contains("clock of this machine")), "{wrong}");
    }
    running.close(&scene.open_honestly(), "done").unwrap();
}

#[test]
fn the_trash_is_kept_by_the_time_of_the_server() {
    let scene = Scene::new();
    let first = scene.backup();
    fs::write(scene.source.path().join("model"), repo::noise("another", 20_000)).unwrap();
    scene.backup();
    // A maintainer whose clock is years behind.
    let repository = scene.open(&scene.vault.credential, at("2001-01-01T00:00:00Z"));
    repository.forget(&first, "test").unwrap();
    scene.server.advance(DAY * 5);
    let options = PruneOptions { wait_max: Duration::ZERO, keep_trash: DAY * 7, ..PruneOptions::default() };
    for wrong in ["2001-01-01T00:00:00Z", "2106-02-07T06:00:00Z"] {
        let repository = scene.open(&scene.vault.credential, at(wrong));
        let report = prune::run(&repository, &options, &Hears::nobody()).unwrap();
        assert_eq!((report.snapshots_removed, report.packs_deleted), (0, 0), "{wrong}: {report:?}");
    }
    scene.server.advance(DAY * 3);
    let report = prune::run(&scene.open_honestly(), &options, &Hears::nobody()).unwrap();
    assert_eq!(report.snapshots_removed, 1, "{report:?}");
}

#[test]
fn where_creates_may_overwrite_what_is_marked_waits_by_the_time_of_the_server() {
    let mut scene = Scene::new();
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::with_clock(Arc::clone(&scene.server) as Arc<dyn Clock>));
    repo::create_on(backend.as_ref(), &scene.vault.credential, false).unwrap();
    scene.vault.backend = backend;
    let first = scene.backup();
    fs::write(scene.source.path().join("model"), repo::noise("another", 20_000)).unwrap();
    scene.server.advance(HOUR);
    scene.backup();
    scene.open_honestly().forget(&first, "test").unwrap();
    // Marked under a clock that is years behind, and then under one that is years ahead.
    let marking = scene.prune(&scene.open(&scene.vault.credential, at("1990-01-01T00:00:00Z")));
    assert!(marking.by_grace && marking.packs_waiting > 0, "{marking:?}");
    for wrong in ["1990-01-01T00:00:00Z", "2106-02-07T06:00:00Z"] {
        scene.server.advance(DAY * 3);
        let waiting = scene.prune(&scene.open(&scene.vault.credential, at(wrong)));
        assert_eq!((waiting.packs_deleted, waiting.packs_waiting), (0, marking.packs_waiting), "{wrong}: {waiting:?}");
    }
    scene.server.advance(DAY * 2);
    let sweeping = scene.prune(&scene.open(&scene.vault.credential, at("1990-01-01T00:00:00Z")));
    assert_eq!(sweeping.packs_deleted, marking.packs_waiting, "{sweeping:?}");
    assert!(scene.vault.keys_under(layout::TOMBSTONES).is_empty());
}

#[test]
fn a_backup_says_that_its_clock_is_wrong_and_is_made_all_the_same() {
    let scene = Scene::new();
    let options = BackupOptions::of_paths([scene.source.path()]);
    for (ours, off) in
        [("2026-06-01T00:04:00Z", None), ("2026-06-01T00:06:00Z", Some(360)), ("2026-05-31T23:00:00Z", Some(-3600))]
    {
        let notes = Arc::new(Notes::default());
        let hears = Hears::new(Arc::clone(&notes) as Arc<dyn Monitor>, Cancel::default());
        let summary = backup::run(&scene.open(&scene.vault.credential, at(ours)), &options, &hears).unwrap();
        assert_eq!(summary.clock_off_seconds, off, "{ours}");
        assert!(summary.snapshot.is_some() && summary.record.problem_count == 0, "{:?}", summary.record);
        let said = notes.0.lock().unwrap().iter().filter(|note| note.contains("clock of this machine")).count();
        assert_eq!(said, usize::from(off.is_some()), "{ours}");
    }
}

#[test]
fn nothing_is_forgotten_by_policy_where_the_clocks_cannot_both_be_right() {
    let scene = Scene::new();
    scene.backup();
    let spec = PolicySpec { keep_within: Some("1d".into()), ..PolicySpec::default() };
    let what = ForgetChoice::Policy {
        policy: spec.policy().unwrap(),
        name: "test".to_owned(),
        zone: TimeZone::UTC,
        group: None,
    };
    let ahead = scene.open(&scene.vault.credential, at("2036-06-01T00:00:00Z"));
    assert!(matches!(retention::plan(&ahead, &what, 100), Err(Error::Refused(_))));
    // A little off is no reason to stop, and then the server's time counts.
    let little = scene.open(&scene.vault.credential, scene.server.now() + SignedDuration::from_mins(50));
    assert!(retention::plan(&little, &what, 100).unwrap().decisions.iter().all(|decision| decision.keep));
}
