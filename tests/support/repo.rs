//! Repositories for tests: cheap to open, with files to back up, trees to compare, and backends that watch and fail.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use jiff::Timestamp;
use mlvault::backend::local::LocalBackend;
use mlvault::backend::memory::MemoryBackend;
use mlvault::backend::{Backend, Listed};
use mlvault::backup::{self, BackupOptions, BackupSummary};
use mlvault::cancel::Cancel;
use mlvault::check::{self, CheckReport, ReadData};
use mlvault::clock::SystemClock;
use mlvault::crypto::keys::{Secret, new_secret};
use mlvault::crypto::passphrase::{Credential, KeyFile};
use mlvault::error::{Error, Fault, Result};
use mlvault::format::config::{ChunkProfiles, ChunkSizes, RepositoryConfig};
use mlvault::format::evidence::{
    CheckEvidence, DrillEvidence, DrillResult, DrilledFiles, DrilledSnapshot, Lines, ReadEvidence, ReadScope, Says,
};
use mlvault::format::plan::{PlanObject, ShardRecord};
use mlvault::format::snapshot::Statistics;
use mlvault::hears::Hears;
use mlvault::id::{ChunkId, ParseIdError, SessionId};
use mlvault::monitor::{Counter, Monitor};
use mlvault::repository::index_sync::IndexHome;
use mlvault::repository::memory_plan::MEMORY_LIMIT_MIN;
use mlvault::repository::{CreateOptions, OpenOptions, Repository};
use mlvault::restore::{self, RestoreOptions};
use tempfile::TempDir;

/// Chunks so small that a few files make many of them, and a text of some MiB an indirect list.
const PROFILES: ChunkProfiles = ChunkProfiles {
    text: ChunkSizes { min: 512, average: 2048, max: 8192 },
    binary: ChunkSizes { min: 4096, average: 16384, max: 65536 },
};

/// Returns what a check says that found nothing.
pub fn clean_check() -> Says {
    let read = ReadEvidence { what: ReadScope::All, packs: 2, packs_total: 2, bytes: 3, content_opened: true };
    Says::Check(CheckEvidence { seconds: 1, clean: true, problem_count: 0, problems: Vec::new(), read })
}

/// Returns what a drill of a deployment says that found everything as it should be.
pub fn passed_drill(deployment: &str) -> DrillEvidence {
    let started = Timestamp::UNIX_EPOCH;
    DrillEvidence {
        deployment: deployment.to_owned(),
        snapshot: DrilledSnapshot { id: SessionId::from_bytes([2; 16]), started, complete: true },
        result: DrillResult::Passed,
        places: Vec::new(),
        times: Vec::new(),
        tables: Vec::new(),
        files: DrilledFiles::default(),
        server: None,
        failures: Lines::default(),
        exceptions: Lines::default(),
        tools: Vec::new(),
        retention: None,
    }
}

/// Returns what a shard says that has stored nothing.
pub fn empty_shard() -> PlanObject {
    let (started, finished) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
    let record = ShardRecord {
        session: SessionId::from_bytes([2; 16]),
        started,
        finished,
        host: "pod".to_owned(),
        components: Vec::new(),
        notes: ChunkId::from_bytes([3; 32]),
        problem_count: 0,
        statistics: Statistics::default(),
    };
    PlanObject::Shard(1, Box::new(record))
}

/// A repository in some backend, and the key to it. The key is a key file, which costs nothing to try.
pub struct Vault {
    pub backend: Arc<dyn Backend>,
    pub credential: Credential,
    pub cache: Option<PathBuf>,
}

impl Vault {
    /// Makes a repository in a backend.
    pub fn create(backend: Arc<dyn Backend>) -> Self {
        let credential = Credential::KeyFile(new_secret());
        create(backend.as_ref(), &credential).unwrap();
        Self { backend, credential, cache: None }
    }

    /// Makes a repository in memory, and returns the memory too, for vandals.
    pub fn in_memory() -> (Self, Arc<MemoryBackend>) {
        let memory = Arc::new(MemoryBackend::default());
        (Self::create(Arc::clone(&memory) as Arc<dyn Backend>), memory)
    }

