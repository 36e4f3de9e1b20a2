//! Takes lost chunks from where the same content still is: other repositories, or a directory.
//!
//! What must stay true: nothing is stored that does not hash to the id of a chunk that is wanted, so no other content can
//! slip in. A list of chunks is made again only from content that has the file's digest.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::chunks::content::{Intake, Tools};
use crate::chunks::reader::ChunkReader;
use crate::chunks::writer::ChunkWriter;
use crate::error::{Error, Result};
use crate::format::tree::{ChunkRef, Entry};
use crate::hears::Hears;
use crate::id::Digest;
use crate::monitor::Counter;
use crate::repair::survey::Chunk;
use crate::repository::Repository;
use crate::trees::contents::shown_path;
use crate::trees::file_reader::FileReader;
use crate::trees::merge::{Merged, Shared, TreeMerge};
use crate::trees::writer::TreeWriter;

/// Files that lack chunks.
#[derive(Default)]
pub struct Wanted {
    files: BTreeMap<(u64, Digest), WantedFile>,
    chunks: BTreeSet<Chunk>,
}

struct WantedFile {
    /// One of its entries.
    entry: Entry,
    /// Where it stands, as component and path.
    places: BTreeSet<(String, Vec<u8>)>,
    /// Whether its list of chunks is lost.
    lacks_list: bool,
}

impl Wanted {
    /// Makes an empty list for these chunks.
    pub fn new(chunks: BTreeSet<Chunk>) -> Self {
        Self { files: BTreeMap::new(), chunks }
    }

    /// Adds a file, and what it lacks; nothing, if that is its list of chunks.
    pub fn add(&mut self, component: &str, entry: &Entry, lacking: &[Chunk]) {
        let Some(content) = entry.file() else { return };
        self.chunks.extend(lacking);
        let file = self.files.entry((content.size, content.digest)).or_insert_with(|| WantedFile {
            entry: entry.clone(),
            places: BTreeSet::new(),
            lacks_list: false,
        });
        file.places.insert((component.to_owned(), entry.path.clone()));
        file.lacks_list |= lacking.is_empty();
    }
}

/// Offers content to a session.
pub struct Replacer<'a> {
    writer: &'a ChunkWriter,
    wanted: Wanted,
    hears: &'a Hears,
    tools: Tools,
    replaced: u64,
}

impl<'a> Replacer<'a> {
    /// Prepares to store what is wanted.
    pub fn new(writer: &'a ChunkWriter, wanted: Wanted, hears: &'a Hears) -> Self {
        Self { writer, wanted, hears, tools: Tools::default(), replaced: 0 }
    }

    /// Returns how many chunks were stored.
    pub fn replaced(&self) -> u64 {
        self.replaced
    }

    /// Looks in all snapshots of another repository for files of the same size and digest.
    pub fn take_from(&mut self, other: &Arc<Repository>) -> Result<()> {
        self.hears.monitor.phase("look in the other repository", None, None);
        let reader = ChunkReader::new(Arc::clone(other));
        let snapshots = other.list_snapshots()?.snapshots;
        let components: Vec<_> = snapshots.iter().flat_map(|snapshot| &snapshot.record.components).collect();
        let names: BTreeSet<&str> = components.iter().map(|component| component.name.as_str()).collect();
        for name in names {
            let roots: Vec<_> = components.iter().filter(|it| it.name == name).map(|it| it.root).collect();
            for merged in TreeMerge::open(&reader, name, &roots, b"", Shared::Read) {
                self.hears.check()?;
                self.hears.monitor.count(Counter::Entries, 1);
                let Merged::Entries(entries) = merged? else { continue };
                entries.iter().try_for_each(|(_, entry)| self.take_entry(&reader, entry))?;
            }
        }
        Ok(())
    }

