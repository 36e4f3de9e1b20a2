//! Finds what stands in a repository and is none of its objects, and moves it out of the way, into quarantine.
//!
//! What must stay true:
//! - Nothing is deleted. The bytes of an object are in quarantine, were read back and compared, and the record of what they
//!   were is beside them, before the object itself goes. Stopped anywhere, this leaves the object where it was, or in
//!   quarantine, or both.
//! - What can be read is never moved: an object is junk only if `READINGS` readings in a row fail by damage.
//! - A name that becomes free gives nobody a way that he did not have: what stood under the name of a snapshot kept a session
//!   from committing, and might have made a prune believe that it has ended. So that snapshot is forgotten before, and its
//!   session void after; and a session whose announcement goes is declared void before.
//! - Packs that segments name are not looked at: their damage is for [`crate::repair::packs`].
//! - Memory: one part of one object at a time, and `JUNK_MAX` names.

use std::collections::HashSet;

use bytes::Bytes;
use serde::Serialize;

use crate::backend::{Listed, is_key};
use crate::chunks::pack_reader;
use crate::crypto::random;
use crate::error::{Error, Fault, Result};
use crate::format::BlobKind;
use crate::format::quarantine::QuarantineRecord;
use crate::hears::Hears;
use crate::id::{PackId, QuarantineId, SessionId};
use crate::monitor::Counter;
use crate::parallel;
use crate::repository::Repository;
use crate::repository::layout::{self, Object, QUARANTINE_PART_BYTES_MAX};
use crate::repository::objects::{self, BATCH_OBJECTS};
use crate::repository::session::{self, PROGRAM};

/// Readings that must fail in a row.
const READINGS: usize = 3;
/// Objects that are moved by one repair; the next one goes on with the rest.
const JUNK_MAX: usize = 10_000;
/// Characters of a reason that a record holds.
const REASON_LEN_MAX: usize = 1000;
/// Why a session ends whose name or announcement is freed.
const REASON: &str = "what stood under its name was moved into quarantine";

/// An object that is none, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Junk {
    /// Its key.
    pub object: String,
    /// Its length in bytes, as far as a listing can be believed.
    pub bytes: u64,
    /// What is wrong with it.
    pub reason: String,
    /// What is lost with it, if it was what its name says.
    pub cost: String,
    #[serde(skip)]
    named: Option<Object>,
}

/// An object that stays where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Left {
    /// Its key.
    pub object: String,
    /// Why it stays.
    pub reason: String,
}

/// What is to be moved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RepairObjectsPlan {
    /// Objects that were looked at.
    pub objects: u64,
    /// What is to be moved, in the order in which that is safe.
    pub junk: Vec<Junk>,
    /// How much there is, also beyond what one repair moves.
    pub junk_count: u64,
    /// What mlvault cannot move.
    pub left: Vec<Left>,
    /// How much that is.
    pub left_count: u64,
}

impl RepairObjectsPlan {
    fn add(&mut self, junk: Junk) {
        self.junk_count += 1;
        if self.junk.len() < JUNK_MAX {
            self.junk.push(junk);
        }
    }

    fn leave(&mut self, object: &str, reason: &str) {
        self.left_count += 1;
        if self.left.len() < JUNK_MAX {
            self.left.push(Left { object: object.to_owned(), reason: reason.to_owned() });
        }
    }
}

/// An object that was moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// The key under which it stood.
    pub object: String,
    /// The key of the record in quarantine that says so.
    pub record: String,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RepairObjectsReport {
    /// What was moved.
    pub moved: Vec<Moved>,
    /// What could not be moved.
    pub left: Vec<Left>,
}

/// Looks at every object but the content of packs. Writes nothing. Needs a maintainer's key.
pub fn plan(repository: &Repository, hears: &Hears) -> Result<RepairObjectsPlan> {
    repository.access().require_maintainer("repair objects")?;
    let listed = repository.backend().list("")?;
    hears.monitor.phase("look at objects", Some(listed.len() as u64), None);
    let named = named_packs(repository)?;
    let mut plan = RepairObjectsPlan { objects: listed.len() as u64, ..RepairObjectsPlan::default() };
    for batch in listed.chunks(BATCH_OBJECTS) {
        let looked = parallel::map(batch, repository.backend().concurrency(), |listed| {
            hears.check()?;
            look(repository, listed, &named)
        });
        for (listed, reason) in batch.iter().zip(looked) {
            hears.monitor.count(Counter::Entries, 1);
            let Some(reason) = reason? else { continue };
            if is_key(&listed.key) {
                let named = Object::parse(&listed.key);
                let (object, cost) = (listed.key.clone(), cost_of(named).to_owned());
                plan.add(Junk { object, bytes: listed.size, reason, cost, named });
            } else {
                plan.leave(
                    &listed.key,
                    "mlvault can neither read nor move it; remove it with the tools of the storage",
                );
            }
        }
    }
    // Records of forgetting before snapshots: a snapshot whose name is freed is forgotten first.
    plan.junk.sort_by_key(|junk| matches!(junk.named, Some(Object::Snapshot(_))));
    Ok(plan)
}

