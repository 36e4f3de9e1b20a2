//! Evidence: what checks and drills found, and whom to believe.
//!
//! What must stay true:
//! - A writer's key proves nothing: whoever stole one must not be able to say that all is well. Nor does a key that was
//!   removed before the evidence arrived, nor a time that the place where the repository is stored cannot confirm.
//! - The newest evidence comes first, and nobody can put his own before it by a date in the future.
//! - However much there is, a bounded number of objects is read at a time, and no more than the caller wants.

use std::cmp::Reverse;
use std::ops::ControlFlow;

use jiff::Timestamp;

use crate::backend::Listed;
use crate::crypto::random;
use crate::error::Result;
use crate::format::evidence::{self, CheckEvidence, DrillEvidence, EvidenceRecord, Says};
use crate::format::key_slot::{Certificate, Role};
use crate::format::log::What;
use crate::id::EvidenceId;
use crate::repository::layout::Object;
use crate::repository::notes::Notes;
use crate::repository::objects::{self, Opened, Unreadable};
use crate::repository::session::{PROGRAM, host_name};
use crate::repository::{Repository, layout, time};

/// Objects that are read before the caller is asked whether it wants more.
const BATCH: usize = 32;

/// What somebody found.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// Names it.
    pub id: EvidenceId,
    /// What it says.
    pub record: EvidenceRecord,
    /// Who said so.
    pub signer: Certificate,
    /// When it arrived, by the clock of the place where it is stored.
    pub arrived: Timestamp,
    /// When the key that signed it was removed, if it was.
    pub key_removed: Option<Timestamp>,
}

/// Why evidence proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Doubt {
    /// The role of its signer's key cannot know it.
    Role,
    /// Its signer's key was removed before it arrived.
    KeyRemoved,
    /// What it says of its time cannot be reconciled with when it arrived.
    Time,
}

impl Doubt {
    /// Returns the reason in words.
    pub fn text(self) -> &'static str {
        match self {
            Self::Role => "its key's role cannot know it",
            Self::KeyRemoved => "its key was removed before",
            Self::Time => "its time is doubtful",
        }
    }
}

impl Evidence {
    /// Returns whether its word on the time and its arrival are too far apart.
    pub fn is_time_doubtful(&self) -> bool {
        time::is_far_apart(self.record.at, self.arrived)
    }

    /// Returns why it proves nothing, if it does not.
    pub fn doubt(&self) -> Option<Doubt> {
        if !self.record.says.counts_from(self.signer.role) {
            return Some(Doubt::Role);
        }
        if self.key_removed.is_some_and(|removed| removed <= self.arrived) {
            return Some(Doubt::KeyRemoved);
        }
        self.is_time_doubtful().then_some(Doubt::Time)
    }

    /// Returns whether it proves what it says, as far as a signature can.
    pub fn is_believed(&self) -> bool {
        self.doubt().is_none()
    }
}

/// What was found beside evidence.
#[derive(Debug, Default)]
pub struct EvidenceRead {
    /// Evidence that could not be read.
    pub damaged: Unreadable,
    /// Objects under names that no evidence can have.
    pub foreign: Unreadable,
    /// Objects that were not read, because the caller had enough.
    pub unread: u64,
}

impl Repository {
    /// Reads and verifies evidence, the newest first, and hands it over one by one until `take` has enough. Which keys were
    /// removed is what `notes` say: one that is damaged might name another.
    ///
    /// Also what is not believed is handed over ([`Evidence::is_believed`]). A damaged one does not hide the others.
    pub fn list_evidence(
        &self,
        notes: &Notes,
        mut take: impl FnMut(Evidence) -> ControlFlow<()>,
    ) -> Result<EvidenceRead> {
        let mut listed = self.backend().list(layout::EVIDENCE)?;
        listed.sort_by_cached_key(|object| Reverse(order(object)));
        let mut result = EvidenceRead { unread: listed.len() as u64, ..EvidenceRead::default() };
        for batch in listed.chunks(BATCH) {
            let Opened { sound, damaged, foreign } =
                self.open_listed(batch, layout::evidence_of, |id, size| self.read_evidence(id, size))?;
            result.damaged.extend(damaged);
            result.foreign.extend(foreign);
            result.unread -= batch.len() as u64;
            for (id, (record, signer)) in sound {
                let arrived = arrival_in(batch, &id);
                let key_removed = notes.revoked.get(&signer.slot).map(|removed| removed.at);
                if take(Evidence { id, record, signer, arrived, key_removed }).is_break() {
                    return Ok(result);
                }
            }
        }
        Ok(result)
    }

    /// Fails with [`crate::error::Error::Role`] if evidence of a kind would prove nothing, coming from this key.
    pub fn require_believed(&self, counts_from: fn(Role) -> bool) -> Result<()> {
        match counts_from(self.access().certificate.role) {
            true => Ok(()),
            false => Err(self.access().refusal("leave evidence that anybody believes")),
        }
    }

    /// Signs and writes evidence. Fails with [`crate::error::Error::Role`] if it would prove nothing, coming from this key.
    pub fn write_evidence(&self, says: Says) -> Result<EvidenceId> {
        self.require_believed(match &says {
            Says::Check(_) => CheckEvidence::counts_from,
            Says::Drill(_) => DrillEvidence::counts_from,
        })?;
        let at = self.clock().now();
        let id = EvidenceId::new(at.as_millisecond().max(0) as u64, random());
        let what = What::from(&says);
        let record = EvidenceRecord { at, host: host_name(), program: PROGRAM.to_owned(), says };
        let body = evidence::encode(self.id(), id, &record, &self.access().signer());
        let bytes = objects::seal(self.keys(), self.id(), Object::Evidence(id), &body)?;
        self.create_logged(Object::Evidence(id), bytes, what, None)?;
        Ok(id)
    }

    pub(super) fn read_evidence(&self, id: &EvidenceId, size: u64) -> Result<(EvidenceRecord, Certificate)> {
        let decode = |body: &[u8]| evidence::decode(self.id(), *id, &self.config().root_key, body);
        self.objects().open(Object::Evidence(*id), Some(size), decode)
    }
}

fn named_milliseconds(object: &Listed) -> u64 {
    layout::evidence_of(&object.key).map_or(0, |id| id.unix_milliseconds())
}

/// Returns what evidence is listed by: its own word on the time, or its arrival if the word lies after that.
fn order(object: &Listed) -> (u64, String) {
    let named = named_milliseconds(object);
    let arrived = time::arrival(object, named).as_millisecond().max(0) as u64;
    (named.min(arrived), object.key.clone())
}

fn arrival_in(batch: &[Listed], id: &EvidenceId) -> Timestamp {
    let key = layout::evidence(id);
    let object = batch.iter().find(|object| object.key == key);
    object.map_or(Timestamp::MAX, |object| time::arrival(object, named_milliseconds(object)))
}
