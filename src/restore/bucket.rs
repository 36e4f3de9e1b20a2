//! Restores a component, or a part of it, into a part of a bucket.
//!
//! What must stay true:
//! - Every chunk is verified against its id, and the whole content against its digest, before the object becomes visible.
//! - What is there already is never replaced unless that was asked for; what has the right content counts as done, so
//!   that a restore that was killed goes on where it stopped.
//! - What cannot be restored is named and the rest goes on.
//! - Memory is bounded by the memory plan: small objects are restored in batches, large ones one after another.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::budget::Budget;
use crate::chunks::fetch::{ChunkFetcher, WantedChunk};
use crate::chunks::reader::ChunkReader;
use crate::error::{Error, Fault, Result};
use crate::format::snapshot::FILES;
use crate::format::tree::{Entry, EntryKind, FileContent};
use crate::globs::Patterns;
use crate::hears::Hears;
use crate::id::Digest;
use crate::monitor::Counter;
use crate::parallel;
use crate::repository::Repository;
use crate::repository::snapshots::Snapshot;
use crate::restore::{RestoreSummary, RestoreTally, add};
use crate::s3::{ListedObject, ObjectHeaders};
use crate::target::bucket::{BucketTarget, ExistingObjects, ObjectWriter, PART_BYTES};
use crate::trees::contents::{self, Selection};
use crate::trees::reader::{chunks_of, for_each_chunk_of};
use crate::units::MIB;

/// Bytes of content that are restored together.
const BATCH_BYTES_MAX: u64 = 16 * MIB;
/// Objects that are restored together.
const BATCH_OBJECTS_MAX: usize = 2048;
/// Requests for small objects that are under way at once.
const REQUESTS_MAX: usize = 16;

/// How to restore into a bucket.
#[derive(Debug, Clone, Copy, Default)]
pub struct BucketRestoreOptions<'a> {
    /// Replace objects that are there with another content. Without it they are problems.
    pub replace: bool,
    /// Only tell what would be done.
    pub dry_run: bool,
    /// Put what is below the path right into the target, not below the path.
    pub strips_path: bool,
    /// Which paths of the tree; all without.
    pub patterns: Option<&'a Patterns>,
}

/// A part of a bucket to restore into, and how.
#[derive(Clone, Copy)]
pub struct IntoBucket<'a> {
    /// Where.
    pub target: &'a BucketTarget,
    /// How.
    pub options: BucketRestoreOptions<'a>,
}

/// Restores a snapshot, or what is at a path of it and below, as users know it. Entries keep their paths below the target,
/// components other than plain files below their name.
pub fn run_snapshot(
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    path: &[u8],
    into: IntoBucket<'_>,
    hears: &Hears,
) -> Result<RestoreSummary> {
    repository.access().data_secret()?;
    let reader = ChunkReader::new(Arc::clone(repository));
    let path = contents::normal_path(path);
    let tally = RestoreTally::default();
    let mut found = path.is_empty();
    for selection in contents::select(snapshot, path) {
        let name = name_in_target(&selection, path, into.options.strips_path);
        let name = std::str::from_utf8(&name).map_err(|_| contents::no_such_path(snapshot, path))?;
        let target = into.target.below(name.trim_end_matches('/'));
        let into = IntoBucket { target: &target, ..into };
        found |= BucketRestore::new(&reader, &selection, into, hears, &tally).restore()?;
    }
    if found { Ok(tally.summary()) } else { Err(contents::no_such_path(snapshot, path)) }
}

/// Returns below which path of the target a selection goes.
fn name_in_target(selection: &Selection<'_>, path: &[u8], strips_path: bool) -> Vec<u8> {
    let component = &selection.component.name;
    match strips_path && !path.is_empty() {
        true => contents::name_below(component, path).unwrap_or_default().into(),
        false if selection.path.is_empty() && component == FILES => Vec::new(),
        false => contents::shown_path(component, &selection.path),
    }
}

/// Restores what is at a path of a component's tree and below it; the empty path stands for all of it. What an entry's
/// path has behind the selected one comes behind the target's prefix.
pub fn run(
    reader: &ChunkReader,
    selection: &Selection<'_>,
    into: IntoBucket<'_>,
    hears: &Hears,
) -> Result<RestoreSummary> {
    reader.repository().access().data_secret()?;
    let tally = RestoreTally::default();
    BucketRestore::new(reader, selection, into, hears, &tally).restore()?;
    Ok(tally.summary())
}

