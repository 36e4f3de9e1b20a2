//! Writes content out in order: one file as it is, or a tree as a tar archive.
//!
//! A thread reads ahead: it collects the chunks that come next, of one large file or of many small ones, fetches them by
//! pack and range, several ranges at once, and hands over what it has in order.
//!
//! What must stay true:
//! - Every chunk is verified against its id, every file against the digest of its whole content. A file whose content
//!   cannot be had is an error: the output ends there, and an archive lacks its end, so that it cannot pass for whole.
//! - Memory is bounded by `WINDOW_BYTES_MAX` and `WINDOW_ITEMS_MAX` for each of `WINDOWS`, and by the memory plan.
//! - No path leads out of the directory that an archive is unpacked in.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use tar::{Builder, EntryType, Header};

use crate::chunks::fetch::{ChunkFetcher, WantedChunk};
use crate::chunks::reader::ChunkReader;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::snapshot::DATABASE;
use crate::format::tree::{ChunkRef, Entry, EntryKind, FileContent, FileTime};
use crate::globs::Patterns;
use crate::hears::Hears;
use crate::id::Digest;
use crate::monitor::{Counter, Monitor};
use crate::repository::Repository;
use crate::repository::snapshots::Snapshot;
use crate::target::directory::parts;
use crate::trees::contents::{self, Selection, is_selected, shown_path};
use crate::trees::reader::for_each_chunk_of;
use crate::units::MIB;

/// Bytes of content that are fetched together.
const WINDOW_BYTES_MAX: u64 = 16 * MIB;
/// Entries and chunks that are fetched together.
const WINDOW_ITEMS_MAX: usize = 4096;
/// Windows in memory: one is being collected and fetched, one waits, one is being written.
const WINDOWS: u64 = 3;
/// What precedes the name of an extended attribute in a pax header.
const PAX_XATTR: &[u8] = b"SCHILY.xattr.";
/// Longest name in the fixed fields of an archive, in bytes.
const TAR_NAME_LEN_MAX: usize = 100;

/// What of a snapshot goes into an archive. The default is everything.
#[derive(Debug, Clone, Default)]
pub struct ArchiveOptions {
    /// Only this path and what is below it.
    pub path: Vec<u8>,
    /// Put what is below that path at the top of the archive, not below the path.
    pub strips_path: bool,
    /// Of that, only what they select.
    pub patterns: Patterns,
}

