//! What `restore` may remove or replace of what is there: only where the backup looked, and only what was agreed to.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::support::cli::{Outcome, Runner, finish};

/// Restores the latest snapshot into a directory.
fn restore(runner: &Runner, target: &str, more: &[&str]) -> Outcome {
    let target = runner.path(target).display().to_string();
    runner.run([&["restore", "--snapshot", "latest", "--target", &target], more].concat())
}

fn delete(runner: &Runner, target: &str) -> Outcome {
    restore(runner, target, &["--delete", "--yes", "--json"])
}

/// Backs up paths below a directory, as if that were the root of the machine.
fn back_up_in(runner: &Runner, directory: &str, args: &[&str]) -> Outcome {
    finish(runner.command([&["backup"], args].concat()).current_dir(runner.path(directory)))
}

fn put(runner: &Runner, name: &str) {
    let path = runner.path(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, name).unwrap();
}

fn are_there(runner: &Runner, names: &[&str]) -> Vec<bool> {
    names.iter().map(|name| fs::symlink_metadata(runner.path(name)).is_ok()).collect()
}

#[test]
fn nothing_beside_the_paths_that_were_backed_up_is_removed() {
    let runner = Runner::with_repository();
    for name in ["root/srv/mlflow/a", "root/srv/other/precious", "root/etc/conf", "root/home/file", "root/home/beside"]
    {
        put(&runner, name);
    }
    back_up_in(&runner, "root", &["srv/mlflow", "home/file"]).expect(0);
    put(&runner, "root/srv/mlflow/later");
    put(&runner, "root/srv/mlflow/new/er");
    let done = delete(&runner, "root").expect(0).json();
    let there = ["root/srv/mlflow/a", "root/srv/other/precious", "root/etc/conf", "root/home/beside"];
    assert_eq!(are_there(&runner, &there), [true; 4]);
    assert_eq!(are_there(&runner, &["root/srv/mlflow/later", "root/srv/mlflow/new"]), [false; 2]);
    assert_eq!(done["removals"]["files"], 2, "{done:#}");
    assert_eq!((&done["removals"]["directories"], &done["summary"]["removed"]), (&1.into(), &3.into()), "{done:#}");
}

#[test]
fn a_directory_that_was_empty_stays_and_is_emptied() {
    for (paths, extra) in
        [(&["empty"][..], "src/empty/extra"), (&["."], "src/empty/extra"), (&["empty", "full"], "src/full/x/y")]
    {
        let runner = Runner::with_repository();
        fs::create_dir(runner.path("src/empty")).unwrap();
        put(&runner, "src/full/file");
        back_up_in(&runner, "src", paths).expect(0);
        put(&runner, extra);
        let done = delete(&runner, "src").expect(0).json();
        assert_eq!(done["removals"]["files"], 1, "{paths:?} {done:#}");
        assert_eq!(are_there(&runner, &["src/empty", "src/full/file", extra]), [true, true, false], "{paths:?}");
        assert_eq!(delete(&runner, "src").expect(0).json()["summary"]["removed"], 0, "{paths:?}");
    }
}

