//! The log: everything that is written is entered, and nobody changes what was entered unseen.
//!
//! Method: a history is made with the program or the library; then somebody who owns the bucket, or who stole a writer's key,
//! changes it past mlvault; then a machine that has never seen the repository compares it with an earlier checkpoint. Each
//! attack is told, with the key of whoever lied; what is honest goes on beside it, and raises no alarm.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use mlvault::backend::Backend;
use mlvault::backend::memory::MemoryBackend;
use mlvault::cancel::Cancel;
use mlvault::check::{Earlier, LogProblemKind, LogReport, verify_log};
use mlvault::crypto::merkle;
use mlvault::crypto::passphrase::Credential;
use mlvault::format::checkpoint::{Checkpoint, Note};
use mlvault::format::key_slot::Role;
use mlvault::format::log::What;
use mlvault::format::note::Says;
use mlvault::hears::Hears;
use mlvault::id::{SessionId, TreeHash};
use mlvault::repository::layout::Object;
use mlvault::repository::log::Log;
use mlvault::repository::session::Session;
use mlvault::repository::{Repository, layout};
use serde_json::Value;

use crate::support::cli::{Outcome, Runner, finish};
use crate::support::repo::{Vault, WatchedBackend, copy_of, create_on, key_file};
use crate::support::thief::{Forgery, Thief, forge_log_entry, forge_long_log_entry, forged_record};
use crate::support::tool;

