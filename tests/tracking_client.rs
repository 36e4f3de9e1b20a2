//! The client of MLflow's REST API: patience, and whom it tells what.

use std::collections::BTreeMap;
use std::time::Duration;

use mlvault::cancel::Cancel;
use mlvault::error::{Error, Fault};
use mlvault::hears::Hears;
use mlvault::tracking::{TrackingClient, TrackingOptions, options};

use crate::support::fault_server::{Answer, FaultServer};
use crate::support::mlflow_server::{MlflowOptions, MlflowServer};
use crate::support::s3_server::{Program, S3Server, certificate};

/// Makes a client without much patience.
pub fn client(uri: &str, environment: &[(&str, &str)]) -> TrackingClient {
    let environment: BTreeMap<_, _> = environment.iter().copied().collect();
    let read = options(uri, &|name| environment.get(name).map(|value| (*value).to_owned())).unwrap();
    let quick = TrackingOptions { retries: 2, wait_first: Duration::from_millis(20), ..read };
    TrackingClient::connect(&quick).unwrap()
}

fn client_of(server: &FaultServer, environment: &[(&str, &str)]) -> TrackingClient {
    client(&format!("http://127.0.0.1:{}", server.port()), environment)
}

#[test]
fn a_server_that_is_busy_is_asked_again_and_one_that_stays_so_is_given_up() {
    let server = FaultServer::start(|number, _| match number {
        0 => Answer::Full(429, vec![("Retry-After", "0".to_owned())], Vec::new()),
        1 => Answer::CutOff(100, b"half".to_vec()),
        _ => Answer::with(200, "3.17.2"),
    });
    assert_eq!(client_of(&server, &[]).version().unwrap(), "3.17.2");
    assert_eq!(server.requests(), 3);
    for answer in [|| Answer::with(503, "try later"), || Answer::Dropped] {
        let server = FaultServer::start(move |_, _| answer());
        let error = client_of(&server, &[]).version().unwrap_err();
        assert_eq!(error.fault(), Some(Fault::Unavailable), "{error}");
        assert_eq!(server.requests(), 3, "the first attempt and two more");
    }
}

#[test]
fn what_will_not_help_is_not_tried_again() {
    for (status, fault) in [(400, Fault::Other), (401, Fault::Denied), (404, Fault::Unsupported)] {
        let server = FaultServer::start(move |_, _| Answer::with(status, "no"));
        assert_eq!(client_of(&server, &[]).server_info().unwrap_err().fault(), Some(fault));
        assert_eq!(server.requests(), 1);
    }
}

#[test]
fn waiting_ends_when_it_is_not_wanted_any_more() {
    let server = FaultServer::start(|_, _| Answer::Full(429, vec![("Retry-After", "3000".to_owned())], Vec::new()));
    let cancel = Cancel::default();
    let client = client_of(&server, &[]).heard_by(&Hears { cancel: cancel.clone(), ..Hears::nobody() });
    let waiting = std::thread::spawn(move || client.version());
    while server.requests() == 0 {
        std::thread::yield_now();
    }
    cancel.flag().store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(waiting.join().unwrap(), Err(Error::Interrupted)));
}

#[test]
fn credentials_go_to_the_server_and_not_where_it_redirects_to() {
    let other = FaultServer::start(|_, _| Answer::with(200, "3.17.2"));
    let location = format!("http://127.0.0.1:{}/elsewhere?secret", other.port());
    let server = FaultServer::start(move |_, request| {
        assert_eq!(request.headers["authorization"], "Bearer some-token");
        assert_eq!(request.headers["x-mlflow-workspace"], "team-a");
        Answer::Full(302, vec![("Location", location.clone())], Vec::new())
    });
    let environment = [("MLFLOW_TRACKING_TOKEN", "some-token"), ("MLFLOW_WORKSPACE", "team-a")];
    let error = client_of(&server, &environment).version().unwrap_err().to_string();
    assert!(error.contains("/elsewhere") && !error.contains("secret") && !error.contains("some-token"), "{error}");
    assert_eq!(other.requests(), 0);
}

#[test]
fn what_is_not_mlflow_is_told_so() {
    let server = FaultServer::start(|_, _| Answer::with(200, "<html>Welcome to nginx</html>"));
    assert_eq!(client_of(&server, &[]).version().unwrap_err().fault(), Some(Fault::BadAnswer));
    assert_eq!(client_of(&server, &[]).server_info().unwrap_err().fault(), Some(Fault::BadAnswer));
}

#[test]
fn a_server_that_refuses_the_host_name_is_explained() {
    let hosts = Some("mlflow.example:80".to_owned());
    let server = MlflowServer::start_with(&MlflowOptions { allowed_hosts: hosts, ..MlflowOptions::default() });
    let client = client(&server.uri(), &[]);
    client.health().unwrap();
    let error = client.server_info().unwrap_err();
    assert_eq!(error.fault(), Some(Fault::Denied));
    let message = error.to_string();
    assert!(message.contains("--allowed-hosts"), "{message}");
    assert!(message.contains(&format!("127.0.0.1:{}", server.port())), "{message}");
}

#[test]
fn a_certificate_is_trusted_only_if_someone_trusted_vouches_for_it() {
    // Any server with TLS will do to see whether there is a connection.
    let server = S3Server::start(Program::RcloneWithTls);
    let uri = server.options().endpoint.unwrap();
    let certificate = certificate();
    let trusting = [("MLFLOW_TRACKING_SERVER_CERT_PATH", certificate.to_str().unwrap())];
    for environment in [&trusting[..], &[("MLFLOW_TRACKING_INSECURE_TLS", "true")]] {
        let error = client(&uri, environment).health().unwrap_err();
        assert_ne!(error.fault(), Some(Fault::Unavailable), "it answered: {error}");
    }
    let error = client(&uri, &[]).health().unwrap_err();
    assert_eq!(error.fault(), Some(Fault::Unavailable));
    assert!(error.to_string().contains("certificate"), "{error}");
}
