//! `backup` and `snapshots`: what is stored, what is reported, and what ends without a snapshot.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::support::cli::{Runner, finish, may_mount, noise, with_own_mounts};

fn snapshot_count(runner: &Runner) -> usize {
    runner.run(["snapshots", "--json"]).expect(0).json()["snapshots"].as_array().unwrap().len()
}

fn problems(json: &Value) -> Vec<String> {
    let problems = json["record"]["problems"].as_array().unwrap();
    problems.iter().map(|problem| format!("{}: {}", problem["path"], problem["message"])).collect()
}

#[test]
fn a_backup_is_listed_with_its_tags_and_numbers() {
    let runner = Runner::with_repository();
    runner.write("a/b", noise(1, 100_000));
    runner.settle();
    let json = runner.run(["backup", ".", "--json", "--tag", "nightly", "--tag", "one"]).expect(0).json();
    let numbers = &json["record"]["statistics"];
    assert_eq!((&numbers["files_new"], &numbers["bytes_read"]), (&1.into(), &100_000.into()));
    let listed = runner.run(["snapshots", "--json", "--tag", "one", "--tag", "nightly"]).expect(0).json();
    assert_eq!(listed["snapshots"][0]["id"], json["snapshot"]);
    assert_eq!(runner.run(["snapshots", "--json", "--tag", "two"]).expect(0).json()["snapshots"], Value::Array(vec![]));
    let table = runner.run(["snapshots"]).expect(0).text();
    assert!(table.contains("97.7 KiB") && table.contains("complete") && table.contains("nightly,one"), "{table}");
}

#[test]
fn unchanged_files_are_not_read_again() {
    // Goal: not only the numbers say so. Method: the files cannot be read any more when the second backup runs.
    let runner = Runner::with_repository();
    for name in ["a", "b/c", "b/d"] {
        runner.write(name, noise(1, 10_000));
    }
    runner.backup();
    for name in ["a", "b/c", "b/d"] {
        fs::set_permissions(runner.path("src").join(name), Permissions::from_mode(0o000)).unwrap();
    }
    let mut command = runner.command_without_privileges(["backup", ".", "--ignore-inode", "--json"]);
    let json = finish(&mut command).expect(0).json();
    let numbers = &json["record"]["statistics"];
    assert_eq!((&numbers["files_unchanged"], &numbers["bytes_read"]), (&3.into(), &0.into()));
    assert_eq!(numbers["chunks_new"].as_u64().unwrap(), 1, "only the tree, whose modes differ, is new");
    let forced = finish(&mut runner.command_without_privileges(["backup", ".", "--force"])).expect(3);
    assert_eq!(forced.stderr.matches("cannot be read").count(), 3, "{}", forced.stderr);
}

#[test]
fn a_backup_of_the_same_again_stores_next_to_nothing() {
    let runner = Runner::with_repository();
    (0..50).for_each(|number| drop(runner.write(&format!("file-{number}"), noise(number, 20_000))));
    runner.backup();
    let json = runner.run(["backup", ".", "--json"]).expect(0).json();
    let numbers = &json["record"]["statistics"];
    assert_eq!((&numbers["bytes_read"], &numbers["chunks_new"]), (&0.into(), &0.into()));
    let forced = runner.run(["backup", ".", "--json", "--force"]).expect(0).json();
    let numbers = &forced["record"]["statistics"];
    assert_eq!((&numbers["bytes_read"], &numbers["bytes_new"]), (&1_000_000.into(), &0.into()));
}

#[test]
fn a_file_that_cannot_be_read_makes_an_incomplete_snapshot_of_the_rest() {
    let runner = Runner::with_repository();
    runner.write("good", "x");
    let path = runner.write("locked", "y");
    fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap();
    let outcome = finish(&mut runner.command_without_privileges(["backup", ".", "--json"])).expect(3);
    let json = outcome.json();
    assert_eq!(json["record"]["completeness"], "incomplete");
    let found = problems(&json);
    assert!(found.len() == 1 && found[0].contains("locked") && found[0].contains("cannot be read"), "{found:?}");
    assert!(outcome.stderr.contains(r#""type":"problem""#), "{}", outcome.stderr);
    assert!(runner.run(["snapshots"]).expect(0).text().contains("INCOMPLETE"));
    let listed = runner.run(["ls", "latest", "--json"]).expect(0).json();
    assert_eq!(listed["entries"].as_array().unwrap().len(), 1);
    let target = runner.path("out").display().to_string();
    let restored = runner.run(["restore", "--snapshot", "latest", "--target", &target]).expect(3);
    assert!(restored.stderr.contains("incomplete"), "{}", restored.stderr);
}

#[test]
fn what_vanishes_between_listing_and_looking_is_reported() {
    // A listing of a process's own descriptors names the one that it is read through, which is gone afterwards.
    let runner = Runner::with_repository();
    let json = runner.run(["backup", "/proc/self/fd", "--json"]).expect(3).json();
    let found = problems(&json);
    assert!(found.iter().any(|problem| problem.contains("vanished during the backup")), "{found:?}");
}

#[test]
fn a_file_that_changes_while_it_is_read_is_reported() {
    let runner = Runner::with_repository();
    let path = runner.write("growing", "");
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.set_len(256 << 20).unwrap();
    let done = AtomicBool::new(false);
    let json = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                file.write_all(b"more").unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let outcome = runner.run(["backup", ".", "--json"]);
        done.store(true, Ordering::Relaxed);
        outcome.expect(3).json()
    });
    let found = problems(&json);
    assert!(found.len() == 1 && found[0].contains("changed while it was read"), "{found:?}");
    // It is read again next time, and then is whole.
    let again = runner.run(["backup", ".", "--json"]).expect(0).json();
    assert_eq!(again["record"]["statistics"]["files_changed"], 1);
    runner.run(["diff", "latest", "--dir", "."]).expect(0);
}

