//! A container as a local process: bubblewrap gives it its own root, mounts, processes and user.
//!
//! What must stay true: the process is the first of its process namespace, as in a container: signals that it does not handle
//! do not end it, and with it all it started ends. The root has what an image has ([`image`]) and can be written where a
//! container may write, but for `/usr`, which is the host's. Its user is root's or the tester's outside, whatever it is inside.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::super::process;
use super::image;

/// A mount of a container.
#[derive(Debug, Clone)]
pub struct Mount {
    pub from: PathBuf,
    pub to: String,
    pub is_read_only: bool,
}

/// What a container is run with.
#[derive(Debug)]
pub struct Sandbox {
    /// Where the node keeps files of this container.
    pub directory: PathBuf,
    pub log: PathBuf,
    pub hostname: String,
    /// The names of Services, as `/etc/hosts` has them.
    pub hosts: String,
    pub user: i64,
    pub group: i64,
    pub is_root_read_only: bool,
    pub mounts: Vec<Mount>,
    pub environment: Vec<(String, String)>,
    pub working_directory: String,
    pub command: Vec<String>,
}

/// A container's process.
pub struct Process {
    child: Child,
    /// Where bubblewrap writes which process is the container's first.
    info: PathBuf,
    /// When it was asked to end.
    asked: Option<Instant>,
}

impl Sandbox {
    pub fn start(&self) -> std::io::Result<Process> {
        fs::create_dir_all(&self.directory)?;
        let info = self.directory.join("info");
        let _ = fs::remove_file(&info);
        let mut command = Command::new("sh");
        command.args(["-c", "exec 3>\"$0\"; exec \"$@\""]).arg(&info).args(["bwrap", "--info-fd", "3"]);
        self.isolate(&mut command);
        self.mount(&mut command)?;
        command.args(["--clearenv", "--setenv", "PATH", &image::path(), "--setenv", "HOME", "/tmp"]);
        command.args(["--setenv", "HOSTNAME", &self.hostname, "--chdir", &self.working_directory]);
        for (name, value) in &self.environment {
            command.args(["--setenv", name, value]);
        }
        command.arg("--").args(&self.command);
        Ok(Process { child: process::start(&command, &self.log)?, info, asked: None })
    }

    fn isolate(&self, command: &mut Command) {
        command.args(["--die-with-parent", "--unshare-user", "--unshare-pid", "--as-pid-1", "--unshare-ipc"]);
        command.args(["--unshare-uts", "--hostname", &self.hostname, "--cap-drop", "ALL", "--new-session"]);
        command.args(["--uid", &self.user.to_string(), "--gid", &self.group.to_string()]);
    }

    fn mount(&self, command: &mut Command) -> std::io::Result<()> {
        command.args(["--tmpfs", "/", "--proc", "/proc", "--dev", "/dev"]);
        command.args(["--dir", "/root", "--dir", "/run", "--dir", "/var/tmp", "--perms", "1777", "--dir", "/tmp"]);
        for (link, to) in [("/bin", "usr/bin"), ("/sbin", "usr/sbin"), ("/lib", "usr/lib"), ("/lib64", "usr/lib64")] {
            command.args(["--symlink", to, link]);
        }
        command.args(["--symlink", "/run", "/var/run"]);
        for (from, to) in image::mounts() {
            command.arg("--ro-bind").arg(from).arg(to);
        }
        for (name, content) in [("hosts", &self.hosts), ("passwd", &image::passwd())] {
            let from = self.directory.join(name);
            fs::write(&from, content)?;
            command.arg("--ro-bind").arg(from).arg(Path::new("/etc").join(name));
        }
        for Mount { from, to, is_read_only } in &self.mounts {
            let bind = if *is_read_only { "--ro-bind" } else { "--bind" };
            // Through the link of /var/run nothing is mounted.
            let to = to.strip_prefix("/var/run/").map_or_else(|| to.clone(), |rest| format!("/run/{rest}"));
            command.arg(bind).arg(from).arg(to);
        }
        if self.is_root_read_only {
            command.args(["--remount-ro", "/"]);
        }
        Ok(())
    }
}

impl Process {
    /// Returns the exit code, as a runtime of containers tells it, once the process has ended.
    pub fn ended(&mut self) -> Option<i32> {
        let status = self.child.try_wait().unwrap()?;
        Some(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()))
    }

    /// Asks the process to end, or kills it if it was asked and its time is over. To be called again until it has ended.
    pub fn end(&mut self, grace: Duration) {
        let first = self.first_process();
        let Some(asked) = self.asked else {
            self.asked = Some(Instant::now());
            first.map(|pid| kill_process(pid, Signal::TERM));
            return;
        };
        if asked.elapsed() >= grace {
            let _ = first.map(|pid| kill_process(pid, Signal::KILL));
            // What has not come so far is ended, too.
            let _ = first.is_none().then(|| self.child.kill());
        }
    }

    fn first_process(&self) -> Option<Pid> {
        let told: serde_json::Value = serde_json::from_slice(&fs::read(&self.info).ok()?).ok()?;
        Pid::from_raw(i32::try_from(told["child-pid"].as_i64()?).ok()?)
    }
}
