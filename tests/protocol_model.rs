//! The protocol of sessions and prunes, and that of the log, as models that go through every order of steps:
//! `tests/model/protocol.py` and `tests/model/log.py`.

use std::process::{Command, Output};

use crate::support::tool;

/// Runs the model of sessions and prunes to its end.
fn explore(arguments: &str) -> Output {
    run_model("protocol.py", arguments)
}

fn run_model(name: &str, arguments: &str) -> Output {
    let program = format!("{}/tests/model/{name}", env!("CARGO_MANIFEST_DIR"));
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

#[test]
fn no_order_of_steps_makes_a_checkpoint_wrong() {
    for processes in [
        "--warm 2 --cold 1",
        "--warm 1 --cold 2 --thieves 2",
        "--warm 2 --cold 1 --thieves 1",
        "--warm 2 --cold 0 --vandals 1",
    ] {
        let output = run_model("log.py", processes);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.starts_with("holds:"), "{processes}: {said}");
    }
}

#[test]
fn each_change_of_the_log_that_matters_makes_a_checkpoint_wrong() {
    for (change, processes) in [
        ("overwrites", "--warm 2"),
        ("believes-anyone", "--thieves 1"),
        ("highest-number", "--thieves 1"),
        ("skips-junk", "--thieves 1"),
        ("no-look", "--vandals 1"),
    ] {
        let output = run_model("log.py", &format!("{processes} --break {change}"));
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && said.starts_with("BROKEN"), "{change}: {said}");
    }
}
