//! Jobs: one is made from a CronJob now, its pod's words are followed, and its end is told.
//!
//! What must stay true: the Job is what the CronJob would make, but for its name and what the caller changes; it belongs to the
//! CronJob, so that its history limits count it. How it ends is told from its pod's exit code, and never guessed.

use std::time::Duration;

pub use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::ListParams;
use serde_json::json;

use super::pods::{end_of, has_begun, has_ended, why_waiting};
use super::{Cluster, PREFIX, PodEnd, posted};
use crate::error::{Error, Fault, Result};

/// How long a pod may take to begin.
const START_MAX: Duration = Duration::from_secs(600);
/// How long the cluster may take to know how a pod ended, after its last word.
const END_MAX: Duration = Duration::from_secs(120);
/// Labels that the chart gives what belongs to mlvault, and what it is for.
const APP_LABEL: &str = "app.kubernetes.io/name=mlvault";
const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// What the volume of a claim is called that a Job is given.
const CLAIM_VOLUME: &str = "mlvault-claim";
/// Longest name of a Job: the names of its pods are longer.
const NAME_LEN_MAX: usize = 52;

impl Cluster {
    /// Returns a CronJob by its name; where none is given, that of mlvault that does a job, by the labels of the chart, for a
    /// deployment if one is named.
    pub fn cron_job(&self, name: Option<&str>, job: &str, deployment: Option<&str>) -> Result<CronJob> {
        if let Some(name) = name {
            let api = self.api::<CronJob>();
            return self.ask("read", &format!("the CronJob {name}"), || api.get(name));
        }
        let of = deployment.map(|name| format!(",{PREFIX}/deployment={name}")).unwrap_or_default();
        let selector = format!("{APP_LABEL},{COMPONENT_LABEL}={job}{of}");
        let api = self.api::<CronJob>();
        let params = ListParams::default().labels(&selector);
        let mut found = self.ask("list", "CronJobs", || api.list(&params))?.items;
        match found.len() {
            0 => {
                Err(Error::NotFound(format!("No CronJob with the labels {selector}: {}", self.named("there is none"))))
            }
            1 => Ok(found.remove(0)),
            _ => {
                let names: Vec<_> = found.iter().filter_map(|it| it.metadata.name.clone()).collect();
                Err(Error::NotFound(format!("Several CronJobs have the labels {selector}: {}", names.join(", "))))
            }
        }
    }

    /// Makes a Job from a CronJob, changed by the caller. Returns its name.
    pub fn start_job(&self, cron_job: &CronJob, change: impl Fn(&mut Job) -> Result<()>) -> Result<String> {
        let api = self.api::<Job>();
        let mut job = job_of(cron_job);
        change(&mut job)?;
        let name = job.metadata.name.clone().unwrap_or_default();
        let params = posted();
        match self.ask("create", &format!("the Job {name}"), || api.create(&params, &job)) {
            // A first attempt that got no answer has made it: the name is like no other.
            Err(error) if error.fault() != Some(Fault::AlreadyExists) => Err(error),
            _ => Ok(name),
        }
    }

    /// Repeats what the pods of a Job say, one after the other, until the Job has ended. Returns how its last pod ended.
    pub fn follow_job(&self, name: &str, hear: &mut dyn FnMut(&str) -> Result<()>) -> Result<PodEnd> {
        let mut seen: Vec<String> = Vec::new();
        loop {
            let Some(pod) = self.next_pod(name, &seen)? else {
                let last = seen.last().ok_or_else(|| self.no_pod(name))?;
                return self.end_of_pod(name, last);
            };
            self.hears.monitor.note(&format!("The pod {pod} of the Job {name} has begun"));
            match self.follow(&pod, &mut *hear) {
                // A connection that breaks off says nothing of the pod.
                Err(error) if error.fault() == Some(Fault::Unavailable) => self.hears.monitor.note(&error.to_string()),
                result => result?,
            }
            self.end_of_pod(name, &pod)?;
            seen.push(pod);
        }
    }

