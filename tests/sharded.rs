//! A backup by several processes is the backup that one process makes, whoever is killed, late or run twice.
//!
//! Method: the steps as a library, each with a repository opened anew, as a process of its own would. One process backs the same
//! deployment up into the same repository, reading everything, and both snapshots must have the same roots and say the same.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mlvault::backup::sharded::{self, PlanName, Shards};
use mlvault::backup::{self, BackupOptions, BackupSource, BackupSummary};
use mlvault::crypto::passphrase::Credential;
use mlvault::database::DatabaseUri;
use mlvault::error::{Error, Result};
use mlvault::format::deployment::Verdict;
use mlvault::format::key_slot::Role;
use mlvault::format::plan::PlanObject;
use mlvault::format::snapshot::{Component, SnapshotRecord};
use mlvault::hears::Hears;
use mlvault::id::ChunkId;
use mlvault::mlflow::schema::Store;
use mlvault::path_range::PathRange;
use mlvault::prune::{self, PruneLimits, PruneOptions, PruneReport};
use mlvault::repository::Repository;
use mlvault::s3::S3Options;
use mlvault::source::deployment::{ArtifactPlace, ArtifactRoot, Deployment};
use mlvault::source::directory::DirectorySource;
use mlvault::source::filter::{Exclusions, Filter};
use mlvault::source::{Found, Source};
use tempfile::TempDir;

use crate::support::buckets::put;
use crate::support::cli::Runner;
use crate::support::deployment::{Place, ThreeDays, assert_whole, snapshot_of};
use crate::support::fault_server::Answer;
use crate::support::mlflow_rows::{Numbers, literal};
use crate::support::recording_proxy::RecordingProxy;
use crate::support::repo::{Vault, WatchedBackend, key_file, noise, prose};
use crate::support::s3_server::{BUCKET, Program, S3Server};
use crate::support::sqlite_file::create_mlflow;

const EXPERIMENTS: u64 = 3;
const RUNS: u64 = 12;

fn named(name: &str) -> PlanName {
    PlanName { name: name.to_owned(), wait_max: Duration::ZERO }
}

/// A deployment with artifacts at a place, and perhaps a database.
fn options(place: ArtifactPlace, database: Option<&Path>) -> BackupOptions {
    let uri = |path: &Path| DatabaseUri::parse(&format!("sqlite:///{}", path.display()), None).unwrap();
    let deployment = Deployment {
        name: "production".to_owned(),
        databases: database.map(|path| (Store::Backend, uri(path))).into_iter().collect(),
        artifacts: vec![ArtifactRoot { uri: "mlflow-artifacts:/".to_owned(), place }],
        excluded: Vec::new(),
        keys: Vec::new(),
        tracking: None,
        metadata_optional: false,
    };
    let exclusions = Exclusions { larger_than: Some(300_000), ..Exclusions::default() };
    BackupOptions { exclusions, ..BackupOptions::new(BackupSource::Deployment(Box::new(deployment))) }
}

fn in_directory(directory: &Path) -> ArtifactPlace {
    ArtifactPlace::Directory(directory.to_owned())
}

fn in_bucket(options: S3Options) -> ArtifactPlace {
    ArtifactPlace::Bucket(format!("s3://{BUCKET}/mlflow").parse().unwrap(), Box::new(options))
}

fn run_id(experiment: u64, run: u64) -> String {
    blake3::hash(format!("{experiment} {run}").as_bytes()).to_hex()[..32].to_owned()
}

/// Files as MLflow lays them out, with some that nobody claims and names that sort oddly.
fn files() -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for (experiment, run) in (1..=EXPERIMENTS).flat_map(|experiment| (0..RUNS).map(move |run| (experiment, run))) {
        let place = format!("{experiment}/{}/artifacts", run_id(experiment, run));
        files.insert(format!("{place}/model/MLmodel"), prose(&place, 900));
        files.insert(format!("{place}/model/weights.bin"), noise(&place, 20_000 + 977 * run as usize));
        files.insert(format!("{place}/plot.png"), noise(&format!("{place} plot"), 3000));
    }
    for odd in ["1-old/x", "1.txt", "2/zz/left.tmp", "2 copy/a", "3/huge.bin", "é/ü"] {
        files.insert(odd.to_owned(), noise(odd, if odd.ends_with("huge.bin") { 400_000 } else { 70 }));
    }
    files
}

