//! What runs MLflow in a cluster: a Deployment or a StatefulSet, how many pods it wants, and what was noted on it.
//!
//! What must stay true: how many pods it had is noted on it in the very request that stops it, and goes in the one that starts
//! it: whoever comes later knows what to put right, whatever has crashed in between.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use serde_json::{Value, json};

use super::{Cluster, FIELD_MANAGER, PREFIX};
use crate::error::{Error, Fault, Result};

/// How often a change is tried that somebody else's gets in the way of.
const ATTEMPTS_MAX: usize = 5;

/// What is known to run pods by a number that can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WorkloadKind {
    /// A Deployment.
    Deployment,
    /// A StatefulSet.
    StatefulSet,
}

impl WorkloadKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Deployment, Self::StatefulSet];

    /// Returns what it is called where kinds are typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::StatefulSet => "statefulset",
        }
    }

    pub(super) fn resource(self) -> ApiResource {
        let kind = match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
        };
        ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", kind))
    }
}

/// A Deployment or StatefulSet, as in `deployment/mlflow`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Workload {
    /// Which of both it is.
    pub kind: WorkloadKind,
    /// Its name in the namespace.
    pub name: String,
}

impl fmt::Display for Workload {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.kind.name(), self.name)
    }
}

impl FromStr for Workload {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once('/');
        let kind = parts.and_then(|(kind, _)| WorkloadKind::ALL.into_iter().find(|known| known.name() == kind));
        let name = parts.map(|(_, name)| name).filter(|name| is_name(name));
        match (kind, name) {
            (Some(kind), Some(name)) => Ok(Self { kind, name: name.to_owned() }),
            _ => Err(Error::Invalid(format!("{text:?} is neither deployment/NAME nor statefulset/NAME"))),
        }
    }
}

/// Returns whether a text can be the name of an object (RFC 1123).
fn is_name(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    !text.is_empty() && text.len() <= 253 && text.chars().all(is_part)
}

/// How a workload is at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadState {
    /// Pods that it wants.
    pub replicas: u32,
    /// Pods that answer.
    pub ready: u32,
    /// Pods that it had before mlvault stopped it, if it did.
    pub before: Option<u32>,
    /// Labels that its pods have.
    pub(super) selector: BTreeMap<String, String>,
    /// Volumes of its pods, as they are described.
    volumes: Value,
    version: String,
}

impl Cluster {
    pub(super) fn workloads(&self, kind: WorkloadKind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &kind.resource())
    }

    /// Returns how a workload is.
    pub fn workload(&self, workload: &Workload) -> Result<WorkloadState> {
        let api = self.workloads(workload.kind);
        let object = self.ask("read", &workload.to_string(), || api.get(&workload.name))?;
        state(&object).ok_or_else(|| {
            let object = self.named(&workload.to_string());
            Error::cluster(Fault::BadAnswer, "read", object, "it has no selector of labels")
        })
    }

    /// Stops a workload, and notes on it how many pods it has, unless that was noted before. Returns how many it had.
    pub fn stop(&self, workload: &Workload) -> Result<u32> {
        self.change(workload, "stop", |state| {
            let before = state.before.unwrap_or(state.replicas);
            (
                before,
                json!({ "metadata": { "annotations": { note(): before.to_string() } }, "spec": { "replicas": 0 } }),
            )
        })
    }

    /// Starts a workload with the pods that it had, and takes the note off. Returns how many it has now; nothing if mlvault did
    /// not stop it.
    pub fn start(&self, workload: &Workload) -> Result<Option<u32>> {
        self.change(workload, "start", |state| {
            let Some(before) = state.before else { return (None, Value::Null) };
            // Whoever has started it since knows better how many there are to be.
            let replicas = if state.replicas > 0 { state.replicas } else { before };
            let patch = json!({ "metadata": { "annotations": { note(): null } }, "spec": { "replicas": replicas } });
            (Some(replicas), patch)
        })
    }

    /// Lets a workload use another claim wherever it uses one, and nothing else. Fails if it does not use that one.
    pub fn switch_claim(&self, workload: &Workload, from: &str, to: &str) -> Result<()> {
        let switched = self.change(workload, "switch the claim of", |state| {
            let mut volumes = state.volumes.clone();
            match claims_of(&mut volumes, from).into_iter().map(|name| *name = to.into()).count() {
                0 => (0, Value::Null),
                count => (count, json!({ "spec": { "template": { "spec": { "volumes": volumes } } } })),
            }
        })?;
        if switched > 0 { Ok(()) } else { Err(self.unused(workload, from)) }
    }

    /// Fails unless a workload uses a claim that can be switched.
    pub fn refuse_unless_used(&self, workload: &Workload, claim: &str) -> Result<()> {
        let mut state = self.workload(workload)?;
        if claims_of(&mut state.volumes, claim).is_empty() { Err(self.unused(workload, claim)) } else { Ok(()) }
    }

    fn unused(&self, workload: &Workload, claim: &str) -> Error {
        let what = self.named(&workload.to_string());
        Error::Invalid(format!("No volume of {what} is the claim {claim}, so that it cannot be switched"))
    }

    /// Changes a workload if it is still as it was looked at; else looks again. A patch of null changes nothing.
    fn change<T>(
        &self,
        workload: &Workload,
        action: &'static str,
        decide: impl Fn(&WorkloadState) -> (T, Value),
    ) -> Result<T> {
        let api = self.workloads(workload.kind);
        for attempt in 1.. {
            let state = self.workload(workload)?;
            let (answer, mut patch) = decide(&state);
            if patch.is_null() {
                return Ok(answer);
            }
            patch["metadata"]["resourceVersion"] = state.version.into();
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            let patch = Patch::Merge(patch);
            match self.ask(action, &workload.to_string(), || api.patch(&workload.name, &params, &patch)) {
                Ok(_) => return Ok(answer),
                Err(error) if error.fault() == Some(Fault::AlreadyExists) && attempt < ATTEMPTS_MAX => {}
                Err(error) => return Err(error),
            }
        }
        unreachable!("attempts are counted without end")
    }
}

