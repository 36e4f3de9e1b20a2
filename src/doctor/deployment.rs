//! Finds out whether a deployment can be backed up as it is configured: databases, artifacts, keys, server, scratch space.
//!
//! What must stay true: nothing of the deployment is changed; databases are read as a backup reads them; what is found
//! wrong is reported and does not end the look. What cannot be looked at, because something else is wrong, is left out.

use std::env;
use std::fmt;
use std::path::Path;

use serde::Serialize;
use tempfile::TempDir;

use super::Status;
use crate::database::DatabaseUri;
use crate::database::examine::{self, Examination};
use crate::error::{Error, Fault, Result};
use crate::file_system;
use crate::hears::Hears;
use crate::mlflow::schema::{self, KEK_PASSPHRASE, KEK_PASSPHRASE_DEFAULT, Order, Store};
use crate::mlflow::uri;
use crate::monitor::Counter;
use crate::s3::{Bucket, Patience};
use crate::source::deployment::{ArtifactPlace, Deployment, Layout};
use crate::source::inventory::{self, Claim, Inventory, OpenDatabase};
use crate::tracking::TrackingClient;
use crate::units::format_bytes;

/// Locations below each root of which it is looked whether their files are there.
const SAMPLES_MAX: usize = 16;
/// Roots that are not mapped, and samples without files, that a finding names.
const NAMED_MAX: usize = 5;
/// How often a server is asked again that does not answer: who runs the doctor waits for it.
const RETRIES_MAX: u32 = 1;

/// One of the things that are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeploymentCheck {
    /// The scratch directory can be written to, and is large enough.
    Scratch,
    /// A database can be reached.
    Database,
    /// All of it can be read.
    Rights,
    /// A program is there that can dump it.
    DumpProgram,
    /// A file of SQLite is where its locks work.
    File,
    /// Its rows keep the rules of its schema; said only if they do not.
    Rows,
    /// Its schema is known.
    Schema,
    /// Every artifact root that the databases name is mapped or excluded.
    Roots,
    /// A mapped place can be listed.
    Place,
    /// Files are where the mapping says.
    Files,
    /// A key that rows need is known.
    Key,
    /// The tracking server is well.
    Server,
    /// It answers to its name and lets us in.
    Login,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeploymentFinding {
    /// What was looked at.
    pub check: DeploymentCheck,
    /// Of what: a database, a root, a key, a server.
    pub subject: String,
    /// How it came out.
    pub status: Status,
    /// What was seen, in words.
    pub measured: Option<String>,
    /// What follows for the user, unless all is well.
    pub consequence: Option<&'static str>,
}

/// What was found out about a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeploymentReport {
    /// Its name.
    pub deployment: String,
    /// What was found, in the order in which it was looked at.
    pub findings: Vec<DeploymentFinding>,
}

impl DeploymentReport {
    /// Returns the worst status of all findings.
    pub fn status(&self) -> Status {
        self.findings.iter().map(|finding| finding.status).max().unwrap_or(Status::Ok)
    }
}

impl fmt::Display for DeploymentCheck {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Scratch => "scratch space",
            Self::Database => "database",
            Self::Rights => "rights",
            Self::DumpProgram => "pg_dump",
            Self::File => "database file",
            Self::Rows => "database rows",
            Self::Schema => "schema",
            Self::Roots => "artifact roots",
            Self::Place => "artifact place",
            Self::Files => "artifact files",
            Self::Key => "key",
            Self::Server => "tracking server",
            Self::Login => "login",
        })
    }
}

impl DeploymentCheck {
    /// Returns what it means for the user when this check does not come out well.
    fn consequence(self) -> &'static str {
        match self {
            Self::Scratch => {
                "A backup needs this space for a copy of each SQLite database and for the catalogue: set TMPDIR to a \
                 directory that has it."
            }
            Self::Database | Self::DumpProgram | Self::Rights => "There can be no backup of this database.",
            Self::File => "Reading and writing at the same time can corrupt the database: keep it on a local disk.",
            Self::Rows => {
                "They are backed up and restored as they are; what must be mended before a restore is named by each backup."
            }
            Self::Schema => {
                "The backup will be whole, but whether an MLflow release fits it, and how single runs and models are \
                 restored, is not known."
            }
            Self::Roots => "There will be no backup until each is mapped by --artifacts or left out by --exclude-root.",
            Self::Place => "There will be no backup of these artifacts.",
            Self::Files => "The root is mapped to the wrong place, or files are lost: the backup would be incomplete.",
            Self::Key => {
                "Rows that were encrypted with a key outside the database are of no use without it after a restore: keep \
                 it elsewhere, and give it to mlvault, which then tells whether it is the right one. A server without \
                 MLFLOW_CRYPTO_KEK_PASSPHRASE uses one that everybody knows: its secrets are as good as plain text."
            }
            Self::Server | Self::Login => {
                "The metadata will not be exported through the REST API; databases and artifacts do not need it."
            }
        }
    }
}

