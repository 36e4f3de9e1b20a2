//! libpq's password file: `~/.pgpass`, or what `PGPASSFILE` names.
//!
//! What must stay true: a file that others may read is passed over, as libpq does.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::environment;
use zeroize::Zeroizing;

/// Permissions of group and others.
const NOT_PRIVATE: u32 = 0o077;

/// What a line is found by: host, port, database and user.
pub type Fields<'a> = [&'a str; 4];

/// Returns the password of the first line that fits, of the file that was named or the usual one.
pub fn find(named: Option<&Path>, wanted: &Fields<'_>) -> Option<Zeroizing<String>> {
    let path = match named.map(|path| path.as_os_str().to_owned()).or_else(|| environment::variable_os("PGPASSFILE")) {
        Some(path) => PathBuf::from(path),
        None => environment::in_home(".pgpass")?,
    };
    let metadata = fs::metadata(&path).ok()?;
    if !metadata.is_file() || metadata.permissions().mode() & NOT_PRIVATE != 0 {
        return None;
    }
    let text = Zeroizing::new(fs::read_to_string(&path).ok()?);
    text.lines().find_map(|line| password_of(line, wanted))
}

/// Returns the password of a line, if what is wanted fits its first four fields.
pub fn password_of(line: &str, wanted: &Fields<'_>) -> Option<Zeroizing<String>> {
    if line.starts_with('#') {
        return None;
    }
    let mut rest = line;
    for wanted in wanted {
        let (field, after) = field(rest)?;
        if field != "*" && unescaped(field) != *wanted {
            return None;
        }
        rest = after;
    }
    Some(Zeroizing::new(unescaped(rest)))
}

/// Takes what stands before the next colon that has no backslash before it.
fn field(line: &str) -> Option<(&str, &str)> {
    let mut is_escaped = false;
    for (at, c) in line.char_indices() {
        match c {
            ':' if !is_escaped => return Some((&line[..at], &line[at + 1..])),
            _ => is_escaped = c == '\\' && !is_escaped,
        }
    }
    None
}

fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_by_their_four_fields_with_stars_and_escapes() {
        let password =
            |line| password_of(line, &["host", "5433", "mlflow", "us:er"]).map(|password| password.to_string());
        assert_eq!(password(r"host:5433:mlflow:us\:er:a\:b\\c:d").as_deref(), Some(r"a:b\c:d"));
        assert_eq!(password("*:*:*:*:x").as_deref(), Some("x"));
        for line in ["other:*:*:*:x", "*:5432:*:*:x", "*:*:*:us:er:x", "# *:*:*:*:x", "", "*:*:*", "#"] {
            assert_eq!(password(line), None, "{line}");
        }
    }
}
