//! A year of nights: what status, alerts and report say each morning, against what the simulation knows.
//!
//! Goal: nobody is called without a reason, and whatever goes wrong calls somebody the next morning, until it is mended.
//! Method: two deployments are backed up for 400 nights under a clock of the test, while jobs are missed, fail, are killed, lose
//! files, find a full bucket, a rotten pack and a thief. A model keeps what must be true. Each morning it is compared with the
//! status; at the end, Prometheus's own engine (promtool) evaluates the alerts over the metrics of all mornings, and the report is
//! compared with what is kept.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use mlvault::backend::memory::MemoryBackend;
use mlvault::backend::{Backend, Listed};
use mlvault::backup::{self, BackupOptions, BackupSource};
use mlvault::check::{self, CheckOptions, ReadData};
use mlvault::clock::Clock;
use mlvault::config::deployment::{DeploymentFlags, artifact_places, resolve};
use mlvault::config::file::{ConfigFile, DeploymentSection};
use mlvault::crypto::passphrase::Credential;
use mlvault::error::{Error, Fault, Result};
use mlvault::format::evidence::{DrillResult, Says};
use mlvault::format::key_slot::Role;
use mlvault::hears::Hears;
use mlvault::id::SessionId;
use mlvault::objectives::{Objective, Objectives};
use mlvault::procedures::accept::{self, Losses};
use mlvault::procedures::drill::{self, DrillOptions, DrillSettings};
use mlvault::procedures::forget_and_prune::{self, ForgetAndPruneOptions};
use mlvault::prune::PruneOptions;
use mlvault::repository::memory_plan::MEMORY_LIMIT_MIN;
use mlvault::repository::naming::Scope;
use mlvault::repository::snapshots::Snapshot;
use mlvault::repository::{OpenOptions, Repository};
use mlvault::retention::policy::{Policy, PolicySpec};
use mlvault::retention::{self, ForgetChoice};
use mlvault::source::deployment::Deployment;
use mlvault::source::filter::OwnPlaces;
use mlvault::status::metrics::{self, Up};
use mlvault::status::{self, AlarmKind, Expected, Status, StatusOptions, report};
use tempfile::TempDir;

use crate::support::mlflow_rows::{EXPERIMENT, VERSION_AT_M, insert_runs};
use crate::support::repo::{Vault, key_file, noise, passed_drill};
use crate::support::sqlite_file::create_mlflow;
use crate::support::thief::forge_evidence;
use crate::support::tool;

const NIGHTS: i64 = 400;
/// 2026-01-01T00:00:00Z.
const FIRST_DAY: i64 = 1_767_225_600;
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// When the job runs, when what follows it runs, and when somebody looks.
const BACKUP_AT: i64 = 2 * HOUR;
const LOOK_AT: i64 = 8 * HOUR;
/// The Monday on which the calendar of the last night begins.
const FIRST_SHOWN: i64 = 32;
/// What is expected.
const RPO: i64 = 26 * HOUR;
const CHECK_WITHIN: i64 = 8 * DAY;
const DRILL_WITHIN: i64 = 10 * DAY;
/// Rows of a database that is as it should be.
const RUNS: u32 = 150;

/// The nights on which something goes wrong, of `production` where nothing else is said.
const MISSED: Range<i64> = 30..33;
const REFUSED: i64 = 60;
const KILLED: Range<i64> = 70..72;
const LOST: Range<i64> = 90..95;
const ACCEPTED: Range<i64> = 120..150;
const EMPTIED: i64 = 200;
const ROTTEN: Range<i64> = 250..255;
const FORGED: i64 = 300;
/// The first night of `staging`, which is configured from the start.
const STAGING_FROM: i64 = 10;

struct Watch(Arc<AtomicI64>);

impl Clock for Watch {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.0.load(Ordering::SeqCst)).unwrap()
    }

    fn sleep(&self, time: Duration) {
        self.0.fetch_add(time.as_secs() as i64 + 1, Ordering::SeqCst);
    }
}

