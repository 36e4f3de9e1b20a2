//! Rows of the catalogues of many snapshots, of which each chunk is read once, however many snapshots share it.
//!
//! A file of a catalogue is sorted and cut where its content says, so from day to day most of its chunks stay. What is
//! wanted of a chunk is found once; only the line that crosses from one chunk into the next is read again for each snapshot.
//!
//! Many threads may ask at once: at worst a chunk is read twice.
//!
//! What must stay true: the rows of a snapshot are those that [`crate::catalogue::reader`] would find; lines come from a
//! repository, and one that is not what it should be is an error that names its file.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value as Json};

use crate::catalogue::reader::{LINE_LEN_MAX, component_of};
use crate::chunks::reader::ChunkReader;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::snapshot::CATALOGUE;
use crate::format::tree::Entry;
use crate::hears::Hears;
use crate::id::{ChunkId, Digest};
use crate::mlflow::catalogue::file_name;
use crate::repository::snapshots::Snapshot;
use crate::sync::lock;
use crate::trees::reader::{TreeReader, for_each_chunk_of};

/// A row as it stands in the catalogue. Snapshots that have it from the same chunk share it.
pub type Row = Arc<Map<String, Json>>;

/// The files of a catalogue by name.
type Files = Arc<BTreeMap<Vec<u8>, Entry>>;

/// What the catalogues of snapshots hold, as far as it was looked at.
pub struct Catalogues<'a> {
    reader: &'a ChunkReader,
    hears: &'a Hears,
    files: Mutex<HashMap<ChunkId, Files>>,
}

/// Which rows of one file are wanted, and those that were found.
pub struct Wanted<'a> {
    /// The file, without its ending.
    file: &'static str,
    /// Texts of which one stands in every line that is wanted: cheaper to look for than to read the line.
    needles: Vec<Vec<u8>>,
    is_wanted: Box<IsWanted<'a>>,
    parts: Mutex<HashMap<ChunkId, Arc<Part>>>,
    known: Mutex<HashMap<Digest, Arc<[Row]>>>,
}

/// Says whether a row is wanted.
type IsWanted<'a> = dyn Fn(&Map<String, Json>) -> bool + Sync + 'a;

/// What is known of a chunk: its whole lines that are wanted, and the pieces of lines around them.
enum Part {
    /// No line ends in it.
    Piece(Vec<u8>),
    Lines {
        head: Vec<u8>,
        rows: Vec<Row>,
        tail: Vec<u8>,
    },
}

impl<'a> Wanted<'a> {
    /// Wants the rows of a file that are as `is_wanted` says. Each has one of these texts as a value or, without a quote at its
    /// end, at the beginning of one; none stand for any text.
    pub fn new(file: &'static str, texts: &[&str], is_wanted: impl Fn(&Map<String, Json>) -> bool + Sync + 'a) -> Self {
        // As whoever wrote the line has written it.
        let needle = |text: &&str| {
            let text = Json::from(*text).to_string();
            text.strip_suffix('"').unwrap_or(&text).as_bytes().to_vec()
        };
        let (parts, known) = Default::default();
        Self { file, needles: texts.iter().map(needle).collect(), is_wanted: Box::new(is_wanted), parts, known }
    }

    fn fault(&self, reason: impl ToString) -> Error {
        Error::damaged(format!("{CATALOGUE}/{}", file_name(self.file)), reason)
    }

    fn row(&self, line: &[u8]) -> Result<Option<Row>> {
        let may_be = |needle: &Vec<u8>| line.windows(needle.len()).any(|window| window == needle);
        if line.is_empty() || !self.needles.is_empty() && !self.needles.iter().any(may_be) {
            return Ok(None);
        }
        let row: Map<String, Json> = serde_json::from_slice(line).map_err(|error| self.fault(error))?;
        Ok((self.is_wanted)(&row).then(|| Arc::new(row)))
    }

    fn part(&self, content: &[u8]) -> Result<Part> {
        let Some(first) = content.iter().position(|byte| *byte == b'\n') else {
            return Ok(Part::Piece(content.to_vec()));
        };
        let last = content.iter().rposition(|byte| *byte == b'\n').unwrap_or(first);
        let mut rows = Vec::new();
        for line in content.get(first + 1..last).unwrap_or_default().split(|byte| *byte == b'\n') {
            rows.extend(self.row(line)?);
        }
        Ok(Part::Lines { head: content[..first].to_vec(), rows, tail: content[last + 1..].to_vec() })
    }

