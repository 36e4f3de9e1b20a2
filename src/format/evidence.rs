//! Evidence: `evidence/<evidence id>`, what a check or a drill found, said by whoever ran it.
//!
//! The body inside its object envelope (bound to the evidence's id) is a signed record ([`crate::format::signed`]) of kind 1,
//! whose name is the evidence's id. Evidence is never changed and never removed.
//!
//! What must stay true: every role can sign evidence, and a signature alone makes nobody believe it. Whoever can only write
//! has not looked, so what a writer's key says proves nothing ([`Says::counts_from`]).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::crypto::sign::Domain;
use crate::format::key_slot::{Certificate, Role};
use crate::format::signed::{self, Binding, Signer};
use crate::format_error::FormatError;
use crate::id::{Digest, EvidenceId, RepositoryId, SessionId, SignerKey};
use crate::mlflow::schema::Store;

const KIND: u8 = 1;
/// Characters that are kept of a path or a line.
const TEXT_CHARS_MAX: usize = 500;
/// Most tables that evidence names.
pub const TABLES_MAX: usize = 2000;

/// What was found, by whom, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceRecord {
    /// When it ended, by the clock of whoever ran it.
    pub at: Timestamp,
    /// Name of the machine.
    pub host: String,
    /// Name and version of the program.
    pub program: String,
    /// What was found.
    pub says: Says,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum Says {
    /// By a check of the repository.
    Check(CheckEvidence),
    /// By a drill: a test restore.
    Drill(Box<DrillEvidence>),
}

impl Says {
    /// Returns whether somebody with this role can know it: checks are for those who do not write, and to restore takes a
    /// key that opens content.
    pub fn counts_from(&self, role: Role) -> bool {
        match self {
            Self::Check(_) => CheckEvidence::counts_from(role),
            Self::Drill(_) => DrillEvidence::counts_from(role),
        }
    }
}

impl CheckEvidence {
    /// As [`Says::counts_from`], before there is anything to say.
    pub fn counts_from(role: Role) -> bool {
        role != Role::Writer
    }
}

impl DrillEvidence {
    /// As [`Says::counts_from`], before there is anything to say.
    pub fn counts_from(role: Role) -> bool {
        role.reads_content()
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckEvidence {
    /// How long it took.
    pub seconds: u64,
    /// Whether it found no damage.
    pub clean: bool,
    /// How many problems it found.
    pub problem_count: u64,
    /// A line for each of the first of them.
    pub problems: Vec<String>,
    /// What it read whole.
    pub read: ReadEvidence,
}

/// Which packs a check read whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadEvidence {
    /// Which were chosen.
    pub what: ReadScope,
    /// Packs read.
    pub packs: u64,
    /// Packs that were there.
    pub packs_total: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Whether chunks of data packs were opened; else these packs were compared with their names only.
    pub content_opened: bool,
}

/// How a check chooses the packs that it reads whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadScope {
    /// None.
    Nothing,
    /// A share of them.
    Subset,
    /// Those that were verified too long ago.
    Aged,
    /// All.
    All,
}

/// What a drill found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillEvidence {
    /// Name of the deployment.
    pub deployment: String,
    /// The snapshot that was restored.
    pub snapshot: DrilledSnapshot,
    /// What came of it.
    pub result: DrillResult,
    /// Where each part was restored to, and how that is another place than the one that it came from.
    pub places: Vec<DrillPlace>,
    /// How long each part took, and how long it may take.
    pub times: Vec<DrillTime>,
    /// Tables that were read again from the restored databases, at most [`TABLES_MAX`].
    pub tables: Vec<DrilledTable>,
    /// Which model versions and files were compared.
    pub files: DrilledFiles,
    /// What a started MLflow was asked.
    pub server: Option<DrilledServer>,
    /// What is not as the snapshot says.
    pub failures: Lines,
    /// What could not be compared, or is missing in the snapshot: none of it counts as right.
    pub exceptions: Lines,
    /// Programs that took part, with their versions.
    pub tools: Vec<String>,
    /// The retention policy that is configured for the deployment.
    pub retention: Option<String>,
}

/// The snapshot of a drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrilledSnapshot {
    /// Its name.
    pub id: SessionId,
    /// When its backup began.
    pub started: Timestamp,
    /// Whether it lacks nothing.
    pub complete: bool,
}

