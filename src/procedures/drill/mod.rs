//! A drill: a timed test restore of a deployment into a scratch place, with checks.
//!
//! What must stay true:
//! - Nothing is written before it is certain that the scratch place is another one than the source.
//! - A check that could not be made is a failure, and what could not be compared is an exception: neither ever counts as passed.
//! - What the drill has made is removed however it ends, and what cannot be removed is named.

mod apart;
pub mod choose;
mod databases;
mod files;
mod findings;
mod places;
mod samples;
mod scratch;
mod server;
pub mod settings;
mod work;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use crate::chunks::reader::ChunkReader;
use crate::error::{Error, Result};
use crate::format::deployment::DeploymentRecord;
use crate::format::evidence::{DrillEvidence, DrillResult, DrillTime, DrilledFiles, DrilledServer, DrilledSnapshot};
use crate::format::snapshot::{ARTIFACTS, DATABASE, METADATA};
use crate::hears::Hears;
use crate::procedures::consent::Consent;
use crate::procedures::drill::apart::Protected;
use crate::procedures::drill::databases::ReadDatabases;
use crate::procedures::drill::findings::Findings;
use crate::procedures::drill::scratch::Scratch;
use crate::procedures::drill::work::Work;
use crate::procedures::restore_deployment::{self, judged_times};
use crate::repository::Repository;
use crate::repository::naming::Scope;
use crate::repository::session::PROGRAM;
use crate::repository::snapshots::Snapshot;
use crate::restore::deployment::{DeploymentRestore, DeploymentRestoreOptions, PartTimes};
use crate::restore::{self, RestoreOptions};

pub use settings::{DrillOptions, DrillSettings};

/// A drill that has ended.
#[derive(Debug)]
pub struct Drilled {
    /// What it found.
    pub evidence: DrillEvidence,
    /// What could not be removed, and why.
    pub left: Vec<String>,
    /// What stays because that was wanted.
    pub kept: Vec<String>,
}

/// What the checks found, beside failures and exceptions.
#[derive(Default)]
struct Compared {
    databases: ReadDatabases,
    files: DrilledFiles,
    server: Option<DrilledServer>,
}

/// What is drilled, and how.
struct Drill<'a> {
    repository: &'a Arc<Repository>,
    snapshot: &'a Snapshot,
    record: &'a DeploymentRecord,
    options: &'a DrillOptions,
    findings: Findings,
    /// For whom each problem is a failure.
    hears: Hears,
}

/// Restores a snapshot into a scratch place, and compares. Fails where it was refused before anything was restored, and on
/// request; all else that goes wrong is in the evidence.
pub fn run(
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    options: &DrillOptions,
    hears: &Hears,
) -> Result<Drilled> {
    DeploymentRestore::new(repository, snapshot, hears)?;
    let record = snapshot.record.deployment.as_deref();
    let record = record.ok_or_else(|| Error::NotFound("The snapshot holds no MLflow deployment".to_owned()))?;
    let scope = Scope::Deployment(options.source.name.clone());
    if !scope.has(&snapshot.record.source) {
        let (id, group) = (snapshot.id.short(), snapshot.record.source.group());
        let name = &options.source.name;
        return Err(Error::Refused(format!(
            "The snapshot {id} is one of {group:?}, and not of the deployment {name:?}"
        )));
    }
    let findings = Findings::new(&hears.monitor);
    let drill = Drill { repository, snapshot, record, options, hears: findings.heard(hears), findings };
    let protected = Protected::of(repository, record, &options.source, &options.own_places);
    let mut scratch = Scratch::new(options, &protected)?;
    let tell = |named: &[String]| {
        hears.monitor.note(&format!("Scratch place: {}; remove it if this process is killed", named.join(", ")));
    };
    let first = scratch.named();
    tell(&first);
    let prepared = scratch.prepare(record, options, &protected, &hears.cancel);
    let further = scratch.named().split_off(first.len());
    if !further.is_empty() {
        tell(&further);
    }
    let drilled = prepared.and_then(|()| drill.carry_out(&scratch));
    let is_kept = options.keep && drilled.is_ok();
    let (left, kept) = if is_kept { (Vec::new(), scratch.keep()) } else { (scratch.remove(), Vec::new()) };
    left.iter().for_each(|left| hears.monitor.warning(left));
    Ok(Drilled { evidence: drilled?, left, kept })
}

