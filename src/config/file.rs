//! The configuration file, `mlvault.toml`. Every key can be overridden by a flag and by the environment: the common ones
//! have flags of their own, and `--set KEY=VALUE` reaches all.
//!
//! ```toml
//! repository = "s3://backups/mlflow"
//! cache-dir = "/var/cache/mlvault"
//! history-file = "/var/lib/mlvault/history"  # besides the cache directory
//! memory-limit = "512M"
//! limit-upload = "10M"                       # bytes per second, over the network; limit-download likewise
//! key-file = "/run/secrets/mlvault/key"     # or passphrase-file, or passphrase-command
//! pin = "5e1c…"                             # refuse any other repository; `init` and `key list` print it
//!
//! [s3]
//! endpoint = "https://minio.example.org"
//! region = "us-east-1"
//! path-style = true
//! insecure-http = false
//! access-key-id = "vault"                   # else as AWS tools find it
//! secret-access-key-file = "/run/secrets/s3/key"
//!
//! [to]                                      # for `copy`: another repository, with its own key and its own [to.s3]
//! repository = "s3://off-site/mlflow"
//! key-file = "/run/secrets/mlvault/off-site"
//!
//! [policy.audit]                            # for `forget --policy audit`; a preset's name replaces the preset
//! keep-within-daily = "90d"
//! keep-yearly = 10
//! keep-tags = ["release"]
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Table;

use crate::config::calls::{HooksSection, NotifySection};
use crate::config::credential::read_secret_line;
use crate::config::origins::Origins;
use crate::environment;
use crate::error::{Error, Result};
use crate::hooks::Hooks;
use crate::kubernetes::{ClusterOptions, Workload};
use crate::notify::Place;
use crate::objectives::Objectives;
use crate::retention::policy::{Policy, PolicySpec};
use crate::s3::Credentials;

/// Largest configuration file that is read, in bytes.
const FILE_LEN_MAX: u64 = 1 << 20;

/// What the configuration file may say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ConfigFile {
    /// Location of the repository.
    pub repository: Option<String>,
    /// Directory of the index cache.
    pub cache_dir: Option<PathBuf>,
    /// File that remembers which snapshots were seen.
    pub history_file: Option<PathBuf>,
    /// Memory limit, as `512M`.
    pub memory_limit: Option<String>,
    /// How fast bodies may be sent to S3 servers, as `10M` a second.
    pub limit_upload: Option<String>,
    /// How fast they may be received.
    pub limit_download: Option<String>,
    /// Path of a key file.
    pub key_file: Option<PathBuf>,
    /// Path of a file that holds the passphrase.
    pub passphrase_file: Option<PathBuf>,
    /// Command that prints the passphrase.
    pub passphrase_command: Option<String>,
    /// Pin of the repository.
    pub pin: Option<String>,
    /// How S3 is reached.
    pub s3: S3Section,
    /// Where copies go.
    pub to: ToSection,
    /// What runs before and after commands.
    pub hooks: HooksSection,
    /// Who is told how commands end, by names.
    pub notify: BTreeMap<String, NotifySection>,
    /// Deployments by name.
    pub deployment: BTreeMap<String, DeploymentSection>,
    /// Retention policies by name.
    pub policy: BTreeMap<String, PolicySpec>,
}

/// The repository that copies go to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ToSection {
    /// Its location.
    pub repository: Option<String>,
    /// Path of a key file.
    pub key_file: Option<PathBuf>,
    /// Path of a file that holds the passphrase.
    pub passphrase_file: Option<PathBuf>,
    /// Command that prints the passphrase.
    pub passphrase_command: Option<String>,
    /// Its pin.
    pub pin: Option<String>,
    /// How its S3 is reached.
    pub s3: S3Section,
}

/// Whether a backup needs all of the metadata that it exports through the REST API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MetadataNeed {
    /// It is incomplete without.
    Required,
    /// It is whole all the same.
    Optional,
}

