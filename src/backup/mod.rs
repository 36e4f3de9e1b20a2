//! Backs up a source as one snapshot.
//!
//! What must stay true:
//! - The snapshot is written last, and only if everything that it names is in the backend and indexed.
//! - What could not be read, vanished or changed while it was read is named in the snapshot, which is incomplete then.
//! - A stream whose command fails makes no snapshot at all.

mod deployment;
mod file_under_way;
mod job;
mod parent;
mod pipeline;
mod problems;
mod review;
pub mod sharded;
mod stage;
mod survey;
mod tally;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

pub use crate::backup::deployment::PRE_UPGRADE;
use crate::backup::job::Job;
use crate::backup::parent::{PARENT, ParentTree};
use crate::backup::problems::Problems;
use crate::backup::review::NoReview;
use crate::chunks::reader::ChunkReader;
use crate::chunks::writer::Written;
use crate::chunks::writing_session::WritingSession;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::deployment::DeploymentRecord;
use crate::format::snapshot::{Completeness, Component, Coverage, FILES, SnapshotRecord, SourceRecord, Statistics};
use crate::hears::Hears;
use crate::id::SessionId;
use crate::monitor::Monitor;
use crate::repository::Repository;
use crate::repository::session::{PROGRAM, host_name};
use crate::repository::snapshots::{Snapshot, SnapshotList};
use crate::repository::trust;
use crate::s3::{BucketLocation, S3Options};
use crate::source::Source;
use crate::source::bucket::BucketSource;
use crate::source::command::CommandStream;
use crate::source::deployment::Deployment;
use crate::source::directory::DirectorySource;
use crate::source::filter::{Exclusions, Filter, OwnPlaces};
use crate::source::stream::{Opener, Stdin, StreamSource};
use crate::trees::earlier;
use crate::trees::reader::TreeReader;
use crate::trees::writer::TreeSummary;

/// What to back up.
#[derive(Debug, Clone)]
pub enum BackupSource {
    /// Files and directories.
    Paths {
        /// The paths.
        paths: Vec<PathBuf>,
    },
    /// A part of a bucket.
    Bucket {
        /// Which part.
        location: BucketLocation,
        /// How to reach it.
        options: S3Options,
    },
    /// Standard input, under a name.
    Stdin {
        /// The name.
        name: String,
    },
    /// The output of a shell command, under a name.
    Command {
        /// The command line.
        line: String,
        /// The name.
        name: String,
    },
    /// An MLflow deployment: databases, artifacts and metadata.
    Deployment(Box<Deployment>),
}

/// How to back it up.
#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// What.
    pub what: BackupSource,
    /// What to leave out of it. Streams are stored whole.
    pub exclusions: Exclusions,
    /// What mlvault itself needs: a backup of its own repository would grow with each night.
    pub own_places: OwnPlaces,
    /// Tags of the snapshot.
    pub tags: Vec<String>,
    /// Read every file, also those that look unchanged.
    pub force: bool,
    /// Do not take another inode or change time for a change: for network file systems.
    pub ignore_inode: bool,
    /// Store extended attributes and ACLs of files and directories, too.
    pub xattrs: bool,
    /// Only look: read no content, write nothing.
    pub dry_run: bool,
    /// The MLflow release that a snapshot tagged [`PRE_UPGRADE`] is taken before.
    pub upgrade_to: Option<String>,
}

impl BackupOptions {
    /// Backs up a source in the ordinary way: what looks unchanged is taken over, and nothing is tagged.
    pub fn new(what: BackupSource) -> Self {
        Self {
            what,
            exclusions: Exclusions::default(),
            own_places: OwnPlaces::new(),
            tags: Vec::new(),
            force: false,
            ignore_inode: false,
            xattrs: false,
            dry_run: false,
            upgrade_to: None,
        }
    }

    /// Backs up files and directories.
    pub fn of_paths(paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        let paths = paths.into_iter().map(Into::into).collect();
        Self::new(BackupSource::Paths { paths })
    }

    fn filter(&self) -> Result<Filter> {
        Ok(Filter::new(&self.exclusions)?.without(&self.own_places))
    }
}

