//! The arguments that say where copies go: a second repository with its own key and its own S3.
//!
//! What must stay true: nothing of the first repository is taken for the second, neither key nor server. Names of fields begin with `to`, because
//! they are names of arguments too, and must not be those of the first repository's.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use clap::Args;
use clap::builder::BoolishValueParser;

use mlvault::backend::location::RepositoryLocation;
use mlvault::config::credential::CredentialSource;
use mlvault::error::{Error, Result};
use mlvault::repository::Repository;
use mlvault::s3::S3Options;

use crate::cli::context::{Context, Place, env_credentials, env_passphrase, sources, stated_pins};

/// Prefix of the variables.
const PREFIX: &str = "MLVAULT_TO";

/// The second repository.
#[derive(Args)]
#[command(next_help_heading = "Target repository")]
pub struct ToArgs {
    /// Location of the target repository: a path or s3://bucket/prefix
    #[arg(long, env = "MLVAULT_TO", value_name = "LOCATION")]
    to: Option<String>,
    /// File that holds a key of the target repository (MLVK2-…)
    #[arg(long, env = "MLVAULT_TO_KEY_FILE", value_name = "FILE")]
    to_key_file: Option<PathBuf>,
    /// File whose first line is its passphrase; MLVAULT_TO_PASSPHRASE can hold the passphrase itself
    #[arg(long, env = "MLVAULT_TO_PASSPHRASE_FILE", value_name = "FILE")]
    to_passphrase_file: Option<PathBuf>,
    /// Shell command that prints its passphrase; it gets the environment, but no variable that begins with MLVAULT_
    #[arg(long, env = "MLVAULT_TO_PASSPHRASE_COMMAND", value_name = "COMMAND")]
    to_passphrase_command: Option<String>,
    /// Refuse any target but the repository with this pin
    #[arg(long, env = "MLVAULT_TO_PIN", value_name = "PIN")]
    to_pin: Option<String>,
    /// URL of its S3 server, if it is not AWS
    #[arg(long, env = "MLVAULT_TO_S3_ENDPOINT", value_name = "URL")]
    to_s3_endpoint: Option<String>,
    /// Region of its bucket
    #[arg(long, env = "MLVAULT_TO_S3_REGION", value_name = "REGION")]
    to_s3_region: Option<String>,
    /// Put its bucket name into the path of the URL, not the host name [default: true with --to-s3-endpoint]
    #[arg(long, env = "MLVAULT_TO_S3_PATH_STYLE", value_name = "BOOL")]
    to_s3_path_style: Option<bool>,
    /// Allow plain HTTP to its S3 server on another machine
    #[arg(
        long,
        env = "MLVAULT_TO_S3_INSECURE_HTTP",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new()
    )]
    to_s3_insecure_http: Option<bool>,
}

impl ToArgs {
    /// Opens the repository.
    pub fn open(&self, context: &Context, memory_limit: u64) -> Result<Arc<Repository>> {
        let place = Place {
            location: self.location(context)?,
            s3: self.s3_options(context)?,
            credential: self.credential_source(context)?,
            pins: stated_pins(
                &self.to_pin,
                "--to-pin or MLVAULT_TO_PIN",
                &context.file().to.pin,
                "`pin` in [to] of mlvault.toml",
            )?,
        };
        context.open_at(&place, memory_limit)
    }

    fn location(&self, context: &Context) -> Result<RepositoryLocation> {
        let text = self.to.as_ref().or(context.file().to.repository.as_ref()).ok_or_else(|| {
            Error::Invalid(
                "No target repository was given: set --to, MLVAULT_TO or `repository` in [to] of mlvault.toml"
                    .to_owned(),
            )
        })?;
        RepositoryLocation::from_str(text)
    }

    fn s3_options(&self, context: &Context) -> Result<S3Options> {
        let s3 = &context.file().to.s3;
        Ok(S3Options {
            endpoint: self.to_s3_endpoint.clone().or_else(|| s3.endpoint.clone()),
            region: self.to_s3_region.clone().or_else(|| s3.region.clone()),
            path_style: self.to_s3_path_style.or(s3.path_style),
            insecure_http: self.to_s3_insecure_http.or(s3.insecure_http).unwrap_or(false),
            credentials: match env_credentials(PREFIX) {
                Some(credentials) => Some(credentials),
                None => s3.credentials()?,
            },
            ca_bundle: s3.ca_bundle.clone(),
            ignore_tls: false,
            hears: context.hears(),
            limits: context.limits().clone(),
        })
    }

    /// A terminal is not asked: it would not be clear for which of the two repositories.
    fn credential_source(&self, context: &Context) -> Result<CredentialSource> {
        let file = &context.file().to;
        let mut given = sources(&self.to_key_file, &self.to_passphrase_file, &self.to_passphrase_command);
        given.extend(env_passphrase(PREFIX));
        if given.is_empty() {
            given = sources(&file.key_file, &file.passphrase_file, &file.passphrase_command);
        }
        match given.is_empty() {
            false => CredentialSource::choose(given),
            true => Err(Error::Invalid(
                "No key of the target repository was given: set MLVAULT_TO_KEY_FILE, MLVAULT_TO_PASSPHRASE_FILE, \
                 MLVAULT_TO_PASSPHRASE_COMMAND or MLVAULT_TO_PASSPHRASE"
                    .to_owned(),
            )),
        }
    }
}
