//! Reads what the databases say: the catalogue's tables, and every location that rows claim to have files at.
//!
//! What must stay true: a location that the configuration neither maps nor excludes is counted, never passed over; the
//! catalogue and the dump are read from the same instant of each database.
//!
//! Claims are held in memory: about 250 bytes a run, logged model or version.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};

use crate::cancel::Cancel;
use crate::database::{self, DatabaseReader, DatabaseUri, Engine};
use crate::error::{Error, Result};
use crate::mlflow::catalogue::{
    self, ColumnKind, ColumnSpec, Experiment, LoggedModel, ModelVersion, Pair, Run, SPECS, TableSpec,
};
use crate::mlflow::names::{DELETED, file};
use crate::mlflow::roots::{Resolved, RootMap};
use crate::mlflow::schema::{KEK_PASSPHRASE, LOCATION_TRACE_TAGS, ReferenceKind, Store, WEBHOOK_KEY};
use crate::mlflow::uri::{self, VersionSource};
use crate::source::deployment::Deployment;
use crate::sql::Value;

/// Unmapped roots that an error names.
const UNMAPPED_SHOWN_MAX: usize = 8;
/// How many versions may refer to one another in a row.
const SOURCE_DEPTH_MAX: usize = 16;

/// A row's word that there are files at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What kind of row.
    pub kind: ReferenceKind,
    /// Its id; for a version `name/version`.
    pub id: String,
    /// The location, as the row has it.
    pub uri: String,
    /// Where that leads: component and path; `None` if the root is excluded.
    pub place: Option<(usize, String)>,
    /// Whether there must be files.
    pub must_exist: bool,
    /// Whether the row was neither deleted nor unfinished, so that files that were there have to be there still.
    pub is_settled: bool,
}

/// An open database of the deployment.
pub struct OpenDatabase {
    /// Which one.
    pub store: Store,
    /// The instant that is read.
    pub reader: Box<dyn DatabaseReader>,
    /// The tables that there are at that instant.
    tables: Vec<String>,
}

impl OpenDatabase {
    /// Opens a database at this instant. Its private files lie in a new directory below `scratch`.
    pub fn open(store: Store, uri: &DatabaseUri, scratch: &Path, cancel: &Cancel) -> Result<Self> {
        let path = scratch.join(store.name());
        let fault = |source| Error::target("write to the scratch directory", path.clone(), source);
        std::fs::create_dir(&path).map_err(fault)?;
        let mut reader = database::open_reader(uri, &path, cancel)?;
        let tables = reader.tables()?;
        Ok(Self { store, reader, tables })
    }

    /// Opens every database of a deployment, each once, by however many URIs it was given.
    pub fn open_all(deployment: &Deployment, scratch: &Path, cancel: &Cancel) -> Result<Vec<Self>> {
        let (mut opened, mut known) = (Vec::new(), HashSet::new());
        for (store, uri) in &deployment.databases {
            let mut database = Self::open(*store, uri, scratch, cancel)?;
            if known.insert(database.reader.identity()?) {
                opened.push(database);
            }
        }
        Ok(opened)
    }

    fn has(&self, table: &str) -> bool {
        self.tables.iter().any(|known| known == table)
    }

    /// Returns the revisions of its schema; none if it is no database of MLflow's.
    pub fn revisions(&mut self) -> Result<Vec<String>> {
        let table = self.store.version_table();
        let mut revisions = Vec::new();
        if self.has(table) {
            self.reader.query(&format!("SELECT version_num FROM {table}"), &mut |row| {
                revisions.extend(row.first().and_then(Value::as_text).map(str::to_owned));
                Ok(())
            })?;
        }
        Ok(revisions)
    }

    /// Counts the rows of a table for which a condition holds; 0 if there is no such table.
    fn count(&mut self, table: &str, condition: &str) -> Result<u64> {
        if !self.has(table) {
            return Ok(0);
        }
        let mut rows = 0;
        self.reader.query(&format!("SELECT count(*) FROM {table} WHERE {condition}"), &mut |row| {
            rows = row.first().and_then(Value::as_text).and_then(|text| text.parse().ok()).unwrap_or(0);
            Ok(())
        })?;
        Ok(rows)
    }
}

/// Keys that MLflow reads from its environment, and the rows that are of no use without them.
const OUTSIDE_KEYS: [(&str, &str, &str); 2] =
    [(KEK_PASSPHRASE, "secrets", "true"), (WEBHOOK_KEY, "webhooks", "secret IS NOT NULL")];

