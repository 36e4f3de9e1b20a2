//! A stand-in for a scheduler and a kubelet: binds every pod to one node, and runs what is in it as local processes.
//!
//! What must stay true: whoever only talks to the API server sees what a kubelet would show: phases, conditions, states and exit
//! codes of containers, logs, readiness, deletion with its grace. What differs from a node is said where it differs:
//!
//! - A container is a process in namespaces of its own ([`sandbox`]); there are no images, only their names ([`image`]), no
//!   limits of memory or processor time, and the network is that of the host. What serves a port must choose a free one.
//! - The names of Services lead to the host ([`sandbox`]); a Service's port must be that of the container.
//! - Of probes there is readiness, by HTTP and TCP ([`probe`]); there are no hooks, no sidecars, no ephemeral containers.
//! - ConfigMaps and Secrets are written once, when a pod starts ([`volumes`]); claims are directories ([`claims`]), and
//!   snapshots copies of them ([`snapshots`]), which are only whole if nobody writes meanwhile.

pub mod claims;
mod container;
mod environment;
mod image;
mod logs;
mod pod;
mod probe;
mod sandbox;
pub mod snapshots;
mod status;
mod stored;
mod volumes;

use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Binding, Node as NodeObject, ObjectReference, Pod};
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use tokio::runtime::{Handle, Runtime};

use super::control_plane::ControlPlane;
use super::process;
use logs::Logs;

/// Name of the node.
const NAME: &str = "stand-in";

/// The node.
pub struct Node {
    pods: Arc<Pods>,
}

/// What pods are run with.
pub struct Host {
    runtime: Handle,
    client: Client,
    /// Where each pod has a directory.
    directory: PathBuf,
    /// Port of the API server.
    port: u16,
    logs: Arc<Logs>,
}

impl Host {
    fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Runs what is asked of the API server to its end; not from a task of the runtime.
    fn wait<T>(&self, asked: impl Future<Output = T>) -> T {
        self.runtime.block_on(asked)
    }
}

/// When a pod is to end: within the time that is left to it.
#[derive(Debug, Default)]
pub struct Stop(Mutex<Option<Duration>>);

impl Stop {
    fn within(&self, grace: Duration) {
        let mut wished = self.0.lock().unwrap();
        *wished = Some(wished.map_or(grace, |earlier| earlier.min(grace)));
    }

    fn grace(&self) -> Option<Duration> {
        *self.0.lock().unwrap()
    }
}

/// What the node knows of a pod.
enum Known {
    Running { namespace: String, stop: Arc<Stop>, thread: Option<thread::JoinHandle<()>> },
    Ended,
}

/// The pods of the node, by their uid.
struct Pods {
    host: Arc<Host>,
    known: Mutex<HashMap<String, Known>>,
}

impl Node {
    /// Registers the node, and runs the pods of the cluster from now on.
    pub fn start(runtime: &Runtime, client: Client, plane: &ControlPlane) -> Self {
        let directory = process::passing_directory("mlvault-node-");
        let logs = Arc::new(Logs::default());
        let port = logs::serve(Arc::clone(&logs));
        let handle = runtime.handle().clone();
        let host = Arc::new(Host { runtime: handle, client, directory, port: plane.port, logs });
        host.wait(register(&host.client, port)).unwrap();
        claims::provide(&host);
        let pods = Arc::new(Pods { host: Arc::clone(&host), known: Mutex::default() });
        let watching = Arc::clone(&pods);
        watch(&host, Api::<Pod>::all(host.client.clone()), move |event| watching.see(event));
        Self { pods }
    }

    /// Looks after the content of snapshots from now on.
    pub fn provide_snapshots(&self) {
        snapshots::provide(&self.pods.host);
    }

    /// Returns where the pods have their directories.
    pub fn directory(&self) -> &Path {
        &self.pods.host.directory
    }

    /// Ends the pods of a namespace at once, and waits until they have.
    pub fn end_pods_of(&self, gone: &str) {
        let threads: Vec<_> = {
            let mut known = self.pods.known.lock().unwrap();
            let end = |known: &mut Known| match known {
                Known::Running { namespace, stop, thread } if *namespace == gone => {
                    stop.within(Duration::ZERO);
                    thread.take()
                }
                _ => None,
            };
            known.values_mut().filter_map(end).collect()
        };
        threads.into_iter().for_each(|thread| drop(thread.join()));
    }
}

impl Pods {
    fn see(self: &Arc<Self>, event: Event<Pod>) {
        match event {
            Event::Apply(pod) | Event::InitApply(pod) => self.see_pod(pod),
            Event::Delete(pod) => {
                let gone = self.known.lock().unwrap().remove(&uid(&pod));
                if let Some(Known::Running { stop, .. }) = gone {
                    stop.within(Duration::ZERO);
                }
            }
            Event::Init | Event::InitDone => {}
        }
    }

