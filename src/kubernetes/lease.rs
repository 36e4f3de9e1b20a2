//! A Lease: of several that want to do the same to one workload, one does.
//!
//! What must stay true: who holds it renews it in time, or stops: [`Lease::take`] gives the holder a wish to stop that is raised
//! once somebody else may have taken it over. A holder that is gone without a word keeps others out for [`LIFE`] and no longer.
//! Every change is one of what was read: of two that change it at once, one fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease as LeaseObject;
use serde_json::json;

use super::{Cluster, posted};
use crate::error::{Error, Fault, Result};
use crate::hears::Hears;

/// How long a holder counts as there after its last sign.
const LIFE: Duration = Duration::from_secs(60);
/// How often it gives one.
const RENEWAL: Duration = Duration::from_secs(15);
/// How long after a sign it may count on being the holder: after that, others may soon.
const KNOWN_MAX: Duration = Duration::from_secs(45);
/// How often the thread that does so looks whether it is to end.
const STEP: Duration = Duration::from_millis(100);

/// A Lease that is held. It ends when it is dropped.
#[derive(Debug)]
pub struct Lease {
    cluster: Cluster,
    name: String,
    holder: String,
    is_over: Arc<AtomicBool>,
    is_lost: Arc<AtomicBool>,
    renewal: Option<JoinHandle<()>>,
}

impl Lease {
    /// Takes a Lease, or fails with [`Error::Busy`] if somebody else holds it. If it is lost, `cluster`'s wish to stop is raised.
    pub fn take(cluster: &Cluster, name: &str) -> Result<Self> {
        let holder = holder();
        cluster.take_lease(name, &holder)?;
        // It is given back, and renewed, also when somebody has asked to stop: that is when it matters.
        let quiet = cluster.heard_by(Hears::nobody());
        let (is_over, is_lost) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let mut lease = Self { cluster: quiet, name: name.to_owned(), holder, is_over, is_lost, renewal: None };
        let renewal = Renewal {
            cluster: lease.cluster.clone(),
            name: lease.name.clone(),
            holder: lease.holder.clone(),
            is_over: Arc::clone(&lease.is_over),
            is_lost: Arc::clone(&lease.is_lost),
            hears: cluster.hears.clone(),
        };
        lease.renewal = Some(thread::spawn(move || renewal.run()));
        Ok(lease)
    }

    /// Returns whether somebody else may hold it by now.
    pub fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Relaxed)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(renewal) = self.renewal.take() {
            let _ = renewal.join();
        }
        // Who cannot give it back lets it run out.
        let _ = self.cluster.give_lease_back(&self.name, &self.holder);
    }
}

/// What gives a sign now and then.
struct Renewal {
    cluster: Cluster,
    name: String,
    holder: String,
    is_over: Arc<AtomicBool>,
    is_lost: Arc<AtomicBool>,
    /// Who is asked to stop if somebody else may hold the Lease.
    hears: Hears,
}

impl Renewal {
    /// Returns the cluster, for requests that have ended at a time.
    fn until(&self, end: Instant) -> Cluster {
        let quiet = Hears::nobody();
        self.cluster.heard_by(Hears { cancel: quiet.cancel.until(end), ..quiet })
    }

    fn run(&self) {
        let (mut renewed, mut tried) = (Instant::now(), Instant::now());
        while !self.is_over.load(Ordering::Relaxed) {
            thread::sleep(STEP);
            if tried.elapsed() < RENEWAL {
                continue;
            }
            tried = Instant::now();
            // A server that does not answer must not keep it from knowing that its time is over.
            let result = self.until(renewed + KNOWN_MAX).take_lease(&self.name, &self.holder);
            if result.is_ok() {
                renewed = tried;
            }
            if matches!(result, Err(Error::Busy(_))) || renewed.elapsed() >= KNOWN_MAX {
                self.is_lost.store(true, Ordering::Relaxed);
                self.hears.cancel.flag().store(true, Ordering::Relaxed);
                return;
            }
        }
    }
}

