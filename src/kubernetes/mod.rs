//! A Kubernetes cluster, by way of its API server: what runs MLflow there is found, stopped and started again.
//!
//! What must stay true:
//! - Every request is bounded in time, tried again where the server is only busy or away, and given up once somebody asks to
//!   stop. Its error names what was to be done to what, where.
//! - What others may change at the same time is changed only if it is still as it was read.
//! - Values of Secrets are never asked for.
//!
//! Nothing that is public here is `async`: calls block, on the process's one runtime.

mod claims;
mod copies;
pub mod discover;
pub mod jobs;
mod lease;
mod pods;
mod workload;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use k8s_openapi::NamespaceResourceScope;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource};
use tokio::runtime::Runtime;

use crate::cancel::Cancel;
use crate::error::{Error, Fault, Result, with_causes};
use crate::hears::Hears;
use crate::runtime::{runtime, unless_raised};

pub use copies::{ClaimCopy, CopyOptions};
pub use lease::Lease;
pub use pods::PodEnd;
pub use workload::{Workload, WorkloadKind, WorkloadState};

/// Whose changes these are, in the records of the API server.
const FIELD_MANAGER: &str = "mlvault";
/// What all of mlvault's labels and annotations begin with.
const PREFIX: &str = "mlvault";
/// How long the API server may take for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How long a request is tried that may succeed later.
const TRIED_MAX: Duration = Duration::from_secs(60);
/// Time before the second attempt; it doubles with each further one.
const WAIT_FIRST: Duration = Duration::from_millis(500);
/// How often something is looked at that is waited for.
const LOOK: Duration = Duration::from_secs(1);

/// How a cluster is reached. Where nothing is said, as `kubectl` does it: by `KUBECONFIG`, `~/.kube/config`, or within a pod by
/// its ServiceAccount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterOptions {
    /// The file that says how.
    pub kubeconfig: Option<PathBuf>,
    /// Which of its contexts.
    pub context: Option<String>,
    /// The namespace; that of the context or the pod where nothing is said.
    pub namespace: Option<String>,
}

/// One namespace of a cluster.
#[derive(Clone)]
pub struct Cluster {
    runtime: &'static Runtime,
    client: Client,
    server: String,
    namespace: String,
    hears: Hears,
}

impl Cluster {
    /// Reads how the cluster is reached. Sends nothing yet.
    pub fn connect(options: &ClusterOptions, hears: &Hears) -> Result<Self> {
        let runtime = runtime()?;
        let config = runtime.block_on(config(options))?;
        let (server, of_context) = (config.cluster_url.to_string(), config.default_namespace.clone());
        // A client starts a task of its own.
        let _in_runtime = runtime.enter();
        let client = Client::try_from(config).map_err(|error| {
            Error::Invalid(format!("The cluster {server} cannot be reached: {}", with_causes(&error)))
        })?;
        let namespace = options.namespace.clone().unwrap_or(of_context);
        Ok(Self { runtime, client, server, namespace, hears: hears.clone() })
    }

    /// Returns the namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns the same for somebody else who may ask to stop.
    pub(crate) fn heard_by(&self, hears: Hears) -> Self {
        Self { hears, ..self.clone() }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Names something of the namespace, for messages.
    fn named(&self, object: &str) -> String {
        format!("{object} in the namespace {:?} of {}", self.namespace, self.server.trim_end_matches('/'))
    }

    /// Sends a request, and again as long as the server is busy or away. Whatever it asks for may be done twice.
    fn ask<T, F>(&self, action: &'static str, object: &str, request: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = kube::Result<T>>,
    {
        let (begun, mut wait) = (Instant::now(), WAIT_FIRST);
        loop {
            let error = match self.block_on(&self.hears.cancel, in_time(request()))? {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if error.fault != Fault::Unavailable || begun.elapsed() + wait > TRIED_MAX {
                return Err(error.of(action, self.named(object)));
            }
            self.pause(wait)?;
            wait *= 2;
        }
    }

    /// Waits for a future until somebody asks to stop.
    fn block_on<T>(&self, cancel: &Cancel, future: impl Future<Output = T>) -> Result<T> {
        self.runtime.block_on(unless_raised(cancel, future))
    }

    /// Looks at something again and again until it is as wanted. Returns nothing if it takes longer than `time`.
    fn wait<T>(&self, time: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
        let begun = Instant::now();
        loop {
            if let Some(found) = look()? {
                return Ok(Some(found));
            }
            if begun.elapsed() >= time {
                return Ok(None);
            }
            self.pause(LOOK.min(time))?;
        }
    }

    fn pause(&self, time: Duration) -> Result<()> {
        self.block_on(&self.hears.cancel, async { tokio::time::sleep(time).await })
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { server, namespace, .. } = self;
        out.debug_struct("Cluster").field("server", server).field("namespace", namespace).finish_non_exhaustive()
    }
}

async fn config(options: &ClusterOptions) -> Result<Config> {
    let invalid =
        |error: &dyn std::error::Error| Error::Invalid(format!("No cluster can be reached: {}", with_causes(error)));
    let of_file = KubeConfigOptions { context: options.context.clone(), ..KubeConfigOptions::default() };
    match (&options.kubeconfig, &options.context) {
        (Some(path), _) => {
            let file = Kubeconfig::read_from(path).map_err(|error| invalid(&error))?;
            Config::from_custom_kubeconfig(file, &of_file).await.map_err(|error| invalid(&error))
        }
        (None, Some(_)) => Config::from_kubeconfig(&of_file).await.map_err(|error| invalid(&error)),
        (None, None) => Config::infer().await.map_err(|error| invalid(&error)),
    }
}

/// Returns how objects are created and replaced.
fn posted() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

/// Why a request came to nothing.
struct Failure {
    fault: Fault,
    text: String,
}

impl Failure {
    fn of(self, action: &'static str, object: String) -> Error {
        Error::cluster(self.fault, action, object, self.text)
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => {
                let fault = match status.code {
                    401 | 403 => Fault::Denied,
                    404 => Fault::NotFound,
                    409 => Fault::AlreadyExists,
                    408 | 429 | 500.. => Fault::Unavailable,
                    _ => Fault::Other,
                };
                Self { fault, text: status.message }
            }
            kube::Error::SerdeError(_) | kube::Error::Auth(_) => {
                Self { fault: Fault::Other, text: with_causes(&error) }
            }
            _ => Self { fault: Fault::Unavailable, text: with_causes(&error) },
        }
    }
}

async fn in_time<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(ANSWER_MAX, request).await {
        Ok(answer) => answer.map_err(Failure::from),
        Err(_) => {
            let text = format!("The API server did not answer within {} s", ANSWER_MAX.as_secs());
            Err(Failure { fault: Fault::Unavailable, text })
        }
    }
}
