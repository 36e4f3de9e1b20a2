//! A child process whose output is read, and that is ended once somebody asks to stop.
//!
//! What must stay true: after a wish to stop, nobody who reads the output is held up by the child, nor by what it started:
//! all of them form a process group, and end together.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};

use crate::cancel::Cancel;
use crate::sync::lock;

/// How often the flag is looked at.
const CANCEL_LOOK: Duration = Duration::from_millis(50);
/// How long a child that was asked to end may take before it is killed.
const END_MAX: Duration = Duration::from_secs(2);

/// A running child process.
pub struct WatchedChild {
    child: Child,
    reach: Arc<Mutex<Reach>>,
    cancel: Cancel,
    has_ended: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
}

/// Whom a signal reaches.
#[derive(Debug, Clone, Copy)]
enum Reach {
    /// The child and what it started, also after its own end.
    Group(Pid),
    /// The child alone.
    Process(Pid),
    /// Nobody: the child has been waited for, and its id may be another's.
    Nobody,
}

impl WatchedChild {
    /// Starts a child, and returns it with its output and its errors.
    pub fn start(command: &mut Command, cancel: &Cancel) -> io::Result<(Self, ChildStdout, ChildStderr)> {
        command.stdin(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let (mut child, output) = Self::watch(command, cancel, Reach::Group)?;
        let errors = child.child.stderr.take().ok_or_else(no_pipes)?;
        Ok((child, output, errors))
    }

    /// Starts a child that may ask whoever sits at the terminal, and returns it with its output.
    pub fn start_asking(command: &mut Command, cancel: &Cancel) -> io::Result<(Self, ChildStdout)> {
        command.stdin(Stdio::inherit()).stderr(Stdio::inherit());
        // A group of its own would be in the background of the terminal, and stopped once it asks.
        if File::open("/dev/tty").is_ok() {
            return Self::watch(command, cancel, Reach::Process);
        }
        Self::watch(command.process_group(0), cancel, Reach::Group)
    }

    fn watch(command: &mut Command, cancel: &Cancel, reach: fn(Pid) -> Reach) -> io::Result<(Self, ChildStdout)> {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().ok_or_else(no_pipes)?;
        let reach = Arc::new(Mutex::new(reach(Pid::from_child(&child))));
        let has_ended = Arc::new(AtomicBool::new(false));
        let watcher = watch(Arc::clone(&reach), Arc::clone(&has_ended), cancel.clone());
        Ok((Self { child, reach, cancel: cancel.clone(), has_ended, watcher: Some(watcher) }, output))
    }

    /// Waits for the child, which has closed its output or is killed.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        // Its id, and so that of its group, stays its own until it is waited for below.
        let ended = waitid(WaitId::Pid(Pid::from_child(&self.child)), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        if self.cancel.is_raised() {
            signal(&self.reach, Signal::KILL);
        }
        *lock(&self.reach) = Reach::Nobody;
        let status = ended.map_err(io::Error::from).and_then(|_| self.child.wait());
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
            signal(&self.reach, Signal::KILL);
            let _ = self.wait();
        }
    }
}

/// Ends the child once the flag is raised.
fn watch(reach: Arc<Mutex<Reach>>, has_ended: Arc<AtomicBool>, cancel: Cancel) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut was_asked = false;
        while !has_ended.load(Ordering::Relaxed) {
            let raised = cancel.raised_for();
            if raised.is_some_and(|time| time > END_MAX) {
                return signal(&reach, Signal::KILL);
            }
            if raised.is_some() && !std::mem::replace(&mut was_asked, true) {
                signal(&reach, Signal::TERM);
            }
            thread::sleep(CANCEL_LOOK);
        }
    })
}

fn signal(reach: &Mutex<Reach>, signal: Signal) {
    // Held while it is sent, so that nobody waits for the child in between.
    let _ = match *lock(reach) {
        Reach::Group(leader) => kill_process_group(leader, signal),
        Reach::Process(child) => kill_process(child, signal),
        Reach::Nobody => Ok(()),
    };
}

fn no_pipes() -> io::Error {
    io::Error::other("a child process has no pipes")
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_child_and_what_it_started_end_once_somebody_asks_to_stop() {
        for line in
            ["sleep 100; true", "trap '' TERM; sleep 100; true", "sh -c \"trap '' TERM; sleep 100; true\"; true"]
        {
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
