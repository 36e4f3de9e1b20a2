//! Whether a container is ready: asked by HTTP or TCP, as its probe says.
//!
//! What must stay true: a container without a probe is ready once it runs; one with a probe only after the probe succeeded.
//! Probes that run a command are not known here, and never succeed.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// How long an answer may take if the probe does not say.
const ANSWER_MAX_SECONDS: i32 = 1;
/// How often is asked at most, whatever the probe says: tests are not to wait longer than they must.
const PERIOD: Duration = Duration::from_millis(500);

/// When a container is asked next, and what the last answer was.
#[derive(Debug, Default)]
pub struct Readiness {
    asked: Option<Instant>,
    is_ready: bool,
}

impl Readiness {
    /// Returns whether a running container is ready.
    pub fn look(&mut self, container: &Container) -> bool {
        let Some(probe) = &container.readiness_probe else { return true };
        if self.asked.is_none_or(|asked| asked.elapsed() >= PERIOD) {
            self.is_ready = ask(probe, container).is_some();
            self.asked = Some(Instant::now());
        }
        self.is_ready
    }
}

fn ask(probe: &Probe, container: &Container) -> Option<()> {
    let limit = Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(ANSWER_MAX_SECONDS)).ok()?);
    match (&probe.http_get, &probe.tcp_socket) {
        (Some(http), _) => {
            let mut stream = connect(&http.port, container, limit)?;
            let path = http.path.as_deref().unwrap_or("/");
            let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\nUser-Agent: kube-probe/stand-in\r\n\r\n");
            stream.write_all(request.as_bytes()).ok()?;
            let mut status = [0; "HTTP/1.1 200".len()];
            stream.read_exact(&mut status).ok()?;
            matches!(status[status.len() - 3], b'2' | b'3').then_some(())
        }
        (None, Some(tcp)) => connect(&tcp.port, container, limit).map(drop),
        (None, None) => None,
    }
}

fn connect(port: &IntOrString, container: &Container, limit: Duration) -> Option<TcpStream> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            ports.find(|port| port.name.as_ref() == Some(name))?.container_port
        }
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(number).ok()?));
    let stream = TcpStream::connect_timeout(&address, limit).ok()?;
    stream.set_read_timeout(Some(limit)).ok()?;
    stream.set_write_timeout(Some(limit)).ok()?;
    Some(stream)
}