    /// Returns the same repository seen through another backend.
    pub fn through(&self, backend: Arc<dyn Backend>) -> Self {
        Self { backend, credential: self.credential.clone(), cache: self.cache.clone() }
    }

    /// Opens the repository, as a new process would.
    pub fn open(&self) -> Result<Arc<Repository>> {
        self.open_with(&self.credential)
    }

    /// Opens the repository with another key.
    pub fn open_with(&self, credential: &Credential) -> Result<Arc<Repository>> {
        let options =
            OpenOptions { cache_root: self.cache.clone(), memory_limit: MEMORY_LIMIT_MIN, ..OpenOptions::default() };
        match self.cache {
            Some(_) => Repository::open(Arc::clone(&self.backend), credential, &options),
            // A database would be made and removed each time; the tests of the program do that.
            None => Repository::open_with_index(Arc::clone(&self.backend), credential, &options, IndexHome::Memory),
        }
    }

    /// Backs up a directory as a new process would.
    pub fn backup(&self, directory: &Path) -> Result<SessionId> {
        backup_with(&self.open()?, directory).map(|summary| summary.snapshot.unwrap())
    }

    /// Checks the repository as a new process would.
    pub fn check(&self, read_data: ReadData) -> CheckReport {
        check_with(&self.open().unwrap(), read_data)
    }

    /// Fails unless a check that reads everything finds no damage.
    pub fn assert_clean(&self) {
        let report = self.check(ReadData::All);
        assert!(report.is_clean(), "{:#?} {:#?}", report.counts, report.problems);
    }

    /// Restores a snapshot of a directory and fails unless it is what the directory held then.
    pub fn assert_restores(&self, snapshot: SessionId, directory: &Path, expected: &Tree) {
        let (restored, problems) = self.restore(snapshot, directory).unwrap();
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(restored, *expected);
    }

    /// Restores a snapshot of a directory elsewhere. Returns what came of it, and the paths with problems.
    pub fn restore(&self, snapshot: SessionId, directory: &Path) -> Result<(Tree, Vec<String>)> {
        restore_with(&self.open()?, snapshot, directory)
    }

    /// Opens the repository with an index in memory, which is the fastest where little is to be done.
    pub fn open_in_memory(&self) -> Result<Arc<Repository>> {
        let options = OpenOptions { memory_limit: MEMORY_LIMIT_MIN, ..OpenOptions::default() };
        Repository::open_with_index(Arc::clone(&self.backend), &self.credential, &options, IndexHome::Memory)
    }

    /// Returns the names of all objects.
    pub fn keys(&self) -> Vec<String> {
        self.keys_under("")
    }

    /// Returns the names of the objects under a prefix.
    pub fn keys_under(&self, prefix: &str) -> Vec<String> {
        self.backend.list(prefix).unwrap().into_iter().map(|object| object.key).collect()
    }
}

/// Makes a repository with small chunks and packs.
pub fn create(backend: &dyn Backend, credential: &Credential) -> Result<()> {
    create_on(backend, credential, true)
}

/// Makes one that believes of its backend what it is told.
pub fn create_on(backend: &dyn Backend, credential: &Credential, create_only: bool) -> Result<()> {
    let options = CreateOptions {
        label: "test".to_owned(),
        chunk_profiles: PROFILES,
        pack_bytes: RepositoryConfig::PACK_BYTES_MIN,
        create_only,
    };
    Repository::create(backend, credential, &options, &SystemClock).map(drop)
}

/// Backs up a directory with an open repository.
pub fn backup_with(repository: &Arc<Repository>, directory: &Path) -> Result<BackupSummary> {
    backup::run(repository, &BackupOptions::of_paths([directory]), &Hears::nobody())
}

