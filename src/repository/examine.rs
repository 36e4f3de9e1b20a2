//! Whether an object is what its name says: the one look that `check` and `repair objects` have in common.
//!
//! What must stay true: it reads as every command reads, so that what passes here is what they take, and what fails here
//! is what they pass over.

use crate::error::Error;
use crate::error::Result;
use crate::format::session::SessionRecord;
use crate::repository::layout::Object;
use crate::repository::{Repository, objects, session};

impl Repository {
    /// Reads an object of which a listing said that it has `size` bytes. Fails with damage if it is not what its name says.
    ///
    /// Of a pack only the size is looked at: its content is for [`crate::chunks`].
    pub fn examine(&self, object: Object, size: u64) -> Result<()> {
        let listed = Some(size);
        match object {
            // Without it there is no open repository.
            Object::Config => Ok(()),
            Object::KeySlot(slot) => self.read_certificate(slot, listed).map(drop),
            Object::Session(_) => self.objects().open(object, listed, |body| SessionRecord::decode(body).map(drop)),
            Object::Snapshot(id) => self.read_outcome(&id, listed).map(drop),
            Object::Forgotten(id) => self.read_forgotten_of(&id, listed).map(drop),
            Object::Note(id) => self.read_note(&id, size).map(drop),
            Object::Tombstone(id) => match session::read_tombstone(self, id, listed)? {
                Some(_) => Ok(()),
                None => Err(Error::damaged(object.key(), "no maintainer signed it, so it marks nothing")),
            },
            Object::Countersignature(id) => self.read_countersignature(id, size).map(drop),
            Object::Evidence(id) => self.read_evidence(&id, size).map(drop),
            Object::Plan(_) | Object::Shard(..) => self.read_plan_object(object, listed).map(drop),
            Object::LogEntry(number) => self.read_slot(number, listed)?.entry.map(drop),
            Object::Segment(kind, id) => {
                let _permit = self.objects().room_for(size.min(object.bytes_max()));
                let bytes = objects::read(self.backend(), object, listed)?;
                let opened = self.open_segment(kind, &id, &bytes);
                opened.map(drop).map_err(|error| Error::damaged(object.key(), error))
            }
            Object::Pack(..) | Object::QuarantineRecord(_) | Object::Quarantined(..) => {
                objects::refuse_size(object, size)
            }
        }
    }
}