    fn see_pod(self: &Arc<Self>, pod: Pod) {
        let deletion = pod.metadata.deletion_grace_period_seconds.filter(|_| pod.metadata.deletion_timestamp.is_some());
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        match (node.as_deref(), deletion) {
            (None, None) => self.bind(&pod),
            (Some(NAME), None) => self.run(pod),
            (Some(NAME), Some(seconds)) => self.end(&pod, Duration::from_secs(u64::try_from(seconds).unwrap_or(0))),
            _ => {}
        }
    }

    fn bind(&self, pod: &Pod) {
        let api: Api<Pod> = self.host.api(&pod.namespace().unwrap());
        let (name, target) =
            (pod.name_any(), ObjectReference { name: Some(NAME.to_owned()), ..ObjectReference::default() });
        let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
        let binding = Binding { metadata, target };
        self.host.runtime.spawn(async move {
            // A pod that is seen twice is bound by the first of two requests.
            let _: Result<serde_json::Value, _> =
                api.create_subresource("binding", &name, &PostParams::default(), &binding).await;
        });
    }

    /// Starts a pod that is not known yet.
    fn run(self: &Arc<Self>, pod: Pod) {
        let mut known = self.known.lock().unwrap();
        let has_ended = matches!(status::phase(&pod), "Succeeded" | "Failed");
        if has_ended || known.contains_key(&uid(&pod)) {
            return;
        }
        let (uid, namespace, stop) = (uid(&pod), pod.namespace().unwrap(), Arc::new(Stop::default()));
        let (pods, wished) = (Arc::clone(self), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            pod::run(&pods.host, &pod, &wished);
            pods.ended(&pod);
        });
        known.insert(uid, Known::Running { namespace, stop, thread: Some(thread) });
    }

    /// Asks a pod to end; one that has ended goes.
    fn end(&self, pod: &Pod, grace: Duration) {
        let known = self.known.lock().unwrap();
        match known.get(&uid(pod)) {
            Some(Known::Running { stop, .. }) => stop.within(grace),
            _ => self.remove(pod),
        }
    }

    /// Notes that a pod has ended. One that was asked to goes.
    fn ended(&self, pod: &Pod) {
        let mut known = self.known.lock().unwrap();
        let Some(entry) = known.get_mut(&uid(pod)) else { return };
        let Known::Running { stop, .. } = std::mem::replace(entry, Known::Ended) else { return };
        if stop.grace().is_some() {
            self.remove(pod);
        }
    }

    /// Lets the API server forget a pod, as a kubelet does once nothing of it runs.
    fn remove(&self, pod: &Pod) {
        let (api, name): (Api<Pod>, _) = (self.host.api(&pod.namespace().unwrap()), pod.name_any());
        let this = Preconditions { uid: pod.uid(), ..Preconditions::default() };
        let now = DeleteParams::default().grace_period(0).preconditions(this);
        self.host.runtime.spawn(async move {
            let _ = api.delete(&name, &now).await;
        });
    }
}

fn uid(pod: &Pod) -> String {
    pod.uid().unwrap_or_default()
}

/// Has every change of a kind of objects seen, one after the other.
fn watch<K>(host: &Host, api: Api<K>, mut see: impl FnMut(Event<K>) + Send + 'static)
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    host.runtime.spawn(async move {
        let mut events = Box::pin(watcher(api, Config::default()).default_backoff());
        while let Some(event) = events.next().await {
            if let Ok(event) = event {
                see(event);
            }
        }
    });
}

/// Makes the node's object: ready, and with the port where logs are asked for.
async fn register(client: &Client, port: u16) -> kube::Result<()> {
    let nodes: Api<NodeObject> = Api::all(client.clone());
    let labels = json!({ "kubernetes.io/hostname": NAME, "kubernetes.io/os": "linux" });
    let object = serde_json::from_value(json!({ "metadata": { "name": NAME, "labels": labels } })).unwrap();
    nodes.create(&PostParams::default(), &object).await?;
    let room = json!({ "cpu": "64", "memory": "256Gi", "pods": "1000", "ephemeral-storage": "1Ti" });
    let status = json!({ "status": {
        "addresses": [{ "type": "InternalIP", "address": "127.0.0.1" }],
        "daemonEndpoints": { "kubeletEndpoint": { "Port": port } },
        "conditions": [{ "type": "Ready", "status": "True", "reason": "StandIn" }],
        "capacity": room,
        "allocatable": room,
    }});
    nodes.patch_status(NAME, &PatchParams::default(), &Patch::Merge(status)).await.map(drop)
}
