//! `backup --xattrs` and `restore --xattrs`: extended attributes and ACLs on request, and nothing of them without.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::XattrFlags;
use serde_json::{Value, json};

use crate::support::cli::{Outcome, Runner, finish};

const ACL_ACCESS: &str = "system.posix_acl_access";
const ACL_DEFAULT: &str = "system.posix_acl_default";
const CAPABILITY: &str = "security.capability";
/// `CAP_NET_RAW`, permitted and effective.
const CAPABILITY_VALUE: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Prints names and pax headers of an archive.
const PAX_WITH_PYTHON: &str = "
import sys, tarfile
for m in tarfile.open(fileobj=sys.stdin.buffer, mode='r|'):
    for key, value in sorted(m.pax_headers.items()):
        if key.startswith('SCHILY'):
            print(m.name, key, ascii(value))
";

/// Returns an ACL with which the owner may read and write, one other user may, too, and the owning group may not.
fn acl(other_user: u32) -> Vec<u8> {
    let entry =
        |tag: u16, rights: u16, id: u32| [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat();
    let nobody = u32::MAX;
    let entries = [(1, 6, nobody), (2, 6, other_user), (4, 0, nobody), (0x10, 6, nobody), (0x20, 0, nobody)];
    let entries = entries.map(|(tag, rights, id)| entry(tag, rights, id)).concat();
    [&2_u32.to_le_bytes()[..], &entries].concat()
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn get(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 64 << 10];
    let len = rustix::fs::lgetxattr(path, name, &mut buffer[..]).ok()?;
    Some(buffer[..len].to_vec())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Attributes that the files of [`make_source`] have, and that may be restored without their owner.
fn expected() -> BTreeMap<(&'static str, &'static str), Vec<u8>> {
    BTreeMap::from([
        (("plain", "user.note"), b"by hand".to_vec()),
        (("plain", "user.empty"), Vec::new()),
        (("plain", "user.large"), vec![7; 3000]),
        (("locked", "user.note"), b"read-only".to_vec()),
        (("shared", ACL_ACCESS), acl(4711)),
        (("dir", "user.note"), b"of a directory".to_vec()),
        (("dir", ACL_DEFAULT), acl(4712)),
    ])
}

/// Makes files with attributes; returns false where the file system has none.
fn make_source(runner: &Runner) -> bool {
    for name in ["plain", "locked", "shared", "dir/inner", "bare"] {
        runner.write(name, format!("content of {name}"));
    }
    symlink("plain", runner.path("src/link")).unwrap();
    if rustix::fs::lsetxattr(runner.path("src/bare"), "user.try", b"", XattrFlags::empty()).is_err() {
        eprintln!("skipped: the file system has no extended attributes");
        return false;
    }
    rustix::fs::lremovexattr(runner.path("src/bare"), "user.try").unwrap();
    for ((path, name), value) in expected() {
        set(&runner.path("src").join(path), name, &value);
    }
    fs::set_permissions(runner.path("src/locked"), Permissions::from_mode(0o444)).unwrap();
    true
}

fn backup(runner: &Runner, args: &[&str]) -> Value {
    runner.settle();
    runner.run([&["backup", ".", "--json"], args].concat()).expect(0).json()
}

fn restore(runner: &Runner, args: &[&str]) -> Outcome {
    let target = runner.path("out").display().to_string();
    runner.run([&["restore", "--snapshot", "latest", "--target", &target], args].concat())
}

fn listed(runner: &Runner, path: &str) -> Value {
    let document = runner.run(["ls", "--json", "-R", "latest"]).expect(0).json();
    let found = document["entries"].as_array().unwrap().iter().find(|entry| entry["path"] == path).cloned();
    found.unwrap_or_else(|| panic!("no {path}"))["xattrs"].clone()
}

#[track_caller]
fn assert_restored(runner: &Runner) {
    for ((path, name), value) in expected() {
        assert_eq!(get(&runner.path("out").join(path), name).as_ref(), Some(&value), "{path}: {name}");
    }
    let mode = |name: &str| fs::metadata(runner.path("out").join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("locked"), mode("shared")), (0o444, 0o660));
    // What was made in a directory with a default ACL has that of the snapshot: none.
    assert_eq!(get(&runner.path("out/dir/inner"), ACL_ACCESS), None);
}

#[test]
fn attributes_and_acls_come_back_on_request() {
    let runner = Runner::with_repository();
    if !make_source(&runner) {
        return;
    }
    backup(&runner, &["--xattrs"]);
    // Without the option a restore is what it always was.
    restore(&runner, &[]).expect(0);
    for ((path, name), _) in expected() {
        assert_eq!(get(&runner.path("out").join(path), name), None, "{path}: {name}");
    }
    // Into what is there, which needs no byte of content, and has too much.
    set(&runner.path("out/bare"), "user.extra", b"x");
    set(&runner.path("out/bare"), ACL_ACCESS, &acl(1));
    let again = restore(&runner, &["--xattrs", "--json"]).expect(0).json();
    assert_eq!((&again["summary"]["files_written"], &again["summary"]["problems"]), (&0.into(), &0.into()));
    assert_restored(&runner);
    assert_eq!((get(&runner.path("out/bare"), "user.extra"), get(&runner.path("out/bare"), ACL_ACCESS)), (None, None));
    // Into a new directory, and into one that hands an ACL on.
    fs::remove_dir_all(runner.path("out")).unwrap();
    fs::create_dir(runner.path("out")).unwrap();
    set(&runner.path("out"), ACL_DEFAULT, &acl(4713));
    restore(&runner, &["--xattrs"]).expect(0);
    assert_restored(&runner);
    let target = runner.path("out").display().to_string();
    runner.run(["diff", "latest", "--dir", &target, "--metadata"]).expect(0);
}

#[test]
fn a_backup_that_was_not_asked_stores_none_and_one_that_was_reads_no_content_for_it() {
    let runner = Runner::with_repository();
    if !make_source(&runner) {
        return;
    }
    backup(&runner, &[]);
    assert_eq!(listed(&runner, "plain"), Value::Null);
    restore(&runner, &["--xattrs"]).expect(0);
    assert_eq!(get(&runner.path("out/plain"), "user.note"), None);
    // The files are unchanged, and their attributes are new to the snapshot.
    let asked = backup(&runner, &["--xattrs"])["record"]["statistics"].clone();
    assert_eq!((&asked["files_unchanged"], &asked["bytes_read"]), (&5.into(), &0.into()));
    assert_eq!(listed(&runner, "bare"), json!([]));
    let names = json!([
        { "name": "user.empty", "bytes": 0 }, { "name": "user.large", "bytes": 3000 }, { "name": "user.note", "bytes": 7 },
    ]);
    assert_eq!(listed(&runner, "plain"), names);
    assert_eq!(listed(&runner, "dir/")[0], json!({ "name": ACL_DEFAULT, "bytes": 44 }));
    // And unchanged again, they are not kept because an earlier snapshot had them.
    backup(&runner, &[]);
    assert_eq!(listed(&runner, "plain"), Value::Null);
}

#[test]
fn a_changed_attribute_is_a_change_of_metadata_and_stores_no_content() {
    let runner = Runner::with_repository();
    if !make_source(&runner) {
        return;
    }
    let first = backup(&runner, &["--xattrs"])["snapshot"].as_str().unwrap().to_owned();
    set(&runner.path("src/plain"), "user.note", b"by somebody else");
    rustix::fs::lremovexattr(runner.path("src/plain"), "user.empty").unwrap();
    let odd = runner.path("src/dir");
    rustix::fs::lsetxattr(&odd, &b"user.\xFF"[..], b"x", XattrFlags::empty()).unwrap();
    let second = backup(&runner, &["--xattrs"]);
    let statistics = &second["record"]["statistics"];
    // The one new chunk is of the tree.
    assert_eq!((&statistics["files_changed"], &statistics["chunks_new"]), (&1.into(), &1.into()), "{statistics}");
    runner.run(["diff", &first, "latest"]).expect(0);
    let text = runner.run(["diff", &first, "latest", "--metadata"]).expect(1).text();
    assert!(text.contains("U plain  (user.empty, user.note)") && text.contains("U dir/  (user.\u{FFFD})"), "{text}");
    let changes = runner.run(["diff", &first, "latest", "--metadata", "--json"]).expect(1).json()["changes"].clone();
    let of = |path: &str| changes.as_array().unwrap().iter().find(|change| change["path"] == path).unwrap().clone();
    assert_eq!(of("plain")["xattrs"], json!([{ "name": "user.empty" }, { "name": "user.note" }]));
    assert_eq!(of("dir/")["xattrs"], json!([{ "name": "user.\u{FFFD}", "name_base64": "dXNlci7/" }]));
    assert_eq!(of("plain")["old"]["xattrs"].as_array().unwrap().len(), 3);
    // Of a snapshot that does not know them, nothing is said.
    let third = backup(&runner, &[])["snapshot"].as_str().unwrap().to_owned();
    runner.run(["diff", "latest~1", &third, "--metadata"]).expect(0);
    // What the directory has is compared, too.
    backup(&runner, &["--xattrs"]);
    set(&runner.path("src/shared"), "user.new", b"");
    let source = runner.path("src").display().to_string();
    let text = runner.run(["diff", "latest", "--dir", &source, "--metadata"]).expect(1).text();
    assert!(text.contains("U shared  (user.new)"), "{text}");
}

#[test]
fn capabilities_come_back_only_with_the_owner_and_what_is_refused_is_named() {
    let runner = Runner::with_repository();
    if !make_source(&runner) || !is_root() {
        return;
    }
    set(&runner.path("src/plain"), CAPABILITY, &CAPABILITY_VALUE);
    set(&runner.path("src/link"), "trusted.note", b"of a link");
    backup(&runner, &["--xattrs"]);
    restore(&runner, &["--xattrs"]).expect(0);
    let capability = || get(&runner.path("out/plain"), CAPABILITY);
    assert_eq!((capability(), get(&runner.path("out/link"), "trusted.note")), (None, None));
    restore(&runner, &["--ownership"]).expect(0);
    assert_eq!(capability(), None);
    restore(&runner, &["--ownership", "--xattrs"]).expect(0);
    assert_eq!(capability(), Some(CAPABILITY_VALUE.to_vec()));
    assert_eq!(get(&runner.path("out/link"), "trusted.note"), Some(b"of a link".to_vec()));
    assert_restored(&runner);
    // Who may not set it hears of it, and has everything else.
    fs::remove_dir_all(runner.path("out")).unwrap();
    let target = runner.path("out").display().to_string();
    let args = ["restore", "--snapshot", "latest", "--target", &target, "--ownership", "--xattrs"];
    let mut limited = runner.command_without("-setfcap", args);
    let refused = finish(&mut limited).expect(3);
    assert!(refused.stderr.contains("plain") && refused.stderr.contains(CAPABILITY), "{}", refused.stderr);
    assert_eq!(capability(), None);
    assert_restored(&runner);
}

#[test]
fn copies_keep_them_and_archives_have_them() {
    let runner = Runner::with_repository();
    if !make_source(&runner) {
        return;
    }
    set(&runner.path("src/plain"), "user.a=b%", b"\x01");
    fs::hard_link(runner.path("src/plain"), runner.path("src/second")).unwrap();
    backup(&runner, &["--xattrs"]);
    let archive = runner.run(["dump", "latest"]).expect(0).stdout;
    fs::write(runner.path("archive.tar"), archive).unwrap();
    let mut python = Command::new("python3");
    python.args(["-c", PAX_WITH_PYTHON]).stdin(Stdio::from(File::open(runner.path("archive.tar")).unwrap()));
    let text = finish(&mut python).expect(0).text();
    for line in [
        "plain SCHILY.xattr.user.note 'by hand'",
        "plain SCHILY.xattr.user.a%3Db%25",
        "dir SCHILY.xattr.system.posix_acl_default",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    assert!(!text.contains("second"), "{text}");
    let (copy, key) = (runner.path("copy").display().to_string(), runner.path("key").display().to_string());
    finish(runner.command(["init"]).env("MLVAULT_REPO", &copy)).expect(0);
    runner.run(["copy", "--all", "--to", &copy, "--to-key-file", &key]).expect(0);
    let target = runner.path("out").display().to_string();
    let args = ["restore", "--snapshot", "latest", "--target", &target, "--xattrs"];
    finish(runner.command(args).env("MLVAULT_REPO", &copy)).expect(0);
    assert_restored(&runner);
    assert_eq!(get(&runner.path("out/second"), "user.a=b%"), Some(vec![1]));
}

#[test]
fn where_there_can_be_none_the_option_is_refused_or_finds_none() {
    let runner = Runner::with_repository();
    runner.write("file", "x");
    for args in [
        &["backup", "--xattrs", "s3://bucket/prefix"][..],
        &["backup", "--xattrs", "--stdin", "--name", "x"],
        &["restore", "--snapshot", "latest", "--target", "-", "--xattrs"],
        &["restore", "--snapshot", "latest", "--target", "s3://bucket/prefix", "--xattrs"],
    ] {
        let refused = runner.run(args).expect(2);
        assert!(refused.stderr.contains("--xattrs"), "{}", refused.stderr);
    }
    // A file system of the kernel's own.
    runner.run(["backup", "--xattrs", "/proc/version"]).expect(0);
}
