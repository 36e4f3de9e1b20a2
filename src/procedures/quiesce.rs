//! Stops MLflow in its cluster while it is restored, and starts it again.
//!
//! What must stay true:
//! - Of two that want to stop the same workload, one does ([`Lease`]).
//! - What the workload was before is noted on it; whoever crashes here leaves enough for [`resume`].
//! - What could not be stopped is started again at once: nothing was restored. What was stopped and could not be restored stays
//!   stopped: half of a deployment must not be served, nor migrated. The error of the restore is told, and that it is so.
//! - Nothing was restored under a server that somebody else started in between: that is found out, and said.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::hears::Hears;
use crate::kubernetes::{Cluster, Lease, Workload};
use crate::procedures::served;
use crate::tracking::TrackingClient;

/// How long pods may take to go: longer than they usually are given.
const GONE_MAX: Duration = Duration::from_secs(300);
/// How long they may take until they answer: MLflow may migrate its database.
const READY_MAX: Duration = Duration::from_secs(600);
/// How long the tracking server may take until it answers, once pods do.
const HEALTH_MAX: Duration = Duration::from_secs(60);

/// What runs MLflow, and where.
pub struct Served<'a> {
    /// Where.
    pub cluster: &'a Cluster,
    /// What.
    pub workload: &'a Workload,
    /// The server that is asked whether it is well, if it can be reached from here.
    pub server: Option<&'a TrackingClient>,
    /// Who follows.
    pub hears: &'a Hears,
}

/// How MLflow was started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resumed {
    /// What runs it.
    pub workload: String,
    /// How many pods it has, as before.
    pub replicas: u32,
    /// Whether the tracking server said that it is well; null if it was not asked.
    pub healthy: Option<bool>,
}

/// Stops MLflow, does something, and starts it again if that went well.
pub fn while_stopped<T>(served: &Served<'_>, work: impl FnOnce() -> Result<T>) -> Result<(T, Resumed)> {
    let Served { cluster, workload, hears, .. } = served;
    let lease = Lease::take(cluster, &lease_name(workload))?;
    hears.monitor.phase("stop MLflow", None, None);
    let before = cluster.stop(workload)?;
    let gone = cluster.wait_until_gone(workload, GONE_MAX);
    if let Err(error) = gone.and_then(|()| hears.check()) {
        // Also for somebody who has asked to stop.
        let put_back = cluster.heard_by(Hears::nobody()).start(workload);
        let failed = put_back.err().map(|why| format!("{}: {why}", stays_stopped(workload)));
        failed.iter().for_each(|text| hears.monitor.warning(text));
        return Err(lost(&lease).unwrap_or(error));
    }
    hears.monitor.note(&format!("{workload} is stopped; it had {before} pods"));
    let done = work().and_then(|done| match lost(&lease) {
        Some(error) => Err(error),
        None => refuse_if_started(served).map(|()| done),
    });
    match done {
        Ok(done) => start(served).map(|resumed| (done, resumed)),
        Err(error) => {
            hears.monitor.warning(&stays_stopped(workload));
            Err(lost(&lease).unwrap_or(error))
        }
    }
}

/// Starts MLflow again if mlvault stopped it. Returns nothing if it did not. Fails with [`Error::Busy`] while somebody is at work
/// on it.
pub fn resume(served: &Served<'_>) -> Result<Option<Resumed>> {
    let _lease = Lease::take(served.cluster, &lease_name(served.workload))?;
    match served.cluster.workload(served.workload)?.before {
        Some(_) => start(served).map(Some),
        None => Ok(None),
    }
}

fn start(served: &Served<'_>) -> Result<Resumed> {
    let Served { cluster, workload, hears, .. } = served;
    hears.monitor.phase("start MLflow", None, None);
    let replicas = cluster.start(workload)?.unwrap_or(0);
    if !cluster.wait_until_ready(workload, READY_MAX)? {
        return Err(Error::Refused(format!(
            "{workload} was started again, and its pods do not answer after {} s: `kubectl logs {workload}` says why",
            READY_MAX.as_secs()
        )));
    }
    // Without pods nobody answers.
    let healthy = served.server.filter(|_| replicas > 0).map(|server| is_healthy(server, hears)).transpose()?;
    Ok(Resumed { workload: workload.to_string(), replicas, healthy })
}

fn is_healthy(server: &TrackingClient, hears: &Hears) -> Result<bool> {
    let begun = Instant::now();
    let well = served::wait_until_well(server, hears, || begun.elapsed() >= HEALTH_MAX)?;
    well.as_ref().err().into_iter().for_each(|why| hears.monitor.problem("MLflow", why));
    Ok(well.is_ok())
}

fn refuse_if_started(served: &Served<'_>) -> Result<()> {
    match served.cluster.wait_until_gone(served.workload, Duration::ZERO) {
        Err(Error::Busy(_)) => {}
        result => return result,
    }
    Err(Error::Refused(format!(
        "Somebody started {} while it was restored: it may have changed what was put there. Keep whatever starts it from doing \
         so (an operator of a GitOps repository, for one), and restore again into empty places",
        served.workload
    )))
}

/// A Lease that was lost is the reason for everything that went wrong since.
fn lost(lease: &Lease) -> Option<Error> {
    lease.is_lost().then(|| {
        Error::Busy("The Lease that keeps two restores apart was lost: the API server could not be reached, or somebody took it".to_owned())
    })
}

fn stays_stopped(workload: &Workload) -> String {
    format!("{workload} stays stopped, because it is not restored; `mlvault k8s resume` starts it as it was")
}

fn lease_name(workload: &Workload) -> String {
    format!("mlvault-{}-{}", workload.kind.name(), workload.name)
}
