//! The scratch place of a drill: a directory, databases and perhaps a part of a bucket that were made for it.
//!
//! What must stay true:
//! - Everything in it was made by this drill, under a name that nothing had before; so all of it may be removed, and nothing
//!   else ever is.
//! - It is refused before its first byte if it may be a place of the source, the repository or the cache ([`Protected`]).
//! - What cannot be removed is named. So is everything when it is made, for whoever finds it after a machine has died.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::apart::Protected;
use super::settings::{DrillOptions, DrillSettings};
use crate::cancel::Cancel;
use crate::crypto::random;
use crate::database::postgresql::{PrivateServer, scratch};
use crate::database::uri::PostgresqlUri;
use crate::database::{self, DatabaseUri, Engine};
use crate::error::{Error, Result};
use crate::file_system;
use crate::format::deployment::{DatabaseRecord, DeploymentRecord};
use crate::format::evidence::DrillPlace;
use crate::id::SlotId;
use crate::s3::{BucketLocation, S3Options};
use crate::source::deployment::{ArtifactPlace, ArtifactRoot, Deployment};
use crate::target::bucket::BucketTarget;

/// What the names of all scratch directories and prefixes begin with.
const NAME: &str = "mlvault-drill-";
/// What the names of all scratch databases begin with.
const DATABASE_NAME: &str = "mlvault_drill_";
/// Objects that are looked at to see whether a scratch prefix is empty.
const LOOKED_AT_MAX: usize = 1000;
/// Permissions of the scratch directory.
const MODE: u32 = 0o700;

/// Everything that was made for a drill.
pub struct Scratch {
    directory: TempDir,
    artifacts: Artifacts,
    server: Option<PrivateServer>,
    /// Databases that were created: beside which one, and their names.
    databases: Vec<(PostgresqlUri, String)>,
    /// The deployment that is restored.
    pub deployment: Deployment,
    /// Where its parts are.
    pub places: Vec<DrillPlace>,
}

/// Where artifacts go.
enum Artifacts {
    /// Into the scratch directory.
    Beside,
    /// Into a directory of their own.
    Directory(TempDir),
    /// Into a part of a bucket.
    Bucket(BucketLocation, Box<S3Options>),
}

impl Scratch {
    /// Makes the scratch directory, which is empty then.
    pub fn new(options: &DrillOptions, protected: &Protected) -> Result<Self> {
        let settings = &options.settings;
        let directory = private_directory(settings.scratch_directory.as_deref(), protected)?;
        let deployment =
            Deployment { artifacts: Vec::new(), databases: Vec::new(), tracking: None, ..options.source.clone() };
        let (databases, places) = (Vec::new(), Vec::new());
        Ok(Self { directory, artifacts: Artifacts::Beside, server: None, databases, deployment, places })
    }

