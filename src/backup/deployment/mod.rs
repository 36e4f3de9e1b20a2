//! Backs up a whole MLflow deployment as the components of one snapshot.
//!
//! The order is what makes it consistent: first every database at one instant each, then the artifacts. MLflow writes
//! files before the rows that say that they are complete, so whatever such a row refers to is there by then, unless it was
//! deleted in between; the cross-check tells the one from the other.
//!
//! What must stay true:
//! - Nothing is listed in an artifact store before every database has its instant: the plan of a sharded backup has the
//!   dumps, and shards come after it.
//! - A database that cannot be dumped whole means no snapshot.
//! - A location that is neither mapped nor excluded means no snapshot; an exclusion is recorded.
//! - A row that must have files and has none makes the snapshot incomplete, and is named.

mod cuts;
mod lines;
mod live;
mod merge;
mod metadata;
mod plan;
mod references;
mod shard;
mod upgrade;

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use tempfile::TempDir;

use crate::backup::deployment::lines::Lines;
use crate::backup::deployment::live::Live;
use crate::backup::deployment::merge::Shards;
pub use crate::backup::deployment::plan::{ShardOf, ShardsOf, close, plan, settings, store_shard};
use crate::backup::deployment::references::{CrossCheck, CrossChecked, LinkOut, ParentEntries};
pub use crate::backup::deployment::shard::StoredShard;
pub use crate::backup::deployment::upgrade::PRE_UPGRADE;
use crate::backup::job::Job;
use crate::backup::parent::ParentTree;
use crate::backup::review::NoReview;
use crate::backup::stage::ReviewedTree;
use crate::backup::{BackupOptions, Compare, add_statistics, open_parent, pipeline};
use crate::chunks::reader::ChunkReader;
use crate::database::{DumpStream, Violations};
use crate::error::{Error, Result};
use crate::file_system;
use crate::format::BlobKind;
use crate::format::deployment::{
    DatabaseRecord, DeploymentRecord, KeyRecord, ReferenceCounts, RootRecord, Verdict, Verdicts,
};
use crate::format::snapshot::{CATALOGUE, Completeness, Component, DATABASE, ProblemRecord, Statistics};
use crate::format::tree::Entry;
use crate::mlflow::catalogue::{self, Reference, ReferenceState, StoredTable};
use crate::mlflow::schema::Store;
use crate::monitor::Monitor;
use crate::path_range::PathRange;
use crate::source::Source;
use crate::source::bucket::BucketSource;
use crate::source::deployment::{ArtifactComponent, ArtifactPlace, Deployment, Layout};
use crate::source::directory::DirectorySource;
use crate::source::filter::Filter;
use crate::source::inventory::{self, Claim, OpenDatabase};
use crate::source::spool::SpoolSource;
use crate::source::stream::{Opener, Stream, StreamSource};
use crate::sync::{self, lock};
use crate::trees::writer::TreeSummary;

/// What was stored.
pub struct StoredDeployment {
    /// The components, by name.
    pub components: Vec<Component>,
    /// Numbers, of all components together.
    pub statistics: Statistics,
    /// What the snapshot's record says of the deployment.
    pub record: DeploymentRecord,
}

/// A backup of a deployment under way.
struct DeploymentBackup<'a> {
    job: &'a Job<'a>,
    deployment: &'a Deployment,
    compare: &'a Compare<'a>,
    /// How artifacts are read.
    reading: Reading,
    layout: Layout,
    scratch: TempDir,
    components: Vec<Component>,
    statistics: Statistics,
    references: Vec<Reference>,
    counts: ReferenceCounts,
}

/// How artifacts are read.
#[derive(Clone)]
struct Reading {
    /// What is left out of them.
    filter: Filter,
    /// Memory for reading ahead.
    read_ahead_bytes: u64,
    /// Whether extended attributes are stored.
    xattrs: bool,
}

/// What the databases said, each at its instant.
struct ReadDatabases {
    read_at: Timestamp,
    records: Vec<DatabaseRecord>,
    keys: Vec<KeyRecord>,
    /// What is wrong with them.
    problems: Vec<ProblemRecord>,
    /// What rows claim to have files.
    claims: Vec<Claim>,
}

