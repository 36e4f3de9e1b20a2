//! Restores a batch of files: compare what is there, fetch what differs by pack and range, write, verify.
//!
//! What must stay true: memory is bounded by [`BATCH_CHUNKS_MAX`] chunk references and, for bytes in flight, by the
//! memory plan; at most [`OPEN_FILES_MAX`] files are open; one file's failure is that file's alone.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::chunks::fetch::{ChunkFetcher, Destined, Taker};
use crate::chunks::read_plan::Destination;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::tree::{ChunkRef, Entry, FileContent};
use crate::id::Digest;
use crate::monitor::Counter;
use crate::parallel;
use crate::restore::{DirectoryRestore, Overwrite, add};
use crate::sync::lock;
use crate::target::directory::{Existing, ExistingKind};
use crate::trees::reader::chunks_of;
use crate::units::KIB;

/// Chunk references of a batch, and what takes as much memory as they.
const BATCH_CHUNKS_MAX: usize = 128 << 10;
/// What a chunk reference costs, about.
const CHUNK_REF_BYTES: usize = 100;
/// Files of a batch.
const BATCH_FILES_MAX: usize = 16 << 10;
/// Files that are kept open between writes.
const OPEN_FILES_MAX: usize = 256;
/// Zero runs of this length become holes in sparse files.
const HOLE_BYTES: usize = 4 * KIB as usize;
/// Buffer for comparing and verifying, in bytes.
const COMPARE_BYTES: usize = 256 * KIB as usize;

/// Files to restore together.
#[derive(Default)]
pub struct FileBatch {
    entries: Vec<Entry>,
    chunks: usize,
}

impl FileBatch {
    /// Adds a file.
    pub fn push(&mut self, entry: Entry) {
        let attributes: usize = entry.attributes.iter().map(|(_, value)| value.len()).sum();
        self.chunks += entry.file().map_or(0, chunk_count) + attributes / CHUNK_REF_BYTES;
        self.entries.push(entry);
    }

    /// Returns whether the batch should be restored before more is added.
    pub fn is_full(&self) -> bool {
        self.chunks >= BATCH_CHUNKS_MAX || self.entries.len() >= BATCH_FILES_MAX
    }
}

/// An indirect list stands for many more chunks than it has references.
fn chunk_count(file: &FileContent) -> usize {
    if file.indirect { (file.size / (64 * KIB)) as usize } else { file.chunks.len() }
}

/// What is to be done with a file.
enum FileDecision {
    /// It is right, or the user wants it left.
    Done,
    /// These chunks of it are to be written.
    Write { wants: Vec<(ChunkRef, u64)>, fresh: bool },
}

/// A file that is being written.
struct OpenOutput {
    entry: Entry,
    /// Whether the file was empty before, so that zeros need not be written.
    fresh: bool,
    remaining: AtomicU32,
    failed: AtomicBool,
    file: Mutex<Option<Arc<File>>>,
    /// Set where the only chunk of the file was verified against the file's digest already.
    verified: AtomicBool,
}

