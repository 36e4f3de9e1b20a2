//! Whom mlvault calls, as it is configured: hooks and notifications.
//!
//! What must stay true: a part that cannot be used is an error of that part alone, so that a run can go on without it.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use zeroize::Zeroizing;

use crate::config::credential::read_secret_line;
use crate::error::{Error, Result};
use crate::hooks::{self, Hooks};
use crate::notify::{self, Call, Mail, MailTls, Place, Sends, Way};
use crate::run_summary::{RunVerdict, Watched};
use crate::units::parse_duration;

/// What the configuration file says of hooks, for all runs or for those of a deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct HooksSection {
    /// Runs before the command; if it fails, the command does not begin.
    pub before: Option<String>,
    /// Runs after a command that finished, complete or not.
    pub after: Option<String>,
    /// Runs after one that failed.
    pub failed: Option<String>,
    /// For which commands.
    pub on: Vec<Watched>,
    /// How long each may take.
    pub timeout: Option<String>,
}

impl HooksSection {
    /// Returns what is said here, and where nothing is, what `under` says.
    pub fn over(self, under: &Self) -> Self {
        let pick = |own: Option<String>, other: &Option<String>| own.or_else(|| other.clone());
        Self {
            before: pick(self.before, &under.before),
            after: pick(self.after, &under.after),
            failed: pick(self.failed, &under.failed),
            on: if self.on.is_empty() { under.on.clone() } else { self.on },
            timeout: pick(self.timeout, &under.timeout),
        }
    }

    /// Returns the hooks.
    pub fn hooks(self) -> Result<Hooks> {
        let on = if self.on.is_empty() { vec![Watched::Backup] } else { self.on };
        let timeout = timeout(self.timeout.as_deref(), hooks::TIMEOUT_DEFAULT)?;
        Ok(Hooks { before: self.before, after: self.after, failed: self.failed, on, timeout })
    }
}

/// How somebody is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NotifyKind {
    /// The summary as JSON, to a URL.
    Webhook,
    /// A text as JSON, to a URL of Slack or what is compatible.
    Slack,
    /// Signs of life to a URL, as healthchecks.io takes them.
    Ping,
    /// Mail.
    Smtp,
}

/// What somebody is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NotifyOn {
    /// Runs that did everything.
    Success,
    /// Runs that finished, but lack something.
    Incomplete,
    /// Runs that failed or were interrupted.
    Failure,
}

/// How a mail server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MailTlsSetting {
    /// TLS from the first byte.
    Implicit,
    /// TLS after a greeting.
    Starttls,
    /// No TLS.
    None,
}

/// What the configuration file says of somebody who wants to be told.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NotifySection {
    /// How.
    pub kind: NotifyKind,
    /// The URL that is called.
    pub url: Option<String>,
    /// A file whose first line is that URL.
    pub url_file: Option<PathBuf>,
    /// Whether plain HTTP to another machine is accepted.
    #[serde(default)]
    pub insecure_http: bool,
    /// File of CA certificates to trust.
    pub ca_bundle: Option<PathBuf>,
    /// What it is told.
    #[serde(default)]
    pub on: Vec<NotifyOn>,
    /// Of which commands.
    #[serde(default)]
    pub commands: Vec<Watched>,
    /// Of which deployments.
    #[serde(default)]
    pub deployments: Vec<String>,
    /// How long telling it may take in all.
    pub timeout: Option<String>,
    /// The mail server, as `host` or `host:port`.
    pub server: Option<String>,
    /// How it is spoken to.
    pub tls: Option<MailTlsSetting>,
    /// Whom the mail is from.
    pub from: Option<String>,
    /// Whom it goes to.
    #[serde(default)]
    pub to: Vec<String>,
    /// Who logs in.
    pub username: Option<String>,
    /// A file whose first line is the password.
    pub password_file: Option<PathBuf>,
}

impl NotifySection {
    /// Reads the files that are named, and returns whom to tell.
    pub fn place(&self, name: &str) -> Result<Place> {
        Ok(Place {
            name: name.to_owned(),
            way: self.way()?,
            on: self.verdicts(),
            commands: self.watched(),
            deployments: self.deployments.clone(),
            timeout: timeout(self.timeout.as_deref(), notify::TIMEOUT_DEFAULT)?,
        })
    }

    fn way(&self) -> Result<Way> {
        let sends = match self.kind {
            NotifyKind::Smtp => return self.mail().map(Way::Mail),
            NotifyKind::Webhook => Sends::Summary,
            NotifyKind::Slack => Sends::Chat,
            NotifyKind::Ping => Sends::Ping,
        };
        let is_of_mail = self.server.is_some() || self.tls.is_some() || self.from.is_some() || !self.to.is_empty();
        if is_of_mail || self.username.is_some() || self.password_file.is_some() {
            return Err(invalid("server, tls, from, to, username and password-file are for mail (kind = \"smtp\")"));
        }
        let url = match (&self.url, &self.url_file) {
            (Some(url), None) => Zeroizing::new(url.clone()),
            (None, Some(file)) => read_secret_line(file)?,
            _ => return Err(invalid("give either url or url-file")),
        };
        Call::new(sends, &url, self.insecure_http, self.ca_bundle.clone()).map(Way::Call)
    }

