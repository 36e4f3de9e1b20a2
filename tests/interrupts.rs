//! A signal ends every command in time, whatever it waits for, and leaves behind what the next command needs.
//!
//! Method: a proxy before a real S3 server lets everything pass up to the request that a phase is about, and from then on
//! says nothing more. Then the signal is sent, and the time until the end is measured. Where the server answers again
//! soon after, what was uploaded must be indexed, and no session may be open.

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mlvault::backend::Backend;
use mlvault::crypto::passphrase::{Credential, KeyFile};
use mlvault::format::BlobKind;
use mlvault::repository::memory_plan::MEMORY_LIMIT_DEFAULT;
use mlvault::repository::session::stored_packs;
use mlvault::repository::{OpenOptions, Repository, session};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::cli::{Outcome, Runner, noise};
use crate::support::fault_server::{Answer, FaultServer, Request};
use crate::support::recording_proxy::RecordingProxy;
use crate::support::s3_server::{ACCESS_KEY_ID, BUCKET, Program, S3Server, SECRET_ACCESS_KEY};

/// Within which every command ends after a signal.
const END_MAX: Duration = Duration::from_secs(20);
/// How long a command may take to come to the phase on a loaded machine.
const REACH_MAX: Duration = Duration::from_secs(180);
/// How long the server says nothing: for longer than any test lasts.
const SILENCE: Duration = Duration::from_secs(90);
/// When the server answers again after the signal, where it does.
const RECOVERY: Duration = Duration::from_secs(6);
/// What is left to back up, where nothing of it is uploaded.
const SMALL_BYTES: usize = 1 << 20;
/// The same where something is: enough for a few packs of a process with little memory.
const LARGE_BYTES: usize = 72 << 20;

/// Which request a phase is about.
type Begins = fn(&Request) -> bool;

