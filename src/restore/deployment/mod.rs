//! Restores a deployment: artifacts first, its databases last, into places that are empty.
//!
//! What must stay true:
//! - Nothing is written before everything that could be refused was looked at: engines, versions, emptiness, lengths.
//! - Neither a database nor an artifact store that holds anything is touched; a restore that broke off goes on only where
//!   the user says so, and even then deletes nothing.
//! - Each dump was read to its end, and everything in it may be run, before the first statement of any is run.
//! - Each database is loaded in one transaction, and commits only if every table is what the snapshot recorded.

mod experiments;
mod rest;
pub mod row_spool;
mod rows;
mod selection;
mod times;

use std::collections::BTreeSet;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

pub use experiments::ExperimentMove;
pub use rest::{RestPlan, RestRestore};
pub use rows::{MergeOptions, MergePlan, MergeSummary, merge};
pub use selection::{DeploymentPart, Lack, Selected, last_whole};
pub use times::{PartTime, PartTimes};

use crate::catalogue::reader::read_all;
use crate::chunks::reader::ChunkReader;
use crate::database::review::{Review, review};
use crate::database::rewrite::RewriteCount;
use crate::database::{self, DatabaseUri, Engine, LoadPlan, Rewrite};
use crate::error::{Error, Result};
use crate::format::deployment::{DatabaseRecord, DeploymentRecord, RootRecord};
use crate::format::snapshot::{ARTIFACTS, Completeness, Component, DATABASE};
use crate::hears::Hears;
use crate::id::StatementId;
use crate::mlflow::catalogue::{Reference, StoredTable, TABLES};
use crate::mlflow::schema::{self, LOCATION_COLUMNS, LOCATION_TRACE_TAGS, Order, Store};
use crate::mlflow::{names, uri};
use crate::repository::Repository;
use crate::repository::snapshots::Snapshot;
use crate::restore::bucket::{self, BucketRestoreOptions, IntoBucket};
use crate::restore::{self, Overwrite, Part, RestoreOptions, RestoreSummary, run_below};
use crate::source::deployment::{ArtifactPlace, Deployment};
use crate::sql::TableRecord;
use crate::sql::guard::Guard;
use crate::sql::script::ScriptReader;
use crate::target::bucket::BucketTarget;
use crate::trees::contents::{Selection, entry_at};
use crate::trees::file_reader::FileReader;

/// Names of what is there that a refusal shows.
const EXISTING_SHOWN_MAX: usize = 5;

/// How to restore a deployment.
#[derive(Debug, Clone, Default)]
pub struct DeploymentRestoreOptions {
    /// Artifact roots as the snapshot's databases have them, and what is to stand there instead.
    pub map_roots: Vec<(String, String)>,
    /// Only these components: `database`, or an artifact component by its whole name; empty for all.
    pub components: Vec<String>,
    /// Go on with artifacts that an earlier restore left: what is there is compared, and completed.
    pub resume: bool,
    /// The MLflow release that will be started on the result.
    pub mlflow_version: Option<String>,
    /// Statements of the dumps that may be run although MLflow's schema has none such.
    pub allowed_statements: Vec<StatementId>,
    /// Nobody is going to use what is restored, so that its rows may lead elsewhere than to its files.
    pub is_rehearsal: bool,
}

impl DeploymentRestoreOptions {
    fn guard(&self, engine: Engine) -> Guard {
        Guard::new(engine.dialect(), &self.allowed_statements)
    }
}

/// A database that will be loaded.
#[derive(Debug, Clone, Serialize)]
pub struct DatabasePlan {
    /// Which one.
    pub store: Store,
    /// Where it goes, without a password.
    pub to: String,
    /// Its tables.
    pub tables: u64,
    /// Its rows.
    pub rows: u64,
    /// Extensions that the dump makes and that are passed over: MLflow's tables need none.
    pub skipped_extensions: Vec<String>,
    /// What the moves of roots will change in it.
    pub rewrites: Vec<ColumnRewrite>,
    #[serde(skip)]
    uri: DatabaseUri,
    /// The same as statements, by how the rows spell the old roots.
    #[serde(skip)]
    moves: Vec<Rewrite>,
    #[serde(skip)]
    schemas: BTreeSet<String>,
}

