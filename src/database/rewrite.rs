//! Changes of artifact locations while a dump is loaded: as SQL, and counted on a dump alone.
//!
//! A dump tells how its rows spell the old roots (`file:///x` and `/x`, hosts of artifact proxies); the SQL replaces these
//! spellings.
//!
//! What must stay true: only whole path segments at the front of a text are replaced, the longest old one that fits
//! counts, and both forms here agree on every text, if the SQL has the spellings that were found.

use std::collections::BTreeMap;

use super::Rewrite;
use crate::mlflow::uri::{self, VersionSource};
use crate::sql::scanner::TableHead;
use crate::sql::{Value, quoted, text_literal};

/// Rows that a report on texts that become too long names.
pub const EXAMPLES_MAX: usize = 5;
/// Ways to spell roots that one column may have: hosts of artifact proxies, mostly.
const SPELLINGS_MAX: usize = 64;
/// Longest value in such a name, in characters.
const EXAMPLE_LEN_MAX: usize = 80;

/// What a rewrite would do to a dump.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct RewriteCount {
    /// Rows that it changes.
    pub rows: u64,
    /// Characters of the longest text that it makes.
    pub longest: u64,
    /// Rows with a location that is below no root that moves: they stay where they are.
    pub stay: u64,
    /// Rows whose text would become longer than the column allows.
    pub too_long: u64,
    /// Some of those, for people to read.
    pub examples: Vec<String>,
    /// Rows below a root that moves, whose rest would mean something else behind the new one.
    #[serde(skip)]
    pub impossible: u64,
    /// Some of their texts.
    #[serde(skip)]
    pub impossible_examples: Vec<String>,
    /// How the rows spell the old roots, and what comes in their place.
    #[serde(skip)]
    pub spellings: BTreeMap<String, String>,
    /// Whether there are more than `SPELLINGS_MAX`.
    #[serde(skip)]
    pub has_more_spellings: bool,
}

/// The old and new beginnings without slashes at their ends, longest old one first.
fn ordered_roots(rewrite: &Rewrite) -> Vec<(&str, &str)> {
    let trimmed = rewrite.roots.iter().map(|(old, new)| (old.trim_end_matches('/'), new.trim_end_matches('/')));
    let mut roots: Vec<_> = trimmed.collect();
    roots.sort_by_key(|(old, _)| std::cmp::Reverse(old.len()));
    roots
}

/// What a move of roots means for a text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Move {
    /// It is below no root that moves.
    None,
    /// Its beginning is replaced: how it spells the old root, and what comes there.
    Respelled(String, String),
    /// It is below a root that moves, and would mean something else behind the new one.
    Impossible,
}

/// Says what becomes of a text, in whatever spelling it has the root.
fn moved(text: &str, roots: &[(&str, &str)]) -> Move {
    let found = roots.iter().filter_map(|(old, new)| {
        let old = uri::normalize(if old.is_empty() { "/" } else { old });
        Some((old.len(), uri::spelling_of(text, &old)?, *new))
    });
    let Some((_, spelling, new)) = found.max_by_key(|(len, ..)| *len) else { return Move::None };
    match uri::respell(spelling, new, &text[spelling.len()..]) {
        Some(new) => Move::Respelled(spelling.to_owned(), new),
        None => Move::Impossible,
    }
}

/// Returns what becomes of a text; none if nothing.
fn rewritten(text: &str, roots: &[(&str, &str)]) -> Option<String> {
    match moved(text, roots) {
        Move::Respelled(old, new) => Some(format!("{new}{}", &text[old.len()..])),
        Move::None | Move::Impossible => None,
    }
}

/// Applies rewrites to a row of a dump.
pub fn rewrite_row(rewrites: &[Rewrite], head: &TableHead, row: &mut [Value]) {
    for rewrite in rewrites.iter().filter(|rewrite| rewrite.table == head.name) {
        let column = |name: &str| head.columns.iter().position(|known| known == name);
        let is_meant = rewrite.only.as_ref().is_none_or(|(key, values)| {
            let value = column(key).and_then(|at| row.get(at)).and_then(Value::as_text);
            value.is_some_and(|value| values.iter().any(|wanted| wanted == value))
        });
        let Some(value) = column(&rewrite.column).and_then(|at| row.get_mut(at)).filter(|_| is_meant) else { continue };
        if let Some(text) = value.as_text().and_then(|text| rewritten(text, &ordered_roots(rewrite))) {
            *value = Value::Text(text.into_bytes());
        }
    }
}

