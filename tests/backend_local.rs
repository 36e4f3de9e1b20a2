//! What only a local directory has to cope with: full disks, permissions, links, crashes.

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use mlvault::backend::Backend;
use mlvault::backend::local::{LocalBackend, TEMPORARY_AGE_SECONDS_MAX};
use mlvault::clock::SystemClock;
use mlvault::error::{Fault, Result};
use tempfile::TempDir;

use crate::support::child;

/// Tells the child process of a test in which directory to write.
const CHILD_ROOT_VARIABLE: &str = "MLVAULT_TEST_CHILD_ROOT";
/// Size of the objects that a child process writes.
const CHILD_OBJECT_BYTES: usize = 256 * 1024;

fn fault<T>(result: Result<T>) -> Option<Fault> {
    result.err().and_then(|error| error.fault())
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn temporaries(root: &Path) -> usize {
    fs::read_dir(root.join("tmp")).map_or(0, Iterator::count)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn a_directory_that_is_not_there_is_not_made_by_opening_it() {
    let directory = TempDir::new().unwrap();
    assert_eq!(fault(LocalBackend::open(directory.path().join("missing"))), Some(Fault::NotFound));
    assert!(!directory.path().join("missing").exists());
    fs::write(directory.path().join("file"), "").unwrap();
    assert_eq!(fault(LocalBackend::open(directory.path().join("file"))), Some(Fault::Other));
    let backend = LocalBackend::open(directory.path()).unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "opening writes nothing");
    drop(directory);
    assert_eq!(
        fault(backend.create("object", Bytes::new())),
        Some(Fault::NotFound),
        "an unmounted disk is not replaced"
    );
}

#[test]
fn what_is_created_is_for_the_owner_only() {
    let directory = TempDir::new().unwrap();
    let root = directory.path().join("a/b");
    let backend = LocalBackend::create_root(&root).unwrap();
    backend.create("packs/ab/object", Bytes::from_static(b"content")).unwrap();
    for path in ["../../a", ".", "tmp", "packs", "packs/ab"] {
        assert_eq!(mode(root.join(path)), 0o700, "{path}");
    }
    assert_eq!(mode(root.join("packs/ab/object")), 0o600);
    assert_eq!(temporaries(&root), 0);
}

#[test]
fn a_refused_create_leaves_no_temporary_file() {
    let directory = TempDir::new().unwrap();
    let backend = LocalBackend::open(directory.path()).unwrap();
    backend.create("object", Bytes::new()).unwrap();
    assert_eq!(fault(backend.create("object", Bytes::from_static(b"x"))), Some(Fault::AlreadyExists));
    assert!(backend.create("object/below", Bytes::from_static(b"x")).is_err());
    assert_eq!(temporaries(directory.path()), 0);
}

#[test]
fn the_directory_of_temporary_files_is_no_place_for_objects() {
    let directory = TempDir::new().unwrap();
    let backend = LocalBackend::open(directory.path()).unwrap();
    for key in ["tmp", "tmp/object"] {
        assert_eq!(fault(backend.create(key, Bytes::new())), Some(Fault::Other));
        assert_eq!(fault(backend.read(key)), Some(Fault::Other));
    }
    backend.create("packs/tmp/object", Bytes::new()).unwrap();
    assert_eq!(backend.list("").unwrap().len(), 1);
}

#[test]
fn directories_that_vanish_are_made_again() {
    let directory = TempDir::new().unwrap();
    let backend = LocalBackend::open(directory.path()).unwrap();
    for name in ["packs", "tmp"] {
        backend.create("packs/ab/object", Bytes::new()).unwrap();
        fs::remove_dir_all(directory.path().join("packs/ab")).unwrap();
        fs::remove_dir_all(directory.path().join(name)).unwrap();
        backend.create("packs/ab/object", Bytes::new()).unwrap();
        fs::remove_dir_all(directory.path().join("packs")).unwrap();
    }
}

#[test]
fn what_is_no_object_is_not_listed() {
    let directory = TempDir::new().unwrap();
    let backend = LocalBackend::open(directory.path()).unwrap();
    backend.create("packs/object", Bytes::from_static(b"content")).unwrap();
    fs::create_dir(directory.path().join("lost+found")).unwrap();
    for name in ["README.txt", "packs/.nfs0001", "packs/Copy of object", "tmp/half-written"] {
        fs::write(directory.path().join(name), "x").unwrap();
    }
    let listed = backend.list("").unwrap();
    assert_eq!(listed.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), ["packs/object"]);
}

