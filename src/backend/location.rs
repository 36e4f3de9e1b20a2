//! Where a repository is, as a user writes it: a path, or `s3://bucket/prefix`.
//!
//! What must stay true: `Display` and `FromStr` are inverse to each other, and no message repeats a text that may
//! hold a password.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use crate::backend::Backend;
use crate::backend::local::LocalBackend;
use crate::backend::s3::S3Backend;
use crate::error::{Error, Result};
use crate::s3::{Patience, S3Options};

/// A place for a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A directory.
    Local(PathBuf),
    /// A part of a bucket.
    S3 {
        /// Name of the bucket.
        bucket: String,
        /// What all keys begin with: parts joined by `/`, without one at either end; may be empty.
        prefix: String,
    },
}

/// Opens what is at a location, without writing to it. The directory or bucket must exist. Local directories need no
/// options.
pub fn open(location: &Location, options: &S3Options) -> Result<Arc<dyn Backend>> {
    match location {
        Location::Local(path) => Ok(Arc::new(LocalBackend::open(path)?)),
        Location::S3 { bucket, prefix } => {
            let backend = S3Backend::connect(bucket, prefix, options, Patience::default())?;
            backend.check()?;
            Ok(Arc::new(backend))
        }
    }
}

/// Prepares a location for a new repository and opens it: makes the local directory; a bucket must exist.
///
/// Does not look at what is there already.
pub fn create(location: &Location, options: &S3Options) -> Result<Arc<dyn Backend>> {
    match location {
        Location::Local(path) => Ok(Arc::new(LocalBackend::create_root(path)?)),
        Location::S3 { .. } => open(location, options),
    }
}

impl fmt::Display for Location {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => path.display().fmt(out),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(out, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(out, "s3://{bucket}/{prefix}"),
        }
    }
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::Invalid("The repository location is empty".to_owned()));
        }
        if let Some(rest) = text.strip_prefix("s3://") {
            return parse_s3(rest);
        }
        if text.starts_with("s3:") {
            return Err(not_s3("it does not begin with s3://"));
        }
        match scheme_of(text) {
            // Only the scheme is repeated: the rest of a URL may hold a password.
            Some(scheme) => Err(Error::Invalid(format!(
                "A repository location is a path or s3://bucket/prefix, not a URL that begins with {scheme}://"
            ))),
            None => Ok(Self::Local(PathBuf::from(text))),
        }
    }
}

fn parse_s3(rest: &str) -> Result<Location> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    if bucket.is_empty() {
        return Err(not_s3("the bucket is missing"));
    }
    if !bucket.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')) {
        return Err(not_s3("a bucket's name has only letters, digits, dots, hyphens and underscores"));
    }
    if !prefix.is_empty() && prefix.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(not_s3("the prefix has an empty, \".\" or \"..\" part"));
    }
    if prefix.contains(|character: char| character.is_control() || matches!(character, '?' | '#' | '\\')) {
        return Err(not_s3("the prefix has a \"?\", \"#\", \"\\\" or control character"));
    }
    Ok(Location::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
}

fn not_s3(reason: &str) -> Error {
    Error::Invalid(format!("The repository location is not of the form s3://bucket/prefix: {reason}"))
}

/// Returns the scheme of a text that looks like a URL.
fn scheme_of(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once("://")?;
    let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    (!scheme.is_empty() && scheme.bytes().all(is_scheme)).then_some(scheme)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(bucket: &str, prefix: &str) -> Location {
        Location::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() }
    }

    #[test]
    fn locations_print_as_they_are_parsed() {
        let cases = [
            ("s3://models", s3("models", "")),
            ("s3://models/prod/vault", s3("models", "prod/vault")),
            ("/srv/backup", Location::Local("/srv/backup".into())),
            ("./s3:odd", Location::Local("./s3:odd".into())),
        ];
        for (text, location) in cases {
            assert_eq!(text.parse::<Location>().unwrap(), location);
            assert_eq!(location.to_string(), text);
        }
        assert_eq!("s3://models/".parse::<Location>().unwrap(), s3("models", ""));
        assert_eq!("s3://models/vault/".parse::<Location>().unwrap(), s3("models", "vault"));
    }

    #[test]
    fn what_is_neither_a_path_nor_a_bucket_is_refused_with_a_reason() {
        let message = |text: &str| text.parse::<Location>().unwrap_err().to_string();
        assert!(message("s3:models").ends_with("it does not begin with s3://"));
        assert!(message("s3://").ends_with("the bucket is missing"));
        assert!(message("s3:///prefix").ends_with("the bucket is missing"));
        assert!(message("s3://models/a//b").contains("empty"));
        assert!(message("s3://models/../b").contains(".."));
        assert!(message("s3://models/a?x=1").contains('?'));
        assert!(message("").contains("empty"));
        assert!(message("http://host/bucket").contains("begins with http://"));
        assert!(message("gs://bucket").contains("begins with gs://"));
    }

    #[test]
    fn a_password_in_a_location_is_not_repeated() {
        for text in ["https://user:hunter2@host/bucket", "s3://key:hunter2@bucket/prefix", "s3:https://u:hunter2@h/b"] {
            assert!(!text.parse::<Location>().unwrap_err().to_string().contains("hunter2"));
        }
    }
}
