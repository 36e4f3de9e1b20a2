//! What a rewrite takes out of a deployment's artifacts, and what the catalogue says of it.
//!
//! What must stay true: the catalogue of the new snapshot says of each row which of its files are there now; rows and
//! databases stay as they are.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};

use crate::catalogue::reader::for_each;
use crate::chunks::content::{Intake, Tools};
use crate::chunks::reader::ChunkReader;
use crate::chunks::writer::ChunkWriter;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::deployment::{DeploymentRecord, ReferenceCounts, Verdict};
use crate::format::snapshot::ProblemRecord;
use crate::format::tree::{Entry, EntryKind};
use crate::hears::Hears;
use crate::mlflow::catalogue::{
    FILES_NAMED_MAX, ORPHANS, Orphan, REFERENCES, Reference, ReferenceState, file_name, json_line,
};
use crate::mlflow::schema::ReferenceKind;
use crate::repository::snapshots::Snapshot;

/// Files of one deployment that are taken out at once: their paths are in memory.
const FILES_MAX: usize = 1 << 18;

/// Files that are taken out of the artifacts of one deployment.
#[derive(Default)]
pub struct TakenOut {
    /// By component: where each file is, ending in `/`, and its bytes; in the order of the places.
    files: BTreeMap<String, Vec<(Vec<u8>, u64)>>,
    count: usize,
    /// What the catalogue said of references of which something is gone, and says now.
    states: Vec<(ReferenceState, ReferenceState)>,
    orphans: u64,
    orphan_bytes: u64,
    /// Rows that must have files of which some are gone.
    hurt: Vec<Hurt>,
}

/// A row that lacks files that it must have.
struct Hurt {
    component: String,
    problem: ProblemRecord,
}

/// Returns a path as one that all paths below it begin with. The root is the beginning of all.
fn place_of(path: &[u8]) -> Vec<u8> {
    if path.is_empty() || path.ends_with(b"/") { path.to_vec() } else { [path, b"/"].concat() }
}

impl TakenOut {
    /// Takes note of an entry.
    pub fn add(&mut self, component: &str, entry: &Entry) -> Result<()> {
        if entry.file().is_none() {
            return Ok(());
        }
        self.count += 1;
        if self.count > FILES_MAX {
            return Err(Error::Refused(format!(
                "More than {FILES_MAX} files of one deployment match: take them out in several steps"
            )));
        }
        self.files.entry(component.to_owned()).or_default().push((place_of(&entry.path), entry.size()));
        Ok(())
    }

    /// Says that all entries were seen. Returns whether the catalogue has to tell of them.
    pub fn complete(&mut self) -> bool {
        self.files.values_mut().for_each(|files| files.sort());
        self.count > 0
    }

    /// Returns what was taken out at a place of a component and below it.
    fn below(&self, component: &str, path: &str) -> &[(Vec<u8>, u64)] {
        let Some(files) = self.files.get(component) else { return &[] };
        let place = place_of(path.as_bytes());
        let first = files.partition_point(|(file, _)| *file < place);
        let count = files[first..].iter().take_while(|(file, _)| file.starts_with(&place)).count();
        &files[first..first + count]
    }

    /// Returns the entry of a file of the catalogue as it has to be now, stored anew if it has to change.
    pub fn catalogue_entry(
        &mut self,
        (snapshot, entry): (&Snapshot, Entry),
        reader: &ChunkReader,
        writer: &ChunkWriter,
        hears: &Hears,
    ) -> Result<Entry> {
        if entry.path != file_name(REFERENCES).as_bytes() && entry.path != file_name(ORPHANS).as_bytes() {
            return Ok(entry);
        }
        let mut lines = Lines::begin()?;
        if entry.path == file_name(REFERENCES).as_bytes() {
            for_each(reader, snapshot, REFERENCES, hears, &mut |mut reference: Reference| {
                self.mend(&mut reference);
                lines.push(&reference)
            })?;
        } else {
            for_each(reader, snapshot, ORPHANS, hears, &mut |orphan: Orphan| match self.has(&orphan) {
                true => {
                    self.orphans += 1;
                    self.orphan_bytes += orphan.bytes;
                    Ok(())
                }
                false => lines.push(&orphan),
            })?;
        }
        lines.store(entry, writer, hears)
    }

    fn has(&self, orphan: &Orphan) -> bool {
        let place = place_of(orphan.path.as_bytes());
        self.below(&orphan.component, &orphan.path).iter().any(|(file, _)| *file == place)
    }

    /// Says in a reference what it leads to now.
    fn mend(&mut self, reference: &mut Reference) {
        let (Some(component), Some(path)) = (&reference.component, &reference.path) else { return };
        let gone = self.below(component, path);
        if gone.is_empty() {
            return;
        }
        let was = reference.state;
        reference.files = reference.files.saturating_sub(gone.len() as u64);
        reference.bytes = gone.iter().fold(reference.bytes, |bytes, (_, size)| bytes.saturating_sub(*size));
        // It was that of all files together.
        reference.digest = None;
        let name = |(place, _): &(Vec<u8>, u64)| {
            String::from_utf8_lossy(place.strip_suffix(b"/").unwrap_or(place)).into_owned()
        };
        let room = FILES_NAMED_MAX.saturating_sub(reference.lost.len());
        reference.lost.extend(gone.iter().take(room).map(name));
        // What the deployment itself has lost is the worse news.
        if was != ReferenceState::Partial || reference.files == 0 {
            reference.state = ReferenceState::TakenOut;
        }
        let (component, count) = (component.clone(), gone.len());
        self.states.push((was, reference.state));
        if must_have_files(reference.kind) {
            let path = format!("{} {}", reference.kind.words(), reference.id);
            let message = format!("{count} of its files were taken out of the snapshot by a rewrite");
            self.hurt.push(Hurt { component, problem: ProblemRecord { path, message } });
        }
    }