/// A bucket to which so many writes go through before it is full, or the process is gone.
struct Bucket {
    store: Arc<MemoryBackend>,
    writes_left: AtomicUsize,
}

impl Backend for Bucket {
    fn location(&self) -> String {
        "a year".to_owned()
    }

    fn create(&self, key: &str, bytes: Bytes) -> Result<()> {
        let taken = self.writes_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match taken {
            Ok(_) => self.store.create(key, bytes),
            Err(_) => Err(Error::backend(Fault::Other, "create", key, "the bucket is full")),
        }
    }

    fn read_up_to(&self, key: &str, bytes_max: u64) -> Result<Bytes> {
        self.store.read_up_to(key, bytes_max)
    }

    fn read_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.store.read_range(key, range)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.store.list(prefix)
    }

    fn remove(&self, key: &str) -> Result<()> {
        self.store.remove(key)
    }

    fn server_time(&self) -> Result<Option<Timestamp>> {
        self.store.server_time()
    }

    fn concurrency(&self) -> usize {
        2
    }
}

/// A deployment on disk, and what the simulation knows of its snapshots.
struct Team {
    name: &'static str,
    folder: PathBuf,
    deployment: Deployment,
    /// When the last good snapshot was begun.
    last_good: Option<i64>,
    incomplete_in_a_row: u64,
    has_any: bool,
    is_shrunk: bool,
    /// When its accepted losses count again, if its newest snapshot has some.
    acceptance_end: Option<i64>,
    /// Complete snapshots that are kept, with their nights.
    kept: BTreeMap<SessionId, i64>,
}

impl Team {
    fn create(directory: &TempDir, name: &'static str) -> Self {
        let folder = directory.path().join(name);
        fs::create_dir_all(folder.join("artifacts/1/m")).unwrap();
        fs::write(folder.join("artifacts/1/m/weights"), noise(name, 60_000)).unwrap();
        let database = create_mlflow(&folder.join("mlflow.db"));
        database.execute_batch(EXPERIMENT).unwrap();
        database.execute_batch(VERSION_AT_M).unwrap();
        let section = DeploymentSection {
            backend_store_uri: Some(format!("sqlite:///{}", folder.join("mlflow.db").display())),
            artifacts: artifact_places(&[format!("mlflow-artifacts:/={}", folder.join("artifacts").display())])
                .unwrap(),
            ..DeploymentSection::default()
        };
        let flags = DeploymentFlags { name: Some(name.to_owned()), section, ..DeploymentFlags::default() };
        let deployment = resolve(&ConfigFile::default(), &flags, &|_| None).unwrap();
        let team = Self {
            name,
            folder,
            deployment,
            last_good: None,
            incomplete_in_a_row: 0,
            has_any: false,
            is_shrunk: false,
            acceptance_end: None,
            kept: BTreeMap::new(),
        };
        team.set_runs(RUNS);
        team
    }

    /// The work of a day: one run more, or a database that somebody has emptied.
    fn set_runs(&self, runs: u32) {
        let mut database = rusqlite::Connection::open(self.folder.join("mlflow.db")).unwrap();
        let transaction = database.transaction().unwrap();
        transaction.execute_batch("DELETE FROM runs").unwrap();
        insert_runs(&transaction, runs);
        transaction.commit().unwrap();
    }

    fn source(&self) -> String {
        format!("deployment {}", self.name)
    }

    fn set_lost(&self, is_lost: bool) {
        let (here, away) = (self.folder.join("artifacts/1/m"), self.folder.join("away"));
        match (is_lost, here.exists()) {
            (true, true) => fs::rename(here, away).unwrap(),
            (false, false) => fs::rename(away, here).unwrap(),
            _ => {}
        }
    }
}

