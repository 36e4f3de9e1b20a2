//! A backup of a deployment by several processes: one makes the plan, each shard reads a part of the artifacts, and one more
//! writes the snapshot.
//!
//! They share nothing but the repository. All of them write in one session, which the plan announces and the last one commits:
//! so to a prune they are one backup under way, and nothing that they stored or rely on goes before that ends.
//!
//! What must stay true:
//! - The plan comes first and has the dumps; shards list artifacts after it. So the order of section 12 of docs/design.md is
//!   that of one process.
//! - Each step can be done again, also at the same time as before: the plan, a shard's result and the snapshot are each
//!   written once, and whoever comes second takes what is there.
//! - Nothing but what the key in use has signed is taken in; nothing is closed while a shard is missing.
//! - Only the commit, or a prune, ends the session: a step that fails leaves it to the others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backup::deployment::{self, ShardOf, ShardsOf, StoredShard};
use crate::backup::job::Job;
use crate::backup::problems::Problems;
use crate::backup::{
    About, BackupOptions, BackupSource, BackupSummary, Compare, StoredSource, count_written, note_damage, of_source,
    report_index_damage, tell_begun,
};
use crate::chunks::writer::Written;
use crate::chunks::writing_session::WritingSession;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::plan::{PlanObject, PlanRecord, SHARDS_MAX, ShardRecord};
use crate::format::snapshot::{SourceRecord, Statistics};
use crate::hears::Hears;
use crate::id::{PlanId, SessionId};
use crate::parallel;
use crate::repository::Repository;
use crate::repository::session::{self, PROGRAM, host_name};
use crate::repository::snapshots::Snapshot;
use crate::source::deployment::Deployment;
use crate::units::count;

/// Most characters of the name of a plan.
const NAME_CHARS_MAX: usize = 128;
/// Shards that a message names.
const SHARDS_NAMED_MAX: usize = 10;
/// Time between two looks at what is waited for.
const POLL: Duration = Duration::from_secs(5);
/// Longest life of a plan where creates may overwrite: there a prune cannot end a session, and deletes after seven days.
const PLAN_AGE_MAX: jiff::SignedDuration = jiff::SignedDuration::from_hours(5 * 24);
/// What the session is for.
const PURPOSE: &str = "backup";

/// Which plan, and how long to wait for what has to be there first.
#[derive(Debug, Clone)]
pub struct PlanName {
    /// Its name: one for each backup.
    pub name: String,
    /// How long to wait.
    pub wait_max: Duration,
}

/// What there is to know of a plan.
#[derive(Debug, Clone)]
pub struct PlanSummary {
    /// Its record.
    pub record: PlanRecord,
    /// Whether it was there before.
    pub was_there: bool,
}

/// What there is to know of a shard.
#[derive(Debug, Clone)]
pub struct ShardSummary {
    /// The session that it was written in.
    pub session: SessionId,
    /// Its record; none if the snapshot was written before and the record is gone.
    pub record: Option<ShardRecord>,
    /// Whether it was there before.
    pub was_there: bool,
}

/// How a backup is divided.
#[derive(Debug, Clone, Copy)]
pub struct Shards {
    /// How many there are.
    pub count: u32,
    /// Whether only they find the artifacts, and not the process that makes the plan: it checks nothing of the places then.
    pub are_elsewhere: bool,
}

impl Shards {
    /// So many, which find the artifacts where the plan is made.
    pub fn here(count: u32) -> Self {
        Self { count, are_elsewhere: false }
    }
}

/// Makes the plan of a backup by shards: dumps the databases and divides the artifacts. If there is such a plan
/// already, that is the one; but one that has become a snapshot is refused.
pub fn plan(
    repository: &Arc<Repository>,
    options: &BackupOptions,
    named: &PlanName,
    shards: Shards,
    hears: &Hears,
) -> Result<PlanSummary> {
    let step = Step::new(repository, options, named, hears)?;
    let Shards { count: shards, are_elsewhere } = shards;
    if shards == 0 || shards > SHARDS_MAX {
        return Err(Error::Invalid(format!("A backup has between 1 and {SHARDS_MAX} shards, not {shards}")));
    }
    if let Some(record) = repository.read_plan(&step.id)? {
        return step.known(record, shards);
    }
    if !are_elsewhere {
        deployment::check_places(step.deployment, options)?;
    }
    repository.tell_clock_off(hears);
    let source = step.source();
    let session = WritingSession::begin(repository, PURPOSE, hears)?;
    let list = repository.list_snapshots()?;
    note_damage(&list, hears);
    let parent = session.last_reliable(of_source(&list, &source))?;
    tell_begun(&session, &source, parent, hears);
    let problems = Problems::new(repository, &source, Arc::clone(&hears.monitor));
    let planned = step.work(&session, &problems, parent, |job, compare| {
        deployment::plan(job, step.deployment, options, compare, shards)
    })?;
    let started = session.started();
    let (session, written) = session.finish()?;
    hears.check()?;
    let record = PlanRecord {
        session: session.id(),
        started,
        host: host_name(),
        program: PROGRAM.to_owned(),
        name: named.name.clone(),
        deployment: step.deployment.name.clone(),
        shards,
        tags: options.tags.clone(),
        parent: parent.map(|parent| parent.id),
        settings: deployment::settings(step.deployment, options)?,
        cuts: planned.cuts,
        database: planned.database,
        tables: planned.tables,
        read_at: planned.read_at,
        databases: planned.databases,
        keys: planned.keys,
        problems: planned.problems,
        statistics: with_written(planned.statistics, written),
    };
    if repository.write_plan_object(&step.id, &PlanObject::Plan(Box::new(record.clone())))? {
        session.leave_open();
        return Ok(PlanSummary { record, was_there: false });
    }
    session.close("another process has made the same plan")?;
    let first = repository.read_plan(&step.id)?;
    step.known(first.ok_or_else(|| step.no_plan())?, shards)
}