/// Counts the rows that are of no use without a key that MLflow keeps outside its databases: key, table, rows.
pub fn rows_behind_keys(databases: &mut [OpenDatabase]) -> Result<Vec<(&'static str, &'static str, u64)>> {
    let mut counts = Vec::new();
    for (name, table, condition) in OUTSIDE_KEYS {
        let mut rows = 0;
        for database in databases.iter_mut().filter(|database| database.store == Store::Backend) {
            rows += database.count(table, condition)?;
        }
        counts.push((name, table, rows));
    }
    Ok(counts)
}

/// Everything that was read.
#[derive(Debug, Default)]
pub struct Inventory {
    /// What rows claim.
    pub claims: Vec<Claim>,
    /// Roots that the configuration neither maps nor excludes, with the number of locations below each.
    pub unmapped: BTreeMap<String, u64>,
    /// Columns of numbers in which rows have something else, in words.
    pub misfits: Vec<(Store, String)>,
}

impl Inventory {
    /// Fails if a location leads nowhere that the configuration knows.
    pub fn check_roots(&self) -> Result<()> {
        if self.unmapped.is_empty() { Ok(()) } else { Err(unmapped(&self.unmapped)) }
    }
}

/// Collects claims while the tables go by.
struct Collector<'a> {
    map: &'a RootMap,
    claims: Vec<Claim>,
    unmapped: BTreeMap<String, u64>,
    versions: Vec<ModelVersion>,
    /// Runs that a version names, and where their artifacts are.
    runs: HashMap<String, Option<String>>,
    models: HashMap<String, String>,
    /// Logged models by run and name.
    models_of_runs: HashMap<(String, String), String>,
}

/// Reads the catalogue's tables, into files below `directory` if there is one, and returns what rows claim.
pub fn read(
    databases: &mut [OpenDatabase],
    map: &RootMap,
    directory: Option<&Path>,
    cancel: &Cancel,
) -> Result<Inventory> {
    let mut collector = Collector::new(map);
    let mut misfits = Vec::new();
    let has_registry = databases.iter().any(|database| database.store == Store::Registry);
    for spec in in_order() {
        cancel.check()?;
        let wanted = if spec.is_registry && has_registry { Store::Registry } else { Store::Backend };
        let Some(database) = databases.iter_mut().find(|database| database.store == wanted) else { continue };
        if database.has(spec.table) {
            let mut counts = BTreeMap::new();
            read_table(database.reader.as_mut(), spec, directory, &mut |row| {
                count_misfits(spec, row, &mut counts);
                collector.collect(spec, row)
            })?;
            misfits.extend(counts.iter().map(|(column, rows)| (wanted, misfit(spec, column, *rows))));
        }
    }
    Ok(Inventory { misfits, ..collector.finish() })
}

/// The registry first: it tells which runs' locations must be remembered.
fn in_order() -> impl Iterator<Item = &'static TableSpec> {
    SPECS.iter().filter(|spec| spec.is_registry).chain(SPECS.iter().filter(|spec| !spec.is_registry))
}

/// Returns what rows claim, from a directory that [`read`] has filled.
pub fn reread(directory: &Path, map: &RootMap, cancel: &Cancel) -> Result<Inventory> {
    let mut collector = Collector::new(map);
    for spec in in_order() {
        cancel.check()?;
        let path = directory.join(catalogue::file_name(spec.file));
        let fault = |source| Error::target("read", path.clone(), source);
        let file = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            opened => opened.map_err(fault)?,
        };
        for line in BufReader::new(file).lines() {
            let row: Map<String, Json> = serde_json::from_str(&line.map_err(fault)?)
                .map_err(|error| Error::damaged(format!("the table {}", spec.table), error))?;
            collector.collect(spec, &row)?;
        }
    }
    Ok(collector.finish())
}

/// Counts what is in a column of numbers and is none: SQLite takes it.
fn count_misfits(spec: &TableSpec, row: &Map<String, Json>, counts: &mut BTreeMap<&'static str, u64>) {
    for column in spec.columns.iter().filter(|column| column.kind == ColumnKind::Integer) {
        if row.get(column.field).is_some_and(Json::is_string) {
            *counts.entry(column.column).or_default() += 1;
        }
    }
}

fn misfit(spec: &TableSpec, column: &str, rows: u64) -> String {
    format!("{rows} rows of {} have something else than a number in {column}", spec.table)
}

