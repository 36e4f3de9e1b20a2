//! A deployment as it is configured: in the file, overridden by the environment, overridden by flags.
//!
//! ```toml
//! [deployment.production]
//! backend-store-uri = "postgresql://mlflow@db.example.org/mlflow"
//! backend-store-password-file = "/run/secrets/mlflow-db/password"
//! tracking-uri = "https://mlflow.example.org"            # optional: for the export through the REST API
//! metadata = "optional"                                  # without all of that export a backup is whole all the same
//! exclude-roots = ["s3://scratch"]
//! exclude = ["*.ckpt"]                                   # below artifact roots, as `backup --exclude`
//! retention = "production"                               # the policy of `forget --deployment production`
//!
//! [deployment.production.artifacts]                      # as the databases have it = where it is
//! "mlflow-artifacts:/" = "s3://mlflow/artifacts"
//! "s3://team-b" = "s3://team-b"
//!
//! [deployment.production.drill]                          # where `drill` restores it to
//! scratch-dir = "/var/tmp"
//! scratch-database = "postgresql://drill@scratch.example.org/postgres"
//!
//! [deployment.production.kubernetes]                     # what runs it in a cluster
//! workload = "deployment/mlflow"
//!
//! [deployment.production.s3]                             # how its buckets are reached
//! endpoint = "https://minio.example.org"
//!
//! [deployment.production.buckets.team-b]                 # one that is elsewhere
//! endpoint = "https://s3.team-b.example.org"
//! access-key-id = "backup"
//! secret-access-key-file = "/run/secrets/team-b/key"
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use zeroize::Zeroizing;

use crate::config::credential::read_secret_line;
use crate::config::file::{ConfigFile, DeploymentSection, DrillSection, KubernetesSection, MetadataNeed};
use crate::config::pairs;
use crate::database::DatabaseUri;
use crate::database::uri::PostgresqlUri;
use crate::error::{Error, Result};
use crate::mlflow::schema::{KEK_PASSPHRASE, Store, WEBHOOK_KEY};
use crate::procedures::drill::DrillSettings;
use crate::procedures::drill::settings::{SAMPLES_DEFAULT, SAMPLES_MAX};
use crate::s3::{BucketLocation, S3Options};
use crate::source::deployment::{ArtifactPlace, ArtifactRoot, Deployment, OutsideKey};
use crate::tracking::{self, TrackingOptions};

/// Keys of MLflow's environment of which snapshots keep fingerprints.
const OUTSIDE_KEYS: [&str; 2] = [KEK_PASSPHRASE, WEBHOOK_KEY];

/// What flags and mlvault's own variables say of a deployment.
#[derive(Debug, Clone, Default)]
pub struct DeploymentFlags {
    /// Its name.
    pub name: Option<String>,
    /// What they say, over what the file says of it.
    pub section: DeploymentSection,
    /// Settings that hold for every bucket of which nothing else is said.
    pub s3: S3Options,
}

/// Splits places of artifacts as flags name them, in [`pairs`]: `ROOT=PLACE`, or only `ROOT` where both are the same. A root
/// that is given twice is refused: one of the places would silently be left out.
pub fn artifact_places(given: &[String]) -> Result<BTreeMap<String, String>> {
    let mut places = BTreeMap::new();
    for text in pairs::list(given) {
        let (root, place) = pairs::pair(text);
        let place = place.unwrap_or_else(|| root.clone());
        if places.insert(root.clone(), place.clone()).is_some_and(|other| other != place) {
            return Err(Error::Invalid(format!("The artifact root {root:?} is given two places")));
        }
    }
    Ok(places)
}

/// Splits artifact roots as flags name them, in [`pairs`].
pub fn roots(given: &[String]) -> Vec<String> {
    pairs::list(given).into_iter().map(pairs::plain).collect()
}

