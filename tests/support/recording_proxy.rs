//! A server in front of a real one: it passes requests on, writes down which they were, and lets a test do something
//! before one of them, or answer in the real server's place.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use mlvault::s3::S3Options;

use crate::support::fault_server::{Answer, FaultServer, Request};
use crate::support::s3_server::{S3Server, options_for};

/// Requests so far: method and target.
type Log = Arc<Mutex<Vec<(String, String)>>>;

/// A proxy that runs until it is dropped.
pub struct RecordingProxy {
    server: FaultServer,
    log: Log,
}

impl RecordingProxy {
    /// Starts a proxy that only writes down.
    pub fn start(server: &S3Server) -> Self {
        Self::start_with(server, |_| None)
    }

    /// Starts a proxy that calls `hook` before each request; what the hook answers is not passed on.
    pub fn start_with(server: &S3Server, mut hook: impl FnMut(&Request) -> Option<Answer> + Send + 'static) -> Self {
        let log = Log::default();
        let (port, noted) = (server.port(), Arc::clone(&log));
        let server = FaultServer::start(move |_, request| {
            noted.lock().unwrap().push((request.method.clone(), request.target.clone()));
            hook(request).unwrap_or_else(|| pass_on(port, request))
        });
        Self { server, log }
    }

    /// Returns what a client needs to know.
    pub fn options(&self) -> S3Options {
        options_for(self.server.port())
    }

    /// Returns the requests since the last call, and forgets them.
    pub fn take_requests(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.log.lock().unwrap())
    }

    /// Returns how many listings and how many other requests there were since the last call.
    pub fn take_counts(&self) -> (usize, usize) {
        let requests = self.take_requests();
        let listings = requests.iter().filter(|(_, target)| target.contains("list-type=2")).count();
        (listings, requests.len() - listings)
    }
}

fn pass_on(port: u16, request: &Request) -> Answer {
    let exchange = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
        for (name, value) in
            request.headers.iter().filter(|(name, _)| !matches!(name.as_str(), "connection" | "expect"))
        {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("connection: close\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(&request.body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    exchange().map_or(Answer::Dropped, Answer::Relayed)
}
