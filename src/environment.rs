//! Variables of the environment.
//!
//! What must stay true: an empty variable is one that is not there. That is how manifests leave one out, and an empty `HOME` or
//! `XDG_CACHE_HOME` would be the directory that somebody happens to stand in. Only [`crate::child_environment`] looks at
//! variables in another way.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// Returns the value of a variable.
pub fn variable_os(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// Returns whether a variable is there and says nothing.
pub fn is_empty(name: &OsStr) -> bool {
    env::var_os(name).is_some_and(|value| value.is_empty())
}

/// Returns the value of a variable that is UTF-8.
pub fn variable(name: &str) -> Option<String> {
    variable_os(name)?.into_string().ok()
}

/// Returns a path below the user's home directory.
pub fn in_home(path: &str) -> Option<PathBuf> {
    variable_os("HOME").map(|home| PathBuf::from(home).join(path))
}

/// Returns a base directory of the user: what the variable says, or else that path below home. As the XDG Base Directory
/// Specification says, a relative path does not count.
pub fn base_directory(variable: &str, below_home: &str) -> Option<PathBuf> {
    let said = variable_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    said.or_else(|| in_home(below_home))
}
