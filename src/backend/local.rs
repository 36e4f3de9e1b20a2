//! Objects as files below a directory.
//!
//! What must stay true:
//! - An object appears under its name only by a rename that refuses to replace, after its bytes were synced; the
//!   directory is synced before `create` returns. What a crash leaves behind lies in `tmp/` and is in no listing.
//! - On a network file system, an answer can be lost. A create that finds its own bytes there has gone through before.
//! - Nothing outside the root is ever named: keys have no dots, and symbolic links are refused, not followed.
//!   (The root itself may be reached through one: that is the user's choice.)
//! - The root is never created but by [`LocalBackend::create_root`], so that a disk that is not mounted is noticed.
//!
//! - Every change goes through [`Disk`], so that `tests/power_loss.rs` can tell what a loss of power may leave of it.
//!
//! Directories are created with mode 0700 and files with 0600. Empty directories stay: removing one while another
//! process puts an object into it could lose the durability of that object.

pub mod disk;

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::backend::local::disk::{Disk, RealDisk};
use crate::backend::{Backend, Listed, OBJECT_BYTES_MAX, is_key, is_key_prefix};
use crate::clock::Clock;
use crate::error::{Error, Fault, Result};
use crate::file_system;
use crate::sync::lock;

/// Directory below the root where objects are written before they get their names. No key may begin with it.
const TEMPORARY_DIRECTORY: &str = "tmp";

/// What a new file system has in it.
const LOST_AND_FOUND: &str = "lost+found";

/// Age from which a temporary file is taken for the remains of a crash: no single write takes this long.
pub const TEMPORARY_AGE_SECONDS_MAX: i64 = 24 * 60 * 60;

/// How often a create is tried when a directory that was there a moment ago is not there any more.
const CREATE_ATTEMPTS_MAX: usize = 2;

/// What is said of a directory on NFS that is mounted as usual.
const NFS_CACHE: &str = "it is on NFS, and this machine may list a directory as it was up to a minute ago; mount it with \
                         the option noac, or use the repository from one machine only";

/// Requests in flight that keep a disk busy while others wait for their sync.
const CONCURRENCY: usize = 4;

/// A backend over a directory of this machine, or of one that it mounts.
#[derive(Debug)]
pub struct LocalBackend {
    root: PathBuf,
    disk: Arc<dyn Disk>,
    /// Directories, by the keys' leading parts, that are known to exist and to have been synced into their parents.
    directories: Mutex<HashSet<String>>,
    /// Whether requests to the file system may be sent twice underway, and their answers get lost.
    is_remote: bool,
    /// Why a listing may be stale, if it may.
    stale_listing: Option<String>,
    /// Set once the file system has refused a rename that does not replace.
    lacks_rename: AtomicBool,
    /// Random part of temporary names, so that processes with equal ids on different machines do not meet.
    writer: u64,
    temporaries: AtomicU64,
}