/// Looks at a deployment from all sides. Fails only if it is interrupted, or no layout can be made of it.
pub fn examine(deployment: &Deployment, hears: &Hears) -> Result<DeploymentReport> {
    hears.monitor.phase("Looking at the deployment", None, None);
    let layout = deployment.layout()?;
    let mut look = DeploymentLook { deployment, layout, hears, findings: Vec::new(), revision: None };
    if let Some(scratch) = look.scratch() {
        look.databases_and_artifacts(scratch.path())?;
    }
    look.server();
    hears.check()?;
    Ok(DeploymentReport { deployment: deployment.name.clone(), findings: look.findings })
}

/// A look under way.
struct DeploymentLook<'a> {
    deployment: &'a Deployment,
    layout: Layout,
    hears: &'a Hears,
    findings: Vec<DeploymentFinding>,
    /// The revision of the backend's schema.
    revision: Option<String>,
}

impl DeploymentLook<'_> {
    fn find(&mut self, check: DeploymentCheck, subject: impl ToString, status: Status, measured: impl ToString) {
        let measured = Some(measured.to_string()).filter(|text| !text.is_empty());
        let consequence = (status != Status::Ok).then(|| check.consequence());
        self.findings.push(DeploymentFinding { check, subject: subject.to_string(), status, measured, consequence });
        self.hears.monitor.count(Counter::Entries, 1);
    }

    /// Notes an error as a finding. Returns the value if there is one.
    fn or_find<T>(&mut self, check: DeploymentCheck, subject: impl ToString, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.find(check, subject, Status::Failed, error)).ok()
    }

    /// Makes a scratch directory; none if there can be none, or it cannot hold the copies that a backup makes.
    fn scratch(&mut self) -> Option<TempDir> {
        let parent = env::temp_dir();
        let made = file_system::scratch_directory()
            .map_err(|source| Error::target("write to the scratch directory", parent.clone(), source));
        let scratch = self.or_find(DeploymentCheck::Scratch, parent.display(), made)?;
        let needed: u64 = self.deployment.databases.iter().map(|(_, uri)| bytes_of_copy(uri)).sum();
        let space = file_system::room_at(scratch.path()).map_or(u64::MAX, |room| room.free_bytes);
        let measured = format!("{} free, {} needed for copies", format_bytes(space), format_bytes(needed));
        let status = if space < needed { Status::Failed } else { Status::Ok };
        self.find(DeploymentCheck::Scratch, parent.display(), status, measured);
        (status == Status::Ok).then_some(scratch)
    }

    fn databases_and_artifacts(&mut self, scratch: &Path) -> Result<()> {
        if self.deployment.databases.is_empty() {
            self.find(DeploymentCheck::Database, "backend", Status::Warning, "none was given");
        }
        let mut open = Vec::new();
        for (store, uri) in &self.deployment.databases {
            self.hears.check()?;
            open.extend(self.database(*store, uri, scratch));
        }
        let inventory = if open.len() == self.deployment.databases.len() { self.inventory(&mut open)? } else { None };
        for place in self.layout.components.clone() {
            self.hears.check()?;
            if let Some(measured) = self.or_find(DeploymentCheck::Place, &place.place, look_at(&place.place)) {
                self.find(DeploymentCheck::Place, &place.place, Status::Ok, measured);
            }
        }
        match inventory {
            Some(inventory) => self.samples(&inventory.claims),
            None => Ok(()),
        }
    }

    /// Looks at a database and opens it as a backup does; none if it cannot be read.
    fn database(&mut self, store: Store, uri: &DatabaseUri, scratch: &Path) -> Option<OpenDatabase> {
        let name = store.name();
        let found = examine::examine(uri);
        let is_well = match self.or_find(DeploymentCheck::Database, name, found)? {
            Examination::Postgresql { version, rights, pg_dump } => {
                self.find(DeploymentCheck::Database, name, Status::Ok, format!("PostgreSQL {version} at {uri}"));
                let pg_dump = self.or_find(DeploymentCheck::DumpProgram, name, pg_dump);
                let rights = self.or_find(DeploymentCheck::Rights, name, rights);
                if let Some(version) = &pg_dump {
                    self.find(DeploymentCheck::DumpProgram, name, Status::Ok, format!("version {version}"));
                }
                if rights.is_some() {
                    self.find(DeploymentCheck::Rights, name, Status::Ok, "every table can be read");
                }
                pg_dump.is_some() && rights.is_some()
            }
            Examination::Sqlite { journal_mode, bytes, network_file_system } => {
                let measured = format!("SQLite at {uri}, {}", format_bytes(bytes));
                self.find(DeploymentCheck::Database, name, Status::Ok, measured);
                let mode = format!("it can be locked; journal mode {journal_mode}");
                match network_file_system {
                    None => self.find(DeploymentCheck::File, name, Status::Ok, mode),
                    Some(kind) => {
                        self.find(DeploymentCheck::File, name, Status::Warning, format!("{mode}; it is on {kind}"))
                    }
                }
                true
            }
        };
        if !is_well {
            return None;
        }
        let opened = OpenDatabase::open(store, uri, scratch, &self.hears.cancel);
        let mut database = self.or_find(DeploymentCheck::Database, name, opened)?;
        let violations = database.reader.facts().violations.clone();
        for violation in violations.kept.iter().chain(&violations.unloadable) {
            self.find(DeploymentCheck::Rows, name, Status::Warning, violation);
        }
        self.schema(&mut database);
        Some(database)
    }

    fn schema(&mut self, database: &mut OpenDatabase) {
        let name = database.store.name();
        let revisions = database.revisions();
        let Some(revisions) = self.or_find(DeploymentCheck::Schema, name, revisions) else { return };
        let shown = revisions.join(", ");
        if revisions.is_empty() {
            let table = database.store.version_table();
            return self.find(
                DeploymentCheck::Schema,
                name,
                Status::Failed,
                format!("it is not MLflow's: it has no {table}"),
            );
        }
        // The revisions of the database of users are a line of their own, of which nothing depends.
        let is_known = database.store == Store::Auth || revisions.iter().all(|revision| schema::is_known(revision));
        let status = if is_known { Status::Ok } else { Status::Warning };
        let measured = if is_known { shown } else { format!("{shown}, which this version of mlvault does not know") };
        self.find(DeploymentCheck::Schema, name, status, measured);
        if database.store == Store::Backend {
            self.revision = revisions.into_iter().next();
        }
    }

    /// Reads what the databases say of artifacts and keys.
    fn inventory(&mut self, databases: &mut [OpenDatabase]) -> Result<Option<Inventory>> {
        if databases.is_empty() {
            return Ok(None);
        }
        let read = inventory::read(databases, &self.layout.map, None, &self.hears.cancel);
        self.hears.check()?;
        let Some(inventory) = self.or_find(DeploymentCheck::Roots, "all", read) else { return Ok(None) };
        for (store, misfit) in &inventory.misfits {
            self.find(DeploymentCheck::Rows, store.name(), Status::Warning, misfit);
        }
        for (root, rows) in inventory.unmapped.iter().take(NAMED_MAX) {
            let measured = format!("{rows} rows refer to it, and it is neither mapped nor excluded");
            self.find(DeploymentCheck::Roots, root, Status::Failed, measured);
        }
        match inventory.unmapped.len().saturating_sub(NAMED_MAX) {
            0 if inventory.unmapped.is_empty() => {
                let measured = format!("{} locations, below roots that are known", inventory.claims.len());
                self.find(DeploymentCheck::Roots, "all", Status::Ok, measured);
            }
            0 => {}
            more => self.find(DeploymentCheck::Roots, "others", Status::Failed, format!("{more} more are not known")),
        }
        let behind_keys = inventory::rows_behind_keys(databases);
        for (name, table, rows) in self.or_find(DeploymentCheck::Key, "all", behind_keys).unwrap_or_default() {
            self.key(name, table, rows);
        }
        Ok(Some(inventory))
    }

    fn key(&mut self, name: &str, table: &str, rows: u64) {
        let key = self.deployment.keys.iter().find(|key| key.name == name);
        let is_default = name == KEK_PASSPHRASE && key.is_some_and(|key| key.value.as_str() == KEK_PASSPHRASE_DEFAULT);
        let rows_need = format!("{rows} rows of {table} need it");
        let (status, measured) = match (rows, key) {
            (0, _) => (Status::Ok, "no row needs it".to_owned()),
            (_, None) => (Status::Warning, format!("{rows_need}, and it was not given")),
            (_, Some(_)) if is_default => (Status::Warning, format!("{rows_need}, and it is MLflow's default")),
            (_, Some(_)) => (Status::Ok, format!("{rows_need}, and it was given")),
        };
        self.find(DeploymentCheck::Key, name, status, measured);
    }

    /// Looks for each root whether files that the databases speak of are where it is mapped to.
    fn samples(&mut self, claims: &[Claim]) -> Result<()> {
        let roots = self.layout.roots.clone();
        let mut by_root: Vec<Vec<&Claim>> = roots.iter().map(|_| Vec::new()).collect();
        for claim in claims.iter().filter(|claim| claim.place.is_some()) {
            let location = uri::normalize(&claim.uri);
            let covers = |(_, root): &(usize, &_)| uri::below(&location, root_uri(root)).is_some();
            let found = roots.iter().enumerate().filter(covers).max_by_key(|(_, root)| root.uri.len());
            if let Some((number, _)) = found {
                by_root[number].push(claim);
            }
        }
        for (root, claims) in roots.iter().zip(by_root) {
            self.hears.check()?;
            let place = self.layout.components[root.component].place.clone();
            let sampled = sample(&claims);
            let looked = missing(&place, &sampled);
            let Some(missing) = self.or_find(DeploymentCheck::Files, &root.uri, looked) else { continue };
            let must_exist = sampled.iter().any(|claim| claim.must_exist);
            let named: Vec<&str> = missing.iter().take(NAMED_MAX).copied().collect();
            let counted = format!("{} of {} locations have files", sampled.len() - missing.len(), sampled.len());
            let (status, measured) = match (sampled.len(), missing.len()) {
                (0, _) => (Status::Ok, "the databases name nothing below it".to_owned()),
                (_, 0) => (Status::Ok, counted),
                (all, none) if all == none && must_exist => {
                    (Status::Failed, format!("{counted} at {place}: missing {}", named.join(", ")))
                }
                // A run need not have logged a file.
                _ if !must_exist => (Status::Ok, format!("{counted}; runs need not have any")),
                _ => (Status::Warning, format!("{counted} at {place}: missing {}", named.join(", "))),
            };
            self.find(DeploymentCheck::Files, &root.uri, status, measured);
        }
        Ok(())
    }

    fn server(&mut self) {
        let Some(options) = &self.deployment.tracking else { return };
        let mut options = options.clone();
        options.retries = options.retries.min(RETRIES_MAX);
        let subject = options.uri.clone();
        let client = TrackingClient::connect(&options).map(|client| client.heard_by(self.hears));
        let Some(client) = self.or_find(DeploymentCheck::Server, &subject, client) else { return };
        if self.or_find(DeploymentCheck::Server, &subject, client.health()).is_none() {
            return;
        }
        let (status, measured) = match (client.version(), &self.revision) {
            (Ok(version), Some(revision)) => fit(&version, revision),
            (Ok(version), None) => (Status::Ok, format!("MLflow {version}")),
            // Servers with passwords tell it to nobody else; that is what the login is looked at for.
            (Err(error), _) if error.fault() == Some(Fault::Denied) => (Status::Ok, "it is well".to_owned()),
            (Err(error), _) => (Status::Failed, error.to_string()),
        };
        self.find(DeploymentCheck::Server, &subject, status, measured);
        if self.or_find(DeploymentCheck::Login, &subject, client.check_access()).is_some() {
            self.find(DeploymentCheck::Login, &subject, Status::Ok, "experiments can be read");
        }
    }
}