fn read_table(
    reader: &mut dyn DatabaseReader,
    spec: &TableSpec,
    directory: Option<&Path>,
    visit: &mut dyn FnMut(&Map<String, Json>) -> Result<()>,
) -> Result<()> {
    let there = columns_of(reader, spec.table)?;
    let columns: Vec<_> = spec.columns.iter().filter(|column| there.iter().any(|name| name == column.column)).collect();
    let path = directory.map(|directory| directory.join(catalogue::file_name(spec.file)));
    let fault = |source| {
        let path = path.clone().unwrap_or_default();
        Error::target("write", path, source)
    };
    let mut file = path.as_ref().map(File::create).transpose().map_err(fault)?.map(BufWriter::new);
    let sql = select(reader.facts().engine, spec, &columns);
    reader.query(&sql, &mut |row| {
        let object = catalogue::line(&columns, row);
        visit(&object)?;
        let Some(file) = &mut file else { return Ok(()) };
        file.write_all(&catalogue::json_line(&object)?).map_err(fault)
    })?;
    file.map_or(Ok(()), |mut file| file.flush()).map_err(fault)
}

/// Returns the columns that a table has.
fn columns_of(reader: &mut dyn DatabaseReader, table: &str) -> Result<Vec<String>> {
    let sql = match reader.facts().engine {
        Engine::Postgresql => format!(
            "SELECT attname FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped"
        ),
        Engine::Sqlite => format!("SELECT name FROM pragma_table_info('{table}')"),
    };
    let mut columns = Vec::new();
    reader.query(&sql, &mut |row| {
        columns.extend(row.first().and_then(Value::as_text).map(str::to_owned));
        Ok(())
    })?;
    Ok(columns)
}

/// Texts are sorted by their bytes whatever the database's collation, so that files can be read side by side.
fn select(engine: Engine, spec: &TableSpec, columns: &[&ColumnSpec]) -> String {
    let names: Vec<_> = columns.iter().map(|column| format!("\"{}\"", column.column)).collect();
    let order = spec.order.iter().filter_map(|name| {
        let column = columns.iter().find(|column| column.column == *name)?;
        let key = format!("\"{name}\"");
        Some(match (column.kind, engine) {
            (ColumnKind::Integer | ColumnKind::Real, _) => key,
            (ColumnKind::Text, Engine::Postgresql) => format!("CAST({key} AS text) COLLATE \"C\""),
            (ColumnKind::Text, Engine::Sqlite) => format!("CAST({key} AS text)"),
        })
    });
    let order: Vec<_> = order.collect();
    format!("SELECT {} FROM \"{}\" ORDER BY {}", names.join(", "), spec.table, order.join(", "))
}

fn parse<T: DeserializeOwned>(row: &Map<String, Json>) -> Result<T> {
    serde_json::from_value(Json::Object(row.clone()))
        .map_err(|error| Error::Refused(format!("A row of the database is not what MLflow writes: {error}: {row:?}")))
}

impl<'a> Collector<'a> {
    fn new(map: &'a RootMap) -> Self {
        Self {
            map,
            claims: Vec::new(),
            unmapped: BTreeMap::new(),
            versions: Vec::new(),
            runs: HashMap::new(),
            models: HashMap::new(),
            models_of_runs: HashMap::new(),
        }
    }

