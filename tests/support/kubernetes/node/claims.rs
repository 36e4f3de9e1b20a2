//! A stand-in for a storage driver (CSI): a directory for each claim of the default class, empty or a copy of a snapshot.
//!
//! What must stay true: claims and volumes are bound and released by the real controller; only the making and the removing of
//! what is behind a volume happens here.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIDriver, StorageClass};
use kube::api::{DeleteParams, PostParams};
use kube::runtime::watcher::Event;
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::time::sleep;

use super::{Host, snapshots, watch};

/// Name of the class, which is the default.
pub const CLASS: &str = "directories";
/// Name of the driver.
pub const DRIVER: &str = "directories.mlvault.invalid";
/// How often is looked whether a snapshot is ready that a claim is to be made from.
const LOOK: Duration = Duration::from_millis(300);

/// Makes the driver and its class, and a volume for every claim of it from now on.
pub fn provide(host: &Arc<Host>) {
    let driver = json!({ "metadata": { "name": DRIVER }, "spec": { "attachRequired": false } });
    let driver = serde_json::from_value(driver).unwrap();
    host.wait(Api::<CSIDriver>::all(host.client.clone()).create(&PostParams::default(), &driver)).unwrap();
    let class = serde_json::from_value(json!({
        "metadata": { "name": CLASS, "annotations": { "storageclass.kubernetes.io/is-default-class": "true" } },
        "provisioner": DRIVER,
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

/// Returns the directory behind a volume: of this driver, or one of the host.
pub fn directory(host: &Host, volume: &PersistentVolume) -> Result<PathBuf, String> {
    let spec = volume.spec.as_ref();
    let of_host = spec.and_then(|spec| spec.host_path.as_ref()).map(|source| PathBuf::from(&source.path));
    let path = of_host.or_else(|| Some(own_directory(host, spec?.csi.as_ref()?.volume_handle.as_str())));
    path.ok_or_else(|| format!("this stand-in cannot mount the volume {}", volume.name_any()))
}

/// Returns where a volume of this driver is.
pub fn own_directory(host: &Host, handle: &str) -> PathBuf {
    host.directory.join("volumes").join(handle)
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
    let path = own_directory(&host, &name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    // A claim is seen more than once; whoever makes the directory makes the volume.
    if fs::create_dir(&path).is_err() || fill(&host, &claim, &path).await.is_none() {
        return;
    }
    let spec = claim.spec.clone().unwrap();
    let wanted = spec.resources.and_then(|it| it.requests).and_then(|it| it.get("storage").cloned());
    let volume = serde_json::from_value(json!({
        "metadata": { "name": name, "annotations": { "pv.kubernetes.io/provisioned-by": DRIVER } },
        "spec": {
            "capacity": { "storage": wanted },
            "accessModes": spec.access_modes,
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": CLASS,
            "csi": { "driver": DRIVER, "volumeHandle": name },
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
    // A claim that is gone by now leaves its volume to be released.
    let _ = Api::<PersistentVolume>::all(host.client.clone()).create(&PostParams::default(), &volume).await;
}

/// Puts into a new volume what its claim is to be made from, once that is ready; none if the claim goes before.
async fn fill(host: &Host, claim: &PersistentVolumeClaim, path: &Path) -> Option<()> {
    let Some(source) = claim.spec.as_ref()?.data_source.as_ref() else { return Some(()) };
    let (namespace, name) = (claim.namespace()?, claim.name_any());
    loop {
        if let Some(from) = snapshots::directory_of(host, &namespace, &source.name).await {
            return snapshots::copy(&from, path).ok();
        }
        sleep(LOOK).await;
        host.api::<PersistentVolumeClaim>(&namespace).get(&name).await.ok()?;
    }
}

async fn remove(host: Arc<Host>, volume: PersistentVolume) {
    let volumes: Api<PersistentVolume> = Api::all(host.client.clone());
    // Only what was made here is removed, whatever a volume says.
    let source = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref()).filter(|source| source.driver == DRIVER);
    source.map(|source| fs::remove_dir_all(own_directory(&host, &source.volume_handle)));
    let _ = volumes.delete(&volume.name_any(), &DeleteParams::default()).await;
}
