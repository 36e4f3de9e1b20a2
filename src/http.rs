//! Plain blocking HTTP, for MLflow's REST API and for whoever is notified: one way to set up a client.
//!
//! What must stay true:
//! - Redirects are not followed: secrets go nowhere but to the server that was meant.
//! - A file of certificates that is no good ends in an error that names it, before the first request.
//! - No wait is without end.

use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use ureq::http::Response;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Body};
use url::Url;
use zeroize::Zeroizing;

use crate::error::{Error, Result, with_causes};
use crate::units::KIB;

/// How much of a reply is read.
const REPLY_BYTES_MAX: u64 = 64 * KIB;
/// How much of it is repeated, in characters.
const REPLY_LEN_MAX: usize = 200;

/// How a server is reached.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// Whose server it is, for messages: "the MLflow server".
    pub server: &'static str,
    /// PEM file of the certificates to trust instead of the system's.
    pub ca_bundle: Option<PathBuf>,
    /// PEM file with the client's certificate and its key.
    pub client_certificate: Option<PathBuf>,
    /// Accepts any certificate. The connection is then open to whoever sits in between.
    pub ignore_tls: bool,
    /// How long the server may be silent.
    pub silence_max: Duration,
    /// How long a request may take in all.
    pub total_max: Option<Duration>,
    /// How long an unused connection is kept.
    pub idle_max: Duration,
}

/// A URL that is called, whose path may be a secret.
#[derive(Clone)]
pub struct HttpTarget {
    url: Zeroizing<String>,
    ca_bundle: Option<PathBuf>,
}

impl std::fmt::Debug for HttpTarget {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("HttpTarget").field("url", &self.shown()).finish_non_exhaustive()
    }
}

impl HttpTarget {
    /// Reads a URL: one of https, or of http to this machine or where that is allowed. No message repeats it.
    pub fn new(url: &str, insecure_http: bool, ca_bundle: Option<PathBuf>) -> Result<Self> {
        let invalid = |reason: &str| Err(Error::Invalid(format!("The URL cannot be used: {reason}")));
        let Ok(parsed) = Url::parse(url.trim()) else { return invalid("it is not one") };
        let authority = &parsed[url::Position::BeforeHost..url::Position::AfterPort];
        match parsed.scheme() {
            "https" => {}
            "http" if insecure_http || is_loopback(authority) => {}
            "http" => return invalid("plain http:// to another machine has to be allowed with insecure-http"),
            _ => return invalid("it does not begin with https:// or http://"),
        }
        Ok(Self { url: Zeroizing::new(parsed.as_str().to_owned()), ca_bundle })
    }

    /// Returns the URL itself.
    pub fn url(&self) -> &Zeroizing<String> {
        &self.url
    }

    /// Returns scheme and host.
    pub fn shown(&self) -> String {
        let url = Url::parse(&self.url).ok();
        url.map_or_else(String::new, |url| {
            format!("{}://{}", url.scheme(), &url[url::Position::BeforeHost..url::Position::AfterPort])
        })
    }

    /// Sets up a client for one request to `server`, as messages call it, that takes no longer than this.
    pub fn agent(&self, server: &'static str, time: Duration) -> Result<Agent> {
        agent(&HttpOptions {
            server,
            ca_bundle: self.ca_bundle.clone(),
            client_certificate: None,
            ignore_tls: false,
            silence_max: time,
            total_max: Some(time),
            idle_max: Duration::ZERO,
        })
    }
}

/// What a server answered to a request of which only the outcome matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The status, and the beginning of what it said.
    pub said: String,
}

impl Reply {
    /// Reads an answer.
    pub fn read(mut answer: Response<Body>) -> Self {
        let status = answer.status().as_u16();
        let body = read_body(&mut answer, REPLY_BYTES_MAX).unwrap_or_default();
        let text: String = String::from_utf8_lossy(&body).trim().chars().take(REPLY_LEN_MAX).collect();
        let said = if text.is_empty() { format!("status {status}") } else { format!("status {status} ({text})") };
        Self { status, said }
    }
}

/// Sets up a client; nothing is sent yet.
pub fn agent(options: &HttpOptions) -> Result<Agent> {
    let silence_max = Some(options.silence_max);
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .tls_config(tls(options)?)
        .user_agent(concat!("mlvault/", env!("CARGO_PKG_VERSION")))
        .timeout_global(options.total_max)
        .timeout_connect(silence_max)
        .timeout_recv_response(silence_max)
        .timeout_per_read(silence_max)
        .timeout_per_write(silence_max)
        .max_idle_age(options.idle_max)
        .build();
    Ok(config.new_agent())
}

