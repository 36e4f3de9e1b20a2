//! Tells by mail.
//!
//! What must stay true: a password goes only over TLS, or to this machine.

use std::path::PathBuf;
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{Message, SmtpTransport, Transport};
use zeroize::Zeroizing;

use super::Failure;
use crate::error::{Error, Result, with_causes};
use crate::http::is_loopback;
use crate::run_summary::RunSummary;

/// How the connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailTls {
    /// From its first byte (port 465).
    Implicit,
    /// After a greeting, and then always (port 587).
    Starttls,
    /// Not at all.
    None,
}

/// A mail server, and whom it brings mail to.
#[derive(Clone)]
pub struct Mail {
    host: String,
    port: u16,
    tls: MailTls,
    from: Mailbox,
    to: Vec<Mailbox>,
    login: Option<(String, Zeroizing<String>)>,
    ca_bundle: Option<PathBuf>,
}

impl std::fmt::Debug for Mail {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Mail").field("server", &self.shown()).field("to", &self.to).finish_non_exhaustive()
    }
}

impl Mail {
    /// Describes mail from somebody to others, by way of `host` or `host:port`.
    pub fn new(server: &str, tls: MailTls, from: &str, to: &[String]) -> Result<Self> {
        let port_default = match tls {
            MailTls::Implicit => 465,
            MailTls::Starttls => 587,
            MailTls::None => 25,
        };
        let (host, port) = match server.rsplit_once(':').filter(|(host, _)| !host.is_empty()) {
            Some((host, port)) => (host, port.parse().ok()),
            None => (server, Some(port_default)),
        };
        let port =
            port.ok_or_else(|| Error::Invalid(format!("The port of the mail server {server:?} is no number")))?;
        if host.is_empty() || to.is_empty() {
            return Err(Error::Invalid("Mail needs a server, and somebody to go to".to_owned()));
        }
        let to = to.iter().map(|text| mailbox(text)).collect::<Result<_>>()?;
        Ok(Self { host: host.to_owned(), port, tls, from: mailbox(from)?, to, login: None, ca_bundle: None })
    }

    /// Logs in with a name and password.
    pub fn with_login(self, name: String, password: Zeroizing<String>) -> Result<Self> {
        if self.tls == MailTls::None && !is_loopback(&self.host) {
            return Err(Error::Invalid("A password does not go to another machine without TLS".to_owned()));
        }
        Ok(Self { login: Some((name, password)), ..self })
    }

    /// Trusts the certificates in a PEM file instead of the system's.
    pub fn with_ca_bundle(self, ca_bundle: Option<PathBuf>) -> Self {
        Self { ca_bundle, ..self }
    }

    /// Returns the server and how it is spoken to.
    pub fn shown(&self) -> String {
        let scheme = if self.tls == MailTls::Implicit { "smtps" } else { "smtp" };
        format!("{scheme}://{}:{}", self.host, self.port)
    }

    /// Sends a mail. Returns what the server answered.
    pub(super) fn send(&self, summary: &RunSummary, time: Duration) -> Result<String, Failure> {
        let message = self.message(summary).map_err(Failure::lasting)?;
        let transport = self.transport(time).map_err(Failure::lasting)?;
        match transport.send(&message) {
            Ok(answer) => {
                let text = answer.message().collect::<Vec<_>>().join(" ");
                Ok(format!("{} {text}", answer.code()).trim().to_owned())
            }
            Err(error) => {
                let text = with_causes(&error);
                let is_lasting = error.is_permanent() || error.is_client() || is_untrusted(&error);
                Err(if is_lasting { Failure::lasting(text) } else { Failure::passing(text) })
            }
        }
    }

    fn message(&self, summary: &RunSummary) -> Result<Message, lettre::error::Error> {
        let builder = self.to.iter().fold(Message::builder(), |builder, to| builder.to(to.clone()));
        let builder = builder.from(self.from.clone()).subject(summary.title()).message_id(None);
        builder.header(ContentType::TEXT_PLAIN).body(summary.text())
    }

    fn transport(&self, time: Duration) -> Result<SmtpTransport> {
        let tls = match self.tls {
            MailTls::None => Tls::None,
            MailTls::Starttls => Tls::Required(self.tls_parameters()?),
            MailTls::Implicit => Tls::Wrapper(self.tls_parameters()?),
        };
        let builder = SmtpTransport::builder_dangerous(&self.host).port(self.port).tls(tls).timeout(Some(time));
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let builder = builder.hello_name(ClientId::Domain(host));
        Ok(match &self.login {
            Some((name, password)) => builder.credentials(Credentials::new(name.clone(), password.to_string())).build(),
            None => builder.build(),
        })
    }

    fn tls_parameters(&self) -> Result<TlsParameters> {
        let mut builder = TlsParameters::builder(self.host.clone());
        if let Some(path) = &self.ca_bundle {
            let invalid = |reason: String| Error::Invalid(format!("The CA bundle {path:?} cannot be used: {reason}"));
            let pem = std::fs::read(path).map_err(|error| invalid(error.to_string()))?;
            let certificate = Certificate::from_pem(&pem).map_err(|error| invalid(error.to_string()))?;
            builder = builder.certificate_store(CertificateStore::None).add_root_certificate(certificate);
        }
        builder.build().map_err(|error| Error::Invalid(format!("TLS cannot be set up: {error}")))
    }
}

/// A certificate that is not trusted now will not be trusted later.
fn is_untrusted(error: &lettre::transport::smtp::Error) -> bool {
    with_causes(error).contains("certificate")
}

fn mailbox(text: &str) -> Result<Mailbox> {
    text.parse().map_err(|error| Error::Invalid(format!("{text:?} is no mail address: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(server: &str, tls: MailTls) -> Result<Mail> {
        Mail::new(server, tls, "mlvault <a@example.org>", &["b@example.org".to_owned()])
    }

    #[test]
    fn what_cannot_be_mailed_is_refused_and_ports_have_defaults() {
        assert_eq!(mail("h.example.org", MailTls::Implicit).unwrap().shown(), "smtps://h.example.org:465");
        assert_eq!(mail("h.example.org", MailTls::Starttls).unwrap().shown(), "smtp://h.example.org:587");
        assert_eq!(mail("h.example.org:2525", MailTls::None).unwrap().shown(), "smtp://h.example.org:2525");
        assert!(mail("h:x", MailTls::None).is_err() && mail("", MailTls::None).is_err());
        assert!(Mail::new("h", MailTls::None, "nobody", &["b@example.org".to_owned()]).is_err());
        assert!(Mail::new("h", MailTls::None, "a@example.org", &[]).is_err());
        let password = || Zeroizing::new("hunter2".to_owned());
        assert!(mail("h", MailTls::None).unwrap().with_login("a".into(), password()).is_err());
        assert!(mail("127.0.0.1:25", MailTls::None).unwrap().with_login("a".into(), password()).is_ok());
    }
}
