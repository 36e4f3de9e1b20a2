//! What of a source is not walked.
//!
//! What must stay true: mlvault's own files are known by what they are, not by their names, so no symlink or mount hides
//! them; a directory that cannot be looked into for a marker is not left out for that.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::error::Result;
use crate::file_system::CACHE_TAG;
use crate::format::snapshot::Coverage;
use crate::format::tree::Entry;
use crate::globs::{self, Globs};
use crate::units::format_bytes;

/// What users want left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exclusions {
    /// Glob patterns: those with a `/` match whole paths in the snapshot, others match names.
    pub patterns: Vec<String>,
    /// Patterns for which upper and lower case are the same.
    pub patterns_any_case: Vec<String>,
    /// Files with more bytes.
    pub larger_than: Option<u64>,
    /// Directories that have something of one of these names.
    pub if_present: Vec<String>,
    /// Directories that say that they are caches.
    pub caches: bool,
    /// What is on another file system than the path that was named.
    pub other_file_systems: bool,
}

/// Places that mlvault itself needs, each with what it is, as in "the repository".
pub type OwnPlaces = Vec<(PathBuf, &'static str)>;

/// What is left out of a walk. The default leaves nothing out.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    globs: Globs,
    globs_any_case: Globs,
    exclusions: Exclusions,
    own: Vec<OwnFile>,
}

/// A file or directory that mlvault itself needs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct OwnFile {
    identity: (u64, u64),
    what: &'static str,
}

impl Filter {
    /// Prepares a filter; fails if a pattern is invalid.
    pub fn new(exclusions: &Exclusions) -> Result<Self> {
        const WHAT: &str = "exclude pattern";
        Ok(Self {
            globs: Globs::new(&exclusions.patterns, WHAT)?,
            globs_any_case: Globs::of_any_case(&exclusions.patterns_any_case, WHAT)?,
            exclusions: exclusions.clone(),
            own: Vec::new(),
        })
    }

    /// Leaves out what a backup left out by its patterns.
    pub fn of(coverage: &Coverage) -> Result<Self> {
        let (patterns, patterns_any_case) = (coverage.excludes.clone(), coverage.excludes_any_case.clone());
        Self::new(&Exclusions { patterns, patterns_any_case, ..Exclusions::default() })
    }

    /// Leaves out what mlvault itself needs, too. A place where nothing is needs no protection.
    pub fn without(mut self, places: &[(PathBuf, &'static str)]) -> Self {
        let own = |(path, what): &(PathBuf, &'static str)| identity(path).map(|identity| OwnFile { identity, what });
        self.own.extend(places.iter().filter_map(own));
        self
    }

    /// Returns whether a pattern matches a path.
    pub(super) fn excludes(&self, path: &[u8]) -> bool {
        self.globs.matches(path) || self.globs_any_case.matches(path)
    }

    /// Returns whether something that was stored before would be left out now, as far as its path and size tell.
    pub fn leaves_out(&self, entry: &Entry) -> bool {
        self.excludes_at_or_above(&entry.path) || self.too_large(entry.size()).is_some()
    }

    /// Returns whether a pattern matches a path, or a directory that it is in.
    pub fn excludes_at_or_above(&self, path: &[u8]) -> bool {
        self.globs.matches_at_or_above(path) || self.globs_any_case.matches_at_or_above(path)
    }

    /// Returns what something is, if mlvault itself needs it.
    pub(super) fn own(&self, found: &Stat) -> Option<&'static str> {
        let own = self.own.iter().find(|own| own.identity == (found.st_dev, found.st_ino));
        own.map(|own| own.what)
    }

    /// Returns the patterns that can match nothing at or below these paths.
    pub(super) fn patterns_not_below(&self, roots: &[&[u8]]) -> Vec<String> {
        let Exclusions { patterns, patterns_any_case, .. } = &self.exclusions;
        let is_idle = |pattern: &&String| !roots.iter().any(|root| globs::can_match_below(pattern, root));
        patterns.iter().chain(patterns_any_case).filter(is_idle).cloned().collect()
    }

    /// Returns what a file is, if it is too large.
    pub(super) fn too_large(&self, size: u64) -> Option<String> {
        let max = self.exclusions.larger_than.filter(|max| size > *max)?;
        Some(format!("{} long, more than {}", format_bytes(size), format_bytes(max)))
    }

    /// Returns whether what is on one of these devices is not walked from the other.
    pub(super) fn parts(&self, device: u64, other: u64) -> bool {
        self.exclusions.other_file_systems && device != other
    }

    /// Returns what a directory is, if something in it says that it is to be left out.
    pub(super) fn marked(&self, directory: &OwnedFd) -> Option<String> {
        if self.exclusions.caches && is_cache(directory).unwrap_or(false) {
            return Some(format!("a cache, as its {} says", CACHE_TAG.0));
        }
        let is_there = |name: &&String| {
            rustix::fs::statat(directory, name.as_str(), AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from).is_ok()
        };
        let marker = self.exclusions.if_present.iter().find(is_there)?;
        Some(format!("a directory with {marker:?}"))
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

fn is_cache(directory: &OwnedFd) -> io::Result<bool> {
    let (name, signature) = CACHE_TAG;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(false),
        opened => File::from(opened?),
    };
    let mut begin = Vec::new();
    file.take(signature.len() as u64).read_to_end(&mut begin)?;
    Ok(begin == signature)
}
