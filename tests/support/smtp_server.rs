//! A fake mail server: it takes every mail, keeps it, and says what an SMTP server says. With TLS it shows the certificate of
//! the tests.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What a client said, line by line.
type Said = Arc<Mutex<Vec<String>>>;

/// A server that runs as long as the process.
pub struct SmtpServer {
    port: u16,
    said: Said,
}

impl SmtpServer {
    /// Starts a server, with TLS from the first byte or without.
    pub fn start(is_tls: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let said = Said::default();
        let server = Self { port, said: Arc::clone(&said) };
        let tls = is_tls.then(tls);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let said = Arc::clone(&said);
                match &tls {
                    None => thread::spawn(move || serve(stream, &said)),
                    Some(tls) => {
                        let connection = ServerConnection::new(Arc::clone(tls)).unwrap();
                        thread::spawn(move || serve(StreamOwned::new(connection, stream), &said))
                    }
                };
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

fn tls() -> Arc<ServerConfig> {
    let key = certificate().with_file_name("loopback-key.pem");
    let chain = CertificateDer::pem_file_iter(certificate()).unwrap().map(Result::unwrap).collect();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_no_client_auth().with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap())
}

/// Answers until the client is gone. Who does not trust the certificate is gone before a word.
fn serve(stream: impl Read + Write, said: &Said) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let say = |stream: &mut BufReader<_>, line: &str| {
        let stream: &mut dyn Write = BufReader::get_mut(stream);
        stream.write_all(format!("{line}\r\n").as_bytes()).and_then(|()| stream.flush()).ok()
    };
    say(&mut stream, "220 fake ESMTP")?;
    let mut is_data = false;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|len| *len > 0)?;
        let line = line.trim_end().to_owned();
        said.lock().unwrap().push(line.clone());
        let word = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        match (is_data, word.as_str()) {
            (true, ".") => {
                is_data = false;
                say(&mut stream, "250 taken")?;
            }
            (true, _) => {}
            (false, "EHLO") => say(&mut stream, "250-fake\r\n250 AUTH PLAIN LOGIN")?,
            (false, "AUTH") => say(&mut stream, "235 welcome")?,
            (false, "DATA") => {
                is_data = true;
                say(&mut stream, "354 go on")?;
            }
            (false, "QUIT") => return say(&mut stream, "221 bye"),
            (false, _) => say(&mut stream, "250 fine")?,
        }
    }
}
