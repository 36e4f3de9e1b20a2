//! `mlvault upgrade-done`

use clap::Parser;
use serde_json::json;

use mlvault::error::Result;
use mlvault::format::snapshot::SourceRecord;
use mlvault::retention;

use crate::cli::context::Context;
use crate::cli::{exit, output};

/// Say that an upgrade went well, so that earlier pre-upgrade snapshots need not be kept for it
///
/// Before an upgrade: `mlvault backup --tag pre-upgrade`. Policies with `keep-pre-upgrade`, such as production, keep such
/// snapshots. This lets all but the newest complete one of each source go. Needs a maintainer's key.
#[derive(Parser)]
pub struct Args {
    /// Only look at snapshots of this deployment
    #[arg(long, env = "MLVAULT_DEPLOYMENT", value_name = "NAME")]
    deployment: Option<String>,
    /// Only look at snapshots of this source, as `forget` names it
    #[arg(long, value_name = "SOURCE", conflicts_with = "deployment")]
    group: Option<String>,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<exit::Code> {
    let group = args.deployment.map(|name| SourceRecord::Deployment { name }.group()).or(args.group);
    let released = retention::upgrade_done(context.repository()?.as_ref(), group.as_deref())?;
    context.finish();
    if context.json() {
        output::print_json(&json!({ "released": released }))?;
    } else {
        output::print_line(&format!("{} earlier pre-upgrade snapshots are kept for it no more", released.len()))?;
    }
    Ok(exit::COMPLETE)
}