/// Where the entries of artifacts come from.
enum Origin<'a> {
    /// The artifact stores.
    Stores,
    /// The shards of a plan, which have read them.
    Shards(Shards<'a>),
}

/// Stores a deployment.
pub fn store(
    job: &Job<'_>,
    deployment: &Deployment,
    options: &BackupOptions,
    compare: &Compare<'_>,
) -> Result<StoredDeployment> {
    let mut run = DeploymentBackup::begin(job, deployment, options, compare)?;
    let read = run.read_databases(options)?;
    run.finish(read, &Origin::Stores)
}

/// Fails for what is wrong with the places of artifacts and with patterns, as [`store`] would.
pub fn check_places(deployment: &Deployment, options: &BackupOptions) -> Result<()> {
    let filter = options.filter()?;
    let components = deployment.layout()?.components;
    let reading = Reading { filter, read_ahead_bytes: 0, xattrs: false };
    let open = |component| open_artifacts(component, reading.clone(), PathRange::default()).map(drop);
    components.iter().try_for_each(open)
}

/// Finds out what a backup would read, without reading content or writing anything. Fails for what it would fail for.
pub fn survey(
    job_parts: &SurveyParts<'_>,
    deployment: &Deployment,
    visit: &mut dyn FnMut(&str, &dyn Source) -> Result<()>,
) -> Result<()> {
    let scratch = file_system::scratch_directory().map_err(|source| scratch_fault(&std::env::temp_dir(), source))?;
    let layout = deployment.layout()?;
    let mut databases = OpenDatabase::open_all(deployment, scratch.path(), job_parts.cancel)?;
    inventory::read(&mut databases, &layout.map, None, job_parts.cancel)?.check_roots()?;
    for component in &layout.components {
        let (filter, read_ahead_bytes) = (job_parts.filter.clone(), job_parts.read_ahead_bytes);
        let source =
            open_artifacts(component, Reading { filter, read_ahead_bytes, xattrs: false }, PathRange::default())?;
        visit(&component.name, source.as_ref())?;
    }
    Ok(())
}

/// What a survey works with.
pub struct SurveyParts<'a> {
    /// Says when to stop.
    pub cancel: &'a crate::cancel::Cancel,
    /// Memory for reading ahead.
    pub read_ahead_bytes: u64,
    /// What to leave out of the artifacts.
    pub filter: Filter,
}

fn scratch_fault(path: &Path, source: std::io::Error) -> Error {
    Error::target("write to the scratch directory", path.to_owned(), source)
}

/// Opens what is in a range of an artifact store.
fn open_artifacts(component: &ArtifactComponent, reading: Reading, range: PathRange) -> Result<Box<dyn Source>> {
    let Reading { filter, read_ahead_bytes, xattrs } = reading;
    Ok(match &component.place {
        ArtifactPlace::Directory(path) => {
            std::fs::read_dir(path).map_err(|source| Error::source("list", path.clone(), source))?;
            Box::new(DirectorySource::content_at(b"", path, filter)?.with_xattrs(xattrs).within(range))
        }
        ArtifactPlace::Bucket(location, options) => {
            Box::new(BucketSource::connect(location, options, filter, read_ahead_bytes)?.within(range))
        }
    })
}

impl<'a> DeploymentBackup<'a> {
    fn begin(
        job: &'a Job<'a>,
        deployment: &'a Deployment,
        options: &BackupOptions,
        compare: &'a Compare<'a>,
    ) -> Result<Self> {
        let scratch =
            file_system::scratch_directory().map_err(|source| scratch_fault(&std::env::temp_dir(), source))?;
        let read_ahead_bytes = job.repository.memory_plan().chunk_bytes / 2;
        Ok(Self {
            job,
            deployment,
            compare,
            reading: Reading { filter: options.filter()?, read_ahead_bytes, xattrs: options.xattrs },
            layout: deployment.layout()?,
            scratch,
            components: Vec::new(),
            statistics: Statistics::default(),
            references: Vec::new(),
            counts: ReferenceCounts::default(),
        })
    }

