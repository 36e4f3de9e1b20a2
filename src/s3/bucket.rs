//! One bucket: the way to it, its name in messages, and what is asked about it as a whole.
//!
//! What must stay true: keys in messages are shown as they are, bounded and without control characters; every failed
//! request becomes an error in one place, [`Bucket::failed`]. How objects are read, written and listed is told in files
//! of their own, which know this one and not the other way round.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{BoxError, ProvideErrorMetadata, SdkError};
use jiff::Timestamp;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::error::{Error, Fault, Result};
use crate::hears::Hears;
use crate::runtime;
use crate::s3::connection::{self, DateHeader};
use crate::s3::fault;
use crate::s3::interruption::{self, Kind};
use crate::s3::options::S3Options;
use crate::s3::pace::Limits;
use crate::s3::patience::Patience;

/// A bucket, and how it is reached. Clones share connections.
#[derive(Debug, Clone)]
pub struct Bucket {
    runtime: &'static Runtime,
    client: Client,
    name: String,
    patience: Patience,
    hears: Hears,
    limits: Limits,
    /// Whether the server was found to refuse every write with a condition, and to take the same without.
    refuses_conditions: Arc<AtomicBool>,
}

impl Bucket {
    /// Prepares a client. Sends nothing to the server yet, but may ask AWS for the region.
    pub fn connect(name: &str, options: &S3Options, patience: Patience) -> Result<Self> {
        let runtime = runtime::runtime()?;
        let (limits, patience) = (options.limits.clone(), options.limits.patience(patience));
        let hears = options.hears.clone();
        let client = interruption::answer(&hears, Kind::Read, || connection::connect(options, &patience));
        let client = runtime.block_on(client)??;
        let refuses_conditions = Arc::new(AtomicBool::new(false));
        Ok(Self { runtime, client, name: name.to_owned(), patience, hears, limits, refuses_conditions })
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns where an object is, for messages; without a key, where the bucket is.
    pub fn place(&self, key: &str) -> String {
        if key.is_empty() { format!("s3://{}", self.name) } else { format!("s3://{}/{key}", self.name) }
    }

    /// Sends a write that must not replace anything, with its condition. A server that has no conditions (HTTP 501) gets it
    /// without: it is then like one that ignores them, and whoever relies on them finds out by trying.
    pub(super) fn write_once<T>(&self, create_only: bool, write: impl Fn(bool) -> Result<T>) -> Result<T> {
        if !create_only || self.refuses_conditions.load(Ordering::Relaxed) {
            return write(false);
        }
        let refused = match write(true) {
            Err(error) if error.fault() == Some(Fault::Unsupported) => error,
            answer => return answer,
        };
        // Refused for something else, the write fails again, and the first answer is the one to be told.
        let written = write(false).map_err(|_| refused)?;
        self.refuses_conditions.store(true, Ordering::Relaxed);
        Ok(written)
    }

    /// Fails if the bucket does not exist, does not answer, or may not be listed with these credentials.
    pub fn check_listable(&self, prefix: &str) -> Result<()> {
        let request = self.client.list_objects_v2().bucket(&self.name).prefix(prefix).max_keys(1);
        let answer = self.ask(Kind::Read, || request.clone().send())?;
        answer.map_err(|error| self.failed("open", prefix.trim_end_matches('/'), error))?;
        Ok(())
    }

    /// Returns the server's own idea of the time, if it tells it.
    pub fn date(&self) -> Result<Option<Timestamp>> {
        let header = DateHeader::default();
        let request = self.client.head_bucket().bucket(&self.name);
        let answer = self.ask(Kind::Read, || request.clone().customize().interceptor(header.clone()).send())?;
        match (header.timestamp(), answer) {
            // An answer that refuses tells the time as well.
            (Some(date), _) => Ok(Some(date)),
            (None, Ok(_)) => Ok(None),
            (None, Err(error)) => Err(self.failed("ask for the time at", "", error)),
        }
    }

    /// Returns the tags of an object.
    pub fn tags(&self, key: &str) -> Result<BTreeMap<String, String>> {
        let request = self.client.get_object_tagging().bucket(&self.name).key(key);
        let answer = self.ask(Kind::Read, || request.clone().send())?;
        let answer = answer.map_err(|error| self.failed("read the tags of", key, error))?;
        Ok(answer.tag_set().iter().map(|tag| (tag.key().to_owned(), tag.value().to_owned())).collect())
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn patience(&self) -> &Patience {
        &self.patience
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Waits for the answer to a request, unless somebody asks to stop. The request may be sent again.
    pub(super) fn ask<T, F: Future<Output = T>>(&self, kind: Kind, request: impl Fn() -> F) -> Result<T> {
        self.runtime.block_on(interruption::answer(&self.hears, kind, request))
    }

    /// Begins what is given up once somebody asks to stop.
    pub(super) fn later<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Later<T> {
        let hears = self.hears.clone();
        // How long it takes depends on how much it brings.
        let work = async move { interruption::unless_stopped(&hears, Kind::Body, work).await? };
        Later { runtime: self.runtime, task: self.runtime.spawn(work) }
    }

    pub(super) fn fault(&self, fault: Fault, action: &'static str, key: &str, reason: impl Into<BoxError>) -> Error {
        Error::backend(fault, action, self.place(key), reason)
    }

    pub(super) fn failed<E>(&self, action: &'static str, key: &str, error: SdkError<E>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        Error::backend(fault::of(&error), action, self.place(key), fault::describe(&error))
    }
}

/// The result of a request that is under way. Dropping it gives the request up.
pub struct Later<T> {
    runtime: &'static Runtime,
    task: JoinHandle<Result<T>>,
}

impl<T> Later<T> {
    /// Waits for the result.
    pub fn wait(mut self) -> Result<T> {
        let outcome = self.runtime.block_on(&mut self.task);
        outcome.unwrap_or_else(|error| Err(Error::Internal(format!("a request ended early: {error}"))))
    }
}

impl<T> Drop for Later<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}