    /// Waits for a pod that was not seen, or for the end of the Job.
    fn next_pod(&self, job: &str, seen: &[String]) -> Result<Option<String>> {
        let mut why = None;
        let found = self.wait(START_MAX, || {
            let ended = self.job_has_ended(job)?;
            let pods = self.pods_of_job(job)?;
            let mut fresh = pods.iter().filter(|pod| !seen.iter().any(|name| pod.metadata.name.as_ref() == Some(name)));
            let begun = fresh.clone().find(|pod| has_begun(pod)).and_then(|pod| pod.metadata.name.clone());
            if begun.is_some() || ended {
                return Ok(Some(begun));
            }
            let reason = fresh.find_map(why_waiting);
            if reason != why {
                reason.iter().for_each(|reason| self.hears.monitor.note(&format!("The pod waits: {reason}")));
                why = reason;
            }
            Ok(None)
        })?;
        found.ok_or_else(|| {
            let why = why.unwrap_or_else(|| "nobody says why".to_owned());
            let object = self.named(&format!("the Job {job}"));
            Error::cluster(Fault::Unavailable, "start", object, format!("no pod of it began within 10 minutes: {why}"))
        })
    }

    fn end_of_pod(&self, job: &str, pod: &str) -> Result<PodEnd> {
        let end = self.wait(END_MAX, || {
            let pods = self.pods_of_job(job)?;
            let found = pods.iter().find(|it| it.metadata.name.as_deref() == Some(pod));
            Ok(match found {
                None => Some(PodEnd { name: pod.to_owned(), code: None, reason: Some("it was removed".to_owned()) }),
                Some(found) => has_ended(found).then(|| end_of(found)),
            })
        })?;
        end.ok_or_else(|| {
            let object = self.named(&format!("the pod {pod}"));
            Error::cluster(Fault::Unavailable, "follow", object, "it says nothing any more, and has not ended")
        })
    }

    fn pods_of_job(&self, job: &str) -> Result<Vec<Pod>> {
        self.pods(&format!("batch.kubernetes.io/job-name={job}"))
    }

    fn job_has_ended(&self, name: &str) -> Result<bool> {
        let api = self.api::<Job>();
        let job = self.ask("read", &format!("the Job {name}"), || api.get(name))?;
        let conditions = job.status.and_then(|status| status.conditions).unwrap_or_default();
        Ok(conditions.iter().any(|it| it.status == "True" && matches!(it.type_.as_str(), "Complete" | "Failed")))
    }

    fn no_pod(&self, job: &str) -> Error {
        let object = self.named(&format!("the Job {job}"));
        Error::cluster(Fault::Other, "follow", object, "it ended without a pod that ran")
    }
}

/// Lets a Job's pods find a claim at a place, instead of whatever they would find there.
pub fn mount_claim(job: &mut Job, claim: &str, place: &str, is_read_only: bool) -> Result<()> {
    let Some(pod) = job.spec.as_mut().and_then(|spec| spec.template.spec.as_mut()) else { return Err(no_container()) };
    let container = pod.containers.first_mut().ok_or_else(no_container)?;
    let mounts = container.volume_mounts.get_or_insert_default();
    let replaced: Vec<String> = mounts.iter().filter(|it| it.mount_path == place).map(|it| it.name.clone()).collect();
    mounts.retain(|it| it.mount_path != place);
    let still_used: Vec<String> = mounts.iter().map(|it| it.name.clone()).collect();
    let mount = json!({ "name": CLAIM_VOLUME, "mountPath": place, "readOnly": is_read_only });
    mounts.push(serde_json::from_value(mount).map_err(|error| Error::Internal(error.to_string()))?);
    let volumes = pod.volumes.get_or_insert_default();
    // What nobody mounts any more might keep the pod from its node.
    volumes.retain(|it| !replaced.contains(&it.name) || still_used.contains(&it.name));
    let volume = json!({ "name": CLAIM_VOLUME, "persistentVolumeClaim": { "claimName": claim } });
    volumes.push(serde_json::from_value(volume).map_err(|error| Error::Internal(error.to_string()))?);
    Ok(())
}

