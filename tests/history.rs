//! What a machine remembers of a repository, and that it notices when history goes backwards.
//!
//! Method: the program runs against a directory. An attacker who may delete does so past it, or puts a copy of an earlier
//! week in its place. Each test says what is noticed, what is not said, and that nothing fails for want of a memory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::support::cli::{Outcome, Runner};

const ALARM: &str = "HISTORY WENT BACKWARDS";

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn backups(runner: &Runner, count: usize) -> Vec<String> {
    let backup = |number: usize| {
        runner.write("model", format!("version {number}"));
        runner.backup()
    };
    (0..count).map(backup).collect()
}

/// Removes a snapshot and all that tells of it, as somebody who may delete in the place can.
fn delete(runner: &Runner, id: &str) {
    for file in runner.files("repo") {
        if file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(id)) {
            fs::remove_file(file).unwrap();
        }
    }
}

fn memory_of(runner: &Runner) -> PathBuf {
    let is_memory = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "history");
    runner.files("cache").into_iter().find(is_memory).unwrap()
}

fn is_alarmed(outcome: &Outcome) -> bool {
    outcome.stderr.contains(ALARM)
}

#[test]
fn the_newest_snapshot_that_is_deleted_with_its_session_is_missed_by_every_command() {
    let runner = Runner::with_repository();
    let ids = backups(&runner, 2);
    assert!(!is_alarmed(&runner.run(["snapshots"]).expect(0)));
    delete(&runner, &ids[1]);
    let listed = runner.run(["snapshots", "--json"]).expect(3);
    assert!(is_alarmed(&listed) && listed.stderr.contains(&ids[1][..12]), "{}", listed.stderr);
    assert_eq!(listed.json()["vanished"][ids[1].as_str()], serde_json::json!([]));
    assert!(is_alarmed(&runner.run(["ls", "latest"]).expect(0)));
    let check = runner.run(["check", "--json"]).expect(1);
    assert_eq!(check.json()["report"]["problems"][0]["kind"], "vanished");
    // It backs up all the same, whole, and says that something is wrong.
    runner.settle();
    let backup = runner.run(["backup", ".", "--json"]).expect(3);
    assert!(is_alarmed(&backup));
    let json = backup.json();
    assert_eq!((&json["record"]["completeness"], &json["gone"]), (&"complete".into(), &serde_json::json!([ids[1]])));
    // Until somebody decides.
    assert!(is_alarmed(&runner.run(["backup", "."]).expect(3)));
    fs::remove_file(memory_of(&runner)).unwrap();
    assert!(!is_alarmed(&runner.run(["backup", "."]).expect(0)));
    runner.run(["check"]).expect(0);
}

#[test]
fn what_was_made_a_moment_ago_is_missed_though_nobody_has_listed_it() {
    let runner = Runner::with_repository();
    let ids = backups(&runner, 1);
    delete(&runner, &ids[0]);
    assert!(is_alarmed(&runner.run(["snapshots"]).expect(3)));
}

