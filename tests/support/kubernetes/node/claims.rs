//! A stand-in for a storage driver: a directory for each claim of the default class.
//!
//! What must stay true: claims and volumes are bound and released by the real controller; only the making and the removing of
//! what is behind a volume happens here.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, PostParams};
use kube::runtime::watcher::Event;
use kube::{Api, ResourceExt};
use serde_json::json;

use super::{Host, watch};

/// Name of the class, which is the default.
pub const CLASS: &str = "directories";
/// Who provides its volumes.
const PROVISIONER: &str = "directories.mlvault.invalid";

/// Makes the class, and a volume for every claim of it from now on.
pub fn provide(host: &Arc<Host>) {
    let class = serde_json::from_value(json!({
        "metadata": { "name": CLASS, "annotations": { "storageclass.kubernetes.io/is-default-class": "true" } },
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    }))
    .unwrap();
    host.wait(Api::<StorageClass>::all(host.client.clone()).create(&PostParams::default(), &class)).unwrap();
    let own = Arc::clone(host);
    watch(host, Api::<PersistentVolumeClaim>::all(host.client.clone()), move |event| {
        if let Event::Apply(claim) | Event::InitApply(claim) = event
            && is_wanted(&claim)
        {
            own.runtime.spawn(make(Arc::clone(&own), claim));
        }
    });
    let own = Arc::clone(host);
    watch(host, Api::<PersistentVolume>::all(host.client.clone()), move |event| {
        if let Event::Apply(volume) | Event::InitApply(volume) = event
            && is_to_go(&volume)
        {
            own.runtime.spawn(remove(Arc::clone(&own), volume));
        }
    });
}

/// Returns the directory behind a volume.
pub fn directory(volume: &PersistentVolume) -> Result<PathBuf, String> {
    let path = volume.spec.as_ref().and_then(|spec| spec.host_path.as_ref()).map(|source| PathBuf::from(&source.path));
    path.ok_or_else(|| format!("this stand-in cannot mount the volume {}", volume.name_any()))
}

fn is_wanted(claim: &PersistentVolumeClaim) -> bool {
    let Some(spec) = &claim.spec else { return false };
    spec.volume_name.is_none() && spec.storage_class_name.as_deref() == Some(CLASS)
}

fn is_to_go(volume: &PersistentVolume) -> bool {
    let Some(spec) = &volume.spec else { return false };
    let is_released = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Released");
    let is_deleted = spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete");
    is_released && is_deleted && spec.storage_class_name.as_deref() == Some(CLASS)
}

async fn make(host: Arc<Host>, claim: PersistentVolumeClaim) {
    let name = format!("pvc-{}", claim.uid().unwrap());
    let path = host.directory.join("volumes").join(&name);
    let spec = claim.spec.clone().unwrap();
    let wanted = spec.resources.and_then(|it| it.requests).and_then(|it| it.get("storage").cloned());
    let volume = serde_json::from_value(json!({
        "metadata": { "name": name, "annotations": { "pv.kubernetes.io/provisioned-by": PROVISIONER } },
        "spec": {
            "capacity": { "storage": wanted },
            "accessModes": spec.access_modes,
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": CLASS,
            "hostPath": { "path": path },
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": claim.namespace(),
                "name": claim.name_any(),
                "uid": claim.uid(),
            },
        },
    }))
    .unwrap();
    fs::create_dir_all(&path).unwrap();
    // A claim that is seen twice has its volume by the first of two requests.
    let _ = Api::<PersistentVolume>::all(host.client.clone()).create(&PostParams::default(), &volume).await;
}

async fn remove(host: Arc<Host>, volume: PersistentVolume) {
    let volumes: Api<PersistentVolume> = Api::all(host.client.clone());
    if let Ok(path) = directory(&volume)
        && is_own(&host.directory, &path)
    {
        let _ = fs::remove_dir_all(path);
    }
    let _ = volumes.delete(&volume.name_any(), &DeleteParams::default()).await;
}

/// Returns whether a directory was made here: nothing else is removed, whatever a volume says.
fn is_own(node: &Path, path: &Path) -> bool {
    path.starts_with(node.join("volumes"))
}
