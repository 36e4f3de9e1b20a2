//! A drill of a deployment on SQLite: what is sound passes and leaves nothing behind, and whatever is wrong makes it fail.
//!
//! Method: a small deployment with one model version is backed up once. Each test damages one thing between backup and result:
//! the repository, what the snapshot says, what was restored, the scratch place, the process itself, or the evidence.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use mlvault::cancel::Cancel;
use mlvault::chunks::content::{Intake, Tools};
use mlvault::chunks::reader::ChunkReader;
use mlvault::chunks::writing_session::WritingSession;
use mlvault::format::BlobKind;
use mlvault::format::evidence::{DrillEvidence, DrillResult, DrillTime, Says};
use mlvault::format::key_slot::Role;
use mlvault::format::snapshot::CATALOGUE;
use mlvault::format::tree::EntryKind;
use mlvault::hears::Hears;
use mlvault::monitor::{Counter, Monitor};
use mlvault::procedures::drill::{self, DrillOptions, DrillSettings};
use mlvault::repository::{OpenOptions, Repository};
use mlvault::source::deployment::{ArtifactPlace, ArtifactRoot, Deployment};
use mlvault::trees::reader::TreeReader;
use mlvault::trees::writer::TreeWriter;
use rusqlite::Connection;
use serde_json::Value;

use crate::support::cli::{Outcome, Runner, finish, may_mount, noise, with_own_mounts};
use crate::support::deployment::{NAME, Place, ROOT, ThreeDays};
use crate::support::mlflow_rows::ONE_MODEL;
use crate::support::repo::key_file;
use crate::support::s3_server::{BUCKET, Program, S3Server};
use crate::support::sqlite_file::create_mlflow;
use crate::support::thief::forge_evidence;
use crate::support::tool;

/// Files of the model version, and one of another run.
const FILES: [&str; 4] =
    ["7/abc/artifacts/model/MLmodel", "7/abc/artifacts/model/data/weights", MODEL_TEXT, "7/def/artifacts/x"];
const MODEL_TEXT: &str = "7/abc/artifacts/model/readme";
/// How long a drill may take on a loaded machine.
const REACH_MAX: Duration = Duration::from_secs(120);

/// A deployment that was backed up.
struct Scene {
    runner: Runner,
    place: Place,
    snapshot: String,
}

