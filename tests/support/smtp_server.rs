//! A fake mail server: it takes every mail, keeps it, and says what an SMTP server says. With TLS it shows the certificate of
//! the tests; what is said before is kept with the mark [`PLAIN`].

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What a client said, line by line.
type Said = Arc<Mutex<Vec<String>>>;

/// Before each line that came in the clear.
pub const PLAIN: &str = "plain: ";

const GREETING: &[u8] = b"220 fake ESMTP\r\n";

/// When TLS begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    Never,
    FromTheFirstByte,
    WhenAsked,
}

/// A server that runs as long as the process.
pub struct SmtpServer {
    port: u16,
    said: Said,
}

impl SmtpServer {
    pub fn start(protection: Protection) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let said = Said::default();
        let server = Self { port, said: Arc::clone(&said) };
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let said = Arc::clone(&said);
                thread::spawn(move || converse(stream, protection, &said));
            }
        });
        server
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns what was said to it so far.
    pub fn said(&self) -> String {
        self.said.lock().unwrap().join("\n")
    }
}

/// Returns the file of the certificate that it shows.
pub fn certificate() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/loopback-certificate.pem")
}

/// Returns what a server needs to show the certificate of the tests.
pub fn tls() -> Arc<ServerConfig> {
    let key = certificate().with_file_name("loopback-key.pem");
    let chain = CertificateDer::pem_file_iter(certificate()).unwrap().map(Result::unwrap).collect();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_no_client_auth().with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap())
}

fn converse(mut stream: TcpStream, protection: Protection, said: &Said) -> Option<bool> {
    let over_tls = |stream| StreamOwned::new(ServerConnection::new(tls()).unwrap(), stream);
    if protection == Protection::FromTheFirstByte {
        let mut stream = over_tls(stream);
        stream.write_all(GREETING).ok()?;
        return serve(stream, protection, "", said);
    }
    stream.write_all(GREETING).ok()?;
    match serve(&stream, protection, PLAIN, said)? {
        // Nobody greets again.
        true => serve(over_tls(stream), Protection::FromTheFirstByte, "", said),
        false => Some(false),
    }
}

/// Answers until the client is gone, or asks for TLS: then it returns true. Who does not trust the certificate is gone before
/// a word.
fn serve(stream: impl Read + Write, protection: Protection, mark: &str, said: &Said) -> Option<bool> {
    let mut stream = BufReader::new(stream);
    let say = |stream: &mut BufReader<_>, line: &str| {
        let stream: &mut dyn Write = BufReader::get_mut(stream);
        stream.write_all(format!("{line}\r\n").as_bytes()).and_then(|()| stream.flush()).ok()
    };
    let mut is_data = false;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|len| *len > 0)?;
        let line = line.trim_end().to_owned();
        said.lock().unwrap().push(format!("{mark}{line}"));
        let word = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        match (is_data, word.as_str()) {
            (true, ".") => {
                is_data = false;
                say(&mut stream, "250 taken")?;
            }
            (true, _) => {}
            (false, "EHLO") if protection == Protection::WhenAsked => say(&mut stream, "250-fake\r\n250 STARTTLS")?,
            (false, "EHLO") => say(&mut stream, "250-fake\r\n250 AUTH PLAIN LOGIN")?,
            (false, "STARTTLS") if protection == Protection::WhenAsked => {
                say(&mut stream, "220 go on")?;
                return Some(true);
            }
            (false, "AUTH") => say(&mut stream, "235 welcome")?,
            (false, "DATA") => {
                is_data = true;
                say(&mut stream, "354 go on")?;
            }
            (false, "QUIT") => {
                say(&mut stream, "221 bye")?;
                return Some(false);
            }
            (false, _) => say(&mut stream, "250 fine")?,
        }
    }
}