fn write_files(directory: &Path) {
    for (path, content) in files() {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

/// Rows for the files: a version for the model of each run, and one whose files are nowhere.
fn write_rows(database: &Path) {
    let mut sql = String::new();
    let mut numbers = Numbers(1);
    sql.push_str("INSERT INTO registered_models (name) VALUES ('detector');");
    for experiment in 1..=EXPERIMENTS {
        let name = literal(&format!("{experiment} {}", numbers.odd_text()));
        sql.push_str(&format!(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) \
             VALUES ({experiment}, {name}, 'mlflow-artifacts:/{experiment}', 'active');"
        ));
        for run in 0..RUNS {
            let (id, version) = (run_id(experiment, run), experiment * 100 + run);
            let place = format!("mlflow-artifacts:/{experiment}/{id}/artifacts");
            sql.push_str(&format!(
                "INSERT INTO runs (run_uuid, name, experiment_id, artifact_uri, lifecycle_stage, status) \
                 VALUES ('{id}', 'r', {experiment}, '{place}', 'active', 'FINISHED'); \
                 INSERT INTO model_versions (name, version, source, run_id, status, current_stage) \
                 VALUES ('detector', {version}, '{place}/model', '{id}', 'READY', 'None');"
            ));
        }
    }
    sql.push_str(
        "INSERT INTO model_versions (name, version, source, status, current_stage) \
         VALUES ('detector', 9, 'mlflow-artifacts:/2/gone/artifacts/model', 'READY', 'None');",
    );
    create_mlflow(database).execute_batch(&sql).unwrap();
}

/// Makes every step but the last one, in no order that anybody would choose.
fn plan_and_shards(vault: &Vault, options: &BackupOptions, name: &str, shards: u32) {
    let planned =
        sharded::plan(&vault.open().unwrap(), options, &named(name), Shards::here(shards), &Hears::nobody()).unwrap();
    assert!(!planned.was_there && planned.record.shards == shards);
    for number in (0..shards).rev() {
        let done = sharded::shard(&vault.open().unwrap(), options, &named(name), number, &Hears::nobody()).unwrap();
        assert!(!done.was_there);
    }
}

fn close(vault: &Vault, options: &BackupOptions, name: &str) -> Result<BackupSummary> {
    sharded::close(&vault.open()?, options, &named(name), &Hears::nobody())
}

fn by_shards(vault: &Vault, options: &BackupOptions, name: &str, shards: u32) -> SnapshotRecord {
    plan_and_shards(vault, options, name, shards);
    close(vault, options, name).unwrap().record
}

fn by_one(vault: &Vault, options: &BackupOptions) -> SnapshotRecord {
    let options = BackupOptions { force: true, ..options.clone() };
    backup::run(&vault.open().unwrap(), &options, &Hears::nobody()).unwrap().record
}

/// The components but for the dump, which has the time of its instant.
fn trees(record: &SnapshotRecord) -> Vec<(&str, ChunkId, u64, u64)> {
    let of = |component: &'_ Component| component.name != "database";
    let components = record.components.iter().filter(|component| of(component));
    components.map(|it| (it.name.as_str(), it.root, it.entries, it.bytes)).collect()
}

/// Fails unless two snapshots say the same of the same deployment.
#[track_caller]
fn assert_same(sharded: &SnapshotRecord, one: &SnapshotRecord) {
    assert_eq!(trees(sharded), trees(one));
    assert_eq!(sharded.problems, one.problems);
    assert_eq!((sharded.problem_count, sharded.completeness), (one.problem_count, one.completeness));
    let names = |record: &SnapshotRecord| record.components.iter().map(|it| it.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(sharded), names(one));
    let completeness = |record: &SnapshotRecord| record.components.iter().map(|it| it.completeness).collect::<Vec<_>>();
    assert_eq!(completeness(sharded), completeness(one));
    let (left, right) = (sharded.deployment.as_ref().unwrap(), one.deployment.as_ref().unwrap());
    assert_eq!((left.verdicts, left.references, &left.databases), (right.verdicts, right.references, &right.databases));
    assert_eq!((&left.roots, &left.excluded, &left.lossy), (&right.roots, &right.excluded, &right.lossy));
    let (mut unread, mut expected) = (sharded.coverage.clone().unwrap(), one.coverage.clone().unwrap());
    unread.unread.sort();
    expected.unread.sort();
    assert_eq!(unread, expected);
}

fn prune_with(vault: &Vault, session_age_max: Duration) -> PruneReport {
    let limits = PruneLimits { unused_percent_max: 0.0, ..PruneLimits::default() };
    let options = PruneOptions { limits, session_age_max, wait_max: Duration::ZERO, ..PruneOptions::default() };
    prune::run(&vault.open().unwrap(), &options, &Hears::nobody()).unwrap()
}

const LONG: Duration = Duration::from_secs(86_400);

#[test]
fn any_number_of_shards_makes_the_trees_of_one_process_from_a_directory() {
    let home = TempDir::new().unwrap();
    let (artifacts, database) = (home.path().join("artifacts"), home.path().join("mlflow.db"));
    write_files(&artifacts);
    write_rows(&database);
    // Names of one file in ranges of different shards, and what is no file.
    let first = artifacts.join(format!("1/{}/artifacts/plot.png", run_id(1, 0)));
    for name in ["0-first", "2/zz/second", "9"] {
        fs::hard_link(&first, artifacts.join(name)).unwrap();
    }
    fs::hard_link(artifacts.join("1.txt"), artifacts.join("3/other name")).unwrap();
    symlink("2/zz", artifacts.join("a link")).unwrap();
    symlink("/nowhere", artifacts.join("2/out")).unwrap();
    let _socket = UnixListener::bind(artifacts.join("2/socket")).unwrap();
    std::thread::sleep(Duration::from_millis(40));
    let options = options(in_directory(&artifacts), Some(&database));

    for shards in [1, 2, 4, 8] {
        let (vault, _) = Vault::in_memory();
        // Without a parent: the rows tell where to cut.
        let sharded = by_shards(&vault, &options, "first", shards);
        assert!(sharded.problems.iter().any(|it| it.path.contains("detector/9")), "{:?}", sharded.problems);
        assert!(sharded.problems.iter().any(|it| it.message.contains("symlink")), "{:?}", sharded.problems);
        assert_eq!(sharded.coverage.as_ref().unwrap().unread, ["3/huge.bin"]);
        assert_same(&sharded, &by_one(&vault, &options));
        // Against a parent: most is unchanged.
        fs::write(artifacts.join("2/zz/new"), format!("{shards}")).unwrap();
        std::thread::sleep(Duration::from_millis(40));
        let sharded = by_shards(&vault, &options, "second", shards);
        // And the dump.
        assert_eq!(sharded.statistics.files_new + sharded.statistics.files_changed, 2);
        assert_same(&sharded, &by_one(&vault, &options));
        vault.assert_clean();
    }
}

#[test]
fn any_number_of_shards_makes_the_trees_of_one_process_from_a_bucket() {
    let server = S3Server::start(Program::Moto);
    let bucket = server.bucket();
    files().into_iter().for_each(|(path, content)| put(&bucket, &format!("mlflow/{path}"), content));
    put(&bucket, "mlflow/3/refused", "x");
    // One object can be listed and not be read.
    let proxy = RecordingProxy::start_with(&server, |request| {
        let is_content = request.method == "GET" && request.target.contains("/refused");
        is_content.then(|| Answer::error(403, "AccessDenied"))
    });
    let home = TempDir::new().unwrap();
    let database = home.path().join("mlflow.db");
    write_rows(&database);
    let options = options(in_bucket(proxy.options()), Some(&database));
    for shards in [1, 2, 4, 8] {
        let (vault, _) = Vault::in_memory();
        let sharded = by_shards(&vault, &options, "first", shards);
        assert!(sharded.problems.iter().any(|it| it.path.contains("3/refused")), "{:?}", sharded.problems);
        assert_eq!(sharded.deployment.as_ref().unwrap().verdicts.artifacts, Verdict::NotOk);
        assert_same(&sharded, &by_one(&vault, &options));
        let sharded = by_shards(&vault, &options, "second", shards);
        assert_eq!(sharded.statistics.files_unchanged, files().len() as u64 - 1);
        assert_same(&sharded, &by_one(&vault, &options));
        vault.assert_clean();
    }
}

#[test]
fn a_shard_lists_no_more_than_its_range_of_a_bucket() {
    let server = S3Server::start(Program::Moto);
    let bucket = server.bucket();
    for number in 0..3000 {
        put(&bucket, &format!("mlflow/1/{number:04}"), "x");
    }
    let proxy = RecordingProxy::start(&server);
    let (vault, _) = Vault::in_memory();
    let options = options(in_bucket(proxy.options()), None);
    by_one(&vault, &options);
    proxy.take_counts();
    sharded::plan(&vault.open().unwrap(), &options, &named("p"), Shards::here(4), &Hears::nobody()).unwrap();
    let (listings, others) = proxy.take_counts();
    assert!(listings <= 20 && others == 0, "{listings} {others}");
    for number in 0..4 {
        sharded::shard(&vault.open().unwrap(), &options, &named("p"), number, &Hears::nobody()).unwrap();
        // One to see that the bucket can be listed, and a page or two, the last of which ends behind the range.
        let (listings, others) = proxy.take_counts();
        assert!(listings <= 3 && others == 0, "{listings} {others}");
    }
    let sharded = close(&vault, &options, "p").unwrap().record;
    assert_eq!(proxy.take_counts(), (0, 0));
    assert_same(&sharded, &by_one(&vault, &options));
}

/// Keys whose order by bytes and by directories differ as much as can be, at every cut.
#[test]
fn a_bucket_of_a_server_that_lists_by_directories_is_not_cut_where_something_would_be_missed() {
    let server = S3Server::start(Program::SeaweedFs);
    let bucket = server.bucket();
    for number in 0..60 {
        for key in [format!("m/{number}/a"), format!("m/{number}-old"), format!("m-{number}/x"), format!("n{number}")] {
            put(&bucket, &format!("mlflow/{key}"), key.clone().into_bytes());
        }
    }
    let (vault, _) = Vault::in_memory();
    let options = options(in_bucket(server.options()), None);
    let one = by_one(&vault, &options);
    for shards in [2, 8] {
        assert_same(&by_shards(&vault, &options, &shards.to_string(), shards), &one);
    }
    // Wherever it is cut, what is said to be safe is.
    let all: Vec<Vec<u8>> = bucket.objects("mlflow/").map(|listed| listed.unwrap().key).collect();
    let mut divided = 0;
    for cut in all.iter().step_by(7) {
        if !bucket.divides("mlflow/", std::str::from_utf8(&cut["mlflow/".len()..]).unwrap()).unwrap() {
            continue;
        }
        divided += 1;
        let parts = PathRange::between(std::slice::from_ref(cut)).into_iter();
        let listed = parts.flat_map(|range| bucket.objects_within("mlflow/", range)).map(|listed| listed.unwrap().key);
        assert_eq!(listed.collect::<Vec<_>>(), all);
    }
    assert!(divided > 3, "{divided}");
}

#[test]
fn the_parts_of_a_walk_are_the_whole_walk_whatever_they_are_cut_at() {
    let home = TempDir::new().unwrap();
    for file in ["1/r1/artifacts/m/x", "1/r1/artifacts/y", "1/r2/a", "1-old/z", "1.txt", "2/r/a"] {
        let path = home.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"x").unwrap();
    }
    let walk = |range: PathRange| -> Vec<Vec<u8>> {
        let source = DirectorySource::content_at(b"", home.path(), Filter::default()).unwrap().within(range);
        let path = |found| if let Found::Item(item) = found { item.path } else { panic!("{found:?}") };
        source.walk().map(path).collect()
    };
    let whole = walk(PathRange::default());
    let mut cuts = whole.clone();
    cuts.extend([&b"0"[..], b"1", b"1/", b"1/r1/b", b"1/r10", b"3"].map(<[u8]>::to_vec));
    for first in &cuts {
        for second in cuts.iter().filter(|second| *second >= first) {
            let parts = PathRange::between(&[first.clone(), second.clone()]);
            assert_eq!(parts.into_iter().flat_map(walk).collect::<Vec<_>>(), whole, "{first:?} {second:?}");
        }
    }
}

