//! Compares what a tracking server lists with what a snapshot's catalogue has: what no comparison of rows and files can show.

use std::thread;
use std::time::Duration;

use serde::Serialize;

use crate::catalogue::reader::for_each;
use crate::chunks::reader::ChunkReader;
use crate::error::Result;
use crate::hears::Hears;
use crate::mlflow::names::file;
use crate::repository::snapshots::Snapshot;
use crate::tracking::TrackingClient;
use crate::tracking::count::{self, Counts};

/// How often a server is asked whether it is well.
const LOOK: Duration = Duration::from_millis(200);

/// Asks a server whether it is well until it is, or `is_over` says that it is to be asked no more: it is never asked after that.
/// Returns why it is not well.
pub fn wait_until_well(
    client: &TrackingClient,
    hears: &Hears,
    is_over: impl Fn() -> bool,
) -> Result<std::result::Result<(), String>> {
    let mut why = "it was not asked".to_owned();
    while !is_over() {
        hears.check()?;
        match client.health() {
            Ok(()) => return Ok(Ok(())),
            Err(error) => why = error.to_string(),
        }
        thread::sleep(LOOK);
    }
    Ok(Err(why))
}

/// What a server lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// How much.
    #[serde(flatten)]
    pub counts: Counts,
    /// Where that is not what the catalogue has.
    pub differences: Vec<String>,
}

/// Asks a server, and compares. Returns nothing for a deployment with several workspaces, of which a server lists one.
pub fn compare(
    reader: &ChunkReader,
    snapshot: &Snapshot,
    client: &TrackingClient,
    hears: &Hears,
) -> Result<Option<Listed>> {
    let lines = |file: &str| {
        let mut lines = 0;
        for_each(reader, snapshot, file, hears, &mut |_: serde_json::Value| {
            lines += 1;
            Ok(())
        })?;
        Ok::<u64, crate::error::Error>(lines)
    };
    if lines(file::WORKSPACES)? > 1 {
        return Ok(None);
    }
    let counts = count::count(client)?;
    let pairs = [
        ("experiments", counts.experiments, lines(file::EXPERIMENTS)?),
        ("runs", counts.runs, lines(file::RUNS)?),
        ("registered models", counts.models, lines(file::REGISTERED_MODELS)?),
    ];
    let differing = pairs.into_iter().filter(|(_, listed, expected)| listed != expected);
    let differences =
        differing.map(|(what, listed, expected)| format!("it lists {listed} {what} instead of {expected}"));
    Ok(Some(Listed { counts, differences: differences.collect() }))
}
