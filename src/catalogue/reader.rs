//! Reads the catalogue of a snapshot: what its databases held, without PostgreSQL and MLflow.
//!
//! What must stay true: lines come from a repository; one that is not what it should be is an error that names its file.

use std::io::{BufRead, BufReader, Read};

use serde::de::DeserializeOwned;

use crate::chunks::reader::ChunkReader;
use crate::error::{Error, Result};
use crate::format::snapshot::{CATALOGUE, Component};
use crate::hears::Hears;
use crate::mlflow::catalogue::file_name;
use crate::repository::snapshots::Snapshot;
use crate::trees::contents::entry_at;
use crate::trees::file_reader::FileReader;

/// Longest line that is read, in bytes. Texts in MLflow's tables end at 64 KiB or less, but for values of tags.
pub(super) const LINE_LEN_MAX: u64 = 64 << 20;

/// Returns the catalogue of a snapshot. Fails with [`Error::NotFound`] if it has none.
pub fn component_of(snapshot: &Snapshot) -> Result<&Component> {
    let component =
        snapshot.record.components.iter().find(|component| component.name == CATALOGUE).ok_or_else(|| {
            Error::NotFound(format!(
                "The snapshot {} holds no MLflow deployment: it has no catalogue",
                snapshot.id.short()
            ))
        })?;
    // An empty list would look like a deployment without models.
    if snapshot.record.deployment.as_ref().is_some_and(|deployment| deployment.databases.is_empty()) {
        return Err(Error::NotFound(format!(
            "The snapshot {} was made without a database, so it has no catalogue; what the REST API told is in `metadata`",
            snapshot.id.short()
        )));
    }
    Ok(component)
}

/// Calls `visit` with every line of a file of the catalogue, in its order. A file that is not there has no lines: its
/// table was not in the database. Fails with [`Error::NotFound`] if the snapshot has no catalogue at all.
pub fn for_each<T: DeserializeOwned>(
    reader: &ChunkReader,
    snapshot: &Snapshot,
    file: &str,
    hears: &Hears,
    visit: &mut dyn FnMut(T) -> Result<()>,
) -> Result<()> {
    let component = component_of(snapshot)?;
    let name = file_name(file);
    let Some(entry) = entry_at(reader, component, name.as_bytes())? else { return Ok(()) };
    let mut lines = BufReader::new(FileReader::open(reader, &entry, hears)?);
    let fault = |reason: String| Error::damaged(format!("{CATALOGUE}/{name}"), reason);
    let mut line = Vec::new();
    loop {
        hears.check()?;
        line.clear();
        let read = lines.by_ref().take(LINE_LEN_MAX).read_until(b'\n', &mut line);
        if read.map_err(|error| fault(error.to_string()))? == 0 {
            return Ok(());
        }
        visit(serde_json::from_slice(&line).map_err(|error| fault(error.to_string()))?)?;
    }
}

/// Reads a whole file of the catalogue into memory.
pub fn read_all<T: DeserializeOwned>(
    reader: &ChunkReader,
    snapshot: &Snapshot,
    file: &str,
    hears: &Hears,
) -> Result<Vec<T>> {
    let mut lines = Vec::new();
    for_each(reader, snapshot, file, hears, &mut |line| {
        lines.push(line);
        Ok(())
    })?;
    Ok(lines)
}
