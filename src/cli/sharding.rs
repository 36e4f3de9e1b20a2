//! Which step of a sharded backup is meant.

use clap::Args;
use jiff::SignedDuration;

use mlvault::backup::sharded::PlanName;
use mlvault::environment;
use mlvault::error::{Error, Result};

use crate::cli::values;

/// The variable in which Kubernetes tells a pod of an Indexed Job its number.
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// Options of a sharded backup.
#[derive(Args)]
pub struct ShardingArgs {
    /// Make one snapshot by several processes: the name that its steps share, another one for each backup
    #[arg(long, value_name = "NAME", requires = "step", conflicts_with = "dry_run")]
    plan: Option<String>,
    #[command(flatten)]
    step: StepArgs,
    /// How long to wait for the plan, and with --close for the shards
    #[arg(long, value_name = "TIME", value_parser = values::duration, requires = "plan", conflicts_with = "shards")]
    wait: Option<SignedDuration>,
}

#[derive(Args)]
#[group(id = "step", multiple = false, requires = "plan")]
struct StepArgs {
    /// First step: dump the databases and divide the artifacts among N shards
    #[arg(long, value_name = "N")]
    shards: Option<u32>,
    /// Second step: store the shard of this number, from 0 on [default: JOB_COMPLETION_INDEX, which Kubernetes sets in the pods
    /// of an Indexed Job]
    #[arg(long, value_name = "NUMBER", num_args = 0..=1)]
    shard: Option<Option<u32>>,
    /// In the pods of an Indexed Job with N + 1 completions: the first one makes the plan and stores its shard, the last one writes
    /// the snapshot
    #[arg(long, value_name = "N", conflicts_with = "tags")]
    indexed: Option<u32>,
    /// Last step: write the snapshot from all shards
    #[arg(long, conflicts_with = "tags")]
    close: bool,
}

/// A step.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// Make the plan, with so many shards.
    Plan(u32),
    /// Make the plan, and store its first shard.
    First(u32),
    /// Store the shard of this number.
    Shard(u32),
    /// Write the snapshot.
    Close,
}

impl ShardingArgs {
    /// Returns whether there is no further step, as of a backup that has but one.
    pub fn is_last_step(&self) -> bool {
        let StepArgs { shards, shard, indexed, close: _ } = &self.step;
        let is_last_pod = |shards: u32| index().is_ok_and(|index| index == shards);
        shards.is_none() && shard.is_none() && indexed.is_none_or(is_last_pod)
    }

    /// Returns the step of which plan is meant, if one is.
    pub fn step(&self) -> Result<Option<(PlanName, Step)>> {
        let Some(name) = self.plan.clone() else { return Ok(None) };
        let step = match (self.step.shards, self.step.shard, self.step.indexed) {
            (Some(shards), ..) => Step::Plan(shards),
            (None, Some(number), _) => Step::Shard(number.map_or_else(index, Ok)?),
            (None, None, Some(shards)) => step_of_pod(shards, index()?)?,
            (None, None, None) => Step::Close,
        };
        Ok(Some((PlanName { name, wait_max: self.wait.unwrap_or_default().unsigned_abs() }, step)))
    }
}

/// Returns what a pod of an Indexed Job does.
fn step_of_pod(shards: u32, index: u32) -> Result<Step> {
    match index {
        0 if shards > 0 => Ok(Step::First(shards)),
        _ if index < shards => Ok(Step::Shard(index)),
        _ if index == shards => Ok(Step::Close),
        _ => Err(Error::Invalid(format!("--indexed {shards} is for {} pods, and this is number {index}", shards + 1))),
    }
}

fn index() -> Result<u32> {
    let text = environment::variable(INDEX_VARIABLE);
    let number = text.as_deref().and_then(|text| text.parse().ok());
    number.ok_or_else(|| {
        Error::Invalid(format!("--shard and --indexed need a number, or the variable {INDEX_VARIABLE} with one"))
    })
}
