//! Which keys of the configuration are set, and by what.
//!
//! What must stay true: every key that counts is listed once, in the spelling that `--set` takes, whatever sections there are:
//! nothing here knows a section by its name.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::{Table, Value};

/// What set a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The configuration file.
    File,
    /// `--set`, or its variable.
    Settings,
}

/// The keys that are set.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    /// The file that was read.
    pub file: Option<PathBuf>,
    keys: BTreeMap<String, (String, Origin)>,
}

impl Origins {
    /// Lists what a file says, and what is put over it.
    pub fn new(file: Option<PathBuf>, in_file: &Table, settings: &Table) -> Self {
        let mut keys = BTreeMap::new();
        for (table, origin) in [(in_file, Origin::File), (settings, Origin::Settings)] {
            flatten("", table, &mut |key, value| drop(keys.insert(key, (value, origin))));
        }
        Self { file, keys }
    }

    /// Returns the keys in order, each with its value as text and what set it.
    pub fn keys(&self) -> impl Iterator<Item = (&str, &str, Origin)> {
        self.keys.iter().map(|(key, (value, origin))| (key.as_str(), value.as_str(), *origin))
    }
}

/// Returns a key below another one; what is no bare key of TOML is quoted.
pub fn join(above: &str, name: &str) -> String {
    let is_bare = !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'));
    let name = if is_bare { name.to_owned() } else { serde_json::Value::from(name).to_string() };
    if above.is_empty() { name } else { format!("{above}.{name}") }
}

fn flatten(above: &str, table: &Table, found: &mut impl FnMut(String, String)) {
    for (name, value) in table {
        let key = join(above, name);
        match value {
            Value::Table(table) => flatten(&key, table, found),
            Value::String(text) => found(key, text.clone()),
            other => found(key, serde_json::to_string(other).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_over_a_file_counts_and_names_are_quoted_where_they_must_be() {
        let file: Table =
            "a = 1\n[d.p]\nx = 'y'\nlist = ['b', 'c']\n[d.p.artifacts]\n'm:/' = '/srv'\n".parse().unwrap();
        let settings: Table = "d.p.x = 'z'".parse().unwrap();
        let origins = Origins::new(None, &file, &settings);
        let expected = [
            ("a", "1", Origin::File),
            ("d.p.artifacts.\"m:/\"", "/srv", Origin::File),
            ("d.p.list", "[\"b\",\"c\"]", Origin::File),
            ("d.p.x", "z", Origin::Settings),
        ];
        assert_eq!(origins.keys().collect::<Vec<_>>(), expected);
    }
}