/// Moves what the plan names into quarantine. What cannot be moved stays, and is named.
pub fn run(repository: &Repository, plan: &RepairObjectsPlan, hears: &Hears) -> Result<RepairObjectsReport> {
    repository.access().require_maintainer("repair objects")?;
    hears.monitor.phase("move objects", Some(plan.junk.len() as u64), None);
    let mut report = RepairObjectsReport { left: plan.left.clone(), ..RepairObjectsReport::default() };
    for junk in &plan.junk {
        hears.check()?;
        match put_aside(repository, junk, hears) {
            Ok(record) => report.moved.push(Moved { object: junk.object.clone(), record }),
            // Another repair, or a prune, was faster.
            Err(error) if error.fault() == Some(Fault::NotFound) => {}
            Err(error) if error.is_damage() => {
                hears.monitor.problem(&junk.object, &error.reason());
                report.left.push(Left { object: junk.object.clone(), reason: error.reason() });
            }
            Err(error) => return Err(error),
        }
        hears.monitor.count(Counter::Entries, 1);
    }
    repository.index().expire();
    Ok(report)
}

fn named_packs(repository: &Repository) -> Result<HashSet<PackId>> {
    let mut named = HashSet::new();
    for kind in BlobKind::ALL {
        named.extend(repository.index().packs(kind)?.into_iter().map(|pack| pack.id));
    }
    // Segments that cannot be read are found by name below.
    repository.index().take_damage();
    Ok(named)
}

/// Returns what is wrong with an object, if it is junk.
fn look(repository: &Repository, listed: &Listed, named: &HashSet<PackId>) -> Result<Option<String>> {
    // A number of the log that becomes free could be taken again: what stands there stays, whatever it is.
    if listed.key.starts_with(layout::PROBE) || listed.key.starts_with(layout::LOG) {
        return Ok(None);
    }
    let Some(object) = Object::parse(&listed.key) else {
        return Ok(Some("its name is not one that mlvault makes".to_owned()));
    };
    let examine = || match object {
        Object::Pack(_, id) if named.contains(&id) => Ok(()),
        Object::Pack(kind, id) => examine_pack(repository, kind, &id, listed.size),
        object => repository.examine(object, listed.size),
    };
    let mut reason = None;
    for _ in 0..READINGS {
        match examine() {
            Ok(()) => return Ok(None),
            Err(error) if error.fault() == Some(Fault::NotFound) => return Ok(None),
            Err(error) if error.is_damage() => reason = Some(error.reason()),
            Err(error) => return Err(error),
        }
    }
    Ok(reason)
}

/// Looks at a pack that no segment names.
fn examine_pack(repository: &Repository, kind: BlobKind, id: &PackId, size: u64) -> Result<()> {
    // First what it says of itself, by small requests: most junk does not even do that.
    pack_reader::read_directory(repository, kind, id, size)?;
    let object = Object::Pack(kind, *id);
    let _permit = repository.objects().room_for(size);
    match pack_reader::is_named_after(id, &objects::read(repository.backend(), object, Some(size))?) {
        true => Ok(()),
        false => Err(Error::damaged(object.key(), "its bytes do not hash to its name")),
    }
}

/// Returns what is lost with an object that was what its name says.
fn cost_of(object: Option<Object>) -> &'static str {
    match object {
        None => "Nothing: mlvault never reads it",
        Some(Object::Snapshot(_)) => {
            "If it was a snapshot, that is lost; if a backup of this name still runs, it will fail and has to be run again"
        }
        Some(Object::Forgotten(_)) => "If it forgot a snapshot that is still there, that is listed again",
        Some(Object::Note(_)) => "If it was a hold, that is over; if it released one or changed tags, that is undone",
        Some(Object::Session(_)) => "If a backup of this name still runs, it will fail and has to be run again",
        Some(Object::Tombstone(_)) => {
            "Make sure that no prune runs: if it was a prune's, backups may rely on packs that this prune is deleting"
        }
        Some(Object::Countersignature(_)) => {
            "If it said that packs are sound, a `mlvault check --read-data` says it anew"
        }
        Some(Object::Evidence(_)) => "If it said what a check or a drill found, run that again",
        Some(Object::Plan(_) | Object::Shard(..)) => {
            "If it was of a sharded backup that still runs, run that again, with a plan of another name"
        }
        Some(Object::Segment(..)) => {
            "If it was a part of the index, run `mlvault repair index` afterwards: it reads from packs what that said"
        }
        Some(Object::Pack(..)) => "Nothing: the index does not name it, and it does not say what is in it",
        Some(Object::KeySlot(_)) => "If it was a key, that does not open the repository any more; add it anew",
        Some(Object::Config | Object::LogEntry(_) | Object::QuarantineRecord(_) | Object::Quarantined(..)) => "Nothing",
    }
}