/// What came of a drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DrillResult {
    /// Everything that was compared is as it should be, and came back in time.
    Passed,
    /// Something is wrong.
    Failed,
    /// Everything is as it should be, but it took longer than it may.
    Late,
}

/// From where to where a part was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillPlace {
    /// Which part: `database/tracking`, `artifacts/…`.
    pub part: String,
    /// Where it was backed up from, as far as is known.
    pub source: Option<String>,
    /// Where it was restored to.
    pub scratch: String,
    /// How the two differ.
    pub differs: String,
}

/// How long a part of a drill took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillTime {
    /// Which part; the objectives use the same names.
    pub part: String,
    /// How long it took.
    pub milliseconds: u64,
    /// How long it may take, if that is configured.
    pub target_seconds: Option<u64>,
}

impl DrillTime {
    /// The part that stands for all of them together.
    pub const WHOLE: &'static str = "everything";

    /// Returns whether it took longer than it may.
    pub fn is_late(&self) -> bool {
        self.target_seconds.is_some_and(|target| self.milliseconds > target.saturating_mul(1000))
    }
}

/// A table that was read again from a restored database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrilledTable {
    /// The database.
    pub store: Store,
    /// The table.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// The digest over them.
    pub digest: Digest,
}

/// Files that a drill compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrilledFiles {
    /// Model versions whose files were all compared by their digests.
    pub versions: u64,
    /// Files of these.
    pub version_files: u64,
    /// What the random choice below followed from.
    pub seed: u64,
    /// Files that were compared byte by byte.
    pub samples: Vec<Sample>,
}

/// A file that was chosen at random.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The component of the snapshot.
    pub component: String,
    /// The path in it, shortened; bytes that are no UTF-8 are replaced.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its digest in the snapshot.
    pub digest: Digest,
    /// What it was compared with.
    pub against: Against,
}

/// What a sample was compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Against {
    /// The file at its source, which is unchanged since the backup.
    Source,
    /// The content in the repository.
    Repository,
}

/// What a started MLflow answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrilledServer {
    /// Its version.
    pub version: String,
    /// Experiments that it listed.
    pub experiments: u64,
    /// Runs that it listed.
    pub runs: u64,
    /// Registered models that it listed.
    pub models: u64,
    /// Files that were downloaded through it and compared by their digests.
    pub files: u64,
}

/// Lines for people: the first of them, and how many there are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lines {
    /// How many there are.
    pub count: u64,
    /// The first of them.
    pub first: Vec<String>,
}

/// Returns the beginning of a text: names and messages have no end that anybody could rely on.
pub fn shortened(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).collect()
}

impl Lines {
    /// Most lines that are kept.
    pub const KEPT_MAX: usize = 100;

    /// Adds one.
    pub fn push(&mut self, line: &str) {
        self.count += 1;
        if self.first.len() < Self::KEPT_MAX {
            self.first.push(shortened(line));
        }
    }
}

fn binding(repository: RepositoryId, evidence: &EvidenceId) -> Binding<'_> {
    Binding { domain: Domain::Evidence, repository, name: evidence.as_bytes() }
}

/// Signs and encodes evidence into the body of its object.
pub fn encode(repository: RepositoryId, evidence: EvidenceId, record: &EvidenceRecord, signer: &Signer<'_>) -> Vec<u8> {
    let record = serde_json::to_vec(record).expect("a record is always representable as JSON");
    signed::seal(&binding(repository, &evidence), KIND, &record, signer)
}

/// Reads the body of an object, and verifies who signed it. Whether that is to be believed is another question.
pub fn decode(
    repository: RepositoryId,
    evidence: EvidenceId,
    root: &SignerKey,
    body: &[u8],
) -> Result<(EvidenceRecord, Certificate), FormatError> {
    let verified = signed::open(&binding(repository, &evidence), root, body)?;
    if verified.kind != KIND {
        return Err(FormatError::new(format!("unknown kind {}", verified.kind)));
    }
    Ok((decode_record(verified.record)?, verified.certificate))
}

/// Reads a record without verifying who wrote it. Separate so that it can be fuzzed.
pub fn decode_record(record: &[u8]) -> Result<EvidenceRecord, FormatError> {
    serde_json::from_slice(record).map_err(|error| FormatError::new(format!("its record: {error}")))
}
