//! Looks at the copy of a database: is it sound, and do its rows keep the rules of its schema?
//!
//! What must stay true: a file that cannot be read whole is damaged, and is an error; rows that can be read are never a
//! reason for having no backup, whatever rules they break.

use std::path::Path;

use rusqlite::OpenFlags;

use super::super::Violations;
use super::File;
use crate::error::Result;

const ACTION: &str = "check";
/// Findings that SQLite looks for: it names damage of the file before anything else.
const FINDINGS_MAX: usize = 100;
/// Findings of one kind that a message repeats.
const SHOWN_MAX: usize = 5;

/// What a finding of SQLite's `integrity_check` means for the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// The file is damaged: rows may be missing.
    Damage,
    /// An index is not as its table: a dump reads tables, and a restore makes indexes anew.
    Index,
    /// A row breaks a rule that a restore need not enforce.
    Kept,
    /// A row breaks a rule that every insert has to keep.
    Unloadable,
}

fn meaning(finding: &str) -> Meaning {
    let starts = |beginnings: &[&str]| beginnings.iter().any(|beginning| finding.starts_with(beginning));
    if starts(&["CHECK constraint failed in "]) {
        Meaning::Kept
    } else if starts(&["NULL value in ", "NUMERIC value in ", "TEXT value in ", "non-unique entry in index "]) {
        Meaning::Unloadable
    } else if starts(&["wrong # of entries in index "])
        || finding.starts_with("row ") && finding.contains(" missing from index ")
    {
        Meaning::Index
    } else {
        Meaning::Damage
    }
}

/// Returns which rules of its schema the rows of a copy break; fails if the file is damaged. `path` is where the copy is:
/// its indexes are made anew if they are wrong, because queries use them.
pub fn violations(copy: &File, path: &Path) -> Result<Violations> {
    // SQLite does not even read the CHECK rules of a file that was opened for reading only.
    let mut writable = File::open_with(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    writable.location.clone_from(&copy.location);
    let mut findings = writable.texts(ACTION, &format!("PRAGMA integrity_check({FINDINGS_MAX})"))?;
    findings.retain(|finding| finding != "ok");
    let of = |wanted| findings.iter().filter(move |finding| meaning(finding) == wanted).cloned().collect::<Vec<_>>();
    let damage = of(Meaning::Damage);
    if !damage.is_empty() {
        return Err(writable.error(ACTION, format!("it is damaged: {}", shown(&damage))));
    }
    let mut found = Violations { kept: of(Meaning::Kept), unloadable: of(Meaning::Unloadable) };
    let indexes = of(Meaning::Index);
    if !indexes.is_empty() {
        writable.run("make the indexes of a copy of", "REINDEX")?;
        found.kept.push(format!("indexes are not as their tables: {}", shown(&indexes)));
    }
    found.kept.truncate(SHOWN_MAX);
    found.unloadable.truncate(SHOWN_MAX);
    found.kept.extend(orphans(copy));
    Ok(found)
}

/// Says which rows refer to others that are not there.
fn orphans(copy: &File) -> Option<String> {
    // A key of the schema that SQLite cannot make sense of breaks the check, and no row.
    let check = || {
        let count = copy.texts(ACTION, "SELECT CAST(count(*) AS text) FROM pragma_foreign_key_check")?.concat();
        let examples = format!(
            "SELECT \"table\" || ' (row ' || coalesce(rowid, '?') || ') refers to a missing row of ' || parent \
             FROM pragma_foreign_key_check LIMIT {SHOWN_MAX}"
        );
        Ok::<_, crate::error::Error>((count, copy.texts(ACTION, &examples)?))
    };
    match check() {
        Ok((_, examples)) if examples.is_empty() => None,
        Ok((count, examples)) => Some(format!("{count} orphaned rows: {}", examples.join("; "))),
        Err(error) => Some(format!("references between rows cannot be checked: {error}")),
    }
}

fn shown(findings: &[String]) -> String {
    findings.iter().take(SHOWN_MAX).map(String::as_str).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_to_leave_rows_readable_is_not_damage() {
        assert_eq!(meaning("CHECK constraint failed in runs"), Meaning::Kept);
        assert_eq!(meaning("NULL value in runs.status"), Meaning::Unloadable);
        assert_eq!(meaning("row 7 missing from index unique_name"), Meaning::Index);
        assert_eq!(meaning("wrong # of entries in index unique_name"), Meaning::Index);
        for damage in ["Tree 5 page 9: btreeInitPage() returns error code 11", "Page 4: never used", ""] {
            assert_eq!(meaning(damage), Meaning::Damage, "{damage}");
        }
    }
}
