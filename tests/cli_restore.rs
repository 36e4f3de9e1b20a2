//! `restore`: what comes back, what is left alone, and what nothing can make it do.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mlvault::chunks::writer::ChunkWriter;
use mlvault::format::BlobKind;
use mlvault::format::snapshot::{Completeness, Component};
use mlvault::format::tree::{ChunkRef, Entry, EntryKind, FileContent, Metadata};
use mlvault::hears::Hears;
use mlvault::id::Digest;
use mlvault::repository::session::Session;
use mlvault::trees::writer::TreeWriter;
use serde_json::Value;

use crate::support::cli::{Outcome, Runner, finish, noise};
use crate::support::thief::forged_record;

fn restore(runner: &Runner, target: &str, more: &[&str]) -> Outcome {
    let target = runner.path(target).display().to_string();
    runner.run([&["restore", "--snapshot", "latest", "--target", &target], more].concat())
}

fn summary(outcome: &Outcome) -> Value {
    outcome.json()["summary"].clone()
}

/// Describes all that is below a directory: kind, mode, time, links, content.
fn picture(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut picture = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for found in fs::read_dir(directory).unwrap() {
            let path = found.unwrap().path();
            let facts = fs::symlink_metadata(&path).unwrap();
            let content = if facts.is_dir() {
                directories.push(path.clone());
                "directory".to_owned()
            } else if facts.is_symlink() {
                format!("symlink to {:?}", fs::read_link(&path).unwrap())
            } else {
                let digest = blake3::hash(&fs::read(&path).unwrap());
                format!("{} bytes, {} links, {digest}", facts.len(), facts.nlink())
            };
            let text = format!("{content} {:o} {}.{:09}", facts.mode(), facts.mtime(), facts.mtime_nsec());
            picture.insert(path.strip_prefix(root).unwrap().to_owned(), text);
        }
    }
    picture
}

/// A source with one of everything that a file system has.
fn make_zoo(runner: &Runner) {
    let source = runner.path("src");
    runner.write("plain", noise(1, 3_000_000));
    runner.write("empty", "");
    runner.write("deep/er/and/deeper", "x");
    fs::create_dir(source.join("empty directory")).unwrap();
    symlink("plain", source.join("link")).unwrap();
    symlink("/nowhere/at/all", source.join("dangling")).unwrap();
    fs::hard_link(source.join("plain"), source.join("second name")).unwrap();
    for name in [&b"not \xFF UTF-8"[..], b"with\nnewline", b"-rf", b" ", "snow☃".as_bytes()] {
        fs::write(source.join(OsStr::from_bytes(name)), name).unwrap();
    }
    let sparse = File::create(source.join("sparse")).unwrap();
    sparse.write_all_at(&noise(2, 10_000), 40 << 20).unwrap();
    sparse.set_len(64 << 20).unwrap();
    for (name, mode) in [("plain", 0o640), ("empty", 0o444), ("deep/er", 0o2711), ("empty directory", 0o1777)] {
        fs::set_permissions(source.join(name), Permissions::from_mode(mode)).unwrap();
    }
    let old = File::open(source.join("empty")).unwrap();
    old.set_modified(std::time::UNIX_EPOCH - Duration::from_millis(1500)).unwrap();
}

#[test]
fn everything_comes_back_as_it_was() {
    let runner = Runner::with_repository();
    make_zoo(&runner);
    runner.backup();
    let restored = restore(&runner, "out", &["--json", "--ownership"]).expect(0);
    assert_eq!(summary(&restored)["problems"], 0);
    assert_eq!(picture(&runner.path("out")), picture(&runner.path("src")));
    let blocks = fs::metadata(runner.path("out/sparse")).unwrap().blocks();
    assert!(blocks * 512 < 8 << 20, "the sparse file takes {blocks} blocks");
    let target = runner.path("out").display().to_string();
    runner.run(["diff", "latest", "--dir", &target, "--metadata"]).expect(0);
}

