//! A child process whose output is read, and that is ended once somebody asks to stop; or a server, which goes on until it is
//! told to end.
//!
//! What must stay true: after a wish to stop, nobody who reads the output is held up by the child, nor by what it started:
//! all of them form a process group, and end together. A server does not outlive this process, however that ends.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};

use crate::cancel::Cancel;
use crate::sync::lock;

/// How often the flag is looked at.
const CANCEL_LOOK: Duration = Duration::from_millis(50);
/// How long a child that was asked to end may take before it is killed.
const END_MAX: Duration = Duration::from_secs(2);

/// Runs a program until the standard input ends, which it does with whoever holds its other end. Then all of the process group
/// is asked to end, and is killed if that does not help. The shell itself waits for the program.
const TIED: &str = "trap : TERM; exec 3<&0; \"$@\" </dev/null 3<&- & child=$!; \
    (trap '' TERM; read -r _ <&3; kill -TERM 0; sleep 10; kill -KILL 0) >/dev/null 2>&1 & \
    wait $child; wait $child 2>/dev/null";

/// A running child process.
pub struct WatchedChild {
    child: Child,
    reach: Arc<Mutex<Reach>>,
    cancel: Cancel,
    has_ended: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
    /// What a server lives as long as.
    tie: Option<ChildStdin>,
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
        command.stdin(Stdio::null());
        Self::start_in_group(command, cancel)
    }

    /// As [`WatchedChild::start`], with a file as standard input.
    pub fn start_told(
        command: &mut Command,
        input: File,
        cancel: &Cancel,
    ) -> io::Result<(Self, ChildStdout, ChildStderr)> {
        command.stdin(input);
        Self::start_in_group(command, cancel)
    }

    fn start_in_group(command: &mut Command, cancel: &Cancel) -> io::Result<(Self, ChildStdout, ChildStderr)> {
        command.stderr(Stdio::piped()).process_group(0);
        let (mut child, output) = Self::watch(command, cancel, Reach::Group)?;
        let errors = child.child.stderr.take().ok_or_else(no_pipes)?;
        Ok((child, output, errors))
    }

    /// Starts a server with nothing in its environment but what the command says, and returns it with its output and its errors.
    pub fn start_server(command: &Command, cancel: &Cancel) -> io::Result<(Self, ChildStdout, ChildStderr)> {
        let mut tied = Command::new("sh");
        tied.args(["-c", TIED, "sh"]).arg(command.get_program()).args(command.get_args()).env_clear();
        tied.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(directory) = command.get_current_dir() {
            tied.current_dir(directory);
        }
        tied.stdin(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let (mut child, output) = Self::watch(&mut tied, cancel, Reach::Group)?;
        child.tie = Some(child.child.stdin.take().ok_or_else(no_pipes)?);
        let errors = child.child.stderr.take().ok_or_else(no_pipes)?;
        Ok((child, output, errors))
    }

    /// Returns whether the child has ended by itself.
    pub fn has_exited(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        !matches!(waitid(WaitId::Pid(Pid::from_child(&self.child)), options), Ok(None))
    }

    /// Asks a server to end, waits for it, and kills what is left of its group after that.
    pub fn end(&mut self, patience: Duration) -> io::Result<ExitStatus> {
        drop(self.tie.take());
        let begun = Instant::now();
        while !self.has_exited() && begun.elapsed() < patience {
            thread::sleep(CANCEL_LOOK);
        }
        signal(&self.reach, Signal::KILL);
        self.wait()
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
        let cancel = cancel.clone();
        Ok((Self { child, reach, cancel, has_ended, watcher: Some(watcher), tie: None }, output))
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
    fn a_server_ends_when_it_is_told_and_takes_all_that_it_started_with_it() {
        let script = "sleep 100 & trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done";
        let mut command = Command::new("sh");
        command.args(["-c", script]).env("PATH", std::env::var_os("PATH").unwrap());
        // Its shell says that a child was ended: who has nobody to say it to dies of that.
        let (mut server, mut output, _errors) = WatchedChild::start_server(&command, &Cancel::default()).unwrap();
        let mut up = [0; 3];
        output.read_exact(&mut up).unwrap();
        assert!(!server.has_exited());
        assert!(server.end(Duration::from_secs(30)).is_ok());
        let mut rest = String::new();
        // The pipe is closed only when nobody of the group is left.
        output.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "bye\n");
    }

    #[test]
    fn a_server_that_does_not_listen_is_killed() {
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM; sleep 100"]).env("PATH", std::env::var_os("PATH").unwrap());
        let (mut server, mut output, _) = WatchedChild::start_server(&command, &Cancel::default()).unwrap();
        let begun = Instant::now();
        server.end(Duration::from_millis(300)).unwrap();
        output.read_to_end(&mut Vec::new()).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn a_child_that_is_dropped_ends() {
        let begun = Instant::now();
        drop(WatchedChild::start(Command::new("sleep").arg("100"), &Cancel::default()).unwrap());
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
}
