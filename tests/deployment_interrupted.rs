//! Backups and restores of a deployment that end in the middle: mlvault is killed, or what it reads goes away.
//!
//! Whatever happens, no snapshot says that it is complete and is not, and the next run does what the first did not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::cli::{Runner, noise};
use crate::support::deployment::{Place, ThreeDays, assert_whole, snapshot_of};
use crate::support::fault_server::Answer;
use crate::support::recording_proxy::RecordingProxy;
use crate::support::repo::tree;
use crate::support::s3_server::{BUCKET, Program, S3Server};

/// How long something may take to begin on a loaded machine.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// Files that are added, so that there is time to interrupt.
const MORE_FILES: u64 = 48;
/// Their size in bytes.
const MORE_FILE_LEN: usize = 4 << 20;

/// Size in bytes of a file that takes seconds to read.
const ENDLESS_LEN: u64 = 4 << 30;

/// Adds artifacts that nobody refers to and that take a while to read and to write.
fn make_large(lived: &ThreeDays) {
    let folder = lived.folder().join("artifacts/orphans");
    fs::create_dir(&folder).unwrap();
    (0..MORE_FILES)
        .for_each(|number| fs::write(folder.join(number.to_string()), noise(number, MORE_FILE_LEN)).unwrap());
}

/// Adds an artifact full of zeros: it costs nothing to store, and time to read. It is read before all others.
fn make_endless(place: &Place) -> PathBuf {
    let endless = Path::new(&place.artifacts).join("!endless");
    fs::File::create(&endless).unwrap().set_len(ENDLESS_LEN).unwrap();
    endless
}

/// Starts a command and returns when something is true of it that can only be true in its middle.
fn start_until(mut command: Command, is_reached: impl Fn(&Child) -> bool) -> Child {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while !is_reached(&child) {
        assert!(child.try_wait().unwrap().is_none(), "It ended before the middle: {:?}", child.wait_with_output());
        assert!(begun.elapsed() < WAIT_MAX, "It never came to the middle");
        sleep(Duration::from_millis(1));
    }
    child
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().code(), None, "It was over before it was killed");
}

fn snapshots(runner: &Runner) -> Vec<serde_json::Value> {
    runner.run(["snapshots", "--json"]).expect(0).json()["snapshots"].as_array().unwrap().clone()
}

/// Returns a function that tells whether one more data pack is in the repository.
fn one_more_pack(runner: &Runner) -> impl Fn(&Child) -> bool {
    let packs = runner.path("repo/packs/data");
    let count = move || walk(&packs);
    let before = count();
    move |_| count() > before
}

/// Returns whether a process has this file open, or one below this directory.
fn has_open(child: &Child, path: &Path) -> bool {
    let open = fs::read_dir(format!("/proc/{}/fd", child.id())).into_iter().flatten().flatten();
    open.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|file| file.starts_with(path))
}

/// Counts the files below a directory that others write to.
fn walk(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.map(|path| if path.is_dir() { walk(&path) } else { 1 }).sum()
}

#[test]
fn a_backup_that_is_killed_leaves_no_snapshot_and_a_restore_that_is_killed_is_gone_on_with() {
    let lived = ThreeDays::unpack();
    let (runner, place) = (&lived.runner, lived.place());
    make_large(&lived);
    let endless = make_endless(&place);
    kill(start_until(place.command(runner, &["backup"]), one_more_pack(runner)));
    fs::remove_file(endless).unwrap();
    assert_eq!(snapshots(runner).len(), 4);
    runner.run(["check"]).expect(0);
    let (id, record) = place.backup(runner);
    assert_whole(&record);
    assert!(record["deployment"]["references"]["orphans"].as_u64().unwrap() >= MORE_FILES, "{record:#}");

    let new = Place::in_folder(&runner.path("new"));
    let artifacts = Path::new(&new.artifacts).to_owned();
    let restore = ["restore", "--snapshot", &id, "--yes"];
    kill(start_until(new.command(runner, &restore), |_| walk(&artifacts) > 0));
    // Artifacts come first: there is no database that promises files that are not there.
    assert!(!Path::new(&new.database.trim_start_matches("sqlite:///")).exists());
    let refused = new.run(runner, &restore).expect(1);
    assert!(refused.stderr.contains("--resume"), "{}", refused.stderr);
    new.run(runner, &[&restore[..], &["--resume"]].concat()).expect(0);
    assert_eq!(tree(&artifacts), tree(&lived.folder().join("artifacts")));
    assert_eq!(rows(&new), rows(&place));
}

/// Returns the numbers of rows of some tables.
fn rows(place: &Place) -> Vec<i64> {
    let database = rusqlite::Connection::open(place.database.trim_start_matches("sqlite:///")).unwrap();
    let count =
        |table: &str| database.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
    ["runs", "metrics", "logged_models", "model_versions", "trace_info"].map(count).to_vec()
}

#[test]
fn an_artifact_directory_that_vanishes_leaves_no_complete_snapshot() {
    let lived = ThreeDays::unpack();
    let (runner, place) = (&lived.runner, lived.place());
    let endless = make_endless(&place);
    let child = start_until(place.command(runner, &["backup"]), |child| has_open(child, &endless));
    fs::remove_dir_all(&place.artifacts).unwrap();
    let output = child.wait_with_output().unwrap();
    // On a loaded machine all may have been read before it vanished: what is called complete has everything, then.
    let artifacts = |record: &Value| record["components"][0]["bytes"].as_u64().unwrap();
    let all = artifacts(&lived.snapshots[3].1) + ENDLESS_LEN;
    for snapshot in &snapshots(runner)[4..] {
        let record = &snapshot["record"];
        let is_whole = output.status.success() && artifacts(record) == all;
        assert!(record["completeness"] == "incomplete" || is_whole, "{snapshot:#}");
    }
    assert!(matches!(output.status.code(), Some(0 | 1 | 3)), "{output:?}");
    assert!(output.status.code() != Some(1) || !output.stderr.is_empty(), "{output:?}");
    let refused = place.run(runner, &["backup"]).expect(1);
    assert!(refused.stderr.contains(&place.artifacts), "{}", refused.stderr);
}

#[test]
fn a_bucket_that_vanishes_leaves_no_complete_snapshot() {
    let lived = ThreeDays::unpack();
    let (runner, rclone) = (&lived.runner, S3Server::start(Program::Rclone));
    lived.copy_artifacts_to(&rclone);
    for requests_answered in [0, 1, 20] {
        let requests = AtomicUsize::new(0);
        let proxy = RecordingProxy::start_with(&rclone, move |_| {
            let is_gone = requests.fetch_add(1, Ordering::Relaxed) >= requests_answered;
            is_gone.then(|| Answer::error(404, "NoSuchBucket"))
        });
        let place = lived.place().in_bucket(&proxy.options());
        let before = snapshots(runner).len();
        let outcome = place.run(runner, &["backup"]);
        match outcome.code {
            Some(1) => {
                assert!(outcome.stderr.contains(BUCKET), "{}", outcome.stderr);
                assert_eq!(snapshots(runner).len(), before);
            }
            _ => {
                let (_, record) = snapshot_of(&outcome.expect(3));
                assert_eq!(record["completeness"], "incomplete", "{record:#}");
                assert_eq!(record["deployment"]["verdicts"]["artifacts"], "not_ok", "{record:#}");
            }
        }
    }
}