/// How a backup went.
#[derive(Debug, Clone)]
pub struct BackupSummary {
    /// The snapshot; none after a dry run.
    pub snapshot: Option<SessionId>,
    /// Its record; after a dry run, what it would have said as far as that is known.
    pub record: SnapshotRecord,
    /// By how many seconds our clock was ahead of the backend's at the start, less than nothing if it was behind; none if
    /// it was right.
    pub clock_off_seconds: Option<i64>,
}

/// Runs a backup.
pub fn run(repository: &Arc<Repository>, options: &BackupOptions, hears: &Hears) -> Result<BackupSummary> {
    check(options)?;
    // The snapshot will bear the time of this clock.
    let clock_off_seconds = repository.tell_clock_off(hears);
    let summary =
        if options.dry_run { dry_run(repository, options, hears) } else { store_anew(repository, options, hears) };
    summary.map(|summary| BackupSummary { clock_off_seconds, ..summary })
}

/// Stores a source, and once more if a prune has ended the session.
fn store_anew(repository: &Arc<Repository>, options: &BackupOptions, hears: &Hears) -> Result<BackupSummary> {
    match store(repository, options, hears) {
        // A second time is no coincidence: then the operator should know. Standard input cannot be read again.
        Err(Error::Busy(reason)) if !matches!(options.what, BackupSource::Stdin { .. }) => {
            hears.monitor.note(&format!("{reason}; the backup is begun anew"));
            store(repository, options, hears)
        }
        result => result,
    }
}

fn check(options: &BackupOptions) -> Result<()> {
    match &options.what {
        BackupSource::Paths { paths } if paths.is_empty() => Err(Error::Invalid("No path was given".to_owned())),
        BackupSource::Stdin { name } | BackupSource::Command { name, .. } if !is_stream_name(name) => {
            Err(Error::Invalid(format!("{name:?} cannot name a stream: it must be a relative path without . and ..")))
        }
        _ => Ok(()),
    }
}

fn is_stream_name(name: &str) -> bool {
    name.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0'))
}

fn store(repository: &Arc<Repository>, options: &BackupOptions, hears: &Hears) -> Result<BackupSummary> {
    let begun = std::time::Instant::now();
    // Whatever cannot be right is found before there is a session.
    let source_record = source_record(&options.what)?;
    let walked = match &options.what {
        BackupSource::Paths { .. } | BackupSource::Bucket { .. } => {
            Some(open_source(options, repository, hears.monitor.as_ref())?)
        }
        BackupSource::Deployment(deployment) => deployment::check_places(deployment, options).map(|()| None)?,
        BackupSource::Stdin { .. } | BackupSource::Command { .. } => None,
    };
    // Announced before snapshots are listed and the index is read: so a prune either left tombstones that this session
    // sees, or sees this session and waits for it.
    let session = WritingSession::begin(repository, "backup", hears)?;
    let list = repository.list_snapshots()?;
    note_damage(&list, hears);
    let parent = session.last_reliable(of_source(&list, &source_record))?;
    tell_begun(&session, &source_record, parent, hears);
    let problems = Problems::new(repository, &source_record, Arc::clone(&hears.monitor));
    let chunks = session.writer();
    let job = Job { repository, chunks, problems: &problems, hears, kind: BlobKind::Data };
    let compare = Compare {
        parent,
        reads_all: options.force,
        ignore_inode: options.ignore_inode,
        check_chunks: session.must_look_up(),
    };
    let stored = store_components(&job, options, walked.as_deref(), &compare);
    report_index_damage(repository, hears);
    let started = session.started();
    // If this ends here, or is interrupted, what was uploaded is indexed and the session closed: the next run finds the
    // chunks, and no prune waits.
    let mut stored = stored?;
    let (session, written) = session.finish()?;
    count_written(&mut stored.statistics, written);
    stored.statistics.duration_ms = begun.elapsed().as_millis() as u64;
    // The last moment to stop: what the commit below makes visible stays.
    hears.check()?;
    let about = About { repository, started, options, source: source_record.clone(), parent, list: &list };
    let record = about.record(stored, &problems);
    // Last, when every pack and segment that it leads to is in the backend: who sees the snapshot can restore it. Refused
    // if a prune has voided the session meanwhile, because then packs may be gone.
    let snapshot = session.commit(record.clone())?;
    Ok(BackupSummary { snapshot: Some(snapshot), record, clock_off_seconds: None })
}