#[test]
fn restored_again_nothing_is_written() {
    let runner = Runner::with_repository();
    make_zoo(&runner);
    runner.backup();
    restore(&runner, "out", &[]).expect(0);
    let before = picture(&runner.path("out"));
    let again = summary(&restore(&runner, "out", &["--json"]).expect(0));
    assert_eq!((&again["files_written"], &again["bytes_written"]), (&0.into(), &0.into()));
    assert_eq!(picture(&runner.path("out")), before);
}

#[test]
fn in_place_only_what_differs_is_written() {
    let runner = Runner::with_repository();
    let path = runner.write("model", noise(1, 8_000_000));
    runner.write("same", noise(2, 1_000_000));
    runner.backup();
    let good = picture(&runner.path("src"));
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"damage", 4_000_000).unwrap();
    drop(file);
    let restored = summary(&restore(&runner, "src", &["--json"]).expect(0));
    assert_eq!((&restored["files_written"], &restored["files_unchanged"]), (&1.into(), &1.into()));
    let written = restored["bytes_written"].as_u64().unwrap();
    assert!(written > 0 && written < 2_500_000, "{written} bytes written");
    assert_eq!(picture(&runner.path("src")), good);
    // Too long and too short is put right too.
    File::options().append(true).open(&path).unwrap().set_len(9_000_000).unwrap();
    restore(&runner, "src", &[]).expect(0);
    File::options().write(true).open(&path).unwrap().set_len(10).unwrap();
    restore(&runner, "src", &[]).expect(0);
    assert_eq!(picture(&runner.path("src")), good);
}

#[test]
fn only_with_delete_is_removed_what_the_snapshot_does_not_have() {
    let runner = Runner::with_repository();
    runner.write("a/keep", "x");
    runner.write("b/keep", "x");
    runner.backup();
    for name in ["a/extra", "b/extra", "c/deep/extra"] {
        runner.write(name, "y");
    }
    let target = "src";
    let kept = summary(&restore(&runner, target, &["--json"]).expect(0));
    assert_eq!(kept["removed"], 0);
    let dry = restore(&runner, target, &["--json", "--delete", "--dry-run"]).expect(0);
    assert_eq!(summary(&dry)["removed"], 5);
    assert!(runner.path("src/c/deep/extra").exists());
    let below = summary(&restore(&runner, target, &["--json", "--delete", "--yes", "--path", "a"]).expect(0));
    assert_eq!(below["removed"], 1);
    assert!(!runner.path("src/a/extra").exists() && runner.path("src/b/extra").exists());
    restore(&runner, target, &["--delete", "--yes"]).expect(0);
    assert!(!runner.path("src/b/extra").exists() && !runner.path("src/c").exists());
    assert!(runner.path("src/a/keep").exists());
}

#[test]
fn a_dry_run_writes_nothing_at_all() {
    let runner = Runner::with_repository();
    runner.write("a/b", noise(1, 5000));
    runner.backup();
    let dry = summary(&restore(&runner, "out", &["--json", "--dry-run"]).expect(0));
    assert_eq!((&dry["files_written"], &dry["bytes_written"]), (&1.into(), &5000.into()));
    assert!(!runner.path("out").exists());
}

#[test]
fn overwrite_says_what_happens_to_files_that_are_there() {
    let runner = Runner::with_repository();
    runner.write("file", "original");
    runner.backup();
    let path = runner.path("src/file");
    let stored = fs::metadata(&path).unwrap().modified().unwrap();
    let put = |content: &str, newer_by: i64| {
        fs::write(&path, content).unwrap();
        let time = if newer_by < 0 { stored - Duration::from_secs(60) } else { stored + Duration::from_secs(60) };
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(if newer_by == 0 { stored } else { time })
            .unwrap();
    };
    let after = |mode: &str| {
        restore(&runner, "src", &["--overwrite", mode]).expect(0);
        fs::read_to_string(&path).unwrap()
    };
    put("changed", -1);
    assert_eq!(after("never"), "changed");
    put("changed", 1);
    assert_eq!(after("if-newer"), "changed");
    put("changed", -1);
    assert_eq!(after("if-newer"), "original");
    put("sameSize", 0);
    assert_eq!(after("if-changed"), "sameSize");
    put("sameSize", 1);
    assert_eq!(after("if-changed"), "original");
    put("sameSize", 0);
    assert_eq!(after("always"), "original");
}