    /// Returns the scratch directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Makes a directory in the scratch directory that nobody else can enter.
    pub fn make_directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        let fault = |source| Error::target("create", path.clone(), source);
        fs::create_dir(&path).map_err(fault)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(MODE)).map_err(fault)?;
        Ok(path)
    }

    /// Makes places for everything that a snapshot has.
    pub fn prepare(
        &mut self,
        record: &DeploymentRecord,
        options: &DrillOptions,
        protected: &Protected,
        cancel: &Cancel,
    ) -> Result<()> {
        self.choose_artifacts(&options.settings, protected)?;
        self.deployment.excluded.clone_from(&record.excluded);
        for root in &record.roots {
            let place = self.place_of(&format!("{}/{}", root.component, root.path));
            if root.path.is_empty() {
                self.places.push(artifact_place(&root.component, &root.place, &place));
            }
            self.deployment.artifacts.push(ArtifactRoot { uri: root.uri.clone(), place });
        }
        for database in &record.databases {
            let uri = self.make_database(database, &options.settings, cancel)?;
            self.deployment.databases.push((database.store, uri.clone()));
            let place = database_place(database, &uri, options.source.database(database.store))?;
            self.places.push(place);
        }
        Ok(())
    }

    fn choose_artifacts(&mut self, settings: &DrillSettings, protected: &Protected) -> Result<()> {
        self.artifacts = match &settings.scratch_artifacts {
            None => Artifacts::Beside,
            Some(ArtifactPlace::Directory(path)) => Artifacts::Directory(private_directory(Some(path), protected)?),
            Some(ArtifactPlace::Bucket(location, options)) => {
                protected.check_bucket(location)?;
                refuse_filled(location, options)?;
                Artifacts::Bucket(location.below(&format!("{NAME}{}", new_name())), options.clone())
            }
        };
        Ok(())
    }

    /// Returns where what is at a path of a component goes.
    fn place_of(&self, path: &str) -> ArtifactPlace {
        let path = path.trim_end_matches('/');
        match &self.artifacts {
            Artifacts::Beside => ArtifactPlace::Directory(self.path().join(path)),
            Artifacts::Directory(directory) => ArtifactPlace::Directory(directory.path().join(path)),
            Artifacts::Bucket(location, options) => ArtifactPlace::Bucket(location.below(path), options.clone()),
        }
    }

    fn make_database(
        &mut self,
        record: &DatabaseRecord,
        settings: &DrillSettings,
        cancel: &Cancel,
    ) -> Result<DatabaseUri> {
        if record.engine == Engine::Sqlite.name() {
            return Ok(DatabaseUri::Sqlite(self.path().join(format!("{}.db", record.store.name()))));
        }
        let beside = match (&settings.scratch_database, &self.server) {
            (Some(uri), _) => uri.clone(),
            (None, Some(server)) => server.uri().clone(),
            (None, None) => self.start_server(record, cancel)?,
        };
        let name = format!("{DATABASE_NAME}{}", new_name());
        let uri = scratch::create(&beside, &name)?;
        self.databases.push((beside, name));
        Ok(DatabaseUri::Postgresql(Box::new(uri)))
    }

    fn start_server(&mut self, record: &DatabaseRecord, cancel: &Cancel) -> Result<PostgresqlUri> {
        let directory = self.make_directory("postgresql")?;
        let version = &record.server_version;
        let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
        let major = version[..digits].parse().unwrap_or(0);
        let server = PrivateServer::start(&directory, major, cancel).map_err(|error| match error {
            Error::Invalid(reason) => Error::Invalid(format!(
                "The {} database needs a PostgreSQL server to be restored into: name a database beside which others may be \
                 created (--scratch-database). {reason}",
                record.store.name()
            )),
            error => error,
        })?;
        let uri = server.uri().clone();
        self.server = Some(server);
        Ok(uri)
    }

    /// Says what there is, for whoever has to remove it by hand.
    pub fn named(&self) -> Vec<String> {
        let mut named = vec![self.path().display().to_string()];
        match &self.artifacts {
            Artifacts::Beside => {}
            Artifacts::Directory(directory) => named.push(directory.path().display().to_string()),
            Artifacts::Bucket(location, _) => named.push(location.to_string()),
        }
        // Those of a server in the directory go with it.
        let outside = self.databases.iter().filter(|_| self.server.is_none());
        named.extend(
            outside.map(|(beside, name)| PostgresqlUri { database: name.clone(), ..beside.clone() }.to_string()),
        );
        named
    }

    /// Removes everything, and returns what could not be removed and why.
    pub fn remove(self) -> Vec<String> {
        let mut left = Vec::new();
        let mut note = |what: String, removed: Result<()>| {
            left.extend(removed.err().map(|error| format!("{what} was not removed: {error}")));
        };
        for (beside, name) in self.databases.iter().filter(|_| self.server.is_none()) {
            note(format!("The database {name:?}"), scratch::remove(beside, name));
        }
        // It ends before its files go.
        drop(self.server);
        match self.artifacts {
            Artifacts::Beside => {}
            Artifacts::Directory(directory) => note(format!("{:?}", directory.path()), remove_directory(directory)),
            Artifacts::Bucket(location, options) => {
                // What asks to stop must not keep it from being removed.
                let options = S3Options { hears: crate::hears::Hears::nobody(), ..*options };
                let cleared = BucketTarget::connect(&location, &options).and_then(|target| target.clear());
                note(location.to_string(), cleared);
            }
        }
        note(format!("{:?}", self.directory.path()), remove_directory(self.directory));
        left
    }

    /// Leaves everything where it is, but ends what runs.
    pub fn keep(self) -> Vec<String> {
        let named = self.named();
        let _ = self.directory.keep();
        if let Artifacts::Directory(directory) = self.artifacts {
            let _ = directory.keep();
        }
        named
    }
}

/// Returns a name that nothing has.
fn new_name() -> String {
    SlotId::from_bytes(random()).to_string()
}

