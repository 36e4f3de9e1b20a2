//! Puts the objects of a listing into byte order of their keys, whatever order the server has.
//!
//! AWS lists in byte order. Servers whose directories are real list `m/…` before `m-old`, at any distance: only the end
//! of the listing tells that nothing comes before what was listed first.
//!
//! What must stay true: memory does not grow with the listing. At most `RUN_BYTES_MAX` of objects wait in memory; what
//! is more goes into an unnamed scratch file, in sorted runs, which are merged as they are read.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::s3::listed::ListedObject;

/// Bytes of objects that wait in memory until they are written as one run.
const RUN_BYTES_MAX: usize = 8 << 20;
/// What an object takes in memory beside its key.
const OBJECT_BYTES: usize = 160;
/// Bytes of a run that are read at a time. A listing of 10⁸ objects has some 2,000 runs.
const READ_LEN: usize = 16 << 10;

/// Takes the objects of a listing in, and gives them out sorted, each key once.
pub struct SortedObjects {
    waiting: BTreeMap<Vec<u8>, ListedObject>,
    waiting_bytes: usize,
    run_bytes_max: usize,
    scratch: Option<Scratch>,
    heads: BinaryHeap<Reverse<Head>>,
    /// What comes next, once it was looked at.
    next: Option<ListedObject>,
}

/// Runs in an unnamed file.
struct Scratch {
    file: File,
    len: u64,
    runs: Vec<Run>,
}

/// A sorted run that is being read.
struct Run {
    offset: u64,
    end: u64,
    buffer: Vec<u8>,
    taken: usize,
}

/// The next object of a run; runs are numbered, and what waits in memory counts as the last.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Head {
    key: Vec<u8>,
    run: usize,
    line: Line,
}

/// An object as a line of the scratch file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Line(Vec<u8>, u64, Option<String>, i64, u32, Option<String>);

impl From<ListedObject> for Line {
    fn from(object: ListedObject) -> Self {
        let ListedObject { key, size, etag, modified, storage_class } = object;
        Self(key, size, etag, modified.seconds, modified.nanoseconds, storage_class)
    }
}

impl From<Line> for ListedObject {
    fn from(Line(key, size, etag, seconds, nanoseconds, storage_class): Line) -> Self {
        let modified = crate::format::tree::FileTime { seconds, nanoseconds };
        Self { key, size, etag, modified, storage_class }
    }
}

impl Default for SortedObjects {
    fn default() -> Self {
        Self::with_run_bytes_max(RUN_BYTES_MAX)
    }
}

impl SortedObjects {
    fn with_run_bytes_max(run_bytes_max: usize) -> Self {
        Self {
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            run_bytes_max,
            scratch: None,
            heads: BinaryHeap::new(),
            next: None,
        }
    }

    /// Takes an object in. One that is listed twice counts once.
    pub fn take_in(&mut self, listed: ListedObject) -> Result<()> {
        self.waiting_bytes += listed.key.len() + OBJECT_BYTES;
        match self.waiting.get_mut(&listed.key) {
            Some(known) => merge(known, listed),
            None => drop(self.waiting.insert(listed.key.clone(), listed)),
        }
        if self.waiting_bytes > self.run_bytes_max { self.write_run() } else { Ok(()) }
    }

    fn write_run(&mut self) -> Result<()> {
        let scratch = match &mut self.scratch {
            Some(scratch) => scratch,
            none => {
                let file = tempfile::tempfile().map_err(fault)?;
                none.insert(Scratch { file, len: 0, runs: Vec::new() })
            }
        };
        let offset = scratch.len;
        let mut lines = Vec::new();
        for object in std::mem::take(&mut self.waiting).into_values() {
            serde_json::to_writer(&mut lines, &Line::from(object)).map_err(internal)?;
            lines.push(b'\n');
        }
        scratch.file.write_all(&lines).map_err(fault)?;
        scratch.len += lines.len() as u64;
        scratch.runs.push(Run { offset, end: scratch.len, buffer: Vec::new(), taken: 0 });
        self.waiting_bytes = 0;
        Ok(())
    }

    /// Ends the taking in; what comes out from now on ascends.
    pub fn sort(&mut self) -> Result<()> {
        if self.scratch.is_some() && !self.waiting.is_empty() {
            self.write_run()?;
        }
        let runs = self.scratch.as_ref().map_or(0, |scratch| scratch.runs.len());
        (0..runs).try_for_each(|run| self.advance(run))
    }