/// What the dump of a database was found to be.
struct DumpReview {
    rewrites: Vec<ColumnRewrite>,
    moves: Vec<Rewrite>,
    extensions: BTreeSet<String>,
    schemas: BTreeSet<String>,
}

/// What a move of roots does to one column.
#[derive(Debug, Clone, Serialize)]
pub struct ColumnRewrite {
    /// The table.
    pub table: String,
    /// The column.
    pub column: String,
    /// What changes.
    #[serde(flatten)]
    pub count: RewriteCount,
}

/// Artifacts that will be restored.
#[derive(Debug, Clone, Serialize)]
pub struct ArtifactPlan {
    /// The root, as the databases will have it.
    pub root: String,
    /// The component of the snapshot.
    pub component: String,
    /// What of it: a path, empty for all.
    pub path: String,
    /// Where it goes.
    pub to: String,
    #[serde(skip)]
    place: ArtifactPlace,
}

/// What a restore of a deployment will do.
#[derive(Debug, Clone, Serialize)]
pub struct DeploymentRestorePlan {
    /// Databases, loaded last.
    pub databases: Vec<DatabasePlan>,
    /// Artifacts, restored first.
    pub artifacts: Vec<ArtifactPlan>,
    /// What the operator should know before.
    pub warnings: Vec<String>,
    /// Whether the backup lacks something of what will be restored.
    pub is_lacking: bool,
}

/// What a restore of a deployment did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DeploymentRestored {
    /// Artifacts.
    pub artifacts: RestoreSummary,
    /// Databases that were loaded.
    pub databases: Vec<Store>,
    /// Rows in them.
    pub rows: u64,
    /// Texts in them that roots were moved in.
    pub rewritten: u64,
    /// How long the parts took: `artifacts` and `database` as a whole, and each component and store.
    pub times: PartTimes,
}

/// A restore of one snapshot.
pub struct DeploymentRestore<'a> {
    snapshot: &'a Snapshot,
    record: &'a DeploymentRecord,
    reader: ChunkReader,
    hears: Hears,
    ignore_free_space: bool,
    ownership: bool,
    xattrs: bool,
}

impl<'a> DeploymentRestore<'a> {
    /// Returns the snapshot, and what reads it.
    pub fn source(&self) -> (&Snapshot, &ChunkReader) {
        (self.snapshot, &self.reader)
    }

    /// Begins; fails if the snapshot holds no deployment, or the key cannot read content.
    pub fn new(repository: &Arc<Repository>, snapshot: &'a Snapshot, hears: &Hears) -> Result<Self> {
        repository.access().data_secret()?;
        let record = snapshot.record.deployment.as_deref().ok_or_else(|| {
            Error::NotFound(format!("The snapshot {} holds no MLflow deployment", snapshot.id.short()))
        })?;
        let reader = ChunkReader::new(Arc::clone(repository));
        let (ignore_free_space, ownership, xattrs) = (false, false, false);
        Ok(Self { snapshot, record, reader, hears: hears.clone(), ignore_free_space, ownership, xattrs })
    }

    /// Begins even if directories seem to have too little room.
    pub fn ignoring_free_space(self, ignore_free_space: bool) -> Self {
        Self { ignore_free_space, ..self }
    }

    /// Gives files in directories the owner, group and special bits that they had.
    pub fn with_ownership(self, ownership: bool) -> Self {
        Self { ownership, ..self }
    }

    /// Gives files in directories the extended attributes and ACLs that they had.
    pub fn with_xattrs(self, xattrs: bool) -> Self {
        Self { xattrs, ..self }
    }

