//! Makes sure that a snapshot that is called `pre-upgrade` was taken before the upgrade.
//!
//! A newer MLflow migrates its database when it first starts, silently and without a way back. A snapshot taken after
//! that is no way back either, and must not pass for one.

use crate::backup::BackupOptions;
use crate::error::{Error, Result};
use crate::format::deployment::DatabaseRecord;
use crate::mlflow::schema::{self, Order, Release, Store};
use crate::repository::snapshots::Snapshot;

/// Tag of a snapshot that an upgrade can be rolled back to.
pub const PRE_UPGRADE: &str = "pre-upgrade";

/// Fails if the snapshot is to be tagged `pre-upgrade` and the schema is already that of a newer MLflow: newer than in the
/// last snapshot of the deployment, or not older than that of the release that is to be upgraded to.
///
/// Returns what could not be found out.
pub fn check(databases: &[DatabaseRecord], options: &BackupOptions, last: Option<&Snapshot>) -> Result<Option<String>> {
    if !options.tags.iter().any(|tag| tag == PRE_UPGRADE) {
        return Ok(None);
    }
    let Some(revision) = databases
        .iter()
        .find(|database| database.store == Store::Backend)
        .and_then(|database| database.revisions.first())
    else {
        return Ok(None);
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
    let Some(release) = &options.upgrade_to else { return Ok(None) };
    let (head, is_shared) = match schema::release(release) {
        Some(Release::Measured { head, is_shared }) => (head, is_shared),
        Some(Release::Newer | Release::Missing) => {
            return Ok(Some(format!(
                "this version of mlvault does not know MLflow {release}: it cannot tell whether the schema {revision} is that of \
             the release before"
            )));
        }
        None => {
            return Err(Error::Invalid(format!(
                "{release:?} is not the number of a release of MLflow, such as 3.18.0"
            )));
        }
    };
    match schema::compare(revision, head) {
        Order::Older => Ok(None),
        Order::Unknown => Ok(Some(format!("this version of mlvault does not know the schema {revision}"))),
        // A release before has this schema, too, and may be the one that runs: there is nothing to migrate.
        Order::Same if is_shared => Ok(None),
        Order::Same | Order::Newer => {
            refused(format!("the schema {revision} is already that of MLflow {release} or newer"))
        }
    }
}
