//! Pods: when those of a workload are gone, when they answer, what one said, and how it ended.

use std::time::Duration;

use futures_util::AsyncBufReadExt;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::{ListParams, LogParams};

use super::{Cluster, Workload};
use crate::error::{Error, Fault, Result};

/// How a pod ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodEnd {
    /// Its name.
    pub name: String,
    /// The exit code of its first container; none if that never ran, or nobody knows any more.
    pub code: Option<i32>,
    /// Why, as far as the cluster says.
    pub reason: Option<String>,
}

impl PodEnd {
    /// Says how a pod of a Job ended that was to end well.
    pub fn failure(&self, job: &str) -> Error {
        let why = match (self.code, &self.reason) {
            (Some(code), _) => format!("with exit code {code}"),
            (None, Some(reason)) => format!("without an exit code: {reason}"),
            (None, None) => "without an exit code, and the cluster does not say why".to_owned(),
        };
        Error::Refused(format!("The pod {} of the Job {job} ended {why}", self.name))
    }
}

impl Cluster {
    /// Waits until no pod of a workload is left, however it ends. Fails with [`Error::Busy`] if that takes longer than `time`, or if
    /// somebody wants pods of it again.
    pub fn wait_until_gone(&self, workload: &Workload, time: Duration) -> Result<()> {
        let mut left = Vec::new();
        let gone = self.wait(time, || {
            let state = self.workload(workload)?;
            if state.replicas > 0 {
                let what = self.named(&workload.to_string());
                return Err(Error::Busy(format!("Somebody has started {what} again")));
            }
            let selector: Vec<_> = state.selector.iter().map(|(name, value)| format!("{name}={value}")).collect();
            left = self.pods(&selector.join(","))?;
            // What has ended writes nothing any more.
            left.retain(|pod| !has_ended(pod));
            Ok(left.is_empty().then_some(()))
        })?;
        gone.ok_or_else(|| {
            let names: Vec<_> = left.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
            let what = self.named(&workload.to_string());
            Error::Busy(format!("Pods of {what} are still there after {} s: {}", time.as_secs(), names.join(", ")))
        })
    }

    /// Waits until a workload has as many pods that answer as it wants. Returns whether it has before `time` is over.
    pub fn wait_until_ready(&self, workload: &Workload, time: Duration) -> Result<bool> {
        let ready = self.wait(time, || {
            let state = self.workload(workload)?;
            Ok((state.ready >= state.replicas).then_some(()))
        })?;
        Ok(ready.is_some())
    }

    pub(super) fn pods(&self, selector: &str) -> Result<Vec<Pod>> {
        let api = self.api::<Pod>();
        let params = ListParams::default().labels(selector);
        Ok(self.ask("list", "pods", || api.list(&params))?.items)
    }

    /// Reads what a pod says, line by line, until it ends or `hear` has an error.
    pub(super) fn follow(&self, pod: &str, mut hear: impl FnMut(&str) -> Result<()>) -> Result<()> {
        let api = self.api::<Pod>();
        let params = LogParams { follow: true, ..LogParams::default() };
        let object = format!("the log of the pod {pod}");
        let stream = self.ask("read", &object, || api.log_stream(pod, &params))?;
        let mut lines = stream.lines();
        loop {
            let next = self.block_on(&self.hears.cancel, futures_util::StreamExt::next(&mut lines))?;
            match next {
                None => return Ok(()),
                Some(Ok(line)) => hear(&line)?,
                Some(Err(error)) => {
                    return Err(Error::cluster(Fault::Unavailable, "read", self.named(&object), error));
                }
            }
        }
    }
}

/// Returns whether a pod has ended for good.
pub(super) fn has_ended(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Returns whether a pod has begun to run.
pub(super) fn has_begun(pod: &Pod) -> bool {
    phase(pod) == "Running" || has_ended(pod)
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Returns how a pod ended, as far as it has.
pub(super) fn end_of(pod: &Pod) -> PodEnd {
    let status = pod.status.clone().unwrap_or_default();
    let containers = status.container_statuses.unwrap_or_default();
    let terminated = containers.first().and_then(|it| it.state.as_ref()?.terminated.as_ref());
    let reason = status.reason.or_else(|| terminated.and_then(|it| it.reason.clone())).or(status.message);
    PodEnd { name: pod.metadata.name.clone().unwrap_or_default(), code: terminated.map(|it| it.exit_code), reason }
}

/// Returns why a pod does not begin: an image that cannot be had, a Secret that is missing, no node with room.
pub(super) fn why_waiting(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let of_container = |container: &ContainerStatus| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.clone().unwrap_or_default();
        Some(waiting.message.as_ref().map_or(reason.clone(), |message| format!("{reason}: {message}")))
    };
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let unscheduled = || {
        let conditions = status.conditions.iter().flatten();
        let mut unmet = conditions.filter(|it| it.type_ == "PodScheduled" && it.status == "False");
        unmet.find_map(|it| it.message.clone())
    };
    containers.into_iter().find_map(of_container).or_else(unscheduled)
}