    /// Looks at everything that could be refused, and says what a restore would do. Writes nothing.
    pub fn plan(&self, target: &Deployment, options: &DeploymentRestoreOptions) -> Result<DeploymentRestorePlan> {
        let mut warnings = self.warnings(target, options)?;
        let databases = self.plan_databases(target, options)?;
        let artifacts = self.plan_artifacts(target, options, &mut warnings)?;
        if databases.is_empty() && artifacts.is_empty() {
            return Err(Error::Invalid(
                "There is nothing to restore: no component of the snapshot was selected".to_owned(),
            ));
        }
        for database in &databases {
            refuse_filled_database(&database.uri, &database.schemas)?;
        }
        for artifact in artifacts.iter().filter(|_| !options.resume) {
            refuse_filled_place(&artifact.place)?;
        }
        let places = artifacts
            .iter()
            .map(|artifact| Ok((self.selection(&artifact.component, &artifact.path)?, &artifact.place)));
        self.refuse_overfull(&places.collect::<Result<Vec<_>>>()?)?;
        Ok(DeploymentRestorePlan { databases, artifacts, warnings, is_lacking: self.is_lacking(options) })
    }

    /// Tells what the operator should know before, whether or not anybody sees the plan.
    pub fn warn(&self, plan: &DeploymentRestorePlan) {
        plan.warnings.iter().for_each(|warning| self.hears.monitor.warning(warning));
    }

    /// Carries out a plan.
    pub fn execute(
        &self,
        plan: &DeploymentRestorePlan,
        options: &DeploymentRestoreOptions,
    ) -> Result<DeploymentRestored> {
        let mut done = DeploymentRestored::default();
        // Artifacts before databases: a restore that breaks off leaves files that no row names, which `--resume` completes,
        // and never a row whose files are not there.
        let all_begun = Instant::now();
        for artifact in &plan.artifacts {
            let begun = Instant::now();
            let selection = self.selection(&artifact.component, &artifact.path)?;
            done.artifacts.add(&self.restore_artifacts(&selection, &artifact.place, Overwrite::Always)?);
            done.times.add(&artifact.component, begun);
        }
        self.sync(plan.artifacts.iter().map(|artifact| &artifact.place))?;
        done.times.add(ARTIFACTS.trim_end_matches('/'), all_begun);
        let all_begun = Instant::now();
        for database in &plan.databases {
            let begun = Instant::now();
            done.rewritten += self.load(database, options)?;
            done.times.add(&format!("{DATABASE}/{}", database.store.name()), begun);
            done.rows = done.rows.saturating_add(database.rows);
            done.databases.push(database.store);
        }
        done.times.add(DATABASE, all_begun);
        Ok(done)
    }