    fn advance(&mut self, run: usize) -> Result<()> {
        let Some(scratch) = &mut self.scratch else { return Ok(()) };
        if let Some(line) = scratch.runs[run].next_line(&scratch.file)? {
            self.heads.push(Reverse(Head { key: line.0.clone(), run, line }));
        }
        Ok(())
    }

    fn pop(&mut self) -> Result<Option<ListedObject>> {
        if self.scratch.is_none() {
            return Ok(self.waiting.pop_first().map(|(_, object)| object));
        }
        let Some(Reverse(head)) = self.heads.pop() else { return Ok(None) };
        self.advance(head.run)?;
        Ok(Some(head.line.into()))
    }

    /// Returns the first object by its key.
    pub fn take_first(&mut self) -> Result<Option<ListedObject>> {
        let first = match self.next.take() {
            Some(first) => Some(first),
            None => self.pop()?,
        };
        let Some(mut first) = first else { return Ok(None) };
        while let Some(other) = self.pop()? {
            if other.key != first.key {
                self.next = Some(other);
                break;
            }
            merge(&mut first, other);
        }
        Ok(Some(first))
    }
}

/// `rclone serve s3` lists an object twice after two writes of it. If the two differ, which of them is right is not
/// known, and so nothing proves it unchanged.
fn merge(known: &mut ListedObject, other: ListedObject) {
    if *known == other {
        return;
    }
    if other.modified > known.modified {
        *known = other;
    }
    known.etag = None;
}

impl Run {
    fn next_line(&mut self, file: &File) -> Result<Option<Line>> {
        loop {
            let rest = &self.buffer[self.taken..];
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line = serde_json::from_slice(&rest[..end]).map_err(internal)?;
                self.taken += end + 1;
                return Ok(Some(line));
            }
            if self.offset == self.end {
                return Ok(None);
            }
            self.buffer.drain(..self.taken);
            self.taken = 0;
            let start = self.buffer.len();
            let len = READ_LEN.min(usize::try_from(self.end - self.offset).unwrap_or(READ_LEN));
            self.buffer.resize(start + len, 0);
            file.read_exact_at(&mut self.buffer[start..], self.offset).map_err(fault)?;
            self.offset += len as u64;
        }
    }
}

fn fault(source: std::io::Error) -> Error {
    Error::target("use the scratch directory", std::env::temp_dir(), source)
}

fn internal(error: serde_json::Error) -> Error {
    Error::Internal(format!("A listing in the scratch directory is not what was written: {error}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::tree::FileTime;

    fn listed(key: &[u8], seconds: i64) -> ListedObject {
        let modified = FileTime { seconds, nanoseconds: 0 };
        ListedObject { key: key.to_vec(), size: 1, etag: Some(seconds.to_string()), modified, storage_class: None }
    }

    fn sorted(run_bytes_max: usize, objects: impl IntoIterator<Item = ListedObject>) -> Vec<ListedObject> {
        let mut sorted = SortedObjects::with_run_bytes_max(run_bytes_max);
        objects.into_iter().try_for_each(|object| sorted.take_in(object)).unwrap();
        sorted.sort().unwrap();
        std::iter::from_fn(|| sorted.take_first().unwrap()).collect()
    }

    #[test]
    fn an_object_listed_twice_counts_once_and_without_a_proof_if_the_two_differ() {
        for run_bytes_max in [0, 300, usize::MAX] {
            let twice = [listed(b"k", 5), listed(b"m", 7), listed(b"k", 5), listed(b"m", 6)];
            let found = sorted(run_bytes_max, twice);
            assert_eq!(found[0], listed(b"k", 5));
            assert_eq!((found.len(), found[1].modified.seconds, &found[1].etag), (2, 7, &None));
        }
    }

    proptest! {
        #[test]
        fn any_order_is_put_right_whatever_fits_into_memory(
            keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 0..80),
            run_bytes_max in 0..3000usize,
        ) {
            let found = sorted(run_bytes_max, keys.iter().map(|key| listed(key, 1)));
            let mut expected: Vec<_> = keys.iter().map(|key| listed(key, 1)).collect();
            expected.sort_by(|one, other| one.key.cmp(&other.key));
            expected.dedup();
            prop_assert_eq!(found, expected);
        }
    }
}