impl Scene {
    fn new() -> Self {
        let runner = Runner::with_repository();
        let folder = runner.path(NAME);
        fs::create_dir_all(&folder).unwrap();
        create_mlflow(&folder.join("mlflow.db")).execute_batch(ONE_MODEL).unwrap();
        for (number, name) in FILES.iter().enumerate() {
            let path = folder.join("artifacts").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, noise(number as u64, 3000 + number)).unwrap();
        }
        runner.settle();
        let place = Place::in_folder(&folder);
        let (snapshot, record) = place.backup(&runner);
        assert_eq!(record["completeness"], "complete", "{record:#}");
        Self { runner, place, snapshot }
    }

    fn drill(&self, more: &[&str]) -> Outcome {
        self.place.run(&self.runner, &[&["drill"], more].concat())
    }

    fn command(&self, more: &[&str]) -> Command {
        self.place.command(&self.runner, &[&["drill"], more].concat())
    }

    /// Fails unless drills have left nothing in the directory for temporary files.
    fn assert_nothing_left(&self) {
        let left: Vec<_> = fs::read_dir(self.runner.path("tmp")).unwrap().map(|it| it.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    fn source(&self) -> Deployment {
        let folder = self.runner.path(NAME);
        let artifacts =
            ArtifactRoot { uri: ROOT.to_owned(), place: ArtifactPlace::Directory(folder.join("artifacts")) };
        Deployment {
            name: NAME.to_owned(),
            databases: Vec::new(),
            artifacts: vec![artifacts],
            excluded: Vec::new(),
            keys: Vec::new(),
            tracking: None,
            metadata_optional: false,
        }
    }

    /// Drills with the library; `tamper` is called when a phase begins, with the scratch directory.
    fn drill_tampered(&self, phase: &'static str, tamper: fn(&Path)) -> DrillEvidence {
        let scratch = self.runner.path("tampered");
        fs::create_dir_all(&scratch).unwrap();
        let settings =
            DrillSettings { scratch_directory: Some(scratch.clone()), samples: 100, ..DrillSettings::default() };
        let options = DrillOptions {
            settings,
            source: self.source(),
            own_places: Vec::new(),
            seed: 7,
            keep: false,
            retention: None,
            doubts: Vec::new(),
        };
        let tampering = Tampering { phase, tamper, scratch: scratch.clone() };
        let hears = Hears::new(Arc::new(tampering), Cancel::default());
        let repository = self.runner.open();
        let snapshot = repository.find_snapshot("latest").unwrap();
        let drilled = drill::run(&repository, &snapshot, &options, &hears).unwrap();
        assert!(drilled.left.is_empty() && fs::read_dir(scratch).unwrap().next().is_none());
        drilled.evidence
    }
}

/// Changes what was restored before it is compared.
struct Tampering {
    phase: &'static str,
    tamper: fn(&Path),
    scratch: PathBuf,
}

impl Monitor for Tampering {
    fn phase(&self, name: &'static str, _: Option<u64>, _: Option<u64>) {
        if name == self.phase {
            let made = fs::read_dir(&self.scratch).unwrap().next().unwrap().unwrap().path();
            (self.tamper)(&made);
        }
    }
    fn count(&self, _: Counter, _: u64) {}
    fn problem(&self, _: &str, _: &str) {}
    fn note(&self, _: &str) {}
}

/// Returns where a file was restored to.
fn restored(scratch: &Path, file: &str) -> PathBuf {
    let components = fs::read_dir(scratch.join("artifacts")).unwrap();
    components.map(|component| component.unwrap().path().join(file)).find(|path| path.exists()).unwrap()
}

fn execute(scratch: &Path, sql: &str) {
    Connection::open(scratch.join("backend.db")).unwrap().execute_batch(sql).unwrap();
}

#[track_caller]
fn assert_fails_with(evidence: &DrillEvidence, wanted: &[&str]) {
    assert_eq!(evidence.result, DrillResult::Failed);
    for wanted in wanted {
        assert!(evidence.failures.first.iter().any(|line| line.contains(wanted)), "{wanted}: {:#?}", evidence.failures);
    }
}

fn failures(json: &Value) -> String {
    json["drill"]["failures"].to_string()
}

#[test]
fn what_comes_back_too_late_has_come_back_and_is_no_success() {
    let scene = Scene::new();
    let within = |time: &str| format!("deployment.{NAME}.objectives.rto={time}");
    let late = scene.drill(&["--set", &within("1ms")]).expect(1).json();
    let drill = &late["drill"];
    assert_eq!((&drill["result"], &drill["failures"]["count"]), (&"late".into(), &0.into()), "{late:#}");
    let times = drill["times"].as_array().unwrap();
    assert!(times.iter().any(|time| time["part"] == DrillTime::WHOLE), "{late:#}");
    let in_time = scene.drill(&["--set", &within("9h")]).expect(0).json();
    assert_eq!(in_time["drill"]["result"], "passed", "{in_time:#}");
}

#[test]
fn what_is_sound_passes_and_leaves_nothing_but_its_evidence() {
    let scene = Scene::new();
    let database = fs::read(scene.runner.path(NAME).join("mlflow.db")).unwrap();
    let done = scene.drill(&[]).expect(0).json();
    let drill = &done["drill"];
    assert_eq!((&drill["result"], &drill["snapshot"]["id"]), (&"passed".into(), &scene.snapshot.as_str().into()));
    assert_eq!((&drill["failures"]["count"], &drill["exceptions"]["count"]), (&0.into(), &0.into()), "{drill:#}");
    assert!(drill["tables"].as_array().unwrap().len() > 20, "{drill:#}");
    assert_eq!((&drill["files"]["versions"], &drill["files"]["version_files"]), (&1.into(), &3.into()));
    let samples = drill["files"]["samples"].as_array().unwrap();
    assert_eq!(samples.len(), FILES.len());
    assert!(samples.iter().all(|sample| sample["against"] == "source"), "{samples:#?}");
    for part in ["everything", "artifacts", "database", "database/backend"] {
        assert!(drill["times"].as_array().unwrap().iter().any(|time| time["part"] == part), "{part}: {drill:#}");
    }
    assert_eq!(drill["places"].as_array().unwrap().len(), 2);
    scene.assert_nothing_left();
    assert_eq!(fs::read(scene.runner.path(NAME).join("mlflow.db")).unwrap(), database);
    let listed = scene.runner.run(["drill", "list", "--deployment", NAME, "--json"]).expect(0).json();
    let listed = &listed["drills"][0];
    assert_eq!((&listed["id"], &listed["believed"], &listed["doubt"]), (&done["evidence"], &true.into(), &Value::Null));
    assert_eq!(&listed["drill"], drill);
    let others = scene.runner.run(["drill", "list", "--deployment", "staging", "--json"]).expect(0).json();
    assert_eq!(others["drills"].as_array().unwrap().len(), 0);
    scene.runner.run(["check"]).expect(0);
}

#[test]
fn without_its_source_files_are_compared_with_the_repository() {
    let scene = Scene::new();
    fs::write(scene.runner.path(NAME).join("artifacts").join(MODEL_TEXT), "changed since").unwrap();
    let done = scene.drill(&["--no-record"]).expect(0).json();
    let against = |done: &Value, path: &str| {
        let samples = done["drill"]["files"]["samples"].as_array().unwrap().clone();
        samples.iter().find(|sample| sample["path"] == path).unwrap()["against"].clone()
    };
    assert_eq!((against(&done, MODEL_TEXT), against(&done, FILES[0])), ("repository".into(), "source".into()));
    assert!(done["evidence"].is_null());
    // Where nothing but its name is known.
    fs::write(scene.runner.path("src/mlvault.toml"), format!("[deployment.{NAME}.drill]\nsamples = 2\n")).unwrap();
    let done = scene.runner.run(["drill", "--deployment", NAME, "--json"]).expect(0).json();
    let samples = done["drill"]["files"]["samples"].as_array().unwrap();
    assert!(samples.len() == 2 && samples.iter().all(|sample| sample["against"] == "repository"), "{samples:#?}");
    // The same seed, the same choice.
    let seed = done["drill"]["files"]["seed"].to_string();
    let again = scene.runner.run(["drill", "--deployment", NAME, "--json", "--seed", &seed]).expect(0).json();
    assert_eq!(again["drill"]["files"]["samples"], done["drill"]["files"]["samples"]);
}

#[test]
fn a_source_that_is_not_what_was_backed_up_though_it_looks_unchanged_fails() {
    let scene = Scene::new();
    let path = scene.runner.path(NAME).join("artifacts").join(FILES[1]);
    let (mut bytes, modified) = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap());
    bytes[100] ^= 1;
    fs::write(&path, bytes).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    let done = scene.drill(&[]).expect(1).json();
    assert!(failures(&done).contains("not what it is at its source"), "{done:#}");
}

