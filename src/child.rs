//! A child process whose output is read, and that is ended once somebody asks to stop.
//!
//! What must stay true: after a wish to stop, nobody who reads the output is held up by the child, nor by what it started:
//! all of them form a process group, and end together.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::cancel::Cancel;
use crate::sync::lock;

/// How often the flag is looked at.
const CANCEL_LOOK: Duration = Duration::from_millis(50);
/// How often is looked whether a child whose output has ended has ended, too.
const END_LOOK: Duration = Duration::from_millis(5);
/// How long a child that was asked to end may take before it is killed.
const END_MAX: Duration = Duration::from_secs(2);

/// A running child process.
pub struct WatchedChild {
    child: Arc<Mutex<Child>>,
    has_ended: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
}

impl WatchedChild {
    /// Starts a child, and returns it with its output and its errors.
    pub fn start(command: &mut Command, cancel: &Cancel) -> io::Result<(Self, ChildStdout, ChildStderr)> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn()?;
        let (Some(output), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(io::Error::other("a child process has no pipes"));
        };
        let (child, has_ended) = (Arc::new(Mutex::new(child)), Arc::new(AtomicBool::new(false)));
        let watcher = watch(Arc::clone(&child), Arc::clone(&has_ended), cancel.clone());
        Ok((Self { child, has_ended, watcher: Some(watcher) }, output, errors))
    }

    /// Waits for the child, which has closed its output or is killed.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        // Not the child's own `wait`: it would keep the watcher from the child.
        let status = loop {
            match lock(&self.child).try_wait() {
                Ok(None) => thread::sleep(END_LOOK),
                Ok(Some(status)) => break Ok(status),
                Err(error) => break Err(error),
            }
        };
        self.has_ended.store(true, Ordering::Relaxed);
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
        status
    }
}

impl Drop for WatchedChild {
    /// A child whose output is no longer wanted is ended.
    fn drop(&mut self) {
        if !self.has_ended.load(Ordering::Relaxed) {
            signal(&self.child, Signal::KILL);
            let _ = self.wait();
        }
    }
}

/// Ends the child once the flag is raised.
fn watch(child: Arc<Mutex<Child>>, has_ended: Arc<AtomicBool>, cancel: Cancel) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut was_asked = false;
        while !has_ended.load(Ordering::Relaxed) {
            let raised = cancel.raised_for();
            if raised.is_some_and(|time| time > END_MAX) {
                return signal(&child, Signal::KILL);
            }
            if raised.is_some() && !std::mem::replace(&mut was_asked, true) {
                signal(&child, Signal::TERM);
            }
            thread::sleep(CANCEL_LOOK);
        }
    })
}

/// Signals all processes of the child's group, unless the child has been waited for: its id may be another's then.
fn signal(child: &Mutex<Child>, signal: Signal) {
    let mut child = lock(child);
    if matches!(child.try_wait(), Ok(None)) {
        let _ = kill_process_group(Pid::from_child(&child), signal);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_child_and_what_it_started_end_once_somebody_asks_to_stop() {
        for line in ["sleep 100; true", "trap '' TERM; sleep 100; true"] {
            let (cancel, begun) = (Cancel::default(), Instant::now());
            let (mut child, mut output, _) =
                WatchedChild::start(Command::new("sh").args(["-c", line]), &cancel).unwrap();
            cancel.flag().store(true, Ordering::Relaxed);
            output.read_to_end(&mut Vec::new()).unwrap();
            assert!(!child.wait().unwrap().success());
            assert!(begun.elapsed() < Duration::from_secs(60), "{line}");
        }
    }

    #[test]
    fn a_child_that_is_dropped_ends() {
        let begun = Instant::now();
        drop(WatchedChild::start(Command::new("sleep").arg("100"), &Cancel::default()).unwrap());
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
}
