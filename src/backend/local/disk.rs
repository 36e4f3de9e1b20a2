//! What the local backend does to a file system, one call for each step that a loss of power can fall between.
//!
//! What must stay true: whatever a backend changes on a disk, it changes through these calls, and a call does no more than
//! its name says: none syncs what another wrote. `tests/power_loss.rs` records the calls, and builds from them what a
//! disk may hold after a crash at any moment; a change made past them would not be in its books.
//!
//! Reading and listing is not here: it changes nothing.

use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, RenameFlags, linkat, renameat_with};

/// Mode of the directories that are created: for the owner only.
const DIRECTORY_MODE: u32 = 0o700;
/// Mode of the files that are created: for the owner only.
const FILE_MODE: u32 = 0o600;

/// The steps.
pub trait Disk: Debug + Send + Sync {
    /// Makes a directory. Fails if there is something of that name.
    fn make_directory(&self, path: &Path) -> io::Result<()>;

    /// Makes an empty file. Fails if there is something of that name.
    fn create_file(&self, path: &Path) -> io::Result<File>;

    /// Writes to the end of a file that [`Disk::create_file`] made.
    fn write(&self, path: &Path, file: &mut File, bytes: &[u8]) -> io::Result<()>;

    /// Makes the content of a file survive a loss of power. Its name may not.
    fn sync_file(&self, path: &Path, file: &File) -> io::Result<()>;

    /// Gives a file another name in one step. Fails if that is taken.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file a second name. Fails if that is taken.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory, and what is missing there, survive a loss of power.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
}

/// The file system of this machine.
#[derive(Debug)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(DIRECTORY_MODE).create(path)
    }

    fn create_file(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)
    }

    fn write(&self, _: &Path, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn sync_file(&self, _: &Path, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        Ok(linkat(CWD, from, CWD, to, AtFlags::empty())?)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}
