//! Prepares other programs, and decides what they learn from the environment of this one.
//!
//! What must stay true: no child gets a variable of mlvault's own (`MLVAULT_…`): passphrases are in them, S3 keys of the
//! repository, and URIs with passwords. Whoever can read a child's environment, its logs or its crash reports must not
//! get the repository with it. What a hook is told (`MLVAULT_HOOK…`) is put there for it afterwards.

use std::env;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// Variables that programs need whatever they do.
const BASIC: [&str; 11] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// Returns whether programs need a variable whatever they do. No secret is in it.
pub fn is_basic(name: &str) -> bool {
    BASIC.contains(&name) || name.starts_with("LC_")
}

/// Prepares `sh -c line` for a line that the user wrote. It gets the environment, but for mlvault's own variables: what
/// else it needs, such as keys for AWS, only the user knows.
pub fn shell(line: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", line]);
    for (name, _) in env::vars_os().filter(|(name, _)| is_own(name)) {
        command.env_remove(name);
    }
    command
}

/// Prepares a program that gets only those variables that `passes` lets through.
pub fn program(path: &Path, passes: impl Fn(&str) -> bool) -> Command {
    let mut command = Command::new(path);
    let passed = env::vars_os().filter(|(name, _)| !is_own(name) && name.to_str().is_some_and(&passes));
    command.env_clear().envs(passed);
    command
}

fn is_own(name: &OsStr) -> bool {
    name.as_encoded_bytes().strip_prefix(b"MLVAULT").is_some_and(|rest| rest.starts_with(b"_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_mlvault_are_told_from_others() {
        for name in ["MLVAULT_PASSPHRASE", "MLVAULT_SET", "MLVAULT_TO_S3_SECRET_ACCESS_KEY", "MLVAULT_"] {
            assert!(is_own(OsStr::new(name)), "{name}");
        }
        for name in ["MLVAULT", "MLVAULTX", "PATH", "AWS_SECRET_ACCESS_KEY", "X_MLVAULT_SET"] {
            assert!(!is_own(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn a_program_gets_only_what_passes() {
        let command = program(Path::new("env"), |name| name == "PATH");
        let names: Vec<_> = command.get_envs().map(|(name, _)| name.to_owned()).collect();
        assert!(names.iter().all(|name| name == "PATH"), "{names:?}");
    }
}