/// Puts together what file, environment and flags say. `env` looks up variables.
pub fn resolve(file: &ConfigFile, flags: &DeploymentFlags, env: &dyn Fn(&str) -> Option<String>) -> Result<Deployment> {
    let is_described = flags.section.backend_store_uri.is_some() || flags.section.tracking_uri.is_some();
    if let Some(name) = flags.name.as_ref().filter(|name| !is_described && !file.deployment.contains_key(*name)) {
        return Err(unknown_deployment(file, name));
    }
    let said = said(file, flags);
    let databases = databases(&said)?;
    let artifacts = artifacts(&said, flags, env)?;
    let tracking = tracking(&said, env)?;
    let name = match (&flags.name, databases.first(), artifacts.first(), &tracking) {
        (Some(name), ..) => name.clone(),
        (None, Some((_, uri)), ..) => uri.to_string(),
        (None, None, Some(root), _) => root.place.to_string(),
        (None, None, None, Some(server)) => server.uri.clone(),
        (None, None, None, None) => {
            return Err(Error::Invalid("The deployment has neither databases nor artifacts nor a server".to_owned()));
        }
    };
    let keys = outside_keys(env);
    let metadata_optional = said.metadata == Some(MetadataNeed::Optional);
    Ok(Deployment { name, databases, artifacts, excluded: said.exclude_roots, keys, tracking, metadata_optional })
}

/// Returns what flags say, and where they say nothing, what the file says.
fn said(file: &ConfigFile, flags: &DeploymentFlags) -> DeploymentSection {
    match flags.name.as_ref().and_then(|name| file.deployment.get(name)) {
        Some(section) => flags.section.clone().over(section),
        None => flags.section.clone(),
    }
}