#[test]
fn a_missing_path_is_an_error_and_no_snapshot() {
    let runner = Runner::with_repository();
    runner.run(["backup", "no-such-path"]).expect(1);
    runner.run(["backup"]).expect(2);
    assert_eq!(snapshot_count(&runner), 0);
}

#[test]
fn a_stream_is_stored_under_its_name_only_if_its_command_succeeds() {
    let runner = Runner::with_repository();
    let json =
        runner.run(["backup", "--command", "printf content", "--name", "dumps/db.sql", "--json"]).expect(0).json();
    assert_eq!(json["record"]["components"][0]["bytes"], 7);
    assert_eq!(runner.run(["cat", "latest", "dumps/db.sql"]).expect(0).text(), "content");
    for command in ["false", "printf content; exit 3", "kill -9 $$"] {
        let failed = runner.run(["backup", "--command", command, "--name", "db.sql"]).expect(1);
        assert!(failed.stderr.contains("nothing was stored"), "{}", failed.stderr);
    }
    assert_eq!(snapshot_count(&runner), 1);
    runner.run(["backup", "--command", "true", "--name", "../db.sql"]).expect(2);
    runner.run(["backup", "--command", "true"]).expect(2);
}

#[test]
fn standard_input_is_stored_under_a_name() {
    let runner = Runner::with_repository();
    let content = noise(7, 3_000_000);
    let mut command = runner.command(["backup", "--stdin", "--name", "stream"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&content).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(runner.run(["cat", "latest", "stream"]).expect(0).stdout == content);
}

#[test]
fn excluded_names_and_paths_are_left_out() {
    let runner = Runner::with_repository();
    for name in ["keep", "a/drop.tmp", "a/keep", "cache/x", "a/cache/x", "a/b/logs/x"] {
        runner.write(name, "x");
    }
    runner.run(["backup", ".", "--exclude", "*.tmp", "--exclude", "cache", "--exclude", "a/*/logs"]).expect(0);
    let json = runner.run(["ls", "latest", "-R", "--json"]).expect(0).json();
    let paths: Vec<_> =
        json["entries"].as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["a/", "a/b/", "a/keep", "keep"]);
    runner.run(["backup", ".", "--exclude", "["]).expect(2);
}

#[test]
fn a_dry_run_tells_what_would_be_read_and_writes_nothing() {
    let runner = Runner::with_repository();
    runner.write("old", noise(1, 1000));
    runner.backup();
    runner.write("new", noise(2, 5000));
    let before = runner.files("repo");
    let json = runner.run(["backup", ".", "--dry-run", "--json"]).expect(0).json();
    assert_eq!(json["snapshot"], Value::Null);
    let numbers = &json["record"]["statistics"];
    assert_eq!((&numbers["files_new"], &numbers["files_unchanged"]), (&1.into(), &1.into()));
    assert_eq!(numbers["bytes_read"], 5000);
    assert_eq!(runner.files("repo"), before);
}

#[test]
fn an_interrupted_backup_ends_with_130_and_its_work_is_used_by_the_next() {
    // A pipe holds the stream open until packs have been uploaded and the signal is sent.
    const LARGE_BYTES: usize = 128 << 20;
    let runner = Runner::with_repository();
    runner.write("large", noise(3, LARGE_BYTES));
    let pipe_path = runner.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe_path).status().unwrap().success());
    let line = format!("cat large {}", pipe_path.display());
    let mut child =
        runner.command(["backup", "--command", &line, "--name", "s"]).stderr(Stdio::null()).spawn().unwrap();
    let pipe = File::options().write(true).open(&pipe_path).unwrap();
    let packs = runner.path("repo/packs/data");
    while !packs.exists() || runner.files("repo/packs/data").is_empty() {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(10));
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    drop(pipe);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(snapshot_count(&runner), 0);
    let json = runner.run(["backup", "large", "--json"]).expect(0).json();
    let new = json["record"]["statistics"]["bytes_new"].as_u64().unwrap();
    assert!(new < LARGE_BYTES as u64 - (20 << 20), "{new} bytes are new again");
}