/// What is told each morning, to be evaluated by Prometheus.
#[derive(Default)]
struct Mornings {
    series: BTreeMap<String, Vec<Option<f64>>>,
    expected: Vec<BTreeSet<(&'static str, String)>>,
}

impl Mornings {
    /// Takes in the metrics of a morning. Prometheus's tests begin at 1970, so times are counted from the first morning.
    fn take(&mut self, encoded: &str, expected: BTreeSet<(&'static str, String)>) {
        let number = self.expected.len();
        for line in encoded.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let is_time = name.split('{').next().unwrap().ends_with("_timestamp_seconds");
            let begin = if is_time { (FIRST_DAY + LOOK_AT) as f64 } else { 0.0 };
            let values = self.series.entry(name.to_owned()).or_default();
            values.resize(number, None);
            values.push(Some(value.parse::<f64>().unwrap() - begin));
        }
        self.expected.push(expected);
    }

    fn test_file(&self, rules: &str) -> String {
        let mut file =
            format!("rule_files: [{rules}]\nevaluation_interval: 1d\ntests:\n  - interval: 1d\n    input_series:\n");
        for (name, values) in &self.series {
            let values: Vec<String> =
                values.iter().map(|value| value.map_or_else(|| "_".to_owned(), |value| value.to_string())).collect();
            writeln!(file, "      - {{series: '{name}', values: '{}'}}", values.join(" ")).unwrap();
        }
        file += "    promql_expr_test:\n";
        for (number, expected) in self.expected.iter().enumerate() {
            file += "      - expr: 'group by (alertname, source) (ALERTS{alertstate=\"firing\"})'\n";
            writeln!(file, "        eval_time: {number}d\n        exp_samples:").unwrap();
            for (alert, source) in expected {
                let source = if source.is_empty() { String::new() } else { format!(", source=\"{source}\"") };
                writeln!(file, "          - {{labels: '{{alertname=\"{alert}\"{source}}}', value: 1}}").unwrap();
            }
        }
        file
    }
}

struct Year {
    seconds: Arc<AtomicI64>,
    store: Arc<MemoryBackend>,
    maintainer: Credential,
    writer: Credential,
    teams: [Team; 2],
    policy: Policy,
    last_clean_check: Option<i64>,
    is_check_failed: bool,
    last_good_drill: Option<i64>,
    is_drill_failed: bool,
    is_forged: bool,
    /// Packs as they were before they rotted.
    sound: Cell<Vec<(String, Bytes)>>,
    scratch: TempDir,
    mornings: Mornings,
    /// What the outlook of a morning said that would go, and by when.
    outlook: Option<(BTreeSet<SessionId>, i64)>,
    forgotten_since: BTreeSet<SessionId>,
    outlooks_compared: u32,
    _directory: TempDir,
}

impl Year {
    fn begin() -> Self {
        let seconds = Arc::new(AtomicI64::new(FIRST_DAY));
        let store = Arc::new(MemoryBackend::with_clock(Arc::new(Watch(Arc::clone(&seconds)))));
        let vault = Vault::create(Arc::clone(&store) as Arc<dyn Backend>);
        let (_, writer) = key_file();
        let directory = TempDir::new().unwrap();
        let year = Self {
            teams: ["production", "staging"].map(|name| Team::create(&directory, name)),
            seconds,
            store,
            maintainer: vault.credential,
            writer,
            policy: PolicySpec::preset("production").unwrap().policy().unwrap(),
            last_clean_check: None,
            is_check_failed: false,
            last_good_drill: None,
            is_drill_failed: false,
            is_forged: false,
            sound: Cell::default(),
            scratch: TempDir::new().unwrap(),
            mornings: Mornings::default(),
            outlook: None,
            forgotten_since: BTreeSet::new(),
            outlooks_compared: 0,
            _directory: directory,
        };
        year.open(&year.maintainer, usize::MAX).add_key("nightly", Role::Writer, &year.writer).unwrap();
        year
    }