/// A small deployment in a directory, which one process has backed up, so that there is something to cut by.
fn small() -> (TempDir, BackupOptions, Vault, SnapshotRecord) {
    let home = TempDir::new().unwrap();
    for number in 0..6 {
        fs::create_dir(home.path().join(format!("{number}"))).unwrap();
        fs::write(home.path().join(format!("{number}/weights")), noise(&number.to_string(), 30_000)).unwrap();
    }
    std::thread::sleep(Duration::from_millis(40));
    let options = options(in_directory(home.path()), None);
    let (vault, _) = Vault::in_memory();
    let first = by_one(&vault, &options);
    (home, options, vault, first)
}

/// Changes what a backup of [`small`] will find.
fn change(home: &TempDir) {
    for number in [1, 3, 5] {
        fs::write(home.path().join(format!("{number}/weights")), noise(&format!("new {number}"), 30_000)).unwrap();
    }
    std::thread::sleep(Duration::from_millis(40));
}

/// A step of the plan of this name.
type Step<'a> = &'a dyn Fn(&Arc<Repository>, &str) -> Result<()>;

#[test]
fn a_step_that_is_killed_after_any_write_and_run_again_changes_nothing() {
    let (home, options, vault, _) = small();
    change(&home);
    let steps: [Step<'_>; 4] = [
        &|repository, name| {
            sharded::plan(repository, &options, &named(name), Shards::here(2), &Hears::nobody()).map(drop)
        },
        &|repository, name| sharded::shard(repository, &options, &named(name), 0, &Hears::nobody()).map(drop),
        &|repository, name| sharded::shard(repository, &options, &named(name), 1, &Hears::nobody()).map(drop),
        &|repository, name| sharded::close(repository, &options, &named(name), &Hears::nobody()).map(drop),
    ];
    let mut killed = 0;
    for (number, loses_answer) in (0..steps.len()).flat_map(|number| [(number, false), (number, true)]) {
        for writes in 0.. {
            let name = format!("{number} {loses_answer} {writes}");
            steps[..number].iter().for_each(|step| step(&vault.open().unwrap(), &name).unwrap());
            let backend = WatchedBackend::new(Arc::clone(&vault.backend)).stopping_after(writes, loses_answer);
            let is_done = steps[number](&vault.through(Arc::new(backend)).open().unwrap(), &name).is_ok();
            killed += u32::from(!is_done);
            steps[number..].iter().for_each(|step| step(&vault.open().unwrap(), &name).unwrap());
            let sharded = close(&vault, &options, &name).unwrap();
            assert_eq!(trees(&sharded.record), trees(&by_one(&vault, &options)), "{name}");
            if is_done {
                break;
            }
        }
    }
    assert!(killed >= 8, "{killed}");
    vault.assert_clean();
    // What was stored twice goes, and nothing else.
    prune_with(&vault, Duration::ZERO);
    prune_with(&vault, Duration::ZERO);
    vault.assert_clean();
    assert!(!vault.keys_under("plans/").is_empty());
    assert_eq!(vault.keys_under("sessions/"), Vec::<String>::new());
}

