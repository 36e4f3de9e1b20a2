//! Looks again while a deployment is being backed up: is a row gone meanwhile, and is what the parent snapshot had still in the
//! repository?

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::backup::deployment::references::Surroundings;
use crate::chunks::reader::ChunkReader;
use crate::chunks::writer::ChunkWriter;
use crate::database::{self, LiveDatabase};
use crate::error::Result;
use crate::format::tree::Entry;
use crate::mlflow::names::{DELETED, STAGE_DELETED};
use crate::mlflow::schema::{self, RowPlace, Store};
use crate::monitor::Monitor;
use crate::source::deployment::{ArtifactPlace, Deployment};
use crate::source::inventory::Claim;
use crate::sql::Value;
use crate::trees::earlier::is_held;

/// The live databases and the parent's tree of one component.
pub struct Live<'a> {
    /// Where the databases are.
    pub deployment: &'a Deployment,
    /// Reads the parent's tree.
    pub reader: &'a ChunkReader,
    /// Knows which chunks may be relied on.
    pub chunks: &'a ChunkWriter,
    /// Whether there are tombstones, so that no chunk may be relied on unasked.
    pub check_chunks: bool,
    /// Hears of what could not be found out.
    pub monitor: &'a Arc<dyn Monitor>,
    /// Where the component is.
    pub place: &'a ArtifactPlace,
    /// Open connections; `None` for one that failed.
    pub connections: HashMap<Store, Option<Box<dyn LiveDatabase>>>,
}

impl Live<'_> {
    /// Asks for one row; fails softly, because an answer that cannot be had explains nothing.
    fn first_value(&mut self, store: Store, sql: &str) -> Option<Option<Vec<Value>>> {
        let uri = self.deployment.database(store)?;
        let connection = self.connections.entry(store).or_insert_with(|| match database::open_live(uri) {
            Ok(connection) => Some(connection),
            Err(error) => {
                self.monitor.note(&format!("What was deleted meanwhile cannot be told: {error}"));
                None
            }
        });
        let mut found = None;
        let asked = connection.as_mut()?.query(sql, &mut |row| {
            found.get_or_insert_with(|| row.to_vec());
            Ok(())
        });
        match asked {
            Ok(()) => Some(found),
            Err(error) => {
                self.monitor.note(&format!("What was deleted meanwhile cannot be told: {error}"));
                *connection = None;
                None
            }
        }
    }

    fn registry(&self) -> Store {
        if self.deployment.database(Store::Registry).is_some() { Store::Registry } else { Store::Backend }
    }
}

/// Takes `.` and `..` out of a path, as far as names alone tell.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for step in path.components() {
        match step {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            step => plain.push(step),
        }
    }
    plain
}

impl Surroundings for Live<'_> {
    /// A relative link within the place leads to what is restored beside it. An absolute one leads to where it led, which
    /// is backed up if it is in a place that has a root.
    fn is_backed_up(&self, path: &[u8], target: &[u8]) -> bool {
        let ArtifactPlace::Directory(place) = self.place else { return true };
        let link = place.join(OsStr::from_bytes(path));
        let target = plain(&link.parent().unwrap_or(place).join(OsStr::from_bytes(target)));
        self.deployment.artifacts.iter().any(|root| match &root.place {
            ArtifactPlace::Directory(place) => target.starts_with(plain(place)),
            ArtifactPlace::Bucket(..) => false,
        })
    }

    fn is_gone(&mut self, claim: &Claim) -> Option<bool> {
        let RowPlace { is_registry, table, stage, condition } = schema::row_of(claim.kind, &claim.id)?;
        let store = if is_registry { self.registry() } else { Store::Backend };
        let sql = format!("SELECT {stage} FROM {table} WHERE {condition}");
        let row = self.first_value(store, &sql)?;
        Some(match row {
            // Purged, and not only marked as deleted: nothing refers to the files any more.
            None => true,
            Some(row) => {
                matches!(row.first().and_then(Value::as_text), Some(stage) if stage == DELETED || stage == STAGE_DELETED)
            }
        })
    }

    fn is_reliable(&mut self, entry: &Entry) -> Result<bool> {
        let Some(file) = entry.file().filter(|_| self.check_chunks) else { return Ok(true) };
        is_held(self.reader, &entry.path_text(), file, &|kind, chunk| self.chunks.holds(kind, chunk))
    }
}