impl ArchiveOptions {
    /// Returns the name in the archive of a path that users know; nothing for the directory that is the archive itself.
    fn name_of(&self, shown: &[u8]) -> Option<Vec<u8>> {
        let path = contents::normal_path(&self.path);
        if !self.strips_path || path.is_empty() {
            return Some(shown.to_vec());
        }
        let rest = shown.strip_prefix(path)?;
        match rest.strip_prefix(b"/") {
            Some(below) => (!below.is_empty()).then(|| below.to_vec()),
            None => Some(path.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec()),
        }
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DumpSummary {
    /// Files, directories and symlinks.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
}

/// Writes the content of one file.
///
/// What was written before an error must not be used: the digest is known to be right only at the end.
pub fn file(
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    path: &[u8],
    out: &mut dyn Write,
    hears: &Hears,
) -> Result<DumpSummary> {
    repository.access().data_secret()?;
    let reader = ChunkReader::new(Arc::clone(repository));
    let path = contents::normal_path(path);
    let entry = find_file(&reader, snapshot, path)?;
    hears.monitor.phase("cat", Some(1), Some(entry.size()));
    let feed = |feeder: &mut Feeder<'_>| feeder.entry(entry, None);
    let write = |pieces: &mut Pieces| {
        let Some(Piece::Entry(entry, _)) = pieces.next()? else { return Ok(DumpSummary::default()) };
        let EntryKind::File(content) = &entry.kind else { return Ok(DumpSummary::default()) };
        let mut body = Body::new(pieces, &entry, content);
        while let Some(block) = body.next_block()? {
            hears.monitor.count(Counter::Bytes, block.len() as u64);
            out.write_all(&block).map_err(output_fault)?;
        }
        out.flush().map_err(output_fault)?;
        Ok(DumpSummary { entries: 1, bytes: content.size })
    };
    run(&reader, feed, write, hears)
}

/// Returns the file that a path means where a file or a directory may stand: what is at the path, or the dump if a
/// snapshot's component `database` holds a single one. `None` stands for a directory.
pub fn sole_file(repository: &Arc<Repository>, snapshot: &Snapshot, path: &[u8]) -> Result<Option<Vec<u8>>> {
    let reader = ChunkReader::new(Arc::clone(repository));
    let path = contents::normal_path(path);
    for selection in contents::select(snapshot, path) {
        if path == DATABASE.as_bytes() && selection.component.name == DATABASE {
            return sole_dump(&reader, &selection).map(Some);
        }
        if !selection.path.is_empty()
            && let Some(entry) = contents::entry_at(&reader, selection.component, &selection.path)?
        {
            return Ok(matches!(entry.kind, EntryKind::File(_)).then(|| path.to_vec()));
        }
    }
    Ok(None)
}

fn sole_dump(reader: &ChunkReader, selection: &Selection<'_>) -> Result<Vec<u8>> {
    let mut dumps = contents::entries(reader, selection)?.collect::<Result<Vec<Entry>>>()?;
    match (dumps.pop(), dumps.is_empty()) {
        (Some(dump), true) => Ok(shown_path(DATABASE, &dump.path)),
        (last, _) => {
            let names: Vec<String> = dumps.iter().chain(&last).map(Entry::path_text).collect();
            Err(Error::Invalid(format!("The snapshot holds {} databases: {}", names.len(), names.join(", "))))
        }
    }
}

fn find_file(reader: &ChunkReader, snapshot: &Snapshot, path: &[u8]) -> Result<Entry> {
    for selection in contents::select(snapshot, path) {
        if selection.path.is_empty() {
            return Err(not_a_file(path, "a directory; `dump` writes those"));
        }
        if let Some(entry) = contents::entry_at(reader, selection.component, &selection.path)? {
            return match entry.kind {
                EntryKind::File(_) => Ok(entry),
                _ => Err(not_a_file(path, "a symlink")),
            };
        }
        let directory = [&selection.path, &b"/"[..]].concat();
        if contents::entry_at(reader, selection.component, &directory)?.is_some() {
            return Err(not_a_file(path, "a directory; `dump` writes those"));
        }
    }
    Err(contents::no_such_path(snapshot, path))
}

fn not_a_file(path: &[u8], what: &str) -> Error {
    Error::Invalid(format!("{:?} is not a file, it is {what}", String::from_utf8_lossy(path)))
}

/// Writes what is at a path and below it as a tar archive.
///
/// Names in the archive are the paths that users know, without the path that is stripped. Times are kept to the nanosecond (pax).
pub fn archive(
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    options: &ArchiveOptions,
    out: &mut dyn Write,
    hears: &Hears,
) -> Result<DumpSummary> {
    repository.access().data_secret()?;
    let reader = ChunkReader::new(Arc::clone(repository));
    let path = contents::normal_path(&options.path);
    hears.monitor.phase("dump", None, None);
    let feed = |feeder: &mut Feeder<'_>| {
        let mut found = path.is_empty();
        for selection in contents::select(snapshot, path) {
            found |= feeder.selection(&selection, options)?;
        }
        if found { Ok(()) } else { Err(contents::no_such_path(snapshot, path)) }
    };
    let write = |pieces: &mut Pieces| {
        let mut archive =
            Archive { builder: Builder::new(Gate { out, is_open: true }), summary: DumpSummary::default() };
        let written = archive.write_all(pieces, hears.monitor.as_ref());
        if written.is_err() {
            // The builder would write the archive's end when it is dropped.
            archive.builder.get_mut().is_open = false;
        }
        written.map(|()| archive.summary)
    };
    run(&reader, feed, write, hears)
}

/// What the reading thread hands over.
enum Piece {
    /// An entry begins; if it is another name of a file that came before, with the path of that one.
    Entry(Box<Entry>, Option<Vec<u8>>),
    /// The next part of the file that began last.
    Content(Vec<u8>),
}

/// What the reading thread is going to hand over.
enum Planned {
    Entry(Box<Entry>, Option<Vec<u8>>),
    Chunk(ChunkRef, BlobKind, Arc<str>),
}

/// Runs `feed` on a thread that reads ahead of `write`.
fn run<T>(
    reader: &ChunkReader,
    feed: impl FnOnce(&mut Feeder<'_>) -> Result<()> + Send,
    write: impl FnOnce(&mut Pieces) -> Result<T>,
    hears: &Hears,
) -> Result<T> {
    let chunk_bytes = reader.repository().memory_plan().chunk_bytes;
    let (sender, receiver) = sync_channel(1);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let window_bytes = WINDOW_BYTES_MAX.min(chunk_bytes / (2 * WINDOWS));
            let fetcher = ChunkFetcher::new(reader, chunk_bytes / 2, hears);
            let mut feeder = Feeder { fetcher, hears, sender, window_bytes, planned: Vec::new(), bytes: 0 };
            if let Err(error) = feed(&mut feeder).and_then(|()| feeder.flush()) {
                // Nobody listens any more only when writing has failed already.
                let _ = feeder.sender.send(Err(error));
            }
        });
        let mut pieces = Pieces { receiver, current: Vec::new().into_iter() };
        write(&mut pieces)
    })
}

