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
use crate::s3::{BucketLocation, Patience, S3Options};

/// A place for a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RepositoryLocation {
    /// A directory.
    Local(PathBuf),
    /// A part of a bucket.
    S3(BucketLocation),
}

/// Opens what is at a location, without writing to it. The directory or bucket must exist. Local directories need no
/// options.
pub fn open(location: &RepositoryLocation, options: &S3Options) -> Result<Arc<dyn Backend>> {
    match location {
        RepositoryLocation::Local(path) => Ok(Arc::new(LocalBackend::open(path)?)),
        RepositoryLocation::S3(BucketLocation { bucket, prefix }) => {
            let backend = S3Backend::connect(bucket, prefix, options, Patience::default())?;
            backend.check()?;
            Ok(Arc::new(backend))
        }
    }
}

/// Prepares a location for a new repository and opens it: makes the local directory; a bucket must exist.
///
/// Does not look at what is there already.
pub fn create(location: &RepositoryLocation, options: &S3Options) -> Result<Arc<dyn Backend>> {
    match location {
        RepositoryLocation::Local(path) => Ok(Arc::new(LocalBackend::create_root(path)?)),
        RepositoryLocation::S3(_) => open(location, options),
    }
}

impl fmt::Display for RepositoryLocation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => path.display().fmt(out),
            Self::S3(location) => location.fmt(out),
        }
    }
}

impl FromStr for RepositoryLocation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::Invalid("The repository location is empty".to_owned()));
        }
        if text.starts_with("s3:") {
            let location: BucketLocation = text.parse()?;
            check_prefix(&location.prefix)?;
            return Ok(Self::S3(location));
        }
        match scheme_of(text) {
            // Only the scheme is repeated: the rest of a URL may hold a password.
            Some(scheme) => Err(Error::Invalid(format!(
                "A repository location is a path or s3://bucket/prefix, not a URL that begins with {scheme}://"
            ))),
            None => match kind_of_storage(text) {
                Some(kind) => Err(Error::Invalid(format!(
                    "A repository location is a path or s3://bucket/prefix, and \"{kind}:\" is how other programs name a kind of \
                     storage. If it is a directory, put ./ before it"
                ))),
                None => Ok(Self::Local(PathBuf::from(text))),
            },
        }
    }
}

/// Fails for a prefix that a repository may not have, although a bucket may have such keys: one that some servers or
/// tools would take for another.
fn check_prefix(prefix: &str) -> Result<()> {
    let invalid = |reason: &str| Err(Error::Invalid(format!("A repository cannot be at this location: {reason}")));
    if !prefix.is_empty() && prefix.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return invalid("the prefix has an empty, \".\" or \"..\" part");
    }
    if prefix.contains(|character: char| character.is_control() || matches!(character, '?' | '#' | '\\')) {
        return invalid("the prefix has a \"?\", \"#\", \"\\\" or control character");
    }
    Ok(())
}

/// Returns what stands before the first colon of a text such as `sftp:host:/path` or `rclone:remote:path`. One letter may be
/// a drive, and what has a slash before is a path.
fn kind_of_storage(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once(':')?;
    (scheme.len() > 1 && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())).then_some(scheme)
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

    fn s3(bucket: &str, prefix: &str) -> RepositoryLocation {
        RepositoryLocation::S3(BucketLocation { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }

    #[test]
    fn locations_print_as_they_are_parsed() {
        let cases = [
            ("s3://models", s3("models", "")),
            ("s3://models/prod/vault", s3("models", "prod/vault")),
            ("/srv/backup", RepositoryLocation::Local("/srv/backup".into())),
            ("./s3:odd", RepositoryLocation::Local("./s3:odd".into())),
        ];
        for (text, location) in cases {
            assert_eq!(text.parse::<RepositoryLocation>().unwrap(), location);
            assert_eq!(location.to_string(), text);
        }
        assert_eq!("s3://models/".parse::<RepositoryLocation>().unwrap(), s3("models", ""));
        assert_eq!("s3://models/vault/".parse::<RepositoryLocation>().unwrap(), s3("models", "vault"));
    }

    #[test]
    fn what_is_neither_a_path_nor_a_bucket_is_refused_with_a_reason() {
        let message = |text: &str| text.parse::<RepositoryLocation>().unwrap_err().to_string();
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
            assert!(!text.parse::<RepositoryLocation>().unwrap_err().to_string().contains("hunter2"));
        }
    }
}