fn tell_begun(session: &WritingSession, source: &SourceRecord, parent: Option<&Snapshot>, hears: &Hears) {
    hears.monitor.begun(&|| {
        let what = match source {
            SourceRecord::Paths { paths } => paths.join(" "),
            SourceRecord::Stream { name, .. } => format!("the stream {name}"),
            SourceRecord::Deployment { name } => format!("the deployment {name}"),
        };
        let parent =
            parent.map_or_else(|| "no earlier snapshot".to_owned(), |parent| format!("snapshot {}", parent.id.short()));
        format!("Session {}: backup of {what}, compared with {parent}", session.id().short())
    });
}

/// What a backup stored.
struct StoredSource {
    components: Vec<Component>,
    statistics: Statistics,
    deployment: Option<Box<DeploymentRecord>>,
    /// Whether everything beside the topmost entries was looked at; not known of streams.
    covers_top: Option<bool>,
}

/// What a source is compared with.
pub(crate) struct Compare<'a> {
    /// The snapshot whose component of the same name unchanged files are taken over from.
    pub parent: Option<&'a Snapshot>,
    /// Read also what looks unchanged.
    pub reads_all: bool,
    /// Do not take another inode or change time for a change.
    pub ignore_inode: bool,
    /// There are tombstones: no chunk may be relied on unasked.
    pub check_chunks: bool,
}

/// Stores a source as the component of this name.
pub(crate) fn store_source(
    job: &Job<'_>,
    source: &dyn Source,
    component: &str,
    compare: &Compare<'_>,
) -> Result<(TreeSummary, Statistics)> {
    let reader = ChunkReader::new(Arc::clone(job.repository));
    let parent = compare.parent.filter(|_| !compare.reads_all);
    let tree = parent.and_then(|parent| open_parent(&reader, parent, component, job.hears));
    let parent = ParentTree::new(tree, &reader, job.hears.monitor.as_ref(), compare.ignore_inode, compare.check_chunks);
    pipeline::store_tree(job, source, parent, &mut NoReview)
}

/// Opens a source that can be walked. Half of the memory for chunks is between readers and sealers; what is read ahead of
/// a bucket has the other half.
fn open_source(options: &BackupOptions, repository: &Repository, monitor: &dyn Monitor) -> Result<Box<dyn Source>> {
    let filter = options.filter()?;
    match &options.what {
        BackupSource::Paths { paths } => {
            let source = DirectorySource::new(paths, filter)?.with_xattrs(options.xattrs);
            for pattern in source.idle_patterns() {
                monitor.note(&format!(
                    "The pattern {pattern:?} matches nothing here: with a /, it is compared with whole paths in the snapshot"
                ));
            }
            Ok(Box::new(source))
        }
        BackupSource::Bucket { location, options } => {
            let read_ahead_bytes = repository.memory_plan().chunk_bytes / 2;
            Ok(Box::new(BucketSource::connect(location, options, filter, read_ahead_bytes)?))
        }
        BackupSource::Stdin { .. } | BackupSource::Command { .. } | BackupSource::Deployment(_) => {
            Err(Error::Invalid("A dry run reads no streams; give paths".to_owned()))
        }
    }
}