/// The reading side.
struct Feeder<'a> {
    fetcher: ChunkFetcher<'a>,
    hears: &'a Hears,
    sender: SyncSender<Result<Vec<Piece>>>,
    window_bytes: u64,
    planned: Vec<Planned>,
    bytes: u64,
}

impl Feeder<'_> {
    /// Plans all entries of a selection; returns whether there were any.
    fn selection(&mut self, selection: &Selection<'_>, options: &ArchiveOptions) -> Result<bool> {
        let mut found = false;
        for entry in contents::entries(self.fetcher.reader(), selection)? {
            let mut entry = contents::as_directory(entry?);
            found = true;
            if !options.patterns.select(&entry.path) {
                continue;
            }
            let shown = shown_path(&selection.component.name, &entry.path);
            parts(&shown).map_err(|reason| {
                Error::damaged(format!("the path {:?}", entry.path_text()), format!("it is not dumped: {reason}"))
            })?;
            let Some(name) = options.name_of(&shown) else { continue };
            let first = self.first_link(selection, &entry, options)?;
            entry.path = name;
            self.entry(entry, first)?;
        }
        Ok(found)
    }

    fn entry(&mut self, entry: Entry, first: Option<Vec<u8>>) -> Result<()> {
        let content = if first.is_none() { entry.file().cloned() } else { None };
        let name: Arc<str> = Arc::from(entry.path_text());
        self.plan(Planned::Entry(Box::new(entry), first), 0)?;
        let Some(content) = content else { return Ok(()) };
        let reader = self.fetcher.reader();
        for_each_chunk_of(reader, &Arc::clone(&name), &content, &mut |chunk| {
            self.plan(Planned::Chunk(chunk, content.kind, Arc::clone(&name)), u64::from(chunk.len))
        })
    }

    /// Returns the first name of a hard link, if that was written before and is the same file.
    fn first_link(
        &self,
        selection: &Selection<'_>,
        entry: &Entry,
        options: &ArchiveOptions,
    ) -> Result<Option<Vec<u8>>> {
        let Some(content) = entry.file() else { return Ok(None) };
        let Some(first) = &content.hard_link else { return Ok(None) };
        let is_wanted = is_selected(first, &selection.path) && options.patterns.select(first);
        if *first >= entry.path || !is_wanted || parts(first).is_err() {
            return Ok(None);
        }
        let there = contents::entry_at(self.fetcher.reader(), selection.component, first)?;
        let is_same = |found: &FileContent| found.digest == content.digest && found.size == content.size;
        let is_written = there.as_ref().and_then(Entry::file).is_some_and(is_same);
        Ok(options.name_of(&shown_path(&selection.component.name, first)).filter(|_| is_written))
    }

    fn plan(&mut self, planned: Planned, bytes: u64) -> Result<()> {
        if self.bytes + bytes > self.window_bytes || self.planned.len() >= WINDOW_ITEMS_MAX {
            self.flush()?;
        }
        self.planned.push(planned);
        self.bytes += bytes;
        Ok(())
    }

    /// Fetches what is planned and hands it over.
    fn flush(&mut self) -> Result<()> {
        self.hears.check()?;
        let planned = std::mem::take(&mut self.planned);
        self.bytes = 0;
        let wanted: Vec<WantedChunk> = planned
            .iter()
            .filter_map(|planned| match planned {
                Planned::Chunk(chunk, kind, file) => {
                    Some(WantedChunk { kind: *kind, chunk: *chunk, needed_by: Arc::clone(file) })
                }
                Planned::Entry(..) => None,
            })
            .collect();
        let mut contents = self.fetcher.fetch(&wanted)?.into_iter();
        let pieces = planned.into_iter().map(|planned| match planned {
            Planned::Entry(entry, first) => Ok(Piece::Entry(entry, first)),
            Planned::Chunk(..) => contents.next().unwrap_or(Ok(Vec::new())).map(Piece::Content),
        });
        // The writer is gone only when it has failed already.
        self.sender.send(pieces.collect()).map_err(|_| Error::Interrupted)
    }
}

/// The writing side.
struct Pieces {
    receiver: Receiver<Result<Vec<Piece>>>,
    current: std::vec::IntoIter<Piece>,
}

