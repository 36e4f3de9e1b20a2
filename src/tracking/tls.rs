//! TLS for the connection to an MLflow server: whom it trusts and how it shows itself.
//!
//! What must stay true: a file that is no good ends in an error that names it, before the first request.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig, TlsProvider};

use super::options::TrackingOptions;
use crate::error::{Error, Result};

/// Makes the settings. The provider is named, because which one is the process's default is not ours to say.
pub(super) fn settings(options: &TrackingOptions) -> Result<TlsConfig> {
    let builder = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(aws_lc_rs::default_provider()))
        .disable_verification(options.ignore_tls)
        .root_certs(RootCerts::from(roots(options.ca_bundle.as_deref())?));
    let certificate = options.client_certificate.as_deref().map(client_certificate).transpose()?;
    Ok(builder.client_cert(certificate).build())
}

/// Returns the certificates of the bundle; the system's without one.
fn roots(bundle: Option<&Path>) -> Result<Vec<Certificate<'static>>> {
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
fn client_certificate(path: &Path) -> Result<ClientCert> {
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

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| invalid(path, error))
}

fn invalid(path: &Path, reason: impl std::fmt::Display) -> Error {
    Error::Invalid(format!("The certificate file {path:?} for the MLflow server cannot be used: {reason}"))
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
                assert!(result.err().is_none_or(|error| error.to_string().contains("some.pem")));
            }
        }
        assert!(roots(Some(&directory.path().join("missing.pem"))).is_err());
    }
}
