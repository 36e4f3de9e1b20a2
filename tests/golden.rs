//! Repositories of the past: what was written once must stay readable by every later version.
//!
//! Each directory `tests/golden/v<format>` holds a small repository, keys to it, and `manifest`: what its snapshots
//! restore to. How to make one: `tests/golden/README.md`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use mlvault::backend::local::LocalBackend;
use mlvault::hears::Hears;

use mlvault::check::ReadData;
use mlvault::chunks::reader::ChunkReader;
use mlvault::clock::SystemClock;
use mlvault::crypto::keys::new_secret;
use mlvault::crypto::passphrase::{Credential, KeyFile};
use mlvault::format::config::{ChunkProfiles, ChunkSizes, RepositoryConfig};
use mlvault::format::key_slot::Role;
use mlvault::format::object::{self, ObjectKind};
use mlvault::format::session::SessionRecord;
use mlvault::format::snapshot::{self, FILES, SessionOutcome, Signer, SourceRecord};
use mlvault::format::{BlobKind, FORMAT_VERSION};
use mlvault::id::{ChunkId, SessionId};
use mlvault::repository::{CreateOptions, Repository, layout};
use mlvault::restore::{self, RestoreOptions};
use mlvault::trees::reader::TreeReader;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use tempfile::TempDir;
use zeroize::Zeroizing;

use crate::support::repo::{Vault, backup_with, check_with, id_of, noise, prose};
use crate::support::tool;

/// The passphrase of every golden repository; a maintainer's.
const PASSPHRASE: &str = "golden passphrase of the tests";
/// Chunks so small that a file of 2 MiB has an indirect list.
const PROFILES: ChunkProfiles = ChunkProfiles {
    text: ChunkSizes { min: 256, average: 1024, max: 4096 },
    binary: ChunkSizes { min: 1024, average: 4096, max: 16384 },
};
/// Largest golden repository in bytes: they stay in the project's history for ever.
const GOLDEN_BYTES_MAX: u64 = 700 << 10;

fn golden_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Returns the directory of every golden repository.
fn golden_repositories() -> Vec<PathBuf> {
    let entries = fs::read_dir(golden_directory()).unwrap().map(|entry| entry.unwrap().path());
    let mut directories: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    directories.sort();
    directories
}

/// Opens a repository with its key file.
fn vault(directory: &Path) -> Vault {
    let backend = Arc::new(LocalBackend::open(directory.join("repository")).unwrap());
    let key = fs::read_to_string(directory.join("key")).unwrap();
    Vault { backend, credential: Credential::KeyFile(KeyFile::decode(&key).unwrap().secret), cache: None }
}

fn passphrase() -> Credential {
    Credential::Passphrase(Zeroizing::new(PASSPHRASE.as_bytes().to_vec()))
}

/// Returns what the snapshots of a repository restore to, as text.
fn manifest_of(repository: &Arc<Repository>) -> String {
    let list = repository.list_snapshots().unwrap();
    assert!(list.damaged.is_empty(), "{:?}", list.damaged);
    let mut manifest = String::new();
    for snapshot in &list.snapshots {
        let target = TempDir::new().unwrap();
        let options = RestoreOptions::into_directory(target.path());
        let summary = restore::run(repository, snapshot, &options, &Hears::nobody()).unwrap();
        assert_eq!(summary.problems, 0);
        writeln!(manifest, "snapshot {} {}", snapshot.id, snapshot.record.started).unwrap();
        manifest += &describe(target.path());
    }
    manifest
}

/// Describes a directory's content: a line for each path, with type, permissions, time, and content or target.
fn describe(root: &Path) -> String {
    let mut lines = Vec::new();
    let mut first_names = HashMap::new();
    describe_into(root, b"", &mut first_names, &mut lines);
    lines.concat()
}