/// Puts together the deployment that a drill must stay apart from, and compares with. A password of its databases that is not at
/// hand is left out: a drill asks them only who they are, and whoever runs drills need not have it.
pub fn resolve_for_drill(
    file: &ConfigFile,
    flags: &DeploymentFlags,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Deployment> {
    let mut said = said(file, flags);
    for password in [
        &mut said.backend_store_password_file,
        &mut said.registry_store_password_file,
        &mut said.auth_database_password_file,
    ] {
        password.take_if(|file| !file.exists());
    }
    Ok(Deployment {
        name: flags.name.clone().unwrap_or_default(),
        databases: databases(&said)?,
        artifacts: artifacts(&said, flags, env)?,
        excluded: said.exclude_roots,
        keys: outside_keys(env),
        tracking: None,
        metadata_optional: false,
    })
}

/// Puts together where a drill restores to, and how much it compares.
pub fn resolve_drill(
    file: &ConfigFile,
    flags: &DeploymentFlags,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<DrillSettings> {
    let said = said(file, flags);
    let drill = &said.drill;
    let samples = drill.samples.unwrap_or(SAMPLES_DEFAULT);
    if samples > SAMPLES_MAX {
        return Err(Error::Invalid(format!("A drill compares at most {SAMPLES_MAX} samples")));
    }
    let artifacts = drill.scratch_artifacts.as_ref().map(|text| place_of(text, &said, flags, env)).transpose()?;
    Ok(DrillSettings {
        scratch_directory: drill.scratch_dir.clone(),
        scratch_database: scratch_database(drill)?,
        scratch_artifacts: artifacts,
        samples,
        mlflow_command: drill.mlflow_command.clone().filter(|command| !command.trim().is_empty()),
        objectives: said.objectives.clone(),
    })
}

/// Puts together what runs the deployment in a cluster.
pub fn resolve_kubernetes(file: &ConfigFile, flags: &DeploymentFlags) -> KubernetesSection {
    said(file, flags).kubernetes
}

fn scratch_database(drill: &DrillSection) -> Result<Option<PostgresqlUri>> {
    let Some(text) = &drill.scratch_database else { return Ok(None) };
    let password = drill.scratch_database_password_file.as_ref().map(|file| read_secret_line(file)).transpose()?;
    match DatabaseUri::parse(text, password)? {
        DatabaseUri::Postgresql(uri) => Ok(Some(*uri)),
        DatabaseUri::Sqlite(_) => {
            Err(Error::Invalid("A scratch database is one of PostgreSQL: files of SQLite need none".to_owned()))
        }
    }
}

/// A tracking URI that is no URL names a store, as MLflow's own clients take it: that is no server to ask.
fn tracking(said: &DeploymentSection, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<TrackingOptions>> {
    let is_server = |uri: &&String| uri.starts_with("http://") || uri.starts_with("https://");
    said.tracking_uri.as_ref().filter(is_server).map(|uri| tracking::options(uri, env)).transpose()
}

fn outside_keys(env: &dyn Fn(&str) -> Option<String>) -> Vec<OutsideKey> {
    let key = |name: &&str| {
        let value = env(name).filter(|value| !value.is_empty())?;
        Some(OutsideKey { name: (*name).to_owned(), value: Zeroizing::new(value) })
    };
    OUTSIDE_KEYS.iter().filter_map(key).collect()
}

fn unknown_deployment(file: &ConfigFile, name: &str) -> Error {
    let known: Vec<_> = file.deployment.keys().map(String::as_str).collect();
    let known = if known.is_empty() { "it names none".to_owned() } else { format!("it names {}", known.join(", ")) };
    Error::Invalid(format!("The configuration has no deployment {name:?}: {known}"))
}

fn databases(said: &DeploymentSection) -> Result<Vec<(Store, DatabaseUri)>> {
    let stores = [
        (Store::Backend, &said.backend_store_uri, &said.backend_store_password_file),
        (Store::Registry, &said.registry_store_uri, &said.registry_store_password_file),
        (Store::Auth, &said.auth_database_uri, &said.auth_database_password_file),
    ];
    let mut databases: Vec<(Store, DatabaseUri)> = Vec::new();
    for (store, uri, password_file) in stores {
        let Some(uri) = uri else { continue };
        let password = password_file.as_ref().map(|file| read_secret_line(file)).transpose()?;
        let uri = DatabaseUri::parse(uri, password)?;
        // A registry in the backend's database needs no dump of its own.
        if !databases.iter().any(|(_, known)| known.to_string() == uri.to_string()) {
            databases.push((store, uri));
        }
    }
    Ok(databases)
}

fn artifacts(
    said: &DeploymentSection,
    flags: &DeploymentFlags,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<ArtifactRoot>> {
    let root = |(uri, place): (&String, &String)| {
        let place = place_of(place, said, flags, env)?;
        Ok(ArtifactRoot { uri: uri.clone(), place })
    };
    said.artifacts.iter().map(root).collect()
}

/// Reads a place of artifacts: a directory, or `s3://bucket/prefix` with what is configured for the bucket.
fn place_of(
    text: &str,
    section: &DeploymentSection,
    flags: &DeploymentFlags,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<ArtifactPlace> {
    if BucketLocation::is_meant(text) {
        let location: BucketLocation = text.parse()?;
        let options = bucket_options(&location.bucket, section, flags, env)?;
        return Ok(ArtifactPlace::Bucket(location, Box::new(options)));
    }
    let path = text.strip_prefix("file://").unwrap_or(text);
    if path.is_empty() || path.contains("://") || path.starts_with("mlflow-artifacts:") {
        return Err(Error::Invalid(format!(
            "{text:?} is no place for artifacts: it must be a directory or s3://bucket/prefix"
        )));
    }
    let fault = |source| Error::source("look at", path, source);
    Ok(ArtifactPlace::Directory(std::path::absolute(Path::new(path)).map_err(fault)?))
}

/// Puts together how a bucket is reached: what is said for it, for the deployment, by MLflow's environment, by flags.
fn bucket_options(
    bucket: &str,
    section: &DeploymentSection,
    flags: &DeploymentFlags,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<S3Options> {
    let said = section.buckets.get(bucket).cloned().unwrap_or_default().over(&section.s3);
    let from_mlflow = || env("MLFLOW_S3_ENDPOINT_URL").filter(|url| !url.is_empty());
    let ignores_tls = |value: String| matches!(value.to_ascii_lowercase().as_str(), "true" | "1");
    Ok(S3Options {
        credentials: said.credentials()?,
        endpoint: said.endpoint.or_else(from_mlflow).or_else(|| flags.s3.endpoint.clone()),
        region: said.region.or_else(|| flags.s3.region.clone()),
        path_style: said.path_style.or(flags.s3.path_style),
        insecure_http: said.insecure_http.unwrap_or(flags.s3.insecure_http),
        ca_bundle: said.ca_bundle.or_else(|| flags.s3.ca_bundle.clone()),
        ignore_tls: env("MLFLOW_S3_IGNORE_TLS").is_some_and(ignores_tls),
        hears: flags.s3.hears.clone(),
        limits: flags.s3.limits.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> ConfigFile {
        ConfigFile::parse(
            "[deployment.production]\nbackend-store-uri = 'sqlite:////srv/mlflow.db'\nexclude-roots = ['s3://scratch']\n\
             [deployment.production.artifacts]\n'mlflow-artifacts:/' = 's3://mlflow/artifacts'\n's3://team-b' = 's3://team-b'\n\
             [deployment.production.s3]\nendpoint = 'https://minio'\nregion = 'r'\n\
             [deployment.production.buckets.team-b]\nendpoint = 'https://b'\n",
        )
        .unwrap()
    }

    fn flags(name: Option<&str>) -> DeploymentFlags {
        DeploymentFlags { name: name.map(str::to_owned), ..DeploymentFlags::default() }
    }

    fn places(given: &[&str]) -> BTreeMap<String, String> {
        artifact_places(&given.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_root_with_two_places_is_refused() {
        let given = ["a=/x", "b=/y", "a=/z"].map(str::to_owned);
        assert!(artifact_places(&given).unwrap_err().to_string().contains("\"a\" is given two places"));
        assert_eq!(artifact_places(&given[..2]).unwrap().len(), 2);
    }

    #[test]
    fn a_root_may_have_what_separates_in_it() {
        let given = places(&[r"s3://b/day\=1=/srv/x=y,s3://b/a\,b", "s3://c"]);
        let expected = [("s3://b/a,b", "s3://b/a,b"), ("s3://b/day=1", "/srv/x=y"), ("s3://c", "s3://c")];
        assert_eq!(given, expected.map(|(root, place)| (root.to_owned(), place.to_owned())).into());
        assert_eq!(roots(&[r"s3://b/day\=1,s3://c".to_owned()]), ["s3://b/day=1", "s3://c"]);
    }

    fn endpoint_of(root: &ArtifactRoot) -> Option<&str> {
        match &root.place {
            ArtifactPlace::Bucket(_, options) => options.endpoint.as_deref(),
            ArtifactPlace::Directory(_) => None,
        }
    }

    #[test]
    fn a_deployment_is_found_by_name_and_each_bucket_has_its_settings() {
        let found = resolve(&file(), &flags(Some("production")), &|_| None).unwrap();
        assert_eq!(found.name, "production");
        assert_eq!(
            found.artifacts.iter().map(endpoint_of).collect::<Vec<_>>(),
            [Some("https://minio"), Some("https://b")]
        );
        assert_eq!(found.excluded, ["s3://scratch"]);
        let error = resolve(&file(), &flags(Some("staging")), &|_| None).err().unwrap().to_string();
        assert!(error.contains("staging") && error.contains("production"), "{error}");
    }

    #[test]
    fn flags_alone_make_a_deployment() {
        let section = DeploymentSection {
            backend_store_uri: Some("sqlite:////srv/mlflow.db".into()),
            artifacts: places(&["mlflow-artifacts:/=/srv/mlartifacts", "s3://b/x"]),
            ..DeploymentSection::default()
        };
        let flags = DeploymentFlags { section, ..DeploymentFlags::default() };
        let env = |name: &str| (name == "MLFLOW_S3_ENDPOINT_URL").then(|| "http://minio:9000".to_owned());
        let found = resolve(&ConfigFile::default(), &flags, &env).unwrap();
        assert_eq!(found.name, "sqlite:////srv/mlflow.db");
        assert_eq!(found.artifacts[0].place.to_string(), "/srv/mlartifacts");
        assert_eq!(
            (found.artifacts[1].uri.as_str(), endpoint_of(&found.artifacts[1])),
            ("s3://b/x", Some("http://minio:9000"))
        );
    }

    #[test]
    fn flags_override_the_file() {
        let mut flags = flags(Some("production"));
        flags.section.artifacts = places(&["mlflow-artifacts:/=/mnt"]);
        flags.section.backend_store_uri = Some("sqlite:////other.db".into());
        let found = resolve(&file(), &flags, &|_| None).unwrap();
        assert_eq!(found.artifacts.len(), 1);
        assert_eq!(found.databases[0].1.to_string(), "sqlite:////other.db");
    }

    #[test]
    fn places_that_cannot_be_read_are_refused() {
        for place in ["gs://bucket/x", "mlflow-artifacts:/", ""] {
            let mut flags = flags(None);
            flags.section.artifacts = places(&[&format!("mlflow-artifacts:/={place}")]);
            assert!(resolve(&ConfigFile::default(), &flags, &|_| None).is_err(), "{place}");
        }
    }
}