/// An object to restore.
struct PlannedObject {
    entry: Entry,
    content: FileContent,
    key: String,
    headers: ObjectHeaders,
    existing: Option<ListedObject>,
}

/// What is to be done with an object.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ObjectDecision {
    Done,
    Write,
}

/// Small objects that are restored together.
#[derive(Default)]
struct ObjectBatch {
    objects: Vec<PlannedObject>,
    bytes: u64,
}

/// One component on its way into one bucket.
struct BucketRestore<'a> {
    reader: &'a ChunkReader,
    selection: &'a Selection<'a>,
    target: &'a BucketTarget,
    options: BucketRestoreOptions<'a>,
    hears: &'a Hears,
    tally: &'a RestoreTally,
    fetcher: ChunkFetcher<'a>,
    batch_bytes_max: u64,
    /// For objects that are read to be compared.
    compare_budget: Budget,
}

impl<'a> BucketRestore<'a> {
    fn new(
        reader: &'a ChunkReader,
        selection: &'a Selection<'a>,
        into: IntoBucket<'a>,
        hears: &'a Hears,
        tally: &'a RestoreTally,
    ) -> Self {
        // A quarter each: ranges of packs, chunks, the objects or parts made of them, and a part that is being filled.
        let quarter = reader.repository().memory_plan().chunk_bytes / 4;
        Self {
            reader,
            selection,
            target: into.target,
            options: into.options,
            hears,
            tally,
            fetcher: ChunkFetcher::new(reader, quarter, hears),
            batch_bytes_max: quarter.min(BATCH_BYTES_MAX),
            compare_budget: Budget::new(2 * quarter),
        }
    }

    /// Returns whether anything was selected.
    fn restore(&self) -> Result<bool> {
        let component = self.selection.component;
        let totals = self.selection.path.is_empty().then_some((component.entries, component.bytes));
        self.hears.monitor.phase("restore", totals.map(|totals| totals.0), totals.map(|totals| totals.1));
        let mut existing = self.target.existing();
        let mut batch = ObjectBatch::default();
        let (mut found, mut directories) = (false, 0);
        for entry in self.entries()? {
            self.hears.check()?;
            found = true;
            match entry {
                Err(error) if error.is_damage() => {
                    self.report(component.name.as_bytes(), &format!("a part of its tree is lost: {error}"));
                }
                Err(error) => return Err(error),
                Ok(entry) if entry.kind == EntryKind::Directory => directories += 1,
                Ok(entry) => self.take_in(entry, &mut existing, &mut batch)?,
            }
        }
        self.restore_batch(batch)?;
        add(&self.tally.directories, directories);
        if directories > 0 {
            self.hears
                .monitor
                .note("A bucket has no directories: empty ones, and modes, owners and times are not restored");
        }
        Ok(found)
    }