/// What the configuration file may say of a deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct DeploymentSection {
    /// The database of runs and models, in MLflow's words.
    pub backend_store_uri: Option<String>,
    /// A file that holds its password, if the URI does not.
    pub backend_store_password_file: Option<PathBuf>,
    /// The database of the model registry, where it is another one.
    pub registry_store_uri: Option<String>,
    /// A file that holds its password.
    pub registry_store_password_file: Option<PathBuf>,
    /// The database of users and permissions.
    pub auth_database_uri: Option<String>,
    /// A file that holds its password.
    pub auth_database_password_file: Option<PathBuf>,
    /// The tracking server.
    pub tracking_uri: Option<String>,
    /// Whether a backup needs all of what it exports.
    pub metadata: Option<MetadataNeed>,
    /// Artifact roots and where they are.
    pub artifacts: BTreeMap<String, String>,
    /// Artifact roots that are left out.
    pub exclude_roots: Vec<String>,
    /// Globs of what backups of it leave out, below artifact roots.
    pub exclude: Vec<String>,
    /// Name of its retention policy.
    pub retention: Option<String>,
    /// What is expected of its backups.
    pub objectives: Objectives,
    /// Where drills restore it to.
    pub drill: DrillSection,
    /// What runs it in a Kubernetes cluster.
    pub kubernetes: KubernetesSection,
    /// What runs before and after commands that are about it.
    pub hooks: HooksSection,
    /// How its buckets are reached.
    pub s3: S3Section,
    /// How single buckets are reached, by their names.
    pub buckets: BTreeMap<String, S3Section>,
}

/// Where drills restore a deployment to, and how much they compare.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct DrillSection {
    /// Directory in which a drill makes one of its own.
    pub scratch_dir: Option<PathBuf>,
    /// A PostgreSQL database beside which a drill may create others.
    pub scratch_database: Option<String>,
    /// A file that holds its password.
    pub scratch_database_password_file: Option<PathBuf>,
    /// Where artifacts go, if not into the scratch directory.
    pub scratch_artifacts: Option<String>,
    /// How many files are compared byte by byte.
    pub samples: Option<usize>,
    /// The shell command that is MLflow.
    pub mlflow_command: Option<String>,
}

impl DrillSection {
    /// Returns what is said here, and where nothing is, what `under` says.
    pub fn over(self, under: &Self) -> Self {
        Self {
            scratch_dir: self.scratch_dir.or_else(|| under.scratch_dir.clone()),
            scratch_database: self.scratch_database.or_else(|| under.scratch_database.clone()),
            scratch_database_password_file: self
                .scratch_database_password_file
                .or_else(|| under.scratch_database_password_file.clone()),
            scratch_artifacts: self.scratch_artifacts.or_else(|| under.scratch_artifacts.clone()),
            samples: self.samples.or(under.samples),
            mlflow_command: self.mlflow_command.or_else(|| under.mlflow_command.clone()),
        }
    }
}

/// What runs a deployment in a Kubernetes cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct KubernetesSection {
    /// The file that says how the cluster is reached.
    pub kubeconfig: Option<PathBuf>,
    /// Which of its contexts.
    pub context: Option<String>,
    /// The namespace.
    pub namespace: Option<String>,
    /// What runs MLflow: `deployment/NAME` or `statefulset/NAME`.
    pub workload: Option<String>,
    /// The PersistentVolumeClaim that holds its artifacts.
    pub claim: Option<String>,
    /// Where pods of mlvault find it.
    pub claim_mount: Option<String>,
    /// The class of VolumeSnapshots of it.
    pub volume_snapshot_class: Option<String>,
}

impl KubernetesSection {
    /// Returns the claim that holds the data, and where pods of mlvault find it. Fails with [`Error::Invalid`] where one is not said;
    /// `option` is what needs both.
    pub fn claim_and_mount(&self, option: &str) -> Result<(String, String)> {
        let said = |value: &Option<String>, key: &str| {
            let missing = || Error::Invalid(format!("Set `{key}` in [deployment.NAME.kubernetes] for {option}"));
            value.clone().ok_or_else(missing)
        };
        Ok((said(&self.claim, "claim")?, said(&self.claim_mount, "claim-mount")?))
    }

    /// Returns what is said here, and where nothing is, what `under` says.
    pub fn over(self, under: &Self) -> Self {
        Self {
            kubeconfig: self.kubeconfig.or_else(|| under.kubeconfig.clone()),
            context: self.context.or_else(|| under.context.clone()),
            namespace: self.namespace.or_else(|| under.namespace.clone()),
            workload: self.workload.or_else(|| under.workload.clone()),
            claim: self.claim.or_else(|| under.claim.clone()),
            claim_mount: self.claim_mount.or_else(|| under.claim_mount.clone()),
            volume_snapshot_class: self.volume_snapshot_class.or_else(|| under.volume_snapshot_class.clone()),
        }
    }

