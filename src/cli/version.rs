//! What the program says of itself: which version it is, of which commit, for which system, and what it reads.
//!
//! What must stay true: no git is needed to build, and nothing is guessed. `make install` names the commit in
//! `MLVAULT_COMMIT`, and so may who packages mlvault; a build of which nobody said so calls it unknown. A build script that
//! asks git would compile the library again with every commit, and would still say nothing of what was edited since.

use std::env::consts::{ARCH, OS};
use std::sync::LazyLock;

use mlvault::format::FORMAT_VERSION;

/// The version alone: what `-V` prints.
pub const SHORT: &str = env!("CARGO_PKG_VERSION");

/// What `--version` prints.
pub static LONG: LazyLock<String> = LazyLock::new(|| {
    let libc = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    format!(
        "{SHORT} ({})\ntarget {ARCH}-{OS}-{libc}\nrepository format {FORMAT_VERSION}",
        commit(option_env!("MLVAULT_COMMIT"))
    )
});

fn commit(said: Option<&str>) -> String {
    let said = said.map(str::trim).filter(|said| !said.is_empty());
    format!("commit {}", said.unwrap_or("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_that_nobody_named_is_unknown() {
        for said in [None, Some(""), Some("\n")] {
            assert_eq!(commit(said), "commit unknown");
        }
        assert_eq!(commit(Some("0123abcd-dirty, 2026-11-30")), "commit 0123abcd-dirty, 2026-11-30");
    }
}