/// Sends a body, and returns what is answered, if that is short; anything but success is a reason in words.
pub fn post(
    target: &HttpTarget,
    (server, time): (&'static str, Duration),
    (kind, body): (&str, Vec<u8>),
) -> Result<std::result::Result<Vec<u8>, String>> {
    let agent = target.agent(server, time)?;
    // In one piece, with its length: not every server reads chunks.
    let mut answer = match agent.post(target.url().as_str()).header("Content-Type", kind).send(body) {
        Ok(answer) if answer.status().is_success() => answer,
        Ok(answer) => return Ok(Err(Reply::read(answer).said)),
        Err(error) => return Ok(Err(with_causes(&error))),
    };
    Ok(read_body(&mut answer, REPLY_BYTES_MAX).map_err(|error| error.to_string()))
}

/// Returns whether there was no answer because a certificate is not trusted: it will not be trusted later either.
pub fn is_untrusted(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) => true,
        ureq::Error::Io(error) => error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()),
        _ => false,
    }
}

/// Reads a body to its end; one that is cut off, or longer than the limit, is an error.
pub fn read_body(answer: &mut Response<Body>, bytes_max: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    answer.body_mut().with_config().limit(bytes_max).reader().read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Returns whether `host` or `host:port` is this machine, judged by its text alone.
pub fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => authority.split(':').next().unwrap_or(""),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The provider is named, because which one is the process's default is not ours to say.
fn tls(options: &HttpOptions) -> Result<TlsConfig> {
    let invalid = |(path, reason): (&Path, String)| {
        Error::Invalid(format!("The certificate file {path:?} for {} cannot be used: {reason}", options.server))
    };
    let builder = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(aws_lc_rs::default_provider()))
        .disable_verification(options.ignore_tls)
        .root_certs(RootCerts::from(roots(options.ca_bundle.as_deref()).map_err(invalid)?));
    let certificate = options.client_certificate.as_deref().map(client_certificate).transpose().map_err(invalid)?;
    Ok(builder.client_cert(certificate).build())
}

/// What is wrong with a file.
type Fault<'a> = (&'a Path, String);

/// Returns the certificates of the bundle; the system's without one.
fn roots(bundle: Option<&Path>) -> Result<Vec<Certificate<'static>>, Fault<'_>> {
    let Some(path) = bundle else {
        // What the system has and cannot be read is left out: the server's may be among the others.
        let found = rustls_native_certs::load_native_certs().certs;
        return Ok(found.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect());
    };
    let pem = read(path)?;
    let mut store = RootCertStore::empty();
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| invalid(path, error))?;
        certificates.push(Certificate::from_der(&certificate).to_owned());
        store.add(certificate).map_err(|error| invalid(path, error))?;
    }
    if certificates.is_empty() { Err(invalid(path, "it has no certificate")) } else { Ok(certificates) }
}

/// Reads the client's certificates and key, and checks that they belong together.
fn client_certificate(path: &Path) -> Result<ClientCert, Fault<'_>> {
    let pem = read(path)?;
    let chain: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|error| invalid(path, error))?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| invalid(path, format!("no private key: {error}")))?;
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(path, error))?
        .with_root_certificates(RootCertStore::empty())
        .with_client_auth_cert(chain.clone(), key)
        .map_err(|error| invalid(path, error))?;
    let chain: Vec<_> = chain.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect();
    let key = PrivateKey::from_pem(&pem).map_err(|error| invalid(path, error))?;
    Ok(ClientCert::new_with_certs(&chain, key))
}

fn read(path: &Path) -> Result<Vec<u8>, Fault<'_>> {
    std::fs::read(path).map_err(|error| invalid(path, error))
}

fn invalid(path: &Path, reason: impl std::fmt::Display) -> Fault<'_> {
    (path, reason.to_string())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn test_file(name: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support").join(name);
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn files_without_what_they_are_for_are_refused_and_named() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("some.pem");
        let (certificate, key) = (test_file("loopback-certificate.pem"), test_file("loopback-key.pem"));
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (text, is_bundle, is_client) in [
            (certificate.clone(), true, false),
            (format!("{certificate}{key}"), true, true),
            (key, false, false),
            (garbage.to_owned(), false, false),
            (String::new(), false, false),
        ] {
            std::fs::write(&path, &text).unwrap();
            for (result, is_good) in
                [(roots(Some(&path)).map(drop), is_bundle), (client_certificate(&path).map(drop), is_client)]
            {
                assert_eq!(result.is_ok(), is_good, "{text}");
                assert!(result.err().is_none_or(|(named, _)| named == path));
            }
        }
        assert!(roots(Some(&directory.path().join("missing.pem"))).is_err());
    }
}
