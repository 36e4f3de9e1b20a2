//! `find` and `diff`: which versions are where, and what differs.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::Value;

use crate::support::cli::{Outcome, Runner, noise};

fn found(outcome: &Outcome) -> Vec<(String, Vec<usize>)> {
    let json = outcome.json();
    let path = |found: &Value| found["path"].as_str().unwrap().to_owned();
    let counts = |found: &Value| {
        let versions = found["versions"].as_array().unwrap();
        versions.iter().map(|version| version["snapshots"].as_array().unwrap().len()).collect()
    };
    json["found"].as_array().unwrap().iter().map(|found| (path(found), counts(found))).collect()
}

#[test]
fn a_file_is_found_with_the_snapshots_that_have_each_version() {
    let runner = Runner::with_repository();
    let ids: Vec<_> = ["one", "one", "two", "two", "one"]
        .into_iter()
        .enumerate()
        .map(|(round, content)| {
            // Written only if it changes, so that its time tells a version too.
            if round == 0 || round == 2 || round == 4 {
                runner.write("models/fraud/model.pkl", content);
            }
            runner.write("other", round.to_string());
            runner.backup()
        })
        .collect();
    let outcome = runner.run(["find", "model.pkl", "--json"]).expect(0);
    assert_eq!(found(&outcome), [("models/fraud/model.pkl".to_owned(), vec![2, 2, 1])]);
    let versions = outcome.json()["found"][0]["versions"].clone();
    assert_eq!((&versions[1]["first"], &versions[1]["last"]), (&ids[2].as_str().into(), &ids[3].as_str().into()));
    assert_eq!(versions[0]["digest"], blake3::hash(b"one").to_hex().as_str());
    let text = runner.run(["find", "models/*/model.pkl"]).expect(0).text();
    assert!(text.starts_with("models/fraud/model.pkl\n") && text.contains("in 2 snapshots"), "{text}");
    assert!(text.contains(&ids[0][..12]) && text.contains(&ids[4][..12]), "{text}");
}

#[test]
fn what_is_searched_can_be_narrowed() {
    let runner = Runner::with_repository();
    runner.write("a/x", "one");
    runner.write("b/x", "two");
    let first = runner.backup();
    runner.write("c/x", "three");
    runner.backup();
    let find = |args: &[&str]| {
        let outcome = runner.run([&["find", "--json"], args].concat()).expect(0);
        found(&outcome).into_iter().map(|(path, _)| path).collect::<Vec<_>>()
    };
    assert_eq!(find(&["x"]), ["a/x", "b/x", "c/x"]);
    assert_eq!(find(&["x", "--snapshot", &first]), ["a/x", "b/x"]);
    assert_eq!(find(&["x", "--path", "b"]), ["b/x"]);
    assert_eq!(find(&["a", "c/*"]), ["a/", "c/x"]);
    let digest = blake3::hash(b"two").to_hex().to_string();
    assert_eq!(find(&["--digest", &digest]), ["b/x"]);
    assert_eq!(find(&["x", "--digest", &digest, "--digest", &"0".repeat(64)]), ["b/x"]);
    runner.run(["find", "a", "--digest", &digest]).expect(1);
    let nothing = runner.run(["find", "nothing", "--json"]).expect(1);
    assert_eq!(nothing.json()["found"], Value::Array(Vec::new()));
    runner.run(["find"]).expect(2);
    runner.run(["find", "["]).expect(2);
    runner.run(["find", "--digest", "abc"]).expect(2);
    runner.run(["find", "x", "--snapshot", "ffffffff"]).expect(1);
}

fn changes(outcome: &Outcome) -> Vec<(String, String)> {
    let json = outcome.json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    json["changes"].as_array().unwrap().iter().map(|change| (text(&change["change"]), text(&change["path"]))).collect()
}

/// Makes two versions of a source that differ in every way; returns the changes, without those of metadata alone.
fn make_versions(runner: &Runner) -> Vec<(String, String)> {
    for name in ["same/x", "gone/x", "modified", "becomes-link", "becomes-directory", "was-directory/x", "touched"] {
        runner.write(name, name);
    }
    // In path order these stand between becomes-directory and becomes-directory/.
    runner.write("becomes-directory-not", "x");
    symlink("a", runner.path("src/link")).unwrap();
    runner.backup();
    let source = runner.path("src");
    fs::remove_dir_all(source.join("gone")).unwrap();
    for name in ["becomes-link", "becomes-directory", "link"] {
        fs::remove_file(source.join(name)).unwrap();
    }
    fs::remove_dir_all(source.join("was-directory")).unwrap();
    runner.write("was-directory", "now a file");
    runner.write("becomes-directory/x", "x");
    runner.write("new/x", "12345");
    runner.write("modified", "MODIFIED");
    symlink("touched", source.join("becomes-link")).unwrap();
    symlink("b", source.join("link")).unwrap();
    fs::set_permissions(source.join("touched"), fs::Permissions::from_mode(0o600)).unwrap();
    let expected = [
        ("type", "becomes-directory"),
        ("added", "becomes-directory/x"),
        ("type", "becomes-link"),
        ("removed", "gone/"),
        ("removed", "gone/x"),
        ("modified", "link"),
        ("modified", "modified"),
        ("added", "new/"),
        ("added", "new/x"),
        ("type", "was-directory"),
        ("removed", "was-directory/x"),
    ];
    expected.map(|(kind, path)| (kind.to_owned(), path.to_owned())).to_vec()
}

