//! Reads one file or stream: what became of its chunks, and what can go wrong.

use std::io;
use std::sync::Mutex;

use crate::format::tree::ChunkRef;
use crate::id::ChunkId;
use crate::source::Interruption;
use crate::sync::lock;

/// The chunks of a file while they are being stored, in whatever order; of the latest attempt to read it.
#[derive(Default)]
pub struct Slots(Mutex<(u32, Vec<Option<ChunkRef>>)>);

impl Slots {
    /// Forgets what there is: the file is read anew, and chunks of earlier attempts no longer count.
    pub fn begin(&self, attempt: u32) {
        *lock(&self.0) = (attempt, Vec::new());
    }

    /// Notes a chunk of the file.
    pub fn put(&self, attempt: u32, at: usize, id: ChunkId, len: usize) {
        let mut guard = lock(&self.0);
        let (current, slots) = &mut *guard;
        if *current != attempt {
            return;
        }
        if slots.len() <= at {
            slots.resize(at + 1, None);
        }
        slots[at] = Some(ChunkRef { id, len: len as u32 });
    }

    /// Returns the chunks in order, or `None` if one is missing.
    pub fn take_chunks(&self) -> Option<Vec<ChunkRef>> {
        let mut guard = lock(&self.0);
        std::mem::take(&mut guard.1).into_iter().collect()
    }
}

/// What can go wrong while a file is read.
pub enum ReadError {
    /// The source failed: this file is lost to the snapshot.
    Source(io::Error),
    /// The file is to be read anew from its beginning.
    Changed,
    /// The repository failed, the source is out of reach, or the user interrupted: the whole backup ends.
    Fatal(crate::error::Error),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match error.downcast::<Interruption>() {
            Ok(Interruption::Changed) => Self::Changed,
            Ok(Interruption::Lost(error)) => Self::Fatal(error),
            Err(error) => Self::Source(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_an_attempt_that_was_given_up_do_not_count() {
        let slots = Slots::default();
        let id = |byte| ChunkId::from_bytes([byte; 32]);
        slots.begin(1);
        slots.put(1, 0, id(1), 10);
        slots.begin(2);
        slots.put(2, 0, id(2), 20);
        slots.put(1, 1, id(3), 30);
        assert_eq!(slots.take_chunks(), Some(vec![ChunkRef { id: id(2), len: 20 }]));
    }
}
