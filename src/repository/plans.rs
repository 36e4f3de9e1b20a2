//! The plan of a sharded backup and what its shards say: objects that are written once, under names that follow from the
//! plan's name.
//!
//! What must stay true:
//! - A plan has one session, and a shard one result: a create-only write decides, once. Whoever comes second takes what is
//!   there.
//! - Only what the key slot in use has signed itself counts, as if one process had done it all. What another key signed is
//!   refused by name, never taken in.

use crate::error::{Error, Fault, Result};
use crate::format::key_slot::Certificate;
use crate::format::plan::{self, PlanObject, PlanRecord, ShardRecord};
use crate::id::{PlanId, SessionId};
use crate::repository::layout::Object;
use crate::repository::{Repository, objects};

impl Repository {
    /// Returns the id of the plan that has this name for a deployment, of the key in use.
    pub fn plan_id(&self, deployment: &str, name: &str) -> PlanId {
        self.keys().plan_id(&self.access().certificate.slot, deployment, name)
    }

    /// Reads a plan, if there is one.
    pub fn read_plan(&self, id: &PlanId) -> Result<Option<PlanRecord>> {
        Ok(self.read_own(Object::Plan(*id))?.and_then(|object| match object {
            PlanObject::Plan(record) => Some(*record),
            PlanObject::Shard(..) => None,
        }))
    }

    /// Reads what came of a shard, if it has ended.
    pub fn read_shard(&self, id: &PlanId, number: u32) -> Result<Option<ShardRecord>> {
        Ok(self.read_own(Object::Shard(*id, number))?.and_then(|object| match object {
            PlanObject::Shard(_, record) => Some(*record),
            PlanObject::Plan(_) => None,
        }))
    }

    /// Writes a plan, or what came of a shard. Returns whether it was the first: what is there stays.
    pub fn write_plan_object(&self, id: &PlanId, said: &PlanObject) -> Result<bool> {
        let object = match said {
            PlanObject::Plan(_) => Object::Plan(*id),
            PlanObject::Shard(number, _) => Object::Shard(*id, *number),
        };
        let body = plan::encode(self.id(), *id, said, &self.access().signer());
        let sealed = objects::seal(self.keys(), self.id(), object, &body)?;
        match self.backend().create(&object.key(), sealed) {
            Err(error) if error.fault() == Some(Fault::AlreadyExists) => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// Returns the session that a plan, or a shard, belongs to, whoever signed it.
    pub fn session_of_plan(&self, object: Object, size: u64) -> Result<SessionId> {
        self.read_plan_object(object, Some(size)).map(|(said, _)| said.session())
    }

    fn read_own(&self, object: Object) -> Result<Option<PlanObject>> {
        let (said, signer) = match self.read_plan_object(object, None) {
            Err(error) if error.fault() == Some(Fault::NotFound) => return Ok(None),
            read => read?,
        };
        if signer.slot == self.access().certificate.slot {
            return Ok(Some(said));
        }
        Err(Error::Refused(format!(
            "{:?} was written with the key {:?}, and this backup uses another one: nothing of it is taken in. Begin a plan of \
             another name",
            object.key(),
            signer.label
        )))
    }

    pub(super) fn read_plan_object(&self, object: Object, size: Option<u64>) -> Result<(PlanObject, Certificate)> {
        let named = match object {
            Object::Plan(id) => (id, None),
            Object::Shard(id, number) => (id, Some(number)),
            other => return Err(Error::Internal(format!("{} is no plan", other.key()))),
        };
        self.objects().open(object, size, |body| plan::decode(self.id(), named, &self.config().root_key, body))
    }
}