fn store_components(
    job: &Job<'_>,
    options: &BackupOptions,
    walked: Option<&dyn Source>,
    compare: &Compare<'_>,
) -> Result<StoredSource> {
    let mut covers_top = None;
    let (tree, statistics) = match &options.what {
        BackupSource::Paths { .. } | BackupSource::Bucket { .. } => {
            let source = walked.ok_or_else(|| Error::Internal("Nothing was opened to be walked".to_owned()))?;
            let (tree, statistics) = store_source(job, source, FILES, compare)?;
            covers_top = Some(source.covers_top());
            (tree, statistics)
        }
        BackupSource::Stdin { name } => {
            store_stream(job, name, Box::new(|| Ok(Box::new(Stdin::new(&job.hears.cancel)))))?
        }
        BackupSource::Command { line, name } => {
            store_stream(job, name, Box::new(|| Ok(Box::new(CommandStream::start(line, &job.hears.cancel)?))))?
        }
        BackupSource::Deployment(deployment) => {
            let deployment::StoredDeployment { components, statistics, record } =
                deployment::store(job, deployment, options, compare)?;
            return Ok(StoredSource {
                components,
                statistics,
                deployment: Some(Box::new(record)),
                covers_top: Some(true),
            });
        }
    };
    let completeness = completeness(job.problems.count());
    let components = vec![tree.component(FILES, completeness)];
    Ok(StoredSource { components, statistics, deployment: None, covers_top })
}

fn completeness(problems: u64) -> Completeness {
    if problems == 0 { Completeness::Complete } else { Completeness::Incomplete }
}

/// Stores one stream as a tree of one file.
fn store_stream(job: &Job<'_>, name: &str, opener: Opener<'_>) -> Result<(TreeSummary, Statistics)> {
    let source = StreamSource::new(vec![(name.to_owned(), opener)], job.repository.clock().now());
    let reader = ChunkReader::new(Arc::clone(job.repository));
    let stored =
        pipeline::store_tree(job, &source, ParentTree::none(&reader, job.hears.monitor.as_ref()), &mut NoReview);
    // A command may fail after its last byte was stored; then there must be no snapshot of what looks whole.
    source.into_result().and(stored)
}

/// Opens the parent's tree. If that fails everything is read anew, which is slower and nothing worse.
fn open_parent<'a>(
    reader: &'a ChunkReader,
    parent: &Snapshot,
    component: &str,
    hears: &'a Hears,
) -> Option<TreeReader<'a>> {
    earlier::open(reader, parent, component, PARENT, hears.monitor.as_ref())
}

fn dry_run(repository: &Arc<Repository>, options: &BackupOptions, hears: &Hears) -> Result<BackupSummary> {
    let list = repository.list_snapshots()?;
    let source = source_record(&options.what)?;
    let trusted = trust::trusted_slots(repository)?;
    let mut earlier = of_source(&list, &source).rev().filter(|snapshot| trusted.contains(&snapshot.signer.slot));
    let parent = if options.force { None } else { earlier.next() };
    let problems = Problems::new(repository, &source, Arc::clone(&hears.monitor));
    let reader = ChunkReader::new(Arc::clone(repository));
    let (components, statistics) = (Vec::new(), Statistics::default());
    let mut stored = StoredSource { components, statistics, deployment: None, covers_top: None };
    let mut survey = |name: &str, source: &dyn Source| {
        let tree = parent.and_then(|parent| open_parent(&reader, parent, name, hears));
        let compared = ParentTree::new(tree, &reader, hears.monitor.as_ref(), options.ignore_inode, false);
        let (entries, bytes, statistics) = survey::survey(source, compared, &problems, hears)?;
        let tree = TreeSummary { root: crate::id::ChunkId::from_bytes([0; 32]), entries, bytes, commitment: None };
        add_statistics(&mut stored.statistics, &statistics);
        stored.components.push(tree.component(name, Completeness::Complete));
        Ok(())
    };
    match &options.what {
        BackupSource::Deployment(deployment) => {
            let read_ahead_bytes = repository.memory_plan().chunk_bytes / 2;
            let parts = deployment::SurveyParts { cancel: &hears.cancel, read_ahead_bytes, filter: options.filter()? };
            deployment::survey(&parts, deployment, &mut survey)?;
        }
        _ => survey(FILES, open_source(options, repository, hears.monitor.as_ref())?.as_ref())?,
    }
    let about =
        About { repository, started: repository.clock().now(), options, source: source.clone(), parent, list: &list };
    Ok(BackupSummary { snapshot: None, record: about.record(stored, &problems), clock_off_seconds: None })
}

fn note_damage(list: &SnapshotList, hears: &Hears) {
    list.note_to(hears.monitor.as_ref());
}