impl Pieces {
    fn next(&mut self) -> Result<Option<Piece>> {
        loop {
            if let Some(piece) = self.current.next() {
                return Ok(Some(piece));
            }
            match self.receiver.recv() {
                Ok(window) => self.current = window?.into_iter(),
                Err(_) => return Ok(None),
            }
        }
    }
}

/// The content of a file, verified when it ends.
struct Body<'p> {
    pieces: &'p mut Pieces,
    path: String,
    digest: Digest,
    remaining: u64,
    hasher: blake3::Hasher,
    block: io::Cursor<Vec<u8>>,
}

impl<'p> Body<'p> {
    fn new(pieces: &'p mut Pieces, entry: &Entry, content: &FileContent) -> Self {
        let (digest, remaining) = (content.digest, content.size);
        let block = io::Cursor::default();
        Self { pieces, path: entry.path_text(), digest, remaining, hasher: blake3::Hasher::new(), block }
    }

    /// Returns the next part, or `None` if the file has ended and has the digest that it should have.
    fn next_block(&mut self) -> Result<Option<Vec<u8>>> {
        if self.remaining == 0 {
            if self.hasher.finalize().as_bytes() != self.digest.as_bytes() {
                return Err(self.damaged("its content does not have the digest that the snapshot recorded"));
            }
            return Ok(None);
        }
        match self.pieces.next()? {
            Some(Piece::Content(block)) if block.len() as u64 <= self.remaining => {
                self.remaining -= block.len() as u64;
                self.hasher.update(&block);
                Ok(Some(block))
            }
            _ => Err(self.damaged("its chunks do not add up to its size")),
        }
    }

    fn damaged(&self, reason: &str) -> Error {
        Error::damaged(format!("{:?}", self.path), reason)
    }
}

impl Read for Body<'_> {
    /// Errors are the library's own, wrapped.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.block.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            match self.next_block().map_err(io::Error::other)? {
                Some(block) => self.block = io::Cursor::new(block),
                None => return Ok(0),
            }
        }
    }
}

/// An output that can be closed for good, so that nothing is written after a failure.
struct Gate<'a> {
    out: &'a mut dyn Write,
    is_open: bool,
}

impl Write for Gate<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_open { self.out.write(bytes) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.is_open { self.out.flush() } else { Ok(()) }
    }
}

/// A tar archive under way. Names are written by hand: the crate's own way refuses some that are not UTF-8, and
/// straightens link targets.
struct Archive<'a> {
    builder: Builder<Gate<'a>>,
    summary: DumpSummary,
}

impl Archive<'_> {
    fn write_all(&mut self, pieces: &mut Pieces, monitor: &dyn Monitor) -> Result<()> {
        while let Some(piece) = pieces.next()? {
            let Piece::Entry(entry, first) = piece else {
                return Err(Error::Internal("content came without a file".to_owned()));
            };
            self.write_entry(pieces, &entry, first.as_deref())?;
            self.summary.entries += 1;
            monitor.count(Counter::Entries, 1);
            monitor.count(Counter::Bytes, if first.is_some() { 0 } else { entry.size() });
        }
        self.builder.finish().and_then(|()| self.builder.get_mut().flush()).map_err(output_fault)
    }

    fn write_entry(&mut self, pieces: &mut Pieces, entry: &Entry, first: Option<&[u8]>) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_mode(entry.metadata.mode & 0o7777);
        header.set_uid(u64::from(entry.metadata.uid));
        header.set_gid(u64::from(entry.metadata.gid));
        header.set_mtime(u64::try_from(entry.metadata.mtime.seconds).unwrap_or(0));
        self.write_pax(&pax_records(entry, first.is_some())).map_err(output_fault)?;
        let name = self.name(b'L', &entry.path).map_err(output_fault)?;
        header.as_old_mut().name = name;
        let (entry_type, link, content) = match (&entry.kind, first) {
            (EntryKind::Directory, _) => (EntryType::Directory, None, None),
            (EntryKind::Symlink { target }, _) => (EntryType::Symlink, Some(target.as_slice()), None),
            (EntryKind::File(_), Some(first)) => (EntryType::Link, Some(first), None),
            (EntryKind::File(content), None) => (EntryType::Regular, None, Some(content)),
        };
        header.set_entry_type(entry_type);
        if let Some(link) = link {
            header.as_old_mut().linkname = self.name(b'K', link).map_err(output_fault)?;
        }
        header.set_size(content.map_or(0, |content| content.size));
        header.set_cksum();
        let appended = match content {
            Some(content) => self.builder.append(&header, Body::new(pieces, entry, content)),
            None => self.builder.append(&header, io::empty()),
        };
        self.summary.bytes = self.summary.bytes.saturating_add(content.map_or(0, |content| content.size));
        appended.map_err(append_fault)
    }

    /// Writes a pax header for the entry that comes next.
    fn write_pax(&mut self, records: &[u8]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let mut header = Header::new_ustar();
        header.set_size(records.len() as u64);
        header.set_entry_type(EntryType::XHeader);
        header.set_cksum();
        self.builder.append(&header, records)
    }

    /// Returns a name for a fixed field. One that does not fit goes before, as GNU tar does it.
    fn name(&mut self, entry_type: u8, name: &[u8]) -> io::Result<[u8; TAR_NAME_LEN_MAX]> {
        let mut field = [0; TAR_NAME_LEN_MAX];
        let len = name.len().min(TAR_NAME_LEN_MAX);
        field[..len].copy_from_slice(&name[..len]);
        if name.len() > TAR_NAME_LEN_MAX {
            let mut header = Header::new_gnu();
            let marker = b"././@LongLink";
            header.as_old_mut().name[..marker.len()].copy_from_slice(marker);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(name.len() as u64 + 1);
            header.set_entry_type(EntryType::new(entry_type));
            header.set_cksum();
            self.builder.append(&header, name.chain(&b"\0"[..]))?;
        }
        Ok(field)
    }
}

