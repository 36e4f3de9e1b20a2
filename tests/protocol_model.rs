//! The protocol of sessions and prunes as a model that goes through every order of steps: `tests/model/protocol.py`.

use std::process::{Command, Output};

use crate::support::tool;

/// Runs the model to its end.
fn explore(arguments: &str) -> Output {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/model/protocol.py");
    Command::new(tool("python")).arg(program).args(arguments.split(' ')).output().unwrap()
}

#[test]
fn no_order_of_steps_loses_anything() {
    for processes in [
        "--writers 2 --pruners 1 --any-mark",
        "--writers 1 --pruners 2 --any-mark",
        "--writers 1 --pruners 1 --liars 1 --hiders 1 --any-mark",
        "--writers 1 --pruners 1 --liars 1 --hiders 1",
        "--writers 1 --shards 1 --pruners 1 --any-mark",
        "--writers 1 --shards 2 --pruners 1",
    ] {
        let output = explore(processes);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.starts_with("holds:"), "{processes}: {said}");
    }
}

#[test]
fn each_change_of_the_protocol_that_matters_loses_something() {
    let one_prune = "--writers 1 --pruners 1 --any-mark";
    let shards = "--writers 1 --shards 1 --pruners 1 --any-mark";
    let two_prunes = "--writers 1 --pruners 2 --any-mark";
    for (change, processes) in [
        ("tombstones-before-session", one_prune),
        ("tombstones-last", one_prune),
        ("no-presence", two_prunes),
        ("commit-overwrites", one_prune),
        ("no-void", one_prune),
        ("no-relist", one_prune),
        ("own-tombstone-only", two_prunes),
        ("orphans-blindly", two_prunes),
        ("tombstone-first", one_prune),
        ("foreign-tombstone", "--writers 1 --pruners 2"),
        ("believe-segments", "--writers 1 --pruners 1 --liars 1"),
        ("trust-all", "--writers 1 --pruners 1 --liars 1"),
        ("bytes-end", "--writers 1 --pruners 1 --hiders 1"),
        ("no-void", shards),
        ("view-before-plan", shards),
        ("close-as-another", shards),
    ] {
        let output = explore(&format!("{processes} --break {change}"));
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && said.starts_with("LOST"), "{change}: {said}");
    }
}
