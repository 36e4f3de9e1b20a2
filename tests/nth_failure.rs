//! The n-th call to the system fails, for every n: wherever the program writes beside its repository.
//!
//! Goal: the target of a restore, standard output, the index cache and scratch files may fail at any moment, and then the
//! program says what failed and where, with the right exit code; what it calls done is right; nothing in the repository
//! is lost; and a second run works. Method: the real program, and the real kernel. `strace` makes the n-th call of each
//! thread that touches certain paths fail with an I/O error; file systems in memory with room for n pages, or for n files,
//! are full. Failing writes to the repository itself are in `crash`, `prune`, `repair` and `backend_local`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::support::cli::{Outcome, Runner, finish, may_mount, noise, with_own_mounts};
use crate::support::sqlite_file::create_mlflow;

/// The calls that fail: those that change something, and reads of what was written.
const CALLS: &str = "openat,mkdir,mkdirat,write,pwrite64,pwritev,ftruncate,fallocate,fsync,fdatasync,fchmod,fchmodat,utimensat,\
    rename,renameat,renameat2,link,linkat,symlinkat,unlink,unlinkat,read,pread64";
/// More calls than a thread makes here.
const CALLS_MAX: usize = 400;
/// Room in KiB that is enough for everything here.
const ENOUGH_KIB: usize = 64 << 10;
/// Exit code of a shell line whose program called wrong what it made right.
const NOT_RIGHT: i32 = 99;
/// Exit code of a shell line whose second run of the program did not work.
const NOT_AGAIN: i32 = 98;

/// Something that the program does, and where it writes meanwhile.
struct Scene {
    runner: Runner,
    /// What runs, as a shell's words.
    line: String,
    /// What tells whether it made everything right, if it said so.
    verify: String,
    /// Where it writes.
    place: PathBuf,
    /// What a message must name, besides the cause.
    names: Vec<String>,
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display())
}

/// A repository with a snapshot of some files, of which one is empty and one is long.
fn runner() -> Runner {
    let runner = Runner::with_repository();
    runner.write("a/weights", noise(1, 70_000));
    runner.write("a/b/log", "one line\n");
    runner.write("empty", "");
    runner.write("z", noise(2, 9000));
    runner.backup();
    runner
}

impl Scene {
    fn restore() -> Self {
        let runner = runner();
        let (place, source) = (runner.path("target"), runner.path("src"));
        Self {
            line: format!("\"$MLVAULT\" restore --snapshot latest --ignore-free-space --target {}", quoted(&place)),
            verify: format!("diff -r {} {}", quoted(&source), quoted(&place)),
            names: vec![place.display().to_string()],
            place,
            runner,
        }
    }

    fn dump() -> Self {
        let runner = runner();
        let (right, place) = (runner.path("right.tar"), runner.path("out"));
        finish(&mut runner.shell(&format!("\"$MLVAULT\" dump latest > {}", quoted(&right)))).expect(0);
        let file = place.join("out.tar");
        Self {
            line: format!("\"$MLVAULT\" dump latest > {}", quoted(&file)),
            verify: format!("cmp {} {}", quoted(&right), quoted(&file)),
            names: vec!["the output".to_owned(), "standard output".to_owned()],
            place,
            runner,
        }
    }

    /// A backup that needs the index, whose cache is lost.
    fn cache() -> Self {
        let runner = runner();
        fs::remove_dir_all(runner.path("cache")).unwrap();
        let place = runner.path("cache");
        Self {
            line: "\"$MLVAULT\" backup . --force".to_owned(),
            verify: "true".to_owned(),
            // Where it cannot be, one in the directory for temporary files takes its place.
            names: vec![place.display().to_string(), runner.path("tmp").display().to_string()],
            place,
            runner,
        }
    }

