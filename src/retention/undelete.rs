//! Brings a forgotten snapshot back, as long as what it needs is there.
//!
//! What must stay true: it comes back as a new snapshot of a session of its own, which relies on nothing that a prune may
//! be about to remove: such chunks are stored anew.

use std::collections::HashSet;
use std::sync::Arc;

use crate::chunks::reader::ChunkReader;
use crate::chunks::writer::ChunkWriter;
use crate::chunks::writing_session::WritingSession;
use crate::error::{Error, Result};
use crate::format::BlobKind;
use crate::format::snapshot::SnapshotRecord;
use crate::hears::Hears;
use crate::id::{ChunkId, SessionId};
use crate::repository::Repository;
use crate::repository::naming::Named;
use crate::repository::snapshots::{Snapshot, SnapshotList};
use crate::trees::keeper::Keeper;
use crate::trees::reachable::{self, Use};

/// The field of the new record that names the snapshot that it was.
const UNDELETED: &str = "undeleted";

/// Commits a snapshot in the trash anew. Returns what it was and what it is now. Needs a key that reads content and
/// writes snapshots.
pub fn undelete(repository: &Arc<Repository>, named: &Named, hears: &Hears) -> Result<(SessionId, SessionId)> {
    repository.access().data_secret()?;
    // Looked at before there is a session, so that a wrong name leaves nothing behind.
    find_in_trash(&repository.list_snapshots()?, named)?;
    let session = WritingSession::begin(repository, "undelete", hears)?;
    // Again, now that the session is announced: what it relies on is not swept any more.
    let list = repository.list_snapshots()?;
    let forgotten = find_in_trash(&list, named)?;
    hears.monitor.phase("undelete", None, None);
    secure(session.writer(), &forgotten.record, hears)
        .map_err(|error| if error.is_damage() { swept(&forgotten.id, &error) } else { error })?;
    let (session, _) = session.finish()?;
    let mut record = forgotten.record;
    record.seen = list.snapshots.iter().map(|snapshot| snapshot.id).collect();
    record.more.insert(UNDELETED.to_owned(), serde_json::json!(forgotten.id));
    // Under a name of its own: the old one stays forgotten for ever, so that no delayed write brings it back.
    Ok((forgotten.id, session.commit(record)?))
}

fn find_in_trash(list: &SnapshotList, named: &Named) -> Result<Snapshot> {
    let trash: Vec<Snapshot> = list.trash.iter().map(|trashed| trashed.snapshot.clone()).collect();
    let found = named.among(&trash).map(|found| found.first().map(|at| trash[*at].clone()));
    let missing = || Error::Internal("no snapshot was named".to_owned());
    found.and_then(|found| found.ok_or_else(missing)).map_err(|error| match error {
        Error::NotFound(_) => Error::NotFound(format!(
            "There is no forgotten snapshot {:?}: it was never forgotten, or a prune has removed it",
            named.names.join(" ")
        )),
        other => other,
    })
}

/// Makes sure that every chunk of a snapshot can be relied on, storing those anew that cannot.
fn secure(writer: &ChunkWriter, record: &SnapshotRecord, hears: &Hears) -> Result<()> {
    let reader = ChunkReader::new(Arc::clone(writer.repository()));
    let mut keeper = Keeper::new(writer);
    let mut seen: HashSet<(Use, ChunkId)> = HashSet::new();
    reachable::for_each_chunk(&reader, record, &mut |role, id| {
        hears.check()?;
        let kind = role.kind();
        if kind == BlobKind::Meta && !seen.insert((role, *id)) {
            return Ok(false);
        }
        // What is only in packs that are marked or gone is stored anew: the sweep may be under way.
        keeper.keep(kind, id, &|| "the forgotten snapshot".to_owned())?;
        Ok(true)
    })
}

fn swept(id: &SessionId, error: &Error) -> Error {
    Error::NotFound(format!("The snapshot {} cannot come back, a prune has removed what it needs. {error}", id.short()))
}