/// Counts what a rewrite would do to a row of its table.
pub(super) fn count_row(count: &mut RewriteCount, rewrite: &Rewrite, head: &TableHead, row: &[Value]) {
    let value = |column: &str| {
        let at = head.columns.iter().position(|known| known == column)?;
        row.get(at).and_then(Value::as_text)
    };
    if let Some((column, allowed)) = &rewrite.only
        && !value(column).is_some_and(|value| allowed.iter().any(|one| one == value))
    {
        return;
    }
    let Some(text) = value(&rewrite.column) else { return };
    let (spelling, new) = match moved(text, &ordered_roots(rewrite)) {
        Move::Respelled(spelling, new) => (spelling, new),
        Move::None => {
            let is_location = matches!(uri::version_source(text), VersionSource::Location(place) if !place.is_empty());
            count.stay += u64::from(is_location);
            return;
        }
        Move::Impossible => {
            count.impossible += 1;
            if count.impossible_examples.len() < EXAMPLES_MAX {
                count.impossible_examples.push(text.chars().take(EXAMPLE_LEN_MAX).collect());
            }
            return;
        }
    };
    let text = format!("{new}{}", &text[spelling.len()..]);
    if count.spellings.len() < SPELLINGS_MAX {
        count.spellings.insert(spelling, new);
    } else {
        count.has_more_spellings |= !count.spellings.contains_key(&spelling);
    }
    let len = text.chars().count() as u64;
    count.rows += 1;
    count.longest = count.longest.max(len);
    if rewrite.length_max.is_some_and(|max| len > u64::from(max)) {
        count.too_long += 1;
        if count.examples.len() < EXAMPLES_MAX {
            count.examples.push(example(rewrite, head, row, len));
        }
    }
}

/// Names a row by its first two columns, which are or hold the key in MLflow's tables.
fn example(rewrite: &Rewrite, head: &TableHead, row: &[Value], len: u64) -> String {
    let named = head.columns.iter().zip(row).filter(|(column, _)| **column != rewrite.column).take(2);
    let named = named.map(|(column, value)| {
        let text: String = value.as_text().unwrap_or("?").chars().take(EXAMPLE_LEN_MAX).collect();
        format!("{column}={text}")
    });
    format!("{} ({len} characters)", named.collect::<Vec<_>>().join(", "))
}

/// SQL for one rewrite, with numbered parameters; the same in both dialects but for the sign before a number.
pub struct RewriteSql {
    /// The text that a row gets.
    new: String,
    /// Whether a row gets one.
    fits: String,
    /// What the numbers stand for.
    pub parameters: Vec<String>,
    target: String,
    column: String,
    length_max: Option<u32>,
}

impl RewriteSql {
    /// Makes it for a table's full name; `sign` stands before the numbers of parameters.
    pub fn new(rewrite: &Rewrite, target: &str, sign: char) -> Self {
        let mut parameters = Vec::new();
        let mut parameter = |text: &str| {
            parameters.push(text.to_owned());
            format!("CAST({sign}{} AS text)", parameters.len())
        };
        let column = quoted(&rewrite.column);
        let (mut cases, mut fits) = (String::new(), Vec::new());
        for (old, new) in ordered_roots(rewrite) {
            let (old, new) = (parameter(old), parameter(new));
            let fit = format!("({column} = {old} OR substr({column}, 1, length({old}) + 1) = {old} || '/')");
            cases.push_str(&format!(" WHEN {fit} THEN {new} || substr({column}, length({old}) + 1)"));
            fits.push(fit);
        }
        let mut fits = if fits.is_empty() { "1 = 0".to_owned() } else { format!("({})", fits.join(" OR ")) };
        if let Some((only, allowed)) = &rewrite.only {
            let allowed: Vec<_> = allowed.iter().map(|value| parameter(value)).collect();
            let allowed = if allowed.is_empty() { "NULL".to_owned() } else { allowed.join(", ") };
            fits.push_str(&format!(" AND {} IN ({allowed})", quoted(only)));
        }
        let new = if cases.is_empty() { "NULL".to_owned() } else { format!("CASE{cases} END") };
        let length_max = rewrite.length_max;
        Self { new, fits, parameters, target: target.to_owned(), column, length_max }
    }