#[test]
fn what_mlvault_needs_itself_stays_wherever_it_is() {
    let runner = Runner::without_repository();
    put(&runner, "src/work");
    let target = runner.path("src").display().to_string();
    for name in ["repo", "cache", "key"] {
        fs::create_dir_all(runner.path("src/own")).unwrap();
        if runner.path(name).exists() {
            fs::rename(runner.path(name), runner.path("src/own").join(name)).unwrap();
        }
    }
    fs::write(runner.path("src/own/mlvault.toml"), "").unwrap();
    symlink(runner.path("src/own"), runner.path("by-another-name")).unwrap();
    let other = runner.path("by-another-name").display().to_string();
    let own = |args: &[&str]| {
        let mut command = runner.command(args);
        command.env("MLVAULT_REPO", format!("{other}/repo")).env("MLVAULT_CACHE_DIR", format!("{other}/cache"));
        command.env("MLVAULT_KEY_FILE", format!("{other}/key")).env("MLVAULT_CONFIG", format!("{other}/mlvault.toml"));
        finish(command.current_dir(runner.path("src")))
    };
    own(&["init"]).expect(0);
    let first = own(&["backup", ".", "--exclude", "key", "--exclude", "mlvault.toml", "--json"]).expect(0);
    assert!(first.stderr.contains("it is the repository") && first.stderr.contains("mlvault's cache"), "{first:?}");
    // Nothing that is excluded, and nothing of our own, even in a directory that the snapshot has nothing of.
    let snapshot = own(&["backup", "work", "--json"]).expect(0).json();
    let last = own(&["backup", ".", "--exclude", "nothing", "--json"]).expect(0).json();
    let [id, last] = [&snapshot, &last].map(|json| json["snapshot"].as_str().unwrap());
    own(&["restore", "--snapshot", id, "--target", &target, "--delete", "--yes"]).expect(0);
    fs::write(runner.path("src/own/junk"), "junk").unwrap();
    own(&["restore", "--snapshot", last, "--target", &target, "--delete", "--yes"]).expect(0);
    assert_eq!(are_there(&runner, &["src/own/key", "src/own/mlvault.toml", "src/own/junk"]), [true, true, false]);
    own(&["check"]).expect(0);
    // Without our own places in the way, the directory would go with all that is in it.
    fs::create_dir(runner.path("src/extra")).unwrap();
    fs::rename(runner.path("src/own"), runner.path("src/extra/own")).unwrap();
    fs::remove_file(runner.path("by-another-name")).unwrap();
    symlink(runner.path("src/extra/own"), runner.path("by-another-name")).unwrap();
    fs::write(runner.path("src/extra/junk"), "junk").unwrap();
    let kept = own(&["restore", "--snapshot", last, "--target", &target, "--delete", "--yes"]).expect(0);
    assert!(kept.stderr.contains("stays: not all in it is to be removed"), "{}", kept.stderr);
    assert_eq!(are_there(&runner, &["src/extra/own/key", "src/extra/own/repo", "src/extra/junk"]), [true, true, false]);
    own(&["check"]).expect(0);
}