    fn component(&self, name: &str) -> Result<&'a Component> {
        self.snapshot.record.components.iter().find(|component| component.name == name).ok_or_else(|| {
            Error::NotFound(format!("The snapshot {} has no component {name:?}", self.snapshot.id.short()))
        })
    }

    fn selection(&self, component: &str, path: &str) -> Result<Selection<'a>> {
        Ok(Selection { component: self.component(component)?, path: path.into() })
    }

    /// Returns where the snapshot has the files of a row.
    fn files_of(&self, reference: &Reference) -> Result<Selection<'a>> {
        let (component, path) = (reference.component.as_deref(), reference.path.as_deref());
        self.selection(component.unwrap_or_default(), path.unwrap_or_default())
    }

    fn warnings(&self, target: &Deployment, options: &DeploymentRestoreOptions) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        for key in self.record.keys.iter().filter(|key| key.rows > 0) {
            let given = target.keys.iter().find(|given| given.name == key.name);
            let fingerprint = given.map(|given| self.reader.repository().keys().fingerprint(given.value.as_bytes()));
            match (&key.fingerprint, fingerprint) {
                (Some(then), Some(now)) if *then != now => warnings.push(format!(
                    "{} is not the key that it was when the backup was made: {} rows cannot be decrypted with it",
                    key.name, key.rows
                )),
                (_, None) => warnings.push(format!("{} rows can only be used with {}", key.rows, key.name)),
                _ => {}
            }
        }
        if let (Some(version), Some(database)) = (&options.mlflow_version, self.record.database(Store::Backend)) {
            self.compare_version(version, database, &mut warnings)?;
        }
        Ok(warnings)
    }

    /// An older MLflow than the schema needs cannot open the database; a newer one migrates it when it starts.
    fn compare_version(&self, version: &str, database: &DatabaseRecord, warnings: &mut Vec<String>) -> Result<()> {
        let Some(revision) = database.revisions.first() else { return Ok(()) };
        if schema::release(version).is_none() {
            return Err(Error::Invalid(format!(
                "{version:?} is not the number of a release of MLflow, such as 3.18.0"
            )));
        }
        let Some(head) = schema::head_of_release(version) else {
            warnings.push(format!("whether MLflow {version} fits the schema {revision} is not known"));
            return Ok(());
        };
        match schema::compare(head, revision) {
            Order::Same => {}
            Order::Newer => warnings.push(format!("MLflow {version} will migrate the database when it starts")),
            Order::Unknown => {
                warnings.push(format!("whether MLflow {version} fits the schema {revision} is not known"))
            }
            Order::Older => {
                let needed = schema::release_for(revision).unwrap_or("a newer one");
                return Err(Error::Refused(format!(
                    "MLflow {version} is too old for this database, whose schema is {revision}: it needs {needed}"
                )));
            }
        }
        Ok(())
    }

    /// Returns whether the backup lacks something of what is selected. Of all together that may also be what only the
    /// comparison of databases and files shows.
    fn is_lacking(&self, options: &DeploymentRestoreOptions) -> bool {
        let mut selected =
            self.snapshot.record.components.iter().filter(|component| self.is_selected(&component.name, options));
        match options.components.is_empty() {
            true => self.snapshot.is_incomplete(),
            false => selected.any(|component| component.completeness == Completeness::Incomplete),
        }
    }

    fn is_selected(&self, component: &str, options: &DeploymentRestoreOptions) -> bool {
        let wanted = &options.components;
        wanted.is_empty() || wanted.iter().any(|name| name == component || component.starts_with(&format!("{name}/")))
    }

    fn plan_databases(&self, target: &Deployment, options: &DeploymentRestoreOptions) -> Result<Vec<DatabasePlan>> {
        if !self.is_selected(DATABASE, options) {
            return Ok(Vec::new());
        }
        if self.record.databases.is_empty() {
            return Err(Error::Refused(format!(
                "The snapshot {} has no database, only what the REST API told: it cannot be restored into MLflow's storage",
                self.snapshot.id.short()
            )));
        }
        self.record.databases.iter().map(|database| self.plan_database(database, target, options)).collect()
    }

    fn plan_database(
        &self,
        record: &DatabaseRecord,
        target: &Deployment,
        options: &DeploymentRestoreOptions,
    ) -> Result<DatabasePlan> {
        let uri = target.database(record.store).ok_or_else(|| {
            Error::Invalid(format!(
                "The snapshot has a {} database, and no place for it was given",
                record.store.name()
            ))
        })?;
        let engine = uri.engine();
        if engine.name() != record.engine {
            return Err(Error::Refused(format!(
                "The {} database was backed up from {}, and cannot be restored into {}",
                record.store.name(),
                record.engine,
                engine.name()
            )));
        }
        let DumpReview { rewrites, moves, extensions, schemas } = self.review_dump(record.store, engine, options)?;
        let skipped_extensions = extensions.into_iter().collect();
        let (to, tables, rows) = (uri.to_string(), record.tables, record.rows);
        Ok(DatabasePlan {
            store: record.store,
            to,
            tables,
            rows,
            rewrites,
            uri: uri.clone(),
            moves,
            skipped_extensions,
            schemas,
        })
    }

    /// Reads the dump once, refuses what may not be run and what a column could not hold, and counts what would change.
    fn review_dump(&self, store: Store, engine: Engine, options: &DeploymentRestoreOptions) -> Result<DumpReview> {
        self.hears.monitor.phase("reviewing", None, None);
        let rewrites = rewrites_of(store, options);
        let mut script = ScriptReader::new(BufReader::new(self.open_dump(store)?), engine.dialect());
        let Review { refused, counts, extensions, schemas } = review(&mut script, &options.guard(engine), &rewrites)?;
        if !refused.is_empty() {
            return Err(refused.into_error(&format!("the {} database", store.name())));
        }
        let moves =
            rewrites.iter().zip(&counts).map(|(rewrite, count)| spelled(rewrite, count)).collect::<Result<_>>()?;
        let columns: Vec<_> = rewrites
            .iter()
            .zip(counts)
            .map(|(rewrite, count)| ColumnRewrite {
                table: rewrite.table.clone(),
                column: rewrite.column.clone(),
                count,
            })
            .collect();
        // SQLite does not care how long a text is.
        let too_long = columns.iter().find(|column| engine == Engine::Postgresql && column.count.too_long > 0);
        match too_long {
            None => Ok(DumpReview { rewrites: columns, moves, extensions, schemas }),
            Some(ColumnRewrite { table, column, count }) => Err(Error::Refused(format!(
                "The new root is too long for {} rows of {table}.{column}: {}",
                count.too_long,
                count.examples.join(", ")
            ))),
        }
    }

    fn plan_artifacts(
        &self,
        target: &Deployment,
        options: &DeploymentRestoreOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<ArtifactPlan>> {
        let mut plans: Vec<ArtifactPlan> = Vec::new();
        let mut roots: Vec<_> =
            self.record.roots.iter().filter(|root| self.is_selected(&root.component, options)).collect();
        roots.sort_by_key(|root| root.path.len());
        for root in roots {
            let moved = moved_root(&root.uri, &options.map_roots);
            let place = target.artifacts.iter().find(|given| uri::normalize(&given.uri) == moved);
            let is_covered = |outer: &ArtifactPlan| {
                outer.component == root.component && uri::below(&root.path, &outer.path).is_some()
                    || outer.path.is_empty()
            };
            match place {
                Some(place) => {
                    let to = place.place.to_string();
                    warnings.extend(elsewhere(root, &moved, &to).filter(|_| !options.is_rehearsal));
                    plans.push(ArtifactPlan {
                        root: moved,
                        component: root.component.clone(),
                        path: root.path.clone(),
                        to,
                        place: place.place.clone(),
                    });
                }
                None if plans.iter().any(|outer| outer.component == root.component && is_covered(outer)) => warnings
                    .push(format!(
                        "files below {moved} are restored with what they lie in; rows that name it must find them there"
                    )),
                None => return Err(Error::Invalid(format!("No place was given for the artifact root {moved}"))),
            }
        }
        Ok(plans)
    }

    /// Fails if directories have too little room for what goes into them.
    fn refuse_overfull(&self, places: &[(Selection<'_>, &ArtifactPlace)]) -> Result<()> {
        let parts = places.iter().filter_map(|(selection, place)| match place {
            ArtifactPlace::Directory(directory) => Some(Part::below(selection, directory)),
            ArtifactPlace::Bucket(..) => None,
        });
        let parts: Vec<_> = parts.collect();
        let options =
            RestoreOptions { ignore_free_space: self.ignore_free_space, ..RestoreOptions::into_directory("") };
        restore::refuse_overfull(&self.reader, &parts, &options, &self.hears)
    }

    /// Makes the files that were restored into directories survive a crash. Rows that name them are committed after that.
    fn sync<'p>(&self, places: impl Iterator<Item = &'p ArtifactPlace>) -> Result<()> {
        let directories = places.filter_map(|place| match place {
            ArtifactPlace::Directory(directory) => Some(directory.as_path()),
            ArtifactPlace::Bucket(..) => None,
        });
        restore::sync(directories, &self.hears)
    }

    fn restore_artifacts(
        &self,
        selection: &Selection<'_>,
        place: &ArtifactPlace,
        overwrite: Overwrite,
    ) -> Result<RestoreSummary> {
        self.hears.monitor.phase("artifacts", None, None);
        match place {
            ArtifactPlace::Directory(directory) => {
                let into = RestoreOptions::into_directory(directory);
                let options = RestoreOptions { overwrite, ownership: self.ownership, xattrs: self.xattrs, ..into };
                run_below(&self.reader, selection, &options, &self.hears)
            }
            ArtifactPlace::Bucket(location, options) => {
                let target = BucketTarget::connect(location, options)?;
                let into = IntoBucket { target: &target, options: BucketRestoreOptions::default() };
                bucket::run(&self.reader, selection, into, &self.hears)
            }
        }
    }

    fn open_dump(&self, store: Store) -> Result<FileReader<'_>> {
        let name = store.file_name();
        let entry = entry_at(&self.reader, self.component(DATABASE)?, name.as_bytes())?.ok_or_else(|| {
            Error::NotFound(format!("The snapshot {} has no {DATABASE}/{name}", self.snapshot.id.short()))
        })?;
        FileReader::open(&self.reader, &entry, &self.hears)
    }

    fn load(&self, plan: &DatabasePlan, options: &DeploymentRestoreOptions) -> Result<u64> {
        self.hears.monitor.phase("databases", None, None);
        let tables: Vec<StoredTable> = read_all(&self.reader, self.snapshot, TABLES, &self.hears)?;
        let expected: Vec<TableRecord> =
            tables.into_iter().filter(|table| table.store == plan.store).map(|table| table.table).collect();
        let guard = options.guard(plan.uri.engine());
        let mut dump = self.open_dump(plan.store)?;
        // In one transaction, which commits only if every table is what the snapshot recorded. The dump is read again, and
        // each statement looked at again right before it is run.
        let load = LoadPlan { guard: &guard, rewrites: &plan.moves, expected: &expected };
        let changed = database::open_writer(&plan.uri)?.load(&mut dump, load)?;
        Ok(changed.iter().sum())
    }
}

