//! A part of a bucket, as a user writes it: `s3://bucket/prefix`.
//!
//! What must stay true: `Display` and `FromStr` are inverse to each other, but for a `/` at the end, and no message
//! repeats a text that may hold a password.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// What a location in a bucket begins with.
const SCHEME: &str = "s3://";

/// A part of a bucket: the objects whose keys begin with a prefix and a `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketLocation {
    /// Name of the bucket.
    pub bucket: String,
    /// What the keys begin with, without a `/` at its end; empty for the whole bucket.
    pub prefix: String,
}

impl BucketLocation {
    /// Returns whether a text is meant to be such a location.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(SCHEME)
    }

    /// Returns what all keys of the part begin with: empty, or the prefix and a `/`.
    pub fn key_prefix(&self) -> String {
        if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) }
    }

    /// Returns the part of this one below a relative path.
    pub fn below(&self, path: &str) -> Self {
        let prefix = format!("{}{path}", self.key_prefix());
        Self { bucket: self.bucket.clone(), prefix: prefix.trim_end_matches('/').to_owned() }
    }
}

impl fmt::Display for BucketLocation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.prefix.is_empty() { "" } else { "/" };
        write!(out, "{SCHEME}{}{separator}{}", self.bucket, self.prefix)
    }
}

impl FromStr for BucketLocation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let not_s3 =
            |reason: &str| Err(Error::Invalid(format!("The location is not of the form s3://bucket/prefix: {reason}")));
        let Some(rest) = text.strip_prefix(SCHEME) else { return not_s3("it does not begin with s3://") };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return not_s3("the bucket is missing");
        }
        if !bucket.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')) {
            return not_s3("a bucket's name has only letters, digits, dots, hyphens and underscores");
        }
        let prefix = match prefix.strip_suffix('/') {
            None => prefix,
            Some(prefix) if prefix.is_empty() || prefix.ends_with('/') => return not_s3("it ends in more than one /"),
            Some(prefix) => prefix,
        };
        Ok(Self { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_print_as_they_are_parsed() {
        for text in ["s3://mlflow", "s3://mlflow/artifacts/1", "s3://a.b-c/odd //key?#"] {
            assert_eq!(text.parse::<BucketLocation>().unwrap().to_string(), text);
        }
        let with_slash: BucketLocation = "s3://mlflow/artifacts/".parse().unwrap();
        assert_eq!(
            (with_slash.to_string().as_str(), with_slash.key_prefix().as_str()),
            ("s3://mlflow/artifacts", "artifacts/")
        );
        assert_eq!("s3://mlflow/".parse::<BucketLocation>().unwrap().key_prefix(), "");
    }

    #[test]
    fn a_part_of_a_part_is_below_it() {
        let below = |text: &str, path| text.parse::<BucketLocation>().unwrap().below(path).to_string();
        assert_eq!(below("s3://b/p", "artifacts/main"), "s3://b/p/artifacts/main");
        assert_eq!(below("s3://b", "x"), "s3://b/x");
        assert_eq!(below("s3://b/p", ""), "s3://b/p");
    }

    #[test]
    fn what_is_no_bucket_is_refused_without_repeating_a_password() {
        for text in [
            "s3://",
            "s3:///p",
            "s3://b//",
            "s3://b/p//",
            "mlflow/x",
            "s3://key:hunter2@bucket/p",
            "https://u:hunter2@h/b",
        ] {
            assert!(!text.parse::<BucketLocation>().unwrap_err().to_string().contains("hunter2"));
        }
    }
}
