//! How an MLflow server is reached, as MLflow's own clients are told: a URI and environment variables.
//!
//! What must stay true: no message, and no debug output, holds a password or a token.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use url::Url;
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Attempts that follow a failed one; MLflow's own number.
const RETRIES: u32 = 7;
/// How long the server may be silent; MLflow's own number.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Waiting time after the first failed attempt; it doubles with each further one.
const WAIT_FIRST: Duration = Duration::from_millis(500);

/// Who asks.
#[derive(Clone, Default)]
pub enum Login {
    /// Nobody in particular.
    #[default]
    Anonymous,
    /// Name and password (HTTP Basic).
    Password(String, Zeroizing<String>),
    /// A bearer token.
    Token(Zeroizing<String>),
}

impl fmt::Debug for Login {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => out.write_str("Anonymous"),
            Self::Password(name, _) => write!(out, "Password({name:?}, ..)"),
            Self::Token(_) => out.write_str("Token(..)"),
        }
    }
}

/// Everything that a client of one server needs to know.
#[derive(Debug, Clone)]
pub struct TrackingOptions {
    /// `http://` or `https://`, host, port and path prefix; without credentials, query, and `/` at the end.
    pub uri: String,
    /// Who asks.
    pub login: Login,
    /// Accepts any certificate. The connection is then open to whoever sits in between.
    pub ignore_tls: bool,
    /// PEM file of the certificates to trust instead of the system's.
    pub ca_bundle: Option<PathBuf>,
    /// PEM file with the client's certificate and its key.
    pub client_certificate: Option<PathBuf>,
    /// Workspace that is asked about, on servers that have them.
    pub workspace: Option<String>,
    /// How long the server may be silent.
    pub timeout: Duration,
    /// Attempts that follow a failed one, where another may help.
    pub retries: u32,
    /// Waiting time after the first failed attempt; it doubles with each further one.
    pub wait_first: Duration,
}

/// Reads the options from a tracking URI and from the environment variables of MLflow's clients.
///
/// A name and a password count before a token, as in MLflow; those in the URI count if there are no others.
pub fn options(uri: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<TrackingOptions> {
    let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
    let (uri, login_of_uri) = split_uri(uri)?;
    let login = match (variable("MLFLOW_TRACKING_USERNAME"), variable("MLFLOW_TRACKING_PASSWORD")) {
        (Some(name), Some(password)) => Login::Password(name, Zeroizing::new(password)),
        _ => match variable("MLFLOW_TRACKING_TOKEN") {
            Some(token) => Login::Token(Zeroizing::new(token)),
            None => login_of_uri,
        },
    };
    let ca_bundle = variable("MLFLOW_TRACKING_SERVER_CERT_PATH").map(PathBuf::from);
    let ignore_tls = match variable("MLFLOW_TRACKING_INSECURE_TLS") {
        None => false,
        Some(value) => parse_flag("MLFLOW_TRACKING_INSECURE_TLS", &value)?,
    };
    if ignore_tls && ca_bundle.is_some() {
        return Err(Error::Invalid(
            "MLFLOW_TRACKING_INSECURE_TLS and MLFLOW_TRACKING_SERVER_CERT_PATH contradict each other".to_owned(),
        ));
    }
    Ok(TrackingOptions {
        uri,
        login,
        ignore_tls,
        ca_bundle,
        client_certificate: variable("MLFLOW_TRACKING_CLIENT_CERT_PATH").map(PathBuf::from),
        workspace: variable("MLFLOW_WORKSPACE"),
        timeout: match variable("MLFLOW_HTTP_REQUEST_TIMEOUT") {
            Some(seconds) => Duration::from_secs(parse_number("MLFLOW_HTTP_REQUEST_TIMEOUT", &seconds)?.max(1).into()),
            None => TIMEOUT,
        },
        retries: match variable("MLFLOW_HTTP_REQUEST_MAX_RETRIES") {
            Some(number) => parse_number("MLFLOW_HTTP_REQUEST_MAX_RETRIES", &number)?,
            None => RETRIES,
        },
        wait_first: WAIT_FIRST,
    })
}

/// Takes the credentials out of a URI. No message repeats it, because it may hold a password.
fn split_uri(text: &str) -> Result<(String, Login)> {
    let invalid = |reason: &str| Err(Error::Invalid(format!("The MLflow tracking URI cannot be used: {reason}")));
    let Ok(mut url) = Url::parse(text.trim()) else {
        return invalid("it is not a URL such as http://mlflow.example.com:5000");
    };
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return invalid("the REST API is read over http:// or https:// only");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return invalid("it may have neither a query nor a fragment");
    }
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let login = match (decode(url.username()), url.password()) {
        (name, Some(password)) => Login::Password(name, Zeroizing::new(decode(password))),
        (_, None) => Login::Anonymous,
    };
    if url.set_username("").is_err() || url.set_password(None).is_err() {
        return invalid("its credentials cannot be told apart from its host");
    }
    Ok((url.as_str().trim_end_matches('/').to_owned(), login))
}