/// Makes a directory that nobody else can enter, where users say or else in the temporary directory.
fn private_directory(within: Option<&Path>, protected: &Protected) -> Result<TempDir> {
    let usual = std::env::temp_dir();
    let parent = within.unwrap_or(&usual);
    let fault = |source| Error::target("create a scratch directory in", parent.to_owned(), source);
    match within {
        Some(path) if !path.is_dir() => {
            return Err(Error::Invalid(format!("The scratch place {path:?} is no directory")));
        }
        // The whole of what users give must be apart; the temporary directory has other things in it, too.
        Some(path) => protected.check_directory(path)?,
        None => protected.check_directory(&parent.join(format!("{NAME}{}", new_name())))?,
    }
    let made = file_system::scratch_directory_in(parent, NAME).map_err(fault)?;
    protected.check_directory(made.path())?;
    Ok(made)
}

/// Fails unless a part of a bucket has nothing in it but what drills have left, or are at.
fn refuse_filled(location: &BucketLocation, options: &S3Options) -> Result<()> {
    let own = format!("{}{NAME}", location.key_prefix());
    let found = BucketTarget::connect(location, options)?.look(LOOKED_AT_MAX)?;
    match found.iter().find(|key| !key.starts_with(&own)) {
        None => Ok(()),
        Some(key) => Err(Error::Refused(format!(
            "The scratch place {location} is not empty: it has {key:?}. Choose a prefix that nothing has"
        ))),
    }
}

fn artifact_place(component: &str, source: &str, place: &ArtifactPlace) -> DrillPlace {
    let differs = match place {
        ArtifactPlace::Directory(_) => "a directory that the drill has made, by device and inode none of the source",
        ArtifactPlace::Bucket(..) => "a prefix that was empty, in no part of a bucket of the source",
    };
    let (part, source) = (component.to_owned(), Some(source.to_owned()));
    DrillPlace { part, source, scratch: place.to_string(), differs: differs.to_owned() }
}

/// Compares a scratch database with the one that is configured, by what the servers say of themselves.
fn database_place(record: &DatabaseRecord, scratch: &DatabaseUri, source: Option<&DatabaseUri>) -> Result<DrillPlace> {
    let source_text = source.map_or_else(|| record.location.clone(), described);
    let differs = match source.map(|source| (source, database::identity(source))) {
        _ if matches!(scratch, DatabaseUri::Sqlite(_)) => "a file in a directory that the drill has made".to_owned(),
        None => "a database that the drill has made; no source is configured".to_owned(),
        Some((_, Err(error))) => format!("a database that the drill has made; the source could not be asked: {error}"),
        Some((source, Ok(theirs))) => {
            let ours = database::identity(scratch)?;
            if ours == theirs {
                return Err(Error::Refused(format!("The scratch database {scratch} is the source, {source}")));
            }
            let is_same_server = ours.server == theirs.server;
            let of = if is_same_server { "another database of the same server" } else { "another server" };
            format!("{of}; a database that the drill has made")
        }
    };
    let part = format!("{}/{}", crate::format::snapshot::DATABASE, record.store.name());
    Ok(DrillPlace { part, source: Some(source_text), scratch: described(scratch), differs })
}

/// Returns a database's URI, and which cluster it is in where that can be had.
fn described(uri: &DatabaseUri) -> String {
    let system = match uri {
        DatabaseUri::Postgresql(uri) => scratch::system_identifier(uri),
        DatabaseUri::Sqlite(_) => None,
    };
    match system {
        Some(system) => format!("{uri} (system identifier {system})"),
        None => uri.to_string(),
    }
}

/// Removes a directory with all that is in it, also what nobody may write to.
fn remove_directory(directory: TempDir) -> Result<()> {
    let path = directory.keep();
    let removed = fs::remove_dir_all(&path).or_else(|_| {
        open_up(&path);
        fs::remove_dir_all(&path)
    });
    removed.map_err(|source| Error::target("remove", path.clone(), source))
}

/// Lets the owner write to every directory below: restored ones have the permissions of the originals.
fn open_up(path: &Path) {
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(MODE));
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_may_write_to_is_removed_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        fs::create_dir_all(path.join("a/b")).unwrap();
        fs::write(path.join("a/b/file"), "x").unwrap();
        for name in ["a/b", "a"] {
            fs::set_permissions(path.join(name), fs::Permissions::from_mode(0o555)).unwrap();
        }
        remove_directory(directory).unwrap();
        assert!(!path.exists());
    }
}