    fn collect(&mut self, spec: &TableSpec, row: &Map<String, Json>) -> Result<()> {
        match spec.file {
            file::EXPERIMENTS => self.look_at(parse::<Experiment>(row)?.artifact_location.as_deref()),
            file::RUNS => self.run(parse(row)?),
            file::LOGGED_MODELS => self.logged_model(parse(row)?),
            file::MODEL_VERSIONS => {
                let version: ModelVersion = parse(row)?;
                self.note_runs_of(&version);
                self.versions.push(version);
            }
            file::TRACE_TAGS => self.trace_tag(&parse(row)?),
            file::WORKSPACES => {
                for field in ["default_artifact_root", "trace_archival_location"] {
                    self.look_at(row.get(field).and_then(Json::as_str));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Makes sure that a location is known, though nothing needs to be there.
    fn look_at(&mut self, location: Option<&str>) {
        if let Some(location) = location.filter(|location| !location.is_empty()) {
            let _ = self.resolve(location);
        }
    }

    fn resolve(&mut self, location: &str) -> Option<(usize, String)> {
        match self.map.resolve(location) {
            Resolved::At { component, path } => Some((component, path)),
            Resolved::Excluded => None,
            // Counted, never passed over: a backup that leaves it out must have been told to.
            Resolved::Unmapped => {
                *self.unmapped.entry(uri::root_of(&uri::normalize(location))).or_default() += 1;
                None
            }
        }
    }

    fn claim(&mut self, kind: ReferenceKind, id: String, uri: &str, must_exist: bool, is_settled: bool) {
        let place = self.resolve(uri);
        self.claims.push(Claim { kind, id, uri: uri.to_owned(), place, must_exist, is_settled });
    }

    fn run(&mut self, run: Run) {
        if let Some(wanted) = self.runs.get_mut(&run.run_id) {
            wanted.clone_from(&run.artifact_uri);
        }
        let Some(uri) = run.artifact_uri.filter(|uri| !uri.is_empty()) else { return };
        let is_settled = run.lifecycle_stage != DELETED && run.status.as_deref() != Some("RUNNING");
        self.claim(ReferenceKind::Run, run.run_id, &uri, false, is_settled);
    }

    fn logged_model(&mut self, model: LoggedModel) {
        let is_ready = model.is_ready();
        let Some(location) = model.artifact_location else { return };
        if let (Some(run), Some(name)) = (model.source_run_id, model.name) {
            self.models_of_runs.insert((run, name), location.clone());
        }
        self.models.insert(model.model_id.clone(), location.clone());
        self.claim(ReferenceKind::LoggedModel, model.model_id, &location, is_ready, is_ready);
    }

    fn trace_tag(&mut self, tag: &Pair) {
        let (Some(trace), Some(location)) = (&tag.trace_id, tag.value.as_str()) else { return };
        if !LOCATION_TRACE_TAGS.contains(&tag.key.as_str()) {
            return;
        }
        // Archived spans are nowhere else; other traces keep them in the database.
        let is_archive = tag.key == LOCATION_TRACE_TAGS[1];
        self.claim(ReferenceKind::Trace, trace.clone(), location, is_archive, is_archive);
    }

    fn note_runs_of(&mut self, version: &ModelVersion) {
        for text in [&version.source, &version.storage_location].into_iter().flatten() {
            if let VersionSource::Run { run, .. } = uri::version_source(text) {
                self.runs.insert(run.to_owned(), None);
            }
        }
    }

    fn finish(mut self) -> Inventory {
        let versions = std::mem::take(&mut self.versions);
        let by_name: HashMap<(&str, String), &ModelVersion> =
            versions.iter().map(|version| ((version.name.as_str(), version.version.to_string()), version)).collect();
        for version in versions.iter().filter(|version| !version.is_prompt()) {
            let id = format!("{}/{}", version.name, version.version);
            let is_live = !version.is_deleted() && version.status.as_deref().is_none_or(|status| status == "READY");
            match self.locate(version, &by_name, &mut HashSet::new()) {
                Some(location) => self.claim(ReferenceKind::ModelVersion, id, &location, is_live, is_live),
                None => {
                    let uri = version.source.clone().unwrap_or_default();
                    // Without any place to look for them, the files cannot be there.
                    let place = is_live.then(|| (usize::MAX, String::new()));
                    let kind = ReferenceKind::ModelVersion;
                    self.claims.push(Claim { kind, id, uri, place, must_exist: is_live, is_settled: is_live });
                }
            }
        }
        Inventory { claims: self.claims, unmapped: self.unmapped, misfits: Vec::new() }
    }

    /// Follows the source of a version to the location of its files.
    fn locate<'v>(
        &self,
        version: &'v ModelVersion,
        versions: &HashMap<(&str, String), &'v ModelVersion>,
        seen: &mut HashSet<(&'v str, i64)>,
    ) -> Option<String> {
        // Sources are texts that any client sets: they may lead in a circle.
        if seen.len() > SOURCE_DEPTH_MAX || !seen.insert((&version.name, version.version)) {
            return None;
        }
        let texts = [&version.storage_location, &version.source];
        texts.into_iter().flatten().filter(|text| !text.is_empty()).find_map(|text| match uri::version_source(text) {
            VersionSource::Location(location) => Some(location.to_owned()),
            VersionSource::LoggedModel(model) => self.models.get(model).cloned(),
            VersionSource::Version { name, version: number } => {
                self.locate(versions.get(&(name, number.to_owned()))?, versions, seen)
            }
            VersionSource::Run { run, path } => self.locate_in_run(run, path),
            VersionSource::Prompt | VersionSource::Redacted => None,
        })
    }

    /// A path of a run means its logged model of that name, where there is one, else a directory of its artifacts.
    fn locate_in_run(&self, run: &str, path: &str) -> Option<String> {
        let model = self.models_of_runs.get(&(run.to_owned(), path.to_owned()));
        model.cloned().or_else(|| Some(uri::join(self.runs.get(run)?.as_ref()?, path)))
    }
}

fn unmapped(roots: &BTreeMap<String, u64>) -> Error {
    let shown: Vec<_> =
        roots.iter().take(UNMAPPED_SHOWN_MAX).map(|(root, rows)| format!("{root} ({rows} rows)")).collect();
    let more = roots.len().saturating_sub(UNMAPPED_SHOWN_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Error::Refused(format!(
        "The database refers to artifact roots that are neither mapped nor excluded: {}{more}",
        shown.join(", ")
    ))
}