/// Restores the files of one experiment, run, model or version into a directory; neither MLflow nor a database is needed.
/// Those of a run or version lie right in the directory; those of a model and of an experiment in one directory for each
/// version, run and logged model.
pub fn restore_files(
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    part: &DeploymentPart,
    options: &RestoreOptions,
    hears: &Hears,
) -> Result<RestoreSummary> {
    let restore = DeploymentRestore::new(repository, snapshot, hears)?;
    let selected = Selected::find(&restore.reader, snapshot, part, hears)?;
    let mut sum = RestoreSummary::default();
    let files = selection::files_of(part, &selected);
    let selections: Vec<_> = files.iter().map(|(reference, _)| restore.files_of(reference)).collect::<Result<_>>()?;
    let targets: Vec<_> = files.iter().map(|(_, below)| options.target.join(below)).collect();
    let parts: Vec<_> = selections.iter().zip(&targets).map(|(it, target)| Part::below(it, target)).collect();
    restore::refuse_overfull(&restore.reader, &parts, options, hears)?;
    hears.monitor.phase("restore", None, None);
    for (selection, target) in selections.iter().zip(&targets) {
        let options = RestoreOptions { target: target.clone(), ..options.clone() };
        sum.add(&run_below(&restore.reader, selection, &options, hears)?);
    }
    if !options.dry_run {
        restore::sync(targets.iter().map(|target| target.as_path()), hears)?;
    }
    if files.is_empty() {
        return Err(Error::NotFound(format!("The snapshot {} has no files of it", snapshot.id.short())));
    }
    // What was copied is only a part of what there once was.
    for Lack { id, why } in selected.lacks() {
        hears.monitor.problem(&id, &format!("its files are not all there: {why}"));
        sum.problems += 1;
    }
    Ok(sum)
}

