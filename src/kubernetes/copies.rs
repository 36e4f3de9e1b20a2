//! A copy of a PersistentVolumeClaim as it was at one moment.
//!
//! What must stay true:
//! - The claim itself is only ever read.
//! - A copy is a VolumeSnapshot, which owns all that is made for it: the claim that is made from it, and the Job that reads that. It
//!   goes when the copy is dropped, however the work on it ended; what a killed process left goes before the next copy of the
//!   same claim is made. A [`Lease`] keeps two from making one at once.

use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams};
use serde_json::json;

use super::claims::like;
use super::{Cluster, Lease, PREFIX, posted};
use crate::error::{Error, Fault, Result};
use crate::hears::Hears;

/// The label that says of which claim something is a copy, by its uid: a label is too short for some names.
const CLAIM_LABEL: &str = "mlvault/copy-of";

/// How a copy is made.
#[derive(Debug, Clone, Default)]
pub struct CopyOptions {
    /// The VolumeSnapshotClass; the driver's default one where nothing is said.
    pub class: Option<String>,
    /// How long the snapshot may take until it can be used.
    pub wait_max: Duration,
}

/// A copy of a claim.
#[derive(Debug)]
pub struct ClaimCopy {
    /// Hears of nobody's wish to stop: what was made is removed all the same.
    cluster: Cluster,
    snapshot: DynamicObject,
    _lease: Lease,
}

impl ClaimCopy {
    /// Returns the name of the claim that holds the copy.
    pub fn claim(&self) -> &str {
        self.snapshot.metadata.name.as_deref().unwrap_or_default()
    }

    /// Returns the owner of all that is made for the copy: what it owns goes with it.
    pub fn owner(&self) -> OwnerReference {
        let kind = volume_snapshot();
        OwnerReference {
            api_version: kind.api_version,
            kind: kind.kind,
            name: self.claim().to_owned(),
            uid: self.snapshot.metadata.uid.clone().unwrap_or_default(),
            ..OwnerReference::default()
        }
    }
}

impl Drop for ClaimCopy {
    fn drop(&mut self) {
        // What cannot be removed now is removed before the next copy.
        if let Err(error) = self.cluster.remove_snapshot(self.claim()) {
            self.cluster.hears.monitor.warning(&format!("The copy {} was not removed: {error}", self.claim()));
        }
    }
}

impl Cluster {
    /// Makes a copy of a claim.
    ///
    /// Fails as busy if somebody else is at it, and as unavailable if the snapshot of the claim cannot be used in time; nothing
    /// of the copy stays then.
    pub fn copy_claim(&self, claim: &str, options: &CopyOptions) -> Result<ClaimCopy> {
        let lease = Lease::take(self, &format!("mlvault-claim-{claim}"))?;
        let claims = self.api::<PersistentVolumeClaim>();
        let source = self.ask("read", &format!("the claim {claim}"), || claims.get(claim))?;
        self.remove_copies_of(&source)?;
        let snapshot = self.create_snapshot(&source, options.class.as_deref())?;
        let monitor = self.hears.monitor.clone();
        let quiet = self.heard_by(Hears { monitor, ..Hears::nobody() });
        let copy = ClaimCopy { cluster: quiet, snapshot, _lease: lease };
        let size = self.wait_for_snapshot(copy.claim(), claim, options.wait_max)?;
        self.create_claim(&from_snapshot(&source, &copy, size))?;
        Ok(copy)
    }

