//! A deployment as it is configured: in the file, overridden by the environment, overridden by flags.
//!
//! ```toml
//! [deployment.production]
//! backend-store-uri = "postgresql://mlflow@db.example.org/mlflow"
//! backend-store-password-file = "/run/secrets/mlflow-db/password"
//! tracking-uri = "https://mlflow.example.org"            # optional: for the export through the REST API
//! exclude-roots = ["s3://scratch"]
//! retention = "production"                               # the policy of `forget --deployment production`
//!
//! [deployment.production.artifacts]                      # as the databases have it = where it is
//! "mlflow-artifacts:/" = "s3://mlflow/artifacts"
//! "s3://team-b" = "s3://team-b"
//!
//! [deployment.production.s3]                             # how its buckets are reached
//! endpoint = "https://minio.example.org"
//!
//! [deployment.production.buckets.team-b]                 # one that is elsewhere
//! endpoint = "https://s3.team-b.example.org"
//! access-key-id = "backup"
//! secret-access-key-file = "/run/secrets/team-b/key"
//! ```

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::config::credential::read_secret_line;
use crate::config::file::{ConfigFile, DeploymentSection};
use crate::database::DatabaseUri;
use crate::error::{Error, Result};
use crate::mlflow::schema::{KEK_PASSPHRASE, Store, WEBHOOK_KEY};
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
    /// See [`DeploymentSection::backend_store_uri`].
    pub backend_store_uri: Option<String>,
    /// See [`DeploymentSection::backend_store_password_file`].
    pub backend_store_password_file: Option<PathBuf>,
    /// See [`DeploymentSection::registry_store_uri`].
    pub registry_store_uri: Option<String>,
    /// See [`DeploymentSection::registry_store_password_file`].
    pub registry_store_password_file: Option<PathBuf>,
    /// See [`DeploymentSection::auth_database_uri`].
    pub auth_database_uri: Option<String>,
    /// See [`DeploymentSection::auth_database_password_file`].
    pub auth_database_password_file: Option<PathBuf>,
    /// `ROOT=PLACE`, or only `ROOT` where both are the same.
    pub artifacts: Vec<String>,
    /// Artifact roots that are left out.
    pub exclude_roots: Vec<String>,
    /// The tracking server.
    pub tracking_uri: Option<String>,
    /// Settings that hold for every bucket.
    pub s3: S3Options,
}

/// Puts together what file, environment and flags say. `env` looks up variables.
pub fn resolve(file: &ConfigFile, flags: &DeploymentFlags, env: &dyn Fn(&str) -> Option<String>) -> Result<Deployment> {
    let section = match &flags.name {
        Some(name) => match file.deployment.get(name) {
            Some(section) => section.clone(),
            None if flags.backend_store_uri.is_some() || flags.tracking_uri.is_some() => DeploymentSection::default(),
            None => return Err(unknown_deployment(file, name)),
        },
        None => DeploymentSection::default(),
    };
    let databases = databases(&section, flags)?;
    let artifacts = artifacts(&section, flags, env)?;
    let excluded = if flags.exclude_roots.is_empty() { &section.exclude_roots } else { &flags.exclude_roots };
    let tracking = tracking(&section, flags, env)?;
    let name = match (&flags.name, databases.first(), artifacts.first(), &tracking) {
        (Some(name), ..) => name.clone(),
        (None, Some((_, uri)), ..) => uri.to_string(),
        (None, None, Some(root), _) => root.place.to_string(),
        (None, None, None, Some(server)) => server.uri.clone(),
        (None, None, None, None) => {
            return Err(Error::Invalid("The deployment has neither databases nor artifacts nor a server".to_owned()));
        }
    };
    let key = |name: &str| {
        let value = env(name).filter(|value| !value.is_empty())?;
        Some(OutsideKey { name: name.to_owned(), value: Zeroizing::new(value) })
    };
    let keys = OUTSIDE_KEYS.iter().filter_map(|name| key(name)).collect();
    Ok(Deployment { name, databases, artifacts, excluded: excluded.clone(), keys, tracking })
}

