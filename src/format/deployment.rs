//! What a snapshot's record says of the deployment that it holds: databases, roots, verdicts.
//!
//! Part of the JSON record of a snapshot (docs/format.md, "Snapshots"). The long lists, row by row, are in the catalogue.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::mlflow::catalogue::ReferenceState;
use crate::mlflow::schema::Store;

/// Whether a part of the deployment is in the snapshot as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is, and it was checked.
    Ok,
    /// Something is missing or damaged; the problems name it.
    NotOk,
    /// Something is missing, and all of that was accepted.
    Accepted,
    /// It was not part of this backup.
    Absent,
}

/// One verdict for each of the things that can go wrong on their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdicts {
    /// Whole dumps of every database, from one instant each.
    pub database: Verdict,
    /// Every file that was listed was read, and was not changed meanwhile.
    pub artifacts: Verdict,
    /// Every row that must have files has them in this snapshot, or the reason why not is known and harmless.
    pub references: Verdict,
    /// The export through the REST API; never needed for a restore.
    pub metadata: Verdict,
    /// The rows of every database keep the rules of its schema, as far as that was checked. Rows that do not are in the
    /// snapshot all the same.
    #[serde(default = "absent")]
    pub consistency: Verdict,
}

impl Verdicts {
    /// Returns each with the name of its part.
    pub fn parts(&self) -> [(&'static str, Verdict); 5] {
        let Self { database, artifacts, references, metadata, consistency } = *self;
        [
            ("database", database),
            ("artifacts", artifacts),
            ("references", references),
            ("metadata", metadata),
            ("consistency", consistency),
        ]
    }
}

/// Returns the verdict of records that were made before there was one.
fn absent() -> Verdict {
    Verdict::Absent
}

/// One database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseRecord {
    /// Which one.
    pub store: Store,
    /// `postgresql` or `sqlite`: what its dump can be loaded into.
    pub engine: String,
    /// Version of the server or library.
    pub server_version: String,
    /// Version of what made the dump.
    pub dump_version: String,
    /// Where it was, without a password.
    pub location: String,
    /// Its schema's revision (alembic); more than one only if something is wrong.
    pub revisions: Vec<String>,
    /// Number of tables.
    pub tables: u64,
    /// Number of rows in all tables.
    pub rows: u64,
    /// Which rules of its schema its rows break, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<String>,
}

/// A root of artifact locations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRecord {
    /// As the databases have it.
    pub uri: String,
    /// The component that holds what is below it.
    pub component: String,
    /// Its path in that component.
    pub path: String,
    /// Where it was read from.
    pub place: String,
}

/// The fingerprint of a key that MLflow keeps outside its databases, without which a part of them is of no use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// The environment variable that MLflow reads it from.
    pub name: String,
    /// A keyed hash of it, to compare with at a restore; `None` if mlvault was not given the key.
    pub fingerprint: Option<String>,
    /// How many rows need it.
    pub rows: u64,
}

/// How many references of each state there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceCounts {
    /// With all their files.
    pub present: u64,
    /// Without files, and that is fine.
    pub empty: u64,
    /// Deleted during the backup; files were taken over from the parent snapshot.
    pub carried_over: u64,
    /// Deleted during the backup; their files are in no snapshot.
    pub deleted_meanwhile: u64,
    /// In excluded roots.
    pub excluded: u64,
    /// Without some of the files that the parent snapshot had.
    #[serde(default)]
    pub partial: u64,
    /// Without the files that they must have.
    pub missing: u64,
    /// Without files that a rewrite has taken out of the snapshot.
    #[serde(default)]
    pub taken_out: u64,
    /// Files that nothing refers to.
    pub orphans: u64,
    /// Bytes of those.
    pub orphan_bytes: u64,
}

impl ReferenceCounts {
    /// Returns how many references are of a state.
    pub fn of(&mut self, state: ReferenceState) -> &mut u64 {
        match state {
            ReferenceState::Present => &mut self.present,
            ReferenceState::Empty => &mut self.empty,
            ReferenceState::CarriedOver => &mut self.carried_over,
            ReferenceState::DeletedMeanwhile => &mut self.deleted_meanwhile,
            ReferenceState::Excluded => &mut self.excluded,
            ReferenceState::Partial => &mut self.partial,
            ReferenceState::Missing => &mut self.missing,
            ReferenceState::TakenOut => &mut self.taken_out,
        }
    }
}

/// What a snapshot holds of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentRecord {
    /// When the databases were read: each is of one instant, at or after this time; artifacts are listed after it.
    pub read_at: Timestamp,
    /// The databases; none where only the REST API could be reached.
    pub databases: Vec<DatabaseRecord>,
    /// Version of the tracking server, where it was asked.
    pub mlflow_version: Option<String>,
    /// Artifact roots that were backed up.
    pub roots: Vec<RootRecord>,
    /// Artifact roots that were left out by name.
    pub excluded: Vec<String>,
    /// Keys outside the databases.
    pub keys: Vec<KeyRecord>,
    /// How each part stands.
    pub verdicts: Verdicts,
    /// What the references lead to.
    pub references: ReferenceCounts,
    /// What this snapshot lacks by its nature; empty unless it was made through the REST API alone.
    pub lossy: Vec<String>,
}

impl DeploymentRecord {
    /// Returns the record of a database.
    pub fn database(&self, store: Store) -> Option<&DatabaseRecord> {
        self.databases.iter().find(|database| database.store == store)
    }
}
