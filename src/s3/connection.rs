//! How an S3 server is reached: endpoint, region, TLS, proxy, retries.
//!
//! What must stay true:
//! - A plain `http://` endpoint is used only on this machine or where the user allowed it.
//! - A CA bundle or endpoint that is no good ends in an error before the first request.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::Credentials as KeyPair;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef,
    InterceptorContext,
};
use aws_sdk_s3::config::retry::{ClassifyRetry, RetryAction, RetryConfig};
use aws_sdk_s3::config::{
    ConfigBag, Intercept, Region, ResponseChecksumValidation, RuntimeComponents, SharedHttpClient,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::BoxError;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder as HttpClientBuilder, Connector};
use aws_smithy_types::config_bag::{Storable, StoreReplace};
use aws_types::service_config::ServiceConfigKey;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::environment;
use crate::error::{Error, Result};
use crate::hears::Hears;
use crate::http::is_loopback;
use crate::s3::options::{Credentials, S3Options};
use crate::s3::patience::Patience;
use crate::s3::{fault, unverified};
use crate::sync::lock;

/// Region that servers other than AWS take for granted.
const REGION_ELSEWHERE: &str = "us-east-1";

/// Variable that names a file of CA certificates to trust instead of the system's, as for other AWS tools.
const CA_BUNDLE_VARIABLE: &str = "AWS_CA_BUNDLE";

/// Makes a client from the options and, where they are silent, the AWS environment and profile.
pub async fn connect(options: &S3Options, patience: &Patience) -> Result<Client> {
    let aws = aws_config::defaults(BehaviorVersion::latest())
        .region(regions(options))
        .http_client(http_client(options, patience)?)
        .load()
        .await;
    let endpoint = endpoint(options, &aws);
    if let Some(endpoint) = &endpoint {
        check_endpoint(endpoint, options.insecure_http)?;
    }
    let region = match (aws.region(), &endpoint) {
        (Some(region), _) => region.clone(),
        (None, Some(_)) => Region::from_static(REGION_ELSEWHERE),
        (None, None) => return Err(Error::Invalid("No AWS region is configured".to_owned())),
    };
    let retries = RetryConfig::standard()
        .with_max_attempts(patience.attempts_max)
        .with_initial_backoff(patience.wait_first)
        .with_max_backoff(patience.wait_max);
    let failed_attempts = FailedAttempts {
        hears: options.hears.clone(),
        server: endpoint.clone().unwrap_or_else(|| "of AWS".to_owned()),
        attempts_max: patience.attempts_max,
    };
    let stalls = StalledStreamProtectionConfig::enabled().grace_period(patience.stall).build();
    let mut config = aws_sdk_s3::config::Builder::from(&aws)
        .region(region)
        .force_path_style(options.path_style.unwrap_or(endpoint.is_some()))
        .retry_config(retries)
        .retry_classifier(UntrustedServer)
        .interceptor(failed_attempts)
        .timeout_config(patience.timeouts(0))
        .stalled_stream_protection(stalls)
        // Some servers give the checksum of the whole object with a part of it.
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    config.set_endpoint_url(endpoint);
    if let Some(Credentials { access_key_id, secret_access_key, session_token }) = &options.credentials {
        let session_token = session_token.as_ref().map(|token| token.as_str().to_owned());
        let key_pair = KeyPair::new(access_key_id, secret_access_key.as_str(), session_token, None, "mlvault");
        config.set_credentials_provider(Some(SharedCredentialsProvider::new(key_pair)));
    }
    Ok(Client::from_conf(config.build()))
}

/// Returns where the region is looked for, in order. Instance metadata are asked only where AWS is meant.
fn regions(options: &S3Options) -> RegionProviderChain {
    let chain = RegionProviderChain::first_try(options.region.clone().map(Region::new))
        .or_else(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new());
    let is_elsewhere = options.endpoint.is_some()
        || environment::variable_os("AWS_ENDPOINT_URL_S3").is_some()
        || environment::variable_os("AWS_ENDPOINT_URL").is_some();
    if is_elsewhere { chain.or_else(Region::from_static(REGION_ELSEWHERE)) } else { chain.or_default_provider() }
}

