//! Restores into MLflow: a plan, somebody who agrees to it, and then the restore.
//!
//! What must stay true:
//! - Who agrees has seen what will be written, and where.
//! - A part with conflicts that are to be refused changes nothing, whenever the conflicts came up.

use crate::database::OnConflict;
use crate::error::Result;
use crate::format::evidence::DrillTime;
use crate::objectives::Objectives;
use crate::procedures::consent::Consent;
use crate::procedures::quiesce::{self, Resumed, Served};
use crate::procedures::served::{self, Listed};
use crate::restore::deployment::{
    self, DeploymentPart, DeploymentRestore, DeploymentRestoreOptions, DeploymentRestorePlan, DeploymentRestored,
    MergeOptions, MergeSummary, PartTimes, RestPlan, RestRestore,
};
use crate::source::deployment::Deployment;
use crate::tracking::TrackingClient;
use crate::tracking::import::ImportReport;

/// A restore of a whole deployment.
#[derive(Debug)]
pub struct RestoredWhole {
    /// What was to be done.
    pub plan: DeploymentRestorePlan,
    /// What was done; nothing after a dry run.
    pub done: Option<DeploymentRestored>,
    /// How MLflow was started again, if it was stopped.
    pub resumed: Option<Resumed>,
    /// What it lists since, if it was asked.
    pub listed: Option<Listed>,
}

/// Restores a whole deployment, or some components of it, into places that are empty. MLflow is stopped meanwhile where it is said
/// what runs it.
pub fn whole(
    restore: &DeploymentRestore<'_>,
    target: &Deployment,
    options: &DeploymentRestoreOptions,
    consent: &Consent<'_, DeploymentRestorePlan>,
    served: Option<&Served<'_>>,
) -> Result<RestoredWhole> {
    let plan = restore.plan(target, options)?;
    restore.warn(&plan);
    if !consent.allows(&plan)? {
        return Ok(RestoredWhole { plan, done: None, resumed: None, listed: None });
    }
    let Some(served) = served else {
        let done = restore.execute(&plan, options)?;
        return Ok(RestoredWhole { plan, done: Some(done), resumed: None, listed: None });
    };
    let (done, resumed) = quiesce::while_stopped(served, || {
        // It may have filled what was empty, up to the moment when it was stopped.
        let plan = restore.plan(target, options)?;
        restore.execute(&plan, options)
    })?;
    let is_whole = options.components.is_empty() && resumed.healthy == Some(true);
    let listed = match served.server.filter(|_| is_whole) {
        Some(server) => {
            let (snapshot, reader) = restore.source();
            served::compare(reader, snapshot, server, served.hears)?
        }
        None => None,
    };
    Ok(RestoredWhole { plan, done: Some(done), resumed: Some(resumed), listed })
}

/// Puts beside each time how long it may be.
pub fn judged_times(times: &PartTimes, objectives: &Objectives) -> Vec<DrillTime> {
    let target = |part: &str| match part {
        DrillTime::WHOLE => objectives.rto(),
        // What is judged is a component as a whole, not a part of it.
        part if part.contains('/') => None,
        part => objectives.rto_of(part),
    };
    let time = |part: &str, milliseconds| DrillTime {
        part: part.to_owned(),
        milliseconds,
        target_seconds: target(part).map(|limit| limit.unsigned_abs().as_secs()),
    };
    times.iter().map(|it| time(&it.part, it.milliseconds)).collect()
}

/// How to restore a part.
#[derive(Debug, Clone)]
pub struct RestorePartOptions {
    /// What to do with rows that are there and differ.
    pub on_conflict: OnConflict,
    /// Artifact roots as the snapshot has them, and as the deployment has them now.
    pub map_roots: Vec<(String, String)>,
}

/// A restore of one experiment, run or model.
#[derive(Debug)]
pub struct RestoredPart {
    /// What was done, or would be done.
    pub summary: MergeSummary,
    /// Whether nothing was changed because of conflicts.
    pub is_refused: bool,
}

/// Merges one experiment, run or model into a deployment in use.
pub fn part(
    restore: &DeploymentRestore<'_>,
    target: &Deployment,
    wanted: &DeploymentPart,
    options: &RestorePartOptions,
    consent: &Consent<'_, MergeSummary>,
) -> Result<RestoredPart> {
    let merge = |dry_run| {
        let RestorePartOptions { on_conflict, map_roots } = options.clone();
        deployment::merge(restore, target, wanted, &MergeOptions { on_conflict, map_roots, dry_run })
    };
    let is_refused = |summary: &MergeSummary| options.on_conflict == OnConflict::Refuse && summary.conflicts() > 0;
    // To look first reads the whole dump, so it is only done for somebody who will see the result.
    if consent.wants_plan() {
        let summary = merge(true)?;
        if is_refused(&summary) || !consent.allows(&summary)? {
            return Ok(RestoredPart { is_refused: is_refused(&summary), summary });
        }
    }
    // Rows may have come in since the look, so conflicts are counted again.
    let summary = merge(false)?;
    Ok(RestoredPart { is_refused: is_refused(&summary), summary })
}

/// A restore through the REST API of a server.
#[derive(Debug)]
pub struct RestoredThroughServer {
    /// What was to be done.
    pub plan: RestPlan,
    /// What was done; nothing after a dry run.
    pub report: Option<ImportReport>,
}

/// Restores what is wanted, or everything, through the REST API of a server, which gives new ids.
pub fn through_server(
    restore: &DeploymentRestore<'_>,
    target: &Deployment,
    wanted: Option<&DeploymentPart>,
    client: &TrackingClient,
    consent: &Consent<'_, RestPlan>,
) -> Result<RestoredThroughServer> {
    let prepared = RestRestore::prepare(restore, wanted, target)?;
    let report = match consent.allows(prepared.plan())? {
        true => Some(prepared.execute(client)?),
        false => None,
    };
    Ok(RestoredThroughServer { plan: prepared.plan().clone(), report })
}
