//! The arguments that say what a backup leaves out, and files that list paths or patterns.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use clap::Args;

use mlvault::backup::BackupSource;
use mlvault::cancel::Cancel;
use mlvault::error::{Error, Result};
use mlvault::globs::{Globs, Patterns};
use mlvault::source::filter::Exclusions;
use mlvault::stdin_reader::StdinReader;
use mlvault::units::parse_bytes;

/// What is left out.
#[derive(Args)]
pub struct ExclusionArgs {
    /// Skip what matches this glob: a name, or, if it contains `/`, a whole path in the snapshot (of a deployment: below an
    /// artifact root); can be given several times
    #[arg(long = "exclude", value_name = "GLOB")]
    excludes: Vec<String>,
    /// The same, whether letters are upper or lower case
    #[arg(long = "iexclude", value_name = "GLOB")]
    iexcludes: Vec<String>,
    /// Skip what matches a glob in this file: one per line; empty lines and those that begin with # do not count; can be
    /// given several times
    #[arg(long = "exclude-file", value_name = "FILE")]
    exclude_files: Vec<PathBuf>,
    /// Skip files that are larger than this, such as 500M
    #[arg(long, value_name = "SIZE")]
    exclude_larger_than: Option<String>,
    /// Skip directories that contain something of this name, such as .nobackup; can be given several times
    #[arg(long, value_name = "NAME")]
    exclude_if_present: Vec<String>,
    /// Skip directories that a valid CACHEDIR.TAG calls caches
    #[arg(long)]
    exclude_caches: bool,
    /// Do not go into other file systems below the paths
    #[arg(long, short = 'x')]
    one_file_system: bool,
}

impl ExclusionArgs {
    /// Reads the files of patterns, and refuses what has no meaning for a source.
    /// `configured` are patterns of the configuration file.
    pub fn resolve(&self, what: &BackupSource, configured: &[String]) -> Result<Exclusions> {
        let mut patterns = [configured, &self.excludes].concat();
        for file in &self.exclude_files {
            patterns.extend(patterns_in(file)?);
        }
        let exclusions = Exclusions {
            patterns,
            patterns_any_case: self.iexcludes.clone(),
            larger_than: self.exclude_larger_than.as_deref().map(size).transpose()?,
            if_present: self.exclude_if_present.clone(),
            caches: self.exclude_caches,
            other_file_systems: self.one_file_system,
        };
        refuse_idle(&exclusions, what)?;
        Ok(exclusions)
    }
}

/// Which paths of a snapshot are wanted.
#[derive(Args)]
pub struct PatternArgs {
    /// Take only what matches this glob (a name, or, if it contains `/`, a whole path in the snapshot; of a deployment: below
    /// an artifact root) and what is below it; can be given several times
    #[arg(long = "include", value_name = "GLOB")]
    includes: Vec<String>,
    /// Leave out what matches this glob and what is below it; can be given several times
    #[arg(long = "exclude", value_name = "GLOB")]
    excludes: Vec<String>,
}

impl PatternArgs {
    /// Returns whether there are any.
    pub fn is_given(&self) -> bool {
        !self.includes.is_empty() || !self.excludes.is_empty()
    }

    /// Reads the patterns.
    pub fn resolve(&self) -> Result<Patterns> {
        let include = Globs::new(&self.includes, "include pattern")?;
        Ok(Patterns { include, exclude: Globs::new(&self.excludes, "exclude pattern")? })
    }
}

fn refuse_idle(exclusions: &Exclusions, what: &BackupSource) -> Result<()> {
    let of_directories = Exclusions {
        if_present: exclusions.if_present.clone(),
        caches: exclusions.caches,
        other_file_systems: exclusions.other_file_systems,
        ..Exclusions::default()
    };
    let reason = match what {
        BackupSource::Paths { .. } => return Ok(()),
        BackupSource::Stdin { .. } | BackupSource::Command { .. } if *exclusions != Exclusions::default() => {
            "A stream is stored whole: nothing can be excluded from it"
        }
        BackupSource::Deployment(_) | BackupSource::Bucket { .. } if of_directories != Exclusions::default() => {
            "--exclude-if-present, --exclude-caches and --one-file-system work on files and directories only"
        }
        _ => return Ok(()),
    };
    Err(Error::Invalid(reason.to_owned()))
}

fn size(text: &str) -> Result<u64> {
    parse_bytes(text).ok_or_else(|| Error::Invalid(format!("{text:?} is not a size such as 500M")))
}

fn patterns_in(file: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(file).map_err(|source| Error::source("read", file.to_owned(), source))?;
    let is_pattern = |line: &&str| !line.trim().is_empty() && !line.starts_with('#');
    Ok(text.lines().filter(is_pattern).map(str::to_owned).collect())
}

/// Reads paths from files: one per line, or, if there are any, separated by NUL bytes.
pub fn paths_from(files: &[PathBuf], cancel: &Cancel) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for file in files {
        let mut bytes = Vec::new();
        let read = match file.to_str() {
            Some("-") => StdinReader::new(cancel).read_to_end(&mut bytes).map(drop),
            _ => fs::read(file).map(|content| bytes = content),
        };
        read.map_err(|source| Error::source("read", file.clone(), source))?;
        // Standard input seems to end then.
        cancel.check()?;
        paths.extend(split_paths(&bytes));
    }
    Ok(paths)
}

fn split_paths(bytes: &[u8]) -> impl Iterator<Item = PathBuf> {
    let separator = if bytes.contains(&0) { 0 } else { b'\n' };
    let parts = bytes.split(move |byte| *byte == separator).filter(|part| !part.is_empty());
    parts.map(|part| PathBuf::from(OsString::from_vec(part.to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_by_lines_or_by_nul_bytes() {
        let split =
            |text: &str| split_paths(text.as_bytes()).map(|path| path.display().to_string()).collect::<Vec<_>>();
        assert_eq!(split("a\n\nb c\n"), ["a", "b c"]);
        assert_eq!(split("a\nb\0c\0"), ["a\nb", "c"]);
        assert!(split("").is_empty());
    }
}