#[test]
fn steps_that_run_at_the_same_time_come_to_one_snapshot() {
    let (home, options, vault, _) = small();
    change(&home);
    let snapshots = vault.keys_under("snapshots/").len();
    let twice = |step: &(dyn Fn(&Arc<Repository>) -> Result<()> + Sync)| {
        std::thread::scope(|scope| {
            let both = [0, 1].map(|_| scope.spawn(|| step(&vault.open().unwrap())));
            both.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
        });
    };
    twice(&|repository| sharded::plan(repository, &options, &named("p"), Shards::here(3), &Hears::nobody()).map(drop));
    std::thread::scope(|scope| {
        for number in [0, 1, 2, 0, 1, 2] {
            let (vault, options) = (&vault, &options);
            scope.spawn(move || {
                sharded::shard(&vault.open().unwrap(), options, &named("p"), number, &Hears::nobody()).unwrap()
            });
        }
    });
    twice(&|repository| sharded::close(repository, &options, &named("p"), &Hears::nobody()).map(drop));
    let again = close(&vault, &options, "p").unwrap();
    let error =
        sharded::plan(&vault.open().unwrap(), &options, &named("p"), Shards::here(3), &Hears::nobody()).unwrap_err();
    assert!(error.to_string().contains("another name"), "{error}");
    assert_same(&again.record, &by_one(&vault, &options));
    // The plan that came second ended its session.
    let outcomes = vault.open().unwrap().list_snapshots().unwrap();
    assert_eq!(outcomes.snapshots.len(), snapshots + 2);
    vault.assert_clean();
}