    /// Says in a record what became of its references. Returns what rows lack that they must have.
    pub fn tell(&mut self, record: &mut DeploymentRecord) -> Vec<ProblemRecord> {
        let counts: &mut ReferenceCounts = &mut record.references;
        for (was, is) in &self.states {
            *counts.of(*was) = counts.of(*was).saturating_sub(1);
            *counts.of(*is) += 1;
        }
        counts.orphans = counts.orphans.saturating_sub(self.orphans);
        counts.orphan_bytes = counts.orphan_bytes.saturating_sub(self.orphan_bytes);
        if !self.hurt.is_empty() {
            record.verdicts.references = Verdict::NotOk;
        }
        self.hurt.iter().map(|hurt| hurt.problem.clone()).collect()
    }

    /// Returns whether rows lack files that they must have in a component.
    pub fn hurts(&self, component: &str) -> bool {
        self.hurt.iter().any(|hurt| hurt.component == component)
    }
}

/// Runs may have any files or none. A model is of no use without one of its files.
fn must_have_files(kind: ReferenceKind) -> bool {
    matches!(kind, ReferenceKind::LoggedModel | ReferenceKind::ModelVersion)
}

/// The lines of a file of the catalogue on their way into the repository.
struct Lines(BufWriter<File>);

impl Lines {
    fn begin() -> Result<Self> {
        tempfile::tempfile().map(|file| Self(BufWriter::new(file))).map_err(fault)
    }

    fn push(&mut self, line: &impl serde::Serialize) -> Result<()> {
        self.0.write_all(&json_line(line)?).map_err(fault)
    }

    /// Stores the lines in the place of what a file of the catalogue was.
    fn store(self, mut entry: Entry, writer: &ChunkWriter, hears: &Hears) -> Result<Entry> {
        let mut file = self.0.into_inner().map_err(|error| fault(error.into_error()))?;
        file.rewind().map_err(fault)?;
        let stored = Intake::new(writer, BlobKind::Meta, hears).take_all(&mut Tools::default(), &mut file);
        let stored = stored.map_err(|error| error.into_error(entry.path_text()))?;
        if let EntryKind::File(content) = &mut entry.kind {
            (content.size, content.digest) = (stored.facts.size, stored.facts.digest);
            (content.chunks, content.indirect) = (stored.chunks, false);
        }
        Ok(entry)
    }
}

fn fault(source: io::Error) -> Error {
    Error::target("write to the scratch directory", std::env::temp_dir(), source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken_out(paths: &[&str]) -> TakenOut {
        let files = paths.iter().map(|path| (place_of(path.as_bytes()), 10)).collect();
        let mut taken_out = TakenOut { count: paths.len(), ..TakenOut::default() };
        taken_out.files.insert("artifacts/a".to_owned(), files);
        assert!(taken_out.complete());
        taken_out
    }

    fn model(path: &str, files: u64, state: ReferenceState) -> Reference {
        Reference {
            kind: ReferenceKind::LoggedModel,
            id: "m".to_owned(),
            uri: "u".to_owned(),
            component: Some("artifacts/a".to_owned()),
            path: Some(path.to_owned()),
            files,
            bytes: files * 10,
            digest: None,
            lost: Vec::new(),
            state,
        }
    }

    #[test]
    fn a_file_is_of_the_rows_at_and_above_its_place_and_of_none_that_only_begins_alike() {
        let taken_out = taken_out(&["1/m/x", "1/m-2/x", "1/m/d/y", "2"]);
        for (place, count) in [("", 4), ("1", 3), ("1/m", 2), ("1/m/x", 1), ("1/m-2", 1), ("2", 1), ("1/", 3), ("3", 0)]
        {
            assert_eq!(taken_out.below("artifacts/a", place).len(), count, "{place:?}");
        }
        assert!(taken_out.below("artifacts/b", "1").is_empty());
    }

    #[test]
    fn a_reference_says_what_is_left_and_that_a_rewrite_took_the_rest() {
        let mut taken_out = taken_out(&["1/m/x", "1/m/y"]);
        let mut some = model("1/m", 3, ReferenceState::Present);
        taken_out.mend(&mut some);
        assert_eq!((some.files, some.bytes, some.state), (1, 10, ReferenceState::TakenOut));
        assert_eq!(some.lost, ["1/m/x", "1/m/y"]);
        let mut worse = model("1/m", 3, ReferenceState::Partial);
        taken_out.mend(&mut worse);
        assert_eq!(worse.state, ReferenceState::Partial);
        let mut nothing_left = model("1/m/x", 1, ReferenceState::Partial);
        taken_out.mend(&mut nothing_left);
        assert_eq!((nothing_left.files, nothing_left.state), (0, ReferenceState::TakenOut));
        let mut untouched = model("1/n", 3, ReferenceState::Present);
        taken_out.mend(&mut untouched);
        assert_eq!((untouched.files, untouched.state), (3, ReferenceState::Present));
        assert_eq!(taken_out.hurt.len(), 3);
    }
}
