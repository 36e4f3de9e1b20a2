//! The parts of a sharded backup: the plan, which has the databases; a shard; and the end, which puts all together.
//!
//! What must stay true: what the end takes from the plan and from shards is what one process would have had in memory, so
//! that everything after the artifacts were read is done by the same code.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::{DeploymentBackup, Origin, ReadDatabases, scratch_fault};
use crate::backup::deployment::cuts;
use crate::backup::deployment::merge::{KnownShard, Shards};
use crate::backup::deployment::shard::StoredShard;
use crate::backup::job::Job;
use crate::backup::{BackupOptions, Compare, add_statistics};
use crate::chunks::reader::ChunkReader;
use crate::error::{Error, Result};
use crate::format::deployment::{DatabaseRecord, KeyRecord};
use crate::format::plan::{PathBytes, PlanRecord, ShardRecord};
use crate::format::snapshot::{Component, DATABASE, ProblemRecord, Statistics};
use crate::hears::Hears;
use crate::id::ChunkId;
use crate::source::deployment::Deployment;
use crate::source::inventory::{self, Claim};
use crate::trees::file_reader::FileReader;
use crate::trees::reader::TreeReader;

/// What a plan says of a deployment.
pub struct Planned {
    /// For each artifact component, the last path of each range but the last one.
    pub cuts: BTreeMap<String, Vec<PathBytes>>,
    /// The component with the dumps.
    pub database: Option<Component>,
    /// The tables of the catalogue.
    pub tables: ChunkId,
    /// When the databases were read.
    pub read_at: Timestamp,
    /// The databases.
    pub databases: Vec<DatabaseRecord>,
    /// Keys outside the databases.
    pub keys: Vec<KeyRecord>,
    /// What is wrong with the databases.
    pub problems: Vec<ProblemRecord>,
    /// Numbers.
    pub statistics: Statistics,
}

/// A shard of a plan.
pub struct ShardOf<'a> {
    /// The plan.
    pub plan: &'a PlanRecord,
    /// The shard's number.
    pub number: u32,
}

/// A plan, and what came of all of its shards.
pub struct ShardsOf<'a> {
    /// The plan.
    pub plan: &'a PlanRecord,
    /// The shards, by number.
    pub shards: Vec<ShardRecord>,
}

/// Dumps the databases, and divides the artifacts among shards.
pub fn plan(
    job: &Job<'_>,
    deployment: &Deployment,
    options: &BackupOptions,
    compare: &Compare<'_>,
    shards: u32,
) -> Result<Planned> {
    let mut run = DeploymentBackup::begin(job, deployment, options, compare)?;
    let ReadDatabases { read_at, records, keys, problems, claims } = run.read_databases(options)?;
    let tables = run.store_scratch_files(&run.catalogue())?.root;
    let mut cuts = BTreeMap::new();
    for (number, component) in run.layout.components.iter().enumerate() {
        let is_of = |claim: &&Claim| claim.place.as_ref().is_some_and(|(of, _)| *of == number);
        let claims: Vec<&Claim> = claims.iter().filter(is_of).collect();
        let paths = cuts::cuts(job, component, &claims, compare, shards)?;
        cuts.insert(component.name.clone(), paths.into_iter().map(PathBytes).collect());
    }
    let database = run.components.drain(..).find(|component| component.name == DATABASE);
    Ok(Planned { cuts, database, tables, read_at, databases: records, keys, problems, statistics: run.statistics })
}

/// Stores a shard of a plan.
pub fn store_shard(
    job: &Job<'_>,
    deployment: &Deployment,
    options: &BackupOptions,
    compare: &Compare<'_>,
    shard: ShardOf<'_>,
) -> Result<StoredShard> {
    DeploymentBackup::begin(job, deployment, options, compare)?.store_shard(shard.plan, shard.number)
}

/// Puts a snapshot together from a plan and all of its shards.
pub fn close(
    job: &Job<'_>,
    deployment: &Deployment,
    options: &BackupOptions,
    compare: &Compare<'_>,
    ShardsOf { plan, shards }: ShardsOf<'_>,
) -> Result<super::StoredDeployment> {
    let mut run = DeploymentBackup::begin(job, deployment, options, compare)?;
    let reader = ChunkReader::new(Arc::clone(job.repository));
    let catalogue = run.catalogue();
    unspool(&reader, &plan.tables, &catalogue, job.hears)?;
    let claims = inventory::reread(&catalogue, &run.layout.map, &job.hears.cancel)?.claims;
    let mut known = Vec::new();
    for (number, record) in shards.into_iter().enumerate() {
        let notes = run.scratch.path().join(format!("shard-{number}"));
        unspool(&reader, &record.notes, &notes, job.hears)?;
        known.push(KnownShard { record, notes });
    }
    run.components.extend(plan.database.clone());
    let numbers = known.iter().map(|shard| &shard.record.statistics).chain([&plan.statistics]);
    numbers.for_each(|statistics| add_statistics(&mut run.statistics, statistics));
    let read = ReadDatabases {
        read_at: plan.read_at,
        records: plan.databases.clone(),
        keys: plan.keys.clone(),
        problems: plan.problems.clone(),
        claims,
    };
    run.finish(read, &Origin::Shards(Shards { plan, shards: known }))
}

/// Returns what all processes of a sharded backup must have been told alike, in words: what is read, and how.
pub fn settings(deployment: &Deployment, options: &BackupOptions) -> Result<BTreeMap<String, String>> {
    let exclusions = &options.exclusions;
    let mut settings: BTreeMap<String, String> = [
        ("--exclude", exclusions.patterns.join("\n")),
        ("--iexclude", exclusions.patterns_any_case.join("\n")),
        ("--exclude-larger-than", exclusions.larger_than.map(|bytes| bytes.to_string()).unwrap_or_default()),
        ("--exclude-if-present", exclusions.if_present.join("\n")),
        ("--exclude-caches", exclusions.caches.to_string()),
        ("--one-file-system", exclusions.other_file_systems.to_string()),
        ("--xattrs", options.xattrs.to_string()),
        ("--force", options.force.to_string()),
        ("--ignore-inode", options.ignore_inode.to_string()),
        ("the excluded artifact roots", deployment.excluded.join("\n")),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let layout = deployment.layout()?;
    let place = |component: &crate::source::deployment::ArtifactComponent| {
        (format!("the place of {}", component.name), component.place.to_string())
    };
    settings.extend(layout.components.iter().map(place));
    settings.extend(layout.roots.into_iter().map(|root| {
        (format!("the artifact root {}", root.uri), format!("{}/{}", layout.components[root.component].name, root.path))
    }));
    Ok(settings)
}

/// Writes the files of a tree into a new directory. They were stored from one, and are as flat as that was.
fn unspool(reader: &ChunkReader, root: &ChunkId, directory: &Path, hears: &Hears) -> Result<()> {
    std::fs::create_dir(directory).map_err(|source| scratch_fault(directory, source))?;
    for entry in TreeReader::open(reader, "the plan of a backup", root)? {
        let entry = entry?;
        let name = entry.path_text();
        if name.contains('/') || name == ".." {
            return Err(Error::damaged("the plan of a backup", format!("it has a file {name:?}")));
        }
        let path = directory.join(name);
        let mut content = FileReader::open(reader, &entry, hears)?;
        let fault = |source| scratch_fault(&path, source);
        let mut file = File::create(&path).map_err(fault)?;
        std::io::copy(&mut content, &mut file).map_err(fault)?;
    }
    Ok(())
}
