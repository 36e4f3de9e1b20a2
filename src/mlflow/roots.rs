//! Which part of which artifact component a location of the database means.
//!
//! What must stay true: the longest root that covers a location decides; a location that no root covers is neither
//! guessed nor passed over: it is [`Resolved::Unmapped`].

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::mlflow::uri;

/// A root of the database and the component that holds what is below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedRoot {
    /// The location as the database has it, in its one form.
    pub uri: String,
    /// The component, by its number.
    pub component: usize,
    /// Path of the root in the component, without `/` at either end; empty for all of it.
    pub path: String,
}

/// Where a location leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// Into a component.
    At {
        /// Its number.
        component: usize,
        /// The path in it, without `/` at either end.
        path: String,
    },
    /// Into a root that was excluded by name.
    Excluded,
    /// Nowhere that the configuration knows.
    Unmapped,
}

/// All roots of a deployment.
#[derive(Debug, Clone, Default)]
pub struct RootMap {
    /// By location, so that the last one that covers a location is the longest.
    mapped: BTreeMap<String, (usize, String)>,
    excluded: Vec<String>,
}

impl RootMap {
    /// Puts roots and exclusions together; a root named twice is refused.
    pub fn new(roots: Vec<MappedRoot>, excluded: &[String]) -> Result<Self> {
        let mut mapped = BTreeMap::new();
        for root in roots {
            let location = uri::normalize(&root.uri);
            if mapped.insert(location.clone(), (root.component, root.path)).is_some() {
                return Err(Error::Invalid(format!("The artifact root {location} is mapped twice")));
            }
        }
        let excluded: Vec<_> = excluded.iter().map(|text| uri::normalize(text)).collect();
        if let Some(both) = excluded.iter().find(|location| mapped.contains_key(*location)) {
            return Err(Error::Invalid(format!("The artifact root {both} is both mapped and excluded")));
        }
        Ok(Self { mapped, excluded })
    }

    /// Tells where a location, in whatever spelling, leads.
    pub fn resolve(&self, location: &str) -> Resolved {
        let location = uri::normalize(location);
        let mapped = self
            .mapped
            .iter()
            .filter_map(|(root, place)| Some((root, place, uri::below(&location, root)?)))
            .max_by_key(|(root, ..)| root.len());
        let excluded = self.excluded.iter().filter(|root| uri::below(&location, root).is_some()).map(String::len).max();
        match (mapped, excluded) {
            (Some((root, ..)), Some(longer)) if longer > root.len() => Resolved::Excluded,
            (Some((_, (component, path), rest)), _) => {
                let joined = [path.as_str(), rest.trim_matches('/')].join("/");
                Resolved::At { component: *component, path: joined.trim_matches('/').to_owned() }
            }
            (None, Some(_)) => Resolved::Excluded,
            (None, None) => Resolved::Unmapped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> RootMap {
        let root = |uri: &str, component, path: &str| MappedRoot { uri: uri.into(), component, path: path.into() };
        let roots = vec![
            root("mlflow-artifacts:/", 0, "artifacts"),
            root("s3://team-b", 1, ""),
            root("s3://team-b/moved", 0, "from-b"),
        ];
        RootMap::new(roots, &["s3://scratch/tmp".into(), "s3://team-b/cache".into()]).unwrap()
    }

    fn at(component: usize, path: &str) -> Resolved {
        Resolved::At { component, path: path.into() }
    }

    #[test]
    fn the_longest_root_decides() {
        assert_eq!(map().resolve("mlflow-artifacts://h:1/1/r/artifacts"), at(0, "artifacts/1/r/artifacts"));
        assert_eq!(map().resolve("s3://team-b/x/"), at(1, "x"));
        assert_eq!(map().resolve("s3://team-b"), at(1, ""));
        assert_eq!(map().resolve("s3://team-b/moved/x"), at(0, "from-b/x"));
        assert_eq!(map().resolve("s3://team-b/cache/x"), Resolved::Excluded);
        assert_eq!(map().resolve("s3://scratch/tmp/x"), Resolved::Excluded);
        assert_eq!(map().resolve("s3://scratch/other"), Resolved::Unmapped);
        assert_eq!(map().resolve("s3://team-bb/x"), Resolved::Unmapped);
    }

    #[test]
    fn contradictions_are_refused() {
        let root = MappedRoot { uri: "s3://b/".into(), component: 0, path: String::new() };
        assert!(RootMap::new(vec![root.clone(), root.clone()], &[]).is_err());
        assert!(RootMap::new(vec![root], &["s3://b".into()]).is_err());
    }
}