/// Makes the rewrites of one database. That of users holds no locations.
fn rewrites_of(store: Store, options: &DeploymentRestoreOptions) -> Vec<Rewrite> {
    if store == Store::Auth { Vec::new() } else { rewrites(&options.map_roots) }
}

/// Makes a rewrite that replaces the roots as the rows spell them. Fails if a row below a root that moves cannot: it would
/// point to the old place, and whoever collects garbage in the copy would delete the original.
fn spelled(rewrite: &Rewrite, count: &RewriteCount) -> Result<Rewrite> {
    let (table, column) = (&rewrite.table, &rewrite.column);
    if count.impossible > 0 {
        return Err(Error::Refused(format!(
            "{} rows of {table}.{column} are below a root that moves, and have percent signs that would mean something else \
             behind the new one, such as {}",
            count.impossible,
            count.impossible_examples.join(", ")
        )));
    }
    if count.has_more_spellings {
        let some: Vec<_> = count.spellings.keys().take(EXISTING_SHOWN_MAX).map(String::as_str).collect();
        return Err(Error::Refused(format!(
            "The rows of {table}.{column} spell the roots that move in too many ways, such as {}",
            some.join(", ")
        )));
    }
    let roots = count.spellings.iter().map(|(old, new)| (old.clone(), new.clone())).collect();
    Ok(Rewrite { roots, ..rewrite.clone() })
}