    /// Opens the repository as a process of its own.
    fn open(&self, key: &Credential, writes: usize) -> Arc<Repository> {
        let backend = Bucket { store: Arc::clone(&self.store), writes_left: AtomicUsize::new(writes) };
        let clock = Arc::new(Watch(Arc::clone(&self.seconds)));
        let options = OpenOptions { memory_limit: MEMORY_LIMIT_MIN, clock, ..OpenOptions::default() };
        Repository::open(Arc::new(backend), key, &options).unwrap()
    }

    fn set_time(&self, night: i64, of_day: i64) {
        self.seconds.store(FIRST_DAY + night * DAY + of_day, Ordering::SeqCst);
    }

    fn day(&mut self, night: i64) {
        self.happen(night);
        for team in 0..self.teams.len() {
            self.back_up(night, team);
        }
        match night % 7 {
            0 => self.check(night),
            1 => self.drill(night),
            5 => self.forget_and_prune(night),
            _ => {}
        }
        self.look(night);
    }

    /// What befalls the deployments and the repository.
    fn happen(&mut self, night: i64) {
        self.set_time(night, HOUR);
        let production = &self.teams[0];
        production.set_lost(LOST.contains(&night) || (ACCEPTED.start..=ACCEPTED.end).contains(&night));
        production.set_runs(if night == EMPTIED { 0 } else { RUNS + night as u32 % 5 });
        if night == ROTTEN.start {
            let packs = self.store.list("packs/data/").unwrap();
            let sound: Vec<_> =
                packs.into_iter().map(|pack| (pack.key.clone(), self.store.read(&pack.key).unwrap())).collect();
            for (pack, sound) in &sound {
                let mut rotten = sound.to_vec();
                rotten[sound.len() / 2] ^= 1;
                self.store.overwrite(pack, rotten);
            }
            self.sound.set(sound);
        }
        if night == ROTTEN.end {
            self.sound.take().into_iter().for_each(|(pack, sound)| self.store.overwrite(&pack, sound));
        }
        if night == FORGED {
            let says = Says::Drill(Box::new(passed_drill("production")));
            let thief = self.open(&self.writer, usize::MAX);
            forge_evidence(&thief, Timestamp::from_second(self.seconds.load(Ordering::SeqCst)).unwrap(), says);
            self.is_forged = true;
        }
    }

    fn back_up(&mut self, night: i64, number: usize) {
        let is_production = number == 0;
        if is_production && MISSED.contains(&night) || !is_production && night < STAGING_FROM {
            return;
        }
        self.set_time(night, BACKUP_AT + number as i64 * HOUR);
        let writes = match night {
            REFUSED if is_production => 0,
            _ if is_production && KILLED.contains(&night) => 2,
            _ => usize::MAX,
        };
        let began = self.seconds.load(Ordering::SeqCst);
        let repository = self.open(&self.writer, writes);
        let what = BackupSource::Deployment(Box::new(self.teams[number].deployment.clone()));
        let ended = backup::run(&repository, &BackupOptions::new(what), &Hears::nobody());
        if writes < usize::MAX {
            assert!(ended.is_err(), "night {night}: the bucket was full");
            return;
        }
        let summary = ended.unwrap();
        let is_lost = is_production && LOST.contains(&night);
        // The acceptance is made after the first night of these, and is over before the last.
        let is_new_loss = is_production && (night == ACCEPTED.start || night == ACCEPTED.end);
        let is_complete = summary.record.problem_count == 0;
        assert_eq!(is_complete, !is_lost && !is_new_loss, "night {night}: {:?}", summary.record.problems);
        let has_accepted = is_production && ACCEPTED.contains(&night) && night != ACCEPTED.start;
        assert_eq!(!summary.record.accepted.is_empty(), has_accepted, "night {night}");
        let team = &mut self.teams[number];
        team.has_any = true;
        if is_complete {
            team.last_good = Some(began);
            team.incomplete_in_a_row = 0;
            team.is_shrunk = is_production && night == EMPTIED;
            team.kept.insert(summary.snapshot.unwrap(), night);
        } else {
            team.incomplete_in_a_row += 1;
        }
        team.acceptance_end = has_accepted.then_some(FIRST_DAY + ACCEPTED.end * DAY);
        if is_production && night == ACCEPTED.start {
            self.accept(summary.snapshot.unwrap());
        }
    }

