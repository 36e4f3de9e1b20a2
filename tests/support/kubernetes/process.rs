//! Processes that end with the process of the tests, however that ends.
//!
//! What must stay true: the kernel ends such a process when the *thread* that started it ends. So one thread starts all of
//! them, and it never ends. They write into files: a pipe of ours that one of them held would keep us waiting.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{LazyLock, Mutex};
use std::thread;

/// What the starting thread is asked: a command, and where to answer.
type Wish = (Command, Sender<io::Result<Child>>);

static STARTER: LazyLock<Mutex<Sender<Wish>>> = LazyLock::new(|| {
    let (sender, wishes) = channel::<Wish>();
    thread::spawn(move || {
        for (mut command, answer) in wishes {
            let _ = answer.send(command.spawn());
        }
    });
    Mutex::new(sender)
});

/// Starts a program with an empty environment but for what the command sets, without input, and with all output appended to
/// a file.
pub fn start(command: &Command, log: &Path) -> io::Result<Child> {
    let log = File::options().create(true).append(true).open(log)?;
    let mut tied = Command::new("setpriv");
    tied.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args()).env_clear();
    tied.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    tied.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    // Not reached by a Ctrl-C at the terminal: what runs is to see the end of the tests, and nothing before.
    tied.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    if let Some(directory) = command.get_current_dir() {
        tied.current_dir(directory);
    }
    let (answer, child) = channel();
    STARTER.lock().unwrap().send((tied, answer)).unwrap();
    child.recv().unwrap()
}

/// Makes a directory that goes away with the process of the tests, however that ends. What is in a static is never dropped.
pub fn passing_directory(prefix: &str) -> PathBuf {
    let directory = tempfile::Builder::new().prefix(prefix).tempdir().unwrap().keep();
    let mut sweeper = Command::new("sh");
    // Ends its reading when nobody holds the other end, and gives those that used the directory time to be gone.
    sweeper.args(["-c", "read -r _; sleep 1; rm -rf -- \"$0\""]).arg(&directory).process_group(0);
    let sweeper = sweeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // The end that we hold is closed when this process ends.
    std::mem::forget(sweeper);
    directory
}