    /// Returns how the cluster is reached.
    pub fn cluster(&self) -> ClusterOptions {
        let Self { kubeconfig, context, namespace, .. } = self.clone();
        ClusterOptions { kubeconfig, context, namespace }
    }

    /// Returns what runs MLflow, if that is said.
    pub fn workload(&self) -> Result<Option<Workload>> {
        self.workload.as_deref().map(str::parse).transpose()
    }
}

/// How S3 is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct S3Section {
    /// URL of the server.
    pub endpoint: Option<String>,
    /// Region of the bucket.
    pub region: Option<String>,
    /// Whether the bucket goes into the path.
    pub path_style: Option<bool>,
    /// Whether an endpoint without TLS is accepted.
    pub insecure_http: Option<bool>,
    /// File of CA certificates to trust.
    pub ca_bundle: Option<PathBuf>,
    /// Public half of a key pair; without it, the AWS environment and profile are asked.
    pub access_key_id: Option<String>,
    /// File that holds the secret half.
    pub secret_access_key_file: Option<PathBuf>,
}

impl ConfigFile {
    /// Reads the file given, which must be there, or else the first that is there of the usual places; then `settings`,
    /// each `KEY=VALUE`, which override what it says. Returns also which of the two says what.
    pub fn load(given: Option<&Path>, settings: &[String]) -> Result<(Self, Origins)> {
        let found = Self::place(given);
        let mut table = found.as_deref().map(read_table).transpose()?.unwrap_or_default();
        let mut over = Table::new();
        for (number, setting) in settings.iter().enumerate().filter(|(_, setting)| !setting.trim().is_empty()) {
            // By its number: the text may hold a password.
            let invalid = || Error::Invalid(format!("Setting {} of --set or MLVAULT_SET is not KEY=VALUE", number + 1));
            merge(&mut over, parse_setting(setting).ok_or_else(invalid)?);
        }
        let origins = Origins::new(found, &table, &over);
        merge(&mut table, over);
        let invalid = |error: toml::de::Error| {
            let error = error.to_string().trim_end().replace('\n', " ");
            Error::Invalid(format!("The settings given by --set are invalid: {error}"))
        };
        Ok((table.try_into().map_err(invalid)?, origins))
    }

    /// Returns which file is read: the one that is given, or else the first of the usual places that has one.
    pub fn place(given: Option<&Path>) -> Option<PathBuf> {
        given.map(Path::to_owned).or_else(|| usual_places().into_iter().find(|path| path.is_file()))
    }

    /// Returns the policy of this name: one of the file, else a preset.
    pub fn policy(&self, name: &str) -> Result<PolicySpec> {
        let found = self.policy.get(name).cloned().or_else(|| PolicySpec::preset(name));
        found.ok_or_else(|| {
            Error::Invalid(format!(
                "There is no policy {name:?}: the configuration file has no table [policy.{name}], and the presets are \
                 production, staging and development"
            ))
        })
    }

    /// Returns the policy of a deployment and what that is called, if one is configured.
    pub fn retention(&self, deployment: &str) -> Result<Option<(String, Policy)>> {
        let name = self.deployment.get(deployment).and_then(|section| section.retention.as_ref());
        name.map(|name| Ok((name.clone(), self.policy(name)?.policy()?))).transpose()
    }

    /// Returns the hooks of runs that are about a deployment, or about none.
    pub fn hooks(&self, deployment: Option<&str>) -> Result<Hooks> {
        let of_deployment = deployment.and_then(|name| self.deployment.get(name));
        let section = of_deployment.map_or_else(HooksSection::default, |section| section.hooks.clone());
        section.over(&self.hooks).hooks()
    }

    /// Returns everybody who wants to be told, and by their names what is wrong with others.
    pub fn places(&self) -> (Vec<Place>, Vec<(String, Error)>) {
        let (mut places, mut faults) = (Vec::new(), Vec::new());
        for (name, section) in &self.notify {
            match section.place(name) {
                Ok(place) => places.push(place),
                Err(error) => faults.push((name.clone(), error)),
            }
        }
        (places, faults)
    }

    /// Reads the text of a file.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }
}