#[test]
fn a_prune_takes_nothing_from_shards_that_wait_to_be_closed() {
    let (home, options, vault, first) = small();
    change(&home);
    sharded::plan(&vault.open().unwrap(), &options, &named("p"), Shards::here(2), &Hears::nobody()).unwrap();
    assert_eq!(prune_with(&vault, LONG).sessions_open, 1);
    for number in 0..2 {
        sharded::shard(&vault.open().unwrap(), &options, &named("p"), number, &Hears::nobody()).unwrap();
        let report = prune_with(&vault, LONG);
        assert_eq!((report.sessions_open, report.packs_deleted), (1, 0));
    }
    // Not even what only the parent needed: an unchanged file may rest on it.
    let repository = vault.open().unwrap();
    let parent = repository.list_snapshots().unwrap().snapshots[0].id;
    repository.forget(&parent, "test").unwrap();
    prune_with(&vault, LONG);
    let sharded = close(&vault, &options, "p").unwrap().record;
    assert_ne!(trees(&sharded), trees(&first));
    vault.assert_clean();
    prune_with(&vault, LONG);
    vault.assert_clean();
    assert_same(&sharded, &by_one(&vault, &options));
}

#[test]
fn a_plan_that_a_prune_has_given_up_is_not_gone_on_with() {
    let (home, options, vault, _) = small();
    change(&home);
    plan_and_shards(&vault, &options, "p", 2);
    assert_eq!(prune_with(&vault, Duration::ZERO).sessions_voided, 1);
    let repository = vault.open().unwrap();
    for step in [
        sharded::plan(&repository, &options, &named("p"), Shards::here(2), &Hears::nobody()).map(drop),
        sharded::close(&repository, &options, &named("p"), &Hears::nobody()).map(drop),
    ] {
        let error = step.unwrap_err();
        assert!(matches!(error, Error::Busy(_)) && error.to_string().contains("another name"), "{error}");
    }
    let sharded = by_shards(&vault, &options, "q", 2);
    assert_same(&sharded, &by_one(&vault, &options));
    vault.assert_clean();
}

