//! Takes lost chunks from where the same content still is: other repositories, or a directory.
//!
//! What must stay true: nothing is stored that does not hash to the id of a chunk that is wanted, so no other content can
//! slip in. A list of chunks is made again only from content that has the file's digest.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::chunks::cut::{self, Window};
use crate::chunks::reader::ChunkReader;
use crate::chunks::writer::{ChunkWriter, Fate};
use crate::compress::Encoder;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::tree::{ChunkRef, Entry};
use crate::id::Digest;
use crate::monitor::{Counter, Monitor};
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
    repository: &'a Arc<Repository>,
    writer: &'a ChunkWriter,
    wanted: Wanted,
    monitor: &'a dyn Monitor,
    cancel: &'a Cancel,
    encoder: Encoder,
    window: Window,
    replaced: u64,
}

impl<'a> Replacer<'a> {
    /// Prepares to store what is wanted.
    pub fn new(
        repository: &'a Arc<Repository>,
        writer: &'a ChunkWriter,
        wanted: Wanted,
        monitor: &'a dyn Monitor,
        cancel: &'a Cancel,
    ) -> Self {
        Self {
            repository,
            writer,
            wanted,
            monitor,
            cancel,
            encoder: Encoder::default(),
            window: Window::default(),
            replaced: 0,
        }
    }

    /// Returns how many chunks were stored.
    pub fn replaced(&self) -> u64 {
        self.replaced
    }

    /// Looks in all snapshots of another repository for files of the same size and digest.
    pub fn take_from(&mut self, other: &Arc<Repository>) -> Result<()> {
        self.monitor.phase("look in the other repository", None, None);
        let reader = ChunkReader::new(Arc::clone(other));
        let snapshots = other.list_snapshots()?.snapshots;
        let components: Vec<_> = snapshots.iter().flat_map(|snapshot| &snapshot.record.components).collect();
        let names: BTreeSet<&str> = components.iter().map(|component| component.name.as_str()).collect();
        for name in names {
            let roots: Vec<_> = components.iter().filter(|it| it.name == name).map(|it| it.root).collect();
            for merged in TreeMerge::open(&reader, name, &roots, b"", Shared::Read) {
                self.cancel.check()?;
                self.monitor.count(Counter::Entries, 1);
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
        let cancel = self.cancel;
        let offered = match FileReader::open(reader, entry, cancel) {
            Ok(mut content) => self.offer(&file, &mut content),
            Err(error) => Err(error),
        };
        match offered {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error @ (Error::Source { .. } | Error::Damaged { .. } | Error::MissingChunk { .. })) => {
                self.monitor.note(&format!("{:?} of the other repository is of no use: {error}", entry.path_text()));
            }
            Err(error) => return Err(error),
        }
        self.wanted.files.insert(name, file);
        Ok(())
    }

    /// Looks in a directory for the files under their paths, with and without the name of their component.
    pub fn take_from_directory(&mut self, directory: &Path) -> Result<()> {
        self.monitor.phase("look in the directory", Some(self.wanted.files.len() as u64), None);
        for (name, file) in std::mem::take(&mut self.wanted.files) {
            self.cancel.check()?;
            self.monitor.count(Counter::Entries, 1);
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
                Err(error @ Error::Source { .. }) => self.monitor.note(&error.to_string()),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Cuts content as a backup would and stores those of its chunks that are wanted. Returns whether it is what the
    /// file's digest says.
    fn offer(&mut self, file: &WantedFile, content: &mut dyn Read) -> Result<bool> {
        let Some(expected) = file.entry.file() else { return Ok(false) };
        let mut refs = Vec::new();
        let (chunker, mut window) = (self.repository.chunker(), std::mem::take(&mut self.window));
        let cut = cut::read_chunks(chunker, &mut window, content, |_, plain| {
            self.take_chunk(expected.kind, plain, &mut refs).map_err(io::Error::other)
        });
        self.window = window;
        let is_same = cut.map_err(|error| failed(file, error))?.digest == expected.digest;
        if is_same && file.lacks_list {
            self.store_list(file, refs)?;
        }
        Ok(is_same)
    }

    fn take_chunk(&mut self, kind: BlobKind, plain: &[u8], refs: &mut Vec<ChunkRef>) -> Result<()> {
        self.cancel.check()?;
        let id = self.repository.keys().chunk_id(kind as u8, plain);
        refs.push(ChunkRef { id, len: plain.len() as u32 });
        if self.wanted.chunks.contains(&(kind, id)) {
            let (_, fate) = self.writer.write(&mut self.encoder, kind, plain)?;
            self.replaced += u64::from(fate == Fate::New);
        }
        Ok(())
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

fn failed(file: &WantedFile, source: io::Error) -> Error {
    match source.downcast::<Error>() {
        Ok(error) => error,
        Err(source) => Error::source("read", file.entry.path_text(), source),
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