#[test]
fn what_the_backup_left_out_or_could_not_read_stays() {
    let runner = Runner::with_repository();
    for name in ["src/a", "src/secret/x", "src/b.tmp", "src/UPPER.BAK", "src/large", "src/cache/x", "src/marked/x"] {
        put(&runner, name);
    }
    fs::write(runner.path("src/large"), vec![0; 5000]).unwrap();
    fs::write(runner.path("src/cache/CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55\n").unwrap();
    put(&runner, "src/marked/.nobackup");
    fs::set_permissions(runner.path("src/secret"), Permissions::from_mode(0o000)).unwrap();
    let left_out = [
        &["backup", ".", "--exclude", "*.tmp", "--iexclude", "*.bak", "--exclude-larger-than", "4K"][..],
        &["--exclude-caches", "--exclude-if-present", ".nobackup", "--json"],
    ];
    // Whoever may read everything cannot be kept from it.
    let mut command = runner.command_without_privileges(left_out.concat());
    let mut record = finish(&mut command).expect(3).json()["record"].clone();
    let unread = record["coverage"]["unread"].as_array_mut().unwrap();
    unread.sort_by_key(|path| path.to_string());
    fs::set_permissions(runner.path("src/secret"), Permissions::from_mode(0o755)).unwrap();
    assert_eq!(record["components"][0]["entries"], 1, "{record:#}");
    assert_eq!(record["coverage"]["unread"], serde_json::json!(["cache", "large", "marked", "secret"]), "{record:#}");
    // Elsewhere, nothing of them is as it was.
    for name in ["out/secret/y", "out/c.tmp", "out/LOWER.bak", "out/large", "out/cache/y", "out/marked/y", "out/extra"]
    {
        put(&runner, name);
    }
    let done = delete(&runner, "out");
    assert!(matches!(done.code, Some(0 | 3)), "{done:?}");
    let stay = ["out/secret/y", "out/c.tmp", "out/LOWER.bak", "out/large", "out/cache/y", "out/marked/y", "out/extra"];
    assert_eq!(are_there(&runner, &stay), [true, true, true, true, true, true, false]);
}

#[test]
fn a_snapshot_that_does_not_say_where_it_looked_removes_nothing() {
    let runner = Runner::with_repository();
    runner.run(["backup", "--command", "echo x", "--name", "stream"]).expect(0);
    put(&runner, "out/extra");
    let done = delete(&runner, "out").expect(0).json();
    assert!(runner.path("out/extra").exists());
    assert!(done["removals"]["reserves"][0].as_str().unwrap().contains("where it looked"), "{done:#}");
}

#[test]
fn deletion_waits_for_a_yes_and_says_how_much_will_go() {
    let runner = Runner::with_repository();
    put(&runner, "src/a");
    runner.backup();
    fs::write(runner.path("src/a"), "changed").unwrap();
    put(&runner, "src/extra");
    let refused = restore(&runner, "src", &["--delete"]).expect(2);
    assert!(refused.stderr.contains("--yes"), "{}", refused.stderr);
    assert_eq!(fs::read_to_string(runner.path("src/a")).unwrap(), "changed");
    let dry = restore(&runner, "src", &["--delete", "--dry-run", "--json"]).expect(0);
    assert_eq!((&dry.json()["removals"]["files"], &dry.json()["summary"]["removed"]), (&1.into(), &1.into()));
    assert!(dry.stderr.contains("would remove") && runner.path("src/extra").exists());
    // Where nothing would go, nobody is asked.
    fs::remove_file(runner.path("src/extra")).unwrap();
    restore(&runner, "src", &["--delete"]).expect(0);
    assert_eq!(fs::read_to_string(runner.path("src/a")).unwrap(), "src/a");
    for more in [&["--include", "a"][..], &["--exclude", "a"]] {
        restore(&runner, "src", &[&["--delete", "--yes"], more].concat()).expect(2);
    }
}

/// Sets the time of something, symlinks themselves too, to a minute after or before now.
fn set_time(path: &Path, is_newer: bool) {
    let minute = Duration::from_secs(60);
    let time = if is_newer { SystemTime::now() + minute } else { SystemTime::now() - 10 * minute };
    let time = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let time = rustix::fs::Timespec { tv_sec: time.as_secs() as i64, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Makes a source with one of each kind: a file, another name of it, a symlink, a directory.
fn make_kinds(runner: &Runner) {
    put(runner, "src/file");
    fs::hard_link(runner.path("src/file"), runner.path("src/second")).unwrap();
    symlink("file", runner.path("src/link")).unwrap();
    fs::create_dir(runner.path("src/directory")).unwrap();
    runner.backup();
}

/// Puts something of each kind where the snapshot has something of each kind.
fn put_in_the_way(runner: &Runner, kind: &str, is_newer: bool) {
    let _ = fs::remove_dir_all(runner.path("out"));
    fs::create_dir(runner.path("out")).unwrap();
    for name in ["file", "second", "link", "directory"] {
        let path = runner.path("out").join(name);
        match kind {
            "file" => fs::write(&path, "mine").unwrap(),
            "symlink" => symlink("mine", &path).unwrap(),
            _ => fs::create_dir(&path).and_then(|()| fs::write(path.join("x"), "mine")).unwrap(),
        }
        set_time(&path, is_newer);
    }
}

fn is_mine(runner: &Runner, kind: &str, name: &str) -> bool {
    let path = runner.path("out").join(name);
    match kind {
        "file" => fs::symlink_metadata(&path).unwrap().is_file() && fs::read(&path).unwrap() == b"mine",
        "symlink" => fs::read_link(&path).is_ok_and(|to| to == Path::new("mine")),
        _ => path.join("x").exists(),
    }
}

#[test]
fn what_the_overwrite_mode_keeps_is_kept_whatever_it_is_and_whatever_the_snapshot_has() {
    let runner = Runner::with_repository();
    make_kinds(&runner);
    for kind in ["file", "symlink", "directory"] {
        for (mode, is_newer) in [("never", false), ("never", true), ("if-newer", true)] {
            for delete in [&[][..], &["--delete", "--yes"]] {
                put_in_the_way(&runner, kind, is_newer);
                let restored = restore(&runner, "out", &[&["--overwrite", mode], delete].concat());
                // A directory where the snapshot has one is the snapshot's.
                let is_other = |name: &&str| kind != "directory" || *name != "directory";
                for name in ["file", "second", "link", "directory"].into_iter().filter(is_other) {
                    assert!(is_mine(&runner, kind, name), "{kind} {mode} {delete:?} {name}: {}", restored.stderr);
                }
            }
        }
    }
}

#[test]
fn with_delete_everything_that_is_not_kept_makes_room() {
    let runner = Runner::with_repository();
    make_kinds(&runner);
    for kind in ["file", "symlink", "directory"] {
        for mode in ["always", "if-newer"] {
            put_in_the_way(&runner, kind, false);
            restore(&runner, "out", &["--overwrite", mode, "--delete", "--yes"]).expect(0);
            for name in ["file", "second"] {
                assert_eq!(fs::read(runner.path("out").join(name)).unwrap(), b"src/file", "{kind} {mode} {name}");
            }
            assert_eq!(fs::read_link(runner.path("out/link")).unwrap(), Path::new("file"), "{kind} {mode}");
            assert!(fs::symlink_metadata(runner.path("out/directory")).unwrap().is_dir(), "{kind} {mode}");
        }
    }
}

#[test]
fn files_and_directories_of_ours_that_nobody_may_write_are_restored_again() {
    let runner = Runner::with_repository();
    for (name, mode) in [("src/ro", 0o444), ("src/dir/f", 0o444), ("src/deep/er/f", 0o400)] {
        put(&runner, name);
        fs::set_permissions(runner.path(name), Permissions::from_mode(mode)).unwrap();
    }
    for name in ["src/dir", "src/deep/er", "src/deep"] {
        fs::set_permissions(runner.path(name), Permissions::from_mode(0o555)).unwrap();
    }
    runner.backup();
    let target = runner.path("out").display().to_string();
    let again = || {
        let args = ["restore", "--snapshot", "latest", "--target", &target, "--delete", "--yes"];
        finish(&mut runner.command_without_privileges(args)).expect(0);
        for (name, mode) in [("ro", 0o444), ("dir/f", 0o444), ("deep/er/f", 0o400)] {
            let path = runner.path("out").join(name);
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("src/{name}"));
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode, "{name}");
        }
        for name in ["dir", "deep/er", "deep"] {
            let mode = fs::metadata(runner.path("out").join(name)).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o555, "{name}");
        }
    };
    again();
    again();
    let set = |name: &str, mode| {
        fs::set_permissions(runner.path("out").join(name), Permissions::from_mode(mode)).unwrap();
    };
    set("ro", 0o644);
    fs::write(runner.path("out/ro"), "changed").unwrap();
    set("ro", 0o000);
    again();
    set("dir", 0o755);
    set("deep/er", 0o755);
    fs::remove_file(runner.path("out/dir/f")).unwrap();
    fs::remove_file(runner.path("out/deep/er/f")).unwrap();
    put(&runner, "out/dir/extra");
    put(&runner, "out/dir/more/extra");
    set("dir/more", 0o555);
    set("dir", 0o555);
    set("deep/er", 0o000);
    again();
    assert_eq!(are_there(&runner, &["out/dir/extra", "out/dir/more"]), [false; 2]);
    for name in ["src/dir", "src/deep/er", "src/deep", "out/dir", "out/deep/er", "out/deep"] {
        fs::set_permissions(runner.path(name), Permissions::from_mode(0o755)).unwrap();
    }
}