/// Parses a flag as MLflow does.
fn parse_flag(name: &str, value: &str) -> Result<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(Error::Invalid(format!("{name} must be true or false"))),
    }
}

fn parse_number(name: &str, value: &str) -> Result<u32> {
    value.trim().parse().map_err(|_| Error::Invalid(format!("{name} must be a number, not {value:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(uri: &str, environment: &[(&str, &str)]) -> Result<TrackingOptions> {
        options(uri, &|name| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn a_password_counts_before_a_token_and_the_environment_before_the_uri() {
        let login = |uri, environment: &[_]| format!("{:?}", read(uri, environment).unwrap().login);
        let password = [("MLFLOW_TRACKING_USERNAME", "ann"), ("MLFLOW_TRACKING_PASSWORD", "hunter2")];
        let token = [("MLFLOW_TRACKING_TOKEN", "hunter2")];
        assert_eq!(login("http://a", &[password[0], password[1], token[0]]), r#"Password("ann", ..)"#);
        assert_eq!(login("http://a", &[password[0], token[0]]), "Token(..)");
        assert_eq!(login("http://bob:hunter2@a", &token), "Token(..)");
        assert_eq!(login("http://b%40b:hunter2@a", &[]), r#"Password("b@b", ..)"#);
        assert_eq!(login("http://a", &[("MLFLOW_TRACKING_TOKEN", "")]), "Anonymous");
    }

    #[test]
    fn a_uri_keeps_its_path_prefix_and_loses_its_credentials() {
        for (text, uri) in [
            ("https://ann:hunter2@mlflow.example:8443/team/mlflow/", "https://mlflow.example:8443/team/mlflow"),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
            ("http://[::1]:5000/", "http://[::1]:5000"),
        ] {
            assert_eq!(read(text, &[]).unwrap().uri, uri);
        }
    }

    #[test]
    fn an_unusable_uri_is_refused_and_not_repeated() {
        for text in ["hunter2", "sqlite:///hunter2.db", "databricks://hunter2", "http://a?x=hunter2", "file:///hunter2"]
        {
            let message = read(text, &[]).unwrap_err().to_string();
            assert!(message.contains("tracking URI") && !message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn contradictions_and_nonsense_in_the_environment_are_refused() {
        for environment in [
            &[("MLFLOW_TRACKING_INSECURE_TLS", "yes")][..],
            &[("MLFLOW_HTTP_REQUEST_TIMEOUT", "soon")],
            &[("MLFLOW_TRACKING_INSECURE_TLS", "true"), ("MLFLOW_TRACKING_SERVER_CERT_PATH", "/ca.pem")],
        ] {
            let message = read("https://a", environment).unwrap_err().to_string();
            assert!(message.contains(environment[0].0), "{message}");
        }
    }
}
