//! Files of JSON lines on their way between this process and the repository.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::mlflow::catalogue::json_line;

/// A file of JSON lines that is being written.
pub struct Lines {
    file: BufWriter<File>,
    count: u64,
    place: PathBuf,
}

impl Lines {
    /// Begins an empty file, in the place of what is there.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(|source| Error::target("write", path.to_owned(), source))?;
        Ok(Self { file: BufWriter::new(file), count: 0, place: path.to_owned() })
    }

    /// Adds a line.
    pub fn push(&mut self, line: &impl Serialize) -> Result<()> {
        self.count += 1;
        let written = self.file.write_all(&json_line(line)?);
        written.map_err(|source| Error::target("write", self.place.clone(), source))
    }

    /// Ends the file, and returns how many lines it has.
    pub fn finish(mut self) -> Result<u64> {
        self.file.flush().map_err(|source| Error::target("write", self.place.clone(), source))?;
        Ok(self.count)
    }
}

/// Reads the lines of a file.
pub fn lines<T: DeserializeOwned>(path: &Path) -> Result<impl Iterator<Item = Result<T>> + use<T>> {
    let place = path.to_owned();
    let file = File::open(path).map_err(|source| Error::target("read", place.clone(), source))?;
    Ok(BufReader::new(file).lines().map(move |line| {
        let line = line.map_err(|source| Error::target("read", place.clone(), source))?;
        serde_json::from_str(&line).map_err(|error| Error::damaged("the notes of a shard", error))
    }))
}
