//! A fake HTTP server that fails on purpose. It answers each request as a closure says, and counts them.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What a client sent.
pub struct Request {
    pub method: String,
    /// Path with query.
    pub target: String,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

/// What the server does about it. It closes the connection afterwards.
pub enum Answer {
    /// Answers properly.
    Full(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// Sends these bytes: a whole answer, as another server gave it.
    Relayed(Vec<u8>),
    /// Announces a body of so many bytes, sends these, and closes.
    CutOff(usize, Vec<u8>),
    /// Announces a body of so many bytes, sends these, and says no more for a while.
    Stalled(usize, Vec<u8>, Duration),
    /// Says nothing for a while.
    Silent(Duration),
    /// Closes without a word.
    Dropped,
}

impl Answer {
    /// Answers with a status and a body.
    pub fn with(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::Full(status, Vec::new(), body.into())
    }

    /// Answers as S3 does when something is wrong.
    pub fn error(status: u16, code: &str) -> Self {
        Self::with(status, format!("<Error><Code>{code}</Code><Message>because\nof this</Message></Error>"))
    }
}

/// A server that runs until it is dropped.
pub struct FaultServer {
    port: u16,
    requests: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
}

impl FaultServer {
    /// Starts a server whose answers `answer` decides; it also gets the number of the request, from zero.
    pub fn start(answer: impl FnMut(usize, &Request) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(AtomicUsize::new(0));
        let is_over = Arc::new(AtomicBool::new(false));
        let server = Self { port, requests: Arc::clone(&requests), is_over: Arc::clone(&is_over) };
        let answer = Arc::new(Mutex::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let (answer, requests) = (Arc::clone(&answer), Arc::clone(&requests));
                thread::spawn(move || {
                    serve(stream, &requests, |number, request| answer.lock().unwrap()(number, request))
                });
            }
        });
        server
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns how many requests came so far.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // Wakes the listener, which then sees that it is over.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(mut stream: TcpStream, requests: &AtomicUsize, answer: impl FnOnce(usize, &Request) -> Answer) {
    let Some(request) = read_request(&mut stream) else { return };
    let number = requests.fetch_add(1, Ordering::Relaxed);
    // The client may be gone before it has read everything; that is its own affair.
    let _ = write_answer(&mut stream, &request, answer(number, &request));
}

fn read_request(stream: &mut TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&len| len > 0)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    if headers.contains_key("expect") {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    let len = headers.get("content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
    let mut body = vec![0; len];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, target, headers, body })
}

fn write_answer(stream: &mut TcpStream, request: &Request, answer: Answer) -> std::io::Result<()> {
    let head = |status: u16, len: usize, headers: &[(&str, String)]| {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("HTTP/1.1 {status} Status\r\nConnection: close\r\nContent-Length: {len}\r\n{headers}\r\n")
    };
    match answer {
        Answer::Full(status, headers, body) => {
            stream.write_all(head(status, body.len(), &headers).as_bytes())?;
            if request.method != "HEAD" {
                stream.write_all(&body)?;
            }
        }
        Answer::Relayed(bytes) => stream.write_all(&bytes)?,
        Answer::CutOff(len, part) => {
            stream.write_all(head(200, len, &[]).as_bytes())?;
            stream.write_all(&part)?;
        }
        Answer::Stalled(len, part, time) => {
            stream.write_all(head(200, len, &[]).as_bytes())?;
            stream.write_all(&part)?;
            thread::sleep(time);
        }
        Answer::Silent(time) => thread::sleep(time),
        Answer::Dropped => {}
    }
    Ok(())
}

/// Passes a request on to a server on a loopback port and returns its answer.
pub fn pass_on(request: &Request, port: u16) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    // HTTP/1.0, so that the answer comes in one piece.
    let mut head = format!("{} {} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n", request.method, request.target);
    for (name, value) in request.headers.iter().filter(|(name, _)| !["host", "connection"].contains(&name.as_str())) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).and_then(|()| stream.write_all(&request.body)).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let head_len = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8_lossy(&answer[..head_len]).into_owned();
    Answer::with(head.split(' ').nth(1).unwrap().parse().unwrap(), &answer[head_len..])
}