/// Returns where volumes name a claim.
fn claims_of<'v>(volumes: &'v mut Value, claim: &str) -> Vec<&'v mut Value> {
    let all = volumes.as_array_mut().into_iter().flatten();
    let names = all.filter_map(|volume| volume.pointer_mut("/persistentVolumeClaim/claimName"));
    names.filter(|name| **name == claim).collect()
}

/// The annotation that says how many pods a workload had.
fn note() -> String {
    format!("{PREFIX}/replicas-before-restore")
}

fn state(object: &DynamicObject) -> Option<WorkloadState> {
    let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
    let (spec, status) = (&object.data["spec"], &object.data["status"]);
    let labels = spec["selector"]["matchLabels"].as_object()?;
    let selector = labels.iter().filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
    let selector: BTreeMap<_, _> = selector.collect();
    // Without a label, every pod of the namespace would be its own.
    if selector.is_empty() {
        return None;
    }
    let noted = object.metadata.annotations.as_ref().and_then(|annotations| annotations.get(&note()));
    Some(WorkloadState {
        // The API server fills in what is not said.
        replicas: number(&spec["replicas"]).unwrap_or(1),
        ready: number(&status["readyReplicas"]).unwrap_or(0),
        before: noted.and_then(|text| text.parse().ok()),
        selector,
        volumes: spec["template"]["spec"]["volumes"].clone(),
        version: object.metadata.resource_version.clone().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_named_by_kind_and_name() {
        for good in ["deployment/mlflow", "statefulset/ml-flow.1"] {
            assert_eq!(good.parse::<Workload>().unwrap().to_string(), good);
        }
        for bad in ["mlflow", "deployment/", "daemonset/mlflow", "deployment/a/b", "deployment/A", ""] {
            assert!(bad.parse::<Workload>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_others_have_written_on_a_workload_is_read_with_care() {
        let object = |spec: Value, noted: &str| {
            let metadata = json!({ "name": "mlflow", "annotations": { note(): noted } });
            let object = json!({ "metadata": metadata, "spec": spec, "status": { "readyReplicas": -1 } });
            state(&serde_json::from_value(object).unwrap())
        };
        let labels = json!({ "matchLabels": { "app": "mlflow" } });
        let found = object(json!({ "selector": labels }), "2").unwrap();
        assert_eq!((found.replicas, found.ready, found.before), (1, 0, Some(2)));
        assert_eq!(object(json!({ "selector": labels, "replicas": 3 }), "many").unwrap().before, None);
        assert_eq!(object(json!({ "selector": { "matchLabels": {} } }), "2"), None);
        assert_eq!(object(json!({}), "2"), None);
    }
}
