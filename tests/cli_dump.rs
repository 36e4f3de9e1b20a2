//! `cat` and `dump`: content that is right, or a failure that cannot be overlooked.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use crate::support::cli::{Runner, finish, noise};

/// Lists an archive with Python's reader: name, type, size, link.
const LIST_WITH_PYTHON: &str = "
import sys, tarfile
for m in tarfile.open(fileobj=sys.stdin.buffer, mode='r|'):
    print(ascii(m.name), m.type.decode(), m.size, ascii(m.linkname), oct(m.mode))
";

#[test]
fn a_file_is_written_to_standard_output() {
    let runner = Runner::with_repository();
    let content = noise(1, 20 << 20);
    runner.write("a/large", &content);
    runner.write("a/empty", "");
    symlink("large", runner.path("src/a/link")).unwrap();
    runner.backup();
    assert!(runner.run(["cat", "latest", "a/large"]).expect(0).stdout == content);
    assert!(runner.run(["cat", "latest", "/a/empty"]).expect(0).stdout.is_empty());
    assert!(runner.run(["cat", "latest", "a"]).expect(2).stderr.contains("dump"));
    runner.run(["cat", "latest", "a/link"]).expect(2);
    runner.run(["cat", "latest", "a/nothing"]).expect(1);
}

#[test]
fn damaged_content_is_an_error_and_never_written() {
    let runner = Runner::with_repository();
    runner.write("file", noise(1, 100_000));
    runner.backup();
    runner.damage_data();
    let failed = runner.run(["cat", "latest", "file"]).expect(1);
    assert!(failed.stdout.is_empty() && failed.stderr.contains("Damaged packs/data/"), "{}", failed.stderr);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let runner = Runner::with_repository();
    runner.write("file", noise(1, 4 << 20));
    runner.backup();
    for args in [&["cat", "latest", "file"][..], &["dump", "latest"]] {
        let mut child = runner.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn make_source(runner: &Runner) {
    let source = runner.path("src");
    runner.write("a/large", noise(1, 9 << 20));
    for number in 0..300 {
        runner.write(&format!("a/small/{number:03}"), noise(number, 700));
    }
    fs::create_dir(source.join("empty")).unwrap();
    fs::hard_link(source.join("a/large"), source.join("z-second-name")).unwrap();
    symlink("t".repeat(180), source.join("long-link")).unwrap();
    symlink("./a//b/", source.join("odd-link")).unwrap();
    runner.write(&format!("{}/{}/x", "d".repeat(100), "e".repeat(120)), "long path");
    fs::write(source.join(OsStr::from_bytes(&[0xFF; 120])), "long name that is not UTF-8").unwrap();
    fs::write(source.join(OsStr::from_bytes(b"with\nnewline \xFE")), "x").unwrap();
    let old = runner.write("old", "x");
    fs::File::options().write(true).open(old).unwrap().set_modified(UNIX_EPOCH - Duration::from_millis(1500)).unwrap();
}

#[test]
fn an_archive_unpacks_to_what_was_backed_up() {
    let runner = Runner::with_repository();
    make_source(&runner);
    runner.backup();
    let archive = runner.run(["dump", "latest"]).expect(0).stdout;
    fs::create_dir(runner.path("out")).unwrap();
    fs::write(runner.path("archive.tar"), &archive).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-xpf").arg(runner.path("archive.tar")).arg("-C").arg(runner.path("out"));
    finish(&mut tar).expect(0);
    let out = runner.path("out").display().to_string();
    let same = runner.run(["diff", "latest", "--dir", &out, "--metadata"]);
    assert_eq!(same.code, Some(0), "{}", same.text());
    assert_eq!(fs::metadata(runner.path("out/a/large")).unwrap().nlink(), 2);
    assert_eq!(fs::read_link(runner.path("out/odd-link")).unwrap().as_os_str(), "./a//b/");
    assert!(archive.len() < 12 << 20, "the hard link was written twice");
}

#[test]
fn an_archive_can_be_listed_by_tar_and_python() {
    let runner = Runner::with_repository();
    make_source(&runner);
    runner.backup();
    let archive = runner.run(["dump", "latest"]).expect(0).stdout;
    let entries = runner.run(["ls", "latest", "-R", "--json"]).expect(0).json()["entries"].as_array().unwrap().len();
    for (program, args) in [("tar", &["-tvf", "-"][..]), ("python3", &["-c", LIST_WITH_PYTHON])] {
        let mut command = Command::new(program);
        let piped = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        let (mut input, archive) = (child.stdin.take().unwrap(), &archive);
        let output = std::thread::scope(|scope| {
            scope.spawn(move || input.write_all(archive).unwrap());
            child.wait_with_output().unwrap()
        });
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && output.stderr.is_empty(), "{program}: {:?}", output.stderr);
        assert_eq!(text.lines().count(), entries, "{program}: {text}");
        let shows_bytes = ["\\376", "\\udcfe"].iter().any(|escape| text.contains(escape));
        assert!(text.contains("z-second-name") && shows_bytes, "{program}: {text}");
    }
}

#[test]
fn a_part_is_archived_under_its_whole_path() {
    let runner = Runner::with_repository();
    for name in ["a/b/x", "a/c", "ab", "d"] {
        runner.write(name, name);
    }
    fs::hard_link(runner.path("src/a/c"), runner.path("src/a/b/linked")).unwrap();
    fs::hard_link(runner.path("src/a/c"), runner.path("src/z")).unwrap();
    runner.backup();
    let names = |args: &[&str]| {
        let archive = runner.run([&["dump", "latest"], args].concat()).expect(0).stdout;
        let mut archive = tar::Archive::new(archive.as_slice());
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            (entry.path().unwrap().display().to_string(), entry.header().entry_type(), entry.size())
        });
        entries.collect::<Vec<_>>()
    };
    use tar::EntryType::{Directory, Link, Regular};
    let expected = [("a/", Directory, 0), ("a/b/", Directory, 0), ("a/b/linked", Regular, 3), ("a/b/x", Regular, 5)];
    let expected = expected.map(|(name, kind, size)| (name.to_owned(), kind, size));
    assert_eq!(names(&["a"])[..4], expected);
    assert_eq!(names(&["a"])[4], ("a/c".to_owned(), Link, 0));
    assert_eq!(names(&["a/b"]), expected[1..]);
    // Another name of a file that is not in the archive comes with its content.
    assert_eq!(names(&["z"]), [("z".to_owned(), Regular, 3)]);
    runner.run(["dump", "latest", "nothing"]).expect(1);
}

