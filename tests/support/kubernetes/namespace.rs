//! A namespace of one test: what the test puts there, looks at and waits for.

use std::fmt::Debug;
use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    ConfigMap, ContainerStatus, Namespace as Kept, PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount,
};
use kube::api::{DeleteParams, DynamicObject, ListParams, LogParams, ObjectMeta, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use super::cluster::Cluster;
use super::control_plane::client;

/// How long what a test waits for may take on a loaded machine.
pub const WAIT_MAX: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_millis(100);

/// A namespace, which is deleted with what is in it once this is dropped.
pub struct Namespace {
    cluster: &'static Cluster,
    name: String,
    /// Kubeconfig files.
    folder: TempDir,
}

/// How a pod of a Job ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub log: String,
}

impl Namespace {
    pub(super) fn make(cluster: &'static Cluster, prefix: &str, labels: &[(&str, &str)]) -> Self {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let metadata =
            ObjectMeta { generate_name: Some(format!("{prefix}-")), labels: Some(labels), ..ObjectMeta::default() };
        let asked = Kept { metadata, ..Kept::default() };
        let api: Api<Kept> = Api::all(cluster.client());
        let name = cluster.wait(api.create(&PostParams::default(), &asked)).unwrap().name_any();
        let this = Self { cluster, name, folder: TempDir::new().unwrap() };
        // What pods need of a new namespace, its controllers make a moment later.
        this.wait_for::<ServiceAccount>("default", |_| true);
        this.wait_for::<ConfigMap>("kube-root-ca.crt", |_| true);
        this
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.cluster.client(), &self.name)
    }

    /// Applies each document of a manifest; objects that name no namespace come into this one.
    #[track_caller]
    pub fn apply(&self, manifest: &str) -> Vec<DynamicObject> {
        self.try_apply(manifest).unwrap_or_else(|error| panic!("{error}\n{manifest}"))
    }

    pub fn try_apply(&self, manifest: &str) -> kube::Result<Vec<DynamicObject>> {
        self.cluster.apply_in(&self.name, manifest, false)
    }

    /// Asks what applying a manifest would do.
    pub fn dry_run(&self, manifest: &str) -> kube::Result<Vec<DynamicObject>> {
        self.cluster.apply_in(&self.name, manifest, true)
    }

    #[track_caller]
    pub fn get<K: Kind>(&self, name: &str) -> K {
        self.find(name).unwrap_or_else(|| panic!("no {} {name}", K::kind(&())))
    }

    pub fn find<K: Kind>(&self, name: &str) -> Option<K> {
        self.cluster.wait(self.api::<K>().get_opt(name)).unwrap()
    }

    /// Returns the objects with labels such as `job-name=backup`; all of a kind with "".
    pub fn list<K: Kind>(&self, labels: &str) -> Vec<K> {
        self.cluster.wait(self.api::<K>().list(&ListParams::default().labels(labels))).unwrap().items
    }

    pub fn create<K: Kind + serde::Serialize>(&self, object: &K) -> K {
        self.cluster.wait(self.api::<K>().create(&PostParams::default(), object)).unwrap()
    }

    pub fn delete<K: Kind>(&self, name: &str) {
        self.cluster.wait(self.api::<K>().delete(name, &DeleteParams::background())).unwrap();
    }

    /// Waits until there is an object, and it is as wanted.
    #[track_caller]
    pub fn wait_for<K: Kind>(&self, name: &str, is_wanted: impl Fn(&K) -> bool) -> K {
        self.until(&format!("{} {name}", K::kind(&())), || self.find(name).filter(|found| is_wanted(found)))
    }

    /// Waits until there is no such object.
    #[track_caller]
    pub fn wait_gone<K: Kind>(&self, name: &str) {
        self.until(&format!("no {} {name}", K::kind(&())), || self.find::<K>(name).is_none().then_some(()));
    }

    /// Waits until something is found. What takes too long fails the test, and shows the pods.
    #[track_caller]
    pub fn until<T>(&self, what: &str, found: impl Fn() -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = found() {
                return found;
            }
            assert!(begun.elapsed() < WAIT_MAX, "{what} takes too long in {}; pods: {}", self.name, self.pods_told());
            sleep(LOOK);
        }
    }

    /// Waits until the one pod of a Deployment is ready.
    #[track_caller]
    pub fn wait_ready(&self, deployment: &str) {
        self.wait_for::<Deployment>(deployment, |it| {
            it.status.as_ref().is_some_and(|status| status.ready_replicas == Some(1))
        });
    }

    /// Returns the directory behind a claim, once it is bound.
    pub fn directory_of(&self, claim: &str) -> PathBuf {
        let claim = self.wait_for(claim, |it: &PersistentVolumeClaim| {
            it.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Bound"))
        });
        let volumes: Api<PersistentVolume> = Api::all(self.cluster.client());
        let volume = self.cluster.wait(volumes.get(&claim.spec.unwrap().volume_name.unwrap())).unwrap();
        self.cluster.node.directory().join("volumes").join(volume.spec.unwrap().csi.unwrap().volume_handle)
    }

    /// Waits until a Job has failed or completed, and returns how each of its pods ended, the oldest first.
    #[track_caller]
    pub fn wait_job(&self, name: &str) -> Vec<Ended> {
        let is_over = |job: &Job| {
            let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
            conditions.into_iter().any(|it| matches!(it.type_.as_str(), "Complete" | "Failed") && it.status == "True")
        };
        self.wait_for::<Job>(name, is_over);
        let mut pods: Vec<Pod> = self.list(&format!("job-name={name}"));
        pods.sort_by_key(|pod| (pod.creation_timestamp(), pod.name_any()));
        pods.iter().filter_map(|pod| self.ended(pod)).collect()
    }

    fn ended(&self, pod: &Pod) -> Option<Ended> {
        let status = statuses(pod).next()?;
        let code = status.state.as_ref()?.terminated.as_ref()?.exit_code;
        Some(Ended { code, log: self.logs(&pod.name_any()) })
    }

    /// Returns what the container of a pod wrote.
    #[track_caller]
    pub fn logs(&self, pod: &str) -> String {
        self.cluster.wait(self.api::<Pod>().logs(pod, &LogParams::default())).unwrap_or_else(|error| error.to_string())
    }

    /// Returns the administrator's kubeconfig file, with this namespace in it.
    pub fn kubeconfig(&self) -> PathBuf {
        self.write_kubeconfig("administrator", &self.cluster.plane.token)
    }

    /// Returns a kubeconfig file with a ServiceAccount's own token, and with nothing more than what it may do.
    pub fn kubeconfig_of(&self, account: &str) -> PathBuf {
        let spec = TokenRequestSpec { expiration_seconds: Some(3600), ..TokenRequestSpec::default() };
        let asked = TokenRequest { spec, ..TokenRequest::default() };
        let api = self.api::<ServiceAccount>();
        let given = self.cluster.wait(api.create_token_request(account, &PostParams::default(), &asked)).unwrap();
        self.write_kubeconfig(account, &given.status.unwrap().token)
    }

    /// Returns a client with a ServiceAccount's own token.
    pub fn client_of(&self, account: &str) -> Client {
        client(self.cluster.runtime(), &self.kubeconfig_of(account))
    }

    fn write_kubeconfig(&self, name: &str, token: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, self.cluster.plane.kubeconfig_for(token, &self.name)).unwrap();
        path
    }

    fn pods_told(&self) -> String {
        let told = |pod: Pod| {
            let name = pod.name_any();
            let status = serde_json::to_string(&pod.status).unwrap();
            format!("\n{name}: {status}\n{}", self.logs(&name))
        };
        self.list::<Pod>("").into_iter().map(told).collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let api: Api<Kept> = Api::all(self.cluster.client());
        let _ = self.cluster.wait(api.delete(&self.name, &DeleteParams::background()));
        // What still runs may use directories of the test, which go next.
        self.cluster.node.end_pods_of(&self.name);
    }
}

/// Kinds of objects that are in namespaces.
pub trait Kind:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned + 'static
{
}

impl<K> Kind for K where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned + 'static
{
}

/// Returns the states of a pod's containers.
pub fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten())
}
