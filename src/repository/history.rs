//! What this machine has seen of a repository: so that it notices when history goes backwards.
//!
//! What must stay true:
//! - A snapshot that was seen is there for ever after, or a maintainer has forgotten it and the record of that is there.
//!   If neither is so, somebody has deleted it past mlvault, or has put an older state of the repository in its place. It
//!   stays remembered then, so that it is said until a person decides. The same holds for the entries of the log.
//! - A memory that is lost, old, unreadable or cannot be written makes nothing fail. It only sees less.
//! - A file that the user names and that is not a memory of this repository is never replaced.
//!
//! The memory is a file in the cache directory, and one more if the user names one. Whoever may change these files can
//! make them forget; who cannot is noticed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Mutex;

use crate::error::{Error, Result};
use crate::format::history::{self, LogPosition, Seen};
use crate::format::object::ObjectKind;
use crate::id::SessionId;
use crate::repository::Repository;
use crate::repository::memory_file::MemoryFile;
use crate::sync::lock;

/// Name of the memory.
const NAME: &str = "history";

/// What was seen, and where that is remembered.
#[derive(Default)]
pub struct History {
    /// The file that the user named.
    named: Option<PathBuf>,
    state: Mutex<State>,
}

/// What a listing shows.
#[derive(Debug, Default)]
pub struct Sight {
    /// All that stands under the name of a snapshot and is not void, whether or not it can be read.
    pub there: BTreeSet<SessionId>,
    /// Snapshots that were read and verified: only they are remembered, or anybody could plant a name to take it away.
    pub sound: BTreeSet<SessionId>,
    /// Snapshots that a maintainer has forgotten and that are still there.
    pub trash: BTreeSet<SessionId>,
}

#[derive(Default)]
struct State {
    /// Files to read and write, and whether the user named them; nothing before they were first asked.
    files: Option<Vec<(MemoryFile, bool)>>,
    /// What all of them say.
    saved: Seen,
    seen: Seen,
    /// What a maintainer has forgotten: no longer to be remembered.
    forgotten: BTreeSet<SessionId>,
    gone: BTreeSet<SessionId>,
    /// The entry of the log that was the last one and is another one now, or none.
    log_gone: Option<u64>,
    faults: Vec<Error>,
}

impl History {
    /// Returns a history that is remembered in the cache directory and in this file.
    pub fn new(named: Option<PathBuf>) -> Self {
        Self { named, state: Mutex::default() }
    }

    /// Returns what was seen and is gone, as of the last listing.
    pub fn gone(&self) -> BTreeSet<SessionId> {
        lock(&self.state).gone.clone()
    }

    /// Returns the number of an entry of the log that was seen and is not there any more as it was.
    pub fn log_gone(&self) -> Option<u64> {
        lock(&self.state).log_gone
    }

    /// Returns whether all is there that was seen, as far as this process has looked.
    pub fn is_whole(&self) -> bool {
        let state = lock(&self.state);
        state.gone.is_empty() && state.log_gone.is_none()
    }

    /// Takes note that an entry of the log is not there any more as it was.
    pub fn miss_log_entry(&self, number: u64) {
        lock(&self.state).log_gone = Some(number);
    }

    /// Returns how far the log reached when this machine last looked.
    pub fn log(&self, repository: &Repository) -> Option<LogPosition> {
        let mut state = lock(&self.state);
        state.recall(repository, self.named.as_ref());
        state.seen.log.clone()
    }

    /// Remembers how far the log reaches.
    pub fn add_log(&self, repository: &Repository, position: LogPosition) {
        let mut state = lock(&self.state);
        state.recall(repository, self.named.as_ref());
        state.learn(repository, &Seen { log: Some(position), ..Seen::default() });
    }

    /// Returns the files that remember it, for messages.
    pub fn files(&self) -> Vec<PathBuf> {
        lock(&self.state).files.iter().flatten().map(|(file, _)| file.path().to_owned()).collect()
    }

    /// Returns what was wrong with these files since this was last asked.
    pub fn take_faults(&self) -> Vec<Error> {
        std::mem::take(&mut lock(&self.state).faults)
    }

