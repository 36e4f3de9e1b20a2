//! What the processes of one sharded backup tell each other: `plans/<plan id>/plan`, and `plans/<plan id>/<number>` of each
//! shard.
//!
//! The body inside its object envelope (bound to the object's name) is a signed record ([`crate::format::signed`]) of kind 1,
//! a plan, or 2, a shard. Its name are the plan's id and the shard's number, `ffffffff` for the plan itself.
//!
//! What must stay true: a record counts only for the process whose own key slot signed it; that is for whoever reads it to
//! ask.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::crypto::sign::Domain;
use crate::format::deployment::{DatabaseRecord, KeyRecord};
use crate::format::key_slot::Certificate;
use crate::format::signed::{self, Binding, Signer};
use crate::format::snapshot::{Component, ProblemRecord, Statistics};
use crate::format_error::FormatError;
use crate::id::{ChunkId, PlanId, RepositoryId, SessionId, SignerKey};

/// Most shards that a plan may have.
pub const SHARDS_MAX: u32 = 1024;
/// Stands for the plan itself where a shard has its number.
const PLAN_NUMBER: u32 = u32::MAX;

/// Bytes of a path, written as hexadecimal digits: paths are not always UTF-8.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathBytes(pub Vec<u8>);

impl Serialize for PathBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&HEXLOWER.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for PathBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        HEXLOWER.decode(text.as_bytes()).map(Self).map_err(serde::de::Error::custom)
    }
}

/// What a sharded backup is to do, and what the databases said before any artifact was listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRecord {
    /// The session that all of its processes write in, and that the closing one commits.
    pub session: SessionId,
    /// When the session began, by the writer's clock.
    pub started: Timestamp,
    /// Name of the host or pod that made the plan.
    pub host: String,
    /// Program and version.
    pub program: String,
    /// The name that the user gave the plan.
    pub name: String,
    /// The deployment.
    pub deployment: String,
    /// How many shards there are.
    pub shards: u32,
    /// Tags of the snapshot.
    pub tags: Vec<String>,
    /// The snapshot that unchanged files are taken over from.
    pub parent: Option<SessionId>,
    /// What all processes must have been told alike, in words.
    pub settings: BTreeMap<String, String>,
    /// For each artifact component, the last path of each range but the last one.
    pub cuts: BTreeMap<String, Vec<PathBytes>>,
    /// The component with the dumps, if there are databases.
    pub database: Option<Component>,
    /// The root of a tree with the tables of the catalogue.
    pub tables: ChunkId,
    /// When the databases were read: each is of one instant, at or after this time.
    pub read_at: Timestamp,
    /// The databases.
    pub databases: Vec<DatabaseRecord>,
    /// Keys outside the databases.
    pub keys: Vec<KeyRecord>,
    /// What is wrong with the databases.
    pub problems: Vec<ProblemRecord>,
    /// What making the plan cost.
    pub statistics: Statistics,
}

/// What came of one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRecord {
    /// The session that it was written in.
    pub session: SessionId,
    /// When this process began, by its clock.
    pub started: Timestamp,
    /// When it ended, by its clock.
    pub finished: Timestamp,
    /// Name of the host or pod.
    pub host: String,
    /// The entries of its range of each artifact component.
    pub components: Vec<Component>,
    /// The root of a tree with what else is to be known of the entries: see [`ProblemLine`], [`LinkLine`] and
    /// [`UnreadLine`].
    pub notes: ChunkId,
    /// How many files had problems.
    pub problem_count: u64,
    /// Numbers.
    pub statistics: Statistics,
}

/// A file of a shard that could not be read, or changed while it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemLine {
    /// How many entries of the shard come before it.
    pub after: u64,
    /// Its path in the tree.
    pub path: PathBytes,
    /// Where the source has it.
    pub location: String,
    /// What went wrong.
    pub message: String,
    /// Whether it is the next entry all the same.
    pub is_stored: bool,
}

/// The first name that a shard met of a file that may have several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkLine {
    /// Its device.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
    /// Its path in the tree.
    pub path: PathBytes,
}

/// What a shard was not to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadLine {
    /// Its path in the tree, as text; without one, there are too many to be named.
    pub path: Option<String>,
    /// How many there are.
    pub count: u64,
}

/// One of the two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlanObject {
    /// The plan.
    Plan(Box<PlanRecord>),
    /// A shard, of this number.
    Shard(u32, Box<ShardRecord>),
}

impl PlanObject {
    /// Returns the session that it belongs to.
    pub fn session(&self) -> SessionId {
        match self {
            Self::Plan(record) => record.session,
            Self::Shard(_, record) => record.session,
        }
    }
}

fn name(plan: &PlanId, number: u32) -> Vec<u8> {
    [&plan.as_bytes()[..], &number.to_le_bytes()].concat()
}

fn binding(repository: RepositoryId, name: &[u8]) -> Binding<'_> {
    Binding { domain: Domain::Plan, repository, name }
}

/// Signs and encodes a record into the body of its object.
pub fn encode(repository: RepositoryId, plan: PlanId, object: &PlanObject, signer: &Signer<'_>) -> Vec<u8> {
    let (number, kind, record) = match object {
        PlanObject::Plan(record) => (PLAN_NUMBER, 1, serde_json::to_vec(record)),
        PlanObject::Shard(number, record) => (*number, 2, serde_json::to_vec(record)),
    };
    let record = record.expect("a record is always representable as JSON");
    signed::seal(&binding(repository, &name(&plan, number)), kind, &record, signer)
}

/// Reads the body of the object of a shard, or of the plan itself, and verifies certificate and signature.
pub fn decode(
    repository: RepositoryId,
    (plan, shard): (PlanId, Option<u32>),
    root: &SignerKey,
    body: &[u8],
) -> Result<(PlanObject, Certificate), FormatError> {
    let name = name(&plan, shard.unwrap_or(PLAN_NUMBER));
    let verified = signed::open(&binding(repository, &name), root, body)?;
    if !verified.certificate.role.writes_snapshots() {
        return Err(signed::not_allowed(&verified.certificate));
    }
    match (verified.kind, shard) {
        (1, None) | (2, Some(_)) => Ok((decode_record(shard, verified.record)?, verified.certificate)),
        (kind, _) => Err(FormatError::new(format!("unknown kind {kind}"))),
    }
}

/// Reads a record without verifying who wrote it. Separate so that it can be fuzzed.
pub fn decode_record(shard: Option<u32>, record: &[u8]) -> Result<PlanObject, FormatError> {
    let fault = |error: serde_json::Error| FormatError::new(format!("its record: {error}"));
    match shard {
        None => {
            let plan: PlanRecord = serde_json::from_slice(record).map_err(fault)?;
            if plan.shards == 0 || plan.shards > SHARDS_MAX {
                return Err(FormatError::new(format!("it has {} shards", plan.shards)));
            }
            Ok(PlanObject::Plan(Box::new(plan)))
        }
        Some(number) => Ok(PlanObject::Shard(number, serde_json::from_slice(record).map_err(fault)?)),
    }
}