    /// Dumps the databases, and writes the tables of the catalogue into the scratch directory.
    fn read_databases(&mut self, options: &BackupOptions) -> Result<ReadDatabases> {
        // All databases get their instants here, before any artifact is listed: what a row of these instants says is
        // complete was written before it, so the listing finds it.
        let read_at = self.job.repository.clock().now();
        self.job.hears.monitor.phase("databases", None, None);
        let mut databases = OpenDatabase::open_all(self.deployment, self.scratch.path(), &self.job.hears.cancel)?;
        for (store, _) in &self.deployment.databases {
            if !databases.iter().any(|database| database.store == *store) {
                let note = format!(
                    "the {} database is the same as another one, by another URI: it is dumped once",
                    store.name()
                );
                self.job.hears.monitor.note(&note);
            }
        }
        let catalogue = self.catalogue();
        std::fs::create_dir(&catalogue).map_err(|source| scratch_fault(&catalogue, source))?;
        let inventory = inventory::read(&mut databases, &self.layout.map, Some(&catalogue), &self.job.hears.cancel)?;
        // Refused before anything is stored: files at a root that nobody mapped would be missing without a word.
        inventory.check_roots()?;
        let keys = self.key_records(&mut databases)?;
        let mut records = database_records(&mut databases)?;
        let problems = self.note_violations(&databases, &mut records, &inventory.misfits);
        // Compared with the very instant that is dumped, so that no migration slips in between.
        if let Some(unknown) = upgrade::check(&records, options, self.compare.parent)? {
            self.job.hears.monitor.note(&unknown);
        }
        // Ends the databases' transactions as early as can be: on a live server they hold back its vacuum.
        let tables = self.store_databases(databases, read_at)?;
        count_tables(&mut records, &tables);
        write_lines(&catalogue.join(catalogue::file_name(catalogue::TABLES)), &tables)?;
        Ok(ReadDatabases { read_at, records, keys, problems, claims: inventory.claims })
    }

    /// Stores everything else, and compares it with what the databases said.
    fn finish(&mut self, read: ReadDatabases, origin: &Origin<'_>) -> Result<StoredDeployment> {
        let ReadDatabases { read_at, records, keys, problems, claims } = read;
        let before = self.job.problems.mark();
        problems.iter().for_each(|problem| self.job.problems.add(&problem.path, &problem.message));
        let database = self.job.problems.verdict_since(before);
        let before = self.job.problems.mark();
        self.store_artifacts(claims, origin)?;
        let artifacts = self.job.problems.verdict_since(before);
        let before = self.job.problems.mark();
        self.report_missing();
        let references = self.job.problems.verdict_since(before);
        let metadata = self.store_metadata()?;
        self.store_catalogue()?;
        self.components.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(StoredDeployment {
            components: std::mem::take(&mut self.components),
            statistics: std::mem::take(&mut self.statistics),
            record: DeploymentRecord {
                read_at,
                mlflow_version: metadata.mlflow_version,
                roots: self.root_records(),
                excluded: self.deployment.excluded.clone(),
                keys,
                verdicts: Verdicts {
                    database: if records.is_empty() { Verdict::Absent } else { database },
                    artifacts: if self.layout.components.is_empty() { Verdict::Absent } else { artifacts },
                    references: if records.is_empty() { Verdict::Absent } else { references },
                    metadata: metadata.verdict,
                    consistency: consistency(&records),
                },
                databases: records,
                references: self.counts,
                lossy: if self.deployment.databases.is_empty() { metadata.lacks } else { Vec::new() },
            },
        })
    }

    /// Returns the directory with the files of the catalogue.
    fn catalogue(&self) -> PathBuf {
        self.scratch.path().join(CATALOGUE)
    }

    /// Opens the parent's tree of a component, to compare with it what is read.
    fn compared<'r>(&'r self, reader: &'r ChunkReader, component: &str) -> ParentTree<'r> {
        let parent = self.compare.parent.filter(|_| !self.compare.reads_all);
        ParentTree::new(
            parent.and_then(|parent| open_parent(reader, parent, component, self.job.hears)),
            reader,
            self.job.hears.monitor.as_ref(),
            self.compare.ignore_inode,
            self.compare.check_chunks,
        )
    }

