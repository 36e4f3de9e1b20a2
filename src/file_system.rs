//! What the file system of a path is, how much room it has, how what was written to it is made durable, and where scratch files
//! go.
//!
//! What must stay true: whatever the umask, nobody but this user can enter a scratch directory: what lies there of databases,
//! catalogues and artifacts is as secret as they are.

use std::ffi::OsString;
use std::fs::Permissions;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;

/// What NFS is called.
pub const NFS: &str = "NFS";
/// File systems that are on another machine, or may be, by their magic numbers.
const REMOTE: [(i64, Remote); 10] = [
    (0x6969, Remote { name: NFS, has_locks: false }),
    (0x517B, Remote { name: "SMB", has_locks: false }),
    (0xFF53_4D42, Remote { name: "CIFS", has_locks: false }),
    (0xFE53_4D42, Remote { name: "SMB2", has_locks: false }),
    (0x5346_414F, Remote { name: "AFS", has_locks: false }),
    (0x6573_5546, Remote { name: "FUSE", has_locks: true }),
    (0x00C3_6400, Remote { name: "Ceph", has_locks: true }),
    (0x0102_1997, Remote { name: "9P", has_locks: true }),
    (0x0BD0_0BD0, Remote { name: "Lustre", has_locks: true }),
    (0x4750_4653, Remote { name: "GPFS", has_locks: true }),
];
/// The file that says that its directory is a cache, and what it begins with (<https://bford.info/cachedir/>).
pub const CACHE_TAG: (&str, &[u8]) = ("CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55");
/// Where the system lists what is mounted, for this process.
const MOUNTS: &str = "/proc/self/mountinfo";

/// A file system over a network. A request to it may be sent twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remote {
    /// What it is called.
    pub name: &'static str,
    /// Whether locks keep the processes of several machines apart.
    pub has_locks: bool,
}

/// Returns what the file system of a path is, if it is one over a network.
pub fn remote(path: &Path) -> io::Result<Option<Remote>> {
    // The type of the number differs between processors.
    #[allow(clippy::unnecessary_cast)]
    let found = rustix::fs::statfs(path)?.f_type as i64 & 0xFFFF_FFFF;
    Ok(REMOTE.iter().find(|(magic, _)| *magic == found).map(|(_, remote)| *remote))
}

/// What the names of scratch directories begin with.
const SCRATCH_PREFIX: &str = "mlvault-";
/// Permissions of scratch directories.
const SCRATCH_MODE: u32 = 0o700;

/// Makes a directory for private files in the directory for temporary files. It goes with the value.
pub fn scratch_directory() -> io::Result<TempDir> {
    scratch_directory_in(&std::env::temp_dir(), SCRATCH_PREFIX)
}

/// Makes a directory for private files, whose name begins so, in another one.
pub fn scratch_directory_in(parent: &Path, prefix: &str) -> io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).rand_bytes(12).permissions(Permissions::from_mode(SCRATCH_MODE)).tempdir_in(parent)
}

/// How much room a file system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Which file system it is.
    pub device: u64,
    /// Bytes that this user may still write.
    pub free_bytes: u64,
    /// Size of a block: what each file's length is rounded up to.
    pub block_bytes: u64,
}

/// Returns how much room there is at a path, or, if nothing is there yet, at the nearest directory above it.
pub fn room_at(path: &Path) -> io::Result<Room> {
    let path = std::path::absolute(path)?;
    let nearest = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let (stat, found) = (rustix::fs::stat(nearest)?, rustix::fs::statvfs(nearest)?);
    let block_bytes = found.f_frsize.max(1);
    Ok(Room { device: stat.st_dev, free_bytes: found.f_bavail.saturating_mul(block_bytes), block_bytes })
}

/// Makes all that was written below a directory survive a crash: content, names, metadata. One call for each file system
/// costs less than one for each file, and leaves nothing out.
pub fn sync_below(directory: &Path) -> io::Result<()> {
    let open =
        |path: &Path| rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    rustix::fs::syncfs(open(directory)?)?;
    let mounts = std::fs::read_to_string(MOUNTS).unwrap_or_default();
    for mounted in mount_points_below(&mounts, &directory.canonicalize()?) {
        // What cannot be opened was not written to.
        if let Ok(mounted) = open(&mounted) {
            rustix::fs::syncfs(mounted)?;
        }
    }
    Ok(())
}

