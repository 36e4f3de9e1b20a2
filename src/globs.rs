//! Glob patterns over paths, as users give them to leave files out or to find them.
//!
//! What must stay true: a pattern with a `/` matches whole paths, any other matches the last name; `*` stops at a `/`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::error::{Error, Result};

/// Patterns, of which one must match.
#[derive(Debug, Clone, Default)]
pub struct Globs {
    paths: GlobSet,
    names: GlobSet,
}

impl Globs {
    /// Reads patterns; `what` names them in the message about one that is invalid, as in "exclude pattern".
    pub fn new(patterns: &[String], what: &str) -> Result<Self> {
        let (paths, names): (Vec<_>, Vec<_>) = patterns.iter().partition(|pattern| pattern.contains('/'));
        Ok(Self { paths: glob_set(&paths, what)?, names: glob_set(&names, what)? })
    }

    /// Returns whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.names.is_empty()
    }

    /// Returns whether a path matches, with or without a directory's trailing `/`. Without patterns nothing does.
    pub fn matches(&self, path: &[u8]) -> bool {
        if self.is_empty() {
            return false;
        }
        let path = Path::new(OsStr::from_bytes(path.strip_suffix(b"/").unwrap_or(path)));
        self.paths.is_match(path) || path.file_name().is_some_and(|name| self.names.is_match(name))
    }
}

fn glob_set(patterns: &[&String], what: &str) -> Result<GlobSet> {
    let fault = |error: globset::Error| Error::Invalid(format!("Invalid {what}: {error}"));
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let pattern = pattern.trim_start_matches('/').trim_end_matches('/');
        set.add(GlobBuilder::new(pattern).literal_separator(true).build().map_err(fault)?);
    }
    set.build().map_err(fault)
}