    /// Says which rules of its schema each database breaks. Returns what cannot be loaded again, which is a problem.
    fn note_violations(
        &self,
        databases: &[OpenDatabase],
        records: &mut [DatabaseRecord],
        misfits: &[(Store, String)],
    ) -> Vec<ProblemRecord> {
        let mut problems = Vec::new();
        for (database, record) in databases.iter().zip(records) {
            let Violations { mut kept, unloadable } = database.reader.facts().violations.clone();
            kept.extend(misfits.iter().filter(|(store, _)| *store == record.store).map(|(_, text)| text.clone()));
            let name = record.store.name();
            for violation in &kept {
                let kept = "rows break rules of its schema, and are backed up as they are";
                self.job.hears.monitor.note(&format!("In the {name} database, {kept}: {violation}"));
            }
            for violation in &unloadable {
                let message =
                    format!("{violation}: its rows are in the snapshot, but no database with this schema takes them");
                problems.push(ProblemRecord { path: format!("{name} database"), message });
            }
            record.violations = [kept, unloadable].concat();
        }
        problems
    }

    fn add_component(&mut self, name: &str, stored: (TreeSummary, Statistics), is_whole: bool) {
        let (tree, statistics) = stored;
        add_statistics(&mut self.statistics, &statistics);
        let completeness = if is_whole { Completeness::Complete } else { Completeness::Incomplete };
        self.components.push(tree.component(name, completeness));
    }

    /// Stores the dumps, one after the other, and returns the tables that were in them.
    fn store_databases(&mut self, databases: Vec<OpenDatabase>, read_at: Timestamp) -> Result<Vec<StoredTable>> {
        if databases.is_empty() {
            return Ok(Vec::new());
        }
        let tables = Mutex::new(Vec::new());
        let mut named: Vec<_> = databases.into_iter().map(|database| (database.store.file_name(), database)).collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        let monitor = self.job.hears.monitor.as_ref();
        let streams =
            named.into_iter().map(|(name, database)| (name, dump_opener(database, &tables, monitor))).collect();
        let source = StreamSource::new(streams, read_at);
        let reader = ChunkReader::new(Arc::clone(self.job.repository));
        let parent = ParentTree::none(&reader, self.job.hears.monitor.as_ref());
        let stored = pipeline::store_tree(self.job, &source, parent, &mut NoReview);
        // A dump that broke off has stored what reads like a whole file: its failure ends the backup.
        source.into_result()?;
        self.add_component(DATABASE, stored?, true);
        Ok(sync::into_inner(tables))
    }

    fn store_artifacts(&mut self, claims: Vec<Claim>, origin: &Origin<'_>) -> Result<()> {
        let components = self.layout.components.clone();
        let mut by_component: Vec<Vec<Claim>> = components.iter().map(|_| Vec::new()).collect();
        for claim in claims {
            match claim.place.as_ref().map(|(component, _)| *component) {
                Some(component) if component < by_component.len() => by_component[component].push(claim),
                place => self.references.push(without_place(claim, place.is_none())),
            }
        }
        for (number, claims) in (0..).zip(by_component) {
            self.store_artifact_component((&components[number], number), claims, origin)?;
        }
        references::count_states(&mut self.counts, &self.references);
        Ok(())
    }