/// Makes the rewrites that move roots: of the eight columns that hold locations, and of no other.
fn rewrites(roots: &[(String, String)]) -> Vec<Rewrite> {
    if roots.is_empty() {
        return Vec::new();
    }
    let rewrite = |(table, column, length_max): &(&str, &str, u32)| Rewrite {
        table: (*table).to_owned(),
        column: (*column).to_owned(),
        length_max: Some(*length_max),
        only: (*table == names::table::TRACE_TAGS)
            .then(|| ("key".to_owned(), LOCATION_TRACE_TAGS.map(str::to_owned).to_vec())),
        roots: roots.to_vec(),
    };
    LOCATION_COLUMNS.iter().map(rewrite).collect()
}

/// Returns what a root becomes.
fn moved_root(root: &str, moves: &[(String, String)]) -> String {
    let found = moves
        .iter()
        .map(|(old, new)| (uri::normalize(old), new))
        .filter_map(|(old, new)| Some((uri::below(root, &old)?.to_owned(), old, new)))
        .max_by_key(|(_, old, _)| old.len());
    match found {
        Some((rest, _, new)) => uri::normalize(&uri::join(new, &rest)),
        None => root.to_owned(),
    }
}

/// Says that rows lead elsewhere than to what is restored, if a root was a place of its own name when it was backed up and is
/// none now. Roots that a server or a mount translates are not for us to judge.
fn elsewhere(root: &RootRecord, moved: &str, to: &str) -> Option<String> {
    let is_own_place = |uri: &str, place: &str| uri::normalize(place) == uri::normalize(uri);
    (is_own_place(&root.uri, &root.place) && !is_own_place(moved, to)).then(|| {
        format!(
            "the rows say {moved}, and its files go to {to}: unless that is the same place for MLflow, add --map-root {moved}={to}"
        )
    })
}

fn refuse_filled_database(uri: &DatabaseUri, schemas: &BTreeSet<String>) -> Result<()> {
    // Opening a missing SQLite file would create it, before anybody has agreed.
    if let DatabaseUri::Sqlite(path) = uri
        && !path.exists()
    {
        return Ok(());
    }
    let mut writer = database::open_writer(uri)?;
    let mut tables = writer.contents()?;
    if tables.is_empty() {
        let missing = writer.missing_rights(schemas)?;
        return match missing.is_empty() {
            true => Ok(()),
            false => Err(Error::Refused(format!("The database {uri} cannot be restored into: {}", missing.join("; ")))),
        };
    }
    tables.sort_by_key(|(_, rows)| std::cmp::Reverse(*rows));
    let rows: u64 = tables.iter().map(|(_, rows)| rows).sum();
    let shown: Vec<_> = tables.iter().take(EXISTING_SHOWN_MAX).map(|(name, rows)| format!("{name} ({rows})")).collect();
    Err(Error::Refused(format!(
        "The database {uri} is not empty: {} tables with {rows} rows, such as {}. Restore into a new one, and switch MLflow over",
        tables.len(),
        shown.join(", ")
    )))
}

fn refuse_filled_place(place: &ArtifactPlace) -> Result<()> {
    let found = match place {
        ArtifactPlace::Directory(path) => first_names(path)?,
        ArtifactPlace::Bucket(location, options) => {
            BucketTarget::connect(location, options)?.look(EXISTING_SHOWN_MAX)?
        }
    };
    if found.is_empty() {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "{place} is not empty: it has {}. Restore into an empty place, or go on with a restore that broke off by --resume",
        found.join(", ")
    )))
}

fn first_names(path: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|source| Error::target("list", path.to_owned(), source))?,
    };
    Ok(entries
        .flatten()
        .take(EXISTING_SHOWN_MAX)
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect())
}