impl DeploymentSection {
    /// Returns what is said here, and where nothing is, what `under` says.
    pub fn over(self, under: &Self) -> Self {
        let pick = |own: Option<String>, other: &Option<String>| own.or_else(|| other.clone());
        let pick_path = |own: Option<PathBuf>, other: &Option<PathBuf>| own.or_else(|| other.clone());
        Self {
            backend_store_uri: pick(self.backend_store_uri, &under.backend_store_uri),
            backend_store_password_file: pick_path(
                self.backend_store_password_file,
                &under.backend_store_password_file,
            ),
            registry_store_uri: pick(self.registry_store_uri, &under.registry_store_uri),
            registry_store_password_file: pick_path(
                self.registry_store_password_file,
                &under.registry_store_password_file,
            ),
            auth_database_uri: pick(self.auth_database_uri, &under.auth_database_uri),
            auth_database_password_file: pick_path(
                self.auth_database_password_file,
                &under.auth_database_password_file,
            ),
            tracking_uri: pick(self.tracking_uri, &under.tracking_uri),
            metadata: self.metadata.or(under.metadata),
            artifacts: if self.artifacts.is_empty() { under.artifacts.clone() } else { self.artifacts },
            exclude_roots: if self.exclude_roots.is_empty() { under.exclude_roots.clone() } else { self.exclude_roots },
            exclude: if self.exclude.is_empty() { under.exclude.clone() } else { self.exclude },
            retention: pick(self.retention, &under.retention),
            objectives: under.objectives.clone(),
            drill: self.drill.over(&under.drill),
            kubernetes: self.kubernetes.over(&under.kubernetes),
            hooks: self.hooks.over(&under.hooks),
            s3: self.s3.over(&under.s3),
            buckets: if self.buckets.is_empty() { under.buckets.clone() } else { self.buckets },
        }
    }
}

impl S3Section {
    /// Returns what is said here, and where nothing is, what `under` says. The two halves of a key pair stay together.
    pub fn over(self, under: &Self) -> Self {
        let has_keys = self.access_key_id.is_some() || self.secret_access_key_file.is_some();
        let keys = if has_keys { &self } else { under };
        Self {
            access_key_id: keys.access_key_id.clone(),
            secret_access_key_file: keys.secret_access_key_file.clone(),
            endpoint: self.endpoint.or_else(|| under.endpoint.clone()),
            region: self.region.or_else(|| under.region.clone()),
            path_style: self.path_style.or(under.path_style),
            insecure_http: self.insecure_http.or(under.insecure_http),
            ca_bundle: self.ca_bundle.or_else(|| under.ca_bundle.clone()),
        }
    }

    /// Reads the key pair, if one is configured.
    pub fn credentials(&self) -> Result<Option<Credentials>> {
        match (&self.access_key_id, &self.secret_access_key_file) {
            (None, None) => Ok(None),
            (Some(id), Some(file)) => Ok(Some(Credentials {
                access_key_id: id.clone(),
                secret_access_key: read_secret_line(file)?,
                session_token: None,
            })),
            _ => Err(Error::Invalid("access-key-id and secret-access-key-file belong together".to_owned())),
        }
    }
}

/// Reads a file that is a configuration by itself.
fn read_table(path: &Path) -> Result<Table> {
    let fault = |source| Error::source("read", path.to_owned(), source);
    if std::fs::metadata(path).map_err(fault)?.len() > FILE_LEN_MAX {
        return Err(Error::Invalid(format!("The configuration file {path:?} is larger than 1 MiB")));
    }
    let text = std::fs::read_to_string(path).map_err(fault)?;
    // The whole message would repeat the line, which may hold a password.
    let invalid = |error: toml::de::Error| {
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        Error::Invalid(format!("The configuration file {path:?} is invalid in line {line}: {}", error.message()))
    };
    ConfigFile::parse(&text).map_err(invalid)?;
    text.parse().map_err(invalid)
}

/// Reads `KEY=VALUE`: the key as in TOML, with dots, the value as in TOML or else a text as it stands.
pub fn parse_setting(setting: &str) -> Option<Table> {
    if let Ok(table) = setting.parse() {
        return Some(table);
    }
    let mut is_quoted = false;
    let equals = setting.find(|character| {
        is_quoted ^= character == '"';
        character == '=' && !is_quoted
    });
    let (key, value) = setting.split_at(equals?);
    // A text in JSON is one in TOML.
    let text = serde_json::Value::from(value[1..].trim());
    format!("{key}={text}").parse().ok()
}