/// A phase of a command: its name, the command's arguments, and the request from which on the server is silent.
type Phase = (&'static str, &'static [&'static str], Begins);

const PHASES: [Phase; 11] = [
    ("open", &["snapshots"], |_| true),
    ("list", &["snapshots"], |it| lists(it, "snapshots")),
    ("index", &["backup", ".", "--cache-dir", "../fresh"], |it| it.method == "GET" && it.target.contains("/index/")),
    ("session", &["backup", "."], |it| writes(it, "/sessions/")),
    ("restore", &["restore", "--snapshot", "latest", "--target", "../restored"], |it| reads(it, "/packs/data/")),
    ("cat", &["cat", "latest", "file"], |it| reads(it, "/packs/data/")),
    ("check", &["check", "--read-data"], |it| reads(it, "/packs/data/")),
    ("prune", &["prune", "--wait", "1s"], |it| lists(it, "tombstones")),
    ("forget", &["forget", "latest", "--force"], |it| writes(it, "/forgotten/")),
    ("copy", &["copy", "--all", "--to", "../repo", "--to-key-file", "../key"], |it| reads(it, "/packs/data/")),
    ("bucket", &["backup", "s3://vault/listed"], |it| lists(it, "prefix=listed")),
];

/// Phases after which there is something to tidy up, once the server answers again.
const WRITING: [Phase; 3] = [
    ("uploads", &["backup", "."], |it| writes(it, "/packs/data/") && SECOND.swap(true, Ordering::Relaxed)),
    ("commit", &["backup", "."], |it| writes(it, "/snapshots/")),
    ("reading", &["backup", "s3://vault/source"], |it| reads(it, "/source/large")),
];

/// The first pack was uploaded.
static SECOND: AtomicBool = AtomicBool::new(false);

fn is_writing(phase: &str) -> bool {
    WRITING.iter().any(|(name, ..)| *name == phase)
}

fn reads(request: &Request, part: &str) -> bool {
    request.method == "GET" && request.target.contains(part)
}

fn writes(request: &Request, part: &str) -> bool {
    request.method == "PUT" && request.target.contains(part)
}

fn lists(request: &Request, prefix: &str) -> bool {
    request.target.contains("list-type=2") && request.target.contains(prefix)
}

/// Whether the server is silent.
#[derive(Default)]
struct Silence {
    has_begun: AtomicBool,
    is_over: AtomicBool,
}

/// A repository in a part of a bucket, behind a proxy that falls silent.
struct Scene {
    runner: Runner,
    proxy: RecordingProxy,
    prefix: String,
    silence: Arc<Silence>,
}

impl Scene {
    /// Makes a repository with a snapshot; then more is there to back up.
    fn set(server: &S3Server, phase: &str, begins: Begins) -> Self {
        let runner = Runner::without_repository();
        let silence = Arc::new(Silence::default());
        let direct = RecordingProxy::start(server);
        let shared = Arc::clone(&silence);
        let proxy = RecordingProxy::start_with(server, move |request| {
            let is_silent = shared.has_begun.load(Ordering::Relaxed) || begins(request);
            shared.has_begun.store(is_silent, Ordering::Relaxed);
            (is_silent && !shared.is_over.load(Ordering::Relaxed)).then_some(Answer::Silent(SILENCE))
        });
        let mut scene = Self { runner, proxy: direct, prefix: phase.to_owned(), silence };
        scene.runner.run(["init"]).expect(0);
        scene.run(&["init"]).expect(0);
        scene.runner.write("file", noise(1, 100_000));
        scene.run(&["backup", "."]).expect(0);
        scene.runner.write("large", noise(2, if is_writing(phase) { LARGE_BYTES } else { SMALL_BYTES }));
        scene.runner.settle();
        scene.proxy = proxy;
        scene
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.runner.command(arguments);
        command.env("MLVAULT_REPO", format!("s3://{BUCKET}/{}", self.prefix));
        command.env("MLVAULT_S3_ENDPOINT", self.proxy.options().endpoint.unwrap());
        command.env("MLVAULT_S3_ACCESS_KEY_ID", ACCESS_KEY_ID).env("MLVAULT_S3_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY);
        command.env("MLVAULT_MEMORY_LIMIT", "320M");
        command
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        crate::support::cli::finish(&mut self.command(arguments))
    }

    /// Runs a command up to its phase, and interrupts it there.
    fn interrupt(&self, arguments: &[&str]) {
        let is_reached = || self.silence.has_begun.load(Ordering::Relaxed);
        interrupt(&self.prefix, self.command(arguments), is_reached, || {
            if is_writing(&self.prefix) {
                thread::sleep(RECOVERY);
                self.silence.is_over.store(true, Ordering::Relaxed);
            }
        });
    }

    /// Fails unless every pack is named by a segment, and every session has ended.
    fn assert_tidy(&self, server: &S3Server) {
        let key = fs::read_to_string(self.runner.path("key")).unwrap();
        let clock = Arc::new(mlvault::clock::SystemClock);
        let options = OpenOptions { memory_limit: MEMORY_LIMIT_DEFAULT, clock, ..OpenOptions::default() };
        let backend: Arc<dyn Backend> = Arc::new(server.backend(&self.prefix));
        let credential = Credential::KeyFile(KeyFile::decode(&key).unwrap().secret);
        let repository = Repository::open(backend, &credential, &options).unwrap();
        let begun = repository.backend().list("sessions/").unwrap();
        let begun: Vec<_> =
            begun.iter().map(|object| object.key.trim_start_matches("sessions/").parse().unwrap()).collect();
        let ended = session::ended(&repository, &begun).unwrap();
        for id in begun {
            assert!(ended.contains(&id), "{}: the session {id} is open", self.prefix);
        }
        for kind in BlobKind::ALL {
            let indexed = repository.index().packs(kind).unwrap();
            let stored = stored_packs(&repository, kind).unwrap();
            let unnamed = stored.keys().filter(|id| !indexed.iter().any(|pack| pack.id == **id)).count();
            assert_eq!(unnamed, 0, "{}: of {} packs", self.prefix, stored.len());
            assert!(kind != BlobKind::Data || self.prefix != "uploads" || indexed.len() >= 2, "nothing was indexed");
        }
    }
}

/// Starts a command, sends it a signal in its middle, and fails unless it ends in time with the code for that.
fn interrupt(name: &str, mut command: Command, is_reached: impl Fn() -> bool, afterwards: impl FnOnce() + Send) {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut child, begun) = (child, Instant::now());
    while !is_reached() {
        if child.try_wait().unwrap().is_some() || begun.elapsed() > REACH_MAX {
            let _ = child.kill();
            panic!("{name}: it did not come to its middle: {:?}", child.wait_with_output());
        }
        thread::sleep(Duration::from_millis(5));
    }
    thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let (output, took) = thread::scope(|scope| {
        scope.spawn(afterwards);
        let output = child.wait_with_output().unwrap();
        (output, begun.elapsed())
    });
    assert!(took < END_MAX, "{name}: it took {took:?}");
    if name == "commit" && output.status.success() {
        // The server answered in time, and the snapshot is there.
        return;
    }
    assert_eq!(output.status.code(), Some(130), "{name}: {output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("nterrupted"), "{name}: {output:?}");
}

#[test]
fn a_signal_ends_every_phase_in_time_while_s3_says_nothing() {
    let server = S3Server::start(Program::Moto);
    let bucket = server.bucket();
    let put = |key: &str, len| bucket.put(key, &noise(5, len).into(), &Default::default(), false).unwrap();
    put("listed/file", 10);
    (0..3).for_each(|number| put(&format!("source/a{number}"), 8 << 20));
    put("source/large", 40 << 20);
    thread::scope(|scope| {
        for (name, arguments, begins) in PHASES.into_iter().chain(WRITING) {
            let server = &server;
            scope.spawn(move || {
                let scene = Scene::set(server, name, begins);
                scene.interrupt(arguments);
                if is_writing(name) {
                    scene.assert_tidy(server);
                }
            });
        }
    });
}

/// Fails unless a prune that waits for nobody finds no session open in the local repository.
fn assert_no_session_is_open(runner: &Runner, name: &str) {
    let pruned = runner.run(["--json", "prune", "--wait", "1s"]).expect(0).json();
    assert_eq!(pruned["report"]["sessions_open"], 0, "{name}: {pruned:#}");
}

#[test]
fn a_signal_ends_a_backup_in_time_while_a_database_a_server_or_a_command_says_nothing() {
    let has_connection = Arc::new(AtomicBool::new(false));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let accepted = Arc::clone(&has_connection);
    // A database that takes connections and says nothing; it ends with the test's process.
    thread::spawn(move || {
        let streams: Vec<_> = listener.incoming().inspect(|_| accepted.store(true, Ordering::Relaxed)).collect();
        drop(streams);
    });
    let tracking = FaultServer::start(|_, _| Answer::Silent(SILENCE));
    let database = format!("postgresql://owner@127.0.0.1:{port}/mlflow");
    let uri = format!("http://127.0.0.1:{}", tracking.port());
    let of_database = ["backup", "--deployment", "d", "--backend-store-uri", &database, "--artifacts", "s3://x=."];
    let of_server = ["backup", "--deployment", "d", "--tracking-uri", &uri];
    thread::scope(|scope| {
        scope.spawn(|| in_middle("database", &of_database, |_| has_connection.load(Ordering::Relaxed)));
        scope.spawn(|| in_middle("server", &of_server, |_| tracking.requests() > 0));
        let command = ["backup", "--command", "touch ../begun; echo x; sleep 100", "--name", "x"];
        scope.spawn(move || in_middle("command", &command, |runner| runner.path("begun").exists()));
        scope.spawn(in_middle_of_standard_input);
    });
}

/// Interrupts a backup into a local repository, and fails if it leaves a session open.
fn in_middle(name: &str, arguments: &[&str], is_reached: impl Fn(&Runner) -> bool) {
    let runner = Runner::with_repository();
    interrupt(name, runner.command(arguments), || is_reached(&runner), || {});
    assert_no_session_is_open(&runner, name);
}

/// Interrupts a backup of a standard input that somebody holds open and writes nothing to.
fn in_middle_of_standard_input() {
    let runner = Runner::with_repository();
    let (input, _held_open) = std::io::pipe().unwrap();
    let mut command = runner.command(["backup", "--stdin", "--name", "x"]);
    let has_begun = || fs::read_dir(runner.path("repo").join("sessions")).is_ok_and(|mut found| found.next().is_some());
    command.stdin(input);
    let begun = Instant::now();
    interrupt("standard input", command, has_begun, || {});
    // Sooner than the watch of the session ends it, and the process.
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_no_session_is_open(&runner, "standard input");
}

#[test]
fn a_second_signal_ends_a_command_at_once() {
    let runner = Runner::with_repository();
    let mut command = runner.command(["backup", "--command", "touch ../begun; sleep 100", "--name", "x"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !runner.path("begun").exists() {
        thread::sleep(Duration::from_millis(10));
    }
    let begun = Instant::now();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    thread::sleep(Duration::from_millis(200));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}