/// Returns what the fixed fields have no room for: fractions of seconds, and extended attributes, once for a file of several
/// names.
fn pax_records(entry: &Entry, is_second_name: bool) -> Vec<u8> {
    let mut records = Vec::new();
    let time = entry.metadata.mtime;
    if time.nanoseconds != 0 || time.seconds < 0 {
        push_pax_record(&mut records, b"mtime", pax_time(time).as_bytes());
    }
    let xattrs = if is_second_name { None } else { entry.xattrs() };
    for (name, value) in xattrs.iter().flatten() {
        push_pax_record(&mut records, &[PAX_XATTR, &pax_name(name)].concat(), value);
    }
    records
}

/// Returns a name of an attribute without the `=` that would end it, as GNU tar has it.
fn pax_name(name: &[u8]) -> Vec<u8> {
    let escaped = |byte: &u8| match byte {
        b'=' => b"%3D".to_vec(),
        b'%' => b"%25".to_vec(),
        other => vec![*other],
    };
    name.iter().flat_map(escaped).collect()
}

/// Appends a record: its whole length in decimal digits, these included, then key and value.
fn push_pax_record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = b" =\n".len() + key.len() + value.len();
    let mut len = rest;
    while rest + len.to_string().len() != len {
        len = rest + len.to_string().len();
    }
    records.extend_from_slice(len.to_string().as_bytes());
    records.extend_from_slice(&[b" ", key, b"=", value, b"\n"].concat());
}

/// Formats a time as pax headers have it: decimal seconds, negative before 1970.
fn pax_time(time: FileTime) -> String {
    if time.seconds < 0 && time.nanoseconds > 0 {
        return format!("-{}.{:09}", -(time.seconds + 1), 1_000_000_000 - time.nanoseconds);
    }
    format!("{}.{:09}", time.seconds, time.nanoseconds)
}

fn output_fault(source: io::Error) -> Error {
    Error::target("write", "the output", source)
}

/// Tells errors of the content from those of the output.
fn append_fault(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => output_fault(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_count_backwards() {
        let text = |seconds, nanoseconds| pax_time(FileTime { seconds, nanoseconds });
        assert_eq!(text(1, 5), "1.000000005");
        assert_eq!(text(-1, 0), "-1.000000000");
        assert_eq!(text(-1, 999_999_999), "-0.000000001");
        assert_eq!(text(-2, 500_000_000), "-1.500000000");
    }

    #[test]
    fn pax_records_count_their_own_digits() {
        let record = |key: &str, len| {
            let mut out = Vec::new();
            push_pax_record(&mut out, key.as_bytes(), &vec![b'x'; len]);
            out
        };
        assert_eq!(record("k", 1), b"6 k=x\n");
        for len in [2, 3, 4, 5, 6, 90, 91, 92, 93, 94, 95, 990, 991, 992, 993, 994, 995, 9999] {
            let out = record("k", len);
            let digits = out.split(|byte| *byte == b' ').next().unwrap();
            assert_eq!(std::str::from_utf8(digits).unwrap().parse::<usize>().unwrap(), out.len());
        }
        assert_eq!(pax_name(b"user.a=b%\xFF"), b"user.a%3Db%25\xFF");
    }
}
