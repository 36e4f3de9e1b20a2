//! TLS to S3 servers: on by default, checked, and with the user's own certificate authorities.

use std::env;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mlvault::backend::Backend;
use mlvault::backend::location::{RepositoryLocation, open};
use mlvault::backend::s3::S3Backend;
use mlvault::error::Fault;
use mlvault::s3::{BucketLocation, Patience, S3Options};

use crate::support::child;
use crate::support::s3_server::{BUCKET, Program, S3Server, certificate};

/// Tells the child process of a test where the server is.
const CHILD_ENDPOINT_VARIABLE: &str = "MLVAULT_TEST_CHILD_ENDPOINT";

#[test]
fn a_server_with_an_unknown_certificate_is_refused_at_once() {
    let server = S3Server::start(Program::RcloneWithTls);
    let begun = Instant::now();
    let error = server.backend("").read("object").unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(error.fault(), Some(Fault::Other));
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[test]
fn a_certificate_counts_for_nothing_where_the_user_says_so_and_only_there() {
    let server = S3Server::start(Program::RcloneWithTls);
    let options = S3Options { ignore_tls: true, ..server.options() };
    let backend = S3Backend::connect(BUCKET, "", &options, Patience::default()).unwrap();
    backend.create("object", Bytes::from(vec![7; 3 << 20])).unwrap();
    assert_eq!(backend.read("object").unwrap(), vec![7; 3 << 20]);
    assert_eq!(server.backend("").read("object").unwrap_err().fault(), Some(Fault::Other));
    drop(server);
    let impatient = Patience { attempts_max: 2, wait_first: Duration::from_millis(10), ..Patience::default() };
    let backend = S3Backend::connect(BUCKET, "", &options, impatient).unwrap();
    assert_eq!(backend.read("object").unwrap_err().fault(), Some(Fault::Unavailable));
}

#[test]
fn a_certificate_authority_can_be_trusted_for_one_bucket() {
    let server = S3Server::start(Program::RcloneWithTls);
    let options = S3Options { ca_bundle: Some(certificate()), ..server.options() };
    let backend = S3Backend::connect(BUCKET, "", &options, Patience::default()).unwrap();
    backend.create("object", Bytes::from_static(b"content")).unwrap();
    assert_eq!(backend.read("object").unwrap(), "content");
}

#[test]
fn the_users_own_certificate_authority_is_trusted() {
    let server = S3Server::start(Program::RcloneWithTls);
    let mut client = child("backend_s3_tls::child_stores_an_object", "");
    client.env(CHILD_ENDPOINT_VARIABLE, server.options().endpoint.unwrap()).env("AWS_CA_BUNDLE", certificate());
    let credentials = server.options().credentials.unwrap();
    client.env("AWS_ACCESS_KEY_ID", credentials.access_key_id);
    client.env("AWS_SECRET_ACCESS_KEY", credentials.secret_access_key.as_str());
    let output = client.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
#[ignore = "run by the_users_own_certificate_authority_is_trusted in a process of its own"]
fn child_stores_an_object() {
    let options = S3Options { endpoint: env::var(CHILD_ENDPOINT_VARIABLE).ok(), ..S3Options::default() };
    let location = RepositoryLocation::S3(BucketLocation { bucket: BUCKET.to_owned(), prefix: "prefix".to_owned() });
    let backend = open(&location, &options).unwrap();
    assert_eq!(backend.location(), "s3://vault/prefix");
    backend.create("object", Bytes::from_static(b"content")).unwrap();
    assert_eq!(backend.read("object").unwrap(), "content");
}

#[test]
fn plain_http_to_another_machine_has_to_be_allowed() {
    // A name that never resolves: nothing is sent.
    let mut options = S3Options { endpoint: Some("http://minio.invalid:9000".to_owned()), ..S3Options::default() };
    let message = S3Backend::connect(BUCKET, "", &options, Patience::default()).unwrap_err().to_string();
    assert!(message.contains("http://"), "{message}");
    options.insecure_http = true;
    S3Backend::connect(BUCKET, "", &options, Patience::default()).unwrap();
}