/// Returns the endpoint in force: the option's, else what the AWS environment or profile say, for S3 or in general.
fn endpoint(options: &S3Options, aws: &SdkConfig) -> Option<String> {
    let key = ServiceConfigKey::builder().service_id("S3").env("AWS_ENDPOINT_URL").profile("endpoint_url").build();
    let of_service = || aws.service_config()?.load_config(key.ok()?);
    options.endpoint.clone().or_else(of_service).or_else(|| aws.endpoint_url().map(str::to_owned))
}

/// Fails for an endpoint that is no plain URL, or that would send data in the clear over a network.
///
/// No message repeats the endpoint, which may hold a password.
pub fn check_endpoint(endpoint: &str, insecure_http: bool) -> Result<()> {
    let invalid = |reason: &str| Err(Error::Invalid(format!("The S3 endpoint cannot be used: {reason}")));
    let Some((scheme, rest)) = endpoint.split_once("://") else {
        return invalid("it does not begin with https:// or http://");
    };
    let authority = rest.split('/').next().unwrap_or("");
    if rest.contains(|character: char| character.is_whitespace() || matches!(character, '@' | '?' | '#')) {
        return invalid("it may have neither credentials nor a query");
    }
    if authority.is_empty() {
        return invalid("the host is missing");
    }
    match scheme.to_ascii_lowercase().as_str() {
        "https" => Ok(()),
        "http" if insecure_http || is_loopback(authority) => Ok(()),
        "http" => invalid("plain http:// to another machine has to be allowed explicitly"),
        _ => invalid("it does not begin with https:// or http://"),
    }
}

/// Makes an HTTP client that honours the CA bundle and the usual proxy variables, unless certificates do not count.
fn http_client(options: &S3Options, patience: &Patience) -> Result<SharedHttpClient> {
    if options.ignore_tls {
        return unverified::http_client(patience.connect);
    }
    let of_environment = || environment::variable_os(CA_BUNDLE_VARIABLE).map(PathBuf::from);
    let trust = match options.ca_bundle.clone().or_else(of_environment) {
        None => TrustStore::default(),
        Some(path) => TrustStore::empty().with_pem_certificate(read_ca_bundle(path)?),
    };
    let tls = TlsContext::builder().with_trust_store(trust).build();
    let tls = tls.map_err(|error| Error::Invalid(format!("TLS cannot be set up: {error}")))?;
    let connector = move |settings: Option<&_>, components: Option<&RuntimeComponents>| {
        let mut builder = Connector::builder().proxy_config(ProxyConfig::from_env());
        builder.set_connector_settings(settings.cloned());
        builder.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        builder.tls_provider(Provider::Rustls(CryptoMode::AwsLc)).tls_context(tls.clone()).build()
    };
    Ok(HttpClientBuilder::new().build_with_connector_fn(connector))
}

/// Reads a CA bundle and checks every certificate, because the SDK would panic on a bad one.
fn read_ca_bundle(path: PathBuf) -> Result<Vec<u8>> {
    let invalid = |reason: String| {
        Error::Invalid(format!("The CA bundle {path:?} ({CA_BUNDLE_VARIABLE}) cannot be used: {reason}"))
    };
    let pem = std::fs::read(&path).map_err(|error| invalid(error.to_string()))?;
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| invalid(error.to_string()))?;
        store.add(certificate).map_err(|error| invalid(error.to_string()))?;
    }
    if store.is_empty() { Err(invalid("it has no certificate".to_owned())) } else { Ok(pem) }
}

/// Forbids to try again with a server whose certificate is not trusted.
#[derive(Debug)]
struct UntrustedServer;