    fn store_artifact_component(
        &mut self,
        (component, number): (&ArtifactComponent, usize),
        claims: Vec<Claim>,
        origin: &Origin<'_>,
    ) -> Result<()> {
        let problems_before = self.job.problems.count();
        let reader = ChunkReader::new(Arc::clone(self.job.repository));
        let parent = self.compare.parent;
        let open = || parent.and_then(|parent| open_parent(&reader, parent, &component.name, self.job.hears));
        let live = Live {
            deployment: self.deployment,
            reader: &reader,
            chunks: self.job.chunks,
            check_chunks: self.compare.check_chunks,
            monitor: &self.job.hears.monitor,
            place: &component.place,
            connections: HashMap::new(),
        };
        let orphans = append(&self.catalogue().join(catalogue::file_name(catalogue::ORPHANS)))?;
        // What is left out now is not lost, though the parent has it.
        let is_wanted =
            |entry: &Result<Entry>| entry.as_ref().map_or(true, |entry| !self.reading.filter.leaves_out(entry));
        let had: ParentEntries<'_> = Box::new(open().into_iter().flatten().filter(is_wanted));
        let mut check =
            CrossCheck::new(&component.name, claims, had, Box::new(live), Box::new(BufWriter::new(orphans)));
        let stored = match origin {
            Origin::Stores => {
                let source = open_artifacts(component, self.reading.clone(), PathRange::default())?;
                let compared = self.compared(&reader, &component.name);
                pipeline::store_tree(self.job, source.as_ref(), compared, &mut check)?
            }
            Origin::Shards(shards) => {
                let mut tree = ReviewedTree::new(self.job, &mut check);
                shards.read_all(self.job, &reader, (&component.name, number), &mut tree)?;
                (tree.finish()?, Statistics::default())
            }
        };
        let CrossChecked { references, counts, links } = check.finish()?;
        self.report_links(component, &links);
        self.references.extend(references);
        self.counts.orphans += counts.orphans;
        self.counts.orphan_bytes += counts.orphan_bytes;
        self.add_component(&component.name, stored, self.job.problems.count() == problems_before);
        Ok(())
    }

    /// Names the symlinks that lead out of what is backed up.
    fn report_links(&self, component: &ArtifactComponent, links: &[LinkOut]) {
        for LinkOut { path, target, rows } in links {
            let reason = format!(
                "it is a symlink to {target}, which is not in this backup, and {rows} rows have their files behind it: map a \
                 root to where it leads, or put the files back"
            );
            self.job.problems.add(&format!("{}/{path}", component.name), &reason);
        }
    }

    /// Names the rows whose files are missing, wholly or in part.
    fn report_missing(&self) {
        for reference in &self.references {
            let reason = match (reference.state, reference.lost.first()) {
                (ReferenceState::Missing, _) => format!("its files are missing: there are none at {}", reference.uri),
                (ReferenceState::Partial, Some(first)) => {
                    format!("files are gone that the snapshot before has, among them {first}")
                }
                _ => continue,
            };
            self.job.problems.add(&format!("{} {}", reference.kind.words(), reference.id), &reason);
        }
    }

    fn store_catalogue(&mut self) -> Result<()> {
        let directory = self.catalogue();
        self.references.sort_by(|a, b| (a.kind, &a.id, &a.uri).cmp(&(b.kind, &b.id, &b.uri)));
        write_lines(&directory.join(catalogue::file_name(catalogue::REFERENCES)), &self.references)?;
        let tree = self.store_scratch_files(&directory)?;
        self.add_component(CATALOGUE, (tree, Statistics::default()), true);
        Ok(())
    }

    /// Stores files of the scratch directory so that every key can read them.
    fn store_scratch_files(&self, directory: &Path) -> Result<TreeSummary> {
        let source = SpoolSource::new(directory)?;
        let reader = ChunkReader::new(Arc::clone(self.job.repository));
        let job = Job { kind: BlobKind::Meta, ..*self.job };
        let parent = ParentTree::none(&reader, self.job.hears.monitor.as_ref());
        Ok(pipeline::store_tree(&job, &source, parent, &mut NoReview)?.0)
    }

    fn root_records(&self) -> Vec<RootRecord> {
        let record = |root: &crate::mlflow::roots::MappedRoot| {
            let component = &self.layout.components[root.component];
            RootRecord {
                uri: root.uri.clone(),
                component: component.name.clone(),
                path: root.path.clone(),
                place: component.place.to_string(),
            }
        };
        self.layout.roots.iter().map(record).collect()
    }

