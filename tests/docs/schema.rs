//! Which keys a configuration file can have, as the parser itself tells.
//!
//! What must stay true: no key is listed here. The parser is asked about each table with a key that it cannot know, and says
//! which ones it expects, so that a new key or section is found without anybody thinking of it.

use std::collections::BTreeSet;

use mlvault::config::file::ConfigFile;
use toml::{Table, Value};

use super::page::quoted;

/// A key that no table has.
const UNKNOWN: &str = "no-such-key";
/// Stands for a name that the user chooses.
pub const ANY_NAME: &str = "*";

/// Returns the keys, with [`ANY_NAME`] for names that the user chooses.
pub fn keys() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut tables = vec![String::new()];
    while let Some(table) = tables.pop() {
        for key in expected(&table).unwrap_or_else(|| panic!("{table:?} is no table")) {
            let path = format!("{table}{key}");
            match kind(&path) {
                Kind::Leaf => drop(found.insert(path)),
                Kind::Table => tables.push(format!("{path}.")),
                Kind::Tables => tables.push(format!("{path}.{ANY_NAME}.")),
                Kind::Names => drop(found.insert(format!("{path}.{ANY_NAME}"))),
            }
        }
    }
    found
}

enum Kind {
    /// A value.
    Leaf,
    /// A table with known keys.
    Table,
    /// Tables with known keys, by names.
    Tables,
    /// Values by names.
    Names,
}

fn kind(path: &str) -> Kind {
    if expected(&format!("{path}.")).is_some() {
        return Kind::Table;
    }
    if expected(&format!("{path}.{ANY_NAME}.")).is_some() {
        return Kind::Tables;
    }
    // Only a map takes an empty table and has no key of its own.
    if ConfigFile::parse(&format!("{path} = {{}}").replace(ANY_NAME, "any")).is_ok() { Kind::Names } else { Kind::Leaf }
}

/// Returns the keys that the parser expects in a table; nothing if that is no table with known keys.
fn expected(table: &str) -> Option<Vec<String>> {
    let text = format!("{table}{UNKNOWN} = 1").replace(ANY_NAME, "any");
    let refusal = ConfigFile::parse(&text).err()?.to_string();
    let (_, expected) = refusal.split_once(&format!("unknown field `{UNKNOWN}`, expected"))?;
    Some(quoted(expected).into_iter().map(str::to_owned).collect())
}

/// Returns the keys that a text sets, in the form of [`keys`].
pub fn keys_in(text: &str) -> BTreeSet<String> {
    let known = keys();
    let mut found = BTreeSet::new();
    collect(&known, "", &text.parse().unwrap(), &mut found);
    found
}

fn collect(known: &BTreeSet<String>, above: &str, table: &Table, found: &mut BTreeSet<String>) {
    for (name, value) in table {
        // Below a name that the user chooses, the parser knows no other one.
        let is_chosen = known.iter().any(|key| key.starts_with(&format!("{above}{ANY_NAME}")));
        let path = format!("{above}{}", if is_chosen { ANY_NAME } else { name });
        match value {
            Value::Table(table) => collect(known, &format!("{path}."), table, found),
            _ => drop(found.insert(path)),
        }
    }
}

/// Returns the text of the example with everything set that stands there behind a `#`.
pub fn with_examples(text: &str) -> String {
    let is_key = |rest: &str| rest.starts_with(|c: char| c.is_ascii_lowercase() || matches!(c, '[' | '"'));
    let lines = text.lines().map(|line| line.strip_prefix('#').filter(|rest| is_key(rest)).unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}
