//! What runs mlvault where there is no Kubernetes: the units of systemd and the lines of cron. For the chart see
//! `tests/kubernetes/chart.rs`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::docs::help;
use super::docs::page::{Page, rows};
use super::support::cli::{Runner, finish};

/// Most that `systemd-analyze security` may find wrong with a service, in tenths.
const EXPOSURE_MAX: &str = "20";
/// Within which mlvault ends after a signal, in seconds.
const END_MAX: u64 = 20;

fn deployed(folder: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(folder);
    let files = fs::read_dir(folder).unwrap().map(|found| found.unwrap().path());
    let read =
        |path: PathBuf| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap());
    files.map(read).collect()
}

/// Writes the units as they are for a deployment, with the program that is tested in place of the installed one.
fn instances() -> (TempDir, Vec<PathBuf>) {
    let folder = TempDir::new().unwrap();
    let write = |(name, text): (String, String)| {
        let path = folder.path().join(name.replace("@.", "@production."));
        fs::write(folder.path().join(name), &text).unwrap();
        fs::write(&path, text.replace("ExecStart=mlvault ", &format!("ExecStart={} ", env!("CARGO_BIN_EXE_mlvault"))))
            .unwrap();
        path
    };
    let paths = deployed("systemd").into_iter().map(write).collect();
    (folder, paths)
}

/// Returns the values of a key in a unit.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

/// Returns those units that run mlvault.
fn services() -> Vec<(String, String)> {
    deployed("systemd").into_iter().filter(|(_, text)| text.contains("ExecStart=mlvault ")).collect()
}

#[test]
fn systemd_understands_every_unit() {
    let (_folder, paths) = instances();
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&paths).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
    let timers = paths.iter().filter(|path| path.extension().is_some_and(|it| it == "timer"));
    for timer in timers {
        assert!(timer.with_extension("service").exists(), "{timer:?}");
        let text = fs::read_to_string(timer).unwrap();
        assert!(text.contains("Persistent=true") && text.contains("RandomizedDelaySec="), "{timer:?}");
    }
}

#[test]
fn services_may_do_little() {
    let (_folder, paths) = instances();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|it| it == "service")) {
        let mut command = Command::new("systemd-analyze");
        command.args(["security", "--offline=true", "--no-pager", "--threshold", EXPOSURE_MAX]).arg(path);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{path:?}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

/// Returns the exit codes that a job must not try again, as the page of commands has them.
pub fn lasting_exit_codes() -> BTreeSet<String> {
    let page = Page::read("docs/cli.md");
    let codes = rows(page.section("Exit codes"));
    let lasting = codes.iter().filter(|row| row[2].starts_with("no")).map(|row| row[0].trim_matches('`').to_owned());
    let lasting: BTreeSet<String> = lasting.collect();
    assert!(lasting.contains("2") && !lasting.contains("11"), "{lasting:?}");
    lasting
}

#[test]
fn services_try_again_what_may_pass_and_wait_for_mlvault_to_end() {
    let lasting = lasting_exit_codes();
    for (name, text) in services() {
        let stop: u64 = values(&text, "TimeoutStopSec")[0].parse().unwrap();
        assert!(stop > END_MAX, "{name}");
        // The hooks of mlvault still run after the signal, and it ends them by itself.
        assert_eq!(values(&text, "KillMode"), ["mixed"], "{name}");
        assert_eq!(values(&text, "OnFailure"), ["mlvault-failed@%N.service"], "{name}");
        match values(&text, "Restart")[0] {
            "no" => {}
            _ => {
                let prevented = values(&text, "RestartPreventExitStatus")[0].split(' ').map(str::to_owned);
                let prevented: BTreeSet<String> = prevented.collect();
                assert_eq!(prevented, lasting, "{name}");
            }
        }
    }
}

#[test]
fn units_and_cron_call_commands_that_there_are() {
    let cron = deployed("cron").pop().unwrap().1;
    let of_cron = cron.lines().filter_map(|line| line.split(" mlvault mlvault ").nth(1).map(str::to_owned));
    let of_units = services().into_iter().map(|(_, text)| values(&text, "ExecStart")[0].replace("mlvault ", ""));
    let calls: Vec<String> = of_cron.chain(of_units).collect();
    assert!(calls.len() > 6, "{calls:?}");
    assert_commands_exist(&calls);
}

/// Fails unless mlvault has the commands, and the options that they are called with.
pub fn assert_commands_exist(calls: &[String]) {
    let helps = help::all();
    for call in calls {
        let mut words = call.split(' ');
        let name = words.next().unwrap();
        let help = helps.iter().find(|help| help.name == name).unwrap_or_else(|| panic!("no command: {call}"));
        let options = help.options();
        for option in words.take_while(|word| !word.starts_with('>')).filter(|word| word.starts_with("--")) {
            assert!(options.contains_key(option), "{call}: {option}");
        }
    }
}

#[test]
fn a_line_of_cron_says_something_if_and_only_if_something_is_wrong() {
    let runner = Runner::with_repository();
    runner.write("file", "content");
    let cron = deployed("cron").pop().unwrap().1;
    let line = cron.lines().find(|line| line.contains("mlvault mlvault check")).unwrap();
    let key = runner.path("key").display().to_string();
    let line = line.split(" mlvault mlvault ").nth(1).unwrap().replace("/etc/mlvault/auditor-key", &key);
    let run = |line: &str| finish(&mut runner.shell(line));
    let good = run(&format!("$MLVAULT {line}"));
    assert_eq!((good.text().as_str(), good.stderr.as_str()), ("", ""));
    let bad = finish(runner.shell(&format!("$MLVAULT {line}")).env("MLVAULT_REPO", "/none"));
    assert!(bad.text().contains("exit code 10") && bad.stderr.contains("No repository"), "{bad:?}");
    let gone = run(&format!("/none/mlvault {line}"));
    assert!(gone.text().contains("exit code 127") && !gone.stderr.is_empty(), "{gone:?}");
}