fn describe_into(root: &Path, parent: &[u8], first_names: &mut HashMap<u64, String>, lines: &mut Vec<String>) {
    let directory = root.join(std::ffi::OsStr::from_bytes(parent));
    let mut names: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    for name in names {
        let path = if parent.is_empty() { name.into_vec() } else { [parent, b"/", name.as_bytes()].concat() };
        let location = root.join(std::ffi::OsStr::from_bytes(&path));
        let found = fs::symlink_metadata(&location).unwrap();
        let shown = path.escape_ascii().to_string();
        let what = if found.is_dir() {
            "directory".to_owned()
        } else if found.is_symlink() {
            format!("symlink to {}", fs::read_link(&location).unwrap().as_os_str().as_bytes().escape_ascii())
        } else if let Some(first) = first_names.get(&found.ino()) {
            format!("the same file as {first}")
        } else {
            if found.nlink() > 1 {
                first_names.insert(found.ino(), shown.clone());
            }
            format!("{} bytes, BLAKE3 {}", found.len(), blake3::hash(&fs::read(&location).unwrap()))
        };
        let mode = if found.is_symlink() { 0 } else { found.mode() & 0o7777 };
        lines.push(format!("  {shown}: {mode:o} {}.{:09} {what}\n", found.mtime(), found.mtime_nsec()));
        if found.is_dir() {
            describe_into(root, &path, first_names, lines);
        }
    }
}

#[test]
fn every_golden_repository_opens_checks_and_restores() {
    for directory in golden_repositories() {
        // A check that opens content countersigns what it found sound.
        let copy = TempDir::new().unwrap();
        copy_directory(&directory, copy.path());
        let vault = vault(copy.path());
        let manifest = fs::read_to_string(directory.join("manifest")).unwrap();
        vault.assert_clean();
        assert_eq!(manifest_of(&vault.open().unwrap()), manifest, "{directory:?}");
        let listed = manifest.lines().filter(|line| line.starts_with("snapshot ")).count();
        assert_eq!(listed, 2);
        let by_passphrase = vault.open_with(&passphrase()).unwrap();
        assert_eq!(by_passphrase.access().certificate.role, Role::Maintainer);
        assert_eq!(by_passphrase.list_keys().unwrap().len(), 3);
    }
}

/// Goal: content is cut, named and looked up as it was, or a new version would store everything again.
#[test]
fn a_backup_into_a_golden_repository_finds_its_content() {
    for directory in golden_repositories() {
        let copy = TempDir::new().unwrap();
        copy_directory(&directory, copy.path());
        let repository = vault(copy.path()).open().unwrap();
        let snapshot = repository.find_snapshot("latest").unwrap();
        let target = TempDir::new().unwrap();
        restore::run(&repository, &snapshot, &RestoreOptions::into_directory(target.path()), &Hears::nobody()).unwrap();
        let packs = repository.index().packs(BlobKind::Data).unwrap();
        let summary = backup_with(&repository, target.path()).unwrap();
        assert_eq!(repository.index().packs(BlobKind::Data).unwrap(), packs);
        assert!(summary.record.statistics.files_new > 0);
        assert!(check_with(&repository, ReadData::All).is_clean());
    }
}