/// Puts settings over others; tables are merged, all else is replaced.
fn merge(table: &mut Table, over: Table) {
    for (key, value) in over {
        match (table.get_mut(&key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(over)) => merge(under, over),
            (_, value) => drop(table.insert(key, value)),
        }
    }
}

/// Returns where the file is looked for, in this order.
pub fn usual_places() -> Vec<PathBuf> {
    let mut places = vec![PathBuf::from("mlvault.toml")];
    if let Some(base) = environment::base_directory("XDG_CONFIG_HOME", ".config") {
        places.push(base.join("mlvault/mlvault.toml"));
    }
    places.push(PathBuf::from("/etc/mlvault/mlvault.toml"));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_every_key_is_read_and_an_unknown_key_is_refused() {
        let file = ConfigFile::parse(
            "repository = 's3://b/p'\ncache-dir = '/c'\nmemory-limit = '512M'\nkey-file = '/k'\n\
             [s3]\nendpoint = 'https://h'\npath-style = true\n",
        )
        .unwrap();
        assert_eq!(file.repository.as_deref(), Some("s3://b/p"));
        assert_eq!(file.s3.path_style, Some(true));
        let file =
            ConfigFile::parse("[to]\nrepository = '/off-site'\nkey-file = '/k'\n[to.s3]\nregion = 'r'\n").unwrap();
        assert_eq!((file.to.repository.as_deref(), file.to.s3.region.as_deref()), (Some("/off-site"), Some("r")));
        let file = ConfigFile::parse("[policy.staging]\nkeep-last = 3\n").unwrap();
        assert_eq!(file.policy("staging").unwrap().keep_last, Some(3));
        assert_eq!(file.policy("production").unwrap(), PolicySpec::preset("production").unwrap());
        assert!(file.policy("other").is_err());
        assert!(ConfigFile::parse("[policy.a]\nkeep-lats = 3\n").is_err());
        assert!(ConfigFile::parse("repositroy = 'x'").unwrap_err().to_string().contains("repositroy"));
    }
    #[test]
    fn settings_override_what_the_file_says() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mlvault.toml");
        std::fs::write(&path, "repository = '/a'\n[deployment.p]\ntracking-uri = 'http://h'\nexclude-roots = ['x']\n")
            .unwrap();
        let load = |settings: &[&str]| {
            let settings: Vec<_> = settings.iter().map(|text| (*text).to_owned()).collect();
            ConfigFile::load(Some(&path), &settings).map(|(file, _)| file)
        };
        assert_eq!(load(&[]).unwrap().repository.as_deref(), Some("/a"));
        let file = load(&[
            "repository=s3://b/p?x=1",
            "deployment.p.artifacts.\"mlflow-artifacts:/=\" = /srv/a b",
            "deployment.p.exclude-roots=[\"s3://y\"]",
            "deployment.p.s3.path-style=true",
            "policy.p.keep-last=7",
        ])
        .unwrap();
        assert_eq!(file.repository.as_deref(), Some("s3://b/p?x=1"));
        let deployment = &file.deployment["p"];
        assert_eq!(deployment.artifacts["mlflow-artifacts:/="], "/srv/a b");
        assert_eq!((&deployment.exclude_roots[..], deployment.s3.path_style), (&["s3://y".to_owned()][..], Some(true)));
        assert_eq!(deployment.tracking_uri.as_deref(), Some("http://h"));
        assert_eq!(file.policy("p").unwrap().keep_last, Some(7));
        assert!(load(&["repositroy=x"]).unwrap_err().to_string().contains("repositroy"));
        assert!(load(&["deployment.p.s3.path-style=perhaps"]).unwrap_err().to_string().contains("--set"));
        for nonsense in ["repository", "=x", "a b=c"] {
            assert!(load(&[nonsense]).unwrap_err().to_string().contains("KEY=VALUE"), "{nonsense}");
        }
        let message = load(&["a=1", "hunter2"]).unwrap_err().to_string();
        assert!(message.contains("Setting 2") && !message.contains("hunter2"), "{message}");
        std::fs::write(&path, "repository = '/a'\nkey-fil = 'postgresql://u:hunter2@h/d'\n").unwrap();
        let message = load(&[]).unwrap_err().to_string();
        assert!(message.contains("line 2") && message.contains("key-fil") && !message.contains("hunter2"), "{message}");
    }
}
