//! `ls` and `stats`: what they show, and what it costs.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::support::cli::{Outcome, Runner, finish, noise};

fn paths(outcome: &Outcome) -> Vec<String> {
    let json = outcome.json();
    json["entries"].as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn one_level_is_listed_or_everything() {
    let runner = Runner::with_repository();
    for name in ["a/b/c", "a/b.txt", "a-z", "d"] {
        runner.write(name, "x");
    }
    runner.backup();
    let list = |args: &[&str]| paths(&runner.run([&["ls", "latest", "--json"], args].concat()).expect(0));
    assert_eq!(list(&[]), ["a-z", "a/", "d"]);
    assert_eq!(list(&["a"]), ["a/b.txt", "a/b/"]);
    assert_eq!(list(&["/a/b/"]), ["a/b/c"]);
    assert_eq!(list(&["d"]), ["d"]);
    assert_eq!(list(&["--recursive"]), ["a-z", "a/", "a/b.txt", "a/b/", "a/b/c", "d"]);
    assert_eq!(list(&["-R", "./a/b"]), ["a/b/c"]);
    runner.run(["ls", "latest", "a/b/nothing"]).expect(1);
    runner.run(["ls", "latest", "a/"]).expect(0);
    runner.run(["ls", "latest", "a-"]).expect(1);
}

#[test]
fn a_listing_tells_kind_mode_size_time_target_and_digest() {
    let runner = Runner::with_repository();
    let content = noise(1, 5000);
    let path = runner.write("file", &content);
    symlink("file", runner.path("src/link")).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    runner.backup();
    let digest = blake3::hash(&content).to_hex().to_string();
    let json = runner.run(["ls", "latest", "--json"]).expect(0).json();
    let file = &json["entries"][0];
    assert_eq!((&file["kind"], &file["size"]), (&"file".into(), &5000.into()));
    assert_eq!((&file["mode"], &file["mtime"]), (&"0644".into(), &"2001-09-09T01:46:40.123456789Z".into()));
    assert_eq!(file["digest"], digest);
    assert_eq!((&json["entries"][1]["kind"], &json["entries"][1]["target"]), (&"symlink".into(), &"file".into()));
    let text = runner.run(["ls", "latest"]).expect(0).text();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "-rw-r--r--     4.9 KiB  2001-09-09 01:46:40  file");
    assert!(lines[1].starts_with("lrwxrwxrwx") && lines[1].ends_with("link -> file"));
    let long = runner.run(["ls", "latest", "--long", "--digest", "file"]).expect(0).text();
    assert!(long.contains(" 5000  2001-09-09") && long.contains(&digest), "{long}");
}

#[test]
fn names_that_are_not_utf8_are_whole_in_json() {
    let runner = Runner::with_repository();
    let name = std::ffi::OsStr::from_bytes(b"a\xFFb");
    fs::write(runner.path("src").join(name), "x").unwrap();
    runner.backup();
    let json = runner.run(["ls", "latest", "--json"]).expect(0).json();
    let entry = &json["entries"][0];
    assert_eq!((&entry["path"], &entry["path_base64"]), (&"a\u{FFFD}b".into(), &"Yf9i".into()));
    let mut command = runner.command(["cat", "latest"]);
    assert_eq!(finish(command.arg(name)).expect(0).text(), "x");
    let listed = finish(runner.command(["ls", "latest", "--json"]).arg(name)).expect(0);
    assert_eq!(paths(&listed).len(), 1);
}

#[test]
fn an_empty_listing_is_an_empty_list() {
    let runner = Runner::with_repository();
    runner.backup();
    let json = runner.run(["ls", "latest", "--json"]).expect(0).json();
    assert_eq!(json["entries"], json!([]));
    assert!(runner.run(["ls", "latest"]).expect(0).stdout.is_empty());
}

#[test]
fn a_reader_of_a_listing_that_goes_away_is_no_error() {
    let runner = Runner::with_repository();
    (0..5000).for_each(|number| drop(runner.write(&format!("a-rather-long-name-to-fill-the-pipe-{number}"), "")));
    runner.backup();
    let mut child = runner.command(["ls", "latest"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

fn stats(runner: &Runner, args: &[&str]) -> Value {
    runner.run([&["stats", "--json"], args].concat()).expect(0).json()
}

#[test]
fn stats_tell_logical_unique_and_stored_bytes() {
    let runner = Runner::with_repository();
    runner.write("a", noise(1, 300_000));
    runner.write("b", noise(1, 300_000));
    runner.write("zeros", vec![0; 1_000_000]);
    runner.backup();
    runner.write("c", noise(2, 200_000));
    runner.backup();
    let json = stats(&runner, &[]);
    let repository = &json["repository"];
    assert_eq!((&repository["snapshots"], &repository["entries"]), (&2.into(), &7.into()));
    assert_eq!(repository["logical_bytes"], 3_400_000);
    assert_eq!(repository["components"]["files"]["logical_bytes"], 3_400_000);
    let unique = repository["data"]["unique_bytes"].as_u64().unwrap();
    assert_eq!(unique, 1_500_000);
    let stored: u64 = runner.files("repo").iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert_eq!(repository["stored_bytes"], stored);
    assert_eq!(repository["objects"], runner.files("repo").len());
    let deduplication = json["ratios"]["deduplication"].as_f64().unwrap();
    assert!((deduplication - 3_400_000.0 / unique as f64).abs() < 1e-9);
    assert!(json["ratios"]["compression"].as_f64().unwrap() > 1.0);
    assert!(runner.run(["stats"]).expect(0).text().contains("Deduplication"));
}

#[test]
fn stats_of_a_snapshot_tell_what_it_has_for_itself_alone() {
    let runner = Runner::with_repository();
    runner.write("a", noise(1, 300_000));
    runner.write("copy", noise(1, 300_000));
    let first = runner.backup();
    fs::remove_file(runner.path("src/a")).unwrap();
    fs::remove_file(runner.path("src/copy")).unwrap();
    runner.write("moved", noise(1, 300_000));
    runner.write("own", noise(2, 200_000));
    runner.backup();
    let component = |args: &[&str]| stats(&runner, args)["components"][0].clone();
    let old = component(&[&first, "--exclusive"]);
    assert_eq!((&old["files"], &old["logical_bytes"]), (&2.into(), &600_000.into()));
    assert_eq!((&old["unique"]["bytes"], &old["exclusive"]["bytes"]), (&300_000.into(), &0.into()));
    let new = component(&["latest", "--exclusive"]);
    assert_eq!((&new["unique"]["bytes"], &new["exclusive"]["bytes"]), (&500_000.into(), &200_000.into()));
    assert!(new["exclusive"]["stored_bytes"].as_u64().unwrap() >= 200_000);
    assert_eq!(component(&["latest"])["exclusive"], Value::Null);
    assert_eq!(new["chunks_missing"], 0);
    assert!(runner.run(["stats", "latest", "--exclusive"]).expect(0).text().contains("EXCLUSIVE"));
    runner.run(["stats", "--exclusive"]).expect(2);
}