/// The reader shares no code with mlvault: what it reads, `docs/format.md` describes.
#[test]
fn the_reader_of_the_documentation_reads_the_golden_repository() {
    let directory = golden_directory().join(format!("v{FORMAT_VERSION}"));
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reader.py");
    let read = |arguments: &[&str]| {
        let output = Command::new(tool("python"))
            .arg("-B")
            .arg(program)
            .arg(directory.join("repository"))
            .args(arguments)
            .env_remove("MLVAULT_PASSPHRASE")
            .env("MLVAULT_KEY_FILE", directory.join("key"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let repository = vault(&directory).open().unwrap();
    let snapshots = repository.list_snapshots().unwrap().snapshots;
    let listed = String::from_utf8(read(&[])).unwrap();
    assert!(snapshots.iter().all(|snapshot| listed.contains(&snapshot.id.to_string())), "{listed}");
    let reader = ChunkReader::new(Arc::clone(&repository));
    let (last, name) = (snapshots.last().unwrap(), snapshots.last().unwrap().id.to_string());
    let entries: Vec<_> =
        TreeReader::open(&reader, FILES, &last.record.components[0].root).unwrap().map(Result::unwrap).collect();
    let breaks = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count();
    // A name may have a line break in it.
    let lines = entries.iter().map(|entry| 1 + breaks(&entry.path)).sum::<usize>();
    assert_eq!(breaks(&read(&[&name])), lines);
    // One of many chunks, and one of a list of lists.
    for entry in entries.iter().filter(|entry| entry.file().is_some_and(|file| file.indirect || file.chunks.len() > 10))
    {
        let Ok(path) = std::str::from_utf8(&entry.path) else { continue };
        let content = read(&[&name, path]);
        assert_eq!(blake3::hash(&content).as_bytes(), entry.file().unwrap().digest.as_bytes(), "{path}");
    }
}

#[test]
fn this_format_has_its_golden_repository() {
    let directory = golden_directory().join(format!("v{FORMAT_VERSION}"));
    assert!(directory.join("manifest").is_file(), "{directory:?} is missing, see tests/golden/README.md");
}

/// The generator runs in every test run, so that it cannot rot; only on request does its work replace what is there.
#[test]
fn a_golden_repository_can_be_made() {
    let made = TempDir::new().unwrap();
    make(made.path());
    assert!(size_of(made.path()) <= GOLDEN_BYTES_MAX, "{} bytes", size_of(made.path()));
    if std::env::var_os("MLVAULT_MAKE_GOLDEN").is_some() {
        let directory = golden_directory().join(format!("v{FORMAT_VERSION}"));
        let _ = fs::remove_dir_all(&directory);
        copy_directory(made.path(), &directory);
    }
}

/// Makes a repository with two snapshots, keys, and a manifest.
fn make(directory: &Path) {
    let backend = LocalBackend::create_root(directory.join("repository")).unwrap();
    let secret = new_secret();
    fs::write(directory.join("key"), KeyFile::new(secret.clone()).encode().as_bytes()).unwrap();
    let options = CreateOptions {
        label: "golden".to_owned(),
        chunk_profiles: PROFILES,
        pack_bytes: RepositoryConfig::PACK_BYTES_MIN,
        create_only: true,
    };
    Repository::create(&backend, &Credential::KeyFile(secret), &options, &SystemClock).unwrap();
    let vault = vault(directory);
    vault.open().unwrap().add_key("person", Role::Maintainer, &passphrase()).unwrap();
    let source = TempDir::new().unwrap();
    fill_first_day(source.path());
    let first = back_up(directory, source.path()) + &describe(source.path());
    change_on_second_day(source.path());
    let second = back_up(directory, source.path()) + &describe(source.path());
    let repository = vault.open().unwrap();
    assert_kinds_of_everything(&repository);
    remove_traces(&repository, &directory.join("repository"));
    let manifest = manifest_of(&vault.open().unwrap());
    assert_eq!(manifest, first + &second, "what is restored is not what was backed up");
    vault.assert_clean();
    fs::write(directory.join("manifest"), manifest).unwrap();
}

/// Has the program back up the content of a directory. Returns the head of the snapshot's part of the manifest.
fn back_up(directory: &Path, source: &Path) -> String {
    std::thread::sleep(Duration::from_millis(50)); // A file that changed just now counts as changed the next time.
    let mut program = Command::new(env!("CARGO_BIN_EXE_mlvault"));
    program.args(["backup", "--quiet", "."]).current_dir(source).env("MLVAULT_REPO", directory.join("repository"));
    program.env("MLVAULT_KEY_FILE", directory.join("key")).env("MLVAULT_CACHE_DIR", source.with_extension("cache"));
    let output = program.output().unwrap();
    let _ = fs::remove_dir_all(source.with_extension("cache"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let snapshot = vault(directory).open().unwrap().find_snapshot("latest").unwrap();
    format!("snapshot {} {}\n", snapshot.id, snapshot.record.started)
}

fn fill_first_day(root: &Path) {
    let write = |path: &str, bytes: &[u8]| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    write("dump.sql", &prose("dump", 40_000));
    write("model/weights.bin", &noise("weights", 60_000));
    write("model/zeros.bin", &[0; 200_000]);
    write("empty", b"");
    // Few chunks again and again: more than an entry lists itself.
    write("model/repeated.txt", &prose("repeated", 16 << 10).repeat(128));
    // More entries than a tree node holds.
    for run in 0..30 {
        for metric in 0..40 {
            write(&format!("runs/{run:08x}/metrics/a metric with a long name, number {metric}"), b"1 0.5 0\n");
        }
    }
    fs::create_dir(root.join("empty directory")).unwrap();
    symlink("model/weights.bin", root.join("current")).unwrap();
    symlink("../nowhere\n", root.join("dangling")).unwrap();
    fs::hard_link(root.join("dump.sql"), root.join("model/second name")).unwrap();
    write("-rf", b"a name like an option");
    write("line\nbreak and ünïcödé", b"odd");
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"not \xFF UTF-8")), b"odd").unwrap();
    write(&"x".repeat(255), b"the longest name");
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(1 << 20).unwrap();
    sparse.write_all_at(b"an island", 500_000).unwrap();
    set_mode(root, "model", 0o750);
    set_mode(root, "empty", 0o600);
    set_mode(root, "model/weights.bin", 0o444);
    set_time(root, "model/weights.bin", 1_700_000_000, 123_456_789);
    set_time(root, "current", 1_600_000_000, 1);
    set_time(root, "sparse", -1, 5);
    set_time(root, "model", 1_700_000_001, 0);
}

fn change_on_second_day(root: &Path) {
    fs::write(root.join("dump.sql"), [prose("dump", 40_000), prose("second day", 3_000)].concat()).unwrap();
    fs::remove_file(root.join("empty")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    fs::write(root.join("empty/no more"), b"new").unwrap();
    fs::remove_dir_all(root.join("runs/0000000a")).unwrap();
    fs::remove_file(root.join("current")).unwrap();
    symlink("model/zeros.bin", root.join("current")).unwrap();
}

fn set_mode(root: &Path, path: &str, mode: u32) {
    fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
}

fn set_time(root: &Path, path: &str, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, root.join(path), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// A golden repository is worth what is in it.
fn assert_kinds_of_everything(repository: &Arc<Repository>) {
    let reader = ChunkReader::new(Arc::clone(repository));
    let list = repository.list_snapshots().unwrap();
    let [first, second] = &list.snapshots[..] else { panic!("{} snapshots", list.snapshots.len()) };
    assert_eq!(second.record.parent, Some(first.id));
    assert!(second.record.statistics.files_unchanged > 500 && second.record.statistics.files_changed > 0);
    let root: ChunkId = first.record.components[0].root;
    let node = reader.read(BlobKind::Meta, &root, &String::new).unwrap();
    assert!(node[1] > 0, "the tree has one level only");
    let entries: Vec<_> = TreeReader::open(&reader, FILES, &root).unwrap().map(Result::unwrap).collect();
    let has = |is: &dyn Fn(&mlvault::format::tree::FileContent) -> bool| {
        assert!(entries.iter().filter_map(|entry| entry.file()).any(is));
    };
    has(&|file| file.indirect);
    has(&|file| file.sparse);
    has(&|file| file.hard_link.is_some());
    has(&|file| file.chunks.len() > 10);
    has(&|file| file.size == 0);
}

/// Takes the names of this machine and its paths out of sessions and snapshots, and signs them anew.
fn remove_traces(repository: &Repository, root: &Path) {
    let (keys, id, access) = (repository.keys(), repository.id(), repository.access());
    let replace = |key: &str, kind, name: &str, body: &[u8]| {
        fs::remove_file(root.join(key)).unwrap();
        repository.backend().create(key, Bytes::from(object::seal(keys, id, kind, name, body))).unwrap();
    };
    for listed in repository.backend().list(layout::SESSIONS).unwrap() {
        let session: SessionId = id_of(&listed.key).unwrap();
        let name = session.to_string();
        let sealed = repository.backend().read(&listed.key).unwrap();
        let mut record =
            SessionRecord::decode(&object::open(keys, id, ObjectKind::Session, &name, &sealed).unwrap()).unwrap();
        "golden".clone_into(&mut record.host);
        replace(&listed.key, ObjectKind::Session, &name, &record.encode());
    }
    let signer = Signer { certificate: &access.certificate, seed: &access.signing_seed };
    for snapshot in repository.list_snapshots().unwrap().snapshots {
        let mut record = snapshot.record;
        "golden".clone_into(&mut record.host);
        record.source = SourceRecord::Paths { paths: vec!["/golden".to_owned()] };
        let body = snapshot::encode(id, snapshot.id, &SessionOutcome::Snapshot(Box::new(record)), &signer);
        replace(&layout::snapshot(&snapshot.id), ObjectKind::Snapshot, &snapshot.id.to_string(), &body);
    }
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let path = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &path);
        } else {
            fs::copy(entry.path(), path).unwrap();
        }
    }
}

fn size_of(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries.map(|e| if e.path().is_dir() { size_of(&e.path()) } else { e.metadata().unwrap().len() }).sum()
}
