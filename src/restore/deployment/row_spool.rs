//! Rows set aside by what they belong to, in a scratch file: a dump has them in the order in which they were written.
//!
//! What must stay true: memory does not grow with the rows, only with the number of owners; rows of one owner come back
//! in the order in which they were put.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Bytes of rows that wait in memory until they are written together.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// Rows in a scratch file, by their owners.
pub struct RowSpool {
    file: File,
    directory: PathBuf,
    len: u64,
    waiting: HashMap<String, Vec<u8>>,
    waiting_bytes: usize,
    waiting_bytes_max: usize,
    /// Offset and length of the pieces that hold an owner's rows, in order.
    pieces: HashMap<String, Vec<(u64, usize)>>,
}

impl RowSpool {
    /// Begins an unnamed file in a directory.
    pub fn create(directory: &Path) -> Result<Self> {
        Self::with_waiting_bytes_max(directory, WAITING_BYTES_MAX)
    }

    fn with_waiting_bytes_max(directory: &Path, waiting_bytes_max: usize) -> Result<Self> {
        let file = tempfile::tempfile_in(directory).map_err(|source| fault(directory, source))?;
        let (waiting, pieces) = Default::default();
        Ok(Self { file, directory: directory.to_owned(), len: 0, waiting, waiting_bytes: 0, waiting_bytes_max, pieces })
    }

    /// Sets a row aside.
    pub fn put<T: Serialize>(&mut self, owner: &str, row: &T) -> Result<()> {
        if !self.waiting.contains_key(owner) {
            self.waiting.insert(owner.to_owned(), Vec::new());
        }
        let Some(rows) = self.waiting.get_mut(owner) else { return Ok(()) };
        let before = rows.len();
        serde_json::to_writer(&mut *rows, row).map_err(|error| Error::Internal(error.to_string()))?;
        rows.push(b'\n');
        self.waiting_bytes += rows.len() - before;
        if self.waiting_bytes > self.waiting_bytes_max { self.flush() } else { Ok(()) }
    }

    /// Writes what waits. Only what was written is read.
    pub fn flush(&mut self) -> Result<()> {
        for (owner, rows) in self.waiting.drain() {
            self.file.write_all(&rows).map_err(|source| fault(&self.directory, source))?;
            self.pieces.entry(owner).or_default().push((self.len, rows.len()));
            self.len += rows.len() as u64;
        }
        self.waiting_bytes = 0;
        Ok(())
    }

    /// Hands on the rows of an owner.
    pub fn read<T: DeserializeOwned>(&self, owner: &str, each: &mut dyn FnMut(T) -> Result<()>) -> Result<()> {
        for (offset, len) in self.pieces.get(owner).into_iter().flatten() {
            let mut piece = vec![0; *len];
            self.file.read_exact_at(&mut piece, *offset).map_err(|source| fault(&self.directory, source))?;
            for line in piece.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                each(serde_json::from_slice(line).map_err(|error| Error::Internal(error.to_string()))?)?;
            }
        }
        Ok(())
    }
}

fn fault(directory: &Path, source: std::io::Error) -> Error {
    Error::target("use the scratch directory", directory.to_owned(), source)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn rows_come_back_in_order_however_often_they_are_written(
            rows in proptest::collection::vec((0..5usize, ".{0,20}"), 0..60),
            waiting_bytes_max in 0..200usize,
        ) {
            let mut spool = RowSpool::with_waiting_bytes_max(&std::env::temp_dir(), waiting_bytes_max).unwrap();
            for (owner, row) in &rows {
                spool.put(&owner.to_string(), row).unwrap();
            }
            spool.flush().unwrap();
            for owner in 0..6 {
                let mut found = Vec::<String>::new();
                spool.read(&owner.to_string(), &mut |row| {
                    found.push(row);
                    Ok(())
                }).unwrap();
                let expected: Vec<_> =
                    rows.iter().filter(|(own, _)| *own == owner).map(|(_, row)| row.clone()).collect();
                proptest::prop_assert_eq!(found, expected);
            }
        }
    }
}