impl LocalBackend {
    /// Opens an existing directory. Writes nothing, so that a read-only file system will do.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        Self::open_on(Arc::new(RealDisk), root.into())
    }

    /// Creates the directory, with parents, and opens it. An existing one is opened as it is.
    pub fn create_root(root: impl Into<PathBuf>) -> Result<Self> {
        Self::create_root_on(Arc::new(RealDisk), root.into())
    }

    /// [`LocalBackend::open`], with changes going through this disk.
    pub fn open_on(disk: Arc<dyn Disk>, root: PathBuf) -> Result<Self> {
        let metadata = fs::metadata(&root).map_err(|error| failed("open", &root, error))?;
        if !metadata.is_dir() {
            return Err(failed("open", &root, ErrorKind::NotADirectory.into()));
        }
        let writer = getrandom::u64().map_err(|error| Error::Internal(format!("No random numbers: {error}")))?;
        let remote = file_system::remote(&root).map_err(|error| failed("open", &root, error))?;
        let is_cached =
            remote.is_some_and(|remote| remote.name == file_system::NFS) && file_system::nfs_is_cached(&root);
        Ok(Self {
            root,
            disk,
            is_remote: remote.is_some(),
            stale_listing: is_cached.then(|| NFS_CACHE.to_owned()),
            directories: Mutex::default(),
            lacks_rename: AtomicBool::new(false),
            writer,
            temporaries: AtomicU64::new(0),
        })
    }

    /// [`LocalBackend::create_root`], with changes going through this disk.
    pub fn create_root_on(disk: Arc<dyn Disk>, root: PathBuf) -> Result<Self> {
        let mut missing: Vec<&Path> = root.ancestors().take_while(|path| is_missing(path)).collect();
        if missing.is_empty() {
            // Who made it may not have come to that yet. Where this is not allowed, the directory is the user's affair.
            let _ = sync_directory_of(disk.as_ref(), &root);
        }
        while let Some(directory) = missing.pop() {
            create_directory(disk.as_ref(), directory)?;
        }
        Self::open_on(disk, root)
    }

    fn known_directories(&self) -> MutexGuard<'_, HashSet<String>> {
        lock(&self.directories)
    }

    fn object_path(&self, action: &'static str, key: &str) -> Result<PathBuf> {
        if !is_key(key) || key.split('/').next() == Some(TEMPORARY_DIRECTORY) {
            return Err(Error::backend(Fault::Other, action, key, "it is not a valid key"));
        }
        Ok(self.root.join(key))
    }

    /// Makes sure that the directory with this relative name exists and survives a crash.
    ///
    /// One that is found there is synced too: who made it may not have come to that yet.
    fn prepare_directory(&self, name: &str) -> Result<()> {
        if name.is_empty() || self.known_directories().contains(name) {
            return Ok(());
        }
        self.prepare_directory(parent_of(name))?;
        create_directory(self.disk.as_ref(), &self.root.join(name))?;
        self.known_directories().insert(name.to_owned());
        Ok(())
    }

    fn create_once(&self, key: &str, path: &Path, bytes: &[u8]) -> Result<()> {
        self.prepare_directory(TEMPORARY_DIRECTORY)?;
        self.prepare_directory(parent_of(key))?;
        let temporary = self.write_temporary(bytes).map_err(|error| failed("create", path, error))?;
        if let Err(error) = self.publish(temporary, path).map_err(|error| failed("create", path, error)) {
            self.recognise(path, bytes, error)?;
            return sync_directory_of(self.disk.as_ref(), path).map_err(|error| failed("create", path, error));
        }
        // The name is durable before the caller goes on: what refers to this object is written after it.
        sync_directory_of(self.disk.as_ref(), path).map_err(|error| {
            // The promise is that a failed create leaves nothing visible; if even this fails, no more can be done.
            let _ = self.disk.remove_file(path);
            failed("create", path, error)
        })
    }

    /// Returns if a create that failed went through all the same. A client of a network file system repeats a request whose
    /// answer was lost, and the second one finds the name taken: by the object that the first one put there.
    fn recognise(&self, path: &Path, bytes: &[u8], error: Error) -> Result<()> {
        if !self.is_remote || error.fault() != Some(Fault::AlreadyExists) {
            return Err(error);
        }
        match self.read_object(path, bytes.len() as u64) {
            Ok(found) if found == bytes => Ok(()),
            // Nothing is known then, least of all that the name is another's.
            Err(unknown) if unknown.fault() == Some(Fault::Unavailable) => Err(unknown),
            _ => Err(error),
        }
    }

    fn write_temporary(&self, bytes: &[u8]) -> io::Result<Temporary> {
        let number = self.temporaries.fetch_add(1, Ordering::Relaxed);
        let name = format!("{:016x}-{}-{number}", self.writer, process::id());
        let path = self.root.join(TEMPORARY_DIRECTORY).join(name);
        let mut file = self.disk.create_file(&path).map_err(|error| match error.kind() {
            // That would say of the object, whose name this is not, that it is there.
            ErrorKind::AlreadyExists => io::Error::other("its temporary file is there already"),
            _ => error,
        })?;
        let temporary = Temporary { path, disk: Arc::clone(&self.disk), is_there: true };
        self.disk.write(&temporary.path, &mut file, bytes)?;
        // Before the rename: a name that survives a crash must not lead to content that did not.
        self.disk.sync_file(&temporary.path, &file)?;
        Ok(temporary)
    }

    /// Gives a temporary file its final name, unless that is taken.
    fn publish(&self, temporary: Temporary, path: &Path) -> io::Result<()> {
        if !self.lacks_rename.load(Ordering::Relaxed) {
            // Atomic, and refused where the name is taken: this is the create-only write that the protocol rests on.
            match self.disk.rename(&temporary.path, path) {
                // NFS and some FUSE file systems do not know the flag.
                Err(error) if is_unsupported(&error) => self.lacks_rename.store(true, Ordering::Relaxed),
                renamed => {
                    renamed?;
                    temporary.forget();
                    return Ok(());
                }
            }
        }
        self.disk.link(&temporary.path, path)
    }

    /// Opens an object's file, and returns it with its length.
    fn open_object(&self, path: &Path) -> Result<(File, u64)> {
        // Without O_NONBLOCK, opening a named pipe that someone put there would wait for ever.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)
            .map_err(|error| failed("read", path, error))?;
        let metadata = file.metadata().map_err(|error| failed("read", path, error))?;
        if !metadata.is_file() {
            return Err(Error::backend(Fault::NotFound, "read", display(path), "it is not a file"));
        }
        Ok((file, metadata.len()))
    }

    fn read_object(&self, path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
        let (mut file, len) = self.open_object(path)?;
        if len > bytes_max {
            let reason = format!("it has {len} bytes, more than {bytes_max}");
            return Err(Error::backend(Fault::BadAnswer, "read", display(path), reason));
        }
        let mut bytes = vec![0; len as usize];
        file.read_exact(&mut bytes).map_err(|error| failed("read", path, error))?;
        Ok(bytes)
    }

    /// Adds what one directory holds: objects to `listed`, directories to `pending`.
    fn list_directory(&self, name: &str, listed: &mut Vec<Listed>, pending: &mut Vec<String>) -> Result<()> {
        let directory = self.root.join(name);
        let entries = match fs::read_dir(&directory) {
            Err(error) if is_absent(&error) => return Ok(()),
            other => other.map_err(|error| failed("list", &directory, error))?,
        };
        for entry in entries {
            let entry = entry.map_err(|error| failed("list", &directory, error))?;
            let Some(key) = key_of(name, &entry) else { continue };
            let metadata = match entry.metadata() {
                Err(error) if is_absent(&error) => continue,
                other => other.map_err(|error| failed("list", &entry.path(), error))?,
            };
            if metadata.is_symlink() {
                return Err(refused_link("list", &entry.path()));
            } else if metadata.is_dir() {
                pending.push(key);
            } else if metadata.is_file() {
                listed.push(Listed { key, size: metadata.len(), modified: modified(&metadata).unwrap_or_default() });
            }
        }
        Ok(())
    }

    /// Returns what of one directory is in no listing. Directories that may have something of others in them go to `pending`.
    fn strangers_in(&self, name: &str, pending: &mut Vec<String>) -> Result<Vec<String>> {
        let directory = self.root.join(name);
        let mut strangers = Vec::new();
        for entry in fs::read_dir(&directory).map_err(|error| failed("list", &directory, error))? {
            let entry = entry.map_err(|error| failed("list", &directory, error))?;
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            match (key_of(name, &entry), entry.file_name().to_str()) {
                (_, Some(temporary)) if name == TEMPORARY_DIRECTORY && is_temporary(temporary) && !is_directory => (),
                (Some(key), _) if name != TEMPORARY_DIRECTORY => pending.extend(is_directory.then_some(key)),
                (None, Some(LOST_AND_FOUND)) if name.is_empty() => (),
                (None, Some(TEMPORARY_DIRECTORY)) if name.is_empty() && is_directory => {
                    pending.push(TEMPORARY_DIRECTORY.to_owned());
                }
                _ => strangers.push(Path::new(name).join(entry.file_name()).display().to_string()),
            }
        }
        Ok(strangers)
    }

    /// Fails if a leading part of a prefix is a symbolic link, which opening the directory would follow.
    fn refuse_links(&self, prefix: &str) -> Result<()> {
        for (end, _) in prefix.match_indices('/') {
            let path = self.root.join(&prefix[..end]);
            if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink()) {
                return Err(refused_link("list", &path));
            }
        }
        Ok(())
    }
}

