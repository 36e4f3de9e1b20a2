//! The small objects of a repository: everything but packs. They are read here, and nowhere else.
//!
//! What must stay true, whoever may write to the backend, and whatever its listings say:
//! - Nothing is read beyond the limit of its kind ([`Object::bytes_max`]), nor beyond the size that a listing gave. Both
//!   are refused before memory is taken.
//! - What is being opened at once keeps within the memory plan's part for it, with what it is decoded to. One object that
//!   is larger than this part is opened alone.
//! - Lists of what cannot be read are bounded, and what does not fit is counted.

use std::sync::Arc;

use bytes::Bytes;

use crate::backend::{Backend, Listed};
use crate::budget::{Budget, Permit};
use crate::crypto::keys::MetaKeys;
use crate::error::{Error, Fault, Result};
use crate::format::object::{self, ObjectKind, Payload};
use crate::format_error::FormatError;
use crate::id::RepositoryId;
use crate::monitor::Monitor;
use crate::parallel;
use crate::repository::Repository;
use crate::repository::layout::Object;
use crate::units::MIB;

/// How many times its length a body takes while it is decoded: itself, and what it becomes.
const BODY_COPIES: u64 = 3;
/// Most that bodies are thought to be longer than what is stored of them, before that is known.
const COMPRESSION_EXPECTED: u64 = 4;
/// Stored bytes of objects that are fetched before they are opened one after the other.
const BATCH_BYTES: u64 = 16 * MIB;
/// Objects that are read before what they say is taken in.
pub const BATCH_OBJECTS: usize = 1024;
/// Errors that are kept of one listing.
const UNREADABLE_NAMED_MAX: usize = 100;
/// Objects that are named in notes of one listing.
const UNREADABLE_TOLD_MAX: usize = 20;

/// Reads a whole small object. `size` is what a listing said of it, if it was listed.
pub fn read(backend: &dyn Backend, object: Object, size: Option<u64>) -> Result<Bytes> {
    let bytes = size.unwrap_or_else(|| object.bytes_max());
    refuse_size(object, bytes)?;
    backend.read_up_to(&object.key(), bytes)
}

/// Refuses an object that is larger than its kind can be.
pub fn refuse_size(object: Object, size: u64) -> Result<()> {
    let bytes_max = object.bytes_max();
    if size <= bytes_max {
        return Ok(());
    }
    let reason = format!("it has {size} bytes, more than the {bytes_max} that such an object can have");
    Err(Error::damaged(object.key(), reason))
}

/// Seals the body of a small object that has an envelope. Refuses what no reader would read again.
pub fn seal(keys: &MetaKeys, repository: RepositoryId, object: Object, body: &[u8]) -> Result<Bytes> {
    let (kind, name) = envelope(object)?;
    let len_max = kind.body_len_max();
    if body.len() > len_max {
        let (key, len) = (object.key(), body.len());
        return Err(Error::Refused(format!(
            "{key:?} would have a body of {len} bytes, and at most {len_max} can be read"
        )));
    }
    Ok(Bytes::from(object::seal(keys, repository, kind, &name, body)))
}

fn envelope(object: Object) -> Result<(ObjectKind, String)> {
    object.envelope().ok_or_else(|| Error::Internal(format!("{} has no envelope", object.key())))
}

/// Splits a listing into parts that can be fetched together, of one object at least.
pub fn batches(mut listed: &[Listed]) -> impl Iterator<Item = &[Listed]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |object: &&Listed| {
            bytes = object.size.saturating_add(bytes);
            bytes <= BATCH_BYTES
        };
        let count = listed.iter().take_while(fits).count().max(1).min(listed.len());
        let (batch, rest) = listed.split_at(count);
        listed = rest;
        (!batch.is_empty()).then_some(batch)
    })
}

/// Opens the small objects of a repository, as many at once as memory allows. Calls may come from many threads.
pub struct ObjectReader {
    backend: Arc<dyn Backend>,
    keys: Arc<MetaKeys>,
    repository: RepositoryId,
    budget: Budget,
}

impl ObjectReader {
    /// Makes a reader that uses so many bytes at once.
    pub fn new(backend: Arc<dyn Backend>, keys: Arc<MetaKeys>, repository: RepositoryId, bytes: u64) -> Self {
        Self { backend, keys, repository, budget: Budget::new(bytes) }
    }