/// Returns where something is mounted below a directory.
fn mount_points_below(mounts: &str, directory: &Path) -> Vec<PathBuf> {
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(|text| PathBuf::from(unescaped(text)));
    places.filter(|place| place.starts_with(directory) && place != directory).collect()
}

/// The list has blanks, tabs, line breaks and backslashes of a path as three octal digits behind a backslash.
fn unescaped(text: &str) -> OsString {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code.filter(|_| *first == b'\\') {
            Some(code) => {
                bytes.push(code);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes)
}

/// Returns whether this machine keeps what it knows of an NFS server's directories for a while, and so may list them as they
/// were: unless the options of the mount say otherwise. If they cannot be read, it does.
pub fn nfs_is_cached(path: &Path) -> bool {
    let device = rustix::fs::stat(path).map(|found| found.st_dev);
    let device = device.map(|device| (rustix::fs::major(device), rustix::fs::minor(device)));
    let mounts = std::fs::read_to_string(MOUNTS).unwrap_or_default();
    device.ok().and_then(|device| mount_options(&mounts, device)).is_none_or(keeps_directories)
}

/// Returns the options of the mounted file system with this device number. Each line of the list has: id, parent,
/// `major:minor`, root, mount point, options of the mount, optional fields, `-`, type, source, options of the file system.
fn mount_options(mounts: &str, (major, minor): (u32, u32)) -> Option<&str> {
    let device = format!("{major}:{minor}");
    let mut lines = mounts.lines().filter(|line| line.split(' ').nth(2) == Some(&device));
    lines.find_map(|line| line.split_once(" - ")?.1.split(' ').nth(2))
}

fn keeps_directories(options: &str) -> bool {
    let has = |wanted: &str| options.split(',').any(|option| option == wanted);
    // `actimeo=0` is shown as the four limits that it sets.
    !(has("noac") || (has("acdirmin=0") && has("acdirmax=0")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
        22 28 0:21 / /proc rw,nosuid shared:13 - proc proc rw\n\
        91 28 0:52 / /mnt/a rw,relatime shared:50 - nfs4 server:/a rw,vers=4.2,rsize=1048576,hard,addr=10.0.0.1\n\
        92 28 0:53 / /mnt/b rw,relatime - nfs server:/b rw,vers=3,noac,hard,addr=10.0.0.1\n\
        93 28 0:54 / /mnt/c rw - nfs4 server:/c rw,acregmin=0,acregmax=0,acdirmin=0,acdirmax=0,hard\n";

    #[test]
    fn a_mount_of_nfs_keeps_directories_unless_its_options_forbid_it() {
        let is_cached = |minor| mount_options(MOUNTINFO, (0, minor)).map(keeps_directories);
        assert_eq!([52, 53, 54, 99].map(is_cached), [Some(true), Some(false), Some(false), None]);
    }

    #[test]
    fn what_is_mounted_below_a_directory_is_found() {
        let mounts = format!("{MOUNTINFO}94 28 0:55 / /mnt/a/with\\040blank rw - ext4 /dev/x rw\n");
        let below = |directory: &str| mount_points_below(&mounts, Path::new(directory));
        assert_eq!(below("/mnt/a"), [Path::new("/mnt/a/with blank")]);
        assert_eq!(below("/mnt").len(), 4);
        assert!(below("/mnt/b").is_empty() && below("/srv").is_empty());
        assert_eq!(below("/").len(), 5);
    }

    #[test]
    fn nobody_else_can_enter_a_scratch_directory() {
        let made = scratch_directory().unwrap();
        assert_eq!(made.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_directory_that_is_not_there_yet_has_the_room_of_the_one_above() {
        let directory = tempfile::tempdir().unwrap();
        let here = room_at(directory.path()).unwrap();
        let below = room_at(&directory.path().join("not/yet")).unwrap();
        assert_eq!((here.device, here.block_bytes), (below.device, below.block_bytes));
        assert!(below.block_bytes >= 512);
        sync_below(directory.path()).unwrap();
        assert!(sync_below(&directory.path().join("not/yet")).is_err());
        assert_eq!(remote(Path::new("/proc")).unwrap(), None);
    }
}