#[test]
fn nothing_is_closed_while_a_shard_is_missing_or_is_of_something_else() {
    let (_home, options, vault, _) = small();
    let repository = vault.open().unwrap();
    let hears = Hears::nobody();
    let refused = |error: Error, text: &str| assert!(error.to_string().contains(text), "{error}");
    refused(sharded::shard(&repository, &options, &named("p"), 0, &hears).unwrap_err(), "no plan");
    refused(sharded::close(&repository, &options, &named("p"), &hears).unwrap_err(), "no plan");
    refused(sharded::plan(&repository, &options, &named("p"), Shards::here(0), &hears).unwrap_err(), "between 1 and");
    refused(
        sharded::plan(&repository, &options, &named(""), Shards::here(2), &hears).unwrap_err(),
        "cannot name a plan",
    );
    sharded::plan(&repository, &options, &named("p"), Shards::here(3), &hears).unwrap();
    sharded::plan(&repository, &options, &named("other"), Shards::here(3), &hears).unwrap();
    refused(sharded::plan(&repository, &options, &named("p"), Shards::here(4), &hears).unwrap_err(), "3 shards");
    refused(sharded::shard(&repository, &options, &named("p"), 3, &hears).unwrap_err(), "no 3");
    let others = BackupOptions { exclusions: Exclusions::default(), ..options.clone() };
    refused(sharded::shard(&repository, &others, &named("p"), 0, &hears).unwrap_err(), "--exclude-larger-than");
    for number in [0, 2] {
        sharded::shard(&repository, &options, &named("p"), number, &hears).unwrap();
        sharded::shard(&repository, &options, &named("other"), 1, &hears).unwrap();
    }
    refused(sharded::close(&repository, &options, &named("p"), &hears).unwrap_err(), "1 is missing (1)");
    // A shard of another plan does not pass for one of this, wherever it is put.
    let (plan, other) = (repository.plan_id("production", "p"), repository.plan_id("production", "other"));
    let stolen = vault.backend.read_up_to(&format!("plans/{other}/00000001"), 1 << 20).unwrap();
    vault.backend.create(&format!("plans/{plan}/00000001"), stolen).unwrap();
    assert!(sharded::close(&repository, &options, &named("p"), &hears).unwrap_err().is_damage());
    assert_eq!(repository.list_snapshots().unwrap().snapshots.len(), 1);
}