/// Changes what a Job's container is called with.
pub fn change_arguments(job: &mut Job, change: impl FnOnce(&mut Vec<String>)) -> Result<()> {
    let pod = job.spec.as_mut().and_then(|spec| spec.template.spec.as_mut());
    let container = pod.and_then(|pod| pod.containers.first_mut()).ok_or_else(no_container)?;
    change(container.args.get_or_insert_default());
    Ok(())
}

fn no_container() -> Error {
    Error::Invalid("The Job has no container".to_owned())
}

/// Returns the Job that a CronJob makes, with a name of its own.
fn job_of(cron_job: &CronJob) -> Job {
    let name = cron_job.metadata.name.clone().unwrap_or_default();
    let template = cron_job.spec.as_ref().map(|spec| spec.job_template.clone()).unwrap_or_default();
    let of_template = template.metadata.unwrap_or_default();
    let mut annotations = of_template.annotations.unwrap_or_default();
    // What kubectl notes, too.
    annotations.insert("cronjob.kubernetes.io/instantiate".to_owned(), "manual".to_owned());
    let owner = OwnerReference {
        api_version: "batch/v1".to_owned(),
        kind: "CronJob".to_owned(),
        name: name.clone(),
        uid: cron_job.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        ..OwnerReference::default()
    };
    let metadata = ObjectMeta {
        name: Some(job_name(&name, jiff::Timestamp::now().as_millisecond())),
        labels: of_template.labels,
        annotations: Some(annotations),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
    Job { metadata, spec: template.spec, status: None }
}

fn job_name(cron_job: &str, milliseconds: i64) -> String {
    let suffix = format!("-now-{milliseconds:x}");
    let kept: String = cron_job.chars().take(NAME_LEN_MAX - suffix.len()).collect();
    format!("{}{suffix}", kept.trim_end_matches(['-', '.']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_takes_the_place_of_what_was_mounted_there() {
        let mount = |name: &str, path: &str| json!({ "name": name, "mountPath": path });
        let volume = |name: &str| json!({ "name": name, "emptyDir": {} });
        let mounts = [mount("old", "/mlflow"), mount("both", "/mlflow/x"), mount("both", "/tmp")];
        let pod = json!({
            "containers": [{ "name": "a", "args": ["backup"], "volumeMounts": mounts }],
            "volumes": [volume("old"), volume("both")],
        });
        let mut job: Job = serde_json::from_value(json!({ "spec": { "template": { "spec": pod } } })).unwrap();
        mount_claim(&mut job, "copy", "/mlflow", true).unwrap();
        change_arguments(&mut job, |arguments| arguments.push("--close".to_owned())).unwrap();
        let pod = job.spec.unwrap().template.spec.unwrap();
        let names: Vec<_> = pod.volumes.as_ref().unwrap().iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["both", CLAIM_VOLUME]);
        let container = &pod.containers[0];
        let last = container.volume_mounts.as_ref().unwrap().last().unwrap();
        assert_eq!((last.mount_path.as_str(), last.read_only), ("/mlflow", Some(true)));
        assert_eq!(container.args.as_ref().unwrap(), &["backup", "--close"]);
        assert!(mount_claim(&mut Job::default(), "copy", "/mlflow", true).is_err());
    }

    #[test]
    fn the_name_of_a_job_fits_and_is_its_own() {
        let long = "a".repeat(NAME_LEN_MAX - 5);
        for name in ["mlvault-backup", &long, "a-"] {
            let job = job_name(name, 1_796_000_000_000);
            assert!(job.len() <= NAME_LEN_MAX && job.starts_with('a') | job.starts_with('m'), "{job}");
            assert!(!job.contains("--") && job != job_name(name, 1_796_000_000_001), "{job}");
        }
    }
}