    fn accept(&self, latest: SessionId) {
        let repository = self.open(&self.maintainer, usize::MAX);
        let list = repository.list_snapshots().unwrap();
        let latest = list.snapshots.iter().find(|snapshot| snapshot.id == latest).unwrap();
        let until = Timestamp::from_second(FIRST_DAY + ACCEPTED.end * DAY).unwrap();
        accept::accept(&repository, latest, Losses::All, "disk 7", until).unwrap();
    }

    fn check(&mut self, night: i64) {
        self.set_time(night, 5 * HOUR);
        let repository = self.open(&self.maintainer, usize::MAX);
        let options = CheckOptions { read_data: ReadData::All };
        let found = check::run(&repository, &options, &Hears::nobody()).unwrap();
        assert_eq!(found.is_clean(), !ROTTEN.contains(&night), "night {night}: {:#?}", found.problems);
        let says = check::evidence(&options, &found, Duration::from_secs(1));
        repository.write_evidence(Says::Check(says)).unwrap();
        self.is_check_failed = !found.is_clean();
        if found.is_clean() {
            self.last_clean_check = Some(self.seconds.load(Ordering::SeqCst));
        }
    }

    /// Restores the last good snapshot of `production`, for nobody.
    fn drill(&mut self, night: i64) {
        self.set_time(night, 5 * HOUR);
        let repository = self.open(&self.maintainer, usize::MAX);
        let list = repository.list_snapshots().unwrap();
        let is_good = |snapshot: &&Snapshot| {
            snapshot.record.source.group() == self.teams[0].source() && !snapshot.is_incomplete()
        };
        let snapshot = list.snapshots.iter().rev().find(is_good).unwrap();
        let settings = DrillSettings {
            scratch_directory: Some(self.scratch.path().to_owned()),
            samples: 5,
            ..DrillSettings::default()
        };
        let options = DrillOptions {
            settings,
            source: self.teams[0].deployment.clone(),
            own_places: OwnPlaces::new(),
            seed: night as u64,
            keep: false,
            retention: None,
            doubts: Vec::new(),
        };
        let drilled = drill::run(&repository, snapshot, &options, &Hears::nobody()).unwrap();
        let failures = &drilled.evidence.failures;
        let is_failed = drilled.evidence.result == DrillResult::Failed;
        assert_eq!(is_failed, ROTTEN.contains(&night), "night {night}: {failures:?}");
        assert_eq!(fs::read_dir(self.scratch.path()).unwrap().count(), 0, "night {night}");
        repository.write_evidence(Says::Drill(Box::new(drilled.evidence))).unwrap();
        self.is_drill_failed = is_failed;
        if !is_failed {
            self.last_good_drill = Some(self.now());
        }
        // What was forged is older now than what is proven.
        self.is_forged = false;
    }

    fn forget_and_prune(&mut self, night: i64) {
        self.set_time(night, 6 * HOUR);
        let repository = self.open(&self.maintainer, usize::MAX);
        let what = ForgetChoice::Policy {
            policy: self.policy.clone(),
            name: "production".to_owned(),
            zone: TimeZone::UTC,
            group: None,
        };
        let plan = retention::plan(&repository, &what, 50).unwrap();
        let prune = PruneOptions {
            wait_max: Duration::ZERO,
            session_age_max: Duration::ZERO,
            keep_trash: SignedDuration::ZERO,
            ..PruneOptions::default()
        };
        let options = ForgetAndPruneOptions { force: false, prune: Some(prune) };
        // What is rotten is not moved, and prune says so.
        let done = forget_and_prune::run(&repository, &plan, &options, &Hears::nobody());
        assert!(done.is_ok() || ROTTEN.contains(&night), "night {night}: {:?}", done.err());
        for gone in plan.forgotten() {
            self.teams.iter_mut().for_each(|team| {
                team.kept.remove(&gone.id);
            });
            self.forgotten_since.insert(gone.id);
        }
    }

