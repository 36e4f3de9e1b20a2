//! PersistentVolumeClaims: a copy of one as it was at a moment, and a new one like another.
//!
//! What must stay true: the claim of a running MLflow is only ever read. A copy is a VolumeSnapshot and a claim made from it, and
//! both go when it is dropped, however the work on it ended; what a killed process left of them goes before the next copy of the
//! same claim is made, and a [`Lease`] keeps two from making one at once.

use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, PostParams};
use serde_json::{Value, json};

use super::{Cluster, FIELD_MANAGER, Lease, PREFIX};
use crate::error::{Error, Fault, Result};
use crate::hears::Hears;

/// How a copy is made.
#[derive(Debug, Clone, Default)]
pub struct CopyOptions {
    /// The VolumeSnapshotClass; the driver's default one where nothing is said.
    pub class: Option<String>,
    /// How long the snapshot may take until it can be used.
    pub time: Duration,
}

/// A copy of a claim.
#[derive(Debug)]
pub struct ClaimCopy {
    cluster: Cluster,
    /// What the VolumeSnapshot and the claim are called.
    name: String,
    _lease: Lease,
}

impl ClaimCopy {
    /// Returns the name of the claim that holds the copy.
    pub fn claim(&self) -> &str {
        &self.name
    }
}

impl Drop for ClaimCopy {
    fn drop(&mut self) {
        // What cannot be removed now is removed before the next copy.
        if let Err(error) = self.cluster.remove_copies(&format!("{COPY_LABEL}={}", self.name)) {
            self.cluster.hears.monitor.warning(&format!("The copy {} was not removed: {error}", self.name));
        }
    }
}

/// The labels of what belongs to a copy: which one, and of which claim.
const COPY_LABEL: &str = "mlvault/copy";
const CLAIM_LABEL: &str = "mlvault/copy-of";