    fn entries(&self) -> Result<Box<dyn Iterator<Item = Result<Entry>> + 'a>> {
        let entries = match contents::entries(self.reader, self.selection) {
            Err(error) if error.is_damage() => return Ok(Box::new(std::iter::once(Err(error)))),
            entries => entries?,
        };
        let Some(patterns) = self.options.patterns else { return Ok(entries) };
        Ok(Box::new(entries.filter(|entry| entry.as_ref().map_or(true, |entry| patterns.select(&entry.path)))))
    }

    fn take_in(&self, entry: Entry, existing: &mut ExistingObjects, batch: &mut ObjectBatch) -> Result<()> {
        let Some(object) = self.object(entry, existing)? else { return Ok(()) };
        if object.content.size > PART_BYTES {
            return self.restore_large(&object);
        }
        let is_full = batch.bytes + object.content.size > self.batch_bytes_max;
        if is_full || batch.objects.len() >= BATCH_OBJECTS_MAX {
            self.restore_batch(std::mem::take(batch))?;
        }
        batch.bytes = batch.bytes.saturating_add(object.content.size);
        batch.objects.push(object);
        Ok(())
    }

    /// Tells which object an entry becomes, or names why it becomes none.
    fn object(&self, entry: Entry, existing: &mut ExistingObjects) -> Result<Option<PlannedObject>> {
        let EntryKind::File(content) = &entry.kind else {
            self.report(&entry.path, "it is not restored: a bucket has no symlinks");
            return Ok(None);
        };
        let selected = &self.selection.path;
        let behind = entry.path.get(selected.len()..).unwrap_or_default();
        let behind = if selected.is_empty() { [b"/", behind].concat() } else { behind.to_vec() };
        let key = match self.target.key_of(&behind) {
            Ok(key) => key,
            Err(reason) => {
                self.report(&entry.path, &format!("it is not restored: {reason}"));
                return Ok(None);
            }
        };
        let (headers, unusable) = ObjectHeaders::from_attributes(&entry.attributes);
        if !unusable.is_empty() {
            self.report(&entry.path, &format!("it is restored without its {}", unusable.join(" and ")));
        }
        let (content, existing) = (content.clone(), existing.at(&key)?);
        Ok(Some(PlannedObject { entry, content, key, headers, existing }))
    }

    /// Restores small objects: looks which are there, fetches the chunks of the others together, and writes them.
    fn restore_batch(&self, batch: ObjectBatch) -> Result<()> {
        let decided = parallel::map(&batch.objects, REQUESTS_MAX, |object| self.settle(object, self.decide(object)));
        let mut to_write: Vec<(PlannedObject, Vec<WantedChunk>)> = Vec::new();
        for (object, decision) in batch.objects.into_iter().zip(decided) {
            if decision? != Some(ObjectDecision::Write) {
                continue;
            }
            let path: Arc<str> = object.entry.path_text().into();
            let chunks = self.settle(&object, chunks_of(self.reader, &path, &object.content))?;
            to_write.extend(chunks.map(|chunks| {
                let kind = object.content.kind;
                let wanted = |chunk| WantedChunk { kind, chunk, needed_by: Arc::clone(&path) };
                let wanted = chunks.into_iter().map(wanted).collect();
                (object, wanted)
            }));
        }
        let wanted: Vec<WantedChunk> = to_write.iter().flat_map(|(_, wanted)| wanted.iter().cloned()).collect();
        let mut fetched = self.fetcher.fetch(&wanted)?.into_iter();
        let contents: Vec<(PlannedObject, Result<Bytes>)> = to_write
            .into_iter()
            .map(|(object, wanted)| {
                let content = fetched.by_ref().take(wanted.len()).collect::<Vec<_>>();
                (object, content.into_iter().collect::<Result<Vec<_>>>().map(|chunks| Bytes::from(chunks.concat())))
            })
            .collect();
        let written = parallel::map(&contents, REQUESTS_MAX, |(object, content)| {
            let content = content.as_ref().map_err(Error::clone);
            self.settle(object, content.and_then(|content| self.put_small(object, content)))
        });
        written.into_iter().try_for_each(|written| written.map(drop))
    }

    fn put_small(&self, object: &PlannedObject, content: &Bytes) -> Result<()> {
        self.hears.check()?;
        // Before the request: an object is visible as soon as it is written, and there is no taking it back.
        self.verify(object, Digest::from_bytes(*blake3::hash(content).as_bytes()), content.len() as u64)?;
        let written = self.target.put(&object.key, content, &object.headers, !self.options.replace);
        self.written(object, written)
    }

    fn restore_large(&self, object: &PlannedObject) -> Result<()> {
        let restored = self.decide(object).and_then(|decision| match decision {
            ObjectDecision::Done => Ok(()),
            ObjectDecision::Write => self.put_large(object),
        });
        self.settle(object, restored).map(drop)
    }

    /// Writes a large object part by part. If anything goes wrong the upload is given up, and nothing is visible.
    fn put_large(&self, object: &PlannedObject) -> Result<()> {
        let path: Arc<str> = object.entry.path_text().into();
        let ahead_bytes = self.batch_bytes_max;
        let writer = self.target.begin(&object.key, object.content.size, &object.headers, ahead_bytes)?;
        let mut transfer =
            LargeObject { run: self, writer, hasher: blake3::Hasher::new(), wanted: Vec::new(), bytes: 0, written: 0 };
        for_each_chunk_of(self.reader, &path, &object.content, &mut |chunk| {
            transfer.bytes += u64::from(chunk.len);
            transfer.wanted.push(WantedChunk { kind: object.content.kind, chunk, needed_by: Arc::clone(&path) });
            if transfer.bytes >= PART_BYTES.min(self.batch_bytes_max) { transfer.flush() } else { Ok(()) }
        })?;
        transfer.flush()?;
        // All parts are there and none is visible: finishing the upload is what makes the object, so the digest comes first.
        self.verify(object, Digest::from_bytes(*transfer.hasher.finalize().as_bytes()), transfer.written)?;
        let written = transfer.writer.finish(!self.options.replace);
        self.written(object, written)
    }

    fn verify(&self, object: &PlannedObject, digest: Digest, len: u64) -> Result<()> {
        if (digest, len) == (object.content.digest, object.content.size) {
            return Ok(());
        }
        let reason = "its content does not have the digest that the snapshot recorded";
        Err(Error::damaged(format!("{:?}", object.entry.path_text()), reason))
    }

    /// Decides by what is there, and counts.
    fn decide(&self, object: &PlannedObject) -> Result<ObjectDecision> {
        self.hears.check()?;
        if let Some(existing) = &object.existing {
            if existing.size == object.content.size && self.is_there(object)? {
                self.count_unchanged(object);
                return Ok(ObjectDecision::Done);
            }
            if !self.options.replace {
                return Err(in_the_way(self.target, &object.key));
            }
        }
        if self.options.dry_run {
            self.count_written(object);
            return Ok(ObjectDecision::Done);
        }
        Ok(ObjectDecision::Write)
    }

    fn is_there(&self, object: &PlannedObject) -> Result<bool> {
        let _permit = self.compare_budget.take(object.content.size.min(PART_BYTES));
        self.target.holds(&object.key, object.content.size, &object.content.digest)
    }

    /// Judges the answer to a write. A refusal is a success if the object that is there is the right one: it may be this
    /// very write that was repeated underway.
    fn written(&self, object: &PlannedObject, written: Result<()>) -> Result<()> {
        match written {
            Err(error) if matches!(error.fault(), Some(Fault::AlreadyExists | Fault::NotFound)) => {
                if !self.is_there(object)? {
                    let is_taken = error.fault() == Some(Fault::AlreadyExists);
                    return Err(if is_taken { in_the_way(self.target, &object.key) } else { error });
                }
            }
            written => written?,
        }
        self.count_written(object);
        self.hears.monitor.detail(&|| format!("restored {}", object.entry.path_text()));
        Ok(())
    }

    fn count_written(&self, object: &PlannedObject) {
        add(&self.tally.files_written, 1);
        add(&self.tally.bytes_written, object.content.size);
        self.hears.monitor.count(Counter::Entries, 1);
        self.hears.monitor.count(Counter::Bytes, object.content.size);
    }

    fn count_unchanged(&self, object: &PlannedObject) {
        add(&self.tally.files_unchanged, 1);
        add(&self.tally.bytes_unchanged, object.content.size);
        self.hears.monitor.count(Counter::Entries, 1);
        self.hears.monitor.count(Counter::Bytes, object.content.size);
        self.hears.monitor.count(Counter::BytesDeduplicated, object.content.size);
    }

    /// Reports what concerns one object, and passes on what ends the restore.
    fn settle<T>(&self, object: &PlannedObject, result: Result<T>) -> Result<Option<T>> {
        match result {
            Err(error) if ends_all(&error) => Err(error),
            Err(error) => {
                self.report(&object.entry.path, &error.to_string());
                Ok(None)
            }
            Ok(value) => Ok(Some(value)),
        }
    }

    fn report(&self, path: &[u8], message: &str) {
        self.tally.problems.fetch_add(1, Ordering::Relaxed);
        let shown = contents::shown_path(&self.selection.component.name, path);
        self.hears.monitor.problem(&String::from_utf8_lossy(&shown), message);
    }
}