    /// Adds what a chunk has to the rows of a file; `carried` is the beginning of a line from the chunks before it.
    fn take_in(&self, part: &Part, carried: &mut Vec<u8>, rows: &mut Vec<Row>) -> Result<()> {
        match part {
            Part::Piece(piece) => carried.extend_from_slice(piece),
            Part::Lines { head, rows: whole, tail } => {
                carried.extend_from_slice(head);
                rows.extend(self.row(carried)?);
                rows.extend(whole.iter().cloned());
                carried.clone_from(tail);
            }
        }
        if carried.len() as u64 > LINE_LEN_MAX { Err(self.fault("a line is too long")) } else { Ok(()) }
    }
}

impl<'a> Catalogues<'a> {
    /// Nothing is read yet.
    pub fn new(reader: &'a ChunkReader, hears: &'a Hears) -> Self {
        Self { reader, hears, files: Mutex::default() }
    }

    /// Returns the rows of a snapshot that are wanted, in their order. Fails with [`Error::NotFound`] if the snapshot has no
    /// catalogue. A file that is not there has no rows.
    pub fn rows(&self, snapshot: &Snapshot, wanted: &Wanted<'_>) -> Result<Arc<[Row]>> {
        self.hears.check()?;
        let files = self.files_of(snapshot)?;
        let name = file_name(wanted.file);
        let Some(file) = files.get(name.as_bytes()).and_then(|entry| entry.file()) else { return Ok(Arc::from([])) };
        if let Some(known) = lock(&wanted.known).get(&file.digest) {
            return Ok(Arc::clone(known));
        }
        let (mut carried, mut rows) = (Vec::new(), Vec::new());
        let path = format!("{CATALOGUE}/{name}");
        for_each_chunk_of(self.reader, &path, file, &mut |chunk| {
            let part = self.part(file.kind, &chunk.id, &path, wanted)?;
            wanted.take_in(&part, &mut carried, &mut rows)
        })?;
        rows.extend(wanted.row(&carried)?);
        let rows: Arc<[Row]> = rows.into();
        lock(&wanted.known).insert(file.digest, Arc::clone(&rows));
        Ok(rows)
    }

    fn part(&self, kind: BlobKind, chunk: &ChunkId, path: &str, wanted: &Wanted<'_>) -> Result<Arc<Part>> {
        if let Some(known) = lock(&wanted.parts).get(chunk) {
            return Ok(Arc::clone(known));
        }
        self.hears.check()?;
        let content = self.reader.read(kind, chunk, &|| path.to_owned())?;
        let part = Arc::new(wanted.part(&content)?);
        lock(&wanted.parts).insert(*chunk, Arc::clone(&part));
        Ok(part)
    }

    fn files_of(&self, snapshot: &Snapshot) -> Result<Files> {
        let component = component_of(snapshot)?;
        if let Some(known) = lock(&self.files).get(&component.root) {
            return Ok(Arc::clone(known));
        }
        let entries = TreeReader::open(self.reader, CATALOGUE, &component.root)?;
        let files: BTreeMap<Vec<u8>, Entry> =
            entries.map(|entry| entry.map(|entry| (entry.path.clone(), entry))).collect::<Result<_>>()?;
        let files = Arc::new(files);
        lock(&self.files).insert(component.root, Arc::clone(&files));
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(rows: &[Row]) -> Vec<&str> {
        rows.iter().map(|row| row["name"].as_str().unwrap()).collect()
    }

    #[test]
    fn lines_are_found_wherever_chunks_are_cut() {
        let text = "{\"name\":\"a\"}\n{\"name\":\"b\"}\n{\"name\":\"ab\"}\n{\"name\":\"c\"}";
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let wanted = Wanted::new("runs", &["a", "c"], |row| row["name"] != "ab");
                let (mut carried, mut rows) = (Vec::new(), Vec::new());
                for piece in [&text[..first], &text[first..second], &text[second..]] {
                    let part = wanted.part(piece.as_bytes()).unwrap();
                    wanted.take_in(&part, &mut carried, &mut rows).unwrap();
                }
                rows.extend(wanted.row(&carried).unwrap());
                assert_eq!(names(&rows), ["a", "c"], "{first} {second}");
            }
        }
    }

    #[test]
    fn a_line_that_is_not_json_is_damage_of_its_file() {
        let wanted = Wanted::new("runs", &[], |_| true);
        assert!(wanted.row(b"{").unwrap_err().to_string().contains("catalogue/runs.jsonl"));
    }
}
