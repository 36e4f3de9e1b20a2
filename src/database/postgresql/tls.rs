//! TLS to PostgreSQL, with libpq's meaning of `sslmode`.
//!
//! What must stay true: `verify-ca` and `verify-full` never accept a certificate that no trusted root vouches for, and
//! `verify-full` only one for the host's name. The weaker modes encrypt, and do not know to whom.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::super::uri::{PostgresqlUri, SslMode, TlsVersion};
use crate::environment;
use crate::error::{Error, Result};
use crate::tls::{Trust, Verifier};

/// Bytes in a line of PEM.
const PEM_LINE_LEN: usize = 64;

/// Returns what makes connections with TLS as the URI wants them.
pub fn connector(uri: &PostgresqlUri) -> Result<MakeRustlsConnect> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(Verifier::new(trusted(uri, &provider)?, &provider));
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&versions(uri));
    let builder = builder.map_err(|error| invalid(uri, error))?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let config = match client_certificate(uri)? {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| invalid(uri, error))?,
        None => builder.with_no_client_auth(),
    };
    Ok(MakeRustlsConnect::new(config))
}

fn versions(uri: &PostgresqlUri) -> Vec<&'static SupportedProtocolVersion> {
    let spoken = [(TlsVersion::V1_2, &version::TLS12), (TlsVersion::V1_3, &version::TLS13)];
    let range = uri.ssl_version_min..=uri.ssl_version_max;
    spoken.into_iter().filter(|(version, _)| range.contains(version)).map(|(_, spoken)| spoken).collect()
}

fn revoked(uri: &PostgresqlUri) -> Result<Vec<CertificateRevocationListDer<'static>>> {
    let Some(path) = &uri.ssl_revoked else { return Ok(Vec::new()) };
    let unreadable = |error| invalid(uri, format!("{path:?}: {error}"));
    CertificateRevocationListDer::pem_file_iter(path).map_err(unreadable)?.collect::<Result<_, _>>().map_err(unreadable)
}

/// Returns a file with the roots that count for this connection, for programs that use libpq; none if they know it
/// themselves. A list of the system's roots is written to `scratch`.
pub fn root_file(uri: &PostgresqlUri, scratch: &Path) -> Result<Option<PathBuf>> {
    let is_needed = matches!(uri.ssl_mode, SslMode::VerifyCa | SslMode::VerifyFull);
    match named_roots(uri) {
        Some(path) => Ok(Some(path)),
        None if !is_needed => Ok(None),
        None => {
            let path = scratch.join("roots.pem");
            let text: String = rustls_native_certs::load_native_certs().certs.iter().map(|root| pem(root)).collect();
            fs::write(&path, text).map_err(|source| Error::target("write", path.clone(), source))?;
            Ok(Some(path))
        }
    }
}

fn pem(certificate: &[u8]) -> String {
    let base64 = data_encoding::BASE64.encode(certificate);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in base64.as_bytes().chunks(PEM_LINE_LEN) {
        let _ = writeln!(text, "{}", String::from_utf8_lossy(line));
    }
    text + "-----END CERTIFICATE-----\n"
}

/// Returns the file of roots that the URI names, or that libpq looks for.
fn named_roots(uri: &PostgresqlUri) -> Option<PathBuf> {
    match &uri.ssl_root_certificate {
        Some(path) if path.as_os_str() == "system" => None,
        Some(path) => Some(path.clone()),
        None => in_home("root.crt"),
    }
}

fn in_home(name: &str) -> Option<PathBuf> {
    let path = environment::in_home(".postgresql")?.join(name);
    path.is_file().then_some(path)
}

fn invalid(uri: &PostgresqlUri, reason: impl ToString) -> Error {
    Error::database("use TLS with", uri, reason)
}

fn client_certificate(uri: &PostgresqlUri) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>> {
    let Some(path) = uri.ssl_certificate.clone().or_else(|| in_home("postgresql.crt")) else { return Ok(None) };
    let key = uri.ssl_key.clone().or_else(|| in_home("postgresql.key"));
    let key = key.ok_or_else(|| invalid(uri, "there is a client certificate (sslcert) and no key (sslkey)"))?;
    let key = PrivateKeyDer::from_pem_file(&key).map_err(|error| invalid(uri, format!("{key:?}: {error}")))?;
    Ok(Some((certificates(uri, &path)?, key)))
}

fn certificates(uri: &PostgresqlUri, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let unreadable = |error| invalid(uri, format!("{path:?}: {error}"));
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(unreadable)?.collect();
    let certificates = certificates.map_err(unreadable)?;
    if certificates.is_empty() { Err(invalid(uri, format!("{path:?} holds no certificate"))) } else { Ok(certificates) }
}

fn trusted(uri: &PostgresqlUri, provider: &Arc<CryptoProvider>) -> Result<Trust> {
    let named = named_roots(uri);
    let mode = match (uri.ssl_mode, &named) {
        (SslMode::Require, Some(_)) => SslMode::VerifyCa,
        (SslMode::Disable | SslMode::Allow | SslMode::Prefer | SslMode::Require, _) => return Ok(Trust::Any),
        (mode, _) => mode,
    };
    let mut roots = RootCertStore::empty();
    match named {
        Some(path) => {
            for root in certificates(uri, &path)? {
                roots.add(root).map_err(|error| invalid(uri, format!("{path:?}: {error}")))?;
            }
        }
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let verifier = verifier.with_crls(revoked(uri)?).build();
    let verifier = verifier.map_err(|error| invalid(uri, error))?;
    Ok(if mode == SslMode::VerifyCa { Trust::Root(verifier) } else { Trust::RootAndName(verifier) })
}