#[test]
fn a_standard_error_that_is_closed_or_full_costs_no_backup() {
    let runner = Runner::with_repository();
    runner.write("file", "content");
    for gone in ["2>&-", "2>/dev/full"] {
        for style in ["", "--json"] {
            let backup =
                runner.shell(&format!("exec \"$MLVAULT\" {style} --verbose backup . {gone}")).output().unwrap();
            assert_eq!(backup.status.code(), Some(0), "{style} {gone}");
            let refused =
                runner.shell(&format!("exec \"$MLVAULT\" {style} cat latest nothing {gone}")).output().unwrap();
            assert_eq!(refused.status.code(), Some(1), "{style} {gone}");
        }
    }
    assert_eq!(snapshot_count(&runner), 4);
}

/// Backs up `src`, and returns the paths of the files in the snapshot.
fn stored_with(runner: &Runner, args: &[&str]) -> Vec<String> {
    let id =
        runner.run([&["backup", "--json"], args].concat()).expect(0).json()["snapshot"].as_str().unwrap().to_owned();
    let listed = runner.run(["ls", &id, "-R"]).expect(0).text();
    let path = |line: &str| line.rsplit("  ").next().unwrap().to_owned();
    listed.lines().filter(|line| !line.ends_with('/')).map(path).collect()
}

#[test]
fn patterns_sizes_and_markers_say_what_is_left_out() {
    let runner = Runner::with_repository();
    for name in
        ["a.tmp", "B.TMP", "keep", "cache/x", "false-cache/x", "marked/.nobackup", "marked/x", "sub/node_modules/x"]
    {
        runner.write(name, name);
    }
    runner.write("large", vec![7; 5000]);
    runner.write("cache/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n# by a tool");
    runner.write("false-cache/CACHEDIR.TAG", "Signature: none");
    let patterns = runner.path("patterns");
    fs::write(&patterns, "# what is made anew\n\nnode_modules\nfalse-cache/*\n").unwrap();
    let all = stored_with(&runner, &["."]);
    assert_eq!(all.len(), 11, "{all:?}");
    let without = |args: &[&str]| {
        let stored = stored_with(&runner, &[&["."], args].concat());
        all.iter().filter(|path| !stored.contains(path)).cloned().collect::<Vec<_>>()
    };
    assert_eq!(without(&["--exclude", "*.tmp"]), ["a.tmp"]);
    assert_eq!(without(&["--iexclude", "*.tmp"]), ["B.TMP", "a.tmp"]);
    assert_eq!(without(&["--exclude-larger-than", "4999"]), ["large"]);
    assert!(without(&["--exclude-larger-than", "5000"]).is_empty());
    assert_eq!(without(&["--exclude-caches"]), ["cache/CACHEDIR.TAG", "cache/x"]);
    assert_eq!(without(&["--exclude-if-present", ".nobackup"]), ["marked/.nobackup", "marked/x"]);
    let of_file = without(&["--exclude-file", patterns.to_str().unwrap()]);
    assert_eq!(of_file, ["false-cache/CACHEDIR.TAG", "false-cache/x", "sub/node_modules/x"]);
    runner.run(["backup", ".", "--exclude-larger-than", "much"]).expect(2);
    runner.run(["backup", ".", "--exclude-file", "/no/such/file"]).expect(1);
    runner.run(["backup", "--command", "true", "--name", "x", "--exclude", "*"]).expect(2);
    runner.run(["backup", "s3://bucket", "--one-file-system"]).expect(2);
}

#[test]
fn a_pattern_that_can_match_nothing_is_said() {
    let runner = Runner::with_repository();
    runner.write("work/node_modules/x", "x");
    let said = |pattern: &str| {
        let backup = runner.run(["backup", "work", "--exclude", pattern]).expect(0);
        backup.stderr.contains("matches nothing here")
    };
    assert!(said("node_modules/") && said("other/*"));
    assert!(!said("node_modules") && !said("work/node_modules/") && !said("**/node_modules"));
}

