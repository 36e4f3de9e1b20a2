//! `mlvault upgrade-done`

use clap::Parser;
use serde_json::json;

use mlvault::error::Result;
use mlvault::format::snapshot::SourceRecord;
use mlvault::retention;

use crate::cli::context::Context;
use crate::cli::outcome::Outcome;

/// Record that an upgrade of MLflow went well
///
/// Run `mlvault backup --tag pre-upgrade` before an upgrade. Policies with `keep-pre-upgrade`, such as production, keep
/// these snapshots. After this command they keep only the newest complete one of each source. Needs a maintainer key.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  mlvault upgrade-done --deployment production")]
pub struct Args {
    /// Only look at snapshots of this deployment
    #[arg(long, env = "MLVAULT_DEPLOYMENT", value_name = "NAME")]
    deployment: Option<String>,
    /// Only look at snapshots of this source, as listed by `mlvault forget --dry-run`
    #[arg(long, value_name = "SOURCE", conflicts_with = "deployment")]
    group: Option<String>,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<Outcome> {
    let group = args.deployment.map(|name| SourceRecord::Deployment { name }.group()).or(args.group);
    let released = retention::upgrade_done(context.repository()?.as_ref(), group.as_deref())?;
    let text = match released.len() {
        1 => "1 earlier pre-upgrade snapshot no longer needs to be kept".to_owned(),
        many => format!("{many} earlier pre-upgrade snapshots no longer need to be kept"),
    };
    Ok(Outcome::complete(json!({ "released": released }), text))
}
