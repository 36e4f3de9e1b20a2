//! Objects in memory, for tests, which may also say what time it is there.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use jiff::Timestamp;

use crate::backend::{Backend, Listed, is_key, is_key_prefix};
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Fault, Result};
use crate::sync::lock;

/// A backend that lives as long as its value.
#[derive(Default)]
pub struct MemoryBackend {
    objects: Mutex<BTreeMap<String, Stored>>,
    /// Where it has one, this machine's clock is not asked.
    clock: Option<Arc<dyn Clock>>,
}

struct Stored {
    bytes: Bytes,
    modified: Timestamp,
}

impl MemoryBackend {
    /// Returns an empty backend with a clock of its own, like that of a server.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { objects: Mutex::default(), clock: Some(clock) }
    }

    /// Replaces or plants an object, as only a test's vandal would.
    pub fn overwrite(&self, key: &str, bytes: impl Into<Bytes>) {
        let stored = self.stored_now(bytes.into());
        self.objects().insert(key.to_owned(), stored);
    }

    /// Changes the time at which an object was written, if it is there.
    pub fn set_modified(&self, key: &str, modified: Timestamp) {
        if let Some(stored) = self.objects().get_mut(key) {
            stored.modified = modified;
        }
    }

    fn stored_now(&self, bytes: Bytes) -> Stored {
        let modified = self.clock.as_ref().map_or_else(|| SystemClock.now(), |clock| clock.now());
        Stored { bytes, modified }
    }

    /// Fails for a name that no other backend would take either.
    fn check_key(action: &'static str, key: &str) -> Result<()> {
        if is_key(key) { Ok(()) } else { Err(Error::backend(Fault::Other, action, key, "it is not a valid key")) }
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Stored>> {
        lock(&self.objects)
    }
}

impl Backend for MemoryBackend {
    fn location(&self) -> String {
        "memory:".to_owned()
    }

    fn create(&self, key: &str, bytes: Bytes) -> Result<()> {
        Self::check_key("create", key)?;
        let stored = self.stored_now(bytes);
        let mut objects = self.objects();
        if objects.contains_key(key) {
            return Err(Error::backend(Fault::AlreadyExists, "create", key, "it exists"));
        }
        objects.insert(key.to_owned(), stored);
        Ok(())
    }

    fn read_up_to(&self, key: &str, bytes_max: u64) -> Result<Bytes> {
        Self::check_key("read", key)?;
        let object = self.objects().get(key).map(|stored| stored.bytes.clone());
        let bytes = object.ok_or_else(|| Error::backend(Fault::NotFound, "read", key, "no such object"))?;
        if bytes.len() as u64 > bytes_max {
            let reason = format!("it has {} bytes, more than {bytes_max}", bytes.len());
            return Err(Error::backend(Fault::BadAnswer, "read", key, reason));
        }
        Ok(bytes)
    }

    fn read_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let bytes = self.read(key)?;
        if range.start > range.end || range.end > bytes.len() as u64 {
            let reason = format!("it has {} bytes, {}..{} were asked for", bytes.len(), range.start, range.end);
            return Err(Error::backend(Fault::BadAnswer, "read", key, reason));
        }
        Ok(bytes.slice(range.start as usize..range.end as usize))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        if !is_key_prefix(prefix) {
            return Err(Error::backend(Fault::Other, "list", prefix, "it is not a valid prefix"));
        }
        let objects = self.objects();
        let from = objects.range(prefix.to_owned()..);
        Ok(from
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, stored)| Listed {
                key: key.clone(),
                size: stored.bytes.len() as u64,
                modified: stored.modified,
            })
            .collect())
    }

    fn remove(&self, key: &str) -> Result<()> {
        Self::check_key("remove", key)?;
        self.objects().remove(key);
        Ok(())
    }

    fn server_time(&self) -> Result<Option<Timestamp>> {
        Ok(self.clock.as_ref().map(|clock| clock.now()))
    }

    fn concurrency(&self) -> usize {
        2
    }
}
