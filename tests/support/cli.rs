//! Runs the built program the way a user does, in a directory of its own with nothing inherited.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use mlvault::backend::local::LocalBackend;
use mlvault::crypto::keys::new_secret;
use mlvault::crypto::passphrase::{Credential, KeyFile};
use mlvault::repository::{OpenOptions, Repository};
use serde_json::Value;
use tempfile::TempDir;

/// Longer than the time within which a change after reading may go unseen: what is older is not read again.
const SETTLE: Duration = Duration::from_millis(50);

/// A directory with a repository (`repo`), its key file (`key`), a source (`src`) and room for more.
pub struct Runner {
    directory: TempDir,
}

/// How a run of the program ended.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Runner {
    /// Makes the directory and a key file, and no repository yet.
    pub fn without_repository() -> Self {
        let directory = TempDir::with_prefix("mlvault-cli-").unwrap();
        let runner = Self { directory };
        for name in ["src", "home", "tmp"] {
            fs::create_dir(runner.path(name)).unwrap();
        }
        fs::write(runner.path("key"), KeyFile::new(new_secret()).encode().as_bytes()).unwrap();
        runner
    }

    /// Makes the directory and a repository in it.
    pub fn with_repository() -> Self {
        let runner = Self::without_repository();
        runner.run(["init"]).expect(0);
        runner
    }

    /// Returns a place in the directory.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file below `src`, with the directories above it.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path("src").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// Prepares a run: only what the program must know is in its environment.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        self.set_up(Command::new(env!("CARGO_BIN_EXE_mlvault")), args)
    }

    /// As [`Runner::command`], but files that their owner may not read cannot be read: also if the tests run as root.
    pub fn command_without_privileges<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        if !rustix::process::geteuid().is_root() {
            return self.command(args);
        }
        self.command_without("-dac_override,-dac_read_search", args)
    }

    /// As [`Runner::command`], for root, but for these capabilities.
    pub fn command_without<S: AsRef<OsStr>>(&self, dropped: &str, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", dropped, env!("CARGO_BIN_EXE_mlvault")]);
        self.set_up(command, args)
    }

    /// Prepares a run of a shell line, in which `$MLVAULT` is the program.
    pub fn shell(&self, line: &str) -> Command {
        let mut command = self.set_up(Command::new("sh"), ["-c", line]);
        command.env("MLVAULT", env!("CARGO_BIN_EXE_mlvault"));
        command
    }

    fn set_up<S: AsRef<OsStr>>(&self, mut command: Command, args: impl IntoIterator<Item = S>) -> Command {
        command.args(args).current_dir(self.path("src")).stdin(Stdio::null()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.path("home")).env("TMPDIR", self.path("tmp"));
        command.env("MLVAULT_REPO", self.path("repo")).env("MLVAULT_CACHE_DIR", self.path("cache"));
        command.env("MLVAULT_KEY_FILE", self.path("key"));
        command
    }

    /// Runs the program in `src`.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Outcome {
        finish(&mut self.command(args))
    }

    /// Backs up `src`, whose files have come to rest before, and returns the snapshot's id.
    pub fn backup(&self) -> String {
        self.settle();
        let json = self.run(["backup", ".", "--json"]).expect(0).json();
        json["snapshot"].as_str().unwrap().to_owned()
    }

    /// Waits until what was written is old enough to be recognised as unchanged.
    pub fn settle(&self) {
        sleep(SETTLE);
    }

    /// Opens the repository with the library.
    pub fn open(&self) -> Arc<Repository> {
        self.open_with("key")
    }

    /// Opens the repository with the library and the key in a file of the directory.
    pub fn open_with(&self, key: impl AsRef<Path>) -> Arc<Repository> {
        let backend = Arc::new(LocalBackend::open(self.path("repo")).unwrap());
        let key = fs::read_to_string(self.path(key)).unwrap();
        let credential = Credential::KeyFile(KeyFile::decode(&key).unwrap().secret);
        let options = OpenOptions::default();
        Repository::open(backend, &credential, &options).unwrap()
    }

    /// Returns every file below a directory, sorted.
    pub fn files(&self, name: &str) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut directories = vec![self.path(name)];
        while let Some(directory) = directories.pop() {
            for found in fs::read_dir(directory).unwrap() {
                let path = found.unwrap().path();
                if path.is_dir() { directories.push(path) } else { files.push(path) }
            }
        }
        files.sort();
        files
    }

    /// Turns one bit in the middle of every data pack.
    pub fn damage_data(&self) {
        for pack in self.files("repo/packs/data") {
            let mut bytes = fs::read(&pack).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::set_permissions(&pack, fs::Permissions::from_mode(0o600)).unwrap();
            fs::write(&pack, bytes).unwrap();
        }
    }
}

/// Runs a prepared command to its end.
pub fn finish(command: &mut Command) -> Outcome {
    let Output { status, stdout, stderr } = command.output().unwrap();
    Outcome { code: status.code(), stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() }
}

/// Prepares to run a command in a namespace in which it may mount, whoever it is: what it mounts goes with it. Only where
/// [`may_mount`].
pub fn with_own_mounts(command: &Command) -> Command {
    let mut unshared = Command::new("unshare");
    unshared.args(["--map-root-user", "--mount"]).arg(command.get_program()).args(command.get_args());
    unshared.env_clear().current_dir(command.get_current_dir().unwrap());
    unshared.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    unshared
}

/// Returns whether this machine lets a process mount something for itself.
pub fn may_mount() -> bool {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]);
    command.output().is_ok_and(|output| output.status.success())
}

impl Outcome {
    /// Fails the test unless the program ended with this code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stderr: {}\nstdout: {}", self.stderr, self.text());
        self
    }

    /// Returns standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Returns standard output as the one JSON document that it must be.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

/// Makes bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    let mut bytes = vec![0; len];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}