    /// A backup of a deployment, which copies the database, and writes its catalogue, into the directory for temporary files.
    fn scratch() -> Self {
        let runner = runner();
        let artifacts = runner.path("artifacts");
        fs::create_dir(&artifacts).unwrap();
        fill(&create_mlflow(&runner.path("mlflow.db")), &artifacts);
        let place = runner.path("tmp");
        Self {
            line: format!(
                "\"$MLVAULT\" backup --deployment production --backend-store-uri sqlite:///{} --artifacts {}",
                runner.path("mlflow.db").display(),
                quoted(&PathBuf::from(format!("mlflow-artifacts:/={}", artifacts.display()))),
            ),
            verify: "true".to_owned(),
            names: vec![place.display().to_string()],
            place,
            runner,
        }
    }

    /// Runs the program with the n-th call of each thread failing that touches one of these paths. Returns how it ended, and
    /// whether any call did fail.
    fn with_failing_call(&self, n: usize, paths: &BTreeSet<PathBuf>) -> (Outcome, bool) {
        let log = self.runner.path("strace.log");
        let watched: String = paths.iter().map(|path| format!(" -P {}", quoted(path))).collect();
        let strace = format!(
            "exec strace -f -qq --seccomp-bpf -o {} -e trace={CALLS} -e inject={CALLS}:error=EIO:when={n}{watched} {}",
            quoted(&log),
            self.line
        );
        let outcome = finish(&mut self.runner.shell(&strace));
        let log = fs::read_to_string(log).unwrap();
        (outcome, log.contains("(INJECTED)"))
    }

    /// Runs the program with room for so much in its place, then with enough room, all within one mount.
    fn with_little_room(&self, options: &str) -> Outcome {
        let Self { line, verify, place, .. } = self;
        let (place, second) = (quoted(place), quoted(&self.runner.path("second")));
        let inner = format!(
            "mkdir -p {place} && mount -t tmpfs -o {options} tmpfs {place} || exit 97
            {line}; code=$?
            [ $code != 0 ] || {verify} >&2 || exit {NOT_RIGHT}
            mount -o remount,size={ENOUGH_KIB}k,nr_inodes=10000 {place} || exit 97
            ({line}) > {second} 2>&1 && {verify} >&2 || {{ cat {second} >&2; exit {NOT_AGAIN}; }}
            exit $code"
        );
        finish(&mut with_own_mounts(&self.runner.shell(&inner)))
    }

    /// Fails unless a run that did not do everything says so as it should.
    fn assert_told(&self, outcome: &Outcome, causes: &[&str], what: &str) {
        let said = &outcome.stderr;
        assert!(matches!(outcome.code, Some(0 | 1 | 3)), "{what}: {:?} {said}", outcome.code);
        assert!(!said.contains("panicked") && !said.contains("Internal error"), "{what}: {said}");
        if outcome.code != Some(0) {
            let is_named = self.names.iter().any(|name| said.contains(name));
            let is_explained = causes.iter().any(|cause| said.contains(cause));
            assert!(is_named && is_explained, "{what}: {said}");
        }
    }

    /// Lets each call fail once.
    fn let_each_call_fail(&self) -> usize {
        let clean = || {
            drop(fs::remove_dir_all(&self.place));
            fs::create_dir(&self.place).unwrap();
        };
        clean();
        finish(&mut self.runner.shell(&self.line)).expect(0);
        let paths = paths_below(&self.place);
        let (mut failed, mut n) = (0, 1);
        loop {
            clean();
            let (outcome, is_injected) = self.with_failing_call(n, &paths);
            let what = format!("call {n}");
            assert!(!outcome.stderr.contains("strace:"), "{}", outcome.stderr);
            self.assert_told(&outcome, &["Input/output error"], &what);
            if outcome.code == Some(0) {
                finish(&mut self.runner.shell(&self.verify)).expect(0);
            }
            failed += usize::from(outcome.code != Some(0));
            // What the first run left is in the way of nothing.
            finish(&mut self.runner.shell(&format!("{{ {}; }} && {}", self.line, self.verify))).expect(0);
            if !is_injected {
                return failed;
            }
            // Each of the first calls, and some of the many that are alike.
            n += 1 + n / 24;
            assert!(n < CALLS_MAX);
        }
    }