    /// A file that was found whole is looked for no more.
    fn take_entry(&mut self, reader: &ChunkReader, entry: &Entry) -> Result<()> {
        let Some(content) = entry.file() else { return Ok(()) };
        let name = (content.size, content.digest);
        let Some(file) = self.wanted.files.remove(&name) else { return Ok(()) };
        let hears = self.hears;
        let offered = match FileReader::open(reader, entry, hears) {
            Ok(mut content) => self.offer(&file, &mut content),
            Err(error) => Err(error),
        };
        match offered {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error @ (Error::Source { .. } | Error::Damaged { .. } | Error::MissingChunk { .. })) => {
                self.hears
                    .monitor
                    .note(&format!("{:?} of the other repository is of no use: {error}", entry.path_text()));
            }
            Err(error) => return Err(error),
        }
        self.wanted.files.insert(name, file);
        Ok(())
    }

    /// Looks in a directory for the files under their paths, with and without the name of their component.
    pub fn take_from_directory(&mut self, directory: &Path) -> Result<()> {
        self.hears.monitor.phase("look in the directory", Some(self.wanted.files.len() as u64), None);
        for (name, file) in std::mem::take(&mut self.wanted.files) {
            self.hears.check()?;
            self.hears.monitor.count(Counter::Entries, 1);
            if !self.take_file(directory, name.0, &file)? {
                self.wanted.files.insert(name, file);
            }
        }
        Ok(())
    }

    /// Returns whether one of the places holds the content that is wanted.
    fn take_file(&mut self, directory: &Path, size: u64, file: &WantedFile) -> Result<bool> {
        let shown = file.places.iter().map(|(component, path)| shown_path(component, path));
        for path in file.places.iter().map(|(_, path)| path.clone()).chain(shown) {
            let Some(path) = below(directory, &path) else { continue };
            if !path.metadata().is_ok_and(|found| found.is_file() && found.len() == size) {
                continue;
            }
            let offered = match File::open(&path) {
                Ok(mut content) => self.offer(file, &mut content),
                Err(source) => Err(Error::source("open", path.clone(), source)),
            };
            match offered {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error @ Error::Source { .. }) => self.hears.monitor.note(&error.to_string()),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Cuts content as a backup would and stores those of its chunks that are wanted. Returns whether it is what the
    /// file's digest says.
    fn offer(&mut self, file: &WantedFile, content: &mut dyn Read) -> Result<bool> {
        let Some(expected) = file.entry.file() else { return Ok(false) };
        let (kind, chunks) = (expected.kind, &self.wanted.chunks);
        let intake = Intake::new(self.writer, kind, self.hears);
        let taken = intake
            .take_wanted(&mut self.tools, content, &|id| chunks.contains(&(kind, *id)))
            .map_err(|error| error.into_error(file.entry.path_text()))?;
        self.replaced += taken.new;
        let is_same = taken.is(expected);
        if is_same && file.lacks_list {
            self.store_list(file, taken.chunks)?;
        }
        Ok(is_same)
    }

    fn store_list(&mut self, file: &WantedFile, refs: Vec<ChunkRef>) -> Result<()> {
        let mut entry = file.entry.clone();
        if let crate::format::tree::EntryKind::File(content) = &mut entry.kind {
            (content.chunks, content.indirect) = (refs, false);
        }
        let before = self.writer.written().chunks;
        TreeWriter::new(self.writer).make_indirect(&mut entry)?;
        self.replaced += self.writer.written().chunks - before;
        Ok(())
    }
}

/// Returns where a path of a tree is below a directory, unless it leads elsewhere.
fn below(directory: &Path, path: &[u8]) -> Option<PathBuf> {
    let path = Path::new(OsStr::from_bytes(path));
    path.components().all(|part| matches!(part, Component::Normal(_))).then(|| directory.join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_out_of_the_directory() {
        let directory = Path::new("/data");
        assert_eq!(below(directory, b"a/b"), Some(PathBuf::from("/data/a/b")));
        for path in [&b"/etc/passwd"[..], b"../x", b"a/../../x"] {
            assert_eq!(below(directory, path), None);
        }
    }
}
