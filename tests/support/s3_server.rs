//! Real S3 servers, started on a free loopback port for one test and killed with it.
//!
//! They differ in what a backend has to live with: moto answers as AWS does and checks no signatures;
//! `rclone serve s3` checks signatures and ignores `If-None-Match`; SeaweedFS has real directories, and lists by them.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use mlvault::backend::s3::S3Backend;
use mlvault::s3::{Bucket, Credentials, Patience, S3Options};
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::tool;

/// Name of the bucket that every server begins with.
pub const BUCKET: &str = "vault";
/// The one key that the servers know.
pub const ACCESS_KEY_ID: &str = "TESTKEY";
/// Its secret, which no message may hold.
pub const SECRET_ACCESS_KEY: &str = "not-to-be-seen-in-any-message";

/// How long a server may take to start on a loaded machine.
const START_MAX: Duration = Duration::from_secs(120);
/// Ports that are tried, because another process can take one between choosing and using it.
const START_ATTEMPTS_MAX: usize = 3;

/// Starts moto with one thread. It first looks whether a key is taken and then stores the object, and with its usual
/// threads two creates at a time can both find the key free: it would stand for servers that AWS is not like.
const MOTO_ONE_AT_A_TIME: &str = "import moto.server as moto; run = moto.run_simple; \
     moto.run_simple = lambda *args, **options: run(*args, **{**options, 'threaded': False}); moto.main()";

/// A program that serves S3.
#[derive(Debug, Clone, Copy)]
pub enum Program {
    Moto,
    Rclone,
    SeaweedFs,
    /// With TLS, and a certificate that only [`certificate`] vouches for.
    RcloneWithTls,
}

/// A running server with one empty bucket.
pub struct S3Server {
    program: Program,
    child: Child,
    port: u16,
    directory: TempDir,
}

impl S3Server {
    pub fn start(program: Program) -> Self {
        for _ in 1..START_ATTEMPTS_MAX {
            if let Ok(server) = Self::try_start(program) {
                return server;
            }
        }
        Self::try_start(program).unwrap_or_else(|log| panic!("{program:?} does not start:\n{log}"))
    }

    /// Returns what a client needs to know.
    pub fn options(&self) -> S3Options {
        let mut options = options_for(self.port);
        if let Program::RcloneWithTls = self.program {
            options.endpoint = Some(format!("https://127.0.0.1:{}", self.port));
        }
        options
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the directory whose files are the bucket's objects, of a server that keeps them so.
    pub fn bucket_directory(&self) -> PathBuf {
        assert!(matches!(self.program, Program::Rclone | Program::RcloneWithTls));
        self.directory.path().join("data").join(BUCKET)
    }

    /// Returns a client for the bucket.
    pub fn bucket(&self) -> Bucket {
        Bucket::connect(BUCKET, &self.options(), Patience::default()).unwrap()
    }

    pub fn backend(&self, prefix: &str) -> S3Backend {
        S3Backend::connect(BUCKET, prefix, &self.options(), Patience::default()).unwrap()
    }

    fn try_start(program: Program) -> Result<Self, String> {
        let directory = TempDir::new().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log_path = directory.path().join("log");
        let log = File::create(&log_path).unwrap();
        let mut command = command(program, directory.path(), port);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("Cannot start {command:?}: {error}"));
        let mut server = Self { program, child, port, directory };
        let begun = Instant::now();
        while !make_bucket(program, port) {
            if server.child.try_wait().unwrap().is_some() || begun.elapsed() > START_MAX {
                return Err(std::fs::read_to_string(&log_path).unwrap_or_default());
            }
            sleep(Duration::from_millis(50));
        }
        Ok(server)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns options for a server on a loopback port.
pub fn options_for(port: u16) -> S3Options {
    S3Options {
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        credentials: Some(Credentials {
            access_key_id: ACCESS_KEY_ID.to_owned(),
            secret_access_key: Zeroizing::new(SECRET_ACCESS_KEY.to_owned()),
            session_token: None,
        }),
        ..S3Options::default()
    }
}

fn command(program: Program, directory: &Path, port: u16) -> Command {
    match program {
        Program::Moto => {
            let mut command = Command::new(tool("python"));
            command.args(["-c", MOTO_ONE_AT_A_TIME, "-H", "127.0.0.1", "-p", &port.to_string()]);
            command.current_dir(directory);
            command
        }
        Program::SeaweedFs => seaweedfs(directory, port),
        Program::Rclone | Program::RcloneWithTls => {
            let data = directory.join("data");
            std::fs::create_dir_all(data.join(BUCKET)).unwrap();
            let mut command = Command::new(tool("rclone"));
            command.args(["serve", "s3", "--addr", &format!("127.0.0.1:{port}"), "--config", "/dev/null"]);
            command.args(["--auth-key", &format!("{ACCESS_KEY_ID},{SECRET_ACCESS_KEY}")]).arg(data);
            if let Program::RcloneWithTls = program {
                command.arg("--cert").arg(certificate()).arg("--key").arg(test_file("loopback-key.pem"));
            }
            command
        }
    }
}

/// All of its servers in one process; without identities it takes any signature.
fn seaweedfs(directory: &Path, port: u16) -> Command {
    let mut command = Command::new(tool("weed"));
    command.args(["-logtostderr", "server", "-dir=.", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]);
    command.args([&format!("-s3.port={port}"), "-s3.port.iceberg=0", "-s3.port.lance=0"]);
    let names = ["master.port", "volume.port", "filer.port"];
    let listeners = [(); 7].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let mut free = listeners.iter().map(|listener| listener.local_addr().unwrap().port());
    for name in names {
        command.args([format!("-{name}={}", free.next().unwrap()), format!("-{name}.grpc={}", free.next().unwrap())]);
    }
    command.arg(format!("-s3.port.grpc={}", free.next().unwrap()));
    command.args(["-master.volumeSizeLimitMB=64", "-volume.max=20"]).current_dir(directory);
    command
}

/// Returns the path of the certificate of servers with TLS. It is for 127.0.0.1 and signed by itself.
pub fn certificate() -> PathBuf {
    test_file("loopback-certificate.pem")
}

fn test_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support").join(name)
}

/// Asks for the bucket to be made. Returns whether the server is ready.
///
/// moto makes it; rclone refuses for want of a signature, or of TLS, and has it already. SeaweedFS answers before all of
/// its servers know each other.
fn make_bucket(program: Program, port: u16) -> bool {
    let answer = unsigned_request(port, "PUT", &format!("/{BUCKET}"));
    match program {
        Program::SeaweedFs => answer.starts_with("HTTP/1.1 200") && takes_objects(port),
        _ => answer.starts_with("HTTP/"),
    }
}

fn takes_objects(port: u16) -> bool {
    let target = format!("/{BUCKET}/ready");
    unsigned_request(port, "PUT", &target).starts_with("HTTP/1.1 200")
        && unsigned_request(port, "DELETE", &target).starts_with("HTTP/1.1 204")
}

/// Sends a request without a signature, which is all that moto needs. Returns the answer, empty if there was none.
pub fn unsigned_request(port: u16, method: &str, target: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return String::new() };
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let request =
        format!("{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    let is_answered = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_end(&mut answer)).is_ok();
    if is_answered { String::from_utf8_lossy(&answer).into_owned() } else { String::new() }
}
