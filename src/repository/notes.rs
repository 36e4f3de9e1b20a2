//! Notes: holds, tags, accepted losses and upgrades that went well, as they stand now.
//!
//! What must stay true: notes are only ever added, so two that are written at once both count; a hold that cannot be
//! read might be one, so whoever deletes something must not pass over [`Notes::damaged`].

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::crypto::random;
use crate::error::Result;
use crate::format::key_slot::Certificate;
use crate::format::log::What;
use crate::format::note::{self, NoteRecord, Says};
use crate::id::{NoteId, SessionId, SlotId};
use crate::repository::layout::Object;
use crate::repository::objects::{self, Opened, Unreadable};
use crate::repository::snapshots::Snapshot;
use crate::repository::{Repository, layout};

/// A hold that was not released.
#[derive(Debug, Clone)]
pub struct Hold {
    /// Names it.
    pub id: NoteId,
    /// What it keeps.
    pub snapshot: SessionId,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when; for ever without.
    pub until: Option<Timestamp>,
    /// Who said so.
    pub by: Certificate,
}

impl Hold {
    /// Returns whether it is over, though nobody released it.
    pub fn has_ended(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

/// A loss that somebody answers for, so that backups need not be incomplete by it.
#[derive(Debug, Clone)]
pub struct Acceptance {
    /// Names it.
    pub id: NoteId,
    /// The source whose backups lack something.
    pub group: String,
    /// What they lack: the path of a problem.
    pub subject: String,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when.
    pub until: Timestamp,
    /// Who said so.
    pub by: Certificate,
}

impl Acceptance {
    /// Returns whether it is over, though nobody withdrew it.
    pub fn has_ended(&self, now: Timestamp) -> bool {
        self.until <= now
    }
}

/// A key that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovedKey {
    /// What it was called.
    pub label: String,
    /// When it was removed.
    pub at: Timestamp,
}

/// All notes of a repository, taken together.
#[derive(Debug, Default)]
pub struct Notes {
    /// Holds that were not released, also those that have ended, oldest first.
    pub holds: Vec<Hold>,
    /// Losses that were accepted, also those whose time is over, oldest first.
    pub acceptances: Vec<Acceptance>,
    /// Snapshots from before an upgrade that another one followed.
    pub released: BTreeSet<SessionId>,
    /// Key slots that were removed.
    pub revoked: BTreeMap<SlotId, RemovedKey>,
    /// Notes that could not be read: each might be a hold.
    pub damaged: Unreadable,
    /// Objects under names that no note can have.
    pub foreign: Unreadable,
    /// What each note speaks about, if that is one snapshot.
    pub subjects: BTreeMap<NoteId, SessionId>,
    /// Whether keys that were on one footing are so no more.
    has_distrust: bool,
    tags: BTreeMap<SessionId, TagChanges>,
    /// Sets of key slots that are on one footing.
    equals: Vec<BTreeSet<SlotId>>,
}

/// Tags of a snapshot that its record does not tell.
#[derive(Debug, Default)]
struct TagChanges {
    added: BTreeSet<String>,
    removed: BTreeSet<String>,
}

impl Notes {
    /// Returns a snapshot's tags as they are now.
    pub fn tags_of(&self, snapshot: &Snapshot) -> Vec<String> {
        let mut tags = snapshot.record.tags.clone();
        if let Some(changes) = self.tags.get(&snapshot.id) {
            tags.extend(changes.added.iter().filter(|tag| !snapshot.record.tags.contains(tag)).cloned());
            tags.retain(|tag| !changes.removed.contains(tag));
        }
        tags
    }

    /// Returns the key slots that are on one footing with this one, itself included.
    pub fn trusted_with(&self, slot: &SlotId) -> BTreeSet<SlotId> {
        self.equals.iter().filter(|set| set.contains(slot)).flatten().copied().collect()
    }

    /// Returns whether some key may have been trusted once that is not trusted now.
    pub fn may_have_withdrawn_trust(&self) -> bool {
        self.has_distrust || !self.revoked.is_empty() || !self.damaged.is_empty()
    }

