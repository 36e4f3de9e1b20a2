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
        Self::read(patterns, what, false)
    }

    /// Reads patterns for which upper and lower case are the same.
    pub fn of_any_case(patterns: &[String], what: &str) -> Result<Self> {
        Self::read(patterns, what, true)
    }

    fn read(patterns: &[String], what: &str, any_case: bool) -> Result<Self> {
        let (paths, names): (Vec<_>, Vec<_>) = patterns.iter().partition(|pattern| pattern.contains('/'));
        Ok(Self { paths: glob_set(&paths, what, any_case)?, names: glob_set(&names, what, any_case)? })
    }

    /// Returns whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.names.is_empty()
    }

    /// Returns whether a path matches, or a directory that it is in.
    pub fn matches_at_or_above(&self, path: &[u8]) -> bool {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        !self.is_empty() && ends.chain([path.len()]).any(|end| end > 0 && self.matches(&path[..end]))
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

/// Which paths are wanted.
#[derive(Debug, Clone, Default)]
pub struct Patterns {
    /// Only what matches, and what is below it; everything without patterns.
    pub include: Globs,
    /// Not what matches, and not what is below it.
    pub exclude: Globs,
}

impl Patterns {
    /// Returns whether a path is wanted.
    pub fn select(&self, path: &[u8]) -> bool {
        (self.include.is_empty() || self.include.matches_at_or_above(path)) && !self.exclude.matches_at_or_above(path)
    }
}

/// Returns whether a pattern could match `root`, or something below it. Only one with a `/` could not.
pub fn can_match_below(pattern: &str, root: &[u8]) -> bool {
    if !pattern.contains('/') || root.is_empty() {
        return true;
    }
    let mut names = pattern.trim_matches('/').split('/');
    for part in root.split(|byte| *byte == b'/') {
        match names.next() {
            None => return false,
            Some("**") => return true,
            Some(name) => {
                let Ok(glob) = GlobBuilder::new(name).case_insensitive(true).build() else { return true };
                if !glob.compile_matcher().is_match(OsStr::from_bytes(part)) {
                    return false;
                }
            }
        }
    }
    true
}

fn glob_set(patterns: &[&String], what: &str, any_case: bool) -> Result<GlobSet> {
    let fault = |error: globset::Error| Error::Invalid(format!("Invalid {what}: {error}"));
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let pattern = pattern.trim_start_matches('/').trim_end_matches('/');
        let glob = GlobBuilder::new(pattern).literal_separator(true).case_insensitive(any_case).build();
        set.add(glob.map_err(fault)?);
    }
    set.build().map_err(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_pattern_must_lead_into_the_root() {
        for (pattern, root, can) in [
            ("*.tmp", "srv/data", true),
            ("node_modules/", "srv/data", false),
            ("node_modules/", "", true),
            ("/srv/data/cache", "srv/data", true),
            ("srv/data", "srv/data", true),
            ("srv/*/x", "srv/data", true),
            ("**/node_modules", "srv/data", true),
            ("data/cache", "srv/data", false),
            ("srv", "srv/data", true),
            ("srv/", "srv/data", false),
        ] {
            assert_eq!(can_match_below(pattern, root.as_bytes()), can, "{pattern} {root}");
        }
    }
}