impl DirectoryRestore<'_> {
    /// Restores the files of a batch.
    pub(super) fn restore_batch(&self, batch: FileBatch) -> Result<()> {
        let threads = self.reader.repository().thread_plan().computing;
        let decided = parallel::map(&batch.entries, threads, |entry| {
            self.hears.check()?;
            Ok(self.decide(entry))
        });
        let (mut outputs, mut wanted) = (Vec::new(), Vec::new());
        for (entry, decision) in batch.entries.into_iter().zip(decided) {
            match decision? {
                Err(error) => self.problem(&entry, &error.to_string()),
                Ok(FileDecision::Done) => {}
                Ok(FileDecision::Write { wants, fresh }) => {
                    let (file, kind) = (outputs.len() as u32, entry.file().map_or(BlobKind::Data, |file| file.kind));
                    wanted.extend(wants.iter().map(|(chunk, offset)| {
                        let to = Destination { file, offset: *offset };
                        Destined { kind, chunk: *chunk, to }
                    }));
                    outputs.push(OpenOutput {
                        entry,
                        fresh,
                        remaining: AtomicU32::new(wants.len() as u32),
                        failed: AtomicBool::new(false),
                        file: Mutex::default(),
                        verified: AtomicBool::new(false),
                    });
                }
            }
        }
        if self.options.dry_run {
            return Ok(());
        }
        self.write(&outputs, &wanted)
    }

    /// Looks at what is there. On the way, counts what a dry run reports.
    fn decide(&self, entry: &Entry) -> Result<FileDecision> {
        let Some(file) = entry.file() else { return Ok(FileDecision::Done) };
        let existing = self.target.look(&entry.path)?;
        if let Some(existing) = existing
            && let Some(decision) = self.decide_without_reading(entry, file, &existing)?
        {
            return Ok(decision);
        }
        let chunks = chunks_of(self.reader, &entry.path_text(), file)?;
        let file_there = existing.filter(|existing| existing.kind == ExistingKind::File);
        let mut wants = match file_there {
            Some(existing) => self.compare(entry, file.kind, existing.size, &chunks)?,
            None => with_offsets(&chunks),
        };
        // A file with other names is not changed in place: they would change with it.
        let is_right = |existing: &Existing| {
            existing.size == file.size && (existing.links == 1 || existing.mtime == entry.metadata.mtime)
        };
        if wants.is_empty() && file_there.as_ref().is_some_and(is_right) {
            return self.finish_unchanged(entry, file);
        }
        let reusable = file_there.filter(|existing| existing.links == 1);
        if reusable.is_none() {
            wants = with_offsets(&chunks);
        }
        if reusable.is_none() && existing.is_some() && !self.options.dry_run {
            self.remove_in_the_way(entry)?;
        }
        let bytes: u64 = wants.iter().map(|(chunk, _)| u64::from(chunk.len)).sum();
        add(&self.tally.files_written, 1);
        add(&self.tally.bytes_written, bytes);
        add(&self.tally.bytes_unchanged, file.size - bytes);
        self.hears.monitor.count(Counter::Bytes, file.size - bytes);
        self.hears.monitor.count(Counter::BytesDeduplicated, file.size - bytes);
        Ok(FileDecision::Write { wants, fresh: reusable.is_none() })
    }

    fn decide_without_reading(
        &self,
        entry: &Entry,
        file: &FileContent,
        existing: &Existing,
    ) -> Result<Option<FileDecision>> {
        if self.is_left(entry, existing) {
            add(&self.tally.files_kept, 1);
            self.hears.monitor.count(Counter::Bytes, file.size);
            return Ok(Some(FileDecision::Done));
        }
        if self.is_taken_for_same(entry, file, existing) {
            return self.finish_unchanged(entry, file).map(Some);
        }
        Ok(None)
    }

    /// Returns whether the user wants a file left that is there, whatever it is.
    pub(super) fn is_left(&self, entry: &Entry, existing: &Existing) -> bool {
        match self.options.overwrite {
            Overwrite::Never => true,
            Overwrite::IfNewer => existing.mtime > entry.metadata.mtime,
            Overwrite::Always | Overwrite::IfChanged => false,
        }
    }

    /// Returns whether a file that is there is taken for the snapshot's without being read.
    pub(super) fn is_taken_for_same(&self, entry: &Entry, file: &FileContent, existing: &Existing) -> bool {
        self.options.overwrite == Overwrite::IfChanged
            && existing.kind == ExistingKind::File
            && existing.size == file.size
            && existing.mtime == entry.metadata.mtime
    }

    fn finish_unchanged(&self, entry: &Entry, file: &FileContent) -> Result<FileDecision> {
        add(&self.tally.files_unchanged, 1);
        add(&self.tally.bytes_unchanged, file.size);
        self.hears.monitor.count(Counter::Entries, 1);
        self.hears.monitor.count(Counter::Bytes, file.size);
        self.hears.monitor.count(Counter::BytesDeduplicated, file.size);
        if !self.options.dry_run {
            self.set_metadata(entry)?;
        }
        Ok(FileDecision::Done)
    }

    fn remove_in_the_way(&self, entry: &Entry) -> Result<()> {
        match self.target.look(&entry.path)? {
            Some(existing) if existing.kind == ExistingKind::File => self.target.remove(&entry.path).map(drop),
            _ => self.refuse_other(entry, ExistingKind::File),
        }
    }

    /// Collects the chunks of which the file that is there has something else.
    fn compare(
        &self,
        entry: &Entry,
        kind: BlobKind,
        existing_size: u64,
        chunks: &[ChunkRef],
    ) -> Result<Vec<(ChunkRef, u64)>> {
        let mut wants = Vec::new();
        let mut file = self.target.read_file(&entry.path)?;
        let keys = self.reader.repository().keys();
        let mut offset = 0;
        let mut buffer = Vec::new();
        let mut readable = true;
        for chunk in chunks {
            let end = offset + u64::from(chunk.len);
            let mut same = false;
            if readable && end <= existing_size {
                buffer.resize(chunk.len as usize, 0);
                readable = file.read_exact(&mut buffer).is_ok();
                same = readable && keys.chunk_id(kind as u8, &buffer) == chunk.id;
            }
            if !same {
                wants.push((*chunk, offset));
            }
            offset = end;
        }
        Ok(wants)
    }

    fn write(&self, outputs: &[OpenOutput], wanted: &[Destined]) -> Result<()> {
        for output in outputs.iter().filter(|output| output.remaining.load(Ordering::Relaxed) == 0) {
            self.complete(output, &AtomicUsize::new(OPEN_FILES_MAX));
        }
        let range_bytes = self.reader.repository().memory_plan().chunk_bytes;
        let fetcher = ChunkFetcher::new(self.reader, range_bytes, self.hears);
        let open_files = AtomicUsize::new(0);
        fetcher.each(wanted, &|| Writer { run: self, outputs, open_files: &open_files }).map(drop)
    }

    fn write_chunk(
        &self,
        output: &OpenOutput,
        offset: u64,
        plain: &Result<Vec<u8>>,
        open_files: &AtomicUsize,
    ) -> Result<()> {
        match plain {
            Err(error) if error.is_damage() => self.fail(output, error),
            Err(error) => return Err(error.clone()),
            Ok(plain) => {
                self.hears.monitor.count(Counter::Bytes, plain.len() as u64);
                match self.put(output, offset, plain, open_files) {
                    Ok(()) => {}
                    Err(error) if is_full(&error) => return Err(error),
                    Err(error) => self.fail(output, &error),
                }
            }
        }
        if output.remaining.fetch_sub(1, Ordering::AcqRel) == 1 && !output.failed.load(Ordering::Relaxed) {
            self.complete(output, open_files);
        }
        Ok(())
    }

    fn put(&self, output: &OpenOutput, offset: u64, plain: &[u8], open_files: &AtomicUsize) -> Result<()> {
        let Some(content) = output.entry.file() else { return Ok(()) };
        if plain.len() as u64 == content.size {
            let digest = Digest::from_bytes(*blake3::hash(plain).as_bytes());
            output.verified.store(digest == content.digest, Ordering::Relaxed);
        }
        let file = self.open_output(output, open_files)?;
        let written = if content.sparse && output.fresh {
            write_with_holes(&file, offset, plain)
        } else {
            file.write_all_at(plain, offset)
        };
        written.map_err(|source| self.target.fault("write", &output.entry.path, source))
    }

    fn open_output(&self, output: &OpenOutput, open_files: &AtomicUsize) -> Result<Arc<File>> {
        let mut slot = lock(&output.file);
        if let Some(file) = &*slot {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(self.target.open_file(&output.entry.path)?);
        let needed_again = output.remaining.load(Ordering::Relaxed) > 1;
        if needed_again && open_files.load(Ordering::Relaxed) < OPEN_FILES_MAX {
            open_files.fetch_add(1, Ordering::Relaxed);
            *slot = Some(Arc::clone(&file));
        }
        Ok(file)
    }

    /// Everything is written: sets the length, verifies the digest, and only then time and permissions.
    fn complete(&self, output: &OpenOutput, open_files: &AtomicUsize) {
        let kept = lock(&output.file).take();
        if kept.is_some() {
            open_files.fetch_sub(1, Ordering::Relaxed);
        }
        let completed = match kept {
            Some(file) => self.verify_and_seal(output, &file),
            None => self.target.open_file(&output.entry.path).and_then(|file| self.verify_and_seal(output, &file)),
        };
        match completed {
            Ok(()) => {
                self.hears.monitor.count(Counter::Entries, 1);
                self.hears.monitor.detail(&|| format!("restored {}", output.entry.path_text()));
            }
            Err(error) => self.fail(output, &error),
        }
    }

    fn verify_and_seal(&self, output: &OpenOutput, file: &File) -> Result<()> {
        let (entry, Some(content)) = (&output.entry, output.entry.file()) else { return Ok(()) };
        let fault = |action| move |source| self.target.fault(action, &entry.path, source);
        // What was longer before must not keep its end.
        file.set_len(content.size).map_err(fault("set the length of"))?;
        if !output.verified.load(Ordering::Relaxed) {
            let digest = digest_of(file).map_err(fault("read back"))?;
            if digest != content.digest {
                let reason = "the restored content does not have the digest that the snapshot recorded";
                return Err(self.target.fault(
                    "verify",
                    &entry.path,
                    io::Error::new(io::ErrorKind::InvalidData, reason),
                ));
            }
        }
        // Only now: a restore that is killed before leaves a file whose time is not the snapshot's, so that the next one with
        // `if-changed` reads it again.
        self.set_file_metadata(entry, file)
    }

    /// Reports a file once, however many of its chunks are lost.
    fn fail(&self, output: &OpenOutput, error: &Error) {
        if !output.failed.swap(true, Ordering::Relaxed) {
            self.tally.files_written.fetch_sub(1, Ordering::Relaxed);
            self.problem(&output.entry, &error.to_string());
        }
    }
}