#[test]
fn a_part_is_restored_by_its_path() {
    let runner = Runner::with_repository();
    for name in ["a/x", "a/b/y", "ab/z", "c"] {
        runner.write(name, name);
    }
    runner.backup();
    restore(&runner, "out", &["--path", "a"]).expect(0);
    let restored: Vec<_> =
        runner.files("out").iter().map(|path| path.strip_prefix(runner.path("out")).unwrap().to_owned()).collect();
    assert_eq!(restored, [PathBuf::from("a/b/y"), PathBuf::from("a/x")]);
    restore(&runner, "out", &["--path", "nothing"]).expect(1);
}

#[test]
fn what_is_below_the_path_of_a_snapshot_comes_right_into_the_target() {
    let runner = Runner::with_repository();
    for name in ["a/x", "a/b/y", "ab/z"] {
        runner.write(name, name);
    }
    fs::hard_link(runner.path("src/a/x"), runner.path("src/a/b/second")).unwrap();
    runner.backup();
    let restored = |path: &str, more: &[&str]| -> Vec<String> {
        let _ = fs::remove_dir_all(runner.path("out"));
        let (snapshot, target) = (format!("latest:{path}"), runner.path("out").display().to_string());
        runner.run([&["restore", "--snapshot", &snapshot, "--target", &target], more].concat()).expect(0);
        let names = runner.files("out");
        names.iter().map(|it| it.strip_prefix(runner.path("out")).unwrap().display().to_string()).collect()
    };
    assert_eq!(restored("a", &[]), ["b/second", "b/y", "x"]);
    assert_eq!(restored("/a/b/", &[]), ["second", "y"]);
    assert_eq!(restored("a/x", &[]), ["x"]);
    assert_eq!(restored("", &[]), ["a/b/second", "a/b/y", "a/x", "ab/z"]);
    assert_eq!(restored("a", &["--exclude", "x"]), ["b/second", "b/y"]);
    // What is deleted is below the path, too.
    let (target, deeper) = (runner.path("src/a"), runner.path("src/a/b/extra"));
    fs::write(&deeper, "extra").unwrap();
    fs::write(runner.path("src/ab/extra"), "beside").unwrap();
    let target = target.display().to_string();
    runner.run(["restore", "--snapshot", "latest:a", "--target", &target, "--delete", "--yes"]).expect(0);
    assert!(!deeper.exists() && runner.path("src/ab/extra").exists() && runner.path("src/a/x").exists());
    runner.run(["restore", "--snapshot", "latest:none", "--target", &target]).expect(1);
    runner.run(["restore", "--snapshot", "latest:a", "--target", &target, "--path", "x"]).expect(2);
    runner.run(["restore", "--snapshot", "latest:a"]).expect(2);
}

#[test]
fn patterns_choose_what_is_restored() {
    let runner = Runner::with_repository();
    for name in ["a/x.bin", "a/deep/y.bin", "a/y.txt", "b/z.bin"] {
        runner.write(name, name);
    }
    runner.backup();
    let restored = |patterns: &[&str]| -> Vec<String> {
        let _ = fs::remove_dir_all(runner.path("out"));
        restore(&runner, "out", patterns).expect(0);
        let names = runner.files("out");
        names.iter().map(|it| it.strip_prefix(runner.path("out")).unwrap().display().to_string()).collect()
    };
    assert_eq!(restored(&["--include", "*.bin"]), ["a/deep/y.bin", "a/x.bin", "b/z.bin"]);
    assert_eq!(restored(&["--include", "a", "--exclude", "deep"]), ["a/x.bin", "a/y.txt"]);
    assert_eq!(restored(&["--include", "a/deep", "--include", "b"]), ["a/deep/y.bin", "b/z.bin"]);
    assert_eq!(restored(&["--exclude", "a/**"]), ["b/z.bin"]);
}