#[test]
fn damage_in_the_repository_fails_and_is_recorded() {
    let scene = Scene::new();
    scene.runner.damage_data();
    let done = scene.drill(&[]).expect(1).json();
    assert_eq!(done["drill"]["result"], "failed");
    assert!(done["drill"]["failures"]["count"].as_u64().unwrap() > 0);
    let listed = scene.runner.run(["drill", "list", "--json"]).expect(0).json();
    assert_eq!(
        (&listed["drills"][0]["drill"]["result"], &listed["drills"][0]["believed"]),
        (&"failed".into(), &true.into())
    );
    scene.assert_nothing_left();
}

/// Writes a snapshot that says what it likes in a file of its catalogue.
fn plant(repository: &Arc<Repository>, file: &str, change: impl Fn(String) -> String) {
    let hears = Hears::nobody();
    let mut record = repository.find_snapshot("latest").unwrap().record;
    let reader = ChunkReader::new(Arc::clone(repository));
    let session = WritingSession::begin(repository, "backup", &hears).unwrap();
    let component = record.components.iter_mut().find(|component| component.name == CATALOGUE).unwrap();
    let mut tree = TreeWriter::new(session.writer());
    for entry in TreeReader::open(&reader, CATALOGUE, &component.root).unwrap() {
        let mut entry = entry.unwrap();
        if entry.path == file.as_bytes() {
            let old = mlvault::trees::file_reader::FileReader::open(&reader, &entry, &hears).unwrap();
            let changed = change(std::io::read_to_string(old).unwrap());
            let intake = Intake::new(session.writer(), BlobKind::Meta, &hears);
            let Ok(stored) = intake.take_all(&mut Tools::default(), &mut changed.as_bytes()) else { panic!("{file}") };
            let EntryKind::File(content) = &mut entry.kind else { panic!("{file}") };
            (content.size, content.digest, content.chunks) = (stored.facts.size, stored.facts.digest, stored.chunks);
        }
        tree.push(&entry).unwrap();
    }
    component.root = tree.finish().unwrap().root;
    (record.started, record.finished) = (Timestamp::now(), Timestamp::now());
    session.finish().unwrap().0.commit(record).unwrap();
}