    /// Reads, opens and decodes an object that has an envelope. `size` is what a listing said of it, if it was listed.
    pub fn open<T>(
        &self,
        object: Object,
        size: Option<u64>,
        decode: impl FnOnce(&[u8]) -> Result<T, FormatError>,
    ) -> Result<T> {
        let stored = size.unwrap_or_else(|| object.bytes_max()).min(object.bytes_max());
        let mut permit = self.room_for(stored);
        let mut payload = self.unseal(object, size)?;
        // Known only now. It is declared, and authenticated, but whoever holds a key may have written it.
        let need = payload.stored_bytes() as u64 + payload.plain_len() as u64 * BODY_COPIES;
        if need > permit.bytes() && !permit.try_grow(need - permit.bytes()) {
            // Given back before more is waited for: two that hold some and wait for each other would wait for ever.
            drop((payload, permit));
            permit = self.budget.take(need + stored);
            payload = self.unseal(object, size)?;
        }
        let opened = payload.into_body().and_then(|body| decode(&body));
        drop(permit);
        opened.map_err(|error| Error::damaged(object.key(), error))
    }

    /// Waits until there is memory for an object of `size` bytes that somebody else opens.
    pub fn room_for(&self, size: u64) -> Permit {
        self.budget.take(size.saturating_mul(2 + COMPRESSION_EXPECTED))
    }

    fn unseal(&self, object: Object, size: Option<u64>) -> Result<Payload> {
        let bytes = read(self.backend.as_ref(), object, size)?;
        let (kind, name) = envelope(object)?;
        object::unseal(&self.keys, self.repository, kind, &name, bytes.into())
            .map_err(|error| Error::damaged(object.key(), error))
    }
}

/// What stands under one prefix, where every object has an envelope of its own.
pub(super) struct Opened<I, T> {
    /// What could be read, in the order of the names.
    pub sound: Vec<(I, T)>,
    /// What could not, although its name is that of such an object.
    pub damaged: Unreadable,
    /// Objects under names that none can have.
    pub foreign: Unreadable,
}

impl Repository {
    /// Reads everything under a prefix, many at once. `read` gets the size that the listing said. What is damaged does not
    /// hide the rest, and what goes away meanwhile is not there.
    pub(super) fn open_all<I: Send, T: Send>(
        &self,
        prefix: &str,
        id_of: impl Fn(&str) -> Option<I> + Sync,
        read: impl Fn(&I, u64) -> Result<T> + Sync,
    ) -> Result<Opened<I, T>> {
        self.open_listed(&self.backend().list(prefix)?, id_of, read)
    }

    /// The same for objects that were listed before, in their order.
    pub(super) fn open_listed<I: Send, T: Send>(
        &self,
        listed: &[Listed],
        id_of: impl Fn(&str) -> Option<I> + Sync,
        read: impl Fn(&I, u64) -> Result<T> + Sync,
    ) -> Result<Opened<I, T>> {
        let (damaged, foreign) = (Unreadable::default(), Unreadable::default());
        let mut all = Opened { sound: Vec::new(), damaged, foreign };
        for batch in listed.chunks(BATCH_OBJECTS) {
            let read = parallel::map(batch, self.backend().concurrency(), |object| {
                let id = id_of(&object.key)?;
                let read = read(&id, object.size);
                Some((id, read))
            });
            for (object, result) in batch.iter().zip(read) {
                match result {
                    None => all.foreign.push_foreign(&object.key),
                    Some((id, Ok(read))) => all.sound.push((id, read)),
                    Some((_, Err(error))) if error.fault() == Some(Fault::NotFound) => {}
                    Some((_, Err(error))) if error.is_damage() => all.damaged.push(error),
                    Some((_, Err(error))) => return Err(error),
                }
            }
        }
        Ok(all)
    }
}

/// Objects under one prefix that cannot be read, or are none: some by name, the others counted.
#[derive(Debug, Clone, Default)]
pub struct Unreadable {
    named: Vec<Error>,
    count: u64,
}

impl Unreadable {
    /// Adds one.
    pub fn push(&mut self, error: Error) {
        self.count += 1;
        if self.named.len() < UNREADABLE_NAMED_MAX {
            self.named.push(error);
        }
    }

    /// Adds an object whose name is not one of those under its prefix.
    pub fn push_foreign(&mut self, key: &str) {
        self.push(Error::damaged(key, "its name is not one that mlvault makes"));
    }

