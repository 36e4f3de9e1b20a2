//! The configuration file, `mlvault.toml`. Every key can be overridden by the environment and by a flag.
//!
//! ```toml
//! repository = "s3://backups/mlflow"
//! cache-dir = "/var/cache/mlvault"
//! memory-limit = "512M"
//! key-file = "/run/secrets/mlvault/key"     # or passphrase-file, or passphrase-command
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

use crate::config::deployment::DeploymentSection;
use crate::error::{Error, Result};
use crate::retention::policy::PolicySpec;

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
    /// Memory limit, as `512M`.
    pub memory_limit: Option<String>,
    /// Path of a key file.
    pub key_file: Option<PathBuf>,
    /// Path of a file that holds the passphrase.
    pub passphrase_file: Option<PathBuf>,
    /// Command that prints the passphrase.
    pub passphrase_command: Option<String>,
    /// How S3 is reached.
    pub s3: S3Section,
    /// Where copies go.
    pub to: ToSection,
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
    /// How its S3 is reached.
    pub s3: S3Section,
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
    /// Reads the file given, which must be there, or else the first that is there of the usual places.
    pub fn load(given: Option<&Path>) -> Result<Self> {
        match given {
            Some(path) => Self::read(path),
            None => {
                usual_places().iter().find(|path| path.is_file()).map_or(Ok(Self::default()), |path| Self::read(path))
            }
        }
    }

    fn read(path: &Path) -> Result<Self> {
        let fault = |source| Error::Source { action: "read", path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(fault)?.len() > FILE_LEN_MAX {
            return Err(Error::Invalid(format!("The configuration file {path:?} is larger than 1 MiB")));
        }
        let text = std::fs::read_to_string(path).map_err(fault)?;
        Self::parse(&text)
            .map_err(|error| Error::Invalid(format!("The configuration file {path:?} is invalid: {error}")))
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

    /// Reads the text of a file.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }
}

fn usual_places() -> Vec<PathBuf> {
    let mut places = vec![PathBuf::from("mlvault.toml")];
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    if let Some(base) = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or(home) {
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
}