#[test]
fn a_snapshot_that_says_what_is_not_so_fails() {
    type Lie = (&'static str, fn(String) -> String, &'static str);
    let lies: [Lie; 3] = [
        ("tables.jsonl", |text| text.replacen("\"rows\":2,", "\"rows\":3,", 1), "rows"),
        ("experiments.jsonl", |text| text.replacen("fraud", "freud", 1), "experiments.jsonl"),
        ("references.jsonl", |text| text.lines().skip(1).map(|line| format!("{line}\n")).collect(), "references"),
    ];
    for (file, lie, wanted) in lies {
        let scene = Scene::new();
        plant(&scene.runner.open(), file, lie);
        let done = scene.drill(&[]).expect(1).json();
        assert!(failures(&done).contains(wanted), "{file}: {done:#}");
        scene.assert_nothing_left();
    }
}

#[test]
fn a_restored_database_that_is_another_fails_whatever_the_restore_said() {
    let scene = Scene::new();
    let rewritten = scene.drill_tampered("compare databases", |scratch| {
        execute(scratch, "UPDATE runs SET name = 'another' WHERE run_uuid = 'abc'");
    });
    assert_fails_with(&rewritten, &["the rows of the table runs", "runs.jsonl: line 1"]);
    let fewer = scene.drill_tampered("compare databases", |scratch| {
        execute(scratch, "DELETE FROM model_versions; DELETE FROM registered_models");
    });
    assert_fails_with(&fewer, &["has 0 rows instead of 1", "model_versions.jsonl", "no restored row has 1"]);
    let migrated = scene.drill_tampered("compare databases", |scratch| {
        execute(scratch, "UPDATE alembic_version SET version_num = 'feedbeef'");
    });
    assert_fails_with(&migrated, &["its schema is \"feedbeef\""]);
    let gone =
        scene.drill_tampered("compare databases", |scratch| fs::remove_file(scratch.join("backend.db")).unwrap());
    assert_fails_with(&gone, &["database"]);
}

#[test]
fn restored_files_that_are_missing_altered_or_too_many_fail_by_name() {
    let scene = Scene::new();
    let evidence = scene.drill_tampered("compare model versions", |scratch| {
        fs::remove_file(restored(scratch, FILES[0])).unwrap();
        let altered = restored(scratch, FILES[1]);
        let mut bytes = fs::read(&altered).unwrap();
        bytes[5] ^= 1;
        fs::write(&altered, bytes).unwrap();
        fs::write(altered.with_file_name("zzz"), "too many").unwrap();
    });
    let named = [
        format!("{}: it was not restored", FILES[0]),
        format!("{}: it has another content", FILES[1]),
        "zzz: it is there, and not in the snapshot".to_owned(),
    ];
    assert_fails_with(&evidence, &named.each_ref().map(String::as_str));
    let evidence = scene.drill_tampered("compare samples", |scratch| {
        fs::write(restored(scratch, FILES[3]), "something else").unwrap();
    });
    assert_fails_with(&evidence, &[FILES[3]]);
    assert_eq!(evidence.files.samples.len(), FILES.len() - 1);
    let gone = scene.drill_tampered("compare model versions", |scratch| {
        fs::remove_dir_all(scratch.join("artifacts")).unwrap();
    });
    assert_fails_with(&gone, &[FILES[0], "artifacts/mlflow-artifacts: Cannot list"]);
}