/// Stores one shard of a plan. If it was stored already, that is the one.
pub fn shard(
    repository: &Arc<Repository>,
    options: &BackupOptions,
    named: &PlanName,
    number: u32,
    hears: &Hears,
) -> Result<ShardSummary> {
    let step = Step::new(repository, options, named, hears)?;
    let plan = step.await_plan()?;
    if number >= plan.shards {
        return Err(Error::Invalid(format!(
            "The plan {:?} has {}, numbered from 0: there is no {number}",
            named.name,
            count(u64::from(plan.shards), "shard")
        )));
    }
    let known = repository.read_shard(&step.id, number)?.filter(|record| record.session == plan.session);
    if known.is_some() || step.snapshot_of(&plan)?.is_some() {
        return Ok(ShardSummary { session: plan.session, record: known, was_there: true });
    }
    let begun = Instant::now();
    let now = repository.clock().now();
    let session = WritingSession::join(repository, (plan.session, plan.started), PURPOSE, hears)?;
    let source = step.source();
    let parent = step.parent(&plan)?;
    tell_begun(&session, &source, parent.as_ref(), hears);
    let problems = Problems::new(repository, &source, Arc::clone(&hears.monitor));
    let stored = step.work(&session, &problems, parent.as_ref(), |job, compare| {
        deployment::store_shard(job, step.deployment, options, compare, ShardOf { plan: &plan, number })
    })?;
    let (session, written) = session.finish()?;
    session.leave_open();
    hears.check()?;
    let StoredShard { components, notes, problem_count, statistics } = stored;
    let statistics =
        Statistics { duration_ms: begun.elapsed().as_millis() as u64, ..with_written(statistics, written) };
    let (started, finished) = (now, repository.clock().now());
    let (session, host) = (plan.session, host_name());
    let record = ShardRecord { session, started, finished, host, components, notes, problem_count, statistics };
    if repository.write_plan_object(&step.id, &PlanObject::Shard(number, Box::new(record.clone())))? {
        return Ok(ShardSummary { session, record: Some(record), was_there: false });
    }
    // Somebody else was faster with the same shard, and that is the one that counts.
    let record = repository.read_shard(&step.id, number)?.filter(|record| record.session == session);
    let record = record.ok_or_else(|| step.foreign(number))?;
    Ok(ShardSummary { session, record: Some(record), was_there: true })
}