    fn options(&self) -> StatusOptions {
        let within = |seconds| Some(Objective::Within(SignedDuration::from_secs(seconds)));
        let expected = self.teams.iter().map(|team| Expected {
            deployment: team.name.to_owned(),
            objectives: Objectives {
                check: within(CHECK_WITHIN),
                drill: (team.name == "production").then(|| within(DRILL_WITHIN)).flatten(),
                ..Objectives::default()
            },
            policy: Some(("production".to_owned(), self.policy.clone())),
        });
        StatusOptions { scope: Scope::Any, expected: expected.collect(), age_max: None, zone: TimeZone::UTC }
    }

    /// Compares a morning's status with what must be true.
    fn look(&mut self, night: i64) {
        self.set_time(night, LOOK_AT);
        let repository = self.open(&self.maintainer, usize::MAX);
        let status = status::look(&repository, &self.options(), &Hears::nobody()).unwrap();
        let said: BTreeSet<_> =
            status.alarms.iter().map(|alarm| (alarm.kind, alarm.source.clone().unwrap_or_default())).collect();
        let expected = self.expected_alarms();
        assert_eq!(said, expected, "morning {night}: {:#?}", status.alarms);
        for team in &self.teams {
            let source = status.sources.iter().find(|source| source.deployment.as_deref() == Some(team.name)).unwrap();
            let good = source.last_good.as_ref();
            assert_eq!(good.map(|good| good.as_of.as_second()), team.last_good, "morning {night}");
            assert_eq!(source.incomplete_in_a_row, team.incomplete_in_a_row, "morning {night}");
        }
        let encoded = metrics::encode(Some(&status), Up::Yes).unwrap();
        self.mornings.take(&encoded, self.expected_alerts());
        self.compare_outlook(night, &status);
    }

    fn now(&self) -> i64 {
        self.seconds.load(Ordering::SeqCst)
    }

    fn expected_alarms(&self) -> BTreeSet<(AlarmKind, String)> {
        let mut expected = BTreeSet::new();
        for team in &self.teams {
            let mut raise = |kind| {
                expected.insert((kind, team.source()));
            };
            match (team.has_any, team.last_good) {
                (false, _) => raise(AlarmKind::NeverBackedUp),
                (true, None) => raise(AlarmKind::NoCompleteSnapshot),
                (true, Some(good)) => {
                    if self.now() - good > RPO {
                        raise(AlarmKind::Overdue);
                    }
                    if team.incomplete_in_a_row > 0 {
                        raise(AlarmKind::Incomplete);
                    }
                    if team.is_shrunk {
                        raise(AlarmKind::Shrunk);
                    }
                }
            }
        }
        let mut raise = |kind| {
            expected.insert((kind, String::new()));
        };
        if self.is_check_failed {
            raise(AlarmKind::CheckFailed);
        }
        if self.last_clean_check.is_none_or(|clean| self.now() - clean > CHECK_WITHIN) {
            raise(AlarmKind::CheckOverdue);
        }
        let mut raise = |kind| {
            expected.insert((kind, self.teams[0].source()));
        };
        if self.is_forged {
            raise(AlarmKind::EvidenceDoubted);
        }
        if self.is_drill_failed {
            raise(AlarmKind::DrillFailed);
        }
        if self.last_good_drill.is_none_or(|good| self.now() - good > DRILL_WITHIN) {
            raise(AlarmKind::DrillOverdue);
        }
        expected
    }