#[test]
fn snapshots_are_found_by_what_users_call_them() {
    let runner = Runner::with_repository();
    runner.write("file", "one");
    let first = runner.backup();
    runner.write("file", "two");
    let second = runner.backup();
    let content = |name: &str| runner.run(["cat", name, "file"]).expect(0).text();
    assert_eq!((content("latest"), content("latest~1")), ("two".to_owned(), "one".to_owned()));
    assert_eq!((content(&first), content(&second[..20])), ("one".to_owned(), "two".to_owned()));
    let time = runner.run(["snapshots", "--json"]).expect(0).json()["snapshots"][0]["record"]["started"].clone();
    let time = time.as_str().unwrap();
    assert_eq!((content(time), content(&time[..10])), ("one".to_owned(), "two".to_owned()));
    runner.run(["cat", "latest~2", "file"]).expect(1);
    runner.run(["cat", "1999-01-01", "file"]).expect(1);
    runner.run(["cat", "ffffffff", "file"]).expect(1);
    runner.run(["cat", &first[..4], "file"]).expect(1);
}

#[test]
fn a_restore_that_was_killed_goes_on_when_it_is_run_again() {
    let runner = Runner::with_repository();
    for number in 0..60 {
        runner.write(&format!("file-{number:02}"), noise(number, 2_000_000));
    }
    runner.backup();
    let target = runner.path("out");
    let text = target.display().to_string();
    let mut child =
        runner.command(["restore", "--snapshot", "latest", "--target", &text]).stdout(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    let is_under_way = || fs::read_dir(&target).is_ok_and(|found| found.count() > 3);
    while !is_under_way() && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    restore(&runner, "out", &[]).expect(0);
    assert_eq!(picture(&target), picture(&runner.path("src")));
}

#[test]
fn damaged_content_is_named_and_the_rest_is_restored() {
    let runner = Runner::with_repository();
    runner.write("first", noise(1, 100_000));
    runner.backup();
    runner.damage_data();
    runner.write("second", noise(2, 100_000));
    runner.backup();
    let damaged = restore(&runner, "out", &[]).expect(3);
    assert!(damaged.stderr.contains("first") && !damaged.stderr.contains("second"), "{}", damaged.stderr);
    assert_eq!(fs::read(runner.path("out/second")).unwrap(), noise(2, 100_000));
    let kept = runner.path("out/first");
    assert!(!kept.exists() || fs::read(kept).unwrap() != noise(1, 100_000));
}

/// Stores a snapshot of entries that no walk would have found.
fn store_by_hand(runner: &Runner, entries: &[(&[u8], Option<&[u8]>)]) {
    store_component_by_hand(runner, "files", entries);
}

fn store_component_by_hand(runner: &Runner, component: &str, entries: &[(&[u8], Option<&[u8]>)]) {
    let content = b"evil";
    store_entries_by_hand(runner, component, |chunks| {
        let (id, _) = chunks.write(&mut Default::default(), BlobKind::Data, content).unwrap();
        let digest = Digest::from_bytes(*blake3::hash(content).as_bytes());
        let file = file_of(vec![ChunkRef { id, len: content.len() as u32 }], digest, false);
        let kind = |path: &[u8], link: Option<&[u8]>| match link {
            Some(target) => EntryKind::Symlink { target: target.to_vec() },
            None if path.ends_with(b"/") => EntryKind::Directory,
            None => file.clone(),
        };
        entries.iter().map(|(path, link)| (path.to_vec(), kind(path, *link))).collect()
    });
}

fn file_of(chunks: Vec<ChunkRef>, digest: Digest, sparse: bool) -> EntryKind {
    let size = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
    let (kind, hard_link) = (BlobKind::Data, None);
    EntryKind::File(FileContent { size, digest, chunks, kind, indirect: false, sparse, racy: false, hard_link })
}

fn store_entries_by_hand(
    runner: &Runner,
    component: &str,
    entries: impl FnOnce(&ChunkWriter) -> Vec<(Vec<u8>, EntryKind)>,
) {
    let repository = runner.open();
    let session = Arc::new(Session::begin(&repository, "test").unwrap());
    let chunks = ChunkWriter::new(Arc::clone(&repository), Arc::clone(&session), &Hears::nobody());
    let entries = entries(&chunks);
    let mut tree = TreeWriter::new(&chunks);
    for (path, kind) in entries {
        let metadata = Metadata { mode: 0o755, ..Metadata::default() };
        tree.push(&Entry { path, metadata, kind, attributes: Vec::new() }).unwrap();
    }
    let root = tree.finish().unwrap();
    chunks.finish().unwrap();
    let component = Component {
        name: component.to_owned(),
        root: root.root,
        entries: root.entries,
        bytes: root.bytes,
        completeness: Completeness::Complete,
        commitment: None,
    };
    let record = forged_record(session.started, component);
    session.commit(&repository, record).unwrap();
}

#[test]
fn hostile_paths_do_not_leave_the_target() {
    let runner = Runner::with_repository();
    let outside = runner.path("outside");
    fs::create_dir(&outside).unwrap();
    let absolute = outside.join("absolute").into_os_string().into_encoded_bytes();
    let link = outside.clone().into_os_string().into_encoded_bytes();
    store_by_hand(
        &runner,
        &[
            (b"../outside/dot-dot", None),
            (&absolute, None),
            (b"a/../../outside/inner", None),
            (b"good", None),
            (b"link", Some(&link)),
            (b"link/through", None),
            (b"x//y", None),
        ],
    );
    let restored = restore(&runner, "out", &["--delete", "--yes"]).expect(3);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{}", restored.stderr);
    assert_eq!(fs::read(runner.path("out/good")).unwrap(), b"evil");
    assert!(restored.stderr.contains("dot-dot") && restored.stderr.contains("not restored"), "{}", restored.stderr);
    // A link that is there already is not walked through either.
    fs::remove_dir_all(runner.path("out")).unwrap();
    fs::create_dir(runner.path("out")).unwrap();
    symlink(&outside, runner.path("out/link")).unwrap();
    restore(&runner, "out", &[]).expect(3);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    // An archive that would do it is not made, a listing shows what is there.
    let dumped = runner.run(["dump", "latest"]).expect(1);
    assert!(dumped.stderr.contains("it is not dumped"), "{}", dumped.stderr);
    assert!(runner.run(["ls", "latest", "-R"]).expect(0).text().contains("../outside/dot-dot"));
}

#[test]
fn a_path_leads_into_a_component_by_its_name() {
    let runner = Runner::with_repository();
    let entries: [(&[u8], Option<&[u8]>); 4] = [(b"1/", None), (b"1/m", None), (b"1/n", None), (b"2/m", None)];
    store_component_by_hand(&runner, "artifacts/main", &entries);
    let restored = |path: &str, code| {
        let _ = fs::remove_dir_all(runner.path("out"));
        restore(&runner, "out", &["--path", path]).expect(code);
        let files = if code == 0 { runner.files("out") } else { Vec::new() };
        let names = files.iter().map(|file| file.strip_prefix(runner.path("out")).unwrap().display().to_string());
        names.collect::<Vec<_>>()
    };
    assert_eq!(restored("artifacts/main/1", 0), ["artifacts/main/1/m", "artifacts/main/1/n"]);
    assert_eq!(restored("/artifacts/main/2/m", 0), ["artifacts/main/2/m"]);
    assert_eq!(restored("artifacts", 0).len(), 3);
    assert!(restored("1", 1).is_empty() && restored("artifacts/mai", 1).is_empty());
}

#[test]
fn names_cannot_forge_output() {
    let runner = Runner::with_repository();
    store_by_hand(&runner, &[("a\u{1b}[2J\u{202e}\nEverything is fine".as_bytes(), None), (b"b\n", Some(b"t\rarget"))]);
    for outcome in [runner.run(["ls", "latest"]), runner.run(["find", "*"])] {
        let text = outcome.expect(0).text();
        assert!(!text.contains(['\u{1b}', '\r', '\u{202e}']) && !text.contains("\nEverything"), "{text}");
        assert!(text.contains(r"\u{1b}[2J\u{202e}\nEverything"), "{text}");
    }
    let mut command = runner.command(["ls", "latest", "--json"]);
    assert_eq!(finish(&mut command).expect(0).json()["entries"][1]["target"], "t\rarget");
}

/// Stores files that are one chunk, again and again: next to nothing in the repository, and more than the disk has room for.
fn store_more_than_the_disk_holds(runner: &Runner, byte: u8, sparse: bool) {
    let room = rustix::fs::statvfs(runner.path("")).unwrap();
    let chunk = vec![byte; runner.open().config().chunk_len_max() as usize];
    let chunks_of_file = 1024;
    let count = room.f_bavail * room.f_frsize / (chunk.len() as u64 * chunks_of_file) + 2;
    store_entries_by_hand(runner, "files", |chunks| {
        let (id, _) = chunks.write(&mut Default::default(), BlobKind::Data, &chunk).unwrap();
        let refs = vec![ChunkRef { id, len: chunk.len() as u32 }; chunks_of_file as usize];
        let digest = Digest::from_bytes([0; 32]);
        (0..count).map(|number| (format!("{number:08}").into_bytes(), file_of(refs.clone(), digest, sparse))).collect()
    });
}

#[test]
fn a_restore_that_does_not_fit_is_refused_before_it_begins() {
    let runner = Runner::with_repository();
    // That it calls itself sparse does not make it smaller.
    for sparse in [false, true] {
        store_more_than_the_disk_holds(&runner, b'x', sparse);
        let refused = restore(&runner, "out", &[]).expect(1);
        assert!(
            refused.stderr.contains("of disk space at") && refused.stderr.contains("--ignore-free-space"),
            "{refused:?}"
        );
        assert!(!runner.path("out").exists(), "nothing was begun");
        let told = restore(&runner, "out", &["--dry-run"]).expect(0);
        assert!(told.stderr.contains("of disk space at"), "{told:?}");
        let ignored = restore(&runner, "out", &["--dry-run", "--ignore-free-space"]).expect(0);
        assert!(!ignored.stderr.contains("of disk space at"), "{ignored:?}");
    }
}

#[test]
fn holes_and_what_is_there_already_need_no_room() {
    let runner = Runner::with_repository();
    store_more_than_the_disk_holds(&runner, 0, true);
    let told = restore(&runner, "out", &["--dry-run"]).expect(0);
    assert!(!told.stderr.contains("of disk space at"), "{told:?}");
}

#[test]
fn what_was_restored_is_written_to_the_disk_before_it_is_called_restored() {
    let runner = Runner::with_repository();
    runner.write("a/file", noise(1, 100_000));
    runner.backup();
    let target = runner.path("out").display().to_string();
    // Whoever hears "Restored" may delete the original.
    let log = runner.path("calls");
    let mut strace = Command::new("strace");
    let program = runner.command(["restore", "--snapshot", "latest", "--target", &target]);
    strace.args(["-f", "-e", "trace=syncfs,write,pwrite64,utimensat", "-o"]).arg(&log).arg(program.get_program());
    strace.args(program.get_args()).envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let outcome = finish(strace.current_dir(runner.path("src"))).expect(0);
    assert!(outcome.text().contains("Restored"), "{outcome:?}");
    let calls = fs::read_to_string(&log).unwrap();
    let lines: Vec<_> = calls.lines().collect();
    let at = |what: &str| lines.iter().rposition(|line| line.contains(what)).unwrap_or_else(|| panic!("no {what}"));
    assert!(at("utimensat") < at("syncfs") && at("pwrite64") < at("syncfs"), "{calls}");
    assert!(at("syncfs") < at("Restored snapshot"), "{calls}");
}