    /// Adds others.
    pub fn extend(&mut self, other: Self) {
        self.count += other.count;
        let room = UNREADABLE_NAMED_MAX.saturating_sub(self.named.len());
        self.named.extend(other.named.into_iter().take(room));
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns how many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the first.
    pub fn first(&self) -> Option<&Error> {
        self.named.first()
    }

    /// Iterates over those that are known by name.
    pub fn iter(&self) -> impl Iterator<Item = &Error> {
        self.named.iter()
    }

    /// Returns a line for each, and one for those that are too many.
    pub fn lines(&self) -> Vec<String> {
        let named = self.named.iter().take(UNREADABLE_TOLD_MAX);
        let mut lines: Vec<String> = named.map(ToString::to_string).collect();
        let more = self.count - lines.len() as u64;
        if more > 0 {
            lines.push(format!("{more} more objects like these; `mlvault check` names them"));
        }
        lines
    }

    /// Tells them as notes.
    pub fn note_to(&self, monitor: &dyn Monitor) {
        self.lines().iter().for_each(|line| monitor.note(line));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::backend::memory::MemoryBackend;
    use crate::id::SessionId;
    use zeroize::Zeroizing;

    const REPOSITORY: RepositoryId = RepositoryId::from_bytes([1; 16]);

    fn session(number: u8) -> Object {
        Object::Session(SessionId::from_bytes([number; 16]))
    }

    #[test]
    fn nothing_is_read_beyond_the_limit_of_its_kind_or_what_a_listing_said() {
        let backend = MemoryBackend::default();
        let max = session(1).bytes_max();
        backend.overwrite(&session(1).key(), vec![0; max as usize]);
        backend.overwrite(&session(2).key(), vec![0; max as usize + 1]);
        assert!(read(&backend, session(1), Some(max)).is_ok() && read(&backend, session(1), None).is_ok());
        assert!(read(&backend, session(2), None).unwrap_err().is_damage());
        assert!(matches!(read(&backend, session(2), Some(max + 1)), Err(Error::Damaged { .. })));
        // The listing says less than there is.
        assert_eq!(read(&backend, session(1), Some(max - 1)).unwrap_err().fault(), Some(Fault::BadAnswer));
    }

    #[test]
    fn what_is_opened_at_once_keeps_within_the_budget_however_far_it_unfolds() {
        let keys = Arc::new(MetaKeys::new(Zeroizing::new([5; 32])));
        let backend = Arc::new(MemoryBackend::default());
        let len = ObjectKind::Session.body_len_max();
        for number in 0..32 {
            let name = SessionId::from_bytes([number; 16]).to_string();
            let sealed = object::seal(&keys, REPOSITORY, ObjectKind::Session, &name, &vec![0; len]);
            backend.overwrite(&session(number).key(), sealed);
        }
        // Room for two such bodies at once, and not for three.
        let room = BODY_COPIES * len as u64 * 5 / 2;
        let reader = ObjectReader::new(backend, keys, REPOSITORY, room);
        let (running, peak) = (Mutex::new(0), Mutex::new(0));
        let all: Vec<u8> = (0..32).collect();
        let opened = parallel::map(&all, 8, |number| {
            reader.open(session(*number), None, |body| {
                *running.lock().unwrap() += 1;
                std::thread::sleep(std::time::Duration::from_millis(2));
                let mut peak = peak.lock().unwrap();
                let mut running = running.lock().unwrap();
                *peak = (*peak).max(*running);
                *running -= 1;
                Ok(body.len())
            })
        });
        assert!(opened.into_iter().all(|opened| opened.unwrap() == len));
        assert!(*peak.lock().unwrap() <= 2, "{peak:?}");
    }

    #[test]
    fn a_batch_has_one_object_at_least_and_no_more_bytes_than_it_may() {
        let listed = |size| Listed { key: String::new(), size, modified: jiff::Timestamp::UNIX_EPOCH };
        let all = [listed(BATCH_BYTES + 1), listed(BATCH_BYTES), listed(1), listed(2)];
        let lens: Vec<usize> = batches(&all).map(<[Listed]>::len).collect();
        assert_eq!(lens, [1, 1, 2]);
        assert_eq!(batches(&[]).count(), 0);
    }

    #[test]
    fn of_many_unreadable_objects_some_are_named_and_all_are_counted() {
        let mut many = Unreadable::default();
        (0..1000).for_each(|number| many.push_foreign(&format!("keys/{number}")));
        assert_eq!((many.count(), many.iter().count()), (1000, UNREADABLE_NAMED_MAX));
        assert_eq!(many.lines().len(), UNREADABLE_TOLD_MAX + 1);
        let mut both = many.clone();
        both.extend(many);
        assert_eq!((both.count(), both.iter().count()), (2000, UNREADABLE_NAMED_MAX));
    }
}