    fn expected_alerts(&self) -> BTreeSet<(&'static str, String)> {
        let alert = |(kind, source): (AlarmKind, String)| {
            let name = match kind {
                AlarmKind::NeverBackedUp | AlarmKind::NoCompleteSnapshot => "MlvaultNoGoodBackup",
                AlarmKind::Overdue => "MlvaultBackupOverdue",
                AlarmKind::Incomplete => "MlvaultBackupIncomplete",
                AlarmKind::Shrunk => "MlvaultBackupShrunk",
                AlarmKind::CheckFailed => "MlvaultRepositoryDamaged",
                AlarmKind::CheckOverdue => "MlvaultCheckOverdue",
                AlarmKind::EvidenceDoubted => "MlvaultEvidenceDoubted",
                AlarmKind::DrillFailed => "MlvaultDrillFailed",
                AlarmKind::DrillOverdue => "MlvaultDrillOverdue",
                other => panic!("{other:?} does not happen here"),
            };
            (name, source)
        };
        let mut alerts: BTreeSet<_> = self.expected_alarms().into_iter().map(alert).collect();
        for team in &self.teams {
            if team.acceptance_end.is_some_and(|end| end - self.now() < 14 * DAY) {
                alerts.insert(("MlvaultAcceptanceEnds", team.source()));
            }
        }
        alerts
    }

    /// What an outlook said has come about four weeks later, if every night was good.
    fn compare_outlook(&mut self, night: i64, status: &Status) {
        if let Some((foretold, until)) = self.outlook.take_if(|(_, until)| *until == night) {
            assert_eq!(self.forgotten_since, foretold, "from {} to {until}", until - 28);
            assert!(!foretold.is_empty());
            self.outlooks_compared += 1;
        }
        // After a night on which what is due goes.
        if night % 7 == 5
            && [100, 310, 345].iter().any(|from| (*from..from + 7).contains(&night))
            && self.outlook.is_none()
        {
            let end = Timestamp::from_second(self.now() + 28 * DAY).unwrap();
            let next = status.sources.iter().filter_map(|source| source.retention.as_ref()).flat_map(|outlook| {
                assert!(outlook.due.is_empty(), "morning {night}: {:?}", outlook.due);
                outlook.next.iter().filter(|next| next.on <= end).map(|next| next.snapshot)
            });
            self.outlook = Some((next.collect(), night + 28));
            self.forgotten_since.clear();
        }
    }

    fn report(&self) -> String {
        let repository = self.open(&self.maintainer, usize::MAX);
        let options = self.options();
        let (status, history) = status::look_back(&repository, &options, report::SPAN, &Hears::nobody()).unwrap();
        report::html(&status, &history, &options.zone)
    }
}

#[test]
fn each_morning_of_a_year_status_and_alerts_say_what_is_true() {
    let mut year = Year::begin();
    (0..NIGHTS).for_each(|night| year.day(night));
    assert!(year.outlooks_compared >= 2, "{}", year.outlooks_compared);

    let directory = TempDir::new().unwrap();
    fs::copy(
        concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus/mlvault.rules.yml"),
        directory.path().join("rules.yml"),
    )
    .unwrap();
    fs::write(directory.path().join("year.yml"), year.mornings.test_file("rules.yml")).unwrap();
    let tested =
        Command::new(tool("promtool")).args(["test", "rules", "year.yml"]).current_dir(directory.path()).output();
    let tested = tested.unwrap();
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stderr));

    let page = year.report();
    for team in &year.teams {
        let shown: BTreeSet<i64> = team.kept.values().copied().filter(|night| *night >= FIRST_SHOWN).collect();
        let said = format!("{} days with a complete snapshot that is kept", shown.len());
        assert!(page.contains(&said), "{}: {said}", team.name);
    }
    assert!(
        page.contains("All is well") && page.contains("days with a drill that passed, 1 with one that failed"),
        "{page}"
    );
}
