//! An MLflow deployment: its databases, artifact stores and tracking server, as backups read and restores write them.
//!
//! What must stay true: places that lie inside one another are one component, so that no file is stored twice and every
//! root leads to exactly one place.

use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

use crate::database::DatabaseUri;
use crate::error::{Error, Result};
use crate::format::snapshot::ARTIFACTS;
use crate::mlflow::roots::{MappedRoot, RootMap};
use crate::mlflow::schema::Store;
use crate::mlflow::uri;
use crate::s3::{BucketLocation, S3Options};
use crate::tracking::TrackingOptions;

/// Where artifacts are.
#[derive(Debug, Clone)]
pub enum ArtifactPlace {
    /// A directory, such as a mounted volume.
    Directory(PathBuf),
    /// A part of a bucket.
    Bucket(BucketLocation, Box<S3Options>),
}

impl ArtifactPlace {
    /// Returns what follows this place in another one, if that lies in it; empty if they are the same.
    fn path_of(&self, other: &Self) -> Option<String> {
        match (self, other) {
            (Self::Directory(outer), Self::Directory(inner)) => {
                let rest = inner.strip_prefix(outer).ok()?;
                Some(rest.to_string_lossy().into_owned())
            }
            (Self::Bucket(outer, at), Self::Bucket(inner, options)) => {
                let same = outer.bucket == inner.bucket && at.endpoint == options.endpoint;
                let rest = inner.prefix.strip_prefix(&outer.prefix).filter(|_| same)?;
                match rest.strip_prefix('/') {
                    _ if rest.is_empty() || outer.prefix.is_empty() => Some(rest.to_owned()),
                    Some(rest) => Some(rest.to_owned()),
                    None => None,
                }
            }
            _ => None,
        }
    }
}

impl fmt::Display for ArtifactPlace {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(out),
            Self::Bucket(location, _) => location.fmt(out),
        }
    }
}

/// A root of artifact locations and where it really is.
#[derive(Debug, Clone)]
pub struct ArtifactRoot {
    /// As the databases have it.
    pub uri: String,
    /// Where that is.
    pub place: ArtifactPlace,
}

/// A key that MLflow reads from its environment.
#[derive(Clone)]
pub struct OutsideKey {
    /// The variable.
    pub name: String,
    /// Its value.
    pub value: Zeroizing<String>,
}

impl fmt::Debug for OutsideKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("OutsideKey").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A deployment as it was configured.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// Its name: decides which snapshots belong together.
    pub name: String,
    /// Its databases; the backend store first.
    pub databases: Vec<(Store, DatabaseUri)>,
    /// Its artifact roots.
    pub artifacts: Vec<ArtifactRoot>,
    /// Artifact roots that are left out.
    pub excluded: Vec<String>,
    /// Keys outside the databases, of which fingerprints are kept.
    pub keys: Vec<OutsideKey>,
    /// Its tracking server, whose REST API is asked for the metadata.
    pub tracking: Option<TrackingOptions>,
    /// Whether a backup without all of the metadata is whole all the same: nothing is ever restored from them that the
    /// databases do not have.
    pub metadata_optional: bool,
}

/// An artifact store as one component of a snapshot.
#[derive(Debug, Clone)]
pub struct ArtifactComponent {
    /// Its name, with [`ARTIFACTS`] before it.
    pub name: String,
    /// Where it is.
    pub place: ArtifactPlace,
}

/// The artifact stores of a deployment, and what the roots mean in them.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The stores, by name.
    pub components: Vec<ArtifactComponent>,
    /// The roots as they were given, each with the number of its component and its path there.
    pub roots: Vec<MappedRoot>,
    /// What locations of the databases lead to.
    pub map: RootMap,
}

impl Deployment {
    /// Returns the URI of a database, if it has a database of its own.
    pub fn database(&self, store: Store) -> Option<&DatabaseUri> {
        self.databases.iter().find(|(known, _)| *known == store).map(|(_, uri)| uri)
    }