/// The content of a large object on its way.
struct LargeObject<'r, 'a> {
    run: &'r BucketRestore<'a>,
    writer: ObjectWriter,
    hasher: blake3::Hasher,
    wanted: Vec<WantedChunk>,
    bytes: u64,
    written: u64,
}

impl LargeObject<'_, '_> {
    /// Fetches the chunks that are wanted, and writes them.
    fn flush(&mut self) -> Result<()> {
        self.run.hears.check()?;
        self.bytes = 0;
        for chunk in self.run.fetcher.fetch(&std::mem::take(&mut self.wanted))? {
            let chunk = chunk?;
            self.hasher.update(&chunk);
            self.written += chunk.len() as u64;
            self.writer.write(&chunk)?;
        }
        Ok(())
    }
}

fn in_the_way(target: &BucketTarget, key: &str) -> Error {
    let reason = "an object with another content is there, and is left as it is";
    Error::backend(Fault::AlreadyExists, "create", target.place(key), reason)
}

/// Returns whether an error would meet every other object too.
fn ends_all(error: &Error) -> bool {
    let of_server = matches!(error.fault(), Some(Fault::Denied | Fault::Unavailable | Fault::Full | Fault::ReadOnly));
    of_server || matches!(error, Error::Interrupted | Error::Internal(_))
}
