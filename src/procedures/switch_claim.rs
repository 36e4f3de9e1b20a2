//! Restores into a new claim while MLflow is stopped, and lets MLflow use it instead of the old one.
//!
//! What must stay true: the old claim is never touched. MLflow uses the new one only once the Job that restored into it has ended
//! well; if it has not, MLflow stays stopped, with the old one.

use crate::error::Result;
use crate::kubernetes::PodEnd;
use crate::kubernetes::jobs::{CronJob, change_arguments, mount_claim};
use crate::procedures::quiesce::{self, Resumed, Served};

/// Exit codes of a restore after which there is something to serve: everything, or all but what the backup lacks.
const SERVABLE: [i32; 2] = [0, 3];

/// Which claim takes the place of which, where.
#[derive(Debug, Clone)]
pub struct ClaimSwitch {
    /// The one that MLflow uses.
    pub from: String,
    /// The one that is made.
    pub to: String,
    /// Where the Job that restores finds it.
    pub mount: String,
}

/// Runs the Job of a CronJob on a new claim, with more arguments, and switches MLflow over. `hear` is told what the Job says.
pub fn run(
    served: &Served<'_>,
    cron_job: &CronJob,
    switch: &ClaimSwitch,
    arguments: &[String],
    hear: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<(PodEnd, Resumed)> {
    let ClaimSwitch { from, to, mount } = switch;
    let cluster = served.cluster;
    cluster.refuse_unless_used(served.workload, from)?;
    cluster.create_claim_like(from, to)?;
    quiesce::while_stopped(served, || {
        let name = cluster.start_job(cron_job, |job| {
            mount_claim(job, to, mount, false)?;
            change_arguments(job, |given| given.extend_from_slice(arguments))
        })?;
        let end = cluster.follow_job(&name, hear)?;
        if !end.code.is_some_and(|code| SERVABLE.contains(&code)) {
            return Err(end.failure(&name));
        }
        cluster.switch_claim(served.workload, from, to)?;
        served.hears.monitor.note(&format!("{} uses the claim {to} now; {from} is as it was", served.workload));
        Ok(end)
    })
}