    /// Returns the first hold that keeps a snapshot at this moment.
    pub fn hold_on(&self, snapshot: &SessionId, now: Timestamp) -> Option<&Hold> {
        self.holds.iter().find(|hold| hold.snapshot == *snapshot && !hold.has_ended(now))
    }

    /// Takes in a note that is not older than those before.
    fn take(&mut self, id: NoteId, record: NoteRecord, by: Certificate) {
        match record.says {
            Says::Hold { snapshot, reason, until } => {
                self.subjects.insert(id, snapshot);
                self.holds.push(Hold { id, snapshot, reason, since: record.at, until, by });
            }
            Says::Release { hold } => {
                self.holds.retain(|held| held.id != hold);
                if let Some(snapshot) = self.subjects.get(&hold).copied() {
                    self.subjects.insert(id, snapshot);
                }
            }
            Says::AddTags { snapshot, tags } => {
                self.subjects.insert(id, snapshot);
                let changes = self.tags.entry(snapshot).or_default();
                changes.removed.retain(|tag| !tags.contains(tag));
                changes.added.extend(tags);
            }
            Says::RemoveTags { snapshot, tags } => {
                self.subjects.insert(id, snapshot);
                let changes = self.tags.entry(snapshot).or_default();
                changes.added.retain(|tag| !tags.contains(tag));
                changes.removed.extend(tags);
            }
            Says::AcceptLoss { group, subject, reason, until } => {
                self.acceptances.push(Acceptance { id, group, subject, reason, since: record.at, until, by });
            }
            Says::WithdrawAcceptance { acceptance } => self.acceptances.retain(|accepted| accepted.id != acceptance),
            Says::UpgradeDone { released } => self.released.extend(released),
            Says::RevokeKey { slot, label } => {
                self.revoked.entry(slot).or_insert(RemovedKey { label, at: record.at });
            }
            Says::ReinstateKey { slot } => drop(self.revoked.remove(&slot)),
            Says::TrustKeys { slots } => self.equals.push(slots.into_iter().collect()),
            Says::DistrustKeys { slots } => {
                self.has_distrust = true;
                self.equals.iter_mut().for_each(|set| set.retain(|slot| !slots.contains(slot)));
            }
        }
    }
}

impl Repository {
    /// Reads and verifies all notes. A damaged one does not hide the others.
    pub fn list_notes(&self) -> Result<Notes> {
        let read = |id: &NoteId, size| self.read_note(id, size);
        let Opened { mut sound, damaged, foreign } = self.open_all(layout::NOTES, layout::note_of, read)?;
        let mut notes = Notes { damaged, foreign, ..Notes::default() };
        // What takes a note back goes by the id of that note, not by the order: two clocks may differ.
        let takes_back = |says: &Says| matches!(says, Says::Release { .. } | Says::WithdrawAcceptance { .. });
        sound.sort_by_key(|(id, (record, _))| (takes_back(&record.says), *id));
        sound.into_iter().for_each(|(id, (record, by))| notes.take(id, record, by));
        Ok(notes)
    }

    /// Writes a note. Who may say what is in [`note::is_allowed`].
    pub fn write_note(&self, says: Says) -> Result<NoteId> {
        if !note::is_allowed(self.access().certificate.role, &says) {
            return Err(self.access().refusal(if says.only_keeps() {
                "write notes"
            } else {
                "let snapshots go, or accept losses"
            }));
        }
        let at = self.clock().now();
        let id = NoteId::new(at.as_millisecond().max(0) as u64, random());
        let (what, about) = (What::from(&says), says.about());
        let body = note::encode(self.id(), id, &NoteRecord { at, says }, &self.access().signer());
        let bytes = objects::seal(self.keys(), self.id(), Object::Note(id), &body)?;
        self.create_logged(Object::Note(id), bytes, what, about)?;
        Ok(id)
    }

    pub(super) fn read_note(&self, id: &NoteId, size: u64) -> Result<(NoteRecord, Certificate)> {
        let decode = |body: &[u8]| note::decode(self.id(), *id, &self.config().root_key, body);
        self.objects().open(Object::Note(*id), Some(size), decode)
    }
}