#[test]
fn paths_come_from_a_file() {
    let runner = Runner::with_repository();
    for name in ["a/x", "b", "c d", "e"] {
        runner.write(name, name);
    }
    let list = runner.path("list");
    fs::write(&list, "a\nc d\n\n").unwrap();
    assert_eq!(stored_with(&runner, &["--files-from", list.to_str().unwrap(), "e"]), ["a/x", "c d", "e"]);
    fs::write(&list, "a\0b").unwrap();
    assert_eq!(stored_with(&runner, &["--files-from", list.to_str().unwrap()]), ["a/x", "b"]);
    let piped = finish(&mut runner.shell("printf 'b\\ne\\n' | \"$MLVAULT\" backup --files-from - --json"));
    assert_eq!(piped.expect(0).json()["record"]["components"][0]["entries"], 2);
    fs::write(&list, "").unwrap();
    runner.run(["backup", "--files-from", list.to_str().unwrap()]).expect(2);
}

#[test]
fn files_that_are_longer_than_they_say_are_stored_whole() {
    let runner = Runner::with_repository();
    assert_eq!(fs::metadata("/proc/self/limits").unwrap().len(), 0);
    for path in ["/proc/version", "/proc/filesystems"] {
        let content = fs::read(path).unwrap();
        let id = runner.run(["backup", path, "--json"]).expect(0).json()["snapshot"].as_str().unwrap().to_owned();
        assert!(!content.is_empty() && runner.run(["cat", &id, path]).expect(0).stdout == content, "{path}");
    }
}

#[test]
fn another_spelling_of_a_path_is_the_same_source() {
    let runner = Runner::with_repository();
    runner.write("a=b/x", "x");
    let path = runner.path("src/a=b").display().to_string();
    for spelling in [path.clone(), path.replace('/', "//"), format!("{path}//"), format!("{path}/.")] {
        let record = runner.run(["backup", &spelling, "--json"]).expect(0).json()["record"].clone();
        assert_eq!(record["source"]["paths"], serde_json::json!([path]), "{spelling}");
    }
}

#[test]
fn a_repository_and_a_cache_in_the_source_do_not_grow_with_each_night() {
    let runner = Runner::with_repository();
    runner.write("work", "work");
    let root = runner.path("").display().to_string();
    let count = || {
        let backup = runner.run(["backup", &root, "--exclude", "tmp", "--json"]).expect(0);
        assert!(backup.stderr.contains("it is the repository") && backup.stderr.contains("it is mlvault's cache"));
        backup.json()["record"]["components"][0]["entries"].clone()
    };
    assert_eq!(count(), count());
}

#[test]
fn a_log_says_when_and_how_serious_and_which_run_it_is() {
    let runner = Runner::with_repository();
    runner.write("file", "content");
    for format in ["stamped", "json"] {
        let said = runner.run(["backup", ".", "no-such\nfile/../..", "--log-format", format]).stderr;
        let stamp = time_of_first(&said);
        assert!(stamp.starts_with('2') && stamp.ends_with('Z') && stamp.contains('T'), "{said}");
        assert!(said.lines().next().unwrap().contains(": backup, repository "), "{said}");
        assert!(said.contains("ERROR"), "{said}");
        assert!(format == "stamped" || said.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{said}");
    }
    let said = runner.run(["backup", ".", "--log-format", "stamped"]).expect(0).stderr;
    assert!(said.contains("INFO  Session ") && said.contains("compared with no earlier snapshot"), "{said}");
    assert!(runner.run(["backup", "."]).expect(0).stderr.is_empty());
}

/// Returns the time at the start of the first line, or in its JSON.
fn time_of_first(said: &str) -> String {
    let first = said.lines().next().unwrap();
    match serde_json::from_str::<Value>(first) {
        Ok(line) => line["time"].as_str().unwrap().to_owned(),
        Err(_) => first.split(' ').next().unwrap().to_owned(),
    }
}

#[test]
fn one_file_system_stops_at_real_mounts_and_leaves_the_place_where_they_are() {
    let runner = Runner::with_repository();
    runner.write("own", "content");
    let mounted = runner.path("src/mounted");
    fs::create_dir(&mounted).unwrap();
    if !may_mount() {
        return;
    }
    let paths = |backup: &str| -> Vec<String> {
        let line =
            format!("mount -t tmpfs none mounted && echo content > mounted/foreign && \"$MLVAULT\" --json {backup}");
        let done = finish(&mut with_own_mounts(&runner.shell(&line))).expect(0).json();
        let listed = runner.run(["ls", done["snapshot"].as_str().unwrap(), "--recursive", "--json"]).expect(0).json();
        let paths =
            listed["entries"].as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap().to_owned());
        paths.collect()
    };
    assert_eq!(paths("backup ."), ["mounted/", "mounted/foreign", "own"]);
    assert_eq!(paths("backup -x ."), ["mounted/", "own"]);
    // What is named is read, wherever it is.
    assert_eq!(paths("backup -x mounted"), ["mounted/", "mounted/foreign"]);
}
