//! The logs of containers, served as a kubelet serves them: the API server asks for them over HTTPS, and may follow.
//!
//! What must stay true: a log that is followed ends with its container. An option that is not known here is refused, so that no
//! test believes that it was heeded.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use rustls::{ServerConnection, StreamOwned};

use crate::support::smtp_server::tls;

/// How often is looked for more of a log that is followed.
const FOLLOW_TICK: Duration = Duration::from_millis(50);

/// Where the log of a container is, and whether it is complete.
#[derive(Debug, Clone)]
struct Log {
    path: PathBuf,
    is_complete: Arc<AtomicBool>,
}

/// The logs of all containers: by namespace, pod and container.
#[derive(Debug, Default)]
pub struct Logs(Mutex<HashMap<(String, String, String), Log>>);

impl Logs {
    /// Notes that a container starts, and writes into a file. Whoever follows its last start sees the end of that.
    pub fn begin(&self, pod: &Pod, container: &str, path: &Path) {
        let key = (pod.namespace().unwrap(), pod.name_any(), container.to_owned());
        let log = Log { path: path.to_owned(), is_complete: Arc::default() };
        if let Some(earlier) = self.0.lock().unwrap().insert(key, log) {
            earlier.is_complete.store(true, Ordering::SeqCst);
        }
    }

    /// Notes that a container writes no more.
    pub fn complete(&self, pod: &Pod, container: &str) {
        if let Some(log) = self.find(&(pod.namespace().unwrap(), pod.name_any(), container.to_owned())) {
            log.is_complete.store(true, Ordering::SeqCst);
        }
    }

    fn find(&self, key: &(String, String, String)) -> Option<Log> {
        self.0.lock().unwrap().get(key).cloned()
    }
}

/// What is asked of a log.
#[derive(Debug, Default)]
struct Options {
    is_followed: bool,
    lines_max: Option<usize>,
}

/// Serves the logs for as long as the process runs, and returns the port.
pub fn serve(logs: Arc<Logs>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let tls = tls();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (logs, connection) = (Arc::clone(&logs), ServerConnection::new(Arc::clone(&tls)).unwrap());
            thread::spawn(move || answer(&mut BufReader::new(StreamOwned::new(connection, stream)), &logs));
        }
    });
    port
}

/// Answers one request. Whoever does not listen any more ends it.
fn answer<S: Read + Write>(stream: &mut BufReader<S>, logs: &Logs) -> std::io::Result<()> {
    let mut request = String::new();
    stream.read_line(&mut request)?;
    let mut header = String::new();
    while stream.read_line(&mut header)? > 2 {
        header.clear();
    }
    let stream = stream.get_mut();
    match asked(&request, logs) {
        Ok((log, options)) => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n")?;
            copy(&log, &options, stream)
        }
        Err(why) => {
            write!(
                stream,
                "HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{why}",
                why.len()
            )?;
            stream.flush()
        }
    }
}

/// Reads a request such as `GET /containerLogs/NAMESPACE/POD/CONTAINER?follow=true HTTP/1.1`.
fn asked(request: &str, logs: &Logs) -> Result<(Log, Options), String> {
    let target = request.split(' ').nth(1).unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parts: Vec<&str> = path.split('/').collect();
    let ["", "containerLogs", namespace, pod, container] = parts[..] else {
        return Err(format!("this stand-in for a kubelet does not serve {path}"));
    };
    let key = (namespace.to_owned(), pod.to_owned(), container.to_owned());
    let log = logs.find(&key).ok_or_else(|| format!("container {container} of {pod} has not started"))?;
    let mut options = Options::default();
    for (name, value) in query.split('&').filter_map(|option| option.split_once('=')) {
        match name {
            "follow" => options.is_followed = value == "true",
            "tailLines" => options.lines_max = value.parse().ok(),
            _ if matches!(value, "false" | "") => {}
            _ => return Err(format!("this stand-in for a kubelet does not know {name}")),
        }
    }
    Ok((log, options))
}

fn copy(log: &Log, options: &Options, to: &mut impl Write) -> std::io::Result<()> {
    let mut file = File::open(&log.path)?;
    let mut is_complete = !options.is_followed;
    let mut lines_max = options.lines_max;
    loop {
        // Asked before reading: what was written until then is read.
        let is_last = is_complete;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        to.write_all(lines_max.take().map_or(&bytes[..], |count| last_lines(&bytes, count)))?;
        to.flush()?;
        if is_last {
            return Ok(());
        }
        sleep(FOLLOW_TICK);
        is_complete = log.is_complete.load(Ordering::SeqCst);
    }
}

fn last_lines(text: &[u8], count: usize) -> &[u8] {
    let ended = text.strip_suffix(b"\n").unwrap_or(text);
    let mut starts = ended.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    match count {
        0 => &[],
        _ => starts.nth(count - 1).map_or(text, |start| &text[start..]),
    }
}