#[test]
fn what_is_in_no_listing_is_a_stranger_wherever_it_lies() {
    let directory = TempDir::new().unwrap();
    let backend = LocalBackend::open(directory.path()).unwrap();
    backend.create("packs/object", Bytes::new()).unwrap();
    fs::create_dir(directory.path().join("lost+found")).unwrap();
    // What a crashed writer leaves.
    fs::write(directory.path().join("tmp/00000000000000ff-12-0"), "x").unwrap();
    assert_eq!(backend.stranger().unwrap(), None);
    for name in ["README.txt", "Photos", "packs/a.jpg", "tmp/notes", "tmp/a-b-c", ".hidden"] {
        let path = directory.path().join(name);
        fs::write(&path, "x").unwrap();
        assert_eq!(backend.stranger().unwrap().as_deref(), Some(name));
        fs::remove_file(path).unwrap();
    }
    symlink("/nowhere", directory.path().join("tmp/link")).unwrap();
    assert_eq!(backend.stranger().unwrap().as_deref(), Some("tmp/link"));
}

#[test]
fn symbolic_links_are_refused_rather_than_followed() {
    let outside = TempDir::new().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    let directory = TempDir::new().unwrap();
    let backend = LocalBackend::open(directory.path()).unwrap();
    symlink(outside.path(), directory.path().join("packs")).unwrap();
    symlink(outside.path().join("secret"), directory.path().join("object")).unwrap();
    for prefix in ["", "packs/", "packs/deeper/"] {
        let message = backend.list(prefix).unwrap_err().to_string();
        assert!(message.contains("symbolic link"), "{message}");
    }
    assert!(backend.read("object").is_err());
    assert!(backend.read_range("object", 0..1).is_err());
    assert!(backend.create("packs/new", Bytes::new()).is_err());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    assert_eq!(fault(backend.create("object", Bytes::new())), Some(Fault::AlreadyExists));
}

#[test]
fn the_root_itself_may_be_reached_through_a_link() {
    let directory = TempDir::new().unwrap();
    fs::create_dir(directory.path().join("root")).unwrap();
    symlink("root", directory.path().join("link")).unwrap();
    let backend = LocalBackend::open(directory.path().join("link")).unwrap();
    backend.create("packs/object", Bytes::new()).unwrap();
    assert_eq!(backend.list("packs/").unwrap().len(), 1);
}

#[test]
fn a_named_pipe_is_not_waited_for() {
    let directory = TempDir::new().unwrap();
    let backend = LocalBackend::open(directory.path()).unwrap();
    assert!(Command::new("mkfifo").arg(directory.path().join("pipe")).status().unwrap().success());
    assert_eq!(fault(backend.read("pipe")), Some(Fault::NotFound));
    assert_eq!(backend.list("").unwrap(), []);
}

#[test]
fn stale_temporary_files_are_removed_and_fresh_ones_are_not() {
    let directory = TempDir::new().unwrap();
    let backend = LocalBackend::open(directory.path()).unwrap();
    assert_eq!(backend.remove_stale_temporaries(&SystemClock).unwrap(), 0);
    backend.create("object", Bytes::new()).unwrap();
    let stale = Duration::from_secs(TEMPORARY_AGE_SECONDS_MAX as u64 + 60);
    let fresh = Duration::from_secs(TEMPORARY_AGE_SECONDS_MAX as u64 - 60);
    for (name, age) in [("stale", stale), ("fresh", fresh)] {
        let file = File::create(directory.path().join("tmp").join(name)).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }
    assert_eq!(backend.remove_stale_temporaries(&SystemClock).unwrap(), 1);
    assert!(directory.path().join("tmp/fresh").exists());
    assert!(directory.path().join("object").exists());
}

