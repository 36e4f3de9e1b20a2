//! A session's life: begun, written in, finished, and ended as a snapshot or void. The only way to write to a repository.
//!
//! What must stay true:
//! - A session that was begun ends, however its work ends: one that is dropped is closed, so that no prune waits for it. Only
//!   a process that is killed, or a backend that is out of reach, leaves one open, until a prune ends it.
//! - A session of several processes ends only by the one that commits it: whoever has joined it leaves it open, because the
//!   work of the others hangs on it.
//! - After a wish to stop it ends in any case: if whoever works in it is held up, by a database, a disk or a command, a
//!   watch indexes what was uploaded and closes it in its place.
//! - What was uploaded is indexed before the session ends, also after a failure: the next one finds it.
//! - Once a commit was tried, nothing else is written under the session's name. The answer may have been lost, and where
//!   creates may overwrite a void marker would destroy the snapshot.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use jiff::Timestamp;

use crate::cancel::Cancel;
use crate::chunks::writer::{ChunkWriter, WatchedWriter, Written};
use crate::error::{Error, Result};
use crate::format::snapshot::SnapshotRecord;
use crate::hears::Hears;
use crate::id::{PackId, SessionId};
use crate::repository::Repository;
use crate::repository::session::Session;
use crate::repository::snapshots::Snapshot;

/// How long after a wish to stop the work in a session may go on before its watch ends the session.
const HELD_UP_AFTER: Duration = Duration::from_secs(5);
/// How often the watch looks whether somebody wants to stop.
const LOOK: Duration = Duration::from_millis(100);

/// A session that has begun, and what writes in it.
pub struct WritingSession {
    // Dropped in this order: what is still open is uploaded and indexed, then the session is closed.
    writer: ChunkWriter,
    guard: Guard,
}

/// A session whose chunks are all in the backend and indexed.
pub struct FinishedSession {
    guard: Guard,
}

/// Closes the session unless it has ended.
struct Guard {
    repository: Arc<Repository>,
    session: Arc<Session>,
    purpose: &'static str,
    writer: WatchedWriter,
    watch: Watch,
    is_joined: bool,
    is_over: bool,
}

/// The thread that ends a session whose work is held up.
struct Watch {
    /// Dropped to say that there is nothing more to watch.
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl WritingSession {
    /// Begins a session; `purpose` is for people who wonder what runs.
    ///
    /// Fails with [`crate::error::Error::Role`] if the key in use may not write.
    pub fn begin(repository: &Arc<Repository>, purpose: &'static str, hears: &Hears) -> Result<Self> {
        Self::begin_without(repository, purpose, [], hears)
    }

    /// Begins a session for which these packs count as absent: what they hold is stored anew.
    pub fn begin_without(
        repository: &Arc<Repository>,
        purpose: &'static str,
        disregarded: impl IntoIterator<Item = PackId>,
        hears: &Hears,
    ) -> Result<Self> {
        let mut session = Session::begin(repository, purpose)?;
        session.disregard(disregarded);
        Ok(Self::start(repository, session, (purpose, false), hears))
    }

    /// Takes part in the session of a plan, which another process has begun at that time, by its clock.
    ///
    /// Fails with [`crate::error::Error::Busy`] if the session has ended.
    pub fn join(
        repository: &Arc<Repository>,
        (id, started): (SessionId, Timestamp),
        purpose: &'static str,
        hears: &Hears,
    ) -> Result<Self> {
        let session = Session::join(repository, id, started)?;
        Ok(Self::start(repository, session, (purpose, true), hears))
    }

    fn start(
        repository: &Arc<Repository>,
        session: Session,
        (purpose, is_joined): (&'static str, bool),
        hears: &Hears,
    ) -> Self {
        session.bad_tombstones.note_to(hears.monitor.as_ref());
        if session.is_blind {
            hears.monitor.note(
                "A tombstone cannot be read, so nothing in the repository is relied on and everything is stored again; \
                 if no prune runs, remove that object from the storage",
            );
        }
        let session = Arc::new(session);
        let repository = Arc::clone(repository);
        let writer = ChunkWriter::new(Arc::clone(&repository), Arc::clone(&session), hears);
        let watch = Watch::start(Watched {
            repository: Arc::clone(&repository),
            session: Arc::clone(&session),
            writer: writer.watched(),
            cancel: hears.cancel.clone(),
            purpose,
            is_joined,
        });
        let guard = Guard { repository, session, purpose, writer: writer.watched(), watch, is_joined, is_over: false };
        Self { writer, guard }
    }

    /// Returns the session's id, which its snapshot will have.
    pub fn id(&self) -> SessionId {
        self.guard.session.id
    }

    /// Returns when it began, by our clock.
    pub fn started(&self) -> Timestamp {
        self.guard.session.started
    }

    /// Returns whether packs are marked or trust was taken back, so that no chunk may be relied on unasked.
    pub fn must_look_up(&self) -> bool {
        let Session { tombstoned, is_blind, is_wary, .. } = self.guard.session.as_ref();
        *is_blind || *is_wary || !tombstoned.is_empty()
    }

    /// Finds the last of these snapshots by somebody whose word may be built on.
    pub fn last_reliable<'a>(
        &self,
        snapshots: impl DoubleEndedIterator<Item = &'a Snapshot>,
    ) -> Result<Option<&'a Snapshot>> {
        for snapshot in snapshots.rev() {
            // A stranger's snapshot may say that a file is unchanged and name other content for it.
            if self.guard.session.relies_on(&self.guard.repository, &snapshot.signer)? {
                return Ok(Some(snapshot));
            }
        }
        Ok(None)
    }