/// Whoever holds another key can get in the way, and say nothing.
#[test]
fn what_another_key_says_of_a_plan_or_a_shard_enters_no_snapshot() {
    let (_home, options, vault, _) = small();
    let keys = [(); 2].map(|()| key_file().1);
    for (label, key) in ["nightly", "thief"].iter().zip(&keys) {
        vault.open().unwrap().add_key(label, Role::Writer, key).unwrap();
    }
    let open = |key: &Credential| vault.open_with(key).unwrap();
    let hears = Hears::nobody();
    let plan = sharded::plan(&open(&keys[0]), &options, &named("p"), Shards::here(2), &hears).unwrap().record;
    let shard = sharded::shard(&open(&keys[0]), &options, &named("p"), 0, &hears).unwrap().record.unwrap();
    // The same name is another plan for another key.
    assert!(sharded::shard(&open(&keys[1]), &options, &named("p"), 0, &hears).is_err());
    let id = open(&keys[0]).plan_id("production", "p");
    let planted = PlanObject::Shard(1, Box::new(shard));
    assert!(open(&keys[1]).write_plan_object(&id, &planted).unwrap());
    for step in [
        sharded::shard(&open(&keys[0]), &options, &named("p"), 1, &hears).map(drop),
        sharded::close(&open(&keys[0]), &options, &named("p"), &hears).map(drop),
    ] {
        let error = step.unwrap_err();
        assert!(matches!(error, Error::Refused(_)) && error.to_string().contains("thief"), "{error}");
    }
    let id = open(&keys[0]).plan_id("production", "q");
    open(&keys[1]).write_plan_object(&id, &PlanObject::Plan(Box::new(plan))).unwrap();
    let error = sharded::plan(&open(&keys[0]), &options, &named("q"), Shards::here(2), &hears).unwrap_err();
    assert!(error.to_string().contains("thief"), "{error}");
    // An auditor may not say anything at all.
    let auditor = key_file().1;
    vault.open().unwrap().add_key("auditor", Role::Auditor, &auditor).unwrap();
    let error = sharded::plan(&open(&auditor), &options, &named("r"), Shards::here(2), &hears).unwrap_err();
    assert!(matches!(error, Error::Role { .. }), "{error}");
}