/// Restores a snapshot of a directory elsewhere. Returns what came of it, and the paths with problems.
pub fn restore_with(
    repository: &Arc<Repository>,
    snapshot: SessionId,
    directory: &Path,
) -> Result<(Tree, Vec<String>)> {
    let target = TempDir::new().unwrap();
    let monitor = Arc::new(Problems::default());
    let snapshot = repository.find_snapshot(&snapshot.to_string())?;
    let options = RestoreOptions::into_directory(target.path());
    let summary = restore::run(repository, &snapshot, &options, &Hears::new(monitor.clone(), Cancel::default()))?;
    let subjects = monitor.subjects();
    assert_eq!(summary.problems, subjects.len() as u64);
    Ok((tree(&target.path().join(directory.strip_prefix("/").unwrap())), subjects))
}

/// Checks an open repository.
pub fn check_with(repository: &Arc<Repository>, read_data: ReadData) -> CheckReport {
    check::run(repository, &check::CheckOptions { read_data }, &Hears::nobody()).unwrap()
}

/// Returns a new key file's key.
pub fn key_file() -> (Secret, Credential) {
    let secret = new_secret();
    (secret.clone(), Credential::KeyFile(secret))
}

/// Returns the id that a key ends in.
pub fn id_of<T: FromStr<Err = ParseIdError>>(key: &str) -> std::result::Result<T, ParseIdError> {
    key.rsplit('/').next().unwrap_or_default().parse()
}

/// Returns a memory with the same objects.
pub fn copy_of(memory: &MemoryBackend) -> Arc<MemoryBackend> {
    copy_into(memory, MemoryBackend::default())
}

/// Copies a repository into another place, at whose time all of it arrives.
pub fn copy_into(memory: &MemoryBackend, copy: MemoryBackend) -> Arc<MemoryBackend> {
    for object in memory.list("").unwrap() {
        copy.overwrite(&object.key, memory.read(&object.key).unwrap());
    }
    Arc::new(copy)
}

/// A repository in a directory, with a key file and a cache beside it, for the program itself.
pub struct LocalVault {
    pub vault: Vault,
    directory: TempDir,
}

impl LocalVault {
    /// Makes it.
    pub fn create() -> Self {
        let directory = TempDir::new().unwrap();
        let backend = LocalBackend::create_root(directory.path().join("repository")).unwrap();
        let (secret, credential) = key_file();
        create(&backend, &credential).unwrap();
        fs::write(directory.path().join("key"), KeyFile::new(secret).encode().as_bytes()).unwrap();
        let cache = Some(directory.path().join("cache"));
        Self { vault: Vault { backend: Arc::new(backend), credential, cache }, directory }
    }