/// Writes what is fetched into the files that want it. Only a full disk, or a backend that cannot be reached, ends the
/// restore.
struct Writer<'a> {
    run: &'a DirectoryRestore<'a>,
    outputs: &'a [OpenOutput],
    open_files: &'a AtomicUsize,
}

impl Taker for Writer<'_> {
    fn needed_by(&self, to: &Destination) -> String {
        self.outputs[to.file as usize].entry.path_text()
    }

    fn take(&mut self, to: &[Destination], content: Result<Vec<u8>>) -> Result<()> {
        to.iter().try_for_each(|to| {
            self.run.write_chunk(&self.outputs[to.file as usize], to.offset, &content, self.open_files)
        })
    }
}

/// Returns all chunks with their offsets in the file.
fn with_offsets(chunks: &[ChunkRef]) -> Vec<(ChunkRef, u64)> {
    let offset_after = |offset: &mut u64, chunk: &ChunkRef| {
        let here = *offset;
        *offset += u64::from(chunk.len);
        Some((*chunk, here))
    };
    chunks.iter().scan(0, offset_after).collect()
}

fn is_full(error: &Error) -> bool {
    matches!(error, Error::Target { source, .. }
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::ReadOnlyFilesystem))
}

fn write_with_holes(file: &File, offset: u64, plain: &[u8]) -> io::Result<()> {
    let mut at = 0;
    while at < plain.len() {
        let is_hole = |block: &[u8]| block.iter().all(|byte| *byte == 0);
        let run_starts_as = is_hole(&plain[at..plain.len().min(at + HOLE_BYTES)]);
        let mut end = at;
        while end < plain.len() && is_hole(&plain[end..plain.len().min(end + HOLE_BYTES)]) == run_starts_as {
            end = plain.len().min(end + HOLE_BYTES);
        }
        if !run_starts_as {
            file.write_all_at(&plain[at..end], offset + at as u64)?;
        }
        at = end;
    }
    Ok(())
}

fn digest_of(mut file: &File) -> io::Result<Digest> {
    file.rewind()?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; COMPARE_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Digest::from_bytes(*hasher.finalize().as_bytes())),
            Ok(len) => hasher.update(&buffer[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
    }
}