/// A tracking URI that is no URL names a store, as MLflow's own clients take it: that is no server to ask.
fn tracking(
    section: &DeploymentSection,
    flags: &DeploymentFlags,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<TrackingOptions>> {
    let uri = flags.tracking_uri.as_ref().or(section.tracking_uri.as_ref());
    let is_server = |uri: &&String| uri.starts_with("http://") || uri.starts_with("https://");
    uri.filter(is_server).map(|uri| tracking::options(uri, env)).transpose()
}

fn unknown_deployment(file: &ConfigFile, name: &str) -> Error {
    let known: Vec<_> = file.deployment.keys().map(String::as_str).collect();
    let known = if known.is_empty() { "it names none".to_owned() } else { format!("it names {}", known.join(", ")) };
    Error::Invalid(format!("The configuration has no deployment {name:?}: {known}"))
}

fn databases(section: &DeploymentSection, flags: &DeploymentFlags) -> Result<Vec<(Store, DatabaseUri)>> {
    let stores = [
        (
            Store::Backend,
            flags.backend_store_uri.as_ref().or(section.backend_store_uri.as_ref()),
            flags.backend_store_password_file.as_ref().or(section.backend_store_password_file.as_ref()),
        ),
        (
            Store::Registry,
            flags.registry_store_uri.as_ref().or(section.registry_store_uri.as_ref()),
            flags.registry_store_password_file.as_ref().or(section.registry_store_password_file.as_ref()),
        ),
        (
            Store::Auth,
            flags.auth_database_uri.as_ref().or(section.auth_database_uri.as_ref()),
            flags.auth_database_password_file.as_ref().or(section.auth_database_password_file.as_ref()),
        ),
    ];
    let mut databases: Vec<(Store, DatabaseUri)> = Vec::new();
    for (store, uri, password_file) in stores {
        let Some(uri) = uri else { continue };
        let password = password_file.map(|file| read_secret_line(file)).transpose()?;
        let uri = DatabaseUri::parse(uri, password)?;
        // A registry in the backend's database needs no dump of its own.
        if !databases.iter().any(|(_, known)| known.to_string() == uri.to_string()) {
            databases.push((store, uri));
        }
    }
    Ok(databases)
}

fn artifacts(
    section: &DeploymentSection,
    flags: &DeploymentFlags,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<ArtifactRoot>> {
    let given: Vec<(String, String)> = if flags.artifacts.is_empty() {
        section.artifacts.iter().map(|(root, place)| (root.clone(), place.clone())).collect()
    } else {
        flags.artifacts.iter().map(|text| split(text)).collect()
    };
    let root = |(uri, place): (String, String)| {
        let place = place_of(&place, section, flags, env)?;
        Ok(ArtifactRoot { uri, place })
    };
    given.into_iter().map(root).collect()
}

/// Splits `ROOT=PLACE`.
fn split(text: &str) -> (String, String) {
    let (root, place) = text.split_once('=').unwrap_or((text, text));
    (root.to_owned(), place.to_owned())
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
        return Ok(ArtifactPlace::Bucket(location, options));
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
    let own = section.buckets.get(bucket).cloned().unwrap_or_default();
    let general = &section.s3;
    let pick = |own: &Option<String>, general: &Option<String>| own.clone().or_else(|| general.clone());
    let from_mlflow = || env("MLFLOW_S3_ENDPOINT_URL").filter(|url| !url.is_empty());
    let ignores_tls = |value: String| matches!(value.to_ascii_lowercase().as_str(), "true" | "1");
    let credentials = own.credentials()?.map_or_else(|| general.credentials(), |own| Ok(Some(own)))?;
    Ok(S3Options {
        endpoint: pick(&own.endpoint, &general.endpoint).or_else(from_mlflow).or_else(|| flags.s3.endpoint.clone()),
        region: pick(&own.region, &general.region).or_else(|| flags.s3.region.clone()),
        path_style: own.path_style.or(general.path_style).or(flags.s3.path_style),
        insecure_http: own.insecure_http.or(general.insecure_http).unwrap_or(flags.s3.insecure_http),
        ca_bundle: own.ca_bundle.clone().or_else(|| general.ca_bundle.clone()).or_else(|| flags.s3.ca_bundle.clone()),
        ignore_tls: env("MLFLOW_S3_IGNORE_TLS").is_some_and(ignores_tls),
        credentials,
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
        let flags = DeploymentFlags {
            backend_store_uri: Some("sqlite:////srv/mlflow.db".into()),
            artifacts: vec!["mlflow-artifacts:/=/srv/mlartifacts".into(), "s3://b/x".into()],
            ..DeploymentFlags::default()
        };
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
        flags.artifacts = vec!["mlflow-artifacts:/=/mnt".into()];
        flags.backend_store_uri = Some("sqlite:////other.db".into());
        let found = resolve(&file(), &flags, &|_| None).unwrap();
        assert_eq!(found.artifacts.len(), 1);
        assert_eq!(found.databases[0].1.to_string(), "sqlite:////other.db");
    }

    #[test]
    fn places_that_cannot_be_read_are_refused() {
        for place in ["gs://bucket/x", "mlflow-artifacts:/", ""] {
            let mut flags = flags(None);
            flags.artifacts = vec![format!("mlflow-artifacts:/={place}")];
            assert!(resolve(&ConfigFile::default(), &flags, &|_| None).is_err(), "{place}");
        }
    }
}