    /// Puts places together into components.
    pub fn layout(&self) -> Result<Layout> {
        let outermost: Vec<&ArtifactRoot> = self
            .artifacts
            .iter()
            .enumerate()
            .filter(|(at, root)| {
                !self.artifacts.iter().enumerate().any(|(other_at, other)| match other.place.path_of(&root.place) {
                    Some(rest) => !rest.is_empty() || other_at < *at,
                    None => false,
                })
            })
            .map(|(_, root)| root)
            .collect();
        let mut components: Vec<_> = outermost
            .iter()
            .map(|root| ArtifactComponent { name: component_name(&root.uri), place: root.place.clone() })
            .collect();
        // Two stores under one name would be one tree, and a restore could not tell their files apart.
        components.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(twice) = components.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(Error::Invalid(format!(
                "Two artifact roots would both be stored as {}: {} and {}",
                twice[0].name, twice[0].place, twice[1].place
            )));
        }
        let roots = self.artifacts.iter().map(|root| {
            let found = components
                .iter()
                .enumerate()
                .find_map(|(number, component)| Some((number, component.place.path_of(&root.place)?)));
            let (component, path) =
                found.ok_or_else(|| Error::Internal(format!("the root {} is in no component", root.uri)))?;
            Ok(MappedRoot { uri: uri::normalize(&root.uri), component, path: path.trim_matches('/').to_owned() })
        });
        let roots = roots.collect::<Result<Vec<_>>>()?;
        let map = RootMap::new(roots.clone(), &self.excluded)?;
        Ok(Layout { components, roots, map })
    }
}

/// Makes a component's name from a root: letters, digits, dots and hyphens of it.
fn component_name(root: &str) -> String {
    let root = uri::normalize(root);
    let mut name = String::from(ARTIFACTS);
    for character in root.trim_end_matches('/').trim_start_matches('/').chars() {
        match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' => name.push(character),
            _ if name.ends_with(['-', '/']) => {}
            _ => name.push('-'),
        }
    }
    let trimmed = name.trim_end_matches('-');
    if trimmed.len() == ARTIFACTS.len() { format!("{ARTIFACTS}root") } else { trimmed.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mlflow::roots::Resolved;

    fn deployment(artifacts: &[(&str, &str)]) -> Deployment {
        let root = |(uri, place): &(&str, &str)| ArtifactRoot {
            uri: (*uri).to_owned(),
            place: match BucketLocation::is_meant(place) {
                true => ArtifactPlace::Bucket(place.parse().unwrap(), Box::default()),
                false => ArtifactPlace::Directory(place.into()),
            },
        };
        Deployment {
            name: "test".into(),
            databases: Vec::new(),
            artifacts: artifacts.iter().map(root).collect(),
            excluded: Vec::new(),
            keys: Vec::new(),
            tracking: None,
            metadata_optional: false,
        }
    }

    #[test]
    fn places_inside_one_another_are_one_component() {
        let layout = deployment(&[
            ("mlflow-artifacts:/", "s3://mlflow/artifacts"),
            ("s3://mlflow", "s3://mlflow"),
            ("s3://team-b/exp", "s3://team-b/exp"),
            ("s3://mlflow-2", "s3://mlflow-2"),
            ("/srv/mlruns", "/mnt/pvc"),
            ("/old/mlruns", "/mnt/pvc"),
        ])
        .layout()
        .unwrap();
        let names: Vec<_> = layout.components.iter().map(|component| component.name.as_str()).collect();
        assert_eq!(
            names,
            ["artifacts/s3-mlflow", "artifacts/s3-mlflow-2", "artifacts/s3-team-b-exp", "artifacts/srv-mlruns"]
        );
        let at = |component, path: &str| Resolved::At { component, path: path.into() };
        assert_eq!(layout.map.resolve("mlflow-artifacts:/1/r"), at(0, "artifacts/1/r"));
        assert_eq!(layout.map.resolve("s3://mlflow/other"), at(0, "other"));
        assert_eq!(layout.map.resolve("/old/mlruns/0"), at(3, "0"));
        assert_eq!(layout.map.resolve("s3://mlflow-2/x"), at(1, "x"));
    }

    #[test]
    fn names_are_made_of_roots() {
        assert_eq!(component_name("mlflow-artifacts:/"), "artifacts/mlflow-artifacts");
        assert_eq!(component_name("s3://b/p/q"), "artifacts/s3-b-p-q");
        assert_eq!(component_name("/"), "artifacts/root");
    }

    #[test]
    fn roots_that_would_share_a_name_are_refused() {
        assert!(deployment(&[("s3://b/p-q", "s3://b/p-q"), ("s3://b/p/q", "s3://b/p/q")]).layout().is_err());
    }
}