    /// Returns the statement that changes rows.
    pub fn update(&self) -> String {
        let Self { new, fits, target, column, .. } = self;
        format!("UPDATE {target} SET {column} = {new} WHERE {fits}")
    }

    /// Returns a query for rows that would become too long: their key as one text, and the length; none without limit.
    pub fn too_long(&self, key: &[String]) -> Option<String> {
        let Self { new, fits, target, .. } = self;
        let named = key.iter().map(|column| {
            let label = text_literal(&format!("{column}="));
            format!("{label} || coalesce(CAST({} AS text), 'NULL')", quoted(column))
        });
        let named = named.collect::<Vec<_>>().join(" || ', ' || ");
        let named = if named.is_empty() { "'?'".to_owned() } else { named };
        Some(format!(
            "SELECT {named}, CAST(length({new}) AS text) FROM {target} WHERE {fits} AND length({new}) > {} LIMIT {EXAMPLES_MAX}",
            self.length_max?
        ))
    }
}

/// Says which rows would become too long.
pub fn too_long_reason(rewrite: &Rewrite, rows: &[(String, String)]) -> String {
    let rows: Vec<_> = rows.iter().map(|(key, len)| format!("{key} ({len} characters)")).collect();
    let (table, column) = (&rewrite.table, &rewrite.column);
    let max = rewrite.length_max.unwrap_or_default();
    format!("{table}.{column} holds at most {max} characters, and would need more for {}", rows.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_segments_are_replaced_and_the_longest_fit_counts() {
        let rewrite = Rewrite {
            table: "t".into(),
            column: "c".into(),
            length_max: None,
            only: None,
            roots: vec![
                ("s3://a/".into(), "s3://b/".into()),
                ("s3://a/x".into(), "/srv".into()),
                ("mlflow-artifacts:/".into(), "s3://c/p/".into()),
            ],
        };
        let roots = ordered_roots(&rewrite);
        let of = |text| rewritten(text, &roots);
        assert_eq!(of("s3://a").as_deref(), Some("s3://b"));
        assert_eq!(of("s3://a/xy").as_deref(), Some("s3://b/xy"));
        assert_eq!(of("s3://a/x/y%_").as_deref(), Some("/srv/y%_"));
        assert_eq!(of("mlflow-artifacts:/1/r").as_deref(), Some("s3://c/p/1/r"));
        assert_eq!((of("s3://ab"), of("xs3://a"), of("")), (None, None, None));
        assert_eq!(of("mlflow-artifacts://host:5000/1/r").as_deref(), Some("s3://c/p/1/r"));
    }

    #[test]
    fn a_dump_tells_every_spelling_and_what_stays() {
        let rewrite = Rewrite {
            table: "t".into(),
            column: "c".into(),
            length_max: None,
            only: None,
            roots: vec![("/old".into(), "/new".into()), ("mlflow-artifacts:/".into(), "s3://b".into())],
        };
        let head = TableHead { name: "t".into(), schema: None, target: "t".into(), columns: vec!["c".into()] };
        let mut count = RewriteCount::default();
        let texts = [
            "/old/1",
            "file:///old/2",
            "file:///old",
            "mlflow-artifacts:/1",
            "mlflow-artifacts://h/1",
            "/older/1",
            "models:/m-1",
            "dummy-source",
            "s3://elsewhere/x",
            "",
        ];
        for text in texts {
            count_row(&mut count, &rewrite, &head, &[Value::Text(text.into())]);
        }
        let spellings: Vec<_> = count.spellings.iter().map(|(old, new)| (old.as_str(), new.as_str())).collect();
        assert_eq!(
            spellings,
            [
                ("/old", "/new"),
                ("file:///old", "file:///new"),
                ("mlflow-artifacts:", "s3://b"),
                ("mlflow-artifacts://h", "s3://b"),
            ]
        );
        assert_eq!((count.rows, count.stay, count.impossible), (5, 2, 0));
        let into_bucket = Rewrite { roots: vec![("/old".into(), "s3://b".into())], ..rewrite };
        count_row(&mut count, &into_bucket, &head, &[Value::Text("file:///old/a%20b".into())]);
        assert_eq!((count.impossible, &count.impossible_examples[0][..]), (1, "file:///old/a%20b"));
    }
}