    /// Returns where the repository's objects are.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("repository")
    }

    /// Returns the program, set up for this repository.
    pub fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mlvault"));
        command
            .args(arguments)
            .env("MLVAULT_REPO", self.path())
            .env("MLVAULT_KEY_FILE", self.directory.path().join("key"));
        command.env("MLVAULT_CACHE_DIR", self.directory.path().join("cache"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs the program and returns its exit code and all that it said.
    pub fn run(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.program(arguments).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
    }
}

/// A monitor that remembers problems.
#[derive(Default)]
pub struct Problems(Mutex<Vec<(String, String)>>);

impl Problems {
    /// Returns what had problems, sorted.
    pub fn subjects(&self) -> Vec<String> {
        let mut subjects: Vec<_> = self.0.lock().unwrap().iter().map(|(subject, _)| subject.clone()).collect();
        subjects.sort();
        subjects
    }
}

impl Monitor for Problems {
    fn phase(&self, _: &'static str, _: Option<u64>, _: Option<u64>) {}
    fn count(&self, _: Counter, _: u64) {}
    fn note(&self, _: &str) {}
    fn problem(&self, subject: &str, message: &str) {
        // Shown if the test fails.
        println!("{subject}: {message}");
        self.0.lock().unwrap().push((subject.to_owned(), message.to_owned()));
    }
}

/// Keeps what was noted.
#[derive(Default)]
pub struct Notes(pub Mutex<Vec<String>>);

impl Monitor for Notes {
    fn phase(&self, _: &'static str, _: Option<u64>, _: Option<u64>) {}
    fn count(&self, _: Counter, _: u64) {}
    fn note(&self, message: &str) {
        self.0.lock().unwrap().push(message.to_owned());
    }
    fn problem(&self, subject: &str, message: &str) {
        panic!("{subject}: {message}");
    }
}

/// Returns bytes that look random and follow from a seed.
pub fn noise(seed: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Letters of [`prose`].
const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz 0123456789,.;:\n-_()[]{}<>";

/// Returns text that hardly repeats and follows from a seed.
pub fn prose(seed: &str, len: usize) -> Vec<u8> {
    noise(seed, len).iter().map(|byte| LETTERS[usize::from(*byte) % LETTERS.len()]).collect()
}

/// Time after which a file that was written no longer looks as if it might change again unnoticed.
const SETTLED: Duration = Duration::from_millis(40);

/// Fills a directory with files of many kinds: about 3 MiB, of which nothing repeats between seeds. Waits until they
/// have settled, so that the next backup can tell that they are unchanged.
pub fn fill(directory: &Path, seed: &str) {
    let write = |path: &str, bytes: &[u8]| {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    for number in 0..12 {
        let name = format!("{seed} model {number}");
        write(&format!("models/{number}/weights.bin"), &noise(&name, 150_000 + number * 7919));
        write(&format!("models/{number}/MLmodel"), &prose(&name, 700 + number));
    }
    write("dump.sql", &prose(&format!("{seed} dump"), 400_000));
    write("empty", b"");
    write("a name\nwith a line break and ünïcödé", seed.as_bytes());
    fs::create_dir(directory.join("empty directory")).unwrap();
    symlink("models/0/weights.bin", directory.join("current")).unwrap();
    symlink("nowhere", directory.join("dangling")).unwrap();
    fs::hard_link(directory.join("dump.sql"), directory.join("second name of the dump")).unwrap();
    fs::set_permissions(directory.join("empty"), fs::Permissions::from_mode(0o751)).unwrap();
    fs::set_permissions(directory.join("models"), fs::Permissions::from_mode(0o750)).unwrap();
    set_times(&directory.join("models/3/MLmodel"), 86_400 * 400);
    set_times(&directory.join("models"), 86_400 * 30);
    std::thread::sleep(SETTLED);
}

/// Sets a path's time to so many seconds before now.
pub fn set_times(path: &Path, seconds_ago: u64) {
    let time = SystemTime::now() - Duration::from_secs(seconds_ago);
    fs::File::open(path).unwrap().set_times(fs::FileTimes::new().set_modified(time)).unwrap();
}

/// A directory's content: all that a restore must bring back, by path.
pub type Tree = BTreeMap<PathBuf, Node>;

/// One path of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Permission bits; those of symlinks say nothing.
    mode: u32,
    /// Time of the last change.
    mtime: (i64, i64),
    /// The other names of the file, if it has any.
    names: Vec<PathBuf>,
    content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Directory,
    File { len: u64, digest: String },
    Symlink(PathBuf),
}

/// Reads a directory's content. What is not there is empty.
pub fn tree(directory: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut names: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(parent) = pending.pop() {
        let Ok(entries) = fs::read_dir(directory.join(&parent)) else { continue };
        for entry in entries {
            let path = parent.join(entry.unwrap().file_name());
            let metadata = fs::symlink_metadata(directory.join(&path)).unwrap();
            if metadata.is_dir() {
                pending.push(path.clone());
            } else if metadata.is_file() && metadata.nlink() > 1 {
                names.entry(metadata.ino()).or_default().push(path.clone());
            }
            tree.insert(path.clone(), node(&directory.join(&path), &metadata));
        }
    }
    for names in names.values_mut() {
        names.sort();
        for name in &*names {
            tree.get_mut(name).unwrap().names.clone_from(names);
        }
    }
    tree
}

fn node(path: &Path, metadata: &fs::Metadata) -> Node {
    let content = if metadata.is_dir() {
        Content::Directory
    } else if metadata.is_symlink() {
        Content::Symlink(fs::read_link(path).unwrap())
    } else {
        let digest = blake3::hash(&fs::read(path).unwrap()).to_string();
        Content::File { len: metadata.len(), digest }
    };
    let mode = if metadata.is_symlink() { 0 } else { metadata.mode() & 0o7777 };
    Node { mode, mtime: (metadata.mtime(), metadata.mtime_nsec()), names: Vec::new(), content }
}

/// Returns a path of a snapshot of `directory`, as problems name it.
pub fn stored_path(directory: &Path, path: &Path) -> String {
    String::from_utf8_lossy(directory.join(path).strip_prefix("/").unwrap().as_os_str().as_bytes()).into_owned()
}

/// What was asked of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// `create`, `read`, `read_range`, `list`, `remove`.
    pub action: &'static str,
    /// The key or prefix.
    pub key: String,
}

type Hook = Box<dyn Fn(&dyn Backend, &str) + Send + Sync>;

/// A backend that remembers calls, stops as if the process were killed, and lets others act just before a create or a read.
pub struct WatchedBackend {
    inner: Arc<dyn Backend>,
    calls: Mutex<Vec<Call>>,
    writes_left: AtomicUsize,
    loses_answer: AtomicBool,
    before_create: Option<Hook>,
    before_read: Option<Hook>,
}

impl WatchedBackend {
    /// Watches a backend.
    pub fn new(inner: Arc<dyn Backend>) -> Self {
        Self {
            inner,
            calls: Mutex::default(),
            writes_left: AtomicUsize::new(usize::MAX),
            loses_answer: AtomicBool::new(false),
            before_create: None,
            before_read: None,
        }
    }

    /// Lets `writes` more writes happen and no other. With `loses_answer` the first of the others happens too, but
    /// whoever asked for it does not learn that.
    pub fn stopping_after(mut self, writes: usize, loses_answer: bool) -> Self {
        self.writes_left = AtomicUsize::new(writes);
        self.loses_answer = AtomicBool::new(loses_answer);
        self
    }

    /// Calls `hook` with the backend and the key before every create.
    pub fn before_create(mut self, hook: impl Fn(&dyn Backend, &str) + Send + Sync + 'static) -> Self {
        self.before_create = Some(Box::new(hook));
        self
    }

    /// Calls `hook` with the backend and the key before every read of an object or a range of it.
    pub fn before_read(mut self, hook: impl Fn(&dyn Backend, &str) + Send + Sync + 'static) -> Self {
        self.before_read = Some(Box::new(hook));
        self
    }

    /// Returns the calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// Returns the keys of one kind of call so far.
    pub fn keys_of(&self, action: &str) -> Vec<String> {
        self.calls().into_iter().filter(|call| call.action == action).map(|call| call.key).collect()
    }

    fn note(&self, action: &'static str, key: &str) {
        self.calls.lock().unwrap().push(Call { action, key: key.to_owned() });
    }

    fn write(&self, action: &'static str, key: &str, write: impl Fn() -> Result<()>) -> Result<()> {
        let left = self.writes_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_ok() {
            return write();
        }
        if self.loses_answer.swap(false, Ordering::SeqCst) {
            write()?;
        }
        Err(Error::backend(Fault::Unavailable, action, key, "the test stopped it"))
    }
}

impl Backend for WatchedBackend {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn create(&self, key: &str, bytes: Bytes) -> Result<()> {
        if let Some(hook) = &self.before_create {
            hook(self.inner.as_ref(), key);
        }
        self.note("create", key);
        self.write("create", key, || self.inner.create(key, bytes.clone()))
    }

    fn read_up_to(&self, key: &str, bytes_max: u64) -> Result<Bytes> {
        self.note("read", key);
        self.before_read.iter().for_each(|hook| hook(self.inner.as_ref(), key));
        self.inner.read_up_to(key, bytes_max)
    }

    fn read_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.note("read_range", key);
        self.before_read.iter().for_each(|hook| hook(self.inner.as_ref(), key));
        self.inner.read_range(key, range)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.note("list", prefix);
        self.inner.list(prefix)
    }

    fn remove(&self, key: &str) -> Result<()> {
        self.note("remove", key);
        self.write("remove", key, || self.inner.remove(key))
    }

    fn server_time(&self) -> Result<Option<Timestamp>> {
        self.inner.server_time()
    }

    fn concurrency(&self) -> usize {
        self.inner.concurrency()
    }
}