fn root_uri(root: &crate::mlflow::roots::MappedRoot) -> &str {
    &root.uri
}

/// Compares a server with the schema of the database: a server works only with its own.
fn fit(version: &str, revision: &str) -> (Status, String) {
    match schema::head_of_release(version) {
        Some(head) if schema::compare(head, revision) != Order::Same => (
            Status::Warning,
            format!("MLflow {version} has the schema {head}, the database {revision}: is it this server's?"),
        ),
        _ => (Status::Ok, format!("MLflow {version}")),
    }
}

fn bytes_of_copy(uri: &DatabaseUri) -> u64 {
    match uri {
        DatabaseUri::Sqlite(path) => examine::bytes(path).unwrap_or(0),
        DatabaseUri::Postgresql(_) => 0,
    }
}

/// Lists a place. Returns what is to be said of it.
fn look_at(place: &ArtifactPlace) -> Result<&'static str> {
    let is_empty = match place {
        ArtifactPlace::Directory(path) => {
            let fault = |source| Error::source("list", path.clone(), source);
            std::fs::read_dir(path).map_err(fault)?.next().is_none()
        }
        ArtifactPlace::Bucket(location, options) => {
            let bucket = Bucket::connect(&location.bucket, options, Patience::default())?;
            bucket.first_objects(&location.key_prefix(), 1)?.is_empty()
        }
    };
    Ok(if is_empty { "it can be listed, and is empty" } else { "it can be listed" })
}

