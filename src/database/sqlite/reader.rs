//! Reads a SQLite database at one instant: a copy made by SQLite's online backup.
//!
//! What must stay true: the copy is checked before anything of it is stored; it is removed when the reader is dropped.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use super::super::{DatabaseFacts, DatabaseIdentity, DatabaseReader, DumpStream, Dumped, Engine};
use super::{BUSY_MAX, File, describe, dump, examine};
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::sql::Value;

/// All pages in one step: a backup in several steps begins anew whenever somebody writes.
const ALL_PAGES: i32 = -1;
/// How long to wait before a busy database is tried again.
const RETRY_AFTER: std::time::Duration = std::time::Duration::from_millis(20);
/// Copies that can lie in one scratch directory.
const COPIES_MAX: usize = 1000;
/// Parts of a dump that wait between its writer and its reader.
const PARTS_WAITING_MAX: usize = 4;

/// A SQLite database at one instant.
pub struct SqliteReader {
    copy: File,
    path: ScratchCopy,
    original: PathBuf,
    facts: DatabaseFacts,
    cancel: Cancel,
}

/// The file of a copy; removed with what SQLite put beside it.
struct ScratchCopy(PathBuf);

impl Drop for ScratchCopy {
    fn drop(&mut self) {
        for ending in ["", "-journal", "-wal", "-shm"] {
            let mut path = self.0.clone().into_os_string();
            path.push(ending);
            let _ = fs::remove_file(path);
        }
    }
}

impl SqliteReader {
    /// Copies the database, and checks the copy.
    pub fn open(path: &Path, scratch: &Path, cancel: &Cancel) -> Result<Self> {
        let original = File::open(path)?;
        let copy_path = create_copy(scratch)?;
        copy(&original, &copy_path.0, cancel)?;
        let mut copy = File::open(&copy_path.0)?;
        copy.location.clone_from(&original.location);
        // A copy that SQLite itself calls damaged is no backup. Better to know tonight than when it is restored.
        let violations = examine::violations(&copy, &copy_path.0)?;
        let version = rusqlite::version().to_owned();
        let facts = DatabaseFacts {
            engine: Engine::Sqlite,
            server_version: version.clone(),
            dump_version: version,
            location: original.location,
            violations,
        };
        Ok(Self { copy, path: copy_path, original: path.to_owned(), facts, cancel: cancel.clone() })
    }
}

/// Makes an empty file that only we can read.
fn create_copy(scratch: &Path) -> Result<ScratchCopy> {
    let mut failure = io::Error::from(io::ErrorKind::AlreadyExists);
    for number in 0..COPIES_MAX {
        let path = scratch.join(format!("database-{number}.sqlite"));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(_) => return Ok(ScratchCopy(path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                failure = error;
                break;
            }
        }
    }
    Err(Error::target("create a file in", scratch.to_owned(), failure))
}

fn copy(original: &File, path: &Path, cancel: &Cancel) -> Result<()> {
    // Named, because it is where room is needed: the original is only read.
    let fault = |error: rusqlite::Error| original.error("copy", format!("{} (copying to {path:?})", describe(&error)));
    let mut copy = Connection::open(path).map_err(fault)?;
    // SQLite's online backup: pages of one instant, while MLflow goes on writing to the original.
    let backup = Backup::new(&original.connection, &mut copy).map_err(fault)?;
    let begun = Instant::now();
    loop {
        cancel.check()?;
        match backup.step(ALL_PAGES).map_err(fault)? {
            StepResult::Done => return Ok(()),
            StepResult::More => {}
            _ if begun.elapsed() > BUSY_MAX => {
                let reason = format!("another process kept it locked for {} seconds", BUSY_MAX.as_secs());
                return Err(original.error("copy", reason));
            }
            _ => thread::sleep(RETRY_AFTER),
        }
    }
}

/// A file is its own server; links lead to the same one.
pub(in crate::database) fn identity(path: &Path) -> DatabaseIdentity {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    DatabaseIdentity { server: String::new(), database: path.to_string_lossy().into_owned() }
}

impl DatabaseReader for SqliteReader {
    fn facts(&self) -> &DatabaseFacts {
        &self.facts
    }

    fn tables(&mut self) -> Result<Vec<String>> {
        self.copy.tables()
    }

    fn identity(&mut self) -> Result<DatabaseIdentity> {
        Ok(identity(&self.original))
    }

    fn dump(&mut self) -> Result<Box<dyn DumpStream>> {
        let mut copy = File::open(&self.path.0)?;
        copy.location.clone_from(&self.copy.location);
        let (parts, received) = sync_channel(PARTS_WAITING_MAX);
        let cancel = self.cancel.clone();
        let writer = thread::spawn(move || dump::write_dump(&copy, Parts(parts), &cancel));
        let location = self.copy.location.clone();
        Ok(Box::new(DumpText { received, part: Vec::new(), taken: 0, is_at_end: false, writer, location }))
    }

    fn query(&mut self, sql: &str, row: &mut dyn FnMut(&[Value]) -> Result<()>) -> Result<()> {
        self.copy.select(sql, row)
    }
}

/// Where the writing thread puts the dump.
struct Parts(SyncSender<Vec<u8>>);

impl Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let unwanted = |_| io::Error::other("the dump is no longer read");
        self.0.send(bytes.to_vec()).map_err(unwanted)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The dump, as another thread writes it.
struct DumpText {
    received: Receiver<Vec<u8>>,
    part: Vec<u8>,
    taken: usize,
    is_at_end: bool,
    writer: JoinHandle<Result<Dumped>>,
    location: String,
}

impl Read for DumpText {
    /// Ends with the writing thread; whether that went well, `finish` tells.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.part.len() {
            let Ok(part) = self.received.recv() else {
                self.is_at_end = true;
                return Ok(0);
            };
            (self.part, self.taken) = (part, 0);
        }
        let len = buffer.len().min(self.part.len() - self.taken);
        buffer[..len].copy_from_slice(&self.part[self.taken..self.taken + len]);
        self.taken += len;
        Ok(len)
    }
}

impl DumpStream for DumpText {
    fn finish(self: Box<Self>) -> Result<Dumped> {
        let Self { received, is_at_end, writer, location, .. } = *self;
        drop(received);
        let result = writer.join().map_err(|_| Error::Internal("the thread of a dump panicked".to_owned()))?;
        match result {
            Ok(_) if !is_at_end => Err(Error::database("dump", &location, "the dump was not read to its end")),
            result => result,
        }
    }
}
