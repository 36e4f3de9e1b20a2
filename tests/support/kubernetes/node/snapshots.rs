//! A stand-in for the snapshotting half of a storage driver: copies of the directories behind volumes.
//!
//! What must stay true: VolumeSnapshots and their contents are bound, protected and released by the real snapshot-controller; only
//! the copying and the removing happens here, which a driver and its sidecar do. What a claim is made from is copied by
//! [`super::claims`].

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::{fs, io};

use jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::runtime::watcher::Event;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::claims::{DRIVER, own_directory};
use super::{Host, watch};

/// Group of the objects.
pub const GROUP: &str = "snapshot.storage.k8s.io";
/// Name of the class whose snapshots become ready, and of the one whose snapshots never do.
pub const CLASS: &str = "directories";
pub const STUCK_CLASS: &str = "stuck";
/// What keeps the content of a snapshot until the driver has removed it.
const PROTECTION: &str = "snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection";

/// Looks after the content of snapshots from now on. The definitions of their objects must be there.
pub fn provide(host: &Arc<Host>) {
    fs::create_dir_all(place(host, "")).unwrap();
    let own = Arc::clone(host);
    watch(host, contents(host), move |event| {
        if let Event::Apply(content) | Event::InitApply(content) = event {
            own.runtime.spawn(see(Arc::clone(&own), content));
        }
    });
}

/// Returns the classes of snapshots, as manifests.
pub fn classes() -> String {
    let class = |name: &str| {
        let metadata = json!({ "name": name });
        let kind = ("VolumeSnapshotClass", format!("{GROUP}/v1"));
        json!({ "apiVersion": kind.1, "kind": kind.0, "metadata": metadata, "driver": DRIVER, "deletionPolicy": "Delete" })
    };
    format!("{}\n---\n{}", class(CLASS), class(STUCK_CLASS))
}

/// Returns the directory of the snapshot that a claim is to be made from, once it is ready.
pub async fn directory_of(host: &Host, namespace: &str, snapshot: &str) -> Option<PathBuf> {
    let snapshots: Api<DynamicObject> =
        Api::namespaced_with(host.client.clone(), namespace, &resource("VolumeSnapshot"));
    let status = snapshots.get(snapshot).await.ok()?.data["status"].take();
    if status["readyToUse"] != true {
        return None;
    }
    let content = contents(host).get(status["boundVolumeSnapshotContentName"].as_str()?).await.ok()?;
    Some(place(host, content.data["status"]["snapshotHandle"].as_str()?))
}

/// Copies a directory with all that is in it.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let source = from.join(".");
    let copied = Command::new("cp").arg("-a").arg(source).arg(to).output()?;
    if copied.status.success() { Ok(()) } else { Err(io::Error::other(String::from_utf8_lossy(&copied.stderr))) }
}

async fn see(host: Arc<Host>, content: DynamicObject) {
    let (spec, status) = (&content.data["spec"], &content.data["status"]);
    let is_deleted = content.metadata.deletion_timestamp.is_some();
    if spec["driver"] != DRIVER || (spec["volumeSnapshotClassName"] == STUCK_CLASS && !is_deleted) {
        return;
    }
    let handle = format!("snapshot-{}", content.uid().unwrap());
    let to = place(&host, &handle);
    if is_deleted {
        let _ = fs::remove_dir_all(to);
        let kept: Vec<_> = content.finalizers().iter().filter(|name| *name != PROTECTION).collect();
        patch(&host, &content, &json!({ "metadata": { "finalizers": kept } }), false).await;
    } else if status["readyToUse"] != true
        && let Some(volume) = spec["source"]["volumeHandle"].as_str()
        && fs::create_dir(&to).is_ok()
    {
        // Content is seen more than once; whoever makes the directory makes the copy.
        let copied = copy(&own_directory(&host, volume), &to);
        let now = Timestamp::now();
        let status = match copied {
            Ok(()) => {
                json!({ "snapshotHandle": handle, "creationTime": now.as_nanosecond() as i64, "readyToUse": true })
            }
            Err(error) => json!({ "readyToUse": false, "error": { "message": error.to_string(), "time": now } }),
        };
        patch(&host, &content, &json!({ "status": status }), true).await;
    }
}

async fn patch(host: &Host, content: &DynamicObject, change: &Value, is_status: bool) {
    let (api, name, params) = (contents(host), content.name_any(), PatchParams::default());
    // What is gone by now needs nothing more.
    let _ = match is_status {
        true => api.patch_status(&name, &params, &Patch::Merge(change)).await,
        false => api.patch(&name, &params, &Patch::Merge(change)).await,
    };
}

fn contents(host: &Host) -> Api<DynamicObject> {
    Api::all_with(host.client.clone(), &resource("VolumeSnapshotContent"))
}

fn resource(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, "v1", kind))
}

/// Returns where the node keeps a snapshot.
fn place(host: &Host, handle: &str) -> PathBuf {
    host.directory.join("snapshots").join(handle)
}
