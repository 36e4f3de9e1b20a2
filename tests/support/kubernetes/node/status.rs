//! What is told of a pod: its `status`, as a kubelet writes it.

use jiff::{Timestamp, Unit};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::container::{Container, End, State};

/// Why a pod failed, where it is not for the exit code of a container.
pub const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";

/// Returns the phase that the API server has of a pod.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// What a status is made of.
pub struct Told<'a> {
    pub inits: &'a [Container],
    pub containers: &'a [Container],
    pub started: Timestamp,
    /// Why it failed as a whole.
    pub reason: Option<&'static str>,
    /// What it waits for before its containers.
    pub lack: &'a str,
}

impl Told<'_> {
    /// Returns the patch of a pod's status.
    pub fn patch(&self) -> Value {
        let phase = self.phase();
        let is_initialized = self.inits.iter().all(|it| it.end().is_some_and(|end| end.code == 0));
        let is_ready = self.containers.iter().all(|it| it.is_ready);
        let condition = |kind: &str, holds: bool| {
            let why = if holds || phase != "Succeeded" { None } else { Some("PodCompleted") };
            json!({ "type": kind, "status": if holds { "True" } else { "False" }, "reason": why })
        };
        let mut status = json!({
            "phase": phase,
            "startTime": time(self.started),
            "hostIP": "127.0.0.1",
            "hostIPs": [{ "ip": "127.0.0.1" }],
            "podIP": "127.0.0.1",
            "podIPs": [{ "ip": "127.0.0.1" }],
            "conditions": [
                condition("PodScheduled", true),
                condition("Initialized", is_initialized),
                condition("ContainersReady", is_ready),
                condition("Ready", is_ready),
            ],
            "initContainerStatuses": self.inits.iter().map(container).collect::<Vec<_>>(),
            "containerStatuses": self.containers.iter().map(container).collect::<Vec<_>>(),
        });
        if let Some(reason) = self.reason {
            status["reason"] = reason.into();
        }
        if !self.lack.is_empty() {
            status["message"] = self.lack.into();
        }
        json!({ "status": status })
    }

    fn phase(&self) -> &'static str {
        let failed = |it: &Container| it.end().is_some_and(|end| end.code != 0);
        let is_over = self.containers.iter().all(|it| it.end().is_some());
        let has_begun = self.containers.iter().any(|it| it.restarts > 0 || matches!(it.state, State::Running { .. }));
        match () {
            () if self.reason.is_some() || self.inits.iter().any(failed) => "Failed",
            () if is_over && self.containers.iter().any(failed) => "Failed",
            () if is_over => "Succeeded",
            () if has_begun || self.containers.iter().any(|it| it.end().is_some()) => "Running",
            () => "Pending",
        }
    }
}

fn container(it: &Container) -> Value {
    let state = match &it.state {
        State::Waiting { reason, message, .. } => json!({ "waiting": { "reason": reason, "message": message } }),
        State::Running { since, .. } => json!({ "running": { "startedAt": time(*since) } }),
        State::Ended(end) => ended(end),
    };
    let image = it.spec.image.clone().unwrap_or_default();
    json!({
        "name": it.spec.name,
        "image": image,
        "imageID": format!("stand-in://{image}"),
        "containerID": format!("stand-in://{}-{}", it.spec.name, it.restarts),
        "ready": it.is_ready || it.end().is_some_and(|end| end.code == 0),
        "started": matches!(it.state, State::Running { .. }),
        "restartCount": it.restarts,
        "state": state,
        "lastState": it.last.as_ref().map_or(json!({}), ended),
    })
}

fn ended(end: &End) -> Value {
    let reason = if end.code == 0 { "Completed" } else { "Error" };
    let (since, until) = (time(end.since), time(end.until));
    json!({ "terminated": { "exitCode": end.code, "reason": reason, "startedAt": since, "finishedAt": until } })
}

/// Returns a time as Kubernetes writes it: to the second.
fn time(at: Timestamp) -> String {
    at.round(Unit::Second).unwrap_or(at).to_string()
}