impl Backend for LocalBackend {
    fn location(&self) -> String {
        display(&self.root)
    }

    fn create(&self, key: &str, bytes: Bytes) -> Result<()> {
        let path = self.object_path("create", key)?;
        let mut attempt = 1;
        loop {
            match self.create_once(key, &path, &bytes) {
                Err(error) if error.fault() == Some(Fault::NotFound) && attempt < CREATE_ATTEMPTS_MAX => {
                    self.known_directories().clear();
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    fn read_up_to(&self, key: &str, bytes_max: u64) -> Result<Bytes> {
        self.read_object(&self.object_path("read", key)?, bytes_max).map(Bytes::from)
    }

    fn read_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let path = self.object_path("read", key)?;
        let (file, len) = self.open_object(&path)?;
        let wanted =
            range.end.checked_sub(range.start).filter(|&wanted| range.end <= len && wanted <= OBJECT_BYTES_MAX);
        let Some(wanted) = wanted else {
            let reason = format!("it has {len} bytes, {}..{} were asked for", range.start, range.end);
            return Err(Error::backend(Fault::BadAnswer, "read", display(&path), reason));
        };
        let mut bytes = vec![0; wanted as usize];
        file.read_exact_at(&mut bytes, range.start).map_err(|error| failed("read", &path, error))?;
        Ok(bytes.into())
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        if !is_key_prefix(prefix) {
            return Err(Error::backend(Fault::Other, "list", prefix, "it is not a valid prefix"));
        }
        self.refuse_links(prefix)?;
        let mut listed = Vec::new();
        let mut pending = vec![prefix.trim_end_matches('/').to_owned()];
        while let Some(directory) = pending.pop() {
            self.list_directory(&directory, &mut listed, &mut pending)?;
        }
        listed.sort_unstable_by(|left, right| left.key.cmp(&right.key));
        Ok(listed)
    }

    fn remove(&self, key: &str) -> Result<()> {
        let path = self.object_path("remove", key)?;
        // Synced, because a prune relies on what it removed first being gone first after a crash.
        if remove_if_there(self.disk.as_ref(), &path)? {
            sync_directory_of(self.disk.as_ref(), &path).map_err(|error| failed("remove", &path, error))?;
        }
        Ok(())
    }

    fn stranger(&self) -> Result<Option<String>> {
        let mut pending = vec![String::new()];
        while let Some(directory) = pending.pop() {
            let first = self.strangers_in(&directory, &mut pending)?.into_iter().min();
            if first.is_some() {
                return Ok(first);
            }
        }
        Ok(None)
    }

    fn server_time(&self) -> Result<Option<Timestamp>> {
        Ok(None)
    }

    fn concurrency(&self) -> usize {
        CONCURRENCY
    }

    fn stale_listing(&self) -> Option<&str> {
        self.stale_listing.as_deref()
    }

    /// Removes what crashed writers left behind: temporary files older than [`TEMPORARY_AGE_SECONDS_MAX`]. Returns how many.
    ///
    /// Ages are taken from the file system's time stamps and `clock`; a clock that is wrong by a day can make a write
    /// in progress fail, but never harms an object.
    fn remove_stale_temporaries(&self, clock: &dyn Clock) -> Result<usize> {
        let directory = self.root.join(TEMPORARY_DIRECTORY);
        let entries = match fs::read_dir(&directory) {
            Err(error) if is_absent(&error) => return Ok(0),
            other => other.map_err(|error| failed("list", &directory, error))?,
        };
        let mut removed = 0;
        for entry in entries {
            let entry = entry.map_err(|error| failed("list", &directory, error))?;
            if is_stale(&entry, clock.now()) && remove_if_there(self.disk.as_ref(), &entry.path())? {
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// A temporary file, which is removed however its create ends.
struct Temporary {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    is_there: bool,
}

impl Temporary {
    /// Tells that the file has another name now.
    fn forget(mut self) {
        self.is_there = false;
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.is_there {
            // What cannot be removed is found by `remove_stale_temporaries` one day.
            let _ = self.disk.remove_file(&self.path);
        }
    }
}

/// Returns a relative name without its last part; empty for one of a single part.
fn parent_of(name: &str) -> &str {
    name.rfind('/').map_or("", |slash| &name[..slash])
}

/// Returns whether a file in [`TEMPORARY_DIRECTORY`] has a name as this backend gives it.
fn is_temporary(name: &str) -> bool {
    let is_number = |text: &str, radix| u64::from_str_radix(text, radix).is_ok();
    let parts: Vec<&str> = name.split('-').collect();
    matches!(parts[..], [writer, process, number] if is_number(writer, 16) && is_number(process, 10) && is_number(number, 10))
}

/// Returns the key of a directory's entry, or `None` if it cannot be an object or lead to one.
fn key_of(directory: &str, entry: &fs::DirEntry) -> Option<String> {
    let name = entry.file_name();
    let name = name.to_str().filter(|name| is_key(name))?;
    match directory {
        "" => (name != TEMPORARY_DIRECTORY).then(|| name.to_owned()),
        _ => Some(format!("{directory}/{name}")),
    }
}

/// Creates one directory, or accepts the one that is there, and syncs the directory that it is in.
fn create_directory(disk: &dyn Disk, path: &Path) -> Result<()> {
    match disk.make_directory(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let metadata = fs::symlink_metadata(path).map_err(|error| failed("create", path, error))?;
            if metadata.is_symlink() {
                return Err(refused_link("create", path));
            } else if !metadata.is_dir() {
                return Err(failed("create", path, ErrorKind::NotADirectory.into()));
            }
        }
        other => other.map_err(|error| failed("create", path, error))?,
    }
    sync_directory_of(disk, path).map_err(|error| failed("create", path, error))
}

/// Makes the entries of the directory that holds `path` survive a crash.
fn sync_directory_of(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match disk.sync_directory(directory) {
        // Some network file systems have no sync of directories; there it is not needed.
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => Ok(()),
        other => other,
    }
}

/// Removes a file. Returns whether there was one.
fn remove_if_there(disk: &dyn Disk, path: &Path) -> Result<bool> {
    match disk.remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(failed("remove", path, error)),
    }
}

/// Returns whether a file system does not know a call, or a flag of it.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP))
}

fn is_missing(path: &Path) -> bool {
    !path.as_os_str().is_empty() && fs::metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// Returns whether an error says that there is nothing of that name (also where a part of the path is a file).
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn is_stale(entry: &fs::DirEntry, now: Timestamp) -> bool {
    let metadata = entry.metadata().ok().filter(|metadata| metadata.is_file());
    metadata
        .as_ref()
        .and_then(modified)
        .is_some_and(|modified| now.duration_since(modified) > SignedDuration::from_secs(TEMPORARY_AGE_SECONDS_MAX))
}

/// Returns when a file was written, unless the file system does not know or names a time out of reach.
fn modified(metadata: &fs::Metadata) -> Option<Timestamp> {
    Timestamp::try_from(metadata.modified().ok()?).ok()
}

fn refused_link(action: &'static str, path: &Path) -> Error {
    Error::backend(Fault::Other, action, display(path), "it is a symbolic link, and those are not followed")
}

fn failed(action: &'static str, path: &Path, error: io::Error) -> Error {
    Error::backend(fault_of(action, &error), action, display(path), error)
}

fn fault_of(action: &str, error: &io::Error) -> Fault {
    match error.kind() {
        ErrorKind::NotFound => Fault::NotFound,
        // A part of the path is a file: then no object of that name can be there.
        ErrorKind::NotADirectory if action == "read" => Fault::NotFound,
        ErrorKind::AlreadyExists => Fault::AlreadyExists,
        ErrorKind::PermissionDenied => Fault::Denied,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => Fault::Full,
        ErrorKind::ReadOnlyFilesystem => Fault::ReadOnly,
        ErrorKind::UnexpectedEof => Fault::BadAnswer,
        ErrorKind::TimedOut | ErrorKind::StaleNetworkFileHandle | ErrorKind::HostUnreachable => Fault::Unavailable,
        _ => Fault::Other,
    }
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn create_works_where_a_rename_cannot_refuse_to_replace() {
        let directory = tempfile::tempdir().unwrap();
        let backend = LocalBackend::open(directory.path()).unwrap();
        backend.lacks_rename.store(true, Ordering::Relaxed);
        backend.create("packs/object", Bytes::from_static(b"first")).unwrap();
        let second = backend.create("packs/object", Bytes::from_static(b"second"));
        assert_eq!(second.unwrap_err().fault(), Some(Fault::AlreadyExists));
        assert_eq!(backend.read("packs/object").unwrap(), "first");
        assert_eq!(fs::read_dir(directory.path().join(TEMPORARY_DIRECTORY)).unwrap().count(), 0);
    }

    #[test]
    fn on_a_network_file_system_a_write_whose_answer_was_lost_is_recognised_as_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let mut backend = LocalBackend::open(directory.path()).unwrap();
        assert!(!backend.is_remote);
        let create = |backend: &LocalBackend, bytes: &'static [u8]| {
            backend.create("packs/object", Bytes::from_static(bytes)).map_err(|error| error.fault())
        };
        create(&backend, b"first").unwrap();
        // A local file system answers each request once: whoever was first, it was not this one.
        assert_eq!(create(&backend, b"first"), Err(Some(Fault::AlreadyExists)));
        backend.is_remote = true;
        for lacks_rename in [false, true] {
            backend.lacks_rename.store(lacks_rename, Ordering::Relaxed);
            create(&backend, b"first").unwrap();
            for other in [&b"other"[..], b"firs", b"first!", b""] {
                assert_eq!(create(&backend, other), Err(Some(Fault::AlreadyExists)));
            }
        }
        assert_eq!(backend.read("packs/object").unwrap(), "first");
        assert_eq!(fs::read_dir(directory.path().join(TEMPORARY_DIRECTORY)).unwrap().count(), 0);
    }

    #[test]
    fn directories_are_prepared_once() {
        let directory = tempfile::tempdir().unwrap();
        let backend = LocalBackend::open(directory.path()).unwrap();
        backend.create("packs/ab/1", Bytes::new()).unwrap();
        let known = backend.known_directories().clone();
        assert_eq!(known, ["tmp", "packs", "packs/ab"].map(str::to_owned).into());
        // Were it prepared again, it would be there again.
        fs::remove_dir_all(directory.path().join("packs")).unwrap();
        backend.prepare_directory("packs/ab").unwrap();
        assert!(!directory.path().join("packs").exists());
    }
}
