//! What earlier checks verified: so that each check reads only what was not read for long.
//!
//! What must stay true: a memory that is lost, old or forged makes a check read more, never less: it is sealed with the
//! repository's secret, times in the future do not count, and of what a key can open only what was opened counts. It
//! stands in the cache directory: an auditor who may write nothing into the repository has one too, and nobody else has to
//! believe it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use crate::error::{Error, Result};
use crate::format::object::ObjectKind;
use crate::format::verified::{self, VERIFIED_MAX, Verified};
use crate::id::PackId;
use crate::repository::Repository;
use crate::repository::memory_file::MemoryFile;
use crate::sync::lock;

/// Name of the memory.
const NAME: &str = "verified";

/// The memory of one cache directory.
#[derive(Default)]
pub struct Memory {
    file: Option<MemoryFile>,
    /// When this check began, in seconds since 1970: what it verifies is as of then.
    now: i64,
    /// Whether the key in use opens what is in data packs.
    opens: bool,
    packs: Mutex<BTreeMap<PackId, Verified>>,
}

impl Memory {
    /// Reads what is remembered. If that cannot be read nothing is, and the error says why.
    pub fn open(repository: &Repository) -> (Self, Option<Error>) {
        let memory = Self {
            file: MemoryFile::in_cache(repository, ObjectKind::Verified, NAME),
            now: repository.clock().now().as_second(),
            opens: repository.access().data.is_some(),
            packs: Mutex::default(),
        };
        match memory.read(repository) {
            Ok(packs) => (Self { packs: Mutex::new(packs), ..memory }, None),
            Err(error) => (memory, Some(error)),
        }
    }

    fn read(&self, repository: &Repository) -> Result<BTreeMap<PackId, Verified>> {
        let Some(file) = &self.file else {
            return Err(Error::Invalid("there is no cache directory".to_owned()));
        };
        let Some(body) = file.read(repository)? else { return Ok(BTreeMap::new()) };
        verified::decode(&body).map_err(|error| Error::damaged(file.path().display().to_string(), error))
    }

    /// Returns how many seconds before this check a pack was verified as well as the key in use can; nothing if never.
    pub fn age_seconds(&self, id: &PackId) -> Option<u64> {
        let packs = lock(&self.packs);
        let verified = packs.get(id)?;
        let at = if self.opens { verified.opened } else { verified.named };
        if at > 0 { u64::try_from(self.now - at).ok() } else { None }
    }

    /// Notes that a pack was read whole and is sound; `opened` says that every chunk in it was opened.
    pub fn verified(&self, id: PackId, opened: bool) {
        let mut packs = lock(&self.packs);
        let verified = packs.entry(id).or_default();
        verified.named = self.now;
        if opened {
            verified.opened = self.now;
        }
    }

    /// Notes that a pack is bad, so that the next check reads it again.
    pub fn forget(&self, id: &PackId) {
        lock(&self.packs).remove(id);
    }

    /// Writes what is known of the packs that are there, in one step. Without a cache directory it does nothing.
    pub fn save<T>(&self, repository: &Repository, there: &HashMap<PackId, T>) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let packs = lock(&self.packs);
        let known = packs.iter().filter(|(id, _)| there.contains_key(id)).take(VERIFIED_MAX);
        file.write(repository, &verified::encode(&known.map(|(id, verified)| (*id, *verified)).collect()))
    }
}

#[cfg(test)]
impl Memory {
    /// Makes a memory without a file.
    pub fn of(now: i64, opens: bool, packs: impl IntoIterator<Item = (PackId, Verified)>) -> Self {
        Self { file: None, now, opens, packs: Mutex::new(packs.into_iter().collect()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_verified_as_well_as_now_and_not_in_the_future_counts() {
        let [both, name_only, future] = [1, 2, 3].map(|byte| PackId::from_bytes([byte; 32]));
        let packs = [
            (both, Verified { named: 900, opened: 700 }),
            (name_only, Verified { named: 800, opened: 0 }),
            (future, Verified { named: 1001, opened: 1001 }),
        ];
        let ages = |opens| [both, name_only, future].map(|id| Memory::of(1000, opens, packs).age_seconds(&id));
        assert_eq!(ages(true), [Some(300), None, None]);
        assert_eq!(ages(false), [Some(100), Some(200), None]);
    }

    #[test]
    fn a_pack_that_is_bad_counts_as_never_verified() {
        let id = PackId::from_bytes([1; 32]);
        let memory = Memory::of(1000, true, []);
        memory.verified(id, true);
        assert_eq!(memory.age_seconds(&id), Some(0));
        memory.forget(&id);
        assert_eq!(memory.age_seconds(&id), None);
    }
}
