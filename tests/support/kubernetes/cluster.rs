//! The one cluster of a test process, and how manifests get into it.

use std::fs;
use std::future::Future;
use std::sync::{LazyLock, Once};
use std::thread::sleep;
use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{ApiCapabilities, Scope, oneshot};
use kube::{Api, Client};
use tokio::runtime::{Builder, Runtime};

use super::control_plane::{ControlPlane, client};
use super::namespace::Namespace;
use super::node::Node;
use super::node::snapshots::{GROUP, classes};
use crate::support::tools;

/// How long a request may take: a machine with many tests at once answers slowly.
const REQUEST_MAX: Duration = Duration::from_secs(60);
/// Who owns the fields of manifests that tests apply.
pub const MANAGER: &str = "mlvault-tests";

/// A running cluster.
pub struct Cluster {
    runtime: Runtime,
    client: Client,
    pub plane: ControlPlane,
    pub node: Node,
}

static SHARED: LazyLock<Cluster> = LazyLock::new(Cluster::start);

impl Cluster {
    /// Returns the cluster of this process, which the first who asks starts.
    pub fn shared() -> &'static Self {
        &SHARED
    }

    fn start() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let plane = ControlPlane::start(&runtime);
        let client = client(&runtime, &plane.kubeconfig());
        let node = Node::start(&runtime, client.clone(), &plane);
        Self { runtime, client, plane, node }
    }

    /// Adds what snapshots of claims need, once: the definitions of their objects, their controller, and a driver's stand-in.
    pub fn with_snapshots(&'static self) -> &'static Self {
        static ADDED: Once = Once::new();
        ADDED.call_once(|| {
            for kind in ["volumesnapshotclasses", "volumesnapshotcontents", "volumesnapshots"] {
                self.define(GROUP, kind);
            }
            self.plane.start_snapshot_controller();
            self.node.provide_snapshots();
            self.apply_in("default", &classes(), false).unwrap();
        });
        self
    }

    /// Makes a kind of custom resources, from the definition that setup has fetched, and waits until it is served.
    pub fn define(&self, group: &str, kind: &str) {
        let path = tools().join(format!("kubernetes/custom-resources/{group}_{kind}.yaml"));
        self.apply_in("default", &fs::read_to_string(path).unwrap(), false).unwrap();
        let api: Api<CustomResourceDefinition> = Api::all(self.client());
        let is_served = || {
            let status = self.wait(api.get(&format!("{kind}.{group}"))).unwrap().status;
            let mut conditions = status.into_iter().flat_map(|status| status.conditions.unwrap_or_default());
            conditions.any(|it| it.type_ == "Established" && it.status == "True")
        };
        while !is_served() {
            sleep(Duration::from_millis(100));
        }
    }

    /// Returns the administrator's client.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Runs what is asked of the cluster to its end.
    pub fn wait<T>(&self, asked: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
        let limited = async { tokio::time::timeout(REQUEST_MAX, asked).await };
        self.runtime.block_on(limited).expect("the API server answers in time")
    }

    /// Makes a namespace, which is deleted with what is in it once the value is dropped.
    pub fn namespace(&'static self, prefix: &str) -> Namespace {
        self.namespace_with(prefix, &[])
    }

    /// Makes a namespace with labels, such as those that say which pods it admits.
    pub fn namespace_with(&'static self, prefix: &str, labels: &[(&str, &str)]) -> Namespace {
        Namespace::make(self, prefix, labels)
    }

    /// Applies each document of a manifest by server-side apply. A field that the server does not know is an error.
    pub fn apply_in(&self, namespace: &str, manifest: &str, is_dry_run: bool) -> kube::Result<Vec<DynamicObject>> {
        let params = PatchParams { dry_run: is_dry_run, ..PatchParams::apply(MANAGER).force().validation_strict() };
        let apply = |object: DynamicObject| {
            let name = object.metadata.name.clone().expect("a manifest names its object");
            let api = self.api_of(&object, namespace)?;
            self.wait(api.patch(&name, &params, &Patch::Apply(&object)))
        };
        documents(manifest).into_iter().map(apply).collect()
    }

    /// Returns the API that an object belongs to, whatever kind it is of.
    pub fn api_of(&self, object: &DynamicObject, namespace: &str) -> kube::Result<Api<DynamicObject>> {
        let types = object.types.as_ref().expect("a manifest says what kind its object is of");
        let kind = GroupVersionKind::try_from(types).expect("an API version");
        let (resource, ApiCapabilities { scope, .. }) = self.wait(oneshot::pinned_kind(&self.client, &kind))?;
        let namespace = object.metadata.namespace.as_deref().unwrap_or(namespace);
        Ok(match scope {
            Scope::Cluster => Api::all_with(self.client(), &resource),
            Scope::Namespaced => Api::namespaced_with(self.client(), namespace, &resource),
        })
    }
}

/// Returns the objects of a manifest.
pub fn documents(manifest: &str) -> Vec<DynamicObject> {
    let values: Vec<Option<DynamicObject>> =
        serde_saphyr::from_multiple(manifest).unwrap_or_else(|error| panic!("{error}:\n{manifest}"));
    values.into_iter().flatten().collect()
}