// Of the program.

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy_directory(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

fn back_up(runner: &Runner, content: &str) -> Value {
    runner.write("model", content);
    runner.settle();
    runner.run(["backup", ".", "--json"]).expect(0).json()
}

fn entry_file(runner: &Runner, number: u64) -> PathBuf {
    runner.path(format!("repo/log/{number:016x}"))
}

/// Verifies the log as somebody would who has nothing but a checkpoint.
fn verify_elsewhere(runner: &Runner, checkpoint: &str) -> Outcome {
    let file = runner.path("checkpoint");
    fs::write(&file, checkpoint).unwrap();
    let cache = runner.path("elsewhere");
    let _ = fs::remove_dir_all(&cache);
    let (file, cache) = (file.to_str().unwrap(), cache.to_str().unwrap());
    runner.run(["audit", "log", "verify", "--json", "--checkpoint", file, "--cache-dir", cache])
}

fn kinds_of(outcome: &Outcome) -> BTreeSet<String> {
    let problems = outcome.json()["report"]["problems"].as_array().unwrap().clone();
    problems.iter().map(|problem| problem["kind"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn each_command_enters_what_it_wrote_and_a_whole_life_leaves_an_intact_log() {
    let runner = Runner::with_repository();
    let first = back_up(&runner, "one");
    assert_eq!(first["log"]["entry"], 0);
    let checkpoint = first["log"]["checkpoint"].as_str().unwrap().to_owned();
    let id = first["snapshot"].as_str().unwrap().to_owned();
    back_up(&runner, "two");
    runner.run(["hold", "add", &id, "--reason", "audit"]).expect(0);
    runner.run(["tag", "add", "latest", "good"]).expect(0);
    let hold = runner.run(["hold", "list", "--json"]).json()["holds"][0]["id"].as_str().unwrap().to_owned();
    runner.run(["hold", "remove", &hold]).expect(0);
    runner.run(["key", "add", "--label", "nightly", "--role", "writer", "--new-key-file", "nightly"]).expect(0);
    runner.run(["key", "remove", "nightly"]).expect(0);
    runner.run(["check", "--record"]).expect(0);
    runner.run(["forget", &id, "--prune"]).expect(0);
    runner.run(["prune", "--keep-trash", "0s", "--max-unused", "0%"]).expect(0);
    let shown = runner.run(["audit", "log", "show", "--json"]).expect(0).json();
    let entries = shown["entries"].as_array().unwrap();
    let what: BTreeSet<&str> = entries
        .iter()
        .flat_map(|entry| entry["objects"].as_array().unwrap())
        .map(|object| object["what"].as_str().unwrap())
        .collect();
    for expected in ["snapshot", "hold", "release", "add-tags", "key", "revoke-key", "check", "forgotten", "tombstone"]
    {
        assert!(what.contains(expected), "{expected}: {what:?}");
    }
    let table = runner.run(["audit", "log", "show"]).expect(0).text();
    assert!(table.contains("revoke-key") && table.contains("Checkpoint: "), "{table}");
    let verified = verify_elsewhere(&runner, &checkpoint).expect(0).json();
    assert_eq!((&verified["intact"], &verified["report"]["checkpoints"][0]["holds"]), (&true.into(), &true.into()));
    assert!(verified["report"]["checkpoints"][0]["signed_by"].is_string());
    assert_eq!(verified["report"]["unlogged"], serde_json::json!([]));
    // What a backup prints is read as it stands in a log.
    let printed = runner.run(["backup", "."]).expect(0).text();
    let line = printed.lines().find(|line| line.starts_with("Checkpoint: ")).unwrap();
    verify_elsewhere(&runner, &format!("{line}\n")).expect(0);
}

#[test]
fn whoever_removes_the_newest_entries_and_what_they_name_is_told_by_any_later_checkpoint() {
    let runner = Runner::with_repository();
    back_up(&runner, "one");
    let last = back_up(&runner, "two");
    let (id, checkpoint) = (last["snapshot"].as_str().unwrap(), last["log"]["checkpoint"].as_str().unwrap());
    fs::remove_file(entry_file(&runner, 1)).unwrap();
    for file in runner.files("repo").into_iter().filter(|file| file.ends_with(id)) {
        fs::remove_file(file).unwrap();
    }
    let told = verify_elsewhere(&runner, checkpoint).expect(1);
    assert_eq!(kinds_of(&told), BTreeSet::from(["rolled-back".to_owned()]));
    // Nothing in the repository shows it by itself; a machine that has seen it says so with its next backup.
    runner.settle();
    let backup = runner.run(["backup", ".", "--json"]).expect(3);
    assert!(backup.stderr.contains("entry 1 of the log"), "{}", backup.stderr);
    // It goes on where it was, so the gap stays to be seen.
    let told = runner.run(["audit", "log", "verify", "--json"]).expect(1);
    assert!(kinds_of(&told).contains("rolled-back") && kinds_of(&told).contains("beyond"), "{:?}", kinds_of(&told));
}

#[test]
fn a_bucket_that_is_put_back_to_last_week_is_told_also_after_it_went_on() {
    let runner = Runner::with_repository();
    back_up(&runner, "one");
    copy_directory(&runner.path("repo"), &runner.path("last week"));
    let last = back_up(&runner, "two");
    let checkpoint = last["log"]["checkpoint"].as_str().unwrap();
    fs::remove_dir_all(runner.path("repo")).unwrap();
    fs::rename(runner.path("last week"), runner.path("repo")).unwrap();
    assert!(kinds_of(&verify_elsewhere(&runner, checkpoint).expect(1)).contains("rolled-back"));
    // Somebody who has seen nothing adds to it: as many entries as there were, and not the same.
    let cache = runner.path("another");
    runner.settle();
    runner.run(["backup", ".", "--cache-dir", cache.to_str().unwrap()]).expect(0);
    assert!(kinds_of(&verify_elsewhere(&runner, checkpoint).expect(1)).contains("rewritten"));
}

#[test]
fn entries_that_are_removed_reordered_replaced_or_forged_are_told() {
    let runner = Runner::with_repository();
    (0..4).for_each(|number| drop(back_up(&runner, &format!("{number}"))));
    let checkpoint = runner.run(["audit", "log", "checkpoint"]).expect(0).text();
    let whole = runner.path("whole");
    copy_directory(&runner.path("repo"), &whole);
    /// What is done, and which kinds of problems are told.
    type Attack = (&'static str, fn(&Runner), &'static [&'static str]);
    let attacks: [Attack; 5] = [
        ("removed", |runner| fs::remove_file(entry_file(runner, 1)).unwrap(), &["rolled-back", "beyond"]),
        ("replaced by junk", |runner| fs::write(entry_file(runner, 1), "junk").unwrap(), &["rewritten", "unreadable"]),
        (
            "reordered",
            |runner| {
                fs::rename(entry_file(runner, 1), runner.path("aside")).unwrap();
                fs::rename(entry_file(runner, 2), entry_file(runner, 1)).unwrap();
                fs::rename(runner.path("aside"), entry_file(runner, 2)).unwrap();
            },
            &["rewritten", "unreadable", "other-history"],
        ),
        ("all removed", |runner| fs::remove_dir_all(runner.path("repo/log")).unwrap(), &["rolled-back"]),
        (
            "a snapshot replaced",
            |runner| {
                let snapshots = runner.files("repo/snapshots");
                fs::remove_file(&snapshots[1]).unwrap();
                fs::copy(&snapshots[0], &snapshots[1]).unwrap();
            },
            &["differs"],
        ),
    ];
    for (name, attack, expected) in attacks {
        fs::remove_dir_all(runner.path("repo")).unwrap();
        copy_directory(&whole, &runner.path("repo"));
        verify_elsewhere(&runner, &checkpoint).expect(0);
        attack(&runner);
        let told = kinds_of(&verify_elsewhere(&runner, &checkpoint).expect(1));
        assert!(expected.iter().all(|kind| told.contains(*kind)), "{name}: {told:?}");
    }
}

#[test]
fn a_checkpoint_is_a_file_or_standard_input_and_what_is_none_is_refused() {
    let runner = Runner::with_repository();
    // Without a log, too.
    assert!(runner.run(["audit", "log", "verify"]).expect(0).text().contains("no log yet"));
    back_up(&runner, "one");
    let out = runner.path("out");
    let out = out.to_str().unwrap();
    let written = runner.run(["audit", "log", "checkpoint", "--out", out, "--json"]).expect(0).json();
    assert_eq!(fs::read_to_string(out).unwrap(), written["checkpoint"].as_str().unwrap());
    let piped = runner.shell(&format!("$MLVAULT audit log verify --checkpoint - < {out}")).output().unwrap();
    assert!(piped.status.success() && String::from_utf8_lossy(&piped.stdout).contains("holds"));
    for (content, part) in
        [("nonsense", "no checkpoint"), ("", "no checkpoint"), ("mlvault/log/00\n1\nx\n\n", "mlvault/log/00")]
    {
        let refused = verify_elsewhere(&runner, content).expect(2);
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    assert!(runner.run(["audit", "log", "verify", "--checkpoint", "nowhere"]).expect(1).stderr.contains("nowhere"));
}

#[test]
fn an_auditors_key_verifies_and_only_a_maintainers_completes() {
    let runner = Runner::with_repository();
    back_up(&runner, "one");
    runner.run(["key", "add", "--label", "audit", "--role", "auditor", "--new-key-file", "../auditor"]).expect(0);
    let key = runner.path("auditor");
    let key = key.to_str().unwrap();
    runner.run(["audit", "log", "verify", "--key-file", key]).expect(0);
    runner.run(["audit", "log", "show", "--key-file", key]).expect(0);
    runner.run(["audit", "log", "checkpoint", "--key-file", key]).expect(0);
    runner.run(["audit", "log", "complete", "--key-file", key]).expect(12);
    // As in a repository that is older than its log.
    fs::remove_dir_all(runner.path("repo/log")).unwrap();
    let cache = runner.path("fresh");
    let cache = cache.to_str().unwrap();
    let verified = runner.run(["audit", "log", "verify", "--cache-dir", cache]).expect(3);
    assert!(verified.text().contains("2 objects in no entry"), "{}", verified.text());
    let entered = runner.run(["audit", "log", "complete", "--cache-dir", cache, "--json"]).expect(0).json();
    assert_eq!(entered["entered"].as_array().unwrap().len(), 2);
    runner.run(["audit", "log", "verify", "--cache-dir", cache]).expect(0);
    assert!(runner.run(["audit", "log", "show"]).expect(0).text().contains("(added later)"));
    assert!(runner.run(["audit", "log", "complete", "--cache-dir", cache]).expect(0).text().contains("Everything"));
}

#[test]
fn where_the_log_cannot_be_written_the_snapshot_stands_and_is_entered_later() {
    let runner = Runner::with_repository();
    // A file where the directory would be.
    fs::write(runner.path("repo/log"), "").unwrap();
    let backup = back_up(&runner, "one");
    assert_eq!(backup["log"], Value::Null);
    let warned = runner.run(["tag", "add", "latest", "good"]).expect(0);
    assert!(warned.stderr.contains("audit log complete"), "{}", warned.stderr);
    fs::remove_file(runner.path("repo/log")).unwrap();
    runner.run(["audit", "log", "verify"]).expect(3);
    runner.run(["audit", "log", "complete"]).expect(0);
    runner.run(["audit", "log", "verify"]).expect(0);
}

/// The reader shares no code with mlvault.
#[test]
fn the_reader_of_the_documentation_finds_the_same_log() {
    let runner = Runner::with_repository();
    (0..5).for_each(|number| drop(back_up(&runner, &format!("{number}"))));
    runner.run(["check", "--record"]).expect(0);
    let shown = runner.run(["audit", "log", "show"]).expect(0).text();
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reader.py");
    let mut reader = Command::new(tool("python"));
    reader.args(["-B", program]).arg(runner.path("repo")).arg("log").env("MLVAULT_KEY_FILE", runner.path("key"));
    let read = finish(&mut reader).expect(0).text();
    assert_eq!(read.lines().last(), shown.lines().last());
    assert_eq!(read.lines().count(), 7);
    fs::remove_file(entry_file(&runner, 2)).unwrap();
    assert!(finish(&mut reader).expect(1).stderr.contains("entry 2 of the log is missing"));
}

// Of the library, with keys of other roles.

/// Commits a snapshot of nothing, and enters it.
fn commit(repository: &Arc<Repository>, started: Timestamp) -> SessionId {
    let session = Session::begin(repository, "backup").unwrap();
    let mut record = forged_record(started, forged_component());
    record.components.clear();
    session.commit(repository, record).unwrap();
    repository.settle_log().unwrap();
    session.id
}

/// Does so several times, each as a new process.
fn commit_some(vault: &Vault, credential: &Credential, count: usize) {
    for _ in 0..count {
        commit(&vault.open_with(credential).unwrap(), Timestamp::now());
    }
}

fn forged_component() -> mlvault::format::snapshot::Component {
    mlvault::format::snapshot::Component {
        name: "files".to_owned(),
        root: mlvault::id::ChunkId::from_bytes([1; 32]),
        entries: 0,
        bytes: 0,
        completeness: mlvault::format::snapshot::Completeness::Complete,
        commitment: None,
    }
}

fn verify(repository: &Repository, earlier: &[Checkpoint]) -> LogReport {
    let named = |checkpoint: &Checkpoint| Earlier {
        source: "a checkpoint".to_owned(),
        note: Note::parse(repository.id(), checkpoint.short().as_bytes()).unwrap(),
    };
    let earlier: Vec<Earlier> = earlier.iter().map(named).collect();
    verify_log(repository, &earlier, &Cancel::default()).unwrap()
}

fn kinds(report: &LogReport) -> BTreeSet<String> {
    report.problems.iter().map(|problem| format!("{:?}", problem.kind)).collect()
}

/// A repository with a writer's key and one that a thief has, and three snapshots.
struct Scene {
    vault: Vault,
    memory: Arc<MemoryBackend>,
    writer: Credential,
    stolen: Credential,
    checkpoint: Checkpoint,
}

impl Scene {
    fn new() -> Self {
        let (vault, memory) = Vault::in_memory();
        let ((_, writer), (_, stolen)) = (key_file(), key_file());
        let repository = vault.open().unwrap();
        repository.add_key("nightly", Role::Writer, &writer).unwrap();
        repository.add_key("stolen", Role::Writer, &stolen).unwrap();
        repository.settle_log().unwrap();
        commit_some(&vault, &writer, 3);
        let checkpoint = repository.read_log().unwrap().checkpoint();
        Self { vault, memory, writer, stolen, checkpoint }
    }

    fn thief(&self) -> Arc<Repository> {
        self.vault.open_with(&self.stolen).unwrap()
    }

    /// Returns what an honest history says that goes on from here.
    fn go_on(&self) -> LogReport {
        let honest = commit(&self.vault.open_with(&self.writer).unwrap(), Timestamp::now());
        let repository = self.vault.open().unwrap();
        let log = repository.read_log().unwrap();
        let (number, entry) = log.entry_of(&layout::snapshot(&honest)).unwrap();
        assert!(number < log.size() && entry.signer.label == "nightly");
        let report = verify(&repository, &[self.checkpoint]);
        assert!(report.checkpoints.iter().all(|compared| compared.holds), "{:?}", report.problems);
        let is_of_thief = |by: &Option<String>| by.as_deref().is_none_or(|label| label == "stolen");
        assert!(report.problems.iter().all(|problem| is_of_thief(&problem.by)), "{:?}", report.problems);
        report
    }
}

#[test]
fn a_thief_who_dates_a_snapshot_into_the_future_is_named() {
    let scene = Scene::new();
    let id = commit(&scene.thief(), Timestamp::now() + SignedDuration::from_hours(14 * 365 * 24));
    let report = scene.go_on();
    assert_eq!(kinds(&report), BTreeSet::from(["DatedAhead".to_owned()]));
    let [problem] = report.problems.as_slice() else { panic!("{:?}", report.problems) };
    assert_eq!((problem.object.as_deref(), problem.by.as_deref()), (Some(&*layout::snapshot(&id)), Some("stolen")));
}

#[test]
fn a_thief_who_dates_an_entry_ahead_or_back_is_named() {
    for (hours, kind) in [(1000, "DatedAhead"), (-1000, "DatedBack")] {
        let scene = Scene::new();
        let log = scene.vault.open().unwrap().read_log().unwrap();
        let before = tree_of(&log);
        let at = Timestamp::now() + SignedDuration::from_hours(hours);
        forge_log_entry(&scene.thief(), log.size(), before, at);
        assert!(kinds(&scene.go_on()).contains(kind));
    }
}

/// Returns what an honest entry would say of the tree before it.
fn tree_of(log: &Log) -> Vec<TreeHash> {
    let mut frontier = merkle::Frontier::default();
    log.leaves().into_iter().for_each(|leaf| frontier.push(leaf));
    frontier.peaks().to_vec()
}

#[test]
fn what_a_thief_puts_into_the_log_is_named_and_stops_nobody() {
    let scene = Scene::new();
    Thief::new(scene.thief()).forge(Forgery::LogEntries, &[]);
    let report = scene.go_on();
    let expected = ["OtherHistory", "Unreadable", "Role", "Gone", "Beyond"].map(str::to_owned);
    assert!(BTreeSet::from(expected).is_subset(&kinds(&report)), "{:?}", kinds(&report));
    // An honest one appended after what lies at the end, though it has never seen the log.
    assert_eq!(report.entries, scene.checkpoint.size + 4);
}

#[test]
fn a_log_that_would_not_fit_into_memory_is_refused() {
    let scene = Scene::new();
    let thief = scene.thief();
    let size = scene.checkpoint.size;
    // Zeros that hardly take any room where they are stored.
    (size..size + 64).for_each(|number| forge_long_log_entry(&thief, number));
    commit(&scene.vault.open_with(&scene.writer).unwrap(), Timestamp::now());
    let error = scene.vault.open().unwrap().read_log().unwrap_err();
    assert!(error.to_string().contains("memory limit is too low"), "{error}");
}

#[test]
fn junk_of_any_sort_takes_a_number_and_stops_nobody_and_no_repair_frees_it() {
    let scene = Scene::new();
    let key = |number| Object::LogEntry(number).key();
    let size = scene.checkpoint.size;
    scene.memory.overwrite(&key(size), vec![]);
    scene.memory.overwrite(&key(size + 1), vec![7; 1000]);
    scene.memory.overwrite(&key(size + 2), vec![7; Object::LogEntry(0).bytes_max() as usize + 1]);
    scene.memory.overwrite(&key(size + 3), scene.memory.read(&key(0)).unwrap());
    let report = scene.go_on();
    assert_eq!((report.entries, kinds(&report)), (size + 5, BTreeSet::from(["Unreadable".to_owned()])));
    // It may become other junk, or be written again by a network that repeats itself: the tree stays what it is.
    scene.memory.overwrite(&key(size + 1), vec![8; 10]);
    let plan = mlvault::repair::objects::plan(&scene.vault.open().unwrap(), &Hears::nobody()).unwrap();
    assert!(plan.junk.is_empty(), "{:?}", plan.junk);
    let again = verify(&scene.vault.open().unwrap(), &[scene.checkpoint, report.checkpoint()]);
    assert!(again.checkpoints.iter().all(|compared| compared.holds));
}

#[test]
fn a_snapshot_that_nobody_entered_is_told_though_no_clock_was_wrong() {
    let scene = Scene::new();
    let thief = scene.thief();
    let session = Session::begin(&thief, "backup").unwrap();
    session.commit(&thief, forged_record(Timestamp::now(), forged_component())).unwrap();
    let report = scene.go_on();
    let unlogged: Vec<&str> = report.unlogged.iter().map(|object| object.key.as_str()).collect();
    assert_eq!(unlogged, [layout::snapshot(&session.id)]);
}

#[test]
fn two_histories_of_one_repository_do_not_pass_for_each_other() {
    let scene = Scene::new();
    let fork = copy_of(&scene.memory);
    let other = scene.vault.through(Arc::clone(&fork) as Arc<dyn Backend>);
    let here = scene.go_on().checkpoint();
    commit(&other.open_with(&scene.writer).unwrap(), Timestamp::now());
    let there = other.open().unwrap().read_log().unwrap().checkpoint();
    assert_eq!(here.size, there.size);
    for (vault, own, foreign) in [(&scene.vault, here, there), (&other, there, here)] {
        let report = verify(&vault.open().unwrap(), &[scene.checkpoint, own, foreign]);
        let holds: Vec<bool> = report.checkpoints.iter().map(|compared| compared.holds).collect();
        assert_eq!(holds, [true, true, false]);
        assert_eq!(kinds(&report), BTreeSet::from(["Rewritten".to_owned()]));
    }
}

#[test]
fn a_hold_that_is_deleted_is_missed_and_one_on_a_forgotten_snapshot_is_not() {
    let (vault, memory) = Vault::in_memory();
    let repository = vault.open().unwrap();
    let id = commit(&repository, Timestamp::now());
    let hold = |snapshot| Says::Hold { snapshot, reason: String::new(), until: None };
    let note = repository.write_note(hold(id)).unwrap();
    let release = repository.write_note(Says::Release { hold: note }).unwrap();
    repository.settle_log().unwrap();
    memory.remove_all(&[layout::note(&note), layout::note(&release)]).unwrap();
    assert_eq!(kinds(&verify(&repository, &[])), BTreeSet::from(["Gone".to_owned()]));
    repository.forget(&id, "").unwrap();
    repository.settle_log().unwrap();
    memory.remove(&layout::snapshot(&id)).unwrap();
    assert_eq!(kinds(&verify(&repository, &[])), BTreeSet::new());
}

#[test]
fn a_key_that_was_removed_is_named_if_it_goes_on() {
    let scene = Scene::new();
    let thief = scene.thief();
    let maintainer = scene.vault.open().unwrap();
    maintainer.remove_key("stolen").unwrap();
    maintainer.settle_log().unwrap();
    commit(&thief, Timestamp::now());
    assert_eq!(kinds(&scene.go_on()), BTreeSet::from(["RemovedKey".to_owned()]));
}

#[test]
fn commands_that_end_at_once_each_get_a_number() {
    let scene = Scene::new();
    std::thread::scope(|threads| {
        for _ in 0..8 {
            threads.spawn(|| commit_some(&scene.vault, &scene.writer, 4));
        }
    });
    let report = verify(&scene.vault.open().unwrap(), &[scene.checkpoint]);
    assert_eq!((report.entries, kinds(&report)), (scene.checkpoint.size + 32, BTreeSet::new()));
}

#[test]
fn appending_takes_three_requests_where_the_log_is_remembered_and_few_where_it_is_not() {
    let scene = Scene::new();
    commit_some(&scene.vault, &scene.writer, 100);
    let cache = tempfile::tempdir().unwrap();
    let calls = |is_cached: bool, credential: &Credential| {
        let watched = Arc::new(WatchedBackend::new(Arc::clone(&scene.memory) as Arc<dyn Backend>));
        let mut vault = scene.vault.through(Arc::clone(&watched) as Arc<dyn Backend>);
        vault.cache = is_cached.then(|| cache.path().to_owned());
        commit(&vault.open_with(credential).unwrap(), Timestamp::now());
        let is_of_log = |call: &&crate::support::repo::Call| call.key.starts_with(layout::LOG);
        watched.calls().iter().filter(is_of_log).count()
    };
    calls(true, &scene.writer);
    // The last entry, the number after it, and the new one.
    assert_eq!(calls(true, &scene.writer), 3);
    // The list, its own last entry, and the new one.
    assert_eq!(calls(false, &scene.writer), 3);
    // Somebody else's entries are taken in, to the last one that it may believe.
    assert!(calls(false, &scene.stolen) <= 120);
    let repository = scene.vault.open().unwrap();
    assert_eq!(kinds(&verify(&repository, &[scene.checkpoint])), BTreeSet::new());
}

#[test]
fn entries_are_proved_to_be_in_the_log_and_earlier_logs_to_be_its_beginning() {
    let scene = Scene::new();
    let repository = scene.vault.open().unwrap();
    let log = repository.read_log().unwrap();
    let root = log.checkpoint().root;
    for (number, _) in log.entries() {
        let leaf = merkle::leaf(&repository.log_body(number).unwrap());
        let proof = log.inclusion(number).unwrap();
        assert!(merkle::is_included(&leaf, number, log.size(), &proof, &root));
        let earlier = log.checkpoint_at(number).unwrap();
        let proof = log.consistency(number).unwrap();
        assert!(merkle::is_consistent((number, &earlier.root), (log.size(), &root), &proof));
    }
    assert!(log.inclusion(log.size()).is_none() && log.checkpoint_at(log.size() + 1).is_none());
}

#[test]
fn what_only_a_maintainer_may_write_is_entered_by_nobody_else() {
    let scene = Scene::new();
    assert!(scene.thief().complete_log().is_err());
    let log = scene.vault.open().unwrap().read_log().unwrap();
    let what: Vec<What> =
        log.entries().flat_map(|(_, entry)| &entry.record.objects).map(|object| object.what).collect();
    assert_eq!(what, [What::Key, What::Key, What::Snapshot, What::Snapshot, What::Snapshot]);
    forge_log_entry(&scene.thief(), log.size(), tree_of(&log), Timestamp::now());
    let report = scene.go_on();
    let role = report.problems.iter().find(|problem| problem.kind == LogProblemKind::Role).unwrap();
    assert!(role.object.as_ref().unwrap().starts_with(layout::FORGOTTEN) && role.by.as_deref() == Some("stolen"));
}

#[test]
fn where_creates_may_overwrite_the_log_is_written_all_the_same() {
    let memory = Arc::new(MemoryBackend::default());
    let (_, credential) = key_file();
    create_on(memory.as_ref(), &credential, false).unwrap();
    let vault = Vault { backend: memory, credential, cache: None };
    commit_some(&vault, &vault.credential, 3);
    let report = verify(&vault.open().unwrap(), &[]);
    assert_eq!((report.entries, kinds(&report)), (3, BTreeSet::new()));
}