/// The program, with a writer's key, on a deployment that MLflow made.
#[test]
fn a_real_deployment_is_backed_up_by_shards_and_comes_back() {
    let lived = ThreeDays::unpack();
    let runner = &lived.runner;
    let server = S3Server::start(Program::Rclone);
    lived.copy_artifacts_to(&server);
    for (name, place) in [("directory", lived.place()), ("bucket", lived.place().in_bucket(&server.options()))] {
        let steps = Steps { runner, place: &place, name };
        steps.run(&["--shards", "3", "--force"]).expect(0);
        for number in 0..3 {
            let mut command = steps.command(&["--shard", "--force"]);
            let done =
                crate::support::cli::finish(command.env("JOB_COMPLETION_INDEX", number.to_string())).expect(0).json();
            assert_eq!(done["shard"], number, "{done:#}");
        }
        let again = steps.run(&["--shard", "1", "--force"]).expect(0).json();
        assert_eq!(again["was_there"], true, "{again:#}");
        let (id, record) = snapshot_of(&steps.run(&["--close", "--force"]).expect(0));
        assert_whole(&record);
        let (_, one) = snapshot_of(&place.run(runner, &["backup", "--force"]).expect(0));
        for component in record["components"].as_array().unwrap() {
            let name = &component["name"];
            let same = one["components"].as_array().unwrap().iter().find(|other| other["name"] == *name).unwrap();
            // Salts of commitments are random.
            let is_same = |field: &str| component[field] == same[field];
            let is_same = ["root", "entries", "bytes", "completeness"].into_iter().all(is_same);
            assert!(name == "database" || is_same, "{component:#} {same:#}");
        }
        assert_eq!(steps.run(&["--close", "--force"]).expect(0).json()["snapshot"], id);
        let restored = Place::in_folder(&runner.path(format!("restored-{name}")));
        restored.run(runner, &["restore", "--snapshot", &id, "--yes"]).expect(0);
        restored.serve(&runner.path(format!("restored-{name}"))).verify(&lived.record(3), &[]);
    }
    runner.run(["check", "--read-data"]).expect(0);
    // Two of each place: nobody was told of the other steps.
    assert_eq!(fs::read_to_string(runner.path("told")).unwrap(), "success\n".repeat(4));
    let refused = |arguments: &[&str]| Steps { runner, place: &lived.place(), name: "x" }.run(arguments).expect(2);
    refused(&["--shard"]);
    refused(&["--shards", "2", "--close"]);
    refused(&["--dry-run", "--close"]);
}

#[test]
fn pods_of_an_indexed_job_know_their_step_and_only_the_last_is_heard_of() {
    let lived = ThreeDays::unpack();
    let runner = &lived.runner;
    let steps = Steps { runner, place: &lived.place(), name: "job" };
    let pod = |number: &str| {
        let mut command = steps.command(&["--indexed", "2"]);
        crate::support::cli::finish(command.env("JOB_COMPLETION_INDEX", number))
    };
    for number in ["0", "1"] {
        assert_eq!(pod(number).expect(0).json()["shard"].to_string(), number);
        assert!(!runner.path("told").exists(), "somebody was told that pod {number} has made a backup");
    }
    // One that is moved to another node begins again.
    assert_eq!(pod("0").expect(0).json()["was_there"], true);
    assert_whole(&snapshot_of(&pod("2").expect(0)).1);
    assert_eq!(fs::read_to_string(runner.path("told")).unwrap(), "success\n");
    for nonsense in ["3", "-1", "x"] {
        pod(nonsense).expect(2);
    }
}

/// Steps of one plan.
struct Steps<'a> {
    runner: &'a Runner,
    place: &'a Place,
    name: &'a str,
}

impl Steps<'_> {
    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let file = self.runner.path("mlvault.toml");
        let told = self.runner.path("told");
        fs::write(&file, format!("[hooks]\nafter = 'echo $MLVAULT_HOOK_VERDICT >> {}'\n", told.display())).unwrap();
        let mut command = self.place.command(self.runner, &[&["backup", "--plan", self.name], arguments].concat());
        command.arg("--config").arg(file);
        command
    }

    fn run(&self, arguments: &[&str]) -> crate::support::cli::Outcome {
        crate::support::cli::finish(&mut self.command(arguments))
    }
}
