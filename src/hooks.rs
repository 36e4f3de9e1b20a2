//! Commands of the user that run before and after a command of mlvault.
//!
//! What must stay true:
//! - A hook ends: after its time, and in time after a signal, with all that it has started.
//! - It learns what happened, and no secret: the summary on standard input, some variables, and the environment that
//!   [`crate::child_environment`] leaves.
//! - Whether it fails is told and decides nothing here.

use std::fs::File;
use std::io::{self, BufReader, Seek, Write};
use std::process::ExitStatus;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::cancel::Cancel;
use crate::child::WatchedChild;
use crate::child_environment;
use crate::last_lines::last_lines_of;
use crate::monitor::Monitor;
use crate::run_summary::{HookOutcome, RunSummary, Watched};
use crate::units::format_duration;

/// How long a hook may take where nothing else is said.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(600);

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before the command has done anything.
    Before,
    /// After it has finished, complete or not.
    After,
    /// After it has failed or was interrupted.
    Failed,
}

impl When {
    /// Returns its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
            Self::Failed => "failed",
        }
    }
}

/// The hooks of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hooks {
    /// The command line of each.
    pub before: Option<String>,
    /// After success, or an incomplete result.
    pub after: Option<String>,
    /// After all else.
    pub failed: Option<String>,
    /// For which commands.
    pub on: Vec<Watched>,
    /// How long each may take.
    pub timeout: Duration,
}

impl Hooks {
    /// Returns the command line for a moment.
    pub fn line(&self, when: When) -> Option<&str> {
        let line = match when {
            When::Before => &self.before,
            When::After => &self.after,
            When::Failed => &self.failed,
        };
        line.as_deref()
    }
}

/// Runs a hook to its end, or until `patience` ends. What it prints is noted.
pub fn run(when: When, line: &str, summary: &RunSummary, monitor: &dyn Monitor, patience: &Cancel) -> HookOutcome {
    let begun = Instant::now();
    let ended = execute(when, line, summary, monitor, patience);
    let seconds = begun.elapsed().as_secs_f64();
    let error = match &ended {
        Err(error) => Some(format!("it cannot be run: {error}")),
        Ok((status, _)) if status.success() => None,
        Ok(_) if patience.is_raised() => Some(format!("it was ended after {}", format_duration(seconds))),
        Ok((status, last)) if last.is_empty() => Some(status.to_string()),
        Ok((status, last)) => Some(format!("{status}: {last}")),
    };
    let exit_code = ended.ok().and_then(|(status, _)| status.code());
    HookOutcome { hook: when.name(), ok: error.is_none(), exit_code, seconds, error }
}

/// Returns how the command ended, and the last line that it printed.
fn execute(
    when: When,
    line: &str,
    summary: &RunSummary,
    monitor: &dyn Monitor,
    patience: &Cancel,
) -> io::Result<(ExitStatus, String)> {
    let mut command = child_environment::shell(line);
    command.env("MLVAULT_HOOK", when.name());
    for (name, value) in variables(summary) {
        command.env(name, value);
    }
    let (mut child, output, errors) = WatchedChild::start_told(&mut command, told(summary)?, patience)?;
    let note = |said: &str| monitor.note(&format!("Hook {}: {said}", when.name()));
    let last = thread::scope(|scope| {
        let printed = scope.spawn(|| last_lines_of(BufReader::new(output), note));
        let last = last_lines_of(BufReader::new(errors), note).pop_back();
        let printed = printed.join().ok().and_then(|mut lines| lines.pop_back());
        last.or(printed).unwrap_or_default()
    });
    Ok((child.wait()?, last))
}

fn variables(summary: &RunSummary) -> Vec<(&'static str, String)> {
    let text = |value: serde_json::Result<serde_json::Value>| match value {
        Ok(serde_json::Value::String(text)) => text,
        Ok(serde_json::Value::Null) | Err(_) => String::new(),
        Ok(other) => other.to_string(),
    };
    vec![
        ("MLVAULT_HOOK_COMMAND", text(serde_json::to_value(summary.command))),
        ("MLVAULT_HOOK_DEPLOYMENT", summary.deployment.clone().unwrap_or_default()),
        ("MLVAULT_HOOK_VERDICT", text(serde_json::to_value(summary.verdict))),
        ("MLVAULT_HOOK_EXIT_CODE", text(serde_json::to_value(summary.exit_code))),
        ("MLVAULT_HOOK_SNAPSHOT", text(Ok(summary.snapshot.clone()))),
    ]
}

/// Returns the summary as a file in memory. A pipe would hold up whoever writes, if the hook does not read.
fn told(summary: &RunSummary) -> io::Result<File> {
    let mut file = File::from(memfd_create("mlvault-summary", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(summary)?)?;
    file.write_all(b"\n")?;
    file.rewind()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::monitor::Silent;
    use crate::run_summary::Event;

    fn run_line(line: &str, patience: &Cancel) -> HookOutcome {
        let mut summary = RunSummary::begun(Event::Start, Some(Watched::Backup), Timestamp::UNIX_EPOCH);
        summary.deployment = Some("production".to_owned());
        run(When::Before, line, &summary, &Silent, patience)
    }

    #[test]
    fn a_hook_is_told_of_the_run_and_its_end_is_told() {
        let patience = Cancel::default();
        let line = "test $MLVAULT_HOOK-$MLVAULT_HOOK_COMMAND-$MLVAULT_HOOK_DEPLOYMENT = before-backup-production && \
                    grep -q '\"event\":\"start\"'";
        let good = run_line(line, &patience);
        assert!(good.ok && good.exit_code == Some(0) && good.error.is_none(), "{good:?}");
        let bad = run_line("echo one; echo 'no lock' >&2; exit 7", &patience);
        assert_eq!((bad.ok, bad.exit_code), (false, Some(7)));
        assert!(bad.error.unwrap().ends_with(": no lock"));
    }

    #[test]
    fn a_hook_that_goes_on_is_ended_with_what_it_started() {
        for line in ["sleep 100", "sh -c \"trap '' TERM; sleep 100\" & wait", "trap '' TERM; sleep 100; true"] {
            let begun = Instant::now();
            let patience = Cancel::default().until(begun + Duration::from_millis(200));
            let outcome = run_line(line, &patience);
            assert!(!outcome.ok && outcome.error.unwrap().contains("it was ended after"), "{line}");
            assert!(begun.elapsed() < Duration::from_secs(30), "{line}");
        }
    }
}