impl Cluster {
    fn volume_snapshots(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &volume_snapshot())
    }

    /// Makes a copy of a claim.
    pub fn copy_claim(&self, claim: &str, options: &CopyOptions) -> Result<ClaimCopy> {
        let lease = Lease::take(self, &format!("mlvault-claim-{claim}"))?;
        let source = self.claim(claim)?;
        self.remove_copies(&format!("{CLAIM_LABEL}={claim}"))?;
        let name = format!("mlvault-{:x}", jiff::Timestamp::now().as_millisecond());
        // From here on it is removed. Also for somebody who has asked to stop.
        let monitor = self.hears.monitor.clone();
        let quiet = self.heard_by(Hears { monitor, ..Hears::nobody() });
        let copy = ClaimCopy { cluster: quiet, name: name.clone(), _lease: lease };
        let labels = json!({ COPY_LABEL: name, CLAIM_LABEL: claim, "app.kubernetes.io/name": PREFIX });
        let size = self.snapshot_claim(claim, (&name, &labels), options)?;
        let mut fresh = like(&source, &name);
        fresh.metadata.labels = serde_json::from_value(labels).ok();
        if let Some(spec) = &mut fresh.spec {
            spec.data_source = serde_json::from_value(json!({
                "apiGroup": volume_snapshot().group, "kind": "VolumeSnapshot", "name": name,
            }))
            .ok();
            // A driver may want more room than the source asked for.
            if let (Some(size), Some(resources)) = (size, &mut spec.resources) {
                resources.requests = Some([("storage".to_owned(), Quantity(size))].into());
            }
        }
        self.create_claim(&fresh)?;
        Ok(copy)
    }

    /// Makes a VolumeSnapshot, and waits until it can be used. Returns how large what is made from it has to be.
    fn snapshot_claim(
        &self,
        claim: &str,
        (name, labels): (&str, &Value),
        options: &CopyOptions,
    ) -> Result<Option<String>> {
        let api = self.volume_snapshots();
        let what = format!("the VolumeSnapshot {name} of the claim {claim}");
        let mut snapshot = DynamicObject::new(name, &volume_snapshot());
        snapshot.metadata.labels = serde_json::from_value(labels.clone()).ok();
        snapshot.data = json!({ "spec": {
            "source": { "persistentVolumeClaimName": claim }, "volumeSnapshotClassName": options.class,
        } });
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        match self.ask("create", &what, || api.create(&params, &snapshot)) {
            Err(error) if error.fault() != Some(Fault::AlreadyExists) => return Err(error),
            _ => {}
        }
        let mut reason = None;
        let size = self.wait(options.time, || {
            let found = self.ask("read", &what, || api.get(name))?;
            let status = &found.data["status"];
            reason = status["error"]["message"].as_str().map(str::to_owned).or(reason.take());
            Ok((status["readyToUse"] == true).then(|| status["restoreSize"].as_str().map(str::to_owned)))
        })?;
        size.ok_or_else(|| {
            let why = reason.unwrap_or_else(|| "no driver has taken it up".to_owned());
            let text = format!("it could not be used within {} s: {why}", options.time.as_secs());
            Error::cluster(Fault::Unavailable, "wait for", self.named(&what), text)
        })
    }

    /// Returns a claim by its name.
    fn claim(&self, name: &str) -> Result<PersistentVolumeClaim> {
        let api = self.api::<PersistentVolumeClaim>();
        self.ask("read", &format!("the claim {name}"), || api.get(name))
    }

    /// Makes a claim like another one: of the same class, size and access. Fails if there is one of that name.
    pub fn create_claim_like(&self, like_claim: &str, name: &str) -> Result<()> {
        let source = self.claim(like_claim)?;
        self.create_claim(&like(&source, name))
    }

    fn create_claim(&self, claim: &PersistentVolumeClaim) -> Result<()> {
        let api = self.api::<PersistentVolumeClaim>();
        let name = claim.metadata.name.clone().unwrap_or_default();
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        self.ask("create", &format!("the claim {name}"), || api.create(&params, claim)).map(drop)
    }

    /// Removes what belongs to copies with these labels.
    fn remove_copies(&self, labels: &str) -> Result<()> {
        let (params, chosen) = (DeleteParams::background(), ListParams::default().labels(labels));
        let (claims, snapshots) = (self.api::<PersistentVolumeClaim>(), self.volume_snapshots());
        for claim in self.ask("list", "claims", || claims.list(&chosen))?.items {
            let name = claim.metadata.name.unwrap_or_default();
            let removed = self.ask("remove", &format!("the claim {name}"), || claims.delete(&name, &params));
            removed.map(drop).or_else(unless_gone)?;
        }
        for snapshot in self.ask("list", "VolumeSnapshots", || snapshots.list(&chosen))?.items {
            let name = snapshot.metadata.name.unwrap_or_default();
            let removed =
                self.ask("remove", &format!("the VolumeSnapshot {name}"), || snapshots.delete(&name, &params));
            removed.map(drop).or_else(unless_gone)?;
        }
        Ok(())
    }
}

fn unless_gone(error: Error) -> Result<()> {
    if error.fault() == Some(Fault::NotFound) { Ok(()) } else { Err(error) }
}

fn volume_snapshot() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("snapshot.storage.k8s.io", "v1", "VolumeSnapshot"))
}

/// Returns a claim that asks for what another one asks for, without its content.
fn like(source: &PersistentVolumeClaim, name: &str) -> PersistentVolumeClaim {
    let spec = source.spec.clone().unwrap_or_default();
    let requests = spec.resources.and_then(|resources| resources.requests);
    let mut claim = PersistentVolumeClaim::default();
    claim.metadata.name = Some(name.to_owned());
    claim.spec = Some(PersistentVolumeClaimSpec {
        access_modes: spec.access_modes,
        storage_class_name: spec.storage_class_name,
        volume_mode: spec.volume_mode,
        resources: Some(VolumeResourceRequirements { requests, ..VolumeResourceRequirements::default() }),
        ..PersistentVolumeClaimSpec::default()
    });
    claim
}