impl Drill<'_> {
    fn carry_out(&self, scratch: &Scratch) -> Result<DrillEvidence> {
        self.note_lacks();
        let restored = self.findings.check("restore", || self.restore(scratch))?;
        let compared = match &restored {
            Some(_) => self.compare(scratch)?,
            None => Compared::default(),
        };
        let times = judged_times(&restored.unwrap_or_default(), &self.options.settings.objectives);
        Ok(self.evidence(scratch, compared, times))
    }

    fn evidence(&self, scratch: &Scratch, compared: Compared, times: Vec<DrillTime>) -> DrillEvidence {
        let (failures, exceptions) = self.findings.lines();
        let mut tools: BTreeSet<String> = compared.databases.tools;
        tools.insert(PROGRAM.to_owned());
        tools.extend(compared.server.as_ref().map(|server| format!("mlflow {}", server.version)));
        DrillEvidence {
            deployment: self.options.source.name.clone(),
            snapshot: DrilledSnapshot {
                id: self.snapshot.id,
                started: self.snapshot.record.started,
                complete: !self.snapshot.is_incomplete(),
            },
            result: result_of(failures.count, &times),
            places: scratch.places.clone(),
            times,
            tables: compared.databases.tables,
            files: compared.files,
            server: compared.server,
            failures,
            exceptions,
            tools: tools.into_iter().collect(),
            retention: self.options.retention.clone(),
        }
    }

    /// Names what is known to be missing before anything is restored.
    fn note_lacks(&self) {
        self.options.doubts.iter().for_each(|doubt| self.findings.exception("snapshot", doubt));
        for problem in &self.snapshot.record.problems {
            let message = format!("it is not whole in the snapshot: {}", problem.message);
            self.findings.exception(&problem.path, &message);
        }
    }

    /// Restores everything that the snapshot has. Returns how long it took.
    fn restore(&self, scratch: &Scratch) -> Result<PartTimes> {
        let all_begun = Instant::now();
        let restore = DeploymentRestore::new(self.repository, self.snapshot, &self.hears)?;
        let options = DeploymentRestoreOptions { is_rehearsal: true, ..DeploymentRestoreOptions::default() };
        let restored = restore_deployment::whole(&restore, &scratch.deployment, &options, &Consent::Given, None)?;
        let mut times = restored.done.map(|done| done.times).unwrap_or_default();
        if self.snapshot.record.components.iter().any(|component| component.name == METADATA) {
            let begun = Instant::now();
            let path = Some(METADATA.to_owned());
            let into = RestoreOptions { path, ..RestoreOptions::into_directory(scratch.path()) };
            restore::run(self.repository, self.snapshot, &into, &self.hears)?;
            times.add(METADATA, begun);
        }
        times.add(DrillTime::WHOLE, all_begun);
        Ok(times)
    }

    /// Compares what was restored with what the snapshot has recorded, and with the source.
    fn compare(&self, scratch: &Scratch) -> Result<Compared> {
        let (findings, seed) = (&self.findings, self.options.seed);
        let directory = scratch.make_directory("compare")?;
        let work = Work {
            reader: ChunkReader::new(Arc::clone(self.repository)),
            snapshot: self.snapshot,
            record: self.record,
            restored: &scratch.deployment,
            directory: &directory,
            options: self.options,
            findings,
            hears: &self.hears,
        };
        let databases = findings.check(DATABASE, || databases::compare(&work))?.unwrap_or_default();
        let files = findings.check("model versions", || files::compare_versions(&work, seed))?;
        let mut files = files.unwrap_or(DrilledFiles { seed, ..DrilledFiles::default() });
        let chosen = findings.check("samples", || samples::choose(&work, seed, self.options.settings.samples))?;
        let chosen = chosen.unwrap_or_default();
        if chosen.is_empty() {
            findings.exception(ARTIFACTS.trim_end_matches('/'), "no file was compared byte by byte");
        }
        files.samples = findings.check("samples", || samples::compare(&work, &chosen))?.unwrap_or_default();
        let server = match &self.options.settings.mlflow_command {
            Some(command) => {
                let directory = scratch.make_directory("mlflow")?;
                findings.check("MLflow", || server::ask(&work, command, &chosen, &directory))?.flatten()
            }
            None => None,
        };
        Ok(Compared { databases, files, server })
    }
}

fn result_of(failures: u64, times: &[DrillTime]) -> DrillResult {
    match (failures, times.iter().any(DrillTime::is_late)) {
        (1.., _) => DrillResult::Failed,
        (0, true) => DrillResult::Late,
        (0, false) => DrillResult::Passed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objectives::Objectives;

    #[test]
    fn late_is_what_took_longer_than_its_objective_and_a_failure_counts_more() {
        let objectives: Objectives =
            serde_json::from_str(r#"{"rto": "1h", "rto-artifacts": "1s", "rto-database": "none"}"#).unwrap();
        let mut times = PartTimes::default();
        let long_ago = Instant::now().checked_sub(std::time::Duration::from_millis(1500)).unwrap();
        ["artifacts/main", "artifacts", "database", "everything"].iter().for_each(|part| times.add(part, long_ago));
        let settings = DrillSettings { objectives, ..DrillSettings::default() };
        let times = judged_times(&times, &settings.objectives);
        let late: Vec<_> = times.iter().filter(|time| time.is_late()).map(|time| time.part.as_str()).collect();
        assert_eq!(late, ["artifacts"]);
        assert_eq!(times.last().unwrap().target_seconds, Some(3600));
        assert_eq!((result_of(0, &times), result_of(1, &times)), (DrillResult::Late, DrillResult::Failed));
        assert_eq!(result_of(0, &times[2..]), DrillResult::Passed);
    }
}