impl Cluster {
    fn take_lease(&self, name: &str, holder: &str) -> Result<()> {
        let api = self.api::<LeaseObject>();
        let object = format!("the Lease {name}");
        let params = posted();
        let result = match self.ask("read", &object, || api.get_opt(name))? {
            None => {
                let fresh = lease(name, holder, None)?;
                self.ask("create", &object, || api.create(&params, &fresh))
            }
            Some(found) => {
                if let Some(other) = other_holder(&found, holder, Timestamp::now()) {
                    return Err(Error::Busy(format!(
                        "Another process is at work on this: {other} holds {}",
                        self.named(&object)
                    )));
                }
                let fresh = lease(name, holder, found.metadata.resource_version)?;
                self.ask("take", &object, || api.replace(name, &params, &fresh))
            }
        };
        match result {
            Ok(_) => Ok(()),
            Err(error) if error.fault() == Some(Fault::AlreadyExists) => Err(Error::Busy(format!(
                "Another process is at work on this: somebody else took {}",
                self.named(&object)
            ))),
            Err(error) => Err(error),
        }
    }

    fn give_lease_back(&self, name: &str, holder: &str) -> Result<()> {
        let api = self.api::<LeaseObject>();
        let object = format!("the Lease {name}");
        let Some(found) = self.ask("read", &object, || api.get_opt(name))? else { return Ok(()) };
        let version = found.metadata.resource_version.clone();
        if found.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) != Some(holder) {
            return Ok(());
        }
        let free = object_of(json!({ "metadata": { "name": name, "resourceVersion": version }, "spec": {} }))?;
        let params = posted();
        self.ask("give back", &object, || api.replace(name, &params, &free)).map(drop)
    }
}

fn lease(name: &str, holder: &str, version: Option<String>) -> Result<LeaseObject> {
    // The API server wants microseconds, no more and no less.
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    object_of(json!({
        "metadata": { "name": name, "resourceVersion": version },
        "spec": { "holderIdentity": holder, "leaseDurationSeconds": LIFE.as_secs(), "acquireTime": now, "renewTime": now },
    }))
}

fn object_of(value: serde_json::Value) -> Result<LeaseObject> {
    serde_json::from_value(value).map_err(|error| Error::Internal(format!("A Lease cannot be put together: {error}")))
}

/// Returns who else holds a Lease at a time.
fn other_holder(found: &LeaseObject, holder: &str, now: Timestamp) -> Option<String> {
    let spec = found.spec.as_ref()?;
    let other = spec.holder_identity.as_deref().filter(|other| !other.is_empty() && *other != holder)?;
    let seconds = spec.lease_duration_seconds.unwrap_or(0).max(0);
    let renewed: Timestamp = serde_json::to_value(spec.renew_time.as_ref()?).ok()?.as_str()?.parse().ok()?;
    let age = now.duration_since(renewed).as_secs();
    // One that is dated in the future, by another clock, was renewed.
    (age < i64::from(seconds)).then(|| other.to_owned())
}

/// Names this process as no other is named.
fn holder() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}_{}_{}", std::process::id(), Timestamp::now().as_nanosecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_held_by_another_until_its_time_is_over() {
        let found = lease("a", "one", None).unwrap();
        let now = Timestamp::now();
        let later = |seconds: i64| now + jiff::SignedDuration::from_secs(seconds);
        assert_eq!(other_holder(&found, "one", now), None);
        assert_eq!(other_holder(&found, "two", later(-5)).as_deref(), Some("one"));
        assert_eq!(other_holder(&found, "two", later(50)).as_deref(), Some("one"));
        assert_eq!(other_holder(&found, "two", later(62)), None);
        let free = object_of(json!({ "metadata": { "name": "a" }, "spec": {} })).unwrap();
        assert_eq!(other_holder(&free, "two", now), None);
        assert!(holder() != holder());
    }
}
