//! Backs up a deployment whose artifacts are on a claim, from a copy of that claim as it was at one moment.
//!
//! What must stay true:
//! - The databases are dumped before the copy is made, as they are before every listing of artifacts (docs/design.md, Deployments).
//!   So this is a backup in steps ([`sharded`]) with one shard, which a Job reads in a pod that mounts the copy.
//! - The Job goes with the copy, however it ends.

use std::sync::Arc;
use std::time::Duration;

use crate::backup::sharded::{self, PlanName, Shards};
use crate::backup::{BackupOptions, BackupSummary};
use crate::error::Result;
use crate::hears::Hears;
use crate::kubernetes::jobs::{CronJob, change_arguments, mount_claim};
use crate::kubernetes::{Cluster, CopyOptions};
use crate::repository::Repository;

/// Options of the command that are this process's, each with how many values it has: its Job must not make a copy of its own.
const OWN_OPTIONS: [(&str, usize); 3] = [("--via-volume-snapshot", 0), ("--cron-job", 1), ("--volume-wait", 1)];

/// Where the artifacts are, and who reads the copy.
pub struct FromCopy<'a> {
    /// The cluster and namespace.
    pub cluster: &'a Cluster,
    /// What makes a Job that backs up this deployment.
    pub cron_job: &'a CronJob,
    /// The claim.
    pub claim: &'a str,
    /// Where the configuration has it.
    pub mount: &'a str,
    /// How it is copied.
    pub copy: CopyOptions,
}

/// Makes a snapshot. `hear` is told what the pod says that reads the copy.
pub fn run(
    repository: &Arc<Repository>,
    options: &BackupOptions,
    from: &FromCopy<'_>,
    hears: &Hears,
    hear: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<BackupSummary> {
    let name = format!("volume-{:x}", jiff::Timestamp::now().as_millisecond());
    let plan = PlanName { name, wait_max: Duration::ZERO };
    sharded::plan(repository, options, &plan, Shards { count: 1, are_elsewhere: true }, hears)?;
    hears.monitor.phase("copy the claim", None, None);
    let copy = from.cluster.copy_claim(from.claim, &from.copy)?;
    hears.monitor.note(&format!("The claim {} is copied as {}", from.claim, copy.claim()));
    let job = from.cluster.start_job(from.cron_job, |job| {
        job.metadata.owner_references = Some(vec![copy.owner()]);
        mount_claim(job, copy.claim(), from.mount, true)?;
        change_arguments(job, |given| *given = arguments(given, &plan.name))
    })?;
    let end = from.cluster.follow_job(&job, hear)?;
    drop(copy);
    match end.code {
        Some(0) => sharded::close(repository, options, &plan, hears),
        _ => Err(end.failure(&job)),
    }
}

/// Returns what the Job is called with: what this process was, but for what is its own, and the step.
fn arguments(given: &[String], plan: &str) -> Vec<String> {
    let mut kept = Vec::new();
    let mut words = given.iter();
    while let Some(word) = words.next() {
        let of = OWN_OPTIONS.iter().find(|(name, _)| word == name || word.starts_with(&format!("{name}=")));
        match of {
            Some((name, values)) if word == name => {
                (0..*values).for_each(|_| {
                    words.next();
                });
            }
            Some(_) => {}
            None => kept.push(word.clone()),
        }
    }
    kept.extend(["--plan", plan, "--shard", "0"].map(str::to_owned));
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_job_is_called_as_this_process_but_for_its_own_options() {
        let given = [
            "backup",
            "--deployment",
            "a",
            "--via-volume-snapshot",
            "--cron-job",
            "x",
            "--volume-wait=5m",
            "--tag",
            "t",
        ];
        let given: Vec<String> = given.map(str::to_owned).into();
        let expected = ["backup", "--deployment", "a", "--tag", "t", "--plan", "p", "--shard", "0"];
        assert_eq!(arguments(&given, "p"), expected);
    }
}