fn report_index_damage(repository: &Repository, hears: &Hears) {
    for error in repository.index().take_damage() {
        hears.monitor.note(&format!("A part of the index cannot be read, see `mlvault repair index`: {error}"));
    }
}

fn source_record(what: &BackupSource) -> Result<SourceRecord> {
    match what {
        BackupSource::Paths { paths } => {
            let absolute = |path: &PathBuf| {
                std::path::absolute(path)
                    .map(|path| one_form(&path).to_string_lossy().into_owned())
                    .map_err(|source| Error::source("look at", path.clone(), source))
            };
            let mut paths = paths.iter().map(absolute).collect::<Result<Vec<_>>>()?;
            paths.sort();
            paths.dedup();
            Ok(SourceRecord::Paths { paths })
        }
        BackupSource::Bucket { location, .. } => Ok(SourceRecord::Paths { paths: vec![location.to_string()] }),
        BackupSource::Deployment(deployment) => Ok(SourceRecord::Deployment { name: deployment.name.clone() }),
        BackupSource::Stdin { name } => Ok(SourceRecord::Stream { name: name.clone(), command: None }),
        BackupSource::Command { line, name } => {
            Ok(SourceRecord::Stream { name: name.clone(), command: Some(line.clone()) })
        }
    }
}

/// Returns an absolute path without `//`, `/.` and a `/` at the end: snapshots of one path must have one source.
fn one_form(path: &Path) -> PathBuf {
    let normal = |part: &std::path::Component<'_>| matches!(part, std::path::Component::Normal(_));
    let is_up = path.components().any(|part| part == std::path::Component::ParentDir);
    if is_up { path.to_owned() } else { Path::new("/").join(path.components().filter(normal).collect::<PathBuf>()) }
}

/// Iterates over the snapshots of a source, complete or not, the oldest first.
fn of_source<'a>(list: &'a SnapshotList, source: &'a SourceRecord) -> impl DoubleEndedIterator<Item = &'a Snapshot> {
    list.snapshots.iter().filter(|snapshot| snapshot.record.source == *source)
}

fn count_written(statistics: &mut Statistics, written: Written) {
    statistics.chunks_new = written.chunks;
    statistics.bytes_new = written.plain_bytes;
    statistics.bytes_stored = written.stored_bytes;
}

/// Adds what the stages count; what the chunk writer counts comes once, at the end.
fn add_statistics(sum: &mut Statistics, part: &Statistics) {
    sum.files_new += part.files_new;
    sum.files_changed += part.files_changed;
    sum.files_unchanged += part.files_unchanged;
    sum.bytes_read += part.bytes_read;
}

/// What a record says beside what was stored.
struct About<'a> {
    repository: &'a Repository,
    started: Timestamp,
    options: &'a BackupOptions,
    source: SourceRecord,
    parent: Option<&'a Snapshot>,
    list: &'a SnapshotList,
}

impl About<'_> {
    fn record(self, stored: StoredSource, problems: &Problems) -> SnapshotRecord {
        let found = problems.take();
        let (problems, problem_count) = (found.named, found.count);
        let accepted = found.accepted;
        let coverage = stored.covers_top.map(|covers_top| Coverage {
            covers_top,
            excludes: self.options.exclusions.patterns.clone(),
            excludes_any_case: self.options.exclusions.patterns_any_case.clone(),
            unread: found.unread,
            unread_count: found.unread_count,
        });
        SnapshotRecord {
            started: self.started,
            finished: self.repository.clock().now(),
            host: host_name(),
            program: PROGRAM.to_owned(),
            source: self.source,
            tags: self.options.tags.clone(),
            parent: self.parent.filter(|_| !self.options.force).map(|parent| parent.id),
            seen: self.list.snapshots.iter().map(|snapshot| snapshot.id).collect(),
            components: stored.components,
            completeness: completeness(problem_count),
            statistics: stored.statistics,
            problems,
            problem_count,
            accepted,
            deployment: stored.deployment,
            copied_from: None,
            rewritten_from: None,
            coverage: coverage.map(Box::new),
            more: Default::default(),
        }
    }
}
