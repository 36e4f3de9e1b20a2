//! The files of an export: one item a line, and nothing in their names or times that would change from day to day.
//!
//! What must stay true: a file is created once and never opened again; names from a server cannot leave the directory.

use std::fs::{self, File, FileTimes};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::error::{Error, Result};

/// What is written as something else in a file name: all but letters, digits, `-` and `_`.
const UNSAFE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');
/// Longest name made from a text of the server, in bytes.
const NAME_LEN_MAX: usize = 200;

/// A directory that is being filled.
#[derive(Debug, Clone)]
pub struct Files {
    directory: PathBuf,
}

/// A file that is being written.
pub struct Lines {
    path: PathBuf,
    file: BufWriter<File>,
    /// What stands between items, before the first one, and after the last.
    marks: [&'static str; 3],
    items: u64,
}

impl Files {
    /// Opens a directory, which must be empty.
    pub fn open(directory: &Path) -> Result<Self> {
        let mut entries = fs::read_dir(directory).map_err(|error| failed("open", directory, error))?;
        if entries.next().is_some() {
            return Err(Error::Invalid(format!(
                "Metadata is exported into an empty directory only, not {directory:?}"
            )));
        }
        Ok(Self { directory: directory.to_owned() })
    }

    /// Returns a directory below this one.
    pub fn below(&self, name: &str) -> Self {
        Self { directory: self.directory.join(name) }
    }

    /// Writes one value.
    pub fn write(&self, name: &str, value: &Value) -> Result<()> {
        let mut text = format!("{value:#}");
        text.push('\n');
        let (path, mut file) = self.create(name)?;
        file.write_all(text.as_bytes()).map_err(|error| failed("write", &path, error))
    }

    /// Writes a JSON array.
    pub fn write_all(&self, name: &str, items: &[Value]) -> Result<()> {
        let mut array = self.array(name)?;
        items.iter().try_for_each(|item| array.push(item))?;
        array.finish().map(drop)
    }

    /// Begins a file that is a JSON array, an item a line.
    pub fn array(&self, name: &str) -> Result<Lines> {
        self.lines_with(name, [",\n", "[\n", "\n]\n"])
    }

    /// Begins a file in which each line is JSON.
    pub fn lines(&self, name: &str) -> Result<Lines> {
        self.lines_with(name, ["\n", "", "\n"])
    }

    /// Gives all files and directories the same time, so that an unchanged export is unchanged in every respect.
    pub fn finish(&self) -> Result<()> {
        set_times(&self.directory)
    }

    fn lines_with(&self, name: &str, marks: [&'static str; 3]) -> Result<Lines> {
        let (path, file) = self.create(name)?;
        Ok(Lines { path, file: BufWriter::new(file), marks, items: 0 })
    }

    fn create(&self, name: &str) -> Result<(PathBuf, File)> {
        let path = self.directory.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|error| failed("create", parent, error))?;
        }
        let file = File::create_new(&path).map_err(|error| failed("create", &path, error))?;
        Ok((path, file))
    }
}

impl Lines {
    /// Adds an item.
    pub fn push(&mut self, item: &Value) -> Result<()> {
        self.push_text(&item.to_string())
    }

    /// Adds an item that is JSON already.
    pub fn push_text(&mut self, json: &str) -> Result<()> {
        let mark = if self.items == 0 { self.marks[1] } else { self.marks[0] };
        self.items += 1;
        let written = self.file.write_all(mark.as_bytes()).and_then(|()| self.file.write_all(json.as_bytes()));
        written.map_err(|error| failed("write", &self.path, error))
    }

    /// Ends the file. Returns how many items it has; a file of lines without any is removed.
    pub fn finish(mut self) -> Result<u64> {
        if self.items == 0 && self.marks[1].is_empty() {
            fs::remove_file(&self.path).map_err(|error| failed("remove", &self.path, error))?;
            return Ok(0);
        }
        let begin = if self.items == 0 { self.marks[1] } else { "" };
        let end = format!("{begin}{}", self.marks[2]);
        let written = self.file.write_all(end.as_bytes()).and_then(|()| self.file.flush());
        written.map_err(|error| failed("write", &self.path, error))?;
        Ok(self.items)
    }
}

/// Returns a file name made from a text of the server.
pub fn name(text: &str) -> String {
    let mut name = utf8_percent_encode(text, UNSAFE).to_string();
    if name.len() > NAME_LEN_MAX {
        name.truncate(NAME_LEN_MAX);
    }
    if name.is_empty() { "%".to_owned() } else { name }
}

fn set_times(path: &Path) -> Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(|error| failed("read", path, error))? {
            set_times(&entry.map_err(|error| failed("read", path, error))?.path())?;
        }
    }
    let times = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH).set_accessed(SystemTime::UNIX_EPOCH);
    let file = File::open(path).map_err(|error| failed("open", path, error))?;
    file.set_times(times).map_err(|error| failed("set the times of", path, error))
}

fn failed(action: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::target(action, path.to_owned(), source)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn arrays_and_lines_are_json_with_any_number_of_items() {
        let directory = TempDir::new().unwrap();
        let files = Files::open(directory.path()).unwrap();
        let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
        for count in 0..3usize {
            let items = vec![json!({ "a": 1 }); count];
            files.write_all(&format!("{count}.json"), &items).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&read(&format!("{count}.json"))).unwrap(), json!(items));
            let mut lines = files.below("below").lines(&format!("{count}.jsonl")).unwrap();
            items.iter().for_each(|item| lines.push(item).unwrap());
            assert_eq!(lines.finish().unwrap(), count as u64);
        }
        assert_eq!(read("below/2.jsonl"), "{\"a\":1}\n{\"a\":1}\n");
        assert!(!directory.path().join("below/0.jsonl").exists());
        files.finish().unwrap();
        assert_eq!(fs::metadata(directory.path().join("below")).unwrap().modified().unwrap(), SystemTime::UNIX_EPOCH);
        assert!(Files::open(directory.path()).is_err(), "it is not empty any more");
    }

    #[test]
    fn names_of_a_server_stay_in_the_directory() {
        assert_eq!(name("d-12_a"), "d-12_a");
        for text in ["..", ".", "", "/etc", "a/../b", "\0", &"ü".repeat(500)] {
            let name = name(text);
            assert!(!name.is_empty() && !name.contains(['/', '.', '\0']) && name.len() <= NAME_LEN_MAX, "{name}");
        }
    }
}
