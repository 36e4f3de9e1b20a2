//! Proves that a scratch place is another one than anything that must not be written to.
//!
//! What must stay true: any doubt is a refusal. Directories are told by what they are, device and inode, so that neither a
//! symlink nor a second mount hides one; buckets by their name alone, because one server has many addresses. Neither may be the
//! same as, above or below a place of the source, the repository or mlvault's cache.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::database::DatabaseUri;
use crate::error::{Error, Result};
use crate::format::deployment::DeploymentRecord;
use crate::repository::Repository;
use crate::s3::BucketLocation;
use crate::source::deployment::{ArtifactPlace, Deployment};
use crate::source::filter::OwnPlaces;

/// Places that a drill must not touch, each with what it is.
#[derive(Debug, Default)]
pub struct Protected {
    directories: Vec<(PathBuf, String)>,
    buckets: Vec<(BucketLocation, String)>,
}

impl Protected {
    /// Collects them: those that are configured, and those that the snapshot was made of.
    pub fn of(repository: &Repository, record: &DeploymentRecord, source: &Deployment, own: &OwnPlaces) -> Self {
        let mut protected = Self::default();
        protected.directories.extend(own.iter().map(|(path, what)| (path.clone(), (*what).to_owned())));
        protected.add_text(&repository.backend().location(), "the repository");
        for root in &source.artifacts {
            protected.add(&root.place, &format!("the artifact root {}", root.uri));
        }
        for root in &record.roots {
            protected.add_text(&root.place, &format!("the artifact root {} of the snapshot", root.uri));
        }
        for (store, uri) in &source.databases {
            if let DatabaseUri::Sqlite(path) = uri {
                protected.directories.push((path.clone(), format!("the {} database", store.name())));
            }
        }
        protected
    }

    fn add(&mut self, place: &ArtifactPlace, what: &str) {
        match place {
            ArtifactPlace::Directory(path) => self.directories.push((path.clone(), what.to_owned())),
            ArtifactPlace::Bucket(location, _) => self.buckets.push((location.clone(), what.to_owned())),
        }
    }

    /// Adds a place as records have it. What is neither a bucket nor there, nor could be there, is no place of this machine.
    fn add_text(&mut self, text: &str, what: &str) {
        if let Ok(location) = text.parse() {
            return self.buckets.push((location, what.to_owned()));
        }
        let path = PathBuf::from(text);
        if path.is_absolute() || path.exists() {
            self.directories.push((path, what.to_owned()));
        }
    }

    /// Fails unless a directory, which must be there, is apart from all of them.
    pub fn check_directory(&self, path: &Path) -> Result<()> {
        let place = Place::of(path)?;
        for (other, what) in &self.directories {
            if place.is_related(&Place::of(other)?) {
                return Err(Error::Refused(format!(
                    "The scratch place {path:?} is the same as, above or below {what} ({other:?}): choose another one"
                )));
            }
        }
        Ok(())
    }

    /// Fails unless a part of a bucket is apart from all of them.
    pub fn check_bucket(&self, location: &BucketLocation) -> Result<()> {
        let overlaps = |other: &BucketLocation| {
            let (one, two) = (location.key_prefix(), other.key_prefix());
            location.bucket == other.bucket && (one.starts_with(&two) || two.starts_with(&one))
        };
        match self.buckets.iter().find(|(other, _)| overlaps(other)) {
            None => Ok(()),
            Some((other, what)) => Err(Error::Refused(format!(
                "The scratch place {location} is the same as, above or below {what} ({other}), or has its name on another \
                 server: choose another one"
            ))),
        }
    }
}

/// A path, and which directories it and all those above it are.
struct Place {
    /// Without symlinks, as far as it is there.
    path: PathBuf,
    /// Device and inode: its own first, if it is there, then those above it.
    chain: Vec<(u64, u64)>,
    is_there: bool,
}

impl Place {
    fn of(path: &Path) -> Result<Self> {
        let fault = |source| Error::source("look at", path.to_owned(), source);
        let absolute = std::path::absolute(path).map_err(fault)?;
        // Of what is not there, the nearest directory above it tells where it would be.
        let mut rest = PathBuf::new();
        for above in absolute.ancestors() {
            match above.canonicalize() {
                Ok(found) => {
                    let ids = found.ancestors().map(|path| path.metadata().map(|it| (it.dev(), it.ino())));
                    let chain = ids.collect::<io::Result<Vec<_>>>().map_err(fault)?;
                    let is_there = rest.as_os_str().is_empty();
                    let path = if is_there { found } else { found.join(&rest) };
                    return Ok(Self { path, chain, is_there });
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let name = above.file_name().map(PathBuf::from).unwrap_or_default();
                    rest = if rest.as_os_str().is_empty() { name } else { name.join(rest) };
                }
                Err(error) => return Err(fault(error)),
            }
        }
        Err(fault(io::ErrorKind::NotFound.into()))
    }

    fn is_related(&self, other: &Self) -> bool {
        let is_above = |one: &Self, two: &Self| {
            two.path.starts_with(&one.path)
                || (one.is_there && one.chain.first().is_some_and(|id| two.chain.contains(id)))
        };
        is_above(self, other) || is_above(other, self)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn protecting(path: &Path) -> Protected {
        Protected { directories: vec![(path.to_owned(), "the source".to_owned())], buckets: Vec::new() }
    }

    #[test]
    fn a_directory_is_refused_by_whatever_path_it_is_reached() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir_all(path("srv/source/below")).unwrap();
        fs::create_dir(path("scratch")).unwrap();
        symlink(path("srv/source"), path("link")).unwrap();
        symlink(path("srv"), path("to-srv")).unwrap();
        let source = protecting(&path("srv/source"));
        for related in ["srv/source", "srv", "srv/source/below", "link", "link/below", "to-srv", "to-srv/source", ""] {
            let refused = source.check_directory(&path(related)).unwrap_err();
            assert!(matches!(refused, Error::Refused(_)), "{related}: {refused}");
        }
        source.check_directory(&path("scratch")).unwrap();
        // The source may be named by a link, too, or be gone.
        assert!(protecting(&path("link")).check_directory(&path("srv")).is_err());
        assert!(protecting(&path("srv/gone/deeper")).check_directory(&path("srv")).is_err());
        assert!(protecting(&path("srv/gone/deeper")).check_directory(&path("scratch")).is_ok());
        assert!(source.check_directory(&path("not there/at all")).is_ok());
    }

    #[test]
    fn a_bucket_is_refused_above_and_below_and_beside_it_is_not() {
        let location = |text: &str| text.parse::<BucketLocation>().unwrap();
        let source = Protected {
            directories: Vec::new(),
            buckets: vec![(location("s3://mlflow/artifacts"), "the source".to_owned())],
        };
        for related in ["s3://mlflow", "s3://mlflow/artifacts", "s3://mlflow/artifacts/1"] {
            assert!(source.check_bucket(&location(related)).is_err(), "{related}");
        }
        for apart in ["s3://mlflow/artifacts-2", "s3://mlflow/drill", "s3://scratch/artifacts"] {
            source.check_bucket(&location(apart)).unwrap();
        }
    }
}