#[test]
fn a_damaged_file_leaves_an_archive_that_cannot_pass_for_whole() {
    // A builder that ends the archive when it is dropped would pad the missing bytes with zeros.
    let runner = Runner::with_repository();
    runner.write("a", noise(1, 200));
    runner.backup();
    runner.damage_data();
    runner.write("b", noise(2, 200));
    runner.backup();
    for snapshot in ["latest", "latest~1"] {
        let failed = runner.run(["dump", snapshot]).expect(1);
        assert!(failed.stderr.contains("Damaged"), "{}", failed.stderr);
        fs::write(runner.path("archive.tar"), &failed.stdout).unwrap();
        let listed = finish(Command::new("tar").arg("-tf").arg(runner.path("archive.tar")));
        let is_whole =
            listed.code == Some(0) && listed.text().lines().count() == if snapshot == "latest" { 2 } else { 1 };
        assert!(!is_whole, "{listed:?}");
        assert!(!failed.stdout.ends_with(&[0; 1024]), "the archive was ended");
    }
}

#[test]
fn a_path_joined_to_the_snapshot_begins_the_archive_and_patterns_choose_from_it() {
    let runner = Runner::with_repository();
    for name in ["a/b/x.bin", "a/b/deep/y.bin", "a/b/z.txt", "a/c"] {
        runner.write(name, name);
    }
    fs::hard_link(runner.path("src/a/b/x.bin"), runner.path("src/a/b/z.bin")).unwrap();
    runner.backup();
    let names = |args: &[&str]| {
        let archive = runner.run(args).expect(0).stdout;
        let mut archive = tar::Archive::new(archive.as_slice());
        let names = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let link = entry.link_name().unwrap().map_or_else(String::new, |link| format!(" to {}", link.display()));
            format!("{}{link}", entry.path().unwrap().display())
        });
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(&["dump", "latest:a/b"]), ["deep/", "deep/y.bin", "x.bin", "z.bin to x.bin", "z.txt"]);
    assert_eq!(names(&["dump", "latest:/a/b/", "--exclude", "deep", "--exclude", "x.bin"]), ["z.bin", "z.txt"]);
    assert_eq!(names(&["dump", "latest", "a/b", "--include", "*.txt"]), ["a/b/z.txt"]);
    assert_eq!(names(&["dump", "latest:a/c"]), ["c"]);
    let restore = ["restore", "--snapshot", "latest:a/b", "--target", "-", "--include", "*.bin"];
    assert_eq!(names(&restore), ["deep/y.bin", "x.bin", "z.bin to x.bin"]);
    runner.run(["dump", "latest:a/nothing"]).expect(1);
}

#[test]
fn a_path_joined_to_the_snapshot_is_a_path_for_every_command_that_takes_one() {
    let runner = Runner::with_repository();
    runner.write("a/b/x", "one");
    runner.write("beside", "one");
    runner.backup();
    runner.write("a/b/x", "two, longer");
    runner.write("beside", "two, longer");
    runner.backup();
    assert_eq!(runner.run(["cat", "latest:a/b/x"]).expect(0).text(), "two, longer");
    assert!(runner.run(["ls", "latest:a/b"]).expect(0).text().trim_end().ends_with("a/b/x"));
    for args in [&["latest~1:a", "latest"][..], &["latest~1", "latest:a"], &["latest~1:a", "latest:a"]] {
        let text = runner.run([&["diff"], args].concat()).expect(1).text();
        assert!(text.contains("M a/b/x") && !text.contains("beside"), "{args:?}: {text}");
    }
    for refused in [
        &["cat", "latest:a/b/x", "beside"][..],
        &["cat", "latest"],
        &["ls", "latest:a", "a"],
        &["dump", "latest:a", "a"],
        &["diff", "latest~1:a", "latest:beside"],
        &["diff", "latest:a", "--dir", "."],
    ] {
        runner.run(refused).expect(2);
    }
}

#[test]
fn a_restore_to_standard_output_is_what_cat_and_dump_write() {
    let runner = Runner::with_repository();
    runner.write("a/b", noise(1, 100_000));
    runner.write("a/c", "c");
    runner.backup();
    let restore = |args: &[&str]| runner.run([&["restore", "--snapshot", "latest", "--target", "-"], args].concat());
    assert!(restore(&["--path", "a/b"]).expect(0).stdout == noise(1, 100_000));
    for args in [&["--path", "a"][..], &[]] {
        let dumped = runner.run([&["dump", "latest"], &args[args.len().min(1)..]].concat()).expect(0).stdout;
        assert!(restore(args).expect(0).stdout == dumped, "{args:?}");
    }
    restore(&["--path", "nothing"]).expect(1);
    for refused in [&["--json"][..], &["--overwrite", "always"], &["--delete"], &["--dry-run"], &["--model", "m"]] {
        assert!(restore(refused).expect(2).stdout.is_empty(), "{refused:?}");
    }
}