#[test]
fn a_scratch_place_that_may_be_the_source_is_refused_before_the_first_byte() {
    let scene = Scene::new();
    let folder = scene.runner.path(NAME);
    symlink(folder.join("artifacts"), scene.runner.path("link")).unwrap();
    let places = [
        folder.join("artifacts"),
        folder.join("artifacts/7"),
        folder.clone(),
        scene.runner.path("link"),
        scene.runner.path("repo"),
        scene.runner.path("cache"),
        scene.runner.path(""),
    ];
    let before = scene.runner.files(NAME);
    for place in &places {
        let place = place.to_str().unwrap();
        for option in ["--scratch-dir", "--scratch-artifacts"] {
            let refused = scene.drill(&[option, place]).expect(1);
            assert!(refused.stderr.contains("is the same as, above or below"), "{option} {place}: {}", refused.stderr);
        }
    }
    // Also what the snapshot was made of, where nothing is configured.
    let artifacts = folder.join("artifacts");
    fs::write(
        scene.runner.path("src/mlvault.toml"),
        format!("[deployment.{NAME}.drill]\nscratch-dir = {artifacts:?}\n"),
    )
    .unwrap();
    scene.runner.run(["drill", "--deployment", NAME]).expect(1);
    let mut inside = scene.command(&[]);
    finish(inside.env("TMPDIR", folder.join("artifacts"))).expect(1);
    assert_eq!(scene.runner.files(NAME), before);
    scene.assert_nothing_left();
    let nowhere = scene.drill(&["--scratch-dir", "/no/such/place"]).expect(2);
    assert!(nowhere.stderr.contains("is no directory"), "{}", nowhere.stderr);
}

#[test]
fn a_full_scratch_disk_fails_and_the_next_drill_works() {
    if !may_mount() {
        return;
    }
    let scene = Scene::new();
    let scratch = scene.runner.path("small");
    fs::create_dir(&scratch).unwrap();
    let place = &scene.place;
    // Too little for the artifacts, and enough for them but not for the database.
    for size in ["8k", "100k"] {
        let line = format!(
            "mount -t tmpfs -o size={size} tmpfs '{0}' && \"$MLVAULT\" drill --json --deployment {NAME} \
             --backend-store-uri {1} --artifacts {ROOT}={2} --scratch-dir '{0}'; code=$?; ls -A '{0}'; exit $code",
            scratch.display(),
            place.database,
            place.artifacts
        );
        let outcome = finish(&mut with_own_mounts(&scene.runner.shell(&line)));
        assert_eq!(outcome.code, Some(1), "{size}: {} {}", outcome.stderr, outcome.text());
        // Nothing is listed behind the document.
        assert!(outcome.text().trim_end().ends_with('}'), "{}", outcome.text());
        assert!(outcome.text().contains("\"failed\""), "{size}: {}", outcome.text());
    }
    scene.drill(&["--scratch-dir", scratch.to_str().unwrap()]).expect(0);
}