    fn mail(&self) -> Result<Mail> {
        if self.url.is_some() || self.url_file.is_some() || self.insecure_http {
            return Err(invalid("url, url-file and insecure-http are not for mail"));
        }
        let (Some(server), Some(from)) = (&self.server, &self.from) else {
            return Err(invalid("mail needs server, from and to"));
        };
        let tls = match self.tls {
            Some(MailTlsSetting::Implicit) => MailTls::Implicit,
            Some(MailTlsSetting::Starttls) | None => MailTls::Starttls,
            Some(MailTlsSetting::None) => MailTls::None,
        };
        let mail = Mail::new(server, tls, from, &self.to)?.with_ca_bundle(self.ca_bundle.clone());
        match (&self.username, &self.password_file) {
            (None, None) => Ok(mail),
            (Some(name), Some(file)) => mail.with_login(name.clone(), read_secret_line(file)?),
            _ => Err(invalid("username and password-file belong together")),
        }
    }

    /// Who waits for signs of life is alarmed by silence, and is told everything.
    fn verdicts(&self) -> Vec<RunVerdict> {
        let usual = match self.kind {
            NotifyKind::Ping => &[NotifyOn::Success, NotifyOn::Incomplete, NotifyOn::Failure][..],
            _ => &[NotifyOn::Incomplete, NotifyOn::Failure],
        };
        let on = if self.on.is_empty() { usual } else { &self.on };
        let verdicts = on.iter().flat_map(|on| match on {
            NotifyOn::Success => &[RunVerdict::Success][..],
            NotifyOn::Incomplete => &[RunVerdict::Incomplete],
            NotifyOn::Failure => &[RunVerdict::Failure, RunVerdict::Interrupted],
        });
        verdicts.copied().collect()
    }

    /// A sign of life stands for one job.
    fn watched(&self) -> Vec<Watched> {
        match (self.commands.is_empty(), self.kind) {
            (false, _) => self.commands.clone(),
            (true, NotifyKind::Ping) => vec![Watched::Backup],
            (true, _) => Watched::SCHEDULED.to_vec(),
        }
    }
}

fn timeout(said: Option<&str>, usual: Duration) -> Result<Duration> {
    let Some(text) = said else { return Ok(usual) };
    let time = parse_duration(text).filter(|time| time.is_positive()).map(|time| time.unsigned_abs());
    time.ok_or_else(|| Error::Invalid(format!("The timeout {text:?} is not a time such as 30s or 10m")))
}

fn invalid(reason: &str) -> Error {
    Error::Invalid(format!("It cannot be used: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::ConfigFile;

    fn file(text: &str) -> ConfigFile {
        ConfigFile::parse(text).unwrap()
    }

    #[test]
    fn what_a_deployment_says_of_hooks_counts_before_what_all_have() {
        let file = file(
            "[hooks]\nbefore = 'a'\nfailed = 'b'\non = ['backup', 'check']\n[deployment.p.hooks]\nbefore = 'c'\n\
             timeout = '5s'\n[deployment.q.hooks]\ntimeout = 'soon'\n",
        );
        let of = |name| file.hooks(name).unwrap();
        assert_eq!((of(None).before.as_deref(), of(None).timeout), (Some("a"), hooks::TIMEOUT_DEFAULT));
        let p = of(Some("p"));
        assert_eq!((p.before.as_deref(), p.failed.as_deref()), (Some("c"), Some("b")));
        assert_eq!((p.on, p.timeout), (vec![Watched::Backup, Watched::Check], Duration::from_secs(5)));
        assert!(file.hooks(Some("q")).is_err());
        assert_eq!(ConfigFile::default().hooks(None).unwrap().on, [Watched::Backup]);
    }

    #[test]
    fn one_who_cannot_be_told_does_not_keep_the_others_from_it() {
        let file = file(
            "[notify.a]\nkind = 'ping'\nurl = 'http://127.0.0.1/x'\n[notify.b]\nkind = 'webhook'\n\
             [notify.c]\nkind = 'slack'\nurl-file = '/none'\n[notify.d]\nkind = 'smtp'\nserver = 'h'\n\
             [notify.e]\nkind = 'smtp'\nserver = 'h'\nfrom = 'a@example.org'\nto = ['b@example.org']\n\
             [notify.f]\nkind = 'webhook'\nurl = 'https://h/x'\nto = ['b@example.org']\n\
             [notify.g]\nkind = 'webhook'\nurl = 'https://h/x'\ntimeout = '0s'\n",
        );
        let (places, faults) = file.places();
        assert_eq!(places.iter().map(|place| place.name.as_str()).collect::<Vec<_>>(), ["a", "e"]);
        assert_eq!(faults.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["b", "c", "d", "f", "g"]);
        assert_eq!((places[0].commands.len(), places[0].on.len()), (1, 4));
        assert!(!places[1].on.contains(&RunVerdict::Success) && places[1].commands.contains(&Watched::Prune));
        assert!(ConfigFile::parse("[notify.a]\nkind = 'pigeon'\n").is_err());
    }
}