#[test]
fn a_repository_that_is_put_back_to_last_week_is_noticed() {
    let runner = Runner::with_repository();
    let ids = backups(&runner, 2);
    copy_directory(&runner.path("repo"), &runner.path("last week"));
    let later = backups(&runner, 2);
    fs::remove_dir_all(runner.path("repo")).unwrap();
    fs::rename(runner.path("last week"), runner.path("repo")).unwrap();
    let listed = runner.run(["snapshots", "--json"]).expect(3);
    let vanished = listed.json()["vanished"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(vanished, later);
    assert!(is_alarmed(&listed) && listed.stderr.contains("2 snapshots"), "{}", listed.stderr);
    assert_eq!(listed.json()["snapshots"].as_array().unwrap().len(), ids.len());
    runner.run(["check"]).expect(1);
}

#[test]
fn what_a_maintainer_forgets_and_prunes_is_not_missed() {
    let runner = Runner::with_repository();
    let ids = backups(&runner, 3);
    runner.run(["forget", &ids[0]]).expect(0);
    assert!(!is_alarmed(&runner.run(["snapshots"]).expect(0)));
    runner.run(["prune"]).expect(0);
    for arguments in [&["snapshots"][..], &["check"], &["backup", "."]] {
        assert!(!is_alarmed(&runner.run(arguments).expect(0)), "{arguments:?}");
    }
    // A record of it that nobody signed does not count.
    fs::create_dir_all(runner.path("repo/forgotten")).unwrap();
    let record = runner.files("repo/forgotten").pop().unwrap();
    let forged = PathBuf::from(record.display().to_string().replace(&ids[0], &ids[1]));
    fs::create_dir_all(forged.parent().unwrap()).unwrap();
    fs::copy(record, forged).unwrap();
    fs::remove_file(runner.files("repo/snapshots").into_iter().find(|path| path.ends_with(&ids[1])).unwrap()).unwrap();
    assert!(is_alarmed(&runner.run(["snapshots"]).expect(3)));
}

#[test]
fn repositories_that_share_a_cache_directory_are_told_apart() {
    let runner = Runner::with_repository();
    let ids = backups(&runner, 1);
    let other = runner.path("other");
    let other = other.to_str().unwrap();
    runner.run(["init", "--repo", other]).expect(0);
    runner.run(["backup", ".", "--repo", other]).expect(0);
    for repository in [other, runner.path("repo").to_str().unwrap()] {
        assert!(!is_alarmed(&runner.run(["snapshots", "--repo", repository]).expect(0)));
    }
    delete(&runner, &ids[0]);
    assert!(!is_alarmed(&runner.run(["snapshots", "--repo", other]).expect(0)));
    assert!(is_alarmed(&runner.run(["snapshots"]).expect(3)));
}

#[test]
fn a_file_of_the_users_survives_the_cache_and_one_of_another_repository_is_left_alone() {
    let runner = Runner::with_repository();
    let file = runner.path("seen");
    let file = file.to_str().unwrap();
    let ids = backups(&runner, 1);
    runner.run(["snapshots", "--history-file", file]).expect(0);
    fs::remove_dir_all(runner.path("cache")).unwrap();
    delete(&runner, &ids[0]);
    assert!(!is_alarmed(&runner.run(["snapshots"]).expect(0)));
    let alarm = runner.run(["snapshots", "--history-file", file]).expect(3);
    assert!(is_alarmed(&alarm) && alarm.stderr.contains("seen"), "{}", alarm.stderr);

    let other = runner.path("other");
    let other = other.to_str().unwrap();
    runner.run(["init", "--repo", other]).expect(0);
    let before = fs::read(file).unwrap();
    let foreign = runner.run(["backup", ".", "--repo", other, "--history-file", file]).expect(0);
    assert!(foreign.stderr.contains("another repository"), "{}", foreign.stderr);
    // Nor is a file that is no memory at all.
    let letter = runner.write("letter", "Dear user,");
    let strange = runner.run(["snapshots", "--repo", other, "--history-file", letter.to_str().unwrap()]).expect(0);
    assert!(strange.stderr.contains("not remembered"), "{}", strange.stderr);
    assert_eq!((fs::read(file).unwrap(), fs::read(letter).unwrap()), (before, b"Dear user,".to_vec()));
}

#[test]
fn a_memory_that_cannot_be_written_or_read_makes_nothing_fail() {
    let runner = Runner::with_repository();
    let ids = backups(&runner, 1);
    let file = runner.path("seen");
    let file = file.to_str().unwrap();
    runner.run(["snapshots", "--history-file", file]).expect(0);
    // Mounted read-only, as a ConfigMap is: it is read, and nothing is said of it.
    let mounted = runner.path("mounted");
    fs::create_dir(&mounted).unwrap();
    fs::copy(file, mounted.join("seen")).unwrap();
    fs::set_permissions(&mounted, fs::Permissions::from_mode(0o555)).unwrap();
    let mounted_file = mounted.join("seen");
    let arguments = ["backup", ".", "--json", "--history-file", mounted_file.to_str().unwrap()];
    let quiet = finish(&runner, &arguments);
    assert!(!quiet.stderr.contains("not remembered") && quiet.code == Some(0), "{}", quiet.stderr);
    // A cache whose memory is not one begins anew, and says so.
    fs::write(memory_of(&runner), "not a memory").unwrap();
    let forged = runner.run(["snapshots"]).expect(0);
    assert!(forged.stderr.contains("not remembered") && !is_alarmed(&forged), "{}", forged.stderr);
    delete(&runner, &ids[0]);
    assert!(is_alarmed(&runner.run(["snapshots"]).expect(3)));
    // A path where no file can be.
    let nowhere = runner.path("key").join("seen");
    let noted = runner.run(["ls", "latest", "--history-file", nowhere.to_str().unwrap()]).expect(0);
    assert!(noted.stderr.contains("not remembered"), "{}", noted.stderr);
}

fn finish(runner: &Runner, arguments: &[&str]) -> Outcome {
    let output = runner.command_without_privileges(arguments).output().unwrap();
    Outcome {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn a_job_without_a_disk_says_which_snapshot_it_expects() {
    let runner = Runner::with_repository();
    let ids = backups(&runner, 3);
    runner.run(["forget", &ids[0], "--prune"]).expect(0);
    runner.run(["ls", "latest", "--expect-snapshot", &ids[0], "--expect-snapshot", &ids[2]]).expect(0);
    delete(&runner, &ids[2]);
    let refused = runner.run(["backup", ".", "--expect-snapshot", &ids[2]]).expect(1);
    assert!(refused.stderr.contains(&ids[2]) && refused.stderr.contains("is expected"), "{}", refused.stderr);
    runner.run(["backup", ".", "--expect-snapshot", "latest"]).expect(2);
    // Of a void session there is no snapshot.
    let listed = runner.run(["snapshots", "--json"]).expect(3).json();
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 1);
}