    /// Returns what stores chunks.
    pub fn writer(&self) -> &ChunkWriter {
        &self.writer
    }

    /// Uploads and indexes what is still open.
    pub fn finish(self) -> Result<(FinishedSession, Written)> {
        let Self { writer, guard } = self;
        guard.claim()?;
        let written = writer.finish()?;
        Ok((FinishedSession { guard }, written))
    }
}

impl FinishedSession {
    /// Returns the session's id.
    pub fn id(&self) -> SessionId {
        self.guard.session.id
    }

    /// Leaves the session to the other processes that write in it. One of them commits it, or a prune ends it.
    pub fn leave_open(mut self) {
        self.guard.is_over = true;
    }

    /// Commits the snapshot under the session's name: after this it is listed, before this it is not.
    ///
    /// Fails with [`crate::error::Error::Busy`] if a prune declared the session void meanwhile.
    pub fn commit(mut self, record: SnapshotRecord) -> Result<SessionId> {
        self.guard.is_over = true;
        self.guard.session.commit(&self.guard.repository, record)?;
        Ok(self.guard.session.id)
    }

    /// Ends the session without a snapshot. What it wrote stays in the index.
    ///
    /// Fails with [`crate::error::Error::Busy`] if it was declared void meanwhile: then nothing that it wrote may be relied
    /// on.
    pub fn close(mut self, reason: &str) -> Result<()> {
        self.guard.is_over = true;
        self.guard.session.close(&self.guard.repository, reason)
    }
}

impl Guard {
    /// Fails if the watch has ended the session.
    fn claim(&self) -> Result<()> {
        if self.writer.claim_end_of_work() { Ok(()) } else { Err(Error::Interrupted) }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.is_over && self.claim().is_ok() {
            // Without an answer the session stays open until a prune ends it.
            if !self.is_joined {
                let _ = self.session.close(&self.repository, &format!("the {} failed", self.purpose));
            }
            self.writer.tell_kept(self.purpose);
        }
        self.watch.end();
    }
}

/// What a watch needs to end a session.
struct Watched {
    repository: Arc<Repository>,
    session: Arc<Session>,
    writer: WatchedWriter,
    cancel: Cancel,
    purpose: &'static str,
    is_joined: bool,
}

impl Watch {
    fn start(watched: Watched) -> Self {
        let (end, ended) = bounded(0);
        let thread = std::thread::spawn(move || watched.wait(&ended));
        Self { end: Some(end), thread: Some(thread) }
    }

    /// Ends the thread; if it is ending the session, after that.
    fn end(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Watched {
    fn wait(&self, ended: &Receiver<()>) {
        while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            let is_held_up = self.cancel.raised_for().is_some_and(|time| time > HELD_UP_AFTER);
            if is_held_up && self.writer.claim_end() {
                // Nobody hears of it any more if this fails. Then the session stays open until a prune ends it.
                let _ = self.writer.stop();
                if !self.is_joined {
                    let _ = self.session.close(&self.repository, &format!("the {} was held up", self.purpose));
                }
                self.writer.tell_kept(self.purpose);
                return;
            }
        }
    }
}