/// Chooses locations, evenly from all; of those that must have files, if there are any.
fn sample<'c>(claims: &[&'c Claim]) -> Vec<&'c Claim> {
    let must_exist: Vec<_> = claims.iter().copied().filter(|claim| claim.must_exist).collect();
    let from = if must_exist.is_empty() { claims } else { &must_exist };
    let step = from.len().div_ceil(SAMPLES_MAX).max(1);
    from.iter().copied().step_by(step).collect()
}

/// Returns the locations that have no files.
fn missing<'c>(place: &ArtifactPlace, sampled: &[&'c Claim]) -> Result<Vec<&'c str>> {
    let bucket = match place {
        ArtifactPlace::Bucket(location, options) => {
            Some(Bucket::connect(&location.bucket, options, Patience::default())?)
        }
        ArtifactPlace::Directory(_) => None,
    };
    let mut missing = Vec::new();
    for claim in sampled {
        let Some((_, path)) = &claim.place else { continue };
        let is_there = match (place, &bucket) {
            (ArtifactPlace::Bucket(location, _), Some(bucket)) => {
                !bucket.first_objects(&location.below(path).key_prefix(), 1)?.is_empty()
            }
            (ArtifactPlace::Directory(directory), _) => has_entries(&directory.join(path)),
            _ => false,
        };
        if !is_there {
            missing.push(claim.uri.as_str());
        }
    }
    Ok(missing)
}

