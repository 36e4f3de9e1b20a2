//! Whom a writer relies on: whose chunks it does not store again, and whose snapshots it builds on.
//!
//! What must stay true: a writer cannot open content, so it can only ask who says that a pack holds what it says. It
//! believes itself, maintainers, key slots that a maintainer put on one footing with its own (`key trust`), and whatever
//! somebody who can open content has countersigned. It believes nobody else, nobody whose key was removed, and nothing that
//! no one vouches for. What is not believed is stored again, which costs space and no more.

use std::collections::HashSet;

use crate::crypto::random;
use crate::error::{Error, Result};
use crate::format::countersignature::{Countersignature, PACKS_MAX, SoundPack};
use crate::format::key_slot::{Certificate, Role};
use crate::format::note::Says;
use crate::id::{CountersignatureId, SlotId};
use crate::index::PackRecord;
use crate::repository::layout::Object;
use crate::repository::objects::{self, Opened, Unreadable};
use crate::repository::{Repository, layout};

/// Whom the key in use relies on, as things stood when this was read.
#[derive(Debug, Default)]
pub struct Trust {
    slots: HashSet<SlotId>,
    countersigned: HashSet<SoundPack>,
}

impl Trust {
    /// Reads key slots, notes and countersignatures. What cannot be read gives no trust.
    pub fn read(repository: &Repository) -> Result<Self> {
        let slots = trusted_slots(repository)?;
        let countersigned = repository.countersigned_packs()?.packs;
        Ok(Self { slots, countersigned })
    }

    /// Returns whether what somebody signed may be built on.
    pub fn in_signer(&self, signer: &Certificate) -> bool {
        self.slots.contains(&signer.slot)
    }

    /// Returns whether a pack holds what it says, as far as anyone can tell.
    pub fn in_pack(&self, pack: &PackRecord) -> bool {
        let claim = SoundPack { pack: pack.id, directory: pack.directory };
        self.countersigned.contains(&claim) || (pack.is_vouched && self.slots.contains(&pack.session.slot))
    }
}

/// Returns the key slots that the one in use relies on, itself included.
pub fn trusted_slots(repository: &Repository) -> Result<HashSet<SlotId>> {
    let own = repository.access().certificate.slot;
    let notes = repository.list_notes()?;
    let equals = notes.trusted_with(&own);
    let is_trusted = |certificate: &Certificate| {
        let slot = &certificate.slot;
        (certificate.role == Role::Maintainer || equals.contains(slot)) && !notes.revoked.contains_key(slot)
    };
    let listed = repository.list_keys()?.into_iter().filter_map(|slot| slot.certificate.ok());
    let mut slots: HashSet<SlotId> = listed.filter(is_trusted).map(|certificate| certificate.slot).collect();
    slots.insert(own);
    Ok(slots)
}

/// One object that says so of packs.
#[derive(Debug)]
pub struct CountersignedObject {
    /// Names it.
    pub id: CountersignatureId,
    /// The packs.
    pub packs: Vec<SoundPack>,
}

/// What was opened and found sound.
#[derive(Debug, Default)]
pub struct Countersigned {
    /// The packs.
    pub packs: HashSet<SoundPack>,
    /// Countersignatures that do not count.
    pub damaged: Unreadable,
}

impl Repository {
    /// Puts writers' keys on one footing: each relies on what the others write. They are named by id, a prefix of it, or
    /// label. Needs a maintainer's key.
    pub fn trust_keys(&self, names: &[String]) -> Result<Vec<Certificate>> {
        let keys = self.writers_named(names)?;
        if keys.len() < 2 {
            return Err(Error::Invalid("Trust is between keys: name at least two".to_owned()));
        }
        self.write_note(Says::TrustKeys { slots: keys.iter().map(|key| key.slot).collect() })?;
        Ok(keys)
    }

    /// Takes back that writers' keys are on one footing with any other. Needs a maintainer's key.
    pub fn distrust_keys(&self, names: &[String]) -> Result<Vec<Certificate>> {
        let keys = self.writers_named(names)?;
        self.write_note(Says::DistrustKeys { slots: keys.iter().map(|key| key.slot).collect() })?;
        Ok(keys)
    }

    fn writers_named(&self, names: &[String]) -> Result<Vec<Certificate>> {
        self.access().require_maintainer("say which keys rely on each other")?;
        let notes = self.list_notes()?;
        let mut keys: Vec<Certificate> = Vec::new();
        for name in names {
            let key = self.find_key(name)?;
            let (label, role) = (&key.label, key.role.name());
            if key.role != Role::Writer {
                return Err(Error::Invalid(format!(
                    "The key {label:?} has the role {role}: only writers can be trusted or distrusted"
                )));
            }
            if notes.revoked.contains_key(&key.slot) {
                return Err(Error::Invalid(format!("The key {label:?} was removed, and its slot has been put back")));
            }
            if keys.iter().all(|other| other.slot != key.slot) {
                keys.push(key);
            }
        }
        Ok(keys)
    }

    /// Reads all countersignatures, and takes them together.
    pub fn countersigned_packs(&self) -> Result<Countersigned> {
        let Opened { sound, damaged, .. } = self.open_countersignatures()?;
        Ok(Countersigned { packs: sound.into_iter().flat_map(|(_, it)| it.packs).collect(), damaged })
    }

    /// Reads all countersignatures, one by one. What is damaged is left out.
    pub fn countersignatures(&self) -> Result<Vec<CountersignedObject>> {
        let sound = self.open_countersignatures()?.sound.into_iter();
        Ok(sound.map(|(id, it)| CountersignedObject { id, packs: it.packs }).collect())
    }

    fn open_countersignatures(&self) -> Result<Opened<CountersignatureId, Countersignature>> {
        let read = |id: &CountersignatureId, size| self.read_countersignature(*id, size);
        // Nothing that counts has a name of another form.
        self.open_all(layout::COUNTERSIGNED, layout::countersignature_of, read)
    }

    pub(super) fn read_countersignature(&self, id: CountersignatureId, size: u64) -> Result<Countersignature> {
        self.objects().open(Object::Countersignature(id), Some(size), |body| {
            Countersignature::verify(self.id(), id, &self.config().root_key, body)
                .map(|(countersignature, _)| countersignature)
        })
    }

    /// Says of packs that all of their chunks were opened and are what their names say.
    ///
    /// Fails with [`Error::Role`] unless the key in use opens content.
    pub fn countersign(&self, packs: &[SoundPack]) -> Result<()> {
        self.access().data_secret()?;
        let at = self.clock().now();
        for packs in packs.chunks(PACKS_MAX) {
            let id = CountersignatureId::new(at.as_millisecond().max(0) as u64, random());
            let record = Countersignature { at, packs: packs.to_vec() };
            let body = record.sign(self.id(), id, &self.access().signer());
            let sealed = objects::seal(self.keys(), self.id(), Object::Countersignature(id), &body)?;
            self.backend().create(&layout::countersignature(&id), sealed)?;
        }
        Ok(())
    }
}