/// Writes the snapshot of a plan from all of its shards. If it was written already, that is the one.
///
/// Fails with [`Error::Refused`] if a shard is missing.
pub fn close(
    repository: &Arc<Repository>,
    options: &BackupOptions,
    named: &PlanName,
    hears: &Hears,
) -> Result<BackupSummary> {
    let step = Step::new(repository, options, named, hears)?;
    let begun = Instant::now();
    let plan = step.await_plan()?;
    if let Some(snapshot) = step.snapshot_of(&plan)? {
        hears.monitor.note(&format!("The plan {:?} was closed before, at {}", named.name, snapshot.record.finished));
        return Ok(summary_of(snapshot));
    }
    let shards = step.await_shards(&plan)?;
    let clock_off_seconds = repository.tell_clock_off(hears);
    let session = WritingSession::join(repository, (plan.session, plan.started), PURPOSE, hears)?;
    let list = repository.list_snapshots()?;
    note_damage(&list, hears);
    let (source, parent) = (step.source(), step.parent(&plan)?);
    tell_begun(&session, &source, parent.as_ref(), hears);
    let problems = Problems::new(repository, &source, Arc::clone(&hears.monitor));
    let all: Vec<Statistics> =
        shards.iter().map(|shard| shard.statistics.clone()).chain([plan.statistics.clone()]).collect();
    let stored = step.work(&session, &problems, parent.as_ref(), |job, compare| {
        deployment::close(job, step.deployment, options, compare, ShardsOf { plan: &plan, shards })
    })?;
    let started = session.started();
    let (session, written) = session.finish()?;
    let mut statistics = with_written(stored.statistics, written);
    for one in &all {
        statistics.chunks_new += one.chunks_new;
        statistics.bytes_new += one.bytes_new;
        statistics.bytes_stored += one.bytes_stored;
    }
    statistics.duration_ms = duration_ms(repository, started, begun);
    let (components, record) = (stored.components, stored.record);
    let stored = StoredSource { components, statistics, deployment: Some(Box::new(record)), covers_top: Some(true) };
    hears.check()?;
    let options = BackupOptions { tags: plan.tags.clone(), ..options.clone() };
    let about = About { repository, started, options: &options, source, parent: parent.as_ref(), list: &list };
    let record = about.record(stored, &problems);
    match session.commit(record.clone()) {
        Ok(snapshot) => Ok(BackupSummary { snapshot: Some(snapshot), record, clock_off_seconds }),
        // Somebody else has closed it meanwhile, or a prune has ended it.
        Err(error @ Error::Busy(_)) => step.snapshot_of(&plan)?.map(summary_of).ok_or(error),
        Err(error) => Err(error),
    }
}

fn summary_of(snapshot: Snapshot) -> BackupSummary {
    BackupSummary { snapshot: Some(snapshot.id), record: snapshot.record, clock_off_seconds: None }
}

/// Returns the time since the plan was begun: by its clock, which may be another one.
fn duration_ms(repository: &Repository, started: jiff::Timestamp, begun: Instant) -> u64 {
    let since = repository.clock().now().duration_since(started).as_millis();
    u64::try_from(since).unwrap_or(0).max(begun.elapsed().as_millis() as u64)
}

fn with_written(mut statistics: Statistics, written: Written) -> Statistics {
    count_written(&mut statistics, written);
    statistics
}

/// What the steps have in common.
struct Step<'a> {
    repository: &'a Arc<Repository>,
    options: &'a BackupOptions,
    deployment: &'a Deployment,
    named: &'a PlanName,
    id: PlanId,
    hears: &'a Hears,
}

impl<'a> Step<'a> {
    fn new(
        repository: &'a Arc<Repository>,
        options: &'a BackupOptions,
        named: &'a PlanName,
        hears: &'a Hears,
    ) -> Result<Self> {
        let BackupSource::Deployment(deployment) = &options.what else {
            return Err(Error::Invalid("Only the backup of a deployment can be sharded".to_owned()));
        };
        let name = &named.name;
        if name.is_empty() || name.chars().count() > NAME_CHARS_MAX || name.chars().any(char::is_control) {
            return Err(Error::Invalid(format!(
                "{name:?} cannot name a plan: it must have 1 to {NAME_CHARS_MAX} characters, and no control characters"
            )));
        }
        let id = repository.plan_id(&deployment.name, name);
        Ok(Self { repository, options, deployment, named, id, hears })
    }

    fn source(&self) -> SourceRecord {
        SourceRecord::Deployment { name: self.deployment.name.clone() }
    }

    /// Does the work of a step in its session.
    fn work<T>(
        &self,
        session: &WritingSession,
        problems: &Problems,
        parent: Option<&Snapshot>,
        work: impl FnOnce(&Job<'_>, &Compare<'_>) -> Result<T>,
    ) -> Result<T> {
        let (repository, chunks, hears) = (self.repository, session.writer(), self.hears);
        let job = Job { repository, chunks, problems, hears, kind: BlobKind::Data };
        let compare = Compare {
            parent,
            reads_all: self.options.force,
            ignore_inode: self.options.ignore_inode,
            check_chunks: session.must_look_up(),
        };
        let done = work(&job, &compare);
        report_index_damage(repository, hears);
        done
    }

    /// Returns a plan that was there before, if it is still of use.
    fn known(&self, record: PlanRecord, shards: u32) -> Result<PlanSummary> {
        if record.shards != shards {
            return Err(Error::Invalid(format!(
                "The plan {:?} is there already, and has {}",
                self.named.name,
                count(u64::from(record.shards), "shard")
            )));
        }
        self.check_settings(&record)?;
        match self.snapshot_of(&record)? {
            None => Ok(PlanSummary { record, was_there: true }),
            // Whoever gives every backup the same name must not take the snapshot of last night for that of tonight.
            Some(snapshot) => Err(Error::Refused(format!(
                "The plan {:?} has become the snapshot {} already; a new backup needs a plan of another name",
                self.named.name,
                snapshot.id.short()
            ))),
        }
    }

