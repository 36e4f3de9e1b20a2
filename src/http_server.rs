//! A small HTTP server, for those who ask a process how it is: Prometheus, probes.
//!
//! What must stay true: it only ever reads. A client that sends nothing, or reads nothing, costs one connection for a bounded
//! time, and nobody else anything. It runs on a thread and a runtime of its own; what it answers with is blocking code, called
//! for one request at a time.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;

use crate::cancel::Cancel;
use crate::error::{Error, Result};

/// Connections at once; further ones wait.
const CONNECTIONS_MAX: usize = 16;
/// Time for a client to send its request, and for everything that follows.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(10);
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(60);
/// How often the wish to stop is looked at.
const STEP: Duration = Duration::from_millis(200);

/// What is sent back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// An HTTP status code.
    pub status: u16,
    /// What the body is.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

impl Answer {
    /// Puts a line of text together.
    pub fn text(status: u16, line: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: line.into() + "\n" }
    }
}

/// Answers requests for a path.
pub type Answers = dyn Fn(&str) -> Answer + Send + Sync;

/// A server that listens, and does not answer yet.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    address: SocketAddr,
}

impl HttpServer {
    /// Listens at an address such as `127.0.0.1:9464`; port 0 is any free one.
    pub fn bind(address: &str) -> Result<Self> {
        let fault = |source| Error::source("listen at", address, source);
        let listener = TcpListener::bind(address).map_err(fault)?;
        listener.set_nonblocking(true).map_err(fault)?;
        let address = listener.local_addr().map_err(fault)?;
        Ok(Self { listener, address })
    }

    /// Returns where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers GET and HEAD until somebody wishes to stop. Returns [`Error::Interrupted`] then.
    pub fn serve(self, answers: Arc<Answers>, cancel: &Cancel) -> Result<()> {
        let fault = |source| Error::source("listen at", self.address.to_string(), source);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(fault)?;
        let ended = runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(self.listener).map_err(fault)?;
            tokio::spawn(accept(listener, answers));
            while cancel.check().is_ok() {
                tokio::time::sleep(STEP).await;
            }
            cancel.check()
        });
        // Who waits for an answer that takes long gets none.
        runtime.shutdown_background();
        ended
    }
}

async fn accept(listener: tokio::net::TcpListener, answers: Arc<Answers>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // No more files can be opened, for example: others may be closed soon.
            tokio::time::sleep(STEP).await;
            continue;
        };
        let answers = Arc::clone(&answers);
        tokio::spawn(async move {
            let service = service_fn(move |request| respond(request, Arc::clone(&answers)));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_TIME_MAX)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // A client that goes away is no problem of ours.
            drop(tokio::time::timeout(CONNECTION_TIME_MAX, connection).await);
            drop(place);
        });
    }
}

async fn respond(
    request: Request<Incoming>,
    answers: Arc<Answers>,
) -> std::result::Result<Response<Full<Bytes>>, Infallible> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = response(Answer::text(405, "only GET is answered"));
        response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    let path = request.uri().path().to_owned();
    let answered = tokio::task::spawn_blocking(move || answers(&path)).await;
    Ok(response(answered.unwrap_or_else(|_| Answer::text(500, "the answer could not be made"))))
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(answer.content_type));
    response
}