#[test]
fn listing_bears_objects_that_come_and_go() {
    let directory = TempDir::new().unwrap();
    let backend = LocalBackend::open(directory.path()).unwrap();
    backend.create("packs/stays", Bytes::new()).unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                fs::write(directory.path().join("packs/goes"), "x").unwrap();
                fs::remove_file(directory.path().join("packs/goes")).unwrap();
            }
        });
        for _ in 0..2_000 {
            let listed = backend.list("");
            assert!(listed.is_ok_and(|listed| listed.iter().any(|object| object.key == "packs/stays")));
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

/// Goal: a writer that is killed at any moment leaves only whole objects behind. Method: a child process writes objects
/// whose content follows from their name, and is killed after ever longer times.
#[test]
fn a_killed_writer_leaves_only_whole_objects() {
    let directory = TempDir::new().unwrap();
    let mut seen = 0;
    for round in 0..8 {
        let root = directory.path().join(round.to_string());
        let backend = LocalBackend::create_root(&root).unwrap();
        let mut writer = child("backend_local::child_writes_until_it_is_killed", "");
        writer.env(CHILD_ROOT_VARIABLE, &root).stdout(Stdio::null());
        let mut writer = writer.spawn().unwrap();
        thread::sleep(Duration::from_millis(50 + 23 * round));
        writer.kill().unwrap();
        writer.wait().unwrap();
        for object in backend.list("").unwrap() {
            let number: usize = object.key.rsplit('/').next().unwrap().parse().unwrap();
            assert!(backend.read(&object.key).unwrap() == vec![number as u8; CHILD_OBJECT_BYTES], "{}", object.key);
            seen += 1;
        }
    }
    assert!(seen > 0, "no writer came to write anything");
}

#[test]
#[ignore = "run by a_killed_writer_leaves_only_whole_objects in a process of its own"]
fn child_writes_until_it_is_killed() {
    let backend = LocalBackend::open(env::var_os(CHILD_ROOT_VARIABLE).unwrap()).unwrap();
    for number in 0usize.. {
        let bytes = vec![number as u8; CHILD_OBJECT_BYTES];
        backend.create(&format!("packs/{:x}/{number}", number % 16), bytes.into()).unwrap();
    }
}

/// Goal: where the disk takes no more, the fault is `Full` and nothing of the object remains. Method: a child process
/// with a limit on the size of its files, which needs no privileges; the kernel answers EFBIG.
#[test]
fn an_object_that_does_not_fit_leaves_nothing_behind() {
    let directory = TempDir::new().unwrap();
    let mut writer = child("backend_local::child_meets_the_limit", "trap '' XFSZ; ulimit -f 64;");
    let output = writer.env(CHILD_ROOT_VARIABLE, directory.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let backend = LocalBackend::open(directory.path()).unwrap();
    assert_eq!(backend.list("").unwrap().len(), 1);
    assert_eq!(temporaries(directory.path()), 0);
}

#[test]
#[ignore = "run by an_object_that_does_not_fit_leaves_nothing_behind in a process of its own"]
fn child_meets_the_limit() {
    let backend = LocalBackend::open(env::var_os(CHILD_ROOT_VARIABLE).unwrap()).unwrap();
    assert_eq!(fault(backend.create("packs/large", vec![0; 1024 * 1024].into())), Some(Fault::Full));
    backend.create("packs/small", vec![0; 1024].into()).unwrap();
}

/// A small file system in memory, unmounted when it is dropped.
struct Mount(TempDir);

impl Mount {
    /// Mounts one, or returns `None` where this process may not mount.
    fn new() -> Option<Self> {
        let directory = TempDir::new().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(directory.path());
        let is_mounted = mount.output().is_ok_and(|output| output.status.success());
        is_mounted.then_some(Self(directory))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// The limit on file sizes above stands in for this where mounting is not allowed.
#[test]
fn a_full_disk_is_full_and_usable_again_once_there_is_space() {
    let Some(mount) = Mount::new() else { return };
    let backend = LocalBackend::open(mount.0.path()).unwrap();
    backend.create("packs/first", vec![1; 600_000].into()).unwrap();
    assert_eq!(fault(backend.create("packs/second", vec![2; 600_000].into())), Some(Fault::Full));
    assert_eq!(temporaries(mount.0.path()), 0);
    assert_eq!(backend.list("").unwrap().len(), 1);
    backend.remove("packs/first").unwrap();
    backend.create("packs/second", vec![2; 600_000].into()).unwrap();
}

/// Permissions do not bind root, and only root can mount: each tests what the other cannot.
#[test]
fn a_directory_that_cannot_be_written_is_still_read() {
    let mount = Mount::new();
    let directory = TempDir::new().unwrap();
    let root = mount.as_ref().map_or(directory.path(), |mount| mount.0.path());
    let backend = LocalBackend::open(root).unwrap();
    backend.create("packs/object", Bytes::from_static(b"content")).unwrap();
    let expected = if mount.is_some() {
        assert!(Command::new("mount").args(["-o", "remount,ro"]).arg(root).status().unwrap().success());
        Fault::ReadOnly
    } else {
        assert!(!is_root(), "root that may not mount can be refused nothing");
        for path in ["packs", "tmp", "."] {
            fs::set_permissions(root.join(path), fs::Permissions::from_mode(0o500)).unwrap();
        }
        Fault::Denied
    };
    let reopened = LocalBackend::open(root).unwrap();
    assert_eq!(fault(reopened.create("packs/other", Bytes::new())), Some(expected));
    assert_eq!(fault(reopened.create("new/other", Bytes::new())), Some(expected));
    assert_eq!(fault(reopened.remove("packs/object")), Some(expected));
    assert_eq!(reopened.read("packs/object").unwrap(), "content");
    assert_eq!(reopened.list("").unwrap().len(), 1);
}