fn has_entries(path: &Path) -> bool {
    path.is_file() || std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mlflow::schema::ReferenceKind;

    fn claim(number: usize, must_exist: bool) -> Claim {
        let (id, uri) = (number.to_string(), format!("/a/{number}"));
        Claim { kind: ReferenceKind::Run, id, uri, place: Some((0, number.to_string())), must_exist, is_settled: true }
    }

    #[test]
    fn samples_are_few_and_of_what_must_be_there() {
        let claims: Vec<_> = (0..1000).map(|number| claim(number, number % 2 == 0)).collect();
        let all: Vec<_> = claims.iter().collect();
        let sampled = sample(&all);
        assert!(sampled.len() <= SAMPLES_MAX && sampled.iter().all(|claim| claim.must_exist));
        let (first, last) = (&sampled[0].id, &sampled[sampled.len() - 1].id);
        assert!(first == "0" && last.parse::<usize>().unwrap() > 900, "{first} {last}");
        let optional: Vec<_> = all.iter().copied().filter(|claim| !claim.must_exist).take(3).collect();
        assert_eq!(sample(&optional).len(), 3);
        assert!(sample(&[]).is_empty());
    }

    #[test]
    fn a_server_that_cannot_be_this_database_s_is_told() {
        assert_eq!(fit("3.17.2", "dc11669786a5").0, Status::Ok);
        assert_eq!(fit("3.18.0", "dc11669786a5").0, Status::Warning);
        assert_eq!(fit("9.9.9", "dc11669786a5").0, Status::Ok);
    }
}
