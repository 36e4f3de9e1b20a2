//! Makes sure that a snapshot that is called `pre-upgrade` was taken before the upgrade.
//!
//! A newer MLflow migrates its database when it first starts, silently and without a way back. A snapshot taken after
//! that is no way back either, and must not pass for one.

use crate::backup::BackupOptions;
use crate::error::{Error, Result};
use crate::format::deployment::DatabaseRecord;
use crate::mlflow::schema::{self, Order, Store};
use crate::repository::snapshots::Snapshot;

/// Tag of a snapshot that an upgrade can be rolled back to.
pub const PRE_UPGRADE: &str = "pre-upgrade";

/// Fails if the snapshot is to be tagged `pre-upgrade` and the schema is already that of a newer MLflow: newer than in the
/// last snapshot of the deployment, or not older than that of the release that is to be upgraded to.
pub fn check(databases: &[DatabaseRecord], options: &BackupOptions, last: Option<&Snapshot>) -> Result<()> {
    if !options.tags.iter().any(|tag| tag == PRE_UPGRADE) {
        return Ok(());
    }
    let Some(revision) = databases
        .iter()
        .find(|database| database.store == Store::Backend)
        .and_then(|database| database.revisions.first())
    else {
        return Ok(());
    };
    let refused = |reason: String| {
        Err(Error::Refused(format!(
            "This is no pre-upgrade backup: {reason}. Without the tag it can be made; the way back is an earlier snapshot"
        )))
    };
    let before = last
        .and_then(|snapshot| snapshot.record.deployment.as_ref()?.database(Store::Backend)?.revisions.first().cloned());
    if let Some(before) = before
        && before != *revision
        && schema::compare(revision, &before) != Order::Older
    {
        return refused(format!("the schema has been migrated from {before} to {revision} since the last snapshot"));
    }
    let Some(release) = &options.upgrade_to else { return Ok(()) };
    let Some(head) = schema::head_of_release(release) else { return Ok(()) };
    match schema::compare(revision, head) {
        Order::Older | Order::Unknown => Ok(()),
        Order::Same | Order::Newer => {
            refused(format!("the schema {revision} is already that of MLflow {release} or newer"))
        }
    }
}