    /// Fingerprints of keys that MLflow keeps outside its databases, where rows need them or they are known.
    fn key_records(&self, databases: &mut [OpenDatabase]) -> Result<Vec<KeyRecord>> {
        let mut records = Vec::new();
        for (name, table, rows) in inventory::rows_behind_keys(databases)? {
            let key = self.deployment.keys.iter().find(|key| key.name == name);
            if rows == 0 && key.is_none() {
                continue;
            }
            if rows > 0 && key.is_none() {
                self.job.hears.monitor.note(&format!(
                    "{rows} rows of the table {table} can only be used with {name}, which no backup holds: keep it elsewhere"
                ));
            }
            let fingerprint = key.map(|key| self.job.repository.keys().fingerprint(key.value.as_bytes()));
            records.push(KeyRecord { name: name.to_owned(), fingerprint, rows });
        }
        Ok(records)
    }
}

fn verdict(is_ok: bool) -> Verdict {
    if is_ok { Verdict::Ok } else { Verdict::NotOk }
}

fn consistency(records: &[DatabaseRecord]) -> Verdict {
    if records.is_empty() {
        Verdict::Absent
    } else {
        verdict(records.iter().all(|record| record.violations.is_empty()))
    }
}

fn without_place(claim: Claim, is_excluded: bool) -> Reference {
    let state = match (is_excluded, claim.must_exist) {
        (true, _) => ReferenceState::Excluded,
        (false, true) => ReferenceState::Missing,
        (false, false) => ReferenceState::Empty,
    };
    let (kind, id, uri) = (claim.kind, claim.id, claim.uri);
    Reference { kind, id, uri, component: None, path: None, files: 0, bytes: 0, digest: None, lost: Vec::new(), state }
}

fn database_records(databases: &mut [OpenDatabase]) -> Result<Vec<DatabaseRecord>> {
    databases.iter_mut().map(database_record).collect()
}

fn database_record(database: &mut OpenDatabase) -> Result<DatabaseRecord> {
    let revisions = database.revisions()?;
    let facts = database.reader.facts();
    if revisions.is_empty() && database.store != Store::Auth {
        return Err(Error::Refused(format!(
            "The database {} is not one of MLflow's: it has no table {}",
            facts.location,
            database.store.version_table()
        )));
    }
    Ok(DatabaseRecord {
        store: database.store,
        engine: facts.engine.name().to_owned(),
        server_version: facts.server_version.clone(),
        dump_version: facts.dump_version.clone(),
        location: facts.location.clone(),
        revisions,
        tables: 0,
        rows: 0,
        violations: Vec::new(),
    })
}

fn count_tables(records: &mut [DatabaseRecord], tables: &[StoredTable]) {
    for record in records {
        let own = tables.iter().filter(|table| table.store == record.store);
        record.tables = own.clone().count() as u64;
        record.rows = own.map(|table| table.table.rows).sum();
    }
}

/// A dump as a stream of the pipeline. Its database stays open, at its instant, until the dump has ended.
struct DatabaseDump<'a> {
    stream: Box<dyn DumpStream>,
    database: OpenDatabase,
    tables: &'a Mutex<Vec<StoredTable>>,
    monitor: &'a dyn Monitor,
}

impl Read for DatabaseDump<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl Stream for DatabaseDump<'_> {
    fn finish(self: Box<Self>) -> Result<()> {
        let store = self.database.store;
        let found = self.stream.finish()?;
        lock(self.tables).extend(found.tables.into_iter().map(|table| StoredTable { store, table }));
        // Better known now than in the night in which it is to be restored.
        if !found.refused.is_empty() {
            self.monitor.note(&format!(
                "a restore of the {} database will refuse statements that MLflow's own schema does not have, unless \
                 --allow-statement names their ids: {}",
                store.name(),
                found.refused
            ));
        }
        Ok(())
    }
}

fn dump_opener<'a>(
    mut database: OpenDatabase,
    tables: &'a Mutex<Vec<StoredTable>>,
    monitor: &'a dyn Monitor,
) -> Opener<'a> {
    Box::new(move || {
        let stream = database.reader.dump()?;
        Ok(Box::new(DatabaseDump { stream, database, tables, monitor }))
    })
}

fn append(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|source| Error::target("write", path.to_owned(), source))
}

fn write_lines<T: serde::Serialize>(path: &Path, lines: &[T]) -> Result<()> {
    let mut file = Lines::create(path)?;
    lines.iter().try_for_each(|line| file.push(line))?;
    file.finish().map(drop)
}