    fn check_settings(&self, plan: &PlanRecord) -> Result<()> {
        let own = deployment::settings(self.deployment, self.options)?;
        let differs = |name: &&String| own.get(*name) != plan.settings.get(*name);
        match own.keys().chain(plan.settings.keys()).find(differs) {
            None => Ok(()),
            Some(name) => Err(Error::Invalid(format!(
                "The plan {:?} was made with another value for {name}: all steps of a backup need the same",
                self.named.name
            ))),
        }
    }

    fn no_plan(&self) -> Error {
        Error::Refused(format!(
            "There is no plan {:?} of the deployment {:?} made with this key",
            self.named.name, self.deployment.name
        ))
    }

    fn foreign(&self, number: u32) -> Error {
        Error::Refused(format!("What stands for shard {number} of the plan {:?} is of another backup", self.named.name))
    }

    /// Looks until something is there, or the time is over.
    fn wait_for<T>(&self, what: &'static str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
        let mut waited = Duration::ZERO;
        loop {
            if let Some(found) = look()? {
                return Ok(Some(found));
            }
            if waited >= self.named.wait_max {
                return Ok(None);
            }
            if waited.is_zero() {
                self.hears.monitor.phase(what, None, None);
            }
            self.hears.check()?;
            self.repository.clock().sleep(POLL);
            waited += POLL;
        }
    }

    fn await_plan(&self) -> Result<PlanRecord> {
        let plan = self.wait_for("wait for the plan", || self.repository.read_plan(&self.id))?;
        let plan = plan.ok_or_else(|| self.no_plan())?;
        self.check_settings(&plan)?;
        self.refuse_old(&plan)?;
        Ok(plan)
    }

    /// Where creates may overwrite, nothing else keeps a plan from being closed after a prune has given its session up.
    fn refuse_old(&self, plan: &PlanRecord) -> Result<()> {
        let age = self.repository.clock().now().duration_since(plan.started).abs();
        match !self.repository.config().create_only && age > PLAN_AGE_MAX {
            true => Err(Error::Busy(format!("The plan {:?} is too old to be gone on with", self.named.name))),
            false => Ok(()),
        }
    }

    /// Returns the snapshot that a plan has become, if it has. Fails with [`Error::Busy`] if it never can.
    fn snapshot_of(&self, plan: &PlanRecord) -> Result<Option<Snapshot>> {
        let busy = |reason: &str| Error::Busy(format!("{reason}. Begin anew, with a plan of another name"));
        match self.repository.snapshot_of(&plan.session) {
            Ok(Some(snapshot)) if snapshot.signer.slot != self.repository.access().certificate.slot => {
                Err(busy("Another key has put a snapshot in the place of this backup's"))
            }
            Err(Error::Busy(reason)) => Err(busy(&reason)),
            Err(error) if error.is_damage() => Err(busy(&session::was_voided(&plan.session).to_string())),
            found => found,
        }
    }

    /// Returns the snapshot that the plan compares with, also if it was forgotten since: what it needs stays as long as the
    /// session is open.
    fn parent(&self, plan: &PlanRecord) -> Result<Option<Snapshot>> {
        let Some(id) = &plan.parent else { return Ok(None) };
        self.repository.snapshot_of(id)
    }

    fn await_shards(&self, plan: &PlanRecord) -> Result<Vec<ShardRecord>> {
        let numbers: Vec<u32> = (0..plan.shards).collect();
        let mut missing = Vec::new();
        let found = self.wait_for("wait for shards", || {
            let read = |number: &u32| self.repository.read_shard(&self.id, *number);
            let read = parallel::map(&numbers, self.repository.backend().concurrency(), read);
            let read: Vec<Option<ShardRecord>> = read.into_iter().collect::<Result<_>>()?;
            missing = numbers.iter().filter(|number| read[**number as usize].is_none()).copied().collect();
            // A session that was given up would be waited for in vain.
            if !missing.is_empty() {
                self.snapshot_of(plan)?;
            }
            Ok(read.into_iter().collect::<Option<Vec<ShardRecord>>>())
        })?;
        let shards = found.ok_or_else(|| self.missing(plan, &missing))?;
        match numbers.iter().find(|number| shards[**number as usize].session != plan.session) {
            Some(number) => Err(self.foreign(*number)),
            None => Ok(shards),
        }
    }

    fn missing(&self, plan: &PlanRecord, missing: &[u32]) -> Error {
        let named: Vec<String> = missing.iter().take(SHARDS_NAMED_MAX).map(u32::to_string).collect();
        let more = if missing.len() > named.len() { ", …" } else { "" };
        Error::Refused(format!(
            "There is no snapshot yet: of the {} of the plan {:?}, {} {} missing ({}{more})",
            count(u64::from(plan.shards), "shard"),
            self.named.name,
            missing.len(),
            if missing.len() == 1 { "is" } else { "are" },
            named.join(", ")
        ))
    }
}