    fn snapshots(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &volume_snapshot())
    }

    fn create_snapshot(&self, source: &PersistentVolumeClaim, class: Option<&str>) -> Result<DynamicObject> {
        let (claim, uid) = names(source);
        let name = format!("mlvault-{:x}", jiff::Timestamp::now().as_millisecond());
        let (api, params) = (self.snapshots(), posted());
        let what = format!("the VolumeSnapshot {name} of the claim {claim}");
        let mut wanted = DynamicObject::new(&name, &volume_snapshot());
        let labels = [(CLAIM_LABEL, uid), ("app.kubernetes.io/name", PREFIX)];
        wanted.metadata.labels = Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        wanted.data = json!({ "spec": { "source": { "persistentVolumeClaimName": claim } } });
        if let Some(class) = class {
            wanted.data["spec"]["volumeSnapshotClassName"] = class.into();
        }
        match self.ask("create", &what, || api.create(&params, &wanted)) {
            // A first attempt that got no answer has made it: the name is like no other.
            Err(error) if error.fault() == Some(Fault::AlreadyExists) => self.ask("read", &what, || api.get(&name)),
            result => result,
        }
    }

    /// Waits until a snapshot can be used. Returns how large what is made from it has to be, if the driver says so.
    fn wait_for_snapshot(&self, name: &str, claim: &str, wait_max: Duration) -> Result<Option<String>> {
        let api = self.snapshots();
        let what = format!("the VolumeSnapshot {name} of the claim {claim}");
        let mut reason = None;
        let size = self.wait(wait_max, || {
            let found = self.ask("read", &what, || api.get(name))?;
            let status = &found.data["status"];
            reason = status["error"]["message"].as_str().map(str::to_owned).or(reason.take());
            Ok((status["readyToUse"] == true).then(|| status["restoreSize"].as_str().map(str::to_owned)))
        })?;
        size.ok_or_else(|| {
            let why = reason.unwrap_or_else(|| "no driver has taken it up".to_owned());
            let text = format!("it could not be used within {} s: {why}", wait_max.as_secs());
            Error::cluster(Fault::Unavailable, "wait for", self.named(&what), text)
        })
    }

    /// Removes what is left of copies of a claim.
    fn remove_copies_of(&self, source: &PersistentVolumeClaim) -> Result<()> {
        let (api, label) = (self.snapshots(), format!("{CLAIM_LABEL}={}", names(source).1));
        let params = ListParams::default().labels(&label);
        let left = self.ask("list", "VolumeSnapshots", || api.list(&params))?;
        left.items.into_iter().filter_map(|it| it.metadata.name).try_for_each(|name| self.remove_snapshot(&name))
    }

    /// Removes a snapshot, after all that it owns: some controllers keep one as long as a claim waits to be made from it.
    fn remove_snapshot(&self, name: &str) -> Result<()> {
        let (api, params) = (self.snapshots(), DeleteParams::foreground());
        match self.ask("remove", &format!("the VolumeSnapshot {name}"), || api.delete(name, &params)) {
            Err(error) if error.fault() != Some(Fault::NotFound) => Err(error),
            _ => Ok(()),
        }
    }
}

/// Returns the name of a claim, and its uid.
fn names(claim: &PersistentVolumeClaim) -> (&str, &str) {
    let metadata = &claim.metadata;
    (metadata.name.as_deref().unwrap_or_default(), metadata.uid.as_deref().unwrap_or_default())
}

fn volume_snapshot() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("snapshot.storage.k8s.io", "v1", "VolumeSnapshot"))
}

/// Returns the claim that is made from the snapshot of another one.
fn from_snapshot(source: &PersistentVolumeClaim, copy: &ClaimCopy, size: Option<String>) -> PersistentVolumeClaim {
    let kind = volume_snapshot();
    let mut claim = like(source, copy.claim());
    claim.metadata.labels = copy.snapshot.metadata.labels.clone();
    claim.metadata.owner_references = Some(vec![copy.owner()]);
    let spec = claim.spec.get_or_insert_default();
    let from = json!({ "apiGroup": kind.group, "kind": kind.kind, "name": copy.claim() });
    spec.data_source = serde_json::from_value(from).ok();
    // A driver may want more room than the source asked for.
    if let (Some(size), Some(resources)) = (size, &mut spec.resources) {
        resources.requests = Some([("storage".to_owned(), Quantity(size))].into());
    }
    claim
}
