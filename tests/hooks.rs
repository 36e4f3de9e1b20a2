//! Hooks: commands of the user before and after commands of mlvault.

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::docs::json_fields::assert_documented;
use super::support::cli::{Runner, finish};

/// Within which every command ends after a signal.
const END_MAX: Duration = Duration::from_secs(20);
/// The section of cli.md that lists the fields.
const SUMMARY: &str = "The summary of a run";

fn with_file(runner: &Runner, text: &str, args: &[&str]) -> Command {
    let file = runner.path("mlvault.toml");
    fs::write(&file, text).unwrap();
    let mut command = runner.command(args);
    command.arg("--config").arg(file);
    command
}

/// Returns a line that keeps what a hook is told.
fn keep(runner: &Runner, name: &str) -> String {
    let path = runner.path(name);
    format!("cat > {0}; env | grep ^MLVAULT_ > {0}.env", path.display())
}

fn told(runner: &Runner, name: &str) -> Value {
    serde_json::from_slice(&fs::read(runner.path(name)).unwrap_or_else(|_| panic!("the hook {name} did not run")))
        .unwrap()
}

fn all(runner: &Runner) -> String {
    let line = |name| format!("{name} = '''{}'''\n", keep(runner, name));
    ["before", "after", "failed"].map(line).concat()
}

#[test]
fn hooks_are_told_what_a_run_came_to_and_nothing_that_is_secret() {
    let runner = Runner::with_repository();
    runner.write("file", "content");
    let mut backup = with_file(&runner, &format!("[hooks]\n{}", all(&runner)), &["backup", "."]);
    finish(backup.env("MLVAULT_SET", "limit-upload=5M").env("MLVAULT_DEPLOYMENT", "p")).expect(0);
    let (before, after) = (told(&runner, "before"), told(&runner, "after"));
    assert_documented(SUMMARY, &before);
    assert_documented(SUMMARY, &after);
    assert_eq!((&before["event"], &before["verdict"], &before["version"]), (&"start".into(), &Value::Null, &1.into()));
    assert_eq!(
        (&after["event"], &after["verdict"], &after["exit_code"]),
        (&"summary".into(), &"success".into(), &0.into())
    );
    assert_eq!(after["hooks"][0]["hook"], "before");
    // The variable is for backups of deployments.
    assert_eq!((&after["command"], &after["deployment"]), (&"backup".into(), &Value::Null));
    let snapshot = after["snapshot"].as_str().unwrap();
    assert!(runner.run(["snapshots"]).expect(0).text().contains(&snapshot[..12]));
    assert!(after["statistics"]["files_new"] == 1 && after["lines"].to_string().contains("saved"), "{after}");
    assert!(!runner.path("failed").exists());
    let variables = fs::read_to_string(runner.path("after.env")).unwrap();
    assert!(variables.lines().all(|line| line.starts_with("MLVAULT_HOOK")), "{variables}");
    assert!(variables.contains(&format!("MLVAULT_HOOK_SNAPSHOT={snapshot}")), "{variables}");
}

#[test]
fn a_hook_that_fails_before_a_command_keeps_it_from_beginning() {
    let runner = Runner::with_repository();
    let text = format!("[hooks]\n{}on = ['backup', 'check']\n", all(&runner))
        .replace(&keep(&runner, "before"), "echo locked by somebody; exit 7");
    let outcome = finish(&mut with_file(&runner, &text, &["backup", "."])).expect(1);
    assert!(outcome.stderr.contains("nothing was begun: exit status: 7: locked by somebody"), "{}", outcome.stderr);
    assert!(runner.files("repo").iter().all(|path| !path.to_string_lossy().contains("/sessions/")));
    let failed = told(&runner, "failed");
    assert_eq!((&failed["verdict"], &failed["hooks"][0]["exit_code"]), (&"failure".into(), &7.into()));
    assert!(!runner.path("after").exists());
    finish(&mut with_file(&runner, &text, &["check"])).expect(1);
    // Neither a look nor another command has hooks.
    finish(&mut with_file(&runner, &text, &["backup", ".", "--dry-run"])).expect(0);
    finish(&mut with_file(&runner, &text, &["snapshots"])).expect(0);
}

#[test]
fn a_hook_that_fails_afterwards_warns_and_changes_nothing() {
    let runner = Runner::with_repository();
    let text = "[hooks]\nafter = 'echo no such host >&2; exit 1'\nfailed = 'exit 1'\n";
    let outcome = finish(&mut with_file(&runner, text, &["backup", "."])).expect(0);
    assert!(
        outcome.stderr.contains("Warning: The hook \"after\" failed: exit status: 1: no such host"),
        "{}",
        outcome.stderr
    );
    assert!(outcome.stderr.contains("Note: Hook after: no such host"), "{}", outcome.stderr);
    let outcome = finish(&mut with_file(&runner, text, &["backup", "missing"])).expect(1);
    assert!(outcome.stderr.contains("The hook \"failed\" failed"), "{}", outcome.stderr);
}

#[test]
fn a_hook_that_takes_too_long_is_ended() {
    let runner = Runner::with_repository();
    let begun = Instant::now();
    let text = "[hooks]\nbefore = 'sleep 100'\ntimeout = '1s'\n";
    let outcome = finish(&mut with_file(&runner, text, &["backup", "."])).expect(1);
    assert!(outcome.stderr.contains("it was ended after 1 s"), "{}", outcome.stderr);
    assert!(begun.elapsed() < Duration::from_secs(30));
    let outcome = finish(&mut with_file(&runner, "[hooks]\ntimeout = 'soon'\n", &["backup", "."])).expect(2);
    assert!(outcome.stderr.contains("timeout \"soon\""), "{}", outcome.stderr);
}

#[test]
fn after_a_signal_the_hook_for_failures_runs_and_all_ends_in_time() {
    let runner = Runner::with_repository();
    // The second one says nothing for longer than there is time.
    for hook in [keep(&runner, "failed"), format!("{}; trap '' TERM; sleep 100", keep(&runner, "failed"))] {
        let _ = fs::remove_file(runner.path("failed"));
        let started = runner.path("started");
        let _ = fs::remove_file(&started);
        let line = format!("touch {}; sleep 100", started.display());
        let text = format!("[hooks]\nfailed = '''{hook}'''\n");
        let mut backup = with_file(&runner, &text, &["backup", "--command", &line, "--name", "x"]);
        let child = backup.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        while !started.exists() {
            sleep(Duration::from_millis(20));
        }
        let begun = Instant::now();
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(begun.elapsed() < END_MAX, "{:?}", begun.elapsed());
        assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(told(&runner, "failed")["verdict"], "interrupted");
    }
}