#[test]
fn two_snapshots_are_compared_in_path_order() {
    let runner = Runner::with_repository();
    let expected = make_versions(&runner);
    runner.backup();
    let outcome = runner.run(["diff", "latest~1", "latest", "--json"]).expect(1);
    assert_eq!(changes(&outcome), expected);
    let summary = outcome.json()["summary"].clone();
    assert_eq!((&summary["added"], &summary["removed"], &summary["types"]), (&3.into(), &3.into(), &3.into()));
    assert_eq!((&summary["modified"], &summary["metadata"]), (&2.into(), &0.into()));
    let new_bytes = ["12345", "MODIFIED", "now a file", "x"].map(str::len).iter().sum::<usize>();
    assert_eq!(summary["bytes_new"], new_bytes);
    let with_metadata = changes(&runner.run(["diff", "latest~1", "latest", "--json", "--metadata"]).expect(1));
    assert!(with_metadata.contains(&("metadata".to_owned(), "touched".to_owned())), "{with_metadata:?}");
    let reverse = changes(&runner.run(["diff", "latest", "latest~1", "--json"]).expect(1));
    let swap = |kind: &str| match kind {
        "added" => "removed".to_owned(),
        "removed" => "added".to_owned(),
        other => other.to_owned(),
    };
    assert_eq!(reverse, expected.iter().map(|(kind, path)| (swap(kind), path.clone())).collect::<Vec<_>>());
    let text = runner.run(["diff", "latest~1", "latest"]).expect(1).text();
    assert!(text.contains("+ new/x  (5 B)\n") && text.contains("T was-directory  (directory to 10 B)\n"), "{text}");
}

#[test]
fn a_snapshot_is_compared_with_a_directory_as_with_a_snapshot_of_it() {
    let runner = Runner::with_repository();
    let expected = make_versions(&runner);
    let live = runner.run(["diff", "latest", "--dir", ".", "--json"]).expect(1);
    assert_eq!(changes(&live), expected);
    let with_metadata = runner.run(["diff", "latest", "--dir", ".", "--json", "--metadata"]).expect(1);
    runner.backup();
    let stored = runner.run(["diff", "latest~1", "latest", "--json", "--metadata"]).expect(1);
    assert_eq!(changes(&with_metadata), changes(&stored));
    assert_eq!(with_metadata.json()["summary"], stored.json()["summary"]);
    runner.run(["diff", "latest", "--dir", ".", "--metadata"]).expect(0);
}

#[test]
fn a_comparison_can_be_narrowed_to_a_path() {
    let runner = Runner::with_repository();
    make_versions(&runner);
    runner.backup();
    for new in [&["latest"][..], &["--dir", "."]] {
        let diff = |path: &str| runner.run([&["diff", "latest~1", "--json", "--path", path], new].concat());
        assert_eq!(changes(&diff("new").expect(1)).len(), 2, "{new:?}");
        assert_eq!(changes(&diff("modified").expect(1)), [("modified".to_owned(), "modified".to_owned())], "{new:?}");
        assert_eq!(changes(&diff("gone").expect(1)).len(), 2, "{new:?}");
        diff("same").expect(0);
        diff("nothing").expect(1);
    }
}

#[test]
fn a_change_that_size_and_time_do_not_show_is_found_in_a_directory() {
    let runner = Runner::with_repository();
    let path = runner.write("file", noise(1, 50_000));
    runner.backup();
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, noise(2, 50_000)).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    let outcome = runner.run(["diff", "latest", "--dir", ".", "--json"]).expect(1);
    assert_eq!(changes(&outcome), [("modified".to_owned(), "file".to_owned())]);
    let digest = outcome.json()["changes"][0]["new"]["digest"].clone();
    assert_eq!(digest, blake3::hash(&noise(2, 50_000)).to_hex().as_str());
}

#[test]
fn what_cannot_be_compared_is_reported_as_such() {
    let runner = Runner::with_repository();
    let path = runner.write("file", "x");
    runner.backup();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    let outcome = crate::support::cli::finish(&mut runner.command_without_privileges(["diff", "latest", "--dir", "."]));
    assert!(outcome.expect(3).stderr.contains("cannot be read"));
    runner.run(["diff", "latest", "--dir", "no-such-directory"]).expect(1);
    runner.run(["diff", "latest", "--dir", "file"]).expect(1);
    runner.run(["diff", "latest"]).expect(2);
    runner.run(["diff", "latest", "latest", "--dir", "."]).expect(2);
}

#[test]
fn equal_snapshots_are_compared_without_their_trees() {
    // Goal: shared nodes are not read. Method: take them away; the index still knows them.
    let runner = Runner::with_repository();
    (0..100).for_each(|number| drop(runner.write(&format!("file-{number}"), number.to_string())));
    runner.backup();
    runner.backup();
    fs::remove_dir_all(runner.path("repo/packs/meta")).unwrap();
    assert!(runner.run(["diff", "latest~1", "latest"]).expect(0).text().contains("No differences"));
    runner.run(["ls", "latest"]).expect(1);
    let searched = runner.run(["find", "file-7"]).expect(3);
    assert!(searched.stderr.contains("2 snapshots"), "{}", searched.stderr);
}