/// Writes a program that stands for MLflow.
fn fake_mlflow(runner: &Runner, script: &str) -> String {
    let path = runner.path("fake-mlflow");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

/// Starts a drill, and waits until it has come to its MLflow, which does not answer.
fn start_and_wait(scene: &Scene) -> Child {
    let reached = scene.runner.path("reached");
    let script = format!("echo x > '{}'; exec sleep 300", reached.display());
    let command = fake_mlflow(&scene.runner, &script);
    let child =
        scene.command(&["--mlflow-command", &command]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while !reached.exists() {
        assert!(begun.elapsed() < REACH_MAX);
        sleep(Duration::from_millis(20));
    }
    fs::remove_file(reached).unwrap();
    child
}

fn is_running(name: &str) -> bool {
    let found = Command::new("pgrep").args(["-f", name]).output().unwrap();
    !found.stdout.is_empty()
}

#[test]
fn what_a_killed_drill_leaves_was_named_and_the_next_one_works() {
    let scene = Scene::new();
    let mut child = start_and_wait(&scene);
    child.kill().unwrap();
    let told = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
    let left: Vec<_> = fs::read_dir(scene.runner.path("tmp")).unwrap().map(|it| it.unwrap().path()).collect();
    assert_eq!(left.len(), 1);
    assert!(told.contains(left[0].to_str().unwrap()) && told.contains("remove it if this process is killed"), "{told}");
    // Not even what it had started is left.
    let begun = Instant::now();
    let program = scene.runner.path("fake-mlflow").display().to_string();
    while is_running(&program) {
        assert!(begun.elapsed() < REACH_MAX, "{program} still runs");
        sleep(Duration::from_millis(50));
    }
    scene.drill(&[]).expect(0);
    assert!(left[0].exists());
}

#[test]
fn a_signal_ends_a_drill_and_it_cleans_up() {
    let scene = Scene::new();
    let child = start_and_wait(&scene);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    scene.assert_nothing_left();
    assert!(scene.runner.files("repo").iter().all(|path| !path.to_string_lossy().contains("/evidence/")));
}

#[test]
fn two_drills_at_once_do_not_meet() {
    let scene = Scene::new();
    let start = || scene.command(&[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    for child in [start(), start()] {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
    scene.assert_nothing_left();
    let listed = scene.runner.run(["drill", "list", "--json"]).expect(0).json();
    assert_eq!(listed["drills"].as_array().unwrap().len(), 2);
}

#[test]
fn a_stolen_writers_key_cannot_say_that_a_drill_passed() {
    let scene = Scene::new();
    let done = scene.drill(&["--no-record"]).expect(0).json();
    let (_, credential) = key_file();
    let repository = scene.runner.open();
    repository.add_key("cron", Role::Writer, &credential).unwrap();
    let backend = Arc::new(mlvault::backend::local::LocalBackend::open(scene.runner.path("repo")).unwrap());
    let thief = Repository::open(backend, &credential, &OpenOptions::default()).unwrap();
    let drill: DrillEvidence = serde_json::from_value(done["drill"].clone()).unwrap();
    forge_evidence(&thief, Timestamp::now(), Says::Drill(Box::new(drill)));
    let listed = scene.runner.run(["drill", "list", "--json"]).expect(0).json();
    let listed = &listed["drills"][0];
    assert_eq!(
        (&listed["drill"]["result"], &listed["believed"], &listed["doubt"]),
        (&"passed".into(), &false.into(), &"role".into())
    );
    let shown = scene.runner.run(["drill", "list"]).expect(0).text();
    assert!(shown.contains("NO: its key's role cannot know it"), "{shown}");
}

#[test]
fn snapshots_are_chosen_by_name_age_and_chance_and_an_incomplete_one_does_not_pass_as_whole() {
    let scene = Scene::new();
    let random = scene.drill(&["--random", "--no-record"]).expect(0).json();
    assert_eq!(random["drill"]["snapshot"]["id"], scene.snapshot.as_str());
    let none = scene.drill(&["--age", "1y"]).expect(1);
    assert!(none.stderr.contains("no complete snapshot that is 1y old"), "{}", none.stderr);
    // The next backup lacks the files of the version.
    fs::remove_dir_all(scene.runner.path(NAME).join("artifacts/7/abc")).unwrap();
    let later = scene.place.run(&scene.runner, &["backup"]).expect(3).json()["snapshot"].as_str().unwrap().to_owned();
    let usual = scene.drill(&["--no-record"]).expect(3).json();
    assert_eq!(usual["drill"]["snapshot"]["id"], scene.snapshot.as_str());
    assert!(usual["drill"]["exceptions"].to_string().contains("is incomplete, so"), "{usual:#}");
    let named = scene.drill(&["--snapshot", &later, "--no-record"]).expect(3).json();
    assert_eq!((&named["drill"]["result"], &named["drill"]["snapshot"]["complete"]), (&"passed".into(), &false.into()));
    assert!(named["drill"]["exceptions"].to_string().contains("detector/1"), "{named:#}");
}

#[test]
fn what_is_kept_can_be_looked_at() {
    let scene = Scene::new();
    let kept = scene.drill(&["--keep"]).expect(0).json()["kept"][0].as_str().unwrap().to_owned();
    let database = Connection::open(Path::new(&kept).join("backend.db")).unwrap();
    let runs: i64 = database.query_row("SELECT count(*) FROM runs", [], |row| row.get(0)).unwrap();
    assert_eq!(runs, 2);
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn who_cannot_restore_cannot_drill_and_a_snapshot_counts_for_its_own_deployment() {
    let scene = Scene::new();
    for role in ["writer", "auditor"] {
        let file = scene.runner.path(role);
        scene
            .runner
            .run(["key", "add", "--role", role, "--label", role, "--new-key-file", file.to_str().unwrap()])
            .expect(0);
        let mut command = scene.command(&[]);
        finish(command.env("MLVAULT_KEY_FILE", &file)).expect(12);
    }
    scene.assert_nothing_left();
    let other = scene
        .runner
        .run([
            "drill",
            "--deployment",
            "staging",
            "--snapshot",
            &scene.snapshot,
            "--set",
            "deployment.staging.drill.samples=1",
        ])
        .expect(1);
    assert!(other.stderr.contains("not of the deployment \"staging\""), "{}", other.stderr);
    let samples = scene.drill(&["--samples", "1001"]).expect(2);
    assert!(samples.stderr.contains("at most 1000"), "{}", samples.stderr);
}

#[test]
fn artifacts_go_into_an_empty_prefix_and_out_of_it_again() {
    let server = S3Server::start(Program::Rclone);
    let lived = ThreeDays::unpack();
    let place = lived.place().in_bucket(&server.options());
    let folder = Place { artifacts: lived.place().artifacts, ..place };
    let scratch = format!("s3://{BUCKET}/drill");
    let done = folder.run(&lived.runner, &["drill", "--scratch-artifacts", &scratch]).expect(0).json();
    assert_eq!(done["drill"]["result"], "passed", "{done:#}");
    assert!(done["drill"]["files"]["version_files"].as_u64().unwrap() > 0, "{done:#}");
    assert!(server.bucket().first_objects("", 10).unwrap().is_empty());
    let content = bytes::Bytes::from_static(b"x");
    server.bucket().put("drill/somebody's", &content, &Default::default(), false).unwrap();
    let refused = folder.run(&lived.runner, &["drill", "--scratch-artifacts", &scratch]).expect(1);
    assert!(refused.stderr.contains("is not empty"), "{}", refused.stderr);
    assert_eq!(server.bucket().first_objects("", 10).unwrap().len(), 1);
}

#[test]
fn mlflow_itself_is_asked_and_one_of_another_schema_fails() {
    let lived = ThreeDays::unpack();
    let mlflow = tool("mlflow").display().to_string();
    let done = lived.place().run(&lived.runner, &["drill", "--mlflow-command", &mlflow]).expect(0).json();
    let server = &done["drill"]["server"];
    assert_eq!(done["drill"]["result"], "passed", "{done:#}");
    for what in ["experiments", "runs", "models", "files"] {
        assert!(server[what].as_u64().unwrap() > 0, "{what}: {server:#}");
    }
    let old = fake_mlflow(&lived.runner, "echo 'mlflow, version 2.3.0'");
    let done = lived.place().run(&lived.runner, &["drill", "--mlflow-command", &old]).expect(1).json();
    assert!(failures(&done).contains("2.3.0 has the schema"), "{done:#}");
    let broken = fake_mlflow(
        &lived.runner,
        "[ \"$1\" = --version ] && echo 'mlflow, version 99.0.0' || { echo no >&2; exit 1; }",
    );
    let done = lived.place().run(&lived.runner, &["drill", "--mlflow-command", &broken]).expect(1).json();
    assert!(failures(&done).contains("does not answer"), "{done:#}");
    let left: Vec<_> = fs::read_dir(lived.runner.path("tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Collects what a monitor is told, to see that nothing of a drill goes past its findings.
#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Monitor for Told {
    fn phase(&self, _: &'static str, _: Option<u64>, _: Option<u64>) {}
    fn count(&self, _: Counter, _: u64) {}
    fn problem(&self, subject: &str, message: &str) {
        self.0.lock().unwrap().push(format!("{subject}: {message}"));
    }
    fn note(&self, _: &str) {}
}

#[test]
fn every_problem_that_is_told_is_a_failure_of_the_evidence() {
    let scene = Scene::new();
    scene.runner.damage_data();
    let told = Arc::new(Told::default());
    let settings = DrillSettings { samples: 5, ..DrillSettings::default() };
    let source = scene.source();
    let (own_places, doubts) = (Vec::new(), Vec::new());
    let options = DrillOptions { settings, source, own_places, seed: 1, keep: false, retention: None, doubts };
    let repository = scene.runner.open();
    let snapshot = repository.find_snapshot("latest").unwrap();
    let hears = Hears::new(Arc::clone(&told) as Arc<dyn Monitor>, Cancel::default());
    let evidence = drill::run(&repository, &snapshot, &options, &hears).unwrap().evidence;
    let told = told.0.lock().unwrap();
    assert!(!told.is_empty());
    assert_eq!(evidence.failures.count, told.len() as u64, "{told:#?}");
}