/// Moves one object, and returns the key of its record.
fn put_aside(repository: &Repository, junk: &Junk, hears: &Hears) -> Result<String> {
    prepare(repository, junk.named)?;
    let time = repository.clock().now();
    let id = QuarantineId::new(time.as_millisecond().max(0) as u64, random());
    let (parts, blake3) = copy(repository, junk, id)?;
    let record = QuarantineRecord {
        object: junk.object.clone(),
        bytes: junk.bytes,
        blake3,
        parts,
        reason: junk.reason.chars().take(REASON_LEN_MAX).collect(),
        at: time,
        program: PROGRAM.to_owned(),
    };
    let key = Object::QuarantineRecord(id).key();
    repository.backend().create(&key, Bytes::from(record.encode()))?;
    // Only now: all that it was is there a second time.
    repository.backend().remove(&junk.object)?;
    if let Some(Object::Snapshot(session)) = junk.named {
        seal_name(repository, &session, hears)?;
    }
    Ok(key)
}

/// Makes sure that nobody can use the name that becomes free.
fn prepare(repository: &Repository, object: Option<Object>) -> Result<()> {
    match object {
        // A session that still runs could commit under the free name, when a prune has long taken it for ended.
        Some(Object::Snapshot(id)) => repository.forget(&id, REASON),
        // Nobody would wait for a session that is not announced. Where a void marker could overwrite a snapshot, prunes wait
        // by the clock instead.
        Some(Object::Session(id)) if repository.config().create_only => session::void(repository, &id, REASON),
        _ => Ok(()),
    }
}

/// Puts a void marker where a junk snapshot was, so that a session that still runs fails instead of committing what is
/// forgotten already.
fn seal_name(repository: &Repository, session: &SessionId, hears: &Hears) -> Result<()> {
    if !repository.config().create_only {
        return Ok(());
    }
    session::void(repository, session, REASON)?;
    if repository.is_snapshot(session)? {
        hears.monitor.note(&format!(
            "The snapshot {0} was committed at this moment, and is in the trash: `mlvault undelete {0}` brings it back",
            session.short()
        ));
    }
    Ok(())
}

/// Copies an object's bytes part by part, each read back. Returns how many parts there are, and the hash of all.
fn copy(repository: &Repository, junk: &Junk, id: QuarantineId) -> Result<(u32, String)> {
    let (backend, mut hasher, mut parts) = (repository.backend(), blake3::Hasher::new(), 0);
    let mut start = 0;
    while start < junk.bytes {
        let end = junk.bytes.min(start + QUARANTINE_PART_BYTES_MAX);
        let bytes = match (start, end == junk.bytes) {
            (0, true) => whole(repository, junk)?,
            _ => backend.read_range(&junk.object, start..end)?,
        };
        hasher.update(&bytes);
        let part = Object::Quarantined(id, parts);
        backend.create(&part.key(), bytes.clone())?;
        if backend.read_up_to(&part.key(), part.bytes_max())? != bytes {
            return Err(Error::damaged(part.key(), "it is not read back as it was written"));
        }
        parts += 1;
        start = end;
    }
    // What a listing does not tell of would go without a copy.
    if start > QUARANTINE_PART_BYTES_MAX && backend.read_range(&junk.object, start..start + 1).is_ok() {
        return Err(longer_than_listed(junk));
    }
    if junk.bytes == 0 && !whole(repository, junk)?.is_empty() {
        return Err(longer_than_listed(junk));
    }
    Ok((parts, hasher.finalize().to_string()))
}

fn whole(repository: &Repository, junk: &Junk) -> Result<Bytes> {
    let bytes = repository.backend().read_up_to(&junk.object, junk.bytes)?;
    if bytes.len() as u64 != junk.bytes {
        let reason = format!("it has {} bytes, and a listing says {}", bytes.len(), junk.bytes);
        return Err(Error::damaged(&junk.object, reason));
    }
    Ok(bytes)
}

fn longer_than_listed(junk: &Junk) -> Error {
    Error::damaged(&junk.object, format!("it has more than the {} bytes that a listing says", junk.bytes))
}
