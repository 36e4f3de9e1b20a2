//! The programs of PostgreSQL that are installed.
//!
//! What must stay true: what they learn from the environment is what they need and nothing that could lead them to another
//! database.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::child_environment;

/// Where Debian keeps the programs of each version.
const DEBIAN_VERSIONS: &str = "/usr/lib/postgresql";
/// A variable of OpenSSL, which libpq uses.
const OPENSSL: &str = "OPENSSL_CONF";
/// Variables of libpq that could lead them elsewhere.
const MISLEADING: [&str; 8] = [
    "PGHOSTADDR",
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGPASSFILE",
    "PGREQUIRESSL",
    "PGSSLNEGOTIATION",
    "PGTARGETSESSIONATTRS",
    "PGCLIENTENCODING",
];

/// Finds a program: the one in `PATH`, then those of Debian, the newest version first.
pub fn candidates(name: &str) -> impl Iterator<Item = PathBuf> + use<> {
    let in_version = PathBuf::from("bin").join(name);
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file());
    let versions = fs::read_dir(DEBIAN_VERSIONS).into_iter().flatten().flatten();
    let mut of_debian: Vec<(u32, PathBuf)> = versions
        .filter_map(|version| Some((version.file_name().to_str()?.parse().ok()?, version.path().join(&in_version))))
        .collect();
    of_debian.sort_by(|one, other| other.cmp(one));
    in_path.into_iter().chain(of_debian.into_iter().map(|(_, program)| program))
}

/// Returns the version in `pg_dump (PostgreSQL) 15.18 (Debian …)`.
pub fn version_of(program: &Path) -> Option<String> {
    let output =
        child_environment::program(program, is_passed_on).arg("--version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split_whitespace().nth(2).filter(|_| output.status.success()).map(str::to_owned)
}

/// Returns the leading number of a version such as `15.18` or `18beta1`.
pub fn major_of(version: &str) -> Option<u32> {
    let len = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..len].parse().ok()
}

/// Returns whether these programs get a variable of this process: what all need, and libpq's, and no secret that is not for it. Kerberos has its own (`KRB5…`).
pub fn is_passed_on(name: &str) -> bool {
    let is_of_libpq = name.starts_with("PG") && !MISLEADING.contains(&name);
    child_environment::is_basic(name) || name == OPENSSL || name.starts_with("KRB5") || is_of_libpq
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majors_are_read_from_versions_of_all_kinds() {
        assert_eq!(["15.18", "18beta1", "9.6.24", "x"].map(major_of), [Some(15), Some(18), Some(9), None]);
    }
}