impl ClassifyRetry for UntrustedServer {
    fn name(&self) -> &'static str {
        "UntrustedServer"
    }

    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let failure = context.output_or_error().and_then(Result::err).and_then(|error| error.as_connector_error());
        let is_untrusted = failure.is_some_and(|failure| fault::is_untrusted(failure));
        if is_untrusted { RetryAction::RetryForbidden } else { RetryAction::NoActionIndicated }
    }
}

/// Tells of each attempt after the first one, what became of the one before it, and how long was waited.
#[derive(Debug)]
struct FailedAttempts {
    hears: Hears,
    server: String,
    attempts_max: u32,
}

/// How the last attempt of a request failed.
#[derive(Debug)]
struct FailedAttempt {
    number: u32,
    reason: String,
    at: Instant,
}

impl Storable for FailedAttempt {
    type Storer = StoreReplace<Self>;
}

impl Intercept for FailedAttempts {
    fn name(&self) -> &'static str {
        "FailedAttempts"
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        state: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(Err(error)) = context.output_or_error() {
            let status = context.response().map(|response| format!("HTTP {}", response.status().as_u16()));
            let reason = status.unwrap_or_else(|| fault::one_line(error));
            let number = state.load::<FailedAttempt>().map_or(1, |earlier| earlier.number + 1);
            state.interceptor_state().store_put(FailedAttempt { number, reason, at: Instant::now() });
        }
        Ok(())
    }

    fn read_before_attempt(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        state: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(FailedAttempt { number, reason, at }) = state.load::<FailedAttempt>() {
            self.hears.monitor.note(&format!(
                "The S3 server {} failed to answer ({reason}); it is asked again after {:.1} s: attempt {} of {}",
                self.server,
                at.elapsed().as_secs_f64(),
                number + 1,
                self.attempts_max,
            ));
        }
        Ok(())
    }
}

/// Catches the `Date` header of an answer, of whatever status.
#[derive(Debug, Clone, Default)]
pub struct DateHeader(Arc<Mutex<Option<String>>>);

impl DateHeader {
    /// Returns the time that the header told, if it came and can be read.
    pub fn timestamp(&self) -> Option<Timestamp> {
        let text = lock(&self.0).clone()?;
        rfc2822::DateTimeParser::new().parse_timestamp(&text).ok()
    }
}

impl Intercept for DateHeader {
    fn name(&self) -> &'static str {
        "DateHeader"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date").map(str::to_owned);
        *lock(&self.0) = date;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine_or_on_demand() {
        for endpoint in ["http://127.0.0.1:9000", "http://localhost", "HTTP://[::1]:9000/", "https://minio:9000/base"] {
            assert!(check_endpoint(endpoint, false).is_ok(), "{endpoint}");
        }
        for endpoint in
            ["http://minio:9000", "http://10.0.0.1", "http://localhost.evil.example", "http://127.0.0.1.example"]
        {
            assert!(check_endpoint(endpoint, false).is_err(), "{endpoint}");
            assert!(check_endpoint(endpoint, true).is_ok(), "{endpoint}");
        }
    }

    #[test]
    fn an_endpoint_with_credentials_or_without_a_host_is_refused_and_not_repeated() {
        for endpoint in
            ["https://user:hunter2@minio", "minio:9000", "https://", "ftp://minio", "https://minio?x=hunter2"]
        {
            let message = check_endpoint(endpoint, true).unwrap_err().to_string();
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn a_ca_bundle_without_a_good_certificate_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bundle.pem");
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for text in ["", "no certificate", garbage, "-----BEGIN CERTIFICATE-----\n%%\n-----END CERTIFICATE-----\n"] {
            std::fs::write(&path, text).unwrap();
            let message = read_ca_bundle(path.clone()).unwrap_err().to_string();
            assert!(message.contains("bundle.pem") && message.contains(CA_BUNDLE_VARIABLE), "{message}");
        }
    }
}