    /// Lets the place be too small by ever less.
    fn let_room_run_out(&self, option: impl Fn(usize) -> String) -> usize {
        let (mut failed, mut n) = (0, 1);
        loop {
            let outcome = self.with_little_room(&option(n));
            let what = option(n);
            // The last two are how SQLite says it, of pages and of files.
            self.assert_told(&outcome, &["No space left", "disk is full", "unable to open database file"], &what);
            failed += usize::from(outcome.code != Some(0));
            if outcome.code == Some(0) && n >= 40 {
                return failed;
            }
            n += 1 + n / 8;
            assert!(n < ENOUGH_KIB / 4, "{what}: {}", outcome.stderr);
        }
    }

    fn assert_repository_is_whole(&self) {
        self.runner.run(["check", "--read-data"]).expect(0);
    }
}

/// Makes an experiment with a run that has a file, and as many parameters as make a database of some pages.
fn fill(database: &Connection, artifacts: &Path) {
    fs::create_dir_all(artifacts.join("1/r1/artifacts")).unwrap();
    fs::write(artifacts.join("1/r1/artifacts/model"), noise(3, 20_000)).unwrap();
    database
        .execute_batch(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage)
             VALUES (1, 'e', 'mlflow-artifacts:/1', 'active');
             INSERT INTO runs (run_uuid, name, experiment_id, lifecycle_stage, artifact_uri, status, source_type)
             VALUES ('r1', 'r', 1, 'active', 'mlflow-artifacts:/1/r1/artifacts', 'FINISHED', 'LOCAL');
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
             INSERT INTO params (key, value, run_uuid) SELECT 'parameter ' || i, 'value ' || i, 'r1' FROM n;",
        )
        .unwrap();
}

/// Returns a directory, and everything in it.
fn paths_below(directory: &Path) -> BTreeSet<PathBuf> {
    let mut paths = BTreeSet::from([directory.to_owned()]);
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { paths.extend(paths_below(&path)) } else { _ = paths.insert(path) }
    }
    paths
}

fn pages(n: usize) -> String {
    format!("size={}k", 4 * n)
}

fn files(n: usize) -> String {
    format!("size={ENOUGH_KIB}k,nr_inodes={n}")
}

#[test]
fn a_restore_whose_target_fails_at_any_call_says_so_and_is_finished_by_the_next() {
    let scene = Scene::restore();
    let failed = scene.let_each_call_fail();
    assert!(failed > 5, "{failed}");
    scene.assert_repository_is_whole();
}

#[test]
fn a_restore_whose_target_has_too_little_room_says_so_and_is_finished_by_the_next() {
    if !may_mount() {
        return; // The failing calls stand in for it.
    }
    let scene = Scene::restore();
    assert!(scene.let_room_run_out(pages) > 5);
    assert!(scene.let_room_run_out(files) > 3);
}

#[test]
fn an_archive_that_cannot_be_written_is_never_called_whole() {
    let scene = Scene::dump();
    assert!(scene.let_each_call_fail() > 0);
    if may_mount() {
        assert!(scene.let_room_run_out(pages) > 5);
    }
}

#[test]
fn an_index_cache_that_fails_at_any_call_costs_no_backup_anything_but_time() {
    let scene = Scene::cache();
    scene.let_each_call_fail();
    scene.assert_repository_is_whole();
    if may_mount() {
        // The cache is only an optimisation: without room for it, the backup goes on with one in the temporary directory.
        assert_eq!(scene.let_room_run_out(pages), 0);
        assert_eq!(scene.let_room_run_out(files), 0);
        scene.assert_repository_is_whole();
    }
}

#[test]
fn scratch_files_without_room_fail_a_backup_of_a_deployment_with_their_place() {
    if !may_mount() {
        return; // `an_object_that_does_not_fit_leaves_nothing_behind` has a limit that needs no mount.
    }
    let scene = Scene::scratch();
    assert!(scene.let_room_run_out(pages) > 5);
    assert!(scene.let_room_run_out(files) > 0);
    scene.assert_repository_is_whole();
    let latest = scene.runner.run(["snapshots", "--json"]).expect(0).json();
    assert!(!latest["snapshots"].as_array().unwrap().is_empty());
}