    /// Reads what is remembered, if that was not done yet. To be called *before* what is there is listed: what another
    /// process makes and remembers in between would look as if it were gone.
    pub fn recall(&self, repository: &Repository) {
        lock(&self.state).recall(repository, self.named.as_ref());
    }

    /// Compares what is there with what was seen, and remembers it. Returns what is gone.
    ///
    /// `is_forgotten` tells of what is not there whether a maintainer has forgotten it.
    pub fn review(
        &self,
        repository: &Repository,
        sight: &Sight,
        is_forgotten: impl Fn(&SessionId) -> Result<bool>,
    ) -> Result<BTreeSet<SessionId>> {
        let mut state = lock(&self.state);
        state.forgotten.extend(&sight.trash);
        let is_missing = |id: &&SessionId| !sight.there.contains(id) && !sight.trash.contains(id);
        let missing: Vec<SessionId> = state.seen.snapshots.iter().filter(is_missing).copied().collect();
        state.gone.clear();
        for id in missing {
            if is_forgotten(&id)? {
                state.forgotten.insert(id);
            } else {
                state.gone.insert(id);
            }
        }
        state.learn(repository, &Seen { snapshots: sight.sound.clone(), log: None });
        Ok(state.gone.clone())
    }

    /// Remembers a snapshot that was just written, before anybody can take it away unseen.
    pub fn add(&self, repository: &Repository, id: SessionId) {
        let mut state = lock(&self.state);
        state.recall(repository, self.named.as_ref());
        state.learn(repository, &Seen { snapshots: BTreeSet::from([id]), log: None });
    }
}

impl State {
    /// Reads the files, once.
    fn recall(&mut self, repository: &Repository, named: Option<&PathBuf>) {
        if self.files.is_some() {
            return;
        }
        let mut files = Vec::new();
        if let Some(file) = MemoryFile::in_cache(repository, ObjectKind::History, NAME) {
            match read(&file, repository) {
                Ok(seen) => self.seen.take_in(seen),
                // It begins anew, which is worth knowing. A cache directory that cannot be used is not.
                Err(error) if error.is_damage() => self.faults.push(error),
                Err(_) => {}
            }
            files.push((file, false));
        }
        if let Some(path) = named {
            let file = MemoryFile::at(path.clone(), ObjectKind::History, NAME);
            // One that the user has made for it, and that is still empty, is as good as none.
            let read = if file.is_empty() { Ok(Seen::default()) } else { read(&file, repository) };
            match read {
                Ok(seen) => {
                    self.seen.take_in(seen);
                    files.push((file, true));
                }
                // Whatever it is, it is not ours to replace.
                Err(error) => self.faults.push(error),
            }
        }
        self.files = Some(files);
    }

    /// Takes in what is there, and writes the files if they do not say so yet.
    fn learn(&mut self, repository: &Repository, sound: &Seen) {
        let forgotten = &self.forgotten;
        self.seen.take_in(sound.clone());
        self.seen.snapshots.retain(|id| !forgotten.contains(id));
        if self.seen == self.saved {
            return;
        }
        for (file, is_named) in self.files.iter().flatten() {
            // Read again: another process may have seen more meanwhile.
            let known = read(file, repository).unwrap_or_default();
            let mut all = known.clone();
            all.take_in(self.seen.clone());
            all.snapshots.retain(|id| !forgotten.contains(id));
            if all == known {
                continue;
            }
            match file.write(repository, &history::encode(&all)) {
                // A file that is mounted read-only is there to be read.
                Err(error) if *is_named && !file.path().exists() => self.faults.push(error),
                // Without a memory it only sees less.
                _ => {}
            }
        }
        self.saved.clone_from(&self.seen);
    }
}

fn read(file: &MemoryFile, repository: &Repository) -> Result<Seen> {
    match file.read(repository)? {
        None => Ok(Seen::default()),
        Some(body) => history::decode(&body).map_err(|error| Error::damaged(file.path().display().to_string(), error)),
    }
}
